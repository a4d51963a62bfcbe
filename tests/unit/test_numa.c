/* SPDX-License-Identifier: Apache-2.0
 *
 * Which policy the kernel holds for memory that was spread. A machine with one node holds it too,
 * so the tests ask for one node where the backend asks for two.
 */
#include "common/tensor/cpu/numa.h"
#include "tests/check.h"

#include <linux/mempolicy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, BYTES = 64 * PAGE };

static int policy_of(const void *address)
{
    int policy = -1;
    if (syscall(SYS_get_mempolicy, &policy, NULL, 0ul, address, (unsigned long)MPOL_F_ADDR) != 0)
        return -1;
    return policy;
}

static void test_pages_within_are_spread(void **state)
{
    (void)state;
    unsigned nodes = lb_numa_nodes();
    if (nodes == 0)
        skip();                     /* the kernel does not tell, or a container forbids to ask */
    char *memory = aligned_alloc((size_t)sysconf(_SC_PAGESIZE), BYTES);
    assert_non_null(memory);
    assert_false(lb_numa_spread(memory, BYTES, nodes + 1));
    assert_int_equal(policy_of(memory), MPOL_DEFAULT);
    /* What is before the first whole page, and after the last, keeps its own policy. */
    assert_true(lb_numa_spread(memory + 1, BYTES - 2, 1));
    assert_int_equal(policy_of(memory), MPOL_DEFAULT);
    assert_int_equal(policy_of(memory + PAGE), MPOL_INTERLEAVE);
    assert_int_equal(policy_of(memory + BYTES - 2 * PAGE), MPOL_INTERLEAVE);
    assert_int_equal(policy_of(memory + BYTES - PAGE), MPOL_DEFAULT);
    memset(memory, 1, BYTES);
    free(memory);
}

static void test_less_than_a_page_is_left(void **state)
{
    (void)state;
    char *memory = aligned_alloc((size_t)sysconf(_SC_PAGESIZE), BYTES);
    assert_non_null(memory);
    assert_false(lb_numa_spread(memory, 0, 0));
    assert_false(lb_numa_spread(memory + 1, PAGE, 0));
    assert_false(lb_numa_spread(memory + PAGE - 1, 2, 0));
    free(memory);
}

static void test_a_policy_of_the_process_is_left_alone(void **state)
{
    (void)state;
    char *memory = aligned_alloc((size_t)sysconf(_SC_PAGESIZE), BYTES);
    unsigned long first_node = 1;
    assert_non_null(memory);
    if (syscall(SYS_set_mempolicy, MPOL_PREFERRED, &first_node, 8ul) != 0)
        skip();
    unsigned nodes = lb_numa_nodes();
    bool spread = lb_numa_spread(memory, BYTES, 1);
    assert_int_equal(syscall(SYS_set_mempolicy, MPOL_DEFAULT, NULL, 0ul), 0);
    assert_int_equal(nodes, 0);
    assert_false(spread);
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages_within_are_spread),
        cmocka_unit_test(test_less_than_a_page_is_left),
        cmocka_unit_test(test_a_policy_of_the_process_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
