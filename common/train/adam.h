/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_adam - Adam with decoupled weight decay over a flat f32 vector.
 *
 * Only add, multiply, divide and square root, all correctly rounded, and running products for the
 * powers of beta: the same inputs give the same bits on every machine and compiler.
 * Source: Kingma and Ba, "Adam" (2015); Loshchilov and Hutter, "Decoupled Weight Decay" (2019).
 */
#ifndef LB_COMMON_TRAIN_ADAM_H
#define LB_COMMON_TRAIN_ADAM_H

#include "common/base/buf.h"
#include "common/base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct lb_adam_config {
    double beta1, beta2, epsilon, weight_decay;   /* 0.9, 0.95, 1e-8, 0 */
} lb_adam_config;
lb_adam_config lb_adam_defaults(void);

typedef struct lb_adam {
    size_t elements;
    float *m, *v;            /* owned */
    double beta1_power, beta2_power;
    uint64_t steps;
} lb_adam;

LB_NODISCARD lb_status lb_adam_create(size_t elements, lb_adam *out, lb_err *err);
void lb_adam_free(lb_adam *adam);
/* weights -= lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * weights), grad multiplied by
 * grad_scale first (1 / tokens for token_mean). LB_ENUMERIC when a gradient is not finite, before
 * anything is changed. */
LB_NODISCARD lb_status lb_adam_step(lb_adam *adam, const lb_adam_config *config, double lr,
                                    double grad_scale, const float *grad, float *weights,
                                    lb_err *err);
/* The state as a safetensors image (m, v, and the counters as metadata), and back. */
LB_NODISCARD lb_status lb_adam_encode(const lb_adam *adam, lb_buf *out, lb_err *err);
LB_NODISCARD lb_status lb_adam_decode(const uint8_t *bytes, size_t length, size_t elements,
                                      lb_adam *out, lb_err *err);

/* Adds src[i] of `count` leaves (NULL: missing, skipped) in the balanced binary tree over the next
 * power of two, into out: the same bits whatever order the leaves came in. out may be leaf 0.
 * Overwrites the leaves' buffers as scratch. */
void lb_tree_reduce(float **leaves, size_t count, size_t elements, float *out);

#endif
