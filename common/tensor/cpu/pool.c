/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/cpu/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS_MAX 256u
#define PATH_BYTES 4096
#define STACK_BYTES ((size_t)1 << 20)
/* Looks before a thread sleeps, 25 to 80 microseconds by chip: the loops of one layer follow each
 * other within that, and waking a thread takes as long. A longer spin would take the core from the
 * other daemons of the machine. */
#define SPINS 2000

typedef struct worker {
    lb_pool *pool;
    pthread_t thread;
    size_t index;
} worker;

/* A thread's own part of a loop, on a line of the cache by itself. */
typedef struct share {
    _Alignas(64) atomic_size_t next;
    size_t end;
} share;

struct lb_pool {
    pthread_mutex_t lock;
    pthread_cond_t work, finished;
    worker *workers;             /* [threads - 1] */
    uint32_t threads, started;
    atomic_uint generation;      /* of the loop; a change wakes the workers */
    bool stop, open;             /* open: a worker may still join the current loop */
    atomic_uint active;          /* workers inside the current loop */
    void (*task)(void *arg, size_t index, size_t thread);
    void *arg;
    share *shares;               /* [threads] */
};

/* quota / period in whole CPUs, rounded up; 0 when there is no limit. */
static uint32_t whole_cpus(long long quota, long long period)
{
    if (quota <= 0 || period <= 0)
        return 0;
    long long cpus = quota / period + (quota % period != 0);
    return cpus > THREADS_MAX ? THREADS_MAX : (uint32_t)cpus;
}

/* A number, or "max 100000", of a small file; false when there is none. */
static bool read_numbers(const char *path, long long *first, long long *second)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    int got = fscanf(file, "%lld %lld", first, second);
    fclose(file);
    return got >= 1;
}

/* The limit of one group: cpu.max of version 2, cpu.cfs_* of version 1. */
static uint32_t group_cpus(const char *mount, const char *group)
{
    char path[PATH_BYTES];
    long long quota = 0, period = 0, none;
    int n = snprintf(path, sizeof path, "%s%s/cpu.max", mount, group);
    if (n > 0 && (size_t)n < sizeof path && read_numbers(path, &quota, &period))
        return whole_cpus(quota, period);
    n = snprintf(path, sizeof path, "%s/cpu%s/cpu.cfs_quota_us", mount, group);
    if (n < 0 || (size_t)n >= sizeof path || !read_numbers(path, &quota, &none))
        return 0;
    n = snprintf(path, sizeof path, "%s/cpu%s/cpu.cfs_period_us", mount, group);
    if (n < 0 || (size_t)n >= sizeof path || !read_numbers(path, &period, &none))
        return 0;
    return whole_cpus(quota, period);
}

