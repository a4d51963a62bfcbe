/* SPDX-License-Identifier: Apache-2.0
 *
 * The estimate repeats, without memory, what the loader packs (weights.c) and what a scoring pass
 * takes from the op stream's arena (score.c, forward.c, tensor/ops.c); tests/numeric/test_memory.c
 * holds them together.
 */
#include "common/model/memory.h"

#include "common/model/model_impl.h"
#include "common/tensor/ops.h"

/* Measured: limbeck-teacher without its model, with two threads. */
#define PROGRAM_BYTES ((size_t)10 << 20)

/* ---- weights ---- */

static size_t vector_bytes(size_t size)
{
    return size * sizeof(float);
}

static size_t layer_bytes(const lb_model_config *c, lb_dtype dtype, unsigned flags)
{
    size_t bytes = 2 * vector_bytes(c->hidden);
    for (int p = 0; p < LB_PROJ_COUNT; p++) {
        uint32_t out = 0, in = 0;
        lb_projection_shape(c, (lb_projection)p, &out, &in);
        bytes += lb_weight_packed_bytes(out, in, dtype, flags);
        if (c->qkv_bias && p <= LB_PROJ_V)
            bytes += vector_bytes(out);
    }
    return bytes + (c->qk_norm ? 2 * vector_bytes(c->head_dim) : 0);
}

static size_t weight_bytes(const lb_model_config *c, const lb_model_options *o)
{
    unsigned flags = LB_WEIGHT_FORWARD | (o->trainable ? LB_WEIGHT_BACKWARD : 0u);
    size_t bytes = vector_bytes(c->hidden) + c->layers * layer_bytes(c, o->dtype, flags);
    if (!c->tied)
        bytes += lb_weight_packed_bytes(c->vocab, c->hidden, o->dtype, LB_WEIGHT_FORWARD);
    return bytes + lb_weight_packed_bytes(c->vocab, c->hidden, o->dtype, flags);
}

/* ---- the arena ---- */

#define CHUNKS_MAX 40u
#define CHUNK_FIRST ((size_t)1 << 20)
#define ALIGNMENT 64u

/* lb_ops' arena: chunks that double, used as a stack; what is never touched is not resident. */
typedef struct arena {
    size_t size[CHUNKS_MAX], used[CHUNKS_MAX], most[CHUNKS_MAX];
    size_t count, current;
} arena;

static void take(arena *a, size_t rows, size_t cols)
{
    size_t bytes = rows * lb_ops_stride(rows, cols) * sizeof(float);
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT + ALIGNMENT;
    while (a->current < a->count && a->size[a->current] - a->used[a->current] < bytes) {
        a->current++;
        if (a->current < a->count)
            a->used[a->current] = 0;
    }
    if (a->current == CHUNKS_MAX)
        return;
    if (a->current == a->count) {
        size_t size = a->count ? 2 * a->size[a->count - 1] : CHUNK_FIRST;
        a->size[a->count] = size < bytes ? bytes : size;
        a->used[a->count++] = 0;
    }
    a->used[a->current] += bytes;
    if (a->used[a->current] > a->most[a->current])
        a->most[a->current] = a->used[a->current];
}

/* The temporaries of one layer without an adapter: see lb_block_forward. */
static void take_layer(arena *a, const lb_model_config *c, size_t rows)
{
    size_t queries = (size_t)c->heads * c->head_dim, keys = (size_t)c->kv_heads * c->head_dim;
    const size_t widths[] = {
        queries, keys, keys, c->qk_norm ? queries : 0, c->qk_norm ? keys : 0, queries, c->mlp,
    };
    size_t first = a->current, first_used = a->count ? a->used[first] : 0;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        if (widths[i] > 0)
            take(a, rows, widths[i]);
    }
    a->current = first;
    a->used[first] = first_used;
}

/* The largest input that a product makes of its rows: normed floats, or integers. */
static size_t input_bytes(const lb_model_config *c, lb_dtype dtype, size_t rows)
{
    size_t queries = (size_t)c->heads * c->head_dim, widest = c->hidden;
    if (!lb_dtype_is_integer(dtype))
        return rows * lb_ops_stride(rows, c->hidden) * sizeof(float);
    widest = queries > widest ? queries : widest;
    widest = c->mlp > widest ? c->mlp : widest;
    return rows * widest * lb_dtype_size(dtype);
}

static size_t arena_bytes(const lb_model_config *c, lb_dtype dtype, uint32_t tokens, size_t chunk)
{
    const lb_attention_shape shape = lb_attention_of(c, dtype);
    arena a = {0};
    size_t rows = tokens - 1, bytes = 0;
    for (uint32_t i = 0; i < c->layers; i++) {
        take(&a, lb_kv_pages(rows), lb_kv_key_page(&shape));
        take(&a, lb_kv_pages(rows), lb_kv_value_page(&shape));
    }
    size_t n = rows < chunk ? rows : chunk;
    take(&a, n, c->hidden);
    take_layer(&a, c, n);
    take(&a, n, c->hidden);
    take(&a, n, c->hidden);
    for (size_t i = 0; rows > 0 && i < a.count; i++)
        bytes += a.most[i];
    return bytes + input_bytes(c, dtype, n);
}

lb_status lb_model_estimate_memory(const lb_model_config *config, const lb_model_options *options,
                                   uint32_t tokens, lb_memory_estimate *out, lb_err *err)
{
    size_t positions = config->max_positions, chunk = options->max_tokens;
    if (chunk == 0)
        chunk = LB_MODEL_MAX_TOKENS_DEFAULT;
    if (positions > LB_MODEL_POSITIONS_MAX)
        positions = LB_MODEL_POSITIONS_MAX;
    if (tokens == 0 || tokens > positions)
        return lb_fail(err, LB_EINVAL, "tokens", "%u is outside 1 .. %zu", tokens, positions);
    if (chunk > LB_MODEL_MAX_TOKENS_LIMIT)
        return lb_fail(err, LB_EINVAL, "max_tokens", "%zu rows a pass are more than %u", chunk,
                       LB_MODEL_MAX_TOKENS_LIMIT);
    if (options->dtype == LB_I32)
        return lb_fail(err, LB_EINVAL, "dtype", "weights are f32, bf16, fast or int8");
    lb_memory_estimate e = {
        .weights = weight_bytes(config, options),
        .rope = positions * config->head_dim * sizeof(float),
        .kv_and_scratch = arena_bytes(config, options->dtype, tokens, chunk),
    };
    e.total_resident = PROGRAM_BYTES + e.weights + e.rope + e.kv_and_scratch;
    *out = e;
    return LB_OK;
}
