/* SPDX-License-Identifier: Apache-2.0
 *
 * What engines were seen to take, so that the next start of the same is known instead of estimated: a parser
 * of llama-server's own words while it loads, the key under which they hold, and the ledger they are kept in
 * (a SQLite file, 0600, opened for one call and closed again: an idle daemon keeps nothing of it).
 *
 * Pure but for the ledger, whose calls wait for the disk. An engine's output and the ledger's file are
 * hostile: a line, a name, a number or a row that is not exactly what is expected is none.
 *
 * Bounds: LEARNED_ROWS_MAX rows, the longest unused goes first; LEARNED_DEVICES_MAX devices, 64 contexts,
 * lines of 512 bytes; a buffer of 1 PiB.
 */
#ifndef GGUF_LEARNED_H
#define GGUF_LEARNED_H

#include "base/strv.h"
#include "gguf/estimate.h"

enum {
	LEARNED_ROWS_MAX = 1024,
	LEARNED_DEVICES_MAX = 16,
	LEARNED_CONTEXTS_MAX = 64,
	LEARNED_LINE_MAX = 512,
	LEARNED_ERROR_PERMILLE = 10, /* how far what is learned may be off the next time */
};
#define LEARNED_NAME "learned.db" /* in state_dir */

struct learned_bytes {
	uint64_t weights, mapped; /* mapped: the part of the weights that is the file's pages */
	uint64_t kv, recurrent, compute, output;
};
struct learned {
	struct learned_bytes host, device[LEARNED_DEVICES_MAX];
	/* What the driver says the engine's processes hold; 0: it does not say. */
	uint64_t measured[LEARNED_DEVICES_MAX];
	uint32_t n_devices;
	bool told; /* the engine said what it took; else there is only what was measured */
	char build[64];
	int64_t learned_ms, used_ms; /* wall clock */
};
uint64_t learned_sum(const struct learned_bytes *b); /* weights included */

/* ---- what the engine says --------------------------------------------------------------------------- */

/* llama-server's output, piece by piece. What it says once its model is loaded is not looked at: that may be
 * what the model's file makes it say. */
struct learned_log {
	char line[LEARNED_LINE_MAX];
	size_t n;
	bool too_long, over, unclear;
	char prefix[24];             /* of the devices' names: "CUDA" */
	unsigned contexts, answered; /* contexts that were begun, that told their compute buffer */
	bool context_told, any_weights;
	struct learned sum;
	uint64_t host_compute, compute[LEARNED_DEVICES_MAX]; /* of the context that is being made */
};
void learned_log_init(struct learned_log *l);
void learned_log_feed(struct learned_log *l, struct view bytes);
/* True: it said all there is to be said, and *ret has it. */
bool learned_log_end(struct learned_log *l, struct learned *ret);

/* ---- under which it holds ----------------------------------------------------------------------------- */

/* The same for engines that take the same: the headers of the model and of what goes with it, the arguments,
 * where its layers are, the kind of device, the engine's build. */
struct learned_key {
	char model[33]; /* hex: of the headers and the files' sizes; a file's name and time do not count */
	char args[384];
	char place[448]; /* "cpu", or "devices=1 layers=all" */
	char kind[16];   /* "cuda", …; "" on the CPU, or to find: any */
	char build[64];  /* "" to find: any */
};
/* e: the estimate of the same. words: the engine's arguments, env: NAME=value of its environment; both may be
 * empty. The place is by a's devices, layers, experts and split; kind and build are left empty. */
void learned_key_make(const struct estimate_files *f, const struct estimate_args *a, const struct estimate *e,
	const struct strv *words, const struct strv *env, struct learned_key *ret);
/* Whether the operator says how much the engine tells. */
bool learned_says_verbosity(const struct strv *words, const struct strv *env);

/* e becomes what was learned; what was not said of it (what a driver keeps, the engine's own program) stays.
 */
void learned_apply(const struct learned *l, struct estimate *e);

/* ---- the ledger -------------------------------------------------------------------------------------------
 */

/* The row of k; of several (kind or build "") the one used last. -ENOENT: there is none; else the ledger
 * cannot be read. */
int learned_find(
	const char *path, const struct learned_key *k, struct learned *ret, struct err *reterr) MUST_CHECK;
/* Its row becomes *l, which was used now. A file that is no ledger, or a damaged one, is moved to a name of
 * its own and a new one begun: 0, and *ret_aside is where it is now (the caller frees it). */
int learned_put(const char *path, const struct learned_key *k, const struct learned *l, char **ret_aside,
	struct err *reterr) MUST_CHECK;
void learned_used(const char *path, const struct learned_key *k, int64_t now_ms); /* kept longer for it */

#endif
