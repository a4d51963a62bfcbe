/* SPDX-License-Identifier: Apache-2.0
 *
 * Rollouts. Samples are numbered prompt * group + sample and run in waves of bounded memory. In a
 * wave each prompt is prefilled once, its keys and values are read by all its samples, and the live
 * samples decode as one batch. Nothing of that shows in a sample: its draws are counter based and
 * its rows' bits do not depend on their companions.
 */
#include "common/base/rng.h"
#include "common/model/model_impl.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WAVE_ROLLOUTS_MAX 512u
#define WAVE_CACHE_BYTES ((size_t)512 << 20)

typedef struct job {
    lb_model *model;
    const lb_adapter *adapter;
    const lb_sequence *prompts;
    uint32_t group, row_base;
    const lb_generate_params *params;
    lb_rollout *out;
    lb_err *err;
} job;

/* One sample that is still being drawn. */
typedef struct live {
    size_t rollout;            /* prompt * group + sample */
    uint32_t prompt_slot, own_slot;
} live;

typedef struct wave {
    size_t first, count;       /* rollouts */
    size_t first_prompt, prompts, prompt_rows;
    lb_kv_cache cache;
    lb_tensor last_hidden;     /* [prompts, D]: of each prompt's last token */
    live *alive;               /* [count] */
    size_t alive_count;
    uint32_t *token, *tokens, *positions, *slots, *prompt_slots;
    float *uniform, *logprob;
    lb_kv_spans *spans;
} wave;

static void wave_free(wave *w)
{
    lb_kv_cache_free(&w->cache);
    free(w->alive);
    free(w->token);
    free(w->tokens);
    free(w->positions);
    free(w->slots);
    free(w->prompt_slots);
    free(w->uniform);
    free(w->logprob);
    free(w->spans);
    *w = (wave){0};
}

static uint32_t longest_completion(const job *j, size_t prompt)
{
    uint32_t room = j->model->config.max_positions - j->prompts[prompt].count;
    return j->params->max_new_tokens < room ? j->params->max_new_tokens : room;
}

/* Prefill rows, or decode rows, whichever are more. */
static lb_status wave_create(const job *j, wave *w)
{
    size_t rows = w->prompt_rows > w->count ? w->prompt_rows : w->count;
    w->alive = calloc(w->count, sizeof *w->alive);
    w->token = calloc(w->count, sizeof *w->token);
    w->uniform = calloc(w->count, sizeof *w->uniform);
    w->logprob = calloc(w->count, sizeof *w->logprob);
    w->tokens = calloc(rows, sizeof *w->tokens);
    w->positions = calloc(rows, sizeof *w->positions);
    w->slots = calloc(rows, sizeof *w->slots);
    w->spans = calloc(rows, sizeof *w->spans);
    w->prompt_slots = calloc(w->prompts, sizeof *w->prompt_slots);
    if (!w->alive || !w->token || !w->uniform || !w->logprob || !w->tokens || !w->positions ||
        !w->slots || !w->spans || !w->prompt_slots)
        return lb_fail(j->err, LB_ENOMEM, NULL, "no memory for a wave of %zu rollouts", w->count);
    size_t slots = w->prompt_rows;
    for (size_t i = 0; i < w->count; i++) {
        w->alive[i] = (live){.rollout = w->first + i, .own_slot = (uint32_t)slots};
        slots += longest_completion(j, (w->first + i) / j->group);
    }
    w->alive_count = w->count;
    w->last_hidden = lb_ops_alloc(j->model->ops, LB_F32, w->prompts, j->model->config.hidden);
    return lb_kv_cache_create(j->model, slots, &w->cache, j->err);
}

