/* SPDX-License-Identifier: Apache-2.0
 *
 * The Hugging Face hub's cache, and llama.cpp's own.
 *
 *   models--<org>--<repo>/refs/<name>              a commit
 *   models--<org>--<repo>/snapshots/<commit>/…     links into blobs/, under the files' names
 *
 *   <org>_<repo>_<file>.gguf                       llama.cpp's, flat; "/" of a file's name became "_"
 *   manifest=<org>=<repo>=<tag>.json               {"ggufFile": {"rfilename"}, "mmprojFile": {"rfilename"}}
 */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "provision/model/stores_int.h"

enum { SNAPSHOTS_MAX = 64, MANIFEST_MAX = 1024 * 1024 };

struct repo {
	enum store store;
	char *dir;
	struct view owner, name; /* into the folder's name */
	const char *snapshot;    /* being walked */
	struct map seen;         /* files by their name in the repository: the first snapshot's is taken */
};

static bool is_hex(struct view v, size_t n)
{
	for (size_t i = 0; i < v.n; i++)
		if (!((v.p[i] >= '0' && v.p[i] <= '9') || (v.p[i] >= 'a' && v.p[i] <= 'f')))
			return false;
	return v.n == n;
}

/* A large file's blob is named by its SHA-256. */
static char *digest_of_link(const char *path)
{
	char to[4096];
	ssize_t n = readlink(path, to, sizeof to);
	if (n <= 0)
		return NULL;
	struct view v = view_of(to, (size_t)n);
	while (v.n && memchr(v.p, '/', v.n))
		v = view_from(v, view_find(v, '/') + 1);
	return is_hex(v, 64) ? mem_viewdup(v) : NULL;
}

static char *hub_reference(struct view owner, struct view name, const char *stem, const char *file)
{
	AUTO(mem_freep) char *quant = name_quant(stem);
	AUTO(mem_freep)
	char *repo = owner.n ? mem_fmt("%.*s/%.*s", VIEW_ARG(owner), VIEW_ARG(name)) : mem_viewdup(name);
	return quant ? mem_fmt("hf:%s:%s", repo, quant) : mem_fmt("hf:%s/%s", repo, file);
}

static void hub_file(struct scan *s, const char *dir, const char *name, void *arg)
{
	struct repo *r = arg;
	const char *below = dir + strlen(r->snapshot);
	AUTO(mem_freep) char *file = mem_fmt("%s%s%s", *below ? below + 1 : "", *below ? "/" : "", name);
	if (map_put(&r->seen, view_str(file), r))
		return;
	struct candidate *c = scan_candidate(s, r->store, dir, name);
	if (!c)
		return;
	mem_setstr(&c->group, r->dir);
	c->owner = r->owner.n ? mem_viewdup(r->owner) : NULL;
	c->repo = mem_viewdup(r->name);
	c->digest = digest_of_link(c->path);
	c->reference = hub_reference(r->owner, r->name, c->base, file);
}

struct snapshot {
	const char *name;
	int rank; /* 0: main's, 1: another ref's, 2: no ref's */
	int64_t mtime;
};

static int by_rank(const void *pa, const void *pb)
{
	const struct snapshot *a = pa, *b = pb;
	if (a->rank != b->rank)
		return a->rank < b->rank ? -1 : 1;
	if (a->mtime != b->mtime)
		return a->mtime > b->mtime ? -1 : 1;
	return strcmp(a->name, b->name);
}

/* The commit a ref names, or NULL. */
static char *read_ref(const char *refs, const char *name)
{
	AUTO(mem_freep) char *path = path_join(refs, name);
	AUTO(buf_done) struct buf b = BUF(256);
	if (file_read_regular(path, &b) < 0)
		return NULL;
	struct view v = buf_view(&b);
	while (v.n && (v.p[v.n - 1] == '\n' || v.p[v.n - 1] == '\r' || v.p[v.n - 1] == ' '))
		v.n--;
	return v.n ? mem_viewdup(v) : NULL;
}

static void rank_snapshots(struct scan *s, const struct repo *r, struct snapshot *items, size_t n)
{
	AUTO(mem_freep) char *refs = path_join(r->dir, "refs");
	AUTO(strv_done) struct strv names = { 0 };
	scan_list(s, refs, &names);
	for (size_t i = 0; i < names.len; i++) {
		AUTO(mem_freep) char *commit = read_ref(refs, names.items[i]);
		int rank = strcmp(names.items[i], "main") == 0 ? 0 : 1;
		for (size_t k = 0; commit && k < n; k++)
			if (strcmp(items[k].name, commit) == 0)
				items[k].rank = MIN(items[k].rank, rank);
	}
	qsort(items, n, sizeof *items, by_rank);
}

static void scan_repo(struct scan *s, struct repo *r)
{
	AUTO(mem_freep) char *dir = path_join(r->dir, "snapshots");
	AUTO(strv_done) struct strv names = { 0 };
	struct snapshot items[SNAPSHOTS_MAX];
	size_t n = 0;
	scan_list(s, dir, &names);
	for (size_t i = 0; i < names.len && n < SNAPSHOTS_MAX; i++) {
		struct stat st;
		AUTO(mem_freep) char *path = path_join(dir, names.items[i]);
		if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
			items[n++] = (struct snapshot){ names.items[i], 2, (int64_t)st.st_mtim.tv_sec };
	}
	rank_snapshots(s, r, items, n);
	map_init(&r->seen);
	for (size_t i = 0; i < n; i++) {
		AUTO(mem_freep) char *path = path_join(dir, items[i].name);
		r->snapshot = path;
		scan_walk(s, path, 4, hub_file, r);
	}
	map_done(&r->seen);
}

