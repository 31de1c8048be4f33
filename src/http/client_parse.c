/* SPDX-License-Identifier: Apache-2.0
 *
 * From llhttp's callbacks to a response. Interim responses (1xx) are read over.
 */
#include "http/client_int.h"

static int on_message_begin(llhttp_t *p)
{
	struct client_conn *c = p->data;
	buf_reset(&c->head);
	c->nspans = 0;
	c->in_value = c->head_done = c->complete = false;
	return 0;
}

static int add(struct client_conn *c, const char *at, size_t n)
{
	return buf_add(&c->head, at, n) < 0 ? HPE_USER : 0;
}

static int on_header_field(llhttp_t *p, const char *at, size_t n)
{
	struct client_conn *c = p->data;
	if (c->head_done)
		return 0;
	if (c->nspans == 0 || c->in_value) {
		if (c->nspans == HTTP_HEADERS_MAX)
			return HPE_USER;
		c->spans[c->nspans].name = (uint32_t)c->head.len;
		c->spans[c->nspans].name_len = c->spans[c->nspans].value_len = 0;
		c->nspans++;
		c->in_value = false;
	}
	c->spans[c->nspans - 1].name_len += (uint32_t)n;
	return add(c, at, n);
}

static int on_header_value(llhttp_t *p, const char *at, size_t n)
{
	struct client_conn *c = p->data;
	if (c->nspans == 0 || c->head_done)
		return 0;
	if (!c->in_value) {
		c->spans[c->nspans - 1].value = (uint32_t)c->head.len;
		c->in_value = true;
	}
	c->spans[c->nspans - 1].value_len += (uint32_t)n;
	return add(c, at, n);
}

static int on_header_value_complete(llhttp_t *p)
{
	struct client_conn *c = p->data;
	if (!c->head_done && !c->in_value && c->nspans) {
		c->spans[c->nspans - 1].value = (uint32_t)c->head.len;
		c->in_value = true;
	}
	return 0;
}

static void build_headers(const struct client_conn *c, struct http_headers *h)
{
	const char *base = buf_str(&c->head);
	h->len = c->nspans;
	for (size_t i = 0; i < c->nspans; i++) {
		h->items[i].name = view_of(base + c->spans[i].name, c->spans[i].name_len);
		h->items[i].value = view_trim(view_of(base + c->spans[i].value, c->spans[i].value_len));
	}
}

static int on_headers_complete(llhttp_t *p)
{
	struct client_conn *c = p->data;
	c->head_done = true;
	if (p->status_code < 200) {
		if (p->status_code == 101)
			return HPE_USER; /* nothing here asks for another protocol */
		p->upgrade = 0;
		return 0;
	}
	if (p->http_major != 1)
		return HPE_USER;
	p->upgrade = 0;
	struct http_headers h;
	build_headers(c, &h);
	bool no_body = c->call->head_request || p->status_code == 204 || p->status_code == 304;
	int64_t length = no_body ? 0
			 : (p->flags & F_CONTENT_LENGTH)
				 ? (int64_t)MIN(p->content_length, (uint64_t)INT64_MAX)
				 : -1;
	client_call_head(c->call, p->status_code, &h, length);
	if (!c->call)
		return HPE_USER; /* cancelled by the callback */
	return c->call->head_request ? 1 : 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n)
{
	struct client_conn *c = p->data;
	client_call_data(c->call, view_of(at, n));
	return c->call ? 0 : HPE_USER;
}

static int on_message_complete(llhttp_t *p)
{
	struct client_conn *c = p->data;
	if (p->status_code < 200)
		return 0;
	c->complete = true;
	return HPE_PAUSED;
}

const llhttp_settings_t client_parser_settings = {
	.on_message_begin = on_message_begin,
	.on_header_field = on_header_field,
	.on_header_value = on_header_value,
	.on_header_value_complete = on_header_value_complete,
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_message_complete,
};
