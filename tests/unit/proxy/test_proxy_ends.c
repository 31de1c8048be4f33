/* SPDX-License-Identifier: Apache-2.0
 *
 * Every way a request may end early: the engine dies, the client leaves, time runs out. After each the
 * pool's counts are what they must be: nothing leaks, nothing is given back twice.
 */
#include "world.h"

static bool counts(struct world *w, uint32_t leases, uint32_t cooling)
{
	struct pool_stats s = world_stats(w);
	return s.leases == leases && s.cooling == cooling;
}

/* ---- the engine dies ----------------------------------------------------------------------------------- */

static void stale_connection(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = OK_JSON }, { .close = true }, { .reply = OK_JSON } }, 3);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_int_equal(w->requests, 3);
	assert_int_equal(w->connections, 2);
	assert_int_equal(w->demands, 0); /* no attempt was counted, the replica was never down */
	assert_true(counts(w, 0, 0));
	world_free(w);
}

/* The connection turns out stale after the replica was taken out: the next generation answers. */
static void stale_connection_of_a_replica_that_is_gone(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = OK_JSON }, { 0 }, { .reply = OK_JSON } }, 3);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 2);
	struct pool_replica *old = pool_take_replica(w->pool, "p-0", POOL_FATE_ENDED);
	proxy_replica_gone(w->proxy, old, false);
	world_put(w, 2, 1, NULL);
	proxy_replica_gone(w->proxy, old, true); /* now the connection in use is cut, too */
	pool_replica_unref(old);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

static void dies_before_the_first_byte(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .close = true }, { .reply = OK_JSON } }, 2);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1); /* down: it waits */
	assert_true(pool_replica_is_down(world_replica(w)));
	assert_true(counts(w, 0, 0));
	pool_replica_up(world_replica(w), mono_now());
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

/* The head of a stream is no answer yet: nothing of it was relayed. */
static void dies_before_the_first_event(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w,
		(struct step[]){ { .reply = SSE_HEAD "8\r\ndata: ha", .close = true }, { .reply = OK_JSON } },
		2);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	pool_replica_up(world_replica(w), mono_now());
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_string_equal(buf_str(&w->clients[0].body), "{\"ok\":1}");
	world_free(w);
}

/* Each time the verdict is that it lives: it is not tried for ever, and opens no circuit for the others. */
static void fails_every_time(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .close = true } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	while (!answered(w, 0)) {
		world_turn(w);
		pool_replica_up(world_replica(w), mono_now());
	}
	assert_int_equal(w->clients[0].status, 502);
	assert_int_equal(w->requests, POOL_FAILURES_MAX);
	assert_int_equal(world_replica(w)->circuit, CIRCUIT_CLOSED);
	assert_true(has_header(&w->clients[0], "x-should-retry: true"));
	assert_non_null(strstr(buf_str(&w->clients[0].body), "ENGINE_FAILED"));
	assert_true(counts(w, 0, 0));
	world_free(w);
}

/* Two engines crash under it: it is named, and no third gets it. */
static void crashes_two_engines(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .slots = 2 });
	world_script(
		w, (struct step[]){ { .close = true }, { 0 }, { .close = true }, { .reply = OK_JSON } }, 4);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	world_crash(w);
	world_put(w, 2, 2, NULL);
	wait_for(w, w->requests == 2);
	ask(w, 1, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1); /* the suspect is alone there */
	world_crash(w); /* it is cut by control: that counts as well */
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 502);
	assert_true(has_header(&w->clients[0], "x-should-retry: false"));
	assert_non_null(strstr(buf_str(&w->clients[0].body), "2 engines of pool p crashed"));
	world_put(w, 3, 2, NULL);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1 && w->requests == 3);
	pool_replica_up(world_replica(w), mono_now()); /* the innocent one: this engine closed and lives */
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

/* The pooled connection was closed after the request was read, and the engine is gone: it was there. */
static void stale_and_then_refused(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = OK_JSON }, { .close = true } }, 2);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 2);
	world_engine_off(w);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	world_crash(w);
	world_put(w, 2, 1, NULL);
	wait_for(w, world_replica(w)->alone); /* a suspect: it is granted alone */
	leave(w, 0);
	world_free(w);
}

