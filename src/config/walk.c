/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads a mapping into a struct by the table: unknown and repeated keys, wrong kinds and wrong values
 * are told, each at its place, and reading goes on.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/mem.h"
#include "config/config_int.h"

enum { FIELDS_MAX = 128, GROUPS_MAX = 16, VISITS_MAX = 20000 };

/* What one mapping has set so far; its merge keys may not set it again. */
struct seen {
	unsigned line[FIELDS_MAX]; /* by canonical field; 0 = not set */
	struct view groups[GROUPS_MAX];
	size_t ngroups;
};
struct walk {
	struct loader *ld;
	const struct ydoc *d;
	const struct target *t;
	char prefix[64]; /* "engine.package." */
	struct seen *seen;
	bool merging; /* below <<: what is set already stays, silently */
	unsigned depth;
};

static void walk_into(const struct walk *w, const struct ynode *map);

/* "pools[0].engine.kind" */
static char *full_key(const struct walk *w, const char *key)
{
	const char *l = w->t->label;
	return mem_fmt("%s%s%s%s", l, *l ? "." : "", w->prefix, key);
}

static void fail(const struct walk *w, const struct ynode *at, const char *key, const char *fmt, ...)
	PRINTF(4, 5);
static void fail(const struct walk *w, const struct ynode *at, const char *key, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *msg = mem_vfmt(fmt, ap);
	va_end(ap);
	AUTO(mem_freep) char *full = full_key(w, key);
	struct config_origin o = load_origin(w->ld, w->d, at);
	load_fail(w->ld, &o, full, "%s", msg);
}

static bool node_is_null(const struct ynode *n)
{
	return n->kind == Y_SCALAR && n->plain &&
	       (n->text[0] == '\0' || strcmp(n->text, "~") == 0 || strcmp(n->text, "null") == 0);
}

/* What stands there, for "found …". */
static char *describe(const struct ynode *n)
{
	if (n->kind == Y_LIST)
		return mem_strdup("a list");
	if (n->kind == Y_MAP)
		return mem_strdup("a mapping");
	if (node_is_null(n))
		return mem_strdup("nothing");
	return mem_fmt("\"%.80s%s\"", n->text, strlen(n->text) > 80 ? "…" : "");
}

static void fail_value(const struct walk *w, const struct ynode *n, const char *key, const struct field *f,
	const struct buf *why)
{
	AUTO(buf_done) struct buf accepts = BUF(4096);
	AUTO(mem_freep) char *found = describe(n);
	field_accepts(f, &accepts);
	fail(w, n, key, "found %s; accepted: %s%s%s%s", found, buf_str(&accepts), why && why->len ? " (" : "",
		why ? buf_str(why) : "", why && why->len ? ")" : "");
}

static void fail_unknown(const struct walk *w, const struct ynode *k)
{
	AUTO(buf_done) struct buf near = BUF(256);
	nearest_key(w->t->scope, view_str(w->prefix), view_str(k->text), &near);
	if (near.len) {
		fail(w, k, k->text, "there is no such key; the nearest one is \"%s\"", buf_str(&near));
		return;
	}
	AUTO(buf_done) struct buf all = BUF(4096);
	struct view last = { 0 };
	for (size_t i = 0; i < config_nfields; i++) {
		struct view p = view_str(config_fields[i].path), rest;
		if (config_fields[i].scope != w->t->scope || !view_starts(p, view_str(w->prefix)))
			continue;
		struct view seg = view_split(view_from(p, strlen(w->prefix)), '.', &rest);
		if (!view_eq(seg, last))
			buf_addf(&all, "%s%.*s", all.len ? ", " : "", VIEW_ARG(seg));
		last = seg;
	}
	fail(w, k, k->text, "there is no such key here; accepted: %s", buf_str(&all));
}

