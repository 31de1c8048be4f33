/* SPDX-License-Identifier: Apache-2.0
 *
 * Replicas that make no progress: how it is seen in /slots, and what is done about one. Judged by progress,
 * never by the health endpoint, which a dead device context leaves untouched.
 */
#include "control/control_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "log/log.h"

enum { CONDEMN_TIMEOUT_MS = 10000 };

/* ---- progress in /slots ------------------------------------------------------------------------------ */

static void mix(uint64_t *h, yyjson_val *v)
{
	uint64_t x = yyjson_is_bool(v) ? yyjson_get_bool(v) : (uint64_t)yyjson_get_sint(v);
	for (int i = 0; i < 8; i++)
		*h = (*h ^ (x >> (8 * i) & 0xff)) * 0x100000001b3u; /* FNV-1a */
}

/* What llama-server counts: which task, tokens read, tokens made. */
int slots_read(struct view body, uint64_t *ret_counters)
{
	yyjson_doc *d = body.n ? yyjson_read(body.p, body.n, 0) : NULL;
	yyjson_val *list = yyjson_doc_get_root(d), *slot, *token;
	int busy = yyjson_is_arr(list) ? 0 : -1;
	uint64_t h = 0xcbf29ce484222325u;
	size_t i, n, k, m;
	yyjson_arr_foreach(list, i, n, slot)
	{
		busy += yyjson_get_bool(yyjson_obj_get(slot, "is_processing"));
		mix(&h, yyjson_obj_get(slot, "is_processing"));
		mix(&h, yyjson_obj_get(slot, "id_task"));
		mix(&h, yyjson_obj_get(slot, "n_prompt_tokens_processed"));
		yyjson_val *next = yyjson_obj_get(slot, "next_token");
		yyjson_arr_foreach(next, k, m, token) mix(&h, yyjson_obj_get(token, "n_decoded"));
	}
	yyjson_doc_free(d);
	*ret_counters = h;
	return busy;
}

/* ---- the end of a hung one ---------------------------------------------------------------------------- */

struct condemned {
	struct list node; /* on c->condemned while the node is being told */
	struct control *c;
	struct http_fetch *fetch;
	char id[POOL_ID_MAX], pool_id[POOL_ID_MAX];
	uint64_t generation;
};

/* A node that does not know this generation any more will say what there is. One that could not be told
 * leaves the engine as it is: it gets traffic again, and is looked at again. */
static void on_condemned(void *arg, int status, struct view body, const struct err *e)
{
	(void)body;
	struct condemned *k = arg;
	if (status != 200 && status != 202 && status != 204 && status != 409) {
		struct control_pool *p = map_get(&k->c->all, view_str(k->pool_id));
		struct control_slot *s = p ? slot_find(p, view_str(k->id)) : NULL;
		log_warn("hung", k->id, "The node was not told to end the hung replica %s: %s.", k->id,
			e ? e->msg : "it refused");
		if (s && s->retired == k->generation)
			s->retired = 0;
		control_wake(k->c);
	}
	list_remove(&k->node);
	free(k);
}

void hung_done(struct control *c)
{
	struct list *n;
	while ((n = list_pop(&c->condemned))) {
		struct condemned *k = LIST_ENTRY(n, struct condemned, node);
		http_fetch_cancel(&k->fetch);
		free(k);
	}
}

static void condemn(struct control_pool *p, struct control_slot *s, uint64_t generation, const char *message)
{
	struct control *c = p->control;
	char path[POOL_ID_MAX + 64];
	snprintf(path, sizeof path, "/v1/node/replicas/%s/condemn", s->id);
	AUTO(buf_done) struct buf body = BUF(4 * KIB);
	(void)buf_addf(&body,
		"{\"generation\":%llu,\"cause\":\"hung\",\"message\":", (unsigned long long)generation);
	(void)buf_add_json(&body, view_str(message));
	(void)buf_adds(&body, "}");
	struct condemned *k = NEW(struct condemned);
	k->c = c;
	k->generation = generation;
	snprintf(k->id, sizeof k->id, "%s", s->id);
	snprintf(k->pool_id, sizeof k->pool_id, "%s", p->cfg->id);
	struct http_fetch_req r = { .method = "POST",
		.path = path,
		.content_type = "application/json",
		.body = buf_view(&body),
		.timeout_ms = CONDEMN_TIMEOUT_MS };
	list_append(&c->condemned, &k->node);
	k->fetch = http_fetch(c->node, &r, on_condemned, k);
}

void control_hung(struct control_pool *p, struct pool_replica *r, const char *message)
{
	struct control *c = p->control;
	struct control_slot *s = slot_find(p, view_str(r->id));
	log_event(LOG_WARN, "hung", r->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_STR("replica_id", r->id), LOG_END },
		"Replica %s hangs: %s.", r->id, message);
	if (p->external || !s || s->generation != r->generation || !c->node) {
		/* Nobody can end it: what is on it does. It stays, and is asked whether it answers. */
		pool_replica_down(r);
		c->o.on_replica_gone(c->o.arg, pool_replica_ref(r), true);
		return;
	}
	condemn(p, s, r->generation, message);
	s->retired = r->generation; /* taken out, and what is on it cut, by the next reconciliation */
	control_wake(c);
}

/* ---- from the data loops ------------------------------------------------------------------------------ */

struct silent {
	struct control *c;
	struct pool_replica *r;
	bool over;
	int64_t limit_ms;
};

static void silent_on_loop(void *arg)
{
	struct silent *v = arg;
	struct control_pool *p = map_get(&v->c->all, view_str(pool_id(v->r->pool)));
	if (p && p->pool == v->r->pool && !v->c->quiet &&
		!atomic_load_explicit(&v->r->gone, memory_order_acquire))
		cooler_silent(p, v->r, v->over, v->limit_ms);
	pool_replica_unref(v->r);
	free(v);
}

void control_silent(struct control *c, struct pool_replica *r, bool over, int64_t limit_ms)
{
	struct silent *v = NEW(struct silent);
	*v = (struct silent){ c, r, over, limit_ms };
	loop_post_call(c->o.loop, silent_on_loop, v);
}
