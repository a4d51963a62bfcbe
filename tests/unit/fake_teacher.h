/* SPDX-License-Identifier: Apache-2.0
 *
 * fake_teacher - a teacher that speaks as vLLM (prompt_logprobs, echo) or SGLang do, with a toy
 * model of 256 tokens, and one flaw. Included after cmocka.h.
 */
#ifndef LB_TESTS_UNIT_FAKE_TEACHER_H
#define LB_TESTS_UNIT_FAKE_TEACHER_H

#include "common/base/json.h"
#include "common/text/tokenizer.h"
#include "server/http/http.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAKE_VOCAB 256u
#define FAKE_CONTEXT 512u
#define FAKE_BODY ((size_t)1 << 20)
#define FAKE_HUGE ((size_t)50 << 20)

typedef enum flaw {
    SOUND,
    NEXT,              /* entry t is about token t+1, and says so where it holds ids */
    LATE,              /* entry t is about token t-1 */
    ROW_AHEAD,         /* the logits have seen token t */
    TWO_WAYS,          /* the logits have seen all tokens */
    NO_NULL,           /* the leading null is missing */
    TEMPERED,          /* the request's temperature is applied */
    TEMPERED_BY_DEFAULT,   /* and without one 0.6 */
    UNSTEADY,          /* no two answers are the same */
    UNSTEADY_IN_BATCH,
    DECIMAL_LOGS,
    RAW_LOGITS,
    POSITIVE,
    CUT_K,             /* gives 4 alternatives to whoever asks for more */
    CUT_CONTEXT,       /* takes more tokens than its context */
    HOLES,             /* nulls between the values */
    TEXT_ONLY,
    NO_LOGPROBS,       /* a good reply without them */
    NAN_VALUES,
    NOT_JSON,
    DEEP_JSON,
    HUGE_REPLY,
    ONLY_500,
    HANGS,
    ESCAPES,           /* terminal sequences in what it says */
} flaw;

#define SPEAKS_PROMPT_LOGPROBS 1u
#define SPEAKS_ECHO 2u
#define SPEAKS_SGLANG 4u
#define ECHO_WITH_TEXT 8u      /* no token_id: strings */

typedef struct fake {
    lb_http *http;
    flaw flaw;
    unsigned speaks;
    uint32_t max_k;
    atomic_uint requests;
} fake;

/* One question as the handlers understood it. */
typedef struct fake_ask {
    fake *fake;
    lb_tokens prompts[8];
    size_t count;
    uint32_t k;
    double temperature;
    unsigned serial;
} fake_ask;

static inline double toy_logit(uint64_t hash, uint32_t id)
{
    uint64_t x = hash ^ (id + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 29) * 0x94d049bb133111ebu;
    return (double)((x ^ x >> 32) % 100000) / 20000.0;
}

static inline uint64_t toy_hash(const lb_tokens *tokens, size_t count)
{
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ tokens->ids[i]) * 1099511628211u;
    return hash;
}

typedef struct toy_row {
    bool given;
    uint32_t token;
    double own, value[FAKE_VOCAB];     /* by id */
    uint32_t order[FAKE_VOCAB];        /* descending */
} toy_row;

static inline double toy_unit(const fake_ask *ask, size_t prompt, double logprob)
{
    flaw f = ask->fake->flaw;
    bool unsteady = f == UNSTEADY || (f == UNSTEADY_IN_BATCH && ask->count > 1 && prompt > 0);
    if (unsteady)
        logprob -= 0.01 * (1 + ask->serial % 7);
    if (f == DECIMAL_LOGS)
        return logprob / log(10);
    return f == POSITIVE ? -logprob : logprob;
}

