/* SPDX-License-Identifier: Apache-2.0 */
#include "server/store/sqlite_impl.h"

lb_status lb_sqlite_event_insert(lb_sqlite *sqlite, const char *job, const lb_event_row *event,
                                 lb_err *err)
{
    lb_status status = lb_sql_bind(sqlite, LB_SQL_EVENT_INSERT, err, "titttu", job,
                                   event->created_at, event->level, event->type, event->message,
                                   (uint64_t)event->step);
    return status == LB_OK ? lb_sql_run(sqlite, LB_SQL_EVENT_INSERT, NULL, err) : status;
}

static lb_status push_insert(void *impl, const char *job, const lb_push_row *row,
                             const char *pin_class, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    int changes = 1;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    status = lb_sql_bind(sqlite, LB_SQL_PUSH_INSERT, err, "tuutuutu", job, (uint64_t)row->step,
                         (uint64_t)row->unit, row->digest, row->bytes, row->tokens, row->worker,
                         row->fence);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_PUSH_INSERT, NULL, err);
    if (status == LB_OK && pin_class) {
        status = lb_sql_bind(sqlite, LB_SQL_JOB_CLASS, err, "tt", job, pin_class);
        if (status == LB_OK)
            status = lb_sql_run(sqlite, LB_SQL_JOB_CLASS, &changes, err);
    }
    if (status == LB_OK && changes != 1)
        status = lb_fail(err, LB_ECONFLICT, "X-Numerics-Class", "job %s has its class already",
                         job);
    return lb_sql_end(sqlite, status, err);
}

static lb_status push_delete(void *impl, const char *job, uint32_t step, uint32_t unit,
                             lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    status = lb_sql_bind(sqlite, LB_SQL_PUSH_DELETE, err, "tuu", job, (uint64_t)step,
                         (uint64_t)unit);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_PUSH_DELETE, NULL, err);
    return lb_sql_end(sqlite, status, err);
}

static lb_status insert_step(lb_sqlite *sqlite, const char *job, const lb_step_row *row,
                             lb_err *err)
{
    lb_status status = lb_sql_bind(
        sqlite, LB_SQL_STEP_INSERT, err, "tuttttttuuuuui", job, (uint64_t)row->step, row->prev,
        row->units_root, row->grad_sha, row->adapter_sha, row->opt_sha, row->hash, row->tokens,
        row->adapter_bytes, (uint64_t)row->snapshot, (uint64_t)row->grad_kept,
        (uint64_t)row->opt_kept, row->created_at);
    return status == LB_OK ? lb_sql_run(sqlite, LB_SQL_STEP_INSERT, NULL, err) : status;
}

/* The head moves only from where this commit believes it is, so a commit can never be made twice
 * nor on top of another's. */
static lb_status move_head(lb_sqlite *sqlite, const char *job, const lb_step_commit *commit,
                           lb_err *err)
{
    int changes = 0;
    const lb_step_row *row = commit->row;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_JOB_HEAD, err, "tuttu", job,
                                   (uint64_t)row->step, row->prev, row->hash,
                                   commit->tokens_total);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_JOB_HEAD, &changes, err);
    if (status == LB_OK && changes != 1)
        status = lb_fail(err, LB_EGONE, "step", "the head of job %s is not at step %u any more",
                         job, row->step);
    return status;
}

static lb_status step_commit(void *impl, const char *job, const lb_step_commit *commit,
                             lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    const uint64_t step = commit->row->step;
    status = move_head(sqlite, job, commit, err);
    if (status == LB_OK)
        status = insert_step(sqlite, job, commit->row, err);
    if (status == LB_OK)
        status = lb_sql_bind(sqlite, LB_SQL_METRIC_INSERT, err, "tut", job, step + 1,
                             commit->metrics);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_METRIC_INSERT, NULL, err);
    if (status == LB_OK)
        status = lb_sql_bind(sqlite, LB_SQL_PUSH_UNKEEP, err, "tu", job, step);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_PUSH_UNKEEP, NULL, err);
    if (status == LB_OK && commit->event)
        status = lb_sqlite_event_insert(sqlite, job, commit->event, err);
    if (status == LB_OK && commit->change)
        status = lb_sqlite_job_change(sqlite, job, commit->change, err);
    return lb_sql_end(sqlite, status, err);
}

