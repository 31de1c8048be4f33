/* SPDX-License-Identifier: Apache-2.0
 *
 * The desired set to the node. Level-triggered: the whole set goes over whenever it differs from what the
 * node has, or the node is another process than before; a failed push is tried again.
 */
#include "control/room_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "log/log.h"

enum { PUSH_AGAIN_MS = 200, PUSH_TIMEOUT_MS = 10000 };

static const struct registry_node *online_node(const struct registry_snapshot *s)
{
	for (size_t i = 0; i < s->nnodes; i++)
		if (s->nodes[i]->online && s->nodes[i]->registered && s->nodes[i]->address)
			return s->nodes[i];
	return NULL;
}

const char *control_node_address(struct control *c)
{
	return c->node ? c->node_address : NULL;
}

static void forget_node(struct control *c)
{
	http_fetch_cancel(&c->push);
	http_target_free(c->node);
	c->node = NULL;
	free(MEM_TAKE(c->node_address));
	free(MEM_TAKE(c->node_boot));
	buf_reset(&c->pushed);
	buf_reset(&c->strays);
}

void push_done(struct control *c)
{
	forget_node(c);
	loop_timer_stop(&c->push_again);
	buf_done(&c->pushed);
	buf_done(&c->pushing);
	buf_done(&c->strays);
}

/* Another process of the node knows nothing of what the last one was told. */
static bool meet_node(struct control *c, const struct registry_node *n)
{
	AUTO(mem_freep) char *boot = mem_fmt("%s %d %s", n->boot_id ? n->boot_id : "", n->pid, n->address);
	if (c->node && strcmp(c->node_boot, boot) == 0)
		return true;
	forget_node(c);
	struct err e = { 0 };
	c->node = http_target_new(c->o.loop, n->address, NULL, &e);
	if (!c->node) {
		log_error("node", n->node_id, "The address of node %s is not usable: %s.", n->node_id, e.msg);
		return false;
	}
	c->node_address = mem_strdup(n->address);
	c->node_boot = MEM_TAKE(boot);
	/* It takes the first wish as it comes and restarts nothing for it. */
	for (size_t i = 0; i < c->npools; i++)
		for (size_t k = 0; k < c->pools[i]->nslots; k++)
			c->pools[i]->slots[k]->retired = 0;
	return true;
}

static void add_want(struct wire_desired *d, const struct control_pool *p, const struct control_slot *s,
	bool waiting, const struct wire_model *m)
{
	struct wire_want *w = wire_desired_add(d);
	w->replica_id = mem_strdup(s->id);
	w->pool_id = mem_strdup(p->cfg->id);
	/* slots are those of the definition that the spec names, and ctx where that says one */
	w->spec = s->variant.spec[0] ? mem_strdup(s->variant.spec) : NULL;
	w->model = mem_strdup(s->variant.model);
	w->model_there = m && !m->absent;
	w->header_seen = s->header_seen;
	w->restart_epoch = s->restart_epoch;
	w->pulled_in = waiting;
	w->keep_alive_ms = p->cfg->keep_alive_ms;
	w->kv_for = mem_strdup(s->kv_for);
	const struct slot_room *r = s->room;
	if (!r)
		return;
	w->devices = r->devices[0] ? mem_strdup(r->devices) : NULL;
	w->ctx = r->ctx;
	w->planned = r->planned;
	w->gpu_layers = r->planned ? r->gpu_layers : 0;
	w->cpu_experts = r->planned ? r->cpu_experts : 0;
	w->split = r->planned && r->split[0] ? mem_strdup(r->split) : NULL;
}

/* What the node is to run: the replicas the planner put there. revision 0: without what changes with every
 * request, and is told with the next change of the set. */
static void encode(struct control *c, const struct registry_snapshot *snap, const char *node_id,
	uint64_t revision, struct buf *b)
{
	struct wire_desired d = { .fence = 0, .revision = revision };
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = c->pools[i];
		struct pool_stats st;
		const struct registry_pool *rp = registry_snapshot_pool(snap, view_str(p->cfg->id));
		pool_get_stats(p->pool, &st);
		bool waiting = st.waiting[POOL_INTERACTIVE] + st.waiting[POOL_BATCH] > 0;
		for (size_t k = 0; k < p->nslots; k++) {
			struct control_slot *s = p->slots[k];
			slot_note_waiting(p, s);
			if (!s->node || strcmp(s->node, node_id) != 0)
				continue;
			/* Once it serves, who pulled it in is history: the wish must not flip with the queue.
			 */
			bool pulled = s->role != SLOT_FRESH && s->told != REPLICA_READY &&
				      (waiting || (s->told == REPLICA_PROVING && s->in_pool));
			add_want(&d, p, s, pulled, rp ? rp->model : NULL);
		}
	}
	AUTO(buf_done) struct buf talks = BUF(WIRE_STRING_MAX);
	if (revision)
		control_talks(c, &talks);
	if (talks.len)
		d.talks = mem_strdup(buf_str(&talks));
	(void)wire_desired_encode(&d, b);
	wire_desired_done(&d);
}

