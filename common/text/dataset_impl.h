/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_dataset_builder - rows on their way into an lb_dataset, which is made at the end, once the
 * storage no longer moves. Nobody but dataset.c and dataset_frame.c includes this.
 */
#ifndef LB_COMMON_TEXT_DATASET_IMPL_H
#define LB_COMMON_TEXT_DATASET_IMPL_H

#include "common/base/buf.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/text/dataset.h"
#include "common/text/tokenizer.h"

#include <stddef.h>
#include <stdint.h>

typedef struct lb_dataset_row {
    size_t first;            /* where its tokens begin */
    uint32_t count;          /* of the prompt; the completion's follow it */
    uint32_t completion;
    size_t answer;           /* where its answer begins, LB_NO_ANSWER */
} lb_dataset_row;

#define LB_NO_ANSWER SIZE_MAX

typedef struct lb_dataset_builder {
    lb_tokens tokens;        /* of all rows, one after the other */
    lb_buf answers;          /* of all rows, each with its NUL */
    lb_buf rows;             /* lb_dataset_row each */
    size_t count;
} lb_dataset_builder;

/* Closes a row: the prompt's tokens from first on, the completion's from completion on. answer is
 * borrowed; length 0 means none. */
LB_NODISCARD lb_status lb_dataset_add_row(lb_dataset_builder *builder, size_t first,
                                          size_t completion, const char *answer, size_t length,
                                          lb_err *err);
/* dataset_chat.c: appends the tokens of the row's messages; those of the answer begin at
 * *completion, which is the end without one. */
LB_NODISCARD lb_status lb_dataset_read_messages(const lb_dataset_options *options,
                                                const lb_json *row, lb_tokens *tokens,
                                                size_t *completion, lb_err *err);
/* Moves what was built into out and leaves the builder empty. */
LB_NODISCARD lb_status lb_dataset_finish(lb_dataset_builder *builder, lb_dataset *out,
                                         lb_err *err);
void lb_dataset_builder_free(lb_dataset_builder *builder);

#endif
