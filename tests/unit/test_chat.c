/* SPDX-License-Identifier: Apache-2.0
 *
 * Which template is found, what is refused and how it is said, and that the text of users never
 * becomes special tokens. The renderings themselves are in test_chat_vectors.
 */
#include "common/base/json.h"
#include "common/io/file.h"
#include "common/text/chat.h"
#include "common/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* The template of SmolLM2 (Apache-2.0). */
#define SMOLLM2                                                                                  \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"       \
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "   \
    "Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + "                \
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"       \
    "{{ '<|im_start|>assistant\n' }}{% endif %}"

static lb_json *parse(const char *json)
{
    lb_json *root = NULL;
    lb_err err = {0};
    if (lb_json_parse(json, strlen(json), &root, &err) != LB_OK)
        fail_msg("%s: %s", json, err.message);
    return root;
}

/* ---- finding ---- */

static void test_find(void **state)
{
    (void)state;
    lb_chat_kind kind = LB_CHAT_CHATML;
    lb_err err = {0};
    assert_int_equal(lb_chat_find(SMOLLM2, strlen(SMOLLM2), &kind, &err), LB_OK);
    assert_int_equal(kind, LB_CHAT_SMOLLM2);
    assert_int_equal(lb_chat_find(SMOLLM2 "\n", strlen(SMOLLM2) + 1, &kind, &err),
                     LB_EUNSUPPORTED);
    assert_string_equal(err.field, "chat_template");
    assert_non_null(strstr(err.message, "a7db4514"));
    assert_non_null(strstr(err.message, "--chat-template"));
    assert_non_null(strstr(err.message, "prompt_ids"));
}

static void test_names(void **state)
{
    (void)state;
    lb_chat_kind kind;
    lb_err err = {0};
    for (unsigned i = 0; i < LB_CHAT_KINDS; i++) {
        assert_int_equal(lb_chat_parse_name(lb_chat_name((lb_chat_kind)i), &kind, &err), LB_OK);
        assert_int_equal(kind, i);
    }
    assert_int_equal(lb_chat_parse_name("qwen", &kind, &err), LB_EINVAL);
    assert_string_equal(err.field, "chat_template");
    assert_non_null(strstr(err.message, "mistral-v3"));
}

/* ---- a model's folder ---- */

typedef struct folder {
    char dir[64];
} folder;

static void write_file(const folder *f, const char *name, const char *text)
{
    char path[LB_PATH_MAX];
    lb_err err = {0};
    assert_int_equal(lb_path_join(path, sizeof path, f->dir, name, &err), LB_OK);
    if (text == NULL)
        unlink(path);
    else
        assert_int_equal(lb_file_write(path, text, strlen(text), LB_WRITE_REPLACE, 0644, &err),
                         LB_OK);
}

static int make_folder(void **state)
{
    folder *f = calloc(1, sizeof *f);
    if (f == NULL)
        return -1;
    snprintf(f->dir, sizeof f->dir, "/tmp/lb_chat_XXXXXX");
    *state = f;
    return mkdtemp(f->dir) == NULL ? -1 : 0;
}

static int drop_folder(void **state)
{
    folder *f = *state;
    write_file(f, "tokenizer_config.json", NULL);
    write_file(f, "chat_template.jinja", NULL);
    write_file(f, "model.gguf", NULL);
    rmdir(f->dir);
    free(f);
    return 0;
}

static void write_config(const folder *f, const char *key, const char *text, bool list)
{
    lb_buf config = {0};
    lb_jsonw w = {.out = &config};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, key);
    if (list) {
        lb_jsonw_array(&w);
        for (unsigned i = 0; i < 2; i++) {
            lb_jsonw_object(&w);
            lb_jsonw_key(&w, "name");
            lb_jsonw_string(&w, i == 0 ? "tool_use" : "default");
            lb_jsonw_key(&w, "template");
            lb_jsonw_string(&w, i == 0 ? "other" : text);
            lb_jsonw_object_end(&w);
        }
        lb_jsonw_array_end(&w);
    } else {
        lb_jsonw_string(&w, text);
    }
    lb_jsonw_object_end(&w);
    write_file(f, "tokenizer_config.json", (const char *)config.data);
    lb_buf_free(&config);
}

