/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/config.h"

#include "common/base/json.h"
#include "common/io/file.h"

#include <stdio.h>
#include <string.h>

#define CONFIG_BYTES_MAX (4u << 20)
#define ROPE_FACTOR_MAX 1e6

typedef struct family_row {
    const char *architecture, *model_type;
    lb_family family;
    uint32_t kv_heads, head_dim;  /* where the key is absent; 0: of heads and hidden_size */
    bool needs_window;            /* without the key sliding_window, the window has 4096 tokens */
} family_row;

static const family_row families[] = {
    {.architecture = "Qwen3ForCausalLM", .model_type = "qwen3", .family = LB_FAMILY_QWEN3,
     .kv_heads = 32, .head_dim = 128},
    {.architecture = "Qwen2ForCausalLM", .model_type = "qwen2", .family = LB_FAMILY_QWEN2,
     .kv_heads = 32},
    {.architecture = "LlamaForCausalLM", .model_type = "llama", .family = LB_FAMILY_LLAMA},
    {.architecture = "MistralForCausalLM", .model_type = "mistral", .family = LB_FAMILY_LLAMA,
     .kv_heads = 8, .needs_window = true},
};

static lb_status parse_family(const lb_json *root, const family_row **out, lb_err *err)
{
    const char *word = lb_json_string(lb_json_at(lb_json_get(root, "architectures"), 0));
    bool by_type = !word;
    if (by_type)
        word = lb_json_string(lb_json_get(root, "model_type"));
    if (!word)
        return lb_fail(err, LB_EDATA, "architectures", "neither architectures nor model_type "
                       "names the model's family");
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (strcmp(word, by_type ? families[i].model_type : families[i].architecture) == 0) {
            *out = &families[i];
            return LB_OK;
        }
    }
    bool experts = strcasestr(word, "moe") || strcasestr(word, "mixtral");
    return lb_fail(err, LB_EUNSUPPORTED, by_type ? "model_type" : "architectures",
                   "'%.60s'%s is not supported; Qwen3, Qwen2, Llama and Mistral decoders are", word,
                   experts ? ", a mixture of experts," : "");
}

static lb_status parse_heads(const lb_json *root, const family_row *family, lb_model_config *c,
                             lb_err *err)
{
    const lb_json *head_dim = lb_json_get(root, "head_dim");
    bool derived = lb_json_is_null(head_dim) || (!head_dim && family->head_dim == 0);
    if (derived && c->hidden % c->heads != 0)
        return lb_fail(err, LB_EDATA, "head_dim", "it is absent, and a hidden_size of %u is no "
                       "multiple of %u heads", c->hidden, c->heads);
    c->head_dim = derived ? c->hidden / c->heads : family->head_dim;
    bool as_heads = lb_json_get(root, "num_key_value_heads") || family->kv_heads == 0;
    c->kv_heads = as_heads ? c->heads : family->kv_heads;
    lb_status status = lb_json_opt_u32(root, "", "num_key_value_heads", 1, LB_CONFIG_HEADS_MAX,
                                       &c->kv_heads, err);
    if (status == LB_OK)
        status = lb_json_opt_u32(root, "", "head_dim", 2, LB_CONFIG_HEAD_DIM_MAX, &c->head_dim,
                                 err);
    if (status == LB_OK && c->heads % c->kv_heads != 0)
        status = lb_fail(err, LB_EDATA, "num_key_value_heads", "%u does not divide %u heads",
                         c->kv_heads, c->heads);
    if (status == LB_OK &&
        (c->head_dim < 2 || c->head_dim % 2 != 0 || c->head_dim > LB_CONFIG_HEAD_DIM_MAX))
        status = lb_fail(err, LB_EDATA, "head_dim", "%u is not an even size of at most %u",
                         c->head_dim, LB_CONFIG_HEAD_DIM_MAX);
    return status;
}

static lb_status parse_sizes(const lb_json *root, const family_row *family, lb_model_config *c,
                             lb_err *err)
{
    const struct {
        const char *key;
        uint32_t max, *out;
    } sizes[] = {
        {"vocab_size", LB_CONFIG_VOCAB_MAX, &c->vocab},
        {"hidden_size", LB_CONFIG_HIDDEN_MAX, &c->hidden},
        {"num_hidden_layers", LB_CONFIG_LAYERS_MAX, &c->layers},
        {"num_attention_heads", LB_CONFIG_HEADS_MAX, &c->heads},
        {"intermediate_size", LB_CONFIG_HIDDEN_MAX * 8, &c->mlp},
        {"max_position_embeddings", LB_CONFIG_POSITIONS_MAX, &c->max_positions},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lb_status status = lb_json_need_u32(root, "", sizes[i].key, 1, sizes[i].max, sizes[i].out,
                                            err);
        if (status != LB_OK)
            return status;
    }
    return parse_heads(root, family, c, err);
}

