/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_env - everything the coordinator's core knows of the world: time, randomness, blobs, rows.
 *
 * The daemon fills it with the clock, getrandom, lb_blobs and lb_store; tests and simulators with
 * their own. The functions are called on the core's thread only. blob_put must be durable when it
 * returns LB_OK, since a row that names the blob is written next.
 */
#ifndef LB_SERVER_COORDINATOR_ENV_H
#define LB_SERVER_COORDINATOR_ENV_H

#include "common/base/buf.h"
#include "common/base/digest.h"
#include "common/base/status.h"
#include "server/store/store.h"

#include <stddef.h>
#include <stdint.h>

typedef struct lb_env {
    void *arg;
    int64_t (*now_ms)(void *arg);           /* monotonic; leases and waits */
    int64_t (*wall_seconds)(void *arg);     /* for people only: created_at */
    void (*random)(void *arg, void *out, size_t length);
    /* As lb_blobs_put, lb_blobs_get (appends; verifies the digest) and lb_blobs_drop. */
    lb_status (*blob_put)(void *arg, const void *bytes, size_t length, char hex[LB_SHA256_HEX],
                          lb_err *err);
    lb_status (*blob_get)(void *arg, const char *hex, lb_buf *out, lb_err *err);
    void (*blob_drop)(void *arg, const char *hex);
    lb_store *store;                        /* borrowed */
} lb_env;

#endif
