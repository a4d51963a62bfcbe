/* SPDX-License-Identifier: Apache-2.0
 *
 * Rotary position embedding, half-split form: with x = (a, b) of a head's two halves,
 * (a, b) -> (a cos - b sin, b cos + a sin); the inverse takes -sin (Su et al., "RoFormer", 2021).
 */
#include "common/tensor/cpu/cpu.h"

#define ROWS_PER_TASK 32u

typedef struct rope_job {
    lb_tensor x, table;
    size_t head_dim;
    const uint32_t *positions;
    bool inverse;
} rope_job;

static void rotate(float *head, const float *cosine, const float *sine, size_t half, float sign)
{
    for (size_t i = 0; i < half; i++) {
        float a = head[i], b = head[half + i], s = sign * sine[i];
        head[i] = __builtin_fmaf(-b, s, a * cosine[i]);
        head[half + i] = __builtin_fmaf(a, s, b * cosine[i]);
    }
}

static void rope_task(void *arg, size_t index, size_t thread)
{
    const rope_job *job = arg;
    (void)thread;
    size_t first = index * ROWS_PER_TASK, half = job->head_dim / 2;
    for (size_t r = first; r < job->x.rows && r < first + ROWS_PER_TASK; r++) {
        const float *row = row_f32(job->table, job->positions[r]);
        float *x = row_f32(job->x, r);
        for (size_t h = 0; h < job->x.cols; h += job->head_dim)
            rotate(x + h, row, row + half, half, job->inverse ? -1.0f : 1.0f);
    }
}

lb_status LB_K(lb_cpu_rope)(void *self, lb_tensor x, size_t head_dim, lb_tensor table,
                            const uint32_t *positions, bool inverse)
{
    lb_cpu *cpu = self;
    rope_job job = {x, table, head_dim, positions, inverse};
    lb_pool_run(cpu->pool, (x.rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, rope_task, &job);
    return LB_OK;
}
