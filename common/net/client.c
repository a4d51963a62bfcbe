/* SPDX-License-Identifier: Apache-2.0 */
#include "common/net/client.h"

#include "common/base/clock.h"
#include "common/base/json.h"
#include "common/net/retry.h"

#include <curl/curl.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TIMEOUT_DEFAULT_MS 60000
#define CONNECT_TIMEOUT_MS 5000L
#define REPLY_MAX_DEFAULT ((size_t)64 << 20)
#define URL_BYTES 2048
#define HEADER_BYTES 256
#define RETRY_AFTER_MAX 3600    /* seconds */
#define TIMER_SLACK_MS 50
#define WAIT_SLICE_MS 100

struct lb_client {
    CURL *easy;
    char url[URL_BYTES];
    char *key, *user_agent;
    bool (*cancelled)(void *arg);
    void *cancel_arg;
    lb_retry retry;
};

/* What the callbacks of one try fill in. */
typedef struct attempt {
    const lb_client *client;
    lb_answer *answer;
    const uint8_t *body;
    size_t length, sent;
    int64_t retry_after_ms;      /* -1: none */
    bool head_ended;             /* the empty line after the headers came */
} attempt;

static pthread_once_t curl_once = PTHREAD_ONCE_INIT;

static void start_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

lb_status lb_client_create(const lb_client_config *config, lb_client **out, lb_err *err)
{
    size_t length = strlen(config->url);
    bool known = strncmp(config->url, "http://", 7) == 0 ||
                 strncmp(config->url, "https://", 8) == 0;
    if (!known || length >= URL_BYTES / 2)
        return lb_fail(err, LB_EINVAL, "url", "'%.100s' is not an http or https URL", config->url);
    pthread_once(&curl_once, start_curl);
    lb_client *client = calloc(1, sizeof *client);
    if (!client)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an HTTP client");
    while (length > 0 && config->url[length - 1] == '/')
        length--;
    memcpy(client->url, config->url, length);
    client->easy = curl_easy_init();
    client->key = config->key ? strdup(config->key) : NULL;
    client->user_agent = strdup(config->user_agent ? config->user_agent : "limbeck");
    client->cancelled = config->cancelled;
    client->cancel_arg = config->cancel_arg;
    lb_retry_init(&client->retry, config->seed);
    if (!client->easy || !client->user_agent || (config->key && !client->key)) {
        lb_client_free(client);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an HTTP client");
    }
    *out = client;
    return LB_OK;
}

void lb_client_free(lb_client *client)
{
    if (!client)
        return;
    if (client->easy)
        curl_easy_cleanup(client->easy);
    if (client->key)
        explicit_bzero(client->key, strlen(client->key));
    free(client->key);
    free(client->user_agent);
    free(client);
}

/* ---- callbacks ---- */

static size_t on_body(char *bytes, size_t size, size_t count, void *arg)
{
    attempt *a = arg;
    lb_buf_append(&a->answer->body, bytes, size * count);
    return a->answer->body.status == LB_OK ? size * count : 0;
}

/* The value of a header line called name (with its colon), NULL for another header. */
static const char *header_value(const char *line, const char *name)
{
    size_t length = strlen(name);
    if (strncasecmp(line, name, length) != 0)
        return NULL;
    return line + length + strspn(line + length, " \t");
}

static size_t on_header(char *bytes, size_t size, size_t count, void *arg)
{
    attempt *a = arg;
    char line[HEADER_BYTES];
    /* curl's bytes end with no NUL; what of a line does not fit is of no interest. */
    snprintf(line, sizeof line, "%.*s",
             (int)(size * count < sizeof line ? size * count : sizeof line - 1), bytes);
    line[strcspn(line, "\r\n")] = '\0';
    a->head_ended = line[0] == '\0';
    const char *id = header_value(line, "x-request-id:");
    const char *seconds = header_value(line, "retry-after:");
    if (id)
        snprintf(a->answer->request_id, sizeof a->answer->request_id, "%.*s",
                 (int)sizeof a->answer->request_id - 1, id);
    /* The other form of the header, a date, is not read. */
    if (seconds && *seconds >= '0' && *seconds <= '9') {
        long value = strtol(seconds, NULL, 10);
        a->retry_after_ms = 1000 * (int64_t)(value < RETRY_AFTER_MAX ? value : RETRY_AFTER_MAX);
    }
    return size * count;
}

