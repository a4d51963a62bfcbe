/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/json.h"
#include "common/io/config.h"
#include "common/io/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static const char qwen3[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"attention_bias\":false,\"attention_dropout\":0.0,"
    "\"bos_token_id\":151643,\"eos_token_id\":151645,\"head_dim\":128,\"hidden_act\":\"silu\","
    "\"hidden_size\":1024,\"initializer_range\":0.02,\"intermediate_size\":3072,"
    "\"max_position_embeddings\":40960,\"max_window_layers\":28,\"model_type\":\"qwen3\","
    "\"num_attention_heads\":16,\"num_hidden_layers\":28,\"num_key_value_heads\":8,"
    "\"rms_norm_eps\":1e-06,\"rope_scaling\":null,\"rope_theta\":1000000,\"sliding_window\":null,"
    "\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\",\"use_cache\":true,"
    "\"use_sliding_window\":false,\"vocab_size\":151936}";

static const char qwen2[] =
    "{\"architectures\":[\"Qwen2ForCausalLM\"],\"eos_token_id\":151645,\"hidden_act\":\"silu\","
    "\"hidden_size\":896,\"intermediate_size\":4864,\"max_position_embeddings\":32768,"
    "\"max_window_layers\":21,\"model_type\":\"qwen2\",\"num_attention_heads\":14,"
    "\"num_hidden_layers\":24,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-06,"
    "\"rope_theta\":1000000.0,\"sliding_window\":32768,\"tie_word_embeddings\":true,"
    "\"torch_dtype\":\"bfloat16\",\"use_sliding_window\":false,\"vocab_size\":151936}";

static const char llama32[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":128000,"
    "\"eos_token_id\":[128001,128008,128009],\"head_dim\":64,\"hidden_act\":\"silu\","
    "\"hidden_size\":2048,\"intermediate_size\":8192,\"max_position_embeddings\":131072,"
    "\"mlp_bias\":false,\"model_type\":\"llama\",\"num_attention_heads\":32,"
    "\"num_hidden_layers\":16,\"num_key_value_heads\":8,\"pretraining_tp\":1,"
    "\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"factor\":32.0,\"high_freq_factor\":4.0,"
    "\"low_freq_factor\":1.0,\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"},"
    "\"rope_theta\":500000.0,\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\","
    "\"vocab_size\":128256}";

