/* SPDX-License-Identifier: Apache-2.0
 *
 * The recorded models of tests/golden (made by make_model_vectors.py with Transformers, PEFT and
 * PyTorch in f32) and a model of ours loaded from one of them.
 */
#ifndef LB_TESTS_NUMERIC_GOLDEN_H
#define LB_TESTS_NUMERIC_GOLDEN_H

#include "common/base/json.h"
#include "common/io/file.h"
#include "common/model/model.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN_TOKENS_MAX 64
#define GOLDEN_SEQUENCES_MAX 16

static const char *const golden_names[] = {"qwen3-tiny",        "llama-tiny",   "llama3-tiny",
                                           "qwen2-tiny",        "smollm2-tiny", "mistral-tiny",
                                           "qwen2-shards-tiny"};
#define GOLDEN_COUNT (sizeof golden_names / sizeof *golden_names)

typedef struct golden {
    lb_buf text;
    lb_json *root;
    uint32_t tokens[GOLDEN_SEQUENCES_MAX][GOLDEN_TOKENS_MAX];
    lb_sequence sequences[GOLDEN_SEQUENCES_MAX];
    size_t count;
    char dir[128];
} golden;

static inline void golden_open(const char *name, golden *g)
{
    lb_err err = {0};
    char path[192];
    memset(g, 0, sizeof *g);
    snprintf(g->dir, sizeof g->dir, "tests/golden/%s", name);
    snprintf(path, sizeof path, "%s/vectors.json", g->dir);
    assert_int_equal(lb_file_read(path, 16 << 20, &g->text, &err), LB_OK);
    assert_int_equal(lb_json_parse((const char *)g->text.data, g->text.length, &g->root, &err),
                     LB_OK);
    const lb_json *sequences = lb_json_get(g->root, "sequences");
    g->count = lb_json_array_size(sequences);
    assert_true(g->count > 3 && g->count <= GOLDEN_SEQUENCES_MAX);
    for (size_t s = 0; s < g->count; s++) {
        const lb_json *tokens = lb_json_get(lb_json_at(sequences, s), "tokens");
        size_t n = lb_json_array_size(tokens);
        assert_true(n > 0 && n <= GOLDEN_TOKENS_MAX);
        for (size_t t = 0; t < n; t++)
            g->tokens[s][t] = (uint32_t)lb_json_integer(lb_json_at(tokens, t));
        g->sequences[s] = (lb_sequence){g->tokens[s], (uint32_t)n};
    }
}

static inline void golden_close(golden *g)
{
    lb_json_free(g->root);
    lb_buf_free(&g->text);
}

static inline const lb_json *golden_array(const golden *g, size_t sequence, const char *key)
{
    return lb_json_get(lb_json_at(lb_json_get(g->root, "sequences"), sequence), key);
}

static inline bool golden_is_bf16(const golden *g)
{
    return strcmp(lb_json_string(lb_json_get(g->root, "dtype")), "bfloat16") == 0;
}

typedef struct fixture {
    lb_backend *backend;
    lb_model *model;
    lb_adapter *adapter;
    lb_lora_layout layout;
    float *flat;
} fixture;

typedef struct fixture_options {
    const char *isa;
    uint32_t threads, max_tokens;
    lb_dtype dtype;
    size_t activation_bytes;
} fixture_options;

static inline void fixture_open(const char *dir, fixture_options o, fixture *f)
{
    lb_err err = {0};
    char adapter[192];
    memset(f, 0, sizeof *f);
    lb_model_options options = {.dtype = o.dtype, .max_tokens = o.max_tokens,
                                .trainable = lb_dtype_has_backward(o.dtype),
                                .activation_bytes = o.activation_bytes};
    assert_int_equal(lb_backend_open("cpu", o.threads, o.isa, &f->backend, &err), LB_OK);
    if (lb_model_load(f->backend, dir, &options, &f->model, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    snprintf(adapter, sizeof adapter, "%s/adapter", dir);
    if (lb_lora_load(adapter, lb_model_get_config(f->model), &f->layout, &f->flat, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    assert_int_equal(lb_adapter_create(f->model, &f->layout, f->flat, &f->adapter, &err), LB_OK);
}

static inline void fixture_close(fixture *f)
{
    lb_adapter_free(f->adapter);
    lb_lora_layout_free(&f->layout);
    free(f->flat);
    lb_model_free(f->model);
    lb_backend_close(f->backend);
}

#endif
