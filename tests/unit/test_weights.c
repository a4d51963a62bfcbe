/* SPDX-License-Identifier: Apache-2.0
 *
 * Model folders that must be refused by the tensor's name, and what sharding may not change.
 */
#include "common/io/file.h"
#include "common/io/safetensors.h"
#include "common/model/model.h"
#include "common/tensor/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_BYTES 512
#define TENSORS_MAX 64
#define GOLDEN "tests/golden/qwen3-tiny"

static int make_folder(void **state)
{
    static char folder[] = "/tmp/test_weights_XXXXXX";
    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    *state = mkdtemp(folder);
    return *state ? 0 : -1;
}

static const char *const folder_files[] = {
    "config.json", "model.safetensors", "model.safetensors.index.json", "one.safetensors",
    "two.safetensors",
};

static char *in(void **state, const char *name, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/%s", (char *)*state, name);
    return path;
}

static int remove_folder(void **state)
{
    char path[PATH_BYTES];
    for (size_t i = 0; i < sizeof folder_files / sizeof *folder_files; i++)
        unlink(in(state, folder_files[i], path));
    return rmdir(*state);
}

static void put(void **state, const char *name, const void *bytes, size_t length)
{
    char path[PATH_BYTES];
    assert_int_equal(lb_file_write(in(state, name, path), bytes, length, LB_WRITE_REPLACE, 0644,
                                   NULL), LB_OK);
}

static void copy_file(void **state, const char *from, const char *name)
{
    lb_buf bytes = {0};
    assert_int_equal(lb_file_read(from, 1 << 20, &bytes, NULL), LB_OK);
    put(state, name, bytes.data, bytes.length);
    lb_buf_free(&bytes);
}

/* ---- model folders ---- */

typedef struct golden_model {
    lb_mapping mapping;
    lb_safetensors *file;
    lb_st_source sources[TENSORS_MAX];
    size_t count;
} golden_model;

static void open_golden(golden_model *g)
{
    *g = (golden_model){0};
    assert_int_equal(lb_file_map(GOLDEN "/model.safetensors", &g->mapping, NULL), LB_OK);
    assert_int_equal(lb_safetensors_open(g->mapping.data, g->mapping.length, 1 << 20, &g->file,
                                         NULL), LB_OK);
    g->count = lb_safetensors_count(g->file);
    assert_true(g->count + 1 < TENSORS_MAX);
    for (size_t i = 0; i < g->count; i++) {
        const lb_st_tensor *t = lb_safetensors_at(g->file, i);
        g->sources[i] = (lb_st_source){.name = t->name, .dtype = t->dtype, .rank = t->rank,
                                       .data = t->data};
        memcpy(g->sources[i].shape, t->shape, sizeof t->shape);
    }
}

static void close_golden(golden_model *g)
{
    lb_safetensors_close(g->file);
    lb_file_unmap(&g->mapping);
}

static lb_st_source *named(golden_model *g, const char *name)
{
    for (size_t i = 0; i < g->count; i++) {
        if (strcmp(g->sources[i].name, name) == 0)
            return &g->sources[i];
    }
    fail_msg("the recorded model has no %s", name);
    return NULL;
}

static void put_tensors(void **state, const char *name, const lb_st_source *sources,
                        size_t count)
{
    lb_buf image = {0};
    assert_int_equal(lb_safetensors_write(sources, count, NULL, 0, &image, NULL), LB_OK);
    put(state, name, image.data, image.length);
    lb_buf_free(&image);
}

/* The status of loading the folder; digest: what a loaded model calls itself. */
static lb_status load(const char *dir, char digest[65], lb_err *err)
{
    lb_backend *backend = NULL;
    lb_model *model = NULL;
    const lb_model_options options = {.dtype = LB_F32};
    assert_int_equal(lb_backend_open("cpu", 1, "portable", &backend, NULL), LB_OK);
    lb_status status = lb_model_load(backend, dir, &options, &model, err);
    assert_int_equal(status == LB_OK, model != NULL);
    if (model && digest)
        snprintf(digest, 65, "%s", lb_model_digest(model));
    lb_model_free(model);
    lb_backend_close(backend);
    return status;
}

#define Q0 "model.layers.0.self_attn.q_proj.weight"
#define NORM1 "model.layers.1.input_layernorm.weight"

