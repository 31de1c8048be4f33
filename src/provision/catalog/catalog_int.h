/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog's inside. Files: catalog.c its life, and the thread that writes · catalog_models.c and
 * catalog_engines.c what is known · catalog_db.c the file · catalog_rows.c rows as plain data.
 */
#ifndef PROVISION_CATALOG_CATALOG_INT_H
#define PROVISION_CATALOG_CATALOG_INT_H

#include <pthread.h>

#include "base/map.h"
#include "provision/catalog/catalog.h"

struct catalog {
	char *path; /* NULL: in memory alone, no thread */
	pthread_t thread;
	pthread_mutex_t lock;              /* guards what follows, but db */
	pthread_cond_t wake;               /* for the thread: something waits, or the end */
	pthread_cond_t done;               /* for flush: an attempt ended */
	struct map models, engines, steps; /* id, "job\nordinal" → a row of ours */
	struct map waiting;                /* "m<id>", "e<id>", "s<job>\n<ordinal>": what the disk lacks */
	bool writing, stop, failing;
	uint64_t attempts;
	char *problem;
	struct catalog_db *db; /* the thread's; NULL: to be opened again */
};

void catalog_lock(struct catalog *c);
void catalog_unlock(struct catalog *c);
/* With the lock: the row is to be written, or deleted where it is not there any more. kind: of `waiting`. */
void catalog_changed(struct catalog *c, char kind, const char *key);
char *catalog_step_key(const char *job, uint32_t ordinal) MUST_CHECK; /* in `steps` */
void catalog_model_hide(struct catalog_model *m); /* no signature and no password is kept */
void catalog_drop_model(struct catalog_model *m); /* NULL allowed, as the next two */
void catalog_drop_engine(struct catalog_engine *e);
void catalog_drop_step(struct catalog_step *s);

/* The file, for one thread at a time. Codes are SQLite's, 0 well. */
struct catalog_db;
typedef void catalog_model_fn(void *arg, struct catalog_model *m); /* takes what is inside */
typedef void catalog_engine_fn(void *arg, struct catalog_engine *e);
typedef void catalog_step_fn(void *arg, struct catalog_step *s);
struct catalog_rows {
	catalog_model_fn *model;
	catalog_engine_fn *engine;
	catalog_step_fn *step;
	void *arg;
};
/* Opens, migrates, and hands all rows over. -EBADMSG: damaged, or no catalog; -EINVAL: a newer one; -EIO. */
int catalog_db_open(const char *path, const struct catalog_rows *rows, struct catalog_db **ret,
	struct err *reterr) MUST_CHECK;
void catalog_db_close(struct catalog_db *d);
/* Within one transaction; NULL in place of a row: it is deleted. 0, -EBADMSG, -EIO. */
int catalog_db_begin(struct catalog_db *d, struct err *reterr) MUST_CHECK;
int catalog_db_model(
	struct catalog_db *d, const char *id, const struct catalog_model *m, struct err *reterr) MUST_CHECK;
int catalog_db_engine(
	struct catalog_db *d, const char *id, const struct catalog_engine *e, struct err *reterr) MUST_CHECK;
int catalog_db_step(struct catalog_db *d, const char *job, uint32_t ordinal, const struct catalog_step *s,
	struct err *reterr) MUST_CHECK;
int catalog_db_commit(struct catalog_db *d, struct err *reterr) MUST_CHECK;
void catalog_db_rollback(struct catalog_db *d);

#endif
