/* SPDX-License-Identifier: Apache-2.0
 *
 * Taking a model's files off the disk.
 */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "node/models_int.h"
#include "provision/model/want.h"

enum { DEPTH_MAX = 8, NAMES_MAX = 100000 };

static bool is_inside(const char *real, const char *folder)
{
	AUTO(mem_freep) char *root = realpath(folder, NULL);
	size_t n = root ? strlen(root) : 0;
	return n > 1 && strncmp(real, root, n) == 0 && real[n] == '/';
}

static bool inside_one(const char *real, const struct strv *folders)
{
	for (size_t i = 0; i < folders->len; i++)
		if (is_inside(real, folders->items[i]))
			return true;
	return false;
}

bool catalog_in_stores(const struct stores_roots *r, const char *path)
{
	AUTO(mem_freep) char *real = realpath(path, NULL);
	return real && r &&
	       (inside_one(real, &r->loose) || inside_one(real, &r->hub) || inside_one(real, &r->llamacpp) ||
		       inside_one(real, &r->ollama) || inside_one(real, &r->lmstudio));
}

/* Links below dir that lead to blob. */
static bool any_link_to(const char *dir, const char *blob, int depth, unsigned *names)
{
	DIR *d = depth ? opendir(dir) : NULL;
	bool found = depth == 0; /* too deep to know: it stays */
	struct dirent *e;
	while (d && !found && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		AUTO(mem_freep) char *path = path_join(dir, e->d_name);
		struct stat st;
		if (++*names > NAMES_MAX) {
			found = true;
		} else if (lstat(path, &st) < 0) {
			continue;
		} else if (S_ISDIR(st.st_mode)) {
			found = any_link_to(path, blob, depth - 1, names);
		} else if (S_ISLNK(st.st_mode)) {
			AUTO(mem_freep) char *to = realpath(path, NULL);
			found = to && strcmp(to, blob) == 0;
		}
	}
	if (d)
		closedir(d);
	return found;
}

static bool others_have(const struct catalog_models *others, const char *self, const char *path)
{
	for (size_t i = 0; i < others->len; i++) {
		const struct catalog_model *m = &others->items[i];
		for (size_t k = 0; strcmp(m->id, self) != 0 && k < m->nfiles; k++)
			if (m->files[k].path && strcmp(m->files[k].path, path) == 0)
				return true;
	}
	return false;
}

static void remove_one(const char *path, uint64_t *bytes, struct strv *problems)
{
	struct stat st;
	if (lstat(path, &st) < 0)
		return;
	if (unlink(path) < 0)
		strv_addf(problems, "%s cannot be removed: %s", path, strerror(errno));
	else if (S_ISREG(st.st_mode))
		*bytes += (uint64_t)st.st_blocks * 512;
}

/* In a hub's cache a name is a link to a blob, which other revisions may share. */
static void remove_blob(const char *path, const char *blob, uint64_t *bytes, struct strv *problems)
{
	const char *at = strstr(path, "/snapshots/");
	unsigned names = 0;
	if (!at)
		return; /* somebody's own link: what it points to is theirs */
	AUTO(mem_freep) char *snapshots = mem_fmt("%.*s/snapshots", (int)(at - path), path);
	AUTO(mem_freep) char *blobs = mem_fmt("%.*s/blobs", (int)(at - path), path);
	if (is_inside(blob, blobs) && !any_link_to(snapshots, blob, DEPTH_MAX, &names))
		remove_one(blob, bytes, problems);
}

/* Empty folders above it go too, up to four: revision, snapshots, blobs are the hub's. */
static void tidy_above(const char *path)
{
	AUTO(mem_freep) char *dir = mem_strdup(path);
	if (!strstr(path, "/snapshots/"))
		return;
	for (int i = 0; i < 4; i++) {
		char *slash = strrchr(dir, '/');
		if (!slash || slash == dir)
			return;
		*slash = '\0';
		if (view_ends(view_str(dir), VIEW("/snapshots")) || rmdir(dir) < 0)
			return;
	}
}

uint64_t catalog_remove_files(
	const struct catalog_model *m, const struct catalog_models *others, struct strv *problems)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < m->nfiles; i++) {
		const char *path = m->files[i].path;
		struct stat st;
		if (!path || path[0] != '/' || others_have(others, m->id, path) || lstat(path, &st) < 0)
			continue;
		AUTO(mem_freep) char *blob = S_ISLNK(st.st_mode) ? realpath(path, NULL) : NULL;
		if (!S_ISLNK(st.st_mode) && !S_ISREG(st.st_mode))
			continue;
		model_note_drop(path);
		remove_one(path, &bytes, problems);
		if (blob)
			remove_blob(path, blob, &bytes, problems);
		tidy_above(path);
	}
	return bytes;
}
