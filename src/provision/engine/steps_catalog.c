/* SPDX-License-Identifier: Apache-2.0
 *
 * Steps remembered by the node's catalog.
 */
#include "base/mem.h"
#include "provision/catalog/catalog.h"
#include "provision/engine/steps.h"

static_assert((int)STEPS_TODO == (int)STEP_WAITING && (int)STEPS_RUNNING == (int)STEP_RUNNING &&
		      (int)STEPS_DONE == (int)STEP_DONE && (int)STEPS_FAILED == (int)STEP_FAILED,
	"one numbering");

static int catalog_get(void *arg, const char *plan, size_t ordinal, struct steps_record *ret)
{
	struct catalog_steps all;
	int r = -ENOENT;
	catalog_steps(arg, plan, &all);
	for (size_t i = 0; i < all.len && r; i++) {
		struct catalog_step *s = &all.items[i];
		if (s->ordinal != ordinal)
			continue;
		*ret = (struct steps_record){ (enum steps_state)s->state, s->started_ms, s->ended_ms,
			MEM_TAKE(s->detail), MEM_TAKE(s->log) };
		r = 0;
	}
	catalog_steps_done(&all);
	return r;
}

static int catalog_put(
	void *arg, const char *plan, size_t ordinal, enum step_kind kind, const struct steps_record *r)
{
	struct catalog_step s = { .job = (char *)(uintptr_t)plan,
		.ordinal = (uint32_t)ordinal,
		.name = (char *)(uintptr_t)step_name(kind),
		.state = (enum catalog_step_state)r->state,
		.started_ms = r->started_ms,
		.ended_ms = r->ended_ms,
		.log = r->log };
	AUTO(mem_freep)
	char *detail = r->detail ? mem_viewdup(view_cut(view_str(r->detail), STEPS_DETAIL_MAX)) : NULL;
	s.detail = detail;
	catalog_step_put(arg, &s);
	return 0;
}

struct steps_store steps_store_catalog(struct catalog *c)
{
	return (struct steps_store){ .read = catalog_get, .write = catalog_put, .arg = c };
}
