/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler with a real registry and a node that the test plays: what is pushed to the node is read,
 * what the node reports is said. Everything waits for a state, with a deadline.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mask.h"
#include "base/mem.h"
#include "control/control_int.h"
#include "http/server.h"
#include "log/log.h"
#include "net/listen.h"

enum { DEADLINE_MS = 20000, ENGINES_MAX = 8 };

/* ---- the world -------------------------------------------------------------------------------------------
 */

struct engine {
	char id[32], spec[CONFIG_SPEC_LEN + 1], model[64];
	enum replica_state state;
	uint64_t generation;
	const char *error;
};

struct world {
	char dir[64];
	struct loop *loop;
	struct registry *registry;
	struct metrics *metrics;
	struct control *control;
	struct http_server *server;
	int fd;
	struct wire_desired wants;
	unsigned pushes;
	struct engine engines[ENGINES_MAX];
	size_t nengines;
	uint64_t seq, size_bytes;
	unsigned published;
	/* waiting for a state */
	bool (*probe)(struct world *w);
	struct loop_timer poll;
	mono_t until;
	const char *id;
	/* what came back */
	struct control_reload_done done;
	char message[256];
	unsigned ndone;
};

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

#define POOL(id, rest) "  - {id: " id ", keep_alive: never, engine: {path: /bin/true}, " rest "}\n"

static void world_start(struct world *w, const char *pools)
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

static void world_end(struct world *w)
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

static bool wait_for(struct world *w, bool (*probe)(struct world *), const char *id)
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

/* Whatever has to follow from what was said has followed. */
static void rounds(struct world *w)
{
	polls = 0;
	wait_for(w, enough_polls, NULL);
}

/* ---- what the node says ----------------------------------------------------------------------------------
 */

static struct engine *engine(struct world *w, const char *id)
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

static void say(struct world *w)
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

static const struct wire_want *want(const struct world *w, const char *id)
{
	for (size_t i = 0; i < w->wants.nwants; i++)
		if (strcmp(w->wants.wants[i].replica_id, id) == 0)
			return &w->wants.wants[i];
	return NULL;
}

static bool is_wanted(struct world *w)
{
	return want(w, w->id) != NULL;
}

static bool is_unwanted(struct world *w)
{
	return !want(w, w->id);
}

static bool is_done(struct world *w)
{
	return w->ndone > 0;
}

/* The engine runs from what is wanted, and is in that state. */
static void becomes(struct world *w, const char *id, enum replica_state st, const char *error)
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

static void vanishes(struct world *w, const char *id)
{
	for (size_t i = 0; i < w->nengines; i++)
		if (strcmp(w->engines[i].id, id) == 0)
			w->engines[i] = w->engines[--w->nengines];
	say(w);
}

static struct control_pool *pool_a(struct world *w)
{
	struct control_pool *p = control_pool_find(w->control, VIEW("a"));
	assert_non_null(p);
	return p;
}

static bool in_pool(struct world *w)
{
	struct control_pool *p = map_gets(&w->control->all, "a");
	struct control_slot *s = p ? slot_find(p, view_str(w->id)) : NULL;
	return s && s->in_pool;
}

static void starts_ready(struct world *w, const char *id)
{
	assert_true(wait_for(w, is_wanted, id));
	becomes(w, id, REPLICA_READY, NULL);
	assert_true(wait_for(w, in_pool, id));
}

static bool no_reload(struct world *w)
{
	struct control_pool *p = map_gets(&w->control->all, "a");
	return !p || !p->reload;
}

static void set_config(struct world *w, const char *pools)
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

static void reload(struct world *w, const char *model)
{
	struct err e = { 0 };
	w->ndone = 0;
	if (control_reload(w->control, pool_a(w), model, "ann", on_reloaded, w, &e))
		fail_msg("%s", e.msg);
}

static struct lease lease(struct world *w)
{
	struct waiter unused = { .loop = w->loop };
	struct lease l = { 0 };
	struct pool_refusal why;
	assert_int_equal(pool_acquire(control_pool_traffic(pool_a(w)), &unused, false, mono_now(), &l, &why),
		POOL_GRANTED);
	return l;
}

