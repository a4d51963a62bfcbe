/* SPDX-License-Identifier: Apache-2.0
 *
 * The route table, the routes that need no job, and what all handlers share.
 */
#include "server/coordinator/daemon_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void route_alive(void *daemon, lb_request *request)
{
    static const char body[] = "{\"status\":\"ok\"}";
    (void)daemon;
    lb_reply(request, lb_status_http(LB_OK), "application/json", body, strlen(body));
}

static void route_ready(void *daemon, lb_request *request)
{
    lb_coordinator *c = daemon;
    if (atomic_load(&c->draining) || atomic_load(&c->exit_code) != 0)
        lb_reply_fail(request, LB_EUNAVAILABLE, NULL, "the coordinator is stopping");
    else
        route_alive(daemon, request);
}

static void route_metrics(void *daemon, lb_request *request)
{
    lb_core_event *event = lb_route_event(request, LB_EVENT_METRICS);
    if (event)
        lb_route_submit(daemon, request, event);
}

static void write_model(const lb_coordinator *c, const lb_core_model *model, lb_jsonw *w)
{
    const struct { const char *key, *text; } texts[] = {
        {"id", model->name},
        {"object", "model"},
        {"owned_by", "limbeck"},
        {"root", NULL},
        {"parent", NULL},
        {"tokenizer_sha256", model->tokenizer_sha},
    };
    lb_jsonw_object(w);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        lb_jsonw_key(w, texts[i].key);
        lb_jsonw_string(w, texts[i].text);
    }
    lb_jsonw_key(w, "created");
    lb_jsonw_i64(w, c->started_at);
    lb_jsonw_key(w, "max_model_len");
    lb_jsonw_u64(w, model->config.max_positions);
    lb_jsonw_key(w, "vocab");
    lb_jsonw_u64(w, model->config.vocab);
    lb_jsonw_object_end(w);
}

static void route_models(void *daemon, lb_request *request)
{
    lb_coordinator *c = daemon;
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "object");
    lb_jsonw_string(&w, "list");
    lb_jsonw_key(&w, "data");
    lb_jsonw_array(&w);
    for (size_t i = 0; i < c->config.model_count; i++)
        write_model(c, &c->config.models[i], &w);
    lb_jsonw_array_end(&w);
    lb_jsonw_object_end(&w);
    lb_reply_buf(request, lb_status_http(LB_OK), "application/json", &body);
}

#define JOBS "/v1/fine_tuning/jobs"
#define JOB JOBS "/{job}"
#define ADAPTER "/v1/adapters/{adapter}"
#define SMALL LB_LIMIT_JSON_SMALL

