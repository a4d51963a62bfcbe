/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_tensor, lb_weight - what the ops work on.
 *
 * An lb_tensor is a plain view: row-major, last dimension contiguous, rows stand `stride` elements
 * apart. It owns nothing; its memory comes from lb_ops_alloc (freed with the arena) or from
 * lb_device_alloc. Memory belongs to a backend: only ops, lb_copy_in and lb_copy_out touch it.
 * An lb_weight is a frozen matrix [N, K] packed once for the backend's product, immutable after
 * creation and shared between threads.
 */
#ifndef LB_COMMON_TENSOR_TENSOR_H
#define LB_COMMON_TENSOR_TENSOR_H

#include "common/base/half.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* LB_INT16 and LB_INT8 are for weights and for caches of keys and values: integers with an f32
 * scale for each LB_QUANT_BLOCK inputs of an output, or for each token's head, multiplied with
 * activations that are quantised alike (docs/NUMERICS.md). LB_INT8 has no backward. */
typedef enum lb_dtype { LB_F32, LB_BF16, LB_I32, LB_INT16, LB_INT8 } lb_dtype;

#define LB_QUANT_BLOCK 128u

static inline size_t lb_dtype_size(lb_dtype dtype)
{
    return dtype == LB_INT8 ? 1 : dtype == LB_BF16 || dtype == LB_INT16 ? 2 : 4;
}
/* Whether weights are stored as integers. */
static inline bool lb_dtype_is_integer(lb_dtype dtype)
{
    return dtype == LB_INT16 || dtype == LB_INT8;
}
/* Whether weights stored so can be packed for the backward, and a model trained with them. */
static inline bool lb_dtype_has_backward(lb_dtype dtype)
{
    return dtype == LB_F32 || dtype == LB_BF16 || dtype == LB_INT16;
}
#define LB_DTYPE_NAMES "f32|bf16|fast|int8"
/* The dtype that a user names: "f32", "bf16", "fast" (LB_INT16) or "int8". */
LB_NODISCARD bool lb_dtype_parse(const char *name, lb_dtype *out);
const char *lb_dtype_name(lb_dtype dtype);

/* A matrix [rows, cols]. A vector is [1, cols] or [rows, 1]. */
typedef struct lb_tensor {
    lb_dtype dtype;
    size_t rows, cols;
    size_t stride;     /* elements between rows, >= cols */
    void *data;        /* memory of the backend */
} lb_tensor;

lb_tensor lb_tensor_rows(lb_tensor t, size_t first, size_t count);   /* view of rows; asserts */
lb_tensor lb_tensor_cols(lb_tensor t, size_t first, size_t count);   /* view of columns; asserts */
/* The same memory as [rows, cols] where rows * cols matches and t is contiguous; asserts. */
lb_tensor lb_tensor_reshape(lb_tensor t, size_t rows, size_t cols);

typedef struct lb_weight lb_weight;        /* [N, K], packed; opaque, see backend_impl.h */

#endif