#define ONE POOL("a", "model: /m/one.gguf, replicas: 1")
#define ONE_CTX POOL("a", "model: /m/one.gguf, replicas: 1, ctx: 4096")
#define ONE_CTX2 POOL("a", "model: /m/one.gguf, replicas: 1, ctx: 2048")
#define OTHER_MODEL POOL("a", "model: /m/other.gguf, replicas: 1")

/* ---- configurations --------------------------------------------------------------------------------------
 */

static void test_same_config_touches_nothing(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	unsigned pushes = w.pushes;
	set_config(&w, ONE);
	set_config(&w, POOL("a", "model: /m/one.gguf, replicas: 1, aliases: [b], queue: {capacity: 3}"));
	rounds(&w);
	assert_int_equal(w.pushes, pushes);
	struct pool_opts o;
	pool_options(control_pool_traffic(pool_a(&w)), &o);
	assert_int_equal(o.queue_capacity, 3);
	assert_ptr_equal(control_pool_find(w.control, VIEW("b")), pool_a(&w));
	assert_int_equal(w.published, 3);
	world_end(&w);
}

static void test_changed_spec(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	struct lease l = lease(&w);
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	assert_string_not_equal(want(&w, "a-1")->spec, want(&w, "a-0")->spec);
	assert_false(want(&w, "a-1")->pulled_in);
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, no_reload, NULL));
	rounds(&w);
	assert_non_null(want(&w, "a-0")); /* its request is not over */
	struct lease l2 = lease(&w);
	assert_string_equal(l2.replica->id, "a-1");
	assert_int_equal(lease_release(&l), 0);
	assert_int_equal(lease_release(&l2), 0);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	vanishes(&w, "a-0");
	assert_non_null(want(&w, "a-1"));
	world_end(&w);
}

static void test_changed_spec_fails(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_FAILED, "it is broken");
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	assert_non_null(want(&w, "a-0"));
	assert_string_equal(control_pool_reload_error(pool_a(&w))->message, "it is broken");
	assert_int_equal(control_pool_state(w.control, pool_a(&w)), POOL_STATE_READY);
	struct lease l = lease(&w); /* it serves on */
	assert_int_equal(lease_release(&l), 0);
	vanishes(&w, "a-1");
	set_config(&w, ONE_CTX); /* a reload of the configuration tries again */
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_null(control_pool_reload_error(pool_a(&w)));
	world_end(&w);
}

/* Nothing serves that could be lost: what failed is started with the new values. */
static void test_changed_spec_of_a_failed_pool(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	assert_true(wait_for(&w, is_wanted, "a-0"));
	becomes(&w, "a-0", REPLICA_FAILED, "bad values");
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	starts_ready(&w, "a-1");
	assert_true(wait_for(&w, no_reload, NULL));
	world_end(&w);
}

static void test_newest_wins(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_STARTING, NULL);
	set_config(&w, ONE_CTX2);
	assert_true(wait_for(&w, is_wanted, "a-2"));
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	set_config(&w, ONE); /* and back */
	assert_true(wait_for(&w, is_unwanted, "a-2"));
	assert_non_null(want(&w, "a-0"));
	assert_true(wait_for(&w, no_reload, NULL));
	set_config(&w, ONE_CTX);
	set_config(&w, ONE);
	set_config(&w, ONE_CTX2);
	assert_true(wait_for(&w, is_wanted, "a-2"));
	becomes(&w, "a-2", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	world_end(&w);
}

static bool pool_is_gone(struct world *w)
{
	return !map_gets(&w->control->all, w->id);
}

static void never_granted(void *arg, struct lease l)
{
	(void)arg;
	(void)l;
	fail_msg("granted");
}

static void note_refusal(void *arg, const struct pool_refusal *why, enum waiter_end end)
{
	assert_int_equal(end, WAITER_CLOSED);
	*(int *)arg = why->code;
}

