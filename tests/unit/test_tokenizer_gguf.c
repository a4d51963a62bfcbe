/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokenizers out of GGUF files made here in memory: the same as from tokenizer.json, or refused by
 * the name of the key.
 */
#include "common/base/buf.h"
#include "common/io/gguf.h"
#include "common/text/tokenizer.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TYPE_U32 = 4, TYPE_I32 = 5, TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9 };
#define BYTES 256u

/* What a file has; the defaults of a zeroed one are those of GPT-2 with one control token. */
typedef struct parts {
    const char *model, *pre, *extra_merge, *special;
    int32_t special_type, first_type;
    uint32_t bos;
    bool no_types, short_types, no_tokens, no_merges, control_first, add_bos, add_eos, bad_utf8;
} parts;

static void put_string(lb_buf *out, const char *text, size_t length)
{
    lb_buf_u64(out, length);
    lb_buf_append(out, text, length);
}

static void put_key(lb_buf *out, uint64_t *keys, const char *key, uint32_t type)
{
    put_string(out, key, strlen(key));
    lb_buf_u32(out, type);
    ++*keys;
}

static void put_array(lb_buf *out, uint64_t *keys, const char *key, uint32_t type, uint64_t count)
{
    put_key(out, keys, key, TYPE_ARRAY);
    lb_buf_u32(out, type);
    lb_buf_u64(out, count);
}

