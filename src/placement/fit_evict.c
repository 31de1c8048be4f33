/* SPDX-License-Identifier: Apache-2.0
 *
 * Who holds what, and whose leaving costs the least. A set of victims is judged by (loss of those that are
 * not expired, how many of these, how many in all); candidates stand in one order, so that neither sums nor
 * ties depend on how replicas were listed.
 */
#include "placement/fit_int.h"

#include <math.h>
#include <string.h>

enum {
	STEPS_ONE = 4096,
	STEPS_MANY = 512,
	GREEDY_MAX = 4 * FIT_VICTIMS_MAX
}; /* of the search, with one device and with several */

void fit_hold(const struct fit_run *r, const uint32_t *owner, const uint32_t *next, struct fit_held *ret)
{
	*ret = (struct fit_held){ .least = INFINITY, .head = ret->head };
	for (uint32_t u = ret->head; u != FIT_NIL; u = next[u]) {
		const struct fit_replica *p = &r->f->replicas[owner[u]];
		if (fit_may_leave(r, owner[u])) {
			ret->evictable = fit_add(ret->evictable, r->f->uses[u].bytes);
			ret->least = MIN(ret->least, fit_loss(p));
			ret->expired |= p->expired;
		} else if (fit_never_leaves(r, owner[u])) {
			ret->staying = fit_add(ret->staying, r->f->uses[u].bytes);
		}
	}
}

/* The table's entries, but those of devices on which a protected one is. */
static void index_by_table(struct fit_run *r)
{
	const struct fit_facts *f = r->f;
	const struct fit_table *t = r->table;
	r->next = t->next;
	r->owner = t->owner;
	memset(r->own, 0, (f->ndevices / 64 + 1) * sizeof *r->own);
	for (size_t i = 0; (i = fit_bit_next(r->w->protect, i, f->nreplicas)) < f->nreplicas; i++) {
		const struct fit_replica *p = &f->replicas[i];
		for (size_t u = p->first_use; u < p->first_use + p->nuses; u++) {
			size_t d = f->uses[u].device;
			if (fit_bit(r->own, d))
				continue;
			r->own[d / 64] |= (uint64_t)1 << (d % 64);
			r->held[d].head = t->held[d].head;
			fit_hold(r, t->owner, t->next, &r->held[d]);
		}
	}
}

void fit_index(struct fit_run *r)
{
	const struct fit_facts *f = r->f;
	if (r->indexed)
		return;
	r->indexed = true;
	memset(r->seen, 0, f->nreplicas * sizeof *r->seen);
	r->stamp = 0;
	if (r->table) {
		index_by_table(r);
		return;
	}
	for (size_t d = 0; d < f->ndevices; d++)
		r->held[d] = (struct fit_held){ .least = INFINITY, .head = FIT_NIL };
	for (size_t i = 0; i < f->nreplicas; i++) {
		const struct fit_replica *p = &f->replicas[i];
		bool goes = fit_may_leave(r, i), stays = !goes && fit_never_leaves(r, i);
		double loss = fit_loss(p);
		if (!goes && !stays)
			continue;
		for (size_t u = p->first_use; u < p->first_use + p->nuses; u++) {
			struct fit_held *h = &r->held[f->uses[u].device];
			if (stays) {
				h->staying = fit_add(h->staying, f->uses[u].bytes);
				continue;
			}
			h->evictable = fit_add(h->evictable, f->uses[u].bytes);
			h->least = MIN(h->least, loss);
			r->next[u] = h->head;
			r->owner[u] = (uint32_t)i;
			h->head = (uint32_t)u;
		}
	}
}

/* ---- what the node asks for by itself ------------------------------------------------------------------ */

static bool is_on(const struct fit_run *r, size_t replica, const struct fit_node *node)
{
	const struct fit_replica *p = &r->f->replicas[replica];
	for (size_t u = p->first_use; u < p->first_use + p->nuses; u++) {
		size_t d = r->f->uses[u].device;
		if ((d >= node->from && d < node->to) || d == node->host)
			return true;
	}
	return p->nuses == 0; /* not known where */
}

