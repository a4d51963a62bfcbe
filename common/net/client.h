/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_client - an HTTP client with retries; the only user of libcurl.
 *
 * One lb_client is one connection pool to one base URL, for one thread at a time. Only http and
 * https, no redirects, no netrc, no proxy from the environment. A retry is made for connection
 * failures, 429, 502, 503 and 504, with full jitter (0.1 .. 10 s, Retry-After obeyed), within the
 * call's deadline and a retry budget of the client, so that an outage is not amplified.
 */
#ifndef LB_COMMON_NET_CLIENT_H
#define LB_COMMON_NET_CLIENT_H

#include "common/base/buf.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_client lb_client;

typedef struct lb_client_config {
    const char *url;              /* "http://127.0.0.1:8000", no trailing slash needed */
    const char *key;              /* bearer key or NULL */
    const char *user_agent;
    uint64_t seed;                /* of the jitter */
    bool (*cancelled)(void *arg); /* asked while waiting; NULL: never */
    void *cancel_arg;
} lb_client_config;

LB_NODISCARD lb_status lb_client_create(const lb_client_config *config, lb_client **out,
                                        lb_err *err);
void lb_client_free(lb_client *client);

typedef struct lb_call {
    const char *method;           /* "GET" ... */
    const char *path;             /* "/v1/models" with its query */
    const char *content_type;     /* NULL without a body */
    const char *accept;           /* NULL: any */
    const void *body;
    size_t length;
    const char *const *headers;   /* "X-Fence: 7" lines */
    size_t header_count;
    uint32_t timeout_ms;          /* of all tries together; 0: 60000 */
    bool no_retry;
    size_t reply_max;             /* largest reply body, 0: 64 MiB */
} lb_call;

typedef struct lb_answer {
    int code;                     /* HTTP status */
    lb_buf body;                  /* owned; lb_answer_free */
    char request_id[64];
    uint32_t tries;
} lb_answer;

/* LB_OK for any complete HTTP reply, whatever its code. LB_ENET: no reply within the tries,
 * LB_ETIMEOUT, LB_ECANCELLED, LB_ETOOBIG. answer is zeroed by the callee first. */
LB_NODISCARD lb_status lb_client_call(lb_client *client, const lb_call *call, lb_answer *answer,
                                      lb_err *err);
void lb_answer_free(lb_answer *answer);
/* LB_OK for 2xx; otherwise the status of the code, with message and field taken from an OpenAI
 * error body. */
LB_NODISCARD lb_status lb_answer_check(const lb_answer *answer, lb_err *err);
/* Reads the first key of a key file, whose lines with '#' are comments (LB_EAUTH if it is readable
 * by others). out[size]. */
LB_NODISCARD lb_status lb_key_load(const char *path, char *out, size_t size, lb_err *err);

#endif
