/* SPDX-License-Identifier: Apache-2.0
 *
 * A coordinator and a teacher that a test plays for a real worker, in one HTTP server.
 */
#ifndef LB_TESTS_UNIT_WORKER_WORLD_H
#define LB_TESTS_UNIT_WORKER_WORLD_H

#include "client/worker/worker.h"

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

#include "common/train/handshake.h"
#include "common/base/clock.h"
#include "common/model/lora.h"
#include "common/text/dataset.h"
#include "proto/frames.h"
#include "proto/limits.h"
#include "server/http/http.h"

#define STUDENT "deploy/quickstart/models/student"
#define PUSHES_MAX 16

typedef struct push {
    char sha[LB_SHA256_HEX], digest[80], class[80], fence[24], worker[80];
    uint64_t tokens;
    uint32_t step, unit;
} push;

typedef enum teacher_mode { SCORES, AWAY, NOT_A_NUMBER, POSITIVE, TOO_FEW, SMALL } teacher_mode;

typedef struct world {
    lb_http *http;
    pthread_mutex_t lock;
    lb_buf dataset, adapter;
    char dataset_sha[LB_SHA256_HEX], adapter_sha[LB_SHA256_HEX], tokenizer[LB_SHA256_HEX];
    lb_lora_layout layout;

    /* what the test sets */
    unsigned leases;            /* to hand out */
    uint32_t vocab;
    const char *model;
    int lease_code;             /* instead of a lease; 0: none */
    int push_codes[4];          /* of the first pushes; 0: 201 */
    bool lose, damage, foreign_teacher, refuse_handshake;
    teacher_mode teacher;
    /* what it saw of handshakes */
    unsigned handshakes, handshake_failures;
    lb_handshake handshake;

    /* what the test reads */
    push pushes[PUSHES_MAX];
    unsigned push_count, lease_count, released, renewed, asked, largest;
    atomic_bool stop;
} world;

/* ---- the coordinator that the test plays ---- */

static inline void reply_text(lb_request *request, int code, const char *text)
{
    lb_reply(request, code, "application/json", text, strlen(text));
}

static inline void on_lease(void *daemon, lb_request *request)
{
    world *w = daemon;
    char body[400];
    pthread_mutex_lock(&w->lock);
    int code = w->lease_code;
    bool give = w->leases > 0;
    if (give && !code) {
        w->leases--;
        unsigned n = w->lease_count++;
        snprintf(body, sizeof body,
                 "{\"job\":\"ftjob-1\",\"step\":0,\"unit\":%u,\"fence\":%u,"
                 "\"adapter_sha256\":\"%s\",\"ttl_ms\":4000,\"heartbeat_ms\":100}", n % 2, n + 1,
                 w->adapter_sha);
    }
    pthread_mutex_unlock(&w->lock);
    if (code)
        lb_reply_fail(request, lb_status_from_http(code), NULL, "as the test says");
    else if (give)
        reply_text(request, 200, body);
    else
        lb_reply(request, 204, NULL, NULL, 0);
}

static inline void on_renew(void *daemon, lb_request *request)
{
    world *w = daemon;
    char body[80];
    const lb_json *root = lb_request_json(request);
    if (!root)
        return;
    int64_t fence = lb_json_integer(lb_json_at(lb_json_get(root, "fences"), 0));
    pthread_mutex_lock(&w->lock);
    w->renewed++;
    snprintf(body, sizeof body, w->lose ? "{\"renewed\":[],\"lost\":[%d]}"
                                        : "{\"renewed\":[%d],\"lost\":[]}", (int)fence);
    pthread_mutex_unlock(&w->lock);
    reply_text(request, 200, body);
}

static inline void on_release(void *daemon, lb_request *request)
{
    world *w = daemon;
    if (!lb_request_json(request))
        return;
    pthread_mutex_lock(&w->lock);
    w->released++;
    pthread_mutex_unlock(&w->lock);
    reply_text(request, 200, "{}");
}

static inline void on_run(void *daemon, lb_request *request)
{
    world *w = daemon;
    lb_buf out = {0};
    lb_buf_printf(&out,
                  "{\"job\":\"ftjob-1\",\"model\":\"%s\",\"method\":\"on_policy_distillation\","
                  "\"seed\":7,\"hyperparameters\":{"
                  "\"batch_size\":2,\"units_per_step\":2,\"samples_per_prompt\":3,"
                  "\"max_completion_tokens\":6,\"lora\":{\"r\":2,\"alpha\":4,"
                  "\"target_modules\":[\"q_proj\",\"down_proj\"]}},\"dataset_sha256\":\"%s\","
                  "\"dataset_rows\":2,\"tokenizer_sha256\":\"%s\",\"vocab\":%u,"
                  "\"teacher\":{\"model\":\"t\",\"url\":\"%s\"},\"grader\":\"exact_numeric\","
                  "\"state\":\"running\"}",
                  w->model, w->dataset_sha, w->tokenizer, w->vocab, lb_http_url(w->http));
    lb_reply_buf(request, 200, "application/json", &out);
}

