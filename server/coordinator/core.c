/* SPDX-License-Identifier: Apache-2.0 */
#include "server/coordinator/core.h"

#include "server/coordinator/core_impl.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACTIONS_SPARE 8u

/* ---- actions ---- */

lb_status lb_core_actions_create(lb_core_actions *out, lb_err *err)
{
    lb_core_actions actions = {.capacity = LB_CORE_WAITERS_MAX + ACTIONS_SPARE};
    actions.items = calloc(actions.capacity, sizeof *actions.items);
    if (!actions.items)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the actions of a step");
    *out = actions;
    return LB_OK;
}

void lb_core_actions_clear(lb_core_actions *actions)
{
    for (size_t i = 0; i < actions->count; i++)
        lb_buf_free(&actions->items[i].body);
    actions->count = 0;
    actions->note_count = 0;
    actions->exit_code = 0;
}

void lb_core_actions_free(lb_core_actions *actions)
{
    if (!actions || !actions->items)
        return;
    lb_core_actions_clear(actions);
    free(actions->items);
    actions->items = NULL;
}

void lb_core_event_free(lb_core_event *event)
{
    if (!event)
        return;
    lb_job_row_free(&event->job);
    free(event->handshake);
    event->handshake = NULL;
}

lb_core_action *lb_core_answer(lb_core *core, void *ticket)
{
    if (!ticket)
        return NULL;
    assert(core->actions->count < core->actions->capacity);
    lb_core_action *action = &core->actions->items[core->actions->count++];
    *action = (lb_core_action){.ticket = ticket, .content_type = "application/json"};
    return action;
}

void lb_core_answer_json(lb_core *core, void *ticket, int code, lb_buf *body)
{
    lb_core_action *action = lb_core_answer(core, ticket);
    if (!action) {
        lb_buf_free(body);
        return;
    }
    action->code = code;
    action->body = *body;
    *body = (lb_buf){0};
    if (action->body.status != LB_OK) {
        action->code = 0;
        (void)lb_fail(&action->err, action->body.status, NULL, "the reply could not be built");
    }
}

void lb_core_answer_err(lb_core *core, void *ticket, const lb_err *err)
{
    lb_core_action *action = lb_core_answer(core, ticket);
    if (action)
        action->err = *err;
}

void lb_core_answer_refusal(lb_core *core, void *ticket, int http, const char *code,
                            const char *param, const char *message)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "error");
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "message");
    lb_jsonw_string(&w, message);
    lb_jsonw_key(&w, "type");
    lb_jsonw_string(&w, lb_status_name(lb_status_from_http(http)));
    lb_jsonw_key(&w, "param");
    lb_jsonw_string(&w, param);
    lb_jsonw_key(&w, "code");
    lb_jsonw_string(&w, code);
    lb_jsonw_object_end(&w);
    lb_jsonw_object_end(&w);
    size_t before = core->actions->count;
    lb_core_answer_json(core, ticket, http, &body);
    if (core->actions->count > before)
        core->actions->items[before].no_retry = true;
}

void lb_core_answer_blob(lb_core *core, void *ticket, const char *sha, const char *content_type)
{
    lb_core_action *action = lb_core_answer(core, ticket);
    if (!action)
        return;
    action->code = lb_status_http(LB_OK);
    action->content_type = content_type;
    snprintf(action->blob, sizeof action->blob, "%s", sha);
}

void lb_core_note_f(lb_core *core, lb_log_level level, const char *event, const char *format, ...)
{
    lb_core_actions *actions = core->actions;
    if (!actions || actions->note_count == LB_CORE_NOTES_MAX)
        return;
    lb_core_note *note = &actions->notes[actions->note_count++];
    note->level = level;
    note->event = event;
    va_list args;
    va_start(args, format);
    vsnprintf(note->text, sizeof note->text, format, args);
    va_end(args);
}

