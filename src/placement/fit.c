/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/fit_int.h"

#include <math.h>
#include <string.h>

uint64_t fit_need_whole(const struct fit_need *n)
{
	if (!n->nlayers)
		return n->whole;
	uint64_t sum = fit_add(fit_add(n->output, n->extra), fit_add(n->compute, n->overhead));
	for (size_t i = 0; i < n->nlayers; i++) {
		const struct fit_layer *l = &n->layers[i];
		sum = fit_add(sum, fit_add(l->weights, fit_add(l->experts, l->cache)));
	}
	return sum;
}

/* ---- one place --------------------------------------------------------------------------------------------
 */

/* Uses of these devices that end with the victims. */
static uint64_t uses_gone(const struct fit_run *r, const struct fit_set *set, const struct fit_victims *gone)
{
	uint64_t n = 0;
	for (size_t i = 0; i < gone->n; i++) {
		const struct fit_replica *p = &r->f->replicas[gone->replicas[i]];
		for (size_t u = p->first_use; u < p->first_use + p->nuses; u++)
			for (size_t k = 0; k < set->n; k++)
				n += set->devices[k] == r->f->uses[u].device;
	}
	return n;
}

/* Makes it the choice if it is possible and better. true: it is possible; false: it is not, or not better. */
static bool consider(struct fit_run *r, enum fit_mode mode, const struct fit_node *node,
	const struct fit_set *set, bool evict)
{
	struct fit_victims gone;
	struct fit_plan plan;
	struct fit_room room;
	struct fit_score score;
	struct fit_choice *best = &r->best;
	gone.n = 0;
	gone.cost = (struct fit_cost){ 0 };
	if (evict && !fit_victims(r, mode, node, set, &gone))
		return false;
	if (evict && best->found && fit_cost_cmp(&gone.cost, &best->score.cost) > 0)
		return true;
	fit_rooms(r, node, set, &gone, &room);
	fit_score_set(r, node, set, &room, &score);
	score.cost = gone.cost;
	score.replicas = fit_sub(score.replicas, uses_gone(r, set, &gone));
	bool offloads = mode == FIT_MODE_EXPERTS || mode == FIT_MODE_PARTIAL;
	if (!offloads && best->found && fit_score_cmp(r, &score, &best->score) >= 0)
		return evict;
	if (!fit_shape(r, mode, node, set, &room, offloads ? &plan : NULL))
		return false;
	score.offloaded = offloads ? plan.host_bytes : 0;
	if (best->found && fit_score_cmp(r, &score, &best->score) >= 0)
		return true;
	best->found = true;
	best->mode = mode;
	best->node = *node;
	best->set = *set;
	best->score = score;
	best->victims.n = gone.n;
	memcpy(best->victims.replicas, gone.replicas, gone.n * sizeof gone.replicas[0]);
	return true;
}

/* ---- the steps ----------------------------------------------------------------------------------------- */

/* Whether anything may go to the node in this step. */
static bool node_takes(struct fit_run *r, const struct fit_node *node, bool evict)
{
	if (r->w->node_id && !fit_same(r->w->node_id, r->f->devices[node->from].node_id))
		return false;
	if (r->unwelcome && fit_company(r, node) > (evict ? FIT_LEAVES : FIT_ALONE))
		return false;
	return evict || !r->f->replicas_max || !fit_surplus(r, node);
}

/* The best so far of a pass in which neither wishes nor victims tell devices apart. */
struct leader {
	size_t device; /* FIT_NONE: none yet */
	uint64_t room; /* 0: not known */
	uint32_t replicas, speed;
	struct fit_node node;
};

/* As fit_score_cmp does. Most are told apart at first sight. */
static inline bool beats(struct fit_run *r, size_t device, uint64_t room, const struct leader *l)
{
	const struct fit_device *d = &r->f->devices[device];
	if (LIKELY(d->speed == l->speed && l->device != FIT_NONE)) {
		if (d->replicas != l->replicas)
			return d->replicas < l->replicas;
		return room != l->room ? room > l->room : fit_names_cmp(r, device, l->device) < 0;
	}
	struct fit_score a = { .replicas = d->replicas, .speed = d->speed, .device = device };
	struct fit_score b = { .replicas = l->replicas, .speed = l->speed, .device = l->device };
	a.left = fit_sub(room, r->unit);
	b.left = fit_sub(l->room, r->unit);
	return l->device == FIT_NONE || fit_score_cmp(r, &a, &b) < 0;
}

