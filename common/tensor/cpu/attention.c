/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention over paged keys and values. A task is a block of query rows and one kv head; the query
 * heads that share it are stacked, so a page is read once for all of them. Keys are taken in blocks
 * of KEYS at fixed logical positions with a running softmax (Milakov and Gimelshein, "Online
 * normalizer calculation for softmax", 2018). Rows whose tables have the same pages for a block, as
 * those of one sequence or of rollouts of one prompt, go through its products together.
 *
 * A row's sums run over its own keys in logical order, and a key it does not see adds exactly 0; so
 * neither its companions nor the pages show in its bits.
 */
#include "common/tensor/cpu/small_product.h"
#include "common/tensor/cpu/vmath.h"

#ifndef PAGES                             /* of a block of keys; tests/bench/freedom tries others */
#define PAGES 4u
#endif
#define KEYS (PAGES * LB_KV_PAGE)
#define SCORE_STRIDE (KEYS + LB_LANES)    /* so that rows do not share the sets of the cache */
#define STACK_ROWS 96u                    /* stacked query rows of a task, if a group is not more */
#define ROWS_PER_TASK 32u

/* ---- a block of query rows ---- */

typedef struct attention_job {
    lb_cpu *cpu;
    const lb_attention_args *a;
    size_t rows_per_task, row_tasks;
} attention_job;

/* A thread's buffers for the stacked rows of a task: row * group + query head of the group. */
typedef struct stack {
    float *q;                  /* [stacked, dim], scaled */
    float *scores;             /* [stacked, SCORE_STRIDE] */
    float *out;                /* [stacked, width] not yet divided by the sum */
    float *max, *sum, *keep;   /* [stacked] of the running softmax */
    size_t group, dim, width;
} stack;

static size_t stack_floats(size_t stacked, size_t dim)
{
    return stacked * (dim + SCORE_STRIDE + lb_kv_value_width(dim) + 3) + 6 * LB_LANES;
}

static float *carve(float **at, size_t floats)
{
    float *part = *at;
    *at += (floats + LB_LANES - 1) / LB_LANES * LB_LANES;
    return part;
}

static stack stack_of(const attention_job *job, size_t first, size_t rows, size_t kv_head,
                      float *memory)
{
    const lb_attention_shape *shape = job->a->shape;
    stack s = {.group = shape->heads / shape->kv_heads, .dim = shape->head_dim};
    size_t stacked = rows * s.group;
    s.width = lb_kv_value_width(s.dim);
    s.q = carve(&memory, stacked * s.dim);
    s.scores = carve(&memory, stacked * SCORE_STRIDE);
    s.out = carve(&memory, stacked * s.width);
    s.max = carve(&memory, stacked);
    s.sum = carve(&memory, stacked);
    s.keep = carve(&memory, stacked);
    memset(s.out, 0, stacked * s.width * sizeof *s.out);
    for (size_t i = 0; i < stacked; i++) {
        const float *q = row_f32(job->a->q, first + i / s.group) +
                         (kv_head * s.group + i % s.group) * s.dim;
        for (size_t d = 0; d < s.dim; d++)
            s.q[i * s.dim + d] = q[d] * shape->scale;
        s.max[i] = -__builtin_inff();
        s.sum[i] = 0.0f;
    }
    return s;
}

/* Scores of a row's block -> exp(score - new maximum), 0 from `seen` on; max, sum and keep of the
 * running softmax follow. */
static void soften(stack *s, size_t i, size_t seen, size_t padded)
{
    float *scores = s->scores + i * SCORE_STRIDE;
    vf largest = vf_set(-__builtin_inff()), sum = vf_set(0.0f);
    for (size_t k = seen; k < padded; k++)
        scores[k] = -__builtin_inff();
    for (size_t k = 0; k < padded; k += LB_LANES)
        largest = vf_max(vf_load(scores + k), largest);
    float max = vf_largest(largest);
    max = max > s->max[i] ? max : s->max[i];
    for (size_t k = 0; k < padded; k += LB_LANES) {
        vf e = vf_exp(vf_sub(vf_load(scores + k), vf_set(max)));
        vf_store(scores + k, e);
        sum = vf_add(sum, e);
    }
    /* No row's first block is empty, so that max is a number here unless a score was NaN. */
    s->keep[i] = s->sum[i] == 0.0f ? 0.0f : exp_f32(s->max[i] - max);
    s->sum[i] = __builtin_fmaf(s->sum[i], s->keep[i], vf_sum(sum));
    s->max[i] = max;
}

/* Rows [first, first + rows) of the task, whose pages of the block from key `key` are the same. */
static void attend_run(const attention_job *job, stack *s, const lb_kv_row *rows, size_t first,
                       size_t count, size_t key, size_t kv_head)
{
    const lb_attention_args *a = job->a;
    const float *keys[PAGES], *values[PAGES];
    const uint32_t *table = rows[first].pages + key / LB_KV_PAGE;
    size_t longest = 0, stacked = count * s->group, at = first * s->group;
    for (size_t r = first; r < first + count; r++)
        longest = rows[r].count > longest ? rows[r].count : longest;
    size_t seen = longest - key < KEYS ? longest - key : KEYS;
    size_t pages = (seen + LB_KV_PAGE - 1) / LB_KV_PAGE;
    for (size_t p = 0; p < pages; p++) {
        keys[p] = row_f32(a->k, table[p]) + kv_head * s->dim * LB_KV_PAGE;
        values[p] = row_f32(a->v, table[p]) + kv_head * s->width * LB_KV_PAGE;
    }
    for (size_t p = 0; p < pages; p++) {
        const small_product scores = {
            .a = s->q + at * s->dim, .lda = s->dim, .step = 1, .b = &keys[p], .parts = 1,
            .depth = s->dim,
            .ldb = LB_KV_PAGE, .c = s->scores + at * SCORE_STRIDE + p * LB_KV_PAGE,
            .ldc = SCORE_STRIDE,
        };
        small_product_run(&scores, stacked, LB_KV_PAGE);
    }
    for (size_t i = 0; i < stacked; i++) {
        size_t own = rows[first + i / s->group].count - key;
        soften(s, at + i, own < seen ? own : seen, pages * LB_KV_PAGE);
    }
    const small_product sums = {
        .a = s->scores + at * SCORE_STRIDE, .lda = SCORE_STRIDE, .step = 1, .b = values,
        .parts = pages, .depth = LB_KV_PAGE, .ldb = s->width, .c = s->out + at * s->width,
        .ldc = s->width, .keep = s->keep + at,
    };
    small_product_run(&sums, stacked, s->width);
}

/* Whether two rows that both reach beyond `key` have the same pages in its block, as far as the
 * longer one goes. */
static bool same_pages(const lb_kv_row *a, const lb_kv_row *b, size_t key)
{
    size_t first = key / LB_KV_PAGE;
    size_t count = a->count > b->count ? a->count : b->count;
    size_t left = (count - key + LB_KV_PAGE - 1) / LB_KV_PAGE;
    size_t pages = left < PAGES ? left : PAGES;
    if (a->pages == b->pages)
        return true;
    /* Of the shorter table there may be less. */
    size_t least = a->count < b->count ? a->count : b->count;
    if ((least - key + LB_KV_PAGE - 1) / LB_KV_PAGE < pages)
        return false;
    return memcmp(a->pages + first, b->pages + first, pages * sizeof *a->pages) == 0;
}

static void attention_task(void *arg, size_t index, size_t thread)
{
    const attention_job *job = arg;
    const lb_attention_args *a = job->a;
    size_t first = index % job->row_tasks * job->rows_per_task, kv_head = index / job->row_tasks;
    size_t rows = a->q.rows - first < job->rows_per_task ? a->q.rows - first
                                                         : job->rows_per_task;
    const lb_kv_row *kv = a->rows + first;
    size_t longest = 0;
    stack s = stack_of(job, first, rows, kv_head, job->cpu->scratch[thread]);
    for (size_t r = 0; r < rows; r++)
        longest = kv[r].count > longest ? kv[r].count : longest;
    for (size_t key = 0; key < longest; key += KEYS) {
        for (size_t r = 0; r < rows;) {
            size_t run = 1;
            if (kv[r].count <= key) {
                r++;
                continue;
            }
            while (r + run < rows && kv[r + run].count > key &&
                   same_pages(&kv[r], &kv[r + run], key))
                run++;
            attend_run(job, &s, kv, r, run, key, kv_head);
            r += run;
        }
    }
    for (size_t i = 0; i < rows * s.group; i++) {
        float *out = row_f32(a->out, first + i / s.group) +
                     (kv_head * s.group + i % s.group) * s.dim;
        /* + 0: a sum that is -0 becomes +0 where keys that are not seen were added to it. */
        for (size_t d = 0; d < s.dim; d++)
            out[d] = s.out[i * s.width + d] / s.sum[i] + 0.0f;
    }
}

lb_status LB_K(lb_cpu_attention)(void *self, const lb_attention_args *args)
{
    lb_cpu *cpu = self;
    size_t group = args->shape->heads / args->shape->kv_heads, rows = args->q.rows;
    size_t most = STACK_ROWS / group < 1 ? 1 : STACK_ROWS / group;
    /* Few rows, as in decoding, are shared out too: about four tasks a thread. */
    size_t wanted = 4 * (size_t)lb_pool_threads(cpu->pool);
    size_t share = (wanted + args->shape->kv_heads - 1) / args->shape->kv_heads;
    size_t per_task = (rows + share - 1) / share;
    most = most > ROWS_PER_TASK ? ROWS_PER_TASK : most;
    per_task = per_task > most ? most : per_task;
    if (rows == 0)
        return LB_OK;
    size_t floats = stack_floats(per_task * group, args->shape->head_dim);
    lb_status status = lb_cpu_scratch(cpu, floats * sizeof(float));
    if (status != LB_OK)
        return status;
    attention_job job = {cpu, args, per_task, (rows + per_task - 1) / per_task};
    lb_pool_run(cpu->pool, job.row_tasks * args->shape->kv_heads, attention_task, &job);
    return LB_OK;
}

/* ---- pages ---- */

static void write_task(void *arg, size_t index, size_t thread)
{
    const lb_kv_write_args *args = arg;
    const lb_attention_shape *shape = args->shape;
    size_t dim = shape->head_dim, width = lb_kv_value_width(dim), first = index * LB_KV_PAGE;
    (void)thread;
    for (size_t r = first; r < args->k.rows && r < first + LB_KV_PAGE; r++) {
        size_t page = args->slots[r] / LB_KV_PAGE, lane = args->slots[r] % LB_KV_PAGE;
        for (size_t h = 0; h < shape->kv_heads; h++) {
            const float *k = row_f32(args->k, r) + h * dim, *v = row_f32(args->v, r) + h * dim;
            float *keys = row_f32(args->keys, page) + h * dim * LB_KV_PAGE + lane;
            float *values = row_f32(args->values, page) + (h * LB_KV_PAGE + lane) * width;
            for (size_t d = 0; d < dim; d++)
                keys[d * LB_KV_PAGE] = k[d];
            memcpy(values, v, dim * sizeof *v);
        }
    }
}

lb_status LB_K(lb_cpu_kv_write)(void *self, const lb_kv_write_args *args)
{
    lb_cpu *cpu = self;
    lb_kv_write_args copy = *args;
    lb_pool_run(cpu->pool, (args->k.rows + LB_KV_PAGE - 1) / LB_KV_PAGE, write_task, &copy);
    return LB_OK;
}
