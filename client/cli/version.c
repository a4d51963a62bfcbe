/* SPDX-License-Identifier: Apache-2.0 */
#include "client/cli/cli.h"

int lb_cmd_version(int argc, char **argv)
{
    bool json = false;
    const lb_option options[] = {
        {.name = "json", .type = LB_OPT_FLAG, .out = &json, .help = "print JSON"},
    };
    const lb_command_line line = {.program = "limbeck version", .summary = "Prints the version.",
                                  .options = options, .option_count = 1};
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    lb_buf out = {0};
    if (json)
        lb_buf_printf(&out, "{\"version\":\"%s\",\"compiler\":\"%s\"}\n", LB_VERSION, __VERSION__);
    else
        lb_buf_printf(&out, "limbeck %s\n", LB_VERSION);
    code = lb_cli_print(&out);
    lb_buf_free(&out);
    return code;
}