/* Nobody leaves. */
static void one_free(struct fit_run *r, enum fit_mode mode, const struct fit_node *node, struct leader *l)
{
	bool wishes = r->w->prefer || r->nsiblings;
	for (size_t d = node->from; d < node->to; d++) {
		uint64_t room = fit_room_of(r, d, 0);
		if (room < r->unit || !fit_open(r, d))
			continue;
		/* What shares the host's memory may fail for want of that. */
		if (UNLIKELY(wishes || r->f->devices[d].integrated))
			(void)consider(r, mode, node, &(struct fit_set){ .n = 1, .devices = { d } }, false);
		else if (beats(r, d, room == UINT64_MAX ? 0 : room, l))
			*l = (struct leader){ d, room == UINT64_MAX ? 0 : room, r->f->devices[d].replicas,
				r->f->devices[d].speed, *node };
	}
}

/* Idle ones leave. */
static void one_evict(struct fit_run *r, enum fit_mode mode, const struct fit_node *node)
{
	const struct fit_choice *best = &r->best;
	double host = node->host == FIT_NONE ? INFINITY : fit_held(r, node->host)->least;
	bool only_for_room = !r->unwelcome && !r->f->replicas_max;
	for (size_t d = node->from; d < node->to; d++) {
		double here = fit_held(r, d)->least;
		/* Somebody leaves, of this device or of the host: nobody there costs as little as was found.
		 */
		if (best->found && only_for_room && MIN(host, here) > best->score.cost.loss)
			continue;
		if (fit_potential(r, d) < r->unit || !fit_open(r, d))
			continue;
		if (best->found && fit_room_of(r, d, 0) < r->unit && here > best->score.cost.loss)
			continue;
		(void)consider(r, mode, node, &(struct fit_set){ .n = 1, .devices = { d } }, true);
	}
}

static uint64_t key_free(const struct fit_run *r, size_t d)
{
	return fit_room_of(r, d, 0);
}
static uint64_t key_potential(const struct fit_run *r, size_t d)
{
	return fit_potential(r, d);
}
static uint64_t key_later(const struct fit_run *r, size_t d)
{
	return fit_later(r, d);
}

/* The devices of one node and kind, in one ranking: the fewest that do, and with evictions one more (it may
 * cost less). Offloading looks at every number of them. */
static void sets_of(struct fit_run *r, enum fit_mode mode, const struct fit_node *node,
	const struct fit_set *ranked, fit_key *key, bool evict)
{
	bool offloads = mode == FIT_MODE_EXPERTS || mode == FIT_MODE_PARTIAL;
	size_t from = r->gpus ? r->gpus : offloads ? 1 : 2;
	size_t to = r->gpus ? r->gpus : ranked->n;
	struct fit_set set;
	uint64_t sum = 0;
	for (size_t k = 1; k <= to && k <= ranked->n; k++) {
		sum = fit_add(sum, key(r, ranked->devices[k - 1]));
		if (k < from || (mode == FIT_MODE_WHOLE && sum < r->whole))
			continue;
		if (!offloads && !evict && r->best.found && k > r->best.score.parts)
			return;
		fit_set_first(r, ranked, k, &set);
		if (consider(r, mode, node, &set, evict) && !offloads)
			to = MIN(to, k + (evict && !r->gpus));
	}
}

/* One device alone may offload at less cost than the roomiest ones. */
static void each_alone(
	struct fit_run *r, enum fit_mode mode, const struct fit_node *node, const struct fit_set *ranked)
{
	bool offloads = mode == FIT_MODE_EXPERTS || mode == FIT_MODE_PARTIAL;
	for (size_t i = 0; offloads && r->gpus <= 1 && i < ranked->n; i++)
		(void)consider(
			r, mode, node, &(struct fit_set){ .n = 1, .devices = { ranked->devices[i] } }, true);
}

/* Its devices together do not do, or not as few as are enough elsewhere. */
static bool hopeless(
	const struct fit_run *r, const struct fit_node *node, size_t like, fit_key *key, bool evict)
{
	uint64_t sum = 0, most = 0;
	for (size_t d = node->from; d < node->to; d++) {
		if (r->f->devices[d].kind != r->f->devices[like].kind || !fit_open(r, d))
			continue;
		uint64_t k = key(r, d);
		sum = fit_add(sum, k);
		most = MAX(most, k);
	}
	if (sum < r->whole)
		return true;
	__extension__ typedef unsigned __int128 wide;
	return !evict && r->best.found && (wide)most * r->best.score.parts < r->whole;
}

