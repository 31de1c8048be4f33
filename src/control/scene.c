/* SPDX-License-Identifier: Apache-2.0
 *
 * The devices as the planner sees them: what the nodes report, less what our replicas have reserved, less
 * what strangers hold.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "control/room_int.h"

enum {
	HOST_FREE_MIN_MIB = 256,
	HOST_FREE_PART = 64,
	REREAD_TO_RESTORE =
		20, /* so much faster is a conversation read from its file (docs/PERFORMANCE.md) */
};

void scene_done(struct scene *s)
{
	free(s->devices);
	free(s->wire);
	free(s->booked);
	free(s->replicas);
	free(s->slots);
	free(s->pools);
	free(s->uses);
	free(s->scratch);
	*s = (struct scene){ 0 };
}

static uint8_t kind_of(const struct wire_device *d)
{
	static const char *const kinds[] = { "cpu", "cuda", "amd", "intel" };
	for (uint8_t i = 0; i < ARRAY_LEN(kinds); i++)
		if (d->kind && strcmp(d->kind, kinds[i]) == 0)
			return i;
	return ARRAY_LEN(kinds);
}

/* The planner joins devices of one kind alone. A part of a divided GPU is of a kind of its own: an engine
 * takes one of them, and nothing beside it. */
static uint8_t group_of(const struct wire_device *d)
{
	enum { FIRST_PART = 16 };
	return d->parent ? (uint8_t)(FIRST_PART + d->index % (UINT8_MAX - FIRST_PART)) : kind_of(d);
}

/* Some of the host stays for everybody else. */
static uint64_t host_capacity(uint64_t total)
{
	uint64_t keep = MAX(total / HOST_FREE_PART, HOST_FREE_MIN_MIB * MIB);
	return total > keep ? total - keep : total;
}

static size_t ledger_of(struct control *c, const struct registry_node *n, const struct wire_device *d)
{
	uint64_t capacity =
		kind_of(d) == FIT_KIND_CPU ? host_capacity(d->memory_total_bytes) : d->memory_total_bytes;
	return ledger_device(c->ledger, n->node_id, d->device_id, capacity);
}

/* Where the driver lists processes, what is not ours is known; else the ledger's estimate holds. A list that
 * does not name ours (their numbers are those of another PID namespace) does not make them strangers. */
static uint64_t foreign_of(const struct wire_device *d, const struct ledger_view *v)
{
	uint64_t ours = 0;
	uint64_t used = d->memory_total_bytes > d->memory_free_bytes
				? d->memory_total_bytes - d->memory_free_bytes
				: 0;
	for (size_t i = 0; i < d->nuses; i++)
		ours += d->uses[i].replica_id ? d->uses[i].bytes : 0;
	if (!d->nuses)
		return v->foreign + v->over;
	return MIN(used > ours ? used - ours : 0, v->foreign_most) + v->over;
}

static void add_device(
	struct control *c, struct scene *sc, const struct registry_node *n, const struct wire_device *d)
{
	struct ledger_view v;
	sc->booked[sc->facts.ndevices] = ledger_of(c, n, d);
	ledger_look(c->ledger, sc->booked[sc->facts.ndevices], &v);
	sc->wire[sc->facts.ndevices] = d;
	sc->devices[sc->facts.ndevices++] = (struct fit_device){
		.node_id = n->node_id,
		.device_id = d->device_id,
		.index = d->index,
		.kind = group_of(d),
		.usable = n->online && n->registered && !d->split && d->state && strcmp(d->state, "ok") == 0,
		.integrated = d->integrated,
		.capacity = v.capacity,
		.reserved = v.booked,
		.foreign = foreign_of(d, &v),
	};
}

static void add_devices(struct control *c, const struct registry_snapshot *s, struct scene *sc)
{
	size_t n = 1;
	for (size_t i = 0; i < s->nnodes; i++)
		n += s->nodes[i]->ndevices;
	sc->devices = mem_alloc(n * sizeof *sc->devices);
	sc->wire = mem_alloc(n * sizeof(const struct wire_device *));
	sc->booked = mem_alloc(n * sizeof *sc->booked);
	for (size_t i = 0; i < s->nnodes; i++)
		for (size_t k = 0; k < s->nodes[i]->ndevices; k++)
			add_device(c, sc, s->nodes[i], &s->nodes[i]->devices[k]);
	sc->facts.devices = sc->devices;
}

