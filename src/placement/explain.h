/* SPDX-License-Identifier: Apache-2.0
 *
 * A placement plan in words and as data, for `corral plan`, `corral explain` and the API. Pure: facts, want
 * and plan in, bytes out; devices and replicas stand in the order of the facts.
 *
 * Bounds: text names EXPLAIN_DEVICES_MAX devices, taken and rejected ones alike, and then how many more there
 * are; data has all of them. All return 0, or -ENOBUFS when the buffer's bound was met.
 */
#ifndef PLACEMENT_EXPLAIN_H
#define PLACEMENT_EXPLAIN_H

#include "base/buf.h"
#include "placement/fit.h"

enum { EXPLAIN_DEVICES_MAX = 64 };

struct explain {
	const struct fit_facts *facts;
	const struct fit_want *want;
	const struct fit_plan *plan;
	const enum fit_reason *reasons; /* one per device, or NULL */
	const char *would_fit; /* "a context of 8192" …: what would make it fit; NULL: nothing known */
};

/* One sentence, without its full stop: "chat needs 9.3 GiB on one device: 0 has 4.1 GiB free (…)". */
int explain_sentence(const struct explain *e, struct buf *b) MUST_CHECK;
/* The sentence, a line for each device, who would leave and why. Lines end with \n. */
int explain_text(const struct explain *e, struct buf *b) MUST_CHECK;
/* An object: {"how","text","devices":[…],"evict":[…],…}. */
int explain_json(const struct explain *e, struct buf *b) MUST_CHECK;

#endif