static const char smollm2[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"attention_bias\":false,\"bos_token_id\":1,"
    "\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":576,\"intermediate_size\":1536,"
    "\"is_llama_config\":true,\"max_position_embeddings\":8192,\"mlp_bias\":false,"
    "\"model_type\":\"llama\",\"num_attention_heads\":9,\"num_hidden_layers\":30,"
    "\"num_key_value_heads\":3,\"rms_norm_eps\":1e-05,\"rope_interleaved\":false,"
    "\"rope_scaling\":null,\"rope_theta\":100000,\"tie_word_embeddings\":true,"
    "\"vocab_size\":49152}";

static const char mistral[] =
    "{\"architectures\":[\"MistralForCausalLM\"],\"attention_dropout\":0.0,\"bos_token_id\":1,"
    "\"eos_token_id\":2,\"hidden_act\":\"silu\",\"hidden_size\":4096,"
    "\"initializer_range\":0.02,\"intermediate_size\":14336,"
    "\"max_position_embeddings\":32768,\"model_type\":\"mistral\","
    "\"num_attention_heads\":32,\"num_hidden_layers\":32,\"num_key_value_heads\":8,"
    "\"rms_norm_eps\":1e-05,\"rope_theta\":1000000.0,\"sliding_window\":null,"
    "\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\",\"use_cache\":true,"
    "\"vocab_size\":32768}";

static lb_status parse(const char *text, const char *generation, lb_model_config *out, lb_err *err)
{
    return lb_config_parse(text, strlen(text), generation, generation ? strlen(generation) : 0,
                           out, err);
}

static lb_model_config accept(const char *text, const char *generation)
{
    lb_model_config c = {0};
    lb_err err = {0};
    if (parse(text, generation, &c, &err) != LB_OK)
        fail_msg("%s: %s", text, err.message);
    return c;
}

typedef struct overlay {
    lb_jsonw w;
    const lb_json *over;
} overlay;

static lb_status write_member(void *arg, const char *key, const lb_json *value)
{
    overlay *o = arg;
    const lb_json *other = lb_json_get(o->over, key);
    if (other && lb_json_is_string(other) && strcmp(lb_json_string(other), "<none>") == 0)
        return LB_OK;
    lb_jsonw_key(&o->w, key);
    lb_jsonw_node(&o->w, other ? other : value);
    return LB_OK;
}

typedef struct addition {
    overlay *o;
    const lb_json *base;
} addition;

static lb_status write_new(void *arg, const char *key, const lb_json *value)
{
    addition *a = arg;
    if (lb_json_get(a->base, key))
        return LB_OK;
    lb_jsonw_key(&a->o->w, key);
    lb_jsonw_node(&a->o->w, value);
    return LB_OK;
}

/* base with the members of change in the place of its own; "<none>" takes one away. */
static void change_config(const char *base, const char *change, lb_buf *out)
{
    lb_json *old = NULL, *over = NULL;
    lb_buf_clear(out);
    overlay o = {.w = {.out = out}};
    assert_int_equal(lb_json_parse(base, strlen(base), &old, NULL), LB_OK);
    assert_int_equal(lb_json_parse(change, strlen(change), &over, NULL), LB_OK);
    o.over = over;
    addition a = {.o = &o, .base = old};
    lb_jsonw_object(&o.w);
    assert_int_equal(lb_json_each(old, write_member, &o), LB_OK);
    assert_int_equal(lb_json_each(over, write_new, &a), LB_OK);
    lb_jsonw_object_end(&o.w);
    lb_json_free(old);
    lb_json_free(over);
}

static void test_published_models(void **state)
{
    (void)state;
    lb_model_config c = accept(qwen3, NULL);
    assert_int_equal(c.family, LB_FAMILY_QWEN3);
    assert_true(c.vocab == 151936 && c.hidden == 1024 && c.layers == 28 && c.heads == 16);
    assert_true(c.kv_heads == 8 && c.head_dim == 128 && c.mlp == 3072);
    assert_int_equal(c.max_positions, 40960);
    assert_true(c.rms_eps == 1e-6 && c.rope.theta == 1e6 && !c.rope.llama3);
    assert_true(c.tied && c.qk_norm && !c.qkv_bias);
    assert_true(c.eos_count == 1 && lb_config_is_eos(&c, 151645));
    c = accept(qwen2, "{\"eos_token_id\":[151645,151643],\"temperature\":0.7}");
    assert_int_equal(c.family, LB_FAMILY_QWEN2);
    assert_true(c.head_dim == 64 && c.kv_heads == 2 && c.heads == 14);
    assert_true(c.qkv_bias && !c.qk_norm && c.tied);
    assert_true(c.eos_count == 2 && c.eos[0] == 151645 && c.eos[1] == 151643);
    c = accept(llama32, "{\"eos_token_id\":[128001,128008,128009]}");
    assert_int_equal(c.family, LB_FAMILY_LLAMA);
    assert_true(c.rope.llama3 && c.rope.factor == 32.0 && c.rope.low_freq_factor == 1.0);
    assert_true(c.rope.high_freq_factor == 4.0 && c.rope.original_max_positions == 8192);
    assert_true(c.rope.theta == 5e5 && c.rms_eps == 1e-5 && !c.qkv_bias && !c.qk_norm);
    assert_true(c.eos_count == 3 && lb_config_is_eos(&c, 128008) && !lb_config_is_eos(&c, 128000));
    c = accept(smollm2, "{\"eos_token_id\":null}");
    assert_true(c.head_dim == 64 && c.kv_heads == 3 && c.rope.theta == 1e5 && c.vocab == 49152);
    assert_true(c.eos_count == 1 && c.eos[0] == 2);
    c = accept(mistral, NULL);
    assert_int_equal(c.family, LB_FAMILY_LLAMA);
    assert_true(c.vocab == 32768 && c.hidden == 4096 && c.layers == 32 && c.heads == 32);
    assert_true(c.kv_heads == 8 && c.head_dim == 128 && c.mlp == 14336 && !c.tied);
    assert_true(c.rope.theta == 1e6 && !c.rope.llama3 && !c.qkv_bias && !c.qk_norm);
}

static void test_both_generations_of_keys(void **state)
{
    (void)state;
    lb_buf text = {0};
    change_config(llama32, "{\"rope_theta\":\"<none>\",\"rope_scaling\":\"<none>\","
                  "\"torch_dtype\":\"<none>\",\"dtype\":\"bfloat16\",\"rope_parameters\":{"
                  "\"rope_theta\":500000.0,\"rope_type\":\"llama3\",\"factor\":32.0,"
                  "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
                  "\"original_max_position_embeddings\":8192}}", &text);
    lb_model_config old = accept(llama32, NULL), new = accept((char *)text.data, NULL);
    assert_memory_equal(&old, &new, sizeof old);
    change_config(qwen3, "{\"rope_theta\":\"<none>\",\"rope_scaling\":\"<none>\","
                  "\"rope_parameters\":{\"rope_theta\":5000000,\"rope_type\":\"default\"},"
                  "\"layer_types\":[\"full_attention\",\"full_attention\"]}", &text);
    assert_true(accept((char *)text.data, NULL).rope.theta == 5e6);
    lb_buf_free(&text);
}

static void test_defaults(void **state)
{
    (void)state;
    lb_buf text = {0};
    change_config(smollm2, "{\"num_key_value_heads\":\"<none>\",\"rms_norm_eps\":\"<none>\","
                  "\"rope_theta\":\"<none>\",\"tie_word_embeddings\":\"<none>\","
                  "\"hidden_act\":\"<none>\",\"eos_token_id\":null,\"head_dim\":null,"
                  "\"rope_scaling\":{\"type\":\"default\"}}", &text);
    lb_model_config c = accept((char *)text.data, NULL);
    assert_true(c.kv_heads == 9 && c.rms_eps == 1e-6 && c.rope.theta == 1e4 && !c.tied);
    assert_true(c.eos_count == 0 && c.head_dim == 64);
    change_config(qwen2, "{\"architectures\":\"<none>\"}", &text);
    assert_int_equal(accept((char *)text.data, NULL).family, LB_FAMILY_QWEN2);
    change_config(qwen2, "{\"num_key_value_heads\":null}", &text);
    assert_int_equal(accept((char *)text.data, NULL).kv_heads, 14);
    change_config(qwen2, "{\"num_key_value_heads\":\"<none>\",\"num_attention_heads\":64}", &text);
    assert_int_equal(accept((char *)text.data, NULL).kv_heads, 32);
    change_config(mistral, "{\"num_key_value_heads\":\"<none>\"}", &text);
    assert_int_equal(accept((char *)text.data, NULL).kv_heads, 8);
    change_config(qwen3, "{\"head_dim\":\"<none>\",\"hidden_size\":1000}", &text);
    assert_int_equal(accept((char *)text.data, NULL).head_dim, 128);
    change_config(mistral, "{\"head_dim\":64,\"num_local_experts\":0,\"num_experts\":null}", &text);
    assert_int_equal(accept((char *)text.data, NULL).head_dim, 64);
    change_config(llama32, "{\"sliding_window\":128}", &text);   /* Llama has no such key */
    accept((char *)text.data, NULL);
    change_config(qwen2, "{\"attention_bias\":true}", &text);
    assert_true(accept((char *)text.data, NULL).qkv_bias);
    lb_buf_free(&text);
}

static const struct {
    const char *base, *change;
    lb_status status;
    const char *field;
} refused[] = {
    {qwen3, "{\"architectures\":[\"Qwen3MoeForCausalLM\"]}", LB_EUNSUPPORTED, "architectures"},
    {qwen3, "{\"architectures\":null,\"model_type\":\"gemma3\"}", LB_EUNSUPPORTED,
     "model_type"},
    {qwen3, "{\"architectures\":[],\"model_type\":\"<none>\"}", LB_EDATA, "architectures"},
    {mistral, "{\"architectures\":[\"MixtralForCausalLM\"]}", LB_EUNSUPPORTED, "architectures"},
    {mistral, "{\"architectures\":[\"Mistral3ForConditionalGeneration\"]}", LB_EUNSUPPORTED,
     "architectures"},
    {mistral, "{\"sliding_window\":4096}", LB_EUNSUPPORTED, "sliding_window"},
    {mistral, "{\"sliding_window\":32768}", LB_EUNSUPPORTED, "sliding_window"},
    {mistral, "{\"sliding_window\":false}", LB_EUNSUPPORTED, "sliding_window"},
    {mistral, "{\"sliding_window\":\"<none>\"}", LB_EUNSUPPORTED, "sliding_window"},
    {qwen3, "{\"num_experts\":8}", LB_EUNSUPPORTED, "num_experts"},
    {llama32, "{\"num_local_experts\":8}", LB_EUNSUPPORTED, "num_local_experts"},
    {qwen2, "{\"num_key_value_heads\":\"<none>\"}", LB_EDATA, "num_key_value_heads"},
    {qwen3, "{\"hidden_act\":\"gelu\"}", LB_EUNSUPPORTED, "hidden_act"},
    {qwen3, "{\"hidden_act\":1}", LB_EINVAL, "hidden_act"},
    {qwen3, "{\"use_sliding_window\":true}", LB_EUNSUPPORTED, "use_sliding_window"},
    {qwen3, "{\"attention_bias\":true}", LB_EUNSUPPORTED, "attention_bias"},
    {llama32, "{\"attention_bias\":true}", LB_EUNSUPPORTED, "attention_bias"},
    {llama32, "{\"mlp_bias\":true}", LB_EUNSUPPORTED, "mlp_bias"},
    {qwen3, "{\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", LB_EUNSUPPORTED,
     "layer_types"},
    {qwen3, "{\"layer_types\":[null]}", LB_EUNSUPPORTED, "layer_types"},
    {qwen3, "{\"layer_types\":\"sliding_attention\"}", LB_EINVAL, "layer_types"},
    {qwen3, "{\"quantization_config\":{\"bits\":4}}", LB_EUNSUPPORTED, "quantization_config"},
    {qwen3, "{\"partial_rotary_factor\":0.5}", LB_EUNSUPPORTED, "partial_rotary_factor"},
    {qwen3, "{\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4.0}}", LB_EUNSUPPORTED,
     "rope_scaling.type"},
    {qwen3, "{\"rope_scaling\":{\"rope_type\":\"longrope\"}}", LB_EUNSUPPORTED,
     "rope_scaling.rope_type"},
    {qwen3, "{\"rope_scaling\":{\"type\":\"default\",\"rope_type\":\"dynamic\"}}",
     LB_EUNSUPPORTED, "rope_scaling.rope_type"},
    {qwen3, "{\"rope_scaling\":{\"factor\":4.0}}", LB_EUNSUPPORTED, "rope_scaling.rope_type"},
    {qwen3, "{\"rope_scaling\":{\"rope_type\":7}}", LB_EINVAL, "rope_scaling.rope_type"},
    {qwen3, "{\"rope_scaling\":\"linear\"}", LB_EINVAL, "rope_scaling"},
    {qwen3, "{\"rope_parameters\":{\"rope_type\":\"linear\"}}", LB_EUNSUPPORTED,
     "rope_parameters.rope_type"},
    {qwen3, "{\"rope_parameters\":{\"rope_type\":\"default\"},\"rope_scaling\":{"
     "\"rope_type\":\"yarn\"}}", LB_EUNSUPPORTED, "rope_scaling.rope_type"},
    {qwen3, "{\"rope_parameters\":{\"full_attention\":{\"rope_theta\":1e6}}}",
     LB_EUNSUPPORTED, "rope_parameters"},
    {qwen3, "{\"rope_parameters\":{\"partial_rotary_factor\":0.25}}", LB_EUNSUPPORTED,
     "partial_rotary_factor"},
    {qwen3, "{\"rope_parameters\":{\"rope_theta\":0}}", LB_EINVAL,
     "rope_parameters.rope_theta"},
    {qwen3, "{\"rope_theta\":\"1e6\"}", LB_EINVAL, "rope_theta"},
    {llama32, "{\"rope_scaling\":{\"rope_type\":\"llama3\"}}", LB_EINVAL,
     "rope_scaling.factor"},
    {llama32, "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
     "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}", LB_EDATA,
     "high_freq_factor"},
    {qwen3, "{\"vocab_size\":0}", LB_EINVAL, "vocab_size"},
    {qwen3, "{\"vocab_size\":1048577}", LB_EINVAL, "vocab_size"},
    {qwen3, "{\"vocab_size\":151936.0}", LB_EINVAL, "vocab_size"},
    {qwen3, "{\"vocab_size\":\"<none>\"}", LB_EINVAL, "vocab_size"},
    {qwen3, "{\"hidden_size\":-1024}", LB_EINVAL, "hidden_size"},
    {qwen3, "{\"hidden_size\":32769}", LB_EINVAL, "hidden_size"},
    {qwen3, "{\"num_hidden_layers\":513}", LB_EINVAL, "num_hidden_layers"},
    {qwen3, "{\"num_attention_heads\":0}", LB_EINVAL, "num_attention_heads"},
    {qwen3, "{\"num_attention_heads\":513}", LB_EINVAL, "num_attention_heads"},
    {qwen3, "{\"num_key_value_heads\":3}", LB_EDATA, "num_key_value_heads"},
    {qwen3, "{\"num_key_value_heads\":32}", LB_EDATA, "num_key_value_heads"},
    {qwen3, "{\"num_key_value_heads\":0}", LB_EINVAL, "num_key_value_heads"},
    {qwen3, "{\"intermediate_size\":4294967296}", LB_EINVAL, "intermediate_size"},
    {qwen3, "{\"max_position_embeddings\":0}", LB_EINVAL, "max_position_embeddings"},
    {qwen3, "{\"head_dim\":127}", LB_EDATA, "head_dim"},
    {qwen3, "{\"head_dim\":514}", LB_EINVAL, "head_dim"},
    {qwen3, "{\"head_dim\":0}", LB_EINVAL, "head_dim"},
    {qwen3, "{\"head_dim\":null,\"hidden_size\":1000}", LB_EDATA, "head_dim"},
    {smollm2, "{\"num_attention_heads\":1,\"num_key_value_heads\":1}", LB_EDATA, "head_dim"},
    {qwen3, "{\"rms_norm_eps\":0}", LB_EINVAL, "rms_norm_eps"},
    {qwen3, "{\"rms_norm_eps\":1.0}", LB_EINVAL, "rms_norm_eps"},
    {qwen3, "{\"tie_word_embeddings\":\"yes\"}", LB_EINVAL, "tie_word_embeddings"},
    {qwen3, "{\"eos_token_id\":151936}", LB_EDATA, "eos_token_id"},
    {qwen3, "{\"eos_token_id\":-1}", LB_EDATA, "eos_token_id"},
    {qwen3, "{\"eos_token_id\":[1,2.0]}", LB_EDATA, "eos_token_id"},
    {qwen3, "{\"eos_token_id\":\"</s>\"}", LB_EDATA, "eos_token_id"},
    {qwen3, "{\"eos_token_id\":[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]}", LB_ETOOBIG,
     "eos_token_id"},
};

static void test_refused(void **state)
{
    (void)state;
    lb_buf text = {0};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        lb_model_config c = {.vocab = 77};
        lb_err err = {0};
        change_config(refused[i].base, refused[i].change, &text);
        lb_status status = parse((char *)text.data, NULL, &c, &err);
        if (status != refused[i].status || strcmp(err.field, refused[i].field) != 0)
            fail_msg("%s: %s, field '%s': %s", refused[i].change, lb_status_name(status), err.field,
                     err.message);
        assert_int_equal(c.vocab, 77);   /* untouched on failure */
        assert_int_equal(parse((char *)text.data, NULL, &c, NULL), refused[i].status);
    }
    lb_buf_free(&text);
}

