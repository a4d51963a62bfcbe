/* SPDX-License-Identifier: Apache-2.0
 *
 * The teacher's scheduler with a model that the test holds by the hand: each call waits for a
 * permit, so that what waits, runs and is cancelled is known and no test sleeps for an outcome.
 */
#include "common/base/clock.h"
#include "server/teacher/scheduler.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WAIT_MS 10000
#define CALLS_MAX 256
#define SEQUENCES_MAX 64

typedef struct call_record {
    size_t count;
    uint64_t tokens;
    uint32_t owners[SEQUENCES_MAX];   /* first token of each sequence: the job's mark */
} call_record;

typedef struct fixture {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned permits;        /* model calls that may go on */
    unsigned entered;        /* model calls that began */
    unsigned answered, released;
    uint32_t order[CALLS_MAX];   /* marks, as answered */
    call_record calls[CALLS_MAX];
    size_t call_count;
    uint32_t poison;         /* a sequence with this mark fails its call; 0: none */
    bool saw_cancel;
    lb_scheduler *scheduler;
} fixture;

typedef struct test_job {
    lb_job job;              /* first */
    fixture *f;
    uint32_t mark;
    uint32_t *tokens;
    float *logprobs;
    lb_sequence *prompts;
    lb_err outcome;
    bool answered, released, completed;
} test_job;

/* Waits until *value reaches least; fails the test otherwise. With the lock held. */
static void await(fixture *f, const unsigned *value, unsigned least)
{
    struct timespec until = lb_deadline_timespec(lb_clock_ms() + WAIT_MS);
    while (*value < least) {
        if (pthread_cond_timedwait(&f->changed, &f->lock, &until) != 0)
            fail_msg("waited for %u, there are %u", least, *value);
    }
}

static void await_unlocked(fixture *f, const unsigned *value, unsigned least)
{
    pthread_mutex_lock(&f->lock);
    await(f, value, least);
    pthread_mutex_unlock(&f->lock);
}

