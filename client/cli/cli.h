/* SPDX-License-Identifier: Apache-2.0
 *
 * What the commands of `limbeck` share: exit codes, output, a local model, a coordinator.
 *
 * Data goes to stdout, everything else to stderr. A command is one function of a row in main.c's
 * table; it returns the process's exit code.
 */
#ifndef LB_CLIENT_CLI_CLI_H
#define LB_CLIENT_CLI_CLI_H

#include "common/base/json.h"
#include "common/base/options.h"
#include "common/base/status.h"
#include "common/io/file.h"
#include "common/model/model.h"
#include "common/net/client.h"
#include "common/text/chat.h"
#include "common/text/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum lb_exit {
    LB_EXIT_OK = 0,
    LB_EXIT_FAILURE = 1,
    LB_EXIT_USAGE = 2,
    LB_EXIT_NOT_FOUND = 3,
    LB_EXIT_AUTH = 4,
    LB_EXIT_CONFLICT = 5,
    LB_EXIT_TIMEOUT = 6,
    LB_EXIT_JOB_FAILED = 7,
    LB_EXIT_UNREACHABLE = 8,
    LB_EXIT_TEMPORARY = 75,
    LB_EXIT_INTERRUPTED = 130,
} lb_exit;

int lb_cmd_up(int argc, char **argv);
int lb_cmd_job_create(int argc, char **argv);
int lb_cmd_job_list(int argc, char **argv);
int lb_cmd_job_show(int argc, char **argv);
int lb_cmd_job_watch(int argc, char **argv);
int lb_cmd_job_cancel(int argc, char **argv);
int lb_cmd_adapter_list(int argc, char **argv);
int lb_cmd_adapter_get(int argc, char **argv);
int lb_cmd_tokenize(int argc, char **argv);
int lb_cmd_score(int argc, char **argv);
int lb_cmd_bench(int argc, char **argv);
int lb_cmd_generate(int argc, char **argv);
int lb_cmd_eval(int argc, char **argv);
int lb_cmd_doctor(int argc, char **argv);
int lb_cmd_version(int argc, char **argv);

/* Prints "limbeck: MESSAGE (field: F)" and returns the exit code of err->status. */
int lb_cli_fail(const lb_err *err);
/* Parses a command's options. Returns true when the command is to go on; otherwise *code is what
 * it returns (help was printed, or a usage error told). */
bool lb_cli_options(const lb_command_line *line, int argc, char **argv, const char **positional,
                    int *code);
/* Writes text to stdout whole; LB_EXIT_FAILURE when stdout fails (a closed pipe, a full disk). */
int lb_cli_print(const lb_buf *text);

/* A string member for a table: "-" when there is none. */
const char *lb_cli_text(const lb_json *object, const char *key);

/* ---- a coordinator to talk to ---- */

typedef struct lb_remote_options {
    const char *url;       /* --coordinator, or $LIMBECK_COORDINATOR, or the default */
    const char *key_file;  /* --key-file, or $LIMBECK_KEY_FILE */
    bool json;
} lb_remote_options;

/* Rows for a command's option table; `o` is its lb_remote_options. */
#define LB_REMOTE_OPTIONS(o)                                                                    \
    {.name = "coordinator", .type = LB_OPT_STRING, .out = &(o).url, .value = "URL",             \
     .help = "the coordinator (default $LIMBECK_COORDINATOR or http://127.0.0.1:7410)"},        \
    {.name = "key-file", .type = LB_OPT_STRING, .out = &(o).key_file, .value = "FILE",          \
     .help = "file with the key to present (default $LIMBECK_KEY_FILE)"},                       \
    {.name = "json", .type = LB_OPT_FLAG, .out = &(o).json, .help = "print JSON"}

LB_NODISCARD lb_status lb_remote_open(const lb_remote_options *options, lb_client **out,
                                      lb_err *err);
/* The same, with calls that end early (LB_ECANCELLED) once cancelled(arg) says so. */
LB_NODISCARD lb_status lb_remote_open_cancellable(const lb_remote_options *options,
                                                  bool (*cancelled)(void *arg), void *arg,
                                                  lb_client **out, lb_err *err);
/* Calls and parses a JSON reply; *reply is owned (lb_json_free), its text is in *text when not
 * NULL. A reply that is not 2xx becomes its status and message. */
LB_NODISCARD lb_status lb_remote_json(lb_client *client, const char *method, const char *path,
                                      const lb_buf *body, lb_json **reply, lb_buf *text,
                                      lb_err *err);

/* One call whose reply is printed: as it came with --json, otherwise by show. Returns the exit
 * code. */
int lb_remote_show(const lb_remote_options *options, const char *method, const char *path,
                   void (*show)(const lb_json *reply, lb_buf *out));

/* ---- a model in this process ---- */

typedef struct lb_local_options {
    const char *model;
    const char *adapter;
    const char *dtype;     /* one of LB_DTYPE_NAMES */
    uint32_t threads;
    bool json;
} lb_local_options;

#define LB_LOCAL_OPTIONS(o)                                                                     \
    {.name = "model", .type = LB_OPT_STRING, .out = &(o).model, .value = "MODEL",               \
     .help = "a Hugging Face folder, ORG/NAME in its cache, or a .gguf file (required)"},       \
    {.name = "adapter", .type = LB_OPT_STRING, .out = &(o).adapter, .value = "DIR",             \
     .help = "a PEFT LoRA folder"},                                                             \
    {.name = "dtype", .type = LB_OPT_STRING, .out = &(o).dtype, .value = LB_DTYPE_NAMES,        \
     .help = "storage of the weights (default f32)"},                                           \
    {.name = "threads", .type = LB_OPT_U32, .out = &(o).threads, .min = 0, .max = 1024,         \
     .value = "N", .help = "threads, 0: all this process may use"},                             \
    {.name = "json", .type = LB_OPT_FLAG, .out = &(o).json, .help = "print JSON"}

typedef struct lb_local {
    char path[LB_PATH_MAX];    /* of the model: --model, found in the cache if it is a name */
    lb_backend *backend;
    lb_model *model;
    lb_adapter *adapter;       /* NULL without --adapter */
    lb_tokenizer *tokenizer;   /* NULL unless asked for */
    uint8_t *allowed;          /* [vocab] ids that may be sampled; NULL without a tokenizer */
} lb_local;

LB_NODISCARD lb_status lb_local_open(const lb_local_options *options, bool with_tokenizer,
                                     lb_local *out, lb_err *err);
void lb_local_close(lb_local *local);
/* The chat template of the model, or the one of a name (NULL: the model's). LB_EUNSUPPORTED also
 * when its turns end with a token that does not end a text of the model. */
LB_NODISCARD lb_status lb_local_load_chat(const lb_local *local, const char *name, lb_chat *out,
                                          lb_err *err);
/* "1,2,3" to ids. LB_EINVAL, field "tokens". */
LB_NODISCARD lb_status lb_parse_token_list(const char *text, lb_tokens *out, lb_err *err);

/* ---- tables for people ---- */

#define LB_TABLE_COLUMNS_MAX 10
typedef struct lb_table {
    lb_buf cells;              /* NUL-separated */
    size_t columns, count;
} lb_table;
void lb_table_cell(lb_table *table, const char *format, ...) LB_PRINTF(2, 3);
/* Pads columns to their widest cell, the first row being the head; frees the cells. */
void lb_table_render(lb_table *table, lb_buf *out);

#endif
