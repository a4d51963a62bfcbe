/* SPDX-License-Identifier: Apache-2.0
 *
 * Binary frames: round trips, every truncation, hostile counts, values that are not finite.
 */
#include "proto/frames.h"
#include "proto/limits.h"
#include "tests/check.h"

#include <stdlib.h>
#include <string.h>

#define ELEMENTS 37u

static uint32_t first_tokens[] = {1, 2, 3, 4}, second_tokens[] = {7, UINT32_MAX};

static lb_buf query_frame(uint32_t k)
{
    lb_frame_sequence sequences[] = {{first_tokens, 4, 2}, {second_tokens, 2, 1}};
    lb_score_query query = {.sequences = sequences, .count = 2, .k = k, .deadline_ms = 1500};
    lb_buf out = {0};
    memset(query.tokenizer_digest, 0xA5, sizeof query.tokenizer_digest);
    lb_score_query_encode(&query, &out);
    assert_int_equal(out.status, LB_OK);
    return out;
}

static void test_query_round_trip(void **state)
{
    (void)state;
    lb_buf frame = query_frame(3);
    lb_score_query back;
    assert_int_equal(lb_score_query_decode(frame.data, frame.length, &back, NULL), LB_OK);
    assert_int_equal(back.count, 2);
    assert_int_equal(back.k, 3);
    assert_int_equal(back.deadline_ms, 1500);
    assert_int_equal(back.tokenizer_digest[31], 0xA5);
    assert_int_equal(back.sequences[0].start, 2);
    assert_memory_equal(back.sequences[0].tokens, first_tokens, sizeof first_tokens);
    assert_memory_equal(back.sequences[1].tokens, second_tokens, sizeof second_tokens);
    lb_score_query_free(&back);
    for (size_t cut = 0; cut < frame.length; cut++)
        assert_int_not_equal(lb_score_query_decode(frame.data, cut, &back, NULL), LB_OK);
    lb_buf_append(&frame, "x", 1);
    assert_int_equal(lb_score_query_decode(frame.data, frame.length, &back, NULL), LB_EDATA);
    lb_buf_free(&frame);
}

/* Overwrites a field of a good query frame and tells the refusal's field. */
static void test_hostile_queries(void **state)
{
    (void)state;
    const struct { size_t offset; uint32_t value; const char *field; } cases[] = {
        {0, 0x12345678, "magic"}, {4, 2, "version"}, {6, 1, "flags"},
        {8, 0, "sequences"}, {8, LB_LIMIT_SEQUENCES + 1, "sequences"},
        {8, UINT32_MAX, "sequences"}, {8, 3, "sequences[2]"}, {12, LB_LIMIT_TOP_K + 1, "k"},
        {12, UINT32_MAX, "k"}, {52, 0, "sequences[0]"}, {52, 5, "sequences[1].start"},
        {52, UINT32_MAX, "sequences[0]"}, {52, 0x80000000u, "sequences[0]"},
        {52, 0x40000001u, "sequences[0]"}, {56, 0, "sequences[0].start"},
        {56, 5, "sequences[0].start"}, {56, UINT32_MAX, "sequences[0].start"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_buf frame = query_frame(0);
        lb_score_query back;
        lb_err err = {0};
        size_t width = cases[i].offset == 4 || cases[i].offset == 6 ? 2 : 4;
        memcpy(frame.data + cases[i].offset, &cases[i].value, width);
        assert_int_not_equal(lb_score_query_decode(frame.data, frame.length, &back, &err), LB_OK);
        assert_string_equal(err.field, cases[i].field);
        lb_buf_free(&frame);
    }
}

static void test_answer_round_trip(void **state)
{
    (void)state;
    for (int with = 0; with < 4; with++) {
        uint32_t k = with & 1 ? 2 : 0;
        float actual[] = {-0.5f, -INFINITY, -2.0f}, entropy[] = {0.1f, 0.2f, 0.3f};
        float top[] = {-1, -2, -3, -4, -5, -6}, tail[] = {0.9f, 0.8f, 0.7f};
        uint32_t ids[] = {1, 2, 3, 4, 5, 6};
        lb_score_rows rows = {3, actual, k ? top : NULL, k ? ids : NULL, k ? tail : NULL,
                              with & 2 ? entropy : NULL};
        lb_score_answer answer = {.sequences = &rows, .count = 1, .k = k, .vocab = 320,
                                  .teacher_version = 0x0123456789abcdefu, .queue_seconds = 0.25,
                                  .compute_seconds = 1.5, .has_entropy = with & 2};
        lb_score_answer back;
        lb_buf frame = {0};
        lb_score_answer_encode(&answer, &frame);
        assert_int_equal(lb_score_answer_decode(frame.data, frame.length, &back, NULL), LB_OK);
        assert_true(back.teacher_version == answer.teacher_version);
        assert_true(back.compute_seconds == 1.5 && back.vocab == 320);
        assert_memory_equal(back.sequences[0].actual, actual, sizeof actual);
        if (k) {
            assert_memory_equal(back.sequences[0].top_id, ids, sizeof ids);
            assert_memory_equal(back.sequences[0].top_logprob, top, sizeof top);
            assert_memory_equal(back.sequences[0].tail_mass, tail, sizeof tail);
        } else {
            assert_null(back.sequences[0].top_id);
        }
        assert_true(back.has_entropy == (back.sequences[0].entropy != NULL));
        lb_score_answer_free(&back);
        for (size_t cut = 0; cut < frame.length; cut++)
            assert_int_not_equal(lb_score_answer_decode(frame.data, cut, &back, NULL), LB_OK);
        uint32_t huge = UINT32_MAX;
        memcpy(frame.data + 64, &huge, sizeof huge);
        assert_int_equal(lb_score_answer_decode(frame.data, frame.length, &back, NULL), LB_EDATA);
        lb_buf_free(&frame);
    }
}

static lb_buf unit_frame(float *gradient)
{
    lb_unit_result result = {.step = 3, .unit = 5, .tokens = 77, .elements = ELEMENTS,
                             .gradient = gradient};
    lb_buf out = {0};
    lb_unit_metrics_init(result.metrics);
    result.metrics[LB_METRIC_LOSS] = -1.25;
    lb_unit_result_encode(&result, &out);
    return out;
}

static void test_unit_round_trip(void **state)
{
    (void)state;
    float gradient[ELEMENTS];
    for (uint32_t i = 0; i < ELEMENTS; i++)
        gradient[i] = (float)i * 0.25f - 3.0f;
    lb_buf frame = unit_frame(gradient);
    lb_unit_result back;
    assert_int_equal(lb_unit_result_decode(frame.data, frame.length, ELEMENTS, &back, NULL),
                     LB_OK);
    assert_int_equal(back.step, 3);
    assert_int_equal(back.unit, 5);
    assert_int_equal(back.tokens, 77);
    assert_true(back.metrics[LB_METRIC_LOSS] == -1.25);
    assert_memory_equal(back.gradient, gradient, sizeof gradient);
    lb_unit_result_free(&back);
    for (size_t cut = 0; cut < frame.length; cut++)
        assert_int_not_equal(lb_unit_result_decode(frame.data, cut, ELEMENTS, &back, NULL), LB_OK);
    lb_err err = {0};
    assert_int_equal(lb_unit_result_decode(frame.data, frame.length, ELEMENTS + 1, &back, &err),
                     LB_EDATA);
    assert_string_equal(err.field, "elements");
    lb_buf_free(&frame);
}

static void test_unit_refuses_what_is_not_finite(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        float gradient[ELEMENTS] = {0};
        lb_unit_result back;
        lb_err err = {0};
        gradient[ELEMENTS - 1] = bad[i];
        lb_buf frame = unit_frame(gradient);
        assert_int_equal(lb_unit_result_decode(frame.data, frame.length, ELEMENTS, &back, &err),
                         LB_ENUMERIC);
        assert_string_equal(err.field, "gradient");
        lb_buf_free(&frame);
    }
}

