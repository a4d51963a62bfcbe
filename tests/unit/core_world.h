/* SPDX-License-Identifier: Apache-2.0
 *
 * core_world - a world for the coordinator's core without a disk, a network or a clock: blobs in
 * memory, a store in memory, time that the test moves, and workers whose gradients are a function
 * of (adapter, step, unit) alone, as real ones are. Everything follows from one seed.
 */
#ifndef LB_TESTS_UNIT_CORE_WORLD_H
#define LB_TESTS_UNIT_CORE_WORLD_H

#include "common/base/json.h"
#include "common/base/rng.h"
#include "common/train/plan.h"
#include "proto/frames.h"
#include "server/coordinator/core.h"
#include "server/store/store.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORLD_BLOBS_MAX 4096
#define WORLD_REPLIES_MAX 512
#define WORLD_CLASS "abc123"
#define WORLD_TTL_MS 30000
#define WORLD_ROLLOUTS 2.0

typedef struct world_blob {
    char sha[LB_SHA256_HEX];
    uint8_t *bytes;
    size_t length;
} world_blob;

typedef struct world_reply {
    void *ticket;
    int code;                 /* HTTP status, also of errors */
    char *body;               /* owned; "" for none */
    char field[LB_ERR_FIELD_MAX];
    char message[LB_ERR_MESSAGE_MAX];
} world_reply;

typedef struct world {
    world_blob blobs[WORLD_BLOBS_MAX];
    size_t blob_count;
    int64_t now_ms;
    uint64_t seed, draws;
    lb_store *store;          /* in memory, survives the core */
    lb_core_config config;
    lb_core *core;
    lb_core_actions actions;
    world_reply replies[WORLD_REPLIES_MAX];
    size_t reply_count;
    int exit_code;            /* of the last step */
    /* Fault injection: the call that counts fail_at down to 0 fails (0: none). before: nothing
     * happened; otherwise it happened and only the answer is lost. */
    uint64_t fail_at;
    bool fail_before;
    lb_status fail_status;
    lb_store real;            /* the functions behind the failing ones */
    size_t elements;
} world;

static inline uint32_t world_draw(world *w, uint32_t below)
{
    uint32_t counter[4] = {LB_RNG_JITTER, (uint32_t)(w->draws >> 32), (uint32_t)w->draws, 0};
    uint32_t out[4];
    w->draws++;
    lb_rng_block(w->seed, counter, out);
    return out[0] % below;
}

/* Whether this call is the one to fail. */
static inline bool world_fails(world *w)
{
    return w->fail_at > 0 && --w->fail_at == 0;
}

static inline int64_t world_now(void *arg)
{
    return ((world *)arg)->now_ms;
}

static inline int64_t world_wall(void *arg)
{
    return 1700000000 + ((world *)arg)->now_ms / 1000;
}

static inline void world_random(void *arg, void *out, size_t length)
{
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)out)[i] = (uint8_t)world_draw(arg, 256);
}

static inline world_blob *world_find(world *w, const char *sha)
{
    for (size_t i = 0; i < w->blob_count; i++) {
        if (strcmp(w->blobs[i].sha, sha) == 0)
            return &w->blobs[i];
    }
    return NULL;
}

static inline lb_status world_keep(world *w, const void *bytes, size_t length,
                                   char hex[LB_SHA256_HEX])
{
    uint8_t digest[LB_SHA256_BYTES];
    lb_sha256_of(bytes, length, digest);
    lb_sha256_hex(digest, hex);
    if (world_find(w, hex))
        return LB_OK;
    assert(w->blob_count < WORLD_BLOBS_MAX);
    world_blob *blob = &w->blobs[w->blob_count++];
    memcpy(blob->sha, hex, LB_SHA256_HEX);
    blob->bytes = malloc(length ? length : 1);
    assert(blob->bytes);
    memcpy(blob->bytes, bytes, length);
    blob->length = length;
    return LB_OK;
}

static inline lb_status world_put(void *arg, const void *bytes, size_t length,
                                  char hex[LB_SHA256_HEX], lb_err *err)
{
    world *w = arg;
    bool fails = world_fails(w);
    if (fails && w->fail_before)
        return lb_fail(err, w->fail_status, NULL, "injected: blob_put");
    lb_status status = world_keep(w, bytes, length, hex);
    return fails ? lb_fail(err, w->fail_status, NULL, "injected: after blob_put") : status;
}

