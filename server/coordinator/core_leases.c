/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may work on which unit until when. A lease only spares double work: a unit's result does not
 * depend on who computes it, so losing all leases in a restart costs time and nothing else.
 */
#include "server/coordinator/core_impl.h"

#include <stdio.h>
#include <string.h>

/* ---- workers ---- */

void lb_core_worker_seen(lb_core *core, const char *name, const char *job)
{
    core_worker *slot = NULL;
    for (size_t i = 0; i < core->worker_count; i++) {
        core_worker *worker = &core->workers[i];
        if (strcmp(worker->name, name) == 0) {
            slot = worker;
            break;
        }
        if (!slot || worker->seen_ms < slot->seen_ms)
            slot = worker;
    }
    if (!slot || strcmp(slot->name, name) != 0) {
        /* A full table forgets whoever was silent for longest. */
        if (core->worker_count < LB_CORE_WORKERS_MAX)
            slot = &core->workers[core->worker_count++];
        *slot = (core_worker){0};
        snprintf(slot->name, sizeof slot->name, "%s", name);
    }
    slot->seen_ms = core->env.now_ms(core->env.arg);
    if (job)
        snprintf(slot->job, sizeof slot->job, "%s", job);
}

size_t lb_core_workers_active(const lb_core *core, const char *job)
{
    int64_t since = core->env.now_ms(core->env.arg) - core->config.lease_ttl_ms;
    size_t count = 0;
    for (size_t i = 0; i < core->worker_count; i++) {
        const core_worker *worker = &core->workers[i];
        count += worker->seen_ms >= since && (!job || strcmp(worker->job, job) == 0);
    }
    return count;
}

size_t lb_core_leases_active(const lb_core *core)
{
    size_t count = 0;
    for (size_t i = 0; i < core->job_count; i++) {
        const core_job *job = core->jobs[i];
        for (uint32_t u = 0; job->live && u < job->config.units_per_step; u++)
            count += job->units[u].state == UNIT_LEASED;
    }
    return count;
}

/* ---- granting ---- */

static lb_status next_fence(lb_core *core, uint64_t *out, lb_err *err)
{
    if (core->fence_next == core->fence_end) {
        uint64_t first = 0;
        lb_store *store = core->env.store;
        lb_status status = store->fences(store->impl, LB_CORE_FENCE_BLOCK, &first, err);
        if (status != LB_OK)
            return status;
        core->fence_next = first;
        core->fence_end = first + LB_CORE_FENCE_BLOCK;
    }
    *out = core->fence_next++;
    return LB_OK;
}

static core_unit *free_unit(const core_job *job)
{
    if (!job->live || job->hold[0] || !lb_job_state_active(job->row.state))
        return NULL;
    for (uint32_t u = 0; u < job->config.units_per_step; u++) {
        if (job->units[u].state == UNIT_FREE)
            return &job->units[u];
    }
    return NULL;
}

/* Jobs take turns, so that one with many units does not keep another waiting. */
static core_job *job_with_work(lb_core *core, core_unit **unit)
{
    for (size_t i = 0; i < core->job_count; i++) {
        size_t index = (core->turn + i) % core->job_count;
        *unit = free_unit(core->jobs[index]);
        if (*unit) {
            core->turn = index + 1;
            return core->jobs[index];
        }
    }
    return NULL;
}

static lb_status start_job(lb_core *core, core_job *job, lb_err *err)
{
    lb_store *store = core->env.store;
    int64_t now = core->env.wall_seconds(core->env.arg);
    lb_event_row event = {.created_at = now, .level = "info", .type = "message",
                          .message = "The first worker has begun"};
    lb_job_change change = {.state = LB_JOB_RUNNING, .error_code = "", .error_message = "",
                            .started_at = now, .event = &event};
    lb_status status = store->job_change(store->impl, job->row.id, &change, err);
    if (status == LB_OK) {
        job->row.state = LB_JOB_RUNNING;
        job->row.started_at = now;
        job->step_started_ms = core->env.now_ms(core->env.arg);
    }
    return status;
}

