/* SPDX-License-Identifier: Apache-2.0
 *
 * Other pools than before while engines run, and what is asked of the node from outside.
 */
#include "bench.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "supervise/keeper.h"
#include "fake_server.h"

static struct wire_want *want_variant(
	struct wire_desired *d, const char *id, const char *spec, const char *model)
{
	struct wire_want *w = add_want(d, id, "chat");
	w->spec = mem_strdup(spec);
	w->model = mem_strdup(model);
	return w;
}

/* Wants one replica of pool chat from this spec, or two. */
static void want_spec(struct bench *b, const char *id, const char *spec, const char *id2, const char *spec2)
{
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	want_variant(&d, id, spec, NULL);
	if (id2)
		want_variant(&d, id2, spec2, NULL);
	assert_int_equal(put(b, &d), 200);
}

/* The one pool gets another spec and mode, as after a reload. */
static void change_pool(struct bench *b, const char *spec, const char *mode)
{
	struct node_pool *p = &b->pools[0];
	p->spec = spec;
	free(p->engine.command.items[2]);
	p->engine.command.items[2] = mem_strdup(mode);
	node_set_pools(b->node, b->pools, b->npools);
}

static bool registered_again(struct bench *b, const char *id)
{
	(void)id;
	return b->registers > 1;
}

static void a_running_engine_is_left_alone_when_its_pool_changes(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok")->spec = "one";
	start_node(b);
	want_spec(b, "chat-0", "one", NULL, NULL);
	until(b, ready, "chat-0");
	int pid = find(b, "chat-0")->pid;
	assert_string_equal(find(b, "chat-0")->spec, "one");
	assert_null(find(b, "chat-0")->model);
	change_pool(b, "two", "loading");
	until(b, registered_again, NULL); /* its models are told again */
	want_spec(b, "chat-0", "one", "chat-1", "two");
	until(b, ready, "chat-1");
	assert_int_equal(find(b, "chat-0")->pid, pid);
	assert_string_equal(find(b, "chat-0")->spec, "one");
	assert_string_equal(find(b, "chat-1")->spec, "two");
	/* Started again, it is what it was: an engine of the other kind would need four questions. */
	assert_int_equal(kill(pid, SIGKILL), 0);
	until(b, second_life, "chat-0");
	assert_string_equal(find(b, "chat-0")->spec, "one");
	/* Even another wish for the same id does not end it. */
	pid = find(b, "chat-0")->pid;
	want_spec(b, "chat-0", "two", "chat-1", "two");
	assert_int_equal(ask(b, "GET", "/v1/node", NULL), 200);
	assert_int_equal(find(b, "chat-0")->pid, pid);
	want_spec(b, "chat-1", "two", NULL, NULL);
	until(b, gone, "chat-0");
	assert_true(ready(b, "chat-1"));
}

static void an_unknown_spec_is_said_and_tried_again(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok")->spec = "one";
	start_node(b);
	want_spec(b, "chat-0", "two", NULL, NULL);
	until(b, failed, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->last_error.cause, CAUSE_BAD_ARGS);
	assert_string_equal(r->spec, "two");
	assert_non_null(strstr(r->last_error.hint, "corral config reload"));
	change_pool(b, "two", "ok");
	until(b, ready, "chat-0");
	assert_string_equal(find(b, "chat-0")->spec, "two");
}

/* A reload that turns back when nothing of the old kind runs any more. */
static void an_older_spec_is_known_after_its_last_engine(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok")->spec = "one";
	start_node(b);
	want_spec(b, "chat-0", "one", NULL, NULL);
	until(b, ready, "chat-0");
	change_pool(b, "two", "oom");
	change_pool(b, "two", "oom"); /* said again */
	want_spec(b, "chat-1", "two", NULL, NULL);
	until(b, gone, "chat-0");
	until(b, failed, "chat-1");
	want_spec(b, "chat-2", "one", NULL, NULL);
	until(b, ready, "chat-2");
	assert_string_equal(find(b, "chat-2")->spec, "one");
	/* Only so many. */
	static const char *const specs[] = { "a", "b", "c", "d", "e" };
	for (size_t i = 0; i < ARRAY_LEN(specs); i++)
		change_pool(b, specs[i], "ok");
	want_spec(b, "chat-2", "one", "chat-3", "two");
	until(b, failed, "chat-3");
	want_spec(b, "chat-2", "one", "chat-3", "a");
	until(b, ready, "chat-3");
}

