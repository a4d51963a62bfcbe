/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/digest.h"

#include <openssl/evp.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct lb_sha256 {
    EVP_MD_CTX *context;
};

lb_status lb_sha256_new(lb_sha256 **out, lb_err *err)
{
    lb_sha256 *hash = calloc(1, sizeof *hash);
    if (hash)
        hash->context = EVP_MD_CTX_new();
    if (!hash || !hash->context || EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) != 1) {
        lb_sha256_free(hash);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a digest");
    }
    *out = hash;
    return LB_OK;
}

/* libcrypto's SHA-256 cannot fail once it was set up; if it ever does, no digest is better than a
 * wrong one. */
static void must(int ok)
{
    if (ok != 1) {
        fputs("libcrypto: SHA-256 failed\n", stderr);
        abort();
    }
}

void lb_sha256_update(lb_sha256 *hash, const void *bytes, size_t length)
{
    must(EVP_DigestUpdate(hash->context, bytes, length));
}

void lb_sha256_final(lb_sha256 *hash, uint8_t digest[LB_SHA256_BYTES])
{
    must(EVP_DigestFinal_ex(hash->context, digest, NULL));
}

void lb_sha256_free(lb_sha256 *hash)
{
    if (!hash)
        return;
    EVP_MD_CTX_free(hash->context);
    free(hash);
}

void lb_sha256_of(const void *bytes, size_t length, uint8_t digest[LB_SHA256_BYTES])
{
    must(EVP_Digest(length ? bytes : "", length, digest, NULL, EVP_sha256(), NULL));
}

void lb_sha256_hex(const uint8_t digest[LB_SHA256_BYTES], char hex[LB_SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < LB_SHA256_BYTES; i++) {
        hex[2 * i] = digits[digest[i] >> 4];
        hex[2 * i + 1] = digits[digest[i] & 15];
    }
    hex[2 * LB_SHA256_BYTES] = '\0';
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

bool lb_sha256_parse(const char *hex, uint8_t digest[LB_SHA256_BYTES])
{
    if (!hex || strnlen(hex, LB_SHA256_HEX) != LB_SHA256_HEX - 1)
        return false;
    for (size_t i = 0; i < LB_SHA256_BYTES; i++) {
        int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        digest[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

bool lb_equal_constant_time(const void *a, const void *b, size_t length)
{
    const uint8_t *left = a, *right = b;
    uint8_t difference = 0;
    for (size_t i = 0; i < length; i++)
        difference |= left[i] ^ right[i];
    return difference == 0;
}
