/* SPDX-License-Identifier: Apache-2.0
 *
 * What lies on the disk of the source mode: builds, which of them is current, which was before.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/source.h"

#define RECORD_LAYOUT "corral-source 1"
enum { RECORD_MAX = 256 * 1024, WEEK_S = 7 * 24 * 3600 };

static const struct {
	const char *name;
	size_t offset;
	bool needed;
} fields[] = {
	{ "folder", offsetof(struct source_record, folder), true },
	{ "version", offsetof(struct source_record, version), false },
	{ "commit", offsetof(struct source_record, commit), true },
	{ "ref", offsetof(struct source_record, ref), false },
	{ "repo", offsetof(struct source_record, repo), true },
	{ "backend", offsetof(struct source_record, backend), true },
	{ "archs", offsetof(struct source_record, archs), false },
	{ "forced", offsetof(struct source_record, forced), false },
	{ "flags", offsetof(struct source_record, flags), false },
	{ "compiler", offsetof(struct source_record, compiler), false },
	{ "program", offsetof(struct source_record, program), true },
	{ "created", offsetof(struct source_record, created), false },
};

static char **field(const struct source_record *r, size_t i)
{
	return (char **)(uintptr_t)((const char *)r + fields[i].offset);
}

void source_record_done(struct source_record *r)
{
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		free(*field(r, i));
	*r = (struct source_record){ 0 };
}

static bool folder_ok(const char *name)
{
	return strncmp(name, "source-", 7) == 0 && !strchr(name, '/');
}

static bool program_ok(const char *path)
{
	return path[0] != '/' && !strstr(path, "..");
}

int source_record_read(const char *file, struct source_record *ret)
{
	AUTO(buf_done) struct buf b = BUF(RECORD_MAX);
	*ret = (struct source_record){ 0 };
	if (file_read_regular(file, &b) < 0)
		return -ENOENT;
	struct view rest = buf_view(&b);
	if (!view_eqs(view_split(rest, '\n', &rest), RECORD_LAYOUT))
		return -ENOENT;
	while (rest.p) {
		struct view value, line = view_split(rest, '\n', &rest);
		struct view name = view_split(line, ' ', &value);
		for (size_t i = 0; i < ARRAY_LEN(fields); i++)
			if (view_eqs(name, fields[i].name) && value.n && !*field(ret, i))
				*field(ret, i) = mem_viewdup(value);
	}
	bool whole = true;
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		whole &= !fields[i].needed || *field(ret, i);
	if (whole && folder_ok(ret->folder) && program_ok(ret->program))
		return 0;
	source_record_done(ret);
	return -ENOENT;
}

int source_record_write(const char *file, const struct source_record *r)
{
	AUTO(buf_done) struct buf b = BUF(RECORD_MAX);
	(void)buf_adds(&b, RECORD_LAYOUT "\n");
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		if (*field(r, i) && !strchr(*field(r, i), '\n'))
			(void)buf_addf(&b, "%s %s\n", fields[i].name, *field(r, i));
	return file_write_atomic(file, buf_view(&b), 0644, true);
}

/* ---- names --------------------------------------------------------------------------------------- */

void source_names_init(struct source_names *n, const struct source_spec *s, const char *prefix_dir)
{
	char key[STEPS_HASH_LEN + 1];
	AUTO(steps_done) struct steps asked = { 0 };
	steps_add(&asked, STEP_FETCH, s->repo, "-");
	steps_add(&asked, STEP_VERIFY, s->ref ? s->ref : "", "-");
	AUTO(buf_done) struct buf flags = BUF(RECORD_MAX);
	for (size_t i = 0; i < s->flags.len; i++)
		(void)buf_addf(&flags, "%s\n", s->flags.items[i]);
	steps_add(&asked, STEP_CONFIGURE, buf_str(&flags), "-");
	steps_hash(&asked, key);
	n->dir = path_join(prefix_dir, "llamacpp");
	n->pointer = mem_fmt("%s/source-%s.build", n->dir, key);
	n->last = mem_fmt("%s/source-%s.last", n->dir, key);
	n->lock = path_join(n->dir, "source.lock");
	n->logs = path_join(n->dir, "log");
}

