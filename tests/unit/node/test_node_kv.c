/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversations that outlive their engine: what the node asks of it and when, what is on the disk afterwards,
 * and that nothing of it holds up a stop or a start.
 */
#include "bench.h"

#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "fake_server.h"
#include "log/log.h"
#include "provision/kv/kv.h"

/* A llama-server that behaves as mode says (fake_server.c). */
static struct node_pool *llama(struct bench *b, const char *mode)
{
	struct node_pool *p = &b->pools[b->npools++];
	*p = (struct node_pool){ .id = "chat",
		.slots = 3,
		.ctx = 4096,
		.grace_ms = 30000,
		.spec = "one",
		.kv_save = NODE_KV_ON, /* whatever its header says */
		.model_path = in_dir(b, "model.gguf") };
	assert_int_equal(file_write_atomic(p->model_path, VIEW("GGUF"), 0600, false), 0);
	p->engine.kind = ENGINE_LLAMACPP;
	p->engine.mode = ENGINE_MODE_BINARY;
	p->engine.path = mem_strdup(b->self);
	strv_add(&p->engine.args, mode);
	return p;
}

static void free_model(struct bench *b)
{
	free((char *)(uintptr_t)b->pools[0].model_path);
}

static size_t saved(struct bench *b)
{
	AUTO(mem_freep) char *dir = in_dir(b, "state/kv/chat");
	AUTO(kv_list_done) struct kv_list l;
	kv_list(dir, NULL, &l);
	return l.len;
}

/* Whatever lies in the pool's folders, whole or not. */
static size_t entries(const char *dir)
{
	size_t n = 0;
	DIR *d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d));) {
		AUTO(mem_freep) char *path = path_join(dir, e->d_name);
		struct stat st;
		if (e->d_name[0] != '.' && lstat(path, &st) == 0)
			n += S_ISDIR(st.st_mode) ? entries(path) : 1;
	}
	if (d)
		closedir(d);
	return n;
}

static size_t lying(struct bench *b)
{
	AUTO(mem_freep) char *dir = in_dir(b, "state/kv");
	return entries(dir);
}

/* How often a line of the engine's log has text. */
static size_t times(struct bench *b, const char *text)
{
	AUTO(mem_freep) char *log = read_text(b, "log/chat-0.log");
	size_t n = 0;
	for (const char *at = log; at && (at = strstr(at, text)); at++)
		n++;
	return n;
}

static bool third_life(struct bench *b, const char *id)
{
	const struct wire_replica *r = find(b, id);
	return r && r->state == REPLICA_READY && r->generation == 3;
}

static void run(struct bench *b)
{
	want(b, "chat", false, 0);
	until(b, ready, "chat-0");
}

static void swap_out(struct bench *b)
{
	want(b, NULL, false, 0);
	until(b, gone, "chat-0");
}

static void used_slots_are_saved_and_taken_up(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=slots");
	start_node(b);
	run(b);
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 0);
	swap_out(b);
	assert_int_equal(times(b, "POST /slots/0?action=save"), 1);
	assert_int_equal(times(b, "action=save"), 1); /* neither one with next to nothing nor one at work */
	assert_int_equal(saved(b), 1);
	assert_int_equal(lying(b), 1);
	run(b);
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 500);
	until_logged(b, "chat-0", "POST /slots/0?action=restore HTTP/1.1 -> 200");
	assert_int_equal(times(b, "action=restore"), 1);
	/* after our own first question, which takes a slot, and before anybody else's */
	AUTO(mem_freep) char *log = read_text(b, "log/chat-0.log");
	const char *restore = strstr(log, "action=restore"), *question = strstr(log, "POST /completion");
	assert_non_null(question);
	question = strstr(question + 1, "POST /completion");
	assert_true(restore && question && question < restore);
	free_model(b);
}

static void a_save_that_hangs_holds_up_no_stop(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=savehang");
	start_node(b);
	run(b);
	assert_int_equal(ask(b, "POST", "/v1/node/stop", "{\"deadline_ms\":2000}"), 200);
	assert_string_equal(buf_str(&b->body), "{\"stopped\":1,\"killed\":0}\n"); /* it had its time to end */
	assert_int_equal(times(b, "action=save"), 1);
	assert_int_equal(lying(b), 0); /* nothing unfinished is left */
	until(b, done, NULL);
	free_model(b);
}

static void an_engine_that_cannot_is_stopped_nevertheless(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=nosave");
	start_node(b);
	run(b);
	swap_out(b);
	assert_int_equal(times(b, "POST /slots/0?action=save HTTP/1.1 -> 501"), 1);
	assert_int_equal(lying(b), 0);
	free_model(b);
}

