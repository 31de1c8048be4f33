/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog's file.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "db/db.h"
#include "provision/catalog/catalog_int.h"

enum { APPLICATION = 0x43726361, BUSY_MS = 2000 };

/* Each brings a file from the version of its index to the next. */
static const char *const migrations[] = {
	"CREATE TABLE models (id TEXT PRIMARY KEY NOT NULL, reference TEXT NOT NULL, names TEXT NOT NULL,"
	" revision TEXT, source TEXT, fetched INTEGER NOT NULL, architecture TEXT, name TEXT, quant TEXT,"
	" size_bytes INTEGER NOT NULL, n_params INTEGER NOT NULL, n_ctx_train INTEGER NOT NULL,"
	" life TEXT NOT NULL, life_by TEXT, life_ms INTEGER NOT NULL, created_ms INTEGER NOT NULL,"
	" used_ms INTEGER NOT NULL, verified_ms INTEGER NOT NULL, verify_problem TEXT) WITHOUT ROWID;"
	"CREATE TABLE model_files (model TEXT NOT NULL, ordinal INTEGER NOT NULL, role TEXT NOT NULL,"
	" path TEXT, url TEXT, sha256 TEXT, size INTEGER NOT NULL, PRIMARY KEY (model, ordinal)) WITHOUT "
	"ROWID;"
	"CREATE TABLE engines (id TEXT PRIMARY KEY NOT NULL, engine TEXT, version TEXT, source TEXT,"
	" hash TEXT, digest TEXT, flags TEXT, features TEXT, folder TEXT, state TEXT,"
	" created_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE steps (job TEXT NOT NULL, ordinal INTEGER NOT NULL, name TEXT NOT NULL,"
	" state INTEGER NOT NULL, started_ms INTEGER NOT NULL, ended_ms INTEGER NOT NULL, detail TEXT,"
	" PRIMARY KEY (job, ordinal)) WITHOUT ROWID;",
	"ALTER TABLE steps ADD COLUMN log TEXT;",
};
enum { SCHEMA_VERSION = ARRAY_LEN(migrations) };

enum statement {
	PUT_MODEL,
	DEL_MODEL,
	DEL_FILES,
	PUT_FILE,
	PUT_ENGINE,
	DEL_ENGINE,
	PUT_STEP,
	DEL_STEP,
	NSTATEMENTS
};
static const char *const statements[] = {
	[PUT_MODEL] = ("INSERT OR REPLACE INTO models VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,"
		       "?15,?16,?17,?18,?19)"),
	[DEL_MODEL] = "DELETE FROM models WHERE id = ?1",
	[DEL_FILES] = "DELETE FROM model_files WHERE model = ?1",
	[PUT_FILE] = "INSERT OR REPLACE INTO model_files VALUES (?1,?2,?3,?4,?5,?6,?7)",
	[PUT_ENGINE] = "INSERT OR REPLACE INTO engines VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12)",
	[DEL_ENGINE] = "DELETE FROM engines WHERE id = ?1",
	[PUT_STEP] = "INSERT OR REPLACE INTO steps VALUES (?1,?2,?3,?4,?5,?6,?7,?8)",
	[DEL_STEP] = "DELETE FROM steps WHERE job = ?1 AND ordinal = ?2",
};

struct catalog_db {
	sqlite3 *db;
	char *path;
	sqlite3_stmt *st[NSTATEMENTS];
};

static int fail(const struct catalog_db *d, int rc, struct err *reterr)
{
	if (db_is_damaged(rc))
		return err_set(reterr, -EBADMSG, "%.300s is damaged", d->path);
	return err_set(reterr, -EIO, "the catalog %.300s cannot be %s: %s", d->path,
		rc == SQLITE_READONLY || rc == SQLITE_FULL ? "written" : "used",
		d->db ? sqlite3_errmsg(d->db) : sqlite3_errstr(rc));
}

/* ---- opening ------------------------------------------------------------------------------------------- */

/* Inside a transaction. */
static int migrate(struct catalog_db *d, int from, struct err *reterr)
{
	for (int v = from; v < SCHEMA_VERSION; v++) {
		AUTO(mem_freep)
		char *sql = mem_fmt("%sPRAGMA application_id = %d;PRAGMA user_version = %d;", migrations[v],
			APPLICATION, v + 1);
		int rc = sqlite3_exec(d->db, sql, NULL, NULL, NULL);
		if (rc)
			return fail(d, rc, reterr);
	}
	return 0;
}

