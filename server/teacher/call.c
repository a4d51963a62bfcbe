/* SPDX-License-Identifier: Apache-2.0
 *
 * One scoring request: its deadline, its results' memory, its way through the scheduler.
 */
#include "server/teacher/teacher_impl.h"

#include "common/base/clock.h"
#include "common/base/log.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIMEOUT_MS_MAX 86400000u  /* a day; a longer X-Timeout-Ms is cut to it */

void lb_teacher_reject(lb_teacher *teacher, lb_request *request, const lb_err *err)
{
    char seconds[16];
    if (lb_status_http(err->status) == 429 || lb_status_http(err->status) == 503) {
        snprintf(seconds, sizeof seconds, "%u", lb_scheduler_retry_after(teacher->scheduler));
        lb_reply_header(request, "Retry-After", seconds);
    }
    lb_teacher_metrics_request(&teacher->metrics, err->status, -1);
    lb_reply_err(request, err);
}

void *lb_call_create(size_t size, lb_teacher *teacher, lb_request *request, size_t requests)
{
    lb_call *call = calloc(1, size);
    if (!call)
        return NULL;
    call->teacher = teacher;
    call->request = request;
    call->received = lb_clock_seconds();
    call->job.deadline_ms = INT64_MAX;
    call->job.request_count = requests;
    call->job.requests = calloc(requests ? requests : 1, sizeof *call->job.requests);
    call->capacities = calloc(requests ? requests : 1, sizeof *call->capacities);
    if (!call->job.requests || !call->capacities) {
        lb_call_free(call);
        return NULL;
    }
    return call;
}

/* Reads the X-Timeout-Ms header into *ms; 0 without one. */
static lb_status header_timeout(const lb_request *request, uint32_t *ms, lb_err *err)
{
    const char *text = lb_request_header(request, "X-Timeout-Ms");
    *ms = 0;
    if (!text)
        return LB_OK;
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value == 0)
        return lb_fail(err, LB_EINVAL, "X-Timeout-Ms", "is not a positive number of milliseconds");
    *ms = value < TIMEOUT_MS_MAX ? (uint32_t)value : TIMEOUT_MS_MAX;
    return LB_OK;
}

lb_status lb_call_deadline(lb_call *call, uint32_t deadline_ms, lb_err *err)
{
    uint32_t header = 0;
    lb_status status = header_timeout(call->request, &header, err);
    if (status != LB_OK)
        return status;
    uint32_t ms = header == 0 || (deadline_ms > 0 && deadline_ms < header) ? deadline_ms : header;
    call->job.deadline_ms = ms > 0 ? lb_clock_ms() + ms : INT64_MAX;
    return LB_OK;
}

bool lb_teacher_serves(lb_teacher *teacher, lb_request *request, const lb_json *body)
{
    const lb_json *model = lb_json_get(body, "model");
    if (!model || lb_json_is_null(model))
        return true;
    lb_err err = {0};
    if (!lb_json_is_string(model)) {
        lb_fail(&err, LB_EINVAL, "model", "must be a string");
        lb_teacher_reject(teacher, request, &err);
        return false;
    }
    if (strcmp(lb_json_string(model), teacher->name) == 0)
        return true;
    lb_fail(&err, LB_ENOTFOUND, "model",
            "there is no model '%.100s' here; this teacher is '%.100s'", lb_json_string(model),
            teacher->name);
    lb_buf out = {0};
    lb_jsonw w = {.out = &out};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "error");
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "message");
    lb_jsonw_string(&w, err.message);
    lb_jsonw_key(&w, "type");
    lb_jsonw_string(&w, lb_status_name(err.status));
    lb_jsonw_key(&w, "param");
    lb_jsonw_string(&w, err.field);
    lb_jsonw_key(&w, "code");
    lb_jsonw_string(&w, "model_not_found");
    lb_jsonw_object_end(&w);
    lb_jsonw_object_end(&w);
    lb_teacher_metrics_request(&teacher->metrics, err.status, -1);
    lb_reply_buf(request, lb_status_http(err.status), "application/json", &out);
    return false;
}

lb_status lb_teacher_check_tokens(const lb_teacher *teacher, const uint32_t *tokens, size_t count,
                                  const char *field, lb_err *err)
{
    const lb_model_config *config = teacher->model_config;
    if (count == 0)
        return lb_fail(err, LB_EINVAL, field, "has no tokens");
    if (count > config->max_positions)
        return lb_fail(err, LB_EINVAL, field, "has %zu tokens; the model takes at most %u", count,
                       config->max_positions);
    for (size_t t = 0; t < count; t++) {
        if (tokens[t] >= config->vocab)
            return lb_fail(err, LB_EINVAL, field,
                           "token %u at position %zu is not below the vocabulary's %u", tokens[t],
                           t, config->vocab);
    }
    return LB_OK;
}

