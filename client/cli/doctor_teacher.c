/* SPDX-License-Identifier: Apache-2.0
 *
 * The examination of a teacher: who it says it is, what it speaks, its limits, its figures.
 */
#include "client/cli/doctor.h"
#include "client/cli/cli.h"
#include "client/cli/doctor_dialect.h"
#include "common/base/clock.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_TOKENS 24u
#define PROBE_ID_LEAST 10u     /* the first few are often special */
#define PROBE_ID_SPAN 190u
#define SMALL_K 5u
#define CONTEXT_TRIED_MAX 262144u
#define BODY_TRIED_MAX ((size_t)8 << 20)
#define BODY_TRIED_LEAST ((size_t)64 << 10)
#define BYTES_PER_ID 8u        /* of JSON, for vocabularies up to 10 million */

/* ---- who it says it is ---- */

static const lb_json *find_model(const lb_json *reply, const char *name)
{
    const lb_json *data = lb_json_get(reply, "data");
    for (size_t i = 0; name && i < lb_json_array_size(data); i++) {
        const char *id = lb_json_string(lb_json_get(lb_json_at(data, i), "id"));
        if (id && strcmp(id, name) == 0)
            return lb_json_at(data, i);
    }
    return name ? NULL : lb_json_at(data, 0);
}

static uint64_t number_of(const lb_json *object, const char *key)
{
    const lb_json *node = lb_json_get(object, key);
    return node && lb_json_is_integer(node) && lb_json_integer(node) > 0
               ? (uint64_t)lb_json_integer(node) : 0;
}

/* What only our own teachers publish. */
static void report_identity(const lb_json *model, lb_doctor *doctor)
{
    static const char *const keys[] = {"tokenizer_sha256", "digest", "dtype"};
    const lb_json *ends = lb_json_get(model, "eos_token_ids");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *text = lb_json_string(lb_json_get(model, keys[i]));
        if (text)
            lb_doctor_find(doctor, LB_VERDICT_OK, "identity", "%s %.80s", keys[i], text);
    }
    if (ends && lb_json_is_array(ends)) {
        lb_buf text = {0};
        lb_json_dump(&text, ends, false);
        if (text.data)
            lb_doctor_find(doctor, LB_VERDICT_OK, "identity", "stop ids %.120s",
                           (const char *)text.data);
        lb_buf_free(&text);
    }
}

static void report_model(lb_peer *peer, const lb_json *reply, lb_doctor *doctor)
{
    const lb_json *model = find_model(reply, peer->options->model);
    const char *id = lb_json_string(lb_json_get(model, "id"));
    size_t listed = lb_json_array_size(lb_json_get(reply, "data"));
    if (!id) {
        lb_doctor_find(doctor, peer->options->model ? LB_VERDICT_FAIL : LB_VERDICT_NOTE, "model",
                       "GET /v1/models lists %zu models, and not '%.80s'", listed,
                       peer->options->model ? peer->options->model : "any with an id");
        return;
    }
    snprintf(peer->model, sizeof peer->model, "%s", id);
    peer->context = number_of(model, "max_model_len");
    peer->vocab = number_of(model, "vocab");
    peer->max_logprobs = number_of(model, "max_logprobs");
    lb_doctor_find(doctor, LB_VERDICT_OK, "model", "'%.120s', the %s of %zu listed", id,
                   peer->options->model ? "one asked for" : "first", listed);
    if (peer->context > 0)
        lb_doctor_find(doctor, LB_VERDICT_OK, "context", "%" PRIu64 " tokens, as published",
                       peer->context);
    else
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "context", "max_model_len is not published");
    lb_doctor_measure(doctor, "context_tokens", (double)peer->context);
    report_identity(model, doctor);
}

/* A failure here means that there is nothing to examine, unless the route is only missing. */
static lb_status ask_models(lb_peer *peer, lb_doctor *doctor, lb_err *err)
{
    lb_json *reply = NULL;
    lb_err detail = {0};
    if (peer->options->model)
        snprintf(peer->model, sizeof peer->model, "%s", peer->options->model);
    lb_status status = lb_probe_json(peer, "/v1/models", NULL, &reply, &detail);
    if (status == LB_OK)
        report_model(peer, reply, doctor);
    else if (peer->code == 0 || status == LB_EAUTH)
        return lb_fail(err, status, detail.field, "%s", detail.message);
    else
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "model", "GET /v1/models: %d: %.200s", peer->code,
                       detail.message);
    lb_json_free(reply);
    return LB_OK;
}

