/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_store - the coordinator's rows: jobs, units pushed, committed steps, metrics, events, files.
 *
 * A struct of functions, so that the core links with SQLite, with another database, or with a
 * simulator's fake. Rows are the truth: a row names a blob only after that blob is on disk, and
 * each function below is one transaction that has happened entirely (LB_OK) or not at all. Every
 * transaction checks that the epoch read at open is still the store's: LB_EGONE means that another
 * coordinator has taken over and this process must stop. LB_ENOSPACE leaves the store usable; any
 * LB_EIO means that the outcome is unknown: stop and let recovery decide.
 *
 * Threads   one thread at a time.
 * Digests   lower-case hex, as in common/base/digest.h; "" where there is none.
 */
#ifndef LB_SERVER_STORE_STORE_H
#define LB_SERVER_STORE_STORE_H

#include "common/base/digest.h"
#include "common/base/status.h"
#include "proto/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_ID_SIZE (LB_LIMIT_ID + 1)
#define LB_NAME_SIZE (LB_LIMIT_NAME + 1)

typedef enum lb_job_state {
    LB_JOB_QUEUED, LB_JOB_RUNNING, LB_JOB_SUCCEEDED, LB_JOB_FAILED, LB_JOB_CANCELLED,
    LB_JOB_STATE_COUNT
} lb_job_state;

const char *lb_job_state_name(lb_job_state state);   /* "queued" ... */
bool lb_job_state_active(lb_job_state state);        /* queued or running */

typedef struct lb_file_row {
    char id[LB_ID_SIZE];
    char sha[LB_SHA256_HEX];
    char filename[LB_NAME_SIZE];
    char purpose[LB_ID_SIZE];
    uint64_t bytes;
    int64_t created_at;
} lb_file_row;

typedef struct lb_job_row {
    char id[LB_ID_SIZE];
    char suffix[LB_ID_SIZE];                   /* unique: names the adapter versions */
    char model[LB_NAME_SIZE];
    char method[LB_ID_SIZE];                   /* "on_policy_distillation" or "supervised" */
    char teacher[LB_NAME_SIZE];                /* "" for a supervised job */
    char from_adapter[LB_ID_SIZE * 2];         /* the version it starts from, "" for none */
    char training_file[LB_ID_SIZE];
    char request_sha[LB_SHA256_HEX];           /* of the creating request, for Idempotency-Key */
    uint64_t seed;                             /* at most INT64_MAX */
    char *hyperparameters;                     /* owned; the full JSON object */
    char *metadata;                            /* owned; a JSON object */
    char dataset_sha[LB_SHA256_HEX];           /* blob: "prompts" frame */
    uint32_t dataset_rows;
    char tokenizer_sha[LB_SHA256_HEX];
    uint32_t vocab;
    bool graded;                               /* the rows have answers: exact_numeric */
    char config_sha[LB_SHA256_HEX];            /* over all that decides the result */
    char adapter_sha[LB_SHA256_HEX];           /* blob: version 0 */
    char adapter_config_sha[LB_SHA256_HEX];    /* blob: adapter_config.json of every version */
    uint64_t adapter_bytes;
    char numerics_class[LB_NAME_SIZE];         /* "" until the first push pins it */
    char *handshake;                           /* owned; JSON of the handshake, "" until then */
    lb_job_state state;
    char error_code[LB_ID_SIZE];
    char error_message[LB_ERR_MESSAGE_MAX];
    uint32_t head;                             /* committed steps = newest version */
    char head_hash[LB_SHA256_HEX];
    uint64_t tokens_total;
    int64_t created_at, started_at, finished_at;  /* Unix seconds, 0: not yet */
} lb_job_row;

void lb_job_row_free(lb_job_row *row);   /* NULL allowed; leaves a zeroed row */

typedef struct lb_push_row {
    uint32_t step, unit;
    char digest[LB_SHA256_HEX];          /* blob: unit frame, until the step is committed */
    uint64_t bytes, tokens, fence;
    char worker[LB_NAME_SIZE];
} lb_push_row;

/* Step t made version t + 1 out of version t. hash = SHA-256("upd1" || prev || run || le64(step) ||
 * units_root || grad_sha || adapter_sha || opt_sha || config_sha), digests as raw bytes. */
typedef struct lb_step_row {
    uint32_t step;
    char prev[LB_SHA256_HEX];
    char units_root[LB_SHA256_HEX];
    char grad_sha[LB_SHA256_HEX];        /* blob while grad_kept: the reduced gradient, f32 LE */
    char adapter_sha[LB_SHA256_HEX];     /* blob */
    char opt_sha[LB_SHA256_HEX];         /* blob while opt_kept */
    char hash[LB_SHA256_HEX];
    uint64_t tokens, adapter_bytes;
    bool snapshot, grad_kept, opt_kept;
    int64_t created_at;
} lb_step_row;

typedef struct lb_event_row {
    uint64_t seq;                        /* given by the store, from 1 in each job */
    int64_t created_at;
    const char *level;                   /* "info", "warn", "error" */
    const char *type;                    /* "message" or "metrics" */
    const char *message;
    uint32_t step;                       /* 0: none */
    const char *data;                    /* reading: the step's metrics as JSON, or NULL */
} lb_event_row;

