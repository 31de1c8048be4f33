/* SPDX-License-Identifier: Apache-2.0
 *
 * What is known, and the thread that writes it down.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/num.h"
#include "db/db.h"
#include "log/log.h"
#include "provision/catalog/catalog_int.h"

enum { RETRY_MS = 1000, NAMES_MAX = 64 };

struct catalog {
	char *path; /* NULL: in memory alone, no thread */
	pthread_t thread;
	pthread_mutex_t lock;              /* guards what follows, but db */
	pthread_cond_t wake;               /* for the thread: something waits, or the end */
	pthread_cond_t done;               /* for flush: an attempt ended */
	struct map models, engines, steps; /* id, "job\nordinal" → a row of ours */
	struct map waiting;                /* "m<id>", "e<id>", "s<job>\n<ordinal>": what the disk lacks */
	bool writing, stop, failing;
	uint64_t attempts;
	char *problem;
	struct catalog_db *db; /* the thread's; NULL: to be opened again */
};

/* ---- keys ---------------------------------------------------------------------------------------------- */

static char *step_key(const char *job, uint32_t ordinal)
{
	return mem_fmt("%s\n%010u", job, ordinal);
}

/* With the lock. */
static void changed(struct catalog *c, char kind, const char *key)
{
	if (!c->path)
		return;
	AUTO(mem_freep) char *full = mem_fmt("%c%s", kind, key);
	map_put(&c->waiting, view_str(full), c);
	pthread_cond_signal(&c->wake);
}

static void lock(struct catalog *c)
{
	pthread_mutex_lock(&c->lock);
}

static void unlock(struct catalog *c)
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
	AUTO(mem_freep) char *key = step_key(s->job, s->ordinal);
	if (map_len(&c->steps) >= CATALOG_STEPS_MAX || map_gets(&c->steps, key))
		return;
	struct catalog_step *own = NEW(struct catalog_step);
	*own = *s;
	*s = (struct catalog_step){ 0 };
	map_put(&c->steps, view_str(key), own);
}

static void drop_model(struct catalog_model *m)
{
	if (m)
		catalog_model_done(m);
	free(m);
}

static void drop_engine(struct catalog_engine *e)
{
	if (e)
		catalog_engine_done(e);
	free(e);
}

static void drop_step(struct catalog_step *s)
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
		changed(c, 'm', e->key);
	for (size_t i = 0; (e = map_next(&c->engines, &i));)
		changed(c, 'e', e->key);
	for (size_t i = 0; (e = map_next(&c->steps, &i));)
		changed(c, 's', e->key);
}

static int write_step(struct catalog *c, const char *key, struct err *e)
{
	struct view number, job = view_split(view_str(key), '\n', &number);
	AUTO(mem_freep) char *name = mem_viewdup(job);
	struct catalog_step copy = { 0 };
	lock(c);
	const struct catalog_step *s = map_gets(&c->steps, key);
	if (s)
		catalog_step_copy(&copy, s);
	unlock(c);
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
	lock(c);
	const struct catalog_model *has_m = full[0] == 'm' ? map_gets(&c->models, key) : NULL;
	const struct catalog_engine *has_g = full[0] == 'e' ? map_gets(&c->engines, key) : NULL;
	if (has_m)
		catalog_model_copy(&m, has_m);
	if (has_g)
		catalog_engine_copy(&g, has_g);
	unlock(c);
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
	lock(c);
	all_changed(c);
	unlock(c);
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
	lock(c);
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
		unlock(c);
		int r = attempt(c, &rows, &e);
		lock(c);
		settle(c, &rows, r, &e);
		map_done(&rows);
		if (last && r != -EBADMSG)
			break;
		if (r && r != -EBADMSG)
			wait_a_second(c);
	}
	unlock(c);
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
	lock(c);
	uint64_t enough = c->attempts + (c->writing ? 2 : 1);
	while (!r && c->path && (map_len(&c->waiting) || c->writing)) {
		if (c->failing && c->attempts >= enough)
			r = -EIO;
		else if (pthread_cond_timedwait(&c->done, &c->lock, &at) == ETIMEDOUT)
			r = -ETIMEDOUT;
	}
	unlock(c);
	return r;
}

char *catalog_problem(struct catalog *c)
{
	lock(c);
	char *s = mem_strdup(c->problem);
	unlock(c);
	return s;
}

/* ---- life -----------------------------------------------------------------------------------------------
 */

