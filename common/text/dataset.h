/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_dataset - prompts as JSONL. A line is an object with one of
 *   "prompt"      text, tokenised without parsing special tokens
 *   "prompt_ids"  tokens
 *   "messages"    a conversation, put into the chat template: up to the user's last message it is
 *                 the prompt; an answer of the assistant after that is the completion
 * and optionally "answer" and, for supervised training, "completion" (text, to which the end token
 * is added) or "completion_ids" (tokens as they are). Beside messages, "chat_template_kwargs" may
 * hold enable_thinking. The tokenised form travels between programs as a binary "prompts" frame.
 *
 * Frame, little-endian: "LBPR", u16 version 2, u16 0, u32 rows, then per row u32 tokens,
 * u32 completion tokens, u32 answer_bytes, tokens x u32, completion tokens x u32, answer bytes.
 */
#ifndef LB_COMMON_TEXT_DATASET_H
#define LB_COMMON_TEXT_DATASET_H

#include "common/base/buf.h"
#include "common/base/status.h"
#include "common/text/chat.h"
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
    const uint32_t *completion;  /* [completion_count], owned by the data set */
    uint32_t completion_count;   /* 0: the row has none */
} lb_prompt;

typedef struct lb_dataset {
    lb_prompt *prompts;
    size_t count;
    uint32_t longest;          /* tokens of the longest prompt */
    uint32_t longest_row;      /* tokens of the longest prompt with its completion */
    void *storage;             /* private */
} lb_dataset;

#define LB_DATASET_NO_END UINT32_MAX

typedef struct lb_dataset_options {
    const lb_tokenizer *tokenizer;  /* may be NULL when all rows are token ids */
    uint32_t vocab;            /* ids must be below it */
    uint32_t end;              /* token that ends a completion given as text, LB_DATASET_NO_END */
    bool completions;          /* every row must have a completion */
    const lb_chat *chat;       /* renders messages; NULL: they are refused, */
    const lb_err *no_chat;     /* with the message of this, if there is one */
    lb_chat_options chat_options;  /* thinking and date, where a row does not say otherwise */
} lb_dataset_options;

/* Every error names the line ("line 17: ..."; field "prompt"). Empty lines are skipped; no rows is
 * an error. */
LB_NODISCARD lb_status lb_dataset_parse_jsonl(const char *text, size_t length,
                                              const lb_dataset_options *options,
                                              lb_dataset *out, lb_err *err);
LB_NODISCARD lb_status lb_dataset_encode(const lb_dataset *dataset, lb_buf *out, lb_err *err);
LB_NODISCARD lb_status lb_dataset_decode(const uint8_t *frame, size_t length, lb_dataset *out,
                                         lb_err *err);
void lb_dataset_free(lb_dataset *dataset);

/* exact_numeric: whether the last run of ASCII digits in text, leading zeros stripped, equals
 * answer (leading zeros stripped). Empty on either side is wrong. */
bool lb_grade_exact_numeric(const char *text, size_t length, const char *answer);

#endif
