/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_ops [THREADS] - times the ops at the shapes of SmolLM2-135M and Qwen3-0.6B against the
 * machine's limits, which are measured beside each op. CSV on stdout; medians of RUNS.
 */
#include "common/base/clock.h"
#include "common/tensor/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUNS 7
#define LEAST_SECONDS 0.02

typedef struct bench {
    lb_backend *backend;
    lb_ops *ops;
    lb_limits limits;
} bench;

/* What an op is timed with; a case uses what it needs. */
typedef struct args {
    size_t m, k, n;
    lb_dtype dtype;
    lb_weight *w;
    lb_tensor x, y, z, keys, values, gain, table;
    lb_kv_row *rows;
    uint32_t *ids, *pages, *starts;
    float *uniform, *logprob, *lse;
    lb_attention_shape shape;
} args;

static void die(const bench *b, const char *what)
{
    lb_err err = {0};
    (void)lb_ops_status(b->ops, &err);
    fprintf(stderr, "bench_ops: %s: %s\n", what, err.message);
    exit(1);
}

static void *take(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        exit(1);
    return memory;
}

static float *noise(size_t count, float scale)
{
    float *out = take(count, sizeof *out);
    uint32_t state = 1;
    for (size_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        out[i] = ((float)(state >> 8) * 0x1p-23f - 1.0f) * scale;
    }
    return out;
}

static lb_tensor filled(bench *b, size_t rows, size_t cols)
{
    lb_tensor t = lb_ops_alloc(b->ops, LB_F32, rows, cols);
    float *host = noise(rows * cols, 1.0f);
    lb_copy_in(b->ops, t, host);
    free(host);
    return t;
}

static int by_value(const void *p, const void *q)
{
    double x = *(const double *)p, y = *(const double *)q;
    return x < y ? -1 : x > y;
}

typedef void (*op_fn)(bench *b, args *a);

/* One line of the table. flops and bytes are those of one call. */
static void report(bench *b, const char *op, args *a, op_fn run, double flops, double bytes)
{
    double seconds[RUNS], limit = a->dtype == LB_INT16  ? b->limits.int16_gops
                                  : a->dtype == LB_INT8 ? b->limits.int8_gops
                                                        : b->limits.f32_gflops;
    run(b, a);
    double start = lb_clock_seconds();
    run(b, a);
    size_t calls = (size_t)(LEAST_SECONDS / (lb_clock_seconds() - start + 1e-9)) + 1;
    for (int r = 0; r < RUNS; r++) {
        start = lb_clock_seconds();
        for (size_t i = 0; i < calls; i++)
            run(b, a);
        seconds[r] = (lb_clock_seconds() - start) / (double)calls;
    }
    if (lb_ops_status(b->ops, NULL) != LB_OK)
        die(b, op);
    qsort(seconds, RUNS, sizeof *seconds, by_value);
    double t = seconds[RUNS / 2];
    printf("%s,%zu x %zu x %zu,%s,%u,%.4f,%.1f,%.3f,%.1f\n", op, a->m, a->k, a->n,
           lb_dtype_name(a->dtype), lb_backend_threads(b->backend), t * 1e3, flops / t / 1e9,
           flops / t / 1e9 / limit, bytes / t / 1e9);
    fflush(stdout);
}

/* ---- the ops ---- */

static void linear(bench *b, args *a)
{
    lb_linear(b->ops, a->y, a->x, a->w, (lb_tensor){0});
}
static void linear_backward(bench *b, args *a)
{
    lb_linear_backward(b->ops, a->x, a->y, a->w, false);
}
static void head(bench *b, args *a)
{
    const lb_head_out out = {.logprob = a->logprob, .lse = a->lse};
    lb_head(b->ops, a->x, a->w, a->ids, &out);
}
static void head_backward(bench *b, args *a)
{
    lb_head_backward(b->ops, a->z, a->x, a->w, a->ids, a->lse, a->uniform);
}
static void sample(bench *b, args *a)
{
    const lb_sample_params params = {1.0f, 1.0f, 0};
    lb_head_sample(b->ops, a->x, a->w, NULL, &params, a->uniform, a->ids, a->logprob);
}
static void sample_top(bench *b, args *a)
{
    const lb_sample_params params = {1.0f, 0.9f, 50};
    lb_head_sample(b->ops, a->x, a->w, NULL, &params, a->uniform, a->ids, a->logprob);
}
static void attention(bench *b, args *a)
{
    lb_attention(b->ops, a->y, a->x, a->keys, a->values, a->rows, &a->shape);
}
static void attention_backward(bench *b, args *a)
{
    const lb_tensor grads[3] = {a->y, a->keys, a->values};
    lb_attention_backward(b->ops, grads, a->x, a->x, a->z, a->gain, a->starts, 1, &a->shape);
}
static void rmsnorm(bench *b, args *a) { lb_rmsnorm(b->ops, a->y, a->x, a->gain, 1e-6f); }
static void swiglu(bench *b, args *a) { lb_swiglu(b->ops, a->z, a->x, a->y); }
static void rope(bench *b, args *a) { lb_rope(b->ops, a->x, 64, a->table, a->ids, false); }
static void lora_down(bench *b, args *a) { lb_gemm_nn(b->ops, a->y, a->x, a->z, 1.0f, false); }
static void lora_up(bench *b, args *a) { lb_gemm_nn(b->ops, a->x, a->y, a->gain, 0.5f, true); }
static void lora_grad_a(bench *b, args *a) { lb_gemm_tn(b->ops, a->gain, a->y, a->x, true); }
static void lora_grad_b(bench *b, args *a) { lb_gemm_tn(b->ops, a->z, a->x, a->y, true); }

