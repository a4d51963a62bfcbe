/* SPDX-License-Identifier: Apache-2.0 */
#include "server/teacher/completions.h"

#include "common/base/clock.h"

#include <stdio.h>
#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD"

typedef struct writer {
    lb_jsonw w;
    const lb_completion *c;
    const lb_tokenizer *tokenizer;
    lb_buf text;                 /* scratch: bytes of a token */
    lb_buf spelled;              /* scratch: the same as a JSON string */
} writer;

static float clamp(float logprob)
{
    return logprob < LB_LOGPROB_MIN ? LB_LOGPROB_MIN : logprob;
}

/* Puts the bytes of a token into v->text and its JSON string into v->spelled. Returns whether that
 * string tells it from other tokens: it has text, and the text is well-formed UTF-8 by itself. */
static bool spell(writer *v, uint32_t id)
{
    lb_buf_clear(&v->text);
    lb_buf_clear(&v->spelled);
    lb_buf_puts(&v->text, "");
    if (v->tokenizer)
        lb_tokenizer_piece(v->tokenizer, id, &v->text);
    lb_jsonw w = {.out = &v->spelled};
    lb_jsonw_string_n(&w, v->text.data ? (const char *)v->text.data : "", v->text.length);
    return v->text.length > 0 && v->spelled.status == LB_OK &&
           !strstr((const char *)v->spelled.data, REPLACEMENT);
}

/* The name of a token as a key or a member of `tokens`. Parts of a character, and ids without
 * text, would all be spelt the same and collide as keys: those go by their id. */
static void name_token(writer *v, uint32_t id, bool as_key)
{
    char name[32];
    bool plain = spell(v, id) && !v->c->tokens_as_ids;
    snprintf(name, sizeof name, "token_id:%u", id);
    if (plain && as_key && !memchr(v->text.data, '\0', v->text.length))
        lb_jsonw_key(&v->w, (const char *)v->text.data);
    else if (as_key)
        lb_jsonw_key(&v->w, name);
    else if (plain)
        lb_jsonw_raw(&v->w, (const char *)v->spelled.data, v->spelled.length);
    else
        lb_jsonw_string(&v->w, name);
}

static size_t code_points(const lb_buf *text)
{
    size_t count = 0;
    for (size_t i = 0; i < text->length; i++)
        count += (text->data[i] & 0xC0) != 0x80;
    return count;
}

/* ---- prompt_logprobs: one object of candidates for each position ---- */

static void write_candidate(writer *v, uint32_t id, float logprob, uint32_t rank)
{
    char key[16];
    snprintf(key, sizeof key, "%u", id);
    lb_jsonw_key(&v->w, key);
    lb_jsonw_object(&v->w);
    lb_jsonw_key(&v->w, "logprob");
    lb_jsonw_f32(&v->w, clamp(logprob));
    lb_jsonw_key(&v->w, "rank");
    lb_jsonw_u64(&v->w, rank);
    lb_jsonw_key(&v->w, "decoded_token");
    spell(v, id);
    if (v->tokenizer && v->spelled.status == LB_OK)
        lb_jsonw_raw(&v->w, (const char *)v->spelled.data, v->spelled.length);
    else
        lb_jsonw_null(&v->w);
    lb_jsonw_object_end(&v->w);
}

/* The actual token, then the others of the top. Ranks of equal logprobs are equal. */
static void write_position(writer *v, const lb_score_request *r, uint32_t t)
{
    uint32_t actual = r->sequence.tokens[t], rank = 1;
    lb_jsonw_object(&v->w);
    write_candidate(v, actual, r->logprob[t], r->rank[t]);
    for (uint32_t i = 0; i < v->c->prompt_logprobs && i < r->k; i++) {
        const float *top = r->top_logprob + (size_t)t * r->k;
        uint32_t id = r->top_id[(size_t)t * r->k + i];
        if (i > 0 && top[i] < top[i - 1])
            rank = i + 1;
        if (id != actual)
            write_candidate(v, id, top[i], rank);
    }
    lb_jsonw_object_end(&v->w);
}

