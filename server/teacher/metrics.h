/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_teacher_metrics - the counters behind GET /metrics. Thread safe; plain data, no allocation.
 */
#ifndef LB_SERVER_TEACHER_METRICS_H
#define LB_SERVER_TEACHER_METRICS_H

#include "common/base/buf.h"
#include "common/base/status.h"
#include "server/http/http.h"

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#define LB_HISTOGRAM_MAX 16

typedef struct lb_histogram {
    uint64_t buckets[LB_HISTOGRAM_MAX + 1];  /* not cumulative; the last is above all bounds */
    double sum;
} lb_histogram;

typedef struct lb_teacher_metrics {
    pthread_mutex_t lock;
    uint64_t requests[LB_STATUS_COUNT];      /* scoring requests by outcome */
    uint64_t scored_tokens;
    lb_histogram batch_tokens, score_seconds;
    int64_t started;                         /* Unix time */
} lb_teacher_metrics;

void lb_teacher_metrics_init(lb_teacher_metrics *metrics);
void lb_teacher_metrics_destroy(lb_teacher_metrics *metrics);
/* A scoring request was answered, after so many seconds; below 0: it was refused at once, which
 * says nothing about how long scoring takes. */
void lb_teacher_metrics_request(lb_teacher_metrics *metrics, lb_status outcome, double seconds);
void lb_teacher_metrics_batch(lb_teacher_metrics *metrics, uint64_t tokens);
/* Appends Prometheus's text format 0.0.4. */
void lb_teacher_metrics_write(lb_teacher_metrics *metrics, uint64_t queue_tokens,
                              const lb_http_stats *http, lb_buf *out);

#endif
