/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_worker - a student worker: leases a unit of work, rolls out, asks the teacher, computes the
 * LoRA gradient and pushes it, one unit at a time.
 *
 * A worker has no state that matters: what a unit gives depends on (job, step, unit) alone, so one
 * that is killed at any moment costs the time of its unit. While the coordinator or the teacher is
 * away it waits, with jitter, and goes on.
 */
#ifndef LB_CLIENT_WORKER_WORKER_H
#define LB_CLIENT_WORKER_WORKER_H

#include "common/base/status.h"
#include "common/tensor/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_WORKER_MODELS_MAX 8

typedef struct lb_worker lb_worker;

typedef struct lb_worker_config {
    const char *coordinator;        /* URL */
    const char *teacher;            /* URL that replaces the jobs' own; NULL: theirs */
    const char *name;               /* ^[A-Za-z0-9_.-]{1,64}$; NULL: host and process id */
    const char *key;                /* bearer key or NULL */
    const char *const *models;      /* [model_count] "NAME=DIR" */
    size_t model_count;             /* 1 .. LB_WORKER_MODELS_MAX */
    lb_dtype dtype;
    uint32_t threads;               /* 0: all */
    uint64_t activation_mb;         /* lb_model_options.activation_bytes in MiB; 0: its default */
    uint64_t idle_exit_ms;          /* lb_worker_run returns after so long without work; 0: never */
    bool (*stop)(void *arg);        /* asked often, from several threads */
    void *stop_arg;
} lb_worker_config;

/* Loads the models. The strings of config are borrowed for the worker's life. */
LB_NODISCARD lb_status lb_worker_create(const lb_worker_config *config, lb_worker **out,
                                        lb_err *err);
void lb_worker_free(lb_worker *worker);
const char *lb_worker_name(const lb_worker *worker);
/* Works until stop says so or there was nothing to do for idle_exit_ms: LB_OK. Fails only for what
 * waiting cannot mend (LB_EAUTH). */
LB_NODISCARD lb_status lb_worker_run(lb_worker *worker, lb_err *err);

#endif
