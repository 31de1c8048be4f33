/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "machine.h"
#include "net/listen.h"

enum { DEADLINE_MS = 20000 };

static void on_pools(void *arg)
{
	((struct world *)arg)->published++;
}

static void on_gone(void *arg, struct pool_replica *r, bool cut)
{
	(void)arg;
	(void)cut;
	pool_replica_unref(r);
}

/* The node's side of the wire: PUT …/replicas is kept, everything is answered. */
struct call {
	struct world *w;
	struct http_exchange *x;
	struct buf body;
	bool put;
};

static void call_body(void *arg, struct view bytes)
{
	(void)buf_addv(&((struct call *)arg)->body, bytes);
}

static void call_free(void *arg)
{
	buf_done(&((struct call *)arg)->body);
	free(arg);
}

static void call_end(void *arg)
{
	struct call *c = arg;
	struct wire_desired d = { 0 };
	struct err e = { 0 };
	if (c->put) {
		assert_int_equal(wire_desired_decode(buf_view(&c->body), &d, &e), 0);
		wire_desired_done(&c->w->wants);
		c->w->wants = d;
		c->w->pushes++;
	}
	http_reply(c->x, 200, "application/json", NULL, VIEW("{}"));
	call_free(c);
}

static void on_request(void *arg, struct http_exchange *x)
{
	static const struct http_handler h = {
		.on_body = call_body, .on_body_end = call_end, .on_gone = call_free
	};
	struct call *c = NEW(struct call);
	c->w = arg;
	c->x = x;
	c->put = view_eqs(http_path(x), "/v1/node/replicas");
	buf_init(&c->body, WIRE_BODY_MAX);
	http_handle(x, &h, c);
}

static struct config *config_of(const char *pools)
{
	static const char *const env[] = { "HOME=/nowhere", NULL };
	AUTO(mem_freep) char *text = mem_fmt("pools:\n%s", pools);
	struct config_source src = { .path = "t.yaml", .text = view_str(text), .env = env };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config *c = NULL;
	if (config_load(&src, &c, &errs))
		fail_msg("%s: %s", errs.items[0].message, text);
	return c;
}

void world_start(struct world *w, const char *pools)
{
	*w = (struct world){ .size_bytes = 1000 };
	const char *tmp = getenv("TMPDIR");
	snprintf(w->dir, sizeof w->dir, "%s/machine-XXXXXX", tmp ? tmp : P_tmpdir);
	assert_non_null(mkdtemp(w->dir));
	w->loop = loop_new("test");
	w->registry = registry_new(&(struct registry_opts){ 0 });
	w->metrics = metrics_new();
	struct http_server_opts so = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = w };
	AUTO(mem_freep) char *address = mem_fmt("unix:%s/n", w->dir);
	struct net_addr a;
	struct err e = { 0 };
	assert_int_equal(net_addr_parse(view_str(address), &a, &e), 0);
	assert_int_equal(net_listen(&a, 0600, &w->fd, &e), 0);
	w->server = http_server_new(w->loop, &so);
	assert_int_equal(http_server_listen(w->server, w->fd), 0);
	AUTO(config_unrefp) struct config *cfg = config_of(pools);
	w->control = control_new(&(struct control_opts){ .loop = w->loop,
		.config = cfg,
		.registry = w->registry,
		.metrics = w->metrics,
		.on_pools = on_pools,
		.on_replica_gone = on_gone,
		.arg = w });
}

void world_end(struct world *w)
{
	control_pause(w->control);
	control_quiesce(w->control);
	control_free(w->control);
	http_server_free(w->server);
	registry_free(w->registry);
	wire_desired_done(&w->wants);
	loop_free(w->loop);
	metrics_free(w->metrics);
	AUTO(mem_freep) char *path = mem_fmt("%s/n", w->dir);
	fd_close(w->fd);
	unlink(path);
	rmdir(w->dir);
}

static void on_poll(void *arg)
{
	struct world *w = arg;
	if (w->probe(w) || mono_before(w->until, mono_now()))
		loop_stop(w->loop);
	else
		loop_timer_start(w->loop, &w->poll, 1, on_poll, w);
}

bool wait_for(struct world *w, bool (*probe)(struct world *), const char *id)
{
	w->probe = probe;
	w->id = id;
	w->until = mono_add_ms(mono_now(), DEADLINE_MS);
	loop_timer_start(w->loop, &w->poll, 0, on_poll, w);
	loop_run(w->loop);
	loop_timer_stop(&w->poll);
	return probe(w);
}

static unsigned polls;

static bool enough_polls(struct world *w)
{
	(void)w;
	return ++polls > 30;
}

void rounds(struct world *w)
{
	polls = 0;
	wait_for(w, enough_polls, NULL);
}

/* ---- what the node says ----------------------------------------------------------------------------------
 */

struct engine *engine(struct world *w, const char *id)
{
	for (size_t i = 0; i < w->nengines; i++)
		if (strcmp(w->engines[i].id, id) == 0)
			return &w->engines[i];
	assert_true(w->nengines < ENGINES_MAX);
	struct engine *e = &w->engines[w->nengines++];
	*e = (struct engine){ .generation = 1 };
	snprintf(e->id, sizeof e->id, "%s", id);
	return e;
}

