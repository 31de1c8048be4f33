/* SPDX-License-Identifier: Apache-2.0
 *
 * The browser guard: a web page that a user visits must not drive the box. A Host we do not go by means a
 * rebound name (421); an Origin that is not the very address the request was sent to is another page (403).
 */
#include "api/api.h"

static void refuse(
	struct http_exchange *x, const char *request_id, int status, const char *message, const char *hint)
{
	AUTO(buf_done) struct buf head = BUF(1 * KIB);
	AUTO(buf_done) struct buf body = BUF(16 * KIB);
	struct api_error e = { .code = status == 403 ? CODE_FORBIDDEN : CODE_INVALID_PARAMS,
		.status = status,
		.retriable = 0,
		.message = view_str(message),
		.hint = view_str(hint),
		.request_id = view_str(request_id) };
	(void)api_error_body(dialect_of_path(http_path(x)), &e, &body);
	(void)http_header_add(&head, "X-Request-Id", e.request_id);
	if (dialect_of_path(http_path(x)) == DIALECT_ANTHROPIC)
		(void)http_header_add(&head, "Request-Id", e.request_id);
	http_reply(x, status, "application/json", &head, buf_view(&body));
}

/* The host without its port and brackets. */
static struct view bare_host(struct view host)
{
	struct view rest;
	if (host.n && host.p[0] == '[')
		return view_from(view_cut(host, view_find(host, ']')), 1);
	return view_split(host, ':', &rest);
}

static bool is_loopback_name(struct view h)
{
	if (view_eq_ci(h, VIEW("localhost")) || view_eqs(h, "::1"))
		return true;
	if (!view_starts(h, VIEW("127.")))
		return false;
	for (size_t i = 0; i < h.n; i++)
		if (h.p[i] != '.' && (h.p[i] < '0' || h.p[i] > '9'))
			return false;
	return true;
}

static bool is_ours(const struct api_guard *g, struct view host)
{
	struct view h = bare_host(host);
	if (is_loopback_name(h))
		return true;
	for (size_t i = 0; g->hosts && i < g->hosts->len; i++)
		if (view_eq_ci(h, view_str(g->hosts->items[i])))
			return true;
	return false;
}

bool api_guard_refuses(const struct api_guard *g, struct http_exchange *x, const char *request_id)
{
	const struct http_headers *h = http_headers(x);
	struct view host = http_header_get(h, "host");
	if (!http_peer(x)->is_unix && !is_ours(g, host)) {
		refuse(x, request_id, 421, "The Host header names no address that is listened on here.",
			"Use the address in `listen`, such as http://127.0.0.1:8080.");
		return true;
	}
	struct view origin = http_header_get(h, "origin");
	if (!origin.p)
		return false;
	bool same = view_starts(origin, VIEW("http://")) && view_eq_ci(view_from(origin, 7), host);
	if (!same)
		refuse(x, request_id, 403, "A page of another origin may not use this server.",
			"Pages are refused unless they come from the server's own address.");
	return !same;
}
