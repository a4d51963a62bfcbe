/* SPDX-License-Identifier: Apache-2.0
 *
 * The core when the disk fails, fills up, forgets or lies: every writing call of a run fails once,
 * before or after it happened, and the final adapter is that of the run without faults.
 */
#include "proto/frames.h"
#include "server/coordinator/core.h"
#include "server/store/store.h"
#include "tests/unit/core_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define JOB "ftjob-0123456789abcdef01234567"
#define OTHER "ftjob-ffffffffffffffffffffffff"
#define STEPS 5
#define UNITS 2
#define SEED 7
#define TURNS_MAX 500

/* The store's functions get only its own pointer, so the wrappers below find their world here. */
static world *faulty;

/* Makes the n-th writing call fail: before it happens, or after it did, so that only the answer is
 * lost. */
#define FAULTY(call)                                                                          \
    bool fails = world_fails(faulty);                                                         \
    if (fails && faulty->fail_before)                                                         \
        return lb_fail(err, faulty->fail_status, NULL, "injected");                           \
    lb_status status = faulty->real.call;                                                     \
    return fails ? lb_fail(err, faulty->fail_status, NULL, "injected afterwards") : status

static lb_status faulty_fences(void *impl, uint64_t count, uint64_t *first, lb_err *err)
{
    FAULTY(fences(impl, count, first, err));
}

static lb_status faulty_job_insert(void *impl, const lb_job_row *row, const lb_event_row *event,
                                   lb_err *err)
{
    FAULTY(job_insert(impl, row, event, err));
}

static lb_status faulty_job_change(void *impl, const char *job, const lb_job_change *change,
                                   lb_err *err)
{
    FAULTY(job_change(impl, job, change, err));
}

static lb_status faulty_push_insert(void *impl, const char *job, const lb_push_row *row,
                                    const char *pin_class, lb_err *err)
{
    FAULTY(push_insert(impl, job, row, pin_class, err));
}

static lb_status faulty_step_commit(void *impl, const char *job, const lb_step_commit *commit,
                                    lb_err *err)
{
    FAULTY(step_commit(impl, job, commit, err));
}

static lb_status faulty_forget(void *impl, const char *job, uint32_t grads, uint32_t opts,
                               lb_visit_text *visit, void *arg, lb_err *err)
{
    FAULTY(forget(impl, job, grads, opts, visit, arg, err));
}

static void make_faulty(world *w)
{
    faulty = w;
    w->store->fences = faulty_fences;
    w->store->job_insert = faulty_job_insert;
    w->store->job_change = faulty_job_change;
    w->store->push_insert = faulty_push_insert;
    w->store->step_commit = faulty_step_commit;
    w->store->forget = faulty_forget;
}

/* What systemd does with a process that ended with 74. */
static void restart_if_stopped(world *w)
{
    if (w->exit_code == 0)
        return;
    assert_int_equal(w->exit_code, w->fail_status == LB_EGONE ? LB_EXIT_EPOCH : LB_EXIT_STORAGE);
    w->fail_at = 0;
    world_restart(w);
}

/* Creates the job (again, until it is there) and works until it has succeeded. */
static void run_job(world *w)
{
    unsigned turns = 0;
    world_lease lease;
    while (world_ask(w, LB_EVENT_JOB_GET, JOB)->code != 200) {
        world_create(w, JOB, STEPS, UNITS, SEED);
        restart_if_stopped(w);
        assert_true(turns++ < 10);
    }
    while (!world_succeeded(w, JOB)) {
        bool leased = world_lease_unit(w, "w1", &lease);
        restart_if_stopped(w);
        if (leased) {
            int code = world_push(w, &lease, "w1");
            restart_if_stopped(w);
            if (code != 201 && code != 200)
                (void)world_push(w, &lease, "w1");
        }
        w->now_ms += WORLD_TTL_MS / 2;
        world_tick(w);
        restart_if_stopped(w);
        assert_true(turns++ < TURNS_MAX);
    }
}

static void reference(char sha[LB_SHA256_HEX])
{
    world *w = malloc(sizeof *w);
    world_open(w, 1);
    run_job(w);
    world_adapter_sha(w, "quick-v5", sha);
    world_close(w);
    free(w);
}

