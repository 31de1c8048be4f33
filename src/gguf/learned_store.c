/* SPDX-License-Identifier: Apache-2.0
 *
 * The ledger's file. A row that no version of ours wrote is none.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "db/db.h"
#include "gguf/learned.h"

enum { SCHEMA_VERSION = 1, APPLICATION = 0x436c7264, BUSY_MS = 500, VALUE_MAX = 8 * 1024 };
#define BYTES_MAX (1ull << 50)

/* ---- a row's text: "host=W/M/K/R/C/O 0=W/M/K/R/C/O/MEASURED …" -------------------------------------------
 */

static void encode_bytes(struct buf *b, const struct learned_bytes *l)
{
	(void)buf_addf(b, "%llu/%llu/%llu/%llu/%llu/%llu", (unsigned long long)l->weights,
		(unsigned long long)l->mapped, (unsigned long long)l->kv, (unsigned long long)l->recurrent,
		(unsigned long long)l->compute, (unsigned long long)l->output);
}

static void encode(const struct learned *l, struct buf *b)
{
	(void)buf_adds(b, l->told ? "host=" : "measured host=");
	encode_bytes(b, &l->host);
	for (uint32_t i = 0; i < l->n_devices; i++) {
		(void)buf_addf(b, " %u=", i);
		encode_bytes(b, &l->device[i]);
		(void)buf_addf(b, "/%llu", (unsigned long long)l->measured[i]);
	}
}

static bool decode_bytes(struct view v, struct learned_bytes *l, uint64_t *measured)
{
	uint64_t *to[] = { &l->weights, &l->mapped, &l->kv, &l->recurrent, &l->compute, &l->output,
		measured };
	size_t n = measured ? 7 : 6;
	for (size_t i = 0; i < n; i++)
		if (num_u64(view_split(v, '/', &v), to[i]) || *to[i] > BYTES_MAX)
			return false;
	return !v.p && l->mapped <= l->weights;
}

static bool decode(struct view v, struct learned *l)
{
	struct view word = view_split(v, ' ', &v), value, name;
	l->told = !view_eqs(word, "measured");
	if (!l->told)
		word = view_split(v, ' ', &v);
	name = view_split(word, '=', &value);
	if (!view_eqs(name, "host") || !decode_bytes(value, &l->host, NULL))
		return false;
	for (l->n_devices = 0; v.p; l->n_devices++) {
		uint64_t i;
		word = view_split(v, ' ', &v);
		name = view_split(word, '=', &value);
		if (l->n_devices == LEARNED_DEVICES_MAX || num_u64(name, &i) || i != l->n_devices ||
			!decode_bytes(value, &l->device[i], &l->measured[i]))
			return false;
	}
	return true;
}

/* ---- the file ---------------------------------------------------------------------------------------------
 */

static int fail(sqlite3 *db, const char *path, int rc, struct err *reterr)
{
	return err_set(reterr, -EIO, "what was learned of engines' memory cannot be %s (%.300s): %s",
		rc == SQLITE_READONLY || rc == SQLITE_FULL ? "written" : "read", path,
		db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
}

/* 0; -EBADMSG: no ledger, or a damaged one; -EINVAL: a newer one; -EIO. */
static int check(sqlite3 *db, const char *path, bool empty_may_be, struct err *reterr)
{
	int application = 0, version = 0, tables = 0;
	int rc = db_int(db, "PRAGMA application_id", &application);
	rc = rc ? rc : db_int(db, "PRAGMA user_version", &version);
	rc = rc ? rc : db_int(db, "SELECT count(*) FROM sqlite_master", &tables);
	if (!rc && empty_may_be && !tables && !application && !version)
		return 0;
	if (db_is_damaged(rc) || (!rc && application != APPLICATION))
		return err_set(reterr, -EBADMSG, "%.300s is %s", path,
			rc ? "damaged" : "no ledger of what engines take");
	if (rc)
		return fail(db, path, rc, reterr);
	if (version > SCHEMA_VERSION)
		return err_set(reterr, -EINVAL,
			"%.300s was written by a newer version of Corral; start that one, or move it away",
			path);
	return 0;
}

static int open_there(const char *path, int flags, sqlite3 **ret, struct err *reterr)
{
	int rc = sqlite3_open_v2(path, ret, flags | SQLITE_OPEN_NOMUTEX, NULL);
	if (!rc)
		rc = sqlite3_busy_timeout(*ret, BUSY_MS);
	return rc ? fail(*ret, path, rc, reterr) : 0;
}

static int create(const char *path, struct err *reterr)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(reterr, -errno, "%.300s cannot be opened: %s", path, strerror(errno));
	fd_close(fd);
	return 0;
}

