/* SPDX-License-Identifier: Apache-2.0
 *
 * One replica's life, from "wanted" to gone, on a whole node.
 */
#include "bench.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "fake_server.h"

/* ---- the tests ----------------------------------------------------------------------------------------- */

static void a_wanted_replica_gets_ready_and_goes(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "loading");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->generation, 1);
	assert_int_equal(r->slots_total, 1);
	assert_int_equal(r->ctx, 4096);
	assert_true(r->pid > 0 && r->started_at_ms > 0);
	assert_string_equal(r->pool_id, "chat");
	assert_string_equal(r->engine, "command");
	AUTO(mem_freep) char *address = mem_fmt("unix:%s/engines/chat-0.1.sock", b->dir);
	assert_string_equal(r->address, address);
	AUTO(mem_freep) char *handoff = read_text(b, "engines/chat-0.json");
	assert_non_null(handoff);
	assert_non_null(strstr(handoff, "\"generation\":1,"));
	assert_non_null(strstr(handoff, address));
	until_logged(b, "chat-0", "POST /v1/chat/completions HTTP/1.1 -> 200\n"); /* the canary of our own */
	want(b, NULL, false, 0);
	until(b, gone, "chat-0");
	AUTO(mem_freep) char *none = read_text(b, "engines/chat-0.json");
	assert_null(none);
}

static void a_waiting_request_is_the_canary(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok");
	start_node(b);
	want(b, "chat", true, 0);
	until(b, proving, "chat-0");
	const char *path = "/v1/node/replicas/chat-0/prove";
	assert_int_equal(ask(b, "POST", path, "{\"generation\":7,\"by\":\"request\"}"), 409);
	assert_int_equal(ask(b, "POST", path, "{\"generation\":1,\"by\":\"me\"}"), 400);
	assert_int_equal(
		ask(b, "POST", "/v1/node/replicas/no-0/prove", "{\"generation\":1,\"by\":\"own\"}"), 404);
	assert_int_equal(ask(b, "POST", path, "{\"generation\":1,\"by\":\"request\"}"), 200);
	until(b, ready, "chat-0");
	until_logged(b, "chat-0", "GET /health HTTP/1.1 -> 200\n");
	AUTO(mem_freep) char *log = read_text(b, "log/chat-0.log");
	assert_null(strstr(log, "POST"));
	assert_int_equal(ask(b, "POST", path, "{\"generation\":1,\"by\":\"request\"}"), 200);
}

static void the_sender_can_ask_for_our_canary(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok");
	start_node(b);
	want(b, "chat", true, 0);
	until(b, proving, "chat-0");
	assert_int_equal(
		ask(b, "POST", "/v1/node/replicas/chat-0/prove", "{\"generation\":1,\"by\":\"own\"}"), 200);
	until(b, ready, "chat-0");
}

static void canary_never_means_never(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "canary500")->canary = NODE_CANARY_NEVER;
	start_node(b);
	want(b, "chat", true, 0);
	until(b, ready, "chat-0");
}

static void a_wrong_first_answer_is_a_crash(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "canary500");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, failed, "chat-0"); /* five times: the breaker */
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->last_error.cause, CAUSE_CANARY);
	assert_non_null(strstr(r->last_error.message, "500"));
	assert_true(r->retry_in_ms > 200000);
}

static void crashes_open_the_breaker_and_a_restart_forgets_it(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "crash");
	start_node(b);
	want(b, "chat", false, 1);
	until(b, failed, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->restarts, 5);
	assert_int_equal(r->generation, 5);
	assert_int_equal(r->last_error.cause, CAUSE_EXIT);
	assert_int_equal(r->last_error.exit_code, 3);
	assert_true(r->retry_in_ms > 200000);
	/* Asking again does not get round it. */
	want(b, NULL, false, 0);
	until(b, gone, "chat-0");
	want(b, "chat", false, 1);
	until(b, failed, "chat-0");
	assert_int_equal(find(b, "chat-0")->generation, 5);
	want(b, "chat", false, 2);
	until(b, starting, "chat-0");
	until(b, failed, "chat-0");
	assert_int_equal(find(b, "chat-0")->generation, 10);
}

