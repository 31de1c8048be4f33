/* SPDX-License-Identifier: Apache-2.0
 *
 * Its life, and the thread that writes down what is known.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/num.h"
#include "db/db.h"
#include "log/log.h"
#include "provision/catalog/catalog_int.h"

enum { RETRY_MS = 1000 };

char *catalog_step_key(const char *job, uint32_t ordinal)
{
	return mem_fmt("%s\n%010u", job, ordinal);
}

void catalog_changed(struct catalog *c, char kind, const char *key)
{
	if (!c->path)
		return;
	AUTO(mem_freep) char *full = mem_fmt("%c%s", kind, key);
	map_put(&c->waiting, view_str(full), c);
	pthread_cond_signal(&c->wake);
}

void catalog_lock(struct catalog *c)
{
	pthread_mutex_lock(&c->lock);
}

void catalog_unlock(struct catalog *c)
{
	pthread_mutex_unlock(&c->lock);
}

/* ---- what was read --------------------------------------------------------------------------------------
 */

static void take_model(void *arg, struct catalog_model *m)
{
	struct catalog *c = arg;
	if (map_len(&c->models) >= CATALOG_MODELS_MAX || map_gets(&c->models, m->id))
		return;
	struct catalog_model *own = NEW(struct catalog_model);
	*own = *m;
	*m = (struct catalog_model){ 0 };
	map_put(&c->models, view_str(own->id), own);
}

static void take_engine(void *arg, struct catalog_engine *e)
{
	struct catalog *c = arg;
	if (map_len(&c->engines) >= CATALOG_ENGINES_MAX || map_gets(&c->engines, e->id))
		return;
	struct catalog_engine *own = NEW(struct catalog_engine);
	*own = *e;
	*e = (struct catalog_engine){ 0 };
	map_put(&c->engines, view_str(own->id), own);
}

static void take_step(void *arg, struct catalog_step *s)
{
	struct catalog *c = arg;
	AUTO(mem_freep) char *key = catalog_step_key(s->job, s->ordinal);
	if (map_len(&c->steps) >= CATALOG_STEPS_MAX || map_gets(&c->steps, key))
		return;
	struct catalog_step *own = NEW(struct catalog_step);
	*own = *s;
	*s = (struct catalog_step){ 0 };
	map_put(&c->steps, view_str(key), own);
}

void catalog_drop_model(struct catalog_model *m)
{
	if (m)
		catalog_model_done(m);
	free(m);
}

void catalog_drop_engine(struct catalog_engine *e)
{
	if (e)
		catalog_engine_done(e);
	free(e);
}

void catalog_drop_step(struct catalog_step *s)
{
	if (s)
		catalog_step_done(s);
	free(s);
}

/* ---- the thread -----------------------------------------------------------------------------------------
 */

/* A new file lacks everything that is known. */
static void all_changed(struct catalog *c)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&c->models, &i));)
		catalog_changed(c, 'm', e->key);
	for (size_t i = 0; (e = map_next(&c->engines, &i));)
		catalog_changed(c, 'e', e->key);
	for (size_t i = 0; (e = map_next(&c->steps, &i));)
		catalog_changed(c, 's', e->key);
}

static int write_step(struct catalog *c, const char *key, struct err *e)
{
	struct view number, job = view_split(view_str(key), '\n', &number);
	AUTO(mem_freep) char *name = mem_viewdup(job);
	struct catalog_step copy = { 0 };
	catalog_lock(c);
	const struct catalog_step *s = map_gets(&c->steps, key);
	if (s)
		catalog_step_copy(&copy, s);
	catalog_unlock(c);
	uint64_t ordinal = 0;
	(void)num_u64(number, &ordinal);
	int r = catalog_db_step(c->db, name, (uint32_t)ordinal, s ? &copy : NULL, e);
	catalog_step_done(&copy);
	return r;
}

