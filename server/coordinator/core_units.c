/* SPDX-License-Identifier: Apache-2.0
 *
 * The checks of a pushed unit, in order: run, step, unit, duplicate, fence, class, frame; then the
 * blob, then the row, then the reply. A result does not depend on who computed it, so a late push
 * under an expired fence is as good as any; the fence only has to be one that was given.
 */
#include "server/coordinator/core_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HTTP_CREATED 201

static void answer_push(lb_core *core, const lb_core_event *event, bool duplicate)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "job");
    lb_jsonw_string(&w, event->id);
    lb_jsonw_key(&w, "step");
    lb_jsonw_u64(&w, event->step);
    lb_jsonw_key(&w, "unit");
    lb_jsonw_u64(&w, event->unit);
    lb_jsonw_key(&w, "duplicate");
    lb_jsonw_bool(&w, duplicate);
    lb_jsonw_object_end(&w);
    core->counters[duplicate ? COUNT_DUPLICATE : COUNT_STORED]++;
    lb_core_answer_json(core, event->ticket, duplicate ? lb_status_http(LB_OK) : HTTP_CREATED,
                        &body);
}

static void refuse(lb_core *core, const lb_core_event *event, core_counter counter,
                   lb_status status, const char *code, const char *param, const char *message)
{
    core->counters[counter]++;
    lb_core_note_f(core, LB_LOG_WARN, "push_refused", "job=%s step=%u unit=%u worker=%s code=%s",
                   event->id, event->step, event->unit, event->worker, code);
    lb_core_answer_refusal(core, event->ticket, lb_status_http(status), code, param, message);
}

/* A step that is behind us: the same bytes are a duplicate, others come too late. */
static void answer_committed(lb_core *core, const core_job *job, const lb_core_event *event)
{
    lb_push_row row = {0};
    lb_err err = {0};
    lb_store *store = core->env.store;
    lb_status status = store->push_get(store->impl, job->row.id, event->step, event->unit, &row,
                                       &err);
    if (status == LB_OK && strcmp(row.digest, event->digest) == 0) {
        answer_push(core, event, true);
    } else if (status == LB_OK || status == LB_ENOTFOUND) {
        refuse(core, event, COUNT_GONE, LB_EGONE, "step_committed", "step",
               "the step is committed already");
    } else {
        lb_core_storage_failed(core, &err);
        lb_core_answer_err(core, event->ticket, &err);
    }
}

/* The fence must be one that was given out, and not for another unit. Fences from before a restart
 * are known only by being below the counter. */
static bool fence_is_good(const lb_core *core, const core_job *job, const lb_core_event *event)
{
    uint64_t fence = event->fences[0];
    /* A queued job never gave a lease. */
    if (fence == 0 || fence >= core->fence_next || job->row.state != LB_JOB_RUNNING)
        return false;
    for (size_t i = 0; i < core->job_count; i++) {
        const core_job *other = core->jobs[i];
        for (uint32_t u = 0; other->live && u < other->config.units_per_step; u++) {
            const core_unit *unit = &other->units[u];
            if (unit->state == UNIT_LEASED && unit->fence == fence)
                return other == job && u == event->unit &&
                       strcmp(unit->worker, event->worker) == 0;
        }
    }
    return true;
}

static lb_status check_frame(const core_job *job, const lb_core_event *event, uint64_t *tokens,
                             lb_err *err)
{
    lb_unit_result result = {0};
    uint64_t rollouts = (uint64_t)lb_plan_prompts_per_unit(&job->config) *
                        job->config.samples_per_prompt;
    uint64_t most = rollouts * job->config.max_completion_tokens;
    lb_status status = lb_unit_result_decode(event->body, event->length, job->layout.elements,
                                             &result, err);
    if (status != LB_OK)
        return status;
    if (result.step != event->step)
        status = lb_fail(err, LB_EDATA, "step", "the frame is of step %u, the route of %u",
                         result.step, event->step);
    else if (result.unit != event->unit)
        status = lb_fail(err, LB_EDATA, "unit", "the frame is of unit %u, the route of %u",
                         result.unit, event->unit);
    else if (result.tokens > most)
        status = lb_fail(err, LB_EDATA, "tokens", "%" PRIu64 " tokens are more than the %" PRIu64
                         " that a unit can have", result.tokens, most);
    *tokens = result.tokens;
    lb_unit_result_free(&result);
    return status;
}

