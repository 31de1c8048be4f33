/* SPDX-License-Identifier: Apache-2.0
 *
 * Models in the catalog: their ids and names, and what is known of each.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/url.h"
#include "provision/catalog/catalog_int.h"

enum { NAMES_MAX = 64 };

static bool is_called(const struct catalog_model *m, const char *key)
{
	return strcmp(m->id, key) == 0 || strcmp(m->reference, key) == 0 || strv_has(&m->references, key);
}

/* By what people see of a reference: whoever asks may know all of it. */
static struct catalog_model *find(struct catalog *c, const char *asked)
{
	struct map_entry *e;
	AUTO(mem_freep) char *key = ref_shown(asked);
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
	catalog_drop_model(map_del(&c->models, view_str(key)));
	catalog_changed(c, 'm', key);
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

/* Where files came from is known of those alone that were fetched now. A model's files have one order. */
static void keep_urls(struct catalog_model *m, const struct catalog_model *was)
{
	for (size_t i = 0; i < m->nfiles && i < was->nfiles; i++) {
		struct catalog_file *f = &m->files[i];
		const struct catalog_file *old = &was->files[i];
		if (!f->url && str_same(f->path, old->path) && str_same(f->sha256, old->sha256))
			mem_setstr(&f->url, old->url);
	}
}

/* What holds whatever was found anew. */
static void keep(struct catalog_model *m, const struct catalog_model *was)
{
	mem_setstr(&m->id, was->id);
	m->created_ms = was->created_ms;
	m->used_ms = MAX(m->used_ms, was->used_ms);
	m->fetched |= was->fetched;
	keep_urls(m, was);
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
	catalog_model_hide(m);
	catalog_lock(c);
	struct catalog_model *was = m->id ? map_gets(&c->models, m->id) : NULL;
	was = was ? was : find(c, m->reference);
	if (was) {
		keep(m, was);
		map_put(&c->models, view_str(m->id), m);
		catalog_drop_model(was);
	} else {
		make_room_for_model(c);
		if (!m->id)
			m->id = free_id(c, m->reference);
		m->created_ms = m->created_ms ? m->created_ms : wall_ms();
		map_put(&c->models, view_str(m->id), m);
	}
	catalog_changed(c, 'm', m->id);
	char *id = mem_strdup(m->id);
	catalog_unlock(c);
	return id;
}

int catalog_model_find(struct catalog *c, const char *key, struct catalog_model *ret)
{
	catalog_lock(c);
	const struct catalog_model *m = find(c, key);
	*ret = (struct catalog_model){ 0 };
	if (m)
		catalog_model_copy(ret, m);
	catalog_unlock(c);
	return m ? 0 : -ENOENT;
}

bool catalog_model_set_life(struct catalog *c, const char *id, enum catalog_life l, const char *by)
{
	catalog_lock(c);
	struct catalog_model *m = map_gets(&c->models, id);
	if (m && m->life != l) {
		m->life = l;
		m->life_ms = wall_ms();
		mem_setstr(&m->life_by, by);
		catalog_changed(c, 'm', id);
	}
	catalog_unlock(c);
	return m != NULL;
}

bool catalog_model_set_verified(struct catalog *c, const char *id, const char *problem)
{
	catalog_lock(c);
	struct catalog_model *m = map_gets(&c->models, id);
	if (m) {
		m->verified_ms = wall_ms();
		mem_setstr(&m->verify_problem, problem);
		catalog_changed(c, 'm', id);
	}
	catalog_unlock(c);
	return m != NULL;
}

bool catalog_model_used(struct catalog *c, const char *key)
{
	catalog_lock(c);
	struct catalog_model *m = find(c, key);
	if (m) {
		m->used_ms = wall_ms();
		catalog_changed(c, 'm', m->id);
	}
	catalog_unlock(c);
	return m != NULL;
}

bool catalog_model_remove(struct catalog *c, const char *id)
{
	catalog_lock(c);
	bool there = map_gets(&c->models, id) != NULL;
	if (there)
		forget_model(c, id);
	catalog_unlock(c);
	return there;
}

bool catalog_model_retired(struct catalog *c, const char *key, char **ret_by)
{
	catalog_lock(c);
	const struct catalog_model *m = find(c, key);
	bool retired = m && m->life == CATALOG_RETIRED;
	if (ret_by)
		*ret_by = retired ? mem_strdup(m->life_by) : NULL;
	catalog_unlock(c);
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
	catalog_lock(c);
	ret->items = mem_alloc((map_len(&c->models) + 1) * sizeof *ret->items);
	for (size_t i = 0; (e = map_next(&c->models, &i));)
		catalog_model_copy(&ret->items[ret->len++], e->value);
	catalog_unlock(c);
	qsort(ret->items, ret->len, sizeof *ret->items, by_model_id);
}

/* A file that a set and another set or a model by itself have in common takes its bytes once. */
static uint64_t bytes_of(const struct catalog_model *m, struct map *seen)
{
	uint64_t sum = m->nfiles ? 0 : m->size_bytes;
	for (size_t i = 0; i < m->nfiles; i++)
		if (!m->files[i].path || !map_put(seen, view_str(m->files[i].path), seen))
			sum += m->files[i].size;
	return sum;
}

uint64_t catalog_models_fetched(struct catalog *c)
{
	struct map_entry *e;
	struct map seen;
	uint64_t sum = 0;
	map_init(&seen);
	catalog_lock(c);
	for (size_t i = 0; (e = map_next(&c->models, &i));) {
		const struct catalog_model *m = e->value;
		sum += m->fetched ? bytes_of(m, &seen) : 0;
	}
	catalog_unlock(c);
	map_done(&seen);
	return sum;
}
