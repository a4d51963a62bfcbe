/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/buf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_grows_and_ends_with_nul(void **state)
{
    (void)state;
    lb_buf buf = {0};
    for (unsigned i = 0; i < 1000; i++) {
        lb_buf_append(&buf, "abc", 3);
        assert_int_equal(buf.data[buf.length], 0);
    }
    lb_buf_append(&buf, NULL, 0);
    lb_buf_puts(&buf, "");
    lb_buf_printf(&buf, "%s %d", "end", 42);
    assert_int_equal(buf.length, 3006);
    assert_string_equal((char *)buf.data + 3000, "end 42");
    assert_int_equal(buf.status, LB_OK);
    lb_buf_clear(&buf);
    assert_int_equal(buf.length, 0);
    assert_true(buf.capacity >= 3006);
    lb_buf_puts(&buf, "again");
    assert_string_equal((char *)buf.data, "again");
    lb_buf_free(&buf);
    assert_null(buf.data);
    lb_buf_free(NULL);
}

/* Past the limit nothing is written, the error stays, and the length is the one before. */
static void test_limit_is_sticky(void **state)
{
    (void)state;
    lb_buf buf = {.limit = 8};
    lb_buf_puts(&buf, "12345678");
    assert_int_equal(buf.status, LB_OK);
    lb_buf_append(&buf, "9", 1);
    assert_int_equal(buf.status, LB_ETOOBIG);
    lb_buf_u64(&buf, 1);
    lb_buf_printf(&buf, "%d", 1);
    assert_null(lb_buf_extend(&buf, 0));
    assert_int_equal(buf.length, 8);
    assert_string_equal((char *)buf.data, "12345678");
    lb_buf_clear(&buf);
    assert_int_equal(buf.status, LB_OK);
    lb_buf_printf(&buf, "%s", "123456789");
    assert_int_equal(buf.status, LB_ETOOBIG);
    assert_int_equal(buf.length, 0);
    lb_buf_free(&buf);
}

static void test_absurd_lengths_are_refused(void **state)
{
    const size_t lengths[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX / 2, SIZE_MAX / 2 + 1};
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        lb_buf buf = {0}, limited = {.limit = 100};
        lb_buf_puts(&buf, "x");
        lb_buf_puts(&limited, "x");
        assert_null(lb_buf_extend(&buf, lengths[i]));
        assert_int_equal(buf.status, LB_ENOMEM);
        assert_null(lb_buf_extend(&limited, lengths[i]));
        assert_int_equal(limited.status, LB_ETOOBIG);
        lb_buf_free(&buf);
        lb_buf_free(&limited);
    }
}

static void test_little_endian_round_trip(void **state)
{
    (void)state;
    lb_buf buf = {0};
    lb_buf_append(&buf, "\x7f", 1);
    lb_buf_u16(&buf, 0x0102);
    lb_buf_u32(&buf, 0x03040506);
    lb_buf_u64(&buf, 0x0708090a0b0c0d0eull);
    lb_buf_f32(&buf, -1.5f);
    lb_buf_f64(&buf, 0.1);
    static const uint8_t head[] = {0x7f, 2, 1, 6, 5, 4, 3, 0xe, 0xd, 0xc, 0xb, 0xa, 9, 8, 7};
    assert_memory_equal(buf.data, head, sizeof head);
    lb_reader reader = {.data = buf.data, .length = buf.length};
    assert_int_equal(lb_read_u8(&reader), 0x7f);
    assert_int_equal(lb_read_u16(&reader), 0x0102);
    assert_int_equal(lb_read_u32(&reader), 0x03040506);
    assert_true(lb_read_u64(&reader) == 0x0708090a0b0c0d0eull);
    assert_true(lb_read_f32(&reader) == -1.5f);
    assert_true(lb_read_f64(&reader) == 0.1);
    assert_int_equal(lb_reader_left(&reader), 0);
    assert_false(reader.failed);
    assert_non_null(lb_read_bytes(&reader, 0));
    assert_false(reader.failed);
    assert_int_equal(lb_read_u8(&reader), 0);
    assert_true(reader.failed);
    lb_buf_free(&buf);
}

/* A short read gives zero, fails for good, and never moves. */
static void test_short_reads_stick(void **state)
{
    static const uint8_t bytes[7] = {1, 2, 3, 4, 5, 6, 7};
    (void)state;
    for (size_t length = 0; length < 8; length++) {
        lb_reader reader = {.data = bytes, .length = length};
        assert_true(lb_read_u64(&reader) == 0);
        assert_true(reader.failed);
        assert_int_equal(lb_read_u8(&reader), 0);
        assert_true(lb_read_f32(&reader) == 0.0f);
        assert_true(lb_read_f64(&reader) == 0.0);
        assert_null(lb_read_bytes(&reader, 0));
        assert_int_equal(lb_reader_left(&reader), 0);
    }
    lb_reader huge = {.data = bytes, .length = sizeof bytes, .offset = 3};
    assert_null(lb_read_bytes(&huge, SIZE_MAX));
    lb_reader empty = {0};
    assert_non_null(lb_read_bytes(&empty, 0));
    assert_null(lb_read_bytes(&empty, 1));
}

static void test_take_hands_over(void **state)
{
    (void)state;
    lb_buf buf = {.limit = 100};
    size_t length = 0;
    lb_buf_puts(&buf, "mine");
    uint8_t *bytes = lb_buf_take(&buf, &length);
    assert_int_equal(length, 4);
    assert_string_equal((char *)bytes, "mine");
    assert_null(buf.data);
    assert_int_equal(buf.length, 0);
    free(bytes);
    assert_null(lb_buf_take(&buf, NULL));
}

static void test_checked_sizes(void **state)
{
    static const struct {
        size_t a, b;
        bool product, sum;
    } cases[] = {
        {0, SIZE_MAX, true, true},
        {1, SIZE_MAX, true, false},
        {2, SIZE_MAX / 2, true, true},
        {2, SIZE_MAX / 2 + 1, false, true},
        {SIZE_MAX, SIZE_MAX, false, false},
        {(size_t)1 << 32, (size_t)1 << 32, false, true},
        {(size_t)1 << 32, (size_t)1 << 31, true, true},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t product = 77, sum = 77;
        assert_int_equal(lb_size_mul(cases[i].a, cases[i].b, &product), cases[i].product);
        assert_int_equal(lb_size_add(cases[i].a, cases[i].b, &sum), cases[i].sum);
        assert_true(product == (cases[i].product ? cases[i].a * cases[i].b : 77));
        assert_true(sum == (cases[i].sum ? cases[i].a + cases[i].b : 77));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grows_and_ends_with_nul),
        cmocka_unit_test(test_limit_is_sticky),
        cmocka_unit_test(test_absurd_lengths_are_refused),
        cmocka_unit_test(test_little_endian_round_trip),
        cmocka_unit_test(test_short_reads_stick),
        cmocka_unit_test(test_take_hands_over),
        cmocka_unit_test(test_checked_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
