/* SPDX-License-Identifier: Apache-2.0
 *
 * The stream of ops: opening, the arena, the sticky error, every check of a shape or an index, and
 * the conversions of single numbers.
 */
#include "common/tensor/backend_impl.h"
#include "common/tensor/ops.h"
#include "common/tensor/tensor.h"
#include "tests/numeric/ops_fixture.h"

#include <math.h>

static void test_open_names_what_it_lacks(void **state)
{
    (void)state;
    lb_backend *backend = NULL;
    lb_err err = {0};
    assert_int_equal(lb_backend_open("abacus", 1, NULL, &backend, &err), LB_EUNSUPPORTED);
    assert_string_equal(err.field, "backend");
    assert_int_equal(lb_backend_open("cpu", 1, "mmx", &backend, &err), LB_EUNSUPPORTED);
    assert_string_equal(err.field, "isa");
    assert_int_equal(lb_backend_open("cpu", 100000, NULL, &backend, &err), LB_EINVAL);
    assert_string_equal(err.field, "threads");
    assert_null(backend);
    lb_backend_close(NULL);
    lb_ops_free(NULL);
    lb_weight_free(NULL);
}

static void test_describe(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 3, "portable"));
    assert_string_equal(lb_backend_describe(f.backend), "cpu portable, 3 threads");
    fixture_close(&f);
    assert_true(fixture_open(&f, 0, NULL));
    fixture_close(&f);
}

static lb_status (*right_linear)(void *self, lb_tensor x, const lb_norm *norm,
                                 const lb_linear_out *outs, size_t count);

/* One bit off in one element of an 8-bit product. */
static lb_status wrong_linear(void *self, lb_tensor x, const lb_norm *norm,
                              const lb_linear_out *outs, size_t count)
{
    lb_status status = right_linear(self, x, norm, outs, count);
    if (outs->w->stored == LB_INT8)
        ((float *)outs->out.data)[3] = nextafterf(((float *)outs->out.data)[3], 8.0f);
    return status;
}

static void test_agreement(void **state)
{
    (void)state;
    lb_backend *portable = NULL, *other = NULL;
    assert_int_equal(lb_backend_open("cpu", 1, "portable", &portable, NULL), LB_OK);
    for (size_t i = 0; lb_backend_isa(i); i++) {
        assert_int_equal(lb_backend_open("cpu", 2, lb_backend_isa(i), &other, NULL), LB_OK);
        assert_true(lb_backend_agrees(other, portable));
        lb_backend_table table = *other->table;
        const lb_backend_table *right = other->table;
        right_linear = table.linear;
        table.linear = wrong_linear;
        other->table = &table;
        assert_false(lb_backend_agrees(other, portable));
        other->table = right;
        lb_backend_close(other);
    }
    lb_backend_close(portable);
    assert_int_equal(lb_backend_open("cpu", 1, NULL, &other, NULL), LB_OK);
    assert_null(strstr(lb_backend_describe(other), "wrong"));
    lb_backend_close(other);
}

static void test_arena(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    assert_int_equal(lb_ops_mark(f.ops), 0);
    lb_tensor first = lb_ops_alloc(f.ops, LB_F32, 3, 5);
    memset(first.data, 0xFF, 60);
    size_t mark = lb_ops_mark(f.ops);
    for (int round = 0; round < 3; round++) {
        /* The second is larger than the first chunk, so that releasing goes over chunks. */
        lb_tensor a = lb_ops_alloc(f.ops, LB_BF16, 1, 7);
        lb_tensor b = lb_ops_alloc(f.ops, LB_I32, 1024, 1024);
        assert_int_equal((uintptr_t)a.data % 64, 0);
        assert_int_equal((uintptr_t)b.data % 64, 0);
        /* Memory that was used before is zero only where that is asked for. */
        lb_tensor zero = lb_ops_alloc_zero(f.ops, LB_F32, 1, 7);
        for (size_t i = 0; i < 7; i++)
            assert_true(((float *)zero.data)[i] == 0.0f);
        memset(zero.data, 0xAB, 28);
        memset(a.data, 0xAB, 14);
        memset(b.data, 0xAB, 4u << 20);
        lb_ops_release(f.ops, mark);
        assert_int_equal(lb_ops_mark(f.ops), mark);
    }
    size_t peak = lb_ops_peak_bytes(f.ops);
    assert_true(peak >= (4u << 20) + 60 && peak < (4u << 20) + 70000);
    assert_int_equal(((uint8_t *)first.data)[59], 0xFF);
    lb_ops_reset(f.ops);
    assert_ptr_equal(lb_ops_alloc(f.ops, LB_F32, 1, 1).data, first.data);
    fixture_close(&f);
}

