/* SPDX-License-Identifier: Apache-2.0
 *
 * Finding models by path and in a Hugging Face cache laid out as huggingface_hub does.
 */
#include "common/io/file.h"
#include "common/io/hub.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENTRY "models--Some-Org--A.model-0.6B"
#define REVISION "c1899de289a04d12100db370d81485cdf75e47ca"

static void put(const char *root, const char *name, const char *text)
{
    char path[LB_PATH_MAX];
    assert_int_equal(lb_path_join(path, sizeof path, root, name, NULL), LB_OK);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_equal(lb_dir_make(path, NULL), LB_OK);
    *slash = '/';
    if (text)
        assert_int_equal(lb_file_write(path, text, strlen(text), LB_WRITE_REPLACE, 0644, NULL),
                         LB_OK);
    else
        assert_int_equal(lb_dir_make(path, NULL), LB_OK);
}

static int make_cache(void **state)
{
    char pattern[] = "/tmp/test_hub_XXXXXX", path[LB_PATH_MAX];
    *state = mkdtemp(pattern) ? strdup(pattern) : NULL;
    if (!*state)
        return -1;
    put(*state, ENTRY "/refs/main", REVISION);
    put(*state, ENTRY "/blobs/abc", "{}");
    put(*state, ENTRY "/snapshots/" REVISION, NULL);
    snprintf(path, sizeof path, "%s/" ENTRY "/snapshots/" REVISION "/config.json",
             (char *)*state);
    return symlink("../../blobs/abc", path);
}

static int remove_cache(void **state)
{
    char command[LB_PATH_MAX];
    snprintf(command, sizeof command, "rm -r '%s'", (char *)*state);
    int code = system(command);
    free(*state);
    return code;
}

static void test_found(void **state)
{
    char path[LB_PATH_MAX], want[LB_PATH_MAX], file[LB_PATH_MAX];
    lb_err err = {0};
    lb_buf text = {0};
    if (lb_hub_resolve("Some-Org/A.model-0.6B", *state, path, sizeof path, &err) != LB_OK)
        fail_msg("%s", err.message);
    snprintf(want, sizeof want, "%s/" ENTRY "/snapshots/" REVISION, (char *)*state);
    assert_string_equal(path, want);
    /* A snapshot's files are links into the blobs. */
    assert_int_equal(lb_path_join(file, sizeof file, path, "config.json", NULL), LB_OK);
    assert_int_equal(lb_file_read(file, 16, &text, &err), LB_OK);
    lb_buf_free(&text);
    /* A line end after the revision is not its name's. */
    put(*state, ENTRY "/refs/main", REVISION "\n");
    assert_int_equal(lb_hub_resolve("Some-Org/A.model-0.6B", *state, path, sizeof path, &err),
                     LB_OK);
    assert_string_equal(path, want);
}

/* What exists is taken before the cache is asked, a file as well as a folder. */
static void test_paths_win(void **state)
{
    static const char *const paths[] = {".", "tests/golden", "tests/golden/qwen3-tiny/config.json",
                                        "/"};
    char path[LB_PATH_MAX];
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        assert_int_equal(lb_hub_resolve(paths[i], *state, path, sizeof path, NULL), LB_OK);
        assert_string_equal(path, paths[i]);
        assert_int_equal(lb_hub_resolve(paths[i], NULL, path, sizeof path, NULL), LB_OK);
    }
    assert_int_equal(lb_hub_resolve("tests/golden", NULL, path, 5, NULL), LB_ETOOBIG);
    put(*state, "models--tests--golden/refs/main", REVISION);
    put(*state, "models--tests--golden/snapshots/" REVISION, NULL);
    assert_int_equal(lb_hub_resolve("tests/golden", *state, path, sizeof path, NULL), LB_OK);
    assert_string_equal(path, "tests/golden");
}

static void test_not_found(void **state)
{
    static const struct {
        const char *name, *says;
    } cases[] = {
        {"Some-Org/Another", "hf download Some-Org/Another"},
        {"some-org/A.model-0.6B", "hf download"},
        {"A.model-0.6B", "ORG/NAME"}, {"/nowhere/at-all", "ORG/NAME"}, {"a/b/c", "ORG/NAME"},
        {"../Some-Org", "ORG/NAME"}, {"Some-Org/..", "ORG/NAME"}, {"Some-Org/.A", "ORG/NAME"},
        {".hidden/A", "ORG/NAME"}, {"-a/b", "ORG/NAME"}, {"a/-b", "ORG/NAME"},
        {"Some-Org/", "ORG/NAME"}, {"a--b/c", "ORG/NAME"}, {"a/b..c", "ORG/NAME"},
        {"a b/c", "ORG/NAME"}, {"a\\b/c", "ORG/NAME"}, {"a\n/c", "ORG/NAME"},
        {"Some-Org/A.model-0.6B/", "ORG/NAME"}, {"~/c", "ORG/NAME"},
        {"Some-Org--A.model-0.6B/refs", "ORG/NAME"},
    };
    char path[LB_PATH_MAX] = "untouched", longest[200] = "a/";
    lb_err err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err = (lb_err){0};
        if (lb_hub_resolve(cases[i].name, *state, path, sizeof path, &err) != LB_ENOTFOUND ||
            !strstr(err.message, cases[i].says))
            fail_msg("%s: %s", cases[i].name, err.message);
        assert_string_equal(err.field, "model");
        assert_string_equal(path, "untouched");
        assert_int_equal(lb_hub_resolve(cases[i].name, *state, path, sizeof path, NULL),
                         LB_ENOTFOUND);
    }
    memset(longest + 2, 'b', 97);
    assert_int_equal(lb_hub_resolve(longest, *state, path, sizeof path, &err), LB_ENOTFOUND);
    assert_non_null(strstr(err.message, "ORG/NAME"));
    assert_int_equal(lb_hub_resolve("Some-Org/A.model-0.6B", "", path, sizeof path, &err),
                     LB_ENOTFOUND);
    assert_non_null(strstr(err.message, "HF_HUB_CACHE"));
    assert_int_equal(lb_hub_resolve("", *state, path, sizeof path, &err), LB_EINVAL);
}

