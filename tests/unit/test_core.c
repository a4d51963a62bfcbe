/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/adam.h"
#include "proto/frames.h"
#include "server/coordinator/core.h"
#include "server/store/store.h"
#include "tests/unit/core_world.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define JOB "ftjob-0123456789abcdef01234567"
#define OTHER "ftjob-ffffffffffffffffffffffff"
#define STEPS 5
#define UNITS 3
#define SEED 7

/* Lets one worker finish the job. */
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

static void run_reference(uint32_t units, char sha[LB_SHA256_HEX])
{
    world *w = malloc(sizeof *w);
    world_open(w, 1);
    world_create(w, JOB, STEPS, units, SEED);
    finish(w, JOB);
    world_adapter_sha(w, "quick-v5", sha);
    world_close(w);
    free(w);
}

/* The core's result against the same steps done here with all units in memory at once. */
static void test_commit_is_tree_and_adam(void **state)
{
    (void)state;
    const uint32_t units = 7;
    char expected[LB_SHA256_HEX], found[LB_SHA256_HEX];
    world *w = malloc(sizeof *w);
    uint8_t digest[LB_SHA256_BYTES];
    lb_lora_layout layout;
    lb_lora_config lora = {.rank = 2, .alpha = 4,
                           .targets = 1u << LB_PROJ_Q | 1u << LB_PROJ_V};
    lb_adam adam;
    lb_adam_config config = lb_adam_defaults();
    world_open(w, 1);
    world_create(w, JOB, STEPS, units, SEED);
    assert_int_equal(lb_lora_layout_create(&w->config.models[0].config, &lora, &layout, NULL),
                     LB_OK);
    assert_int_equal(lb_adam_create(layout.elements, &adam, NULL), LB_OK);
    float *weights = calloc(layout.elements, sizeof *weights);
    float *leaves[7];
    lb_lora_init(&layout, SEED, weights);
    world_adapter_sha(w, "quick-v0", expected);
    for (uint32_t step = 0; step < STEPS; step++) {
        uint64_t tokens = 0;
        for (uint32_t u = 0; u < units; u++) {
            leaves[u] = malloc(layout.elements * sizeof *weights);
            world_gradient(expected, step, u, leaves[u], layout.elements);
            tokens += world_tokens(step, u);
        }
        lb_tree_reduce(leaves, units, layout.elements, leaves[0]);
        assert_int_equal(lb_adam_step(&adam, &config, 0.01, 1.0 / (double)tokens, leaves[0],
                                      weights, NULL), LB_OK);
        for (uint32_t u = 0; u < units; u++)
            free(leaves[u]);
        lb_buf adapter = {0};
        assert_int_equal(lb_lora_encode(&layout, weights, &adapter, NULL), LB_OK);
        lb_sha256_of(adapter.data, adapter.length, digest);
        lb_sha256_hex(digest, expected);
        lb_buf_free(&adapter);
    }
    finish(w, JOB);
    world_adapter_sha(w, "quick-latest", found);
    assert_string_equal(found, expected);
    free(weights);
    lb_adam_free(&adam);
    lb_lora_layout_free(&layout);
    world_close(w);
    free(w);
}

/* ---- any number of workers in any order ---- */

typedef struct crowd {
    world_lease leases[5];
    char names[5][16];
    unsigned count;
    bool restarts;
} crowd;

static void crowd_push(world *w, crowd *c, unsigned k)
{
    int code = world_push(w, &c->leases[k], c->names[k]);
    /* 410: this worker slept through the step's commit with bytes that differ in nothing but the
     * adapter they came from, which cannot happen to honest ones; so never seen here. */
    assert_true(code == 201 || code == 200);
}

static void crowd_turn(world *w, crowd *c)
{
    unsigned k = world_draw(w, c->count);
    world_lease *lease = &c->leases[k];
    if (!lease->held) {
        (void)world_lease_unit(w, c->names[k], lease);
        return;
    }
    lb_core_event event = {.type = LB_EVENT_RELEASE, .ticket = world_ticket(1),
                           .fences = {lease->fence}, .fence_count = 1};
    snprintf(event.worker, sizeof event.worker, "%s", c->names[k]);
    switch (world_draw(w, 10)) {
    case 0:                          /* everybody sleeps past the lease */
        w->now_ms += WORLD_TTL_MS + 1;
        break;
    case 1:                          /* an answer was lost: the same bytes again */
        crowd_push(w, c, k);
        crowd_push(w, c, k);
        lease->held = false;
        break;
    case 2:                          /* a late duplicate is kept for another turn */
        crowd_push(w, c, k);
        break;
    case 3:
        world_step(w, &event);
        lease->held = false;
        break;
    case 4:                          /* the worker dies */
        lease->held = false;
        break;
    case 5:
        if (c->restarts)
            world_restart(w);
        break;
    case 6:
        event.type = LB_EVENT_RENEW;
        world_step(w, &event);
        break;
    default:
        crowd_push(w, c, k);
        lease->held = false;
        break;
    }
}

