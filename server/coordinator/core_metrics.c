/* SPDX-License-Identifier: Apache-2.0
 *
 * The core's part of /metrics, in the Prometheus text format. Labels are job ids of active jobs
 * only, so their number is bounded.
 */
#include "server/coordinator/core_impl.h"

#include <string.h>

#define PROMETHEUS_TYPE "text/plain; version=0.0.4; charset=utf-8"

static void header(lb_buf *out, const char *name, const char *type, const char *help)
{
    lb_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void job_gauges(const lb_core *core, lb_buf *out)
{
    header(out, "limbeck_job_step", "gauge", "Committed steps of an active job.");
    for (size_t i = 0; i < core->job_count; i++) {
        const lb_job_row *row = &core->jobs[i]->row;
        if (lb_job_state_active(row->state))
            lb_buf_printf(out, "limbeck_job_step{job=\"%s\"} %u\n", row->id, row->head);
    }
    header(out, "limbeck_job_tokens_total", "counter", "Tokens trained on by an active job.");
    for (size_t i = 0; i < core->job_count; i++) {
        const lb_job_row *row = &core->jobs[i]->row;
        if (lb_job_state_active(row->state))
            lb_buf_printf(out, "limbeck_job_tokens_total{job=\"%s\"} %llu\n", row->id,
                          (unsigned long long)row->tokens_total);
    }
    header(out, "limbeck_job_teacher_kl", "gauge",
           "Mean reverse KL to the teacher in the newest step, nats per token.");
    for (size_t i = 0; i < core->job_count; i++) {
        const core_job *job = core->jobs[i];
        lb_json *json = NULL;
        if (!lb_job_state_active(job->row.state) || !job->metrics ||
            lb_json_parse(job->metrics, strlen(job->metrics), &json, NULL) != LB_OK)
            continue;
        const lb_json *kl = lb_json_get(json, "teacher_kl");
        if (lb_json_is_number(kl))
            lb_buf_printf(out, "limbeck_job_teacher_kl{job=\"%s\"} %.9g\n", job->row.id,
                          lb_json_number(kl));
        lb_json_free(json);
    }
}

static void job_states(const lb_core *core, lb_buf *out)
{
    size_t counts[LB_JOB_STATE_COUNT] = {0};
    for (size_t i = 0; i < core->job_count; i++)
        counts[core->jobs[i]->row.state]++;
    header(out, "limbeck_jobs", "gauge", "Jobs by state.");
    for (int s = 0; s < LB_JOB_STATE_COUNT; s++)
        lb_buf_printf(out, "limbeck_jobs{state=\"%s\"} %zu\n", lb_job_state_name((lb_job_state)s),
                      counts[s]);
}

void lb_core_view_prometheus(const lb_core *core, lb_buf *out)
{
    static const char *const results[COUNT_COUNT] = {
        [COUNT_STORED] = "stored",     [COUNT_DUPLICATE] = "duplicate",
        [COUNT_CONFLICT] = "conflict", [COUNT_CLASS] = "class_mismatch",
        [COUNT_GONE] = "gone",         [COUNT_INVALID] = "invalid",
        [COUNT_EXPIRED] = "expired",   [COUNT_DAMAGED] = "damaged",
    };
    header(out, "limbeck_build_info", "gauge", "Version of the program.");
    lb_buf_puts(out, "limbeck_build_info{version=\"" LB_VERSION "\"} 1\n");
    job_gauges(core, out);
    job_states(core, out);
    header(out, "limbeck_units_total", "counter", "Units by what became of them.");
    for (int i = 0; i < COUNT_COUNT; i++)
        lb_buf_printf(out, "limbeck_units_total{result=\"%s\"} %llu\n", results[i],
                      (unsigned long long)core->counters[i]);
    header(out, "limbeck_leases_active", "gauge", "Units that a worker is computing.");
    lb_buf_printf(out, "limbeck_leases_active %zu\n", lb_core_leases_active(core));
    header(out, "limbeck_workers_active", "gauge", "Workers seen within the last lease time.");
    lb_buf_printf(out, "limbeck_workers_active %zu\n", lb_core_workers_active(core, NULL));
    header(out, "limbeck_long_polls", "gauge", "Requests that wait for a lease or for metrics.");
    lb_buf_printf(out, "limbeck_long_polls %zu\n", core->waiter_count);
}

void lb_core_on_metrics(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_core_view_prometheus(core, &body);
    size_t before = core->actions->count;
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
    if (core->actions->count > before)
        core->actions->items[before].content_type = PROMETHEUS_TYPE;
}
