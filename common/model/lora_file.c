/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/lora.h"

#include "common/io/file.h"
#include "common/io/safetensors.h"
#include "common/tensor/tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX (1u << 20)
#define HEADER_MAX (8u << 20)

/* ---- writing ---- */

lb_status lb_lora_encode(const lb_lora_layout *layout, const float *flat, lb_buf *safetensors,
                         lb_err *err)
{
    lb_st_source *sources = calloc(layout->count, sizeof *sources);
    if (!sources)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu tensors", layout->count);
    for (size_t i = 0; i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        sources[i] = (lb_st_source){.name = t->name, .dtype = LB_ST_F32, .rank = 2,
                                    .shape = {t->rows, t->cols}, .data = flat + t->offset};
    }
    lb_status status = lb_safetensors_write(sources, layout->count, NULL, 0, safetensors, err);
    free(sources);
    return status;
}

void lb_lora_encode_config(const lb_lora_config *config, const char *base_model, lb_buf *json)
{
    /* The keys PEFT has had for long: unknown newer ones break older readers. Keys before and
     * after the ones that vary are constant text. */
    lb_jsonw w = {.out = json};
    lb_buf_puts(json, "{\"alpha_pattern\":{},\"auto_mapping\":null,\"base_model_name_or_path\":");
    lb_jsonw_string(&w, base_model);
    lb_buf_puts(json, ",\"bias\":\"none\",\"fan_in_fan_out\":false,\"inference_mode\":true,"
                      "\"init_lora_weights\":true,\"layer_replication\":null,"
                      "\"layers_pattern\":null,\"layers_to_transform\":null,\"loftq_config\":{},"
                      "\"lora_alpha\":");
    w = (lb_jsonw){.out = json};
    if (config->alpha == floor(config->alpha) && config->alpha < 1e9)
        lb_jsonw_u64(&w, (uint64_t)config->alpha);   /* vLLM reads an integer */
    else
        lb_jsonw_f64(&w, config->alpha);
    lb_buf_puts(json, ",\"lora_dropout\":0.0,\"megatron_config\":null,"
                      "\"megatron_core\":\"megatron.core\",\"modules_to_save\":null,"
                      "\"peft_type\":\"LORA\",\"r\":");
    w = (lb_jsonw){.out = json};
    lb_jsonw_u64(&w, config->rank);
    lb_buf_puts(json, ",\"rank_pattern\":{},\"revision\":null,\"target_modules\":");
    w = (lb_jsonw){.out = json};
    lb_jsonw_array(&w);
    for (int p = 0; p < LB_PROJ_COUNT; p++) {
        if (config->targets & 1u << p)
            lb_jsonw_string(&w, lb_projection_name((lb_projection)p));
    }
    lb_jsonw_array_end(&w);
    lb_buf_puts(json, ",\"task_type\":\"CAUSAL_LM\",\"use_dora\":false,\"use_rslora\":false}");
}

/* ---- reading ---- */

/* A key that changes the numbers and is not implemented must be absent, null, false or empty. */
static lb_status refuse(const lb_json *root, const char *key, lb_err *err)
{
    const lb_json *node = lb_json_get(root, key);
    bool empty = !node || lb_json_is_null(node) ||
                 (lb_json_is_bool(node) && !lb_json_bool(node)) ||
                 (lb_json_is_object(node) && lb_json_object_size(node) == 0) ||
                 (lb_json_is_array(node) && lb_json_array_size(node) == 0);
    if (!empty)
        return lb_fail(err, LB_EUNSUPPORTED, key, "adapter_config.json: %s is not supported", key);
    return LB_OK;
}

static lb_status parse_targets(const lb_json *node, uint32_t *out, lb_err *err)
{
    const char *word = lb_json_string(node);
    if (word && strcmp(word, "all-linear") == 0) {
        *out = LB_LORA_ALL_TARGETS;
        return LB_OK;
    }
    if (!lb_json_is_array(node) || lb_json_array_size(node) == 0)
        return lb_fail(err, LB_EUNSUPPORTED, "target_modules",
                       "only a list of projections or \"all-linear\" is supported");
    *out = 0;
    for (size_t i = 0; i < lb_json_array_size(node); i++) {
        const char *name = lb_json_string(lb_json_at(node, i));
        uint32_t bit = 0;
        for (int p = 0; name && p < LB_PROJ_COUNT; p++) {
            if (strcmp(name, lb_projection_name((lb_projection)p)) == 0)
                bit = 1u << p;
        }
        if (bit == 0)
            return lb_fail(err, LB_EUNSUPPORTED, "target_modules", "'%.60s' is not supported",
                           name ? name : "(not a string)");
        *out |= bit;
    }
    return LB_OK;
}