/* ---- what it speaks ---- */

static lb_status try_dialect(lb_peer *peer, lb_dialect dialect, const lb_tokens *prompt,
                             lb_err *err)
{
    lb_scores scores = {0};
    lb_probe probe = {.prompts = prompt, .count = 1, .k = 1, .temperature = 1};
    size_t values = 0;
    lb_status status = lb_probe_ask(peer, dialect, &probe, &scores, err);
    if (lb_probe_refused(peer, status)) {    /* perhaps only the alternatives are */
        lb_scores_free(&scores);
        probe.k = 0;
        status = lb_probe_ask(peer, dialect, &probe, &scores, err);
    }
    for (size_t t = 1; status == LB_OK && t < scores.count; t++)
        values += !isnan(scores.logprob[t]) || !isnan(scores.top[t * scores.width]);
    lb_scores_free(&scores);
    if (status == LB_OK && values == 0)
        status = lb_fail(err, LB_EDATA, NULL, "the reply has no logprobs of the prompt");
    return status;
}

/* Servers that refuse ids but take text can only serve students that send text: not us. */
static bool takes_text_only(lb_peer *peer)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_json *reply = NULL;
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "model");
    lb_jsonw_string(&w, peer->model);
    lb_jsonw_key(&w, "prompt");
    lb_jsonw_string(&w, "1 + 1 = 2");
    lb_jsonw_key(&w, "max_tokens");
    lb_jsonw_u64(&w, 1);
    lb_jsonw_object_end(&w);
    bool good = lb_probe_json(peer, "/v1/completions", &body, &reply, NULL) == LB_OK;
    lb_buf_free(&body);
    lb_json_free(reply);
    return good;
}

static void report_none(lb_peer *peer, const char *why, lb_doctor *doctor)
{
    lb_doctor_find(doctor, LB_VERDICT_FAIL, "dialect",
                   "no route gives logprobs of a prompt of token ids: %s", why);
    if (takes_text_only(peer))
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "dialect",
                       "POST /v1/completions takes text as a prompt");
}

/* False: it speaks none. */
static bool find_dialects(lb_peer *peer, const lb_tokens *prompt, lb_doctor *doctor)
{
    char why[200] = "", spoken[64] = "";
    size_t said = 0, named = 0;
    bool any = false;
    for (int d = 0; d < LB_DIALECT_COUNT; d++) {
        const lb_dialect_row *row = lb_dialect_get((lb_dialect)d);
        lb_err err = {0};
        lb_status status = try_dialect(peer, (lb_dialect)d, prompt, &err);
        if (d == LB_DIALECT_ECHO && lb_probe_refused(peer, status)) {
            peer->echo_tokens = 1;
            status = try_dialect(peer, (lb_dialect)d, prompt, &err);
        }
        peer->speaks[d] = status == LB_OK;
        if (status == LB_OK) {
            peer->dialect = any ? peer->dialect : (lb_dialect)d;
            any = true;
            named += (size_t)snprintf(spoken + named, sizeof spoken - named, "%s%s",
                                      named ? ", " : "", row->name);
        } else if (said < sizeof why) {
            said += (size_t)snprintf(why + said, sizeof why - said, "%s%s: %d %.40s",
                                     said ? "; " : "", row->name, peer->code, err.message);
        }
        if (status != LB_OK && !lb_probe_refused(peer, status))
            lb_doctor_find(doctor, LB_VERDICT_NOTE, "dialect", "%s %s: %.200s", row->name,
                           row->path, err.message);
    }
    if (any)
        lb_doctor_find(doctor, LB_VERDICT_OK, "dialect", "%s, by token ids; measured with %s",
                       spoken, lb_dialect_name(peer->dialect));
    else
        report_none(peer, why, doctor);
    return any;
}

/* ---- limits ---- */

/* Whether k alternatives are granted: *given is how many came. */
static lb_status try_k(lb_peer *peer, const lb_tokens *prompt, uint32_t k, bool *granted,
                       uint32_t *given, lb_err *err)
{
    lb_scores scores = {0};
    lb_status status = lb_probe_one(peer, prompt, k, &scores, err);
    *granted = status == LB_OK;
    *given = status == LB_OK ? scores.least : 0;
    lb_scores_free(&scores);
    return lb_probe_refused(peer, status) ? LB_OK : status;
}