/* Runs every prompt of the wave once, in chunks, and keeps the hidden state of its last token. */
static lb_status prefill(const job *j, wave *w)
{
    lb_ops *ops = j->model->ops;
    size_t r = 0, chunk = j->model->options.max_tokens;
    for (size_t i = 0; i < w->prompts; i++) {
        const lb_sequence *prompt = &j->prompts[w->first_prompt + i];
        w->prompt_slots[i] = (uint32_t)r;
        for (uint32_t t = 0; t < prompt->count; t++, r++) {
            w->tokens[r] = prompt->tokens[t];
            w->positions[r] = t;
            w->slots[r] = (uint32_t)r;
            w->spans[r] = (lb_kv_spans){.first = {0, w->prompt_slots[i]}, .count = {0, t + 1}};
        }
    }
    for (size_t first = 0; first < w->prompt_rows; first += chunk) {
        size_t n = w->prompt_rows - first < chunk ? w->prompt_rows - first : chunk;
        size_t mark = lb_ops_mark(ops);
        lb_rows rows = {n, w->tokens + first, w->positions + first, w->slots + first,
                        w->spans + first, &w->cache};
        lb_tensor h = lb_forward(j->model, j->adapter, &rows);
        for (size_t i = 0; i < w->prompts && lb_ops_status(ops, NULL) == LB_OK; i++) {
            size_t last = w->prompt_slots[i] + j->prompts[w->first_prompt + i].count - 1;
            if (last >= first && last < first + n)
                lb_copy(ops, lb_tensor_rows(w->last_hidden, i, 1),
                        lb_tensor_rows(h, last - first, 1));
        }
        lb_ops_release(ops, mark);
    }
    for (size_t i = 0; i < w->count; i++)
        w->alive[i].prompt_slot = w->prompt_slots[w->alive[i].rollout / j->group -
                                                  w->first_prompt];
    return lb_ops_status(ops, j->err);
}

/* Hidden rows [alive, D] that predict each live sample's next token. */
static lb_tensor next_hidden(const job *j, wave *w, uint32_t step)
{
    lb_ops *ops = j->model->ops;
    for (size_t i = 0; i < w->alive_count; i++) {
        const live *a = &w->alive[i];
        uint32_t prompt = j->prompts[a->rollout / j->group].count;
        if (step == 0) {
            w->slots[i] = (uint32_t)(a->rollout / j->group - w->first_prompt);
            continue;
        }
        w->tokens[i] = j->out[a->rollout].tokens[step - 1];
        w->positions[i] = prompt + step - 1;
        w->slots[i] = a->own_slot + step - 1;
        w->spans[i] = (lb_kv_spans){.first = {a->prompt_slot, a->own_slot},
                                    .count = {prompt, step}};
    }
    if (step > 0) {
        lb_rows rows = {w->alive_count, w->tokens, w->positions, w->slots, w->spans, &w->cache};
        return lb_forward(j->model, j->adapter, &rows);
    }
    lb_tensor h = lb_ops_alloc(ops, LB_F32, w->alive_count, j->model->config.hidden);
    lb_gather_rows(ops, h, w->last_hidden, w->slots);
    return h;
}

/* Appends each live sample's drawn token; samples that ended leave. */
static lb_status append(const job *j, wave *w, uint32_t step)
{
    size_t kept = 0;
    for (size_t i = 0; i < w->alive_count; i++) {
        live a = w->alive[i];
        lb_rollout *r = &j->out[a.rollout];
        if (!isfinite(w->logprob[i]))
            return lb_fail(j->err, LB_ENUMERIC, "logprob",
                           "the log-probability of a sampled token is not finite");
        r->tokens[r->count] = w->token[i];
        r->logprobs[r->count++] = w->logprob[i];
        r->stopped = !j->params->ignore_eos && lb_config_is_eos(&j->model->config, w->token[i]);
        if (!r->stopped && step + 1 < longest_completion(j, a.rollout / j->group))
            w->alive[kept++] = a;
    }
    w->alive_count = kept;
    return LB_OK;
}

static lb_status decode(const job *j, wave *w)
{
    const lb_generate_params *params = j->params;
    lb_status status = LB_OK;
    for (uint32_t step = 0; status == LB_OK && w->alive_count > 0; step++) {
        if (params->cancelled && params->cancelled(params->cancel_arg))
            return lb_fail(j->err, LB_ECANCELLED, NULL, "the generation was cancelled");
        size_t mark = lb_ops_mark(j->model->ops);
        lb_tensor h = next_hidden(j, w, step);
        for (size_t i = 0; i < w->alive_count; i++) {
            size_t rollout = w->alive[i].rollout;
            uint32_t counter[4] = {LB_RNG_SAMPLE, params->step, j->row_base + (uint32_t)rollout,
                                   j->prompts[rollout / j->group].count + step};
            uint32_t word[4];
            lb_rng_block(params->seed, counter, word);
            w->uniform[i] = lb_rng_uniform(word[0]);
        }
        lb_head_sample(j->model->ops, h, lb_model_head(j->model), params->allowed,
                       &params->sample, w->uniform, w->token, w->logprob);
        status = lb_ops_status(j->model->ops, j->err);
        if (status == LB_OK)
            status = append(j, w, step);
        lb_ops_release(j->model->ops, mark);
    }
    return status;
}

