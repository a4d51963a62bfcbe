/* SPDX-License-Identifier: Apache-2.0
 *
 * Products of f32 tensors: B is packed into panels, and for tn A is transposed, into the shared
 * buffer; then it is the product of matmul.c, with the same chains over k.
 */
#include "common/tensor/cpu/cpu.h"

/* b as [k][n] panels; element (k, n) of the operand is b[n, k] for nt and b[k, n] otherwise. */
static void pack_b(const lb_gemm_args *args, size_t k, size_t n, float *panels)
{
    for (size_t panel = 0; panel * LB_PANEL < n; panel++) {
        size_t first = panel * LB_PANEL;
        size_t width = n - first < LB_PANEL ? n - first : LB_PANEL;
        float *out = panels + panel * k * LB_PANEL;
        if (args->kind == LB_GEMM_NT)
            memset(out, 0, k * LB_PANEL * sizeof *out);
        for (size_t lane = 0; args->kind == LB_GEMM_NT && lane < width; lane++) {
            const float *row = row_f32(args->b, first + lane);
            for (size_t d = 0; d < k; d++)
                out[d * LB_PANEL + lane] = row[d];
        }
        for (size_t d = 0; args->kind != LB_GEMM_NT && d < k; d++) {
            memcpy(out + d * LB_PANEL, row_f32(args->b, d) + first, width * sizeof *out);
            memset(out + d * LB_PANEL + width, 0, (LB_PANEL - width) * sizeof *out);
        }
    }
}

static void transpose_a(lb_tensor a, float *out)
{
    for (size_t r = 0; r < a.rows; r++) {
        const float *row = row_f32(a, r);
        for (size_t c = 0; c < a.cols; c++)
            out[c * a.rows + r] = row[c];
    }
}

lb_status LB_K(lb_cpu_gemm)(void *self, const lb_gemm_args *args)
{
    lb_cpu *cpu = self;
    bool tn = args->kind == LB_GEMM_TN;
    size_t k = tn ? args->a.rows : args->a.cols;
    size_t m = args->c.rows, n = args->c.cols;
    size_t panels = (n + LB_PANEL - 1) / LB_PANEL * LB_PANEL * k;
    lb_status status = lb_cpu_shared(cpu, (panels + (tn ? m * k : 0)) * sizeof(float));
    if (status != LB_OK)
        return status;
    float *b = cpu->shared, *a = b + panels;
    pack_b(args, k, n, b);
    if (tn)
        transpose_a(args->a, a);
    const lb_product p = {.a = tn ? a : args->a.data, .lda = tn ? k : args->a.stride, .panels = b,
                          .stored = LB_F32, .c = args->c.data, .ldc = args->c.stride, .k = k,
                          .n = n, .depth = k, .alpha = args->alpha, .accumulate = args->accumulate};
    LB_K(lb_product_run)(cpu, &p, 1, m);
    return LB_OK;
}
