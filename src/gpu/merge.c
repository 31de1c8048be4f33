/* SPDX-License-Identifier: Apache-2.0
 *
 * One list from what the bus shows, what the driver said, and what was known before. Pure.
 */
#include <stdio.h>
#include <stdlib.h>

#include "gpu/gpu_int.h"

static const struct gpu_device *find(const struct gpu_list *l, const char *uuid, const char *pci)
{
	for (size_t i = 0; i < l->len; i++) {
		const struct gpu_device *d = &l->items[i];
		if (d->kind == GPU_CPU)
			continue;
		if ((pci[0] && strcmp(d->pci, pci) == 0) || (uuid[0] && strcmp(d->uuid, uuid) == 0))
			return d;
	}
	return NULL;
}

static void add(struct gpu_list *l, const struct gpu_device *d)
{
	struct gpu_device *to = gpu_list_add(l, d->kind);
	if (to)
		*to = *d;
}

static void lose(struct gpu_device *d, const char *why)
{
	d->state = GPU_LOST;
	gpu_set_text(d->reason, sizeof d->reason, view_str(why));
	gpu_forget_figures(d);
}

static void take_error(struct gpu_device *to, const struct gpu_device *from)
{
	memcpy(to->last_error, from->last_error, sizeof to->last_error);
	to->last_error_at_ms = from->last_error_at_ms;
}

/* What AMD's driver says over what sysfs says; where it knows nothing, that stays. */
static void overlay(struct gpu_device *to, const struct gpu_device *s)
{
	if (s->name[0])
		memcpy(to->name, s->name, sizeof to->name);
	if (!to->uuid[0])
		memcpy(to->uuid, s->uuid, sizeof to->uuid);
	if (s->driver[0])
		memcpy(to->driver, s->driver, sizeof to->driver);
	if (s->memory_total) {
		to->memory_total = s->memory_total;
		to->memory_free = s->memory_free;
		to->memory_used = s->memory_used;
	}
	to->utilization = s->utilization >= 0 ? s->utilization : to->utilization;
	to->temperature_c = s->temperature_c;
	to->power_mw = s->power_mw;
	to->power_limit_mw = s->power_limit_mw;
	to->ecc_corrected = s->ecc_corrected;
	to->ecc_uncorrected = s->ecc_uncorrected;
	to->nprocesses = s->nprocesses;
	memcpy(to->processes, s->processes, sizeof to->processes);
	to->nlinks = s->nlinks;
	memcpy(to->links, s->links, sizeof to->links);
	if (s->state != GPU_OK)
		lose(to, s->reason);
}

/* What the bus shows of AMD and Intel, and of what is given away. */
static void add_bus(const struct gpu_news *w, struct gpu_list *ret)
{
	const struct gpu_list *amd = w->amd.sample ? &w->amd.sample->list : NULL;
	for (size_t i = 0; i < w->bus->len; i++) {
		struct gpu_device d = w->bus->items[i];
		const struct gpu_device *s = amd ? find(amd, "", d.pci) : NULL;
		if (d.kind == GPU_CUDA && !d.given_away)
			continue;
		if (d.kind == GPU_AMD && d.state == GPU_OK && s)
			overlay(&d, s);
		else if (d.kind == GPU_AMD && d.state == GPU_OK && w->amd.lost)
			lose(&d, w->amd.words);
		add(ret, &d);
	}
}

/* What the driver shows. A device it has lost may have no name left: what was known of it stays. */
static void add_shown(const struct gpu_news *w, const struct gpu_list *before, struct gpu_list *ret)
{
	for (size_t i = 0; w->nvidia.sample && i < w->nvidia.sample->list.len; i++) {
		struct gpu_device d = w->nvidia.sample->list.items[i];
		const struct gpu_device *old = find(before, d.uuid, d.pci);
		if (d.state != GPU_OK && old) {
			struct gpu_device known = *old;
			if (d.last_error_at_ms > known.last_error_at_ms)
				take_error(&known, &d);
			lose(&known, d.reason);
			d = known;
		}
		if (old && old->last_error_at_ms > d.last_error_at_ms)
			take_error(&d, old); /* the child that saw it may be gone */
		if (!d.name[0])
			snprintf(d.name, sizeof d.name, "NVIDIA GPU");
		if (!find(ret, d.uuid, d.pci))
			add(ret, &d);
	}
}

