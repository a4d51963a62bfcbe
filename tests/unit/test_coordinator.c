/* SPDX-License-Identifier: Apache-2.0
 *
 * The coordinator's daemon in this process, over a real socket: every route and its good
 * answer, a whole run, a restart in the middle of one.
 */
#include "common/base/digest.h"
#include "common/base/json.h"
#include "common/model/lora.h"
#include "common/net/client.h"
#include "proto/frames.h"
#include "server/coordinator/daemon.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/unit/coordinator_fixture.h"

#define TOKENS 5

/* ---- the plain routes ---- */

static void test_health_models_metrics(void **state)
{
    fixture *f = *state;
    static const char *const alive[] = {"/healthz", "/livez", "/readyz"};
    int code = 0;
    for (size_t i = 0; i < sizeof alive / sizeof *alive; i++) {
        lb_json *json = get(f, alive[i]);
        assert_string_equal(text_of(json, "status"), "ok");
        lb_json_free(json);
    }
    lb_json *json = get(f, "/v1/models");
    const lb_json *model = lb_json_at(lb_json_get(json, "data"), 0);
    assert_string_equal(text_of(model, "id"), "student");
    assert_int_equal(strlen(text_of(model, "tokenizer_sha256")), 64);
    assert_true(lb_json_integer(lb_json_get(model, "vocab")) > 0);
    lb_json_free(json);
    lb_answer answer = {0};
    lb_call call = {.method = "GET", .path = "/metrics"};
    create(f, "");
    assert_int_equal(lb_client_call(f->client, &call, &answer, NULL), LB_OK);
    code = answer.code;
    assert_int_equal(code, 200);
    static const char *const names[] = {
        "limbeck_build_info{version=\"", "limbeck_job_step{job=\"ftjob-", "limbeck_leases_active 0",
        "limbeck_units_total{result=\"stored\"} 0", "limbeck_workers_active 0",
        "limbeck_http_requests_total ", "limbeck_job_tokens_total{job=",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strstr((const char *)answer.body.data, names[i]))
            fail_msg("no %s", names[i]);
    }
    lb_answer_free(&answer);
}

static void test_files(void **state)
{
    fixture *f = *state;
    char path[200], first[80];
    upload(f);
    snprintf(first, sizeof first, "%s", f->file);
    upload(f);                       /* the same bytes are the same file */
    assert_string_equal(first, f->file);
    lb_json *json = get(f, "/v1/files");
    assert_int_equal(lb_json_array_size(lb_json_get(json, "data")), 1);
    assert_false(lb_json_bool(lb_json_get(json, "has_more")));
    lb_json_free(json);
    snprintf(path, sizeof path, "/v1/files/%s", f->file);
    json = get(f, path);
    assert_string_equal(text_of(json, "filename"), "a.jsonl");
    lb_json_free(json);
    snprintf(path, sizeof path, "/v1/files/%s/content", f->file);
    lb_answer answer = {0};
    lb_call call = {.method = "GET", .path = path};
    assert_int_equal(lb_client_call(f->client, &call, &answer, NULL), LB_OK);
    assert_string_equal((const char *)answer.body.data, PROMPTS);
    lb_answer_free(&answer);
}

/* ---- a whole run ---- */

static void base64_of(const uint8_t digest[LB_SHA256_BYTES], char *out)
{
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0, count = 0;
    for (int i = 0; i < LB_SHA256_BYTES; i++) {
        bits = bits << 8 | digest[i];
        for (count += 8; count >= 6; count -= 6)
            *out++ = alphabet[bits >> (count - 6) & 63];
    }
    *out++ = alphabet[bits << (6 - count) & 63];
    *out++ = '=';
    *out = 0;
}

typedef struct unit {
    char job[80];
    uint32_t step, number;
    uint64_t fence;
    size_t elements;
} unit;

static bool lease(fixture *f, uint32_t wait_ms, unit *out)
{
    char body[100];
    int code = 0;
    snprintf(body, sizeof body, "{\"worker\":\"w1\",\"wait_ms\":%u}", wait_ms);
    lb_json *json = ask(f, "POST", "/v1/leases", body, strlen(body), NULL, &code);
    if (code == 200) {
        lb_model_config config;
        lb_lora_layout layout;
        lb_lora_config lora = {.rank = 1, .alpha = 2, .targets = 1u << LB_PROJ_Q};
        snprintf(out->job, sizeof out->job, "%s", text_of(json, "job"));
        out->step = (uint32_t)lb_json_integer(lb_json_get(json, "step"));
        out->number = (uint32_t)lb_json_integer(lb_json_get(json, "unit"));
        out->fence = (uint64_t)lb_json_integer(lb_json_get(json, "fence"));
        assert_int_equal(lb_json_integer(lb_json_get(json, "ttl_ms")), 2000);
        assert_int_equal(lb_config_load(MODEL_DIR, &config, NULL), LB_OK);
        assert_int_equal(lb_lora_layout_create(&config, &lora, &layout, NULL), LB_OK);
        out->elements = layout.elements;
        lb_lora_layout_free(&layout);
    }
    lb_json_free(json);
    return code == 200;
}

