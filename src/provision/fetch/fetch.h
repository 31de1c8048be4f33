/* SPDX-License-Identifier: Apache-2.0
 *
 * Downloads, digests and archives, by a process of their own: `corral-fetch` (fetch/), which alone links
 * libcurl and libarchive. This is the side that starts it: one child a job, asked by one JSON document on its
 * standard input, heard by JSON Lines on its standard output. Control loop of the node, or a command's own
 * loop; nothing here blocks.
 *
 * Files. Each is made beside its place as `<to>.part` with `<to>.part.json` (what is there already: ranges
 * written and hashed, size, digest, the server's validator), locked (flock) by the process that works on it:
 * a second one waits for the first and then finds the file whole. Resumed after a kill, a reset or a restart
 * with no byte asked for twice and, where the server sends in order, none read twice from the disk. When
 * whole: fsync, digest compared, rename, fsync of the folder. A wrong digest removes the part and is an
 * error.
 *
 * Bounds: FETCH_FILES_MAX files a job, FETCH_URLS_MAX mirrors of each, FETCH_PARALLEL_MAX connections,
 * FETCH_TEXT_MAX of a document, FETCH_REDIRECTS_MAX hops, names of FETCH_NAME_MAX bytes.
 */
#ifndef PROVISION_FETCH_FETCH_H
#define PROVISION_FETCH_FETCH_H

#include "base/err.h"
#include "base/strv.h"
#include "loop/loop.h"

enum {
	FETCH_FILES_MAX = 4096,
	FETCH_URLS_MAX = 16,
	FETCH_PARALLEL_MAX = 16,
	FETCH_TEXT_MAX = 8 * 1024 * 1024,
	FETCH_REDIRECTS_MAX = 8,
	FETCH_NAME_MAX = 4096,
};

/* What may be reached; looked at again for every hop of a redirect. A line of the policy that refuses
 * something is named in the error ("network.deny: *.example.org"). */
struct fetch_policy {
	bool offline;            /* nothing but file: */
	struct strv allow_hosts; /* "huggingface.co", "*.hf.co", "10.0.0.5:9000"; empty: all */
	struct strv deny;        /* the same shape; wins over allow_hosts */
	/* plain http: to hosts other than loopback is refused unless allowed; credentials never go over it */
	bool plain_http;
};

struct fetch_file {
	struct strv urls;    /* https:, http:, file:; tried in turn, each failure moves on to the next */
	struct strv headers; /* "Name: value", sent to the host (and port) of the URL alone, not where it
				redirects to */
	char *to;            /* absolute; its folder is made */
	uint64_t size;       /* 0: the server says */
	/* FETCH_FILES: the first so many bytes, which stay `<to>.part` for whoever asks for the rest;
	 * found.size is the whole file's, 0 where the server does not say it. 0: all of it */
	uint64_t head;
	char *sha256;  /* 64 lower-case hex digits; NULL: computed and told */
	uint32_t mode; /* permission bits, 0 = 0644 */
};
void fetch_file_done(struct fetch_file *f);

enum fetch_op {
	FETCH_FILES,  /* `files` onto the disk */
	FETCH_TEXT,   /* one document (files[0].urls, no `to`) into memory: any status is an answer */
	FETCH_HASH,   /* SHA-256 of what lies at files[].to: told, and compared where one is given */
	FETCH_UNPACK, /* files[0].to (tar of any compression, zip) into the folder `into`, which must not be
			 there: made beside it, fsynced, renamed. Refused: absolute names, `..`, links that
			 lead out, device files, more than unpack_max bytes or 1,000,000 members */
};

struct fetch_request {
	enum fetch_op op;
	struct fetch_file *files;
	size_t nfiles;
	const char *into;
	uint64_t unpack_max; /* 0 = 64 GiB */
	unsigned strip;      /* leading folders of an archive's names to drop */
	unsigned parallel;   /* connections at a time over all files; 0 = 4 */
	uint64_t rate;       /* bytes a second, 0 = no limit */
	uint64_t headroom;   /* bytes of disk to leave free; refused before the first byte */
	/* FETCH_FILES: bytes that all of them may have together, those that lie there from a fetch before
	 * too: what is left of models_quota. Refused (FETCH_DISK) where a size is told, else when so many
	 * came; 0: no bound */
	uint64_t room;
	int64_t stall_ms; /* a connection that brings nothing for so long is given up; 0 = 30 s */
	unsigned tries;   /* of one URL without a byte of progress between them; 0 = 5, with growing pauses */
	const char *method; /* FETCH_TEXT: NULL = GET */
	struct fetch_policy policy;
};

enum fetch_phase { FETCH_WAITING, FETCH_FETCHING, FETCH_VERIFYING, FETCH_UNPACKING };
struct fetch_progress {
	enum fetch_phase
		phase;         /* WAITING: another process fetches the same, or a pause before the next try */
	uint64_t bytes, total; /* of all files, with what was there; total 0: not known yet */
	uint64_t rate;         /* bytes a second, of the last seconds */
	int64_t eta_ms;        /* -1: not known */
	const char *text;      /* a sentence */
};

/* A file as it is now on the disk, or as it was found. */
struct fetch_found {
	char *path, *sha256;
	uint64_t size;
	bool was_there; /* nothing was fetched for it */
	uint64_t bytes_fetched;
};

struct fetch_result {
	struct fetch_found *files; /* FETCH_FILES, FETCH_HASH: as many as asked, in order */
	size_t nfiles;
	int status;          /* FETCH_TEXT */
	struct strv headers; /* of the last answer and, before it, of each redirect: "Name: value" */
	char *text;          /* UTF-8, or NULL */
	char *url;           /* where it came from at last */
	uint64_t unpacked;   /* bytes */
};

enum fetch_why {
	FETCH_OK,
	FETCH_NETWORK, /* all mirrors failed, stalled or could not be reached */
	FETCH_REFUSED, /* by the policy; the line is in the message */
	FETCH_DENIED,  /* 401 or 403: a gated or private place */
	FETCH_MISSING, /* 404, 410 */
	FETCH_BUSY,    /* 429 until the tries ran out */
	FETCH_DIGEST,  /* not the bytes that were promised, also a wrong size */
	FETCH_DISK,    /* no room, read-only, no permission */
	FETCH_ARCHIVE, /* broken, or one of those that are refused */
	FETCH_INPUT,   /* the request itself */
	FETCH_CRASHED, /* the process ended without a word */
};
const char *fetch_why_name(enum fetch_why w);

struct fetch_job;
struct fetch_ops {
	void (*on_progress)(
		void *arg, const struct fetch_progress *p); /* may be NULL; at most ten a second */
	/* Once. err->msg is a whole sentence with the URL (secrets out), what came and what to do; NULL on
	 * success. The job is gone when it returns; res is valid inside. May cancel nothing else. */
	void (*on_done)(void *arg, const struct fetch_result *res, enum fetch_why why, const struct err *err);
};
/* program: the path of corral-fetch; NULL: beside our own executable. q is copied. */
int fetch_start(struct loop *l, const char *program, const struct fetch_request *q,
	const struct fetch_ops *ops, void *arg, struct fetch_job **ret, struct err *reterr) MUST_CHECK;
/* No callback any more; the process is ended (what is there stays for the next one). NULL inside allowed. */
void fetch_cancel(struct fetch_job **j);

#endif
