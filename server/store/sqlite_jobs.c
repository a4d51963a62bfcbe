/* SPDX-License-Identifier: Apache-2.0 */
#include "server/store/sqlite_impl.h"

#include <stdlib.h>
#include <string.h>

static const char *const state_names[LB_JOB_STATE_COUNT] = {
    [LB_JOB_QUEUED] = "queued",       [LB_JOB_RUNNING] = "running",
    [LB_JOB_SUCCEEDED] = "succeeded", [LB_JOB_FAILED] = "failed",
    [LB_JOB_CANCELLED] = "cancelled",
};

const char *lb_job_state_name(lb_job_state state)
{
    return state_names[state];
}

bool lb_job_state_active(lb_job_state state)
{
    return state == LB_JOB_QUEUED || state == LB_JOB_RUNNING;
}

void lb_job_row_free(lb_job_row *row)
{
    if (!row)
        return;
    free(row->hyperparameters);
    free(row->metadata);
    free(row->handshake);
    *row = (lb_job_row){0};
}

/* ---- files ---- */

static lb_status file_insert(void *impl, const lb_file_row *row, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    status = lb_sql_bind(sqlite, LB_SQL_FILE_INSERT, err, "ttttui", row->id, row->sha,
                         row->filename, row->purpose, row->bytes, row->created_at);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_FILE_INSERT, NULL, err);
    return lb_sql_end(sqlite, status, err);
}

static lb_status files(void *impl, lb_visit_file *visit, void *arg, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    const lb_sql_id id = LB_SQL_FILES;
    bool more = false;
    lb_status status = lb_sql_bind(sqlite, id, err, "");
    while (status == LB_OK && (status = lb_sql_next(sqlite, id, &more, err)) == LB_OK && more) {
        lb_file_row row = {0};
        lb_sql_text_of(sqlite, id, 0, row.id, sizeof row.id);
        lb_sql_text_of(sqlite, id, 1, row.sha, sizeof row.sha);
        lb_sql_text_of(sqlite, id, 2, row.filename, sizeof row.filename);
        lb_sql_text_of(sqlite, id, 3, row.purpose, sizeof row.purpose);
        row.bytes = lb_sql_u64_of(sqlite, id, 4);
        row.created_at = (int64_t)lb_sql_u64_of(sqlite, id, 5);
        status = visit(arg, &row);
    }
    lb_sql_reset(sqlite, id);
    return status;
}

/* ---- jobs ---- */

static lb_status job_insert(void *impl, const lb_job_row *row, const lb_event_row *event,
                            lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    status = lb_sql_bind(sqlite, LB_SQL_JOB_INSERT, err, "ttttttutttutuutttutitt", row->id,
                         row->suffix, row->model, row->teacher, row->training_file,
                         row->request_sha, row->seed, row->hyperparameters, row->metadata,
                         row->dataset_sha, (uint64_t)row->dataset_rows, row->tokenizer_sha,
                         (uint64_t)row->vocab, (uint64_t)row->graded, row->config_sha,
                         row->adapter_sha, row->adapter_config_sha, row->adapter_bytes,
                         row->head_hash, row->created_at, row->method, row->from_adapter);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_JOB_INSERT, NULL, err);
    if (status == LB_OK && event)
        status = lb_sqlite_event_insert(sqlite, row->id, event, err);
    return lb_sql_end(sqlite, status, err);
}

static char *column_copy(lb_sqlite *sqlite, int column)
{
    const char *text = (const char *)sqlite3_column_text(sqlite->statements[LB_SQL_JOBS], column);
    return strdup(text ? text : "{}");
}