/* A byte's character in the byte alphabet. */
static size_t spell(unsigned byte, char out[3])
{
    bool prints = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    unsigned other = 0x100;
    for (unsigned b = 0; b < byte; b++)
        other += !((b >= '!' && b <= '~') || (b >= 0xa1 && b != 0xad));
    unsigned c = prints ? byte : other;
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    out[0] = (char)(0xc0 | c >> 6);
    out[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

static const char *special_of(const parts *p)
{
    return p->special ? p->special : "<s>";
}

static void put_tokens(const parts *p, lb_buf *out, uint64_t *keys)
{
    if (p->no_tokens)
        return;
    put_array(out, keys, "tokenizer.ggml.tokens", TYPE_STRING, BYTES + 3);
    if (p->control_first)
        put_string(out, special_of(p), strlen(special_of(p)));
    for (unsigned byte = 0; byte < BYTES; byte++) {
        char text[3];
        size_t length = spell(byte, text);
        put_string(out, p->bad_utf8 && byte == 7 ? "\xff" : text,
                   p->bad_utf8 && byte == 7 ? 1 : length);
    }
    put_string(out, "ab", 2);
    if (!p->control_first)
        put_string(out, special_of(p), strlen(special_of(p)));
    put_string(out, "[PAD1]", 6);
}

static void put_types(const parts *p, lb_buf *out, uint64_t *keys)
{
    int32_t special = p->special_type ? p->special_type : 3;
    if (p->no_types)
        return;
    put_array(out, keys, "tokenizer.ggml.token_type", TYPE_I32, BYTES + 3 - p->short_types);
    if (p->control_first)
        lb_buf_u32(out, (uint32_t)special);
    for (unsigned i = 0; i < BYTES + 1; i++)
        lb_buf_u32(out, i == 0 && p->first_type ? (uint32_t)p->first_type : 1);
    if (!p->control_first)
        lb_buf_u32(out, (uint32_t)special);
    if (!p->short_types)
        lb_buf_u32(out, 5);
}

static void put_text(lb_buf *out, uint64_t *keys, const char *key, const char *value)
{
    if (value[0] == '\0')
        return;
    put_key(out, keys, key, TYPE_STRING);
    put_string(out, value, strlen(value));
}

static void make(const parts *p, lb_buf *out)
{
    lb_buf body = {0};
    uint64_t keys = 0;
    put_text(&body, &keys, "tokenizer.ggml.model", p->model ? p->model : "gpt2");
    put_text(&body, &keys, "tokenizer.ggml.pre", p->pre ? p->pre : "gpt-2");
    put_tokens(p, &body, &keys);
    put_types(p, &body, &keys);
    if (!p->no_merges) {
        put_array(&body, &keys, "tokenizer.ggml.merges", TYPE_STRING, p->extra_merge ? 2 : 1);
        put_string(&body, "a b", 3);
        if (p->extra_merge)
            put_string(&body, p->extra_merge, strlen(p->extra_merge));
    }
    put_key(&body, &keys, "tokenizer.ggml.add_bos_token", TYPE_BOOL);
    lb_buf_append(&body, &(uint8_t){p->add_bos}, 1);
    put_key(&body, &keys, "tokenizer.ggml.add_eos_token", TYPE_BOOL);
    lb_buf_append(&body, &(uint8_t){p->add_eos}, 1);
    put_key(&body, &keys, "tokenizer.ggml.bos_token_id", TYPE_U32);
    lb_buf_u32(&body, p->bos ? p->bos : BYTES + 1);
    lb_buf_puts(out, "GGUF");
    lb_buf_u32(out, 3);
    lb_buf_u64(out, 0);
    lb_buf_u64(out, keys);
    lb_buf_append(out, body.data, body.length);
    assert_int_equal(out->status, LB_OK);
    lb_buf_free(&body);
}

static lb_status load(const parts *p, lb_tokenizer **out, lb_err *err)
{
    lb_buf bytes = {0};
    lb_gguf *file = NULL;
    make(p, &bytes);
    if (lb_gguf_open(bytes.data, bytes.length, &file, err) != LB_OK)
        fail_msg("%s: %s", err->field, err->message);
    lb_status status = lb_tokenizer_from_gguf(file, out, err);
    lb_gguf_close(file);
    lb_buf_free(&bytes);
    return status;
}

static lb_tokenizer *need(const parts *p)
{
    lb_err err = {0};
    lb_tokenizer *tokenizer = NULL;
    if (load(p, &tokenizer, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    return tokenizer;
}

/* ---- the same as from tokenizer.json ---- */

#define LEVEL(regex) "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":" regex "}"
#define SPLIT(digits)                                                                         \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":" \
    "\"Isolated\",\"pattern\":{\"Regex\":\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}" \
    "\\\\p{N}]?\\\\p{L}+|" digits "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+" \
    "|\\\\s+(?!\\\\S)|\\\\s+\"}}," LEVEL("false") "]}"
#define BOS ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":" \
    "{\"id\":\"x\"}},{\"Sequence\":{}}],\"special_tokens\":{\"x\":{\"ids\":[257]}}}"

static const struct {
    parts parts;
    const char *json;      /* pre_tokenizer and what follows it */
    const char *model;
} equals[] = {
    {{0}, LEVEL("true"), ""},
    {{.control_first = true}, LEVEL("true"), ""},
    {{.special_type = 4}, LEVEL("true"), ""},
    {{.pre = "smollm"}, "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\","
     "\"individual_digits\":true}," LEVEL("true") "]}", ""},
    {{.pre = "qwen2"}, SPLIT("\\\\p{N}") ",\"normalizer\":{\"type\":\"NFC\"}", ""},
    {{.pre = "llama-bpe", .add_bos = true}, SPLIT("\\\\p{N}{1,3}") BOS, "\"ignore_merges\":true,"},
};

static void make_json(const parts *p, const char *pre, const char *model, lb_buf *out)
{
    unsigned at = p->control_first;
    lb_buf_printf(out, "{\"pre_tokenizer\":%s,\"added_tokens\":[{\"id\":%u,\"content\":\"<s>\","
                  "\"special\":%s}],\"model\":{%s\"vocab\":{", pre,
                  p->control_first ? 0 : BYTES + 1, p->special_type == 4 ? "false" : "true", model);
    if (p->control_first)
        lb_buf_puts(out, "\"<s>\":0,");
    for (unsigned byte = 0; byte < BYTES; byte++) {
        char text[3];
        size_t length = spell(byte, text);
        bool escape = text[0] == '"' || text[0] == '\\';
        lb_buf_printf(out, "\"%s%.*s\":%u,", escape ? "\\" : "", (int)length, text, byte + at);
    }
    lb_buf_printf(out, "\"ab\":%u},\"merges\":[\"a b\"]}}", BYTES + at);
}

static void test_equals_json(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof equals / sizeof equals[0]; i++) {
        lb_buf json = {0};
        lb_err err = {0};
        lb_tokenizer *other = NULL, *tokenizer = need(&equals[i].parts);
        make_json(&equals[i].parts, equals[i].json, equals[i].model, &json);
        if (lb_tokenizer_parse((const char *)json.data, json.length, &other, &err) != LB_OK)
            fail_msg("%s: %s", err.field, err.message);
        if (strcmp(lb_tokenizer_digest(tokenizer), lb_tokenizer_digest(other)) != 0)
            fail_msg("row %zu: the digests differ", i);
        lb_tokenizer_free(tokenizer);
        lb_tokenizer_free(other);
        lb_buf_free(&json);
    }
}

static void test_encodes(void **state)
{
    static const uint32_t expected[] = {257, 256, ' ', 256, 257, '1', '2'};
    (void)state;
    lb_tokens tokens = {0};
    lb_tokenizer *tokenizer = need(&(parts){.pre = "tekken", .add_bos = true});
    assert_int_equal(lb_tokenizer_encode(tokenizer, "ab ab<s>12", 10, true, true, &tokens, NULL),
                     LB_OK);
    assert_int_equal(tokens.count, 7);
    assert_memory_equal(tokens.ids, expected, sizeof expected);
    assert_int_equal(lb_tokenizer_size(tokenizer), 258);  /* the unused one has no text */
    assert_true(lb_tokenizer_is_special(tokenizer, 257));
    lb_tokens_free(&tokens);
    lb_tokenizer_free(tokenizer);
}

/* ---- refusals ---- */

static const struct {
    parts parts;
    const char *field, *message;
} refusals[] = {
    {{.model = "llama"}, "tokenizer.ggml.model", "llama"},
    {{.model = ""}, "tokenizer.ggml.model", ""},
    {{.pre = "default"}, "tokenizer.ggml.pre", "default"},
    {{.pre = "viking"}, "tokenizer.ggml.pre", "viking"},
    {{.pre = ""}, "tokenizer.ggml.pre", ""},
    {{.no_tokens = true}, "tokenizer.ggml.tokens", ""},
    {{.no_types = true}, "tokenizer.ggml.token_type", ""},
    {{.short_types = true}, "tokenizer.ggml.token_type", "258"},
    {{.first_type = 7}, "tokenizer.ggml.token_type", "type 7"},
    {{.first_type = -1}, "tokenizer.ggml.token_type", "type -1"},
    {{.bad_utf8 = true}, "tokenizer.ggml.tokens", "token 7"},
    {{.special = ""}, "tokenizer.ggml.tokens", "token 257"},
    {{.special = "ab"}, "tokenizer.ggml.tokens[257]", "256"},
    {{.no_merges = true}, "tokenizer.ggml.merges", ""},
    {{.extra_merge = "a c"}, "tokenizer.ggml.merges", "entry 1"},
    {{.extra_merge = "ab"}, "tokenizer.ggml.merges", "entry 1"},
    {{.extra_merge = "a \xff"}, "tokenizer.ggml.merges", "entry 1"},
    {{.extra_merge = ""}, "tokenizer.ggml.merges", "entry 1"},
    {{.add_bos = true, .bos = 258}, "tokenizer.ggml.bos_token_id", "258"},
    {{.add_bos = true, .bos = 1048576}, "tokenizer.ggml.bos_token_id", ""},
    {{.add_bos = true, .bos = UINT32_MAX}, "tokenizer.ggml.bos_token_id", ""},
    {{.add_eos = true}, "tokenizer.ggml.add_eos_token", ""},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        lb_tokenizer *tokenizer = NULL;
        lb_err err = {0};
        lb_status status = load(&refusals[i].parts, &tokenizer, &err);
        if (status == LB_OK || tokenizer != NULL || strcmp(err.field, refusals[i].field) != 0 ||
            strstr(err.message, refusals[i].message) == NULL)
            fail_msg("row %zu: status %d, %s: %s", i, (int)status, err.field, err.message);
    }
}

/* ---- paths ---- */

static void write_file(const char *path, const lb_buf *bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes->data, 1, bytes->length, file), bytes->length);
    assert_int_equal(fclose(file), 0);
}

