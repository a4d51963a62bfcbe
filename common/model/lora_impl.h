/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the adapter share: how a layout is put together from its modules.
 */
#ifndef LB_COMMON_MODEL_LORA_IMPL_H
#define LB_COMMON_MODEL_LORA_IMPL_H

#include "common/model/lora.h"

#define LB_MODULE_PATH 64

/* The module's name in the base model: "model.layers.0.self_attn.q_proj". */
void lb_lora_module_path(uint32_t layer, lb_projection projection, char out[LB_MODULE_PATH]);

float lb_lora_scale(double alpha, uint32_t rank, bool rslora);

/* Fills the tensors in from rank and scale of `modules` [layers * LB_PROJ_COUNT] (from malloc),
 * which is taken, whatever the outcome. */
LB_NODISCARD lb_status lb_lora_layout_build(const lb_model_config *model,
                                            const lb_lora_config *config, lb_lora_module *modules,
                                            lb_lora_layout *out, lb_err *err);

#endif
