/* SPDX-License-Identifier: Apache-2.0 */
#include "world.h"

#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "net/sock.h"

enum { DEADLINE_MS = 20000, REQUEST_MAX = 8 * MIB };

static void event(struct world *w)
{
	loop_stop(w->loop);
}

static void timed_out(void *arg)
{
	(void)arg;
	fail_msg("the event waited for did not come");
}

void world_turn(struct world *w)
{
	assert_int_equal(loop_run(w->loop), 0);
}

/* ---- the engine ----------------------------------------------------------------------------------- */

struct conn {
	struct list node;
	struct world *w;
	struct sock sock;
	struct buf in;
	struct loop_timer timer;
	const struct step *step;
	size_t sent;
};

static void conn_free(void *arg)
{
	struct conn *c = arg;
	buf_done(&c->in);
	free(c);
}

static void conn_close(struct conn *c)
{
	if (!sock_is_open(&c->sock))
		return;
	loop_timer_stop(&c->timer);
	sock_close(&c->sock);
	list_remove(&c->node);
	c->w->closed++;
	loop_defer_call(c->w->loop, conn_free, c);
	event(c->w);
}

static void conn_reply(void *arg)
{
	struct conn *c = arg;
	const struct step *s = c->step;
	size_t n = s->n ? s->n : strlen(s->reply);
	size_t to = c->sent < s->split ? s->split : n;
	sock_write(&c->sock, s->reply + c->sent, to - c->sent);
	sock_flush(&c->sock);
	c->sent = to;
	if (to < n)
		loop_timer_start(c->w->loop, &c->timer, 1, conn_reply, c);
	else if (s->close)
		conn_close(c);
}

static void play(struct conn *c)
{
	struct world *w = c->w;
	w->requests++;
	event(w);
	if (!w->nscript)
		return;
	c->step = &w->script[MIN(w->steps, w->nscript - 1)];
	w->steps++;
	c->sent = 0;
	if (!c->step->reply) {
		if (c->step->close)
			conn_close(c);
	} else if (c->step->delay_ms) {
		loop_timer_start(w->loop, &c->timer, c->step->delay_ms, conn_reply, c);
	} else {
		conn_reply(c);
	}
}

/* A request is whole when its Content-Length has come. */
static void conn_look(struct conn *c)
{
	if (!c->in.len)
		return;
	const char *text = buf_str(&c->in), *end = strstr(text, "\r\n\r\n"), *cl;
	uint64_t length = 0;
	if (!end)
		return;
	if ((cl = strcasestr(text, "\r\ncontent-length: ")) && cl < end)
		assert_int_equal(num_u64(view_cut(view_str(cl + 18), strcspn(cl + 18, "\r")), &length), 0);
	size_t whole = (size_t)(end - text) + 4 + (size_t)length;
	if (c->in.len < whole)
		return;
	assert_int_equal(c->in.len, whole); /* never more than was announced */
	buf_reset(&c->w->request);
	assert_int_equal(buf_addv(&c->w->request, buf_view(&c->in)), 0);
	buf_reset(&c->in);
	play(c);
}

static void conn_readable(void *arg)
{
	struct conn *c = arg;
	char data[64 * 1024];
	ssize_t n = sock_read(&c->sock, data, sizeof data);
	if (n == -EAGAIN)
		return;
	if (n <= 0) {
		conn_close(c);
		return;
	}
	assert_int_equal(buf_add(&c->in, data, (size_t)n), 0);
	conn_look(c);
}

static void conn_broken(void *arg, int error)
{
	(void)error;
	conn_close(arg);
}

static void conn_writable(void *arg)
{
	(void)arg;
}

static const struct sock_ops conn_ops = {
	.on_readable = conn_readable, .on_writable = conn_writable, .on_broken = conn_broken
};

static void engine_accept(void *arg, int fd, const struct net_peer *peer)
{
	(void)peer;
	struct world *w = arg;
	struct conn *c = NEW(struct conn);
	c->w = w;
	buf_init(&c->in, REQUEST_MAX);
	w->connections++;
	assert_int_equal(sock_init(&c->sock, w->loop, fd, &conn_ops, c), 0);
	list_append(&w->conns, &c->node);
	sock_want(&c->sock, true, false);
}

void world_script(struct world *w, const struct step *steps, int n)
{
	assert_true(n <= STEPS_MAX);
	memcpy(w->script, steps, (size_t)n * sizeof *steps);
	w->nscript = n;
	w->steps = 0;
}

/* ---- the front ------------------------------------------------------------------------------------- */

