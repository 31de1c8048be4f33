/* SPDX-License-Identifier: Apache-2.0
 *
 * Where models of this machine lie: the folders of the programs that fetch models, and models_dir. Names
 * alone: nothing is opened here. Who looks through them is provision; who asks whether a file lies in one of
 * them is the API.
 */
#ifndef BASE_STORES_H
#define BASE_STORES_H

#include "base/strv.h"

/* Folders to look through; one that is not there is no problem. */
struct stores_roots {
	struct strv hub;      /* Hugging Face hub caches: models--<org>--<repo>/… */
	struct strv llamacpp; /* llama.cpp's cache: files and manifests, or a hub cache in newer builds */
	struct strv ollama;   /* manifests/ and blobs/ */
	struct strv lmstudio; /* <publisher>/<repo>/<file>.gguf */
	struct strv loose;    /* models_dir: any tree of .gguf files */
	unsigned id_max;      /* for who looks through them: bytes an id may have; 0 = 64 */
};
void stores_roots_done(struct stores_roots *r);
/* From HF_HUB_CACHE, HF_HOME, LLAMA_CACHE, XDG_CACHE_HOME, OLLAMA_MODELS and HOME, as those programs read
 * them; without OLLAMA_MODELS also where Ollama's service keeps its own. env: NULL-terminated; NULL = the
 * process's. */
void stores_roots_default(struct stores_roots *r, const char *const *env, const char *models_dir);

#endif
