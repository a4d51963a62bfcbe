/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck job create, list, show and cancel.
 */
#include "client/cli/cli.h"

#include "common/io/file.h"

#include <stdio.h>
#include <string.h>

#define JOB_FILE_MAX (1u << 20)
#define DATA_MAX (64u << 20)
#define PATH_BYTES 512

static void show_number(const lb_json *metrics, const char *key, const char *unit, lb_buf *out)
{
    const lb_json *value = lb_json_get(metrics, key);
    if (lb_json_is_number(value))
        lb_buf_printf(out, "%-11s %.5g%s\n", key, lb_json_number(value), unit);
}

/* How far the figures of student and teacher can be trusted. */
static void show_noise(const lb_json *handshake, lb_buf *out)
{
    const lb_json *probe = lb_json_get(handshake, "probe");
    if (lb_json_is_object(probe))
        lb_buf_printf(out, "noise       teacher %.3g, sampler %.3g nats over %lld probe tokens\n",
                      lb_json_number(lb_json_get(probe, "teacher_noise")),
                      lb_json_number(lb_json_get(probe, "sampler_noise")),
                      (long long)lb_json_integer(lb_json_get(probe, "tokens")));
}

static void show_job(const lb_json *job, lb_buf *out)
{
    const lb_json *own = lb_json_get(job, "limbeck"), *method = lb_json_get(job, "method");
    const lb_json *metrics = lb_json_get(own, "metrics");
    const lb_json *error = lb_json_get(job, "error");
    const char *type = lb_cli_text(method, "type");
    const lb_json *teacher = lb_json_get(lb_json_get(method, type), "teacher");
    lb_buf_printf(out, "id          %s\nstatus      %s\nmethod      %s\nmodel       %s\n",
                  lb_cli_text(job, "id"), lb_cli_text(job, "status"), type,
                  lb_cli_text(job, "model"));
    if (lb_json_is_object(teacher))
        lb_buf_printf(out, "teacher     %s\n", lb_cli_text(teacher, "model"));
    if (lb_json_is_string(lb_json_get(job, "from_adapter")))
        lb_buf_printf(out, "from        %s\n", lb_cli_text(job, "from_adapter"));
    lb_buf_printf(out, "step        %lld of %lld\nadapter     %s\n",
                  (long long)lb_json_integer(lb_json_get(own, "step")),
                  (long long)lb_json_integer(lb_json_get(own, "max_steps")),
                  lb_cli_text(own, "adapter"));
    show_number(metrics, "teacher_kl", " nats a token", out);
    show_number(metrics, "loss", "", out);
    show_number(metrics, "accuracy", "", out);
    show_noise(lb_json_get(own, "handshake"), out);
    if (lb_json_is_object(error))
        lb_buf_printf(out, "error       %s: %s\n", lb_cli_text(error, "code"),
                      lb_cli_text(error, "message"));
}

/* One call whose reply is a job object; shared by show and cancel. */
static int one_job(int argc, char **argv, const char *word, const char *method,
                   const char *suffix)
{
    lb_remote_options o = {0};
    const char *positional[1] = {NULL};
    char program[40];
    const lb_option options[] = {LB_REMOTE_OPTIONS(o)};
    snprintf(program, sizeof program, "limbeck job %s", word);
    const lb_command_line line = {.program = program, .summary = "Tells of one job.",
                                  .options = options,
                                  .option_count = sizeof options / sizeof *options,
                                  .positional_min = 1, .positional_max = 1, .positional = "JOB"};
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, positional, &code))
        return code;
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%.128s%s", positional[0], suffix);
    return lb_remote_show(&o, method, path, show_job);
}

int lb_cmd_job_show(int argc, char **argv)
{
    return one_job(argc, argv, "show", "GET", "");
}

int lb_cmd_job_cancel(int argc, char **argv)
{
    return one_job(argc, argv, "cancel", "POST", "/cancel");
}

static void list_jobs(const lb_json *reply, lb_buf *out)
{
    const lb_json *data = lb_json_get(reply, "data");
    lb_table table = {.columns = 6};
    const char *const head[] = {"JOB", "STATUS", "MODEL", "STEP", "TEACHER_KL", "ADAPTER"};
    for (size_t i = 0; i < sizeof head / sizeof *head; i++)
        lb_table_cell(&table, "%s", head[i]);
    for (size_t i = 0; i < lb_json_array_size(data); i++) {
        const lb_json *job = lb_json_at(data, i), *own = lb_json_get(job, "limbeck");
        const lb_json *kl = lb_json_get(lb_json_get(own, "metrics"), "teacher_kl");
        lb_table_cell(&table, "%s", lb_cli_text(job, "id"));
        lb_table_cell(&table, "%s", lb_cli_text(job, "status"));
        lb_table_cell(&table, "%s", lb_cli_text(job, "model"));
        lb_table_cell(&table, "%lld/%lld", (long long)lb_json_integer(lb_json_get(own, "step")),
                      (long long)lb_json_integer(lb_json_get(own, "max_steps")));
        if (lb_json_is_number(kl))
            lb_table_cell(&table, "%.5f", lb_json_number(kl));
        else
            lb_table_cell(&table, "-");
        lb_table_cell(&table, "%s", lb_cli_text(own, "adapter"));
    }
    lb_table_render(&table, out);
}