/* Pushes a unit with all gradients equal to value; spoil_digest breaks Content-Digest. */
static lb_json *push(fixture *f, const unit *u, float value, bool spoil_digest, int *code)
{
    char path[200], fence[40], base64[48], digest_line[100];
    uint8_t digest[LB_SHA256_BYTES];
    lb_buf frame = {0};
    float *gradient = malloc(u->elements * sizeof *gradient);
    lb_unit_result result = {.step = u->step, .unit = u->number, .tokens = TOKENS,
                             .elements = u->elements, .gradient = gradient};
    for (size_t i = 0; i < u->elements; i++)
        gradient[i] = value;
    lb_unit_metrics_init(result.metrics);
    result.metrics[LB_METRIC_REVERSE_KL] = 1.25;
    lb_unit_result_encode(&result, &frame);
    lb_sha256_of(frame.data, frame.length, digest);
    digest[0] ^= spoil_digest;
    base64_of(digest, base64);
    snprintf(digest_line, sizeof digest_line, "Content-Digest: sha-256=:%s:", base64);
    snprintf(fence, sizeof fence, "X-Fence: %" PRIu64, u->fence);
    snprintf(path, sizeof path, "/v1/runs/%s/steps/%u/units/%u", u->job, u->step, u->number);
    const char *const headers[] = {fence, "X-Worker: w1", "X-Numerics-Class: ab12", digest_line,
                                   NULL};
    lb_json *json = ask(f, "PUT", path, frame.data, frame.length, headers, code);
    lb_buf_free(&frame);
    free(gradient);
    return json;
}

static void run_to_end(fixture *f)
{
    unit u;
    int code = 0;
    for (int i = 0; i < 4; i++) {
        assert_true(lease(f, 5000, &u));
        lb_json_free(push(f, &u, 0.5f, false, &code));
        assert_int_equal(code, 201);
    }
}

static lb_json *job_object(fixture *f)
{
    char path[200];
    snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s", f->job);
    return get(f, path);
}

LB_PRINTF(2, 3) static size_t list_size(fixture *f, const char *format, ...)
{
    char path[300];
    va_list args;
    va_start(args, format);
    vsnprintf(path, sizeof path, format, args);
    va_end(args);
    lb_json *json = get(f, path);
    size_t size = lb_json_array_size(lb_json_get(json, "data"));
    lb_json_free(json);
    return size;
}

static void check_adapter(fixture *f)
{
    char hex[LB_SHA256_HEX];
    uint8_t digest[LB_SHA256_BYTES];
    lb_answer answer = {0};
    lb_json *version = get(f, "/v1/adapters/quick-latest");
    lb_call call = {.method = "GET", .path = "/v1/adapters/quick-v2/adapter_model.safetensors"};
    assert_string_equal(text_of(version, "id"), "quick-v2");
    assert_int_equal(lb_client_call(f->client, &call, &answer, NULL), LB_OK);
    lb_sha256_of(answer.body.data, answer.body.length, digest);
    lb_sha256_hex(digest, hex);
    assert_string_equal(hex, text_of(version, "sha256"));
    lb_answer_free(&answer);
    lb_json *config = get(f, "/v1/adapters/quick-v2/adapter_config.json");
    assert_string_equal(text_of(config, "peft_type"), "LORA");
    char path[120];
    snprintf(path, sizeof path, "/v1/blobs/%s", hex);
    call.path = path;
    assert_int_equal(lb_client_call(f->client, &call, &answer, NULL), LB_OK);
    assert_int_equal(answer.code, 200);
    lb_answer_free(&answer);
    lb_json_free(config);
    lb_json_free(version);
}

static void test_run(void **state)
{
    fixture *f = *state;
    char path[200];
    unit u;
    static const char *const keys[] = {
        "id", "object", "created_at", "finished_at", "model", "fine_tuned_model",
        "organization_id", "status", "hyperparameters", "training_file", "validation_file",
        "result_files", "trained_tokens", "error", "seed", "estimated_finish", "integrations",
        "metadata", "method", "limbeck",
    };
    create(f, "");
    lb_json *json = job_object(f);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!lb_json_get(json, keys[i]))
            fail_msg("no %s", keys[i]);
    }
    assert_string_equal(text_of(json, "status"), "queued");
    lb_json_free(json);
    snprintf(path, sizeof path, "/v1/runs/%s", f->job);
    json = get(f, path);
    assert_int_equal(lb_json_integer(lb_json_get(json, "dataset_rows")), 2);
    assert_string_equal(text_of(json, "grader"), "exact_numeric");
    assert_string_equal(text_of(lb_json_get(json, "teacher"), "url"), "http://127.0.0.1:9");
    lb_json_free(json);
    run_to_end(f);
    snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s/metrics?after_step=1&wait_ms=5000",
             f->job);
    json = get(f, path);
    const lb_json *row = lb_json_at(lb_json_get(json, "data"), 0);
    assert_int_equal(lb_json_integer(lb_json_get(row, "step")), 2);
    assert_int_equal(lb_json_integer(lb_json_get(row, "tokens_total")), 4 * TOKENS);
    lb_json_free(json);
    json = job_object(f);
    assert_string_equal(text_of(json, "status"), "succeeded");
    assert_string_equal(text_of(json, "fine_tuned_model"), "quick-v2");
    lb_json_free(json);
    assert_false(lease(f, 0, &u));
    assert_int_equal(list_size(f, "/v1/fine_tuning/jobs"), 1);
    assert_int_equal(list_size(f, "/v1/fine_tuning/jobs/%s/events", f->job), 6);
    assert_int_equal(list_size(f, "/v1/fine_tuning/jobs/%s/events?limit=2", f->job), 2);
    assert_int_equal(list_size(f, "/v1/fine_tuning/jobs/%s/checkpoints", f->job), 2);
    assert_int_equal(list_size(f, "/v1/adapters?job=%s", f->job), 3);
    assert_int_equal(list_size(f, "/v1/adapters?after=quick-v1"), 1);
    check_adapter(f);
}

