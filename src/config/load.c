/* SPDX-License-Identifier: Apache-2.0
 *
 * One load: find the files, read them in order, put the environment and the command line on top, merge
 * `defaults` into each pool, then check what no single value shows.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "config/config_int.h"

enum { DROP_INS_MAX = 256 };

/* ---- lifetime ----------------------------------------------------------------------------------- */

void pool_init(struct config_pool *p)
{
	*p = (struct config_pool){ 0 };
	p->from = mem_alloc(config_nfields * sizeof *p->from);
}

void config_copy_fields(enum field_scope scope, void *to, const void *from)
{
	for (size_t i = 0; i < config_nfields; i++)
		if (config_fields[i].scope == scope)
			value_copy(&config_fields[i], to, from);
}

static void done_fields(enum field_scope scope, void *base)
{
	for (size_t i = 0; i < config_nfields; i++)
		if (config_fields[i].scope == scope)
			value_done(&config_fields[i], base);
}

void pool_copy(struct config_pool *to, const struct config_pool *from)
{
	config_copy_fields(SCOPE_POOL, to, from);
	memcpy(to->from, from->from, config_nfields * sizeof *to->from);
}

void pool_done(struct config_pool *p)
{
	done_fields(SCOPE_POOL, p);
	free(p->from);
	p->from = NULL;
}

struct config *config_new(void)
{
	struct config *c = NEW(struct config);
	c->refs = 1;
	c->from = mem_alloc(config_nfields * sizeof *c->from);
	return c;
}

struct config *config_ref(struct config *c)
{
	__atomic_add_fetch(&c->refs, 1, __ATOMIC_RELAXED);
	return c;
}

struct config *config_unref(struct config *c)
{
	if (!c || __atomic_sub_fetch(&c->refs, 1, __ATOMIC_ACQ_REL))
		return NULL;
	for (size_t i = 0; i < c->npools; i++)
		pool_done(&c->pools[i]);
	free(c->pools);
	pool_done(&c->defaults);
	done_fields(SCOPE_TOP, c);
	free(c->from);
	strv_done(&c->files);
	strv_done(&c->names);
	free(c);
	return NULL;
}

void config_unrefp(struct config **c)
{
	*c = config_unref(*c);
}

/* ---- origins ------------------------------------------------------------------------------------ */

const char *config_intern(struct config *c, const char *name)
{
	struct strv *names = &c->names;
	for (size_t i = 0; i < names->len; i++)
		if (strcmp(names->items[i], name) == 0)
			return names->items[i];
	strv_add(names, name);
	return names->items[names->len - 1];
}

const char *load_intern(struct loader *ld, const char *name)
{
	return config_intern(ld->cfg, name);
}

struct config_origin load_origin(struct loader *ld, const struct ydoc *d, const struct ynode *n)
{
	return (struct config_origin){ CONFIG_FROM_FILE, load_intern(ld, d->name), n->line, n->column,
		n->width };
}

/* ---- files -------------------------------------------------------------------------------------- */

static char *folder_of(const char *path)
{
	AUTO(mem_freep) char *cwd = getcwd(NULL, 0);
	AUTO(mem_freep) char *full = path_join(cwd ? cwd : "/", path);
	char *slash = strrchr(full, '/');
	if (slash)
		slash[slash == full] = '\0';
	return MEM_TAKE(full);
}

static struct ydoc *doc_add(struct loader *ld, const char *name)
{
	ld->docs = mem_realloc(ld->docs, (ld->ndocs + 1) * sizeof *ld->docs);
	struct ydoc *d = &ld->docs[ld->ndocs++];
	*d = (struct ydoc){
		.name = mem_strdup(name), .folder = folder_of(name), .text = BUF(CONFIG_FILE_MAX)
	};
	return d;
}

static void doc_fail(struct loader *ld, const char *name, const char *what)
{
	struct config_origin o = { CONFIG_FROM_FILE, name, 0, 0, 0 };
	load_fail(ld, &o, "", "%s", what);
}

static void read_file(struct loader *ld, const char *path)
{
	struct ydoc *d = doc_add(ld, path);
	int r = file_read(path, &d->text);
	if (r == -EFBIG) {
		doc_fail(ld, path, "the file is larger than 1 MiB; a configuration is not");
	} else if (r) {
		AUTO(mem_freep)
		char *msg =
			mem_fmt("cannot be read: %s; name an existing file with --config or CORRAL_CONFIG",
				strerror(-r));
		doc_fail(ld, path, msg);
	} else if (ld->src->not_empty && !d->text.len) {
		doc_fail(ld, path,
			"the file is empty, as if it were being written; for no pools write pools: []");
	} else {
		strv_add(&ld->cfg->files, path);
		if (ydoc_parse(ld, d))
			d->root = NULL;
	}
}

