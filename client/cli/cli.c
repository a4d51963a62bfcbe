/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/cli.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* The exit code of a status; what is not listed is a plain failure. */
static const uint8_t exit_codes[LB_STATUS_COUNT] = {
    [LB_EINVAL] = LB_EXIT_USAGE,
    [LB_EDATA] = LB_EXIT_FAILURE,
    [LB_EAUTH] = LB_EXIT_AUTH,
    [LB_ENOTFOUND] = LB_EXIT_NOT_FOUND,
    [LB_ECONFLICT] = LB_EXIT_CONFLICT,
    [LB_EGONE] = LB_EXIT_CONFLICT,
    [LB_EUNSUPPORTED] = LB_EXIT_FAILURE,
    [LB_EBUSY] = LB_EXIT_TEMPORARY,
    [LB_EUNAVAILABLE] = LB_EXIT_TEMPORARY,
    [LB_ENOSPACE] = LB_EXIT_TEMPORARY,
    [LB_ETIMEOUT] = LB_EXIT_TIMEOUT,
    [LB_ENET] = LB_EXIT_UNREACHABLE,
    [LB_ECANCELLED] = LB_EXIT_INTERRUPTED,
};

int lb_cli_fail(const lb_err *err)
{
    if (err->field[0] && !strstr(err->message, err->field))
        fprintf(stderr, "limbeck: %s: %s\n", err->field, err->message);
    else
        fprintf(stderr, "limbeck: %s\n", err->message);
    int code = exit_codes[err->status];
    return code ? code : LB_EXIT_FAILURE;
}

bool lb_cli_options(const lb_command_line *line, int argc, char **argv, const char **positional,
                    int *code)
{
    lb_err err = {0};
    bool helped = false;
    size_t count = 0;
    const char *none[1];
    lb_status status = lb_options_parse(line, argc, argv, positional ? positional : none, &count,
                                        &helped, &err);
    if (status == LB_OK && !helped)
        return true;
    *code = LB_EXIT_OK;
    if (status != LB_OK) {
        *code = lb_cli_fail(&err);
        fprintf(stderr, "Try '%s --help'.\n", line->program);
    }
    return false;
}

int lb_cli_print(const lb_buf *text)
{
    if (text->status != LB_OK) {
        fprintf(stderr, "limbeck: %s\n", lb_status_text(text->status));
        return LB_EXIT_FAILURE;
    }
    if (fwrite(text->data ? text->data : (const uint8_t *)"", 1, text->length, stdout) !=
            text->length || fflush(stdout) != 0) {
        fprintf(stderr, "limbeck: standard output could not be written\n");
        return LB_EXIT_FAILURE;
    }
    return LB_EXIT_OK;
}

const char *lb_cli_text(const lb_json *object, const char *key)
{
    const char *text = lb_json_string(lb_json_get(object, key));
    return text ? text : "-";
}

void lb_table_cell(lb_table *table, const char *format, ...)
{
    char cell[256];
    va_list args;
    va_start(args, format);
    vsnprintf(cell, sizeof cell, format, args);
    va_end(args);
    lb_buf_append(&table->cells, cell, strlen(cell) + 1);
    table->count++;
}

void lb_table_render(lb_table *table, lb_buf *out)
{
    size_t width[LB_TABLE_COLUMNS_MAX] = {0};
    const char *cell = (const char *)table->cells.data;
    if (table->cells.status != LB_OK)
        out->status = table->cells.status;
    bool whole = cell && table->cells.status == LB_OK;
    for (size_t i = 0; whole && i < table->count; i++, cell += strlen(cell) + 1) {
        size_t length = strlen(cell), *widest = &width[i % table->columns];
        if (length > *widest)
            *widest = length;
    }
    cell = (const char *)table->cells.data;
    for (size_t i = 0; whole && i < table->count; i++, cell += strlen(cell) + 1) {
        if ((i + 1) % table->columns == 0)
            lb_buf_printf(out, "%s\n", cell);
        else
            lb_buf_printf(out, "%-*s  ", (int)width[i % table->columns], cell);
    }
    lb_buf_free(&table->cells);
}
