/* SPDX-License-Identifier: Apache-2.0
 *
 * The block formats against what ggml's own package computes (tests/golden/gguf_blocks.gguf): bit
 * for bit, for random blocks and for scales that are zero, subnormal, huge, infinite or NaN.
 */
#include "common/io/file.h"
#include "common/io/gguf.h"
#include "tests/check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const lb_gguf_type types[] = {
    LB_GGUF_F32, LB_GGUF_F16, LB_GGUF_BF16, LB_GGUF_Q8_0, LB_GGUF_Q4_0, LB_GGUF_Q4_1,
    LB_GGUF_Q4_K, LB_GGUF_Q5_K, LB_GGUF_Q6_K,
};
#define TYPE_COUNT (sizeof types / sizeof *types)

typedef struct recording {
    lb_mapping mapping;
    lb_gguf *file;
} recording;

static int open_recording(void **state)
{
    static recording r;
    lb_err err = {0};
    *state = &r;
    assert_int_equal(lb_file_map("tests/golden/gguf_blocks.gguf", &r.mapping, &err), LB_OK);
    if (lb_gguf_open(r.mapping.data, r.mapping.length, &r.file, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    return 0;
}

static int close_recording(void **state)
{
    recording *r = *state;
    lb_gguf_close(r->file);
    lb_file_unmap(&r->mapping);
    return 0;
}

/* The tensor of a type and what it must expand to. */
static const lb_gguf_tensor *recorded(void **state, lb_gguf_type type, const uint8_t **want,
                                      size_t *count)
{
    const recording *r = *state;
    char name[32];
    snprintf(name, sizeof name, "%s.want", lb_gguf_type_name(type));
    const lb_gguf_tensor *given = lb_gguf_find(r->file, lb_gguf_type_name(type));
    const lb_gguf_tensor *expected = lb_gguf_find(r->file, name);
    assert_non_null(given);
    assert_non_null(expected);
    assert_int_equal(given->type, type);
    assert_int_equal(expected->type, LB_GGUF_F32);
    *count = (size_t)expected->shape[0];
    assert_int_equal(given->shape[0], *count);
    *want = expected->data;
    return given;
}

static void test_blocks_bit_for_bit(void **state)
{
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        size_t count = 0, not_finite = 0;
        const uint8_t *want = NULL;
        const lb_gguf_tensor *t = recorded(state, types[i], &want, &count);
        float *out = malloc(count * sizeof *out);
        assert_non_null(out);
        lb_gguf_expand(t->type, t->data, count, out);
        for (size_t v = 0; v < count; v++) {
            float expected;
            memcpy(&expected, want + v * sizeof expected, sizeof expected);
            not_finite += !isfinite(expected);
            /* A NaN's payload is nobody's promise. */
            if (isnan(expected) ? !isnan(out[v]) : memcmp(&out[v], &expected, 4) != 0)
                fail_msg("%s, value %zu is %.9g, not %.9g", t->name, v, (double)out[v],
                         (double)expected);
        }
        assert_true(not_finite > 0 && not_finite < count / 2);
        free(out);
    }
}

/* A row's pieces, from any address, are the row. */
static void test_pieces_and_alignment(void **state)
{
    for (size_t i = 0; i < TYPE_COUNT; i++) {
        size_t count = 0, values = 0, bytes = 0;
        const uint8_t *want = NULL;
        const lb_gguf_tensor *t = recorded(state, types[i], &want, &count);
        assert_true(lb_gguf_block(t->type, &values, &bytes));
        assert_int_equal(t->bytes, count / values * bytes);
        float *whole = malloc(count * sizeof *whole), *pieces = malloc(count * sizeof *pieces);
        uint8_t *shifted = malloc(bytes + 1);
        assert_true(whole && pieces && shifted);
        lb_gguf_expand(t->type, t->data, count, whole);
        for (size_t b = 0; b < count / values; b++) {
            memcpy(shifted + 1, t->data + b * bytes, bytes);
            lb_gguf_expand(t->type, shifted + 1, values, pieces + b * values);
        }
        assert_memory_equal(pieces, whole, count * sizeof *whole);
        free(whole);
        free(pieces);
        free(shifted);
    }
}

static void test_types(void **state)
{
    static const uint8_t none[256];
    float untouched = 3.0f;
    size_t values = 7, bytes = 7;
    (void)state;
    for (unsigned type = 0; type < 64; type++) {
        bool known = false;
        for (size_t i = 0; i < TYPE_COUNT; i++)
            known = known || (unsigned)types[i] == type;
        assert_int_equal(lb_gguf_block((lb_gguf_type)type, &values, &bytes), known);
        assert_int_equal(strcmp(lb_gguf_type_name((lb_gguf_type)type), "unknown") != 0, known);
        assert_true(!known || (values <= LB_GGUF_BLOCK_MAX && bytes > 0));
        if (!known)
            lb_gguf_expand((lb_gguf_type)type, none, 1, &untouched);
    }
    assert_true(untouched >= 3.0f && untouched <= 3.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_bit_for_bit),
        cmocka_unit_test(test_pieces_and_alignment),
        cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, open_recording, close_recording);
}
