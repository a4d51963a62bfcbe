/* SPDX-License-Identifier: Apache-2.0
 *
 * From ids to text. A byte-level token is its bytes. Another one goes through the steps of the
 * file's decoder: Replace and ByteFallback work on each token, so their result is kept from
 * loading on; Strip works on the whole once Fuse has joined it. The bytes that ByteFallback gives
 * are left as they are where they are no UTF-8, for the writer of the text to deal with.
 */
#include "common/text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- decoding ---- */

static lb_span text_of(const lb_tokenizer *tokenizer, uint32_t id)
{
    const lb_decoder *decoder = &tokenizer->decoder;
    if (decoder->ends == NULL || id >= tokenizer->vocab.size)
        return lb_vocab_text(&tokenizer->vocab, id);
    uint32_t start = id == 0 ? 0 : decoder->ends[id - 1];
    return (lb_span){(const char *)decoder->pool.data + start, decoder->ends[id] - start};
}

static void strip(const lb_strip *with, lb_buf *out, size_t from)
{
    size_t width = with->content_length, start = from, end = out->length;
    for (uint32_t i = 0; i < with->start && end - start >= width; i++) {
        if (memcmp(out->data + start, with->content, width) != 0)
            break;
        start += width;
    }
    for (uint32_t i = 0; i < with->stop && end - start >= width; i++) {
        if (memcmp(out->data + end - width, with->content, width) != 0)
            break;
        end -= width;
    }
    if (end - start == out->length - from)
        return;
    memmove(out->data + from, out->data + start, end - start);
    out->length = from + (end - start);
    out->data[out->length] = '\0';
}

void lb_tokenizer_piece(const lb_tokenizer *tokenizer, uint32_t id, lb_buf *out)
{
    lb_span text = text_of(tokenizer, id);
    lb_buf_append(out, text.data, text.length);
}

void lb_tokenizer_decode(const lb_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                         bool skip_special, lb_buf *out)
{
    size_t from = out->length;
    for (size_t i = 0; i < count; i++)
        if (!skip_special || !lb_tokenizer_is_special(tokenizer, ids[i]))
            lb_tokenizer_piece(tokenizer, ids[i], out);
    for (size_t i = 0; out->status == LB_OK && i < tokenizer->decoder.strip_count; i++)
        strip(&tokenizer->decoder.strips[i], out, from);
}

/* ---- loading ---- */

static lb_status load_strip(const lb_part *part, lb_err *err)
{
    lb_decoder *decoder = &part->tokenizer->decoder;
    const char *content = NULL;
    lb_strip strip = {0};
    size_t bytes = 0;
    lb_status status = lb_json_need_string(part->node, part->where, "content", &content, err);
    if (status == LB_OK)
        status = lb_json_need_u32(part->node, part->where, "start", 0, LB_STRIP_CHARS_MAX,
                                  &strip.start, err);
    if (status == LB_OK)
        status = lb_json_need_u32(part->node, part->where, "stop", 0, LB_STRIP_CHARS_MAX,
                                  &strip.stop, err);
    if (status != LB_OK)
        return status;
    lb_span text = {content, lb_json_string_length(lb_json_get(part->node, "content"))};
    if (text.length > 0)
        (void)lb_utf8_at(text, 0, &bytes);
    if (text.length == 0 || bytes != text.length || bytes > sizeof strip.content)
        return lb_fail(err, LB_EDATA, part->where, "the content of Strip is not one character");
    if (!decoder->fuse)
        return lb_fail(err, LB_EUNSUPPORTED, part->where, "Strip before Fuse is not implemented");
    if (decoder->strip_count == LB_STRIPS_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, part->where, "more than %u Strip", LB_STRIPS_MAX);
    memcpy(strip.content, text.data, text.length);
    strip.content_length = text.length;
    decoder->strips[decoder->strip_count++] = strip;
    return LB_OK;
}

static lb_status load_replace(const lb_part *part, lb_err *err)
{
    lb_decoder *decoder = &part->tokenizer->decoder;
    if (decoder->byte_fallback || decoder->fuse)
        return lb_fail(err, LB_EUNSUPPORTED, part->where,
                       "Replace after ByteFallback or Fuse is not implemented");
    if (decoder->replace_count == LB_NORMALS_MAX)
        return lb_fail(err, LB_EUNSUPPORTED, part->where, "more than %u Replace", LB_NORMALS_MAX);
    return lb_part_replace(part, &decoder->replaces[decoder->replace_count++], err);
}

static lb_status load_spelt(const lb_part *part, const char *type, lb_err *err)
{
    lb_decoder *decoder = &part->tokenizer->decoder;
    if (strcmp(type, "Sequence") == 0)
        return lb_part_sequence(part, "decoders", load_spelt, err);
    if (strcmp(type, "Replace") == 0)
        return load_replace(part, err);
    if (strcmp(type, "Strip") == 0)
        return load_strip(part, err);
    if (strcmp(type, "Fuse") == 0) {
        decoder->fuse = true;
        return LB_OK;
    }
    if (strcmp(type, "ByteFallback") != 0)
        return lb_part_unknown(part, type, err);
    if (decoder->fuse)
        return lb_fail(err, LB_EUNSUPPORTED, part->where,
                       "ByteFallback after Fuse is not implemented");
    decoder->byte_fallback = true;
    return LB_OK;
}

