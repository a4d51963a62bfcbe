/* SPDX-License-Identifier: Apache-2.0
 *
 * A step's commit: all units -> one gradient -> next weights, written as blobs, then one
 * transaction that moves the head. Everything is made in shadow copies, so a failure at any point
 * leaves the job where it was, and the next try computes the same bytes again.
 */
#include "server/coordinator/core_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "gradient blobs are little-endian f32");

#define MS_PER_SECOND 1000.0
#define FIGURE_MAX 48

typedef struct commit {
    core_reduction reduction;
    float *weights;
    lb_adam adam;
    lb_buf adapter, optimizer, metrics;
    lb_step_row row;
    double seconds;
} commit;

static void commit_free(commit *c)
{
    free(c->reduction.gradient);
    free(c->weights);
    lb_adam_free(&c->adam);
    lb_buf_free(&c->adapter);
    lb_buf_free(&c->optimizer);
    lb_buf_free(&c->metrics);
}

static lb_status shadow(const core_job *job, commit *c, lb_err *err)
{
    size_t elements = job->layout.elements;
    c->weights = malloc(elements * sizeof *c->weights);
    if (!c->weights)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the next weights");
    memcpy(c->weights, job->weights, elements * sizeof *c->weights);
    lb_status status = lb_adam_create(elements, &c->adam, err);
    if (status != LB_OK)
        return status;
    memcpy(c->adam.m, job->adam.m, elements * sizeof *c->adam.m);
    memcpy(c->adam.v, job->adam.v, elements * sizeof *c->adam.v);
    c->adam.beta1_power = job->adam.beta1_power;
    c->adam.beta2_power = job->adam.beta2_power;
    c->adam.steps = job->adam.steps;
    return LB_OK;
}

static lb_status write_blobs(lb_core *core, const core_job *job, commit *c, lb_err *err)
{
    const lb_env *env = &core->env;
    uint8_t digest[LB_SHA256_BYTES];
    lb_status status = lb_lora_encode(&job->layout, c->weights, &c->adapter, err);
    if (status == LB_OK)
        status = lb_adam_encode(&c->adam, &c->optimizer, err);
    if (status == LB_OK)
        status = env->blob_put(env->arg, c->reduction.gradient,
                               job->layout.elements * sizeof *c->reduction.gradient,
                               c->row.grad_sha, err);
    if (status == LB_OK)
        status = env->blob_put(env->arg, c->adapter.data, c->adapter.length, c->row.adapter_sha,
                               err);
    if (status != LB_OK)
        return status;
    c->row.adapter_bytes = c->adapter.length;
    if (c->row.snapshot)
        return env->blob_put(env->arg, c->optimizer.data, c->optimizer.length, c->row.opt_sha, err);
    lb_sha256_of(c->optimizer.data, c->optimizer.length, digest);
    lb_sha256_hex(digest, c->row.opt_sha);
    return LB_OK;
}

static lb_status prepare(lb_core *core, const core_job *job, commit *c, lb_err *err)
{
    uint32_t version = job->row.head + 1;
    int64_t elapsed = core->env.now_ms(core->env.arg) - job->step_started_ms;
    c->row.step = job->row.head;
    c->row.snapshot = version % job->config.checkpoint_every == 0 ||
                      version == job->config.max_steps;
    c->row.grad_kept = true;
    c->row.opt_kept = c->row.snapshot;
    c->row.created_at = core->env.wall_seconds(core->env.arg);
    c->row.tokens = c->reduction.tokens;
    c->seconds = elapsed > 0 ? (double)elapsed / MS_PER_SECOND : 0.0;
    memcpy(c->row.prev, job->row.head_hash, sizeof c->row.prev);
    lb_sha256_hex(c->reduction.units_root, c->row.units_root);
    lb_status status = shadow(job, c, err);
    if (status == LB_OK)
        status = lb_core_apply(job, &c->adam, c->weights, c->reduction.gradient,
                               c->reduction.tokens, err);
    if (status == LB_OK)
        status = write_blobs(core, job, c, err);
    if (status == LB_OK)
        status = lb_core_chain_hash(&job->row, &c->row, c->row.hash, err);
    if (status == LB_OK) {
        lb_core_view_step(job, &c->row, c->reduction.metrics, c->seconds, &c->metrics);
        status = c->metrics.status;
    }
    return status;
}

static lb_status write_rows(lb_core *core, const core_job *job, const commit *c, lb_err *err)
{
    lb_store *store = core->env.store;
    char text[LB_ERR_MESSAGE_MAX], figure[FIGURE_MAX] = "no trained tokens";
    uint32_t version = c->row.step + 1;
    bool supervised = job->config.method == LB_METHOD_SUPERVISED;
    if (c->row.tokens > 0)
        snprintf(figure, sizeof figure, "%s=%.4g", supervised ? "loss" : "teacher_kl",
                 c->reduction.metrics[supervised ? LB_METRIC_LOSS : LB_METRIC_REVERSE_KL] /
                     (double)c->row.tokens);
    snprintf(text, sizeof text, "Step %u/%u: %s", version, job->config.max_steps, figure);
    lb_event_row event = {.created_at = c->row.created_at, .level = "info", .type = "metrics",
                          .message = text, .step = version};
    lb_event_row finished = {.created_at = c->row.created_at, .level = "info",
                             .type = "message", .message = "The job has succeeded"};
    lb_job_change change = {.state = LB_JOB_SUCCEEDED, .error_code = "", .error_message = "",
                            .started_at = job->row.started_at,
                            .finished_at = c->row.created_at, .event = &finished};
    lb_step_commit rows = {.row = &c->row, .metrics = (const char *)c->metrics.data,
                           .tokens_total = job->row.tokens_total + c->row.tokens,
                           .event = &event,
                           .change = version == job->config.max_steps ? &change : NULL};
    return store->step_commit(store->impl, job->row.id, &rows, err);
}

