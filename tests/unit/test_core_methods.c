/* SPDX-License-Identifier: Apache-2.0
 *
 * Jobs of the other method, and jobs that go on from another job's adapter.
 */
#include "server/coordinator/core.h"
#include "server/store/store.h"
#include "tests/unit/core_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define FIRST "ftjob-0123456789abcdef01234567"
#define SECOND "ftjob-ffffffffffffffffffffffff"
#define SUPERVISED_HYPER                                                                      \
    "{\"max_steps\":2,\"batch_size\":2,\"units_per_step\":2,\"learning_rate\":0.01,"          \
    "\"checkpoint_every\":2,\"lora\":{\"r\":2,\"alpha\":4,"                                   \
    "\"target_modules\":[\"q_proj\",\"v_proj\"]}}"

static void finish(world *w, const char *job)
{
    world_lease lease;
    while (!world_succeeded(w, job)) {
        assert_true(world_lease_unit(w, "w1", &lease));
        assert_int_equal(world_push(w, &lease, "w1"), 201);
        w->now_ms += 10;
        world_tick(w);
    }
}

static void create_supervised(world *w, const char *id)
{
    lb_core_event event = world_job_event(w, id, 2, 2, 7);
    snprintf(event.job.method, sizeof event.job.method, "supervised");
    event.job.teacher[0] = 0;
    free(event.job.hyperparameters);
    event.job.hyperparameters = strdup(SUPERVISED_HYPER);
    assert_non_null(event.job.hyperparameters);
    world_step(w, &event);
}

/* No teacher is needed, and what only rollouts have is null. */
static void test_supervised_job(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    char text[64];
    world_open(w, 1);
    w->config.teacher_count = 0;
    world_restart(w);
    world_create(w, SECOND, 1, 1, 7);    /* a distillation has no teacher here */
    assert_int_equal(world_reply_to(w, 1)->code, 404);
    create_supervised(w, FIRST);
    assert_int_equal(world_reply_to(w, 1)->code, 200);
    finish(w, FIRST);
    const world_reply *reply = world_ask(w, LB_EVENT_JOB_GET, FIRST);
    world_member(reply, "method", "type", text, sizeof text);
    assert_string_equal(text, "supervised");
    assert_non_null(strstr(reply->body, "\"teacher_kl\":null"));
    assert_null(strstr(reply->body, "\"teacher\":{"));
    reply = world_ask(w, LB_EVENT_RUN_GET, FIRST);
    assert_non_null(strstr(reply->body, "\"method\":\"supervised\""));
    assert_non_null(strstr(reply->body, "\"teacher\":null"));
    world_close(w);
    free(w);
}

static int create_from(world *w, const char *id, const char *from, uint64_t seed)
{
    lb_core_event event = world_job_event(w, id, 3, 2, seed);
    snprintf(event.job.from_adapter, sizeof event.job.from_adapter, "%s", from);
    world_step(w, &event);
    return world_reply_to(w, 1)->code;
}

/* Version 0 is the other job's version, also after a restart, and the result is not that of a job
 * which begins anew. */
static void test_from_adapter(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    char first[LB_SHA256_HEX], start[LB_SHA256_HEX], end[LB_SHA256_HEX];
    world_lease lease;
    world_open(w, 1);
    world_create(w, FIRST, 2, 2, 7);
    finish(w, FIRST);
    world_adapter_sha(w, "quick-v2", first);
    assert_int_equal(create_from(w, SECOND, "quick-v3", 7), 404);
    assert_int_equal(create_from(w, SECOND, "none-latest", 7), 404);
    assert_int_equal(create_from(w, SECOND, "quick-latest", 7), 200);
    assert_non_null(strstr(world_reply_to(w, 1)->body, "\"from_adapter\":\"quick-v2\""));
    world_adapter_sha(w, "quick-ffffff-v0", start);
    assert_string_equal(start, first);
    world_restart(w);
    assert_true(world_lease_unit(w, "w1", &lease));
    assert_string_equal(lease.adapter, first);
    assert_int_equal(world_push(w, &lease, "w1"), 201);
    world_restart(w);
    finish(w, SECOND);
    world_adapter_sha(w, "quick-ffffff-v3", end);
    assert_string_not_equal(end, first);
    world_close(w);
    free(w);
}

/* The rank of the new job must be the old one's. */
static void test_from_adapter_of_another_shape(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_open(w, 1);
    create_supervised(w, FIRST);
    lb_core_event event = world_job_event(w, SECOND, 3, 2, 7);
    char *rank = strstr(event.job.hyperparameters, "\"r\":2");
    assert_non_null(rank);
    rank[4] = '3';
    snprintf(event.job.from_adapter, sizeof event.job.from_adapter, "quick-v0");
    world_step(w, &event);
    const world_reply *reply = world_reply_to(w, 1);
    assert_int_equal(reply->code, 400);
    assert_string_equal(reply->field, "from_adapter");
    world_close(w);
    free(w);
}

/* ---- handshakes ---- */

static int shake(world *w, const char *job, const lb_handshake *handshake)
{
    lb_core_event event = world_handshake_event(job, handshake);
    world_step(w, &event);
    return world_reply_to(w, 1)->code;
}

