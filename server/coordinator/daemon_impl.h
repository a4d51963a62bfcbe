/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the coordinator's daemon: what routes and the owner thread share.
 */
#ifndef LB_SERVER_COORDINATOR_DAEMON_IMPL_H
#define LB_SERVER_COORDINATOR_DAEMON_IMPL_H

#include "common/base/queue.h"
#include "common/text/chat.h"
#include "common/text/tokenizer.h"
#include "server/coordinator/core.h"
#include "server/coordinator/daemon.h"
#include "server/http/http.h"
#include "server/store/blob.h"

#include <pthread.h>
#include <stdatomic.h>

#define LB_SUFFIX_MAX 40u               /* leaves room for what makes it unique, and the version */

/* An uploaded file as the HTTP threads need it: which blob its id means. */
typedef struct lb_file_entry {
    char id[LB_ID_SIZE];
    char sha[LB_SHA256_HEX];
} lb_file_entry;

/* What the text of a data set needs of a model. */
typedef struct lb_catalog_text {
    lb_tokenizer *tokenizer;                        /* owned */
    char *path;                                     /* owned; of the model */
    lb_chat chat;
    lb_err no_chat;                                 /* status LB_OK: chat is there */
} lb_catalog_text;

struct lb_coordinator {
    lb_core_config config;                          /* immutable after start */
    lb_catalog_text texts[LB_CORE_MODELS_MAX];      /* of config.models */
    int64_t started_at;                             /* Unix seconds */
    lb_blobs *blobs;
    lb_store *store;                                /* owner thread, after start */
    lb_core *core;                                  /* owner thread, after start */
    lb_core_actions actions;                        /* owner thread, after start */
    lb_queue *queue;                                /* of lb_core_event, owned by the queue */
    pthread_t owner;
    bool owner_runs;
    pthread_mutex_t lock;                           /* files, http */
    lb_file_entry *files;
    size_t file_count, file_capacity;
    lb_http *http;
    atomic_int exit_code;
    atomic_bool draining;
};

/* ---- daemon.c ---- */
bool lb_coordinator_find_file(lb_coordinator *c, const char *id, char sha[LB_SHA256_HEX]);
/* Stores a blob on an HTTP thread; a failure that leaves the disk unknown stops the process. */
LB_NODISCARD lb_status lb_coordinator_put(lb_coordinator *c, const void *bytes, size_t length,
                                          char sha[LB_SHA256_HEX], lb_err *err);
void lb_coordinator_random(void *out, size_t length);

/* ---- catalog.c: --model and --teacher ---- */
LB_NODISCARD lb_status lb_catalog_load(lb_coordinator *c, const lb_coordinator_config *config,
                                       lb_err *err);
void lb_catalog_free(lb_coordinator *c);

/* ---- routes.c ---- */
extern const lb_route lb_coordinator_routes[];
extern const size_t lb_coordinator_route_count;
/* A new event of a type, or NULL after the request was answered. */
lb_core_event *lb_route_event(lb_request *request, lb_core_event_type type);
/* Suspends the request and hands the event (taken) to the owner, who answers. */
void lb_route_submit(lb_coordinator *c, lb_request *request, lb_core_event *event);
/* ^[A-Za-z0-9_.-]{1,max}$ */
bool lb_route_is_id(const char *text, size_t max);
/* Copies a checked id of the path, the query or a header into out; false: it answered 400. */
bool lb_route_id(lb_request *request, const char *value, const char *field, char *out,
                 size_t size);
/* limit and after of a listing; false: it answered 400. */
bool lb_route_page(lb_request *request, lb_core_event *event, uint32_t fallback);

/* ---- routes_jobs.c, routes_create.c ---- */
void lb_route_job_create(void *daemon, lb_request *request);
void lb_route_job_list(void *daemon, lb_request *request);
void lb_route_job_get(void *daemon, lb_request *request);
void lb_route_job_cancel(void *daemon, lb_request *request);
void lb_route_job_events(void *daemon, lb_request *request);
void lb_route_job_checkpoints(void *daemon, lb_request *request);
void lb_route_job_metrics(void *daemon, lb_request *request);
void lb_route_run_get(void *daemon, lb_request *request);
void lb_route_adapter_list(void *daemon, lb_request *request);
void lb_route_adapter_get(void *daemon, lb_request *request);
void lb_route_adapter_model(void *daemon, lb_request *request);
void lb_route_adapter_config(void *daemon, lb_request *request);

/* ---- routes_files.c ---- */
void lb_route_file_add(void *daemon, lb_request *request);
void lb_route_file_list(void *daemon, lb_request *request);
void lb_route_file_get(void *daemon, lb_request *request);
void lb_route_file_content(void *daemon, lb_request *request);
void lb_route_blob_get(void *daemon, lb_request *request);

/* ---- routes_work.c ---- */
void lb_route_lease(void *daemon, lb_request *request);
void lb_route_renew(void *daemon, lb_request *request);
void lb_route_release(void *daemon, lb_request *request);
void lb_route_handshake(void *daemon, lb_request *request);
void lb_route_push(void *daemon, lb_request *request);

#endif
