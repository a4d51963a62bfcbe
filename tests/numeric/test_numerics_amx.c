/* SPDX-License-Identifier: Apache-2.0
 *
 * The recorded bits of whole models with AMX, whose instructions are done in C (test_amx.c).
 */
#include "common/model/model.h"

#if defined(__x86_64__)
#define LB_AMX_EMULATED 0
#include "common/tensor/cpu/matmul_amx.c"
#endif
#include "tests/numeric/test_numerics.c"
