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
 *
 * A cache of integers has a head's key, and its value, as one rotated block with a scale, and the
 * query becomes one too. A row's weights of a block of keys take in the values' scales and are
 * rounded with a scale of their own; the output is rotated back at the end.
 */
#include "common/tensor/cpu/quantise.h"
#include "common/tensor/cpu/small_product_int.h"
#include "common/tensor/cpu/vmath.h"

#ifndef PAGES                             /* of a block of keys; tests/bench/freedom tries others */
#define PAGES 4u
#endif
#define KEYS (PAGES * LB_KV_PAGE)
#define SCORE_STRIDE (KEYS + LB_LANES)    /* so that rows do not share the sets of the cache */
#define WEIGHT_STRIDE (KEYS * sizeof(int16_t) + 64)
#define QUERY_STRIDE (LB_QUANT_BLOCK * sizeof(int16_t) + 64)
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
    lb_dtype stored;
    char *query, *weights;     /* [stacked] of QUERY_STRIDE and WEIGHT_STRIDE bytes: integers */
    float *query_scale, *weight_scale;    /* [stacked] */
    int32_t *begin;            /* [stacked] -128 x the sum of a query's bytes */
    size_t group, dim, width;
} stack;

static size_t stack_floats(size_t stacked, size_t dim)
{
    size_t integers = (QUERY_STRIDE + WEIGHT_STRIDE) / sizeof(float) + 3;
    return stacked * (dim + SCORE_STRIDE + lb_kv_value_width(dim) + 3 + integers) + 11 * LB_LANES;
}

static float *carve(float **at, size_t floats)
{
    float *part = *at;
    *at += (floats + LB_LANES - 1) / LB_LANES * LB_LANES;
    return part;
}

/* v[vectors] as integers at `to`; returns their scale. */
static inline __attribute__((always_inline)) float store_block(lb_dtype stored, const vf *v,
                                                               const size_t vectors, char *to)
{
    float inverse, scale = quant_scale(v, vectors, stored, &inverse);
    LB_UNROLL
    for (size_t i = 0; i < vectors; i++) {
        vf whole = vf_mul(v[i], vf_set(inverse));
        if (stored == LB_INT16)
            vf_store_i16((int16_t *)(void *)to + i * LB_LANES, whole);
        else
            vf_store_i8((int8_t *)to + i * LB_LANES, whole);
    }
    return scale;
}

/* x[dim], rotated, as a block of integers at `to`; returns its scale. The heads that models have
 * are whole vectors. */
static float head_block(lb_dtype stored, const float *x, size_t dim, char *to)
{
    vf v[QUANT_VECTORS];
    size_t vectors = quant_vectors(dim, 0);
    if (dim == 4 * LB_LANES || dim == 8 * LB_LANES) {
        for (size_t i = 0; i < vectors; i++)
            v[i] = vf_load(x + i * LB_LANES);
        if (vectors == 4) {
            quant_rotate_part(v, 4, false);
            return store_block(stored, v, 4, to);
        }
        quant_rotate_part(v, 8, false);
        return store_block(stored, v, 8, to);
    }
    quant_block(x, dim, 0, v);
    return store_block(stored, v, vectors, to);
}

static void load_query(stack *s, size_t i, const float *q, float scale)
{
    if (s->stored == LB_F32) {
        for (size_t d = 0; d < s->dim; d++)
            s->q[i * s->dim + d] = q[d] * scale;
        return;
    }
    char *to = s->query + i * QUERY_STRIDE;
    int32_t sum = 0;
    s->query_scale[i] = head_block(s->stored, q, s->dim, to) * scale;
    for (size_t b = 0; s->stored == LB_INT8 && b < quant_vectors(s->dim, 0) * LB_LANES; b++)
        sum += (int8_t)to[b];
    s->begin[i] = -128 * sum;
}

