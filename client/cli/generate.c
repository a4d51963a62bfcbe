/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

#define SAMPLES_MAX 1024u
#define NEW_TOKENS_MAX 131072u

typedef struct generate_options {
    lb_local_options local;
    const char *prompt, *list;
    bool chat;
    const char *system, *chat_template, *thinking, *date;  /* only with chat */
    double temperature, top_p;
    uint32_t top_k, max_tokens, samples;
    uint64_t seed;
} generate_options;

static lb_status check(const generate_options *o, lb_err *err)
{
    if (!o->prompt == !o->list)
        return lb_fail(err, LB_EINVAL, "prompt", "give either --prompt or --tokens");
    if (o->chat && !o->prompt)
        return lb_fail(err, LB_EINVAL, "chat", "--chat needs the user's message as --prompt");
    if (!o->chat && (o->system || o->chat_template || o->thinking || o->date))
        return lb_fail(err, LB_EINVAL, "chat",
                       "--system, --chat-template, --thinking and --date go with --chat");
    if (o->thinking && strcmp(o->thinking, "on") != 0 && strcmp(o->thinking, "off") != 0)
        return lb_fail(err, LB_EINVAL, "thinking", "'%.20s' is neither on nor off", o->thinking);
    if (o->temperature < 0 || o->temperature > 100)
        return lb_fail(err, LB_EINVAL, "temperature", "%g is outside 0 .. 100", o->temperature);
    if (o->top_p <= 0 || o->top_p > 1)
        return lb_fail(err, LB_EINVAL, "top-p", "%g is outside (0, 1]", o->top_p);
    return LB_OK;
}

static void write_message(lb_jsonw *w, const char *role, const char *content)
{
    lb_jsonw_object(w);
    lb_jsonw_key(w, "role");
    lb_jsonw_string(w, role);
    lb_jsonw_key(w, "content");
    lb_jsonw_string(w, content);
    lb_jsonw_object_end(w);
}

static lb_status make_messages(const generate_options *o, lb_json **out, lb_err *err)
{
    lb_buf text = {0};
    lb_jsonw w = {.out = &text};
    lb_jsonw_array(&w);
    if (o->system)
        write_message(&w, "system", o->system);
    write_message(&w, "user", o->prompt);
    lb_jsonw_array_end(&w);
    lb_status status = text.status != LB_OK ? lb_fail(err, text.status, "prompt", "no memory")
                                            : lb_json_parse((const char *)text.data, text.length,
                                                            out, err);
    lb_buf_free(&text);
    return status;
}

static lb_status encode_chat(const generate_options *o, const lb_local *local, lb_tokens *prompt,
                             lb_err *err)
{
    lb_chat chat = {0};
    lb_chat_options options = {.date = o->date};
    lb_tokens none = {0};
    lb_json *messages = NULL;
    if (o->thinking)
        options.thinking = strcmp(o->thinking, "on") == 0 ? LB_THINKING_ON : LB_THINKING_OFF;
    lb_status status = lb_local_load_chat(local, o->chat_template, &chat, err);
    if (status == LB_OK)
        status = make_messages(o, &messages, err);
    if (status == LB_OK)
        status = lb_chat_encode(&chat, local->tokenizer, messages, &options, prompt, &none, err);
    lb_tokens_free(&none);
    lb_json_free(messages);
    return status;
}

static lb_status encode_prompt(const generate_options *o, const lb_local *local,
                               lb_tokens *prompt, lb_err *err)
{
    if (!o->prompt)
        return LB_OK;
    if (o->chat)
        return encode_chat(o, local, prompt, err);
    return lb_tokenizer_encode(local->tokenizer, o->prompt, strlen(o->prompt), false, true, prompt,
                               err);
}

static void write_json(const generate_options *o, const lb_local *local, const lb_tokens *prompt,
                       const lb_rollout *rollouts, lb_buf *out)
{
    lb_jsonw w = {.out = out};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "model");
    lb_jsonw_string(&w, o->local.model);
    lb_jsonw_key(&w, "prompt_tokens");
    lb_jsonw_array(&w);
    for (size_t t = 0; t < prompt->count; t++)
        lb_jsonw_u64(&w, prompt->ids[t]);
    lb_jsonw_array_end(&w);
    lb_jsonw_key(&w, "completions");
    lb_jsonw_array(&w);
    for (uint32_t i = 0; i < o->samples; i++) {
        lb_buf text = {0};
        lb_tokenizer_decode(local->tokenizer, rollouts[i].tokens, rollouts[i].count, true, &text);
        lb_jsonw_object(&w);
        lb_jsonw_key(&w, "text");
        lb_jsonw_string_n(&w, text.data ? (const char *)text.data : "", text.length);
        lb_jsonw_key(&w, "finish_reason");
        lb_jsonw_string(&w, rollouts[i].stopped ? "stop" : "length");
        lb_jsonw_key(&w, "tokens");
        lb_jsonw_array(&w);
        for (uint32_t t = 0; t < rollouts[i].count; t++)
            lb_jsonw_u64(&w, rollouts[i].tokens[t]);
        lb_jsonw_array_end(&w);
        lb_jsonw_key(&w, "logprobs");
        lb_jsonw_array(&w);
        for (uint32_t t = 0; t < rollouts[i].count; t++)
            lb_jsonw_f32(&w, rollouts[i].logprobs[t]);
        lb_jsonw_array_end(&w);
        lb_jsonw_object_end(&w);
        lb_buf_free(&text);
    }
    lb_jsonw_array_end(&w);
    lb_jsonw_object_end(&w);
    lb_buf_puts(out, "\n");
}

