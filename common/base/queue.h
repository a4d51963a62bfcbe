/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_queue - a bounded queue of pointers between threads. It refuses when full and after close;
 * waits have deadlines on the monotonic clock. Items are borrowed pointers: who pops owns.
 */
#ifndef LB_COMMON_BASE_QUEUE_H
#define LB_COMMON_BASE_QUEUE_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_queue lb_queue;

LB_NODISCARD lb_status lb_queue_create(size_t capacity, lb_queue **out, lb_err *err);
void lb_queue_free(lb_queue *queue);
bool lb_queue_push(lb_queue *queue, void *item);  /* false: full or closed */
/* NULL at the deadline (lb_clock_ms; INT64_MAX: none) or when closed and empty. */
void *lb_queue_pop(lb_queue *queue, int64_t deadline_ms);
size_t lb_queue_length(lb_queue *queue);
void lb_queue_close(lb_queue *queue);             /* wakes all who wait */
bool lb_queue_closed(lb_queue *queue);

#endif