/* The share of a head that RoPE rotates, which stands at the top or beside the theta. */
static lb_status refuse_partial_rotary(const lb_json *object, const char *where, lb_err *err)
{
    double share = 1.0;
    lb_status status = lb_json_opt_f64(object, where, "partial_rotary_factor", 0, 1, &share, err);
    if (status == LB_OK && share < 1.0)
        status = lb_fail(err, LB_EUNSUPPORTED, "partial_rotary_factor",
                         "heads that are rotated in part (%g) are not supported", share);
    return status;
}

/* Mistral's window is on unless the key is there and null. The Qwens' is off unless another key
 * turns it on. */
static lb_status refuse_window(const lb_json *root, const family_row *family, lb_err *err)
{
    const lb_json *window = lb_json_get(root, "sliding_window");
    bool sliding = false;
    if (family->needs_window && !window)
        return lb_fail(err, LB_EUNSUPPORTED, "sliding_window",
                       "it is absent, which means 4096; only null is supported");
    if (family->needs_window && !lb_json_is_null(window))
        return lb_fail(err, LB_EUNSUPPORTED, "sliding_window",
                       "sliding attention is not supported; only null is");
    lb_status status = lb_json_opt_bool(root, "", "use_sliding_window", &sliding, err);
    if (status == LB_OK && sliding)
        status = lb_fail(err, LB_EUNSUPPORTED, "use_sliding_window",
                         "sliding attention is not supported");
    return status;
}

static lb_status refuse_experts(const lb_json *root, lb_err *err)
{
    static const char *const keys[] = {"num_experts", "num_local_experts", "n_routed_experts"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const lb_json *node = lb_json_get(root, keys[i]);
        if (node && !lb_json_is_null(node) && !(lb_json_is_integer(node) && !lb_json_integer(node)))
            return lb_fail(err, LB_EUNSUPPORTED, keys[i], "mixtures of experts are not supported");
    }
    return LB_OK;
}

/* What would change the numbers and is not implemented is refused with its key. */
static lb_status refuse_unsupported(const lb_json *root, const family_row *family, lb_err *err)
{
    const char *act = "silu";
    bool attention_bias = false, mlp_bias = false;
    lb_status status = lb_json_opt_string(root, "", "hidden_act", &act, err);
    if (status == LB_OK && strcmp(act, "silu") != 0)
        status = lb_fail(err, LB_EUNSUPPORTED, "hidden_act", "'%.40s' is not supported; silu is",
                         act);
    if (status == LB_OK)
        status = refuse_window(root, family, err);
    if (status == LB_OK)
        status = refuse_experts(root, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(root, "", "attention_bias", &attention_bias, err);
    if (status == LB_OK && attention_bias && family->family != LB_FAMILY_QWEN2)
        status = lb_fail(err, LB_EUNSUPPORTED, "attention_bias",
                         "biases on the attention's projections are supported for Qwen2 only");
    if (status == LB_OK)
        status = lb_json_opt_bool(root, "", "mlp_bias", &mlp_bias, err);
    if (status == LB_OK && mlp_bias)
        status = lb_fail(err, LB_EUNSUPPORTED, "mlp_bias", "biases in the MLP are not supported");
    const lb_json *types = NULL;
    if (status == LB_OK)
        status = lb_json_opt_array(root, "", "layer_types", &types, err);
    if (status == LB_OK)
        status = refuse_partial_rotary(root, "", err);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; i < lb_json_array_size(types); i++) {
        const char *type = lb_json_string(lb_json_at(types, i));
        if (!type || strcmp(type, "full_attention") != 0)
            return lb_fail(err, LB_EUNSUPPORTED, "layer_types",
                           "layer %zu is '%.40s'; only full_attention is supported", i,
                           type ? type : "?");
    }
    const lb_json *quantization = lb_json_get(root, "quantization_config");
    if (quantization && !lb_json_is_null(quantization))
        return lb_fail(err, LB_EUNSUPPORTED, "quantization_config",
                       "quantised checkpoints are not supported");
    return LB_OK;
}

