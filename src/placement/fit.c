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

/* ---- nodes, devices, sets ------------------------------------------------------------------------------ */

bool fit_node_next(const struct fit_run *r, size_t *at, struct fit_node *ret)
{
	const struct fit_facts *f = r->f;
	if (*at >= f->ndevices)
		return false;
	size_t end = *at + 1;
	while (end < f->ndevices && fit_same(f->devices[end].node_id, f->devices[*at].node_id))
		end++;
	bool host = f->devices[end - 1].kind == FIT_KIND_CPU;
	*ret = (struct fit_node){ *at, end - host, host ? end - 1 : FIT_NONE };
	*at = end;
	return true;
}

/* How devices of a group are ranked. */
struct rank {
	fit_key *key;
	enum { RANK_ROOM, RANK_PREFERRED, RANK_LOSS, RANK_LOAD } by;
	uint64_t least; /* keys below it are left out */
};

/* What leaving costs at least, where the whole or the share does not fit as it is. */
static double loss_on(const struct fit_run *r, size_t device)
{
	return fit_room_of(r, device, 0) >= r->unit ? 0 : r->held[device].least;
}

/* Of devices with these keys. */
static int rank_cmp(
	const struct fit_run *r, const struct rank *rank, size_t a, uint64_t key_a, size_t b, uint64_t key_b)
{
	const struct fit_device *x = &r->f->devices[a], *y = &r->f->devices[b];
	bool pa = fit_bit(r->w->prefer, a), pb = fit_bit(r->w->prefer, b);
	if (rank->by == RANK_PREFERRED && pa != pb)
		return pa ? -1 : 1;
	if (rank->by == RANK_LOSS && loss_on(r, a) != loss_on(r, b))
		return loss_on(r, a) < loss_on(r, b) ? -1 : 1;
	if (rank->by == RANK_LOAD && x->replicas != y->replicas)
		return x->replicas < y->replicas ? -1 : 1;
	if (key_a != key_b)
		return key_a > key_b ? -1 : 1;
	if (pa != pb)
		return pa ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

static void group(const struct fit_run *r, const struct fit_node *node, size_t like, const struct rank *rank,
	struct fit_set *ret)
{
	uint64_t keys[FIT_SPLIT_MAX];
	ret->n = 0;
	for (size_t d = node->from; d < node->to; d++) {
		if (r->f->devices[d].kind != r->f->devices[like].kind || !fit_open(r, d))
			continue;
		uint64_t key = rank->key(r, d);
		size_t at = ret->n;
		if (key < rank->least)
			continue;
		while (at > 0 && rank_cmp(r, rank, d, key, ret->devices[at - 1], keys[at - 1]) < 0)
			at--;
		if (at == FIT_SPLIT_MAX)
			continue;
		size_t end = MIN(ret->n, FIT_SPLIT_MAX - 1);
		memmove(&ret->devices[at + 1], &ret->devices[at], (end - at) * sizeof ret->devices[0]);
		memmove(&keys[at + 1], &keys[at], (end - at) * sizeof keys[0]);
		ret->devices[at] = d;
		keys[at] = key;
		ret->n = end + 1;
	}
}

void fit_group(
	const struct fit_run *r, const struct fit_node *node, size_t like, fit_key *key, struct fit_set *ret)
{
	group(r, node, like, &(struct rank){ key, RANK_ROOM, 0 }, ret);
}

void fit_set_first(const struct fit_run *r, const struct fit_set *ranked, size_t k, struct fit_set *ret)
{
	ret->n = k;
	for (size_t i = 0; i < k; i++) {
		size_t at = i, d = ranked->devices[i];
		for (; at > 0 && r->f->devices[ret->devices[at - 1]].index > r->f->devices[d].index; at--)
			ret->devices[at] = ret->devices[at - 1];
		ret->devices[at] = d;
	}
}

/* ---- which of two is better ---------------------------------------------------------------------------- */

static uint32_t fastest(struct fit_run *r)
{
	for (size_t i = 0; i < r->f->ndevices && !r->fastest_known; i++)
		r->fastest = MAX(r->fastest, r->f->devices[i].speed);
	r->fastest_known = true;
	return r->fastest ? r->fastest : 1;
}

static int cmp_u64(uint64_t a, uint64_t b)
{
	return a < b ? -1 : a > b;
}

/* replicas ÷ speed */
static int cmp_load(struct fit_run *r, const struct fit_score *a, const struct fit_score *b)
{
	__extension__ typedef unsigned __int128 wide;
	if (!a->replicas || !b->replicas || a->speed == b->speed)
		return cmp_u64(a->replicas, b->replicas);
	wide x = (wide)a->replicas * (b->speed ? b->speed : fastest(r));
	wide y = (wide)b->replicas * (a->speed ? a->speed : fastest(r));
	return x < y ? -1 : x > y;
}

int fit_names_cmp(const struct fit_run *r, size_t a, size_t b)
{
	const struct fit_device *x = &r->f->devices[a], *y = &r->f->devices[b];
	int c = x->node_id == y->node_id ? 0 : strcmp(x->node_id, y->node_id);
	return c ? c : cmp_u64(x->index, y->index);
}

static int cmp_score(struct fit_run *r, const struct fit_score *a, const struct fit_score *b)
{
	int c = fit_cost_cmp(&a->cost, &b->cost);
	c = c ? c : cmp_u64(a->offloaded, b->offloaded);
	c = c ? c : cmp_u64(a->parts, b->parts);
	c = c ? c : cmp_u64(a->siblings, b->siblings);
	c = c ? c : cmp_u64(a->not_preferred, b->not_preferred);
	c = c ? c : cmp_u64(a->node_siblings, b->node_siblings);
	c = c ? c : cmp_load(r, a, b);
	c = c ? c : cmp_u64(b->left, a->left);
	if (!c && a->speed != b->speed)
		c = cmp_u64(b->speed ? b->speed : fastest(r), a->speed ? a->speed : fastest(r));
	return c ? c : fit_names_cmp(r, a->device, b->device);
}

/* Replicas of the same pool: on these devices, and on the node. */
static void count_siblings(
	const struct fit_run *r, const struct fit_node *node, const struct fit_set *set, struct fit_score *s)
{
	for (size_t i = 0; i < r->nsiblings; i++) {
		const struct fit_replica *p = &r->f->replicas[r->siblings[i]];
		bool here = false, near = false;
		for (size_t u = p->first_use; u < p->first_use + p->nuses; u++) {
			size_t d = r->f->uses[u].device;
			near |= (d >= node->from && d < node->to) || d == node->host;
			for (size_t k = 0; k < set->n; k++)
				here |= set->devices[k] == d;
		}
		s->siblings += here;
		s->node_siblings += near;
	}
}

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

/* What does not depend on how it is divided. rooms: what is free before placing. */
static void score_set(const struct fit_run *r, const struct fit_node *node, const struct fit_set *set,
	const struct fit_room *room, struct fit_score *s)
{
	*s = (struct fit_score){ .parts = (uint32_t)set->n, .device = set->n ? set->devices[0] : node->host };
	for (size_t i = 0; i < set->n; i++) {
		const struct fit_device *d = &r->f->devices[set->devices[i]];
		s->not_preferred += !fit_bit(r->w->prefer, set->devices[i]);
		s->replicas += d->replicas;
		s->speed = i ? MIN(s->speed, d->speed) : d->speed;
		s->left = fit_add(s->left, room->devices[i] == UINT64_MAX ? 0 : room->devices[i]);
	}
	count_siblings(r, node, set, s);
	s->left = fit_sub(s->left, r->w->share ? r->unit * set->n : r->whole);
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
	score_set(r, node, set, &room, &score);
	score.cost = gone.cost;
	score.replicas = fit_sub(score.replicas, uses_gone(r, set, &gone));
	bool offloads = mode == FIT_MODE_EXPERTS || mode == FIT_MODE_PARTIAL;
	if (!offloads && best->found && cmp_score(r, &score, &best->score) >= 0)
		return evict;
	if (!fit_shape(r, mode, node, set, &room, offloads ? &plan : NULL))
		return false;
	score.offloaded = offloads ? plan.host_bytes : 0;
	if (best->found && cmp_score(r, &score, &best->score) >= 0)
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
	if (r->w->never_with && fit_company(r, node) > (evict ? FIT_LEAVES : FIT_ALONE))
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

/* As cmp_score does. Most are told apart at first sight. */
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
	return l->device == FIT_NONE || cmp_score(r, &a, &b) < 0;
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
	double host = node->host == FIT_NONE ? INFINITY : r->held[node->host].least;
	bool only_for_room = !r->w->never_with && !r->f->replicas_max;
	for (size_t d = node->from; d < node->to; d++) {
		/* Somebody leaves, of this device or of the host: nobody there costs as little as was found.
		 */
		if (best->found && only_for_room && MIN(host, r->held[d].least) > best->score.cost.loss)
			continue;
		if (fit_potential(r, d) < r->unit || !fit_open(r, d))
			continue;
		if (best->found && fit_room_of(r, d, 0) < r->unit && r->held[d].least > best->score.cost.loss)
			continue;
		(void)consider(r, mode, node, &(struct fit_set){ .n = 1, .devices = { d } }, true);
	}
}

static void step_one(struct fit_run *r, enum fit_mode mode, bool evict)
{
	struct leader l = { .device = FIT_NONE };
	struct fit_node node;
	for (size_t at = 0; fit_node_next(r, &at, &node);) {
		uint64_t freed = evict && node.host != FIT_NONE ? r->held[node.host].evictable : 0;
		if (fit_host_least(r, mode) > fit_host_room(r, &node, freed) || !node_takes(r, &node, evict))
			continue;
		if (evict)
			one_evict(r, mode, &node);
		else
			one_free(r, mode, &node, &l);
	}
	if (l.device != FIT_NONE)
		(void)consider(r, mode, &l.node, &(struct fit_set){ .n = 1, .devices = { l.device } }, false);
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

static void step_sets(struct fit_run *r, enum fit_mode mode, bool evict)
{
	fit_key *key = evict ? key_potential : key_free;
	uint64_t least = r->w->share ? r->unit : 0;
	struct fit_node node;
	struct fit_set ranked;
	for (size_t at = 0; fit_node_next(r, &at, &node);) {
		if (!node_takes(r, &node, evict))
			continue;
		struct fit_kinds kinds = { { 0 } };
		for (size_t d = node.from; d < node.to; d++) {
			if (!fit_leads(r, &kinds, d) ||
				(mode == FIT_MODE_WHOLE && hopeless(r, &node, d, key, evict)))
				continue;
			group(r, &node, d, &(struct rank){ key, RANK_ROOM, least }, &ranked);
			sets_of(r, mode, &node, &ranked, key, evict);
			if (r->w->prefer) {
				group(r, &node, d, &(struct rank){ key, RANK_PREFERRED, least }, &ranked);
				sets_of(r, mode, &node, &ranked, key, evict);
			}
			if (r->w->share && !evict) {
				group(r, &node, d, &(struct rank){ key, RANK_LOAD, least }, &ranked);
				sets_of(r, mode, &node, &ranked, key, evict);
			}
			if (evict) {
				group(r, &node, d, &(struct rank){ key, RANK_LOSS, least }, &ranked);
				sets_of(r, mode, &node, &ranked, key, evict);
				each_alone(r, mode, &node, &ranked);
			}
		}
	}
}

static void step_host(struct fit_run *r, bool evict)
{
	struct fit_node node;
	for (size_t at = 0; fit_node_next(r, &at, &node);)
		if (node.host != FIT_NONE && node_takes(r, &node, evict) &&
			fit_bar(r, node.host) == FIT_TAKEN)
			(void)consider(r, FIT_MODE_HOST, &node, &(struct fit_set){ .n = 0 }, evict);
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
			step_one(r, mode, evict);
		if (sets && !r->best.found)
			step_sets(r, mode, evict);
	}
	return r->best.found;
}

static bool offload_steps(struct fit_run *r)
{
	static const enum fit_mode modes[] = { FIT_MODE_EXPERTS, FIT_MODE_PARTIAL };
	for (size_t m = 0; m < ARRAY_LEN(modes); m++) {
		step_sets(r, modes[m], false);
		if (!r->best.found && can_evict(r))
			step_sets(r, modes[m], true);
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
	step_host(r, false);
	if (!r->best.found && can_evict(r))
		step_host(r, true);
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
	return sums + devices + uses + 2 * piece(f->nreplicas, sizeof(uint32_t)) +
	       piece(f->nreplicas, sizeof(struct fit_candidate));
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
	r->gpus = w->share && !w->gpus ? 1 : w->gpus;
	r->siblings = take(&at, f->nreplicas, sizeof(uint32_t));
	for (size_t i = 0; w->siblings && i < f->nreplicas;
		i = w->siblings[i / 64] ? i + 1 : (i / 64 + 1) * 64)
		if (fit_bit(w->siblings, i))
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