static inline void world_drop(void *arg, const char *hex)
{
    world *w = arg;
    world_blob *blob = world_find(w, hex);
    if (!blob)
        return;
    free(blob->bytes);
    *blob = w->blobs[--w->blob_count];
}

static inline lb_status world_get(void *arg, const char *hex, lb_buf *out, lb_err *err)
{
    uint8_t digest[LB_SHA256_BYTES];
    char found[LB_SHA256_HEX];
    const world_blob *blob = world_find(arg, hex);
    if (!blob)
        return lb_fail(err, LB_ENOTFOUND, "sha256", "there is no blob %s", hex);
    lb_sha256_of(blob->bytes, blob->length, digest);
    lb_sha256_hex(digest, found);
    if (strcmp(found, hex) != 0) {
        world_drop(arg, hex);   /* as the real one, which moves it to quarantine */
        return lb_fail(err, LB_EDATA, "blob", "blob has digest %s, expected %s", found, hex);
    }
    lb_buf_append(out, blob->bytes, blob->length);
    return out->status;
}

static inline void world_damage(world *w, const char *hex)
{
    world_blob *blob = world_find(w, hex);
    assert(blob && blob->length > 0);
    blob->bytes[blob->length / 2] ^= 1;
}

/* ---- the core ---- */

static inline lb_status world_start(world *w, lb_err *err)
{
    lb_env env = {.arg = w, .now_ms = world_now, .wall_seconds = world_wall,
                  .random = world_random, .blob_put = world_put, .blob_get = world_get,
                  .blob_drop = world_drop, .store = w->store};
    assert(!w->core);
    lb_status status = lb_core_create(&env, &w->config, &w->actions, &w->core, err);
    w->exit_code = w->actions.exit_code;
    return status;
}

static inline void world_restart(world *w)
{
    lb_err err = {0};
    lb_core_free(w->core);
    w->core = NULL;
    lb_status status = world_start(w, &err);
    assert(status == LB_OK);
}

static inline void world_forget_replies(world *w)
{
    for (size_t i = 0; i < w->reply_count; i++)
        free(w->replies[i].body);
    w->reply_count = 0;
}

static inline void world_open(world *w, uint64_t seed)
{
    lb_err err = {0};
    *w = (world){.now_ms = 1000, .seed = seed, .fail_status = LB_EIO};
    lb_core_model *model = &w->config.models[0];
    snprintf(model->name, sizeof model->name, "student");
    memset(model->tokenizer_sha, 'a', LB_SHA256_HEX - 1);
    model->config = (lb_model_config){
        .family = LB_FAMILY_QWEN3, .vocab = 32, .hidden = 8, .layers = 2, .heads = 2,
        .kv_heads = 1, .head_dim = 4, .mlp = 16, .max_positions = 64, .rms_eps = 1e-6,
    };
    w->config.model_count = 1;
    snprintf(w->config.teachers[0].name, LB_NAME_SIZE, "teacher");
    snprintf(w->config.teachers[0].url, LB_CORE_URL_MAX, "http://127.0.0.1:1");
    w->config.teacher_count = 1;
    w->config.lease_ttl_ms = WORLD_TTL_MS;
    w->config.heartbeat_ms = WORLD_TTL_MS / 6;
    lb_status status = lb_core_actions_create(&w->actions, &err);
    assert(status == LB_OK);
    status = lb_store_open(NULL, &w->store, &err);
    assert(status == LB_OK);
    w->real = *w->store;
    status = world_start(w, &err);
    assert(status == LB_OK);
}

static inline void world_close(world *w)
{
    world_forget_replies(w);
    lb_core_free(w->core);
    lb_core_actions_free(&w->actions);
    lb_store_close(w->store);
    for (size_t i = 0; i < w->blob_count; i++)
        free(w->blobs[i].bytes);
    *w = (world){0};
}

