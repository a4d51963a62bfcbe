/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck eval: samples one completion for each prompt of a data set and reports how many answers
 * are right, and, given a teacher, teacher_kl = mean over the sampled tokens of lp_student -
 * lp_teacher (docs/ALGORITHM.md). Where the rows have completions, completion_loss is the student's
 * mean cross-entropy on their tokens.
 */
#include "client/cli/cli.h"

#include "common/io/file.h"
#include "common/text/dataset.h"

#include <stdlib.h>
#include <string.h>

#define DATA_MAX (64u << 20)
#define PROMPTS_AT_ONCE 128u
#define NEW_TOKENS_MAX 131072u

typedef struct eval_options {
    lb_local_options local;
    const char *teacher, *data, *chat_template, *date;
    double temperature;
    uint32_t max_tokens, limit;
    uint64_t seed;
} eval_options;

typedef struct eval_result {
    size_t prompts, graded, correct, stopped;
    uint64_t tokens;
    double reverse_kl;
    bool has_kl;
    uint64_t completion_tokens;
    double completion_loss;    /* sum of -lp */
} eval_result;

static void grade(const lb_local *local, const lb_prompt *prompt, const lb_rollout *rollout,
                  eval_result *result)
{
    lb_buf text = {0};
    result->prompts++;
    result->stopped += rollout->stopped;
    result->tokens += rollout->count;
    if (!prompt->answer)
        return;
    result->graded++;
    lb_tokenizer_decode(local->tokenizer, rollout->tokens, rollout->count, true, &text);
    /* A completion that was cut has not answered, whatever its last digits are. */
    if (rollout->stopped && text.data &&
        lb_grade_exact_numeric((const char *)text.data, text.length, prompt->answer))
        result->correct++;
    lb_buf_free(&text);
}

/* The sum of a model's logprobs of a completion after a prompt. */
static lb_status sum_logprobs(const lb_local *local, const lb_prompt *prompt,
                              const uint32_t *completion, uint32_t length, double *sum,
                              lb_err *err)
{
    uint32_t count = prompt->count + length;
    uint32_t *tokens = calloc(count, sizeof *tokens);
    float *logprob = calloc(count, sizeof *logprob);
    lb_status status = LB_OK;
    if (!tokens || !logprob) {
        status = lb_fail(err, LB_ENOMEM, NULL, "no memory for %u tokens", count);
        goto done;
    }
    memcpy(tokens, prompt->tokens, prompt->count * sizeof *tokens);
    memcpy(tokens + prompt->count, completion, length * sizeof *tokens);
    lb_score_request request = {.sequence = {tokens, count}, .start = prompt->count,
                                .logprob = logprob};
    status = lb_model_score(local->model, local->adapter, &request, 1, err);
    *sum = 0;
    for (uint32_t t = 0; status == LB_OK && t < length; t++)
        *sum += (double)logprob[prompt->count + t];
done:
    free(tokens);
    free(logprob);
    return status;
}

/* Adds sum(lp_student - lp_teacher) over the completion's tokens. */
static lb_status add_kl(const lb_local *teacher, const lb_prompt *prompt,
                        const lb_rollout *rollout, eval_result *result, lb_err *err)
{
    double sum = 0;
    lb_status status = sum_logprobs(teacher, prompt, rollout->tokens, rollout->count, &sum, err);
    for (uint32_t t = 0; status == LB_OK && t < rollout->count; t++)
        result->reverse_kl += (double)rollout->logprobs[t];
    result->reverse_kl -= sum;
    return status;
}

static lb_status add_completion(const lb_local *student, const lb_prompt *prompt,
                                eval_result *result, lb_err *err)
{
    double sum = 0;
    if (prompt->completion_count == 0)
        return LB_OK;
    lb_status status = sum_logprobs(student, prompt, prompt->completion, prompt->completion_count,
                                    &sum, err);
    result->completion_tokens += prompt->completion_count;
    result->completion_loss -= sum;
    return status;
}

