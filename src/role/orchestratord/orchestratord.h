/* SPDX-License-Identifier: Apache-2.0
 *
 * The control plane as a process: wiring only. One control loop on the calling thread, N data loops on
 * threads of their own, the registry linked in, engine-provisioner as a process of its own.
 */
#ifndef ROLE_ORCHESTRATORD_H
#define ROLE_ORCHESTRATORD_H

#include "config/config.h"

struct orchestratord_opts {
	struct config *config;
	const struct config_source *source; /* read again by a reload, and passed on to engine-provisioner */
	/* Looks at the models' files, on any thread: what cannot be served now goes to ret. True: one
	 * contradicts its model for ever, and a reload is refused for it. NULL: not looked at. */
	bool (*check_models)(const struct config *c, struct config_errors *ret);
	bool owns_engines; /* `corral serve`: ending stops provisioner and engines too */
	bool keep_engines; /* …unless this */
	int ready_fd;      /* -1: none */
};
/* Runs until SIGTERM or SIGINT (twice: at once). Returns the process's exit status. */
int orchestratord_run(const struct orchestratord_opts *o);

#endif
