/* SPDX-License-Identifier: Apache-2.0 */
#include "node/stream_int.h"

#include "base/mem.h"

bool stream_room(const struct node *n, enum stream_kind kind)
{
	return n->nstreams[kind] < NODE_STREAMS_MAX;
}

void *stream_new(struct node *n, struct http_exchange *x, const struct stream_ops *ops, size_t size)
{
	struct stream *s = mem_alloc(size);
	s->owner = n;
	s->x = x;
	s->ops = ops;
	list_append(&n->streams, &s->node);
	n->nstreams[ops->kind]++;
	return s;
}

void stream_free(struct stream *s)
{
	s->ops->release(s);
	list_remove(&s->node);
	s->owner->nstreams[s->ops->kind]--;
	loop_defer_free(s->owner->loop, s);
}

void stream_end(struct stream *s)
{
	struct http_exchange *x = s->x;
	stream_free(s);
	http_end(x);
}

void streams_done(struct node *n)
{
	LIST_FOREACH(s, &n->streams, struct stream, node)
	stream_end(s);
}

static void on_drained(void *arg)
{
	struct stream *s = arg;
	s->full = false;
	if (s->ops->on_drained)
		s->ops->on_drained(s);
}

static void on_gone(void *arg)
{
	stream_free(arg);
}

static const struct http_handler handler = { .on_drained = on_drained, .on_gone = on_gone };

void stream_start(struct stream *s, bool events)
{
	AUTO(buf_done) struct buf head = BUF(256);
	(void)http_header_add(&head, "Content-Type",
		events ? VIEW("text/event-stream") : VIEW("text/plain; charset=utf-8"));
	if (events)
		(void)http_header_add(&head, "Cache-Control", VIEW("no-cache"));
	http_handle(s->x, &handler, s);
	http_start(s->x, 200, &head, -1);
	http_flush(s->x);
}

void stream_send(struct stream *s, struct view bytes)
{
	s->full = http_body(s->x, bytes);
	http_flush(s->x);
}
