/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/cpu/numa.h"

#include <linux/mempolicy.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NODES_MAX 1024u                  /* the kernel's own limit */
#define WORD_BITS (8 * sizeof(unsigned long))

typedef struct node_set {
    unsigned long word[NODES_MAX / WORD_BITS];
} node_set;

/* False where the process has a policy of its own, or the kernel or a container forbids to ask. */
static bool allowed_nodes(node_set *out)
{
    int policy = -1;
    if (syscall(SYS_get_mempolicy, &policy, NULL, 0ul, NULL, 0ul) != 0 || policy != MPOL_DEFAULT)
        return false;
    *out = (node_set){{0}};
    return syscall(SYS_get_mempolicy, NULL, out->word, (unsigned long)NODES_MAX, NULL,
                   (unsigned long)MPOL_F_MEMS_ALLOWED) == 0;
}

static unsigned count(const node_set *set)
{
    unsigned nodes = 0;
    for (size_t i = 0; i < NODES_MAX / WORD_BITS; i++)
        nodes += (unsigned)__builtin_popcountl(set->word[i]);
    return nodes;
}

unsigned lb_numa_nodes(void)
{
    node_set set;
    return allowed_nodes(&set) ? count(&set) : 0;
}

bool lb_numa_spread(void *memory, size_t bytes, unsigned least)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)memory + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)memory + bytes) / page * page;
    node_set set;
    if (first >= end || !allowed_nodes(&set) || count(&set) < least)
        return false;
    return syscall(SYS_mbind, first, (unsigned long)(end - first), (unsigned long)MPOL_INTERLEAVE,
                   set.word, (unsigned long)NODES_MAX, 0ul) == 0;
}
