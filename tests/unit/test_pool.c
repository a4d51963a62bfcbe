/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/cpu/pool.h"
#include "tests/check.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#define TASKS_MAX 500u

typedef struct tally {
    atomic_uint runs[TASKS_MAX];
    unsigned plain[TASKS_MAX];      /* written without atomics: each task has its own */
    uint32_t threads;
    atomic_uint inside[8];
} tally;

static void count_task(void *arg, size_t index, size_t thread)
{
    tally *t = arg;
    if (thread >= t->threads || atomic_fetch_add(&t->inside[thread], 1) != 0)
        abort();                    /* two tasks with one thread number would share scratch */
    atomic_fetch_add(&t->runs[index], 1);
    t->plain[index]++;
    atomic_fetch_sub(&t->inside[thread], 1);
}

static void test_every_task_runs_once(void **state)
{
    (void)state;
    static const uint32_t threads[] = {1, 2, 3, 8};
    static const size_t counts[] = {0, 1, 2, 3, 7, 64, TASKS_MAX};
    for (size_t t = 0; t < 4; t++) {
        lb_pool *pool = NULL;
        assert_int_equal(lb_pool_create(threads[t], &pool, NULL), LB_OK);
        assert_int_equal(lb_pool_threads(pool), threads[t]);
        for (unsigned round = 0; round < 60; round++) {
            size_t count = counts[round % 7];
            tally *got = calloc(1, sizeof *got);
            assert_non_null(got);
            got->threads = threads[t];
            lb_pool_run(pool, count, count_task, got);
            for (size_t i = 0; i < TASKS_MAX; i++) {
                assert_int_equal(atomic_load(&got->runs[i]), i < count);
                assert_int_equal(got->plain[i], i < count);
            }
            free(got);
        }
        lb_pool_free(pool);
    }
}

static void slow_task(void *arg, size_t index, size_t thread)
{
    unsigned *finished = arg;
    const struct timespec pause = {.tv_nsec = 3000000};
    (void)thread;
    nanosleep(&pause, NULL);
    finished[index] = 1;
}

/* The caller has no task left while the others still work on theirs. */
static void test_returns_when_all_are_done(void **state)
{
    (void)state;
    lb_pool *pool = NULL;
    assert_int_equal(lb_pool_create(4, &pool, NULL), LB_OK);
    for (unsigned round = 0; round < 20; round++) {
        unsigned finished[7] = {0};
        lb_pool_run(pool, 7, slow_task, finished);
        for (size_t i = 0; i < 7; i++)
            assert_int_equal(finished[i], 1);
    }
    lb_pool_free(pool);
}

/* Loops of two tasks follow each other closely: the moment at which a late worker could meet the
 * next loop's state. */
static void test_short_loops(void **state)
{
    (void)state;
    lb_pool *pool = NULL;
    tally *got = calloc(1, sizeof *got);
    assert_non_null(got);
    got->threads = 3;
    assert_int_equal(lb_pool_create(3, &pool, NULL), LB_OK);
    for (unsigned round = 0; round < 20000; round++)
        lb_pool_run(pool, 2, count_task, got);
    assert_int_equal(got->plain[0], 20000);
    assert_int_equal(got->plain[1], 20000);
    lb_pool_free(pool);
    free(got);
}

static void test_idle_threads_sleep(void **state)
{
    (void)state;
    lb_pool *pool = NULL;
    unsigned finished[12] = {0};
    assert_int_equal(lb_pool_create(4, &pool, NULL), LB_OK);
    /* Slow tasks, so that every thread has worked and then runs out of work. */
    lb_pool_run(pool, 12, slow_task, finished);
    struct timespec before, after, pause = {.tv_nsec = 200000000};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&pause, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double used = (double)(after.tv_sec - before.tv_sec) +
                  1e-9 * (double)(after.tv_nsec - before.tv_nsec);
    assert_true(used < 0.05);       /* three spinning threads would use 0.2 s or more */
    lb_pool_free(pool);
}

