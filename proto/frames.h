/* SPDX-License-Identifier: Apache-2.0
 *
 * Binary frames: what workers and daemons exchange instead of JSON. Little-endian, no padding.
 * Encoders append to an lb_buf; decoders check every length before they allocate, and their
 * results own their memory (X_free).
 *
 * Score request  "LBSQ" u16 version=1 u16 flags=0, u32 sequences, u32 k, u32 deadline_ms (0: none),
 *                u8[32] tokenizer digest (zeros: not checked), then per sequence
 *                u32 tokens, u32 start, tokens x u32. Entries below start (>= 1) are not scored.
 * Score reply    "OPDL" u16 version=1 u16 flags, u32 sequences, u32 k, u32 vocab, u32 reserved,
 *                u64 teacher_version (first 8 bytes of the model digest), f64 queue_seconds,
 *                f64 compute_seconds, 16 bytes reserved: 64 bytes of header; then per sequence
 *                u32 rows (tokens - start), f32 actual[rows], f32 topk_logprob[rows * k],
 *                i32 topk_id[rows * k], f32 tail_mass[rows] when k > 0, f32 entropy[rows] when
 *                flags bit 0. Row i is about entry start + i.
 * Unit result    "LBUG" u16 version=1 u16 flags=0, u32 step, u32 unit, u64 elements, u64 tokens,
 *                u32 metrics, then metrics x f64 (order of lb_unit_metric), then elements x f32:
 *                the sum of gradients (flat LoRA order), not divided by anything.
 */
#ifndef LB_PROTO_FRAMES_H
#define LB_PROTO_FRAMES_H

#include "common/base/buf.h"
#include "common/base/digest.h"
#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lb_frame_sequence {
    const uint32_t *tokens;    /* owned by the decoded frame, borrowed by the encoder */
    uint32_t count;
    uint32_t start;
} lb_frame_sequence;

typedef struct lb_score_query {
    lb_frame_sequence *sequences;
    uint32_t count;
    uint32_t k;
    uint32_t deadline_ms;
    uint8_t tokenizer_digest[LB_SHA256_BYTES];
    void *storage;             /* private */
} lb_score_query;

void lb_score_query_encode(const lb_score_query *query, lb_buf *out);
/* Limits of limits.h; LB_EDATA / LB_ETOOBIG name the field ("sequences[3].start"). */
LB_NODISCARD lb_status lb_score_query_decode(const uint8_t *bytes, size_t length,
                                             lb_score_query *out, lb_err *err);
void lb_score_query_free(lb_score_query *query);

typedef struct lb_score_rows {
    uint32_t rows;
    float *actual;             /* [rows] */
    float *top_logprob;        /* [rows * k], NULL when k is 0 */
    uint32_t *top_id;          /* [rows * k] */
    float *tail_mass;          /* [rows], NULL when k is 0 */
    float *entropy;            /* [rows] or NULL */
} lb_score_rows;

typedef struct lb_score_answer {
    lb_score_rows *sequences;
    uint32_t count, k, vocab;
    uint64_t teacher_version;
    double queue_seconds, compute_seconds;
    bool has_entropy;
    void *storage;             /* private */
} lb_score_answer;

void lb_score_answer_encode(const lb_score_answer *answer, lb_buf *out);
LB_NODISCARD lb_status lb_score_answer_decode(const uint8_t *bytes, size_t length,
                                              lb_score_answer *out, lb_err *err);
void lb_score_answer_free(lb_score_answer *answer);

/* Scalars of a unit, each a sum (or max / min where named so) that the coordinator folds over the
 * units of a step in unit order. */
#define LB_UNIT_METRICS(X)                                                                     \
    X(LB_METRIC_LOSS, "loss", SUM)                                                             \
    X(LB_METRIC_REVERSE_KL, "reverse_kl", SUM)                                                 \
    X(LB_METRIC_SAMPLER_LOGPROB, "sampler_logprob", SUM)                                       \
    X(LB_METRIC_LOG_RATIO, "log_ratio", SUM)                                                   \
    X(LB_METRIC_LOG_RATIO_SQUARE, "log_ratio_square", SUM)                                     \
    X(LB_METRIC_RATIO, "ratio", SUM)                                                           \
    X(LB_METRIC_RATIO_SQUARE, "ratio_square", SUM)                                             \
    X(LB_METRIC_RATIO_MAX, "ratio_max", MAX)                                                   \
    X(LB_METRIC_ADVANTAGE_MIN, "advantage_min", MIN)                                           \
    X(LB_METRIC_ADVANTAGE_MAX, "advantage_max", MAX)                                           \
    X(LB_METRIC_ROLLOUTS, "rollouts", SUM)                                                     \
    X(LB_METRIC_STOPPED, "stopped", SUM)                                                       \
    X(LB_METRIC_GRADED, "graded", SUM)                                                         \
    X(LB_METRIC_CORRECT, "correct", SUM)                                                       \
    X(LB_METRIC_LENGTH_MAX, "length_max", MAX)                                                 \
    X(LB_METRIC_NOISE_MAX, "noise_max", MAX)                                                   \
    X(LB_METRIC_PROMPT_TOKENS, "prompt_tokens", SUM)

typedef enum lb_unit_metric {
#define X(id, name, fold) id,
    LB_UNIT_METRICS(X)
#undef X
    LB_UNIT_METRIC_COUNT
} lb_unit_metric;

const char *lb_unit_metric_name(lb_unit_metric metric);
/* to = to folded with from, by each metric's rule. */
void lb_unit_metrics_fold(double to[LB_UNIT_METRIC_COUNT],
                          const double from[LB_UNIT_METRIC_COUNT]);
/* The neutral element of each metric's fold. */
void lb_unit_metrics_init(double metrics[LB_UNIT_METRIC_COUNT]);

typedef struct lb_unit_result {
    uint32_t step, unit;
    uint64_t tokens;                       /* trained tokens: the divisor of token_mean */
    double metrics[LB_UNIT_METRIC_COUNT];
    uint64_t elements;
    const float *gradient;                 /* encoder: borrowed; decoder: into the bytes if
                                              aligned, else into storage */
    void *storage;
} lb_unit_result;

void lb_unit_result_encode(const lb_unit_result *result, lb_buf *out);
/* elements must equal expected_elements; every value must be finite (LB_ENUMERIC). */
LB_NODISCARD lb_status lb_unit_result_decode(const uint8_t *bytes, size_t length,
                                             uint64_t expected_elements, lb_unit_result *out,
                                             lb_err *err);
void lb_unit_result_free(lb_unit_result *result);

#endif