static void permit(fixture *f, unsigned count)
{
    pthread_mutex_lock(&f->lock);
    f->permits += count;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void enter(fixture *f)
{
    f->entered++;
    pthread_cond_broadcast(&f->changed);
    while (f->permits == 0)
        pthread_cond_wait(&f->changed, &f->lock);
    f->permits--;
}

static lb_status fake_score(void *arg, lb_score_request *requests, size_t count, lb_err *err)
{
    fixture *f = arg;
    pthread_mutex_lock(&f->lock);
    call_record *call = &f->calls[f->call_count++];
    call->count = count;
    bool poisoned = false;
    for (size_t i = 0; i < count; i++) {
        const lb_sequence *s = &requests[i].sequence;
        call->tokens += s->count;
        if (i < SEQUENCES_MAX)
            call->owners[i] = s->tokens[0];
        poisoned |= f->poison != 0 && s->tokens[0] == f->poison;
    }
    enter(f);
    pthread_mutex_unlock(&f->lock);
    if (poisoned)
        return lb_fail(err, LB_ENUMERIC, NULL, "poison");
    for (size_t i = 0; i < count; i++)
        requests[i].logprob[0] = -1.0f;
    return LB_OK;
}

static lb_status fake_generate(void *arg, const lb_sequence *prompts, size_t count,
                               uint32_t row_base, const lb_generate_params *params,
                               lb_rollout *out, lb_err *err)
{
    fixture *f = arg;
    (void)prompts;
    pthread_mutex_lock(&f->lock);
    f->calls[f->call_count++].count = count;
    enter(f);
    bool cancelled = params->cancelled(params->cancel_arg);
    f->saw_cancel |= cancelled;
    pthread_mutex_unlock(&f->lock);
    if (cancelled)
        return lb_fail(err, LB_ECANCELLED, NULL, "cancelled");
    for (size_t i = 0; i < count; i++)
        out[i].count = row_base + (uint32_t)i + 1;
    return LB_OK;
}

static void answer(lb_job *job)
{
    test_job *t = (test_job *)job;
    pthread_mutex_lock(&t->f->lock);
    assert_false(t->answered);
    t->answered = true;
    t->outcome = job->err;
    t->f->order[t->f->answered++] = t->mark;
    pthread_cond_broadcast(&t->f->changed);
    pthread_mutex_unlock(&t->f->lock);
}

static void release(lb_job *job)
{
    test_job *t = (test_job *)job;
    pthread_mutex_lock(&t->f->lock);
    assert_true(t->answered);
    assert_false(t->released);
    t->released = true;
    t->f->released++;
    pthread_cond_broadcast(&t->f->changed);
    pthread_mutex_unlock(&t->f->lock);
}

static lb_status completed(lb_job *job, lb_err *err)
{
    (void)err;
    ((test_job *)job)->completed = true;
    return LB_OK;
}

/* A job of `count` sequences of `length` tokens, all of which are its mark. */
static test_job make(fixture *f, uint32_t mark, size_t count, uint32_t length)
{
    test_job t = {.f = f, .mark = mark};
    t.tokens = calloc(length, sizeof *t.tokens);
    t.logprobs = calloc(count, sizeof *t.logprobs);
    t.job.requests = calloc(count, sizeof *t.job.requests);
    assert_true(t.tokens && t.logprobs && t.job.requests);
    for (uint32_t i = 0; i < length; i++)
        t.tokens[i] = mark;
    for (size_t i = 0; i < count; i++) {
        t.job.requests[i].sequence = (lb_sequence){t.tokens, length};
        t.job.requests[i].start = 1;
        t.job.requests[i].logprob = &t.logprobs[i];
    }
    t.job.request_count = count;
    t.job.tokens = count * length;
    t.job.bytes = count;
    t.job.deadline_ms = INT64_MAX;
    t.job.answer = answer;
    t.job.release = release;
    return t;
}

static void drop(test_job *t)
{
    free(t->tokens);
    free(t->logprobs);
    free(t->job.requests);
    free(t->prompts);
}

static void submit(fixture *f, test_job *t)
{
    lb_err err = {0};
    t->job.key = t;
    assert_int_equal(lb_scheduler_submit(f->scheduler, &t->job, &err), LB_OK);
}

static void open_fixture(fixture *f, uint64_t queue_tokens, uint32_t batch_tokens)
{
    lb_err err = {0};
    memset(f, 0, sizeof *f);
    pthread_mutex_init(&f->lock, NULL);
    assert_int_equal(lb_cond_init(&f->changed), 0);
    lb_scheduler_config config = {
        .scorer = {.arg = f, .score = fake_score, .generate = fake_generate},
        .queue_tokens = queue_tokens,
        .queue_bytes = 1000,
        .batch_tokens = batch_tokens,
    };
    assert_int_equal(lb_scheduler_start(&config, &f->scheduler, &err), LB_OK);
}

static void close_fixture(fixture *f)
{
    permit(f, CALLS_MAX);
    lb_scheduler_free(f->scheduler);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
}

/* Submits a job that holds the model, so that what follows waits. */
static test_job hold(fixture *f)
{
    return make(f, 99, 1, 1);
}

static void test_batches_by_tokens(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 1000, 40);
    test_job first = hold(&f), a = make(&f, 1, 2, 5), b = make(&f, 2, 1, 10),
             c = make(&f, 3, 6, 5);
    submit(&f, &first);
    await_unlocked(&f, &f.entered, 1);
    submit(&f, &a);
    submit(&f, &b);
    submit(&f, &c);
    permit(&f, 3);
    await_unlocked(&f, &f.released, 4);
    /* a and b whole, c with what is left of 40; then the rest of c. */
    assert_int_equal(f.call_count, 3);
    assert_int_equal(f.calls[1].tokens, 40);
    assert_int_equal(f.calls[1].count, 2 + 1 + 4);
    assert_int_equal(f.calls[1].owners[0], 1);
    assert_int_equal(f.calls[1].owners[2], 2);
    assert_int_equal(f.calls[1].owners[3], 3);
    assert_int_equal(f.calls[2].tokens, 10);
    for (size_t i = 0; i < 6; i++)
        assert_true(c.logprobs[i] < 0);
    close_fixture(&f);
    drop(&first), drop(&a), drop(&b), drop(&c);
}

