/* SPDX-License-Identifier: Apache-2.0
 *
 * A million random operations against a model that is small enough to be seen right. CORRAL_TEST_SEED
 * repeats a run, CORRAL_TEST_OPS changes its length.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rnd.h"
#include "log/log.h"
#include "registry/registry.h"

enum { NODES = 3, REPLICAS = 6, POOLS = 2, OFFLINE_MS = 30000 };

/* Replica i belongs to node i % NODES and pool i % POOLS. */
struct model_replica {
	bool there, proved, drain, error;
	enum replica_state state;
	uint64_t generation;
	uint32_t slots, leases;
};
struct model {
	struct {
		bool there, online;
		int pid;
		uint64_t seq;
		int64_t heard;
	} nodes[NODES];
	struct model_replica replicas[REPLICAS];
	bool marks[POOLS][MARK_COUNT];
	uint64_t double_releases;
	bool gone_error[REPLICAS]; /* of a replica that is not there now */
};
struct world {
	struct rnd rnd;
	struct registry *r;
	struct model m;
	int64_t now;
	uint64_t revision, op;
	const struct registry_snapshot *old; /* kept for a while: must not change */
	uint64_t old_revision;
	uint32_t old_sum;
};

static const char *const node_ids[NODES] = { "n0", "n1", "n2" };
static const char *const pool_ids[POOLS] = { "p0", "p1" };
static const char *const replica_ids[REPLICAS] = { "p0-0", "p1-1", "p0-2", "p1-3", "p0-4", "p1-5" };

static uint64_t pick(struct world *w, uint64_t n)
{
	return rnd_below(&w->rnd, n);
}

static mono_t now(const struct world *w)
{
	return mono_add_ms(MONO_ZERO, w->now);
}

static void random_report(struct world *w, size_t i, struct wire_replica *x)
{
	static const uint32_t wild[] = { 0, 1, 2, 3, 4, 7, 9, UINT32_MAX };
	*x = (struct wire_replica){ .replica_id = (char *)(uintptr_t)replica_ids[i],
		.pool_id = (char *)(uintptr_t)pool_ids[i % POOLS],
		.have = (unsigned)pick(w, WR_ALL + 1) & ~(unsigned)WR_PROCESS };
	x->state = pick(w, 2) ? REPLICA_READY : (enum replica_state)pick(w, REPLICA_STATE_COUNT);
	x->generation = w->m.replicas[i].generation + pick(w, 8) / 7;
	if (!pick(w, 16))
		x->generation -= MIN(x->generation, (uint64_t)1);
	x->slots_total = (uint32_t)pick(w, 5);
	x->slots_free = wild[pick(w, ARRAY_LEN(wild))];
	x->leases = wild[pick(w, ARRAY_LEN(wild))];
	if (pick(w, 4) == 0)
		x->last_error =
			(struct wire_error){ .cause = CAUSE_EXIT, .message = (char *)(uintptr_t) "it broke" };
}

/* The same report, put into the model. */
static void model_report(struct model *m, size_t i, const struct wire_replica *x, bool proven)
{
	struct model_replica *e = &m->replicas[i];
	if (!e->there) {
		*e = (struct model_replica){ .there = true, .error = m->gone_error[i] };
		m->gone_error[i] = false;
	}
	if (x->have & WR_GENERATION) {
		if (x->generation < e->generation)
			return;
		if (x->generation > e->generation)
			*e = (struct model_replica){ .there = true,
				.error = e->error,
				.generation = x->generation,
				.state = REPLICA_STARTING };
	}
	bool was_ready = e->proved && e->state == REPLICA_READY;
	if (x->have & WR_SLOTS)
		e->slots = x->slots_total;
	if (x->have & WR_LEASES)
		e->leases = x->leases;
	e->leases = MIN(e->leases, e->slots);
	if (x->have & WR_STATE) {
		e->state = x->state;
		e->proved |= x->state == REPLICA_PROVING || (x->state == REPLICA_READY && proven);
		if (e->state == REPLICA_READY && !e->proved)
			e->state = REPLICA_PROVING;
	}
	bool ready = e->proved && e->state == REPLICA_READY;
	if ((x->have & WR_ERROR) && x->last_error.message)
		e->error = true;
	else if (ready && (!was_ready || (x->have & WR_ERROR)))
		e->error = false;
}

static void model_remove(struct model *m, size_t i)
{
	if (m->replicas[i].there)
		m->gone_error[i] = m->replicas[i].error;
	m->replicas[i].there = false;
}

