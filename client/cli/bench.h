/* SPDX-License-Identifier: Apache-2.0
 *
 * What `limbeck bench` runs, and how it counts.
 *
 * FLOPs of a pass: 2 for each weight of the matrices (head included) and row, 4 * heads * head_dim
 * for each row and key it sees, 2 * rank * (in + out) a row for an adapter. A gradient counts the
 * forward, the same again for dx (layer 0's q, k, v need none), 8 * heads * head_dim a row and key
 * for attention, and 6 * rank * (in + out) for LoRA; what is computed twice counts once. Bytes: the
 * weights once for each pass; to decode also the prompt's keys and values once a step, and each
 * row's own.
 */
#ifndef LB_CLIENT_CLI_BENCH_H
#define LB_CLIENT_CLI_BENCH_H

#include "common/model/model.h"

#define BENCH_RANK 16u         /* to train, unless another is named */
#define BENCH_CHUNK 512u       /* rows of a pass; bytes are counted by it */

typedef enum bench_phase { BENCH_SCORE, BENCH_DECODE, BENCH_TRAIN } bench_phase;

typedef struct bench_job {
    lb_model *model;
    lb_adapter *adapter;       /* NULL without a rank */
    lb_lora_layout layout;
    bench_phase phase;
    uint32_t tokens, batch, prompt;
    uint32_t rank;             /* of the adapter; 0: none */
    uint32_t *ids;             /* [batch * tokens], or [prompt] to decode */
} bench_job;

typedef struct bench_work {
    double tokens, flops, bytes;
} bench_work;

/* Fills ids with random tokens, and makes an adapter of the job's rank on all projections; a rank
 * of 0 becomes BENCH_RANK to train, and is none otherwise. */
LB_NODISCARD lb_status bench_prepare(bench_job *job, lb_err *err);
void bench_release(bench_job *job);
/* One run; *seconds of what the work counts: for decode the steps after the first token. */
LB_NODISCARD lb_status bench_run(const bench_job *job, double *seconds, lb_err *err);
bench_work bench_count(const bench_job *job);

#endif
