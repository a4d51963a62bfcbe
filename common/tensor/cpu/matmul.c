/* SPDX-License-Identifier: Apache-2.0
 *
 * Products with packed panels: c[m, n] = sum over k of a[m, k] w[n, k].
 *
 * A tile of LB_TILE_ROWS rows and LB_TILE_VECTORS vectors of 16 columns is held in registers while
 * k runs, so each element is one chain of fused multiply-adds over k in order: its bits depend on
 * neither the rows beside it nor the tile's size. bf16 panels hold two k side by side in a lane and
 * are expanded as they are read, which is exact.
 */
#include "common/tensor/cpu/amx.h"
#include "common/tensor/cpu/vmath.h"

#define ROWS LB_TILE_ROWS
#define VECTORS LB_TILE_VECTORS
#define ROWS_PER_TASK 96u
/* Below this many multiply-adds a product is done before another thread has woken. */
#define PARALLEL_LEAST ((size_t)1 << 17)

/* sum[i][v] += a[i][k] w[v] for one k. */
static inline __attribute__((always_inline)) void step(const int rows, vf sum[ROWS][VECTORS],
                                                       const float *a, size_t lda,
                                                       const vf w[VECTORS])
{
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        vf x = vf_set(a[(size_t)i * lda]);
        LB_UNROLL
        for (int v = 0; v < VECTORS; v++)
            sum[i][v] = vf_fma(x, w[v], sum[i][v]);
    }
}