static lb_status load_byte_level(const lb_part *part, const char *type, lb_err *err)
{
    if (strcmp(type, "Sequence") == 0)
        return lb_part_sequence(part, "decoders", load_byte_level, err);
    return strcmp(type, "ByteLevel") == 0 ? LB_OK : lb_part_unknown(part, type, err);
}

lb_status lb_load_decoder(lb_tokenizer *tokenizer, const lb_json *node, lb_err *err)
{
    lb_part part = {.tokenizer = tokenizer, .node = node, .where = "decoder"};
    bool absent = node == NULL || lb_json_is_null(node);
    if (absent && !tokenizer->byte_level)
        return lb_fail(err, LB_EUNSUPPORTED, "decoder", "is missing");
    if (absent)
        return LB_OK;
    return lb_part_load(&part, tokenizer->byte_level ? load_byte_level : load_spelt, err);
}

/* ---- the text of each token ---- */

static int hex_digit(char c)
{
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that "<0x0A>" stands for, -1 for another text. */
static int byte_of(lb_span text)
{
    if (text.length != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>')
        return -1;
    int high = hex_digit(text.data[3]), low = hex_digit(text.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

static lb_status add_text(lb_decoder *decoder, lb_span text, lb_rewrite buffers[2], lb_err *err)
{
    lb_frame frame = {.data = text.data, .length = text.length};
    lb_status status = LB_OK;
    unsigned next = 0;
    for (size_t i = 0; status == LB_OK && i < decoder->replace_count; i++) {
        const lb_normal *step = &decoder->replaces[i];
        lb_rewrite_clear(&buffers[next]);
        if (!lb_rewrite_replace(&buffers[next], &frame, (lb_span){frame.data, frame.length},
                                (lb_span){step->pattern, step->pattern_length},
                                (lb_span){step->content, step->content_length}))
            continue;
        status = lb_rewrite_frame(&buffers[next], &frame, err);
        next = 1 - next;
    }
    int byte = byte_of((lb_span){frame.data, frame.length});
    if (decoder->byte_fallback && byte >= 0)
        lb_buf_append(&decoder->pool, &(uint8_t){(uint8_t)byte}, 1);
    else
        lb_buf_append(&decoder->pool, frame.data, frame.length);
    return status;
}

/* Item of the set of normalised tokens by id, plus 1; NULL: out of memory. */
static uint32_t *index_normalized(const lb_tokenizer *tokenizer)
{
    const lb_added_set *set = &tokenizer->normalized;
    uint32_t *items = calloc((size_t)tokenizer->vocab.size + 1, sizeof *items);
    for (uint32_t i = 0; items != NULL && i < set->count; i++)
        items[set->items[i].id] = i + 1;
    return items;
}

/* An added token that is looked for in normalised text is given back so, too. */
static lb_status add_texts(lb_tokenizer *tokenizer, const uint32_t *normalized,
                           lb_rewrite buffers[2], lb_err *err)
{
    lb_decoder *decoder = &tokenizer->decoder;
    lb_status status = LB_OK;
    decoder->pool.limit = LB_TOKENIZER_FILE_MAX;
    for (uint32_t id = 0; status == LB_OK && id < tokenizer->vocab.size; id++) {
        lb_span text = lb_vocab_text(&tokenizer->vocab, id);
        if (normalized[id] > 0) {
            const lb_added *added = &tokenizer->normalized.items[normalized[id] - 1];
            text = (lb_span){added->text, added->length};
        }
        status = add_text(decoder, text, buffers, err);
        decoder->ends[id] = (uint32_t)decoder->pool.length;
    }
    if (status == LB_OK && decoder->pool.status != LB_OK)
        status = lb_fail(err, decoder->pool.status, "decoder", "the texts of tokens are too long");
    return status;
}

lb_status lb_decoder_finish(lb_tokenizer *tokenizer, lb_err *err)
{
    lb_decoder *decoder = &tokenizer->decoder;
    lb_rewrite buffers[2] = {0};
    if (tokenizer->byte_level)
        return LB_OK;
    uint32_t *normalized = index_normalized(tokenizer);
    decoder->ends = calloc((size_t)tokenizer->vocab.size + 1, sizeof *decoder->ends);
    lb_status status = normalized == NULL || decoder->ends == NULL
        ? lb_fail(err, LB_ENOMEM, "decoder", "out of memory for the texts of tokens")
        : add_texts(tokenizer, normalized, buffers, err);
    free(normalized);
    lb_rewrite_free(&buffers[0]);
    lb_rewrite_free(&buffers[1]);
    return status;
}

void lb_decoder_free(lb_decoder *decoder)
{
    for (size_t i = 0; i < LB_NORMALS_MAX; i++) {
        free(decoder->replaces[i].pattern);
        free(decoder->replaces[i].content);
    }
    lb_buf_free(&decoder->pool);
    free(decoder->ends);
}
