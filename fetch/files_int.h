/* SPDX-License-Identifier: Apache-2.0
 *
 * Files onto the disk: what files.c (the order of things), file.c (one file), seg.c (its pieces and its
 * digest) and answer.c (what servers say) share.
 *
 * A file is covered by segs in order, each [from, to), there up to `at`. One request asks for what is missing
 * of one seg. What comes goes into memory, from there onto the disk once a round, and from memory through the
 * digest as soon as everything before it has: a file is not read back, except what an earlier process had
 * fetched ahead of its digest. So requests stay close to each other: WINDOW_BYTES ahead at most.
 */
#ifndef FETCH_FILES_INT_H
#define FETCH_FILES_INT_H

#include "net.h"
#include "part.h"
#include "place.h"
#include "report.h"

#define CHUNK_MIN (4 * MIB)
#define CHUNK_MAX (32 * MIB)
#define WINDOW_BYTES (256 * MIB) /* memory of all files together */
#define FLUSH_BYTES (4 * MIB)    /* unwritten bytes of one seg */
#define SLICE_BYTES (4 * MIB)    /* of what is read from the disk before others have their turn */
#define DURABLE_BYTES (256 * MIB)
#define SIZE_UNKNOWN UINT64_MAX
enum { SEGS_MAX = PART_SPANS_MAX + 1, SEGS_NEW_MAX = PART_SPANS_MAX - 2, RESTARTS_MAX = 4, WAITING_MAX = 16 };

struct files;
struct file;
struct waiter;

struct seg {
	struct file *file;
	uint64_t from, to, at; /* at: came; to: SIZE_UNKNOWN while the server has not said */
	uint64_t flushed;      /* is in the file */
	char *mem;             /* bytes [mem_from, at) */
	uint64_t mem_from;
	size_t mem_cap;
	struct xfer *x;
	uint64_t skip; /* bytes of this answer that are there already */
	bool resolved; /* asked where it was redirected to before */
	bool moved;    /* something came in this request */
	bool taking;   /* its answer is the file's bytes, no error page */
	enum verdict { V_NONE, V_CHANGED, V_PLAIN, V_SIZE, V_ENOUGH } verdict;
};

enum file_state { FILE_QUEUED, FILE_WAITING, FILE_CHECKING, FILE_FETCHING, FILE_DONE };

struct file {
	struct files *all;
	const struct job_file *job;
	struct found *found;
	enum file_state state;
	struct part part;
	struct part_facts facts;
	bool sha_known; /* a digest was promised */
	/* FETCHING */
	struct seg *segs[SEGS_MAX];
	size_t nsegs;
	uint64_t next, chunk; /* where the next seg begins; its size */
	struct sha sha;
	uint64_t unsaved, undurable; /* bytes since */
	bool dirty;                  /* the state is not written down */
	unsigned restarts;
	/* the mirror in use */
	size_t mirror;
	char *resolved; /* where it redirects to; NULL: not known */
	bool probed;    /* it answered; more requests at a time are allowed */
	bool plain;     /* it takes no ranges: one request for the whole */
	unsigned tries, width;
	mono_t resume_at; /* MONO_ZERO: now */
	int local_fd;     /* file: */
	/* why the mirrors before failed */
	struct fail why;
	unsigned nfailed;
	char pause_text[300];
	/* CHECKING: what lies at `to` */
	int check_fd;
	struct sha check;
	uint64_t stale_ino; /* looked at, and not what is wanted */
	struct waiter *waiter;
};

struct files {
	const struct job *job;
	struct net *net;
	struct report report;
	struct file *f;
	size_t n, ndone;
	uint64_t memory; /* of all segs */
	int wake;        /* eventfd: a lock was got */
	bool failed;
	struct fail fail;
};

/* files.c */
void files_fail(struct files *g, enum why why, const char *fmt, ...) PRINTF(3, 4);
/* Whether all files, as far as it is known how large they are, may come. */
int files_room(const struct files *g, struct fail *why) MUST_CHECK;

/* state.c: one file. */
void file_begin(struct file *f);
bool file_step(struct file *f);   /* true: there is more to do at once */
void file_lock(struct file *f);   /* again, after a wait */
void file_landed(struct file *f); /* it is whole: digest, rename */
void file_headed(struct file *f); /* what was asked for is there: it stays a part, for the next process */
void file_end(struct file *f);    /* frees */
uint64_t file_have(const struct file *f);
int file_size_told(struct file *f, uint64_t size, struct fail *why) MUST_CHECK;
/* Everything anew from the first byte. */
void file_restart(struct file *f);

/* mirror.c */
const char *file_url(const struct file *f);
bool mirror_is_file(const struct file *f); /* the one in use */
/* A try of the mirror failed. pause_ms: what the server asked for, or -1. */
void file_try_failed(struct file *f, const struct fail *why, bool moved, int64_t pause_ms);
void file_next_mirror(struct file *f, const struct fail *why);
void mirror_forget(struct file *f); /* where it redirects to */

/* wait.c: for another process's lock, by a thread that writes to wake. */
int wait_start(struct file *f) MUST_CHECK;
bool wait_is_over(const struct file *f);
void wait_end(struct file *f);

/* seg.c */
struct seg *seg_add(struct file *f, uint64_t from, uint64_t at, uint64_t to);
void segs_drop(struct file *f, size_t keep); /* all from this one on; requests are cancelled */
int seg_take(struct seg *s, const char *p, size_t n) MUST_CHECK; /* negative errno */
int seg_flush(struct seg *s) MUST_CHECK;
int file_flush(struct file *f) MUST_CHECK; /* writes, hashes and notes what came; negative errno */
bool file_is_whole(const struct file *f);
bool file_is_headed(const struct file *f); /* a head was asked for, and it is there */
struct seg *file_want(struct file *f);     /* what to ask for next; NULL: nothing for now */

/* answer.c */
void file_ask(struct file *f, struct seg *s);

/* local.c */
bool local_step(struct file *f);

#endif
