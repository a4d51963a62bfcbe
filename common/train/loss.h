/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_loss - on-policy distillation: alignment, advantages, losses and their derivative.
 *
 * Shapes    entry t is about tokens[t] (what lb_model_score returns); prompt entries are masked.
 * Source    Thinking Machines Lab, "On-Policy Distillation" (2025); docs/ALGORITHM.md.
 */
#ifndef LB_COMMON_TRAIN_LOSS_H
#define LB_COMMON_TRAIN_LOSS_H

#include "common/base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef enum lb_loss_kind {
    LB_LOSS_IMPORTANCE_SAMPLING, LB_LOSS_PPO, LB_LOSS_CISPO, LB_LOSS_DRO, LB_LOSS_CROSS_ENTROPY,
    LB_LOSS_COUNT
} lb_loss_kind;

const char *lb_loss_name(lb_loss_kind kind);       /* "importance_sampling" ... */
LB_NODISCARD lb_status lb_loss_parse(const char *name, lb_loss_kind *out, lb_err *err);

typedef struct lb_loss_config {
    lb_loss_kind kind;
    double kl_coef;        /* 1 */
    double discount;       /* 0 */
    double clip_low, clip_high;  /* ppo 0.8, 1.2; cispo 0, 4 */
    double beta;           /* dro */
    double log_ratio_cap;  /* |lp_theta - lp_b| is capped before exp; 20 */
} lb_loss_config;

/* Bounds and beta of the kind, kl_coef 1, discount 0. */
lb_loss_config lb_loss_defaults(lb_loss_kind kind);

/* Sums over masked tokens; whoever aggregates adds them and divides once. */
typedef struct lb_loss_sums {
    uint64_t tokens;
    double loss;
    double reverse_kl;        /* sum (lp_b - lp_T): teacher_kl = reverse_kl / tokens */
    double sampler_logprob;   /* sum lp_b: optim/entropy = - sampler_logprob / tokens */
    double log_ratio;         /* sum (lp_b - lp_theta): kl_sample_train_v1 */
    double log_ratio_square;  /* sum (lp_b - lp_theta)^2: v2 = half the mean */
    double ratio, ratio_square;  /* effective sample size = ratio^2 / ratio_square */
    double ratio_max;
    double advantage_min, advantage_max;
} lb_loss_sums;

void lb_loss_sums_add(lb_loss_sums *to, const lb_loss_sums *from);  /* min, max, sums */

/* Advantages of the completion's entries: A[t] = -kl_coef * (lp_b - lp_T), discounted future sum,
 * plus env (a constant per completion, 0 without a reward). All arrays [count]. mask: 1 =
 * sampled by the student; masked entries are selected, never multiplied, and give exactly 0.
 * LB_EDATA: a teacher or sampler logprob under the mask is NaN, infinite or above 0; the message
 * has the position. */
LB_NODISCARD lb_status lb_advantage(const lb_loss_config *config, size_t count,
                                    const float *sampler, const float *teacher,
                                    const uint8_t *mask, double env, float *advantage,
                                    lb_err *err);

/* dL/dlogprob for each entry, and adds to sums. learner [count]: log p of the weights trained. For
 * cross_entropy the advantage array is the weights and sampler may be NULL. teacher may be NULL
 * (then reverse_kl is not summed). grad is overwritten, 0 where masked. LB_ENUMERIC: a learner
 * logprob under the mask is not finite. */
typedef struct lb_loss_inputs {
    size_t count;
    const float *learner, *sampler, *teacher, *advantage;
    const uint8_t *mask;
} lb_loss_inputs;
LB_NODISCARD lb_status lb_loss_gradient(const lb_loss_config *config, const lb_loss_inputs *in,
                                        float *grad, lb_loss_sums *sums, lb_err *err);

#endif