/* One event; its answers replace those of the step before. */
static inline void world_step(world *w, lb_core_event *event)
{
    world_forget_replies(w);
    lb_core_step(w->core, event, &w->actions);
    w->exit_code = w->actions.exit_code;
    for (size_t i = 0; i < w->actions.count; i++) {
        const lb_core_action *action = &w->actions.items[i];
        assert(w->reply_count < WORLD_REPLIES_MAX);
        world_reply *reply = &w->replies[w->reply_count++];
        *reply = (world_reply){.ticket = action->ticket};
        reply->code = action->code ? action->code : lb_status_http(action->err.status);
        memcpy(reply->field, action->err.field, sizeof reply->field);
        memcpy(reply->message, action->err.message, sizeof reply->message);
        reply->body = strdup(action->body.data ? (const char *)action->body.data : action->blob);
        assert(reply->body);
    }
    lb_core_event_free(event);
}

static inline void *world_ticket(uintptr_t number)
{
    return (void *)number;
}

static inline const world_reply *world_reply_to(const world *w, uintptr_t number)
{
    for (size_t i = 0; i < w->reply_count; i++) {
        if (w->replies[i].ticket == world_ticket(number))
            return &w->replies[i];
    }
    return NULL;
}

static inline void world_tick(world *w)
{
    lb_core_event event = {.type = LB_EVENT_TICK};
    world_step(w, &event);
}

/* An event about a named thing; the answer is to ticket 1. */
static inline const world_reply *world_ask(world *w, lb_core_event_type type, const char *id)
{
    lb_core_event event = {.type = type, .ticket = world_ticket(1), .limit = 20};
    snprintf(event.id, sizeof event.id, "%s", id);
    world_step(w, &event);
    return world_reply_to(w, 1);
}

/* ---- jobs ---- */

#define WORLD_HYPER                                                                           \
    "{\"max_steps\":%u,\"batch_size\":%u,\"units_per_step\":%u,\"samples_per_prompt\":1,"      \
    "\"max_completion_tokens\":16,\"learning_rate\":0.01,\"checkpoint_every\":2,"              \
    "\"lora\":{\"r\":2,\"alpha\":4,\"target_modules\":[\"q_proj\",\"v_proj\"]}}"

static inline void world_hyper(uint32_t steps, uint32_t units, uint64_t seed, lb_buf *out)
{
    lb_buf text = {0};
    lb_jsonw writer = {.out = out};
    lb_json *json = NULL;
    lb_job_config config;
    lb_buf_printf(&text, WORLD_HYPER, steps, units, units);
    lb_status status = lb_json_parse((const char *)text.data, text.length, &json, NULL);
    assert(status == LB_OK);
    status = lb_job_config_parse(json, "hyperparameters", LB_METHOD_DISTILLATION, seed, &config,
                                 NULL);
    assert(status == LB_OK);
    lb_job_config_write(&config, &writer);
    lb_json_free(json);
    lb_buf_free(&text);
}

/* The event that creates a job; id "" for a random one. */
static inline lb_core_event world_job_event(const world *w, const char *id, uint32_t steps,
                                            uint32_t units, uint64_t seed)
{
    lb_core_event event = {.type = LB_EVENT_JOB_CREATE, .ticket = world_ticket(1)};
    lb_job_row *job = &event.job;
    lb_buf hyper = {0};
    world_hyper(steps, units, seed, &hyper);
    snprintf(job->id, sizeof job->id, "%s", id);
    snprintf(job->suffix, sizeof job->suffix, "quick");
    snprintf(job->model, sizeof job->model, "student");
    snprintf(job->method, sizeof job->method, "on_policy_distillation");
    snprintf(job->teacher, sizeof job->teacher, "teacher");
    snprintf(job->training_file, sizeof job->training_file, "file-1");
    snprintf(job->tokenizer_sha, sizeof job->tokenizer_sha, "%s",
             w->config.models[0].tokenizer_sha);
    memset(job->dataset_sha, 'd', LB_SHA256_HEX - 1);
    job->dataset_rows = 10;
    job->vocab = 32;
    job->graded = true;
    job->seed = seed;
    job->metadata = strdup("{\"team\":\"x\"}");
    job->hyperparameters = (char *)lb_buf_take(&hyper, NULL);
    assert(job->metadata && job->hyperparameters);
    return event;
}

