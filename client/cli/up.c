/* SPDX-License-Identifier: Apache-2.0
 *
 * limbeck up: a teacher, a coordinator and workers as child processes on loopback. A child that
 * dies is started again, on the port it had; all of them end with this process.
 */
#include "client/cli/cli.h"

#include "common/base/clock.h"
#include "common/io/file.h"
#include "common/io/hub.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX 64u
#define CHILDREN_MAX (WORKERS_MAX + 2)
#define ARGS_MAX 24
#define READY_MS 120000
#define STOP_MS 30000
#define STOP_TICK_MS 20
#define SUPERVISE_TICK_MS 100
#define RESTART_MS 1000
#define URL_BYTES 128

typedef struct up_options {
    const char *teacher, *student, *data, *url_file, *dtype, *teacher_dtype;
    uint32_t workers, threads, coordinator_port, teacher_port;
} up_options;

typedef struct child {
    char name[32];             /* also the name of its log file */
    const char *program;
    pid_t pid;                 /* 0: not running */
    int64_t restart_ms;
    char url[URL_BYTES];       /* "" for a worker */
} child;

typedef struct supervisor {
    const up_options *o;
    char bin[LB_PATH_MAX], data[LB_PATH_MAX], student[LB_PATH_MAX], teacher_url[URL_BYTES + 16];
    child children[CHILDREN_MAX];
    size_t count;
} supervisor;

static volatile sig_atomic_t stop_requested;

static void on_stop(int signal_number)
{
    (void)signal_number;
    stop_requested = 1;
}

/* "127.0.0.1:PORT" of a child: the port it had, or the one that was asked for. */
static void listen_address(const child *c, uint32_t port, char *out, size_t size)
{
    const char *colon = c->url[0] ? strrchr(c->url, ':') : NULL;
    if (colon)
        snprintf(out, size, "127.0.0.1%s", colon);
    else
        snprintf(out, size, "127.0.0.1:%u", port);
}

/* The arguments of child `index`; what they point to lives until the exec. */
static void arguments(const supervisor *s, size_t index, const char *argv[ARGS_MAX],
                      char scratch[URL_BYTES], char threads[16])
{
    const child *c = &s->children[index];
    size_t n = 0;
    snprintf(threads, 16, "%u", s->o->threads);
    argv[n++] = c->program;
    if (index == 0) {
        listen_address(c, s->o->teacher_port, scratch, URL_BYTES);
        const char *more[] = {"--model", s->o->teacher, "--name", "teacher", "--listen", scratch,
                              "--threads", threads, "--dtype",
                              s->o->teacher_dtype ? s->o->teacher_dtype : s->o->dtype};
        memcpy(argv + n, more, sizeof more);
        n += sizeof more / sizeof *more;
    } else if (index == 1) {
        listen_address(c, s->o->coordinator_port, scratch, URL_BYTES);
        const char *more[] = {"--data", s->data, "--listen", scratch, "--model", s->student,
                              "--teacher", s->teacher_url};
        memcpy(argv + n, more, sizeof more);
        n += sizeof more / sizeof *more;
    } else {
        const char *more[] = {"--coordinator", s->children[1].url, "--model", s->student,
                              "--name", c->name, "--threads", threads, "--dtype", s->o->dtype};
        memcpy(argv + n, more, sizeof more);
        n += sizeof more / sizeof *more;
    }
    argv[n] = NULL;
}

/* In the child, after fork: files, signals, exec. Only async-signal-safe calls. */
static void become(const char *path, const char *const *argv, int ready_fd, int log_fd,
                   pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(127);
    setpgid(0, 0);    /* Ctrl-C reaches the supervisor alone, which stops the children in order */
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    dup2(ready_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    execv(path, (char *const *)argv);
    _exit(127);
}

/* Reads the child's first line ("limbeck-teacher listening on URL") within READY_MS. */
static lb_status await_ready(supervisor *s, child *c, int fd, lb_err *err)
{
    char line[256];
    size_t length = 0;
    int64_t deadline = lb_clock_ms() + READY_MS;
    while (length + 1 < sizeof line && !memchr(line, '\n', length)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - lb_clock_ms();
        int ready = left > 0 ? poll(&p, 1, left > 200 ? 200 : (int)left) : 0;
        if (stop_requested)
            return lb_fail(err, LB_ECANCELLED, NULL, "interrupted while %s started", c->name);
        if (left <= 0)
            return lb_fail(err, LB_ETIMEOUT, NULL, "%s was not ready after %d s", c->name,
                           READY_MS / 1000);
        ssize_t got = ready > 0 ? read(fd, line + length, sizeof line - 1 - length) : 1;
        if (got <= 0)
            return lb_fail(err, LB_EUNAVAILABLE, NULL, "%s ended at its start; see %s/%s.log",
                           c->name, s->data, c->name);
        if (ready > 0)
            length += (size_t)got;
    }
    line[length] = '\0';
    line[strcspn(line, "\n")] = '\0';
    const char *url = strstr(line, "http://");
    if (url)
        snprintf(c->url, sizeof c->url, "%s", url);
    return LB_OK;
}

static lb_status start_child(supervisor *s, size_t index, lb_err *err)
{
    child *c = &s->children[index];
    const char *argv[ARGS_MAX];
    char scratch[URL_BYTES], threads[16], path[LB_PATH_MAX], log[LB_PATH_MAX], name[64];
    int ready[2] = {-1, -1}, log_fd = -1;
    snprintf(name, sizeof name, "%s.log", c->name);
    lb_status status = lb_path_join(path, sizeof path, s->bin, c->program, err);
    if (status == LB_OK)
        status = lb_path_join(log, sizeof log, s->data, name, err);
    if (status != LB_OK)
        return status;
    arguments(s, index, argv, scratch, threads);
    log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log_fd < 0 || pipe2(ready, O_CLOEXEC) != 0) {
        status = lb_fail(err, LB_EIO, NULL, "%s could not be opened: %s", log, strerror(errno));
        goto done;
    }
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0)
        become(path, argv, ready[1], log_fd, parent);
    if (pid < 0) {
        status = lb_fail(err, LB_EIO, NULL, "%s could not be started: %s", c->name,
                         strerror(errno));
        goto done;
    }
    c->pid = pid;
    close(ready[1]);
    ready[1] = -1;
    status = await_ready(s, c, ready[0], err);
