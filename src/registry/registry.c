/* SPDX-License-Identifier: Apache-2.0 */
#include "registry/registry.h"

#include "base/mem.h"
#include "log/log.h"
#include "registry/registry_int.h"

enum { FLOOR_WAIT_MS = 2000 };

static const char *const mark_names[] = {
	[MARK_DRAINING] = "draining",
	[MARK_STOPPED] = "stopped",
	[MARK_DISABLED] = "disabled",
};
static_assert(ARRAY_LEN(mark_names) == MARK_COUNT, "one name per mark");

const char *registry_mark_name(enum registry_mark m)
{
	return mark_names[m];
}

/* Vectors in order of their ids */

static void *vec_insert(void *items, size_t n, size_t i)
{
	void **v = items;
	if (!(n & (n - 1))) /* doubled at each power of two */
		v = mem_realloc(v, MAX(n * 2, (size_t)1) * sizeof *v);
	memmove(v + i + 1, v + i, (n - i) * sizeof *v);
	return v;
}

static void vec_remove(void *items, size_t n, size_t i)
{
	void **v = items;
	memmove(v + i, v + i + 1, (n - i - 1) * sizeof *v);
}

static size_t node_pos(const struct registry *r, const char *id)
{
	size_t lo = 0, hi = r->nnodes;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (strcmp(r->nodes[mid]->node_id, id) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static size_t pool_pos(const struct registry *r, const char *id)
{
	size_t lo = 0, hi = r->npools;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (strcmp(r->pools[mid]->pool_id, id) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int replica_cmp(const struct wire_replica *a, const struct wire_replica *b)
{
	int c = strcmp(a->pool_id, b->pool_id);
	return c ? c : strcmp(a->replica_id, b->replica_id);
}

static size_t replica_pos(const struct registry *r, const struct wire_replica *w)
{
	size_t lo = 0, hi = r->nreplicas;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (replica_cmp(&r->replicas[mid]->facts, w) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Entries */

struct node_ent *node_find(struct registry *r, struct view id)
{
	return map_get(&r->node_of, id);
}

struct replica_ent *replica_find(struct registry *r, struct view id)
{
	return map_get(&r->replica_of, id);
}

struct pool_ent *pool_find(struct registry *r, struct view id)
{
	return map_get(&r->pool_of, id);
}

void node_changed(struct registry *r, struct node_ent *n)
{
	n->changed = r->changed = true;
}

void replica_changed(struct registry *r, struct replica_ent *e)
{
	e->changed = r->changed = true;
}

void pool_changed(struct registry *r, struct pool_ent *p)
{
	p->changed = r->changed = true;
}

void node_replicas_changed(struct registry *r, struct node_ent *n)
{
	for (size_t i = 0; i < r->nreplicas; i++)
		if (r->replicas[i]->node == n)
			replica_changed(r, r->replicas[i]);
	for (size_t i = 0; i < n->nmodels; i++) /* which node tells of a pool's model may change */
		pool_changed(r, pool_find(r, view_str(n->models[i].pool_id)));
}

struct node_ent *node_add(struct registry *r, struct view id)
{
	struct node_ent *n = NEW(struct node_ent);
	n->node_id = mem_viewdup(id);
	map_init(&n->model_of);
	map_put(&r->node_of, id, n);
	size_t i = node_pos(r, n->node_id);
	r->nodes = vec_insert(r->nodes, r->nnodes++, i);
	r->nodes[i] = n;
	r->set_changed = true;
	node_changed(r, n);
	return n;
}

void node_forget_models(struct node_ent *n)
{
	for (size_t i = 0; i < n->nmodels; i++)
		wire_model_done(&n->models[i]);
	free(n->models);
	n->models = NULL;
	n->nmodels = 0;
	map_done(&n->model_of);
	map_init(&n->model_of);
}

void devices_free(struct wire_device *d, size_t n)
{
	for (size_t i = 0; i < n; i++)
		wire_device_done(&d[i]);
	free(d);
}

struct wire_device *devices_dup(const struct wire_device *d, size_t n)
{
	struct wire_device *to = mem_alloc(MAX(n, (size_t)1) * sizeof *to);
	for (size_t i = 0; i < n; i++)
		wire_device_copy(&to[i], &d[i]);
	return to;
}

static void node_free(struct node_ent *n)
{
	devices_free(n->devices, n->ndevices);
	node_forget_models(n);
	map_done(&n->model_of);
	free(n->node_id);
	free(n->boot_id);
	free(n->version);
	free(n->address);
	node_rec_unref(n->rec);
	free(n);
}

struct pool_ent *pool_add(struct registry *r, struct view id)
{
	struct pool_ent *p = pool_find(r, id);
	if (p)
		return p;
	p = NEW(struct pool_ent);
	p->pool_id = mem_viewdup(id);
	map_put(&r->pool_of, id, p);
	size_t i = pool_pos(r, p->pool_id);
	r->pools = vec_insert(r->pools, r->npools++, i);
	r->pools[i] = p;
	r->set_changed = true;
	pool_changed(r, p);
	return p;
}

static void pool_free(struct pool_ent *p)
{
	for (size_t m = 0; m < MARK_COUNT; m++)
		free((char *)(uintptr_t)p->marks[m].by);
	override_copy(&p->override, &(struct registry_override){ 0 });
	free(p->pool_id);
	pool_rec_unref(p->rec);
	free(p);
}

void pool_remove(struct registry *r, struct pool_ent *p)
{
	set_remember_removed(r, REMOVED_POOL, p->pool_id);
	map_del(&r->pool_of, view_str(p->pool_id));
	vec_remove(r->pools, r->npools, pool_pos(r, p->pool_id));
	r->npools--;
	pool_free(p);
}

struct replica_ent *replica_add(struct registry *r, struct node_ent *n, const struct wire_replica *w)
{
	struct replica_ent *e = NEW(struct replica_ent);
	e->facts.replica_id = mem_strdup(w->replica_id);
	e->facts.pool_id = mem_strdup(w->pool_id);
	e->facts.progress_pct = -1;
	e->facts.retry_in_ms = -1;
	e->node = n;
	struct wire_error *old = map_del(&r->errors, view_str(w->replica_id));
	if (old) {
		e->facts.last_error = *old;
		e->facts.have |= WR_ERROR;
		free(old);
	}
	map_put(&r->replica_of, view_str(w->replica_id), e);
	size_t i = replica_pos(r, w);
	r->replicas = vec_insert(r->replicas, r->nreplicas++, i);
	r->replicas[i] = e;
	pool_add(r, view_str(w->pool_id));
	r->set_changed = true;
	replica_changed(r, e);
	return e;
}

static void replica_free(struct replica_ent *e)
{
	wire_replica_done(&e->facts);
	replica_rec_unref(e->rec);
	free(e);
}

void replica_remove(struct registry *r, struct replica_ent *e)
{
	struct wire_error *err = &e->facts.last_error;
	if (err->message && map_len(&r->errors) < ERRORS_MAX) {
		struct wire_error *kept = NEW(struct wire_error);
		*kept = *err;
		*err = (struct wire_error){ 0 };
		map_put(&r->errors, view_str(e->facts.replica_id), kept);
	}
	set_remember_removed(r, REMOVED_REPLICA, e->facts.replica_id);
	map_del(&r->replica_of, view_str(e->facts.replica_id));
	vec_remove(r->replicas, r->nreplicas, replica_pos(r, &e->facts));
	r->nreplicas--;
	pool_changed(r, pool_find(r, view_str(e->facts.pool_id)));
	r->set_changed = r->changed = true;
	replica_free(e);
}

void set_remember_removed(struct registry *r, enum removed_kind kind, const char *id)
{
	struct removed *x;
	if (r->nremoved < REMOVED_MAX) {
		x = &r->removed[r->nremoved++];
	} else {
		x = &r->removed[r->removed_at];
		r->removed_at = (r->removed_at + 1) % REMOVED_MAX;
		r->forgotten = x->revision;
		free(x->id);
	}
	/* What is being removed is gone with the revision that is published next. */
	*x = (struct removed){ .kind = kind, .id = mem_strdup(id), .revision = r->revision + 1 };
}

/* Life */

struct registry *registry_new(const struct registry_opts *o)
{
	struct registry *r = NEW(struct registry);
	r->offline_after_ms = o->offline_after_ms ? o->offline_after_ms : 30000;
	r->heartbeat_ms = o->heartbeat_ms ? o->heartbeat_ms : 10000;
	r->revision = o->revision_min;
	r->removed = mem_alloc(REMOVED_MAX * sizeof *r->removed);
	map_init(&r->node_of);
	map_init(&r->replica_of);
	map_init(&r->pool_of);
	map_init(&r->errors);
	pthread_mutex_init(&r->lock, NULL);
	if (o->db_path)
		r->store = store_open(o->db_path, persist_load, r);
	/* Removals before this run are not known: who saw an older revision gets everything. */
	r->forgotten = r->revision;
	persist_floor(r);
	/* On the disk before the first revision above it is told; a store that cannot write says so itself.
	 */
	if (r->store && store_flush(r->store, FLOOR_WAIT_MS))
		log_warn("store_floor", NULL,
			"The registry's revision may start over after the next restart.");
	r->set_changed = r->changed = true;
	registry_publish(r);
	return r;
}

void registry_free(struct registry *r)
{
	if (!r)
		return;
	store_close(r->store);
	for (size_t i = 0; i < r->nreplicas; i++)
		replica_free(r->replicas[i]);
	for (size_t i = 0; i < r->nnodes; i++)
		node_free(r->nodes[i]);
	for (size_t i = 0; i < r->npools; i++)
		pool_free(r->pools[i]);
	for (size_t i = 0; i < r->nremoved; i++)
		free(r->removed[i].id);
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&r->errors, &i));)
		error_free(e->value);
	map_done(&r->errors);
	map_done(&r->replica_of);
	map_done(&r->node_of);
	map_done(&r->pool_of);
	free(r->replicas);
	free(r->nodes);
	free(r->pools);
	free(r->removed);
	free(r->watchers);
	registry_snapshot_unref(&r->current->pub);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

bool registry_deregister(struct registry *r, struct view node_id)
{
	struct node_ent *n = node_find(r, node_id);
	if (!n)
		return false;
	for (size_t i = r->nreplicas; i-- > 0;)
		if (r->replicas[i]->node == n)
			replica_remove(r, r->replicas[i]);
	for (size_t i = 0; i < n->nmodels; i++)
		pool_changed(r, pool_find(r, view_str(n->models[i].pool_id)));
	persist_node_gone(r, n->node_id);
	set_remember_removed(r, REMOVED_NODE, n->node_id);
	map_del(&r->node_of, node_id);
	vec_remove(r->nodes, r->nnodes, node_pos(r, n->node_id));
	r->nnodes--;
	r->set_changed = r->changed = true;
	log_info("deregister", n->node_id, "The node leaves the registry.");
	node_free(n);
	registry_publish(r);
	return true;
}

mono_t registry_tick(struct registry *r, mono_t now)
{
	mono_t next = MONO_NEVER;
	for (size_t i = 0; i < r->nnodes; i++) {
		struct node_ent *n = r->nodes[i];
		if (!n->online)
			continue;
		mono_t end = mono_add_ms(n->heard, r->offline_after_ms);
		if (mono_before(now, end)) {
			next = mono_before(end, next) ? end : next;
			continue;
		}
		n->online = false;
		node_changed(r, n);
		node_replicas_changed(r, n);
		log_warn("node_offline", n->node_id,
			"Nothing was heard of the node for %lld ms; its replicas get no "
			"requests until it is heard of again.",
			(long long)mono_ms_between(n->heard, now));
	}
	registry_publish(r);
	return next;
}

/* Leases */

void leases_set(struct replica_ent *e, uint32_t leases)
{
	struct wire_replica *f = &e->facts;
	f->leases = MIN(leases, f->slots_total);
	f->slots_free = f->slots_total - f->leases;
	f->have |= WR_LEASES | WR_SLOTS_FREE;
}

bool pool_held(const struct registry *r, const char *pool_id)
{
	const struct pool_ent *p = map_get(&r->pool_of, view_str(pool_id));
	for (size_t m = 0; p && m < MARK_COUNT; m++)
		if (p->marks[m].by)
			return true;
	return false;
}

int registry_lease_acquire(struct registry *r, struct view replica_id)
{
	struct replica_ent *e = replica_find(r, replica_id);
	if (!e)
		return -ENOENT;
	if (e->drain || e->facts.state == REPLICA_DRAINING || pool_held(r, e->facts.pool_id))
		return -ESHUTDOWN;
	if (!replica_is_ready(e))
		return -EHOSTDOWN;
	if (e->facts.leases >= e->facts.slots_total)
		return -EAGAIN;
	leases_set(e, e->facts.leases + 1);
	replica_changed(r, e);
	registry_publish(r);
	return 0;
}

int registry_lease_release(struct registry *r, struct view replica_id)
{
	struct replica_ent *e = replica_find(r, replica_id);
	if (!e)
		return -ENOENT;
	if (!e->facts.leases) {
		atomic_fetch_add(&r->status_double_releases, 1);
		log_warn("double_release", e->facts.replica_id,
			"A lease of the replica is released that was not taken; "
			"nothing is changed.");
		return -EALREADY;
	}
	leases_set(e, e->facts.leases - 1);
	replica_changed(r, e);
	registry_publish(r);
	return 0;
}

void registry_report_leases(struct registry *r, const struct registry_leases *l, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct replica_ent *e = replica_find(r, view_str(l[i].replica_id));
		if (!e || e->facts.generation != l[i].generation)
			continue;
		leases_set(e, l[i].leases);
		replica_changed(r, e);
	}
	registry_publish(r);
}

/* Marks */

bool registry_pool_mark(
	struct registry *r, struct view pool_id, enum registry_mark m, bool on, const char *by, int64_t at_ms)
{
	struct pool_ent *p = pool_find(r, pool_id);
	if ((p && p->marks[m].by) == on || (!p && !on))
		return false;
	p = p ? p : pool_add(r, pool_id);
	free((char *)(uintptr_t)p->marks[m].by);
	p->marks[m].by = on ? mem_strdup(by ? by : "unknown") : NULL;
	p->marks[m].at_ms = on ? at_ms : 0;
	pool_changed(r, p);
	for (size_t i = 0; i < r->nreplicas; i++)
		if (strcmp(r->replicas[i]->facts.pool_id, p->pool_id) == 0)
			replica_changed(r, r->replicas[i]);
	persist_pool(r, p);
	registry_publish(r);
	return true;
}

void override_copy(struct registry_override *to, const struct registry_override *from)
{
	struct registry_override was = *to;
	*to = (struct registry_override){ mem_strdup(from->model), mem_strdup(from->configured),
		mem_strdup(from->by), from->at_ms };
	free((char *)(uintptr_t)was.model);
	free((char *)(uintptr_t)was.configured);
	free((char *)(uintptr_t)was.by);
}

bool registry_pool_override(struct registry *r, struct view pool_id, const struct registry_override *o)
{
	static const struct registry_override none = { 0 };
	struct pool_ent *p = pool_find(r, pool_id);
	o = o && o->model ? o : &none;
	const struct registry_override *is = p ? &p->override : &none;
	if (str_same(is->model, o->model) && str_same(is->configured, o->configured))
		return false;
	p = p ? p : pool_add(r, pool_id);
	override_copy(&p->override, o);
	pool_changed(r, p);
	persist_pool(r, p);
	registry_publish(r);
	return true;
}

int registry_drain_replica(struct registry *r, struct view replica_id, bool on)
{
	struct replica_ent *e = replica_find(r, replica_id);
	if (!e)
		return -ENOENT;
	e->drain = on;
	replica_changed(r, e);
	registry_publish(r);
	return 0;
}

/* Watches, store */

void registry_watch(struct registry *r, registry_watch_fn *fn, void *arg)
{
	r->watchers = mem_realloc(r->watchers, (r->nwatchers + 1) * sizeof *r->watchers);
	r->watchers[r->nwatchers++] = (struct watcher){ fn, arg };
}

void registry_unwatch(struct registry *r, registry_watch_fn *fn, void *arg)
{
	size_t n = 0;
	for (size_t i = 0; i < r->nwatchers; i++)
		if (r->watchers[i].fn != fn || r->watchers[i].arg != arg)
			r->watchers[n++] = r->watchers[i];
	r->nwatchers = n;
}

void registry_status(struct registry *r, struct registry_status *ret)
{
	*ret = (struct registry_status){ .persistent = r->store,
		.memory_only = true,
		.double_releases = atomic_load(&r->status_double_releases) };
	if (!r->store)
		return;
	struct store_status s;
	store_status(r->store, &s);
	ret->memory_only = s.failing;
	ret->waiting = s.waiting;
	ret->written = s.written;
	memcpy(ret->problem, s.problem, sizeof ret->problem);
}

int registry_flush(struct registry *r, int64_t timeout_ms)
{
	return r->store ? store_flush(r->store, timeout_ms) : -EIO;
}

void registry_when_written(struct registry *r, registry_written_fn *fn, void *arg)
{
	if (r->store)
		store_when_written(r->store, fn, arg);
	else
		fn(arg, -EIO);
}
