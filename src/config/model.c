/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pool's `model` says at a glance: something to fetch, or a file.
 */
#include "base/fd.h"
#include "base/mem.h"
#include "config/config_int.h"

/* "org/repo", "org/repo@rev:quant"; a name that ends in .gguf is a file's. */
static bool is_repository(struct view v)
{
	struct view repo, org = view_split(v, '/', &repo);
	if (!org.n || !repo.n || org.p[0] == '.' || org.p[0] == '~' || view_find(repo, '/') != repo.n)
		return false;
	struct view tag, name = view_split(repo, ':', &tag);
	return name.n && !view_ends(name, VIEW(".gguf"));
}

bool config_model_is_remote(const struct config *c, const char *ref)
{
	static const char *const schemes[] = { "hf:", "ollama:", "https://", "s3://", "oci://" };
	struct view v = view_str(ref ? ref : "");
	for (size_t i = 0; i < ARRAY_LEN(schemes); i++)
		if (view_starts(v, view_str(schemes[i])))
			return true;
	if (!v.n || view_starts(v, VIEW("file:")) || !is_repository(v))
		return false;
	AUTO(mem_freep) char *path = path_join(c->models_dir ? c->models_dir : "", ref);
	return !file_exists(path);
}
