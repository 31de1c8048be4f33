/* SPDX-License-Identifier: Apache-2.0
 *
 * The reference page and the JSON Schema, from the table alone.
 */
#include <stdio.h>

#include "base/mem.h"
#include "config/config_int.h"

/* ---- Markdown ----------------------------------------------------------------------------------- */

static void add_default(const struct field *f, struct buf *out)
{
	if (f->dflt)
		buf_addf(out, "`%s`", f->dflt);
	else if (f->flags & FIELD_COMPUTED)
		buf_adds(out, "see there");
	else
		buf_adds(out, "–");
}

/* When a reload of the file puts a changed value into effect. */
static const char *takes_effect(const struct field *f)
{
	const struct field *c = &config_fields[field_canon((int)(f - config_fields))];
	if (f->type == FIELD_POOLS || f->type == FIELD_DEFAULTS)
		return "key by key";
	if (c->flags & FIELD_RESTART)
		return "next start";
	return c->flags & FIELD_ENGINE ? "new engines" : "at once";
}

static void add_rows(enum field_scope scope, struct buf *out)
{
	buf_adds(out, "| key | accepted | default | environment | changed by a reload | "
		      "|\n|---|---|---|---|---|---|\n");
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		bool structural = f->type == FIELD_POOLS || f->type == FIELD_DEFAULTS;
		if (f->scope != scope)
			continue;
		buf_addf(out, "| `%s` | ", f->path);
		field_accepts(f, out);
		buf_adds(out, " | ");
		add_default(f, out);
		buf_adds(out, " | ");
		if (!structural && !(f->flags & FIELD_NO_DEFAULTS)) {
			buf_addc(out, '`');
			field_env_name(f, out);
			buf_addc(out, '`');
		}
		buf_addf(out, " | %s | %s |\n", takes_effect(f), f->doc);
	}
	buf_addc(out, '\n');
}

int config_reference_markdown(struct buf *out)
{
	buf_adds(out,
		"<!-- Made by `corral config reference`; edit src/config/table.c. -->\n"
		"# Configuration\n\n"
		"One YAML file. The first that exists is read: `--config FILE`, `$CORRAL_CONFIG`, "
		"`./corral.yaml`,\n"
		"`$XDG_CONFIG_HOME/corral/corral.yaml` (`~/.config/corral/corral.yaml`), "
		"`/etc/corral/corral.yaml`; with the\n"
		"last also every `/etc/corral/corral.d/*.yaml`, in the order of their names (a later "
		"file's key wins, pools add\n"
		"up). No file at all is fine.\n\n"
		"A value comes from, the later the stronger: the default, the file, the environment, "
		"the command line; for a\n"
		"pool's key: the default, `defaults` (with its environment variable), the pool itself, "
		"`pools.ID.KEY=VALUE` on\n"
		"the command line. `corral config show --effective` prints each value and where it "
		"came from; `corral config\n"
		"check` checks a file and says everything that is wrong with it.\n\n"
		"Unknown keys are mistakes, except those that begin with `x-`: they are ignored and "
		"may hold anchors. Anchors,\n"
		"aliases and merge keys (`<<: *name`) work. Sizes are written `64MiB`, durations "
		"`10m`; a relative path stands\n"
		"in the folder of the file it is written in, and `~/` is the home. In a variable the "
		"entries of a list are\n"
		"separated by commas.\n\n"
		"```yaml\n"
		"pools:\n"
		"  - {id: chat, model: chat.gguf, ctx: 16384}\n"
		"  - {id: fast, engine: {kind: openai, url: http://127.0.0.1:9000}}\n"
		"```\n\n"
		"`corral config reload` (or SIGHUP, or `corral serve --watch`) reads it again: what "
		"changes *at once* leaves\n"
		"engines alone, *new engines* means that the pool's engines are replaced one after the "
		"other without losing a\n"
		"request, and what waits for the *next start* is named and kept as it is until then.\n\n"
		"## The file\n\n");
	add_rows(SCOPE_TOP, out);
	buf_adds(out, "## A pool\n\nThe variable sets the key under `defaults`.\n\n");
	add_rows(SCOPE_POOL, out);
	return out->len < out->max ? 0 : -ENOBUFS;
}

/* ---- JSON Schema -------------------------------------------------------------------------------- */

static void add_enum(const struct field_word *w, struct buf *out)
{
	buf_adds(out, "{\"enum\":[");
	for (bool first = true; w && w->word; w++, first = false) {
		buf_adds(out, first ? "" : ",");
		if (strcmp(w->word, "-1") == 0)
			buf_adds(out, "-1");
		else
			buf_add_json(out, view_str(w->word));
	}
	buf_adds(out, "]}");
}