/* Fills row for entry t of the reply. */
static inline void toy_fill(const fake_ask *ask, size_t prompt, size_t t, toy_row *row)
{
    const lb_tokens *ids = &ask->prompts[prompt];
    flaw f = ask->fake->flaw;
    size_t about = f == NEXT || f == NO_NULL ? t + 1 : f == LATE ? t - 1 : t;
    size_t seen = f == TWO_WAYS ? ids->count : f == ROW_AHEAD ? about + 1 : about;
    row->given = about >= 1 && about < ids->count && t + (f == LATE) >= (f == LATE ? 2u : 0u) &&
                 !(f == HOLES && t % 5 == 3);
    if (!row->given)
        return;
    uint64_t hash = toy_hash(ids, seen);
    double sum = 0, divisor = f == TEMPERED || f == TEMPERED_BY_DEFAULT ? ask->temperature : 1;
    for (uint32_t id = 0; id < FAKE_VOCAB; id++) {
        row->value[id] = toy_logit(hash, id) / divisor;
        sum += exp(row->value[id]);
    }
    double shift = f == RAW_LOGITS ? 5.1 : log(sum);
    for (uint32_t id = 0; id < FAKE_VOCAB; id++) {
        row->value[id] = toy_unit(ask, prompt, row->value[id] - shift);
        uint32_t at = id;
        for (; at > 0 && row->value[row->order[at - 1]] < row->value[id]; at--)
            row->order[at] = row->order[at - 1];
        row->order[at] = id;
    }
    row->token = ids->ids[about];
    row->own = row->value[row->token % FAKE_VOCAB];
}

static inline void write_value(lb_jsonw *w, const fake_ask *ask, double value)
{
    if (ask->fake->flaw == NAN_VALUES)
        lb_jsonw_raw(w, "NaN", 3);
    else
        lb_jsonw_f64(w, value);
}

static inline uint32_t granted(const fake_ask *ask)
{
    return ask->fake->flaw == CUT_K && ask->k > 4 ? 4 : ask->k;
}

static inline size_t entries_of(const fake_ask *ask, size_t prompt)
{
    return ask->prompts[prompt].count - (ask->fake->flaw == NO_NULL);
}

static inline void write_prompt_entry(lb_jsonw *w, const fake_ask *ask, const toy_row *row)
{
    char key[16];
    bool own = false;
    if (!row->given) {
        lb_jsonw_null(w);
        return;
    }
    lb_jsonw_object(w);
    for (uint32_t i = 0; i < granted(ask) + 1; i++) {
        uint32_t id = i < granted(ask) ? row->order[i] : row->token;
        if (i == granted(ask) && own)
            break;
        own |= id == row->token;
        snprintf(key, sizeof key, "%u", id);
        lb_jsonw_key(w, key);
        lb_jsonw_object(w);
        lb_jsonw_key(w, "logprob");
        write_value(w, ask, row->value[id]);
        lb_jsonw_key(w, "rank");
        lb_jsonw_u64(w, i + 1);
        lb_jsonw_key(w, "decoded_token");
        lb_jsonw_string(w, "x");
        lb_jsonw_object_end(w);
    }
    lb_jsonw_object_end(w);
}

static inline void write_prompt_logprobs(lb_jsonw *w, const fake_ask *ask, size_t prompt)
{
    toy_row row;
    lb_jsonw_key(w, "prompt_logprobs");
    if (ask->fake->flaw == NO_LOGPROBS) {
        lb_jsonw_null(w);
        return;
    }
    lb_jsonw_array(w);
    for (size_t t = 0; t < entries_of(ask, prompt); t++) {
        toy_fill(ask, prompt, t, &row);
        write_prompt_entry(w, ask, &row);
    }
    lb_jsonw_array_end(w);
}

/* what: 0 the values, 1 the tokens, 2 the alternatives. */
static inline void write_echo_list(lb_jsonw *w, const fake_ask *ask, size_t prompt, int what)
{
    static const char *const keys[] = {"token_logprobs", "tokens", "top_logprobs"};
    const char *form = ask->fake->speaks & ECHO_WITH_TEXT ? "w%u" : "token_id:%u";
    char text[32];
    toy_row row;
    lb_jsonw_key(w, keys[what]);
    lb_jsonw_array(w);
    for (size_t t = 0; t < entries_of(ask, prompt); t++) {
        toy_fill(ask, prompt, t, &row);
        snprintf(text, sizeof text, *form == 'w' ? "w%u" : "token_id:%u",
                 row.given && ask->fake->flaw != NEXT ? row.token : ask->prompts[prompt].ids[t]);
        if (what == 1) {
            lb_jsonw_string(w, text);
        } else if (!row.given) {
            lb_jsonw_null(w);
        } else if (what == 0) {
            write_value(w, ask, row.own);
        } else {
            lb_jsonw_object(w);
            for (uint32_t i = 0; i < granted(ask); i++) {
                snprintf(text, sizeof text, *form == 'w' ? "w%u" : "token_id:%u", row.order[i]);
                lb_jsonw_key(w, text);
                write_value(w, ask, row.value[row.order[i]]);
            }
            lb_jsonw_object_end(w);
        }
    }
    lb_jsonw_array_end(w);
}

