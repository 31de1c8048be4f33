/* SPDX-License-Identifier: Apache-2.0
 *
 * The loaded configuration written back: YAML that can be loaded again, or JSON, each value with where
 * it came from. Values that look like secrets are masked.
 */
#include <ctype.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/url.h"
#include "config/config_int.h"

/* ---- small readers of the loaded configuration -------------------------------------------------- */

static const char *word_of(const char *key, enum field_scope scope, int64_t v)
{
	for (const struct field_word *w = config_fields[field_find(scope, view_str(key))].words; w->word; w++)
		if (w->value == v)
			return w->word;
	return "?";
}

const char *config_gpu_name(enum config_gpu v)
{
	return word_of("gpu", SCOPE_TOP, v);
}

const char *config_engine_kind_name(enum config_engine_kind v)
{
	return word_of("engine.kind", SCOPE_POOL, v);
}

const char *config_engine_mode_name(enum config_engine_mode v)
{
	return word_of("engine.mode", SCOPE_POOL, v);
}

const struct config_pool *config_pool_find(const struct config *c, struct view name)
{
	for (size_t i = 0; i < c->npools; i++) {
		if (view_eqs(name, c->pools[i].id))
			return &c->pools[i];
		for (size_t j = 0; j < c->pools[i].aliases.len; j++)
			if (view_eqs(name, c->pools[i].aliases.items[j]))
				return &c->pools[i];
	}
	return NULL;
}

static void origin_write(const struct config_origin *o, char *out, size_t cap)
{
	switch (o->kind) {
	case CONFIG_FROM_DEFAULT: snprintf(out, cap, "default"); break;
	case CONFIG_FROM_FILE: snprintf(out, cap, "%s:%u", o->name, o->line); break;
	case CONFIG_FROM_ENV: snprintf(out, cap, "environment %s", o->name); break;
	case CONFIG_FROM_COMMAND_LINE: snprintf(out, cap, "command line"); break;
	case CONFIG_FROM_FOUND: snprintf(out, cap, "found: %s", o->name); break;
	}
}

const struct config_origin *config_origin_of(
	const struct config *c, const struct config_pool *pool, const char *key)
{
	int f = field_find(pool ? SCOPE_POOL : SCOPE_TOP, view_str(key));
	return f < 0 ? NULL : &(pool ? pool->from : c->from)[field_canon(f)];
}

void config_origin_text(
	const struct config *c, const struct config_pool *pool, const char *key, char *out, size_t cap)
{
	const struct config_origin *o = config_origin_of(c, pool, key);
	if (o)
		origin_write(o, out, cap);
	else
		snprintf(out, cap, "unknown key");
}

/* ---- secrets ------------------------------------------------------------------------------------ */

static bool secret_name(struct view name)
{
	static const char *const words[] = { "KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL" };
	char up[128];
	size_t n = MIN(name.n, sizeof up);
	for (size_t i = 0; i < n; i++)
		up[i] = name.p[i] == '-' ? '_' : (char)toupper((unsigned char)name.p[i]);
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (view_search(view_of(up, n), view_str(words[i])) >= 0)
			return true;
	return false;
}

/* --api-key and --api-key=…, but not --api-key-file. */
static bool secret_flag(struct view arg)
{
	return view_starts(arg, VIEW("-")) && secret_name(arg) && !view_ends(arg, VIEW("-file")) &&
	       view_search(arg, VIEW("tokens")) < 0;
}

/* The list's element i as it may be seen. */
static void add_item(const struct field *f, const struct strv *list, size_t i, struct buf *out)
{
	struct view v = view_str(list->items[i]), rest, name = view_split(v, '=', &rest);
	bool flags = f->type == FIELD_WORDS;
	if (rest.p && (f->type == FIELD_ENV ? secret_name(name) : flags && secret_flag(name)))
		buf_addf(out, "%.*s=***", VIEW_ARG(name));
	else if (flags && i && !strchr(list->items[i - 1], '=') && secret_flag(view_str(list->items[i - 1])))
		buf_adds(out, "***");
	else
		buf_addv(out, v);
}

/* ---- writing ------------------------------------------------------------------------------------ */

struct shower {
	struct buf *out;
	bool json, effective;
};

static bool shown(
	const struct shower *s, const struct field *f, const void *base, const struct config_origin *from)
{
	if (f->flags & FIELD_ALIAS || f->type == FIELD_POOLS || f->type == FIELD_DEFAULTS)
		return false;
	if (!s->effective && from[f - config_fields].kind == CONFIG_FROM_DEFAULT)
		return false;
	if (field_is_list(f))
		return value_list(f, base)->len > 0 || from[f - config_fields].kind != CONFIG_FROM_DEFAULT;
	AUTO(buf_done) struct buf text = BUF(2 * CONFIG_STRING_MAX);
	value_text(f, base, &text);
	return text.len > 0;
}

