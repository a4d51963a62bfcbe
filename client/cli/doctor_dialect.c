/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/doctor_dialect.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ID_PREFIX "token_id:"

/* ---- requests ---- */

static void write_ids(lb_jsonw *w, const lb_tokens *tokens)
{
    lb_jsonw_array(w);
    for (size_t t = 0; t < tokens->count; t++)
        lb_jsonw_u64(w, tokens->ids[t]);
    lb_jsonw_array_end(w);
}

/* One prompt is a flat list, as the simplest of clients send it; several are a list of lists. */
static void write_prompts(lb_jsonw *w, const char *key, const lb_probe *probe, bool nested)
{
    lb_jsonw_key(w, key);
    if (probe->count == 1 && !nested) {
        write_ids(w, &probe->prompts[0]);
        return;
    }
    lb_jsonw_array(w);
    for (size_t i = 0; i < probe->count; i++)
        write_ids(w, &probe->prompts[i]);
    lb_jsonw_array_end(w);
}

static void write_u64(lb_jsonw *w, const char *key, uint64_t value)
{
    lb_jsonw_key(w, key);
    lb_jsonw_u64(w, value);
}

static void write_true(lb_jsonw *w, const char *key)
{
    lb_jsonw_key(w, key);
    lb_jsonw_bool(w, true);
}

static void write_temperature(lb_jsonw *w, const lb_probe *probe)
{
    if (probe->temperature < 0)
        return;
    lb_jsonw_key(w, "temperature");
    lb_jsonw_f64(w, probe->temperature);
}

static void write_model(lb_jsonw *w, const lb_peer *peer)
{
    if (!peer->model[0])
        return;
    lb_jsonw_key(w, "model");
    lb_jsonw_string(w, peer->model);
}

static void write_native(lb_jsonw *w, const lb_peer *peer, const lb_probe *probe)
{
    lb_jsonw_object(w);
    write_model(w, peer);
    write_prompts(w, "sequences", probe, true);
    write_u64(w, "k", probe->k);
    lb_jsonw_object_end(w);
}

static void write_vllm(lb_jsonw *w, const lb_peer *peer, const lb_probe *probe)
{
    lb_jsonw_object(w);
    write_model(w, peer);
    write_prompts(w, "prompt", probe, false);
    write_u64(w, "max_tokens", 1);
    write_temperature(w, probe);
    write_u64(w, "prompt_logprobs", probe->k);
    lb_jsonw_object_end(w);
}

static void write_echo(lb_jsonw *w, const lb_peer *peer, const lb_probe *probe)
{
    lb_jsonw_object(w);
    write_model(w, peer);
    write_prompts(w, "prompt", probe, false);
    write_u64(w, "max_tokens", peer->echo_tokens);
    write_temperature(w, probe);
    write_true(w, "echo");
    write_u64(w, "logprobs", probe->k);
    write_true(w, "return_tokens_as_token_ids");
    lb_jsonw_object_end(w);
}

static void write_sglang(lb_jsonw *w, const lb_peer *peer, const lb_probe *probe)
{
    (void)peer;
    lb_jsonw_object(w);
    write_prompts(w, "input_ids", probe, false);
    lb_jsonw_key(w, "sampling_params");
    lb_jsonw_object(w);
    write_temperature(w, probe);
    write_u64(w, "max_new_tokens", 0);
    lb_jsonw_key(w, "skip_special_tokens");
    lb_jsonw_bool(w, false);
    lb_jsonw_object_end(w);
    write_true(w, "return_logprob");
    write_u64(w, "logprob_start_len", 0);
    write_u64(w, "top_logprobs_num", probe->k);
    lb_jsonw_object_end(w);
}

/* ---- replies ---- */

static lb_status bad(lb_err *err, const char *what, size_t t)
{
    return lb_fail(err, LB_EDATA, what, "entry %zu of %s in the reply is not what it should be",
                   t, what);
}