static void some_sets(struct fit_run *r, const struct fit_step *s, const struct fit_node *node)
{
	fit_key *key = s->evict ? key_potential : key_free;
	uint64_t least = r->w->share ? r->unit : 0;
	struct fit_kinds kinds = { { 0 } };
	struct fit_set ranked;
	for (size_t d = node->from; d < node->to; d++) {
		if (!fit_leads(r, &kinds, d) ||
			(s->mode == FIT_MODE_WHOLE && hopeless(r, node, d, key, s->evict)))
			continue;
		fit_ranked(r, node, d, &(struct fit_rank){ key, RANK_ROOM, least }, &ranked);
		sets_of(r, s->mode, node, &ranked, key, s->evict);
		if (r->w->prefer) {
			fit_ranked(r, node, d, &(struct fit_rank){ key, RANK_PREFERRED, least }, &ranked);
			sets_of(r, s->mode, node, &ranked, key, s->evict);
		}
		if (r->w->share && !s->evict) {
			fit_ranked(r, node, d, &(struct fit_rank){ key, RANK_LOAD, least }, &ranked);
			sets_of(r, s->mode, node, &ranked, key, s->evict);
		}
		if (s->evict) {
			fit_ranked(r, node, d, &(struct fit_rank){ key, RANK_LOSS, least }, &ranked);
			sets_of(r, s->mode, node, &ranked, key, s->evict);
			each_alone(r, s->mode, node, &ranked);
		}
	}
}

static void visit(
	struct fit_run *r, const struct fit_step *s, const struct fit_node *node, struct leader *leader)
{
	uint64_t freed = s->evict && node->host != FIT_NONE ? fit_held(r, node->host)->evictable : 0;
	if (s->host > fit_host_room(r, node, freed) || !node_takes(r, node, s->evict))
		return;
	if (s->sets)
		some_sets(r, s, node);
	else if (s->mode != FIT_MODE_HOST && s->evict)
		one_evict(r, s->mode, node);
	else if (s->mode != FIT_MODE_HOST)
		one_free(r, s->mode, node, leader);
	else if (node->host != FIT_NONE && fit_bar(r, node->host) == FIT_TAKEN)
		(void)consider(r, s->mode, node, &(struct fit_set){ .n = 0 }, s->evict);
}

/* Whether nothing of that score would be the best any more. */
static bool is_beaten(struct fit_run *r, const struct fit_score *floor, const struct leader *l)
{
	if (l->device == FIT_NONE)
		return r->best.found && fit_score_cmp(r, floor, &r->best.score) >= 0;
	struct fit_score lead = { .parts = 1, .not_preferred = 1, .replicas = l->replicas };
	lead.speed = l->speed;
	lead.left = fit_sub(l->room, r->unit);
	lead.device = l->device;
	return fit_score_cmp(r, floor, &lead) >= 0;
}

/* Bytes to be had on all its devices or on one, whatever is to stay free. */
static inline uint64_t most_of(const struct fit_summary *s, bool sum, bool evict)
{
	return sum ? evict ? s->potential : s->free : evict ? s->most_potential : s->most_free;
}

/* The node that promises most; FIT_NONE: nothing will do. */
static size_t most_promising(struct fit_run *r, const struct fit_step *s, bool picky)
{
	const struct fit_table *t = r->table;
	struct fit_score floor, least = { .parts = 0 };
	struct fit_node node;
	size_t first = FIT_NONE;
	bool sums = s->sets && s->mode == FIT_MODE_WHOLE;
	bool looks = s->mode == FIT_MODE_WHOLE || s->mode == FIT_MODE_SHARE;
	for (size_t n = 0; n < t->nnodes; n++) {
		r->promises[n].loss = INFINITY;
		if (looks && most_of(&t->nodes[n], sums, s->evict) < (sums ? r->whole : r->unit))
			continue;
		if (!fit_floor(r, s, n, &floor) || (picky && !fit_any_open(r, &t->nodes[n])))
			continue;
		if (first == FIT_NONE || fit_score_cmp(r, &floor, &least) < 0)
			fit_floor_layers(r, s, n, &floor);
		r->promises[n] = (struct fit_promise){ floor.cost.loss, floor.offloaded };
		if (first != FIT_NONE && fit_score_cmp(r, &floor, &least) >= 0)
			continue;
		fit_node_of(t, n, &node);
		if (!node_takes(r, &node, s->evict))
			continue;
		first = n;
		least = floor;
	}
	return first;
}

/* At first sight: whether what was found is better than all a node promised. */
static inline bool is_out(const struct fit_run *r, const struct fit_step *s, size_t n)
{
	const struct fit_promise *p = &r->promises[n];
	if (p->loss == INFINITY)
		return true;
	if (!r->best.found)
		return false;
	return p->loss > r->best.score.cost.loss || (!s->evict && p->offloaded > r->best.score.offloaded);
}