static void test_malformed_models(void **state)
{
    static const struct {
        const char *what, *name;   /* one change of one tensor */
        lb_status status;
    } cases[] = {
        {"none", NORM1, LB_OK},          {"missing", Q0, LB_EDATA},
        {"missing", NORM1, LB_EDATA},    {"missing", "model.embed_tokens.weight", LB_EDATA},
        {"swapped", "model.layers.1.mlp.up_proj.weight", LB_EDATA},
        {"flat", Q0, LB_EDATA},          {"square", NORM1, LB_EDATA},
        {"integer", Q0, LB_EUNSUPPORTED}, {"integer", NORM1, LB_EUNSUPPORTED},
        {"extra", "model.layers.2.self_attn.q_proj.weight", LB_EUNSUPPORTED},
        {"extra", "model.layers.0.self_attn.q_proj.bias", LB_EUNSUPPORTED},
        {"extra", "stranger", LB_EUNSUPPORTED},
        {"extra", "model.layers.0.self_attn.rotary_emb.inv_freq", LB_OK},
        {"extra", "lm_head.weight", LB_OK},   /* a tied head that is stored all the same */
    };
    copy_file(state, GOLDEN "/config.json", "config.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        golden_model g;
        lb_err err = {0};
        open_golden(&g);
        bool extra = strcmp(cases[i].what, "extra") == 0;
        lb_st_source *s = extra ? &g.sources[g.count++] : named(&g, cases[i].name);
        if (extra)
            *s = (lb_st_source){.name = cases[i].name, .dtype = LB_ST_F32, .rank = 1,
                                .shape = {1}, .data = g.sources[0].data};
        else if (strcmp(cases[i].what, "missing") == 0)
            *s = g.sources[--g.count];
        else if (strcmp(cases[i].what, "swapped") == 0)
            s->shape[0] = 32, s->shape[1] = 48;
        else if (strcmp(cases[i].what, "flat") == 0)
            s->rank = 1, s->shape[0] *= s->shape[1];
        else if (strcmp(cases[i].what, "square") == 0)
            s->rank = 2, s->shape[1] = 1;
        else if (strcmp(cases[i].what, "integer") == 0)
            s->dtype = LB_ST_I32;
        put_tensors(state, "model.safetensors", g.sources, g.count);
        assert_int_equal(load(*state, NULL, &err), cases[i].status);
        if (cases[i].status != LB_OK)
            assert_string_equal(err.field, cases[i].name);
        close_golden(&g);
    }
}

static void put_index(void **state, const char *second)
{
    char text[512];
    snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":{\"" Q0
             "\":\"one.safetensors\",\"" NORM1 "\":%s}}", second);
    put(state, "model.safetensors.index.json", text, strlen(text));
}

static void test_sharded_models(void **state)
{
    static const struct {
        const char *second;    /* the JSON value that names the second file */
        lb_status status;
        const char *field;
    } cases[] = {
        {"\"two.safetensors\"", LB_OK, ""},
        {"\"../two.safetensors\"", LB_EDATA, "weight_map"},
        {"\"/two.safetensors\"", LB_EDATA, "weight_map"},
        {"\"sub/two.safetensors\"", LB_EDATA, "weight_map"},
        {"\"..\"", LB_EDATA, "weight_map"},
        {"\"\"", LB_EDATA, "weight_map"},
        {"7", LB_EDATA, "weight_map"},
        {"null", LB_EDATA, "weight_map"},
        {"\"none.safetensors\"", LB_ENOTFOUND, ""},
        {"\"one.safetensors\"", LB_EDATA, NULL},   /* half of the tensors is missing */
    };
    golden_model g;
    char whole[65] = "", sharded[65] = "";
    assert_int_equal(load(GOLDEN, whole, NULL), LB_OK);
    copy_file(state, GOLDEN "/config.json", "config.json");
    open_golden(&g);
    size_t half = g.count / 2;
    put_tensors(state, "one.safetensors", g.sources, half);
    put_tensors(state, "two.safetensors", g.sources + half, g.count - half);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_err err = {0};
        put_index(state, cases[i].second);
        assert_int_equal(load(*state, sharded, &err), cases[i].status);
        if (cases[i].field)
            assert_string_equal(err.field, cases[i].field);
    }
    assert_string_equal(sharded, whole);
    assert_int_equal(strlen(whole), 64);
    put(state, "model.safetensors.index.json", "{}", 2);
    assert_int_equal(load(*state, NULL, NULL), LB_EDATA);
    char nested[2 * 2048 + 1];
    for (size_t i = 0; i < sizeof nested; i += 2)
        memcpy(nested + i, "[,", i + 1 < sizeof nested ? 2 : 1);
    lb_err err = {0};
    put(state, "model.safetensors.index.json", nested, sizeof nested);
    assert_int_equal(load(*state, NULL, &err), LB_ETOOBIG);
    assert_string_equal(err.field, "weight_map");
    close_golden(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_malformed_models, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_sharded_models, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