/* A job of twenty batches does not keep small ones waiting that come after it. */
static void test_large_job_starves_nobody(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 10000, 40);
    test_job large = make(&f, 1, 80, 10), small[3];
    submit(&f, &large);
    await_unlocked(&f, &f.entered, 1);
    for (uint32_t i = 0; i < 3; i++) {
        small[i] = make(&f, 2 + i, 1, 10);
        submit(&f, &small[i]);
    }
    permit(&f, 2);
    await_unlocked(&f, &f.answered, 3);
    assert_int_equal(f.order[0], 2);
    assert_int_equal(f.order[1], 3);
    assert_int_equal(f.order[2], 4);
    /* They shared their batch with the large one, which got its quarter. */
    assert_int_equal(f.calls[1].count, 4);
    assert_false(large.answered);
    permit(&f, CALLS_MAX);
    await_unlocked(&f, &f.released, 4);
    assert_int_equal(large.outcome.status, LB_OK);
    close_fixture(&f);
    drop(&large);
    for (size_t i = 0; i < 3; i++)
        drop(&small[i]);
}

/* Four large jobs fill every batch between them, and still let a fifth in when its turn comes. */
static void test_turns_go_round(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 10000, 40);
    test_job first = hold(&f), large[4], small = make(&f, 9, 1, 10);
    submit(&f, &first);
    await_unlocked(&f, &f.entered, 1);
    for (uint32_t i = 0; i < 4; i++) {
        large[i] = make(&f, 1 + i, 20, 10);
        submit(&f, &large[i]);
    }
    submit(&f, &small);
    permit(&f, 3);
    await_unlocked(&f, &f.answered, 2);
    assert_int_equal(f.order[1], 9);
    permit(&f, CALLS_MAX);
    await_unlocked(&f, &f.released, 6);
    close_fixture(&f);
    drop(&first), drop(&small);
    for (size_t i = 0; i < 4; i++)
        drop(&large[i]);
}

/* A sequence longer than a batch goes alone, and one longer than a turn is not passed over. */
static void test_long_sequences_come_through(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 1000, 16);
    test_job first = hold(&f), giant = make(&f, 1, 2, 50), middle = make(&f, 2, 3, 10);
    submit(&f, &first);
    await_unlocked(&f, &f.entered, 1);
    submit(&f, &giant);
    submit(&f, &middle);
    permit(&f, CALLS_MAX);
    await_unlocked(&f, &f.released, 3);
    assert_int_equal(giant.outcome.status, LB_OK);
    assert_int_equal(middle.outcome.status, LB_OK);
    for (size_t i = 1; i < f.call_count; i++)
        assert_true(f.calls[i].tokens <= 16 || f.calls[i].count == 1);
    close_fixture(&f);
    drop(&first), drop(&giant), drop(&middle);
}

static void test_full_queue_refuses(void **state)
{
    (void)state;
    fixture f;
    lb_err err = {0};
    open_fixture(&f, 20, 10);
    test_job first = hold(&f), a = make(&f, 1, 1, 19), b = make(&f, 2, 1, 1),
             never = make(&f, 3, 3, 7), heavy = make(&f, 4, 1, 1), full = make(&f, 5, 1, 1);
    heavy.job.bytes = 1001;
    full.job.bytes = 1000;
    assert_int_equal(lb_scheduler_submit(f.scheduler, &never.job, &err), LB_ETOOBIG);
    assert_int_equal(lb_scheduler_submit(f.scheduler, &heavy.job, &err), LB_ETOOBIG);
    submit(&f, &first);
    assert_int_equal(lb_scheduler_submit(f.scheduler, &full.job, &err), LB_EBUSY);
    submit(&f, &a);
    assert_int_equal(lb_scheduler_queue_tokens(f.scheduler), 20);
    assert_int_equal(lb_scheduler_submit(f.scheduler, &b.job, &err), LB_EBUSY);
    assert_true(lb_scheduler_retry_after(f.scheduler) >= 1);
    assert_true(lb_scheduler_retry_after(f.scheduler) <= 30);
    permit(&f, 2);
    await_unlocked(&f, &f.released, 2);
    submit(&f, &b);
    permit(&f, 1);
    await_unlocked(&f, &f.released, 3);
    assert_int_equal(lb_scheduler_queue_tokens(f.scheduler), 0);
    close_fixture(&f);
    drop(&first), drop(&a), drop(&b), drop(&never), drop(&heavy);
    drop(&full);
}

