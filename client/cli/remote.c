/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/cli.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#define DEFAULT_COORDINATOR "http://127.0.0.1:7410"
#define KEY_MAX 512

lb_status lb_remote_open(const lb_remote_options *options, lb_client **out, lb_err *err)
{
    return lb_remote_open_cancellable(options, NULL, NULL, out, err);
}

lb_status lb_remote_open_cancellable(const lb_remote_options *options,
                                     bool (*cancelled)(void *arg), void *arg, lb_client **out,
                                     lb_err *err)
{
    char key[KEY_MAX] = "";
    const char *url = options->url ? options->url : getenv("LIMBECK_COORDINATOR");
    const char *key_file = options->key_file ? options->key_file : getenv("LIMBECK_KEY_FILE");
    if (key_file) {
        lb_status status = lb_key_load(key_file, key, sizeof key, err);
        if (status != LB_OK)
            return status;
    }
    lb_client_config config = {
        .url = url && *url ? url : DEFAULT_COORDINATOR,
        .key = key_file ? key : NULL,
        .user_agent = "limbeck/" LB_VERSION,
        .cancelled = cancelled,
        .cancel_arg = arg,
    };
    return lb_client_create(&config, out, err);
}

lb_status lb_remote_json(lb_client *client, const char *method, const char *path,
                         const lb_buf *body, lb_json **reply, lb_buf *text, lb_err *err)
{
    lb_answer answer = {0};
    /* The client retries a POST whose reply was lost; the key lets the coordinator see that. */
    uint64_t random[2] = {0};
    char idempotency[64];
    ssize_t got = getrandom(random, sizeof random, 0);
    snprintf(idempotency, sizeof idempotency, "Idempotency-Key: %016" PRIx64 "%016" PRIx64,
             random[0], random[1]);
    const char *const headers[] = {idempotency};
    lb_call call = {
        .method = method,
        .path = path,
        .content_type = body ? "application/json" : NULL,
        .accept = "application/json",
        .body = body ? body->data : NULL,
        .length = body ? body->length : 0,
        .headers = headers,
        .header_count = got == (ssize_t)sizeof random ? 1 : 0,
    };
    *reply = NULL;
    if (body && body->status != LB_OK)
        return lb_fail(err, body->status, NULL, "the request could not be built");
    lb_status status = lb_client_call(client, &call, &answer, err);
    if (status == LB_OK)
        status = lb_answer_check(&answer, err);
    if (status == LB_OK)
        status = lb_json_parse((const char *)answer.body.data, answer.body.length, reply, err);
    if (status == LB_OK && text)
        lb_buf_append(text, answer.body.data, answer.body.length);
    lb_answer_free(&answer);
    return status;
}

int lb_remote_show(const lb_remote_options *options, const char *method, const char *path,
                   void (*show)(const lb_json *reply, lb_buf *out))
{
    lb_err err = {0};
    lb_client *client = NULL;
    lb_json *reply = NULL;
    lb_buf text = {0}, out = {0};
    lb_status status = lb_remote_open(options, &client, &err);
    if (status == LB_OK)
        status = lb_remote_json(client, method, path, NULL, &reply, &text, &err);
    if (status == LB_OK && options->json)
        lb_buf_printf(&out, "%s\n", (const char *)text.data);
    else if (status == LB_OK)
        show(reply, &out);
    int code = status == LB_OK ? lb_cli_print(&out) : lb_cli_fail(&err);
    lb_json_free(reply);
    lb_buf_free(&text);
    lb_buf_free(&out);
    lb_client_free(client);
    return code;
}