#define ANSWER(status, body_len, body)                                                                       \
	"HTTP/1.1 " status "\r\nContent-Type: application/json\r\nContent-Length: " body_len "\r\n\r\n" body

/* 5xx of an engine that lives: another replica; where there is none, the answer as it is. */
static void answers_with_a_failure(void **state)
{
	(void)state;
	static const char *const failures[] = { ANSWER("500 Oops", "8", "{\"no\":1}"),
		"HTTP/1.1 502 Oops\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\noops" };
	for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
		for (int replicas = 1; replicas <= 2; replicas++) {
			struct world *w = world_new(&(struct world_opts){ 0 });
			if (replicas == 2)
				world_put_other(w);
			world_script(w, (struct step[]){ { .reply = failures[i] }, { .reply = OK_JSON } }, 2);
			ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
			wait_for(w, answered(w, 0));
			assert_int_equal(w->clients[0].status, replicas == 2 ? 200 : i ? 502 : 500);
			assert_int_equal(w->requests, replicas);
			assert_true(has_header(&w->clients[0],
				replicas == 2 ? "x-corral-replica: p-1" : "x-corral-replica: p-0"));
			assert_true(counts(w, 0, 0));
			world_free(w);
		}
	}
}

/* All fail: the last answer is relayed. 501 and 4xx are the engine working. */
static void answers_that_are_relayed(void **state)
{
	(void)state;
	static const struct {
		const char *reply;
		int status, requests;
	} cases[] = { { ANSWER("500 Oops", "8", "{\"no\":1}"), 500, PROXY_FAILURES_MAX + 1 },
		{ ANSWER("501 No", "8", "{\"no\":1}"), 501, 1 },
		{ ANSWER("400 No", "8", "{\"no\":1}"), 400, 1 } };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct world *w = world_new(&(struct world_opts){ 0 });
		world_put_other(w);
		world_script(w, (struct step[]){ { .reply = cases[i].reply } }, 1);
		ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, cases[i].status);
		assert_string_equal(buf_str(&w->clients[0].body), "{\"no\":1}");
		assert_int_equal(w->requests, cases[i].requests);
		world_free(w);
	}
}

