/* SPDX-License-Identifier: Apache-2.0
 *
 * A request's body, kept whole so that it can wait and be sent again: the first 64 KiB in memory, the
 * rest in an unlinked file of the spool folder. What all of them hold in files together is bounded.
 * One loop at a time; the account is shared by all.
 */
#ifndef PROXY_SPOOL_H
#define PROXY_SPOOL_H

#include <stdatomic.h>

#include "base/buf.h"

enum { SPOOL_MEMORY = 64 * 1024 };

struct spool_account {
	const char *dir; /* the spool folder; constant */
	/* Bytes of all spool files together; a reload may change it. */
	atomic_uint_fast64_t total_max;
	atomic_uint_fast64_t total;
	atomic_int problem; /* errno of the last file write, 0 = it worked */
};

struct spool {
	struct spool_account *account;
	struct buf memory;
	int fd; /* -1: nothing in a file */
	uint64_t in_file, max;
	uint64_t size; /* of what was added, also after spool_forget */
};

/* Zeroed before, or with an empty buffer in `memory` that is to be used. */
void spool_init(struct spool *s, struct spool_account *a, uint64_t max);
void spool_done(struct spool *s);
/* The same, but its memory stays to be used again (spool_init) where it is not larger than keep. */
void spool_reset(struct spool *s, size_t keep);
/* The bytes are not needed any more: memory and file go, the size stays known. */
void spool_forget(struct spool *s);
/* 0, -EFBIG over max, -ENOSPC over the account's bound or on a full disk, other negative errno. */
int spool_add(struct spool *s, struct view bytes) MUST_CHECK;
/* NULL, or why bodies cannot be kept now. Looked at anew each time: room that came back ends it. The first
 * failure and the return are logged, once each. */
const char *spool_problem(struct spool_account *a);
static inline uint64_t spool_size(const struct spool *s)
{
	return s->size;
}
/* Bytes from offset on: a view into memory, or read into scratch. Empty at the end; p = NULL on a read error.
 */
struct view spool_read(struct spool *s, uint64_t offset, char *scratch, size_t cap);

#endif
