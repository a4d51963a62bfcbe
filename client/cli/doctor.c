/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/doctor.h"
#include "client/cli/cli.h"
#include "common/io/file.h"
#include "common/io/hub.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define KEY_MAX 512
#define TIMEOUT_SECONDS 30
#define TOTAL_SECONDS 300

static const char *const verdict_names[] = {"ok", "note", "FAIL"};

void lb_doctor_find(lb_doctor *doctor, lb_verdict verdict, const char *subject,
                    const char *format, ...)
{
    /* The last place is kept for a failure: more of the rest tells nothing new. */
    if (doctor->count >= LB_FINDINGS_MAX - (verdict != LB_VERDICT_FAIL))
        return;
    lb_finding *f = &doctor->findings[doctor->count++];
    va_list args;
    f->verdict = verdict;
    snprintf(f->subject, sizeof f->subject, "%s", subject);
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
    /* A hostile peer must not write to the terminal. */
    for (char *c = f->text; *c; c++) {
        if (*c < ' ' || *c > '~')
            *c = '?';
    }
    if (doctor->live) {
        fprintf(doctor->live, "%-4s  %s: %s\n", verdict_names[verdict], f->subject, f->text);
        fflush(doctor->live);
    }
}

void lb_doctor_measure(lb_doctor *doctor, const char *name, double value)
{
    if (doctor->measure_count == LB_MEASURES_MAX)
        return;
    doctor->measures[doctor->measure_count].name = name;
    doctor->measures[doctor->measure_count++].value = value;
}

const lb_finding *lb_doctor_worst(const lb_doctor *doctor, const char *subject)
{
    const lb_finding *worst = NULL;
    for (size_t i = 0; i < doctor->count; i++) {
        const lb_finding *f = &doctor->findings[i];
        if ((!subject || strcmp(f->subject, subject) == 0) &&
            (!worst || f->verdict > worst->verdict))
            worst = f;
    }
    return worst;
}

static void write_json(const lb_doctor *doctor, const char *target, bool model, lb_buf *out)
{
    const lb_finding *worst = lb_doctor_worst(doctor, NULL);
    lb_jsonw w = {.out = out};
    lb_jsonw_object(&w);
    lb_jsonw_key(&w, "target");
    lb_jsonw_string(&w, target);
    lb_jsonw_key(&w, "kind");
    lb_jsonw_string(&w, model ? "model" : "teacher");
    lb_jsonw_key(&w, "verdict");
    lb_jsonw_string(&w, verdict_names[worst ? worst->verdict : LB_VERDICT_OK]);
    lb_jsonw_key(&w, "findings");
    lb_jsonw_array(&w);
    for (size_t i = 0; i < doctor->count; i++) {
        lb_jsonw_object(&w);
        lb_jsonw_key(&w, "verdict");
        lb_jsonw_string(&w, verdict_names[doctor->findings[i].verdict]);
        lb_jsonw_key(&w, "subject");
        lb_jsonw_string(&w, doctor->findings[i].subject);
        lb_jsonw_key(&w, "text");
        lb_jsonw_string(&w, doctor->findings[i].text);
        lb_jsonw_object_end(&w);
    }
    lb_jsonw_array_end(&w);
    lb_jsonw_key(&w, "measured");
    lb_jsonw_object(&w);
    for (size_t i = 0; i < doctor->measure_count; i++) {
        lb_jsonw_key(&w, doctor->measures[i].name);
        lb_jsonw_f64(&w, doctor->measures[i].value);
    }
    lb_jsonw_object_end(&w);
    lb_jsonw_object_end(&w);
    lb_buf_puts(out, "\n");
}

static lb_status examine(const char *target, bool model, lb_doctor_options *o,
                         const char *key_file, lb_doctor *doctor, lb_err *err)
{
    char key[KEY_MAX] = "", path[LB_PATH_MAX];
    if (model) {
        lb_status status = lb_hub_find(getenv, target, path, sizeof path, err);
        return status == LB_OK ? lb_doctor_model(path, doctor, err) : status;
    }
    if (key_file) {
        lb_status status = lb_key_load(key_file, key, sizeof key, err);
        if (status != LB_OK)
            return status;
        o->key = key;
    }
    o->url = target;
    return lb_doctor_teacher(o, doctor, err);
}

static int run(const char *target, lb_doctor_options *o, const char *key_file, bool json)
{
    lb_err err = {0};
    lb_buf out = {0};
    bool model = !strstr(target, "://");
    int code = LB_EXIT_OK;
    lb_doctor *doctor = calloc(1, sizeof *doctor);
    if (!doctor) {
        lb_fail(&err, LB_ENOMEM, NULL, "no memory for the findings");
        return lb_cli_fail(&err);
    }
    doctor->live = json ? NULL : stdout;
    if (examine(target, model, o, key_file, doctor, &err) != LB_OK) {
        code = lb_cli_fail(&err);
    } else {
        const lb_finding *worst = lb_doctor_worst(doctor, NULL);
        if (json)
            write_json(doctor, target, model, &out);
        code = lb_cli_print(&out);
        if (code == LB_EXIT_OK && worst && worst->verdict == LB_VERDICT_FAIL)
            code = LB_EXIT_FAILURE;
    }
    lb_buf_free(&out);
    free(doctor);
    return code;
}

int lb_cmd_doctor(int argc, char **argv)
{
    lb_doctor_options o = {.repeat = 8};
    const char *key_file = NULL, *target = NULL;
    uint32_t timeout = TIMEOUT_SECONDS, total = TOTAL_SECONDS;
    bool json = false;
    const lb_option options[] = {
        {.name = "key-file", .type = LB_OPT_STRING, .out = &key_file, .value = "FILE",
         .help = "file with the key to present to the teacher"},
        {.name = "model", .type = LB_OPT_STRING, .out = &o.model, .value = "NAME",
         .help = "the teacher's model (default: the first that it lists)"},
        {.name = "tokens", .type = LB_OPT_STRING, .out = &o.tokens, .value = "IDS",
         .help = "the probe, \"1,2,3\" (default: 24 ids below 200)"},
        {.name = "repeat", .type = LB_OPT_U32, .out = &o.repeat, .min = 2, .max = 1000,
         .value = "N", .help = "tries for the noise floor"},
        {.name = "timeout", .type = LB_OPT_U32, .out = &timeout, .min = 1, .max = 3600,
         .value = "SECONDS", .help = "of one call"},
        {.name = "total", .type = LB_OPT_U32, .out = &total, .min = 1, .max = 86400,
         .value = "SECONDS", .help = "of the whole examination"},
        {.name = "json", .type = LB_OPT_FLAG, .out = &json, .help = "print JSON"},
    };
    const lb_command_line line = {
        .program = "limbeck doctor",
        .summary = "Examines a teacher by probing it (ours, or one that speaks as vLLM or SGLang\n"
                   "do), or a model by reading it: a folder, a .gguf file, or ORG/NAME of the\n"
                   "Hugging Face cache. One line for each finding:\n"
                   "  ok|note|FAIL  subject: what was measured\n"
                   "Code 1: a finding would break a distillation.",
        .examples = "  limbeck doctor http://127.0.0.1:8000\n"
                    "  limbeck doctor models/student\n"
                    "  limbeck doctor model.gguf\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
        .positional_min = 1,
        .positional_max = 1,
        .positional = "URL|MODEL",
    };
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, &target, &code))
        return code;
    o.timeout_ms = 1000 * timeout;
    o.total_ms = 1000 * total;
    return run(target, &o, key_file, json);
}
