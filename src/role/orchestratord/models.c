/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "base/mem.h"
#include "role/orchestratord/orch_int.h"

struct models *models_new(struct control *c)
{
	struct models *m = NEW(struct models);
	atomic_init(&m->refs, 1);
	map_init(&m->by_name);
	struct control_pool *p;
	while (control_pool_at(c, m->n))
		m->n++;
	m->pools = mem_alloc((m->n + 1) * sizeof *m->pools);
	m->ids = mem_alloc((m->n + 1) * sizeof *m->ids);
	for (size_t i = 0; (p = control_pool_at(c, i)); i++) {
		const struct config_pool *cfg = control_pool_config(p);
		m->pools[i] = pool_ref(control_pool_traffic(p));
		m->ids[i] = pool_id(m->pools[i]);
		map_put(&m->by_name, view_str(cfg->id), m->pools[i]);
		for (size_t k = 0; k < cfg->aliases.len; k++)
			map_put(&m->by_name, view_str(cfg->aliases.items[k]), m->pools[i]);
		if (cfg->is_default || m->n == 1)
			m->fallback = m->pools[i];
	}
	return m;
}

struct models *models_ref(struct models *m)
{
	atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
	return m;
}

void models_unref(struct models *m)
{
	if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < m->n; i++)
		pool_unref(m->pools[i]);
	map_done(&m->by_name);
	free(m->pools);
	free(m->ids);
	free(m);
}
