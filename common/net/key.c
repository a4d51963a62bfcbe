/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/file.h"
#include "common/net/client.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#define KEY_FILE_MAX (1u << 20)    /* a server's own file may hold many */
#define BLANKS "\r\n \t"

lb_status lb_key_load(const char *path, char *out, size_t size, lb_err *err)
{
    struct stat st;
    lb_buf text = {0};
    if (stat(path, &st) != 0)
        return lb_fail(err, LB_ENOTFOUND, "key-file", "%.200s: %s", path, strerror(errno));
    if (st.st_mode & (S_IRWXG | S_IRWXO))
        return lb_fail(err, LB_EAUTH, "key-file", "%.200s may be read by others; chmod 600 it",
                       path);
    lb_status status = lb_file_read(path, KEY_FILE_MAX, &text, err);
    if (status != LB_OK)
        return status;
    const char *line = (const char *)text.data;
    line += strspn(line, BLANKS);
    while (*line == '#') {
        line += strcspn(line, "\r\n");
        line += strspn(line, BLANKS);
    }
    size_t length = strcspn(line, BLANKS);
    if (length == 0 || length >= size)
        status = lb_fail(err, LB_EINVAL, "key-file", "%.200s holds no key of 1 .. %zu characters",
                         path, size - 1);
    else
        memcpy(out, line, length);
    if (status == LB_OK)
        out[length] = '\0';
    explicit_bzero(text.data, text.length);
    lb_buf_free(&text);
    return status;
}
