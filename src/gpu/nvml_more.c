/* SPDX-License-Identifier: Apache-2.0
 *
 * What NVML knows besides a device's name and memory: its power and errors, the driver's events, its MIG
 * instances, and what lies between it and the others. A library that lacks a function costs its figure only.
 */
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "gpu/nvml_int.h"

enum {
	ECC_CORRECTED = 0,
	ECC_UNCORRECTED = 1,
	ECC_SINCE_LOADED = 0,
	P2P_NVLINK = 2,
	NVLINKS_MAX = 18,
	EVENTS_PER_READ = 64,
	WAYS_READS = 64, /* the links are read again after so many samples */
};
#define EVENT_DOUBLE_BIT 0x2ULL
#define EVENT_XID 0x8ULL

/* ---- events ------------------------------------------------------------------------------------------ */

static const char *xid_text(unsigned long long xid)
{
	static const struct {
		unsigned xid;
		const char *text;
	} known[] = {
		{ 13, "a program's fault in the graphics engine" },
		{ 31, "a program's access to memory that is not there" },
		{ 43, "a program's fault; its channel was stopped" },
		{ 45, "the channels of a program were torn down" },
		{ 48, "a memory error that ECC could not correct" },
		{ 61, "its micro-controller halted" },
		{ 62, "its micro-controller halted" },
		{ 63, "a part of its memory was retired" },
		{ 64, "a bad part of its memory could not be retired" },
		{ 74, "an NVLink error" },
		{ 79, "the GPU has fallen off the bus" },
		{ 92, "many memory errors that ECC corrected" },
		{ 94, "a memory error that hit one program" },
		{ 95, "a memory error that was not contained; the GPU needs a reset" },
		{ 119, "its system processor (GSP) does not answer; the GPU needs a reset" },
		{ 120, "its system processor (GSP) failed; the GPU needs a reset" },
		{ 140, "memory errors that ECC could not correct" },
	};
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (known[i].xid == xid)
			return known[i].text;
	return "the driver's log (dmesg, \"NVRM: Xid\") says more";
}

static struct nvml_error *error_of(struct nvml *n, nvml_handle device)
{
	for (size_t i = 0; i < n->nerrors; i++)
		if (n->errors[i].device == device)
			return &n->errors[i];
	return n->nerrors < GPU_DEVICES_MAX ? &n->errors[n->nerrors++] : NULL;
}

static void take_event(struct nvml *n, const struct nvml_event *v)
{
	struct nvml_error *e = error_of(n, v->device);
	if (!e)
		return;
	*e = (struct nvml_error){ .device = v->device, .at_ms = MAX(wall_ms(), e->at_ms + 1) };
	if (v->type == EVENT_XID)
		snprintf(e->text, sizeof e->text, "Xid %llu: %s", v->data, xid_text(v->data));
	else
		snprintf(e->text, sizeof e->text, "a memory error that ECC could not correct");
}

static void events_begin(struct nvml *n, const nvml_handle *devices, size_t count)
{
	n->events_tried = true;
	if (!n->events_new || !n->events_free || !n->events_register || !n->events_wait ||
		n->events_new(&n->events) != NVML_SUCCESS) {
		n->events = NULL;
		return;
	}
	for (size_t i = 0; i < count; i++) {
		unsigned long long can = EVENT_XID | EVENT_DOUBLE_BIT;
		if (n->events_supported && n->events_supported(devices[i], &can) != NVML_SUCCESS)
			continue;
		can &= EVENT_XID | EVENT_DOUBLE_BIT;
		if (can)
			(void)n->events_register(devices[i], can, n->events);
	}
}

void nvml_events_read(struct nvml *n, const nvml_handle *devices, size_t count)
{
	if (!n->events_tried)
		events_begin(n, devices, count);
	for (int i = 0; n->events && i < EVENTS_PER_READ; i++) {
		struct nvml_event v[2] = { 0 }; /* room for a longer one */
		if (n->events_wait(n->events, v, 0) != NVML_SUCCESS)
			return;
		if (v[0].type & (EVENT_XID | EVENT_DOUBLE_BIT))
			take_event(n, &v[0]);
	}
}

void nvml_events_end(struct nvml *n)
{
	if (n->events)
		(void)n->events_free(n->events);
	n->events = NULL;
}

/* ---- figures ------------------------------------------------------------------------------------------ */

static int64_t ecc_count(struct nvml *n, nvml_handle h, int type)
{
	unsigned long long count = 0;
	bool told = n->ecc && n->ecc(h, type, ECC_SINCE_LOADED, &count) == NVML_SUCCESS;
	return told ? (int64_t)MIN(count, (unsigned long long)INT64_MAX) : -1;
}

