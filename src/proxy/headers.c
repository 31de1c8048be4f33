/* SPDX-License-Identifier: Apache-2.0
 *
 * Which headers cross, in each direction (contract.md, 4).
 */
#include <stdio.h>

#include "base/mem.h"
#include "base/rnd.h"
#include "proxy/proxy_int.h"

static bool in_list(struct view name, const char *const *list, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (view_eq_ci(name, view_str(list[i])))
			return true;
	return false;
}

static bool starts_ci(struct view v, const char *prefix)
{
	struct view p = view_str(prefix);
	return v.n >= p.n && view_eq_ci(view_cut(v, p.n), p);
}

static void copy_header(struct buf *b, const struct http_header *h)
{
	char name[256];
	size_t n = MIN(h->name.n, sizeof name - 1);
	memcpy(name, h->name.p, n);
	name[n] = '\0';
	(void)http_header_add(b, name, h->value);
}

void headers_to_engine(const struct request *q, struct buf *b)
{
	/* Ours or the hop's: never an engine's business. Accept-Encoding, since a compressed stream has no
	 * events to see; Origin, since the engine's own origin check is not for our clients. */
	static const char *const drop[] = { "host", "authorization", "x-api-key", "cookie", "expect",
		"accept-encoding", "origin", "x-request-id", "x-correlation-id" };
	const struct http_headers *h = http_headers(q->x);
	for (size_t i = 0; i < h->len; i++) {
		struct view name = h->items[i].name;
		if (http_header_is_hop(h, name) || in_list(name, drop, ARRAY_LEN(drop)) ||
			starts_ci(name, "x-corral-"))
			continue;
		copy_header(b, &h->items[i]);
	}
	(void)http_header_add(b, "X-Request-Id", view_str(q->id));
}

void headers_to_client(struct request *q, const struct http_headers *h)
{
	static const char *const drop[] = { "server", "date", "x-request-id", "request-id" };
	buf_reset(&q->head);
	for (size_t i = 0; i < h->len; i++) {
		struct view name = h->items[i].name;
		if (http_header_is_hop(h, name) || in_list(name, drop, ARRAY_LEN(drop)) ||
			starts_ci(name, "access-control-") || starts_ci(name, "x-corral-"))
			continue;
		copy_header(&q->head, &h->items[i]);
	}
	(void)http_header_add(&q->head, "X-Request-Id", view_str(q->id));
	if (q->route.dialect == DIALECT_ANTHROPIC)
		(void)http_header_add(&q->head, "Request-Id", view_str(q->id));
	life_headers(q, &q->head);
	if (q->events)
		(void)http_header_add(&q->head, "X-Accel-Buffering", VIEW("no"));
}

void proxy_request_id(const struct http_headers *h, char out[PROXY_REQUEST_ID_MAX + 1])
{
	static const char *const names[] = { "x-request-id", "x-correlation-id" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct view v = http_header_get(h, names[i]);
		bool usable = v.n > 0 && v.n <= PROXY_REQUEST_ID_MAX;
		for (size_t k = 0; usable && k < v.n; k++)
			usable = v.p[k] > ' ' && v.p[k] < 0x7f && v.p[k] != '"' && v.p[k] != '\\';
		if (usable) {
			memcpy(out, v.p, v.n);
			out[v.n] = '\0';
			return;
		}
	}
	rnd_uuid(out);
}

static void reply_error(
	struct http_exchange *x, enum dialect d, const struct api_error *e, const struct request *q)
{
	AUTO(buf_done) struct buf body = BUF(64 * KIB);
	AUTO(buf_done) struct buf head = BUF(16 * KIB);
	char id[PROXY_REQUEST_ID_MAX + 1];
	struct api_error copy = *e;
	if (!copy.request_id.n) {
		proxy_request_id(http_headers(x), id);
		copy.request_id = view_str(id);
	}
	(void)api_error_body(d, &copy, &body);
	(void)api_error_headers(d, &copy, &head);
	(void)http_header_add(&head, "X-Request-Id", copy.request_id);
	if (d == DIALECT_ANTHROPIC)
		(void)http_header_add(&head, "Request-Id", copy.request_id);
	if (q)
		life_headers(q, &head);
	http_reply(x, api_error_status(d, &copy), "application/json", &head, buf_view(&body));
}

void proxy_reply_error(struct http_exchange *x, enum dialect d, const struct api_error *e)
{
	reply_error(x, d, e, NULL);
}

void headers_reply_error(const struct request *q, struct http_exchange *x, const struct api_error *e)
{
	reply_error(x, q->route.dialect, e, q);
}
