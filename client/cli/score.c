/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/cli.h"

#include <stdlib.h>
#include <string.h>

static void write_json(const char *model, const lb_tokens *tokens, const float *logprob,
                       lb_buf *out)
{
    lb_jsonw w = {.out = out};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "model");
    lb_jsonw_string(&w, model);
    lb_jsonw_key(&w, "tokens");
    lb_jsonw_array(&w);
    for (size_t t = 0; t < tokens->count; t++)
        lb_jsonw_u64(&w, tokens->ids[t]);
    lb_jsonw_array_end(&w);
    lb_jsonw_key(&w, "logprobs");
    lb_jsonw_array(&w);
    for (size_t t = 0; t < tokens->count; t++)
        lb_jsonw_f32(&w, logprob[t]);    /* entry 0 is NaN, which is written as null */
    lb_jsonw_array_end(&w);
    lb_jsonw_object_end(&w);
    lb_buf_puts(out, "\n");
}

static void write_table(const lb_local *local, const lb_tokens *tokens, const float *logprob,
                        lb_buf *out)
{
    lb_table table = {.columns = 4};
    lb_table_cell(&table, "position");
    lb_table_cell(&table, "token");
    lb_table_cell(&table, "logprob");
    lb_table_cell(&table, "text");
    for (size_t t = 0; t < tokens->count; t++) {
        lb_buf text = {0}, quoted = {0};
        lb_jsonw w = {.out = &quoted};
        if (local->tokenizer)
            lb_tokenizer_piece(local->tokenizer, tokens->ids[t], &text);
        lb_jsonw_string_n(&w, text.data ? (const char *)text.data : "", text.length);
        lb_table_cell(&table, "%zu", t);
        lb_table_cell(&table, "%u", tokens->ids[t]);
        if (t == 0)
            lb_table_cell(&table, "-");
        else
            lb_table_cell(&table, "%.6f", (double)logprob[t]);
        lb_table_cell(&table, "%s", quoted.data ? (const char *)quoted.data : "");
        lb_buf_free(&text);
        lb_buf_free(&quoted);
    }
    lb_table_render(&table, out);
}

/* Opens the model and puts the tokens to score into *tokens. */
static lb_status prepare(const lb_local_options *options, const char *list, const char *text,
                         lb_local *local, lb_tokens *tokens, lb_err *err)
{
    if (!list == !text)
        return lb_fail(err, LB_EINVAL, "tokens", "give either --tokens or --text");
    lb_status status = list ? lb_parse_token_list(list, tokens, err) : LB_OK;
    if (status == LB_OK)
        status = lb_local_open(options, text || !options->json, local, err);
    if (status == LB_OK && text)
        status = lb_tokenizer_encode(local->tokenizer, text, strlen(text), false, true, tokens,
                                     err);
    if (status == LB_OK && tokens->count == 0)
        status = lb_fail(err, LB_EINVAL, "tokens", "there is nothing to score");
    return status;
}

int lb_cmd_score(int argc, char **argv)
{
    lb_local_options o = {0};
    const char *list = NULL, *text = NULL;
    const lb_option options[] = {
        LB_LOCAL_OPTIONS(o),
        {.name = "tokens", .type = LB_OPT_STRING, .out = &list, .value = "1,2,3",
         .help = "token ids"},
        {.name = "text", .type = LB_OPT_STRING, .out = &text, .value = "TEXT",
         .help = "text, tokenised without special tokens"},
    };
    const lb_command_line line = {
        .program = "limbeck score",
        .summary = "Prints log p(token | the tokens before it) for every token of a sequence.",
        .examples = "  limbeck score --model DIR --tokens 1,2,3 --json\n"
                    "  limbeck score --model DIR --adapter DIR --text '12+30='\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    lb_err err = {0};
    lb_local local = {0};
    lb_tokens tokens = {0};
    lb_buf out = {0};
    float *logprob = NULL;
    lb_status status = prepare(&o, list, text, &local, &tokens, &err);
    if (status != LB_OK)
        goto done;
    logprob = calloc(tokens.count, sizeof *logprob);
    if (!logprob) {
        status = lb_fail(&err, LB_ENOMEM, NULL, "no memory for %zu tokens", tokens.count);
        goto done;
    }
    lb_score_request request = {.sequence = {tokens.ids, (uint32_t)tokens.count}, .start = 1,
                                .logprob = logprob};
    status = lb_model_score(local.model, local.adapter, &request, 1, &err);
    if (status != LB_OK)
        goto done;
    if (o.json)
        write_json(o.model, &tokens, logprob, &out);
    else
        write_table(&local, &tokens, logprob, &out);
done:
    code = status == LB_OK ? lb_cli_print(&out) : lb_cli_fail(&err);
    free(logprob);
    lb_buf_free(&out);
    lb_tokens_free(&tokens);
    lb_local_close(&local);
    return code;
}
