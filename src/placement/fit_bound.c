/* SPDX-License-Identifier: Apache-2.0
 *
 * Which nodes cannot be the best, by what the table says of them. Every bound here errs to one side: a node
 * that is left out could not have been chosen.
 */
#include "placement/fit_int.h"

#include <math.h>

static inline bool offloads(enum fit_mode mode)
{
	return mode == FIT_MODE_EXPERTS || mode == FIT_MODE_PARTIAL;
}

/* A room of the table with what is to stay free. */
static inline uint64_t shifted(const struct fit_run *r, const struct fit_summary *s, uint64_t room)
{
	return s->odd ? room : fit_sub(room, r->w->headroom);
}

static uint64_t sum_of(const struct fit_run *r, const struct fit_summary *s, const uint64_t *rooms, size_t n)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum = fit_add(sum, shifted(r, s, rooms[i]));
	return sum;
}

/* The same of all its free rooms. */
static uint64_t sum_free(const struct fit_run *r, const struct fit_summary *s)
{
	const uint64_t *rooms = r->table->free + s->from;
	if (s->n > FIT_SPLIT_MAX || (!s->odd && s->n && rooms[s->n - 1] < r->w->headroom))
		return sum_of(r, s, rooms, MIN(s->n, FIT_SPLIT_MAX));
	return s->odd ? s->free : fit_sub(s->free, s->n * r->w->headroom);
}

/* Whether one of the bits [from, to) is as said. */
static bool any(const uint64_t *bits, bool set, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		if (fit_bit(bits, i) == set)
			return true;
	return false;
}

bool fit_any_open(const struct fit_run *r, const struct fit_summary *s)
{
	const struct fit_want *w = r->w;
	if (w->mask && !any(w->mask, true, s->from, s->to))
		return false;
	return r->avoided || !w->avoid || any(w->avoid, false, s->from, s->to);
}

/* The fewest devices, the roomiest first, that are enough together; 0: all are too small. ret_sum: of them.
 */
static size_t fewest(const struct fit_run *r, const struct fit_step *step, const struct fit_summary *s,
	const uint64_t *rooms, uint64_t *ret_sum)
{
	size_t n = MIN(s->n, FIT_SPLIT_MAX), from = r->gpus ? r->gpus : offloads(step->mode) ? 1 : 2;
	uint64_t sum = 0;
	if (!step->sets) {
		*ret_sum = shifted(r, s, rooms[0]);
		return *ret_sum >= r->unit;
	}
	if (step->mode == FIT_MODE_WHOLE && (step->evict ? s->potential : s->free) < r->whole)
		return 0;
	if (n < from || (step->mode == FIT_MODE_SHARE && shifted(r, s, rooms[from - 1]) < r->unit))
		return 0;
	if (offloads(step->mode)) {
		*ret_sum = sum_of(r, s, rooms, n);
		return from;
	}
	for (size_t k = 1; k <= (r->gpus ? from : n); k++) {
		sum = fit_add(sum, shifted(r, s, rooms[k - 1]));
		*ret_sum = sum;
		if (k >= from && (step->mode == FIT_MODE_SHARE || sum >= r->whole))
			return k;
	}
	return 0;
}

/* Whether nothing does there unless somebody leaves the devices or the host. */
static bool somebody_leaves(
	const struct fit_run *r, const struct fit_step *step, const struct fit_summary *s, uint64_t free)
{
	const uint64_t *rooms = r->table->free + s->from;
	if (step->host > s->host_free)
		return true;
	if (offloads(step->mode) || step->mode == FIT_MODE_HOST)
		return false;
	if (!step->sets)
		return shifted(r, s, rooms[0]) < r->unit;
	if (step->mode == FIT_MODE_SHARE)
		return shifted(r, s, rooms[r->gpus - 1]) < r->unit;
	return free < r->whole;
}

/* Sums of the same numbers in another order may be a little more. */
static const double ROUNDING = 1 - 1e-9;

/* The least that may be lost for so many bytes of the node's devices: parts of replicas count, too. Beyond
 * those that are ranked no byte is cheaper than of the last one. */
static double least_loss(const struct fit_run *r, size_t number, uint64_t bytes)
{
	const struct fit_summary *s = &r->table->nodes[number];
	const struct fit_freed *v = r->table->freed[number];
	uint32_t i = 0;
	if (!bytes || !s->ncheap)
		return 0;
	while (i + 1 < s->ncheap && v[i].bytes < bytes)
		i++;
	const struct fit_freed before = i ? v[i - 1] : (struct fit_freed){ 0 };
	const struct fit_cheap *c = &r->table->cheap[number][i];
	return (before.loss + c->loss * ((double)(bytes - before.bytes) / (double)c->bytes)) * ROUNDING;
}

