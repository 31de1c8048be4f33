/* SPDX-License-Identifier: Apache-2.0
 *
 * What of a reference is on this disk: in the hub's cache, llama.cpp's, the stores of Ollama and LM Studio,
 * and models_dir. The network is not asked.
 */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "provision/model/want_int.h"

static int not_here(const struct want_item *it, struct err *e)
{
	return err_set(e, -ENOENT, "model %s is not on this machine", it->ref.text);
}

/* ---- from paths to an item ----------------------------------------------------------------------------- */

/* A blob of the hub's cache is called by its digest. */
static char *digest_of(const char *path)
{
	char to[4096];
	ssize_t n = readlink(path, to, sizeof to);
	struct view v = n > 0 ? view_of(to, (size_t)n) : (struct view){ 0 };
	if (v.n > 64 && v.p[v.n - 65] == '/' && want_is_hex(view_from(v, v.n - 64), 64))
		return mem_viewdup(view_from(v, v.n - 64));
	return NULL;
}

static void take_digests(struct want_item *it)
{
	for (size_t i = 0; i < it->files.parts.len; i++) {
		AUTO(mem_freep) char *hex = digest_of(it->files.parts.items[i]);
		strv_add(&it->digests, hex ? hex : "");
	}
	it->mmproj_digest = it->mmproj ? digest_of(it->mmproj) : NULL;
}

/* Names of a folder that were picked: the item's files. */
static int take_picked(struct want_item *it, const char *dir, const struct want_names *l,
	const struct want_picked *p, enum model_want want, struct err *e)
{
	AUTO(mem_freep) char *first = path_join(dir, l->items[p->items[0]].name);
	bool gguf =
		want == MODEL_GGUF || (it->role == WANT_WEIGHTS && view_ends(view_str(first), VIEW(".gguf")));
	int r = model_resolve(first, NULL, gguf ? MODEL_GGUF : MODEL_ANY, &it->files, e);
	if (!r && p->mmproj >= 0)
		it->mmproj = path_join(dir, l->items[p->mmproj].name);
	if (!r)
		take_digests(it);
	return r;
}

/* ---- whole snapshots ----------------------------------------------------------------------------------- */

static bool has_tail(const char *name, const char *tail)
{
	return view_ends(view_str(name), view_str(tail));
}

static bool has_name(const struct want_names *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (strcmp(l->items[i].name, name) == 0)
			return true;
	return false;
}

/* Every file that an index of shards names is there. */
static bool index_is_met(const char *dir, const char *name, const struct want_names *l)
{
	AUTO(mem_freep) char *path = path_join(dir, name);
	AUTO(buf_done) struct buf b = BUF(WANT_SMALL_MAX);
	if (file_read_regular(path, &b) < 0)
		return false;
	yyjson_doc *d = yyjson_read(b.data ? b.data : "", b.len, 0);
	const char *slash = strrchr(name, '/'), *last = "";
	yyjson_val *key, *val;
	size_t i, n;
	bool met = true;
	yyjson_obj_foreach(yyjson_obj_get(yyjson_doc_get_root(d), "weight_map"), i, n, key, val)
	{
		const char *shard = yyjson_get_str(val);
		if (!shard || strcmp(shard, last) == 0)
			continue;
		last = shard;
		AUTO(mem_freep)
		char *full = mem_fmt("%.*s%s", slash ? (int)(slash - name) + 1 : 0, name, shard);
		if (!has_name(l, full)) {
			met = false;
			break;
		}
	}
	yyjson_doc_free(d);
	return met;
}

/* Nobody notes on the disk that a snapshot is whole: weights, what describes them, and all shards. Ours has
 * its config.json linked last. */
static bool snapshot_is_whole(const char *dir, const struct want_names *l)
{
	static const char *const kinds[] = { ".safetensors", ".bin", ".pt", ".pth", ".gguf" };
	bool weights = false, safe = false;
	for (size_t i = 0; i < l->n; i++) {
		safe = safe || has_tail(l->items[i].name, ".safetensors");
		for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
			weights = weights || has_tail(l->items[i].name, kinds[k]);
	}
	if (!weights || !(has_name(l, "config.json") || has_name(l, "adapter_config.json") ||
				has_name(l, "params.json")))
		return false;
	for (size_t i = 0; i < l->n; i++)
		if (has_tail(l->items[i].name, safe ? ".safetensors.index.json" : ".index.json") &&
			!index_is_met(dir, l->items[i].name, l))
			return false;
	return true;
}

