/* SPDX-License-Identifier: Apache-2.0
 *
 * Engines in the catalog, and the steps of getting them.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "provision/catalog/catalog_int.h"

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
	catalog_drop_engine(map_del(&c->engines, view_str(key)));
	catalog_changed(c, 'e', key);
}

void catalog_engine_put(struct catalog *c, const struct catalog_engine *from)
{
	struct catalog_engine *e = NEW(struct catalog_engine);
	catalog_engine_copy(e, from);
	catalog_lock(c);
	struct catalog_engine *was = map_gets(&c->engines, e->id);
	if (was) {
		e->created_ms = was->created_ms;
		e->used_ms = MAX(e->used_ms, was->used_ms);
	} else {
		make_room_for_engine(c);
		e->created_ms = e->created_ms ? e->created_ms : wall_ms();
	}
	map_put(&c->engines, view_str(e->id), e);
	catalog_drop_engine(was);
	catalog_changed(c, 'e', e->id);
	catalog_unlock(c);
}

int catalog_engine_find(struct catalog *c, const char *id, struct catalog_engine *ret)
{
	catalog_lock(c);
	const struct catalog_engine *e = map_gets(&c->engines, id);
	*ret = (struct catalog_engine){ 0 };
	if (e)
		catalog_engine_copy(ret, e);
	catalog_unlock(c);
	return e ? 0 : -ENOENT;
}

bool catalog_engine_remove(struct catalog *c, const char *id)
{
	AUTO(mem_freep) char *key = mem_strdup(id);
	catalog_lock(c);
	struct catalog_engine *e = map_del(&c->engines, view_str(key));
	if (e)
		catalog_changed(c, 'e', key);
	catalog_unlock(c);
	catalog_drop_engine(e);
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
	catalog_lock(c);
	ret->items = mem_alloc((map_len(&c->engines) + 1) * sizeof *ret->items);
	for (size_t i = 0; (e = map_next(&c->engines, &i));)
		catalog_engine_copy(&ret->items[ret->len++], e->value);
	catalog_unlock(c);
	qsort(ret->items, ret->len, sizeof *ret->items, by_engine_id);
}

#define COMING "fetch " /* begins the job of a file's fetch; no plan's name has a blank */

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
		catalog_drop_step(s);
		catalog_changed(c, 's', key);
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
	AUTO(mem_freep) char *key = catalog_step_key(from->job, from->ordinal);
	catalog_step_copy(s, from);
	catalog_lock(c);
	if (!map_gets(&c->steps, key))
		make_room_for_step(c, s->job);
	catalog_drop_step(map_put(&c->steps, view_str(key), s));
	catalog_changed(c, 's', key);
	catalog_unlock(c);
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
	catalog_lock(c);
	for (size_t i = 0; (e = map_next(&c->steps, &i));) {
		const struct catalog_step *s = e->value;
		if (job ? strcmp(s->job, job) != 0 : strncmp(s->job, COMING, strlen(COMING)) == 0)
			continue;
		ret->items = mem_realloc(ret->items, (ret->len + 1) * sizeof *ret->items);
		ret->items[ret->len] = (struct catalog_step){ 0 };
		catalog_step_copy(&ret->items[ret->len++], s);
	}
	catalog_unlock(c);
	if (ret->len)
		qsort(ret->items, ret->len, sizeof *ret->items, by_ordinal);
}

void catalog_steps_remove(struct catalog *c, const char *job)
{
	catalog_lock(c);
	remove_job(c, job);
	catalog_unlock(c);
}

/* ---- files that come ------------------------------------------------------------------------------------
 */

void catalog_coming_put(struct catalog *c, const char *path, const char *url)
{
	AUTO(mem_freep) char *job = mem_fmt(COMING "%s", path);
	struct catalog_step s = { .job = job,
		.name = (char *)(uintptr_t) "fetch",
		.state = STEP_RUNNING,
		.started_ms = wall_ms(),
		.detail = (char *)(uintptr_t)url };
	catalog_step_put(c, &s);
}

bool catalog_coming_find(struct catalog *c, const char *path, char **ret_url)
{
	AUTO(mem_freep) char *job = mem_fmt(COMING "%s", path);
	AUTO(mem_freep) char *key = catalog_step_key(job, 0);
	catalog_lock(c);
	const struct catalog_step *s = map_gets(&c->steps, key);
	*ret_url = s ? mem_strdup(s->detail) : NULL;
	catalog_unlock(c);
	return s != NULL;
}

void catalog_coming_remove(struct catalog *c, const char *path)
{
	AUTO(mem_freep) char *job = mem_fmt(COMING "%s", path);
	AUTO(mem_freep) char *key = catalog_step_key(job, 0);
	catalog_lock(c);
	struct catalog_step *s = map_del(&c->steps, view_str(key));
	if (s)
		catalog_changed(c, 's', key);
	catalog_drop_step(s);
	catalog_unlock(c);
}
