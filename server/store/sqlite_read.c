/* SPDX-License-Identifier: Apache-2.0 */
#include "server/store/sqlite_impl.h"

static lb_push_row read_push(lb_sqlite *sqlite, lb_sql_id id)
{
    lb_push_row row = {0};
    row.step = (uint32_t)lb_sql_u64_of(sqlite, id, 0);
    row.unit = (uint32_t)lb_sql_u64_of(sqlite, id, 1);
    lb_sql_text_of(sqlite, id, 2, row.digest, sizeof row.digest);
    row.bytes = lb_sql_u64_of(sqlite, id, 3);
    row.tokens = lb_sql_u64_of(sqlite, id, 4);
    lb_sql_text_of(sqlite, id, 5, row.worker, sizeof row.worker);
    row.fence = lb_sql_u64_of(sqlite, id, 6);
    return row;
}

static lb_status push_get(void *impl, const char *job, uint32_t step, uint32_t unit,
                          lb_push_row *out, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    bool row = false;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_PUSH_GET, err, "tuu", job, (uint64_t)step,
                                   (uint64_t)unit);
    if (status == LB_OK)
        status = lb_sql_next(sqlite, LB_SQL_PUSH_GET, &row, err);
    if (status == LB_OK && !row)
        status = lb_fail(err, LB_ENOTFOUND, "unit", "unit %u of step %u was never pushed", unit,
                         step);
    if (status == LB_OK)
        *out = read_push(sqlite, LB_SQL_PUSH_GET);
    lb_sql_reset(sqlite, LB_SQL_PUSH_GET);
    return status;
}

static lb_status pushes(void *impl, const char *job, uint32_t step, lb_visit_push *visit,
                        void *arg, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    const lb_sql_id id = LB_SQL_PUSHES;
    bool more = false;
    lb_status status = lb_sql_bind(sqlite, id, err, "tu", job, (uint64_t)step);
    while (status == LB_OK && (status = lb_sql_next(sqlite, id, &more, err)) == LB_OK && more) {
        lb_push_row row = read_push(sqlite, id);
        status = visit(arg, &row);
    }
    lb_sql_reset(sqlite, id);
    return status;
}

static lb_step_row read_step(lb_sqlite *sqlite, lb_sql_id id)
{
    lb_step_row row = {0};
    char *const digests[] = {row.prev, row.units_root, row.grad_sha, row.adapter_sha, row.opt_sha,
                             row.hash};
    row.step = (uint32_t)lb_sql_u64_of(sqlite, id, 0);
    for (int i = 0; i < (int)(sizeof digests / sizeof *digests); i++)
        lb_sql_text_of(sqlite, id, i + 1, digests[i], LB_SHA256_HEX);
    row.tokens = lb_sql_u64_of(sqlite, id, 7);
    row.adapter_bytes = lb_sql_u64_of(sqlite, id, 8);
    row.snapshot = lb_sql_u64_of(sqlite, id, 9) != 0;
    row.grad_kept = lb_sql_u64_of(sqlite, id, 10) != 0;
    row.opt_kept = lb_sql_u64_of(sqlite, id, 11) != 0;
    row.created_at = (int64_t)lb_sql_u64_of(sqlite, id, 12);
    return row;
}

static lb_status step_get(void *impl, const char *job, uint32_t step, lb_step_row *out,
                          lb_err *err)
{
    lb_sqlite *sqlite = impl;
    bool row = false;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_STEP_GET, err, "tu", job, (uint64_t)step);
    if (status == LB_OK)
        status = lb_sql_next(sqlite, LB_SQL_STEP_GET, &row, err);
    if (status == LB_OK && !row)
        status = lb_fail(err, LB_ENOTFOUND, "step", "job %s has no committed step %u", job, step);
    if (status == LB_OK)
        *out = read_step(sqlite, LB_SQL_STEP_GET);
    lb_sql_reset(sqlite, LB_SQL_STEP_GET);
    return status;
}

static lb_status visit_steps(lb_sqlite *sqlite, lb_sql_id id, lb_visit_step *visit, void *arg,
                             lb_err *err)
{
    bool more = false;
    lb_status status = LB_OK;
    while (status == LB_OK && (status = lb_sql_next(sqlite, id, &more, err)) == LB_OK && more) {
        lb_step_row row = read_step(sqlite, id);
        status = visit(arg, &row);
    }
    lb_sql_reset(sqlite, id);
    return status;
}

static lb_status steps_newest(void *impl, const char *job, uint32_t below, uint32_t limit,
                              bool snapshots, lb_visit_step *visit, void *arg, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_STEPS_NEWEST, err, "tuuu", job, (uint64_t)below,
                                   (uint64_t)snapshots, (uint64_t)limit);
    return status == LB_OK ? visit_steps(sqlite, LB_SQL_STEPS_NEWEST, visit, arg, err) : status;
}

static lb_status steps_oldest(void *impl, const char *job, uint32_t from, lb_visit_step *visit,
                              void *arg, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_STEPS_OLDEST, err, "tu", job, (uint64_t)from);
    return status == LB_OK ? visit_steps(sqlite, LB_SQL_STEPS_OLDEST, visit, arg, err) : status;
}

static lb_status events(void *impl, const char *job, uint64_t before, uint32_t limit,
                        lb_visit_event *visit, void *arg, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    const lb_sql_id id = LB_SQL_EVENTS;
    sqlite3_stmt *statement = sqlite->statements[id];
    bool more = false;
    lb_status status = lb_sql_bind(sqlite, id, err, "tuu", job, before, (uint64_t)limit);
    while (status == LB_OK && (status = lb_sql_next(sqlite, id, &more, err)) == LB_OK && more) {
        lb_event_row row = {
            .seq = lb_sql_u64_of(sqlite, id, 0),
            .created_at = (int64_t)lb_sql_u64_of(sqlite, id, 1),
            .level = (const char *)sqlite3_column_text(statement, 2),
            .type = (const char *)sqlite3_column_text(statement, 3),
            .message = (const char *)sqlite3_column_text(statement, 4),
            .step = (uint32_t)lb_sql_u64_of(sqlite, id, 5),
            .data = (const char *)sqlite3_column_text(statement, 6),
        };
        if (!row.level || !row.type || !row.message)
            status = lb_fail(err, LB_ENOMEM, NULL, "no memory for an event");
        else
            status = visit(arg, &row);
    }
    lb_sql_reset(sqlite, id);
    return status;
}

void lb_sqlite_read_ops(lb_store *store)
{
    store->push_get = push_get;
    store->pushes = pushes;
    store->step_get = step_get;
    store->steps_newest = steps_newest;
    store->steps_oldest = steps_oldest;
    store->events = events;
}
