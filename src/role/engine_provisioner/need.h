/* SPDX-License-Identifier: Apache-2.0
 *
 * From a model's header and a pool's arguments to what the planner is told. The node's loop; nothing is kept.
 */
#ifndef ROLE_ENGINE_PROVISIONER_NEED_H
#define ROLE_ENGINE_PROVISIONER_NEED_H

#include "node/node.h"

/* What a replica of p needs in memory, as wire_need_encode writes it; the caller frees it. NULL: not known,
 * and why is logged. Reads the headers of path and of what the arguments name: blocks on the disk. */
char *agent_need(const struct node_pool *p, const char *path, uint32_t ctx) MUST_CHECK;

#endif
