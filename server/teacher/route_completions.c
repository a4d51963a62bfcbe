/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/completions: prompts in, prompt_logprobs and completions out. Members that are not
 * known are ignored, as vLLM does; known ones that would change the result and are not implemented
 * are refused by name unless they hold their neutral value.
 */
#include "proto/limits.h"
#include "server/teacher/completions.h"

#include "common/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD_BYTES 40
#define TEMPERATURE_MAX 100.0
/* A prompt given as text is cut by the tokenizer's own limit; this one bounds the list. */
#define PROMPTS_MAX LB_LIMIT_SEQUENCES

static const struct {
    const char *key;
    double neutral;
} unsupported[] = {
    {"stop", 0},          {"stop_token_ids", 0},    {"logit_bias", 0},
    {"suffix", 0},        {"best_of", 1},           {"min_tokens", 0},
    {"min_p", 0},         {"presence_penalty", 0},  {"frequency_penalty", 0},
    {"allowed_token_ids", 0},                       {"repetition_penalty", 1},
    {"bad_words", 0},     {"truncate_prompt_tokens", -1},
    {"use_beam_search", 0},                         {"structured_outputs", 0},
};

static void release(lb_job *job)
{
    lb_completion *c = (lb_completion *)job;
    for (uint32_t i = 0; c->rollouts && i < c->count; i++)
        lb_rollout_free(&c->rollouts[i]);
    free(c->rollouts);
    free(c->prompts);
    lb_call_free(&c->base);
}

static void answer(lb_job *job)
{
    lb_completion *c = (lb_completion *)job;
    if (lb_call_succeeded(&c->base))
        lb_completion_reply(c);
}

/* On the model thread: what was drawn is put behind its prompt, to be scored with it. */
static lb_status completed(lb_job *job, lb_err *err)
{
    lb_completion *c = (lb_completion *)job;
    for (uint32_t i = 0; i < c->count; i++) {
        const lb_rollout *rollout = &c->rollouts[i];
        if (rollout->count > c->max_tokens)
            return lb_fail(err, LB_EINTERNAL, NULL, "prompt %u has %u tokens completed of %u", i,
                           rollout->count, c->max_tokens);
        uint32_t *slot = (uint32_t *)c->prompts[i].tokens;   /* in base.tokens, which c owns */
        memcpy(slot + c->prompts[i].count, rollout->tokens, rollout->count * sizeof *slot);
        if (job->request_count > 0)
            job->requests[i].sequence.count = c->prompts[i].count + rollout->count;
    }
    return LB_OK;
}

/* ---- prompts ---- */

static lb_status prompt_text(const lb_teacher *teacher, const lb_json *node, bool add_special,
                             const char *field, lb_tokens *out, lb_err *err)
{
    if (!teacher->tokenizer)
        return lb_fail(err, LB_EUNSUPPORTED, field,
                       "is text, and the teacher's folder has no tokenizer.json; send token ids");
    /* Special tokens are parsed, since callers send rendered chat templates here. */
    lb_status status = lb_tokenizer_encode(teacher->tokenizer, lb_json_string(node),
                                           lb_json_string_length(node), true, add_special, out,
                                           err);
    if (status != LB_OK && err)
        snprintf(err->field, sizeof err->field, "%s", field);
    return status;
}

static lb_status prompt_ids(const lb_json *node, const char *field, lb_tokens *out, lb_err *err)
{
    size_t count = lb_json_array_size(node);
    out->ids = calloc(count ? count : 1, sizeof *out->ids);
    if (!out->ids)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the prompt");
    out->count = out->capacity = count;
    return lb_teacher_parse_ids(node, field, out->ids, err);
}

/* "prompt" is one prompt (text, or a list of ids) or a list of those. */
static bool is_one_prompt(const lb_json *prompt)
{
    return lb_json_is_string(prompt) ||
           (lb_json_is_array(prompt) && lb_json_array_size(prompt) > 0 &&
            lb_json_is_number(lb_json_at(prompt, 0)));
}

