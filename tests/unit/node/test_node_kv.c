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

/* What the sender of the wishes tells of the engine's requests: of slot 0 one of 490 tokens that was answered
 * with 11, by nobody in particular. */
static char *told(struct bench *b, const char *requests)
{
	return mem_fmt("chat-0 %llu %s\n", (unsigned long long)find(b, "chat-0")->generation, requests);
}
#define ONE_REQUEST "0 0:7:490:11:0"

static void want_told(struct bench *b, bool wanted, uint32_t epoch, const char *requests)
{
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	if (wanted)
		add_want(&d, "chat-0", "chat")->restart_epoch = epoch;
	d.talks = told(b, requests);
	assert_int_equal(put(b, &d), 200);
}

static void swap_out_told(struct bench *b, const char *requests)
{
	want_told(b, false, 0, requests);
	until(b, gone, "chat-0");
}

static void swap_out(struct bench *b)
{
	swap_out_told(b, ONE_REQUEST);
}

/* kv_for: whose requests wait for it. */
static void run_for(struct bench *b, const char *kv_for)
{
	AUTO(wire_desired_done) struct wire_desired d = { 0 };
	add_want(&d, "chat-0", "chat")->kv_for = mem_strdup(kv_for);
	assert_int_equal(put(b, &d), 200);
	until(b, ready, "chat-0");
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
	AUTO(mem_freep)
	char *line = mem_fmt("{\"deadline_ms\":2000,\"talks\":\"chat-0 %llu " ONE_REQUEST "\"}",
		(unsigned long long)find(b, "chat-0")->generation);
	assert_int_equal(ask(b, "POST", "/v1/node/stop", line), 200);
	assert_string_equal(buf_str(&b->body), "{\"stopped\":1,\"killed\":0}\n"); /* it had its time to end */
	assert_int_equal(times(b, "action=save"), 1);
	assert_int_equal(lying(b), 0); /* nothing unfinished is left */
	until(b, done, NULL);
	free_model(b);
}

static void a_save_that_fails_leaves_nothing(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=savefull"); /* as on a full disk */
	start_node(b);
	run(b);
	swap_out(b);
	assert_int_equal(times(b, "POST /slots/0?action=save HTTP/1.1 -> 500"), 1);
	assert_int_equal(lying(b), 0);
	run(b);
	free_model(b);
}

static void an_engine_that_ends_while_it_saves_leaves_nothing(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=savecrash");
	start_node(b);
	run(b);
	swap_out(b);
	assert_int_equal(lying(b), 0);
	run(b);
	free_model(b);
}

/* Its process is killed: nothing is put in order. The engine goes on, and the next node finds both. */
static void a_node_that_ends_while_it_saves_leaves_nothing(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=savehang");
	start_node(b);
	run(b);
	want_told(b, false, 0, ONE_REQUEST);
	until_logged(b, "chat-0", "action=save HTTP/1.1 -> 0");
	node_free(b->node);
	b->node = NULL;
	b->registers = 0;
	AUTO(mem_freep) char *dir = in_dir(b, "state/kv/chat/0123456789abcdef");
	AUTO(mem_freep) char *part = path_join(dir, "part.chat-0.0");
	assert_int_equal(dir_make(dir, 0700), 0);
	assert_int_equal(file_write_atomic(part, VIEW("half of"), 0600, false), 0);
	start_node(b);
	assert_int_equal(lying(b), 0);
	want(b, NULL, false, 0); /* whose its slots are was told to the other one */
	until(b, gone, "chat-0");
	assert_int_equal(lying(b), 0);
	free_model(b);
}

static void a_file_that_was_cut_is_not_read_and_goes(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=slots");
	start_node(b);
	run(b);
	swap_out(b);
	AUTO(mem_freep) char *dir = in_dir(b, "state/kv/chat");
	AUTO(kv_list_done) struct kv_list l;
	kv_list(dir, NULL, &l);
	assert_int_equal(l.len, 1);
	AUTO(mem_freep) char *path = mem_fmt("%s/%s/%s", dir, l.items[0].key, l.items[0].name);
	assert_int_equal(truncate(path, 20), 0);
	run(b);
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 0);
	assert_int_equal(times(b, "action=restore"), 0);
	assert_int_equal(lying(b), 0);
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
	want_told(b, true, 1, ONE_REQUEST);
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

