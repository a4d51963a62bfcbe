/* SPDX-License-Identifier: Apache-2.0
 *
 * Files and blobs. Both are immutable, so their bytes are read on the HTTP thread.
 */
#include "server/coordinator/daemon_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_FILES 20u
#define FILE_ID_HEX 24
#define FIRST_PRINTABLE 0x20
#define HTTP_NOT_MODIFIED 304
#define ETAG_SIZE (LB_SHA256_HEX + 2)

static void drop(lb_core_event *event)
{
    lb_core_event_free(event);
    free(event);
}

static bool is_filename(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > LB_LIMIT_NAME)
        return false;
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)name[i];
        if (byte < FIRST_PRINTABLE || byte == 0x7f || byte == '/' || byte == '\\')
            return false;
    }
    return true;
}

/* The row of an upload; its id is the digest's beginning, so the same bytes are the same file. */
static lb_status describe(lb_request *request, lb_file_row *file, size_t length, lb_err *err)
{
    const char *filename = lb_request_query(request, "filename");
    const char *purpose = lb_request_query(request, "purpose");
    const char *type = lb_request_header(request, "Content-Type");
    filename = filename ? filename : "data.jsonl";
    purpose = purpose ? purpose : "fine-tune";
    if (type && strncmp(type, "multipart/", strlen("multipart/")) == 0)
        return lb_fail(err, LB_EUNSUPPORTED, "Content-Type", "send the JSONL itself as the body, "
                       "with ?filename= and ?purpose= in the URL");
    if (!is_filename(filename))
        return lb_fail(err, LB_EINVAL, "filename", "must have 1 to %u bytes without / or control "
                       "characters", LB_LIMIT_NAME);
    if (!lb_route_is_id(purpose, LB_LIMIT_ID))
        return lb_fail(err, LB_EINVAL, "purpose", "must be 1 to %u letters, digits or _.-",
                       LB_LIMIT_ID);
    if (length == 0)
        return lb_fail(err, LB_EINVAL, "file", "the body is empty");
    snprintf(file->filename, sizeof file->filename, "%s", filename);
    snprintf(file->purpose, sizeof file->purpose, "%s", purpose);
    file->bytes = length;
    return LB_OK;
}

void lb_route_file_add(void *daemon, lb_request *request)
{
    lb_coordinator *c = daemon;
    lb_err err = {0};
    size_t length = 0;
    const uint8_t *body = lb_request_body(request, &length);
    lb_core_event *event = lb_route_event(request, LB_EVENT_FILE_ADD);
    if (!event)
        return;
    lb_status status = describe(request, &event->file, length, &err);
    if (status == LB_OK)
        status = lb_coordinator_put(c, body, length, event->file.sha, &err);
    if (status != LB_OK) {
        drop(event);
        lb_reply_err(request, &err);
        return;
    }
    snprintf(event->file.id, sizeof event->file.id, "file-%.*s", FILE_ID_HEX, event->file.sha);
    lb_route_submit(c, request, event);
}

void lb_route_file_list(void *daemon, lb_request *request)
{
    lb_core_event *event = lb_route_event(request, LB_EVENT_FILE_LIST);
    if (!event)
        return;
    if (lb_route_page(request, event, PAGE_FILES))
        lb_route_submit(daemon, request, event);
    else
        drop(event);
}

void lb_route_file_get(void *daemon, lb_request *request)
{
    lb_core_event *event = lb_route_event(request, LB_EVENT_FILE_GET);
    if (!event)
        return;
    if (lb_route_id(request, lb_request_param(request, "file"), "file", event->id, LB_ID_SIZE))
        lb_route_submit(daemon, request, event);
    else
        drop(event);
}

static void reply_blob(lb_coordinator *c, lb_request *request, const char *sha, const char *type)
{
    lb_err err = {0};
    lb_buf body = {0};
    char etag[ETAG_SIZE];
    const char *known = lb_request_header(request, "If-None-Match");
    snprintf(etag, sizeof etag, "\"%s\"", sha);
    lb_reply_header(request, "ETag", etag);
    if (known && strcmp(known, etag) == 0) {
        lb_reply(request, HTTP_NOT_MODIFIED, NULL, NULL, 0);
        return;
    }
    if (lb_blobs_get(c->blobs, sha, &body, &err) != LB_OK) {
        lb_reply_err(request, &err);
        return;
    }
    lb_reply_header(request, "Cache-Control", "private, max-age=31536000, immutable");
    lb_reply_buf(request, lb_status_http(LB_OK), type, &body);
}

void lb_route_file_content(void *daemon, lb_request *request)
{
    lb_coordinator *c = daemon;
    char id[LB_ID_SIZE], sha[LB_SHA256_HEX];
    if (!lb_route_id(request, lb_request_param(request, "file"), "file", id, sizeof id))
        return;
    if (lb_coordinator_find_file(c, id, sha))
        reply_blob(c, request, sha, "application/jsonl");
    else
        lb_reply_fail(request, LB_ENOTFOUND, "file", "there is no file '%s'", id);
}

void lb_route_blob_get(void *daemon, lb_request *request)
{
    const char *sha = lb_request_param(request, "sha256");
    if (strlen(sha) == LB_SHA256_HEX - 1 &&
        strspn(sha, "0123456789abcdef") == LB_SHA256_HEX - 1)
        reply_blob(daemon, request, sha, "application/octet-stream");
    else
        lb_reply_fail(request, LB_EINVAL, "sha256", "a blob's name is 64 lower-case hex digits");
}
