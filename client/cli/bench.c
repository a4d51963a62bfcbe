/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/bench.h"

#include "client/cli/cli.h"
#include "common/base/process.h"
#include "common/io/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RUNS_MAX 1000u
#define BATCH_MAX 4096u
#define TOKENS_MAX 32768u
#define RANK_MAX 1024u

typedef struct bench_options {
    const char *model, *phase, *dtype;
    uint32_t threads, tokens, batch, prompt, rank, runs;
    bool json;
} bench_options;

/* Medians over the runs. */
typedef struct bench_result {
    double seconds, fastest, slowest;
    lb_limits limits;
    bench_work work;
    double resident_mb;
    uint32_t rank;
} bench_result;

static const char *const phases[] = {"score", "decode", "train"};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

/* The machine's limits are measured between the runs, so that both see the same weather. */
static lb_status measure(const bench_job *job, lb_backend *backend, uint32_t runs,
                         bench_result *out, lb_err *err)
{
    double *values = calloc(5 * (size_t)runs, sizeof *values), spent = 0.0;
    lb_status status = values ? bench_run(job, &spent, err)
                              : lb_fail(err, LB_ENOMEM, NULL, "no memory for %u runs", runs);
    /* Before the limits' buffer, which is not the model's. */
    out->resident_mb = lb_resident_bytes() / (1 << 20);
    for (uint32_t i = 0; status == LB_OK && i < runs; i++) {
        lb_limits limits = {0};
        status = lb_backend_limits(backend, &limits, err);
        if (status == LB_OK)
            status = bench_run(job, &values[i], err);
        values[runs + i] = limits.f32_gflops;
        values[2 * runs + i] = limits.int16_gops;
        values[3 * runs + i] = limits.int8_gops;
        values[4 * runs + i] = limits.read_gb_per_s;
    }
    if (status == LB_OK) {
        out->seconds = median(values, runs);
        out->fastest = values[0];
        out->slowest = values[runs - 1];
        out->limits = (lb_limits){median(values + runs, runs), median(values + 2 * runs, runs),
                                  median(values + 3 * runs, runs),
                                  median(values + 4 * runs, runs)};
        out->work = bench_count(job);
        out->rank = job->rank;
    }
    free(values);
    return status;
}

static double limit_of(const lb_limits *limits, lb_dtype dtype)
{
    return dtype == LB_INT16 ? limits->int16_gops
           : dtype == LB_INT8 ? limits->int8_gops
                              : limits->f32_gflops;
}

static void number(lb_jsonw *w, const char *key, double value)
{
    char text[40];
    int n = snprintf(text, sizeof text, "%.6g", value);
    lb_jsonw_key(w, key);
    lb_jsonw_raw(w, text, n > 0 ? (size_t)n : 0);
}

static void write_json(const bench_options *o, const lb_backend *backend, lb_dtype dtype,
                       const bench_result *r, lb_buf *out)
{
    lb_jsonw w = {.out = out};
    double gflops = r->work.flops / r->seconds / 1e9, limit = limit_of(&r->limits, dtype);
    lb_jsonw_object(&w);
    number(&w, "tokens_per_s", r->work.tokens / r->seconds);
    number(&w, "gflops", gflops);
    number(&w, "limit_gflops", limit);
    number(&w, "limit_share", gflops / limit);
    number(&w, "gb_per_s", r->work.bytes / r->seconds / 1e9);
    number(&w, "limit_gb_per_s", r->limits.read_gb_per_s);
    number(&w, "rss_mb", r->resident_mb);
    number(&w, "seconds", r->seconds);
    number(&w, "seconds_min", r->fastest);
    number(&w, "seconds_max", r->slowest);
    number(&w, "f32_limit_gflops", r->limits.f32_gflops);
    lb_jsonw_key(&w, "model");
    lb_jsonw_string(&w, o->model);
    lb_jsonw_key(&w, "phase");
    lb_jsonw_string(&w, o->phase);
    lb_jsonw_key(&w, "dtype");
    lb_jsonw_string(&w, o->dtype);
    lb_jsonw_key(&w, "backend");
    lb_jsonw_string(&w, lb_backend_describe(backend));
    number(&w, "threads", lb_backend_threads(backend));
    number(&w, "tokens", o->tokens);
    number(&w, "batch", o->batch);
    number(&w, "rank", r->rank);
    number(&w, "prompt", strcmp(o->phase, "decode") == 0 ? o->prompt : 0);
    number(&w, "runs", o->runs);
    lb_jsonw_object_end(&w);
    lb_buf_append(out, "\n", 1);
}

