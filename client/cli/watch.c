/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck job watch: one line that follows the job on a terminal, a line a step elsewhere.
 */
#include "client/cli/cli.h"

#include "common/base/clock.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS 5000
#define PATH_BYTES 512
#define CLEAR_TO_END "\033[K"    /* ECMA-48 EL: what a longer line before left */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static bool was_interrupted(void *arg)
{
    (void)arg;
    return interrupted != 0;
}

typedef struct watch {
    lb_client *client;
    const char *job;
    bool json, terminal;
    uint64_t after;        /* last step that was shown */
    int64_t started_ms;
    uint64_t first_step;
} watch;

static double number(const lb_json *row, const char *key)
{
    return lb_json_number(lb_json_get(row, key));
}

static void show_step(watch *w, const lb_json *row, int64_t max_steps)
{
    uint64_t step = (uint64_t)lb_json_integer(lb_json_get(row, "step"));
    if (w->after == 0)
        w->first_step = step;
    w->after = step;
    if (w->json) {
        lb_buf text = {0};
        lb_json_dump(&text, row, false);
        lb_buf_puts(&text, "\n");
        lb_cli_print(&text);
        lb_buf_free(&text);
        return;
    }
    double elapsed = (double)(lb_clock_ms() - w->started_ms) / 1000.0;
    double steps = (double)(step - w->first_step + 1);
    double left = elapsed / steps * (double)(max_steps - (int64_t)step);
    const lb_json *accuracy = lb_json_get(row, "accuracy");
    char right[16] = "-";
    if (lb_json_is_number(accuracy))
        snprintf(right, sizeof right, "%.3f", lb_json_number(accuracy));
    /* A supervised job has no teacher: its loss is what falls. */
    const char *figure = lb_json_is_number(lb_json_get(row, "teacher_kl")) ? "teacher_kl" : "loss";
    printf("%sstep %" PRIu64 "/%" PRId64 "  %s %.4f  accuracy %s  %.0f tokens/s  %d:%02d left%s",
           w->terminal ? "\r" : "", step, max_steps, figure, number(row, figure), right,
           number(row, "tokens_per_s"), (int)(left / 60), (int)left % 60,
           w->terminal ? CLEAR_TO_END : "\n");
    fflush(stdout);
}

static lb_status show_new_steps(watch *w, int64_t max_steps, lb_err *err)
{
    char path[PATH_BYTES];
    lb_json *reply = NULL;
    snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%.128s/metrics?after_step=%" PRIu64
             "&limit=100&wait_ms=%d", w->job, w->after, POLL_MS);
    lb_status status = lb_remote_json(w->client, "GET", path, NULL, &reply, NULL, err);
    const lb_json *data = lb_json_get(reply, "data");
    for (size_t i = 0; status == LB_OK && i < lb_json_array_size(data); i++)
        show_step(w, lb_json_at(data, i), max_steps);
    lb_json_free(reply);
    return status;
}

/* Follows until the job ends; *code is the exit code of its end. */
static lb_status follow(watch *w, int *code, lb_err *err)
{
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%.128s", w->job);
    w->started_ms = lb_clock_ms();
    for (bool over = false; !over;) {
        lb_json *job = NULL;
        lb_status status = lb_remote_json(w->client, "GET", path, NULL, &job, NULL, err);
        if (status != LB_OK)
            return status;
        const char *state = lb_json_string(lb_json_get(job, "status"));
        int64_t max_steps = lb_json_integer(lb_json_get(lb_json_get(job, "limbeck"),
                                                        "max_steps"));
        bool succeeded = state && strcmp(state, "succeeded") == 0;
        bool failed = state && strcmp(state, "failed") == 0;
        bool cancelled = state && strcmp(state, "cancelled") == 0;
        over = succeeded || failed || cancelled;
        *code = succeeded ? LB_EXIT_OK : LB_EXIT_JOB_FAILED;
        status = show_new_steps(w, max_steps, err);
        if (over && w->terminal && !w->json)
            fputc('\n', stdout);
        if (over && !succeeded) {
            const char *why = lb_json_string(lb_json_get(lb_json_get(job, "error"), "message"));
            fprintf(stderr, "limbeck: job %s %s%s%s\n", w->job, state, why ? ": " : "",
                    why ? why : "");
        }
        lb_json_free(job);
        if (status != LB_OK)
            return status;
    }
    return LB_OK;
}

int lb_cmd_job_watch(int argc, char **argv)
{
    lb_remote_options o = {0};
    const char *positional[1] = {NULL};
    const lb_option options[] = {LB_REMOTE_OPTIONS(o)};
    const lb_command_line line = {
        .program = "limbeck job watch",
        .summary = "Follows a job until it ends: exit code 0 when it succeeded, 7 when not.\n"
                   "With --json, a JSON object of metrics a step.",
        .options = options, .option_count = sizeof options / sizeof *options,
        .positional_min = 1, .positional_max = 1, .positional = "JOB"};
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, positional, &code))
        return code;
    signal(SIGINT, on_interrupt);
    lb_err err = {0};
    const char *term = getenv("TERM");
    watch w = {.job = positional[0], .json = o.json,
               .terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0};
    lb_status status = lb_remote_open_cancellable(&o, was_interrupted, NULL, &w.client, &err);
    if (status == LB_OK)
        status = follow(&w, &code, &err);
    if (status != LB_OK)
        code = interrupted ? LB_EXIT_INTERRUPTED : lb_cli_fail(&err);
    lb_client_free(w.client);
    return code;
}
