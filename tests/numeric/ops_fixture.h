/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of common/tensor share: a backend with its stream, tensors filled and read back,
 * random numbers that depend on a row and a column alone, and error bounds.
 */
#ifndef LB_TESTS_NUMERIC_OPS_FIXTURE_H
#define LB_TESTS_NUMERIC_OPS_FIXTURE_H

#include "common/tensor/ops.h"
#include "tests/check.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Half a unit in the last place of 1.0f: the relative error of one rounding. */
#define ROUNDING 0x1p-24
#define COUNT(table) (sizeof(table) / sizeof *(table))

typedef struct fixture {
    lb_backend *backend;
    lb_ops *ops;
} fixture;

/* False when the chip lacks the instruction set. */
static inline bool fixture_open(fixture *f, uint32_t threads, const char *isa)
{
    lb_err err;
    lb_status status = lb_backend_open("cpu", threads, isa, &f->backend, &err);
    if (status == LB_EUNSUPPORTED)
        return false;
    assert_int_equal(status, LB_OK);
    assert_int_equal(lb_ops_create(f->backend, &f->ops, &err), LB_OK);
    return true;
}

/* Every op since the last reset succeeded. */
static inline void fixture_check(const fixture *f)
{
    lb_err err = {0};
    if (lb_ops_status(f->ops, &err) != LB_OK)
        fail_msg("the stream failed: %s", err.message);
}

static inline void fixture_close(fixture *f)
{
    fixture_check(f);
    lb_ops_free(f->ops);
    lb_backend_close(f->backend);
}

static inline void *take(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    assert_non_null(memory);
    return memory;
}

static inline float *floats(size_t count)
{
    return take(count, sizeof(float));
}

/* Uniform in [-scale, scale), a function of its arguments alone. */
static inline float noise(uint32_t seed, size_t row, size_t col, float scale)
{
    uint64_t x = seed * 0x9E3779B97F4A7C15u + row * 0xBF58476D1CE4E5B9u + col * 0x94D049BB133111EBu;
    x ^= x >> 31;
    x *= 0xD6E8FEB86659FD93u;
    x ^= x >> 32;
    x *= 0xD6E8FEB86659FD93u;
    return ((float)(x >> 40) * 0x1p-23f - 1.0f) * scale;
}

/* Rows first .. first + rows of the matrix `seed`. The caller frees it. */
static inline float *matrix(uint32_t seed, size_t first, size_t rows, size_t cols, float scale)
{
    float *out = floats(rows * cols);
    for (size_t r = 0; r < rows; r++) {
        for (size_t c = 0; c < cols; c++)
            out[r * cols + c] = noise(seed, first + r, c, scale);
    }
    return out;
}

static inline lb_tensor upload(fixture *f, const float *host, size_t rows, size_t cols)
{
    lb_tensor t = lb_ops_alloc(f->ops, LB_F32, rows, cols);
    lb_copy_in(f->ops, t, host);
    return t;
}

/* A tensor whose rows stand further apart than their length, to catch a forgotten stride. */
static inline lb_tensor upload_strided(fixture *f, const float *host, size_t rows, size_t cols)
{
    lb_tensor wide = lb_ops_alloc(f->ops, LB_F32, rows, cols + 5);
    lb_tensor t = lb_tensor_cols(wide, 3, cols);
    lb_copy_in(f->ops, t, host);
    return t;
}

static inline lb_tensor blank(fixture *f, size_t rows, size_t cols)
{
    return lb_tensor_cols(lb_ops_alloc(f->ops, LB_F32, rows, cols + 2), 1, cols);
}

static inline float *download(fixture *f, lb_tensor t)
{
    float *host = floats(t.rows * t.cols);
    lb_copy_out(f->ops, t, host);
    fixture_check(f);
    return host;
}

static inline lb_weight *pack_weight(fixture *f, const float *host, size_t n, size_t k,
                                     lb_dtype stored, unsigned flags)
{
    lb_weight *w = NULL;
    lb_err err;
    assert_int_equal(lb_weight_create(f->backend, n, k, host, LB_F32, stored, flags, &w, &err),
                     LB_OK);
    return w;
}

#define ALL_PACKINGS (LB_WEIGHT_FORWARD | LB_WEIGHT_BACKWARD)

static inline void same_bits(const char *what, const float *got, const float *want, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) != 0)
            fail_msg("%s: element %zu is %.9g, not the bits of %.9g", what, i, (double)got[i],
                     (double)want[i]);
    }
}

/* sum a[i * sa] b[i * sb] in float64; *bound gets what f32 sums of n terms may be off by:
 * n + 2 roundings of partial sums that are at most sum |a b|. */
static inline double dot_bound(const float *a, size_t sa, const float *b, size_t sb, size_t n,
                               double *bound)
{
    double sum = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        double term = (double)a[i * sa] * (double)b[i * sb];
        sum += term;
        size += fabs(term);
    }
    *bound = ((double)n + 2.0) * ROUNDING * size + 1e-37;
    return sum;
}

/* (f(x + h) - f(x - h)) / 2h of a float64 function at *x; its own error is about 1e-9. */
static inline double slope(double (*f)(void *), void *arg, double *x)
{
    const double step = 1e-5, at = *x;
    *x = at + step;
    double above = f(arg);
    *x = at - step;
    double below = f(arg);
    *x = at;
    return (above - below) / (2.0 * step);
}

static inline double *widen(const float *from, size_t count)
{
    double *out = take(count, sizeof *out);
    for (size_t i = 0; i < count; i++)
        out[i] = (double)from[i];
    return out;
}

#endif