void source_names_done(struct source_names *n)
{
	free(n->dir);
	free(n->pointer);
	free(n->last);
	free(n->lock);
	free(n->logs);
	*n = (struct source_names){ 0 };
}

/* ---- the current one ----------------------------------------------------------------------------- */

bool source_build_of(const struct source_names *n, const struct source_record *r, struct engine_build *ret)
{
	AUTO(mem_freep) char *folder = path_join(n->dir, r->folder);
	char *program = path_join(folder, r->program);
	struct stat st;
	if (stat(program, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & 0111)) {
		free(program);
		return false;
	}
	*ret = (struct engine_build){ .kind = ENGINE_LLAMACPP, .mode = ENGINE_MODE_SOURCE };
	ret->program = program;
	ret->version = mem_strdup(r->version);
	ret->commit = mem_strdup(r->commit);
	ret->flags = mem_strdup(r->flags);
	ret->features = mem_fmt("%s%s%s", r->backend, r->archs ? " " : "", r->archs ? r->archs : "");
	ret->cpu_only = strcmp(r->backend, engine_backend_name(ENGINE_CPU)) == 0;
	AUTO(mem_freep) char *repo = url_redact(view_str(r->repo));
	ret->why = mem_fmt("source: %s %s (%.12s) of %s, built for %s", SOURCE_TARGET,
		r->version ? r->version
		: r->ref   ? r->ref
			   : "",
		r->commit, repo, r->backend);
	return true;
}

/* Whether every word of want is in have; have NULL: it was built for whatever there is. */
static bool archs_cover(const char *have, const struct engine_device *d, size_t n)
{
	for (size_t i = 0; have && i < n; i++) {
		if (d[i].backend != ENGINE_CUDA || !d[i].arch[0])
			continue;
		char word[sizeof d[i].arch] = "";
		size_t len = 0;
		for (const char *c = d[i].arch; *c; c++)
			if (*c != '.')
				word[len++] = *c;
		bool found = false;
		for (struct view rest = view_str(have); rest.p && !found;)
			found = view_eqs(view_split(rest, ';', &rest), word);
		if (!found)
			return false;
	}
	return true;
}

static bool covers(const struct source_record *r, const struct engine_device *d, size_t n, bool cpu_instead)
{
	if (r->forced || !n)
		return true;
	if (strcmp(r->backend, engine_backend_name(ENGINE_CPU)) == 0)
		return cpu_instead;
	return strcmp(r->backend, engine_backend_name(ENGINE_CUDA)) != 0 || archs_cover(r->archs, d, n);
}

bool source_provisioned(const struct source_names *n, const struct engine_device *devices, size_t ndevices,
	bool cpu_instead, struct engine_build *ret)
{
	struct source_record r;
	if (source_record_read(n->pointer, &r) < 0)
		return false;
	bool there = covers(&r, devices, ndevices, cpu_instead) && source_build_of(n, &r, ret);
	source_record_done(&r);
	return there;
}

int source_make_current(const struct source_names *n, const struct source_record *r)
{
	struct source_record old;
	if (source_record_read(n->pointer, &old) == 0) {
		int e = strcmp(old.folder, r->folder) == 0 ? 0 : source_record_write(n->last, &old);
		source_record_done(&old);
		if (e)
			return e;
	}
	return source_record_write(n->pointer, r);
}