static void a_pool_that_comes_is_started(void **state)
{
	struct bench *b = *state;
	start_node(b);
	want(b, "chat", false, 0);
	until(b, failed, "chat-0");
	pool(b, "chat", "ok");
	node_set_pools(b->node, b->pools, b->npools);
	until(b, ready, "chat-0");
}

static void a_start_under_way_takes_another_timeout(void **state)
{
	struct bench *b = *state;
	b->policy.breaker_failures = 1;
	struct node_pool *p = pool(b, "chat", "never");
	p->spec = "one";
	p->start_timeout_ms = 10 * DEADLINE_MS;
	start_node(b);
	want_spec(b, "chat-0", "one", NULL, NULL);
	until(b, has_pid, "chat-0");
	p->start_timeout_ms = 1;
	node_set_pools(b->node, b->pools, b->npools);
	until(b, failed, "chat-0");
	assert_int_equal(find(b, "chat-0")->last_error.cause, CAUSE_START_TIMEOUT);
	assert_int_equal(find(b, "chat-0")->generation, 1);
}

static void what_failed_is_tried_again_from_another_definition(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "oom")->spec = "one";
	start_node(b);
	want_spec(b, "chat-0", "one", NULL, NULL);
	until(b, failed, "chat-0");
	change_pool(b, "two", "ok");
	want_spec(b, "chat-0", "two", NULL, NULL);
	until(b, ready, "chat-0");
}

static void a_file_can_stand_in_for_the_model(void **state)
{
	struct bench *b = *state;
	AUTO(mem_freep) char *model = in_dir(b, "other.gguf");
	pool(b, "chat", "ok")->model_path = "/nonexistent/model.gguf";
	start_node(b);
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	want_variant(&d, "chat-0", NULL, model);
	assert_int_equal(put(b, &d), 200);
	until(b, failed, "chat-0");
	assert_int_equal(find(b, "chat-0")->last_error.cause, CAUSE_NO_MODEL);
	assert_non_null(strstr(find(b, "chat-0")->last_error.message, model));
	assert_int_equal(file_write_atomic(model, VIEW("GGUF"), 0600, false), 0);
	d.wants[0].restart_epoch = 1;
	assert_int_equal(put(b, &d), 200);
	until(b, ready, "chat-0");
	assert_string_equal(find(b, "chat-0")->model, model);
	AUTO(mem_freep) char *handoff = read_text(b, "engines/chat-0.json");
	AUTO(mem_freep) char *said = mem_fmt("\"path\":\"%s\"", model);
	assert_non_null(strstr(handoff, said));
}

static void restart_node(struct bench *b)
{
	node_free(b->node);
	b->registers = 0;
	start_node(b);
}

static void an_engine_found_tells_what_it_was_started_from(void **state)
{
	struct bench *b = *state;
	AUTO(mem_freep) char *model = in_dir(b, "other.gguf");
	assert_int_equal(file_write_atomic(model, VIEW("GGUF"), 0600, false), 0);
	pool(b, "chat", "ok")->spec = "one";
	pool(b, "slow", "never")->spec = "three";
	start_node(b);
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	want_variant(&d, "chat-0", "one", model);
	struct wire_want *w = add_want(&d, "slow-0", "slow");
	w->spec = mem_strdup("three");
	w->ctx = 1234;
	assert_int_equal(put(b, &d), 200);
	until(b, ready, "chat-0");
	until(b, has_pid, "slow-0");
	int pid = find(b, "chat-0")->pid, slow = find(b, "slow-0")->pid;
	b->pools[0].spec = "two"; /* the file was changed while the node was away */
	b->pools[1].spec = "four";
	restart_node(b);
	until(b, ready, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->pid, pid);
	assert_string_equal(r->spec, "one");
	assert_string_equal(r->model, model);
	r = find(b, "slow-0"); /* never ready: known all the same */
	assert_int_equal(r->pid, slow);
	assert_string_equal(r->spec, "three");
	assert_int_equal(r->ctx, 1234);
}

