/* SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"

struct registry_call {
	struct bench *b;
	struct http_exchange *x;
	struct buf body;
};

static void call_gone(void *arg)
{
	struct registry_call *c = arg;
	buf_done(&c->body);
	free(c);
}

static void call_body(void *arg, struct view bytes)
{
	struct registry_call *c = arg;
	assert_int_equal(buf_addv(&c->body, bytes), 0);
}

static void call_end(void *arg)
{
	struct registry_call *c = arg;
	struct bench *b = c->b;
	bool beat = view_ends(http_path(c->x), VIEW("/heartbeat"));
	if (http_method(c->x) == HTTP_M_DELETE) {
		b->leaves++;
	} else if (beat && b->forget) {
		b->forget--;
		http_reply(c->x, 404, "application/json", NULL, VIEW("{}"));
		call_gone(c);
		return;
	} else {
		struct wire_node f = { 0 };
		struct err e = { 0 };
		int r = wire_node_decode(buf_view(&c->body), &f, &e);
		if (r)
			print_message("%s\n", e.msg);
		assert_int_equal(r, 0);
		assert_true(f.seq > b->facts.seq || f.pid != b->facts.pid || !beat);
		wire_node_done(&b->facts);
		b->facts = f;
		b->registers += !beat;
		b->beats += beat;
	}
	http_reply(c->x, 200, "application/json", NULL, VIEW("{}"));
	call_gone(c);
	loop_stop(b->loop);
}

static const struct http_handler registry_handler = {
	.on_body = call_body, .on_body_end = call_end, .on_gone = call_gone
};

void on_request(void *arg, struct http_exchange *x)
{
	struct bench *b = arg;
	if (view_eqs(http_path(x), "/v1/models") ||
		view_eqs(http_path(x), "/health")) { /* an external server */
		http_reply(x, 200, "application/json", NULL,
			VIEW("{\"data\":[{\"id\":\"one\"},{\"id\":\"two\"}]}"));
		return;
	}
	struct registry_call *c = NEW(struct registry_call);
	c->b = b;
	c->x = x;
	buf_init(&c->body, WIRE_BODY_MAX);
	http_handle(x, &registry_handler, c);
}

static void on_deadline(void *arg)
{
	struct bench *b = arg;
	b->timed_out = true;
	loop_stop(b->loop);
}

static void on_done(void *arg)
{
	struct bench *b = arg;
	b->done++;
	loop_stop(b->loop);
}

void until(struct bench *b, until_fn *fn, const char *id)
{
	loop_timer_start(b->loop, &b->deadline, DEADLINE_MS, on_deadline, b);
	while (!fn(b, id) && !b->timed_out)
		loop_run(b->loop);
	loop_timer_stop(&b->deadline);
	if (b->timed_out) {
		AUTO(buf_done) struct buf t = BUF(MIB);
		if (!wire_node_encode(&b->facts, &t))
			print_message("last facts: %s\n", buf_str(&t));
	}
	assert_false(b->timed_out);
}

const struct wire_replica *find(struct bench *b, const char *id)
{
	for (size_t i = 0; i < b->facts.nreplicas; i++)
		if (!strcmp(b->facts.replicas[i].replica_id, id))
			return &b->facts.replicas[i];
	return NULL;
}

#define STATE_IS(name, S)                                                                                    \
	bool name(struct bench *b, const char *id)                                                           \
	{                                                                                                    \
		const struct wire_replica *r = find(b, id);                                                  \
		return r && r->state == (S);                                                                 \
	}
STATE_IS(ready, REPLICA_READY)
STATE_IS(starting, REPLICA_STARTING)
STATE_IS(draining, REPLICA_DRAINING)
STATE_IS(failed, REPLICA_FAILED)

bool proving(struct bench *b, const char *id)
{
	const struct wire_replica *r = find(b, id);
	return r && r->state == REPLICA_PROVING && r->address;
}

bool gone(struct bench *b, const char *id)
{
	return !find(b, id);
}

bool answered(struct bench *b, const char *id)
{
	(void)id;
	return b->answered;
}

bool done(struct bench *b, const char *id)
{
	(void)id;
	return b->done > 0;
}

bool reported(struct bench *b, const char *id)
{
	(void)id;
	return b->registers > 0;
}

bool has_pid(struct bench *b, const char *id)
{
	const struct wire_replica *r = find(b, id);
	return r && r->pid > 0;
}

bool has_error(struct bench *b, const char *id)
{
	const struct wire_replica *r = find(b, id);
	return r && r->last_error.message;
}

bool second_life(struct bench *b, const char *id)
{
	const struct wire_replica *r = find(b, id);
	return r && r->state == REPLICA_READY && r->generation == 2;
}

