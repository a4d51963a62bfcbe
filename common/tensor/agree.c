/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether two backends give the same bits: products in every dtype, with rows and columns that fill
 * no tile and a depth that fills no block, and an activation. Takes some milliseconds.
 */
#include "common/tensor/backend_impl.h"

#include <stdlib.h>
#include <string.h>

enum { ROWS = 17, COLUMNS = 50, DEPTH = 200 };

static const lb_dtype dtypes[] = {LB_F32, LB_BF16, LB_INT16, LB_INT8};

#define RESULTS (sizeof dtypes / sizeof *dtypes * ROWS * COLUMNS)

static void fill(float *out, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (float)(seed >> 8) * 0x1p-23f - 1.0f;
    }
}

/* out[RESULTS]: silu(y) y of y = x W^T for each dtype. */
static bool results(lb_backend *backend, const float *x, const float *w, float *out)
{
    lb_ops *ops = NULL;
    bool good = lb_ops_create(backend, &ops, NULL) == LB_OK;
    for (size_t i = 0; good && i < sizeof dtypes / sizeof *dtypes; i++) {
        lb_weight *weight = NULL;
        good = lb_weight_create(backend, COLUMNS, DEPTH, w, LB_F32, dtypes[i], LB_WEIGHT_FORWARD,
                                &weight, NULL) == LB_OK;
        if (!good)
            break;
        lb_tensor rows = lb_ops_alloc(ops, LB_F32, ROWS, DEPTH);
        lb_tensor y = lb_ops_alloc(ops, LB_F32, ROWS, COLUMNS);
        lb_copy_in(ops, rows, x);
        lb_linear(ops, y, rows, weight, (lb_tensor){0});
        lb_swiglu(ops, y, y, y);
        lb_copy_out(ops, y, out + i * ROWS * COLUMNS);
        good = lb_ops_status(ops, NULL) == LB_OK;
        lb_weight_free(weight);
    }
    lb_ops_free(ops);
    return good;
}

bool lb_backend_agrees(lb_backend *backend, lb_backend *reference)
{
    float *memory = malloc((ROWS * DEPTH + COLUMNS * DEPTH + 2 * RESULTS) * sizeof *memory);
    if (!memory)
        return false;
    float *x = memory, *w = x + ROWS * DEPTH, *got = w + COLUMNS * DEPTH, *want = got + RESULTS;
    fill(x, ROWS * DEPTH, 1);
    fill(w, COLUMNS * DEPTH, 2);
    bool same = results(backend, x, w, got) && results(reference, x, w, want) &&
                memcmp(got, want, RESULTS * sizeof *got) == 0;
    free(memory);
    return same;
}
