/* SPDX-License-Identifier: Apache-2.0
 *
 * The teacher's routes over a real socket: replies as the clients of vLLM's teachers read them,
 * the two formats of the native route bit for bit, and every refusal with its field.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/io/file.h"
#include "common/net/client.h"
#include "proto/frames.h"
#include "server/teacher/teacher.h"
#include "tests/unit/teacher_fixture.h"

#include <math.h>
#include <pthread.h>

static fixture tiny, quick;

static int open_teachers(void **state)
{
    (void)state;
    start(&tiny, TINY_DIR, 4096);
    start(&quick, QUICK_DIR, 4096);
    return 0;
}

static int close_teachers(void **state)
{
    (void)state;
    stop(&tiny);
    stop(&quick);
    return 0;
}

static void test_models_and_health(void **state)
{
    (void)state;
    const char *const paths[] = {"/healthz", "/health", "/health/", "/livez", "/readyz"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        lb_json *root = ask_json(&quick, paths[i], NULL, 200);
        assert_string_equal(lb_json_string(lb_json_get(root, "status")), "ok");
        lb_json_free(root);
    }
    lb_json *root = ask_json(&quick, "/v1/models", NULL, 200);
    const lb_json *model = lb_json_at(lb_json_get(root, "data"), 0);
    assert_string_equal(lb_json_string(lb_json_get(model, "id")), "t");
    assert_true(lb_json_is_null(lb_json_get(model, "parent")));
    assert_int_equal(lb_json_integer(lb_json_get(model, "vocab")), 320);
    assert_int_equal(lb_json_integer(lb_json_get(model, "max_model_len")), 128);
    assert_int_equal(lb_json_string_length(lb_json_get(model, "tokenizer_sha256")), 64);
    assert_int_equal(lb_json_string_length(lb_json_get(model, "digest")), 64);
    assert_int_equal(lb_json_integer(lb_json_get(model, "max_logprobs")), 100);
    lb_json_free(root);
}

/* ---- refusals ---- */

typedef struct refusal {
    const char *path, *body;
    int code;
    const char *param;   /* NULL: null */
} refusal;

