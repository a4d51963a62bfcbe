/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/weights.h"

#include "common/tensor/tensor.h"

#include <string.h>

bool lb_st_is_float(const lb_st_tensor *tensor)
{
    return tensor->dtype == LB_ST_F32 || tensor->dtype == LB_ST_BF16 ||
           tensor->dtype == LB_ST_F16;
}

void lb_st_expand(const lb_st_tensor *tensor, float *out)
{
    if (tensor->dtype == LB_ST_F32) {
        if (tensor->bytes > 0)
            memcpy(out, tensor->data, tensor->bytes);
        return;
    }
    for (size_t i = 0; i < tensor->bytes / sizeof(uint16_t); i++) {
        uint16_t value;
        memcpy(&value, tensor->data + i * sizeof value, sizeof value);
        out[i] = tensor->dtype == LB_ST_BF16 ? lb_bf16_to_f32(value) : lb_f16_to_f32(value);
    }
}
