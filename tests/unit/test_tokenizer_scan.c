/* SPDX-License-Identifier: Apache-2.0
 *
 * The scanners against PCRE2 running the same expressions, on random text. Unicode versions differ
 * between the two, so the characters are of Unicode 9.
 */
#include "common/base/buf.h"
#include "common/text/tokenizer_impl.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define TEXTS 3000u
#define PARTS_MAX 40u

static const char *const parts[] = {
    "a", "Z", "\xc3\xa9", "\xe6\x97\xa5", "\xc5\xbf", "\xd0\x96", "\xf0\x90\x90\x80", "\xce\xa9",
    "s", "S", "t", "re", "RE", "Ve", "m", "ll", "L", "d", "D", "'", "'", "'", "\xe2\x80\x99",
    "1", "23", "456", "\xc2\xb2", "\xd9\xa3", "\xe2\x85\xa7", "\xf0\x9d\x9f\x98",
    " ", " ", " ", "  ", "   ", "\n", "\r", "\r\n", "\n\n", "\t", "\v", "\f", "\x1c", "\xc2\x85",
    "\xc2\xa0", "\xe1\x9a\x80", "\xe2\x80\x82", "\xe2\x80\xa8", "\xe3\x80\x80", "\xe1\xa0\x8e",
    ".", "!?", "_", "-", "/", "<|", "\xe2\x82\xac", "\xf0\x9f\xa4\x97", "\xcc\x81", "\xe2\x80\x8d",
    "\xef\xb8\x8f", "\xf3\xa0\x84\x80", "\xf4\x8f\xbf\xbf",
};

/* Marsaglia's xorshift; the texts are the same every time. */
static uint32_t draw(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void make_text(uint32_t *random, lb_buf *out)
{
    uint32_t count = draw(random) % PARTS_MAX + 1;
    lb_buf_clear(out);
    for (uint32_t i = 0; i < count; i++)
        lb_buf_puts(out, parts[draw(random) % (sizeof parts / sizeof parts[0])]);
}

static void compare(lb_scan_kind kind, const char *pattern)
{
    lb_span source = {pattern, strlen(pattern)};
    lb_regex *regex = NULL;
    lb_matcher *matcher = NULL;
    lb_err err = {0};
    lb_buf text = {0};
    uint8_t *classes = lb_char_classes();
    uint32_t random = 7u + (uint32_t)kind;
    assert_non_null(classes);
    assert_int_equal(lb_scan_find(source), kind);
    assert_int_equal(lb_regex_compile(source, "pattern", &regex, &err), LB_OK);
    assert_int_equal(lb_matcher_create(&matcher, &err), LB_OK);
    for (unsigned i = 0; i < TEXTS; i++) {
        make_text(&random, &text);
        lb_span span = {(const char *)text.data, text.length};
        for (size_t at = 0; at < span.length;) {
            lb_match match = {0};
            size_t end = lb_scan_next(kind, classes, span, at);
            assert_int_equal(lb_regex_find(regex, matcher, span, at, &match, &err), LB_OK);
            if (!match.found || match.start != at || match.end != end)
                fail_msg("kind %d, text %u \"%s\": %zu..%zu, not %zu..%zu", (int)kind, i, span.data,
                         at, end, match.start, match.end);
            at = end;
        }
    }
    lb_buf_free(&text);
    lb_matcher_free(matcher);
    lb_regex_free(regex);
    free(classes);
}

static void test_scanners(void **state)
{
    (void)state;
    compare(LB_SCAN_GPT2, lb_pattern_gpt2);
    compare(LB_SCAN_LLAMA3, lb_pattern_llama3);
    compare(LB_SCAN_QWEN, lb_pattern_qwen);
    assert_int_equal(lb_scan_find((lb_span){"\\p{L}+", 6}), LB_SCAN_NONE);
}

/* Letters and numbers that Unicode got after version 14 have the classes of version 16. */
static void test_newer_classes(void **state)
{
    (void)state;
    uint8_t *classes = lb_char_classes();
    assert_non_null(classes);
    assert_int_equal(classes[0x1c8a], LB_CLASS_LETTER);
    assert_int_equal(classes[0x2ee5d], LB_CLASS_LETTER);
    assert_int_equal(classes[0x323af], LB_CLASS_LETTER);
    assert_int_equal(classes[0x1ccf9], LB_CLASS_NUMBER);
    assert_int_equal(classes[0x11de0], LB_CLASS_OTHER);
    assert_true(lb_char_is_numeric(0x11de0));
    assert_int_equal(classes['\n'], LB_CLASS_NEWLINE);
    assert_int_equal(classes[0x3000], LB_CLASS_SPACE);
    assert_int_equal(classes[0x180e], LB_CLASS_OTHER);
    free(classes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scanners),
                                       cmocka_unit_test(test_newer_classes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
