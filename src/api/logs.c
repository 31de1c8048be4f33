/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/pools/{id}/logs: the engine's own output, passed through from the node that keeps it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_int.h"
#include "base/mem.h"
#include "base/num.h"

/* "<pool>-<n>", and nothing else: another pool's name may begin with this one's. */
static bool is_replica_of(const char *replica, const char *pool)
{
	size_t n = strlen(pool);
	uint64_t index;
	return strncmp(replica, pool, n) == 0 && replica[n] == '-' &&
	       num_u64(view_str(replica + n + 1), &index) == 0;
}

/* The pool's replica that tells most: one that is ready, else the first that is there. */
static void pick_replica(struct api *a, const char *pool, char *out, size_t cap)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(pool));
	const struct registry_replica *best = NULL;
	for (size_t i = 0; rp && i < rp->nreplicas; i++)
		if (!best || (rp->replicas[i]->ready && !best->ready))
			best = rp->replicas[i];
	if (best)
		snprintf(out, cap, "%s", best->facts.replica_id);
	else
		snprintf(out, cap, "%s-0", pool);
}

void route_pool_logs(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p || refuse_when_draining(a, c))
		return;
	char replica[POOL_ID_MAX + 8], tail[24] = "200", follow[8] = "0";
	uint64_t n;
	struct view q = view_str(c->query);
	if (!q.p || !http_query_get(q, "replica", replica, sizeof replica))
		pick_replica(a, control_pool_config(p)->id, replica, sizeof replica);
	if (q.p && http_query_get(q, "tail", tail, sizeof tail) && num_u64(view_str(tail), &n) < 0) {
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "tail is a number of lines.");
		return;
	}
	if (q.p)
		http_query_get(q, "follow", follow, sizeof follow);
	if (!is_replica_of(replica, control_pool_config(p)->id)) {
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "replica is one of the pool's, such as %s-0.",
			control_pool_config(p)->id);
		return;
	}
	AUTO(mem_freep)
	char *path = mem_fmt("/v1/node/replicas/%s/logs?tail=%s&follow=%s", replica, tail,
		strcmp(follow, "1") == 0 || strcmp(follow, "true") == 0 ? "1" : "0");
	api_relay_log(a, c, path);
}
