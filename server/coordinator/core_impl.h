/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to the core_*.c files: the state behind lb_core, and what the parts ask of each other.
 */
#ifndef LB_SERVER_COORDINATOR_CORE_IMPL_H
#define LB_SERVER_COORDINATOR_CORE_IMPL_H

#include "common/base/json.h"
#include "common/train/adam.h"
#include "common/train/handshake.h"
#include "common/train/plan.h"
#include "proto/frames.h"
#include "server/coordinator/core.h"

#define LB_CORE_NEVER INT64_MAX
#define LB_CORE_RETRY_MS 1000           /* between tries of a commit that met a full disk */
#define LB_CORE_FENCE_BLOCK 1000u

typedef enum core_unit_state { UNIT_FREE, UNIT_LEASED, UNIT_DONE } core_unit_state;

typedef struct core_unit {
    core_unit_state state;
    uint64_t fence;
    int64_t expires_ms;
    char worker[LB_NAME_SIZE];
    char digest[LB_SHA256_HEX];         /* of the stored push */
} core_unit;

/* A job. What follows `live` is there for active jobs only. */
typedef struct core_job {
    lb_job_row row;
    lb_job_config config;
    bool configured;                    /* config was read from the row */
    char hold[LB_ERR_MESSAGE_MAX];      /* active, but not to be leased: why; "" otherwise */
    double step_seconds;                /* of the newest step, 0: unknown */
    char *metrics;                      /* JSON of the newest step, NULL before the first */
    bool live;
    lb_lora_layout layout;
    float *weights;                     /* [layout.elements] version row.head */
    lb_adam adam;
    char adapter_sha[LB_SHA256_HEX];    /* of version row.head */
    core_unit *units;                   /* [config.units_per_step] of step row.head */
    uint32_t done;
    uint32_t failures;                  /* units that failed since the last push */
    int64_t commit_ms;                  /* when to commit (again), LB_CORE_NEVER */
    int64_t step_started_ms;
    uint32_t snapshot, replay_from;     /* versions: newest optimizer snapshot, one before */
} core_job;

typedef struct core_waiter {
    bool metrics;                       /* otherwise it waits for a lease */
    void *ticket;
    int64_t deadline_ms;
    char who[LB_NAME_SIZE];             /* worker or job */
    uint32_t after_step, limit;
} core_waiter;

typedef struct core_worker {
    char name[LB_NAME_SIZE];
    char job[LB_ID_SIZE];               /* of its newest lease */
    int64_t seen_ms;
} core_worker;

typedef enum core_counter {
    COUNT_STORED, COUNT_DUPLICATE, COUNT_CONFLICT, COUNT_CLASS, COUNT_GONE, COUNT_INVALID,
    COUNT_EXPIRED, COUNT_DAMAGED, COUNT_COUNT
} core_counter;

struct lb_core {
    lb_env env;
    lb_core_config config;
    core_job **jobs;                    /* by age */
    size_t job_count, job_capacity;
    lb_file_row *files;                 /* by age */
    size_t file_count, file_capacity;
    core_waiter *waiters;               /* oldest first */
    size_t waiter_count;
    core_worker *workers;
    size_t worker_count;
    uint64_t fence_next, fence_end;
    size_t turn;                        /* job index at which the next search for a unit begins */
    uint64_t counters[COUNT_COUNT];
    bool draining;
    lb_core_actions *actions;           /* of the step in progress */
};

/* ---- core.c: answers and notes ---- */
lb_core_action *lb_core_answer(lb_core *core, void *ticket);   /* NULL ticket: NULL */
void lb_core_answer_json(lb_core *core, void *ticket, int code, lb_buf *body);  /* takes body */
void lb_core_answer_err(lb_core *core, void *ticket, const lb_err *err);
/* A 409 or 410 that the client must not repeat, with a code of its own. */
void lb_core_answer_refusal(lb_core *core, void *ticket, int http, const char *code,
                            const char *param, const char *message);
void lb_core_answer_blob(lb_core *core, void *ticket, const char *sha, const char *content_type);
void lb_core_note_f(lb_core *core, lb_log_level level, const char *event, const char *format, ...)
    LB_PRINTF(4, 5);
/* A failure of the store or of the blobs: asks the process to stop where the outcome is unknown
 * (LB_EIO) or where another coordinator holds the store (LB_EGONE). */
void lb_core_storage_failed(lb_core *core, const lb_err *err);
core_job *lb_core_find_job(const lb_core *core, const char *id);
bool lb_core_add_waiter(lb_core *core, const core_waiter *waiter);
void lb_core_wake_metrics(lb_core *core, const core_job *job);
void lb_core_drop_if_unneeded(lb_core *core, const char *sha);

/* ---- core_jobs.c ---- */
void lb_core_job_free(core_job *job);
LB_NODISCARD lb_status lb_core_job_configure(core_job *job, lb_err *err);   /* config of row */
LB_NODISCARD lb_status lb_core_config_digest(const lb_job_row *row, char out[LB_SHA256_HEX],
                                             lb_err *err);
