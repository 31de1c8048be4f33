/* SPDX-License-Identifier: Apache-2.0
 *
 * Gauges set anew at each exposition, from the pools' and the registry's own state, so that /metrics and
 * /v1/pools tell the same.
 */
#include "control/control_int.h"

#include "base/mem.h"

static void set1(struct metrics *m, const char *family, const char *a, double v)
{
	metric_set(metrics_series(m, family, a, NULL), v);
}

static void set2(struct metrics *m, const char *family, const char *a, const char *b, double v)
{
	metric_set(metrics_series(m, family, a, b, NULL), v);
}

/* A failed replica that will be tried again by itself is one whose breaker is open. */
static bool breaker_open(const struct registry_snapshot *s, const char *pool)
{
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(pool));
	for (size_t i = 0; rp && i < rp->nreplicas; i++)
		if (rp->replicas[i]->facts.state == REPLICA_FAILED && rp->replicas[i]->facts.retry_in_ms >= 0)
			return true;
	return false;
}

/* Of a pool that is gone: nothing runs and nobody waits. */
void figures_forget(struct control_pool *p)
{
	struct metrics *m = p->control->o.metrics;
	const char *id = p->cfg->id;
	set1(m, "corral_requests_running", id, 0);
	set2(m, "corral_requests_waiting", id, "interactive", 0);
	set2(m, "corral_requests_waiting", id, "batch", 0);
	set1(m, "corral_leases", id, 0);
	set2(m, "corral_pool_slots", id, "free", 0);
	set2(m, "corral_pool_slots", id, "leased", 0);
	set2(m, "corral_pool_slots", id, "cooling", 0);
	set1(m, "corral_pool_ready", id, 0);
	set1(m, "corral_breaker_state", id, 0);
}

void control_collect(void *arg, struct metrics *m)
{
	struct control *c = arg;
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = c->pools[i];
		const char *id = p->cfg->id;
		struct pool_stats s;
		pool_get_stats(p->pool, &s);
		set1(m, "corral_requests_running", id, s.leases);
		set2(m, "corral_requests_waiting", id, "interactive", s.waiting[POOL_INTERACTIVE]);
		set2(m, "corral_requests_waiting", id, "batch", s.waiting[POOL_BATCH]);
		set1(m, "corral_leases", id, s.leases + s.cooling);
		set2(m, "corral_pool_slots", id, "free", s.slots_free);
		set2(m, "corral_pool_slots", id, "leased", s.leases);
		set2(m, "corral_pool_slots", id, "cooling", s.cooling);
		set1(m, "corral_pool_ready", id, control_pool_state(c, p) == POOL_STATE_READY);
	}
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	for (size_t i = 0; i < c->npools; i++)
		set1(m, "corral_breaker_state", c->pools[i]->cfg->id,
			breaker_open(s, c->pools[i]->cfg->id) ? 2 : 0);
	unsigned online = 0;
	for (size_t i = 0; i < s->nnodes; i++)
		online += s->nodes[i]->online;
	set1(m, "corral_nodes", "online", online);
	set1(m, "corral_nodes", "offline", (double)(s->nnodes - online));
	metric_set(metrics_series(m, "corral_registry_revision", NULL), (double)s->revision);
}