/* Each number of the file at its edges and past them; `ok` are accepted. */
static const char *const hostile[] = {
    "0", "1", "-1", "-2147483648", "2147483648", "4294967295", "4294967296", "4294967297",
    "9223372036854775807", "9223372036854775808", "18446744073709551617", "2.5", "2.0", "1e300",
    "-1e300", "1e-300", "\"2\"", "true", "null", "[2]", "{}",
};

#define LLAMA3(key) "{\"rope_scaling\":{\"rope_type\":\"llama3\",\"" key "\":%s,"
#define FACTOR "\"factor\":8,"
#define LOW "\"low_freq_factor\":1,"
#define HIGH "\"high_freq_factor\":4,"
#define ORIGINAL "\"original_max_position_embeddings\":8192,"
#define END "\"x\":0}}"

static const struct {
    const char *base, *format, *field, *max, *over, *ok;   /* ok: each between spaces */
} numbers[] = {
    {qwen3, "{\"vocab_size\":%s,\"eos_token_id\":0}", "vocab_size", "1048576", "1048577",
     " 1 1048576 "},
    {qwen3, "{\"hidden_size\":%s}", "hidden_size", "32768", "32769", " 1 32768 "},
    {smollm2, "{\"hidden_size\":%s}", "hidden_size", "32768", "32769", " "},   /* of 9 heads */
    {qwen3, "{\"num_hidden_layers\":%s}", "num_hidden_layers", "512", "513", " 1 512 "},
    {llama32, "{\"num_attention_heads\":%s,\"num_key_value_heads\":1}", "num_attention_heads",
     "512", "513", " 1 512 "},
    {llama32, "{\"num_key_value_heads\":%s}", "num_key_value_heads", "32", "33", " 1 32 null "},
    {qwen3, "{\"head_dim\":%s}", "head_dim", "512", "513", " 512 null "},
    {qwen3, "{\"intermediate_size\":%s}", "intermediate_size", "262144", "262145", " 1 262144 "},
    {qwen3, "{\"max_position_embeddings\":%s}", "max_position_embeddings", "134217728",
     "134217729", " 1 134217728 "},
    {qwen3, "{\"eos_token_id\":%s}", "eos_token_id", "151935", "151936", " 0 1 151935 null [2] "},
    {qwen3, "{\"eos_token_id\":[%s]}", "eos_token_id", "151935", "151936", " 0 1 151935 "},
    {qwen3, "{\"rms_norm_eps\":%s}", "rms_norm_eps", "0.1", "0.11", " 0.1 null "},
    {qwen3, "{\"rope_theta\":%s}", "rope_theta", "1e12", "1.1e12",
     " 1 2147483648 4294967295 4294967296 4294967297 2.5 2.0 1e12 null "},
    {qwen3, "{\"rope_parameters\":{\"rope_theta\":%s}}", "rope_parameters.rope_theta", "1e12",
     "1.1e12", " 1 2147483648 4294967295 4294967296 4294967297 2.5 2.0 1e12 null "},
    {llama32, LLAMA3("factor") LOW HIGH ORIGINAL END, "rope_scaling.factor", "1e6", "1.1e6",
     " 1 2.5 2.0 1e6 "},
    {llama32, LLAMA3("low_freq_factor") FACTOR HIGH ORIGINAL END,
     "rope_scaling.low_freq_factor", "3.9", "4", " 1 2.5 2.0 3.9 "},
    {llama32, LLAMA3("high_freq_factor") FACTOR LOW ORIGINAL END,
     "rope_scaling.high_freq_factor", "1e6", "1.1e6", " 2.5 2.0 1e6 "},
    {llama32, LLAMA3("original_max_position_embeddings") FACTOR LOW HIGH END,
     "rope_scaling.original_max_position_embeddings", "134217728", "134217729",
     " 1 134217728 "},
};

