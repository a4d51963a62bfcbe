/* SPDX-License-Identifier: Apache-2.0
 *
 * Listings and look-ups. Pages go from the newest row to the oldest; `after` is the id of the last
 * row of the page before.
 */
#include "server/coordinator/core_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void begin_list(lb_jsonw *w)
{
    lb_jsonw_object(w);
    lb_jsonw_key(w, "object");
    lb_jsonw_string(w, "list");
    lb_jsonw_key(w, "data");
    lb_jsonw_array(w);
}

static void end_list(lb_core *core, void *ticket, lb_jsonw *w, bool has_more)
{
    lb_jsonw_array_end(w);
    lb_jsonw_key(w, "has_more");
    lb_jsonw_bool(w, has_more);
    lb_jsonw_object_end(w);
    lb_core_answer_json(core, ticket, lb_status_http(LB_OK), w->out);
}

static void answer_missing(lb_core *core, const lb_core_event *event, const char *field)
{
    lb_err err = {0};
    (void)lb_fail(&err, LB_ENOTFOUND, field, "there is no %s '%.100s'", field, event->id);
    lb_core_answer_err(core, event->ticket, &err);
}

static void answer_bad_after(lb_core *core, const lb_core_event *event)
{
    lb_err err = {0};
    (void)lb_fail(&err, LB_EINVAL, "after", "'%.100s' is not the id of a row of this list",
                  event->after);
    lb_core_answer_err(core, event->ticket, &err);
}

static void answer_failed(lb_core *core, const lb_core_event *event, lb_buf *body, lb_err *err,
                          lb_status status)
{
    if (err->status == LB_OK)
        (void)lb_fail(err, status, NULL, "the rows could not be read");
    lb_core_storage_failed(core, err);
    lb_core_answer_err(core, event->ticket, err);
    lb_buf_free(body);
}

/* The job of an event, or NULL after it answered 404. */
static core_job *job_of(lb_core *core, const lb_core_event *event)
{
    core_job *job = lb_core_find_job(core, event->id);
    if (!job)
        answer_missing(core, event, "job");
    return job;
}

/* The number after the last `mark` of an id ("name-v12" with "-v"); false if it is not one. */
static bool trailing_number(const char *id, const char *mark, size_t *prefix, uint64_t *number)
{
    const char *at = NULL;
    for (const char *next = id; (next = strstr(next, mark)) != NULL; next++)
        at = next;
    if (!at)
        return false;
    const char *digits = at + strlen(mark);
    size_t count = strspn(digits, "0123456789");
    if (count == 0 || count > 9 || digits[count] || (digits[0] == '0' && count > 1))
        return false;
    *prefix = (size_t)(at - id);
    *number = strtoull(digits, NULL, 10);
    return true;
}

/* ---- files and jobs: kept in memory ---- */

void lb_core_on_file_list(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    size_t at = core->file_count;
    if (event->after[0]) {
        while (at > 0 && strcmp(core->files[at - 1].id, event->after) != 0)
            at--;
        if (at == 0) {
            answer_bad_after(core, event);
            return;
        }
        at--;
    }
    begin_list(&w);
    for (uint32_t n = 0; n < event->limit && at > 0; n++)
        lb_core_view_file(&core->files[--at], &w);
    end_list(core, event->ticket, &w, at > 0);
}

void lb_core_on_file_get(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    for (size_t i = 0; i < core->file_count; i++) {
        if (strcmp(core->files[i].id, event->id) == 0) {
            lb_core_view_file(&core->files[i], &w);
            lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
            return;
        }
    }
    answer_missing(core, event, "file");
}

void lb_core_on_job_list(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    size_t at = core->job_count;
    if (event->after[0]) {
        while (at > 0 && strcmp(core->jobs[at - 1]->row.id, event->after) != 0)
            at--;
        if (at == 0) {
            answer_bad_after(core, event);
            return;
        }
        at--;
    }
    begin_list(&w);
    for (uint32_t n = 0; n < event->limit && at > 0; n++)
        lb_core_view_job(core, core->jobs[--at], &w);
    end_list(core, event->ticket, &w, at > 0);
}