static inline void write_triple(lb_jsonw *w, const fake_ask *ask, bool given, double value,
                                uint32_t id)
{
    lb_jsonw_array(w);
    if (given)
        write_value(w, ask, value);
    else
        lb_jsonw_null(w);
    lb_jsonw_u64(w, id);
    lb_jsonw_null(w);
    lb_jsonw_array_end(w);
}

static inline void write_sglang_one(lb_jsonw *w, const fake_ask *ask, size_t prompt)
{
    toy_row row;
    lb_jsonw_object(w);
    lb_jsonw_key(w, "meta_info");
    lb_jsonw_object(w);
    for (int top = 0; top < 2; top++) {
        lb_jsonw_key(w, top ? "input_top_logprobs" : "input_token_logprobs");
        lb_jsonw_array(w);
        for (size_t t = 0; t < entries_of(ask, prompt); t++) {
            toy_fill(ask, prompt, t, &row);
            if (!top) {
                write_triple(w, ask, row.given, row.own,
                             row.given ? row.token : ask->prompts[prompt].ids[t]);
            } else if (!row.given) {
                lb_jsonw_null(w);
            } else {
                lb_jsonw_array(w);
                for (uint32_t i = 0; i < granted(ask); i++)
                    write_triple(w, ask, true, row.value[row.order[i]], row.order[i]);
                lb_jsonw_array_end(w);
            }
        }
        lb_jsonw_array_end(w);
    }
    lb_jsonw_object_end(w);
    lb_jsonw_object_end(w);
}

/* ---- handlers ---- */

static inline bool read_ids(const lb_json *list, lb_tokens *out)
{
    out->count = lb_json_array_size(list);
    out->ids = calloc(out->count + 1, sizeof *out->ids);
    for (size_t i = 0; i < out->count; i++)
        out->ids[i] = (uint32_t)lb_json_integer(lb_json_at(list, i));
    return out->count > 0 && lb_json_is_integer(lb_json_at(list, 0));
}

static inline bool read_prompts(const lb_json *list, fake_ask *ask)
{
    bool good = lb_json_is_array(list), nested = good && lb_json_is_array(lb_json_at(list, 0));
    ask->count = nested ? lb_json_array_size(list) : 1;
    good = good && ask->count <= sizeof ask->prompts / sizeof *ask->prompts;
    ask->count = good ? ask->count : 0;
    for (size_t i = 0; i < ask->count; i++) {
        good &= read_ids(nested ? lb_json_at(list, i) : list, &ask->prompts[i]);
        good &= ask->prompts[i].count <= FAKE_CONTEXT || ask->fake->flaw == CUT_CONTEXT;
    }
    return good;
}

static inline void never(void *arg, lb_request *request, lb_status why)
{
    (void)arg;
    lb_reply_fail(request, why, NULL, "too late");
}

/* True: the flaw has answered, in a way that has nothing to do with the question. */
static inline bool misbehaves(fake *f, lb_request *request)
{
    lb_buf out = {0};
    switch (f->flaw) {
    case NOT_JSON:
        lb_reply(request, 200, "text/html", "<html>it works</html>", 21);
        return true;
    case DEEP_JSON:
        for (size_t i = 0; i < 100000; i++)
            lb_buf_puts(&out, "[");
        break;
    case HUGE_REPLY:
        lb_buf_puts(&out, "{\"choices\":[\"");
        for (size_t i = 0; i < FAKE_HUGE / 64; i++)
            lb_buf_puts(&out, "0123456789012345678901234567890123456789012345678901234567890123");
        lb_buf_puts(&out, "\"]}");
        break;
    case ONLY_500:
        lb_reply_fail(request, LB_EINTERNAL, NULL, "CUDA error");
        return true;
    case HANGS:
        lb_http_suspend(request, INT64_MAX, never, f);
        return true;
    default:
        return false;
    }
    lb_reply_buf(request, 200, "application/json", &out);
    return true;
}

