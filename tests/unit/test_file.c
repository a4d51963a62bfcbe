/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/file.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define PATH_BYTES 512
#define WRITERS 6

/* A new folder for each test, removed after it. */
static int make_folder(void **state)
{
    char *folder = strdup("/tmp/lb_test_file.XXXXXX");
    *state = folder;
    return folder && mkdtemp(folder) ? 0 : -1;
}

static void remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (unlinkat(dirfd(dir), entry->d_name, 0) != 0) {
            char path[2 * PATH_BYTES];
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
            remove_folder(path);
        }
    }
    if (dir)
        closedir(dir);
    rmdir(folder);
}

static int drop_folder(void **state)
{
    remove_folder(*state);
    free(*state);
    return 0;
}

static const char *in(void **state, const char *name, char path[PATH_BYTES])
{
    snprintf(path, PATH_BYTES, "%s/%s", (const char *)*state, name);
    return path;
}

/* Entries of the folder, "." and ".." left out. */
static size_t entries(void **state)
{
    DIR *dir = opendir(*state);
    size_t n = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static void expect_content(const char *path, const char *want)
{
    lb_buf text = {0};
    assert_int_equal(lb_file_read(path, 1u << 20, &text, NULL), LB_OK);
    assert_int_equal(text.length, strlen(want));
    assert_memory_equal(text.data, want, text.length);
    lb_buf_free(&text);
}

static lb_status put(const char *path, const char *text, lb_write_mode mode, lb_err *err)
{
    return lb_file_write(path, text, strlen(text), mode, 0644, err);
}

static void test_read(void **state)
{
    char path[PATH_BYTES], below[PATH_BYTES];
    lb_buf out = {0};
    lb_err err = {0};
    in(state, "a", path);
    assert_int_equal(put(path, "12345", LB_WRITE_REPLACE, NULL), LB_OK);
    assert_int_equal(lb_file_read(path, 5, &out, &err), LB_OK);
    assert_string_equal((char *)out.data, "12345");
    lb_buf_free(&out);
    assert_int_equal(lb_file_read(path, 4, &out, &err), LB_ETOOBIG);
    assert_non_null(strstr(err.message, path));
    assert_null(out.data);
    assert_int_equal(lb_file_read(in(state, "none", below), 5, &out, &err), LB_ENOTFOUND);
    assert_non_null(strstr(err.message, below));
    assert_int_equal(lb_file_read(in(state, "a/b", below), 5, &out, &err), LB_ENOTFOUND);
    assert_int_equal(lb_file_read(*state, 1u << 20, &out, &err), LB_EINVAL);
    assert_int_equal(mkfifo(in(state, "fifo", below), 0600), 0);
    assert_int_equal(lb_file_read(below, 5, &out, &err), LB_EINVAL);   /* and does not hang */
    assert_int_equal(put(in(state, "empty", below), "", LB_WRITE_REPLACE, NULL), LB_OK);
    assert_int_equal(lb_file_read(below, 0, &out, &err), LB_OK);
    assert_int_equal(out.length, 0);
    lb_buf_free(&out);
}

static void test_map(void **state)
{
    char path[PATH_BYTES];
    lb_mapping mapping = {0};
    lb_err err = {0};
    in(state, "a", path);
    assert_int_equal(lb_file_map(path, &mapping, &err), LB_ENOTFOUND);
    assert_int_equal(put(path, "mapped", LB_WRITE_REPLACE, NULL), LB_OK);
    assert_int_equal(lb_file_map(path, &mapping, &err), LB_OK);
    /* What replaces the file later does not reach into the mapping. */
    assert_int_equal(put(path, "other!", LB_WRITE_REPLACE, NULL), LB_OK);
    assert_int_equal(mapping.length, 6);
    assert_memory_equal(mapping.data, "mapped", 6);
    lb_file_unmap(&mapping);
    assert_null(mapping.data);
    lb_file_unmap(&mapping);
    lb_file_unmap(NULL);
    assert_int_equal(put(path, "", LB_WRITE_REPLACE, NULL), LB_OK);
    assert_int_equal(lb_file_map(path, &mapping, &err), LB_OK);
    assert_null(mapping.data);
    assert_int_equal(mapping.length, 0);
    assert_int_equal(lb_file_map(*state, &mapping, &err), LB_EINVAL);
}

static void test_write_modes(void **state)
{
    char path[PATH_BYTES], folder[PATH_BYTES];
    struct stat st;
    lb_err err = {0};
    in(state, "a", path);
    assert_int_equal(put(path, "one", LB_WRITE_KEEP, &err), LB_OK);
    expect_content(path, "one");
    assert_int_equal(put(path, "two", LB_WRITE_KEEP, &err), LB_OK);
    expect_content(path, "one");
    assert_int_equal(put(path, "three", LB_WRITE_REPLACE, &err), LB_OK);
    expect_content(path, "three");
    assert_int_equal(lb_file_write(path, "key", 3, LB_WRITE_REPLACE, 0600, &err), LB_OK);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(lb_file_write(path, "read", 4, LB_WRITE_REPLACE, 0400, &err), LB_OK);
    expect_content(path, "read");
    assert_int_equal(entries(state), 1);
    /* A folder in the file's place is neither replaced nor taken for the file. */
    assert_int_equal(mkdir(in(state, "folder", folder), 0755), 0);
    assert_int_not_equal(put(folder, "x", LB_WRITE_REPLACE, &err), LB_OK);
    assert_int_not_equal(put(folder, "x", LB_WRITE_KEEP, &err), LB_OK);
    assert_int_equal(put(in(state, "none/a", folder), "x", LB_WRITE_KEEP, &err), LB_ENOTFOUND);
    assert_int_equal(entries(state), 2);
}

/* The longest names that a file system and the contract allow, and a name without a folder. */
static void test_write_names(void **state)
{
    char name[300], path[2 * PATH_BYTES], before[LB_PATH_MAX];
    lb_err err = {0};
    memset(name, 'n', 255);
    name[255] = '\0';
    snprintf(path, sizeof path, "%s/%s", (const char *)*state, name);
    assert_int_equal(put(path, "long", LB_WRITE_REPLACE, &err), LB_OK);
    expect_content(path, "long");
    char *endless = malloc(LB_PATH_MAX + 10);
    assert_non_null(endless);
    memset(endless, 'x', LB_PATH_MAX + 9);
    endless[LB_PATH_MAX + 9] = '\0';
    assert_int_equal(put(endless, "x", LB_WRITE_REPLACE, &err), LB_ETOOBIG);
    assert_int_equal(lb_dir_make(endless, &err), LB_EINVAL);
    free(endless);
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(*state), 0);
    assert_int_equal(put("bare", "here", LB_WRITE_KEEP, &err), LB_OK);
    expect_content("bare", "here");
    assert_int_equal(chdir(before), 0);
    assert_int_equal(entries(state), 2);
}