static size_t on_send(char *bytes, size_t size, size_t count, void *arg)
{
    attempt *a = arg;
    size_t n = a->length - a->sent < size * count ? a->length - a->sent : size * count;
    memcpy(bytes, a->body + a->sent, n);
    a->sent += n;
    return n;
}

static int on_seek(void *arg, curl_off_t offset, int origin)
{
    attempt *a = arg;
    if (origin != SEEK_SET || offset < 0 || (size_t)offset > a->length)
        return CURL_SEEKFUNC_CANTSEEK;
    a->sent = (size_t)offset;
    return CURL_SEEKFUNC_OK;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    const lb_client *client = arg;
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return client->cancelled && client->cancelled(client->cancel_arg);
}

/* ---- one try ---- */

static bool add_header(struct curl_slist **list, const char *line)
{
    struct curl_slist *longer = curl_slist_append(*list, line);
    if (longer)
        *list = longer;
    return longer != NULL;
}

static bool make_headers(const lb_client *client, const lb_call *call, struct curl_slist **list)
{
    char line[1024];
    bool ok = add_header(list, "Expect:");    /* no round trip for "100 Continue" */
    if (call->content_type) {
        snprintf(line, sizeof line, "Content-Type: %s", call->content_type);
        ok = ok && add_header(list, line);
    }
    if (call->accept) {
        snprintf(line, sizeof line, "Accept: %s", call->accept);
        ok = ok && add_header(list, line);
    }
    if (client->key) {
        snprintf(line, sizeof line, "Authorization: Bearer %s", client->key);
        ok = ok && add_header(list, line);
        explicit_bzero(line, sizeof line);
    }
    for (size_t i = 0; i < call->header_count; i++)
        ok = ok && add_header(list, call->headers[i]);
    return ok;
}

static void set_options(lb_client *client, const lb_call *call, attempt *a, const char *url,
                        struct curl_slist *headers, int64_t left_ms)
{
    CURL *easy = client->easy;
    curl_easy_reset(easy);
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, client->user_agent);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)left_ms);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, a);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, a);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, client);
    if (strcmp(call->method, "GET") == 0)
        return;
    bool post = strcmp(call->method, "POST") == 0;
    curl_easy_setopt(easy, post ? CURLOPT_POST : CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
    curl_easy_setopt(easy, CURLOPT_READDATA, a);
    curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek);
    curl_easy_setopt(easy, CURLOPT_SEEKDATA, a);
    curl_easy_setopt(easy, post ? CURLOPT_POSTFIELDSIZE_LARGE : CURLOPT_INFILESIZE_LARGE,
                     (curl_off_t)a->length);
    if (!post)
        curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, call->method);
}

/* The status of a try that had no complete reply. until_ms: when the whole call ends. */
static lb_status curl_failure(const lb_client *client, CURLcode code, const lb_answer *answer,
                              int64_t until_ms, lb_err *err)
{
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return lb_fail(err, LB_ECANCELLED, NULL, "the call was cancelled");
    if (code == CURLE_WRITE_ERROR && answer->body.status == LB_ETOOBIG)
        return lb_fail(err, LB_ETOOBIG, NULL, "the reply is larger than %zu bytes",
                       answer->body.limit);
    if (code == CURLE_WRITE_ERROR || code == CURLE_OUT_OF_MEMORY)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the reply");
    /* Before the call's end it was the connection that timed out, which may be tried again. */
    bool late = code == CURLE_OPERATION_TIMEDOUT && lb_clock_ms() + TIMER_SLACK_MS >= until_ms;
    return lb_fail(err, late ? LB_ETIMEOUT : LB_ENET, NULL, "%s: %s", client->url,
                   curl_easy_strerror(code));
}

