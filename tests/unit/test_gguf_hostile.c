/* SPDX-License-Identifier: Apache-2.0
 *
 * A well-formed model's GGUF image with one field at a time set to every edge: each is refused with
 * the field's name, or it is on the list of what may legitimately be accepted. Then the same image
 * cut at every byte.
 */
#include "common/io/config.h"
#include "common/io/gguf.h"
#include "tests/gguf_writer.h"

#include <stdlib.h>

#define V 6u
#define D 32u

static const float values[V * D];

/* A llama of one block, as far as the reader and the config are concerned. */
static void write_model(gguf_writer *w)
{
    static const char *const tokens[] = {"a", "bc", "", "def", "g", "</s>"};
    static const uint64_t embedding[] = {D, V}, factors[] = {8}, cube[] = {2, 3, 2, 1};
    uint8_t blocks[64] = {0};
    gw_string(w, "general.architecture", "llama");
    gw_u32(w, "general.alignment", 32);
    gw_u32(w, "llama.embedding_length", D);
    gw_u32(w, "llama.block_count", 1);
    gw_u32(w, "llama.attention.head_count", 2);
    gw_u32(w, "llama.attention.head_count_kv", 1);
    gw_u32(w, "llama.feed_forward_length", 64);
    gw_u32(w, "llama.context_length", 128);
    gw_u32(w, "llama.attention.key_length", 16);
    gw_u32(w, "llama.attention.value_length", 16);
    gw_u32(w, "llama.rope.dimension_count", 16);
    gw_u32(w, "llama.expert_count", 0);
    gw_string(w, "llama.rope.scaling.type", "none");
    gw_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5);
    gw_f32(w, "llama.rope.freq_base", 10000.0);
    gw_strings(w, "tokenizer.ggml.tokens", tokens, V);
    gw_array(w, "tokenizer.ggml.token_type", GW_I32, V);
    for (uint32_t i = 0; i < V; i++)
        lb_buf_u32(&w->keys, 1);
    gw_u32(w, "tokenizer.ggml.eos_token_id", V - 1);
    gw_bool(w, "tokenizer.ggml.add_bos_token", 0);
    gw_tensor(w, "token_embd.weight", LB_GGUF_F32, 2, embedding, values, sizeof values);
    gw_tensor(w, "rope_freqs.weight", LB_GGUF_F32, 1, factors, values, 32);
    gw_tensor(w, "blk.0.attn_q.weight", LB_GGUF_Q8_0, 1, (const uint64_t[]){32}, blocks, 34);
    gw_tensor(w, "cube", LB_GGUF_F16, 4, cube, blocks, 24);
}

/* Opens a copy that ends where its allocation ends, reads all of it and its config. */
static lb_status read_copy(const uint8_t *data, size_t length, lb_err *err)
{
    lb_gguf *file = NULL;
    lb_model_config config;
    float out[LB_GGUF_BLOCK_MAX], sum = 0.0f;
    uint8_t *copy = malloc(length ? length : 1);
    assert_non_null(copy);
    memcpy(copy, data, length);
    lb_status status = lb_gguf_open(copy, length, &file, err);
    assert_int_equal(status == LB_OK, file != NULL);
    for (size_t i = 0; file && i < lb_gguf_count(file); i++) {
        const lb_gguf_tensor *t = lb_gguf_at(file, i);
        size_t block = 0, bytes = 0;
        assert_true(lb_gguf_block(t->type, &block, &bytes));
        assert_true(t->data >= copy && t->bytes <= (size_t)(copy + length - t->data));
        for (size_t at = 0; at < t->bytes; at += bytes) {
            lb_gguf_expand(t->type, t->data + at, block, out);
            sum += out[0];
        }
    }
    assert_true(sum <= 0.0f || sum > 0.0f || isnan(sum));
    if (status == LB_OK)
        status = lb_config_from_gguf(file, &config, err);
    lb_gguf_close(file);
    free(copy);
    return status;
}

/* ---- one field at a time ---- */

static const uint64_t edges[] = {
    0, 1, 2, 3, 4, 8, 9, 13, 14, 16, 32, 255, 65536, (1ull << 31) - 1, 1ull << 31,
    (1ull << 32) - 1, 1ull << 32, (1ull << 32) + 1, (1ull << 61), (1ull << 62) + 1,
    (1ull << 63) - 1, 1ull << 63, UINT64_MAX - 31, UINT64_MAX - 7, UINT64_MAX,
};
#define EDGE_COUNT (sizeof edges / sizeof *edges)

static uint64_t get(const uint8_t *data, unsigned width)
{
    uint64_t value = 0;
    for (unsigned i = width; i > 0; i--)
        value = value << 8 | data[i - 1];
    return value;
}

static void set(uint8_t *data, unsigned width, uint64_t value)
{
    for (unsigned i = 0; i < width; i++)
        data[i] = (uint8_t)(value >> (8 * i));
}