static void test_any_workers_same_adapter(void **state)
{
    (void)state;
    char expected[LB_SHA256_HEX], found[LB_SHA256_HEX];
    world *w = malloc(sizeof *w);
    run_reference(UNITS, expected);
    for (uint64_t seed = 1; seed <= 60; seed++) {
        crowd c = {.count = (unsigned)(1 + seed % 5), .restarts = seed % 2 == 0};
        for (unsigned k = 0; k < c.count; k++)
            snprintf(c.names[k], sizeof c.names[k], "w%u", k);
        world_open(w, seed);
        world_create(w, JOB, STEPS, UNITS, SEED);
        unsigned turns = 0;
        while (!world_succeeded(w, JOB)) {
            crowd_turn(w, &c);
            w->now_ms += 100;
            world_tick(w);
            assert_true(turns++ < 3000);
        }
        world_adapter_sha(w, "quick-v5", found);
        if (strcmp(found, expected) != 0)
            fail_msg("seed %" PRIu64 ": %s, expected %s", seed, found, expected);
        world_close(w);
    }
    free(w);
}

static void test_restart_at_every_event(void **state)
{
    (void)state;
    char expected[LB_SHA256_HEX], found[LB_SHA256_HEX];
    world *w = malloc(sizeof *w);
    world_lease lease;
    run_reference(UNITS, expected);
    world_open(w, 3);
    world_create(w, JOB, STEPS, UNITS, SEED);
    world_restart(w);
    while (!world_succeeded(w, JOB)) {
        world_restart(w);
        if (world_lease_unit(w, "w1", &lease)) {
            world_restart(w);
            assert_int_equal(world_push(w, &lease, "w1"), 201);
            world_restart(w);
            assert_int_equal(world_push(w, &lease, "w1"), 200);
        }
        world_tick(w);
    }
    world_adapter_sha(w, "quick-v5", found);
    assert_string_equal(found, expected);
    /* What is left: five adapters and the first, their config, the last optimizer. */
    assert_int_equal(w->blob_count, 8);
    world_close(w);
    free(w);
}

/* ---- what a push is answered ---- */

typedef enum spoil {
    SPOIL_NONE, SPOIL_FENCE_FUTURE, SPOIL_OTHER_WORKER, SPOIL_CLASS, SPOIL_UNIT_RANGE,
    SPOIL_STEP_FUTURE, SPOIL_JOB, SPOIL_FRAME_STEP, SPOIL_FRAME_UNIT, SPOIL_NAN, SPOIL_TOKENS,
    SPOIL_SHORT, SPOIL_OTHER_BYTES,
} spoil;

static const struct push_case {
    const char *name;
    spoil spoil;
    int code;
    const char *error;     /* error.code of a refusal, or the field of an error */
} push_cases[] = {
    {"fence never given", SPOIL_FENCE_FUTURE, 409, "fence_mismatch"},
    {"another worker's lease", SPOIL_OTHER_WORKER, 409, "fence_mismatch"},
    {"unit out of range", SPOIL_UNIT_RANGE, 404, "unit"},
    {"step not open", SPOIL_STEP_FUTURE, 409, "stale_policy"},
    {"unknown job", SPOIL_JOB, 404, "job"},
    {"frame of another step", SPOIL_FRAME_STEP, 400, "step"},
    {"frame of another unit", SPOIL_FRAME_UNIT, 400, "unit"},
    {"not finite", SPOIL_NAN, 400, NULL},
    {"more tokens than possible", SPOIL_TOKENS, 400, "tokens"},
    {"cut short", SPOIL_SHORT, 400, NULL},
    {"good", SPOIL_NONE, 201, NULL},
    {"good again", SPOIL_NONE, 200, NULL},
    {"other bytes", SPOIL_OTHER_BYTES, 409, "digest_conflict"},
};

static void spoil_frame(spoil how, world_lease *lease, lb_buf *frame, const world *w)
{
    const size_t step_at = 8, unit_at = 12, tokens_at = 24;
    world_frame(w, lease, how == SPOIL_NAN ? NAN : how == SPOIL_OTHER_BYTES ? 1.0f : 0.0f, frame);
    if (how == SPOIL_FRAME_STEP)
        frame->data[step_at] ^= 1;
    if (how == SPOIL_FRAME_UNIT)
        frame->data[unit_at] ^= 1;
    if (how == SPOIL_TOKENS)
        frame->data[tokens_at + 3] = 1;
    if (how == SPOIL_SHORT)
        frame->length--;
}

