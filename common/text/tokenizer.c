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

/* ---- encoding ---- */

void lb_encoder_free(lb_encoder *encoder)
{
    lb_matcher_free(encoder->matcher);
    lb_buf_free(&encoder->prefixed);
    free(encoder->symbols);
    free(encoder->heap);
}

static lb_status push(lb_encoder *encoder, uint32_t id, lb_err *err)
{
    if (!lb_tokens_push(encoder->out, id))
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for tokens");
    return LB_OK;
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
static lb_status encode_between(lb_encoder *encoder, lb_span text, lb_err *err)
{
    const lb_tokenizer *tokenizer = encoder->tokenizer;
    lb_buf form = {0};
    bool changed = false;
    lb_status status = LB_OK;
    if (text.length == 0)
        return LB_OK;
    size_t origin = (size_t)(text.data - encoder->raw);
    if (tokenizer->nfc)
        status = lb_text_nfc(text, &form, &changed, err);
    /* Ranges are of the raw text, so they say nothing about a text that was normalised. */
    if (status == LB_OK && changed && has_special(&tokenizer->normalized) &&
        lb_ranges_meet(encoder->content, origin, origin + text.length))
        status = lb_fail(err, LB_EUNSUPPORTED, "text", "has characters that are normalised, and "
                         "the tokenizer looks for special tokens only after that");
    if (changed)
        text = (lb_span){(const char *)form.data, form.length};
    lb_cutter cutter = {.set = &tokenizer->normalized, .text = text, .special = encoder->special,
                        .content = encoder->content, .origin = origin};
    lb_span before;
    uint32_t id;
    while (status == LB_OK && lb_cutter_next(&cutter, &before, &id)) {
        status = lb_pretokenize(encoder, before, err);
        if (status == LB_OK && id != LB_NO_TOKEN)
            status = push(encoder, id, err);
    }
    lb_buf_free(&form);
    return status;
}

static lb_status encode(lb_encoder *encoder, lb_span text, bool add_bos, lb_err *err)
{
    const lb_tokenizer *tokenizer = encoder->tokenizer;
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && add_bos && i < tokenizer->bos_count; i++)
        status = push(encoder, tokenizer->bos[i], err);
    lb_cutter cutter = {.set = &tokenizer->raw, .text = text, .special = encoder->special,
                        .content = encoder->content};
    lb_span before;
    uint32_t id;
    while (status == LB_OK && lb_cutter_next(&cutter, &before, &id)) {
        status = encode_between(encoder, before, err);
        if (status == LB_OK && id != LB_NO_TOKEN)
            status = push(encoder, id, err);
    }
    return status;
}

static lb_status encode_text(const lb_tokenizer *tokenizer, lb_span text, bool special,
                             lb_ranges content, bool add_bos, lb_tokens *out, lb_err *err)
{
    if (text.length > LB_TOKENIZER_TEXT_MAX)
        return lb_fail(err, LB_ETOOBIG, "text", "has %zu bytes; the limit is %u", text.length,
                       LB_TOKENIZER_TEXT_MAX);
    size_t valid = lb_utf8_valid_prefix(text.data, text.length);
    if (valid < text.length)
        return lb_fail(err, LB_EDATA, "text", "is not UTF-8 at byte %zu", valid);
    size_t count = out->count;
    if (text.length == 0)
        text.data = "";
    lb_encoder encoder = {.tokenizer = tokenizer, .special = special, .content = content,
                          .raw = text.data, .out = out};
    lb_status status = encode(&encoder, text, add_bos, err);
    if (status != LB_OK)
        out->count = count;
    lb_encoder_free(&encoder);
    return status;
}

lb_status lb_tokenizer_encode(const lb_tokenizer *tokenizer, const char *text, size_t length,
                              bool special, bool add_bos, lb_tokens *out, lb_err *err)
{
    return encode_text(tokenizer, (lb_span){text, length}, special, (lb_ranges){0}, add_bos, out,
                       err);
}

lb_status lb_tokenizer_encode_chat(const lb_tokenizer *tokenizer, const char *text, size_t length,
                                   const lb_range *content, size_t content_count, lb_tokens *out,
                                   lb_err *err)
{
    return encode_text(tokenizer, (lb_span){text, length}, true,
                       (lb_ranges){content, content_count}, false, out, err);
}

/* ---- decoding and queries ---- */

void lb_tokenizer_decode(const lb_tokenizer *tokenizer, const uint32_t *ids, size_t count,
                         bool skip_special, lb_buf *out)
{
    for (size_t i = 0; i < count; i++) {
        if (skip_special && lb_tokenizer_is_special(tokenizer, ids[i]))
            continue;
        lb_span text = lb_vocab_text(&tokenizer->vocab, ids[i]);
        lb_buf_append(out, text.data, text.length);
    }
}

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
