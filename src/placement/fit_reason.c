/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/fit_int.h"

static const char *const reason_texts[] = {
	[FIT_TAKEN] = "taken",
	[FIT_NOT_IN_MASK] = "the pool's devices do not name it",
	[FIT_NOT_USABLE] = "it does not answer, or its node is away or draining",
	[FIT_CORDONED] = "it is cordoned",
	[FIT_INTEGRATED] = "it shares the host's memory, and the pool's devices do not name it",
	[FIT_OTHER_KIND] = "it is of another kind",
	[FIT_AVOIDED] = "it is to be avoided, and others do",
	[FIT_TOO_SMALL] = "it is too small, even empty",
	[FIT_FULL] = "it is full, and who holds it may not leave",
	[FIT_NEEDS_EVICTION] = "it would do if idle ones left, but there is a better way",
	[FIT_HOST_FULL] = "the host's memory is short",
	[FIT_BUDGET] = "the operator's bound does not allow it",
	[FIT_OTHER_NODE] = "it is on another node than was asked for",
	[FIT_NEVER_WITH] = "one it may not run with is there and may not leave",
	[FIT_TOO_FEW] = "its node has too few such devices with room",
	[FIT_LESS_GOOD] = "it would do, but another is better",
};
static_assert(ARRAY_LEN(reason_texts) == FIT_REASON_COUNT, "one text per reason");

const char *fit_reason_text(enum fit_reason r)
{
	return (unsigned)r < FIT_REASON_COUNT ? reason_texts[r] : "unknown";
}

const char *fit_how_text(enum fit_how h)
{
	switch (h) {
	case FIT_NO: return "nowhere";
	case FIT_ONE: return "on one device";
	case FIT_SPLIT: return "over several devices";
	case FIT_EXPERTS: return "with experts in host memory";
	case FIT_PARTIAL: return "with layers in host memory";
	case FIT_HOST: return "on the host alone";
	case FIT_SHARE: return "with a share of each device";
	}
	return "unknown";
}

/* ---- what is missing ----------------------------------------------------------------------------------- */

static uint64_t potential(const struct fit_run *r, size_t d)
{
	return fit_potential(r, d);
}

static uint64_t host_potential(const struct fit_run *r, const struct fit_node *n)
{
	return n->host == FIT_NONE ? UINT64_MAX : fit_potential(r, n->host);
}

static void closer(
	const struct fit_run *r, struct fit_plan *ret, size_t device, size_t together, uint64_t missing)
{
	bool host = r->f->devices[device].kind == FIT_KIND_CPU;
	if (ret->closest != FIT_NONE) {
		int c = ret->missing < missing ? -1 : ret->missing > missing;
		c = c ? c : (int)host - (int)ret->host_missing;
		c = c ? c : ret->together < together ? -1 : ret->together > together;
		if (c < 0 || (c == 0 && fit_names_cmp(r, ret->closest, device) <= 0))
			return;
	}
	ret->closest = device;
	ret->together = together;
	ret->missing = missing;
	ret->host_missing = host;
}

/* What k of the roomiest lack together. 0: nothing, or it is a matter of whole layers. */
static uint64_t lack(const struct fit_run *r, const struct fit_set *ranked, size_t k)
{
	const struct fit_need *n = r->need;
	uint64_t needed = r->w->share ? r->unit : r->whole, have = 0;
	if (r->w->share)
		return fit_sub(needed, fit_potential(r, ranked->devices[k - 1]));
	if (r->divides)
		for (size_t i = 1; i < k; i++)
			needed = fit_add(needed, n->compute + n->overhead);
	for (size_t i = 0; i < k; i++)
		have = fit_add(have, fit_potential(r, ranked->devices[i]));
	return fit_sub(needed, have);
}

/* Their sum would do, but layers cannot be cut: what the roomiest would have to have more. */
static uint64_t lack_of_cuts(
	const struct fit_run *r, const struct fit_node *node, const struct fit_set *ranked, size_t k)
{
	struct fit_room room = { .host = UINT64_MAX };
	struct fit_set set;
	size_t roomiest = 0;
	fit_set_first(r, ranked, k, &set);
	for (size_t i = 0; i < k; i++) {
		room.devices[i] = fit_potential(r, set.devices[i]);
		if (set.devices[i] == ranked->devices[0])
			roomiest = i;
	}
	uint64_t lo = 0, hi = r->whole, have = room.devices[roomiest];
	while (r->divides && hi - lo > 1) {
		uint64_t mid = lo + (hi - lo) / 2;
		room.devices[roomiest] = fit_add(have, mid);
		if (fit_shape(r, FIT_MODE_WHOLE, node, &set, &room, NULL))
			hi = mid;
		else
			lo = mid;
	}
	return MAX(hi, 1);
}

/* With everything the host would have to hold if it had room for it. */
static bool host_lacks(
	const struct fit_run *r, const struct fit_node *node, const struct fit_set *ranked, uint64_t *ret)
{
	static const enum fit_mode modes[] = { FIT_MODE_EXPERTS, FIT_MODE_PARTIAL };
	struct fit_room room = { .host = UINT64_MAX };
	struct fit_plan plan;
	struct fit_set set;
	if (!r->divides || r->w->offload != FIT_OFFLOAD_AUTO || r->w->share || !ranked->n)
		return false;
	size_t k = r->gpus ? MIN(r->gpus, ranked->n) : ranked->n;
	fit_set_first(r, ranked, k, &set);
	for (size_t i = 0; i < k; i++)
		room.devices[i] = fit_potential(r, set.devices[i]);
	for (size_t m = 0; m < ARRAY_LEN(modes); m++) {
		if (!fit_shape(r, modes[m], node, &set, &room, &plan))
			continue;
		*ret = fit_sub(plan.host_bytes, host_potential(r, node));
		return *ret > 0;
	}
	return false;
}

