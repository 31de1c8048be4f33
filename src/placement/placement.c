/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/placement.h"

#include <string.h>

static const char *const reason_texts[] = {
	[PLACE_RUNS_HERE] = "it runs here already",
	[PLACE_ONLY_ONE] = "no other node can take it",
	[PLACE_FEWEST_REPLICAS] = "the node has the fewest replicas",
	[PLACE_LEAST_LOADED] = "the node is the least loaded",
	[PLACE_FIRST_BY_ID] = "nothing tells the nodes apart, and this one comes first by name",
	[PLACE_RUNS_ELSEWHERE] = "it runs on another node already",
	[PLACE_MORE_REPLICAS] = "the node has more replicas",
	[PLACE_MORE_LOADED] = "the node is more loaded",
	[PLACE_LATER_BY_ID] = "the node is as good, but comes later by name",
	[PLACE_NODE_OFFLINE] = "the node is offline",
	[PLACE_NODE_DRAINING] = "the node is draining",
	[PLACE_NODE_CORDONED] = "the node is cordoned",
	[PLACE_NO_MODEL] = "the model is not on the node",
	[PLACE_NO_ENGINE] = "no engine for it can be had on the node",
	[PLACE_NODE_FULL] = "the node has as many replicas as the policy allows",
	[PLACE_NO_NODES] = "no node is known",
	[PLACE_NONE_FEASIBLE] = "no node can take it",
};
static_assert(ARRAY_LEN(reason_texts) == PLACE_REASON_COUNT, "one text per reason");

const char *placement_reason_text(enum placement_reason r)
{
	return (unsigned)r < PLACE_REASON_COUNT ? reason_texts[r] : "unknown";
}

/* a ÷ b against c ÷ d without a division; nothing of nothing is no load. 32-bit operands cannot overflow. */
static int cmp_load(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
	__extension__ typedef unsigned __int128 wide;
	wide l = (wide)a * (d ? d : 1), r = (wide)c * (b ? b : 1);
	return l < r ? -1 : l > r;
}

/* Order. A heap sort: no allocation, no bad case. */

typedef int order_fn(const struct placement_facts *f, size_t a, size_t b);

static int by_node(const struct placement_facts *f, size_t a, size_t b)
{
	return strcmp(f->nodes[a].node_id, f->nodes[b].node_id);
}

static int by_want(const struct placement_facts *f, size_t a, size_t b)
{
	int c = strcmp(f->wants[a].pool_id, f->wants[b].pool_id);
	return c ? c : strcmp(f->wants[a].replica_id, f->wants[b].replica_id);
}

static void sift(const struct placement_facts *f, order_fn *cmp, size_t *v, size_t i, size_t n)
{
	for (size_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && cmp(f, v[child], v[child + 1]) < 0)
			child++;
		if (cmp(f, v[i], v[child]) >= 0)
			return;
		size_t t = v[i];
		v[i] = v[child];
		v[child] = t;
	}
}

static void sort(const struct placement_facts *f, order_fn *cmp, size_t *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		v[i] = i;
	for (size_t i = n / 2; i-- > 0;)
		sift(f, cmp, v, i, n);
	for (size_t end = n; end-- > 1;) {
		size_t t = v[0];
		v[0] = v[end];
		v[end] = t;
		sift(f, cmp, v, 0, end);
	}
}