/* ---- cases ---- */

static lb_weight *weight(bench *b, size_t n, size_t k, lb_dtype dtype, unsigned flags)
{
    lb_weight *w = NULL;
    lb_err err = {0};
    float *host = noise(n * k, 0.05f);
    if (lb_weight_create(b->backend, n, k, host, LB_F32, dtype, flags, &w, &err) != LB_OK) {
        fprintf(stderr, "bench_ops: %s\n", err.message);
        exit(1);
    }
    free(host);
    return w;
}

static void bench_linear(bench *b, size_t k, size_t n, lb_dtype dtype)
{
    static const size_t rows[] = {1, 8, 32, 512};
    bool backward = lb_dtype_has_backward(dtype);
    lb_weight *w = weight(b, n, k, dtype, LB_WEIGHT_FORWARD | (backward ? LB_WEIGHT_BACKWARD : 0u));
    for (size_t i = 0; i < 4; i++) {
        args a = {.m = rows[i], .k = k, .n = n, .dtype = dtype, .w = w};
        double flops = 2.0 * (double)(a.m * k * n), bytes = (double)(n * k * lb_dtype_size(dtype));
        lb_ops_reset(b->ops);
        a.x = filled(b, a.m, k);
        a.y = filled(b, a.m, n);
        report(b, "linear", &a, linear, flops, bytes);
        if (backward && a.m == 512)
            report(b, "linear_backward", &a, linear_backward, flops, bytes);
    }
    lb_weight_free(w);
}

static void bench_head(bench *b, size_t k, size_t n, lb_dtype dtype)
{
    static const size_t rows[] = {1, 8, 32, 512};
    bool backward = lb_dtype_has_backward(dtype);
    lb_weight *w = weight(b, n, k, dtype, LB_WEIGHT_FORWARD | (backward ? LB_WEIGHT_BACKWARD : 0u));
    for (size_t i = 0; i < 4; i++) {
        args a = {.m = rows[i], .k = k, .n = n, .dtype = dtype, .w = w};
        double flops = 2.0 * (double)(a.m * k * n), bytes = (double)(n * k * lb_dtype_size(dtype));
        lb_ops_reset(b->ops);
        a.x = filled(b, a.m, k);
        a.z = filled(b, a.m, k);
        a.ids = take(a.m, sizeof *a.ids);
        a.uniform = noise(a.m, 0.5f);
        for (size_t r = 0; r < a.m; r++)
            a.uniform[r] += 0.5f;
        a.logprob = take(a.m, sizeof *a.logprob);
        a.lse = take(a.m, sizeof *a.lse);
        report(b, "head", &a, head, flops, bytes);
        if (a.m <= 32) {
            report(b, "sample", &a, sample, flops, bytes);
            report(b, "sample_top_k_p", &a, sample_top, flops, bytes);
        } else if (backward) {
            report(b, "head_backward", &a, head_backward, 2 * flops, 2 * bytes);
        }
        free(a.ids);
        free(a.uniform);
        free(a.logprob);
        free(a.lse);
    }
    lb_weight_free(w);
}