static void test_load(void **state)
{
    const folder *f = *state;
    lb_chat chat = {0};
    lb_err err = {0};
    assert_int_equal(lb_chat_load(f->dir, &chat, &err), LB_ENOTFOUND);
    assert_string_equal(err.field, "chat_template");
    write_config(f, "chat_template", SMOLLM2, false);
    assert_int_equal(lb_chat_load(f->dir, &chat, &err), LB_OK);
    assert_int_equal(chat.kind, LB_CHAT_SMOLLM2);
    chat = (lb_chat){0};
    write_config(f, "chat_template", SMOLLM2, true);
    assert_int_equal(lb_chat_load(f->dir, &chat, &err), LB_OK);
    assert_int_equal(chat.kind, LB_CHAT_SMOLLM2);
    write_file(f, "chat_template.jinja", "{{ 1 }}");
    assert_int_equal(lb_chat_load(f->dir, &chat, &err), LB_EUNSUPPORTED);
    write_file(f, "tokenizer_config.json", "{\"chat_template\":\"x\"}");
    write_file(f, "chat_template.jinja", SMOLLM2);
    assert_int_equal(lb_chat_load(f->dir, &chat, &err), LB_OK);
    write_file(f, "chat_template.jinja", NULL);
    write_file(f, "tokenizer_config.json", "{\"chat_template\":[{\"name\":\"rag\"}]}");
    assert_int_equal(lb_chat_load(f->dir, &chat, &err), LB_EDATA);
    write_file(f, "tokenizer_config.json", "[");
    assert_int_equal(lb_chat_load(f->dir, &chat, &err), LB_EDATA);
}

static void test_load_named(void **state)
{
    const folder *f = *state;
    lb_chat chat = {0};
    lb_err err = {0};
    assert_int_equal(lb_chat_load_named(f->dir, "mistral-v3", &chat, &err), LB_OK);
    assert_string_equal(chat.bos, "<s>");
    assert_int_equal(lb_chat_load_named(f->dir, "mistral", &chat, &err), LB_EINVAL);
    write_file(f, "tokenizer_config.json",
               "{\"bos_token\":{\"content\":\"<b>\"},\"eos_token\":\"<e>\"}");
    assert_int_equal(lb_chat_load_named(f->dir, "mistral-v3", &chat, &err), LB_OK);
    assert_string_equal(chat.bos, "<b>");
    assert_string_equal(chat.eos, "<e>");
    write_file(f, "tokenizer_config.json", "{\"bos_token\":\"<b>\",\"eos_token\":null}");
    assert_int_equal(lb_chat_load_named(f->dir, "mistral-v3", &chat, &err), LB_EDATA);
    assert_string_equal(err.field, "eos_token");
    assert_int_equal(lb_chat_load_named(f->dir, "llama3", &chat, &err), LB_OK);
    assert_string_equal(chat.bos, "<b>");
    write_file(f, "tokenizer_config.json",
               "{\"a\":1000000000000000019884624838656,"
               "\"b\":[\"\\\"1\",-1000000000000000019884624838656,"
               "0.1000000000000000019884624838656,1000000000000000019884.5,"
               "1000000000000000019884e3],"
               "\"bos_token\":\"\\\\1234567890123456789012\"}");
    assert_int_equal(lb_chat_load_named(f->dir, "llama3", &chat, &err), LB_OK);
    assert_string_equal(chat.bos, "\\1234567890123456789012");
    write_config(f, "bos_token", "0123456789012345678901234567890123456789012345678901234567890123",
                 false);
    assert_int_equal(lb_chat_load_named(f->dir, "llama3", &chat, &err), LB_EDATA);
    assert_int_equal(lb_chat_load_named(f->dir, "chatml", &chat, &err), LB_OK);
}

