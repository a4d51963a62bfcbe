/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/plan.h"

#include "common/base/rng.h"
#include "common/train/handshake.h"

#include <assert.h>
#include <string.h>

#define STEPS_MAX 1000000u
#define BATCH_MAX 65536u
#define GROUP_MAX 256u
#define UNITS_MAX 1024u
#define COMPLETION_MAX 131072u
#define FEISTEL_ROUNDS 6u

uint32_t lb_plan_prompts_per_unit(const lb_job_config *config)
{
    return config->batch_size / config->units_per_step;
}

uint32_t lb_plan_row_base(const lb_job_config *config, uint32_t unit)
{
    return unit * lb_plan_prompts_per_unit(config) * config->samples_per_prompt;
}

/* One pass of a balanced Feistel network over 2 * half_bits bits: a permutation of that domain, so
 * no table of the epoch's order is needed. */
static uint64_t feistel(uint64_t seed, uint32_t epoch, unsigned half_bits, uint64_t value)
{
    uint64_t mask = (1ull << half_bits) - 1;
    uint64_t left = value >> half_bits, right = value & mask;
    for (uint32_t round = 0; round < FEISTEL_ROUNDS; round++) {
        uint32_t counter[4] = {LB_RNG_SHUFFLE, epoch, round, (uint32_t)right};
        uint32_t word[4];
        lb_rng_block(seed, counter, word);
        uint64_t next = left ^ (word[0] & mask);
        left = right;
        right = next;
    }
    return left << half_bits | right;
}

/* Where the epoch's order puts `index`: the network is applied until it lands inside [0, rows),
 * which restricts the permutation to that range (cycle walking). */
static uint32_t permuted(uint64_t seed, uint32_t epoch, uint64_t rows, uint64_t index)
{
    unsigned half_bits = 1;
    while ((1ull << (2 * half_bits)) < rows)
        half_bits++;
    do {
        index = feistel(seed, epoch, half_bits, index);
    } while (index >= rows);
    return (uint32_t)index;
}

void lb_plan_unit(const lb_job_config *config, size_t rows, uint32_t step, uint32_t unit,
                  uint32_t *out)
{
    assert(rows > 0 && unit < config->units_per_step);
    uint32_t prompts = lb_plan_prompts_per_unit(config);
    uint64_t first = (uint64_t)step * config->batch_size + (uint64_t)unit * prompts;
    for (uint32_t i = 0; i < prompts; i++) {
        uint64_t position = first + i;
        out[i] = permuted(config->seed, (uint32_t)(position / rows), rows, position % rows);
    }
}

/* ---- the JSON form ---- */

static const char *const normalization_names[] = {
    [LB_NORM_TOKEN_MEAN] = "token_mean",
    [LB_NORM_SUM] = "sum",
};

static const char *const method_names[LB_METHOD_COUNT] = {
    [LB_METHOD_DISTILLATION] = "on_policy_distillation",
    [LB_METHOD_SUPERVISED] = "supervised",
};

const char *lb_method_name(lb_method method)
{
    return method_names[method];
}