/* FIT_NONE: no node shows it any more. */
static size_t device_of(const struct scene *s, size_t booked)
{
	for (size_t i = 0; i < s->facts.ndevices; i++)
		if (s->booked[i] == booked)
			return i;
	return FIT_NONE;
}

struct ledger_owner slot_owner(const struct control_slot *s)
{
	return (struct ledger_owner){ s->id, s->room_owner };
}

/* What the driver says that process tree holds; 0: it does not say. */
static uint64_t measured(const struct wire_device *d, const char *replica_id)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < d->nuses; i++)
		if (d->uses[i].replica_id && strcmp(d->uses[i].replica_id, replica_id) == 0)
			bytes += d->uses[i].bytes;
	return bytes;
}

/* A reservation becomes what was measured once it is Ready; a measurement that is far smaller was taken while
 * the model was still being loaded. Where the driver tells of no process, or not of its, it stays. */
static void read_slot(
	struct control *c, const struct wire_device *d, size_t booked, const struct control_slot *s)
{
	uint64_t had = ledger_booked(c->ledger, slot_owner(s), booked), m = measured(d, s->id);
	if (had && m >= had / 2 && m != had)
		(void)!ledger_measured(c->ledger, slot_owner(s), booked, m);
	else if (had && (!d->nuses || !s->room_pid))
		(void)!ledger_measured(c->ledger, slot_owner(s), booked, had);
}

/* Of the process that the driver lists for it; 0: none, -1: several. */
static int pid_of(const struct registry_snapshot *snap, const char *replica_id)
{
	int pid = 0;
	for (size_t i = 0; i < snap->nnodes; i++)
		for (size_t k = 0; k < snap->nodes[i]->ndevices; k++) {
			const struct wire_device *d = &snap->nodes[i]->devices[k];
			for (size_t u = 0; u < d->nuses; u++)
				if (str_same(d->uses[u].replica_id, replica_id))
					pid = pid && pid != d->uses[u].pid ? -1 : d->uses[u].pid;
		}
	return pid;
}

static void read_pids(struct control *c, const struct registry_snapshot *snap)
{
	for (size_t i = 0; i < c->npools; i++)
		for (size_t k = 0; k < c->pools[i]->nslots; k++) {
			struct control_slot *s = c->pools[i]->slots[k];
			int pid = s->room && s->plan.ready ? pid_of(snap, s->id) : 0;
			s->room_pid = pid ? pid : s->room_pid;
		}
}

static void read_device(struct control *c, const struct wire_device *d, size_t booked, mono_t now)
{
	uint64_t used = d->memory_total_bytes > d->memory_free_bytes
				? d->memory_total_bytes - d->memory_free_bytes
				: 0;
	if (kind_of(d) == FIT_KIND_CPU) { /* its share for everybody else is no stranger's */
		uint64_t kept = d->memory_total_bytes - host_capacity(d->memory_total_bytes);
		used = used > kept ? used - kept : 0;
	}
	for (size_t i = 0; i < c->npools; i++)
		for (size_t k = 0; k < c->pools[i]->nslots; k++) {
			const struct control_slot *s = c->pools[i]->slots[k];
			if (s->room && s->plan.ready)
				read_slot(c, d, booked, s);
		}
	ledger_reading(c->ledger, booked, used, now);
}

/* Whether any device that tells of processes still lists that one; *ret_told: whether one tells at all. */
static bool is_listed(const struct registry_snapshot *s, int pid, bool *ret_told)
{
	bool listed = false;
	for (size_t i = 0; i < s->nnodes; i++)
		for (size_t k = 0; k < s->nodes[i]->ndevices; k++) {
			const struct wire_device *d = &s->nodes[i]->devices[k];
			for (size_t u = 0; u < d->nuses; u++)
				listed |= d->uses[u].pid == pid;
			*ret_told |= d->nuses > 0;
		}
	return listed;
}

/* Where the driver tells of processes, one that it does not list any more holds nothing: what another engine
 * takes meanwhile is not mistaken for it. */
static void forget_gone(struct control *c, const struct registry_snapshot *s)
{
	size_t kept = 0;
	for (size_t i = 0; i < c->nawaited; i++) {
		struct awaited *a = &c->awaited[i];
		struct ledger_owner o = { a->id, a->owner };
		bool told = false, listed = is_listed(s, a->pid, &told);
		if (told && !listed)
			ledger_gone(c->ledger, o);
		else if (++a->looks < AWAITED_LOOKS)
			c->awaited[kept++] = *a;
	}
	c->nawaited = kept;
}