static void test_sizes_that_overflow(void **state)
{
    (void)state;
    fixture f;
    lb_err err = {0};
    lb_tensor t = {0};
    lb_weight *w = NULL;
    float one = 1.0f;
    const size_t sizes[][2] = {{SIZE_MAX, 1}, {SIZE_MAX / 4, 1}, {SIZE_MAX / 8 + 1, 2},
                               {(size_t)1 << 32, (size_t)1 << 31}, {SIZE_MAX - 3, SIZE_MAX - 3}};
    assert_true(fixture_open(&f, 1, NULL));
    for (size_t i = 0; i < COUNT(sizes); i++) {
        assert_null(lb_ops_alloc(f.ops, LB_F32, sizes[i][0], sizes[i][1]).data);
        assert_int_not_equal(lb_ops_status(f.ops, &err), LB_OK);
        lb_ops_reset(f.ops);
        assert_int_not_equal(
            lb_device_alloc(f.backend, LB_F32, sizes[i][0], sizes[i][1], &t, &err), LB_OK);
        assert_null(t.data);
        assert_int_not_equal(lb_weight_create(f.backend, sizes[i][0], sizes[i][1], &one, LB_F32,
                                              LB_F32, LB_WEIGHT_FORWARD, &w, &err), LB_OK);
        assert_null(w);
    }
    assert_int_equal(lb_weight_create(f.backend, 0, 4, &one, LB_F32, LB_F32, 1, &w, &err),
                     LB_EINVAL);
    assert_int_equal(lb_weight_create(f.backend, 1, 1, &one, LB_I32, LB_F32, 1, &w, &err),
                     LB_EINVAL);
    fixture_close(&f);
}

static void test_device_memory(void **state)
{
    (void)state;
    fixture f;
    lb_tensor t = {0};
    lb_err err;
    assert_true(fixture_open(&f, 1, NULL));
    assert_int_equal(lb_device_alloc(f.backend, LB_F32, 4, 3, &t, &err), LB_OK);
    lb_ops_reset(f.ops);
    const float in[6] = {1, 2, 3, 4, 5, 6};
    lb_copy_in(f.ops, lb_tensor_rows(t, 1, 2), in);
    float *out = download(&f, t);
    for (size_t i = 0; i < 12; i++)
        assert_true(out[i] == (i >= 3 && i < 9 ? in[i - 3] : 0.0f));
    free(out);
    lb_device_free(f.backend, &t);
    assert_null(t.data);
    lb_device_free(f.backend, &t);
    lb_device_free(f.backend, NULL);
    fixture_close(&f);
}

/* ---- the sticky error: each row breaks one op ---- */

typedef struct shapes {
    lb_ops *ops;
    lb_tensor a34, b34, c43, d44, v4, table, none;
    lb_weight *w54, *bare;        /* [5, 4]; bare has the backward packing alone */
} shapes;