/* Keeps the row in descending order; what is beyond its width is the least likely. */
static void insert_top(lb_scores *s, size_t t, int64_t id, double value)
{
    double *row = s->top + t * s->width;
    int64_t *ids = s->top_id + t * s->width;
    size_t at = s->width;
    while (at > 0 && (isnan(row[at - 1]) || row[at - 1] < value)) {
        if (at < s->width) {
            row[at] = row[at - 1];
            ids[at] = ids[at - 1];
        }
        at--;
    }
    if (at < s->width) {
        row[at] = value;
        ids[at] = id;
    }
}

static void note_entry(lb_scores *s, const lb_tokens *prompt, size_t t, bool named, int64_t id,
                       double value)
{
    s->logprob[t] = value;
    s->first_given |= t == 0;
    if (named && id != (int64_t)prompt->ids[t] && t > 0) {
        s->misnamed++;
        s->named_next += t + 1 < prompt->count && id == (int64_t)prompt->ids[t + 1];
    }
}

static void note_row(lb_scores *s, size_t t, size_t values)
{
    if (t > 0 && values < s->least)
        s->least = (uint32_t)values;
}

/* "198" or "token_id:198"; -1 for what is neither. */
static int64_t parse_id(const char *text)
{
    char *end = NULL;
    if (strncmp(text, ID_PREFIX, sizeof ID_PREFIX - 1) == 0)
        text += sizeof ID_PREFIX - 1;
    errno = 0;
    unsigned long id = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && id <= UINT32_MAX ? (int64_t)id : -1;
}

typedef struct map_walk {
    lb_scores *scores;
    const lb_tokens *prompt;
    size_t t, values;
    bool has_own, has_next, objects;
    lb_err *err;
} map_walk;

/* A member of {"872": {"logprob": -0.02, ...}} or of {"token_id:872": -0.02}. */
static lb_status walk_map(void *arg, const char *key, const lb_json *value)
{
    map_walk *m = arg;
    const lb_json *number = m->objects ? lb_json_get(value, "logprob") : value;
    int64_t id = parse_id(key);
    if (!number || !lb_json_is_number(number) || (m->objects && id < 0))
        return bad(m->err, m->objects ? "prompt_logprobs" : "top_logprobs", m->t);
    double logprob = lb_json_number(number);
    m->values++;
    if (m->objects && id == (int64_t)m->prompt->ids[m->t]) {
        m->has_own = true;
        note_entry(m->scores, m->prompt, m->t, false, id, logprob);
    }
    m->has_next |= m->t + 1 < m->prompt->count && id == (int64_t)m->prompt->ids[m->t + 1];
    insert_top(m->scores, m->t, id, logprob);
    return LB_OK;
}

static lb_status read_prompt_map(const lb_json *list, const lb_tokens *prompt, lb_scores *s,
                                 lb_err *err)
{
    if (!lb_json_is_array(list))
        return lb_fail(err, LB_EDATA, "prompt_logprobs", "the reply has no prompt_logprobs");
    s->entries = lb_json_array_size(list);
    for (size_t t = 0; t < s->entries && t < s->count; t++) {
        const lb_json *entry = lb_json_at(list, t);
        map_walk m = {.scores = s, .prompt = prompt, .t = t, .objects = true, .err = err};
        if (lb_json_is_null(entry))
            continue;
        if (!lb_json_is_object(entry))
            return bad(err, "prompt_logprobs", t);
        lb_status status = lb_json_each(entry, walk_map, &m);
        if (status != LB_OK)
            return status;
        if (!m.has_own && t > 0) {
            s->misnamed++;
            s->named_next += m.has_next;
        }
        s->first_given |= t == 0 && m.values > 0;
        note_row(s, t, m.values);
    }
    return LB_OK;
}

/* The member `index` says which prompt a choice belongs to. */
static const lb_json *choice_of(const lb_json *reply, size_t want)
{
    const lb_json *choices = lb_json_get(reply, "choices");
    for (size_t i = 0; i < lb_json_array_size(choices); i++) {
        const lb_json *choice = lb_json_at(choices, i), *index = lb_json_get(choice, "index");
        if (index && lb_json_is_integer(index) ? lb_json_integer(index) == (int64_t)want
                                               : i == want)
            return choice;
    }
    return NULL;
}

