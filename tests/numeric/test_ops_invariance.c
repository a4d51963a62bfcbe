/* SPDX-License-Identifier: Apache-2.0
 *
 * A row's bits: the same whatever the number of rows beside it, its place among them, the number
 * of threads and the instruction set. Every op is run for each combination and compared with one
 * run of all rows on one thread.
 */
#include "common/tensor/ops.h"
#include "tests/numeric/ops_fixture.h"

#define ROWS_MAX 64u
#define WIDTH_MAX 432u

/* Rows first .. first + rows of a case, into out[rows, width]. Row r's inputs depend on r alone. */
typedef struct run {
    fixture *f;
    size_t first, rows;
    float *out;
} run;

static lb_tensor input(const run *r, uint32_t seed, size_t cols, float scale)
{
    float *host = matrix(seed, r->first, r->rows, cols, scale);
    lb_tensor t = upload_strided(r->f, host, r->rows, cols);
    free(host);
    return t;
}

static lb_tensor constant(const run *r, uint32_t seed, size_t rows, size_t cols)
{
    float *host = matrix(seed, 0, rows, cols, 1.0f);
    lb_tensor t = upload(r->f, host, rows, cols);
    free(host);
    return t;
}

static lb_weight *weight_of(const run *r, size_t n, size_t k, lb_dtype stored)
{
    float *host = matrix(40, 0, n, k, 1.0f);
    lb_weight *w = pack_weight(r->f, host, n, k, stored, ALL_PACKINGS);
    free(host);
    return w;
}

/* Puts a result's columns beside each other: out[rows, width] from `column`. */
static void collect(const run *r, lb_tensor t, size_t width, size_t column)
{
    float *host = download(r->f, t);
    for (size_t i = 0; i < r->rows; i++)
        memcpy(r->out + i * width + column, host + i * t.cols, t.cols * sizeof *host);
    free(host);
}

static void linear_as(const run *r, lb_dtype stored)
{
    enum { K = 130, N = 97 };
    lb_weight *w = weight_of(r, N, K, stored);
    lb_tensor y = blank(r->f, r->rows, N), dx = input(r, 2, K, 1.0f);
    lb_linear(r->f->ops, y, input(r, 1, K, 1.0f), w, constant(r, 41, 1, N));
    lb_linear_backward(r->f->ops, dx, input(r, 3, N, 1.0f), w, true);
    collect(r, y, N + K, 0);
    collect(r, dx, N + K, N);
    lb_weight_free(w);
}
static void run_linear_f32(const run *r) { linear_as(r, LB_F32); }
static void run_linear_bf16(const run *r) { linear_as(r, LB_BF16); }

/* Three blocks of k, the last not whole; one of two products behind the same rows. */
static void linear_int(const run *r, lb_dtype stored)
{
    enum { K = 301, N = 97, M = 40 };
    float *host = matrix(40, 0, N, K, 1.0f);
    lb_weight *w = pack_weight(r->f, host, N, K, stored, LB_WEIGHT_FORWARD);
    lb_weight *v = pack_weight(r->f, host, M, K, stored, LB_WEIGHT_FORWARD);
    lb_tensor y = blank(r->f, r->rows, N), z = blank(r->f, r->rows, M);
    const lb_linear_out outs[] = {{y, w, constant(r, 41, 1, N), false}, {z, v, {0}, false}};
    lb_linears(r->f->ops, input(r, 1, K, 1.0f), NULL, outs, 2);
    collect(r, y, N + M, 0);
    collect(r, z, N + M, N);
    free(host);
    lb_weight_free(w);
    lb_weight_free(v);
}
static void run_linear_fast(const run *r) { linear_int(r, LB_INT16); }
static void run_linear_backward_fast(const run *r)
{
    enum { N = 301, K = 97 };
    lb_weight *w = weight_of(r, N, K, LB_INT16);
    lb_tensor dx = input(r, 2, K, 1.0f);
    lb_linear_backward(r->f->ops, dx, input(r, 3, N, 1.0f), w, true);
    collect(r, dx, K, 0);
    lb_weight_free(w);
}
static void run_linear_int8(const run *r) { linear_int(r, LB_INT8); }

/* Large enough for the pool to share it out, with rows 4 KiB apart. */
static void run_linear_large(const run *r)
{
    enum { K = 1024, N = 160 };
    lb_weight *w = weight_of(r, N, K, LB_F32);
    float *host = matrix(4, r->first, r->rows, K, 1.0f);
    lb_tensor y = blank(r->f, r->rows, N);
    lb_linear(r->f->ops, y, upload(r->f, host, r->rows, K), w, (lb_tensor){0});
    collect(r, y, N, 0);
    free(host);
    lb_weight_free(w);
}

