/* SPDX-License-Identifier: Apache-2.0
 *
 * PEFT's adapter folder: adapter_config.json and adapter_model.safetensors.
 */
#include "common/model/lora.h"

#include "common/base/json.h"
#include "common/io/file.h"
#include "common/io/safetensors.h"
#include "common/model/weights.h"

#include <ctype.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_FILE "adapter_config.json"
#define TENSORS_FILE "adapter_model.safetensors"
#define CONFIG_BYTES_MAX ((size_t)1 << 20)
#define HEADER_MAX ((size_t)16 << 20)
#define NAME_PREFIX "base_model.model.model.layers."
#define LAYER_DIGITS_MAX 4

/* ---- writing ---- */

lb_status lb_lora_encode(const lb_lora_layout *layout, const float *flat, lb_buf *safetensors,
                         lb_err *err)
{
    lb_st_source *sources = calloc(layout->count, sizeof *sources);
    if (!sources)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for an adapter's tensors");
    for (size_t i = 0; i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        sources[i] = (lb_st_source){.name = t->name, .dtype = LB_ST_F32, .rank = 2,
                                    .shape = {t->rows, t->cols}, .data = flat + t->offset};
    }
    lb_status status = lb_safetensors_write(sources, layout->count, NULL, 0, safetensors, err);
    free(sources);
    return status;
}

static void write_number(lb_jsonw *w, double value)
{
    if (value == floor(value) && fabs(value) < 1e15)
        lb_jsonw_i64(w, (int64_t)value);     /* PEFT declares lora_alpha an int */
    else
        lb_jsonw_f64(w, value);
}

void lb_lora_encode_config(const lb_lora_config *config, const char *base_model, lb_buf *json)
{
    /* The keys that every release of PEFT knows, in their order; NULL: written by hand below. */
    static const struct {
        const char *key, *value;
    } rows[] = {
        {"alpha_pattern", "{}"}, {"auto_mapping", "null"}, {"base_model_name_or_path", NULL},
        {"bias", "\"none\""}, {"fan_in_fan_out", "false"}, {"inference_mode", "true"},
        {"init_lora_weights", "true"}, {"layer_replication", "null"},
        {"layers_pattern", "null"}, {"layers_to_transform", "null"}, {"loftq_config", "{}"},
        {"lora_alpha", NULL}, {"lora_dropout", "0.0"}, {"megatron_config", "null"},
        {"megatron_core", "\"megatron.core\""}, {"modules_to_save", "null"},
        {"peft_type", "\"LORA\""}, {"r", NULL}, {"rank_pattern", "{}"}, {"revision", "null"},
        {"target_modules", NULL}, {"task_type", "\"CAUSAL_LM\""}, {"use_dora", "false"},
        {"use_rslora", "false"},
    };
    lb_jsonw w = {.out = json};
    lb_jsonw_object(&w);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lb_jsonw_key(&w, rows[i].key);
        if (rows[i].value) {
            lb_jsonw_raw(&w, rows[i].value, strlen(rows[i].value));
        } else if (strcmp(rows[i].key, "base_model_name_or_path") == 0) {
            lb_jsonw_string(&w, base_model);
        } else if (strcmp(rows[i].key, "lora_alpha") == 0) {
            write_number(&w, config->alpha);
        } else if (strcmp(rows[i].key, "r") == 0) {
            lb_jsonw_u64(&w, config->rank);
        } else {
            lb_jsonw_array(&w);
            for (lb_projection p = 0; p < LB_PROJ_COUNT; p++) {
                if (config->targets & 1u << p)
                    lb_jsonw_string(&w, lb_projection_name(p));
            }
            lb_jsonw_array_end(&w);
        }
    }
    lb_jsonw_object_end(&w);
}

/* ---- reading the config ---- */

/* Whether a key's value means that its feature is not in use. */
static bool is_neutral(const lb_json *value)
{
    const char *text = lb_json_string(value);
    return !value || lb_json_is_null(value) || (lb_json_is_bool(value) && !lb_json_bool(value)) ||
           (lb_json_is_object(value) && lb_json_object_size(value) == 0) ||
           (lb_json_is_array(value) && lb_json_array_size(value) == 0) || (text && !*text);
}