static void failure_with_the_budget_spent(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_put_other(w);
	while (pool_may_repeat(w->pool, mono_now()))
		;
	world_script(w, (struct step[]){ { .reply = ANSWER("500 Oops", "8", "{\"no\":1}") } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 500); /* its own answer, which says why */
	assert_string_equal(buf_str(&w->clients[0].body), "{\"no\":1}");
	assert_true(has_header(&w->clients[0], "x-should-retry: true"));
	assert_int_equal(w->requests, 1);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

#define CHUNKED(status, hex, body)                                                                           \
	"HTTP/1.1 " status "\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" hex    \
	"\r\n" body "\r\n0\r\n\r\n"
#define OVERFLOW_BODY                                                                                        \
	"{\"error\":{\"type\":\"exceed_context_size_error\",\"n_prompt_tokens\":9,\"n_ctx\":8,\"code\":400}" \
	"}"

/* An engine's own error in the words and the envelope of the client, however it is framed. */
static void failures_in_the_dialect(void **state)
{
	(void)state;
	static const struct {
		const char *path, *reply;
		int status;
		const char *body, *header; /* what is found in them */
	} cases[] = {
		{ CHAT, CHUNKED("400 No", "57", OVERFLOW_BODY), 400, "maximum context length is 8 tokens",
			NULL },
		{ "/v1/messages", ANSWER("400 No", "32", "{\"error\":{\"message\":\"too odd\"}} "), 400,
			"{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"too "
			"odd",
			NULL },
		{ "/v1/messages", ANSWER("429 No", "16", "{\"error\":\"busy\"}"), 429,
			"{\"type\":\"error\",\"error\":{\"type\":\"", "x-should-retry: true" },
		{ "/v1/messages", ANSWER("400 No", "30", "{\"type\":\"error\",\"error\":{}}   "), 400,
			"{\"type\":\"error\",\"error\":{}}", NULL },
		{ CHAT, ANSWER("429 No", "16", "{\"error\":\"busy\"}"), 429, "{\"error\":\"busy\"}",
			"retry-after-ms: 1000" },
		{ CHAT, "HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", 429, "",
			"x-should-retry: true" },
		{ CHAT, ANSWER("501 No", "8", "{\"no\":1}"), 501, "{\"no\":1}", "x-should-retry: false" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct world *w = world_new(&(struct world_opts){ 0 });
		world_script(w, (struct step[]){ { .reply = cases[i].reply } }, 1);
		ask(w, 0, "POST", cases[i].path, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		const struct client *c = &w->clients[0];
		assert_int_equal(c->status, cases[i].status);
		if (!strstr(buf_str(&c->body), cases[i].body))
			fail_msg("%zu: %s", i, buf_str(&c->body));
		if (cases[i].header)
			assert_true(has_header(c, cases[i].header));
		assert_true(counts(w, 0, 0));
		world_free(w);
	}
}

/* A failure that turns out too long to be looked into passes; not a byte is missing. */
static void a_long_failure(void **state)
{
	(void)state;
	static char reply[100 * 1024];
	int n = snprintf(reply, sizeof reply,
		"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nTransfer-Encoding: "
		"chunked\r\n\r\n13880\r\n");
	memset(reply + n, 'x', 80000);
	snprintf(reply + n + 80000, 16, "\r\n0\r\n\r\n");
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = reply, .split = 50000 } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 400);
	assert_true(w->clients[0].ended);
	assert_int_equal(w->clients[0].body.len, 80000);
	world_free(w);
}

#define CLOSE_HEAD "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

/* An engine that ends its answers by closing: whole only where the stream says so itself. */
static void ends_by_closing(void **state)
{
	(void)state;
	static const struct {
		const char *path, *reply, *relayed;
		bool whole;
	} cases[] = {
		{ CHAT, CLOSE_HEAD "data: {}\n\ndata: [DONE]\n\n", "data: {}\n\ndata: [DONE]\n\n", true },
		{ CHAT, CLOSE_HEAD "data: {}\n\ndata: [DONE]\n", "data: {}\n\ndata: [DONE]\n", true },
		{ CHAT, CLOSE_HEAD "data: {}\n\ndata: [DONE]", "data: {}\n\ndata: [DONE]", true },
		{ CHAT, CLOSE_HEAD "data: {}\n\ndata: [DO", "data: {}\n\n", false },
		{ CHAT, CLOSE_HEAD "data: {}\n\n", "data: {}\n\n", false },
		{ CHAT, CLOSE_HEAD "data: {}\n\ndata: {\"a\":", "data: {}\n\n", false },
		{ "/upstream/p/x", CLOSE_HEAD "data: {}\n\n", "data: {}\n\n", true },
		{ "/upstream/p/x", CLOSE_HEAD "data: {}\n\ndata: {\"a\":", "data: {}\n\n", false },
		{ "/upstream/p/x", "HTTP/1.0 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n{\"a\":1}",
			"{\"a\":1}", true },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct world *w = world_new(&(struct world_opts){ 0 });
		world_script(w, (struct step[]){ { .reply = cases[i].reply, .close = true } }, 1);
		ask(w, 0, "POST", cases[i].path, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		const char *got = buf_str(&w->clients[0].body);
		if (w->clients[0].ended != cases[i].whole)
			fail_msg("%zu: %s", i, got);
		assert_memory_equal(got, cases[i].relayed, strlen(cases[i].relayed));
		assert_int_equal(strlen(got) == strlen(cases[i].relayed), cases[i].whole);
		assert_true(counts(w, 0, 0));
		world_free(w);
	}
}

/* A request that starts no engine waits for none either when the one that had it is gone. */
static void a_get_waits_for_no_engine(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .close = true } }, 1);
	ask(w, 0, "GET", "/props", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 502);
	assert_int_equal(w->requests, 1);
	assert_int_equal(world_stats(w).granted, 0); /* it never stood in the queue */
	pool_replica_up(world_replica(w), mono_now());
	world_script(w,
		(struct step[]){ { .reply = ANSWER("503 No", "25", "{\"error\":\"Loading model\"}") } }, 1);
	ask(w, 0, "GET", "/props", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 503);
	assert_non_null(strstr(buf_str(&w->clients[0].body), "POOL_UNREADY"));
	assert_int_equal(world_stats(w).granted, 0);
	pool_replica_up(world_replica(w), mono_now());
	world_put_other(w);
	world_script(w, (struct step[]){ { .close = true }, { .reply = OK_JSON } }, 2);
	ask(w, 0, "GET", "/props", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200); /* the other one answered */
	assert_int_equal(world_stats(w).granted, 0);
	world_free(w);
}