static void take_snapshot(struct want_item *it, const char *dir, const struct want_names *l)
{
	it->files.path = mem_strdup(dir);
	for (size_t i = 0; i < l->n; i++) {
		AUTO(mem_freep) char *path = path_join(dir, l->items[i].name);
		strv_add(&it->files.parts, path);
		it->files.size_bytes += l->items[i].size;
	}
	take_digests(it);
}

/* ---- the hub's repositories ---------------------------------------------------------------------------- */

static int look_in(struct want_item *it, const char *dir, enum model_want want, struct err *e)
{
	struct want_names l = { 0 };
	struct want_picked p = { .mmproj = -1 };
	want_list_tree(dir, &l);
	bool whole = want == MODEL_ANY && it->role != WANT_MMPROJ && !it->ref.file && !it->ref.tag;
	int r = -ENOENT;
	if (whole && snapshot_is_whole(dir, &l)) {
		take_snapshot(it, dir, &l);
		r = 0;
	} else if (!whole) {
		r = want_pick(&l, &it->ref, it->role, want, &p, NULL);
		r = r ? -ENOENT : take_picked(it, dir, &l, &p, want, e);
	}
	want_picked_done(&p);
	want_names_done(&l);
	return r;
}

static int look_in_cache(struct want_item *it, const char *root, enum model_want want, struct err *e)
{
	AUTO(mem_freep) char *repo = want_cache_repo(root, it->ref.repo);
	AUTO(strv_done) struct strv snapshots = { 0 };
	want_snapshots(repo, it->ref.revision, &snapshots);
	for (size_t i = 0; i < snapshots.len; i++) {
		int r = look_in(it, snapshots.items[i], want, e);
		if (r == 0)
			it->revision = mem_strdup(strrchr(snapshots.items[i], '/') + 1);
		if (r != -ENOENT)
			return r;
	}
	return -ENOENT;
}

/* llama.cpp's flat cache: <org>_<repo>_<file>, "/" of a file's name became "_". */
static int look_in_flat(struct want_item *it, const char *root, struct err *e)
{
	struct want_names all = { 0 }, l = { 0 };
	struct want_picked p = { .mmproj = -1 };
	const char *slash = strchr(it->ref.repo, '/');
	AUTO(mem_freep)
	char *prefix = mem_fmt("%.*s_%s_", (int)(slash - it->ref.repo), it->ref.repo, slash + 1);
	want_list_tree(root, &all);
	for (size_t i = 0; i < all.n; i++)
		if (view_starts(view_str(all.items[i].name), view_str(prefix)))
			want_names_add(&l, all.items[i].name + strlen(prefix), all.items[i].size);
	int r = want_pick(&l, &it->ref, it->role, MODEL_GGUF, &p, NULL);
	if (r == 0) {
		AUTO(mem_freep) char *as = mem_fmt("%s/%s", root, prefix);
		AUTO(mem_freep) char *first = mem_fmt("%s%s", as, l.items[p.items[0]].name);
		r = model_resolve(first, NULL, MODEL_GGUF, &it->files, e);
		if (!r && p.mmproj >= 0)
			it->mmproj = mem_fmt("%s%s", as, l.items[p.mmproj].name);
	} else {
		r = -ENOENT;
	}
	want_picked_done(&p);
	want_names_done(&l);
	want_names_done(&all);
	return r;
}

static int hub_present(struct want_item *it, const struct model_ensure_opts *o, struct err *e)
{
	static const struct stores_roots none;
	const struct stores_roots *s = o->roots ? o->roots : &none;
	int r = -ENOENT;
	for (size_t i = 0; r == -ENOENT && i < s->hub.len; i++)
		r = look_in_cache(it, s->hub.items[i], o->want, e);
	for (size_t i = 0; r == -ENOENT && i < s->llamacpp.len; i++)
		r = look_in_cache(it, s->llamacpp.items[i], o->want, e);
	if (o->want == MODEL_ANY && !it->ref.file && !it->ref.tag)
		return r == -ENOENT ? not_here(it, e) : r;
	for (size_t i = 0; r == -ENOENT && !it->ref.revision && i < s->llamacpp.len; i++)
		r = look_in_flat(it, s->llamacpp.items[i], e);
	for (size_t i = 0; r == -ENOENT && !it->ref.revision && i < s->lmstudio.len; i++) {
		AUTO(mem_freep) char *dir = path_join(s->lmstudio.items[i], it->ref.repo);
		r = look_in(it, dir, o->want, e);
	}
	return r == -ENOENT ? not_here(it, e) : r;
}

/* ---- manifests ----------------------------------------------------------------------------------------- */

/* What a manifest names, when all of it is where it would be put: sha256-<hex> below blobs, or dir's names.
 */
