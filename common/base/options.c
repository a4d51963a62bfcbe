/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 40
#define HELP_COLUMN 28

static size_t smallest(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

/* Levenshtein distance of two short words. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[NAME_MAX_BYTES + 1], width = strlen(b);
    if (strlen(a) > NAME_MAX_BYTES || width > NAME_MAX_BYTES)
        return SIZE_MAX;
    for (size_t j = 0; j <= width; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= width; j++) {
            size_t above = row[j];
            row[j] = smallest(row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[width];
}

static lb_status unknown_option(const lb_command_line *line, const char *name, lb_err *err)
{
    const char *nearest = NULL;
    size_t best = 4;    /* further than three edits is another word */
    for (size_t i = 0; i < line->option_count; i++) {
        size_t distance = edit_distance(name, line->options[i].name);
        if (distance < best) {
            best = distance;
            nearest = line->options[i].name;
        }
    }
    if (nearest)
        return lb_fail(err, LB_EINVAL, name, "there is no option --%.40s; did you mean --%s?",
                       name, nearest);
    return lb_fail(err, LB_EINVAL, name, "there is no option --%.40s", name);
}

static lb_status set_integer(const lb_option *option, const char *text, lb_err *err)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end)
        return lb_fail(err, LB_EINVAL, option->name, "--%s takes a whole number, not '%.40s'",
                       option->name, text);
    if (errno || value < option->min || value > option->max ||
        (option->type == LB_OPT_U32 && value > UINT32_MAX))
        return lb_fail(err, LB_EINVAL, option->name,
                       "--%s is %.40s, which is outside %" PRIu64 " .. %" PRIu64, option->name,
                       text, option->min, option->max);
    if (option->type == LB_OPT_U32)
        *(uint32_t *)option->out = (uint32_t)value;
    else
        *(uint64_t *)option->out = value;
    return LB_OK;
}

static lb_status set_real(const lb_option *option, const char *text, lb_err *err)
{
    char *end = NULL;
    /* strtod also takes white space, "nan" and hexadecimal, which are typing errors here. */
    bool plain = *text && text[strspn(text, "+-.0123456789eE")] == '\0';
    double value = plain ? strtod(text, &end) : 0.0;
    if (!plain || end == text || *end || !isfinite(value))
        return lb_fail(err, LB_EINVAL, option->name, "--%s takes a number, not '%.40s'",
                       option->name, text);
    *(double *)option->out = value;
    return LB_OK;
}

static lb_status set_option(const lb_option *option, const char *text, lb_err *err)
{
    switch (option->type) {
    case LB_OPT_FLAG:
        break;
    case LB_OPT_STRING:
        *(const char **)option->out = text;
        return LB_OK;
    case LB_OPT_LIST: {
        lb_option_list *list = option->out;
        if (list->count == LB_OPTION_LIST_MAX)
            return lb_fail(err, LB_EINVAL, option->name, "--%s may stand %d times at most",
                           option->name, LB_OPTION_LIST_MAX);
        list->items[list->count++] = text;
        return LB_OK;
    }
    case LB_OPT_F64:
        return set_real(option, text, err);
    case LB_OPT_U32:
    case LB_OPT_U64:
        return set_integer(option, text, err);
    }
    return lb_fail(err, LB_EINVAL, option->name, "--%s takes no value", option->name);
}

/* One "--name", "--name VALUE" or "--name=VALUE" at argv[*at]; moves *at past what it used. */
static lb_status parse_option(const lb_command_line *line, int argc, char **argv, int *at,
                              lb_err *err)
{
    const char *word = argv[*at] + 2, *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    for (size_t i = 0; i < line->option_count; i++) {
        const lb_option *option = &line->options[i];
        if (strlen(option->name) != length || strncmp(option->name, word, length) != 0)
            continue;
        if (option->type == LB_OPT_FLAG && !equals) {
            *(bool *)option->out = true;
            return LB_OK;
        }
        if (!equals && *at + 1 >= argc)
            return lb_fail(err, LB_EINVAL, option->name, "--%s needs a value", option->name);
        const char *value = equals ? equals + 1 : argv[++*at];
        return set_option(option, value, err);
    }
    char name[NAME_MAX_BYTES + 1];
    snprintf(name, sizeof name, "%.*s", (int)(length < NAME_MAX_BYTES ? length : NAME_MAX_BYTES),
             word);
    return unknown_option(line, name, err);
}

/* Asked first, so that the help shows the defaults and not what was parsed before it. */
static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    }
    return false;
}

lb_status lb_options_parse(const lb_command_line *line, int argc, char **argv,
                           const char **positional, size_t *positional_count, bool *helped,
                           lb_err *err)
{
    bool options_over = false;
    size_t count = 0;
    *helped = asks_for_help(argc, argv);
    if (*helped) {
        lb_options_help(line, stdout);
        return LB_OK;
    }
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        lb_status status = LB_OK;
        if (!options_over && strcmp(word, "--") == 0) {
            options_over = true;
        } else if (!options_over && strncmp(word, "--", 2) == 0) {
            status = parse_option(line, argc, argv, &i, err);
        } else if (!options_over && word[0] == '-' && word[1]) {
            status = lb_fail(err, LB_EINVAL, word, "there is no option %.40s", word);
        } else if (count == line->positional_max) {
            status = lb_fail(err, LB_EINVAL, "argument", "'%.40s' is one word too many", word);
        } else {
            positional[count++] = word;
        }
        if (status != LB_OK)
            return status;
    }
    if (positional_count)
        *positional_count = count;
    if (count < line->positional_min)
        return lb_fail(err, LB_EINVAL, "argument", "%s is missing",
                       line->positional ? line->positional : "a word");
    return LB_OK;
}

static void print_default(const lb_option *option, FILE *out)
{
    const char *text;
    switch (option->type) {
    case LB_OPT_U32:
        fprintf(out, " (default %" PRIu32 ")", *(const uint32_t *)option->out);
        break;
    case LB_OPT_U64:
        if (*(const uint64_t *)option->out != UINT64_MAX)   /* UINT64_MAX stands for "not given" */
            fprintf(out, " (default %" PRIu64 ")", *(const uint64_t *)option->out);
        break;
    case LB_OPT_F64:
        fprintf(out, " (default %g)", *(const double *)option->out);
        break;
    case LB_OPT_STRING:
        text = *(const char *const *)option->out;
        if (text)
            fprintf(out, " (default %s)", text);
        break;
    case LB_OPT_FLAG:
    case LB_OPT_LIST:
        break;
    }
}

void lb_options_help(const lb_command_line *line, FILE *out)
{
    if (line->examples)
        fprintf(out, "Examples:\n%s\n", line->examples);
    fprintf(out, "Usage: %s [options]%s%s\n\n%s\n", line->program, line->positional ? " " : "",
            line->positional ? line->positional : "", line->summary);
    fputs("\nOptions:\n", out);
    for (size_t i = 0; i < line->option_count; i++) {
        const lb_option *option = &line->options[i];
        char head[64];
        snprintf(head, sizeof head, "--%s%s%s", option->name, option->value ? " " : "",
                 option->value ? option->value : "");
        fprintf(out, "  %-*s %s", HELP_COLUMN, head, option->help);
        print_default(option, out);
        fputc('\n', out);
    }
    fprintf(out, "  %-*s %s\n", HELP_COLUMN, "--help", "Prints this text.");
}