static stack stack_of(const attention_job *job, size_t first, size_t rows, size_t kv_head,
                      float *memory)
{
    const lb_attention_shape *shape = job->a->shape;
    stack s = {.group = shape->heads / shape->kv_heads, .dim = shape->head_dim,
               .stored = shape->stored};
    size_t stacked = rows * s.group;
    s.width = lb_kv_value_width(s.dim);
    s.q = carve(&memory, stacked * s.dim);
    s.scores = carve(&memory, stacked * SCORE_STRIDE);
    s.out = carve(&memory, stacked * s.width);
    s.max = carve(&memory, stacked);
    s.sum = carve(&memory, stacked);
    s.keep = carve(&memory, stacked);
    s.query = (char *)carve(&memory, stacked * QUERY_STRIDE / sizeof(float));
    s.weights = (char *)carve(&memory, stacked * WEIGHT_STRIDE / sizeof(float));
    s.query_scale = carve(&memory, stacked);
    s.weight_scale = carve(&memory, stacked);
    s.begin = (int32_t *)(void *)carve(&memory, stacked);
    memset(s.out, 0, stacked * s.width * sizeof *s.out);
    for (size_t i = 0; i < stacked; i++) {
        const float *q = row_f32(job->a->q, first + i / s.group) +
                         (kv_head * s.group + i % s.group) * s.dim;
        load_query(&s, i, q, shape->scale);
        s.max[i] = -__builtin_inff();
        s.sum[i] = 0.0f;
    }
    return s;
}

/* v[vectors], not negative, times the scales of the values: a row's weights as integers. */
static inline __attribute__((always_inline)) void weigh(stack *s, size_t i, size_t seen, vf *v,
                                                        const size_t vectors,
                                                        const float *const *scales)
{
    const size_t in_page = LB_KV_PAGE / LB_LANES;
    LB_UNROLL
    for (size_t j = 0; j < vectors; j++)
        v[j] = vf_mul(v[j], vf_load(scales[j / in_page] + j % in_page * LB_LANES));
    /* What a page has beyond the keys that are seen may have any scale. */
    for (size_t j = seen / LB_LANES; j < vectors; j++) {
        float lane[LB_LANES];
        vf_store(lane, v[j]);
        for (size_t k = 0; k < LB_LANES; k++)
            lane[k] = j * LB_LANES + k < seen ? lane[k] : 0.0f;
        v[j] = vf_load(lane);
    }
    s->weight_scale[i] = store_block(s->stored, v, vectors, s->weights + i * WEIGHT_STRIDE);
}

/* Scores of a row's block -> exp(score - new maximum), 0 from `seen` on, as weights in f32 or, with
 * scales, in integers; max, sum and keep of the running softmax follow. */
LB_TILE_INLINE void soften_vectors(stack *s, size_t i, size_t seen, const size_t vectors,
                                   const float *const *scales)
{
    float *scores = s->scores + i * SCORE_STRIDE;
    vf v[KEYS / LB_LANES], largest = vf_set(-__builtin_inff()), sum = vf_set(0.0f);
    for (size_t k = seen; k < vectors * LB_LANES; k++)
        scores[k] = -__builtin_inff();
    LB_UNROLL
    for (size_t j = 0; j < vectors; j++) {
        v[j] = vf_load(scores + j * LB_LANES);
        largest = vf_max(v[j], largest);
    }
    float max = vf_largest(largest);
    max = max > s->max[i] ? max : s->max[i];
    LB_UNROLL
    for (size_t j = 0; j < vectors; j++) {
        v[j] = vf_exp(vf_sub(v[j], vf_set(max)));
        sum = vf_add(sum, v[j]);
    }
    /* No row's first block is empty, so that max is a number here unless a score was NaN. */
    s->keep[i] = s->sum[i] == 0.0f ? 0.0f : s->max[i] == max ? 1.0f : exp_f32(s->max[i] - max);
    s->sum[i] = __builtin_fmaf(s->sum[i], s->keep[i], vf_sum(sum));
    s->max[i] = max;
    if (scales) {
        weigh(s, i, seen, v, vectors, scales);
        return;
    }
    LB_UNROLL
    for (size_t j = 0; j < vectors; j++)
        vf_store(scores + j * LB_LANES, v[j]);
}

static void soften(stack *s, size_t i, size_t seen, size_t padded, const float *const *scales)
{
    if (padded == KEYS && scales)
        soften_vectors(s, i, seen, KEYS / LB_LANES, scales);
    else if (padded == KEYS)
        soften_vectors(s, i, seen, KEYS / LB_LANES, NULL);
    else
        soften_vectors(s, i, seen, padded / LB_LANES, scales);
}

/* A block of keys: the parts of its pages for one kv head. */
typedef struct key_block {
    const float *keys[PAGES], *values[PAGES];
    const float *key_scales[PAGES], *value_scales[PAGES];   /* of integers */
    size_t pages;
} key_block;