static const uint32_t zeros[8] = {0}, high[8] = {9, 9, 9, 9, 9, 9, 9, 9};
static const lb_attention_shape one_head = {1, 1, 4, 0.5f, LB_F32};
static const lb_attention_shape two_on_three = {2, 3, 2, 0.5f, LB_F32};
static const uint32_t page_0 = 0, page_9 = 9, pages_0_9[2] = {0, 9};
static const lb_kv_row seen[3] = {{&page_0, 1}, {&page_0, 2}, {&page_0, 3}};
static const lb_kv_row past[3] = {{&page_0, 1}, {&page_9, 1}, {&page_0, 1}};
static const lb_kv_row grown[3] = {{pages_0_9, 1}, {pages_0_9, 32}, {pages_0_9, 33}};
static const lb_kv_row empty[3] = {{&page_0, 1}, {&page_0, 1}, {&page_0, 0}};

static void bad_embed_id(shapes *s) { lb_embed(s->ops, s->a34, s->bare, high); }
static void bad_embed_rows(shapes *s) { lb_embed(s->ops, s->c43, s->bare, zeros); }
static void bad_linear(shapes *s) { lb_linear(s->ops, s->a34, s->a34, s->w54, s->none); }
static void bad_linear_packing(shapes *s)
{
    lb_linear(s->ops, lb_ops_alloc(s->ops, LB_F32, 3, 5), s->a34, s->bare, s->none);
}
static void bad_bias(shapes *s)
{
    lb_linear(s->ops, lb_ops_alloc(s->ops, LB_F32, 3, 5), s->a34, s->w54, s->v4);
}
static void bad_norm(shapes *s) { lb_rmsnorm(s->ops, s->a34, s->a34, s->c43, 1e-6f); }
/* A gain for other columns than the product's input has. */
static void bad_linear_norm(shapes *s)
{
    const lb_norm norm = {lb_ops_alloc_zero(s->ops, LB_F32, 1, 2), 1e-6f};
    const lb_linear_out out = {lb_ops_alloc(s->ops, LB_F32, 3, 5), s->w54, {0}, false};
    lb_linears(s->ops, s->a34, &norm, &out, 1);
}
static void bad_swiglu_norm(shapes *s)
{
    const lb_norm norm = {lb_ops_alloc_zero(s->ops, LB_F32, 1, 2), 1e-6f};
    lb_linear_swiglu(s->ops, lb_ops_alloc(s->ops, LB_F32, 3, 5), s->a34, &norm, s->w54, s->w54);
}
static void bad_rope_dim(shapes *s) { lb_rope(s->ops, s->a34, 3, s->table, zeros, false); }
static void bad_rope_row(shapes *s) { lb_rope(s->ops, s->a34, 4, s->table, high, false); }
static void bad_swiglu(shapes *s) { lb_swiglu(s->ops, s->a34, s->b34, s->c43); }
static void bad_linear_swiglu(shapes *s)
{
    lb_linear_swiglu(s->ops, s->b34, s->a34, NULL, s->w54, s->w54);
}
static void bad_copy(shapes *s) { lb_copy(s->ops, s->a34, s->d44); }
static void bad_gather(shapes *s) { lb_gather_rows(s->ops, s->a34, s->b34, high); }
static void bad_scatter(shapes *s) { lb_scatter_rows(s->ops, s->a34, s->b34, high); }
static void bad_nn(shapes *s) { lb_gemm_nn(s->ops, s->d44, s->a34, s->b34, 1, false); }
static void bad_tn(shapes *s) { lb_gemm_tn(s->ops, s->c43, s->a34, s->b34, false); }
/* Rows of b34 over a cache of two pages of one head of 4. */
static void attend(shapes *s, const lb_kv_row *rows, const lb_attention_shape *shape)
{
    lb_tensor keys = lb_ops_alloc_zero(s->ops, LB_F32, 2, 4 * LB_KV_PAGE);
    lb_tensor values = lb_ops_alloc_zero(s->ops, LB_F32, 2, 32 * LB_KV_PAGE);
    lb_attention(s->ops, s->a34, s->b34, keys, values, rows, shape);
}
static void bad_page(shapes *s) { attend(s, past, &one_head); }
static void bad_later_page(shapes *s) { attend(s, grown, &one_head); }
static void bad_no_keys(shapes *s) { attend(s, empty, &one_head); }
static void bad_heads(shapes *s) { attend(s, seen, &two_on_three); }
/* A cache of f32 for integers, and dtypes that no cache has. */
static void bad_integers(shapes *s)
{
    const lb_attention_shape shape = {1, 1, 4, 0.5f, LB_INT16};
    attend(s, seen, &shape);
}
static void bad_stored(shapes *s)
{
    const lb_attention_shape shape = {1, 1, 4, 0.5f, LB_BF16};
    lb_tensor keys = lb_ops_alloc_zero(s->ops, LB_F32, 2, lb_kv_key_page(&shape));
    lb_tensor values = lb_ops_alloc_zero(s->ops, LB_F32, 2, lb_kv_value_page(&shape));
    lb_attention(s->ops, s->a34, s->b34, keys, values, seen, &shape);
}
static void bad_large_head(shapes *s)
{
    const lb_attention_shape shape = {1, 1, LB_QUANT_BLOCK + 1, 0.5f, LB_INT8};
    lb_tensor keys = lb_ops_alloc_zero(s->ops, LB_F32, 2, lb_kv_key_page(&shape));
    lb_tensor values = lb_ops_alloc_zero(s->ops, LB_F32, 2, lb_kv_value_page(&shape));
    lb_tensor q = lb_ops_alloc_zero(s->ops, LB_F32, 3, shape.head_dim);
    lb_attention(s->ops, q, q, keys, values, seen, &shape);
}
static void bad_cache(shapes *s)
{
    lb_attention(s->ops, s->a34, s->b34, s->d44, s->d44, seen, &one_head);
}
static void bad_kv_slot(shapes *s)
{
    const uint32_t slots[3] = {0, 1, 2 * LB_KV_PAGE};
    lb_tensor keys = lb_ops_alloc_zero(s->ops, LB_F32, 2, 4 * LB_KV_PAGE);
    lb_tensor values = lb_ops_alloc_zero(s->ops, LB_F32, 2, 32 * LB_KV_PAGE);
    lb_kv_write(s->ops, keys, values, s->b34, s->b34, slots, &one_head);
}
static void bad_target(shapes *s)
{
    float logprob[3];
    const lb_head_out out = {.logprob = logprob};
    lb_head(s->ops, s->a34, s->w54, high, &out);
}
static void bad_no_targets(shapes *s)
{
    float logprob[3];
    const lb_head_out out = {.logprob = logprob};
    lb_head(s->ops, s->a34, s->w54, NULL, &out);
}
static void bad_top_half(shapes *s)
{
    uint32_t top[3];
    const lb_head_out out = {.top_id = top, .k = 1};
    lb_head(s->ops, s->a34, s->w54, NULL, &out);
}
static void bad_top_count(shapes *s)
{
    uint32_t top[18];
    float logprob[18];
    const lb_head_out out = {.top_id = top, .top_logprob = logprob, .k = 6};
    lb_head(s->ops, s->a34, s->w54, NULL, &out);
}
static void sample_with(shapes *s, float temperature, float top_p, const uint8_t *allowed)
{
    const lb_sample_params params = {.temperature = temperature, .top_p = top_p};
    const float uniform[3] = {0};
    uint32_t token[3];
    float logprob[3];
    lb_head_sample(s->ops, s->a34, s->w54, allowed, &params, uniform, token, logprob);
}
static void bad_temperature(shapes *s) { sample_with(s, -1.0f, 1.0f, NULL); }
static void bad_temperature_nan(shapes *s) { sample_with(s, NAN, 1.0f, NULL); }
static void bad_top_p(shapes *s) { sample_with(s, 1.0f, 0.0f, NULL); }
static void bad_none_allowed(shapes *s)
{
    const uint8_t allowed[5] = {0};
    sample_with(s, 1.0f, 1.0f, allowed);
}
static void bad_head_backward(shapes *s)
{
    const float lse[3] = {0}, grad[3] = {0};
    lb_head_backward(s->ops, s->b34, s->a34, s->bare, zeros, lse, grad);
}
static void bad_linear_backward(shapes *s)
{
    lb_linear_backward(s->ops, s->a34, s->b34, s->w54, false);
}
static void bad_norm_backward(shapes *s)
{
    lb_rmsnorm_backward(s->ops, s->a34, s->b34, s->c43, s->v4, 1e-6f, false);
}
static void bad_swiglu_backward(shapes *s)
{
    lb_swiglu_backward(s->ops, s->a34, s->b34, s->a34, s->c43, s->b34);
}
static void backward_over(shapes *s, const uint32_t *starts, size_t sequences)
{
    const lb_tensor grads[3] = {s->a34, s->a34, s->a34};
    lb_attention_backward(s->ops, grads, s->b34, s->b34, s->b34, s->b34, starts, sequences,
                          &one_head);
}
static void bad_starts_end(shapes *s) { backward_over(s, (const uint32_t[]){0, 2}, 1); }
static void bad_starts_order(shapes *s) { backward_over(s, (const uint32_t[]){0, 7, 3}, 2); }

