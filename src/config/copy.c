/* SPDX-License-Identifier: Apache-2.0
 *
 * Configurations made from configurations: what holds after a reload, and pools for models that were found.
 */
#include <stdio.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "config/config_int.h"

static struct config_origin copy_origin(struct config *c, const struct config_origin *o)
{
	struct config_origin r = *o;
	r.name = o->name ? config_intern(c, o->name) : NULL;
	return r;
}

static void copy_pool(struct config *c, struct config_pool *to, const struct config_pool *from)
{
	pool_init(to);
	config_copy_fields(SCOPE_POOL, to, from);
	for (size_t i = 0; i < config_nfields; i++)
		to->from[i] = copy_origin(c, &from->from[i]);
	to->at = copy_origin(c, &from->at);
}

static struct config *copy(const struct config *from)
{
	struct config *c = config_new();
	config_copy_fields(SCOPE_TOP, c, from);
	for (size_t i = 0; i < config_nfields; i++)
		c->from[i] = copy_origin(c, &from->from[i]);
	strv_copy(&c->files, &from->files);
	copy_pool(c, &c->defaults, &from->defaults);
	c->pools = mem_alloc((from->npools + 1) * sizeof *c->pools);
	for (c->npools = 0; c->npools < from->npools; c->npools++)
		copy_pool(c, &c->pools[c->npools], &from->pools[c->npools]);
	return c;
}

struct config *config_over(const struct config *running, const struct config *next)
{
	struct config *c = copy(next);
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		if (f->scope != SCOPE_TOP || !(f->flags & FIELD_RESTART))
			continue;
		value_copy(f, c, running);
		c->from[i] = copy_origin(c, &running->from[i]);
	}
	return c;
}

/* ---- pools for models that were found ------------------------------------------------------------- */

enum { ID_MAX = 64 };

/* Without what says which part of a split model it is: "-00001-of-00003". */
static struct view whole_model(struct view v)
{
	static const size_t n = sizeof "-00001-of-00003" - 1;
	if (v.n <= n)
		return v;
	struct view part = view_from(v, v.n - n);
	for (size_t i = 0; i < n; i++) {
		char want = "-ddddd-of-ddddd"[i];
		bool digit = part.p[i] >= '0' && part.p[i] <= '9';
		if (want == 'd' ? !digit : part.p[i] != want)
			return v;
	}
	return view_cut(v, v.n - n);
}

/* Into out, which has room for max + 1; what is no character of an id becomes one '-'. */
static void as_id(struct view v, size_t max, char *out)
{
	size_t n = 0;
	for (size_t i = 0; i < v.n && n < max; i++) {
		char c = v.p[i];
		if (c >= 'A' && c <= 'Z')
			c = (char)(c - 'A' + 'a');
		bool alnum = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
		if (alnum || (n && (c == '.' || c == '_')))
			out[n++] = c;
		else if (n && out[n - 1] != '-')
			out[n++] = '-';
	}
	while (n && (out[n - 1] == '-' || out[n - 1] == '.'))
		n--;
	out[n] = '\0';
}

static struct view file_name(struct view path, struct view *ret_folder)
{
	size_t end = path.n;
	while (end && path.p[end - 1] != '/')
		end--;
	*ret_folder = view_cut(path, end ? end - 1 : 0);
	struct view v = view_from(path, end);
	if (view_ends(v, VIEW(".gguf")))
		v.n -= 5;
	return whole_model(v);
}

char *config_id_of_file(const char *path, size_t max)
{
	char id[ID_MAX + 1];
	struct view folder;
	as_id(file_name(view_str(path), &folder), MIN(max, (size_t)ID_MAX), id);
	return mem_strdup(id[0] ? id : "model");
}

