/* SPDX-License-Identifier: Apache-2.0
 *
 * What moves rows: copy, gather, scatter, and the embedding's lookup.
 */
#include "common/tensor/cpu/quantise.h"

lb_status LB_K(lb_cpu_copy_rows)(void *self, lb_tensor to, lb_tensor from,
                                 const uint32_t *to_index, const uint32_t *from_index,
                                 size_t rows)
{
    (void)self;
    for (size_t r = 0; r < rows; r++)
        memmove(row_f32(to, to_index ? to_index[r] : r),
                row_f32(from, from_index ? from_index[r] : r), to.cols * sizeof(float));
    return LB_OK;
}

/* Row `id` of a forward packing, in f32. */
static void unpack_row(const lb_weight *w, size_t id, float *out)
{
    size_t size = lb_dtype_size(w->stored), group = LB_GROUP_BYTES / size;
    size_t panel = id / LB_PANEL, lane = id % LB_PANEL;
    const char *from = (const char *)w->forward + panel * lb_panel_bytes(w->stored, w->k) +
                       lane * LB_GROUP_BYTES;
    for (size_t col = 0; col < w->k; col++) {
        const char *at = from + col / group * LB_PANEL * LB_GROUP_BYTES + col % group * size;
        uint16_t half;
        if (w->stored == LB_F32) {
            memcpy(&out[col], at, sizeof *out);
            continue;
        }
        memcpy(&half, at, sizeof half);
        out[col] = lb_bf16_to_f32(half);
    }
}

/* The same of integers: a block's values times its scale, rotated back. */
static void unpack_integers(const lb_weight *w, size_t id, float *out)
{
    size_t blocks = lb_quant_blocks(w->k), panel = id / LB_PANEL, lane = id % LB_PANEL;
    const char *from = (const char *)w->forward + panel * lb_panel_bytes(w->stored, w->k);
    for (size_t b = 0; b < blocks; b++) {
        float values[LB_QUANT_BLOCK], scale = w->scales[(panel * blocks + b) * LB_PANEL + lane];
        size_t first = b * LB_QUANT_BLOCK, vectors = quant_vectors(w->k, first);
        size_t count = vectors * LB_LANES;
        vf v[QUANT_VECTORS];
        for (size_t i = 0; i < count; i++)
            values[i] = scale * (float)quant_get(quant_form_of(w), from, lane, first + i);
        for (size_t i = 0; i < vectors; i++)
            v[i] = vf_load(values + i * LB_LANES);
        quant_rotate(v, vectors, true);
        for (size_t i = 0; i < vectors; i++)
            vf_store(values + i * LB_LANES, v[i]);
        memcpy(out + first, values,
               (w->k - first < count ? w->k - first : count) * sizeof *values);
    }
}

typedef struct embed_job {
    lb_tensor out;
    const lb_weight *table;
    const uint32_t *ids;
} embed_job;

static void embed_task(void *arg, size_t index, size_t thread)
{
    const embed_job *job = arg;
    (void)thread;
    if (lb_dtype_is_integer(job->table->stored))
        unpack_integers(job->table, job->ids[index], row_f32(job->out, index));
    else
        unpack_row(job->table, job->ids[index], row_f32(job->out, index));
}

lb_status LB_K(lb_cpu_embed)(void *self, lb_tensor out, const lb_weight *table,
                             const uint32_t *ids)
{
    lb_cpu *cpu = self;
    embed_job job = {out, table, ids};
    lb_pool_run(cpu->pool, out.rows, embed_task, &job);
    return LB_OK;
}
