/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_dataset - prompts as JSONL: one object a line with "prompt" (text) or "prompt_ids" (tokens),
 * and optionally "answer". Text is tokenised here, once, without parsing special tokens. The
 * tokenised form travels between programs as a binary "prompts" frame.
 *
 * Frame, little-endian: "LBPR", u16 version 1, u16 0, u32 rows, then per row u32 tokens,
 * u32 answer_bytes, tokens x u32, answer bytes.
 */
#ifndef LB_COMMON_TEXT_DATASET_H
#define LB_COMMON_TEXT_DATASET_H

#include "common/base/buf.h"
#include "common/base/status.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_DATASET_ROWS_MAX 1000000u
#define LB_DATASET_LINE_MAX (1u << 20)

typedef struct lb_prompt {
    const uint32_t *tokens;    /* [count], owned by the data set */
    uint32_t count;            /* at least 1 */
    const char *answer;        /* NUL-terminated, NULL if the row has none */
} lb_prompt;

typedef struct lb_dataset {
    lb_prompt *prompts;
    size_t count;
    uint32_t longest;          /* tokens of the longest prompt */
    void *storage;             /* private */
} lb_dataset;

/* Every error names the line ("line 17: ..."; field "prompt"). tokenizer may be NULL when all rows
 * have prompt_ids. vocab: ids must be below it. Empty lines are skipped; no rows is an error. */
LB_NODISCARD lb_status lb_dataset_parse_jsonl(const char *text, size_t length,
                                              const lb_tokenizer *tokenizer, uint32_t vocab,
                                              lb_dataset *out, lb_err *err);
LB_NODISCARD lb_status lb_dataset_encode(const lb_dataset *dataset, lb_buf *out, lb_err *err);
LB_NODISCARD lb_status lb_dataset_decode(const uint8_t *frame, size_t length, lb_dataset *out,
                                         lb_err *err);
void lb_dataset_free(lb_dataset *dataset);

/* exact_numeric: whether the last run of ASCII digits in text, leading zeros stripped, equals
 * answer (leading zeros stripped). Empty on either side is wrong. */
bool lb_grade_exact_numeric(const char *text, size_t length, const char *answer);

#endif