const lb_route lb_coordinator_routes[] = {
    {"GET", "/healthz", LB_SCOPE_OPEN, 0, route_alive},
    {"GET", "/livez", LB_SCOPE_OPEN, 0, route_alive},
    {"GET", "/readyz", LB_SCOPE_OPEN, 0, route_ready},
    {"GET", "/metrics", LB_SCOPE_USER, 0, route_metrics},
    {"GET", "/v1/models", LB_SCOPE_USER, 0, route_models},
    {"POST", "/v1/files", LB_SCOPE_USER, LB_LIMIT_FILE_BODY, lb_route_file_add},
    {"GET", "/v1/files", LB_SCOPE_USER, 0, lb_route_file_list},
    {"GET", "/v1/files/{file}", LB_SCOPE_USER, 0, lb_route_file_get},
    {"GET", "/v1/files/{file}/content", LB_SCOPE_USER, 0, lb_route_file_content},
    {"POST", JOBS, LB_SCOPE_USER, SMALL, lb_route_job_create},
    {"GET", JOBS, LB_SCOPE_USER, 0, lb_route_job_list},
    {"GET", JOB, LB_SCOPE_USER, 0, lb_route_job_get},
    {"POST", JOB "/cancel", LB_SCOPE_USER, SMALL, lb_route_job_cancel},
    {"GET", JOB "/events", LB_SCOPE_USER, 0, lb_route_job_events},
    {"GET", JOB "/checkpoints", LB_SCOPE_USER, 0, lb_route_job_checkpoints},
    {"GET", JOB "/metrics", LB_SCOPE_USER, 0, lb_route_job_metrics},
    {"GET", "/v1/adapters", LB_SCOPE_USER, 0, lb_route_adapter_list},
    {"GET", ADAPTER, LB_SCOPE_USER, 0, lb_route_adapter_get},
    {"GET", ADAPTER "/adapter_model.safetensors", LB_SCOPE_USER, 0, lb_route_adapter_model},
    {"GET", ADAPTER "/adapter_config.json", LB_SCOPE_USER, 0, lb_route_adapter_config},
    {"POST", "/v1/leases", LB_SCOPE_USER, SMALL, lb_route_lease},
    {"POST", "/v1/leases/renew", LB_SCOPE_USER, SMALL, lb_route_renew},
    {"POST", "/v1/leases/release", LB_SCOPE_USER, SMALL, lb_route_release},
    {"GET", "/v1/runs/{job}", LB_SCOPE_USER, 0, lb_route_run_get},
    {"POST", "/v1/runs/{job}/handshake", LB_SCOPE_USER, SMALL, lb_route_handshake},
    {"GET", "/v1/blobs/{sha256}", LB_SCOPE_USER, 0, lb_route_blob_get},
    {"PUT", "/v1/runs/{job}/steps/{step}/units/{unit}", LB_SCOPE_USER, LB_LIMIT_GRADIENT_BODY,
     lb_route_push},
};
const size_t lb_coordinator_route_count =
    sizeof lb_coordinator_routes / sizeof *lb_coordinator_routes;

/* ---- what handlers share ---- */

lb_core_event *lb_route_event(lb_request *request, lb_core_event_type type)
{
    lb_core_event *event = calloc(1, sizeof *event);
    if (!event) {
        lb_reply_fail(request, LB_ENOMEM, NULL, "no memory for the request");
        return NULL;
    }
    event->type = type;
    event->ticket = request;
    return event;
}

/* The peer of a suspended request is gone: the owner drops it from its waiters and answers. A full
 * queue leaves it to the wait's own deadline. */
static void on_gone(void *arg, lb_request *request, lb_status why)
{
    lb_coordinator *c = arg;
    lb_core_event *event = calloc(1, sizeof *event);
    (void)why;
    if (!event)
        return;
    event->type = LB_EVENT_ABANDON;
    event->waiter = request;
    if (!lb_queue_push(c->queue, event))
        free(event);
}

void lb_route_submit(lb_coordinator *c, lb_request *request, lb_core_event *event)
{
    lb_http_suspend(request, INT64_MAX, on_gone, c);
    if (lb_queue_push(c->queue, event))
        return;
    lb_core_event_free(event);
    free(event);
    lb_reply_fail(request, LB_EBUSY, NULL, "too many requests are waiting");
}

bool lb_route_is_id(const char *text, size_t max)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    size_t length = text ? strlen(text) : 0;
    return length > 0 && length <= max && strspn(text, allowed) == length;
}

bool lb_route_id(lb_request *request, const char *value, const char *field, char *out, size_t size)
{
    if (!lb_route_is_id(value, size - 1)) {
        lb_reply_fail(request, LB_EINVAL, field, "%s must be 1 to %zu letters, digits or _.-",
                      field, size - 1);
        return false;
    }
    memcpy(out, value, strlen(value) + 1);
    return true;
}

bool lb_route_page(lb_request *request, lb_core_event *event, uint32_t fallback)
{
    uint64_t limit = 0;
    const char *after = lb_request_query(request, "after");
    if (!lb_request_u64(request, "limit", 1, LB_LIMIT_PAGE, fallback, &limit))
        return false;
    event->limit = (uint32_t)limit;
    return !after || lb_route_id(request, after, "after", event->after, sizeof event->after);
}