static const struct {
    const char *name;
    void (*run)(shapes *s);
} bad[] = {
    {"embed id", bad_embed_id}, {"embed cols", bad_embed_rows}, {"linear", bad_linear},
    {"linear packing", bad_linear_packing}, {"bias", bad_bias}, {"norm", bad_norm},
    {"norm of a product's input", bad_linear_norm}, {"norm of gate and up's", bad_swiglu_norm},
    {"rope dim", bad_rope_dim}, {"rope position", bad_rope_row}, {"swiglu", bad_swiglu},
    {"linear swiglu", bad_linear_swiglu}, {"copy", bad_copy}, {"gather", bad_gather},
    {"scatter", bad_scatter}, {"nn", bad_nn}, {"tn", bad_tn}, {"page", bad_page},
    {"later page", bad_later_page}, {"cache", bad_cache}, {"kv slot", bad_kv_slot},
    {"integers", bad_integers}, {"stored", bad_stored}, {"large head", bad_large_head},
    {"no keys", bad_no_keys}, {"heads", bad_heads},
    {"target", bad_target}, {"no targets", bad_no_targets}, {"top without logprob", bad_top_half},
    {"top count", bad_top_count}, {"temperature", bad_temperature},
    {"temperature nan", bad_temperature_nan}, {"top_p", bad_top_p},
    {"none allowed", bad_none_allowed}, {"head backward", bad_head_backward},
    {"linear backward", bad_linear_backward}, {"norm backward", bad_norm_backward},
    {"swiglu backward", bad_swiglu_backward}, {"starts end", bad_starts_end},
    {"starts order", bad_starts_order},
};