/* What changes together with a job's state. */
typedef struct lb_job_change {
    lb_job_state state;
    const char *error_code, *error_message;  /* "" for none */
    int64_t started_at, finished_at;         /* as they shall be */
    const lb_event_row *event;               /* NULL for none */
} lb_job_change;

typedef struct lb_step_commit {
    const lb_step_row *row;
    const char *metrics;                 /* JSON object */
    uint64_t tokens_total;
    const lb_event_row *event;
    const lb_job_change *change;         /* NULL unless the job ends with this step */
} lb_step_commit;

typedef lb_status lb_visit_file(void *arg, const lb_file_row *row);
typedef lb_status lb_visit_job(void *arg, lb_job_row *row);      /* may take the row's strings */
typedef lb_status lb_visit_push(void *arg, const lb_push_row *row);
typedef lb_status lb_visit_step(void *arg, const lb_step_row *row);
typedef lb_status lb_visit_event(void *arg, const lb_event_row *row);
typedef lb_status lb_visit_text(void *arg, const char *text);

/* A visit's first failure ends the reading and is returned. */
typedef struct lb_store {
    void *impl;
    uint64_t epoch;
    /* Reserves count fences that were never given before; *first is at least 1. */
    lb_status (*fences)(void *impl, uint64_t count, uint64_t *first, lb_err *err);

    lb_status (*file_insert)(void *impl, const lb_file_row *row, lb_err *err);
    lb_status (*files)(void *impl, lb_visit_file *visit, void *arg, lb_err *err);

    lb_status (*job_insert)(void *impl, const lb_job_row *row, const lb_event_row *event,
                            lb_err *err);
    lb_status (*jobs)(void *impl, lb_visit_job *visit, void *arg, lb_err *err);  /* by age */
    lb_status (*job_change)(void *impl, const char *job, const lb_job_change *change, lb_err *err);
    /* Keeps the handshake's JSON; LB_EGONE when there is one or the job has ended. */
    lb_status (*job_handshake)(void *impl, const char *job, const char *text,
                               const lb_event_row *event, lb_err *err);

    /* pin_class: the numerics class to pin with this first push, NULL when it is pinned. */
    lb_status (*push_insert)(void *impl, const char *job, const lb_push_row *row,
                             const char *pin_class, lb_err *err);
    lb_status (*push_delete)(void *impl, const char *job, uint32_t step, uint32_t unit,
                             lb_err *err);
    /* LB_ENOTFOUND when the unit was never pushed. */
    lb_status (*push_get)(void *impl, const char *job, uint32_t step, uint32_t unit,
                          lb_push_row *out, lb_err *err);
    lb_status (*pushes)(void *impl, const char *job, uint32_t step, lb_visit_push *visit,
                        void *arg, lb_err *err);                                 /* by unit */

    /* Moves the head from row->step to row->step + 1 if head and head_hash are still row's, and
     * marks the unit blobs of the step as no longer needed. LB_EGONE when they are not. */
    lb_status (*step_commit)(void *impl, const char *job, const lb_step_commit *commit,
                             lb_err *err);
    lb_status (*step_get)(void *impl, const char *job, uint32_t step, lb_step_row *out,
                          lb_err *err);
    /* Steps below `below`, newest first, at most limit; snapshots: only those. */
    lb_status (*steps_newest)(void *impl, const char *job, uint32_t below, uint32_t limit,
                              bool snapshots, lb_visit_step *visit, void *arg, lb_err *err);
    lb_status (*steps_oldest)(void *impl, const char *job, uint32_t from, lb_visit_step *visit,
                              void *arg, lb_err *err);
    /* Metrics of steps numbered after + 1 and up (step t is number t + 1), at most limit. */
    lb_status (*metrics)(void *impl, const char *job, uint32_t after, uint32_t limit,
                         lb_visit_text *visit, void *arg, lb_err *err);
    /* Events with seq < before (0: all), newest first. */
    lb_status (*events)(void *impl, const char *job, uint64_t before, uint32_t limit,
                        lb_visit_event *visit, void *arg, lb_err *err);

    /* Gives up the gradients of steps below grads_below and the optimizer states of steps below
     * opts_below, and visits the digests given up (again at each call until they are forgotten). */
    lb_status (*forget)(void *impl, const char *job, uint32_t grads_below, uint32_t opts_below,
                        lb_visit_text *visit, void *arg, lb_err *err);
    /* Gives up the unit blobs of a job that ended before its step was committed. */
    lb_status (*forget_pushes)(void *impl, const char *job, lb_visit_text *visit, void *arg,
                               lb_err *err);
    /* Whether a row still needs this blob. True on any doubt. */
    bool (*needs_blob)(void *impl, const char *sha);
    void (*close)(void *impl);
} lb_store;

/* Opens DIR/state.db under the lock DIR/LOCK, checks it, and takes the next epoch. LB_ECONFLICT:
 * another process holds the folder. dir NULL: a store in memory, for tests. */
LB_NODISCARD lb_status lb_store_open(const char *dir, lb_store **out, lb_err *err);
void lb_store_close(lb_store *store);    /* NULL allowed */

#endif
