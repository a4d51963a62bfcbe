/* SPDX-License-Identifier: Apache-2.0
 *
 * Handshakes: the first that passes is pinned to the job; one that fails before that ends the job,
 * before its first step; later ones must be about the teacher that was pinned.
 */
#include "server/coordinator/core_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REFUSED "handshake_refused"

static void answer_refusal(lb_core *core, const lb_core_event *event, const core_job *job,
                           const lb_err *why)
{
    char quoted[LB_ERR_MESSAGE_MAX];
    lb_core_note_f(core, LB_LOG_WARN, "handshake_refused", "job=%s field=%s message=%s",
                   job->row.id, why->field,
                   lb_log_quote(quoted, sizeof quoted, why->message));
    lb_core_answer_refusal(core, event->ticket, lb_status_http(LB_ECONFLICT), REFUSED, why->field,
                           why->message);
}

static lb_status read_pinned(const core_job *job, lb_handshake *out, lb_err *err)
{
    lb_json *json = NULL;
    lb_status status = lb_json_parse(job->row.handshake, strlen(job->row.handshake), &json, err);
    if (status == LB_OK)
        status = lb_handshake_parse(json, out, err);
    lb_json_free(json);
    return status;
}

static lb_status pin(lb_core *core, core_job *job, const lb_handshake *found, lb_err *err)
{
    lb_store *store = core->env.store;
    const lb_handshake_probe *p = &found->probe;
    char text[LB_ERR_MESSAGE_MAX];
    lb_buf json = {0};
    lb_jsonw w = {.out = &json};
    lb_handshake_write(found, &w);
    if (json.status != LB_OK) {
        lb_buf_free(&json);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the handshake");
    }
    snprintf(text, sizeof text, "Handshake with teacher %.64s: %llu probe tokens, mean logprob "
             "%.4f (student %.4f), noise: teacher %.3g, sampler %.3g nats", found->teacher.model,
             (unsigned long long)p->tokens, p->teacher_logprob, p->student_logprob,
             p->teacher_noise, p->sampler_noise);
    lb_event_row event = {.created_at = core->env.wall_seconds(core->env.arg), .level = "info",
                          .type = "message", .message = text};
    lb_status status = store->job_handshake(store->impl, job->row.id, (const char *)json.data,
                                            &event, err);
    if (status == LB_OK) {
        free(job->row.handshake);
        job->row.handshake = (char *)lb_buf_take(&json, NULL);
    }
    lb_buf_free(&json);
    return status;
}

/* Whether the job may be worked on with what was found. pinned: NULL before the first. */
static lb_status judge(const core_job *job, const lb_core_event *event,
                       const lb_handshake *pinned, lb_err *why)
{
    if (!event->handshake) {
        *why = event->failure;
        return LB_ECONFLICT;
    }
    lb_status status = lb_handshake_judge(event->handshake, job->config.allow_mismatch, why);
    if (status == LB_OK && pinned)
        status = lb_handshake_compare(pinned, event->handshake, why);
    return status;
}

/* The first is pinned or ends the job; a later one changes nothing. */
static void hold(lb_core *core, core_job *job, const lb_core_event *event)
{
    bool first = !job->row.handshake[0];
    lb_handshake pinned = {0};
    lb_err why = {0}, err = {0};
    lb_status judged = LB_OK, status = first ? LB_OK : read_pinned(job, &pinned, &err);
    if (status == LB_OK)
        judged = judge(job, event, first ? NULL : &pinned, &why);
    if (status == LB_OK && first)
        status = judged == LB_OK
            ? pin(core, job, event->handshake, &err)
            : lb_core_job_end(core, job, LB_JOB_FAILED, REFUSED, why.message, &err);
    if (status != LB_OK) {
        lb_core_storage_failed(core, &err);
        lb_core_answer_err(core, event->ticket, &err);
    } else if (judged != LB_OK) {
        answer_refusal(core, event, job, &why);
    } else {
        lb_buf body = {0};
        lb_jsonw w = {.out = &body};
        lb_core_view_job(core, job, &w);
        lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
    }
}

void lb_core_on_handshake(lb_core *core, lb_core_event *event)
{
    lb_err err = {0};
    core_job *job = lb_core_find_job(core, event->id);
    if (!job || !job->configured)
        (void)lb_fail(&err, LB_ENOTFOUND, "job", "there is no job '%.64s'", event->id);
    else if (!lb_job_state_active(job->row.state))
        (void)lb_fail(&err, LB_EGONE, "job", "job %s is over", job->row.id);
    else if (job->config.method != LB_METHOD_DISTILLATION)
        (void)lb_fail(&err, LB_EINVAL, "job", "job %s has no teacher", job->row.id);
    if (err.status != LB_OK)
        lb_core_answer_err(core, event->ticket, &err);
    else
        hold(core, job, event);
}

bool lb_core_needs_handshake(const core_job *job)
{
    return job->config.method == LB_METHOD_DISTILLATION && !job->row.handshake[0];
}
