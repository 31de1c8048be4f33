/* SPDX-License-Identifier: Apache-2.0
 *
 * Manifests of registries: which of the blobs they name are a model's files. A GGUF file is known by its
 * media type, or by the title it is given.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/fd.h"
#include "provision/model/want_job_int.h"

enum { LAYERS_MAX = 1024 };

static bool ends_gguf(const char *title)
{
	return title && view_ends(view_str(title), VIEW(".gguf"));
}

/* What a layer is; -1: nothing of ours. */
static int role_of(const char *type, const char *title)
{
	static const struct {
		const char *type;
		enum want_role role;
	} known[] = {
		{ "application/vnd.ollama.image.model", WANT_WEIGHTS },
		{ "application/vnd.ollama.image.projector", WANT_MMPROJ },
		{ "application/vnd.ollama.image.adapter", WANT_LORA },
		{ "application/vnd.docker.ai.gguf.v3", WANT_WEIGHTS },
		{ "application/vnd.docker.ai.mmproj", WANT_MMPROJ },
	};
	if (ends_gguf(title) && view_search(view_str(title), VIEW("mmproj")) >= 0)
		return WANT_MMPROJ;
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (strcmp(type, known[i].type) == 0)
			return (int)known[i].role;
	return ends_gguf(title) || view_search(view_str(type), VIEW("gguf")) >= 0 ? (int)WANT_WEIGHTS : -1;
}

static int add_layer(struct want_item *it, yyjson_val *layer, const char *dir, struct err *e)
{
	const char *type = yyjson_get_str(yyjson_obj_get(layer, "mediaType"));
	const char *digest = yyjson_get_str(yyjson_obj_get(layer, "digest"));
	const char *title = yyjson_get_str(
		yyjson_obj_get(yyjson_obj_get(layer, "annotations"), "org.opencontainers.image.title"));
	int role = type ? role_of(type, title) : -1;
	if (role < 0)
		return 0;
	struct view hex = view_str(digest);
	if (!view_starts(hex, VIEW("sha256:")) || !want_is_hex(view_from(hex, 7), 64))
		return err_set(e, -EBADMSG, "the manifest of %s names a layer by no SHA-256", it->ref.text);
	const char *why = title ? want_bad_path(view_str(title)) : NULL;
	if (why)
		return err_set(e, -EBADMSG, "the manifest of %s calls a layer \"%.80s\": %s", it->ref.text,
			title, why);
	size_t same = 0;
	for (size_t i = 0; i < it->nfetch; i++)
		same += it->fetch[i].role == (enum want_role)role;
	const char *slash = title ? strrchr(title, '/') : NULL;
	static const char *const plain[] = { "model", "mmproj", "draft", "adapter", "other" };
	AUTO(mem_freep)
	char *name = ends_gguf(title) ? mem_strdup(slash ? slash + 1 : title)
		     : same           ? mem_fmt("%s-%zu.gguf", plain[role], same + 1)
				      : mem_fmt("%s.gguf", plain[role]);
	AUTO(mem_freep) char *to = path_join(dir, name);
	for (size_t i = 0; i < it->nfetch; i++)
		if (strcmp(it->fetch[i].to, to) == 0)
			return err_set(
				e, -EBADMSG, "the manifest of %s calls two layers %s", it->ref.text, name);
	struct want_file *f = want_item_add(it, (enum want_role)role, to, "");
	f->sha256 = mem_viewdup(view_from(hex, 7));
	f->size = yyjson_get_uint(yyjson_obj_get(layer, "size"));
	return 0;
}

char *want_index_first(struct view text)
{
	yyjson_doc *d = yyjson_read(text.p ? text.p : "", text.n, 0);
	yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(d), "manifests");
	const char *digest = yyjson_get_str(yyjson_obj_get(yyjson_arr_get_first(list), "digest"));
	struct view v = view_str(digest);
	char *ret = view_starts(v, VIEW("sha256:")) && want_is_hex(view_from(v, 7), 64) ? mem_strdup(digest)
											: NULL;
	yyjson_doc_free(d);
	return ret;
}

