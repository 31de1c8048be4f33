/* SPDX-License-Identifier: Apache-2.0
 *
 * From llhttp's callbacks to a response. Interim responses (1xx) are read over.
 */
#include "http/client_int.h"

enum { INTERIM_MAX = 16 }; /* interim answers before the answer */

static int on_message_begin(llhttp_t *p)
{
	struct client_conn *c = p->data;
	gather_reset(&c->head);
	c->complete = false;
	return 0;
}

static int on_header_field(llhttp_t *p, const char *at, size_t n)
{
	struct client_conn *c = p->data;
	return gather_name(&c->head, at, n) < 0 ? HPE_USER : 0;
}

static int on_header_value(llhttp_t *p, const char *at, size_t n)
{
	struct client_conn *c = p->data;
	return gather_value(&c->head, at, n) < 0 ? HPE_USER : 0;
}

static int on_header_value_complete(llhttp_t *p)
{
	struct client_conn *c = p->data;
	gather_value_end(&c->head);
	return 0;
}

static int on_headers_complete(llhttp_t *p)
{
	struct client_conn *c = p->data;
	if (p->status_code < 200) {
		if (++c->interim > INTERIM_MAX)
			return HPE_USER;
		c->head.done = true;
		if (p->status_code == 101)
			return HPE_USER; /* nothing here asks for another protocol */
		p->upgrade = 0;
		return 0;
	}
	if (p->http_major != 1)
		return HPE_USER;
	p->upgrade = 0;
	struct http_headers h;
	if (gather_headers(&c->head, &h))
		return HPE_USER;
	bool no_body = p->status_code == 204 || p->status_code == 304;
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