static lb_status parse_prompts(const lb_teacher *teacher, const lb_json *body, size_t count,
                               lb_tokens *lists, lb_err *err)
{
    const lb_json *prompt = lb_json_get(body, "prompt");
    bool one = is_one_prompt(prompt), add_special = true;
    lb_status status = lb_json_opt_bool(body, "", "add_special_tokens", &add_special, err);
    for (size_t i = 0; status == LB_OK && i < count; i++) {
        const lb_json *node = one ? prompt : lb_json_at(prompt, i);
        char field[FIELD_BYTES] = "prompt";
        if (!one)
            snprintf(field, sizeof field, "prompt[%zu]", i);
        if (lb_json_is_string(node))
            status = prompt_text(teacher, node, add_special, field, &lists[i], err);
        else if (lb_json_is_array(node))
            status = prompt_ids(node, field, &lists[i], err);
        else
            status = lb_fail(err, LB_EINVAL, field, "must be text or a list of token ids");
        if (status == LB_OK)
            status = lb_teacher_check_tokens(teacher, lists[i].ids, lists[i].count, field, err);
    }
    return status;
}

static lb_status count_prompts(const lb_json *body, size_t *count, lb_err *err)
{
    const lb_json *prompt = lb_json_get(body, "prompt");
    if (!prompt || (!lb_json_is_string(prompt) && !lb_json_is_array(prompt)))
        return lb_fail(err, LB_EINVAL, "prompt",
                       "is required: text, a list of token ids, or a list of either");
    *count = is_one_prompt(prompt) ? 1 : lb_json_array_size(prompt);
    if (*count < 1 || *count > PROMPTS_MAX)
        return lb_fail(err, LB_EINVAL, "prompt", "has %zu entries, outside 1 .. %u", *count,
                       PROMPTS_MAX);
    return LB_OK;
}

/* ---- the other members ---- */

static lb_status refuse_unsupported(const lb_json *body, lb_err *err)
{
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        const lb_json *node = lb_json_get(body, unsupported[i].key);
        bool neutral = !node || lb_json_is_null(node) ||
            (lb_json_is_bool(node) && !lb_json_bool(node)) ||
            (lb_json_is_number(node) && lb_json_number(node) >= unsupported[i].neutral &&
             lb_json_number(node) <= unsupported[i].neutral) ||
            (lb_json_is_string(node) && lb_json_string_length(node) == 0) ||
            (lb_json_is_array(node) && lb_json_array_size(node) == 0) ||
            (lb_json_is_object(node) && lb_json_object_size(node) == 0);
        if (!neutral)
            return lb_fail(err, LB_EUNSUPPORTED, unsupported[i].key, "is not supported here");
    }
    return LB_OK;
}

/* logprobs and prompt_logprobs: null is off; -1, of prompt_logprobs, is the whole vocabulary. */
static lb_status parse_top(const lb_teacher *teacher, const lb_json *body, const char *key,
                           bool *has, uint32_t *out, lb_err *err)
{
    const lb_json *node = lb_json_get(body, key);
    uint32_t vocab = teacher->model_config->vocab;
    bool prompt = strcmp(key, "prompt_logprobs") == 0;
    *has = node && !lb_json_is_null(node);
    if (!*has)
        return LB_OK;
    if (lb_json_is_bool(node)) {     /* some clients send the chat route's flag */
        *has = lb_json_bool(node);
        *out = *has;
        return LB_OK;
    }
    if (!lb_json_is_integer(node))
        return lb_fail(err, LB_EINVAL, key, "`%s` must be an integer.", key);
    int64_t value = lb_json_integer(node);
    if (value < (prompt ? -1 : 0))
        return lb_fail(err, LB_EINVAL, key, "`%s` must be a positive value%s.", key,
                       prompt ? " or -1" : "");
    uint64_t k = value < 0 ? vocab : (uint64_t)value;
    if (k > teacher->max_logprobs)
        return lb_fail(err, LB_EINVAL, key, "asks for %llu; this teacher gives at most %u",
                       (unsigned long long)k, teacher->max_logprobs);
    *out = k < vocab ? (uint32_t)k : vocab;
    return LB_OK;
}