static inline __attribute__((always_inline)) void tile(const int rows, const bool bf16,
                                                       const lb_product *p, const float *a,
                                                       const char *panel, lb_ahead ahead,
                                                       float *out, size_t ld)
{
    vf sum[ROWS][VECTORS], w[VECTORS];
    const size_t line = LB_PANEL * LB_GROUP_BYTES, lane = LB_LANES * LB_GROUP_BYTES;
    size_t k = 0;
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        LB_UNROLL
        for (int v = 0; v < VECTORS; v++)
            sum[i][v] = vf_set(0.0f);
    }
    for (; !bf16 && k < p->k; k++, panel += line, ahead.at += ahead.step) {
        LB_PREFETCH(ahead.at);
        LB_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            w[v] = vf_load((const float *)(const void *)(panel + v * lane));
        step(rows, sum, a + k, p->lda, w);
    }
    for (; bf16 && k < p->k; k += 2, panel += line, ahead.at += ahead.step) {
        LB_PREFETCH(ahead.at);
        LB_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            w[v] = vf_bf16_low((const float *)(const void *)(panel + v * lane));
        step(rows, sum, a + k, p->lda, w);
        if (k + 1 == p->k)
            break;
        LB_UNROLL
        for (size_t v = 0; v < VECTORS; v++)
            w[v] = vf_bf16_high((const float *)(const void *)(panel + v * lane));
        step(rows, sum, a + k + 1, p->lda, w);
    }
    LB_UNROLL
    for (int i = 0; i < rows; i++) {
        LB_UNROLL
        for (int v = 0; v < VECTORS; v++)
            vf_store(out + (size_t)i * ld + (size_t)v * LB_LANES, sum[i][v]);
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
            tile(count, true, p, a, panel, ahead, out, ld);                                      \
        else                                                                                     \
            tile(count, false, p, a, panel, ahead, out, ld);                                     \
        break;

static void tile_float(const lb_product *p, size_t rows, size_t row, size_t column,
                       lb_ahead ahead, float *out, size_t ld)
{
    const float *a = p->a + row * p->lda;
    const char *panel = (const char *)p->panels +
                        column / LB_PANEL * lb_panel_bytes(p->stored, p->depth) +
                        column % LB_PANEL * LB_GROUP_BYTES;
    switch (rows) {
    LB_TILE_CASES(TILE_CASE)
    default:
        return;
    }
}

/* A tile of integers by AMX, which the kernels for VNNI alone know of, or by vectors. */
#if defined(LB_ISA_AVX512) && defined(LB_ISA_VNNI)
#define ROWS_MOST LB_AMX_ROWS
_Static_assert(VECTORS * LB_LANES == LB_AMX_COLUMNS, "a tile is as wide as AMX's");

static void tile_integers(const lb_product *p, lb_amx *amx, size_t rows, size_t row,
                          size_t column, lb_ahead ahead, float *out, size_t ld)
{
    if (p->q->amx)
        lb_amx_tile(amx, p, rows, row, column, out, ld);
    else
        LB_K(lb_tile_int)(p, rows, row, column, ahead, out, ld);
}

static void end_integers(lb_amx *amx)
{
    lb_amx_end(amx);
}
#else
#define ROWS_MOST ROWS

static void tile_integers(const lb_product *p, lb_amx *amx, size_t rows, size_t row,
                          size_t column, lb_ahead ahead, float *out, size_t ld)
{
    (void)amx;
    LB_K(lb_tile_int)(p, rows, row, column, ahead, out, ld);
}

static void end_integers(lb_amx *amx)
{
    (void)amx;
}
#endif

/* One tile of `rows` (1 .. ROWS, with AMX LB_AMX_ROWS) rows and VECTORS * 16 columns from
 * `column`. */
static void tile_any(const lb_product *p, lb_amx *amx, size_t rows, size_t row, size_t column,
                     lb_ahead ahead)
{
    float spare[ROWS_MOST * VECTORS * LB_LANES] __attribute__((aligned(64)));
    bool whole = column + VECTORS * LB_LANES <= p->n && !p->accumulate && !p->bias &&
                 p->alpha == 1.0f;
    float *out = whole ? p->c + row * p->ldc + column : spare;
    size_t ld = whole ? p->ldc : VECTORS * LB_LANES;
    /* What the sums will be added to comes while they are made. */
    for (size_t i = 0; p->accumulate && i < rows; i++) {
        for (size_t v = column; v < column + VECTORS * LB_LANES && v < p->n; v += LB_LANES)
            __builtin_prefetch(p->c + (row + i) * p->ldc + v, 1, 3);
    }
    if (lb_dtype_is_integer(p->stored))
        tile_integers(p, amx, rows, row, column, ahead, out, ld);
    else
        tile_float(p, rows, row, column, ahead, out, ld);
    for (size_t i = 0; !whole && i < rows; i++) {
        for (size_t v = 0; v < VECTORS; v++)
            finish(p, row + i, column + v * LB_LANES, out + (i * VECTORS + v) * LB_LANES);
    }
}

/* What tile `tile` of the `tiles` of a panel asks for: its share of the next panel. All of it by
 * the first tiles is more than memory gives at a time, and these wait then: with 12, 36 and 96 rows
 * the f32 product is 1.5, 1.2 and 1.1 times as fast with even shares. */
static lb_ahead ahead_of(const lb_product *p, size_t column, size_t tile, size_t tiles)
{
    const size_t bytes = lb_panel_bytes(p->stored, p->depth), next = column / LB_PANEL + 1;
    const size_t line = LB_PANEL * LB_GROUP_BYTES;
    const char *panels = p->panels;
    if (next * LB_PANEL >= p->packed)
        return (lb_ahead){panels + (next - 1) * bytes, 0};
    /* One line a group is the most that a tile asks for. */
    size_t share = (line + tiles - 1) / tiles, step = share < LB_LINE ? share : LB_LINE;
    return (lb_ahead){panels + next * bytes + tile * step * lb_panel_groups(p->stored, p->k), step};
}

void LB_K(lb_product_part)(const lb_product *p, size_t first, size_t rows, size_t panel,
                           size_t panels)
{
    const size_t width = VECTORS * LB_LANES, across = LB_PANEL / width;
    size_t begin = panel * LB_PANEL, end = (panel + panels) * LB_PANEL;
    lb_amx amx = {0};
    const bool by_amx = lb_dtype_is_integer(p->stored) && p->q->amx;
    const size_t most = by_amx ? ROWS_MOST : ROWS, tiles = (rows + most - 1) / most;
    if (end > p->n)
        end = p->n;
    for (size_t column = begin; column < end; column += width) {
        const size_t before = column / width % across * tiles;   /* tiles of the same panel */
        for (size_t row = 0, tile = 0; tile < tiles; tile++) {
            /* AMX's tiles are whole registers. */
            size_t left = rows - row < most ? rows - row : most;
            size_t count = by_amx ? left : lb_tile_height(rows, tiles, tile);
            tile_any(p, &amx, count, first + row, column,
                     ahead_of(p, column, before + tile, tiles * across));
            row += count;
        }
    }
    end_integers(&amx);
}

/* c, ldc, bias and accumulate are left to the caller. */
static lb_product product_of(const lb_weight *w, size_t first, size_t n, lb_tensor x,
                             const lb_quantised *q)
{
    lb_product p = lb_product_with(w, first, n);
    p.a = x.data;
    p.lda = x.stride;
    p.q = q;
    return p;
}

/* out = silu(x gate^T) (x up^T). */
typedef struct gated_product {
    lb_tensor out, x;
    const lb_weight *w[2];     /* gate and up */
    const lb_quantised *q;
} gated_product;

/* Panels of it whose sums are at most ROWS_PER_TASK x LB_PANEL: these stay in the cache. */
static void gated_panels(const gated_product *g, size_t row, size_t rows, size_t panel,
                         size_t panels)
{
    float sums[2][ROWS_PER_TASK * LB_PANEL] __attribute__((aligned(64)));
    const size_t column = panel * LB_PANEL, left = g->out.cols - column, ld = panels * LB_PANEL;
    const size_t columns = left < ld ? left : ld;
    lb_quantised q = lb_quantised_from(g->q, row);
    lb_tensor x = lb_tensor_rows(g->x, row, rows);
    for (size_t i = 0; i < 2; i++) {
        lb_product p = product_of(g->w[i], column, left, x, &q);
        p.c = sums[i];
        p.ldc = ld;
        LB_K(lb_product_part)(&p, 0, rows, 0, panels);
    }
    for (size_t r = 0; r < rows; r++)
        swiglu_row(row_f32(g->out, row + r) + column, sums[0] + r * ld, sums[1] + r * ld, columns);
}

static void gated_part(const gated_product *g, size_t row, size_t rows, size_t first,
                       size_t panels)
{
    /* Few rows are done sooner than the next panel is there, unless one weight is read on. */
    const size_t most = ROWS_PER_TASK / rows;
    for (size_t j = 0; j < panels; j += most)
        gated_panels(g, row, rows, first + j, panels - j < most ? panels - j : most);
}

/* The panels of all products, one after the other, in tasks of panels_per_task; or, gated, those
 * of the first with those of the second. */
typedef struct product_tasks {
    const lb_product *products;
    const gated_product *gated;    /* NULL: products end where they say */
    size_t count, depth, rows, row_tasks, panels, panels_per_task;
} product_tasks;

static size_t panels_of(size_t columns)
{
    return (columns + LB_PANEL - 1) / LB_PANEL;
}

/* Panels [first, first + panels) of the row of products. */
static void run_panels(const product_tasks *t, size_t row, size_t rows, size_t first,
                       size_t panels)
{
    if (t->gated)
        gated_part(t->gated, row, rows, first, panels);
    for (size_t i = 0; i < t->count && panels > 0; i++) {
        size_t own = panels_of(t->products[i].n);
        if (first >= own) {
            first -= own;
            continue;
        }
        size_t take = own - first < panels ? own - first : panels;
        LB_K(lb_product_part)(&t->products[i], row, rows, first, take);
        panels -= take;
        first = 0;
    }
}

static void product_task(void *arg, size_t index, size_t thread)
{
    const product_tasks *t = arg;
    (void)thread;
    size_t first = index % t->row_tasks * ROWS_PER_TASK;
    size_t panel = index / t->row_tasks * t->panels_per_task;
    size_t rows = t->rows - first < ROWS_PER_TASK ? t->rows - first : ROWS_PER_TASK;
    size_t panels = t->panels - panel < t->panels_per_task ? t->panels - panel
                                                           : t->panels_per_task;
    run_panels(t, first, rows, panel, panels);
}

static void share_out(lb_cpu *cpu, product_tasks *t)
{
    size_t rows = t->rows;
    if (rows == 0)
        return;
    if (rows * t->panels * LB_PANEL * t->depth < PARALLEL_LEAST ||
        lb_pool_threads(cpu->pool) == 1) {
        for (size_t row = 0; row < rows; row += ROWS_PER_TASK)
            run_panels(t, row, rows - row < ROWS_PER_TASK ? rows - row : ROWS_PER_TASK, 0,
                       t->panels);
        return;
    }
    /* About four tasks a thread, so that one that is held up does not hold up the rest. */
    t->row_tasks = (rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK;
    size_t wanted = 4 * (size_t)lb_pool_threads(cpu->pool);
    size_t column_tasks = wanted / t->row_tasks + 1;
    t->panels_per_task = (t->panels + column_tasks - 1) / column_tasks;
    column_tasks = (t->panels + t->panels_per_task - 1) / t->panels_per_task;
    lb_pool_run(cpu->pool, t->row_tasks * column_tasks, product_task, t);
}

void LB_K(lb_product_run)(lb_cpu *cpu, const lb_product *products, size_t count, size_t rows)
{
    product_tasks tasks = {.products = products, .count = count, .depth = products->k,
                           .rows = rows};
    for (size_t i = 0; i < count; i++)
        tasks.panels += panels_of(products[i].n);
    share_out(cpu, &tasks);
}

lb_status LB_K(lb_cpu_linear)(void *self, lb_tensor x, const lb_norm *norm,
                              const lb_linear_out *outs, size_t count)
{
    lb_product products[LB_LINEARS_MAX];
    lb_quantised q;
    lb_status status = LB_K(lb_product_rows)(self, outs->w->stored, norm, &x, &q);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; i < count; i++) {
        products[i] = product_of(outs[i].w, 0, outs[i].w->n, x, &q);
        products[i].c = outs[i].out.data;
        products[i].ldc = outs[i].out.stride;
        products[i].bias = outs[i].bias.data;
        products[i].accumulate = outs[i].accumulate;
    }
    LB_K(lb_product_run)(self, products, count, x.rows);
    return LB_OK;
}

lb_status LB_K(lb_cpu_linear_swiglu)(void *self, lb_tensor out, lb_tensor x, const lb_norm *norm,
                                     const lb_weight *gate, const lb_weight *up)
{
    lb_quantised q;
    lb_status status = LB_K(lb_product_rows)(self, gate->stored, norm, &x, &q);
    if (status != LB_OK)
        return status;
    const gated_product gated = {out, x, {gate, up}, &q};
    product_tasks tasks = {.gated = &gated, .depth = x.cols, .rows = x.rows,
                           .panels = panels_of(gate->n)};
    share_out(self, &tasks);
    return LB_OK;
}

lb_status LB_K(lb_cpu_linear_backward)(void *self, lb_tensor dx, lb_tensor dy, const lb_weight *w,
                                       bool accumulate)
{
    lb_quantised q;
    lb_status status = LB_K(lb_product_rows)(self, w->stored, NULL, &dy, &q);
    if (status != LB_OK)
        return status;
    lb_product p = lb_product_back(w, 0, w->n);
    p.a = dy.data;
    p.lda = dy.stride;
    p.q = &q;
    p.c = dx.data;
    p.ldc = dx.stride;
    p.accumulate = accumulate;
    LB_K(lb_product_run)(self, &p, 1, dy.rows);
    return LB_OK;
}