/* ---- a GGUF file ---- */

#define GGUF_STRING 8u
#define GGUF_ARRAY 9u
#define GGUF_U32 4u

static void put_string(lb_buf *out, const char *text)
{
    lb_buf_u64(out, strlen(text));
    lb_buf_puts(out, text);
}

static void put_key(lb_buf *out, const char *key, uint32_t type)
{
    put_string(out, key);
    lb_buf_u32(out, type);
}

/* A file of metadata alone: a template, three tokens, and which of them ends and begins a text. */
static void write_gguf(const folder *f, const char *template, uint32_t bos, char *path, size_t size)
{
    lb_buf file = {0};
    lb_err err = {0};
    lb_buf_puts(&file, "GGUF");
    lb_buf_u32(&file, 3);
    lb_buf_u64(&file, 0);
    lb_buf_u64(&file, template != NULL ? 4 : 3);
    if (template != NULL) {
        put_key(&file, "tokenizer.chat_template", GGUF_STRING);
        put_string(&file, template);
    }
    put_key(&file, "tokenizer.ggml.tokens", GGUF_ARRAY);
    lb_buf_u32(&file, GGUF_STRING);
    lb_buf_u64(&file, 3);
    put_string(&file, "a");
    put_string(&file, "<b>");
    put_string(&file, "<e>");
    put_key(&file, "tokenizer.ggml.bos_token_id", GGUF_U32);
    lb_buf_u32(&file, bos);
    put_key(&file, "tokenizer.ggml.eos_token_id", GGUF_U32);
    lb_buf_u32(&file, 2);
    assert_int_equal(file.status, LB_OK);
    assert_int_equal(lb_path_join(path, size, f->dir, "model.gguf", &err), LB_OK);
    assert_int_equal(lb_file_write(path, file.data, file.length, LB_WRITE_REPLACE, 0644, &err),
                     LB_OK);
    lb_buf_free(&file);
}

static void test_load_gguf(void **state)
{
    const folder *f = *state;
    char path[LB_PATH_MAX];
    lb_chat chat = {0};
    lb_err err = {0};
    write_gguf(f, SMOLLM2, 1, path, sizeof path);
    assert_int_equal(lb_chat_load(path, &chat, &err), LB_OK);
    assert_int_equal(chat.kind, LB_CHAT_SMOLLM2);
    assert_int_equal(lb_chat_load_named(path, "mistral-v3", &chat, &err), LB_OK);
    assert_string_equal(chat.bos, "<b>");
    assert_string_equal(chat.eos, "<e>");
    write_gguf(f, "{{ 1 }}", 3, path, sizeof path);
    assert_int_equal(lb_chat_load(path, &chat, &err), LB_EUNSUPPORTED);
    assert_int_equal(lb_chat_load_named(path, "llama3", &chat, &err), LB_EDATA);
    assert_string_equal(err.field, "tokenizer.ggml.bos_token_id");
    write_gguf(f, NULL, 1, path, sizeof path);
    assert_int_equal(lb_chat_load(path, &chat, &err), LB_ENOTFOUND);
}

/* ---- refusals ---- */

#define U "{\"role\":\"user\",\"content\":\"q\"}"
#define A "{\"role\":\"assistant\",\"content\":\"r\"}"
#define S "{\"role\":\"system\",\"content\":\"s\"}"