static const refusal refusals[] = {
    {SCORE, "{", 400, NULL},
    {SCORE, "[]", 400, NULL},
    {SCORE, "{}", 400, "sequences"},
    {SCORE, "{\"sequences\":[]}", 400, "sequences"},
    {SCORE, "{\"sequences\":[7]}", 400, "sequences[0]"},
    {SCORE, "{\"sequences\":[[1],[]]}", 400, "sequences[1]"},
    {SCORE, "{\"sequences\":[[1,96]]}", 400, "sequences[0]"},
    {SCORE, "{\"sequences\":[[1,-1]]}", 400, "sequences[0]"},
    {SCORE, "{\"sequences\":[[1,2.5]]}", 400, "sequences[0]"},
    {SCORE, "{\"sequences\":[[1,4294967296]]}", 400, "sequences[0]"},
    {SCORE, "{\"sequences\":[[1,\"2\"]]}", 400, "sequences[0]"},
    {SCORE, "{\"sequences\":[[1,2]],\"start\":0}", 400, "start"},
    {SCORE, "{\"sequences\":[[1,2]],\"start\":3}", 400, "sequences[0].start"},
    {SCORE, "{\"sequences\":[[1,2]],\"prompt_lengths\":[1,1]}", 400, "prompt_lengths"},
    {SCORE, "{\"sequences\":[[1,2]],\"prompt_lengths\":[0]}", 400, "sequences[0].start"},
    {SCORE, "{\"sequences\":[[1,2]],\"prompt_lengths\":[null]}", 400, "prompt_lengths"},
    {SCORE, "{\"sequences\":[[1,2]],\"k\":97}", 400, "k"},
    {SCORE, "{\"sequences\":[[1,2]],\"k\":-1}", 400, "k"},
    {SCORE, "{\"sequences\":[[1,2]],\"return\":[\"logits\"]}", 400, "return"},
    {SCORE, "{\"sequences\":[[1,2]],\"return\":\"topk\"}", 400, "return"},
    {SCORE, "{\"sequences\":[[1,2]],\"deadline_ms\":0}", 400, "deadline_ms"},
    {SCORE, "{\"sequences\":[[1,2]],\"tokenizer_sha256\":\"00\"}", 400, "tokenizer_sha256"},
    {SCORE, "{\"sequences\":[[1,2]],\"model\":\"other\"}", 404, "model"},
    {SCORE, "{\"sequences\":[[1,2]],\"model\":5}", 400, "model"},
    {COMPLETE, "{}", 400, "prompt"},
    {COMPLETE, "{\"prompt\":[]}", 400, "prompt"},
    {COMPLETE, "{\"prompt\":{}}", 400, "prompt"},
    {COMPLETE, "{\"prompt\":\"text\"}", 400, "prompt"},
    {COMPLETE, "{\"prompt\":[[1],\"text\"]}", 400, "prompt[1]"},
    {COMPLETE, "{\"prompt\":[[1],[]]}", 400, "prompt[1]"},
    {COMPLETE, "{\"prompt\":[[1],[96]]}", 400, "prompt[1]"},
    {COMPLETE, "{\"prompt\":[1,null]}", 400, "prompt"},
    {COMPLETE, "{\"prompt\":[[1],true]}", 400, "prompt[1]"},
    {COMPLETE, "{\"prompt\":[1],\"model\":\"other\"}", 404, "model"},
    {COMPLETE, "{\"prompt\":[1],\"prompt_logprobs\":\"1\"}", 400, "prompt_logprobs"},
    {COMPLETE, "{\"prompt\":[1],\"prompt_logprobs\":1.5}", 400, "prompt_logprobs"},
    {COMPLETE, "{\"prompt\":[1],\"prompt_logprobs\":-2}", 400, "prompt_logprobs"},
    {COMPLETE, "{\"prompt\":[1],\"prompt_logprobs\":101}", 400, "prompt_logprobs"},
    {COMPLETE, "{\"prompt\":[1],\"logprobs\":-1}", 400, "logprobs"},
    {COMPLETE, "{\"prompt\":[1],\"stream\":true}", 400, "stream"},
    {COMPLETE, "{\"prompt\":[1],\"n\":2}", 400, "n"},
    {COMPLETE, "{\"prompt\":[1],\"echo\":1}", 400, "echo"},
    {COMPLETE, "{\"prompt\":[1],\"max_tokens\":-1}", 400, "max_tokens"},
    {COMPLETE, "{\"prompt\":[1],\"max_tokens\":0}", 400, "max_tokens"},
    {COMPLETE, "{\"prompt\":[1],\"max_tokens\":128}", 400, "max_tokens"},
    {COMPLETE, "{\"prompt\":[1],\"max_tokens\":100000}", 400, "max_tokens"},
    {COMPLETE, "{\"prompt\":[1],\"temperature\":-1}", 400, "temperature"},
    {COMPLETE, "{\"prompt\":[1],\"top_p\":0}", 400, "top_p"},
    {COMPLETE, "{\"prompt\":[1],\"top_k\":-2}", 400, "top_k"},
    {COMPLETE, "{\"prompt\":[1],\"stop\":[\"x\"]}", 400, "stop"},
    {COMPLETE, "{\"prompt\":[1],\"logit_bias\":{\"1\":5}}", 400, "logit_bias"},
    {COMPLETE, "{\"prompt\":[1],\"truncate_prompt_tokens\":1}", 400, "truncate_prompt_tokens"},
};

static void test_refusals_name_the_field(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const refusal *r = &refusals[i];
        lb_json *root = ask_json(&tiny, r->path, r->body, r->code);
        const lb_json *error = lb_json_get(root, "error");
        const char *param = lb_json_string(lb_json_get(error, "param"));
        assert_true(lb_json_string_length(lb_json_get(error, "message")) > 0);
        assert_true(lb_json_is_string(lb_json_get(error, "type")));
        if (r->param ? !param || strcmp(param, r->param) != 0 : param != NULL)
            fail_msg("%s %s: param is %s, not %s", r->path, r->body, param ? param : "null",
                     r->param ? r->param : "null");
        if (r->code == 404)
            assert_string_equal(lb_json_string(lb_json_get(error, "code")), "model_not_found");
        lb_json_free(root);
    }
}

