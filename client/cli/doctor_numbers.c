/* SPDX-License-Identifier: Apache-2.0
 *
 * What a teacher's figures are worth: their shape, noise, base, and temperature.
 */
#include "client/cli/doctor.h"
#include "client/cli/doctor_dialect.h"
#include "common/base/clock.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define THREADS 4u
#define NOISE_FAIL 0.25        /* nats: as large as what a distillation learns from */
#define SUM_SLACK 1e-3         /* bf16 or rounded text, over at most LB_PROBE_K_MAX values */
#define POSITIVE_SLACK 1e-4
#define SAME_NATS 1e-3         /* two dialects of one server may round their text differently */
#define LONG_PROBE 1024u

double lb_scores_distance(const lb_scores *a, const lb_scores *b)
{
    double largest = 0;
    size_t count = a->count < b->count ? a->count : b->count;
    for (size_t t = 1; t < count; t++) {
        if (isnan(a->logprob[t]) && isnan(b->logprob[t]))
            continue;
        double distance = fabs(a->logprob[t] - b->logprob[t]);
        largest = fmax(largest, isnan(distance) ? INFINITY : distance);
    }
    return largest;
}

static const char *plural(size_t count, const char *one, const char *many)
{
    return count == 1 ? one : many;
}

/* ---- shape ---- */

lb_status lb_exam_shape(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err)
{
    lb_status status = lb_probe_one(peer, &exam->prompt, exam->k, &exam->base, err);
    if (status != LB_OK)
        return status;
    const lb_scores *s = &exam->base;
    size_t missing = 0, before = doctor->count;
    for (size_t t = 1; t < s->count; t++)
        missing += !isfinite(s->logprob[t]);
    if (s->entries != s->count)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shape",
                       "%zu entries for %zu tokens%s", s->entries, s->count,
                       s->entries + 1 == s->count ? ": the leading null is missing, so that who "
                       "reads entry t gets token t+1" : "");
    if (s->first_given)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "shape",
                       "entry 0 has a value, though nothing precedes its token");
    if (missing > 0 && s->misnamed == 0)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shape", "%zu of %zu entries %s no value", missing,
                       s->count - 1, plural(missing, "has", "have"));
    if (exam->k > 0 && s->least < exam->k)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shape",
                       "%u alternatives were asked for and %u came, without a word", exam->k,
                       s->least);
    if (doctor->count == before)
        lb_doctor_find(doctor, LB_VERDICT_OK, "shape", "%zu entries for %zu tokens, the first null",
                       s->entries, s->count);
    return LB_OK;
}

/* ---- noise ---- */

typedef struct crowd {
    lb_peer peer;              /* a copy, with a client of its own */
    const lb_exam *exam;
    lb_tokens other;
    uint32_t repeat;
    double noise;
    lb_status status;
    lb_err err;
} crowd;

/* The prompt in turn with others of other lengths, so that a server which batches mixes them. */
static void *ask_in_crowd(void *arg)
{
    crowd *c = arg;
    lb_scores scores = {0};
    c->status = lb_probe_connect(&c->peer, &c->err);
    for (uint32_t i = 0; c->status == LB_OK && i < c->repeat; i++) {
        c->status = lb_probe_one(&c->peer, &c->exam->prompt, c->exam->k, &scores, &c->err);
        if (c->status != LB_OK)
            break;
        c->noise = fmax(c->noise, lb_scores_distance(&c->exam->base, &scores));
        lb_tokens other = c->other;
        other.count = 2 + i % (other.count - 1);
        c->status = lb_probe_one(&c->peer, &other, 0, &scores, &c->err);
    }
    lb_scores_free(&scores);
    lb_client_free(c->peer.client);
    return NULL;
}

