/* SPDX-License-Identifier: Apache-2.0
 *
 * What nodes say: registration and heartbeats become facts here, or are dropped.
 */
#include <inttypes.h>

#include "base/mem.h"
#include "log/log.h"
#include "registry/registry_int.h"

void registry_heard_done(struct registry_heard *h)
{
	strv_done(&h->unproven);
	strv_done(&h->refused);
}

/* A message that leaves the boot id or the pid out says nothing about the process. */
static bool same_process(const struct node_ent *n, const struct wire_node *w)
{
	return (!w->boot_id || str_same(n->boot_id, w->boot_id)) && (!w->pid || n->pid == w->pid);
}

static void take_models(struct registry *r, struct node_ent *n, const struct wire_node *w)
{
	for (size_t i = 0; i < n->nmodels; i++)
		pool_changed(r, pool_find(r, view_str(n->models[i].pool_id)));
	node_forget_models(n);
	n->models = mem_alloc((w->nmodels + 1) * sizeof *n->models);
	n->nmodels = w->nmodels;
	for (size_t i = 0; i < w->nmodels; i++) {
		wire_model_copy(&n->models[i], &w->models[i]);
		map_put(&n->model_of, view_str(n->models[i].pool_id), &n->models[i]);
		pool_changed(r, pool_add(r, view_str(n->models[i].pool_id)));
	}
}

static void take_devices(struct registry *r, struct node_ent *n, const struct wire_node *w)
{
	if (!w->ndevices)
		return;
	devices_free(n->devices, n->ndevices);
	n->devices = devices_dup(w->devices, w->ndevices);
	n->ndevices = w->ndevices;
	node_changed(r, n);
}

/* A new start of the engine: nothing of the old one holds but its last error. */
static void new_generation(struct replica_ent *e, const struct wire_replica *w)
{
	struct wire_replica fresh = { .replica_id = MEM_TAKE(e->facts.replica_id),
		.pool_id = MEM_TAKE(e->facts.pool_id),
		.have = e->facts.have & (WR_ERROR | WR_RESTARTS),
		.state = REPLICA_STARTING,
		.last_error = e->facts.last_error,
		.restarts = e->facts.restarts,
		.retry_in_ms = e->facts.retry_in_ms,
		.progress_pct = -1,
		.generation = w->generation };
	e->facts.last_error = (struct wire_error){ 0 };
	wire_replica_done(&e->facts);
	e->facts = fresh;
	e->facts.have |= WR_GENERATION;
	e->proved = e->drain = false;
}

static bool holds_error(const struct replica_ent *e)
{
	return e->facts.last_error.message;
}

/* last_error stays until a success, which is Ready: a node that merely leaves it out does not clear it. */
static void take_error(
	struct registry *r, struct replica_ent *e, const struct wire_replica *w, bool was_ready)
{
	bool ready = e->proved && e->facts.state == REPLICA_READY;
	bool told = (w->have & WR_ERROR) && w->last_error.message;
	struct wire_replica only = { .have = WR_ERROR };
	if (told)
		only.last_error = w->last_error; /* borrowed for the merge */
	else if (!holds_error(e) || !ready || (was_ready && !(w->have & WR_ERROR)))
		return;
	if (told && str_same(w->last_error.message, e->facts.last_error.message) &&
		w->last_error.at_ms == e->facts.last_error.at_ms)
		return;
	wire_replica_merge(&e->facts, &only);
	persist_error(r, &e->facts);
}

/* was: the counts before this report. Only what it speaks of moves; the rest is kept within bounds. */
static void take_slots(struct replica_ent *e, const struct wire_replica *w, const struct wire_replica *was)
{
	uint32_t told = e->facts.slots_free;
	bool moved = w->have & WR_LEASES || e->facts.slots_total != was->slots_total ||
		     !(was->have & WR_SLOTS_FREE);
	leases_set(e, w->have & WR_LEASES ? w->leases : was->leases);
	if (w->have & WR_SLOTS_FREE || !moved)
		e->facts.slots_free =
			MIN(w->have & WR_SLOTS_FREE ? told : was->slots_free, e->facts.slots_free);
}

/* Puts one report of the node that runs e into e. proven: Ready is believed as it is. */
static void take_replica(struct registry *r, struct replica_ent *e, const struct wire_replica *w, bool proven,
	struct registry_heard *heard)
{
	bool has_generation = w->have & WR_GENERATION;
	if (has_generation && w->generation < e->facts.generation)
		return;
	if (has_generation && w->generation > e->facts.generation)
		new_generation(e, w);
	bool was_ready = e->proved && e->facts.state == REPLICA_READY;
	const struct wire_replica was = { .have = e->facts.have,
		.slots_total = e->facts.slots_total,
		.slots_free = e->facts.slots_free,
		.leases = e->facts.leases };
	struct wire_replica part = *w; /* borrows w's strings */
	part.have &= ~(unsigned)WR_ERROR;
	wire_replica_merge(&e->facts, &part);
	take_slots(e, w, &was);
	bool says_ready = (w->have & WR_STATE) && w->state == REPLICA_READY;
	if ((w->have & WR_STATE) && w->state == REPLICA_PROVING)
		e->proved = true;
	if (says_ready && (proven || ((w->have & WR_PROCESS) && w->load_ms > 0)))
		e->proved = true;
	if (says_ready && !e->proved) {
		e->facts.state = REPLICA_PROVING;
		strv_add(&heard->unproven, e->facts.replica_id);
	}
	take_error(r, e, w, was_ready);
	replica_changed(r, e);
}

