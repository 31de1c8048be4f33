/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/store.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/map.h"
#include "base/mem.h"
#include "db/db.h"
#include "log/log.h"

enum { SCHEMA_VERSION = 1, RETRY_MS = 1000, BUSY_MS = 2000 };

struct row {
	char *kind, *key, *value; /* value NULL: delete */
	bool promised;
};

struct listener { /* of store_when_written */
	struct listener *next;
	uint64_t enough; /* attempts after which a failing one counts */
	store_written_fn *fn;
	void *arg;
};

struct store {
	char *path;
	pthread_t thread;

	pthread_mutex_t lock; /* guards what follows, down to db */
	pthread_cond_t wake;  /* for the thread: rows wait, or the end */
	pthread_cond_t done;  /* for flush and open: an attempt ended */
	struct map waiting;   /* "kind key" -> struct row */
	size_t writing;       /* rows the thread has in hand */
	uint64_t attempts;    /* ended ones */
	uint64_t written;
	bool loaded, stop, hurry;
	bool failing;
	struct listener *listeners;
	struct timespec retry_at; /* while failing */
	char problem[256];
	struct row *rows; /* what was read at the start, for the opener */
	size_t nrows;

	sqlite3 *db; /* the thread's own, as what follows */
	sqlite3_stmt *put, *del;
	struct map known; /* "kind key" -> struct row: what the file holds, in case it breaks */
	bool renewed;     /* a new file: everything known has to be written again */
};

static void row_free(struct row *row)
{
	free(row->kind);
	free(row->key);
	free(row->value);
	free(row);
}

static void db_close(struct store *s)
{
	sqlite3_finalize(s->put);
	sqlite3_finalize(s->del);
	s->put = s->del = NULL;
	sqlite3_close(s->db);
	s->db = NULL;
}

static int db_exec(struct store *s, const char *sql)
{
	return sqlite3_exec(s->db, sql, NULL, NULL, NULL);
}

static int db_schema(struct store *s)
{
	int version = 0;
	int rc = db_int(s->db, "PRAGMA user_version", &version);
	if (rc)
		return rc;
	if (version > SCHEMA_VERSION)
		return SQLITE_MISMATCH;
	if (version == SCHEMA_VERSION)
		return SQLITE_OK;
	return db_exec(s, "BEGIN IMMEDIATE;"
			  "CREATE TABLE facts (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
			  " PRIMARY KEY (kind, key)) WITHOUT ROWID;"
			  "PRAGMA user_version = 1;"
			  "COMMIT;");
}