/* Engines that run there and nobody wants: found by a node after it was told what is wanted. */
static void find_strays(
	struct control *c, const struct registry_snapshot *s, const char *node_id, struct buf *b)
{
	for (size_t i = 0; i < s->nreplicas; i++) {
		const struct registry_replica *r = s->replicas[i];
		enum replica_state st = r->facts.state;
		if (strcmp(r->node_id, node_id) != 0 ||
			(st != REPLICA_STARTING && st != REPLICA_PROVING && st != REPLICA_READY))
			continue;
		struct control_pool *p = map_gets(&c->all, r->facts.pool_id);
		struct control_slot *k = p ? slot_find(p, view_str(r->facts.replica_id)) : NULL;
		if (!k || !k->node)
			(void)buf_addf(
				b, "%s %llu\n", r->facts.replica_id, (unsigned long long)r->facts.generation);
	}
}

static void push_again(void *arg)
{
	control_wake(arg);
}

/* Which slots the set that goes over now names, and, when it has arrived, which it does not. */
static void note_push(struct control *c, bool arrived)
{
	for (size_t i = 0; i < c->npools; i++) {
		for (size_t k = 0; k < c->pools[i]->nslots; k++) {
			struct control_slot *s = c->pools[i]->slots[k];
			if (!arrived)
				s->in_push = s->node != NULL;
			s->on_wire = s->in_push || (s->on_wire && !arrived);
		}
	}
}

static void on_pushed(void *arg, int status, struct view body, const struct err *e)
{
	struct control *c = arg;
	c->push = NULL;
	if (status == 200 || status == 202 || status == 204) {
		buf_reset(&c->pushed);
		(void)buf_addv(&c->pushed, buf_view(&c->pushing));
		note_push(c, true);
		control_wake(c); /* something may have changed meanwhile */
		return;
	}
	log_warn("push", "node", "The node does not take the desired replicas (%s); it is told again.",
		e        ? e->msg
		: body.n ? "it refused"
			 : "no answer");
	loop_timer_start(c->o.loop, &c->push_again, PUSH_AGAIN_MS, push_again, c);
}

void control_push(struct control *c, const struct registry_snapshot *s)
{
	const struct registry_node *n = online_node(s);
	if (!n || !meet_node(c, n) || c->push || loop_timer_active(&c->push_again))
		return;
	AUTO(buf_done) struct buf now = BUF(WIRE_BODY_MAX);
	AUTO(buf_done) struct buf strays = BUF(WIRE_BODY_MAX);
	encode(c, s, n->node_id, 0, &now); /* without a revision, so that equal sets compare equal */
	find_strays(c, s, n->node_id, &strays);
	if (view_eq(buf_view(&now), buf_view(&c->pushed)) &&
		(!strays.len || view_eq(buf_view(&strays), buf_view(&c->strays))))
		return;
	buf_reset(&c->strays);
	(void)buf_addv(&c->strays, buf_view(&strays));
	buf_reset(&c->pushing);
	(void)buf_addv(&c->pushing, buf_view(&now));
	AUTO(buf_done) struct buf body = BUF(WIRE_BODY_MAX);
	encode(c, s, n->node_id, ++c->revision, &body);
	struct http_fetch_req r = { .method = "PUT",
		.path = "/v1/node/replicas",
		.content_type = "application/json",
		.body = buf_view(&body),
		.timeout_ms = PUSH_TIMEOUT_MS };
	note_push(c, false);
	c->push = http_fetch(c->node, &r, on_pushed, c);
}

struct tell {
	struct control *c;
	char *replica_id;
};

static void on_told(void *arg, int status, struct view body, const struct err *e)
{
	struct tell *t = arg;
	(void)body;
	if (status != 200 && status != 202 && status != 204 && status != 409 && status != 404)
		log_warn("prove", t->replica_id,
			"The node was not told that replica %s may prove itself: %s.", t->replica_id,
			e ? e->msg : "it refused");
	free(t->replica_id);
	free(t);
}

void control_tell_proved(struct control *c, const char *replica_id, uint64_t generation, const char *by)
{
	if (!c->node)
		return;
	char path[POOL_ID_MAX + 64], body[96];
	snprintf(path, sizeof path, "/v1/node/replicas/%s/prove", replica_id);
	int n = snprintf(
		body, sizeof body, "{\"generation\":%llu,\"by\":\"%s\"}", (unsigned long long)generation, by);
	struct tell *t = NEW(struct tell);
	t->c = c;
	t->replica_id = mem_strdup(replica_id);
	struct http_fetch_req r = { .method = "POST",
		.path = path,
		.content_type = "application/json",
		.body = view_of(body, (size_t)n),
		.timeout_ms = PUSH_TIMEOUT_MS };
	/* Ends by itself within its time-out, also when the node goes away. */
	if (!http_fetch(c->node, &r, on_told, t)) {
		free(t->replica_id);
		free(t);
	}
}
