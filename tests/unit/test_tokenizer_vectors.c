/* SPDX-License-Identifier: Apache-2.0
 *
 * The quickstart's tokenizer, and a small one for each option, against the vectors recorded from
 * the Hugging Face library.
 */
#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/io/file.h"
#include "common/text/tokenizer.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#define MODEL_DIR "deploy/quickstart/models/student"
#define VECTORS "tests/golden/tokenizer_vectors.json"
#define OPTIONS "tests/golden/tokenizer_options.json"
#define VECTORS_BYTES_MAX (16u << 20)

static const lb_json *item(const lb_json *object, const char *key)
{
    const lb_json *node = lb_json_get(object, key);
    assert_non_null(node);
    return node;
}

static void compare_ids(const lb_tokenizer *tokenizer, const lb_json *row, bool special)
{
    const lb_json *text = item(row, "text");
    const lb_json *ids = item(row, special ? "ids" : "ids_plain");
    lb_tokens tokens = {0};
    lb_err err = {0};
    assert_int_equal(lb_tokenizer_encode(tokenizer, lb_json_string(text),
                                         lb_json_string_length(text), special, true, &tokens,
                                         &err), LB_OK);
    assert_int_equal(tokens.count, lb_json_array_size(ids));
    for (size_t i = 0; i < tokens.count; i++)
        assert_int_equal(tokens.ids[i], lb_json_integer(lb_json_at(ids, i)));
    const char *const keys[] = {"decoded", "decoded_skip_special"};
    for (size_t i = 0; special && i < 2; i++) {
        lb_buf decoded = {0};
        const lb_json *expected = item(row, keys[i]);
        lb_tokenizer_decode(tokenizer, tokens.ids, tokens.count, i == 1, &decoded);
        assert_int_equal(decoded.length, lb_json_string_length(expected));
        if (decoded.length > 0)
            assert_memory_equal(decoded.data, lb_json_string(expected), decoded.length);
        lb_buf_free(&decoded);
    }
    lb_tokens_free(&tokens);
}

/* Removes every byte of U+FFFD, and every byte that cannot stand in UTF-8 where it stands. */
static void keep_valid(const char *text, size_t length, lb_buf *out)
{
    static const char replacement[] = "\xef\xbf\xbd";
    for (size_t at = 0; at < length;) {
        uint8_t first = (uint8_t)text[at];
        size_t need = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
        size_t have = need == 0 ? 0 : 1;
        while (have < need && at + have < length && ((uint8_t)text[at + have] & 0xc0) == 0x80)
            have++;
        if (have > 0 && have == need && memcmp(text + at, replacement, need) != 0)
            lb_buf_append(out, text + at, need);
        at += have == 0 ? 1 : have;
    }
    lb_buf_append(out, "", 1);
}

/* Ids that end or begin inside a character: the recorded text has U+FFFD there, ours the bytes. */
static void compare_decoded(const lb_tokenizer *tokenizer, const lb_json *row)
{
    const lb_json *ids = item(row, "ids"), *text = item(row, "decoded");
    lb_buf decoded = {0}, ours = {0}, theirs = {0};
    for (size_t i = 0; i < lb_json_array_size(ids); i++) {
        uint32_t id = (uint32_t)lb_json_integer(lb_json_at(ids, i));
        lb_tokenizer_decode(tokenizer, &id, 1, false, &decoded);
    }
    keep_valid((const char *)decoded.data, decoded.length, &ours);
    keep_valid(lb_json_string(text), lb_json_string_length(text), &theirs);
    assert_string_equal((const char *)ours.data, (const char *)theirs.data);
    lb_buf_free(&decoded);
    lb_buf_free(&ours);
    lb_buf_free(&theirs);
}

static void test_vectors(void **state)
{
    (void)state;
    lb_tokenizer *tokenizer = NULL;
    lb_json *root = NULL;
    lb_buf text = {0};
    lb_err err = {0};
    if (!lb_path_is_file(MODEL_DIR "/tokenizer.json") || !lb_path_is_file(VECTORS)) {
        print_message("skipped: %s or %s is not here\n", MODEL_DIR, VECTORS);
        skip();
    }
    assert_int_equal(lb_tokenizer_load(MODEL_DIR, &tokenizer, &err), LB_OK);
    assert_int_equal(lb_file_read(VECTORS, VECTORS_BYTES_MAX, &text, &err), LB_OK);
    assert_int_equal(lb_json_parse((const char *)text.data, text.length, &root, &err), LB_OK);
    assert_int_equal(lb_tokenizer_size(tokenizer), lb_json_integer(item(root, "vocabulary")));
    const lb_json *encode = item(root, "encode"), *decode = item(root, "decode");
    assert_true(lb_json_array_size(encode) > 50);
    for (size_t i = 0; i < lb_json_array_size(encode); i++) {
        compare_ids(tokenizer, lb_json_at(encode, i), true);
        compare_ids(tokenizer, lb_json_at(encode, i), false);
    }
    for (size_t i = 0; i < lb_json_array_size(decode); i++)
        compare_decoded(tokenizer, lb_json_at(decode, i));
    lb_json_free(root);
    lb_buf_free(&text);
    lb_tokenizer_free(tokenizer);
}

/* ---- one tokenizer for each option ---- */

