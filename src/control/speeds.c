/* SPDX-License-Identifier: Apache-2.0
 *
 * Which device was how fast for a pool: what its engines did there is remembered, so that the planner can
 * prefer the faster one when nothing runs.
 */
#include <string.h>

#include "control/room_int.h"

/* The one GPU (or the host, where it has none) that an engine computes on; FIT_NONE: several do. */
static size_t computes_on(const struct scene *sc, const struct slot_room *room)
{
	size_t found = FIT_NONE;
	for (size_t i = 0; i < room->nuses; i++)
		for (size_t d = 0; d < sc->facts.ndevices; d++) {
			if (sc->booked[d] != room->uses[i].device)
				continue;
			bool host = sc->devices[d].kind == FIT_KIND_CPU;
			if (host && room->on_gpu)
				continue;
			if (found != FIT_NONE)
				return FIT_NONE;
			found = d;
		}
	return found;
}

struct noting {
	const struct scene *sc;
	struct control_pool *p;
};

static void keep(struct control_pool *p, size_t device, uint32_t speed)
{
	size_t at = 0;
	while (at < p->nspeeds && p->speeds[at].device != device)
		at++;
	if (at == CONTROL_SPEEDS_MAX)
		at = 0; /* which one is forgotten does not matter: it is only a preference */
	else if (at == p->nspeeds)
		p->nspeeds++;
	p->speeds[at] = (struct control_speed){ .device = device, .speed = speed };
}

static void note(void *arg, const struct pool_replica *r)
{
	struct noting *n = arg;
	struct pool_speed speed;
	pool_replica_speed(r, &speed);
	if (!speed.cost_ns)
		return;
	for (size_t i = 0; i < n->p->nslots; i++) {
		const struct control_slot *s = n->p->slots[i];
		if (!s->room || strcmp(s->id, r->id) != 0)
			continue;
		size_t d = computes_on(n->sc, s->room);
		uint64_t a_day =
			UINT64_C(86400000000000); /* requests a day: finer than tokens/s, and it fits */
		uint64_t rate = a_day / speed.cost_ns;
		if (d != FIT_NONE)
			keep(n->p, n->sc->booked[d], (uint32_t)MIN(MAX(rate, 1), UINT32_MAX));
	}
}

void room_speeds(struct control *c, const struct control_pool *p, struct scene *sc)
{
	for (size_t i = 0; i < c->npools; i++) {
		struct noting n = { .sc = sc, .p = c->pools[i] };
		pool_each_replica(c->pools[i]->pool, note, &n);
	}
	for (size_t i = 0; i < p->nspeeds; i++)
		for (size_t d = 0; d < sc->facts.ndevices; d++)
			if (sc->booked[d] == p->speeds[i].device)
				sc->devices[d].speed = p->speeds[i].speed;
}
