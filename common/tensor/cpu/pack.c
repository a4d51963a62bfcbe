/* SPDX-License-Identifier: Apache-2.0
 *
 * Packs a weight in one pass over its rows: a task expands some rows to f32 and writes them into
 * every packing that was asked for, so that the source is read once and nothing the size of the
 * matrix is held beside the packings.
 */
#include "common/tensor/cpu/quantise.h"

#include <stdlib.h>

typedef struct pack_job {
    lb_weight *w;
    const lb_row_source *source;
    size_t rows_per_task;    /* whole panels, and whole blocks where the backward has some */
    float **rows;        /* [threads] of [rows_per_task * stride] */
    size_t stride;       /* of a row: padded, so that rows do not share the sets of the cache */
} pack_job;

/* Where column `col` of row `lane` of a panel stands. */
static char *element(void *panel, lb_dtype stored, size_t lane, size_t col)
{
    size_t size = lb_dtype_size(stored), group = LB_GROUP_BYTES / size;
    return (char *)panel + (col / group * LB_PANEL + lane) * LB_GROUP_BYTES + col % group * size;
}

static void put_f32(float *panel, const float *row, size_t count, size_t lane)
{
    for (size_t col = 0; col < count; col++)
        panel[col * LB_PANEL + lane] = row[col];
}

static void put_bf16(uint16_t *panel, const float *row, size_t count, size_t lane)
{
    for (size_t col = 0; col < count; col++)
        panel[(col / 2 * LB_PANEL + lane) * 2 + col % 2] = lb_f32_to_bf16(row[col]);
}

static inline __attribute__((always_inline)) void put_all(const quant_form form,
                                                          const int16_t *values, size_t count,
                                                          char *panel, size_t lane, size_t first)
{
    for (size_t i = 0; i < count; i++)
        quant_put(form, panel, lane, first + i, values[i]);
}

/* A block, rotated and rounded, as depth [first, ...) of a lane of a panel; returns its scale. */
static float put_block(const lb_weight *w, const vf *values, size_t vectors, char *panel,
                       size_t lane, size_t first, int32_t *sum)
{
    int16_t wide[LB_QUANT_BLOCK];
    size_t count = vectors * LB_LANES;
    float inverse, scale = quant_scale(values, vectors, w->stored, &inverse);
    for (size_t i = 0; i < vectors; i++)
        vf_store_i16(wide + i * LB_LANES, vf_mul(values[i], vf_set(inverse)));
    *sum = 0;
    for (size_t i = 0; i < count; i++)
        *sum += wide[i];
    if (w->planes)
        put_all((quant_form){LB_INT16, true}, wide, count, panel, lane, first);
    else if (w->stored == LB_INT16)
        put_all((quant_form){LB_INT16, false}, wide, count, panel, lane, first);
    else
        put_all((quant_form){LB_INT8, false}, wide, count, panel, lane, first);
    return scale;
}

/* One row of a panel of the forward packing as integers, with its scales and sums. */
static void put_integers(const lb_weight *w, size_t panel, size_t lane, const float *row)
{
    char *to = (char *)w->forward + panel * lb_panel_bytes(w->stored, w->k);
    size_t blocks = lb_quant_blocks(w->k);
    for (size_t b = 0; b < blocks; b++) {
        vf values[QUANT_VECTORS];
        size_t first = b * LB_QUANT_BLOCK, at = (panel * blocks + b) * LB_PANEL + lane;
        size_t vectors = quant_block(row, w->k, first, values);
        int32_t sum;
        w->scales[at] = put_block(w, values, vectors, to, lane, first, &sum);
        if (w->sums)
            w->sums[at] = -128 * sum;
    }
}

/* Rows [first, first + count) as a panel of the forward packing; the others of it stay 0. */
static void put_forward(const pack_job *job, size_t panel, size_t count, const float *rows)
{
    const lb_weight *w = job->w;
    char *to = (char *)w->forward + panel * lb_panel_bytes(w->stored, w->k);
    size_t scales = panel * lb_quant_blocks(w->k) * LB_PANEL;
    if (count < LB_PANEL || (w->stored == LB_BF16 && w->k % 2 != 0))
        memset(to, 0, lb_panel_bytes(w->stored, w->k));
    for (size_t i = count; w->scales && i < LB_PANEL; i++) {
        for (size_t b = 0; b < lb_quant_blocks(w->k); b++) {
            w->scales[scales + b * LB_PANEL + i] = 0.0f;
            if (w->sums)
                w->sums[scales + b * LB_PANEL + i] = 0;
        }
    }
    for (size_t i = 0; i < count; i++) {
        const float *row = rows + i * job->stride;
        if (w->stored == LB_F32)
            put_f32((float *)(void *)to, row, w->k, i);
        else if (w->stored == LB_BF16)
            put_bf16((uint16_t *)(void *)to, row, w->k, i);
        else
            put_integers(w, panel, i, row);
    }
}