/* Values that leave the file well formed, by key or tensor and field. */
static bool is_legitimate(const gw_mark *m, uint64_t kept, uint64_t value)
{
    static const struct {
        const char *of, *what;
        uint64_t min, max;
    } rows[] = {
        {"", "version", 2, 3},
        {"", "n_tensors", 1, 3},   /* the first ones; the rest of the table is taken for data */
        {"general.alignment", "value", 8, 8},
        {"general.alignment", "value", 16, 16},
        {"llama.block_count", "value", 1, LB_CONFIG_LAYERS_MAX},
        {"llama.feed_forward_length", "value", 1, LB_CONFIG_HIDDEN_MAX * 8},
        {"llama.context_length", "value", 1, LB_CONFIG_POSITIONS_MAX},
        {"llama.embedding_length", "value", 1, LB_CONFIG_HIDDEN_MAX},   /* key_length is given */
        {"llama.attention.head_count", "value", 1, LB_CONFIG_HEADS_MAX},  /* kv is 1 */
        {"llama.attention.head_count_kv", "value", 1, 2},
        {"tokenizer.ggml.eos_token_id", "value", 0, V - 1},
        {"tokenizer.ggml.add_bos_token", "value", 0, 1},
        {"tokenizer.ggml.add_bos_token", "type", GW_U8, GW_I8},
        {"tokenizer.ggml.token_type", "item type", GW_U32, GW_F32},
        /* The reader takes what the loader's shapes will refuse. */
        {"token_embd.weight", "dimension 0", 1, D},
        {"token_embd.weight", "tensor type", LB_GGUF_F16, LB_GGUF_Q4_1},
        {"token_embd.weight", "tensor type", LB_GGUF_Q8_0, LB_GGUF_Q8_0},
        {"rope_freqs.weight", "dimension 0", 1, 8},
        {"rope_freqs.weight", "tensor type", LB_GGUF_F16, LB_GGUF_F16},
        {"blk.0.attn_q.weight", "tensor type", LB_GGUF_F16, LB_GGUF_Q4_1},
        {"cube", "dimension 0", 1, 2},
        {"cube", "dimension 1", 1, 3},
        {"cube", "dimension 2", 1, 2},
    };
    if (strcmp(m->what, "type") == 0 && kept == GW_U32 && value == GW_I32)
        return true;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strcmp(m->of, rows[i].of) == 0 && strcmp(m->what, rows[i].what) == 0 &&
            value >= rows[i].min && value <= rows[i].max)
            return true;
    }
    return false;
}

/* What the error's field must be; NULL where the value shifts what follows or spoils another field,
 * and any field will do. */
static const char *named(const gw_mark *m, uint64_t value)
{
    if (m->part == GW_IN_HEADER)
        return strncmp(m->what, "n_", 2) != 0 || value > 65535 ? m->what : NULL;
    if (strcmp(m->what, "value") == 0)
        return strcmp(m->of, "llama.attention.key_length") == 0 || value == 65536 ? NULL : m->of;
    if (strcmp(m->what, "item type") == 0 || strcmp(m->what, "count") == 0)
        return value > 65536 ? m->of : NULL;
    if (strcmp(m->what, "rank") == 0)
        return value == 0 || value > LB_GGUF_RANK_MAX ? m->of : NULL;
    if (strncmp(m->what, "dimension", 9) == 0)
        return value == 0 || value > 255 ? m->of : NULL;
    if (strcmp(m->what, "offset") == 0)
        return value > 4096 ? m->of : NULL;
    return strcmp(m->what, "tensor type") == 0 ? m->of : NULL;
}

static void test_every_field_at_every_edge(void **state)
{
    gguf_writer w = {0};
    lb_buf image = {0};
    size_t refused = 0, accepted = 0;
    (void)state;
    write_model(&w);
    gw_finish(&w, &image);
    assert_int_equal(read_copy(image.data, image.length, NULL), LB_OK);
    for (size_t i = 0; i < w.mark_count; i++) {
        const gw_mark *m = &w.marks[i];
        uint64_t kept = get(image.data + m->at, m->width);
        for (size_t e = 0; e < EDGE_COUNT + 2; e++) {
            lb_err err = {0};
            uint64_t value = e < EDGE_COUNT ? edges[e] : e == EDGE_COUNT ? kept + 1 : kept - 1;
            if (value == kept || (m->width < 8 && value >> (8 * m->width) != 0))
                continue;
            set(image.data + m->at, m->width, value);
            lb_status status = read_copy(image.data, image.length, &err);
            bool fine = is_legitimate(m, kept, value) ? status == LB_OK
                                                      : status != LB_OK && err.field[0] != '\0';
            const char *name = status == LB_OK ? NULL : named(m, value);
            if (!fine || (name && strcmp(err.field, name) != 0))
                fail_msg("%s of '%s' = %llu: %s, field '%s': %s", m->what, m->of,
                         (unsigned long long)value, lb_status_name(status), err.field,
                         err.message);
            refused += status != LB_OK;
            accepted += status == LB_OK;
        }
        set(image.data + m->at, m->width, kept);
    }
    printf("%zu fields: %zu values refused, %zu accepted\n", w.mark_count, refused, accepted);
    assert_true(refused > 1000);
    lb_buf_free(&image);
    gw_free(&w);
}

static void test_cut_at_every_byte(void **state)
{
    gguf_writer w = {0};
    lb_buf image = {0};
    (void)state;
    write_model(&w);
    gw_finish(&w, &image);
    for (size_t length = 0; length < image.length; length++) {
        lb_err err = {0};
        assert_int_not_equal(read_copy(image.data, length, &err), LB_OK);
        assert_true(err.field[0] != '\0');
    }
    lb_buf_free(&image);
    gw_free(&w);
}

static void test_every_bit(void **state)
{
    gguf_writer w = {0};
    lb_buf image = {0};
    (void)state;
    write_model(&w);
    gw_finish(&w, &image);
    size_t head = GW_HEADER + w.keys.length + w.table.length;
    for (size_t i = 0; i < head * 8; i++) {
        lb_err err = {0};
        image.data[i / 8] ^= (uint8_t)(1u << i % 8);
        if (read_copy(image.data, image.length, &err) != LB_OK)
            assert_true(err.field[0] != '\0');
        image.data[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    lb_buf_free(&image);
    gw_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_field_at_every_edge),
        cmocka_unit_test(test_cut_at_every_byte),
        cmocka_unit_test(test_every_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