/* How many rollouts from `first` fit into one wave: at least one. */
static size_t wave_size(const job *j, size_t first, size_t total)
{
    const lb_model_config *c = &j->model->config;
    size_t slot = (size_t)c->layers * c->kv_heads * c->head_dim * 2 * sizeof(float);
    size_t used = 0, count = 0;
    while (first + count < total && count < WAVE_ROLLOUTS_MAX) {
        size_t prompt = (first + count) / j->group;
        size_t slots = longest_completion(j, prompt);
        if (count == 0 || (first + count) % j->group == 0)
            slots += j->prompts[prompt].count;
        used += slots * slot;
        if (count > 0 && used > WAVE_CACHE_BYTES)
            break;
        count++;
    }
    return count;
}

static lb_status run_wave(const job *j, size_t first, size_t count)
{
    wave w = {.first = first, .count = count, .first_prompt = first / j->group};
    w.prompts = (first + count - 1) / j->group - w.first_prompt + 1;
    for (size_t i = 0; i < w.prompts; i++)
        w.prompt_rows += j->prompts[w.first_prompt + i].count;
    lb_ops_reset(j->model->ops);
    lb_status status = wave_create(j, &w);
    if (status == LB_OK)
        status = prefill(j, &w);
    if (status == LB_OK)
        status = decode(j, &w);
    wave_free(&w);
    return status;
}

static lb_status check(const job *j, size_t prompt_count)
{
    const lb_model_config *c = &j->model->config;
    const lb_sample_params *sample = &j->params->sample;
    bool any = !j->params->allowed;
    if (!isfinite(sample->temperature) || sample->temperature < 0)
        return lb_fail(j->err, LB_EINVAL, "temperature", "%g is no temperature",
                       (double)sample->temperature);
    if (!(sample->top_p > 0 && sample->top_p <= 1))
        return lb_fail(j->err, LB_EINVAL, "top_p", "%g is outside (0, 1]", (double)sample->top_p);
    for (uint32_t v = 0; !any && v < c->vocab; v++)
        any = j->params->allowed[v];
    if (!any)
        return lb_fail(j->err, LB_EINVAL, "allowed", "no token may be sampled");
    if (j->group == 0 || j->params->max_new_tokens == 0)
        return lb_fail(j->err, LB_EINVAL, j->group ? "max_new_tokens" : "group",
                       "must be at least 1");
    for (size_t i = 0; i < prompt_count; i++) {
        lb_status status = lb_model_check_tokens(j->model, &j->prompts[i], j->err);
        if (status != LB_OK)
            return status;
        if (j->prompts[i].count >= c->max_positions)
            return lb_fail(j->err, LB_EINVAL, "prompt",
                           "a prompt of %u tokens leaves no room in %u positions",
                           j->prompts[i].count, c->max_positions);
    }
    return LB_OK;
}

lb_status lb_model_generate(lb_model *model, const lb_adapter *adapter,
                            const lb_sequence *prompts, size_t prompt_count, uint32_t group,
                            uint32_t row_base, const lb_generate_params *params, lb_rollout *out,
                            lb_err *err)
{
    job j = {model, adapter, prompts, group, row_base, params, NULL, err};
    lb_status status = check(&j, prompt_count);
    if (status != LB_OK || prompt_count == 0)
        return status;
    size_t total = prompt_count * group;
    j.out = calloc(total, sizeof *j.out);
    if (!j.out)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu rollouts", total);
    for (size_t i = 0; status == LB_OK && i < total; i++) {
        uint32_t longest = longest_completion(&j, i / group);
        j.out[i].tokens = calloc(longest, sizeof *j.out[i].tokens);
        j.out[i].logprobs = calloc(longest, sizeof *j.out[i].logprobs);
        if (!j.out[i].tokens || !j.out[i].logprobs)
            status = lb_fail(err, LB_ENOMEM, NULL, "no memory for a rollout of %u", longest);
    }
    for (size_t first = 0; status == LB_OK && first < total;) {
        size_t count = wave_size(&j, first, total);
        status = run_wave(&j, first, count);
        first += count;
    }
    for (size_t i = 0; status != LB_OK && i < total; i++)
        lb_rollout_free(&j.out[i]);
    if (status == LB_OK)
        memcpy(out, j.out, total * sizeof *out);
    free(j.out);
    return status;
}

void lb_rollout_free(lb_rollout *rollout)
{
    if (!rollout)
        return;
    free(rollout->tokens);
    free(rollout->logprobs);
    *rollout = (lb_rollout){0};
}