/* ---- what was pinned ----------------------------------------------------------------------------------- */

static char *index_path(const char *dir, const char *hex)
{
	return mem_fmt("%s/index-%s.json", dir, hex);
}

/* Where an index that is kept in dir leads, if it is what its name says; NULL: nowhere. */
static char *kept_index_first(const char *dir, const char *hex)
{
	AUTO(buf_done) struct buf b = BUF(WANT_DOC_MAX);
	AUTO(mem_freep) char *path = index_path(dir, hex);
	if (file_read_regular(path, &b) < 0)
		return NULL;
	AUTO(mem_freep) char *is = want_sha256_hex(buf_view(&b));
	return is && strcmp(is, hex) == 0 ? want_index_first(buf_view(&b)) : NULL;
}

bool want_is_pinned(const struct model_ref *r, const char *dir, const char *revision)
{
	AUTO(mem_freep) char *at = mem_strdup(r->tag);
	if (r->kind != MODEL_REF_OCI || !at || strncmp(at, "sha256:", 7) != 0)
		return true;
	for (int hop = 0; revision && strcmp(at, revision) != 0; hop++) {
		char *next = hop < WANT_HOPS_MAX ? kept_index_first(dir, at + 7) : NULL;
		free(at);
		at = next;
		if (!next)
			return false;
	}
	return revision != NULL;
}

int want_keep_indices(const struct want_item *it, const char *dir)
{
	int r = 0;
	for (size_t i = 0; !r && i < it->indices.len; i++) {
		AUTO(mem_freep) char *hex = want_sha256_hex(view_str(it->indices.items[i]));
		AUTO(mem_freep) char *path = hex ? index_path(dir, hex) : NULL;
		r = path ? want_write(path, view_str(it->indices.items[i]), 0644, true) : -EIO;
	}
	return r;
}

/* ---- one model ----------------------------------------------------------------------------------------- */

static int by_place(const void *pa, const void *pb)
{
	const struct want_file *a = pa, *b = pb;
	return strcmp(a->to, b->to);
}

/* One model: one file, or all parts of one that is split. */
static int check_weights(struct want_item *it, struct err *e)
{
	const char *first = NULL;
	size_t n = 0, at;
	unsigned part, parts;
	if (it->nfetch)
		qsort(it->fetch, it->nfetch, sizeof *it->fetch, by_place);
	for (size_t i = 0; i < it->nfetch; i++)
		if (it->fetch[i].role == WANT_WEIGHTS && n++ == 0)
			first = it->fetch[i].to;
	if (!n)
		return err_set(e, -ENOENT,
			"%s holds no GGUF file: its weights are in another format, or it is no model",
			it->ref.text);
	bool split = model_split_name(first, &at, &part, &parts);
	if (n != (split ? parts : 1) || (split && part != 1))
		return err_set(e, -EEXIST, "%s holds %zu GGUF files that are not the parts of one model",
			it->ref.text, n);
	return 0;
}

int want_manifest(struct view text, const struct model_ref *r, const char *dir, struct want_item *it,
	struct err *reterr)
{
	yyjson_doc *d = yyjson_read(text.p ? text.p : "", text.n, 0);
	yyjson_val *layers = yyjson_obj_get(yyjson_doc_get_root(d), "layers"), *layer;
	size_t i, n;
	int e = 0;
	if (!it->ref.text) { /* of a throw-away item: for the sentences */
		it->ref.text = mem_strdup(r->text);
		it->ref.kind = r->kind;
	}
	if (!yyjson_is_arr(layers) || yyjson_arr_size(layers) > LAYERS_MAX)
		e = err_set(reterr, -EBADMSG, "the manifest of %s is none", r->text);
	yyjson_arr_foreach(layers, i, n, layer)
	{
		if (e)
			break;
		e = add_layer(it, layer, dir, reterr);
	}
	yyjson_doc_free(d);
	e = e ? e : check_weights(it, reterr);
	AUTO(mem_freep) char *hex = want_sha256_hex(text);
	free(it->revision);
	it->revision = mem_fmt("sha256:%s", hex ? hex : "");
	return e;
}
