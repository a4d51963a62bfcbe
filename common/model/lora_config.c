/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"
#include "common/model/lora_impl.h"
#include "common/model/lora_pattern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALPHA_MIN 1e-6
#define ALPHA_MAX 1e9
/* What a file's patterns may cost in steps, some tenths of a second. A pattern with the whole name
 * of each module of a model of 80 layers takes a third of it. */
#define MATCH_BUDGET (1u << 25)

/* ---- writing ---- */

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
    lb_buf_puts(json, ",\"task_type\":\"CAUSAL_LM\",\"use_dora\":false,\"use_rslora\":");
    lb_buf_puts(json, config->rslora ? "true}" : "false}");
}

/* ---- reading: the keys that stand for all modules ---- */

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

static lb_status refuse_unsupported(const lb_json *root, lb_err *err)
{
    static const char *const unsupported[] = {
        "use_dora", "modules_to_save", "layer_replication", "fan_in_fan_out", "lora_bias",
        "exclude_modules", "trainable_token_indices", "target_parameters", "megatron_config",
        "alora_invocation_tokens", "use_qalora", "use_bdlora", "loftq_config", "eva_config",
        "corda_config", "lora_ga_config", "velora_config", "monteclora_config", "arrow_config",
        "kasa_config", "ensure_weight_tying", "target_modules_to_tie",
    };
    /* The other named initialisations of A and B change the base weights too. */
    static const char *const harmless[] = {"gaussian", "orthogonal"};
    const char *init = lb_json_string(lb_json_get(root, "init_lora_weights"));
    bool known = !init;
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < sizeof unsupported / sizeof *unsupported; i++)
        status = refuse(root, unsupported[i], err);
    for (size_t i = 0; init && i < sizeof harmless / sizeof *harmless; i++)
        known = known || strcmp(init, harmless[i]) == 0;
    if (status == LB_OK && !known)
        status = lb_fail(err, LB_EUNSUPPORTED, "init_lora_weights",
                         "'%.40s' changes the base weights, which is not supported", init);
    return status;
}

static lb_status parse_common(const lb_json *root, lb_lora_config *out, lb_err *err)
{
    const char *bias = "none", *type = NULL;
    lb_status status = lb_json_need_string(root, "", "peft_type", &type, err);
    if (status == LB_OK && strcmp(type, "LORA") != 0)
        status = lb_fail(err, LB_EUNSUPPORTED, "peft_type", "'%.40s' is not supported; LORA is",
                         type);
    if (status == LB_OK)
        status = refuse_unsupported(root, err);
    if (status == LB_OK)
        status = lb_json_opt_string(root, "", "bias", &bias, err);
    if (status == LB_OK && strcmp(bias, "none") != 0)
        status = lb_fail(err, LB_EUNSUPPORTED, "bias", "'%.40s' is not supported; none is", bias);
    if (status == LB_OK)
        status = lb_json_need_u32(root, "", "r", 1, LB_LORA_RANK_MAX, &out->rank, err);
    if (status == LB_OK)
        status = lb_json_need_f64(root, "", "lora_alpha", ALPHA_MIN, ALPHA_MAX, &out->alpha, err);
    if (status == LB_OK)
        status = lb_json_opt_bool(root, "", "use_rslora", &out->rslora, err);
    return status;
}

/* ---- reading: which modules, with which rank and scale ---- */

typedef struct module_reader {
    const lb_json *root;
    const lb_model_config *model;
    lb_lora_config config;
    lb_lora_module *modules;   /* [slots] */
    char (*paths)[LB_MODULE_PATH];
    size_t slots;
    uint64_t budget;
    lb_err *err;
} module_reader;

/* PEFT takes a name of a list literally: the module's path, or what of it follows a dot. */
static bool is_named(const char *path, const char *name)
{
    size_t length = strlen(path), tail = strlen(name);
    if (tail > length || strcmp(path + length - tail, name) != 0)
        return false;
    return tail == length || path[length - tail - 1] == '.';
}

static lb_status mark_listed(module_reader *r, const lb_json *list)
{
    for (size_t i = 0; i < lb_json_array_size(list); i++) {
        const char *name = lb_json_string(lb_json_at(list, i));
        bool found = false;
        for (size_t m = 0; name && *name && m < r->slots; m++) {
            if (is_named(r->paths[m], name)) {
                r->modules[m].rank = r->config.rank;
                found = true;
            }
        }
        if (!found)
            return lb_fail(r->err, LB_EUNSUPPORTED, "target_modules",
                           "'%.80s' is no projection of this model that can be adapted",
                           name ? name : "(not a string)");
        if (r->budget < r->slots)
            return lb_fail(r->err, LB_ETOOBIG, "target_modules", "it has too many entries");
        r->budget -= r->slots;
    }
    return LB_OK;
}

