/* SPDX-License-Identifier: Apache-2.0
 *
 * teacher_fixture - the teacher's daemon in the test's own process, on a free port, and a client
 * that asks it. Included after cmocka.h.
 */
#ifndef LB_TESTS_UNIT_TEACHER_FIXTURE_H
#define LB_TESTS_UNIT_TEACHER_FIXTURE_H

#include "common/base/json.h"
#include "common/net/client.h"
#include "server/teacher/teacher.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TINY_DIR "tests/golden/qwen3-tiny"           /* V 96, 128 positions, no tokenizer */
#define QUICK_DIR "deploy/quickstart/models/teacher" /* V 320, with a tokenizer */
#define SCORE "/v1/teacher/logprobs"
#define COMPLETE "/v1/completions"

typedef struct fixture {
    lb_teacher *teacher;
    lb_client *client;
} fixture;

static inline void start(fixture *f, const char *dir, uint32_t queue_tokens)
{
    lb_err err = {0};
    lb_teacher_config config = {.model_dir = dir, .name = "t", .listen = "127.0.0.1:0",
                                .threads = 1, .max_batch_tokens = 64,
                                .queue_tokens = queue_tokens, .max_logprobs = 100};
    if (lb_teacher_start(&config, &f->teacher, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    lb_client_config client = {.url = lb_teacher_url(f->teacher), .user_agent = "test"};
    assert_int_equal(lb_client_create(&client, &f->client, NULL), LB_OK);
}

static inline void stop(fixture *f)
{
    lb_client_free(f->client);
    lb_teacher_stop(f->teacher, 1000);
    *f = (fixture){0};
}

typedef struct ask {
    const char *path, *type, *accept, *header;
    const void *body;
    size_t length;
} ask;

static inline lb_answer send_ask(fixture *f, ask a)
{
    lb_err err = {0};
    lb_answer answer = {0};
    lb_call call = {.method = a.body ? "POST" : "GET", .path = a.path, .accept = a.accept,
                    .content_type = a.body ? a.type : NULL, .body = a.body, .length = a.length,
                    .headers = &a.header, .header_count = a.header ? 1 : 0, .no_retry = true};
    if (lb_client_call(f->client, &call, &answer, &err) != LB_OK)
        fail_msg("%s: %s", a.path, err.message);
    return answer;
}

/* Asks, expects the code, and returns the reply's tree (owned by the caller). */
static inline lb_json *ask_json(fixture *f, const char *path, const char *body, int code)
{
    lb_err err = {0};
    lb_json *root = NULL;
    lb_answer answer = send_ask(f, (ask){.path = path, .type = "application/json", .body = body,
                                         .length = body ? strlen(body) : 0});
    if (answer.code != code)
        fail_msg("%s %s gave %d: %s", path, body ? body : "", answer.code,
                 answer.body.data ? (const char *)answer.body.data : "");
    if (lb_json_parse((const char *)answer.body.data, answer.body.length, &root, &err) != LB_OK)
        fail_msg("%s: %s", path, err.message);
    lb_answer_free(&answer);
    return root;
}

static inline const lb_json *choice(const lb_json *root, size_t index)
{
    const lb_json *node = lb_json_at(lb_json_get(root, "choices"), index);
    assert_non_null(node);
    return node;
}

static inline float number_at(const lb_json *array, size_t index)
{
    const lb_json *node = lb_json_at(array, index);
    assert_true(lb_json_is_number(node));
    return (float)lb_json_number(node);
}

#endif
