/* SPDX-License-Identifier: Apache-2.0
 *
 * The catalog's inside. Files: catalog.c what is known, and the thread · catalog_db.c the file ·
 * catalog_rows.c rows as plain data.
 */
#ifndef PROVISION_CATALOG_CATALOG_INT_H
#define PROVISION_CATALOG_CATALOG_INT_H

#include "provision/catalog/catalog.h"

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
