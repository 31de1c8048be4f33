/* SPDX-License-Identifier: Apache-2.0
 *
 * Server-sent events of a chat, read as they come.
 */
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "cli/cli_int.h"

void sse_init(struct sse *s, sse_fn *fn, void *arg)
{
	*s = (struct sse){ .line = BUF(SSE_EVENT_MAX), .data = BUF(SSE_EVENT_MAX), .fn = fn, .arg = arg };
}

void sse_done(struct sse *s)
{
	buf_done(&s->line);
	buf_done(&s->data);
}

static void end_line(struct sse *s)
{
	struct view rest, l = buf_view(&s->line);
	if (l.n == 0) {
		if (s->has_data && !s->broken)
			s->fn(s->arg, buf_view(&s->data));
		s->has_data = s->broken = false;
		buf_reset(&s->data);
		return;
	}
	struct view name = view_split(l, ':', &rest);
	if (view_eqs(name, "data")) {
		if (rest.n && rest.p[0] == ' ')
			rest = view_from(rest, 1);
		if (s->has_data && buf_addc(&s->data, '\n'))
			s->broken = true;
		if (buf_addv(&s->data, rest))
			s->broken = true;
		s->has_data = true;
	}
	buf_reset(&s->line);
}

void sse_feed(struct sse *s, struct view bytes)
{
	for (size_t i = 0; i < bytes.n; i++) {
		char c = bytes.p[i];
		bool after_cr = s->after_cr;
		s->after_cr = c == '\r';
		if (c == '\n' && after_cr)
			continue;
		if (c == '\n' || c == '\r')
			end_line(s);
		else if (buf_addc(&s->line, c))
			s->broken = true;
	}
}

void chat_delta_done(struct chat_delta *d)
{
	free(d->content);
	free(d->reasoning);
	free(d->error);
	free(d->finish);
	*d = (struct chat_delta){ 0 };
}

static char *text_of(yyjson_val *obj, const char *key)
{
	yyjson_val *v = yyjson_obj_get(obj, key);
	return yyjson_is_str(v) ? mem_viewdup(view_of(yyjson_get_str(v), yyjson_get_len(v))) : NULL;
}

void chat_delta_read(struct view data, struct chat_delta *ret)
{
	*ret = (struct chat_delta){ 0 };
	if (view_eqs(view_trim(data), "[DONE]")) {
		ret->done = true;
		return;
	}
	yyjson_doc *doc = yyjson_read(data.p, data.n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	yyjson_val *err = yyjson_obj_get(root, "error");
	if (!doc) {
		ret->error = mem_strdup("the server sent an event that is not JSON");
	} else if (err) {
		ret->error = yyjson_is_str(err) ? mem_strdup(yyjson_get_str(err)) : text_of(err, "message");
		if (!ret->error)
			ret->error = mem_strdup("the server ended the answer with an error and no message");
	} else {
		yyjson_val *choice = yyjson_arr_get(yyjson_obj_get(root, "choices"), 0);
		yyjson_val *delta = yyjson_obj_get(choice, "delta");
		ret->content = text_of(delta, "content");
		ret->reasoning = text_of(delta, "reasoning_content");
		ret->finish = text_of(choice, "finish_reason");
	}
	yyjson_doc_free(doc);
}