/* The next of never_with on the node, from *at; FIT_NONE at the end. */
static size_t next_unwelcome(const struct fit_run *r, const struct fit_node *node, size_t *at)
{
	size_t n = r->f->nreplicas;
	for (size_t i = *at; r->unwelcome && (i = fit_bit_next(r->w->never_with, i, n)) < n; i++) {
		if (!is_on(r, i, node))
			continue;
		*at = i + 1;
		return i;
	}
	return FIT_NONE;
}

/* For all nodes of the table at once. */
static void know_company(struct fit_run *r)
{
	const struct fit_facts *f = r->f;
	const struct fit_table *t = r->table;
	uint8_t everywhere = FIT_ALONE;
	r->company_known = true;
	memset(r->company, FIT_ALONE, t->nnodes);
	for (size_t i = 0; (i = fit_bit_next(r->w->never_with, i, f->nreplicas)) < f->nreplicas; i++) {
		const struct fit_replica *p = &f->replicas[i];
		uint8_t is = fit_may_leave(r, i) ? FIT_LEAVES : FIT_STAYS;
		if (!p->nuses)
			everywhere = MAX(everywhere, is);
		for (size_t u = p->first_use; u < p->first_use + p->nuses; u++) {
			uint8_t *c = &r->company[t->node_of[f->uses[u].device]];
			*c = MAX(*c, is);
		}
	}
	for (size_t n = 0; everywhere && n < t->nnodes; n++)
		r->company[n] = MAX(r->company[n], everywhere);
}

enum fit_company fit_company(struct fit_run *r, const struct fit_node *node)
{
	enum fit_company found = FIT_ALONE;
	if (r->table) {
		if (!r->company_known)
			know_company(r);
		return (enum fit_company)r->company[node->number];
	}
	for (size_t at = 0, i; (i = next_unwelcome(r, node, &at)) != FIT_NONE;) {
		if (!fit_may_leave(r, i))
			return FIT_STAYS;
		found = FIT_LEAVES;
	}
	return found;
}

uint32_t fit_surplus(struct fit_run *r, const struct fit_node *node)
{
	uint32_t most = r->f->replicas_max, n = 1;
	if (!most)
		return 0;
	if (r->table)
		n += r->table->nodes[node->number].on + r->table->nowhere;
	for (size_t i = 0; !r->table && i < r->f->nreplicas; i++)
		n += is_on(r, i, node);
	return n > most ? n - most : 0;
}

/* ---- the search ---------------------------------------------------------------------------------------- */

struct search {
	struct fit_run *r;
	enum fit_mode mode;
	const struct fit_node *node;
	const struct fit_set *set;
	struct fit_candidate *c; /* in order */
	size_t n;
	uint32_t surplus;                       /* so many have to leave anyway */
	uint32_t forced;                        /* so many do */
	uint64_t base[FIT_DIMS];                /* freed by those */
	uint64_t rest[FIT_EXACT + 1][FIT_DIMS]; /* freed by all candidates from the i-th on */
	unsigned steps;
	uint32_t chosen, best; /* bits of candidates */
	struct fit_cost cost;  /* of best */
};

int fit_cost_cmp(const struct fit_cost *a, const struct fit_cost *b)
{
	if (a->loss != b->loss)
		return a->loss < b->loss ? -1 : 1;
	if (a->unexpired != b->unexpired)
		return a->unexpired < b->unexpired ? -1 : 1;
	return a->count < b->count ? -1 : a->count > b->count;
}

static struct fit_cost cost_with(struct fit_cost cost, const struct fit_candidate *c)
{
	return (struct fit_cost){ cost.loss + c->loss, cost.unexpired + !c->expired, cost.count + 1 };
}

