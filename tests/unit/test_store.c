/* SPDX-License-Identifier: Apache-2.0 */
#include "common/io/file.h"
#include "server/store/blob.h"
#include "server/store/store.h"

#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define JOB "ftjob-1"

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int make_folder(void **state)
{
    char *dir = strdup("/tmp/limbeck-store-XXXXXX");
    *state = dir;
    return dir && mkdtemp(dir) ? 0 : -1;
}

static int drop_folder(void **state)
{
    nftw(*state, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return 0;
}

static void hex_of(char fill, char out[LB_SHA256_HEX])
{
    memset(out, fill, LB_SHA256_HEX - 1);
    out[LB_SHA256_HEX - 1] = 0;
}

static lb_store *open_store(const char *dir)
{
    lb_err err = {0};
    lb_store *store = NULL;
    if (lb_store_open(dir, &store, &err) != LB_OK)
        fail_msg("%s", err.message);
    return store;
}

static void insert_job(lb_store *store, const char *id, const char *suffix)
{
    char hyper[] = "{\"max_steps\":3}", metadata[] = "{}";
    lb_err err = {0};
    lb_job_row row = {.seed = INT64_MAX, .hyperparameters = hyper, .metadata = metadata,
                      .dataset_rows = 10, .vocab = 32, .graded = true, .adapter_bytes = 99,
                      .created_at = 5};
    lb_event_row event = {.created_at = 5, .level = "info", .type = "message",
                          .message = "Created; 'quoted'"};
    snprintf(row.id, sizeof row.id, "%s", id);
    snprintf(row.suffix, sizeof row.suffix, "%s", suffix);
    snprintf(row.model, sizeof row.model, "student");
    snprintf(row.teacher, sizeof row.teacher, "teacher");
    hex_of('0', row.head_hash);
    hex_of('a', row.adapter_sha);
    hex_of('d', row.dataset_sha);
    if (store->job_insert(store->impl, &row, &event, &err) != LB_OK)
        fail_msg("%s", err.message);
}

static lb_status first_job(void *arg, lb_job_row *row)
{
    lb_job_row *out = arg;
    if (!out->id[0]) {
        *out = *row;
        *row = (lb_job_row){0};
    }
    return LB_OK;
}

static lb_job_row read_job(lb_store *store)
{
    lb_job_row row = {0};
    lb_err err = {0};
    if (store->jobs(store->impl, first_job, &row, &err) != LB_OK)
        fail_msg("%s", err.message);
    return row;
}

static lb_status push(lb_store *store, uint32_t step, uint32_t unit, char fill, const char *class)
{
    lb_push_row row = {.step = step, .unit = unit, .bytes = 7, .tokens = 11, .fence = 3};
    hex_of(fill, row.digest);
    snprintf(row.worker, sizeof row.worker, "w1");
    return store->push_insert(store->impl, JOB, &row, class, NULL);
}

static void start(lb_store *store)
{
    lb_job_change change = {.state = LB_JOB_RUNNING, .error_code = "", .error_message = "",
                            .started_at = 6};
    assert_int_equal(store->job_change(store->impl, JOB, &change, NULL), LB_OK);
}

static lb_status commit(lb_store *store, uint32_t step, char prev, char hash, bool last)
{
    lb_step_row row = {.step = step, .tokens = 22, .adapter_bytes = 9, .snapshot = true,
                       .grad_kept = true, .opt_kept = true, .created_at = 7};
    lb_event_row event = {.created_at = 7, .level = "info", .type = "metrics",
                          .message = "Step", .step = step + 1};
    lb_job_change change = {.state = LB_JOB_SUCCEEDED, .error_code = "", .error_message = "",
                            .started_at = 6, .finished_at = 8};
    lb_step_commit rows = {.row = &row, .metrics = "{\"step\":1}", .tokens_total = 22,
                           .event = &event, .change = last ? &change : NULL};
    hex_of(prev, row.prev);
    hex_of(hash, row.hash);
    hex_of('1', row.units_root);
    hex_of('2', row.grad_sha);
    hex_of('3', row.adapter_sha);
    hex_of('4', row.opt_sha);
    return store->step_commit(store->impl, JOB, &rows, NULL);
}

static lb_status keep_event(void *arg, const lb_event_row *row)
{
    char *out = arg;
    size_t used = strlen(out);
    snprintf(out + used, 400 - used, "%u:%s:%s;", (unsigned)row->seq, row->message,
             row->data ? row->data : "-");
    return LB_OK;
}

static void test_rows_survive_reopening(void **state)
{
    char text[400] = "";
    lb_store *store = open_store(*state);
    assert_int_equal(store->epoch, 1);
    insert_job(store, JOB, "quick");
    start(store);
    assert_int_equal(push(store, 0, 0, 'b', "class0"), LB_OK);
    assert_int_equal(commit(store, 0, '0', 'c', false), LB_OK);
    lb_store_close(store);

    store = open_store(*state);
    assert_int_equal(store->epoch, 2);
    lb_job_row row = read_job(store);
    assert_string_equal(row.id, JOB);
    assert_string_equal(row.numerics_class, "class0");
    assert_string_equal(row.hyperparameters, "{\"max_steps\":3}");
    assert_true(row.seed == INT64_MAX && row.graded && row.state == LB_JOB_RUNNING);
    assert_true(row.head == 1 && row.tokens_total == 22 && row.started_at == 6);
    assert_int_equal(row.head_hash[0], 'c');
    lb_job_row_free(&row);
    lb_push_row pushed;
    assert_int_equal(store->push_get(store->impl, JOB, 0, 0, &pushed, NULL), LB_OK);
    assert_true(pushed.tokens == 11 && pushed.fence == 3 && pushed.digest[0] == 'b');
    assert_int_equal(store->push_get(store->impl, JOB, 0, 1, &pushed, NULL), LB_ENOTFOUND);
    assert_int_equal(store->events(store->impl, JOB, 0, 10, keep_event, text, NULL), LB_OK);
    assert_string_equal(text, "2:Step:{\"step\":1};1:Created; 'quoted':-;");
    lb_store_close(store);
}

static void test_second_opener_is_refused(void **state)
{
    lb_err err = {0};
    lb_store *store = open_store(*state), *second = NULL;
    assert_int_equal(lb_store_open(*state, &second, &err), LB_ECONFLICT);
    assert_string_equal(err.field, "data");
    assert_non_null(strstr(err.message, "epoch 1"));
    lb_store_close(store);
    store = open_store(*state);
    lb_store_close(store);
}

static void test_fences_grow(void **state)
{
    uint64_t first = 0, second = 0, third = 0;
    lb_store *store = open_store(*state);
    assert_int_equal(store->fences(store->impl, 1000, &first, NULL), LB_OK);
    assert_int_equal(store->fences(store->impl, 0, &second, NULL), LB_OK);
    lb_store_close(store);
    store = open_store(*state);
    assert_int_equal(store->fences(store->impl, 1000, &third, NULL), LB_OK);
    assert_true(first == 1 && second == 1001 && third == 1001);
    lb_store_close(store);
}

/* Each refusal leaves nothing behind. */
static void test_commit_only_on_the_head(void **state)
{
    lb_store *store = open_store(*state);
    insert_job(store, JOB, "quick");
    assert_int_equal(commit(store, 0, '0', 'c', false), LB_EGONE);   /* not running yet */
    start(store);
    assert_int_equal(commit(store, 1, '0', 'c', false), LB_EGONE);   /* another step */
    assert_int_equal(commit(store, 0, '9', 'c', false), LB_EGONE);   /* another history */
    assert_int_equal(commit(store, 0, '0', 'c', false), LB_OK);
    assert_int_equal(commit(store, 0, '0', 'c', false), LB_EGONE);   /* twice */
    assert_int_equal(commit(store, 1, 'c', 'e', true), LB_OK);
    assert_int_equal(commit(store, 2, 'e', 'f', false), LB_EGONE);   /* over */
    lb_job_row row = read_job(store);
    assert_true(row.head == 2 && row.state == LB_JOB_SUCCEEDED && row.finished_at == 8);
    lb_job_row_free(&row);
    lb_store_close(store);
}

static void test_conflicts(void **state)
{
    lb_store *store = open_store(*state);
    insert_job(store, JOB, "quick");
    assert_int_equal(push(store, 0, 0, 'b', "class0"), LB_OK);
    assert_int_equal(push(store, 0, 0, 'c', NULL), LB_ECONFLICT);       /* one row a unit */
    assert_int_equal(push(store, 0, 1, 'c', "class1"), LB_ECONFLICT);   /* the class is pinned */
    lb_push_row row;
    assert_int_equal(store->push_get(store->impl, JOB, 0, 1, &row, NULL), LB_ENOTFOUND);
    lb_job_change change = {.state = LB_JOB_FAILED, .error_code = "x", .error_message = "y"};
    assert_int_equal(store->job_change(store->impl, JOB, &change, NULL), LB_OK);
    assert_int_equal(store->job_change(store->impl, JOB, &change, NULL), LB_EGONE);
    lb_store_close(store);
}

static lb_status count_text(void *arg, const char *text)
{
    (void)text;
    (*(int *)arg)++;
    return LB_OK;
}

static bool needs(lb_store *store, char fill)
{
    char sha[LB_SHA256_HEX];
    hex_of(fill, sha);
    return store->needs_blob(store->impl, sha);
}

static void test_which_blobs_are_needed(void **state)
{
    int given_up = 0;
    lb_store *store = open_store(*state);
    insert_job(store, JOB, "quick");
    start(store);
    assert_true(needs(store, 'a') && needs(store, 'd') && !needs(store, 'b'));
    assert_int_equal(push(store, 0, 0, 'b', NULL), LB_OK);
    assert_true(needs(store, 'b'));
    assert_int_equal(commit(store, 0, '0', 'c', false), LB_OK);
    assert_false(needs(store, 'b'));
    assert_true(needs(store, '2') && needs(store, '3') && needs(store, '4'));
    assert_int_equal(store->forget(store->impl, JOB, 1, 0, count_text, &given_up, NULL), LB_OK);
    assert_int_equal(given_up, 1);
    assert_true(!needs(store, '2') && needs(store, '4'));
    assert_int_equal(store->forget(store->impl, JOB, 1, 1, count_text, &given_up, NULL), LB_OK);
    assert_int_equal(given_up, 2);
    assert_true(!needs(store, '4') && needs(store, '3'));
    lb_store_close(store);
}

/* ---- damage ---- */

static void flip_byte(const char *path, long offset)
{
    (void)chmod(path, 0644);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, offset, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, offset, SEEK_SET);
    fputc(byte ^ 0x40, file);
    fclose(file);
}

