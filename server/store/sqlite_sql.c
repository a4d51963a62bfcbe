/* SPDX-License-Identifier: Apache-2.0 */
#include "server/store/sqlite_impl.h"

const char lb_sql_schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE coord(id INTEGER PRIMARY KEY CHECK(id=1), epoch INTEGER NOT NULL,"
    " fence INTEGER NOT NULL) STRICT;"
    "INSERT INTO coord(id, epoch, fence) VALUES(1, 0, 1);"
    "CREATE TABLE file(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, sha TEXT NOT NULL,"
    " filename TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL,"
    " created_at INTEGER NOT NULL) STRICT;"
    "CREATE INDEX file_sha ON file(sha);"
    "CREATE TABLE run(seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,"
    " suffix TEXT NOT NULL UNIQUE, model TEXT NOT NULL, teacher TEXT NOT NULL,"
    " training_file TEXT NOT NULL, request_sha TEXT NOT NULL, seed INTEGER NOT NULL,"
    " hyperparameters TEXT NOT NULL, metadata TEXT NOT NULL, dataset_sha TEXT NOT NULL,"
    " dataset_rows INTEGER NOT NULL, tokenizer_sha TEXT NOT NULL, vocab INTEGER NOT NULL,"
    " graded INTEGER NOT NULL, config_sha TEXT NOT NULL, adapter_sha TEXT NOT NULL,"
    " adapter_config_sha TEXT NOT NULL, adapter_bytes INTEGER NOT NULL,"
    " numerics_class TEXT NOT NULL, state TEXT NOT NULL CHECK(state IN"
    " ('queued','running','succeeded','failed','cancelled')), error_code TEXT NOT NULL,"
    " error_message TEXT NOT NULL, head INTEGER NOT NULL, head_hash TEXT NOT NULL,"
    " tokens_total INTEGER NOT NULL, created_at INTEGER NOT NULL, started_at INTEGER NOT NULL,"
    " finished_at INTEGER NOT NULL, method TEXT NOT NULL, from_adapter TEXT NOT NULL,"
    " handshake TEXT NOT NULL) STRICT;"
    "CREATE INDEX run_dataset ON run(dataset_sha);"
    "CREATE INDEX run_adapter ON run(adapter_sha);"
    "CREATE INDEX run_adapter_config ON run(adapter_config_sha);"
    "CREATE TABLE push(run TEXT NOT NULL REFERENCES run(id), step INTEGER NOT NULL,"
    " unit INTEGER NOT NULL, digest TEXT NOT NULL, bytes INTEGER NOT NULL,"
    " tokens INTEGER NOT NULL, worker TEXT NOT NULL, fence INTEGER NOT NULL,"
    " kept INTEGER NOT NULL, PRIMARY KEY(run, step, unit)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX push_kept ON push(digest) WHERE kept = 1;"
    "CREATE TABLE upd(run TEXT NOT NULL REFERENCES run(id), step INTEGER NOT NULL,"
    " prev TEXT NOT NULL, units_root TEXT NOT NULL, grad_sha TEXT NOT NULL,"
    " adapter_sha TEXT NOT NULL, opt_sha TEXT NOT NULL, hash TEXT NOT NULL,"
    " tokens INTEGER NOT NULL, adapter_bytes INTEGER NOT NULL, snapshot INTEGER NOT NULL,"
    " grad_kept INTEGER NOT NULL, opt_kept INTEGER NOT NULL, created_at INTEGER NOT NULL,"
    " PRIMARY KEY(run, step)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX upd_adapter ON upd(adapter_sha);"
    "CREATE INDEX upd_grad ON upd(grad_sha) WHERE grad_kept = 1;"
    "CREATE INDEX upd_opt ON upd(opt_sha) WHERE opt_kept = 1;"
    "CREATE TABLE metric(run TEXT NOT NULL REFERENCES run(id), step INTEGER NOT NULL,"
    " data TEXT NOT NULL, PRIMARY KEY(run, step)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE event(run TEXT NOT NULL REFERENCES run(id), seq INTEGER NOT NULL,"
    " created_at INTEGER NOT NULL, level TEXT NOT NULL, type TEXT NOT NULL,"
    " message TEXT NOT NULL, step INTEGER NOT NULL, PRIMARY KEY(run, seq)) STRICT, WITHOUT ROWID;"
    "PRAGMA user_version = 2;"
    "COMMIT;";

#define STEP_COLUMNS                                                                          \
    "step, prev, units_root, grad_sha, adapter_sha, opt_sha, hash, tokens, adapter_bytes,"    \
    " snapshot, grad_kept, opt_kept, created_at"

const char *const lb_sql_text[LB_SQL_COUNT] = {
    [LB_SQL_BEGIN] = "BEGIN IMMEDIATE",
    [LB_SQL_COMMIT] = "COMMIT",
    [LB_SQL_ROLLBACK] = "ROLLBACK",
    [LB_SQL_EPOCH_GET] = "SELECT epoch FROM coord WHERE id = 1",
    [LB_SQL_EPOCH_NEXT] = "UPDATE coord SET epoch = epoch + 1 WHERE id = 1",
    [LB_SQL_FENCE_GET] = "SELECT fence FROM coord WHERE id = 1",
    [LB_SQL_FENCE_ADD] = "UPDATE coord SET fence = fence + ?1 WHERE id = 1",

    [LB_SQL_FILE_INSERT] =
        "INSERT INTO file(id, sha, filename, purpose, bytes, created_at)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    [LB_SQL_FILES] =
        "SELECT id, sha, filename, purpose, bytes, created_at FROM file ORDER BY seq",

    [LB_SQL_JOB_INSERT] =
        "INSERT INTO run(id, suffix, model, teacher, training_file, request_sha, seed,"
        " hyperparameters, metadata, dataset_sha, dataset_rows, tokenizer_sha, vocab, graded,"
        " config_sha, adapter_sha, adapter_config_sha, adapter_bytes, numerics_class, state,"
        " error_code, error_message, head, head_hash, tokens_total, created_at, started_at,"
        " finished_at, method, from_adapter, handshake) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8,"
        " ?9, ?10, ?11, ?12, ?13, ?14, ?15,"
        " ?16, ?17, ?18, '', 'queued', '', '', 0, ?19, 0, ?20, 0, 0, ?21, ?22, '')",
    [LB_SQL_JOBS] =
        "SELECT id, suffix, model, teacher, training_file, request_sha, seed, hyperparameters,"
        " metadata, dataset_sha, dataset_rows, tokenizer_sha, vocab, graded, config_sha,"
        " adapter_sha, adapter_config_sha, adapter_bytes, numerics_class, state, error_code,"
        " error_message, head, head_hash, tokens_total, created_at, started_at, finished_at,"
        " method, from_adapter, handshake FROM run ORDER BY seq",
    [LB_SQL_JOB_CHANGE] =
        "UPDATE run SET state = ?2, error_code = ?3, error_message = ?4, started_at = ?5,"
        " finished_at = ?6 WHERE id = ?1 AND state IN ('queued', 'running')",
    [LB_SQL_JOB_CLASS] = "UPDATE run SET numerics_class = ?2 WHERE id = ?1 AND numerics_class = ''",
    [LB_SQL_JOB_HANDSHAKE] =
        "UPDATE run SET handshake = ?2 WHERE id = ?1 AND handshake = ''"
        " AND state IN ('queued', 'running')",
    [LB_SQL_JOB_HEAD] =
        "UPDATE run SET head = head + 1, head_hash = ?4, tokens_total = ?5 WHERE id = ?1"
        " AND head = ?2 AND head_hash = ?3 AND state = 'running'",

    [LB_SQL_PUSH_INSERT] =
        "INSERT INTO push(run, step, unit, digest, bytes, tokens, worker, fence, kept)"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1)",
    [LB_SQL_PUSH_DELETE] = "DELETE FROM push WHERE run = ?1 AND step = ?2 AND unit = ?3",
    [LB_SQL_PUSH_GET] =
        "SELECT step, unit, digest, bytes, tokens, worker, fence FROM push"
        " WHERE run = ?1 AND step = ?2 AND unit = ?3",
    [LB_SQL_PUSHES] =
        "SELECT step, unit, digest, bytes, tokens, worker, fence FROM push"
        " WHERE run = ?1 AND step = ?2 ORDER BY unit",
    [LB_SQL_PUSH_UNKEEP] = "UPDATE push SET kept = 0 WHERE run = ?1 AND step = ?2",
    [LB_SQL_PUSH_KEPT] = "SELECT digest FROM push WHERE run = ?1 AND kept = 1",
    [LB_SQL_PUSH_UNKEEP_ALL] = "UPDATE push SET kept = 0 WHERE run = ?1 AND kept = 1",

    [LB_SQL_STEP_INSERT] =
        "INSERT INTO upd(run, " STEP_COLUMNS ")"
        " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    [LB_SQL_STEP_GET] = "SELECT " STEP_COLUMNS " FROM upd WHERE run = ?1 AND step = ?2",
    [LB_SQL_STEPS_NEWEST] =
        "SELECT " STEP_COLUMNS " FROM upd WHERE run = ?1 AND step < ?2 AND snapshot >= ?3"
        " ORDER BY step DESC LIMIT ?4",
    [LB_SQL_STEPS_OLDEST] =
        "SELECT " STEP_COLUMNS " FROM upd WHERE run = ?1 AND step >= ?2 ORDER BY step",

    [LB_SQL_METRIC_INSERT] = "INSERT INTO metric(run, step, data) VALUES(?1, ?2, ?3)",
    [LB_SQL_METRICS] =
        "SELECT data FROM metric WHERE run = ?1 AND step > ?2 ORDER BY step LIMIT ?3",
    [LB_SQL_EVENT_INSERT] =
        "INSERT INTO event(run, seq, created_at, level, type, message, step) VALUES(?1,"
        " (SELECT coalesce(max(seq), 0) + 1 FROM event WHERE run = ?1), ?2, ?3, ?4, ?5, ?6)",
    [LB_SQL_EVENTS] =
        "SELECT e.seq, e.created_at, e.level, e.type, e.message, e.step, m.data FROM event e"
        " LEFT JOIN metric m ON m.run = e.run AND m.step = e.step AND e.type = 'metrics'"
        " WHERE e.run = ?1 AND (?2 = 0 OR e.seq < ?2) ORDER BY e.seq DESC LIMIT ?3",

    [LB_SQL_GRADS_KEPT] =
        "SELECT grad_sha FROM upd WHERE run = ?1 AND step < ?2 AND grad_kept = 1",
    [LB_SQL_OPTS_KEPT] = "SELECT opt_sha FROM upd WHERE run = ?1 AND step < ?2 AND opt_kept = 1",
    [LB_SQL_GRADS_FORGET] =
        "UPDATE upd SET grad_kept = 0 WHERE run = ?1 AND step < ?2 AND grad_kept = 1",
    [LB_SQL_OPTS_FORGET] =
        "UPDATE upd SET opt_kept = 0 WHERE run = ?1 AND step < ?2 AND opt_kept = 1",
    [LB_SQL_NEEDS_BLOB] =
        "SELECT EXISTS(SELECT 1 FROM push WHERE digest = ?1 AND kept = 1)"
        " OR EXISTS(SELECT 1 FROM upd WHERE adapter_sha = ?1)"
        " OR EXISTS(SELECT 1 FROM upd WHERE grad_sha = ?1 AND grad_kept = 1)"
        " OR EXISTS(SELECT 1 FROM upd WHERE opt_sha = ?1 AND opt_kept = 1)"
        " OR EXISTS(SELECT 1 FROM run WHERE dataset_sha = ?1)"
        " OR EXISTS(SELECT 1 FROM run WHERE adapter_sha = ?1)"
        " OR EXISTS(SELECT 1 FROM run WHERE adapter_config_sha = ?1)"
        " OR EXISTS(SELECT 1 FROM file WHERE sha = ?1)",
};
