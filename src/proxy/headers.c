/* SPDX-License-Identifier: Apache-2.0
 *
 * Which headers cross, in each direction (contract.md, 4).
 */
#include <stdio.h>

#include "base/mem.h"
#include "base/rnd.h"
#include "proxy/proxy_int.h"

#define BIT(k) http_known_bit(k)

void headers_to_engine(const struct request *q, struct buf *b)
{
	/* Ours or the hop's: never an engine's business. Accept-Encoding, since a compressed stream has no
	 * events to see; Origin, since the engine's own origin check is not for our clients. */
	const uint64_t drop = BIT(HTTP_H_HOST) | BIT(HTTP_H_AUTHORIZATION) | BIT(HTTP_H_API_KEY) |
			      BIT(HTTP_H_COOKIE) | BIT(HTTP_H_EXPECT) | BIT(HTTP_H_ACCEPT_ENCODING) |
			      BIT(HTTP_H_ORIGIN) | BIT(HTTP_H_X_REQUEST_ID) | BIT(HTTP_H_CORRELATION_ID) |
			      BIT(HTTP_H_CORRAL);
	http_headers_copy(http_headers(q->x), drop, b);
	(void)http_header_add(b, "X-Request-Id", view_str(q->id));
}

static void limit_headers(const struct request *q, struct buf *head)
{
	if (q->key && auth_limited(&q->key->limits))
		auth_limit_headers(q->key, mono_now(), head);
}

void headers_own(const struct request *q, bool events, struct buf *b)
{
	api_request_id_headers(q->route.dialect, view_str(q->id), b);
	life_headers(q, b);
	limit_headers(q, b);
	if (events)
		(void)http_header_add(b, "X-Accel-Buffering", VIEW("no"));
}

void headers_to_client(struct request *q, const struct http_headers *h)
{
	uint64_t drop = BIT(HTTP_H_SERVER) | BIT(HTTP_H_DATE) | BIT(HTTP_H_X_REQUEST_ID) |
			BIT(HTTP_H_REQUEST_ID) | BIT(HTTP_H_ACCESS_CONTROL) | BIT(HTTP_H_CORRAL);
	if (q->key && auth_limited(&q->key->limits)) /* ours are the nearer ones */
		drop |= BIT(HTTP_H_RATELIMIT);
	buf_reset(&q->head);
	http_headers_copy(h, drop, &q->head);
	headers_own(q, q->events, &q->head);
	if (q->status >= 400)
		failure_headers(q, h, &q->head);
}

void proxy_request_id(const struct http_headers *h, char out[PROXY_REQUEST_ID_MAX + 1])
{
	static const enum http_known names[] = { HTTP_H_X_REQUEST_ID, HTTP_H_CORRELATION_ID };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		struct view v = http_header_known(h, names[i]);
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
	api_request_id_headers(d, copy.request_id, &head);
	if (q) {
		life_headers(q, &head);
		limit_headers(q, &head);
	}
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
