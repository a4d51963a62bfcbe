/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading tokenizer.json: the model here, the parts around it in tokenizer_parts.c.
 */
#include "common/text/tokenizer_impl.h"

#include "common/io/file.h"
#include "common/io/gguf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHERE_MAX 64

/* ---- model.vocab ---- */

static lb_status add_token(void *arg, const char *key, const lb_json *value)
{
    struct {
        lb_vocab *vocab;
        lb_err *err;
    } *state = arg;
    char bytes[LB_TOKEN_BYTES_MAX];
    size_t length = 0;
    lb_span spelling = {key, strlen(key)};
    bool spelt = state->vocab->spelt;
    int64_t id = lb_json_is_integer(value) ? lb_json_integer(value) : -1;
    if (id < 0 || id >= LB_TOKENIZER_IDS_MAX)
        return lb_fail(state->err, LB_EDATA, "model.vocab",
                       "the id of %.40s is not an integer from 0 to %u", key,
                       LB_TOKENIZER_IDS_MAX - 1);
    if (!spelt && lb_alphabet_decode(spelling, bytes, &length))
        return lb_vocab_add(state->vocab, (uint32_t)id, (lb_span){bytes, length}, 0, state->err);
    if (spelling.length > LB_TOKEN_BYTES_MAX)
        return lb_fail(state->err, LB_ETOOBIG, "model.vocab",
                       "token %u is longer than the limit of %u bytes", (uint32_t)id,
                       LB_TOKEN_BYTES_MAX);
    return lb_vocab_add(state->vocab, (uint32_t)id, spelling, spelt ? 0 : LB_TOKEN_OUTSIDE,
                        state->err);
}

static lb_status load_vocab(lb_tokenizer *tokenizer, const lb_json *model, lb_err *err)
{
    const lb_json *vocab = NULL;
    struct {
        lb_vocab *vocab;
        lb_err *err;
    } state = {&tokenizer->vocab, err};
    lb_status status = lb_json_need_object(model, "model", "vocab", &vocab, err);
    if (status != LB_OK)
        return status;
    if (lb_json_object_size(vocab) > LB_TOKENIZER_IDS_MAX)
        return lb_fail(err, LB_ETOOBIG, "model.vocab", "has %zu tokens; at most %u are supported",
                       lb_json_object_size(vocab), LB_TOKENIZER_IDS_MAX);
    tokenizer->vocab.spelt = !tokenizer->byte_level;
    status = lb_vocab_init(&tokenizer->vocab, lb_json_object_size(vocab), err);
    if (status != LB_OK)
        return status;
    return lb_json_each(vocab, add_token, &state);
}

/* ---- model.merges ---- */

/* "a b", where a space ends the first since none can be inside; or ["a", "b"]. */
static bool split_merge(const lb_json *node, lb_span *left, lb_span *right)
{
    if (lb_json_is_string(node)) {
        const char *text = lb_json_string(node);
        size_t length = lb_json_string_length(node);
        const char *space = memchr(text, ' ', length);
        if (space == NULL)
            return false;
        *left = (lb_span){text, (size_t)(space - text)};
        *right = (lb_span){space + 1, length - left->length - 1};
        return memchr(right->data, ' ', right->length) == NULL;
    }
    if (!lb_json_is_array(node) || lb_json_array_size(node) != 2)
        return false;
    const lb_json *a = lb_json_at(node, 0), *b = lb_json_at(node, 1);
    if (!lb_json_is_string(a) || !lb_json_is_string(b))
        return false;
    *left = (lb_span){lb_json_string(a), lb_json_string_length(a)};
    *right = (lb_span){lb_json_string(b), lb_json_string_length(b)};
    return true;
}

bool lb_merge_resolve(const lb_vocab *vocab, lb_span left, lb_span right, lb_merge *merge)
{
    char first[LB_TOKEN_BYTES_MAX], second[LB_TOKEN_BYTES_MAX], both[2 * LB_TOKEN_BYTES_MAX];
    size_t a = 0, b = 0;
    if (vocab->spelt) {
        if (left.length > LB_TOKEN_BYTES_MAX || right.length > LB_TOKEN_BYTES_MAX)
            return false;
        a = left.length;
        b = right.length;
        memcpy(both, left.data, a);
        memcpy(both + a, right.data, b);
    } else {
        if (!lb_alphabet_decode(left, first, &a) || !lb_alphabet_decode(right, second, &b))
            return false;
        memcpy(both, first, a);
        memcpy(both + a, second, b);
    }
    return lb_vocab_find(vocab, (lb_span){both, a}, &merge->left) &&
           lb_vocab_find(vocab, (lb_span){both + a, b}, &merge->right) &&
           lb_vocab_find(vocab, (lb_span){both, a + b}, &merge->id);
}