/* Offsets of the answer's header and first sequence, and of the unit's. */
static void test_hostile_counts(void **state)
{
    (void)state;
    const uint32_t values[] = {0, 1, 2, LB_LIMIT_TOP_K, LB_LIMIT_SEQUENCES, LB_LIMIT_SEQUENCES + 1,
                               1u << 30, 1u << 31, UINT32_MAX};
    const size_t answer_at[] = {8, 12, 64}, unit_at[] = {16, 20, 32};
    float row[2] = {-1.0f, -2.0f}, gradient[ELEMENTS] = {0};
    uint32_t ids[2] = {1, 2};
    lb_score_rows rows = {1, row, row, ids, row, row};
    lb_score_answer answer = {.sequences = &rows, .count = 1, .k = 2, .has_entropy = true};
    for (size_t i = 0; i < 3 * sizeof values / sizeof *values; i++) {
        uint32_t value = values[i / 3], before;
        lb_score_answer back;
        lb_unit_result result;
        lb_buf frame = {0};
        lb_score_answer_encode(&answer, &frame);
        memcpy(&before, frame.data + answer_at[i % 3], sizeof before);
        memcpy(frame.data + answer_at[i % 3], &value, sizeof value);
        lb_status status = lb_score_answer_decode(frame.data, frame.length, &back, NULL);
        assert_int_equal(status == LB_OK, value == before);
        if (status == LB_OK)
            lb_score_answer_free(&back);
        lb_buf_free(&frame);
        frame = unit_frame(gradient);
        memcpy(&before, frame.data + unit_at[i % 3], sizeof before);
        memcpy(frame.data + unit_at[i % 3], &value, sizeof value);
        status = lb_unit_result_decode(frame.data, frame.length, ELEMENTS, &result, NULL);
        assert_int_equal(status == LB_OK, value == before);
        if (status == LB_OK)
            lb_unit_result_free(&result);
        lb_buf_free(&frame);
    }
}

static void test_metrics_fold(void **state)
{
    (void)state;
    double to[LB_UNIT_METRIC_COUNT], from[LB_UNIT_METRIC_COUNT];
    lb_unit_metrics_init(to);
    for (int unit = 1; unit <= 3; unit++) {
        for (int m = 0; m < LB_UNIT_METRIC_COUNT; m++)
            from[m] = unit;
        lb_unit_metrics_fold(to, from);
    }
    assert_true(to[LB_METRIC_LOSS] == 6.0);
    assert_true(to[LB_METRIC_RATIO_MAX] == 3.0);
    assert_true(to[LB_METRIC_ADVANTAGE_MIN] == 1.0);
    for (int m = 0; m < LB_UNIT_METRIC_COUNT; m++)
        assert_true(strlen(lb_unit_metric_name((lb_unit_metric)m)) > 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_query_round_trip),
        cmocka_unit_test(test_hostile_queries),
        cmocka_unit_test(test_answer_round_trip),
        cmocka_unit_test(test_unit_round_trip),
        cmocka_unit_test(test_unit_refuses_what_is_not_finite),
        cmocka_unit_test(test_hostile_counts),
        cmocka_unit_test(test_metrics_fold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
