/* SPDX-License-Identifier: Apache-2.0
 *
 * A tokenizer out of a GGUF file's metadata. The file has tokens, their types and merges, but of
 * the way of splitting only a name, "pre"; what the name stands for is a row below, as in the
 * tokenizer.json of the family. A name without a row is refused, since a guess would give other
 * tokens than the model was trained on.
 */
#include "common/io/gguf.h"
#include "common/text/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY(name) "tokenizer.ggml." name
#define WHERE_MAX 64
#define NAME_MAX 40

enum {                     /* tokenizer.ggml.token_type */
    TYPE_NORMAL = 1,
    TYPE_UNKNOWN = 2,
    TYPE_CONTROL = 3,
    TYPE_USER_DEFINED = 4,
    TYPE_UNUSED = 5,
    TYPE_BYTE = 6,
};

static const char tekken[] =
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
    "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
    "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static const struct family {
    const char *pre;
    const char *pattern;
    bool each_digit;
    bool nfc;
    bool ignore_merges;
    bool add_bos;          /* where the file does not say */
} families[] = {
    {.pre = "gpt-2", .pattern = lb_pattern_gpt2},
    {.pre = "smollm", .pattern = lb_pattern_gpt2, .each_digit = true},
    {.pre = "qwen2", .pattern = lb_pattern_qwen, .nfc = true},
    {.pre = "llama-bpe", .pattern = lb_pattern_llama3, .ignore_merges = true, .add_bos = true},
    {.pre = "tekken", .pattern = tekken, .ignore_merges = true, .add_bos = true},
};

/* ---- names ---- */

static lb_status read_name(const lb_gguf *file, const char *key, char out[NAME_MAX], lb_err *err)
{
    const char *text = NULL;
    size_t length = 0;
    lb_status status = lb_gguf_string(file, key, true, &text, &length, err);
    if (status == LB_OK)
        snprintf(out, NAME_MAX, "%.*s", (int)(length < NAME_MAX ? length : NAME_MAX), text);
    return status;
}

static lb_status find_family(const lb_gguf *file, const struct family **out, lb_err *err)
{
    char name[NAME_MAX] = "";
    lb_status status = read_name(file, KEY("model"), name, err);
    if (status != LB_OK)
        return status;
    if (strcmp(name, "gpt2") != 0)
        return lb_fail(err, LB_EUNSUPPORTED, KEY("model"), "the model %s is not implemented; "
                       "byte-level BPE, gpt2, is", name);
    status = read_name(file, KEY("pre"), name, err);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strcmp(name, families[i].pre) == 0) {
            *out = &families[i];
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EUNSUPPORTED, KEY("pre"), "the pre-tokenizer %s is not implemented",
                   name);
}

/* ---- tokens ---- */

typedef struct lb_tokens_reader {
    const lb_gguf *file;
    lb_tokenizer *tokenizer;
    uint64_t count;
    uint64_t normal_end;   /* beyond the last token that is the model's */
} lb_tokens_reader;

/* Calls visit for each token that has text. */
typedef lb_status (*lb_token_visit)(lb_tokens_reader *reader, uint32_t id, lb_span text,
                                    int64_t type, lb_err *err);