done:
    for (int i = 0; i < 2; i++) {
        if (ready[i] >= 0)
            close(ready[i]);
    }
    if (log_fd >= 0)
        close(log_fd);
    return status;
}

/* Collects children from index `from` that have ended; whether any still runs. */
static bool any_running(supervisor *s, size_t from)
{
    bool any = false;
    for (size_t i = from; i < s->count; i++) {
        child *c = &s->children[i];
        if (c->pid > 0 && waitpid(c->pid, NULL, WNOHANG) != 0)
            c->pid = 0;
        any |= c->pid > 0;
    }
    return any;
}

static void signal_from(const supervisor *s, size_t from, int number)
{
    for (size_t i = from; i < s->count; i++) {
        if (s->children[i].pid > 0)
            kill(s->children[i].pid, number);
    }
}

/* Ends the children: the workers together, so that they hand their leases back, then the
 * coordinator, then the teacher. */
static void stop_children(supervisor *s)
{
    const size_t order[] = {2, 1, 0};
    int64_t deadline = lb_clock_ms() + STOP_MS;
    for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
        signal_from(s, order[i], SIGTERM);
        while (any_running(s, order[i])) {
            if (lb_clock_ms() > deadline)
                signal_from(s, order[i], SIGKILL);
            lb_sleep_ms(STOP_TICK_MS);
        }
    }
}

