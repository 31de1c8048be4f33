/* SPDX-License-Identifier: Apache-2.0
 *
 * What a pool's `model:` names on this machine's disk. Looks at names, sizes and the first four bytes;
 * what is inside a GGUF is gguf's affair. Blocks for a few stats: control loop at start and reload only.
 * Fetches nothing.
 */
#ifndef PROVISION_MODEL_MODEL_H
#define PROVISION_MODEL_MODEL_H

#include "base/err.h"
#include "base/strv.h"

enum { MODEL_PARTS_MAX = 9999 };

struct model_files {
	char *path;          /* absolute; of a split file: its first part, which is what an engine is given */
	struct strv parts;   /* every file, in order; at least one */
	uint64_t size_bytes; /* of all parts */
};
void model_files_done(struct model_files *f);

enum model_want {
	MODEL_GGUF, /* one GGUF file, or all parts of a split one (llamacpp) */
	MODEL_ANY,  /* whatever is there, a folder too (engines that bring their own formats) */
};
/* ref: an absolute path, `file:/abs/path`, or a path relative to models_dir (which may be NULL: then a
 * relative one is refused). Out of models_dir by `..` is refused. A sentence says what was looked at. */
int model_resolve(const char *ref, const char *models_dir, enum model_want want, struct model_files *ret,
	struct err *reterr) MUST_CHECK;

/* "…-00002-of-00005.gguf" is 2 and 5, and where the first number stands. False: no part of a split file. */
bool model_split_name(const char *path, size_t *ret_at, unsigned *ret_part, unsigned *ret_parts);

#endif