/* Inside a transaction. */
static int check(struct catalog_db *d, struct err *reterr)
{
	int application = 0, version = 0, tables = 0;
	int rc = db_int(d->db, "PRAGMA application_id", &application);
	rc = rc ? rc : db_int(d->db, "PRAGMA user_version", &version);
	rc = rc ? rc : db_int(d->db, "SELECT count(*) FROM sqlite_master", &tables);
	rc = rc ? rc : db_check(d->db);
	if (rc)
		return fail(d, rc, reterr);
	if (!tables && !application && !version)
		return migrate(d, 0, reterr);
	if (application != APPLICATION || version < 1)
		return err_set(reterr, -EBADMSG, "%.300s is no catalog", d->path);
	if (version > SCHEMA_VERSION)
		return err_set(reterr, -EINVAL,
			"the catalog %.300s was written by a newer version of Corral (schema %d, this one "
			"knows "
			"%d); start that one, or move the file away",
			d->path, version, (int)SCHEMA_VERSION);
	return migrate(d, version, reterr);
}

/* What the file is and what it becomes is one transaction: another process may be at the same. */
static int settle_schema(struct catalog_db *d, struct err *reterr)
{
	int r = catalog_db_begin(d, reterr);
	r = r ? r : check(d, reterr);
	r = r ? r : catalog_db_commit(d, reterr);
	if (r)
		catalog_db_rollback(d);
	return r;
}

