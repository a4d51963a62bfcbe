/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/clock.h"

#define NS_PER_MS 1000000
#define MS_PER_S 1000

static struct timespec now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t;
}

static int64_t milliseconds(struct timespec t)
{
    return (int64_t)t.tv_sec * MS_PER_S + t.tv_nsec / NS_PER_MS;
}

int64_t lb_clock_ms(void)
{
    return milliseconds(now(CLOCK_BOOTTIME));
}

double lb_clock_seconds(void)
{
    struct timespec t = now(CLOCK_BOOTTIME);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t lb_wall_seconds(void)
{
    return (int64_t)now(CLOCK_REALTIME).tv_sec;
}

int64_t lb_wall_ms(void)
{
    return milliseconds(now(CLOCK_REALTIME));
}

void lb_sleep_ms(int64_t ms)
{
    if (ms <= 0)
        return;
    struct timespec t = {.tv_sec = ms / MS_PER_S, .tv_nsec = ms % MS_PER_S * NS_PER_MS};
    nanosleep(&t, NULL);
}

int lb_cond_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    int failed = pthread_condattr_init(&attributes);
    if (failed)
        return failed;
    failed = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (!failed)
        failed = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return failed;
}

struct timespec lb_deadline_timespec(int64_t deadline_ms)
{
    /* Conditions know CLOCK_MONOTONIC but not CLOCK_BOOTTIME: what is left is carried over. */
    int64_t present = lb_clock_ms();
    struct timespec t = now(CLOCK_MONOTONIC);
    if (deadline_ms <= present)
        return t;
    int64_t left = deadline_ms - present;
    t.tv_sec += left / MS_PER_S;
    t.tv_nsec += left % MS_PER_S * NS_PER_MS;
    if (t.tv_nsec >= NS_PER_MS * MS_PER_S) {
        t.tv_sec++;
        t.tv_nsec -= NS_PER_MS * MS_PER_S;
    }
    return t;
}