static int on_reload(void *arg, bool dry_run, struct buf *ret_why)
{
	struct bench *b = arg;
	b->reloads++;
	b->dry_reloads += dry_run;
	if (b->reloads < 3)
		return 0;
	assert_int_equal(buf_adds(ret_why, "corral.yaml:3:1: pools: what"), 0);
	return -EINVAL;
}

static void a_reload_is_asked_for_by_the_route(void **state)
{
	struct bench *b = *state;
	const char *path = "/v1/node/config/reload";
	b->opts.on_reload = on_reload;
	start_node(b);
	assert_int_equal(ask(b, "POST", path, "{\"dry_run\":true}"), 200);
	assert_int_equal(b->dry_reloads, 1);
	assert_int_equal(ask(b, "POST", path, NULL), 200);
	assert_int_equal(b->dry_reloads, 1);
	assert_int_equal(ask(b, "POST", path, "{\"dry_run\":3}"), 400);
	assert_int_equal(b->reloads, 2);
	assert_int_equal(ask(b, "POST", path, "{}"), 400);
	assert_non_null(strstr(buf_str(&b->body), "corral.yaml:3:1: pools: what"));
}

static int read_two(void *arg, bool dry_run, struct buf *ret_why)
{
	struct bench *b = arg;
	(void)ret_why;
	assert_false(dry_run);
	b->reloads++;
	change_pool(b, "two", "ok");
	return 0;
}

/* An orchestratord that was started with another file finds a node that read the one before. */
static void an_unknown_spec_makes_it_read_its_file(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok")->spec = "one";
	b->opts.on_reload = read_two;
	start_node(b);
	want_spec(b, "chat-0", "one", NULL, NULL);
	until(b, ready, "chat-0");
	assert_int_equal(b->reloads, 0);
	want_spec(b, "chat-0", "one", "chat-1", "two");
	until(b, ready, "chat-1");
	assert_int_equal(b->reloads, 1);
	assert_string_equal(find(b, "chat-1")->spec, "two");
	assert_true(ready(b, "chat-0"));
	want_spec(b, "chat-0", "three", "chat-1", "two"); /* runs: nothing to read for it */
	assert_int_equal(b->reloads, 1);
}

static void a_hung_engine_is_condemned_from_outside(void **state)
{
	struct bench *b = *state;
	const char *path = "/v1/node/replicas/chat-0/condemn";
	b->policy.breaker_failures = 1;
	pool(b, "chat", "ok")->grace_ms = 10 * DEADLINE_MS;
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	/* SIGTERM alone would not end a process that is stopped; the grace is longer than this test waits. */
	assert_int_equal(kill(find(b, "chat-0")->pid, SIGSTOP), 0);
	assert_int_equal(ask(b, "POST", path, "{\"generation\":2,\"cause\":\"hung\"}"), 409);
	assert_int_equal(ask(b, "POST", path, "{\"generation\":1,\"cause\":\"ugly\"}"), 400);
	assert_int_equal(ask(b, "POST", path, "{\"cause\":\"hung\"}"), 400);
	assert_int_equal(
		ask(b, "POST", path, "{\"generation\":1,\"cause\":\"hung\",\"message\":\"nothing moved\"}"),
		200);
	until(b, failed, "chat-0");
	assert_int_equal(find(b, "chat-0")->last_error.cause, CAUSE_HUNG);
	assert_string_equal(find(b, "chat-0")->last_error.message, "nothing moved");
	assert_int_equal(ask(b, "POST", path, "{\"generation\":1,\"cause\":\"hung\"}"), 409);
	assert_int_equal(
		ask(b, "POST", "/v1/node/replicas/no-0/condemn", "{\"generation\":1,\"cause\":\"hung\"}"),
		404);
}

