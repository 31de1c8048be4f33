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
	d->utilization = -1;
	d->temperature_c = GPU_TEMPERATURE_UNKNOWN;
	d->nprocesses = 0;
}

/* What the driver shows. A device it has lost may have no name left: what was known of it stays. */
static void add_shown(const struct gpu_news *w, const struct gpu_list *before, struct gpu_list *ret)
{
	for (size_t i = 0; w->sample && i < w->sample->list.len; i++) {
		struct gpu_device d = w->sample->list.items[i];
		const struct gpu_device *old = find(before, d.uuid, d.pci);
		if (d.state != GPU_OK && old) {
			struct gpu_device known = *old;
			lose(&known, d.reason);
			d = known;
		}
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
		if (d.kind != GPU_CUDA || d.given_away) {
			add(ret, &d);
			continue;
		}
		if (find(ret, "", d.pci))
			continue;
		const struct gpu_device *old = find(before, "", d.pci);
		char why[256];
		snprintf(why, sizeof why, "%.150s (%.100s)", w->words, d.reason);
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
		lose(&d, w->words);
		add(ret, &d);
	}
}

static int by_index(const void *a, const void *b)
{
	const struct gpu_device *x = a, *y = b;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	int c = strcmp(x->pci, y->pci);
	return c ? c : strcmp(x->uuid, y->uuid);
}

void gpu_merge(const struct gpu_news *w, const struct gpu_list *before, struct gpu_list *ret)
{
	ret->len = 0;
	add_shown(w, before, ret);
	add_hidden(w, before, ret);
	add_vanished(w, before, ret);
	qsort(ret->items, ret->len, sizeof ret->items[0], by_index);
	for (size_t i = 0; i < ret->len; i++) {
		struct gpu_device *d = &ret->items[i];
		d->index = (unsigned)i;
		d->vendor_index = i && d[-1].kind == d->kind ? d[-1].vendor_index + 1 : 0;
	}
	if (ret->len == GPU_DEVICES_MAX)
		ret->len--;
	add(ret, w->cpu);
}

/* ---- what changed ----------------------------------------------------------------------------------- */

static bool same_device(const struct gpu_device *a, const struct gpu_device *b)
{
	return a->kind == b->kind && a->state == b->state && strcmp(a->uuid, b->uuid) == 0 &&
	       strcmp(a->pci, b->pci) == 0 && strcmp(a->name, b->name) == 0 &&
	       strcmp(a->reason, b->reason) == 0 && strcmp(a->driver, b->driver) == 0 &&
	       a->memory_total == b->memory_total;
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