static void test_too_large_for_the_queue(void **state)
{
    (void)state;
    fixture f;
    lb_buf body = {0};
    start(&f, TINY_DIR, 16);   /* raised to 128, the longest sequence */
    for (int i = 0; i < 129; i++)
        lb_buf_puts(&body, i ? ",[1]" : "{\"sequences\":[[1]");
    lb_buf_puts(&body, "]}");
    lb_json_free(ask_json(&f, SCORE, (const char *)body.data, 413));
    lb_buf_free(&body);
    lb_json_free(ask_json(&f, SCORE, "{\"sequences\":[[1,2]]}", 200));
    stop(&f);
}

static void test_timeout_header(void **state)
{
    (void)state;
    const char *body = "{\"sequences\":[[1,2]]}";
    const struct { const char *header; int code; } cases[] = {
        {"X-Timeout-Ms: 60000", 200}, {"X-Timeout-Ms: 0", 400}, {"X-Timeout-Ms: soon", 400},
        {"X-Timeout-Ms: -5", 400},    {"X-Timeout-Ms: 99999999999999999999", 400},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_answer answer = send_ask(&tiny, (ask){.path = SCORE, .type = "application/json",
                                                 .header = cases[i].header, .body = body,
                                                 .length = strlen(body)});
        assert_int_equal(answer.code, cases[i].code);
        lb_answer_free(&answer);
    }
}

/* ---- the native route ---- */

static void test_json_and_frames_have_the_same_bits(void **state)
{
    (void)state;
    const uint32_t a[] = {28, 79, 3, 5}, b[] = {25, 19, 87}, c[] = {52};
    lb_frame_sequence sequences[] = {{a, 4, 2}, {b, 3, 1}, {c, 1, 1}};
    lb_score_query query = {.sequences = sequences, .count = 3, .k = 4};
    lb_buf frame = {0};
    lb_score_answer binary = {0};
    lb_err err = {0};
    lb_score_query_encode(&query, &frame);
    lb_answer answer = send_ask(&tiny, (ask){.path = SCORE, .type = "application/octet-stream",
                                             .body = frame.data, .length = frame.length});
    assert_int_equal(answer.code, 200);
    assert_int_equal(lb_score_answer_decode(answer.body.data, answer.body.length, &binary, &err),
                     LB_OK);
    assert_int_equal(binary.vocab, 96);
    lb_json *root = ask_json(&tiny, SCORE,
                             "{\"sequences\":[[28,79,3,5],[25,19,87],[52]],"
                             "\"prompt_lengths\":[2,1,1],\"k\":4,\"return\":[\"tail\"]}", 200);
    for (size_t s = 0; s < 3; s++) {
        const lb_json *node = lb_json_at(lb_json_get(root, "sequences"), s);
        const lb_json *logprobs = lb_json_get(node, "logprobs");
        uint32_t start = sequences[s].start;
        assert_int_equal(lb_json_integer(lb_json_get(node, "start")), start);
        assert_int_equal(lb_json_array_size(logprobs), sequences[s].count);
        assert_int_equal(binary.sequences[s].rows, sequences[s].count - start);
        for (uint32_t t = 0; t < sequences[s].count; t++) {
            if (t < start) {
                assert_true(lb_json_is_null(lb_json_at(logprobs, t)));
                continue;
            }
            float want = binary.sequences[s].actual[t - start];
            assert_true(want < 0 && want == number_at(logprobs, t));
            float tail = binary.sequences[s].tail_mass[t - start];
            assert_true(tail == number_at(lb_json_get(node, "tail_mass"), t));
            for (size_t i = 0; i < 4; i++) {
                size_t at = (size_t)(t - start) * 4 + i;
                assert_true(binary.sequences[s].top_logprob[at] ==
                            number_at(lb_json_at(lb_json_get(node, "top_logprobs"), t), i));
                assert_int_equal(binary.sequences[s].top_id[at],
                                 lb_json_integer(lb_json_at(
                                     lb_json_at(lb_json_get(node, "top_ids"), t), i)));
            }
        }
    }
    lb_json_free(root);
    lb_score_answer_free(&binary);
    lb_answer_free(&answer);
    lb_buf_free(&frame);
}

