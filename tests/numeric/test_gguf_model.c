/* SPDX-License-Identifier: Apache-2.0
 *
 * The recorded models, rewritten as GGUF files the way ggml's converter does (its names, the q and
 * k rows of Llama interleaved, llama3's scaling as a tensor of factors), give the logprobs of the
 * folder: the same bits for F32 and BF16, close ones for F16, Q8_0 and the factors.
 */
#include "common/base/half.h"
#include "common/io/config.h"
#include "common/io/file.h"
#include "common/io/safetensors.h"
#include "common/model/model.h"
#include "common/tensor/ops.h"
#include "tests/gguf_writer.h"
#include "tests/numeric/golden.h"

#include <unistd.h>

/* ---- writing ---- */

typedef struct conversion {
    gguf_writer w;
    const lb_model_config *config;
    const char *architecture;
    lb_gguf_type type;         /* of matrices whose rows are whole blocks; else F32 */
} conversion;

static void number(conversion *c, const char *name, uint32_t value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", c->architecture, name);
    gw_u32(&c->w, key, value);
}

static void real(conversion *c, const char *name, double value)
{
    char key[96];
    snprintf(key, sizeof key, "%s.%s", c->architecture, name);
    gw_f32(&c->w, key, value);
}

static void write_config(conversion *c)
{
    const lb_model_config *m = c->config;
    gw_string(&c->w, "general.architecture", c->architecture);
    number(c, "block_count", m->layers);
    number(c, "context_length", m->max_positions);
    number(c, "embedding_length", m->hidden);
    number(c, "feed_forward_length", m->mlp);
    number(c, "attention.head_count", m->heads);
    number(c, "attention.head_count_kv", m->kv_heads);
    number(c, "attention.key_length", m->head_dim);
    number(c, "attention.value_length", m->head_dim);
    real(c, "attention.layer_norm_rms_epsilon", m->rms_eps);
    real(c, "rope.freq_base", m->rope.theta);
    gw_u32(&c->w, "tokenizer.ggml.eos_token_id", m->eos[0]);
}

