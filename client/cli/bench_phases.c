/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/bench.h"

#include "common/base/clock.h"
#include "common/base/rng.h"

#include <stdlib.h>
#include <string.h>

#define SEED 1u
#define DECODE_LEAST 0.2         /* of the seconds of a run with its prompt */

lb_status bench_prepare(bench_job *job, lb_err *err)
{
    const lb_model_config *c = lb_model_get_config(job->model);
    size_t count = job->phase == BENCH_DECODE ? job->prompt : (size_t)job->batch * job->tokens;
    job->ids = calloc(count, sizeof *job->ids);
    if (!job->ids)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu tokens", count);
    for (size_t i = 0; i < count; i++) {
        uint32_t word[4], counter[4] = {(uint32_t)i, (uint32_t)(i >> 32), 0, 0};
        lb_rng_block(SEED, counter, word);
        job->ids[i] = word[0] % c->vocab;
    }
    if (job->rank == 0 && job->phase == BENCH_TRAIN)
        job->rank = BENCH_RANK;
    if (job->rank == 0)
        return LB_OK;
    lb_lora_config lora = {.rank = job->rank, .alpha = 2.0 * job->rank,
                           .targets = LB_LORA_ALL_TARGETS};
    lb_status status = lb_lora_layout_create(c, &lora, &job->layout, err);
    if (status != LB_OK)
        return status;
    float *flat = malloc(job->layout.elements * sizeof *flat);
    if (!flat)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an adapter");
    for (size_t i = 0; i < job->layout.elements; i++)
        flat[i] = (float)(i % 17) * 1e-3f - 8e-3f;
    status = lb_adapter_create(job->model, &job->layout, flat, &job->adapter, err);
    free(flat);
    return status;
}

void bench_release(bench_job *job)
{
    lb_adapter_free(job->adapter);
    lb_lora_layout_free(&job->layout);
    free(job->ids);
    *job = (bench_job){0};
}

static lb_status run_score(const bench_job *job, double *seconds, lb_err *err)
{
    size_t count = (size_t)job->batch * job->tokens;
    float *logprob = calloc(count, sizeof *logprob);
    lb_score_request *requests = calloc(job->batch, sizeof *requests);
    lb_status status = logprob && requests
                           ? LB_OK
                           : lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu scores", count);
    for (uint32_t i = 0; status == LB_OK && i < job->batch; i++)
        requests[i] = (lb_score_request){
            .sequence = {job->ids + (size_t)i * job->tokens, job->tokens}, .start = 1,
            .logprob = logprob + (size_t)i * job->tokens};
    double start = lb_clock_seconds();
    if (status == LB_OK)
        status = lb_model_score(job->model, job->adapter, requests, job->batch, err);
    *seconds = lb_clock_seconds() - start;
    free(requests);
    free(logprob);
    return status;
}

static lb_status generate(const bench_job *job, uint32_t tokens, double *seconds, lb_err *err)
{
    lb_rollout *rollouts = calloc(job->batch, sizeof *rollouts);
    const lb_sequence prompt = {job->ids, job->prompt};
    const lb_generate_params params = {.sample = {.temperature = 1.0f, .top_p = 1.0f},
                                       .max_new_tokens = tokens, .seed = SEED,
                                       .ignore_eos = true};
    if (!rollouts)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %u rollouts", job->batch);
    double start = lb_clock_seconds();
    lb_status status = lb_model_generate(job->model, job->adapter, &prompt, 1, job->batch, 0,
                                         &params, rollouts, err);
    *seconds = lb_clock_seconds() - start;
    for (uint32_t i = 0; status == LB_OK && i < job->batch; i++)
        lb_rollout_free(&rollouts[i]);
    free(rollouts);
    return status;
}

/* All tokens, less a run that ends after the prompt's pass and the first. What is left must be a
 * good part of the whole, or it is the difference of two runs' noise. */
static lb_status run_decode(const bench_job *job, double *seconds, lb_err *err)
{
    double first = 0.0, all = 0.0;
    lb_status status = generate(job, 1, &first, err);
    if (status == LB_OK)
        status = generate(job, job->tokens, &all, err);
    *seconds = all - first;
    if (status == LB_OK && all - first < DECODE_LEAST * all)
        return lb_fail(err, LB_EINVAL, "tokens",
                       "%u tokens are too few to time after a prompt of %u", job->tokens,
                       job->prompt);
    return status;
}

