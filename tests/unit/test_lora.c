/* SPDX-License-Identifier: Apache-2.0
 *
 * The adapter's layout, initial values and PEFT files, hostile ones among them.
 */
#include "common/base/rng.h"
#include "common/io/file.h"
#include "common/io/safetensors.h"
#include "common/model/lora.h"

#include <math.h>
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
#define A0 "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

/* Every size differs from every other, so that a mixed-up dimension shows. */
static const lb_model_config tiny = {
    .family = LB_FAMILY_QWEN3, .vocab = 11, .hidden = 6, .layers = 3, .heads = 4, .kv_heads = 2,
    .head_dim = 2, .mlp = 10, .max_positions = 16, .rms_eps = 1e-6, .tied = true, .qk_norm = true,
};

static void make_layout(uint32_t targets, lb_lora_layout *out)
{
    const lb_lora_config config = {.rank = 3, .alpha = 6, .targets = targets};
    assert_int_equal(lb_lora_layout_create(&tiny, &config, out, NULL), LB_OK);
}

/* ---- layout ---- */

static void test_layout_order_and_shapes(void **state)
{
    static const struct {
        lb_projection projection;
        const char *module;
        uint32_t in, out;
    } rows[] = {
        {LB_PROJ_Q, "self_attn.q_proj", 6, 8},  {LB_PROJ_K, "self_attn.k_proj", 6, 4},
        {LB_PROJ_V, "self_attn.v_proj", 6, 4},  {LB_PROJ_O, "self_attn.o_proj", 8, 6},
        {LB_PROJ_GATE, "mlp.gate_proj", 6, 10}, {LB_PROJ_UP, "mlp.up_proj", 6, 10},
        {LB_PROJ_DOWN, "mlp.down_proj", 10, 6},
    };
    (void)state;
    lb_lora_layout layout = {0};
    size_t offset = 0, n = 0;
    make_layout(LB_LORA_ALL_TARGETS, &layout);
    assert_int_equal(layout.count, 3 * LB_PROJ_COUNT * 2);
    for (uint32_t layer = 0; layer < 3; layer++) {
        for (size_t r = 0; r < LB_PROJ_COUNT; r++) {
            for (int is_b = 0; is_b < 2; is_b++, n++) {
                char name[96];
                const lb_lora_tensor *t = &layout.tensors[n];
                snprintf(name, sizeof name, "base_model.model.model.layers.%u.%s.lora_%c.weight",
                         layer, rows[r].module, is_b ? 'B' : 'A');
                assert_string_equal(t->name, name);
                assert_int_equal(t->rows, is_b ? rows[r].out : 3);
                assert_int_equal(t->cols, is_b ? 3 : rows[r].in);
                assert_int_equal(t->offset, offset);
                assert_ptr_equal(lb_lora_find(&layout, layer, rows[r].projection, is_b), t);
                offset += (size_t)t->rows * t->cols;
            }
        }
    }
    assert_int_equal(layout.elements, offset);
    assert_null(lb_lora_find(&layout, 3, LB_PROJ_Q, false));
    assert_null(lb_lora_find(&layout, 0, LB_PROJ_COUNT, false));
    lb_lora_layout_free(&layout);
    lb_lora_layout_free(&layout);
    lb_lora_layout_free(NULL);
}

/* Every set of targets: what is in it is found under its own name, what is not is not. */
static void test_layout_of_every_target_set(void **state)
{
    (void)state;
    for (uint32_t targets = 1; targets <= LB_LORA_ALL_TARGETS; targets++) {
        lb_lora_layout layout = {0};
        make_layout(targets, &layout);
        assert_int_equal(layout.count, 6 * (size_t)__builtin_popcount(targets));
        for (uint32_t layer = 0; layer < 3; layer++) {
            for (int i = 0; i < 2 * LB_PROJ_COUNT; i++) {
                lb_projection p = (lb_projection)(i / 2);
                const lb_lora_tensor *t = lb_lora_find(&layout, layer, p, i % 2);
                assert_int_equal(t != NULL, (targets >> p) & 1);
                if (!t)
                    continue;
                assert_int_equal(t->layer, layer);
                assert_int_equal(t->projection, p);
                assert_int_equal(t->is_b, i % 2);
            }
        }
        lb_lora_layout_free(&layout);
    }
}

