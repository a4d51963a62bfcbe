/* SPDX-License-Identifier: Apache-2.0
 *
 * Start: rows into memory, and each active job's weights and optimizer rebuilt from its newest
 * snapshot by replaying gradients. Every replayed step must give the recorded digests; if it does
 * not (memory, a changed kernel or library), the job is halted with both rather than continued on
 * other weights. Writes nothing but blobs that are missing and the verdict on a halted job.
 */
#include "server/coordinator/core_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SNAPSHOTS_TRIED 2

/* ---- the chain of steps ---- */

typedef struct chain_check {
    const core_job *job;
    char prev[LB_SHA256_HEX];
    uint32_t next;
    lb_err *err;
} chain_check;

static lb_status check_link(void *arg, const lb_step_row *row)
{
    chain_check *check = arg;
    char hash[LB_SHA256_HEX];
    if (row->step != check->next || strcmp(row->prev, check->prev) != 0)
        return lb_fail(check->err, LB_EDATA, "upd", "the chain breaks at step %u", check->next);
    lb_status status = lb_core_chain_hash(&check->job->row, row, hash, check->err);
    if (status == LB_OK && strcmp(hash, row->hash) != 0)
        status = lb_fail(check->err, LB_EDATA, "upd", "step %u hashes to %s, recorded is %s",
                         row->step, hash, row->hash);
    memcpy(check->prev, row->hash, sizeof check->prev);
    check->next++;
    return status;
}

static lb_status check_chain(lb_core *core, const core_job *job, lb_err *err)
{
    lb_store *store = core->env.store;
    chain_check check = {.job = job, .err = err};
    char config_sha[LB_SHA256_HEX];
    lb_status status = lb_core_config_digest(&job->row, config_sha, err);
    if (status == LB_OK && strcmp(config_sha, job->row.config_sha) != 0)
        status = lb_fail(err, LB_EDATA, "config", "the job's configuration has digest %s, recorded"
                         " is %s", config_sha, job->row.config_sha);
    if (status == LB_OK)
        status = lb_core_chain_start(&job->row, check.prev, err);
    if (status == LB_OK)
        status = store->steps_oldest(store->impl, job->row.id, 0, check_link, &check, err);
    if (status == LB_OK &&
        (check.next != job->row.head || strcmp(check.prev, job->row.head_hash) != 0))
        status = lb_fail(err, LB_EDATA, "upd", "the chain ends at step %u, the head is %u",
                         check.next, job->row.head);
    return status;
}

/* ---- replay ---- */

typedef struct replay {
    lb_core *core;
    core_job *job;
    bool missing;              /* a blob was missing or damaged: an older snapshot may do */
    lb_err *err;
} replay;

static lb_status compare_digest(const char *what, uint32_t version, const char *found,
                                const char *expected, lb_err *err)
{
    if (strcmp(found, expected) == 0)
        return LB_OK;
    return lb_fail(err, LB_EDATA, what, "%s of version %u is %s after replay, recorded is %s",
                   what, version, found, expected);
}

/* Encodes the job's weights and optimizer, compares both with the row, and puts the blobs that the
 * row names, so that one that was lost is there again. */
static lb_status confirm_step(lb_core *core, core_job *job, const lb_step_row *row, lb_err *err)
{
    lb_buf adapter = {0}, optimizer = {0};
    char found[LB_SHA256_HEX];
    uint8_t digest[LB_SHA256_BYTES];
    const lb_env *env = &core->env;
    lb_status status = lb_lora_encode(&job->layout, job->weights, &adapter, err);
    if (status == LB_OK)
        status = lb_adam_encode(&job->adam, &optimizer, err);
    if (status != LB_OK)
        goto done;
    lb_sha256_of(adapter.data, adapter.length, digest);
    lb_sha256_hex(digest, found);
    status = compare_digest("adapter", row->step + 1, found, row->adapter_sha, err);
    if (status != LB_OK)
        goto done;
    lb_sha256_of(optimizer.data, optimizer.length, digest);
    lb_sha256_hex(digest, found);
    status = compare_digest("optimizer", row->step + 1, found, row->opt_sha, err);
    if (status == LB_OK)
        status = env->blob_put(env->arg, adapter.data, adapter.length, found, err);
    if (status == LB_OK && row->opt_kept)
        status = env->blob_put(env->arg, optimizer.data, optimizer.length, found, err);
    if (status == LB_OK)
        memcpy(job->adapter_sha, row->adapter_sha, sizeof job->adapter_sha);
done:
    lb_buf_free(&adapter);
    lb_buf_free(&optimizer);
    return status;
}

