/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/simulate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "placement/ledger.h"

enum { HORIZON_MS = 60000 };  /* a reuse within it would pay a reload */
enum { EVENTS_EACH = 10000 }; /* far more than any request makes */

enum event_kind { ARRIVE, READY, REPLY, RETURNED, FAIL, LOOK };
struct event {
	int64_t at;
	uint64_t seq; /* of equal times the first scheduled comes first */
	enum event_kind kind;
	size_t index;
	uint64_t generation; /* of the model; another: it is void */
};
struct heap {
	struct event *v;
	size_t n, cap;
	uint64_t seq;
};

enum model_state { OUT, LOADS, LOADED, LEAVES };
struct model {
	enum model_state state;
	uint64_t generation;
	size_t first; /* its queue, linked by `next` of requests; SIM_NONE: empty */
	uint32_t running;
	size_t contender; /* the model that waits for its room; SIM_NONE */
	bool wanted;      /* others had to leave for it */
	struct swap_loaded swap;
	int64_t used_ms; /* last arrival or reply */
	double rate;     /* requests per ms, decaying */
	size_t nparts;
	struct ledger_part parts[FIT_SPLIT_MAX + 1];
};
struct request {
	size_t next;
	enum { UNBORN, QUEUED, RUNNING, ENDED } state;
	unsigned crashes;
	int64_t bound_ms;
};
struct sim {
	const struct sim_setup *s;
	struct sim_outcome *out;
	struct sim_result *ret;
	struct buf *log;
	int64_t now;
	struct heap events;
	struct model *models;
	struct request *requests;
	size_t *followers; /* heads of lists of requests by what they follow, linked by `next` while unborn */
	size_t *order;     /* models that wait, oldest first */
	struct ledger *ledger;
	uint64_t *used; /* per device, as a driver would read it */
	struct fit_device *devices;
	struct fit_replica *replicas;
	struct fit_use *uses;
	size_t *replica_model;
	void *scratch;
	int64_t looks_at; /* the earliest LOOK that is scheduled */
};

static mono_t mono(int64_t ms)
{
	return mono_add_ms(MONO_ZERO, ms);
}

static void breaks(struct sim *x, const char *what, size_t index)
{
	if (x->ret->broken)
		return;
	x->ret->broken = what;
	x->ret->broken_index = index;
}

/* ---- events -------------------------------------------------------------------------------------------- */

static bool before(const struct event *a, const struct event *b)
{
	return a->at != b->at ? a->at < b->at : a->seq < b->seq;
}

static void schedule(struct sim *x, int64_t at, enum event_kind kind, size_t index, uint64_t generation)
{
	struct heap *h = &x->events;
	if (h->n == h->cap) {
		h->cap = MAX(2 * h->cap, (size_t)64);
		h->v = mem_realloc(h->v, h->cap * sizeof h->v[0]);
	}
	size_t i = h->n++;
	struct event e = { at, h->seq++, kind, index, generation };
	for (; i && before(&e, &h->v[(i - 1) / 2]); i = (i - 1) / 2)
		h->v[i] = h->v[(i - 1) / 2];
	h->v[i] = e;
}

static bool next_event(struct sim *x, struct event *ret)
{
	struct heap *h = &x->events;
	if (!h->n)
		return false;
	*ret = h->v[0];
	struct event e = h->v[--h->n];
	size_t i = 0;
	for (size_t child; (child = 2 * i + 1) < h->n; i = child) {
		if (child + 1 < h->n && before(&h->v[child + 1], &h->v[child]))
			child++;
		if (!before(&h->v[child], &e))
			break;
		h->v[i] = h->v[child];
	}
	if (h->n)
		h->v[i] = e;
	return true;
}

/* ---- requests ------------------------------------------------------------------------------------------ */

/* Into the queue by arrival: one that comes back after a crash keeps its place. */
static void enqueue(struct sim *x, size_t i)
{
	struct model *m = &x->models[x->s->requests[i].model];
	size_t *at = &m->first;
	while (*at != SIM_NONE && x->out[*at].arrived_ms <= x->out[i].arrived_ms)
		at = &x->requests[*at].next;
	x->requests[i].next = *at;
	*at = i;
	x->requests[i].state = QUEUED;
}

