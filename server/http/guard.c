/* SPDX-License-Identifier: Apache-2.0
 *
 * What libmicrohttpd lets through and a strict server must not: two framings of one body, control
 * characters; and who may call.
 */
#include "common/io/file.h"
#include "server/http/http_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define KEY_FILE_MAX (1u << 20)

bool lb_guard_uri(const char *raw)
{
    for (; *raw; raw++) {
        if ((unsigned char)*raw <= 0x20 || *raw == 0x7F)
            return false;
        /* An encoded NUL would cut the path short behind our back. */
        if (raw[0] == '%' && raw[1] == '0' && raw[2] == '0')
            return false;
    }
    return true;
}

/* libmicrohttpd before 1.0 ends the path at a NUL byte and looks for the version behind the last
 * space of the line, so that the two are then further apart than the one space between them. */
bool lb_guard_version(const lb_request *request, const char *version)
{
    return MHD_get_version()[0] != '0' || version == request->raw_path_end + 1;
}

typedef struct header_scan {
    unsigned lengths, encodings;
    bool control, bad_name;
    const char *length;
} header_scan;

/* A name as RFC 9110 has it. libmicrohttpd keeps the blank of "Content-Length : 5" in the name, so
 * that it would see no body there, and read it as the next request. */
static bool is_token(const char *name)
{
    const char *c = name;
    for (; *c; c++) {
        bool letter = (*c | 32) >= 'a' && (*c | 32) <= 'z';
        if (!letter && !(*c >= '0' && *c <= '9') && !strchr("!#$%&'*+-.^_`|~", *c))
            return false;
    }
    return c > name;
}

static enum MHD_Result scan_header(void *arg, enum MHD_ValueKind kind, const char *name,
                                   const char *value)
{
    header_scan *scan = arg;
    (void)kind;
    scan->bad_name |= !is_token(name);
    if (strcasecmp(name, "Content-Length") == 0) {
        scan->lengths++;
        scan->length = value;
    }
    scan->encodings += strcasecmp(name, "Transfer-Encoding") == 0;
    for (const char *c = value; c && *c; c++)
        scan->control |= ((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7F;
    return MHD_YES;
}

lb_status lb_guard_headers(struct MHD_Connection *connection, uint64_t *body_length, lb_err *err)
{
    header_scan scan = {0};
    MHD_get_connection_values(connection, MHD_HEADER_KIND, scan_header, &scan);
    *body_length = 0;
    if (scan.control)
        return lb_fail(err, LB_EINVAL, "header", "a header holds a control character");
    if (scan.bad_name)
        return lb_fail(err, LB_EINVAL, "header", "a header's name holds a blank or a sign that it "
                       "must not");
    if (scan.encodings > 0)
        return lb_fail(err, LB_EINVAL, "Transfer-Encoding",
                       "a body is sent with Content-Length, not with a transfer encoding");
    if (scan.lengths > 1)
        return lb_fail(err, LB_EINVAL, "Content-Length", "it stands %u times", scan.lengths);
    if (scan.lengths == 0)
        return LB_OK;
    char *end = NULL;
    if (!scan.length || *scan.length < '0' || *scan.length > '9' || strlen(scan.length) > 18)
        return lb_fail(err, LB_EINVAL, "Content-Length", "it is not a length");
    *body_length = strtoull(scan.length, &end, 10);
    if (*end)
        return lb_fail(err, LB_EINVAL, "Content-Length", "it is not a length");
    return LB_OK;
}

/* ---- keys ---- */

/* A line without the blanks around it, which no editor shows, is a key. */
static lb_status add_key(lb_http *http, const char *line, size_t length, lb_err *err)
{
    while (length > 0 && (line[0] == ' ' || line[0] == '\t')) {
        line++;
        length--;
    }
    while (length > 0 && (line[length - 1] == ' ' || line[length - 1] == '\t'))
        length--;
    if (length == 0 || *line == '#')
        return LB_OK;
    if (http->key_count == LB_HTTP_KEYS_MAX)
        return lb_fail(err, LB_ETOOBIG, "key-file", "it has more than %u keys", LB_HTTP_KEYS_MAX);
    lb_sha256_of(line, length, http->keys[http->key_count++]);
    return LB_OK;
}

lb_status lb_keys_load(lb_http *http, const char *path, lb_err *err)
{
    struct stat st;
    lb_buf text = {0};
    if (stat(path, &st) != 0)
        return lb_fail(err, LB_ENOTFOUND, "key-file", "%.200s: %s", path, strerror(errno));
    if (st.st_mode & (S_IRWXG | S_IRWXO))
        return lb_fail(err, LB_EINVAL, "key-file", "%.200s may be read by others; chmod 600 it",
                       path);
    lb_status status = lb_file_read(path, KEY_FILE_MAX, &text, err);
    if (status != LB_OK)
        return status;
    http->keys = calloc(LB_HTTP_KEYS_MAX, sizeof *http->keys);
    if (!http->keys)
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for keys");
    const char *line = (const char *)text.data;
    while (status == LB_OK && *line) {
        size_t length = strcspn(line, "\r\n");
        status = add_key(http, line, length, err);
        line += length;
        line += strspn(line, "\r\n");
    }
    if (status == LB_OK && http->key_count == 0)
        status = lb_fail(err, LB_EINVAL, "key-file", "%.200s holds no key", path);
    explicit_bzero(text.data, text.length);
    lb_buf_free(&text);
    return status;
}

bool lb_key_accepted(const lb_http *http, const char *authorization)
{
    uint8_t digest[LB_SHA256_BYTES];
    bool accepted = false;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return false;
    lb_sha256_of(authorization + 7, strlen(authorization + 7), digest);
    /* Every key is compared, whole, so that the time tells nothing. */
    for (size_t i = 0; i < http->key_count; i++)
        accepted |= lb_equal_constant_time(digest, http->keys[i], sizeof digest);
    return accepted;
}