static void test_every_check_is_sticky(void **state)
{
    (void)state;
    fixture f;
    assert_true(fixture_open(&f, 2, NULL));
    float *host = matrix(1, 0, 5, 4, 1.0f);
    lb_weight *w54 = pack_weight(&f, host, 5, 4, LB_F32, LB_WEIGHT_FORWARD);
    lb_weight *bare = pack_weight(&f, host, 5, 4, LB_F32, LB_WEIGHT_BACKWARD);
    for (size_t i = 0; i < COUNT(bad); i++) {
        shapes s = {.ops = f.ops, .w54 = w54, .bare = bare};
        s.a34 = lb_ops_alloc_zero(f.ops, LB_F32, 3, 4);
        s.b34 = upload(&f, host, 3, 4);
        s.c43 = lb_ops_alloc(f.ops, LB_F32, 4, 3);
        s.d44 = lb_ops_alloc(f.ops, LB_F32, 4, 4);
        s.v4 = lb_ops_alloc(f.ops, LB_F32, 1, 4);
        s.table = lb_ops_alloc(f.ops, LB_F32, 2, 4);
        fixture_check(&f);
        bad[i].run(&s);
        lb_err first = {0}, second = {0};
        if (lb_ops_status(f.ops, &first) == LB_OK)
            fail_msg("%s was accepted", bad[i].name);
        assert_true(first.message[0] != '\0');
        /* What follows does nothing, and the first failure stays. */
        lb_copy(f.ops, s.a34, s.b34);
        lb_swiglu(f.ops, s.a34, s.a34, s.c43);
        assert_null(lb_ops_alloc(f.ops, LB_F32, 1, 1).data);
        assert_int_equal(lb_ops_status(f.ops, &second), first.status);
        assert_string_equal(first.message, second.message);
        assert_true(((float *)s.a34.data)[0] == 0.0f);
        lb_ops_reset(f.ops);
    }
    lb_weight_free(w54);
    lb_weight_free(bare);
    free(host);
    fixture_close(&f);
}

