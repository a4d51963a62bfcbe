/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/tensor.h"

#include <assert.h>
#include <string.h>

static const struct {
    const char *name;
    lb_dtype dtype;
} names[] = {{"f32", LB_F32}, {"bf16", LB_BF16}, {"fast", LB_INT16}, {"int8", LB_INT8}};

bool lb_dtype_parse(const char *name, lb_dtype *out)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i].name) == 0) {
            *out = names[i].dtype;
            return true;
        }
    }
    return false;
}

const char *lb_dtype_name(lb_dtype dtype)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (names[i].dtype == dtype)
            return names[i].name;
    }
    return "i32";
}

static void *at(lb_tensor t, size_t row, size_t col)
{
    return t.data ? (char *)t.data + (row * t.stride + col) * lb_dtype_size(t.dtype) : NULL;
}

lb_tensor lb_tensor_rows(lb_tensor t, size_t first, size_t count)
{
    assert(first <= t.rows && count <= t.rows - first);
    return (lb_tensor){t.dtype, count, t.cols, t.stride, at(t, first, 0)};
}

lb_tensor lb_tensor_cols(lb_tensor t, size_t first, size_t count)
{
    assert(first <= t.cols && count <= t.cols - first);
    return (lb_tensor){t.dtype, t.rows, count, t.stride, at(t, 0, first)};
}

lb_tensor lb_tensor_reshape(lb_tensor t, size_t rows, size_t cols)
{
    assert(t.rows * t.cols == rows * cols && (t.stride == t.cols || t.rows <= 1));
    return (lb_tensor){t.dtype, rows, cols, cols, t.data};
}