static void write_prompt_logprobs(writer *v, uint32_t index)
{
    lb_jsonw_key(&v->w, "prompt_logprobs");
    if (!v->c->has_prompt_logprobs) {
        lb_jsonw_null(&v->w);
        return;
    }
    lb_jsonw_array(&v->w);
    lb_jsonw_null(&v->w);
    for (uint32_t t = 1; t < v->c->prompts[index].count; t++)
        write_position(v, &v->c->base.job.requests[index], t);
    lb_jsonw_array_end(&v->w);
}

/* ---- logprobs: OpenAI's older form, four parallel arrays ---- */

static void write_top(writer *v, const lb_score_request *r, uint32_t t)
{
    uint32_t actual = r->sequence.tokens[t];
    lb_jsonw_object(&v->w);
    name_token(v, actual, true);
    lb_jsonw_f32(&v->w, clamp(r->logprob[t]));
    for (uint32_t i = 0; i < v->c->logprobs && i < r->k; i++) {
        uint32_t id = r->top_id[(size_t)t * r->k + i];
        if (id == actual)
            continue;
        name_token(v, id, true);
        lb_jsonw_f32(&v->w, clamp(r->top_logprob[(size_t)t * r->k + i]));
    }
    lb_jsonw_object_end(&v->w);
}

static void write_offsets(writer *v, const lb_sequence *all, uint32_t first)
{
    size_t offset = 0;
    lb_jsonw_key(&v->w, "text_offset");
    lb_jsonw_array(&v->w);
    for (uint32_t t = 0; t < all->count; t++) {
        if (t >= first)
            lb_jsonw_u64(&v->w, offset);
        spell(v, all->tokens[t]);
        offset += code_points(&v->text);
    }
    lb_jsonw_array_end(&v->w);
}

static void write_logprobs(writer *v, uint32_t index)
{
    lb_jsonw_key(&v->w, "logprobs");
    if (!v->c->has_logprobs) {
        lb_jsonw_null(&v->w);
        return;
    }
    const lb_score_request *r = &v->c->base.job.requests[index];
    uint32_t first = v->c->echo ? 0 : v->c->prompts[index].count, count = r->sequence.count;
    lb_jsonw_object(&v->w);
    write_offsets(v, &r->sequence, first);
    lb_jsonw_key(&v->w, "tokens");
    lb_jsonw_array(&v->w);
    for (uint32_t t = first; t < count; t++)
        name_token(v, r->sequence.tokens[t], false);
    lb_jsonw_array_end(&v->w);
    lb_jsonw_key(&v->w, "token_logprobs");
    lb_jsonw_array(&v->w);
    for (uint32_t t = first; t < count; t++) {
        if (t == 0)
            lb_jsonw_null(&v->w);
        else
            lb_jsonw_f32(&v->w, clamp(r->logprob[t]));
    }
    lb_jsonw_array_end(&v->w);
    lb_jsonw_key(&v->w, "top_logprobs");
    lb_jsonw_array(&v->w);
    for (uint32_t t = first; t < count; t++) {
        if (t == 0)
            lb_jsonw_null(&v->w);
        else
            write_top(v, r, t);
    }
    lb_jsonw_array_end(&v->w);
    lb_jsonw_object_end(&v->w);
}

/* ---- choices ---- */

static void write_ids(writer *v, const char *key, const uint32_t *ids, uint32_t count)
{
    lb_jsonw_key(&v->w, key);
    if (!v->c->return_ids) {
        lb_jsonw_null(&v->w);
        return;
    }
    lb_jsonw_array(&v->w);
    for (uint32_t t = 0; t < count; t++)
        lb_jsonw_u64(&v->w, ids[t]);
    lb_jsonw_array_end(&v->w);
}