uint32_t lb_pool_quota(const char *mount, const char *membership)
{
    char line[PATH_BYTES], group[PATH_BYTES] = "";
    FILE *file = fopen(membership, "re");
    /* "0::/path" of version 2, "4:cpu,cpuacct:/path" of version 1. */
    while (file && fgets(line, sizeof line, file)) {
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        if (names[1] == '\0' || strncmp(names + 1, "cpu", 3) == 0)
            snprintf(group, sizeof group, "%s", strcmp(path, "/") == 0 ? "" : path);
    }
    if (file)
        fclose(file);
    /* The narrowest of the group and those it lies in. */
    uint32_t least = 0;
    for (;;) {
        uint32_t cpus = group_cpus(mount, group);
        if (cpus > 0 && (least == 0 || cpus < least))
            least = cpus;
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

static uint32_t usable_cpus(void)
{
    cpu_set_t set;
    uint32_t cpus = 1;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        cpus = (uint32_t)CPU_COUNT(&set);
    uint32_t quota = lb_pool_quota("/sys/fs/cgroup", "/proc/self/cgroup");
    if (quota > 0 && quota < cpus)
        cpus = quota;
    return cpus > THREADS_MAX ? THREADS_MAX : cpus;
}

/* Its own share in order, then what others have left of theirs. */
static void take_tasks(lb_pool *pool, size_t thread)
{
    for (size_t i = 0; i < pool->threads; i++) {
        share *from = &pool->shares[(thread + i) % pool->threads];
        while (atomic_load_explicit(&from->next, memory_order_relaxed) < from->end) {
            size_t index = atomic_fetch_add_explicit(&from->next, 1, memory_order_relaxed);
            if (index < from->end)
                pool->task(pool->arg, index, thread);
        }
    }
}

static void share_out(lb_pool *pool, size_t count)
{
    size_t each = count / pool->threads, more = count % pool->threads, first = 0;
    for (size_t t = 0; t < pool->threads; t++) {
        size_t own = each + (t < more);
        atomic_store_explicit(&pool->shares[t].next, first, memory_order_relaxed);
        pool->shares[t].end = first + own;
        first += own;
    }
}

static void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");   /* "yield" returns at once on most chips */
#endif
}

/* Waits for a loop other than *seen and joins it; false when the pool stops. A loop that ended
 * before this thread woke is passed over: its caller did not wait for those who never came. */
static bool join_loop(lb_pool *pool, unsigned *seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->generation, memory_order_acquire) != *seen)
            break;
        pause_briefly();
    }
    bool joined = false;
    pthread_mutex_lock(&pool->lock);
    while (!joined && !pool->stop) {
        unsigned generation = atomic_load(&pool->generation);
        joined = generation != *seen && pool->open;
        *seen = generation;
        if (!joined)
            pthread_cond_wait(&pool->work, &pool->lock);
    }
    pool->active += joined;
    pthread_mutex_unlock(&pool->lock);
    return joined;
}

static void *work(void *arg)
{
    worker *self = arg;
    lb_pool *pool = self->pool;
    unsigned seen = 0;
    while (join_loop(pool, &seen)) {
        take_tasks(pool, self->index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->active == 0)
            pthread_cond_signal(&pool->finished);
        pthread_mutex_unlock(&pool->lock);
    }
    return NULL;
}

lb_status lb_pool_create(uint32_t threads, lb_pool **out, lb_err *err)
{
    uint32_t count = threads ? threads : usable_cpus();
    if (count > THREADS_MAX)
        return lb_fail(err, LB_EINVAL, "threads", "%u is more than %u", count, THREADS_MAX);
    lb_pool *pool = calloc(1, sizeof *pool);
    worker *workers = calloc(count, sizeof *workers);
    share *shares = aligned_alloc(_Alignof(share), count * sizeof *shares);
    if (!pool || !workers || !shares) {
        free(pool);
        free(workers);
        free(shares);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %u threads", count);
    }
    pool->workers = workers;
    pool->shares = shares;
    pool->threads = count;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failed = 0;
    for (uint32_t i = 0; i + 1 < count && !failed; i++) {
        workers[i] = (worker){.pool = pool, .index = i + 1};
        failed = pthread_create(&workers[i].thread, &attributes, work, &workers[i]);
        pool->started += !failed;
    }
    pthread_attr_destroy(&attributes);
    if (failed) {
        lb_pool_free(pool);
        return lb_fail(err, LB_ENOMEM, NULL, "%u threads could not be started", count);
    }
    *out = pool;
    return LB_OK;
}

void lb_pool_free(lb_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 0; i < pool->started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->work);
    pthread_cond_destroy(&pool->finished);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool->shares);
    free(pool);
}

uint32_t lb_pool_threads(const lb_pool *pool)
{
    return pool->threads;
}

void lb_pool_run(lb_pool *pool, size_t count, void (*task)(void *arg, size_t index, size_t thread),
                 void *arg)
{
    if (count <= 1 || pool->started == 0) {
        for (size_t i = 0; i < count; i++)
            task(arg, i, 0);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->arg = arg;
    share_out(pool, count);
    pool->open = true;
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    take_tasks(pool, 0);
    pthread_mutex_lock(&pool->lock);
    pool->open = false;
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < SPINS && atomic_load(&pool->active) > 0; i++)
        pause_briefly();
    pthread_mutex_lock(&pool->lock);
    while (pool->active > 0)
        pthread_cond_wait(&pool->finished, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}