/* The largest k that is granted is between good and bad. */
static lb_status bisect_k(lb_peer *peer, const lb_tokens *prompt, uint32_t good, uint32_t bad,
                          uint32_t *out, lb_err *err)
{
    lb_status status = LB_OK;
    while (status == LB_OK && bad - good > 1) {
        uint32_t middle = good + (bad - good) / 2, given = 0;
        bool granted = false;
        status = try_k(peer, prompt, middle, &granted, &given, err);
        if (granted)
            good = middle;
        else
            bad = middle;
    }
    *out = good;
    return status;
}

static lb_status find_k(lb_peer *peer, const lb_tokens *prompt, lb_doctor *doctor, lb_err *err)
{
    static const uint32_t ladder[] = {0, 1, 5, 20, 50, 100, 256, 1024, LB_PROBE_K_MAX};
    lb_tokens two = {.ids = prompt->ids, .count = 2};
    uint32_t good = 0, bad = 0, cut_at = 0, cut_to = 0;
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && bad == 0 && i < sizeof ladder / sizeof *ladder; i++) {
        uint32_t given = 0;
        bool granted = false;
        status = try_k(peer, &two, ladder[i], &granted, &given, err);
        if (!granted && status == LB_OK && ladder[i] > 0)
            bad = ladder[i];
        else if (granted && given < ladder[i]) {
            cut_at = ladder[i];
            cut_to = given;
            /* One of them may be the prompt's own token, which comes besides. */
            good = given == peer->vocab || given == 0 ? given : given - 1;
            break;
        } else if (granted) {
            good = ladder[i];
        }
    }
    if (status == LB_OK && bad > 0)
        status = bisect_k(peer, &two, good, bad, &good, err);
    if (status != LB_OK)
        return status;
    peer->k = good;
    lb_doctor_measure(doctor, "max_logprobs", good);
    if (cut_at > 0 && peer->vocab != cut_to)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "logprobs", "k = %u is granted, but gives %u: "
                       "the whole vocabulary, or a silent cut", cut_at, cut_to);
    else if (good == 0)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "logprobs", "k = 0 is the largest");
    else
        lb_doctor_find(doctor, LB_VERDICT_OK, "logprobs", "k up to %s%u", bad ? "" : "at least ",
                       good);
    if (peer->max_logprobs > 0 && peer->max_logprobs != good &&
        peer->vocab != good)
        lb_doctor_find(doctor, LB_VERDICT_NOTE, "logprobs", "published is %" PRIu64,
                       peer->max_logprobs);
    return LB_OK;
}

/* A body of so many bytes more than it needs. A server may also close the connection on it. */
static lb_status try_body(lb_peer *peer, const lb_tokens *prompt, size_t padding, bool *granted,
                          lb_err *err)
{
    lb_scores scores = {0};
    lb_probe probe = {.prompts = prompt, .count = 1, .temperature = 1, .padding = padding};
    lb_status status = lb_probe_ask(peer, peer->dialect, &probe, &scores, err);
    lb_scores_free(&scores);
    *granted = status == LB_OK;
    return lb_probe_refused(peer, status) || status == LB_ENET ? LB_OK : status;
}

static lb_status find_body(lb_peer *peer, const lb_tokens *prompt, lb_doctor *doctor, lb_err *err)
{
    size_t good = 0, bad = 0;
    int code = 0;
    lb_status status = LB_OK;
    for (size_t n = BODY_TRIED_LEAST; status == LB_OK && !bad && n <= BODY_TRIED_MAX; n *= 2) {
        bool granted = false;
        status = try_body(peer, prompt, n, &granted, err);
        if (granted)
            good = n;
        else if (status == LB_OK)
            bad = n;
        code = peer->code;
    }
    while (status == LB_OK && bad && bad - good > bad / 32 + 1024) {
        size_t middle = good + (bad - good) / 2;
        bool granted = false;
        status = try_body(peer, prompt, middle, &granted, err);
        if (granted)
            good = middle;
        else
            bad = middle;
    }
    if (status != LB_OK)
        return status;
    lb_doctor_measure(doctor, "body_bytes", (double)good);
    /* One prompt that fills the context has to fit. */
    bool fits = peer->context == 0 || bad == 0 || good >= BYTES_PER_ID * peer->context;
    if (bad == 0)
        lb_doctor_find(doctor, LB_VERDICT_OK, "body", "at least %zu KiB are taken", good >> 10);
    else
        lb_doctor_find(doctor, fits ? LB_VERDICT_OK : LB_VERDICT_NOTE, "body",
                       "%zu KiB are taken, %zu KiB are refused with %d%s", good >> 10, bad >> 10,
                       code, fits ? "" : ": a prompt as long as the context may not fit");
    return LB_OK;
}

