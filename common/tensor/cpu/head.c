/* SPDX-License-Identifier: Apache-2.0
 *
 * The head without a [T, V] tensor: for a block of rows, tiles of the vocabulary are computed,
 * folded into a running softmax, and forgotten.
 */
#include "common/tensor/cpu/head_impl.h"

typedef struct head_job {
    lb_cpu *cpu;
    head_rows h;
    const lb_weight *w;
    const uint32_t *targets;
    const lb_head_out *out;
    size_t rows_per_task;
} head_job;

/* Keeps the k largest logits of a row, largest first; equal ones keep the order of their ids. */
static void top_insert(uint32_t *ids, float *logits, size_t k, size_t *have, uint32_t id,
                       float logit)
{
    size_t at = *have < k ? *have : k;
    if (at == k && !(logit > logits[k - 1]))
        return;
    if (*have < k)
        (*have)++;
    else
        at = k - 1;
    while (at > 0 && logit > logits[at - 1]) {
        logits[at] = logits[at - 1];
        ids[at] = ids[at - 1];
        at--;
    }
    logits[at] = logit;
    ids[at] = id;
}

/* The logit of one id, by the kernel that computes its tile. */
static float logit_of(const head_job *job, size_t row, uint32_t id)
{
    float panel[LB_PANEL];
    size_t first = id / LB_PANEL * LB_PANEL;
    size_t width = job->w->n - first < LB_PANEL ? job->w->n - first : LB_PANEL;
    head_logits(job->w, &job->h, row, 1, first, width, panel, LB_PANEL);
    return panel[id - first];
}

typedef struct row_state {
    head_state softmax;
    float target;
    uint32_t above;
    size_t have;
} row_state;

static void fold_row(const head_job *job, size_t row, const float *logits, size_t first,
                     size_t width, row_state *state)
{
    const lb_head_out *out = job->out;
    head_fold(&state->softmax, logits, width, out->entropy != NULL);
    if (job->targets && job->targets[row] >= first && job->targets[row] - first < width)
        state->target = logits[job->targets[row] - first];
    for (size_t i = 0; out->rank && i < width; i++)
        state->above += logits[i] > state->target;
    for (size_t i = 0; out->top_id && out->k > 0 && i < width; i++)
        top_insert(out->top_id + row * out->k, out->top_logprob + row * out->k, out->k,
                   &state->have, (uint32_t)(first + i), logits[i]);
}

static void finish_row(const head_job *job, size_t row, const row_state *state)
{
    const lb_head_out *out = job->out;
    float lse = head_lse(&state->softmax);
    if (out->lse)
        out->lse[row] = lse;
    if (out->logprob)
        out->logprob[row] = state->target - lse;
    if (out->rank)
        out->rank[row] = state->above + 1;
    if (out->entropy)
        out->entropy[row] = log_f32(state->softmax.sum) -
                            state->softmax.weighted / state->softmax.sum;
    for (size_t i = 0; out->top_id && i < out->k; i++)
        out->top_logprob[row * out->k + i] -= lse;
}

static void head_task(void *arg, size_t index, size_t thread)
{
    const head_job *job = arg;
    float *tile = job->cpu->scratch[thread];
    row_state states[HEAD_ROWS] = {0};
    size_t first = index * job->rows_per_task;
    size_t left = job->h.h.rows - first;
    size_t rows = left < job->rows_per_task ? left : job->rows_per_task;
    for (size_t r = 0; job->out->rank && r < rows; r++)
        states[r].target = logit_of(job, first + r, job->targets[first + r]);
    for (size_t v = 0; v < job->w->n; v += HEAD_TILE) {
        size_t width = head_tile_width(job->w->n, v);
        head_logits(job->w, &job->h, first, rows, v, width, tile, HEAD_TILE);
        for (size_t r = 0; r < rows; r++)
            fold_row(job, first + r, tile + r * HEAD_TILE, v, width, &states[r]);
    }
    for (size_t r = 0; r < rows; r++)
        finish_row(job, first + r, &states[r]);
}

/* Rows of a task: enough tasks for every thread, blocks as large as that allows. */
static size_t rows_per_task(const lb_cpu *cpu, size_t rows)
{
    size_t threads = lb_pool_threads(cpu->pool), share = (rows + threads - 1) / threads;
    return share < 1 ? 1 : share > HEAD_ROWS ? HEAD_ROWS : share;
}

