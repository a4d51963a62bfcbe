/* SPDX-License-Identifier: Apache-2.0 */
#include "server/teacher/precision.h"

#include <math.h>
#include <stdlib.h>

#define TEXTS 8u
#define LENGTH 64u             /* of a text, its first token included */
#define SEED 1u

struct lb_probe {
    uint32_t count[TEXTS];
    uint32_t tokens[TEXTS][LENGTH];
    float logprob[TEXTS][LENGTH];
};

static lb_status score(const lb_probe *probe, lb_model *model, float out[TEXTS][LENGTH],
                       lb_err *err)
{
    lb_score_request requests[TEXTS] = {0};
    for (uint32_t i = 0; i < TEXTS; i++)
        requests[i] = (lb_score_request){.sequence = {probe->tokens[i], probe->count[i]},
                                         .start = 1, .logprob = out[i]};
    return lb_model_score(model, NULL, requests, TEXTS, err);
}

/* Texts at temperature 1, from the token that ends one. */
static lb_status sample(lb_probe *probe, lb_model *model, lb_err *err)
{
    const lb_model_config *config = lb_model_get_config(model);
    uint32_t first = config->eos_count > 0 ? config->eos[0] : 0;
    uint32_t room = config->max_positions < LENGTH ? config->max_positions : LENGTH;
    const lb_sequence prompt = {&first, 1};
    const lb_generate_params params = {.sample = {.temperature = 1.0f, .top_p = 1.0f},
                                       .max_new_tokens = room - 1, .seed = SEED,
                                       .ignore_eos = true};
    lb_rollout texts[TEXTS];
    if (room < 2)
        return lb_fail(err, LB_EINVAL, "max_positions", "a model of %u positions predicts nothing",
                       room);
    lb_status status = lb_model_generate(model, NULL, &prompt, 1, TEXTS, 0, &params, texts, err);
    for (uint32_t i = 0; status == LB_OK && i < TEXTS; i++) {
        probe->tokens[i][0] = first;
        probe->count[i] = 1 + texts[i].count;
        for (uint32_t t = 0; t < texts[i].count; t++)
            probe->tokens[i][1 + t] = texts[i].tokens[t];
        lb_rollout_free(&texts[i]);
    }
    return status;
}

lb_status lb_probe_create(lb_backend *backend, const char *dir, lb_probe **out, lb_err *err)
{
    lb_model_options options = {.dtype = LB_F32};
    lb_model *model = NULL;
    lb_probe *probe = calloc(1, sizeof *probe);
    if (!probe)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the probe");
    lb_status status = lb_model_load(backend, dir, &options, &model, err);
    if (status == LB_OK)
        status = sample(probe, model, err);
    if (status == LB_OK)
        status = score(probe, model, probe->logprob, err);
    lb_model_free(model);
    if (status != LB_OK) {
        lb_probe_free(probe);
        return status;
    }
    *out = probe;
    return LB_OK;
}

lb_status lb_probe_compare(const lb_probe *probe, lb_model *model, lb_precision *out, lb_err *err)
{
    float logprob[TEXTS][LENGTH];
    lb_precision p = {0};
    lb_status status = score(probe, model, logprob, err);
    if (status != LB_OK)
        return status;
    for (uint32_t i = 0; i < TEXTS; i++) {
        for (uint32_t t = 1; t < probe->count[i]; t++, p.tokens++) {
            double d = (double)logprob[i][t] - (double)probe->logprob[i][t];
            p.mean_abs += fabs(d);
            p.bias += d;
            p.max_abs = fabs(d) > p.max_abs ? fabs(d) : p.max_abs;
        }
    }
    p.mean_abs /= p.tokens;
    p.bias /= p.tokens;
    *out = p;
    return LB_OK;
}

void lb_probe_free(lb_probe *probe)
{
    free(probe);
}
