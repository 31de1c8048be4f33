/* SPDX-License-Identifier: Apache-2.0
 *
 * What this node has got: models, engines, and the steps of getting them, in `<state_dir>/catalog.db`
 * (SQLite; a schema version with migrations). Owned by engine-provisioner; a command that runs without a
 * daemon opens it for itself.
 *
 * All of it is held in memory and is the truth while it is open: any thread may ask and change, nothing waits
 * for the disk. A thread of its own writes what changed, a transaction for all that waits; what cannot be
 * written is tried again each second, and catalog_problem says why. A damaged file is set aside and a new one
 * is made of what is known; a file of a newer version is refused.
 *
 * Bounds: CATALOG_MODELS_MAX, CATALOG_ENGINES_MAX and CATALOG_STEPS_MAX rows (beyond them the one that was
 * used longest ago goes; of steps the oldest job), CATALOG_FILES_MAX files a model.
 */
#ifndef PROVISION_CATALOG_CATALOG_H
#define PROVISION_CATALOG_CATALOG_H

#include "base/err.h"
#include "base/strv.h"

enum {
	CATALOG_MODELS_MAX = 4096,
	CATALOG_ENGINES_MAX = 1024,
	CATALOG_STEPS_MAX = 8192,
	CATALOG_FILES_MAX = 4096,
	CATALOG_ID_MAX = 96,
};
#define CATALOG_NAME "catalog.db" /* in state_dir */

enum catalog_life { CATALOG_ACTIVE, CATALOG_RETIRED };
const char *catalog_life_name(enum catalog_life l); /* "Active", "Retired" */
int catalog_life_parse(struct view v, enum catalog_life *ret) MUST_CHECK;

struct catalog_file {
	char *role;                /* "weights", "mmproj", "draft", "lora", "other" */
	char *path, *url, *sha256; /* url, sha256: NULL unknown */
	uint64_t size;
};
struct catalog_model {
	char *id;        /* a-z, 0-9, '.', '_', '-'; NULL: made of the reference by catalog_model_put */
	char *reference; /* normal form, as ref_shown has it; one model each */
	struct strv references; /* other names it was asked for by */
	char *revision, *source;
	bool fetched; /* its files were fetched by Corral; else others put them there */
	struct catalog_file *files;
	size_t nfiles;
	char *architecture, *name, *quant; /* of the GGUF; NULL unknown */
	uint64_t size_bytes, n_params, n_ctx_train;
	enum catalog_life life;
	char *life_by;                                     /* who retired it */
	int64_t life_ms, created_ms, used_ms, verified_ms; /* wall clock; 0: never */
	char *verify_problem;                              /* what the last look found wrong; NULL: nothing */
};
void catalog_model_done(struct catalog_model *m);
void catalog_model_copy(struct catalog_model *to, const struct catalog_model *from); /* to is done first */
void catalog_model_add_file(struct catalog_model *m, const struct catalog_file *f);  /* copies */

struct catalog_engine {
	char *id; /* the caller's, unique: "llamacpp-b6123-cuda-1a2b3c4d" */
	char *engine, *version;
	char *source;          /* "source", "binary", "package", "container" … */
	char *commit, *digest; /* NULL: none */
	char *flags, *features;
	char *folder; /* where it lies; NULL: an image */
	char *state;  /* "ready", "building", …: the owner's words; NULL: ready */
	int64_t created_ms, used_ms;
};
void catalog_engine_done(struct catalog_engine *e);
void catalog_engine_copy(struct catalog_engine *to, const struct catalog_engine *from);

enum catalog_step_state { STEP_WAITING, STEP_RUNNING, STEP_DONE, STEP_FAILED };
const char *catalog_step_state_name(enum catalog_step_state s);
struct catalog_step {
	char *job;        /* a plan's name: its hash */
	uint32_t ordinal; /* within the job */
	char *name;       /* "preflight", "fetch", … */
	enum catalog_step_state state;
	int64_t started_ms, ended_ms;
	char *detail; /* what the next run needs to know, or what went wrong; NULL */
	char *log;    /* the file with its output; NULL: none */
};
void catalog_step_done(struct catalog_step *s);
void catalog_step_copy(struct catalog_step *to, const struct catalog_step *from);

struct catalog;
/* path NULL: in memory alone. Blocks for the reading. -EINVAL: a newer version wrote it; -EIO. *ret_note:
 * what the owner has to tell (a damaged file was set aside); NULL: nothing; freed by the caller. */
int catalog_open(const char *path, struct catalog **ret, char **ret_note, struct err *reterr) MUST_CHECK;
void catalog_close(struct catalog *c); /* tries once more to write what waits; NULL allowed */
/* Until all that was put is on the disk: 0, -EIO after an attempt that failed, -ETIMEDOUT. Blocks: not for a
 * loop. */
int catalog_flush(struct catalog *c, int64_t timeout_ms) MUST_CHECK;
char *catalog_problem(struct catalog *c) MUST_CHECK; /* why the disk lags behind; NULL: it does not */

/* Adds it, or replaces the one of the same id or reference: id, created_ms, life and references that were
 * there stay. Returns its id, for the caller to free. */
char *catalog_model_put(struct catalog *c, const struct catalog_model *m);
/* By id, reference or another of its names; -ENOENT. */
int catalog_model_find(struct catalog *c, const char *key, struct catalog_model *ret) MUST_CHECK;
/* By id. false: there is none. */
bool catalog_model_set_life(struct catalog *c, const char *id, enum catalog_life l, const char *by);
bool catalog_model_set_verified(struct catalog *c, const char *id, const char *problem);
bool catalog_model_used(struct catalog *c, const char *key);
bool catalog_model_remove(struct catalog *c, const char *id);
/* Whether key (as in catalog_model_find) is retired; *ret_by (may be NULL) for the caller to free. */
bool catalog_model_retired(struct catalog *c, const char *key, char **ret_by);
struct catalog_models {
	struct catalog_model *items; /* by id */
	size_t len;
};
void catalog_models(struct catalog *c, struct catalog_models *ret);
uint64_t catalog_models_fetched(struct catalog *c); /* bytes of the files of those Corral fetched */
void catalog_models_done(struct catalog_models *m);

/* Adds or replaces; created_ms stays, also where e says 0. */
void catalog_engine_put(struct catalog *c, const struct catalog_engine *e);
int catalog_engine_find(struct catalog *c, const char *id, struct catalog_engine *ret) MUST_CHECK;
bool catalog_engine_remove(struct catalog *c, const char *id);
struct catalog_engines {
	struct catalog_engine *items; /* by id */
	size_t len;
};
void catalog_engines(struct catalog *c, struct catalog_engines *ret);
void catalog_engines_done(struct catalog_engines *e);

void catalog_step_put(struct catalog *c, const struct catalog_step *s); /* by job and ordinal */
struct catalog_steps {
	struct catalog_step *items; /* by job and ordinal */
	size_t len;
};
/* job NULL: of all jobs but the fetches of files. */
void catalog_steps(struct catalog *c, const char *job, struct catalog_steps *ret);
void catalog_steps_done(struct catalog_steps *s);
void catalog_steps_remove(struct catalog *c, const char *job);

/* A file that Corral is about to fetch, kept as a step until the model it belongs to is in the catalog:
 * whoever finds it after a crash knows whose it is. */
void catalog_coming_put(struct catalog *c, const char *path, const char *url);
/* *ret_url (may be NULL inside) for the caller to free. */
bool catalog_coming_find(struct catalog *c, const char *path, char **ret_url);
void catalog_coming_remove(struct catalog *c, const char *path);

#endif