static void test_hostile_numbers(void **state)
{
    (void)state;
    lb_buf change = {0}, text = {0};
    size_t count = sizeof hostile / sizeof *hostile;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        for (size_t v = 0; v < count + 2; v++) {
            const char *value = v < count ? hostile[v] : v == count ? numbers[i].max
                                                                    : numbers[i].over;
            const char *hole = strstr(numbers[i].format, "%s");
            char word[64];
            lb_model_config c = {0};
            lb_err err = {0};
            lb_buf_clear(&change);
            lb_buf_printf(&change, "%.*s%s%s", (int)(hole - numbers[i].format),
                          numbers[i].format, value, hole + 2);
            lb_json *parsed = NULL;
            if (lb_json_parse((char *)change.data, change.length, &parsed, NULL) != LB_OK)
                continue;      /* the parser refuses the number, and test_malformed_files says so */
            lb_json_free(parsed);
            change_config(numbers[i].base, (char *)change.data, &text);
            snprintf(word, sizeof word, " %s ", value);
            bool want = strstr(numbers[i].ok, word) != NULL;
            lb_status status = parse((char *)text.data, NULL, &c, &err);
            /* A size that makes another one impossible is told of under either's name. */
            bool named = strstr(err.field, numbers[i].field) ||
                         strstr(numbers[i].field, err.field) ||
                         strcmp(err.field, "head_dim") == 0 ||
                         strcmp(err.field, "high_freq_factor") == 0;
            if ((status == LB_OK) != want || (!want && (!err.field[0] || !named)))
                fail_msg("%s: %s, field '%s': %s", (char *)change.data, lb_status_name(status),
                         err.field, err.message);
        }
    }
    lb_buf_free(&change);
    lb_buf_free(&text);
}

