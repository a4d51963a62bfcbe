/* SPDX-License-Identifier: Apache-2.0 */
#include "client/worker/unit.h"

#include "common/base/clock.h"
#include "common/train/loss.h"
#include "proto/frames.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One completion with its prompt: arrays of `count` entries, into the workspace's memory. */
typedef struct sample {
    uint32_t *tokens;
    uint32_t count, prompt;          /* prompt: tokens of it */
    float *sampler, *teacher, *advantage;
    uint8_t *mask;
} sample;

typedef struct workspace {
    const lb_unit *unit;
    uint32_t prompts, group, total;  /* total: samples */
    uint32_t *rows;                  /* [prompts] of the data set */
    lb_sequence *prompt_sequences;   /* [prompts] */
    lb_rollout *rollouts;            /* [total]; empty for a supervised unit */
    lb_sequence *completions;        /* [total]: of the rollouts or of the data set */
    sample *samples;                 /* [total] */
    lb_sequence *sequences;          /* [total] */
    void *words;                     /* u32 and f32 entries of all samples */
    uint8_t *masks;
    float *gradient;                 /* [elements] */
    lb_loss_sums sums;
    double noise_max;
} workspace;

static void workspace_free(workspace *w)
{
    for (uint32_t i = 0; w->rollouts && i < w->total; i++)
        lb_rollout_free(&w->rollouts[i]);
    free(w->rows);
    free(w->prompt_sequences);
    free(w->rollouts);
    free(w->completions);
    free(w->samples);
    free(w->sequences);
    free(w->words);
    free(w->masks);
    free(w->gradient);
}

static lb_status workspace_init(workspace *w, lb_err *err)
{
    const lb_job_config *config = w->unit->config;
    w->prompts = lb_plan_prompts_per_unit(config);
    w->group = config->samples_per_prompt;
    w->total = w->prompts * w->group;    /* both are bounded by the job's config */
    w->rows = calloc(w->prompts, sizeof *w->rows);
    w->prompt_sequences = calloc(w->prompts, sizeof *w->prompt_sequences);
    w->rollouts = calloc(w->total, sizeof *w->rollouts);
    w->completions = calloc(w->total, sizeof *w->completions);
    w->samples = calloc(w->total, sizeof *w->samples);
    w->sequences = calloc(w->total, sizeof *w->sequences);
    w->gradient = calloc(w->unit->elements, sizeof *w->gradient);
    if (!w->rows || !w->prompt_sequences || !w->rollouts || !w->completions || !w->samples ||
        !w->sequences || !w->gradient)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a unit of %u rollouts", w->total);
    return LB_OK;
}

static bool unit_cancelled(const lb_unit *unit)
{
    return unit->cancelled && unit->cancelled(unit->cancel_arg);
}

static void choose_prompts(workspace *w)
{
    const lb_unit *unit = w->unit;
    lb_plan_unit(unit->config, unit->dataset->count, unit->step, unit->unit, w->rows);
    for (uint32_t i = 0; i < w->prompts; i++) {
        const lb_prompt *prompt = &unit->dataset->prompts[w->rows[i]];
        w->prompt_sequences[i] = (lb_sequence){prompt->tokens, prompt->count};
    }
}

static lb_status roll_out(workspace *w, lb_err *err)
{
    const lb_unit *unit = w->unit;
    lb_generate_params params = {
        .sample = {.temperature = 1.0f, .top_p = 1.0f},
        .max_new_tokens = unit->config->max_completion_tokens,
        .seed = unit->config->seed,
        .step = unit->step,
        .allowed = unit->allowed,
        .cancelled = unit->cancelled,
        .cancel_arg = unit->cancel_arg,
    };
    lb_status status = lb_model_generate(unit->model, unit->adapter, w->prompt_sequences,
                                         w->prompts, w->group,
                                         lb_plan_row_base(unit->config, unit->unit), &params,
                                         w->rollouts, err);
    for (uint32_t i = 0; status == LB_OK && i < w->total; i++)
        w->completions[i] = (lb_sequence){w->rollouts[i].tokens, w->rollouts[i].count};
    return status;
}

/* A supervised unit's completions are those of the data set. */
static lb_status take_completions(workspace *w, lb_err *err)
{
    for (uint32_t i = 0; i < w->total; i++) {
        const lb_prompt *row = &w->unit->dataset->prompts[w->rows[i / w->group]];
        if (row->completion_count == 0)
            return lb_fail(err, LB_EDATA, "dataset", "row %u has no completion to train on",
                           w->rows[i / w->group]);
        w->completions[i] = (lb_sequence){row->completion, row->completion_count};
    }
    return LB_OK;
}

