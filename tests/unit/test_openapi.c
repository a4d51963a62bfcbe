/* SPDX-License-Identifier: Apache-2.0
 *
 * proto/openapi.yaml and the route tables say the same: every row is described, every described
 * operation has a row, and the operation's tag names the daemon that serves it.
 */
#include "common/io/file.h"
#include "server/coordinator/daemon_impl.h"
#include "server/teacher/teacher.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPERATIONS_MAX 128
#define LINE_MAX_BYTES 512

typedef struct operation {
    char path[128], method[8], tags[64];
    bool open;                 /* needs no key */
    bool served[2];            /* by the teacher, by the coordinator */
} operation;

typedef struct description {
    operation operations[OPERATIONS_MAX];
    size_t count;
} description;

/* The file is ours and regular: paths stand at two spaces, methods at four, their keys at six. */
static void read_description(description *d)
{
    lb_buf text = {0};
    char path[128] = "";
    bool inside = false;
    assert_int_equal(lb_file_read("proto/openapi.yaml", 1 << 20, &text, NULL), LB_OK);
    char *rest = (char *)text.data, *line;
    while ((line = strsep(&rest, "\n"))) {
        operation *last = d->count ? &d->operations[d->count - 1] : NULL;
        char word[LINE_MAX_BYTES];
        if (line[0] != ' ' && line[0] != '\0')
            inside = strcmp(line, "paths:") == 0;
        else if (inside && sscanf(line, "  /%126[^:]:", path + 1) == 1 && line[2] == '/')
            path[0] = '/';
        else if (inside && strncmp(line, "    ", 4) == 0 && line[4] != ' ' &&
                 sscanf(line, "    %7[a-z]:", word) == 1) {
            assert_true(d->count < OPERATIONS_MAX);
            last = &d->operations[d->count++];
            snprintf(last->path, sizeof last->path, "%s", path);
            for (size_t i = 0; word[i]; i++)
                last->method[i] = (char)(word[i] - 32);
        } else if (inside && last && sscanf(line, "      tags: [%63[^]]]", word) == 1) {
            snprintf(last->tags, sizeof last->tags, "%.63s", word);
        } else if (inside && last && strcmp(line, "      security: [{}]") == 0) {
            last->open = true;
        }
    }
    lb_buf_free(&text);
}

/* Holds a daemon's table against the description; `tags` are the tags its operations may have. */
static void check_table(description *d, const lb_route *routes, size_t count, int daemon,
                        const char *tag, const char *other_tag)
{
    for (size_t r = 0; r < count; r++) {
        operation *found = NULL;
        for (size_t i = 0; i < d->count; i++) {
            if (strcmp(d->operations[i].path, routes[r].path) == 0 &&
                strcmp(d->operations[i].method, routes[r].method) == 0)
                found = &d->operations[i];
        }
        if (!found)
            fail_msg("%s %s is not in openapi.yaml", routes[r].method, routes[r].path);
        if (!strstr(found->tags, tag) && !(other_tag && strstr(found->tags, other_tag)))
            fail_msg("%s %s lacks the tag %s", routes[r].method, routes[r].path, tag);
        if (found->open != (routes[r].scope == LB_SCOPE_OPEN))
            fail_msg("%s %s: security differs", routes[r].method, routes[r].path);
        found->served[daemon] = true;
    }
}

static void test_tables_and_description_agree(void **state)
{
    (void)state;
    static description d;
    size_t teacher_count = 0;
    const lb_route *teacher = lb_teacher_routes(&teacher_count);
    read_description(&d);
    assert_true(d.count > 20);
    check_table(&d, teacher, teacher_count, 0, "teacher", NULL);
    check_table(&d, lb_coordinator_routes, lb_coordinator_route_count, 1, "coordinator",
                "worker");
    for (size_t i = 0; i < d.count; i++) {
        const operation *o = &d.operations[i];
        bool for_teacher = strstr(o->tags, "teacher") != NULL;
        bool for_coordinator = strstr(o->tags, "coordinator") || strstr(o->tags, "worker");
        if (for_teacher != o->served[0] || for_coordinator != o->served[1])
            fail_msg("%s %s is described but not served (tags %s)", o->method, o->path, o->tags);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tables_and_description_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