static void test_removed_and_back(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE POOL("b", "model: /m/b.gguf"));
	say(&w);
	starts_ready(&w, "a-0");
	struct lease l = lease(&w), l2 = lease(&w);
	int code = 0;
	struct waiter waits = {
		.loop = w.loop, .on_grant = never_granted, .on_refused = note_refusal, .arg = &code
	};
	struct pool *traffic = pool_ref(control_pool_traffic(pool_a(&w)));
	struct lease none;
	struct pool_refusal why;
	assert_int_equal(pool_acquire(traffic, &waits, false, mono_now(), &none, &why), POOL_QUEUED);
	set_config(&w, POOL("b", "model: /m/b.gguf"));
	assert_null(control_pool_find(w.control, VIEW("a")));
	rounds(&w);
	assert_non_null(want(&w, "a-0"));                  /* two requests run */
	set_config(&w, ONE POOL("b", "model: /m/b.gguf")); /* it comes back, and serves on */
	assert_ptr_equal(control_pool_traffic(pool_a(&w)), traffic);
	rounds(&w);
	assert_int_equal(lease_release(&l2), 0);
	l2 = lease(&w);
	set_config(&w, POOL("b", "model: /m/b.gguf"));
	assert_int_equal(lease_release(&l), 0);
	assert_int_equal(lease_release(&l2), 0);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_int_equal(code, REFUSE_MODEL_NOT_FOUND);
	vanishes(&w, "a-0");
	assert_true(wait_for(&w, pool_is_gone, "a"));
	/* A request that knew the pool still is told, and nobody is called that is gone. */
	assert_int_equal(pool_acquire(traffic, &waits, false, mono_now(), &none, &why), POOL_CLOSED);
	pool_unref(traffic);
	assert_non_null(control_pool_find(w.control, VIEW("b")));
	world_end(&w);
}

static void test_fewer_replicas(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf, replicas: 2"));
	say(&w);
	starts_ready(&w, "a-0");
	starts_ready(&w, "a-1");
	set_config(&w, ONE);
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	vanishes(&w, "a-1");
	set_config(&w, POOL("a", "model: /m/one.gguf, replicas: 3"));
	assert_true(wait_for(&w, is_wanted, "a-2"));
	assert_non_null(want(&w, "a-1"));
	world_end(&w);
}

/* ---- what runs when we start ------------------------------------------------------------------------------
 */

