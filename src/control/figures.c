/* SPDX-License-Identifier: Apache-2.0
 *
 * Gauges set anew at each exposition, from the pools' and the registry's own state, so that /metrics and
 * /v1/pools tell the same.
 */
#include "control/control_int.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

static void set1(struct metrics *m, const char *family, const char *a, double v)
{
	metric_set(metrics_series(m, family, a, NULL), v);
}

static void set2(struct metrics *m, const char *family, const char *a, const char *b, double v)
{
	metric_set(metrics_series(m, family, a, b, NULL), v);
}

/* A failed replica that will be tried again by itself is one whose breaker is open. */
static bool breaker_open(const struct registry_snapshot *s, const char *pool)
{
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(pool));
	for (size_t i = 0; rp && i < rp->nreplicas; i++)
		if (rp->replicas[i]->facts.state == REPLICA_FAILED && rp->replicas[i]->facts.retry_in_ms >= 0)
			return true;
	return false;
}

/* Of a pool that is gone: nothing runs and nobody waits. */
void figures_forget(struct control_pool *p)
{
	struct metrics *m = p->control->o.metrics;
	const char *id = p->cfg->id;
	set1(m, "corral_requests_running", id, 0);
	set2(m, "corral_requests_waiting", id, "interactive", 0);
	set2(m, "corral_requests_waiting", id, "batch", 0);
	set1(m, "corral_leases", id, 0);
	set2(m, "corral_pool_slots", id, "free", 0);
	set2(m, "corral_pool_slots", id, "leased", 0);
	set2(m, "corral_pool_slots", id, "cooling", 0);
	set1(m, "corral_pool_ready", id, 0);
	set1(m, "corral_breaker_state", id, 0);
}

/* The UUID, else the PCI address; "cpu", and "NODE/cpu" where there are several nodes. */
static char *device_label(
	const struct registry_snapshot *s, const struct registry_node *n, const struct wire_device *d)
{
	bool gpu = d->uuid && strcmp(d->uuid, "cpu") != 0;
	return gpu || s->nnodes == 1 ? mem_strdup(d->device_id) : mem_fmt("%s/%s", n->node_id, d->device_id);
}

static void collect_device(struct metrics *m, const char *label, const struct wire_device *d)
{
	if (d->memory_total_bytes) {
		set2(m, "corral_device_memory_bytes", label, "total", (double)d->memory_total_bytes);
		set2(m, "corral_device_memory_bytes", label, "used", (double)d->memory_used_bytes);
		set2(m, "corral_device_memory_bytes", label, "free", (double)d->memory_free_bytes);
	}
	if (d->have & WD_UTILIZATION)
		set1(m, "corral_device_utilization_ratio", label, (double)d->utilization_pct / 100);
	if (d->have & WD_TEMPERATURE)
		set1(m, "corral_device_temperature_celsius", label, d->temperature_c);
	if (d->have & WD_POWER)
		set1(m, "corral_device_power_watts", label, (double)d->power_mw / 1000);
	if (d->have & WD_ECC) {
		set2(m, "corral_device_ecc_errors", label, "corrected", (double)d->ecc_corrected);
		set2(m, "corral_device_ecc_errors", label, "uncorrected", (double)d->ecc_uncorrected);
	}
}

/* Of devices that answer alone: a lost one has no figures. */
static void collect_devices(struct metrics *m, const struct registry_snapshot *s)
{
	metrics_clear_family(m, "corral_device_memory_bytes");
	metrics_clear_family(m, "corral_device_utilization_ratio");
	metrics_clear_family(m, "corral_device_temperature_celsius");
	metrics_clear_family(m, "corral_device_power_watts");
	metrics_clear_family(m, "corral_device_ecc_errors");
	for (size_t i = 0; i < s->nnodes; i++)
		for (size_t k = 0; s->nodes[i]->online && k < s->nodes[i]->ndevices; k++) {
			const struct wire_device *d = &s->nodes[i]->devices[k];
			AUTO(mem_freep) char *label = device_label(s, s->nodes[i], d);
			if (d->state && strcmp(d->state, "ok") == 0)
				collect_device(m, label, d);
		}
}

/* What is looked at with the pool's mutex held is told without it. */
struct circuits {
	struct circuit_seen {
		char id[POOL_ID_MAX];
		enum pool_circuit circuit;
	} * list;
	size_t n;
};

static void see_circuit(void *arg, const struct pool_replica *r)
{
	struct circuits *c = arg;
	c->list = mem_realloc(c->list, (c->n + 1) * sizeof *c->list);
	snprintf(c->list[c->n].id, sizeof c->list[c->n].id, "%s", r->id);
	c->list[c->n++].circuit = r->circuit;
}

static void collect_circuits(struct metrics *m, struct control_pool *p)
{
	struct circuits c = { 0 };
	pool_each_replica(p->pool, see_circuit, &c);
	for (size_t i = 0; i < c.n; i++) {
		static const double as_breaker[] = {
			[CIRCUIT_CLOSED] = 0, [CIRCUIT_HALF_OPEN] = 1, [CIRCUIT_OPEN] = 2
		};
		set2(m, "corral_circuit_state", p->cfg->id, c.list[i].id, as_breaker[c.list[i].circuit]);
	}
	free(c.list);
}

void control_collect(void *arg, struct metrics *m)
{
	struct control *c = arg;
	metrics_clear_family(m, "corral_circuit_state"); /* of replicas that are there alone */
	for (size_t i = 0; i < c->npools; i++) {
		struct control_pool *p = c->pools[i];
		const char *id = p->cfg->id;
		struct pool_stats s;
		pool_get_stats(p->pool, &s);
		set1(m, "corral_requests_running", id, s.leases);
		set2(m, "corral_requests_waiting", id, "interactive", s.waiting[POOL_INTERACTIVE]);
		set2(m, "corral_requests_waiting", id, "batch", s.waiting[POOL_BATCH]);
		set1(m, "corral_leases", id, s.leases + s.cooling);
		set2(m, "corral_pool_slots", id, "free", s.slots_free);
		set2(m, "corral_pool_slots", id, "leased", s.leases);
		set2(m, "corral_pool_slots", id, "cooling", s.cooling);
		set1(m, "corral_pool_ready", id, control_pool_state(c, p) == POOL_STATE_READY);
		collect_circuits(m, p);
		for (size_t k = 0; k < p->nslots; k++)
			slot_note_talks(p, p->slots[k]); /* counts what they tell */
	}
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	for (size_t i = 0; i < c->npools; i++)
		set1(m, "corral_breaker_state", c->pools[i]->cfg->id,
			breaker_open(s, c->pools[i]->cfg->id) ? 2 : 0);
	collect_devices(m, s);
	unsigned online = 0;
	for (size_t i = 0; i < s->nnodes; i++)
		online += s->nodes[i]->online;
	set1(m, "corral_nodes", "online", online);
	set1(m, "corral_nodes", "offline", (double)(s->nnodes - online));
	metric_set(metrics_series(m, "corral_registry_revision", NULL), (double)s->revision);
}
