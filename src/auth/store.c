/* SPDX-License-Identifier: Apache-2.0 */
#include "auth/store.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "db/db.h"

enum { SCHEMA_VERSION = 1, BUSY_MS = 5000 };

static const char columns[] =
	"digest, name, scope, models, requests, tokens, concurrent, created_ms, expires_ms";

static int fail(sqlite3 *db, const char *path, int rc, struct err *reterr)
{
	return err_set(reterr, -EIO, "the keys in %.300s cannot be %s: %s", path,
		rc == SQLITE_READONLY || rc == SQLITE_FULL ? "written" : "used",
		db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
}

/* Root makes it for the service whose folder it is, which could not read it otherwise. */
static int create(const char *path, struct err *reterr)
{
	struct stat st;
	AUTO(mem_freep) char *dir = mem_strdup(path);
	AUTO(fd_closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	char *slash = strrchr(dir, '/');
	if (fd < 0)
		return err_set(reterr, -errno, "%.300s cannot be opened: %s", path, strerror(errno));
	if (slash)
		*slash = '\0';
	if (geteuid() == 0 && slash && *dir && stat(dir, &st) == 0 && st.st_uid != 0 &&
		fchown(fd, st.st_uid, st.st_gid) < 0)
		return err_set(reterr, -errno, "%.300s cannot be given to the owner of its folder: %s", path,
			strerror(errno));
	return 0;
}

static int schema(sqlite3 *db, const char *path, bool writes, struct err *reterr)
{
	int version = 0, rc = db_int(db, "PRAGMA user_version", &version);
	if (!rc && version > SCHEMA_VERSION)
		return err_set(reterr, -EINVAL,
			"%.300s was written by a newer version of Corral; start that one", path);
	if (!rc && version < SCHEMA_VERSION && writes)
		rc = sqlite3_exec(db,
			"CREATE TABLE IF NOT EXISTS keys (digest BLOB PRIMARY KEY NOT NULL,"
			" name TEXT UNIQUE NOT NULL, scope TEXT NOT NULL, models TEXT NOT NULL,"
			" requests INTEGER NOT NULL, tokens INTEGER NOT NULL, concurrent INTEGER NOT NULL,"
			" created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;"
			"PRAGMA user_version = 1;",
			NULL, NULL, NULL);
	return rc ? fail(db, path, rc, reterr) : 0;
}

/* writes: begins a transaction. */
static int open_db(const char *path, bool writes, sqlite3 **ret, struct err *reterr)
{
	int r = writes ? create(path, reterr) : 0;
	if (r)
		return r;
	/* Also to read: what a writer that died left half done is taken back then. */
	int rc = sqlite3_open_v2(path, ret, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (!rc)
		rc = sqlite3_busy_timeout(*ret, BUSY_MS);
	if (!rc && writes)
		rc = sqlite3_exec(*ret, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	return rc ? fail(*ret, path, rc, reterr) : schema(*ret, path, writes, reterr);
}

static int commit(sqlite3 *db, const char *path, struct err *reterr)
{
	int rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
	return rc ? fail(db, path, rc, reterr) : 0;
}

/* ---- rows -------------------------------------------------------------------------------------------- */

static struct view text_at(sqlite3_stmt *st, int i)
{
	const void *p = sqlite3_column_text(st, i);
	return view_of(p, p ? (size_t)sqlite3_column_bytes(st, i) : 0);
}

/* NULL: a row that no version of ours wrote. */
static struct auth_key *read_row(sqlite3_stmt *st)
{
	AUTO(auth_key_unrefp) struct auth_key *k = auth_key_new();
	const void *digest = sqlite3_column_blob(st, 0);
	struct view name = text_at(st, 1), models = text_at(st, 3);
	if (!digest || sqlite3_column_bytes(st, 0) != AUTH_DIGEST_LEN || !auth_name_ok(name) ||
		!auth_scope_parse(text_at(st, 2), &k->scope))
		return NULL;
	auth_key_set_digest(k, digest);
	memcpy(k->name, name.p, name.n);
	for (struct view rest = models; rest.n;)
		strv_addv(&k->models, view_split(rest, '\n', &rest));
	k->limits = (struct auth_limits){ .requests = (uint32_t)sqlite3_column_int64(st, 4),
		.tokens = (uint64_t)sqlite3_column_int64(st, 5),
		.concurrent = (uint32_t)sqlite3_column_int64(st, 6) };
	k->created_ms = sqlite3_column_int64(st, 7);
	k->expires_ms = sqlite3_column_int64(st, 8);
	return MEM_TAKE(k);
}

static int read_all(sqlite3 *db, const char *path, struct auth_list *l, struct err *reterr)
{
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	char sql[256];
	snprintf(sql, sizeof sql, "SELECT %s FROM keys ORDER BY created_ms, name LIMIT %d", columns,
		AUTH_KEYS_MAX);
	int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
	while (!rc && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct auth_key *k = read_row(st);
		rc = SQLITE_OK;
		if (k)
			auth_list_add(l, k);
	}
	return rc && rc != SQLITE_DONE ? fail(db, path, rc, reterr) : 0;
}

int auth_store_load(const char *path, struct auth_list *l, struct err *reterr)
{
	AUTO(db_closep) sqlite3 *db = NULL;
	int version = 0;
	if (!file_exists(path))
		return 0;
	int r = open_db(path, false, &db, reterr);
	if (r || db_int(db, "PRAGMA user_version", &version) || !version) /* made, and nothing in it yet */
		return r;
	return read_all(db, path, l, reterr);
}

static void join_models(const struct auth_key *k, struct buf *out)
{
	for (size_t i = 0; i < k->models.len; i++)
		(void)buf_addf(out, "%s%s", i ? "\n" : "", k->models.items[i]);
}

static int insert(sqlite3 *db, const char *path, const struct auth_key *k, struct err *reterr)
{
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	AUTO(buf_done) struct buf models = BUF(64 * KIB);
	char sql[256];
	join_models(k, &models);
	snprintf(sql, sizeof sql, "INSERT INTO keys (%s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
		columns);
	int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);
	if (rc)
		return fail(db, path, rc, reterr);
	sqlite3_bind_blob(st, 1, k->digest, AUTH_DIGEST_LEN, SQLITE_STATIC);
	sqlite3_bind_text(st, 2, k->name, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 3, auth_scope_name(k->scope), -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 4, buf_str(&models), -1, SQLITE_STATIC);
	sqlite3_bind_int64(st, 5, (sqlite3_int64)k->limits.requests);
	sqlite3_bind_int64(st, 6, (sqlite3_int64)k->limits.tokens);
	sqlite3_bind_int64(st, 7, (sqlite3_int64)k->limits.concurrent);
	sqlite3_bind_int64(st, 8, k->created_ms);
	sqlite3_bind_int64(st, 9, k->expires_ms);
	rc = sqlite3_step(st);
	if (rc == SQLITE_CONSTRAINT)
		return err_set(reterr, -EEXIST,
			"there is a key \"%s\" already; choose another name, or `corral key revoke %s` first",
			k->name, k->name);
	return rc == SQLITE_DONE ? 0 : fail(db, path, rc, reterr);
}

int auth_store_add(const char *path, const struct auth_key *k, struct err *reterr)
{
	AUTO(db_closep) sqlite3 *db = NULL;
	AUTO(auth_list_done) struct auth_list all = { 0 };
	int r = open_db(path, true, &db, reterr);
	r = r ? r : read_all(db, path, &all, reterr);
	if (!r && all.n == AUTH_KEYS_MAX)
		r = err_set(reterr, -E2BIG, "there are %d keys, and no more are kept; revoke some",
			AUTH_KEYS_MAX);
	r = r ? r : insert(db, path, k, reterr);
	return r ? r : commit(db, path, reterr);
}

static int delete_row(sqlite3 *db, const char *path, const struct auth_key *k, struct err *reterr)
{
	AUTO(db_finalizep) sqlite3_stmt *st = NULL;
	int rc = sqlite3_prepare_v2(db, "DELETE FROM keys WHERE digest = ?1", -1, &st, NULL);
	if (rc)
		return fail(db, path, rc, reterr);
	sqlite3_bind_blob(st, 1, k->digest, AUTH_DIGEST_LEN, SQLITE_STATIC);
	rc = sqlite3_step(st);
	return rc == SQLITE_DONE ? 0 : fail(db, path, rc, reterr);
}

int auth_store_revoke(const char *path, struct view id_or_name, struct auth_key **ret, struct err *reterr)
{
	AUTO(db_closep) sqlite3 *db = NULL;
	AUTO(auth_list_done) struct auth_list all = { 0 };
	const struct auth_key *k = NULL;
	int r = file_exists(path) ? open_db(path, true, &db, reterr) : 0;
	r = r || !db ? r : read_all(db, path, &all, reterr);
	if (!r && !(k = auth_list_find(&all, id_or_name)))
		return err_set(reterr, -ENOENT, "there is no key \"%.*s\"; `corral key ls` lists them",
			VIEW_ARG(view_cut(id_or_name, 80)));
	r = r ? r : delete_row(db, path, k, reterr);
	r = r ? r : commit(db, path, reterr);
	if (!r)
		*ret = auth_key_ref((struct auth_key *)k);
	return r;
}

/* ---- all sources --------------------------------------------------------------------------------------- */

int auth_sources_load(const char *state_dir, const char *keys_file, const char *env, struct auth_sources *ret,
	struct err *reterr)
{
	AUTO(mem_freep) char *path = path_join(state_dir, AUTH_STORE_NAME);
	struct err e = { 0 };
	*ret = (struct auth_sources){ 0 };
	if (auth_store_load(path, &ret->store, &e)) {
		auth_list_done(&ret->store);
		ret->problem = mem_strdup(e.msg);
	}
	int r = auth_env_parse(env, &ret->env, reterr);
	if (!r && keys_file)
		r = auth_file_read(keys_file, &ret->file, &ret->warning, reterr);
	if (r)
		auth_sources_done(ret);
	return r;
}

void auth_sources_done(struct auth_sources *s)
{
	auth_list_done(&s->store);
	auth_list_done(&s->file);
	auth_list_done(&s->env);
	free(s->warning);
	free(s->problem);
	*s = (struct auth_sources){ 0 };
}
