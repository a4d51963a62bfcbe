/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_retry - when to try again: full jitter over a doubling bound, and a budget of tokens, so that
 * an outage makes a client ask less, not more.
 * Source: Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015).
 */
#ifndef LB_COMMON_NET_RETRY_H
#define LB_COMMON_NET_RETRY_H

#include <stdint.h>

typedef struct lb_retry {
    uint64_t seed;
    uint32_t draws;
    double tokens;       /* a retry takes 1; a call gives LB_RETRY_REFILL back */
} lb_retry;

#define LB_RETRY_TOKENS 10.0
#define LB_RETRY_REFILL 0.1
#define LB_RETRY_LEAST_MS 100
#define LB_RETRY_MOST_MS 10000

void lb_retry_init(lb_retry *retry, uint64_t seed);
void lb_retry_call(lb_retry *retry);
/* Milliseconds to wait before try tries + 1, -1 when the budget is spent. retry_after_ms: what the
 * server asked for (at least that long), or -1. */
int64_t lb_retry_wait(lb_retry *retry, uint32_t tries, int64_t retry_after_ms);

#endif
