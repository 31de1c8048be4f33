/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a need goes into given rooms, and how it is divided: layers stay in order, whole, and each device
 * gets a run of them; the smallest fraction of the rooms that holds them all is the division, so that the
 * devices are filled alike. More room never makes it impossible.
 */
#include "placement/fit_int.h"

#include <string.h>

enum { FULL = 256, STEP = 4 }; /* a fraction's denominator */

void fit_sums(struct fit_run *r)
{
	const struct fit_need *n = r->need;
	r->whole = fit_need_whole(n);
	r->divides = n->nlayers && n->nlayers <= FIT_LAYERS_MAX && r->whole != UINT64_MAX;
	if (!r->divides)
		return;
	r->plain[0] = r->experts[0] = 0;
	r->layer_least = r->layer_whole = UINT64_MAX;
	for (size_t i = 0; i < n->nlayers; i++) {
		uint64_t plain = n->layers[i].weights + n->layers[i].cache;
		r->layer_least = MIN(r->layer_least, plain);
		r->layer_whole = MIN(r->layer_whole, plain + n->layers[i].experts);
		r->plain[i + 1] = r->plain[i] + n->layers[i].weights + n->layers[i].cache;
		r->experts[i + 1] = r->experts[i] + n->layers[i].experts;
	}
	r->per_whole = r->layer_whole ? 1 / (double)r->layer_whole : 0;
}

/* How the layers are divided between host and devices. */
struct division {
	size_t from;    /* the layers before it are in host memory */
	size_t experts; /* the experts of the layers before it are */
	bool exact;     /* every device gets its runtime */
};

/* Layers [a, b) on a device. */
static uint64_t cost(const struct fit_run *r, const struct division *d, size_t a, size_t b)
{
	uint64_t bytes = r->plain[b] - r->plain[a];
	size_t with = MAX(a, d->experts);
	return b > with ? bytes + (r->experts[b] - r->experts[with]) : bytes;
}

/* The furthest end of a run from `at` that fits. */
static size_t furthest(const struct fit_run *r, const struct division *d, size_t at, uint64_t budget)
{
	__extension__ typedef unsigned __int128 wide;
	size_t lo = at, hi = r->need->nlayers;
	uint64_t all = cost(r, d, at, hi);
	if (all <= budget)
		return hi;
	/* Most layers are alike. */
	size_t guess = at + (size_t)((wide)budget * (hi - at) / all);
	if (cost(r, d, at, guess) <= budget)
		lo = guess;
	else
		hi = guess;
	if (guess + 1 < hi && cost(r, d, at, guess + 1) > budget)
		hi = guess + 1;
	while (hi - lo > 1) {
		size_t mid = lo + (hi - lo) / 2;
		if (cost(r, d, at, mid) <= budget)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static uint64_t fixed(const struct fit_need *n, size_t i, size_t count)
{
	uint64_t bytes = n->compute + n->overhead;
	return bytes + (i == 0 ? n->extra : 0) + (i + 1 == count ? n->output : 0);
}

static uint64_t fraction(uint64_t room, unsigned t)
{
	__extension__ typedef unsigned __int128 wide;
	return (uint64_t)((wide)room * t / FULL);
}

/* Fills the devices one after the other up to a fraction of their rooms; ends: behind each one's last. */
static bool fill(const struct fit_run *r, const struct fit_set *set, const struct fit_room *room,
	const struct division *d, unsigned t, size_t *ends)
{
	size_t at = d->from;
	for (size_t i = 0; i < set->n; i++) {
		uint64_t budget = fraction(room->devices[i], t), base = fixed(r->need, i, set->n);
		if (budget >= base)
			at = furthest(r, d, at, budget - base);
		else if (d->exact || i == 0 || i + 1 == set->n)
			return false;
		ends[i] = at;
	}
	return at == r->need->nlayers;
}

/* A fraction at which the rooms together are too small. */
static unsigned below_least(const struct fit_run *r, const struct fit_set *set, const struct fit_room *room,
	const struct division *d)
{
	__extension__ typedef unsigned __int128 wide;
	wide have = 0, needed = (wide)cost(r, d, d->from, r->need->nlayers) * FULL;
	for (size_t i = 0; i < set->n; i++)
		have += room->devices[i];
	unsigned t = have > needed ? 0 : have ? (unsigned)(needed / have) : FULL;
	return t ? MIN(t, FULL) - 1 : 0;
}

/* The smallest fraction that holds everything. fill() at FULL succeeded. */
static void balance(const struct fit_run *r, const struct fit_set *set, const struct fit_room *room,
	const struct division *d, size_t *ends)
{
	size_t tried[FIT_SPLIT_MAX];
	unsigned lo = below_least(r, set, room, d), hi = MIN(lo + STEP, FULL);
	while (hi < FULL && !fill(r, set, room, d, hi, tried)) {
		lo = hi;
		hi = MIN(hi + STEP, FULL);
	}
	while (hi - lo > 1) {
		unsigned mid = lo + (hi - lo) / 2;
		if (fill(r, set, room, d, mid, tried))
			hi = mid;
		else
			lo = mid;
	}
	(void)fill(r, set, room, d, hi, ends);
}

uint64_t fit_host_least(const struct fit_run *r, enum fit_mode mode)
{
	const struct fit_need *n = r->need;
	if (mode == FIT_MODE_HOST) {
		uint64_t all =
			fit_sub(fit_sub(r->whole, n->nlayers ? n->compute : 0), n->nlayers ? n->overhead : 0);
		return fit_add(fit_add(n->host, n->host_compute), all);
	}
	return mode == FIT_MODE_EXPERTS || mode == FIT_MODE_PARTIAL ? fit_add(n->host, n->host_compute)
								    : n->host;
}

static uint64_t host_bytes(const struct fit_run *r, enum fit_mode mode, const struct division *d)
{
	uint64_t least = fit_host_least(r, mode);
	if (mode != FIT_MODE_EXPERTS && mode != FIT_MODE_PARTIAL)
		return least;
	return fit_add(least, r->plain[d->from] + r->experts[MAX(d->from, d->experts)]);
}

/* What of the parts is in host memory all the same. */
static uint64_t on_integrated(const struct fit_run *r, const struct fit_plan *p)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < p->nparts; i++)
		if (r->f->devices[p->parts[i].device].integrated)
			bytes = fit_add(bytes, p->parts[i].bytes);
	return bytes;
}