/* ggml's name of a tensor. */
static void rename_tensor(const char *name, char *out, size_t size)
{
    static const char *const pairs[][2] = {
        {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"},
        {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"}, {"self_attn.o_proj", "attn_output"},
        {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
        {"mlp.gate_proj", "ffn_gate"}, {"mlp.up_proj", "ffn_up"}, {"mlp.down_proj", "ffn_down"},
    };
    unsigned layer = 0;
    int prefix = 0;
    bool in_layer = sscanf(name, "model.layers.%u.%n", &layer, &prefix) == 1;
    const char *rest = name + (in_layer ? prefix : 0), *end = strrchr(rest, '.');
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        if (strlen(pairs[i][0]) != (size_t)(end - rest) ||
            strncmp(rest, pairs[i][0], (size_t)(end - rest)) != 0)
            continue;
        if (in_layer)
            snprintf(out, size, "blk.%u.%s%s", layer, pairs[i][1], end);
        else
            snprintf(out, size, "%s%s", pairs[i][1], end);
        return;
    }
    fail_msg("no name for %s", name);
}

/* reshape(heads, 2, dim / 2, cols).swapaxes(1, 2) */
static void interleave(float *values, size_t rows, size_t cols, size_t dim)
{
    float *copy = malloc(rows * cols * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, values, rows * cols * sizeof *copy);
    for (size_t head = 0; head < rows / dim; head++) {
        for (size_t half = 0; half < 2; half++) {
            for (size_t i = 0; i < dim / 2; i++)
                memcpy(values + (head * dim + 2 * i + half) * cols,
                       copy + (head * dim + half * (dim / 2) + i) * cols, cols * sizeof *copy);
        }
    }
    free(copy);
}

/* Rounds to the nearest f16; the values here are normal numbers or zero. */
static uint16_t to_f16(float value)
{
    uint16_t best = 0;
    for (uint32_t bits = 0x0400; bits < 0x7C00; bits += 0x0400) {   /* find the exponent */
        if (lb_f16_to_f32((uint16_t)bits) <= fabsf(value))
            best = (uint16_t)bits;
    }
    float step = best ? lb_f16_to_f32((uint16_t)(best + 1)) - lb_f16_to_f32(best) : 0.0f;
    if (best)
        best = (uint16_t)(best + (uint16_t)lrintf((fabsf(value) - lb_f16_to_f32(best)) / step));
    return (uint16_t)(best | (value < 0.0f ? 0x8000 : 0));
}

static void put_q8_0(lb_buf *out, const float *values)
{
    float largest = 0.0f;
    for (size_t i = 0; i < 32; i++)
        largest = fmaxf(largest, fabsf(values[i]));
    uint16_t scale = to_f16(largest / 127.0f);
    float d = lb_f16_to_f32(scale);
    lb_buf_u16(out, scale);
    for (size_t i = 0; i < 32; i++) {
        long q = d > 0.0f ? lrintf(values[i] / d) : 0;
        int8_t byte = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
        lb_buf_append(out, &byte, 1);
    }
}

static void put_values(conversion *c, const char *name, const lb_st_tensor *t, const float *values,
                       size_t count)
{
    lb_buf bytes = {0};
    const uint64_t shape[] = {t->shape[t->rank - 1], t->shape[0]};
    lb_gguf_type type = t->rank == 2 ? c->type : LB_GGUF_F32;
    if (type == LB_GGUF_Q8_0 && shape[0] % 32 != 0)
        type = LB_GGUF_F32;
    for (size_t i = 0; i < count; i += type == LB_GGUF_Q8_0 ? 32 : 1) {
        if (type == LB_GGUF_Q8_0)
            put_q8_0(&bytes, values + i);
        else if (type == LB_GGUF_F32)
            lb_buf_f32(&bytes, values[i]);
        else
            lb_buf_u16(&bytes, type == LB_GGUF_BF16 ? lb_f32_to_bf16(values[i])
                                                    : to_f16(values[i]));
    }
    gw_tensor(&c->w, name, type, t->rank, shape, bytes.data, bytes.length);
    lb_buf_free(&bytes);
}

static void put_tensor(conversion *c, const lb_st_tensor *t)
{
    char name[96];
    size_t count = t->bytes / lb_st_dtype_size(t->dtype);
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    lb_gguf_expand(t->dtype == LB_ST_F32 ? LB_GGUF_F32 : LB_GGUF_BF16, t->data, count, values);
    if (c->config->family == LB_FAMILY_LLAMA &&
        (strstr(t->name, "q_proj.weight") || strstr(t->name, "k_proj.weight")))
        interleave(values, (size_t)t->shape[0], (size_t)t->shape[1], c->config->head_dim);
    rename_tensor(t->name, name, sizeof name);
    put_values(c, name, t, values, count);
    free(values);
}

/* llama3's scaling as divisors of the frequencies. */
static void put_factors(conversion *c)
{
    const lb_rope_config *r = &c->config->rope;
    lb_buf bytes = {0};
    const uint64_t half = c->config->head_dim / 2;
    double low = r->original_max_positions / r->low_freq_factor;
    double high = r->original_max_positions / r->high_freq_factor;
    for (uint64_t i = 0; i < half; i++) {
        double wavelength = 2.0 * M_PI * pow(r->theta, 2.0 * (double)i / (2.0 * (double)half));
        double smooth = (r->original_max_positions / wavelength - r->low_freq_factor) /
                        (r->high_freq_factor - r->low_freq_factor);
        double factor = wavelength < high  ? 1.0
                        : wavelength > low ? r->factor
                                           : 1.0 / ((1.0 - smooth) / r->factor + smooth);
        lb_buf_f32(&bytes, (float)factor);
    }
    gw_tensor(&c->w, "rope_freqs.weight", LB_GGUF_F32, 1, &half, bytes.data, bytes.length);
    lb_buf_free(&bytes);
}

/* Converts a folder into a GGUF file at path. */
static void convert(const char *dir, lb_gguf_type type, const char *path)
{
    static const char *const architectures[] = {[LB_FAMILY_LLAMA] = "llama",
                                                [LB_FAMILY_QWEN2] = "qwen2",
                                                [LB_FAMILY_QWEN3] = "qwen3"};
    char weights[192];
    lb_model_config config = {0};
    lb_mapping mapping = {0};
    lb_safetensors *file = NULL;
    lb_buf image = {0};
    snprintf(weights, sizeof weights, "%s/model.safetensors", dir);
    assert_int_equal(lb_config_load(dir, &config, NULL), LB_OK);
    assert_int_equal(lb_file_map(weights, &mapping, NULL), LB_OK);
    assert_int_equal(lb_safetensors_open(mapping.data, mapping.length, 1 << 20, &file, NULL),
                     LB_OK);
    conversion *c = calloc(1, sizeof *c);
    assert_non_null(c);
    c->config = &config;
    c->architecture = architectures[config.family];
    c->type = type;
    write_config(c);
    for (size_t i = 0; i < lb_safetensors_count(file); i++)
        put_tensor(c, lb_safetensors_at(file, i));
    if (config.rope.llama3)
        put_factors(c);
    gw_finish(&c->w, &image);
    assert_int_equal(lb_file_write(path, image.data, image.length, LB_WRITE_REPLACE, 0644, NULL),
                     LB_OK);
    lb_buf_free(&image);
    gw_free(&c->w);
    free(c);
    lb_safetensors_close(file);
    lb_file_unmap(&mapping);
}

/* ---- comparing ---- */

static void score(const char *path, const golden *g, float out[][GOLDEN_TOKENS_MAX])
{
    lb_backend *backend = NULL;
    lb_model *model = NULL;
    lb_err err = {0};
    const lb_model_options options = {.dtype = LB_F32};
    assert_int_equal(lb_backend_open("cpu", 1, NULL, &backend, NULL), LB_OK);
    if (lb_model_load(backend, path, &options, &model, &err) != LB_OK)
        fail_msg("%s: %s: %s", path, err.field, err.message);
    for (size_t s = 0; s < g->count; s++) {
        lb_score_request request = {.sequence = g->sequences[s], .start = 1, .logprob = out[s]};
        assert_int_equal(lb_model_score(model, NULL, &request, 1, &err), LB_OK);
    }
    lb_model_free(model);
    lb_backend_close(backend);
}

/* The largest difference of a logprob between a recorded folder and its conversion. */
static double difference(const char *name, lb_gguf_type type)
{
    static float want[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
    static float got[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
    char path[] = "/tmp/limbeck-model-XXXXXX.gguf";
    double worst = 0.0;
    size_t compared = 0;
    golden g;
    int file = mkstemps(path, 5);
    assert_true(file >= 0);
    close(file);
    golden_open(name, &g);
    convert(g.dir, type, path);
    score(g.dir, &g, want);
    score(path, &g, got);
    unlink(path);
    for (size_t s = 0; s < g.count; s++) {
        for (uint32_t t = 1; t < g.sequences[s].count; t++, compared++) {
            double d = fabs((double)got[s][t] - (double)want[s][t]);
            assert_true(isfinite(d));
            worst = fmax(worst, d);
        }
    }
    assert_true(compared > 90);
    golden_close(&g);
    return worst;
}

static void test_conversions(void **state)
{
    static const struct {
        const char *name;
        lb_gguf_type type;
        double least, most;    /* quantised, something must differ */
    } rows[] = {
        {"qwen3-tiny", LB_GGUF_F32, 0, 0},      {"llama-tiny", LB_GGUF_F32, 0, 0},
        {"qwen2-tiny", LB_GGUF_F32, 0, 0},      {"llama3-tiny", LB_GGUF_F32, 0, 1e-5},
        {"llama-tiny", LB_GGUF_BF16, 0, 0},     {"qwen2-tiny", LB_GGUF_BF16, 0, 0},
        {"qwen3-tiny", LB_GGUF_F16, 1e-6, 0.02},  {"llama3-tiny", LB_GGUF_F16, 1e-6, 0.02},
        {"qwen3-tiny", LB_GGUF_BF16, 1e-6, 0.1},
        {"qwen3-tiny", LB_GGUF_Q8_0, 1e-4, 0.2},  {"llama3-tiny", LB_GGUF_Q8_0, 1e-4, 0.2},
        {"qwen2-tiny", LB_GGUF_Q8_0, 1e-4, 0.2},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double d = difference(rows[i].name, rows[i].type);
        printf("%-12s %-5s differs by at most %.3g\n", rows[i].name,
               lb_gguf_type_name(rows[i].type), d);
        assert_true(d >= rows[i].least && d <= rows[i].most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_conversions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
