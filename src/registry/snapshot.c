/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mem.h"
#include "registry/registry_int.h"

static void str_free(const char *s)
{
	free((char *)(uintptr_t)s);
}

void node_rec_unref(struct node_rec *x)
{
	if (!x || atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
		return;
	str_free(x->pub.node_id);
	str_free(x->pub.boot_id);
	str_free(x->pub.version);
	str_free(x->pub.address);
	devices_free((struct wire_device *)(uintptr_t)x->pub.devices, x->pub.ndevices);
	free(x->json);
	free(x);
}

void replica_rec_unref(struct replica_rec *x)
{
	if (!x || atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
		return;
	wire_replica_done(&x->pub.facts);
	str_free(x->pub.node_id);
	free(x->json);
	free(x);
}

void pool_rec_unref(struct pool_rec *x)
{
	if (!x || atomic_fetch_sub_explicit(&x->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t m = 0; m < MARK_COUNT; m++)
		str_free(x->marks[m].by);
	override_copy(&x->override, &(struct registry_override){ 0 });
	wire_model_done(&x->model);
	free(x->pool_id);
	free(x->json);
	free(x);
}

/* New records. Each takes the old one's place when its JSON is another; true then. */

static bool is_same(const char *old, const struct buf *b)
{
	return old && view_eqs(buf_view(b), old);
}

static void add_str(struct buf *b, const char *key, const char *s)
{
	if (!s)
		return;
	buf_addf(b, ",\"%s\":", key);
	buf_add_json(b, view_str(s));
}

static const char *word(bool on)
{
	return on ? "true" : "false";
}

static void add_devices(const struct node_ent *n, struct buf *b)
{
	for (size_t i = 0; i < n->ndevices; i++) {
		buf_adds(b, i ? "," : ",\"devices\":[");
		wire_device_encode(&n->devices[i], b);
	}
	if (n->ndevices)
		buf_addc(b, ']');
}

static bool node_renew(struct node_ent *n, uint64_t revision)
{
	AUTO(buf_done) struct buf b = BUF(RECORD_MAX);
	buf_adds(&b, "{\"node_id\":");
	buf_add_json(&b, view_str(n->node_id));
	add_str(&b, "boot_id", n->boot_id);
	add_str(&b, "version", n->version);
	add_str(&b, "address", n->address);
	add_devices(n, &b);
	int r = buf_addf(&b, ",\"pid\":%d,\"online\":%s,\"registered\":%s}", n->pid, word(n->online),
		word(n->registered));
	assert(!r);
	(void)r;
	if (n->rec && is_same(n->rec->json, &b))
		return false;
	struct node_rec *x = NEW(struct node_rec);
	x->pub = (struct registry_node){ .node_id = mem_strdup(n->node_id),
		.boot_id = mem_strdup(n->boot_id),
		.version = mem_strdup(n->version),
		.address = mem_strdup(n->address),
		.pid = n->pid,
		.devices = devices_dup(n->devices, n->ndevices),
		.ndevices = n->ndevices,
		.online = n->online,
		.registered = n->registered,
		.revision = revision };
	x->json = buf_take(&b);
	atomic_init(&x->refs, 1);
	node_rec_unref(n->rec);
	n->rec = x;
	return true;
}

bool replica_is_ready(const struct replica_ent *e)
{
	return e->node->online && e->proved && e->facts.state == REPLICA_READY;
}

static bool replica_renew(const struct registry *r, struct replica_ent *e, uint64_t revision)
{
	enum replica_state s = e->facts.state;
	struct registry_replica pub = { .online = e->node->online,
		.ready = replica_is_ready(e),
		.draining = e->drain || s == REPLICA_DRAINING,
		.revision = revision };
	pub.live = pub.online && e->proved &&
		   (s == REPLICA_PROVING || s == REPLICA_READY || s == REPLICA_DRAINING);
	pub.accepting = pub.ready && !pub.draining && !pool_held(r, e->facts.pool_id);

	AUTO(buf_done) struct buf b = BUF(RECORD_MAX);
	int rc = wire_replica_encode(&e->facts, &b);
	assert(!rc && b.len);
	b.len--; /* opens the object again */
	add_str(&b, "node_id", e->node->node_id);
	rc = buf_addf(&b, ",\"online\":%s,\"live\":%s,\"ready\":%s,\"draining\":%s,\"accepting\":%s}",
		word(pub.online), word(pub.live), word(pub.ready), word(pub.draining), word(pub.accepting));
	assert(!rc);
	if (e->rec && is_same(e->rec->json, &b))
		return false;
	struct replica_rec *x = NEW(struct replica_rec);
	x->pub = pub;
	x->pub.node_id = mem_strdup(e->node->node_id);
	wire_replica_copy(&x->pub.facts, &e->facts);
	x->json = buf_take(&b);
	atomic_init(&x->refs, 1);
	replica_rec_unref(e->rec);
	e->rec = x;
	return true;
}

/* The first online node that tells of it in order of node ids, else the first at all. */
static const struct wire_model *pool_model(const struct registry *r, const char *pool_id)
{
	const struct wire_model *any = NULL;
	for (size_t i = 0; i < r->nnodes; i++) {
		const struct wire_model *m = map_gets(&r->nodes[i]->model_of, pool_id);
		if (m && r->nodes[i]->online)
			return m;
		any = any ? any : m;
	}
	return any;
}

static bool pool_renew(const struct registry *r, struct pool_ent *p, uint64_t revision)
{
	const struct wire_model *model = pool_model(r, p->pool_id);
	AUTO(buf_done) struct buf b = BUF(RECORD_MAX);
	buf_adds(&b, "{\"pool_id\":");
	buf_add_json(&b, view_str(p->pool_id));
	for (size_t m = 0; m < MARK_COUNT; m++)
		if (p->marks[m].by) {
			buf_addf(&b, ",\"%s\":{\"by\":", registry_mark_name((enum registry_mark)m));
			buf_add_json(&b, view_str(p->marks[m].by));
			buf_addf(&b, ",\"at_ms\":%lld}", (long long)p->marks[m].at_ms);
		}
	if (p->override.model) {
		buf_adds(&b, ",\"override\":{\"model\":");
		buf_add_json(&b, view_str(p->override.model));
		add_str(&b, "configured", p->override.configured);
		add_str(&b, "by", p->override.by);
		buf_addf(&b, ",\"at_ms\":%lld}", (long long)p->override.at_ms);
	}
	buf_addf(&b, ",\"held\":%s", word(pool_held(r, p->pool_id)));
	if (model) {
		buf_adds(&b, ",\"model\":");
		wire_model_encode(model, &b);
	}
	int rc = buf_addc(&b, '}');
	assert(!rc);
	(void)rc;
	if (p->rec && is_same(p->rec->json, &b))
		return false;
	struct pool_rec *x = NEW(struct pool_rec);
	x->pool_id = mem_strdup(p->pool_id);
	for (size_t m = 0; m < MARK_COUNT; m++)
		x->marks[m] =
			(struct registry_pool_mark_info){ mem_strdup(p->marks[m].by), p->marks[m].at_ms };
	override_copy(&x->override, &p->override);
	if (model)
		wire_model_copy(&x->model, model);
	x->has_model = model;
	x->revision = revision;
	x->json = buf_take(&b);
	atomic_init(&x->refs, 1);
	pool_rec_unref(p->rec);
	p->rec = x;
	return true;
}

/* Snapshots */

static void fill_pools(const struct registry *r, struct snapshot *s)
{
	struct registry_pool *pools = mem_alloc(r->npools * sizeof *pools);
	s->pool_recs = mem_alloc(r->npools * sizeof *s->pool_recs);
	size_t at = 0;
	for (size_t i = 0; i < r->npools; i++) {
		struct pool_rec *x = r->pools[i]->rec;
		atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
		s->pool_recs[i] = x;
		struct registry_pool *p = &pools[i];
		*p = (struct registry_pool){ .pool_id = x->pool_id,
			.override = x->override,
			.model = x->has_model ? &x->model : NULL,
			.revision = x->revision };
		for (size_t m = 0; m < MARK_COUNT; m++) {
			p->marks[m] = x->marks[m];
			p->held |= x->marks[m].by != NULL;
		}
		/* Both are in order of pool ids, and each replica's pool is there. */
		p->replicas = &s->pub.replicas[at];
		while (at < r->nreplicas && strcmp(r->replicas[at]->facts.pool_id, x->pool_id) == 0)
			at++;
		p->nreplicas = (size_t)(&s->pub.replicas[at] - p->replicas);
	}
	assert(at == r->nreplicas);
	s->pub.pools = pools;
	s->pub.npools = r->npools;
}

static struct snapshot *snapshot_new(const struct registry *r)
{
	struct snapshot *s = NEW(struct snapshot);
	atomic_init(&s->refs, 1);
	const struct registry_node **nodes = mem_alloc(r->nnodes * sizeof *nodes);
	for (size_t i = 0; i < r->nnodes; i++) {
		atomic_fetch_add_explicit(&r->nodes[i]->rec->refs, 1, memory_order_relaxed);
		nodes[i] = &r->nodes[i]->rec->pub;
	}
	const struct registry_replica **replicas = mem_alloc(r->nreplicas * sizeof *replicas);
	for (size_t i = 0; i < r->nreplicas; i++) {
		atomic_fetch_add_explicit(&r->replicas[i]->rec->refs, 1, memory_order_relaxed);
		replicas[i] = &r->replicas[i]->rec->pub;
	}
	s->pub = (struct registry_snapshot){ .revision = r->revision,
		.nodes = nodes,
		.nnodes = r->nnodes,
		.replicas = replicas,
		.nreplicas = r->nreplicas };
	fill_pools(r, s);
	return s;
}

const struct registry_snapshot *registry_snapshot_ref(struct registry *r)
{
	pthread_mutex_lock(&r->lock);
	struct snapshot *s = r->current;
	atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
	pthread_mutex_unlock(&r->lock);
	return &s->pub;
}

void registry_snapshot_unref(const struct registry_snapshot *pub)
{
	if (!pub)
		return;
	struct snapshot *s = CONTAINER_OF((uintptr_t)pub, struct snapshot, pub);
	if (atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < pub->nnodes; i++)
		node_rec_unref(CONTAINER_OF((uintptr_t)pub->nodes[i], struct node_rec, pub));
	for (size_t i = 0; i < pub->nreplicas; i++)
		replica_rec_unref(CONTAINER_OF((uintptr_t)pub->replicas[i], struct replica_rec, pub));
	for (size_t i = 0; i < pub->npools; i++)
		pool_rec_unref(s->pool_recs[i]);
	free((void *)(uintptr_t)pub->nodes);
	free((void *)(uintptr_t)pub->replicas);
	free((void *)(uintptr_t)pub->pools);
	free(s->pool_recs);
	free(s);
}

void registry_snapshot_unrefp(const struct registry_snapshot **s)
{
	registry_snapshot_unref(*s);
}

const struct registry_pool *registry_snapshot_pool(const struct registry_snapshot *s, struct view pool_id)
{
	size_t lo = 0, hi = s->npools;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = view_cmp(view_str(s->pools[mid].pool_id), pool_id);
		if (c == 0)
			return &s->pools[mid];
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

const struct registry_replica *registry_snapshot_replica(
	const struct registry_snapshot *s, struct view pool_id, struct view replica_id)
{
	const struct registry_pool *p = registry_snapshot_pool(s, pool_id);
	for (size_t i = 0; p && i < p->nreplicas; i++)
		if (view_eqs(replica_id, p->replicas[i]->facts.replica_id))
			return p->replicas[i];
	return NULL;
}

/* A pool that has no replica, no mark, no override and no model is forgotten. */
static bool pool_is_empty(const struct registry *r, const struct pool_ent *p)
{
	if (pool_held(r, p->pool_id) || p->override.model || pool_model(r, p->pool_id))
		return false;
	size_t lo = 0, hi = r->nreplicas;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int c = strcmp(r->replicas[mid]->facts.pool_id, p->pool_id);
		if (c == 0)
			return false;
		if (c < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return true;
}

static bool renew_all(struct registry *r, uint64_t revision)
{
	bool any = false;
	for (size_t i = 0; i < r->nnodes; i++)
		if (r->nodes[i]->changed) {
			r->nodes[i]->changed = false;
			any |= node_renew(r->nodes[i], revision);
		}
	for (size_t i = r->npools; i-- > 0;)
		if (r->pools[i]->changed) {
			r->pools[i]->changed = false;
			if (pool_is_empty(r, r->pools[i])) {
				any |= r->pools[i]->rec != NULL;
				pool_remove(r, r->pools[i]);
			} else {
				any |= pool_renew(r, r->pools[i], revision);
			}
		}
	for (size_t i = 0; i < r->nreplicas; i++)
		if (r->replicas[i]->changed) {
			r->replicas[i]->changed = false;
			any |= replica_renew(r, r->replicas[i], revision);
		}
	return any;
}

void registry_publish(struct registry *r)
{
	if (!r->changed)
		return;
	r->changed = false;
	bool any = renew_all(r, r->revision + 1);
	if (!any && !r->set_changed)
		return;
	r->set_changed = false;
	r->revision++;
	if (r->store && r->revision + REVISION_STEP / 2 > r->floor)
		persist_floor(r);
	struct snapshot *s = snapshot_new(r);
	pthread_mutex_lock(&r->lock);
	struct snapshot *old = r->current;
	r->current = s;
	pthread_mutex_unlock(&r->lock);
	if (old)
		registry_snapshot_unref(&old->pub);
	for (size_t i = 0; i < r->nwatchers; i++)
		r->watchers[i].fn(r->watchers[i].arg, &s->pub);
}