/* Temporary files of a process that died with our number do not stand in the way. */
static void test_write_steps_over_remains(void **state)
{
    char name[64], path[PATH_BYTES];
    for (unsigned i = 0; i < 200; i++) {
        snprintf(name, sizeof name, ".lb-%ld-%u.tmp", (long)getpid(), i);
        FILE *file = fopen(in(state, name, path), "w");
        assert_non_null(file);
        fclose(file);
    }
    lb_err err = {0};
    assert_int_equal(put(in(state, "a", path), "there", LB_WRITE_REPLACE, &err), LB_OK);
    expect_content(path, "there");
    assert_int_equal(entries(state), 201);
}

/* A write that fails half way leaves the old file, no other, and the reason. The limit on a file's
 * size stands for a full disk, which a test cannot have everywhere. */
static void test_failed_write_leaves_the_old(void **state)
{
    char path[PATH_BYTES];
    static char large[65536];
    struct rlimit old, small;
    lb_err err = {0};
    in(state, "a", path);
    assert_int_equal(put(path, "old", LB_WRITE_REPLACE, &err), LB_OK);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    lb_status replaced = lb_file_write(path, large, sizeof large, LB_WRITE_REPLACE, 0644, &err);
    lb_status kept = lb_file_write(path, large, sizeof large, LB_WRITE_KEEP, 0644, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(replaced, LB_EIO);
    assert_int_equal(kept, LB_EIO);
    assert_non_null(strstr(err.message, path));
    expect_content(path, "old");
    assert_int_equal(entries(state), 1);
}

typedef struct writer {
    const char *path;
    lb_write_mode mode;
    char text[2];
    lb_status status;
} writer;

static void *write_some(void *arg)
{
    writer *w = arg;
    for (int i = 0; i < 20 && w->status == LB_OK; i++)
        w->status = put(w->path, w->text, w->mode, NULL);
    return NULL;
}

/* Many writers of one name all succeed, and one of them has written it. */
static void test_concurrent_writers(void **state)
{
    char path[PATH_BYTES];
    in(state, "a", path);
    for (lb_write_mode mode = LB_WRITE_REPLACE; mode <= LB_WRITE_KEEP; mode++) {
        pthread_t threads[WRITERS];
        writer writers[WRITERS];
        for (int i = 0; i < WRITERS; i++) {
            writers[i] = (writer){.path = path, .mode = mode, .text = {(char)('a' + i), '\0'}};
            assert_int_equal(pthread_create(&threads[i], NULL, write_some, &writers[i]), 0);
        }
        for (int i = 0; i < WRITERS; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(writers[i].status, LB_OK);
        }
        lb_buf text = {0};
        assert_int_equal(lb_file_read(path, 1, &text, NULL), LB_OK);
        assert_in_range(text.data[0], 'a', 'a' + WRITERS - 1);
        lb_buf_free(&text);
        assert_int_equal(entries(state), 1);
    }
}

static void test_dir_make(void **state)
{
    char path[PATH_BYTES];
    lb_err err = {0};
    assert_int_equal(lb_dir_make(in(state, "a/b//c/", path), &err), LB_OK);
    assert_true(lb_path_is_dir(in(state, "a/b/c", path)));
    assert_int_equal(lb_dir_make(path, &err), LB_OK);
    assert_int_equal(lb_dir_make("/", &err), LB_OK);
    assert_int_equal(lb_dir_make("", &err), LB_EINVAL);
    assert_int_equal(put(in(state, "file", path), "x", LB_WRITE_KEEP, NULL), LB_OK);
    assert_true(lb_path_is_file(path));
    assert_false(lb_path_is_dir(path));
    assert_int_equal(lb_dir_make(path, &err), LB_EIO);
    assert_non_null(strstr(err.message, path));
    assert_int_not_equal(lb_dir_make(in(state, "file/below", path), &err), LB_OK);
    assert_false(lb_path_is_file(*state));
    assert_false(lb_path_is_dir(in(state, "none", path)));
    assert_false(lb_path_is_file(path));
}

static void test_paths(void **state)
{
    (void)state;
    char out[LB_PATH_MAX], small[8];
    lb_err err = {0};
    assert_int_equal(lb_path_join(out, sizeof out, "a/b", "c", &err), LB_OK);
    assert_string_equal(out, "a/b/c");
    assert_int_equal(lb_path_join(small, sizeof small, "abc", "def", &err), LB_OK);
    assert_int_equal(lb_path_join(small, sizeof small, "abc", "defg", &err), LB_ETOOBIG);
    assert_int_equal(lb_path_of_program(out, sizeof out, &err), LB_OK);
    char program[2 * LB_PATH_MAX];
    snprintf(program, sizeof program, "%s/test_file", out);
    assert_true(lb_path_is_file(program));
    assert_int_equal(lb_path_of_program(small, sizeof small, &err), LB_EIO);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_FOLDER(test_read),
        IN_FOLDER(test_map),
        IN_FOLDER(test_write_modes),
        IN_FOLDER(test_write_names),
        IN_FOLDER(test_write_steps_over_remains),
        IN_FOLDER(test_failed_write_leaves_the_old),
        IN_FOLDER(test_concurrent_writers),
        IN_FOLDER(test_dir_make),
        cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