static void test_damaged_database_is_refused(void **state)
{
    char path[LB_PATH_MAX];
    lb_err err = {0};
    lb_store *store = open_store(*state);
    insert_job(store, JOB, "quick");
    lb_store_close(store);
    snprintf(path, sizeof path, "%s/state.db", (const char *)*state);
    flip_byte(path, 5);        /* the magic "SQLite format 3" */
    assert_int_not_equal(lb_store_open(*state, &store, &err), LB_OK);
    assert_non_null(strstr(err.message, "state.db"));
}

static lb_blobs *open_blobs(const char *dir)
{
    lb_err err = {0};
    lb_blobs *blobs = NULL;
    if (lb_blobs_open(dir, &blobs, &err) != LB_OK)
        fail_msg("%s", err.message);
    return blobs;
}

static void blob_path(const char *dir, const char *hex, char *out)
{
    snprintf(out, LB_PATH_MAX, "%s/blobs/%.2s/%s", dir, hex, hex);
}

static void test_damaged_blob_is_named(void **state)
{
    static const char bytes[] = "forty-two bytes of a gradient, more or less";
    char hex[LB_SHA256_HEX], path[LB_PATH_MAX];
    lb_err err = {0};
    lb_buf out = {0};
    lb_blobs *blobs = open_blobs(*state);
    assert_int_equal(lb_blobs_put(blobs, bytes, sizeof bytes, hex, NULL), LB_OK);
    assert_int_equal(lb_blobs_put(blobs, bytes, sizeof bytes, hex, NULL), LB_OK);
    assert_int_equal(lb_blobs_get(blobs, hex, &out, NULL), LB_OK);
    assert_memory_equal(out.data, bytes, sizeof bytes);
    lb_buf_free(&out);

    blob_path(*state, hex, path);
    flip_byte(path, 3);
    assert_int_equal(lb_blobs_get(blobs, hex, &out, &err), LB_EDATA);
    assert_non_null(strstr(err.message, hex));
    assert_non_null(strstr(err.message, *state));
    assert_false(lb_path_is_file(path));
    snprintf(path, sizeof path, "%s/quarantine/%s", (const char *)*state, hex);
    assert_true(lb_path_is_file(path));
    assert_int_equal(lb_blobs_get(blobs, hex, &out, NULL), LB_ENOTFOUND);

    /* Put again over a damaged file: the file is whole afterwards. */
    assert_int_equal(lb_blobs_put(blobs, bytes, sizeof bytes, hex, NULL), LB_OK);
    blob_path(*state, hex, path);
    flip_byte(path, 3);
    assert_int_equal(lb_blobs_put(blobs, bytes, sizeof bytes, hex, NULL), LB_OK);
    assert_int_equal(lb_blobs_get(blobs, hex, &out, NULL), LB_OK);
    lb_buf_free(&out);
    lb_blobs_close(blobs);
}

