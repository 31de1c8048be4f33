/* SPDX-License-Identifier: Apache-2.0
 *
 * Files of the package mode: what apt would fetch, where things lie in the unpacked tree, and taking
 * trees away. The functions marked "offload" touch nothing but their arguments.
 */
#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/num.h"
#include "provision/engine/engine_int.h"

void package_files_done(struct package_files *f)
{
	for (size_t i = 0; i < f->n; i++)
		free(f->items[i].name);
	free(f->items);
	free(f->version);
	*f = (struct package_files){ 0 };
}

static bool deb_name_ok(struct view v)
{
	if (v.n < 5 || v.n > 255 || v.p[0] == '.' || v.p[0] == '-' || !view_ends(v, VIEW(".deb")))
		return false;
	for (size_t i = 0; i < v.n; i++) {
		char c = v.p[i];
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
		if (!letter && !strchr(".+~%_:-", c))
			return false;
	}
	return true;
}

/* 'URI' NAME SIZE SHA256:HEX */
static bool file_parse(struct view line, struct package_file *ret)
{
	struct view rest = view_from(line, 1);
	size_t quote = view_find(rest, '\'');
	rest = view_trim(view_from(rest, quote + 1));
	struct view name = view_split(rest, ' ', &rest);
	struct view size = view_split(rest, ' ', &rest);
	struct view hash = view_trim(rest);
	if (!deb_name_ok(name) || num_u64(size, &ret->size) < 0 || !view_starts(hash, VIEW("SHA256:")) ||
		hash.n != 7 + 64)
		return false;
	for (size_t i = 0; i < 64; i++) {
		char c = hash.p[7 + i];
		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		ret->sha256[i] = c;
	}
	ret->sha256[64] = '\0';
	ret->name = mem_viewdup(name);
	return true;
}

/* llama.cpp-tools_1%3a0.7.0+dfsg-2_amd64.deb → 0.7.0+dfsg-2 */
static char *version_of(const char *name)
{
	struct view rest = view_str(name);
	if (!view_eqs(view_split(rest, '_', &rest), "llama.cpp-tools"))
		return NULL;
	struct view version = view_split(rest, '_', &rest);
	ptrdiff_t epoch = view_search(version, VIEW("%3a"));
	if (epoch >= 0)
		version = view_from(version, (size_t)epoch + 3);
	return version.n && view_find(version, '%') == version.n ? mem_viewdup(version) : NULL;
}

int package_files_parse(struct view text, struct package_files *ret, struct err *reterr)
{
	struct package_files f = { 0 };
	struct view rest = text;
	int r = 0;
	while (rest.p && !r) {
		struct view line = view_split(rest, '\n', &rest);
		struct package_file one = { 0 };
		if (!view_starts(line, VIEW("'")))
			continue;
		if (f.n == PACKAGE_FILES_MAX) {
			r = err_set(reterr, -E2BIG,
				"apt wants to fetch more than %d packages for llama.cpp, which cannot be "
				"right",
				PACKAGE_FILES_MAX);
		} else if (!file_parse(line, &one)) {
			r = err_set(reterr, -EBADMSG,
				"apt names a package in a way that is not understood: %.*s",
				VIEW_ARG(view_cut(line, 200)));
		} else {
			f.items = mem_realloc(f.items, (f.n + 1) * sizeof *f.items);
			f.items[f.n++] = one;
			if (!f.version)
				f.version = version_of(one.name);
		}
	}
	if (!r && !f.version)
		r = err_set(reterr, -ENOENT,
			"apt names no llama.cpp-tools package to fetch; set engine.package.suite to a "
			"release that has it");
	if (r) {
		package_files_done(&f);
		return r;
	}
	*ret = f;
	return 0;
}

/* ---- the unpacked tree ----------------------------------------------------------------------- */

/* The first entry of root/dir (in the order of names) whose name starts with prefix; relative to root. */
static char *entry_find(const char *root, const char *dir, const char *prefix)
{
	AUTO(mem_freep) char *full = path_join(root, dir);
	DIR *d = opendir(full);
	AUTO(mem_freep) char *best = NULL;
	for (struct dirent *e; d && (e = readdir(d));)
		if (e->d_name[0] != '.' && strncmp(e->d_name, prefix, strlen(prefix)) == 0 &&
			(!best || strcmp(e->d_name, best) < 0))
			mem_setstr(&best, e->d_name);
	if (d)
		closedir(d);
	return best ? path_join(dir, best) : NULL;
}

/* usr/lib/<triplet> is where the loader lies as a plain file. */
static char *libraries_find(const char *root, char **ret_loader)
{
	AUTO(mem_freep) char *lib = path_join(root, "usr/lib");
	DIR *d = opendir(lib);
	char *found = NULL;
	for (struct dirent *e; d && !found && (e = readdir(d));) {
		if (e->d_name[0] == '.' || !strchr(e->d_name, '-'))
			continue;
		AUTO(mem_freep) char *dir = path_join("usr/lib", e->d_name);
		char *loader = entry_find(root, dir, "ld-linux");
		if (!loader)
			loader = entry_find(root, dir, "ld64");
		if (!loader)
			continue;
		*ret_loader = loader;
		found = MEM_TAKE(dir);
	}
	if (d)
		closedir(d);
	return found;
}

int package_layout_find(const char *root, struct package_record *ret, struct err *reterr)
{
	AUTO(mem_freep) char *program = path_join(root, "usr/bin/llama-server");
	AUTO(mem_freep) char *loader = NULL;
	AUTO(mem_freep) char *lib = libraries_find(root, &loader);
	AUTO(mem_freep) char *ggml = lib ? path_join(lib, "ggml") : NULL;
	AUTO(mem_freep) char *backends = ggml ? entry_find(root, ggml, "backends") : NULL;
	const char *missing = access(program, X_OK) < 0 ? "usr/bin/llama-server"
			      : !lib                    ? "a dynamic loader"
			      : !backends               ? "a folder of ggml back ends"
							: NULL;
	if (missing)
		return err_set(reterr, -ENOENT,
			"the unpacked packages have no %s where it is looked for; this release is laid out "
			"in a way that is "
			"not known yet: set engine.package.suite to another one, or engine.path",
			missing);
	mem_setstr(&ret->program, "usr/bin/llama-server");
	free(ret->library_path);
	ret->library_path = mem_fmt("%s:%s/llama", lib, lib);
	free(ret->loader);
	ret->loader = MEM_TAKE(loader);
	free(ret->backends);
	ret->backends = MEM_TAKE(backends);
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	(void)remove(path);
	return 0;
}

void tree_remove(const char *path)
{
	(void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void package_leftovers_remove(const char *dir)
{
	AUTO(strv_done) struct strv names = { 0 };
	dir_names(dir, true, &names);
	for (size_t i = 0; i < names.len; i++) {
		AUTO(mem_freep) char *full = path_join(dir, names.items[i]);
		if (strncmp(names.items[i], ".new-", 5) == 0)
			tree_remove(full);
	}
}