static lb_status replay_step(void *arg, const lb_step_row *row)
{
    replay *r = arg;
    core_job *job = r->job;
    const lb_env *env = &r->core->env;
    lb_buf gradient = {0};
    lb_status status = LB_OK;
    if (row->grad_kept)
        status = env->blob_get(env->arg, row->grad_sha, &gradient, r->err);
    else
        status = lb_fail(r->err, LB_ENOTFOUND, "gradient", "the gradient of step %u is gone",
                         row->step);
    if (status == LB_OK && gradient.length != job->layout.elements * sizeof(float))
        status = lb_fail(r->err, LB_EDATA, "gradient", "the gradient of step %u has %zu bytes",
                         row->step, gradient.length);
    r->missing = status == LB_ENOTFOUND || status == LB_EDATA;
    if (status == LB_OK)
        status = lb_core_apply(job, &job->adam, job->weights,
                               (const float *)(const void *)gradient.data, row->tokens, r->err);
    if (status == LB_OK)
        status = confirm_step(r->core, job, row, r->err);
    lb_buf_free(&gradient);
    return status;
}

static lb_status load_start(lb_core *core, core_job *job, lb_err *err)
{
    lb_buf adapter = {0};
    char found[LB_SHA256_HEX];
    lb_adam_free(&job->adam);
    lb_status status = lb_adam_create(job->layout.elements, &job->adam, err);
    if (status == LB_OK && job->row.from_adapter[0]) {
        status = core->env.blob_get(core->env.arg, job->row.adapter_sha, &adapter, err);
        if (status == LB_OK)
            status = lb_lora_decode(&job->layout, adapter.data, adapter.length, job->weights, err);
        lb_buf_clear(&adapter);
    } else if (status == LB_OK) {
        lb_lora_init(&job->layout, job->row.seed, job->weights);
    }
    if (status == LB_OK)
        status = lb_lora_encode(&job->layout, job->weights, &adapter, err);
    if (status == LB_OK)
        status = core->env.blob_put(core->env.arg, adapter.data, adapter.length, found, err);
    if (status == LB_OK)
        status = compare_digest("adapter", 0, found, job->row.adapter_sha, err);
    memcpy(job->adapter_sha, job->row.adapter_sha, sizeof job->adapter_sha);
    lb_buf_free(&adapter);
    return status;
}

static lb_status load_snapshot(lb_core *core, core_job *job, const lb_step_row *row, lb_err *err)
{
    const lb_env *env = &core->env;
    lb_buf adapter = {0}, optimizer = {0};
    lb_status status = env->blob_get(env->arg, row->adapter_sha, &adapter, err);
    if (status == LB_OK)
        status = env->blob_get(env->arg, row->opt_sha, &optimizer, err);
    if (status == LB_OK)
        status = lb_lora_decode(&job->layout, adapter.data, adapter.length, job->weights, err);
    if (status == LB_OK) {
        lb_adam_free(&job->adam);
        status = lb_adam_decode(optimizer.data, optimizer.length, job->layout.elements,
                                &job->adam, err);
    }
    memcpy(job->adapter_sha, row->adapter_sha, sizeof job->adapter_sha);
    lb_buf_free(&adapter);
    lb_buf_free(&optimizer);
    return status;
}

typedef struct snapshots {
    lb_step_row rows[SNAPSHOTS_TRIED];
    size_t count;
} snapshots;

static lb_status note_snapshot(void *arg, const lb_step_row *row)
{
    snapshots *list = arg;
    if (row->opt_kept && list->count < SNAPSHOTS_TRIED)
        list->rows[list->count++] = *row;
    return LB_OK;
}

/* From snapshot `index` of the list (list->count: from version 0) to the head. */
static lb_status rebuild_from(lb_core *core, core_job *job, const snapshots *list, size_t index,
                              bool *missing, lb_err *err)
{
    lb_store *store = core->env.store;
    replay r = {.core = core, .job = job, .err = err};
    const lb_step_row *row = index < list->count ? &list->rows[index] : NULL;
    lb_status status = row ? load_snapshot(core, job, row, err) : load_start(core, job, err);
    *missing = row && (status == LB_ENOTFOUND || status == LB_EDATA);
    if (status != LB_OK)
        return status;
    status = store->steps_oldest(store->impl, job->row.id, row ? row->step + 1 : 0, replay_step,
                                 &r, err);
    *missing = r.missing;
    return status;
}

static lb_status rebuild(lb_core *core, core_job *job, lb_err *err)
{
    lb_store *store = core->env.store;
    snapshots list = {0};
    bool missing = true;
    lb_status status = store->steps_newest(store->impl, job->row.id, job->row.head,
                                           SNAPSHOTS_TRIED, true, note_snapshot, &list, err);
    if (status != LB_OK)
        return status;
    job->snapshot = list.count > 0 ? list.rows[0].step + 1 : 0;
    job->replay_from = list.count > 1 ? list.rows[1].step + 1 : 0;
    for (size_t i = 0; missing && i <= list.count; i++) {
        lb_err tried = {0};
        status = rebuild_from(core, job, &list, i, &missing, &tried);
        /* The first failure says what is damaged; that nothing older helps follows from it. */
        if (status != LB_OK && (i == 0 || !missing) && err)
            *err = tried;
        if (status == LB_OK)
            return LB_OK;
        char quoted[LB_ERR_MESSAGE_MAX];
        lb_core_note_f(core, LB_LOG_WARN, "replay_failed", "job=%s try=%zu message=%s",
                       job->row.id, i, lb_log_quote(quoted, sizeof quoted, tried.message));
    }
    return status;
}