/* ---- how many load at once ---------------------------------------------------------------------------- */

static bool waits(struct bench *b, const char *id)
{
	const struct wire_replica *r = find(b, id);
	return r && r->state == REPLICA_PROVISIONING && r->phase && !strcmp(r->phase, "engine_wait") &&
	       r->progress_text;
}

static void want_four(struct bench *b, bool last_is_pulled_in, bool without_first)
{
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	if (!without_first)
		add_want(&d, "a-0", "a");
	add_want(&d, "b-0", "b");
	add_want(&d, "c-0", "c");
	add_want(&d, "d-0", "d")->pulled_in = last_is_pulled_in;
	assert_int_equal(put(b, &d), 200);
}

static void two_engines_load_at_the_same_time(void **state)
{
	struct bench *b = *state;
	pool(b, "a", "never")->grace_ms = 1;
	pool(b, "b", "never");
	pool(b, "c", "ok");
	pool(b, "d", "ok");
	start_node(b);
	want_four(b, true, false);
	until(b, has_pid, "a-0");
	until(b, has_pid, "b-0");
	until(b, waits, "c-0");
	until(b, waits, "d-0");
	assert_non_null(strstr(find(b, "c-0")->progress_text, "a-0"));
	assert_non_null(strstr(find(b, "c-0")->progress_text, "b-0"));
	assert_int_equal(find(b, "c-0")->generation, 0);
	assert_int_equal(find(b, "d-0")->generation, 0);
	/* a stops loading: the one a request waits for goes first, and when it has loaded, the other. */
	want_four(b, true, true);
	until(b, proving, "d-0");
	until(b, ready, "c-0");
	assert_true(find(b, "d-0")->started_at_ms <= find(b, "c-0")->started_at_ms);
	assert_true(starting(b, "b-0"));
}

static void a_stuck_engine_blocks_only_until_its_timeout(void **state)
{
	struct bench *b = *state;
	b->opts.starting_max = 1;
	b->policy.breaker_failures = 1;
	struct node_pool *p = pool(b, "a", "never");
	p->start_timeout_ms = 1000;
	p->grace_ms = 1;
	pool(b, "b", "ok");
	start_node(b);
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	add_want(&d, "a-0", "a");
	add_want(&d, "b-0", "b");
	assert_int_equal(put(b, &d), 200);
	until(b, waits, "b-0");
	until(b, ready, "b-0");
	assert_true(failed(b, "a-0"));
}

static void one_that_waits_can_be_unwanted_or_let_in(void **state)
{
	struct bench *b = *state;
	b->opts.starting_max = 1;
	pool(b, "a", "never");
	pool(b, "b", "ok");
	pool(b, "c", "ok");
	start_node(b);
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	add_want(&d, "a-0", "a");
	add_want(&d, "c-0", "c");
	add_want(&d, "b-0", "b");
	assert_int_equal(put(b, &d), 200);
	until(b, waits, "b-0");
	until(b, waits, "c-0");
	d.nwants = 2; /* b is not wanted any more */
	assert_int_equal(put(b, &d), 200);
	until(b, gone, "b-0");
	node_set_starting_max(b->node, 2);
	until(b, ready, "c-0");
	d.nwants = 3;
}

static void engines_found_do_not_count(void **state)
{
	struct bench *b = *state;
	b->opts.starting_max = 1;
	pool(b, "a", "never");
	pool(b, "b", "ok");
	start_node(b);
	want(b, "a", false, 0);
	until(b, has_pid, "a-0");
	restart_node(b);
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	add_want(&d, "a-0", "a");
	add_want(&d, "b-0", "b");
	assert_int_equal(put(b, &d), 200);
	until(b, ready, "b-0");
	assert_true(starting(b, "a-0"));
}

