/* SPDX-License-Identifier: Apache-2.0
 *
 * adapter_config.json: what we write, and which modules, ranks and scales of PEFT's keys we read.
 */
#include "common/model/lora.h"
#include "common/model/lora_pattern.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const lb_model_config tiny = {
    .family = LB_FAMILY_QWEN3, .vocab = 11, .hidden = 6, .layers = 3, .heads = 4, .kv_heads = 2,
    .head_dim = 2, .mlp = 10, .max_positions = 16, .rms_eps = 1e-6, .tied = true, .qk_norm = true,
};

#define Q (1u << LB_PROJ_Q)
#define ATTENTION (Q | 1u << LB_PROJ_K | 1u << LB_PROJ_V | 1u << LB_PROJ_O)
#define ALL LB_LORA_ALL_TARGETS
#define BASE "\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8"
#define WITH(more) "{" BASE ",\"target_modules\":[\"q_proj\"]," more "}"
#define TARGETS(value) "{" BASE ",\"target_modules\":" value "}"

static lb_status parse(const char *json, lb_lora_layout *out, lb_err *err)
{
    return lb_lora_layout_parse(json, strlen(json), &tiny, out, err);
}

static void accept(const char *json, lb_lora_layout *out)
{
    lb_err err = {0};
    if (parse(json, out, &err) != LB_OK)
        fail_msg("%s: field '%s': %s", json, err.field, err.message);
}

static uint32_t targets_of(const lb_lora_layout *layout, uint32_t layer)
{
    uint32_t targets = 0;
    for (int p = 0; p < LB_PROJ_COUNT; p++)
        targets |= lb_lora_find_module(layout, layer, (lb_projection)p) ? 1u << p : 0;
    return targets;
}

/* ---- writing ---- */

static void test_text(void **state)
{
    static const char want[] =
        "{\"alpha_pattern\":{},\"auto_mapping\":null,\"base_model_name_or_path\":\"a\\\"b\","
        "\"bias\":\"none\",\"fan_in_fan_out\":false,\"inference_mode\":true,"
        "\"init_lora_weights\":true,\"layer_replication\":null,\"layers_pattern\":null,"
        "\"layers_to_transform\":null,\"loftq_config\":{},\"lora_alpha\":32,"
        "\"lora_dropout\":0.0,\"megatron_config\":null,\"megatron_core\":\"megatron.core\","
        "\"modules_to_save\":null,\"peft_type\":\"LORA\",\"r\":16,\"rank_pattern\":{},"
        "\"revision\":null,\"target_modules\":[\"q_proj\",\"k_proj\",\"v_proj\",\"o_proj\","
        "\"gate_proj\",\"up_proj\",\"down_proj\"],\"task_type\":\"CAUSAL_LM\","
        "\"use_dora\":false,\"use_rslora\":false}";
    (void)state;
    lb_buf json = {0};
    lb_lora_encode_config(&(lb_lora_config){16, 32, ALL, false}, "a\"b", &json);
    assert_int_equal(json.status, LB_OK);
    assert_string_equal((char *)json.data, want);
    lb_buf_free(&json);
}

