/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/tokenizer.h"

#include "common/text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>

#define TOKENS_MIN 64u

/* ---- lists of tokens ---- */

void lb_tokens_free(lb_tokens *tokens)
{
    if (tokens == NULL)
        return;
    free(tokens->ids);
    *tokens = (lb_tokens){0};
}

bool lb_tokens_push(lb_tokens *tokens, uint32_t id)
{
    if (tokens->count == tokens->capacity) {
        size_t capacity = tokens->capacity == 0 ? TOKENS_MIN : tokens->capacity;
        if (capacity > SIZE_MAX / 2 / sizeof *tokens->ids)
            return false;
        capacity *= 2;
        uint32_t *ids = realloc(tokens->ids, capacity * sizeof *ids);
        if (ids == NULL)
            return false;
        tokens->ids = ids;
        tokens->capacity = capacity;
    }
    tokens->ids[tokens->count++] = id;
    return true;
}

/* ---- offsets ---- */

void lb_offsets_free(lb_offsets *offsets)
{
    if (offsets == NULL)
        return;
    free(offsets->items);
    *offsets = (lb_offsets){0};
}

static bool push_offset(lb_offsets *offsets, lb_offset offset)
{
    if (offsets->count == offsets->capacity) {
        size_t capacity = offsets->capacity == 0 ? TOKENS_MIN : offsets->capacity;
        if (capacity > SIZE_MAX / 2 / sizeof *offsets->items)
            return false;
        capacity *= 2;
        lb_offset *items = realloc(offsets->items, capacity * sizeof *items);
        if (items == NULL)
            return false;
        offsets->items = items;
        offsets->capacity = capacity;
    }
    offsets->items[offsets->count++] = offset;
    return true;
}

/* ---- encoding ---- */

void lb_encoder_free(lb_encoder *encoder)
{
    lb_matcher_free(encoder->matcher);
    lb_rewrite_free(&encoder->normal[0]);
    lb_rewrite_free(&encoder->normal[1]);
    lb_rewrite_free(&encoder->pre);
    free(encoder->symbols);
    free(encoder->heap);
    free(encoder->cache);
}

static lb_status push(lb_encoder *encoder, uint32_t id, lb_offset offset, lb_err *err)
{
    if (!lb_tokens_push(encoder->out, id) ||
        (encoder->offsets != NULL && !push_offset(encoder->offsets, offset)))
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for tokens");
    return LB_OK;
}

lb_status lb_encoder_push(lb_encoder *encoder, uint32_t id, const char *start, size_t length,
                          lb_err *err)
{
    if (encoder->offsets == NULL)
        return push(encoder, id, (lb_offset){0}, err);
    lb_offset first = lb_frame_offset(&encoder->frame, start);
    lb_offset last = lb_frame_offset(&encoder->frame, start + length - 1);
    return push(encoder, id, (lb_offset){first.start, last.end}, err);
}

static bool has_special(const lb_added_set *set)
{
    for (size_t i = 0; i < set->count; i++) {
        if (set->items[i].special)
            return true;
    }
    return false;
}

/* What lies between the tokens that are looked for in raw text. */
static lb_status encode_between(lb_encoder *encoder, lb_frame frame, lb_err *err)
{
    const lb_tokenizer *tokenizer = encoder->tokenizer;
    size_t length = frame.length, origin = frame.origin;
    lb_status status = lb_normalize(tokenizer, encoder->normal, &frame, err);
    /* Ranges are of the raw text, so they say nothing about a text that was normalised. */
    if (status == LB_OK && frame.data != encoder->raw + origin &&
        has_special(&tokenizer->normalized) &&
        lb_ranges_meet(encoder->content, origin, origin + length))
        status = lb_fail(err, LB_EUNSUPPORTED, "text", "has characters that are normalised, and "
                         "the tokenizer looks for special tokens only after that");
    if (status != LB_OK || frame.length == 0)
        return status;
    encoder->frame = frame;
    lb_span text = {frame.data, frame.length}, before;
    lb_cutter cutter = {.set = &tokenizer->normalized, .text = text, .special = encoder->special,
                        .content = encoder->content, .origin = origin};
    uint32_t id;
    while (status == LB_OK && lb_cutter_next(&cutter, &before, &id)) {
        const char *end = before.data + before.length;
        status = lb_pretokenize(encoder, before, err);
        if (status == LB_OK && id != LB_NO_TOKEN)
            status = lb_encoder_push(encoder, id, end,
                                     (size_t)(text.data + cutter.offset - end), err);
    }
    return status;
}

