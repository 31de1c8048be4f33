/* SPDX-License-Identifier: Apache-2.0
 *
 * A round of replacing engines: what engines.c, engines_hand.c and sample.c share.
 */
#ifndef API_ENGINES_INT_H
#define API_ENGINES_INT_H

#include "api/api_int.h"
#include "dialect/sample.h"

enum { HEARD_MAX = 256 * 1024 };
struct engines_round {
	struct api *api;
	struct api_call *call; /* NULL: the client left */
	bool upgrade, every;   /* every: all pools, not those of one build */
	char *to, *only, *by;
	struct strv todo; /* the pools that take it */
	size_t at;
	struct strv covered; /* those that have what the others asked for */
	struct strv changed; /* by what was got last; the one at hand is `next` */
	size_t next;
	struct strv has;      /* … those of them whose engines were replaced */
	struct strv replaced; /* all of the round */
	struct http_fetch *fetch;
	struct http_call *http; /* the node gets an engine */
	struct buf heard;
	int status;
	bool got, configured; /* what it said at last */
	char *message, *engine;
	struct http_target *self;
	struct sample was;
	uint64_t bytes[2];
	const char *reloading; /* a pool whose reload will call back */
	char *undone;          /* why the build is taken back */
	size_t undo;
};

/* engines.c; none of them may be followed by anything that touches r, but for the two that send */
void round_send(struct engines_round *r, const char *name, struct view data);
/* {pool, <key>: text} */
void round_say(
	struct engines_round *r, const char *event, const char *pool, const char *key, const char *text);
void round_fail(struct engines_round *r, enum corral_code code, const char *pool, const char *message);
void round_next(struct engines_round *r); /* the next pool of todo, or the end */
void round_pool_body(const char *pool, const char *to, struct buf *b);
/* False: no node is online; fn is not called. */
bool round_ask_node(struct engines_round *r, const char *method, const char *path, const struct buf *body,
	http_fetch_fn *fn) MUST_CHECK;
/* sample.c */
struct http_fetch *round_sample(
	struct http_target *self, const char *pool, http_fetch_fn *fn, void *arg) MUST_CHECK;
/* Appends {pool, same, tokens_per_s_before, …_now, bytes_before, bytes_now, text}. */
void round_compare(const char *pool, const struct sample *was, const struct sample *now,
	const uint64_t bytes[2], struct buf *ret);
/* engines_hand.c: the pools of `changed` from `next` on, then round_next. */
void round_hand_over(struct engines_round *r);

#endif
