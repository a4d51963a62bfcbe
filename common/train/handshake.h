/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_handshake - what student and teacher must agree on before a job's first step.
 *
 * A worker measures it (client/worker/handshake.c) and sends it as JSON; the coordinator judges it
 * and pins the first that passes, so that a teacher which is exchanged later is noticed. Source:
 * docs/ALGORITHM.md, "What must be refused, not averaged away".
 *
 * The probe: the first rows of the data set, cut short, each with a few tokens that the student
 * sampled without an adapter. Figures are natural-log probabilities or differences of them.
 */
#ifndef LB_COMMON_TRAIN_HANDSHAKE_H
#define LB_COMMON_TRAIN_HANDSHAKE_H

#include "common/base/digest.h"
#include "common/base/json.h"
#include "common/base/status.h"
#include "common/io/config.h"

#include <stdbool.h>
#include <stdint.h>

#define LB_HANDSHAKE_NAME_MAX 128

/* Largest noise that a job starts with, in nats a token. Both are 0 with Limbeck's own teacher. */
#define LB_HANDSHAKE_NOISE_MAX 0.05
/* Largest difference of a later probe's mean teacher logprob to the pinned one. */
#define LB_HANDSHAKE_DRIFT_MAX 0.01

/* Differences that a job may allow: hyperparameters.allow_mismatch. */
typedef enum lb_handshake_allow {
    LB_ALLOW_STOP_IDS = 1,        /* "stop_ids" */
    LB_ALLOW_CHAT_TEMPLATE = 2,   /* "chat_template" */
} lb_handshake_allow;

#define LB_ALLOW_NAMES 2
/* Name of bit (1 << index). */
const char *lb_handshake_allow_name(unsigned index);

typedef struct lb_handshake_side {
    char model[LB_HANDSHAKE_NAME_MAX];
    char model_sha[LB_SHA256_HEX];
    char tokenizer_sha[LB_SHA256_HEX];   /* over vocabulary, merges and added tokens */
    char template_sha[LB_SHA256_HEX];    /* of the chat template's text; "": it has none */
    uint32_t vocab;
    uint32_t stops[LB_CONFIG_EOS_MAX];   /* ids that end a sequence, ascending */
    uint32_t stop_count;
} lb_handshake_side;

typedef struct lb_handshake_probe {
    uint32_t sequences;
    uint64_t tokens;             /* scored by the teacher */
    double teacher_logprob;      /* their mean under the teacher */
    double student_logprob;      /* and under the student */
    double teacher_noise;        /* largest difference when the same is asked again, alone */
    double sampler_noise;        /* largest difference of sampler and trainer, same tokens */
    double before_change;        /* a token changed: largest difference of the entries before it, */
    double at_change;            /* and of its own entry */
} lb_handshake_probe;

typedef struct lb_handshake {
    lb_handshake_side student, teacher;
    lb_handshake_probe probe;
    uint64_t teacher_version;    /* of the frames: first 8 bytes of the model's digest */
} lb_handshake;

void lb_handshake_write(const lb_handshake *handshake, lb_jsonw *out);
/* LB_EINVAL names the member ("teacher.stop_ids"). */
LB_NODISCARD lb_status lb_handshake_parse(const lb_json *json, lb_handshake *out, lb_err *err);

/* Whether a job may start. LB_ECONFLICT, with the figure: field is one of teacher.tokenizer_sha256,
 * teacher.stop_ids, teacher.chat_template_sha256, probe.tokens, probe.before_change,
 * probe.at_change, probe.teacher_noise, probe.sampler_noise. allow: lb_handshake_allow bits. */
LB_NODISCARD lb_status lb_handshake_judge(const lb_handshake *handshake, unsigned allow,
                                          lb_err *err);
/* Whether a later handshake is about the teacher that was pinned. LB_ECONFLICT as above. */
LB_NODISCARD lb_status lb_handshake_compare(const lb_handshake *pinned,
                                            const lb_handshake *found, lb_err *err);

#endif
