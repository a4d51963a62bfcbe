/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_plan - which prompts a unit of work has: a function of (job config, step, unit) alone.
 *
 * An epoch is a permutation of the data set's rows given by the seed; step t takes the next
 * batch_size rows of it, and unit u of units_per_step takes batch_size / units_per_step of those.
 * Rows for the random counters number the rollouts of a step: row_base = first prompt * group.
 */
#ifndef LB_COMMON_TRAIN_PLAN_H
#define LB_COMMON_TRAIN_PLAN_H

#include "common/base/json.h"
#include "common/base/status.h"
#include "common/train/loss.h"
#include "common/model/lora.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a job does with its data set: distil on the student's own rollouts, or train on the
 * completions that the rows have (cross-entropy on their tokens). */
typedef enum lb_method { LB_METHOD_DISTILLATION, LB_METHOD_SUPERVISED, LB_METHOD_COUNT } lb_method;

const char *lb_method_name(lb_method method);   /* "on_policy_distillation", "supervised" */
LB_NODISCARD lb_status lb_method_parse(const char *name, lb_method *out, lb_err *err);

typedef enum lb_normalization { LB_NORM_TOKEN_MEAN, LB_NORM_SUM } lb_normalization;

/* The hyperparameters of a job, all defaults filled in. JSON form: method.NAME.hyperparameters of
 * the job object (proto/openapi.yaml). A supervised job has no rollouts: samples_per_prompt is 1,
 * the loss cross_entropy, and the keys of sampling and of the other losses are refused. */
typedef struct lb_job_config {
    lb_method method;
    uint64_t seed;
    uint32_t max_steps;            /* 1..1000000 */
    uint32_t n_epochs;             /* passes over the rows, which give max_steps; 0: not asked */
    uint32_t batch_size;           /* rows per step; a multiple of units_per_step */
    uint32_t samples_per_prompt;   /* group, 1..256; default 4 */
    uint32_t units_per_step;       /* 1..1024; default min(8, batch_size) */
    uint32_t max_completion_tokens;
    double learning_rate;          /* default 1e-4 */
    double temperature;            /* 1: the only value a distillation takes */
    lb_loss_config loss;
    lb_normalization normalization;
    lb_lora_config lora;
    unsigned allow_mismatch;       /* lb_handshake_allow: what student and teacher may differ in */
    uint32_t checkpoint_every;     /* steps between optimizer snapshots; default 16 */
} lb_job_config;

/* hyperparameters: the JSON object (NULL: all defaults); `where` its path for messages. Unknown
 * keys are refused by name. seed comes from the job object. */
LB_NODISCARD lb_status lb_job_config_parse(const lb_json *hyperparameters, const char *where,
                                           lb_method method, uint64_t seed, lb_job_config *out,
                                           lb_err *err);
/* Turns n_epochs, if given, into max_steps for a data set of `rows`. LB_EINVAL: too many steps. */
LB_NODISCARD lb_status lb_job_config_resolve(lb_job_config *config, size_t rows, lb_err *err);
/* Writes the full hyperparameters object (every key, defaults included). */
void lb_job_config_write(const lb_job_config *config, lb_jsonw *out);

/* Row indices (into a data set of `rows`) of unit `unit` of step `step`: out[batch/units]. */
void lb_plan_unit(const lb_job_config *config, size_t rows, uint32_t step, uint32_t unit,
                  uint32_t *out);
uint32_t lb_plan_prompts_per_unit(const lb_job_config *config);
uint32_t lb_plan_row_base(const lb_job_config *config, uint32_t unit);

#endif