/* ---- numbers ---- */

static void test_bf16(void **state)
{
    (void)state;
    static const struct {
        float value;
        uint16_t bits;
    } rows[] = {
        {1.0f, 0x3F80}, {-2.5f, 0xC020}, {0x1.01p0f, 0x3F80},       /* a tie goes to even */
        {0x1.03p0f, 0x3F82}, {0x1.0101p0f, 0x3F81}, {3.4e38f, 0x7F80}, {0.0f, 0},
        {-0.0f, 0x8000}, {INFINITY, 0x7F80}, {0x1p-133f, 1},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        assert_int_equal(lb_f32_to_bf16(rows[i].value), rows[i].bits);
    for (uint32_t bits = 0; bits <= 0xFFFF; bits++) {
        float value = lb_bf16_to_f32((uint16_t)bits);
        uint16_t back = lb_f32_to_bf16(value);
        if (value != value)
            assert_true(lb_bf16_to_f32(back) != lb_bf16_to_f32(back));
        else
            assert_int_equal(back, bits);
    }
}

static void test_f16(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits <= 0xFFFF; bits++) {
        int exponent = (int)(bits >> 10 & 31), mantissa = (int)(bits & 1023);
        double want = exponent == 31  ? (mantissa ? (double)NAN : (double)INFINITY)
                      : exponent == 0 ? ldexp(mantissa, -24)
                                      : ldexp(1024 + mantissa, exponent - 25);
        float got = lb_f16_to_f32((uint16_t)bits);
        if (want != want)
            assert_true(got != got);
        else
            assert_true((double)got == (bits >> 15 ? -want : want));
    }
}

static void test_views(void **state)
{
    (void)state;
    float data[24];
    lb_tensor t = {LB_F32, 4, 6, 6, data};
    lb_tensor view = lb_tensor_cols(lb_tensor_rows(t, 1, 2), 2, 3);
    assert_ptr_equal(view.data, data + 8);
    assert_int_equal(view.stride, 6);
    assert_int_equal(view.rows * 10 + view.cols, 23);
    assert_ptr_equal(lb_tensor_rows(view, 1, 1).data, data + 14);
    lb_tensor flat = lb_tensor_reshape(t, 8, 3);
    assert_int_equal(flat.stride, 3);
    lb_tensor half = {LB_BF16, 4, 6, 6, data};
    assert_ptr_equal(lb_tensor_rows(half, 1, 1).data, data + 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_open_names_what_it_lacks),
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_agreement),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_sizes_that_overflow),
        cmocka_unit_test(test_device_memory),
        cmocka_unit_test(test_every_check_is_sticky),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_f16),
        cmocka_unit_test(test_views),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
