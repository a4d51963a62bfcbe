/* SPDX-License-Identifier: Apache-2.0 */
#include "common/train/handshake.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION_DIGITS 16
#define LIST_TEXT 200
#define LOGPROB_MIN -1e6
#define DIFFERENCE_MAX 1e6
#define PROBE_TOKENS_MAX (1u << 20)

const char *lb_handshake_allow_name(unsigned index)
{
    static const char *const names[LB_ALLOW_NAMES] = {"stop_ids", "chat_template"};
    return index < LB_ALLOW_NAMES ? names[index] : "";
}

/* ---- JSON ---- */

static void write_side(const lb_handshake_side *side, lb_jsonw *out)
{
    lb_jsonw_object(out);
    lb_jsonw_key(out, "model");
    lb_jsonw_string(out, side->model);
    lb_jsonw_key(out, "model_sha256");
    lb_jsonw_string(out, side->model_sha);
    lb_jsonw_key(out, "tokenizer_sha256");
    lb_jsonw_string(out, side->tokenizer_sha);
    lb_jsonw_key(out, "chat_template_sha256");
    lb_jsonw_string(out, side->template_sha[0] ? side->template_sha : NULL);
    lb_jsonw_key(out, "vocab");
    lb_jsonw_u64(out, side->vocab);
    lb_jsonw_key(out, "stop_ids");
    lb_jsonw_array(out);
    for (uint32_t i = 0; i < side->stop_count; i++)
        lb_jsonw_u64(out, side->stops[i]);
    lb_jsonw_array_end(out);
    lb_jsonw_object_end(out);
}

typedef struct figure {
    const char *key;
    size_t offset;             /* of a double in lb_handshake_probe */
    double min, max;
} figure;

#define FIGURE(name, min, max) {#name, offsetof(lb_handshake_probe, name), min, max}

static const figure figures[] = {
    FIGURE(teacher_logprob, LOGPROB_MIN, 0),
    FIGURE(student_logprob, LOGPROB_MIN, 0),
    FIGURE(teacher_noise, 0, DIFFERENCE_MAX),
    FIGURE(sampler_noise, 0, DIFFERENCE_MAX),
    FIGURE(before_change, 0, DIFFERENCE_MAX),
    FIGURE(at_change, 0, DIFFERENCE_MAX),
};
#define FIGURES (sizeof figures / sizeof *figures)

void lb_handshake_write(const lb_handshake *handshake, lb_jsonw *out)
{
    char version[VERSION_DIGITS + 1];
    snprintf(version, sizeof version, "%016" PRIx64, handshake->teacher_version);
    lb_jsonw_object(out);
    lb_jsonw_key(out, "student");
    write_side(&handshake->student, out);
    lb_jsonw_key(out, "teacher");
    write_side(&handshake->teacher, out);
    lb_jsonw_key(out, "teacher_version");
    lb_jsonw_string(out, version);
    lb_jsonw_key(out, "probe");
    lb_jsonw_object(out);
    lb_jsonw_key(out, "sequences");
    lb_jsonw_u64(out, handshake->probe.sequences);
    lb_jsonw_key(out, "tokens");
    lb_jsonw_u64(out, handshake->probe.tokens);
    for (size_t i = 0; i < FIGURES; i++) {
        lb_jsonw_key(out, figures[i].key);
        lb_jsonw_f64(out, *(const double *)(const void *)((const char *)&handshake->probe +
                                                         figures[i].offset));
    }
    lb_jsonw_object_end(out);
    lb_jsonw_object_end(out);
}

static lb_status parse_digest(const lb_json *side, const char *where, const char *key,
                              bool nullable, char out[LB_SHA256_HEX], lb_err *err)
{
    const char *text = NULL;
    uint8_t digest[LB_SHA256_BYTES];
    if (nullable && lb_json_is_null(lb_json_get(side, key)))
        return LB_OK;
    lb_status status = lb_json_need_string(side, where, key, &text, err);
    if (status == LB_OK && !lb_sha256_parse(text, digest)) {
        char field[LB_ERR_FIELD_MAX];
        snprintf(field, sizeof field, "%s.%s", where, key);
        return lb_fail(err, LB_EINVAL, field, "is no SHA-256 in hex");
    }
    if (status == LB_OK)
        lb_sha256_hex(digest, out);
    return status;
}

