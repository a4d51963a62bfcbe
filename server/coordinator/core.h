/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_core - the coordinator as a pure state machine: lb_core_step(core, event, actions).
 *
 * An event is a request that was parsed and checked for form, or the passing of time. Actions are
 * the answers that became due and lines for the log. No threads, sockets, clocks or files here: the
 * same core links into the daemon, a simulator and a fuzzer, and given the same events and the same
 * env it does the same. Long polls wait inside and are answered when what they wait for happens, or
 * at their deadline (lb_core_next_ms says when to send LB_EVENT_TICK).
 *
 * What it keeps: rows of the store are the truth. A job's weights and optimizer state are a cache
 * of them, rebuilt at lb_core_create by replaying gradients from the newest snapshot and compared
 * with the recorded digest at each step. Leases live in memory only; fences never repeat.
 */
#ifndef LB_SERVER_COORDINATOR_CORE_H
#define LB_SERVER_COORDINATOR_CORE_H

#include "common/base/buf.h"
#include "common/base/log.h"
#include "common/io/config.h"
#include "common/train/handshake.h"
#include "server/coordinator/env.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_CORE_MODELS_MAX 32u
#define LB_CORE_TEACHERS_MAX 32u
#define LB_CORE_JOBS_MAX 65536u         /* rows kept, ended ones included */
#define LB_CORE_ACTIVE_MAX 64u          /* queued and running jobs */
#define LB_CORE_FILES_MAX 65536u
#define LB_CORE_WAITERS_MAX 4096u       /* long polls */
#define LB_CORE_WORKERS_MAX 4096u       /* remembered by name */
#define LB_CORE_FENCES_MAX 256u         /* of one renewal */
#define LB_CORE_URL_MAX 512u
#define LB_CORE_FAILURES_MAX 8u         /* units of a job that may fail in a row */

/* Exit codes of the process (sysexits: EX_IOERR, EX_TEMPFAIL). */
#define LB_EXIT_STORAGE 74
#define LB_EXIT_EPOCH 75

typedef struct lb_core lb_core;

typedef struct lb_core_model {
    char name[LB_NAME_SIZE];
    lb_model_config config;
    char tokenizer_sha[LB_SHA256_HEX];
} lb_core_model;

typedef struct lb_core_teacher {
    char name[LB_NAME_SIZE];
    char url[LB_CORE_URL_MAX];
} lb_core_teacher;

typedef struct lb_core_config {
    lb_core_model models[LB_CORE_MODELS_MAX];
    size_t model_count;
    lb_core_teacher teachers[LB_CORE_TEACHERS_MAX];
    size_t teacher_count;
    uint32_t lease_ttl_ms, heartbeat_ms;
} lb_core_config;

typedef enum lb_core_event_type {
    LB_EVENT_TICK,              /* time has passed: leases, deadlines, commits */
    LB_EVENT_DRAIN,             /* answer all long polls now */
    LB_EVENT_ABANDON,           /* the peer of `waiter` is gone */
    LB_EVENT_FILE_ADD,          /* file; its blob is on disk */
    LB_EVENT_FILE_LIST, LB_EVENT_FILE_GET,
    LB_EVENT_JOB_CREATE,        /* job */
    LB_EVENT_JOB_LIST, LB_EVENT_JOB_GET, LB_EVENT_JOB_CANCEL, LB_EVENT_JOB_EVENTS,
    LB_EVENT_JOB_CHECKPOINTS, LB_EVENT_JOB_METRICS, LB_EVENT_RUN_GET,
    LB_EVENT_HANDSHAKE,         /* id; handshake, or failure where it could not be measured */
    LB_EVENT_ADAPTER_LIST,      /* id: a job or "" */
    LB_EVENT_ADAPTER_GET, LB_EVENT_ADAPTER_MODEL, LB_EVENT_ADAPTER_CONFIG,
    LB_EVENT_LEASE, LB_EVENT_RENEW,
    LB_EVENT_RELEASE,           /* fences; failure: why, if the units failed */
    LB_EVENT_PUSH,
    LB_EVENT_METRICS,
    LB_EVENT_TYPE_COUNT
} lb_core_event_type;

/* One event. Which fields count is said by the type; strings are valid ids or names already. */
typedef struct lb_core_event {
    lb_core_event_type type;
    void *ticket;               /* of the answer; NULL: nobody asks */
    void *waiter;               /* ABANDON: the ticket of the one who left */
    char id[LB_NAME_SIZE];      /* job, file or adapter */
    char after[LB_NAME_SIZE];   /* listings: id of the last row of the page before, or "" */
    uint32_t limit;
    uint32_t after_step;        /* metrics */
    uint32_t wait_ms;
    char worker[LB_NAME_SIZE];
    uint64_t fences[LB_CORE_FENCES_MAX];
    size_t fence_count;
    uint32_t step, unit;        /* push */
    char numerics_class[LB_NAME_SIZE];
    char digest[LB_SHA256_HEX]; /* push: of the body, already compared with the header */
    const uint8_t *body;        /* push: unit frame, borrowed until the answer */
    size_t length;
    lb_file_row file;
    lb_handshake *handshake;    /* owned; NULL: failure tells why there is none */
    lb_err failure;
    lb_job_row job;             /* create: id "" for a random one; taken on success */
} lb_core_event;

void lb_core_event_free(lb_core_event *event);   /* what the event owns; NULL allowed */

typedef struct lb_core_action {
    void *ticket;
    int code;                   /* HTTP status; 0: answer err in the error shape */
    const char *content_type;
    lb_buf body;                /* owned */
    char blob[LB_SHA256_HEX];   /* not "": the body is this blob instead */
    bool no_retry;              /* x-should-retry: false */
    lb_err err;
} lb_core_action;

#define LB_CORE_NOTES_MAX 32u
typedef struct lb_core_note {
    lb_log_level level;
    const char *event;          /* constant */
    char text[LB_ERR_MESSAGE_MAX];
} lb_core_note;

/* Room for the answers of one step: at most every waiter and the event's own. */
typedef struct lb_core_actions {
    lb_core_action *items;
    size_t count, capacity;
    lb_core_note notes[LB_CORE_NOTES_MAX];
    size_t note_count;
    int exit_code;              /* not 0: the process must stop now, and recover by starting */
} lb_core_actions;

LB_NODISCARD lb_status lb_core_actions_create(lb_core_actions *out, lb_err *err);
void lb_core_actions_clear(lb_core_actions *actions);  /* frees bodies, keeps the room */
void lb_core_actions_free(lb_core_actions *actions);

/* Loads all rows and recovers every active job. A job that cannot be recovered is failed ("halted")
 * with the reason and both digests; the others go on. notes of actions tell what happened. */
LB_NODISCARD lb_status lb_core_create(const lb_env *env, const lb_core_config *config,
                                      lb_core_actions *actions, lb_core **out, lb_err *err);
void lb_core_free(lb_core *core);   /* NULL allowed; waiters are not answered: send DRAIN first */
/* Takes one event; actions (cleared by the callee first) gets what became due. The event stays the
 * caller's, but for what the core took out of it. */
void lb_core_step(lb_core *core, lb_core_event *event, lb_core_actions *actions);
/* When the next TICK is due (now_ms of env); INT64_MAX: nothing waits for time. */
int64_t lb_core_next_ms(const lb_core *core);
/* Calls visit for each uploaded file, in order of upload. */
void lb_core_each_file(const lb_core *core, void (*visit)(void *arg, const lb_file_row *row),
                       void *arg);

#endif
