/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/registry/… without a socket.
 */
#include <inttypes.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/num.h"
#include "registry/registry_int.h"

enum { REPLY_MAX = 256 * 1024 * 1024, NODE_ID_MAX = 255 };

void registry_reply_done(struct registry_reply *ret)
{
	buf_done(&ret->body);
}

static void reply_error(struct registry_reply *ret, int status, const char *code, const char *message)
{
	buf_reset(&ret->body);
	ret->status = status;
	buf_adds(&ret->body, "{\"error\":{\"message\":");
	buf_add_json(&ret->body, view_str(message));
	buf_addf(&ret->body,
		",\"type\":\"%s\",\"param\":null,\"code\":null,\"corral\":{\"code\":\"%s\","
		"\"retriable\":%s}}}",
		status < 500 ? "invalid_request_error" : "server_error", code,
		status >= 500 ? "true" : "false");
}

static void reply_err(struct registry_reply *ret, const struct err *e)
{
	switch (e->code) {
	case -ENOENT: reply_error(ret, 404, "NODE_UNKNOWN", e->msg); break;
	case -EFBIG: reply_error(ret, 413, "PAYLOAD_TOO_LARGE", e->msg); break;
	case -ENOSPC: reply_error(ret, 503, "NO_CAPACITY", e->msg); break;
	case -ENOMEM: reply_error(ret, 500, "INTERNAL", e->msg); break;
	default: reply_error(ret, 400, "INVALID_PARAMS", e->msg); break;
	}
}

static void set_etag(struct registry *r, struct registry_reply *ret)
{
	snprintf(ret->etag, sizeof ret->etag, "\"%" PRIu64 "\"", r->revision);
}

/* %XX of a path segment; -EINVAL for anything else after a %, or a NUL. */
static int decode_segment(struct view v, char out[NODE_ID_MAX + 1])
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0;
	for (size_t i = 0; i < v.n; i++) {
		unsigned c = (unsigned char)v.p[i];
		if (c == '%') {
			const char *a = i + 2 < v.n && v.p[i + 1] ? strchr(hex, v.p[i + 1] | 0x20) : NULL;
			const char *b = a && v.p[i + 2] ? strchr(hex, v.p[i + 2] | 0x20) : NULL;
			if (!a || !b || !*a || !*b)
				return -EINVAL;
			c = (unsigned)(a - hex) * 16 + (unsigned)(b - hex);
			i += 2;
		}
		if (!c || n >= NODE_ID_MAX)
			return -EINVAL;
		out[n++] = (char)c;
	}
	out[n] = '\0';
	return n ? 0 : -EINVAL;
}

static int add_list(struct buf *b, const char *key, const struct strv *v)
{
	int r = buf_addf(b, ",\"%s\":[", key);
	for (size_t i = 0; !r && i < v->len; i++) {
		r = i ? buf_addc(b, ',') : 0;
		if (!r)
			r = buf_add_json(b, view_str(v->items[i]));
	}
	return r ? r : buf_addc(b, ']');
}

static void reply_heard(struct registry *r, struct registry_reply *ret, const struct registry_heard *h)
{
	ret->status = 200;
	buf_addf(&ret->body,
		"{\"revision\":%" PRIu64 ",\"heartbeat_ms\":%" PRId64 ",\"offline_after_ms\":%" PRId64
		",\"dropped\":%s",
		r->revision, r->heartbeat_ms, r->offline_after_ms, h->dropped ? "true" : "false");
	if (h->unproven.len)
		add_list(&ret->body, "unproven", &h->unproven);
	if (h->refused.len)
		add_list(&ret->body, "refused", &h->refused);
	buf_addc(&ret->body, '}');
}

/* id NULL: a registration. */
static void take_message(
	struct registry *r, const char *id, struct view body, mono_t now, struct registry_reply *ret)
{
	AUTO(wire_node_done) struct wire_node n = { 0 };
	AUTO(registry_heard_done) struct registry_heard h = { 0 };
	struct err e = { 0 };
	int rc = wire_node_decode(body, &n, &e);
	if (!rc && id && strcmp(id, n.node_id) != 0)
		rc = err_set(
			&e, -EINVAL, "the body speaks of the node %.100s, the path of %.100s", n.node_id, id);
	if (!rc)
		rc = id ? registry_heartbeat(r, &n, now, &h, &e) : registry_register(r, &n, now, &h, &e);
	if (rc)
		reply_err(ret, &e);
	else
		reply_heard(r, ret, &h);
}

/* A record's JSON with its revision, behind a comma where it is not the first. */
static int add_record(struct buf *b, bool *first, const char *json, uint64_t revision)
{
	int r = *first ? 0 : buf_addc(b, ',');
	*first = false;
	if (!r)
		r = buf_add(b, json, strlen(json) - 1);
	return r ? r : buf_addf(b, ",\"revision\":%" PRIu64 "}", revision);
}