static void read_list(const struct walk *w, const struct ynode *v, const char *key, const struct field *f)
{
	value_clear(f, w->t->base);
	for (size_t i = 0; i < v->n; i++) {
		AUTO(buf_done) struct buf why = BUF(1024);
		AUTO(buf_done) struct buf pair = BUF(2 * CONFIG_STRING_MAX + 2);
		const struct ynode *n = v->items[i];
		if (v->kind == Y_MAP) {
			const struct ynode *value = v->items[++i];
			if (n->kind != Y_SCALAR || value->kind != Y_SCALAR || node_is_null(value)) {
				fail_value(w, n->kind != Y_SCALAR ? n : value, key, f, NULL);
				continue;
			}
			buf_addf(&pair, "%s=%s", n->text, value->text);
		} else if (n->kind != Y_SCALAR || node_is_null(n)) {
			fail_value(w, n, key, f, NULL);
			continue;
		} else {
			buf_adds(&pair, n->text);
		}
		if (value_add(f, w->t->base, buf_view(&pair), &why))
			fail_value(w, n, key, f, &why);
	}
}

static void read_value(const struct walk *w, const struct ynode *v, const char *key, int index)
{
	const struct field *f = &config_fields[index];
	bool fits = v->kind == Y_SCALAR || (v->kind == Y_LIST && field_is_list(f)) ||
		    (v->kind == Y_MAP && f->type == FIELD_ENV);
	if (!fits || (node_is_null(v) && !(field_is_list(f) && v->kind != Y_SCALAR))) {
		fail_value(w, v, key, f, NULL);
		return;
	}
	if (v->kind == Y_SCALAR) {
		AUTO(buf_done) struct buf why = BUF(1024);
		struct value_ctx ctx = { w->ld->home, w->d->folder };
		if (value_set(f, w->t->base, view_str(v->text), &ctx, &why)) {
			fail_value(w, v, key, f, &why);
			return;
		}
	} else {
		read_list(w, v, key, f);
	}
	struct config_origin o = load_origin(w->ld, w->d, v);
	w->t->from[field_canon(index)] = o;
	if (f->type == FIELD_REPLICAS)
		w->t->from[field_find(SCOPE_POOL, VIEW("replicas.min"))] = o;
}

/* True: the key is new in its mapping (or may be passed over in silence). */
static bool first_time(const struct walk *w, const struct ynode *k, int index, bool *ret_skip)
{
	struct seen *s = w->seen;
	int c = field_canon(index);
	*ret_skip = false;
	if (!s->line[c]) {
		s->line[c] = k->line ? k->line : 1;
		return true;
	}
	*ret_skip = w->merging;
	if (!w->merging)
		fail(w, k, k->text, "this is set twice, first in line %u; keep one of them", s->line[c]);
	return w->merging;
}

static void read_group(const struct walk *w, const struct ynode *k, const struct ynode *v)
{
	struct view name = view_str(k->text);
	for (size_t i = 0; i < w->seen->ngroups; i++) {
		if (!view_eq(w->seen->groups[i], name))
			continue;
		if (!w->merging)
			fail(w, k, k->text, "this is set twice in one mapping; keep one of them");
		return;
	}
	if (w->seen->ngroups < GROUPS_MAX)
		w->seen->groups[w->seen->ngroups++] = name;
	if (node_is_null(v))
		return;
	struct seen fresh = { 0 };
	struct walk in = *w;
	in.seen = &fresh;
	in.merging = false;
	snprintf(in.prefix, sizeof in.prefix, "%.30s%.30s.", w->prefix,
		k->text); /* groups of the table: short */
	if (v->kind == Y_MAP) {
		walk_into(&in, v);
		return;
	}
	AUTO(mem_freep) char *found = describe(v);
	fail(w, v, k->text, "found %s; accepted: a mapping, as in %s: {…}", found, k->text);
}