static lb_status store_push(lb_core *core, core_job *job, const lb_core_event *event, lb_err *err)
{
    lb_store *store = core->env.store;
    lb_push_row row = {.step = event->step, .unit = event->unit, .bytes = event->length,
                       .fence = event->fences[0]};
    lb_status status = check_frame(job, event, &row.tokens, err);
    if (status != LB_OK) {
        core->counters[COUNT_INVALID]++;
        /* A value that is not finite is the sender's fault here, not this server's. */
        if (status == LB_ENUMERIC)
            err->status = status = LB_EDATA;
        return status;
    }
    status = core->env.blob_put(core->env.arg, event->body, event->length, row.digest, err);
    if (status == LB_OK && strcmp(row.digest, event->digest) != 0)
        status = lb_fail(err, LB_EDATA, "Content-Digest", "the body has digest %s", row.digest);
    if (status == LB_OK) {
        snprintf(row.worker, sizeof row.worker, "%s", event->worker);
        bool first = !job->row.numerics_class[0];
        status = store->push_insert(store->impl, job->row.id, &row,
                                    first ? event->numerics_class : NULL, err);
    }
    if (status != LB_OK)
        lb_core_storage_failed(core, err);
    return status;
}

static void accept_push(lb_core *core, core_job *job, const lb_core_event *event)
{
    job->failures = 0;
    core_unit *unit = &job->units[event->unit];
    unit->state = UNIT_DONE;
    memcpy(unit->digest, event->digest, sizeof unit->digest);
    if (!job->row.numerics_class[0])
        snprintf(job->row.numerics_class, sizeof job->row.numerics_class, "%s",
                 event->numerics_class);
    job->done++;
    /* The commit is a step of its own, so that the worker's answer does not wait for it. */
    if (job->done == job->config.units_per_step)
        job->commit_ms = core->env.now_ms(core->env.arg);
    answer_push(core, event, false);
}

/* Answers when the push is settled without its body: job over, other step, seen before. */
static bool settle_early(lb_core *core, const core_job *job, const lb_core_event *event)
{
    if (event->unit >= job->config.units_per_step) {
        lb_err err = {0};
        (void)lb_fail(&err, LB_ENOTFOUND, "unit", "a step of job %s has %u units", job->row.id,
                      job->config.units_per_step);
        lb_core_answer_err(core, event->ticket, &err);
    } else if (event->step < job->row.head) {
        answer_committed(core, job, event);
    } else if (!lb_job_state_active(job->row.state)) {
        refuse(core, event, COUNT_GONE, LB_EGONE, "job_over", "job", "the job is over");
    } else if (!job->live) {
        lb_err err = {0};
        (void)lb_fail(&err, LB_EUNAVAILABLE, "job", "job %s is on hold: %.200s", job->row.id,
                      job->hold);
        lb_core_answer_err(core, event->ticket, &err);
    } else if (event->step > job->row.head) {
        refuse(core, event, COUNT_GONE, LB_ECONFLICT, "stale_policy", "step",
               "the step is not open yet");
    } else if (job->units[event->unit].state == UNIT_DONE) {
        if (strcmp(job->units[event->unit].digest, event->digest) == 0)
            answer_push(core, event, true);
        else
            refuse(core, event, COUNT_CONFLICT, LB_ECONFLICT, "digest_conflict", "unit",
                   "the unit was pushed before with other bytes");
    } else {
        return false;
    }
    return true;
}

void lb_core_on_push(lb_core *core, lb_core_event *event)
{
    lb_err err = {0};
    core_job *job = lb_core_find_job(core, event->id);
    if (!job || !job->configured) {
        (void)lb_fail(&err, LB_ENOTFOUND, "job", "there is no job '%.64s'", event->id);
        lb_core_answer_err(core, event->ticket, &err);
        return;
    }
    lb_core_worker_seen(core, event->worker, job->row.id);
    if (settle_early(core, job, event))
        return;
    if (lb_core_needs_handshake(job)) {
        refuse(core, event, COUNT_INVALID, LB_ECONFLICT, "handshake_required", "job",
               "no handshake of student and teacher has been held yet");
        return;
    }
    if (!fence_is_good(core, job, event)) {
        refuse(core, event, COUNT_INVALID, LB_ECONFLICT, "fence_mismatch", "X-Fence",
               "the fence was not given to this worker for this unit");
        return;
    }
    if (job->row.numerics_class[0] &&
        strcmp(job->row.numerics_class, event->numerics_class) != 0) {
        refuse(core, event, COUNT_CLASS, LB_ECONFLICT, "class_mismatch", "X-Numerics-Class",
               "the job is computed by workers of another numerics class");
        return;
    }
    if (store_push(core, job, event, &err) != LB_OK)
        lb_core_answer_err(core, event->ticket, &err);
    else
        accept_push(core, job, event);
}
