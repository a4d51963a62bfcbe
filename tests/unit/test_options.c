/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WORDS_MAX 8

typedef struct values {
    bool verbose;
    const char *dir;
    uint32_t port;
    uint64_t seed;
    double rate;
    lb_option_list files;
    const char *positional[2];
    size_t positional_count;
    bool helped;
} values;

#define OPTION_COUNT 6

/* Fills line and its rows over the values. */
static void describe(values *v, lb_option *rows, lb_command_line *line)
{
    *v = (values){.dir = "here", .port = 80, .seed = UINT64_MAX, .rate = 0.5};
    const lb_option table[OPTION_COUNT] = {
        {.name = "verbose", .type = LB_OPT_FLAG, .out = &v->verbose, .help = "Says more."},
        {.name = "dir", .type = LB_OPT_STRING, .out = &v->dir, .value = "DIR", .help = "Where."},
        {.name = "port", .type = LB_OPT_U32, .out = &v->port, .min = 1, .max = 65535,
         .value = "N", .help = "Port."},
        {.name = "seed", .type = LB_OPT_U64, .out = &v->seed, .max = UINT64_MAX, .value = "N",
         .help = "Seed."},
        {.name = "rate", .type = LB_OPT_F64, .out = &v->rate, .value = "R", .help = "Rate."},
        {.name = "file", .type = LB_OPT_LIST, .out = &v->files, .value = "F", .help = "Files."},
    };
    memcpy(rows, table, sizeof table);
    *line = (lb_command_line){.program = "limbeck test", .summary = "Tests.",
                              .examples = "  limbeck test a\n", .options = rows,
                              .option_count = OPTION_COUNT, .positional_max = 2,
                              .positional = "WORD"};
}

static lb_status parse(const char *const *words, values *v, lb_err *err)
{
    lb_option rows[OPTION_COUNT];
    lb_command_line line;
    char *argv[WORDS_MAX + 2] = {(char *)(uintptr_t)"test"};
    int argc = 1;
    describe(v, rows, &line);
    for (; argc <= WORDS_MAX && words[argc - 1]; argc++)
        argv[argc] = (char *)(uintptr_t)words[argc - 1];
    return lb_options_parse(&line, argc, argv, v->positional, &v->positional_count, &v->helped,
                            err);
}

static void test_accepts(void **state)
{
    (void)state;
    values v;
    const char *both[WORDS_MAX + 1] = {"--verbose", "--dir=a=b", "--port", "443", "one",
                                       "--rate=-1.5e3", "two"};
    assert_int_equal(parse(both, &v, NULL), LB_OK);
    assert_true(v.verbose);
    assert_string_equal(v.dir, "a=b");
    assert_int_equal(v.port, 443);
    assert_true(v.rate == -1500.0);
    assert_int_equal(v.positional_count, 2);
    assert_string_equal(v.positional[0], "one");
    assert_string_equal(v.positional[1], "two");
    const char *lists[WORDS_MAX + 1] = {"--file", "a", "--file=b", "--seed=18446744073709551615",
                                        "--", "--dir", "-"};
    assert_int_equal(parse(lists, &v, NULL), LB_OK);
    assert_int_equal(v.files.count, 2);
    assert_string_equal(v.files.items[1], "b");
    assert_true(v.seed == UINT64_MAX);
    assert_string_equal(v.dir, "here");
    assert_string_equal(v.positional[0], "--dir");
    assert_string_equal(v.positional[1], "-");
    const char *dash[WORDS_MAX + 1] = {"-", "--dir="};
    assert_int_equal(parse(dash, &v, NULL), LB_OK);
    assert_string_equal(v.dir, "");
    const char *none[WORDS_MAX + 1] = {NULL};
    assert_int_equal(parse(none, &v, NULL), LB_OK);
    assert_int_equal(v.port, 80);
}