static void of_one_key_is_nothing_for_another(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=slots");
	start_node(b);
	run(b);
	assert_true(find(b, "chat-0")->kv_kept);
	swap_out_told(b, "* b:9:30:2:0 a:7:490:11:0");
	assert_int_equal(saved(b), 1);
	run_for(b, "b:7"); /* another key, though it names the conversation alike */
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 0);
	assert_string_equal(find(b, "chat-0")->kv_found, "a:7-");
	swap_out_told(b, "b b:9:10:2:0"); /* its slot 0 fits no request, so it is the one key's */
	assert_int_equal(saved(b), 2);
	run_for(b, "c:1");
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 0);
	swap_out_told(b, "-");
	run_for(b, "c:1 a:7");
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 500);
	assert_non_null(strstr(find(b, "chat-0")->kv_found, "a:7+"));
	assert_non_null(strstr(find(b, "chat-0")->kv_found, "b:0-"));
	swap_out_told(b, "-");
	run(b); /* no request waits, and there are several keys' */
	assert_int_equal(find(b, "chat-0")->kv_restored_tokens, 0);
	free_model(b);
}

static void what_may_be_of_two_keys_is_not_saved(void **state)
{
	struct bench *b = *state;
	static const char *const unclear[] = {
		"* a:7:490:11:0 b:8:450:51:0", /* both fit */
		"* a:7:-1:-1:-1 b:8:10:3:0",   /* the client of one left: who knows what it had */
		"-",                           /* none was told */
	};
	llama(b, "--fake=slots");
	start_node(b);
	for (size_t i = 0; i < ARRAY_LEN(unclear); i++) {
		run(b);
		swap_out_told(b, unclear[i]);
		assert_int_equal(lying(b), 0);
	}
	run(b);
	swap_out_told(b, "a a:7:-1:-1:-1"); /* one key alone: its client left, and it is its all the same */
	assert_int_equal(saved(b), 1);
	free_model(b);
}

static void the_conversation_that_is_asked_for_comes_first(void **state)
{
	struct bench *b = *state;
	llama(b, "--fake=slots")->slots = 1;
	start_node(b);
	static const char *const talks[] = { "a a:1:490:11:0", "a a:2:490:11:0", "a a:3:490:11:0" };
	for (size_t i = 0; i < ARRAY_LEN(talks); i++) {
		run_for(b, "b:1"); /* takes nothing up */
		swap_out_told(b, talks[i]);
	}
	assert_int_equal(saved(b), 3);
	run_for(b, "a:1");
	swap_out_told(b, "-");
	AUTO(mem_freep) char *log = read_text(b, "log/chat-0.log"); /* into the slot, after the others */
	const char *last = strstr(strstr(log, "generation 4"), "restore of ");
	for (const char *next = last; next; next = strstr(last + 1, "restore of "))
		last = next;
	assert_non_null(last);
	assert_true(strstr(last, "-0000000000000001.kv") != NULL);
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
		T(a_save_that_fails_leaves_nothing),
		T(an_engine_that_ends_while_it_saves_leaves_nothing),
		T(a_node_that_ends_while_it_saves_leaves_nothing),
		T(a_file_that_was_cut_is_not_read_and_goes),
		T(an_engine_that_cannot_is_stopped_nevertheless),
		T(what_is_condemned_is_not_saved),
		T(a_file_that_does_not_fit_is_removed),
		T(a_file_that_ends_an_engine_is_not_given_to_the_next),
		T(of_one_key_is_nothing_for_another),
		T(what_may_be_of_two_keys_is_not_saved),
		T(the_conversation_that_is_asked_for_comes_first),
		T(a_restart_takes_them_up),
		T(off_is_off_at_once),
		T(a_header_that_says_nothing_saves_nothing),
		T(an_engine_that_was_taken_over_is_saved_too),
	};
	return cmocka_run_group_tests_name("node_kv", tests, NULL, NULL);
}