static inline void world_create(world *w, const char *id, uint32_t steps, uint32_t units,
                                uint64_t seed)
{
    lb_core_event event = world_job_event(w, id, steps, units, seed);
    lb_lora_layout layout = {0};
    lb_lora_config lora = {.rank = 2, .alpha = 4,
                           .targets = 1u << LB_PROJ_Q | 1u << LB_PROJ_V};
    lb_status status = lb_lora_layout_create(&w->config.models[0].config, &lora, &layout, NULL);
    assert(status == LB_OK);
    w->elements = layout.elements;
    lb_lora_layout_free(&layout);
    world_step(w, &event);
}

/* ---- workers ---- */

typedef struct world_lease {
    bool held;
    char job[LB_ID_SIZE];
    uint32_t step, unit;
    uint64_t fence;
    char adapter[LB_SHA256_HEX];
} world_lease;

static inline bool world_parse_lease(const char *body, world_lease *out)
{
    lb_json *json = NULL;
    const char *job = NULL, *adapter = NULL;
    *out = (world_lease){0};
    bool good = lb_json_parse(body, strlen(body), &json, NULL) == LB_OK &&
                lb_json_need_string(json, "", "job", &job, NULL) == LB_OK &&
                lb_json_need_u32(json, "", "step", 0, UINT32_MAX, &out->step, NULL) == LB_OK &&
                lb_json_need_u32(json, "", "unit", 0, UINT32_MAX, &out->unit, NULL) == LB_OK &&
                lb_json_need_u64(json, "", "fence", 1, INT64_MAX, &out->fence, NULL) == LB_OK &&
                lb_json_need_string(json, "", "adapter_sha256", &adapter, NULL) == LB_OK;
    if (good) {
        snprintf(out->job, sizeof out->job, "%s", job);
        snprintf(out->adapter, sizeof out->adapter, "%s", adapter);
        out->held = true;
    }
    lb_json_free(json);
    return good;
}

static inline lb_core_event world_lease_event(const char *worker, uint32_t wait_ms,
                                              uintptr_t ticket)
{
    lb_core_event event = {.type = LB_EVENT_LEASE, .ticket = world_ticket(ticket),
                           .wait_ms = wait_ms};
    snprintf(event.worker, sizeof event.worker, "%s", worker);
    return event;
}

/* What an honest worker finds; fill is the digit of the teacher's digests. */
static inline lb_handshake world_handshake(const char *tokenizer, char fill)
{
    lb_handshake h = {
        .student = {.model = "student", .vocab = 32, .stops = {3}, .stop_count = 1},
        .probe = {.sequences = 4, .tokens = 40, .teacher_logprob = -2, .student_logprob = -3,
                  .at_change = 1},
        .teacher_version = 7,
    };
    memset(h.student.model_sha, 'a', LB_SHA256_HEX - 1);
    snprintf(h.student.tokenizer_sha, sizeof h.student.tokenizer_sha, "%s", tokenizer);
    h.teacher = h.student;
    memset(h.teacher.model_sha, fill, LB_SHA256_HEX - 1);
    return h;
}

static inline lb_core_event world_handshake_event(const char *job, const lb_handshake *handshake)
{
    lb_core_event event = {.type = LB_EVENT_HANDSHAKE, .ticket = world_ticket(1)};
    snprintf(event.id, sizeof event.id, "%s", job);
    event.handshake = malloc(sizeof *event.handshake);
    assert(event.handshake);
    *event.handshake = *handshake;
    return event;
}

/* Takes a unit and holds the handshake that goes before the first push. */
static inline bool world_lease_unit(world *w, const char *worker, world_lease *out)
{
    lb_core_event event = world_lease_event(worker, 0, 1);
    world_step(w, &event);
    const world_reply *reply = world_reply_to(w, 1);
    *out = (world_lease){0};
    if (!reply || reply->code != 200 || !world_parse_lease(reply->body, out))
        return false;
    lb_handshake handshake = world_handshake(w->config.models[0].tokenizer_sha, 'b');
    event = world_handshake_event(out->job, &handshake);
    world_step(w, &event);
    return true;
}

/* The gradient that any honest worker finds: a function of adapter, step and unit. */
static inline void world_gradient(const char *adapter, uint32_t step, uint32_t unit, float *out,
                                  size_t elements)
{
    uint64_t key = strtoull((char[17]){adapter[0], adapter[1], adapter[2], adapter[3], adapter[4],
                                       adapter[5], adapter[6], adapter[7], 0}, NULL, 16);
    for (size_t i = 0; i < elements; i++) {
        uint32_t counter[4] = {LB_RNG_SAMPLE, step, unit, (uint32_t)i};
        uint32_t word[4];
        lb_rng_block(key, counter, word);
        out[i] = lb_rng_uniform(word[0]) - 0.5f;
    }
}