static void what_a_restart_cannot_mend_fails_at_once(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "oom");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, failed, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->last_error.cause, CAUSE_OOM_VRAM);
	assert_int_equal(r->generation, 1);
	assert_int_equal(r->retry_in_ms, -1);
}

static void killed_from_outside_starts_again_at_once(void **state)
{
	struct bench *b = *state;
	b->policy.base_ms = b->policy.max_ms = 100000; /* a backoff would never end here */
	pool(b, "chat", "ok");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	assert_int_equal(kill(find(b, "chat-0")->pid, SIGKILL), 0);
	until(b, second_life, "chat-0");
	assert_int_equal(find(b, "chat-0")->restarts, 1);
	assert_null(find(b, "chat-0")->last_error.message); /* cleared by the success */
}

static void a_restart_is_a_stop_and_a_start(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok");
	start_node(b);
	want(b, "chat", false, 3);
	until(b, ready, "chat-0");
	want(b, "chat", false, 4);
	until(b, second_life, "chat-0");
	assert_int_equal(find(b, "chat-0")->restarts, 0);
}

static void a_start_that_takes_too_long_is_ended(void **state)
{
	struct bench *b = *state;
	b->policy.breaker_failures = 1;
	pool(b, "chat", "never")->start_timeout_ms = 2000;
	start_node(b);
	want(b, "chat", false, 0);
	until(b, failed, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->last_error.cause, CAUSE_START_TIMEOUT);
	assert_non_null(strstr(r->last_error.message, "503"));
}

static void an_engine_that_falls_silent_is_replaced(void **state)
{
	struct bench *b = *state;
	b->opts.probe_every_ms = 50;
	struct node_pool *p = pool(b, "chat", "ok");
	p->grace_ms = 1;
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	assert_int_equal(kill(find(b, "chat-0")->pid, SIGSTOP), 0);
	until(b, second_life, "chat-0");
	assert_int_equal(find(b, "chat-0")->restarts, 1);
}

static void a_missing_model_is_said(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok")->model_path = "/nonexistent/model.gguf";
	start_node(b);
	assert_int_equal(b->facts.nmodels, 1);
	assert_non_null(b->facts.models[0].problem);
	want(b, "chat", false, 0);
	until(b, failed, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->last_error.cause, CAUSE_NO_MODEL);
	assert_non_null(strstr(r->last_error.message, "/nonexistent/model.gguf"));
	assert_int_equal(r->generation, 0);
}

static void an_unknown_pool_is_said(void **state)
{
	struct bench *b = *state;
	start_node(b);
	want(b, "other", false, 0);
	until(b, failed, "other-0");
	assert_int_equal(find(b, "other-0")->last_error.cause, CAUSE_BAD_ARGS);
}

static void a_smaller_fence_is_refused(void **state)
{
	struct bench *b = *state;
	start_node(b);
	struct wire_desired d = { .fence = 5 };
	assert_int_equal(put(b, &d), 200);
	assert_int_equal(put(b, &d), 200);
	d.fence = 4;
	assert_int_equal(put(b, &d), 409);
	d.fence = 6;
	assert_int_equal(put(b, &d), 200);
	assert_int_equal(ask(b, "PUT", "/v1/node/replicas", "{\"fence\":true}"), 400);
	assert_int_equal(ask(b, "GET", "/v1/nothing", NULL), 404);
	assert_int_equal(ask(b, "GET", "/v1/node", NULL), 200);
	AUTO(wire_node_done) struct wire_node f = { 0 };
	assert_int_equal(wire_node_decode(buf_view(&b->body), &f, NULL), 0);
	assert_string_equal(f.node_id, "node-1");
}

static void promised_context_is_checked(void **state)
{
	struct bench *b = *state;
	AUTO(mem_freep) char *model = in_dir(b, "model.gguf");
	assert_int_equal(file_write_atomic(model, VIEW("GGUF"), 0600, false), 0);
	struct node_pool *p = &b->pools[b->npools++];
	*p = (struct node_pool){ .id = "chat", .slots = 1, .ctx = 4096, .model_path = model };
	p->engine.kind = ENGINE_LLAMACPP;
	p->engine.mode = ENGINE_MODE_BINARY;
	p->engine.path = mem_strdup(b->self);
	start_node(b);
	want(b, "chat", false, 0);
	until(b, failed, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->last_error.cause, CAUSE_BAD_ARGS);
	assert_non_null(strstr(r->last_error.message, "4096"));
	assert_non_null(strstr(r->last_error.message, "128"));
}

