/* SPDX-License-Identifier: Apache-2.0
 *
 * Packs a weight in one pass over its rows: a task expands LB_PANEL rows to f32 and writes them
 * into every packing that was asked for, so that the source is read once and nothing the size of
 * the matrix is held beside the packings.
 */
#include "common/tensor/cpu/cpu.h"

#include <stdlib.h>

typedef struct pack_job {
    lb_weight *w;
    const lb_row_source *source;
    float **rows;        /* [threads] of [LB_PANEL * k] */
} pack_job;

static void put(void *out, lb_dtype stored, size_t index, float value)
{
    if (stored == LB_BF16)
        ((uint16_t *)out)[index] = lb_f32_to_bf16(value);
    else
        ((float *)out)[index] = value;
}

/* Panel of the rows: element (lane, col) at (panel * k + col) * P + lane. */
static void put_forward(const lb_weight *w, size_t panel, size_t count, const float *rows)
{
    for (size_t col = 0; col < w->k; col++) {
        size_t at = (panel * w->k + col) * LB_PANEL;
        for (size_t lane = 0; lane < LB_PANEL; lane++)
            put(w->forward, w->stored, at + lane, lane < count ? rows[lane * w->k + col] : 0.0f);
    }
}

/* The same rows as depth of the panels over k: element (row, col) at (col / P * n + row) * P. */
static void put_backward(const lb_weight *w, size_t first, size_t count, const float *rows)
{
    size_t panels = (w->k + LB_PANEL - 1) / LB_PANEL;
    for (size_t panel = 0; panel < panels; panel++) {
        for (size_t r = 0; r < count; r++) {
            size_t at = (panel * w->n + first + r) * LB_PANEL;
            for (size_t lane = 0; lane < LB_PANEL; lane++) {
                size_t col = panel * LB_PANEL + lane;
                put(w->backward, w->stored, at + lane, col < w->k ? rows[r * w->k + col] : 0.0f);
            }
        }
    }
}

static void pack_rows(void *arg, size_t index, size_t thread)
{
    const pack_job *job = arg;
    const lb_weight *w = job->w;
    float *rows = job->rows[thread];
    size_t first = index * LB_PANEL;
    size_t count = w->n - first < LB_PANEL ? w->n - first : LB_PANEL;
    job->source->read(job->source->arg, first, count, rows);
    if (w->forward)
        put_forward(w, index, count, rows);
    if (w->backward)
        put_backward(w, first, count, rows);
    for (size_t i = 0; w->rows && i < count * w->k; i++)
        put(w->rows, w->stored, first * w->k + i, rows[i]);
}

static lb_status allocate(lb_weight *w, unsigned flag, size_t elements, void **out)
{
    if (!(w->flags & flag))
        return LB_OK;
    size_t size = elements * lb_dtype_size(w->stored);
    *out = lb_cpu_room(size);   /* every element is written */
    w->bytes += size;
    return *out ? LB_OK : LB_ENOMEM;
}

lb_status lb_cpu_weight_pack(void *self, lb_weight *w, const lb_row_source *source)
{
    lb_cpu *cpu = self;
    size_t blocks = (w->n + LB_PANEL - 1) / LB_PANEL, panels = (w->k + LB_PANEL - 1) / LB_PANEL;
    uint32_t threads = lb_pool_threads(cpu->pool);
    pack_job job = {.w = w, .source = source, .rows = calloc(threads, sizeof *job.rows)};
    lb_status status = job.rows ? LB_OK : LB_ENOMEM;
    for (uint32_t i = 0; status == LB_OK && i < threads; i++) {
        job.rows[i] = lb_cpu_room(LB_PANEL * w->k * sizeof **job.rows);
        status = job.rows[i] ? LB_OK : LB_ENOMEM;
    }
    if (status == LB_OK)
        status = allocate(w, LB_WEIGHT_FORWARD, blocks * LB_PANEL * w->k, &w->forward);
    if (status == LB_OK)
        status = allocate(w, LB_WEIGHT_BACKWARD, panels * LB_PANEL * w->n, &w->backward);
    if (status == LB_OK)
        status = allocate(w, LB_WEIGHT_ROWS, w->n * w->k, &w->rows);
    if (status == LB_OK)
        lb_pool_run(cpu->pool, blocks, pack_rows, &job);
    for (uint32_t i = 0; job.rows && i < threads; i++)
        free(job.rows[i]);
    free(job.rows);
    return status;
}

void lb_cpu_weight_drop(void *self, lb_weight *w)
{
    (void)self;
    free(w->forward);
    free(w->backward);
    free(w->rows);
}
