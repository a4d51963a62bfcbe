/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/config.h"

#include "common/io/gguf.h"

#include <stdio.h>
#include <string.h>

#define KEY_BYTES 96

typedef struct family_row {
    const char *architecture;
    lb_family family;
} family_row;

static const family_row families[] = {
    {"qwen3", LB_FAMILY_QWEN3}, {"qwen2", LB_FAMILY_QWEN2}, {"llama", LB_FAMILY_LLAMA},
};

typedef struct gguf_reader {
    const lb_gguf *file;
    const char *architecture;
    lb_err *err;
} gguf_reader;

static void key_of(const gguf_reader *r, const char *name, char out[KEY_BYTES])
{
    snprintf(out, KEY_BYTES, "%s.%s", r->architecture, name);
}

static lb_status read_u32(const gguf_reader *r, const char *name, bool need, uint32_t min,
                          uint32_t max, uint32_t *out)
{
    char key[KEY_BYTES];
    uint32_t value = *out;
    key_of(r, name, key);
    lb_status status = lb_gguf_u32(r->file, key, need, max, &value, r->err);
    if (status == LB_OK && lb_gguf_has(r->file, key) && value < min)
        status = lb_fail(r->err, LB_EDATA, key, "%u is below %u", value, min);
    if (status == LB_OK)
        *out = value;
    return status;
}

static lb_status read_f64(const gguf_reader *r, const char *name, bool need, double min,
                          double max, double *out)
{
    char key[KEY_BYTES];
    key_of(r, name, key);
    lb_status status = lb_gguf_f64(r->file, key, need, out, r->err);
    if (status == LB_OK && (*out < min || *out > max))
        status = lb_fail(r->err, LB_EDATA, key, "%g is outside %g .. %g", *out, min, max);
    return status;
}

static lb_status read_family(gguf_reader *r, lb_family *out)
{
    const char *word = NULL;
    size_t length = 0;
    lb_status status = lb_gguf_string(r->file, "general.architecture", true, &word, &length,
                                      r->err);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (length == strlen(families[i].architecture) &&
            memcmp(word, families[i].architecture, length) == 0) {
            r->architecture = families[i].architecture;
            *out = families[i].family;
            return LB_OK;
        }
    }
    return lb_fail(r->err, LB_EUNSUPPORTED, "general.architecture",
                   "'%.*s' is not supported; qwen3, qwen2 and llama are",
                   length < 60 ? (int)length : 60, word);
}

static lb_status read_sizes(const gguf_reader *r, lb_model_config *c)
{
    const struct {
        const char *name;
        uint32_t max, *out;
    } sizes[] = {
        {"embedding_length", LB_CONFIG_HIDDEN_MAX, &c->hidden},
        {"block_count", LB_CONFIG_LAYERS_MAX, &c->layers},
        {"attention.head_count", LB_CONFIG_HEADS_MAX, &c->heads},
        {"feed_forward_length", LB_CONFIG_HIDDEN_MAX * 8, &c->mlp},
        {"context_length", LB_CONFIG_POSITIONS_MAX, &c->max_positions},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lb_status status = read_u32(r, sizes[i].name, true, 1, sizes[i].max, sizes[i].out);
        if (status != LB_OK)
            return status;
    }
    c->kv_heads = c->heads;
    lb_status status = read_u32(r, "attention.head_count_kv", false, 1, LB_CONFIG_HEADS_MAX,
                                &c->kv_heads);
    char key[KEY_BYTES];
    key_of(r, "attention.key_length", key);
    if (status == LB_OK && !lb_gguf_has(r->file, key) && c->hidden % c->heads != 0)
        return lb_fail(r->err, LB_EDATA, key, "it is absent, and an embedding of %u is no "
                       "multiple of %u heads", c->hidden, c->heads);
    c->head_dim = c->hidden / c->heads;
    if (status == LB_OK)
        status = read_u32(r, "attention.key_length", false, 2, LB_CONFIG_HEAD_DIM_MAX,
                          &c->head_dim);
    if (status == LB_OK && c->heads % c->kv_heads != 0) {
        key_of(r, "attention.head_count_kv", key);
        return lb_fail(r->err, LB_EDATA, key, "%u does not divide %u heads", c->kv_heads,
                       c->heads);
    }
    if (status == LB_OK &&
        (c->head_dim < 2 || c->head_dim % 2 != 0 || c->head_dim > LB_CONFIG_HEAD_DIM_MAX))
        status = lb_fail(r->err, LB_EDATA, key, "%u is not an even size of at most %u",
                         c->head_dim, LB_CONFIG_HEAD_DIM_MAX);
    return status;
}

