/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck - the command line: a table of commands, and the loop that finds one.
 */
#include "client/cli/cli.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

typedef struct command {
    const char *group;      /* "job", or "" for a command of one word */
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} command;

static const command commands[] = {
    {"", "up", lb_cmd_up, "run a teacher, a coordinator and workers on this machine"},
    {"job", "create", lb_cmd_job_create, "submit a distillation job"},
    {"job", "list", lb_cmd_job_list, "list jobs, newest first"},
    {"job", "show", lb_cmd_job_show, "show one job"},
    {"job", "watch", lb_cmd_job_watch, "follow a job until it ends"},
    {"job", "cancel", lb_cmd_job_cancel, "cancel a job"},
    {"adapter", "list", lb_cmd_adapter_list, "list adapter versions"},
    {"adapter", "get", lb_cmd_adapter_get, "download a version as a PEFT folder"},
    {"", "tokenize", lb_cmd_tokenize, "token ids of a text"},
    {"", "score", lb_cmd_score, "log-probability of every token of a sequence"},
    {"", "generate", lb_cmd_generate, "sample completions of a prompt"},
    {"", "eval", lb_cmd_eval, "accuracy (and teacher_kl) on a data set"},
    {"", "bench", lb_cmd_bench, "speed of a model here, against what this machine can do"},
    {"", "doctor", lb_cmd_doctor, "examine a teacher or a model folder before a job"},
    {"", "version", lb_cmd_version, "print the version"},
};

static void print_help(FILE *out)
{
    fputs("limbeck - on-policy distillation\n\n"
          "  limbeck up --teacher DIR --student DIR\n"
          "  limbeck job create --file job.json --data train.jsonl\n"
          "  limbeck job watch JOB\n"
          "  limbeck adapter get NAME --out DIR\n\n"
          "Commands:\n", out);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const command *c = &commands[i];
        char name[32];
        snprintf(name, sizeof name, "%s%s%s", c->group, c->group[0] ? " " : "", c->name);
        fprintf(out, "  %-16s %s\n", name, c->summary);
    }
    fputs("\n'limbeck COMMAND --help' tells the options of a command.\n", out);
}

static int unknown(int argc, char **argv)
{
    bool in_group = false;
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        in_group |= argc > 1 && commands[i].group[0] && strcmp(commands[i].group, argv[1]) == 0;
    if (in_group)
        fprintf(stderr, "limbeck: '%s' takes one of these words:", argv[1]);
    else
        fprintf(stderr, "limbeck: there is no command '%.40s'; try 'limbeck --help'",
                argc > 1 ? argv[1] : "");
    for (size_t i = 0; in_group && i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(commands[i].group, argv[1]) == 0)
            fprintf(stderr, " %s", commands[i].name);
    }
    fputc('\n', stderr);
    return LB_EXIT_USAGE;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? LB_EXIT_USAGE : LB_EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0)
        return lb_cmd_version(argc - 1, argv + 1);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const command *c = &commands[i];
        int words = c->group[0] ? 2 : 1;
        if (argc <= words || strcmp(argv[words], c->name) != 0)
            continue;
        if (words == 2 && strcmp(argv[1], c->group) != 0)
            continue;
        return c->run(argc - words, argv + words);
    }
    return unknown(argc, argv);
}