static inline uint64_t world_tokens(uint32_t step, uint32_t unit)
{
    return 3 + (step * 5 + unit * 3) % 11;
}

/* The unit's frame as an honest worker encodes it; value is added to element 0, for others. */
static inline void world_frame(const world *w, const world_lease *lease, float value, lb_buf *out)
{
    float *gradient = calloc(w->elements, sizeof *gradient);
    lb_unit_result result = {.step = lease->step, .unit = lease->unit,
                             .tokens = world_tokens(lease->step, lease->unit),
                             .elements = w->elements, .gradient = gradient};
    assert(gradient);
    world_gradient(lease->adapter, lease->step, lease->unit, gradient, w->elements);
    gradient[0] += value;
    lb_unit_metrics_init(result.metrics);
    result.metrics[LB_METRIC_REVERSE_KL] = 0.5 * (double)result.tokens;
    result.metrics[LB_METRIC_ROLLOUTS] = WORLD_ROLLOUTS;
    result.metrics[LB_METRIC_GRADED] = WORLD_ROLLOUTS;
    result.metrics[LB_METRIC_CORRECT] = 1;
    lb_unit_result_encode(&result, out);
    free(gradient);
}

static inline lb_core_event world_push_event(const world_lease *lease, const char *worker,
                                             const lb_buf *frame)
{
    uint8_t digest[LB_SHA256_BYTES];
    lb_core_event event = {.type = LB_EVENT_PUSH, .ticket = world_ticket(1), .step = lease->step,
                           .unit = lease->unit, .fences = {lease->fence}, .fence_count = 1,
                           .body = frame->data, .length = frame->length};
    snprintf(event.id, sizeof event.id, "%s", lease->job);
    snprintf(event.worker, sizeof event.worker, "%s", worker);
    snprintf(event.numerics_class, sizeof event.numerics_class, WORLD_CLASS);
    lb_sha256_of(frame->data, frame->length, digest);
    lb_sha256_hex(digest, event.digest);
    return event;
}

/* Pushes what an honest worker would; the HTTP status of the answer. */
static inline int world_push(world *w, const world_lease *lease, const char *worker)
{
    lb_buf frame = {0};
    world_frame(w, lease, 0.0f, &frame);
    lb_core_event event = world_push_event(lease, worker, &frame);
    world_step(w, &event);
    const world_reply *reply = world_reply_to(w, 1);
    lb_buf_free(&frame);
    return reply ? reply->code : 0;
}

/* ---- looking at the outcome ---- */

/* Copies a string member of the reply's object, or of the object `in` of it. */
static inline void world_member(const world_reply *reply, const char *in, const char *key,
                                char *out, size_t size)
{
    lb_json *json = NULL;
    snprintf(out, size, "(none)");
    if (reply && lb_json_parse(reply->body, strlen(reply->body), &json, NULL) == LB_OK) {
        const lb_json *node = lb_json_get(in ? lb_json_get(json, in) : json, key);
        if (lb_json_is_string(node))
            snprintf(out, size, "%s", lb_json_string(node));
        else if (lb_json_is_integer(node))
            snprintf(out, size, "%lld", (long long)lb_json_integer(node));
        else if (lb_json_is_null(node))
            snprintf(out, size, "(null)");
    }
    lb_json_free(json);
}

static inline void world_status(world *w, const char *job, char *out, size_t size)
{
    world_member(world_ask(w, LB_EVENT_JOB_GET, job), NULL, "status", out, size);
}

static inline bool world_succeeded(world *w, const char *job)
{
    char status[32];
    world_status(w, job, status, sizeof status);
    return strcmp(status, "succeeded") == 0;
}

static inline void world_adapter_sha(world *w, const char *adapter, char out[LB_SHA256_HEX])
{
    world_member(world_ask(w, LB_EVENT_ADAPTER_GET, adapter), NULL, "sha256", out, LB_SHA256_HEX);
}

#endif
