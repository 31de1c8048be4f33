/* SPDX-License-Identifier: Apache-2.0
 *
 * Engines without a daemon: what getting them would take, getting them, what lies on the disk. Prints; blocks
 * until it is done, on a loop of its own. A daemon that builds at the same time is waited for (a lock).
 */
#ifndef ROLE_ENGINE_PROVISIONER_ENGINES_H
#define ROLE_ENGINE_PROVISIONER_ENGINES_H

#include "config/config.h"

struct engines_opts {
	const char *verb; /* plan, provision, ls, rm, rollback, outdated, upgrade */
	const struct config *config;
	const char *name; /* a pool, or a build; NULL: all */
	/* upgrade: a tag, branch or commit; a version of the archive; an image's tag or digest. NULL: what
	 * the pool asks for, looked up anew */
	const char *to;
	bool json, force, color;
	bool *ret_changed; /* upgrade: for each of the configuration's pools whether it has another build now
			    */
	bool *ret_skipped; /* upgrade of all: set where the configuration names the engine; NULL: an error */
};
/* The exit status: 0, or 1 after it said why. */
int engines_run(const struct engines_opts *o);

#endif
