/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* FIPS 180-4 examples: "abc", the two-block message, the empty message, a million "a". */
static const struct {
    const char *text;
    const char *hex;
} known[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
};

static void test_known_answers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint8_t digest[LB_SHA256_BYTES];
        char hex[LB_SHA256_HEX];
        lb_sha256_of(known[i].text, strlen(known[i].text), digest);
        lb_sha256_hex(digest, hex);
        assert_string_equal(hex, known[i].hex);
    }
    uint8_t digest[LB_SHA256_BYTES];
    char hex[LB_SHA256_HEX];
    lb_sha256_of(NULL, 0, digest);
    lb_sha256_hex(digest, hex);
    assert_string_equal(hex, known[0].hex);
}

/* However the bytes are cut, the digest is one. */
static void test_streaming_is_the_same(void **state)
{
    (void)state;
    char *million = malloc(1000000);
    assert_non_null(million);
    memset(million, 'a', 1000000);
    const size_t cuts[] = {1, 63, 64, 65, 4096, 1000000};
    for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
        lb_sha256 *hash = NULL;
        uint8_t digest[LB_SHA256_BYTES];
        char hex[LB_SHA256_HEX];
        assert_int_equal(lb_sha256_new(&hash, NULL), LB_OK);
        for (size_t at = 0; at < 1000000; at += cuts[c])
            lb_sha256_update(hash, million + at, at + cuts[c] < 1000000 ? cuts[c] : 1000000 - at);
        lb_sha256_update(hash, NULL, 0);
        lb_sha256_final(hash, digest);
        lb_sha256_hex(digest, hex);
        lb_sha256_free(hash);
        assert_string_equal(hex,
                            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
    free(million);
    lb_sha256_free(NULL);
}

static void test_parse_takes_64_digits_only(void **state)
{
    (void)state;
    uint8_t digest[LB_SHA256_BYTES];
    char hex[LB_SHA256_HEX], text[LB_SHA256_HEX + 1];
    assert_true(lb_sha256_parse(known[1].hex, digest));
    lb_sha256_hex(digest, hex);
    assert_string_equal(hex, known[1].hex);
    assert_false(lb_sha256_parse(NULL, digest));
    assert_false(lb_sha256_parse("", digest));
    memcpy(text, known[1].hex, LB_SHA256_HEX);
    text[63] = '\0';
    assert_false(lb_sha256_parse(text, digest));
    memcpy(text, known[1].hex, LB_SHA256_HEX);
    memcpy(text + 64, "0", 2);
    assert_false(lb_sha256_parse(text, digest));
    for (int c = 1; c < 256; c++) {
        memcpy(text, known[1].hex, LB_SHA256_HEX);
        text[17] = (char)c;
        bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        assert_int_equal(lb_sha256_parse(text, digest), digit);
    }
}

static void test_constant_time_equality(void **state)
{
    (void)state;
    uint8_t a[32] = {0}, b[32] = {0};
    assert_true(lb_equal_constant_time(a, b, sizeof a));
    assert_true(lb_equal_constant_time(NULL, NULL, 0));
    for (size_t bit = 0; bit < 8 * sizeof b; bit++) {
        b[bit / 8] = (uint8_t)(1u << bit % 8);
        assert_false(lb_equal_constant_time(a, b, sizeof a));
        b[bit / 8] = 0;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_streaming_is_the_same),
        cmocka_unit_test(test_parse_takes_64_digits_only),
        cmocka_unit_test(test_constant_time_equality),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