/* A prompt longer than the context must be refused: one that is cut is scored wrongly. */
static lb_status find_context(lb_peer *peer, const lb_tokens *prompt, lb_doctor *doctor,
                              lb_err *err)
{
    if (peer->context == 0 || peer->context > CONTEXT_TRIED_MAX)
        return LB_OK;
    lb_tokens longer = {.count = (size_t)peer->context + 1};
    lb_scores scores = {0};
    longer.ids = calloc(longer.count, sizeof *longer.ids);
    if (!longer.ids)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a probe");
    for (size_t t = 0; t < longer.count; t++)
        longer.ids[t] = prompt->ids[t % prompt->count];
    lb_status status = lb_probe_one(peer, &longer, 0, &scores, err);
    if (status == LB_OK)
        lb_doctor_find(doctor, LB_VERDICT_FAIL, "context", "a prompt of %zu tokens is not refused; "
                       "the reply has %zu entries", longer.count, scores.entries);
    else if (lb_probe_refused(peer, status))
        lb_doctor_find(doctor, LB_VERDICT_OK, "context", "a prompt of %zu tokens is refused with "
                       "%d", longer.count, peer->code);
    free(longer.ids);
    lb_scores_free(&scores);
    return lb_probe_refused(peer, status) ? LB_OK : status;
}


static lb_status check_limits(lb_peer *peer, lb_exam *exam, lb_doctor *doctor, lb_err *err)
{
    lb_status status = find_k(peer, &exam->prompt, doctor, err);
    if (status == LB_OK)
        status = find_context(peer, &exam->prompt, doctor, err);
    if (status == LB_OK)
        status = find_body(peer, &exam->prompt, doctor, err);
    exam->k = peer->k < SMALL_K ? peer->k : SMALL_K;
    return status;
}

/* ---- the examination ---- */

static const struct {
    const char *subject;
    lb_exam_check *run;
} checks[] = {
    {"limits", check_limits},
    {"shape", lb_exam_shape},
    {"determinism", lb_exam_noise},
    {"logs", lb_exam_logs},
    {"shift", lb_exam_shift},
    {"temperature", lb_exam_temperature},
    {"dialects", lb_exam_dialects},
    {"speed", lb_exam_speed},
};

static lb_status make_prompt(const lb_doctor_options *o, lb_tokens *out, lb_err *err)
{
    if (o->tokens) {
        lb_status status = lb_parse_token_list(o->tokens, out, err);
        if (status == LB_OK && (out->count < 6 || out->count > 4096))
            status = lb_fail(err, LB_EINVAL, "tokens", "a probe has 6 .. 4096 tokens, not %zu",
                             out->count);
        return status;
    }
    out->ids = calloc(PROBE_TOKENS, sizeof *out->ids);
    if (!out->ids)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a probe");
    out->count = out->capacity = PROBE_TOKENS;
    /* A fixed walk through the small ids, in which none comes twice. */
    for (uint32_t t = 0; t < PROBE_TOKENS; t++)
        out->ids[t] = PROBE_ID_LEAST + 61 * t % PROBE_ID_SPAN;
    return LB_OK;
}

static void run_checks(lb_peer *peer, lb_exam *exam, lb_doctor *doctor)
{
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        lb_err err = {0};
        lb_status status = checks[i].run(peer, exam, doctor, &err);
        if (status == LB_OK)
            continue;
        lb_doctor_find(doctor, LB_VERDICT_FAIL, checks[i].subject, "%s%s%s", err.field,
                       err.field[0] ? ": " : "", err.message);
        /* The rest would fail alike, and each would wait for its time-out. */
        if (!lb_probe_refused(peer, status))
            break;
    }
}

lb_status lb_doctor_teacher(const lb_doctor_options *options, lb_doctor *doctor, lb_err *err)
{
    lb_peer peer = {.options = options, .deadline_ms = lb_clock_ms() + options->total_ms};
    lb_exam exam = {0};
    lb_status status = make_prompt(options, &exam.prompt, err);
    if (status == LB_OK)
        status = lb_probe_connect(&peer, err);
    if (status == LB_OK)
        status = ask_models(&peer, doctor, err);
    if (status == LB_OK && find_dialects(&peer, &exam.prompt, doctor))
        run_checks(&peer, &exam, doctor);
    lb_scores_free(&exam.base);
    lb_tokens_free(&exam.prompt);
    lb_client_free(peer.client);
    return status;
}