void scene_await(struct control *c, const struct control_slot *s)
{
	if (s->room_pid <= 0)
		return;
	c->awaited = mem_realloc(c->awaited, (c->nawaited + 1) * sizeof *c->awaited);
	struct awaited *a = &c->awaited[c->nawaited++];
	*a = (struct awaited){ .owner = s->room_owner, .pid = s->room_pid };
	snprintf(a->id, sizeof a->id, "%s", s->id);
}

void scene_read(struct control *c, const struct registry_snapshot *s, mono_t now)
{
	forget_gone(c, s);
	read_pids(c, s);
	for (size_t i = 0; i < s->nnodes; i++)
		for (size_t k = 0; k < s->nodes[i]->ndevices; k++) {
			const struct wire_device *d = &s->nodes[i]->devices[k];
			read_device(c, d, ledger_of(c, s->nodes[i], d), now);
		}
}

static bool is_busy(const struct control_pool *p, const struct control_slot *s,
	const struct registry_replica *r, const struct pool_stats *st)
{
	if (s->role == SLOT_LEAVING || (!s->plan.wanted && !s->in_pool))
		return false; /* it goes: its memory comes back without anybody's doing */
	return !r || r->facts.state != REPLICA_READY || !s->in_pool || s->plan.leases || s->plan.cooling ||
	       st->waiting[POOL_INTERACTIVE] || st->waiting[POOL_BATCH] || p->op != OP_NONE || p->reload ||
	       s->role != SLOT_MAIN || p->external;
}

double scene_loss(const struct scene_loss *l)
{
	double again = l->kept ? l->reread_s / REREAD_TO_RESTORE : l->reread_s;
	return 60 / (60 + l->idle_s) * (l->reload_s + again) * l->cost;
}

struct speed_of {
	const char *id;
	struct pool_speed speed;
};

static void read_speed(void *arg, const struct pool_replica *r)
{
	struct speed_of *s = arg;
	if (strcmp(r->id, s->id) == 0)
		pool_replica_speed(r, &s->speed);
}

static double loss_of(const struct control_pool *p, const struct control_slot *s,
	const struct registry_replica *r, mono_t now)
{
	struct speed_of of = { .id = s->id };
	pool_each_replica(p->pool, read_speed, &of);
	struct scene_loss l = { .idle_s =
					(double)MAX(mono_ms_between(s->plan.busy_at, now), (int64_t)0) / 1000,
		.reload_s = p->load_ms > 0 ? (double)p->load_ms / 1000 : 5,
		.reread_s = of.speed.last_s,
		.kept = r && r->facts.kv_kept,
		.cost = p->cfg->evict_cost };
	return scene_loss(&l);
}

struct swap_policy room_swap_policy(const struct control *c)
{
	return (struct swap_policy){ .max_wait_ms = c->config->swap.max_wait_ms,
		.hold_ms = c->config->swap.hold_ms,
		.hold_after = (enum swap_hold)c->config->swap.hold_after };
}
static_assert((int)SWAP_HOLD_TOOL_CALLS == (int)CONFIG_HOLD_TOOL_CALLS, "one numbering");
static_assert((int)SWAP_HOLD_NEVER == (int)CONFIG_HOLD_NEVER, "one numbering");

/* Whether its client is about to come back, and is not who asks. */
static bool is_held(const struct control *c, const struct control_slot *s, const struct scene *sc, mono_t now,
	mono_t *ret_until)
{
	struct swap_policy policy = room_swap_policy(c);
	struct swap_loaded l = { .replied = s->plan.busy_at.ns != 0,
		.reply_at = policy.hold_after == SWAP_HOLD_TOOL_CALLS ? s->tools_at : s->plan.busy_at,
		.tool_calls = s->tools_at.ns != 0,
		.key = policy.hold_after == SWAP_HOLD_TOOL_CALLS ? s->tools_owner : 0 };
	return swap_turn(&l, &sc->waiting, &policy, now, ret_until) == SWAP_HELD;
}