/* All records newer than since. */
static int add_records(const struct registry *r, uint64_t since, struct buf *b)
{
	bool first = true;
	int rc = buf_adds(b, ",\"nodes\":[");
	for (size_t i = 0; !rc && i < r->nnodes; i++)
		if (r->nodes[i]->rec->pub.revision > since)
			rc = add_record(b, &first, r->nodes[i]->rec->json, r->nodes[i]->rec->pub.revision);
	first = true;
	if (!rc)
		rc = buf_adds(b, "],\"pools\":[");
	for (size_t i = 0; !rc && i < r->npools; i++)
		if (r->pools[i]->rec->revision > since)
			rc = add_record(b, &first, r->pools[i]->rec->json, r->pools[i]->rec->revision);
	first = true;
	if (!rc)
		rc = buf_adds(b, "],\"replicas\":[");
	for (size_t i = 0; !rc && i < r->nreplicas; i++)
		if (r->replicas[i]->rec->pub.revision > since)
			rc = add_record(
				b, &first, r->replicas[i]->rec->json, r->replicas[i]->rec->pub.revision);
	return rc ? rc : buf_addc(b, ']');
}

static int add_removed(const struct registry *r, uint64_t since, struct buf *b)
{
	static const char *const kinds[] = {
		[REMOVED_NODE] = "node", [REMOVED_REPLICA] = "replica", [REMOVED_POOL] = "pool"
	};
	bool first = true;
	int rc = buf_adds(b, ",\"removed\":[");
	for (size_t i = 0; !rc && i < r->nremoved; i++) {
		const struct removed *x = &r->removed[(r->removed_at + i) % r->nremoved];
		if (x->revision <= since)
			continue;
		rc = buf_addf(b, "%s{\"%s_id\":", first ? "" : ",", kinds[x->kind]);
		if (!rc)
			rc = buf_add_json(b, view_str(x->id));
		if (!rc)
			rc = buf_addc(b, '}');
		first = false;
	}
	return rc ? rc : buf_addc(b, ']');
}

static void reply_snapshot(struct registry *r, uint64_t since, bool complete, struct registry_reply *ret)
{
	ret->status = 200;
	set_etag(r, ret);
	int rc = buf_addf(&ret->body, "{\"revision\":%" PRIu64 ",\"complete\":%s", r->revision,
		complete ? "true" : "false");
	if (!rc && !complete) /* before the records: what was removed and came back is in both */
		rc = add_removed(r, since, &ret->body);
	if (!rc)
		rc = add_records(r, complete ? 0 : since, &ret->body);
	if (!rc)
		rc = buf_addc(&ret->body, '}');
	if (rc)
		reply_error(ret, 500, "INTERNAL", "The snapshot is larger than an answer may be.");
}

static void reply_watch(struct registry *r, struct view query, struct registry_reply *ret)
{
	uint64_t since = 0;
	bool found = false;
	while (query.n && !found) {
		struct view value, pair = view_split(query, '&', &query);
		struct view name = view_split(pair, '=', &value);
		found = view_eqs(name, "revision");
		if (found && num_u64(value, &since)) {
			reply_error(ret, 400, "INVALID_PARAMS",
				"\"revision\" is not a whole number; accepted is the "
				"revision of the last answer, or 0 for everything.");
			return;
		}
	}
	if (found && since == r->revision) {
		ret->status = 204;
		ret->wait = true;
		set_etag(r, ret);
		return;
	}
	/* Older than what is remembered, or of another life of this registry: everything. */
	reply_snapshot(r, since, !found || since < r->forgotten || since > r->revision, ret);
}

static bool method_is(struct view method, const char *want, struct registry_reply *ret)
{
	if (view_eqs(method, want))
		return true;
	reply_error(ret, 405, "INVALID_PARAMS", "This method is not accepted here.");
	ret->allow = want;
	return false;
}

static void handle_node(struct registry *r, struct view method, struct view rest, struct view body,
	mono_t now, struct registry_reply *ret)
{
	struct view verb, segment = view_split(rest, '/', &verb);
	char id[NODE_ID_MAX + 1];
	if (decode_segment(segment, id)) {
		reply_error(ret, 400, "INVALID_PARAMS",
			"The node id in the path is empty, longer than 255 bytes or wrongly "
			"escaped.");
	} else if (!verb.p) {
		if (method_is(method, "DELETE", ret)) {
			registry_deregister(r, view_str(id));
			ret->status = 204;
		}
	} else if (view_eqs(verb, "heartbeat")) {
		if (method_is(method, "POST", ret))
			take_message(r, id, body, now, ret);
	} else {
		reply_error(ret, 404, "INVALID_PARAMS", "There is no such route below a node.");
	}
}

int registry_handle(struct registry *r, struct view method, struct view path, struct view query,
	struct view body, mono_t now, struct registry_reply *ret)
{
	*ret = (struct registry_reply){ .body = BUF(REPLY_MAX) };
	const struct view prefix = VIEW("/v1/registry/"), nodes = VIEW("nodes/");
	struct view rest = view_starts(path, prefix) ? view_from(path, prefix.n) : view_of(NULL, 0);
	if (view_eqs(rest, "nodes")) {
		if (method_is(method, "POST", ret))
			take_message(r, NULL, body, now, ret);
	} else if (view_starts(rest, nodes)) {
		handle_node(r, method, view_from(rest, nodes.n), body, now, ret);
	} else if (view_eqs(rest, "snapshot")) {
		if (method_is(method, "GET", ret))
			reply_snapshot(r, 0, true, ret);
	} else if (view_eqs(rest, "watch")) {
		if (method_is(method, "GET", ret))
			reply_watch(r, query, ret);
	} else {
		reply_error(ret, 404, "INVALID_PARAMS",
			"There is no such route; the registry has nodes, snapshot and watch.");
		return -ENOENT;
	}
	return 0;
}
