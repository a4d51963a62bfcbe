/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck-teacher - scores tokens over HTTP. SIGTERM or SIGINT drains and exits with 0; a second
 * one exits at once. While the model loads there is nothing to drain, so the first exits too.
 */
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/io/file.h"
#include "common/io/hub.h"
#include "server/teacher/teacher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DRAIN_MS 25000
#define TOKENS_MAX (1u << 24)
#define THREADS_MAX 1024u
#define EXIT_USAGE 2

static volatile sig_atomic_t may_drain;
static int wake_fd[2] = {-1, -1};

static void on_stop(int signal_number)
{
    int saved = errno;
    (void)signal_number;
    if (!may_drain)
        _exit(0);
    may_drain = 0;
    ssize_t written = write(wake_fd[1], "", 1);
    (void)written;
    errno = saved;
}

static lb_status catch_signals(lb_err *err)
{
    struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    if (pipe2(wake_fd, O_CLOEXEC) != 0 || sigaction(SIGTERM, &stop, NULL) != 0 ||
        sigaction(SIGINT, &stop, NULL) != 0 || sigaction(SIGPIPE, &ignore, NULL) != 0)
        return lb_fail(err, LB_EIO, NULL, "signals: %s", strerror(errno));
    return LB_OK;
}

static void wait_for_stop(void)
{
    char byte;
    ssize_t got;
    do {
        got = read(wake_fd[0], &byte, 1);
    } while (got < 0 && errno == EINTR);
}

static lb_status check(const char *dtype, const char *level, lb_teacher_config *config,
                       lb_log_level *least, lb_err *err)
{
    if (!config->model_dir)
        return lb_fail(err, LB_EINVAL, "model", "--model DIR is required");
    if (!lb_dtype_parse(dtype, &config->dtype))
        return lb_fail(err, LB_EINVAL, "dtype", "'%.20s' is none of " LB_DTYPE_NAMES, dtype);
    if (!lb_log_level_parse(level, least))
        return lb_fail(err, LB_EINVAL, "log-level", "'%.20s' is none of debug, info, warn, error",
                       level);
    return LB_OK;
}

/* A model from the cache is called what it was asked for by, not what its revision's folder is. */
static lb_status find_model(lb_teacher_config *config, char path[LB_PATH_MAX], lb_err *err)
{
    lb_status status = lb_hub_find(getenv, config->model_dir, path, LB_PATH_MAX, err);
    if (status != LB_OK)
        return status;
    if (!config->name && strcmp(path, config->model_dir) != 0)
        config->name = config->model_dir;
    config->model_dir = path;
    return LB_OK;
}

/* Serves until a signal. */
static lb_status serve(const lb_teacher_config *config, const char *port_file, lb_err *err)
{
    lb_teacher *teacher = NULL;
    lb_status status = catch_signals(err);
    if (status == LB_OK)
        status = lb_teacher_start(config, &teacher, err);
    if (status != LB_OK)
        return status;
    const char *url = lb_teacher_url(teacher);
    if (port_file)
        status = lb_file_write(port_file, url, strlen(url), LB_WRITE_REPLACE, 0644, err);
    if (status == LB_OK) {
        may_drain = 1;
        printf("limbeck-teacher listening on %s\n", url);
        fflush(stdout);
        lb_log(LB_LOG_INFO, "started", "url=%s backend=\"%s\"", url, lb_teacher_describe(teacher));
        wait_for_stop();
        lb_log(LB_LOG_INFO, "draining", NULL);
    }
    lb_teacher_stop(teacher, DRAIN_MS);
    lb_log(LB_LOG_INFO, "stopped", NULL);
    return status;
}

int main(int argc, char **argv)
{
    lb_teacher_config config = {
        .listen = "127.0.0.1:0",
        .max_batch_tokens = LB_TEACHER_BATCH_TOKENS,
        .queue_tokens = LB_TEACHER_QUEUE_TOKENS,
        .max_logprobs = LB_TEACHER_MAX_LOGPROBS,
    };
    const char *dtype = "f32", *level = "info", *port_file = NULL;
    char path[LB_PATH_MAX];
    lb_log_level least = LB_LOG_INFO;
    const lb_option options[] = {
        {.name = "model", .type = LB_OPT_STRING, .out = &config.model_dir, .value = "MODEL",
         .help = "a Hugging Face folder, ORG/NAME in its cache, or a .gguf file (required)"},
        {.name = "name", .type = LB_OPT_STRING, .out = &config.name, .value = "NAME",
         .help = "the model's name on the wire (default: the folder's, or ORG/NAME)"},
        {.name = "listen", .type = LB_OPT_STRING, .out = &config.listen, .value = "HOST:PORT",
         .help = "address to listen on; port 0: any free one"},
        {.name = "dtype", .type = LB_OPT_STRING, .out = &dtype, .value = LB_DTYPE_NAMES,
         .help = "how the weights are stored and multiplied (docs/NUMERICS.md)"},
        {.name = "skip-error", .type = LB_OPT_FLAG, .out = &config.skip_error,
         .help = "with fast and int8: start without measuring how far they are from f32"},
        {.name = "threads", .type = LB_OPT_U32, .out = &config.threads, .max = THREADS_MAX,
         .value = "N", .help = "threads of the model, 0: all this process may use"},
        {.name = "max-batch-tokens", .type = LB_OPT_U32, .out = &config.max_batch_tokens,
         .min = 1, .max = TOKENS_MAX, .value = "N", .help = "tokens of one batch"},
        {.name = "queue-tokens", .type = LB_OPT_U32, .out = &config.queue_tokens, .min = 1,
         .max = TOKENS_MAX, .value = "N",
         .help = "tokens that may wait; more is answered 429"},
        {.name = "max-logprobs", .type = LB_OPT_U32, .out = &config.max_logprobs,
         .max = LB_TEACHER_MAX_LOGPROBS, .value = "K",
         .help = "largest top-k of a request"},
        {.name = "key-file", .type = LB_OPT_STRING, .out = &config.key_file, .value = "FILE",
         .help = "file of keys, one a line; without it only loopback is served"},
        {.name = "insecure", .type = LB_OPT_FLAG, .out = &config.insecure,
         .help = "listen on another address than loopback without TLS"},
        {.name = "port-file", .type = LB_OPT_STRING, .out = &port_file, .value = "FILE",
         .help = "write the URL there once it listens"},
        {.name = "log-level", .type = LB_OPT_STRING, .out = &level, .value = "LEVEL",
         .help = "debug, info, warn or error"},
    };
    const lb_command_line line = {
        .program = "limbeck-teacher",
        .summary = "Scores tokens over HTTP: one teacher model for many students.",
        .examples = "  limbeck-teacher --model DIR --listen 127.0.0.1:8000\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    bool helped = false;
    size_t words = 0;
    lb_err err = {0};
    lb_status status = lb_options_parse(&line, argc, argv, NULL, &words, &helped, &err);
    if (status == LB_OK && helped)
        return 0;
    if (status == LB_OK)
        status = check(dtype, level, &config, &least, &err);
    if (status != LB_OK) {
        fprintf(stderr, "limbeck-teacher: %s; see --help\n", err.message);
        return EXIT_USAGE;
    }
    lb_log_init("limbeck-teacher", least);
    status = find_model(&config, path, &err);
    if (status == LB_OK)
        status = serve(&config, port_file, &err);
    if (status != LB_OK)
        lb_log_err(LB_LOG_ERROR, "failed", &err);
    return status == LB_OK ? 0 : 1;
}
