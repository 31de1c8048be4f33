/* SPDX-License-Identifier: Apache-2.0
 *
 * What others are shown of pools.
 */
#include "control/control_int.h"

#include <stdlib.h>

#include "base/mem.h"

const char *pool_state_name(enum pool_state s)
{
	static const char *const names[] = { "unloaded", "provisioning", "starting", "proving", "ready",
		"draining", "backoff", "failed" };
	return names[s];
}

const struct config *control_config(const struct control *c)
{
	return c->config;
}

struct control_pool *control_pool_find(struct control *c, struct view name)
{
	return map_get(&c->by_name, name);
}

struct control_pool *control_pool_at(struct control *c, size_t i)
{
	return i < c->nby_id ? c->by_id[i] : NULL;
}

const struct config_pool *control_pool_config(const struct control_pool *p)
{
	return p->cfg;
}

struct pool *control_pool_traffic(const struct control_pool *p)
{
	return p->pool;
}

const char *control_pool_model(const struct control_pool *p)
{
	return p->variant.model ? p->variant.model : p->cfg->model;
}

bool control_pool_reloading(const struct control_pool *p)
{
	return p->reload != NULL;
}

const struct wire_error *control_pool_reload_error(const struct control_pool *p)
{
	return p->reload_error.message ? &p->reload_error : NULL;
}

static enum pool_state state_of(enum replica_state s)
{
	switch (s) {
	case REPLICA_READY: return POOL_STATE_READY;
	case REPLICA_PROVING: return POOL_STATE_PROVING;
	case REPLICA_STARTING: return POOL_STATE_STARTING;
	case REPLICA_PROVISIONING: return POOL_STATE_PROVISIONING;
	case REPLICA_DRAINING: return POOL_STATE_DRAINING;
	case REPLICA_BACKOFF: return POOL_STATE_BACKOFF;
	case REPLICA_FAILED: return POOL_STATE_FAILED;
	default: return POOL_STATE_UNLOADED;
	}
}

enum pool_state control_pool_state(struct control *c, struct control_pool *p)
{
	/* the best first */
	static const enum pool_state order[] = { POOL_STATE_READY, POOL_STATE_PROVING, POOL_STATE_STARTING,
		POOL_STATE_PROVISIONING, POOL_STATE_BACKOFF, POOL_STATE_FAILED, POOL_STATE_DRAINING,
		POOL_STATE_UNLOADED };
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
	unsigned seen = 1u << POOL_STATE_UNLOADED;
	for (size_t i = 0; rp && i < rp->nreplicas; i++)
		seen |= 1u << (rp->replicas[i]->online ? state_of(rp->replicas[i]->facts.state)
						       : POOL_STATE_UNLOADED);
	if (p->op != OP_NONE && p->op != OP_RESTART)
		return POOL_STATE_DRAINING; /* unloaded is what it is when the order is carried out, no sooner
					     */
	if (rp && rp->held)
		return seen & ((1u << POOL_STATE_READY) | (1u << POOL_STATE_DRAINING)) ? POOL_STATE_DRAINING
										       : POOL_STATE_UNLOADED;
	for (size_t i = 0; i < ARRAY_LEN(order); i++)
		if (seen & (1u << order[i]))
			return order[i];
	return POOL_STATE_UNLOADED;
}

bool control_pool_preloading(struct control *c, struct control_pool *p)
{
	return p->cfg->preload && !p->external && !p->was_ready && !pool_is_held(p) && !p->room_refused &&
	       control_pool_state(c, p) != POOL_STATE_FAILED;
}

static void report_one(void *arg, const struct pool_replica *r)
{
	struct registry_leases **at = arg;
	**at = (struct registry_leases){
		.replica_id = mem_strdup(r->id), .generation = r->generation, .leases = r->in_use + r->cooling
	};
	++*at;
}

void control_report_leases(struct control *c)
{
	size_t cap = 0;
	for (size_t i = 0; i < c->npools; i++)
		cap += c->pools[i]->nslots;
	struct registry_leases *list = mem_alloc((cap + 1) * sizeof *list), *at = list;
	for (size_t i = 0; i < c->npools; i++)
		pool_each_replica(c->pools[i]->pool, report_one, &at);
	registry_report_leases(c->o.registry, list, (size_t)(at - list));
	for (struct registry_leases *l = list; l < at; l++)
		free((char *)(uintptr_t)l->replica_id);
	free(list);
}
