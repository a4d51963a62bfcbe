/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck-coordinator: options, signals, the line that says it is ready.
 */
#include "server/coordinator/daemon.h"

#include "common/base/log.h"
#include "common/io/file.h"
#include "common/io/hub.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define PROGRAM "limbeck-coordinator"
#define EXIT_USAGE 2
#define POLL_NS 100000000L              /* how soon a storage failure ends the process */
#define URL_FILE_MODE 0644
#define TTL_MIN_MS 100
#define TTL_DEFAULT_MS 30000
#define TTL_MAX_MS 3600000

typedef struct arguments {
    lb_coordinator_config config;
    const char *port_file, *level;
} arguments;

static lb_status parse(int argc, char **argv, arguments *a, bool *helped, lb_err *err)
{
    lb_coordinator_config *config = &a->config;
    const lb_option options[] = {
        {.name = "listen", .type = LB_OPT_STRING, .out = &config->listen, .value = "HOST:PORT",
         .help = "address; port 0: any free one"},
        {.name = "data", .type = LB_OPT_STRING, .out = &config->data, .value = "DIR",
         .help = "folder of the store; made when it is not there"},
        {.name = "model", .type = LB_OPT_LIST, .out = &config->models, .value = "NAME=MODEL",
         .help = "a student: folder with config.json and tokenizer.json, or ORG/NAME in the "
                 "Hugging Face cache (repeatable)"},
        {.name = "teacher", .type = LB_OPT_LIST, .out = &config->teachers, .value = "NAME=URL",
         .help = "a teacher that jobs may name (repeatable)"},
        {.name = "key-file", .type = LB_OPT_STRING, .out = &config->key_file, .value = "FILE",
         .help = "keys of users and workers, one a line"},
        {.name = "insecure", .type = LB_OPT_FLAG, .out = &config->insecure,
         .help = "listen beyond loopback; TLS is then a proxy's work"},
        {.name = "lease-ttl-ms", .type = LB_OPT_U32, .out = &config->lease_ttl_ms,
         .min = TTL_MIN_MS, .max = TTL_MAX_MS, .value = "MS",
         .help = "how long a silent worker keeps its unit"},
        {.name = "log-level", .type = LB_OPT_STRING, .out = &a->level, .value = "LEVEL",
         .help = "debug, info, warn or error"},
        {.name = "port-file", .type = LB_OPT_STRING, .out = &a->port_file, .value = "FILE",
         .help = "file that gets the URL once it listens"},
    };
    const lb_command_line line = {
        .program = PROGRAM,
        .summary = "Holds jobs, leases, optimizer state and adapter versions.",
        .examples = "  " PROGRAM " --data state --model student=models/small \\\n"
                    "      --teacher teacher=http://127.0.0.1:7420\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    size_t words = 0;
    lb_status status = lb_options_parse(&line, argc, argv, NULL, &words, helped, err);
    if (status == LB_OK && !*helped && !config->data)
        status = lb_fail(err, LB_EINVAL, "data", "--data DIR is required");
    return status;
}

/* Keys and prompts must not end in a core dump. */
static void no_core_dumps(void)
{
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
}

/* Blocked before any thread starts, so that only the wait below takes them. */
static void block_signals(sigset_t *signals)
{
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(signals);
    sigaddset(signals, SIGTERM);
    sigaddset(signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, signals, NULL);
}

static lb_status announce(const lb_coordinator *coordinator, const char *port_file, lb_err *err)
{
    const char *url = lb_coordinator_url(coordinator);
    lb_status status = LB_OK;
    if (port_file)
        status = lb_file_write(port_file, url, strlen(url), LB_WRITE_REPLACE, URL_FILE_MODE, err);
    if (status == LB_OK) {
        printf(PROGRAM " listening on %s\n", url);
        fflush(stdout);
        lb_log(LB_LOG_INFO, "listening", "url=%s", url);
    }
    return status;
}

/* 0 for a signal, otherwise the code with which the storage asks to stop. */
static int wait_for_end(const lb_coordinator *coordinator, const sigset_t *signals)
{
    const struct timespec pause = {.tv_nsec = POLL_NS};
    for (;;) {
        int code = lb_coordinator_exit_code(coordinator);
        if (code != 0)
            return code;
        if (sigtimedwait(signals, NULL, &pause) > 0)
            return 0;
    }
}

int main(int argc, char **argv)
{
    arguments a = {.config = {.listen = "127.0.0.1:7410", .lease_ttl_ms = TTL_DEFAULT_MS},
                   .level = "info"};
    lb_err err = {0};
    lb_log_level level = LB_LOG_INFO;
    lb_coordinator *coordinator = NULL;
    char *found[LB_OPTION_LIST_MAX] = {0};
    sigset_t signals;
    bool helped = false;
    lb_status status = parse(argc, argv, &a, &helped, &err);
    if (status == LB_OK && !lb_log_level_parse(a.level, &level))
        status = lb_fail(&err, LB_EINVAL, "log-level", "'%.20s' is not a level", a.level);
    if (status != LB_OK) {
        fprintf(stderr, PROGRAM ": %s\n", err.message);
        return EXIT_USAGE;
    }
    if (helped)
        return EXIT_SUCCESS;
    lb_log_init(PROGRAM, level);
    no_core_dumps();
    block_signals(&signals);
    status = lb_hub_find_named(getenv, a.config.models.items, a.config.models.count, found, &err);
    if (status == LB_OK)
        status = lb_coordinator_start(&a.config, &coordinator, &err);
    for (size_t i = 0; i < LB_OPTION_LIST_MAX; i++)
        free(found[i]);
    if (status == LB_OK)
        status = announce(coordinator, a.port_file, &err);
    if (status != LB_OK) {
        lb_log_err(LB_LOG_ERROR, "start_failed", &err);
        fprintf(stderr, PROGRAM ": %s\n", err.message);
        lb_coordinator_stop(coordinator);
        return EXIT_FAILURE;
    }
    int code = wait_for_end(coordinator, &signals);
    if (code != 0) {
        /* Memory may be ahead of the disk: nothing is to be tidied, starting again recovers. */
        lb_log(LB_LOG_ERROR, "storage_stop", "exit=%d", code);
        _Exit(code);
    }
    lb_log(LB_LOG_INFO, "stopping", NULL);
    lb_coordinator_stop(coordinator);
    return EXIT_SUCCESS;
}
