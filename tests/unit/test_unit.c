/* SPDX-License-Identifier: Apache-2.0
 *
 * The worker's unit of work against a teacher that is a function of the test: a teacher equal to
 * the student teaches nothing, the same unit gives the same bytes, and what is no logprob never
 * gets into a gradient.
 */
#include "client/worker/unit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/model/model.h"
#include "common/text/dataset.h"
#include "common/train/plan.h"
#include "proto/frames.h"

#define TINY_DIR "tests/golden/qwen3-tiny"
#define QUICK_DIR "deploy/quickstart/models/student"
#define VOCAB 96u

static const char prompts[] = "{\"prompt_ids\":[28,79,3]}\n{\"prompt_ids\":[5]}\n"
                              "{\"prompt_ids\":[25,19,87,7,9]}\n{\"prompt_ids\":[52,11]}\n"
                              "{\"prompt_ids\":[60,61]}\n";

typedef struct fixture {
    lb_backend *backend;
    lb_model *model;
    lb_adapter *adapter;
    lb_lora_layout layout;
    lb_dataset dataset;
    lb_job_config config;
    unsigned calls, asked;          /* of the teacher; of cancelled */
    unsigned cancel_at;             /* question that is answered with yes; 0: none */
    float spoil;                    /* what the spoiling teacher puts into one entry */
    bool skip;                      /* or it leaves everything out */
} fixture;

/* fresh: as a job begins, B zero, so that the student is the base. */
static void open_adapter(fixture *f, bool fresh)
{
    const lb_model_config *config = lb_model_get_config(f->model);
    assert_int_equal(lb_lora_layout_create(config, &f->config.lora, &f->layout, NULL), LB_OK);
    float *flat = calloc(f->layout.elements, sizeof *flat);
    assert_non_null(flat);
    lb_lora_init(&f->layout, 3, flat);
    for (size_t i = 0; !fresh && i < f->layout.elements; i++)   /* B after some steps */
        flat[i] += 0.02f * sinf((float)i);
    assert_int_equal(lb_adapter_create(f->model, &f->layout, flat, &f->adapter, NULL), LB_OK);
    free(flat);
}