static lb_status parse_state(const char *name, lb_job_state *out, lb_err *err)
{
    for (int i = 0; i < LB_JOB_STATE_COUNT; i++) {
        if (strcmp(name, state_names[i]) == 0) {
            *out = (lb_job_state)i;
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EDATA, "state", "state.db: a job is in state '%.40s'", name);
}

static lb_status read_job(lb_sqlite *sqlite, lb_job_row *row, lb_err *err)
{
    char state[LB_ID_SIZE];
    const struct { int column; char *out; size_t size; } texts[] = {
        {0, row->id, sizeof row->id},
        {1, row->suffix, sizeof row->suffix},
        {2, row->model, sizeof row->model},
        {3, row->teacher, sizeof row->teacher},
        {4, row->training_file, sizeof row->training_file},
        {5, row->request_sha, sizeof row->request_sha},
        {9, row->dataset_sha, sizeof row->dataset_sha},
        {11, row->tokenizer_sha, sizeof row->tokenizer_sha},
        {14, row->config_sha, sizeof row->config_sha},
        {15, row->adapter_sha, sizeof row->adapter_sha},
        {16, row->adapter_config_sha, sizeof row->adapter_config_sha},
        {18, row->numerics_class, sizeof row->numerics_class},
        {19, state, sizeof state},
        {20, row->error_code, sizeof row->error_code},
        {21, row->error_message, sizeof row->error_message},
        {23, row->head_hash, sizeof row->head_hash},
        {28, row->method, sizeof row->method},
        {29, row->from_adapter, sizeof row->from_adapter},
    };
    const lb_sql_id id = LB_SQL_JOBS;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        lb_sql_text_of(sqlite, id, texts[i].column, texts[i].out, texts[i].size);
    row->seed = lb_sql_u64_of(sqlite, id, 6);
    row->dataset_rows = (uint32_t)lb_sql_u64_of(sqlite, id, 10);
    row->vocab = (uint32_t)lb_sql_u64_of(sqlite, id, 12);
    row->graded = lb_sql_u64_of(sqlite, id, 13) != 0;
    row->adapter_bytes = lb_sql_u64_of(sqlite, id, 17);
    row->head = (uint32_t)lb_sql_u64_of(sqlite, id, 22);
    row->tokens_total = lb_sql_u64_of(sqlite, id, 24);
    row->created_at = (int64_t)lb_sql_u64_of(sqlite, id, 25);
    row->started_at = (int64_t)lb_sql_u64_of(sqlite, id, 26);
    row->finished_at = (int64_t)lb_sql_u64_of(sqlite, id, 27);
    row->hyperparameters = column_copy(sqlite, 7);
    row->metadata = column_copy(sqlite, 8);
    row->handshake = column_copy(sqlite, 30);
    if (!row->hyperparameters || !row->metadata || !row->handshake)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a job");
    return parse_state(state, &row->state, err);
}

static lb_status jobs(void *impl, lb_visit_job *visit, void *arg, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    bool more = false;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_JOBS, err, "");
    while (status == LB_OK &&
           (status = lb_sql_next(sqlite, LB_SQL_JOBS, &more, err)) == LB_OK && more) {
        lb_job_row row = {0};
        status = read_job(sqlite, &row, err);
        if (status == LB_OK)
            status = visit(arg, &row);
        lb_job_row_free(&row);
    }
    lb_sql_reset(sqlite, LB_SQL_JOBS);
    return status;
}

lb_status lb_sqlite_job_change(lb_sqlite *sqlite, const char *job, const lb_job_change *change,
                               lb_err *err)
{
    int changes = 0;
    lb_status status = lb_sql_bind(sqlite, LB_SQL_JOB_CHANGE, err, "ttttii", job,
                                   lb_job_state_name(change->state), change->error_code,
                                   change->error_message, change->started_at,
                                   change->finished_at);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_JOB_CHANGE, &changes, err);
    if (status == LB_OK && changes != 1)
        status = lb_fail(err, LB_EGONE, "job", "job %s is no longer active in the store", job);
    if (status == LB_OK && change->event)
        status = lb_sqlite_event_insert(sqlite, job, change->event, err);
    return status;
}

static lb_status job_change(void *impl, const char *job, const lb_job_change *change, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    return lb_sql_end(sqlite, lb_sqlite_job_change(sqlite, job, change, err), err);
}

static lb_status job_handshake(void *impl, const char *job, const char *text,
                               const lb_event_row *event, lb_err *err)
{
    lb_sqlite *sqlite = impl;
    int changes = 0;
    lb_status status = lb_sql_begin(sqlite, err);
    if (status != LB_OK)
        return status;
    status = lb_sql_bind(sqlite, LB_SQL_JOB_HANDSHAKE, err, "tt", job, text);
    if (status == LB_OK)
        status = lb_sql_run(sqlite, LB_SQL_JOB_HANDSHAKE, &changes, err);
    if (status == LB_OK && changes != 1)
        status = lb_fail(err, LB_EGONE, "job", "job %s has its handshake, or has ended", job);
    if (status == LB_OK && event)
        status = lb_sqlite_event_insert(sqlite, job, event, err);
    return lb_sql_end(sqlite, status, err);
}

void lb_sqlite_job_ops(lb_store *store)
{
    store->file_insert = file_insert;
    store->files = files;
    store->job_insert = job_insert;
    store->jobs = jobs;
    store->job_change = job_change;
    store->job_handshake = job_handshake;
}
