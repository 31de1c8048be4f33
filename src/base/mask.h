/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pool writes under `devices`, read without a machine at hand, so that the configuration check and
 * the node read it alike: "auto", "cpu" (or "none"), or a list of indices and UUIDs ("0,1", "GPU-3f2a",
 * "MIG-9c1d").
 * Whether they exist is src/gpu's to say.
 */
#ifndef BASE_MASK_H
#define BASE_MASK_H

#include "base/err.h"
#include "base/view.h"

enum mask_kind { MASK_AUTO, MASK_CPU, MASK_LIST };
enum { MASK_IDS_MAX = 64, MASK_INDEX_MAX = 4095, MASK_UUID_MAX = 80 };

struct mask_id {
	struct view text; /* borrowed from what was parsed */
	bool is_index;
	unsigned index;
};
struct mask {
	enum mask_kind kind;
	struct mask_id ids[MASK_IDS_MAX];
	size_t len; /* of a list: at least 1 */
};

/* 0 or -EINVAL with a sentence that says what was found and what is accepted. An id twice is refused. */
int mask_parse(struct view text, struct mask *ret, struct err *reterr) MUST_CHECK;
/* "cpu" or "none". */
bool mask_means_cpu(struct view text);
/* Whether both name the same, as they are written. */
bool mask_same_id(const struct mask_id *a, const struct mask_id *b);
/* Whether the list names that index. False for the other kinds. */
bool mask_has_index(const struct mask *m, unsigned index);

#endif
