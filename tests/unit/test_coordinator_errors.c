/* SPDX-License-Identifier: Apache-2.0
 *
 * Requests that the coordinator refuses: the status, and the param that names what was wrong.
 */
#include "common/base/json.h"
#include "common/net/client.h"
#include "server/coordinator/daemon.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/coordinator_fixture.h"

#define METHOD(inner)                                                                         \
    "{\"model\":\"student\",\"training_file\":\"FILE\",\"method\":" inner "}"
#define OPD(inner)                                                                            \
    METHOD("{\"type\":\"on_policy_distillation\",\"on_policy_distillation\":" inner "}")
#define HYPER(inner) OPD("{\"hyperparameters\":{" inner "}}")
#define HYPER_PARAM "method.on_policy_distillation.hyperparameters"
#define SHA_NONE "0000000000000000000000000000000000000000000000000000000000000000"

static const struct error_case {
    const char *method, *path, *body;   /* FILE stands for the uploaded file's id */
    int code;
    const char *param;                  /* NULL: not looked at */
} error_cases[] = {
    {"GET", "/nowhere", NULL, 404, NULL},
    {"DELETE", JOBS, NULL, 405, NULL},
    {"POST", "/v1/files", "", 400, "file"},
    {"POST", "/v1/files?filename=a%2Fb", "x", 400, "filename"},
    {"POST", "/v1/files?purpose=a%20b", "x", 400, "purpose"},
    {"GET", "/v1/files?limit=0", NULL, 400, "limit"},
    {"GET", "/v1/files?limit=101", NULL, 400, "limit"},
    {"GET", "/v1/files?after=file-no", NULL, 400, "after"},
    {"GET", "/v1/files/file-no", NULL, 404, "file"},
    {"GET", "/v1/files/file-no/content", NULL, 404, "file"},
    {"GET", "/v1/files/a%20b", NULL, 404, NULL},
    {"POST", JOBS, "{", 400, NULL},
    {"POST", JOBS, "[]", 400, NULL},
    {"POST", JOBS, "{}", 400, "model"},
    {"POST", JOBS, "{\"model\":7}", 400, "model"},
    {"POST", JOBS, "{\"model\":\"other\"}", 404, "model"},
    {"POST", JOBS, "{\"model\":\"student\"}", 400, "training_file"},
    {"POST", JOBS, "{\"model\":\"student\",\"training_file\":\"file-no\"}", 404, "training_file"},
    {"POST", JOBS, "{\"model\":\"student\",\"training_file\":\"FILE\",\"suffix\":\"a b\"}", 400,
     "suffix"},
    {"POST", JOBS, "{\"model\":\"student\",\"training_file\":\"FILE\",\"metadata\":{\"a\":1}}", 400,
     "metadata"},
    {"POST", JOBS, "{\"model\":\"student\",\"training_file\":\"FILE\"}", 400, "method"},
    {"POST", JOBS, METHOD("{}"), 400, "method.type"},
    {"POST", JOBS, METHOD("{\"type\":\"dpo\"}"), 400, "method.type"},
    {"POST", JOBS, METHOD("{\"type\":\"supervised\"}"), 400, "training_file"},
    {"POST", JOBS, METHOD("{\"type\":\"supervised\",\"supervised\":{\"teacher\":{}}}"), 400,
     "method.supervised.teacher"},
    {"POST", JOBS, METHOD("{\"type\":\"supervised\",\"supervised\":{\"hyperparameters\":"
                          "{\"kl_coef\":1}}}"), 400, "method.supervised.hyperparameters.kl_coef"},
    {"POST", JOBS, METHOD("{\"type\":\"supervised\"},\"from_adapter\":\"a b\""), 400,
     "from_adapter"},
    {"POST", JOBS, METHOD("{\"type\":\"supervised\"},\"chat\":{\"template\":\"no\"}"), 400,
     "chat.template"},
    {"POST", JOBS, METHOD("{\"type\":\"supervised\"},\"chat\":7"), 400, "chat"},
    {"POST", "/v1/runs/ftjob-no/handshake", "{}", 400, "student"},
    {"POST", "/v1/runs/ftjob-no/handshake", "{\"failure\":{}}", 400, "failure.message"},
    {"POST", "/v1/runs/ftjob-no/handshake", "{\"failure\":{\"message\":\"x\"}}", 404, "job"},
    {"POST", "/v1/leases/release", "{\"worker\":\"w\",\"fences\":[1],\"failure\":7}", 400,
     "failure"},
    {"POST", JOBS, OPD("7"), 400, "method.on_policy_distillation"},
    {"POST", JOBS, OPD("{\"teacher\":{}}"), 400, "method.on_policy_distillation.teacher.model"},
    {"POST", JOBS, OPD("{\"teacher\":{\"model\":\"no\"}}"), 404,
     "method.on_policy_distillation.teacher.model"},
    {"POST", JOBS, HYPER("\"max_steps\":0"), 400, HYPER_PARAM ".max_steps"},
    {"POST", JOBS, HYPER("\"surprise\":1"), 400, HYPER_PARAM ".surprise"},
    {"POST", JOBS, HYPER("\"max_completion_tokens\":100000"), 400, NULL},
    {"GET", JOBS "?after=ftjob-no", NULL, 400, "after"},
    {"GET", JOBS "?limit=x", NULL, 400, "limit"},
    {"GET", JOBS "/ftjob-no", NULL, 404, "job"},
    {"GET", JOBS "/a%3Bb", NULL, 400, "job"},
    {"POST", JOBS "/ftjob-no/cancel", "{}", 404, "job"},
    {"GET", JOBS "/ftjob-no/events", NULL, 404, "job"},
    {"GET", JOBS "/JOB/events?after=x", NULL, 400, "after"},
    {"GET", JOBS "/ftjob-no/checkpoints", NULL, 404, "job"},
    {"GET", JOBS "/ftjob-no/metrics", NULL, 404, "job"},
    {"GET", JOBS "/JOB/metrics?after_step=-1", NULL, 400, "after_step"},
    {"GET", JOBS "/JOB/metrics?wait_ms=30001", NULL, 400, "wait_ms"},
    {"GET", "/v1/adapters?job=ftjob-no", NULL, 404, "job"},
    {"GET", "/v1/adapters?after=x-v1", NULL, 400, "after"},
    {"GET", "/v1/adapters/quick-v1", NULL, 404, "adapter"},
    {"GET", "/v1/adapters/quick", NULL, 404, "adapter"},
    {"GET", "/v1/adapters/quick-v00", NULL, 404, "adapter"},
    {"GET", "/v1/adapters/x-v0/adapter_model.safetensors", NULL, 404, "adapter"},
    {"GET", "/v1/adapters/x-v0/adapter_config.json", NULL, 404, "adapter"},
    {"POST", "/v1/leases", "{}", 400, "worker"},
    {"POST", "/v1/leases", "{\"worker\":\"a/b\"}", 400, "worker"},
    {"POST", "/v1/leases", "{\"worker\":\"w\",\"wait_ms\":30001}", 400, "wait_ms"},
    {"POST", "/v1/leases/renew", "{\"worker\":\"w\"}", 400, "fences"},
    {"POST", "/v1/leases/renew", "{\"worker\":\"w\",\"fences\":[0]}", 400, "fences"},
    {"POST", "/v1/leases/release", "{\"worker\":\"w\",\"fences\":[\"1\"]}", 400, "fences"},
    {"GET", "/v1/runs/ftjob-no", NULL, 404, "job"},
    {"GET", "/v1/blobs/xyz", NULL, 400, "sha256"},
    {"GET", "/v1/blobs/" SHA_NONE, NULL, 404, "sha256"},
    {"PUT", "/v1/runs/JOB/steps/x/units/0", "x", 400, "step"},
    {"PUT", "/v1/runs/JOB/steps/0/units/-1", "x", 400, "unit"},
    {"PUT", "/v1/runs/JOB/steps/0/units/0", "x", 400, "X-Fence"},
};