static void missing_in(
	const struct fit_run *r, const struct fit_node *node, size_t like, struct fit_plan *ret)
{
	struct fit_set ranked;
	fit_group(r, node, like, potential, &ranked);
	size_t from = r->gpus ? r->gpus : 1, to = r->gpus ? r->gpus : r->divides ? ranked.n : 1;
	enum fit_mode mode = r->w->share ? FIT_MODE_SHARE : FIT_MODE_WHOLE;
	uint64_t host = fit_sub(fit_host_least(r, mode), host_potential(r, node));
	uint64_t offload, least = UINT64_MAX;
	size_t together = 0;
	for (size_t k = from; k <= MIN(to, ranked.n) && least; k++) {
		uint64_t bytes = lack(r, &ranked, k);
		if (!bytes && !host)
			bytes = lack_of_cuts(r, node, &ranked, k);
		if (bytes < least || !together) {
			least = bytes;
			together = k;
		}
	}
	if (together && !least)
		closer(r, ret, node->host, 1, host);
	else if (together)
		closer(r, ret, ranked.devices[0], together, least);
	if (!ret->later && host_lacks(r, node, &ranked, &offload))
		closer(r, ret, node->host, 1, offload);
}

void fit_missing(struct fit_run *r, struct fit_plan *ret)
{
	struct fit_node node;
	fit_index(r);
	ret->later = fit_would_later(r);
	r->avoided = true;
	for (size_t at = 0; fit_node_next(r, &at, &node);) {
		struct fit_kinds kinds = { { 0 } };
		bool might = !r->table || fit_might_be_closer(r, node.number, ret);
		for (size_t d = node.from; might && d < node.to; d++)
			if (fit_leads(r, &kinds, d))
				missing_in(r, &node, d, ret);
		if (!r->w->cpu || node.host == FIT_NONE || fit_bar(r, node.host) != FIT_TAKEN)
			continue;
		uint64_t bytes = fit_sub(fit_host_least(r, FIT_MODE_HOST), fit_potential(r, node.host));
		closer(r, ret, node.host, 1, MAX(bytes, 1));
	}
}

/* ---- why a device was not taken ------------------------------------------------------------------------ */

static bool takes_part(const struct fit_plan *p, size_t device)
{
	for (size_t i = 0; i < p->nparts; i++)
		if (p->parts[i].device == device)
			return true;
	return p->how != FIT_NO && device == p->host && p->host_bytes;
}

static enum fit_reason for_room(
	struct fit_run *r, const struct fit_plan *p, const struct fit_node *node, size_t d)
{
	const struct fit_device *dev = &r->f->devices[d];
	uint64_t cap = fit_cap(r, dev), unit = r->unit;
	enum fit_mode mode = r->w->share ? FIT_MODE_SHARE : FIT_MODE_WHOLE;
	if (r->gpus > 1 && !r->w->share)
		unit = r->whole / r->gpus;
	if (cap < unit)
		return dev->limit && dev->limit == cap ? FIT_BUDGET : FIT_TOO_SMALL;
	if (fit_room_of(r, d, 0) >= unit) {
		if (fit_host_least(r, mode) > fit_host_room(r, node, 0))
			return FIT_HOST_FULL;
		return p->how != FIT_NO ? FIT_LESS_GOOD : r->gpus > 1 ? FIT_TOO_FEW : FIT_FULL;
	}
	if (fit_potential(r, d) < unit)
		return FIT_FULL;
	if (fit_host_least(r, mode) > host_potential(r, node))
		return FIT_HOST_FULL;
	return p->how != FIT_NO ? FIT_NEEDS_EVICTION : r->gpus > 1 ? FIT_TOO_FEW : FIT_FULL;
}

/* What bars every device of a node. */
static enum fit_reason node_bar(struct fit_run *r, const struct fit_plan *p, const struct fit_node *node)
{
	if (r->unwelcome && fit_company(r, node) == FIT_STAYS)
		return FIT_NEVER_WITH;
	return p->how == FIT_NO && fit_surplus(r, node) ? FIT_BUDGET : FIT_TAKEN;
}

static enum fit_reason reason_of(
	struct fit_run *r, const struct fit_plan *p, const struct fit_node *node, size_t d)
{
	if (takes_part(p, d))
		return FIT_TAKEN;
	enum fit_reason bar = fit_bar(r, d);
	if (bar != FIT_TAKEN)
		return bar;
	if (d == node->host)
		return !r->w->cpu                                                   ? FIT_OTHER_KIND
		       : fit_host_least(r, FIT_MODE_HOST) > host_potential(r, node) ? FIT_HOST_FULL
										    : FIT_LESS_GOOD;
	if (fit_bit(r->w->avoid, d) && p->how != FIT_NO)
		return FIT_AVOIDED;
	if (p->nparts > 1 && p->parts[0].device >= node->from && p->parts[0].device < node->to &&
		r->f->devices[p->parts[0].device].kind != r->f->devices[d].kind)
		return FIT_OTHER_KIND;
	return for_room(r, p, node, d);
}

void fit_reasons(struct fit_run *r, const struct fit_plan *plan, enum fit_reason *ret)
{
	struct fit_node node;
	fit_index(r);
	r->avoided = true;
	for (size_t at = 0; fit_node_next(r, &at, &node);) {
		enum fit_reason all = node_bar(r, plan, &node);
		for (size_t d = node.from; d < node.to; d++) {
			ret[d] = reason_of(r, plan, &node, d);
			if (all != FIT_TAKEN && ret[d] >= FIT_TOO_SMALL)
				ret[d] = all;
		}
		if (node.host != FIT_NONE)
			ret[node.host] = reason_of(r, plan, &node, node.host);
	}
}