/* Rolls out prompts [first, first + count) and adds what they show. */
static lb_status eval_wave(const eval_options *o, const lb_local *student,
                           const lb_local *teacher, const lb_dataset *data, size_t first,
                           size_t count, eval_result *result, lb_err *err)
{
    lb_sequence prompts[PROMPTS_AT_ONCE];
    lb_rollout rollouts[PROMPTS_AT_ONCE] = {0};
    for (size_t i = 0; i < count; i++)
        prompts[i] = (lb_sequence){data->prompts[first + i].tokens, data->prompts[first + i].count};
    lb_generate_params params = {
        .sample = {.temperature = (float)o->temperature, .top_p = 1.0f},
        .max_new_tokens = o->max_tokens,
        .seed = o->seed,
        .allowed = student->allowed,
    };
    lb_status status = LB_OK;
    if (o->max_tokens)
        status = lb_model_generate(student->model, student->adapter, prompts, count, 1,
                                   (uint32_t)first, &params, rollouts, err);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; i < count; i++) {
        if (o->max_tokens)
            grade(student, &data->prompts[first + i], &rollouts[i], result);
        else
            result->prompts++;
        if (status == LB_OK && teacher->model && o->max_tokens)
            status = add_kl(teacher, &data->prompts[first + i], &rollouts[i], result, err);
        if (status == LB_OK)
            status = add_completion(student, &data->prompts[first + i], result, err);
        lb_rollout_free(&rollouts[i]);
    }
    return status;
}

static lb_status parse_rows(const eval_options *o, const lb_local *student, const lb_buf *text,
                            lb_dataset *out, lb_err *err)
{
    const lb_model_config *config = lb_model_get_config(student->model);
    lb_chat chat = {0};
    lb_err no_chat = {0};
    /* Rows without messages need no template, so a failure counts only where one has them. */
    lb_status found = lb_local_load_chat(student, o->chat_template, &chat, &no_chat);
    if (o->chat_template && found != LB_OK) {
        if (err)
            *err = no_chat;
        return found;
    }
    lb_dataset_options options = {
        .tokenizer = student->tokenizer,
        .vocab = config->vocab,
        .end = config->eos_count ? config->eos[0] : LB_DATASET_NO_END,
        .chat = found == LB_OK ? &chat : NULL,
        .no_chat = &no_chat,
        .chat_options.date = o->date,
    };
    return lb_dataset_parse_jsonl((const char *)text->data, text->length, &options, out, err);
}

static lb_status eval(const eval_options *o, eval_result *result, lb_err *err)
{
    lb_local student = {0}, teacher = {0};
    lb_buf text = {0};
    lb_dataset data = {0};
    lb_status status = o->data ? LB_OK
                               : lb_fail(err, LB_EINVAL, "data", "--data FILE is required");
    if (status == LB_OK)
        status = lb_local_open(&o->local, true, &student, err);
    if (status == LB_OK && o->teacher) {
        lb_local_options local = {.model = o->teacher, .dtype = o->local.dtype,
                                  .threads = o->local.threads};
        status = lb_local_open(&local, true, &teacher, err);
    }
    if (status == LB_OK && teacher.tokenizer &&
        strcmp(lb_tokenizer_digest(student.tokenizer), lb_tokenizer_digest(teacher.tokenizer)) != 0)
        status = lb_fail(err, LB_EINVAL, "teacher", "its tokenizer is not the student's");
    if (status == LB_OK)
        status = lb_file_read(o->data, DATA_MAX, &text, err);
    if (status == LB_OK)
        status = parse_rows(o, &student, &text, &data, err);
    size_t rows = o->limit && o->limit < data.count ? o->limit : data.count;
    for (size_t first = 0; status == LB_OK && first < rows; first += PROMPTS_AT_ONCE) {
        size_t count = rows - first < PROMPTS_AT_ONCE ? rows - first : PROMPTS_AT_ONCE;
        status = eval_wave(o, &student, &teacher, &data, first, count, result, err);
    }
    result->has_kl = o->teacher != NULL && o->max_tokens > 0;
    lb_dataset_free(&data);
    lb_buf_free(&text);
    lb_local_close(&teacher);
    lb_local_close(&student);
    return status;
}

static double share(double part, double whole)
{
    return whole > 0 ? part / whole : 0.0;
}

