/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model takes is what was predicted, and a hostile file takes little. Scoring never holds
 * [T, V]: with a vocabulary 128 times as large, the same sequences take the same scratch, and the
 * process grows by far less than one such tensor. Prints what was measured.
 */
#include "common/io/file.h"
#include "common/io/gguf.h"
#include "common/io/safetensors.h"
#include "common/model/memory.h"
#include "common/model/model.h"
#include "common/tensor/ops.h"
#include "tests/check.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define HIDDEN 16u
#define MLP 32u
#define TOKENS 4096u
#define SMALL_VOCAB 1024u
#define LARGE_VOCAB 131072u

#define TENSORS_MAX 64u

typedef struct model_shape {
    uint32_t vocab, hidden, mlp, layers;
} model_shape;

typedef struct model_writer {
    lb_st_source sources[TENSORS_MAX];
    char names[TENSORS_MAX][80];
    size_t count;
    const float *values;
} model_writer;

static void add(model_writer *w, uint32_t layer, const char *suffix, uint64_t rows, uint64_t cols)
{
    char *name = w->names[w->count];
    assert_true(w->count < TENSORS_MAX);
    if (layer == UINT32_MAX)
        snprintf(name, sizeof w->names[0], "model.%s.weight", suffix);
    else
        snprintf(name, sizeof w->names[0], "model.layers.%u.%s.weight", layer, suffix);
    w->sources[w->count++] = (lb_st_source){.name = name, .dtype = LB_ST_F32,
                                            .rank = cols ? 2 : 1, .shape = {rows, cols},
                                            .data = w->values};
}

static void write_config(const char *dir, const model_shape *m)
{
    char path[256], config[512];
    snprintf(config, sizeof config,
             "{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":%u,\"hidden_size\":%u,"
             "\"num_hidden_layers\":%u,\"num_attention_heads\":8,\"intermediate_size\":%u,"
             "\"max_position_embeddings\":%u,\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\","
             "\"tie_word_embeddings\":true}", m->vocab, m->hidden, m->layers, m->mlp, TOKENS);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(lb_file_write(path, config, strlen(config), LB_WRITE_REPLACE, 0644, NULL),
                     LB_OK);
}

/* A Llama folder of the given sizes. */
static void write_model(const char *dir, const model_shape *m)
{
    static const char *const square[] = {"self_attn.q_proj", "self_attn.k_proj",
                                         "self_attn.v_proj", "self_attn.o_proj"};
    char path[256];
    lb_buf image = {0};
    size_t most = (size_t)(m->vocab > m->mlp ? m->vocab : m->mlp) * m->hidden;
    float *values = calloc(most, sizeof *values);
    model_writer *w = calloc(1, sizeof *w);
    assert_true(values && w);
    for (size_t i = 0; i < most; i++)
        values[i] = (float)(i % 29) / 29.0f - 0.5f;
    w->values = values;
    add(w, UINT32_MAX, "embed_tokens", m->vocab, m->hidden);
    add(w, UINT32_MAX, "norm", m->hidden, 0);
    for (uint32_t i = 0; i < m->layers; i++) {
        add(w, i, "input_layernorm", m->hidden, 0);
        add(w, i, "post_attention_layernorm", m->hidden, 0);
        for (size_t p = 0; p < 4; p++)
            add(w, i, square[p], m->hidden, m->hidden);
        add(w, i, "mlp.gate_proj", m->mlp, m->hidden);
        add(w, i, "mlp.up_proj", m->mlp, m->hidden);
        add(w, i, "mlp.down_proj", m->hidden, m->mlp);
    }
    assert_int_equal(lb_safetensors_write(w->sources, w->count, NULL, 0, &image, NULL), LB_OK);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(lb_file_write(path, image.data, image.length, LB_WRITE_REPLACE, 0644, NULL),
                     LB_OK);
    write_config(dir, m);
    lb_buf_free(&image);
    free(values);
    free(w);
}

static void remove_model(const char *dir)
{
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    rmdir(dir);
}

/* A row of /proc/self/status in KiB: VmRSS, or VmHWM, the largest since reset_peak. */
static size_t status_kib(const char *row)
{
    char line[128];
    size_t kib = 0, length = strlen(row);
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, row, length) == 0 && sscanf(line + length, ": %zu kB", &kib) == 1)
            break;
    }
    if (file)
        fclose(file);
    return kib;
}

static void reset_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "we");
    if (file) {
        fputs("5", file);
        fclose(file);
    }
}

