/* SPDX-License-Identifier: Apache-2.0
 *
 * The GGUF reader: whatever it accepts keeps its promises, every getter and every block format runs
 * on it, and so does the model's config. Half of the mutations know where the fields of a file are.
 */
#include "common/io/config.h"
#include "common/io/gguf.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS_MAX 512
#define EXPAND_MAX 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void must_explain(lb_status status, const lb_err *err)
{
    must(status == LB_OK || (err->status == status && err->message[0] != '\0' &&
                             (err->field[0] != '\0' || status == LB_ENOMEM)));
}

/* ---- what is accepted ---- */

static void check_tensor(const lb_gguf *file, size_t index, const uint8_t *data, size_t size)
{
    static float out[EXPAND_MAX];
    const lb_gguf_tensor *t = lb_gguf_at(file, index);
    size_t values = 0, bytes = 0, elements = 1;
    must(lb_gguf_find(file, t->name) == t && t->name[0] != '\0');
    must(strlen(t->name) <= LB_GGUF_NAME_MAX);
    must(t->rank >= 1 && t->rank <= LB_GGUF_RANK_MAX && lb_gguf_block(t->type, &values, &bytes));
    must(t->data >= data && t->bytes <= (size_t)(data + size - t->data));
    for (uint32_t i = 0; i < t->rank; i++)
        elements *= t->shape[i];
    must(elements % values == 0 && elements / values * bytes == t->bytes);
    size_t most = EXPAND_MAX / values * values;
    lb_gguf_expand(t->type, t->data, elements < most ? elements : most, out);
    lb_gguf_expand(t->type, t->data + t->bytes - bytes, values, out);
}

static void check_arrays(const lb_gguf *file, const char *key)
{
    lb_gguf_array array;
    lb_err err = {0};
    const char *text = NULL;
    size_t length = 0, seen = 0, sum = 0;
    int64_t integer = 0;
    lb_status status = lb_gguf_strings(file, key, false, &array, &err);
    must_explain(status, &err);
    uint64_t count = array.count;
    while (lb_gguf_next_string(&array, &text, &length)) {
        for (size_t i = 0; i < length; i++)
            sum += (unsigned char)text[i];
        seen++;
    }
    must(seen == count && array.bytes == 0 && sum <= SIZE_MAX / 2);
    status = lb_gguf_integers(file, key, false, &array, &err);
    must_explain(status, &err);
    count = array.count;
    for (seen = 0; lb_gguf_next_integer(&array, &integer); seen++)
        must(seen < count);
    must(seen == count && array.bytes == 0);
}

static void check_key(const lb_gguf *file, const char *key)
{
    lb_err err = {0};
    uint32_t u32 = 7;
    double f64 = 0.5;
    bool flag = false;
    const char *text = NULL;
    size_t length = 0;
    lb_status status = lb_gguf_u32(file, key, true, 1000, &u32, &err);
    must_explain(status, &err);
    must(u32 <= 1000 && (status == LB_OK || u32 == 7));
    must_explain(lb_gguf_f64(file, key, true, &f64, &err), &err);
    must(isfinite(f64));
    must_explain(lb_gguf_bool(file, key, false, &flag, &err), &err);
    status = lb_gguf_string(file, key, true, &text, &length, &err);
    must_explain(status, &err);
    must(lb_gguf_has(file, key) || status == LB_EDATA);
    unsigned sum = 0;
    for (size_t i = 0; status == LB_OK && i < length; i++)
        sum += (unsigned char)text[i] & 1u;
    must(sum <= length);
    check_arrays(file, key);
}

