/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/pools/{id}/logs: the engine's own output, passed through from the node that keeps it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api_int.h"
#include "base/mem.h"
#include "base/num.h"

struct log_stream {
	struct list node;
	struct api *api;
	struct api_call *call; /* NULL: the client left */
	struct http_call *http;
	bool streaming;
	int status;
};

static void stream_over(struct log_stream *s)
{
	if (s->http)
		http_call_cancel(s->http);
	list_remove(&s->node);
	s->api->nstreams--;
	free(s);
}

void log_streams_done(struct api *a)
{
	LIST_FOREACH(s, &a->logs, struct log_stream, node)
	{
		if (s->streaming)
			api_finish(s->call, true);
		else
			api_failf(s->call, CODE_INTERNAL, 503, "", "The server is going down.");
		stream_over(s);
	}
}

static void client_left(void *arg)
{
	stream_over(arg);
}

static void client_drained(void *arg)
{
	struct log_stream *s = arg;
	if (s->http)
		http_call_resume(s->http);
}

static void on_head(void *arg, struct http_call *http, int status, const struct http_headers *h)
{
	(void)http;
	(void)h;
	struct log_stream *s = arg;
	s->status = status;
	if (status != 200)
		return;
	s->streaming = true;
	api_stream(s->call, "text/plain; charset=utf-8", NULL);
}

static void on_data(void *arg, struct view bytes)
{
	struct log_stream *s = arg;
	if (s->streaming && api_send(s->call, bytes))
		http_call_pause(s->http);
}

static void end(struct log_stream *s, bool complete, const char *why)
{
	s->http = NULL;
	if (s->streaming)
		api_finish(s->call, complete);
	else if (s->status == 404)
		api_reply(s->call, 200, "text/plain; charset=utf-8", NULL, (struct view){ 0 });
	else
		api_failf(s->call, CODE_POOL_UNREADY, 0, "", "The node does not give the log: %s.", why);
	stream_over(s);
}

static void on_end(void *arg)
{
	end(arg, true, "it refused");
}

static void on_error(void *arg, enum http_fail f, const struct err *e)
{
	(void)f;
	end(arg, false, e->msg);
}

static const struct http_call_ops log_ops = {
	.on_head = on_head, .on_data = on_data, .on_end = on_end, .on_error = on_error
};

struct http_target *api_node_target(struct api *a)
{
	const char *address = control_node_address(a->o.control);
	if (!address)
		return NULL;
	if (!a->node || strcmp(a->node_address, address) != 0) {
		http_target_free(a->node);
		a->node = http_target_new(a->o.loop, address, NULL, NULL);
		mem_setstr(&a->node_address, address);
	}
	return a->node;
}

/* "<pool>-<n>", and nothing else: another pool's name may begin with this one's. */
static bool is_replica_of(const char *replica, const char *pool)
{
	size_t n = strlen(pool);
	uint64_t index;
	return strncmp(replica, pool, n) == 0 && replica[n] == '-' &&
	       num_u64(view_str(replica + n + 1), &index) == 0;
}

/* The pool's replica that tells most: one that is ready, else the first that is there. */
static void pick_replica(struct api *a, const char *pool, char *out, size_t cap)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(pool));
	const struct registry_replica *best = NULL;
	for (size_t i = 0; rp && i < rp->nreplicas; i++)
		if (!best || (rp->replicas[i]->ready && !best->ready))
			best = rp->replicas[i];
	if (best)
		snprintf(out, cap, "%s", best->facts.replica_id);
	else
		snprintf(out, cap, "%s-0", pool);
}

void route_pool_logs(struct api *a, struct api_call *c, const struct route_args *args)
{
	struct control_pool *p = find_pool_or_fail(a, c, args->id);
	if (!p || refuse_when_draining(a, c))
		return;
	struct http_target *t = api_node_target(a);
	if (!t || a->nstreams >= API_STREAMS_MAX) {
		api_failf(c, CODE_POOL_UNREADY, 0, "",
			t ? "There are too many streams already." : "No node is online.");
		return;
	}
	char replica[POOL_ID_MAX + 8], tail[24] = "200", follow[8] = "0";
	uint64_t n;
	struct view q = view_str(c->query);
	if (!q.p || !http_query_get(q, "replica", replica, sizeof replica))
		pick_replica(a, control_pool_config(p)->id, replica, sizeof replica);
	if (q.p && http_query_get(q, "tail", tail, sizeof tail) && num_u64(view_str(tail), &n) < 0) {
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "tail is a number of lines.");
		return;
	}
	if (q.p)
		http_query_get(q, "follow", follow, sizeof follow);
	if (!is_replica_of(replica, control_pool_config(p)->id)) {
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "replica is one of the pool's, such as %s-0.",
			control_pool_config(p)->id);
		return;
	}
	AUTO(mem_freep)
	char *path = mem_fmt("/v1/node/replicas/%s/logs?tail=%s&follow=%s", replica, tail,
		strcmp(follow, "1") == 0 || strcmp(follow, "true") == 0 ? "1" : "0");
	struct log_stream *s = NEW(struct log_stream);
	s->api = a;
	s->call = c;
	c->on_gone = client_left;
	c->on_drained = client_drained;
	c->arg = s;
	list_append(&a->logs, &s->node);
	a->nstreams++;
	struct http_call_req r = { .method = VIEW("GET"), .path = view_str(path) };
	s->http = http_call_start(t, &r, &log_ops, s);
}