static int write_row(struct catalog *c, const char *full, struct err *e)
{
	const char *key = full + 1;
	struct catalog_model m = { 0 };
	struct catalog_engine g = { 0 };
	if (full[0] == 's')
		return write_step(c, key, e);
	catalog_lock(c);
	const struct catalog_model *has_m = full[0] == 'm' ? map_gets(&c->models, key) : NULL;
	const struct catalog_engine *has_g = full[0] == 'e' ? map_gets(&c->engines, key) : NULL;
	if (has_m)
		catalog_model_copy(&m, has_m);
	if (has_g)
		catalog_engine_copy(&g, has_g);
	catalog_unlock(c);
	int r = full[0] == 'm' ? catalog_db_model(c->db, key, has_m ? &m : NULL, e)
			       : catalog_db_engine(c->db, key, has_g ? &g : NULL, e);
	catalog_model_done(&m);
	catalog_engine_done(&g);
	return r;
}

static int write_rows(struct catalog *c, const struct map *rows, struct err *e)
{
	struct map_entry *row;
	int r = catalog_db_begin(c->db, e);
	for (size_t i = 0; !r && (row = map_next(rows, &i));)
		r = write_row(c, row->key, e);
	r = r ? r : catalog_db_commit(c->db, e);
	if (r)
		catalog_db_rollback(c->db);
	return r;
}

static void ignore_model(void *arg, struct catalog_model *m)
{
	(void)arg;
	(void)m;
}

static void ignore_engine(void *arg, struct catalog_engine *e)
{
	(void)arg;
	(void)e;
}

static void ignore_step(void *arg, struct catalog_step *s)
{
	(void)arg;
	(void)s;
}

static const struct catalog_rows ignore = { ignore_model, ignore_engine, ignore_step, NULL };

/* Without the lock. A damaged file is set aside, and everything goes into the new one with the next try. */
static int attempt(struct catalog *c, const struct map *rows, struct err *e)
{
	int r = c->db ? 0 : catalog_db_open(c->path, &ignore, &c->db, e);
	r = r ? r : write_rows(c, rows, e);
	if (r != -EBADMSG)
		return r;
	catalog_db_close(c->db);
	c->db = NULL;
	AUTO(mem_freep) char *to = db_move_aside(c->path);
	log_error("catalog", c->path,
		"The catalog %s is damaged; it is moved to %s, and a new one is made of what is known.",
		c->path, to);
	catalog_lock(c);
	all_changed(c);
	catalog_unlock(c);
	return r;
}

static void settle(struct catalog *c, struct map *rows, int r, const struct err *e)
{
	struct map_entry *row;
	c->attempts++;
	c->writing = false;
	if (r)
		for (size_t i = 0; (row = map_next(rows, &i));)
			map_put(&c->waiting, view_of(row->key, row->key_len), c);
	if (r && !c->failing && r != -EBADMSG)
		log_error("catalog", c->path,
			"What this node has got cannot be written down: %s. It is tried again.", e->msg);
	else if (!r && c->failing)
		log_info("catalog", c->path, "The catalog is written again.");
	c->failing = r && r != -EBADMSG;
	mem_setstr(&c->problem, c->failing ? e->msg : NULL);
	pthread_cond_broadcast(&c->done);
}

static void wait_a_second(struct catalog *c)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += RETRY_MS / 1000;
	while (!c->stop && pthread_cond_timedwait(&c->wake, &c->lock, &at) != ETIMEDOUT)
		;
}

static void *run(void *arg)
{
	struct catalog *c = arg;
	catalog_lock(c);
	for (;;) {
		while (!c->stop && !map_len(&c->waiting))
			pthread_cond_wait(&c->wake, &c->lock);
		if (!map_len(&c->waiting))
			break;
		struct map rows = c->waiting;
		struct err e = { 0 };
		bool last = c->stop;
		map_init(&c->waiting);
		c->writing = true;
		catalog_unlock(c);
		int r = attempt(c, &rows, &e);
		catalog_lock(c);
		settle(c, &rows, r, &e);
		map_done(&rows);
		if (last && r != -EBADMSG)
			break;
		if (r && r != -EBADMSG)
			wait_a_second(c);
	}
	catalog_unlock(c);
	return NULL;
}

