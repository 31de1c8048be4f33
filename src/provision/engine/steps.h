/* SPDX-License-Identifier: Apache-2.0
 *
 * What getting an engine consists of: an ordered list of steps, and how far each has come. A plan is made of
 * texts alone, so that the same input gives the same plan and the same hash, in every process and on every
 * day. Each step is idempotent: one that was running when its process was killed is simply done again. How
 * far each has come is kept by a store, either a file beside the build or the node's catalog. One thread.
 *
 * Bounds: STEPS_MAX steps a plan, STEPS_DETAIL_MAX bytes of what a step has to tell.
 */
#ifndef PROVISION_ENGINE_STEPS_H
#define PROVISION_ENGINE_STEPS_H

#include "base/buf.h"
#include "base/err.h"

enum step_kind {
	STEP_PREFLIGHT,
	STEP_FETCH,
	STEP_VERIFY,
	STEP_UNPACK,
	STEP_CONFIGURE,
	STEP_BUILD,
	STEP_INSTALL,
	STEP_MODEL_FETCH,
	STEP_CANARY,
	STEP_KIND_COUNT
};
const char *step_name(enum step_kind k); /* "preflight", …, "model-fetch", "canary" */

enum { STEPS_MAX = 16, STEPS_HASH_LEN = 16, STEPS_DETAIL_MAX = 2048 };

struct step {
	enum step_kind kind;
	char *key;  /* all that decides what it does; hashed */
	char *text; /* a sentence for people; not hashed */
};
struct steps {
	struct step items[STEPS_MAX];
	size_t len;
};
void steps_done(struct steps *s); /* for AUTO(steps_done) struct steps s = { 0 }; */
/* Appends; beyond STEPS_MAX nothing. */
void steps_add(struct steps *s, enum step_kind kind, const char *key, const char *fmt, ...) PRINTF(4, 5);
/* Of kinds and keys, in their order. */
void steps_hash(const struct steps *s, char out[STEPS_HASH_LEN + 1]);

enum steps_state { STEPS_TODO, STEPS_RUNNING, STEPS_DONE, STEPS_FAILED };
const char *steps_state_name(enum steps_state s); /* "todo", "running", "done", "failed" */

struct steps_record {
	enum steps_state state;
	int64_t started_ms, ended_ms; /* wall clock; 0: not yet */
	char *detail;                 /* what went wrong; NULL */
	char *log;                    /* the file with its output; NULL: none, or not kept by this store */
};
void steps_record_done(struct steps_record *r);

/* Who remembers. read: -ENOENT when nothing is known of that plan or step. write: 0 or a negative errno; what
 * was written is there after a kill at any point, whole. */
struct steps_store {
	int (*read)(void *arg, const char *plan, size_t ordinal, struct steps_record *ret);
	int (*write)(void *arg, const char *plan, size_t ordinal, enum step_kind kind,
		const struct steps_record *r);
	void *arg;
};
/* One file that holds one plan: another plan's records are forgotten when the first of a new one is written.
 * path must live as long as the store. */
struct steps_store steps_store_file(const char *path);
struct catalog; /* provision/catalog/catalog.h */
/* The catalog, for as long as it is open. */
struct steps_store steps_store_catalog(struct catalog *c);

/* The first step that is not done, or s->len. */
size_t steps_next(const struct steps *s, const struct steps_store *st);
bool steps_is_done(const struct steps *s, const struct steps_store *st, size_t i);
int steps_begin(const struct steps *s, const struct steps_store *st, size_t i) MUST_CHECK;
/* detail NULL: it is done; else it failed with that. */
int steps_end(const struct steps *s, const struct steps_store *st, size_t i, const char *detail) MUST_CHECK;

/* One step that belongs to no plan of others, of that key: a model's fetch, a pool's canary. */
int steps_note(const struct steps_store *st, enum step_kind kind, const char *key,
	const struct steps_record *r) MUST_CHECK;
int steps_noted(const struct steps_store *st, enum step_kind kind, const char *key,
	struct steps_record *ret) MUST_CHECK; /* -ENOENT */

#endif