static lb_status parse_stops(const lb_json *side, const char *where, lb_handshake_side *out,
                             lb_err *err)
{
    const lb_json *list = NULL;
    char field[LB_ERR_FIELD_MAX];
    snprintf(field, sizeof field, "%s.stop_ids", where);
    lb_status status = lb_json_opt_array(side, where, "stop_ids", &list, err);
    size_t count = lb_json_array_size(list);
    if (status == LB_OK && count > LB_CONFIG_EOS_MAX)
        status = lb_fail(err, LB_EINVAL, field, "%zu ids are more than %u", count,
                         LB_CONFIG_EOS_MAX);
    for (size_t i = 0; status == LB_OK && i < count; i++) {
        const lb_json *id = lb_json_at(list, i);
        bool good = lb_json_is_integer(id) && lb_json_integer(id) >= 0 &&
                    lb_json_integer(id) < LB_CONFIG_VOCAB_MAX &&
                    (i == 0 || lb_json_integer(id) > out->stops[i - 1]);
        if (!good)
            return lb_fail(err, LB_EINVAL, field, "entry %zu is no id, or not above the one "
                           "before it", i);
        out->stops[out->stop_count++] = (uint32_t)lb_json_integer(id);
    }
    return status;
}

static lb_status parse_side(const lb_json *json, const char *where, lb_handshake_side *out,
                            lb_err *err)
{
    const lb_json *side = NULL;
    const char *model = NULL;
    lb_status status = lb_json_need_object(json, "", where, &side, err);
    if (status == LB_OK)
        status = lb_json_need_string(side, where, "model", &model, err);
    if (status == LB_OK)
        snprintf(out->model, sizeof out->model, "%s", model);
    if (status == LB_OK)
        status = parse_digest(side, where, "model_sha256", false, out->model_sha, err);
    if (status == LB_OK)
        status = parse_digest(side, where, "tokenizer_sha256", false, out->tokenizer_sha, err);
    if (status == LB_OK)
        status = parse_digest(side, where, "chat_template_sha256", true, out->template_sha, err);
    if (status == LB_OK)
        status = lb_json_need_u32(side, where, "vocab", 1, LB_CONFIG_VOCAB_MAX, &out->vocab, err);
    return status == LB_OK ? parse_stops(side, where, out, err) : status;
}

static lb_status parse_probe(const lb_json *json, lb_handshake_probe *out, lb_err *err)
{
    const lb_json *probe = NULL;
    uint32_t tokens = 0;
    lb_status status = lb_json_need_object(json, "", "probe", &probe, err);
    if (status == LB_OK)
        status = lb_json_need_u32(probe, "probe", "sequences", 0, PROBE_TOKENS_MAX,
                                  &out->sequences, err);
    if (status == LB_OK)
        status = lb_json_need_u32(probe, "probe", "tokens", 0, PROBE_TOKENS_MAX, &tokens, err);
    out->tokens = tokens;
    for (size_t i = 0; status == LB_OK && i < FIGURES; i++)
        status = lb_json_need_f64(probe, "probe", figures[i].key, figures[i].min, figures[i].max,
                                  (double *)(void *)((char *)out + figures[i].offset), err);
    return status;
}

lb_status lb_handshake_parse(const lb_json *json, lb_handshake *out, lb_err *err)
{
    lb_handshake made = {0};
    const char *version = NULL;
    lb_status status = parse_side(json, "student", &made.student, err);
    if (status == LB_OK)
        status = parse_side(json, "teacher", &made.teacher, err);
    if (status == LB_OK)
        status = lb_json_need_string(json, "", "teacher_version", &version, err);
    if (status == LB_OK && (strlen(version) != VERSION_DIGITS ||
                            strspn(version, "0123456789abcdef") != VERSION_DIGITS))
        status = lb_fail(err, LB_EINVAL, "teacher_version", "is not 16 digits in hex");
    if (status == LB_OK) {
        made.teacher_version = strtoull(version, NULL, 16);
        status = parse_probe(json, &made.probe, err);
    }
    if (status == LB_OK)
        *out = made;
    return status;
}

/* ---- judgement ---- */

static void list_stops(const lb_handshake_side *side, char out[LIST_TEXT])
{
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < side->stop_count && at < LIST_TEXT; i++) {
        int n = snprintf(out + at, LIST_TEXT - at, "%s%u", i ? " " : "", side->stops[i]);
        at += n > 0 ? (size_t)n : 0;
    }
}

static bool same_stops(const lb_handshake_side *a, const lb_handshake_side *b)
{
    return a->stop_count == b->stop_count &&
           memcmp(a->stops, b->stops, a->stop_count * sizeof *a->stops) == 0;
}