static void test_cancel_before_and_during(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 1000, 10);
    test_job runs = make(&f, 1, 5, 10), waits = make(&f, 2, 1, 10), stays = make(&f, 3, 1, 10);
    submit(&f, &runs);
    await_unlocked(&f, &f.entered, 1);
    submit(&f, &waits);
    submit(&f, &stays);
    lb_scheduler_cancel(f.scheduler, &waits, LB_ECANCELLED);
    await_unlocked(&f, &f.released, 1);
    assert_int_equal(waits.outcome.status, LB_ECANCELLED);
    /* One that runs is answered while the model still works for it, and released after. */
    lb_scheduler_cancel(f.scheduler, &runs, LB_ETIMEOUT);
    lb_scheduler_cancel(f.scheduler, &runs, LB_ECANCELLED);
    await_unlocked(&f, &f.answered, 2);
    assert_int_equal(runs.outcome.status, LB_ETIMEOUT);
    assert_false(runs.released);
    permit(&f, 2);
    await_unlocked(&f, &f.released, 3);
    assert_int_equal(stays.outcome.status, LB_OK);
    /* Nothing was computed for them afterwards. */
    assert_int_equal(f.call_count, 2);
    assert_int_equal(f.calls[1].owners[0], 3);
    lb_scheduler_cancel(f.scheduler, &runs, LB_ECANCELLED);   /* unknown by now */
    close_fixture(&f);
    drop(&runs), drop(&waits), drop(&stays);
}

static void test_deadlines(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 1000, 10);
    test_job first = hold(&f), late = make(&f, 1, 1, 10), slow = make(&f, 2, 1, 10);
    submit(&f, &first);
    await_unlocked(&f, &f.entered, 1);
    late.job.deadline_ms = lb_clock_ms() - 1;
    submit(&f, &late);
    permit(&f, 1);
    await_unlocked(&f, &f.released, 2);
    assert_int_equal(late.outcome.status, LB_ETIMEOUT);
    assert_int_equal(f.call_count, 1);   /* no work was done for it */
    /* One that passes during its last batch: nobody waits for the result any more. */
    slow.job.deadline_ms = lb_clock_ms() + 50;
    submit(&f, &slow);
    await_unlocked(&f, &f.entered, 2);
    while (lb_clock_ms() <= slow.job.deadline_ms)
        lb_sleep_ms(5);
    permit(&f, 1);
    await_unlocked(&f, &f.released, 3);
    assert_int_equal(slow.outcome.status, LB_ETIMEOUT);
    assert_int_equal(f.call_count, 2);
    close_fixture(&f);
    drop(&first), drop(&late), drop(&slow);
}

/* A sequence that breaks the model's arithmetic fails its own job only. */
static void test_failure_is_the_jobs_own(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 1000, 100);
    f.poison = 2;
    test_job first = hold(&f), a = make(&f, 1, 1, 10), bad = make(&f, 2, 1, 10),
             c = make(&f, 3, 1, 10);
    submit(&f, &first);
    await_unlocked(&f, &f.entered, 1);
    submit(&f, &a);
    submit(&f, &bad);
    submit(&f, &c);
    permit(&f, CALLS_MAX);
    await_unlocked(&f, &f.released, 4);
    assert_int_equal(a.outcome.status, LB_OK);
    assert_int_equal(bad.outcome.status, LB_ENUMERIC);
    assert_int_equal(c.outcome.status, LB_OK);
    test_job after = make(&f, 4, 1, 10);
    submit(&f, &after);
    await_unlocked(&f, &f.released, 5);
    assert_int_equal(after.outcome.status, LB_OK);
    close_fixture(&f);
    drop(&first), drop(&a), drop(&bad), drop(&c), drop(&after);
}

