/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/limits.h"
#include "server/teacher/teacher_impl.h"

static const lb_route routes[] = {
    {"GET", "/healthz", LB_SCOPE_OPEN, 0, lb_teacher_get_health},
    {"GET", "/health", LB_SCOPE_OPEN, 0, lb_teacher_get_health},
    {"GET", "/livez", LB_SCOPE_OPEN, 0, lb_teacher_get_health},
    {"GET", "/readyz", LB_SCOPE_OPEN, 0, lb_teacher_get_ready},
    {"GET", "/metrics", LB_SCOPE_USER, 0, lb_teacher_get_metrics},
    {"GET", "/v1/models", LB_SCOPE_USER, 0, lb_teacher_get_models},
    {"POST", "/v1/teacher/logprobs", LB_SCOPE_USER, LB_LIMIT_FRAME_BODY,
     lb_teacher_post_logprobs},
    {"POST", "/v1/completions", LB_SCOPE_USER, LB_LIMIT_JSON_BODY, lb_teacher_post_completions},
};

const lb_route *lb_teacher_routes(size_t *count)
{
    *count = sizeof routes / sizeof *routes;
    return routes;
}

void lb_teacher_get_health(void *daemon, lb_request *request)
{
    (void)daemon;
    static const char body[] = "{\"status\":\"ok\"}";
    lb_reply(request, 200, "application/json", body, sizeof body - 1);
}

void lb_teacher_get_ready(void *daemon, lb_request *request)
{
    lb_teacher *teacher = daemon;
    if (atomic_load(&teacher->draining))
        lb_reply_fail(request, LB_EUNAVAILABLE, NULL, "the teacher is shutting down");
    else
        lb_teacher_get_health(daemon, request);
}

void lb_teacher_get_metrics(void *daemon, lb_request *request)
{
    lb_teacher *teacher = daemon;
    lb_buf out = {0};
    lb_http_stats http = lb_http_get_stats(teacher->http);
    lb_teacher_metrics_write(&teacher->metrics, lb_scheduler_queue_tokens(teacher->scheduler),
                             &http, &out);
    lb_reply_buf(request, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}
