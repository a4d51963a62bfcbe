/* SPDX-License-Identifier: Apache-2.0
 *
 * The quickstart's tokenizer against the vectors recorded from the Hugging Face library.
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
