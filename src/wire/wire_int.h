/* SPDX-License-Identifier: Apache-2.0
 *
 * One table a struct says its JSON keys, types and bounds; encoding, decoding, copying and freeing
 * walk the table. Inside src/wire only. Plain data: no thread, no loop.
 */
#ifndef WIRE_WIRE_INT_H
#define WIRE_WIRE_INT_H

#include <yyjson.h>

#include "wire/wire.h"

enum wf_type {
	WF_ID,  /* char *, 1..WIRE_ID_MAX bytes without control characters */
	WF_STR, /* char *, at most WIRE_STRING_MAX bytes; JSON null = NULL */
	WF_BOOL,
	WF_INT, /* int */
	WF_U32,
	WF_U64,
	WF_I64,
	WF_STATE, /* enum replica_state by name */
	WF_CAUSE, /* enum wire_cause by name */
	WF_ERROR, /* struct wire_error or null */
	WF_STRS,  /* char **, NULL-terminated, at most WIRE_STRINGS_MAX; null = NULL */
};

enum { WIRE_ID_MAX = 255, WIRE_STRINGS_MAX = 1024 };

struct wf {
	const char *key;
	enum wf_type type;
	unsigned off;
	unsigned have; /* the WR_… bit it belongs to; 0: written when it is not the zero value */
	bool required;
	int64_t min, max; /* of numbers; U64 goes to UINT64_MAX, max is not looked at */
};
struct wf_table {
	const char *what; /* "a replica", for the person */
	const struct wf *fields;
	size_t len;
};

extern const struct wf_table wf_replica, wf_error, wf_model, wf_node, wf_want, wf_desired, wf_device,
	wf_device_use, wf_device_link;

/* have: which bits of `o` are set (0 for structs without them). Appends "key":value pairs, with commas
 * between, after `{` was written; *first says whether one was written already. */
int wf_encode(const struct wf_table *t, const void *o, unsigned have, struct buf *b, bool *first);
/* Fills the zeroed *o. What it took so far is in *o also on failure: the caller frees it. */
int wf_decode(const struct wf_table *t, yyjson_val *v, void *o, unsigned *have, struct err *reterr);
/* Copies the fields whose have bit is in mask, and of tables without bits all of them. */
void wf_copy(const struct wf_table *t, void *to, const void *from, unsigned mask);
void wf_done(const struct wf_table *t, void *o); /* frees the strings and zeroes the fields */

#endif