/* An entry that a broken download, or somebody, left behind. */
static void test_bad_entries(void **state)
{
    static const struct {
        const char *main;      /* NULL: none */
        lb_status status;
        const char *says;
    } cases[] = {
        {NULL, LB_ENOTFOUND, "hf download a/b"},
        {"", LB_EDATA, "names no revision"},
        {"\n", LB_EDATA, "names no revision"},
        {"../../outside", LB_EDATA, "names no revision"},
        {"..", LB_EDATA, "names no revision"},
        {"/etc", LB_EDATA, "names no revision"},
        {"0123456789abcdef", LB_ENOTFOUND, "snapshots/0123456789abcdef"},
    };
    char path[LB_PATH_MAX];
    put(*state, "models--a--b/refs", NULL);
    put(*state, "outside", NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lb_err err = {0};
        if (cases[i].main)
            put(*state, "models--a--b/refs/main", cases[i].main);
        if (lb_hub_resolve("a/b", *state, path, sizeof path, &err) != cases[i].status ||
            !strstr(err.message, cases[i].says))
            fail_msg("'%s': %s", cases[i].main ? cases[i].main : "(none)", err.message);
    }
    char big[400];
    memset(big, 'a', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    put(*state, "models--a--b/refs/main", big);
    assert_int_not_equal(lb_hub_resolve("a/b", *state, path, sizeof path, NULL), LB_OK);
}

/* ---- where the cache is ---- */

static char *only_home(const char *name)
{
    static char home[] = "/h";
    return strcmp(name, "HOME") == 0 ? home : NULL;
}

static char *all_set(const char *name)
{
    static char hub[] = "/hub/cache", other[] = "/other";
    return strcmp(name, "HF_HUB_CACHE") == 0 ? hub : other;
}

static char *two_set(const char *name)
{
    static char hf[] = "/hf", xdg[] = "/xdg", empty[] = "";
    return strcmp(name, "HF_HOME") == 0 ? hf : strcmp(name, "HF_HUB_CACHE") == 0 ? empty : xdg;
}

static char *xdg_set(const char *name)
{
    static char xdg[] = "/xdg";
    return strncmp(name, "HF", 2) == 0 ? NULL : xdg;
}

static char *none_set(const char *name)
{
    (void)name;
    return NULL;
}

static void test_cache_root(void **state)
{
    static const struct {
        lb_hub_lookup lookup;
        const char *root;
    } cases[] = {
        {all_set, "/hub/cache"}, {two_set, "/hf/hub"}, {xdg_set, "/xdg/huggingface/hub"},
        {only_home, "/h/.cache/huggingface/hub"}, {none_set, ""},
    };
    char root[64];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(lb_hub_cache_root(cases[i].lookup, root, sizeof root, NULL), LB_OK);
        assert_string_equal(root, cases[i].root);
    }
    assert_int_equal(lb_hub_cache_root(only_home, root, 8, NULL), LB_ETOOBIG);
}

static char *cache_of_test;

static char *lookup_of_test(const char *name)
{
    return strcmp(name, "HF_HUB_CACHE") == 0 ? cache_of_test : NULL;
}

static void test_named_items(void **state)
{
    const char *items[] = {"a=tests/golden", "b=Some-Org/A.model-0.6B", "no equals", "c="};
    char *owned[4] = {0}, want[LB_PATH_MAX];
    lb_err err = {0};
    cache_of_test = *state;
    assert_int_equal(lb_hub_find_named(lookup_of_test, items, 4, owned, &err), LB_OK);
    snprintf(want, sizeof want, "b=%s/" ENTRY "/snapshots/" REVISION, (char *)*state);
    assert_string_equal(items[0], "a=tests/golden");
    assert_string_equal(items[1], want);
    assert_string_equal(items[2], "no equals");
    assert_true(!owned[0] && owned[1] && !owned[2] && !owned[3]);
    free(owned[1]);
    const char *missing[] = {"a=Some-Org/Missing"};
    assert_int_equal(lb_hub_find_named(lookup_of_test, missing, 1, owned, &err), LB_ENOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_found, make_cache, remove_cache),
        cmocka_unit_test_setup_teardown(test_paths_win, make_cache, remove_cache),
        cmocka_unit_test_setup_teardown(test_not_found, make_cache, remove_cache),
        cmocka_unit_test_setup_teardown(test_bad_entries, make_cache, remove_cache),
        cmocka_unit_test(test_cache_root),
        cmocka_unit_test_setup_teardown(test_named_items, make_cache, remove_cache),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