/* What has to come back, so that so many devices hold it together. */
static uint64_t short_of(const struct fit_run *r, const struct fit_step *step, size_t parts, uint64_t free)
{
	uint64_t needed = r->whole;
	if (!step->sets || step->mode != FIT_MODE_WHOLE)
		return 0;
	for (size_t i = 1; r->divides && i < (r->gpus ? parts : 2); i++)
		needed = fit_add(needed, r->need->compute + r->need->overhead);
	return fit_sub(needed, free);
}

/* What the host holds at least when whole layers go to the devices while there is room. */
static uint64_t host_layers(const struct fit_run *r, const struct fit_summary *s, const uint64_t *rooms)
{
	size_t n = r->need->nlayers, held = 0;
	double each = 1 / (double)r->layer_least;
	uint64_t base = fit_add(r->need->compute, r->need->overhead);
	for (size_t i = 0; i < MIN(s->n, FIT_SPLIT_MAX); i++) {
		double layers = (double)fit_sub(shifted(r, s, rooms[i]), base) * each + 1e-6;
		held += layers > (double)n ? n : (size_t)layers;
	}
	return r->plain[n - MIN(n, held)];
}

/* Whole layers a device holds, the smallest of all: no division puts more there. Multiplied, which may be one
 * too many; a division of 64 bits costs more than all the rest here. */
static inline double layers_of(const struct fit_run *r, uint64_t bytes)
{
	return (double)bytes * r->per_whole * (1 + 1e-12) + 1e-6;
}
static inline uint64_t layers_in(const struct fit_run *r, uint64_t base, uint64_t room)
{
	return (uint64_t)layers_of(r, fit_sub(room, base));
}

/* By how many layers its leaving can help, at most. */
static uint64_t gain(const struct fit_run *r, uint64_t base, const struct fit_cheap *c)
{
	double all = layers_of(r, c->bytes);
	if (!c->alone)
		return (uint64_t)all + c->devices;
	uint64_t room = fit_sub(c->room, r->w->headroom), held = fit_sub(room, base);
	double more = layers_of(r, fit_sub(room + c->bytes, base));
	return (uint64_t)more - (uint64_t)MAX((double)held * r->per_whole * (1 - 1e-12) - 1e-6, 0);
}

/* The least loss that frees room for so many layers; INFINITY: nobody's leaving does. */
static double loss_of_layers(const struct fit_run *r, uint64_t base, size_t number, uint64_t layers)
{
	const struct fit_cheap *v = r->table->cheap[number];
	uint32_t n = r->table->nodes[number].ncheap;
	double each[FIT_CHEAP_MAX], loss = 0, wanted = (double)layers;
	double gains[FIT_CHEAP_MAX];
	for (uint32_t i = 0; i < n; i++) {
		gains[i] = (double)gain(r, base, &v[i]);
		each[i] = gains[i] > 0 ? v[i].loss / gains[i] : INFINITY;
	}
	for (;;) {
		uint32_t best = 0;
		for (uint32_t i = 1; i < n; i++)
			best = each[i] < each[best] ? i : best;
		if (!n || each[best] == INFINITY)
			return INFINITY;
		if (gains[best] >= wanted)
			return (loss + each[best] * wanted) * ROUNDING;
		loss += v[best].loss;
		wanted -= gains[best];
		each[best] = INFINITY;
	}
}

void fit_floor_layers(
	const struct fit_run *r, const struct fit_step *step, size_t number, struct fit_score *ret)
{
	const struct fit_summary *s = &r->table->nodes[number];
	const uint64_t *rooms = r->table->free + s->from;
	uint64_t held = 0, base = fit_add(r->need->compute, r->need->overhead);
	if (!step->sets || !step->evict || step->mode != FIT_MODE_WHOLE || !r->divides || !r->layer_whole ||
		s->odd || s->more_leave)
		return;
	for (size_t i = 0; i < MIN(s->n, FIT_SPLIT_MAX); i++)
		held += layers_in(r, base, shifted(r, s, rooms[i]));
	if (held >= r->need->nlayers)
		return;
	double loss = loss_of_layers(r, base, number, r->need->nlayers - held);
	ret->cost.loss = MAX(ret->cost.loss, loss);
}

