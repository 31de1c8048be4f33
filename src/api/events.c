/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/events: every event at info and above, as it is logged, to whoever listens. A listener that does not
 * read is dropped, with a last comment, when API_STREAM_MAX waits for it.
 */
#include <stdio.h>
#include <stdlib.h>

#include "api/api_int.h"
#include "base/mem.h"
#include "log/log.h"

enum { COMMENT_MS = 15000 };

struct subscriber {
	struct list node;
	struct api *api;
	struct api_call *call;
};

struct event {
	struct api *api;
	char *line;
	size_t n;
};

static void unsubscribe(struct subscriber *s)
{
	list_remove(&s->node);
	s->api->nstreams--;
	if (list_empty(&s->api->subscribers))
		log_set_tap(NULL, NULL);
	free(s);
}

static void send_all(struct api *a, struct view bytes)
{
	LIST_FOREACH(s, &a->subscribers, struct subscriber, node)
	{
		if (atomic_load_explicit(&s->call->unsent, memory_order_relaxed) + bytes.n <=
			API_STREAM_MAX) {
			api_send(s->call, bytes);
			continue;
		}
		api_finish(s->call, false);
		unsubscribe(s);
	}
}

static void on_event(void *arg)
{
	struct event *e = arg;
	AUTO(buf_done) struct buf b = BUF(e->n + 64);
	(void)buf_addf(&b, "id: %llu\ndata: ", (unsigned long long)++e->api->next_event);
	(void)buf_add(&b, e->line, e->n);
	(void)buf_adds(&b, "\n\n");
	send_all(e->api, buf_view(&b));
	free(e->line);
	free(e);
}

/* On the thread that logged, or the log's. */
static void tap(void *arg, struct view line)
{
	struct api *a = arg;
	struct event *e = NEW(struct event);
	e->api = a;
	e->line = mem_viewdup(line);
	e->n = line.n;
	loop_post_call(a->o.loop, on_event, e);
}

static void on_comment(void *arg)
{
	struct api *a = arg;
	send_all(a, VIEW(":\n\n"));
	loop_timer_start(a->o.loop, &a->comment, COMMENT_MS, on_comment, a);
}

void events_init(struct api *a)
{
	loop_timer_start(a->o.loop, &a->comment, COMMENT_MS, on_comment, a);
}

void event_streams_done(struct api *a)
{
	LIST_FOREACH(s, &a->subscribers, struct subscriber, node)
	{
		api_finish(s->call, true);
		unsubscribe(s);
	}
}

void events_done(struct api *a)
{
	loop_timer_stop(&a->comment);
	event_streams_done(a);
}

static void on_left(void *arg)
{
	unsubscribe(arg);
}

void route_events(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	if (c->method == HTTP_M_HEAD || a->nstreams >= API_STREAMS_MAX) {
		if (c->method == HTTP_M_HEAD)
			api_reply(c, 200, "text/event-stream", NULL, (struct view){ 0 });
		else
			api_failf(c, CODE_ADMISSION_REJECT, 0, "",
				"There are %d event and log streams already.", API_STREAMS_MAX);
		return;
	}
	if (refuse_when_draining(a, c))
		return;
	struct subscriber *s = NEW(struct subscriber);
	s->api = a;
	s->call = c;
	c->on_gone = on_left;
	c->arg = s;
	if (list_empty(&a->subscribers))
		log_set_tap(tap, a); /* nothing is formatted for nobody */
	list_append(&a->subscribers, &s->node);
	a->nstreams++;
	api_stream(c, "text/event-stream", NULL);
	api_send(c, VIEW(": events from here on\n\n"));
}