static void test_layout_refusals(void **state)
{
    static const struct {
        lb_lora_config config;
        const char *field;
    } cases[] = {
        {{0, 1, 1, 0}, "lora.r"},
        {{LB_LORA_RANK_MAX + 1, 1, 1, 0}, "lora.r"},
        {{4, 0, 1, 0}, "lora.alpha"},
        {{4, -1, 1, 0}, "lora.alpha"},
        {{4, (double)NAN, 1, 0}, "lora.alpha"},
        {{4, (double)INFINITY, 1, 0}, "lora.alpha"},
        {{4, 1, 0, 0}, "lora.target_modules"},
        {{4, 1, LB_LORA_ALL_TARGETS + 1, 0}, "lora.target_modules"},
        {{4, 1, 1u << 31 | 1, 0}, "lora.target_modules"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_lora_layout layout = {.count = 77};
        lb_err err = {0};
        assert_int_equal(lb_lora_layout_create(&tiny, &cases[i].config, &layout, &err),
                         LB_EINVAL);
        assert_string_equal(err.field, cases[i].field);
        assert_int_equal(layout.count, 77);
        assert_int_equal(lb_lora_layout_create(&tiny, &cases[i].config, &layout, NULL),
                         LB_EINVAL);
    }
}

/* A follows from the documented counter alone and fills its interval; B is zero. */
static void test_init(void **state)
{
    (void)state;
    lb_lora_layout layout = {0};
    make_layout(LB_LORA_ALL_TARGETS, &layout);
    float *flat = malloc(layout.elements * sizeof *flat);
    float *other = malloc(layout.elements * sizeof *other);
    memset(flat, 0xff, layout.elements * sizeof *flat);
    lb_lora_init(&layout, 5, flat);
    for (size_t i = 0; i < layout.count; i++) {
        const lb_lora_tensor *t = &layout.tensors[i];
        float bound = (float)(1.0 / sqrt((double)t->cols));
        for (size_t e = 0; e < (size_t)t->rows * t->cols; e++) {
            uint32_t word[4];
            lb_rng_block(5, (uint32_t[4]){LB_RNG_INIT, (uint32_t)i, (uint32_t)(e / 4), 0}, word);
            float want = t->is_b ? 0.0f : (2.0f * lb_rng_uniform(word[e % 4]) - 1.0f) * bound;
            assert_memory_equal(&flat[t->offset + e], &want, sizeof want);
            assert_true(fabsf(want) <= bound);
        }
    }
    lb_lora_init(&layout, 5, other);
    assert_memory_equal(flat, other, layout.elements * sizeof *flat);
    lb_lora_init(&layout, 6, other);
    assert_memory_not_equal(flat, other, layout.elements * sizeof *flat);
    free(flat);
    free(other);
    lb_lora_layout_free(&layout);
}

/* ---- adapter_model.safetensors ---- */

/* The sources of an encoded adapter, for a test to change before it writes them. */
static size_t sources_of(const lb_lora_layout *layout, const float *flat, lb_st_source *out)
{
    for (size_t i = 0; i < layout->count; i++) {
        const lb_lora_tensor *t = &layout->tensors[i];
        out[i] = (lb_st_source){.name = t->name, .dtype = LB_ST_F32, .rank = 2,
                                .shape = {t->rows, t->cols}, .data = flat + t->offset};
    }
    return layout->count;
}

static lb_status decode(const lb_lora_layout *layout, const lb_st_source *sources, size_t count,
                        float *out, lb_err *err)
{
    lb_buf image = {0};
    assert_int_equal(lb_safetensors_write(sources, count, NULL, 0, &image, NULL), LB_OK);
    lb_status status = lb_lora_decode(layout, image.data, image.length, out, err);
    lb_buf_free(&image);
    return status;
}

static void test_round_trip(void **state)
{
    static const uint32_t sets[] = {LB_LORA_ALL_TARGETS, 1u << LB_PROJ_V,
                                    1u << LB_PROJ_O | 1u << LB_PROJ_DOWN};
    (void)state;
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        lb_lora_layout layout = {0};
        lb_buf first = {0}, second = {0};
        make_layout(sets[s], &layout);
        float *flat = calloc(layout.elements, sizeof *flat);
        float *back = calloc(layout.elements, sizeof *back);
        for (size_t i = 0; i < layout.elements; i++)
            flat[i] = (float)i * (i % 2 ? -0.37f : 1e-30f);
        assert_int_equal(lb_lora_encode(&layout, flat, &first, NULL), LB_OK);
        assert_int_equal(lb_lora_encode(&layout, flat, &second, NULL), LB_OK);
        assert_int_equal(first.length, second.length);
        assert_memory_equal(first.data, second.data, first.length);
        assert_int_equal(lb_lora_decode(&layout, first.data, first.length, back, NULL), LB_OK);
        assert_memory_equal(back, flat, layout.elements * sizeof *flat);
        lb_buf_free(&first);
        lb_buf_free(&second);
        free(flat);
        free(back);
        lb_lora_layout_free(&layout);
    }
}