static void check_ids(const char *name, const lb_json *row, const lb_tokens *tokens,
                      const lb_offsets *offsets)
{
    const lb_json *ids = item(row, "ids"), *pairs = item(row, "offsets");
    const char *text = lb_json_string(item(row, "text"));
    if (tokens->count != lb_json_array_size(ids) || offsets->count != tokens->count)
        fail_msg("%s: \"%s\": %zu tokens, not %zu", name, text, tokens->count,
                 lb_json_array_size(ids));
    for (size_t i = 0; i < tokens->count; i++) {
        const lb_json *pair = lb_json_at(pairs, i);
        int64_t id = lb_json_integer(lb_json_at(ids, i));
        int64_t start = lb_json_integer(lb_json_at(pair, 0));
        int64_t end = lb_json_integer(lb_json_at(pair, 1));
        lb_offset ours = offsets->items[i];
        if (tokens->ids[i] != id || ours.start != start || ours.end != end)
            fail_msg("%s: \"%s\": token %zu is %u at %u..%u, not %lld at %lld..%lld", name, text, i,
                     tokens->ids[i], ours.start, ours.end, (long long)id, (long long)start,
                     (long long)end);
    }
}

static void check_text(const char *name, const lb_tokenizer *tokenizer, const lb_json *row,
                       const lb_tokens *tokens)
{
    static const char *const keys[] = {"decoded", "decoded_skip_special"};
    for (size_t i = 0; i < 2; i++) {
        const lb_json *expected = lb_json_get(row, keys[i]);
        lb_buf decoded = {0};
        if (expected == NULL)
            continue;
        lb_buf_puts(&decoded, "before");
        lb_tokenizer_decode(tokenizer, tokens->ids, tokens->count, i == 1, &decoded);
        if (decoded.length != lb_json_string_length(expected) + 6 ||
            memcmp(decoded.data + 6, lb_json_string(expected), decoded.length - 6) != 0)
            fail_msg("%s: decoded \"%s\", not \"%s\"", name, (const char *)decoded.data + 6,
                     lb_json_string(expected));
        lb_buf_free(&decoded);
    }
}

/* A short text has no cache of pieces; the row's text over and over has one, and each of its parts
 * has to become the same ids. */
static void check_cached(const char *name, const lb_tokenizer *tokenizer, const lb_json *row)
{
    const char *text = lb_json_string(item(row, "text"));
    lb_buf one = {0}, many = {0};
    lb_tokens once = {0}, tokens = {0};
    lb_err err = {0};
    lb_buf_puts(&one, "</s>");
    lb_buf_append(&one, text, lb_json_string_length(item(row, "text")));
    while (many.length < 8192)
        lb_buf_append(&many, one.data, one.length);
    assert_int_equal(lb_tokenizer_encode(tokenizer, (const char *)one.data, one.length, true, false,
                                         &once, &err), LB_OK);
    assert_int_equal(lb_tokenizer_encode(tokenizer, (const char *)many.data, many.length, true,
                                         false, &tokens, &err), LB_OK);
    if (tokens.count != once.count * (many.length / one.length))
        fail_msg("%s: \"%s\" repeated: %zu tokens", name, text, tokens.count);
    for (size_t i = 0; i < tokens.count; i++)
        if (tokens.ids[i] != once.ids[i % once.count])
            fail_msg("%s: \"%s\" repeated: token %zu", name, text, i);
    lb_tokens_free(&once);
    lb_tokens_free(&tokens);
    lb_buf_free(&one);
    lb_buf_free(&many);
}

static void check_row(const char *name, const lb_tokenizer *tokenizer, const lb_json *row)
{
    const lb_json *text = item(row, "text");
    bool special = lb_json_bool(item(row, "special"));
    unsigned flags = special ? LB_ENCODE_SPECIAL | LB_ENCODE_BOS : 0u;
    lb_tokens tokens = {0}, plain = {0};
    lb_offsets offsets = {0};
    lb_err err = {0};
    assert_int_equal(lb_tokenizer_encode_offsets(tokenizer, lb_json_string(text),
                                                 lb_json_string_length(text), flags, &tokens,
                                                 &offsets, &err), LB_OK);
    check_ids(name, row, &tokens, &offsets);
    check_text(name, tokenizer, row, &tokens);
    assert_int_equal(lb_tokenizer_encode(tokenizer, lb_json_string(text),
                                         lb_json_string_length(text), special, special, &plain,
                                         &err), LB_OK);
    assert_int_equal(plain.count, tokens.count);
    if (plain.count > 0)
        assert_memory_equal(plain.ids, tokens.ids, plain.count * sizeof *plain.ids);
    check_cached(name, tokenizer, row);
    lb_tokens_free(&plain);
    lb_tokens_free(&tokens);
    lb_offsets_free(&offsets);
}

static void test_options(void **state)
{
    (void)state;
    lb_json *root = NULL;
    lb_buf text = {0};
    lb_err err = {0};
    assert_int_equal(lb_file_read(OPTIONS, VECTORS_BYTES_MAX, &text, &err), LB_OK);
    assert_int_equal(lb_json_parse((const char *)text.data, text.length, &root, &err), LB_OK);
    assert_true(lb_json_array_size(root) >= 20);
    for (size_t i = 0; i < lb_json_array_size(root); i++) {
        const lb_json *config = lb_json_at(root, i), *rows = item(config, "rows");
        const char *name = lb_json_string(item(config, "name"));
        lb_tokenizer *tokenizer = NULL;
        lb_buf json = {0};
        lb_json_dump(&json, item(config, "tokenizer"), false);
        if (lb_tokenizer_parse((const char *)json.data, json.length, &tokenizer, &err) != LB_OK)
            fail_msg("%s: %s: %s", name, err.field, err.message);
        for (size_t k = 0; k < lb_json_array_size(rows); k++)
            check_row(name, tokenizer, lb_json_at(rows, k));
        lb_tokenizer_free(tokenizer);
        lb_buf_free(&json);
    }
    lb_json_free(root);
    lb_buf_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors),
                                       cmocka_unit_test(test_options)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