/* What would change the numbers and is not implemented is refused with its key. */
static lb_status refuse_unsupported(const gguf_reader *r, const lb_model_config *c)
{
    const struct {
        const char *name;
        uint32_t wanted;
        const char *why;
    } rows[] = {
        {"expert_count", 0, "mixtures of experts are not supported"},
        {"attention.sliding_window", 0, "sliding attention is not supported"},
        {"attention.value_length", c->head_dim, "values of another size than keys are not "
                                                "supported"},
        {"rope.dimension_count", c->head_dim, "heads that are rotated in part are not supported"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t value = rows[i].wanted;
        char key[KEY_BYTES];
        key_of(r, rows[i].name, key);
        lb_status status = lb_gguf_u32(r->file, key, false, UINT32_MAX, &value, r->err);
        if (status == LB_OK && value != rows[i].wanted)
            status = lb_fail(r->err, LB_EUNSUPPORTED, key, "%u: %s", value, rows[i].why);
        if (status != LB_OK)
            return status;
    }
    char key[KEY_BYTES];
    const char *type = "none";
    size_t length = strlen(type);
    key_of(r, "rope.scaling.type", key);
    lb_status status = lb_gguf_string(r->file, key, false, &type, &length, r->err);
    if (status == LB_OK && (length != 4 || memcmp(type, "none", 4) != 0))
        status = lb_fail(r->err, LB_EUNSUPPORTED, key, "'%.*s' is not supported; llama3's "
                         "factors, which rope_freqs.weight holds, are",
                         length < 60 ? (int)length : 60, type);
    return status;
}

static lb_status read_eos(const gguf_reader *r, lb_model_config *c)
{
    static const char *const keys[] = {
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        uint32_t token = 0;
        if (!lb_gguf_has(r->file, keys[i]))
            continue;
        lb_status status = lb_gguf_u32(r->file, keys[i], true, c->vocab - 1, &token, r->err);
        if (status != LB_OK)
            return status;
        if (!lb_config_is_eos(c, token))
            c->eos[c->eos_count++] = token;
    }
    return LB_OK;
}

lb_status lb_config_from_gguf(const lb_gguf *file, lb_model_config *out, lb_err *err)
{
    gguf_reader r = {.file = file, .err = err};
    lb_model_config c = {.rms_eps = 1e-6, .rope = {.theta = 10000.0}};
    lb_status status = read_family(&r, &c.family);
    if (status == LB_OK)
        status = read_sizes(&r, &c);
    if (status == LB_OK)
        status = refuse_unsupported(&r, &c);
    if (status == LB_OK)
        status = read_f64(&r, "attention.layer_norm_rms_epsilon", true, LB_CONFIG_RMS_EPS_MIN,
                          LB_CONFIG_RMS_EPS_MAX, &c.rms_eps);
    if (status == LB_OK)
        status = read_f64(&r, "rope.freq_base", false, 1, LB_CONFIG_ROPE_THETA_MAX,
                          &c.rope.theta);
    if (status != LB_OK)
        return status;
    /* The file's vocabulary is what the embedding has. */
    const lb_gguf_tensor *embedding = lb_gguf_find(file, "token_embd.weight");
    if (!embedding || embedding->rank != 2 || embedding->shape[1] > LB_CONFIG_VOCAB_MAX)
        return lb_fail(err, LB_EDATA, "token_embd.weight", "the file has no embedding of at most "
                       "%u rows", LB_CONFIG_VOCAB_MAX);
    c.vocab = (uint32_t)embedding->shape[1];
    c.tied = !lb_gguf_find(file, "output.weight");
    c.qkv_bias = c.family == LB_FAMILY_QWEN2;
    c.qk_norm = c.family == LB_FAMILY_QWEN3;
    status = read_eos(&r, &c);
    if (status == LB_OK)
        *out = c;
    return status;
}