static void test_round_trip(void **state)
{
    static const lb_lora_config cases[] = {
        {1, 0.5, Q, false}, {16, 32, ALL, true}, {LB_LORA_RANK_MAX, 12.25, 1u << LB_PROJ_DOWN, 0},
        {8, 16, 1u << LB_PROJ_K | 1u << LB_PROJ_UP, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_buf json = {0};
        lb_lora_layout got = {0}, want = {0};
        lb_lora_encode_config(&cases[i], "base", &json);
        accept((char *)json.data, &got);
        assert_int_equal(lb_lora_layout_create(&tiny, &cases[i], &want, NULL), LB_OK);
        assert_int_equal(got.config.rank, cases[i].rank);
        assert_true(got.config.alpha == cases[i].alpha);
        assert_int_equal(got.config.targets, cases[i].targets);
        assert_int_equal(got.config.rslora, cases[i].rslora);
        assert_int_equal(got.count, want.count);
        assert_memory_equal(got.tensors, want.tensors, want.count * sizeof *want.tensors);
        for (size_t m = 0; m < 3 * LB_PROJ_COUNT; m++)
            assert_true(got.modules[m].scale == want.modules[m].scale);
        lb_lora_layout_free(&got);
        lb_lora_layout_free(&want);
        lb_buf_free(&json);
    }
}

/* ---- reading: which modules ---- */

static void test_targets(void **state)
{
    static const struct {
        const char *json;
        uint32_t targets[3];   /* of each layer */
    } cases[] = {
        {TARGETS("\"all-linear\""), {ALL, ALL, ALL}},
        {TARGETS("[\"up_proj\",\"q_proj\",\"q_proj\"]"),
         {1u << LB_PROJ_UP | Q, 1u << LB_PROJ_UP | Q, 1u << LB_PROJ_UP | Q}},
        {TARGETS("[\"self_attn.q_proj\"]"), {Q, Q, Q}},
        {TARGETS("[\"1.self_attn.q_proj\",\"model.layers.2.mlp.up_proj\"]"),
         {0, Q, 1u << LB_PROJ_UP}},
        {TARGETS("\".*q_proj\""), {Q, Q, Q}},
        {TARGETS("\".*\\\\.self_attn\\\\.(q|k|v|o)_proj$\""), {ATTENTION, ATTENTION, ATTENTION}},
        {TARGETS("\"^model\\\\.layers\\\\.(0|[2-9])\\\\.(?:self_attn|mlp)\\\\.q_proj\""),
         {Q, 0, Q}},
        {TARGETS("\"model.layers.[\\\\d]{1,}.(?:self_attn|mlp).(?:(?:q_proj|k_proj|v_proj|o_proj"
                 "|gate_proj|up_proj|down_proj))\""), {ALL, ALL, ALL}},
        {WITH("\"layers_to_transform\":1"), {0, Q, 0}},
        {WITH("\"layers_to_transform\":[2,0],\"layers_pattern\":\"layers\""), {Q, 0, Q}},
        {WITH("\"layers_to_transform\":[],\"layers_pattern\":[]"), {Q, Q, Q}},
        {WITH("\"use_dora\":null,\"modules_to_save\":[],\"rank_pattern\":{},\"unknown\":7"),
         {Q, Q, Q}},
        {WITH("\"init_lora_weights\":\"gaussian\",\"bias\":\"none\",\"fan_in_fan_out\":false"),
         {Q, Q, Q}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_lora_layout layout = {0};
        accept(cases[i].json, &layout);
        for (uint32_t layer = 0; layer < 3; layer++)
            assert_int_equal(targets_of(&layout, layer), cases[i].targets[layer]);
        assert_int_equal(layout.config.targets,
                         cases[i].targets[0] | cases[i].targets[1] | cases[i].targets[2]);
        lb_lora_layout_free(&layout);
    }
}

/* ---- reading: rank and scale ---- */

static void test_patterns(void **state)
{
    static const struct {
        const char *more;
        uint32_t layer;
        lb_projection projection;
        uint32_t rank;
        double scale;
    } cases[] = {
        {"\"use_rslora\":true", 0, LB_PROJ_Q, 4, 4.0},
        {"\"use_rslora\":false", 0, LB_PROJ_Q, 4, 2.0},
        {"\"rank_pattern\":{\"q_proj\":16}", 2, LB_PROJ_Q, 16, 0.5},
        {"\"rank_pattern\":{\"q_proj\":16}", 2, LB_PROJ_K, 4, 2.0},
        {"\"rank_pattern\":{\"_proj\":16}", 2, LB_PROJ_Q, 4, 2.0},     /* no whole name */
        {"\"rank_pattern\":{\"q_proj\":16},\"use_rslora\":true", 0, LB_PROJ_Q, 16, 2.0},
        {"\"alpha_pattern\":{\"layers.1.self_attn.q_proj\":3.5}", 1, LB_PROJ_Q, 4, 0.875},
        {"\"alpha_pattern\":{\"layers.1.self_attn.q_proj\":3.5}", 0, LB_PROJ_Q, 4, 2.0},
        {"\"alpha_pattern\":{\"model.layers.0.mlp.up_proj\":1},\"rank_pattern\":{\"up_proj\":2}",
         0, LB_PROJ_UP, 2, 0.5},
        {"\"rank_pattern\":{\"0.mlp.up_proj\":1,\"up_proj\":2}", 0, LB_PROJ_UP, 1, 8.0},
        {"\"rank_pattern\":{\"up_proj\":2,\"0.mlp.up_proj\":1}", 0, LB_PROJ_UP, 2, 4.0},
        {"\"rank_pattern\":{\"layers\\\\.[12]\\\\..*proj\":8}", 1, LB_PROJ_O, 8, 1.0},
        {"\"rank_pattern\":{\"layers\\\\.[12]\\\\..*proj\":8}", 0, LB_PROJ_O, 4, 2.0},
        {"\"rank_pattern\":{\"^layers.1.*\":8}", 1, LB_PROJ_O, 4, 2.0},
        {"\"rank_pattern\":{\"^model.layers.1.*\":8}", 1, LB_PROJ_O, 8, 1.0},
        {"\"rank_pattern\":{\"q|o_proj\":8}", 1, LB_PROJ_O, 8, 1.0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[512];
        lb_lora_layout layout = {0};
        snprintf(json, sizeof json, TARGETS("\"all-linear\",%s"), cases[i].more);
        accept(json, &layout);
        const lb_lora_module *m =
            lb_lora_find_module(&layout, cases[i].layer, cases[i].projection);
        assert_non_null(m);
        if (m->rank != cases[i].rank || m->scale != (float)cases[i].scale)
            fail_msg("%s: rank %u, scale %g", cases[i].more, m->rank, (double)m->scale);
        const lb_lora_tensor *a = lb_lora_find(&layout, cases[i].layer, cases[i].projection, 0);
        const lb_lora_tensor *b = lb_lora_find(&layout, cases[i].layer, cases[i].projection, 1);
        assert_int_equal(a->rows, cases[i].rank);
        assert_int_equal(b->cols, cases[i].rank);
        size_t offset = 0;
        for (size_t t = 0; t < layout.count; t++) {
            assert_int_equal(layout.tensors[t].offset, offset);
            offset += (size_t)layout.tensors[t].rows * layout.tensors[t].cols;
        }
        assert_int_equal(layout.elements, offset);
        lb_lora_layout_free(&layout);
    }
}

/* What Python's re says of each pair. */
static void test_pattern_syntax(void **state)
{
    static const struct {
        const char *pattern, *text;
        int whole;             /* -1: refused */
    } cases[] = {
        {"", "", 1}, {"", "a", 0}, {"a", "a", 1}, {"a", "aa", 0}, {"a*", "", 1}, {"a*", "aaa", 1},
        {"a+", "", 0}, {"a+?", "aa", 1}, {"a?b", "b", 1}, {"a??b", "aab", 0}, {"a{2}", "aa", 1},
        {"a{2}", "aaa", 0}, {"a{2,}", "aaaa", 1}, {"a{2,}", "a", 0}, {"a{,2}", "aa", 1},
        {"a{,2}", "aaa", 0}, {"a{1,2}b", "aab", 1}, {"a{0}b", "b", 1}, {"a{0}b", "ab", 0},
        {"a|bc", "bc", 1}, {"a|", "", 1}, {"(a|b)c", "bc", 1}, {"(?:a|b)*c", "ababc", 1},
        {"(a*)*", "aaa", 1}, {"(a|ab)(c|bcd)(d*)", "abcd", 1}, {".", "", 0}, {".\\..", "a.b", 1},
        {".\\..", "axb", 0}, {"[a-c]+", "abc", 1}, {"[a-c]+", "abd", 0}, {"[^a-c]", "d", 1},
        {"[^a-c]", "a", 0}, {"[]a]+", "]a", 1}, {"[a-]+", "a-", 1}, {"[\\d_]+", "1_2", 1},
        {"[\\.\\-]+", ".-", 1}, {"\\d{1,3}", "123", 1}, {"\\D", "1", 0}, {"\\w+", "a_1", 1},
        {"\\W", ".", 1}, {"\\s", "a", 0}, {"^a$", "a", 1}, {"a^b", "ab", 0}, {"\\bab\\b", "ab", 1},
        {"a\\bb", "ab", 0}, {"a\\Bb", "ab", 1}, {"((((a))))", "a", 1}, {"(a{1,3}){2}b", "aab", 1},
        {"(", "a", -1}, {")", "a", -1}, {"a)", "a", -1}, {"(a", "a", -1}, {"[", "a", -1},
        {"[a", "a", -1}, {"[a-", "a", -1}, {"[b-a]", "a", -1}, {"*a", "a", -1}, {"a**", "a", -1},
        {"a*+", "a", -1}, {"a{", "a", -1}, {"a{}", "a", -1}, {"a{2,1}", "a", -1},
        {"a{999}", "a", -1}, {"a{1,999999999999}", "a", -1}, {"\\", "a", -1}, {"\\1", "a", -1},
        {"\\Aa", "a", -1}, {"[\\", "a", -1}, {"[\\b]", "a", -1}, {"(?=a)", "a", -1},
        {"(?i)a", "a", -1}, {"(?P<x>a)", "a", -1}, {"\xc3\xa9", "a", -1}, {"[\xc3]", "a", -1},
        {"((((((((((((((((a))))))))))))))))", "a", 1},
        {"(((((((((((((((((a)))))))))))))))))", "a", -1},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t budget = 10000;
        bool found = false;
        lb_err err = {0};
        lb_status status = lb_pattern_match(cases[i].pattern, LB_PATTERN_WHOLE, cases[i].text,
                                            "x", &budget, &found, &err);
        int got = status == LB_EUNSUPPORTED ? -1 : status == LB_OK ? found : -2;
        if (got != cases[i].whole)
            fail_msg("'%s' on '%s' is %d", cases[i].pattern, cases[i].text, got);
    }
}

/* Sixty-three bytes use every bit of a set; a budget ends what nested repeats would take. */
static void test_pattern_limits(void **state)
{
    char text[LB_PATTERN_TEXT_MAX + 1];
    bool found = false;
    uint64_t budget = 10000;
    lb_err err = {0};
    (void)state;
    memset(text, 'a', LB_PATTERN_TEXT_MAX);
    text[LB_PATTERN_TEXT_MAX] = '\0';
    assert_int_equal(lb_pattern_match("a*$", LB_PATTERN_WHOLE, text, "x", &budget, &found, &err),
                     LB_OK);
    assert_true(found);
    assert_int_equal(lb_pattern_match("a{62}", LB_PATTERN_WHOLE, text, "x", &budget, &found,
                                      &err), LB_OK);
    assert_false(found);
    text[LB_PATTERN_TEXT_MAX - 1] = '.';
    assert_int_equal(lb_pattern_match("a*", LB_PATTERN_TAIL, text, "x", &budget, &found, &err),
                     LB_OK);
    assert_true(found);    /* nothing follows the last dot */
    budget = 1000;
    assert_int_equal(lb_pattern_match("((((a*){200}){200}){200}){200}",
                                      LB_PATTERN_WHOLE, text, "x", &budget, &found, &err),
                     LB_ETOOBIG);
    assert_string_equal(err.field, "x");
}

/* A pattern with the whole name of each module of a large model is within the budget. */
static void test_many_patterns(void **state)
{
    lb_model_config large = tiny;
    lb_lora_layout layout = {0};
    lb_buf json = {0};
    lb_err err = {0};
    (void)state;
    large.layers = 80;
    lb_lora_config config = {.rank = 4, .alpha = 8, .targets = ALL};
    assert_int_equal(lb_lora_layout_create(&large, &config, &layout, NULL), LB_OK);
    lb_buf_puts(&json, "{" BASE ",\"target_modules\":\"all-linear\",\"rank_pattern\":{");
    for (size_t i = 0; i < layout.count; i += 2) {
        char row[128], *name = layout.tensors[i].name + strlen("base_model.model.");
        snprintf(row, sizeof row, "%s\"%.*s\":%zu", i ? "," : "",
                 (int)(strlen(name) - strlen(".lora_A.weight")), name, i / 2 % 500 + 1);
        lb_buf_puts(&json, row);
    }
    lb_buf_puts(&json, "}}");
    lb_lora_layout_free(&layout);
    if (lb_lora_layout_parse((char *)json.data, json.length, &large, &layout, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    for (size_t m = 0; m < (size_t)80 * LB_PROJ_COUNT; m++)
        assert_int_equal(layout.modules[m].rank, m % 500 + 1);
    lb_lora_layout_free(&layout);
    lb_buf_free(&json);
}

/* ---- refusals ---- */

static const struct {
    const char *json;
    lb_status status;
    const char *field;
} refused[] = {
    {"", LB_EDATA, "adapter_config.json"},
    {"[]", LB_EDATA, "adapter_config.json"},
    {"{", LB_EDATA, "adapter_config.json"},
    {"{}", LB_EINVAL, "peft_type"},
    {"{\"peft_type\":\"IA3\",\"r\":4,\"lora_alpha\":8}", LB_EUNSUPPORTED, "peft_type"},
    {"{\"peft_type\":\"LORA\",\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}", LB_EINVAL, "r"},
    {"{" BASE "}", LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("null"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("7"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("[]"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("[7]"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("[\"\"]"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("[\"q_proj\",\"lm_head\"]"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("[\"embed_tokens\"]"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("[\"proj\"]"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("[\".*_proj\"]"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("[\"layers.3.self_attn.q_proj\"]"), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("\"q_proj\""), LB_EUNSUPPORTED, "target_modules"},     /* fullmatch finds nothing */
    {TARGETS("\".*\""), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("\".*(q_proj|lm_head)\""), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("\"(?!x).*q_proj\""), LB_EUNSUPPORTED, "target_modules"},
    {TARGETS("\"all-linear\\u0000\""), LB_EUNSUPPORTED, "target_modules"},
    {WITH("\"r\":4"), LB_EDATA, "adapter_config.json"},    /* a repeated key */
    {WITH("\"use_dora\":true"), LB_EUNSUPPORTED, "use_dora"},
    {WITH("\"use_rslora\":1"), LB_EINVAL, "use_rslora"},
    {WITH("\"bias\":\"all\""), LB_EUNSUPPORTED, "bias"},
    {WITH("\"bias\":\"lora_only\""), LB_EUNSUPPORTED, "bias"},
    {WITH("\"lora_bias\":true"), LB_EUNSUPPORTED, "lora_bias"},
    {WITH("\"modules_to_save\":[\"lm_head\"]"), LB_EUNSUPPORTED, "modules_to_save"},
    {WITH("\"layer_replication\":[[0,1]]"), LB_EUNSUPPORTED, "layer_replication"},
    {WITH("\"fan_in_fan_out\":true"), LB_EUNSUPPORTED, "fan_in_fan_out"},
    {WITH("\"exclude_modules\":[\"k_proj\"]"), LB_EUNSUPPORTED, "exclude_modules"},
    {WITH("\"exclude_modules\":\"k_proj\""), LB_EUNSUPPORTED, "exclude_modules"},
    {WITH("\"trainable_token_indices\":[1]"), LB_EUNSUPPORTED, "trainable_token_indices"},
    {WITH("\"target_parameters\":[\"x\"]"), LB_EUNSUPPORTED, "target_parameters"},
    {WITH("\"megatron_config\":{\"x\":1}"), LB_EUNSUPPORTED, "megatron_config"},
    {WITH("\"alora_invocation_tokens\":[1]"), LB_EUNSUPPORTED, "alora_invocation_tokens"},
    {WITH("\"use_qalora\":true"), LB_EUNSUPPORTED, "use_qalora"},
    {WITH("\"loftq_config\":{\"x\":1}"), LB_EUNSUPPORTED, "loftq_config"},
    {WITH("\"init_lora_weights\":\"pissa\""), LB_EUNSUPPORTED, "init_lora_weights"},
    {WITH("\"layers_to_transform\":[0,3]"), LB_EDATA, "layers_to_transform"},
    {WITH("\"layers_to_transform\":[\"0\"]"), LB_EDATA, "layers_to_transform"},
    {WITH("\"layers_to_transform\":0,\"layers_pattern\":\"h\""), LB_EUNSUPPORTED,
     "layers_pattern"},
    {TARGETS("\".*q_proj\",\"layers_to_transform\":[0]"), LB_EUNSUPPORTED,
     "layers_to_transform"},
    {TARGETS("[\"0.self_attn.q_proj\"],\"layers_to_transform\":[1]"), LB_EUNSUPPORTED,
     "target_modules"},
    {WITH("\"rank_pattern\":[]"), LB_EINVAL, "rank_pattern"},
    {WITH("\"rank_pattern\":{\"(?i)Q_PROJ\":8}"), LB_EUNSUPPORTED, "rank_pattern"},
    {WITH("\"rank_pattern\":{\"q_proj\":4,\"(?i)Q_PROJ\":8}"), LB_EUNSUPPORTED, "rank_pattern"},
    {WITH("\"alpha_pattern\":{\"q_proj)|(k_proj\":8}"), LB_EUNSUPPORTED, "alpha_pattern"},
    {WITH("\"alpha_pattern\":{\"((((.*){200}){200}){200}){200}\":8}"),
     LB_ETOOBIG, "alpha_pattern"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        lb_lora_layout got = {.count = 99};
        lb_err err = {0};
        lb_status status = parse(refused[i].json, &got, &err);
        if (status != refused[i].status || strcmp(err.field, refused[i].field) != 0)
            fail_msg("%s: %s, field '%s': %s", refused[i].json, lb_status_name(status), err.field,
                     err.message);
        assert_int_equal(got.count, 99);
        assert_int_equal(parse(refused[i].json, &got, NULL), refused[i].status);
    }
}

/* Each number of the file at its edges and past them; `ok` are accepted. */
static void test_hostile_numbers(void **state)
{
    static const char *const values[] = {
        "0", "1", "512", "513", "-1", "2147483648", "4294967296", "4294967297",
        "9223372036854775808", "18446744073709551617", "4.5", "4.0", "1e300", "\"4\"", "true",
        "null", "[4]", "{}",
    };
    static const struct {
        const char *field, *format;
        const char *ok;        /* the accepted ones, each between spaces */
    } rows[] = {
        {"r", "{\"peft_type\":\"LORA\",\"lora_alpha\":8,\"target_modules\":[\"q_proj\"],"
              "\"r\":%s}", " 1 512 "},
        {"lora_alpha", "{\"peft_type\":\"LORA\",\"r\":4,\"target_modules\":[\"q_proj\"],"
                       "\"lora_alpha\":%s}", " 1 512 513 4.5 4.0 "},
        {"rank_pattern", WITH("\"rank_pattern\":{\"q_proj\":%s}"), " 1 512 "},
        {"alpha_pattern", WITH("\"alpha_pattern\":{\"q_proj\":%s}"), " 1 512 513 4.5 4.0 "},
        {"layers_to_transform", WITH("\"layers_to_transform\":%s"), " 0 1 null "},
        {"layers_to_transform", WITH("\"layers_to_transform\":[%s]"), " 0 1 "},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            char json[256], word[32];
            lb_lora_layout got = {0};
            lb_err err = {0};
            snprintf(json, sizeof json, "%s", rows[i].format);
            char *hole = strstr(json, "%s"), rest[16];
            snprintf(rest, sizeof rest, "%s", hole + 2);
            snprintf(hole, sizeof json - (size_t)(hole - json), "%s%s", values[v], rest);
            snprintf(word, sizeof word, " %s ", values[v]);
            bool want = strstr(rows[i].ok, word) != NULL;
            lb_status status = parse(json, &got, &err);
            /* Beyond 64 bits the text itself is refused, with the number's own key. */
            if ((status == LB_OK) != want || (!want && !err.field[0]))
                fail_msg("%s: %s, field '%s': %s", json, lb_status_name(status), err.field,
                         err.message);
            if (!want && status != LB_EDATA && strcmp(err.field, rows[i].field) != 0)
                fail_msg("%s: field '%s'", json, err.field);
            lb_lora_layout_free(&got);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_targets),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_pattern_syntax),
        cmocka_unit_test(test_pattern_limits),
        cmocka_unit_test(test_many_patterns),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_hostile_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