static lb_status noise_in_crowd(const lb_peer *peer, const lb_exam *exam, double *noise,
                                lb_err *err)
{
    crowd crowds[THREADS];
    pthread_t threads[THREADS];
    bool runs[THREADS];
    lb_status status = LB_OK;
    for (size_t i = 0; i < THREADS; i++) {
        crowds[i] = (crowd){.peer = *peer, .exam = exam, .other = exam->prompt,
                            .repeat = peer->options->repeat / 2 + 1};
        crowds[i].peer.client = NULL;
        runs[i] = pthread_create(&threads[i], NULL, ask_in_crowd, &crowds[i]) == 0;
        if (!runs[i])
            status = lb_fail(err, LB_ENOMEM, NULL, "no thread for a concurrent call");
    }
    for (size_t i = 0; i < THREADS; i++) {
        if (!runs[i])
            continue;
        pthread_join(threads[i], NULL);
        *noise = fmax(*noise, crowds[i].noise);
        if (status == LB_OK && crowds[i].status != LB_OK) {
            status = crowds[i].status;
            if (err)
                *err = crowds[i].err;
        }
    }
    return status;
}

/* The prompt between two others in one request. Refused: has_batch is false. */
static lb_status noise_in_batch(lb_peer *peer, const lb_exam *exam, bool *has_batch, double *noise,
                                lb_err *err)
{
    lb_tokens prompts[3] = {exam->prompt, exam->prompt, exam->prompt};
    lb_scores scores[3] = {{0}, {0}, {0}};
    lb_probe probe = {.prompts = prompts, .count = 3, .k = exam->k, .temperature = 1};
    prompts[0].count = 2 + exam->prompt.count / 3;
    prompts[2].count = exam->prompt.count - 1;
    lb_status status = lb_probe_ask(peer, peer->dialect, &probe, scores, err);
    *has_batch = !lb_probe_refused(peer, status);
    if (status == LB_OK)
        *noise = lb_scores_distance(&exam->base, &scores[1]);
    else if (!*has_batch)
        status = LB_OK;
    for (size_t i = 0; i < 3; i++)
        lb_scores_free(&scores[i]);
    return status;
}

static void judge_noise(lb_doctor *doctor, const char *how, double noise)
{
    lb_verdict verdict = noise > NOISE_FAIL ? LB_VERDICT_FAIL
                       : noise > 0 ? LB_VERDICT_NOTE : LB_VERDICT_OK;
    if (noise > 0)
        lb_doctor_find(doctor, verdict, "determinism",
                       "%s, answers to one prompt differ by up to %.3g nats", how, noise);
    else
        lb_doctor_find(doctor, verdict, "determinism", "%s, all answers are the same", how);
}

lb_status lb_exam_noise(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err)
{
    lb_scores scores = {0};
    double alone = 0, crowded = 0, batched = 0;
    bool has_batch = false;
    lb_status status = LB_OK;
    char how[48];
    for (uint32_t i = 0; status == LB_OK && i < peer->options->repeat; i++) {
        status = lb_probe_one(peer, &exam->prompt, exam->k, &scores, err);
        if (status == LB_OK)
            alone = fmax(alone, lb_scores_distance(&exam->base, &scores));
    }
    lb_scores_free(&scores);
    if (status == LB_OK)
        status = noise_in_crowd(peer, exam, &crowded, err);
    if (status == LB_OK)
        status = noise_in_batch(peer, exam, &has_batch, &batched, err);
    if (status != LB_OK)
        return status;
    snprintf(how, sizeof how, "asked %u times alone", peer->options->repeat);
    judge_noise(doctor, how, alone);
    snprintf(how, sizeof how, "on %u connections at once", THREADS);
    judge_noise(doctor, how, crowded);
    lb_doctor_measure(doctor, "noise_alone_nats", alone);
    lb_doctor_measure(doctor, "noise_concurrent_nats", crowded);
    if (has_batch) {
        judge_noise(doctor, "in a request with others", batched);
        lb_doctor_measure(doctor, "noise_batch_nats", batched);
    } else {
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "determinism",
                       "a request with several prompts is refused");
    }
    exam->noise = fmax(alone, fmax(crowded, batched));
    return LB_OK;
}

/* ---- the logarithm ---- */

