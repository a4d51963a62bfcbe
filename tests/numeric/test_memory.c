/* SPDX-License-Identifier: Apache-2.0
 *
 * Scoring never holds [T, V]: with a vocabulary 128 times as large, the same sequences take the
 * same scratch, and the process grows by far less than one such tensor. Prints what was measured.
 */
#include "common/io/file.h"
#include "common/io/safetensors.h"
#include "common/model/model.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HIDDEN 16u
#define MLP 32u
#define TOKENS 4096u
#define SMALL_VOCAB 1024u
#define LARGE_VOCAB 131072u

typedef struct tensor_row {
    const char *name;
    uint64_t shape[2];
    uint32_t rank;
} tensor_row;

/* A one-layer Llama folder with a vocabulary of the given size. */
static void write_model(const char *dir, uint32_t vocab)
{
    char path[256], config[512];
    const tensor_row rows[] = {
        {"model.embed_tokens.weight", {vocab, HIDDEN}, 2},
        {"model.norm.weight", {HIDDEN}, 1},
        {"model.layers.0.input_layernorm.weight", {HIDDEN}, 1},
        {"model.layers.0.post_attention_layernorm.weight", {HIDDEN}, 1},
        {"model.layers.0.self_attn.q_proj.weight", {HIDDEN, HIDDEN}, 2},
        {"model.layers.0.self_attn.k_proj.weight", {HIDDEN, HIDDEN}, 2},
        {"model.layers.0.self_attn.v_proj.weight", {HIDDEN, HIDDEN}, 2},
        {"model.layers.0.self_attn.o_proj.weight", {HIDDEN, HIDDEN}, 2},
        {"model.layers.0.mlp.gate_proj.weight", {MLP, HIDDEN}, 2},
        {"model.layers.0.mlp.up_proj.weight", {MLP, HIDDEN}, 2},
        {"model.layers.0.mlp.down_proj.weight", {HIDDEN, MLP}, 2},
    };
    lb_st_source sources[sizeof rows / sizeof *rows] = {0};
    lb_buf image = {0};
    float *values = calloc((size_t)vocab * HIDDEN, sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < (size_t)vocab * HIDDEN; i++)
        values[i] = (float)(i % 29) / 29.0f - 0.5f;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        sources[i] = (lb_st_source){.name = rows[i].name, .dtype = LB_ST_F32, .rank = rows[i].rank,
                                    .shape = {rows[i].shape[0], rows[i].shape[1]},
                                    .data = values};
    assert_int_equal(lb_safetensors_write(sources, sizeof rows / sizeof *rows, NULL, 0, &image,
                                          NULL), LB_OK);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(lb_file_write(path, image.data, image.length, LB_WRITE_REPLACE, 0644, NULL),
                     LB_OK);
    snprintf(config, sizeof config,
             "{\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":%u,\"hidden_size\":%u,"
             "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"intermediate_size\":%u,"
             "\"max_position_embeddings\":%u,\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\","
             "\"tie_word_embeddings\":true}", vocab, HIDDEN, MLP, TOKENS);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(lb_file_write(path, config, strlen(config), LB_WRITE_REPLACE, 0644, NULL),
                     LB_OK);
    lb_buf_free(&image);
    free(values);
}

/* The process's largest resident size since reset_peak. */
static size_t peak_kib(void)
{
    char line[128];
    size_t kib = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "VmHWM: %zu kB", &kib) == 1)
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
    write_model(dir, vocab);
    assert_int_equal(lb_backend_open("cpu", 2, NULL, &backend, NULL), LB_OK);
    assert_int_equal(lb_model_load(backend, dir, &options, &model, NULL), LB_OK);
    for (uint32_t t = 0; t < TOKENS; t++)
        tokens[t] = (t * 7919u) % vocab;
    lb_score_request request = {.sequence = {tokens, TOKENS}, .start = 1, .logprob = logprob};
    reset_peak();
    size_t before = peak_kib();
    assert_int_equal(lb_model_score(model, NULL, &request, 1, NULL), LB_OK);
    *grown_kib = peak_kib() - before;
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
    char dir[] = "/tmp/limbeck-memory-XXXXXX", path[128];
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
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_vocabulary_by_sequence_tensor)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
