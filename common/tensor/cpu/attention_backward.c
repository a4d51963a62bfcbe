/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of one query row at a time: scores of its keys in logical order, softmax, weighted sum
 * of the values. A row's scores are the only buffer. The order of every sum follows the logical
 * order of the keys, so spans, companions and chunks do not show in the bits.
 */
#include "common/tensor/cpu/cpu.h"
#include "common/tensor/cpu/vmath.h"

#define ROW_BYTES(keys) (((keys) + LB_LANES) * sizeof(float))

/* scores[0 .. n) -> exp(score - max), padded with zeros to whole vectors; returns 1 / sum. */
static float softmax(float *scores, size_t n)
{
    size_t padded = (n + LB_LANES - 1) / LB_LANES * LB_LANES;
    vf largest = vf_set(-__builtin_inff()), sum = vf_set(0.0f);
    for (size_t i = n; i < padded; i++)
        scores[i] = -__builtin_inff();
    for (size_t i = 0; i < padded; i += LB_LANES)
        largest = vf_max(vf_load(scores + i), largest);
    vf max = vf_set(vf_largest(largest));
    for (size_t i = 0; i < padded; i += LB_LANES) {
        vf e = vf_exp(vf_sub(vf_load(scores + i), max));
        vf_store(scores + i, e);
        sum = vf_add(sum, e);
    }
    return 1.0f / vf_sum(sum);
}

typedef struct attention_grad_job {
    lb_cpu *cpu;
    const lb_attention_grad_args *a;
} attention_grad_job;

/* One row and query head. With p = softmax(s) and o = p v: dv += p do; dp = do v;
 * ds = p (dp - sum p dp); dq = scale ds k; dk += scale ds q. */
static void attend_backward(const lb_attention_grad_args *a, size_t first, size_t row,
                            size_t head, size_t kv_head, float *p)
{
    size_t dim = a->shape->head_dim, n = row - first + 1, offset = kv_head * dim;
    float *dp = p + (n + LB_LANES - 1) / LB_LANES * LB_LANES;
    const float *q = row_f32(a->q, row) + head * dim, *dout = row_f32(a->dout, row) + head * dim;
    float *dq = row_f32(a->dq, row) + head * dim;
    for (size_t i = 0; i < n; i++)
        p[i] = a->shape->scale * dot_f32(q, row_f32(a->k, first + i) + offset, dim);
    float inverse = softmax(p, n);
    for (size_t i = 0; i < n; i++) {
        p[i] *= inverse;
        dp[i] = dot_f32(dout, row_f32(a->v, first + i) + offset, dim);
    }
    float mean = dot_f32(p, dp, n);
    memset(dq, 0, dim * sizeof *dq);
    for (size_t i = 0; i < n; i++) {
        float ds = p[i] * (dp[i] - mean) * a->shape->scale;
        axpy_f32(row_f32(a->dv, first + i) + offset, p[i], dout, dim);
        axpy_f32(row_f32(a->dk, first + i) + offset, ds, q, dim);
        axpy_f32(dq, ds, row_f32(a->k, first + i) + offset, dim);
    }
}

static void attention_grad_task(void *arg, size_t index, size_t thread)
{
    const attention_grad_job *job = arg;
    const lb_attention_grad_args *a = job->a;
    size_t sequence = index / a->shape->kv_heads, kv_head = index % a->shape->kv_heads;
    size_t first = a->starts[sequence], end = a->starts[sequence + 1];
    size_t dim = a->shape->head_dim, group = a->shape->heads / a->shape->kv_heads;
    for (size_t r = first; r < end; r++) {
        memset(row_f32(a->dk, r) + kv_head * dim, 0, dim * sizeof(float));
        memset(row_f32(a->dv, r) + kv_head * dim, 0, dim * sizeof(float));
    }
    for (size_t r = first; r < end; r++) {
        for (size_t g = 0; g < group; g++)
            attend_backward(a, first, r, kv_head * group + g, kv_head,
                            job->cpu->scratch[thread]);
    }
}

lb_status LB_K(lb_cpu_attention_backward)(void *self, const lb_attention_grad_args *args)
{
    lb_cpu *cpu = self;
    size_t longest = 0;
    for (size_t s = 0; s < args->sequences; s++) {
        size_t keys = args->starts[s + 1] - args->starts[s];
        longest = keys > longest ? keys : longest;
    }
    lb_status status = lb_cpu_scratch(cpu, 2 * ROW_BYTES(longest));
    if (status != LB_OK)
        return status;
    attention_grad_job job = {cpu, args};
    lb_pool_run(cpu->pool, args->sequences * args->shape->kv_heads, attention_grad_task, &job);
    return LB_OK;
}