static lb_status each_token(lb_tokens_reader *reader, lb_token_visit visit, lb_err *err)
{
    lb_gguf_array tokens = {0}, types = {0};
    lb_status status = lb_gguf_strings(reader->file, KEY("tokens"), true, &tokens, err);
    if (status == LB_OK)
        status = lb_gguf_integers(reader->file, KEY("token_type"), true, &types, err);
    if (status != LB_OK)
        return status;
    if (tokens.count > LB_TOKENIZER_IDS_MAX)
        return lb_fail(err, LB_ETOOBIG, KEY("tokens"), "has %llu entries; at most %u are supported",
                       (unsigned long long)tokens.count, LB_TOKENIZER_IDS_MAX);
    if (tokens.count != types.count)
        return lb_fail(err, LB_EDATA, KEY("token_type"), "has %llu entries for %llu tokens",
                       (unsigned long long)types.count, (unsigned long long)tokens.count);
    reader->count = tokens.count;
    lb_span text = {0};
    int64_t type = 0;
    for (uint32_t id = 0; status == LB_OK; id++) {
        if (!lb_gguf_next_string(&tokens, &text.data, &text.length) ||
            !lb_gguf_next_integer(&types, &type))
            break;
        if (type < TYPE_NORMAL || type > TYPE_BYTE)
            return lb_fail(err, LB_EDATA, KEY("token_type"), "token %u has the type %lld", id,
                           (long long)type);
        if (type == TYPE_UNUSED)
            continue;
        if (text.length == 0 || text.length > LB_TOKEN_BYTES_MAX ||
            lb_utf8_valid_prefix(text.data, text.length) < text.length)
            return lb_fail(err, LB_EDATA, KEY("tokens"), "token %u is no UTF-8 of 1 to %u bytes",
                           id, LB_TOKEN_BYTES_MAX);
        status = visit(reader, id, text, type, err);
    }
    return status;
}

static bool is_added(int64_t type)
{
    return type == TYPE_UNKNOWN || type == TYPE_CONTROL || type == TYPE_USER_DEFINED;
}

static lb_status note_end(lb_tokens_reader *reader, uint32_t id, lb_span text, int64_t type,
                          lb_err *err)
{
    (void)text;
    (void)err;
    if (!is_added(type))
        reader->normal_end = (uint64_t)id + 1;
    return LB_OK;
}

/* An added token with an id among the model's own is one of them in tokenizer.json, where their
 * ids have no holes; one beyond them is not. */
static lb_status add_normal(lb_tokens_reader *reader, uint32_t id, lb_span text, int64_t type,
                            lb_err *err)
{
    char bytes[LB_TOKEN_BYTES_MAX];
    size_t length = 0;
    lb_vocab *vocab = &reader->tokenizer->vocab;
    (void)type;
    if (id >= reader->normal_end)
        return LB_OK;
    if (lb_alphabet_decode(text, bytes, &length))
        return lb_vocab_add(vocab, id, (lb_span){bytes, length}, 0, err);
    return lb_vocab_add(vocab, id, text, LB_TOKEN_OUTSIDE, err);
}

static lb_status add_added(lb_tokens_reader *reader, uint32_t id, lb_span text, int64_t type,
                           lb_err *err)
{
    lb_tokenizer *tokenizer = reader->tokenizer;
    char where[WHERE_MAX];
    if (!is_added(type))
        return LB_OK;
    snprintf(where, sizeof where, KEY("tokens") "[%u]", id);
    if (tokenizer->raw.count == LB_ADDED_MAX)
        return lb_fail(err, LB_ETOOBIG, KEY("token_type"), "more than %u tokens are added",
                       LB_ADDED_MAX);
    lb_added added = {.id = id, .special = type != TYPE_USER_DEFINED};
    return lb_added_enter(tokenizer, added, text, false, where, err);
}

/* ---- merges ---- */

static lb_status add_merges(lb_tokens_reader *reader, lb_err *err)
{
    lb_tokenizer *tokenizer = reader->tokenizer;
    lb_gguf_array list = {0};
    lb_span text = {0};
    lb_status status = lb_gguf_strings(reader->file, KEY("merges"), true, &list, err);
    if (status != LB_OK)
        return status;
    if (list.count > LB_TOKENIZER_MERGES_MAX)
        return lb_fail(err, LB_ETOOBIG, KEY("merges"), "has %llu entries; at most %u are supported",
                       (unsigned long long)list.count, LB_TOKENIZER_MERGES_MAX);
    status = lb_merges_init(&tokenizer->merges, (size_t)list.count, err);
    for (uint32_t rank = 0;
         status == LB_OK && lb_gguf_next_string(&list, &text.data, &text.length); rank++) {
        lb_merge merge = {.rank = rank};
        const char *space = memchr(text.data, ' ', text.length);
        size_t left = space == NULL ? 0 : (size_t)(space - text.data);
        if (space == NULL || lb_utf8_valid_prefix(text.data, text.length) < text.length ||
            !lb_merge_resolve(&tokenizer->vocab, (lb_span){text.data, left},
                              (lb_span){space + 1, text.length - left - 1}, &merge))
            return lb_fail(err, LB_EDATA, KEY("merges"),
                           "entry %u is no \"a b\" of tokens that make a token", rank);
        status = lb_merges_put(&tokenizer->merges, merge, err);
    }
    return status;
}