static void spoil_event(spoil how, lb_core_event *event)
{
    if (how == SPOIL_FENCE_FUTURE)
        event->fences[0] += 1000000;
    if (how == SPOIL_OTHER_WORKER)
        snprintf(event->worker, sizeof event->worker, "w2");
    if (how == SPOIL_CLASS)
        snprintf(event->numerics_class, sizeof event->numerics_class, "ffff");
    if (how == SPOIL_UNIT_RANGE)
        event->unit = UNITS;
    if (how == SPOIL_STEP_FUTURE)
        event->step++;
    if (how == SPOIL_JOB)
        snprintf(event->id, sizeof event->id, "nobody");
}

static const world_reply *push_spoiled(world *w, const world_lease *lease, spoil how)
{
    lb_buf frame = {0};
    world_lease copy = *lease;
    spoil_frame(how, &copy, &frame, w);
    lb_core_event event = world_push_event(&copy, "w1", &frame);
    spoil_event(how, &event);
    world_step(w, &event);
    lb_buf_free(&frame);
    return world_reply_to(w, 1);
}

static void test_push_answers(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease lease;
    char code[64];
    world_open(w, 1);
    world_create(w, JOB, STEPS, UNITS, SEED);
    assert_true(world_lease_unit(w, "w1", &lease));
    for (size_t i = 0; i < sizeof push_cases / sizeof *push_cases; i++) {
        const struct push_case *c = &push_cases[i];
        const world_reply *reply = push_spoiled(w, &lease, c->spoil);
        assert_non_null(reply);
        if (reply->code != c->code)
            fail_msg("%s: %d %s%s", c->name, reply->code, reply->body, reply->message);
        world_member(reply, "error", "code", code, sizeof code);
        if (c->error && strcmp(code, c->error) != 0 && strcmp(reply->field, c->error) != 0)
            fail_msg("%s: code %s field %s", c->name, code, reply->field);
    }
    /* The class is pinned by the first push that was stored. */
    assert_true(world_lease_unit(w, "w1", &lease));
    const world_reply *reply = push_spoiled(w, &lease, SPOIL_CLASS);
    world_member(reply, "error", "code", code, sizeof code);
    assert_int_equal(reply->code, 409);
    assert_string_equal(code, "class_mismatch");
    world_close(w);
    free(w);
}

static void test_push_after_commit_and_cancel(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease lease = {0};
    char status[32];
    world_open(w, 1);
    world_create(w, JOB, STEPS, 1, SEED);
    assert_true(world_lease_unit(w, "w1", &lease));
    assert_int_equal(world_push(w, &lease, "w1"), 201);
    world_tick(w);
    assert_int_equal(world_push(w, &lease, "w1"), 200);
    assert_int_equal(push_spoiled(w, &lease, SPOIL_OTHER_BYTES)->code, 410);
    assert_true(world_lease_unit(w, "w1", &lease));
    assert_int_equal(lease.step, 1);
    assert_int_equal(world_ask(w, LB_EVENT_JOB_CANCEL, JOB)->code, 200);
    world_status(w, JOB, status, sizeof status);
    assert_string_equal(status, "cancelled");
    assert_int_equal(world_push(w, &lease, "w1"), 410);
    assert_false(world_lease_unit(w, "w1", &lease));
    const world_reply *reply = world_ask(w, LB_EVENT_JOB_CANCEL, JOB);
    assert_int_equal(reply->code, 400);
    assert_string_equal(reply->field, "job");
    assert_int_equal(world_ask(w, LB_EVENT_JOB_CANCEL, OTHER)->code, 404);
    world_restart(w);
    world_status(w, JOB, status, sizeof status);
    assert_string_equal(status, "cancelled");
    world_close(w);
    free(w);
}

/* A queued job never gave a lease, so whatever is pushed to it has no good fence: were it stored,
 * the commit of a job that was never started would find no row to move. */
static void test_push_to_queued_job(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease lease;
    world_open(w, 1);
    world_create(w, JOB, STEPS, 1, SEED);
    assert_true(world_lease_unit(w, "w1", &lease));
    assert_int_equal(world_push(w, &lease, "w1"), 201);
    world_create(w, OTHER, STEPS, 1, SEED);
    snprintf(lease.job, sizeof lease.job, "%s", OTHER);
    lease.step = 0;
    assert_int_equal(world_push(w, &lease, "w1"), 409);
    world_tick(w);
    assert_int_equal(w->exit_code, 0);
    world_close(w);
    free(w);
}

