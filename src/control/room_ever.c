/* SPDX-License-Identifier: Apache-2.0
 *
 * Whether a model whose header alone is here could ever be served: it is not fetched where the planner would
 * refuse it on a machine that nobody else uses. Where there is doubt, it could.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "control/room_int.h"

/* The host alone, its pages from the file as they are needed. */
bool room_plan_mapped(
	const struct fit_facts *facts, void *scratch, const struct room_want *w, struct fit_plan *plan)
{
	if (!w->fit.cpu || !w->wire.host_mapped || w->fit.share)
		return false;
	struct fit_need need = w->need;
	struct fit_want want = w->fit;
	AUTO(mem_freep) struct fit_layer *layers = mem_alloc((need.nlayers + 1) * sizeof *layers);
	for (size_t i = 0; i < need.nlayers; i++)
		layers[i].cache = need.layers[i].cache;
	need.layers = layers;
	need.output = 0;
	need.whole -= MIN(need.whole, w->wire.host_mapped);
	want.need = &need;
	want.may_evict = false;
	fit_plan(facts, &want, scratch, plan, NULL);
	return plan->how == FIT_HOST;
}

/* A device that does not answer now may be back before the model is here. */
static bool all_answer(const struct scene *sc, const struct room_want *w)
{
	for (size_t i = 0; i < sc->facts.ndevices; i++)
		if (bit_get(w->mask, i) && (!sc->devices[i].usable || !sc->devices[i].capacity))
			return false;
	return sc->facts.ndevices > 0;
}

bool room_never(const struct scene *sc, const struct room_want *w)
{
	struct fit_facts empty = { .ndevices = sc->facts.ndevices };
	struct fit_want want = w->fit;
	struct fit_plan plan;
	if (!all_answer(sc, w))
		return false;
	AUTO(mem_freep) struct fit_device *devices = mem_alloc(empty.ndevices * sizeof *devices);
	memcpy(devices, sc->devices, empty.ndevices * sizeof *devices);
	for (size_t i = 0; i < empty.ndevices; i++) {
		devices[i].reserved = devices[i].foreign = 0;
		devices[i].cordoned = false;
	}
	empty.devices = devices;
	want.protect = want.never_with = want.siblings = NULL;
	fit_plan(&empty, &want, sc->scratch, &plan, NULL);
	return plan.how == FIT_NO && plan.closest != FIT_NONE &&
	       !room_plan_mapped(&empty, sc->scratch, w, &plan);
}
