/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_unit - one unit of work: prompts, rollouts, teacher's scores, gradient, frame. A supervised
 * unit takes the completions of the data set instead of rollouts and asks no teacher.
 *
 * The bytes of the frame depend on (job config, data set, adapter, step, unit) and the two models
 * alone: not on the worker, its threads, or what it did before. Nothing here knows HTTP.
 */
#ifndef LB_CLIENT_WORKER_UNIT_H
#define LB_CLIENT_WORKER_UNIT_H

#include "common/base/buf.h"
#include "common/base/status.h"
#include "common/model/model.h"
#include "common/text/dataset.h"
#include "common/text/tokenizer.h"
#include "common/train/plan.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A sequence to be scored by the teacher. */
typedef struct lb_unit_query {
    lb_sequence sequence;
    uint32_t start;            /* first scored entry: the prompt's length */
    float *logprobs;           /* [count] filled from start on */
} lb_unit_query;

/* Fills logprobs of all queries. What it leaves unset, NaN or infinite fails the unit. */
typedef lb_status (*lb_unit_teacher)(void *arg, lb_unit_query *queries, size_t count,
                                     lb_err *err);

typedef struct lb_unit {
    const lb_job_config *config;
    const lb_dataset *dataset;
    lb_model *model;                 /* trainable */
    const lb_adapter *adapter;
    size_t elements;                 /* of the adapter */
    const uint8_t *allowed;          /* [vocab], see lb_unit_allowed */
    const lb_tokenizer *grader;      /* decodes completions for exact_numeric; NULL: no grading */
    uint32_t step, unit;
    lb_unit_teacher teacher;         /* NULL for a supervised unit */
    void *teacher_arg;
    bool (*cancelled)(void *arg);    /* NULL: never */
    void *cancel_arg;
} lb_unit;

typedef struct lb_unit_summary {
    uint64_t tokens;                 /* trained */
    uint32_t rollouts;
    double rollout_seconds, teacher_seconds, gradient_seconds;
} lb_unit_summary;

/* Appends the unit's frame (proto/frames.h) to frame. LB_ECANCELLED; LB_EDATA or LB_ENUMERIC when a
 * logprob under the mask is none; the teacher's own failures. */
LB_NODISCARD lb_status lb_unit_run(const lb_unit *unit, lb_buf *frame, lb_unit_summary *summary,
                                   lb_err *err);

/* Marks in allowed [vocab] what a rollout may consist of: ids with text that are not special, and
 * the ends of a sequence. */
void lb_unit_allowed(const lb_tokenizer *tokenizer, const lb_model_config *config,
                     uint8_t *allowed);

#endif
