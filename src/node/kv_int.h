/* SPDX-License-Identifier: Apache-2.0
 *
 * What kv.c (saving, and what both have in common) and kv_restore.c share.
 */
#ifndef NODE_KV_INT_H
#define NODE_KV_INT_H

#include <yyjson.h>

#include "node/node_int.h"
#include "provision/kv/kv.h"

enum {
	KV_SAVE_MS = 10000,
	KV_RESTORE_MS = 10000,
	KV_OLDER_MAX = 8,   /* conversations beside those in slots, */
	KV_OLDER_MS = 1000, /* and how long a start may take for them */
	KV_ASK_MS = 2000,   /* for the list of slots: one that does not answer is not waited for */
	KV_AGE_DAYS = 30,
	KV_SAID_MAX = 32,    /* requests it is told of, */
	KV_WAITING_MAX = 16, /* that wait for a start, */
	KV_FOUND_MAX = 64,   /* and conversations it tells of */
	KV_TOKENS_MIN = 32,  /* fewer are read again sooner than a file: our own canary, a word */
	KV_SLOTS_BODY_MAX = 16 * 1024 * 1024,
	KV_HEAD_BYTES = 1024 * 1024, /* what a file has beside the cache, at most about */
};

struct kv_said { /* one request */
	struct kv_whose of;
	int64_t prompt, output; /* tokens; -1: not known */
};
struct kv_slot {
	uint32_t id;
	struct kv_whose of;
	uint64_t tokens; /* 0: the engine does not say */
};

/* A save or a restore under way. */
struct kv_work {
	bool saving;
	kv_then *then; /* of a restore */
	struct http_target *target;
	struct http_fetch *fetch;
	struct loop_timer deadline;
	mono_t began;
	struct kv_slot *slots; /* to be saved */
	struct kv_file *files; /* to be restored: nolder older ones, then one a slot */
	size_t n, at, nolder;
	uint64_t tokens, bytes;
	unsigned moved;
};

struct replica_kv {
	char key[KV_KEY_LEN + 1];
	struct kv_shape shape;
	bool vain;    /* its engine writes no checkpoints, and its model needs them */
	bool adopted; /* it ran before us: nothing is put into its slots */
	/* One a slot: what was restored into it; behind them KV_OLDER_MAX beside. Name empty = none. */
	struct kv_file *held;
	uint32_t nheld;
	uint64_t restored;                   /* tokens, by this start */
	struct kv_whose found[KV_FOUND_MAX]; /* there was a file at this start */
	size_t nfound;
	/* kv_whose.c: the last requests, the newest first; whose all were, unless several */
	struct kv_said said[KV_SAID_MAX];
	size_t nsaid;
	uint64_t owner;
	bool asked, several;
	struct kv_work *work;
};

char *kv_pool_dir(const struct replica *r) MUST_CHECK; /* the caller frees it */
/* As it is configured today, not as it was when the engine started. */
const struct node_pool *kv_conf(const struct replica *r);
/* A save or a restore begins, for ms at most: r->kv->work; NULL: it cannot. */
struct kv_work *kv_work_begin(struct replica *r, bool saving, int64_t ms);
void kv_work_free(struct replica *r);
/* It is over, well or not: what had to wait for it goes on. */
void kv_finish(struct replica *r);
void kv_ask_slot(struct replica *r, uint32_t slot, const char *action, const char *file, http_fetch_fn *fn);
void kv_complain(const struct replica *r, const char *what, uint32_t slot, int status, struct view body,
	const struct err *e);
/* "<owner>:<talk> …"; NULL allowed. Returns how many. */
size_t kv_whose_list(const char *text, struct kv_whose *ret, size_t max);
/* Whose a slot with so many tokens is; false: nobody knows. */
bool kv_whose(const struct replica *r, uint64_t tokens, struct kv_whose *ret) MUST_CHECK;
/* Leaves of the list what r may take up, in the order in which it should: of those keys alone whose requests
 * wait for it; where none waits, all, unless they are several keys'. */
void kv_mine(const struct replica *r, struct kv_list *l);
static inline void kv_doc_free(yyjson_doc **d)
{
	yyjson_doc_free(*d);
}

#endif