static void write_text(const generate_options *o, const lb_local *local,
                       const lb_rollout *rollouts, lb_buf *out)
{
    for (uint32_t i = 0; i < o->samples; i++) {
        lb_tokenizer_decode(local->tokenizer, rollouts[i].tokens, rollouts[i].count, true, out);
        lb_buf_puts(out, rollouts[i].stopped ? "\n" : " [cut at --max-tokens]\n");
    }
}

static lb_status generate(const generate_options *o, lb_buf *out, lb_err *err)
{
    lb_local local = {0};
    lb_tokens prompt = {0};
    lb_rollout *rollouts = NULL;
    bool filled = false;
    lb_status status = check(o, err);
    if (status == LB_OK && o->list)
        status = lb_parse_token_list(o->list, &prompt, err);
    if (status == LB_OK)
        status = lb_local_open(&o->local, true, &local, err);
    if (status == LB_OK)
        status = encode_prompt(o, &local, &prompt, err);
    if (status != LB_OK)
        goto done;
    rollouts = calloc(o->samples, sizeof *rollouts);
    if (!rollouts) {
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for %u samples", o->samples);
        goto done;
    }
    lb_sequence sequence = {prompt.ids, (uint32_t)prompt.count};
    lb_generate_params params = {
        .sample = {.temperature = (float)o->temperature, .top_p = (float)o->top_p,
                   .top_k = o->top_k},
        .max_new_tokens = o->max_tokens,
        .seed = o->seed,
        .allowed = local.allowed,
    };
    status = lb_model_generate(local.model, local.adapter, &sequence, 1, o->samples, 0, &params,
                               rollouts, err);
    filled = status == LB_OK;
    if (filled && o->local.json)
        write_json(o, &local, &prompt, rollouts, out);
    else if (filled)
        write_text(o, &local, rollouts, out);
done:
    for (uint32_t i = 0; filled && i < o->samples; i++)
        lb_rollout_free(&rollouts[i]);
    free(rollouts);
    lb_tokens_free(&prompt);
    lb_local_close(&local);
    return status;
}

int lb_cmd_generate(int argc, char **argv)
{
    generate_options o = {.temperature = 1.0, .top_p = 1.0, .max_tokens = 256, .samples = 1};
    const lb_option options[] = {
        LB_LOCAL_OPTIONS(o.local),
        {.name = "prompt", .type = LB_OPT_STRING, .out = &o.prompt, .value = "TEXT",
         .help = "text of the prompt"},
        {.name = "tokens", .type = LB_OPT_STRING, .out = &o.list, .value = "1,2,3",
         .help = "token ids of the prompt"},
        {.name = "chat", .type = LB_OPT_FLAG, .out = &o.chat,
         .help = "the prompt is a user's message, for the model's chat template"},
        {.name = "system", .type = LB_OPT_STRING, .out = &o.system, .value = "TEXT",
         .help = "the system message before it"},
        {.name = "chat-template", .type = LB_OPT_STRING, .out = &o.chat_template, .value = "NAME",
         .help = "a known template instead of the model's; a wrong name lists them"},
        {.name = "thinking", .type = LB_OPT_STRING, .out = &o.thinking, .value = "on|off",
         .help = "enable_thinking of Qwen3"},
        {.name = "date", .type = LB_OPT_STRING, .out = &o.date, .value = "'26 Jul 2024'",
         .help = "today's date; Llama 3.2 needs it"},
        {.name = "temperature", .type = LB_OPT_F64, .out = &o.temperature, .value = "T",
         .help = "0: the likeliest token"},
        {.name = "top-p", .type = LB_OPT_F64, .out = &o.top_p, .value = "P",
         .help = "smallest set of tokens with this probability"},
        {.name = "top-k", .type = LB_OPT_U32, .out = &o.top_k, .max = 1u << 20, .value = "K",
         .help = "the K likeliest tokens; 0: all"},
        {.name = "max-tokens", .type = LB_OPT_U32, .out = &o.max_tokens, .min = 1,
         .max = NEW_TOKENS_MAX, .value = "N", .help = "longest completion"},
        {.name = "samples", .type = LB_OPT_U32, .out = &o.samples, .min = 1, .max = SAMPLES_MAX,
         .value = "N", .help = "completions to draw"},
        {.name = "seed", .type = LB_OPT_U64, .out = &o.seed, .max = UINT64_MAX, .value = "S",
         .help = "of the draws; the same seed gives the same completions"},
    };
    const lb_command_line line = {
        .program = "limbeck generate",
        .summary = "Samples completions of a prompt.",
        .examples = "  limbeck generate --model DIR --prompt '12+30=' --temperature 0\n"
                    "  limbeck generate --model DIR --adapter DIR --prompt '1+1=' --samples 4\n"
                    "  limbeck generate --model DIR --chat --system 'Be brief.' --prompt 'Hello'\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    lb_err err = {0};
    lb_buf out = {0};
    lb_status status = generate(&o, &out, &err);
    code = status == LB_OK ? lb_cli_print(&out) : lb_cli_fail(&err);
    lb_buf_free(&out);
    return code;
}
