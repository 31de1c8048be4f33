/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "placement/sim_int.h"

enum { EVENTS_EACH = 10000 }; /* far more than any request makes */

void sim_breaks(struct sim *x, const char *what, size_t index)
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

void sim_schedule(struct sim *x, int64_t at, enum event_kind kind, size_t index, uint64_t generation)
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

size_t sim_dequeue(struct sim *x, struct model *m)
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

void sim_answer(struct sim *x, size_t i, bool failed)
{
	struct sim_outcome *o = &x->out[i];
	if (++o->answers > 1)
		sim_breaks(x, "a request was answered twice", i);
	o->ended_ms = x->now;
	o->failed = failed;
	x->requests[i].state = ENDED;
	x->ret->answered += !failed;
	x->ret->failed += failed;
	for (size_t f = x->followers[i], next; f != SIM_NONE; f = next) {
		next = x->requests[f].next;
		sim_schedule(x, x->now + x->s->requests[f].at_ms, ARRIVE, f, 0);
	}
}

void sim_start(struct sim *x, size_t model, size_t i)
{
	struct model *m = &x->models[model];
	x->requests[i].state = RUNNING;
	x->out[i].started_ms = x->now;
	if (x->now - x->out[i].arrived_ms > x->requests[i].bound_ms)
		sim_breaks(x, "a request waited beyond its bound", i);
	if (++m->running > x->s->models[model].slots)
		sim_breaks(x, "more run than there are slots", model);
	m->swap.running = m->running;
	sim_schedule(x, x->now + x->s->requests[i].service_ms, REPLY, i, m->generation);
}

static void reply(struct sim *x, size_t i, uint64_t generation)
{
	size_t model = x->s->requests[i].model;
	struct model *m = &x->models[model];
	if (m->generation != generation || x->requests[i].state != RUNNING)
		return; /* it crashed meanwhile */
	if (m->running-- == 0)
		sim_breaks(x, "a lease was given back twice", model);
	m->swap = (struct swap_loaded){ m->running, true, sim_mono(x->now), x->s->requests[i].tool_calls,
		x->s->requests[i].key };
	touch(x, m);
	sim_answer(x, i, false);
}

/* ---- memory -------------------------------------------------------------------------------------------- */

struct ledger_owner sim_owner(const struct sim *x, size_t model)
{
	return (struct ledger_owner){ x->s->models[model].id, x->models[model].generation };
}

static void read_devices(struct sim *x)
{
	for (size_t d = 0; d < x->s->ndevices; d++)
		if (x->s->devices[d].capacity)
			ledger_reading(x->ledger, d, x->used[d], sim_mono(x->now));
}

void sim_uses(struct sim *x, const struct model *m, bool more)
{
	for (size_t i = 0; i < m->nparts; i++)
		x->used[m->parts[i].device] += more ? m->parts[i].bytes : -m->parts[i].bytes;
	read_devices(x);
}

void sim_leave(struct sim *x, size_t model)
{
	struct model *m = &x->models[model];
	m->state = LEAVES;
	m->contender = SIM_NONE;
	if (ledger_release(x->ledger, sim_owner(x, model), sim_mono(x->now)))
		sim_breaks(x, "the ledger does not know who leaves", model);
	sim_schedule(x, x->now + x->s->models[model].return_ms, RETURNED, model, m->generation);
}

static void returned(struct sim *x, size_t model)
{
	struct model *m = &x->models[model];
	ledger_gone(x->ledger, sim_owner(x, model));
	sim_uses(x, m, false);
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
			sim_answer(x, i, true); /* the suspect */
		else
			enqueue(x, i);
	}
	sim_leave(x, model);
}

/* ---- what happens -------------------------------------------------------------------------------------- */

static bool is_hit(const struct sim *x, const struct sim_failure *f, size_t device)
{
	const struct fit_device *d = x->s->devices;
	return f->what == SIM_LOST
		       ? device == f->index
		       : f->what == SIM_GONE && strcmp(d[device].node_id, d[f->index].node_id) == 0;
}

/* A device or node is away, or back. */
static void turn_up(struct sim *x, const struct sim_failure *f, bool back)
{
	for (size_t d = 0; d < x->s->ndevices; d++) {
		if (!is_hit(x, f, d))
			continue;
		x->away[d] += back ? (uint32_t)-1 : 1;
		x->devices[d].usable = x->s->devices[d].usable && !x->away[d];
	}
}

static void fail(struct sim *x, size_t number)
{
	const struct sim_failure *f = &x->s->failures[number];
	if (f->what == SIM_CRASH) {
		crash(x, f->index);
		return;
	}
	turn_up(x, f, false);
	if (f->back_ms)
		sim_schedule(x, f->back_ms, BACK, number, 0);
	for (size_t i = 0; i < x->s->nmodels; i++) {
		struct model *m = &x->models[i];
		bool hit = false;
		for (size_t p = 0; p < m->nparts; p++)
			hit |= is_hit(x, f, m->parts[p].device);
		if (hit)
			crash(x, i);
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
	case FAIL: fail(x, e->index); break;
	case BACK: turn_up(x, &x->s->failures[e->index], true); break;
	case READY:
		if (m->state == LOADS) {
			m->state = LOADED;
			for (size_t p = 0; p < m->nparts; p++)
				(void)!ledger_measured(x->ledger, sim_owner(x, e->index), m->parts[p].device,
					m->parts[p].bytes);
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
	for (size_t i = 0; i < s->nfailures; i++) {
		const struct sim_failure *f = &s->failures[i];
		if (f->index >= (f->what == SIM_CRASH ? s->nmodels : s->ndevices) || f->at_ms < 0 ||
			(f->back_ms && f->back_ms < f->at_ms))
			return false;
	}
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
			sim_schedule(x, s->requests[i].at_ms, ARRIVE, i, 0);
	for (size_t i = 0; i < s->nfailures; i++)
		sim_schedule(x, s->failures[i].at_ms, FAIL, i, 0);
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
			sim_breaks(x, "a request was lost", i);
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
	AUTO(mem_freep) uint32_t *away = x.away = mem_alloc((s->ndevices + 1) * sizeof *away);
	AUTO(mem_freep) uint64_t *used = x.used = mem_alloc((s->ndevices + 1) * sizeof *used);
	AUTO(mem_freep) UNUSED void *scratch = x.scratch = mem_alloc(fit_scratch_bytes(&most));
	x.followers = sizes;
	x.order = sizes + s->nrequests;
	x.replica_model = x.order + s->nmodels;
	begin(&x);
	uint64_t left = EVENTS_EACH * (s->nrequests + s->nfailures + s->nmodels + 1);
	for (struct event e; next_event(&x, &e);) {
		if (!left--) {
			sim_breaks(&x, "it comes to no end", 0);
			break;
		}
		x.now = e.at;
		happen(&x, &e);
		/* What happens at one time is decided on together. */
		if (!x.events.n || x.events.v[0].at > x.now)
			sim_settle(&x);
	}
	sum_up(&x);
	ledger_freep(&x.ledger);
	free(x.events.v);
	return 0;
}
