/* SPDX-License-Identifier: Apache-2.0
 *
 * Where memory that all threads read lies on a machine with several memory nodes: its pages by
 * turns on each node. The page of a weight would otherwise lie on the node of the thread that
 * packed it, and one node's rate would be the limit of all (decision 0020).
 */
#ifndef LB_COMMON_TENSOR_CPU_NUMA_H
#define LB_COMMON_TENSOR_CPU_NUMA_H

#include <stdbool.h>
#include <stddef.h>

/* The memory nodes that this process may use; 0 where the kernel does not tell, or where a policy
 * was set for the process, as numactl does: that is then left alone. */
unsigned lb_numa_nodes(void);
/* Spreads the whole pages within memory, of which none was touched, over these nodes, if there are
 * `least` or more; whether it did. */
bool lb_numa_spread(void *memory, size_t bytes, unsigned least);

#endif