static inline void on_blob(void *daemon, lb_request *request)
{
    world *w = daemon;
    bool dataset = strcmp(lb_request_param(request, "sha256"), w->dataset_sha) == 0;
    const lb_buf *blob = dataset ? &w->dataset : &w->adapter;
    lb_reply(request, 200, "application/octet-stream", blob->data,
             blob->length - (w->damage ? 1 : 0));
}

static inline void copy_header(const lb_request *request, const char *name, char *out, size_t size)
{
    const char *value = lb_request_header(request, name);
    snprintf(out, size, "%s", value ? value : "");
}

static inline void on_push(void *daemon, lb_request *request)
{
    world *w = daemon;
    size_t length = 0;
    uint8_t digest[LB_SHA256_BYTES];
    lb_unit_result result = {0};
    const uint8_t *body = lb_request_body(request, &length);
    assert_int_equal(lb_unit_result_decode(body, length, w->layout.elements, &result, NULL),
                     LB_OK);
    pthread_mutex_lock(&w->lock);
    assert_true(w->push_count < PUSHES_MAX);
    int code = w->push_count < 4 ? w->push_codes[w->push_count] : 0;
    push *p = &w->pushes[w->push_count++];
    lb_sha256_of(body, length, digest);
    lb_sha256_hex(digest, p->sha);
    copy_header(request, "Content-Digest", p->digest, sizeof p->digest);
    copy_header(request, "X-Numerics-Class", p->class, sizeof p->class);
    copy_header(request, "X-Fence", p->fence, sizeof p->fence);
    copy_header(request, "X-Worker", p->worker, sizeof p->worker);
    p->tokens = result.tokens;
    p->step = result.step;
    p->unit = result.unit;
    pthread_mutex_unlock(&w->lock);
    lb_unit_result_free(&result);
    if (code)
        lb_reply_fail(request, lb_status_from_http(code), "unit", "as the test says");
    else
        reply_text(request, 201, "{}");
}

/* ---- and the teacher ---- */

static inline void fill_rows(const world *w, const lb_score_query *query, lb_score_rows *rows)
{
    static float values[64];
    for (size_t i = 0; i < 64; i++)
        values[i] = w->teacher == NOT_A_NUMBER ? NAN : w->teacher == POSITIVE ? 0.25f : -1.0f;
    for (uint32_t i = 0; i < query->count; i++) {
        rows[i].rows = query->sequences[i].count - query->sequences[i].start;
        rows[i].rows -= w->teacher == TOO_FEW;
        rows[i].actual = values;
    }
}

static inline void on_score(void *daemon, lb_request *request)
{
    world *w = daemon;
    size_t length = 0;
    lb_score_query query = {0};
    lb_buf out = {0};
    const uint8_t *body = lb_request_body(request, &length);
    assert_int_equal(lb_score_query_decode(body, length, &query, NULL), LB_OK);
    lb_score_rows *rows = calloc(query.count, sizeof *rows);
    pthread_mutex_lock(&w->lock);
    w->asked++;
    bool refuse = w->teacher == SMALL && query.count > 1;
    if (!refuse && query.count > w->largest)
        w->largest = query.count;
    fill_rows(w, &query, rows);
    teacher_mode mode = w->teacher;
    pthread_mutex_unlock(&w->lock);
    lb_score_answer answer = {.sequences = rows, .count = query.count, .vocab = 320,
                              .teacher_version = 5};
    if (mode == AWAY || refuse) {
        lb_reply_fail(request, refuse ? LB_ETOOBIG : LB_EUNAVAILABLE, NULL, "as the test says");
    } else {
        lb_score_answer_encode(&answer, &out);
        lb_reply_buf(request, 200, "application/octet-stream", &out);
    }
    free(rows);
    lb_score_query_free(&query);
}

static inline void on_models(void *daemon, lb_request *request)
{
    world *w = daemon;
    lb_buf out = {0};
    char sha[LB_SHA256_HEX] = "";
    memset(sha, 'e', LB_SHA256_HEX - 1);
    lb_buf_printf(&out, "{\"data\":[{\"id\":\"t\",\"digest\":\"%s\",\"tokenizer_sha256\":\"%s\","
                  "\"chat_template_sha256\":null,\"vocab\":320,\"eos_token_ids\":[2,1]}]}", sha,
                  w->foreign_teacher ? sha : w->tokenizer);
    lb_reply_buf(request, 200, "application/json", &out);
}