/* ---- ends, and what is left --------------------------------------------------------------------------- */

static bool there_is(struct bench *b, const char *name)
{
	AUTO(mem_freep) char *path = in_dir(b, name);
	return file_exists(path);
}

static void put_file(struct bench *b, const char *name)
{
	AUTO(mem_freep) char *path = in_dir(b, name);
	assert_int_equal(file_write_atomic(path, VIEW("x"), 0600, false), 0);
}

static void wait_for_end(int pid)
{
	AUTO(fd_closep) int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	if (fd >= 0)
		assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
}

static void kill_and_wait(int pid, int signo)
{
	AUTO(fd_closep) int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	assert_int_equal(kill(pid, signo), 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
}

/* The keeper that is left has written its last word. */
static void keeper_ended(struct bench *b, const char *id)
{
	AUTO(mem_freep) char *dir = in_dir(b, "engines");
	struct keeper_record rec;
	assert_int_equal(keeper_last(dir, id, &rec, NULL), 0);
	wait_for_end(rec.keeper_pid);
	assert_int_equal(keeper_last(dir, id, &rec, NULL), 0);
	assert_int_equal(rec.state, RECORD_GONE);
}

static bool backs_off(struct bench *b, const char *id)
{
	const struct wire_replica *r = find(b, id);
	return r && r->state == REPLICA_BACKOFF;
}

/* The engine-provisioner and the engine end together: the next one tells how, before it starts another. */
static void an_end_that_nobody_saw_is_told(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok")->spec = "one";
	start_node(b);
	want_spec(b, "chat-0", "one", NULL, NULL);
	until(b, ready, "chat-0");
	int pid = find(b, "chat-0")->pid;
	node_free(b->node);
	b->registers = 0;
	kill_and_wait(pid, SIGABRT);
	keeper_ended(b, "chat-0");
	start_node(b);
	until(b, backs_off, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->generation, 1);
	assert_int_equal(r->last_error.cause, CAUSE_SIGNAL);
	assert_int_equal(r->last_error.signo, SIGABRT);
	assert_string_equal(r->spec, "one");
	want_spec(b, "chat-0", "one", NULL, NULL);
	until(b, second_life, "chat-0");
}

static void words_about_loading_do_not_fail_what_had_loaded(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "grumbles");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	kill_and_wait(find(b, "chat-0")->pid, SIGABRT);
	until(b, backs_off, "chat-0");
	assert_int_equal(find(b, "chat-0")->last_error.cause, CAUSE_SIGNAL);
	until(b, second_life, "chat-0");
}

static void one_that_is_not_wanted_any_more_is_not_started_again(void **state)
{
	struct bench *b = *state;
	pool(b, "chat", "ok");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	int pid = find(b, "chat-0")->pid;
	node_free(b->node);
	b->registers = 0;
	kill_and_wait(pid, SIGKILL);
	keeper_ended(b, "chat-0");
	start_node(b);
	until(b, backs_off, "chat-0");
	assert_int_equal(find(b, "chat-0")->last_error.signo, SIGKILL);
	want(b, NULL, false, 0);
	until(b, gone, "chat-0");
	assert_false(there_is(b, "engines/chat-0.start"));
}