static test_job make_completion(fixture *f, uint32_t mark, uint32_t prompts, lb_rollout *rollouts)
{
    test_job t = make(f, mark, prompts, 4);
    t.prompts = calloc(prompts, sizeof *t.prompts);
    assert_non_null(t.prompts);
    for (uint32_t i = 0; i < prompts; i++)
        t.prompts[i] = (lb_sequence){t.tokens, 4};
    t.job.prompts = t.prompts;
    t.job.prompt_count = prompts;
    t.job.params.max_new_tokens = 6;
    t.job.rollouts = rollouts;
    t.job.completed = completed;
    return t;
}

static void test_completes_then_scores(void **state)
{
    (void)state;
    fixture f;
    lb_rollout rollouts[5] = {{0}};
    open_fixture(&f, 1000, 20);
    test_job t = make_completion(&f, 1, 5, rollouts);
    submit(&f, &t);
    permit(&f, CALLS_MAX);
    await_unlocked(&f, &f.released, 1);
    assert_int_equal(t.outcome.status, LB_OK);
    assert_true(t.completed);
    /* Prompts by two (4 + 6 tokens each), rows numbered through; then one scoring call. */
    const size_t want[] = {2, 2, 1, 5};
    assert_int_equal(f.call_count, 4);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(f.calls[i].count, want[i]);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(rollouts[i].count, i + 1);
    close_fixture(&f);
    drop(&t);
}

static void test_cancel_stops_a_completion(void **state)
{
    (void)state;
    fixture f;
    lb_rollout rollouts[5] = {{0}};
    open_fixture(&f, 1000, 20);
    test_job t = make_completion(&f, 1, 5, rollouts);
    submit(&f, &t);
    await_unlocked(&f, &f.entered, 1);
    lb_scheduler_cancel(f.scheduler, &t, LB_ECANCELLED);
    permit(&f, CALLS_MAX);
    await_unlocked(&f, &f.released, 1);
    assert_true(f.saw_cancel);
    assert_false(t.completed);
    assert_int_equal(t.outcome.status, LB_ECANCELLED);
    assert_int_equal(f.call_count, 1);
    close_fixture(&f);
    drop(&t);
}

static void test_drain(void **state)
{
    (void)state;
    fixture f;
    lb_err err = {0};
    open_fixture(&f, 1000, 10);
    test_job runs = make(&f, 1, 1, 10), waits = make(&f, 2, 1, 10), late = make(&f, 3, 1, 10);
    submit(&f, &runs);
    await_unlocked(&f, &f.entered, 1);
    submit(&f, &waits);
    lb_scheduler_drain(f.scheduler, 30);   /* nobody permits: both are answered, not finished */
    assert_int_equal(runs.outcome.status, LB_EUNAVAILABLE);
    assert_int_equal(waits.outcome.status, LB_EUNAVAILABLE);
    assert_int_equal(lb_scheduler_submit(f.scheduler, &late.job, &err), LB_EUNAVAILABLE);
    close_fixture(&f);
    assert_int_equal(f.released, 2);

    open_fixture(&f, 1000, 10);
    test_job done = make(&f, 4, 1, 10);
    permit(&f, 1);
    submit(&f, &done);
    lb_scheduler_drain(f.scheduler, WAIT_MS);
    assert_int_equal(done.outcome.status, LB_OK);
    close_fixture(&f);
    drop(&runs), drop(&waits), drop(&late), drop(&done);
}

/* A job without anything to compute is answered too. */
static void test_empty_job(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, 10, 10);
    test_job t = make(&f, 1, 1, 1);
    t.job.request_count = 0;
    submit(&f, &t);
    await_unlocked(&f, &f.released, 1);
    assert_int_equal(t.outcome.status, LB_OK);
    assert_int_equal(f.call_count, 0);
    close_fixture(&f);
    drop(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batches_by_tokens),
        cmocka_unit_test(test_large_job_starves_nobody),
        cmocka_unit_test(test_turns_go_round),
        cmocka_unit_test(test_long_sequences_come_through),
        cmocka_unit_test(test_full_queue_refuses),
        cmocka_unit_test(test_cancel_before_and_during),
        cmocka_unit_test(test_deadlines),
        cmocka_unit_test(test_failure_is_the_jobs_own),
        cmocka_unit_test(test_completes_then_scores),
        cmocka_unit_test(test_cancel_stops_a_completion),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_empty_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