static void write_result(const eval_options *o, const eval_result *r, lb_buf *out)
{
    double accuracy = share((double)r->correct, (double)r->graded);
    double teacher_kl = share(r->reverse_kl, (double)r->tokens);
    double completion_loss = share(r->completion_loss, (double)r->completion_tokens);
    if (!o->local.json) {
        lb_buf_printf(out, "prompts          %zu\n", r->prompts);
        if (r->graded)
            lb_buf_printf(out, "accuracy         %.4f (%zu of %zu)\n", accuracy, r->correct,
                          r->graded);
        if (r->tokens)
            lb_buf_printf(out, "stop rate        %.4f\ntokens           %.1f a completion\n",
                          share((double)r->stopped, (double)r->prompts),
                          share((double)r->tokens, (double)r->prompts));
        if (r->has_kl)
            lb_buf_printf(out, "teacher_kl       %.5f nats a token\n", teacher_kl);
        if (r->completion_tokens)
            lb_buf_printf(out, "completion_loss  %.5f nats a token (%llu tokens)\n",
                          completion_loss, (unsigned long long)r->completion_tokens);
        return;
    }
    const struct { const char *key; double value; bool absent; } rows[] = {
        {"prompts", (double)r->prompts, false},
        {"graded", (double)r->graded, false},
        {"correct", (double)r->correct, false},
        {"accuracy", accuracy, r->graded == 0},
        {"stop_rate", share((double)r->stopped, (double)r->prompts), false},
        {"tokens", (double)r->tokens, false},
        {"tokens_per_completion", share((double)r->tokens, (double)r->prompts), false},
        {"teacher_kl", teacher_kl, !r->has_kl},
        {"completion_tokens", (double)r->completion_tokens, false},
        {"completion_loss", completion_loss, r->completion_tokens == 0},
    };
    lb_jsonw w = {.out = out};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "model");
    lb_jsonw_string(&w, o->local.model);
    lb_jsonw_key(&w, "adapter");
    lb_jsonw_string(&w, o->local.adapter);
    lb_jsonw_key(&w, "temperature");
    lb_jsonw_f64(&w, o->temperature);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lb_jsonw_key(&w, rows[i].key);
        if (rows[i].absent)
            lb_jsonw_null(&w);
        else
            lb_jsonw_f64(&w, rows[i].value);
    }
    lb_jsonw_object_end(&w);
    lb_buf_puts(out, "\n");
}

int lb_cmd_eval(int argc, char **argv)
{
    eval_options o = {.temperature = 1.0, .max_tokens = 256};
    const lb_option options[] = {
        LB_LOCAL_OPTIONS(o.local),
        {.name = "data", .type = LB_OPT_STRING, .out = &o.data, .value = "FILE",
         .help = "JSONL with prompt or messages, and answer (required)"},
        {.name = "chat-template", .type = LB_OPT_STRING, .out = &o.chat_template, .value = "NAME",
         .help = "for messages, a known template instead of the model's"},
        {.name = "date", .type = LB_OPT_STRING, .out = &o.date, .value = "'26 Jul 2024'",
         .help = "for messages, today's date; Llama 3.2 needs it"},
        {.name = "teacher", .type = LB_OPT_STRING, .out = &o.teacher, .value = "DIR",
         .help = "also score the completions under this model: teacher_kl"},
        {.name = "temperature", .type = LB_OPT_F64, .out = &o.temperature, .value = "T",
         .help = "0: the likeliest token"},
        {.name = "max-tokens", .type = LB_OPT_U32, .out = &o.max_tokens, .max = NEW_TOKENS_MAX,
         .value = "N", .help = "longest completion; 0: sample none"},
        {.name = "limit", .type = LB_OPT_U32, .out = &o.limit, .max = UINT32_MAX, .value = "N",
         .help = "only the first N prompts; 0: all"},
        {.name = "seed", .type = LB_OPT_U64, .out = &o.seed, .max = UINT64_MAX, .value = "S",
         .help = "of the draws"},
    };
    const lb_command_line line = {
        .program = "limbeck eval",
        .summary = "Samples a completion for every prompt and counts the right answers: the last\n"
                   "number of a completion that ended by itself against the row's \"answer\".\n"
                   "Rows with a \"completion\" also give the model's mean loss on it.",
        .examples = "  limbeck eval --model DIR --data heldout.jsonl\n"
                    "  limbeck eval --model DIR --adapter DIR --teacher DIR --data f.jsonl\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    lb_err err = {0};
    lb_buf out = {0};
    eval_result result = {0};
    if (o.temperature < 0 || o.temperature > 100) {
        lb_fail(&err, LB_EINVAL, "temperature", "%g is outside 0 .. 100", o.temperature);
        return lb_cli_fail(&err);
    }
    lb_status status = eval(&o, &result, &err);
    if (status == LB_OK)
        write_result(&o, &result, &out);
    code = status == LB_OK ? lb_cli_print(&out) : lb_cli_fail(&err);
    lb_buf_free(&out);
    return code;
}