/* PEFT's files leave the adapter's name out, its state has it; a mixture is neither. */
static void test_adapter_names(void **state)
{
    static const struct {
        const char *even, *odd;    /* what stands before ".weight" in every other tensor */
        lb_status status;
    } cases[] = {
        {"", "", LB_OK}, {".default", ".default", LB_OK}, {".my-run_3", ".my-run_3", LB_OK},
        {"", ".default", LB_EDATA}, {".default", ".other", LB_EDATA}, {".a.b", ".a.b", LB_EDATA},
        {".", ".", LB_EDATA},
    };
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        lb_lora_layout layout = {0};
        lb_st_source sources[TENSORS_MAX];
        char names[TENSORS_MAX][160];
        make_layout(LB_LORA_ALL_TARGETS, &layout);
        float *flat = calloc(layout.elements, sizeof *flat);
        float *back = calloc(layout.elements, sizeof *back);
        for (size_t i = 0; i < layout.elements; i++)
            flat[i] = (float)i;
        size_t count = sources_of(&layout, flat, sources);
        for (size_t i = 0; i < count; i++) {
            const char *name = layout.tensors[i].name;
            snprintf(names[i], sizeof names[i], "%.*s%s.weight",
                     (int)(strlen(name) - strlen(".weight")), name,
                     i % 2 ? cases[c].odd : cases[c].even);
            sources[i].name = names[i];
        }
        assert_int_equal(decode(&layout, sources, count, back, NULL), cases[c].status);
        if (cases[c].status == LB_OK) {
            lb_err err = {0};
            assert_memory_equal(back, flat, layout.elements * sizeof *flat);
            sources[count] = sources[0];
            sources[count].name = "stranger";
            assert_int_equal(decode(&layout, sources, count + 1, back, &err), LB_EDATA);
            assert_string_equal(err.field, "stranger");
        }
        free(flat);
        free(back);
        lb_lora_layout_free(&layout);
    }
}