/* On the bus and not shown. */
static void add_hidden(const struct gpu_news *w, const struct gpu_list *before, struct gpu_list *ret)
{
	for (size_t i = 0; i < w->bus->len; i++) {
		struct gpu_device d = w->bus->items[i];
		if (d.kind != GPU_CUDA || d.given_away || find(ret, "", d.pci))
			continue;
		const struct gpu_device *old = find(before, "", d.pci);
		char why[256];
		snprintf(why, sizeof why, "%.150s (%.100s)", w->nvidia.words, d.reason);
		if (old && old->uuid[0]) {
			d = *old;
			lose(&d, why);
		} else {
			gpu_set_text(d.reason, sizeof d.reason, view_str(why));
		}
		add(ret, &d);
	}
}

/* Neither shown nor on a bus that we can see: it stays as lost, or goes when the bus had shown it. */
static void add_vanished(const struct gpu_news *w, const struct gpu_list *before, struct gpu_list *ret)
{
	for (size_t i = 0; i < before->len; i++) {
		struct gpu_device d = before->items[i];
		if (d.kind != GPU_CUDA || find(ret, d.uuid, d.pci) || find(w->bus_before, "", d.pci))
			continue;
		if (d.part && w->nvidia.sample)
			continue; /* the driver answers, and divides that GPU otherwise now */
		lose(&d, w->nvidia.words);
		add(ret, &d);
	}
}

static int by_index(const void *a, const void *b)
{
	const struct gpu_device *x = a, *y = b;
	if (!x->part != !y->part)
		return x->part ? 1 : -1;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	int c = strcmp(x->part ? x->parent : x->pci, y->part ? y->parent : y->pci);
	if (!c && x->part != y->part)
		return x->part < y->part ? -1 : 1;
	return c ? c : strcmp(x->uuid, y->uuid);
}

void gpu_merge(const struct gpu_news *w, const struct gpu_list *before, struct gpu_list *ret)
{
	unsigned of_kind[GPU_KIND_COUNT] = { 0 };
	ret->len = 0;
	add_shown(w, before, ret);
	add_hidden(w, before, ret);
	add_bus(w, ret);
	add_vanished(w, before, ret);
	qsort(ret->items, ret->len, sizeof ret->items[0], by_index);
	for (size_t i = 0; i < ret->len; i++) {
		struct gpu_device *d = &ret->items[i];
		d->index = (unsigned)i;
		d->vendor_index = of_kind[d->kind]++;
	}
	if (ret->len == GPU_DEVICES_MAX)
		ret->len--;
	add(ret, w->cpu);
}

/* ---- what changed ----------------------------------------------------------------------------------- */

/* Their last error is part of it: an event is told at once. */
static bool same_device(const struct gpu_device *a, const struct gpu_device *b)
{
	return a->kind == b->kind && a->state == b->state && strcmp(a->uuid, b->uuid) == 0 &&
	       strcmp(a->pci, b->pci) == 0 && strcmp(a->name, b->name) == 0 &&
	       strcmp(a->reason, b->reason) == 0 && strcmp(a->driver, b->driver) == 0 &&
	       a->memory_total == b->memory_total && a->split == b->split &&
	       strcmp(a->parent, b->parent) == 0 && a->last_error_at_ms == b->last_error_at_ms;
}

bool gpu_same_set(const struct gpu_list *a, const struct gpu_list *b)
{
	if (a->len != b->len)
		return false;
	for (size_t i = 0; i < a->len; i++)
		if (!same_device(&a->items[i], &b->items[i]))
			return false;
	return true;
}

static uint64_t apart(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

bool gpu_same_figures(const struct gpu_list *a, const struct gpu_list *b)
{
	for (size_t i = 0; i < a->len && i < b->len; i++) {
		const struct gpu_device *x = &a->items[i], *y = &b->items[i];
		uint64_t step = MAX(x->memory_total / 128, (uint64_t)16 * MIB);
		double load = x->utilization - y->utilization;
		if (apart(x->memory_used, y->memory_used) > step || load > 0.1 || load < -0.1 ||
			apart((uint64_t)(x->temperature_c + 2000), (uint64_t)(y->temperature_c + 2000)) > 3 ||
			x->nprocesses != y->nprocesses)
			return false;
	}
	return a->len == b->len;
}
