/* SPDX-License-Identifier: Apache-2.0
 *
 * The tokenizer in a GGUF file's metadata. It is written down as the tokenizer.json that it was
 * made from and read by the one reader there is, so that both ways give the same tokenizer. What
 * the metadata only names (tokenizer.ggml.pre) stands in the table below; source of the names:
 * llama.cpp's converter.
 */
#include "common/text/tokenizer_impl.h"

#include "common/io/gguf.h"

#include <stdio.h>
#include <string.h>

/* Types of tokens in tokenizer.ggml.token_type. */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_UNUSED = 5 };

#define BYTE_LEVEL(regex) \
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,"                \
    "\"use_regex\":" regex "}"
#define SEQUENCE(first) \
    "{\"type\":\"Sequence\",\"pretokenizers\":[" first "]}"
#define SPLIT(digits)                                                                         \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"              \
    "[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}" digits "| ?[^\\\\s\\\\p{L}\\\\p{N}]+"  \
    "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"                            \
    "\"behavior\":\"Isolated\",\"invert\":false}"

typedef struct pre_row {
    const char *name;
    const char *pre_tokenizer;   /* JSON */
    bool nfc, ignore_merges, add_bos;
} pre_row;

static const pre_row pre_rows[] = {
    {.name = "smollm",
     .pre_tokenizer = SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true},"
                               BYTE_LEVEL("true"))},
    {.name = "qwen2", .pre_tokenizer = SEQUENCE(SPLIT("") "," BYTE_LEVEL("false")), .nfc = true},
    {.name = "llama-bpe", .pre_tokenizer = SEQUENCE(SPLIT("{1,3}") "," BYTE_LEVEL("false")),
     .ignore_merges = true, .add_bos = true},
    {.name = "gpt-2", .pre_tokenizer = BYTE_LEVEL("true")},
};

typedef struct source {
    const lb_gguf *file;
    const pre_row *pre;
    lb_err *err;
} source;

static lb_status find_pre(source *s)
{
    const char *model = NULL, *pre = NULL;
    size_t model_length = 0, pre_length = 0;
    lb_status status = lb_gguf_string(s->file, "tokenizer.ggml.model", true, &model,
                                      &model_length, s->err);
    if (status == LB_OK && (model_length != 4 || memcmp(model, "gpt2", 4) != 0))
        status = lb_fail(s->err, LB_EUNSUPPORTED, "tokenizer.ggml.model", "'%.*s' is not "
                         "supported; gpt2 (byte-level BPE) is. Use the folder with tokenizer.json",
                         model_length < 40 ? (int)model_length : 40, model);
    if (status == LB_OK)
        status = lb_gguf_string(s->file, "tokenizer.ggml.pre", true, &pre, &pre_length, s->err);
    for (size_t i = 0; status == LB_OK && i < sizeof pre_rows / sizeof *pre_rows; i++) {
        if (strlen(pre_rows[i].name) == pre_length &&
            memcmp(pre_rows[i].name, pre, pre_length) == 0)
            s->pre = &pre_rows[i];
    }
    if (status == LB_OK && s->pre == NULL)
        status = lb_fail(s->err, LB_EUNSUPPORTED, "tokenizer.ggml.pre", "'%.*s' is not known; "
                         "smollm, qwen2, llama-bpe and gpt-2 are",
                         pre_length < 40 ? (int)pre_length : 40, pre);
    return status;
}

static void put(lb_buf *out, const char *json)
{
    lb_buf_puts(out, json);
}

static void put_text(lb_buf *out, lb_span text)
{
    lb_jsonw w = {.out = out};
    lb_jsonw_string_n(&w, text.data, text.length);
}

static lb_status check_text(const source *s, const char *key, uint64_t index, lb_span text)
{
    if (memchr(text.data, '\0', text.length) == NULL &&
        lb_utf8_valid_prefix(text.data, text.length) == text.length)
        return LB_OK;
    return lb_fail(s->err, LB_EDATA, key, "entry %llu is not UTF-8 text without NUL",
                   (unsigned long long)index);
}

typedef lb_status (*token_visit)(const source *s, uint64_t id, lb_span text, int64_t type,
                                 lb_buf *out);

/* A token of the model: all but the padding. */
static lb_status put_vocab(const source *s, uint64_t id, lb_span text, int64_t type, lb_buf *out)
{
    (void)s;
    if (type == TYPE_UNUSED)
        return LB_OK;
    put_text(out, text);
    lb_buf_printf(out, ":%llu,", (unsigned long long)id);
    return LB_OK;
}

static lb_status put_added(const source *s, uint64_t id, lb_span text, int64_t type, lb_buf *out)
{
    (void)s;
    if (type != TYPE_CONTROL && type != TYPE_USER && type != TYPE_UNKNOWN)
        return LB_OK;
    lb_buf_printf(out, "{\"id\":%llu,\"content\":", (unsigned long long)id);
    put_text(out, text);
    lb_buf_printf(out, ",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
                  "\"normalized\":false,\"special\":%s},",
                  type == TYPE_USER ? "false" : "true");
    return LB_OK;
}