static void test_every_write_fails_once(void **state)
{
    (void)state;
    static const struct { lb_status status; bool before; } kinds[] = {
        {LB_EIO, true}, {LB_EIO, false}, {LB_ENOSPACE, true}, {LB_ENOMEM, true},
    };
    char expected[LB_SHA256_HEX], found[LB_SHA256_HEX];
    world *w = malloc(sizeof *w);
    reference(expected);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        bool reached = true;
        uint64_t n = 0;
        while (reached) {
            world_open(w, 1);
            make_faulty(w);
            w->fail_status = kinds[k].status;
            w->fail_before = kinds[k].before;
            w->fail_at = ++n;
            run_job(w);
            reached = w->fail_at == 0;
            world_adapter_sha(w, "quick-v5", found);
            if (strcmp(found, expected) != 0)
                fail_msg("%s at call %" PRIu64 ": %s", lb_status_name(kinds[k].status), n, found);
            world_close(w);
        }
        assert_true(n > 40);   /* the run has that many writes, so the test did something */
    }
    free(w);
}

static void test_lost_epoch_stops(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease lease;
    world_open(w, 1);
    world_create(w, JOB, STEPS, 1, SEED);
    assert_true(world_lease_unit(w, "w1", &lease));
    make_faulty(w);
    w->fail_status = LB_EGONE;
    w->fail_before = true;
    w->fail_at = 2;            /* the blob, then the row */
    (void)world_push(w, &lease, "w1");
    assert_int_equal(w->exit_code, LB_EXIT_EPOCH);
    world_close(w);
    free(w);
}

/* Disk full at the commit: the job waits and goes on by itself when there is room. */
static void test_disk_full_waits(void **state)
{
    (void)state;
    world *w = malloc(sizeof *w);
    world_lease lease;
    char step[16];
    world_open(w, 1);
    world_create(w, JOB, STEPS, 1, SEED);
    assert_true(world_lease_unit(w, "w1", &lease));
    assert_int_equal(world_push(w, &lease, "w1"), 201);
    w->fail_status = LB_ENOSPACE;
    w->fail_before = true;
    for (int i = 0; i < 3; i++) {
        w->fail_at = 1;
        world_tick(w);
        assert_int_equal(w->exit_code, 0);
        world_member(world_ask(w, LB_EVENT_JOB_GET, JOB), "limbeck", "step", step, sizeof step);
        assert_string_equal(step, "0");
        w->now_ms = lb_core_next_ms(w->core);
    }
    w->fail_at = 0;
    world_tick(w);
    world_member(world_ask(w, LB_EVENT_JOB_GET, JOB), "limbeck", "step", step, sizeof step);
    assert_string_equal(step, "1");
    world_close(w);
    free(w);
}

/* ---- damage ---- */

static lb_status first_push(void *arg, const lb_push_row *row)
{
    memcpy(arg, row->digest, LB_SHA256_HEX);
    return LB_OK;
}

/* A unit's blob rots between push and commit: the unit is computed again. */
static void test_damaged_unit_is_recomputed(void **state)
{
    (void)state;
    char expected[LB_SHA256_HEX], found[LB_SHA256_HEX], digest[LB_SHA256_HEX] = "";
    world *w = malloc(sizeof *w);
    world_lease lease;
    reference(expected);
    world_open(w, 1);
    world_create(w, JOB, STEPS, UNITS, SEED);
    assert_true(world_lease_unit(w, "w1", &lease));
    assert_int_equal(world_push(w, &lease, "w1"), 201);
    assert_int_equal(w->store->pushes(w->store->impl, JOB, 0, first_push, digest, NULL), LB_OK);
    world_damage(w, digest);
    run_job(w);
    world_adapter_sha(w, "quick-v5", found);
    assert_string_equal(found, expected);
    world_close(w);
    free(w);
}

static void commit_steps(world *w, uint32_t count)
{
    world_lease lease;
    for (uint32_t i = 0; i < count * UNITS; i++) {
        assert_true(world_lease_unit(w, "w1", &lease));
        assert_int_equal(world_push(w, &lease, "w1"), 201);
        world_tick(w);
    }
}

typedef enum damage { DAMAGE_ADAPTER, DAMAGE_OPTIMIZER, DAMAGE_GRADIENT } damage;

static void damage_step(world *w, uint32_t step, damage what)
{
    lb_step_row row;
    assert_int_equal(w->store->step_get(w->store->impl, JOB, step, &row, NULL), LB_OK);
    world_damage(w, what == DAMAGE_ADAPTER ? row.adapter_sha
                    : what == DAMAGE_OPTIMIZER ? row.opt_sha : row.grad_sha);
}

/* Snapshots are versions 2 and 4; four steps are committed. */
static const struct damage_case {
    const char *name;
    struct { uint32_t step; damage what; } damages[2];
    size_t count;
    bool repaired;
} damage_cases[] = {
    {"newest optimizer", {{3, DAMAGE_OPTIMIZER}}, 1, true},
    {"newest adapter", {{3, DAMAGE_ADAPTER}}, 1, true},
    {"a gradient that is not needed", {{2, DAMAGE_GRADIENT}}, 1, true},
    {"both optimizers", {{3, DAMAGE_OPTIMIZER}, {1, DAMAGE_OPTIMIZER}}, 2, false},
    {"newest optimizer and a gradient", {{3, DAMAGE_OPTIMIZER}, {2, DAMAGE_GRADIENT}}, 2, false},
};

