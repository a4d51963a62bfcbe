/* SPDX-License-Identifier: Apache-2.0
 *
 * The CPU backend's op table, one for each instruction set this file is compiled for.
 */
#include "common/tensor/cpu/cpu.h"

const lb_backend_table LB_K(lb_cpu_table) = {
    .alloc = lb_cpu_alloc,
    .release = lb_cpu_release,
    .clear = lb_cpu_clear,
    .copy_in = lb_cpu_copy_in,
    .copy_out = lb_cpu_copy_out,
    .weight_pack = LB_K(lb_cpu_weight_pack),
    .weight_drop = lb_cpu_weight_drop,
    .embed = LB_K(lb_cpu_embed),
    .linear = LB_K(lb_cpu_linear),
    .linear_backward = LB_K(lb_cpu_linear_backward),
    .rmsnorm = LB_K(lb_cpu_rmsnorm),
    .rmsnorm_backward = LB_K(lb_cpu_rmsnorm_backward),
    .rope = LB_K(lb_cpu_rope),
    .swiglu = LB_K(lb_cpu_swiglu),
    .linear_swiglu = LB_K(lb_cpu_linear_swiglu),
    .swiglu_backward = LB_K(lb_cpu_swiglu_backward),
    .copy_rows = LB_K(lb_cpu_copy_rows),
    .gemm = LB_K(lb_cpu_gemm),
    .kv_write = LB_K(lb_cpu_kv_write),
    .attention = LB_K(lb_cpu_attention),
    .attention_backward = LB_K(lb_cpu_attention_backward),
    .head = LB_K(lb_cpu_head),
    .head_backward = LB_K(lb_cpu_head_backward),
    .head_sample = LB_K(lb_cpu_head_sample),
    .threads = lb_cpu_threads,
    .limits = LB_K(lb_cpu_limits),
    .close = lb_cpu_close,
};