/* Visits the first column of a bound statement's rows. */
static lb_status visit_texts(lb_sqlite *sqlite, lb_sql_id id, lb_visit_text *visit, void *arg,
                             lb_err *err)
{
    bool more = false;
    lb_status status = LB_OK;
    while (status == LB_OK && (status = lb_sql_next(sqlite, id, &more, err)) == LB_OK && more) {
        const char *text = (const char *)sqlite3_column_text(sqlite->statements[id], 0);
        status = text ? visit(arg, text) : lb_fail(err, LB_ENOMEM, NULL, "no memory for a row");
    }
    lb_sql_reset(sqlite, id);
    return status;
}

static lb_status forget(void *impl, const char *job, uint32_t grads_below, uint32_t opts_below,
                        lb_visit_text *visit, void *arg, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    const struct { lb_sql_id list, mark; uint32_t below; } kinds[] = {
        {LB_SQL_GRADS_KEPT, LB_SQL_GRADS_FORGET, grads_below},
        {LB_SQL_OPTS_KEPT, LB_SQL_OPTS_FORGET, opts_below},
    };
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    for (size_t i = 0; status == LB_OK && i < sizeof kinds / sizeof *kinds; i++) {
        status = lb_sql_bind(sqlite, kinds[i].list, err, "tu", job, (uint64_t)kinds[i].below);
        if (status == LB_OK)
            status = visit_texts(sqlite, kinds[i].list, visit, arg, err);
        if (status == LB_OK)
            status = lb_sql_bind(sqlite, kinds[i].mark, err, "tu", job, (uint64_t)kinds[i].below);
        if (status == LB_OK)
            status = lb_sql_run(sqlite, kinds[i].mark, NULL, err);
    }
    return lb_sql_end(sqlite, status, err);
}

static lb_status forget_pushes(void *impl, const char *job, lb_visit_text *visit, void *arg,
                               lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    status = lb_sql_bind(sqlite, LB_SQL_PUSH_KEPT, err, "t", job);
    if (status == LB_OK)
        status = visit_texts(sqlite, LB_SQL_PUSH_KEPT, visit, arg, err);
    if (status == LB_OK)
        status = lb_sql_bind(sqlite, LB_SQL_PUSH_UNKEEP_ALL, err, "t", job);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_PUSH_UNKEEP_ALL, NULL, err);
    return lb_sql_end(sqlite, status, err);
}

static lb_status metrics(void *impl, const char *job, uint32_t after, uint32_t limit,
                         lb_visit_text *visit, void *arg, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_METRICS, err, "tuu", job, (uint64_t)after,
                                   (uint64_t)limit);
    return status == LB_OK ? visit_texts(sqlite, LB_SQL_METRICS, visit, arg, err) : status;
}

static bool needs_blob(void *impl, const char *sha)
{
    lb_sqlite *sqlite = impl;
    bool row = false, needed = true;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_NEEDS_BLOB, NULL, "t", sha);
    if (status == LB_OK)
        status = lb_sql_next(sqlite, LB_SQL_NEEDS_BLOB, &row, NULL);
    if (status == LB_OK && row)
        needed = lb_sql_u64_of(sqlite, LB_SQL_NEEDS_BLOB, 0) != 0;
    lb_sql_reset(sqlite, LB_SQL_NEEDS_BLOB);
    return needed;
}

void lb_sqlite_step_ops(lb_store *store)
{
    store->push_insert = push_insert;
    store->push_delete = push_delete;
    store->step_commit = step_commit;
    store->metrics = metrics;
    store->forget = forget;
    store->forget_pushes = forget_pushes;
    store->needs_blob = needs_blob;
}
