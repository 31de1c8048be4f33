/* SPDX-License-Identifier: Apache-2.0
 *
 * When a request's silence is reported, and what is no silence.
 */
#include "world.h"

#include "proxy/proxy_int.h"

#define TOKEN "a\r\ndata: {}\n\n\r\n"

static void no_token_at_all(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .first_token_ms = 100, .stall_ms = 1 });
	world_script(w, (struct step[]){ { 0 } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->silent[true]);
	assert_int_equal(w->silent_ms, 100); /* stall_ms is for streams that had a token */
	assert_false(answered(w, 0));
	leave(w, 0);
	world_free(w);
}

/* Each movement in the slots begins the time anew: it is never over. */
static void slots_move(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .first_token_ms = 1000 });
	world_script(w, (struct step[]){ { 0 } }, 1);
	w->moves = true;
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->silent[false] == 3);
	assert_int_equal(w->silent[true], 0);
	leave(w, 0);
	world_free(w);
}

/* A comment and a ping are no tokens; the head and the first of them do not make it a stream that stalls. */
static void pings_alone(void **state)
{
	(void)state;
	static const char *const pings[] = { SSE_HEAD "3\r\n:\n\n\r\n",
		SSE_HEAD "16\r\nevent: ping\ndata: {}\n\n\r\n" };
	for (size_t i = 0; i < ARRAY_LEN(pings); i++) {
		struct world *w = world_new(&(struct world_opts){ .first_token_ms = 200, .stall_ms = 1 });
		world_script(w, (struct step[]){ { .reply = pings[i] } }, 1);
		ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
		wait_for(w, w->silent[true]);
		assert_true(w->clients[0].body.len > 0);
		assert_int_equal(w->silent_ms, 200);
		leave(w, 0);
		world_free(w);
	}
}

static void stalls_in_the_stream(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .stall_ms = 50 });
	world_script(w, (struct step[]){ { .reply = SSE_HEAD TOKEN } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->silent[true]);
	assert_int_equal(w->silent_ms, 50);
	assert_int_equal(w->silent[false], 0);
	struct pool_replica *r = pool_take_replica(w->pool, "p-0", POOL_FATE_ENDED); /* control took it out */
	proxy_replica_gone(w->proxy, r, true);
	pool_replica_unref(r);
	wait_for(w, answered(w, 0));
	assert_non_null(strstr(buf_str(&w->clients[0].body), "DECODE_TIMEOUT"));
	world_free(w);
}

/* A prompt that is being read beside it may be the reason: then the longer time holds. */
static void a_prompt_is_read_beside(void **state)
{
	(void)state;
	struct world *w =
		world_new(&(struct world_opts){ .slots = 2, .stall_ms = 50, .first_token_ms = 600 });
	world_script(w, (struct step[]){ { .reply = SSE_HEAD TOKEN }, { 0 } }, 2);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->clients[0].body.len);
	ask(w, 1, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 2);
	w->silent[true] = 0; /* it may have been slow to get there */
	wait_for(w, w->silent[true]);
	assert_int_equal(w->silent_ms, 600);
	leave(w, 0);
	leave(w, 1);
	world_free(w);
}

static void an_answer_that_came(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .stall_ms = 1, .first_token_ms = 10000 });
	world_script(w, (struct step[]){ { .reply = OK_JSON }, { .delay_ms = 100, .reply = OK_JSON } }, 2);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	ask(w, 1, "GET", "/props", "", (struct view){ 0 }); /* holds no lease: nothing of it is judged */
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	assert_int_equal(w->silent[true], 0);
	world_free(w);
}

/* An answer in one piece, of which the rest does not come. */
static void stalls_in_a_body(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .first_token_ms = 100, .stall_ms = 1 });
	world_script(w,
		(struct step[]){ { .reply = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
					    "Content-Length: 90\r\n\r\n{\"half\":" } },
		1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->silent[true]);
	assert_int_equal(w->silent_ms, 100);
	assert_string_equal(buf_str(&w->clients[0].body), "{\"half\":");
	struct pool_replica *r = pool_take_replica(w->pool, "p-0", POOL_FATE_ENDED); /* control took it out */
	proxy_replica_gone(w->proxy, r, true);
	pool_replica_unref(r);
	wait_for(w, answered(w, 0));
	assert_true(w->clients[0].failed);
	world_free(w);
}

