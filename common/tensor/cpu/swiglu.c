/* SPDX-License-Identifier: Apache-2.0
 *
 * SwiGLU: y = silu(g) u with silu(g) = g s, s = 1 / (1 + exp(-g)); du = dy silu(g),
 * dg = dy u s (1 + g (1 - s))   (Shazeer, "GLU Variants Improve Transformer", 2020).
 */
#include "common/tensor/cpu/cpu.h"
#include "common/tensor/cpu/vmath.h"

#define ROWS_PER_TASK 16u

typedef struct swiglu_job {
    lb_tensor out, gate, up, dgate, dup, dout;
} swiglu_job;

static inline vf load(const float *p, size_t n)
{
    return n >= LB_LANES ? vf_load(p) : vf_load_n(p, n, 0.0f);
}

static inline void store(float *p, vf a, size_t n)
{
    if (n >= LB_LANES)
        vf_store(p, a);
    else
        vf_store_n(p, a, n);
}

static void forward_task(void *arg, size_t index, size_t thread)
{
    const swiglu_job *job = arg;
    (void)thread;
    size_t first = index * ROWS_PER_TASK;
    for (size_t r = first; r < job->gate.rows && r < first + ROWS_PER_TASK; r++)
        swiglu_row(row_f32(job->out, r), row_f32(job->gate, r), row_f32(job->up, r),
                   job->gate.cols);
}

static void backward_task(void *arg, size_t index, size_t thread)
{
    const swiglu_job *job = arg;
    (void)thread;
    size_t first = index * ROWS_PER_TASK, cols = job->gate.cols;
    for (size_t r = first; r < job->gate.rows && r < first + ROWS_PER_TASK; r++) {
        const float *gate = row_f32(job->gate, r), *up = row_f32(job->up, r);
        const float *dout = row_f32(job->dout, r);
        float *dgate = row_f32(job->dgate, r), *dup = row_f32(job->dup, r);
        for (size_t i = 0; i < cols; i += LB_LANES) {
            size_t n = cols - i;
            vf g = load(gate + i, n), s = vf_sigmoid(g), dy = load(dout + i, n);
            vf one = vf_set(1.0f), u = load(up + i, n);
            vf slope = vf_mul(s, vf_fma(g, vf_sub(one, s), one));
            store(dup + i, vf_mul(dy, vf_mul(g, s)), n);
            store(dgate + i, vf_mul(vf_mul(dy, u), slope), n);
        }
    }
}

lb_status LB_K(lb_cpu_swiglu)(void *self, lb_tensor out, lb_tensor gate, lb_tensor up)
{
    lb_cpu *cpu = self;
    swiglu_job job = {.out = out, .gate = gate, .up = up};
    lb_pool_run(cpu->pool, (gate.rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, forward_task, &job);
    return LB_OK;
}

lb_status LB_K(lb_cpu_swiglu_backward)(void *self, const lb_tensor t[5])
{
    lb_cpu *cpu = self;
    swiglu_job job = {.dgate = t[0], .dup = t[1], .dout = t[2], .gate = t[3], .up = t[4]};
    lb_pool_run(cpu->pool, (t[3].rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, backward_task, &job);
    return LB_OK;
}
