/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/cpu/cpu.h"

#include <stdlib.h>

typedef struct pack_job {
    const uint8_t *source;
    lb_dtype source_dtype, stored;
    size_t n, k;
    bool transposed;     /* pack W^T: panels run over k */
    void *out;
} pack_job;

static float source_at(const pack_job *job, size_t row, size_t col)
{
    size_t index = row * job->k + col;
    if (job->source_dtype == LB_BF16) {
        uint16_t half;
        memcpy(&half, job->source + 2 * index, sizeof half);
        return lb_bf16_to_f32(half);
    }
    float value;
    memcpy(&value, job->source + 4 * index, sizeof value);
    return value;
}

static void put(void *out, lb_dtype stored, size_t index, float value)
{
    if (stored == LB_BF16)
        ((uint16_t *)out)[index] = lb_f32_to_bf16(value);
    else
        ((float *)out)[index] = value;
}

static void pack_panel(void *arg, size_t panel, size_t thread)
{
    const pack_job *job = arg;
    (void)thread;
    size_t columns = job->transposed ? job->k : job->n;
    size_t depth = job->transposed ? job->n : job->k;
    for (size_t d = 0; d < depth; d++) {
        for (size_t lane = 0; lane < LB_PANEL; lane++) {
            size_t column = panel * LB_PANEL + lane;
            float value = 0.0f;
            if (column < columns)
                value = job->transposed ? source_at(job, d, column) : source_at(job, column, d);
            put(job->out, job->stored, (panel * depth + d) * LB_PANEL + lane, value);
        }
    }
}

static void pack_row(void *arg, size_t row, size_t thread)
{
    const pack_job *job = arg;
    (void)thread;
    for (size_t col = 0; col < job->k; col++)
        put(job->out, job->stored, row * job->k + col, source_at(job, row, col));
}

/* Allocates *out for `elements` and runs task for each index of the job. */
static lb_status pack(lb_cpu *cpu, pack_job *job, size_t elements, size_t tasks,
                      void (*task)(void *, size_t, size_t), void **out, size_t *bytes)
{
    size_t size = elements * lb_dtype_size(job->stored);
    lb_status status = lb_cpu_alloc(cpu, size, out);
    if (status != LB_OK)
        return status;
    job->out = *out;
    lb_pool_run(cpu->pool, tasks, task, job);
    *bytes += size;
    return LB_OK;
}

lb_status lb_cpu_weight_pack(void *self, lb_weight *w, const void *source, lb_dtype source_dtype)
{
    lb_cpu *cpu = self;
    size_t panels_n = (w->n + LB_PANEL - 1) / LB_PANEL, panels_k = (w->k + LB_PANEL - 1) / LB_PANEL;
    pack_job job = {.source = source, .source_dtype = source_dtype, .stored = w->stored,
                    .n = w->n, .k = w->k};
    lb_status status = LB_OK;
    if (w->flags & LB_WEIGHT_FORWARD)
        status = pack(cpu, &job, panels_n * LB_PANEL * w->k, panels_n, pack_panel, &w->forward,
                      &w->bytes);
    job.transposed = true;
    if (status == LB_OK && w->flags & LB_WEIGHT_BACKWARD)
        status = pack(cpu, &job, panels_k * LB_PANEL * w->n, panels_k, pack_panel, &w->backward,
                      &w->bytes);
    if (status == LB_OK && w->flags & LB_WEIGHT_ROWS)
        status = pack(cpu, &job, w->n * w->k, w->n, pack_row, &w->rows, &w->bytes);
    return status;
}

void lb_cpu_weight_drop(void *self, lb_weight *w)
{
    (void)self;
    free(w->forward);
    free(w->backward);
    free(w->rows);
}