/* ---- leases ---- */

static void test_lease_times(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease first, second;
    char lost[64];
    world_open(w, 1);
    world_create(w, JOB, STEPS, 1, SEED);
    assert_true(world_lease_unit(w, "w1", &first));
    assert_false(world_lease_unit(w, "w2", &second));
    for (int i = 0; i < 10; i++) {
        w->now_ms += WORLD_TTL_MS - 1;
        lb_core_event renew = {.type = LB_EVENT_RENEW, .ticket = world_ticket(1),
                               .fences = {first.fence}, .fence_count = 1};
        snprintf(renew.worker, sizeof renew.worker, "w1");
        world_step(w, &renew);
        assert_non_null(strstr(world_reply_to(w, 1)->body, "\"lost\":[]"));
        assert_int_equal(lb_core_next_ms(w->core), w->now_ms + WORLD_TTL_MS);
    }
    w->now_ms += WORLD_TTL_MS;
    assert_true(world_lease_unit(w, "w2", &second));
    assert_true(second.fence > first.fence);
    lb_core_event late = {.type = LB_EVENT_RENEW, .ticket = world_ticket(1),
                          .fences = {first.fence}, .fence_count = 1};
    snprintf(late.worker, sizeof late.worker, "w1");
    world_step(w, &late);
    snprintf(lost, sizeof lost, "\"lost\":[%" PRIu64 "]", first.fence);
    assert_non_null(strstr(world_reply_to(w, 1)->body, lost));
    /* The late worker's result is as good as any: the unit is missing and the digest is right. */
    assert_int_equal(world_push(w, &first, "w1"), 201);
    assert_int_equal(world_push(w, &second, "w2"), 200);
    world_close(w);
    free(w);
}

static void test_fences_never_repeat(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease lease;
    uint64_t last = 0;
    world_open(w, 1);
    world_create(w, JOB, STEPS, 1, SEED);
    for (int i = 0; i < 2500; i++) {
        if (i % 600 == 0)
            world_restart(w);
        assert_true(world_lease_unit(w, "w1", &lease));
        assert_true(lease.fence > last);
        last = lease.fence;
        w->now_ms += WORLD_TTL_MS;
    }
    world_close(w);
    free(w);
}

static void test_long_polls(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease lease;
    world_open(w, 1);
    for (uintptr_t t = 1; t <= 4; t++) {
        lb_core_event event = world_lease_event("w1", 5000 + 1000 * (uint32_t)t, t);
        world_step(w, &event);
        assert_int_equal(w->reply_count, 0);
    }
    assert_int_equal(lb_core_next_ms(w->core), w->now_ms + 6000);
    lb_core_event gone = {.type = LB_EVENT_ABANDON, .waiter = world_ticket(2)};
    world_step(w, &gone);
    assert_int_equal(world_reply_to(w, 2)->code, 204);
    w->now_ms += 6000;
    world_tick(w);
    assert_int_equal(w->reply_count, 1);
    assert_int_equal(world_reply_to(w, 1)->code, 204);
    /* A new job feeds the oldest waiter; the other goes on waiting. */
    lb_core_event create = world_job_event(w, JOB, STEPS, 1, SEED);
    create.ticket = world_ticket(9);
    w->elements = 0;
    world_step(w, &create);
    assert_int_equal(w->reply_count, 2);
    assert_true(world_parse_lease(world_reply_to(w, 3)->body, &lease));
    lb_core_event drain = {.type = LB_EVENT_DRAIN};
    world_step(w, &drain);
    assert_int_equal(world_reply_to(w, 4)->code, 204);
    lb_core_event late = world_lease_event("w1", 5000, 5);
    world_step(w, &late);
    assert_int_equal(world_reply_to(w, 5)->code, 204);
    world_close(w);
    free(w);
}