/* Replaces the words FILE and JOB by the ids. */
static void fill_in(const fixture *f, const char *text, char *out, size_t size)
{
    const struct { const char *word, *id; } words[] = {{"FILE", f->file}, {"JOB", f->job}};
    size_t used = 0;
    while (*text && used + 1 < size) {
        size_t w = 0;
        while (w < 2 && strncmp(text, words[w].word, strlen(words[w].word)) != 0)
            w++;
        if (w < 2) {
            used += (size_t)snprintf(out + used, size - used, "%s", words[w].id);
            text += strlen(words[w].word);
        } else {
            out[used++] = *text++;
        }
    }
    out[used < size ? used : size - 1] = 0;
}

static void test_errors_name_their_param(void **state)
{
    fixture *f = *state;
    create(f, "");
    for (size_t i = 0; i < sizeof error_cases / sizeof *error_cases; i++) {
        const struct error_case *c = &error_cases[i];
        char path[300], body[600];
        int code = 0;
        fill_in(f, c->path, path, sizeof path);
        fill_in(f, c->body ? c->body : "", body, sizeof body);
        lb_json *json = ask(f, c->method, path, c->body ? body : NULL,
                            c->body ? strlen(body) : 0, NULL, &code);
        const lb_json *error = lb_json_get(json, "error");
        if (code != c->code || !lb_json_string(lb_json_get(error, "message")))
            fail_msg("%s %s %s: %d %s", c->method, path, body, code, text_of(error, "message"));
        if (c->param && strcmp(text_of(error, "param"), c->param) != 0)
            fail_msg("%s %s %s: param %s (%s)", c->method, path, body, text_of(error, "param"),
                     text_of(error, "message"));
        lb_json_free(json);
    }
}

static void test_bad_prompt_names_the_line(void **state)
{
    fixture *f = *state;
    char body[1200];
    int code = 0;
    lb_json *json = post(f, "/v1/files", "{\"prompt\":\"a\"}\n{\"promt\":\"b\"}\n", 200);
    snprintf(body, sizeof body, JOB_BODY, text_of(json, "id"), "");
    lb_json_free(json);
    json = ask(f, "POST", JOBS, body, strlen(body), NULL, &code);
    assert_int_equal(code, 400);
    const lb_json *error = lb_json_get(json, "error");
    assert_string_equal(text_of(error, "param"), "training_file");
    assert_non_null(strstr(text_of(error, "message"), "line 2"));
    lb_json_free(json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_errors_name_their_param, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_prompt_names_the_line, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
