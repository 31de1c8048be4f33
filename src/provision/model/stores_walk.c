/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "provision/model/model.h"
#include "provision/model/stores_int.h"

static void note(struct strv *to, size_t *count, char *text)
{
	if ((*count)++ < STORES_NOTES_MAX)
		strv_add(to, text);
	free(text);
}

void scan_skip(struct scan *s, const char *path, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *why = mem_vfmt(fmt, ap);
	va_end(ap);
	note(&s->ret->skipped, &s->ret->nskipped, mem_fmt("%s: %s", path, why));
}

void scan_problem(struct scan *s, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	note(&s->ret->problems, &s->ret->nproblems, mem_vfmt(fmt, ap));
	va_end(ap);
}

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool stop(struct scan *s, const char *why)
{
	s->stopped = true;
	if (why)
		scan_problem(s, "the search for models stopped early: %s", why);
	return true;
}

bool scan_late(struct scan *s)
{
	if (s->late)
		return true;
	if (s->cancel && atomic_load_explicit(s->cancel, memory_order_relaxed))
		s->late = stop(s, NULL);
	else if (mono_before(s->until, mono_now()))
		s->late = stop(s, "it took longer than 30 s");
	return s->late;
}

bool scan_over(struct scan *s)
{
	if (s->stopped)
		return true;
	if (s->entries >= STORES_ENTRIES_MAX)
		return stop(s, "there are more than 400,000 names in those folders");
	return scan_late(s);
}

/* false: entered before. */
static bool enter(struct scan *s, const struct stat *st)
{
	char key[48];
	snprintf(
		key, sizeof key, "%llx:%llx", (unsigned long long)st->st_dev, (unsigned long long)st->st_ino);
	return map_put(&s->dirs, view_str(key), s) == NULL;
}

static void visit(
	struct scan *s, const char *dir, const struct dirent *e, unsigned depth, scan_file_fn *fn, void *arg)
{
	struct stat st;
	AUTO(mem_freep) char *path = NULL;
	unsigned char type = e->d_type;
	if (type == DT_LNK || type == DT_UNKNOWN) {
		path = path_join(dir, e->d_name);
		if (stat(path, &st) < 0) {
			if (view_ends(view_str(e->d_name), VIEW(".gguf")))
				scan_skip(s, path, "it is a link to a file that is not there");
			return;
		}
		type = S_ISDIR(st.st_mode) ? DT_DIR : S_ISREG(st.st_mode) ? DT_REG : DT_UNKNOWN;
	}
	if (type == DT_REG) {
		fn(s, dir, e->d_name, arg);
	} else if (type == DT_DIR && depth > 1) {
		if (!path)
			path = path_join(dir, e->d_name);
		scan_walk(s, path, depth - 1, fn, arg);
	}
}

void scan_walk(struct scan *s, const char *dir, unsigned depth, scan_file_fn *fn, void *arg)
{
	struct stat st;
	if (stat(dir, &st) < 0) {
		if (errno != ENOENT && errno != ENOTDIR)
			scan_problem(s, "%s cannot be looked at: %s", dir, strerror(errno));
		return;
	}
	if (!S_ISDIR(st.st_mode) || !enter(s, &st))
		return;
	DIR *d = opendir(dir);
	if (!d) {
		scan_problem(s, "%s cannot be read: %s", dir, strerror(errno));
		return;
	}
	for (struct dirent *e; !scan_over(s) && (e = readdir(d));) {
		s->entries++;
		if (e->d_name[0] != '.') /* hidden, and the two that lead back */
			visit(s, dir, e, depth, fn, arg);
	}
	closedir(d);
}

void scan_list(struct scan *s, const char *dir, struct strv *ret)
{
	DIR *d = opendir(dir);
	if (!d && errno != ENOENT && errno != ENOTDIR)
		scan_problem(s, "%s cannot be read: %s", dir, strerror(errno));
	for (struct dirent *e; d && !scan_over(s) && (e = readdir(d));) {
		s->entries++;
		if (e->d_name[0] != '.')
			strv_add(ret, e->d_name);
	}
	if (d)
		closedir(d);
	if (ret->len)
		qsort(ret->items, ret->len, sizeof *ret->items, by_text);
}

/* "x.gguf" beside which a downloader keeps its own file: not whole yet, although it may have its full size.
 */
static bool being_written(const char *path)
{
	static const char *const marks[] = { ".aria2", ".part", ".incomplete", ".downloadInProgress",
		".tmp" };
	for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
		AUTO(mem_freep) char *mark = mem_fmt("%s%s", path, marks[i]);
		if (file_exists(mark))
			return true;
	}
	return false;
}

struct candidate *scan_candidate_path(struct scan *s, enum store store, const char *path)
{
	if (s->nfound == STORES_FILES_MAX) {
		if (!s->stopped)
			stop(s, "there are more than 4096 files that may be models");
		return NULL;
	}
	if (s->nfound == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 64;
		s->found = mem_realloc(s->found, s->cap * sizeof *s->found);
	}
	struct candidate *c = &s->found[s->nfound++];
	*c = (struct candidate){ .store = store, .path = mem_strdup(path) };
	return c;
}

struct candidate *scan_candidate(struct scan *s, enum store store, const char *dir, const char *name)
{
	if (!view_ends(view_str(name), VIEW(".gguf")))
		return NULL;
	AUTO(mem_freep) char *path = path_join(dir, name);
	size_t at;
	unsigned part, parts;
	if (model_split_name(path, &at, &part, &parts) && part != 1) {
		AUTO(mem_freep) char *first = mem_fmt("%.*s%05u-of-%05u.gguf", (int)at, path, 1u, parts);
		if (!file_exists(first))
			scan_skip(s, path, "its first part is not there");
		return NULL;
	}
	if (being_written(path)) {
		scan_skip(s, path, "it is still being downloaded");
		return NULL;
	}
	struct candidate *c = scan_candidate_path(s, store, path);
	if (c) {
		c->group = mem_strdup(dir);
		c->base = name_stem(name);
	}
	return c;
}

void candidate_done(struct candidate *c)
{
	free(c->path);
	free(c->group);
	free(c->owner);
	free(c->repo);
	free(c->base);
	free(c->reference);
	free(c->mmproj);
	free(c->digest);
}
