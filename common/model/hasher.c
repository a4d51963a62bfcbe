/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/hasher.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Between two looks at whether the load was given up. */
#define SLICE_BYTES ((size_t)4 << 20)

typedef struct part {
    const uint8_t *data;
    size_t bytes;
    bool owned;
} part;

struct lb_hasher {
    pthread_mutex_t lock;
    pthread_cond_t more;
    pthread_t thread;
    lb_sha256 *hash;
    part *parts;
    size_t count, room, next;
    bool closed, given_up, failed;
};

/* The next part, or false when there are no more. */
static bool take(lb_hasher *h, part *out)
{
    bool there;
    pthread_mutex_lock(&h->lock);
    while (h->next == h->count && !h->closed)
        pthread_cond_wait(&h->more, &h->lock);
    there = h->next < h->count && !h->given_up;
    if (there)
        *out = h->parts[h->next++];
    pthread_mutex_unlock(&h->lock);
    return there;
}

static bool is_given_up(lb_hasher *h)
{
    pthread_mutex_lock(&h->lock);
    bool given_up = h->given_up;
    pthread_mutex_unlock(&h->lock);
    return given_up;
}

static void *work(void *arg)
{
    lb_hasher *h = arg;
    part p;
    while (take(h, &p)) {
        for (size_t at = 0; at < p.bytes && !is_given_up(h); at += SLICE_BYTES)
            lb_sha256_update(h->hash, p.data + at,
                             p.bytes - at < SLICE_BYTES ? p.bytes - at : SLICE_BYTES);
    }
    return NULL;
}

lb_status lb_hasher_start(lb_hasher **out, lb_err *err)
{
    lb_hasher *h = calloc(1, sizeof *h);
    if (!h)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a digest");
    lb_status status = lb_sha256_new(&h->hash, err);
    if (status != LB_OK) {
        free(h);
        return status;
    }
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->more, NULL);
    if (pthread_create(&h->thread, NULL, work, h) != 0) {
        pthread_cond_destroy(&h->more);
        pthread_mutex_destroy(&h->lock);
        lb_sha256_free(h->hash);
        free(h);
        return lb_fail(err, LB_ENOMEM, NULL, "the digest's thread could not be started");
    }
    *out = h;
    return LB_OK;
}

static void add(lb_hasher *h, part p)
{
    pthread_mutex_lock(&h->lock);
    if (h->count == h->room) {
        size_t room = h->room ? 2 * h->room : 64;
        part *parts = realloc(h->parts, room * sizeof *parts);
        h->failed = h->failed || !parts;
        h->parts = parts ? parts : h->parts;
        h->room = parts ? room : h->room;
    }
    if (!h->failed)
        h->parts[h->count++] = p;
    else if (p.owned)
        free((void *)p.data);
    pthread_cond_signal(&h->more);
    pthread_mutex_unlock(&h->lock);
}

void lb_hasher_add(lb_hasher *h, const void *data, size_t bytes)
{
    add(h, (part){data, bytes, false});
}

void lb_hasher_add_copy(lb_hasher *h, const void *data, size_t bytes)
{
    uint8_t *copy = malloc(bytes + 1);
    if (copy) {
        memcpy(copy, data, bytes);
        add(h, (part){copy, bytes, true});
        return;
    }
    pthread_mutex_lock(&h->lock);
    h->failed = true;
    pthread_mutex_unlock(&h->lock);
}

lb_status lb_hasher_end(lb_hasher *h, char digest[LB_SHA256_HEX], lb_err *err)
{
    uint8_t bytes[LB_SHA256_BYTES];
    if (!h)
        return LB_OK;
    pthread_mutex_lock(&h->lock);
    h->closed = true;
    h->given_up = digest == NULL;
    pthread_cond_signal(&h->more);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    lb_status status = LB_OK;
    if (digest && h->failed)
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for a digest");
    if (digest && status == LB_OK) {
        lb_sha256_final(h->hash, bytes);
        lb_sha256_hex(bytes, digest);
    }
    lb_sha256_free(h->hash);
    pthread_cond_destroy(&h->more);
    pthread_mutex_destroy(&h->lock);
    for (size_t i = 0; i < h->count; i++) {
        if (h->parts[i].owned)
            free((void *)h->parts[i].data);
    }
    free(h->parts);
    free(h);
    return status;
}
