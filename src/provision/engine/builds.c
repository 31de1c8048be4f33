/* SPDX-License-Identifier: Apache-2.0
 *
 * All that lies here, by mode.
 */
#include "provision/engine/builds.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/source.h"

static void kept_done(struct engine_kept *k)
{
	char *all[] = { k->kind, k->name, k->path, k->version, k->backend, k->created, k->commit, k->ref,
		k->repo, k->flags, k->compiler };
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		free(all[i]);
}

void engine_kepts_done(struct engine_kepts *k)
{
	for (size_t i = 0; i < k->len; i++)
		kept_done(&k->items[i]);
	free(k->items);
	*k = (struct engine_kepts){ 0 };
}

static struct engine_kept *add(struct engine_kepts *k, enum engine_mode mode, const char *kind)
{
	k->items = mem_realloc(k->items, (k->len + 1) * sizeof *k->items);
	struct engine_kept *one = &k->items[k->len++];
	*one = (struct engine_kept){ .mode = mode, .kind = mem_strdup(kind) };
	return one;
}

static char *stamp_of(const char *path)
{
	struct stat st;
	struct tm tm;
	char text[32];
	if (stat(path, &st) < 0 || !gmtime_r(&st.st_mtim.tv_sec, &tm))
		return NULL;
	strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
	return mem_strdup(text);
}

static _Thread_local uint64_t tree_bytes;

static int count_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
	(void)path;
	(void)f;
	if (type == FTW_F)
		tree_bytes += (uint64_t)st->st_blocks * 512;
	return 0;
}

uint64_t tree_size(const char *path)
{
	tree_bytes = 0;
	(void)nftw(path, count_one, 16, FTW_PHYS);
	return tree_bytes;
}

static bool starts(const char *name, const char *with)
{
	return strncmp(name, with, strlen(with)) == 0;
}

static bool ends(const char *name, const char *with)
{
	return view_ends(view_str(name), view_str(with));
}

/* ---- source -------------------------------------------------------------------------------------- */

static void add_sources(const char *prefix_dir, struct engine_kepts *k)
{
	struct source_builds all;
	source_builds_read(prefix_dir, &all);
	for (size_t i = 0; i < all.len; i++) {
		const struct source_record *r = &all.items[i].record;
		struct engine_kept *one = add(k, ENGINE_MODE_SOURCE, "llamacpp");
		one->name = mem_strdup(r->folder);
		one->path = mem_fmt("%s/llamacpp/%s", prefix_dir, r->folder);
		one->version = mem_strdup(r->version);
		one->backend = mem_strdup(r->backend);
		one->created = mem_strdup(r->created);
		one->commit = mem_strdup(r->commit);
		one->ref = mem_strdup(r->ref);
		one->repo = mem_strdup(r->repo);
		one->flags = mem_strdup(r->flags);
		one->compiler = mem_strdup(r->compiler);
		one->current = all.items[i].current;
		one->last = all.items[i].last;
		one->bytes = all.items[i].bytes;
	}
	source_builds_done(&all);
}

/* ---- packages and archives ----------------------------------------------------------------------- */