LB_NODISCARD lb_status lb_core_file_append(lb_core *core, const lb_file_row *row, lb_err *err);
LB_NODISCARD lb_status lb_core_job_append(lb_core *core, core_job *job, lb_err *err);
/* Reads config out of the row, finds the model, makes layout, weights, optimizer and units. */
LB_NODISCARD lb_status lb_core_job_enliven(lb_core *core, core_job *job, lb_err *err);
void lb_core_job_unload(core_job *job);
const lb_core_model *lb_core_find_model(const lb_core *core, const char *name);
/* Ends an active job in the store and in memory, and forgets blobs that only it needed. */
LB_NODISCARD lb_status lb_core_job_end(lb_core *core, core_job *job, lb_job_state state,
                                       const char *code, const char *message, lb_err *err);
void lb_core_job_forget(lb_core *core, core_job *job);
size_t lb_core_active_jobs(const lb_core *core);
void lb_core_on_file_add(lb_core *core, lb_core_event *event);
void lb_core_on_job_create(lb_core *core, lb_core_event *event);
void lb_core_on_job_cancel(lb_core *core, lb_core_event *event);

/* ---- core_leases.c ---- */
void lb_core_on_lease(lb_core *core, lb_core_event *event);
void lb_core_on_renew(lb_core *core, lb_core_event *event);
void lb_core_on_release(lb_core *core, lb_core_event *event);
void lb_core_expire_leases(lb_core *core, int64_t now_ms);
void lb_core_serve_waiters(lb_core *core, int64_t now_ms);     /* leases to those who wait */
void lb_core_worker_seen(lb_core *core, const char *name, const char *job);
size_t lb_core_workers_active(const lb_core *core, const char *job);  /* NULL: of any */
size_t lb_core_leases_active(const lb_core *core);

/* ---- core_handshake.c ---- */
void lb_core_on_handshake(lb_core *core, lb_core_event *event);
bool lb_core_needs_handshake(const core_job *job);

/* ---- core_units.c ---- */
void lb_core_on_push(lb_core *core, lb_core_event *event);
size_t lb_core_frame_bytes(size_t elements);

/* ---- core_commit.c, core_reduce.c ---- */
void lb_core_commit_due(lb_core *core, int64_t now_ms);
typedef struct core_reduction {
    float *gradient;                    /* owned, [elements] */
    uint64_t tokens;
    double metrics[LB_UNIT_METRIC_COUNT];
    uint8_t units_root[LB_SHA256_BYTES];
    uint32_t bad_unit;                  /* the unit whose blob failed, on LB_EDATA / LB_ENOTFOUND */
} core_reduction;
LB_NODISCARD lb_status lb_core_reduce(lb_core *core, const core_job *job, core_reduction *out,
                                      lb_err *err);
/* One optimizer step in place. tokens 0 leaves everything as it is. */
LB_NODISCARD lb_status lb_core_apply(const core_job *job, lb_adam *adam, float *weights,
                                     const float *gradient, uint64_t tokens, lb_err *err);
/* hash of the chain's entry, from the other fields of row; and the chain's beginning. */
LB_NODISCARD lb_status lb_core_chain_hash(const lb_job_row *job, const lb_step_row *row,
                                          char out[LB_SHA256_HEX], lb_err *err);
LB_NODISCARD lb_status lb_core_chain_start(const lb_job_row *row, char out[LB_SHA256_HEX],
                                           lb_err *err);

/* ---- core_recover.c ---- */
LB_NODISCARD lb_status lb_core_load(lb_core *core, lb_err *err);

/* ---- core_view.c, core_list.c: JSON ---- */
void lb_core_view_job(const lb_core *core, const core_job *job, lb_jsonw *w);
void lb_core_view_run(const lb_core *core, const core_job *job, lb_jsonw *w);
void lb_core_view_file(const lb_file_row *row, lb_jsonw *w);
void lb_core_view_adapter(const core_job *job, const lb_step_row *row, lb_jsonw *w); /* NULL: v0 */
void lb_core_view_step(const core_job *job, const lb_step_row *row, const double *metrics,
                       double seconds, lb_buf *out);
void lb_core_view_metrics_reply(lb_core *core, void *ticket, const core_job *job,
                                uint32_t after_step, uint32_t limit);
void lb_core_view_prometheus(const lb_core *core, lb_buf *out);
void lb_core_on_file_list(lb_core *core, lb_core_event *event);
void lb_core_on_file_get(lb_core *core, lb_core_event *event);
void lb_core_on_job_list(lb_core *core, lb_core_event *event);
void lb_core_on_job_get(lb_core *core, lb_core_event *event);
void lb_core_on_job_events(lb_core *core, lb_core_event *event);
void lb_core_on_job_checkpoints(lb_core *core, lb_core_event *event);
void lb_core_on_job_metrics(lb_core *core, lb_core_event *event);
void lb_core_on_run_get(lb_core *core, lb_core_event *event);
/* The job of "<suffix>-v<N>" or "<suffix>-latest", if that version exists; NULL otherwise. */
const core_job *lb_core_find_adapter(const lb_core *core, const char *id, uint32_t *version);
void lb_core_on_adapter(lb_core *core, lb_core_event *event);   /* get, model, config */
void lb_core_on_adapter_list(lb_core *core, lb_core_event *event);
void lb_core_on_metrics(lb_core *core, lb_core_event *event);

#endif
