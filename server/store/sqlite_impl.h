/* SPDX-License-Identifier: Apache-2.0
 *
 * Private to server/store: the SQLite connection, its prepared statements and the helpers that the
 * operations are written with.
 */
#ifndef LB_SERVER_STORE_SQLITE_IMPL_H
#define LB_SERVER_STORE_SQLITE_IMPL_H

#include "server/store/store.h"

#include <sqlite3.h>

typedef enum lb_sql_id {
    LB_SQL_BEGIN, LB_SQL_COMMIT, LB_SQL_ROLLBACK, LB_SQL_EPOCH_GET, LB_SQL_EPOCH_NEXT,
    LB_SQL_FENCE_GET, LB_SQL_FENCE_ADD,
    LB_SQL_FILE_INSERT, LB_SQL_FILES,
    LB_SQL_JOB_INSERT, LB_SQL_JOBS, LB_SQL_JOB_CHANGE, LB_SQL_JOB_CLASS,
    LB_SQL_JOB_HANDSHAKE, LB_SQL_JOB_HEAD,
    LB_SQL_PUSH_INSERT, LB_SQL_PUSH_DELETE, LB_SQL_PUSH_GET, LB_SQL_PUSHES, LB_SQL_PUSH_UNKEEP,
    LB_SQL_PUSH_KEPT, LB_SQL_PUSH_UNKEEP_ALL,
    LB_SQL_STEP_INSERT, LB_SQL_STEP_GET, LB_SQL_STEPS_NEWEST, LB_SQL_STEPS_OLDEST,
    LB_SQL_METRIC_INSERT, LB_SQL_METRICS, LB_SQL_EVENT_INSERT, LB_SQL_EVENTS,
    LB_SQL_GRADS_KEPT, LB_SQL_OPTS_KEPT, LB_SQL_GRADS_FORGET, LB_SQL_OPTS_FORGET,
    LB_SQL_NEEDS_BLOB,
    LB_SQL_COUNT
} lb_sql_id;

/* Text of each statement, and the schema that the first open runs. */
extern const char *const lb_sql_text[LB_SQL_COUNT];
extern const char lb_sql_schema[];

typedef struct lb_sqlite {
    lb_store store;                       /* first: lb_store * is an lb_sqlite * */
    sqlite3 *db;
    sqlite3_stmt *statements[LB_SQL_COUNT];
    int lock_fd;
} lb_sqlite;

/* The failure of a call as an lb_status: full disk, no memory, constraint, damage, or LB_EIO. */
lb_status lb_sql_fail(lb_sqlite *sqlite, int code, lb_sql_id id, lb_err *err);

/* Binds arguments to a statement (reset first): 't' const char *, 'i' int64_t, 'u' uint64_t. */
LB_NODISCARD lb_status lb_sql_bind(lb_sqlite *sqlite, lb_sql_id id, lb_err *err,
                                   const char *types, ...);
/* Steps a bound statement: LB_OK with *row, which is false at the end (the statement is reset). */
LB_NODISCARD lb_status lb_sql_next(lb_sqlite *sqlite, lb_sql_id id, bool *row, lb_err *err);
/* Runs a bound statement without rows to its end; *changes (may be NULL) rows were changed. */
LB_NODISCARD lb_status lb_sql_run(lb_sqlite *sqlite, lb_sql_id id, int *changes, lb_err *err);
void lb_sql_reset(lb_sqlite *sqlite, lb_sql_id id);
/* Columns of the current row; text is cut to size. */
void lb_sql_text_of(lb_sqlite *sqlite, lb_sql_id id, int column, char *out, size_t size);
uint64_t lb_sql_u64_of(lb_sqlite *sqlite, lb_sql_id id, int column);

/* A transaction: begin checks the epoch; end commits when status is LB_OK and otherwise rolls
 * back, and returns the status that counts. */
LB_NODISCARD lb_status lb_sql_begin(lb_sqlite *sqlite, lb_err *err);
LB_NODISCARD lb_status lb_sql_end(lb_sqlite *sqlite, lb_status status, lb_err *err);

/* Fill in their part of the table of operations. */
void lb_sqlite_job_ops(lb_store *store);
void lb_sqlite_step_ops(lb_store *store);
void lb_sqlite_read_ops(lb_store *store);
/* Inside a transaction. */
LB_NODISCARD lb_status lb_sqlite_event_insert(lb_sqlite *sqlite, const char *job,
                                              const lb_event_row *event, lb_err *err);
LB_NODISCARD lb_status lb_sqlite_job_change(lb_sqlite *sqlite, const char *job,
                                            const lb_job_change *change, lb_err *err);

#endif
