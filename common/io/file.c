/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIR_MODE 0755
/* Temporary files that a crash left behind are stepped over; the process may have the same number
 * again, as it always has in a container. */
#define TEMPORARY_TRIES 1000

/* The status of an errno value after a file call. */
static lb_status status_of(int number)
{
    switch (number) {
    case ENOENT:
    case ENOTDIR:
        return LB_ENOTFOUND;
    case ENOSPC:
    case EDQUOT:
        return LB_ENOSPACE;
    case ENOMEM:
        return LB_ENOMEM;
    default:
        return LB_EIO;
    }
}

static lb_status file_error(lb_err *err, const char *path, const char *what)
{
    int number = errno;
    return lb_fail(err, status_of(number), NULL, "%.200s: %s: %s", path, what, strerror(number));
}

/* Opens a regular file for reading and tells its size. */
static lb_status open_regular(const char *path, int *fd, size_t *size, lb_err *err)
{
    struct stat st;
    /* O_NONBLOCK: a FIFO in the place of a file must not hang the open. */
    int opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (opened < 0)
        return file_error(err, path, "cannot be opened");
    if (fstat(opened, &st) != 0) {
        lb_status status = file_error(err, path, "cannot be examined");
        close(opened);
        return status;
    }
    if (!S_ISREG(st.st_mode)) {
        close(opened);
        return lb_fail(err, LB_EINVAL, NULL, "%.200s: is not a regular file", path);
    }
    *fd = opened;
    *size = (size_t)st.st_size;
    return LB_OK;
}

lb_status lb_file_read(const char *path, size_t max, lb_buf *out, lb_err *err)
{
    int fd = -1;
    size_t size = 0;
    lb_status status = open_regular(path, &fd, &size, err);
    if (status != LB_OK)
        return status;
    if (size > max) {
        status = lb_fail(err, LB_ETOOBIG, NULL, "%.200s: has %zu bytes, the limit is %zu", path,
                         size, max);
        goto done;
    }
    uint8_t *at = lb_buf_extend(out, size);
    if (!at) {
        status = lb_fail(err, out->status, NULL, "%.200s: no memory for %zu bytes", path, size);
        goto done;
    }
    for (size_t have = 0; have < size;) {
        ssize_t got = read(fd, at + have, size - have);
        if (got > 0) {
            have += (size_t)got;
        } else if (got == 0) {
            status = lb_fail(err, LB_EIO, NULL, "%.200s: became shorter while it was read", path);
            goto done;
        } else if (errno != EINTR) {
            status = file_error(err, path, "cannot be read");
            goto done;
        }
    }
done:
    close(fd);
    if (status != LB_OK)
        lb_buf_free(out);
    return status;
}

lb_status lb_file_map(const char *path, lb_mapping *out, lb_err *err)
{
    int fd = -1;
    size_t size = 0;
    void *data = NULL;
    lb_status status = open_regular(path, &fd, &size, err);
    if (status != LB_OK)
        return status;
    if (size > 0) {
        data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = file_error(err, path, "cannot be mapped");
    }
    close(fd);
    if (status == LB_OK)
        *out = (lb_mapping){.data = data, .length = size};
    return status;
}

void lb_file_unmap(lb_mapping *mapping)
{
    if (!mapping)
        return;
    if (mapping->data)
        munmap((void *)(uintptr_t)mapping->data, mapping->length);
    *mapping = (lb_mapping){0};
}

/* ---- durable writing ---- */

/* Fills a new file and makes its bytes durable. */
static lb_status fill(int fd, const char *path, const void *bytes, size_t length, lb_err *err)
{
    /* A full disk shows here, before any work; file systems without it show it in write. */
    if (length > 0) {
        int failed = posix_fallocate(fd, 0, (off_t)length);
        if (failed == ENOSPC || failed == EDQUOT || failed == EFBIG) {
            errno = failed;
            return file_error(err, path, "cannot be reserved");
        }
    }
    const uint8_t *at = bytes;
    for (size_t left = length; left > 0;) {
        ssize_t written = write(fd, at, left);
        if (written == 0)
            errno = EIO;
        if (written == 0 || (written < 0 && errno != EINTR))
            return file_error(err, path, "cannot be written");
        if (written > 0) {
            at += written;
            left -= (size_t)written;
        }
    }
    if (fsync(fd) != 0)
        return file_error(err, path, "cannot be made durable");
    return LB_OK;
}