lb_status LB_K(lb_cpu_head)(void *self, lb_tensor h, const lb_weight *w, const uint32_t *targets,
                            const lb_head_out *out)
{
    lb_cpu *cpu = self;
    lb_status status = lb_cpu_scratch(cpu, HEAD_ROWS * HEAD_TILE * sizeof(float));
    head_job job = {cpu, {.h = h}, w, targets, out, rows_per_task(cpu, h.rows)};
    if (status == LB_OK)
        status = LB_K(lb_quantise_rows)(cpu, w->stored, h, &job.h.q);
    if (status != LB_OK)
        return status;
    lb_pool_run(cpu->pool, (h.rows + job.rows_per_task - 1) / job.rows_per_task, head_task, &job);
    return LB_OK;
}

/* ---- backward ---- */

typedef struct head_grad_job {
    lb_cpu *cpu;
    lb_tensor dh, h;
    const lb_weight *w;
    const uint32_t *targets, *rows;    /* rows: those with a gradient */
    const float *lse, *grad;
    size_t count, rows_per_task;
} head_grad_job;

/* logits -> g (1[v = target] - softmax_v) in place. */
static void to_logit_gradient(float *logits, size_t width, size_t first, uint32_t target,
                              float lse, float grad)
{
    for (size_t i = 0; i < width; i += LB_LANES) {
        vf p = vf_exp(vf_sub(head_load(logits + i, width - i), vf_set(lse)));
        vf d = vf_mul(vf_set(-grad), p);
        if (width - i >= LB_LANES)
            vf_store(logits + i, d);
        else
            vf_store_n(logits + i, d, width - i);
    }
    if (target >= first && target - first < width)
        logits[target - first] += grad;
}

static void head_grad_task(void *arg, size_t index, size_t thread)
{
    const head_grad_job *job = arg;
    const lb_weight *w = job->w;
    float *tile = job->cpu->scratch[thread];
    float *h = tile + HEAD_ROWS * HEAD_TILE, *dh = h + HEAD_ROWS * w->k;
    size_t first = index * job->rows_per_task;
    size_t rows = job->count - first < job->rows_per_task ? job->count - first
                                                          : job->rows_per_task;
    for (size_t r = 0; r < rows; r++)
        memcpy(h + r * w->k, row_f32(job->h, job->rows[first + r]), w->k * sizeof *h);
    memset(dh, 0, rows * w->k * sizeof *dh);
    for (size_t v = 0; v < w->n; v += HEAD_TILE) {
        size_t width = head_tile_width(w->n, v);
        const head_rows block = {.h = {LB_F32, rows, w->k, w->k, h}};
        head_logits(w, &block, 0, rows, v, width, tile, HEAD_TILE);
        for (size_t r = 0; r < rows; r++) {
            uint32_t row = job->rows[first + r];
            to_logit_gradient(tile + r * HEAD_TILE, width, v, job->targets[row], job->lse[row],
                              job->grad[row]);
        }
        size_t offset = v * LB_PANEL * lb_dtype_size(w->stored);
        const lb_product p = {.a = tile, .lda = HEAD_TILE,
                              .panels = (const char *)w->backward + offset, .stored = w->stored,
                              .c = dh, .ldc = w->k, .k = width, .n = w->k, .depth = w->n,
                              .alpha = 1.0f, .accumulate = true};
        LB_K(lb_product_part)(&p, 0, rows, 0, (w->k + LB_PANEL - 1) / LB_PANEL);
    }
    for (size_t r = 0; r < rows; r++)
        memcpy(row_f32(job->dh, job->rows[first + r]), dh + r * w->k, w->k * sizeof *dh);
}

lb_status LB_K(lb_cpu_head_backward)(void *self, lb_tensor dh, lb_tensor h, const lb_weight *w,
                                     const uint32_t *targets, const float *lse, const float *grad)
{
    lb_cpu *cpu = self;
    size_t floats = HEAD_ROWS * HEAD_TILE + 2 * HEAD_ROWS * w->k;
    lb_status status = lb_cpu_scratch(cpu, floats * sizeof(float));
    if (status == LB_OK)
        status = lb_cpu_shared(cpu, h.rows * sizeof(uint32_t));
    if (status != LB_OK)
        return status;
    uint32_t *rows = cpu->shared;
    size_t count = 0;
    for (size_t r = 0; r < h.rows; r++) {
        if (grad[r] == 0.0f)
            memset(row_f32(dh, r), 0, dh.cols * sizeof(float));
        else
            rows[count++] = (uint32_t)r;
    }
    head_grad_job job = {cpu, dh, h, w, targets, rows, lse, grad, count,
                         rows_per_task(cpu, count)};
    lb_pool_run(cpu->pool, (count + job.rows_per_task - 1) / job.rows_per_task, head_grad_task,
                &job);
    return LB_OK;
}