/* Initialisations after which the base weights are still the published ones. */
static bool keeps_base(const lb_json *init)
{
    static const char *const words[] = {"gaussian", "eva", "orthogonal"};
    const char *text = lb_json_string(init);
    if (!init || lb_json_is_null(init) || lb_json_is_bool(init))
        return true;
    for (size_t i = 0; text && i < sizeof words / sizeof *words; i++) {
        if (strcmp(text, words[i]) == 0)
            return true;
    }
    return false;
}

static lb_status refuse_unsupported(const lb_json *root, lb_err *err)
{
    static const char *const keys[] = {
        "use_dora", "use_rslora", "use_qalora", "use_bdlora", "lora_bias", "fan_in_fan_out",
        "modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform",
        "layers_pattern", "layer_replication", "exclude_modules", "target_parameters",
        "trainable_token_indices", "alora_invocation_tokens", "megatron_config", "loftq_config",
        "arrow_config", "kasa_config", "velora_config", "monteclora_config",
    };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!is_neutral(lb_json_get(root, keys[i])))
            return lb_fail(err, LB_EUNSUPPORTED, keys[i], "adapters with %s are not supported",
                           keys[i]);
    }
    const lb_json *bias = lb_json_get(root, "bias");
    if (bias && (!lb_json_string(bias) || strcmp(lb_json_string(bias), "none") != 0))
        return lb_fail(err, LB_EUNSUPPORTED, "bias", "only \"none\" is supported");
    if (!keeps_base(lb_json_get(root, "init_lora_weights")))
        return lb_fail(err, LB_EUNSUPPORTED, "init_lora_weights",
                       "this initialisation changes the base weights");
    return LB_OK;
}

