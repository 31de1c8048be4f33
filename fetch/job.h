/* SPDX-License-Identifier: Apache-2.0
 *
 * What corral-fetch is asked for: one JSON document on standard input, the mirror of struct fetch_request
 * (src/provision/fetch/fetch.h; its bounds hold here too). Owned by main for the life of the process.
 */
#ifndef FETCH_JOB_H
#define FETCH_JOB_H

#include "base/err.h"
#include "base/strv.h"

enum {
	JOB_FILES_MAX = 4096,
	JOB_URLS_MAX = 16,
	JOB_PARALLEL_MAX = 16,
	JOB_TEXT_MAX = 8 * 1024 * 1024,
	JOB_REDIRECTS_MAX = 8,
	JOB_NAME_MAX = 4096,
	JOB_DOCUMENT_MAX = 64 * 1024 * 1024,
};

/* In the order of enum fetch_why; the names are what goes over the pipe. */
enum why {
	WHY_OK,
	WHY_NETWORK,
	WHY_REFUSED,
	WHY_DENIED,
	WHY_MISSING,
	WHY_BUSY,
	WHY_DIGEST,
	WHY_DISK,
	WHY_ARCHIVE,
	WHY_INPUT
};
const char *why_name(enum why w);

/* What went wrong: the kind, and a sentence without a secret. */
struct fail {
	enum why why;
	char msg[ERR_MSG_MAX];
};
/* Sets *f and returns -1. */
int fail_set(struct fail *f, enum why why, const char *fmt, ...) PRINTF(3, 4);

enum op { OP_FILES, OP_TEXT, OP_HASH, OP_UNPACK };

struct policy {
	bool offline, plain_http;
	struct strv allow_hosts, deny;
};

struct job_file {
	struct strv urls, headers;
	char *to;
	uint64_t size;
	uint64_t head; /* so many bytes from the first are enough for now; 0: all of it */
	char *sha256;  /* NULL: none given */
	unsigned mode;
};

struct job {
	enum op op;
	struct job_file *files;
	size_t nfiles;
	char *into, *method;
	uint64_t unpack_max, rate, headroom, room;
	unsigned strip, parallel, tries;
	int64_t stall_ms;
	struct policy policy;
};

int job_parse(struct view json, struct job *ret, struct fail *f) MUST_CHECK;
void job_done(struct job *j);

#endif