static void test_accept_chooses_the_format(void **state)
{
    (void)state;
    const char *body = "{\"sequences\":[[28,79]],\"return\":[\"entropy\"]}";
    lb_err err = {0};
    lb_score_answer binary = {0};
    lb_answer answer = send_ask(&tiny, (ask){.path = SCORE, .type = "application/json",
                                             .accept = "application/octet-stream", .body = body,
                                             .length = strlen(body)});
    assert_int_equal(lb_score_answer_decode(answer.body.data, answer.body.length, &binary, &err),
                     LB_OK);
    assert_true(binary.has_entropy);
    assert_true(binary.sequences[0].entropy[0] > 0);
    lb_score_answer_free(&binary);
    lb_answer_free(&answer);
}

static void test_frames_are_checked(void **state)
{
    (void)state;
    const uint32_t a[] = {28, 79, 3, 5}, high[] = {28, 96};
    lb_frame_sequence good = {a, 4, 1}, bad = {high, 2, 1};
    lb_score_query query = {.sequences = &good, .count = 1};
    lb_buf frame = {0};
    lb_score_query_encode(&query, &frame);
    for (size_t length = 1; length < frame.length; length += 3) {
        lb_answer answer = send_ask(&tiny, (ask){.path = SCORE, .body = frame.data,
                                                 .type = "application/octet-stream",
                                                 .length = length});
        assert_int_equal(answer.code, 400);
        lb_answer_free(&answer);
    }
    const struct { lb_frame_sequence *sequence; uint32_t k; uint8_t digest; } cases[] = {
        {&bad, 0, 0}, {&good, 97, 0}, {&good, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        query.sequences = cases[i].sequence;
        query.k = cases[i].k;
        query.tokenizer_digest[0] = cases[i].digest;
        lb_buf_clear(&frame);
        lb_score_query_encode(&query, &frame);
        lb_answer answer = send_ask(&quick, (ask){.path = SCORE, .body = frame.data,
                                                  .type = "application/octet-stream",
                                                  .length = frame.length});
        assert_int_equal(answer.code, i == 2 ? 400 : 200);   /* V is 320 there */
        lb_answer_free(&answer);
        answer = send_ask(&tiny, (ask){.path = SCORE, .body = frame.data,
                                       .type = "application/octet-stream",
                                       .length = frame.length});
        assert_int_equal(answer.code, 400);
        lb_answer_free(&answer);
    }
    lb_buf_free(&frame);
}

/* ---- completions ---- */

/* TRL: a list of id lists, max_tokens 1, prompt_logprobs K; it sorts by rank and looks the actual
 * token up by its id. */
static void test_completions_as_trl_sends_them(void **state)
{
    (void)state;
    lb_json *root = ask_json(&tiny, COMPLETE,
                             "{\"model\":\"t\",\"prompt\":[[28,79],[25,19,87]],\"max_tokens\":1,"
                             "\"temperature\":1.0,\"prompt_logprobs\":2,\"unknown\":{\"a\":1},"
                             "\"stop\":null,\"priority\":0}", 200);
    lb_json *native = ask_json(&tiny, SCORE, "{\"sequences\":[[28,79],[25,19,87]]}", 200);
    const char *const actual[2][3] = {{NULL, "79", NULL}, {NULL, "19", "87"}};
    const size_t counts[] = {2, 3};
    assert_int_equal(lb_json_array_size(lb_json_get(root, "choices")), 2);
    for (size_t c = 0; c < 2; c++) {
        const lb_json *node = choice(root, c), *list = lb_json_get(node, "prompt_logprobs");
        const lb_json *want = lb_json_get(
            lb_json_at(lb_json_get(native, "sequences"), c), "logprobs");
        assert_int_equal(lb_json_integer(lb_json_get(node, "index")), c);
        assert_int_equal(lb_json_array_size(list), counts[c]);
        assert_true(lb_json_is_null(lb_json_at(list, 0)));
        for (size_t t = 1; t < counts[c]; t++) {
            const lb_json *entry = lb_json_at(list, t);
            const lb_json *own = lb_json_get(entry, actual[c][t]);
            size_t size = lb_json_object_size(entry);
            int64_t rank = lb_json_integer(lb_json_get(own, "rank"));
            assert_int_equal(size, rank <= 2 ? 2 : 3);
            assert_true((float)lb_json_number(lb_json_get(own, "logprob")) == number_at(want, t));
        }
        assert_true(lb_json_is_null(lb_json_get(node, "token_ids")));
    }
    const lb_json *usage = lb_json_get(root, "usage");
    assert_int_equal(lb_json_integer(lb_json_get(usage, "prompt_tokens")), 5);
    assert_int_equal(lb_json_integer(lb_json_get(usage, "completion_tokens")), 2);
    lb_json_free(native);
    lb_json_free(root);
}

/* ms-swift: one flat list of ids, temperature 0, prompt_logprobs 0: the actual token alone. */
static void test_completions_as_swift_sends_them(void **state)
{
    (void)state;
    lb_json *root = ask_json(&tiny, COMPLETE,
                             "{\"model\":\"t\",\"prompt\":[25,19,87],\"max_tokens\":1,"
                             "\"temperature\":0,\"prompt_logprobs\":0}", 200);
    const lb_json *list = lb_json_get(choice(root, 0), "prompt_logprobs");
    assert_int_equal(lb_json_array_size(list), 3);
    for (size_t t = 1; t < 3; t++)
        assert_int_equal(lb_json_object_size(lb_json_at(list, t)), 1);
    lb_json_free(root);
}

/* -1 asks for the whole vocabulary: every id once, and the probabilities sum to 1. */
typedef struct mass {
    double sum;
    size_t count;
} mass;

static lb_status add_mass(void *arg, const char *key, const lb_json *value)
{
    mass *m = arg;
    (void)key;
    m->sum += exp(lb_json_number(lb_json_get(value, "logprob")));
    m->count++;
    return LB_OK;
}

static void test_whole_vocabulary(void **state)
{
    (void)state;
    mass m = {0};
    lb_json *root = ask_json(&tiny, COMPLETE,
                             "{\"prompt\":[25,19],\"max_tokens\":0,\"prompt_logprobs\":-1}", 200);
    const lb_json *list = lb_json_get(choice(root, 0), "prompt_logprobs");
    assert_int_equal(lb_json_each(lb_json_at(list, 1), add_mass, &m), LB_OK);
    assert_int_equal(m.count, 96);
    assert_true(fabs(m.sum - 1) < 1e-4);
    lb_json_free(root);
}

/* lm-eval: text, echo, logprobs, nothing to generate. */
static void test_echo_of_text(void **state)
{
    (void)state;
    lb_json *root = ask_json(&quick, COMPLETE,
                             "{\"prompt\":[\"12+30=42\",\"7+5=\"],\"echo\":true,\"logprobs\":2,"
                             "\"max_tokens\":0,\"return_token_ids\":true}", 200);
    const lb_json *node = choice(root, 0), *logprobs = lb_json_get(node, "logprobs");
    assert_string_equal(lb_json_string(lb_json_get(node, "text")), "12+30=42");
    size_t count = lb_json_array_size(lb_json_get(logprobs, "tokens"));
    assert_int_equal(count, lb_json_array_size(lb_json_get(node, "prompt_token_ids")));
    assert_int_equal(lb_json_array_size(lb_json_get(node, "token_ids")), 0);
    const char *const keys[] = {"text_offset", "token_logprobs", "top_logprobs"};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(lb_json_array_size(lb_json_get(logprobs, keys[i])), count);
    assert_true(lb_json_is_null(lb_json_at(lb_json_get(logprobs, "token_logprobs"), 0)));
    assert_true(lb_json_is_null(lb_json_at(lb_json_get(logprobs, "top_logprobs"), 0)));
    size_t offset = 0;
    for (size_t t = 0; t < count; t++) {
        const lb_json *token = lb_json_at(lb_json_get(logprobs, "tokens"), t);
        assert_int_equal(lb_json_integer(lb_json_at(lb_json_get(logprobs, "text_offset"), t)),
                         offset);
        offset += lb_json_string_length(token);
        if (t > 0) {
            const lb_json *top = lb_json_at(lb_json_get(logprobs, "top_logprobs"), t);
            const lb_json *own = lb_json_get(top, lb_json_string(token));
            assert_true(lb_json_number(own) <= 0);
            assert_true(lb_json_object_size(top) >= 2);
        }
    }
    assert_int_equal(offset, strlen("12+30=42"));
    assert_string_equal(lb_json_string(lb_json_get(choice(root, 1), "text")), "7+5=");
    lb_json_free(root);
    root = ask_json(&quick, COMPLETE,
                    "{\"prompt\":\"7+5=\",\"echo\":true,\"logprobs\":1,\"max_tokens\":0,"
                    "\"return_tokens_as_token_ids\":true}", 200);
    logprobs = lb_json_get(choice(root, 0), "logprobs");
    assert_memory_equal(lb_json_string(lb_json_at(lb_json_get(logprobs, "tokens"), 0)),
                        "token_id:", strlen("token_id:"));
    lb_json_free(root);
}

/* A seed repeats a completion, whatever else is asked; its logprobs are those of scoring it. */
static void test_completions_repeat(void **state)
{
    (void)state;
    const char *body = "{\"prompt\":[[25,19,87],[3]],\"max_tokens\":6,\"seed\":5,\"logprobs\":1,"
                       "\"ignore_eos\":true,\"return_token_ids\":true}";
    lb_json *first = ask_json(&tiny, COMPLETE, body, 200);
    lb_json *second = ask_json(&tiny, COMPLETE, body, 200);
    char score[512];
    int n = snprintf(score, sizeof score, "{\"sequences\":[[25,19,87");
    const lb_json *node = choice(first, 0), *ids = lb_json_get(node, "token_ids");
    assert_int_equal(lb_json_array_size(ids), 6);
    for (size_t t = 0; t < 6; t++) {
        int64_t id = lb_json_integer(lb_json_at(ids, t));
        assert_int_equal(id, lb_json_integer(
            lb_json_at(lb_json_get(choice(second, 0), "token_ids"), t)));
        n += snprintf(score + n, sizeof score - (size_t)n, ",%d", (int)id);
    }
    snprintf(score + n, sizeof score - (size_t)n, "]],\"start\":3}");
    lb_json *scored = ask_json(&tiny, SCORE, score, 200);
    const lb_json *want = lb_json_get(lb_json_at(lb_json_get(scored, "sequences"), 0),
                                      "logprobs");
    const lb_json *own = lb_json_get(lb_json_get(node, "logprobs"), "token_logprobs");
    assert_int_equal(lb_json_array_size(own), 6);
    for (size_t t = 0; t < 6; t++)
        assert_true(number_at(own, t) == number_at(want, t + 3));
    assert_string_equal(lb_json_string(lb_json_get(node, "finish_reason")), "length");
    assert_true(lb_json_is_null(lb_json_get(node, "prompt_logprobs")));
    lb_json_free(scored);
    lb_json_free(second);
    lb_json_free(first);
}

static void test_greedy_takes_the_first_rank(void **state)
{
    (void)state;
    lb_json *root = ask_json(&quick, COMPLETE,
                             "{\"prompt\":\"123+456=\",\"max_tokens\":48,\"temperature\":0,"
                             "\"logprobs\":1}", 200);
    const lb_json *node = choice(root, 0), *logprobs = lb_json_get(node, "logprobs");
    size_t count = lb_json_array_size(lb_json_get(logprobs, "tokens"));
    for (size_t t = 0; t < count; t++)   /* the actual token is the top one: nothing beside it */
        assert_int_equal(lb_json_object_size(
            lb_json_at(lb_json_get(logprobs, "top_logprobs"), t)), 1);
    assert_string_equal(lb_json_string(lb_json_get(node, "finish_reason")), "stop");
    /* The teacher of the quickstart can add. */
    assert_non_null(strstr(lb_json_string(lb_json_get(node, "text")), "579"));
    lb_json_free(root);
}

/* ---- the rest ---- */

static void test_metrics(void **state)
{
    (void)state;
    const char *const names[] = {
        "limbeck_teacher_score_requests_total{code=\"200\"}",
        "limbeck_teacher_score_requests_total{code=\"404\"}",
        "limbeck_teacher_scored_tokens_total",
        "limbeck_teacher_queue_tokens 0",
        "limbeck_teacher_batch_tokens_bucket{le=\"+Inf\"}",
        "limbeck_teacher_score_seconds_count",
        "limbeck_build_info{version=",
        "process_resident_memory_bytes",
    };
    lb_json_free(ask_json(&tiny, SCORE, "{\"sequences\":[[1,2]]}", 200));
    lb_json_free(ask_json(&tiny, SCORE, "{\"sequences\":[[1,2]],\"model\":\"x\"}", 404));
    lb_answer answer = send_ask(&tiny, (ask){.path = "/metrics"});
    assert_int_equal(answer.code, 200);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strstr((const char *)answer.body.data, names[i]))
            fail_msg("%s is not in /metrics", names[i]);
    }
    lb_answer_free(&answer);
}