static void test_found_engines_of_another_configuration(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf"));
	struct engine *e = engine(&w, "a-4");
	e->state = REPLICA_READY;
	snprintf(e->spec, sizeof e->spec, "0123456789abcdef");
	say(&w);
	assert_true(wait_for(&w, is_wanted, "a-0"));
	assert_string_equal(want(&w, "a-4")->spec, "0123456789abcdef"); /* it serves meanwhile */
	becomes(&w, "a-0", REPLICA_FAILED, "no");
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_non_null(want(&w, "a-4"));
	vanishes(&w, "a-0");
	reload(&w, NULL);
	assert_true(wait_for(&w, is_wanted, "a-0"));
	becomes(&w, "a-0", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-4"));
	assert_true(w.done.ok);
	world_end(&w);
}

static void test_found_in_the_middle_of_a_replacement(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf"));
	char spec[CONFIG_SPEC_LEN + 1];
	config_pool_spec(control_pool_config(pool_a(&w)), spec);
	struct engine *old = engine(&w, "a-0"), *fresh = engine(&w, "a-1");
	old->state = REPLICA_READY;
	snprintf(old->spec, sizeof old->spec, "0123456789abcdef");
	fresh->state = REPLICA_STARTING;
	snprintf(fresh->spec, sizeof fresh->spec, "%s", spec);
	say(&w);
	assert_true(wait_for(&w, is_wanted, "a-0"));
	assert_non_null(want(&w, "a-1"));
	assert_int_equal(w.wants.nwants, 2); /* the one that is being started is the fresh one */
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_non_null(want(&w, "a-1"));
	world_end(&w);
}

/* The place was taken before the node said what runs there: what runs counts, not what was meant to. */
static void test_preloaded_place_runs_another_configuration(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf, preload: true"));
	rounds(&w);
	assert_non_null(slot_find(pool_a(&w), VIEW("a-0")));
	struct engine *e = engine(&w, "a-0");
	e->state = REPLICA_READY;
	snprintf(e->spec, sizeof e->spec, "0123456789abcdef");
	say(&w);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	assert_string_equal(want(&w, "a-0")->spec, "0123456789abcdef"); /* it serves meanwhile */
	assert_string_not_equal(want(&w, "a-1")->spec, "0123456789abcdef");
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	world_end(&w);
}

/* A node finds an engine that nobody wants after it was told what is wanted: it is told again. */
static unsigned pushes_before;
static bool was_pushed(struct world *w)
{
	return w->pushes > pushes_before;
}

static void test_strays(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	pushes_before = w.pushes;
	engine(&w, "zombie-0")->state = REPLICA_READY;
	say(&w);
	assert_true(wait_for(&w, was_pushed, NULL));
	assert_null(want(&w, "zombie-0"));
	world_end(&w);
}

/* ---- reload
 * ------------------------------------------------------------------------------------------------ */

static const char *override_of(struct world *w)
{
	static char text[64];
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(w->registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, VIEW("a"));
	snprintf(text, sizeof text, "%s", rp && rp->override.model ? rp->override.model : "-");
	return text;
}

static void test_reload(void **state)
{
	(void)state;
	struct world w;
	struct err e = { 0 };
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	assert_int_equal(control_reload(w.control, pool_a(&w), NULL, "bob", NULL, NULL, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "ann"));
	assert_true(wait_for(&w, is_wanted, "a-1"));
	assert_string_equal(want(&w, "a-1")->model, "/m/two.gguf");
	assert_null(want(&w, "a-0")->model);
	assert_string_equal(override_of(&w), "-");
	becomes(&w, "a-1", REPLICA_PROVING, NULL);
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_done, NULL));
	assert_true(w.done.ok && !w.done.swapped);
	assert_string_equal(override_of(&w), "/m/two.gguf");
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	vanishes(&w, "a-0");
	set_config(&w, ONE_CTX); /* other values, the same model: what was chosen stays */
	assert_true(wait_for(&w, is_wanted, "a-0"));
	assert_string_equal(want(&w, "a-0")->model, "/m/two.gguf");
	becomes(&w, "a-0", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	vanishes(&w, "a-1");
	set_config(&w, OTHER_MODEL); /* another model: it goes */
	assert_string_equal(override_of(&w), "-");
	assert_true(wait_for(&w, is_wanted, "a-1"));
	assert_null(want(&w, "a-1")->model);
	world_end(&w);
}

static void test_reload_fails(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_BACKOFF, "it crashed");
	assert_true(wait_for(&w, is_done, NULL));
	assert_false(w.done.ok);
	assert_string_equal(w.message, "it crashed");
	assert_string_equal(override_of(&w), "-");
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	assert_non_null(want(&w, "a-0"));
	world_end(&w);
}

static void test_reload_meets_configuration(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	assert_true(wait_for(&w, is_wanted, "a-1"));
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_wanted, "a-2")); /* the order stands, with the newest values */
	assert_string_equal(want(&w, "a-2")->model, "/m/two.gguf");
	assert_int_equal(w.ndone, 0);
	set_config(&w, OTHER_MODEL);
	assert_int_equal(w.ndone, 1);
	assert_false(w.done.ok);
	assert_non_null(strstr(w.message, "another model"));
	world_end(&w);
}

static void test_stop_and_remove_during_reload(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	assert_true(wait_for(&w, is_wanted, "a-1"));
	control_disable(w.control, pool_a(&w), 1000, "bob");
	assert_int_equal(w.ndone, 1);
	assert_false(w.done.ok);
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	char why[256];
	assert_true(control_refuses(w.control, pool_a(&w), why, sizeof why));
	assert_non_null(strstr(why, "disabled by bob at "));
	struct err e = { 0 };
	assert_int_equal(control_reload(w.control, pool_a(&w), NULL, "ann", NULL, NULL, &e), -EBUSY);
	control_start(w.control, pool_a(&w), "ann"); /* stays down */
	vanishes(&w, "a-0");
	rounds(&w);
	assert_int_equal(w.wants.nwants, 0);
	control_enable(w.control, pool_a(&w), "bob");
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	set_config(&w, POOL("b", "model: /m/b.gguf"));
	assert_int_equal(w.ndone, 1);
	assert_false(w.done.ok);
	world_end(&w);
}

