/* SPDX-License-Identifier: Apache-2.0 */
#include "base/stores.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

static const char *get(const char *const *env, const char *name)
{
	size_t n = strlen(name);
	for (; env && *env; env++)
		if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
			return (*env)[n + 1] ? *env + n + 1 : NULL;
	return NULL;
}

/* Relative folders would depend on where we were started. */
static void add_root(struct strv *v, const char *base, const char *rest)
{
	if (!base || base[0] != '/')
		return;
	AUTO(mem_freep) char *path = rest ? path_join(base, rest) : mem_strdup(base);
	for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
		path[n - 1] = '\0';
	if (!strv_has(v, path))
		strv_add(v, path);
}

void stores_roots_default(struct stores_roots *r, const char *const *env, const char *models_dir)
{
	env = env ? env : (const char *const *)environ;
	const char *home = get(env, "HOME"), *xdg = get(env, "XDG_CACHE_HOME");
	AUTO(mem_freep) char *own_cache = home ? path_join(home, ".cache") : NULL;
	const char *cache = xdg && xdg[0] == '/' ? xdg : own_cache;
	*r = (struct stores_roots){ 0 };
	if (get(env, "HF_HUB_CACHE"))
		add_root(&r->hub, get(env, "HF_HUB_CACHE"), NULL);
	else if (get(env, "HF_HOME"))
		add_root(&r->hub, get(env, "HF_HOME"), "hub");
	else
		add_root(&r->hub, cache, "huggingface/hub");
	if (get(env, "LLAMA_CACHE"))
		add_root(&r->llamacpp, get(env, "LLAMA_CACHE"), NULL);
	else
		add_root(&r->llamacpp, cache, "llama.cpp");
	if (get(env, "OLLAMA_MODELS")) {
		add_root(&r->ollama, get(env, "OLLAMA_MODELS"), NULL);
	} else {
		add_root(&r->ollama, home, ".ollama/models");
		add_root(&r->ollama, "/usr/share/ollama/.ollama/models", NULL);
		add_root(&r->ollama, "/var/lib/ollama/.ollama/models", NULL);
	}
	add_root(&r->lmstudio, home, ".lmstudio/models");
	add_root(&r->lmstudio, home, ".cache/lm-studio/models");
	add_root(&r->loose, models_dir, NULL);
}

void stores_roots_done(struct stores_roots *r)
{
	strv_done(&r->hub);
	strv_done(&r->llamacpp);
	strv_done(&r->ollama);
	strv_done(&r->lmstudio);
	strv_done(&r->loose);
}
