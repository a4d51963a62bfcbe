/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/clock.h"
#include "common/base/queue.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define PRODUCERS 4
#define CONSUMERS 3
#define PER_PRODUCER 5000u

static void test_order_capacity_and_close(void **state)
{
    (void)state;
    lb_queue *queue = NULL;
    lb_err err = {0};
    int items[5];
    assert_int_equal(lb_queue_create(0, &queue, &err), LB_EINVAL);
    assert_string_equal(err.field, "capacity");
    assert_int_equal(lb_queue_create(SIZE_MAX, &queue, &err), LB_EINVAL);
    assert_null(queue);
    assert_int_equal(lb_queue_create(3, &queue, &err), LB_OK);
    for (int round = 0; round < 4; round++) {   /* the ring wraps */
        assert_true(lb_queue_push(queue, &items[0]));
        assert_true(lb_queue_push(queue, &items[1]));
        assert_true(lb_queue_push(queue, &items[2]));
        assert_false(lb_queue_push(queue, &items[3]));
        assert_int_equal(lb_queue_length(queue), 3);
        assert_ptr_equal(lb_queue_pop(queue, 0), &items[0]);
        assert_true(lb_queue_push(queue, &items[4]));
        assert_ptr_equal(lb_queue_pop(queue, INT64_MAX), &items[1]);
        assert_ptr_equal(lb_queue_pop(queue, INT64_MAX), &items[2]);
        assert_ptr_equal(lb_queue_pop(queue, INT64_MIN), &items[4]);
        assert_null(lb_queue_pop(queue, INT64_MIN));
    }
    assert_true(lb_queue_push(queue, &items[0]));
    assert_false(lb_queue_closed(queue));
    lb_queue_close(queue);
    assert_true(lb_queue_closed(queue));
    assert_false(lb_queue_push(queue, &items[1]));
    assert_ptr_equal(lb_queue_pop(queue, INT64_MAX), &items[0]);   /* what is in it comes out */
    assert_null(lb_queue_pop(queue, INT64_MAX));
    lb_queue_free(queue);
    lb_queue_free(NULL);
}

static void test_deadline_passes(void **state)
{
    (void)state;
    lb_queue *queue = NULL;
    assert_int_equal(lb_queue_create(1, &queue, NULL), LB_OK);
    int64_t before = lb_clock_ms();
    assert_null(lb_queue_pop(queue, before + 50));
    int64_t waited = lb_clock_ms() - before;
    assert_true(waited >= 50 && waited < 5000);   /* the upper bound is for a loaded machine */
    lb_queue_free(queue);
}

static void *close_later(void *arg)
{
    lb_sleep_ms(30);
    lb_queue_close(arg);
    return NULL;
}

/* A close wakes who waits without a deadline, and who waits with a far one. */
static void test_close_wakes(void **state)
{
    const int64_t deadlines[] = {INT64_MAX, INT64_MAX - 1};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        lb_queue *queue = NULL;
        pthread_t thread;
        assert_int_equal(lb_queue_create(1, &queue, NULL), LB_OK);
        assert_int_equal(pthread_create(&thread, NULL, close_later, queue), 0);
        assert_null(lb_queue_pop(queue, deadlines[i]));
        assert_true(lb_queue_closed(queue));
        pthread_join(thread, NULL);
        lb_queue_free(queue);
    }
}

typedef struct shared {
    lb_queue *queue;
    atomic_uint popped;
    atomic_ullong sum;
    unsigned numbers[PER_PRODUCER];
} shared;

static void *produce(void *arg)
{
    shared *s = arg;
    for (unsigned i = 0; i < PER_PRODUCER; i++) {
        while (!lb_queue_push(s->queue, &s->numbers[i]))
            lb_sleep_ms(1);
    }
    return NULL;
}

static void *consume(void *arg)
{
    shared *s = arg;
    for (unsigned *item; (item = lb_queue_pop(s->queue, INT64_MAX)) != NULL;) {
        atomic_fetch_add(&s->popped, 1);
        atomic_fetch_add(&s->sum, *item);
    }
    return NULL;
}

/* Between threads each item comes out once. */
static void test_threads(void **state)
{
    (void)state;
    shared s = {0};
    pthread_t producers[PRODUCERS], consumers[CONSUMERS];
    for (unsigned i = 0; i < PER_PRODUCER; i++)
        s.numbers[i] = i;
    assert_int_equal(lb_queue_create(64, &s.queue, NULL), LB_OK);
    for (int i = 0; i < CONSUMERS; i++)
        assert_int_equal(pthread_create(&consumers[i], NULL, consume, &s), 0);
    for (int i = 0; i < PRODUCERS; i++)
        assert_int_equal(pthread_create(&producers[i], NULL, produce, &s), 0);
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(producers[i], NULL);
    lb_queue_close(s.queue);
    for (int i = 0; i < CONSUMERS; i++)
        pthread_join(consumers[i], NULL);
    assert_int_equal(s.popped, PRODUCERS * PER_PRODUCER);
    assert_true(s.sum == (unsigned long long)PRODUCERS * PER_PRODUCER * (PER_PRODUCER - 1) / 2);
    lb_queue_free(s.queue);
}

static void test_deadline_timespec_is_normal(void **state)
{
    const int64_t deadlines[] = {INT64_MIN, -1, 0, 1, INT64_MAX - 1, INT64_MAX};
    (void)state;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    for (size_t i = 0; i < sizeof deadlines / sizeof *deadlines; i++) {
        struct timespec t = lb_deadline_timespec(deadlines[i]);
        assert_true(t.tv_sec >= now.tv_sec && t.tv_nsec >= 0 && t.tv_nsec < 1000000000);
    }
    for (int ms = 0; ms < 2000; ms += 250) {
        struct timespec t = lb_deadline_timespec(lb_clock_ms() + ms);
        assert_true(t.tv_nsec >= 0 && t.tv_nsec < 1000000000);
        double ahead = (double)(t.tv_sec - now.tv_sec) + 1e-9 * (double)(t.tv_nsec - now.tv_nsec);
        assert_true(ahead > ms / 1000.0 - 0.002 && ahead < ms / 1000.0 + 5.0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_capacity_and_close),
        cmocka_unit_test(test_deadline_passes),
        cmocka_unit_test(test_close_wakes),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_deadline_timespec_is_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