/* Scores of the stacked rows from `at` on. */
static void score_block(stack *s, const key_block *block, size_t at, size_t stacked)
{
    for (size_t p = 0; p < block->pages; p++) {
        float *to = s->scores + at * SCORE_STRIDE + p * LB_KV_PAGE;
        const char *integers = (const char *)block->keys[p];
        if (s->stored == LB_F32) {
            const small_product scores = {
                .a = s->q + at * s->dim, .lda = s->dim, .step = 1, .b = &block->keys[p],
                .parts = 1, .depth = s->dim, .ldb = LB_KV_PAGE, .c = to, .ldc = SCORE_STRIDE,
            };
            small_product_run(&scores, stacked, LB_KV_PAGE);
            continue;
        }
        const small_product_int scores = {
            .kind = s->stored == LB_INT16 ? SMALL_INT16 : SMALL_BYTES_B,
            .a = s->query + at * QUERY_STRIDE, .lda = QUERY_STRIDE, .b = &integers, .parts = 1,
            .groups = lb_panel_groups(s->stored, s->dim), .ldb = LB_KV_PAGE * LB_GROUP_BYTES,
            .c = to, .ldc = SCORE_STRIDE, .row_scale = s->query_scale + at,
            .column_scale = block->key_scales[p], .begin = s->begin + at,
        };
        small_product_int_run(&scores, stacked, LB_KV_PAGE);
    }
}

/* Adds the values times what the softmax made of the scores. */
static void sum_block(stack *s, const key_block *block, size_t at, size_t stacked)
{
    float *to = s->out + at * s->width;
    const char *integers[PAGES];
    if (s->stored == LB_F32) {
        const small_product sums = {
            .a = s->scores + at * SCORE_STRIDE, .lda = SCORE_STRIDE, .step = 1,
            .b = block->values, .parts = block->pages, .depth = LB_KV_PAGE, .ldb = s->width,
            .c = to, .ldc = s->width, .keep = s->keep + at,
        };
        small_product_run(&sums, stacked, s->width);
        return;
    }
    for (size_t p = 0; p < block->pages; p++)
        integers[p] = (const char *)block->values[p];
    const small_product_int sums = {
        .kind = s->stored == LB_INT16 ? SMALL_INT16 : SMALL_BYTES_A,
        .a = s->weights + at * WEIGHT_STRIDE, .lda = WEIGHT_STRIDE, .b = integers,
        .parts = block->pages, .groups = LB_KV_PAGE * lb_dtype_size(s->stored) / LB_GROUP_BYTES,
        .ldb = s->width * LB_GROUP_BYTES, .c = to, .ldc = s->width, .keep = s->keep + at,
        .row_scale = s->weight_scale + at,
    };
    small_product_int_run(&sums, stacked, s->width);
}