static void is_still_loading(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w,
		(struct step[]){ { .reply = ANSWER("503 No", "25", "{\"error\":\"Loading model\"}") },
			{ .reply = OK_JSON } },
		2);
	while (pool_may_repeat(w->pool, mono_now())) /* it needs no budget */
		;
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	assert_true(pool_replica_is_down(world_replica(w)));
	pool_replica_up(world_replica(w), mono_now());
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

struct mid {
	const char *path;
	const char *reply, *relayed;
	const char *error; /* how the error event begins; NULL: none */
};

static void dies_in_the_middle(void **state)
{
	(void)state;
	static const struct mid cases[] = {
		{ CHAT, SSE_HEAD "b\r\ndata: {}\n\nd\r\n", "data: {}\n\n", "data: {\"error\":" },
		{ CHAT, SSE_HEAD "10\r\ndata: {}\n\ndata: \r\n", "data: {}\n\n", "data: {\"error\":" },
		{ "/v1/messages", SSE_HEAD "a\r\ndata: {}\n\n\r\n", "data: {}\n\n", "event: error\ndata: {" },
		{ "/v1/responses", SSE_HEAD "a\r\ndata: {}\n\n\r\n", "data: {}\n\n",
			"event: response.failed\n" },
		{ CHAT,
			"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
			"9\r\n\r\n{\"a\":",
			"{\"a\":", NULL },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct mid *m = &cases[i];
		struct world *w = world_new(&(struct world_opts){ 0 });
		world_script(w, (struct step[]){ { .reply = m->reply, .close = true } }, 1);
		ask(w, 0, "POST", m->path, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		const char *got = buf_str(&w->clients[0].body);
		assert_true(w->clients[0].failed); /* no final chunk */
		assert_int_equal(w->clients[0].fail, HTTP_FAIL_BROKEN);
		assert_memory_equal(got, m->relayed, strlen(m->relayed));
		if (m->error)
			assert_memory_equal(got + strlen(m->relayed), m->error, strlen(m->error));
		else
			assert_int_equal(strlen(got), strlen(m->relayed));
		assert_null(strstr(got, "[DONE]"));
		assert_true(counts(w, 0, 0));
		world_free(w);
	}
}

/* After the stream's own last event only the framing is missing: that is complete. */
static void dies_after_the_last_event(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(
		w, (struct step[]){ { .reply = SSE_HEAD "e\r\ndata: [DONE]\n\n\r\n", .close = true } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_true(w->clients[0].ended);
	assert_string_equal(buf_str(&w->clients[0].body), "data: [DONE]\n\n");
	assert_true(counts(w, 0, 0));
	world_free(w);
}

/* Control takes a replica out under its requests: what was not answered moves on, a stream ends visibly. */
static void is_cut(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .slots = 2 });
	world_script(w,
		(struct step[]){ { .reply = SSE_HEAD "a\r\ndata: {}\n\n\r\n" }, { 0 }, { .reply = OK_JSON } },
		3);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->clients[0].body.len);
	ask(w, 1, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 2);
	struct pool_replica *r = pool_take_replica(w->pool, "p-0", POOL_FATE_ENDED);
	proxy_replica_gone(w->proxy, r, true);
	pool_replica_unref(r);
	wait_for(w, answered(w, 0));
	assert_true(w->clients[0].failed);
	assert_non_null(strstr(buf_str(&w->clients[0].body), "WORKER_RESET"));
	assert_false(answered(w, 1));
	world_put(w, 2, 1, NULL);
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

/* ---- the client leaves -----------------------------------------------------------------------------------
 */

static void leaves_the_queue(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true });
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	leave(w, 0);
	ask(w, 1, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1 && w->demands == 2 &&
			    proxy_running(w->proxy) == 1);
	world_script(w, (struct step[]){ { .reply = OK_JSON } }, 1);
	world_put(w, 1, 1, NULL);
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	assert_int_equal(w->requests, 1);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

