/* SPDX-License-Identifier: Apache-2.0
 *
 * From a model's header and a pool's arguments to what the planner is told. Nothing is kept.
 */
#ifndef ROLE_ENGINE_PROVISIONER_NEED_H
#define ROLE_ENGINE_PROVISIONER_NEED_H

#include "gguf/estimate.h"
#include "node/node.h"

/* What `ctx: auto` may become: the model's own, at most the most; where that is not free less, in steps, not
 * under the least (or the model's own, where that is smaller). */
enum { CTX_AUTO_LEAST = 8192, CTX_AUTO_MOST = 131072, CTX_AUTO_STEPS = 8 };
uint32_t agent_auto_ctx(uint64_t trained); /* the least; trained 0: not known */

/* Sets m's need, NULL where it is not known, which is logged: of a replica of p with m's path and ctx. grows:
 * larger, too, up to m's n_ctx_train. Reads the headers of the path and of what the arguments name, and the
 * ledger of what was learned in state_dir: blocks on the disk. Any thread. */
void agent_needs(const struct node_pool *p, const char *state_dir, bool grows, struct wire_model *m);

/* What was learned of it instead of the formula, where something was (need_learned.c). gpu, cpu: the
 * estimates n was made from, of f and a. */
void need_learned(const char *state_dir, const struct node_pool *p, const struct estimate_files *f,
	const struct estimate_args *a, const struct estimate *gpu, const struct estimate *cpu,
	struct wire_need *n);

#endif