static const world_reply *push_without(world *w)
{
    lb_core_event event = world_lease_event("w1", 0, 1);
    world_lease lease;
    world_step(w, &event);
    assert_true(world_parse_lease(world_reply_to(w, 1)->body, &lease));
    assert_int_equal(world_push(w, &lease, "w1"), 409);
    return world_reply_to(w, 1);
}

/* No step before a handshake; the first is kept over a restart; later ones must be like it. */
static void test_handshake_is_pinned(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_open(w, 1);
    lb_handshake good = world_handshake(w->config.models[0].tokenizer_sha, 'b'), other = good;
    world_create(w, FIRST, 2, 2, 7);
    (void)push_without(w);
    assert_int_equal(shake(w, FIRST, &good), 200);
    world_restart(w);
    const world_reply *reply = world_ask(w, LB_EVENT_JOB_GET, FIRST);
    assert_non_null(strstr(reply->body, "\"handshake\":{\"student\""));
    assert_int_equal(shake(w, FIRST, &good), 200);
    other.teacher.model_sha[0] = 'c';
    assert_int_equal(shake(w, FIRST, &other), 409);
    other = good;
    other.probe.teacher_logprob = -2.02;
    assert_int_equal(shake(w, FIRST, &other), 409);
    finish(w, FIRST);    /* the job goes on */
    assert_int_equal(shake(w, FIRST, &good), 410);
    world_close(w);
    free(w);
}

/* A mismatch ends the job before its first step, with the figure. */
static void test_handshake_ends_the_job(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    char text[200];
    world_open(w, 1);
    lb_handshake bad = world_handshake(w->config.models[0].tokenizer_sha, 'b');
    bad.teacher.stops[0] = 4;
    world_create(w, FIRST, 2, 2, 7);
    assert_int_equal(shake(w, FIRST, &bad), 409);
    const world_reply *reply = world_ask(w, LB_EVENT_JOB_GET, FIRST);
    world_member(reply, "error", "code", text, sizeof text);
    assert_string_equal(text, "handshake_refused");
    world_member(reply, "error", "message", text, sizeof text);
    assert_non_null(strstr(text, "[3]"));
    assert_non_null(strstr(text, "[4]"));
    /* A teacher that could not be measured, too. */
    world_create(w, SECOND, 2, 2, 7);
    lb_core_event event = {.type = LB_EVENT_HANDSHAKE, .ticket = world_ticket(1)};
    snprintf(event.id, sizeof event.id, "%s", SECOND);
    (void)lb_fail(&event.failure, LB_ECONFLICT, "probe", "the teacher's logprob is nan");
    world_step(w, &event);
    assert_int_equal(world_reply_to(w, 1)->code, 409);
    world_member(world_ask(w, LB_EVENT_JOB_GET, SECOND), "error", "message", text, sizeof text);
    assert_string_equal(text, "the teacher's logprob is nan");
    /* And a job without a teacher has no handshake. */
    create_supervised(w, "ftjob-aaaaaaaaaaaaaaaaaaaaaaaa");
    bad.teacher.stops[0] = 3;
    assert_int_equal(shake(w, "ftjob-aaaaaaaaaaaaaaaaaaaaaaaa", &bad), 400);
    world_close(w);
    free(w);
}

/* ---- units that fail ---- */

static void fail_unit(world *w, const char *worker)
{
    world_lease lease;
    assert_true(world_lease_unit(w, worker, &lease));
    lb_core_event event = {.type = LB_EVENT_RELEASE, .ticket = world_ticket(1),
                           .fences = {lease.fence}, .fence_count = 1};
    snprintf(event.worker, sizeof event.worker, "%s", worker);
    (void)lb_fail(&event.failure, LB_ECONFLICT, "teacher_logprobs", "entry 8 is nan");
    world_step(w, &event);
    assert_int_equal(world_reply_to(w, 1)->code, 200);
}

/* A push in between begins the count anew; a lease handed back without a reason does not count. */
static void test_failures_end_the_job(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    char text[200];
    world_lease lease;
    world_open(w, 1);
    world_create(w, FIRST, 2, 2, 7);
    for (unsigned i = 1; i < LB_CORE_FAILURES_MAX; i++)
        fail_unit(w, "w1");
    assert_true(world_lease_unit(w, "w1", &lease));
    assert_int_equal(world_push(w, &lease, "w1"), 201);
    for (unsigned i = 1; i < LB_CORE_FAILURES_MAX; i++)
        fail_unit(w, "w1");
    world_status(w, FIRST, text, sizeof text);
    assert_string_equal(text, "running");
    fail_unit(w, "w2");
    const world_reply *reply = world_ask(w, LB_EVENT_JOB_GET, FIRST);
    world_member(reply, "error", "code", text, sizeof text);
    assert_string_equal(text, "units_failing");
    world_member(reply, "error", "message", text, sizeof text);
    assert_string_equal(text, "8 units failed in a row; the last: entry 8 is nan");
    world_close(w);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_supervised_job),
        cmocka_unit_test(test_from_adapter),
        cmocka_unit_test(test_from_adapter_of_another_shape),
        cmocka_unit_test(test_handshake_is_pinned),
        cmocka_unit_test(test_handshake_ends_the_job),
        cmocka_unit_test(test_failures_end_the_job),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