static void test_damage_is_repaired_or_named(void **state)
{
    (void)state;
    char expected[LB_SHA256_HEX], found[LB_SHA256_HEX], text[400];
    world *w = malloc(sizeof *w);
    reference(expected);
    for (size_t i = 0; i < sizeof damage_cases / sizeof *damage_cases; i++) {
        const struct damage_case *c = &damage_cases[i];
        world_open(w, 1);
        world_create(w, JOB, STEPS, UNITS, SEED);
        commit_steps(w, 4);
        for (size_t d = 0; d < c->count; d++)
            damage_step(w, c->damages[d].step, c->damages[d].what);
        world_restart(w);
        world_status(w, JOB, text, sizeof text);
        if (strcmp(text, c->repaired ? "running" : "failed") != 0)
            fail_msg("%s: %s", c->name, text);
        if (c->repaired) {
            run_job(w);
            world_adapter_sha(w, "quick-v5", found);
            assert_string_equal(found, expected);
        } else {
            world_member(world_ask(w, LB_EVENT_JOB_GET, JOB), "error", "code", text, sizeof text);
            assert_string_equal(text, "halted");
            world_member(world_ask(w, LB_EVENT_JOB_GET, JOB), "error", "message", text,
                         sizeof text);
            assert_non_null(strstr(text, "expected"));
            world_create(w, OTHER, STEPS, UNITS, SEED);   /* others go on */
            assert_int_equal(world_reply_to(w, 1)->code, 200);
        }
        world_close(w);
    }
    free(w);
}

/* A job whose recorded configuration is not what its digest says must not go on training. */
static void test_other_model_holds_the_job(void **state)
{
    (void)state;
    char text[400];
    world *w = malloc(sizeof *w);
    world_lease lease;
    world_open(w, 1);
    world_create(w, JOB, STEPS, UNITS, SEED);
    commit_steps(w, 1);
    w->config.models[0].config.vocab++;
    world_restart(w);
    world_status(w, JOB, text, sizeof text);
    assert_string_equal(text, "paused");
    assert_false(world_lease_unit(w, "w1", &lease));
    w->config.models[0].config.vocab--;
    world_restart(w);
    assert_true(world_lease_unit(w, "w1", &lease));
    world_close(w);
    free(w);
}

/* ---- nothing to learn from ---- */

static void test_step_without_tokens(void **state)
{
    (void)state;
    char before[LB_SHA256_HEX], after[LB_SHA256_HEX], digest_hex[LB_SHA256_HEX];
    uint8_t digest[LB_SHA256_BYTES];
    world *w = malloc(sizeof *w);
    world_lease lease;
    world_open(w, 1);
    world_create(w, JOB, STEPS, 1, SEED);
    world_adapter_sha(w, "quick-v0", before);
    assert_true(world_lease_unit(w, "w1", &lease));
    float *zeros = calloc(w->elements, sizeof *zeros);
    lb_buf frame = {0};
    lb_unit_result result = {.step = 0, .unit = 0, .elements = w->elements, .gradient = zeros};
    lb_unit_metrics_init(result.metrics);
    lb_unit_result_encode(&result, &frame);
    lb_core_event event = world_push_event(&lease, "w1", &frame);
    lb_sha256_of(frame.data, frame.length, digest);
    lb_sha256_hex(digest, digest_hex);
    assert_string_equal(event.digest, digest_hex);
    world_step(w, &event);
    assert_int_equal(world_reply_to(w, 1)->code, 201);
    world_tick(w);
    world_adapter_sha(w, "quick-v1", after);
    assert_string_equal(after, before);
    assert_non_null(strstr(world_ask(w, LB_EVENT_JOB_GET, JOB)->body, "\"teacher_kl\":null"));
    world_restart(w);
    assert_true(world_lease_unit(w, "w1", &lease));
    assert_int_equal(lease.step, 1);
    lb_buf_free(&frame);
    free(zeros);
    world_close(w);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_write_fails_once),
        cmocka_unit_test(test_lost_epoch_stops),
        cmocka_unit_test(test_disk_full_waits),
        cmocka_unit_test(test_damaged_unit_is_recomputed),
        cmocka_unit_test(test_damage_is_repaired_or_named),
        cmocka_unit_test(test_other_model_holds_the_job),
        cmocka_unit_test(test_step_without_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