static lb_status parse_object(const lb_json *root, lb_lora_config *out, lb_err *err)
{
    static const char *const unsupported[] = {
        "use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern",
        "layers_to_transform", "layers_pattern", "layer_replication", "fan_in_fan_out",
        "trainable_token_indices", "exclude_modules", "lora_bias", "target_parameters",
        "alora_invocation_tokens", "use_qalora", "loftq_config", "eva_config", "corda_config",
    };
    /* Initialisations with a name other than gaussian change the base weights too. */
    const lb_json *init = lb_json_get(root, "init_lora_weights");
    const char *init_name = lb_json_string(init);
    const char *bias = "none", *type = NULL;
    lb_status status = lb_json_need_string(root, "", "peft_type", &type, err);
    if (status == LB_OK && strcmp(type, "LORA") != 0)
        status = lb_fail(err, LB_EUNSUPPORTED, "peft_type", "'%.40s' is not supported; LORA is",
                         type);
    for (size_t i = 0; status == LB_OK && i < sizeof unsupported / sizeof *unsupported; i++)
        status = refuse(root, unsupported[i], err);
    if (status == LB_OK && init_name && strcmp(init_name, "gaussian") != 0)
        status = lb_fail(err, LB_EUNSUPPORTED, "init_lora_weights",
                         "'%.40s' changes the base weights, which is not supported", init_name);
    if (status == LB_OK)
        status = lb_json_opt_string(root, "", "bias", &bias, err);
    if (status == LB_OK && strcmp(bias, "none") != 0)
        status = lb_fail(err, LB_EUNSUPPORTED, "bias", "'%.40s' is not supported; none is", bias);
    if (status == LB_OK)
        status = lb_json_need_u32(root, "", "r", 1, LB_LORA_RANK_MAX, &out->rank, err);
    if (status == LB_OK)
        status = lb_json_need_f64(root, "", "lora_alpha", 1e-6, 1e9, &out->alpha, err);
    if (status == LB_OK)
        status = parse_targets(lb_json_get(root, "target_modules"), &out->targets, err);
    return status;
}

lb_status lb_lora_parse_config(const char *json, size_t length, lb_lora_config *out, lb_err *err)
{
    lb_json *root = NULL;
    lb_lora_config config = {0};
    lb_status status = lb_json_parse(json, length, &root, err);
    if (status == LB_OK && !lb_json_is_object(root))
        status = lb_fail(err, LB_EDATA, "adapter_config.json", "it does not hold an object");
    if (status == LB_OK)
        status = parse_object(root, &config, err);
    if (status == LB_OK)
        *out = config;
    lb_json_free(root);
    return status;
}

/* One stored tensor into its place; every value must be finite. */
static lb_status read_tensor(const lb_lora_tensor *t, const lb_st_tensor *stored, float *out,
                             lb_err *err)
{
    if (stored->rank != 2 || stored->shape[0] != t->rows || stored->shape[1] != t->cols)
        return lb_fail(err, LB_EDATA, t->name, "its shape is not [%u, %u]", t->rows, t->cols);
    if (stored->dtype != LB_ST_F32 && stored->dtype != LB_ST_BF16 && stored->dtype != LB_ST_F16)
        return lb_fail(err, LB_EDATA, t->name, "its dtype %s is none of F32, BF16 and F16",
                       lb_st_dtype_name(stored->dtype));
    size_t elements = (size_t)t->rows * t->cols;
    for (size_t i = 0; i < elements; i++) {
        uint16_t half = 0;
        if (stored->dtype == LB_ST_F32) {
            memcpy(&out[i], stored->data + 4 * i, sizeof *out);
        } else {
            memcpy(&half, stored->data + 2 * i, sizeof half);
            out[i] = stored->dtype == LB_ST_BF16 ? lb_bf16_to_f32(half) : lb_f16_to_f32(half);
        }
        if (!isfinite(out[i]))
            return lb_fail(err, LB_EDATA, t->name, "element %zu is not finite", i);
    }
    return LB_OK;
}

lb_status lb_lora_decode(const lb_lora_layout *layout, const uint8_t *safetensors, size_t length,
                         float *flat, lb_err *err)
{
    lb_safetensors *file = NULL;
    lb_status status = lb_safetensors_open(safetensors, length, HEADER_MAX, &file, err);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; status == LB_OK && i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        const lb_st_tensor *stored = lb_safetensors_find(file, t->name);
        if (!stored)
            status = lb_fail(err, LB_EDATA, t->name, "the adapter lacks this tensor");
        else
            status = read_tensor(t, stored, flat + t->offset, err);
    }
    /* Every wanted name was found, and names are unique: more tensors means strangers. */
    for (size_t i = 0; status == LB_OK && lb_safetensors_count(file) > layout->count &&
                       i < lb_safetensors_count(file); i++) {
        const char *name = lb_safetensors_at(file, i)->name;
        bool known = false;
        for (size_t j = 0; !known && j < layout->count; j++)
            known = strcmp(name, layout->tensors[j].name) == 0;
        if (!known)
            status = lb_fail(err, LB_EDATA, name, "the adapter has a tensor that its "
                             "configuration does not name");
    }
    lb_safetensors_close(file);
    return status;
}

lb_status lb_lora_load(const char *dir, const lb_model_config *model, lb_lora_layout *layout,
                       float **flat, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_mapping mapping = {0};
    lb_lora_config config;
    lb_lora_layout made = {0};
    float *values = NULL;
    lb_status status = lb_path_join(path, sizeof path, dir, "adapter_config.json", err);
    if (status == LB_OK)
        status = lb_file_read(path, CONFIG_MAX, &text, err);
    if (status == LB_OK)
        status = lb_lora_parse_config((const char *)text.data, text.length, &config, err);
    if (status == LB_OK)
        status = lb_lora_layout_create(model, &config, &made, err);
    if (status == LB_OK)
        status = lb_path_join(path, sizeof path, dir, "adapter_model.safetensors", err);
    if (status == LB_OK)
        status = lb_file_map(path, &mapping, err);
    if (status == LB_OK) {
        values = calloc(made.elements, sizeof *values);
        status = values ? lb_lora_decode(&made, mapping.data, mapping.length, values, err)
                        : lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu adapter elements",
                                  made.elements);
    }
    if (status == LB_OK) {
        *layout = made;
        *flat = values;
    } else {
        lb_lora_layout_free(&made);
        free(values);
    }
    lb_file_unmap(&mapping);
    lb_buf_free(&text);
    return status;
}