static void the_next_node_finds_the_engines(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	int pid = find(b, "chat-0")->pid;
	node_free(b->node);
	b->registers = 0;
	start_node(b);
	until(b, ready, "chat-0");
	assert_int_equal(find(b, "chat-0")->pid, pid);
	assert_int_equal(find(b, "chat-0")->generation, 1);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	want(b, NULL, false, 0);
	until(b, gone, "chat-0");
}

static void a_second_node_is_refused(void **state)
{
	struct bench *b = *state;
	start_node(b);
	struct node *other;
	struct err e = { 0 };
	assert_int_equal(node_new(b->loop, &b->opts, &other, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "another engine-provisioner runs"));
}

static void a_stop_stops_everything_and_answers(void **state)
{
	struct bench *b = *state;
	pool(b, "a", "ok");
	pool(b, "b", "stubborn");
	start_node(b);
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	add_want(&d, "a-0", "a");
	add_want(&d, "b-0", "b");
	assert_int_equal(put(b, &d), 200);
	until(b, ready, "a-0");
	until(b, ready, "b-0");
	assert_int_equal(ask(b, "POST", "/v1/node/stop", "{\"deadline_ms\":100}"), 200);
	assert_string_equal(buf_str(&b->body), "{\"stopped\":2,\"killed\":1}\n");
	until(b, done, NULL);
	assert_int_equal(b->leaves, 1);
}

static void a_stubborn_engine_holds_up_nobody(void **state)
{
	struct bench *b = *state;
	pool(b, "a", "ok");
	pool(b, "b", "stubborn");
	start_node(b);
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	add_want(&d, "a-0", "a");
	add_want(&d, "b-0", "b");
	assert_int_equal(put(b, &d), 200);
	until(b, ready, "a-0");
	until(b, ready, "b-0");
	want(b, NULL, false, 0);
	until(b, gone, "a-0");
	assert_true(draining(b, "b-0"));
}

static void logs_can_be_read(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	until_logged(b, "chat-0", "GET /health HTTP/1.1 -> 200\n");
	assert_int_equal(ask(b, "GET", "/v1/node/replicas/chat-0/logs", NULL), 200);
	assert_non_null(strstr(buf_str(&b->body), "generation 1 ---\nGET /health HTTP/1.1 -> 200\n"));
	assert_int_equal(ask(b, "GET", "/v1/node/replicas/chat-0/logs?tail=1", NULL), 200);
	/* one line; which one depends on whether the engine's health was asked meanwhile */
	const char *end = strchr(buf_str(&b->body), '\n');
	assert_non_null(end);
	assert_string_equal(end, "\n");
	assert_int_equal(ask(b, "GET", "/v1/node/replicas/chat-0/logs?tail=0", NULL), 200);
	assert_string_equal(buf_str(&b->body), "");
	assert_int_equal(ask(b, "GET", "/v1/node/replicas/chat-0/logs?tail=x", NULL), 400);
	assert_int_equal(ask(b, "GET", "/v1/node/replicas/none-0/logs", NULL), 404);
	assert_int_equal(ask(b, "GET", "/v1/node/replicas/..%2f..%2fetc/logs", NULL), 404);
}

