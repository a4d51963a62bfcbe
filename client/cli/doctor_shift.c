/* SPDX-License-Identifier: Apache-2.0
 *
 * Which token an entry is about. In a sound reply entry t is log p(token t | the tokens before it):
 * another token at t changes entry t and what follows, none before, and not the alternatives of t;
 * and the likeliest alternative of t, put in its place, gets just the logprob that was reported.
 */
#include "client/cli/doctor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PLACES 3
#define TOLERANCE 1e-3

typedef struct place {
    size_t at;                 /* the token that was changed */
    size_t first;              /* first entry whose value changed; count: none */
    size_t first_top;          /* first entry whose alternatives changed */
    double reported, got;      /* NaN: the likeliest alternative's id is not known */
} place;

static bool differ(double a, double b, double tolerance)
{
    if (isnan(a) || isnan(b))
        return isnan(a) != isnan(b);
    return fabs(a - b) > tolerance;
}

static bool row_differs(const lb_scores *a, const lb_scores *b, size_t t, double tolerance)
{
    /* The last of a row may be the prompt's own token, which is no alternative. */
    for (size_t i = 0; i + 1 < a->width && i + 1 < b->width; i++) {
        if (differ(a->top[t * a->width + i], b->top[t * b->width + i], tolerance))
            return true;
    }
    return false;
}

static void compare(const lb_scores *a, const lb_scores *b, double tolerance, place *p)
{
    p->first = p->first_top = a->count;
    for (size_t t = a->count; t-- > 0;) {
        if (differ(a->logprob[t], b->logprob[t], tolerance))
            p->first = t;
        if (row_differs(a, b, t, tolerance))
            p->first_top = t;
    }
}

/* The token to put at `at`: the likeliest one, or if it stands there already another of the
 * prompt. */
static uint32_t choose_other(const lb_exam *exam, size_t at, bool *is_top)
{
    int64_t top = exam->k > 0 ? exam->base.top_id[at * exam->base.width] : -1;
    uint32_t now = exam->prompt.ids[at];
    *is_top = top >= 0 && top != (int64_t)now;
    if (*is_top)
        return (uint32_t)top;
    for (size_t t = 0; t < exam->prompt.count; t++) {
        if (exam->prompt.ids[t] != now)
            return exam->prompt.ids[t];
    }
    return now + 1;
}

static lb_status try_place(lb_peer *peer, const lb_exam *exam, double tolerance, place *p,
                           lb_err *err)
{
    bool is_top = false;
    lb_tokens changed = {.count = exam->prompt.count};
    lb_scores scores = {0};
    changed.ids = malloc(changed.count * sizeof *changed.ids);
    if (!changed.ids)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a probe");
    memcpy(changed.ids, exam->prompt.ids, changed.count * sizeof *changed.ids);
    changed.ids[p->at] = choose_other(exam, p->at, &is_top);
    lb_status status = lb_probe_one(peer, &changed, exam->k, &scores, err);
    if (status == LB_OK) {
        compare(&exam->base, &scores, tolerance, p);
        p->reported = is_top ? exam->base.top[p->at * exam->base.width] : NAN;
        p->got = is_top ? scores.logprob[p->at] : NAN;
    }
    free(changed.ids);
    lb_scores_free(&scores);
    return status;
}

/* How many of the places have their first change `by` entries off. */
static size_t count_shift(const place *places, size_t count, int by)
{
    size_t found = 0;
    for (size_t i = 0; i < PLACES; i++) {
        size_t due = by < 0 ? places[i].at - 1 : places[i].at + (size_t)by;
        found += places[i].first == due || (due >= count && places[i].first == count);
    }
    return found;
}

static void judge_order(const lb_exam *exam, const place *places, lb_doctor *doctor)
{
    size_t count = exam->prompt.count;
    const place *p = &places[0];
    for (size_t i = 0; i < PLACES; i++) {
        if (places[i].first + 1 < places[i].at)
            p = &places[i];
    }
    if (count_shift(places, count, -1) == PLACES)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shift", "off by one: entry t is about token t+1 "
                       "(another token at %zu changes entry %zu)", p->at, p->at - 1);
    else if (count_shift(places, count, 1) == PLACES)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shift", "off by one: entry t is about token t-1 "
                       "(another token at %zu changes no entry before %zu)", p->at, p->first);
    else if (p->first < p->at)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shift", "not causal: another token at %zu changes "
                       "entry %zu", p->at, p->first);
    else
        lb_doctor_find(doctor, exam->noise > TOLERANCE ? LB_VERDICT_NOTE : LB_VERDICT_FAIL, "shift",
                       "another token at %zu changes no entry by more than the noise (%.3g nats)",
                       p->at, exam->noise);
}

static void judge(const lb_exam *exam, const place *places, double tolerance, lb_doctor *doctor)
{
    const place *seen = NULL, *unequal = NULL;
    size_t known = 0;
    for (size_t i = 0; i < PLACES; i++) {
        const place *p = &places[i];
        if (exam->k > 0 && p->first_top <= p->at)
            seen = p;
        known += !isnan(p->reported);
        if (!isnan(p->reported) && differ(p->reported, p->got, tolerance))
            unequal = p;
    }
    if (count_shift(places, exam->prompt.count, 0) < PLACES)
        judge_order(exam, places, doctor);
    else if (seen)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shift", "the alternatives of entry %zu depend on "
                       "token %zu itself: they are the next token's", seen->at, seen->at);
    else if (unequal)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shift", "the likeliest token of entry %zu has "
                       "%.5g there, and %.5g once it stands in its place", unequal->at,
                       unequal->reported, unequal->got);
    else
        lb_doctor_find(doctor, LB_VERDICT_OK, "shift", "entry t is about token t given those before"
                       " it; the likeliest token gets the logprob that was reported (%zu of %d)",
                       known, PLACES);
}

lb_status lb_exam_shift(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err)
{
    const lb_scores *base = &exam->base;
    size_t count = exam->prompt.count;
    place places[PLACES] = {{.at = count / 3}, {.at = 2 * count / 3}, {.at = count - 1}};
    double tolerance = TOLERANCE + 4 * exam->noise;
    lb_status status = LB_OK;
    if (base->misnamed > 0) {
        bool next = base->named_next + 1 >= base->misnamed && base->named_next > 0;
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "shift", "%zu of %zu entries do not hold their "
                       "token%s", base->misnamed, count - 1,
                       next ? ", but the next one: off by one, entry t is about token t+1" : "");
        return LB_OK;
    }
    for (size_t i = 0; status == LB_OK && i < PLACES; i++)
        status = try_place(peer, exam, tolerance, &places[i], err);
    if (status == LB_OK)
        judge(exam, places, tolerance, doctor);
    return status;
}