static inline void get_models(void *daemon, lb_request *request)
{
    fake *f = daemon;
    const char *name = f->flaw == ESCAPES ? "\\u001b[2Jgone\\u0007\\u009b" : "toy";
    lb_buf out = {0};
    lb_buf_printf(&out, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\","
                        "\"owned_by\":\"vllm\",\"max_model_len\":%u}]}", name, FAKE_CONTEXT);
    lb_reply_buf(request, 200, "application/json", &out);
}

static inline void free_ask(fake_ask *ask)
{
    for (size_t i = 0; i < ask->count; i++)
        lb_tokens_free(&ask->prompts[i]);
}

static inline void write_completion(lb_jsonw *w, const fake_ask *ask, bool prompt_logprobs)
{
    lb_jsonw_object(w);
    lb_jsonw_key(w, "choices");
    lb_jsonw_array(w);
    /* In another order than asked for, which `index` allows. */
    for (size_t i = ask->count; i-- > 0;) {
        lb_jsonw_object(w);
        lb_jsonw_key(w, "index");
        lb_jsonw_u64(w, i);
        if (prompt_logprobs) {
            write_prompt_logprobs(w, ask, i);
        } else {
            lb_jsonw_key(w, "logprobs");
            lb_jsonw_object(w);
            for (int what = 0; what < 3; what++)
                write_echo_list(w, ask, i, what);
            lb_jsonw_object_end(w);
        }
        lb_jsonw_object_end(w);
    }
    lb_jsonw_array_end(w);
    lb_jsonw_object_end(w);
}

static inline void answer_ask(fake *f, lb_request *request, const lb_json *body, bool sglang)
{
    const lb_json *echo = lb_json_get(body, "echo"), *at = sglang
        ? lb_json_get(lb_json_get(body, "sampling_params"), "temperature")
        : lb_json_get(body, "temperature");
    bool echoes = echo && lb_json_bool(echo);
    const lb_json *k = lb_json_get(body, sglang ? "top_logprobs_num"
                                         : echoes ? "logprobs" : "prompt_logprobs");
    fake_ask ask = {.fake = f, .temperature = f->flaw == TEMPERED_BY_DEFAULT ? 0.6 : 1};
    unsigned needs = sglang ? SPEAKS_SGLANG : echoes ? SPEAKS_ECHO : SPEAKS_PROMPT_LOGPROBS;
    lb_buf out = {0};
    lb_jsonw w = {.out = &out};
    ask.temperature = at && lb_json_is_number(at) ? lb_json_number(at) : ask.temperature;
    ask.k = k ? (uint32_t)lb_json_integer(k) : 0;
    ask.serial = atomic_fetch_add(&f->requests, 1);
    bool text = lb_json_is_string(lb_json_get(body, "prompt"));
    bool good = read_prompts(lb_json_get(body, sglang ? "input_ids" : "prompt"), &ask);
    if (f->flaw == TEXT_ONLY && text)
        lb_reply(request, 200, "application/json", "{\"choices\":[]}", 14);
    else if (!good || f->flaw == TEXT_ONLY || !(f->speaks & needs) || ask.k > f->max_k)
        lb_reply_fail(request, LB_EINVAL, "prompt_logprobs", "not here");
    else {
        if (sglang && ask.count > 1)
            lb_jsonw_array(&w);
        for (size_t i = 0; sglang && i < ask.count; i++)
            write_sglang_one(&w, &ask, i);
        if (sglang && ask.count > 1)
            lb_jsonw_array_end(&w);
        if (!sglang)
            write_completion(&w, &ask, !echoes);
        lb_reply_buf(request, 200, "application/json", &out);
    }
    free_ask(&ask);
}

static inline void post_completions(void *daemon, lb_request *request)
{
    const lb_json *body = misbehaves(daemon, request) ? NULL : lb_request_json(request);
    if (body)
        answer_ask(daemon, request, body, false);
}

static inline void post_generate(void *daemon, lb_request *request)
{
    const lb_json *body = misbehaves(daemon, request) ? NULL : lb_request_json(request);
    if (body)
        answer_ask(daemon, request, body, true);
}

static const lb_route FAKE_ROUTES[] = {
    {"GET", "/v1/models", LB_SCOPE_USER, 0, get_models},
    {"POST", "/v1/completions", LB_SCOPE_USER, FAKE_BODY, post_completions},
    {"POST", "/generate", LB_SCOPE_USER, FAKE_BODY, post_generate},
};

#endif
