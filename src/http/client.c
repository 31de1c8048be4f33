/* SPDX-License-Identifier: Apache-2.0
 *
 * Targets and their connections. A connection is idle on its target's list, or belongs to one call.
 */
#include "http/client_int.h"

#include <stdlib.h>

#include "base/mem.h"
#include "net/tls.h"

static void idle_on_readable(void *arg);

void client_conn_free(void *arg)
{
	struct client_conn *c = arg;
	gather_free(&c->head);
	free(c);
}

void client_conn_close(struct client_conn *c)
{
	if (c->closed)
		return;
	c->closed = true;
	list_remove(&c->node);
	if (c->idle && c->target)
		c->target->nidle--;
	sock_close(&c->sock);
	loop_defer_call(c->loop, client_conn_free, c);
}

/* The one that is idle longest stands last. One timer a target: a connection that is taken and parked again
 * costs no timer. */
static void sweep_idle(void *arg)
{
	struct http_target *t = arg;
	mono_t now = mono_now();
	while (!list_empty(&t->idle)) {
		struct client_conn *c = LIST_ENTRY(t->idle.prev, struct client_conn, node);
		if (mono_before(now, c->idle_until)) {
			loop_timer_start(
				t->loop, &t->sweep, mono_ms_between(now, c->idle_until) + 1, sweep_idle, t);
			return;
		}
		client_conn_close(c);
	}
}

/* Bytes or the end on an idle connection: it is of no use any more. */
static void idle_on_readable(void *arg)
{
	struct client_conn *c = arg;
	if (c->call)
		client_conn_readable(c);
	else
		client_conn_close(c);
}

static void conn_on_broken(void *arg, int error)
{
	struct client_conn *c = arg;
	if (c->call)
		client_call_broken(c->call, error);
	else
		client_conn_close(c);
}

static void conn_on_writable(void *arg)
{
	struct client_conn *c = arg;
	if (c->call && c->call->ops->on_writable)
		c->call->ops->on_writable(c->call->arg);
}

static void conn_on_connected(void *arg, int error)
{
	struct client_conn *c = arg;
	if (c->call)
		client_call_connected(c->call, error);
	else
		client_conn_close(c);
}

const struct sock_ops client_sock_ops = {
	.on_connected = conn_on_connected,
	.on_readable = idle_on_readable,
	.on_writable = conn_on_writable,
	.on_broken = conn_on_broken,
};

void client_conn_park(struct client_conn *c)
{
	struct http_target *t = c->target;
	c->call = NULL;
	if (!t || t->nidle >= t->o.idle_max || (t->o.max_requests && c->requests >= t->o.max_requests)) {
		client_conn_close(c);
		return;
	}
	c->idle = true;
	t->nidle++;
	list_remove(&c->node);
	list_prepend(&t->idle, &c->node); /* the warmest first */
	sock_want(&c->sock, true, false);
	c->idle_until = mono_add_ms(loop_now(c->loop), t->o.idle_ms);
	if (!loop_timer_active(&t->sweep))
		loop_timer_start(c->loop, &t->sweep, t->o.idle_ms, sweep_idle, t);
}

struct client_conn *client_conn_take_idle(struct http_target *t)
{
	struct list *n = list_pop(&t->idle);
	if (!n)
		return NULL;
	struct client_conn *c = LIST_ENTRY(n, struct client_conn, node);
	c->idle = false;
	t->nidle--;
	list_append(&t->busy, &c->node);
	return c;
}

struct client_conn *client_conn_new(struct http_target *t)
{
	struct client_conn *c = NEW(struct client_conn);
	c->target = t;
	c->loop = t->loop;
	c->sock.fd = -1;
	list_init(&c->node);
	gather_init(&c->head);
	return c;
}

int client_conn_open(struct http_target *t, const struct net_addr *a, struct client_conn **ret)
{
	struct client_conn *c = client_conn_new(t);
	int r = sock_connect(&c->sock, t->loop, a, &client_sock_ops, c);
	if (r < 0) {
		client_conn_free(c);
		return r;
	}
	if (t->tls)
		sock_layer(&c->sock, tls_client_layer(t->tls, t->addr.host));
	if (t->freed)
		c->target = NULL;
	else
		list_append(&t->busy, &c->node);
	*ret = c;
	return 0;
}

struct http_target *http_target_new(
	struct loop *l, const char *address, const struct http_target_opts *o, struct err *reterr)
{
	struct net_addr a;
	if (net_addr_parse(view_str(address), &a, reterr) < 0)
		return NULL;
	struct tls_client *tls = NULL;
	if (a.tls && !(tls = tls_client_ref(reterr)))
		return NULL;
	struct http_target *t = NEW(struct http_target);
	t->loop = l;
	t->addr = a;
	t->tls = tls;
	if (o)
		t->o = *o;
	if (!t->o.idle_max)
		t->o.idle_max = 64;
	if (!t->o.idle_ms)
		t->o.idle_ms = 4000;
	if (!t->o.connect_timeout_ms)
		t->o.connect_timeout_ms = 5000;
	if (a.kind == NET_UNIX)
		t->host = mem_strdup("localhost");
	else if (a.tls && a.port == 443) /* some servers take a port in Host for another name */
		t->host = mem_fmt(strchr(a.host, ':') ? "[%s]" : "%s", a.host);
	else if (strchr(a.host, ':'))
		t->host = mem_fmt("[%s]:%u", a.host, a.port);
	else
		t->host = mem_fmt("%s:%u", a.host, a.port);
	if (t->o.bearer)
		t->authorization = mem_fmt("Authorization: Bearer %s\r\n", t->o.bearer);
	t->o.bearer = NULL; /* the caller's */
	list_init(&t->idle);
	list_init(&t->busy);
	list_init(&t->spare);
	buf_init(&t->head, 2 * HTTP_HEAD_MAX);
	t->refs = 1;
	return t;
}

void http_target_close_idle(struct http_target *t)
{
	while (!list_empty(&t->idle))
		client_conn_close(LIST_ENTRY(t->idle.next, struct client_conn, node));
}

void client_target_unref(struct http_target *t)
{
	if (--t->refs)
		return;
	buf_done(&t->head);
	tls_client_unref(t->tls);
	free(t->host);
	free(t->authorization);
	free(t);
}

void http_target_free(struct http_target *t)
{
	if (!t)
		return;
	t->freed = true;
	loop_timer_stop(&t->sweep);
	http_target_close_idle(t);
	for (struct list *n; (n = list_pop(&t->spare));)
		free(LIST_ENTRY(n, struct http_call, node));
	LIST_FOREACH(c, &t->busy, struct client_conn, node)
	{
		list_remove(&c->node);
		c->target = NULL;
	}
	client_target_unref(t);
}

const char *http_target_host(const struct http_target *t)
{
	return t->host;
}

size_t http_target_idle(const struct http_target *t)
{
	return t->nidle;
}

const char *http_fail_name(enum http_fail f)
{
	static const char *const names[] = { "connect", "stale", "closed", "broken", "protocol", "timeout" };
	return names[f];
}

struct loop *http_target_loop(const struct http_target *t)
{
	return t->loop;
}