void lb_core_storage_failed(lb_core *core, const lb_err *err)
{
    int code = err->status == LB_EIO ? LB_EXIT_STORAGE
                                     : err->status == LB_EGONE ? LB_EXIT_EPOCH : 0;
    char quoted[LB_ERR_MESSAGE_MAX];
    if (code == 0 && err->status != LB_ENOSPACE)
        return;
    lb_core_note_f(core, code ? LB_LOG_ERROR : LB_LOG_WARN, "storage_failed", "error=%s message=%s",
                   lb_status_name(err->status), lb_log_quote(quoted, sizeof quoted, err->message));
    if (core->actions && core->actions->exit_code == 0)
        core->actions->exit_code = code;
}

/* ---- small look-ups ---- */

core_job *lb_core_find_job(const lb_core *core, const char *id)
{
    for (size_t i = core->job_count; i-- > 0;) {
        if (strcmp(core->jobs[i]->row.id, id) == 0)
            return core->jobs[i];
    }
    return NULL;
}

/* Two jobs can have the same blob (the same seed gives the same gradients), so a file goes only
 * when no row needs it. */
void lb_core_drop_if_unneeded(lb_core *core, const char *sha)
{
    if (sha[0] && !core->env.store->needs_blob(core->env.store->impl, sha))
        core->env.blob_drop(core->env.arg, sha);
}

/* ---- waiters ---- */

bool lb_core_add_waiter(lb_core *core, const core_waiter *waiter)
{
    if (core->draining || core->waiter_count == LB_CORE_WAITERS_MAX)
        return false;
    core->waiters[core->waiter_count++] = *waiter;
    return true;
}

static void answer_empty(lb_core *core, const core_waiter *waiter)
{
    const core_job *job = waiter->metrics ? lb_core_find_job(core, waiter->who) : NULL;
    if (job) {
        lb_core_view_metrics_reply(core, waiter->ticket, job, waiter->after_step, waiter->limit);
        return;
    }
    lb_buf none = {0};
    lb_core_answer_json(core, waiter->ticket, 204, &none);
}

/* Answers the waiters that `due` picks, keeping the order of the others. */
static void release_waiters(lb_core *core, bool (*due)(const core_waiter *waiter, const void *arg),
                            const void *arg)
{
    size_t kept = 0;
    for (size_t i = 0; i < core->waiter_count; i++) {
        core_waiter waiter = core->waiters[i];
        if (due(&waiter, arg))
            answer_empty(core, &waiter);
        else
            core->waiters[kept++] = waiter;
    }
    core->waiter_count = kept;
}

static bool past_deadline(const core_waiter *waiter, const void *arg)
{
    return waiter->deadline_ms <= *(const int64_t *)arg;
}

static bool any_waiter(const core_waiter *waiter, const void *arg)
{
    (void)waiter;
    (void)arg;
    return true;
}

static bool has_ticket(const core_waiter *waiter, const void *arg)
{
    return waiter->ticket == arg;
}

static bool watches_job(const core_waiter *waiter, const void *arg)
{
    const core_job *job = arg;
    return waiter->metrics && strcmp(waiter->who, job->row.id) == 0;
}

void lb_core_wake_metrics(lb_core *core, const core_job *job)
{
    release_waiters(core, watches_job, job);
}

/* ---- events without a file of their own ---- */

static void on_tick(lb_core *core, lb_core_event *event)
{
    (void)event;
    int64_t now = core->env.now_ms(core->env.arg);
    lb_core_expire_leases(core, now);
    lb_core_commit_due(core, now);
    lb_core_serve_waiters(core, now);
    release_waiters(core, past_deadline, &now);
}

static void on_drain(lb_core *core, lb_core_event *event)
{
    (void)event;
    core->draining = true;
    release_waiters(core, any_waiter, NULL);
}

static void on_abandon(lb_core *core, lb_core_event *event)
{
    if (event->waiter)
        release_waiters(core, has_ticket, event->waiter);
}