static void add_part(struct fit_plan *p, size_t device, size_t layers, uint64_t bytes)
{
	p->parts[p->nparts++] = (struct fit_part){ device, (uint32_t)layers, bytes };
}

static void parts_of(const struct fit_run *r, const struct fit_set *set, const struct division *d,
	const size_t *ends, struct fit_plan *p)
{
	p->nparts = 0;
	for (size_t i = 0, at = d->from; i < set->n; at = ends[i++]) {
		bool last = i + 1 == set->n;
		if (ends[i] > at || i == 0 || last || d->exact)
			add_part(p, set->devices[i], ends[i] - at + last,
				fixed(r->need, i, set->n) + cost(r, d, at, ends[i]));
	}
}

static bool has_integrated(const struct fit_run *r, const struct fit_set *set)
{
	for (size_t i = 0; i < set->n; i++)
		if (r->f->devices[set->devices[i]].integrated)
			return true;
	return false;
}

/* A division that fills its devices was found: does the host hold its part of it? */
static bool settle(const struct fit_run *r, enum fit_mode mode, const struct fit_set *set,
	const struct fit_room *room, const struct division *d, struct fit_plan *ret)
{
	uint64_t host = host_bytes(r, mode, d);
	bool shared = has_integrated(r, set);
	if (host > room->host)
		return false;
	if (!ret && !shared)
		return true;
	struct fit_plan p = { .nparts = 0 };
	size_t ends[FIT_SPLIT_MAX];
	balance(r, set, room, d, ends);
	parts_of(r, set, d, ends, &p);
	host = fit_add(host, shared ? on_integrated(r, &p) : 0);
	if (host > room->host || !ret)
		return host <= room->host;
	ret->nparts = p.nparts;
	memcpy(ret->parts, p.parts, p.nparts * sizeof p.parts[0]);
	ret->how = mode == FIT_MODE_EXPERTS     ? FIT_EXPERTS
		   : mode == FIT_MODE_PARTIAL   ? FIT_PARTIAL
		   : p.nparts > 1 || set->n > 1 ? FIT_SPLIT
						: FIT_ONE;
	ret->gpu_layers = (uint32_t)(r->need->nlayers - d->from + 1);
	ret->cpu_experts = (uint32_t)d->experts;
	ret->host_bytes = host;
	return true;
}

