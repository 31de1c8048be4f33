/* SPDX-License-Identifier: Apache-2.0
 *
 * One configuration against another, and a pool's fingerprint.
 */
#include <stdio.h>

#include "base/mem.h"
#include "base/url.h"
#include "config/config_int.h"

enum { HUMAN_MAX = 16 * 1024, VALUE_SHOWN = 80 };

/* ---- the fingerprint ----------------------------------------------------------------------------- */

/* FNV-1a: nobody gains by two pools of one fingerprint but the one who writes the file, and the diff compares
 * values, not fingerprints. */
struct hash {
	uint64_t h;
};

static void hash_add(struct hash *s, const void *p, size_t n)
{
	const unsigned char *c = p;
	for (size_t i = 0; i < n; i++)
		s->h = (s->h ^ c[i]) * 1099511628211ull;
}

/* With its length, so that "ab","c" is not "a","bc". */
static void hash_text(struct hash *s, struct view v)
{
	unsigned char len[4] = { (unsigned char)v.n, (unsigned char)(v.n >> 8), (unsigned char)(v.n >> 16),
		(unsigned char)(v.n >> 24) };
	hash_add(s, len, sizeof len);
	hash_add(s, v.p, v.n);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void hash_list(struct hash *s, const struct field *f, const struct strv *list)
{
	AUTO(mem_freep) const char **items = mem_alloc((list->len + 1) * sizeof *items);
	for (size_t i = 0; i < list->len; i++)
		items[i] = list->items[i];
	if (f->type == FIELD_ENV)
		qsort(items, list->len, sizeof *items, by_text);
	for (size_t i = 0; i < list->len; i++)
		hash_text(s, view_str(items[i]));
}

/* A value that is the default adds nothing: a key that a later version brings does not change the
 * fingerprints of pools that do not use it, and an upgrade finds its engines as they should be. */
static void hash_field(struct hash *s, const struct field *f, const struct config_pool *p)
{
	if (field_is_list(f)) {
		if (!value_list(f, p)->len)
			return;
		hash_text(s, view_str(f->path));
		hash_list(s, f, value_list(f, p));
		return;
	}
	AUTO(buf_done) struct buf text = BUF(2 * CONFIG_STRING_MAX);
	value_text(f, p, &text);
	if (!text.len || (f->dflt && view_eqs(buf_view(&text), f->dflt)))
		return;
	hash_text(s, view_str(f->path));
	hash_text(s, buf_view(&text));
}

void config_pool_spec(const struct config_pool *p, char out[CONFIG_SPEC_LEN + 1])
{
	struct hash s = { 14695981039346656037ull };
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		if (f->scope == SCOPE_POOL && f->flags & FIELD_ENGINE && !(f->flags & FIELD_ALIAS))
			hash_field(&s, f, p);
	}
	snprintf(out, CONFIG_SPEC_LEN + 1, "%016llx", (unsigned long long)s.h);
}

/* ---- the difference ------------------------------------------------------------------------------ */

const char *config_change_kind_name(enum config_change_kind k)
{
	static const char *const names[] = {
		[CONFIG_POOL_ADDED] = "pool_added",
		[CONFIG_POOL_REMOVED] = "pool_removed",
		[CONFIG_POOL_LIVE] = "pool_live",
		[CONFIG_POOL_ENGINE] = "pool_engine",
		[CONFIG_TOP_LIVE] = "top_live",
		[CONFIG_TOP_NEXT_START] = "next_start",
	};
	return names[k];
}

void config_diff_done(struct config_diff *d)
{
	for (size_t i = 0; i < d->len; i++) {
		free(d->items[i].pool);
		free(d->items[i].keys);
		free(d->items[i].human);
	}
	free(d->items);
	*d = (struct config_diff){ 0 };
}

void config_diff_add(
	struct config_diff *d, enum config_change_kind kind, const char *pool, char *keys, char *human)
{
	d->items = mem_realloc(d->items, (d->len + 1) * sizeof *d->items);
	d->items[d->len++] = (struct config_change){ kind, mem_strdup(pool), keys, human };
}

static bool is_value(const struct field *f, enum field_scope scope)
{
	return f->scope == scope && !(f->flags & FIELD_ALIAS) && f->type != FIELD_POOLS &&
	       f->type != FIELD_DEFAULTS;
}