static lb_status add_merge(lb_tokenizer *tokenizer, const lb_json *node, size_t index, lb_err *err)
{
    static const char header[] = "#version";
    lb_merge merge = {.rank = (uint32_t)index};
    lb_span left = {0}, right = {0};
    char where[WHERE_MAX];
    snprintf(where, sizeof where, "model.merges[%zu]", index);
    const char *text = lb_json_string(node);
    if (text != NULL && strncmp(text, header, strlen(header)) == 0)
        return LB_OK;  /* a first line that comes from merges.txt */
    if (!split_merge(node, &left, &right))
        return lb_fail(err, LB_EDATA, where, "is neither \"a b\" nor [\"a\", \"b\"]");
    if (!lb_merge_resolve(&tokenizer->vocab, left, right, &merge))
        return lb_fail(err, LB_EDATA, where, "has a side, or a result, that is not in model.vocab");
    return lb_merges_put(&tokenizer->merges, merge, err);
}

static lb_status load_merges(lb_tokenizer *tokenizer, const lb_json *model, lb_err *err)
{
    const lb_json *merges = NULL;
    lb_status status = lb_json_need_array(model, "model", "merges", &merges, err);
    if (status != LB_OK)
        return status;
    size_t count = lb_json_array_size(merges);
    if (count > LB_TOKENIZER_MERGES_MAX)
        return lb_fail(err, LB_ETOOBIG, "model.merges", "has %zu entries; at most %u are supported",
                       count, LB_TOKENIZER_MERGES_MAX);
    status = lb_merges_init(&tokenizer->merges, count, err);
    for (size_t i = 0; status == LB_OK && i < count; i++)
        status = add_merge(tokenizer, lb_json_at(merges, i), i, err);
    return status;
}

/* ---- model ---- */

/* Bytes that no UTF-8 text holds need no token: 0xC0, 0xC1 and 0xF5 onwards. */
static bool has_all_bytes(const lb_vocab *vocab)
{
    for (unsigned byte = 0; byte < LB_BYTE_VALUES; byte++)
        if (vocab->byte_ids[byte] == LB_NO_TOKEN && byte != 0xC0 && byte != 0xC1 && byte < 0xF5)
            return false;
    return true;
}

static lb_status refuse_affix(const lb_json *model, const char *key, lb_err *err)
{
    const char *affix = "";
    char where[WHERE_MAX];
    lb_status status = lb_json_opt_string(model, "model", key, &affix, err);
    if (status != LB_OK || affix[0] == '\0')
        return status;
    snprintf(where, sizeof where, "model.%s", key);
    return lb_fail(err, LB_EUNSUPPORTED, where, "is not implemented");
}

/* Where each byte has its token nothing is ever unknown, and the options for it do nothing. */
static lb_status set_unknown(lb_tokenizer *tokenizer, const char *unknown, lb_err *err)
{
    tokenizer->unknown = LB_NO_TOKEN;
    if (tokenizer->byte_level && has_all_bytes(&tokenizer->vocab)) {
        tokenizer->byte_fallback = tokenizer->fuse_unk = false;
        return LB_OK;
    }
    if (tokenizer->byte_level && tokenizer->byte_fallback)
        return lb_fail(err, LB_EUNSUPPORTED, "model.byte_fallback",
                       "is not implemented where model.vocab lacks some bytes of ByteLevel");
    if (unknown == NULL)
        return LB_OK;
    if (!lb_vocab_find_spelling(&tokenizer->vocab, (lb_span){unknown, strlen(unknown)},
                                &tokenizer->unknown))
        return lb_fail(err, LB_EDATA, "model.unk_token", "%.40s is not in model.vocab", unknown);
    return LB_OK;
}

