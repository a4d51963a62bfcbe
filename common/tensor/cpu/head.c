/* SPDX-License-Identifier: Apache-2.0
 *
 * The head without a [T, V] tensor: for a block of rows, tiles of the vocabulary are computed,
 * folded into a running softmax, and forgotten.
 */
#include "common/tensor/cpu/head_impl.h"

#define TOP_BYTES ((size_t)16 << 20)     /* of the ranges' largest logits, at most */

/* What one range of the vocabulary says about a row; its k largest logits stand beside. */
typedef struct part_state {
    head_state softmax;
    uint32_t above, have;
} part_state;

typedef struct head_job {
    lb_cpu *cpu;
    head_rows h;
    const lb_weight *w;
    const uint32_t *targets;
    const lb_head_out *out;
    head_plan plan;
    part_state *parts;         /* [rows][ranges] */
    float *target;             /* [rows]: the target's logit */
    float *top;                /* [rows][ranges][k] logits */
    uint32_t *top_id;          /* the same shape */
    size_t k;                  /* 0 unless the largest are wanted */
} head_job;

/* Keeps the k largest logits of a row, largest first; equal ones keep the order of their ids. */
static void top_insert(uint32_t *ids, float *logits, size_t k, uint32_t *have, uint32_t id,
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

/* How many of the logits are larger than the target's. */
static uint32_t count_above(const float *logits, size_t width, float target)
{
    uint32_t above = 0;
    for (size_t i = 0; i < width; i++)
        above += logits[i] > target;
    return above;
}

/* Of a tile only those can be among the k largest that exceed the least of what is held. */
static void fold_top(const head_job *job, part_state *part, const float *logits, size_t first,
                     size_t width)
{
    size_t at = (size_t)(part - job->parts) * job->k;
    uint32_t *ids = job->top_id + at;
    float *best = job->top + at;
    for (size_t i = 0; i < width; i += LB_LANES) {
        size_t count = width - i < LB_LANES ? width - i : LB_LANES;
        if (part->have == job->k &&
            !(vf_largest(head_load(logits + i, width - i)) > best[job->k - 1]))
            continue;
        for (size_t j = i; j < i + count; j++)
            top_insert(ids, best, job->k, &part->have, (uint32_t)(first + j), logits[j]);
    }
}

/* A row's lists, in the order of their ids, as one. */
static void merge_top(const head_job *job, size_t row, float lse)
{
    uint32_t have = 0;
    uint32_t *ids = job->out->top_id + row * job->k;
    float *best = job->out->top_logprob + row * job->k;
    for (size_t part = row * job->plan.ranges; part < (row + 1) * job->plan.ranges; part++) {
        for (size_t i = 0; i < job->parts[part].have; i++)
            top_insert(ids, best, job->k, &have, job->top_id[part * job->k + i],
                       job->top[part * job->k + i]);
    }
    for (size_t i = 0; i < job->k; i++)
        best[i] -= lse;
}

static void head_range(const head_job *job, size_t first_row, size_t rows, size_t range,
                       float *tile)
{
    const lb_head_out *out = job->out;
    size_t first = range * HEAD_RANGE, vocab = job->w->n;
    size_t end = vocab - first < HEAD_RANGE ? vocab : first + HEAD_RANGE;
    for (size_t v = first; v < end; v += HEAD_TILE) {
        size_t width = head_tile_width(vocab, v);
        head_logits(job->w, &job->h, first_row, rows, v, width, tile, HEAD_TILE);
        for (size_t r = 0; r < rows; r++) {
            const float *logits = tile + r * HEAD_TILE;
            size_t row = first_row + r;
            part_state *part = &job->parts[row * job->plan.ranges + range];
            head_fold(&part->softmax, logits, width, out->entropy != NULL);
            if (out->rank)
                part->above += count_above(logits, width, job->target[row]);
            else if (job->targets && job->targets[row] >= v && job->targets[row] - v < width)
                job->target[row] = logits[job->targets[row] - v];
            if (job->k > 0)
                fold_top(job, part, logits, v, width);
        }
    }
}

static void head_task(void *arg, size_t index, size_t thread)
{
    const head_job *job = arg;
    const head_plan *plan = &job->plan;
    size_t first = index % plan->row_tasks * plan->rows_per_task;
    size_t left = plan->rows - first, range = index / plan->row_tasks * plan->ranges_per_task;
    size_t rows = left < plan->rows_per_task ? left : plan->rows_per_task;
    for (size_t i = 0; i < plan->ranges_per_task && range + i < plan->ranges; i++)
        head_range(job, first, rows, range + i, job->cpu->scratch[thread]);
}

static void finish_row(const head_job *job, size_t row)
{
    const lb_head_out *out = job->out;
    const part_state *parts = job->parts + row * job->plan.ranges;
    head_state all = {0};
    uint32_t above = 0;
    for (size_t i = 0; i < job->plan.ranges; i++) {
        head_merge(&all, &parts[i].softmax, out->entropy != NULL);
        above += parts[i].above;
    }
    float lse = head_lse(&all);
    if (out->lse)
        out->lse[row] = lse;
    if (out->logprob)
        out->logprob[row] = job->target[row] - lse;
    if (out->rank)
        out->rank[row] = above + 1;
    if (out->entropy)
        out->entropy[row] = log_f32(all.sum) - all.weighted / all.sum;
    if (job->k > 0)
        merge_top(job, row, lse);
}

static void target_task(void *arg, size_t index, size_t thread)
{
    const head_job *job = arg;
    (void)thread;
    job->target[index] = logit_of(job, index, job->targets[index]);
}

static lb_status run_head(lb_cpu *cpu, lb_tensor h, const lb_weight *w, const uint32_t *targets,
                          const lb_head_out *out)
{
    head_job job = {.cpu = cpu, .h = {.h = h}, .w = w, .targets = targets, .out = out,
                    .plan = head_share(cpu, h.rows, w->n), .k = out->top_id ? out->k : 0};
    size_t parts = h.rows * job.plan.ranges, tops = parts * job.k;
    size_t cleared = parts * sizeof *job.parts + h.rows * sizeof *job.target;
    lb_status status = lb_cpu_scratch(cpu, HEAD_ROWS * HEAD_TILE * sizeof(float));
    if (status == LB_OK)
        status = lb_cpu_shared(cpu, cleared + tops * (sizeof *job.top + sizeof *job.top_id));
    if (status == LB_OK)
        status = LB_K(lb_product_rows)(cpu, w->stored, NULL, &job.h.h, &job.h.q);
    if (status != LB_OK)
        return status;
    job.parts = cpu->shared;
    job.target = (float *)(void *)(job.parts + parts);
    job.top = job.target + h.rows;
    job.top_id = (uint32_t *)(void *)(job.top + tops);
    memset(cpu->shared, 0, cleared);
    if (out->rank)
        lb_pool_run(cpu->pool, h.rows, target_task, &job);
    lb_pool_run(cpu->pool, job.plan.row_tasks * job.plan.range_tasks, head_task, &job);
    for (size_t r = 0; r < h.rows; r++)
        finish_row(&job, r);
    return LB_OK;
}

/* The results from row `first` on. */
static lb_head_out out_from(const lb_head_out *out, size_t first)
{
    return (lb_head_out){
        .logprob = out->logprob ? out->logprob + first : NULL,
        .lse = out->lse ? out->lse + first : NULL,
        .entropy = out->entropy ? out->entropy + first : NULL,
        .top_logprob = out->top_logprob ? out->top_logprob + first * out->k : NULL,
        .rank = out->rank ? out->rank + first : NULL,
        .top_id = out->top_id ? out->top_id + first * out->k : NULL,
        .k = out->k,
    };
}

lb_status LB_K(lb_cpu_head)(void *self, lb_tensor h, const lb_weight *w, const uint32_t *targets,
                            const lb_head_out *out)
{
    size_t ranges = (w->n + HEAD_RANGE - 1) / HEAD_RANGE, block = h.rows;
    size_t row_bytes = out->top_id ? ranges * out->k * (sizeof(float) + sizeof(uint32_t)) : 0;
    lb_status status = LB_OK;
    if (row_bytes > 0 && h.rows > TOP_BYTES / row_bytes)
        block = TOP_BYTES / row_bytes > 0 ? TOP_BYTES / row_bytes : 1;
    for (size_t first = 0; status == LB_OK && first < h.rows; first += block) {
        size_t rows = h.rows - first < block ? h.rows - first : block;
        lb_head_out part = out_from(out, first);
        status = run_head(self, lb_tensor_rows(h, first, rows), w,
                          targets ? targets + first : NULL, &part);
    }
    return status;
}

/* ---- backward ---- */

/* With no more rows than this, tasks take ranges of the vocabulary instead of rows. */
#define GRAD_FEW 64u

typedef struct head_grad_job {
    lb_cpu *cpu;
    lb_tensor dh;
    head_rows h;               /* the rows with a gradient, one after the other */
    const lb_weight *w;
    const uint32_t *targets, *rows;    /* rows: where those rows are in dh */
    const float *lse, *grad;
    float *parts;              /* [ranges][rows, K] where tasks take ranges, else NULL */
    head_plan plan;
} head_grad_job;

/* Rows or ranges of a task: enough tasks for every thread, and blocks of rows as large as that
 * allows, for each of them reads the whole vocabulary. */
static head_plan grad_share(const lb_cpu *cpu, size_t rows, size_t vocab)
{
    size_t threads = lb_pool_threads(cpu->pool), share = (rows + threads - 1) / threads;
    head_plan plan = {.rows = rows, .ranges = (vocab + HEAD_RANGE - 1) / HEAD_RANGE};
    bool few = rows <= GRAD_FEW && share < LB_TILE_ROWS;
    plan.rows_per_task = few ? rows : share > HEAD_ROWS ? HEAD_ROWS : share;
    plan.row_tasks = (rows + plan.rows_per_task - 1) / plan.rows_per_task;
    plan.ranges_per_task = few ? 1 : plan.ranges;
    plan.range_tasks = few ? plan.ranges : 1;
    return plan;
}

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

/* A thread's buffers for a tile of the vocabulary, and for a range's part of dh. */
typedef struct grad_room {
    float *tile, *scales, *part;
    char *quantised;
} grad_room;

#define GRAD_STRIDE (HEAD_TILE * sizeof(int16_t) + 64)
#define GRAD_TILE_FLOATS (HEAD_ROWS * (HEAD_TILE + HEAD_TILE / LB_QUANT_BLOCK))

static size_t grad_room_bytes(size_t k)
{
    return (GRAD_TILE_FLOATS + HEAD_ROWS * k) * sizeof(float) + HEAD_ROWS * GRAD_STRIDE;
}

static grad_room grad_room_of(void *memory)
{
    float *tile = memory, *scales = tile + HEAD_ROWS * HEAD_TILE;
    char *quantised = (char *)(tile + GRAD_TILE_FLOATS);
    return (grad_room){tile, scales, (float *)(void *)(quantised + HEAD_ROWS * GRAD_STRIDE),
                       quantised};
}

/* part[rows, K] = what the ids of one range give to dh. */
static void grad_range(const head_grad_job *job, const grad_room *room, size_t first, size_t rows,
                       size_t range, float *part)
{
    const lb_weight *w = job->w;
    size_t begin = range * HEAD_RANGE, end = w->n - begin < HEAD_RANGE ? w->n : begin + HEAD_RANGE;
    memset(part, 0, rows * w->k * sizeof *part);
    for (size_t v = begin; v < end; v += HEAD_TILE) {
        size_t width = head_tile_width(w->n, v);
        head_logits(w, &job->h, first, rows, v, width, room->tile, HEAD_TILE);
        for (size_t r = 0; r < rows; r++) {
            uint32_t row = job->rows[first + r];
            to_logit_gradient(room->tile + r * HEAD_TILE, width, v, job->targets[row],
                              job->lse[row], job->grad[row]);
        }
        const lb_quantised q = {room->quantised, GRAD_STRIDE, room->scales,
                                lb_quant_blocks(width), w->planes};
        if (lb_dtype_is_integer(w->stored))
            LB_K(lb_quantise_part)(w->stored, w->planes,
                                   (lb_tensor){LB_F32, rows, width, HEAD_TILE, room->tile}, NULL,
                                   room->quantised, GRAD_STRIDE, room->scales);
        lb_product p = lb_product_back(w, v, width);
        p.a = room->tile;
        p.lda = HEAD_TILE;
        p.q = &q;
        p.c = part;
        p.ldc = w->k;
        p.accumulate = true;
        LB_K(lb_product_part)(&p, 0, rows, 0, (w->k + LB_PANEL - 1) / LB_PANEL);
    }
}

/* dh = the parts of the ranges, added in their order. */
static void add_part(const head_grad_job *job, size_t row, size_t range, const float *part)
{
    float *out = row_f32(job->dh, job->rows[row]);
    if (range == 0)
        memcpy(out, part, job->w->k * sizeof *out);
    for (size_t i = 0; range > 0 && i < job->w->k; i++)
        out[i] += part[i];
}

static void head_grad_task(void *arg, size_t index, size_t thread)
{
    const head_grad_job *job = arg;
    const head_plan *plan = &job->plan;
    size_t k = job->w->k, first = index % plan->row_tasks * plan->rows_per_task;
    size_t left = plan->rows - first, range = index / plan->row_tasks * plan->ranges_per_task;
    size_t rows = left < plan->rows_per_task ? left : plan->rows_per_task;
    grad_room room = grad_room_of(job->cpu->scratch[thread]);
    if (job->parts) {
        grad_range(job, &room, first, rows, range, job->parts + (range * plan->rows + first) * k);
        return;
    }
    for (; range < plan->ranges; range++) {
        grad_range(job, &room, first, rows, range, room.part);
        for (size_t r = 0; r < rows; r++)
            add_part(job, first + r, range, room.part + r * k);
    }
}

static void merge_task(void *arg, size_t index, size_t thread)
{
    const head_grad_job *job = arg;
    (void)thread;
    for (size_t range = 0; range < job->plan.ranges; range++)
        add_part(job, index, range, job->parts + (range * job->plan.rows + index) * job->w->k);
}

/* Rows without a gradient are set to 0 in dh; the others are listed. */
static size_t list_rows(lb_tensor dh, const float *grad, uint32_t *rows)
{
    size_t count = 0;
    for (size_t r = 0; r < dh.rows; r++) {
        if (grad[r] == 0.0f)
            memset(row_f32(dh, r), 0, dh.cols * sizeof(float));
        else
            rows[count++] = (uint32_t)r;
    }
    return count;
}

lb_status LB_K(lb_cpu_head_backward)(void *self, lb_tensor dh, lb_tensor h, const lb_weight *w,
                                     const uint32_t *targets, const float *lse, const float *grad)
{
    lb_cpu *cpu = self;
    size_t most = h.rows < GRAD_FEW ? h.rows : GRAD_FEW;
    size_t parts = most * ((w->n + HEAD_RANGE - 1) / HEAD_RANGE) * w->k;
    lb_status status = lb_cpu_scratch(cpu, grad_room_bytes(w->k));
    if (status == LB_OK)
        status = lb_cpu_shared(cpu, (parts + h.rows * (w->k + 1)) * sizeof(float));
    if (status != LB_OK)
        return status;
    float *part = cpu->shared, *gathered = part + parts;
    uint32_t *rows = (uint32_t *)(void *)(gathered + h.rows * w->k);
    size_t count = list_rows(dh, grad, rows);
    if (count == 0)
        return LB_OK;
    for (size_t r = 0; r < count; r++)
        memcpy(gathered + r * w->k, row_f32(h, rows[r]), w->k * sizeof *gathered);
    head_grad_job job = {.cpu = cpu, .dh = dh, .h.h = {LB_F32, count, w->k, w->k, gathered},
                         .w = w, .targets = targets, .rows = rows, .lse = lse, .grad = grad,
                         .plan = grad_share(cpu, count, w->n)};
    job.parts = job.plan.range_tasks > 1 ? part : NULL;
    status = LB_K(lb_product_rows)(cpu, w->stored, NULL, &job.h.h, &job.h.q);
    if (status != LB_OK)
        return status;
    lb_pool_run(cpu->pool, job.plan.row_tasks * job.plan.range_tasks, head_grad_task, &job);
    if (job.parts)
        lb_pool_run(cpu->pool, count, merge_task, &job);
    return LB_OK;
}