static size_t dequeue(struct sim *x, struct model *m)
{
	size_t i = m->first;
	m->first = x->requests[i].next;
	return i;
}

static void touch(struct sim *x, struct model *m)
{
	int64_t gap = MAX(x->now - m->used_ms, (int64_t)1);
	double decay = exp(-(double)gap / HORIZON_MS);
	m->rate = m->rate * decay + (1 - decay) / (double)gap;
	m->used_ms = x->now;
}

/* What may go before it after max_wait: those that came earlier, each with a load of its own and one by one;
 * what runs or loads just then; and everything once more for each failure. */
static int64_t bound_of(const struct sim *x, size_t i)
{
	int64_t sum = 0, longest = 0, load = 0;
	for (size_t k = 0; k < x->s->nrequests; k++) {
		const struct sim_request *r = &x->s->requests[k];
		const struct sim_model *m = &x->s->models[r->model];
		longest = MAX(longest, r->service_ms);
		load = MAX(load, m->load_ms + m->return_ms);
		if (k == i || x->requests[k].state == QUEUED || x->requests[k].state == RUNNING)
			sum += r->service_ms + m->load_ms + m->return_ms;
	}
	return x->s->policy.max_wait_ms + (sum + longest + load) * (int64_t)(x->s->nfailures + 1);
}

static void arrive(struct sim *x, size_t i)
{
	x->out[i].arrived_ms = x->now;
	x->requests[i].bound_ms = bound_of(x, i);
	touch(x, &x->models[x->s->requests[i].model]);
	enqueue(x, i);
}

static void answer(struct sim *x, size_t i, bool failed)
{
	struct sim_outcome *o = &x->out[i];
	if (++o->answers > 1)
		breaks(x, "a request was answered twice", i);
	o->ended_ms = x->now;
	o->failed = failed;
	x->requests[i].state = ENDED;
	x->ret->answered += !failed;
	x->ret->failed += failed;
	for (size_t f = x->followers[i], next; f != SIM_NONE; f = next) {
		next = x->requests[f].next;
		schedule(x, x->now + x->s->requests[f].at_ms, ARRIVE, f, 0);
	}
}

static void start(struct sim *x, size_t model, size_t i)
{
	struct model *m = &x->models[model];
	x->requests[i].state = RUNNING;
	x->out[i].started_ms = x->now;
	if (x->now - x->out[i].arrived_ms > x->requests[i].bound_ms)
		breaks(x, "a request waited beyond its bound", i);
	if (++m->running > x->s->models[model].slots)
		breaks(x, "more run than there are slots", model);
	m->swap.running = m->running;
	schedule(x, x->now + x->s->requests[i].service_ms, REPLY, i, m->generation);
}

