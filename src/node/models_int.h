/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that have to be fetched, and the catalog's routes: for the files of this folder alone.
 */
#ifndef NODE_MODELS_INT_H
#define NODE_MODELS_INT_H

#include "node/api_int.h"
#include "provision/engine/builds.h"

/* models.c */
/* Looks at the disk for p's set: its path and arguments, or that it is absent. */
void models_look(struct node *n, struct pool *p);
/* True: r's model has to be fetched, or planned anew because it has just come: r is PROVISIONING until
 * replica_provide follows, or FAILED. */
bool models_wait(struct replica *r) MUST_CHECK;
void models_planned(struct replica *r); /* what is wanted of it was told again */
void models_forget_header(struct pool *p);
void models_leave(struct replica *r); /* it waits no more; the fetch goes on */
void models_done(struct node *n);
char *models_retired(struct node *n, const struct node_pool *p) MUST_CHECK; /* a sentence; NULL: it is not */
void models_used(const struct replica *r);                                  /* its engine is being started */
void models_changed(struct node *n); /* the disk or the catalog: all pools are looked at again */

/* A set that is fetched, by a watch for each who waits for it: one fetch a set, also when the last watch has
 * left. */
typedef void fetch_progress_fn(void *arg, const struct fetch_progress *p);
typedef void fetch_done_fn(void *arg, const struct model_got *got, enum fetch_why why, const struct err *err);
struct fetch;
struct fetch_watch {
	struct list node;
	struct fetch *of;
	fetch_progress_fn *on_progress;
	fetch_done_fn *on_done; /* the watch is gone; got NULL: failed */
	void *arg;
};
/* NULL: it cannot be begun, *reterr says why and ret_why what kind of why. */
struct fetch_watch *fetch_join(struct node *n, const struct model_set *set, const char *sha256,
	enum model_want want, enum fetch_why *ret_why, struct err *reterr) MUST_CHECK;
/* The last one who leaves a fetch that waits for its header to be looked at ends it. */
void fetch_leave(struct fetch_watch **w); /* NULL inside allowed */
/* All of it is wanted, whether a device can hold it or not. */
void fetch_insist(struct fetch_watch *w);

/* catalog.c */
bool catalog_route(struct node *n, struct http_exchange *x, struct view path, enum http_method m);
void catalog_removals_done(struct node *n); /* those under way end by themselves */
/* engines.c; devices: room for GPU_DEVICES_MAX, which lives as long as ret is used */
void engines_opts(struct node *n, bool on_cpu, struct engine_device *devices, struct engine_ensure_opts *ret);
void engines_remember(struct node *n, const struct engine_build *b);
/* The steps that are a pool's own. failed NULL: it is done; begun: it has only begun. */
void engines_note_model(struct node *n, const char *ref, bool begun, const char *failed);
void engines_note_canary(struct replica *r, const char *failed);
/* engines_verbs.c: looks at the disk, on a thread, for what the pools take. Whoever has one embeds it first.
 */
struct engines_look {
	struct list list;
	struct node *node;                    /* NULL: it is gone */
	void (*work)(struct engines_look *l); /* on the thread, after t was looked at */
	void (*over)(
		struct engines_look *l); /* on the loop, the node is there; its memory stays the caller's */
	void (*free)(struct engines_look *l); /* all but l itself */
	char *prefix;
	struct engine_device *devices;
	struct engine_takers t;
};
void *engines_look_new(struct node *n, size_t size) MUST_CHECK;
void engines_look_start(struct engines_look *l);
void engines_looks_done(struct node *n); /* those under way end by themselves */
bool engines_route(struct node *n, struct http_exchange *x, struct view path, enum http_method m);
call_fn engines_upgrade_pool; /* engines_upgrade.c */
bool pool_on_cpu(const struct node_pool *p);
/* catalog_stream.c */
call_fn catalog_pull, catalog_verify, engines_provision;
void engines_progress_json(const char *pool, const struct engine_progress *p, struct buf *ret);
/* Whether engines use the model, or may at any time. */
struct catalog_use {
	bool serving, pinned, configured;
	const char *pool; /* one of those */
};
struct catalog_use catalog_use_of(struct node *n, const struct catalog_model *m);

/* catalog_disk.c: blocks, no state; any thread */
/* Removes m's files (those of `others` that are the same stay); in a hub's cache also what they point to,
 * when nothing else points there. Returns how many bytes; problems as sentences. */
uint64_t catalog_remove_files(
	const struct catalog_model *m, const struct catalog_models *others, struct strv *problems);
/* Whether path lies in one of the folders of r, links resolved. */
bool catalog_in_stores(const struct stores_roots *r, const char *path);

#endif
