/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker against a coordinator and a teacher that the test plays over a real socket: what it
 * sends, and what it does when the other side is busy, gone, wrong or of another mind.
 */
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

static void reply_text(lb_request *request, int code, const char *text)
{
    lb_reply(request, code, "application/json", text, strlen(text));
}

static void on_lease(void *daemon, lb_request *request)
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

static void on_renew(void *daemon, lb_request *request)
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

static void on_release(void *daemon, lb_request *request)
{
    world *w = daemon;
    if (!lb_request_json(request))
        return;
    pthread_mutex_lock(&w->lock);
    w->released++;
    pthread_mutex_unlock(&w->lock);
    reply_text(request, 200, "{}");
}

static void on_run(void *daemon, lb_request *request)
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

static void on_blob(void *daemon, lb_request *request)
{
    world *w = daemon;
    bool dataset = strcmp(lb_request_param(request, "sha256"), w->dataset_sha) == 0;
    const lb_buf *blob = dataset ? &w->dataset : &w->adapter;
    lb_reply(request, 200, "application/octet-stream", blob->data,
             blob->length - (w->damage ? 1 : 0));
}

static void copy_header(const lb_request *request, const char *name, char *out, size_t size)
{
    const char *value = lb_request_header(request, name);
    snprintf(out, size, "%s", value ? value : "");
}

static void on_push(void *daemon, lb_request *request)
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

static void fill_rows(const world *w, const lb_score_query *query, lb_score_rows *rows)
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

static void on_score(void *daemon, lb_request *request)
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

static void on_models(void *daemon, lb_request *request)
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

static void on_handshake(void *daemon, lb_request *request)
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

static void name_blob(const lb_buf *blob, char hex[LB_SHA256_HEX])
{
    uint8_t digest[LB_SHA256_BYTES];
    lb_sha256_of(blob->data, blob->length, digest);
    lb_sha256_hex(digest, hex);
}

static void make_blobs(world *w)
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

static void open_world(world *w)
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

static void close_world(world *w)
{
    lb_http_stop(w->http, 1000);
    lb_buf_free(&w->dataset);
    lb_buf_free(&w->adapter);
    lb_lora_layout_free(&w->layout);
    pthread_mutex_destroy(&w->lock);
}

static bool stop(void *arg)
{
    return atomic_load(&((world *)arg)->stop);
}

/* Runs a worker until it has been idle for a while or the world says stop. */
static lb_status work(world *w)
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
