/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck adapter list and get. A version is downloaded as a PEFT folder; its digest is checked
 * before a file is written.
 */
#include "client/cli/cli.h"

#include "common/base/digest.h"
#include "common/io/file.h"

#include <stdio.h>
#include <string.h>

#define PATH_BYTES 512
#define CONFIG_MAX (1u << 20)

static void list_adapters(const lb_json *reply, lb_buf *out)
{
    const lb_json *data = lb_json_get(reply, "data");
    lb_table table = {.columns = 5};
    const char *const head[] = {"ADAPTER", "STEP", "BYTES", "SHA256", "JOB"};
    for (size_t i = 0; i < sizeof head / sizeof *head; i++)
        lb_table_cell(&table, "%s", head[i]);
    for (size_t i = 0; i < lb_json_array_size(data); i++) {
        const lb_json *row = lb_json_at(data, i);
        lb_table_cell(&table, "%s", lb_cli_text(row, "id"));
        lb_table_cell(&table, "%lld", (long long)lb_json_integer(lb_json_get(row, "step")));
        lb_table_cell(&table, "%lld", (long long)lb_json_integer(lb_json_get(row, "bytes")));
        lb_table_cell(&table, "%.12s", lb_cli_text(row, "sha256"));
        lb_table_cell(&table, "%s", lb_cli_text(row, "job"));
    }
    lb_table_render(&table, out);
}

int lb_cmd_adapter_list(int argc, char **argv)
{
    lb_remote_options o = {0};
    const char *job = NULL;
    const lb_option options[] = {
        LB_REMOTE_OPTIONS(o),
        {.name = "job", .type = LB_OPT_STRING, .out = &job, .value = "JOB",
         .help = "only versions of this job"},
    };
    const lb_command_line line = {.program = "limbeck adapter list",
                                  .summary = "Lists adapter versions, newest first.",
                                  .options = options,
                                  .option_count = sizeof options / sizeof *options};
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/v1/adapters?limit=100%s%.128s", job ? "&job=" : "",
             job ? job : "");
    return lb_remote_show(&o, "GET", path, list_adapters);
}

typedef struct adapter_file {
    const char *name;          /* in the folder and on the route */
    const char *digest_key;    /* of the version's object */
    size_t max;
} adapter_file;

/* adapter_config.json comes last: a folder that has it is whole. */
static const adapter_file adapter_files[] = {
    {"adapter_model.safetensors", "sha256", (size_t)4 << 30},
    {"adapter_config.json", "config_sha256", CONFIG_MAX},
};

static lb_status fetch_file(lb_client *client, const lb_json *version, const adapter_file *file,
                            const char *dir, lb_err *err)
{
    char path[PATH_BYTES], target[LB_PATH_MAX], hex[LB_SHA256_HEX];
    uint8_t digest[LB_SHA256_BYTES];
    lb_answer answer = {0};
    snprintf(path, sizeof path, "/v1/adapters/%.128s/%s", lb_cli_text(version, "id"), file->name);
    lb_call call = {.method = "GET", .path = path, .reply_max = file->max};
    lb_status status = lb_client_call(client, &call, &answer, err);
    if (status == LB_OK)
        status = lb_answer_check(&answer, err);
    if (status == LB_OK) {
        lb_sha256_of(answer.body.data, answer.body.length, digest);
        lb_sha256_hex(digest, hex);
        if (strcmp(hex, lb_cli_text(version, file->digest_key)) != 0)
            status = lb_fail(err, LB_EDATA, file->digest_key, "%s arrived as %.16s, not %.16s",
                             file->name, hex, lb_cli_text(version, file->digest_key));
    }
    if (status == LB_OK)
        status = lb_path_join(target, sizeof target, dir, file->name, err);
    if (status == LB_OK)
        status = lb_file_write(target, answer.body.data, answer.body.length, LB_WRITE_REPLACE,
                               0644, err);
    lb_answer_free(&answer);
    return status;
}

int lb_cmd_adapter_get(int argc, char **argv)
{
    lb_remote_options o = {0};
    const char *dir = NULL, *positional[1] = {NULL};
    const lb_option options[] = {
        LB_REMOTE_OPTIONS(o),
        {.name = "out", .type = LB_OPT_STRING, .out = &dir, .value = "DIR",
         .help = "folder to write (default: the adapter's name)"},
    };
    const lb_command_line line = {
        .program = "limbeck adapter get",
        .summary = "Downloads an adapter version as a PEFT folder.",
        .examples = "  limbeck adapter get quickstart-latest --out adapter\n",
        .options = options, .option_count = sizeof options / sizeof *options,
        .positional_min = 1, .positional_max = 1, .positional = "ADAPTER"};
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, positional, &code))
        return code;
    lb_err err = {0};
    lb_client *client = NULL;
    lb_json *version = NULL;
    lb_buf text = {0}, out = {0};
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "/v1/adapters/%.128s", positional[0]);
    lb_status status = lb_remote_open(&o, &client, &err);
    if (status == LB_OK)
        status = lb_remote_json(client, "GET", path, NULL, &version, &text, &err);
    const char *folder = dir ? dir : positional[0];
    if (status == LB_OK)
        status = lb_dir_make(folder, &err);
    for (size_t i = 0; status == LB_OK && i < sizeof adapter_files / sizeof *adapter_files; i++)
        status = fetch_file(client, version, &adapter_files[i], folder, &err);
    if (status == LB_OK && o.json)
        lb_buf_printf(&out, "%s\n", (const char *)text.data);
    else if (status == LB_OK)
        lb_buf_printf(&out, "%s  sha256 %s\n", folder, lb_cli_text(version, "sha256"));
    code = status == LB_OK ? lb_cli_print(&out) : lb_cli_fail(&err);
    lb_json_free(version);
    lb_buf_free(&text);
    lb_buf_free(&out);
    lb_client_free(client);
    return code;
}