static lb_status parse_wanted(lb_completion *c, const lb_json *body, lb_err *err)
{
    const lb_teacher *teacher = c->base.teacher;
    bool stream = false;
    uint32_t n = 1;
    lb_status status = lb_json_opt_bool(body, "", "stream", &stream, err);
    if (status == LB_OK && stream)
        status = lb_fail(err, LB_EUNSUPPORTED, "stream", "`stream` is not supported");
    if (status == LB_OK)
        status = lb_json_opt_u32(body, "", "n", 1, 1, &n, err);
    if (status == LB_OK)
        status = refuse_unsupported(body, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(body, "", "echo", &c->echo, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(body, "", "return_token_ids", &c->return_ids, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(body, "", "return_tokens_as_token_ids", &c->tokens_as_ids, err);
    if (status == LB_OK)
        status = parse_top(teacher, body, "logprobs", &c->has_logprobs, &c->logprobs, err);
    if (status == LB_OK)
        status = parse_top(teacher, body, "prompt_logprobs", &c->has_prompt_logprobs,
                           &c->prompt_logprobs, err);
    if (status == LB_OK && c->echo && c->has_logprobs && !c->has_prompt_logprobs) {
        c->has_prompt_logprobs = true;
        c->prompt_logprobs = c->logprobs;
    }
    c->base.k = c->has_logprobs ? c->logprobs : 0;
    if (c->has_prompt_logprobs && c->prompt_logprobs > c->base.k)
        c->base.k = c->prompt_logprobs;
    return status;
}

static lb_status parse_sampling(lb_completion *c, const lb_json *body, lb_err *err)
{
    lb_generate_params *params = &c->base.job.params;
    double temperature = 1, top_p = 1;
    int64_t top_k = 0, seed = INT64_MIN;
    lb_status status = lb_json_opt_f64(body, "", "temperature", 0, TEMPERATURE_MAX, &temperature,
                                       err);
    if (status == LB_OK)
        status = lb_json_opt_f64(body, "", "top_p", 0, 1, &top_p, err);
    if (status == LB_OK && top_p <= 0)
        status = lb_fail(err, LB_EINVAL, "top_p", "is %g, outside (0, 1]", top_p);
    if (status == LB_OK)
        status = lb_json_opt_i64(body, "", "top_k", -1, UINT32_MAX, &top_k, err);
    if (status == LB_OK)
        status = lb_json_opt_i64(body, "", "seed", INT64_MIN + 1, INT64_MAX, &seed, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(body, "", "ignore_eos", &params->ignore_eos, err);
    params->sample.temperature = (float)temperature;
    params->sample.top_p = (float)top_p;
    params->sample.top_k = top_k > 0 ? (uint32_t)top_k : 0;
    params->seed = seed != INT64_MIN ? (uint64_t)seed
                                     : atomic_fetch_add(&c->base.teacher->counter, 1);
    return status;
}

/* max_tokens, against the room that the longest prompt leaves. */
static lb_status parse_max_tokens(lb_completion *c, const lb_json *body, const lb_tokens *lists,
                                  lb_err *err)
{
    const lb_json *node = lb_json_get(body, "max_tokens");
    uint32_t positions = c->base.teacher->model_config->max_positions, longest = 0;
    for (uint32_t i = 0; i < c->count; i++)
        longest = lists[i].count > longest ? (uint32_t)lists[i].count : longest;
    uint32_t room = positions - longest;
    bool given = node && !lb_json_is_null(node);
    c->max_tokens = room > 0 && room < LB_COMPLETION_TOKENS ? room : LB_COMPLETION_TOKENS;
    lb_status status = lb_json_opt_u32(body, "", "max_tokens", 0, LB_COMPLETION_TOKENS_MAX,
                                       &c->max_tokens, err);
    if (status != LB_OK)
        return status;
    if (c->max_tokens > room)
        return lb_fail(err, LB_EINVAL, given ? "max_tokens" : "prompt",
                       "%u tokens of prompt and %u to complete are more than the model's %u",
                       longest, c->max_tokens, positions);
    if (c->max_tokens == 0 && !c->echo && !c->has_prompt_logprobs)
        return lb_fail(err, LB_EINVAL, "max_tokens",
                       "is 0: nothing is asked for, neither echo nor prompt_logprobs");
    c->base.job.params.max_new_tokens = c->max_tokens;
    return LB_OK;
}

/* Lays the prompts into slots with room for their completions, and makes the job of them. */
static lb_status lay_out(lb_completion *c, const lb_tokens *lists, lb_err *err)
{
    lb_job *job = &c->base.job;
    size_t total = 0, at = 0;
    bool score = c->has_logprobs || c->has_prompt_logprobs;
    for (uint32_t i = 0; i < c->count; i++)
        total += lists[i].count + c->max_tokens;
    c->base.tokens = calloc(total, sizeof *c->base.tokens);
    c->prompts = calloc(c->count, sizeof *c->prompts);
    c->rollouts = calloc(c->count, sizeof *c->rollouts);
    if (!c->base.tokens || !c->prompts || !c->rollouts)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the request");
    for (uint32_t i = 0; i < c->count; i++) {
        uint32_t count = (uint32_t)lists[i].count;
        c->prompts[i] = (lb_sequence){c->base.tokens + at, count};
        memcpy(c->base.tokens + at, lists[i].ids, count * sizeof *lists[i].ids);
        at += count + c->max_tokens;
        job->requests[i].sequence = c->prompts[i];
        job->requests[i].start = c->has_prompt_logprobs || c->echo ? 1 : count;
        c->base.capacities[i] = count + c->max_tokens;
    }
    job->tokens = total + (score && c->max_tokens > 0 ? total : 0);
    job->request_count = score ? c->count : 0;
    if (c->max_tokens > 0) {
        job->prompts = c->prompts;
        job->prompt_count = c->count;
        job->rollouts = c->rollouts;
        job->completed = completed;
    }
    lb_call_results results = {.rank = true};
    return lb_call_reserve(&c->base, &results, err);
}

static lb_status parse(lb_completion *c, const lb_json *body, lb_err *err)
{
    lb_tokens *lists = calloc(c->count, sizeof *lists);
    if (!lists)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the request");
    lb_status status = parse_wanted(c, body, err);
    if (status == LB_OK)
        status = parse_sampling(c, body, err);
    if (status == LB_OK)
        status = parse_prompts(c->base.teacher, body, c->count, lists, err);
    if (status == LB_OK)
        status = parse_max_tokens(c, body, lists, err);
    if (status == LB_OK)
        status = lay_out(c, lists, err);
    if (status == LB_OK)
        status = lb_call_deadline(&c->base, 0, err);
    for (uint32_t i = 0; i < c->count; i++)
        lb_tokens_free(&lists[i]);
    free(lists);
    return status;
}

void lb_teacher_post_completions(void *daemon, lb_request *request)
{
    lb_teacher *teacher = daemon;
    lb_completion *c = NULL;
    lb_err err = {0};
    size_t count = 0;
    const lb_json *body = lb_request_json(request);
    if (!body || !lb_teacher_serves(teacher, request, body))
        return;
    lb_status status = count_prompts(body, &count, &err);
    if (status == LB_OK) {
        c = lb_call_create(sizeof *c, teacher, request, count);
        if (!c)
            status = lb_fail(&err, LB_ENOMEM, NULL, "no memory for the request");
    }
    if (status == LB_OK) {
        c->count = (uint32_t)count;
        c->base.k_field = "prompt_logprobs";
        c->base.job.answer = answer;
        c->base.job.release = release;
        status = parse(c, body, &err);
    }
    if (status == LB_OK) {
        lb_call_submit(&c->base);
        return;
    }
    lb_teacher_reject(teacher, request, &err);
    if (c)
        release(&c->base.job);
}
