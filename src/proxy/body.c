/* SPDX-License-Identifier: Apache-2.0
 *
 * What a request's body says it wants, found while it arrives: JSON, or a form on the routes that take one.
 * Whichever it was, q->scan holds the result; a form's model is where q->scan says it is, without quotes.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "dialect/multipart.h"
#include "proxy/proxy_int.h"

static bool is_form(const struct request *q)
{
	struct view rest, t = http_header_get(http_headers(q->x), "content-type");
	return q->route.form && view_eq_ci(view_trim(view_split(t, ';', &rest)), VIEW("multipart/form-data"));
}

void request_scan_begin(struct request *q)
{
	q->scanning = !q->route.get && q->route.kind != ROUTE_UPSTREAM;
	if (!q->scanning)
		return;
	body_scan_init(&q->scan);
	if (!is_form(q))
		return;
	q->form = NEW(struct multipart_scan);
	/* what it says of the type is told with the body, as every other fault of a form */
	(void)multipart_scan_init(q->form, http_header_get(http_headers(q->x), "content-type"));
}

static void refuse(struct request *q)
{
	struct err of_json;
	const struct err *e = q->form ? &q->form->err : &of_json;
	if (!q->form)
		(void)body_scan_error(&q->scan, &of_json);
	struct api_error a = { .code = CODE_INVALID_PARAMS, .retriable = -1, .message = view_str(e->msg) };
	request_fail(q, &a);
}

void request_scan(struct request *q, struct view v)
{
	if (!q->scanning)
		return;
	if (q->form ? multipart_scan_feed(q->form, v) : body_scan_feed(&q->scan, v))
		refuse(q);
}

static void take_form(struct request *q)
{
	const struct multipart_scan *f = q->form;
	struct body_scan *s = &q->scan;
	s->has_model = f->has_model;
	s->has_stream = f->has_stream;
	s->stream = f->stream;
	s->bytes = f->bytes;
	s->model_begin = f->model_begin;
	s->model_end = f->model_end;
	s->model_len = (uint32_t)f->model_len;
	memcpy(s->model, f->model, f->model_len + 1);
}

bool request_scan_end(struct request *q)
{
	/* erasing a slot needs no body; everything else is about what its body says */
	if (!q->scanning || (q->route.kind == ROUTE_SLOT && !spool_size(&q->spool)))
		return true;
	if (q->form && http_header_count(http_headers(q->x), "content-type") != 1) {
		request_failf(q, CODE_INVALID_PARAMS, "", "A form is sent with one Content-Type header.");
		return false;
	}
	if (q->form ? multipart_scan_end(q->form) : body_scan_end(&q->scan)) {
		refuse(q);
		return false;
	}
	if (q->form)
		take_form(q);
	return true;
}