/* ---- the whole ---- */

static lb_status set_steps(lb_tokenizer *tokenizer, const struct family *family, lb_err *err)
{
    lb_status status = LB_OK;
    tokenizer->byte_level = true;
    tokenizer->unknown = LB_NO_TOKEN;
    tokenizer->ignore_merges = family->ignore_merges;
    if (family->nfc)
        tokenizer->normals[tokenizer->normal_count++].kind = LB_NORMAL_NFC;
    if (family->each_digit)
        status = lb_add_step(tokenizer, (lb_step){.kind = LB_STEP_EACH_DIGIT}, (lb_span){"", 0},
                             KEY("pre"), err);
    if (status == LB_OK)
        status = lb_add_step(tokenizer, (lb_step){.kind = LB_STEP_REGEX},
                             (lb_span){family->pattern, strlen(family->pattern)}, KEY("pre"), err);
    return status;
}

static lb_status set_bos(lb_tokenizer *tokenizer, const lb_gguf *file, bool add, lb_err *err)
{
    bool add_eos = false;
    uint32_t id = 0;
    lb_status status = lb_gguf_bool(file, KEY("add_bos_token"), false, &add, err);
    if (status == LB_OK)
        status = lb_gguf_bool(file, KEY("add_eos_token"), false, &add_eos, err);
    if (status == LB_OK && add_eos)
        return lb_fail(err, LB_EUNSUPPORTED, KEY("add_eos_token"),
                       "a token after the text is not implemented");
    if (status != LB_OK || !add)
        return status;
    status = lb_gguf_u32(file, KEY("bos_token_id"), true, LB_TOKENIZER_IDS_MAX - 1, &id, err);
    if (status == LB_OK && !lb_vocab_has(&tokenizer->vocab, id))
        return lb_fail(err, LB_EDATA, KEY("bos_token_id"), "%u is not a token", id);
    if (status == LB_OK)
        tokenizer->bos[tokenizer->bos_count++] = id;
    return status;
}

static lb_status fill(lb_tokenizer *tokenizer, const lb_gguf *file, lb_err *err)
{
    const struct family *family = NULL;
    lb_tokens_reader reader = {.file = file, .tokenizer = tokenizer};
    lb_status status = find_family(file, &family, err);
    if (status == LB_OK)
        status = set_steps(tokenizer, family, err);
    if (status == LB_OK)
        status = each_token(&reader, note_end, err);
    if (status == LB_OK)
        status = lb_vocab_init(&tokenizer->vocab, (size_t)reader.normal_end, err);
    if (status == LB_OK)
        status = each_token(&reader, add_normal, err);
    if (status == LB_OK)
        status = add_merges(&reader, err);
    if (status == LB_OK)
        status = each_token(&reader, add_added, err);
    if (status == LB_OK)
        status = lb_added_close(tokenizer, err);
    if (status == LB_OK)
        status = set_bos(tokenizer, file, family->add_bos, err);
    return status == LB_OK ? lb_tokenizer_finish(tokenizer, err) : status;
}

lb_status lb_tokenizer_from_gguf(const lb_gguf *file, lb_tokenizer **out, lb_err *err)
{
    lb_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL)
        return lb_fail(err, LB_ENOMEM, NULL, "out of memory for a tokenizer");
    lb_status status = fill(tokenizer, file, err);
    if (status != LB_OK) {
        lb_tokenizer_free(tokenizer);
        return status;
    }
    *out = tokenizer;
    return LB_OK;
}
