/* SPDX-License-Identifier: Apache-2.0
 *
 * The lifecycle manager of one node as a process: wiring only. One loop; it reads the same file as
 * orchestratord at home, its own on a node of a fleet, and turns it into what src/node understands.
 */
#ifndef ROLE_ENGINE_PROVISIONER_H
#define ROLE_ENGINE_PROVISIONER_H

#include "config/config.h"
#include "provision/model/want.h"

/* Fetches without a daemon: `corral pull` where none runs. Blocks, on a loop of its own; SIGINT ends it, and
 * what is there stays for the next one. on_event: as the events of the node's pull. 0, or it told why not. */
struct agent_pull {
	struct model_set set;
	const char *sha256; /* NULL */
	bool snapshot;
	void (*on_event)(void *arg, struct view json);
	void *arg;
};
int engine_provisioner_pull(const struct config *c, const struct agent_pull *p);

/* engine-provisioner [--config F] [--set key=value]… [--registry ADDRESS]. Returns the exit status. */
int engine_provisioner_main(int argc, char **argv);

#endif
