/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_options - command lines from one table of rows: --name VALUE, --name=VALUE, --flag.
 * The same rows print --help. A number is checked against its range; an unknown option names the
 * nearest known one. Positional words are collected in order.
 */
#ifndef LB_COMMON_BASE_OPTIONS_H
#define LB_COMMON_BASE_OPTIONS_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum lb_option_type {
    LB_OPT_FLAG,     /* bool *            */
    LB_OPT_STRING,   /* const char **     borrowed from argv */
    LB_OPT_U32,      /* uint32_t *        within [min, max] */
    LB_OPT_U64,      /* uint64_t *        within [min, max] */
    LB_OPT_F64,      /* double *          */
    LB_OPT_LIST,     /* lb_option_list *  repeatable string */
} lb_option_type;

#define LB_OPTION_LIST_MAX 64
typedef struct lb_option_list {
    const char *items[LB_OPTION_LIST_MAX];
    size_t count;
} lb_option_list;

typedef struct lb_option {
    const char *name;      /* without the dashes */
    lb_option_type type;
    void *out;             /* holds the default before parsing */
    uint64_t min, max;     /* of the integer types */
    const char *value;     /* word for the value in the help, such as "DIR"; NULL for a flag */
    const char *help;
} lb_option;

typedef struct lb_command_line {
    const char *program;       /* "limbeck score" */
    const char *summary;
    const char *examples;      /* lines shown first, may be NULL */
    const lb_option *options;
    size_t option_count;
    size_t positional_min, positional_max;
    const char *positional;    /* "URL|DIR", NULL if none */
} lb_command_line;

/* Parses argv[1..]. positional gets up to positional_max borrowed words; it and
 * positional_count may be NULL when a command takes none. --help prints and sets
 * *helped. LB_EINVAL names the option in err->field. */
LB_NODISCARD lb_status lb_options_parse(const lb_command_line *line, int argc, char **argv,
                                        const char **positional, size_t *positional_count,
                                        bool *helped, lb_err *err);
void lb_options_help(const lb_command_line *line, FILE *out);

#endif
