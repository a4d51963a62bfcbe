/* SPDX-License-Identifier: Apache-2.0 */
#include "server/teacher/metrics.h"

#include "common/base/clock.h"
#include "common/base/process.h"

#include <stdio.h>
#include <string.h>

#define PREFIX "limbeck_teacher_"
#define HTTP_CODE_MAX 600

/* Ends of the buckets; 0 ends the list. */
static const double token_bounds[LB_HISTOGRAM_MAX] = {16, 64, 128, 256, 512, 1024, 2048, 4096,
                                                      8192, 16384, 32768};
static const double second_bounds[LB_HISTOGRAM_MAX] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                       1, 2.5, 5, 10, 30, 60, 120};

static void observe(lb_histogram *histogram, const double *bounds, double value)
{
    size_t bucket = 0;
    while (bucket < LB_HISTOGRAM_MAX && bounds[bucket] > 0 && value > bounds[bucket])
        bucket++;
    if (bucket < LB_HISTOGRAM_MAX && bounds[bucket] <= 0)
        bucket = LB_HISTOGRAM_MAX;
    histogram->buckets[bucket]++;
    histogram->sum += value;
}

void lb_teacher_metrics_init(lb_teacher_metrics *metrics)
{
    memset(metrics, 0, sizeof *metrics);
    pthread_mutex_init(&metrics->lock, NULL);
    metrics->started = lb_wall_seconds();
}

void lb_teacher_metrics_destroy(lb_teacher_metrics *metrics)
{
    pthread_mutex_destroy(&metrics->lock);
}

void lb_teacher_metrics_request(lb_teacher_metrics *metrics, lb_status outcome, double seconds)
{
    pthread_mutex_lock(&metrics->lock);
    metrics->requests[outcome]++;
    if (seconds >= 0)
        observe(&metrics->score_seconds, second_bounds, seconds);
    pthread_mutex_unlock(&metrics->lock);
}

void lb_teacher_metrics_batch(lb_teacher_metrics *metrics, uint64_t tokens)
{
    pthread_mutex_lock(&metrics->lock);
    metrics->scored_tokens += tokens;
    observe(&metrics->batch_tokens, token_bounds, (double)tokens);
    pthread_mutex_unlock(&metrics->lock);
}

static void write_histogram(lb_buf *out, const char *name, const char *help,
                            const lb_histogram *histogram, const double *bounds)
{
    char sample[96], label[48];
    uint64_t count = 0;
    lb_prometheus_header(out, name, "histogram", help);
    snprintf(sample, sizeof sample, "%s_bucket", name);
    for (size_t i = 0; i < LB_HISTOGRAM_MAX && bounds[i] > 0; i++) {
        count += histogram->buckets[i];
        snprintf(label, sizeof label, "le=\"%g\"", bounds[i]);
        lb_prometheus_sample(out, sample, label, (double)count);
    }
    count += histogram->buckets[LB_HISTOGRAM_MAX];
    lb_prometheus_sample(out, sample, "le=\"+Inf\"", (double)count);
    snprintf(sample, sizeof sample, "%s_sum", name);
    lb_prometheus_sample(out, sample, NULL, histogram->sum);
    snprintf(sample, sizeof sample, "%s_count", name);
    lb_prometheus_sample(out, sample, NULL, (double)count);
}

/* Several statuses share an HTTP code; Prometheus takes each label value once. */
static void write_requests(lb_buf *out, const lb_teacher_metrics *metrics)
{
    char label[32];
    const char *name = PREFIX "score_requests_total";
    lb_prometheus_header(out, name, "counter", "Scoring requests answered, by HTTP code.");
    for (int code = 0; code < HTTP_CODE_MAX; code++) {
        uint64_t count = 0;
        for (int s = 0; s < LB_STATUS_COUNT; s++)
            count += lb_status_http((lb_status)s) == code ? metrics->requests[s] : 0;
        snprintf(label, sizeof label, "code=\"%d\"", code);
        if (count > 0 || code == lb_status_http(LB_OK))
            lb_prometheus_sample(out, name, label, (double)count);
    }
}

static void write_one(lb_buf *out, const char *name, const char *type, const char *help,
                      double value)
{
    lb_prometheus_header(out, name, type, help);
    lb_prometheus_sample(out, name, NULL, value);
}

void lb_teacher_metrics_write(lb_teacher_metrics *metrics, uint64_t queue_tokens,
                              const lb_http_stats *http, lb_buf *out)
{
    pthread_mutex_lock(&metrics->lock);
    lb_teacher_metrics copy = *metrics;
    pthread_mutex_unlock(&metrics->lock);
    write_requests(out, &copy);
    write_one(out, PREFIX "scored_tokens_total", "counter", "Tokens that went through the model.",
              (double)copy.scored_tokens);
    write_one(out, PREFIX "queue_tokens", "gauge", "Tokens of requests that are not answered.",
              (double)queue_tokens);
    write_histogram(out, PREFIX "batch_tokens", "Tokens of one batch.", &copy.batch_tokens,
                    token_bounds);
    write_histogram(out, PREFIX "score_seconds", "Seconds from a request to its answer.",
                    &copy.score_seconds, second_bounds);
    write_one(out, PREFIX "http_connections", "gauge", "Open connections.",
              (double)http->connections_open);
    write_one(out, PREFIX "http_suspended", "gauge", "Requests that wait for the model.",
              (double)http->suspended);
    write_one(out, PREFIX "http_requests_total", "counter", "HTTP requests of all routes.",
              (double)http->requests);
    lb_prometheus_header(out, "limbeck_build_info", "gauge", "The version that runs; always 1.");
    lb_prometheus_sample(out, "limbeck_build_info", "version=\"" LB_VERSION "\"", 1);
    write_one(out, "process_resident_memory_bytes", "gauge", "Resident memory.",
              lb_resident_bytes());
    write_one(out, "process_start_time_seconds", "gauge", "Unix time of the start.",
              (double)copy.started);
}