static void test_paths(void **state)
{
    (void)state;
    char folder[] = "/tmp/lb-tokenizer-XXXXXX", gguf[64], json[64];
    lb_buf bytes = {0}, text = {0};
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(gguf, sizeof gguf, "%s/model.gguf", folder);
    snprintf(json, sizeof json, "%s/tokenizer.json", folder);
    make(&(parts){0}, &bytes);
    make_json(&(parts){0}, LEVEL("true"), "", &text);
    write_file(gguf, &bytes);
    write_file(json, &text);
    const char *const paths[] = {gguf, json, folder};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(lb_tokenizer_load(paths[i], &tokenizer, &err), LB_OK);
        assert_int_equal(lb_tokenizer_size(tokenizer), 258);
        lb_tokenizer_free(tokenizer);
    }
    lb_buf_clear(&bytes);
    make(&(parts){.pre = "viking"}, &bytes);
    write_file(gguf, &bytes);
    assert_int_equal(lb_tokenizer_load(gguf, &tokenizer, &err), LB_EUNSUPPORTED);
    assert_non_null(strstr(err.message, "model.gguf"));
    unlink(gguf);
    unlink(json);
    assert_int_equal(lb_tokenizer_load(gguf, &tokenizer, &err), LB_ENOTFOUND);
    rmdir(folder);
    lb_buf_free(&bytes);
    lb_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_json),
        cmocka_unit_test(test_encodes),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