/* Who sees "unloaded" may start another engine: it is said when the order is carried out, no sooner. */
static void test_stop_state(void **state)
{
	(void)state;
	static const enum replica_state states[] = { REPLICA_STARTING, REPLICA_READY };
	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		struct world w;
		world_start(&w, ONE);
		say(&w);
		control_start(w.control, pool_a(&w), "ann");
		assert_true(wait_for(&w, is_wanted, "a-0"));
		becomes(&w, "a-0", states[i], NULL);
		control_stop(w.control, pool_a(&w), 1000, "ann", NULL, NULL);
		assert_int_equal(control_pool_state(w.control, pool_a(&w)), POOL_STATE_DRAINING);
		assert_true(wait_for(&w, is_unwanted, "a-0"));
		vanishes(&w, "a-0");
		struct err e = { 0 };
		assert_int_equal(control_pool_state(w.control, pool_a(&w)), POOL_STATE_DRAINING);
		assert_int_equal(control_reload(w.control, pool_a(&w), NULL, "ann", NULL, NULL, &e), -EBUSY);
		rounds(&w);
		assert_int_equal(control_pool_state(w.control, pool_a(&w)), POOL_STATE_UNLOADED);
		assert_int_equal(control_reload(w.control, pool_a(&w), NULL, "ann", NULL, NULL, &e), 0);
		world_end(&w);
	}
}

static void test_reload_forgets(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	control_forget(w.control, pool_a(&w), &w);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, no_reload, NULL)); /* it goes on */
	assert_int_equal(w.ndone, 0);
	assert_string_equal(override_of(&w), "/m/two.gguf");
	world_end(&w);
}

/* What no memory holds beside another: the old one ends first; when the new one fails, the old kind is back.
 */
static void swap(bool works)
{
	struct world w;
	world_start(&w, ONE);
	w.size_bytes = (uint64_t)1 << 60;
	say(&w);
	starts_ready(&w, "a-0");
	struct lease l = lease(&w);
	reload(&w, NULL);
	rounds(&w);
	assert_null(want(&w, "a-1"));
	assert_non_null(want(&w, "a-0"));
	assert_int_equal(lease_release(&l), 0);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_null(want(&w, "a-1"));
	vanishes(&w, "a-0");
	assert_true(wait_for(&w, is_wanted, "a-0"));
	assert_int_equal(w.ndone, 0);
	becomes(&w, "a-0", works ? REPLICA_READY : REPLICA_FAILED, works ? NULL : "too large");
	if (!works) {
		assert_true(wait_for(&w, is_unwanted, "a-0"));
		vanishes(&w, "a-0");
		assert_true(wait_for(&w, is_wanted, "a-0"));
		assert_int_equal(w.ndone, 0); /* told once it serves again */
		becomes(&w, "a-0", REPLICA_READY, NULL);
	}
	assert_true(wait_for(&w, is_done, NULL));
	assert_true(w.done.ok == works && w.done.swapped);
	assert_string_equal(w.message, works ? "" : "too large");
	assert_non_null(want(&w, "a-0"));
	world_end(&w);
}

static void test_swap(void **state)
{
	(void)state;
	swap(true);
	swap(false);
}

/* Another configuration comes when the old engine has given way already: the pool does not stay down. */
static void test_swap_meets_configuration(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf"));
	w.size_bytes = (uint64_t)1 << 60;
	say(&w);
	control_start(w.control, pool_a(&w), "ann");
	starts_ready(&w, "a-0");
	set_config(&w, POOL("a", "model: /m/one.gguf, ctx: 4096"));
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	set_config(&w, POOL("a", "model: /m/one.gguf, ctx: 2048"));
	assert_true(wait_for(&w, is_wanted, "a-1"));
	AUTO(mem_freep) char *spec = mem_strdup(want(&w, "a-1")->spec);
	vanishes(&w, "a-0");
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, in_pool, "a-1"));
	set_config(&w, POOL("a", "model: /m/one.gguf, ctx: 2048"));
	rounds(&w);
	assert_string_equal(want(&w, "a-1")->spec, spec); /* it was of the newest */
	assert_int_equal(w.wants.nwants, 1);
	world_end(&w);
}

