/* SPDX-License-Identifier: Apache-2.0
 *
 * make_model SHAPE DTYPE DIR - writes a checkpoint of random weights in the shape of a real model:
 * config.json and model.safetensors. What a benchmark needs of a model is its shape.
 */
#include "common/base/rng.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NAME_MAX_BYTES 128
#define HEADER_MAX ((size_t)1 << 20)
#define SEED 1u

typedef struct shape {
    const char *name, *family;
    uint32_t hidden, layers, heads, kv_heads, head_dim, mlp, vocab;
    bool qk_norm;
} shape;

static const shape shapes[] = {
    {"smollm2-135m", "llama", 576, 30, 9, 3, 64, 1536, 49152, false},
    {"qwen3-0.6b", "qwen3", 1024, 28, 16, 8, 128, 3072, 151936, true},
};

typedef struct writer {
    FILE *file;
    char *header;
    size_t length;
    uint64_t offset, drawn;
    bool bf16, failed;
} writer;

/* Adds a tensor to the header. */
static void declare(writer *w, const char *name, uint32_t rows, uint32_t cols)
{
    uint64_t bytes = (uint64_t)(rows ? rows : 1) * cols * (w->bf16 ? 2 : 4);
    char dims[32];
    if (rows)
        snprintf(dims, sizeof dims, "%u,%u", rows, cols);
    else
        snprintf(dims, sizeof dims, "%u", cols);
    int n = snprintf(w->header + w->length, HEADER_MAX - w->length,
                     "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%" PRIu64
                     ",%" PRIu64 "]}", w->length > 1 ? "," : "", name, w->bf16 ? "BF16" : "F32",
                     dims, w->offset, w->offset + bytes);
    w->failed = w->failed || n < 0 || (size_t)n >= HEADER_MAX - w->length;
    w->length += w->failed ? 0 : (size_t)n;
    w->offset += bytes;
}

/* The sum of four uniforms, scaled to a standard deviation of 1: near enough to normal. */
static float normal(writer *w)
{
    uint32_t word[4], counter[4] = {(uint32_t)w->drawn, (uint32_t)(w->drawn >> 32), 0, 0};
    w->drawn++;
    lb_rng_block(SEED, counter, word);
    double sum = 0.0;
    for (int i = 0; i < 4; i++)
        sum += (double)word[i] / 4294967296.0;
    return (float)((sum - 2.0) * sqrt(3.0));
}

/* Values around `mean` with the given deviation. */
static void fill(writer *w, uint32_t rows, uint32_t cols, float mean, float deviation)
{
    uint64_t count = (uint64_t)(rows ? rows : 1) * cols;
    for (uint64_t i = 0; i < count && !w->failed; i++) {
        float x = mean + deviation * normal(w);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        uint16_t half = (uint16_t)(bits >> 16);
        size_t wrote = w->bf16 ? fwrite(&half, 2, 1, w->file) : fwrite(&x, 4, 1, w->file);
        w->failed = wrote != 1;
    }
}

/* Every tensor in one order: declared when `data` is false, written when it is true. */
static void tensor(writer *w, bool data, const char *name, uint32_t rows, uint32_t cols)
{
    if (!data)
        declare(w, name, rows, cols);
    else if (rows == 0)
        fill(w, rows, cols, 1.0f, 0.05f);
    else
        fill(w, rows, cols, 0.0f, 1.0f / sqrtf((float)cols));
}

static void all_tensors(writer *w, const shape *s, bool data)
{
    const uint32_t q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    const struct {
        const char *suffix;
        uint32_t rows, cols;
        bool only_qk_norm;
    } rows[] = {
        {"input_layernorm.weight", 0, s->hidden, false},
        {"self_attn.q_proj.weight", q, s->hidden, false},
        {"self_attn.k_proj.weight", kv, s->hidden, false},
        {"self_attn.v_proj.weight", kv, s->hidden, false},
        {"self_attn.o_proj.weight", s->hidden, q, false},
        {"self_attn.q_norm.weight", 0, s->head_dim, true},
        {"self_attn.k_norm.weight", 0, s->head_dim, true},
        {"post_attention_layernorm.weight", 0, s->hidden, false},
        {"mlp.gate_proj.weight", s->mlp, s->hidden, false},
        {"mlp.up_proj.weight", s->mlp, s->hidden, false},
        {"mlp.down_proj.weight", s->hidden, s->mlp, false},
    };
    tensor(w, data, "model.embed_tokens.weight", s->vocab, s->hidden);
    tensor(w, data, "model.norm.weight", 0, s->hidden);
    for (uint32_t i = 0; i < s->layers; i++) {
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
            char name[NAME_MAX_BYTES];
            if (rows[r].only_qk_norm && !s->qk_norm)
                continue;
            snprintf(name, sizeof name, "model.layers.%u.%s", i, rows[r].suffix);
            tensor(w, data, name, rows[r].rows, rows[r].cols);
        }
    }
}

static bool write_config(const shape *s, bool bf16, const char *dir)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *file = fopen(path, "w");
    if (!file)
        return false;
    bool qwen = s->qk_norm;
    fprintf(file,
            "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": %u,\n"
            " \"num_hidden_layers\": %u, \"num_attention_heads\": %u,\n"
            " \"num_key_value_heads\": %u, \"head_dim\": %u, \"intermediate_size\": %u,\n"
            " \"vocab_size\": %u, \"max_position_embeddings\": 8192, \"rms_norm_eps\": 1e-06,\n"
            " \"rope_theta\": %s, \"tie_word_embeddings\": true, \"hidden_act\": \"silu\",\n"
            " \"attention_bias\": false, \"bos_token_id\": 1, \"eos_token_id\": 2,\n"
            " \"torch_dtype\": \"%s\"}\n",
            qwen ? "Qwen3ForCausalLM" : "LlamaForCausalLM", s->family, s->hidden, s->layers,
            s->heads, s->kv_heads, s->head_dim, s->mlp, s->vocab, qwen ? "1000000" : "100000",
            bf16 ? "bfloat16" : "float32");
    return fclose(file) == 0;
}

static bool write_tensors(const shape *s, bool bf16, const char *dir)
{
    char path[4096];
    writer w = {.header = malloc(HEADER_MAX), .bf16 = bf16};
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    w.file = fopen(path, "wb");
    if (!w.header || !w.file)
        return false;
    w.header[w.length++] = '{';
    all_tensors(&w, s, false);
    w.header[w.length++] = '}';
    while (w.length % 8 != 0)
        w.header[w.length++] = ' ';
    uint64_t length = w.length;
    w.failed = w.failed || fwrite(&length, sizeof length, 1, w.file) != 1 ||
               fwrite(w.header, 1, w.length, w.file) != w.length;
    all_tensors(&w, s, true);
    free(w.header);
    return fclose(w.file) == 0 && !w.failed;
}

int main(int argc, char **argv)
{
    if (argc != 4 || (strcmp(argv[2], "f32") != 0 && strcmp(argv[2], "bf16") != 0)) {
        fprintf(stderr, "usage: make_model smollm2-135m|qwen3-0.6b f32|bf16 DIR\n");
        return 2;
    }
    bool bf16 = strcmp(argv[2], "bf16") == 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(argv[1], shapes[i].name) != 0)
            continue;
        mkdir(argv[3], 0755);
        if (write_config(&shapes[i], bf16, argv[3]) && write_tensors(&shapes[i], bf16, argv[3]))
            return 0;
        fprintf(stderr, "make_model: %s could not be written\n", argv[3]);
        return 1;
    }
    fprintf(stderr, "make_model: there is no shape '%s'\n", argv[1]);
    return 2;
}