/* Every route is in openapi.yaml under its path. */
static void test_routes_are_described(void **state)
{
    (void)state;
    lb_buf text = {0};
    size_t count = 0;
    assert_int_equal(lb_file_read("proto/openapi.yaml", 1 << 20, &text, NULL), LB_OK);
    const lb_route *routes = lb_teacher_routes(&count);
    for (size_t i = 0; i < count; i++) {
        char line[96];
        snprintf(line, sizeof line, "\n  %s:\n", routes[i].path);
        if (!strstr((const char *)text.data, line))
            fail_msg("%s is not in openapi.yaml", routes[i].path);
    }
    lb_buf_free(&text);
}

static void *ask_slowly(void *arg)
{
    fixture *f = arg;
    char body[4096];
    size_t n = (size_t)snprintf(body, sizeof body, "{\"max_tokens\":60,\"ignore_eos\":true,"
                                                   "\"prompt\":[[1]");
    for (int i = 0; i < 60; i++)
        n += (size_t)snprintf(body + n, sizeof body - n, ",[%d]", i);
    snprintf(body + n, sizeof body - n, "]}");
    lb_err err = {0};
    lb_answer answer = {0};
    lb_call call = {.method = "POST", .path = COMPLETE, .content_type = "application/json",
                    .body = body, .length = strlen(body), .no_retry = true};
    int code = lb_client_call(f->client, &call, &answer, &err) == LB_OK ? answer.code : -1;
    lb_answer_free(&answer);
    return (void *)(intptr_t)code;
}

