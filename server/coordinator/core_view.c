/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON of one thing: a job, a run, a file, an adapter version, a step's metrics.
 */
#include "server/coordinator/core_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HALF 0.5

static void key_text(lb_jsonw *w, const char *key, const char *text)
{
    lb_jsonw_key(w, key);
    lb_jsonw_string(w, text);
}

static void key_u64(lb_jsonw *w, const char *key, uint64_t value)
{
    lb_jsonw_key(w, key);
    lb_jsonw_u64(w, value);
}

static void key_f64(lb_jsonw *w, const char *key, double value)
{
    lb_jsonw_key(w, key);
    lb_jsonw_f64(w, value);
}

static void key_null(lb_jsonw *w, const char *key)
{
    lb_jsonw_key(w, key);
    lb_jsonw_null(w);
}

/* Unix seconds, null for 0: not yet. */
static void key_time(lb_jsonw *w, const char *key, int64_t seconds)
{
    lb_jsonw_key(w, key);
    if (seconds > 0)
        lb_jsonw_i64(w, seconds);
    else
        lb_jsonw_null(w);
}

static void key_raw(lb_jsonw *w, const char *key, const char *json)
{
    lb_jsonw_key(w, key);
    if (json)
        lb_jsonw_raw(w, json, strlen(json));
    else
        lb_jsonw_null(w);
}

static void key_empty_list(lb_jsonw *w, const char *key)
{
    lb_jsonw_key(w, key);
    lb_jsonw_array(w);
    lb_jsonw_array_end(w);
}

void lb_core_view_file(const lb_file_row *row, lb_jsonw *w)
{
    lb_jsonw_object(w);
    key_text(w, "id", row->id);
    key_text(w, "object", "file");
    key_u64(w, "bytes", row->bytes);
    key_time(w, "created_at", row->created_at);
    key_text(w, "filename", row->filename);
    key_text(w, "purpose", row->purpose);
    key_text(w, "status", "processed");
    lb_jsonw_object_end(w);
}

/* ---- jobs ---- */

static const char *status_of(const core_job *job)
{
    return lb_job_state_active(job->row.state) && job->hold[0] ? "paused"
                                                               : lb_job_state_name(job->row.state);
}

static void view_adapter_name(const core_job *job, uint32_t version, lb_jsonw *w)
{
    char name[LB_NAME_SIZE];
    snprintf(name, sizeof name, "%s-v%u", job->row.suffix, version);
    lb_jsonw_string(w, name);
}

static void view_error(const core_job *job, lb_jsonw *w)
{
    bool held = lb_job_state_active(job->row.state) && job->hold[0];
    lb_jsonw_key(w, "error");
    if (!held && job->row.state != LB_JOB_FAILED) {
        lb_jsonw_null(w);
        return;
    }
    lb_jsonw_object(w);
    key_text(w, "code", held ? "on_hold" : job->row.error_code);
    key_text(w, "message", held ? job->hold : job->row.error_message);
    key_null(w, "param");
    lb_jsonw_object_end(w);
}

static void view_method(const core_job *job, lb_jsonw *w)
{
    lb_jsonw_key(w, "method");
    lb_jsonw_object(w);
    key_text(w, "type", job->row.method);
    lb_jsonw_key(w, job->row.method);
    lb_jsonw_object(w);
    if (job->row.teacher[0]) {
        lb_jsonw_key(w, "teacher");
        lb_jsonw_object(w);
        key_text(w, "model", job->row.teacher);
        lb_jsonw_object_end(w);
    }
    key_raw(w, "hyperparameters", job->row.hyperparameters);
    lb_jsonw_object_end(w);
    lb_jsonw_object_end(w);
}

/* The block that the OpenAI object has no room for: progress and the newest version. */
static void view_progress(const lb_core *core, const core_job *job, double left, lb_jsonw *w)
{
    const lb_job_row *row = &job->row;
    int64_t until = row->finished_at > 0 ? row->finished_at
                                         : core->env.wall_seconds(core->env.arg);
    int64_t elapsed = row->started_at > 0 ? until - row->started_at : 0;
    lb_jsonw_key(w, "limbeck");
    lb_jsonw_object(w);
    key_u64(w, "step", row->head);
    key_u64(w, "max_steps", job->config.max_steps);
    lb_jsonw_key(w, "adapter");
    view_adapter_name(job, row->head, w);
    key_raw(w, "metrics", job->metrics);
    key_raw(w, "handshake", row->handshake && row->handshake[0] ? row->handshake : NULL);
    key_u64(w, "workers", lb_job_state_active(row->state)
                              ? lb_core_workers_active(core, row->id) : 0);
    lb_jsonw_key(w, "seconds_elapsed");
    lb_jsonw_i64(w, elapsed > 0 ? elapsed : 0);
    lb_jsonw_key(w, "seconds_left");
    if (left >= 0)
        lb_jsonw_f64(w, left);
    else
        lb_jsonw_null(w);
    lb_jsonw_object_end(w);
}