static uint32_t not_preferred(const struct fit_run *r, const struct fit_summary *s, uint32_t parts)
{
	uint32_t n = parts;
	for (uint32_t d = s->from; r->w->prefer && n && d < s->to; d++)
		n -= fit_bit(r->w->prefer, d);
	return n;
}

bool fit_floor(const struct fit_run *r, const struct fit_step *step, size_t number, struct fit_score *ret)
{
	const struct fit_summary *s = &r->table->nodes[number];
	const uint64_t *rooms = (step->evict ? r->table->potential : r->table->free) + s->from;
	bool host = step->mode == FIT_MODE_HOST;
	uint64_t sum = 0;
	size_t parts = 0;
	if (step->host > (step->evict ? s->host_potential : s->host_free) || (host && s->host == FIT_NIL))
		return false;
	if (!host && (!s->n || !(parts = fewest(r, step, s, rooms, &sum))))
		return false;
	*ret = (struct fit_score){ .parts = (uint32_t)parts,
		.not_preferred = not_preferred(r, s, (uint32_t)parts),
		.replicas = step->evict ? 0 : (uint64_t)parts * s->replicas,
		.speed = host ? 0 : s->speed,
		.left = fit_sub(sum, r->w->share ? r->unit * parts : r->whole),
		.device = host ? s->host : s->first };
	if (offloads(step->mode))
		ret->offloaded = fit_add(step->host, fit_sub(r->whole, sum));
	if (step->mode == FIT_MODE_PARTIAL && r->layer_least)
		ret->offloaded = MAX(ret->offloaded,
			fit_add(step->host, fit_add(r->experts[r->need->nlayers], host_layers(r, s, rooms))));
	uint64_t free = step->evict && step->sets ? sum_free(r, s) : 0;
	if (step->evict && somebody_leaves(r, step, s, free)) {
		ret->cost = (struct fit_cost){ s->least, !s->expired, 1 };
		ret->cost.loss = MAX(s->least, least_loss(r, number, short_of(r, step, parts, free)));
	}
	return true;
}

bool fit_might_later(const struct fit_run *r, size_t number)
{
	const struct fit_summary *s = &r->table->nodes[number];
	if (r->w->share)
		return s->most_later >= r->unit;
	return (r->divides || r->gpus > 1 ? s->later : s->most_later) >= r->whole;
}

/* The least that any number of them lacks together, and how many these are; 0 devices: there are too few. */
static uint64_t lacks(const struct fit_run *r, const struct fit_summary *s, size_t *ret_together)
{
	const uint64_t *rooms = (r->w->may_evict ? r->table->potential : r->table->free) + s->from;
	size_t n = MIN(s->n, FIT_SPLIT_MAX), from = r->gpus ? r->gpus : 1;
	size_t to = r->gpus ? r->gpus : r->divides ? n : 1;
	uint64_t have = 0, needed = r->w->share ? r->unit : r->whole, least = UINT64_MAX;
	*ret_together = 0;
	for (size_t k = 1; k <= MIN(to, n); k++) {
		uint64_t room = shifted(r, s, rooms[k - 1]);
		have = fit_add(have, room);
		if (k > 1 && r->divides && !r->w->share)
			needed = fit_add(needed, r->need->compute + r->need->overhead);
		uint64_t bytes = fit_sub(needed, r->w->share ? room : have);
		if (k < from || (*ret_together && bytes >= least))
			continue;
		least = bytes;
		*ret_together = k;
	}
	return least;
}

bool fit_might_be_closer(const struct fit_run *r, size_t number, const struct fit_plan *found)
{
	const struct fit_summary *s = &r->table->nodes[number];
	size_t together = 0;
	uint64_t least = s->n ? lacks(r, s, &together) : UINT64_MAX;
	if (!s->n)
		return false;
	if (found->closest == FIT_NONE || (together && !least))
		return true;
	if (!found->later && r->divides && r->w->offload == FIT_OFFLOAD_AUTO && !r->w->share) {
		uint64_t there = fit_add(fit_host_least(r, FIT_MODE_EXPERTS),
			fit_sub(r->whole,
				sum_of(r, s, r->table->potential + s->from, MIN(s->n, FIT_SPLIT_MAX))));
		if (MAX(fit_sub(there, s->host_potential), 1) <= found->missing)
			return true;
	}
	if (!together || least != found->missing)
		return together && least < found->missing;
	if (found->host_missing || together != found->together)
		return found->host_missing || together < found->together;
	return fit_names_cmp(r, found->closest, s->first) > 0;
}