static lb_status mark_matching(module_reader *r, const char *pattern)
{
    static const char *const others[] = {"lm_head", "model.embed_tokens"};
    bool found = false;
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < sizeof others / sizeof *others; i++) {
        status = lb_pattern_match(pattern, LB_PATTERN_WHOLE, others[i], "target_modules",
                                  &r->budget, &found, r->err);
        if (status == LB_OK && found)
            status = lb_fail(r->err, LB_EUNSUPPORTED, "target_modules",
                             "'%.80s' matches %s, which cannot be adapted", pattern, others[i]);
    }
    for (size_t m = 0; status == LB_OK && m < r->slots; m++) {
        status = lb_pattern_match(pattern, LB_PATTERN_WHOLE, r->paths[m], "target_modules",
                                  &r->budget, &found, r->err);
        if (status == LB_OK && found)
            r->modules[m].rank = r->config.rank;
    }
    return status;
}

static lb_status mark_targets(module_reader *r)
{
    const lb_json *node = lb_json_get(r->root, "target_modules");
    const char *word = lb_json_string(node);
    if (word && strlen(word) != lb_json_string_length(node))
        return lb_fail(r->err, LB_EUNSUPPORTED, "target_modules", "it holds a NUL");
    if (word && strcmp(word, "all-linear") == 0) {
        for (size_t m = 0; m < r->slots; m++)
            r->modules[m].rank = r->config.rank;
        return LB_OK;
    }
    if (word)
        return mark_matching(r, word);
    if (!lb_json_is_array(node) || lb_json_array_size(node) == 0)
        return lb_fail(r->err, LB_EUNSUPPORTED, "target_modules", "only a list of names, "
                       "\"all-linear\" or a regular expression is supported");
    return mark_listed(r, node);
}

/* Which name the list of layers has in its parent: here it is always "layers". */
static lb_status check_layers_pattern(const module_reader *r)
{
    const lb_json *node = lb_json_get(r->root, "layers_pattern");
    size_t count = lb_json_is_array(node) ? lb_json_array_size(node) : node != NULL;
    for (size_t i = 0; i < count; i++) {
        const lb_json *one = lb_json_is_array(node) ? lb_json_at(node, i) : node;
        const char *word = lb_json_string(one);
        if (lb_json_is_null(one) || (word && (!*word || strcmp(word, "layers") == 0)))
            continue;
        return lb_fail(r->err, LB_EUNSUPPORTED, "layers_pattern",
                       "'%.40s' is not supported; layers is", word ? word : "(not a string)");
    }
    return LB_OK;
}

/* Takes the modules of other layers away. Null and an empty list: all layers stay. */
static lb_status keep_layers(module_reader *r)
{
    const lb_json *node = lb_json_get(r->root, "layers_to_transform");
    bool wanted[LB_CONFIG_LAYERS_MAX] = {false};
    lb_status status = check_layers_pattern(r);
    if (status != LB_OK || !node || lb_json_is_null(node) ||
        (lb_json_is_array(node) && lb_json_array_size(node) == 0))
        return status;
    if (lb_json_is_string(lb_json_get(r->root, "target_modules")))
        return lb_fail(r->err, LB_EUNSUPPORTED, "layers_to_transform",
                       "it stands beside a list of target_modules only");
    size_t count = lb_json_is_array(node) ? lb_json_array_size(node) : 1;
    for (size_t i = 0; i < count; i++) {
        const lb_json *one = lb_json_is_array(node) ? lb_json_at(node, i) : node;
        if (!lb_json_is_integer(one) || lb_json_integer(one) < 0 ||
            lb_json_integer(one) >= r->model->layers)
            return lb_fail(r->err, LB_EDATA, "layers_to_transform",
                           "entry %zu is not one of the model's %u layers", i, r->model->layers);
        wanted[lb_json_integer(one)] = true;
    }
    for (size_t m = 0; m < r->slots; m++) {
        if (!wanted[m / LB_PROJ_COUNT])
            r->modules[m].rank = 0;
    }
    return LB_OK;
}

/* Looks for the first pattern of an object that matches a module. */
typedef struct pattern_search {
    module_reader *reader;
    const char *field, *path;
    const lb_json *value;      /* of the pattern found, or NULL */
} pattern_search;