static lb_status no_choice(size_t index, lb_err *err)
{
    return lb_fail(err, LB_EDATA, "choices", "the reply has no choice of index %zu", index);
}

static lb_status read_vllm(const lb_json *reply, const lb_probe *probe, lb_scores *out,
                           lb_err *err)
{
    for (size_t i = 0; i < probe->count; i++) {
        const lb_json *choice = choice_of(reply, i);
        if (!choice)
            return no_choice(i, err);
        /* Older servers give one list at the top. */
        const lb_json *list = lb_json_get(choice, "prompt_logprobs");
        if (!list && probe->count == 1)
            list = lb_json_get(reply, "prompt_logprobs");
        lb_status status = read_prompt_map(list, &probe->prompts[i], &out[i], err);
        if (status != LB_OK)
            return status;
    }
    return LB_OK;
}

static lb_status read_echo_entry(const lb_json *logprobs, const lb_tokens *prompt, size_t t,
                                 lb_scores *s, lb_err *err)
{
    const lb_json *value = lb_json_at(lb_json_get(logprobs, "token_logprobs"), t);
    const lb_json *top = lb_json_at(lb_json_get(logprobs, "top_logprobs"), t);
    const char *token = lb_json_string(lb_json_at(lb_json_get(logprobs, "tokens"), t));
    /* Text is no id, even where it consists of digits. */
    bool named = token && strncmp(token, ID_PREFIX, sizeof ID_PREFIX - 1) == 0;
    if (value && lb_json_is_number(value))
        note_entry(s, prompt, t, named, named ? parse_id(token) : -1, lb_json_number(value));
    else if (!value || !lb_json_is_null(value))
        return bad(err, "token_logprobs", t);
    map_walk m = {.scores = s, .prompt = prompt, .t = t, .err = err};
    if (top && lb_json_is_object(top)) {
        lb_status status = lb_json_each(top, walk_map, &m);
        if (status != LB_OK)
            return status;
    }
    note_row(s, t, m.values);
    /* With k = 0 the token's own value is all there is. */
    if (m.values == 0 && !isnan(s->logprob[t]))
        insert_top(s, t, named ? parse_id(token) : -1, s->logprob[t]);
    return LB_OK;
}

static lb_status read_echo(const lb_json *reply, const lb_probe *probe, lb_scores *out,
                           lb_err *err)
{
    for (size_t i = 0; i < probe->count; i++) {
        lb_scores *s = &out[i];
        const lb_json *choice = choice_of(reply, i);
        if (!choice)
            return no_choice(i, err);
        const lb_json *logprobs = lb_json_get(choice, "logprobs");
        if (!lb_json_is_object(logprobs))
            return lb_fail(err, LB_EDATA, "logprobs", "the choice has no logprobs");
        s->entries = lb_json_array_size(lb_json_get(logprobs, "token_logprobs"));
        for (size_t t = 0; t < s->entries && t < s->count; t++) {
            lb_status status = read_echo_entry(logprobs, &probe->prompts[i], t, s, err);
            if (status != LB_OK)
                return status;
        }
        /* Entries beyond the prompt are the sampled tokens', which max_tokens asked for. */
        if (s->entries == s->count + 1)
            s->entries = s->count;
    }
    return LB_OK;
}

/* [logprob, id, text]; value NULL for [null, id, text]. */
static bool read_triple(const lb_json *triple, const lb_json **value, int64_t *id)
{
    const lb_json *number = lb_json_at(triple, 0), *token = lb_json_at(triple, 1);
    if (!lb_json_is_array(triple) || !token || !lb_json_is_integer(token))
        return false;
    *value = lb_json_is_number(number) ? number : NULL;
    *id = lb_json_integer(token);
    return *value || lb_json_is_null(number);
}