static void run_norm(const run *r)
{
    enum { D = 130 };
    lb_tensor x = input(r, 5, D, 2.0f), y = blank(r->f, r->rows, D), dx = input(r, 6, D, 1.0f);
    lb_tensor gain = constant(r, 42, 1, D);
    lb_rmsnorm(r->f->ops, y, x, gain, 1e-6f);
    lb_rmsnorm_backward(r->f->ops, dx, input(r, 7, D, 1.0f), x, gain, 1e-6f, true);
    collect(r, y, 2 * D, 0);
    collect(r, dx, 2 * D, D);
}

static void linear_swiglu_as(const run *r, lb_dtype stored)
{
    enum { K = 301, N = 397 };
    float *host = matrix(40, 0, N, K, 1.0f), *other = matrix(43, 0, N, K, 1.0f);
    lb_weight *gate = pack_weight(r->f, host, N, K, stored, LB_WEIGHT_FORWARD);
    lb_weight *up = pack_weight(r->f, other, N, K, stored, LB_WEIGHT_FORWARD);
    lb_tensor y = blank(r->f, r->rows, N);
    const lb_norm norm = {constant(r, 44, 1, K), 1e-6f};
    lb_linear_swiglu(r->f->ops, y, input(r, 1, K, 1.0f), &norm, gate, up);
    collect(r, y, N, 0);
    free(host);
    free(other);
    lb_weight_free(gate);
    lb_weight_free(up);
}
static void run_linear_swiglu_f32(const run *r) { linear_swiglu_as(r, LB_F32); }
static void run_linear_swiglu_fast(const run *r) { linear_swiglu_as(r, LB_INT16); }
static void run_linear_swiglu_int8(const run *r) { linear_swiglu_as(r, LB_INT8); }

static void run_swiglu(const run *r)
{
    enum { D = 70 };
    /* Wide enough for both ends of exp. */
    lb_tensor gate = input(r, 8, D, 100.0f), up = input(r, 9, D, 1.0f);
    lb_tensor out = blank(r->f, r->rows, D), dgate = blank(r->f, r->rows, D);
    lb_tensor dup = blank(r->f, r->rows, D);
    lb_swiglu(r->f->ops, out, gate, up);
    lb_swiglu_backward(r->f->ops, dgate, dup, input(r, 10, D, 1.0f), gate, up);
    collect(r, out, 3 * D, 0);
    collect(r, dgate, 3 * D, D);
    collect(r, dup, 3 * D, 2 * D);
}

static void run_rope_and_moves(const run *r)
{
    enum { DIM = 34, HEADS = 3, POSITIONS = 90 };
    uint32_t positions[ROWS_MAX], reverse[ROWS_MAX];
    for (size_t i = 0; i < r->rows; i++) {
        positions[i] = (uint32_t)((r->first + i) * 5 % POSITIONS);
        reverse[i] = (uint32_t)(r->rows - 1 - i);
    }
    lb_tensor x = input(r, 11, HEADS * DIM, 1.0f), y = blank(r->f, r->rows, HEADS * DIM);
    lb_rope(r->f->ops, x, DIM, constant(r, 43, POSITIONS, DIM), positions, false);
    lb_gather_rows(r->f->ops, y, x, reverse);
    lb_scatter_rows(r->f->ops, x, y, reverse);
    collect(r, x, HEADS * DIM, 0);
}

static void run_gemm(const run *r)
{
    /* More rows of A than tn takes at a time. */
    enum { K = 150, N = 50 };
    lb_tensor more = input(r, 13, N, 1.0f), nn = blank(r->f, r->rows, N);
    lb_tensor tn = blank(r->f, r->rows, N), a = input(r, 14, K, 1.0f);
    float *at = floats(K * r->rows);
    for (size_t k = 0; k < K; k++) {
        for (size_t i = 0; i < r->rows; i++)
            at[k * r->rows + i] = noise(15, r->first + i, k, 1.0f);
    }
    lb_gemm_nn(r->f->ops, more, a, constant(r, 44, K, N), 0.5f, true);
    lb_gemm_nn(r->f->ops, nn, a, constant(r, 45, K, N), 2.0f, false);
    lb_gemm_tn(r->f->ops, tn, upload(r->f, at, K, r->rows), constant(r, 45, K, N), false);
    collect(r, more, 3 * N, 0);
    collect(r, nn, 3 * N, N);
    collect(r, tn, 3 * N, 2 * N);
    free(at);
}