/* Opens and prepares; an SQLite code. */
static int db_open(struct store *s)
{
	/* Ours alone: SQLite gives its side files the mode of the main one. */
	int fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return SQLITE_CANTOPEN;
	fd_close(fd);
	int rc = sqlite3_open_v2(s->path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (rc)
		return rc;
	sqlite3_busy_timeout(s->db, BUSY_MS);
	rc = db_exec(s, "PRAGMA journal_mode = WAL");
	if (!rc)
		rc = db_check(s->db);
	if (!rc)
		rc = db_schema(s);
	if (!rc)
		rc = sqlite3_prepare_v2(s->db,
			"INSERT INTO facts VALUES (?1, ?2, ?3) "
			"ON CONFLICT (kind, key) DO UPDATE SET value = ?3",
			-1, &s->put, NULL);
	if (!rc)
		rc = sqlite3_prepare_v2(
			s->db, "DELETE FROM facts WHERE kind = ?1 AND key = ?2", -1, &s->del, NULL);
	return rc;
}

static void move_aside(struct store *s)
{
	AUTO(mem_freep) char *to = db_move_aside(s->path);
	log_error("store_corrupt", s->path,
		"The registry's database %s is damaged; it is moved to %s and a new one "
		"is started. %s.",
		s->path, to,
		s->loaded ? "Everything this process knows is written into it"
			  : "Marks set on pools (draining, stopped, disabled) have to be set again");
}

static int db_open_or_renew(struct store *s)
{
	int rc = db_open(s);
	if (db_is_damaged(rc)) {
		db_close(s);
		move_aside(s);
		s->renewed = true;
		rc = db_open(s);
	}
	return rc;
}

/* Takes a row that the file holds now. */
static void know(struct store *s, const char *full, struct row *row)
{
	struct row *old =
		row->value ? map_put(&s->known, view_str(full), row) : map_del(&s->known, view_str(full));
	if (old)
		row_free(old);
	if (!row->value)
		row_free(row);
}

static void know_loaded(struct store *s)
{
	for (size_t i = 0; i < s->nrows; i++) {
		const struct row *from = &s->rows[i];
		struct row *row = NEW(struct row);
		*row = (struct row){ mem_strdup(from->kind), mem_strdup(from->key), mem_strdup(from->value),
			from->promised };
		AUTO(mem_freep) char *full = mem_fmt("%s %s", row->kind, row->key);
		know(s, full, row);
	}
	s->renewed = false; /* what the file before it held was never read */
}

static int db_load(struct store *s)
{
	sqlite3_stmt *st = NULL;
	size_t cap = 0;
	int rc = sqlite3_prepare_v2(
		s->db, "SELECT kind, key, value FROM facts ORDER BY kind, key", -1, &st, NULL);
	while (rc == SQLITE_OK && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		rc = SQLITE_OK;
		if (s->nrows == cap) {
			cap = MAX(cap * 2, (size_t)64);
			s->rows = mem_realloc(s->rows, cap * sizeof *s->rows);
		}
		struct row *row = &s->rows[s->nrows++];
		row->promised = true; /* nobody knows any more: if it has to be written again, then safely */
		char **out[] = { &row->kind, &row->key, &row->value };
		for (int i = 0; i < 3; i++) {
			const void *text = sqlite3_column_text(st, i);
			*out[i] = mem_viewdup(view_of(text, text ? (size_t)sqlite3_column_bytes(st, i) : 0));
		}
	}
	sqlite3_finalize(st);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int db_write_row(struct store *s, const struct row *row)
{
	sqlite3_stmt *st = row->value ? s->put : s->del;
	sqlite3_bind_text(st, 1, row->kind, -1, SQLITE_STATIC);
	sqlite3_bind_text(st, 2, row->key, -1, SQLITE_STATIC);
	if (row->value)
		sqlite3_bind_text(st, 3, row->value, -1, SQLITE_STATIC);
	int rc = sqlite3_step(st);
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
	return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* What the file that broke held and m does not replace. */
static int db_write_known(struct store *s, const struct map *m)
{
	struct map_entry *e;
	int rc = SQLITE_OK;
	for (size_t i = 0; !rc && (e = map_next(&s->known, &i));)
		if (!map_gets(m, e->key))
			rc = db_write_row(s, e->value);
	return rc;
}

/* A batch may change nothing (an empty one, a row deleted that never got there), and would succeed on a full
 * disk: while it fails, a row that always changes goes along. */
static int db_write_proof(struct store *s)
{
	char at[32];
	snprintf(at, sizeof at, "%lld", (long long)wall_ms());
	char kind[] = "store", key[] = "failed_before";
	struct row row = { kind, key, at, false };
	return db_write_row(s, &row);
}

/* One transaction for all rows of m. */
static int db_write(struct store *s, const struct map *m)
{
	bool promised = false;
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(m, &i));)
		promised |= ((struct row *)e->value)->promised;
	int rc = s->db ? SQLITE_OK : db_open_or_renew(s);
	if (!rc)
		rc = db_exec(s, promised ? "PRAGMA synchronous = FULL" : "PRAGMA synchronous = NORMAL");
	if (!rc)
		rc = db_exec(s, "BEGIN IMMEDIATE");
	if (!rc && s->renewed)
		rc = db_write_known(s, m);
	if (!rc && s->failing)
		rc = db_write_proof(s);
	for (size_t i = 0; !rc && (e = map_next(m, &i));)
		rc = db_write_row(s, e->value);
	if (!rc)
		rc = db_exec(s, "COMMIT");
	if (!rc)
		s->renewed = false;
	if (rc && s->db && !sqlite3_get_autocommit(s->db))
		db_exec(s, "ROLLBACK");
	return rc;
}

static struct timespec in_ms(int64_t ms)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += ms / 1000;
	t.tv_nsec += (ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

/* Said once when it begins and once when it ends. Called with the lock held. */
static void note_result(struct store *s, int rc)
{
	if (!rc) {
		if (s->failing)
			log_info("store_back", s->path, "The registry's database can be written again.");
		s->failing = false;
		s->problem[0] = '\0';
		return;
	}
	if (rc == SQLITE_MISMATCH)
		snprintf(s->problem, sizeof s->problem,
			"%.120s was written by a newer version (schema above %d); start "
			"that version, or move the file away",
			s->path, SCHEMA_VERSION);
	else
		snprintf(s->problem, sizeof s->problem,
			"%.120s cannot be written: %.60s; free space or make the "
			"folder writable",
			s->path, sqlite3_errstr(rc));
	if (!s->failing)
		log_error("store_failing", s->path, "The registry is in memory only: %s.", s->problem);
	s->failing = true;
	s->retry_at = in_ms(RETRY_MS);
}

/* The rows of m, which could not be written, wait again unless a newer one does. Lock held. */
static void put_back(struct store *s, struct map *m)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(m, &i));) {
		struct row *row = e->value, *newer = map_gets(&s->waiting, e->key);
		if (newer) {
			newer->promised |= row->promised;
			row_free(row);
		} else {
			map_put(&s->waiting, view_str(e->key), row);
		}
	}
}