/* Stopping answers what is open; nobody is left hanging and nothing is freed too early. */
static void test_stop_answers_what_is_open(void **state)
{
    (void)state;
    for (int patience = 0; patience < 2; patience++) {
        fixture f;
        pthread_t thread;
        void *code = NULL;
        uint64_t open = 0;
        start(&f, TINY_DIR, 65536);
        assert_int_equal(pthread_create(&thread, NULL, ask_slowly, &f), 0);
        lb_client_config config = {.url = lb_teacher_url(f.teacher), .user_agent = "test"};
        fixture watch = {0};
        assert_int_equal(lb_client_create(&config, &watch.client, NULL), LB_OK);
        for (int i = 0; i < 1000 && !open; i++) {   /* until it waits for the model */
            lb_answer answer = send_ask(&watch, (ask){.path = "/metrics"});
            open = strstr((const char *)answer.body.data, "queue_tokens 0\n") == NULL;
            lb_answer_free(&answer);
        }
        lb_client_free(watch.client);
        lb_teacher_stop(f.teacher, patience ? 60000 : 0);
        pthread_join(thread, &code);
        if (patience)
            assert_int_equal((intptr_t)code, 200);
        else
            assert_true((intptr_t)code == 503 || (intptr_t)code == 200);
        lb_client_free(f.client);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models_and_health),
        cmocka_unit_test(test_refusals_name_the_field),
        cmocka_unit_test(test_too_large_for_the_queue),
        cmocka_unit_test(test_timeout_header),
        cmocka_unit_test(test_json_and_frames_have_the_same_bits),
        cmocka_unit_test(test_accept_chooses_the_format),
        cmocka_unit_test(test_frames_are_checked),
        cmocka_unit_test(test_completions_as_trl_sends_them),
        cmocka_unit_test(test_completions_as_swift_sends_them),
        cmocka_unit_test(test_whole_vocabulary),
        cmocka_unit_test(test_echo_of_text),
        cmocka_unit_test(test_completions_repeat),
        cmocka_unit_test(test_greedy_takes_the_first_rank),
        cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_routes_are_described),
        cmocka_unit_test(test_stop_answers_what_is_open),
    };
    return cmocka_run_group_tests(tests, open_teachers, close_teachers);
}