static void reply(struct sim *x, size_t i, uint64_t generation)
{
	size_t model = x->s->requests[i].model;
	struct model *m = &x->models[model];
	if (m->generation != generation || x->requests[i].state != RUNNING)
		return; /* it crashed meanwhile */
	if (m->running-- == 0)
		breaks(x, "a lease was given back twice", model);
	m->swap = (struct swap_loaded){ m->running, true, mono(x->now), x->s->requests[i].tool_calls,
		x->s->requests[i].key };
	touch(x, m);
	answer(x, i, false);
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static struct ledger_owner owner(const struct sim *x, size_t model)
{
	return (struct ledger_owner){ x->s->models[model].id, x->models[model].generation };
}

static void read_devices(struct sim *x)
{
	for (size_t d = 0; d < x->s->ndevices; d++)
		if (x->s->devices[d].capacity)
			ledger_reading(x->ledger, d, x->used[d], mono(x->now));
}

static void uses(struct sim *x, const struct model *m, bool more)
{
	for (size_t i = 0; i < m->nparts; i++)
		x->used[m->parts[i].device] += more ? m->parts[i].bytes : -m->parts[i].bytes;
	read_devices(x);
}

static void leave(struct sim *x, size_t model)
{
	struct model *m = &x->models[model];
	m->state = LEAVES;
	m->contender = SIM_NONE;
	if (ledger_release(x->ledger, owner(x, model), mono(x->now)))
		breaks(x, "the ledger does not know who leaves", model);
	schedule(x, x->now + x->s->models[model].return_ms, RETURNED, model, m->generation);
}

static void returned(struct sim *x, size_t model)
{
	struct model *m = &x->models[model];
	ledger_gone(x->ledger, owner(x, model));
	uses(x, m, false);
	m->state = OUT;
}

static void crash(struct sim *x, size_t model)
{
	struct model *m = &x->models[model];
	if (m->state != LOADS && m->state != LOADED)
		return;
	x->ret->crashes++;
	m->running = 0;
	m->swap = (struct swap_loaded){ 0 };
	for (size_t i = 0; i < x->s->nrequests; i++) {
		if (x->s->requests[i].model != model || x->requests[i].state != RUNNING)
			continue;
		if (++x->requests[i].crashes > 1)
			answer(x, i, true); /* the suspect */
		else
			enqueue(x, i);
	}
	leave(x, model);
}

/* ---- decisions ----------------------------------------------------------------------------------------- */

static struct swap_waiting waiting(const struct sim *x, size_t model)
{
	size_t i = x->models[model].first;
	return (struct swap_waiting){ mono(x->out[i].arrived_ms), x->s->requests[i].key };
}

static void look_again(struct sim *x, mono_t at)
{
	int64_t ms = at.ns == INT64_MAX ? INT64_MAX : (at.ns + 999999) / 1000000;
	if (ms == INT64_MAX || ms <= x->now || (x->looks_at > x->now && x->looks_at <= ms))
		return;
	x->looks_at = ms;
	schedule(x, ms, LOOK, 0, 0);
}

/* Facts for the model that waits. drain: those that answer or are held count as idle: whose room would it be?
 */
static void facts(struct sim *x, size_t who, bool drain, struct fit_facts *ret)
{
	const struct swap_waiting w = waiting(x, who);
	size_t n = 0, nuses = 0;
	for (size_t d = 0; d < x->s->ndevices; d++) {
		struct ledger_view v;
		ledger_look(x->ledger, d, &v);
		x->devices[d].reserved = v.booked;
		x->devices[d].foreign = v.foreign;
		x->devices[d].replicas = (uint32_t)v.owners;
	}
	for (size_t i = 0; i < x->s->nmodels; i++) {
		const struct sim_model *c = &x->s->models[i];
		const struct model *m = &x->models[i];
		if (m->state == OUT || m->state == LEAVES)
			continue;
		mono_t until = MONO_NEVER;
		enum swap_turn turn = swap_turn(&m->swap, &w, &x->s->policy, mono(x->now), &until);
		/* Requests of its own are about to start. */
		bool own = m->first != SIM_NONE &&
			   swap_admits(mono(x->out[m->first].arrived_ms), &w, &x->s->policy, mono(x->now));
		bool busy = m->state == LOADS || (!drain && (turn != SWAP_NOW || own));
		if (turn == SWAP_HELD)
			look_again(x, until);
		double chance = 1 - exp(-m->rate * HORIZON_MS);
		x->replica_model[n] = i;
		x->replicas[n++] = (struct fit_replica){ .replica_id = c->id,
			.pool_id = c->id,
			.first_use = nuses,
			.nuses = m->nparts,
			.busy = busy,
			.pinned = c->pinned,
			.expired = c->keep_alive_ms && x->now - m->used_ms > c->keep_alive_ms && !m->running,
			.loss = chance * (double)c->load_ms / 1000 *
				(c->evict_cost > 0 ? c->evict_cost : 1) };
		for (size_t p = 0; p < m->nparts; p++)
			x->uses[nuses++] = (struct fit_use){ m->parts[p].device, m->parts[p].bytes };
	}
	*ret = (struct fit_facts){ x->devices, x->s->ndevices, x->replicas, n, x->uses, nuses, 0, NULL };
}

static void plan_for(struct sim *x, size_t who, bool drain, struct fit_facts *f, struct fit_plan *ret)
{
	const struct sim_model *c = &x->s->models[who];
	const struct fit_need need = { .whole = c->bytes, .host = c->host_bytes };
	const struct fit_want want = {
		.pool_id = c->id, .replica_id = c->id, .need = &need, .may_evict = true
	};
	facts(x, who, drain, f);
	fit_plan(f, &want, x->scratch, ret, NULL);
	x->ret->decisions++;
}

static bool load(struct sim *x, size_t who, const struct fit_plan *p)
{
	struct model *m = &x->models[who];
	m->nparts = 0;
	for (size_t i = 0; i < p->nparts; i++)
		m->parts[m->nparts++] = (struct ledger_part){ p->parts[i].device, p->parts[i].bytes };
	if (p->host != FIT_NONE && p->host_bytes)
		m->parts[m->nparts++] = (struct ledger_part){ p->host, p->host_bytes };
	m->generation++;
	if (ledger_reserve(x->ledger, owner(x, who), m->parts, m->nparts, NULL)) {
		m->generation--;
		breaks(x, "the ledger refuses what the planner placed", who);
		return false;
	}
	m->state = LOADS;
	m->swap = (struct swap_loaded){ 0 };
	m->contender = SIM_NONE;
	x->ret->loads++;
	x->ret->swaps += m->wanted;
	m->wanted = false;
	uses(x, m, true);
	schedule(x, x->now + x->s->models[who].load_ms, READY, who, m->generation);
	if (x->log)
		(void)buf_addf(x->log, "%" PRId64 " load %s\n", x->now, x->s->models[who].id);
	return true;
}

static void evict(struct sim *x, size_t who, const struct fit_plan *p)
{
	for (size_t i = 0; i < p->nvictims; i++) {
		size_t v = x->replica_model[p->victims[i]];
		if (x->models[v].running || x->s->models[v].pinned)
			breaks(x, "a busy or pinned model was evicted", v);
		x->ret->evictions++;
		if (x->log)
			(void)buf_addf(x->log, "%" PRId64 " evict %s for %s\n", x->now, x->s->models[v].id,
				x->s->models[who].id);
		leave(x, v);
	}
	x->models[who].wanted = true;
}

static void refuse(struct sim *x, size_t who)
{
	struct model *m = &x->models[who];
	if (x->log)
		(void)buf_addf(x->log, "%" PRId64 " no room for %s\n", x->now, x->s->models[who].id);
	while (m->first != SIM_NONE)
		answer(x, dequeue(x, m), true);
}

static bool anybody_leaves(const struct sim *x)
{
	for (size_t i = 0; i < x->s->nmodels; i++)
		if (x->models[i].state == LEAVES)
			return true;
	return false;
}

enum placed { PLACED, WAITS, NEVER };
static enum placed place(struct sim *x, size_t who)
{
	struct fit_facts f;
	struct fit_plan p;
	plan_for(x, who, false, &f, &p);
	if (p.how != FIT_NO && !p.nvictims)
		return load(x, who, &p) ? PLACED : WAITS;
	if (p.how != FIT_NO) {
		/* What returns may be enough. */
		if (!anybody_leaves(x))
			evict(x, who, &p);
		return WAITS;
	}
	/* Those whose room it would be are not given later requests once it is due. */
	plan_for(x, who, true, &f, &p);
	if (p.how == FIT_NO) {
		bool moves = p.later;
		for (size_t i = 0; i < x->s->nmodels; i++)
			moves |= x->models[i].state == LOADS || x->models[i].state == LEAVES;
		return moves ? WAITS : NEVER;
	}
	for (size_t i = 0; i < p.nvictims; i++) {
		struct model *v = &x->models[x->replica_model[p.victims[i]]];
		if (v->contender == SIM_NONE)
			v->contender = who;
	}
	struct swap_waiting w = waiting(x, who);
	look_again(x, swap_due(&w, &x->s->policy));
	return WAITS;
}

/* Models with requests that are not loaded, by their oldest one. */
static size_t order_waiting(struct sim *x)
{
	size_t n = 0;
	for (size_t i = 0; i < x->s->nmodels; i++) {
		x->models[i].contender = SIM_NONE;
		if (x->models[i].state != OUT || x->models[i].first == SIM_NONE)
			continue;
		int64_t since = x->out[x->models[i].first].arrived_ms;
		size_t at = n++;
		for (; at && x->out[x->models[x->order[at - 1]].first].arrived_ms > since; at--)
			x->order[at] = x->order[at - 1];
		x->order[at] = i;
	}
	return n;
}

static void admit(struct sim *x, size_t model)
{
	struct model *m = &x->models[model];
	while (m->state == LOADED && m->first != SIM_NONE && m->running < x->s->models[model].slots) {
		if (m->contender != SIM_NONE) {
			struct swap_waiting w = waiting(x, m->contender);
			if (!swap_admits(mono(x->out[m->first].arrived_ms), &w, &x->s->policy, mono(x->now)))
				return;
		}
		start(x, model, dequeue(x, m));
	}
}

static void settle(struct sim *x)
{
	size_t n = order_waiting(x);
	for (size_t i = 0; i < n; i++) {
		size_t who = x->order[i];
		enum placed placed = place(x, who);
		if (placed == NEVER)
			refuse(x, who);
		if (placed != WAITS)
			continue;
		/* Nobody who came later takes the room that is made for it, or that it is due. */
		struct swap_waiting w = waiting(x, who);
		if (anybody_leaves(x) || !mono_before(mono(x->now), swap_due(&w, &x->s->policy)))
			break;
	}
	for (size_t i = 0; i < x->s->nmodels; i++)
		admit(x, i);
	for (size_t d = 0; d < x->s->ndevices; d++) {
		struct ledger_view v;
		ledger_look(x->ledger, d, &v);
		if (v.capacity && (v.booked > v.capacity || x->used[d] > v.capacity))
			breaks(x, "more memory is taken than there is", d);
	}
}

static void happen(struct sim *x, const struct event *e)
{
	struct model *m = e->kind == READY || e->kind == RETURNED ? &x->models[e->index] : NULL;
	if (m && m->generation != e->generation)
		return;
	switch (e->kind) {
	case ARRIVE: arrive(x, e->index); break;
	case REPLY: reply(x, e->index, e->generation); break;
	case RETURNED: returned(x, e->index); break;
	case FAIL: crash(x, e->index); break;
	case READY:
		if (m->state == LOADS) {
			m->state = LOADED;
			for (size_t p = 0; p < m->nparts; p++)
				(void)!ledger_measured(
					x->ledger, owner(x, e->index), m->parts[p].device, m->parts[p].bytes);
		}
		break;
	case LOOK: break;
	}
}

/* ---- the run ------------------------------------------------------------------------------------------- */

static bool makes_sense(const struct sim_setup *s)
{
	for (size_t i = 0; i < s->nrequests; i++) {
		const struct sim_request *r = &s->requests[i];
		if (r->model >= s->nmodels || r->at_ms < 0 || r->service_ms < 0 ||
			(r->after != SIM_NONE && r->after >= i))
			return false;
	}
	for (size_t i = 0; i < s->nmodels; i++)
		if (!s->models[i].slots || s->models[i].load_ms < 0 || s->models[i].return_ms < 0 ||
			s->models[i].return_ms >= LEDGER_RETURN_MS)
			return false;
	for (size_t i = 0; i < s->nfailures; i++)
		if (s->failures[i].model >= s->nmodels || s->failures[i].at_ms < 0)
			return false;
	return s->policy.max_wait_ms >= 0 && s->policy.hold_ms >= 0;
}

static void begin(struct sim *x)
{
	const struct sim_setup *s = x->s;
	x->ledger = ledger_new();
	for (size_t d = 0; d < s->ndevices; d++) {
		char id[24];
		(void)snprintf(id, sizeof id, "%zu", d);
		(void)ledger_device(x->ledger, s->devices[d].node_id, id, s->devices[d].capacity);
		x->devices[d] = s->devices[d];
		x->used[d] = s->devices[d].foreign;
	}
	read_devices(x);
	for (size_t i = 0; i < s->nmodels; i++)
		x->models[i].first = x->models[i].contender = SIM_NONE;
	for (size_t i = 0; i < s->nrequests; i++)
		x->followers[i] = x->requests[i].next = SIM_NONE;
	for (size_t i = s->nrequests; i-- > 0;) {
		const struct sim_request *r = &s->requests[i];
		if (r->after == SIM_NONE)
			continue;
		x->requests[i].next = x->followers[r->after];
		x->followers[r->after] = i;
	}
	for (size_t i = 0; i < s->nrequests; i++)
		if (s->requests[i].after == SIM_NONE)
			schedule(x, s->requests[i].at_ms, ARRIVE, i, 0);
	for (size_t i = 0; i < s->nfailures; i++)
		schedule(x, s->failures[i].at_ms, FAIL, s->failures[i].model, 0);
}

static int by_number(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return x < y ? -1 : x > y;
}

static void sum_up(struct sim *x)
{
	size_t n = 0;
	double total = 0;
	AUTO(mem_freep) int64_t *waits = mem_alloc((x->s->nrequests + 1) * sizeof *waits);
	for (size_t i = 0; i < x->s->nrequests; i++) {
		const struct sim_outcome *o = &x->out[i];
		if (!o->answers)
			breaks(x, "a request was lost", i);
		if (!o->answers || o->failed)
			continue;
		waits[n++] = o->started_ms - o->arrived_ms;
		total += (double)(o->started_ms - o->arrived_ms);
	}
	x->ret->end_ms = x->now;
	x->ret->goodput = x->now ? (double)n * 1000 / (double)x->now : 0;
	if (!n)
		return;
	qsort(waits, n, sizeof *waits, by_number);
	x->ret->wait_ms[0] = (int64_t)(total / (double)n);
	x->ret->wait_ms[1] = waits[n / 2];
	x->ret->wait_ms[2] = waits[MIN(n - 1, n * 99 / 100)];
	x->ret->wait_ms[3] = waits[n - 1];
}

int simulate(const struct sim_setup *s, struct sim_outcome *outcomes, struct sim_result *ret, struct buf *log)
{
	if (!makes_sense(s))
		return -EINVAL;
	struct sim x = { .s = s, .out = outcomes, .ret = ret, .log = log };
	size_t parts = s->nmodels * (FIT_SPLIT_MAX + 1);
	*ret = (struct sim_result){ 0 };
	memset(outcomes, 0, s->nrequests * sizeof *outcomes);
	struct fit_facts most = { .ndevices = s->ndevices, .nreplicas = s->nmodels, .nuses = parts };
	AUTO(mem_freep) struct model *models = x.models = mem_alloc((s->nmodels + 1) * sizeof *models);
	AUTO(mem_freep)
	struct request *requests = x.requests = mem_alloc((s->nrequests + 1) * sizeof *requests);
	AUTO(mem_freep) size_t *sizes = mem_alloc((s->nrequests + 2 * s->nmodels + 1) * sizeof *sizes);
	AUTO(mem_freep)
	struct fit_device *devices = x.devices = mem_alloc((s->ndevices + 1) * sizeof *devices);
	AUTO(mem_freep)
	struct fit_replica *replicas = x.replicas = mem_alloc((s->nmodels + 1) * sizeof *replicas);
	AUTO(mem_freep) struct fit_use *fit_uses = x.uses = mem_alloc((parts + 1) * sizeof *fit_uses);
	AUTO(mem_freep) uint64_t *used = x.used = mem_alloc((s->ndevices + 1) * sizeof *used);
	AUTO(mem_freep) UNUSED void *scratch = x.scratch = mem_alloc(fit_scratch_bytes(&most));
	x.followers = sizes;
	x.order = sizes + s->nrequests;
	x.replica_model = x.order + s->nmodels;
	begin(&x);
	uint64_t left = EVENTS_EACH * (s->nrequests + s->nfailures + s->nmodels + 1);
	for (struct event e; next_event(&x, &e);) {
		if (!left--) {
			breaks(&x, "it comes to no end", 0);
			break;
		}
		x.now = e.at;
		happen(&x, &e);
		/* What happens at one time is decided on together. */
		if (!x.events.n || x.events.v[0].at > x.now)
			settle(&x);
	}
	sum_up(&x);
	ledger_freep(&x.ledger);
	free(x.events.v);
	return 0;
}
