/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/registry/… on the private socket: what engine-provisioner registers and reports to. The socket's mode
 * is 0600 and the peer must be our own user or root.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

struct call {
	struct orch *o;
	struct http_exchange *x;
	struct buf body;
	bool too_large;
};

static void call_free(struct call *c)
{
	buf_done(&c->body);
	free(c);
}

static void on_body(void *arg, struct view v)
{
	struct call *c = arg;
	if (buf_addv(&c->body, v) < 0)
		c->too_large = true;
}

static void look_for_nodes(struct orch *o)
{
	AUTO(registry_snapshot_unrefp) const struct registry_snapshot *s = registry_snapshot_ref(o->registry);
	for (size_t i = 0; i < s->nnodes; i++)
		if (s->nodes[i]->online && s->nodes[i]->registered)
			provisioner_seen(o, s->nodes[i]->pid);
}

static void on_body_end(void *arg)
{
	struct call *c = arg;
	struct registry_reply r;
	AUTO(buf_done) struct buf head = BUF(KIB);
	if (c->too_large) {
		http_reply(c->x, 413, "application/json", NULL,
			VIEW("{\"error\":{\"message\":\"The report is too large.\"}}"));
		call_free(c);
		return;
	}
	struct orch *o = c->o;
	registry_handle(o->registry, http_method_name(c->x), http_path(c->x), http_query(c->x),
		buf_view(&c->body), mono_now(), &r);
	if (r.etag[0])
		(void)http_header_add(&head, "ETag", view_str(r.etag));
	if (r.allow)
		(void)http_header_add(&head, "Allow", view_str(r.allow));
	http_reply(c->x, r.status, r.body.len ? "application/json" : NULL, &head, buf_view(&r.body));
	registry_reply_done(&r);
	call_free(c);
	found_update(o);
	look_for_nodes(o);
}

static void on_gone(void *arg)
{
	call_free(arg);
}

static const struct http_handler handler = {
	.on_body = on_body, .on_body_end = on_body_end, .on_gone = on_gone
};

static void on_request(void *arg, struct http_exchange *x)
{
	struct orch *o = arg;
	uid_t uid = http_peer(x)->uid;
	if (uid != geteuid() && uid != 0) {
		http_reply(x, 403, "application/json", NULL,
			VIEW("{\"error\":{\"message\":\"This socket is for its own user.\"}}"));
		return;
	}
	struct call *c = NEW(struct call);
	c->o = o;
	c->x = x;
	buf_init(&c->body, WIRE_BODY_MAX);
	http_handle(x, &handler, c);
}

int registry_api_start(struct orch *o, struct err *reterr)
{
	struct net_addr a;
	int r = net_addr_parse(view_str(o->registry_path), &a, reterr);
	r = r ? r : net_listen(&a, 0600, &o->registry_fd, reterr);
	if (r)
		return r;
	struct http_server_opts so = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = o };
	so.idle_timeout_ms = 120000; /* heartbeats come every 10 s on one connection */
	o->registry_server = http_server_new(o->loop, &so);
	return http_server_listen(o->registry_server, o->registry_fd);
}