static void write_table(const bench_options *o, const lb_backend *backend, lb_dtype dtype,
                        const bench_result *r, lb_buf *out)
{
    double gflops = r->work.flops / r->seconds / 1e9, limit = limit_of(&r->limits, dtype);
    double bytes = r->work.bytes / r->seconds / 1e9;
    lb_table table = {.columns = 2};
    lb_table_cell(&table, "what");
    lb_table_cell(&table, "value");
    lb_table_cell(&table, "phase");
    lb_table_cell(&table, "%s, %s, %u tokens, batch %u", o->phase, o->dtype, o->tokens, o->batch);
    lb_table_cell(&table, "adapter");
    lb_table_cell(&table, r->rank ? "rank %u, all projections" : "none", r->rank);
    lb_table_cell(&table, "backend");
    lb_table_cell(&table, "%s", lb_backend_describe(backend));
    lb_table_cell(&table, "tokens/s");
    lb_table_cell(&table, "%.1f (median of %u; %.1f to %.1f)", r->work.tokens / r->seconds,
                  o->runs, r->work.tokens / r->slowest, r->work.tokens / r->fastest);
    lb_table_cell(&table, "GFLOP/s");
    lb_table_cell(&table, "%.1f of %.1f (%.0f %%)", gflops, limit, 100.0 * gflops / limit);
    lb_table_cell(&table, "GB/s");
    lb_table_cell(&table, "%.1f of %.1f (%.0f %%)", bytes, r->limits.read_gb_per_s,
                  100.0 * bytes / r->limits.read_gb_per_s);
    lb_table_cell(&table, "memory");
    lb_table_cell(&table, "%.0f MiB resident", r->resident_mb);
    lb_table_render(&table, out);
}

static lb_status check(const bench_options *o, const lb_model_config *c, bench_phase phase,
                       lb_err *err)
{
    if (phase == BENCH_DECODE && (o->prompt >= c->max_positions ||
                                  o->tokens > c->max_positions - o->prompt))
        return lb_fail(err, LB_EINVAL, "tokens", "%u after a prompt of %u are more than the %u "
                       "positions of the model", o->tokens, o->prompt, c->max_positions);
    if (phase != BENCH_DECODE && o->tokens > c->max_positions)
        return lb_fail(err, LB_EINVAL, "tokens", "%u are more than the %u positions of the model",
                       o->tokens, c->max_positions);
    return LB_OK;
}

