/* SPDX-License-Identifier: Apache-2.0
 *
 * How far a teacher whose weights are integers is from itself in f32: measured when it starts, on
 * texts that the f32 model samples, and published with the model.
 */
#ifndef LB_SERVER_TEACHER_PRECISION_H
#define LB_SERVER_TEACHER_PRECISION_H

#include "common/model/model.h"

/* Over the sampled tokens, |difference of log-probability|, natural; bias: the mean difference. */
typedef struct lb_precision {
    double mean_abs, max_abs, bias;
    uint32_t tokens;           /* 0: not measured */
} lb_precision;

typedef struct lb_probe lb_probe;

/* Loads DIR in f32, samples texts and scores them; the model is freed again. */
LB_NODISCARD lb_status lb_probe_create(lb_backend *backend, const char *dir, lb_probe **out,
                                       lb_err *err);
/* Scores the same texts with another model of the same vocabulary. */
LB_NODISCARD lb_status lb_probe_compare(const lb_probe *probe, lb_model *model, lb_precision *out,
                                        lb_err *err);
void lb_probe_free(lb_probe *probe);

#endif