static int open_db(struct catalog_db *d, struct err *reterr)
{
	int fd = open(d->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(
			reterr, -EIO, "the catalog %.300s cannot be opened: %s", d->path, strerror(errno));
	fd_close(fd); /* before SQLite locks the file: a close drops all locks this process has on it */
	int rc = sqlite3_open_v2(d->path, &d->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	rc = rc ? rc : sqlite3_busy_timeout(d->db, BUSY_MS);
	rc = rc ? rc : sqlite3_exec(d->db, "PRAGMA synchronous = NORMAL", NULL, NULL, NULL);
	if (rc)
		return fail(d, rc, reterr);
	int r = settle_schema(d, reterr);
	/* The mode is the file's. SQLite waits for nobody here: whoever is at the file sets it, or the next.
	 */
	rc = r ? 0 : sqlite3_exec(d->db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
	if (rc && (rc & 0xff) != SQLITE_BUSY)
		r = fail(d, rc, reterr);
	for (int i = 0; !r && i < NSTATEMENTS; i++)
		if ((rc = sqlite3_prepare_v2(d->db, statements[i], -1, &d->st[i], NULL)))
			r = db_is_damaged(rc)
				    ? fail(d, rc, reterr)
				    : err_set(reterr, -EBADMSG, "%.300s lacks what a catalog has", d->path);
	return r;
}

void catalog_db_close(struct catalog_db *d)
{
	if (!d)
		return;
	for (int i = 0; i < NSTATEMENTS; i++)
		sqlite3_finalize(d->st[i]);
	sqlite3_close(d->db);
	free(d->path);
	free(d);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static char *text(sqlite3_stmt *st, int i)
{
	const char *s = (const char *)sqlite3_column_text(st, i);
	return mem_strdup(s);
}

static uint64_t number(sqlite3_stmt *st, int i)
{
	return (uint64_t)MAX(sqlite3_column_int64(st, i), (sqlite3_int64)0);
}

static void split_names(const char *text, struct strv *to)
{
	for (struct view rest = view_str(text ? text : ""), line; rest.n;) {
		line = view_split(rest, '\n', &rest);
		if (line.n)
			strv_addv(to, line);
	}
}

static int read_files(struct catalog_db *d, struct catalog_model *m)
{
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(d->db,
		"SELECT role, path, url, sha256, size FROM model_files WHERE model = ?1 ORDER BY ordinal", -1,
		&st, NULL);
	rc = rc ? rc : sqlite3_bind_text(st, 1, m->id, -1, SQLITE_STATIC);
	while (!rc && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct catalog_file f = { text(st, 0), text(st, 1), text(st, 2), text(st, 3), number(st, 4) };
		catalog_model_add_file(m, &f);
		free(f.role);
		free(f.path);
		free(f.url);
		free(f.sha256);
		rc = SQLITE_OK;
	}
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int read_model(struct catalog_db *d, sqlite3_stmt *st, const struct catalog_rows *rows)
{
	struct catalog_model m = { .id = text(st, 0),
		.reference = text(st, 1),
		.revision = text(st, 3),
		.source = text(st, 4),
		.fetched = sqlite3_column_int(st, 5) != 0,
		.architecture = text(st, 6),
		.name = text(st, 7),
		.quant = text(st, 8),
		.size_bytes = number(st, 9),
		.n_params = number(st, 10),
		.n_ctx_train = number(st, 11),
		.life_by = text(st, 13),
		.life_ms = sqlite3_column_int64(st, 14),
		.created_ms = sqlite3_column_int64(st, 15),
		.used_ms = sqlite3_column_int64(st, 16),
		.verified_ms = sqlite3_column_int64(st, 17),
		.verify_problem = text(st, 18) };
	AUTO(mem_freep) char *life = text(st, 12);
	(void)!catalog_life_parse(view_str(life ? life : ""), &m.life);
	split_names((const char *)sqlite3_column_text(st, 2), &m.references);
	int rc = m.id && m.reference ? read_files(d, &m) : SQLITE_CORRUPT;
	if (!rc)
		rows->model(rows->arg, &m);
	catalog_model_done(&m);
	return rc;
}

static int read_engine(struct catalog_db *d, sqlite3_stmt *st, const struct catalog_rows *rows)
{
	(void)d;
	struct catalog_engine e = { .id = text(st, 0),
		.engine = text(st, 1),
		.version = text(st, 2),
		.source = text(st, 3),
		.commit = text(st, 4),
		.digest = text(st, 5),
		.flags = text(st, 6),
		.features = text(st, 7),
		.folder = text(st, 8),
		.state = text(st, 9),
		.created_ms = sqlite3_column_int64(st, 10),
		.used_ms = sqlite3_column_int64(st, 11) };
	if (e.id)
		rows->engine(rows->arg, &e);
	catalog_engine_done(&e);
	return SQLITE_OK;
}

static int read_step(struct catalog_db *d, sqlite3_stmt *st, const struct catalog_rows *rows)
{
	(void)d;
	int state = sqlite3_column_int(st, 3);
	struct catalog_step s = { .job = text(st, 0),
		.ordinal = (uint32_t)number(st, 1),
		.name = text(st, 2),
		.state = state >= STEP_WAITING && state <= STEP_FAILED ? (enum catalog_step_state)state
								       : STEP_WAITING,
		.started_ms = sqlite3_column_int64(st, 4),
		.ended_ms = sqlite3_column_int64(st, 5),
		.detail = text(st, 6),
		.log = text(st, 7) };
	if (s.job)
		rows->step(rows->arg, &s);
	catalog_step_done(&s);
	return SQLITE_OK;
}

typedef int read_fn(struct catalog_db *d, sqlite3_stmt *st, const struct catalog_rows *rows);

static int read_table(struct catalog_db *d, const char *sql, read_fn *fn, const struct catalog_rows *rows)
{
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(d->db, sql, -1, &st, NULL);
	while (!rc && (rc = sqlite3_step(st)) == SQLITE_ROW)
		rc = fn(d, st, rows);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int catalog_db_open(
	const char *path, const struct catalog_rows *rows, struct catalog_db **ret, struct err *reterr)
{
	struct catalog_db *d = NEW(struct catalog_db);
	d->path = mem_strdup(path);
	int r = open_db(d, reterr);
	int rc = r ? 0 : read_table(d, "SELECT * FROM models ORDER BY id", read_model, rows);
	rc = r || rc ? rc : read_table(d, "SELECT * FROM engines ORDER BY id", read_engine, rows);
	rc = r || rc ? rc : read_table(d, "SELECT * FROM steps ORDER BY job, ordinal", read_step, rows);
	r = rc ? fail(d, rc, reterr) : r;
	if (r)
		catalog_db_close(d);
	else
		*ret = d;
	return r;
}

/* ---- writing ------------------------------------------------------------------------------------------- */

struct binding {
	sqlite3_stmt *st;
	int at, rc;
};

static void bind_text(struct binding *b, const char *s)
{
	b->at++;
	if (!b->rc)
		b->rc = s ? sqlite3_bind_text(b->st, b->at, s, -1, SQLITE_STATIC)
			  : sqlite3_bind_null(b->st, b->at);
}

static void bind_int(struct binding *b, int64_t v)
{
	b->at++;
	if (!b->rc)
		b->rc = sqlite3_bind_int64(b->st, b->at, v);
}

static int run(struct catalog_db *d, struct binding *b, struct err *reterr)
{
	int rc = b->rc ? b->rc : sqlite3_step(b->st);
	int r = rc == SQLITE_DONE ? 0 : fail(d, rc, reterr);
	sqlite3_reset(b->st);
	sqlite3_clear_bindings(b->st);
	return r;
}

static int run_by_id(struct catalog_db *d, enum statement s, const char *id, struct err *reterr)
{
	struct binding b = { .st = d->st[s] };
	bind_text(&b, id);
	return run(d, &b, reterr);
}

int catalog_db_begin(struct catalog_db *d, struct err *reterr)
{
	int rc = sqlite3_exec(d->db, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	return rc ? fail(d, rc, reterr) : 0;
}

int catalog_db_commit(struct catalog_db *d, struct err *reterr)
{
	int rc = sqlite3_exec(d->db, "COMMIT", NULL, NULL, NULL);
	return rc ? fail(d, rc, reterr) : 0;
}

void catalog_db_rollback(struct catalog_db *d)
{
	if (!sqlite3_get_autocommit(d->db))
		(void)sqlite3_exec(d->db, "ROLLBACK", NULL, NULL, NULL);
}

static int put_file(
	struct catalog_db *d, const char *id, size_t i, const struct catalog_file *f, struct err *reterr)
{
	struct binding b = { .st = d->st[PUT_FILE] };
	bind_text(&b, id);
	bind_int(&b, (int64_t)i);
	bind_text(&b, f->role);
	bind_text(&b, f->path);
	bind_text(&b, f->url);
	bind_text(&b, f->sha256);
	bind_int(&b, (int64_t)f->size);
	return run(d, &b, reterr);
}

static int put_model(struct catalog_db *d, const struct catalog_model *m, struct err *reterr)
{
	AUTO(buf_done) struct buf names = BUF(1 * MIB);
	struct binding b = { .st = d->st[PUT_MODEL] };
	for (size_t i = 0; i < m->references.len; i++)
		(void)buf_addf(&names, "%s\n", m->references.items[i]);
	bind_text(&b, m->id);
	bind_text(&b, m->reference);
	bind_text(&b, buf_str(&names));
	bind_text(&b, m->revision);
	bind_text(&b, m->source);
	bind_int(&b, m->fetched);
	bind_text(&b, m->architecture);
	bind_text(&b, m->name);
	bind_text(&b, m->quant);
	bind_int(&b, (int64_t)m->size_bytes);
	bind_int(&b, (int64_t)m->n_params);
	bind_int(&b, (int64_t)m->n_ctx_train);
	bind_text(&b, catalog_life_name(m->life));
	bind_text(&b, m->life_by);
	bind_int(&b, m->life_ms);
	bind_int(&b, m->created_ms);
	bind_int(&b, m->used_ms);
	bind_int(&b, m->verified_ms);
	bind_text(&b, m->verify_problem);
	return run(d, &b, reterr);
}

int catalog_db_model(struct catalog_db *d, const char *id, const struct catalog_model *m, struct err *reterr)
{
	int r = run_by_id(d, DEL_FILES, id, reterr);
	if (!r)
		r = m ? put_model(d, m, reterr) : run_by_id(d, DEL_MODEL, id, reterr);
	for (size_t i = 0; !r && m && i < m->nfiles; i++)
		r = put_file(d, id, i, &m->files[i], reterr);
	return r;
}

int catalog_db_engine(
	struct catalog_db *d, const char *id, const struct catalog_engine *e, struct err *reterr)
{
	if (!e)
		return run_by_id(d, DEL_ENGINE, id, reterr);
	struct binding b = { .st = d->st[PUT_ENGINE] };
	bind_text(&b, e->id);
	bind_text(&b, e->engine);
	bind_text(&b, e->version);
	bind_text(&b, e->source);
	bind_text(&b, e->commit);
	bind_text(&b, e->digest);
	bind_text(&b, e->flags);
	bind_text(&b, e->features);
	bind_text(&b, e->folder);
	bind_text(&b, e->state);
	bind_int(&b, e->created_ms);
	bind_int(&b, e->used_ms);
	return run(d, &b, reterr);
}

int catalog_db_step(struct catalog_db *d, const char *job, uint32_t ordinal, const struct catalog_step *s,
	struct err *reterr)
{
	struct binding b = { .st = d->st[s ? PUT_STEP : DEL_STEP] };
	bind_text(&b, job);
	bind_int(&b, ordinal);
	if (s) {
		bind_text(&b, s->name ? s->name : "");
		bind_int(&b, s->state);
		bind_int(&b, s->started_ms);
		bind_int(&b, s->ended_ms);
		bind_text(&b, s->detail);
		bind_text(&b, s->log);
	}
	return run(d, &b, reterr);
}