/* The least of `what` (d->from or d->experts) in [lo, hi] at which the devices hold the rest; hi + 1: none.
 */
static size_t least_of(const struct fit_run *r, const struct fit_set *set, const struct fit_room *room,
	struct division *d, size_t *what, size_t hi)
{
	size_t ends[FIT_SPLIT_MAX], lo = 1;
	*what = hi;
	if (!fill(r, set, room, d, FULL, ends))
		return hi + 1;
	while (lo < hi) {
		*what = lo + (hi - lo) / 2;
		if (fill(r, set, room, d, FULL, ends))
			hi = *what;
		else
			lo = *what + 1;
	}
	*what = hi;
	return hi;
}

static bool shape_offload(const struct fit_run *r, enum fit_mode mode, const struct fit_set *set,
	const struct fit_room *room, struct fit_plan *ret)
{
	size_t n = r->need->nlayers;
	struct division d = { .exact = r->gpus > 0 };
	if (!r->divides)
		return false;
	if (mode == FIT_MODE_EXPERTS) {
		if (!r->experts[n] || least_of(r, set, room, &d, &d.experts, n) > n)
			return false;
	} else {
		d.experts = r->experts[n] ? n : 0;
		if (n < 2 || least_of(r, set, room, &d, &d.from, n - 1) > n - 1)
			return false;
	}
	return settle(r, mode, set, room, &d, ret);
}

/* Nothing is known of layers: everything on the one device, or alike on each. */
static bool shape_lump(const struct fit_run *r, enum fit_mode mode, const struct fit_set *set,
	const struct fit_room *room, struct fit_plan *ret)
{
	uint64_t each = r->unit, host = fit_host_least(r, mode);
	if (mode == FIT_MODE_WHOLE)
		each = r->whole == UINT64_MAX ? r->whole : r->whole / set->n + (r->whole % set->n > 0);
	for (size_t i = 0; i < set->n; i++) {
		if (room->devices[i] < each)
			return false;
		if (r->f->devices[set->devices[i]].integrated)
			host = fit_add(host, each);
	}
	if (host > room->host || !ret)
		return host <= room->host;
	uint32_t units =
		r->need->nlayers && r->need->nlayers < UINT32_MAX ? (uint32_t)r->need->nlayers + 1 : 0;
	ret->how = mode == FIT_MODE_SHARE ? FIT_SHARE : set->n > 1 ? FIT_SPLIT : FIT_ONE;
	ret->nparts = 0;
	for (size_t i = 0; i < set->n; i++)
		add_part(ret, set->devices[i], set->n == 1 ? units : 0, each);
	ret->gpu_layers = units;
	ret->cpu_experts = 0;
	ret->host_bytes = host;
	return true;
}

static bool shape_host(const struct fit_run *r, const struct fit_room *room, struct fit_plan *ret)
{
	uint64_t host = fit_host_least(r, FIT_MODE_HOST);
	if (host > room->host || !ret)
		return host <= room->host;
	ret->how = FIT_HOST;
	ret->nparts = 0;
	ret->gpu_layers = ret->cpu_experts = 0;
	ret->host_bytes = host;
	return true;
}

bool fit_shape(const struct fit_run *r, enum fit_mode mode, const struct fit_node *node,
	const struct fit_set *set, const struct fit_room *room, struct fit_plan *ret)
{
	if (ret)
		ret->host = node->host;
	switch (mode) {
	case FIT_MODE_HOST: return shape_host(r, room, ret);
	case FIT_MODE_SHARE: return shape_lump(r, mode, set, room, ret);
	case FIT_MODE_EXPERTS:
	case FIT_MODE_PARTIAL: return shape_offload(r, mode, set, room, ret);
	case FIT_MODE_WHOLE: break;
	}
	if (set->n == 1 || !r->divides)
		return shape_lump(r, mode, set, room, ret);
	struct division d = { .exact = r->gpus > 0 };
	size_t ends[FIT_SPLIT_MAX];
	return fill(r, set, room, &d, FULL, ends) && settle(r, mode, set, room, &d, ret);
}
