/* SPDX-License-Identifier: Apache-2.0
 *
 * What is known of each engine: one row a kind. How it is started, where it says that it is well, which
 * version it is and how busy, and which of its options are ours. Constant; any thread.
 */
#ifndef PROVISION_ENGINE_TABLE_H
#define PROVISION_ENGINE_TABLE_H

#include "provision/engine/engine.h"

struct engine_options;

struct engine_row {
	enum engine_kind kind;
	bool untried; /* from its documentation: no run of it stands in this tree */
	const char
		*program; /* looked up in PATH; NULL: it cannot be started by itself, a path must be given */
	const char *before; /* words between the program and its options: "serve" */
	/* Words of its image before its options; NULL: the image's own entry point takes the options. */
	const char *image_before;
	/* Options; NULL: it has none. model NULL: the first word is the model. */
	const char *model, *image_model, *host, *port, *name, *ctx, *slots, *gpus, *share;
	unsigned share_permille; /* of what a pool's `memory` allows it, since it takes more than it counts */
	const char *always;      /* words that are always passed: "--enable-metrics" */
	const char *key_env;     /* the variable that names its key; NULL: none */
	const char *key_config;  /* else the option of a file with `api-key: KEY`; NULL: none */
	const char *health;      /* path that answers 200 once it can serve */
	const char *version;     /* path of a JSON document that has "version" at its top; NULL: none */
	const char *image;       /* its project's own, with a tag; NULL: none is known */
	const char *shm;         /* shared memory its image wants (--shm-size); NULL: the usual */
	/* Names in /metrics, the newest first; NULL: not known. used: of its KV cache, 0..1. */
	const char *running[2], *waiting[2], *used[2];
	const struct engine_options *options; /* NULL: its arguments pass as they stand */
};
/* NULL: a command. */
const struct engine_row *engine_row(enum engine_kind k);
/* Started by its row's options (vLLM, SGLang, TGI), whatever fetched it. */
bool engine_row_starts(const struct engine_row *row);

/* How busy an engine says it is. -1: it does not say. */
struct engine_load {
	int64_t running, waiting; /* requests */
	int used_permille;        /* of its KV cache */
};
/* Reads a /metrics document: a name's values are added up over its labels (a data-parallel engine has one
 * line each), of `used` the largest is taken. False: nothing of it is known. */
bool engine_load_read(const struct engine_row *row, struct view text, struct engine_load *ret);
/* The "version" of a version path's answer; NULL: none. The caller frees it. */
char *engine_version_read(struct view json) MUST_CHECK;

#endif