/* Of the steps that remain, at the pace of the newest one; below 0: unknown. */
static double seconds_left(const core_job *job)
{
    if (job->row.state == LB_JOB_SUCCEEDED)
        return 0;
    if (job->row.state != LB_JOB_RUNNING || job->step_seconds <= 0)
        return -1;
    return job->step_seconds * (double)(job->config.max_steps - job->row.head);
}

void lb_core_view_job(const lb_core *core, const core_job *job, lb_jsonw *w)
{
    const lb_job_row *row = &job->row;
    bool succeeded = row->state == LB_JOB_SUCCEEDED;
    double left = seconds_left(job);
    lb_jsonw_object(w);
    key_text(w, "id", row->id);
    key_text(w, "object", "fine_tuning.job");
    key_time(w, "created_at", row->created_at);
    key_time(w, "finished_at", row->finished_at);
    key_text(w, "model", row->model);
    lb_jsonw_key(w, "fine_tuned_model");
    if (succeeded)
        view_adapter_name(job, row->head, w);
    else
        lb_jsonw_null(w);
    key_text(w, "organization_id", "org-local");
    key_text(w, "status", status_of(job));
    lb_jsonw_key(w, "hyperparameters");
    lb_jsonw_object(w);
    key_u64(w, "n_epochs", 1);
    key_u64(w, "batch_size", job->config.batch_size);
    key_f64(w, "learning_rate_multiplier", 1.0);
    lb_jsonw_object_end(w);
    key_text(w, "training_file", row->training_file);
    key_null(w, "validation_file");
    key_empty_list(w, "result_files");
    lb_jsonw_key(w, "trained_tokens");
    if (lb_job_state_active(row->state))
        lb_jsonw_null(w);
    else
        lb_jsonw_u64(w, row->tokens_total);
    view_error(job, w);
    key_u64(w, "seed", row->seed);
    key_time(w, "estimated_finish", left >= 0 && !succeeded
                 ? core->env.wall_seconds(core->env.arg) + (int64_t)left : 0);
    key_empty_list(w, "integrations");
    key_raw(w, "metadata", row->metadata);
    view_method(job, w);
    key_text(w, "suffix", row->suffix);
    key_text(w, "from_adapter", row->from_adapter[0] ? row->from_adapter : NULL);
    view_progress(core, job, left, w);
    lb_jsonw_object_end(w);
}

void lb_core_view_run(const lb_core *core, const core_job *job, lb_jsonw *w)
{
    const lb_job_row *row = &job->row;
    const lb_lora_config *lora = &job->config.lora;
    const char *url = NULL;
    for (size_t i = 0; i < core->config.teacher_count; i++) {
        if (strcmp(core->config.teachers[i].name, row->teacher) == 0)
            url = core->config.teachers[i].url;
    }
    lb_jsonw_object(w);
    key_text(w, "job", row->id);
    key_text(w, "model", row->model);
    key_text(w, "method", row->method);
    key_u64(w, "seed", row->seed);
    key_raw(w, "hyperparameters", row->hyperparameters);
    key_text(w, "dataset_sha256", row->dataset_sha);
    key_u64(w, "dataset_rows", row->dataset_rows);
    key_text(w, "tokenizer_sha256", row->tokenizer_sha);
    key_u64(w, "vocab", row->vocab);
    lb_jsonw_key(w, "lora");
    lb_jsonw_object(w);
    key_u64(w, "r", lora->rank);
    key_f64(w, "alpha", lora->alpha);
    lb_jsonw_key(w, "target_modules");
    lb_jsonw_array(w);
    for (int p = 0; p < LB_PROJ_COUNT; p++) {
        if (lora->targets & (1u << p))
            lb_jsonw_string(w, lb_projection_name((lb_projection)p));
    }
    lb_jsonw_array_end(w);
    lb_jsonw_object_end(w);
    lb_jsonw_key(w, "teacher");
    if (row->teacher[0]) {
        lb_jsonw_object(w);
        key_text(w, "model", row->teacher);
        key_text(w, "url", url);
        lb_jsonw_object_end(w);
    } else {
        lb_jsonw_null(w);
    }
    key_text(w, "grader", row->graded ? "exact_numeric" : NULL);
    key_text(w, "state", status_of(job));
    lb_jsonw_object_end(w);
}