static lb_status each_token(const source *s, token_visit visit, lb_buf *out)
{
    static const char key[] = "tokenizer.ggml.tokens", types_key[] = "tokenizer.ggml.token_type";
    lb_gguf_array tokens, types;
    lb_status status = lb_gguf_strings(s->file, key, true, &tokens, s->err);
    if (status == LB_OK)
        status = lb_gguf_integers(s->file, types_key, true, &types, s->err);
    if (status == LB_OK && (tokens.count != types.count || tokens.count > LB_TOKENIZER_IDS_MAX))
        status = lb_fail(s->err, LB_EDATA, types_key, "%llu types for %llu tokens; at most %u "
                         "tokens are supported", (unsigned long long)types.count,
                         (unsigned long long)tokens.count, LB_TOKENIZER_IDS_MAX);
    for (uint64_t id = 0; status == LB_OK && tokens.count > 0; id++) {
        lb_span text = {0};
        int64_t type = 0;
        if (!lb_gguf_next_string(&tokens, &text.data, &text.length) ||
            !lb_gguf_next_integer(&types, &type))
            return lb_fail(s->err, LB_EDATA, key, "the list ends early");
        status = check_text(s, key, id, text);
        if (status == LB_OK)
            status = visit(s, id, text, type, out);
    }
    return status;
}

/* Takes the comma behind the last member back. */
static void close_list(lb_buf *out, const char *end)
{
    if (out->status == LB_OK && out->length > 0 && out->data[out->length - 1] == ',')
        out->length--;
    put(out, end);
}

static lb_status put_merges(const source *s, lb_buf *out)
{
    static const char key[] = "tokenizer.ggml.merges";
    lb_gguf_array merges;
    lb_status status = lb_gguf_strings(s->file, key, true, &merges, s->err);
    lb_span text = {0};
    put(out, "\"merges\":[");
    for (uint64_t i = 0; status == LB_OK && lb_gguf_next_string(&merges, &text.data, &text.length);
         i++) {
        status = check_text(s, key, i, text);
        put_text(out, text);
        put(out, ",");
    }
    close_list(out, "]");
    return status;
}

/* The token that is put before a text, as TemplateProcessing. */
static lb_status put_bos(const source *s, lb_buf *out)
{
    bool add = s->pre->add_bos;
    uint32_t id = 0;
    lb_gguf_array tokens;
    lb_span text = {0};
    lb_status status = lb_gguf_bool(s->file, "tokenizer.ggml.add_bos_token", false, &add, s->err);
    if (status != LB_OK || !add) {
        put(out, "\"post_processor\":null,");
        return status;
    }
    status = lb_gguf_u32(s->file, "tokenizer.ggml.bos_token_id", true, LB_TOKENIZER_IDS_MAX - 1,
                         &id, s->err);
    if (status == LB_OK)
        status = lb_gguf_strings(s->file, "tokenizer.ggml.tokens", true, &tokens, s->err);
    for (uint64_t i = 0; status == LB_OK && i <= id; i++) {
        if (!lb_gguf_next_string(&tokens, &text.data, &text.length))
            status = lb_fail(s->err, LB_EDATA, "tokenizer.ggml.bos_token_id",
                             "%u is not the id of a token", id);
    }
    if (status != LB_OK)
        return status;
    put(out, "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
             "{\"id\":");
    put_text(out, text);
    put(out, ",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{");
    put_text(out, text);
    put(out, ":{\"id\":");
    put_text(out, text);
    lb_buf_printf(out, ",\"ids\":[%u],\"tokens\":[", id);
    put_text(out, text);
    put(out, "]}}},");
    return LB_OK;
}

static lb_status put_all(source *s, lb_buf *out)
{
    lb_status status = find_pre(s);
    if (status != LB_OK)
        return status;
    put(out, "{\"added_tokens\":[");
    status = each_token(s, put_added, out);
    close_list(out, "],");
    lb_buf_printf(out, "\"normalizer\":%s,\"pre_tokenizer\":%s,",
                  s->pre->nfc ? "{\"type\":\"NFC\"}" : "null", s->pre->pre_tokenizer);
    if (status == LB_OK)
        status = put_bos(s, out);
    put(out, "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"ignore_merges\":");
    put(out, s->pre->ignore_merges ? "true,\"vocab\":{" : "false,\"vocab\":{");
    if (status == LB_OK)
        status = each_token(s, put_vocab, out);
    close_list(out, "},");
    if (status == LB_OK)
        status = put_merges(s, out);
    put(out, "}}");
    return status;
}

lb_status lb_tokenizer_from_gguf(const lb_gguf *file, lb_tokenizer **out, lb_err *err)
{
    source s = {.file = file, .err = err};
    lb_buf text = {.limit = LB_TOKENIZER_FILE_MAX};
    lb_status status = put_all(&s, &text);
    if (status == LB_OK && text.status != LB_OK)
        status = lb_fail(err, text.status, "tokenizer.ggml.tokens", "the tokenizer: %s",
                         lb_status_text(text.status));
    if (status == LB_OK)
        status = lb_tokenizer_parse((const char *)text.data, text.length, out, err);
    lb_buf_free(&text);
    return status;
}