/* Adds to *freed what a replica holds of the set and the host; returns the bytes. */
static uint64_t frees(const struct fit_run *r, const struct fit_node *node, const struct fit_set *set,
	size_t replica, uint64_t *freed)
{
	const struct fit_replica *p = &r->f->replicas[replica];
	uint64_t bytes = 0;
	for (size_t u = p->first_use; u < p->first_use + p->nuses; u++) {
		const struct fit_use *use = &r->f->uses[u];
		if (use->device == node->host && node->host != FIT_NONE)
			freed[FIT_SPLIT_MAX] = fit_add(freed[FIT_SPLIT_MAX], use->bytes);
		for (size_t i = 0; i < set->n; i++) {
			if (set->devices[i] != use->device)
				continue;
			freed[i] = fit_add(freed[i], use->bytes);
			bytes = fit_add(bytes, use->bytes);
		}
	}
	return bytes;
}

static void rooms(const struct fit_run *r, const struct fit_node *node, const struct fit_set *set,
	const uint64_t *freed, struct fit_room *ret)
{
	for (size_t i = 0; i < set->n; i++)
		ret->devices[i] = fit_room_of(r, set->devices[i], freed[i]);
	ret->host = fit_host_room(r, node, freed[FIT_SPLIT_MAX]);
}

void fit_rooms(const struct fit_run *r, const struct fit_node *node, const struct fit_set *set,
	const struct fit_victims *gone, struct fit_room *ret)
{
	uint64_t freed[FIT_DIMS] = { 0 };
	for (size_t i = 0; i < gone->n; i++)
		(void)frees(r, node, set, gone->replicas[i], freed);
	rooms(r, node, set, freed, ret);
}

/* Whether it would do when `count` candidates with these bytes had left. */
static bool does(const struct search *s, const uint64_t *freed, size_t count)
{
	struct fit_room room;
	if (s->forced + count < s->surplus)
		return false;
	rooms(s->r, s->node, s->set, freed, &room);
	return fit_shape(s->r, s->mode, s->node, s->set, &room, NULL);
}

typedef int order_fn(const struct fit_run *r, const struct fit_candidate *a, const struct fit_candidate *b);

static int by_cost(const struct fit_run *r, const struct fit_candidate *a, const struct fit_candidate *b)
{
	if (a->expired != b->expired)
		return a->expired ? -1 : 1;
	if (a->loss != b->loss)
		return a->loss < b->loss ? -1 : 1;
	if (a->bytes != b->bytes)
		return a->bytes > b->bytes ? -1 : 1;
	const struct fit_replica *x = &r->f->replicas[a->replica], *y = &r->f->replicas[b->replica];
	int c = strcmp(x->replica_id, y->replica_id);
	return c ? c : strcmp(x->pool_id, y->pool_id);
}

static int by_worth(const struct fit_run *r, const struct fit_candidate *a, const struct fit_candidate *b)
{
	double x = a->loss * (double)b->bytes, y = b->loss * (double)a->bytes;
	return x < y ? -1 : x > y ? 1 : by_cost(r, a, b);
}

static void sift(const struct fit_run *r, order_fn *order, struct fit_candidate *v, size_t i, size_t n)
{
	for (size_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && order(r, &v[child], &v[child + 1]) < 0)
			child++;
		if (order(r, &v[i], &v[child]) >= 0)
			return;
		struct fit_candidate t = v[i];
		v[i] = v[child];
		v[child] = t;
	}
}

static void sort(const struct fit_run *r, order_fn *order, struct fit_candidate *v, size_t n)
{
	for (size_t i = n / 2; i-- > 0;)
		sift(r, order, v, i, n);
	for (size_t end = n; end-- > 1;) {
		struct fit_candidate t = v[0];
		v[0] = v[end];
		v[end] = t;
		sift(r, order, v, 0, end);
	}
}