static lb_status run(const bench_options *o, lb_buf *out, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_backend *backend = NULL;
    bench_result result = {0};
    bench_job job = {.tokens = o->tokens, .batch = o->batch, .prompt = o->prompt,
                     .rank = o->rank};
    lb_model_options options = {.max_tokens = BENCH_CHUNK};
    size_t phase = 0;
    if (!o->model)
        return lb_fail(err, LB_EINVAL, "model", "--model DIR is required");
    while (phase < 3 && strcmp(phases[phase], o->phase) != 0)
        phase++;
    if (phase == 3)
        return lb_fail(err, LB_EINVAL, "phase", "'%.20s' is none of score, decode, train",
                       o->phase);
    if (!lb_dtype_parse(o->dtype, &options.dtype))
        return lb_fail(err, LB_EINVAL, "dtype", "'%.20s' is none of " LB_DTYPE_NAMES, o->dtype);
    job.phase = (bench_phase)phase;
    options.trainable = job.phase == BENCH_TRAIN;
    if (options.trainable && !lb_dtype_has_backward(options.dtype))
        return lb_fail(err, LB_EINVAL, "dtype", "%s has no backward; train in f32, bf16 or fast",
                       o->dtype);
    lb_status status = lb_hub_find(getenv, o->model, path, sizeof path, err);
    if (status == LB_OK)
        status = lb_backend_open("cpu", o->threads, NULL, &backend, err);
    if (status == LB_OK)
        status = lb_model_load(backend, path, &options, &job.model, err);
    lb_model *model = job.model;
    if (status == LB_OK)
        status = check(o, lb_model_get_config(model), job.phase, err);
    if (status == LB_OK)
        status = bench_prepare(&job, err);
    if (status == LB_OK)
        status = measure(&job, backend, o->runs, &result, err);
    if (status == LB_OK && o->json)
        write_json(o, backend, options.dtype, &result, out);
    else if (status == LB_OK)
        write_table(o, backend, options.dtype, &result, out);
    bench_release(&job);
    lb_model_free(model);
    lb_backend_close(backend);
    return status;
}

int lb_cmd_bench(int argc, char **argv)
{
    bench_options o = {.phase = "score", .dtype = "f32", .tokens = 512, .batch = 1, .prompt = 256,
                       .runs = 5};
    const lb_option options[] = {
        {.name = "model", .type = LB_OPT_STRING, .out = &o.model, .value = "MODEL",
         .help = "a Hugging Face folder, ORG/NAME in its cache, or a .gguf file (required)"},
        {.name = "phase", .type = LB_OPT_STRING, .out = &o.phase, .value = "score|decode|train",
         .help = "score sequences, roll out from one prompt, or a LoRA gradient"},
        {.name = "tokens", .type = LB_OPT_U32, .out = &o.tokens, .min = 2, .max = TOKENS_MAX,
         .value = "T", .help = "of each sequence; to decode: new ones of each rollout"},
        {.name = "batch", .type = LB_OPT_U32, .out = &o.batch, .min = 1, .max = BATCH_MAX,
         .value = "B", .help = "sequences or rollouts"},
        {.name = "prompt", .type = LB_OPT_U32, .out = &o.prompt, .min = 1, .max = TOKENS_MAX,
         .value = "P", .help = "tokens of the prompt that all rollouts share"},
        {.name = "rank", .type = LB_OPT_U32, .out = &o.rank, .max = RANK_MAX,
         .value = "R", .help = "of an adapter on all projections; 0: none, but 16 to train"},
        {.name = "dtype", .type = LB_OPT_STRING, .out = &o.dtype, .value = LB_DTYPE_NAMES,
         .help = "how the weights are stored and multiplied"},
        {.name = "threads", .type = LB_OPT_U32, .out = &o.threads, .max = 1024, .value = "N",
         .help = "threads, 0: all this process may use"},
        {.name = "runs", .type = LB_OPT_U32, .out = &o.runs, .min = 1, .max = RUNS_MAX,
         .value = "N", .help = "counted runs, after one that is not"},
        {.name = "json", .type = LB_OPT_FLAG, .out = &o.json, .help = "print JSON"},
    };
    const lb_command_line line = {
        .program = "limbeck bench",
        .summary = "Times a model on this machine and compares with the machine's own limits,\n"
                   "which are measured between the runs. Tokens are random.",
        .examples = "  limbeck bench --model DIR --tokens 512 --threads 2\n"
                    "  limbeck bench --model DIR --phase decode --batch 32 --prompt 256 --json\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = LB_EXIT_OK;
    lb_err err = {0};
    lb_buf out = {0};
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    lb_status status = run(&o, &out, &err);
    code = status == LB_OK ? lb_cli_print(&out) : lb_cli_fail(&err);
    lb_buf_free(&out);
    return code;
}