/* First the node that promises most, then those that still promise more than was found. */
static void visit_by_table(struct fit_run *r, const struct fit_step *s, struct leader *l)
{
	const struct fit_table *t = r->table;
	struct fit_score floor;
	struct fit_node node;
	bool picky = r->picky && s->mode != FIT_MODE_HOST;
	size_t first = most_promising(r, s, picky);
	if (first == FIT_NONE)
		return;
	fit_node_of(t, first, &node);
	visit(r, s, &node, l);
	for (size_t n = 0; n < t->nnodes; n++) {
		if (n == first || is_out(r, s, n) || !fit_floor(r, s, n, &floor) || is_beaten(r, &floor, l))
			continue;
		fit_floor_layers(r, s, n, &floor);
		if (is_beaten(r, &floor, l))
			continue;
		fit_node_of(t, n, &node);
		visit(r, s, &node, l);
	}
}

static void step(struct fit_run *r, enum fit_mode mode, bool sets, bool evict)
{
	const struct fit_step s = { mode, sets, evict, fit_host_least(r, mode) };
	struct leader l = { .device = FIT_NONE };
	struct fit_node node;
	if (r->table)
		visit_by_table(r, &s, &l);
	for (size_t at = 0; !r->table && fit_node_next(r, &at, &node);)
		visit(r, &s, &node, &l);
	if (l.device != FIT_NONE)
		(void)consider(r, mode, &l.node, &(struct fit_set){ .n = 1, .devices = { l.device } }, false);
}

static bool later_on(const struct fit_run *r, const struct fit_node *node, size_t d)
{
	struct fit_set ranked, set;
	struct fit_room room = { .host = node->host == FIT_NONE ? UINT64_MAX : fit_later(r, node->host) };
	fit_group(r, node, d, key_later, &ranked);
	size_t from = r->gpus ? r->gpus : 1, to = r->gpus ? r->gpus : r->divides ? ranked.n : 1;
	for (size_t k = from; k <= MIN(to, ranked.n); k++) {
		fit_set_first(r, &ranked, k, &set);
		for (size_t i = 0; i < k; i++)
			room.devices[i] = fit_later(r, set.devices[i]);
		if (fit_shape(r, r->w->share ? FIT_MODE_SHARE : FIT_MODE_WHOLE, node, &set, &room, NULL))
			return true;
	}
	return false;
}

bool fit_would_later(struct fit_run *r)
{
	struct fit_node node;
	bool avoided = r->avoided, found = false;
	fit_index(r);
	r->avoided = true;
	for (size_t at = 0; !found && fit_node_next(r, &at, &node);) {
		struct fit_kinds kinds = { { 0 } };
		if (r->table && !fit_might_later(r, node.number))
			continue;
		for (size_t d = node.from; !found && d < node.to; d++)
			found = fit_leads(r, &kinds, d) && later_on(r, &node, d);
	}
	r->avoided = avoided;
	return found;
}

/* ---- the plan ------------------------------------------------------------------------------------------ */

/* Index and evictions only where somebody could leave. */
static bool can_evict(struct fit_run *r)
{
	if (!r->w->may_evict || !r->f->nreplicas)
		return false;
	fit_index(r);
	return true;
}

static bool whole_steps(struct fit_run *r)
{
	enum fit_mode mode = r->w->share ? FIT_MODE_SHARE : FIT_MODE_WHOLE;
	bool one = r->gpus <= 1, sets = r->gpus > 1 || (!r->gpus && r->divides);
	for (int evict = 0; evict < 2 && !r->best.found; evict++) {
		if (evict && !can_evict(r))
			break;
		if (one)
			step(r, mode, false, evict);
		if (sets && !r->best.found)
			step(r, mode, true, evict);
	}
	return r->best.found;
}

static bool offload_steps(struct fit_run *r)
{
	static const enum fit_mode modes[] = { FIT_MODE_EXPERTS, FIT_MODE_PARTIAL };
	for (size_t m = r->experts[r->need->nlayers] ? 0 : 1; m < ARRAY_LEN(modes); m++) {
		step(r, modes[m], true, false);
		if (!r->best.found && can_evict(r))
			step(r, modes[m], true, true);
		if (r->best.found)
			return true;
	}
	return false;
}

/* Without the devices to avoid, then with them. */
static bool each_way(struct fit_run *r, bool (*steps)(struct fit_run *r))
{
	r->avoided = false;
	if (steps(r))
		return true;
	r->avoided = true;
	return r->w->avoid && steps(r);
}