/* The same rows as depth of the panels over k. */
static void put_backward(const pack_job *job, size_t first, size_t count, const float *rows)
{
    const lb_weight *w = job->w;
    size_t panels = (w->k + LB_PANEL - 1) / LB_PANEL, bytes = lb_panel_bytes(w->stored, w->n);
    for (size_t panel = 0; panel < panels; panel++) {
        char *to = (char *)w->backward + panel * bytes;
        for (size_t r = 0; r < count; r++) {
            const float *row = rows + r * job->stride + panel * LB_PANEL;
            for (size_t lane = 0; lane < LB_PANEL; lane++) {
                float value = panel * LB_PANEL + lane < w->k ? row[lane] : 0.0f;
                char *out = element(to, w->stored, lane, first + r);
                uint16_t half = lb_f32_to_bf16(value);
                if (w->stored == LB_BF16)
                    memcpy(out, &half, sizeof half);
                else
                    memcpy(out, &value, sizeof value);
            }
        }
    }
}

/* A block of rows from `first` on as one block of depth of the panels over k. */
static void put_backward_integers(const pack_job *job, size_t first, size_t count,
                                  const float *rows)
{
    const lb_weight *w = job->w;
    size_t panels = (w->k + LB_PANEL - 1) / LB_PANEL, bytes = lb_panel_bytes(w->stored, w->n);
    size_t blocks = lb_quant_blocks(w->n), block = first / LB_QUANT_BLOCK;
    for (size_t col = 0; col < panels * LB_PANEL; col++) {
        size_t panel = col / LB_PANEL, lane = col % LB_PANEL;
        float column[LB_QUANT_BLOCK];
        vf values[QUANT_VECTORS];
        int32_t sum;
        for (size_t r = 0; r < count; r++)
            column[r] = col < w->k ? rows[r * job->stride + col] : 0.0f;
        size_t vectors = quant_block(column, count, 0, values);
        w->backward_scales[(panel * blocks + block) * LB_PANEL + lane] =
            put_block(w, values, vectors, (char *)w->backward + panel * bytes, lane, first, &sum);
    }
}

static void pack_rows(void *arg, size_t index, size_t thread)
{
    const pack_job *job = arg;
    const lb_weight *w = job->w;
    float *rows = job->rows[thread];
    size_t first = index * job->rows_per_task;
    size_t count = w->n - first < job->rows_per_task ? w->n - first : job->rows_per_task;
    for (size_t i = 0; i < count; i++)
        job->source->read(job->source->arg, first + i, 1, rows + i * job->stride);
    for (size_t i = 0; w->forward && i < count; i += LB_PANEL)
        put_forward(job, (first + i) / LB_PANEL, count - i < LB_PANEL ? count - i : LB_PANEL,
                    rows + i * job->stride);
    if (w->backward && lb_dtype_is_integer(w->stored))
        put_backward_integers(job, first, count, rows);
    else if (w->backward)
        put_backward(job, first, count, rows);
}

static lb_status allocate(lb_weight *w, size_t bytes, void **out)
{
    *out = bytes ? lb_cpu_shared_room(bytes) : NULL;   /* every byte is written */
    w->bytes += bytes;
    return *out || !bytes ? LB_OK : LB_ENOMEM;
}

static lb_status allocate_all(lb_weight *w)
{
    lb_packing_sizes forward = lb_packing_bytes(w->n, w->k, w->stored,
                                                w->flags & LB_WEIGHT_FORWARD);
    lb_packing_sizes backward = lb_packing_bytes(w->k, w->n, w->stored,
                                                 w->flags & LB_WEIGHT_BACKWARD);
    const size_t bytes[5] = {forward.panels, forward.scales, forward.sums, backward.panels,
                             backward.scales};
    void *found[5] = {NULL};
    lb_status status = LB_OK;
    for (int i = 0; status == LB_OK && i < 5; i++)
        status = allocate(w, bytes[i], &found[i]);
    w->forward = found[0];
    w->scales = found[1];
    w->sums = found[2];
    w->backward = found[3];
    w->backward_scales = found[4];
    /* The last of an odd number of rows has no neighbour in its group. */
    if (status == LB_OK && w->backward && w->stored == LB_BF16 && w->n % 2 != 0)
        memset(w->backward, 0, backward.panels);
    return status;
}

lb_status LB_K(lb_cpu_weight_pack)(void *self, lb_weight *w, const lb_row_source *source)
{
    lb_cpu *cpu = self;
    uint32_t threads = lb_pool_threads(cpu->pool);
    bool columns = lb_dtype_is_integer(w->stored) && (w->flags & LB_WEIGHT_BACKWARD);
    pack_job job = {.w = w, .source = source, .stride = (w->k + 31) / 16 * 16,
                    .rows_per_task = columns ? LB_QUANT_BLOCK : LB_PANEL,
                    .rows = calloc(threads, sizeof *job.rows)};
    w->planes = cpu->amx && w->stored == LB_INT16;
    lb_status status = job.rows ? allocate_all(w) : LB_ENOMEM;
    if (job.stride % 256 == 0)
        job.stride += LB_LANES;
    for (uint32_t i = 0; status == LB_OK && i < threads; i++) {
        job.rows[i] = lb_cpu_room(job.rows_per_task * job.stride * sizeof **job.rows);
        status = job.rows[i] ? LB_OK : LB_ENOMEM;
    }
    if (status == LB_OK)
        lb_pool_run(cpu->pool, (w->n + job.rows_per_task - 1) / job.rows_per_task, pack_rows,
                    &job);
    for (uint32_t i = 0; job.rows && i < threads; i++)
        free(job.rows[i]);
    free(job.rows);
    return status;
}