/* Row r sees up to 200 keys, in pages whose order changes with the batch; every other row has its
 * own copy of the keys from position 128 on. */
static void attend(const run *r, lb_dtype stored, size_t column)
{
    enum { DIM = 24, HEADS = 6, KV = 2, KEYS = 200, NEED = 7, PAGES = 2 * NEED };
    const lb_attention_shape shape = {HEADS, KV, DIM, 0.2f, stored};
    lb_kv_row rows[ROWS_MAX];
    uint32_t slots[KEYS], tables[2][NEED];
    lb_tensor keys = lb_ops_alloc_zero(r->f->ops, LB_F32, PAGES, lb_kv_key_page(&shape));
    lb_tensor values = lb_ops_alloc_zero(r->f->ops, LB_F32, PAGES, lb_kv_value_page(&shape));
    for (uint32_t i = 0; i < NEED; i++) {
        tables[0][i] = (i * 3 + (uint32_t)r->rows) % NEED;
        tables[1][i] = i < 4 ? tables[0][i] : NEED + i;
    }
    for (int copy = 0; copy < 2; copy++) {
        for (uint32_t i = 0; i < KEYS; i++)
            slots[i] = tables[copy][i / LB_KV_PAGE] * LB_KV_PAGE + i % LB_KV_PAGE;
        lb_kv_write(r->f->ops, keys, values, constant(r, 46, KEYS, KV * DIM),
                    constant(r, 47, KEYS, KV * DIM), slots, &shape);
    }
    for (size_t i = 0; i < r->rows; i++)
        rows[i] = (lb_kv_row){tables[(i + r->rows) % 2],
                              (uint32_t)((r->first + i) * 37 % KEYS) + 1};
    lb_tensor out = blank(r->f, r->rows, HEADS * DIM);
    lb_attention(r->f->ops, out, input(r, 16, HEADS * DIM, 1.0f), keys, values, rows, &shape);
    collect(r, out, 3 * HEADS * DIM, column);
}

static void run_attention(const run *r)
{
    attend(r, LB_F32, 0);
    attend(r, LB_INT16, 144);
    attend(r, LB_INT8, 288);
}

/* One "row" is a sequence of five tokens. */
static void run_attention_backward(const run *r)
{
    enum { DIM = 10, HEADS = 4, KV = 2, TOKENS = 5, Q = HEADS * DIM, KW = KV * DIM };
    static const lb_attention_shape shape = {HEADS, KV, DIM, 0.3f, LB_F32};
    uint32_t starts[ROWS_MAX + 1];
    const run tokens = {r->f, r->first * TOKENS, r->rows * TOKENS, NULL};
    for (uint32_t i = 0; i <= r->rows; i++)
        starts[i] = i * TOKENS;
    const lb_tensor grads[3] = {blank(r->f, tokens.rows, Q), blank(r->f, tokens.rows, KW),
                                blank(r->f, tokens.rows, KW)};
    lb_attention_backward(r->f->ops, grads, input(&tokens, 17, Q, 1.0f),
                          input(&tokens, 18, Q, 1.0f), input(&tokens, 19, KW, 1.0f),
                          input(&tokens, 20, KW, 1.0f), starts, r->rows, &shape);
    for (size_t g = 0, column = 0; g < 3; column += TOKENS * grads[g].cols, g++) {
        float *host = download(r->f, grads[g]);
        size_t width = TOKENS * grads[g].cols;
        for (size_t i = 0; i < r->rows; i++)
            memcpy(r->out + i * TOKENS * (Q + 2 * KW) + column, host + i * width,
                   width * sizeof *host);
        free(host);
    }
}

