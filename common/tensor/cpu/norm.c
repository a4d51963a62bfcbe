/* SPDX-License-Identifier: Apache-2.0
 *
 * RMSNorm: y = x r g with r = 1 / sqrt(mean(x^2) + eps), and its derivative
 * dx = r (g dy) - x r^3 / D sum(g dy x)   (Zhang and Sennrich, "Root Mean Square Layer
 * Normalization", 2019).
 */
#include "common/tensor/cpu/norm.h"

#define ROWS_PER_TASK 32u

typedef struct norm_job {
    lb_tensor out, dy, x, gain;
    float eps;
    bool accumulate;
} norm_job;

static void norm_task(void *arg, size_t index, size_t thread)
{
    const norm_job *job = arg;
    (void)thread;
    size_t first = index * ROWS_PER_TASK, cols = job->gain.cols;
    const float *gain = job->gain.data;
    for (size_t r = first; r < job->x.rows && r < first + ROWS_PER_TASK; r++) {
        for (size_t c = 0; c < job->x.cols; c += cols) {
            const float *x = row_f32(job->x, r) + c;
            norm_columns(row_f32(job->out, r) + c, x, inverse_rms(x, cols, job->eps), gain, cols);
        }
    }
}

lb_status LB_K(lb_cpu_rmsnorm)(void *self, lb_tensor out, lb_tensor x, lb_tensor gain, float eps)
{
    lb_cpu *cpu = self;
    norm_job job = {.out = out, .x = x, .gain = gain, .eps = eps};
    lb_pool_run(cpu->pool, (x.rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, norm_task, &job);
    return LB_OK;
}

/* sum g dy x in the lanes' order. */
static float weighted_dot(const float *g, const float *dy, const float *x, size_t n)
{
    vf sum = vf_set(0.0f);
    size_t i = 0;
    for (; i + LB_LANES <= n; i += LB_LANES)
        sum = vf_fma(vf_mul(vf_load(g + i), vf_load(dy + i)), vf_load(x + i), sum);
    if (i < n)
        sum = vf_fma(vf_mul(vf_load_n(g + i, n - i, 0.0f), vf_load_n(dy + i, n - i, 0.0f)),
                     vf_load_n(x + i, n - i, 0.0f), sum);
    return vf_sum(sum);
}

static void norm_backward_run(const norm_job *job, size_t r, size_t column)
{
    const float *x = row_f32(job->x, r) + column, *dy = row_f32(job->dy, r) + column;
    const float *gain = job->gain.data;
    float *dx = row_f32(job->out, r) + column;
    size_t cols = job->gain.cols;
    float scale = inverse_rms(x, cols, job->eps);
    float pull = weighted_dot(gain, dy, x, cols) * scale * scale * scale / (float)cols;
    for (size_t i = 0; i < cols; i++) {
        float own = __builtin_fmaf(gain[i] * dy[i], scale, -(x[i] * pull));
        dx[i] = job->accumulate ? dx[i] + own : own;
    }
}

static void norm_backward_task(void *arg, size_t index, size_t thread)
{
    const norm_job *job = arg;
    (void)thread;
    size_t first = index * ROWS_PER_TASK;
    for (size_t r = first; r < job->x.rows && r < first + ROWS_PER_TASK; r++) {
        for (size_t c = 0; c < job->x.cols; c += job->gain.cols)
            norm_backward_run(job, r, c);
    }
}

lb_status LB_K(lb_cpu_rmsnorm_backward)(void *self, const lb_tensor t[4], float eps,
                                        bool accumulate)
{
    lb_cpu *cpu = self;
    norm_job job = {.out = t[0], .dy = t[1], .x = t[2], .gain = t[3], .eps = eps,
                    .accumulate = accumulate};
    lb_pool_run(cpu->pool, (t[2].rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, norm_backward_task,
                &job);
    return LB_OK;
}