static void what_is_condemned_is_not_saved(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=slots");
	start_node(b);
	run(b);
	assert_int_equal(ask(b, "POST", "/v1/node/replicas/chat-0/condemn",
				 "{\"generation\":1,\"cause\":\"hung\",\"message\":\"nothing moves\"}"),
		200);
	until(b, second_life, "chat-0");
	assert_int_equal(times(b, "/slots"), 0);
	assert_int_equal(lying(b), 0);
	free_model(b);
}

static void a_file_that_does_not_fit_is_removed(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=norestore");
	start_node(b);
	run(b);
	swap_out(b);
	assert_int_equal(saved(b), 1);
	run(b);
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 0);
	until_logged(b, "chat-0", "action=restore HTTP/1.1 -> 400");
	assert_int_equal(saved(b), 0);
	free_model(b);
}

static void a_file_that_ends_an_engine_is_not_given_to_the_next(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=restorecrash");
	start_node(b);
	run(b);
	swap_out(b);
	assert_int_equal(saved(b), 1);
	want(b, "chat", false, 0);
	until(b, third_life, "chat-0"); /* the second ended with the file */
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 0);
	assert_int_equal(saved(b), 0);
	free_model(b);
}

static void a_restart_takes_them_up(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=slots");
	start_node(b);
	run(b);
	want(b, "chat", false, 1);
	until(b, second_life, "chat-0");
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 500);
	free_model(b);
}

static void off_is_off_at_once(void **state)
{
	struct bench *b = *state;
	struct node_pool *p = llama(b, "--fake=slots");
	start_node(b);
	run(b);
	p->kv_save = NODE_KV_OFF;
	node_set_pools(b->node, b->pools, b->npools);
	swap_out(b);
	assert_int_equal(times(b, "/slots"), 0);
	run(b);
	swap_out(b);
	assert_int_equal(times(b, "/slots"), 0);
	assert_int_equal(lying(b), 0);
	free_model(b);
}

static void a_header_that_says_nothing_saves_nothing(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=slots")->kv_save = NODE_KV_AUTO;
	start_node(b);
	run(b);
	swap_out(b);
	assert_int_equal(times(b, "/slots"), 0);
	free_model(b);
}

static void an_engine_that_was_taken_over_is_saved_too(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=slots");
	start_node(b);
	run(b);
	node_free(b->node);
	b->node = NULL;
	b->registers = 0;
	start_node(b);
	run(b);
	assert_int_equal(find(b, "chat-0")->generation, 1);
	swap_out(b);
	assert_int_equal(saved(b), 1);
	free_model(b);
}

/* Two conversations of an engine with one slot. Returns how many tokens the third start took up. */
static uint64_t third_start(struct bench *b, const char *mode)
{
	llama(b, mode)->slots = 1;
	start_node(b);
	for (int i = 0; i < 2; i++) {
		run(b);
		swap_out(b);
	}
	assert_int_equal(saved(b), 2);
	run(b);
	return find(b, "chat-0")->kv_restored_tokens;
}

static void an_older_one_goes_into_the_cache_of_prompts(void **state)
{
	struct bench *b = *state;
	assert_int_equal(third_start(b, "--fake=slots"), 1000);
	swap_out(b); /* so that all of its log is there */
	AUTO(mem_freep) char *log = read_text(b, "log/chat-0.log");
	char *at = strstr(log, "generation 3");
	static const char *const steps[] = { "POST /completion", "action=restore", "POST /completion",
		"action=restore" };
	for (size_t i = 0; i < ARRAY_LEN(steps);
		i++) { /* our canary, the older one, aside with it, the newer */
		assert_non_null(at);
		at = strstr(at + 1, steps[i]);
	}
	assert_non_null(at);
	free_model(b);
}

static void where_a_request_goes_elsewhere_the_newest_is_taken_up(void **state)
{
	struct bench *b = *state;
	assert_int_equal(third_start(b, "--fake=elsewhere"), 500);
	assert_int_equal(saved(b), 2);
	free_model(b);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	if (argc > 1)
		return fake_server_main(argc, argv);
	if (!getenv("TEST_VERBOSE"))
		log_set_level(LOG_ERROR);
	const struct CMUnitTest tests[] = {
		T(used_slots_are_saved_and_taken_up),
		T(an_older_one_goes_into_the_cache_of_prompts),
		T(where_a_request_goes_elsewhere_the_newest_is_taken_up),
		T(a_save_that_hangs_holds_up_no_stop),
		T(an_engine_that_cannot_is_stopped_nevertheless),
		T(what_is_condemned_is_not_saved),
		T(a_file_that_does_not_fit_is_removed),
		T(a_file_that_ends_an_engine_is_not_given_to_the_next),
		T(a_restart_takes_them_up),
		T(off_is_off_at_once),
		T(a_header_that_says_nothing_saves_nothing),
		T(an_engine_that_was_taken_over_is_saved_too),
	};
	return cmocka_run_group_tests_name("node_kv", tests, NULL, NULL);
}