static void start_registry(struct bench *b)
{
	AUTO(mem_freep) char *path = mem_fmt("%s/registry.sock", b->dir);
	struct net_addr a;
	struct http_server_opts o = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = b };
	assert_int_equal(net_addr_parse(view_str(path), &a, NULL), 0);
	assert_int_equal(net_listen(&a, 0600, &b->registry_fd, NULL), 0);
	b->registry = http_server_new(b->loop, &o);
	assert_int_equal(http_server_listen(b->registry, b->registry_fd), 0);
}

void stop_registry(struct bench *b)
{
	if (!b->registry)
		return;
	http_server_free(b->registry);
	b->registry = NULL;
	fd_close(b->registry_fd);
	AUTO(mem_freep) char *path = mem_fmt("%s/registry.sock", b->dir);
	unlink(path);
}

char *in_dir(struct bench *b, const char *name)
{
	return mem_fmt("%s/%s", b->dir, name);
}

void start_node(struct bench *b)
{
	struct err e = { 0 };
	b->opts.pools = b->pools;
	b->opts.npools = b->npools;
	int r = node_new(b->loop, &b->opts, &b->node, &e);
	if (r)
		print_message("%s\n", e.msg);
	assert_int_equal(r, 0);
	until(b, reported, NULL);
}

struct node_pool *pool(struct bench *b, const char *id, const char *mode)
{
	struct node_pool *p = &b->pools[b->npools++];
	*p = (struct node_pool){
		.id = id, .slots = 1, .ctx = 4096, .start_timeout_ms = 30000, .grace_ms = 30000
	};
	p->engine.kind = ENGINE_COMMAND;
	strv_add(&p->engine.command, b->self);
	strv_add(&p->engine.command, "{socket}");
	strv_add(&p->engine.command, mode);
	return p;
}

int setup(void **state)
{
	struct bench *b = NEW(struct bench);
	snprintf(b->dir, sizeof b->dir, "/tmp/test-node-XXXXXX");
	if (!mkdtemp(b->dir) || readlink("/proc/self/exe", b->self, sizeof b->self - 1) < 0)
		return -1;
	AUTO(mem_freep) char *dir = mem_strdup(b->self);
	for (int up = 0; up < 3; up++)
		*strrchr(dir, '/') = '\0';
	snprintf(b->keeper, sizeof b->keeper, "%.4000s/keeper/corral-keeper", dir);
	b->loop = loop_new("test");
	buf_init(&b->body, 8 * MIB);
	buf_init(&b->log_text, MIB);
	b->policy = RESTART_POLICY_DEFAULT;
	b->policy.base_ms = 1;
	start_registry(b);
	b->opts = (struct node_opts){
		.node_id = "node-1",
		.version = "test",
		.runtime_dir = b->dir,
		.state_dir = in_dir(b, "state"),
		.log_dir = in_dir(b, "log"),
		.keeper_path = b->keeper,
		.restart = &b->policy,
		.allow_cpu = true,
		.offline = true,
		.on_done = on_done,
		.arg = b,
		.registry_address = mem_fmt("unix:%s/registry.sock", b->dir),
	};
	AUTO(mem_freep) char *address = mem_fmt("unix:%s/provisioner.sock", b->dir);
	struct http_target_opts o = { .idle_max = 4, .idle_ms = 4000, .connect_timeout_ms = 5000 };
	b->target = http_target_new(b->loop, address, &o, NULL);
	*state = b;
	return b->target ? 0 : -1;
}

/* How many engines of this test there are still; their command lines name its folder, and zombies have none.
 * Another run of the same program, beside this one, has a folder of its own. */
int left_over(const struct bench *b)
{
	int found = 0;
	DIR *d = opendir("/proc");
	for (struct dirent *e; d && (e = readdir(d));) {
		AUTO(mem_freep) char *path = mem_fmt("/proc/%s/cmdline", e->d_name);
		AUTO(buf_done) struct buf words = BUF(64 * KIB);
		uint64_t pid;
		if (num_u64(view_str(e->d_name), &pid) || (pid_t)pid == getpid() || file_read(path, &words))
			continue;
		found += view_search(buf_view(&words), view_str(b->dir)) >= 0;
	}
	if (d)
		closedir(d);
	return found;
}

static void remove_tree(const char *path)
{
	DIR *d = opendir(path);
	for (struct dirent *e; d && (e = readdir(d));) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		AUTO(mem_freep) char *p = mem_fmt("%s/%s", path, e->d_name);
		if (unlink(p) < 0)
			remove_tree(p);
	}
	if (d)
		closedir(d);
	rmdir(path);
}