/* -1.5 is exact in each type. */
static void test_reads_half_types(void **state)
{
    static const struct {
        lb_st_dtype dtype;
        uint16_t value;
    } cases[] = {{LB_ST_BF16, 0xbfc0}, {LB_ST_F16, 0xbe00}};
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        lb_lora_layout layout = {0};
        lb_st_source sources[TENSORS_MAX];
        make_layout(LB_LORA_ALL_TARGETS, &layout);
        float *flat = calloc(layout.elements, sizeof *flat);
        uint16_t *half = calloc(layout.elements, sizeof *half);
        for (size_t i = 0; i < layout.elements; i++)
            half[i] = cases[c].value;
        size_t count = sources_of(&layout, flat, sources);
        for (size_t i = 0; i < count; i++) {
            sources[i].dtype = cases[c].dtype;
            sources[i].data = half + layout.tensors[i].offset;
        }
        assert_int_equal(decode(&layout, sources, count, flat, NULL), LB_OK);
        for (size_t i = 0; i < layout.elements; i++)
            assert_true(flat[i] == -1.5f);
        free(half);
        free(flat);
        lb_lora_layout_free(&layout);
    }
}

static void no_change(lb_st_source *s, size_t *count) { (void)s, (void)count; }
static void drop_last(lb_st_source *s, size_t *count) { (void)s, (*count)--; }
static void rename_first(lb_st_source *s, size_t *count)
{
    (void)count;
    s[0].name = "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight";
}
static void add_stranger(lb_st_source *s, size_t *count)
{
    s[*count] = (lb_st_source){.name = "stranger", .dtype = LB_ST_F32, .rank = 1, .shape = {1},
                               .data = s[0].data};
    (*count)++;
}
static void transpose(lb_st_source *s, size_t *count)
{
    (void)count;
    uint64_t rows = s[0].shape[0];
    s[0].shape[0] = s[0].shape[1];
    s[0].shape[1] = rows;
}
static void deepen(lb_st_source *s, size_t *count)
{
    (void)count;
    s[0].rank = 3;      /* the first two sizes are right */
    s[0].shape[2] = 1;
}
static void as_integers(lb_st_source *s, size_t *count)
{
    (void)count;
    s[0].dtype = LB_ST_I32;
}

static const struct {
    void (*change)(lb_st_source *sources, size_t *count);
    lb_status status;
    const char *field;
} tensor_cases[] = {
    {no_change, LB_OK, ""},
    {drop_last, LB_EDATA, "base_model.model.model.layers.2.mlp.down_proj.lora_B.weight"},
    {rename_first, LB_EDATA, A0},
    {add_stranger, LB_EDATA, "stranger"},
    {transpose, LB_EDATA, A0},
    {deepen, LB_EDATA, A0},
    {as_integers, LB_EDATA, A0},
};

static void test_wrong_tensors_are_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof tensor_cases / sizeof *tensor_cases; i++) {
        lb_lora_layout layout = {0};
        lb_st_source sources[TENSORS_MAX];
        lb_err err = {0};
        make_layout(LB_LORA_ALL_TARGETS, &layout);
        float *flat = calloc(layout.elements, sizeof *flat);
        size_t count = sources_of(&layout, flat, sources);
        assert_true(count < TENSORS_MAX);
        tensor_cases[i].change(sources, &count);
        assert_int_equal(decode(&layout, sources, count, flat, &err), tensor_cases[i].status);
        assert_string_equal(err.field, tensor_cases[i].field);
        free(flat);
        lb_lora_layout_free(&layout);
    }
}

static void test_values_must_be_finite(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    (void)state;
    lb_lora_layout layout = {0};
    make_layout(LB_LORA_ALL_TARGETS, &layout);
    float *flat = calloc(layout.elements, sizeof *flat);
    float *back = calloc(layout.elements, sizeof *back);
    for (size_t i = 0; i < layout.count * 3; i++) {
        const lb_lora_tensor *t = &layout.tensors[i / 3];
        lb_buf image = {0};
        lb_err err = {0};
        float *last = flat + t->offset + (size_t)t->rows * t->cols - 1;
        *last = bad[i % 3];
        assert_int_equal(lb_lora_encode(&layout, flat, &image, NULL), LB_OK);
        assert_int_equal(lb_lora_decode(&layout, image.data, image.length, back, &err), LB_EDATA);
        assert_string_equal(err.field, t->name);
        *last = 0.0f;
        lb_buf_free(&image);
    }
    free(flat);
    free(back);
    lb_lora_layout_free(&layout);
}