static lb_status try_pattern(void *arg, const char *key, const lb_json *value)
{
    pattern_search *s = arg;
    bool found = false;
    lb_status status = lb_pattern_match(key, LB_PATTERN_TAIL, s->path, s->field,
                                        &s->reader->budget, &found, s->reader->err);
    if (status == LB_OK && found && !s->value)
        s->value = value;
    return status;
}

static lb_status apply_patterns(module_reader *r, const lb_json *ranks, const lb_json *alphas,
                                size_t m)
{
    lb_lora_module *module = &r->modules[m];
    pattern_search rank = {r, "rank_pattern", r->paths[m], NULL};
    pattern_search alpha = {r, "alpha_pattern", r->paths[m], NULL};
    double value = r->config.alpha;
    lb_status status = lb_json_each(ranks, try_pattern, &rank);
    if (status == LB_OK)
        status = lb_json_each(alphas, try_pattern, &alpha);
    if (status != LB_OK)
        return status;
    if (rank.value) {
        int64_t wanted = lb_json_is_integer(rank.value) ? lb_json_integer(rank.value) : 0;
        if (wanted < 1 || wanted > LB_LORA_RANK_MAX)
            return lb_fail(r->err, LB_EINVAL, "rank_pattern",
                           "the rank of %.60s is not an integer in 1 .. %u", r->paths[m],
                           LB_LORA_RANK_MAX);
        module->rank = (uint32_t)wanted;
    }
    if (alpha.value) {
        value = lb_json_is_number(alpha.value) ? lb_json_number(alpha.value) : 0;
        if (!(value >= ALPHA_MIN && value <= ALPHA_MAX))
            return lb_fail(r->err, LB_EINVAL, "alpha_pattern",
                           "the alpha of %.60s is not a number above 0", r->paths[m]);
    }
    module->scale = lb_lora_scale(value, module->rank, r->config.rslora);
    return LB_OK;
}

static lb_status read_modules(module_reader *r)
{
    const lb_json *ranks = NULL, *alphas = NULL;
    for (size_t m = 0; m < r->slots; m++)
        lb_lora_module_path((uint32_t)(m / LB_PROJ_COUNT), (lb_projection)(m % LB_PROJ_COUNT),
                            r->paths[m]);
    lb_status status = mark_targets(r);
    if (status == LB_OK)
        status = keep_layers(r);
    if (status == LB_OK)
        status = lb_json_opt_object(r->root, "", "rank_pattern", &ranks, r->err);
    if (status == LB_OK)
        status = lb_json_opt_object(r->root, "", "alpha_pattern", &alphas, r->err);
    for (size_t m = 0; status == LB_OK && m < r->slots; m++) {
        if (r->modules[m].rank == 0)
            continue;
        r->config.targets |= 1u << m % LB_PROJ_COUNT;
        status = apply_patterns(r, ranks, alphas, m);
    }
    if (status == LB_OK && r->config.targets == 0)
        status = lb_fail(r->err, LB_EUNSUPPORTED, "target_modules",
                         "it matches no projection of the model");
    return status;
}

static lb_status parse_object(const lb_json *root, const lb_model_config *model,
                              lb_lora_layout *out, lb_err *err)
{
    module_reader r = {.root = root, .model = model, .budget = MATCH_BUDGET, .err = err,
                       .slots = (size_t)model->layers * LB_PROJ_COUNT};
    lb_status status = parse_common(root, &r.config, err);
    if (status != LB_OK)
        return status;
    r.modules = calloc(r.slots, sizeof *r.modules);
    r.paths = calloc(r.slots, sizeof *r.paths);
    status = r.modules && r.paths ? read_modules(&r)
                                  : lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu modules",
                                            r.slots);
    if (status == LB_OK) {
        status = lb_lora_layout_build(model, &r.config, r.modules, out, err);
        r.modules = NULL;
    }
    free(r.modules);
    free(r.paths);
    return status;
}

lb_status lb_lora_layout_parse(const char *json, size_t length, const lb_model_config *model,
                               lb_lora_layout *out, lb_err *err)
{
    lb_json *root = NULL;
    lb_status status = lb_json_parse(json, length, &root, err);
    if (status != LB_OK) {
        (void)lb_err_wrap(err, "adapter_config.json");
        if (err && !err->field[0])
            snprintf(err->field, sizeof err->field, "adapter_config.json");
        return status;
    }
    if (!lb_json_is_object(root))
        status = lb_fail(err, LB_EDATA, "adapter_config.json", "it does not hold an object");
    else
        status = parse_object(root, model, out, err);
    lb_json_free(root);
    return status;
}