lb_status lb_method_parse(const char *name, lb_method *out, lb_err *err)
{
    for (int i = 0; i < LB_METHOD_COUNT; i++) {
        if (strcmp(name, method_names[i]) == 0) {
            *out = (lb_method)i;
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EUNSUPPORTED, "method.type",
                   "'%.40s' is no method of this server; it has on_policy_distillation and "
                   "supervised", name);
}

/* The keys of both methods first, then those of distillation alone. */
static const char *const known_keys[] = {
    "max_steps", "n_epochs", "batch_size", "units_per_step", "learning_rate", "loss",
    "loss_normalization", "lora", "checkpoint_every",
    "samples_per_prompt", "max_completion_tokens", "temperature", "kl_coef", "discount",
    "clip_low", "clip_high", "beta", "log_ratio_cap", "allow_mismatch",
};
#define COMMON_KEYS 9u
#define KNOWN_KEYS (sizeof known_keys / sizeof *known_keys)

typedef struct key_check {
    const char *const *known;
    size_t count;
    const char *where;
    lb_err *err;
} key_check;

static lb_status check_key(void *arg, const char *key, const lb_json *value)
{
    const key_check *check = arg;
    (void)value;
    for (size_t i = 0; i < check->count; i++) {
        if (strcmp(key, check->known[i]) == 0)
            return LB_OK;
    }
    char field[LB_ERR_FIELD_MAX];
    lb_buf path = {.limit = sizeof field - 1};
    lb_buf_printf(&path, "%s.%.24s", check->where, key);
    lb_status status = lb_fail(check->err, LB_EINVAL, path.data ? (const char *)path.data : key,
                               "'%.40s' is not a key of %s", key, check->where);
    lb_buf_free(&path);
    return status;
}

static lb_status parse_lora(const lb_json *node, lb_lora_config *out, lb_err *err)
{
    static const char *const keys[] = {"r", "alpha", "target_modules"};
    const char *where = "lora";
    const lb_json *targets = NULL;
    key_check check = {keys, sizeof keys / sizeof *keys, where, err};
    lb_status status = lb_json_each(node, check_key, &check);
    if (status == LB_OK)
        status = lb_json_opt_u32(node, where, "r", 1, LB_LORA_RANK_MAX, &out->rank, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(node, where, "alpha", 1e-6, 1e6, &out->alpha, err);
    if (status == LB_OK)
        status = lb_json_opt_array(node, where, "target_modules", &targets, err);
    if (status != LB_OK || !targets)
        return status;
    out->targets = 0;
    for (size_t i = 0; i < lb_json_array_size(targets); i++) {
        const char *name = lb_json_string(lb_json_at(targets, i));
        uint32_t bit = 0;
        for (int p = 0; name && p < LB_PROJ_COUNT; p++) {
            if (strcmp(name, lb_projection_name((lb_projection)p)) == 0)
                bit = 1u << p;
        }
        if (bit == 0)
            return lb_fail(err, LB_EINVAL, "lora.target_modules",
                           "entry %zu is not a projection (q_proj, k_proj, v_proj, o_proj, "
                           "gate_proj, up_proj, down_proj)", i);
        out->targets |= bit;
    }
    if (out->targets == 0)
        return lb_fail(err, LB_EINVAL, "lora.target_modules", "names no projection");
    return LB_OK;
}

static lb_status parse_normalization(const char *name, lb_normalization *out, lb_err *err)
{
    for (int i = 0; i <= LB_NORM_SUM; i++) {
        if (strcmp(name, normalization_names[i]) == 0) {
            *out = (lb_normalization)i;
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EINVAL, "loss_normalization",
                   "'%.40s' is neither token_mean nor sum", name);
}

static lb_status parse_loss(const lb_json *node, const char *where, lb_job_config *out,
                            lb_err *err)
{
    const char *name = NULL, *normalization = NULL;
    lb_loss_kind kind = LB_LOSS_IMPORTANCE_SAMPLING;
    lb_status status = lb_json_opt_string(node, where, "loss", &name, err);
    if (status == LB_OK && name)
        status = lb_loss_parse(name, &kind, err);
    if (status == LB_OK && !name && out->method == LB_METHOD_SUPERVISED)
        kind = LB_LOSS_CROSS_ENTROPY;
    if (status == LB_OK && out->method == LB_METHOD_DISTILLATION && kind == LB_LOSS_CROSS_ENTROPY)
        status = lb_fail(err, LB_EUNSUPPORTED, "loss",
                         "cross_entropy trains on given completions: method.type supervised");
    if (status == LB_OK && out->method == LB_METHOD_SUPERVISED && kind != LB_LOSS_CROSS_ENTROPY)
        status = lb_fail(err, LB_EUNSUPPORTED, "loss",
                         "a supervised job has the loss cross_entropy");
    if (status != LB_OK)
        return status;
    out->loss = lb_loss_defaults(kind);
    status = lb_json_opt_f64(node, where, "kl_coef", 0, 1e3, &out->loss.kl_coef, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(node, where, "discount", 0, 1, &out->loss.discount, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(node, where, "clip_low", 0, 1e3, &out->loss.clip_low, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(node, where, "clip_high", 0, 1e3, &out->loss.clip_high, err);
    if (status == LB_OK && out->loss.clip_low > out->loss.clip_high)
        status = lb_fail(err, LB_EINVAL, "clip_low", "is above clip_high");
    if (status == LB_OK)
        status = lb_json_opt_f64(node, where, "beta", 0, 1e3, &out->loss.beta, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(node, where, "log_ratio_cap", 0.1, 80,
                                 &out->loss.log_ratio_cap, err);
    if (status == LB_OK)
        status = lb_json_opt_string(node, where, "loss_normalization", &normalization, err);
    if (status == LB_OK && normalization)
        status = parse_normalization(normalization, &out->normalization, err);
    return status;
}

static lb_status parse_allowed(const lb_json *node, const char *where, unsigned *out, lb_err *err)
{
    const lb_json *list = NULL;
    lb_status status = lb_json_opt_array(node, where, "allow_mismatch", &list, err);
    for (size_t i = 0; status == LB_OK && i < lb_json_array_size(list); i++) {
        const char *name = lb_json_string(lb_json_at(list, i));
        unsigned bit = 0;
        for (unsigned n = 0; name && n < LB_ALLOW_NAMES; n++)
            bit |= strcmp(name, lb_handshake_allow_name(n)) == 0 ? 1u << n : 0;
        if (!bit)
            return lb_fail(err, LB_EINVAL, "allow_mismatch", "entry %zu is neither stop_ids nor "
                           "chat_template", i);
        *out |= bit;
    }
    return status;
}

static lb_status parse_batch(const lb_json *node, const char *where, lb_job_config *out,
                             lb_err *err)
{
    lb_status status = lb_json_opt_u32(node, where, "max_steps", 1, STEPS_MAX, &out->max_steps,
                                       err);
    if (status == LB_OK)
        status = lb_json_opt_u32(node, where, "n_epochs", 1, STEPS_MAX, &out->n_epochs, err);
    if (status == LB_OK && out->n_epochs && lb_json_get(node, "max_steps"))
        status = lb_fail(err, LB_EINVAL, "n_epochs", "stands beside max_steps; one is enough");
    if (status == LB_OK)
        status = lb_json_opt_u32(node, where, "batch_size", 1, BATCH_MAX, &out->batch_size, err);
    if (status != LB_OK)
        return status;
    /* Without a word on units: the largest divisor of the batch up to 8. */
    out->units_per_step = out->batch_size < 8 ? out->batch_size : 8;
    while (out->batch_size % out->units_per_step != 0)
        out->units_per_step--;
    status = lb_json_opt_u32(node, where, "units_per_step", 1, UNITS_MAX, &out->units_per_step,
                             err);
    if (status == LB_OK && out->batch_size % out->units_per_step != 0)
        status = lb_fail(err, LB_EINVAL, "units_per_step", "%u does not divide batch_size %u",
                         out->units_per_step, out->batch_size);
    if (status == LB_OK)
        status = lb_json_opt_u32(node, where, "samples_per_prompt", 1, GROUP_MAX,
                                 &out->samples_per_prompt, err);
    if (status == LB_OK)
        status = lb_json_opt_u32(node, where, "max_completion_tokens", 1, COMPLETION_MAX,
                                 &out->max_completion_tokens, err);
    if (status == LB_OK)
        status = lb_json_opt_u32(node, where, "checkpoint_every", 1, STEPS_MAX,
                                 &out->checkpoint_every, err);
    return status;
}

static lb_job_config job_config_defaults(lb_method method, uint64_t seed)
{
    bool supervised = method == LB_METHOD_SUPERVISED;
    return (lb_job_config){
        .method = method,
        .seed = seed,
        .max_steps = 100,
        .batch_size = 32,
        .samples_per_prompt = supervised ? 1 : 4,
        .units_per_step = 8,
        .max_completion_tokens = 256,
        .learning_rate = 1e-4,
        .temperature = 1.0,
        .loss = lb_loss_defaults(supervised ? LB_LOSS_CROSS_ENTROPY : LB_LOSS_IMPORTANCE_SAMPLING),
        .normalization = LB_NORM_TOKEN_MEAN,
        .lora = {.rank = 16, .alpha = 32.0, .targets = LB_LORA_ALL_TARGETS},
        .checkpoint_every = 16,
    };
}

lb_status lb_job_config_parse(const lb_json *node, const char *where, lb_method method,
                              uint64_t seed, lb_job_config *out, lb_err *err)
{
    lb_job_config config = job_config_defaults(method, seed);
    if (!node) {
        *out = config;
        return LB_OK;
    }
    const lb_json *lora = NULL;
    key_check check = {known_keys, method == LB_METHOD_SUPERVISED ? COMMON_KEYS : KNOWN_KEYS, where,
                       err};
    lb_status status = lb_json_each(node, check_key, &check);
    if (status == LB_OK)
        status = parse_batch(node, where, &config, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(node, where, "learning_rate", 0, 10, &config.learning_rate, err);
    if (status == LB_OK)
        status = lb_json_opt_f64(node, where, "temperature", 0, 100, &config.temperature, err);
    if (status == LB_OK && config.temperature != 1.0)
        status = lb_fail(err, LB_EUNSUPPORTED, "temperature",
                         "a distillation samples at temperature 1: the importance ratio is taken "
                         "against the untempered distribution");
    if (status == LB_OK)
        status = parse_loss(node, where, &config, err);
    if (status == LB_OK)
        status = parse_allowed(node, where, &config.allow_mismatch, err);
    if (status == LB_OK)
        status = lb_json_opt_object(node, where, "lora", &lora, err);
    if (status == LB_OK && lora)
        status = parse_lora(lora, &config.lora, err);
    if (status == LB_OK)
        *out = config;
    return status;
}

lb_status lb_job_config_resolve(lb_job_config *config, size_t rows, lb_err *err)
{
    if (config->n_epochs == 0)
        return LB_OK;
    uint64_t steps = ((uint64_t)config->n_epochs * rows + config->batch_size - 1) /
                     config->batch_size;
    if (steps == 0 || steps > STEPS_MAX)
        return lb_fail(err, LB_EINVAL, "n_epochs", "%u epochs of %zu rows are %llu steps of %u; "
                       "1 .. %u are allowed", config->n_epochs, rows, (unsigned long long)steps,
                       config->batch_size, STEPS_MAX);
    config->max_steps = (uint32_t)steps;
    config->n_epochs = 0;
    return LB_OK;
}

static void write_lora(const lb_lora_config *lora, lb_jsonw *out)
{
    lb_jsonw_key(out, "lora");
    lb_jsonw_object(out);
    lb_jsonw_key(out, "r");
    lb_jsonw_u64(out, lora->rank);
    lb_jsonw_key(out, "alpha");
    lb_jsonw_f64(out, lora->alpha);
    lb_jsonw_key(out, "target_modules");
    lb_jsonw_array(out);
    for (int p = 0; p < LB_PROJ_COUNT; p++) {
        if (lora->targets & (1u << p))
            lb_jsonw_string(out, lb_projection_name((lb_projection)p));
    }
    lb_jsonw_array_end(out);
    lb_jsonw_object_end(out);
}

void lb_job_config_write(const lb_job_config *config, lb_jsonw *out)
{
    bool rollouts = config->method == LB_METHOD_DISTILLATION;
    const struct { const char *key; uint64_t value; bool written; } integers[] = {
        {"max_steps", config->max_steps, true},
        {"batch_size", config->batch_size, true},
        {"samples_per_prompt", config->samples_per_prompt, rollouts},
        {"units_per_step", config->units_per_step, true},
        {"max_completion_tokens", config->max_completion_tokens, rollouts},
        {"checkpoint_every", config->checkpoint_every, true},
    };
    const struct { const char *key; double value; bool written; } reals[] = {
        {"learning_rate", config->learning_rate, true},
        {"temperature", config->temperature, rollouts},
        {"kl_coef", config->loss.kl_coef, rollouts},
        {"discount", config->loss.discount, rollouts},
        {"clip_low", config->loss.clip_low, rollouts},
        {"clip_high", config->loss.clip_high, rollouts},
        {"beta", config->loss.beta, rollouts},
        {"log_ratio_cap", config->loss.log_ratio_cap, rollouts},
    };
    lb_jsonw_object(out);
    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
        if (!integers[i].written)
            continue;
        lb_jsonw_key(out, integers[i].key);
        lb_jsonw_u64(out, integers[i].value);
    }
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        if (!reals[i].written)
            continue;
        lb_jsonw_key(out, reals[i].key);
        lb_jsonw_f64(out, reals[i].value);
    }
    lb_jsonw_key(out, "loss");
    lb_jsonw_string(out, lb_loss_name(config->loss.kind));
    lb_jsonw_key(out, "loss_normalization");
    lb_jsonw_string(out, normalization_names[config->normalization]);
    write_lora(&config->lora, out);
    if (rollouts) {
        lb_jsonw_key(out, "allow_mismatch");
        lb_jsonw_array(out);
        for (unsigned n = 0; n < LB_ALLOW_NAMES; n++) {
            if (config->allow_mismatch & (1u << n))
                lb_jsonw_string(out, lb_handshake_allow_name(n));
        }
        lb_jsonw_array_end(out);
    }
    lb_jsonw_object_end(out);
}
