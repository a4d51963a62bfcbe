/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_pool - the CPU backend's threads: one parallel loop at a time, in which the caller takes part.
 * A thread begins with a share of consecutive tasks, the same share in every loop of as many, so
 * that it finds in its cache what it had asked for; then it helps the others. Which thread runs a
 * task is therefore a matter of chance, and a task's result may depend on its index alone.
 * Idle threads sleep; they spin only for the moment in which a forward pass starts its next loop.
 */
#ifndef LB_COMMON_TENSOR_CPU_POOL_H
#define LB_COMMON_TENSOR_CPU_POOL_H

#include "common/base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct lb_pool lb_pool;

/* threads 0: what affinity and the cgroup's quota allow. */
LB_NODISCARD lb_status lb_pool_create(uint32_t threads, lb_pool **out, lb_err *err);
/* The CPUs that the quotas of a cgroup pay for, rounded up; 0: there is no quota. mount is
 * where the groups are ("/sys/fs/cgroup"), membership the file that names the process's own
 * ("/proc/self/cgroup"); version 1 and 2. What cannot be read sets no limit. */
uint32_t lb_pool_quota(const char *mount, const char *membership);
void lb_pool_free(lb_pool *pool);
uint32_t lb_pool_threads(const lb_pool *pool);
/* Runs task(arg, index, thread) for index 0 .. count - 1; thread < lb_pool_threads. Returns when
 * all are done. For one caller at a time. */
void lb_pool_run(lb_pool *pool, size_t count, void (*task)(void *arg, size_t index, size_t thread),
                 void *arg);

#endif
