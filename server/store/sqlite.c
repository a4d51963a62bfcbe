/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening the database, the lock of the data folder, statements and transactions. One connection
 * with locking_mode=EXCLUSIVE set before WAL: no second connection can ever share the WAL, so none
 * of the races between connections exist. synchronous=FULL, since NORMAL may lose the last commits
 * in a power cut.
 */
#include "server/store/sqlite_impl.h"

#include "common/io/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

#define SCHEMA_VERSION 2
#define LOCK_TEXT_MAX 64
#define NFS_MAGIC 0x6969
#define ROW_BYTES_MAX (16 << 20)

lb_status lb_sql_fail(lb_sqlite *sqlite, int code, lb_sql_id id, lb_err *err)
{
    lb_status status = LB_EIO;
    switch (code & 0xff) {
    case SQLITE_FULL: status = LB_ENOSPACE; break;
    case SQLITE_NOMEM: status = LB_ENOMEM; break;
    case SQLITE_CONSTRAINT: status = LB_ECONFLICT; break;
    case SQLITE_TOOBIG: status = LB_ETOOBIG; break;
    default: break;
    }
    return lb_fail(err, status, NULL, "state.db: %.200s (code %d, statement %d)",
                   sqlite->db ? sqlite3_errmsg(sqlite->db) : "no connection", code, (int)id);
}

void lb_sql_reset(lb_sqlite *sqlite, lb_sql_id id)
{
    (void)sqlite3_reset(sqlite->statements[id]);
    (void)sqlite3_clear_bindings(sqlite->statements[id]);
}

lb_status lb_sql_bind(lb_sqlite *sqlite, lb_sql_id id, lb_err *err, const char *types, ...)
{
    sqlite3_stmt *statement = sqlite->statements[id];
    int code = SQLITE_OK;
    assert((size_t)sqlite3_bind_parameter_count(statement) == strlen(types));
    lb_sql_reset(sqlite, id);
    va_list args;
    va_start(args, types);
    for (int i = 0; types[i] && code == SQLITE_OK; i++) {
        if (types[i] == 't')
            code = sqlite3_bind_text(statement, i + 1, va_arg(args, const char *), -1,
                                     SQLITE_TRANSIENT);
        else if (types[i] == 'i')
            code = sqlite3_bind_int64(statement, i + 1, va_arg(args, int64_t));
        else
            code = sqlite3_bind_int64(statement, i + 1, (int64_t)va_arg(args, uint64_t));
    }
    va_end(args);
    return code == SQLITE_OK ? LB_OK : lb_sql_fail(sqlite, code, id, err);
}

lb_status lb_sql_next(lb_sqlite *sqlite, lb_sql_id id, bool *row, lb_err *err)
{
    int code = sqlite3_step(sqlite->statements[id]);
    *row = code == SQLITE_ROW;
    if (code == SQLITE_ROW)
        return LB_OK;
    lb_status status = code == SQLITE_DONE ? LB_OK : lb_sql_fail(sqlite, code, id, err);
    lb_sql_reset(sqlite, id);
    return status;
}

lb_status lb_sql_run(lb_sqlite *sqlite, lb_sql_id id, int *changes, lb_err *err)
{
    bool row = true;
    lb_status status = LB_OK;
    while (status == LB_OK && row)
        status = lb_sql_next(sqlite, id, &row, err);
    if (changes)
        *changes = sqlite3_changes(sqlite->db);
    return status;
}

void lb_sql_text_of(lb_sqlite *sqlite, lb_sql_id id, int column, char *out, size_t size)
{
    const char *text = (const char *)sqlite3_column_text(sqlite->statements[id], column);
    snprintf(out, size, "%s", text ? text : "");
}

uint64_t lb_sql_u64_of(lb_sqlite *sqlite, lb_sql_id id, int column)
{
    return (uint64_t)sqlite3_column_int64(sqlite->statements[id], column);
}

static lb_status read_epoch(lb_sqlite *sqlite, uint64_t *epoch, lb_err *err)
{
    bool row = false;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_EPOCH_GET, err, "");
    if (status == LB_OK)
        status = lb_sql_next(sqlite, LB_SQL_EPOCH_GET, &row, err);
    if (status == LB_OK && !row)
        status = lb_fail(err, LB_EDATA, NULL, "state.db: the table coord has no row");
    if (status == LB_OK)
        *epoch = lb_sql_u64_of(sqlite, LB_SQL_EPOCH_GET, 0);
    lb_sql_reset(sqlite, LB_SQL_EPOCH_GET);
    return status;
}