static void open_fixture(fixture *f, const char *dir, uint32_t threads, uint32_t max_tokens)
{
    lb_err err = {0};
    lb_model_options options = {.dtype = LB_F32, .trainable = true, .max_tokens = max_tokens};
    *f = (fixture){0};
    f->config = (lb_job_config){
        .seed = 11, .max_steps = 10, .batch_size = 4, .samples_per_prompt = 3,
        .units_per_step = 2, .max_completion_tokens = 9, .temperature = 1.0,
        .loss = lb_loss_defaults(LB_LOSS_IMPORTANCE_SAMPLING),
        .lora = {.rank = 2, .alpha = 4, .targets = LB_LORA_ALL_TARGETS},
    };
    assert_int_equal(lb_backend_open("cpu", threads, NULL, &f->backend, &err), LB_OK);
    if (lb_model_load(f->backend, dir, &options, &f->model, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    open_adapter(f, strcmp(dir, QUICK_DIR) == 0);
    lb_dataset_options rows = {.vocab = VOCAB, .end = LB_DATASET_NO_END};
    assert_int_equal(lb_dataset_parse_jsonl(prompts, strlen(prompts), &rows, &f->dataset,
                                            &err), LB_OK);
}

static void close_fixture(fixture *f)
{
    lb_dataset_free(&f->dataset);
    lb_adapter_free(f->adapter);
    lb_lora_layout_free(&f->layout);
    lb_model_free(f->model);
    lb_backend_close(f->backend);
}

/* ---- teachers ---- */

static lb_status score(fixture *f, const lb_adapter *adapter, lb_unit_query *queries,
                       size_t count, lb_err *err)
{
    lb_score_request *requests = calloc(count, sizeof *requests);
    assert_non_null(requests);
    f->calls++;
    for (size_t i = 0; i < count; i++)
        requests[i] = (lb_score_request){.sequence = queries[i].sequence,
                                         .start = queries[i].start,
                                         .logprob = queries[i].logprobs};
    lb_status status = lb_model_score(f->model, adapter, requests, count, err);
    free(requests);
    return status;
}

static lb_status teacher_is_student(void *arg, lb_unit_query *queries, size_t count, lb_err *err)
{
    fixture *f = arg;
    return score(f, f->adapter, queries, count, err);
}

static lb_status teacher_is_base(void *arg, lb_unit_query *queries, size_t count, lb_err *err)
{
    return score(arg, NULL, queries, count, err);
}

static lb_status teacher_spoils(void *arg, lb_unit_query *queries, size_t count, lb_err *err)
{
    fixture *f = arg;
    if (f->skip)
        return LB_OK;
    lb_status status = score(f, NULL, queries, count, err);
    lb_unit_query *last = &queries[count - 1];
    last->logprobs[last->sequence.count - 1] = f->spoil;
    return status;
}

static lb_status teacher_fails(void *arg, lb_unit_query *queries, size_t count, lb_err *err)
{
    (void)arg;
    (void)queries;
    (void)count;
    return lb_fail(err, LB_EUNAVAILABLE, "teacher", "is away");
}

static bool cancelled(void *arg)
{
    fixture *f = arg;
    return ++f->asked == f->cancel_at;
}

static lb_unit unit_of(fixture *f, uint32_t step, uint32_t unit, lb_unit_teacher teacher)
{
    return (lb_unit){.config = &f->config, .dataset = &f->dataset, .model = f->model,
                     .adapter = f->adapter, .elements = f->layout.elements, .step = step,
                     .unit = unit, .teacher = teacher, .teacher_arg = f,
                     .cancelled = cancelled, .cancel_arg = f};
}

static lb_buf run(fixture *f, uint32_t step, uint32_t unit, lb_unit_teacher teacher)
{
    lb_buf frame = {0};
    lb_err err = {0};
    lb_unit u = unit_of(f, step, unit, teacher);
    if (lb_unit_run(&u, &frame, NULL, &err) != LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    return frame;
}

static lb_unit_result decode(const fixture *f, const lb_buf *frame)
{
    lb_unit_result result = {0};
    lb_err err = {0};
    if (lb_unit_result_decode(frame->data, frame->length, f->layout.elements, &result, &err) !=
        LB_OK)
        fail_msg("%s: %s", err.field, err.message);
    return result;
}

/* ---- tests ---- */

static void test_a_teacher_equal_to_the_student_teaches_nothing(void **state)
{
    (void)state;
    for (int kind = LB_LOSS_IMPORTANCE_SAMPLING; kind <= LB_LOSS_DRO; kind++) {
        fixture f;
        open_fixture(&f, TINY_DIR, 1, 0);
        f.config.loss = lb_loss_defaults((lb_loss_kind)kind);
        lb_buf frame = run(&f, 1, 0, teacher_is_student);
        lb_unit_result r = decode(&f, &frame);
        assert_int_equal(f.calls, 1);
        assert_true(r.tokens > 0);
        for (size_t i = 0; i < f.layout.elements; i++)
            assert_true(r.gradient[i] == 0.0f);
        assert_true(r.metrics[LB_METRIC_REVERSE_KL] == 0);
        assert_true(r.metrics[LB_METRIC_NOISE_MAX] == 0);
        assert_true(r.metrics[LB_METRIC_RATIO_MAX] == 1);
        assert_true(r.metrics[LB_METRIC_LOG_RATIO_SQUARE] == 0);
        lb_unit_result_free(&r);
        lb_buf_free(&frame);
        close_fixture(&f);
    }
}

static void test_metrics_count_the_rollouts(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, TINY_DIR, 1, 0);
    lb_buf frame = run(&f, 2, 1, teacher_is_base);
    lb_unit_result r = decode(&f, &frame);
    const double *m = r.metrics;
    uint32_t rows[2];
    lb_plan_unit(&f.config, f.dataset.count, 2, 1, rows);
    uint32_t prompt_tokens = 3 * (f.dataset.prompts[rows[0]].count +
                                  f.dataset.prompts[rows[1]].count);
    assert_int_equal(r.step, 2);
    assert_int_equal(r.unit, 1);
    assert_true(m[LB_METRIC_ROLLOUTS] == 6);
    assert_true(m[LB_METRIC_PROMPT_TOKENS] == prompt_tokens);
    assert_true(m[LB_METRIC_LENGTH_MAX] >= 1 && m[LB_METRIC_LENGTH_MAX] <= 9);
    assert_true(r.tokens >= 6 && r.tokens <= 6 * 9);
    assert_true(m[LB_METRIC_GRADED] == 0 && m[LB_METRIC_CORRECT] == 0);
    assert_true(m[LB_METRIC_REVERSE_KL] > 0 || m[LB_METRIC_REVERSE_KL] < 0);
    assert_true(m[LB_METRIC_ADVANTAGE_MIN] <= m[LB_METRIC_ADVANTAGE_MAX]);
    /* On its own rollouts the trainer computes the sampler's very bits. */
    assert_true(m[LB_METRIC_NOISE_MAX] == 0);
    double largest = 0;
    for (size_t i = 0; i < f.layout.elements; i++)
        largest = fmax(largest, fabs((double)r.gradient[i]));
    assert_true(largest > 0);
    lb_unit_result_free(&r);
    lb_buf_free(&frame);
    close_fixture(&f);
}

/* Neither what ran before, nor threads, nor the rows of a pass show in the bytes. */
static void test_bytes_depend_on_the_unit_alone(void **state)
{
    (void)state;
    fixture f, other;
    open_fixture(&f, TINY_DIR, 1, 0);
    open_fixture(&other, TINY_DIR, 3, 8);
    lb_buf first = run(&f, 4, 1, teacher_is_base), unit = run(&f, 4, 0, teacher_is_base);
    lb_buf step = run(&f, 5, 1, teacher_is_base), again = run(&f, 4, 1, teacher_is_base);
    lb_buf elsewhere = run(&other, 4, 1, teacher_is_base);
    assert_int_equal(first.length, again.length);
    assert_memory_equal(first.data, again.data, first.length);
    assert_int_equal(first.length, elsewhere.length);
    assert_memory_equal(first.data, elsewhere.data, first.length);
    assert_true(memcmp(first.data, unit.data, first.length) != 0);
    assert_true(memcmp(first.data, step.data, first.length) != 0);
    lb_buf_free(&first), lb_buf_free(&unit), lb_buf_free(&step), lb_buf_free(&again);
    lb_buf_free(&elsewhere);
    close_fixture(&other);
    close_fixture(&f);
}

/* From the same prompt, every step and every unit draws anew. */
static void test_every_unit_draws_its_own(void **state)
{
    (void)state;
    const size_t head = 16;   /* magic, version, flags, step, unit */
    fixture f;
    open_fixture(&f, TINY_DIR, 1, 0);
    size_t rows = f.dataset.count;
    f.dataset.count = 1;
    lb_buf a = run(&f, 4, 0, teacher_is_base), b = run(&f, 5, 0, teacher_is_base),
           c = run(&f, 4, 1, teacher_is_base);
    assert_true(memcmp(a.data + head, b.data + head, a.length - head) != 0);
    assert_true(memcmp(a.data + head, c.data + head, a.length - head) != 0);
    lb_buf_free(&a), lb_buf_free(&b), lb_buf_free(&c);
    f.dataset.count = rows;
    close_fixture(&f);
}

/* A step has the same rollouts however it is cut into units. */
static void test_units_add_up_to_the_step(void **state)
{
    (void)state;
    fixture f;
    uint64_t tokens[2] = {0};
    double kl[2] = {0}, gradient[2] = {0};
    open_fixture(&f, TINY_DIR, 1, 0);
    for (int cut = 0; cut < 2; cut++) {
        f.config.units_per_step = cut ? 4 : 1;
        for (uint32_t u = 0; u < f.config.units_per_step; u++) {
            lb_buf frame = run(&f, 3, u, teacher_is_base);
            lb_unit_result r = decode(&f, &frame);
            tokens[cut] += r.tokens;
            kl[cut] += r.metrics[LB_METRIC_REVERSE_KL];
            for (size_t i = 0; i < f.layout.elements; i++)
                gradient[cut] += (double)r.gradient[i];
            lb_unit_result_free(&r);
            lb_buf_free(&frame);
        }
    }
    assert_int_equal(tokens[0], tokens[1]);
    assert_true(fabs(kl[0] - kl[1]) < 1e-9 * fabs(kl[0]));   /* sums in another order */
    assert_true(fabs(gradient[0] - gradient[1]) < 1e-3 * (1 + fabs(gradient[0])));
    close_fixture(&f);
}

/* A supervised unit: the gradient of the completions' summed negative logprob, no teacher, and
 * a loss that is what the scorer says. */
static void test_supervised(void **state)
{
    (void)state;
    static const char text[] = "{\"prompt_ids\":[3,4,5],\"completion_ids\":[6,7,1]}\n"
                               "{\"prompt_ids\":[8],\"completion_ids\":[9,10]}\n";
    fixture f;
    lb_err err = {0};
    lb_dataset_options options = {.vocab = VOCAB, .completions = true};
    open_fixture(&f, TINY_DIR, 1, 0);
    lb_dataset_free(&f.dataset);
    assert_int_equal(lb_dataset_parse_jsonl(text, strlen(text), &options, &f.dataset, &err), LB_OK);
    f.config = (lb_job_config){
        .method = LB_METHOD_SUPERVISED, .seed = 3, .max_steps = 1, .batch_size = 2,
        .samples_per_prompt = 1, .units_per_step = 1, .temperature = 1.0,
        .loss = lb_loss_defaults(LB_LOSS_CROSS_ENTROPY),
        .lora = {.rank = 2, .alpha = 4, .targets = LB_LORA_ALL_TARGETS},
    };
    lb_buf frame = run(&f, 0, 0, NULL);
    lb_unit_result r = decode(&f, &frame);
    double loss = 0;
    for (size_t i = 0; i < f.dataset.count; i++) {
        const lb_prompt *row = &f.dataset.prompts[i];
        uint32_t tokens[6];
        float logprob[6];
        memcpy(tokens, row->tokens, row->count * sizeof *tokens);
        memcpy(tokens + row->count, row->completion, row->completion_count * sizeof *tokens);
        lb_score_request request = {.sequence = {tokens, row->count + row->completion_count},
                                    .start = row->count, .logprob = logprob};
        assert_int_equal(lb_model_score(f.model, f.adapter, &request, 1, &err), LB_OK);
        for (uint32_t t = row->count; t < request.sequence.count; t++)
            loss -= (double)logprob[t];
    }
    assert_int_equal(r.tokens, 5);
    assert_int_equal(f.calls, 0);
    assert_true(fabs(r.metrics[LB_METRIC_LOSS] - loss) < 1e-9 * loss);
    double size = 0;
    for (size_t i = 0; i < f.layout.elements; i++)
        size += fabs((double)r.gradient[i]);
    assert_true(size > 0);
    lb_unit_result_free(&r);
    lb_buf_free(&frame);
    /* A row without a completion cannot be trained on. */
    f.dataset.prompts[1].completion_count = 0;
    lb_unit bad = unit_of(&f, 0, 0, NULL);
    assert_int_equal(lb_unit_run(&bad, &frame, NULL, &err), LB_EDATA);
    assert_string_equal(err.field, "dataset");
    lb_buf_free(&frame);
    close_fixture(&f);
}

static void test_what_is_no_logprob_fails_the_unit(void **state)
{
    (void)state;
    const float values[] = {NAN, INFINITY, -INFINITY, 0.5f, 0.0f, -3.0f};
    fixture f;
    open_fixture(&f, TINY_DIR, 1, 0);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        lb_buf frame = {0};
        lb_err err = {0};
        lb_unit u = unit_of(&f, 0, 0, teacher_spoils);
        f.spoil = values[i];
        lb_status status = lb_unit_run(&u, &frame, NULL, &err);
        if (isfinite(values[i]) && values[i] <= 0) {
            assert_int_equal(status, LB_OK);
        } else {
            assert_int_equal(status, LB_EDATA);
            assert_string_equal(err.field, "teacher_logprobs");
            assert_non_null(strstr(err.message, "rollout 5"));
            assert_int_equal(frame.length, 0);
        }
        lb_buf_free(&frame);
    }
    lb_buf frame = {0};
    lb_unit u = unit_of(&f, 0, 0, teacher_spoils);
    f.skip = true;
    assert_int_equal(lb_unit_run(&u, &frame, NULL, NULL), LB_EDATA);
    close_fixture(&f);
}

static void test_refusals(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, TINY_DIR, 1, 0);
    const struct {
        double temperature;
        uint32_t unit;
        lb_unit_teacher teacher;
        lb_status status;
        const char *field;
    } cases[] = {
        {0.7, 0, teacher_is_base, LB_EUNSUPPORTED, "temperature"},
        {1.1, 0, teacher_is_base, LB_EUNSUPPORTED, "temperature"},
        {NAN, 0, teacher_is_base, LB_EUNSUPPORTED, "temperature"},
        {1.0, 2, teacher_is_base, LB_EINVAL, "unit"},
        {1.0, 0, teacher_fails, LB_EUNAVAILABLE, "teacher"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_buf frame = {0};
        lb_err err = {0};
        f.config.temperature = cases[i].temperature;
        lb_unit u = unit_of(&f, 0, cases[i].unit, cases[i].teacher);
        assert_int_equal(lb_unit_run(&u, &frame, NULL, &err), cases[i].status);
        assert_string_equal(err.field, cases[i].field);
        assert_int_equal(frame.length, 0);
        lb_buf_free(&frame);
    }
    close_fixture(&f);
}

/* Whenever the answer to "is it cancelled?" becomes yes, the unit ends with nothing. */
static void test_cancel_at_every_question(void **state)
{
    (void)state;
    fixture f;
    open_fixture(&f, TINY_DIR, 1, 0);
    lb_buf whole = run(&f, 0, 0, teacher_is_base);
    unsigned questions = f.asked;
    lb_unit_result r = decode(&f, &whole);
    /* Before each token is drawn, and before each rollout's loss. */
    assert_true(questions >= r.metrics[LB_METRIC_LENGTH_MAX] + r.metrics[LB_METRIC_ROLLOUTS]);
    lb_unit_result_free(&r);
    lb_buf_free(&whole);
    for (unsigned at = 1; at <= questions; at++) {
        lb_buf frame = {0};
        lb_err err = {0};
        lb_unit u = unit_of(&f, 0, 0, teacher_is_base);
        f.asked = 0;
        f.cancel_at = at;
        assert_int_equal(lb_unit_run(&u, &frame, NULL, &err), LB_ECANCELLED);
        assert_int_equal(frame.length, 0);
        lb_buf_free(&frame);
    }
    close_fixture(&f);
}

/* With real text: answers are graded, a rollout that was cut off is wrong whatever it holds, and
 * only ids that mean something are drawn. */
static void test_grading_and_allowed_ids(void **state)
{
    (void)state;
    /* The way to 579 begins with "3+6=9": cut after one token, the completion is a 3. */
    const char *const rows[] = {
        "{\"prompt\":\"123+456=\",\"answer\":\"3\"}\n{\"prompt\":\"1+1=\"}\n",
        "{\"prompt\":\"123+456=\",\"answer\":\"579\"}\n{\"prompt\":\"1+1=\"}\n",
    };
    const uint32_t lengths[] = {1, 48};
    lb_tokenizer *tokenizer = NULL;
    lb_err err = {0};
    fixture f;
    open_fixture(&f, QUICK_DIR, 1, 0);
    const lb_model_config *config = lb_model_get_config(f.model);
    uint8_t *allowed = calloc(config->vocab, 1);
    assert_int_equal(lb_tokenizer_load(QUICK_DIR, &tokenizer, &err), LB_OK);
    lb_unit_allowed(tokenizer, config, allowed);
    for (uint32_t id = 0; id < config->vocab; id++) {
        bool text = lb_tokenizer_has_text(tokenizer, id);
        bool special = lb_tokenizer_is_special(tokenizer, id);
        assert_int_equal(allowed[id], (text && !special) || lb_config_is_eos(config, id));
    }
    assert_int_equal(allowed[config->eos[0]], 1);
    f.config.units_per_step = 1;
    f.config.batch_size = 2;
    f.config.samples_per_prompt = 8;
    for (size_t i = 0; i < 2; i++) {
        lb_buf frame = {0};
        lb_dataset_free(&f.dataset);
        lb_dataset_options options = {.tokenizer = tokenizer, .vocab = config->vocab,
                                      .end = LB_DATASET_NO_END};
        assert_int_equal(lb_dataset_parse_jsonl(rows[i], strlen(rows[i]), &options, &f.dataset,
                                                &err), LB_OK);
        f.config.max_completion_tokens = lengths[i];
        lb_unit u = unit_of(&f, 0, 0, teacher_is_base);
        u.grader = tokenizer;
        u.allowed = allowed;
        assert_int_equal(lb_unit_run(&u, &frame, NULL, &err), LB_OK);
        lb_unit_result r = decode(&f, &frame);
        assert_true(r.metrics[LB_METRIC_GRADED] == 8);   /* of 16: one prompt has an answer */
        assert_true(r.metrics[LB_METRIC_CORRECT] <= r.metrics[LB_METRIC_STOPPED]);
        /* The quickstart's student is right about half of the time. */
        if (lengths[i] == 1)
            assert_true(r.metrics[LB_METRIC_CORRECT] == 0);
        else
            assert_true(r.metrics[LB_METRIC_CORRECT] > 0);
        lb_unit_result_free(&r);
        lb_buf_free(&frame);
    }
    free(allowed);
    lb_tokenizer_free(tokenizer);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_supervised),
        cmocka_unit_test(test_a_teacher_equal_to_the_student_teaches_nothing),
        cmocka_unit_test(test_metrics_count_the_rollouts),
        cmocka_unit_test(test_bytes_depend_on_the_unit_alone),
        cmocka_unit_test(test_every_unit_draws_its_own),
        cmocka_unit_test(test_units_add_up_to_the_step),
        cmocka_unit_test(test_what_is_no_logprob_fails_the_unit),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cancel_at_every_question),
        cmocka_unit_test(test_grading_and_allowed_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