static lb_status check_options(lb_tokenizer *tokenizer, const lb_json *model, lb_err *err)
{
    const char *unknown = NULL;
    double dropout = 0;
    lb_status status = lb_json_opt_bool(model, "model", "ignore_merges", &tokenizer->ignore_merges,
                                        err);
    if (status == LB_OK)
        status = lb_json_opt_bool(model, "model", "byte_fallback", &tokenizer->byte_fallback,
                                  err);
    if (status == LB_OK)
        status = lb_json_opt_bool(model, "model", "fuse_unk", &tokenizer->fuse_unk, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(model, "model", "dropout", 0, 1, &dropout, err);
    if (status == LB_OK)
        status = refuse_affix(model, "continuing_subword_prefix", err);
    if (status == LB_OK)
        status = refuse_affix(model, "end_of_word_suffix", err);
    if (status == LB_OK)
        status = lb_json_opt_string(model, "model", "unk_token", &unknown, err);
    if (status != LB_OK)
        return status;
    if (dropout > 0)
        return lb_fail(err, LB_EUNSUPPORTED, "model.dropout", "is not implemented");
    return set_unknown(tokenizer, unknown, err);
}

static lb_status load_model(lb_tokenizer *tokenizer, const lb_json *root, lb_err *err)
{
    const lb_json *model = NULL;
    const char *type = "BPE";  /* old files leave it out */
    lb_status status = lb_json_need_object(root, "", "model", &model, err);
    if (status == LB_OK)
        status = lb_json_opt_string(model, "model", "type", &type, err);
    if (status == LB_OK && strcmp(type, "BPE") != 0)
        return lb_fail(err, LB_EUNSUPPORTED, "model.type", "the model %s is not implemented", type);
    if (status == LB_OK)
        status = load_vocab(tokenizer, model, err);
    if (status == LB_OK)
        status = load_merges(tokenizer, model, err);
    if (status == LB_OK)
        status = check_options(tokenizer, model, err);
    return status;
}

/* ---- the file ---- */

lb_status lb_tokenizer_finish(lb_tokenizer *tokenizer, lb_err *err)
{
    lb_bpe_find_word_start(tokenizer);
    lb_status status = lb_decoder_finish(tokenizer, err);
    if (status == LB_OK)
        status = lb_tokenizer_make_digest(tokenizer, err);
    return status;
}

static lb_status load_root(lb_tokenizer *tokenizer, const lb_json *root, lb_err *err)
{
    const lb_json *added = NULL;
    if (!lb_json_is_object(root))
        return lb_fail(err, LB_EDATA, NULL, "tokenizer.json is not an object");
    lb_status status = lb_find_byte_level(lb_json_get(root, "pre_tokenizer"),
                                          &tokenizer->byte_level, err);
    if (status == LB_OK)
        status = load_model(tokenizer, root, err);
    if (status == LB_OK)
        status = lb_load_normalizer(tokenizer, lb_json_get(root, "normalizer"), err);
    if (status == LB_OK)
        status = lb_json_opt_array(root, "", "added_tokens", &added, err);
    if (status == LB_OK)
        status = lb_added_load(tokenizer, added, err);
    if (status == LB_OK)
        status = lb_load_pre_tokenizer(tokenizer, lb_json_get(root, "pre_tokenizer"), err);
    if (status == LB_OK)
        status = lb_load_post_processor(tokenizer, lb_json_get(root, "post_processor"), err);
    if (status == LB_OK)
        status = lb_load_decoder(tokenizer, lb_json_get(root, "decoder"), err);
    if (status == LB_OK)
        status = lb_tokenizer_finish(tokenizer, err);
    return status;
}

lb_status lb_tokenizer_parse(const char *json, size_t length, lb_tokenizer **out, lb_err *err)
{
    lb_json *root = NULL;
    lb_tokenizer *tokenizer = NULL;
    if (length > LB_TOKENIZER_FILE_MAX)
        return lb_fail(err, LB_ETOOBIG, NULL, "tokenizer.json has %zu bytes; the limit is %u",
                       length, LB_TOKENIZER_FILE_MAX);
    lb_status status = lb_json_parse(json, length, &root, err);
    if (status != LB_OK)
        return status;
    tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        status = lb_fail(err, LB_ENOMEM, NULL, "out of memory for a tokenizer");
        goto done;
    }
    status = load_root(tokenizer, root, err);
    if (status != LB_OK)
        goto done;
    *out = tokenizer;
    tokenizer = NULL;
done:
    lb_tokenizer_free(tokenizer);
    lb_json_free(root);
    return status;
}

static bool ends_with(const char *path, const char *end)
{
    size_t length = strlen(path), width = strlen(end);
    return length > width && strcmp(path + length - width, end) == 0;
}

static lb_status load_gguf(const char *path, lb_tokenizer **out, lb_err *err)
{
    lb_gguf *file = NULL;
    lb_status status = lb_gguf_load(path, &file, err);
    if (status == LB_OK && lb_tokenizer_from_gguf(file, out, err) != LB_OK)
        status = lb_err_wrap(err, "%s", path);
    lb_gguf_close(file);
    return status;
}

lb_status lb_tokenizer_load(const char *path, lb_tokenizer **out, lb_err *err)
{
    char joined[LB_PATH_MAX];
    lb_buf text = {0};
    lb_status status = LB_OK;
    if (lb_path_is_gguf(path))
        return load_gguf(path, out, err);
    if (!ends_with(path, ".json")) {
        status = lb_path_join(joined, sizeof joined, path, "tokenizer.json", err);
        path = joined;
    }
    if (status == LB_OK)
        status = lb_file_read(path, LB_TOKENIZER_FILE_MAX, &text, err);
    if (status == LB_OK) {
        status = lb_tokenizer_parse((const char *)text.data, text.length, out, err);
        if (status != LB_OK)
            status = lb_err_wrap(err, "%s", path);
    }
    lb_buf_free(&text);
    return status;
}

void lb_tokenizer_free(lb_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    lb_vocab_free(&tokenizer->vocab);
    lb_merges_free(&tokenizer->merges);
    lb_added_free(&tokenizer->raw);
    lb_added_free(&tokenizer->normalized);
    for (size_t i = 0; i < tokenizer->step_count; i++) {
        free(tokenizer->steps[i].pattern);
        lb_regex_free(tokenizer->steps[i].regex);
    }
    for (size_t i = 0; i < tokenizer->normal_count; i++) {
        free(tokenizer->normals[i].pattern);
        free(tokenizer->normals[i].content);
    }
    lb_decoder_free(&tokenizer->decoder);
    free(tokenizer->classes);
    free(tokenizer);
}
