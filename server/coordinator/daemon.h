/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_coordinator - the coordinator as a server: HTTP threads parse requests into events, one owner
 * thread runs the core over them, and its actions become replies. Models are read for their
 * config.json and tokenizer.json only.
 */
#ifndef LB_SERVER_COORDINATOR_DAEMON_H
#define LB_SERVER_COORDINATOR_DAEMON_H

#include "common/base/options.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct lb_coordinator lb_coordinator;

typedef struct lb_coordinator_config {
    const char *listen;           /* "127.0.0.1:0" */
    const char *data;             /* folder; made when it is not there */
    const char *key_file;         /* NULL: no keys */
    bool insecure;
    lb_option_list models;        /* "NAME=DIR" */
    lb_option_list teachers;      /* "NAME=URL" */
    uint32_t lease_ttl_ms;        /* 0: 30000 */
} lb_coordinator_config;

/* Opens the store, recovers the jobs, listens. LB_ECONFLICT: the data folder is in use. */
LB_NODISCARD lb_status lb_coordinator_start(const lb_coordinator_config *config,
                                            lb_coordinator **out, lb_err *err);
const char *lb_coordinator_url(const lb_coordinator *coordinator);
/* Not 0 once the process must stop with this code: storage failed, or the epoch was lost. */
int lb_coordinator_exit_code(const lb_coordinator *coordinator);
/* Answers the long polls, waits for open requests, closes everything. NULL allowed. */
void lb_coordinator_stop(lb_coordinator *coordinator);

#endif