static lb_status encode(lb_encoder *encoder, lb_span text, bool add_bos, lb_err *err)
{
    const lb_tokenizer *tokenizer = encoder->tokenizer;
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && add_bos && i < tokenizer->bos_count; i++)
        status = push(encoder, tokenizer->bos[i], (lb_offset){0}, err);
    lb_cutter cutter = {.set = &tokenizer->raw, .text = text, .special = encoder->special,
                        .content = encoder->content};
    lb_span before;
    uint32_t id;
    while (status == LB_OK && lb_cutter_next(&cutter, &before, &id)) {
        size_t start = (size_t)(before.data - text.data), end = start + before.length;
        status = encode_between(encoder, (lb_frame){.data = before.data, .length = before.length,
                                                    .origin = start}, err);
        if (status == LB_OK && id != LB_NO_TOKEN)
            status = push(encoder, id, (lb_offset){(uint32_t)end, (uint32_t)cutter.offset}, err);
    }
    return status;
}

static lb_status encode_text(lb_encoder *encoder, lb_span text, bool add_bos, lb_err *err)
{
    lb_tokens *out = encoder->out;
    lb_offsets *offsets = encoder->offsets;
    if (text.length > LB_TOKENIZER_TEXT_MAX)
        return lb_fail(err, LB_ETOOBIG, "text", "has %zu bytes; the limit is %u", text.length,
                       LB_TOKENIZER_TEXT_MAX);
    size_t valid = lb_utf8_valid_prefix(text.data, text.length);
    if (valid < text.length)
        return lb_fail(err, LB_EDATA, "text", "is not UTF-8 at byte %zu", valid);
    size_t count = out->count, offset_count = offsets == NULL ? 0 : offsets->count;
    if (text.length == 0)
        text.data = "";
    encoder->raw = text.data;
    encoder->normal[0].mapped = encoder->normal[1].mapped = offsets != NULL;
    encoder->pre.mapped = offsets != NULL;
    lb_cache_open(encoder, text.length);
    lb_status status = encode(encoder, text, add_bos, err);
    if (status != LB_OK) {
        out->count = count;
        if (offsets != NULL)
            offsets->count = offset_count;
    }
    lb_encoder_free(encoder);
    return status;
}

lb_status lb_tokenizer_encode_offsets(const lb_tokenizer *tokenizer, const char *text,
                                      size_t length, unsigned flags, lb_tokens *out,
                                      lb_offsets *offsets, lb_err *err)
{
    lb_encoder encoder = {.tokenizer = tokenizer, .special = (flags & LB_ENCODE_SPECIAL) != 0,
                          .out = out, .offsets = offsets};
    return encode_text(&encoder, (lb_span){text, length}, (flags & LB_ENCODE_BOS) != 0, err);
}

lb_status lb_tokenizer_encode(const lb_tokenizer *tokenizer, const char *text, size_t length,
                              bool special, bool add_bos, lb_tokens *out, lb_err *err)
{
    lb_encoder encoder = {.tokenizer = tokenizer, .special = special, .out = out};
    return encode_text(&encoder, (lb_span){text, length}, add_bos, err);
}

lb_status lb_tokenizer_encode_chat(const lb_tokenizer *tokenizer, const char *text, size_t length,
                                   const lb_range *content, size_t content_count, lb_tokens *out,
                                   lb_err *err)
{
    lb_encoder encoder = {.tokenizer = tokenizer, .special = true,
                          .content = {content, content_count}, .out = out};
    return encode_text(&encoder, (lb_span){text, length}, false, err);
}

/* ---- queries ---- */

size_t lb_tokenizer_size(const lb_tokenizer *tokenizer)
{
    return tokenizer->vocab.size;
}

bool lb_tokenizer_has_text(const lb_tokenizer *tokenizer, uint32_t id)
{
    return lb_vocab_has(&tokenizer->vocab, id);
}

bool lb_tokenizer_is_special(const lb_tokenizer *tokenizer, uint32_t id)
{
    return lb_vocab_has(&tokenizer->vocab, id) &&
           (tokenizer->vocab.tokens[id].flags & LB_TOKEN_SPECIAL) != 0;
}

static bool find_added(const lb_vocab *vocab, const lb_added_set *set, lb_span text, uint32_t *id)
{
    for (size_t i = 0; i < set->count; i++) {
        lb_span added = lb_vocab_text(vocab, set->items[i].id);
        if (added.length == text.length && memcmp(added.data, text.data, text.length) == 0) {
            *id = set->items[i].id;
            return true;
        }
    }
    return false;
}

bool lb_tokenizer_find(const lb_tokenizer *tokenizer, const char *token, uint32_t *id)
{
    lb_span text = {token, strlen(token)};
    return find_added(&tokenizer->vocab, &tokenizer->raw, text, id) ||
           find_added(&tokenizer->vocab, &tokenizer->normalized, text, id) ||
           lb_vocab_find_spelling(&tokenizer->vocab, text, id);
}

const char *lb_tokenizer_digest(const lb_tokenizer *tokenizer)
{
    return tokenizer->digest;
}
