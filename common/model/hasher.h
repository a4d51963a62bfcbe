/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_hasher - a SHA-256 over parts that a thread of its own adds in the order they were given, so
 * that digesting a checkpoint runs beside packing it.
 */
#ifndef LB_COMMON_MODEL_HASHER_H
#define LB_COMMON_MODEL_HASHER_H

#include "common/base/digest.h"
#include "common/base/status.h"

#include <stddef.h>

typedef struct lb_hasher lb_hasher;

LB_NODISCARD lb_status lb_hasher_start(lb_hasher **out, lb_err *err);
/* Appends bytes, which must stay readable until the hasher ends. Without memory the hasher fails at
 * its end. */
void lb_hasher_add(lb_hasher *hasher, const void *data, size_t bytes);
void lb_hasher_add_copy(lb_hasher *hasher, const void *data, size_t bytes);
/* Waits for all parts; digest as hex. The hasher is freed either way; NULL digest: given up. */
LB_NODISCARD lb_status lb_hasher_end(lb_hasher *hasher, char digest[LB_SHA256_HEX], lb_err *err);

#endif
