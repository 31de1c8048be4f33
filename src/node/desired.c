/* SPDX-License-Identifier: Apache-2.0
 *
 * What is wanted of this node. The sender has drained what it does not want any more.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "log/log.h"
#include "node/node_int.h"

bool replica_id_valid(struct view id)
{
	if (!id.n || id.n > NODE_ID_MAX || id.p[0] == '.' || id.p[0] == '-')
		return false;
	for (size_t i = 0; i < id.n; i++) {
		char c = id.p[i];
		bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			  strchr("-_.:+@", c);
		if (!ok || !c)
			return false;
	}
	return true;
}

static void take_want(struct replica *r, const struct wire_want *w)
{
	mem_setstr(&r->want.devices, w->devices);
	mem_setstr(&r->want.spec, w->spec);
	mem_setstr(&r->want.model, w->model);
	mem_setstr(&r->want.split, w->split);
	mem_setstr(&r->want.kv_for, w->kv_for);
	r->want.model_there = w->model_there;
	r->want.header_seen = w->header_seen;
	r->want.planned = w->planned;
	r->want.gpu_layers = w->gpu_layers;
	r->want.cpu_experts = w->cpu_experts;
	r->want.ctx = w->ctx;
	r->want.slots = w->slots;
	r->want.restart_epoch = w->restart_epoch;
	r->want.pulled_in = w->pulled_in;
	r->want.keep_alive_ms = w->keep_alive_ms;
	r->wanted = true;
}

static struct replica *of_want(struct node *n, const struct wire_want *w)
{
	struct replica *r = map_gets(&n->replicas, w->replica_id);
	if (r)
		return r;
	if (!replica_id_valid(view_str(w->replica_id)) || !w->pool_id) {
		log_warn("desired", w->replica_id, "A replica id that cannot be a file's name is left out.");
		return NULL;
	}
	return replica_new(n, w->replica_id, w->pool_id);
}

/* A definition is wanted that we do not have: our file changed since we read it, as when an orchestratord was
 * started anew with another one. It is read again, once for each set. */
static void read_again(struct node *n, const struct wire_desired *d)
{
	bool unknown = false;
	for (size_t i = 0; i < d->nwants; i++) {
		const struct wire_want *w = &d->wants[i];
		const struct replica *r = map_gets(&n->replicas, w->replica_id);
		bool runs = r && !replica_idle(r);
		unknown |= !runs && w->spec && !node_pool_find_spec(n, w->pool_id, w->spec);
	}
	if (!unknown || !n->opts.on_reload)
		return;
	AUTO(buf_done) struct buf why = BUF(64 * KIB);
	log_info("config", n->opts.node_id,
		"Other pools are wanted than this node read from its file; it is read again.");
	if (n->opts.on_reload(n->opts.arg, false, &why))
		log_error("config", n->opts.node_id,
			"The configuration is not taken, everything stays as it is: %s", buf_str(&why));
}

void desired_apply(struct node *n, const struct wire_desired *d)
{
	read_again(n, d);
	kv_told(n, d->talks);
	struct map_entry *e;
	bool first = !n->told;
	n->told = true;
	n->fence = d->fence;
	n->revision = d->revision;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));)
		((struct replica *)e->value)->wanted = false;
	for (size_t i = 0; i < d->nwants; i++) {
		struct replica *r = of_want(n, &d->wants[i]);
		if (r)
			take_want(r, &d->wants[i]);
	}
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		replica_kick(e->value);
		replica_release(e->value);
	}
	if (first)
		tidy_records(n);
	report_touch(n);
}
