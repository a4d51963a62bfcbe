/* SPDX-License-Identifier: Apache-2.0
 *
 * The backward of causal attention. A task is one sequence and one kv head; the query heads that
 * share it are stacked. A block of query rows at a time, with s = scale q k^T, p = softmax(s) and
 * o = p v: dp = do v^T, ds = scale p (dp - sum p dp), dq = ds k, dk += ds^T q, dv += p^T do.
 *
 * Every sum is one chain in the order of the sequence's positions, across the blocks too.
 */
#include "common/tensor/cpu/small_product.h"
#include "common/tensor/cpu/vmath.h"

#define STACK_ROWS 96u
#define BUFFER_FLOATS ((size_t)1 << 20)   /* of a block's scores: fewer rows for long sequences */
#define PANEL LB_PANEL

typedef struct grad_job {
    lb_cpu *cpu;
    const lb_attention_grad_args *a;
} grad_job;

/* A thread's buffers; n keys padded to whole panels, dim to `width`. */
typedef struct buffers {
    float *kt, *vt;            /* [n / PANEL][dim][PANEL] */
    float *k, *dk, *dv;        /* [n, width] */
    float *q, *dout, *dq;      /* [stacked, width] */
    float *p, *ds;             /* [stacked, ld] */
    float *ones;               /* [n] */
    size_t n, ld, dim, width, group, rows, stacked;
} buffers;

static size_t padded(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* Sizes for sequences of up to `keys`; memory NULL only counts. Returns the floats. */
static size_t lay_out(buffers *b, const lb_attention_shape *shape, size_t keys, float *memory)
{
    *b = (buffers){.n = padded(keys, PANEL), .dim = shape->head_dim,
                   .group = shape->heads / shape->kv_heads};
    b->width = padded(b->dim, PANEL);
    b->ld = b->n + LB_LANES;
    size_t most = BUFFER_FLOATS / b->ld < STACK_ROWS ? BUFFER_FLOATS / b->ld : STACK_ROWS;
    b->rows = most / b->group < 1 ? 1 : most / b->group;
    b->stacked = b->rows * b->group;
    struct {
        float **part;
        size_t floats;
    } parts[] = {
        {&b->kt, b->n * b->dim}, {&b->vt, b->n * b->dim}, {&b->k, b->n * b->width},
        {&b->dk, b->n * b->width}, {&b->dv, b->n * b->width}, {&b->q, b->stacked * b->width},
        {&b->dout, b->stacked * b->width}, {&b->dq, b->stacked * b->width},
        {&b->p, b->stacked * b->ld}, {&b->ds, b->stacked * b->ld}, {&b->ones, b->n},
    };
    size_t at = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = memory ? memory + at : NULL;
        at += padded(parts[i].floats, LB_LANES);
    }
    return at;
}

/* Keys and values of the sequence as the products read them; dk and dv are 0. */
static void load_keys(const grad_job *job, const buffers *b, size_t first, size_t count,
                      size_t kv_head)
{
    size_t all = padded(count, PANEL), offset = kv_head * b->dim;
    memset(b->kt, 0, all * b->dim * sizeof(float));
    memset(b->vt, 0, all * b->dim * sizeof(float));
    memset(b->k, 0, all * b->width * sizeof(float));
    memset(b->dk, 0, all * b->width * sizeof(float));
    memset(b->dv, 0, all * b->width * sizeof(float));
    for (size_t i = 0; i < all; i++)
        b->ones[i] = 1.0f;
    for (size_t i = 0; i < count; i++) {
        const float *k = row_f32(job->a->k, first + i) + offset;
        const float *v = row_f32(job->a->v, first + i) + offset;
        size_t at = i / PANEL * b->dim * PANEL + i % PANEL;
        memcpy(b->k + i * b->width, k, b->dim * sizeof *k);
        for (size_t d = 0; d < b->dim; d++) {
            b->kt[at + d * PANEL] = k[d];
            b->vt[at + d * PANEL] = v[d];
        }
    }
}

/* out[stacked, keys] = rows [stacked, dim] times the transposed panels. */
static void times_panels(const buffers *b, const float *rows, const float *panels, size_t stacked,
                         size_t keys, float *out)
{
    for (size_t key = 0; key < keys; key += PANEL) {
        const float *panel = panels + key * b->dim;
        const small_product p = {.a = rows, .lda = b->width, .step = 1, .b = &panel, .parts = 1,
                                 .depth = b->dim, .ldb = PANEL, .c = out + key, .ldc = b->ld};
        small_product_run(&p, stacked, PANEL);
    }
}

/* to[keys, width] += from[stacked, keys]^T rows[stacked, width]. */
static void add_transposed(const buffers *b, const float *from, const float *rows, size_t stacked,
                           size_t keys, float *to)
{
    const small_product p = {.a = from, .lda = 1, .step = b->ld, .b = &rows, .parts = 1,
                             .depth = stacked, .ldb = b->width, .c = to, .ldc = b->width,
                             .keep = b->ones};
    small_product_run(&p, keys, b->width);
}