static void (*const handlers[LB_EVENT_TYPE_COUNT])(lb_core *core, lb_core_event *event) = {
    [LB_EVENT_TICK] = on_tick,
    [LB_EVENT_DRAIN] = on_drain,
    [LB_EVENT_ABANDON] = on_abandon,
    [LB_EVENT_FILE_ADD] = lb_core_on_file_add,
    [LB_EVENT_FILE_LIST] = lb_core_on_file_list,
    [LB_EVENT_FILE_GET] = lb_core_on_file_get,
    [LB_EVENT_JOB_CREATE] = lb_core_on_job_create,
    [LB_EVENT_JOB_LIST] = lb_core_on_job_list,
    [LB_EVENT_JOB_GET] = lb_core_on_job_get,
    [LB_EVENT_JOB_CANCEL] = lb_core_on_job_cancel,
    [LB_EVENT_JOB_EVENTS] = lb_core_on_job_events,
    [LB_EVENT_JOB_CHECKPOINTS] = lb_core_on_job_checkpoints,
    [LB_EVENT_JOB_METRICS] = lb_core_on_job_metrics,
    [LB_EVENT_RUN_GET] = lb_core_on_run_get,
    [LB_EVENT_HANDSHAKE] = lb_core_on_handshake,
    [LB_EVENT_ADAPTER_LIST] = lb_core_on_adapter_list,
    [LB_EVENT_ADAPTER_GET] = lb_core_on_adapter,
    [LB_EVENT_ADAPTER_MODEL] = lb_core_on_adapter,
    [LB_EVENT_ADAPTER_CONFIG] = lb_core_on_adapter,
    [LB_EVENT_LEASE] = lb_core_on_lease,
    [LB_EVENT_RENEW] = lb_core_on_renew,
    [LB_EVENT_RELEASE] = lb_core_on_release,
    [LB_EVENT_PUSH] = lb_core_on_push,
    [LB_EVENT_METRICS] = lb_core_on_metrics,
};

void lb_core_step(lb_core *core, lb_core_event *event, lb_core_actions *actions)
{
    assert(event->type >= 0 && event->type < LB_EVENT_TYPE_COUNT);
    lb_core_actions_clear(actions);
    core->actions = actions;
    handlers[event->type](core, event);
    core->actions = NULL;
}

int64_t lb_core_next_ms(const lb_core *core)
{
    int64_t next = LB_CORE_NEVER;
    for (size_t i = 0; i < core->waiter_count; i++) {
        if (core->waiters[i].deadline_ms < next)
            next = core->waiters[i].deadline_ms;
    }
    for (size_t i = 0; i < core->job_count; i++) {
        const core_job *job = core->jobs[i];
        if (!job->live)
            continue;
        if (job->commit_ms < next)
            next = job->commit_ms;
        for (uint32_t u = 0; u < job->config.units_per_step; u++) {
            if (job->units[u].state == UNIT_LEASED && job->units[u].expires_ms < next)
                next = job->units[u].expires_ms;
        }
    }
    return next;
}

void lb_core_each_file(const lb_core *core, void (*visit)(void *arg, const lb_file_row *row),
                       void *arg)
{
    for (size_t i = 0; i < core->file_count; i++)
        visit(arg, &core->files[i]);
}

lb_status lb_core_create(const lb_env *env, const lb_core_config *config,
                         lb_core_actions *actions, lb_core **out, lb_err *err)
{
    lb_status status = LB_ENOMEM;
    lb_core *core = calloc(1, sizeof *core);
    if (core) {
        core->env = *env;
        core->config = *config;
        core->waiters = calloc(LB_CORE_WAITERS_MAX, sizeof *core->waiters);
        core->workers = calloc(LB_CORE_WORKERS_MAX, sizeof *core->workers);
    }
    if (!core || !core->waiters || !core->workers) {
        lb_core_free(core);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the coordinator");
    }
    lb_core_actions_clear(actions);
    core->actions = actions;
    status = lb_core_load(core, err);
    core->actions = NULL;
    if (status == LB_OK)
        *out = core;
    else
        lb_core_free(core);
    return status;
}

void lb_core_free(lb_core *core)
{
    if (!core)
        return;
    for (size_t i = 0; i < core->job_count; i++)
        lb_core_job_free(core->jobs[i]);
    free(core->jobs);
    free(core->files);
    free(core->waiters);
    free(core->workers);
    free(core);
}
