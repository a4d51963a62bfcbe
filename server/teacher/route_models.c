/* SPDX-License-Identifier: Apache-2.0
 *
 * GET /v1/models: data[0] is the base teacher, which clients take without asking further.
 */
#include "server/teacher/teacher_impl.h"

static void text(lb_jsonw *w, const char *key, const char *value)
{
    lb_jsonw_key(w, key);
    lb_jsonw_string(w, value);
}

static void number(lb_jsonw *w, const char *key, uint64_t value)
{
    lb_jsonw_key(w, key);
    lb_jsonw_u64(w, value);
}

static void precision(lb_jsonw *w, const lb_precision *p)
{
    lb_jsonw_key(w, "logprob_error");
    if (p->tokens == 0) {
        lb_jsonw_null(w);
        return;
    }
    lb_jsonw_object(w);
    text(w, "reference", "f32");
    lb_jsonw_key(w, "mean_abs");
    lb_jsonw_f32(w, (float)p->mean_abs);
    lb_jsonw_key(w, "max_abs");
    lb_jsonw_f32(w, (float)p->max_abs);
    lb_jsonw_key(w, "bias");
    lb_jsonw_f32(w, (float)p->bias);
    number(w, "tokens", p->tokens);
    lb_jsonw_object_end(w);
}

void lb_teacher_get_models(void *daemon, lb_request *request)
{
    const lb_teacher *teacher = daemon;
    const lb_model_config *config = teacher->model_config;
    lb_buf out = {0};
    lb_jsonw w = {.out = &out};
    lb_jsonw_object(&w);
    text(&w, "object", "list");
    lb_jsonw_key(&w, "data");
    lb_jsonw_array(&w);
    lb_jsonw_object(&w);
    text(&w, "id", teacher->name);
    text(&w, "object", "model");
    number(&w, "created", (uint64_t)teacher->created);
    text(&w, "owned_by", "limbeck");
    text(&w, "root", teacher->name);
    text(&w, "parent", NULL);
    number(&w, "max_model_len", config->max_positions);
    number(&w, "vocab", config->vocab);
    text(&w, "tokenizer_sha256",
         teacher->tokenizer ? lb_tokenizer_digest(teacher->tokenizer) : NULL);
    text(&w, "chat_template_sha256", teacher->template_sha[0] ? teacher->template_sha : NULL);
    text(&w, "digest", lb_model_digest(teacher->model));
    text(&w, "dtype", teacher->dtype);
    precision(&w, &teacher->precision);
    number(&w, "max_logprobs", teacher->max_logprobs);
    lb_jsonw_key(&w, "eos_token_ids");
    lb_jsonw_array(&w);
    for (uint32_t i = 0; i < config->eos_count; i++)
        lb_jsonw_u64(&w, config->eos[i]);
    lb_jsonw_array_end(&w);
    lb_jsonw_object_end(&w);
    lb_jsonw_array_end(&w);
    lb_jsonw_object_end(&w);
    lb_reply_buf(request, 200, "application/json", &out);
}
