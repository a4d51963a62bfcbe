/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 2048
/* What a logfmt value may hold without quotes. */
#define PLAIN "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.:/[]"

static const char *const level_names[] = {"debug", "info", "warn", "error"};

static _Atomic(const char *) log_program = "limbeck";
static atomic_int log_least = LB_LOG_INFO;

void lb_log_init(const char *program, lb_log_level least)
{
    atomic_store(&log_program, program);
    atomic_store(&log_least, (int)least);
}

bool lb_log_level_parse(const char *word, lb_log_level *out)
{
    for (size_t i = 0; i < sizeof level_names / sizeof *level_names; i++) {
        if (strcmp(word, level_names[i]) == 0) {
            *out = (lb_log_level)i;
            return true;
        }
    }
    return false;
}

static size_t add(size_t used, int written)
{
    size_t more = written > 0 ? (size_t)written : 0;
    return used + more < LINE_MAX_BYTES - 1 ? used + more : LINE_MAX_BYTES - 2;
}

void lb_log(lb_log_level level, const char *event, const char *format, ...)
{
    if ((int)level < atomic_load(&log_least))
        return;
    char line[LINE_MAX_BYTES];
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, sizeof line, "ts=%Y-%m-%dT%H:%M:%S", &utc);
    used = add(used, snprintf(line + used, sizeof line - used, ".%03dZ level=%s role=%s event=%s",
                              (int)(now.tv_nsec / 1000000), level_names[level],
                              atomic_load(&log_program), event));
    if (format) {
        va_list args;
        va_start(args, format);
        line[used++] = ' ';
        used = add(used, vsnprintf(line + used, sizeof line - used - 1, format, args));
        va_end(args);
    }
    for (size_t i = 0; i < used; i++) {   /* a value that was not quoted cannot forge a line */
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7F)
            line[i] = '?';
    }
    line[used++] = '\n';
    ssize_t written;
    do {
        written = write(STDERR_FILENO, line, used);
    } while (written < 0 && errno == EINTR);
    /* There is nowhere left to tell of a stderr that fails. */
}

const char *lb_log_quote(char *out, size_t size, const char *value)
{
    size_t n = 0;
    if (size < 3)
        return size ? (out[0] = '\0', out) : "";
    out[n++] = '"';
    for (; *value && n + 3 < size; value++) {
        char escape = *value == '\n' ? 'n' : *value == '"' || *value == '\\' ? *value : '\0';
        if (escape)
            out[n++] = '\\';
        out[n++] = escape ? escape : (unsigned char)*value < 0x20 ? '?' : *value;
    }
    out[n++] = '"';
    out[n] = '\0';
    return out;
}

void lb_log_err(lb_log_level level, const char *event, const lb_err *err)
{
    char message[2 * LB_ERR_MESSAGE_MAX + 4], quoted[2 * LB_ERR_FIELD_MAX + 4];
    const char *field = err->field;
    lb_log_quote(message, sizeof message, err->message);
    /* A field may be the name of a tensor or of a key in a request: any text. */
    if (field[strspn(field, PLAIN)])
        field = lb_log_quote(quoted, sizeof quoted, field);
    if (err->field[0])
        lb_log(level, event, "error=%s field=%s message=%s", lb_status_name(err->status), field,
               message);
    else
        lb_log(level, event, "error=%s message=%s", lb_status_name(err->status), message);
}