/* Those that need not wait any longer, told without the lock; all: at the end, whatever became of it. */
static void tell_written(struct store *s, bool all)
{
	struct listener *due = NULL, *l;
	int r = s->failing && map_len(&s->waiting) ? -EIO : 0;
	for (struct listener **at = &s->listeners; (l = *at);) {
		if (!all && map_len(&s->waiting) && s->attempts < l->enough) {
			at = &l->next;
			continue;
		}
		*at = l->next;
		l->next = due;
		due = l;
	}
	if (!due)
		return;
	pthread_mutex_unlock(&s->lock);
	while ((l = due)) {
		due = l->next;
		l->fn(l->arg, r);
		free(l);
	}
	pthread_mutex_lock(&s->lock);
}

static void write_batch(struct store *s)
{
	struct map batch = s->waiting;
	map_init(&s->waiting);
	s->writing = map_len(&batch);
	s->hurry = false;
	pthread_mutex_unlock(&s->lock);

	int rc = db_write(s, &batch);
	/* A file that breaks while it is open is closed, so that the next attempt finds it out. */
	if (rc && (db_is_damaged(rc) || rc == SQLITE_MISMATCH || !s->put || !s->del))
		db_close(s);

	pthread_mutex_lock(&s->lock);
	if (rc) {
		put_back(s, &batch);
	} else {
		s->written += s->writing;
		struct map_entry *e;
		for (size_t i = 0; (e = map_next(&batch, &i));)
			know(s, e->key, e->value);
	}
	map_done(&batch);
	note_result(s, rc);
	s->writing = 0;
	s->attempts++;
	pthread_cond_broadcast(&s->done);
	tell_written(s, false);
}

static void *store_main(void *arg)
{
	struct store *s = arg;
	int rc = db_open_or_renew(s);
	if (!rc)
		rc = db_load(s);
	if (rc)
		db_close(s);
	know_loaded(s);
	pthread_mutex_lock(&s->lock);
	note_result(s, rc);
	s->loaded = true;
	pthread_cond_broadcast(&s->done);
	while (!s->stop) {
		bool some = map_len(&s->waiting) > 0;
		if (some && (!s->failing || s->hurry)) {
			write_batch(s);
		} else if (s->failing) {
			int r = pthread_cond_timedwait(&s->wake, &s->lock, &s->retry_at);
			if (r == ETIMEDOUT && !s->stop)
				write_batch(s); /* an empty batch still finds out whether it works again */
		} else {
			pthread_cond_wait(&s->wake, &s->lock);
		}
	}
	if (map_len(&s->waiting))
		write_batch(s);
	tell_written(s, true);
	pthread_mutex_unlock(&s->lock);
	db_close(s);
	return NULL;
}