/* A failure to begin. */
static int begun(sqlite3 *db, const char *path, int rc, struct err *reterr)
{
	if (db_is_damaged(rc))
		return err_set(reterr, -EBADMSG, "%.300s is damaged", path);
	return rc ? fail(db, path, rc, reterr) : 0;
}

/* Begins a transaction, in which it is also looked at: another process may be making it. */
static int open_to_write(const char *path, sqlite3 **ret, struct err *reterr)
{
	int r = create(path, reterr);
	r = r ? r : open_there(path, SQLITE_OPEN_READWRITE, ret, reterr);
	if (r)
		return r;
	/* Not synced: what a power cut takes is learned again. */
	r = begun(*ret, path,
		sqlite3_exec(*ret, "PRAGMA synchronous = OFF; BEGIN IMMEDIATE", NULL, NULL, NULL), reterr);
	r = r ? r : check(*ret, path, true, reterr);
	if (r)
		return r;
	char sql[512];
	snprintf(sql, sizeof sql,
		"CREATE TABLE IF NOT EXISTS learned (model TEXT NOT NULL, args TEXT NOT NULL, place TEXT NOT "
		"NULL,"
		" kind TEXT NOT NULL, build TEXT NOT NULL, value TEXT NOT NULL, learned_ms INTEGER NOT NULL,"
		" used_ms INTEGER NOT NULL, PRIMARY KEY (model, args, place, kind, build)) WITHOUT ROWID;"
		"PRAGMA application_id = %d; PRAGMA user_version = %d;",
		APPLICATION, SCHEMA_VERSION);
	return begun(*ret, path, sqlite3_exec(*ret, sql, NULL, NULL, NULL), reterr);
}

static int bind_key(sqlite3_stmt *st, const struct learned_key *k)
{
	const char *const words[] = { k->model, k->args, k->place, k->kind, k->build };
	int rc = SQLITE_OK;
	for (int i = 0; !rc && i < (int)ARRAY_LEN(words); i++)
		rc = sqlite3_bind_text(st, i + 1, words[i], -1, SQLITE_STATIC);
	return rc;
}

/* ---- reading
 * ------------------------------------------------------------------------------------------------ */

static int read_row(sqlite3_stmt *st, struct learned *ret)
{
	const void *value = sqlite3_column_text(st, 0), *build = sqlite3_column_text(st, 1);
	struct learned l = { 0 };
	if (!value || !build || !decode(view_of(value, (size_t)sqlite3_column_bytes(st, 0)), &l))
		return -ENOENT;
	snprintf(l.build, sizeof l.build, "%s", (const char *)build);
	l.learned_ms = sqlite3_column_int64(st, 2);
	l.used_ms = sqlite3_column_int64(st, 3);
	*ret = l;
	return 0;
}

