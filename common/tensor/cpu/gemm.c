/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of f32 tensors, as LoRA has them: one side is the rank, so nothing is worth packing. B
 * is read as it stands, [k][n]; what is left of a column tile is copied with zeros beside it. For
 * tn A is read down its columns.
 */
#include "common/tensor/cpu/cpu.h"

#define ROWS LB_TILE_ROWS
#define VECTORS LB_TILE_VECTORS
#define WIDTH (VECTORS * LB_LANES)
#define ROWS_PER_TASK 96u
#define DEPTH_TN 64u
/* Below this many multiply-adds a product is done before another thread has woken. */
#define PARALLEL_LEAST ((size_t)1 << 16)

typedef struct gemm_job {
    lb_cpu *cpu;
    const lb_gemm_args *args;
    const float *a, *b;
    size_t lda, step;          /* element (m, k) at a[m * lda + k * step] */
    size_t ldb, m, n, k;
    size_t rows_per_task, row_tasks, columns_per_task;
    bool from_c;               /* sums go on from C */
} gemm_job;

/* Where a tile reads B, which may be the copy of its last columns. */
typedef struct columns {
    const float *b;
    size_t ldb, first, count;  /* columns of C */
} columns;

/* alpha * sum (+ c), or the sum itself, which has them already, for tn. */
static inline vf result(const gemm_job *job, vf sum, vf c)
{
    const lb_gemm_args *args = job->args;
    if (args->tn)
        return sum;
    return args->accumulate ? vf_fma(vf_set(args->alpha), sum, c)
                            : vf_mul(vf_set(args->alpha), sum);
}

/* c[rows][vectors * 16], rows ldc apart: the results; raw: the sums alone. */
static inline __attribute__((always_inline)) void tile(const int rows, const int vectors,
                                                       const gemm_job *job, size_t row,
                                                       const columns *at, float *c, size_t ldc,
                                                       bool raw)
{
    vf sum[ROWS][VECTORS], w[VECTORS];
    const float *a = job->a + row * job->lda, *b = at->b;
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        LB_UNROLL
        for (int v = 0; v < vectors; v++)
            sum[i][v] = job->from_c ? vf_load(c + (size_t)i * ldc + v * (int)LB_LANES)
                                    : vf_set(0.0f);
    }
    for (size_t k = 0; k < job->k; k++, a += job->step, b += at->ldb) {
        LB_UNROLL
        for (int v = 0; v < vectors; v++)
            w[v] = vf_load(b + v * (int)LB_LANES);
        LB_UNROLL
        for (int i = 0; i < rows; i++) {
            vf x = vf_set(a[(size_t)i * job->lda]);
            LB_UNROLL
            for (int v = 0; v < vectors; v++)
                sum[i][v] = vf_fma(x, w[v], sum[i][v]);
        }
    }
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        LB_UNROLL
        for (int v = 0; v < vectors; v++) {
            float *to = c + (size_t)i * ldc + v * (int)LB_LANES;
            vf_store(to, raw ? sum[i][v] : result(job, sum[i][v], vf_load(to)));
        }
    }
}

#define TILE_CASE(rows)                                                                          \
    case rows:                                                                                   \
        if (at->count > LB_LANES)                                                                \
            tile(rows, VECTORS, job, row, at, c, ldc, raw);                                      \
        else                                                                                     \
            tile(rows, 1, job, row, at, c, ldc, raw);                                            \
        break;

static void tile_any(const gemm_job *job, size_t rows, size_t row, const columns *at, float *c,
                     size_t ldc, bool raw)
{
    switch (rows) {
    LB_TILE_CASES(TILE_CASE)
    default:
        break;
    }
}

/* Columns that fill no vector: in a tile of its own, and then what counts of it. */
static void run_partial(const gemm_job *job, size_t rows, size_t row, const columns *at)
{
    float out[ROWS][WIDTH] __attribute__((aligned(64))) = {{0}};
    for (size_t i = 0; job->from_c && i < rows; i++)
        memcpy(out[i], row_f32(job->args->c, row + i) + at->first, at->count * sizeof(float));
    tile_any(job, rows, row, at, out[0], WIDTH, true);
    for (size_t i = 0; i < rows; i++) {
        float *c = row_f32(job->args->c, row + i) + at->first;
        for (size_t j = 0; j < at->count; j += LB_LANES) {
            size_t count = at->count - j < LB_LANES ? at->count - j : LB_LANES;
            vf there = vf_load_n(c + j, count, 0.0f);
            vf_store_n(c + j, result(job, vf_load(out[i] + j), there), count);
        }
    }
}