struct store *store_open(const char *path, store_row_fn *fn, void *arg)
{
	struct store *s = NEW(struct store);
	s->path = mem_strdup(path);
	map_init(&s->waiting);
	map_init(&s->known);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, &attr);
	pthread_cond_init(&s->done, &attr);
	pthread_condattr_destroy(&attr);
	int r = pthread_create(&s->thread, NULL, store_main, s);
	assert(r == 0);
	(void)r;

	pthread_mutex_lock(&s->lock);
	while (!s->loaded)
		pthread_cond_wait(&s->done, &s->lock);
	struct row *rows = MEM_TAKE(s->rows);
	size_t n = s->nrows;
	pthread_mutex_unlock(&s->lock);
	for (size_t i = 0; i < n; i++) {
		fn(arg, view_str(rows[i].kind), view_str(rows[i].key), view_str(rows[i].value));
		free(rows[i].kind);
		free(rows[i].key);
		free(rows[i].value);
	}
	free(rows);
	return s;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	pthread_mutex_lock(&s->lock);
	s->stop = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&s->waiting, &i));)
		row_free(e->value);
	map_done(&s->waiting);
	for (size_t i = 0; (e = map_next(&s->known, &i));)
		row_free(e->value);
	map_done(&s->known);
	pthread_cond_destroy(&s->wake);
	pthread_cond_destroy(&s->done);
	pthread_mutex_destroy(&s->lock);
	free(s->path);
	free(s);
}

void store_put(struct store *s, const char *kind, struct view key, const char *value, bool promised)
{
	struct row *row = NEW(struct row);
	*row = (struct row){ mem_strdup(kind), mem_viewdup(key), mem_strdup(value), promised };
	AUTO(mem_freep) char *full = mem_fmt("%s %s", kind, row->key);
	pthread_mutex_lock(&s->lock);
	struct row *old = map_put(&s->waiting, view_str(full), row);
	if (old) {
		row->promised |= old->promised;
		row_free(old);
	}
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

int store_flush(struct store *s, int64_t timeout_ms)
{
	struct timespec until = in_ms(timeout_ms);
	int r = 0;
	pthread_mutex_lock(&s->lock);
	/* The attempt under way may have begun before the caller's rows came: the one after it counts. */
	uint64_t enough = s->attempts + (s->writing ? 2 : 1);
	while (!r && (map_len(&s->waiting) || s->writing)) {
		if (s->failing && s->attempts >= enough) {
			r = -EIO;
			break;
		}
		s->hurry = true;
		pthread_cond_signal(&s->wake);
		if (pthread_cond_timedwait(&s->done, &s->lock, &until) == ETIMEDOUT)
			r = -ETIMEDOUT;
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

void store_when_written(struct store *s, store_written_fn *fn, void *arg)
{
	struct listener *l = NULL;
	pthread_mutex_lock(&s->lock);
	if (map_len(&s->waiting) || s->writing) {
		l = NEW(struct listener);
		*l = (struct listener){ s->listeners, s->attempts + (s->writing ? 2 : 1), fn, arg };
		s->listeners = l;
		s->hurry = true;
		pthread_cond_signal(&s->wake);
	}
	pthread_mutex_unlock(&s->lock);
	if (!l)
		fn(arg, 0);
}

void store_status(struct store *s, struct store_status *ret)
{
	pthread_mutex_lock(&s->lock);
	*ret = (struct store_status){
		.failing = s->failing, .waiting = map_len(&s->waiting) + s->writing, .written = s->written
	};
	memcpy(ret->problem, s->problem, sizeof ret->problem);
	pthread_mutex_unlock(&s->lock);
}