/* Scratch of scoring one sequence of TOKENS, and by how many KiB the process grew meanwhile. */
static size_t measure(const char *dir, uint32_t vocab, size_t *grown_kib)
{
    lb_backend *backend = NULL;
    lb_model *model = NULL;
    lb_model_options options = {.dtype = LB_F32};
    uint32_t *tokens = calloc(TOKENS, sizeof *tokens);
    float *logprob = calloc(TOKENS, sizeof *logprob);
    write_model(dir, &(model_shape){vocab, HIDDEN, MLP, 1});
    assert_int_equal(lb_backend_open("cpu", 2, NULL, &backend, NULL), LB_OK);
    assert_int_equal(lb_model_load(backend, dir, &options, &model, NULL), LB_OK);
    for (uint32_t t = 0; t < TOKENS; t++)
        tokens[t] = (t * 7919u) % vocab;
    lb_score_request request = {.sequence = {tokens, TOKENS}, .start = 1, .logprob = logprob};
    reset_peak();
    size_t before = status_kib("VmHWM");
    assert_int_equal(lb_model_score(model, NULL, &request, 1, NULL), LB_OK);
    *grown_kib = status_kib("VmHWM") - before;
    size_t scratch = lb_model_peak_scratch_bytes(model);
    lb_model_free(model);
    lb_backend_close(backend);
    free(tokens);
    free(logprob);
    return scratch;
}

static void test_no_vocabulary_by_sequence_tensor(void **state)
{
    (void)state;
    char dir[] = "/tmp/limbeck-memory-XXXXXX";
    size_t small_grown = 0, large_grown = 0;
    assert_non_null(mkdtemp(dir));
    size_t small = measure(dir, SMALL_VOCAB, &small_grown);
    size_t large = measure(dir, LARGE_VOCAB, &large_grown);
    size_t forbidden_kib = (size_t)TOKENS * LARGE_VOCAB * sizeof(float) / 1024;
    printf("T %u: scratch %zu KiB at V %u and %zu KiB at V %u; the process grew by %zu and %zu KiB"
           " ([T, V] would be %zu KiB)\n", TOKENS, small / 1024, SMALL_VOCAB, large / 1024,
           LARGE_VOCAB, small_grown, large_grown, forbidden_kib);
    assert_int_equal(small, large);
    assert_true(large_grown < forbidden_kib / 32);
    remove_model(dir);
}

/* ---- prediction ---- */

typedef struct measured {
    size_t weights, peak, resident_kib;
    bool loaded;
} measured;

static measured load_and_score(const char *dir, const lb_model_options *options, uint32_t count)
{
    measured m = {0};
    lb_backend *backend = NULL;
    lb_model *model = NULL;
    uint32_t *tokens = calloc(count, sizeof *tokens);
    float *logprob = calloc(count, sizeof *logprob);
    lb_score_request request = {.sequence = {tokens, count}, .start = 1, .logprob = logprob};
    if (tokens && logprob && lb_backend_open("cpu", 2, NULL, &backend, NULL) == LB_OK &&
        lb_model_load(backend, dir, options, &model, NULL) == LB_OK &&
        lb_model_score(model, NULL, &request, 1, NULL) == LB_OK)
        m = (measured){lb_model_weight_bytes(model), lb_model_peak_scratch_bytes(model),
                       status_kib("VmRSS"), true};
    lb_model_free(model);
    lb_backend_close(backend);
    free(tokens);
    free(logprob);
    return m;
}