/* Another node may take a replica over once its old node is Offline or runs it no more. */
static bool may_take(const struct replica_ent *e, const struct node_ent *n, const struct wire_replica *w)
{
	if (!str_same(e->facts.pool_id, w->pool_id))
		return false;
	if (e->node == n || !e->node->online)
		return true;
	enum replica_state s = e->facts.state;
	return s == REPLICA_ABSENT || s == REPLICA_STOPPED || s == REPLICA_FAILED;
}

static void take_list(struct registry *r, struct node_ent *n, const struct wire_node *w, bool proven,
	bool complete, struct registry_heard *heard)
{
	r->stamp++;
	for (size_t i = 0; i < w->nreplicas; i++) {
		const struct wire_replica *x = &w->replicas[i];
		struct replica_ent *e = replica_find(r, view_str(x->replica_id));
		if (e && !may_take(e, n, x)) {
			log_warn("replica_refused", x->replica_id,
				"Two nodes report the replica, or it changed its pool; "
				"the report of %s is dropped.",
				n->node_id);
			strv_add(&heard->refused, x->replica_id);
			continue;
		}
		if (e && e->node != n) {
			replica_remove(r, e);
			e = NULL;
		}
		if (!e)
			e = replica_add(r, n, x);
		e->stamp = r->stamp;
		take_replica(r, e, x, proven, heard);
	}
	for (size_t i = r->nreplicas; complete && i-- > 0;)
		if (r->replicas[i]->node == n && r->replicas[i]->stamp != r->stamp)
			replica_remove(r, r->replicas[i]);
}

/* New names only: what is there is replaced in place. */
static int check_room(struct registry *r, const struct wire_node *w, struct err *reterr)
{
	size_t replicas = r->nreplicas, pools = r->npools;
	for (size_t i = 0; i < w->nreplicas; i++) {
		replicas += !replica_find(r, view_str(w->replicas[i].replica_id));
		pools += !pool_find(r, view_str(w->replicas[i].pool_id));
	}
	for (size_t i = 0; i < w->nmodels; i++)
		pools += !pool_find(r, view_str(w->models[i].pool_id));
	if (replicas > WIRE_REPLICAS_MAX)
		return err_set(reterr, -ENOSPC,
			"the registry would hold %zu replicas; at most %d are accepted", replicas,
			WIRE_REPLICAS_MAX);
	if (pools > 2 * WIRE_POOLS_MAX) /* a name may be counted twice above */
		return err_set(reterr, -ENOSPC,
			"the registry would hold about %zu pools; at most %d are accepted", pools,
			WIRE_POOLS_MAX);
	return 0;
}

static void heard_from(struct registry *r, struct node_ent *n, mono_t now)
{
	n->heard = now;
	if (n->online)
		return;
	n->online = true;
	node_changed(r, n);
	node_replicas_changed(r, n);
}

static struct registry_heard *heard_of(struct registry_heard *ret, struct registry_heard *own)
{
	ret = ret ? ret : own;
	*ret = (struct registry_heard){ 0 };
	return ret;
}

int registry_register(struct registry *r, const struct wire_node *w, mono_t now, struct registry_heard *ret,
	struct err *reterr)
{
	AUTO(registry_heard_done) struct registry_heard own = { 0 };
	struct registry_heard *heard = heard_of(ret, &own);
	int rc = check_room(r, w, reterr);
	if (rc)
		return rc;
	struct node_ent *n = node_find(r, view_str(w->node_id));
	if (!n && r->nnodes >= REGISTRY_NODES_MAX)
		return err_set(reterr, -ENOSPC, "the registry holds %d nodes, and no more are accepted",
			REGISTRY_NODES_MAX);
	bool known = n && n->registered && same_process(n, w);
	if (known && w->seq && w->seq < n->seq) {
		heard->dropped = true;
		return 0;
	}
	bool other = !n || !str_same(n->boot_id, w->boot_id) || n->pid != w->pid ||
		     !str_same(n->version, w->version) || !str_same(n->address, w->address);
	n = n ? n : node_add(r, view_str(w->node_id));
	if (!known)
		log_info("register", n->node_id, "The node registers with %zu replicas.", w->nreplicas);
	mem_setstr(&n->boot_id, w->boot_id);
	mem_setstr(&n->version, w->version);
	mem_setstr(&n->address, w->address);
	n->pid = w->pid;
	n->seq = w->seq;
	n->registered = true;
	node_changed(r, n);
	heard_from(r, n, now);
	take_models(r, n, w); /* the whole list, also when it is empty */
	take_devices(r, n, w);
	take_list(r, n, w, true, w->complete || !known, heard);
	if (other)
		persist_node(r, n);
	registry_publish(r);
	return 0;
}

int registry_heartbeat(struct registry *r, const struct wire_node *w, mono_t now, struct registry_heard *ret,
	struct err *reterr)
{
	AUTO(registry_heard_done) struct registry_heard own = { 0 };
	struct registry_heard *heard = heard_of(ret, &own);
	struct node_ent *n = node_find(r, view_str(w->node_id));
	if (!n || !n->registered)
		return err_set(reterr, -ENOENT, "the node %s is not registered; register again", w->node_id);
	if (!same_process(n, w))
		return err_set(reterr, -ENOENT,
			"another process of the node %s is registered (pid %d); register again", w->node_id,
			n->pid);
	if (w->seq && w->seq <= n->seq) {
		heard->dropped = true;
		return 0;
	}
	int rc = check_room(r, w, reterr);
	if (rc)
		return rc;
	if (w->seq)
		n->seq = w->seq;
	if (!n->online)
		log_info("node_online", n->node_id, "The node is heard of again.");
	heard_from(r, n, now);
	if (w->nmodels)
		take_models(r, n, w);
	take_devices(r, n, w);
	take_list(r, n, w, false, w->complete, heard);
	registry_publish(r);
	return 0;
}