static void op_message(struct world *w, bool reg)
{
	size_t n = pick(w, NODES), count = 0;
	struct model *m = &w->m;
	struct wire_replica list[REPLICAS];
	bool named[REPLICAS] = { 0 };
	for (size_t i = n; i < REPLICAS; i += NODES)
		if (pick(w, 3)) {
			random_report(w, i, &list[count++]);
			named[i] = true;
		}
	struct wire_node msg = { .node_id = (char *)(uintptr_t)node_ids[n],
		.boot_id = (char *)(uintptr_t) "b",
		.pid = m->nodes[n].pid + (int)(pick(w, 10) / 9),
		.complete = pick(w, 3) == 0,
		.seq = m->nodes[n].seq + pick(w, 4),
		.replicas = list,
		.nreplicas = count };
	if (!msg.pid)
		msg.pid = 1;
	bool known = m->nodes[n].there && m->nodes[n].pid == msg.pid;
	struct registry_heard h = { 0 };
	struct err e = { 0 };
	int rc = reg ? registry_register(w->r, &msg, now(w), &h, &e)
		     : registry_heartbeat(w->r, &msg, now(w), &h, &e);
	bool dropped = h.dropped;
	registry_heard_done(&h);
	if (!reg && !known) {
		assert_int_equal(rc, -ENOENT);
		return;
	}
	assert_int_equal(rc, 0);
	bool older = known && msg.seq && (reg ? msg.seq < m->nodes[n].seq : msg.seq <= m->nodes[n].seq);
	assert_int_equal(dropped, older);
	if (older)
		return;
	m->nodes[n].there = m->nodes[n].online = true;
	m->nodes[n].pid = msg.pid;
	m->nodes[n].heard = w->now;
	m->nodes[n].seq = reg || msg.seq ? msg.seq : m->nodes[n].seq;
	for (size_t i = n, k = 0; i < REPLICAS; i += NODES) {
		if (named[i])
			model_report(m, i, &list[k++], reg);
		else if (msg.complete || (reg && !known))
			model_remove(m, i);
	}
}

static void op_deregister(struct world *w)
{
	size_t n = pick(w, NODES);
	assert_int_equal(registry_deregister(w->r, view_str(node_ids[n])), w->m.nodes[n].there);
	w->m.nodes[n].there = w->m.nodes[n].online = false;
	w->m.nodes[n].pid = 0;
	w->m.nodes[n].seq = 0;
	for (size_t i = n; i < REPLICAS; i += NODES)
		model_remove(&w->m, i);
}

static void op_tick(struct world *w)
{
	w->now += (int64_t)(pick(w, 4) ? pick(w, 100) : pick(w, OFFLINE_MS + 1));
	registry_tick(w->r, now(w));
	for (size_t n = 0; n < NODES; n++)
		if (w->now - w->m.nodes[n].heard >= OFFLINE_MS)
			w->m.nodes[n].online = false;
}

static bool model_held(const struct model *m, size_t i)
{
	for (size_t k = 0; k < MARK_COUNT; k++)
		if (m->marks[i % POOLS][k])
			return true;
	return false;
}

static bool model_ready(const struct model *m, size_t i)
{
	const struct model_replica *e = &m->replicas[i];
	return m->nodes[i % NODES].online && e->proved && e->state == REPLICA_READY;
}

static void op_acquire(struct world *w)
{
	size_t i = pick(w, REPLICAS);
	struct model_replica *e = &w->m.replicas[i];
	int want = 0;
	if (!e->there)
		want = -ENOENT;
	else if (e->drain || e->state == REPLICA_DRAINING || model_held(&w->m, i))
		want = -ESHUTDOWN;
	else if (!model_ready(&w->m, i))
		want = -EHOSTDOWN;
	else if (e->leases == e->slots)
		want = -EAGAIN;
	assert_int_equal(registry_lease_acquire(w->r, view_str(replica_ids[i])), want);
	e->leases += !want;
}

static void op_release(struct world *w)
{
	size_t i = pick(w, REPLICAS);
	struct model_replica *e = &w->m.replicas[i];
	int want = !e->there ? -ENOENT : !e->leases ? -EALREADY : 0;
	assert_int_equal(registry_lease_release(w->r, view_str(replica_ids[i])), want);
	e->leases -= !want;
	w->m.double_releases += want == -EALREADY;
}

static void op_report_leases(struct world *w)
{
	size_t i = pick(w, REPLICAS);
	struct model_replica *e = &w->m.replicas[i];
	struct registry_leases l = { replica_ids[i], e->generation + (pick(w, 4) == 0),
		(uint32_t)pick(w, 7) };
	registry_report_leases(w->r, &l, 1);
	if (e->there && l.generation == e->generation)
		e->leases = MIN(l.leases, e->slots);
}

static void op_mark(struct world *w)
{
	size_t p = pick(w, POOLS), k = pick(w, MARK_COUNT);
	bool on = pick(w, 3) == 0;
	assert_int_equal(
		registry_pool_mark(w->r, view_str(pool_ids[p]), (enum registry_mark)k, on, "ann", w->now),
		w->m.marks[p][k] != on);
	w->m.marks[p][k] = on;
}

static void op_drain(struct world *w)
{
	size_t i = pick(w, REPLICAS);
	bool on = pick(w, 3) == 0;
	assert_int_equal(registry_drain_replica(w->r, view_str(replica_ids[i]), on),
		w->m.replicas[i].there ? 0 : -ENOENT);
	w->m.replicas[i].drain = on && w->m.replicas[i].there;
}

