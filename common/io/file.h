/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_file - whole files: read under a limit, map read-only, write durably.
 *
 * lb_file_write is the only routine of the project that writes a file which must survive a crash:
 * temporary file in the same folder, write, fsync, rename (or link), fsync of the folder.
 */
#ifndef LB_COMMON_IO_FILE_H
#define LB_COMMON_IO_FILE_H

#include "common/base/buf.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_PATH_MAX 4096

/* Reads a regular file of at most max bytes; out (zeroed by the caller) owns the bytes.
 * LB_ENOTFOUND, LB_ETOOBIG, LB_EIO; the message names the path. */
LB_NODISCARD lb_status lb_file_read(const char *path, size_t max, lb_buf *out, lb_err *err);

/* A read-only private mapping of a regular file. An empty file maps to data NULL, length 0. */
typedef struct lb_mapping {
    const uint8_t *data;
    size_t length;
} lb_mapping;
LB_NODISCARD lb_status lb_file_map(const char *path, lb_mapping *out, lb_err *err);
void lb_file_unmap(lb_mapping *mapping);  /* NULL and zeroed allowed */

typedef enum lb_write_mode {
    LB_WRITE_REPLACE,  /* rename over what is there */
    LB_WRITE_KEEP,     /* link: an existing file stays, and counts as success */
} lb_write_mode;

/* Writes length bytes to path so that after LB_OK they survive a power cut, and after a failure
 * path holds what it held before. mode_bits such as 0644. LB_ENOSPACE for a full disk. */
LB_NODISCARD lb_status lb_file_write(const char *path, const void *bytes, size_t length,
                                     lb_write_mode mode, unsigned mode_bits, lb_err *err);

/* Makes a folder and its parents; an existing folder is a success. */
LB_NODISCARD lb_status lb_dir_make(const char *path, lb_err *err);
bool lb_path_is_dir(const char *path);
bool lb_path_is_file(const char *path);
/* out = dir "/" name; LB_ETOOBIG when it does not fit into size. */
LB_NODISCARD lb_status lb_path_join(char *out, size_t size, const char *dir, const char *name,
                                    lb_err *err);
/* The folder of the running program, for finding its siblings. */
LB_NODISCARD lb_status lb_path_of_program(char *out, size_t size, lb_err *err);

#endif
