/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of server/teacher share: the daemon's parts, and lb_call, one scoring request on
 * its way from an HTTP thread to the model and back.
 */
#ifndef LB_SERVER_TEACHER_TEACHER_IMPL_H
#define LB_SERVER_TEACHER_TEACHER_IMPL_H

#include "common/base/json.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"
#include "server/http/http.h"
#include "server/teacher/metrics.h"
#include "server/teacher/precision.h"
#include "server/teacher/scheduler.h"
#include "server/teacher/teacher.h"

#include <stdatomic.h>

/* Memory of results that may be held at once, whatever k is asked for. */
#define LB_TEACHER_RESULT_BYTES ((size_t)256 << 20)
/* What JSON writes for minus infinity, as vLLM does. */
#define LB_LOGPROB_MIN -9999.0f

struct lb_teacher {
    lb_backend *backend;
    lb_model *model;
    const lb_model_config *model_config;
    lb_tokenizer *tokenizer;         /* NULL: the folder has none; text is then refused */
    lb_scheduler *scheduler;
    lb_http *http;
    lb_teacher_metrics metrics;
    char *name;
    char template_sha[LB_SHA256_HEX];   /* of the chat template's text; "": the model has none */
    const char *dtype;
    lb_precision precision;          /* tokens 0: f32 or bf16, or not asked for */
    uint32_t max_logprobs;
    uint64_t version;                /* 8 bytes of the model's digest, and of an integer dtype */
    int64_t created;                 /* Unix time */
    atomic_bool draining;
    atomic_uint_fast64_t counter;    /* seeds of completions that named none */
};

/* Base of a route's own call. Owned by the handler until lb_call_submit, which takes it. */
typedef struct lb_call {
    lb_job job;                      /* first: a job pointer is a call pointer */
    lb_teacher *teacher;
    lb_request *request;
    double received;
    uint32_t k;                      /* of job.requests' top-k */
    const char *k_field;             /* what the route calls it, for errors */
    uint32_t *tokens;                /* owned; NULL when they are owned elsewhere */
    void *results;                   /* owned; what job.requests point into */
    uint32_t *capacities;            /* owned, [request_count]: tokens a request may grow to */
} lb_call;

typedef struct lb_call_results {
    bool rank, entropy;
} lb_call_results;

/* ---- call.c ---- */

/* Handlers count their rejections here. Replies with the error, and with Retry-After if busy. */
void lb_teacher_reject(lb_teacher *teacher, lb_request *request, const lb_err *err);
/* Sets the deadline: the sooner of deadline_ms (0: none) and the X-Timeout-Ms header. */
LB_NODISCARD lb_status lb_call_deadline(lb_call *call, uint32_t deadline_ms, lb_err *err);
/* The model member of a request names this teacher, or is absent. Otherwise it answered 404. */
bool lb_teacher_serves(lb_teacher *teacher, lb_request *request, const lb_json *body);
/* Every id below the vocabulary, count within the model's positions; `field` names it. */
LB_NODISCARD lb_status lb_teacher_check_tokens(const lb_teacher *teacher, const uint32_t *tokens,
                                               size_t count, const char *field, lb_err *err);
/* Reads an array of token ids into out [size of the array]; `field` names it. */
LB_NODISCARD lb_status lb_teacher_parse_ids(const lb_json *array, const char *field,
                                            uint32_t *out, lb_err *err);
/* Allocates the base part of a call of `size` bytes with room for so many requests; NULL: no
 * memory. */
void *lb_call_create(size_t size, lb_teacher *teacher, lb_request *request, size_t requests);
/* Allocates the results of job.requests for the capacities, and sets job.bytes. */
LB_NODISCARD lb_status lb_call_reserve(lb_call *call, const lb_call_results *results,
                                       lb_err *err);
/* Suspends the request and submits the job; answers the error itself when that fails. The call is
 * freed through job.release in either case. */
void lb_call_submit(lb_call *call);
/* In job.answer: false when the job failed, or holds a logprob that is NaN; it is answered then. */
bool lb_call_succeeded(lb_call *call);
/* In job.answer: sends the reply and counts it. */
void lb_call_reply(lb_call *call, const char *content_type, lb_buf *body);
void lb_call_free(lb_call *call);    /* what the base owns, and the call itself */

/* ---- the handlers of routes.c's table ---- */
void lb_teacher_get_health(void *daemon, lb_request *request);
void lb_teacher_get_ready(void *daemon, lb_request *request);
void lb_teacher_get_metrics(void *daemon, lb_request *request);
void lb_teacher_get_models(void *daemon, lb_request *request);
void lb_teacher_post_logprobs(void *daemon, lb_request *request);
void lb_teacher_post_completions(void *daemon, lb_request *request);

#endif