static void write_choice(writer *v, uint32_t index)
{
    const lb_sequence *prompt = &v->c->prompts[index];
    const lb_rollout *rollout = &v->c->rollouts[index];
    lb_jsonw_object(&v->w);
    lb_jsonw_key(&v->w, "index");
    lb_jsonw_u64(&v->w, index);
    lb_jsonw_key(&v->w, "text");
    lb_buf_clear(&v->text);
    lb_buf_puts(&v->text, "");
    if (v->tokenizer && v->c->echo)
        lb_tokenizer_decode(v->tokenizer, prompt->tokens, prompt->count, false, &v->text);
    if (v->tokenizer && rollout->count > 0)
        lb_tokenizer_decode(v->tokenizer, rollout->tokens, rollout->count, true, &v->text);
    lb_jsonw_string_n(&v->w, v->text.data ? (const char *)v->text.data : "", v->text.length);
    write_logprobs(v, index);
    lb_jsonw_key(&v->w, "finish_reason");
    lb_jsonw_string(&v->w, rollout->stopped ? "stop" : "length");
    lb_jsonw_key(&v->w, "stop_reason");
    lb_jsonw_null(&v->w);
    write_ids(v, "token_ids", rollout->tokens, rollout->count);
    write_ids(v, "prompt_token_ids", prompt->tokens, prompt->count);
    write_prompt_logprobs(v, index);
    lb_jsonw_object_end(&v->w);
}

static void write_usage(writer *v)
{
    uint64_t prompt = 0, completion = 0;
    for (uint32_t i = 0; i < v->c->count; i++) {
        prompt += v->c->prompts[i].count;
        completion += v->c->rollouts[i].count;
    }
    lb_jsonw_key(&v->w, "usage");
    lb_jsonw_object(&v->w);
    lb_jsonw_key(&v->w, "prompt_tokens");
    lb_jsonw_u64(&v->w, prompt);
    lb_jsonw_key(&v->w, "total_tokens");
    lb_jsonw_u64(&v->w, prompt + completion);
    lb_jsonw_key(&v->w, "completion_tokens");
    lb_jsonw_u64(&v->w, completion);
    lb_jsonw_key(&v->w, "prompt_tokens_details");
    lb_jsonw_null(&v->w);
    lb_jsonw_object_end(&v->w);
}

void lb_completion_reply(lb_completion *c)
{
    lb_buf out = {0};
    char id[96];
    writer v = {.w = {.out = &out}, .c = c, .tokenizer = c->base.teacher->tokenizer};
    snprintf(id, sizeof id, "cmpl-%.80s", lb_request_id(c->base.request));
    lb_jsonw_object(&v.w);
    lb_jsonw_key(&v.w, "id");
    lb_jsonw_string(&v.w, id);
    lb_jsonw_key(&v.w, "object");
    lb_jsonw_string(&v.w, "text_completion");
    lb_jsonw_key(&v.w, "created");
    lb_jsonw_i64(&v.w, lb_wall_seconds());
    lb_jsonw_key(&v.w, "model");
    lb_jsonw_string(&v.w, c->base.teacher->name);
    lb_jsonw_key(&v.w, "choices");
    lb_jsonw_array(&v.w);
    for (uint32_t i = 0; i < c->count && out.status == LB_OK; i++)
        write_choice(&v, i);
    lb_jsonw_array_end(&v.w);
    write_usage(&v);
    lb_jsonw_key(&v.w, "system_fingerprint");
    lb_jsonw_null(&v.w);
    lb_jsonw_object_end(&v.w);
    if (out.status == LB_OK && v.text.status != LB_OK)
        out.status = v.text.status;
    if (out.status == LB_OK && v.spelled.status != LB_OK)
        out.status = v.spelled.status;
    lb_buf_free(&v.text);
    lb_buf_free(&v.spelled);
    lb_call_reply(&c->base, "application/json", &out);
}