static lb_status uniform_loss(void *arg, size_t sequence, const float *logprob, float *grad,
                              lb_err *err)
{
    const bench_job *job = arg;
    (void)sequence;
    (void)logprob;
    (void)err;
    for (uint32_t t = 1; t < job->tokens; t++)
        grad[t] = -1.0f / (float)job->tokens;
    return LB_OK;
}

static lb_status run_train(const bench_job *job, double *seconds, lb_err *err)
{
    bench_job copy = *job;
    lb_sequence *sequences = calloc(job->batch, sizeof *sequences);
    float *grad = calloc(job->layout.elements, sizeof *grad);
    lb_status status = sequences && grad ? LB_OK
                                         : lb_fail(err, LB_ENOMEM, NULL, "no memory to train");
    for (uint32_t i = 0; status == LB_OK && i < job->batch; i++)
        sequences[i] = (lb_sequence){job->ids + (size_t)i * job->tokens, job->tokens};
    double start = lb_clock_seconds();
    if (status == LB_OK)
        status = lb_model_gradient(job->model, job->adapter, sequences, job->batch, uniform_loss,
                                   &copy, grad, err);
    *seconds = lb_clock_seconds() - start;
    free(grad);
    free(sequences);
    return status;
}

lb_status bench_run(const bench_job *job, double *seconds, lb_err *err)
{
    switch (job->phase) {
    case BENCH_SCORE:
        return run_score(job, seconds, err);
    case BENCH_DECODE:
        return run_decode(job, seconds, err);
    case BENCH_TRAIN:
        break;
    }
    return run_train(job, seconds, err);
}

/* ---- counting ---- */

typedef struct shape {
    double weights, head, first_qkv, lora;   /* elements; lora: sum of (in + out) */
    double per_key;                          /* heads * head_dim * layers */
    double kv_row;                           /* bytes of a position's keys and values */
} shape;

static shape shape_of(const lb_model_config *c)
{
    shape s = {.head = (double)c->vocab * c->hidden};
    for (int p = 0; p < LB_PROJ_COUNT; p++) {
        uint32_t out = 0, in = 0;
        lb_projection_shape(c, (lb_projection)p, &out, &in);
        s.weights += (double)out * in * c->layers;
        s.lora += ((double)out + in) * c->layers;
        s.first_qkv += p <= LB_PROJ_V ? (double)out * in : 0.0;
    }
    s.per_key = (double)c->heads * c->head_dim * c->layers;
    s.kv_row = 2.0 * sizeof(float) * c->kv_heads * c->head_dim * c->layers;
    return s;
}

bench_work bench_count(const bench_job *job)
{
    const lb_model_config *c = lb_model_get_config(job->model);
    shape s = shape_of(c);
    double batch = job->batch, n = job->tokens, stored = (double)lb_model_weight_bytes(job->model);
    bench_work w = {0};
    s.weights += job->rank * s.lora;
    if (job->phase == BENCH_DECODE) {
        /* Rows of steps 2 .. n see the prompt and what was drawn before. */
        double rows = batch * (n - 1), keys = rows * (job->prompt + n / 2);
        w.tokens = rows;
        w.flops = 2 * rows * (s.weights + s.head) + 4 * keys * s.per_key;
        w.bytes = (n - 1) * (stored + job->prompt * s.kv_row) + rows * n / 2 * s.kv_row;
        return w;
    }
    double rows = batch * (n - 1), keys = batch * (n - 1) * n / 2;
    double passes = job->phase == BENCH_SCORE ? (rows + BENCH_CHUNK - 1) / BENCH_CHUNK
                                              : 2 * rows / BENCH_CHUNK;
    w.tokens = batch * n;
    w.flops = 2 * rows * (s.weights + s.head) + 4 * keys * s.per_key;
    w.bytes = (passes < 1 ? 1 : passes) * stored;
    if (job->phase == BENCH_TRAIN)
        w.flops += 2 * rows * (s.weights + s.head - s.first_qkv) + 8 * keys * s.per_key +
                   2 * rows * job->rank * s.lora;
    return w;
}
