/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_doctor - what `limbeck doctor` finds out about a teacher or a model folder.
 *
 * A finding is ok, a note (something to know), or a failure (it would break a distillation). What
 * a peer or a file says is shown only with its control characters replaced. A teacher is judged by
 * what it answers to probes; what it says of itself is reported, and held against that.
 */
#ifndef LB_CLIENT_CLI_DOCTOR_H
#define LB_CLIENT_CLI_DOCTOR_H

#include "common/base/json.h"
#include "common/base/status.h"
#include "common/net/client.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define LB_FINDINGS_MAX 64
#define LB_MEASURES_MAX 48
#define LB_PROBE_MODEL_BYTES 256
#define LB_PROBE_K_MAX 4096u

typedef enum lb_verdict { LB_VERDICT_OK, LB_VERDICT_NOTE, LB_VERDICT_FAIL } lb_verdict;

typedef struct lb_finding {
    lb_verdict verdict;
    char subject[24];
    char text[320];
} lb_finding;

typedef struct lb_doctor {
    lb_finding findings[LB_FINDINGS_MAX];
    size_t count;
    struct { const char *name; double value; } measures[LB_MEASURES_MAX];
    size_t measure_count;
    FILE *live;                /* gets each finding as a line at once; NULL: nobody */
} lb_doctor;

void lb_doctor_find(lb_doctor *doctor, lb_verdict verdict, const char *subject,
                    const char *format, ...) LB_PRINTF(4, 5);
/* A figure for programs; name is borrowed for good, its unit is its last word ("noise_nats"). */
void lb_doctor_measure(lb_doctor *doctor, const char *name, double value);
/* The finding of that subject with the worst verdict, the first of them; NULL: none. */
const lb_finding *lb_doctor_worst(const lb_doctor *doctor, const char *subject);

typedef struct lb_doctor_options {
    const char *url;
    const char *key;           /* NULL: none */
    const char *model;         /* NULL: the first that the teacher lists */
    const char *tokens;        /* ids of the probe, "1,2,3"; NULL: a fixed list of small ids */
    uint32_t timeout_ms;       /* of one call */
    uint32_t total_ms;         /* of all together */
    uint32_t repeat;           /* tries for the noise floor, at least 2 */
} lb_doctor_options;

/* Both return LB_OK when the examination took place, whatever it found. Otherwise there was
 * nothing to examine: nobody answers at the URL, the key is refused, there is no such model, an
 * option is wrong. */
LB_NODISCARD lb_status lb_doctor_teacher(const lb_doctor_options *options, lb_doctor *doctor,
                                         lb_err *err);
/* path: a folder or a .gguf file. */
LB_NODISCARD lb_status lb_doctor_model(const char *path, lb_doctor *doctor, lb_err *err);

/* ---- probes: one question, four spellings ---- */

typedef enum lb_dialect {
    LB_DIALECT_NATIVE,         /* POST /v1/teacher/logprobs */
    LB_DIALECT_VLLM,           /* POST /v1/completions with prompt_logprobs */
    LB_DIALECT_ECHO,           /* POST /v1/completions with echo and logprobs */
    LB_DIALECT_SGLANG,         /* POST /generate with return_logprob */
    LB_DIALECT_COUNT
} lb_dialect;

const char *lb_dialect_name(lb_dialect dialect);

/* A teacher under examination. For one thread; copy all but the client for another. */
typedef struct lb_peer {
    const lb_doctor_options *options;
    lb_client *client;
    char model[LB_PROBE_MODEL_BYTES];     /* "": none is named */
    lb_dialect dialect;                   /* the one that the measurements use */
    bool speaks[LB_DIALECT_COUNT];
    uint32_t echo_tokens;                 /* max_tokens of the echo dialect: 0, or 1 */
    uint64_t context, vocab, max_logprobs;/* as published; 0: not */
    uint32_t k;                           /* largest k that is granted, as measured */
    int64_t deadline_ms;
    int code;                             /* HTTP status of the last call; 0: no reply */
    double seconds;                       /* that it took */
} lb_peer;

typedef struct lb_probe {
    const lb_tokens *prompts;
    size_t count;
    uint32_t k;                /* 0: the prompt's own tokens alone */
    double temperature;        /* below 0: not sent */
    size_t padding;            /* spaces behind the body */
} lb_probe;

/* What a reply said of one prompt of `count` tokens. */
typedef struct lb_scores {
    size_t count;
    size_t entries;            /* of the reply: should be count */
    bool first_given;          /* entry 0 holds a value, and should not */
    size_t misnamed;           /* entries that hold another token than the prompt's */
    size_t named_next;         /* of them, those that hold the next token */
    uint32_t width;            /* room of a row: k + 1 */
    uint32_t least;            /* values in the shortest row of entries 1 .. */
    double *logprob;           /* [count] of the prompt's tokens; NaN: none */
    double *top;               /* [count, width] descending, then NaN */
    int64_t *top_id;           /* [count, width]; -1: not told */
} lb_scores;

void lb_scores_free(lb_scores *scores);
/* Asks in that dialect. out[probe->count] is owned by the caller, also after a failure, and must be
 * zeroed before. A reply that was refused has the status of its HTTP code, which is in peer->code;
 * LB_EDATA with code 200: the reply is not what the dialect says, with the place as the field. */
LB_NODISCARD lb_status lb_probe_ask(lb_peer *peer, lb_dialect dialect, const lb_probe *probe,
                                    lb_scores *out, lb_err *err);
/* The same for one prompt, in the peer's own dialect at temperature 1. */
LB_NODISCARD lb_status lb_probe_one(lb_peer *peer, const lb_tokens *prompt, uint32_t k,
                                    lb_scores *out, lb_err *err);
/* GET or POST of a JSON text (NULL: GET), parsed; *reply is owned. */
LB_NODISCARD lb_status lb_probe_json(lb_peer *peer, const char *path, const lb_buf *body,
                                     lb_json **reply, lb_err *err);
/* Opens peer->client. */
LB_NODISCARD lb_status lb_probe_connect(lb_peer *peer, lb_err *err);
/* Whether a failure says that the teacher refused, as opposed to one that is broken or gone. */
bool lb_probe_refused(const lb_peer *peer, lb_status status);

/* ---- doctor_numbers.c: what the figures are worth ---- */

/* Everything measured with one prompt. */
typedef struct lb_exam {
    lb_tokens prompt;
    lb_scores base;            /* of the prompt, k = 5 or as many as are granted */
    uint32_t k;
    double noise;              /* largest difference between two answers to it */
} lb_exam;

typedef lb_status lb_exam_check(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err);
lb_exam_check lb_exam_shape, lb_exam_noise, lb_exam_logs, lb_exam_shift, lb_exam_temperature,
    lb_exam_dialects, lb_exam_speed;
/* The largest difference of the logprobs of two answers to one prompt; infinite where one of them
 * has a value and the other none. */
double lb_scores_distance(const lb_scores *a, const lb_scores *b);

#endif