/* The key as it is written: one that is a group too ("model") is written long when others of the group are.
 */
static const char *shown_path(
	const struct shower *s, const struct field *f, const void *base, const struct config_origin *from)
{
	const char *longer = NULL;
	bool others = false;
	size_t n = strlen(f->path);
	if (!field_is_group(f->scope, view_str(f->path)))
		return f->path;
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *g = &config_fields[i];
		if (g->scope != f->scope || strncmp(g->path, f->path, n) != 0 || g->path[n] != '.')
			continue;
		if (g->flags & FIELD_ALIAS && strcmp(g->canon, f->path) == 0)
			longer = g->path;
		others = others || shown(s, g, base, from);
	}
	return longer && others ? longer : f->path;
}

/* A plain scalar where that is safe, else JSON's quotes, which YAML reads alike. */
static void add_scalar(const struct shower *s, const struct field *f, struct view v)
{
	bool number = v.n > 0;
	for (size_t i = 0; i < v.n; i++)
		number = number && isdigit((unsigned char)v.p[i]);
	bool raw = f->type == FIELD_BOOL || (f->type == FIELD_UINT && number);
	bool plain = !s->json && v.n > 0 && (isalpha((unsigned char)v.p[0]) || v.p[0] == '/');
	for (size_t i = 0; i < v.n; i++)
		plain = plain && (isalnum((unsigned char)v.p[i]) || strchr("._-/", v.p[i]));
	static const char *const words[] = { "null", "true", "false", "yes", "no", "on", "off" };
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		plain = plain && !view_eq_ci(v, view_str(words[i]));
	bool typed = f->type == FIELD_ENUM || f->type == FIELD_SIZE || f->type == FIELD_DURATION ||
		     f->type == FIELD_UINT;
	if (raw || plain || (typed && !s->json))
		buf_addv(s->out, v);
	else
		buf_add_json(s->out, v);
}

static void add_safe(const struct shower *s, const struct field *f, struct view v)
{
	AUTO(mem_freep) char *safe = url_redact(v);
	add_scalar(s, f, view_str(safe));
}

static void add_value(const struct shower *s, const struct field *f, const void *base)
{
	AUTO(buf_done) struct buf text = BUF(2 * CONFIG_STRING_MAX);
	if (!field_is_list(f)) {
		value_text(f, base, &text);
		add_safe(s, f, buf_view(&text));
		return;
	}
	const struct strv *l = value_list(f, base);
	buf_addc(s->out, '[');
	for (size_t i = 0; i < l->len; i++) {
		buf_reset(&text);
		add_item(f, l, i, &text);
		buf_adds(s->out, i ? ", " : "");
		add_safe(s, f, buf_view(&text));
	}
	buf_addc(s->out, ']');
}

static void add_comment(const struct shower *s, size_t line_start, const struct config_origin *o)
{
	char where[512];
	origin_write(o, where, sizeof where);
	size_t width = s->out->len - line_start;
	buf_addf(s->out, "%*s# ", width < 40 ? (int)(40 - width) : 2, "");
	for (char *p = where; *p; p++)
		buf_addc(s->out, (unsigned char)*p < 0x20 ? '?' : *p);
	buf_addc(s->out, '\n');
}

/* The segments of path that differ from the last path's are opened as mappings. */
static const char *open_groups(
	const struct shower *s, const char *path, const char *last, unsigned *depth, const char *indent)
{
	struct view rest = view_str(path), old = view_str(last);
	bool same = true;
	*depth = 0;
	for (;;) {
		struct view tail, seg = view_split(rest, '.', &tail), old_tail,
				  old_seg = view_split(old, '.', &old_tail);
		if (!tail.p)
			return seg.p;
		same = same && view_eq(seg, old_seg) && old_tail.p;
		if (!same)
			buf_addf(s->out, "%s%*s%.*s:\n", indent, (int)*depth * 2, "", VIEW_ARG(seg));
		rest = tail;
		old = old_tail;
		(*depth)++;
	}
}