/* The largest sum, over the entries, of base^value of the alternatives. */
static double largest_sum(const lb_scores *s, double log_of_base)
{
    double largest = 0;
    for (size_t t = 1; t < s->count; t++) {
        double sum = 0;
        for (size_t i = 0; i < s->width; i++) {
            double value = s->top[t * s->width + i];
            sum += isnan(value) ? 0 : exp(value * log_of_base);
        }
        largest = fmax(largest, sum);
    }
    return largest;
}

lb_status lb_exam_logs(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err)
{
    lb_scores wide = {0};
    double positive = 0;
    /* The more alternatives, the surer does a sum tell a wrong base. */
    uint32_t k = peer->k < 20 ? peer->k : 20;
    bool whole = peer->vocab > 0 && peer->k >= peer->vocab;
    lb_status status = lb_probe_one(peer, &exam->prompt, whole ? (uint32_t)peer->vocab : k, &wide,
                                    err);
    for (size_t t = 1; status == LB_OK && t < wide.count; t++)
        positive = fmax(positive, fmax(wide.logprob[t], wide.top[t * wide.width]));
    double sum = status == LB_OK ? largest_sum(&wide, 1) : 0;
    double sum10 = status == LB_OK ? largest_sum(&wide, log(10)) : 0;
    lb_scores_free(&wide);
    if (status != LB_OK)
        return status;
    lb_doctor_measure(doctor, "probability_sum_max", sum);
    if (positive > POSITIVE_SLACK)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "logs",
                       "a value is %.4g: a log-probability is never above 0", positive);
    else if (sum > 1 + SUM_SLACK && sum10 <= 1 + SUM_SLACK)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "logs", "logarithms of base 10: alternatives of an "
                       "entry sum to %.4f as natural logs, to %.4f as decimal ones", sum, sum10);
    else if (sum > 1 + SUM_SLACK)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "logs",
                       "not normalised: the alternatives of an entry sum to %.4f", sum);
    else if (whole && sum < 1 - SUM_SLACK)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "logs",
                       "the whole vocabulary sums to %.4f: no natural logs, or not normalised",
                       sum);
    else if (peer->k == 0)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "logs",
                       "none is above 0; without alternatives no more can be told");
    else
        lb_doctor_find(doctor, LB_VERDICT_OK, "logs",
                       "natural logs: none above 0, %s sum to at most %.6f",
                       whole ? "the whole vocabulary's" : "alternatives", sum);
    return LB_OK;
}

/* ---- temperature ---- */

/* Asks at a temperature (below 0: none is sent). Refused: *refused, with the base's values. */
static lb_status distance_at(lb_peer *peer, const lb_exam *exam, lb_dialect dialect,
                             const lb_scores *from, double temperature, double *distance,
                             bool *refused, lb_err *err)
{
    lb_scores scores = {0};
    lb_probe probe = {.prompts = &exam->prompt, .count = 1, .k = exam->k,
                      .temperature = temperature};
    lb_status status = lb_probe_ask(peer, dialect, &probe, &scores, err);
    if (status == LB_OK)
        *distance = lb_scores_distance(from, &scores);
    *refused = lb_probe_refused(peer, status);
    lb_scores_free(&scores);
    return *refused ? LB_OK : status;
}

static void judge_temperature(lb_doctor *doctor, double unsent, double changed, double noise)
{
    double tolerance = SAME_NATS + 4 * noise;
    lb_doctor_measure(doctor, "temperature_effect_nats", changed);
    if (unsent > tolerance)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "temperature",
                       "a request without one gets logprobs that differ by up to %.3g nats from "
                       "those at temperature 1: the server applies a default of its own", unsent);
    if (changed > tolerance)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "temperature",
                       "applied: 0.5 and 2 in the request move prompt logprobs by up to %.3g nats; "
                       "every client has to ask at temperature 1", changed);
    else if (unsent <= tolerance)
        lb_doctor_find(doctor, LB_VERDICT_OK, "temperature",
                       "raw logprobs: 0.5, 2 and none in the request give the same (%.3g nats)",
                       fmax(changed, unsent));
}