static void what_belongs_to_nobody_is_removed(void **state)
{
	struct bench *b = *state;
	static const char *const at_once[] = { "engines/old-0.7.sock", "engines/old-0.json",
		"engines/old-0.start", "engines/old-0.record.tmp" };
	static const char *const later[] = { "engines/old-0.lock", "engines/old-0.record" };
	pool(b, "chat", "ok");
	start_node(b);
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
	int pid = find(b, "chat-0")->pid;
	node_free(b->node);
	b->registers = 0;
	for (size_t i = 0; i < ARRAY_LEN(at_once); i++)
		put_file(b, at_once[i]);
	for (size_t i = 0; i < ARRAY_LEN(later); i++)
		put_file(b, later[i]);
	start_node(b);
	for (size_t i = 0; i < ARRAY_LEN(at_once); i++)
		assert_false(there_is(b, at_once[i]));
	until(b, ready, "chat-0");
	want(b, "chat", false, 0);
	for (size_t i = 0; i < ARRAY_LEN(later); i++)
		assert_false(there_is(b, later[i]));
	assert_int_equal(find(b, "chat-0")->pid, pid); /* and nothing of the one that runs */
	assert_true(there_is(b, "engines/chat-0.1.sock"));
	assert_true(there_is(b, "engines/chat-0.json"));
	assert_true(there_is(b, "engines/chat-0.lock"));
}

/* ---- the model's own context --------------------------------------------------------------------------- */

static void trained_with_2048(void *arg, const struct node_pool *p, struct wire_model *ret)
{
	(void)arg;
	ret->n_ctx_train = 2048;
	ret->ctx = p->ctx;
}

static void more_context_than_trained_is_refused(void **state)
{
	struct bench *b = *state;
	AUTO(mem_freep) char *model = in_dir(b, "model.gguf");
	assert_int_equal(file_write_atomic(model, VIEW("GGUF"), 0600, false), 0);
	b->opts.read_model = trained_with_2048;
	struct node_pool *p = &b->pools[b->npools++];
	*p = (struct node_pool){ .id = "chat", .slots = 1, .ctx = 4096, .model_path = model, .spec = "one" };
	p->engine.kind = ENGINE_LLAMACPP;
	p->engine.mode = ENGINE_MODE_BINARY;
	p->engine.path = mem_strdup(b->self);
	start_node(b);
	assert_non_null(strstr(b->facts.models[0].problem, "4096"));
	want(b, "chat", false, 0);
	until(b, failed, "chat-0");
	const struct wire_replica *r = find(b, "chat-0");
	assert_int_equal(r->last_error.cause, CAUSE_BAD_ARGS);
	assert_non_null(strstr(r->last_error.message, "4096"));
	assert_non_null(strstr(r->last_error.message, "2048"));
	assert_int_equal(r->pid, 0);
	strv_add(&p->engine.args, "--rope-scaling");
	strv_add(&p->engine.args, "yarn");
	p->spec = "two";
	node_set_pools(b->node, b->pools, b->npools);
	until(b, has_pid, "chat-0"); /* it is started now */
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	if (argc > 1)
		return fake_server_main(argc, argv);
	if (!getenv("TEST_VERBOSE"))
		log_set_level(LOG_ERROR);
	const struct CMUnitTest tests[] = {
		T(a_running_engine_is_left_alone_when_its_pool_changes),
		T(an_unknown_spec_is_said_and_tried_again),
		T(an_unknown_spec_makes_it_read_its_file),
		T(an_older_spec_is_known_after_its_last_engine),
		T(a_pool_that_comes_is_started),
		T(a_start_under_way_takes_another_timeout),
		T(what_failed_is_tried_again_from_another_definition),
		T(a_file_can_stand_in_for_the_model),
		T(an_engine_found_tells_what_it_was_started_from),
		T(a_reload_is_asked_for_by_the_route),
		T(a_hung_engine_is_condemned_from_outside),
		T(two_engines_load_at_the_same_time),
		T(a_stuck_engine_blocks_only_until_its_timeout),
		T(one_that_waits_can_be_unwanted_or_let_in),
		T(engines_found_do_not_count),
		T(more_context_than_trained_is_refused),
		T(an_end_that_nobody_saw_is_told),
		T(words_about_loading_do_not_fail_what_had_loaded),
		T(one_that_is_not_wanted_any_more_is_not_started_again),
		T(what_belongs_to_nobody_is_removed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
