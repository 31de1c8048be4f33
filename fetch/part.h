/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that is not whole yet: `<to>.part` with its bytes, `<to>.part.json` with what is known of them. The
 * process that works on it holds a lock (flock) on the .part, also through the rename that makes it `to`.
 *
 * The JSON is one block of PART_JSON_BYTES, written in place after each round: what a killed process had
 * written is still in the page cache, and one write within a page is there whole or not at all. It holds two
 * states: `live`, for as long as the machine runs (its boot id is in there), and `durable`, of the last time
 * both files were brought to the disk, which counts after a crash of the machine.
 */
#ifndef FETCH_PART_H
#define FETCH_PART_H

#include "job.h"
#include "sha.h"

enum { PART_JSON_BYTES = 4096, PART_SPANS_MAX = 24, PART_VALIDATOR_MAX = 255 };

struct span {
	uint64_t from, to;
};
/* Everything before sha.bytes is there and hashed; spans are there beyond it, in order. */
struct part_state {
	struct sha sha;
	struct span spans[PART_SPANS_MAX];
	size_t nspans;
};
struct part_facts {
	uint64_t size; /* UINT64_MAX: not known */
	char sha256[SHA_HEX + 1];
	char validator[PART_VALIDATOR_MAX + 1]; /* ETag or date; empty: none */
};
struct part {
	char *path, *json_path, *folder;
	int fd, json_fd;
	bool ours; /* locked */
	char boot[64];
	struct part_state durable;
};

void part_init(struct part *p, const char *to);
/* Opens (and makes) and locks. 0, -EWOULDBLOCK: another process has it (fd is open, to wait on with flock),
 * or another negative errno. After a wait: again, since the file may be another one now. */
int part_lock(struct part *p) MUST_CHECK;
/* What was there of it; -ENOENT: nothing that can be used. */
int part_load(struct part *p, struct part_facts *facts, struct part_state *state) MUST_CHECK;
/* durable: brings both to the disk. */
int part_save(struct part *p, const struct part_facts *facts, const struct part_state *state,
	bool durable) MUST_CHECK;
/* Becomes `to`: mode, fsync, rename, fsync of the folder. */
int part_finish(struct part *p, const char *to, unsigned mode) MUST_CHECK;
void part_remove(struct part *p); /* both files, when it is ours */
void part_done(struct part *p);   /* closes; what is there stays */

#endif
