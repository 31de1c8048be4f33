/* SPDX-License-Identifier: Apache-2.0
 *
 * The keys that `corral key` makes, in a SQLite file of their own (0600). It is opened for one call and
 * closed again: an idle daemon keeps nothing of it, and the command line may write it while no daemon runs.
 * All calls wait for the disk: not for a loop.
 */
#ifndef AUTH_STORE_H
#define AUTH_STORE_H

#include "auth/auth.h"

#define AUTH_STORE_NAME "keys.db" /* in state_dir */

/* Appends all keys, in the order they were made. A file that is not there has none. */
int auth_store_load(const char *path, struct auth_list *l, struct err *reterr) MUST_CHECK;
/* -EEXIST: the name is taken. The file is made where there is none, and belongs to whom its folder belongs.
 * The disk has it when this returns 0. */
int auth_store_add(const char *path, const struct auth_key *k, struct err *reterr) MUST_CHECK;
/* By id or name; *ret gets the key that was deleted, a reference. -ENOENT: there is none. */
int auth_store_revoke(
	const char *path, struct view id_or_name, struct auth_key **ret, struct err *reterr) MUST_CHECK;

/* All keys there are, by where they come from. */
struct auth_sources {
	struct auth_list store, file, env;
	char *warning; /* of the keys_file; or NULL */
	char *problem; /* the store cannot be read: its keys hold not; or NULL */
};
/* keys_file may be NULL; env: CORRAL_API_KEYS, may be NULL. Only what is written wrongly fails. */
int auth_sources_load(const char *state_dir, const char *keys_file, const char *env, struct auth_sources *ret,
	struct err *reterr) MUST_CHECK;
void auth_sources_done(struct auth_sources *s);
static inline size_t auth_sources_count(const struct auth_sources *s)
{
	return s->store.n + s->file.n + s->env.n;
}

#endif