static void write_lease(const lb_core *core, const core_job *job, const core_unit *unit,
                        lb_buf *out)
{
    lb_jsonw w = {.out = out};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "job");
    lb_jsonw_string(&w, job->row.id);
    lb_jsonw_key(&w, "step");
    lb_jsonw_u64(&w, job->row.head);
    lb_jsonw_key(&w, "unit");
    lb_jsonw_u64(&w, (uint64_t)(unit - job->units));
    lb_jsonw_key(&w, "fence");
    lb_jsonw_u64(&w, unit->fence);
    lb_jsonw_key(&w, "adapter_sha256");
    lb_jsonw_string(&w, job->adapter_sha);
    lb_jsonw_key(&w, "ttl_ms");
    lb_jsonw_u64(&w, core->config.lease_ttl_ms);
    lb_jsonw_key(&w, "heartbeat_ms");
    lb_jsonw_u64(&w, core->config.heartbeat_ms);
    lb_jsonw_object_end(&w);
}

/* Answers the ticket with a unit if there is one; false: there is none and nothing was answered. */
static bool grant(lb_core *core, void *ticket, const char *worker, int64_t now_ms)
{
    core_unit *unit = NULL;
    uint64_t fence = 0;
    lb_err err = {0};
    lb_buf body = {0};
    core_job *job = job_with_work(core, &unit);
    if (!job)
        return false;
    lb_status status = next_fence(core, &fence, &err);
    if (status == LB_OK && job->row.state == LB_JOB_QUEUED)
        status = start_job(core, job, &err);
    if (status != LB_OK) {
        lb_core_storage_failed(core, &err);
        lb_core_answer_err(core, ticket, &err);
        return true;
    }
    unit->state = UNIT_LEASED;
    unit->fence = fence;
    unit->expires_ms = now_ms + core->config.lease_ttl_ms;
    snprintf(unit->worker, sizeof unit->worker, "%s", worker);
    lb_core_worker_seen(core, worker, job->row.id);
    write_lease(core, job, unit, &body);
    lb_core_answer_json(core, ticket, lb_status_http(LB_OK), &body);
    return true;
}

void lb_core_serve_waiters(lb_core *core, int64_t now_ms)
{
    size_t kept = 0;
    bool work = true;
    for (size_t i = 0; i < core->waiter_count; i++) {
        core_waiter waiter = core->waiters[i];
        if (work && !waiter.metrics) {
            work = grant(core, waiter.ticket, waiter.who, now_ms);
            if (work)
                continue;
        }
        core->waiters[kept++] = waiter;
    }
    core->waiter_count = kept;
}

void lb_core_on_lease(lb_core *core, lb_core_event *event)
{
    int64_t now = core->env.now_ms(core->env.arg);
    lb_core_expire_leases(core, now);
    lb_core_worker_seen(core, event->worker, NULL);
    if (grant(core, event->ticket, event->worker, now))
        return;
    core_waiter waiter = {.ticket = event->ticket, .deadline_ms = now + event->wait_ms};
    snprintf(waiter.who, sizeof waiter.who, "%s", event->worker);
    if (event->wait_ms > 0 && event->ticket && lb_core_add_waiter(core, &waiter))
        return;
    lb_buf none = {0};
    lb_core_answer_json(core, event->ticket, 204, &none);
}

/* ---- keeping and giving up ---- */

/* *owner (NULL allowed) is the job that the unit is of. */
static core_unit *find_lease(lb_core *core, uint64_t fence, const char *worker, core_job **owner)
{
    for (size_t i = 0; i < core->job_count; i++) {
        core_job *job = core->jobs[i];
        for (uint32_t u = 0; job->live && u < job->config.units_per_step; u++) {
            core_unit *unit = &job->units[u];
            if (unit->state == UNIT_LEASED && unit->fence == fence) {
                if (owner)
                    *owner = job;
                return strcmp(unit->worker, worker) == 0 ? unit : NULL;
            }
        }
    }
    return NULL;
}

