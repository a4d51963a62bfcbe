/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_sha256 - SHA-256 over bytes; the only user of OpenSSL's digests. Blobs, adapters and
 * tokenizers are named by it, in lower-case hex of 64 characters.
 */
#ifndef LB_COMMON_BASE_DIGEST_H
#define LB_COMMON_BASE_DIGEST_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_SHA256_BYTES 32
#define LB_SHA256_HEX 65  /* with the NUL */

typedef struct lb_sha256 lb_sha256;

LB_NODISCARD lb_status lb_sha256_new(lb_sha256 **out, lb_err *err);
void lb_sha256_update(lb_sha256 *hash, const void *bytes, size_t length);
void lb_sha256_final(lb_sha256 *hash, uint8_t digest[LB_SHA256_BYTES]);  /* then only free it */
void lb_sha256_free(lb_sha256 *hash);

/* One call; aborts only if libcrypto has no SHA-256 at all. */
void lb_sha256_of(const void *bytes, size_t length, uint8_t digest[LB_SHA256_BYTES]);
void lb_sha256_hex(const uint8_t digest[LB_SHA256_BYTES], char hex[LB_SHA256_HEX]);
bool lb_sha256_parse(const char *hex, uint8_t digest[LB_SHA256_BYTES]);  /* exactly 64 hex digits */
bool lb_equal_constant_time(const void *a, const void *b, size_t length);

#endif