static void test_blob_names(void **state)
{
    static const char *const names[] = {
        "", "..", "../../etc/passwd", "0123",
        "ABCDEF6789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde/",
    };
    lb_buf out = {0};
    lb_blobs *blobs = open_blobs(*state);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_int_equal(lb_blobs_get(blobs, names[i], &out, NULL), LB_EINVAL);
    lb_blobs_close(blobs);
}

static bool keep_one(void *arg, const char *hex)
{
    return strcmp(arg, hex) == 0;
}

static void test_sweep(void **state)
{
    char kept[LB_SHA256_HEX], dropped[LB_SHA256_HEX], path[LB_PATH_MAX];
    size_t removed = 0;
    lb_buf out = {0};
    lb_blobs *blobs = open_blobs(*state);
    assert_int_equal(lb_blobs_put(blobs, "a", 1, kept, NULL), LB_OK);
    assert_int_equal(lb_blobs_put(blobs, "b", 1, dropped, NULL), LB_OK);
    snprintf(path, sizeof path, "%s/blobs/%.2s/.unfinished", (const char *)*state, kept);
    assert_int_equal(lb_file_write(path, "x", 1, LB_WRITE_REPLACE, 0644, NULL), LB_OK);
    assert_int_equal(lb_blobs_sweep(blobs, keep_one, kept, &removed, NULL), LB_OK);
    assert_int_equal(removed, 2);
    assert_int_equal(lb_blobs_get(blobs, kept, &out, NULL), LB_OK);
    assert_int_equal(lb_blobs_get(blobs, dropped, &out, NULL), LB_ENOTFOUND);
    assert_false(lb_path_is_file(path));
    lb_buf_free(&out);
    lb_blobs_close(blobs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rows_survive_reopening, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_second_opener_is_refused, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_fences_grow, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_commit_only_on_the_head, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_conflicts, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_which_blobs_are_needed, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_damaged_database_is_refused, make_folder,
                                        drop_folder),
        cmocka_unit_test_setup_teardown(test_damaged_blob_is_named, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_blob_names, make_folder, drop_folder),
        cmocka_unit_test_setup_teardown(test_sweep, make_folder, drop_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