static void test_metrics_wait(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease lease;
    world_open(w, 1);
    world_create(w, JOB, 2, 1, SEED);
    for (uint32_t step = 0; step < 2; step++) {
        lb_core_event event = {.type = LB_EVENT_JOB_METRICS, .ticket = world_ticket(7),
                               .after_step = step, .limit = 10, .wait_ms = 60000};
        snprintf(event.id, sizeof event.id, JOB);
        assert_true(world_lease_unit(w, "w1", &lease));
        world_step(w, &event);
        assert_int_equal(w->reply_count, 0);
        w->now_ms += 2000;
        assert_int_equal(world_push(w, &lease, "w1"), 201);
        world_tick(w);
        const world_reply *reply = world_reply_to(w, 7);
        assert_non_null(reply);
        assert_non_null(strstr(reply->body, step == 0 ? "\"step\":1" : "\"step\":2"));
        assert_non_null(strstr(reply->body, "\"teacher_kl\":0.5"));
        assert_non_null(strstr(reply->body, "\"accuracy\":0.5"));
        assert_non_null(strstr(reply->body, "\"time/total\":2"));
    }
    /* The job is over: nothing more can come, so nothing waits. */
    lb_core_event event = {.type = LB_EVENT_JOB_METRICS, .ticket = world_ticket(7),
                           .after_step = 2, .limit = 10, .wait_ms = 60000};
    snprintf(event.id, sizeof event.id, JOB);
    world_step(w, &event);
    assert_string_equal(world_reply_to(w, 7)->body,
                        "{\"object\":\"list\",\"data\":[],\"has_more\":false}");
    world_close(w);
    free(w);
}

/* ---- several jobs ---- */

static void test_jobs_take_turns(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease leases[4];
    world_open(w, 1);
    world_create(w, JOB, STEPS, UNITS, SEED);
    world_create(w, OTHER, STEPS, UNITS, SEED + 1);
    for (int i = 0; i < 4; i++)
        assert_true(world_lease_unit(w, "w1", &leases[i]));
    assert_string_not_equal(leases[0].job, leases[1].job);
    assert_string_equal(leases[0].job, leases[2].job);
    assert_string_equal(leases[1].job, leases[3].job);
    world_close(w);
    free(w);
}

/* Two jobs with one configuration have the same blobs; the end of one must leave the other's. */
static void test_equal_jobs_share_blobs(void **state)
{
    (void)state;
    char first[LB_SHA256_HEX], second[LB_SHA256_HEX];
    world *w = malloc(sizeof *w);
    world_lease a, b;
    world_open(w, 1);
    world_create(w, JOB, STEPS, 1, SEED);
    world_create(w, OTHER, STEPS, 1, SEED);
    for (int step = 0; step < STEPS; step++) {
        assert_true(world_lease_unit(w, "w1", &a));
        assert_true(world_lease_unit(w, "w1", &b));
        assert_int_equal(world_push(w, &a, "w1"), 201);
        if (step == 2)
            assert_int_equal(world_ask(w, LB_EVENT_JOB_CANCEL, JOB)->code, 200);
        if (step == 2)
            break;
        assert_int_equal(world_push(w, &b, "w1"), 201);
        world_tick(w);
    }
    world_restart(w);
    finish(w, OTHER);
    run_reference(1, first);
    char name[96];
    world_member(world_ask(w, LB_EVENT_JOB_GET, OTHER), NULL, "fine_tuned_model", name,
                 sizeof name);
    assert_string_equal(name, "quick-ffffff-v5");
    world_adapter_sha(w, name, second);
    assert_string_equal(second, first);
    world_close(w);
    free(w);
}

static void test_idempotent_creation(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_open(w, 1);
    static const struct { char request; int code; } tries[] = {{'1', 200}, {'1', 200}, {'2', 409}};
    for (size_t i = 0; i < sizeof tries / sizeof *tries; i++) {
        lb_core_event event = world_job_event(w, JOB, STEPS, UNITS, SEED);
        memset(event.job.request_sha, tries[i].request, LB_SHA256_HEX - 1);
        world_step(w, &event);
        assert_int_equal(world_reply_to(w, 1)->code, tries[i].code);
        if (i == 0)
            world_restart(w);
    }
    const world_reply *list = world_ask(w, LB_EVENT_JOB_LIST, "");
    assert_non_null(strstr(list->body, "\"has_more\":false"));
    assert_null(strstr(strstr(list->body, "\"fine_tuning.job\"") + 1, "\"fine_tuning.job\""));
    world_close(w);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_commit_is_tree_and_adam),
        cmocka_unit_test(test_any_workers_same_adapter),
        cmocka_unit_test(test_restart_at_every_event),
        cmocka_unit_test(test_push_answers),
        cmocka_unit_test(test_push_after_commit_and_cancel),
        cmocka_unit_test(test_push_to_queued_job),
        cmocka_unit_test(test_lease_times),
        cmocka_unit_test(test_fences_never_repeat),
        cmocka_unit_test(test_long_polls),
        cmocka_unit_test(test_metrics_wait),
        cmocka_unit_test(test_jobs_take_turns),
        cmocka_unit_test(test_equal_jobs_share_blobs),
        cmocka_unit_test(test_idempotent_creation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