static lb_status parse_llama3(const lb_json *rope, const char *where, lb_rope_config *out,
                              lb_err *err)
{
    out->llama3 = true;
    lb_status status = lb_json_need_f64(rope, where, "factor", 1, ROPE_FACTOR_MAX, &out->factor,
                                        err);
    if (status == LB_OK)
        status = lb_json_need_f64(rope, where, "low_freq_factor", 1e-6, ROPE_FACTOR_MAX,
                                  &out->low_freq_factor, err);
    if (status == LB_OK)
        status = lb_json_need_f64(rope, where, "high_freq_factor", 1e-6, ROPE_FACTOR_MAX,
                                  &out->high_freq_factor, err);
    if (status == LB_OK && out->high_freq_factor <= out->low_freq_factor)
        status = lb_fail(err, LB_EDATA, "high_freq_factor", "%g is not above low_freq_factor",
                         out->high_freq_factor);
    if (status == LB_OK)
        status = lb_json_need_u32(rope, where, "original_max_position_embeddings", 1,
                                  LB_CONFIG_POSITIONS_MAX, &out->original_max_positions, err);
    return status;
}

/* One entry per layer type is a later form; read as the flat one it would lose its theta. */
typedef struct nesting {
    const char *where;
    lb_err *err;
} nesting;

static lb_status refuse_nested(void *arg, const char *key, const lb_json *value)
{
    const nesting *n = arg;
    if (!lb_json_is_object(value))
        return LB_OK;
    return lb_fail(n->err, LB_EUNSUPPORTED, n->where,
                   "parameters per layer type ('%.40s') are not supported", key);
}

/* The scaling of rope: default, llama3, or refused. */
static lb_status parse_rope_type(const lb_json *rope, const char *where, lb_rope_config *out,
                                 lb_err *err)
{
    const char *type = NULL;
    lb_status status = lb_json_each(rope, refuse_nested, &(nesting){where, err});
    if (status == LB_OK)
        status = refuse_partial_rotary(rope, where, err);
    if (status == LB_OK)   /* the older key first: rope_type wins where both stand */
        status = lb_json_opt_string(rope, where, "type", &type, err);
    const char *older = type;
    if (status == LB_OK)
        status = lb_json_opt_string(rope, where, "rope_type", &type, err);
    if (status == LB_OK && !type && lb_json_get(rope, "factor"))
        type = "(none, with a factor)";
    if (status != LB_OK || !type || strcmp(type, "default") == 0)
        return status;
    if (strcmp(type, "llama3") == 0)
        return parse_llama3(rope, where, out, err);
    char field[LB_ERR_FIELD_MAX];
    snprintf(field, sizeof field, "%s.%s", where, older && type == older ? "type" : "rope_type");
    return lb_fail(err, LB_EUNSUPPORTED, field,
                   "rope type '%.40s' is not supported; default and llama3 are", type);
}

/* rope_parameters (Transformers 5) holds theta and the scaling; before it, rope_theta stood at the
 * top and rope_scaling beside it. */