int teardown(void **state)
{
	struct bench *b = *state;
	if (b->node && !b->done) {
		node_stop(b->node, 0);
		until(b, done, NULL);
	}
	node_free(b->node);
	stop_registry(b);
	http_target_free(b->target);
	loop_free(b->loop);
	int left = left_over(b);
	AUTO(mem_freep) char *engines = in_dir(b, "engines");
	DIR *d = opendir(engines);
	for (struct dirent *e; d && (e = readdir(d));)
		if (view_ends(view_str(e->d_name), VIEW(".sock")) ||
			view_ends(view_str(e->d_name), VIEW(".json")))
			print_message("%s is left\n", e->d_name), left++;
	if (d)
		closedir(d);
	remove_tree(b->dir);
	for (size_t i = 0; i < b->npools; i++)
		engine_def_done(&b->pools[i].engine);
	free((char *)(uintptr_t)b->opts.state_dir);
	free((char *)(uintptr_t)b->opts.log_dir);
	free((char *)(uintptr_t)b->opts.registry_address);
	wire_node_done(&b->facts);
	buf_done(&b->body);
	buf_done(&b->log_text);
	free(b);
	if (left)
		print_message("%d things are left\n", left);
	return left ? -1 : 0;
}

static void on_answer(void *arg, int status, struct view body, const struct err *e)
{
	struct bench *b = arg;
	if (!status)
		print_message("no answer: %s\n", e->msg);
	b->status = status;
	b->answered = true;
	buf_reset(&b->body);
	assert_int_equal(buf_addv(&b->body, body), 0);
	loop_stop(b->loop);
}

int ask(struct bench *b, const char *method, const char *path, const char *body)
{
	struct http_fetch_req q = { .method = method,
		.path = path,
		.content_type = body ? "application/json" : NULL,
		.body = view_str(body),
		.timeout_ms = DEADLINE_MS,
		.max_body = 8 * MIB };
	b->answered = false;
	struct http_fetch *f = http_fetch(b->target, &q, on_answer, b);
	assert_non_null(f);
	until(b, answered, NULL);
	return b->status;
}

struct wire_want *add_want(struct wire_desired *d, const char *id, const char *pool_id)
{
	struct wire_want *w = wire_desired_add(d);
	w->replica_id = mem_strdup(id);
	w->pool_id = mem_strdup(pool_id);
	w->keep_alive_ms = -1;
	return w;
}

int put(struct bench *b, struct wire_desired *d)
{
	AUTO(buf_done) struct buf t = BUF(WIRE_BODY_MAX);
	d->revision = ++b->revision;
	assert_int_equal(wire_desired_encode(d, &t), 0);
	AUTO(mem_freep) char *text = mem_viewdup(buf_view(&t));
	return ask(b, "PUT", "/v1/node/replicas", text);
}

/* Wants one replica <pool>-0, or none at all. */
void want(struct bench *b, const char *pool_id, bool pulled_in, uint32_t epoch)
{
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	if (pool_id) {
		AUTO(mem_freep) char *id = mem_fmt("%s-0", pool_id);
		struct wire_want *w = add_want(&d, id, pool_id);
		w->pulled_in = pulled_in;
		w->restart_epoch = epoch;
	}
	assert_int_equal(put(b, &d), 200);
}

static void follow_head(void *arg, struct http_call *c, int status, const struct http_headers *h)
{
	(void)arg;
	(void)c;
	(void)h;
	assert_int_equal(status, 200);
}

static void follow_data(void *arg, struct view bytes)
{
	struct bench *b = arg;
	assert_int_equal(buf_addv(&b->log_text, bytes), 0);
	loop_stop(b->loop);
}

static void follow_end(void *arg)
{
	(void)arg;
}

static void follow_error(void *arg, enum http_fail fail, const struct err *e)
{
	(void)arg;
	(void)fail;
	print_message("the log is not followed any more: %s\n", e ? e->msg : "no reason");
}

struct http_call *follow_log(struct bench *b, const char *path)
{
	static const struct http_call_ops ops = { follow_head, follow_data, follow_end, follow_error, NULL };
	struct http_call_req q = { .method = VIEW("GET"), .path = view_str(path) };
	buf_reset(&b->log_text);
	return http_call_start(b->target, &q, &ops, b);
}

bool logged(struct bench *b, const char *text)
{
	return view_search(buf_view(&b->log_text), view_str(text)) >= 0;
}

void until_logged(struct bench *b, const char *replica_id, const char *text)
{
	AUTO(mem_freep) char *path = mem_fmt("/v1/node/replicas/%s/logs?follow=1", replica_id);
	struct http_call *c = follow_log(b, path);
	until(b, logged, text);
	http_call_cancel(c);
}

char *read_text(struct bench *b, const char *name)
{
	AUTO(mem_freep) char *path = in_dir(b, name);
	AUTO(buf_done) struct buf t = BUF(4 * MIB);
	return file_read(path, &t) ? NULL : buf_take(&t);
}
