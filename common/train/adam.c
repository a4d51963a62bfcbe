/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/adam.h"

#include "common/io/safetensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

lb_adam_config lb_adam_defaults(void)
{
    return (lb_adam_config){.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.0};
}

lb_status lb_adam_create(size_t elements, lb_adam *out, lb_err *err)
{
    lb_adam adam = {.elements = elements, .beta1_power = 1.0, .beta2_power = 1.0};
    if (elements == 0)
        return lb_fail(err, LB_EINVAL, "elements", "an optimizer needs at least one parameter");
    adam.m = calloc(elements, sizeof *adam.m);
    adam.v = calloc(elements, sizeof *adam.v);
    if (!adam.m || !adam.v) {
        lb_adam_free(&adam);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu optimizer elements", elements);
    }
    *out = adam;
    return LB_OK;
}

void lb_adam_free(lb_adam *adam)
{
    if (!adam)
        return;
    free(adam->m);
    free(adam->v);
    *adam = (lb_adam){0};
}

lb_status lb_adam_step(lb_adam *adam, const lb_adam_config *config, double lr, double grad_scale,
                       const float *grad, float *weights, lb_err *err)
{
    for (size_t i = 0; i < adam->elements; i++) {
        if (!isfinite(grad[i]))
            return lb_fail(err, LB_ENUMERIC, "gradient", "element %zu is %g", i, (double)grad[i]);
    }
    adam->steps++;
    adam->beta1_power *= config->beta1;
    adam->beta2_power *= config->beta2;
    double correction1 = 1.0 - adam->beta1_power;
    double correction2 = 1.0 - adam->beta2_power;
    for (size_t i = 0; i < adam->elements; i++) {
        double g = (double)grad[i] * grad_scale;
        double m = config->beta1 * (double)adam->m[i] + (1.0 - config->beta1) * g;
        double v = config->beta2 * (double)adam->v[i] + (1.0 - config->beta2) * (g * g);
        double w = (double)weights[i];
        double step = (m / correction1) / (sqrt(v / correction2) + config->epsilon);
        adam->m[i] = (float)m;
        adam->v[i] = (float)v;
        weights[i] = (float)(w - lr * (step + config->weight_decay * w));
    }
    return LB_OK;
}

lb_status lb_adam_encode(const lb_adam *adam, lb_buf *out, lb_err *err)
{
    char steps[32], power1[40], power2[40];
    /* Hexadecimal floating point keeps every bit of the running products. */
    snprintf(steps, sizeof steps, "%" PRIu64, adam->steps);
    snprintf(power1, sizeof power1, "%a", adam->beta1_power);
    snprintf(power2, sizeof power2, "%a", adam->beta2_power);
    const char *pairs[] = {"steps", steps, "beta1_power", power1, "beta2_power", power2};
    const lb_st_source tensors[] = {
        {.name = "m", .dtype = LB_ST_F32, .rank = 1, .shape = {adam->elements}, .data = adam->m},
        {.name = "v", .dtype = LB_ST_F32, .rank = 1, .shape = {adam->elements}, .data = adam->v},
    };
    return lb_safetensors_write(tensors, 2, pairs, 3, out, err);
}

static lb_status read_moment(const lb_safetensors *file, const char *name, size_t elements,
                             float *out, lb_err *err)
{
    const lb_st_tensor *tensor = lb_safetensors_find(file, name);
    if (!tensor || tensor->dtype != LB_ST_F32 || tensor->bytes / sizeof *out != elements)
        return lb_fail(err, LB_EDATA, name, "the optimizer state lacks this tensor of %zu f32",
                       elements);
    memcpy(out, tensor->data, tensor->bytes);
    return LB_OK;
}

/* A whole metadata value as a number; false when it is absent or has anything else in it. */
static bool read_number(const lb_safetensors *file, const char *key, double *out)
{
    const char *text = lb_safetensors_metadata(file, key);
    char *end = NULL;
    if (!text || !*text)
        return false;
    *out = strtod(text, &end);
    return *end == '\0' && isfinite(*out) && *out >= 0.0;
}

lb_status lb_adam_decode(const uint8_t *bytes, size_t length, size_t elements, lb_adam *out,
                         lb_err *err)
{
    lb_safetensors *file = NULL;
    lb_adam adam = {0};
    double steps = 0.0;
    lb_status status = lb_safetensors_open(bytes, length, LB_SAFETENSORS_HEADER_MAX, &file, err);
    if (status == LB_OK)
        status = lb_adam_create(elements, &adam, err);
    if (status == LB_OK)
        status = read_moment(file, "m", elements, adam.m, err);
    if (status == LB_OK)
        status = read_moment(file, "v", elements, adam.v, err);
    if (status == LB_OK && (!read_number(file, "steps", &steps) ||
                            !read_number(file, "beta1_power", &adam.beta1_power) ||
                            !read_number(file, "beta2_power", &adam.beta2_power) ||
                            steps > 9007199254740992.0))
        status = lb_fail(err, LB_EDATA, "__metadata__", "the optimizer's counters are malformed");
    if (status == LB_OK) {
        adam.steps = (uint64_t)steps;
        *out = adam;
        adam = (lb_adam){0};
    }
    lb_adam_free(&adam);
    lb_safetensors_close(file);
    return status;
}

void lb_tree_reduce(float **leaves, size_t count, size_t elements, float *out)
{
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t i = 0; i + width < count; i += 2 * width) {
            float *left = leaves[i], *right = leaves[i + width];
            if (!left) {
                leaves[i] = right;
                continue;
            }
            /* A missing leaf is skipped rather than added as 0, which would turn -0 into +0. */
            for (size_t e = 0; right && e < elements; e++)
                left[e] += right[e];
        }
    }
    if (count == 0 || !leaves[0])
        memset(out, 0, elements * sizeof *out);
    else if (leaves[0] != out)
        memcpy(out, leaves[0], elements * sizeof *out);
}