static void test_refuses(void **state)
{
    static const struct {
        const char *words[WORDS_MAX];
        const char *field, *message;
    } cases[] = {
        {{"--prt", "1"}, "prt", "did you mean --port"},
        {{"--verbos"}, "verbos", "did you mean --verbose"},
        {{"--something-else"}, "something-else", "no option --something-else"},
        {{"--"
          "a-name-that-is-much-longer-than-any-option-may-have-in-this-program"},
         "a-name-that-is", "no option"},
        {{"--=x"}, "", "no option --"},
        {{"-v"}, "-v", "no option -v"},
        {{"--verbose=yes"}, "verbose", "takes no value"},
        {{"--port"}, "port", "needs a value"},
        {{"--port="}, "port", "whole number"},
        {{"--port=-1"}, "port", "whole number"},
        {{"--port=+1"}, "port", "whole number"},
        {{"--port= 1"}, "port", "whole number"},
        {{"--port=1 "}, "port", "whole number"},
        {{"--port=0x10"}, "port", "whole number"},
        {{"--port=1.0"}, "port", "whole number"},
        {{"--port=0"}, "port", "outside 1 .. 65535"},
        {{"--port=65536"}, "port", "outside 1 .. 65535"},
        {{"--port=4294967376"}, "port", "outside 1 .. 65535"},
        {{"--seed=18446744073709551616"}, "seed", "outside"},
        {{"--rate=fast"}, "rate", "takes a number"},
        {{"--rate="}, "rate", "takes a number"},
        {{"--rate=nan"}, "rate", "takes a number"},
        {{"--rate=inf"}, "rate", "takes a number"},
        {{"--rate=1e999"}, "rate", "takes a number"},
        {{"--rate=0x1p3"}, "rate", "takes a number"},
        {{"--rate= 1"}, "rate", "takes a number"},
        {{"--rate=1e"}, "rate", "takes a number"},
        {{"--rate=e"}, "rate", "takes a number"},
        {{"a", "b", "c"}, "argument", "'c' is one word too many"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_err err = {0};
        values v;
        assert_int_equal(parse(cases[i].words, &v, &err), LB_EINVAL);
        assert_int_equal(strncmp(err.field, cases[i].field, strlen(cases[i].field)), 0);
        if (!strstr(err.message, cases[i].message))
            fail_msg("%s: '%s' lacks '%s'", cases[i].words[0], err.message, cases[i].message);
    }
}

static void test_missing_word_and_full_list(void **state)
{
    (void)state;
    values v;
    lb_err err = {0};
    lb_option rows[OPTION_COUNT];
    lb_command_line line;
    describe(&v, rows, &line);
    line.positional_min = 1;
    char *none[] = {(char *)(uintptr_t)"test", NULL};
    assert_int_equal(lb_options_parse(&line, 1, none, v.positional, &v.positional_count,
                                      &v.helped, &err), LB_EINVAL);
    assert_string_equal(err.message, "WORD is missing");
    char *many[LB_OPTION_LIST_MAX + 2];
    many[0] = none[0];
    for (size_t i = 1; i < LB_OPTION_LIST_MAX + 2; i++)
        many[i] = (char *)(uintptr_t)"--file=x";
    line.positional_min = 0;
    assert_int_equal(lb_options_parse(&line, LB_OPTION_LIST_MAX + 1, many, v.positional,
                                      &v.positional_count, &v.helped, &err), LB_OK);
    v.files.count = 0;
    assert_int_equal(lb_options_parse(&line, LB_OPTION_LIST_MAX + 2, many, v.positional,
                                      &v.positional_count, &v.helped, &err), LB_EINVAL);
    assert_string_equal(err.field, "file");
}

static void test_help(void **state)
{
    (void)state;
    values v;
    lb_option rows[OPTION_COUNT];
    lb_command_line line;
    char *text = NULL;
    size_t length = 0;
    describe(&v, rows, &line);
    FILE *out = open_memstream(&text, &length);
    assert_non_null(out);
    lb_options_help(&line, out);
    fclose(out);
    const char *order[] = {"limbeck test a", "Usage: limbeck test [options] WORD", "Tests.",
                           "--verbose", "--dir DIR", "Where. (default here)", "--port N",
                           "(default 80)", "--seed N", "Seed.\n", "(default 0.5)", "--help"};
    const char *at = text;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        at = strstr(at, order[i]);
        if (!at)
            fail_msg("the help lacks '%s' in its place:\n%s", order[i], text);
    }
    free(text);
    const char *asked[WORDS_MAX + 1] = {"--port", "1", "--help", "--nonsense"};
    assert_int_equal(parse(asked, &v, NULL), LB_OK);
    assert_true(v.helped);
    assert_int_equal(v.port, 80);   /* nothing was parsed, so the help showed the defaults */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_missing_word_and_full_list),
        cmocka_unit_test(test_help),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
