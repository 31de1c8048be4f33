/* SPDX-License-Identifier: Apache-2.0
 *
 * Replicas and the leases on them.
 */
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/mem.h"
#include "pool/pool_int.h"

/* A key of its node's making: hexadecimal digits and nothing else, so that no other file's text is ever sent
 * to an engine. NULL: none. */
static char *key_read(const char *path)
{
	AUTO(buf_done) struct buf b = BUF(POOL_KEY_MAX + 2);
	if (file_read_regular(path, &b) < 0)
		return NULL;
	struct view v = view_trim(buf_view(&b));
	for (size_t i = 0; i < v.n; i++)
		if (!((v.p[i] >= '0' && v.p[i] <= '9') || (v.p[i] >= 'a' && v.p[i] <= 'f')))
			return NULL;
	return v.n ? mem_viewdup(v) : NULL;
}

struct pool_replica *pool_replica_ref(struct pool_replica *r)
{
	atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
	return r;
}

void pool_replica_unref(struct pool_replica *r)
{
	if (!r || atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
		return;
	pool_unref(r->pool);
	free(r->address);
	free(r->engine);
	free(r->engine_version);
	free(r->device);
	free(r->remote_model);
	free(r->key);
	free(r->leases);
	free(r->said);
	free(r);
}

static struct pool_replica *find(struct pool *p, const char *id)
{
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	if (strcmp(r->id, id) == 0)
		return r;
	return NULL;
}

static void insert_sorted(struct pool *p, struct pool_replica *r)
{
	struct list *at = &p->replicas;
	LIST_FOREACH(o, &p->replicas, struct pool_replica, node)
	{
		if (strcmp(o->id, r->id) > 0) {
			at = &o->node;
			break;
		}
	}
	list_append(at, &r->node); /* appending to a node puts it before that node */
}

static struct pool_replica *replica_new(struct pool *p, const struct pool_replica_facts *f)
{
	struct pool_replica *r = NEW(struct pool_replica);
	r->pool = pool_ref(p);
	atomic_init(&r->refs, 1);
	atomic_init(&r->gone, false);
	atomic_init(&r->fate, POOL_FATE_UNKNOWN);
	atomic_init(&r->token_at, 0);
	atomic_init(&r->moved_at, 0);
	atomic_init(&r->tools_at, 0);
	atomic_init(&r->tools_owner, 0);
	atomic_init(&r->prefill_ns, 0);
	atomic_init(&r->token_ns, 0);
	atomic_init(&r->last_tokens, 0);
	atomic_init(&r->cost_ns, 0);
	atomic_init(&r->measured_at, 0);
	strncpy(r->id, f->id, sizeof r->id - 1);
	r->generation = f->generation;
	r->address = mem_strdup(f->address);
	r->engine = mem_strdup(f->engine);
	r->engine_version = mem_strdup(f->engine_version);
	r->device = mem_strdup(f->device);
	r->remote_model = mem_strdup(f->remote_model);
	r->key = f->key_file ? key_read(f->key_file) : NULL;
	r->conn_idle_ms = f->conn_idle_ms;
	r->conn_requests = f->conn_requests;
	r->added_at = mono_now();
	r->has_slots = f->has_slots;
	r->pid = f->pid;
	list_init(&r->node);
	return r;
}

/* There are at least so many; the first of the new ones is the first to be taken. */
static void add_places(struct pool_replica *r, uint32_t n)
{
	uint32_t had = r->nplaces;
	if (n <= had)
		return;
	r->leases = mem_realloc(r->leases, n * sizeof *r->leases);
	for (uint32_t i = n; i-- > had; r->free_place = i + 1)
		r->leases[i] = (struct lease_facts){ .next_free = r->free_place };
	r->nplaces = n;
}

/* Slots may grow at once; they shrink for new leases only, those held go on. */
static void set_slots(struct pool_replica *r, const struct pool_replica_facts *f)
{
	uint32_t want = MAX(MIN(f->slots_total, (uint32_t)POOL_SLOTS_MAX), 1u);
	uint32_t room = MAX(want, r->in_use + r->cooling);
	add_places(r, room);
	r->slots_total = room;
	r->cap = f->proving ? 1 : want;
	r->draining = f->draining;
	atomic_store_explicit(&r->proving, f->proving, memory_order_release);
}

/* What is not ours of what it said it has, reckoned once for each time it was asked: our leases go on
 * changing. */
static void set_load(struct pool_replica *r, const struct pool_replica_facts *f)
{
	if (r->load_seq == f->load_seq)
		return;
	uint32_t ours = r->in_use + r->cooling;
	r->load_seq = f->load_seq;
	r->others = f->load_seq && f->load > ours ? f->load - ours : 0;
}

static void set_fate(struct pool_replica *r, enum pool_fate fate)
{
	int unknown = POOL_FATE_UNKNOWN;
	atomic_compare_exchange_strong(&r->fate, &unknown, (int)fate);
}

static void take_out(struct pool_replica *r, enum pool_fate fate)
{
	list_remove(&r->node);
	atomic_store_explicit(&r->gone, true, memory_order_release);
	set_fate(r, fate == POOL_FATE_UNKNOWN ? POOL_FATE_ENDED : fate);
}

struct pool_replica *pool_put_replica(struct pool *p, const struct pool_replica_facts *f)
{
	struct pool_replica *old = NULL;
	pthread_mutex_lock(&p->lock);
	struct pool_replica *r = find(p, f->id);
	if (r && (r->generation != f->generation || strcmp(r->address, f->address) != 0)) {
		take_out(r, POOL_FATE_ENDED);
		old = r;
		r = NULL;
	}
	if (!r) {
		r = replica_new(p, f);
		insert_sorted(p, r);
	}
	set_slots(r, f);
	set_load(r, f);
	pool_grant_waiting(p, mono_now());
	pool_unlock(p);
	return old;
}

struct pool_replica *pool_take_replica(struct pool *p, const char *id, enum pool_fate fate)
{
	pthread_mutex_lock(&p->lock);
	struct pool_replica *r = find(p, id);
	if (r) {
		take_out(r, fate);
		pool_grant_waiting(p, mono_now()); /* who waited for the verdict may go elsewhere */
	}
	pool_unlock(p);
	return r; /* the list's reference */
}

void pool_replica_fate(struct pool_replica *r, enum pool_fate fate)
{
	struct pool *p = r->pool;
	pthread_mutex_lock(&p->lock);
	set_fate(r, fate);
	pool_grant_waiting(p, mono_now());
	pool_unlock(p);
}

/* Lets the lock go, and tells control where there is something to look at. */
static void unlock_and_tell(struct pool *p, bool news)
{
	pool_unlock(p);
	if (news)
		pool_demand(p);
}

static void down(struct pool_replica *r, bool loads)
{
	struct pool *p = r->pool;
	pthread_mutex_lock(&p->lock);
	bool news = !r->down;
	r->loads = loads && (news || r->loads);
	r->down = true;
	r->downs += news;
	if (news)
		pool_grant_waiting(p, mono_now()); /* who avoided it for another's sake need not any more */
	unlock_and_tell(p, news);
}

void pool_replica_down(struct pool_replica *r)
{
	down(r, false);
}

void pool_replica_loading(struct pool_replica *r)
{
	down(r, true);
}

/* What answers again did not end: a fate that was given for want of an answer is taken back. */
void pool_replica_up(struct pool_replica *r, mono_t now)
{
	struct pool *p = r->pool;
	pthread_mutex_lock(&p->lock);
	bool changed = r->down && !r->loads && circuit_failed(r, 0, now);
	r->down = false;
	if (!atomic_load_explicit(&r->gone, memory_order_relaxed))
		atomic_store_explicit(&r->fate, POOL_FATE_UNKNOWN, memory_order_release);
	pool_grant_waiting(p, now);
	unlock_and_tell(p, changed);
}

bool pool_has_other(struct pool_replica *than)
{
	bool found = false;
	pthread_mutex_lock(&than->pool->lock);
	LIST_FOREACH(r, &than->pool->replicas, struct pool_replica, node)
	found |= r != than && replica_serves(r);
	pthread_mutex_unlock(&than->pool->lock);
	return found;
}

bool pool_replica_is_down(struct pool_replica *r)
{
	pthread_mutex_lock(&r->pool->lock);
	bool down = r->down;
	pthread_mutex_unlock(&r->pool->lock);
	return down;
}

uint32_t pool_replica_slots(struct pool_replica *r)
{
	pthread_mutex_lock(&r->pool->lock);
	uint32_t n = r->slots_total;
	pthread_mutex_unlock(&r->pool->lock);
	return n;
}

void pool_each_replica(struct pool *p, pool_replica_fn *fn, void *arg)
{
	pthread_mutex_lock(&p->lock);
	LIST_FOREACH(r, &p->replicas, struct pool_replica, node)
	fn(arg, r);
	pthread_mutex_unlock(&p->lock);
}

/* NULL: it was released before. Under the lock. */
static struct lease_facts *facts_of(const struct lease *l)
{
	struct pool_replica *r = l->replica;
	return l->id && l->place < r->nplaces && r->leases[l->place].id == l->id ? &r->leases[l->place]
										 : NULL;
}

/* Takes the lease off its replica; false: it was released before. Under the lock. */
static bool end_lease(const struct lease *l)
{
	struct pool_replica *r = l->replica;
	struct lease_facts *f = facts_of(l);
	if (!f)
		return false;
	*f = (struct lease_facts){ .next_free = r->free_place };
	r->free_place = l->place + 1;
	r->in_use--;
	r->alone = r->alone == l->id ? 0 : r->alone;
	r->trial = r->trial == l->id ? 0 : r->trial;
	return true;
}

/* What control waits for: a draining replica is empty, or nobody proves a proving one any more. */
static bool last_lease_ended(const struct pool_replica *r)
{
	return r->in_use + r->cooling == 0 &&
	       (r->draining || atomic_load_explicit(&r->proving, memory_order_relaxed));
}

static int finish(struct lease *l, bool cool)
{
	struct pool_replica *r = l->replica;
	if (!r)
		return -EALREADY;
	struct pool *p = r->pool;
	pthread_mutex_lock(&p->lock);
	bool was = end_lease(l);
	if (was) {
		p->stats.last_used = r->used_at = mono_now();
		r->cooling += cool;
		pool_grant_waiting(p, p->stats.last_used);
	} else {
		p->stats.double_releases++;
	}
	bool drained = last_lease_ended(r);
	pool_unlock(p);
	*l = (struct lease){ 0 };
	if (was && (cool || drained))
		pool_demand(p); /* control looks after what cools, and waits for what drains */
	pool_replica_unref(r);
	return was ? 0 : -EALREADY;
}

bool pool_replica_reads_prompt(struct pool_replica *r, mono_t silent_since, int64_t grace_ms)
{
	bool reads = false;
	mono_t until = mono_add_ms(silent_since, grace_ms);
	pthread_mutex_lock(&r->pool->lock);
	for (uint32_t i = 0; i < r->nplaces; i++)
		reads |= r->leases[i].id && !r->leases[i].spoke && mono_before(r->leases[i].since, until);
	reads |= r->cooling > 0;
	pthread_mutex_unlock(&r->pool->lock);
	return reads;
}

/* What is known of a lease that is held, under the lock, which is taken; else nothing, and it is not. */
static struct lease_facts *lock_facts(const struct lease *l)
{
	struct pool *p = l->replica ? l->replica->pool : NULL;
	if (!p)
		return NULL;
	pthread_mutex_lock(&p->lock);
	struct lease_facts *f = facts_of(l);
	if (!f)
		pthread_mutex_unlock(&p->lock);
	return f;
}

void lease_spoke(const struct lease *l, bool token)
{
	struct pool_replica *r = l->replica;
	struct lease_facts *f = lock_facts(l);
	if (!f)
		return;
	bool changed = !f->failed && circuit_spoke(r, l->id), was_alone = r->alone == l->id;
	f->spoke = token;
	r->downs = 0;
	r->alone = was_alone ? 0 : r->alone;
	if (was_alone || changed)
		pool_grant_waiting(r->pool, mono_now());
	unlock_and_tell(r->pool, changed);
}

void lease_failed(const struct lease *l, mono_t now)
{
	struct pool_replica *r = l->replica;
	struct lease_facts *f = lock_facts(l);
	if (!f)
		return;
	bool changed = !f->failed && circuit_failed(r, l->id, now);
	f->failed = true;
	if (changed)
		pool_grant_waiting(r->pool, now); /* who avoided another for its sake need not any more */
	unlock_and_tell(r->pool, changed);
}

int lease_release(struct lease *l)
{
	return finish(l, false);
}

int lease_cool(struct lease *l)
{
	return finish(l, true);
}

void pool_cooled(struct pool_replica *r, uint32_t n)
{
	struct pool *p = r->pool;
	pthread_mutex_lock(&p->lock);
	r->cooling -= MIN(n, r->cooling);
	bool drained = last_lease_ended(r);
	pool_grant_waiting(p, mono_now());
	unlock_and_tell(p, drained);
}