/* logprobs: the sampler's, NULL where nothing was sampled. */
static void fill_sample(sample *s, const lb_sequence *prompt, const lb_sequence *completion,
                        const float *logprobs)
{
    memcpy(s->tokens, prompt->tokens, prompt->count * sizeof *s->tokens);
    memcpy(s->tokens + prompt->count, completion->tokens, completion->count * sizeof *s->tokens);
    if (logprobs)
        memcpy(s->sampler + prompt->count, logprobs, completion->count * sizeof *s->sampler);
    memset(s->mask + prompt->count, 1, completion->count);
    for (uint32_t t = 0; t < s->count; t++)
        s->teacher[t] = NAN;   /* whatever the teacher leaves out is refused, not taken as 0 */
}

/* Lays out prompt and completion of every rollout, with the arrays that go with them. */
static lb_status lay_out(workspace *w, lb_err *err)
{
    size_t entries = 0;
    for (uint32_t i = 0; i < w->total; i++)
        entries += (size_t)w->prompt_sequences[i / w->group].count + w->completions[i].count;
    uint32_t *tokens = calloc(entries, 4 * sizeof *tokens);
    w->words = tokens;
    w->masks = calloc(entries, sizeof *w->masks);
    if (!w->words || !w->masks)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu tokens of rollouts", entries);
    float *reals = (float *)(void *)(tokens + entries);
    size_t at = 0;
    for (uint32_t i = 0; i < w->total; i++) {
        const lb_sequence *prompt = &w->prompt_sequences[i / w->group];
        sample *s = &w->samples[i];
        s->prompt = prompt->count;
        s->count = prompt->count + w->completions[i].count;
        s->tokens = tokens + at;
        s->sampler = reals + at;
        s->teacher = reals + entries + at;
        s->advantage = reals + 2 * entries + at;
        s->mask = w->masks + at;
        fill_sample(s, prompt, &w->completions[i], w->rollouts[i].logprobs);
        w->sequences[i] = (lb_sequence){s->tokens, s->count};
        at += s->count;
    }
    return LB_OK;
}

static lb_status ask_teacher(workspace *w, lb_err *err)
{
    lb_unit_query *queries = calloc(w->total, sizeof *queries);
    if (!queries)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the teacher's queries");
    for (uint32_t i = 0; i < w->total; i++) {
        const sample *s = &w->samples[i];
        queries[i] = (lb_unit_query){w->sequences[i], s->prompt, s->teacher};
    }
    lb_status status = w->unit->teacher(w->unit->teacher_arg, queries, w->total, err);
    free(queries);
    for (uint32_t i = 0; status == LB_OK && i < w->total; i++) {
        const sample *s = &w->samples[i];
        status = lb_advantage(&w->unit->config->loss, s->count, s->sampler, s->teacher, s->mask,
                              0.0, s->advantage, err);
        if (status != LB_OK)
            lb_err_wrap(err, "rollout %u of step %u unit %u", i, w->unit->step, w->unit->unit);
    }
    return status;
}

/* Cross-entropy weighs every token of a completion the same. */
static void weigh_completions(workspace *w)
{
    for (uint32_t i = 0; i < w->total; i++) {
        const sample *s = &w->samples[i];
        for (uint32_t t = 0; t < s->count; t++)
            s->advantage[t] = s->mask[t] ? 1.0f : 0.0f;
    }
}

/* lb_loss_fn: the trainer's logprobs of one rollout are there. */
static lb_status loss_of(void *arg, size_t index, const float *logprob, float *grad, lb_err *err)
{
    workspace *w = arg;
    const sample *s = &w->samples[index];
    if (unit_cancelled(w->unit))
        return lb_fail(err, LB_ECANCELLED, NULL, "the unit was cancelled");
    bool sampled = w->rollouts[index].logprobs != NULL;
    for (uint32_t t = s->prompt; sampled && t < s->count; t++) {
        double noise = fabs((double)s->sampler[t] - (double)logprob[t]);
        w->noise_max = noise > w->noise_max ? noise : w->noise_max;
    }
    lb_loss_inputs in = {.count = s->count, .learner = logprob,
                         .sampler = sampled ? s->sampler : NULL,
                         .teacher = sampled ? s->teacher : NULL,
                         .advantage = s->advantage, .mask = s->mask};
    return lb_loss_gradient(&w->unit->config->loss, &in, grad, &w->sums, err);
}

/* Counts what the completions are like, and grades those whose prompt has an answer. A rollout that
 * was cut off is wrong, whatever digits it holds. */
static void count_rollouts(const workspace *w, double *metrics)
{
    const lb_unit *unit = w->unit;
    lb_buf text = {0};
    for (uint32_t i = 0; i < w->total; i++) {
        const lb_sequence *r = &w->completions[i];
        bool stopped = w->rollouts[i].stopped;
        const lb_prompt *prompt = &unit->dataset->prompts[w->rows[i / w->group]];
        metrics[LB_METRIC_ROLLOUTS] += 1;
        metrics[LB_METRIC_STOPPED] += stopped;
        metrics[LB_METRIC_PROMPT_TOKENS] += prompt->count;
        if ((double)r->count > metrics[LB_METRIC_LENGTH_MAX])
            metrics[LB_METRIC_LENGTH_MAX] = r->count;
        if (!unit->grader || !prompt->answer || !w->rollouts[i].tokens)
            continue;
        lb_buf_clear(&text);
        lb_tokenizer_decode(unit->grader, r->tokens, r->count, true, &text);
        metrics[LB_METRIC_GRADED] += 1;
        metrics[LB_METRIC_CORRECT] += stopped && text.status == LB_OK && text.data &&
            lb_grade_exact_numeric((const char *)text.data, text.length, prompt->answer);
    }
    lb_buf_free(&text);
}