static void decide(struct fit_run *r)
{
	const struct fit_want *w = r->w;
	if (each_way(r, whole_steps))
		return;
	if (w->offload == FIT_OFFLOAD_AUTO && !w->share && r->divides && !fit_would_later(r) &&
		each_way(r, offload_steps))
		return;
	if (!w->cpu)
		return;
	r->avoided = true;
	step(r, FIT_MODE_HOST, false, false);
	if (!r->best.found && can_evict(r))
		step(r, FIT_MODE_HOST, false, true);
}

static void write_plan(struct fit_run *r, struct fit_plan *ret)
{
	const struct fit_choice *best = &r->best;
	struct fit_room room;
	fit_rooms(r, &best->node, &best->set, &best->victims, &room);
	if (!fit_shape(r, best->mode, &best->node, &best->set, &room, ret))
		return; /* cannot be: it was when it was chosen */
	ret->nvictims = best->victims.n;
	for (size_t i = 0; i < ret->nvictims; i++)
		ret->victims[i] = best->victims.replicas[i];
	ret->loss = best->score.cost.loss;
}

/* ---- the call ------------------------------------------------------------------------------------------ */

static size_t piece(size_t n, size_t each)
{
	return (n * each + 15) / 16 * 16;
}

size_t fit_scratch_bytes(const struct fit_facts *f)
{
	size_t sums = 2 * piece(FIT_LAYERS_MAX + 1, sizeof(uint64_t));
	size_t devices = piece(f->ndevices, sizeof(struct fit_held));
	size_t uses = 2 * piece(f->nuses, sizeof(uint32_t));
	size_t table = piece(f->ndevices / 64 + 1, sizeof(uint64_t)) + piece(f->ndevices, 1) +
		       piece(f->ndevices, sizeof(struct fit_promise));
	return sums + devices + uses + 2 * piece(f->nreplicas, sizeof(uint32_t)) +
	       piece(f->nreplicas, sizeof(struct fit_candidate)) + table;
}

static void *take(char **at, size_t n, size_t each)
{
	void *p = *at;
	*at += piece(n, each);
	return p;
}

static void begin(struct fit_run *r, const struct fit_facts *f, const struct fit_want *w, void *scratch)
{
	char *at = scratch;
	memset(r, 0, offsetof(struct fit_run, best));
	r->best.found = false;
	r->f = f;
	r->w = w;
	r->picky = w->mask || w->avoid || w->node_id;
	r->need = w->need;
	r->plain = take(&at, FIT_LAYERS_MAX + 1, sizeof(uint64_t));
	r->experts = take(&at, FIT_LAYERS_MAX + 1, sizeof(uint64_t));
	r->held = take(&at, f->ndevices, sizeof *r->held);
	r->next = take(&at, f->nuses, sizeof(uint32_t));
	r->owner = take(&at, f->nuses, sizeof(uint32_t));
	r->seen = take(&at, f->nreplicas, sizeof(uint32_t));
	r->candidates = take(&at, f->nreplicas, sizeof(struct fit_candidate));
	r->table = f->table;
	r->own = take(&at, f->ndevices / 64 + 1, sizeof *r->own);
	r->company = take(&at, f->ndevices, 1);
	r->promises = take(&at, f->ndevices, sizeof *r->promises);
	r->unwelcome = fit_bit_next(w->never_with, 0, f->nreplicas) < f->nreplicas;
	r->gpus = w->share && !w->gpus ? 1 : w->gpus;
	r->siblings = take(&at, f->nreplicas, sizeof(uint32_t));
	for (size_t i = 0; (i = fit_bit_next(w->siblings, i, f->nreplicas)) < f->nreplicas; i++)
		r->siblings[r->nsiblings++] = (uint32_t)i;
	fit_sums(r);
	r->unit = w->share ? w->share : r->whole;
}

void fit_plan(const struct fit_facts *f, const struct fit_want *w, void *scratch, struct fit_plan *ret,
	enum fit_reason *ret_reasons)
{
	struct fit_run r;
	begin(&r, f, w, scratch);
	memset(ret, 0, sizeof *ret);
	ret->host = ret->closest = FIT_NONE;
	decide(&r);
	if (r.best.found)
		write_plan(&r, ret);
	else
		fit_missing(&r, ret);
	if (ret_reasons)
		fit_reasons(&r, ret, ret_reasons);
}

size_t fit_first_that_fits(const struct fit_facts *f, const struct fit_want *w,
	const struct fit_need *const *needs, size_t n, void *scratch)
{
	struct fit_want asked = *w;
	struct fit_run r;
	asked.may_evict = false;
	for (size_t i = 0; i < n; i++) {
		asked.need = needs[i];
		begin(&r, f, &asked, scratch);
		decide(&r);
		if (r.best.found)
			return i;
	}
	return n;
}