static void bench_attention(bench *b, lb_attention_shape shape, size_t tokens)
{
    size_t cols = (size_t)shape.heads * shape.head_dim, pages = tokens / LB_KV_PAGE;
    size_t wide = (size_t)shape.kv_heads * shape.head_dim;
    static const lb_dtype stored[] = {LB_F32, LB_INT16, LB_INT8};
    args a = {.m = tokens, .k = shape.head_dim, .n = shape.heads, .shape = shape};
    uint32_t starts[2] = {0, (uint32_t)tokens};
    double pairs = (double)tokens * ((double)tokens + 1) / 2 * (double)cols;
    lb_ops_reset(b->ops);
    a.starts = starts;
    a.rows = take(tokens, sizeof *a.rows);
    a.pages = take(pages, sizeof *a.pages);
    a.ids = take(tokens, sizeof *a.ids);
    for (size_t i = 0; i < pages; i++)
        a.pages[i] = (uint32_t)i;
    for (size_t i = 0; i < tokens; i++)
        a.rows[i] = (lb_kv_row){a.pages, (uint32_t)i + 1};
    a.x = filled(b, tokens, cols);
    a.y = filled(b, tokens, cols);
    for (size_t i = 0; i < tokens; i++)
        a.ids[i] = (uint32_t)i;
    for (size_t i = 0; i < sizeof stored / sizeof *stored; i++) {
        a.shape.stored = a.dtype = stored[i];
        a.keys = filled(b, pages, lb_kv_key_page(&a.shape));
        a.values = filled(b, pages, lb_kv_value_page(&a.shape));
        lb_kv_write(b->ops, a.keys, a.values, filled(b, tokens, wide), filled(b, tokens, wide),
                    a.ids, &a.shape);
        report(b, "attention", &a, attention, 4 * pairs, 0);
    }
    a.shape.stored = a.dtype = LB_F32;
    a.z = filled(b, tokens, wide);
    a.gain = filled(b, tokens, wide);
    a.keys = filled(b, tokens, wide);
    a.values = filled(b, tokens, wide);
    report(b, "attention_backward", &a, attention_backward, 8 * pairs, 0);
    free(a.rows);
    free(a.pages);
    free(a.ids);
}

static void bench_rows(bench *b, size_t m, size_t hidden, size_t mlp)
{
    args a = {.m = m, .k = hidden, .n = 1};
    double moved = (double)(m * hidden) * sizeof(float);
    lb_ops_reset(b->ops);
    a.ids = take(m, sizeof *a.ids);
    a.x = filled(b, m, hidden);
    a.y = filled(b, m, hidden);
    a.gain = filled(b, 1, hidden);
    a.table = filled(b, m, 64);
    report(b, "rmsnorm", &a, rmsnorm, 4.0 * (double)(m * hidden), 2 * moved);
    report(b, "rope", &a, rope, 3.0 * (double)(m * hidden), 2 * moved);
    a.z = filled(b, hidden, 16);
    a.y = filled(b, m, 16);
    a.n = 16;
    report(b, "lora_down", &a, lora_down, 32.0 * (double)(m * hidden), moved);
    a.gain = filled(b, 16, hidden);
    report(b, "lora_up", &a, lora_up, 32.0 * (double)(m * hidden), 2 * moved);
    report(b, "lora_grad_a", &a, lora_grad_a, 32.0 * (double)(m * hidden), moved);
    report(b, "lora_grad_b", &a, lora_grad_b, 32.0 * (double)(m * hidden), moved);
    a.k = mlp;
    a.n = 1;
    a.x = filled(b, m, mlp);
    a.y = filled(b, m, mlp);
    a.z = filled(b, m, mlp);
    report(b, "swiglu", &a, swiglu, 5.0 * (double)(m * mlp), 3.0 * (double)(m * mlp) * 4);
    free(a.ids);
}

int main(int argc, char **argv)
{
    static const lb_dtype dtypes[] = {LB_F32, LB_BF16, LB_INT16, LB_INT8};
    bench b = {0};
    lb_err err = {0};
    uint32_t threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    if (lb_backend_open("cpu", threads, NULL, &b.backend, &err) != LB_OK ||
        lb_ops_create(b.backend, &b.ops, &err) != LB_OK ||
        lb_backend_limits(b.backend, &b.limits, &err) != LB_OK) {
        fprintf(stderr, "bench_ops: %s\n", err.message);
        return 1;
    }
    printf("# %s; limits: f32 %.0f GFLOP/s, int16 %.0f, int8 %.0f Gop/s, read %.1f GB/s\n",
           lb_backend_describe(b.backend), b.limits.f32_gflops, b.limits.int16_gops,
           b.limits.int8_gops, b.limits.read_gb_per_s);
    printf("op,shape,dtype,threads,ms,gflops,limit_share,gb_per_s\n");
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        bench_linear(&b, 576, 3072, dtypes[d]);
        bench_linear(&b, 1024, 6144, dtypes[d]);
        bench_linear(&b, 3072, 1024, dtypes[d]);
        bench_head(&b, 576, 49152, dtypes[d]);
    }
    bench_head(&b, 1024, 151936, LB_BF16);
    bench_attention(&b, (lb_attention_shape){9, 3, 64, 0.125f, LB_F32}, 512);
    bench_attention(&b, (lb_attention_shape){9, 3, 64, 0.125f, LB_F32}, 2048);
    bench_attention(&b, (lb_attention_shape){16, 8, 128, 0.088f, LB_F32}, 512);
    bench_rows(&b, 512, 576, 1536);
    bench_rows(&b, 512, 1024, 3072);
    lb_ops_free(b.ops);
    lb_backend_close(b.backend);
    return 0;
}
