/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of client/worker share: the worker's parts, leases, the cache of jobs, the push.
 */
#ifndef LB_CLIENT_WORKER_WORKER_IMPL_H
#define LB_CLIENT_WORKER_WORKER_IMPL_H

#include "client/worker/unit.h"
#include "client/worker/worker.h"
#include "common/base/digest.h"
#include "common/base/json.h"
#include "common/net/client.h"
#include "proto/limits.h"

#include <pthread.h>

#define LB_WORKER_URL_MAX 512
#define LB_WORKER_VIEWS 4        /* jobs kept at once */
#define LB_WORKER_ADAPTERS 4     /* adapter versions kept at once */

/* A student model that this worker has. */
typedef struct lb_student {
    char *name;
    lb_model *model;
    lb_tokenizer *tokenizer;
    uint8_t *allowed;                    /* [vocab] */
    char numerics_class[LB_SHA256_HEX];
    char template_sha[LB_SHA256_HEX];    /* of the chat template; "": it has none */
} lb_student;

/* What a worker must know of a job. */
typedef struct lb_job_view {
    char job[LB_LIMIT_ID + 1];           /* "" when the slot is free */
    lb_job_config config;
    lb_dataset dataset;
    lb_lora_layout layout;
    lb_student *student;                 /* borrowed */
    char teacher_url[LB_WORKER_URL_MAX];
    uint64_t teacher_version;            /* that the handshake found; */
    bool has_version;                    /* every score must have it */
    bool grade;
    uint64_t used;                       /* for finding the oldest */
} lb_job_view;

typedef struct lb_cached_adapter {
    char sha[LB_SHA256_HEX];             /* "" when the slot is free */
    char job[LB_LIMIT_ID + 1];           /* whose layout it was read with */
    lb_adapter *adapter;
    uint64_t used;
} lb_cached_adapter;

typedef struct lb_lease {
    char job[LB_LIMIT_ID + 1];
    uint32_t step, unit;
    uint64_t fence;
    char adapter[LB_SHA256_HEX];
    uint32_t ttl_ms, heartbeat_ms;
} lb_lease;

/* The heartbeat: a thread that renews the lease which is held, and knows how long it is good. */
typedef struct lb_keeper {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool started, stopping, lost;
    const char *worker;
    lb_client *client;
    uint64_t fence;                      /* 0: no lease is held */
    uint32_t ttl_ms, heartbeat_ms;
    int64_t acknowledged_ms;             /* when the last renewal that was answered was sent */
    int64_t next_ms;                     /* of the next heartbeat */
} lb_keeper;

struct lb_worker {
    lb_worker_config config;
    char name[LB_LIMIT_ID + 1];
    lb_backend *backend;
    lb_student students[LB_WORKER_MODELS_MAX];
    size_t student_count;
    lb_client *client;                   /* to the coordinator */
    lb_client *teacher;                  /* to teacher_url; NULL before the first */
    char teacher_url[LB_WORKER_URL_MAX];
    lb_keeper keeper;
    lb_job_view views[LB_WORKER_VIEWS];
    lb_cached_adapter adapters[LB_WORKER_ADAPTERS];
    uint64_t clock;                      /* counts uses of the cache */
    uint64_t jitter_seed;
    uint32_t jitter_counter;
    uint32_t failures;                   /* units that failed in a row */
};

/* ---- lease.c ---- */

/* Asks for a unit, waiting up to wait_ms at the coordinator. *got is false when there was none. */
LB_NODISCARD lb_status lb_lease_take(lb_worker *worker, uint32_t wait_ms, lb_lease *out,
                                     bool *got, lb_err *err);
/* Hands a lease back. Best effort, within a short time; works while the worker is stopping. why:
 * what failed and would fail on any worker; NULL: nothing of the kind. */
void lb_lease_release(lb_worker *worker, const lb_lease *lease, const lb_err *why);

LB_NODISCARD lb_status lb_keeper_start(lb_keeper *keeper, const lb_client_config *client,
                                       const char *worker, lb_err *err);
void lb_keeper_stop(lb_keeper *keeper);
void lb_keeper_hold(lb_keeper *keeper, const lb_lease *lease);
void lb_keeper_drop(lb_keeper *keeper);
/* Whether the held lease may still be worked for: not lost, and renewed within 0.8 of its life. */
bool lb_keeper_is_good(lb_keeper *keeper);

/* ---- job_cache.c ---- */

/* The view of a job, fetched when it is not there. Borrowed until the next call of these two. */
LB_NODISCARD lb_status lb_cache_view(lb_worker *worker, const char *job, lb_job_view **out,
                                     lb_err *err);
LB_NODISCARD lb_status lb_cache_adapter(lb_worker *worker, const lb_job_view *view,
                                        const char *sha, const lb_adapter **out, lb_err *err);
/* Forgets a job, so that it is fetched anew. */
void lb_cache_forget(lb_worker *worker, const char *job);
void lb_cache_free(lb_worker *worker);

/* ---- score.c ---- */

/* lb_unit_teacher over HTTP; arg is an lb_score_source. Waits while the teacher is busy or away, as
 * long as the lease is good. */
typedef struct lb_score_source {
    lb_worker *worker;
    const lb_job_view *view;
    uint64_t version;                    /* out: the teacher's version */
} lb_score_source;
lb_status lb_score_remote(void *arg, lb_unit_query *queries, size_t count, lb_err *err);
/* Makes worker->teacher a client of this URL. */
LB_NODISCARD lb_status lb_score_connect(lb_worker *worker, const char *url, lb_err *err);

/* ---- handshake.c ---- */

/* Measures what student and teacher agree on and asks the coordinator whether the job may be worked
 * on with that. Sets the view's teacher_version. LB_ECONFLICT: it may not. */
LB_NODISCARD lb_status lb_handshake_hold(lb_worker *worker, const char *job, lb_job_view *view,
                                         lb_err *err);

/* Whether a failure lies in the job: another try, or another worker, would not mend it. */
bool lb_failure_is_final(lb_status status);
/* Writes {"field", "message"}. */
void lb_failure_write(const lb_err *failure, lb_jsonw *w);

/* ---- push.c ---- */

typedef enum lb_push_outcome {
    LB_PUSH_STORED,      /* 201 */
    LB_PUSH_DUPLICATE,   /* 200: the same bytes were there */
    LB_PUSH_DROPPED,     /* 409, 410: nobody wants it any more */
} lb_push_outcome;

/* Sends a unit's frame; the same bytes again after transport errors, within a budget of time. */
LB_NODISCARD lb_status lb_push(lb_worker *worker, const lb_lease *lease,
                               const char *numerics_class, const lb_buf *frame,
                               lb_push_outcome *outcome, lb_err *err);

/* ---- worker.c ---- */

bool lb_worker_stopping(lb_worker *worker);
/* What a unit asks: whether to go on with it. */
bool lb_worker_unit_cancelled(void *worker);
/* Sleeps between least and most milliseconds, at random; less when the worker stops. */
void lb_worker_pause(lb_worker *worker, uint32_t least_ms, uint32_t most_ms);

#endif