static void test_threads_zero_follows_affinity(void **state)
{
    (void)state;
    cpu_set_t before, one;
    lb_pool *pool = NULL;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_int_equal(lb_pool_create(0, &pool, NULL), LB_OK);
    assert_true(lb_pool_threads(pool) >= 1);
    assert_true(lb_pool_threads(pool) <= (uint32_t)CPU_COUNT(&before));
    lb_pool_free(pool);
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE && CPU_COUNT(&one) == 0; cpu++) {
        if (CPU_ISSET(cpu, &before))
            CPU_SET(cpu, &one);
    }
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(lb_pool_create(0, &pool, NULL), LB_OK);
    assert_int_equal(lb_pool_threads(pool), 1);
    lb_pool_free(pool);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

static void test_too_many(void **state)
{
    (void)state;
    lb_pool *pool = NULL;
    lb_err err = {0};
    assert_int_equal(lb_pool_create(100000, &pool, &err), LB_EINVAL);
    assert_string_equal(err.field, "threads");
    assert_null(pool);
    lb_pool_free(NULL);
}

static void write_text(const char *dir, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void make_dir(const char *dir, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static uint32_t quota_of(const char *dir, const char *membership)
{
    char path[256];
    write_text(dir, "self", membership);
    snprintf(path, sizeof path, "%s/self", dir);
    return lb_pool_quota(dir, path);
}

static void test_quota_of_the_group(void **state)
{
    (void)state;
    char dir[] = "/tmp/limbeck-cgroup-XXXXXX", command[64];
    assert_non_null(mkdtemp(dir));
    assert_int_equal(quota_of(dir, "0::/\n"), 0);
    /* Version 2: the narrowest of the group and what it lies in; part of a CPU counts as one. */
    make_dir(dir, "outer");
    make_dir(dir, "outer/inner");
    write_text(dir, "outer/cpu.max", "350000 100000\n");
    write_text(dir, "outer/inner/cpu.max", "max 100000\n");
    assert_int_equal(quota_of(dir, "0::/outer/inner\n"), 4);
    write_text(dir, "outer/inner/cpu.max", "150000 100000\n");
    assert_int_equal(quota_of(dir, "0::/outer/inner\n"), 2);
    assert_int_equal(quota_of(dir, "0::/outer\n"), 4);
    assert_int_equal(quota_of(dir, "0::/gone/elsewhere\n"), 0);
    write_text(dir, "cpu.max", "100000 100000\n");
    assert_int_equal(quota_of(dir, "0::/outer/inner\n"), 1);
    /* Version 1, and contents that say nothing. */
    make_dir(dir, "cpu");
    make_dir(dir, "cpu/box");
    write_text(dir, "cpu.max", "max 100000\n");
    write_text(dir, "cpu/box/cpu.cfs_quota_us", "250000\n");
    write_text(dir, "cpu/box/cpu.cfs_period_us", "100000\n");
    assert_int_equal(quota_of(dir, "5:memory:/else\n4:cpu,cpuacct:/box\n"), 3);
    write_text(dir, "cpu/box/cpu.cfs_quota_us", "-1\n");
    assert_int_equal(quota_of(dir, "4:cpu,cpuacct:/box\n"), 0);
    write_text(dir, "cpu/box/cpu.cfs_period_us", "0\n");
    write_text(dir, "cpu/box/cpu.cfs_quota_us", "99999999999999999999\n");
    assert_int_equal(quota_of(dir, "4:cpu:/box\nnonsense\n::\n"), 0);
    assert_int_equal(quota_of(dir, ""), 0);
    snprintf(command, sizeof command, "rm -r %s", dir);
    assert_int_equal(system(command), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_runs_once),
        cmocka_unit_test(test_returns_when_all_are_done),
        cmocka_unit_test(test_short_loops),
        cmocka_unit_test(test_idle_threads_sleep),
        cmocka_unit_test(test_threads_zero_follows_affinity),
        cmocka_unit_test(test_too_many),
        cmocka_unit_test(test_quota_of_the_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