/* A copy of its own size each time, so that a sanitizer sees a read past it. */
static void test_cut_and_flipped_files(void **state)
{
    (void)state;
    lb_lora_layout layout = {0};
    lb_buf image = {0};
    make_layout(1u << LB_PROJ_K, &layout);
    float *flat = calloc(layout.elements, sizeof *flat);
    assert_int_equal(lb_lora_encode(&layout, flat, &image, NULL), LB_OK);
    for (size_t cut = 0; cut < image.length; cut++) {
        uint8_t *copy = malloc(cut ? cut : 1);
        memcpy(copy, image.data, cut);
        assert_int_not_equal(lb_lora_decode(&layout, copy, cut, flat, NULL), LB_OK);
        free(copy);
    }
    for (size_t bit = 0; bit < image.length * 8; bit++) {
        image.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        lb_status status = lb_lora_decode(&layout, image.data, image.length, flat, NULL);
        assert_true(status == LB_OK || status == LB_EDATA || status == LB_ETOOBIG);
        image.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(lb_lora_decode(&layout, NULL, 0, flat, NULL), LB_EDATA);
    lb_buf_free(&image);
    free(flat);
    lb_lora_layout_free(&layout);
}

/* ---- folders ---- */

static int make_folder(void **state)
{
    static char folder[] = "/tmp/test_lora_XXXXXX";
    memcpy(folder + sizeof folder - 7, "XXXXXX", 6);
    *state = mkdtemp(folder);
    return *state ? 0 : -1;
}

static const char *const folder_files[] = {
    "adapter_config.json", "adapter_model.safetensors",
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

static void test_adapter_folder(void **state)
{
    lb_lora_layout layout = {0};
    lb_model_config config;
    float *flat = NULL;
    lb_err err = {0};
    assert_int_equal(lb_config_load(GOLDEN, &config, NULL), LB_OK);
    assert_int_equal(lb_lora_load(*state, &config, &layout, &flat, &err), LB_ENOTFOUND);
    assert_non_null(strstr(err.message, "adapter_config.json"));
    copy_file(state, GOLDEN "/adapter/adapter_config.json", "adapter_config.json");
    assert_int_equal(lb_lora_load(*state, &config, &layout, &flat, &err), LB_ENOTFOUND);
    assert_non_null(strstr(err.message, "adapter_model.safetensors"));
    put(state, "adapter_model.safetensors", "", 0);
    assert_int_equal(lb_lora_load(*state, &config, &layout, &flat, &err), LB_EDATA);
    assert_null(flat);
    assert_null(layout.tensors);
    copy_file(state, GOLDEN "/adapter/adapter_model.safetensors", "adapter_model.safetensors");
    assert_int_equal(lb_lora_load(*state, &config, &layout, &flat, &err), LB_OK);
    assert_int_equal(layout.config.rank, 4);
    assert_int_equal(layout.count, config.layers * 2 * LB_PROJ_COUNT);
    free(flat);
    lb_lora_layout_free(&layout);
    config.hidden += 2;    /* the adapter of another model */
    assert_int_equal(lb_lora_load(*state, &config, &layout, &flat, &err), LB_EDATA);
    assert_string_equal(err.field, A0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout_order_and_shapes),
        cmocka_unit_test(test_layout_of_every_target_set),
        cmocka_unit_test(test_layout_refusals),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_adapter_names),
        cmocka_unit_test(test_reads_half_types),
        cmocka_unit_test(test_wrong_tensors_are_refused_by_name),
        cmocka_unit_test(test_values_must_be_finite),
        cmocka_unit_test(test_cut_and_flipped_files),
        cmocka_unit_test_setup_teardown(test_adapter_folder, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
