/* SPDX-License-Identifier: Apache-2.0
 *
 * Ollama's store: manifests/<registry>/<namespace>/<name>/<tag> is JSON whose layers name blobs/sha256-<hex>
 * (older: blobs/sha256:<hex>). The layer of type …image.model is the GGUF file, …image.projector its
 * projector.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/fd.h"
#include "provision/model/stores_int.h"

enum { MANIFEST_MAX = 1024 * 1024, LAYERS_MAX = 64 };

struct ollama {
	const char *root, *manifests;
};

/* The hex digits of "sha256:…", or an empty view: nothing else may become a part of a path. */
static struct view digest_hex(const char *digest)
{
	struct view v = view_str(digest);
	if (v.n != 7 + 64 || !view_starts(v, VIEW("sha256:")))
		return (struct view){ 0 };
	v = view_from(v, 7);
	for (size_t i = 0; i < v.n; i++)
		if (!strchr("0123456789abcdef", v.p[i]))
			return (struct view){ 0 };
	return v;
}

/* The blob's path, or NULL: not there. */
static char *blob_path(const struct ollama *o, struct view hex)
{
	char *path = mem_fmt("%s/blobs/sha256-%.*s", o->root, VIEW_ARG(hex));
	if (hex.n && file_exists(path))
		return path;
	free(path);
	path = mem_fmt("%s/blobs/sha256:%.*s", o->root, VIEW_ARG(hex));
	if (hex.n && file_exists(path))
		return path;
	free(path);
	return NULL;
}

/* The digest of the only layer of that type; *ret_n: how many there are. */
static struct view layer_digest(yyjson_val *root, const char *type, size_t *ret_n)
{
	struct view hex = { 0 };
	yyjson_val *layer;
	size_t i, n;
	*ret_n = 0;
	yyjson_arr_foreach(yyjson_obj_get(root, "layers"), i, n, layer)
	{
		const char *t = yyjson_get_str(yyjson_obj_get(layer, "mediaType"));
		if (i >= LAYERS_MAX || !t || strcmp(t, type) != 0)
			continue;
		if ((*ret_n)++ == 0)
			hex = digest_hex(yyjson_get_str(yyjson_obj_get(layer, "digest")));
	}
	return hex;
}

/* "registry.ollama.ai/library/llama3.2/3b" is llama3.2:3b; another namespace or registry stands before it. */
static char *short_name(const struct ollama *o, const char *dir, const char *tag, struct view *ret_name)
{
	struct view rest = view_str(dir + strlen(o->manifests));
	rest = view_from(rest, rest.n && rest.p[0] == '/' ? 1 : 0);
	struct view registry = view_split(rest, '/', &rest), space = view_split(rest, '/', &rest);
	*ret_name = rest;
	if (!registry.n || !space.n || !rest.n)
		return NULL;
	if (!view_eqs(registry, "registry.ollama.ai"))
		return mem_fmt("%.*s/%.*s/%.*s:%s", VIEW_ARG(registry), VIEW_ARG(space), VIEW_ARG(rest), tag);
	if (!view_eqs(space, "library"))
		return mem_fmt("%.*s/%.*s:%s", VIEW_ARG(space), VIEW_ARG(rest), tag);
	return mem_fmt("%.*s:%s", VIEW_ARG(rest), tag);
}

static void take(struct scan *s, const struct ollama *o, const char *manifest, const char *dir,
	const char *tag, yyjson_val *root)
{
	size_t models, projectors;
	struct view hex = layer_digest(root, "application/vnd.ollama.image.model", &models), name;
	struct view mmproj = layer_digest(root, "application/vnd.ollama.image.projector", &projectors);
	AUTO(mem_freep) char *path = blob_path(o, hex);
	AUTO(mem_freep) char *full = short_name(o, dir, tag, &name);
	if (!full || !models) {
		scan_skip(s, manifest,
			"it names no GGUF file (its weights are in another format, or elsewhere)");
		return;
	}
	if (!path) {
		scan_skip(s, manifest, "the blob it names is not there");
		return;
	}
	struct candidate *c = scan_candidate_path(s, STORE_OLLAMA, path);
	if (!c)
		return;
	c->mmproj = blob_path(o, mmproj);
	c->digest = mem_viewdup(hex);
	c->base = strcmp(tag, "latest") == 0 ? mem_viewdup(name) : mem_fmt("%.*s-%s", VIEW_ARG(name), tag);
	c->reference = mem_fmt("ollama:%s", full);
	c->repo = mem_viewdup(name);
}

static void ollama_file(struct scan *s, const char *dir, const char *tag, void *arg)
{
	const struct ollama *o = arg;
	AUTO(mem_freep) char *path = path_join(dir, tag);
	AUTO(buf_done) struct buf b = BUF(MANIFEST_MAX);
	int r = file_read_regular(path, &b);
	yyjson_doc *d = r ? NULL : yyjson_read(b.data ? b.data : "", b.len, 0);
	if (r)
		scan_skip(s, path, "the manifest cannot be read: %s", strerror(-r));
	else if (!yyjson_is_obj(yyjson_doc_get_root(d)))
		scan_skip(s, path, "the manifest is no JSON object");
	else
		take(s, o, path, dir, tag, yyjson_doc_get_root(d));
	yyjson_doc_free(d);
}

void scan_ollama(struct scan *s, const char *root)
{
	AUTO(mem_freep) char *manifests = path_join(root, "manifests");
	struct ollama o = { root, manifests };
	scan_walk(s, manifests, 5, ollama_file, &o);
}