static lb_status read_sglang_one(const lb_json *reply, const lb_tokens *prompt, lb_scores *s,
                                 lb_err *err)
{
    const lb_json *meta = lb_json_get(reply, "meta_info"), *value;
    const lb_json *list = lb_json_get(meta, "input_token_logprobs");
    const lb_json *tops = lb_json_get(meta, "input_top_logprobs");
    int64_t id = -1;
    if (!list || !lb_json_is_array(list))
        return lb_fail(err, LB_EDATA, "meta_info.input_token_logprobs", "the reply has none");
    s->entries = lb_json_array_size(list);
    for (size_t t = 0; t < s->entries && t < s->count; t++) {
        if (!read_triple(lb_json_at(list, t), &value, &id))
            return bad(err, "input_token_logprobs", t);
        if (value)
            note_entry(s, prompt, t, true, id, lb_json_number(value));
        const lb_json *top = lb_json_at(tops, t);
        size_t values = top ? lb_json_array_size(top) : 0;
        for (size_t i = 0; i < values; i++) {
            if (!read_triple(lb_json_at(top, i), &value, &id) || !value)
                return bad(err, "input_top_logprobs", t);
            insert_top(s, t, id, lb_json_number(value));
        }
        note_row(s, t, values);
    }
    return LB_OK;
}

static lb_status read_sglang(const lb_json *reply, const lb_probe *probe, lb_scores *out,
                             lb_err *err)
{
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < probe->count; i++) {
        const lb_json *one = lb_json_is_array(reply) ? lb_json_at(reply, i) : reply;
        status = one ? read_sglang_one(one, &probe->prompts[i], &out[i], err)
                     : lb_fail(err, LB_EDATA, NULL, "the reply has no entry %zu", i);
    }
    return status;
}

static lb_status read_native_one(const lb_json *sequence, const lb_tokens *prompt, lb_scores *s,
                                 lb_err *err)
{
    const lb_json *list = lb_json_get(sequence, "logprobs");
    const lb_json *ids = lb_json_get(sequence, "top_ids");
    const lb_json *tops = lb_json_get(sequence, "top_logprobs");
    if (!list || !lb_json_is_array(list))
        return lb_fail(err, LB_EDATA, "sequences", "a sequence of the reply has no logprobs");
    s->entries = lb_json_array_size(list);
    for (size_t t = 0; t < s->entries && t < s->count; t++) {
        const lb_json *value = lb_json_at(list, t), *row = lb_json_at(tops, t);
        if (lb_json_is_number(value))
            note_entry(s, prompt, t, false, -1, lb_json_number(value));
        else if (!lb_json_is_null(value))
            return bad(err, "logprobs", t);
        size_t values = row ? lb_json_array_size(row) : 0;
        for (size_t i = 0; i < values; i++) {
            const lb_json *id = lb_json_at(lb_json_at(ids, t), i), *top = lb_json_at(row, i);
            if (!id || !lb_json_is_integer(id) || !lb_json_is_number(top))
                return bad(err, "top_logprobs", t);
            insert_top(s, t, lb_json_integer(id), lb_json_number(top));
        }
        note_row(s, t, values);
    }
    return LB_OK;
}

static lb_status read_native(const lb_json *reply, const lb_probe *probe, lb_scores *out,
                             lb_err *err)
{
    const lb_json *sequences = lb_json_get(reply, "sequences");
    lb_status status = LB_OK;
    for (size_t i = 0; status == LB_OK && i < probe->count; i++) {
        const lb_json *one = lb_json_at(sequences, i);
        status = one ? read_native_one(one, &probe->prompts[i], &out[i], err)
                     : lb_fail(err, LB_EDATA, "sequences", "the reply has no sequence %zu", i);
    }
    return status;
}

static const lb_dialect_row dialects[LB_DIALECT_COUNT] = {
    [LB_DIALECT_NATIVE] = {"native", "/v1/teacher/logprobs", false, write_native, read_native},
    [LB_DIALECT_VLLM] = {"vllm", "/v1/completions", true, write_vllm, read_vllm},
    [LB_DIALECT_ECHO] = {"echo", "/v1/completions", true, write_echo, read_echo},
    [LB_DIALECT_SGLANG] = {"sglang", "/generate", true, write_sglang, read_sglang},
};

const lb_dialect_row *lb_dialect_get(lb_dialect dialect)
{
    return &dialects[dialect];
}

const char *lb_dialect_name(lb_dialect dialect)
{
    return dialects[dialect].name;
}