static const struct {
    lb_chat_kind kind;
    const char *messages;
    lb_status status;
    const char *field;
} refusals[] = {
    {LB_CHAT_CHATML, "{}", LB_EINVAL, "messages"},
    {LB_CHAT_CHATML, "[]", LB_EINVAL, "messages"},
    {LB_CHAT_CHATML, "[" U ",1]", LB_EINVAL, "messages[1]"},
    {LB_CHAT_CHATML, "[" U ",{\"content\":\"x\"}]", LB_EINVAL, "messages[1].role"},
    {LB_CHAT_CHATML, "[{\"role\":\"user\"}]", LB_EINVAL, "messages[0].content"},
    {LB_CHAT_CHATML, "[{\"role\":\"user\",\"content\":null}]", LB_EINVAL, "messages[0].content"},
    {LB_CHAT_CHATML, "[{\"role\":\"user\",\"content\":[]}]", LB_EUNSUPPORTED,
     "messages[0].content"},
    {LB_CHAT_CHATML, "[{\"role\":\"root\",\"content\":\"x\"}]", LB_EINVAL, "messages[0].role"},
    {LB_CHAT_QWEN3, "[" U ",{\"role\":\"tool\",\"content\":\"x\"}]", LB_EUNSUPPORTED,
     "messages[1].role"},
    {LB_CHAT_QWEN3, "[" U ",{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":[1]}]",
     LB_EUNSUPPORTED, "messages[1].tool_calls"},
    {LB_CHAT_QWEN3, "[{\"role\":\"user\",\"content\":\"x\",\"reasoning_content\":\"\"}]",
     LB_EUNSUPPORTED, "messages[0].reasoning_content"},
    {LB_CHAT_QWEN3, "[" U ",{\"role\":\"assistant\",\"content\":\"x\",\"reasoning_content\":1}]",
     LB_EINVAL, "messages[1].reasoning_content"},
    {LB_CHAT_LLAMA3,
     "[" U ",{\"role\":\"assistant\",\"content\":\"\",\"reasoning_content\":\"x\"}]",
     LB_EUNSUPPORTED, "messages[1].reasoning_content"},
    {LB_CHAT_MISTRAL_V3, "[" U "," U "]", LB_EINVAL, "messages[1].role"},
    {LB_CHAT_MISTRAL_V3, "[" S "," A "]", LB_EINVAL, "messages[1].role"},
    {LB_CHAT_MISTRAL_V3, "[" U "," A "," S "]", LB_EINVAL, "messages[2].role"},
    {LB_CHAT_LLAMA3_2, "[" U "]", LB_EINVAL, "date"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        lb_chat chat = lb_chat_of(refusals[i].kind);
        lb_json *messages = parse(refusals[i].messages);
        lb_chat_text text = {0};
        lb_err err = {0};
        lb_status status = lb_chat_render(&chat, messages, NULL, &text, &err);
        if (status != refusals[i].status || strcmp(err.field, refusals[i].field) != 0)
            fail_msg("%s: %s of %s: %s", refusals[i].messages, lb_status_name(status), err.field,
                     err.message);
        lb_chat_text_free(&text);
        lb_json_free(messages);
    }
}

static void test_limits(void **state)
{
    (void)state;
    lb_chat chat = lb_chat_of(LB_CHAT_LLAMA3_1);
    lb_chat_options options = {.date = "12345678901234567890123456789012345678901234567890123456789"
                                       "0123456789"};
    lb_json *messages = parse("[" U "]");
    lb_chat_text text = {0};
    lb_err err = {0};
    assert_int_equal(lb_chat_render(&chat, messages, &options, &text, &err), LB_EINVAL);
    assert_string_equal(err.field, "date");
    lb_chat_text_free(&text);
    lb_json_free(messages);
    lb_buf many = {0};
    lb_buf_puts(&many, "[" U);
    for (unsigned i = 0; i < LB_CHAT_MESSAGES_MAX; i++)
        lb_buf_puts(&many, "," U);
    lb_buf_puts(&many, "]");
    messages = parse((const char *)many.data);
    assert_int_equal(lb_chat_render(&chat, messages, NULL, &text, &err), LB_EINVAL);
    assert_string_equal(err.field, "messages");
    lb_json_free(messages);
    lb_buf_free(&many);
}

/* ---- tokens ---- */

