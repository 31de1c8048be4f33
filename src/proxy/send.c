/* SPDX-License-Identifier: Apache-2.0
 *
 * Sending a request to its replica, and deciding whether it may be sent again.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "log/log.h"
#include "proxy/proxy_int.h"

enum {                   /* of the connections that a loop keeps to a replica: one a slot, and … */
	IDLE_MARGIN = 8, /* for requests that take no slot */
	IDLE_MS = 4000,  /* an engine that does not say when it closes them: llama-server does after 5 s */
};

struct replica_end *replica_end(struct proxy *px, struct pool_replica *r)
{
	return r->per_loop[px->o.loop_index];
}

struct http_target *replica_target(struct proxy *px, struct pool_replica *r)
{
	struct replica_end *end = replica_end(px, r);
	if (!end)
		r->per_loop[px->o.loop_index] = end = NEW(struct replica_end);
	if (end->target)
		return end->target;
	struct err e = { 0 };
	struct http_target_opts o = {
		.idle_max = pool_replica_slots(r) + IDLE_MARGIN,
		.idle_ms = r->conn_idle_ms ? r->conn_idle_ms : IDLE_MS,
		.max_requests = r->conn_requests,
		.bearer = r->key,
	};
	end->target = http_target_new(px->o.loop, r->address, &o, &e);
	if (!end->target)
		log_error("connect", r->id, "The address of replica %s is not usable: %s.", r->id, e.msg);
	return end->target;
}

/* Where the body is rewritten: an external engine knows the model by another name (behaviour: the body is
 * otherwise sent untouched). */
static bool rewrites(const struct request *q)
{
	return q->replica->remote_model && q->scan.has_model && q->scan.model_end > q->scan.model_begin;
}

static void remote_name(const struct request *q, struct buf *b)
{
	struct view name = view_str(q->replica->remote_model);
	(void)(q->form ? buf_addv(b, name) : buf_add_json(b, name)); /* a form's value has no quotes */
}

static uint64_t body_size(const struct request *q)
{
	uint64_t n = spool_size(&q->spool);
	if (!rewrites(q))
		return n;
	AUTO(buf_done) struct buf name = BUF(4 * KIB);
	remote_name(q, &name);
	return n - (q->scan.model_end - q->scan.model_begin) + name.len;
}

/* Sends until the connection is full or all is sent. */
static void send_body(struct request *q)
{
	char scratch[64 * 1024];
	bool swap = rewrites(q);
	uint64_t size = spool_size(&q->spool);
	/* q->sent counts bytes of the original; the name goes out when its place is reached. */
	while (q->sent < size) {
		if (swap && q->sent == q->scan.model_begin) {
			AUTO(buf_done) struct buf name = BUF(4 * KIB);
			remote_name(q, &name);
			q->sent = q->scan.model_end;
			if (http_call_write(q->call, buf_view(&name)))
				return;
			continue;
		}
		struct view v = spool_read(&q->spool, q->sent, scratch, sizeof scratch);
		if (!v.p || !v.n) {
			request_failf(q, CODE_INTERNAL, "",
				"The request's body cannot be read back from the spool folder.");
			return;
		}
		if (swap && q->sent < q->scan.model_begin)
			v = view_cut(v, (size_t)(q->scan.model_begin - q->sent));
		q->sent += v.n;
		if (http_call_write(q->call, v))
			return;
	}
}

void relay_writable(void *arg)
{
	struct request *q = arg;
	if (q->call)
		send_body(q);
}

void request_send(struct request *q)
{
	struct http_target *t = replica_target(q->px, q->replica);
	if (!t) {
		request_failf(q, CODE_ENGINE_FAILED, "", "The address of replica %s is not usable.",
			q->replica->id);
		return;
	}
	struct buf *head = &q->px->head;
	buf_reset(head);
	headers_to_engine(q, head);
	struct http_call_req r = {
		.method = q->method,
		.path = buf_view(&q->path),
		.block = head,
		.body_len = (int64_t)body_size(q),
		.flags = q->fresh ? HTTP_CALL_FRESH : 0,
	};
	q->state = REQ_SENT;
	talk_sent(q);
	q->sent = 0;
	life_sent(q);
	q->call = http_call_start(t, &r, &relay_ops, q);
	silence_start(q);
	send_body(q);
}

void request_cut(struct request *q)
{
	if (!q->call)
		return;
	struct err e = { 0 };
	err_set(&e, -ECONNRESET, "the engine is being stopped");
	http_call_cancel(q->call);
	q->call = NULL;
	relay_ops.on_error(q, q->state == REQ_RELAY ? HTTP_FAIL_BROKEN : HTTP_FAIL_CLOSED, &e);
}

void proxy_replica_gone(struct proxy *px, struct pool_replica *r, bool cut)
{
	struct replica_end *end = replica_end(px, r);
	if (end && end->target)
		http_target_close_idle(end->target);
	if (cut) {
		LIST_FOREACH(q, &px->requests, struct request, node)
		if (q->replica == r)
			request_cut(q);
	}
	if (end && atomic_load_explicit(&r->gone, memory_order_acquire)) {
		http_target_free(end->target); /* calls that run keep what they need */
		free(end);
		r->per_loop[px->o.loop_index] = NULL;
	}
}
