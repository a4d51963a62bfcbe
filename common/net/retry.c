/* SPDX-License-Identifier: Apache-2.0 */
#include "common/net/retry.h"

#include "common/base/rng.h"

#define DOUBLINGS_MAX 7u

void lb_retry_init(lb_retry *retry, uint64_t seed)
{
    *retry = (lb_retry){.seed = seed, .tokens = LB_RETRY_TOKENS};
}

void lb_retry_call(lb_retry *retry)
{
    retry->tokens += LB_RETRY_REFILL;
    if (retry->tokens > LB_RETRY_TOKENS)
        retry->tokens = LB_RETRY_TOKENS;
}

int64_t lb_retry_wait(lb_retry *retry, uint32_t tries, int64_t retry_after_ms)
{
    if (retry->tokens < 1.0)
        return -1;
    retry->tokens -= 1.0;
    uint32_t doublings = tries < DOUBLINGS_MAX ? tries : DOUBLINGS_MAX;
    int64_t most = (int64_t)LB_RETRY_LEAST_MS << doublings;
    if (most > LB_RETRY_MOST_MS)
        most = LB_RETRY_MOST_MS;
    uint32_t counter[4] = {LB_RNG_JITTER, retry->draws++, 0, 0}, word[4];
    lb_rng_block(retry->seed, counter, word);
    int64_t wait = (int64_t)((float)most * lb_rng_uniform(word[0]));
    int64_t least = retry_after_ms > LB_RETRY_LEAST_MS ? retry_after_ms : LB_RETRY_LEAST_MS;
    return wait < least ? least : wait;
}