/* The unit blobs are no longer needed; their rows stay, for the answer to a late duplicate. */
static void drop_units(lb_core *core, core_job *job)
{
    for (uint32_t u = 0; u < job->config.units_per_step; u++) {
        lb_core_drop_if_unneeded(core, job->units[u].digest);
        job->units[u] = (core_unit){0};
    }
    job->done = 0;
}

static void publish(lb_core *core, core_job *job, commit *c)
{
    lb_job_row *row = &job->row;
    free(job->weights);
    job->weights = c->weights;
    c->weights = NULL;
    lb_adam_free(&job->adam);
    job->adam = c->adam;
    c->adam = (lb_adam){0};
    free(job->metrics);
    job->metrics = (char *)lb_buf_take(&c->metrics, NULL);
    row->head++;
    row->tokens_total += c->row.tokens;
    memcpy(row->head_hash, c->row.hash, sizeof row->head_hash);
    memcpy(job->adapter_sha, c->row.adapter_sha, sizeof job->adapter_sha);
    job->commit_ms = LB_CORE_NEVER;
    job->step_seconds = c->seconds;
    job->step_started_ms = core->env.now_ms(core->env.arg);
    drop_units(core, job);
    lb_core_note_f(core, LB_LOG_INFO, "step_committed",
                   "job=%s version=%u tokens=%" PRIu64 " seconds=%.3f adapter=%.12s", row->id,
                   row->head, c->row.tokens, c->seconds, c->row.adapter_sha);
    if (row->head == job->config.max_steps) {
        row->state = LB_JOB_SUCCEEDED;
        row->finished_at = c->row.created_at;
        lb_core_job_unload(job);
        lb_core_job_forget(core, job);
        lb_core_note_f(core, LB_LOG_INFO, "job_ended", "job=%s state=succeeded", row->id);
    } else if (c->row.snapshot) {
        job->replay_from = job->snapshot;
        job->snapshot = row->head;
        lb_core_job_forget(core, job);
    }
    lb_core_wake_metrics(core, job);
}

/* A unit whose blob is damaged is computed again: its row goes, the file is in quarantine. */
static void recompute_unit(lb_core *core, core_job *job, uint32_t unit, const lb_err *why)
{
    lb_store *store = core->env.store;
    lb_err err = {0};
    char quoted[LB_ERR_MESSAGE_MAX];
    lb_status status = store->push_delete(store->impl, job->row.id, job->row.head, unit, &err);
    if (status != LB_OK) {
        lb_core_storage_failed(core, &err);
        job->commit_ms = core->env.now_ms(core->env.arg) + LB_CORE_RETRY_MS;
        return;
    }
    job->units[unit] = (core_unit){0};
    job->done--;
    job->commit_ms = LB_CORE_NEVER;
    core->counters[COUNT_DAMAGED]++;
    lb_core_note_f(core, LB_LOG_ERROR, "unit_damaged", "job=%s step=%u unit=%u message=%s",
                   job->row.id, job->row.head, unit,
                   lb_log_quote(quoted, sizeof quoted, why->message));
}

static void commit_failed(lb_core *core, core_job *job, const lb_err *why)
{
    lb_err err = {0};
    switch (why->status) {
    case LB_EIO:
    case LB_EGONE:
    case LB_ENOSPACE:
    case LB_ENOMEM:
        lb_core_storage_failed(core, why);
        job->commit_ms = core->env.now_ms(core->env.arg) + LB_CORE_RETRY_MS;
        break;
    default:
        /* Every further try would compute the same: the job is over. */
        if (lb_core_job_end(core, job, LB_JOB_FAILED, lb_status_name(why->status), why->message,
                            &err) != LB_OK) {
            lb_core_storage_failed(core, &err);
            job->commit_ms = core->env.now_ms(core->env.arg) + LB_CORE_RETRY_MS;
        }
        break;
    }
}

static void commit_job(lb_core *core, core_job *job)
{
    lb_err err = {0};
    commit c = {0};
    lb_status status = lb_core_reduce(core, job, &c.reduction, &err);
    if (status == LB_EDATA || status == LB_ENOTFOUND || status == LB_ENUMERIC) {
        recompute_unit(core, job, c.reduction.bad_unit, &err);
        commit_free(&c);
        return;
    }
    if (status == LB_OK)
        status = prepare(core, job, &c, &err);
    if (status == LB_OK)
        status = write_rows(core, job, &c, &err);
    if (status == LB_OK) {
        publish(core, job, &c);
    } else {
        err.status = status;
        commit_failed(core, job, &err);
    }
    commit_free(&c);
}

void lb_core_commit_due(lb_core *core, int64_t now_ms)
{
    for (size_t i = 0; i < core->job_count; i++) {
        core_job *job = core->jobs[i];
        if (job->live && job->commit_ms <= now_ms && core->actions->exit_code == 0)
            commit_job(core, job);
    }
}