static lb_status parse_rope(const lb_json *root, lb_rope_config *out, lb_err *err)
{
    const lb_json *parameters = NULL, *scaling = NULL;
    const char *where = "rope_parameters";
    out->theta = 10000.0;   /* what Transformers takes when the key is absent */
    lb_status status = lb_json_opt_object(root, "", "rope_parameters", &parameters, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(root, "", "rope_theta", 1, LB_CONFIG_ROPE_THETA_MAX,
                                 &out->theta, err);
    if (status == LB_OK && parameters)
        status = lb_json_opt_f64(parameters, where, "rope_theta", 1, LB_CONFIG_ROPE_THETA_MAX,
                                 &out->theta, err);
    if (status == LB_OK)
        status = lb_json_opt_object(root, "", "rope_scaling", &scaling, err);
    if (status == LB_OK && parameters)
        status = parse_rope_type(parameters, where, out, err);
    if (status == LB_OK && scaling)   /* it counts even beside rope_parameters */
        status = parse_rope_type(scaling, "rope_scaling", out, err);
    return status;
}

/* Adds the end-of-sequence ids of one file: an integer, a list, or null. */
static lb_status add_eos(const lb_json *root, lb_model_config *c, lb_err *err)
{
    const lb_json *node = lb_json_get(root, "eos_token_id");
    if (!node || lb_json_is_null(node))
        return LB_OK;
    size_t count = lb_json_is_array(node) ? lb_json_array_size(node) : 1;
    for (size_t i = 0; i < count; i++) {
        const lb_json *id = lb_json_is_array(node) ? lb_json_at(node, i) : node;
        if (!lb_json_is_integer(id) || lb_json_integer(id) < 0 || lb_json_integer(id) >= c->vocab)
            return lb_fail(err, LB_EDATA, "eos_token_id", "entry %zu is not an id below %u", i,
                           c->vocab);
        uint32_t token = (uint32_t)lb_json_integer(id);
        if (lb_config_is_eos(c, token))
            continue;
        if (c->eos_count == LB_CONFIG_EOS_MAX)
            return lb_fail(err, LB_ETOOBIG, "eos_token_id", "there are more than %u ids",
                           LB_CONFIG_EOS_MAX);
        c->eos[c->eos_count++] = token;
    }
    return LB_OK;
}

static lb_status parse_object(const char *text, size_t length, const char *file, lb_json **out,
                              lb_err *err)
{
    lb_status status = lb_json_parse(text, length, out, err);
    if (status != LB_OK) {
        lb_err_wrap(err, "%s", file);
        if (err && !err->field[0])
            snprintf(err->field, sizeof err->field, "%s", file);
    } else if (!lb_json_is_object(*out)) {
        status = lb_fail(err, LB_EDATA, file, "%s does not hold an object", file);
    }
    return status;
}

lb_status lb_config_parse(const char *text, size_t length, const char *generation,
                          size_t generation_length, lb_model_config *out, lb_err *err)
{
    lb_json *root = NULL, *extra = NULL;
    lb_model_config c = {.rms_eps = 1e-6};
    const family_row *family = NULL;
    lb_status status = parse_object(text, length, "config.json", &root, err);
    if (status == LB_OK && generation)
        status = parse_object(generation, generation_length, "generation_config.json", &extra,
                              err);
    if (status == LB_OK)
        status = parse_family(root, &family, err);
    if (status == LB_OK)
        status = parse_sizes(root, family, &c, err);
    if (status == LB_OK)
        status = refuse_unsupported(root, family, err);
    if (status == LB_OK)
        status = parse_rope(root, &c.rope, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(root, "", "rms_norm_eps", LB_CONFIG_RMS_EPS_MIN,
                                 LB_CONFIG_RMS_EPS_MAX, &c.rms_eps, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(root, "", "tie_word_embeddings", &c.tied, err);
    if (status == LB_OK)
        status = add_eos(root, &c, err);
    if (status == LB_OK && extra) {
        status = add_eos(extra, &c, err);
        if (status != LB_OK)
            lb_err_wrap(err, "generation_config.json");
    }
    if (status == LB_OK) {
        c.family = family->family;
        c.qkv_bias = c.family == LB_FAMILY_QWEN2;
        c.qk_norm = c.family == LB_FAMILY_QWEN3;
        *out = c;
    }
    lb_json_free(root);
    lb_json_free(extra);
    return status;
}

static lb_status load_folder(const char *dir, lb_model_config *out, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf config = {0}, generation = {0};
    lb_status status = lb_path_join(path, sizeof path, dir, "config.json", err);
    if (status == LB_OK)
        status = lb_file_read(path, CONFIG_BYTES_MAX, &config, err);
    if (status == LB_OK)
        status = lb_path_join(path, sizeof path, dir, "generation_config.json", err);
    if (status == LB_OK && lb_path_is_file(path))
        status = lb_file_read(path, CONFIG_BYTES_MAX, &generation, err);
    if (status == LB_OK)
        status = lb_config_parse((const char *)config.data, config.length,
                                 (const char *)generation.data, generation.length, out, err);
    lb_buf_free(&config);
    lb_buf_free(&generation);
    return status;
}

static lb_status load_gguf(const char *path, lb_model_config *out, lb_err *err)
{
    lb_gguf *file = NULL;
    lb_status status = lb_gguf_load(path, &file, err);
    if (status == LB_OK)
        status = lb_config_from_gguf(file, out, err);
    lb_gguf_close(file);
    return status;
}

lb_status lb_config_load(const char *path, lb_model_config *out, lb_err *err)
{
    return lb_path_is_gguf(path) ? load_gguf(path, out, err) : load_folder(path, out, err);
}

bool lb_config_is_eos(const lb_model_config *config, uint32_t token)
{
    for (uint32_t i = 0; i < config->eos_count; i++) {
        if (config->eos[i] == token)
            return true;
    }
    return false;
}