int source_rollback(const struct source_names *n, struct source_record *ret, struct err *reterr)
{
	struct engine_build b = { 0 };
	if (source_record_read(n->last, ret) < 0)
		return err_set(reterr, -ENOENT, "there is no build before the current one to go back to");
	if (!source_build_of(n, ret, &b)) {
		err_set(reterr, -ENOENT, "the build before, %s, is not there any more", ret->folder);
		source_record_done(ret);
		return -ENOENT;
	}
	engine_build_done(&b);
	int e = file_swap(n->pointer, n->last);
	if (!e)
		return 0;
	source_record_done(ret);
	return err_set(reterr, e, "%s cannot be written: %s", n->pointer, strerror(-e));
}

/* ---- all of them --------------------------------------------------------------------------------- */

static void add_build(struct source_builds *b, const char *dir, const char *name)
{
	AUTO(mem_freep) char *folder = path_join(dir, name);
	AUTO(mem_freep) char *file = path_join(folder, "source.build");
	struct source_build one = { 0 };
	if (source_record_read(file, &one.record) < 0)
		return;
	one.bytes = tree_size(folder);
	b->items = mem_realloc(b->items, (b->len + 1) * sizeof *b->items);
	b->items[b->len++] = one;
}

static int by_created(const void *a, const void *b)
{
	const struct source_record *x = &((const struct source_build *)a)->record;
	const struct source_record *y = &((const struct source_build *)b)->record;
	int c = view_cmp(view_str(y->created), view_str(x->created));
	return c ? c : strcmp(x->folder, y->folder);
}

static bool ends(const char *name, const char *suffix)
{
	return view_ends(view_str(name), view_str(suffix));
}

static void mark(struct source_builds *b, const char *dir, const char *pointer)
{
	AUTO(mem_freep) char *file = path_join(dir, pointer);
	struct source_record r;
	if (source_record_read(file, &r) < 0)
		return;
	for (size_t i = 0; i < b->len; i++) {
		if (strcmp(b->items[i].record.folder, r.folder) != 0)
			continue;
		b->items[i].current |= ends(pointer, ".build");
		b->items[i].last |= ends(pointer, ".last");
	}
	source_record_done(&r);
}

void source_builds_read(const char *prefix_dir, struct source_builds *ret)
{
	AUTO(mem_freep) char *dir = path_join(prefix_dir, "llamacpp");
	AUTO(strv_done) struct strv names = { 0 };
	*ret = (struct source_builds){ 0 };
	dir_names(dir, true, &names);
	for (size_t i = 0; i < names.len; i++)
		if (folder_ok(names.items[i]) && !strchr(names.items[i], '.'))
			add_build(ret, dir, names.items[i]);
	if (ret->len)
		qsort(ret->items, ret->len, sizeof *ret->items, by_created);
	for (size_t i = 0; i < names.len; i++)
		if (folder_ok(names.items[i]) &&
			(ends(names.items[i], ".build") || ends(names.items[i], ".last")))
			mark(ret, dir, names.items[i]);
}

void source_builds_done(struct source_builds *b)
{
	for (size_t i = 0; i < b->len; i++)
		source_record_done(&b->items[i].record);
	free(b->items);
	*b = (struct source_builds){ 0 };
}

void source_leftovers_remove(const char *dir, const char *const *keep, size_t nkeep)
{
	AUTO(strv_done) struct strv names = { 0 };
	dir_names(dir, true, &names);
	for (size_t i = 0; i < names.len; i++) {
		const char *name = names.items[i];
		AUTO(mem_freep) char *full = path_join(dir, name);
		struct stat st;
		bool ours = false;
		for (size_t k = 0; k < nkeep; k++)
			ours |= strcmp(name, keep[k]) == 0;
		bool gone = strncmp(name, ".gone-", 6) == 0 || strncmp(name, ".built-", 7) == 0;
		bool old = (strncmp(name, ".work-", 6) == 0 || strncmp(name, ".src-", 5) == 0) &&
			   stat(full, &st) == 0 && st.st_mtim.tv_sec + WEEK_S < time(NULL);
		if (!ours && (gone || old))
			tree_remove(full);
	}
}