void lb_core_on_job_get(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    const core_job *job = job_of(core, event);
    if (!job)
        return;
    lb_core_view_job(core, job, &w);
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
}

void lb_core_on_run_get(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    const core_job *job = job_of(core, event);
    if (!job)
        return;
    lb_core_view_run(core, job, &w);
    lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
}

/* ---- pages read from the store ---- */

/* One page being written: rows beyond the limit only say that there are more. */
typedef struct page {
    const core_job *job;
    lb_jsonw *w;
    lb_core *core;
    uint32_t limit, written;
    bool more;
} page;

static bool page_takes(page *p)
{
    if (p->written == p->limit) {
        p->more = true;
        return false;
    }
    p->written++;
    return true;
}

static void key_text(lb_jsonw *w, const char *key, const char *text)
{
    lb_jsonw_key(w, key);
    lb_jsonw_string(w, text);
}

static lb_status write_event(void *arg, const lb_event_row *row)
{
    page *p = arg;
    lb_jsonw *w = p->w;
    char id[LB_NAME_SIZE];
    if (!page_takes(p))
        return LB_OK;
    snprintf(id, sizeof id, "ftevent-%s-%" PRIu64, p->job->row.id, row->seq);
    lb_jsonw_object(w);
    key_text(w, "id", id);
    key_text(w, "object", "fine_tuning.job.event");
    lb_jsonw_key(w, "created_at");
    lb_jsonw_i64(w, row->created_at);
    key_text(w, "level", row->level);
    key_text(w, "message", row->message);
    key_text(w, "type", row->type);
    lb_jsonw_key(w, "data");
    if (row->data)
        lb_jsonw_raw(w, row->data, strlen(row->data));
    else
        lb_jsonw_null(w);
    lb_jsonw_object_end(w);
    return LB_OK;
}

void lb_core_on_job_events(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_err err = {0};
    lb_store *store = core->env.store;
    const core_job *job = job_of(core, event);
    uint64_t before = 0;
    size_t prefix = 0;
    if (!job)
        return;
    if (event->after[0] && (!trailing_number(event->after, "-", &prefix, &before) || before == 0)) {
        answer_bad_after(core, event);
        return;
    }
    page p = {.job = job, .w = &w, .core = core, .limit = event->limit};
    begin_list(&w);
    lb_status status = store->events(store->impl, job->row.id, before, event->limit + 1,
                                     write_event, &p, &err);
    if (status != LB_OK)
        answer_failed(core, event, &body, &err, status);
    else
        end_list(core, event->ticket, &w, p.more);
}

static lb_status append_metrics(void *arg, const char *text)
{
    page *p = arg;
    if (page_takes(p))
        lb_jsonw_raw(p->w, text, strlen(text));
    return LB_OK;
}

void lb_core_view_metrics_reply(lb_core *core, void *ticket, const core_job *job,
                                uint32_t after_step, uint32_t limit)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_err err = {0};
    lb_store *store = core->env.store;
    lb_core_event event = {.ticket = ticket};
    page p = {.job = job, .w = &w, .core = core, .limit = limit};
    lb_status status = LB_OK;
    begin_list(&w);
    if (after_step < job->row.head)
        status = store->metrics(store->impl, job->row.id, after_step, limit + 1, append_metrics,
                                &p, &err);
    if (status != LB_OK)
        answer_failed(core, &event, &body, &err, status);
    else
        end_list(core, ticket, &w, p.more);
}

void lb_core_on_job_metrics(lb_core *core, lb_core_event *event)
{
    const core_job *job = job_of(core, event);
    if (!job)
        return;
    core_waiter waiter = {.metrics = true, .ticket = event->ticket,
                          .deadline_ms = core->env.now_ms(core->env.arg) + event->wait_ms,
                          .after_step = event->after_step, .limit = event->limit};
    snprintf(waiter.who, sizeof waiter.who, "%s", job->row.id);
    bool waits = event->wait_ms > 0 && event->ticket && job->row.head <= event->after_step &&
                 lb_job_state_active(job->row.state);
    if (!waits || !lb_core_add_waiter(core, &waiter))
        lb_core_view_metrics_reply(core, event->ticket, job, event->after_step, event->limit);
}