static bool is_folder(const char *path)
{
	struct stat st;
	return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static void add_folder(struct engine_kepts *k, enum engine_mode mode, const char *kind, const char *path)
{
	struct engine_kept *one = add(k, mode, kind);
	one->name = mem_strdup(strrchr(path, '/') + 1);
	one->path = mem_strdup(path);
	one->created = stamp_of(path);
	one->bytes = tree_size(path);
	if (mode == ENGINE_MODE_PACKAGE)
		one->version = mem_strdup(one->name + sizeof "package-" - 1);
}

static void mark_package(struct engine_kepts *k, const char *file)
{
	struct package_record r;
	if (package_record_read(file, &r) < 0)
		return;
	for (size_t i = 0; i < k->len; i++) {
		struct engine_kept *one = &k->items[i];
		if (one->mode != ENGINE_MODE_PACKAGE || strcmp(one->name, r.folder) != 0)
			continue;
		mem_setstr(&one->version, r.version);
		one->current |= ends(file, ".build");
		one->last |= ends(file, ".last");
	}
	package_record_done(&r);
}

static void add_kind(const char *prefix_dir, const char *kind, struct engine_kepts *k)
{
	AUTO(mem_freep) char *dir = path_join(prefix_dir, kind);
	AUTO(strv_done) struct strv names = { 0 };
	dir_names(dir, false, &names);
	for (size_t i = 0; i < names.len; i++) {
		AUTO(mem_freep) char *path = path_join(dir, names.items[i]);
		if (starts(names.items[i], "package-") && is_folder(path))
			add_folder(k, ENGINE_MODE_PACKAGE, kind, path);
		else if (starts(names.items[i], "binary-") && is_folder(path))
			add_folder(k, ENGINE_MODE_BINARY, kind, path);
	}
	for (size_t i = 0; i < names.len; i++) {
		AUTO(mem_freep) char *path = path_join(dir, names.items[i]);
		if (starts(names.items[i], "package") &&
			(ends(names.items[i], ".build") || ends(names.items[i], ".last")))
			mark_package(k, path);
	}
}

/* ---- images -------------------------------------------------------------------------------------- */

static void add_images(const char *prefix_dir, struct engine_kepts *k)
{
	AUTO(mem_freep) char *dir = path_join(prefix_dir, "images");
	AUTO(strv_done) struct strv names = { 0 };
	dir_names(dir, false, &names);
	for (size_t i = 0; i < names.len; i++) {
		bool pin = ends(names.items[i], ".pin");
		AUTO(mem_freep) char *file = path_join(dir, names.items[i]);
		char *image = pin || ends(names.items[i], ".last") ? container_pin_read(file) : NULL;
		if (!image)
			continue;
		struct engine_kept *one = add(k, ENGINE_MODE_CONTAINER, "-");
		one->name = image;
		one->path = mem_strdup(file);
		one->version = mem_fmt("%.12s", strstr(image, "@sha256:") + 8);
		one->created = stamp_of(file);
		one->current = pin;
		one->last = !pin;
	}
}

/* ---- all ----------------------------------------------------------------------------------------- */

static int by_age(const void *a, const void *b)
{
	const struct engine_kept *x = a, *y = b;
	if (x->mode != y->mode)
		return x->mode < y->mode ? 1 : -1; /* source, package, binary; containers before them */
	int c = strcmp(y->created ? y->created : "", x->created ? x->created : "");
	return c ? c : strcmp(x->name, y->name);
}

void engine_kepts_read(const char *prefix_dir, struct engine_kepts *ret)
{
	AUTO(strv_done) struct strv kinds = { 0 };
	*ret = (struct engine_kepts){ 0 };
	add_sources(prefix_dir, ret);
	dir_names(prefix_dir, false, &kinds);
	for (size_t i = 0; i < kinds.len; i++)
		add_kind(prefix_dir, kinds.items[i], ret);
	add_images(prefix_dir, ret);
	if (ret->len)
		qsort(ret->items, ret->len, sizeof *ret->items, by_age);
}

static bool is_named(const struct engine_kept *k, const char *name)
{
	size_t n = strlen(name);
	const char *dash = strchr(k->name, '-'); /* "source-<hash>": by its hash too */
	const char *digest = strstr(k->name, "@sha256:");
	return str_same(k->version, name) || str_same(k->ref, name) || strncmp(k->name, name, n) == 0 ||
	       (k->commit && strncmp(k->commit, name, n) == 0) ||
	       (!digest && dash && strncmp(dash + 1, name, n) == 0) ||
	       (digest && strncmp(digest + 8, name, n) == 0);
}

int engine_kepts_find(const struct engine_kepts *k, const char *name, size_t *ret, struct err *reterr)
{
	bool found = false;
	for (size_t i = 0; i < k->len; i++) {
		if (!*name || !is_named(&k->items[i], name))
			continue;
		if (strcmp(k->items[i].name, name) == 0) { /* the whole name */
			*ret = i;
			return 0;
		}
		if (found)
			return err_set(reterr, -EEXIST,
				"\"%.80s\" names several builds, %s and %s: give the whole name", name,
				k->items[*ret].name, k->items[i].name);
		found = true;
		*ret = i;
	}
	return found ? 0
		     : err_set(reterr, -ENOENT, "there is no build \"%.80s\": `corral engines ls` lists them",
			       name);
}

/* Moved aside first, so that a half-removed build has no name that anybody reads. */
static int remove_folder(const struct engine_kept *k)
{
	AUTO(mem_freep)
	char *to = mem_fmt("%.*s.gone-%s", (int)(strrchr(k->path, '/') + 1 - k->path), k->path, k->name);
	tree_remove(to);
	if (rename(k->path, to) < 0)
		return -errno;
	tree_remove(to);
	return 0;
}

static void forget_package(const char *prefix_dir, const struct engine_kept *k)
{
	AUTO(mem_freep) char *dir = path_join(prefix_dir, k->kind);
	AUTO(strv_done) struct strv names = { 0 };
	dir_names(dir, false, &names);
	for (size_t i = 0; i < names.len; i++) {
		struct package_record r;
		AUTO(mem_freep) char *file = path_join(dir, names.items[i]);
		if (!starts(names.items[i], "package") || !(ends(file, ".build") || ends(file, ".last")) ||
			package_record_read(file, &r) < 0)
			continue;
		if (strcmp(r.folder, k->name) == 0)
			unlink(file);
		package_record_done(&r);
	}
}

int engine_kept_remove(const char *prefix_dir, const struct engine_kept *k, struct err *reterr)
{
	int r = k->mode != ENGINE_MODE_CONTAINER ? remove_folder(k) : unlink(k->path) < 0 ? -errno : 0;
	if (r)
		return err_set(reterr, r, "%s cannot be removed: %s", k->path, strerror(-r));
	if (k->mode == ENGINE_MODE_PACKAGE)
		forget_package(prefix_dir, k);
	return 0;
}