static void a_followed_log_survives_rotation(void **state)
{
	struct bench *b = *state;
	start_node(b);
	AUTO(mem_freep) char *log = in_dir(b, "log/chat-0.log");
	AUTO(mem_freep) char *old = in_dir(b, "log/chat-0.log.1");
	assert_int_equal(file_write_atomic(log, VIEW("one\ntwo\nthree\n"), 0600, false), 0);
	struct http_call *c = follow_log(b, "/v1/node/replicas/chat-0/logs?tail=2&follow=1");
	until(b, logged, "two\nthree\n");
	AUTO(fd_closep) int fd = open(log, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_int_equal(fd_write_all(fd, "four\n", 5), 0);
	until(b, logged, "four\n");
	assert_int_equal(fd_write_all(fd, "five\n", 5), 0);
	assert_int_equal(rename(log, old), 0);
	AUTO(fd_closep) int next = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_int_equal(fd_write_all(next, "six\n", 4), 0);
	until(b, logged, "six\n");
	assert_string_equal(buf_str(&b->log_text), "two\nthree\nfour\nfive\nsix\n");
	http_call_cancel(c);
}

static void without_an_orchestratord_it_ends(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok");
	b->opts.orphan_grace_ms = 1;
	b->opts.heartbeat_ms = 20;
	start_node(b);
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	add_want(&d, "chat-0", "chat")->keep_alive_ms = 100;
	assert_int_equal(put(b, &d), 200);
	until(b, ready, "chat-0");
	assert_int_equal(left_over(b), 1);
	stop_registry(b);
	until(b, done, NULL);
	assert_int_equal(left_over(b), 0);
}

static bool registered_twice(struct bench *b, const char *id)
{
	(void)id;
	return b->registers == 2;
}

static void an_unknown_node_registers_again(void **state)
{
	struct bench *b = *state;
	b->opts.heartbeat_ms = 10;
	start_node(b);
	b->forget = 1;
	until(b, registered_twice, NULL);
}

static void an_external_server_is_watched(void **state)
{
	struct bench *b = *state;
	b->opts.probe_every_ms = 20;
	struct node_pool *p = &b->pools[b->npools++];
	*p = (struct node_pool){ .id = "remote" };
	p->engine.kind = ENGINE_OPENAI;
	p->engine.mode = ENGINE_MODE_EXTERNAL;
	AUTO(mem_freep) char *url = mem_fmt("unix:%s/external.sock", b->dir);
	strv_add(&p->engine.urls, url);
	start_node(b);
	want(b, "remote", false, 0);
	until(b, has_error, "remote-0");
	assert_int_equal(find(b, "remote-0")->state, REPLICA_STARTING);
	struct net_addr a;
	struct http_server_opts o = { HTTP_SERVER_DEFAULTS, .on_request = on_request, .arg = b };
	int fd;
	assert_int_equal(net_addr_parse(view_str(url), &a, NULL), 0);
	for (int life = 0; life < 2; life++) { /* it comes, goes, and comes back by itself */
		assert_int_equal(net_listen(&a, 0600, &fd, NULL), 0);
		struct http_server *s = http_server_new(b->loop, &o);
		assert_int_equal(http_server_listen(s, fd), 0);
		until(b, ready, "remote-0");
		const struct wire_replica *r = find(b, "remote-0");
		assert_string_equal(r->address, url);
		assert_string_equal(r->remote_models[0], "one");
		assert_string_equal(r->remote_models[1], "two");
		assert_null(r->last_error.message);
		http_server_free(s);
		fd_close(fd);
		unlink(a.host);
		until(b, starting, "remote-0");
		until(b, has_error, "remote-0");
	}
	want(b, NULL, false, 0);
	until(b, gone, "remote-0");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	if (argc > 1)
		return fake_server_main(argc, argv);
	if (!getenv("TEST_VERBOSE"))
		log_set_level(LOG_ERROR);
	const struct CMUnitTest tests[] = {
		T(a_wanted_replica_gets_ready_and_goes),
		T(a_waiting_request_is_the_canary),
		T(the_sender_can_ask_for_our_canary),
		T(canary_never_means_never),
		T(a_wrong_first_answer_is_a_crash),
		T(crashes_open_the_breaker_and_a_restart_forgets_it),
		T(what_a_restart_cannot_mend_fails_at_once),
		T(killed_from_outside_starts_again_at_once),
		T(a_restart_is_a_stop_and_a_start),
		T(a_start_that_takes_too_long_is_ended),
		T(an_engine_that_falls_silent_is_replaced),
		T(a_missing_model_is_said),
		T(an_unknown_pool_is_said),
		T(a_smaller_fence_is_refused),
		T(promised_context_is_checked),
		T(the_next_node_finds_the_engines),
		T(a_second_node_is_refused),
		T(a_stop_stops_everything_and_answers),
		T(a_stubborn_engine_holds_up_nobody),
		T(logs_can_be_read),
		T(a_followed_log_survives_rotation),
		T(without_an_orchestratord_it_ends),
		T(an_unknown_node_registers_again),
		T(an_external_server_is_watched),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
