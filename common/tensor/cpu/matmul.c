/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with packed panels: c[m, n] = sum over k of a[m, k] w[n, k].
 *
 * A tile of ROWS rows and VECTORS vectors of 16 columns is held in registers while k runs, so each
 * element is one chain of fused multiply-adds over k in order: its bits depend on neither the rows
 * beside it nor the tile's size. bf16 panels are expanded as they are read, which is exact.
 */
#include "common/tensor/cpu/cpu.h"

#if defined(LB_ISA_AVX512)
#define ROWS 12
#define VECTORS 2
#elif defined(LB_ISA_AVX2)
#define ROWS 6          /* 6 x 2 accumulators of 8 lanes, 2 of weights and 1 broadcast: 15 of 16 */
#define VECTORS 1
#else
#define ROWS 4
#define VECTORS 1
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define ROWS_PER_TASK 96u
/* Below this many multiply-adds a product is done before another thread has woken. */
#define PARALLEL_LEAST ((size_t)1 << 17)

static inline __attribute__((always_inline)) void tile(const int rows, const bool bf16,
                                                       const lb_product *p, const float *a,
                                                       const char *panel, float *out)
{
    vf sum[ROWS][VECTORS];
    const size_t step = LB_PANEL * (bf16 ? sizeof(uint16_t) : sizeof(float));
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            sum[i][v] = vf_set(0.0f);
    }
    for (size_t k = 0; k < p->k; k++, panel += step) {
        vf w[VECTORS];
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            w[v] = bf16 ? vf_load_bf16((const uint16_t *)(const void *)panel + v * LB_LANES)
                        : vf_load((const float *)(const void *)panel + v * LB_LANES);
        UNROLL
        for (int i = 0; i < rows; i++) {
            vf x = vf_set(a[(size_t)i * p->lda + k]);
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                sum[i][v] = vf_fma(x, w[v], sum[i][v]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            vf_store(out + ((size_t)i * VECTORS + (size_t)v) * LB_LANES, sum[i][v]);
    }
}

/* c = alpha * value (+ c) (+ bias) for up to 16 columns from `column`. */
static void finish(const lb_product *p, size_t row, size_t column, const float *value)
{
    if (column >= p->n)
        return;
    size_t count = p->n - column < LB_LANES ? p->n - column : LB_LANES;
    float *c = p->c + row * p->ldc + column;
    vf result = vf_load(value);
    if (p->accumulate)
        result = vf_fma(vf_set(p->alpha), result,
                        count == LB_LANES ? vf_load(c) : vf_load_n(c, count, 0.0f));
    else if (p->alpha != 1.0f)
        result = vf_mul(vf_set(p->alpha), result);
    if (p->bias)
        result = vf_add(result, count == LB_LANES ? vf_load(p->bias + column)
                                                  : vf_load_n(p->bias + column, count, 0.0f));
    if (count == LB_LANES)
        vf_store(c, result);
    else
        vf_store_n(c, result, count);
}

#define TILE_CASE(count)                                                                         \
    case count:                                                                                  \
        if (p->stored == LB_BF16)                                                                \
            tile(count, true, p, a, panel, out);                                                 \
        else                                                                                     \
            tile(count, false, p, a, panel, out);                                                \
        break

/* One tile of `rows` (1 .. ROWS) rows and VECTORS * 16 columns from `column`. */
static void tile_any(const lb_product *p, int rows, size_t row, size_t column)
{
    float out[ROWS * VECTORS * LB_LANES] __attribute__((aligned(64)));
    const size_t size = lb_dtype_size(p->stored);
    const float *a = p->a + row * p->lda;
    const char *panel = (const char *)p->panels +
                        (column / LB_PANEL * p->depth * LB_PANEL + column % LB_PANEL) * size;
    switch (rows) {
    TILE_CASE(1);
    TILE_CASE(2);
    TILE_CASE(3);
    TILE_CASE(4);
#if ROWS > 4
    TILE_CASE(5);
    TILE_CASE(6);
#endif
#if ROWS > 6
    TILE_CASE(7);
    TILE_CASE(8);
    TILE_CASE(9);
    TILE_CASE(10);
    TILE_CASE(11);
    TILE_CASE(12);
#endif
    default:
        return;
    }
    for (int i = 0; i < rows; i++) {
        for (size_t v = 0; v < VECTORS; v++)
            finish(p, row + (size_t)i, column + v * LB_LANES,
                   out + ((size_t)i * VECTORS + v) * LB_LANES);
    }
}

void LB_K(lb_product_part)(const lb_product *p, size_t first, size_t rows, size_t panel,
                           size_t panels)
{
    const size_t width = VECTORS * LB_LANES;
    size_t begin = panel * LB_PANEL, end = (panel + panels) * LB_PANEL;
    if (end > p->n)
        end = p->n;
    for (size_t column = begin; column < end; column += width) {
        for (size_t row = 0; row < rows; row += ROWS) {
            size_t count = rows - row < ROWS ? rows - row : ROWS;
            tile_any(p, (int)count, first + row, column);
        }
    }
}

typedef struct product_tasks {
    const lb_product *product;
    size_t rows, row_tasks, panels, panels_per_task;
} product_tasks;

static void product_task(void *arg, size_t index, size_t thread)
{
    const product_tasks *t = arg;
    (void)thread;
    size_t first = index % t->row_tasks * ROWS_PER_TASK;
    size_t panel = index / t->row_tasks * t->panels_per_task;
    size_t rows = t->rows - first < ROWS_PER_TASK ? t->rows - first : ROWS_PER_TASK;
    size_t panels = t->panels - panel < t->panels_per_task ? t->panels - panel
                                                           : t->panels_per_task;
    LB_K(lb_product_part)(t->product, first, rows, panel, panels);
}

void LB_K(lb_product_run)(lb_cpu *cpu, const lb_product *p, size_t rows)
{
    size_t panels = (p->n + LB_PANEL - 1) / LB_PANEL;
    if (rows == 0)
        return;
    if (rows * p->n * p->k < PARALLEL_LEAST || lb_pool_threads(cpu->pool) == 1) {
        LB_K(lb_product_part)(p, 0, rows, 0, panels);
        return;
    }
    /* About four tasks a thread, so that one that is held up does not hold up the rest. */
    size_t row_tasks = (rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    size_t wanted = 4 * (size_t)lb_pool_threads(cpu->pool);
    size_t column_tasks = wanted / row_tasks + 1;
    size_t per_task = (panels + column_tasks - 1) / column_tasks;
    product_tasks tasks = {p, rows, row_tasks, panels, per_task};
    lb_pool_run(cpu->pool, row_tasks * ((panels + per_task - 1) / per_task), product_task, &tasks);
}

lb_status LB_K(lb_cpu_linear)(void *self, lb_tensor out, lb_tensor x, const lb_weight *w,
                              lb_tensor bias)
{
    const lb_product p = {.a = x.data, .lda = x.stride, .panels = w->forward, .stored = w->stored,
                          .c = out.data, .ldc = out.stride, .k = w->k, .n = w->n, .depth = w->k,
                          .alpha = 1.0f, .bias = bias.data};
    LB_K(lb_product_run)(self, &p, x.rows);
    return LB_OK;
}

lb_status LB_K(lb_cpu_linear_backward)(void *self, lb_tensor dx, lb_tensor dy, const lb_weight *w,
                                       bool accumulate)
{
    const lb_product p = {.a = dy.data, .lda = dy.stride, .panels = w->backward,
                          .stored = w->stored, .c = dx.data, .ldc = dx.stride, .k = w->n,
                          .n = w->k, .depth = w->n, .alpha = 1.0f, .accumulate = accumulate};
    LB_K(lb_product_run)(self, &p, dy.rows);
    return LB_OK;
}