int catalog_flush(struct catalog *c, int64_t timeout_ms)
{
	struct timespec at;
	int r = 0;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += timeout_ms / 1000;
	at.tv_nsec += timeout_ms % 1000 * 1000000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_sec++;
		at.tv_nsec -= 1000000000;
	}
	catalog_lock(c);
	uint64_t enough = c->attempts + (c->writing ? 2 : 1);
	while (!r && c->path && (map_len(&c->waiting) || c->writing)) {
		if (c->failing && c->attempts >= enough)
			r = -EIO;
		else if (pthread_cond_timedwait(&c->done, &c->lock, &at) == ETIMEDOUT)
			r = -ETIMEDOUT;
	}
	catalog_unlock(c);
	return r;
}

char *catalog_problem(struct catalog *c)
{
	catalog_lock(c);
	char *s = mem_strdup(c->problem);
	catalog_unlock(c);
	return s;
}

/* ---- life -----------------------------------------------------------------------------------------------
 */

static void free_all(struct catalog *c)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&c->models, &i));)
		catalog_drop_model(e->value);
	for (size_t i = 0; (e = map_next(&c->engines, &i));)
		catalog_drop_engine(e->value);
	for (size_t i = 0; (e = map_next(&c->steps, &i));)
		catalog_drop_step(e->value);
	map_done(&c->models);
	map_done(&c->engines);
	map_done(&c->steps);
	map_done(&c->waiting);
	pthread_cond_destroy(&c->wake);
	pthread_cond_destroy(&c->done);
	pthread_mutex_destroy(&c->lock);
	catalog_db_close(c->db);
	free(c->problem);
	free(c->path);
	free(c);
}

static int read_file(struct catalog *c, char **ret_note, struct err *e)
{
	struct catalog_rows rows = { take_model, take_engine, take_step, c };
	int r = catalog_db_open(c->path, &rows, &c->db, e);
	if (r != -EBADMSG)
		return r;
	AUTO(mem_freep) char *to = db_move_aside(c->path);
	*ret_note = mem_fmt(
		"%s; it is moved to %s and a new catalog is begun. Models are found again where they lie.",
		e->msg, to);
	return catalog_db_open(c->path, &rows, &c->db, e);
}

int catalog_open(const char *path, struct catalog **ret, char **ret_note, struct err *reterr)
{
	struct catalog *c = NEW(struct catalog);
	struct err e = { 0 };
	pthread_condattr_t attr;
	*ret_note = NULL;
	c->path = mem_strdup(path);
	map_init(&c->models);
	map_init(&c->engines);
	map_init(&c->steps);
	map_init(&c->waiting);
	pthread_mutex_init(&c->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->wake, &attr);
	pthread_cond_init(&c->done, &attr);
	pthread_condattr_destroy(&attr);
	int r = path ? read_file(c, ret_note, &e) : 0;
	if (!r && path) {
		if (*ret_note)
			all_changed(c); /* what could be read of a damaged one goes into the new one */
		r = -pthread_create(&c->thread, NULL, run, c);
		if (r)
			err_set(&e, r, "no thread for the catalog: %s", strerror(-r));
	}
	if (r) {
		free_all(c);
		if (reterr)
			*reterr = e;
		return r;
	}
	*ret = c;
	return 0;
}

void catalog_close(struct catalog *c)
{
	if (!c)
		return;
	catalog_lock(c);
	c->stop = true;
	pthread_cond_signal(&c->wake);
	catalog_unlock(c);
	if (c->path)
		pthread_join(c->thread, NULL);
	free_all(c);
}