static lb_status encode(const workspace *w, lb_buf *frame, lb_err *err)
{
    lb_unit_result result = {
        .step = w->unit->step,
        .unit = w->unit->unit,
        .tokens = w->sums.tokens,
        .elements = w->unit->elements,
        .gradient = w->gradient,
    };
    const lb_loss_sums *sums = &w->sums;
    double *m = result.metrics;
    lb_unit_metrics_init(m);
    m[LB_METRIC_LOSS] = sums->loss;
    m[LB_METRIC_REVERSE_KL] = sums->reverse_kl;
    m[LB_METRIC_SAMPLER_LOGPROB] = sums->sampler_logprob;
    m[LB_METRIC_LOG_RATIO] = sums->log_ratio;
    m[LB_METRIC_LOG_RATIO_SQUARE] = sums->log_ratio_square;
    m[LB_METRIC_RATIO] = sums->ratio;
    m[LB_METRIC_RATIO_SQUARE] = sums->ratio_square;
    m[LB_METRIC_RATIO_MAX] = sums->ratio_max;
    m[LB_METRIC_ADVANTAGE_MIN] = sums->advantage_min;
    m[LB_METRIC_ADVANTAGE_MAX] = sums->advantage_max;
    m[LB_METRIC_NOISE_MAX] = w->noise_max;
    m[LB_METRIC_LENGTH_MAX] = 0;
    count_rollouts(w, m);
    for (size_t i = 0; i < w->unit->elements; i++) {
        if (!isfinite(w->gradient[i]))
            return lb_fail(err, LB_ENUMERIC, "gradient", "element %zu is %g", i,
                           (double)w->gradient[i]);
    }
    lb_unit_result_encode(&result, frame);
    return frame->status == LB_OK ? LB_OK
                                  : lb_fail(err, frame->status, NULL, "the unit's frame: %s",
                                            lb_status_text(frame->status));
}

static lb_status check(const lb_unit *unit, lb_err *err)
{
    if (!(unit->config->temperature >= 1.0 && unit->config->temperature <= 1.0))
        return lb_fail(err, LB_EUNSUPPORTED, "temperature", "is %g; rollouts are drawn at 1",
                       unit->config->temperature);
    if (unit->unit >= unit->config->units_per_step)
        return lb_fail(err, LB_EINVAL, "unit", "%u is not below units_per_step %u", unit->unit,
                       unit->config->units_per_step);
    if (unit->dataset->count == 0)
        return lb_fail(err, LB_EINVAL, "dataset", "has no rows");
    return LB_OK;
}

lb_status lb_unit_run(const lb_unit *unit, lb_buf *frame, lb_unit_summary *summary, lb_err *err)
{
    workspace w = {.unit = unit};
    double start = lb_clock_seconds(), asked = start, scored = start;
    bool supervised = unit->config->method == LB_METHOD_SUPERVISED;
    lb_status status = check(unit, err);
    if (status == LB_OK)
        status = workspace_init(&w, err);
    if (status != LB_OK)
        goto done;
    choose_prompts(&w);
    status = supervised ? take_completions(&w, err) : roll_out(&w, err);
    if (status == LB_OK)
        status = lay_out(&w, err);
    if (status != LB_OK)
        goto done;
    asked = lb_clock_seconds();
    if (supervised)
        weigh_completions(&w);
    else
        status = ask_teacher(&w, err);
    if (status != LB_OK)
        goto done;
    scored = lb_clock_seconds();
    status = lb_model_gradient(unit->model, unit->adapter, w.sequences, w.total, loss_of, &w,
                               w.gradient, err);
    if (status == LB_OK)
        status = encode(&w, frame, err);
    if (status == LB_OK && summary)
        *summary = (lb_unit_summary){
            .tokens = w.sums.tokens,
            .rollouts = w.total,
            .rollout_seconds = asked - start,
            .teacher_seconds = scored - asked,
            .gradient_seconds = lb_clock_seconds() - scored,
        };
done:
    workspace_free(&w);
    return status;
}

void lb_unit_allowed(const lb_tokenizer *tokenizer, const lb_model_config *config,
                     uint8_t *allowed)
{
    for (uint32_t id = 0; id < config->vocab; id++) {
        bool text = lb_tokenizer_has_text(tokenizer, id) && !lb_tokenizer_is_special(tokenizer, id);
        allowed[id] = text || lb_config_is_eos(config, id);
    }
}