void lb_core_expire_leases(lb_core *core, int64_t now_ms)
{
    for (size_t i = 0; i < core->job_count; i++) {
        const core_job *job = core->jobs[i];
        for (uint32_t u = 0; job->live && u < job->config.units_per_step; u++) {
            core_unit *unit = &job->units[u];
            if (unit->state != UNIT_LEASED || unit->expires_ms > now_ms)
                continue;
            unit->state = UNIT_FREE;
            core->counters[COUNT_EXPIRED]++;
            lb_core_note_f(core, LB_LOG_WARN, "lease_expired", "job=%s step=%u unit=%u worker=%s",
                           job->row.id, job->row.head, u, unit->worker);
        }
    }
}

static void write_fences(lb_jsonw *w, const char *key, const uint64_t *fences, size_t count)
{
    lb_jsonw_key(w, key);
    lb_jsonw_array(w);
    for (size_t i = 0; i < count; i++)
        lb_jsonw_u64(w, fences[i]);
    lb_jsonw_array_end(w);
}

void lb_core_on_renew(lb_core *core, lb_core_event *event)
{
    uint64_t renewed[LB_CORE_FENCES_MAX], lost[LB_CORE_FENCES_MAX];
    size_t renewed_count = 0, lost_count = 0;
    int64_t now = core->env.now_ms(core->env.arg);
    lb_core_expire_leases(core, now);
    lb_core_worker_seen(core, event->worker, NULL);
    for (size_t i = 0; i < event->fence_count; i++) {
        core_unit *unit = find_lease(core, event->fences[i], event->worker, NULL);
        if (unit) {
            unit->expires_ms = now + core->config.lease_ttl_ms;
            renewed[renewed_count++] = event->fences[i];
        } else {
            lost[lost_count++] = event->fences[i];
        }
    }
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_jsonw_object(&w);
    write_fences(&w, "renewed", renewed, renewed_count);
    write_fences(&w, "lost", lost, lost_count);
    lb_jsonw_object_end(&w);
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
    lb_core_serve_waiters(core, now);
}

/* A unit that failed for a reason that lies in the job. So many in a row, with none pushed in
 * between, and the job would go on failing for ever. */
static void count_failure(lb_core *core, core_job *job, const lb_core_event *event)
{
    lb_err err = {0};
    char quoted[LB_ERR_MESSAGE_MAX], text[LB_ERR_MESSAGE_MAX];
    job->failures++;
    lb_core_note_f(core, LB_LOG_WARN, "unit_failed", "job=%s step=%u worker=%s failures=%u "
                   "message=%s", job->row.id, job->row.head, event->worker, job->failures,
                   lb_log_quote(quoted, sizeof quoted, event->failure.message));
    if (job->failures < LB_CORE_FAILURES_MAX)
        return;
    snprintf(text, sizeof text, "%u units failed in a row; the last: %.240s", job->failures,
             event->failure.message);
    if (lb_core_job_end(core, job, LB_JOB_FAILED, "units_failing", text, &err) != LB_OK)
        lb_core_storage_failed(core, &err);
}

void lb_core_on_release(lb_core *core, lb_core_event *event)
{
    uint64_t released[LB_CORE_FENCES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < event->fence_count; i++) {
        core_job *job = NULL;
        core_unit *unit = find_lease(core, event->fences[i], event->worker, &job);
        if (!unit)
            continue;
        unit->state = UNIT_FREE;
        released[count++] = event->fences[i];
        if (event->failure.message[0])
            count_failure(core, job, event);
    }
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_jsonw_object(&w);
    write_fences(&w, "released", released, count);
    lb_jsonw_object_end(&w);
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
    lb_core_serve_waiters(core, core->env.now_ms(core->env.arg));
}