static void test_mem_available(void **state)
{
	(void)state;
	assert_int_equal(
		mem_available(VIEW("MemTotal: 9 kB\nMemAvailable:    123 kB\nX: 1 kB\n")), 123 * 1024);
	assert_int_equal(mem_available(VIEW("MemTotal: 9 kB\n")), 0);
	assert_int_equal(mem_available(VIEW("MemAvailable: x kB\n")), 0);
	assert_int_equal(mem_available(VIEW("MemAvailable:")), 0);
}

static void test_devices_free(void **state)
{
	(void)state;
	static char cuda[] = "cuda", intel[] = "intel", cpu[] = "cpu", ok[] = "ok", lost[] = "lost",
		    uuid[] = "GPU-3f2a00";
	const struct wire_device d[] = {
		{ .index = 0, .kind = cuda, .state = ok, .memory_total_bytes = 10, .memory_free_bytes = 3 },
		{ .index = 1,
			.kind = cuda,
			.state = ok,
			.uuid = uuid,
			.memory_total_bytes = 10,
			.memory_free_bytes = 4 },
		{ .index = 2,
			.kind = cuda,
			.state = lost,
			.memory_total_bytes = 10,
			.memory_free_bytes = 10 },
		{ .index = 3,
			.kind = intel,
			.state = ok,
			.memory_total_bytes = 9,
			.memory_free_bytes = 9,
			.integrated = true },
		{ .index = 4, .kind = cuda, .state = ok },
		{ .kind = cpu, .state = ok, .memory_total_bytes = 99, .memory_free_bytes = 99 },
	};
	static const struct {
		const char *mask;
		size_t n;
		bool gpu;
		uint64_t free;
	} rows[] = { { "auto", 4, true, 7 }, { "auto", 5, true, 0 }, { "0", 6, true, 3 },
		{ "GPU-3f2a", 6, true, 4 }, { "0,1", 6, true, 7 }, { "2", 6, false, 0 }, { "3", 6, true, 9 },
		{ "cpu", 6, false, 0 }, { "auto", 0, false, 0 } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct mask m;
		uint64_t got;
		assert_int_equal(mask_parse(view_str(rows[i].mask), &m, NULL), 0);
		bool gpu = gpus_free(d, rows[i].n, &m, &got);
		if (gpu != rows[i].gpu || (gpu && got != rows[i].free))
			fail_msg(
				"%s of %zu: %d, %llu", rows[i].mask, rows[i].n, gpu, (unsigned long long)got);
	}
}

int main(void)
{
	log_set_level((enum log_level)(LOG_ERROR + 1));
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_config_touches_nothing),
		cmocka_unit_test(test_changed_spec),
		cmocka_unit_test(test_changed_spec_fails),
		cmocka_unit_test(test_changed_spec_of_a_failed_pool),
		cmocka_unit_test(test_newest_wins),
		cmocka_unit_test(test_removed_and_back),
		cmocka_unit_test(test_fewer_replicas),
		cmocka_unit_test(test_found_engines_of_another_configuration),
		cmocka_unit_test(test_found_in_the_middle_of_a_replacement),
		cmocka_unit_test(test_preloaded_place_runs_another_configuration),
		cmocka_unit_test(test_strays),
		cmocka_unit_test(test_reload),
		cmocka_unit_test(test_reload_fails),
		cmocka_unit_test(test_reload_meets_configuration),
		cmocka_unit_test(test_stop_and_remove_during_reload),
		cmocka_unit_test(test_stop_state),
		cmocka_unit_test(test_reload_forgets),
		cmocka_unit_test(test_swap),
		cmocka_unit_test(test_swap_meets_configuration),
		cmocka_unit_test(test_mem_available),
		cmocka_unit_test(test_devices_free),
	};
	return cmocka_run_group_tests_name("machine", tests, NULL, NULL);
}