static struct pool *find_pool(void *arg, struct view model, const struct auth_key *key, struct api_error *e)
{
	struct world *w = arg;
	if (!model.n || view_eqs(model, "p"))
		return pool_ref(w->pool);
	e->code = CODE_MODEL_NOT_FOUND;
	e->message = VIEW("No such model.");
	return NULL;
}

static void on_proved(void *arg, struct pool_replica *r)
{
	(void)r;
	((struct world *)arg)->proved++;
}

static void on_silent(void *arg, struct pool_replica *r, bool over, int64_t limit_ms)
{
	struct world *w = arg;
	w->silent[over]++;
	w->silent_ms = limit_ms;
	if (w->moves)
		atomic_store(&r->moved_at, mono_now().ns);
	event(w);
}

static bool answer_unloaded(
	void *arg, struct http_exchange *x, const struct route *route, struct pool *p, const char *request_id)
{
	(void)p;
	(void)request_id;
	((struct world *)arg)->unloaded++;
	if (route->kind == ROUTE_SLOT)
		return false;
	http_reply(x, 200, "application/json", NULL, VIEW("{\"loaded\":false}"));
	return true;
}

static void on_request(void *arg, struct http_exchange *x)
{
	struct world *w = arg;
	struct route route;
	const char *allow;
	assert_int_equal(dialect_route(http_method_name(x), http_path(x), &route, &allow), ROUTE_FOUND);
	char id[PROXY_REQUEST_ID_MAX + 1];
	proxy_request_id(http_headers(x), id);
	proxy_start(w->proxy, x, &route, id, w->key);
}

static void on_demand(void *arg, struct pool *p)
{
	struct world *w = arg;
	w->demands++;
	pool_demand_seen(p);
	event(w);
}

static int listen_on(char *out, size_t cap)
{
	struct net_addr a;
	int fd = -1;
	assert_int_equal(net_addr_parse(VIEW("127.0.0.1:0"), &a, NULL), 0);
	assert_int_equal(net_listen(&a, 0600, &fd, NULL), 0);
	assert_int_equal(net_addr_of_socket(fd, &a), 0);
	net_addr_url(&a, out, cap);
	return fd;
}

static void make_pool(struct world *w, const struct world_opts *o)
{
	struct pool_opts po = { .id = "p",
		.queue_capacity = o->capacity ? o->capacity : 8,
		.slots = o->slots,
		.max_wait_ms = o->max_wait_ms ? o->max_wait_ms : 60000,
		.cancel_grace_ms = 100,
		.stall_ms = o->stall_ms ? o->stall_ms : 3600000,
		.first_token_ms = o->first_token_ms ? o->first_token_ms : 3600000,
		.progress = o->progress,
		.on_demand = on_demand,
		.arg = w };
	w->pool = pool_new(&po);
	if (!o->no_replica)
		world_put(w, 1, o->slots ? o->slots : 1, o->remote_model);
}

struct world *world_new(const struct world_opts *o)
{
	struct world *w = NEW(struct world);
	char front[64];
	w->loop = loop_new("test");
	list_init(&w->conns);
	buf_init(&w->request, REQUEST_MAX);
	w->metrics = metrics_new();
	w->records = req_records_new();
	w->spool = (struct spool_account){ .dir = P_tmpdir,
		.total_max = o->spool_max ? o->spool_max : 64 * MIB };
	struct proxy_opts po = { .loop = w->loop,
		.spool = &w->spool,
		.body_max = o->body_max ? o->body_max : 4 * MIB,
		.metrics = w->metrics,
		.records = w->records,
		.find_pool = find_pool,
		.on_proved = on_proved,
		.on_silent = on_silent,
		.answer_unloaded = answer_unloaded,
		.arg = w };
	w->proxy = proxy_new(&po);
	struct http_server_opts so = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = w };
	w->server = http_server_new(w->loop, &so);
	w->front_fd = listen_on(front, sizeof front);
	assert_int_equal(http_server_listen(w->server, w->front_fd), 0);
	w->front = http_target_new(w->loop, front, NULL, NULL);
	w->engine_fd = listen_on(w->engine_address, sizeof w->engine_address);
	assert_int_equal(listener_start(w->loop, w->engine_fd, engine_accept, w, &w->listener), 0);
	make_pool(w, o);
	loop_timer_start(w->loop, &w->deadline, DEADLINE_MS, timed_out, w);
	return w;
}

void world_put(struct world *w, uint64_t generation, uint32_t slots, const char *remote_model)
{
	struct pool_replica_facts f = { .id = "p-0",
		.generation = generation,
		.address = w->engine_address,
		.slots_total = slots,
		.remote_model = remote_model };
	pool_replica_unref(pool_put_replica(w->pool, &f));
}

void world_put_other(struct world *w)
{
	struct pool_replica_facts f = {
		.id = "p-1", .generation = 1, .address = w->engine_address, .slots_total = 1
	};
	pool_replica_unref(pool_put_replica(w->pool, &f));
}