/* The first of NAME, FOLDER-NAME, NAME-2, NAME-3 … that nobody has; "": there is no room for one. */
static void free_id(const struct map *taken, const struct config_found *f, size_t max, char out[ID_MAX + 1])
{
	struct view folder, parent, name = file_name(view_str(f->path), &folder);
	if (f->id)
		name = view_str(f->id);
	as_id(name, max, out);
	if (!out[0])
		as_id(VIEW("model"), max, out);
	if (!out[0] || !map_gets(taken, out))
		return;
	AUTO(mem_freep)
	char *longer = mem_fmt("%.*s-%.*s", VIEW_ARG(file_name(folder, &parent)), VIEW_ARG(name));
	char plain[ID_MAX + 1];
	memcpy(plain, out, sizeof plain);
	as_id(view_str(longer), max, out);
	for (unsigned i = 2; map_gets(taken, out) && i < CONFIG_POOLS_MAX + 2; i++) {
		char suffix[16];
		size_t n = (size_t)snprintf(suffix, sizeof suffix, "-%u", i);
		size_t keep = MIN(strlen(plain), max > n ? max - n : 0);
		snprintf(out, ID_MAX + 1, "%.*s%s", (int)keep, plain, suffix);
	}
}

static void make_pool(struct config *c, const struct config_found *f, const char *id)
{
	struct config_pool *p = &c->pools[c->npools];
	struct config_origin from = { .kind = CONFIG_FROM_FOUND, .name = config_intern(c, f->source) };
	copy_pool(c, p, &c->defaults);
	mem_setstr(&p->id, id);
	mem_setstr(&p->model, f->path);
	p->preload = false;
	p->replicas_min = 0;
	p->from[field_find(SCOPE_POOL, VIEW("id"))] = from;
	p->from[field_find(SCOPE_POOL, VIEW("model"))] = from;
	p->at = from;
	if (check_made(c, p))
		c->npools++;
	else
		pool_done(p);
}

static void take_alias(struct config_pool *p, struct map *taken, struct view v)
{
	AUTO(mem_freep) char *alias = mem_viewdup(v);
	if (!alias_ok(alias) || map_gets(taken, alias))
		return;
	map_put(taken, v, p);
	strv_add(&p->aliases, alias);
}

/* "ollama:llama3.2:latest" is asked for as llama3.2:latest and as llama3.2. A path is nobody's name for it.
 */
static void take_reference(struct config_pool *p, struct map *taken, const char *reference)
{
	struct view rest, scheme = view_split(view_str(reference), ':', &rest);
	if (!view_eqs(scheme, "ollama") && !view_eqs(scheme, "hf"))
		return;
	take_alias(p, taken, rest);
	if (view_ends(rest, VIEW(":latest")))
		take_alias(p, taken, view_cut(rest, rest.n - strlen(":latest")));
}

/* After all ids: an alias never takes one away. */
static void take_references(struct config *c, const struct config_found *list, size_t n, struct map *taken)
{
	for (size_t i = 0, at = 0; i < n && at < c->npools; i++)
		if (strcmp(c->pools[at].model, list[i].path) == 0)
			take_reference(&c->pools[at++], taken, list[i].reference);
}

struct config *config_with_found(const struct config *base, const struct config_found *list, size_t n)
{
	struct config *c = copy(base);
	if (base->npools)
		return c;
	AUTO(map_done) struct map taken;
	map_init(&taken);
	n = MIN(n, (size_t)CONFIG_POOLS_MAX);
	c->pools = mem_realloc(c->pools, (n + 1) * sizeof *c->pools);
	size_t max = MIN(check_id_room(c->runtime_dir, c->defaults.replicas_max), (size_t)ID_MAX);
	for (size_t i = 0; i < n; i++) {
		char id[ID_MAX + 1];
		free_id(&taken, &list[i], max, id);
		/* The wire carries text alone: another path would be another model at the other end. */
		if (!id[0] || map_gets(&taken, id) || list[i].path[0] != '/' ||
			!utf8_valid(view_str(list[i].path)))
			continue;
		map_put(&taken, view_str(id), c);
		make_pool(c, &list[i], id);
	}
	take_references(c, list, n, &taken);
	return c;
}
