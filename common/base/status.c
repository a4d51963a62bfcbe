/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef struct status_row {
    const char *name, *text;
    int http;
} status_row;

static const status_row rows[LB_STATUS_COUNT] = {
#define X(code, wire_name, http_code, sentence) \
    [code] = {.name = (wire_name), .text = (sentence), .http = (http_code)},
    LB_STATUS_LIST(X)
#undef X
};

static const status_row *row_of(lb_status status)
{
    return &rows[(unsigned)status < LB_STATUS_COUNT ? status : LB_EINTERNAL];
}

lb_status lb_fail(lb_err *err, lb_status status, const char *field, const char *format, ...)
{
    if (!err)
        return status;
    err->status = status;
    snprintf(err->field, sizeof err->field, "%s", field ? field : "");
    va_list args;
    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return status;
}

lb_status lb_err_wrap(lb_err *err, const char *format, ...)
{
    if (!err)
        return LB_EINTERNAL;
    char old[LB_ERR_MESSAGE_MAX], context[LB_ERR_MESSAGE_MAX];
    memcpy(old, err->message, sizeof old);
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    /* Cutting the tail is meant: the buffer is the message's maximum. */
    size_t used = strlen(context) < sizeof err->message - 1 ? strlen(context)
                                                            : sizeof err->message - 1;
    memcpy(err->message, context, used);
    snprintf(err->message + used, sizeof err->message - used, ": %s", old);
    return err->status;
}

const char *lb_status_name(lb_status status)
{
    return row_of(status)->name;
}

const char *lb_status_text(lb_status status)
{
    return row_of(status)->text;
}

int lb_status_http(lb_status status)
{
    return row_of(status)->http;
}

/* Codes that no row has, or that the first row with them would name wrongly. */
static const struct {
    int http;
    lb_status status;
} peers[] = {
    {403, LB_EAUTH},
    {408, LB_ETIMEOUT},
    {503, LB_EUNAVAILABLE},   /* whatever the peer lacks, it is not our memory */
};

lb_status lb_status_from_http(int code)
{
    if (code >= 200 && code < 300)
        return LB_OK;
    for (size_t i = 0; i < sizeof peers / sizeof *peers; i++) {
        if (peers[i].http == code)
            return peers[i].status;
    }
    for (int s = LB_OK + 1; s < LB_STATUS_COUNT; s++) {
        if (rows[s].http == code)
            return (lb_status)s;
    }
    return code >= 500 ? LB_EINTERNAL : LB_EINVAL;
}
