/* SPDX-License-Identifier: Apache-2.0
 *
 * Integer products by AMX (Intel, "Intel 64 and IA-32 Architectures Software Developer's Manual",
 * volume 1, chapter 18): a tile register holds 16 rows of 64 bytes, and one instruction adds the
 * products of 16 rows and 16 columns over 64 bytes of depth. Panels have the form of its second
 * operand, 8-bit ones as they stand and int16 in planes (quantise.h), of which four products make
 * one. Sums are exact, so the bits are those of the other kernels.
 */
#ifndef LB_COMMON_TENSOR_CPU_AMX_H
#define LB_COMMON_TENSOR_CPU_AMX_H

#include "common/tensor/cpu/cpu.h"

#define LB_AMX_ROWS 16u
#define LB_AMX_COLUMNS 32u

/* What this thread's tile registers are configured for; zeros: for nothing. */
typedef struct lb_amx {
    size_t rows;
} lb_amx;

/* Whether the chip has AMX for 8-bit integers and the kernel lets this process use it, for which
 * it is asked. */
bool lb_amx_there(void);
/* A tile of a product with integer panels: rows <= LB_AMX_ROWS from `row`, LB_AMX_COLUMNS columns
 * from `column`, a whole panel, into out[rows][LB_AMX_COLUMNS], rows ld apart. */
void lb_amx_tile(lb_amx *amx, const lb_product *p, size_t rows, size_t row, size_t column,
                 float *out, size_t ld);
/* Gives the tile registers back; before another function of the thread that does not use them. */
void lb_amx_end(lb_amx *amx);
/* steps x LB_AMX_CHAINS independent products of bytes, for the machine's limit. */
#define LB_AMX_CHAINS 4u
#define LB_AMX_INT16_DOTS 4u      /* such products that make one of int16 */
void lb_amx_chains(size_t steps);

#endif
