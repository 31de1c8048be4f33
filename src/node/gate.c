/* SPDX-License-Identifier: Apache-2.0
 *
 * How many engines load at the same time. An engine counts from its launch until it is Ready, waits for a
 * request as its canary, or has ended; the start's own timeout ends one that is stuck. The others wait in
 * PROVISIONING, those a request waits for first, else first come first served. Engines that run already,
 * servers that are not ours and the download of an engine do not count.
 */
#include "base/mem.h"
#include "node/node_int.h"

enum { DEFAULT_MAX = 2, NAMED_MAX = 4 };

static unsigned allowed(const struct node *n)
{
	return n->opts.starting_max ? n->opts.starting_max : DEFAULT_MAX;
}

static unsigned loading(struct node *n)
{
	unsigned sum = 0;
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));)
		sum += ((struct replica *)e->value)->loading;
	return sum;
}

static char *names(struct node *n)
{
	AUTO(buf_done) struct buf b = BUF(NAMED_MAX * (NODE_ID_MAX + 8));
	struct map_entry *e;
	unsigned named = 0, more = 0;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		const struct replica *r = e->value;
		if (!r->loading)
			continue;
		if (named == NAMED_MAX || buf_addf(&b, "%s%s", named ? ", " : "", r->id))
			more++;
		else
			named++;
	}
	if (more)
		(void)buf_addf(&b, " and %u more", more);
	return mem_strdup(buf_str(&b));
}

static void tell(struct node *n)
{
	AUTO(mem_freep) char *who = names(n);
	LIST_FOREACH(r, &n->gate, struct replica, gate)
	{
		replica_progress(r, "engine_wait", -1,
			"It waits for %s to have loaded; at most %u engines load at the same time", who,
			allowed(n));
	}
}

static struct replica *next_one(struct node *n)
{
	LIST_FOREACH(r, &n->gate, struct replica, gate)
	{
		if (r->want.pulled_in)
			return r;
	}
	return list_empty(&n->gate) ? NULL : LIST_ENTRY(list_first(&n->gate), struct replica, gate);
}

static void let_in(void *arg)
{
	struct node *n = arg;
	struct replica *r;
	while (loading(n) < allowed(n) && (r = next_one(n))) {
		list_remove(&r->gate);
		replica_launch(r);
		replica_kick(r);
	}
	tell(n);
}

static void look_again(struct node *n)
{
	if (!list_empty(&n->gate))
		loop_defer(n->loop, &n->gate_work, let_in, n);
}

void gate_enter(struct replica *r)
{
	struct node *n = r->node;
	list_remove(&r->gate);
	list_append(&n->gate, &r->gate);
	let_in(n);
}

void gate_leave(struct replica *r)
{
	list_remove(&r->gate);
	if (!r->loading)
		return;
	r->loading = false;
	look_again(r->node);
}

void node_set_starting_max(struct node *n, unsigned max)
{
	n->opts.starting_max = max;
	look_again(n);
}
