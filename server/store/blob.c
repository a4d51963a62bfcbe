/* SPDX-License-Identifier: Apache-2.0 */
#include "server/store/blob.h"

#include "common/io/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOB_MODE 0444
#define FAN_OUT 256

struct lb_blobs {
    char root[LB_PATH_MAX];
    char quarantine[LB_PATH_MAX];
    atomic_bool ready[FAN_OUT];     /* folders that are there and durable */
};

static bool is_blob_name(const char *name)
{
    uint8_t digest[LB_SHA256_BYTES];
    char again[LB_SHA256_HEX];
    if (!lb_sha256_parse(name, digest))
        return false;
    lb_sha256_hex(digest, again);
    return strcmp(again, name) == 0;   /* upper case would be a second name of the same blob */
}

/* path = ROOT/ab/<hex>; dir (may be NULL) = ROOT/ab. hex was checked to be a digest. */
static lb_status blob_path(const lb_blobs *blobs, const char *hex, char *dir, char *path,
                           lb_err *err)
{
    char folder[LB_PATH_MAX];
    char fan[3] = {hex[0], hex[1], 0};
    lb_status status = lb_path_join(folder, sizeof folder, blobs->root, fan, err);
    if (status == LB_OK)
        status = lb_path_join(path, LB_PATH_MAX, folder, hex, err);
    if (status == LB_OK && dir)
        memcpy(dir, folder, sizeof folder);
    return status;
}

static lb_status sync_path(const char *path, lb_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool bad = fd < 0 || fsync(fd) != 0;
    int code = errno;
    if (fd >= 0)
        close(fd);
    return bad ? lb_fail(err, LB_EIO, NULL, "fsync of %.200s: %s", path, strerror(code)) : LB_OK;
}

lb_status lb_blobs_open(const char *dir, lb_blobs **out, lb_err *err)
{
    lb_blobs *blobs = calloc(1, sizeof *blobs);
    if (!blobs)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the blob store");
    lb_status status = lb_path_join(blobs->root, sizeof blobs->root, dir, "blobs", err);
    if (status == LB_OK)
        status = lb_path_join(blobs->quarantine, sizeof blobs->quarantine, dir, "quarantine", err);
    if (status == LB_OK)
        status = lb_dir_make(blobs->root, err);
    if (status == LB_OK)
        status = sync_path(dir, err);
    if (status == LB_OK)
        *out = blobs;
    else
        lb_blobs_close(blobs);
    return status;
}

void lb_blobs_close(lb_blobs *blobs)
{
    free(blobs);
}

static void quarantine(lb_blobs *blobs, const char *path, const char *hex)
{
    char to[LB_PATH_MAX];
    if (lb_dir_make(blobs->quarantine, NULL) == LB_OK &&
        lb_path_join(to, sizeof to, blobs->quarantine, hex, NULL) == LB_OK)
        (void)rename(path, to);
}

static lb_status check_digest(lb_blobs *blobs, const char *path, const char *hex,
                              const lb_buf *bytes, lb_err *err)
{
    uint8_t digest[LB_SHA256_BYTES];
    char found[LB_SHA256_HEX];
    lb_sha256_of(bytes->data, bytes->length, digest);
    lb_sha256_hex(digest, found);
    if (strcmp(found, hex) == 0)
        return LB_OK;
    quarantine(blobs, path, hex);
    return lb_fail(err, LB_EDATA, "blob", "%.64s has digest %s, expected %s", path, found, hex);
}

lb_status lb_blobs_get(lb_blobs *blobs, const char *hex, lb_buf *out, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf bytes = {0};
    if (!is_blob_name(hex))
        return lb_fail(err, LB_EINVAL, "sha256", "a blob's name is 64 lower-case hex digits");
    lb_status status = blob_path(blobs, hex, NULL, path, err);
    if (status == LB_OK)
        status = lb_file_read(path, LB_BLOB_MAX, &bytes, err);
    if (status == LB_ENOTFOUND)
        status = lb_fail(err, LB_ENOTFOUND, "sha256", "there is no blob %s", hex);
    if (status == LB_OK)
        status = check_digest(blobs, path, hex, &bytes, err);
    if (status == LB_OK && out->length == 0 && out->limit == 0) {
        lb_buf_free(out);
        *out = bytes;
        return LB_OK;
    }
    if (status == LB_OK) {
        lb_buf_append(out, bytes.data, bytes.length);
        if (out->status != LB_OK)
            status = lb_fail(err, out->status, "blob", "blob %s does not fit", hex);
    }
    lb_buf_free(&bytes);
    return status;
}

