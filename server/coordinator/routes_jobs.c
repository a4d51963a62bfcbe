/* SPDX-License-Identifier: Apache-2.0
 *
 * Routes that look at jobs and adapters, and the one that cancels.
 */
#include "server/coordinator/daemon_impl.h"

#include <stdlib.h>

#define PAGE_JOBS 20u
#define PAGE_CHECKPOINTS 10u
#define PAGE_ADAPTERS 20u

static void drop(lb_core_event *event)
{
    lb_core_event_free(event);
    free(event);
}

/* An event about the thing that a path parameter names. */
static void submit_named(void *daemon, lb_request *request, lb_core_event_type type,
                         const char *param, size_t size)
{
    lb_core_event *event = lb_route_event(request, type);
    if (!event)
        return;
    if (lb_route_id(request, lb_request_param(request, param), param, event->id, size))
        lb_route_submit(daemon, request, event);
    else
        drop(event);
}

static void submit_page(void *daemon, lb_request *request, lb_core_event_type type,
                        const char *param, uint32_t page)
{
    lb_core_event *event = lb_route_event(request, type);
    if (!event)
        return;
    if ((!param || lb_route_id(request, lb_request_param(request, param), param, event->id,
                               LB_ID_SIZE)) &&
        lb_route_page(request, event, page))
        lb_route_submit(daemon, request, event);
    else
        drop(event);
}

void lb_route_job_list(void *daemon, lb_request *request)
{
    submit_page(daemon, request, LB_EVENT_JOB_LIST, NULL, PAGE_JOBS);
}

void lb_route_job_get(void *daemon, lb_request *request)
{
    submit_named(daemon, request, LB_EVENT_JOB_GET, "job", LB_ID_SIZE);
}

void lb_route_job_cancel(void *daemon, lb_request *request)
{
    submit_named(daemon, request, LB_EVENT_JOB_CANCEL, "job", LB_ID_SIZE);
}

void lb_route_job_events(void *daemon, lb_request *request)
{
    submit_page(daemon, request, LB_EVENT_JOB_EVENTS, "job", PAGE_JOBS);
}

void lb_route_job_checkpoints(void *daemon, lb_request *request)
{
    submit_page(daemon, request, LB_EVENT_JOB_CHECKPOINTS, "job", PAGE_CHECKPOINTS);
}

void lb_route_run_get(void *daemon, lb_request *request)
{
    submit_named(daemon, request, LB_EVENT_RUN_GET, "job", LB_ID_SIZE);
}

void lb_route_job_metrics(void *daemon, lb_request *request)
{
    uint64_t after = 0, limit = 0, wait = 0;
    lb_core_event *event = lb_route_event(request, LB_EVENT_JOB_METRICS);
    if (!event)
        return;
    if (lb_route_id(request, lb_request_param(request, "job"), "job", event->id, LB_ID_SIZE) &&
        lb_request_u64(request, "after_step", 0, UINT32_MAX, 0, &after) &&
        lb_request_u64(request, "limit", 1, LB_LIMIT_PAGE, LB_LIMIT_PAGE, &limit) &&
        lb_request_u64(request, "wait_ms", 0, LB_LIMIT_WAIT_MS, 0, &wait)) {
        event->after_step = (uint32_t)after;
        event->limit = (uint32_t)limit;
        event->wait_ms = (uint32_t)wait;
        lb_route_submit(daemon, request, event);
        return;
    }
    drop(event);
}

void lb_route_adapter_list(void *daemon, lb_request *request)
{
    const char *job = lb_request_query(request, "job");
    lb_core_event *event = lb_route_event(request, LB_EVENT_ADAPTER_LIST);
    if (!event)
        return;
    if ((!job || lb_route_id(request, job, "job", event->id, LB_ID_SIZE)) &&
        lb_route_page(request, event, PAGE_ADAPTERS))
        lb_route_submit(daemon, request, event);
    else
        drop(event);
}

void lb_route_adapter_get(void *daemon, lb_request *request)
{
    submit_named(daemon, request, LB_EVENT_ADAPTER_GET, "adapter", LB_NAME_SIZE);
}

void lb_route_adapter_model(void *daemon, lb_request *request)
{
    submit_named(daemon, request, LB_EVENT_ADAPTER_MODEL, "adapter", LB_NAME_SIZE);
}

void lb_route_adapter_config(void *daemon, lb_request *request)
{
    submit_named(daemon, request, LB_EVENT_ADAPTER_CONFIG, "adapter", LB_NAME_SIZE);
}
