/* SPDX-License-Identifier: Apache-2.0
 *
 * coordinator_fixture - the coordinator's daemon in the test's own process, on a free port and a
 * new folder, and a client that asks it. Included after cmocka.h.
 */
#ifndef LB_TESTS_UNIT_COORDINATOR_FIXTURE_H
#define LB_TESTS_UNIT_COORDINATOR_FIXTURE_H

#include "common/base/json.h"
#include "common/net/client.h"
#include "server/coordinator/daemon.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODEL_DIR "deploy/quickstart/models/student"
#define PROMPTS                                                                               \
    "{\"prompt\":\"12+30=\",\"answer\":\"42\"}\n{\"prompt\":\"1+1=\",\"answer\":\"2\"}\n"
#define JOB_BODY                                                                              \
    "{\"model\":\"student\",\"training_file\":\"%s\",\"seed\":7,\"suffix\":\"quick\","         \
    "\"metadata\":{\"team\":\"x\"},\"method\":{\"type\":\"on_policy_distillation\","           \
    "\"on_policy_distillation\":{\"teacher\":{\"model\":\"teacher\"},\"hyperparameters\":{"    \
    "\"max_steps\":2,\"batch_size\":2,\"units_per_step\":2,\"samples_per_prompt\":1,"          \
    "\"max_completion_tokens\":8,\"checkpoint_every\":1,"                                     \
    "\"lora\":{\"r\":1,\"alpha\":2,\"target_modules\":[\"q_proj\"]}%s}}}}"
#define JOBS "/v1/fine_tuning/jobs"

typedef struct fixture {
    char dir[64];
    lb_coordinator *coordinator;
    lb_client *client;
    char file[80], job[80];
} fixture;

#define HANDSHAKE_SIDE                                                                        \
    "{\"model\":\"m\",\"model_sha256\":\"%s\",\"tokenizer_sha256\":\"%s\","                    \
    "\"chat_template_sha256\":null,\"vocab\":320,\"stop_ids\":[1]}"
#define HANDSHAKE_BODY                                                                        \
    "{\"student\":" HANDSHAKE_SIDE ",\"teacher\":" HANDSHAKE_SIDE ","                         \
    "\"teacher_version\":\"00000000000000ff\",\"probe\":{\"sequences\":2,\"tokens\":20,"        \
    "\"teacher_logprob\":-2.5,\"student_logprob\":-3,\"teacher_noise\":0,"                      \
    "\"sampler_noise\":0,\"before_change\":0,\"at_change\":1.5}}"

static inline int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void start(fixture *f)
{
    lb_err err = {0};
    lb_coordinator_config config = {
        .listen = "127.0.0.1:0", .data = f->dir, .lease_ttl_ms = 2000,
        .models = {{"student=" MODEL_DIR}, 1},
        .teachers = {{"teacher=http://127.0.0.1:9"}, 1},
    };
    if (lb_coordinator_start(&config, &f->coordinator, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    lb_client_config client = {.url = lb_coordinator_url(f->coordinator), .user_agent = "test"};
    assert_int_equal(lb_client_create(&client, &f->client, NULL), LB_OK);
}

static inline void stop(fixture *f)
{
    lb_client_free(f->client);
    lb_coordinator_stop(f->coordinator);
    f->client = NULL;
    f->coordinator = NULL;
}

static inline int set_up(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/limbeck-coordinator-XXXXXX");
    *state = f;
    if (!mkdtemp(f->dir))
        return -1;
    start(f);
    return 0;
}

static inline int tear_down(void **state)
{
    fixture *f = *state;
    stop(f);
    nftw(f->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(f);
    return 0;
}

/* One request; the reply's tree (NULL for a body that is no JSON), and *code. */
static inline lb_json *ask(fixture *f, const char *method, const char *path, const void *body,
                    size_t length, const char *const *headers, int *code)
{
    lb_err err = {0};
    lb_answer answer = {0};
    lb_json *json = NULL;
    size_t count = 0;
    while (headers && headers[count])
        count++;
    lb_call call = {.method = method, .path = path, .body = body, .length = length,
                    .content_type = body ? "application/json" : NULL, .headers = headers,
                    .header_count = count, .no_retry = true};
    if (lb_client_call(f->client, &call, &answer, &err) != LB_OK)
        fail_msg("%s %s: %s", method, path, err.message);
    *code = answer.code;
    if (answer.body.length > 0 &&
        lb_json_parse((const char *)answer.body.data, answer.body.length, &json, NULL) != LB_OK)
        json = NULL;
    lb_answer_free(&answer);
    return json;
}

static inline lb_json *get(fixture *f, const char *path)
{
    int code = 0;
    lb_json *json = ask(f, "GET", path, NULL, 0, NULL, &code);
    if (code != 200)
        fail_msg("GET %s: %d", path, code);
    return json;
}

static inline lb_json *post(fixture *f, const char *path, const char *body, int expected)
{
    int code = 0;
    lb_json *json = ask(f, "POST", path, body, strlen(body), NULL, &code);
    if (code != expected)
        fail_msg("POST %s: %d", path, code);
    return json;
}

static inline const char *text_of(const lb_json *json, const char *key)
{
    const char *text = lb_json_string(lb_json_get(json, key));
    return text ? text : "";
}

static inline void upload(fixture *f)
{
    lb_json *json = post(f, "/v1/files?filename=a.jsonl&purpose=fine-tune", PROMPTS, 200);
    snprintf(f->file, sizeof f->file, "%s", text_of(json, "id"));
    assert_string_equal(text_of(json, "status"), "processed");
    assert_int_equal(lb_json_integer(lb_json_get(json, "bytes")), strlen(PROMPTS));
    lb_json_free(json);
}

/* The handshake that an honest worker would send. */
static inline void shake(fixture *f, const char *model_sha, int expected)
{
    char body[1600], path[120], sha[65];
    memset(sha, 'c', 64);
    sha[64] = 0;
    snprintf(path, sizeof path, "/v1/runs/%s/handshake", f->job);
    snprintf(body, sizeof body, HANDSHAKE_BODY, sha, sha, model_sha ? model_sha : sha, sha);
    lb_json_free(post(f, path, body, expected));
}

static inline void create(fixture *f, const char *extra)
{
    char body[1200];
    upload(f);
    snprintf(body, sizeof body, JOB_BODY, f->file, extra);
    lb_json *json = post(f, "/v1/fine_tuning/jobs", body, 200);
    snprintf(f->job, sizeof f->job, "%s", text_of(json, "id"));
    lb_json_free(json);
    shake(f, NULL, 200);
}

#endif
