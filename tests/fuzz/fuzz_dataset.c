/* SPDX-License-Identifier: Apache-2.0
 *
 * The first byte chooses: an even one reads the rest as a prompts frame, which has to encode to the
 * same bytes again; an odd one reads it as JSONL, whose frame has to decode to the same prompts.
 */
#include "common/base/buf.h"
#include "common/text/dataset.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define VOCAB 1000u

static void fuzz_frame(const uint8_t *frame, size_t length)
{
    lb_dataset dataset = {0};
    lb_buf again = {0};
    lb_err err = {0};
    if (lb_dataset_decode(frame, length, &dataset, &err) != LB_OK)
        return;
    if (lb_dataset_encode(&dataset, &again, &err) != LB_OK || again.length != length ||
        memcmp(again.data, frame, length) != 0)
        abort();
    lb_buf_free(&again);
    lb_dataset_free(&dataset);
}

static void fuzz_jsonl(const char *text, size_t length)
{
    lb_dataset dataset = {0}, decoded = {0};
    lb_buf frame = {0};
    lb_err err = {0};
    lb_dataset_options options = {.vocab = VOCAB, .end = LB_DATASET_NO_END};
    if (lb_dataset_parse_jsonl(text, length, &options, &dataset, &err) != LB_OK)
        return;
    if (lb_dataset_encode(&dataset, &frame, &err) != LB_OK ||
        lb_dataset_decode(frame.data, frame.length, &decoded, &err) != LB_OK ||
        decoded.count != dataset.count || decoded.longest != dataset.longest)
        abort();
    for (size_t i = 0; i < dataset.count; i++) {
        const char *answer = dataset.prompts[i].answer;
        (void)lb_grade_exact_numeric(text, length, answer);
        if ((answer == NULL) != (decoded.prompts[i].answer == NULL) ||
            (answer != NULL && strcmp(answer, decoded.prompts[i].answer) != 0))
            abort();
    }
    lb_buf_free(&frame);
    lb_dataset_free(&decoded);
    lb_dataset_free(&dataset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    if (data[0] % 2 == 0)
        fuzz_frame(data + 1, size - 1);
    else
        fuzz_jsonl((const char *)data + 1, size - 1);
    return 0;
}
