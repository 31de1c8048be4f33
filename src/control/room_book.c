/* SPDX-License-Identifier: Apache-2.0
 *
 * What is reserved for a replica: from a plan into the ledger and to its slot, and back.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mask.h"
#include "base/mem.h"
#include "control/room_int.h"

void slot_room_free(struct control *c, struct control_slot *s, mono_t now)
{
	if (s->room && s->room->nuses) {
		(void)!ledger_release(c->ledger, slot_owner(s), now);
		scene_await(c, s);
		c->returns_by = mono_add_ms(now, LEDGER_RETURN_MS);
	}
	s->room_pid = 0;
	free(s->room);
	s->room = NULL;
	s->waits = false;
}

static void add_use(struct slot_room *r, const struct scene *sc, size_t device, uint64_t bytes)
{
	if (r->nuses == ROOM_USES_MAX || !bytes)
		return;
	struct room_use *u = &r->uses[r->nuses++];
	snprintf(u->device_id, sizeof u->device_id, "%s", sc->devices[device].device_id);
	u->device = sc->booked[device];
	u->bytes = bytes;
}

/* Into the ledger, and to the slot. False: it is not there, whatever the planner thought. */
static bool book(struct control *c, struct control_slot *s, struct slot_room *r, bool found)
{
	struct ledger_part parts[ROOM_USES_MAX];
	for (size_t i = 0; i < r->nuses; i++)
		parts[i] = (struct ledger_part){ r->uses[i].device, r->uses[i].bytes };
	s->room_owner = ++c->next_owner;
	s->room_epoch = s->restart_epoch;
	int e = 0;
	if (r->nuses && !found)
		e = ledger_reserve(c->ledger, slot_owner(s), parts, r->nuses, NULL);
	/* The planner had the driver's list of processes, the ledger an estimate of what strangers hold. */
	if (r->nuses && (found || e == -ENOSPC))
		e = ledger_adopt(c->ledger, slot_owner(s), parts, r->nuses);
	if (e) {
		free(r);
		return false;
	}
	s->room = r;
	return true;
}

static void append(char *to, size_t cap, const char *word)
{
	size_t n = strlen(to);
	snprintf(to + n, cap - n, "%s%s", n ? "," : "", word);
}

static void take_parts(struct slot_room *r, const struct scene *sc, const struct fit_plan *plan)
{
	char number[16];
	r->on_gpu = plan->nparts > 0;
	for (size_t i = 0; i < plan->nparts; i++) {
		const struct fit_device *d = &sc->devices[plan->parts[i].device];
		const struct wire_device *w = sc->wire[plan->parts[i].device];
		snprintf(number, sizeof number, "%u", d->index);
		append(r->devices, sizeof r->devices, w->uuid ? w->uuid : number);
		snprintf(number, sizeof number, "%u", plan->parts[i].layers);
		if (plan->nparts > 1)
			append(r->split, sizeof r->split, number);
		add_use(r, sc, plan->parts[i].device, plan->parts[i].bytes);
	}
	if (plan->host != FIT_NONE)
		add_use(r, sc, plan->host, plan->host_bytes);
}

static bool any_gpu(const struct scene *sc)
{
	for (size_t i = 0; i < sc->facts.ndevices; i++)
		if (sc->devices[i].kind != FIT_KIND_CPU && !sc->devices[i].integrated)
			return true;
	return false;
}

bool room_reserve(struct control *c, struct control_slot *s, const struct scene *sc,
	const struct room_want *w, const struct fit_plan *plan)
{
	struct slot_room *r = NEW(struct slot_room);
	r->how = plan->how;
	take_parts(r, sc, plan);
	if (plan->how == FIT_HOST && any_gpu(sc))
		snprintf(r->devices, sizeof r->devices, "cpu");
	r->planned = w->need.nlayers && plan->how != FIT_HOST && plan->how != FIT_SHARE;
	r->gpu_layers = plan->gpu_layers;
	r->cpu_experts = plan->cpu_experts;
	r->ctx = w->ctx;
	return book(c, s, r, false);
}

void room_reserve_found(struct control *c, struct control_slot *s, const struct scene *sc,
	const struct room_want *w, const struct registry_replica *r)
{
	struct slot_room *room = NEW(struct slot_room);
	struct mask m;
	if (mask_parse(view_str(r->facts.device_mask ? r->facts.device_mask : "auto"), &m, NULL))
		m.kind = MASK_AUTO;
	uint64_t whole = w->known ? (w->fit.share ? w->fit.share : fit_need_whole(&w->need)) : 0;
	room->ctx = w->ctx ? r->facts.ctx : 0;
	size_t n = 0;
	for (size_t pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < sc->facts.ndevices; i++) {
			const struct fit_device *d = &sc->devices[i];
			bool cpu = d->kind == FIT_KIND_CPU;
			if (strcmp(d->node_id, r->node_id) != 0 || (!cpu && !mask_has_index(&m, d->index)))
				continue;
			if (pass)
				add_use(room, sc, i, cpu ? w->need.host : whole / n);
			else
				n += !cpu;
		}
	(void)book(c, s, room, true);
}
