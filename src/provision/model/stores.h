/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that lie on this machine's disk already: in the Hugging Face hub's cache, llama.cpp's, the stores of
 * Ollama and LM Studio, and models_dir. Only reads: names, manifests and GGUF headers, never a tensor.
 *
 * What is in those folders is hostile: others write there. Never fatal, whatever lies there; what was left
 * out has a reason. Bounds: STORES_ENTRIES_MAX names looked at, STORES_DEPTH_MAX folders deep,
 * STORES_FILES_MAX headers read, STORES_MODELS_MAX models, STORES_MS_MAX of time, manifests of 1 MiB; what
 * they cut off is told in `problems`. Links are followed; a folder is entered once, so that loops end.
 *
 * Blocks (a header is some MiB): for loop_offload. No loop, no thread, no state of its own.
 */
#ifndef PROVISION_MODEL_STORES_H
#define PROVISION_MODEL_STORES_H

#include <stdatomic.h>

#include "base/stores.h"

enum {
	STORES_ENTRIES_MAX = 400000,
	STORES_DEPTH_MAX = 8,
	STORES_FILES_MAX = 4096,
	STORES_MODELS_MAX = 1000,
	STORES_MS_MAX = 30000,
	STORES_ID_MIN = 20,
	STORES_NOTES_MAX = 32, /* of `skipped` and of `problems`; more are counted */
};

enum store_use { STORE_TEXT, STORE_EMBEDDING, STORE_RERANK };

struct store_model {
	char *id;           /* unique in its list: a-z, 0-9, '.', '_', '-', at most id_max */
	char *path;         /* what an engine is given: the file, or the first part of a split one */
	char *mmproj;       /* its projector; NULL = none */
	const char *source; /* "Hugging Face cache", "llama.cpp cache", "Ollama", "LM Studio", "models_dir" */
	char *reference;    /* "hf:org/repo:Q4_K_M", "ollama:llama3.2:3b", "file:/…" */
	char *architecture, *name;
	char *quant;         /* "Q4_K_M"; NULL = unknown */
	uint64_t size_bytes; /* of all its files */
	uint64_t n_params, n_ctx_train, n_vocab, n_embd;
	enum store_use use;
	int64_t pooling; /* of an embedding model: 1 mean, 2 cls, 3 last */
	bool vision, audio;
};

struct stores_found {
	struct store_model *models; /* by id, bytewise: the same disk gives the same list */
	size_t nmodels;
	struct strv looked;         /* every folder that was looked for, in order */
	struct strv skipped;        /* "PATH: why": files that are no models, or not whole */
	struct strv problems;       /* sentences: what could not be read or was cut off */
	size_t nskipped, nproblems; /* with those that are not kept */
};
void stores_found_done(struct stores_found *f);

/* *cancel (may be NULL) ends it early when it becomes true. */
void stores_find(const struct stores_roots *r, const atomic_bool *cancel, struct stores_found *ret);

/* "12 models found in 3 places: 7 in the Hugging Face cache, 4 of Ollama, …" or where nothing was found. */
char *stores_summary(const struct stores_found *f) MUST_CHECK;

#endif