/* One tile of rows; what is there of C is asked for before the sums are made. */
static void run_rows(const gemm_job *job, size_t row, size_t end, const columns *at)
{
    lb_tensor c = job->args->c;
    size_t rows = end - row < ROWS ? end - row : ROWS;
    for (size_t i = 0; i < rows; i++) {
        for (size_t v = 0; v < at->count; v += LB_LANES)
            __builtin_prefetch(row_f32(c, row + i) + at->first + v, 1, 3);
    }
    if (at->count % LB_LANES == 0)
        tile_any(job, rows, row, at, row_f32(c, row) + at->first, c.stride, false);
    else
        run_partial(job, rows, row, at);
}

/* Row by row, so that C is walked through in the order of memory; at last the columns that fill no
 * vector, whose part of B is copied once. */
static void run_columns(const gemm_job *job, size_t first, size_t end, size_t column, size_t last,
                        float *copy)
{
    size_t rest = last;
    if ((last - column) % LB_LANES != 0)
        rest = column + (last - column) / WIDTH * WIDTH;
    for (size_t row = first; row < end; row += ROWS) {
        for (size_t from = column; from < rest; from += WIDTH) {
            const columns at = {job->b + from, job->ldb, from,
                                rest - from < WIDTH ? rest - from : WIDTH};
            run_rows(job, row, end, &at);
        }
    }
    if (rest == last)
        return;
    const columns at = {copy, WIDTH, rest, last - rest};
    memset(copy, 0, job->k * WIDTH * sizeof *copy);
    for (size_t k = 0; k < job->k; k++)
        memcpy(copy + k * WIDTH, job->b + rest + k * job->ldb, at.count * sizeof *copy);
    for (size_t row = first; row < end; row += ROWS)
        run_rows(job, row, end, &at);
}

static void gemm_task(void *arg, size_t index, size_t thread)
{
    const gemm_job *job = arg;
    float *copy = job->cpu->scratch[thread];
    size_t first = index % job->row_tasks * job->rows_per_task;
    size_t end = first + job->rows_per_task < job->m ? first + job->rows_per_task : job->m;
    size_t column = index / job->row_tasks * job->columns_per_task;
    size_t last = column + job->columns_per_task < job->n ? column + job->columns_per_task
                                                          : job->n;
    if (!job->args->tn) {
        run_columns(job, first, end, column, last, copy);
        return;
    }
    /* Down the columns of A a cache line a row is read: few enough rows at a time to keep them. */
    for (size_t k = 0; k == 0 || k < job->k; k += DEPTH_TN) {
        gemm_job part = *job;
        part.a += k * job->step;
        part.b += k * job->ldb;
        part.k = job->k - k < DEPTH_TN ? job->k - k : DEPTH_TN;
        part.from_c = job->args->accumulate || k > 0;
        run_columns(&part, first, end, column, last, copy);
    }
}

/* Whole tiles, and as few of them as makes `wanted` tasks with those that the columns give. */
static size_t rows_per_task(size_t m, size_t column_tiles, size_t wanted)
{
    size_t parts = (wanted + column_tiles - 1) / column_tiles;
    size_t rows = ((m + parts - 1) / parts + ROWS - 1) / ROWS * ROWS;
    return rows < ROWS_PER_TASK ? rows : ROWS_PER_TASK;
}

lb_status LB_K(lb_cpu_gemm)(void *self, const lb_gemm_args *args)
{
    lb_cpu *cpu = self;
    bool tn = args->tn;
    gemm_job job = {
        .cpu = cpu, .args = args, .a = args->a.data, .b = args->b.data,
        .lda = tn ? 1 : args->a.stride, .step = tn ? args->a.stride : 1, .ldb = args->b.stride,
        .m = args->c.rows, .n = args->c.cols, .k = tn ? args->a.rows : args->a.cols,
    };
    lb_status status = lb_cpu_scratch(cpu, job.k * WIDTH * sizeof(float));
    if (status != LB_OK || job.m == 0)
        return status;
    bool parallel = job.m * job.n * job.k >= PARALLEL_LEAST && lb_pool_threads(cpu->pool) > 1;
    size_t wanted = parallel ? 4 * (size_t)lb_pool_threads(cpu->pool) : 1;
    size_t tiles = (job.n + WIDTH - 1) / WIDTH;
    job.rows_per_task = parallel ? rows_per_task(job.m, tiles, wanted) : job.m;
    job.row_tasks = (job.m + job.rows_per_task - 1) / job.rows_per_task;
    size_t parts = (wanted + job.row_tasks - 1) / job.row_tasks;
    job.columns_per_task = (tiles + parts - 1) / parts * WIDTH;
    size_t column_tasks = (job.n + job.columns_per_task - 1) / job.columns_per_task;
    lb_pool_run(cpu->pool, job.row_tasks * column_tasks, gemm_task, &job);
    return LB_OK;
}