static int is_yaml(const struct dirent *e)
{
	struct view n = view_str(e->d_name);
	return n.n && n.p[0] != '.' && (view_ends(n, VIEW(".yaml")) || view_ends(n, VIEW(".yml")));
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_folder(struct loader *ld, const char *dir)
{
	struct dirent **names = NULL;
	int n = scandir(dir, &names, is_yaml, by_name);
	for (int i = 0; i < n; i++) {
		AUTO(mem_freep) char *path = path_join(dir, names[i]->d_name);
		if (i < DROP_INS_MAX)
			read_file(ld, path);
		free(names[i]);
	}
	free(names);
}

static bool try_file(struct loader *ld, const char *path)
{
	if (access(path, F_OK) < 0)
		return false;
	read_file(ld, path);
	return true;
}

void config_places_done(struct config_places *p)
{
	strv_done(&p->files);
	strv_done(&p->folders);
}

/* A named file is the only place. Else the first file that is there is read, and with the last one, which is
 * the system's, what lies in the folder. */
void config_places(const struct config_source *src, struct config_places *ret)
{
	const char *named = src->path ? src->path : source_env(src, "CORRAL_CONFIG");
	*ret = (struct config_places){ 0 };
	if (named) {
		strv_add(&ret->files, named);
		return;
	}
	const char *xdg = source_env(src, "XDG_CONFIG_HOME"), *home = source_env(src, "HOME");
	struct view rest, v = view_str(source_env(src, "CONFIGURATION_DIRECTORY"));
	AUTO(mem_freep)
	char *base = xdg && xdg[0] == '/' ? mem_strdup(xdg) : home ? path_join(home, ".config") : NULL;
	AUTO(mem_freep) char *user = base ? path_join(base, "corral/corral.yaml") : NULL;
	AUTO(mem_freep) char *dir = v.n ? mem_viewdup(view_split(v, ':', &rest)) : mem_strdup("/etc/corral");
	AUTO(mem_freep) char *system = path_join(dir, "corral.yaml");
	AUTO(mem_freep) char *more = path_join(dir, "corral.d");
	strv_add(&ret->files, "corral.yaml");
	if (user)
		strv_add(&ret->files, user);
	strv_add(&ret->files, system);
	strv_add(&ret->folders, more);
}

static void read_text(struct loader *ld)
{
	struct ydoc *d = doc_add(ld, ld->src->path ? ld->src->path : "corral.yaml");
	strv_add(&ld->cfg->files, d->name);
	if (buf_addv(&d->text, ld->src->text))
		doc_fail(ld, d->name, "the file is larger than 1 MiB; a configuration is not");
	else if (ydoc_parse(ld, d))
		d->root = NULL;
}

static void read_files(struct loader *ld)
{
	AUTO(config_places_done) struct config_places p = { 0 };
	if (ld->src->text.p) {
		read_text(ld);
		return;
	}
	config_places(ld->src, &p);
	if (!p.folders.len) { /* named: it has to be there */
		read_file(ld, p.files.items[0]);
		return;
	}
	for (size_t i = 0; i + 1 < p.files.len; i++)
		if (try_file(ld, p.files.items[i]))
			return;
	try_file(ld, p.files.items[p.files.len - 1]);
	read_folder(ld, p.folders.items[0]);
}

/* ---- values ------------------------------------------------------------------------------------- */

static void set_default(struct loader *ld, const struct field *f, void *base)
{
	AUTO(buf_done) struct buf why = BUF(256);
	if (!f->dflt || f->flags & FIELD_ALIAS)
		return;
	struct value_ctx ctx = { ld->home, NULL };
	int r = value_set(f, base, view_str(f->dflt), &ctx, &why);
	assert(r == 0);
	(void)r;
}

static void set_defaults(struct loader *ld)
{
	for (size_t i = 0; i < config_nfields; i++)
		set_default(ld, &config_fields[i],
			config_fields[i].scope == SCOPE_TOP ? (void *)ld->cfg : (void *)&ld->base);
	ld->cfg->state_dir = default_dir(ld->src, CONFIG_DIR_STATE);
	ld->cfg->runtime_dir = default_dir(ld->src, CONFIG_DIR_RUNTIME);
	ld->cfg->models_dir = default_dir(ld->src, CONFIG_DIR_MODELS);
}

/* The value of a key of the root, or NULL. */
static const struct ynode *root_value(const struct ydoc *d, const char *key)
{
	for (size_t i = 0; d->root && d->root->kind == Y_MAP && i + 1 < d->root->n; i += 2)
		if (d->root->items[i]->kind == Y_SCALAR && strcmp(d->root->items[i]->text, key) == 0)
			return d->root->items[i + 1];
	return NULL;
}

static bool is_null(const struct ynode *n)
{
	return n->kind == Y_SCALAR && n->plain &&
	       (!n->text[0] || strcmp(n->text, "null") == 0 || strcmp(n->text, "~") == 0);
}

static void fail_kind(
	struct loader *ld, const struct ydoc *d, const struct ynode *n, const char *key, const char *accepted)
{
	struct config_origin o = load_origin(ld, d, n);
	const char *found = n->kind == Y_LIST  ? "a list"
			    : n->kind == Y_MAP ? "a mapping"
			    : is_null(n)       ? "nothing"
					       : n->text;
	load_fail(ld, &o, key, "found %.80s; accepted: %s", found, accepted);
}

static void apply_env(struct loader *ld, const struct target *t)
{
	for (size_t i = 0; i < config_nfields; i++) {
		const struct field *f = &config_fields[i];
		bool skip = f->scope != t->scope || f->type == FIELD_POOLS || f->type == FIELD_DEFAULTS ||
			    (t->scope == SCOPE_POOL && f->flags & FIELD_NO_DEFAULTS);
		AUTO(buf_done) struct buf name = BUF(128);
		field_env_name(f, &name);
		const char *v = skip ? NULL : source_env(ld->src, buf_str(&name));
		if (!v)
			continue;
		struct config_origin o = { CONFIG_FROM_ENV, load_intern(ld, buf_str(&name)), 0, 0, 0 };
		walk_text(ld, (int)i, t, view_str(v), &o, buf_str(&name));
	}
}

/* Applies the overrides that begin with prefix; the rest of the key is the field. */
static void apply_overrides(struct loader *ld, const struct target *t, const char *prefix)
{
	struct config_origin o = { CONFIG_FROM_COMMAND_LINE, load_intern(ld, "command line"), 0, 0, 0 };
	for (size_t i = 0; i < ld->src->noverrides; i++) {
		struct view value, key = view_split(view_str(ld->src->overrides[i]), '=', &value);
		if (!value.p || !view_starts(key, view_str(prefix)))
			continue;
		int f = field_find(t->scope, view_from(key, strlen(prefix)));
		if (f < 0)
			continue;
		AUTO(mem_freep) char *k = mem_viewdup(key);
		if (strcmp(prefix, "defaults.") == 0 && config_fields[f].flags & FIELD_NO_DEFAULTS)
			load_fail(ld, &o, k, "this belongs to one pool alone; write pools.ID.%s",
				config_fields[f].path);
		else
			walk_text(ld, f, t, value, &o, k);
	}
}

static bool override_known(const struct loader *ld, struct view key)
{
	if (view_starts(key, VIEW("defaults.")))
		return field_find(SCOPE_POOL, view_from(key, 9)) >= 0;
	if (!view_starts(key, VIEW("pools.")))
		return field_find(SCOPE_TOP, key) >= 0;
	for (size_t i = 0; i < ld->cfg->npools; i++) {
		struct view id = view_str(ld->cfg->pools[i].id), rest = view_from(key, 6);
		if (id.n && view_starts(rest, id) && rest.n > id.n && rest.p[id.n] == '.' &&
			field_find(SCOPE_POOL, view_from(rest, id.n + 1)) >= 0)
			return true;
	}
	return false;
}

static void check_overrides(struct loader *ld)
{
	struct config_origin o = { CONFIG_FROM_COMMAND_LINE, load_intern(ld, "command line"), 0, 0, 0 };
	for (size_t i = 0; i < ld->src->noverrides; i++) {
		struct view value, key = view_split(view_str(ld->src->overrides[i]), '=', &value);
		AUTO(mem_freep) char *k = mem_viewdup(view_cut(key, 100));
		if (!value.p)
			load_fail(ld, &o, k, "an override is written key=value, as in log.level=debug");
		else if (!override_known(ld, key))
			load_fail(ld, &o, k,
				"there is no such key; accepted: a key of the file, defaults.KEY or "
				"pools.ID.KEY");
	}
}

/* ---- pools -------------------------------------------------------------------------------------- */

static void load_pool(struct loader *ld, const struct ydoc *d, const struct ynode *n)
{
	struct config *c = ld->cfg;
	char label[32];
	snprintf(label, sizeof label, "pools[%zu]", c->npools);
	if (n->kind != Y_MAP) {
		fail_kind(ld, d, n, label, "a mapping, as in {id: chat, model: chat.gguf}");
		return;
	}
	struct config_pool *p = &c->pools[c->npools++];
	pool_init(p);
	pool_copy(p, &ld->base);
	p->at = load_origin(ld, d, n);
	struct target t = { SCOPE_POOL, p, p->from, label };
	walk_map(ld, d, n, &t);
	if (!p->id)
		return;
	AUTO(mem_freep) char *prefix = mem_fmt("pools.%s.", p->id);
	apply_overrides(ld, &t, prefix);
}

static void load_pools(struct loader *ld, const struct ydoc *d)
{
	struct config *c = ld->cfg;
	const struct ynode *list = root_value(d, "pools");
	if (!list || is_null(list))
		return;
	if (list->kind != Y_LIST) {
		fail_kind(ld, d, list, "pools", "a list of pools, as in [{id: chat, model: chat.gguf}]");
		return;
	}
	if (c->npools + list->n > CONFIG_POOLS_MAX) {
		fail_kind(ld, d, list, "pools", "at most 1024 pools");
		return;
	}
	c->pools = mem_realloc(c->pools, (c->npools + list->n + 1) * sizeof *c->pools);
	for (size_t i = 0; i < list->n; i++)
		load_pool(ld, d, list->items[i]);
}

static void load_base(struct loader *ld)
{
	struct target t = { SCOPE_POOL, &ld->base, ld->base.from, "defaults" };
	for (size_t i = 0; i < ld->ndocs; i++) {
		const struct ynode *n = root_value(&ld->docs[i], "defaults");
		if (n && n->kind == Y_MAP)
			walk_map(ld, &ld->docs[i], n, &t);
		else if (n && !is_null(n))
			fail_kind(
				ld, &ld->docs[i], n, "defaults", "a mapping of pool keys, as in {ctx: 8192}");
	}
	apply_env(ld, &t);
	apply_overrides(ld, &t, "defaults.");
}

static void load_top(struct loader *ld)
{
	struct target t = { SCOPE_TOP, ld->cfg, ld->cfg->from, "" };
	for (size_t i = 0; i < ld->ndocs; i++) {
		const struct ydoc *d = &ld->docs[i];
		if (d->root && d->root->kind == Y_MAP)
			walk_map(ld, d, d->root, &t);
		else if (d->root && !is_null(d->root))
			fail_kind(ld, d, d->root, "", "keys and values, as in \"listen: 127.0.0.1:8080\"");
	}
	apply_env(ld, &t);
	apply_overrides(ld, &t, "");
}

/* In the order of the lines, each file's together; what is in no file stays where it is. */
static void sort_errors(struct config_errors *e)
{
	for (size_t i = 1; i < e->len; i++) {
		struct config_error x = e->items[i];
		size_t j = i;
		for (; j > 0 && x.file && e->items[j - 1].file && strcmp(x.file, e->items[j - 1].file) == 0;
			j--) {
			const struct config_error *y = &e->items[j - 1];
			if (y->line < x.line || (y->line == x.line && y->column <= x.column))
				break;
			e->items[j] = e->items[j - 1];
		}
		e->items[j] = x;
	}
}

/* What was read of it, whatever is wrong with it. */
static struct config *load(const struct config_source *src, struct config_errors *errs)
{
	struct loader ld = { .src = src, .errs = errs, .home = source_env(src, "HOME") };
	ld.cfg = config_new();
	pool_init(&ld.base);
	set_defaults(&ld);
	read_files(&ld);
	load_top(&ld);
	load_base(&ld);
	for (size_t i = 0; i < ld.ndocs; i++)
		load_pools(&ld, &ld.docs[i]);
	check_overrides(&ld);
	check_all(&ld);
	ld.cfg->defaults = ld.base;
	for (size_t i = 0; i < ld.ndocs; i++)
		ydoc_done(&ld.docs[i]);
	free(ld.docs);
	sort_errors(errs);
	return ld.cfg;
}

int config_load(const struct config_source *src, struct config **ret, struct config_errors *ret_errs)
{
	struct config *c = load(src, ret_errs);
	if (ret_errs->len) {
		config_unref(c);
		return -EINVAL;
	}
	*ret = c;
	return 0;
}

char *config_runtime_dir(const struct config_source *src)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(config_unrefp) struct config *c = load(src, &errs);
	return mem_strdup(c->runtime_dir);
}