/* What takes no slot is nobody's to judge; it does not wait for ever either. */
static void without_a_lease(void **state)
{
	(void)state;
	static const char *const halves[] = { NULL,
		"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{\"half\":" };
	for (size_t i = 0; i < ARRAY_LEN(halves); i++) {
		struct world *w = world_new(&(struct world_opts){ .first_token_ms = 50, .stall_ms = 1 });
		world_script(w, (struct step[]){ { .reply = halves[i] } }, 1);
		ask(w, 0, "GET", "/props", "", (struct view){ 0 });
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, i ? 200 : 504);
		assert_int_equal(w->clients[0].failed, i == 1);
		assert_int_equal(w->silent[true], 0);
		assert_false(pool_replica_is_down(world_replica(w)));
		world_free(w);
	}
}

static void time_passed(void *arg)
{
	struct world *w = arg;
	loop_stop(w->loop);
}

/* A client that does not read is its own matter: nothing of the engine's can be seen meanwhile. */
static void without_a_lease_and_a_slow_client(void **state)
{
	(void)state;
	static char reply[6 * 1024 * 1024];
	int n = snprintf(
		reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", sizeof reply - 1024);
	memset(reply + n, 'x', sizeof reply - 1024);
	struct world *w = world_new(&(struct world_opts){ .first_token_ms = 100 });
	world_script(w, (struct step[]){ { .reply = reply, .n = (size_t)n + sizeof reply - 1024 } }, 1);
	ask(w, 0, "GET", "/props", "", (struct view){ 0 });
	wait_for(w, w->clients[0].status);
	http_call_pause(w->clients[0].call);
	struct loop_timer t = { 0 };
	loop_timer_start(w->loop, &t, 500, time_passed, w);
	wait_for(w, !loop_timer_active(&t));
	assert_false(answered(w, 0));
	http_call_resume(w->clients[0].call);
	wait_for(w, answered(w, 0));
	assert_true(w->clients[0].ended);
	assert_int_equal(w->clients[0].body.len, sizeof reply - 1024);
	world_free(w);
}

static struct pool_replica *left; /* a reference */
static void replica_leaves(struct client *c)
{
	if (!world_replica(c->w))
		return;
	left = pool_take_replica(c->w->pool, "p-0", POOL_FATE_ENDED);
	proxy_replica_gone(c->w->proxy, left, false);
}

/* Its node went away, its engine did not: the stream goes on, and nothing is kept of the replica for it. */
static void stream_of_a_replica_that_is_gone(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w,
		(struct step[]){ { .reply = SSE_HEAD TOKEN TOKEN TOKEN "0\r\n\r\n",
			.split = strlen(SSE_HEAD TOKEN) } },
		1);
	w->clients[0].check = replica_leaves;
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0)); /* with the rest of the stream, which may have come in one piece */
	assert_true(w->clients[0].ended);
	assert_true(atomic_load(&left->gone));
	assert_null(left->per_loop[0]);
	pool_replica_unref(left);
	world_free(w);
}

static void median_of_gaps(void **state)
{
	(void)state;
	struct gaps g = { 0 };
	assert_int_equal(gap_median_ms(&g), 0);
	gap_add(&g, 7000000);
	assert_int_equal(gap_median_ms(&g), 7);
	for (int i = 0; i < 100; i++)
		gap_add(&g, i % 4 ? 3000000 : 900000000); /* a slow one now and then */
	assert_int_equal(gap_median_ms(&g), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_token_at_all),
		cmocka_unit_test(slots_move),
		cmocka_unit_test(pings_alone),
		cmocka_unit_test(stalls_in_the_stream),
		cmocka_unit_test(a_prompt_is_read_beside),
		cmocka_unit_test(an_answer_that_came),
		cmocka_unit_test(stalls_in_a_body),
		cmocka_unit_test(without_a_lease),
		cmocka_unit_test(without_a_lease_and_a_slow_client),
		cmocka_unit_test(stream_of_a_replica_that_is_gone),
		cmocka_unit_test(median_of_gaps),
	};
	return cmocka_run_group_tests_name("silence", tests, NULL, NULL);
}