static void read_pair(const struct walk *w, const struct ynode *k, const struct ynode *v)
{
	if (k->kind != Y_SCALAR) {
		fail(w, k, "", "found %s where a key belongs", k->kind == Y_LIST ? "a list" : "a mapping");
		return;
	}
	if (strncmp(k->text, "x-", 2) == 0 || (k->plain && strcmp(k->text, "<<") == 0))
		return;
	char path[128];
	int len = snprintf(path, sizeof path, "%s%s", w->prefix, k->text);
	bool fits = len > 0 && (size_t)len < sizeof path;
	bool dotted = strchr(k->text, '.') != NULL;
	int index = fits && !dotted ? field_find(w->t->scope, view_str(path)) : -1;
	bool group = fits && !dotted && field_is_group(w->t->scope, view_str(path));
	bool skip;
	if (group && (v->kind == Y_MAP || index < 0)) {
		/* A key that is also written short counts once, whichever way. */
		if (index < 0 || (first_time(w, k, index, &skip) && !skip))
			read_group(w, k, v);
		return;
	}
	if (index < 0) {
		fail_unknown(w, k);
		return;
	}
	const struct field *f = &config_fields[index];
	if (!first_time(w, k, index, &skip) || skip || f->type == FIELD_POOLS || f->type == FIELD_DEFAULTS)
		return;
	if (f->flags & FIELD_NO_DEFAULTS && strcmp(w->t->label, "defaults") == 0) {
		fail(w, k, k->text, "this belongs to one pool alone; write it there");
		return;
	}
	read_value(w, v, k->text, index);
}

static void read_merge(const struct walk *w, const struct ynode *v)
{
	struct walk in = *w;
	in.merging = true;
	in.depth++;
	if (v->kind == Y_MAP) {
		walk_into(&in, v);
		return;
	}
	if (v->kind != Y_LIST)
		fail(w, v, "<<", "a merge key takes a mapping or a list of mappings, as in <<: *name");
	for (size_t i = 0; v->kind == Y_LIST && i < v->n; i++) {
		if (v->items[i]->kind == Y_MAP)
			walk_into(&in, v->items[i]);
		else
			fail(w, v->items[i], "<<",
				"a merge key takes a mapping or a list of mappings, as in <<: *name");
	}
}

static void walk_into(const struct walk *w, const struct ynode *map)
{
	if (++w->ld->visits > VISITS_MAX || w->depth > CONFIG_DEPTH_MAX) {
		if (w->ld->visits == VISITS_MAX + 1 || w->depth > CONFIG_DEPTH_MAX)
			fail(w, map, "", "merge keys bring in more than %d mappings; write fewer",
				VISITS_MAX);
		return;
	}
	for (size_t i = 0; i + 1 < map->n; i += 2)
		read_pair(w, map->items[i], map->items[i + 1]);
	for (size_t i = 0; i + 1 < map->n; i += 2) {
		const struct ynode *k = map->items[i];
		if (k->kind == Y_SCALAR && k->plain && strcmp(k->text, "<<") == 0)
			read_merge(w, map->items[i + 1]);
	}
}

void walk_map(struct loader *ld, const struct ydoc *d, const struct ynode *map, const struct target *t)
{
	assert(config_nfields <= FIELDS_MAX);
	struct seen seen = { 0 };
	struct walk w = { .ld = ld, .d = d, .t = t, .seen = &seen };
	walk_into(&w, map);
}

void walk_text(struct loader *ld, int field, const struct target *t, struct view text,
	const struct config_origin *from, const char *key)
{
	const struct field *f = &config_fields[field];
	AUTO(buf_done) struct buf why = BUF(1024);
	struct value_ctx ctx = { ld->home, NULL };
	AUTO(mem_freep) char *cwd = getcwd(NULL, 0);
	ctx.folder = cwd;
	int r = 0;
	if (f->type == FIELD_POOLS || f->type == FIELD_DEFAULTS) {
		load_fail(ld, from, key,
			"pools are written in the file; set their keys one by one, as in pools.ID.ctx=8192");
		return;
	}
	if (f->type == FIELD_LIST) {
		value_clear(f, t->base);
		for (struct view rest = text; rest.p && !r;)
			r = value_add(f, t->base, view_trim(view_split(rest, ',', &rest)), &why);
	} else {
		r = value_set(f, t->base, text, &ctx, &why);
	}
	if (r) {
		AUTO(buf_done) struct buf accepts = BUF(4096);
		field_accepts(f, &accepts);
		load_fail(ld, from, key, "found \"%.*s\"; accepted: %s%s%s%s", VIEW_ARG(view_cut(text, 80)),
			buf_str(&accepts), why.len ? " (" : "", buf_str(&why), why.len ? ")" : "");
		return;
	}
	t->from[field_canon(field)] = *from;
	if (f->type == FIELD_REPLICAS)
		t->from[field_find(SCOPE_POOL, VIEW("replicas.min"))] = *from;
}