static void free_all(struct catalog *c)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&c->models, &i));)
		drop_model(e->value);
	for (size_t i = 0; (e = map_next(&c->engines, &i));)
		drop_engine(e->value);
	for (size_t i = 0; (e = map_next(&c->steps, &i));)
		drop_step(e->value);
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
	lock(c);
	c->stop = true;
	pthread_cond_signal(&c->wake);
	unlock(c);
	if (c->path)
		pthread_join(c->thread, NULL);
	free_all(c);
}

/* ---- models ---------------------------------------------------------------------------------------------
 */

static bool is_called(const struct catalog_model *m, const char *key)
{
	return strcmp(m->id, key) == 0 || strcmp(m->reference, key) == 0 || strv_has(&m->references, key);
}

static struct catalog_model *find(struct catalog *c, const char *key)
{
	struct map_entry *e;
	struct catalog_model *m = map_gets(&c->models, key);
	for (size_t i = 0; !m && (e = map_next(&c->models, &i));)
		if (is_called(e->value, key))
			m = e->value;
	return m;
}

/* "hf:org/Repo:Q4_K_M" is org-repo-q4_k_m; of a path its last names. */
static void slug(const char *reference, char out[CATALOG_ID_MAX + 1])
{
	struct view v = view_str(reference), rest, scheme = view_split(v, ':', &rest);
	if (rest.p && view_find(scheme, '/') == scheme.n)
		v = rest;
	size_t room = CATALOG_ID_MAX - 8, n = 0;
	if (v.n > room)
		v = view_from(v, v.n - room); /* the end says most */
	for (size_t i = 0; i < v.n; i++) {
		char ch = v.p[i];
		if (ch >= 'A' && ch <= 'Z')
			ch = (char)(ch - 'A' + 'a');
		bool alnum = (ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9');
		if (alnum || (n && (ch == '.' || ch == '_')))
			out[n++] = ch;
		else if (n && out[n - 1] != '-')
			out[n++] = '-';
	}
	while (n && (out[n - 1] == '-' || out[n - 1] == '.'))
		n--;
	out[n] = '\0';
	if (!n)
		snprintf(out, CATALOG_ID_MAX + 1, "model");
}

static char *free_id(struct catalog *c, const char *reference)
{
	char base[CATALOG_ID_MAX + 1];
	slug(reference, base);
	char *id = mem_strdup(base);
	for (unsigned i = 2; map_gets(&c->models, id); i++) {
		free(id);
		id = mem_fmt("%s-%u", base, i);
	}
	return id;
}

static int64_t last_touch(const struct catalog_model *m)
{
	return MAX(m->used_ms, m->created_ms);
}

static void forget_model(struct catalog *c, const char *id)
{
	AUTO(mem_freep) char *key = mem_strdup(id); /* it may be the row's own */
	drop_model(map_del(&c->models, view_str(key)));
	changed(c, 'm', key);
}

static void make_room_for_model(struct catalog *c)
{
	struct map_entry *e;
	struct catalog_model *oldest = NULL;
	if (map_len(&c->models) < CATALOG_MODELS_MAX)
		return;
	for (size_t i = 0; (e = map_next(&c->models, &i));)
		if (!oldest || last_touch(e->value) < last_touch(oldest))
			oldest = e->value;
	if (oldest)
		forget_model(c, oldest->id);
}

/* What holds whatever was found anew. */
static void keep(struct catalog_model *m, const struct catalog_model *was)
{
	mem_setstr(&m->id, was->id);
	m->created_ms = was->created_ms;
	m->used_ms = MAX(m->used_ms, was->used_ms);
	m->fetched |= was->fetched;
	m->life = was->life;
	m->life_ms = was->life_ms;
	mem_setstr(&m->life_by, was->life_by);
	if (!m->verified_ms) {
		m->verified_ms = was->verified_ms;
		mem_setstr(&m->verify_problem, was->verify_problem);
	}
	for (size_t i = 0; i < was->references.len && m->references.len < NAMES_MAX; i++)
		if (!strv_has(&m->references, was->references.items[i]))
			strv_add(&m->references, was->references.items[i]);
}

char *catalog_model_put(struct catalog *c, const struct catalog_model *from)
{
	struct catalog_model *m = NEW(struct catalog_model);
	catalog_model_copy(m, from);
	lock(c);
	struct catalog_model *was = m->id ? map_gets(&c->models, m->id) : NULL;
	was = was ? was : find(c, m->reference);
	if (was) {
		keep(m, was);
		map_put(&c->models, view_str(m->id), m);
		drop_model(was);
	} else {
		make_room_for_model(c);
		if (!m->id)
			m->id = free_id(c, m->reference);
		m->created_ms = m->created_ms ? m->created_ms : wall_ms();
		map_put(&c->models, view_str(m->id), m);
	}
	changed(c, 'm', m->id);
	char *id = mem_strdup(m->id);
	unlock(c);
	return id;
}

int catalog_model_find(struct catalog *c, const char *key, struct catalog_model *ret)
{
	lock(c);
	const struct catalog_model *m = find(c, key);
	*ret = (struct catalog_model){ 0 };
	if (m)
		catalog_model_copy(ret, m);
	unlock(c);
	return m ? 0 : -ENOENT;
}

bool catalog_model_set_life(struct catalog *c, const char *id, enum catalog_life l, const char *by)
{
	lock(c);
	struct catalog_model *m = map_gets(&c->models, id);
	if (m && m->life != l) {
		m->life = l;
		m->life_ms = wall_ms();
		mem_setstr(&m->life_by, by);
		changed(c, 'm', id);
	}
	unlock(c);
	return m != NULL;
}

bool catalog_model_set_verified(struct catalog *c, const char *id, const char *problem)
{
	lock(c);
	struct catalog_model *m = map_gets(&c->models, id);
	if (m) {
		m->verified_ms = wall_ms();
		mem_setstr(&m->verify_problem, problem);
		changed(c, 'm', id);
	}
	unlock(c);
	return m != NULL;
}

bool catalog_model_used(struct catalog *c, const char *key)
{
	lock(c);
	struct catalog_model *m = find(c, key);
	if (m) {
		m->used_ms = wall_ms();
		changed(c, 'm', m->id);
	}
	unlock(c);
	return m != NULL;
}

bool catalog_model_remove(struct catalog *c, const char *id)
{
	lock(c);
	bool there = map_gets(&c->models, id) != NULL;
	if (there)
		forget_model(c, id);
	unlock(c);
	return there;
}

bool catalog_model_retired(struct catalog *c, const char *key, char **ret_by)
{
	lock(c);
	const struct catalog_model *m = find(c, key);
	bool retired = m && m->life == CATALOG_RETIRED;
	if (ret_by)
		*ret_by = retired ? mem_strdup(m->life_by) : NULL;
	unlock(c);
	return retired;
}

static int by_model_id(const void *a, const void *b)
{
	return strcmp(((const struct catalog_model *)a)->id, ((const struct catalog_model *)b)->id);
}

void catalog_models(struct catalog *c, struct catalog_models *ret)
{
	struct map_entry *e;
	*ret = (struct catalog_models){ 0 };
	lock(c);
	ret->items = mem_alloc((map_len(&c->models) + 1) * sizeof *ret->items);
	for (size_t i = 0; (e = map_next(&c->models, &i));)
		catalog_model_copy(&ret->items[ret->len++], e->value);
	unlock(c);
	qsort(ret->items, ret->len, sizeof *ret->items, by_model_id);
}

uint64_t catalog_models_fetched(struct catalog *c)
{
	struct map_entry *e;
	uint64_t sum = 0;
	lock(c);
	for (size_t i = 0; (e = map_next(&c->models, &i));) {
		const struct catalog_model *m = e->value;
		sum += m->fetched ? m->size_bytes : 0;
	}
	unlock(c);
	return sum;
}

/* ---- engines --------------------------------------------------------------------------------------------
 */

static void make_room_for_engine(struct catalog *c)
{
	struct map_entry *e;
	struct catalog_engine *oldest = NULL, *g;
	if (map_len(&c->engines) < CATALOG_ENGINES_MAX)
		return;
	for (size_t i = 0; (e = map_next(&c->engines, &i));) {
		g = e->value;
		if (!oldest || MAX(g->used_ms, g->created_ms) < MAX(oldest->used_ms, oldest->created_ms))
			oldest = g;
	}
	if (!oldest)
		return;
	AUTO(mem_freep) char *key = mem_strdup(oldest->id);
	drop_engine(map_del(&c->engines, view_str(key)));
	changed(c, 'e', key);
}

void catalog_engine_put(struct catalog *c, const struct catalog_engine *from)
{
	struct catalog_engine *e = NEW(struct catalog_engine);
	catalog_engine_copy(e, from);
	lock(c);
	struct catalog_engine *was = map_gets(&c->engines, e->id);
	if (was) {
		e->created_ms = was->created_ms;
		e->used_ms = MAX(e->used_ms, was->used_ms);
	} else {
		make_room_for_engine(c);
		e->created_ms = e->created_ms ? e->created_ms : wall_ms();
	}
	map_put(&c->engines, view_str(e->id), e);
	drop_engine(was);
	changed(c, 'e', e->id);
	unlock(c);
}

int catalog_engine_find(struct catalog *c, const char *id, struct catalog_engine *ret)
{
	lock(c);
	const struct catalog_engine *e = map_gets(&c->engines, id);
	*ret = (struct catalog_engine){ 0 };
	if (e)
		catalog_engine_copy(ret, e);
	unlock(c);
	return e ? 0 : -ENOENT;
}

bool catalog_engine_remove(struct catalog *c, const char *id)
{
	AUTO(mem_freep) char *key = mem_strdup(id);
	lock(c);
	struct catalog_engine *e = map_del(&c->engines, view_str(key));
	if (e)
		changed(c, 'e', key);
	unlock(c);
	drop_engine(e);
	return e != NULL;
}

static int by_engine_id(const void *a, const void *b)
{
	return strcmp(((const struct catalog_engine *)a)->id, ((const struct catalog_engine *)b)->id);
}

void catalog_engines(struct catalog *c, struct catalog_engines *ret)
{
	struct map_entry *e;
	*ret = (struct catalog_engines){ 0 };
	lock(c);
	ret->items = mem_alloc((map_len(&c->engines) + 1) * sizeof *ret->items);
	for (size_t i = 0; (e = map_next(&c->engines, &i));)
		catalog_engine_copy(&ret->items[ret->len++], e->value);
	unlock(c);
	qsort(ret->items, ret->len, sizeof *ret->items, by_engine_id);
}

/* ---- steps ----------------------------------------------------------------------------------------------
 */

static void remove_job(struct catalog *c, const char *job)
{
	struct map_entry *e;
	AUTO(mem_freep) char *own = mem_strdup(job); /* it may be a row's */
	for (size_t i = 0; (e = map_next(&c->steps, &i));) {
		struct catalog_step *s = e->value;
		if (strcmp(s->job, own) != 0)
			continue;
		AUTO(mem_freep) char *key = mem_strdup(e->key);
		map_del(&c->steps, view_str(key));
		drop_step(s);
		changed(c, 's', key);
	}
}

static void make_room_for_step(struct catalog *c, const char *job)
{
	struct map_entry *e;
	const struct catalog_step *oldest = NULL;
	if (map_len(&c->steps) < CATALOG_STEPS_MAX)
		return;
	for (size_t i = 0; (e = map_next(&c->steps, &i));) {
		const struct catalog_step *s = e->value;
		if (strcmp(s->job, job) != 0 && (!oldest || s->started_ms < oldest->started_ms))
			oldest = s;
	}
	if (oldest)
		remove_job(c, oldest->job);
}

void catalog_step_put(struct catalog *c, const struct catalog_step *from)
{
	struct catalog_step *s = NEW(struct catalog_step);
	AUTO(mem_freep) char *key = step_key(from->job, from->ordinal);
	catalog_step_copy(s, from);
	lock(c);
	if (!map_gets(&c->steps, key))
		make_room_for_step(c, s->job);
	drop_step(map_put(&c->steps, view_str(key), s));
	changed(c, 's', key);
	unlock(c);
}

static int by_ordinal(const void *a, const void *b)
{
	const struct catalog_step *x = a, *y = b;
	int c = strcmp(x->job, y->job);
	return c ? c : x->ordinal < y->ordinal ? -1 : x->ordinal > y->ordinal;
}

void catalog_steps(struct catalog *c, const char *job, struct catalog_steps *ret)
{
	struct map_entry *e;
	*ret = (struct catalog_steps){ 0 };
	lock(c);
	for (size_t i = 0; (e = map_next(&c->steps, &i));) {
		const struct catalog_step *s = e->value;
		if (job && strcmp(s->job, job) != 0)
			continue;
		ret->items = mem_realloc(ret->items, (ret->len + 1) * sizeof *ret->items);
		ret->items[ret->len] = (struct catalog_step){ 0 };
		catalog_step_copy(&ret->items[ret->len++], s);
	}
	unlock(c);
	if (ret->len)
		qsort(ret->items, ret->len, sizeof *ret->items, by_ordinal);
}

void catalog_steps_remove(struct catalog *c, const char *job)
{
	lock(c);
	remove_job(c, job);
	unlock(c);
}
