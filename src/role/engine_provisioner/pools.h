/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration's pools as src/node understands them. Plain data; the caller owns what it gets.
 */
#ifndef ROLE_ENGINE_PROVISIONER_POOLS_H
#define ROLE_ENGINE_PROVISIONER_POOLS_H

#include "config/config.h"
#include "node/node.h"
#include "provision/model/want.h"
#include "role/engine_provisioner/found.h"

struct agent_pools {
	struct node_pool *items;
	size_t len;
};
/* found: what a model that was found needs for its engine is read there. */
void agent_pools_make(const struct config *c, const struct stores_found *found, struct agent_pools *ret);
void agent_pools_done(struct agent_pools *p); /* for AUTO(agent_pools_done) */
/* How a pool's engine gets here; d is the caller's, zeroed. */
void agent_engine_def(const struct config_engine *c, struct engine_def *d);

/* How models are fetched. The strings of opts are c's: for as long as c is there. */
struct agent_fetch {
	struct model_ensure_opts opts;
	struct stores_roots roots;
};
void agent_fetch_make(const struct config *c, struct agent_fetch *ret); /* ret is done first */
void agent_fetch_done(struct agent_fetch *f);

/* Where a model would be, also when it is not there yet: the node says what is missing, each time it looks.
 */
char *agent_model_path(const struct config *c, const char *ref, enum model_want want) MUST_CHECK;

#endif