void scan_hub(struct scan *s, enum store store, const char *root)
{
	AUTO(strv_done) struct strv names = { 0 };
	scan_list(s, root, &names);
	for (size_t i = 0; i < names.len && !scan_over(s); i++) {
		struct view v = view_str(names.items[i]);
		if (!view_starts(v, VIEW("models--")))
			continue;
		v = view_from(v, 8);
		ptrdiff_t at = view_search(v, VIEW("--"));
		struct repo r = { .store = store,
			.dir = path_join(root, names.items[i]),
			.owner = at > 0 ? view_cut(v, (size_t)at) : (struct view){ 0 },
			.name = at > 0 ? view_from(v, (size_t)at + 2) : v };
		if (r.name.n)
			scan_repo(s, &r);
		free(r.dir);
	}
}

/* ---- llama.cpp's --------------------------------------------------------------------------------------- */

struct manifest {
	char *file;   /* in this folder */
	char *mmproj; /* a path; NULL = none */
	char *owner, *repo, *tag, *stem;
};
struct manifests {
	struct manifest *items;
	size_t n;
};

static char *cached_name(const struct manifest *m, const char *rfilename)
{
	char *name = mem_fmt("%s_%s_%s", m->owner, m->repo, rfilename);
	for (char *p = name; *p; p++)
		if (*p == '/')
			*p = '_';
	return name;
}

static const char *rfilename(yyjson_doc *d, const char *key)
{
	const char *name =
		yyjson_get_str(yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(d), key), "rfilename"));
	return name && *name && strlen(name) < 1024 ? name : NULL;
}

static void read_manifest(const char *root, const char *name, struct manifest *m)
{
	struct view rest = view_from(view_str(name), strlen("manifest="));
	rest.n -= strlen(".json");
	struct view owner = view_split(rest, '=', &rest), repo = view_split(rest, '=', &rest);
	AUTO(mem_freep) char *path = path_join(root, name);
	AUTO(buf_done) struct buf b = BUF(MANIFEST_MAX);
	if (!owner.n || !repo.n || !rest.n || file_read_regular(path, &b) < 0)
		return;
	yyjson_doc *d = yyjson_read(b.data ? b.data : "", b.len, 0);
	const char *file = rfilename(d, "ggufFile"), *mmproj = rfilename(d, "mmprojFile");
	if (file) {
		m->owner = mem_viewdup(owner);
		m->repo = mem_viewdup(repo);
		m->tag = mem_viewdup(rest);
		m->file = cached_name(m, file);
		const char *slash = strrchr(file, '/');
		m->stem = name_stem(slash ? slash + 1 : file);
	}
	if (file && mmproj) {
		AUTO(mem_freep) char *other = cached_name(m, mmproj);
		m->mmproj = path_join(root, other);
	}
	yyjson_doc_free(d);
}

static void llamacpp_file(struct scan *s, const char *dir, const char *name, void *arg)
{
	const struct manifests *all = arg;
	const struct manifest *m = NULL;
	struct candidate *c = scan_candidate(s, STORE_LLAMACPP, dir, name);
	if (!c)
		return;
	c->mixed = true;
	for (size_t i = 0; i < all->n && !m; i++)
		if (all->items[i].file && strcmp(all->items[i].file, name) == 0)
			m = &all->items[i];
	if (m) {
		mem_setstr(&c->base, m->stem);
		c->owner = mem_strdup(m->owner);
		c->repo = mem_strdup(m->repo);
		c->reference = mem_fmt("hf:%s/%s:%s", m->owner, m->repo, m->tag);
		c->mmproj = m->mmproj && file_exists(m->mmproj) ? mem_strdup(m->mmproj) : NULL;
		return;
	}
	/* Without a manifest: most repositories' names end in -GGUF, and the file's name follows. */
	struct view v = view_str(c->base);
	for (size_t i = 0; i + 6 < v.n; i++)
		if (view_eq_ci(view_of(v.p + i, 6), VIEW("-gguf_"))) {
			char *base = mem_viewdup(view_from(v, i + 6));
			free(c->base);
			c->base = base;
			return;
		}
}

void scan_llamacpp(struct scan *s, const char *root)
{
	AUTO(strv_done) struct strv names = { 0 };
	struct manifests all = { 0 };
	scan_hub(s, STORE_LLAMACPP, root);
	scan_list(s, root, &names);
	all.items = mem_alloc((names.len + 1) * sizeof *all.items);
	for (size_t i = 0; i < names.len && all.n < STORES_FILES_MAX; i++) {
		struct view v = view_str(names.items[i]);
		if (view_starts(v, VIEW("manifest=")) && view_ends(v, VIEW(".json")))
			read_manifest(root, names.items[i], &all.items[all.n++]);
	}
	scan_walk(s, root, 1, llamacpp_file, &all);
	for (size_t i = 0; i < all.n; i++) {
		free(all.items[i].file);
		free(all.items[i].mmproj);
		free(all.items[i].owner);
		free(all.items[i].repo);
		free(all.items[i].tag);
		free(all.items[i].stem);
	}
	free(all.items);
}