/* The daemon is stopped and started on its folder in the middle of a step. */
static void test_restart(void **state)
{
    fixture *f = *state;
    unit u;
    int code = 0;
    create(f, "");
    assert_true(lease(f, 0, &u));
    lb_json_free(push(f, &u, 0.5f, false, &code));
    assert_int_equal(code, 201);
    stop(f);
    start(f);
    lb_json_free(push(f, &u, 0.5f, false, &code));
    assert_int_equal(code, 200);
    for (int i = 0; i < 3; i++) {
        assert_true(lease(f, 5000, &u));
        lb_json_free(push(f, &u, 0.5f, false, &code));
        assert_int_equal(code, 201);
    }
    assert_int_equal(list_size(f, "/v1/fine_tuning/jobs/%s/metrics?after_step=1&wait_ms=5000",
                               f->job), 1);
    check_adapter(f);
}

static void test_push_refusals(void **state)
{
    fixture *f = *state;
    unit u;
    int code = 0;
    create(f, "");
    assert_true(lease(f, 0, &u));
    lb_json *json = push(f, &u, 0.5f, true, &code);
    assert_int_equal(code, 400);
    assert_string_equal(text_of(lb_json_get(json, "error"), "param"), "Content-Digest");
    lb_json_free(json);
    lb_json_free(push(f, &u, 0.5f, false, &code));
    assert_int_equal(code, 201);
    json = push(f, &u, 0.25f, false, &code);
    assert_int_equal(code, 409);
    assert_string_equal(text_of(lb_json_get(json, "error"), "code"), "digest_conflict");
    lb_json_free(json);
}

/* ---- a long poll is answered by what it waits for ---- */

static void *create_later(void *arg)
{
    fixture *f = arg;
    usleep(200000);
    create(f, "");
    return NULL;
}

static void test_lease_waits_for_a_job(void **state)
{
    fixture *f = *state;
    fixture other = *f;
    pthread_t thread;
    unit u;
    lb_client_config client = {.url = lb_coordinator_url(f->coordinator), .user_agent = "test"};
    assert_int_equal(lb_client_create(&client, &other.client, NULL), LB_OK);
    assert_int_equal(pthread_create(&thread, NULL, create_later, &other), 0);
    assert_true(lease(f, 20000, &u));
    pthread_join(thread, NULL);
    assert_string_equal(u.job, other.job);
    char body[120];
    snprintf(body, sizeof body, "{\"worker\":\"w1\",\"fences\":[%" PRIu64 ",999999]}", u.fence);
    lb_json *json = post(f, "/v1/leases/renew", body, 200);
    assert_int_equal(lb_json_array_size(lb_json_get(json, "renewed")), 1);
    assert_int_equal(lb_json_array_size(lb_json_get(json, "lost")), 1);
    lb_json_free(json);
    json = post(f, "/v1/leases/release", body, 200);
    assert_int_equal(lb_json_array_size(lb_json_get(json, "released")), 1);
    lb_json_free(json);
    lb_client_free(other.client);
}

static void test_cancel_and_idempotency(void **state)
{
    fixture *f = *state;
    char body[1200], path[200], first[80];
    int code = 0;
    static const char *const key[] = {"Idempotency-Key: k1", NULL};
    upload(f);
    snprintf(body, sizeof body, JOB_BODY, f->file, "");
    for (int i = 0; i < 2; i++) {
        lb_json *json = ask(f, "POST", JOBS, body, strlen(body), key, &code);
        assert_int_equal(code, 200);
        if (i == 0)
            snprintf(first, sizeof first, "%s", text_of(json, "id"));
        assert_string_equal(text_of(json, "id"), first);
        lb_json_free(json);
    }
    assert_int_equal(list_size(f, JOBS), 1);
    snprintf(path, sizeof path, JOBS "/%s/cancel", first);
    lb_json *json = post(f, path, "", 200);
    assert_string_equal(text_of(json, "status"), "cancelled");
    lb_json_free(json);
    json = post(f, path, "", 400);
    assert_string_equal(text_of(lb_json_get(json, "error"), "param"), "job");
    lb_json_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_health_models_metrics, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_restart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_push_refusals, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lease_waits_for_a_job, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancel_and_idempotency, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
