/* SPDX-License-Identifier: Apache-2.0
 *
 * What head.c and head_sample.c share: logits of a tile of the vocabulary, and the running softmax.
 * Tiles of a range are folded in order, and then the ranges; both have a fixed size, so lse has the
 * same bits wherever it is computed and whoever computes which range.
 */
#ifndef LB_COMMON_TENSOR_CPU_HEAD_IMPL_H
#define LB_COMMON_TENSOR_CPU_HEAD_IMPL_H

#include "common/tensor/cpu/cpu.h"
#include "common/tensor/cpu/vmath.h"

/* tests/bench/freedom tries others. */
#ifndef HEAD_TILE
#define HEAD_TILE 256u           /* ids; a multiple of LB_PANEL and of LB_QUANT_BLOCK */
#endif
#ifndef HEAD_RANGE
#define HEAD_RANGE 4096u         /* ids; a multiple of HEAD_TILE */
#endif
#define HEAD_ROWS 96u            /* rows of one task, at most */

/* sum = sum exp(logit - max), weighted = sum exp(logit - max) (logit - max) over what was seen. */
typedef struct head_state {
    float max, sum, weighted;
} head_state;

static inline size_t head_tile_width(size_t vocab, size_t first)
{
    return vocab - first < HEAD_TILE ? vocab - first : HEAD_TILE;
}

/* Rows of h as the weights' dtype wants them. */
typedef struct head_rows {
    lb_tensor h;
    lb_quantised q;
} head_rows;

/* out[rows, width] (rows `ld` apart): logits of ids first .. first + width - 1 for rows
 * [row, row + rows) of h. */
static inline void head_logits(const lb_weight *w, const head_rows *h, size_t row, size_t rows,
                               size_t first, size_t width, float *out, size_t ld)
{
    lb_product p = lb_product_with(w, first, width);
    lb_quantised q = lb_quantised_from(&h->q, row);
    p.a = row_f32(h->h, row);
    p.lda = h->h.stride;
    p.q = &q;
    p.c = out;
    p.ldc = ld;
    LB_K(lb_product_part)(&p, 0, rows, 0, (width + LB_PANEL - 1) / LB_PANEL);
}

static inline vf head_load(const float *logits, size_t left)
{
    return left >= LB_LANES ? vf_load(logits) : vf_load_n(logits, left, -__builtin_inff());
}

/* What was seen, then what `next` saw. */
static inline void head_merge(head_state *state, const head_state *next, bool with_weighted)
{
    if (state->sum == 0.0f) {
        *state = *next;
        return;
    }
    float top = state->max > next->max ? state->max : next->max;
    float a = exp_f32(state->max - top), b = exp_f32(next->max - top);
    float old = a * __builtin_fmaf(state->sum, state->max - top, state->weighted);
    float new = b * __builtin_fmaf(next->sum, next->max - top, next->weighted);
    state->sum = __builtin_fmaf(state->sum, a, next->sum * b);
    state->weighted = with_weighted ? old + new : 0.0f;
    state->max = top;
}

/* Folds a tile into the state. Entropy's sum is skipped unless asked for. */
static inline void head_fold(head_state *state, const float *logits, size_t width,
                             bool with_weighted)
{
    vf largest = vf_set(-__builtin_inff()), sum = vf_set(0.0f), weighted = vf_set(0.0f);
    for (size_t i = 0; i < width; i += LB_LANES)
        largest = vf_max(head_load(logits + i, width - i), largest);
    float max = vf_largest(largest);
    for (size_t i = 0; i < width; i += LB_LANES) {
        vf below = vf_sub(head_load(logits + i, width - i), vf_set(max));
        vf e = vf_exp(below);
        sum = vf_add(sum, e);
        /* exp is 0 where below is -infinity, and 0 times that would be NaN. */
        if (with_weighted)
            weighted = vf_fma(e, vf_max(below, vf_set(EXP_LOWEST)), weighted);
    }
    head_state tile = {max, vf_sum(sum), with_weighted ? vf_sum(weighted) : 0.0f};
    head_merge(state, &tile, with_weighted);
}

static inline float head_lse(const head_state *state)
{
    return state->max + log_f32(state->sum);
}

/* How rows and ranges of the vocabulary are shared out: blocks of rows, and for each as many ranges
 * together as leave about four tasks a thread. */
typedef struct head_plan {
    size_t rows, rows_per_task, row_tasks;
    size_t ranges, ranges_per_task, range_tasks;
} head_plan;

static inline head_plan head_share(const lb_cpu *cpu, size_t rows, size_t vocab)
{
    size_t wanted = 4 * (size_t)lb_pool_threads(cpu->pool);
    head_plan plan = {.rows = rows, .ranges = (vocab + HEAD_RANGE - 1) / HEAD_RANGE};
    plan.rows_per_task = rows < HEAD_ROWS ? rows : HEAD_ROWS;
    plan.row_tasks = (rows + plan.rows_per_task - 1) / plan.rows_per_task;
    size_t parts = (wanted + plan.row_tasks - 1) / plan.row_tasks;
    plan.ranges_per_task = (plan.ranges + parts - 1) / parts;
    plan.range_tasks = (plan.ranges + plan.ranges_per_task - 1) / plan.ranges_per_task;
    return plan;
}

#endif