/* In a process of its own, which holds nothing else. */
static measured measure_apart(const char *dir, const lb_model_options *options, uint32_t count)
{
    int ends[2];
    measured m = {0};
    assert_int_equal(pipe(ends), 0);
    malloc_trim(0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        m = load_and_score(dir, options, count);
        _exit(write(ends[1], &m, sizeof m) == sizeof m ? 0 : 1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &m, sizeof m), sizeof m);
    close(ends[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_true(m.loaded);
    return m;
}

static void check_prediction(const char *dir, lb_model_options options, uint32_t tokens,
                             bool resident)
{
    lb_model_config config;
    lb_memory_estimate e = {0};
    assert_int_equal(lb_config_load(dir, &config, NULL), LB_OK);
    assert_int_equal(lb_model_estimate_memory(&config, &options, tokens, &e, NULL), LB_OK);
    measured m = measure_apart(dir, &options, tokens);
    printf("%s, %s, T %u: %zu KiB predicted, %zu resident\n",
           lb_dtype_name(options.dtype), options.trainable ? "trainable" : "frozen",
           tokens, e.total_resident / 1024, m.resident_kib);
    assert_int_equal(e.weights, m.weights);
    assert_true(m.peak <= e.kv_and_scratch && (tokens < 2 || m.peak > e.kv_and_scratch / 8));
    /* A sanitizer's own memory drowns the model's. */
    if (resident && !SANITIZED)
        assert_close((double)e.total_resident / 1024.0, m.resident_kib,
                     (double)m.resident_kib / 10.0);
}

static void test_predicts_the_resident_size(void **state)
{
    static const uint32_t tokens[] = {64, 1000, TOKENS};
    (void)state;
    char dir[] = "/tmp/limbeck-memory-XXXXXX";
    assert_non_null(mkdtemp(dir));
    write_model(dir, &(model_shape){8192, 512, 2048, 4});
    for (unsigned i = 0; i < 4; i++) {
        lb_model_options options = {.dtype = i & 1 ? LB_BF16 : LB_F32, .trainable = i & 2};
        check_prediction(dir, options, tokens[i % 2], true);
    }
    check_prediction(dir, (lb_model_options){.dtype = LB_INT16, .trainable = true}, 1000, true);
    lb_model_options options = {.dtype = LB_F32, .max_tokens = 512};
    check_prediction(dir, options, SANITIZED ? 600 : TOKENS, true);
    options.dtype = LB_INT8;
    check_prediction(dir, options, SANITIZED ? 600 : TOKENS, true);
    remove_model(dir);
}

/* Biases, norms of heads, tied and untied heads, sizes that are no whole panels. */
static void test_predicts_the_weights_of_every_family(void **state)
{
    static const char *const dirs[] = {"tests/golden/qwen3-tiny", "tests/golden/llama-tiny",
                                       "tests/golden/llama3-tiny", "tests/golden/qwen2-tiny"};
    (void)state;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        for (unsigned k = 0; k < 6; k++) {
            static const lb_dtype dtypes[] = {LB_F32, LB_BF16, LB_INT16};
            lb_model_options options = {.dtype = dtypes[k % 3], .trainable = k >= 3};
            check_prediction(dirs[i], options, k == 0 ? 1 : 100, false);
        }
    }
}

static void test_refuses_to_predict(void **state)
{
    static const struct {
        lb_model_options options;
        uint32_t tokens;
        const char *field;
    } rows[] = {
        {{.dtype = LB_F32}, 0, "tokens"},
        {{.dtype = LB_F32}, 129, "tokens"},
        {{.dtype = LB_I32}, 5, "dtype"},
        {{.dtype = LB_F32, .max_tokens = UINT32_MAX}, 5, "max_tokens"},
    };
    lb_model_config config;
    (void)state;
    assert_int_equal(lb_config_load("tests/golden/qwen3-tiny", &config, NULL), LB_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lb_memory_estimate e = {0};
        lb_err err = {0};
        assert_int_equal(lb_model_estimate_memory(&config, &rows[i].options, rows[i].tokens, &e,
                                                  &err), LB_EINVAL);
        assert_string_equal(err.field, rows[i].field);
    }
}

/* ---- hostile files ---- */

static void pad_table(lb_buf *image)
{
    for (uint32_t i = 0; i < LB_GGUF_TENSORS_MAX; i++) {
        char name[8];
        snprintf(name, sizeof name, "%05x", i);
        lb_buf_u64(image, 5);
        lb_buf_puts(image, name);
        lb_buf_u32(image, 1);
        lb_buf_u64(image, 1);
        lb_buf_u32(image, LB_GGUF_F32);
        lb_buf_u64(image, 0);
    }
}

static void make_hostile(const char *what, lb_buf *image)
{
    lb_buf header = {0};
    bool gguf = strncmp(what, "gguf", 4) == 0;
    if (gguf) {
        lb_buf_puts(image, "GGUF");
        lb_buf_u32(image, 3);
        lb_buf_u64(image, strcmp(what, "gguf counts") == 0 ? UINT64_MAX : LB_GGUF_TENSORS_MAX);
        lb_buf_u64(image, 0);
        pad_table(image);
        return;
    }
    const char *item = what + strlen("safetensors ");
    lb_buf_puts(&header, "{\"a\":[1");
    while (header.length < 4u << 20)
        lb_buf_printf(&header, ",%s", item);
    lb_buf_puts(&header, "]}");
    lb_buf_u64(image, header.length);
    lb_buf_append(image, header.data, header.length);
    lb_buf_free(&header);
}

static void test_hostile_files_take_little_memory(void **state)
{
    static const char *const kinds[] = {
        "gguf table", "gguf counts", "safetensors {}", "safetensors []", "safetensors 7",
        "safetensors \"\"",
    };
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        lb_buf image = {0};
        lb_gguf *gguf = NULL;
        lb_safetensors *st = NULL;
        lb_err err = {0};
        make_hostile(kinds[i], &image);
        reset_peak();
        size_t before = status_kib("VmHWM");
        if (kinds[i][0] == 'g')
            assert_int_not_equal(lb_gguf_open(image.data, image.length, &gguf, &err), LB_OK);
        else
            assert_int_not_equal(lb_safetensors_open(image.data, image.length, 1u << 30, &st,
                                                     &err), LB_OK);
        size_t grown = status_kib("VmHWM") - before;
        printf("%-16s %zu KiB: the process grew by %zu KiB (%s)\n", kinds[i],
               image.length / 1024, grown, err.field);
        assert_true(err.field[0] != '\0');
        assert_true(SANITIZED || grown < 24 * image.length / 1024);
        lb_buf_free(&image);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_files_take_little_memory),
        cmocka_unit_test(test_predicts_the_resident_size),
        cmocka_unit_test(test_predicts_the_weights_of_every_family),
        cmocka_unit_test(test_refuses_to_predict),
        cmocka_unit_test(test_no_vocabulary_by_sequence_tensor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
