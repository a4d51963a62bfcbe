/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker against a coordinator and a teacher that the test plays over a real socket: what it
 * sends, and what it does when the other side is busy, gone, wrong or of another mind.
 */
#include "client/worker/worker.h"
#include "common/train/handshake.h"
#include "common/base/clock.h"
#include "common/model/lora.h"
#include "common/text/dataset.h"
#include "proto/frames.h"
#include "proto/limits.h"
#include "server/http/http.h"
#include "tests/unit/worker_world.h"

#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- tests ---- */

static void test_pushes_what_it_leased(void **state)
{
    (void)state;
    world w;
    open_world(&w);
    w.leases = 4;   /* units 0 and 1, and both once more */
    assert_int_equal(work(&w), LB_OK);
    assert_int_equal(w.push_count, 4);
    for (unsigned i = 0; i < 4; i++) {
        const push *p = &w.pushes[i];
        char fence[24];
        snprintf(fence, sizeof fence, "%u", i + 1);
        assert_string_equal(p->fence, fence);
        assert_string_equal(p->worker, "tester");
        assert_int_equal(strlen(p->class), 64);
        assert_string_equal(p->class, w.pushes[0].class);
        assert_int_equal(strlen(p->digest), strlen("sha-256=::") + 44);
        assert_memory_equal(p->digest, "sha-256=:", strlen("sha-256=:"));
        assert_int_equal(p->unit, i % 2);
        assert_true(p->tokens > 0);
    }
    assert_string_equal(w.pushes[0].sha, w.pushes[2].sha);
    assert_string_equal(w.pushes[1].sha, w.pushes[3].sha);
    assert_string_not_equal(w.pushes[0].sha, w.pushes[1].sha);
    assert_int_equal(w.released, 0);
    close_world(&w);
}

static void test_sends_the_same_bytes_again(void **state)
{
    (void)state;
    world w;
    open_world(&w);
    w.leases = 1;
    w.push_codes[0] = w.push_codes[1] = 503;
    assert_int_equal(work(&w), LB_OK);
    assert_int_equal(w.push_count, 3);
    assert_string_equal(w.pushes[0].sha, w.pushes[2].sha);
    assert_string_equal(w.pushes[0].digest, w.pushes[2].digest);
    assert_int_equal(w.released, 0);
    close_world(&w);
}

static void test_drops_what_nobody_wants(void **state)
{
    (void)state;
    const int codes[] = {409, 410, 404};
    for (size_t i = 0; i < 3; i++) {
        world w;
        open_world(&w);
        w.leases = 2;
        w.push_codes[0] = codes[i];
        assert_int_equal(work(&w), LB_OK);
        assert_int_equal(w.push_count, 2);   /* once each: the first is not sent again */
        assert_string_not_equal(w.pushes[0].sha, w.pushes[1].sha);
        close_world(&w);
    }
}

