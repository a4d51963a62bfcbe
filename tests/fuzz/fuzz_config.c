/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json and generation_config.json, cut from one input at its first NUL byte. What is
 * accepted keeps every limit that later code relies on.
 */
#include "common/io/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lb_model_config c = {0};
    lb_err err = {0};
    const char *text = (const char *)data, *generation = NULL;
    const uint8_t *cut = size ? memchr(data, 0, size) : NULL;
    size_t length = cut ? (size_t)(cut - data) : size;
    if (cut)
        generation = text + length + 1;
    if (lb_config_parse(text, length, generation, cut ? size - length - 1 : 0, &c, &err) !=
            LB_OK) {
        must(err.message[0] != '\0' && (err.field[0] || err.status == LB_ENOMEM));
        return 0;
    }
    must(c.vocab >= 1 && c.vocab <= LB_CONFIG_VOCAB_MAX);
    must(c.hidden >= 1 && c.hidden <= LB_CONFIG_HIDDEN_MAX);
    must(c.layers >= 1 && c.layers <= LB_CONFIG_LAYERS_MAX);
    must(c.heads >= 1 && c.heads <= LB_CONFIG_HEADS_MAX && c.mlp >= 1 && c.max_positions >= 1);
    must(c.kv_heads >= 1 && c.heads % c.kv_heads == 0);
    must(c.head_dim >= 2 && c.head_dim % 2 == 0 && c.head_dim <= 512);
    must(c.rms_eps > 0.0 && c.rope.theta >= 1.0 && c.eos_count <= LB_CONFIG_EOS_MAX);
    must(!c.rope.llama3 || c.rope.high_freq_factor > c.rope.low_freq_factor);
    for (uint32_t i = 0; i < c.eos_count; i++)
        must(c.eos[i] < c.vocab && lb_config_is_eos(&c, c.eos[i]));
    return 0;
}
