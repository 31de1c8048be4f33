/* SPDX-License-Identifier: Apache-2.0
 *
 * Asks the planner which node each wanted replica goes to. The facts are the registry's snapshot; the
 * answer is kept nowhere: the same facts give the same answer the next time.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "control/control_int.h"
#include "log/log.h"
#include "placement/placement.h"

struct scene { /* what the planner is given; all of it freed with the scene */
	struct placement_node *nodes;
	struct placement_offer *offers;
	struct placement_running *running;
	struct placement_want *wants;
	struct control_slot **slots; /* of wants */
	size_t nnodes, noffers, nrunning, nwants;
};

static void scene_done(struct scene *s)
{
	free(s->nodes);
	free(s->offers);
	free(s->running);
	free(s->wants);
	free(s->slots);
}

/* Every node knows every pool at home, and says itself what is missing when it is asked to start one. */
static void add_nodes(struct control *c, const struct registry_snapshot *s, struct scene *sc)
{
	sc->nodes = mem_alloc((s->nnodes + 1) * sizeof *sc->nodes);
	sc->offers = mem_alloc((s->nnodes * c->npools + 1) * sizeof *sc->offers);
	for (size_t i = 0; i < s->nnodes; i++) {
		const struct registry_node *n = s->nodes[i];
		sc->nodes[sc->nnodes++] = (struct placement_node){ .node_id = n->node_id,
			.live = n->online && n->registered && n->address };
		for (size_t k = 0; k < c->npools; k++)
			sc->offers[sc->noffers++] = (struct placement_offer){ .node_id = n->node_id,
				.pool_id = c->pools[k]->cfg->id,
				.model_present = true,
				.engine_possible = true };
	}
}

static bool runs(const struct registry_replica *r)
{
	enum replica_state s = r->facts.state;
	return s != REPLICA_ABSENT && s != REPLICA_STOPPED && s != REPLICA_FAILED;
}

static void add_running(const struct registry_snapshot *s, struct scene *sc)
{
	sc->running = mem_alloc((s->nreplicas + 1) * sizeof *sc->running);
	for (size_t i = 0; i < s->nreplicas; i++) {
		const struct registry_replica *r = s->replicas[i];
		if (runs(r))
			sc->running[sc->nrunning++] = (struct placement_running){ .node_id = r->node_id,
				.pool_id = r->facts.pool_id,
				.replica_id = r->facts.replica_id,
				.slots = r->facts.slots_total,
				.leases = r->facts.leases };
	}
}

static void add_wants(struct control *c, struct scene *sc)
{
	size_t cap = 1;
	for (size_t i = 0; i < c->npools; i++)
		cap += c->pools[i]->nslots;
	sc->wants = mem_alloc(cap * sizeof *sc->wants);
	sc->slots = mem_alloc(cap * sizeof *sc->slots);
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = c->pools[i];
		for (size_t k = 0; k < p->nslots; k++) {
			struct control_slot *s = p->slots[k];
			s->node = NULL;
			if (!s->plan.wanted && !s->in_pool) {
				s->placed = false;
				continue;
			}
			sc->slots[sc->nwants] = s;
			sc->wants[sc->nwants++] =
				(struct placement_want){ .pool_id = p->cfg->id, .replica_id = s->id };
		}
	}
}

static void tell(struct control *c, struct control_slot *s, const char *node, enum placement_reason why)
{
	if (s->placed)
		return;
	metric_inc(metrics_series(
		c->o.metrics, "corral_placement_decisions_total", node ? "placed" : "no_node", NULL));
	s->placed = node != NULL;
	if (node)
		log_event(LOG_DEBUG, "place", s->id,
			(struct log_field[]){
				LOG_STR("replica_id", s->id), LOG_STR("node_id", node), LOG_END },
			"Replica %s goes to node %s: %s.", s->id, node, placement_reason_text(why));
}

void control_place(struct control *c, const struct registry_snapshot *snap)
{
	AUTO(scene_done) struct scene sc = { 0 };
	add_nodes(c, snap, &sc);
	add_running(snap, &sc);
	add_wants(c, &sc);
	if (!sc.nwants)
		return;
	struct placement_facts f = { .nodes = sc.nodes,
		.nnodes = sc.nnodes,
		.offers = sc.offers,
		.noffers = sc.noffers,
		.running = sc.running,
		.nrunning = sc.nrunning,
		.wants = sc.wants,
		.nwants = sc.nwants };
	struct placement_arrays a = { .node_order = mem_alloc((sc.nnodes + 1) * sizeof(size_t)),
		.want_order = mem_alloc(sc.nwants * sizeof(size_t)),
		.loads = mem_alloc((sc.nnodes + 1) * sizeof(struct placement_load)),
		.candidates = mem_alloc((sc.nnodes * sc.nwants + 1) * sizeof(struct placement_candidate)) };
	struct placement_decision *d = mem_alloc(sc.nwants * sizeof *d);
	placement_plan(&f, NULL, &a, d);
	for (size_t i = 0; i < sc.nwants; i++) {
		struct control_slot *s = sc.slots[d[i].want];
		s->node = d[i].node == PLACEMENT_NONE ? NULL : sc.nodes[d[i].node].node_id;
		tell(c, s, s->node, d[i].reason);
	}
	free(a.node_order);
	free(a.want_order);
	free(a.loads);
	free(a.candidates);
	free(d);
}
