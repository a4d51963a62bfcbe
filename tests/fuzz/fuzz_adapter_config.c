/* SPDX-License-Identifier: Apache-2.0
 *
 * adapter_config.json for a small model. What is accepted keeps what later code relies on: ranks in
 * their limits, finite scales, tensors end to end.
 */
#include "common/model/lora.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const lb_model_config model = {
        .family = LB_FAMILY_QWEN3, .vocab = 11, .hidden = 6, .layers = 2, .heads = 4,
        .kv_heads = 2, .head_dim = 2, .mlp = 10, .max_positions = 16, .rms_eps = 1e-6,
    };
    lb_lora_layout layout = {0};
    lb_err err = {0};
    if (lb_lora_layout_parse((const char *)data, size, &model, &layout, &err) != LB_OK) {
        must(err.message[0] != '\0' && (err.field[0] || err.status == LB_ENOMEM));
        return 0;
    }
    size_t offset = 0;
    must(layout.count > 0 && layout.layers == model.layers);
    for (size_t i = 0; i < layout.count; i++) {
        const lb_lora_tensor *t = &layout.tensors[i];
        const lb_lora_module *m = lb_lora_find_module(&layout, t->layer, t->projection);
        must(m && m->rank >= 1 && m->rank <= LB_LORA_RANK_MAX && isfinite(m->scale));
        must(m->scale > 0 && (t->is_b ? t->cols : t->rows) == m->rank && t->offset == offset);
        must(layout.config.targets & 1u << t->projection);
        must(lb_lora_find(&layout, t->layer, t->projection, t->is_b) == t);
        offset += (size_t)t->rows * t->cols;
    }
    must(layout.elements == offset);
    lb_lora_layout_free(&layout);
    return 0;
}