static lb_status sync_folder(const char *path, lb_err *err)
{
    char copy[LB_PATH_MAX];
    memcpy(copy, path, strlen(path) + 1);
    const char *folder = dirname(copy);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return file_error(err, folder, "cannot be opened");
    lb_status status = LB_OK;
    /* EINVAL: a file system that keeps its folders durable by itself. */
    if (fsync(fd) != 0 && errno != EINVAL)
        status = file_error(err, folder, "cannot be made durable");
    close(fd);
    return status;
}

/* Gives the finished temporary file its name. */
static lb_status publish(const char *temporary, const char *path, lb_write_mode mode, lb_err *err)
{
    if (mode == LB_WRITE_REPLACE) {
        if (rename(temporary, path) != 0)
            return file_error(err, path, "cannot be renamed into place");
        return LB_OK;
    }
    if (link(temporary, path) != 0) {
        if (errno != EEXIST)
            return file_error(err, path, "cannot be linked into place");
        if (!lb_path_is_file(path))
            return lb_fail(err, LB_EIO, NULL, "%.200s: is there and is not a regular file", path);
    }
    unlink(temporary);
    return LB_OK;
}

/* Makes a new file beside path; temporary[LB_PATH_MAX] gets its name, which is short enough for a
 * file system wherever path itself is. */
static lb_status make_temporary(const char *path, unsigned mode_bits, char *temporary, int *fd,
                                lb_err *err)
{
    static atomic_uint sequence;
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    for (unsigned i = 0; i < TEMPORARY_TRIES; i++) {
        int n = snprintf(temporary, LB_PATH_MAX, "%.*s.lb-%ld-%u.tmp", folder, path,
                         (long)getpid(), atomic_fetch_add(&sequence, 1));
        if (n < 0 || n >= LB_PATH_MAX)
            return lb_fail(err, LB_ETOOBIG, NULL, "the path %.100s... is too long", path);
        int made = open(temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, mode_bits);
        if (made >= 0) {
            *fd = made;
            return LB_OK;
        }
        if (errno != EEXIST)
            break;
    }
    return file_error(err, temporary, "cannot be made");
}

lb_status lb_file_write(const char *path, const void *bytes, size_t length, lb_write_mode mode,
                        unsigned mode_bits, lb_err *err)
{
    char temporary[LB_PATH_MAX];
    int fd = -1;
    if (strlen(path) >= sizeof temporary)
        return lb_fail(err, LB_ETOOBIG, NULL, "the path %.100s... is too long", path);
    lb_status status = make_temporary(path, mode_bits, temporary, &fd, err);
    if (status != LB_OK)
        return status;
    status = fill(fd, path, bytes, length, err);
    if (close(fd) != 0 && status == LB_OK)
        status = file_error(err, path, "cannot be closed");
    if (status == LB_OK)
        status = publish(temporary, path, mode, err);
    if (status == LB_OK)
        return sync_folder(path, err);
    unlink(temporary);
    return status;
}

/* ---- paths ---- */

lb_status lb_dir_make(const char *path, lb_err *err)
{
    char copy[LB_PATH_MAX];
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof copy)
        return lb_fail(err, LB_EINVAL, NULL, "'%.100s' is no path for a folder", path);
    memcpy(copy, path, length + 1);
    for (char *at = copy + 1;; at++) {
        if (*at != '/' && *at != '\0')
            continue;
        char old = *at;
        *at = '\0';
        int failed = mkdir(copy, DIR_MODE) == 0 ? 0 : errno;
        if (failed && !lb_path_is_dir(copy)) {
            if (failed == EEXIST)
                return lb_fail(err, LB_EIO, NULL, "%.200s: is there and is not a folder", copy);
            errno = failed;
            return file_error(err, copy, "cannot be made");
        }
        *at = old;
        if (old == '\0')
            return LB_OK;
    }
}

bool lb_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool lb_path_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

lb_status lb_path_join(char *out, size_t size, const char *dir, const char *name, lb_err *err)
{
    int n = snprintf(out, size, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= size)
        return lb_fail(err, LB_ETOOBIG, NULL, "the path %.100s/%.100s is too long", dir, name);
    return LB_OK;
}

lb_status lb_path_of_program(char *out, size_t size, lb_err *err)
{
    ssize_t n = readlink("/proc/self/exe", out, size);
    if (n <= 0 || (size_t)n >= size)
        return lb_fail(err, LB_EIO, NULL, "the folder of the program could not be found");
    out[n] = '\0';
    char *slash = strrchr(out, '/');
    if (slash)
        slash[slash == out] = '\0';   /* the folder of "/x" is "/" */
    return LB_OK;
}