static void fill(const struct engine *e, struct wire_replica *r)
{
	*r = (struct wire_replica){ .replica_id = (char *)(uintptr_t)e->id,
		.pool_id = (char *)(uintptr_t) "a",
		.have = WR_ALL,
		.state = e->state,
		.generation = e->generation,
		.address = (char *)(uintptr_t) "unix:/nowhere/engine",
		.slots_total = 2,
		.slots_free = 2,
		.spec = e->spec[0] ? (char *)(uintptr_t)e->spec : NULL,
		.model = e->model[0] ? (char *)(uintptr_t)e->model : NULL,
		.retry_in_ms = -1,
		.load_ms = 1 };
	r->last_error.message = (char *)(uintptr_t)e->error;
	r->last_error.cause = e->error ? CAUSE_BAD_MODEL : CAUSE_NONE;
}

void say(struct world *w)
{
	AUTO(mem_freep) char *address = mem_fmt("unix:%s/n", w->dir);
	struct wire_replica list[ENGINES_MAX];
	struct wire_model m = { .pool_id = (char *)(uintptr_t) "a",
		.path = (char *)(uintptr_t) "/m/one.gguf",
		.size_bytes = w->size_bytes };
	struct wire_device cpu = { .device_id = (char *)(uintptr_t) "cpu",
		.kind = (char *)(uintptr_t) "cpu",
		.state = (char *)(uintptr_t) "ok" }; /* there is always one */
	for (size_t i = 0; i < w->nengines; i++)
		fill(&w->engines[i], &list[i]);
	struct wire_node n = { .node_id = (char *)(uintptr_t) "n",
		.boot_id = (char *)(uintptr_t) "b",
		.address = address,
		.pid = 7,
		.complete = true,
		.models = &m,
		.nmodels = 1,
		.devices = &cpu,
		.ndevices = 1,
		.replicas = list,
		.nreplicas = w->nengines,
		.seq = ++w->seq };
	struct err e = { 0 };
	assert_int_equal(registry_register(w->registry, &n, mono_now(), NULL, &e), 0);
}

const struct wire_want *want(const struct world *w, const char *id)
{
	for (size_t i = 0; i < w->wants.nwants; i++)
		if (strcmp(w->wants.wants[i].replica_id, id) == 0)
			return &w->wants.wants[i];
	return NULL;
}

bool is_wanted(struct world *w)
{
	return want(w, w->id) != NULL;
}

bool is_unwanted(struct world *w)
{
	return !want(w, w->id);
}

bool is_done(struct world *w)
{
	return w->ndone > 0;
}

void becomes(struct world *w, const char *id, enum replica_state st, const char *error)
{
	struct engine *e = engine(w, id);
	const struct wire_want *x = want(w, id);
	e->state = st;
	e->error = error;
	if (x && x->spec)
		snprintf(e->spec, sizeof e->spec, "%s", x->spec);
	snprintf(e->model, sizeof e->model, "%s", x && x->model ? x->model : "");
	say(w);
}

void vanishes(struct world *w, const char *id)
{
	for (size_t i = 0; i < w->nengines; i++)
		if (strcmp(w->engines[i].id, id) == 0)
			w->engines[i] = w->engines[--w->nengines];
	say(w);
}

struct control_pool *pool_a(struct world *w)
{
	struct control_pool *p = control_pool_find(w->control, VIEW("a"));
	assert_non_null(p);
	return p;
}

bool in_pool(struct world *w)
{
	struct control_pool *p = map_gets(&w->control->all, "a");
	struct control_slot *s = p ? slot_find(p, view_str(w->id)) : NULL;
	return s && s->in_pool;
}

void starts_ready(struct world *w, const char *id)
{
	assert_true(wait_for(w, is_wanted, id));
	becomes(w, id, REPLICA_READY, NULL);
	assert_true(wait_for(w, in_pool, id));
}

bool no_reload(struct world *w)
{
	struct control_pool *p = map_gets(&w->control->all, "a");
	return !p || !p->reload;
}

void set_config(struct world *w, const char *pools)
{
	AUTO(config_unrefp) struct config *cfg = config_of(pools);
	control_set_config(w->control, cfg);
}

static void on_reloaded(void *arg, const struct control_reload_done *d)
{
	struct world *w = arg;
	w->done = *d;
	w->ndone++;
	snprintf(w->message, sizeof w->message, "%s", d->message ? d->message : "");
}

void reload(struct world *w, const char *model)
{
	struct err e = { 0 };
	w->ndone = 0;
	if (control_reload(w->control, pool_a(w), model, "ann", on_reloaded, w, &e))
		fail_msg("%s", e.msg);
}

struct lease lease(struct world *w)
{
	struct waiter unused = { .loop = w->loop };
	struct lease l = { 0 };
	struct pool_refusal why;
	assert_int_equal(pool_acquire(control_pool_traffic(pool_a(w)), &unused, false, mono_now(), &l, &why),
		POOL_GRANTED);
	return l;
}