static void check_config(const lb_gguf *file)
{
    lb_model_config c = {0};
    lb_err err = {0};
    lb_status status = lb_config_from_gguf(file, &c, &err);
    must_explain(status, &err);
    if (status != LB_OK)
        return;
    must(c.vocab >= 1 && c.vocab <= LB_CONFIG_VOCAB_MAX);
    must(c.hidden >= 1 && c.hidden <= LB_CONFIG_HIDDEN_MAX);
    must(c.layers >= 1 && c.layers <= LB_CONFIG_LAYERS_MAX);
    must(c.heads >= 1 && c.heads <= LB_CONFIG_HEADS_MAX && c.mlp >= 1);
    must(c.max_positions >= 1 && c.max_positions <= LB_CONFIG_POSITIONS_MAX);
    must(c.kv_heads >= 1 && c.heads % c.kv_heads == 0);
    must(c.head_dim >= 2 && c.head_dim % 2 == 0 && c.head_dim <= LB_CONFIG_HEAD_DIM_MAX);
    must(c.rms_eps > 0.0 && c.rope.theta >= 1.0 && c.eos_count <= LB_CONFIG_EOS_MAX);
    for (uint32_t i = 0; i < c.eos_count; i++)
        must(c.eos[i] < c.vocab && lb_config_is_eos(&c, c.eos[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {
        "general.architecture", "general.alignment", "general.file_type", "llama.block_count",
        "qwen2.embedding_length", "qwen3.attention.layer_norm_rms_epsilon", "tokenizer.ggml.model",
        "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges",
        "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_bos_token", "tokenizer.chat_template",
        "u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64", "bool", "strings",
        "integers", "floats", "bools",
    };
    lb_gguf *file = NULL;
    lb_err err = {0};
    lb_status status = lb_gguf_open(data, size, &file, &err);
    must((status == LB_OK) == (file != NULL));
    must_explain(status, &err);
    if (status != LB_OK)
        return 0;
    for (size_t i = 0; i < lb_gguf_count(file); i++)
        check_tensor(file, i, data, size);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        check_key(file, keys[i]);
    (void)lb_gguf_find(file, "token_embd.weight");
    check_config(file);
    lb_gguf_close(file);
    return 0;
}

/* ---- mutations ---- */

/* A field of an image: `width` bytes at `at`; text: the length of that many bytes behind it. */
typedef struct field {
    size_t at;
    unsigned width;
    bool text;
} field;

typedef struct walker {
    const uint8_t *data;
    size_t size, at, count;
    field fields[FIELDS_MAX];
} walker;

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

/* Notes a field and returns its value; past the end, 0. */
static uint64_t walk(walker *w, unsigned width, bool text)
{
    if (width == 0 || w->size - w->at < width) {
        w->at = w->size;
        return 0;
    }
    if (w->count < FIELDS_MAX)
        w->fields[w->count++] = (field){w->at, width, text};
    uint64_t value = get(w->data + w->at, width);
    w->at += width;
    if (text)
        w->at = value > w->size - w->at ? w->size : w->at + (size_t)value;
    return value;
}

static void walk_value(walker *w, uint32_t type)
{
    static const uint8_t widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
    if (type == 9) {
        uint32_t item = (uint32_t)walk(w, 4, false);
        uint64_t count = walk(w, 8, false);
        for (uint64_t i = 0; item != 9 && i < count && w->at < w->size; i++)
            walk_value(w, item);
    } else {
        walk(w, type < sizeof widths ? widths[type] : 0, type == 8);
    }
}

static void walk_image(walker *w)
{
    w->at = 4;
    walk(w, 4, false);
    uint64_t tensors = walk(w, 8, false), keys = walk(w, 8, false);
    for (uint64_t i = 0; i < keys && w->at < w->size; i++) {
        walk(w, 8, true);
        walk_value(w, (uint32_t)walk(w, 4, false));
    }
    for (uint64_t i = 0; i < tensors && w->at < w->size; i++) {
        walk(w, 8, true);
        uint64_t rank = walk(w, 4, false);
        for (uint64_t d = 0; d < rank && w->at < w->size; d++)
            walk(w, 8, false);
        walk(w, 4, false);
        walk(w, 8, false);
    }
}

static unsigned draw(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static uint64_t draw_value(uint64_t old, unsigned *state)
{
    static const uint64_t edges[] = {
        0, 1, 2, 3, 4, 8, 9, 12, 13, 14, 30, 32, 64, 255, 256, 1ull << 31, 1ull << 32, 1ull << 63,
        UINT64_MAX, UINT64_MAX - 31, INT64_MAX,
    };
    unsigned kind = draw(state) % 4;
    if (kind == 0)
        return old + draw(state) % 64 - 32;
    if (kind == 1)
        return draw(state) % 32;
    if (kind == 2)
        return old ^ 1ull << draw(state) % 64;
    return edges[draw(state) % (sizeof edges / sizeof *edges)];
}

/* Makes a text longer or shorter together with its length, so that what follows stays in place. */
static size_t resize_text(uint8_t *data, size_t size, size_t max_size, const field *f,
                          unsigned *state)
{
    uint64_t length = get(data + f->at, f->width);
    size_t start = f->at + f->width, wanted = draw(state) % 40;
    if (length > size - start || size - (size_t)length + wanted > max_size)
        return size;
    memmove(data + start + wanted, data + start + length, size - start - (size_t)length);
    for (size_t i = (size_t)length; i < wanted; i++)
        data[start + i] = (uint8_t)('a' + draw(state) % 26);
    set(data + f->at, f->width, wanted);
    return size - (size_t)length + wanted;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static walker w;
    unsigned state = seed;
    w = (walker){.data = data, .size = size};
    if (size < 24 || draw(&state) % 2 == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    walk_image(&w);
    const field *f = &w.fields[draw(&state) % w.count];
    if (f->text && draw(&state) % 2 == 0)
        return resize_text(data, size, max_size, f, &state);
    set(data + f->at, f->width, draw_value(get(data + f->at, f->width), &state));
    return size;
}
