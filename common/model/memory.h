/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_memory_estimate - how much memory a model will take, from its config alone.
 */
#ifndef LB_COMMON_MODEL_MEMORY_H
#define LB_COMMON_MODEL_MEMORY_H

#include "common/base/status.h"
#include "common/io/config.h"
#include "common/model/model.h"

#include <stddef.h>
#include <stdint.h>

typedef struct lb_memory_estimate {
    size_t weights;            /* bytes: the packings and vectors; lb_model_weight_bytes */
    size_t rope;               /* the rotary table */
    size_t kv_and_scratch;     /* what the first sequence makes the op stream's arena hold */
    size_t total_resident;     /* the process (VmRSS): the above and the program itself */
} lb_memory_estimate;

/* Predicts the resident size of a daemon that loaded such a model on the CPU and scored one
 * sequence of `tokens` tokens without an adapter, to within 10 %. While it loads, a process besides
 * maps the files, whose pages the system can drop. LB_EINVAL: tokens is 0 or more than the model's
 * positions; options are out of range. */
LB_NODISCARD lb_status lb_model_estimate_memory(const lb_model_config *config,
                                                const lb_model_options *options, uint32_t tokens,
                                                lb_memory_estimate *out, lb_err *err);

#endif
