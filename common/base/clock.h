/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_clock - time. Deadlines and durations use the monotonic clock (CLOCK_BOOTTIME, so that a
 * suspended machine does not stretch a lease); wall time is for people (created_at, log lines).
 */
#ifndef LB_COMMON_BASE_CLOCK_H
#define LB_COMMON_BASE_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

int64_t lb_clock_ms(void);               /* monotonic milliseconds */
double lb_clock_seconds(void);           /* monotonic seconds */
int64_t lb_wall_seconds(void);           /* Unix time */
int64_t lb_wall_ms(void);
void lb_sleep_ms(int64_t ms);            /* returns early on a signal */
/* A condition on the monotonic clock, for waits with deadlines. Returns 0 or an errno value. */
int lb_cond_init(pthread_cond_t *condition);
/* Absolute time for pthread_cond_timedwait on a condition made by lb_cond_init. */
struct timespec lb_deadline_timespec(int64_t deadline_ms);

#endif
