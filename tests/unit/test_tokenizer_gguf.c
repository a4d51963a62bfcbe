/* SPDX-License-Identifier: Apache-2.0
 *
 * The tokenizer in a GGUF file: what `pre` stands for, tokens by their type, the begin token, and
 * what is refused.
 */
#include "common/io/gguf.h"
#include "common/text/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/gguf_writer.h"

/* What a test says of a file; NULL and 0 leave the key out or take the default. */
typedef struct spec {
    const char *model, *pre;
    int bos;                 /* add_bos_token: -1 is absent */
    uint32_t bos_id;
    size_t types;            /* entries of token_type; 0: as many as tokens */
    const char *merge;       /* instead of the last */
} spec;

static const char *const tokens[] = {
    "<s>", "</s>", "a", "b", "1", "2", "ab", "12", "\xc4\xa0", "\xc4\xa0" "a", "<think>", "[PAD11]",
};
#define TOKENS (sizeof tokens / sizeof *tokens)
static const uint32_t types[TOKENS] = {3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 5};

static lb_status load(const spec *s, lb_tokenizer **out, lb_err *err)
{
    gguf_writer w = {0};
    lb_buf image = {0};
    lb_gguf *file = NULL;
    const char *merges[] = {"a b", "1 2", s->merge ? s->merge : "\xc4\xa0 a"};
    gw_string(&w, "tokenizer.ggml.model", s->model ? s->model : "gpt2");
    gw_string(&w, "tokenizer.ggml.pre", s->pre);
    gw_strings(&w, "tokenizer.ggml.tokens", tokens, TOKENS);
    gw_array(&w, "tokenizer.ggml.token_type", GW_I32, s->types ? s->types : TOKENS);
    for (size_t i = 0; i < (s->types ? s->types : TOKENS); i++)
        lb_buf_u32(&w.keys, types[i % TOKENS]);
    gw_strings(&w, "tokenizer.ggml.merges", merges, 3);
    if (s->bos >= 0)
        gw_bool(&w, "tokenizer.ggml.add_bos_token", (uint8_t)s->bos);
    gw_u32(&w, "tokenizer.ggml.bos_token_id", s->bos_id);
    gw_finish(&w, &image);
    assert_int_equal(lb_gguf_open(image.data, image.length, &file, err), LB_OK);
    lb_status status = lb_tokenizer_from_gguf(file, out, err);
    lb_gguf_close(file);
    lb_buf_free(&image);
    gw_free(&w);
    return status;
}

static void check_ids(const spec *s, const char *text, bool special, const uint32_t *ids,
                      size_t count)
{
    lb_tokenizer *tokenizer = NULL;
    lb_tokens found = {0};
    lb_err err = {0};
    if (load(s, &tokenizer, &err) != LB_OK ||
        lb_tokenizer_encode(tokenizer, text, strlen(text), special, true, &found, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    if (found.count != count || memcmp(found.ids, ids, count * sizeof *ids) != 0) {
        for (size_t i = 0; i < found.count; i++)
            print_message("%u ", found.ids[i]);
        fail_msg("\"%s\" with %s", text, s->pre);
    }
    lb_tokens_free(&found);
    lb_tokenizer_free(tokenizer);
}

#define IDS(...) (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4

/* smollm and qwen2 take digits one by one, llama-bpe up to three, gpt-2 all of them. */
static void test_pre_tokenizers(void **state)
{
    (void)state;
    spec s = {.pre = "smollm", .bos = -1};
    check_ids(&s, "ab12 a", true, IDS(6, 4, 5, 9));
    s.pre = "qwen2";
    check_ids(&s, "ab12 a", true, IDS(6, 4, 5, 9));
    s.pre = "gpt-2";
    check_ids(&s, "ab12 a", true, IDS(6, 7, 9));
    s.pre = "llama-bpe";
    s.bos = 0;
    check_ids(&s, "ab12 a", true, IDS(6, 7, 9));
}

static void test_special_tokens(void **state)
{
    (void)state;
    spec s = {.pre = "gpt-2", .bos = -1};
    check_ids(&s, "<s>a<think>", true, IDS(0, 2, 10));
    s.bos = 1;
    s.bos_id = 1;
    check_ids(&s, "a", true, IDS(1, 2));
    s.pre = "llama-bpe";
    s.bos = -1;   /* which puts one by default */
    s.bos_id = 0;
    check_ids(&s, "a", true, IDS(0, 2));
    lb_tokenizer *tokenizer = NULL;
    assert_int_equal(load(&s, &tokenizer, NULL), LB_OK);
    assert_true(lb_tokenizer_is_special(tokenizer, 0));
    assert_false(lb_tokenizer_is_special(tokenizer, 10));
    assert_true(lb_tokenizer_has_text(tokenizer, 10));
    assert_false(lb_tokenizer_has_text(tokenizer, 11));   /* padding is no token */
    lb_tokenizer_free(tokenizer);
}

static void test_refusals(void **state)
{
    (void)state;
    const struct {
        spec spec;
        const char *field;
        lb_status status;
    } rows[] = {
        {{.model = "llama", .pre = "default"}, "tokenizer.ggml.model", LB_EUNSUPPORTED},
        {{.model = "gpt2x", .pre = "smollm"}, "tokenizer.ggml.model", LB_EUNSUPPORTED},
        {{.pre = "tekken"}, "tokenizer.ggml.pre", LB_EUNSUPPORTED},
        {{.pre = "smollm", .types = 3}, "tokenizer.ggml.token_type", LB_EDATA},
        {{.pre = "smollm", .types = TOKENS + 1}, "tokenizer.ggml.token_type", LB_EDATA},
        {{.pre = "smollm", .bos = 1, .bos_id = TOKENS}, "tokenizer.ggml.bos_token_id", LB_EDATA},
        {{.pre = "smollm", .bos = 1, .bos_id = UINT32_MAX}, "tokenizer.ggml.bos_token_id",
         LB_EDATA},
        {{.pre = "smollm", .merge = "a z"}, "model.merges[2]", LB_EDATA},
        {{.pre = "smollm", .merge = "\xff a"}, "tokenizer.ggml.merges", LB_EDATA},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lb_tokenizer *tokenizer = NULL;
        lb_err err = {0};
        lb_status status = load(&rows[i].spec, &tokenizer, &err);
        if (status != rows[i].status || strcmp(err.field, rows[i].field) != 0)
            fail_msg("row %zu: %s: %s", i, err.field, err.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pre_tokenizers),
        cmocka_unit_test(test_special_tokens),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
