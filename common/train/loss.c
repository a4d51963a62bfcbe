/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/loss.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static const char *const loss_names[LB_LOSS_COUNT] = {
    [LB_LOSS_IMPORTANCE_SAMPLING] = "importance_sampling",
    [LB_LOSS_PPO] = "ppo",
    [LB_LOSS_CISPO] = "cispo",
    [LB_LOSS_DRO] = "dro",
    [LB_LOSS_CROSS_ENTROPY] = "cross_entropy",
};

const char *lb_loss_name(lb_loss_kind kind)
{
    return kind < LB_LOSS_COUNT ? loss_names[kind] : "unknown";
}

lb_status lb_loss_parse(const char *name, lb_loss_kind *out, lb_err *err)
{
    for (int i = 0; i < LB_LOSS_COUNT; i++) {
        if (strcmp(name, loss_names[i]) == 0) {
            *out = (lb_loss_kind)i;
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EINVAL, "loss",
                   "'%.40s' is not a loss; there are importance_sampling, ppo, cispo, dro and "
                   "cross_entropy", name);
}

lb_loss_config lb_loss_defaults(lb_loss_kind kind)
{
    lb_loss_config config = {.kind = kind, .kl_coef = 1.0, .discount = 0.0, .clip_low = 0.0,
                             .clip_high = 4.0, .beta = 0.1, .log_ratio_cap = 20.0};
    if (kind == LB_LOSS_PPO) {
        config.clip_low = 0.8;
        config.clip_high = 1.2;
    }
    return config;
}

void lb_loss_sums_add(lb_loss_sums *to, const lb_loss_sums *from)
{
    if (from->tokens == 0)
        return;
    bool first = to->tokens == 0;
    to->tokens += from->tokens;
    to->loss += from->loss;
    to->reverse_kl += from->reverse_kl;
    to->sampler_logprob += from->sampler_logprob;
    to->log_ratio += from->log_ratio;
    to->log_ratio_square += from->log_ratio_square;
    to->ratio += from->ratio;
    to->ratio_square += from->ratio_square;
    if (first || from->ratio_max > to->ratio_max)
        to->ratio_max = from->ratio_max;
    if (first || from->advantage_min < to->advantage_min)
        to->advantage_min = from->advantage_min;
    if (first || from->advantage_max > to->advantage_max)
        to->advantage_max = from->advantage_max;
}

/* A log-probability that may enter a sum: finite and not above 0. */
static bool is_logprob(float value)
{
    return isfinite(value) && value <= 0.0f;
}

static lb_status check_logprobs(const char *field, const float *values, const uint8_t *mask,
                                size_t count, lb_err *err)
{
    for (size_t t = 0; t < count; t++) {
        if (mask[t] && !is_logprob(values[t]))
            return lb_fail(err, LB_EDATA, field,
                           "entry %zu is %g, which is no log-probability", t, (double)values[t]);
    }
    return LB_OK;
}

lb_status lb_advantage(const lb_loss_config *config, size_t count, const float *sampler,
                       const float *teacher, const uint8_t *mask, double env, float *advantage,
                       lb_err *err)
{
    lb_status status = check_logprobs("sampler_logprobs", sampler, mask, count, err);
    if (status == LB_OK)
        status = check_logprobs("teacher_logprobs", teacher, mask, count, err);
    if (status != LB_OK)
        return status;
    /* The sum runs over masked entries too (they add 0 and only discount), and the mask is applied
     * again at the end: with a discount above 0 an advantage would otherwise reach the prompt. */
    double future = 0.0;
    for (size_t t = count; t-- > 0;) {
        double own = mask[t] ? -config->kl_coef * ((double)sampler[t] - (double)teacher[t]) : 0.0;
        future = own + config->discount * future;
        advantage[t] = mask[t] ? (float)(env + future) : 0.0f;
    }
    return LB_OK;
}

typedef struct token_loss {
    double loss;
    double slope;      /* dL / dlp_theta */
} token_loss;

static double clamp(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

/* One token's loss and derivative; ratio = exp(capped lp_theta - lp_b). */
static token_loss loss_of_token(const lb_loss_config *config, double learner, double sampler,
                                double ratio, double advantage)
{
    double clipped = clamp(ratio, config->clip_low, config->clip_high);
    double difference = learner - sampler;
    switch (config->kind) {
    case LB_LOSS_PPO: {
        bool inside = ratio * advantage <= clipped * advantage;
        return (token_loss){-(inside ? ratio : clipped) * advantage,
                            inside ? -ratio * advantage : 0.0};
    }
    case LB_LOSS_CISPO:
        return (token_loss){-clipped * learner * advantage, -clipped * advantage};
    case LB_LOSS_DRO:
        return (token_loss){-(learner * advantage - 0.5 * config->beta * difference * difference),
                            -(advantage - config->beta * difference)};
    case LB_LOSS_CROSS_ENTROPY:
        return (token_loss){-advantage * learner, -advantage};
    case LB_LOSS_IMPORTANCE_SAMPLING:
    case LB_LOSS_COUNT:
        break;
    }
    return (token_loss){-ratio * advantage, -ratio * advantage};
}

static void sums_of_token(lb_loss_sums *sums, const lb_loss_inputs *in, size_t t, double loss,
                          double ratio)
{
    double sampler = in->sampler ? (double)in->sampler[t] : (double)in->learner[t];
    double log_ratio = sampler - (double)in->learner[t];
    double advantage = (double)in->advantage[t];
    lb_loss_sums one = {
        .tokens = 1,
        .loss = loss,
        .reverse_kl = in->teacher ? sampler - (double)in->teacher[t] : 0.0,
        .sampler_logprob = sampler,
        .log_ratio = log_ratio,
        .log_ratio_square = log_ratio * log_ratio,
        .ratio = ratio,
        .ratio_square = ratio * ratio,
        .ratio_max = ratio,
        .advantage_min = advantage,
        .advantage_max = advantage,
    };
    lb_loss_sums_add(sums, &one);
}

lb_status lb_loss_gradient(const lb_loss_config *config, const lb_loss_inputs *in, float *grad,
                           lb_loss_sums *sums, lb_err *err)
{
    for (size_t t = 0; t < in->count; t++) {
        if (!in->mask[t]) {
            grad[t] = 0.0f;
            continue;
        }
        if (!is_logprob(in->learner[t]))
            return lb_fail(err, LB_ENUMERIC, "learner_logprobs", "entry %zu is %g", t,
                           (double)in->learner[t]);
        double learner = (double)in->learner[t];
        double sampler = in->sampler ? (double)in->sampler[t] : learner;
        double cap = config->log_ratio_cap;
        double ratio = exp(clamp(learner - sampler, -cap, cap));
        token_loss one = loss_of_token(config, learner, sampler, ratio, (double)in->advantage[t]);
        grad[t] = (float)one.slope;
        sums_of_token(sums, in, t, one.loss, ratio);
    }
    return LB_OK;
}