static void collect_from(struct search *s, size_t device)
{
	struct fit_run *r = s->r;
	uint64_t freed[FIT_DIMS] = { 0 };
	if (device == FIT_NONE)
		return;
	for (uint32_t u = fit_held(r, device)->head; u != FIT_NIL; u = r->next[u]) {
		uint32_t i = r->owner[u];
		if (r->seen[i] == r->stamp || (r->table && !fit_may_leave(r, i)))
			continue;
		r->seen[i] = r->stamp;
		s->c[s->n++] = (struct fit_candidate){ i, r->f->replicas[i].expired,
			fit_loss(&r->f->replicas[i]), frees(r, s->node, s->set, i, freed) };
	}
}

/* Those that have to leave whatever the bytes; false: one of them does not. */
static bool take_forced(struct search *s, struct fit_victims *ret)
{
	struct fit_run *r = s->r;
	r->stamp++;
	*ret = (struct fit_victims){ .n = 0 };
	for (size_t at = 0, i; (i = next_unwelcome(r, s->node, &at)) != FIT_NONE;) {
		if (!fit_may_leave(r, i) || s->n == FIT_VICTIMS_MAX)
			return false;
		r->seen[i] = r->stamp;
		s->c[s->n++] = (struct fit_candidate){ (uint32_t)i, r->f->replicas[i].expired,
			fit_loss(&r->f->replicas[i]), frees(r, s->node, s->set, i, s->base) };
	}
	sort(r, by_cost, s->c, s->n);
	for (size_t i = 0; i < s->n; i++) {
		ret->replicas[ret->n++] = s->c[i].replica;
		ret->cost = cost_with(ret->cost, &s->c[i]);
	}
	s->forced = (uint32_t)s->n;
	s->n = 0;
	return true;
}

static void collect(struct search *s)
{
	for (size_t i = 0; i < s->set->n; i++)
		collect_from(s, s->set->devices[i]);
	if (s->forced < s->surplus)
		for (size_t d = s->node->from; d < s->node->to; d++)
			collect_from(s, d);
	bool host = s->mode != FIT_MODE_WHOLE && s->mode != FIT_MODE_SHARE;
	if (host || s->forced < s->surplus ||
		fit_host_least(s->r, s->mode) > fit_host_room(s->r, s->node, s->base[FIT_SPLIT_MAX]))
		collect_from(s, s->node->host);
	for (size_t i = 0; i < s->set->n; i++)
		if (s->r->f->devices[s->set->devices[i]].integrated)
			collect_from(s, s->node->host);
	sort(s->r, by_cost, s->c, s->n);
}

static void look(struct search *s, size_t i, struct fit_cost cost, const uint64_t *freed, bool changed)
{
	if (s->steps == 0)
		return;
	s->steps--;
	if (changed && does(s, freed, cost.count)) {
		if (fit_cost_cmp(&cost, &s->cost) < 0) {
			s->cost = cost;
			s->best = s->chosen;
		}
		return;
	}
	if (i == s->n)
		return;
	struct fit_cost with = cost_with(cost, &s->c[i]); /* none that is left costs less */
	if (fit_cost_cmp(&with, &s->cost) >= 0)
		return;
	uint64_t more[FIT_DIMS];
	for (size_t d = 0; d < FIT_DIMS; d++)
		more[d] = d < s->set->n || d == FIT_SPLIT_MAX ? fit_add(freed[d], s->rest[i][d]) : 0;
	if (!does(s, more, cost.count + s->n - i))
		return;
	memcpy(more, freed, sizeof more);
	(void)frees(s->r, s->node, s->set, s->c[i].replica, more);
	s->chosen |= (uint32_t)1 << i;
	look(s, i + 1, with, more, true);
	s->chosen &= ~((uint32_t)1 << i);
	look(s, i + 1, cost, freed, false);
}

/* Moves those that have to leave to the front of s->c, by adding until it does and dropping what was too much
 * from the end; all `most` of them do. Returns how many: with more than can leave, nothing is dropped. */