void nvml_read_health(struct nvml *n, nvml_handle h, struct gpu_device *d)
{
	unsigned mw = 0;
	if (n->power && n->power(h, &mw) == NVML_SUCCESS)
		d->power_mw = mw;
	if (n->power_limit && n->power_limit(h, &mw) == NVML_SUCCESS)
		d->power_limit_mw = mw;
	d->ecc_corrected = ecc_count(n, h, ECC_CORRECTED);
	d->ecc_uncorrected = ecc_count(n, h, ECC_UNCORRECTED);
	for (size_t i = 0; i < n->nerrors; i++)
		if (n->errors[i].device == h) {
			memcpy(d->last_error, n->errors[i].text, sizeof d->last_error);
			d->last_error_at_ms = n->errors[i].at_ms;
		}
}

/* ---- MIG ---------------------------------------------------------------------------------------------- */

bool nvml_is_split(struct nvml *n, nvml_handle h)
{
	unsigned now = 0, pending = 0;
	return n->mig_mode && n->mig_by_index && n->mig_mode(h, &now, &pending) == NVML_SUCCESS && now == 1;
}

unsigned nvml_parts_max(struct nvml *n, nvml_handle h)
{
	unsigned max = 0;
	return n->mig_max && n->mig_max(h, &max) == NVML_SUCCESS ? MIN(max, (unsigned)GPU_DEVICES_MAX) : 0;
}

bool nvml_part(struct nvml *n, nvml_handle h, unsigned i, nvml_handle *ret)
{
	return n->mig_by_index(h, i, ret) == NVML_SUCCESS && *ret;
}

/* ---- what lies between ----------------------------------------------------------------------------------
 */

static enum gpu_path path_between(struct nvml *n, nvml_handle a, nvml_handle b)
{
	int level = -1;
	if (!n->ancestor || n->ancestor(a, b, &level) != NVML_SUCCESS)
		return GPU_PATH_UNKNOWN;
	return level >= 0 && level <= 50 && level % 10 == 0 ? (enum gpu_path)(level / 10 + GPU_PATH_BOARD)
							    : GPU_PATH_UNKNOWN;
}

/* The active links of a, and to[i]: how many of them end at list->items[i]. */
static unsigned links_of(struct nvml *n, nvml_handle a, const struct gpu_list *list, unsigned *to)
{
	unsigned active = 0;
	for (unsigned l = 0; n->nvlink_state && l < NVLINKS_MAX; l++) {
		struct nvml_pci remote = { 0 };
		char pci[16];
		int on = 0;
		if (n->nvlink_state(a, l, &on) != NVML_SUCCESS || on != 1)
			continue;
		active++;
		if (!n->nvlink_remote || n->nvlink_remote(a, l, &remote) != NVML_SUCCESS)
			continue;
		remote.bus_id[sizeof remote.bus_id - 1] = '\0';
		for (size_t i = 0; gpu_pci_normal(view_str(remote.bus_id), pci) && i < list->len; i++)
			to[i] += list->items[i].pci[0] && strcmp(list->items[i].pci, pci) == 0;
	}
	return active;
}

static void read_ways(struct nvml *n, const nvml_handle *handles, const struct gpu_list *list, size_t of,
	struct nvml_ways *ret)
{
	unsigned to[GPU_DEVICES_MAX] = { 0 };
	unsigned active = links_of(n, handles[of], list, to);
	ret->n = 0;
	for (size_t i = 0; i < list->len && ret->n < GPU_LINKS_MAX; i++) {
		const struct gpu_device *d = &list->items[i];
		int status = -1;
		if (i == of || !handles[i] || !d->pci[0])
			continue;
		/* Links that end at a switch reach every GPU behind it: the driver says whether. */
		if (active && !to[i] && n->p2p &&
			n->p2p(handles[of], handles[i], P2P_NVLINK, &status) == NVML_SUCCESS && status == 0)
			to[i] = active;
		struct gpu_link *l = &ret->links[ret->n++];
		memcpy(l->pci, d->pci, sizeof l->pci);
		l->path = path_between(n, handles[of], handles[i]);
		l->fabric = to[i];
	}
}

void nvml_read_links(struct nvml *n, const nvml_handle *handles, struct gpu_list *list)
{
	bool old = n->ways_of != list->len || n->ways_age++ % WAYS_READS == 0;
	n->ways_of = (unsigned)list->len;
	for (size_t i = 0; i < list->len; i++) {
		struct gpu_device *d = &list->items[i];
		if (!handles[i] || d->state != GPU_OK)
			continue;
		if (old)
			read_ways(n, handles, list, i, &n->ways[i]);
		d->nlinks = n->ways[i].n;
		memcpy(d->links, n->ways[i].links, sizeof d->links);
	}
}