/* As it is written, cut; "nothing" for what is not set. */
static void add_value(const struct field *f, const void *base, struct buf *out)
{
	AUTO(buf_done) struct buf text = BUF(2 * CONFIG_STRING_MAX);
	if (field_is_list(f)) {
		const struct strv *l = value_list(f, base);
		for (size_t i = 0; i < l->len && text.len <= VALUE_SHOWN; i++)
			(void)buf_addf(&text, "%s%s", i ? ", " : "", l->items[i]);
	} else {
		value_text(f, base, &text);
	}
	AUTO(mem_freep) char *safe = url_redact(buf_view(&text));
	struct view v = view_cut(view_str(safe), VALUE_SHOWN);
	(void)buf_addf(out, "%.*s%s", VIEW_ARG(v), safe[v.n] ? "…" : v.n ? "" : "nothing");
}

/* "ctx from 4096 to 8192"; of words and environments, which may hold secrets, the key alone. */
static void add_change(const struct field *f, const void *from, const void *to, struct buf *out)
{
	if (out->len)
		(void)buf_adds(out, ", ");
	(void)buf_adds(out, f->path);
	if (f->type == FIELD_WORDS || f->type == FIELD_ENV)
		return;
	(void)buf_adds(out, " from ");
	add_value(f, from, out);
	(void)buf_adds(out, " to ");
	add_value(f, to, out);
}

static void diff_top(
	const struct config *from, const struct config *to, bool next_start, struct config_diff *d)
{
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		if (!is_value(f, SCOPE_TOP) ||
			(f->flags & FIELD_RESTART) != (next_start ? FIELD_RESTART : 0) ||
			value_eq(f, from, to))
			continue;
		AUTO(buf_done) struct buf what = BUF(HUMAN_MAX);
		add_change(f, from, to, &what);
		config_diff_add(d, next_start ? CONFIG_TOP_NEXT_START : CONFIG_TOP_LIVE, NULL,
			mem_strdup(f->path),
			mem_fmt(next_start ? "%s, when Corral starts again; until then it stays as it is."
					   : "%s, at once.",
				buf_str(&what)));
	}
}

static void diff_pool(
	const struct config_pool *from, const struct config_pool *to, bool engine, struct config_diff *d)
{
	AUTO(buf_done) struct buf keys = BUF(HUMAN_MAX);
	AUTO(buf_done) struct buf what = BUF(HUMAN_MAX);
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		if (!is_value(f, SCOPE_POOL) || !!(f->flags & FIELD_ENGINE) != engine ||
			value_eq(f, from, to))
			continue;
		(void)buf_addf(&keys, "%s%s", keys.len ? ", " : "", f->path);
		add_change(f, from, to, &what);
	}
	if (!keys.len)
		return;
	config_diff_add(d, engine ? CONFIG_POOL_ENGINE : CONFIG_POOL_LIVE, to->id, buf_take(&keys),
		mem_fmt(engine ? "Pool %s: %s; its engines are replaced one after the other."
			       : "Pool %s: %s, at once; its engines go on.",
			to->id, buf_str(&what)));
}

static char *say_added(const struct config_pool *p)
{
	if (p->engine.mode == CONFIG_MODE_EXTERNAL)
		return mem_fmt("Pool %s is added.", p->id);
	return mem_fmt("Pool %s is added; its engine starts %s.", p->id,
		p->preload || p->replicas_min ? "at once" : "with the first request");
}

static struct map by_id(const struct config *c)
{
	struct map m;
	map_init(&m);
	for (size_t i = 0; i < c->npools; i++)
		map_put(&m, view_str(c->pools[i].id), &c->pools[i]);
	return m;
}

void config_diff(const struct config *from, const struct config *to, struct config_diff *ret)
{
	AUTO(map_done) struct map old = by_id(from);
	AUTO(map_done) struct map new = by_id(to);
	*ret = (struct config_diff){ 0 };
	diff_top(from, to, false, ret);
	for (size_t i = 0; i < to->npools; i++) {
		const struct config_pool *p = &to->pools[i], *was = map_gets(&old, p->id);
		if (!was) {
			config_diff_add(ret, CONFIG_POOL_ADDED, p->id, NULL, say_added(p));
			continue;
		}
		diff_pool(was, p, true, ret);
		diff_pool(was, p, false, ret);
	}
	for (size_t i = 0; i < from->npools; i++)
		if (!map_gets(&new, from->pools[i].id))
			config_diff_add(ret, CONFIG_POOL_REMOVED, from->pools[i].id, NULL,
				mem_fmt("Pool %s is removed: its requests may end, then its engines stop.",
					from->pools[i].id));
	diff_top(from, to, true, ret);
}
