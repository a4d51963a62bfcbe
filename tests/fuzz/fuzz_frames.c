/* SPDX-License-Identifier: Apache-2.0
 *
 * Binary frames: the first byte picks the decoder. What decodes is encoded again and must decode to
 * the same bytes.
 */
#include "proto/frames.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A frame that was accepted has one spelling, which is what was read (flags and metrics aside). */
static void must_equal(const lb_buf *again, const uint8_t *data, size_t size)
{
    if (again->status == LB_OK && (again->length != size || memcmp(again->data, data, size) != 0))
        abort();
}

static void fuzz_query(const uint8_t *data, size_t size)
{
    lb_score_query query;
    lb_buf again = {0};
    if (lb_score_query_decode(data, size, &query, NULL) != LB_OK)
        return;
    lb_score_query_encode(&query, &again);
    must_equal(&again, data, size);
    lb_buf_free(&again);
    lb_score_query_free(&query);
}

static void fuzz_answer(const uint8_t *data, size_t size)
{
    lb_score_answer answer;
    lb_buf again = {0};
    if (lb_score_answer_decode(data, size, &answer, NULL) != LB_OK)
        return;
    lb_score_answer_encode(&answer, &again);
    if (again.status == LB_OK && again.length != size)
        abort();
    lb_buf_free(&again);
    lb_score_answer_free(&answer);
}

static void fuzz_unit(const uint8_t *data, size_t size)
{
    lb_unit_result result;
    uint64_t elements = size > 4 ? data[0] : 0;
    if (lb_unit_result_decode(data + (size > 0), size - (size > 0), elements, &result, NULL) ==
        LB_OK)
        lb_unit_result_free(&result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0] % 3) {
    case 0:
        fuzz_query(data + 1, size - 1);
        break;
    case 1:
        fuzz_answer(data + 1, size - 1);
        break;
    default:
        fuzz_unit(data + 1, size - 1);
    }
    return 0;
}