static void head_as(const run *r, lb_dtype stored)
{
    /* Three ranges of the head's vocabulary, the last not whole. */
    enum { D = 37, VOCAB = 8300, K = 5, WIDTH = 4 + 2 * K + D + 2 };
    float logprob[ROWS_MAX], lse[ROWS_MAX], entropy[ROWS_MAX], top_logprob[ROWS_MAX * K];
    float grad[ROWS_MAX], uniform[ROWS_MAX], drawn[ROWS_MAX];
    uint32_t rank[ROWS_MAX], top_id[ROWS_MAX * K], targets[ROWS_MAX], token[ROWS_MAX];
    for (size_t i = 0; i < r->rows; i++) {
        targets[i] = (uint32_t)((r->first + i) * 7919 % VOCAB);
        grad[i] = (r->first + i) % 4 == 0 ? 0.0f : noise(21, r->first + i, 0, 1.0f);
        uniform[i] = noise(22, r->first + i, 0, 0.5f) + 0.5f;
    }
    lb_weight *w = weight_of(r, VOCAB, D, stored);
    lb_tensor h = input(r, 23, D, 1.0f), dh = blank(r->f, r->rows, D);
    const lb_head_out out = {logprob, lse, entropy, top_logprob, rank, top_id, K};
    const lb_sample_params params = {0.8f, 0.9f, 300};
    lb_head(r->f->ops, h, w, targets, &out);
    lb_head_backward(r->f->ops, dh, h, w, targets, lse, grad);
    lb_head_sample(r->f->ops, h, w, NULL, &params, uniform, token, drawn);
    collect(r, dh, WIDTH, 4 + 2 * K);
    for (size_t i = 0; i < r->rows; i++) {
        float *row = r->out + i * WIDTH;
        row[0] = logprob[i];
        row[1] = lse[i];
        row[2] = entropy[i];
        row[3] = (float)rank[i];
        for (size_t j = 0; j < K; j++) {
            row[4 + j] = (float)top_id[i * K + j];
            row[4 + K + j] = top_logprob[i * K + j];
        }
        row[WIDTH - 2] = (float)token[i];
        row[WIDTH - 1] = drawn[i];
    }
    lb_weight_free(w);
}

static void run_head_bf16(const run *r) { head_as(r, LB_BF16); }
static void run_head_fast(const run *r) { head_as(r, LB_INT16); }

static const struct {
    const char *name;
    size_t width;
    void (*run)(const run *r);
} cases[] = {
    {"linear f32", 97 + 130, run_linear_f32},
    {"linear bf16", 97 + 130, run_linear_bf16},
    {"linear fast", 97 + 40, run_linear_fast},
    {"linear backward fast", 97, run_linear_backward_fast},
    {"linear int8", 97 + 40, run_linear_int8},
    {"linear large", 160, run_linear_large},
    {"rmsnorm", 260, run_norm},
    {"swiglu", 210, run_swiglu},
    {"linear_swiglu f32", 397, run_linear_swiglu_f32},
    {"linear_swiglu fast", 397, run_linear_swiglu_fast},
    {"linear_swiglu int8", 397, run_linear_swiglu_int8},
    {"rope, gather, scatter", 102, run_rope_and_moves},
    {"gemm", 150, run_gemm},
    {"attention", 3 * 144, run_attention},
    {"attention backward", 5 * 80, run_attention_backward},
    {"head bf16", 53, run_head_bf16},
    {"head fast", 53, run_head_fast},
};

static const size_t sizes[] = {1, 2, 5, 12, 13, 37, 64};

static void check_rows(fixture *f, size_t c, const char *isa, uint32_t threads, const float *want)
{
    size_t width = cases[c].width;
    float *got = floats(ROWS_MAX * WIDTH_MAX);
    for (size_t s = 0; s < COUNT(sizes); s++) {
        /* From the first row, and from one that moves them all to another place in the tiles. */
        for (size_t first = 0; first <= ROWS_MAX - sizes[s]; first += 7) {
            const run r = {f, first, sizes[s], got};
            char what[96];
            cases[c].run(&r);
            fixture_check(f);
            snprintf(what, sizeof what, "%s, %s, %u threads, rows %zu + %zu", cases[c].name, isa,
                     threads, first, sizes[s]);
            same_bits(what, got, want + first * width, sizes[s] * width);
            lb_ops_reset(f->ops);
            if (first == 7)
                break;
        }
    }
    free(got);
}

static void test_rows_keep_their_bits(void **state)
{
    (void)state;
    float *want = floats(COUNT(cases) * ROWS_MAX * WIDTH_MAX);
    fixture f;
    assert_true(fixture_open(&f, 1, NULL));
    for (size_t c = 0; c < COUNT(cases); c++) {
        assert_true(cases[c].width <= WIDTH_MAX);
        const run all = {&f, 0, ROWS_MAX, want + c * ROWS_MAX * WIDTH_MAX};
        cases[c].run(&all);
        fixture_check(&f);
        lb_ops_reset(f.ops);
    }
    fixture_close(&f);
    for (size_t i = 0; lb_backend_isa(i); i++) {
        const char *isa = lb_backend_isa(i);
        for (uint32_t threads = 1; threads <= 3; threads++) {
            fixture_open(&f, threads, isa);
            for (size_t c = 0; c < COUNT(cases); c++)
                check_rows(&f, c, isa, threads, want + c * ROWS_MAX * WIDTH_MAX);
            fixture_close(&f);
        }
    }
    free(want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_keep_their_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