int learned_find(const char *path, const struct learned_key *k, struct learned *ret, struct err *reterr)
{
	AUTO(db_closep) sqlite3 *db = NULL;
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	if (access(path, F_OK) < 0 && errno == ENOENT)
		return err_set(reterr, -ENOENT, "nothing was learned yet");
	int r = open_there(path, SQLITE_OPEN_READWRITE, &db, reterr);
	r = r ? r : check(db, path, true, reterr);
	if (r)
		return r;
	int rc = sqlite3_prepare_v2(db,
		"SELECT value, build, learned_ms, used_ms FROM learned WHERE model = ?1 AND args = ?2 AND "
		"place = ?3"
		" AND (?4 = '' OR kind = ?4) AND (?5 = '' OR build = ?5) ORDER BY used_ms DESC LIMIT 1",
		-1, &st, NULL);
	if (rc == SQLITE_ERROR) /* an empty file: no table */
		return err_set(reterr, -ENOENT, "nothing was learned yet");
	rc = rc ? rc : bind_key(st, k);
	rc = rc ? rc : sqlite3_step(st);
	if (rc == SQLITE_ROW && read_row(st, ret) == 0)
		return 0;
	if (rc == SQLITE_DONE || rc == SQLITE_ROW)
		return err_set(reterr, -ENOENT, "nothing was learned of it");
	return db_is_damaged(rc) ? err_set(reterr, -EBADMSG, "%.300s is damaged", path)
				 : fail(db, path, rc, reterr);
}

/* ---- writing
 * ------------------------------------------------------------------------------------------------ */

static int write_row(sqlite3 *db, const struct learned_key *k, const struct learned *l)
{
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	AUTO(buf_done) struct buf value = BUF(VALUE_MAX);
	char sql[256];
	encode(l, &value);
	int rc = sqlite3_prepare_v2(
		db, "INSERT OR REPLACE INTO learned VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)", -1, &st, NULL);
	rc = rc ? rc : bind_key(st, k);
	rc = rc ? rc : sqlite3_bind_text(st, 6, buf_str(&value), -1, SQLITE_STATIC);
	rc = rc ? rc : sqlite3_bind_int64(st, 7, l->learned_ms);
	rc = rc ? rc : sqlite3_step(st);
	if (rc != SQLITE_DONE)
		return rc;
	snprintf(sql, sizeof sql,
		"DELETE FROM learned WHERE (model, args, place, kind, build) IN (SELECT model, args, place, "
		"kind,"
		" build FROM learned ORDER BY used_ms DESC LIMIT -1 OFFSET %d);",
		LEARNED_ROWS_MAX);
	rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
	return rc ? rc : sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
}

static int put(const char *path, const struct learned_key *k, const struct learned *l, struct err *reterr)
{
	AUTO(db_closep) sqlite3 *db = NULL;
	int r = open_to_write(path, &db, reterr);
	if (r)
		return r;
	int rc = write_row(db, k, l);
	if (db_is_damaged(rc))
		return err_set(reterr, -EBADMSG, "%.300s is damaged", path);
	return rc ? fail(db, path, rc, reterr) : 0;
}

int learned_put(const char *path, const struct learned_key *k, const struct learned *l, char **ret_aside,
	struct err *reterr)
{
	*ret_aside = NULL;
	int r = put(path, k, l, reterr);
	if (r != -EBADMSG)
		return r;
	*ret_aside = db_move_aside(path);
	return put(path, k, l, reterr);
}

void learned_used(const char *path, const struct learned_key *k, int64_t now_ms)
{
	AUTO(db_closep) sqlite3 *db = NULL;
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	if (open_there(path, SQLITE_OPEN_READWRITE, &db, NULL) || check(db, path, false, NULL))
		return;
	int rc = sqlite3_prepare_v2(db,
		"UPDATE learned SET used_ms = ?6 WHERE model = ?1 AND args = ?2 AND place = ?3 AND kind = ?4 "
		"AND"
		" build = ?5",
		-1, &st, NULL);
	rc = rc ? rc : bind_key(st, k);
	rc = rc ? rc : sqlite3_bind_int64(st, 6, now_ms);
	if (!rc)
		(void)sqlite3_step(st);
}
