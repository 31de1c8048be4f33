/* SPDX-License-Identifier: Apache-2.0
 *
 * Pools that nobody configured: what the node found on its disk, for as long as the configuration names no
 * pool. The node reports its models with their source; here they become pools by the same rule as there
 * (config_with_found), so that ids and specs agree.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

enum { LIST_MAX = 16 * 1024 * 1024 };

static bool is_found(const struct registry_pool *p)
{
	return p->model && p->model->source && p->model->path;
}

/* What the pools are made of, as one text: the same text, the same pools. */
static char *list_of(const struct registry_snapshot *s)
{
	AUTO(buf_done) struct buf b = BUF(LIST_MAX);
	for (size_t i = 0; i < s->npools; i++) {
		const struct wire_model *m = s->pools[i].model;
		if (is_found(&s->pools[i]))
			(void)buf_addf(&b, "%s\n%s\n%s\n%s\n", m->pool_id, m->path, m->source,
				m->reference ? m->reference : "");
	}
	return mem_strdup(buf_str(&b));
}

struct config *found_over(struct orch *o, struct config *base)
{
	if (base->npools)
		return config_ref(base);
	AUTO(registry_snapshot_unrefp) const struct registry_snapshot *s = registry_snapshot_ref(o->registry);
	struct config_found *list = mem_alloc((s->npools + 1) * sizeof *list);
	size_t n = 0;
	for (size_t i = 0; i < s->npools; i++)
		if (is_found(&s->pools[i]))
			list[n++] = (struct config_found){ .id = s->pools[i].model->pool_id,
				.path = s->pools[i].model->path,
				.source = s->pools[i].model->source,
				.reference = s->pools[i].model->reference };
	struct config *c = config_with_found(base, list, n);
	free(list);
	free(o->found);
	o->found = list_of(s);
	return c;
}

bool found_pending(const struct orch *o, const struct registry_snapshot *s)
{
	if (o->config->npools || o->draining)
		return false;
	AUTO(mem_freep) char *list = list_of(s);
	return strcmp(list, o->found ? o->found : "") != 0;
}

void found_update(struct orch *o)
{
	AUTO(registry_snapshot_unrefp) const struct registry_snapshot *s = registry_snapshot_ref(o->registry);
	if (!found_pending(o, s))
		return;
	AUTO(config_unrefp) struct config *c = found_over(o, o->config);
	log_info("pools", "corral", "%zu pool%s of models that were found on the disk.", c->npools,
		c->npools == 1 ? "" : "s");
	control_set_config(o->control, c);
	orch_look_ready(o);
}
