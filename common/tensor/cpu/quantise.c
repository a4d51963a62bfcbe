/* SPDX-License-Identifier: Apache-2.0
 *
 * What a product reads. As integers a block of LB_QUANT_BLOCK of a row is normed, if it is to be,
 * rotated, divided by its scale (the largest magnitude over LB_INT16_MAX or LB_INT8_MAX) and
 * rounded to nearest even. A block that is not finite gets the scale NaN, so that its row's results
 * are NaN and are noticed.
 */
#include "common/tensor/cpu/quantise.h"
#include "common/tensor/cpu/norm.h"

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

/* What a row is multiplied with before it is rounded; gain NULL: nothing. */
typedef struct row_norm {
    const float *gain;
    float scale;
} row_norm;

static inline __attribute__((always_inline)) void quantise_row(const lb_dtype stored, size_t low,
                                                               const float *x, size_t cols,
                                                               row_norm norm, char *out,
                                                               float *scales)
{
    const size_t bytes = LB_QUANT_BLOCK * (low > 0 ? 1 : lb_dtype_size(stored));
    float normed[LB_QUANT_BLOCK];
    vf v[QUANT_VECTORS];
    for (size_t first = 0, b = 0; first < cols; first += LB_QUANT_BLOCK, b++, out += bytes) {
        size_t count = cols - first < LB_QUANT_BLOCK ? cols - first : LB_QUANT_BLOCK;
        const float *from = x + first;
        if (norm.gain) {
            norm_columns(normed, from, norm.scale, norm.gain + first, count);
            from = normed;
        }
        if (count < LB_QUANT_BLOCK) {
            size_t vectors = quant_block(from, count, 0, v);
            scales[b] = put(v, vectors, stored, low, out);
            return;
        }
        LB_UNROLL
        for (size_t i = 0; i < QUANT_VECTORS; i++)
            v[i] = vf_load(from + i * LB_LANES);
        quant_rotate_part(v, QUANT_VECTORS, false);
        scales[b] = put(v, QUANT_VECTORS, stored, low, out);
    }
}

void LB_K(lb_quantise_part)(lb_dtype stored, bool planes, lb_tensor x, const lb_norm *norm,
                            char *rows, size_t stride, float *scales)
{
    size_t blocks = lb_quant_blocks(x.cols);
    for (size_t r = 0; r < x.rows; r++, rows += stride, scales += blocks) {
        const float *row = row_f32(x, r);
        row_norm own = {0};
        if (norm)
            own = (row_norm){norm->gain.data, inverse_rms(row, x.cols, norm->eps)};
        if (planes)
            quantise_row(LB_INT16, lb_quantise_low(stride), row, x.cols, own, rows, scales);
        else if (stored == LB_INT16)
            quantise_row(LB_INT16, 0, row, x.cols, own, rows, scales);
        else
            quantise_row(LB_INT8, 0, row, x.cols, own, rows, scales);
    }
}

typedef struct quantise_job {
    lb_tensor x;
    const lb_norm *norm;
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
    LB_K(lb_quantise_part)(job->stored, job->planes, x, job->norm,
                           job->rows + first * job->stride, job->stride,
                           job->scales + first * job->blocks);
}

/* Products of floats read a row once for each tile of columns: it is normed before them. */
static lb_status norm_rows(lb_cpu *cpu, const lb_norm *norm, lb_tensor *x)
{
    lb_tensor out = *x;
    out.stride = lb_ops_stride(x->rows, x->cols);
    lb_status status = lb_cpu_rows(cpu, x->rows * out.stride * sizeof(float));
    if (status != LB_OK)
        return status;
    out.data = cpu->rows;
    status = LB_K(lb_cpu_rmsnorm)(cpu, out, *x, norm->gain, norm->eps);
    *x = out;
    return status;
}

lb_status LB_K(lb_product_rows)(lb_cpu *cpu, lb_dtype stored, const lb_norm *norm, lb_tensor *x,
                                lb_quantised *out)
{
    *out = (lb_quantised){0};
    if (!lb_dtype_is_integer(stored))
        return norm ? norm_rows(cpu, norm, x) : LB_OK;
    size_t stride = lb_quantise_stride(stored, x->cols);
    quantise_job job = {.x = *x, .norm = norm, .stored = stored, .stride = stride,
                        .planes = cpu->amx && stored == LB_INT16,
                        .blocks = lb_quant_blocks(x->cols)};
    size_t bytes = (x->rows * stride + 63) / 64 * 64;
    lb_status status = lb_cpu_rows(cpu, bytes + x->rows * job.blocks * sizeof(float));
    if (status != LB_OK)
        return status;
    job.rows = cpu->rows;
    job.scales = (float *)(void *)(job.rows + bytes);
    lb_pool_run(cpu->pool, (x->rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, quantise_task, &job);
    *out = (lb_quantised){job.rows, stride, job.scales, job.blocks, cpu->amx};
    return LB_OK;
}
