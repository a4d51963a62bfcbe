/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations as integers: a block of LB_QUANT_BLOCK of a row is rotated, divided by its scale (the
 * largest magnitude over LB_INT16_MAX or LB_INT8_MAX) and rounded to nearest even. A block that is
 * not finite gets the scale NaN, so that its row's results are NaN and are noticed.
 */
#include "common/tensor/cpu/quantise.h"

#define ROWS_PER_TASK 16u

/* Sixteen int16 as their high and their low bytes. */
static inline void store_planes(char *high, char *low, vf whole)
{
    int16_t wide[LB_LANES];
    vf_store_i16(wide, whole);
    for (size_t i = 0; i < LB_LANES; i++) {
        high[i] = plane_high(wide[i]);
        low[i] = plane_low(wide[i]);
    }
}

/* v[vectors], rotated, as integers at `out`, with low > 0 as bytes there and `low` further on;
 * returns their scale. */
static inline __attribute__((always_inline)) float put(const vf *v, const size_t vectors,
                                                       lb_dtype stored, size_t low, char *out)
{
    float inverse, scale = quant_scale(v, vectors, stored, &inverse);
    LB_UNROLL
    for (size_t i = 0; i < vectors; i++) {
        vf whole = vf_mul(v[i], vf_set(inverse));
        if (low > 0)
            store_planes(out + i * LB_LANES, out + low + i * LB_LANES, whole);
        else if (stored == LB_INT16)
            vf_store_i16((int16_t *)(void *)out + i * LB_LANES, whole);
        else
            vf_store_bytes(out + i * LB_LANES, whole);
    }
    return scale;
}

static inline __attribute__((always_inline)) void quantise_row(const lb_dtype stored, size_t low,
                                                               const float *x, size_t cols,
                                                               char *out, float *scales)
{
    const size_t bytes = LB_QUANT_BLOCK * (low > 0 ? 1 : lb_dtype_size(stored));
    size_t whole = cols / LB_QUANT_BLOCK;
    vf v[QUANT_VECTORS];
    for (size_t b = 0; b < whole; b++, x += LB_QUANT_BLOCK, out += bytes) {
        LB_UNROLL
        for (size_t i = 0; i < QUANT_VECTORS; i++)
            v[i] = vf_load(x + i * LB_LANES);
        quant_rotate_part(v, QUANT_VECTORS, false);
        scales[b] = put(v, QUANT_VECTORS, stored, low, out);
    }
    if (cols % LB_QUANT_BLOCK > 0) {
        vf rest[QUANT_VECTORS];
        size_t vectors = quant_block(x, cols % LB_QUANT_BLOCK, 0, rest);
        scales[whole] = put(rest, vectors, stored, low, out);
    }
}

void LB_K(lb_quantise_part)(lb_dtype stored, bool planes, lb_tensor x, char *rows, size_t stride,
                            float *scales)
{
    size_t blocks = lb_quant_blocks(x.cols);
    for (size_t r = 0; r < x.rows; r++, rows += stride, scales += blocks) {
        if (planes)
            quantise_row(LB_INT16, lb_quantise_low(stride), row_f32(x, r), x.cols, rows, scales);
        else if (stored == LB_INT16)
            quantise_row(LB_INT16, 0, row_f32(x, r), x.cols, rows, scales);
        else
            quantise_row(LB_INT8, 0, row_f32(x, r), x.cols, rows, scales);
    }
}

typedef struct quantise_job {
    lb_tensor x;
    lb_dtype stored;
    bool planes;
    char *rows;
    float *scales;
    size_t stride, blocks;
} quantise_job;

static void quantise_task(void *arg, size_t index, size_t thread)
{
    const quantise_job *job = arg;
    (void)thread;
    size_t first = index * ROWS_PER_TASK, left = job->x.rows - first;
    lb_tensor x = lb_tensor_rows(job->x, first, left < ROWS_PER_TASK ? left : ROWS_PER_TASK);
    LB_K(lb_quantise_part)(job->stored, job->planes, x, job->rows + first * job->stride,
                           job->stride, job->scales + first * job->blocks);
}

lb_status LB_K(lb_quantise_rows)(lb_cpu *cpu, lb_dtype stored, lb_tensor x, lb_quantised *out)
{
    *out = (lb_quantised){0};
    if (!lb_dtype_is_integer(stored))
        return LB_OK;
    size_t stride = lb_quantise_stride(stored, x.cols);
    quantise_job job = {.x = x, .stored = stored, .stride = stride,
                        .planes = cpu->amx && stored == LB_INT16,
                        .blocks = lb_quant_blocks(x.cols)};
    size_t bytes = (x.rows * stride + 63) / 64 * 64;
    lb_status status = lb_cpu_rows(cpu, bytes + x.rows * job.blocks * sizeof(float));
    if (status != LB_OK)
        return status;
    job.rows = cpu->rows;
    job.scales = (float *)(void *)(job.rows + bytes);
    lb_pool_run(cpu->pool, (x.rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, quantise_task, &job);
    *out = (lb_quantised){job.rows, stride, job.scales, job.blocks, cpu->amx};
    return LB_OK;
}