/* ---- checkpoints ---- */

static lb_status collect_step(void *arg, const lb_step_row *row)
{
    lb_buf *rows = arg;
    lb_buf_append(rows, row, sizeof *row);
    return rows->status;
}

static lb_status keep_text(void *arg, const char *text)
{
    lb_buf_puts(arg, text);
    return LB_OK;
}

/* The rows are collected first: their metrics come from the store as well. */
static lb_status read_steps(lb_core *core, const core_job *job, uint32_t below, uint32_t limit,
                            bool snapshots, lb_buf *rows, lb_err *err)
{
    lb_store *store = core->env.store;
    return store->steps_newest(store->impl, job->row.id, below, limit, snapshots, collect_step,
                               rows, err);
}

static lb_step_row step_at(const lb_buf *rows, size_t index)
{
    lb_step_row row;
    memcpy(&row, rows->data + index * sizeof row, sizeof row);
    return row;
}

static lb_status write_checkpoint(page *p, const lb_step_row *row, lb_err *err)
{
    lb_jsonw *w = p->w;
    lb_store *store = p->core->env.store;
    lb_buf metrics = {0};
    char text[LB_NAME_SIZE];
    lb_status status = store->metrics(store->impl, p->job->row.id, row->step, 1, keep_text,
                                      &metrics, err);
    lb_jsonw_object(w);
    snprintf(text, sizeof text, "ftckpt-%s-%u", p->job->row.id, row->step + 1);
    key_text(w, "id", text);
    key_text(w, "object", "fine_tuning.job.checkpoint");
    lb_jsonw_key(w, "created_at");
    lb_jsonw_i64(w, row->created_at);
    snprintf(text, sizeof text, "%s-v%u", p->job->row.suffix, row->step + 1);
    key_text(w, "fine_tuned_model_checkpoint", text);
    key_text(w, "fine_tuning_job_id", p->job->row.id);
    lb_jsonw_key(w, "step_number");
    lb_jsonw_u64(w, row->step + 1);
    lb_jsonw_key(w, "metrics");
    if (metrics.length > 0)
        lb_jsonw_raw(w, (const char *)metrics.data, metrics.length);
    else
        lb_jsonw_null(w);
    lb_jsonw_object_end(w);
    lb_buf_free(&metrics);
    return status;
}

void lb_core_on_job_checkpoints(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0}, rows = {0};
    lb_jsonw w = {.out = &body};
    lb_err err = {0};
    const core_job *job = job_of(core, event);
    uint64_t number = 0;
    size_t prefix = 0;
    if (!job)
        return;
    if (event->after[0] && (!trailing_number(event->after, "-", &prefix, &number) || number == 0)) {
        answer_bad_after(core, event);
        return;
    }
    /* The id's number is the version, so versions below it are steps below number - 1. */
    uint32_t below = event->after[0] ? (uint32_t)number - 1 : job->row.head;
    page p = {.job = job, .w = &w, .core = core, .limit = event->limit};
    lb_status status = read_steps(core, job, below, event->limit + 1, true, &rows, &err);
    begin_list(&w);
    for (size_t i = 0; status == LB_OK && i < rows.length / sizeof(lb_step_row); i++) {
        lb_step_row row = step_at(&rows, i);
        if (page_takes(&p))
            status = write_checkpoint(&p, &row, &err);
    }
    if (status != LB_OK)
        answer_failed(core, event, &body, &err, status);
    else
        end_list(core, event->ticket, &w, p.more);
    lb_buf_free(&rows);
}

/* ---- adapters ---- */