static lb_status judge_sides(const lb_handshake *h, unsigned allow, lb_err *err)
{
    const lb_handshake_side *s = &h->student, *t = &h->teacher;
    char own[LIST_TEXT], other[LIST_TEXT];
    if (strcmp(s->tokenizer_sha, t->tokenizer_sha) != 0)
        return lb_fail(err, LB_ECONFLICT, "teacher.tokenizer_sha256", "student and teacher have "
                       "different tokenizers: %.16s... and %.16s... (vocabularies of %u and %u)",
                       s->tokenizer_sha, t->tokenizer_sha, s->vocab, t->vocab);
    if (!(allow & LB_ALLOW_STOP_IDS) && !same_stops(s, t)) {
        list_stops(s, own);
        list_stops(t, other);
        return lb_fail(err, LB_ECONFLICT, "teacher.stop_ids", "the student stops at [%.80s], the "
                       "teacher at [%.80s]; allow_mismatch [\"stop_ids\"] takes that", own, other);
    }
    /* Two templates that differ tell of two ways to prompt; a base model has none. */
    if (!(allow & LB_ALLOW_CHAT_TEMPLATE) && s->template_sha[0] && t->template_sha[0] &&
        strcmp(s->template_sha, t->template_sha) != 0)
        return lb_fail(err, LB_ECONFLICT, "teacher.chat_template_sha256", "the chat templates "
                       "are %.16s... and %.16s...; allow_mismatch [\"chat_template\"] takes that",
                       s->template_sha, t->template_sha);
    return LB_OK;
}

lb_status lb_handshake_judge(const lb_handshake *h, unsigned allow, lb_err *err)
{
    const lb_handshake_probe *p = &h->probe;
    lb_status status = judge_sides(h, allow, err);
    if (status != LB_OK)
        return status;
    if (p->tokens == 0)
        return lb_fail(err, LB_ECONFLICT, "probe.tokens", "the probe scored nothing");
    if (p->teacher_noise > LB_HANDSHAKE_NOISE_MAX)
        return lb_fail(err, LB_ECONFLICT, "probe.teacher_noise", "asked again, the teacher's "
                       "logprobs differ by up to %.4g nats; %g are allowed", p->teacher_noise,
                       LB_HANDSHAKE_NOISE_MAX);
    if (p->sampler_noise > LB_HANDSHAKE_NOISE_MAX)
        return lb_fail(err, LB_ECONFLICT, "probe.sampler_noise", "sampler and trainer differ by "
                       "up to %.4g nats; %g are allowed", p->sampler_noise,
                       LB_HANDSHAKE_NOISE_MAX);
    if (p->before_change > LB_HANDSHAKE_NOISE_MAX)
        return lb_fail(err, LB_ECONFLICT, "probe.before_change", "a token was changed and the "
                       "teacher's entries before it moved by up to %.4g nats: its logprobs are "
                       "shifted, or not causal", p->before_change);
    if (p->at_change <= p->teacher_noise)
        return lb_fail(err, LB_ECONFLICT, "probe.at_change", "a token was changed and its own "
                       "logprob moved by %.4g nats, no more than the noise: the teacher's entries "
                       "are not about their tokens", p->at_change);
    return LB_OK;
}

lb_status lb_handshake_compare(const lb_handshake *pinned, const lb_handshake *found,
                               lb_err *err)
{
    const lb_handshake_side *a = &pinned->teacher, *b = &found->teacher;
    double drift = fabs(pinned->probe.teacher_logprob - found->probe.teacher_logprob);
    char own[LIST_TEXT], other[LIST_TEXT];
    if (strcmp(a->model_sha, b->model_sha) != 0 ||
        pinned->teacher_version != found->teacher_version)
        return lb_fail(err, LB_ECONFLICT, "teacher.model_sha256", "the job was pinned to teacher "
                       "%.16s..., this one is %.16s...", a->model_sha, b->model_sha);
    if (strcmp(a->tokenizer_sha, b->tokenizer_sha) != 0)
        return lb_fail(err, LB_ECONFLICT, "teacher.tokenizer_sha256", "the job was pinned to "
                       "tokenizer %.16s..., this one is %.16s...", a->tokenizer_sha,
                       b->tokenizer_sha);
    if (!same_stops(a, b)) {
        list_stops(a, own);
        list_stops(b, other);
        return lb_fail(err, LB_ECONFLICT, "teacher.stop_ids", "the job was pinned to a teacher "
                       "that stops at [%.80s], this one at [%.80s]", own, other);
    }
    if (strcmp(a->template_sha, b->template_sha) != 0)
        return lb_fail(err, LB_ECONFLICT, "teacher.chat_template_sha256", "the job was pinned to "
                       "a teacher with chat template %.16s, this one has %.16s",
                       a->template_sha[0] ? a->template_sha : "none",
                       b->template_sha[0] ? b->template_sha : "none");
    if (pinned->probe.tokens != found->probe.tokens || drift > LB_HANDSHAKE_DRIFT_MAX)
        return lb_fail(err, LB_ECONFLICT, "probe.teacher_logprob", "the probe's mean logprob was "
                       "%.6g over %" PRIu64 " tokens when it was pinned and is %.6g over %" PRIu64
                       " now", pinned->probe.teacher_logprob, pinned->probe.tokens,
                       found->probe.teacher_logprob, found->probe.tokens);
    return LB_OK;
}
