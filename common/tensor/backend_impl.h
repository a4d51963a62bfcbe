/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_backend_table - what a backend implements. Private to common/tensor.
 *
 * ops.c checks shapes and the sticky error, then calls the table; an entry may trust its
 * arguments. cpu/ and (as a plugin) cuda/ have the same file names. A new op is: a row here, a
 * check in ops.c, a CPU file, a CUDA file, a parity case in tests/numeric/test_ops.c.
 */
#ifndef LB_COMMON_TENSOR_BACKEND_IMPL_H
#define LB_COMMON_TENSOR_BACKEND_IMPL_H

#include "common/tensor/ops.h"
#include "common/tensor/tensor.h"