/* The grant is posted while the server loses the client: the slot goes to the next. */
static void leaves_with_a_grant_on_its_way(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true });
	world_script(w, (struct step[]){ { .reply = OK_JSON } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	world_put(w, 1, 1, NULL); /* grants; the grant lies on this loop, which does not turn */
	assert_true(counts(w, 1, 0));
	http_server_close_all(w->server);
	assert_true(counts(w, 1, 0));
	assert_int_equal(proxy_running(w->proxy), 0);
	ask(w, 1, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	assert_int_equal(w->requests, 1);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

/* Nothing is sent to it, and no connection to it is begun, which nobody would end any more. */
static void its_replica_goes_with_the_grant_on_its_way(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true });
	world_script(w, (struct step[]){ { .reply = OK_JSON } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	world_put(w, 1, 1, NULL);
	struct pool_replica *r = pool_replica_ref(world_replica(w));
	world_crash(w);
	assert_int_equal(world_stats(w).waiting[POOL_INTERACTIVE], 0);
	wait_for(w, answered(w, 0) || world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	assert_int_equal(w->requests, 0);
	assert_null(r->per_loop[0]);
	assert_int_equal(r->in_use, 0);
	world_put(w, 2, 1, NULL);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_true(counts(w, 0, 0));
	pool_replica_unref(r);
	world_free(w);
}

static void leaves_before_the_head(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { 0 }, { .reply = OK_JSON } }, 2);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 1);
	assert_true(counts(w, 1, 0));
	leave(w, 0);
	wait_for(w, w->closed == 1); /* at once */
	assert_true(counts(w, 0, 1));
	assert_int_equal(w->demands, 1); /* control is told of what cools */
	ask(w, 1, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	pool_cooled(world_replica(w), 1);
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	assert_true(counts(w, 0, 0));
	world_free(w);
}

static void leaves_in_the_stream(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = SSE_HEAD "a\r\ndata: {}\n\n\r\n" } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->clients[0].body.len);
	leave(w, 0);
	wait_for(w, w->closed == 1);
	assert_true(counts(w, 0, 1));
	world_free(w);
}

static void leaves_after_the_answer(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = OK_JSON } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 1 && world_stats(w).leases == 0);
	http_server_close_all(w->server);
	assert_true(counts(w, 0, 0));
	assert_int_equal(w->closed, 0); /* the engine's connection is kept */
	world_free(w);
}

/* ---- time runs out
 * ----------------------------------------------------------------------------------------- */

static void waits_no_longer_than_max_wait(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true, .max_wait_ms = 20 });
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 503);
	assert_non_null(strstr(buf_str(&w->clients[0].body), "POOL_UNREADY"));
	assert_int_equal(world_stats(w).waiting[POOL_INTERACTIVE], 0);
	world_free(w);
}

/* max_wait bounds the queue: an engine may take longer for an answer in one piece. */
static void answers_later_than_max_wait(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .max_wait_ms = 20 });
	world_script(w, (struct step[]){ { .reply = OK_JSON, .delay_ms = 100 } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	world_free(w);
}

/* Refused before the queue: no slot is taken for what nobody waits for. */
static void deadline_that_cannot_be_met(void **state)
{
	(void)state;
	static const struct {
		const char *headers, *code;
	} cases[] = { { JSON_TYPE "X-Corral-Deadline-Ms: 0\r\n", "DEADLINE_UNMET" },
		{ JSON_TYPE "X-Corral-Deadline-Ms: soon\r\n", "INVALID_PARAMS" } };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct world *w = world_new(&(struct world_opts){ 0 });
		ask(w, 0, "POST", CHAT, cases[i].headers, CHAT_BODY);
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, 400);
		assert_non_null(strstr(buf_str(&w->clients[0].body), cases[i].code));
		assert_int_equal(w->requests, 0);
		assert_true(counts(w, 0, 0));
		world_free(w);
	}
}