/* ---- jobs ---- */

typedef struct push_load {
    core_job *job;
} push_load;

static lb_status load_push(void *arg, const lb_push_row *row)
{
    core_job *job = ((push_load *)arg)->job;
    if (row->unit >= job->config.units_per_step || job->units[row->unit].state == UNIT_DONE)
        return LB_EDATA;
    core_unit *unit = &job->units[row->unit];
    unit->state = UNIT_DONE;
    memcpy(unit->digest, row->digest, sizeof unit->digest);
    job->done++;
    return LB_OK;
}

static lb_status recover_job(lb_core *core, core_job *job, lb_err *err)
{
    lb_store *store = core->env.store;
    push_load load = {job};
    lb_status status = check_chain(core, job, err);
    if (status == LB_OK)
        status = rebuild(core, job, err);
    if (status == LB_OK)
        status = store->pushes(store->impl, job->row.id, job->row.head, load_push, &load, err);
    if (status != LB_OK)
        return status;
    job->step_started_ms = core->env.now_ms(core->env.arg);
    if (job->done == job->config.units_per_step)
        job->commit_ms = job->step_started_ms;
    lb_core_note_f(core, LB_LOG_INFO, "job_recovered", "job=%s version=%u units_done=%u adapter="
                   "%.12s", job->row.id, job->row.head, job->done, job->adapter_sha);
    return LB_OK;
}

static lb_status halt(lb_core *core, core_job *job, const lb_err *why, lb_err *err)
{
    lb_core_job_unload(job);
    return lb_core_job_end(core, job, LB_JOB_FAILED, "halted", why->message, err);
}

/* Damage ends the job; what the operator can mend (a model not given, memory) only holds it. */
static lb_status load_active(lb_core *core, core_job *job, lb_err *err)
{
    lb_err why = {0};
    char quoted[LB_ERR_MESSAGE_MAX];
    lb_status status = lb_core_job_enliven(core, job, &why);
    if (status == LB_OK) {
        status = recover_job(core, job, &why);
        if (status == LB_EDATA || status == LB_ENOTFOUND || status == LB_ENUMERIC)
            return halt(core, job, &why, err);
    }
    if (status == LB_OK)
        return LB_OK;
    lb_core_job_unload(job);
    snprintf(job->hold, sizeof job->hold, "%s",
             why.message[0] ? why.message : lb_status_text(status));
    lb_core_note_f(core, LB_LOG_ERROR, "job_held", "job=%s message=%s", job->row.id,
                   lb_log_quote(quoted, sizeof quoted, job->hold));
    return LB_OK;
}

static lb_status take_metrics(void *arg, const char *text)
{
    core_job *job = arg;
    lb_json *json = NULL;
    free(job->metrics);
    job->metrics = strdup(text);
    if (job->metrics && lb_json_parse(text, strlen(text), &json, NULL) == LB_OK)
        job->step_seconds = lb_json_number(lb_json_get(json, "time/total"));
    lb_json_free(json);
    return job->metrics ? LB_OK : LB_ENOMEM;
}

static lb_status add_job(void *arg, lb_job_row *row)
{
    lb_core *core = arg;
    core_job *job = calloc(1, sizeof *job);
    if (!job)
        return LB_ENOMEM;
    job->row = *row;
    *row = (lb_job_row){0};
    job->commit_ms = LB_CORE_NEVER;
    lb_status status = lb_core_job_append(core, job, NULL);
    if (status != LB_OK)
        lb_core_job_free(job);
    return status;
}

static lb_status add_file(void *arg, const lb_file_row *row)
{
    return lb_core_file_append(arg, row, NULL);
}

lb_status lb_core_load(lb_core *core, lb_err *err)
{
    lb_store *store = core->env.store;
    /* Reserving none tells the counter: fences from it on were never given. */
    lb_status status = store->fences(store->impl, 0, &core->fence_next, err);
    core->fence_end = core->fence_next;
    if (status == LB_OK)
        status = store->files(store->impl, add_file, core, err);
    if (status == LB_OK)
        status = store->jobs(store->impl, add_job, core, err);
    for (size_t i = 0; status == LB_OK && i < core->job_count; i++) {
        core_job *job = core->jobs[i];
        if (job->row.head > 0)
            status = store->metrics(store->impl, job->row.id, job->row.head - 1, 1, take_metrics,
                                    job, err);
        if (status == LB_OK && lb_job_state_active(job->row.state))
            status = load_active(core, job, err);
        else if (status == LB_OK && lb_core_job_configure(job, NULL) != LB_OK)
            lb_core_note_f(core, LB_LOG_WARN, "job_unreadable", "job=%s", job->row.id);
    }
    if (status != LB_OK && err && err->status == LB_OK)
        (void)lb_fail(err, status, NULL, "the rows of the store could not be loaded");
    return status;
}