lb_status lb_teacher_parse_ids(const lb_json *array, const char *field, uint32_t *out,
                               lb_err *err)
{
    size_t count = lb_json_array_size(array);
    for (size_t t = 0; t < count; t++) {
        const lb_json *node = lb_json_at(array, t);
        int64_t id = lb_json_is_integer(node) ? lb_json_integer(node) : -1;
        if (id < 0 || id > UINT32_MAX)
            return lb_fail(err, LB_EINVAL, field, "entry %zu is not a token id", t);
        out[t] = (uint32_t)id;
    }
    return LB_OK;
}

lb_status lb_call_reserve(lb_call *call, const lb_call_results *results, lb_err *err)
{
    const size_t words_max = LB_TEACHER_RESULT_BYTES / sizeof(float);
    size_t width = 1 + (size_t)results->rank + (size_t)results->entropy + 2 * (size_t)call->k;
    size_t words = 0;
    for (size_t i = 0; i < call->job.request_count; i++) {
        size_t rows = call->capacities[i];
        if (rows > (words_max - words) / width)
            return lb_fail(err, LB_ETOOBIG, call->k > 0 ? call->k_field : NULL,
                           "the results would take more than %zu MiB; send fewer tokens at once",
                           LB_TEACHER_RESULT_BYTES >> 20);
        words += rows * width;
    }
    call->results = calloc(words ? words : 1, sizeof(float));
    if (!call->results)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the results");
    call->job.bytes = words * sizeof(float);
    float *at = call->results;
    for (size_t i = 0; i < call->job.request_count; i++) {
        lb_score_request *r = &call->job.requests[i];
        size_t rows = call->capacities[i];
        r->k = call->k;
        r->logprob = at;
        at += rows;
        if (results->rank)
            r->rank = (uint32_t *)(void *)at, at += rows;
        if (results->entropy)
            r->entropy = at, at += rows;
        if (call->k > 0) {
            r->top_id = (uint32_t *)(void *)at;
            r->top_logprob = at + rows * call->k;
            at += 2 * rows * call->k;
        }
    }
    return LB_OK;
}

/* The harness's watcher: the deadline passed or the peer is gone. */
static void cancelled(void *arg, lb_request *request, lb_status why)
{
    lb_teacher *teacher = arg;
    lb_scheduler_cancel(teacher->scheduler, request, why);
}

void lb_call_submit(lb_call *call)
{
    lb_teacher *teacher = call->teacher;
    lb_err err = {0};
    call->job.key = call->request;
    /* Suspended first: once it is submitted, the answer may come before this returns. */
    lb_http_suspend(call->request, call->job.deadline_ms, cancelled, teacher);
    if (lb_scheduler_submit(teacher->scheduler, &call->job, &err) == LB_OK)
        return;
    lb_teacher_reject(teacher, call->request, &err);
    call->job.release(&call->job);
}

/* The scorer refuses such values itself; a reply that holds one must not leave in any case. */
static lb_status check_logprobs(const lb_job *job, lb_err *err)
{
    for (size_t i = 0; i < job->request_count; i++) {
        const lb_score_request *r = &job->requests[i];
        for (uint32_t t = r->start; t < r->sequence.count; t++) {
            if (isnan(r->logprob[t]))
                return lb_fail(err, LB_ENUMERIC, "logprobs",
                               "the logprob of sequence %zu at position %u is not a number", i, t);
        }
    }
    return LB_OK;
}

bool lb_call_succeeded(lb_call *call)
{
    lb_job *job = &call->job;
    lb_err err = job->err;
    if (err.status == LB_OK && check_logprobs(job, &err) == LB_OK)
        return true;
    bool expected = err.status == LB_ETIMEOUT || err.status == LB_EUNAVAILABLE;
    if (lb_status_http(err.status) >= 500 && !expected)
        lb_log_err(LB_LOG_ERROR, "score_failed", &err);
    lb_teacher_reject(call->teacher, call->request, &err);
    call->request = NULL;
    return false;
}

void lb_call_reply(lb_call *call, const char *content_type, lb_buf *body)
{
    lb_status outcome = body->status;
    lb_teacher_metrics_request(&call->teacher->metrics, outcome,
                               lb_clock_seconds() - call->received);
    lb_log(LB_LOG_DEBUG, "score_done", "tokens=%llu queue_ms=%.0f compute_ms=%.0f",
           (unsigned long long)call->job.tokens, 1e3 * call->job.queue_seconds,
           1e3 * call->job.compute_seconds);
    lb_reply_buf(call->request, lb_status_http(LB_OK), content_type, body);
    call->request = NULL;
}

void lb_call_free(lb_call *call)
{
    free(call->tokens);
    free(call->results);
    free(call->capacities);
    free(call->job.requests);
    free(call);
}
