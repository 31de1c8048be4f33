/* SPDX-License-Identifier: Apache-2.0
 *
 * What of engines lies on this machine, of all modes: builds out of sources, unpacked packages and archives,
 * images that were pinned. And what a pool's definition comes to: which of them it takes, which one it took
 * before. Reads and writes the files of source.h, engine_int.h (package, archive, container); no state of its
 * own. Blocks for the disk: for a command, or a thread.
 */
#ifndef PROVISION_ENGINE_BUILDS_H
#define PROVISION_ENGINE_BUILDS_H

#include "base/buf.h"
#include "provision/engine/engine.h"

struct engine_kept {
	enum engine_mode mode;
	char *kind; /* "llamacpp"; an image: "-" */
	char *name; /* "source-<hash>", "package-<version>", "binary-<12 digits>", "registry/name@sha256:…" */
	char *path;                                   /* the folder; of an image the file that pins it */
	char *version, *backend, *created;            /* NULL: not known */
	char *commit, *ref, *repo, *flags, *compiler; /* of a source build */
	bool current, last; /* what some definition takes now; what a rollback goes back to */
	uint64_t bytes;     /* on the disk; of an image 0: its runtime keeps it */
};
struct engine_kepts {
	struct engine_kept *items; /* by mode, the newest first */
	size_t len;
};
void engine_kepts_read(const char *prefix_dir, struct engine_kepts *ret);
void engine_kepts_done(struct engine_kepts *k);
/* The one that is meant by a name, a version, a commit, or the beginning of one. -ENOENT, -EEXIST: several.
 */
int engine_kepts_find(
	const struct engine_kepts *k, const char *name, size_t *ret, struct err *reterr) MUST_CHECK;
/* Its folder, and the records that name it; of an image the pin alone. */
int engine_kept_remove(const char *prefix_dir, const struct engine_kept *k, struct err *reterr) MUST_CHECK;

/* What a definition comes to on this machine as it is now. */
struct engine_outlook {
	enum engine_mode mode;  /* what auto becomes */
	bool here;              /* nothing has to be fetched or built */
	char *what;             /* for engine_plan: the image, the program; NULL */
	char *name;             /* of the build that is here, as in engine_kept; NULL: none of ours */
	char *version, *digest; /* of it: digest a commit's, an image's or an archive's */
	uint64_t bytes;         /* of it, 0: not known */
};
void engine_outlook_read(
	const struct engine_def *def, const struct engine_ensure_opts *o, struct engine_outlook *ret);
void engine_outlook_done(struct engine_outlook *l);
/* ---- who takes what (takers.c) ------------------------------------------------------------------- */

struct engine_taker { /* a pool, as far as its engine goes */
	char *id;
	struct engine_def def;
	struct engine_ensure_opts opts; /* what it points to is the caller's */
	struct engine_outlook now;      /* since it was looked at last */
};
struct engine_takers {
	struct engine_taker *items;
	size_t len;
};
/* The caller fills def and opts; valid until the next one. */
struct engine_taker *engine_takers_add(struct engine_takers *t, const char *id) MUST_CHECK;
struct engine_taker *engine_takers_find(const struct engine_takers *t, const char *id); /* NULL: none */
void engine_takers_look(struct engine_takers *t);
void engine_takers_done(struct engine_takers *t);
bool engine_kept_taken(const struct engine_kept *k, const struct engine_taker *t);
/* Appends their ids, with commas. */
void engine_kept_pools(const struct engine_kept *k, const struct engine_takers *t, struct buf *ret);
/* -EBUSY: some pool takes it; the sentence says which. */
int engine_kept_free(
	const struct engine_kept *k, const struct engine_takers *t, struct err *reterr) MUST_CHECK;

/* -EINVAL: its engine is the one that the configuration names, which no upgrade changes. */
int engine_upgrade_check(const struct engine_outlook *l, struct err *reterr) MUST_CHECK;
/* Back to the build before the current one; once more undoes it. *ret_text: what is current now. */
int engine_rollback(const struct engine_def *def, const struct engine_ensure_opts *o, char **ret_text,
	struct err *reterr) MUST_CHECK;

#endif
