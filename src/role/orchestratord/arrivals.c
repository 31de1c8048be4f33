/* SPDX-License-Identifier: Apache-2.0
 *
 * How connections reach the data loops (docs/decisions/0012): the first loop accepts all, keeps those for
 * which no other loop has fewer, and hands the others to the loop that has fewest.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "role/orchestratord/orch_int.h"

struct door {
	struct arrivals *arrivals;
	struct listener *listener;
	struct tls_server *tls; /* NULL: plain */
};

struct arrivals {
	struct orch *orch;
	struct door doors[LISTEN_MAX];
	size_t n;
};

/* On its way to another loop: no more of them than there are descriptors. */
struct arrival {
	struct loop_work work;
	struct data_loop *to;
	struct tls_server *tls;
	struct net_peer peer;
	int fd;
};

static void arrive(void *arg)
{
	struct arrival *a = arg;
	http_server_accept_tls(a->to->server, a->fd, &a->peer, a->tls);
	free(a);
}

size_t arrivals_connections(struct data_loop *d)
{
	return atomic_load_explicit(&d->connections, memory_order_relaxed);
}

void arrivals_closed(struct data_loop *d)
{
	atomic_fetch_sub_explicit(&d->connections, 1, memory_order_relaxed);
}

/* Of equals the first: a connection that stays costs no wake-up. */
static struct data_loop *loop_with_fewest(struct orch *o)
{
	struct data_loop *d = &o->loops[0];
	size_t fewest = arrivals_connections(d);
	for (unsigned i = 1; i < o->nloops && fewest; i++) {
		size_t n = arrivals_connections(&o->loops[i]);
		if (n < fewest) {
			fewest = n;
			d = &o->loops[i];
		}
	}
	return d;
}

static void on_connection(void *arg, int fd, const struct net_peer *peer)
{
	struct door *door = arg;
	struct orch *o = door->arrivals->orch;
	struct data_loop *d = loop_with_fewest(o);
	atomic_fetch_add_explicit(&d->connections, 1, memory_order_relaxed);
	if (d == &o->loops[0]) {
		http_server_accept_tls(d->server, fd, peer, door->tls);
		return;
	}
	struct arrival *a = NEW(struct arrival);
	a->to = d;
	a->tls = door->tls;
	a->peer = *peer;
	a->fd = fd;
	loop_post(d->loop, &a->work, arrive, a);
}

int arrivals_start(struct orch *o)
{
	struct arrivals *a = o->arrivals = NEW(struct arrivals);
	a->orch = o;
	for (size_t i = 0; i < o->nlisten; i++) {
		struct door *door = &a->doors[a->n];
		door->arrivals = a;
		door->tls = o->listen_tls[i] ? o->tls : NULL;
		int r = listener_start(
			o->loops[0].loop, o->listen_fds[i], on_connection, door, &door->listener);
		if (r < 0)
			return r;
		a->n++;
	}
	return 0;
}

void arrivals_stop(struct orch *o)
{
	struct arrivals *a = o->arrivals;
	for (size_t i = 0; a && i < a->n; i++)
		listener_stop(&a->doors[i].listener);
}

void arrivals_free(struct orch *o)
{
	free(o->arrivals);
	o->arrivals = NULL;
}