static lb_status try_once(lb_client *client, const lb_call *call, int64_t left_ms,
                          lb_answer *answer, int64_t *retry_after_ms, lb_err *err)
{
    char url[URL_BYTES];
    long code = 0;
    int64_t until = lb_clock_ms() + left_ms;
    struct curl_slist *headers = NULL;
    attempt a = {.client = client, .answer = answer, .body = call->body, .length = call->length,
                 .retry_after_ms = -1};
    int n = snprintf(url, sizeof url, "%s%s", client->url, call->path);
    if (n < 0 || (size_t)n >= sizeof url)
        return lb_fail(err, LB_EINVAL, "path", "the URL is longer than %d bytes", URL_BYTES);
    lb_status status = LB_OK;
    answer->body.limit = call->reply_max ? call->reply_max : REPLY_MAX_DEFAULT;
    if (make_headers(client, call, &headers)) {
        set_options(client, call, &a, url, headers, left_ms);
        CURLcode result = curl_easy_perform(client->easy);
        /* libcurl takes a head that was cut off for a whole reply without a body. */
        if (result == CURLE_OK && !a.head_ended)
            result = CURLE_PARTIAL_FILE;
        if (result == CURLE_OK)
            curl_easy_getinfo(client->easy, CURLINFO_RESPONSE_CODE, &code);
        else
            status = curl_failure(client, result, answer, until, err);
    } else {
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for headers");
    }
    curl_slist_free_all(headers);
    answer->code = (int)code;
    *retry_after_ms = a.retry_after_ms;
    return status;
}

/* ---- tries ---- */

static bool may_retry(lb_status status, int code)
{
    if (status != LB_OK)
        return status == LB_ENET;
    return code == 429 || code == 502 || code == 503 || code == 504;
}

/* Waits in slices; false when the call was cancelled meanwhile. */
static bool wait_for(const lb_client *client, int64_t ms)
{
    int64_t until = lb_clock_ms() + ms;
    for (;;) {
        if (client->cancelled && client->cancelled(client->cancel_arg))
            return false;
        int64_t left = until - lb_clock_ms();
        if (left <= 0)
            return true;
        lb_sleep_ms(left < WAIT_SLICE_MS ? left : WAIT_SLICE_MS);
    }
}

lb_status lb_client_call(lb_client *client, const lb_call *call, lb_answer *answer, lb_err *err)
{
    int64_t deadline = lb_clock_ms() + (call->timeout_ms ? call->timeout_ms : TIMEOUT_DEFAULT_MS);
    *answer = (lb_answer){0};
    lb_retry_call(&client->retry);
    for (;;) {
        int64_t retry_after = -1, left = deadline - lb_clock_ms();
        lb_buf_free(&answer->body);
        answer->request_id[0] = '\0';
        answer->tries++;
        lb_status status = left > 0 ? try_once(client, call, left, answer, &retry_after, err)
                                    : lb_fail(err, LB_ETIMEOUT, NULL, "%s did not answer in time",
                                              client->url);
        if (call->no_retry || !may_retry(status, answer->code))
            goto done;
        int64_t wait = lb_retry_wait(&client->retry, answer->tries, retry_after);
        /* Out of budget or of time: the caller gets what this try gave. */
        if (wait < 0 || lb_clock_ms() + wait >= deadline)
            goto done;
        if (wait_for(client, wait))
            continue;
        status = lb_fail(err, LB_ECANCELLED, NULL, "the call was cancelled");
    done:
        if (status != LB_OK)
            lb_answer_free(answer);
        return status;
    }
}

void lb_answer_free(lb_answer *answer)
{
    if (!answer)
        return;
    lb_buf_free(&answer->body);
    *answer = (lb_answer){0};
}

lb_status lb_answer_check(const lb_answer *answer, lb_err *err)
{
    if (answer->code >= 200 && answer->code < 300)
        return LB_OK;
    lb_json *root = NULL;
    lb_status status = lb_status_from_http(answer->code);
    if (status == LB_OK)
        status = LB_EINTERNAL;
    if (answer->body.data)
        (void)!lb_json_parse((const char *)answer->body.data, answer->body.length, &root, NULL);
    const lb_json *error = lb_json_get(root, "error");
    const char *message = lb_json_string(lb_json_get(error, "message"));
    const char *field = lb_json_string(lb_json_get(error, "param"));
    status = message ? lb_fail(err, status, field, "%s", message)
                     : lb_fail(err, status, field, "the server answered with status %d",
                               answer->code);
    lb_json_free(root);
    return status;
}
