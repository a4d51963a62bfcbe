/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_status and lb_err - what a fallible function returns, and its detail.
 *
 * One X-macro list makes the code, the name on the wire (lower case), the text and the HTTP status
 * that a daemon answers with. A function that can fail returns lb_status (nodiscard) and takes an
 * lb_err as its last argument; NULL is allowed there. Nothing here allocates or logs.
 * An lb_err is plain data: copy it freely.
 */
#ifndef LB_COMMON_BASE_STATUS_H
#define LB_COMMON_BASE_STATUS_H

#define LB_NODISCARD __attribute__((warn_unused_result))
#define LB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/*     code              wire name              HTTP  text */
#define LB_STATUS_LIST(X)                                                                     \
    X(LB_OK,             "ok",                  200, "ok")                                    \
    X(LB_EINVAL,         "invalid_request",     400, "the request or argument is not valid")  \
    X(LB_EDATA,          "invalid_data",        400, "the data is malformed")                 \
    X(LB_EAUTH,          "authentication",      401, "a valid key is needed")                 \
    X(LB_ENOTFOUND,      "not_found",           404, "there is no such thing")                \
    X(LB_EMETHOD,        "method_not_allowed",  405, "the route does not take this method")   \
    X(LB_ECONFLICT,      "conflict",            409, "it conflicts with the current state")   \
    X(LB_EGONE,          "gone",                410, "it is no longer wanted")                \
    X(LB_ETOOBIG,        "too_large",           413, "it is larger than the limit")           \
    X(LB_EUNSUPPORTED,   "unsupported",         400, "it is not supported")                   \
    X(LB_EBUSY,          "overloaded",          429, "the queue is full")                     \
    X(LB_ECANCELLED,     "cancelled",           499, "it was cancelled")                      \
    X(LB_EINTERNAL,      "internal",            500, "an internal check failed")              \
    X(LB_ENUMERIC,       "numerical_error",     500, "a value is not finite")                 \
    X(LB_ENOMEM,         "out_of_memory",       503, "out of memory")                         \
    X(LB_EIO,            "io_error",            500, "an input or output call failed")        \
    X(LB_EUNAVAILABLE,   "unavailable",         503, "it is not available now")               \
    X(LB_ETIMEOUT,       "timeout",             504, "the deadline passed")                   \
    X(LB_ENET,           "network",             502, "the peer could not be reached")         \
    X(LB_ENOSPACE,       "no_space",            507, "the disk is full")

typedef enum lb_status {
#define X(code, name, http, text) code,
    LB_STATUS_LIST(X)
#undef X
    LB_STATUS_COUNT
} lb_status;

#define LB_ERR_FIELD_MAX 128
#define LB_ERR_MESSAGE_MAX 320

/* The detail of a failure: which field of the input was wrong ("" if none) and a sentence. */
typedef struct lb_err {
    lb_status status;
    char field[LB_ERR_FIELD_MAX];
    char message[LB_ERR_MESSAGE_MAX];
} lb_err;

/* Fills err (NULL is allowed) and returns status, so that a caller can write
 *     return lb_fail(err, LB_EINVAL, "prompt", "token %d is not below %u", id, vocab);
 * field may be NULL. The message is cut at LB_ERR_MESSAGE_MAX - 1 bytes. */
lb_status lb_fail(lb_err *err, lb_status status, const char *field, const char *format, ...)
    LB_PRINTF(4, 5);

/* Prefixes the message of err with "context: "; returns err->status (LB_EINTERNAL for NULL). */
lb_status lb_err_wrap(lb_err *err, const char *format, ...) LB_PRINTF(2, 3);

const char *lb_status_name(lb_status status);   /* name on the wire, never NULL */
const char *lb_status_text(lb_status status);   /* a sentence, never NULL */
int lb_status_http(lb_status status);           /* HTTP status code */
lb_status lb_status_from_http(int code);        /* the nearest status of a reply's code */

#endif
