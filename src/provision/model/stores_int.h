/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of looking for models. Files: stores.c roots, order and result · stores_walk.c the bounded walk
 * · stores_hub.c, stores_ollama.c one store's layout each · stores_read.c headers, kinds and projectors ·
 * stores_name.c ids and quantizations.
 */
#ifndef PROVISION_MODEL_STORES_INT_H
#define PROVISION_MODEL_STORES_INT_H

#include "base/clock.h"
#include "base/map.h"
#include "base/mem.h"
#include "provision/model/stores.h"

enum store { STORE_HUB, STORE_LLAMACPP, STORE_OLLAMA, STORE_LMSTUDIO, STORE_LOOSE, STORE_COUNT };
const char *store_name(enum store s);

/* A file that may be a model. */
struct candidate {
	enum store store;
	char *path;
	char *group;     /* what it shares a projector with: its repository or its folder */
	bool mixed;      /* the group may hold models that have nothing to do with each other */
	char *owner;     /* "ggml-org"; NULL unknown */
	char *repo;      /* "gpt-oss-20b-GGUF"; NULL unknown */
	char *base;      /* what its id is made of: "gpt-oss-20b-Q8_0" */
	char *reference; /* NULL: file:PATH */
	char *mmproj;    /* named by a manifest */
	char *digest;    /* 64 hex digits of its SHA-256 as the store says; NULL unknown */
};

struct scan {
	struct stores_found *ret;
	const atomic_bool *cancel;
	mono_t until;
	size_t entries;
	unsigned id_max;
	bool stopped, late; /* a bound was reached, or cancelled */
	struct map dirs;    /* entered: device and inode */
	struct candidate *found;
	size_t nfound, cap;
};

/* stores_walk.c */
typedef void scan_file_fn(struct scan *s, const char *dir, const char *name, void *arg);
/* Calls fn for each file below dir, depth folders deep (1: its own files alone). */
void scan_walk(struct scan *s, const char *dir, unsigned depth, scan_file_fn *fn, void *arg);
void scan_list(struct scan *s, const char *dir, struct strv *ret); /* names, sorted, without hidden ones */
void scan_skip(struct scan *s, const char *path, const char *fmt, ...) PRINTF(3, 4);
void scan_problem(struct scan *s, const char *fmt, ...) PRINTF(2, 3);
bool scan_over(struct scan *s); /* time, cancel or a bound: enter and list nothing more */
bool scan_late(struct scan *s); /* time or cancel: read nothing more either */
/* One for dir/name with path, group and base set, or NULL: no .gguf, being written, not a first part, or a
 * bound. Valid until the next one. */
struct candidate *scan_candidate(struct scan *s, enum store store, const char *dir, const char *name);
struct candidate *scan_candidate_path(struct scan *s, enum store store, const char *path);
void candidate_done(struct candidate *c);

/* stores_hub.c */
void scan_hub(struct scan *s, enum store store, const char *root);
void scan_llamacpp(struct scan *s, const char *root);
/* stores_ollama.c */
void scan_ollama(struct scan *s, const char *root);

/* stores_read.c */
void scan_read(struct scan *s); /* candidates to models without ids */

/* stores_name.c */
/* "Q4_K_M" at the end of a file's stem, upper case; NULL: none stands there. */
char *name_quant(const char *stem) MUST_CHECK;
char *name_stem(const char *file) MUST_CHECK;                 /* without .gguf and -00001-of-00002 */
char *name_type_quant(const char *file_type_name) MUST_CHECK; /* "Q4_K - Medium" to "Q4_K_M" */
/* Whether a projector of that name seems to belong to a model of that stem. */
bool name_fits_projector(const char *model_stem, const char *projector_stem);
/* Gives each of the models its id. c[i] is what models[i] was made of. */
void name_models(struct store_model *models, const struct candidate *const *c, size_t n, size_t id_max);

#endif
