/* SPDX-License-Identifier: Apache-2.0
 *
 * Another configuration: which pools there are, what they may do, and what their engines are started from.
 */
#include "control/control_int.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "log/log.h"

/* It comes back before all of it was gone: what serves still may go on. */
static void revive(struct control_pool *p)
{
	if (!p->removed)
		return;
	p->removed = false;
	p->started = p->started || p->cfg->preload;
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *s = p->slots[i];
		if (s->role != SLOT_LEAVING || !s->in_pool)
			continue;
		s->role = SLOT_MAIN;
		s->plan.wanted = true;
		s->plan.busy_at = mono_now();
	}
	set_refusal(p, &(struct pool_refusal){ 0 });
}

static void drop_override(struct control_pool *p)
{
	if (!p->override)
		return;
	log_info("reload", p->cfg->id,
		"The configuration names another model for pool %s: the one an operator chose (%s) is "
		"dropped.",
		p->cfg->id, p->override);
	free(MEM_TAKE(p->override));
	registry_pool_override(p->control->o.registry, view_str(p->cfg->id), NULL);
}

static void take(struct control_pool *p, struct config *cfg, const struct config_pool *pc,
	const struct registry_snapshot *snap)
{
	bool other_model = !str_same(p->cfg->model, pc->model);
	p->started = p->started || (pc->preload && !p->cfg->preload);
	struct config *old = p->config;
	p->config = config_ref(cfg);
	p->cfg = pc;
	config_pool_spec(pc, p->spec);
	p->cpu_engine = false; /* it may be another engine now */
	p->external = pc->engine.mode == CONFIG_MODE_EXTERNAL;
	config_unref(old);
	struct pool_opts o = pool_opts_of(p);
	pool_set_limits(p->pool, &o);
	if (other_model)
		drop_override(p);
	revive(p);
	reload_for_config(p, registry_snapshot_pool(snap, view_str(pc->id)), other_model);
}

static void remove_pool(struct control_pool *p)
{
	mono_t by = mono_add_ms(mono_now(), LEAVE_MS);
	log_info("remove", p->cfg->id,
		"Pool %s is not in the configuration any more: its requests may last %d s, then its engines "
		"stop.",
		p->cfg->id, LEAVE_MS / 1000);
	reload_cancel(p, "The pool is not in the configuration any more.");
	op_end(p);
	p->removed = true;
	p->started = false;
	refuse_removed(p);
	for (size_t i = 0; i < p->nslots; i++)
		slot_leave(p->slots[i], by);
}

static int by_id(const void *a, const void *b)
{
	const struct control_pool *const *x = a, *const *y = b;
	return strcmp((*x)->cfg->id, (*y)->cfg->id);
}

static void index_pools(struct control *c)
{
	free(c->by_id);
	map_done(&c->by_name);
	map_init(&c->by_name);
	c->by_id = mem_alloc((c->npools + 1) * sizeof(struct control_pool *));
	c->nby_id = 0;
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = c->pools[i];
		if (p->removed)
			continue;
		c->by_id[c->nby_id++] = p;
		map_put(&c->by_name, view_str(p->cfg->id), p);
		for (size_t k = 0; k < p->cfg->aliases.len; k++)
			map_put(&c->by_name, view_str(p->cfg->aliases.items[k]), p);
	}
	qsort(c->by_id, c->nby_id, sizeof(struct control_pool *), by_id);
}

static bool names(const struct config *cfg, const char *id)
{
	for (size_t i = 0; i < cfg->npools; i++)
		if (strcmp(cfg->pools[i].id, id) == 0)
			return true;
	return false;
}

void control_set_config(struct control *c, struct config *cfg)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	struct config *old = c->config;
	c->config = config_ref(cfg);
	size_t n = c->npools;
	for (size_t i = 0; i < n; i++)
		if (!c->pools[i]->removed && !names(cfg, c->pools[i]->cfg->id))
			remove_pool(c->pools[i]);
	for (size_t i = 0; i < cfg->npools; i++) {
		struct control_pool *p = map_gets(&c->all, cfg->pools[i].id);
		if (p)
			take(p, cfg, &cfg->pools[i], s);
		else
			control_pool_add(c, cfg, &cfg->pools[i]);
	}
	config_unref(old);
	index_pools(c);
	c->o.on_pools(c->o.arg);
	control_wake(c);
}