static void check_replica(const struct world *w, size_t i, const struct registry_snapshot *s)
{
	const struct model_replica *e = &w->m.replicas[i];
	const struct registry_replica *x =
		registry_snapshot_replica(s, view_str(pool_ids[i % POOLS]), view_str(replica_ids[i]));
	assert_int_equal(x != NULL, e->there);
	if (!x)
		return;
	assert_true(x->facts.leases <= x->facts.slots_total);
	assert_true(x->facts.slots_free <= x->facts.slots_total - x->facts.leases);
	assert_int_equal(x->facts.state, e->state);
	assert_int_equal(x->facts.leases, e->leases);
	assert_int_equal(x->facts.slots_total, e->slots);
	assert_int_equal(x->facts.generation, e->generation);
	assert_int_equal(x->facts.last_error.message != NULL, e->error);
	assert_int_equal(x->ready, model_ready(&w->m, i));
	assert_false(x->ready && !x->live);
	assert_int_equal(x->accepting, x->ready && !e->drain && !model_held(&w->m, i));
	assert_string_equal(x->node_id, node_ids[i % NODES]);
}

static uint32_t sum(const struct registry_snapshot *s)
{
	uint32_t n = (uint32_t)s->revision;
	for (size_t i = 0; i < s->nreplicas; i++) {
		const struct wire_replica *f = &s->replicas[i]->facts;
		unsigned state = f->state, digit = (unsigned char)f->replica_id[3];
		n = n * 31u + f->leases + state * 7u + digit;
	}
	return n;
}

static void check(struct world *w)
{
	const struct registry_snapshot *s = registry_snapshot_ref(w->r);
	assert_true(s->revision >= w->revision);
	assert_true(s->revision <= w->revision + 1); /* one operation, one revision at most */
	w->revision = s->revision;
	for (size_t i = 1; i < s->nreplicas; i++) {
		const struct wire_replica *a = &s->replicas[i - 1]->facts, *b = &s->replicas[i]->facts;
		int c = strcmp(a->pool_id, b->pool_id);
		assert_true(c < 0 || (c == 0 && strcmp(a->replica_id, b->replica_id) < 0));
	}
	for (size_t i = 1; i < s->npools; i++)
		assert_true(strcmp(s->pools[i - 1].pool_id, s->pools[i].pool_id) < 0);
	for (size_t i = 0; i < REPLICAS; i++)
		check_replica(w, i, s);
	for (size_t n = 0; n < s->nnodes; n++)
		assert_int_equal(s->nodes[n]->online, w->m.nodes[s->nodes[n]->node_id[1] - '0'].online);
	if (w->old && !pick(w, 50)) {
		assert_int_equal(w->old->revision, w->old_revision);
		assert_int_equal(sum(w->old), w->old_sum);
		registry_snapshot_unref(w->old);
		w->old = NULL;
	}
	if (!w->old) {
		w->old = s;
		w->old_revision = s->revision;
		w->old_sum = sum(s);
	} else {
		registry_snapshot_unref(s);
	}
}

static uint64_t env_u64(const char *name, uint64_t otherwise)
{
	uint64_t n;
	const char *s = getenv(name);
	return s && !num_u64(view_str(s), &n) ? n : otherwise;
}

static void on_change(void *arg, const struct registry_snapshot *s)
{
	uint64_t *last = arg;
	assert_true(s->revision > *last);
	*last = s->revision;
}

static void test_a_million_operations(void **state)
{
	uint64_t seed = env_u64("CORRAL_TEST_SEED", rnd_os_u64() % 1000000),
		 ops = env_u64("CORRAL_TEST_OPS", 1000000);
	printf("# seed %llu, %llu operations\n", (unsigned long long)seed, (unsigned long long)ops);
	fflush(stdout);
	struct world w = { .r = registry_new(&(struct registry_opts){ .revision_min = 5 }), .revision = 6 };
	uint64_t last = 0;
	rnd_seed(&w.rnd, seed);
	registry_watch(w.r, on_change, &last);
	for (w.op = 0; w.op < ops; w.op++) {
		switch (pick(&w, 16)) {
		case 0:
		case 1: op_message(&w, true); break;
		case 2:
		case 3:
		case 4:
		case 5: op_message(&w, false); break;
		case 6:
		case 7:
		case 8: op_acquire(&w); break;
		case 9:
		case 10: op_release(&w); break;
		case 11: op_report_leases(&w); break;
		case 12: op_mark(&w); break;
		case 13: op_drain(&w); break;
		case 14: op_tick(&w); break;
		default:
			if (!pick(&w, 6))
				op_deregister(&w);
		}
		check(&w);
	}
	struct registry_status st;
	registry_status(w.r, &st);
	assert_int_equal(st.double_releases, w.m.double_releases);
	printf("# %llu revisions, %llu double releases\n", (unsigned long long)w.revision,
		(unsigned long long)st.double_releases);
	registry_snapshot_unref(w.old);
	registry_free(w.r);
}

int main(void)
{
	log_set_level((enum log_level)(LOG_ERROR + 1));
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_a_million_operations) };
	return cmocka_run_group_tests_name("registry_model", tests, NULL, NULL);
}