/* Starts again what has ended. */
static void supervise(supervisor *s)
{
    while (!stop_requested) {
        for (size_t i = 0; i < s->count && !stop_requested; i++) {
            child *c = &s->children[i];
            int how = 0;
            if (c->pid > 0 && waitpid(c->pid, &how, WNOHANG) == c->pid) {
                fprintf(stderr, "limbeck: %s ended (%s %d); it is started again\n", c->name,
                        WIFSIGNALED(how) ? "signal" : "code",
                        WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
                c->pid = 0;
                c->restart_ms = lb_clock_ms() + RESTART_MS;
            }
            lb_err err = {0};
            if (c->pid == 0 && lb_clock_ms() >= c->restart_ms &&
                start_child(s, i, &err) != LB_OK) {
                if (!stop_requested)
                    fprintf(stderr, "limbeck: %s\n", err.message);
                c->restart_ms = lb_clock_ms() + RESTART_MS;
            }
        }
        lb_sleep_ms(SUPERVISE_TICK_MS);
    }
}

static lb_status announce(const supervisor *s, lb_err *err)
{
    const char *url = s->children[1].url;
    printf("coordinator  %s\nteacher      %s\nworkers      %zu\ndata         %s\n"
           "Ctrl-C stops them. To talk to them: export LIMBECK_COORDINATOR=%s\n",
           url, s->children[0].url, s->count - 2, s->data, url);
    fflush(stdout);
    if (!s->o->url_file)
        return LB_OK;
    lb_buf text = {0};
    lb_buf_printf(&text, "%s\n", url);
    lb_status status = text.status != LB_OK
                           ? lb_fail(err, text.status, NULL, "no memory for the URL file")
                           : lb_file_write(s->o->url_file, text.data, text.length,
                                           LB_WRITE_REPLACE, 0644, err);
    lb_buf_free(&text);
    return status;
}

static lb_status check(const up_options *o, lb_err *err)
{
    lb_dtype dtype;
    if (!o->teacher || !o->student)
        return lb_fail(err, LB_EINVAL, o->teacher ? "student" : "teacher",
                       "--teacher MODEL and --student MODEL are required");
    if (o->teacher_dtype && !lb_dtype_parse(o->teacher_dtype, &dtype))
        return lb_fail(err, LB_EINVAL, "teacher-dtype", "'%.20s' is none of " LB_DTYPE_NAMES,
                       o->teacher_dtype);
    if (!lb_dtype_parse(o->dtype, &dtype) || !lb_dtype_has_backward(dtype))
        return lb_fail(err, LB_EINVAL, "dtype", "'%.20s' is none of f32, bf16, fast, in which "
                       "workers can train", o->dtype);
    return LB_OK;
}

static lb_status prepare(supervisor *s, lb_err *err)
{
    const up_options *o = s->o;
    lb_status valid = check(o, err);
    if (valid != LB_OK)
        return valid;
    const char *const dirs[] = {o->teacher, o->student};
    for (size_t i = 0; i < 2; i++) {   /* the children look it up again, in the same environment */
        char path[LB_PATH_MAX];
        lb_status found = lb_hub_find(getenv, dirs[i], path, sizeof path, err);
        if (found != LB_OK) {
            (void)lb_err_wrap(err, "--%s", i ? "student" : "teacher");
            return found;
        }
    }
    lb_status status = lb_path_of_program(s->bin, sizeof s->bin, err);
    if (status == LB_OK)
        status = lb_dir_make(o->data, err);
    if (status != LB_OK)
        return status;
    if (!realpath(o->data, s->data))
        return lb_fail(err, LB_EIO, "data", "%.200s: %s", o->data, strerror(errno));
    snprintf(s->student, sizeof s->student, "student=%s", o->student);
    snprintf(s->children[0].name, sizeof s->children[0].name, "teacher");
    s->children[0].program = "limbeck-teacher";
    snprintf(s->children[1].name, sizeof s->children[1].name, "coordinator");
    s->children[1].program = "limbeck-coordinator";
    for (uint32_t i = 0; i < o->workers; i++) {
        child *c = &s->children[2 + i];
        snprintf(c->name, sizeof c->name, "worker-%u", i + 1);
        c->program = "limbeck-worker";
    }
    s->count = 2 + o->workers;
    return LB_OK;
}

static lb_status up(const up_options *o, lb_err *err)
{
    supervisor *s = calloc(1, sizeof *s);
    if (!s)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory");
    s->o = o;
    lb_status status = prepare(s, err);
    for (size_t i = 0; status == LB_OK && i < s->count; i++) {
        status = start_child(s, i, err);
        if (i == 0)
            snprintf(s->teacher_url, sizeof s->teacher_url, "teacher=%s", s->children[0].url);
    }
    if (status == LB_OK)
        status = announce(s, err);
    if (status == LB_OK)
        supervise(s);
    stop_children(s);
    free(s);
    return status;
}

int lb_cmd_up(int argc, char **argv)
{
    up_options o = {.workers = 1, .data = "limbeck-data", .dtype = "f32",
                    .coordinator_port = 7410, .teacher_port = 7420};
    const lb_option options[] = {
        {.name = "teacher", .type = LB_OPT_STRING, .out = &o.teacher, .value = "MODEL",
         .help = "the teacher's model folder (required)"},
        {.name = "student", .type = LB_OPT_STRING, .out = &o.student, .value = "MODEL",
         .help = "the student's model folder (required)"},
        {.name = "workers", .type = LB_OPT_U32, .out = &o.workers, .min = 0, .max = WORKERS_MAX,
         .value = "N", .help = "student workers"},
        {.name = "data", .type = LB_OPT_STRING, .out = &o.data, .value = "DIR",
         .help = "state, adapters and logs"},
        {.name = "port", .type = LB_OPT_U32, .out = &o.coordinator_port, .max = 65535,
         .value = "P", .help = "of the coordinator; 0: any free one"},
        {.name = "teacher-port", .type = LB_OPT_U32, .out = &o.teacher_port, .max = 65535,
         .value = "P", .help = "of the teacher; 0: any free one"},
        {.name = "threads", .type = LB_OPT_U32, .out = &o.threads, .max = 1024, .value = "N",
         .help = "of each process, 0: all it may use"},
        {.name = "dtype", .type = LB_OPT_STRING, .out = &o.dtype, .value = "f32|bf16|fast",
         .help = "how the weights are stored and multiplied"},
        {.name = "teacher-dtype", .type = LB_OPT_STRING, .out = &o.teacher_dtype,
         .value = LB_DTYPE_NAMES, .help = "the same for the teacher alone (default: --dtype)"},
        {.name = "url-file", .type = LB_OPT_STRING, .out = &o.url_file, .value = "FILE",
         .help = "file that gets the coordinator's URL once all are ready"},
    };
    const lb_command_line line = {
        .program = "limbeck up",
        .summary = "Runs a teacher, a coordinator and workers on this machine, on loopback. In a\n"
                   "job the models are named \"teacher\" and \"student\".",
        .examples = "  limbeck up --teacher models/big --student models/small --workers 2\n",
        .options = options,
        .option_count = sizeof options / sizeof *options,
    };
    int code = LB_EXIT_OK;
    if (!lb_cli_options(&line, argc, argv, NULL, &code))
        return code;
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    lb_err err = {0};
    lb_status status = up(&o, &err);
    if (status != LB_OK && !(status == LB_ECANCELLED && stop_requested))
        return lb_cli_fail(&err);
    return LB_EXIT_OK;
}