static void test_malformed_files(void **state)
{
    static const struct {
        const char *text, *generation, *field;
    } cases[] = {
        {"", NULL, "config.json"},
        {"[]", NULL, "config.json"},
        {"null", NULL, "config.json"},
        {"{\"a\":1,\"a\":2}", NULL, "config.json"},
        {"{\"vocab_size\":99999999999999999999}", NULL, "vocab_size"},
        {qwen3, "", "generation_config.json"},
        {qwen3, "[]", "generation_config.json"},
        {qwen3, "{\"eos_token_id\":true}", "eos_token_id"},
        {qwen3, "{\"eos_token_id\":999999}", "eos_token_id"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_model_config c = {0};
        lb_err err = {0};
        assert_int_equal(parse(cases[i].text, cases[i].generation, &c, &err), LB_EDATA);
        assert_string_equal(err.field, cases[i].field);
    }
    for (size_t length = 0; length < sizeof qwen3 - 1; length++) {
        lb_model_config c = {0};
        assert_int_equal(lb_config_parse(qwen3, length, NULL, 0, &c, NULL), LB_EDATA);
    }
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[LB_PATH_MAX];
    assert_int_equal(lb_path_join(path, sizeof path, dir, name, NULL), LB_OK);
    assert_int_equal(lb_file_write(path, text, strlen(text), LB_WRITE_REPLACE, 0644, NULL), LB_OK);
}

static void test_load(void **state)
{
    (void)state;
    char dir[] = "/tmp/lb_test_config.XXXXXX", path[LB_PATH_MAX];
    lb_model_config c = {0};
    lb_err err = {0};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(lb_config_load(dir, &c, &err), LB_ENOTFOUND);
    assert_non_null(strstr(err.message, "config.json"));
    put(dir, "config.json", qwen2);
    assert_int_equal(lb_config_load(dir, &c, &err), LB_OK);
    assert_int_equal(c.eos_count, 1);
    put(dir, "generation_config.json", "{\"eos_token_id\":[151645,151643]}");
    assert_int_equal(lb_config_load(dir, &c, &err), LB_OK);
    assert_int_equal(c.eos_count, 2);
    put(dir, "generation_config.json", "{");
    assert_int_equal(lb_config_load(dir, &c, &err), LB_EDATA);
    const char *names[] = {"config.json", "generation_config.json"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(lb_path_join(path, sizeof path, dir, names[i], NULL), LB_OK);
        assert_int_equal(unlink(path), 0);
    }
    assert_int_equal(rmdir(dir), 0);
}

/* The files beside the recorded vectors of the reference implementation. */
static void test_golden_folders(void **state)
{
    static const struct {
        const char *dir;
        lb_family family;
    } cases[] = {
        {"tests/golden/qwen3-tiny", LB_FAMILY_QWEN3},
        {"tests/golden/qwen2-tiny", LB_FAMILY_QWEN2},
        {"tests/golden/llama-tiny", LB_FAMILY_LLAMA},
        {"tests/golden/llama3-tiny", LB_FAMILY_LLAMA},
        {"tests/golden/smollm2-tiny", LB_FAMILY_LLAMA},
        {"tests/golden/mistral-tiny", LB_FAMILY_LLAMA},
        {"tests/golden/qwen2-shards-tiny", LB_FAMILY_QWEN2},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_model_config c = {0};
        lb_err err = {0};
        if (lb_config_load(cases[i].dir, &c, &err) != LB_OK)
            fail_msg("%s: %s", cases[i].dir, err.message);
        assert_int_equal(c.family, cases[i].family);
        assert_int_equal(c.rope.llama3, i == 3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_models),
        cmocka_unit_test(test_both_generations_of_keys),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_hostile_numbers),
        cmocka_unit_test(test_malformed_files),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_golden_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