int lb_cmd_job_list(int argc, char **argv)
{
    lb_remote_options o = {0};
    const lb_option options[] = {LB_REMOTE_OPTIONS(o)};
    const lb_command_line line = {.program = "limbeck job list",
                                  .summary = "Lists jobs, newest first.", .options = options,
                                  .option_count = sizeof options / sizeof *options};
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    return lb_remote_show(&o, "GET", "/v1/fine_tuning/jobs?limit=100", list_jobs);
}

/* Uploads a data set; *id is the file's id. */
static lb_status upload(lb_client *client, const char *path, char *id, size_t size, lb_err *err)
{
    lb_buf data = {0};
    lb_json *reply = NULL;
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char route[PATH_BYTES] = "/v1/files?purpose=fine-tune&filename=";
    /* Only characters that need no escaping go into the query. */
    for (size_t n = strlen(route); *name && n + 1 < sizeof route && n < 160; name++) {
        bool plain = strchr("._-", *name) || (*name >= '0' && *name <= '9') ||
                     ((*name | 32) >= 'a' && (*name | 32) <= 'z');
        route[n++] = plain ? *name : '_';
        route[n] = '\0';
    }
    lb_status status = lb_file_read(path, DATA_MAX, &data, err);
    if (status == LB_OK)
        status = lb_remote_json(client, "POST", route, &data, &reply, NULL, err);
    const char *got = lb_json_string(lb_json_get(reply, "id"));
    if (status == LB_OK && (!got || strlen(got) >= size))
        status = lb_fail(err, LB_EDATA, "id", "the coordinator's reply has no file id");
    if (status == LB_OK)
        memcpy(id, got, strlen(got) + 1);
    lb_json_free(reply);
    lb_buf_free(&data);
    return status;
}

typedef struct member_writer {
    lb_jsonw *w;
    const char *skip[2];
} member_writer;

static lb_status copy_member(void *arg, const char *key, const lb_json *value)
{
    member_writer *m = arg;
    for (size_t i = 0; i < 2; i++) {
        if (m->skip[i] && strcmp(key, m->skip[i]) == 0)
            return LB_OK;
    }
    lb_jsonw_key(m->w, key);
    lb_jsonw_node(m->w, value);
    return LB_OK;
}

/* The job's text with training_file (and seed) replaced. */
static lb_status job_body(const char *path, const char *file_id, const uint64_t *seed,
                          lb_buf *out, lb_err *err)
{
    lb_buf text = {0};
    lb_json *job = NULL;
    lb_status status = lb_file_read(path, JOB_FILE_MAX, &text, err);
    if (status == LB_OK)
        status = lb_json_parse((const char *)text.data, text.length, &job, err);
    if (status == LB_OK && !lb_json_is_object(job))
        status = lb_fail(err, LB_EDATA, "file", "%.200s does not hold a JSON object", path);
    if (status == LB_OK) {
        lb_jsonw w = {.out = out};
        member_writer members = {&w, {file_id[0] ? "training_file" : NULL, seed ? "seed" : NULL}};
        lb_jsonw_object(&w);
        status = lb_json_each(job, copy_member, &members);
        if (file_id[0]) {
            lb_jsonw_key(&w, "training_file");
            lb_jsonw_string(&w, file_id);
        }
        if (seed) {
            lb_jsonw_key(&w, "seed");
            lb_jsonw_u64(&w, *seed);
        }
        lb_jsonw_object_end(&w);
    }
    lb_json_free(job);
    lb_buf_free(&text);
    return status;
}

int lb_cmd_job_create(int argc, char **argv)
{
    lb_remote_options o = {0};
    const char *file = NULL, *data = NULL;
    uint64_t seed = UINT64_MAX;
    const lb_option options[] = {
        LB_REMOTE_OPTIONS(o),
        {.name = "file", .type = LB_OPT_STRING, .out = &file, .value = "FILE",
         .help = "the job as JSON (required)"},
        {.name = "data", .type = LB_OPT_STRING, .out = &data, .value = "FILE",
         .help = "JSONL of prompts, uploaded as the job's training_file"},
        {.name = "seed", .type = LB_OPT_U64, .out = &seed, .max = INT64_MAX, .value = "S",
         .help = "the job's seed instead of the file's"},
    };
    const lb_command_line line = {
        .program = "limbeck job create",
        .summary = "Submits a distillation job and prints its id.",
        .examples = "  limbeck job create --file job.json --data train.jsonl\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    lb_err err = {0};
    lb_client *client = NULL;
    lb_json *reply = NULL;
    lb_buf body = {0}, text = {0}, out = {0};
    char id[128] = "";
    lb_status status = file ? lb_remote_open(&o, &client, &err)
                            : lb_fail(&err, LB_EINVAL, "file", "--file FILE is required");
    if (status == LB_OK && data)
        status = upload(client, data, id, sizeof id, &err);
    if (status == LB_OK)
        status = job_body(file, id, seed == UINT64_MAX ? NULL : &seed, &body, &err);
    if (status == LB_OK)
        status = lb_remote_json(client, "POST", "/v1/fine_tuning/jobs", &body, &reply, &text,
                                &err);
    if (status == LB_OK)
        lb_buf_printf(&out, "%s\n", o.json ? (const char *)text.data : lb_cli_text(reply, "id"));
    code = status == LB_OK ? lb_cli_print(&out) : lb_cli_fail(&err);
    lb_json_free(reply);
    lb_buf_free(&body);
    lb_buf_free(&text);
    lb_buf_free(&out);
    lb_client_free(client);
    return code;
}
