/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck-worker - computes units of distillation jobs. SIGTERM or SIGINT abandons the unit at
 * hand, hands its lease back and exits with 0; a second one exits at once. Killing it is harmless.
 */
#include "client/worker/worker.h"
#include "common/base/log.h"
#include "common/base/options.h"
#include "common/io/hub.h"
#include "common/net/client.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KEY_BYTES 512
#define THREADS_MAX 1024u
#define ACTIVATION_MB_MAX (1u << 20)
#define IDLE_MS_MAX 604800000u   /* a week */
#define EXIT_USAGE 2

static volatile sig_atomic_t stop_requested;

static void on_stop(int signal_number)
{
    (void)signal_number;
    if (stop_requested)
        _exit(0);
    stop_requested = 1;
}

static bool stop(void *arg)
{
    (void)arg;
    return stop_requested != 0;
}

static lb_status catch_signals(lb_err *err)
{
    struct sigaction action = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    if (sigaction(SIGTERM, &action, NULL) != 0 || sigaction(SIGINT, &action, NULL) != 0 ||
        sigaction(SIGPIPE, &ignore, NULL) != 0)
        return lb_fail(err, LB_EIO, NULL, "signals cannot be caught");
    return LB_OK;
}

static lb_status check(const char *dtype, const char *level, lb_worker_config *config,
                       lb_log_level *least, lb_err *err)
{
    if (!config->coordinator)
        return lb_fail(err, LB_EINVAL, "coordinator", "--coordinator URL is required");
    if (config->model_count == 0)
        return lb_fail(err, LB_EINVAL, "model", "--model NAME=DIR is required");
    if (!lb_dtype_parse(dtype, &config->dtype))
        return lb_fail(err, LB_EINVAL, "dtype", "'%.20s' is none of f32, bf16, fast", dtype);
    if (!lb_dtype_has_backward(config->dtype))
        return lb_fail(err, LB_EUNSUPPORTED, "dtype",
                       "%s has no backward; take f32, bf16 or fast", dtype);
    if (!lb_log_level_parse(level, least))
        return lb_fail(err, LB_EINVAL, "log-level", "'%.20s' is none of debug, info, warn, error",
                       level);
    return LB_OK;
}

static lb_status run(lb_worker_config *config, const char *key_file, lb_err *err)
{
    char key[KEY_BYTES] = "";
    lb_worker *worker = NULL;
    lb_status status = key_file ? lb_key_load(key_file, key, sizeof key, err) : LB_OK;
    config->key = key_file ? key : NULL;
    config->stop = stop;
    if (status == LB_OK)
        status = lb_worker_create(config, &worker, err);
    if (status == LB_OK)
        status = catch_signals(err);
    if (status == LB_OK) {
        printf("limbeck-worker %s ready\n", lb_worker_name(worker));
        fflush(stdout);
        lb_log(LB_LOG_INFO, "started", "worker=%s coordinator=%s", lb_worker_name(worker),
               config->coordinator);
        status = lb_worker_run(worker, err);
        lb_log(LB_LOG_INFO, "stopped", "worker=%s", lb_worker_name(worker));
    }
    lb_worker_free(worker);
    return status;
}

int main(int argc, char **argv)
{
    lb_worker_config config = {0};
    lb_option_list models = {0};
    char *found[LB_OPTION_LIST_MAX] = {0};
    const char *dtype = "f32", *level = "info", *key_file = NULL;
    lb_log_level least = LB_LOG_INFO;
    const lb_option options[] = {
        {.name = "coordinator", .type = LB_OPT_STRING, .out = &config.coordinator,
         .value = "URL", .help = "where the work is (required)"},
        {.name = "model", .type = LB_OPT_LIST, .out = &models, .value = "NAME=MODEL",
         .help = "a student model: its folder, or ORG/NAME in the Hugging Face cache (required, "
                 "repeatable)"},
        {.name = "name", .type = LB_OPT_STRING, .out = &config.name, .value = "NAME",
         .help = "this worker's name (default: host and process id)"},
        {.name = "teacher", .type = LB_OPT_STRING, .out = &config.teacher, .value = "URL",
         .help = "ask this teacher instead of the job's"},
        {.name = "threads", .type = LB_OPT_U32, .out = &config.threads, .max = THREADS_MAX,
         .value = "N", .help = "threads of the model, 0: all this process may use"},
        {.name = "dtype", .type = LB_OPT_STRING, .out = &dtype, .value = "f32|bf16|fast",
         .help = "storage of the weights"},
        {.name = "activation-mb", .type = LB_OPT_U64, .out = &config.activation_mb,
         .max = ACTIVATION_MB_MAX, .value = "N",
         .help = "MiB of activations that a gradient keeps, 0: 1024; the rest is computed twice"},
        {.name = "key-file", .type = LB_OPT_STRING, .out = &key_file, .value = "FILE",
         .help = "file with the key for coordinator and teacher"},
        {.name = "exit-when-idle-ms", .type = LB_OPT_U64, .out = &config.idle_exit_ms,
         .max = IDLE_MS_MAX, .value = "N", .help = "exit after so long without work, 0: never"},
        {.name = "log-level", .type = LB_OPT_STRING, .out = &level, .value = "LEVEL",
         .help = "debug, info, warn or error"},
    };
    const lb_command_line line = {
        .program = "limbeck-worker",
        .summary = "Computes units of distillation jobs for a coordinator.",
        .examples = "  limbeck-worker --coordinator http://127.0.0.1:7410 --model student=DIR\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    bool helped = false;
    size_t words = 0;
    lb_err err = {0};
    lb_status status = lb_options_parse(&line, argc, argv, NULL, &words, &helped, &err);
    if (status == LB_OK && helped)
        return 0;
    config.models = models.items;
    config.model_count = models.count;
    if (status == LB_OK)
        status = check(dtype, level, &config, &least, &err);
    if (status != LB_OK) {
        fprintf(stderr, "limbeck-worker: %s; see --help\n", err.message);
        return EXIT_USAGE;
    }
    lb_log_init("limbeck-worker", least);
    status = lb_hub_find_named(getenv, models.items, models.count, found, &err);
    if (status == LB_OK)
        status = run(&config, key_file, &err);
    if (status != LB_OK)
        lb_log_err(LB_LOG_ERROR, "failed", &err);
    for (size_t i = 0; i < models.count; i++)
        free(found[i]);
    return status == LB_OK ? 0 : 1;
}