static lb_status parse_target(const char *name, uint32_t *targets, lb_err *err)
{
    for (lb_projection p = 0; name && p < LB_PROJ_COUNT; p++) {
        if (strcmp(name, lb_projection_name(p)) == 0) {
            *targets |= 1u << p;
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EUNSUPPORTED, "target_modules", "'%.60s' is not one of the linear "
                   "projections q, k, v, o, gate, up, down", name ? name : "(not a string)");
}

static lb_status parse_targets(const lb_json *node, uint32_t *targets, lb_err *err)
{
    const char *text = lb_json_string(node);
    lb_status status = LB_OK;
    if (text) {
        if (strcmp(text, "all-linear") != 0)
            return lb_fail(err, LB_EUNSUPPORTED, "target_modules",
                           "of strings only \"all-linear\" is supported, not a pattern");
        *targets = LB_LORA_ALL_TARGETS;
        return LB_OK;
    }
    if (!lb_json_is_array(node) || lb_json_array_size(node) == 0)
        return lb_fail(err, LB_EINVAL, "target_modules", "a list of module names is needed");
    for (size_t i = 0; status == LB_OK && i < lb_json_array_size(node); i++)
        status = parse_target(lb_json_string(lb_json_at(node, i)), targets, err);
    return status;
}

lb_status lb_lora_parse_config(const char *json, size_t length, lb_lora_config *out, lb_err *err)
{
    lb_json *root = NULL;
    lb_lora_config config = {0};
    const char *type = NULL;
    lb_status status = lb_json_parse(json, length, &root, err);
    if (status == LB_OK && !lb_json_is_object(root))
        status = lb_fail(err, LB_EDATA, NULL, "the adapter's config is not an object");
    if (status == LB_OK)
        status = lb_json_need_string(root, "", "peft_type", &type, err);
    if (status == LB_OK && strcmp(type, "LORA") != 0)
        status = lb_fail(err, LB_EUNSUPPORTED, "peft_type", "'%.40s' is not LORA", type);
    if (status == LB_OK)
        status = lb_json_need_u32(root, "", "r", 1, LB_LORA_RANK_MAX, &config.rank, err);
    if (status == LB_OK)
        status = lb_json_need_f64(root, "", "lora_alpha", DBL_MIN, 1e6, &config.alpha, err);
    if (status == LB_OK)
        status = refuse_unsupported(root, err);
    if (status == LB_OK)
        status = parse_targets(lb_json_get(root, "target_modules"), &config.targets, err);
    if (status == LB_OK)
        *out = config;
    lb_json_free(root);
    return status;
}

/* ---- reading the tensors ---- */

/* The layout's tensor of a name. The layer's number is read off the name, so that a file of many
 * foreign names costs a few comparisons each. */
static const lb_lora_tensor *find_name(const lb_lora_layout *layout, const char *name)
{
    size_t per_layer = layout->count / layout->layers, layer = 0;
    const char *digits = name + strlen(NAME_PREFIX);
    if (strncmp(name, NAME_PREFIX, strlen(NAME_PREFIX)) != 0)
        return NULL;
    for (int i = 0; i < LAYER_DIGITS_MAX && isdigit((unsigned char)digits[i]); i++)
        layer = layer * 10 + (size_t)(digits[i] - '0');
    if (layer >= layout->layers)
        return NULL;
    for (size_t i = layer * per_layer; i < (layer + 1) * per_layer; i++) {
        if (strcmp(layout->tensors[i].name, name) == 0)
            return &layout->tensors[i];
    }
    return NULL;
}

static lb_status decode_tensor(const lb_lora_layout *layout, const lb_st_tensor *source,
                               float *flat, lb_err *err)
{
    const lb_lora_tensor *t = find_name(layout, source->name);
    if (!t)
        return lb_fail(err, LB_EDATA, source->name, "the adapter has no place for this tensor");
    if (!lb_st_is_float(source))
        return lb_fail(err, LB_EDATA, source->name, "%s is not F32, BF16 or F16",
                       lb_st_dtype_name(source->dtype));
    if (source->rank != 2 || source->shape[0] != t->rows || source->shape[1] != t->cols)
        return lb_fail(err, LB_EDATA, source->name, "the shape is not [%u, %u]", t->rows,
                       t->cols);
    lb_st_expand(source, flat + t->offset);
    for (size_t i = 0; i < (size_t)t->rows * t->cols; i++) {
        if (!isfinite(flat[t->offset + i]))
            return lb_fail(err, LB_EDATA, source->name, "element %zu is not finite", i);
    }
    return LB_OK;
}

static lb_status name_missing(const lb_lora_layout *layout, const lb_safetensors *file,
                              lb_err *err)
{
    for (size_t i = 0; i < layout->count; i++) {
        if (!lb_safetensors_find(file, layout->tensors[i].name))
            return lb_fail(err, LB_EDATA, layout->tensors[i].name, "the tensor is missing");
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
    for (size_t i = 0; status == LB_OK && i < lb_safetensors_count(file); i++)
        status = decode_tensor(layout, lb_safetensors_at(file, i), flat, err);
    /* Names are unique in a file, so equal counts mean that none is missing. */
    if (status == LB_OK && lb_safetensors_count(file) != layout->count)
        status = name_missing(layout, file, err);
    lb_safetensors_close(file);
    return status;
}

static lb_status load_config(const char *dir, lb_lora_config *out, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_buf text = {0};
    lb_status status = lb_path_join(path, sizeof path, dir, CONFIG_FILE, err);
    if (status == LB_OK)
        status = lb_file_read(path, CONFIG_BYTES_MAX, &text, err);
    if (status == LB_OK) {
        status = lb_lora_parse_config((const char *)text.data, text.length, out, err);
        if (status != LB_OK)
            status = lb_err_wrap(err, "%.200s", path);
    }
    lb_buf_free(&text);
    return status;
}

lb_status lb_lora_load(const char *dir, const lb_model_config *model, lb_lora_layout *layout,
                       float **flat, lb_err *err)
{
    char path[LB_PATH_MAX];
    lb_lora_config config;
    lb_lora_layout made = {0};
    lb_mapping mapping = {0};
    float *values = NULL;
    lb_err detail = {0};
    lb_status status = load_config(dir, &config, &detail);
    if (status == LB_OK)
        status = lb_lora_layout_create(model, &config, &made, &detail);
    if (status == LB_OK)
        status = lb_path_join(path, sizeof path, dir, TENSORS_FILE, &detail);
    if (status == LB_OK)
        status = lb_file_map(path, &mapping, &detail);
    if (status == LB_OK) {
        values = calloc(made.elements, sizeof *values);
        status = values ? lb_lora_decode(&made, mapping.data, mapping.length, values, &detail)
                        : lb_fail(&detail, LB_ENOMEM, NULL, "no memory for an adapter");
        if (status != LB_OK)
            status = lb_err_wrap(&detail, "%.200s", path);
    }
    lb_file_unmap(&mapping);
    if (status == LB_OK) {
        *layout = made;
        *flat = values;
        return LB_OK;
    }
    lb_lora_layout_free(&made);
    free(values);
    if (err)
        *err = detail;
    return status;
}