lb_status lb_exam_temperature(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err)
{
    lb_dialect dialect = LB_DIALECT_COUNT;
    lb_scores base = {0};
    for (int d = LB_DIALECT_COUNT - 1; d >= 0; d--) {
        if (peer->speaks[d] && lb_dialect_get((lb_dialect)d)->temperature)
            dialect = (lb_dialect)d;
    }
    if (dialect == LB_DIALECT_COUNT) {
        lb_doctor_find(doctor, LB_VERDICT_OK, "temperature", "a request has none");
        return LB_OK;
    }
    lb_probe probe = {.prompts = &exam->prompt, .count = 1, .k = exam->k, .temperature = 1};
    const double temperatures[] = {-1, 0.5, 2};
    double distance[3] = {0, 0, 0};
    bool refused = false;
    lb_status status = lb_probe_ask(peer, dialect, &probe, &base, err);
    for (size_t i = 0; status == LB_OK && !refused && i < 3; i++)
        status = distance_at(peer, exam, dialect, &base, temperatures[i], &distance[i], &refused,
                             err);
    lb_scores_free(&base);
    if (status == LB_OK && refused)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "temperature",
                       "a request with another temperature than 1 is refused");
    else if (status == LB_OK)
        judge_temperature(doctor, distance[0], fmax(distance[1], distance[2]), exam->noise);
    return status;
}

/* ---- the other dialects ---- */

lb_status lb_exam_dialects(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err)
{
    lb_status status = LB_OK;
    for (int d = 0; status == LB_OK && d < LB_DIALECT_COUNT; d++) {
        double distance = 0;
        bool refused = false;
        if (!peer->speaks[d] || d == (int)peer->dialect)
            continue;
        status = distance_at(peer, exam, (lb_dialect)d, &exam->base, 1, &distance, &refused, err);
        if (status != LB_OK || refused)
            continue;
        lb_verdict verdict = distance > SAME_NATS + 4 * exam->noise ? LB_VERDICT_FAIL
                                                                    : LB_VERDICT_OK;
        lb_doctor_find(doctor, verdict, "dialects", "%s and %s differ by %.3g nats",
                       lb_dialect_name(peer->dialect), lb_dialect_name((lb_dialect)d), distance);
    }
    return status;
}

/* ---- speed ---- */

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

lb_status lb_exam_speed(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err)
{
    double seconds[5];
    const size_t tries = sizeof seconds / sizeof *seconds;
    lb_scores scores = {0};
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < tries; i++) {
        status = lb_probe_one(peer, &exam->prompt, 0, &scores, err);
        seconds[i] = peer->seconds;
    }
    if (status != LB_OK) {
        lb_scores_free(&scores);
        return status;
    }
    qsort(seconds, tries, sizeof *seconds, compare);
    /* Room is left for the token that some dialects must sample. */
    size_t count = peer->context > 8 && peer->context - 2 < LONG_PROBE ? peer->context - 2
                                                                       : LONG_PROBE;
    lb_tokens longer = {.ids = calloc(count, sizeof *longer.ids), .count = count};
    if (!longer.ids) {
        lb_scores_free(&scores);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu tokens", count);
    }
    for (size_t i = 0; i < count; i++)
        longer.ids[i] = exam->prompt.ids[i % exam->prompt.count];
    status = lb_probe_one(peer, &longer, 0, &scores, err);
    double rate = (double)count / fmax(peer->seconds, 1e-9);
    free(longer.ids);
    lb_scores_free(&scores);
    lb_doctor_measure(doctor, "latency_ms", 1000 * seconds[tries / 2]);
    if (status == LB_OK) {
        lb_doctor_measure(doctor, "probe_tokens_per_second", rate);
        lb_doctor_find(doctor, LB_VERDICT_OK, "speed",
                       "%.1f ms for %zu tokens (median of %zu), %.0f tokens/s for a prompt of %zu",
                       1000 * seconds[tries / 2], exam->prompt.count, tries, rate, count);
    } else if (lb_probe_refused(peer, status)) {
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "speed", "%.1f ms for %zu tokens (median of %zu); "
                       "a prompt of %zu tokens is refused", 1000 * seconds[tries / 2],
                       exam->prompt.count, tries, count);
        status = LB_OK;
    }
    return status;
}