/* A push that is refused for another reason is an error of ours: the unit goes back. */
static void test_hands_back_what_failed(void **state)
{
    (void)state;
    const struct {
        teacher_mode teacher;
        uint32_t vocab;
        const char *model;
        bool damage;
        int push_code;
        unsigned pushes;
    } cases[] = {
        {NOT_A_NUMBER, 320, "student", false, 0, 0},
        {POSITIVE, 320, "student", false, 0, 0},
        {TOO_FEW, 320, "student", false, 0, 0},
        {SCORES, 321, "student", false, 0, 0},
        {SCORES, 320, "other", false, 0, 0},
        {SCORES, 320, "student", true, 0, 0},
        {SCORES, 320, "student", false, 400, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        world w;
        open_world(&w);
        w.leases = 1;
        w.teacher = cases[i].teacher;
        w.vocab = cases[i].vocab;
        w.model = cases[i].model;
        w.damage = cases[i].damage;
        w.push_codes[0] = cases[i].push_code;
        assert_int_equal(work(&w), LB_OK);
        bool bad_teacher = cases[i].teacher != SCORES;
        if (w.push_count != cases[i].pushes || w.released != 1 ||
            w.handshake_failures != bad_teacher)
            fail_msg("case %zu: %u pushes, %u released, %u failures told", i, w.push_count,
                     w.released, w.handshake_failures);
        close_world(&w);
    }
}

/* One handshake for a job, with the teacher's figures: this teacher gives every token -1. */
static void test_holds_one_handshake(void **state)
{
    (void)state;
    world w;
    open_world(&w);
    w.leases = 4;
    assert_int_equal(work(&w), LB_OK);
    assert_int_equal(w.push_count, 4);
    assert_int_equal(w.handshakes, 1);
    assert_string_equal(w.handshake.student.model, "student");
    assert_string_equal(w.handshake.student.tokenizer_sha, w.tokenizer);
    assert_string_equal(w.handshake.teacher.model, "t");
    assert_int_equal(w.handshake.teacher.stop_count, 2);
    assert_int_equal(w.handshake.teacher.stops[0], 1);   /* ascending, whatever was said */
    assert_int_equal(w.handshake.teacher_version, 5);
    assert_int_equal(w.handshake.probe.sequences, 2);
    assert_true(w.handshake.probe.tokens > 8);
    assert_true(w.handshake.probe.teacher_logprob >= -1 && w.handshake.probe.teacher_logprob <= -1);
    assert_true(w.handshake.probe.student_logprob < 0);
    assert_true(w.handshake.probe.sampler_noise <= 0 && w.handshake.probe.teacher_noise <= 0);
    assert_true(w.handshake.probe.at_change <= 0);       /* which the coordinator would refuse */
    close_world(&w);
}

/* What was refused is not worked on; the probe is left out where the tokenizers differ. */
static void test_refused_handshake(void **state)
{
    (void)state;
    for (int foreign = 0; foreign < 2; foreign++) {
        world w;
        open_world(&w);
        w.leases = 1;
        w.foreign_teacher = foreign;
        w.refuse_handshake = true;
        assert_int_equal(work(&w), LB_OK);
        assert_int_equal(w.handshakes, 1);
        assert_int_equal(w.handshake_failures, 0);
        assert_int_equal(w.handshake.probe.tokens > 0, !foreign);
        assert_int_equal(w.push_count, 0);
        assert_int_equal(w.released, 1);
        close_world(&w);
    }
}

/* A teacher with a small queue is asked in smaller pieces. */
static void test_splits_for_a_small_teacher(void **state)
{
    (void)state;
    world w;
    open_world(&w);
    w.leases = 1;
    w.teacher = SMALL;
    assert_int_equal(work(&w), LB_OK);
    assert_int_equal(w.push_count, 1);
    assert_int_equal(w.largest, 1);
    close_world(&w);
}

static void *work_thread(void *arg)
{
    return (void *)(intptr_t)work(arg);
}

/* Waits until *value, which others count under the world's lock, is above 0. */
static void await(world *w, const unsigned *value)
{
    int64_t until = lb_clock_ms() + 20000;
    for (;;) {
        pthread_mutex_lock(&w->lock);
        bool there = *value > 0;
        pthread_mutex_unlock(&w->lock);
        if (there)
            return;
        if (lb_clock_ms() > until)
            fail_msg("waited in vain");
        lb_sleep_ms(5);
    }
}

static void test_abandons_a_lost_lease(void **state)
{
    (void)state;
    world w;
    pthread_t thread;
    void *status = NULL;
    open_world(&w);
    w.leases = 1;
    w.teacher = AWAY;
    assert_int_equal(pthread_create(&thread, NULL, work_thread, &w), 0);
    await(&w, &w.asked);
    await(&w, &w.renewed);
    pthread_mutex_lock(&w.lock);
    w.lose = true;
    pthread_mutex_unlock(&w.lock);
    pthread_join(thread, &status);    /* it gives up, is idle, and ends */
    assert_int_equal((intptr_t)status, LB_OK);
    assert_int_equal(w.push_count, 0);
    assert_int_equal(w.released, 0);  /* there is nothing to release any more */
    close_world(&w);
}

static void test_waits_for_the_teacher(void **state)
{
    (void)state;
    world w;
    pthread_t thread;
    void *status = NULL;
    open_world(&w);
    w.leases = 1;
    w.teacher = AWAY;
    assert_int_equal(pthread_create(&thread, NULL, work_thread, &w), 0);
    await(&w, &w.asked);
    pthread_mutex_lock(&w.lock);
    w.teacher = SCORES;
    pthread_mutex_unlock(&w.lock);
    pthread_join(thread, &status);
    assert_int_equal((intptr_t)status, LB_OK);
    assert_int_equal(w.push_count, 1);
    close_world(&w);
}

static void test_stop_releases_the_lease(void **state)
{
    (void)state;
    world w;
    pthread_t thread;
    void *status = NULL;
    open_world(&w);
    w.leases = 1;
    w.teacher = AWAY;
    assert_int_equal(pthread_create(&thread, NULL, work_thread, &w), 0);
    await(&w, &w.asked);
    int64_t start = lb_clock_ms();
    atomic_store(&w.stop, true);
    pthread_join(thread, &status);
    assert_int_equal((intptr_t)status, LB_OK);
    assert_true(lb_clock_ms() - start < 3000);
    assert_int_equal(w.push_count, 0);
    assert_int_equal(w.released, 1);
    close_world(&w);
}

static void test_coordinator_troubles(void **state)
{
    (void)state;
    world w;
    open_world(&w);
    w.lease_code = 401;
    assert_int_equal(work(&w), LB_EAUTH);    /* waiting does not mend a wrong key */
    w.lease_code = 500;
    assert_int_equal(work(&w), LB_OK);       /* waiting may mend this; it was idle long enough */
    close_world(&w);
}

static void test_configuration(void **state)
{
    (void)state;
    static const char *const good[] = {"student=" STUDENT};
    static const char *const bad[] = {"student", "=x", "student=", "student=/nonexistent"};
    lb_worker *worker = NULL;
    lb_err err = {0};
    lb_worker_config config = {.coordinator = "http://127.0.0.1:9", .models = good,
                               .model_count = 1, .dtype = LB_F32, .threads = 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        config.models = &bad[i];
        assert_int_not_equal(lb_worker_create(&config, &worker, &err), LB_OK);
    }
    config.models = good;
    config.name = "no spaces";
    assert_int_equal(lb_worker_create(&config, &worker, &err), LB_EINVAL);
    assert_string_equal(err.field, "name");
    config.name = NULL;
    config.coordinator = "ftp://x";
    assert_int_not_equal(lb_worker_create(&config, &worker, &err), LB_OK);
    config.coordinator = NULL;
    assert_int_equal(lb_worker_create(&config, &worker, &err), LB_EINVAL);
    assert_string_equal(err.field, "coordinator");
    config.coordinator = "http://127.0.0.1:9";
    assert_int_equal(lb_worker_create(&config, &worker, &err), LB_OK);
    assert_true(strlen(lb_worker_name(worker)) > 0);
    lb_worker_free(worker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_holds_one_handshake),
        cmocka_unit_test(test_refused_handshake),
        cmocka_unit_test(test_pushes_what_it_leased),
        cmocka_unit_test(test_sends_the_same_bytes_again),
        cmocka_unit_test(test_drops_what_nobody_wants),
        cmocka_unit_test(test_hands_back_what_failed),
        cmocka_unit_test(test_splits_for_a_small_teacher),
        cmocka_unit_test(test_abandons_a_lost_lease),
        cmocka_unit_test(test_waits_for_the_teacher),
        cmocka_unit_test(test_stop_releases_the_lease),
        cmocka_unit_test(test_coordinator_troubles),
        cmocka_unit_test(test_configuration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