/* The client's own deadline counts until the answer begins; the engine may still be at work after it. */
static void misses_its_deadline(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { 0 } }, 1);
	ask(w, 0, "POST", CHAT, JSON_TYPE "X-Corral-Deadline-Ms: 30\r\n", CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 504);
	assert_non_null(strstr(buf_str(&w->clients[0].body), "DEADLINE_UNMET"));
	wait_for(w, w->closed == w->connections);
	assert_true(w->requests == 0 || counts(w, 0, 1));
	world_free(w);
}

/* ---- what starts no engine
 * ------------------------------------------------------------------------------------ */

static void starts_nothing(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true });
	ask(w, 0, "GET", "/props", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	assert_int_equal(w->unloaded, 1);
	assert_int_equal(w->demands, 0);
	struct pool_replica_facts f = {
		.id = "p-0", .generation = 1, .address = w->engine_address, .slots_total = 1, .draining = true
	};
	pool_replica_unref(
		pool_put_replica(w->pool, &f)); /* on its way out: waiting for it would start it again */
	ask(w, 0, "GET", "/props", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	assert_int_equal(w->unloaded, 2);
	assert_int_equal(w->demands, 0);
	world_free(w);
}

static void proves(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true });
	world_script(w, (struct step[]){ { .close = true }, { .reply = OK_JSON } }, 2);
	struct pool_replica_facts f = {
		.id = "p-0", .generation = 1, .address = w->engine_address, .slots_total = 2, .proving = true
	};
	pool_replica_unref(pool_put_replica(w->pool, &f));
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	assert_int_equal(w->proved, 0);
	pool_replica_up(world_replica(w), mono_now());
	wait_for(w, answered(w, 0));
	assert_int_equal(w->proved, 1);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stale_connection),
		cmocka_unit_test(stale_connection_of_a_replica_that_is_gone),
		cmocka_unit_test(dies_before_the_first_byte),
		cmocka_unit_test(dies_before_the_first_event),
		cmocka_unit_test(fails_every_time),
		cmocka_unit_test(crashes_two_engines),
		cmocka_unit_test(stale_and_then_refused),
		cmocka_unit_test(answers_with_a_failure),
		cmocka_unit_test(answers_that_are_relayed),
		cmocka_unit_test(failure_with_the_budget_spent),
		cmocka_unit_test(failures_in_the_dialect),
		cmocka_unit_test(a_long_failure),
		cmocka_unit_test(ends_by_closing),
		cmocka_unit_test(a_get_waits_for_no_engine),
		cmocka_unit_test(is_still_loading),
		cmocka_unit_test(dies_in_the_middle),
		cmocka_unit_test(dies_after_the_last_event),
		cmocka_unit_test(is_cut),
		cmocka_unit_test(leaves_the_queue),
		cmocka_unit_test(leaves_with_a_grant_on_its_way),
		cmocka_unit_test(its_replica_goes_with_the_grant_on_its_way),
		cmocka_unit_test(leaves_before_the_head),
		cmocka_unit_test(leaves_in_the_stream),
		cmocka_unit_test(leaves_after_the_answer),
		cmocka_unit_test(waits_no_longer_than_max_wait),
		cmocka_unit_test(answers_later_than_max_wait),
		cmocka_unit_test(misses_its_deadline),
		cmocka_unit_test(deadline_that_cannot_be_met),
		cmocka_unit_test(starts_nothing),
		cmocka_unit_test(proves),
	};
	return cmocka_run_group_tests_name("proxy_ends", tests, NULL, NULL);
}
