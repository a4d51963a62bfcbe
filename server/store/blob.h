/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_blobs - immutable files named by the SHA-256 of their bytes: DIR/blobs/ab/<sha>.
 *
 * A blob that was put survives a power cut; one that is read has the digest of its name, or the
 * error says which file has which digest. A damaged file is moved to DIR/quarantine, never deleted.
 * Thread safe: the folder is the only state.
 */
#ifndef LB_SERVER_STORE_BLOB_H
#define LB_SERVER_STORE_BLOB_H

#include "common/base/buf.h"
#include "common/base/digest.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>

#define LB_BLOB_MAX ((size_t)2 << 30)

typedef struct lb_blobs lb_blobs;

LB_NODISCARD lb_status lb_blobs_open(const char *dir, lb_blobs **out, lb_err *err);
void lb_blobs_close(lb_blobs *blobs);   /* NULL allowed */

/* Writes the bytes unless they are there already, and their name into hex. LB_ENOSPACE: nothing
 * was written. LB_EIO: what is on disk is unknown; the process must stop. */
LB_NODISCARD lb_status lb_blobs_put(lb_blobs *blobs, const void *bytes, size_t length,
                                    char hex[LB_SHA256_HEX], lb_err *err);
/* Appends the bytes to out. LB_ENOTFOUND; LB_EDATA: the file does not have the digest of its name
 * (it is then in quarantine, and the message has the path and both digests). */
LB_NODISCARD lb_status lb_blobs_get(lb_blobs *blobs, const char *hex, lb_buf *out, lb_err *err);
void lb_blobs_drop(lb_blobs *blobs, const char *hex);
/* Removes what an interrupted write left, and every blob that keep() does not want. Only while
 * nobody else puts. */
LB_NODISCARD lb_status lb_blobs_sweep(lb_blobs *blobs, bool (*keep)(void *arg, const char *hex),
                                      void *arg, size_t *removed, lb_err *err);

#endif
