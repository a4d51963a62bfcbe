/* SPDX-License-Identifier: Apache-2.0
 *
 * llama_logits MODEL.gguf TOKENS THREADS RUNS: the tokens a second at which llama.cpp, or a fork
 * with the same interface, computes the logits of every token of a prompt, as scoring needs them.
 * Its own llama-bench computes the last token's only. No softmax is taken, which is in its favour.
 *
 * Not part of the build; compare_llama_cpp.py runs it. With an unpacked and built source in DIR:
 *   cc -O2 -I DIR/include -I DIR/ggml/include tests/bench/llama_logits.c -o llama_logits \
 *      -L DIR/build/bin -lllama -Wl,-rpath,DIR/build/bin
 */
#include <llama.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void quiet(enum ggml_log_level level, const char *text, void *arg)
{
    (void)arg;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

/* Seconds of one pass over a prompt in a new context; negative when it failed. */
static double pass(struct llama_model *model, struct llama_batch batch, int threads)
{
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = (uint32_t)batch.n_tokens;
    params.n_ubatch = 512;
    params.n_threads = params.n_threads_batch = threads;
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context)
        return -1;
    double start = seconds();
    int failed = llama_decode(context, batch);
    float *last = failed ? NULL : llama_get_logits_ith(context, batch.n_tokens - 1);
    double taken = last && last[0] == last[0] ? seconds() - start : -1;
    llama_free(context);
    return taken;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Argument `at` as a number from 1 to most; 0 when it is none. */
static int number(int argc, char **argv, int at, long most)
{
    char *end;
    long value = argc == 5 ? strtol(argv[at], &end, 10) : 0;
    return value >= 1 && value <= most && *end == '\0' ? (int)value : 0;
}

int main(int argc, char **argv)
{
    enum { RUNS_MAX = 100 };
    double taken[RUNS_MAX];
    int tokens = number(argc, argv, 2, 100000), threads = number(argc, argv, 3, 1024);
    int runs = number(argc, argv, 4, RUNS_MAX);
    if (!tokens || !threads || !runs) {
        fprintf(stderr, "usage: llama_logits MODEL.gguf TOKENS THREADS RUNS\n");
        return 2;
    }
    llama_log_set(quiet, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    struct llama_batch batch = llama_batch_init(tokens, 0, 1);
    for (int i = 0; i < tokens; i++) {
        batch.token[i] = 100 + i * 7919 % 40000;
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    batch.n_tokens = tokens;
    if (!model || pass(model, batch, threads) < 0)    /* once to warm up */
        return 1;
    for (int i = 0; i < runs; i++) {
        taken[i] = pass(model, batch, threads);
        if (taken[i] < 0)
            return 1;
    }
    qsort(taken, (size_t)runs, sizeof *taken, ascending);
    printf("%.1f\n", tokens / taken[runs / 2]);
    return 0;
}