/* Scores p[n] -> probabilities, and dp in ds -> ds. Entries from `seen` on become 0. */
static void soften(float *p, float *ds, size_t seen, size_t n)
{
    vf largest = vf_set(-__builtin_inff()), sum = vf_set(0.0f), mean = vf_set(0.0f);
    for (size_t i = seen; i < n; i++) {
        p[i] = -__builtin_inff();
        ds[i] = 0.0f;
    }
    for (size_t i = 0; i < n; i += LB_LANES)
        largest = vf_max(vf_load(p + i), largest);
    vf max = vf_set(vf_largest(largest));
    for (size_t i = 0; i < n; i += LB_LANES) {
        vf e = vf_exp(vf_sub(vf_load(p + i), max));
        vf_store(p + i, e);
        sum = vf_add(sum, e);
    }
    vf inverse = vf_set(1.0f / vf_sum(sum));
    for (size_t i = 0; i < n; i += LB_LANES) {
        vf e = vf_mul(vf_load(p + i), inverse);
        vf_store(p + i, e);
        mean = vf_fma(e, vf_load(ds + i), mean);
    }
    vf pull = vf_set(vf_sum(mean));
    for (size_t i = 0; i < n; i += LB_LANES) {
        vf d = vf_sub(vf_load(ds + i), pull);
        vf_store(ds + i, vf_mul(vf_load(p + i), d));
    }
}

/* Query rows [row, row + rows) of a sequence that starts at `first`. */
static void block(const grad_job *job, const buffers *b, size_t first, size_t row, size_t rows,
                  size_t kv_head)
{
    const lb_attention_grad_args *a = job->a;
    size_t stacked = rows * b->group, keys = padded(row + rows, PANEL);
    float scale = a->shape->scale;
    memset(b->q, 0, stacked * b->width * sizeof(float));
    memset(b->dout, 0, stacked * b->width * sizeof(float));
    for (size_t i = 0; i < stacked; i++) {
        size_t at = (kv_head * b->group + i % b->group) * b->dim;
        const float *q = row_f32(a->q, first + row + i / b->group) + at;
        for (size_t d = 0; d < b->dim; d++)
            b->q[i * b->width + d] = q[d] * scale;
        memcpy(b->dout + i * b->width, row_f32(a->dout, first + row + i / b->group) + at,
               b->dim * sizeof(float));
    }
    times_panels(b, b->q, b->kt, stacked, keys, b->p);
    times_panels(b, b->dout, b->vt, stacked, keys, b->ds);
    /* q holds the scale already, so dk = ds^T q needs ds without it. */
    for (size_t i = 0; i < stacked; i++)
        soften(b->p + i * b->ld, b->ds + i * b->ld, row + i / b->group + 1, keys);
    add_transposed(b, b->p, b->dout, stacked, keys, b->dv);
    add_transposed(b, b->ds, b->q, stacked, keys, b->dk);
    const float *k = b->k;
    const small_product dq = {.a = b->ds, .lda = b->ld, .step = 1, .b = &k, .parts = 1,
                              .depth = keys, .ldb = b->width, .c = b->dq, .ldc = b->width};
    small_product_run(&dq, stacked, b->width);
    for (size_t i = 0; i < stacked; i++) {
        float *out = row_f32(a->dq, first + row + i / b->group) +
                     (kv_head * b->group + i % b->group) * b->dim;
        for (size_t d = 0; d < b->dim; d++)
            out[d] = b->dq[i * b->width + d] * scale;
    }
}

static void grad_task(void *arg, size_t index, size_t thread)
{
    const grad_job *job = arg;
    const lb_attention_grad_args *a = job->a;
    size_t sequence = index / a->shape->kv_heads, kv_head = index % a->shape->kv_heads;
    size_t first = a->starts[sequence], count = a->starts[sequence + 1] - first;
    buffers b;
    lay_out(&b, a->shape, count, job->cpu->scratch[thread]);
    load_keys(job, &b, first, count, kv_head);
    for (size_t row = 0; row < count; row += b.rows)
        block(job, &b, first, row, count - row < b.rows ? count - row : b.rows, kv_head);
    for (size_t i = 0; i < count; i++) {
        size_t at = kv_head * b.dim;
        memcpy(row_f32(a->dk, first + i) + at, b.dk + i * b.width, b.dim * sizeof(float));
        memcpy(row_f32(a->dv, first + i) + at, b.dv + i * b.width, b.dim * sizeof(float));
    }
}

lb_status LB_K(lb_cpu_attention_backward)(void *self, const lb_attention_grad_args *args)
{
    lb_cpu *cpu = self;
    size_t most = 0;
    buffers b;
    /* A shorter sequence may take more rows at a time, and so more room. */
    for (size_t s = 0; s < args->sequences; s++) {
        size_t floats = lay_out(&b, args->shape, args->starts[s + 1] - args->starts[s], NULL);
        most = floats > most ? floats : most;
    }
    lb_status status = lb_cpu_scratch(cpu, most * sizeof(float));
    if (status != LB_OK)
        return status;
    grad_job job = {cpu, args};
    lb_pool_run(cpu->pool, args->sequences * args->shape->kv_heads, grad_task, &job);
    return LB_OK;
}