static int take_manifest(
	struct want_item *it, const char *manifest, const char *dir, const char *blobs, struct err *e)
{
	AUTO(buf_done) struct buf b = BUF(WANT_DOC_MAX);
	struct want_item named = { .role = it->role };
	if (file_read_regular(manifest, &b) < 0)
		return -ENOENT;
	int r = want_manifest(buf_view(&b), &it->ref, dir, &named, NULL) ||
				!want_is_pinned(&it->ref, dir, named.revision)
			? -ENOENT
			: 0;
	AUTO(strv_done) struct strv parts = { 0 }, lora = { 0 }, digests = { 0 };
	AUTO(mem_freep) char *mmproj = NULL;
	for (size_t i = 0; !r && i < named.nfetch; i++) {
		const struct want_file *f = &named.fetch[i];
		struct stat st;
		AUTO(mem_freep)
		char *path = blobs ? mem_fmt("%s/sha256-%s", blobs, f->sha256) : mem_strdup(f->to);
		if (stat(path, &st) < 0 || (f->size && (uint64_t)st.st_size != f->size)) {
			r = -ENOENT;
		} else if (f->role == WANT_WEIGHTS) {
			strv_add(&parts, path);
			strv_add(&digests, f->sha256);
			it->files.size_bytes += (uint64_t)st.st_size;
		} else if (f->role == WANT_MMPROJ) {
			mmproj = MEM_TAKE(path);
			mem_setstr(&it->mmproj_digest, f->sha256);
		} else if (f->role == WANT_LORA) {
			strv_add(&lora, path);
		}
	}
	model_files_done(&it->files);
	if (!r)
		r = model_resolve(parts.items[0], NULL, MODEL_GGUF, &it->files, e);
	if (!r) {
		strv_copy(&it->digests, &digests);
		strv_copy(&it->lora, &lora);
		it->mmproj = MEM_TAKE(mmproj);
		it->revision = MEM_TAKE(named.revision);
	}
	want_item_done(&named);
	return r;
}

static int registry_present(struct want_item *it, const struct model_ensure_opts *o, struct err *e)
{
	int r = -ENOENT;
	if (o->models_dir) {
		AUTO(mem_freep) char *dir = want_place(&it->ref, o->models_dir);
		AUTO(mem_freep) char *manifest = path_join(dir, "manifest.json");
		r = take_manifest(it, manifest, dir, NULL, e);
	}
	bool ollama = it->ref.kind == MODEL_REF_OLLAMA && o->roots;
	for (size_t i = 0; r == -ENOENT && ollama && i < o->roots->ollama.len; i++) {
		const char *root = o->roots->ollama.items[i];
		AUTO(mem_freep)
		char *manifest = mem_fmt("%s/manifests/%s/%s/%s", root,
			it->ref.host ? it->ref.host : WANT_OLLAMA_HOST, it->ref.repo, it->ref.tag);
		AUTO(mem_freep) char *blobs = path_join(root, "blobs");
		r = take_manifest(it, manifest, root, blobs, e);
	}
	return r == -ENOENT ? not_here(it, e) : r;
}

/* ---- files --------------------------------------------------------------------------------------------- */

static int file_present(struct want_item *it, const struct model_ensure_opts *o, struct err *e)
{
	struct stat st;
	AUTO(mem_freep)
	char *path = o->models_dir || it->ref.file[0] == '/'
			     ? path_join(o->models_dir ? o->models_dir : "/", it->ref.file)
			     : mem_strdup(it->ref.file);
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return err_set(e, -EINVAL, "model %s is a device or a pipe, not a file", path);
	return model_resolve(path[0] == '/' ? path : it->ref.file, o->models_dir, o->want, &it->files, e);
}

static int placed_present(struct want_item *it, const struct model_ensure_opts *o, struct err *e)
{
	if (!o->models_dir)
		return not_here(it, e);
	AUTO(mem_freep) char *place = want_place(&it->ref, o->models_dir);
	AUTO(strv_done) struct strv parts = { 0 };
	want_parts(place, &parts);
	for (size_t i = 0; i < parts.len; i++)
		if (!file_exists(parts.items[i]))
			return not_here(it, e);
	int r = model_resolve(parts.items[0], NULL, o->want, &it->files, e);
	for (size_t i = 0; !r && i < parts.len; i++) {
		AUTO(mem_freep) char *hex = want_noted(parts.items[i]);
		strv_add(&it->digests, hex ? hex : "");
		it->unnoted = it->unnoted || !hex;
	}
	return r;
}