lb_status lb_sql_begin(lb_sqlite *sqlite, lb_err *err)
{
    uint64_t epoch = 0;
    lb_status status = lb_sql_run(sqlite, LB_SQL_BEGIN, NULL, err);
    if (status != LB_OK)
        return status;
    status = read_epoch(sqlite, &epoch, err);
    if (status == LB_OK && epoch != sqlite->store.epoch)
        status = lb_fail(err, LB_EGONE, "epoch", "epoch %" PRIu64 " holds the store, ours is %"
                         PRIu64, epoch, sqlite->store.epoch);
    return status == LB_OK ? LB_OK : lb_sql_end(sqlite, status, err);
}

lb_status lb_sql_end(lb_sqlite *sqlite, lb_status status, lb_err *err)
{
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_COMMIT, NULL, err);
    if (status != LB_OK && !sqlite3_get_autocommit(sqlite->db)) {
        (void)sqlite3_step(sqlite->statements[LB_SQL_ROLLBACK]);
        lb_sql_reset(sqlite, LB_SQL_ROLLBACK);
    }
    return status;
}

static lb_status take_lock(lb_sqlite *sqlite, const char *dir, lb_err *err)
{
    char path[LB_PATH_MAX], text[LOCK_TEXT_MAX] = "";
    struct statfs fs;
    lb_status status = lb_path_join(path, sizeof path, dir, "LOCK", err);
    if (status != LB_OK)
        return status;
    sqlite->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (sqlite->lock_fd < 0)
        return lb_fail(err, LB_EIO, "data", "cannot open %.200s: %s", path, strerror(errno));
    if (fstatfs(sqlite->lock_fd, &fs) == 0 && fs.f_type == NFS_MAGIC)
        return lb_fail(err, LB_EUNSUPPORTED, "data",
                       "%.200s is on NFS, whose locks cannot be relied on", dir);
    if (flock(sqlite->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return LB_OK;
    ssize_t count = pread(sqlite->lock_fd, text, sizeof text - 1, 0);
    text[count > 0 ? count : 0] = 0;
    text[strcspn(text, "\r\n")] = 0;
    return lb_fail(err, LB_ECONFLICT, "data", "%.200s is in use by another coordinator (%s)", dir,
                   text);
}

/* Who holds the folder, for the message of the one that is refused. A hint: the lock counts. */
static void sign_lock(const lb_sqlite *sqlite)
{
    char text[LOCK_TEXT_MAX];
    int length = snprintf(text, sizeof text, "pid %ld epoch %" PRIu64 "\n", (long)getpid(),
                          sqlite->store.epoch);
    if (ftruncate(sqlite->lock_fd, 0) != 0 ||
        pwrite(sqlite->lock_fd, text, (size_t)length, 0) != length)
        return;
}

static lb_status execute(lb_sqlite *sqlite, const char *constant_sql, lb_err *err)
{
    int code = sqlite3_exec(sqlite->db, constant_sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? LB_OK : lb_sql_fail(sqlite, code, LB_SQL_COUNT, err);
}

/* One value of a constant query, as text. */
static lb_status query_text(lb_sqlite *sqlite, const char *constant_sql, char *out, size_t size,
                            lb_err *err)
{
    sqlite3_stmt *statement = NULL;
    int code = sqlite3_prepare_v2(sqlite->db, constant_sql, -1, &statement, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        const char *text = (const char *)sqlite3_column_text(statement, 0);
        snprintf(out, size, "%s", text ? text : "");
    }
    lb_status status = code == SQLITE_ROW ? LB_OK : lb_sql_fail(sqlite, code, LB_SQL_COUNT, err);
    sqlite3_finalize(statement);
    return status;
}

static lb_status check_database(lb_sqlite *sqlite, lb_err *err)
{
    char answer[LB_ERR_MESSAGE_MAX], version[16];
    lb_status status = query_text(sqlite, "PRAGMA quick_check(1)", answer, sizeof answer, err);
    if (status == LB_OK && strcmp(answer, "ok") != 0)
        return lb_fail(err, LB_EDATA, "data", "state.db is damaged: %.200s", answer);
    if (status == LB_OK)
        status = query_text(sqlite, "PRAGMA user_version", version, sizeof version, err);
    if (status != LB_OK)
        return status;
    if (strcmp(version, "0") == 0)
        return execute(sqlite, lb_sql_schema, err);
    if (strtol(version, NULL, 10) != SCHEMA_VERSION)
        return lb_fail(err, LB_EUNSUPPORTED, "data",
                       "state.db has schema version %s, this program knows %d", version,
                       SCHEMA_VERSION);
    return LB_OK;
}

static lb_status open_database(lb_sqlite *sqlite, const char *path, bool on_disk, lb_err *err)
{
    char mode[16];
    int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                SQLITE_OPEN_PRIVATECACHE;
    int code = sqlite3_open_v2(path, &sqlite->db, flags, NULL);
    if (code != SQLITE_OK)
        return lb_sql_fail(sqlite, code, LB_SQL_COUNT, err);
    (void)sqlite3_extended_result_codes(sqlite->db, 1);
    (void)sqlite3_db_config(sqlite->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_limit(sqlite->db, SQLITE_LIMIT_LENGTH, ROW_BYTES_MAX);
    lb_status status = execute(sqlite, "PRAGMA locking_mode = EXCLUSIVE;"
                               "PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = ON;"
                               "PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;", err);
    if (status == LB_OK)
        status = query_text(sqlite, "PRAGMA journal_mode = WAL", mode, sizeof mode, err);
    if (status == LB_OK && on_disk && strcmp(mode, "wal") != 0)
        status = lb_fail(err, LB_EIO, "data", "state.db refuses the write-ahead log (%s)", mode);
    if (status == LB_OK)
        status = execute(sqlite, "PRAGMA synchronous = FULL", err);
    return status == LB_OK ? check_database(sqlite, err) : status;
}

static lb_status prepare_all(lb_sqlite *sqlite, lb_err *err)
{
    for (int i = 0; i < LB_SQL_COUNT; i++) {
        int code = sqlite3_prepare_v3(sqlite->db, lb_sql_text[i], -1, SQLITE_PREPARE_PERSISTENT,
                                      &sqlite->statements[i], NULL);
        if (code != SQLITE_OK)
            return lb_sql_fail(sqlite, code, (lb_sql_id)i, err);
    }
    return LB_OK;
}

static lb_status next_epoch(lb_sqlite *sqlite, lb_err *err)
{
    lb_status status = read_epoch(sqlite, &sqlite->store.epoch, err);
    if (status == LB_OK)
        status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    status = lb_sql_run(sqlite, LB_SQL_EPOCH_NEXT, NULL, err);
    status = lb_sql_end(sqlite, status, err);
    if (status == LB_OK)
        sqlite->store.epoch++;
    return status;
}

static lb_status reserve_fences(void *impl, uint64_t count, uint64_t *first, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    bool row = false;
    uint64_t fence = 0;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    status = lb_sql_next(sqlite, LB_SQL_FENCE_GET, &row, err);
    if (status == LB_OK)
        fence = lb_sql_u64_of(sqlite, LB_SQL_FENCE_GET, 0);
    lb_sql_reset(sqlite, LB_SQL_FENCE_GET);
    if (status == LB_OK)
        status = lb_sql_bind(sqlite, LB_SQL_FENCE_ADD, err, "u", count);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_FENCE_ADD, NULL, err);
    status = lb_sql_end(sqlite, status, err);
    if (status == LB_OK)
        *first = fence;
    return status;
}

static void close_sqlite(void *impl)
{
    lb_sqlite *sqlite = impl;
    if (!sqlite)
        return;
    for (int i = 0; i < LB_SQL_COUNT; i++)
        sqlite3_finalize(sqlite->statements[i]);
    if (sqlite->db)
        (void)sqlite3_close_v2(sqlite->db);
    if (sqlite->lock_fd >= 0)
        close(sqlite->lock_fd);
    free(sqlite);
}

lb_status lb_store_open(const char *dir, lb_store **out, lb_err *err)
{
    char path[LB_PATH_MAX] = ":memory:";
    lb_status status = LB_OK;
    lb_sqlite *sqlite = calloc(1, sizeof *sqlite);
    if (!sqlite)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the store");
    sqlite->lock_fd = -1;
    sqlite->store = (lb_store){.impl = sqlite, .fences = reserve_fences, .close = close_sqlite};
    lb_sqlite_job_ops(&sqlite->store);
    lb_sqlite_step_ops(&sqlite->store);
    lb_sqlite_read_ops(&sqlite->store);
    if (dir)
        status = take_lock(sqlite, dir, err);
    if (status == LB_OK && dir)
        status = lb_path_join(path, sizeof path, dir, "state.db", err);
    if (status == LB_OK)
        status = open_database(sqlite, path, dir != NULL, err);
    if (status == LB_OK)
        status = prepare_all(sqlite, err);
    if (status == LB_OK)
        status = next_epoch(sqlite, err);
    if (status != LB_OK) {
        close_sqlite(sqlite);
        return status;
    }
    if (dir)
        sign_lock(sqlite);
    *out = &sqlite->store;
    return LB_OK;
}

void lb_store_close(lb_store *store)
{
    if (store)
        store->close(store->impl);
}
