/* SPDX-License-Identifier: Apache-2.0
 *
 * The browser guard: a web page that a user visits must not drive the box. A Host we do not go by means a
 * rebound name (421): a page can have its own name point here, but neither an address nor a name that is
 * ours. An Origin that is not the very address the request was sent to is another page (403), unless
 * cors.origins lists it; then it may use inference routes and no others.
 */
#include <arpa/inet.h>

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
	enum dialect d = dialect_of_path(http_path(x));
	(void)api_error_body(d, &e, &body);
	api_request_id_headers(d, e.request_id, &head);
	http_reply(x, status, "application/json", &head, buf_view(&body));
}

/* ---- Host -------------------------------------------------------------------------------------------- */

/* The host without its port and brackets. */
static struct view bare_host(struct view host)
{
	struct view rest;
	if (host.n && host.p[0] == '[')
		return view_from(view_cut(host, view_find(host, ']')), 1);
	return view_split(host, ':', &rest);
}

/* An address cannot be rebound: a page that names it was loaded from it. */
static bool is_address(struct view h, bool bracketed)
{
	char text[INET6_ADDRSTRLEN];
	unsigned char out[sizeof(struct in6_addr)];
	if (h.n == 0 || h.n >= sizeof text || (!bracketed && (h.p[0] < '0' || h.p[0] > '9')))
		return false;
	memcpy(text, h.p, h.n);
	text[h.n] = '\0';
	return inet_pton(bracketed ? AF_INET6 : AF_INET, text, out) == 1;
}

static bool is_hostname(struct view h, const char *own)
{
	struct view name = view_str(own), rest, first = view_split(name, '.', &rest);
	if (!name.n)
		return false;
	if (view_ends(h, VIEW(".local")) && view_eq_ci(view_cut(h, h.n - 6), first))
		return true;
	return view_eq_ci(h, name) || view_eq_ci(h, first);
}

static bool is_ours(const struct api_guard *g, struct view host)
{
	struct view h = bare_host(host);
	if (view_eqs(h, "127.0.0.1") || view_eq_ci(h, VIEW("localhost")) ||
		is_address(h, host.n && host.p[0] == '['))
		return true;
	for (size_t i = 0; i < g->config->hosts.len; i++)
		if (view_eq_ci(h, view_str(g->config->hosts.items[i])))
			return true;
	return is_hostname(h, g->hostname);
}

/* ---- Origin -------------------------------------------------------------------------------------------- */

/* Whoever ends TLS before us makes the page's scheme another one than ours. */
static bool is_same(struct view origin, struct view host)
{
	if (view_starts(origin, VIEW("http://")))
		return view_eq_ci(view_from(origin, 7), host);
	return view_starts(origin, VIEW("https://")) && view_eq_ci(view_from(origin, 8), host);
}

/* What the page may be told to be: its origin, or "*"; empty: it is not listed. */
static struct view listed(const struct api_guard *g, struct view origin)
{
	const struct strv *l = &g->config->cors_origins;
	for (size_t i = 0; i < l->len; i++) {
		struct view v = view_str(l->items[i]);
		if (view_eqs(v, "*") || view_eq_ci(v, origin))
			return view_eqs(v, "*") ? v : origin;
	}
	return (struct view){ 0 };
}

/* The page's credentials are never asked for: a key is a header it sends itself. */
static void allow(struct http_exchange *x, struct view as)
{
	struct buf *b = http_extra(x);
	(void)http_header_add(b, "Access-Control-Allow-Origin", as);
	(void)http_header_add(b, "Access-Control-Expose-Headers", VIEW("*"));
	(void)http_header_add(b, "Vary", VIEW("Origin"));
}

static void answer_preflight(struct http_exchange *x, const char *request_id)
{
	AUTO(buf_done) struct buf head = BUF(HTTP_HEAD_MAX);
	const struct http_headers *h = http_headers(x);
	struct view asked = http_header_get(h, "access-control-request-headers");
	(void)http_header_add(&head, "Access-Control-Allow-Methods", VIEW("GET, HEAD, POST"));
	if (asked.n)
		(void)http_header_add(&head, "Access-Control-Allow-Headers", asked);
	if (http_header_get(h, "access-control-request-private-network").p)
		(void)http_header_add(&head, "Access-Control-Allow-Private-Network", VIEW("true"));
	(void)http_header_add(&head, "Access-Control-Max-Age", VIEW("600"));
	(void)http_header_add(&head, "X-Request-Id", view_str(request_id));
	http_reply(x, 204, NULL, &head, (struct view){ 0 });
}

/* A page's request, or its question whether it may make one. */
static bool answers_page(
	const struct api_guard *g, struct http_exchange *x, struct view origin, const char *request_id)
{
	struct view asked = http_method(x) == HTTP_M_OPTIONS
				    ? http_header_get(http_headers(x), "access-control-request-method")
				    : (struct view){ 0 };
	struct view as = listed(g, origin);
	if (as.n && api_scope(asked.n ? asked : http_method_name(x), http_path(x)) == AUTH_INFERENCE) {
		allow(x, as);
		if (asked.n)
			answer_preflight(x, request_id);
		return asked.n > 0;
	}
	if (as.n)
		refuse(x, request_id, 403,
			"A page of another origin may ask models and do nothing else here.",
			"cors.origins never reaches routes that control the server.");
	else
		refuse(x, request_id, 403, "A page of another origin may not use this server.",
			"Pages are refused unless they come from the server's own address, or their origin "
			"is in "
			"cors.origins.");
	return true;
}

bool api_guard_answers(const struct api_guard *g, struct http_exchange *x, const char *request_id)
{
	const struct http_headers *h = http_headers(x);
	struct view host = http_header_known(h, HTTP_H_HOST);
	if (!http_peer(x)->is_unix && !is_ours(g, host)) {
		refuse(x, request_id, 421, "The Host header names no address that is listened on here.",
			"Use the address in `listen`, such as http://127.0.0.1:8080, or put the name in "
			"`hosts`.");
		return true;
	}
	struct view origin = http_header_known(h, HTTP_H_ORIGIN);
	if (!origin.p || is_same(origin, host))
		return false;
	return answers_page(g, x, origin, request_id);
}