static void add_type(const struct field *f, struct buf *out)
{
	static const char *const size =
		"{\"type\":[\"string\",\"integer\"],\"pattern\":\"^[0-9.]+ ?([KMGT]i?)?B?$\"}";
	static const char *const duration =
		"{\"type\":[\"string\",\"integer\"],\"pattern\":\"^([0-9.]+(ms|s|m|min|h|d)?)+$\"}";
	switch (f->type) {
	case FIELD_BOOL: buf_adds(out, "{\"type\":\"boolean\"}"); return;
	case FIELD_ENUM: add_enum(f->words, out); return;
	case FIELD_LIST:
	case FIELD_WORDS:
		buf_adds(out,
			"{\"type\":[\"string\",\"array\"],\"items\":{\"type\":[\"string\",\"number\"]}}");
		return;
	case FIELD_ENV: buf_adds(out, "{\"type\":[\"object\",\"array\"]}"); return;
	case FIELD_UINT:
	case FIELD_REPLICAS:
	case FIELD_SIZE:
	case FIELD_DURATION: break;
	default: buf_adds(out, "{\"type\":\"string\"}"); return;
	}
	if (f->words)
		buf_adds(out, "{\"anyOf\":[");
	if (f->type == FIELD_SIZE || f->type == FIELD_DURATION)
		buf_adds(out, f->type == FIELD_SIZE ? size : duration);
	else
		buf_addf(out, "{\"type\":\"integer\",\"minimum\":%llu,\"maximum\":%llu}",
			(unsigned long long)f->min, (unsigned long long)f->max);
	if (f->words) {
		buf_addc(out, ',');
		add_enum(f->words, out);
		buf_adds(out, "]}");
	}
}

struct schema {
	struct buf *out;
	enum field_scope scope;
	bool defaults; /* the pool's keys that `defaults` takes */
};

static void add_object(const struct schema *s, const char *prefix);

static void add_property(const struct schema *s, const char *path)
{
	int index = field_find(s->scope, view_str(path));
	const struct field *f = index >= 0 ? &config_fields[index] : NULL;
	bool group = field_is_group(s->scope, view_str(path)), both = f && group;
	AUTO(mem_freep) char *inner = mem_fmt("%s.", path);
	if (f && f->type == FIELD_POOLS) {
		buf_adds(s->out, "{\"type\":[\"array\",\"null\"],\"items\":{\"$ref\":\"#/$defs/pool\"}}");
		return;
	}
	if (f && f->type == FIELD_DEFAULTS) {
		buf_adds(s->out, "{\"$ref\":\"#/$defs/defaults\"}");
		return;
	}
	buf_adds(s->out, "{\"description\":");
	buf_add_json(s->out, view_str(f ? f->doc : "A group of keys."));
	if (f && f->dflt) {
		buf_adds(s->out, ",\"default\":");
		buf_add_json(s->out, view_str(f->dflt));
	}
	buf_adds(s->out, both ? ",\"anyOf\":[" : ",\"allOf\":[");
	if (f)
		add_type(f, s->out);
	buf_adds(s->out, both ? "," : "");
	if (group)
		add_object(s, inner);
	buf_adds(s->out, "]}");
}

/* The object of all keys that begin with prefix. The table keeps a group's keys together. */
static void add_object(const struct schema *s, const char *prefix)
{
	AUTO(mem_freep) char *last = NULL;
	buf_adds(s->out, "{\"type\":\"object\",\"additionalProperties\":false,\"patternProperties\":{\"^x-\":"
			 "{},\"^<<$\":{}},"
			 "\"properties\":{");
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		struct view p = view_str(f->path), rest;
		if (f->scope != s->scope || !view_starts(p, view_str(prefix)) ||
			(s->defaults && f->flags & FIELD_NO_DEFAULTS))
			continue;
		struct view seg = view_split(view_from(p, strlen(prefix)), '.', &rest);
		AUTO(mem_freep) char *path = mem_fmt("%s%.*s", prefix, VIEW_ARG(seg));
		if (last && strcmp(last, path) == 0)
			continue;
		buf_adds(s->out, last ? "," : "");
		buf_add_json(s->out, seg);
		buf_addc(s->out, ':');
		add_property(s, path);
		mem_setstr(&last, path);
	}
	buf_adds(s->out, "}}");
}

int config_schema_json(struct buf *out)
{
	struct schema top = { out, SCOPE_TOP, false }, pool = { out, SCOPE_POOL, false },
		      defaults = { out, SCOPE_POOL, true };
	buf_adds(out, "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"title\":\"Corral's "
		      "configuration\",\"allOf\":[");
	add_object(&top, "");
	buf_adds(out, "],\"$defs\":{\"pool\":");
	add_object(&pool, "");
	buf_adds(out, ",\"defaults\":");
	add_object(&defaults, "");
	buf_adds(out, "}}\n");
	return out->len < out->max ? 0 : -ENOBUFS;
}