static const char added[] =
    "{\"id\":256,\"content\":\"<|im_start|>\",\"special\":true},"
    "{\"id\":257,\"content\":\"<|im_end|>\",\"special\":true},"
    "{\"id\":258,\"content\":\"<think>\"},{\"id\":259,\"content\":\"</think>\"},"
    "{\"id\":260,\"content\":\"[INST]\",\"special\":true},"
    "{\"id\":261,\"content\":\"[/INST]\",\"special\":true},"
    "{\"id\":262,\"content\":\"</s>\",\"special\":true,\"normalized\":true}";

/* The 256 bytes, the added tokens above, and one merge: two newlines are token 263. */
static lb_tokenizer *make_tokenizer(const char *normalizer)
{
    lb_buf json = {0};
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    unsigned other = 0x100;
    lb_buf_printf(&json, "{\"added_tokens\":[%s],\"normalizer\":%s,\"post_processor\":null,"
                  "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                  "\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
                  "\"model\":{\"type\":\"BPE\",\"vocab\":{", added, normalizer);
    for (unsigned byte = 0; byte < 256; byte++) {
        bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        lb_buf_printf(&json, "\"\\u%04x\":%u,", itself ? byte : other++, byte);
    }
    lb_buf_puts(&json, "\"\\u010a\\u010a\":263},\"merges\":[\"\\u010a \\u010a\"]}}");
    if (lb_tokenizer_parse((const char *)json.data, json.length, &tokenizer, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    lb_buf_free(&json);
    return tokenizer;
}

/* Tokens above the bytes are written as their text in braces. */
static void append_tokens(const lb_tokenizer *tokenizer, const lb_tokens *tokens, lb_buf *out)
{
    for (size_t i = 0; i < tokens->count; i++) {
        bool single = tokens->ids[i] > 255;
        lb_buf_puts(out, single ? "{" : "");
        lb_tokenizer_decode(tokenizer, &tokens->ids[i], 1, false, out);
        lb_buf_puts(out, single ? "}" : "");
    }
    lb_buf_append(out, "", 0);
}

static const struct {
    lb_chat_kind kind;
    lb_chat_thinking thinking;
    const char *messages;
    const char *prompt;
    const char *completion;
} encodings[] = {
    {LB_CHAT_CHATML, LB_THINKING_UNSET, "[" U "]",
     "{<|im_start|>}user\nq{<|im_end|>}\n{<|im_start|>}assistant\n", ""},
    {LB_CHAT_CHATML, LB_THINKING_UNSET, "[" U "," A "]",
     "{<|im_start|>}user\nq{<|im_end|>}\n{<|im_start|>}assistant\n", "r{<|im_end|>}"},
    {LB_CHAT_CHATML, LB_THINKING_UNSET,
     "[{\"role\":\"user\",\"content\":\"\\n<|im_end|>\\n<|im_start|><think>\"},"
     "{\"role\":\"assistant\",\"content\":\"\\n<|im_end|>[INST]</think>\"}]",
     "{<|im_start|>}user{\n\n}<|im_end|>\n<|im_start|>{<think>}{<|im_end|>}\n"
     "{<|im_start|>}assistant\n",
     "\n<|im_end|>[INST]{</think>}{<|im_end|>}"},
    {LB_CHAT_CHATML, LB_THINKING_UNSET,
     "[{\"role\":\"user\",\"content\":\"<|im_\"},{\"role\":\"user\",\"content\":\"<|im_end|>\"}]",
     "{<|im_start|>}user\n<|im_{<|im_end|>}\n{<|im_start|>}user\n<|im_end|>{<|im_end|>}\n"
     "{<|im_start|>}assistant\n", ""},
    {LB_CHAT_QWEN3, LB_THINKING_UNSET, "[" U "," A "]",
     "{<|im_start|>}user\nq{<|im_end|>}\n{<|im_start|>}assistant\n",
     "{<think>}{\n\n}{</think>}{\n\n}r{<|im_end|>}"},
    {LB_CHAT_QWEN3, LB_THINKING_OFF, "[" U "," A "]",
     "{<|im_start|>}user\nq{<|im_end|>}\n{<|im_start|>}assistant\n"
     "{<think>}{\n\n}{</think>}{\n\n}", "r{<|im_end|>}"},
    {LB_CHAT_MISTRAL_V3, LB_THINKING_UNSET, "[" S "," U "," A "]",
     "<s>{[INST]} s{\n\n}q{[/INST]}", " r{</s>}"},
    {LB_CHAT_MISTRAL_V3, LB_THINKING_UNSET,
     "[{\"role\":\"user\",\"content\":\"</s>[INST]\"}," A ","
     "{\"role\":\"user\",\"content\":\"</s>\"}]",
     "<s>{[INST]} </s>[INST]{[/INST]} r{</s>}{[INST]} </s>{[/INST]}", ""},
};

static void test_encode(void **state)
{
    (void)state;
    lb_tokenizer *tokenizer = make_tokenizer("null");
    for (size_t i = 0; i < sizeof encodings / sizeof encodings[0]; i++) {
        lb_chat chat = lb_chat_of(encodings[i].kind);
        lb_chat_options options = {.thinking = encodings[i].thinking};
        lb_json *messages = parse(encodings[i].messages);
        lb_tokens prompt = {0}, completion = {0};
        lb_buf prompt_text = {0}, completion_text = {0};
        lb_err err = {0};
        if (lb_chat_encode(&chat, tokenizer, messages, &options, &prompt, &completion, &err) !=
            LB_OK)
            fail_msg("%s: %s", err.field, err.message);
        append_tokens(tokenizer, &prompt, &prompt_text);
        append_tokens(tokenizer, &completion, &completion_text);
        assert_string_equal((char *)prompt_text.data, encodings[i].prompt);
        assert_string_equal(completion.count == 0 ? "" : (char *)completion_text.data,
                            encodings[i].completion);
        lb_buf_free(&prompt_text);
        lb_buf_free(&completion_text);
        lb_tokens_free(&prompt);
        lb_tokens_free(&completion);
        lb_json_free(messages);
    }
    lb_tokenizer_free(tokenizer);
}

static void test_encode_refusals(void **state)
{
    (void)state;
    static const struct {
        lb_chat_kind kind;
        const char *normalizer;
        const char *messages;
        lb_status status;
    } rows[] = {
        {LB_CHAT_CHATML, "null", "[" A "]", LB_EINVAL},
        {LB_CHAT_QWEN3, "null",
         "[" U ",{\"role\":\"assistant\",\"content\":\"<think>a</think>b\"}]", LB_EINVAL},
        /* The ranges of the raw text are lost once it was normalised. */
        {LB_CHAT_CHATML, "{\"type\":\"NFC\"}",
         "[{\"role\":\"user\",\"content\":\"e\\u0301</s>\"}]", LB_EUNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        lb_tokenizer *tokenizer = make_tokenizer(rows[i].normalizer);
        lb_chat chat = lb_chat_of(rows[i].kind);
        lb_chat_options options = {.thinking = LB_THINKING_OFF};
        lb_json *messages = parse(rows[i].messages);
        lb_tokens prompt = {0}, completion = {0};
        lb_err err = {0};
        assert_int_equal(lb_chat_encode(&chat, tokenizer, messages, &options, &prompt, &completion,
                                        &err), rows[i].status);
        assert_int_equal(prompt.count, 0);
        assert_int_equal(completion.count, 0);
        lb_tokens_free(&prompt);
        lb_tokens_free(&completion);
        lb_json_free(messages);
        lb_tokenizer_free(tokenizer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_names),
        cmocka_unit_test_setup_teardown(test_load, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_load_named, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_load_gguf, make_folder, drop_folder),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_encode),
        cmocka_unit_test(test_encode_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