/* Rows [first, first + rows) of the task, whose pages of the block from key `key` are the same. */
static void attend_run(const attention_job *job, stack *s, const lb_kv_row *rows, size_t first,
                       size_t count, size_t key, size_t kv_head)
{
    const lb_attention_args *a = job->a;
    const size_t key_head = lb_kv_key_head(a->shape), value_head = lb_kv_value_head(a->shape);
    key_block block;
    const uint32_t *table = rows[first].pages + key / LB_KV_PAGE;
    size_t longest = 0, stacked = count * s->group, at = first * s->group;
    for (size_t r = first; r < first + count; r++)
        longest = rows[r].count > longest ? rows[r].count : longest;
    size_t seen = longest - key < KEYS ? longest - key : KEYS;
    block.pages = (seen + LB_KV_PAGE - 1) / LB_KV_PAGE;
    for (size_t p = 0; p < block.pages; p++) {
        block.keys[p] = row_f32(a->k, table[p]) + kv_head * key_head;
        block.values[p] = row_f32(a->v, table[p]) + kv_head * value_head;
        block.key_scales[p] = block.keys[p] + key_head - LB_KV_PAGE;
        block.value_scales[p] = block.values[p] + value_head - LB_KV_PAGE;
    }
    score_block(s, &block, at, stacked);
    for (size_t i = 0; i < stacked; i++) {
        size_t own = rows[first + i / s->group].count - key, padded = block.pages * LB_KV_PAGE;
        own = own < seen ? own : seen;
        soften(s, at + i, own, padded, s->stored == LB_F32 ? NULL : block.value_scales);
    }
    sum_block(s, &block, at, stacked);
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

/* A stacked row's output over the sum of its weights. */
static void finish_row(const stack *s, size_t i, float *out)
{
    const float *sums = s->out + i * s->width;
    float turned[LB_QUANT_BLOCK];
    if (s->stored != LB_F32) {
        vf v[QUANT_VECTORS];
        size_t vectors = quant_vectors(s->dim, 0);
        for (size_t j = 0; j < vectors; j++)
            v[j] = vf_load(sums + j * LB_LANES);
        quant_rotate(v, vectors, true);
        for (size_t j = 0; j < vectors; j++)
            vf_store(turned + j * LB_LANES, v[j]);
        sums = turned;
    }
    /* + 0: a sum that is -0 becomes +0 where keys that are not seen were added to it. */
    for (size_t d = 0; d < s->dim; d++)
        out[d] = sums[d] / s->sum[i] + 0.0f;
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
        finish_row(&s, i, out);
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
    /* A block of keys is then more than an int32 can sum: tests/bench/freedom tries such in f32. */
    if (KEYS > LB_QUANT_BLOCK && args->shape->stored != LB_F32)
        return LB_EUNSUPPORTED;
    size_t floats = stack_floats(per_task * group, args->shape->head_dim);
    lb_status status = lb_cpu_scratch(cpu, floats * sizeof(float));
    if (status != LB_OK)
        return status;
    attention_job job = {cpu, args, per_task, (rows + per_task - 1) / per_task};
    lb_pool_run(cpu->pool, job.row_tasks * args->shape->kv_heads, attention_task, &job);
    return LB_OK;
}

/* ---- pages ---- */

static void write_floats(const lb_attention_shape *shape, const float *k, const float *v,
                         size_t lane, float *keys, float *values)
{
    for (size_t d = 0; d < shape->head_dim; d++)
        keys[d * LB_KV_PAGE + lane] = k[d];
    memcpy(values + lane * lb_kv_value_width(shape->head_dim), v, shape->head_dim * sizeof *v);
}

/* Integers of `size` bytes, one behind the other, to the same place of count groups. */
static inline __attribute__((always_inline)) void spread(char *to, const char *from, size_t count,
                                                         const size_t size)
{
    for (size_t i = 0; i < count; i++)
        memcpy(to + i * LB_GROUP_BYTES, from + i * size, size);
}

/* Keys as a panel of LB_KV_PAGE columns over the head's elements, values as one of the head's
 * elements over the lanes; then the scales of the lanes. */
static void write_integers(const lb_attention_shape *shape, const float *k, const float *v,
                           size_t lane, float *keys, float *values)
{
    const lb_dtype stored = shape->stored;
    const size_t size = lb_dtype_size(stored), group = LB_GROUP_BYTES / size;
    const size_t width = lb_kv_value_width(shape->head_dim);
    const size_t count = quant_vectors(shape->head_dim, 0) * LB_LANES;
    const size_t line = LB_KV_PAGE * LB_GROUP_BYTES;
    char bytes[LB_QUANT_BLOCK * sizeof(int16_t)], *to = (char *)keys;
    float scale = head_block(stored, k, shape->head_dim, bytes);
    for (size_t i = 0; stored == LB_INT8 && i < count; i++)
        bytes[i] = (char)(bytes[i] ^ LB_BYTE_SIGN);
    for (size_t g = 0; g < count / group; g++)
        memcpy(to + g * line + lane * LB_GROUP_BYTES, bytes + g * LB_GROUP_BYTES, LB_GROUP_BYTES);
    keys[lb_kv_key_head(shape) - LB_KV_PAGE + lane] = scale;

    scale = head_block(stored, v, shape->head_dim, bytes);
    to = (char *)values + lane / group * width * LB_GROUP_BYTES + lane % group * size;
    if (stored == LB_INT16)
        spread(to, bytes, count, sizeof(int16_t));
    else
        spread(to, bytes, count, sizeof(int8_t));
    values[lb_kv_value_head(shape) - LB_KV_PAGE + lane] = scale;
}

static void write_task(void *arg, size_t index, size_t thread)
{
    const lb_kv_write_args *args = arg;
    const lb_attention_shape *shape = args->shape;
    size_t dim = shape->head_dim, first = index * LB_KV_PAGE;
    (void)thread;
    for (size_t r = first; r < args->k.rows && r < first + LB_KV_PAGE; r++) {
        size_t page = args->slots[r] / LB_KV_PAGE, lane = args->slots[r] % LB_KV_PAGE;
        for (size_t h = 0; h < shape->kv_heads; h++) {
            const float *k = row_f32(args->k, r) + h * dim, *v = row_f32(args->v, r) + h * dim;
            float *keys = row_f32(args->keys, page) + h * lb_kv_key_head(shape);
            float *values = row_f32(args->values, page) + h * lb_kv_value_head(shape);
            if (shape->stored == LB_F32)
                write_floats(shape, k, v, lane, keys, values);
            else
                write_integers(shape, k, v, lane, keys, values);
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