/* ROOT/ab, with its entry in ROOT durable. The flag is per process: a folder may come from one that
 * died before its fsync. */
static lb_status ready_folder(lb_blobs *blobs, const char *hex, const char *dir, lb_err *err)
{
    char fan[3] = {hex[0], hex[1], 0};
    atomic_bool *ready = &blobs->ready[strtoul(fan, NULL, 16)];
    if (atomic_load(ready))
        return LB_OK;
    lb_status status = lb_dir_make(dir, err);
    if (status == LB_OK)
        status = sync_path(blobs->root, err);
    if (status == LB_OK)
        atomic_store(ready, true);
    return status;
}

/* A file found in place may come from a writer that died between its link and its last fsync, so
 * both are made durable before anyone counts on them. */
static lb_status sync_existing(const char *path, const char *dir, lb_err *err)
{
    lb_status status = sync_path(path, err);
    return status == LB_OK ? sync_path(dir, err) : status;
}

lb_status lb_blobs_put(lb_blobs *blobs, const void *bytes, size_t length, char hex[LB_SHA256_HEX],
                       lb_err *err)
{
    uint8_t digest[LB_SHA256_BYTES];
    char path[LB_PATH_MAX], dir[LB_PATH_MAX];
    lb_buf existing = {0};
    if (length > LB_BLOB_MAX)
        return lb_fail(err, LB_ETOOBIG, "blob", "%zu bytes are more than a blob may have", length);
    lb_sha256_of(bytes, length, digest);
    lb_sha256_hex(digest, hex);
    lb_status status = blob_path(blobs, hex, dir, path, err);
    if (status == LB_OK)
        status = ready_folder(blobs, hex, dir, err);
    if (status != LB_OK)
        return status;
    if (lb_path_is_file(path)) {
        /* A damaged file goes to quarantine here, and the write below takes its place. */
        status = lb_blobs_get(blobs, hex, &existing, NULL);
        lb_buf_free(&existing);
        if (status == LB_OK)
            return sync_existing(path, dir, err);
        if (status != LB_EDATA && status != LB_ENOTFOUND)
            return lb_fail(err, status, NULL, "blob %s cannot be read back", hex);
    }
    return lb_file_write(path, bytes, length, LB_WRITE_KEEP, BLOB_MODE, err);
}

void lb_blobs_drop(lb_blobs *blobs, const char *hex)
{
    char path[LB_PATH_MAX];
    if (is_blob_name(hex) && blob_path(blobs, hex, NULL, path, NULL) == LB_OK)
        (void)unlink(path);
}

static lb_status sweep_folder(const char *folder, bool (*keep)(void *arg, const char *hex),
                              void *arg, size_t *removed, lb_err *err)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return lb_fail(err, LB_EIO, NULL, "cannot list %.200s: %s", folder, strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (is_blob_name(entry->d_name) && keep(arg, entry->d_name))
            continue;
        if (unlinkat(dirfd(dir), entry->d_name, 0) == 0)
            (*removed)++;
    }
    closedir(dir);
    return LB_OK;
}

lb_status lb_blobs_sweep(lb_blobs *blobs, bool (*keep)(void *arg, const char *hex), void *arg,
                         size_t *removed, lb_err *err)
{
    lb_status status = LB_OK;
    *removed = 0;
    for (unsigned i = 0; status == LB_OK && i < FAN_OUT; i++) {
        char fan[3], path[LB_PATH_MAX];
        snprintf(fan, sizeof fan, "%02x", i);
        status = lb_path_join(path, sizeof path, blobs->root, fan, err);
        if (status == LB_OK && lb_path_is_dir(path))
            status = sweep_folder(path, keep, arg, removed, err);
    }
    return status;
}
