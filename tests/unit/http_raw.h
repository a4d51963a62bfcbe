/* SPDX-License-Identifier: Apache-2.0
 *
 * http_raw - raw sockets for the tests of the HTTP harness: what a well-behaved client never
 * sends. Included after cmocka.h.
 */
#ifndef LB_TESTS_UNIT_HTTP_RAW_H
#define LB_TESTS_UNIT_HTTP_RAW_H

#include "common/base/clock.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REPLY_BYTES 8192
#define PATIENCE_MS 10000     /* sanitizers on a busy machine are slow; a pass does not wait */

typedef struct raw_reply {
    int code;                 /* 0: none came */
    bool closed;              /* the server closed the connection after it */
    size_t length;
    char text[REPLY_BYTES];   /* head and body, ended by NUL */
} raw_reply;

static inline int dial(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static inline bool put_bytes(int fd, const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t n = send(fd, at, length, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        at += n;
        length -= (size_t)n;
    }
    return true;
}

static inline bool put_text(int fd, const char *text)
{
    return put_bytes(fd, text, strlen(text));
}

/* The value of a header of the reply, in a buffer of its own that the next call overwrites. */
static inline bool reply_header(const raw_reply *reply, const char *name, char value[256])
{
    char needle[64];
    snprintf(needle, sizeof needle, "\r\n%s: ", name);
    const char *at = strcasestr(reply->text, needle);
    if (!at)
        return false;
    at += strlen(needle);
    snprintf(value, 256, "%.*s", (int)strcspn(at, "\r\n"), at);
    return true;
}

static inline const char *reply_body(const raw_reply *reply)
{
    const char *at = strstr(reply->text, "\r\n\r\n");
    return at ? at + 4 : "";
}

static inline bool reply_is_whole(const raw_reply *reply)
{
    char value[256];
    const char *body = strstr(reply->text, "\r\n\r\n");
    if (!body || !reply_header(reply, "Content-Length", value))
        return false;
    return reply->length >= (size_t)(body + 4 - reply->text) + strtoul(value, NULL, 10);
}

/* Whether the server closes the connection by then. */
static inline bool closes_within(int fd, int64_t ms)
{
    char rest[512];
    int64_t until = lb_clock_ms() + ms;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = until - lb_clock_ms();
        if (left <= 0 || poll(&p, 1, (int)left) <= 0)
            return false;
        if (recv(fd, rest, sizeof rest, 0) <= 0)
            return true;
    }
}

/* Reads one reply by its Content-Length, or to the end of the connection. */
static inline void get_reply_within(int fd, raw_reply *reply, int64_t ms)
{
    int64_t until = lb_clock_ms() + ms;
    *reply = (raw_reply){0};
    while (!reply_is_whole(reply) && reply->length < sizeof reply->text - 1) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = until - lb_clock_ms();
        if (left <= 0 || poll(&p, 1, (int)left) <= 0)
            break;
        ssize_t n = recv(fd, reply->text + reply->length, sizeof reply->text - 1 - reply->length,
                         0);
        reply->closed = n <= 0;
        if (n <= 0)
            break;
        reply->length += (size_t)n;
    }
    if (strncmp(reply->text, "HTTP/1.1 ", 9) == 0)
        reply->code = (int)strtol(reply->text + 9, NULL, 10);
}

static inline void get_reply(int fd, raw_reply *reply)
{
    get_reply_within(fd, reply, PATIENCE_MS);
}

/* Sends bytes on a connection of its own and reads the reply; tells whether it was closed. */
static inline void exchange(uint16_t port, const void *bytes, size_t length, raw_reply *reply)
{
    int fd = dial(port);
    put_bytes(fd, bytes, length);
    get_reply(fd, reply);
    char value[256];
    if (reply->code && reply_header(reply, "Connection", value) && strcasecmp(value, "close") == 0)
        reply->closed = closes_within(fd, PATIENCE_MS);
    close(fd);
}

static inline void exchange_text(uint16_t port, const char *text, raw_reply *reply)
{
    exchange(port, text, strlen(text), reply);
}

#endif