static void let_go(struct world *w, const char *id, enum pool_fate fate)
{
	struct pool_replica *r = pool_take_replica(w->pool, id, fate);
	if (r)
		proxy_replica_gone(w->proxy, r, true);
	pool_replica_unref(r);
}

void world_crash(struct world *w)
{
	let_go(w, "p-0", POOL_FATE_CRASHED);
}

void world_engine_off(struct world *w)
{
	listener_stop(&w->listener);
	fd_close(w->engine_fd);
	w->engine_fd = -1;
}

static void keep(void *arg, const struct pool_replica *r)
{
	*(struct pool_replica **)arg = (struct pool_replica *)(uintptr_t)r;
}

struct pool_replica *world_replica(struct world *w)
{
	struct pool_replica *r = NULL;
	pool_each_replica(w->pool, keep, &r);
	return r;
}

struct pool_stats world_stats(struct world *w)
{
	struct pool_stats s;
	pool_get_stats(w->pool, &s);
	return s;
}

void world_free(struct world *w)
{
	loop_timer_stop(&w->deadline);
	for (int i = 0; i < CLIENTS_MAX; i++) {
		leave(w, i);
		buf_done(&w->clients[i].head);
		buf_done(&w->clients[i].body);
	}
	http_target_free(w->front);
	http_server_free(w->server);
	let_go(w, "p-0", POOL_FATE_ENDED);
	let_go(w, "p-1", POOL_FATE_ENDED);
	LIST_FOREACH(c, &w->conns, struct conn, node)
	conn_close(c);
	listener_stop(&w->listener);
	event(w);
	world_turn(w);
	assert_int_equal(proxy_running(w->proxy), 0);
	assert_int_equal(atomic_load(&w->spool.total), 0);
	assert_int_equal(world_stats(w).double_releases, 0);
	proxy_free(w->proxy);
	loop_free(w->loop);
	pool_unref(w->pool);
	metrics_free(w->metrics);
	req_records_free(w->records);
	fd_close(w->front_fd);
	fd_closep(&w->engine_fd);
	buf_done(&w->request);
	free(w);
}

/* ---- the client ------------------------------------------------------------------------------------- */

static void on_head(void *arg, struct http_call *call, int status, const struct http_headers *h)
{
	(void)call;
	struct client *c = arg;
	c->status = status;
	for (size_t i = 0; i < h->len; i++) {
		for (size_t k = 0; k < h->items[i].name.n; k++)
			(void)buf_addc(&c->head,
				(char)(h->items[i].name.p[k] |
					(h->items[i].name.p[k] >= 'A' && h->items[i].name.p[k] <= 'Z' ? 0x20
												      : 0)));
		(void)buf_addf(&c->head, ": %.*s\n", VIEW_ARG(h->items[i].value));
	}
	event(c->w);
}

static void on_data(void *arg, struct view v)
{
	struct client *c = arg;
	assert_int_equal(buf_addv(&c->body, v), 0);
	if (c->check)
		c->check(c);
	event(c->w);
}

static void on_end(void *arg)
{
	struct client *c = arg;
	c->ended = true;
	c->call = NULL;
	event(c->w);
}

static void on_error(void *arg, enum http_fail f, const struct err *e)
{
	(void)e;
	struct client *c = arg;
	c->failed = true;
	c->fail = f;
	c->call = NULL;
	event(c->w);
}

static const struct http_call_ops client_ops = {
	.on_head = on_head, .on_data = on_data, .on_end = on_end, .on_error = on_error
};

void ask(struct world *w, int i, const char *method, const char *path, const char *headers, struct view body)
{
	struct client *c = &w->clients[i];
	leave(w, i);
	c->w = w;
	c->status = 0;
	c->ended = c->failed = false;
	buf_done(&c->head);
	buf_done(&c->body);
	buf_init(&c->head, 64 * KIB);
	buf_init(&c->body, 8 * MIB);
	AUTO(buf_done) struct buf block = BUF(8 * KIB);
	(void)buf_adds(&block, headers ? headers : JSON_TYPE);
	struct http_call_req r = { .method = view_str(method),
		.path = view_str(path),
		.block = &block,
		.body_len = (int64_t)body.n };
	c->call = http_call_start(w->front, &r, &client_ops, c);
	(void)http_call_write(c->call, body);
}

void leave(struct world *w, int i)
{
	if (w->clients[i].call)
		http_call_cancel(w->clients[i].call);
	w->clients[i].call = NULL;
}

bool has_header(const struct client *c, const char *line)
{
	return strstr(buf_str(&c->head), line) != NULL;
}