static size_t greedy(struct search *s, size_t most, struct fit_cost *ret_cost)
{
	uint64_t freed[FIT_DIMS], other[FIT_DIMS];
	size_t n = 0;
	memcpy(freed, s->base, sizeof freed);
	while (n < most && !does(s, freed, n))
		(void)frees(s->r, s->node, s->set, s->c[n++].replica, freed);
	for (size_t i = n <= GREEDY_MAX ? n : 0; i-- > 0;) {
		memcpy(other, s->base, sizeof other);
		for (size_t k = 0; k < n; k++)
			if (k != i)
				(void)frees(s->r, s->node, s->set, s->c[k].replica, other);
		if (!does(s, other, n - 1))
			continue;
		struct fit_candidate spared = s->c[i];
		memmove(&s->c[i], &s->c[i + 1], (n - 1 - i) * sizeof s->c[0]);
		s->c[--n] = spared;
	}
	*ret_cost = (struct fit_cost){ 0 };
	for (size_t i = 0; i < n; i++)
		*ret_cost = cost_with(*ret_cost, &s->c[i]);
	return n;
}

static size_t exact(struct search *s)
{
	size_t n = s->n;
	memset(s->rest[n], 0, sizeof s->rest[n]);
	for (size_t i = n; i-- > 0;) {
		memcpy(s->rest[i], s->rest[i + 1], sizeof s->rest[i]);
		(void)frees(s->r, s->node, s->set, s->c[i].replica, s->rest[i]);
	}
	s->cost = (struct fit_cost){ INFINITY, UINT32_MAX, UINT32_MAX };
	s->steps = s->set->n <= 1 ? STEPS_ONE : STEPS_MANY;
	look(s, 0, (struct fit_cost){ 0 }, s->base, false);
	size_t k = 0;
	for (size_t i = 0; i < n; i++)
		if (s->best >> i & 1)
			s->c[k++] = s->c[i];
	return k ? greedy(s, k, &s->cost)
		 : greedy(s, n, &s->cost); /* spares who is too much if steps ran out */
}

/* With many: first those that cost least, or those that cost least for what they free; the cheaper. */
static size_t heuristic(struct search *s)
{
	struct fit_candidate first[FIT_VICTIMS_MAX];
	struct fit_cost cost;
	size_t n = greedy(s, s->n, &cost);
	bool few = n <= FIT_VICTIMS_MAX;
	if (few)
		memcpy(first, s->c, n * sizeof first[0]);
	sort(s->r, by_worth, s->c, s->n);
	size_t k = greedy(s, s->n, &s->cost);
	if (!few || (k <= FIT_VICTIMS_MAX && fit_cost_cmp(&s->cost, &cost) < 0))
		return k;
	memcpy(s->c, first, n * sizeof first[0]);
	return n;
}

/* Whether it would do if all candidates left. */
static bool all_do(const struct search *s)
{
	uint64_t freed[FIT_DIMS];
	memcpy(freed, s->base, sizeof freed);
	for (size_t i = 0; i < s->n; i++)
		(void)frees(s->r, s->node, s->set, s->c[i].replica, freed);
	return does(s, freed, s->n);
}

bool fit_victims(struct fit_run *r, enum fit_mode mode, const struct fit_node *node,
	const struct fit_set *set, struct fit_victims *ret)
{
	struct search s;
	s.r = r;
	s.mode = mode;
	s.node = node;
	s.set = set;
	s.c = r->candidates;
	s.n = 0;
	s.chosen = s.best = 0;
	memset(s.base, 0, sizeof s.base);
	s.surplus = fit_surplus(r, node);
	if (!take_forced(&s, ret))
		return false;
	if (does(&s, s.base, 0))
		return true;
	collect(&s);
	if (!all_do(&s))
		return false;
	size_t n = s.n <= FIT_EXACT ? exact(&s) : heuristic(&s);
	if (ret->n + n > FIT_VICTIMS_MAX)
		return false;
	sort(r, by_cost, s.c, n);
	for (size_t i = 0; i < n; i++) {
		ret->replicas[ret->n++] = s.c[i].replica;
		ret->cost = cost_with(ret->cost, &s.c[i]);
	}
	return true;
}