int want_check_given(struct want_item *it, const struct model_ensure_opts *o, struct err *reterr)
{
	if (!o->sha256 || it->role != WANT_WEIGHTS)
		return 0;
	if (it->files.parts.len != 1)
		return err_set(reterr, -EINVAL, "%s is %zu files; sha256 is of a single one", it->ref.text,
			it->files.parts.len);
	const char *path = it->files.parts.items[0];
	AUTO(mem_freep)
	char *known = it->digests.len == 1 && *it->digests.items[0] ? mem_strdup(it->digests.items[0])
								    : want_verified(o->state_dir, path);
	it->unnoted = !known;
	if (!known || strcmp(known, o->sha256) == 0)
		return 0;
	return err_set(reterr, -EBADMSG,
		"model %s lies in %s with the SHA-256 %.12s…, and the configuration says %.12s…; correct the "
		"configuration, or remove the file so that it is fetched again",
		it->ref.text, path, known, o->sha256);
}

int want_present(struct want_item *it, const struct model_ensure_opts *o, struct err *reterr)
{
	switch (it->ref.kind) {
	case MODEL_REF_FILE: return file_present(it, o, reterr);
	case MODEL_REF_HUB: return hub_present(it, o, reterr);
	case MODEL_REF_OLLAMA:
	case MODEL_REF_OCI: return registry_present(it, o, reterr);
	case MODEL_REF_HTTPS:
	case MODEL_REF_S3: break;
	}
	return placed_present(it, o, reterr);
}

/* ---- what an engine is given --------------------------------------------------------------------------- */

static void add_file(struct model_got *g, const char *role, const char *path, const char *sha256)
{
	struct stat st;
	if ((g->nfiles & (g->nfiles - 1)) == 0)
		g->files = mem_realloc(g->files, (g->nfiles ? 2 * g->nfiles : 1) * sizeof *g->files);
	g->files[g->nfiles++] = (struct model_got_file){ .role = mem_strdup(role),
		.path = mem_strdup(path),
		.sha256 = sha256 && *sha256 ? mem_strdup(sha256) : NULL,
		.size = stat(path, &st) == 0 ? (uint64_t)st.st_size : 0 };
}

static void add_parts(struct model_got *g, const struct want_item *it)
{
	for (size_t i = 0; i < it->files.parts.len; i++)
		add_file(g, want_role_name(it->role), it->files.parts.items[i],
			i < it->digests.len ? it->digests.items[i] : NULL);
}

void want_got(const struct want_item *items, size_t n, const struct model_set *s, struct model_got *ret)
{
	struct model_got g = { .reference = mem_strdup(items[0].ref.text),
		.revision = mem_strdup(items[0].revision),
		.source = mem_strdup(want_source(&items[0].ref)),
		.weights = {
			.path = mem_strdup(items[0].files.path), .size_bytes = items[0].files.size_bytes } };
	strv_copy(&g.weights.parts, &items[0].files.parts);
	for (size_t i = 0; i < n; i++) {
		const struct want_item *it = &items[i];
		add_parts(&g, it);
		if (it->role == WANT_MMPROJ)
			mem_setstr(&g.mmproj, it->files.path);
		else if (it->role == WANT_DRAFT)
			mem_setstr(&g.draft, it->files.path);
		else if (it->role == WANT_LORA)
			strv_add(&g.lora, it->files.path);
		if (it->role != WANT_WEIGHTS)
			continue;
		if (it->mmproj && !s->mmproj) {
			g.mmproj = mem_strdup(it->mmproj);
			add_file(&g, "mmproj", it->mmproj, it->mmproj_digest);
		}
		for (size_t k = 0; k < it->lora.len; k++) {
			strv_add(&g.lora, it->lora.items[k]);
			add_file(&g, "lora", it->lora.items[k], NULL);
		}
	}
	*ret = g;
}

int model_present(const struct model_set *s, const struct model_ensure_opts *o, struct model_got *ret,
	struct err *reterr)
{
	struct want_item *items;
	size_t n;
	int r = want_items(s, o, &items, &n, reterr);
	if (r)
		return r;
	for (size_t i = 0; !r && i < n; i++) {
		r = want_trust_ref(&items[i].ref, o, reterr);
		r = r ? r : want_present(&items[i], o, reterr);
		r = r ? r : want_check_given(&items[i], o, reterr);
		if (!r && items[i].unnoted && o->sha256 && items[i].role == WANT_WEIGHTS)
			r = err_set(reterr, -ENOENT, "model %s is here, and its digest is not known yet",
				items[i].ref.text);
	}
	if (!r)
		want_got(items, n, s, ret);
	want_items_done(items, n);
	return r;
}