static const core_job *job_of_suffix(const lb_core *core, const char *suffix, size_t length)
{
    for (size_t i = core->job_count; i-- > 0;) {
        const char *own = core->jobs[i]->row.suffix;
        if (strlen(own) == length && memcmp(own, suffix, length) == 0)
            return core->jobs[i];
    }
    return NULL;
}

const core_job *lb_core_find_adapter(const lb_core *core, const char *id, uint32_t *version)
{
    static const char latest[] = "-latest";
    size_t length = strlen(id), prefix = 0;
    uint64_t number = 0;
    const core_job *job = NULL;
    if (length > strlen(latest) && strcmp(id + length - strlen(latest), latest) == 0) {
        job = job_of_suffix(core, id, length - strlen(latest));
        number = job ? job->row.head : 0;
    } else if (trailing_number(id, "-v", &prefix, &number)) {
        job = job_of_suffix(core, id, prefix);
    }
    if (!job || number > job->row.head)
        return NULL;
    *version = (uint32_t)number;
    return job;
}

void lb_core_on_adapter(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_err err = {0};
    lb_step_row row = {0};
    lb_store *store = core->env.store;
    uint32_t version = 0;
    const core_job *job = lb_core_find_adapter(core, event->id, &version);
    if (!job) {
        answer_missing(core, event, "adapter");
        return;
    }
    if (event->type == LB_EVENT_ADAPTER_CONFIG) {
        lb_core_answer_blob(core, event->ticket, job->row.adapter_config_sha, "application/json");
        return;
    }
    lb_status status = version == 0 ? LB_OK : store->step_get(store->impl, job->row.id,
                                                              version - 1, &row, &err);
    if (status != LB_OK) {
        answer_failed(core, event, &body, &err, status);
    } else if (event->type == LB_EVENT_ADAPTER_MODEL) {
        lb_core_answer_blob(core, event->ticket,
                            version == 0 ? job->row.adapter_sha : row.adapter_sha,
                            "application/octet-stream");
    } else {
        lb_core_view_adapter(job, version == 0 ? NULL : &row, &w);
        lb_core_answer_json(core, event->ticket, lb_status_http(LB_OK), &body);
    }
}

/* Versions of a job below `version`, newest first, then version 0. */
static lb_status write_versions(page *p, uint32_t version, lb_err *err)
{
    lb_buf rows = {0};
    lb_status status = LB_OK;
    if (version > 1)
        status = read_steps(p->core, p->job, version - 1, p->limit - p->written + 1, false, &rows,
                            err);
    for (size_t i = 0; status == LB_OK && i < rows.length / sizeof(lb_step_row); i++) {
        lb_step_row row = step_at(&rows, i);
        if (page_takes(p))
            lb_core_view_adapter(p->job, &row, p->w);
    }
    if (status == LB_OK && version > 0 && !p->more && page_takes(p))
        lb_core_view_adapter(p->job, NULL, p->w);
    lb_buf_free(&rows);
    return status;
}

void lb_core_on_adapter_list(lb_core *core, lb_core_event *event)
{
    lb_buf body = {0};
    lb_jsonw w = {.out = &body};
    lb_err err = {0};
    lb_status status = LB_OK;
    uint32_t version = 0;
    const core_job *only = event->id[0] ? job_of(core, event) : NULL;
    const core_job *after =
        event->after[0] ? lb_core_find_adapter(core, event->after, &version) : NULL;
    if (event->id[0] && !only)
        return;
    if (event->after[0] && (!after || (only && only != after))) {
        answer_bad_after(core, event);
        return;
    }
    page p = {.w = &w, .core = core, .limit = event->limit};
    bool started = !after;
    begin_list(&w);
    for (size_t i = core->job_count; status == LB_OK && !p.more && i-- > 0;) {
        p.job = core->jobs[i];
        if ((only && p.job != only) || (!started && p.job != after))
            continue;
        status = write_versions(&p, p.job == after ? version : p.job->row.head + 1, &err);
        started = true;
    }
    if (status != LB_OK)
        answer_failed(core, event, &body, &err, status);
    else
        end_list(core, event->ticket, &w, p.more);
}