static inline void on_handshake(void *daemon, lb_request *request)
{
    world *w = daemon;
    const lb_json *body = lb_request_json(request);
    lb_err err = {0};
    if (!body)
        return;
    pthread_mutex_lock(&w->lock);
    w->handshakes++;
    bool failed = lb_json_get(body, "failure") != NULL;
    if (!failed && lb_handshake_parse(body, &w->handshake, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    w->handshake_failures += failed;
    bool refuse = w->refuse_handshake || failed;
    pthread_mutex_unlock(&w->lock);
    if (refuse)
        lb_reply_fail(request, LB_ECONFLICT, "teacher.stop_ids", "as the test says");
    else
        reply_text(request, 200, "{}");
}

static const lb_route routes[] = {
    {"GET", "/v1/models", LB_SCOPE_USER, 0, on_models},
    {"POST", "/v1/runs/{job}/handshake", LB_SCOPE_USER, LB_LIMIT_JSON_SMALL, on_handshake},
    {"POST", "/v1/leases", LB_SCOPE_USER, LB_LIMIT_JSON_SMALL, on_lease},
    {"POST", "/v1/leases/renew", LB_SCOPE_USER, LB_LIMIT_JSON_SMALL, on_renew},
    {"POST", "/v1/leases/release", LB_SCOPE_USER, LB_LIMIT_JSON_SMALL, on_release},
    {"GET", "/v1/runs/{job}", LB_SCOPE_USER, 0, on_run},
    {"GET", "/v1/blobs/{sha256}", LB_SCOPE_USER, 0, on_blob},
    {"PUT", "/v1/runs/{job}/steps/{step}/units/{unit}", LB_SCOPE_USER, LB_LIMIT_GRADIENT_BODY,
     on_push},
    {"POST", "/v1/teacher/logprobs", LB_SCOPE_USER, LB_LIMIT_FRAME_BODY, on_score},
};

static inline void name_blob(const lb_buf *blob, char hex[LB_SHA256_HEX])
{
    uint8_t digest[LB_SHA256_BYTES];
    lb_sha256_of(blob->data, blob->length, digest);
    lb_sha256_hex(digest, hex);
}

static inline void make_blobs(world *w)
{
    const char *rows = "{\"prompt\":\"123+456=\",\"answer\":\"579\"}\n{\"prompt\":\"7+5=\"}\n";
    lb_tokenizer *tokenizer = NULL;
    lb_dataset dataset = {0};
    lb_model_config config = {0};
    lb_lora_config lora = {.rank = 2, .alpha = 4,
                           .targets = 1u << LB_PROJ_Q | 1u << LB_PROJ_DOWN};
    assert_int_equal(lb_config_load(STUDENT, &config, NULL), LB_OK);
    assert_int_equal(lb_tokenizer_load(STUDENT, &tokenizer, NULL), LB_OK);
    lb_dataset_options options = {.tokenizer = tokenizer, .vocab = config.vocab,
                                  .end = LB_DATASET_NO_END};
    assert_int_equal(lb_dataset_parse_jsonl(rows, strlen(rows), &options, &dataset, NULL), LB_OK);
    assert_int_equal(lb_dataset_encode(&dataset, &w->dataset, NULL), LB_OK);
    assert_int_equal(lb_lora_layout_create(&config, &lora, &w->layout, NULL), LB_OK);
    float *flat = calloc(w->layout.elements, sizeof *flat);
    lb_lora_init(&w->layout, 1, flat);
    assert_int_equal(lb_lora_encode(&w->layout, flat, &w->adapter, NULL), LB_OK);
    name_blob(&w->dataset, w->dataset_sha);
    name_blob(&w->adapter, w->adapter_sha);
    memcpy(w->tokenizer, lb_tokenizer_digest(tokenizer), LB_SHA256_HEX);
    free(flat);
    lb_dataset_free(&dataset);
    lb_tokenizer_free(tokenizer);
}

static inline void open_world(world *w)
{
    memset(w, 0, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    w->vocab = 320;
    w->model = "student";
    make_blobs(w);
    lb_http_config http = {.listen = "127.0.0.1:0", .routes = routes,
                           .route_count = sizeof routes / sizeof *routes, .daemon = w,
                           .threads = 4, .server_name = "test"};
    assert_int_equal(lb_http_start(&http, &w->http, NULL), LB_OK);
}

static inline void close_world(world *w)
{
    lb_http_stop(w->http, 1000);
    lb_buf_free(&w->dataset);
    lb_buf_free(&w->adapter);
    lb_lora_layout_free(&w->layout);
    pthread_mutex_destroy(&w->lock);
}

static inline bool stop(void *arg)
{
    return atomic_load(&((world *)arg)->stop);
}

/* Runs a worker until it has been idle for a while or the world says stop. */
static inline lb_status work(world *w)
{
    static const char *const models[] = {"student=" STUDENT};
    lb_err err = {0};
    lb_worker *worker = NULL;
    lb_worker_config config = {.coordinator = lb_http_url(w->http), .name = "tester",
                               .models = models, .model_count = 1, .dtype = LB_F32, .threads = 1,
                               .idle_exit_ms = 200, .stop = stop, .stop_arg = w};
    if (lb_worker_create(&config, &worker, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    lb_status status = lb_worker_run(worker, &err);
    lb_worker_free(worker);
    return status;
}

#endif