static void add_uses(const struct control *c, struct scene *sc, const struct control_slot *s)
{
	struct fit_replica *f = &sc->replicas[sc->facts.nreplicas];
	f->first_use = sc->facts.nuses;
	for (size_t i = 0; i < s->room->nuses; i++) {
		size_t d = device_of(sc, s->room->uses[i].device);
		if (d == FIT_NONE)
			continue;
		uint64_t bytes = ledger_booked(c->ledger, slot_owner(s), s->room->uses[i].device);
		sc->uses[sc->facts.nuses++] = (struct fit_use){ d, bytes };
		sc->devices[d].replicas++;
		f->nuses++;
	}
}

static void add_replica(struct scene *sc, struct control_pool *p, struct control_slot *s,
	const struct registry_replica *r, const struct pool_stats *st, mono_t now)
{
	bool leaves = s->role == SLOT_LEAVING || !s->plan.wanted;
	mono_t until = MONO_NEVER;
	bool held = !leaves && is_held(p->control, s, sc, now, &until);
	if (held && mono_before(until, sc->held_until))
		sc->held_until = until;
	mono_t over =
		p->cfg->keep_alive_ms < 0 ? MONO_NEVER : mono_add_ms(s->plan.busy_at, p->cfg->keep_alive_ms);
	sc->replicas[sc->facts.nreplicas] = (struct fit_replica){
		.replica_id = s->id,
		.pool_id = p->cfg->id,
		.busy = is_busy(p, s, r, st) || held,
		.pinned = !leaves && (p->cfg->pinned || p->cfg->replicas_min > 0),
		.idle_only = !leaves && p->cfg->idle_only,
		.expired = leaves || !mono_before(now, over),
		.loss = leaves ? 0 : loss_of(p, s, r, now),
	};
	sc->slots[sc->facts.nreplicas] = s;
	sc->pools[sc->facts.nreplicas] = p;
	add_uses(p->control, sc, s);
	sc->facts.nreplicas++;
}

static void add_replicas(struct control *c, const struct registry_snapshot *s, struct scene *sc, mono_t now)
{
	size_t n = 1;
	for (size_t i = 0; i < c->npools; i++)
		n += c->pools[i]->nslots;
	sc->replicas = mem_alloc(n * sizeof *sc->replicas);
	sc->slots = mem_alloc(n * sizeof(struct control_slot *));
	sc->pools = mem_alloc(n * sizeof(struct control_pool *));
	sc->uses = mem_alloc(n * ROOM_USES_MAX * sizeof *sc->uses);
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = c->pools[i];
		const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
		struct pool_stats st;
		pool_get_stats(p->pool, &st);
		for (size_t k = 0; k < p->nslots; k++)
			if (p->slots[k]->room)
				add_replica(sc, p, p->slots[k], slot_replica(rp, p->slots[k]), &st, now);
	}
	sc->facts.replicas = sc->replicas;
	sc->facts.uses = sc->uses;
}

/* The operator's bound on what ours may hold of a device; 0: none. */
static uint64_t limit_of(const struct control *c, const struct scene *sc, size_t d)
{
	const struct fit_device *f = &sc->devices[d];
	const struct wire_device *w = sc->wire[d];
	const struct strv *b = &c->config->budget.device_bytes;
	uint64_t limit = 0, bytes;
	if (f->kind == FIT_KIND_CPU)
		return c->config->budget.host_bytes;
	for (size_t i = 0; i < b->len; i++) {
		struct view id;
		char index[16];
		snprintf(index, sizeof index, "%u", f->index);
		if (config_budget_read(b->items[i], &id, &bytes, NULL))
			continue;
		if (view_eqs(id, "*") || view_eqs(id, index) ||
			(w->uuid && view_starts(view_str(w->uuid), id)))
			limit = limit ? MIN(limit, bytes) : bytes;
	}
	return limit;
}

void scene_make(struct control *c, const struct registry_snapshot *s, const struct swap_waiting *w,
	mono_t now, struct scene *ret)
{
	*ret = (struct scene){ .waiting = *w, .held_until = MONO_NEVER };
	add_devices(c, s, ret);
	add_replicas(c, s, ret, now);
	for (size_t d = 0; d < ret->facts.ndevices; d++) {
		ret->devices[d].limit = limit_of(c, ret, d);
	}
	ret->facts.replicas_max = c->config->budget.replicas;
	ret->words_devices = ret->facts.ndevices / 64 + 1;
	ret->words_replicas = ret->facts.nreplicas / 64 + 1;
	ret->scratch = mem_alloc(fit_scratch_bytes(&ret->facts) + 1);
}