void lb_core_view_adapter(const core_job *job, const lb_step_row *row, lb_jsonw *w)
{
    uint32_t version = row ? row->step + 1 : 0;
    lb_jsonw_object(w);
    lb_jsonw_key(w, "id");
    view_adapter_name(job, version, w);
    key_text(w, "object", "adapter");
    key_text(w, "job", job->row.id);
    key_u64(w, "step", version);
    key_time(w, "created_at", row ? row->created_at : job->row.created_at);
    key_text(w, "sha256", row ? row->adapter_sha : job->row.adapter_sha);
    key_text(w, "config_sha256", job->row.adapter_config_sha);
    key_u64(w, "bytes", row ? row->adapter_bytes : job->row.adapter_bytes);
    key_text(w, "parent_model", job->row.model);
    lb_jsonw_object_end(w);
}

/* ---- a step's metrics ---- */

/* value / by, null when there is nothing to divide by. */
static void key_ratio(lb_jsonw *w, const char *key, double value, double by)
{
    lb_jsonw_key(w, key);
    if (by > 0)
        lb_jsonw_f64(w, value / by);
    else
        lb_jsonw_null(w);
}

void lb_core_view_step(const core_job *job, const lb_step_row *row, const double *m,
                       double seconds, lb_buf *out)
{
    lb_jsonw w = {.out = out};
    /* A supervised step sampled nothing: what rollouts and a teacher give is null. */
    bool sampled = job->config.method == LB_METHOD_DISTILLATION;
    double tokens = (double)row->tokens, rollouts = m[LB_METRIC_ROLLOUTS];
    double sampled_tokens = sampled ? tokens : 0.0;
    uint32_t version = row->step + 1;
    bool mean = job->config.normalization == LB_NORM_TOKEN_MEAN;
    lb_jsonw_object(&w);
    key_u64(&w, "step", version);
    key_ratio(&w, "teacher_kl", m[LB_METRIC_REVERSE_KL], sampled_tokens);
    key_ratio(&w, "accuracy", m[LB_METRIC_CORRECT], m[LB_METRIC_GRADED]);
    key_ratio(&w, "loss", m[LB_METRIC_LOSS], mean ? tokens : 1.0);
    key_ratio(&w, "optim/kl_sample_train_v1", m[LB_METRIC_LOG_RATIO], sampled_tokens);
    key_ratio(&w, "optim/kl_sample_train_v2", HALF * m[LB_METRIC_LOG_RATIO_SQUARE], sampled_tokens);
    key_ratio(&w, "optim/entropy", -m[LB_METRIC_SAMPLER_LOGPROB], sampled_tokens);
    key_f64(&w, "optim/lr", job->config.learning_rate);
    key_u64(&w, "progress/batch", version);
    key_f64(&w, "progress/done_frac", (double)version / (double)job->config.max_steps);
    key_ratio(&w, "env/all/ac_tokens_per_turn", tokens, rollouts);
    key_ratio(&w, "env/all/reward/total", m[LB_METRIC_CORRECT], m[LB_METRIC_GRADED]);
    key_ratio(&w, "stop_rate", m[LB_METRIC_STOPPED], sampled ? rollouts : 0.0);
    key_f64(&w, "length_max", m[LB_METRIC_LENGTH_MAX]);
    key_f64(&w, "ratio_max", m[LB_METRIC_RATIO_MAX]);
    key_ratio(&w, "ess", m[LB_METRIC_RATIO] * m[LB_METRIC_RATIO], m[LB_METRIC_RATIO_SQUARE]);
    key_f64(&w, "advantage_min", m[LB_METRIC_ADVANTAGE_MIN]);
    key_f64(&w, "advantage_max", m[LB_METRIC_ADVANTAGE_MAX]);
    key_f64(&w, "noise_max", m[LB_METRIC_NOISE_MAX]);
    key_u64(&w, "tokens", row->tokens);
    key_u64(&w, "tokens_total", job->row.tokens_total + row->tokens);
    key_f64(&w, "time/total", seconds);
    key_ratio(&w, "tokens_per_s", tokens, seconds);
    lb_jsonw_object_end(&w);
}