/* Index of the node in facts.nodes by its id, through the sorted order. */
static size_t find_node(const struct placement_facts *f, const size_t *order, const char *id)
{
	size_t lo = 0, hi = f->nnodes;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(f->nodes[order[mid]].node_id, id);
		if (c == 0)
			return order[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return PLACEMENT_NONE;
}

static void count_loads(const struct placement_facts *f, const size_t *order, struct placement_load *loads)
{
	memset(loads, 0, f->nnodes * sizeof *loads);
	for (size_t i = 0; i < f->nrunning; i++) {
		size_t n = find_node(f, order, f->running[i].node_id);
		if (n == PLACEMENT_NONE)
			continue;
		loads[n].replicas++;
		loads[n].slots += f->running[i].slots;
		loads[n].leases += f->running[i].leases;
	}
}

static bool runs_on(const struct placement_facts *f, const struct placement_want *w, const char *node_id)
{
	for (size_t i = 0; i < f->nrunning; i++)
		if (strcmp(f->running[i].replica_id, w->replica_id) == 0 &&
			strcmp(f->running[i].pool_id, w->pool_id) == 0 &&
			strcmp(f->running[i].node_id, node_id) == 0)
			return true;
	return false;
}

static const struct placement_offer *offer_of(
	const struct placement_facts *f, const struct placement_want *w, const char *node_id)
{
	for (size_t i = 0; i < f->noffers; i++)
		if (strcmp(f->offers[i].pool_id, w->pool_id) == 0 &&
			strcmp(f->offers[i].node_id, node_id) == 0)
			return &f->offers[i];
	return NULL;
}

/* Feasible when the result is PLACE_RUNS_HERE (it does) or PLACE_ONLY_ONE (it could). */
static enum placement_reason feasible(const struct placement_facts *f, const struct placement_policy *policy,
	const struct placement_want *w, size_t n, const struct placement_load *load)
{
	const struct placement_node *node = &f->nodes[n];
	if (!node->live)
		return PLACE_NODE_OFFLINE;
	if (node->draining)
		return PLACE_NODE_DRAINING;
	if (runs_on(f, w, node->node_id))
		return PLACE_RUNS_HERE; /* what runs needs no cordon, model or room asked for again */
	if (node->cordoned)
		return PLACE_NODE_CORDONED;
	const struct placement_offer *offer = offer_of(f, w, node->node_id);
	if (!offer || !offer->model_present)
		return PLACE_NO_MODEL;
	if (!offer->engine_possible)
		return PLACE_NO_ENGINE;
	if (policy && policy->replicas_per_node && load->replicas >= policy->replicas_per_node)
		return PLACE_NODE_FULL;
	return PLACE_ONLY_ONE;
}

static bool is_feasible(enum placement_reason r)
{
	return r == PLACE_RUNS_HERE || r == PLACE_ONLY_ONE;
}

/* What makes a better than b; both feasible. PLACE_FIRST_BY_ID: nothing but the order. */
static int compare(const struct placement_candidate *a, const struct placement_candidate *b,
	const struct placement_load *loads, enum placement_reason *ret_by)
{
	const struct placement_load *x = &loads[a->node], *y = &loads[b->node];
	int c = (b->reason == PLACE_RUNS_HERE) - (a->reason == PLACE_RUNS_HERE);
	*ret_by = PLACE_RUNS_HERE;
	if (!c) {
		c = x->replicas < y->replicas ? -1 : x->replicas > y->replicas;
		*ret_by = PLACE_FEWEST_REPLICAS;
	}
	if (!c) {
		c = cmp_load(x->leases, x->slots, y->leases, y->slots);
		*ret_by = PLACE_LEAST_LOADED;
	}
	if (!c)
		*ret_by = PLACE_FIRST_BY_ID;
	return c;
}

static enum placement_reason loser_reason(enum placement_reason by)
{
	switch (by) {
	case PLACE_RUNS_HERE: return PLACE_RUNS_ELSEWHERE;
	case PLACE_FEWEST_REPLICAS: return PLACE_MORE_REPLICAS;
	case PLACE_LEAST_LOADED: return PLACE_MORE_LOADED;
	default: return PLACE_LATER_BY_ID;
	}
}

static void decide(const struct placement_facts *f, const struct placement_policy *policy,
	const struct placement_arrays *a, struct placement_candidate *cand, struct placement_decision *d)
{
	const struct placement_want *w = &f->wants[d->want];
	size_t best = PLACEMENT_NONE;
	enum placement_reason by;
	for (size_t i = 0; i < f->nnodes; i++) {
		size_t n = a->node_order[i];
		cand[i] = (struct placement_candidate){ n, feasible(f, policy, w, n, &a->loads[n]) };
		/* Earlier by id stays where they are equal. */
		if (is_feasible(cand[i].reason) &&
			(best == PLACEMENT_NONE || compare(&cand[i], &cand[best], a->loads, &by) < 0))
			best = i;
	}
	d->candidates = cand;
	d->ncandidates = f->nnodes;
	d->node = PLACEMENT_NONE;
	d->reason = f->nnodes ? PLACE_NONE_FEASIBLE : PLACE_NO_NODES;
	if (best == PLACEMENT_NONE)
		return;
	/* The choice is explained by the closest loser: the finest rule that was needed. */
	const struct placement_candidate winner = cand[best];
	d->node = winner.node;
	d->reason = winner.reason;
	for (size_t i = 0; i < f->nnodes; i++) {
		if (i == best || !is_feasible(cand[i].reason))
			continue;
		compare(&winner, &cand[i], a->loads, &by);
		cand[i].reason = loser_reason(by);
		if (winner.reason != PLACE_RUNS_HERE)
			d->reason = MAX(d->reason, by);
	}
	cand[best].reason = d->reason;
	if (winner.reason != PLACE_RUNS_HERE)
		a->loads[winner.node].replicas++;
}
static_assert(PLACE_RUNS_HERE < PLACE_ONLY_ONE && PLACE_ONLY_ONE < PLACE_FEWEST_REPLICAS &&
		      PLACE_FEWEST_REPLICAS < PLACE_LEAST_LOADED && PLACE_LEAST_LOADED < PLACE_FIRST_BY_ID,
	"from the coarsest rule to the finest");

void placement_plan(const struct placement_facts *f, const struct placement_policy *policy,
	const struct placement_arrays *a, struct placement_decision *ret)
{
	sort(f, by_node, a->node_order, f->nnodes);
	sort(f, by_want, a->want_order, f->nwants);
	if (f->nnodes)
		count_loads(f, a->node_order, a->loads);
	for (size_t i = 0; i < f->nwants; i++) {
		ret[i] = (struct placement_decision){ .want = a->want_order[i] };
		decide(f, policy, a, f->nnodes ? &a->candidates[i * f->nnodes] : NULL, &ret[i]);
	}
}

size_t placement_pick_replica(const struct placement_replica *r, size_t n)
{
	size_t best = PLACEMENT_NONE;
	for (size_t i = 0; i < n; i++) {
		if (!r[i].ready || r[i].draining || r[i].leases >= r[i].slots_total)
			continue;
		int c = -1;
		if (best != PLACEMENT_NONE) {
			c = cmp_load(r[i].leases, r[i].slots_total, r[best].leases, r[best].slots_total);
			c = c ? c : strcmp(r[i].replica_id, r[best].replica_id);
		}
		if (c < 0)
			best = i;
	}
	return best;
}