static bool show_yaml(const struct shower *s, enum field_scope scope, const void *base,
	const struct config_origin *from, const char *indent)
{
	const char *last = "";
	bool any = false;
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		if (f->scope != scope || !shown(s, f, base, from))
			continue;
		unsigned depth;
		const char *path = shown_path(s, f, base, from);
		const char *name = open_groups(s, path, last, &depth, indent);
		size_t start = s->out->len;
		/* The first key of a list's element stands behind its dash. */
		bool dash = scope == SCOPE_POOL && !any;
		buf_addf(s->out, "%s%*s%s: ", dash ? "  - " : indent, (int)depth * 2, "", name);
		add_value(s, f, base);
		add_comment(s, start, &from[i]);
		last = path;
		any = true;
	}
	return any;
}

static void show_all_yaml(const struct shower *s, const struct config *c)
{
	if (!c->files.len)
		buf_adds(s->out, "# No configuration file was found.\n");
	for (size_t i = 0; i < c->files.len; i++)
		buf_addf(s->out, "# %s\n", c->files.items[i]);
	show_yaml(s, SCOPE_TOP, c, c->from, "");
	buf_adds(s->out, c->npools ? "pools:\n" : "pools: []\n");
	for (size_t i = 0; i < c->npools; i++)
		show_yaml(s, SCOPE_POOL, &c->pools[i], c->pools[i].from, "    ");
}

/* Groups become objects: fields of one group stand together in the table. */
static void show_json(
	const struct shower *s, enum field_scope scope, const void *base, const struct config_origin *from)
{
	struct view open[4];
	unsigned depth = 0;
	bool first = true;
	buf_addc(s->out, '{');
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		if (f->scope != scope || !shown(s, f, base, from))
			continue;
		struct view segs[4], rest = view_str(shown_path(s, f, base, from));
		unsigned n = 0, same = 0;
		while (rest.p && n < ARRAY_LEN(segs))
			segs[n++] = view_split(rest, '.', &rest);
		while (same < depth && same + 1 < n && view_eq(open[same], segs[same]))
			same++;
		for (; depth > same; depth--)
			buf_addc(s->out, '}');
		buf_adds(s->out, first ? "" : ",");
		for (; depth + 1 < n; depth++) {
			open[depth] = segs[depth];
			buf_add_json(s->out, segs[depth]);
			buf_adds(s->out, ":{");
		}
		buf_add_json(s->out, segs[n - 1]);
		buf_addc(s->out, ':');
		add_value(s, f, base);
		first = false;
	}
	for (; depth; depth--)
		buf_addc(s->out, '}');
}

static void sources_json(const struct shower *s, enum field_scope scope, const void *base,
	const struct config_origin *from, const char *prefix, bool *first)
{
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		if (f->scope != scope || !shown(s, f, base, from))
			continue;
		char where[512];
		origin_write(&from[i], where, sizeof where);
		AUTO(mem_freep) char *key = mem_fmt("%s%s", prefix, f->path);
		buf_adds(s->out, *first ? "" : ",");
		buf_add_json(s->out, view_str(key));
		buf_addc(s->out, ':');
		buf_add_json(s->out, view_str(where));
		*first = false;
	}
}

static void show_all_json(const struct shower *s, const struct config *c)
{
	bool first = true;
	show_json(s, SCOPE_TOP, c, c->from);
	buf_adds(s->out, s->out->data[s->out->len - 1] == '{' ? "\"pools\":[" : ",\"pools\":[");
	for (size_t i = 0; i < c->npools; i++) {
		buf_adds(s->out, i ? "," : "");
		show_json(s, SCOPE_POOL, &c->pools[i], c->pools[i].from);
		buf_addc(s->out, '}');
	}
	buf_adds(s->out, "],\"files\":[");
	for (size_t i = 0; i < c->files.len; i++) {
		buf_adds(s->out, i ? "," : "");
		buf_add_json(s->out, view_str(c->files.items[i]));
	}
	buf_adds(s->out, "],\"sources\":{");
	sources_json(s, SCOPE_TOP, c, c->from, "", &first);
	for (size_t i = 0; i < c->npools; i++) {
		AUTO(mem_freep) char *prefix = mem_fmt("pools.%s.", c->pools[i].id);
		sources_json(s, SCOPE_POOL, &c->pools[i], c->pools[i].from, prefix, &first);
	}
	buf_adds(s->out, "}}\n");
}

int config_show(const struct config *c, int flags, struct buf *out)
{
	struct shower s = { out, flags & CONFIG_SHOW_JSON, flags & CONFIG_SHOW_EFFECTIVE };
	if (s.json)
		show_all_json(&s, c);
	else
		show_all_yaml(&s, c);
	return out->len < out->max ? 0 : -ENOBUFS;
}
