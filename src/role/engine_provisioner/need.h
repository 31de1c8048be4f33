/* SPDX-License-Identifier: Apache-2.0
 *
 * From a model's header and a pool's arguments to what the planner is told. The node's loop; nothing is kept.
 */
#ifndef ROLE_ENGINE_PROVISIONER_NEED_H
#define ROLE_ENGINE_PROVISIONER_NEED_H

#include "gguf/estimate.h"
#include "node/node.h"

/* What a replica of p needs in memory, as wire_need_encode writes it; the caller frees it. NULL: not known,
 * and why is logged. Reads the headers of path and of what the arguments name, and the ledger of what was
 * learned in state_dir: blocks on the disk. */
char *agent_need(const struct node_pool *p, const char *path, uint32_t ctx, const char *state_dir) MUST_CHECK;

/* What was learned of it instead of the formula, where something was (need_learned.c). gpu, cpu: the
 * estimates n was made from, of f and a. */
void need_learned(const char *state_dir, const struct node_pool *p, const struct estimate_files *f,
	const struct estimate_args *a, const struct estimate *gpu, const struct estimate *cpu,
	struct wire_need *n);

#endif
