/* SPDX-License-Identifier: Apache-2.0
 *
 * What a stream is told while it waits, and what becomes of it afterwards.
 */
#include "world.h"

#define STREAM_BODY VIEW("{\"model\":\"p\",\"stream\":true,\"messages\":[]}")
#define EVENTS "data: {\"a\":1}\n\ndata: [DONE]\n\n"
#define SSE_ANSWER SSE_HEAD "1d\r\n" EVENTS "\r\n0\r\n\r\n"
#define SOON(m)                                                                                              \
	{                                                                                                    \
		.mode = POOL_PROGRESS_##m, .after_ms = 5, .every_ms = 5                                      \
	}
#define ANSWER(status, body_len, body)                                                                       \
	"HTTP/1.1 " status "\r\nContent-Type: application/json\r\nContent-Length: " body_len "\r\n\r\n" body

static const char *body(struct world *w, int i)
{
	return buf_str(&w->clients[i].body);
}

static unsigned times(const char *text, const char *what)
{
	unsigned n = 0;
	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

/* Takes the figures out that are another each time: the id's and the time's. */
static void plain(const char *text, char *out, size_t cap)
{
	size_t n = 0;
	while (*text && n + 1 < cap) {
		bool id = strncmp(text, "cmpl-", 5) == 0, at = strncmp(text, "\"created\":", 10) == 0;
		size_t keep = id ? 5 : at ? 10 : 1;
		for (size_t i = 0; i < keep && n + 1 < cap; i++)
			out[n++] = *text++;
		if (id)
			text += strspn(text, "0123456789abcdef");
		else if (at)
			text += strspn(text, "0123456789");
	}
	out[n] = '\0';
}

/* ---- what is told -------------------------------------------------------------------------------------- */

#define CHUNK(delta)                                                                                         \
	"data: {\"id\":\"chatcmpl-\",\"object\":\"chat.completion.chunk\",\"created\":,\"model\":\"p\","     \
	"\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":null}]}\n\n"
#define TEXT_CHUNK                                                                                           \
	"data: {\"id\":\"cmpl-\",\"object\":\"text_completion\",\"created\":,\"model\":\"p\",\"choices\":["  \
	"{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":null}]}\n\n"
#define PING "event: ping\ndata: {\"type\":\"ping\"}\n\n"
#define COMMENT ": waiting for p, place 1 of 1\n"

static const struct {
	enum pool_progress_mode mode;
	const char *path;
	bool asked; /* X-Corral-Progress: comment */
	const char *told;
} forms[] = {
	{ POOL_PROGRESS_AUTO, CHAT, false, CHUNK("{}") },
	{ POOL_PROGRESS_AUTO, "/v1/completions", false, TEXT_CHUNK },
	{ POOL_PROGRESS_AUTO, "/v1/messages", false, PING },
	{ POOL_PROGRESS_AUTO, "/v1/responses", false, NULL },
	{ POOL_PROGRESS_AUTO, "/completion", false, NULL },
	{ POOL_PROGRESS_AUTO, "/v1/embeddings", true, NULL },
	{ POOL_PROGRESS_AUTO, CHAT, true, COMMENT },
	{ POOL_PROGRESS_AUTO, "/v1/responses", true, COMMENT },
	{ POOL_PROGRESS_CHUNK, CHAT, false, CHUNK("{}") },
	{ POOL_PROGRESS_CHUNK, CHAT, true, COMMENT },
	{ POOL_PROGRESS_COMMENT, CHAT, false, COMMENT },
	{ POOL_PROGRESS_COMMENT, "/v1/messages", false, COMMENT },
	{ POOL_PROGRESS_COMMENT, "/v1/responses", false, COMMENT },
	{ POOL_PROGRESS_COMMENT, "/completion", false, COMMENT },
	{ POOL_PROGRESS_REASONING, CHAT, false,
		CHUNK("{\"reasoning_content\":\"waiting for p, place 1 of 1\\n\"}") },
	{ POOL_PROGRESS_REASONING, "/v1/messages", false, PING },
	{ POOL_PROGRESS_REASONING, "/v1/responses", false, NULL },
	{ POOL_PROGRESS_OFF, CHAT, false, NULL },
	{ POOL_PROGRESS_OFF, CHAT, true, NULL },
};

static void every_form(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
		struct world_opts o = { .no_replica = true, .progress = SOON(AUTO) };
		o.progress.mode = forms[i].mode;
		if (!forms[i].told)
			o.max_wait_ms = 40;
		struct world *w = world_new(&o);
		world_script(w, (struct step[]){ { .reply = SSE_ANSWER } }, 1);
		ask(w, 0, "POST", forms[i].path,
			forms[i].asked ? JSON_TYPE "X-Corral-Progress: comment\r\n" : NULL, STREAM_BODY);
		if (!forms[i].told) { /* it waited for many times progress.after, and a status is one */
			wait_for(w, answered(w, 0));
			assert_int_equal(w->clients[0].status, 503);
			world_free(w);
			continue;
		}
		wait_for(w, w->clients[0].body.len >= strlen(forms[i].told));
		wait_for(w, times(body(w, 0), "p") > 2 * times(forms[i].told, "p")); /* it is told again */
		world_put(w, 1, 1, NULL);
		wait_for(w, answered(w, 0));
		assert_true(w->clients[0].ended);
		assert_int_equal(w->clients[0].status, 200);
		char got[16 * 1024];
		plain(body(w, 0), got, sizeof got);
		if (strncmp(got, forms[i].told, strlen(forms[i].told)) != 0)
			fail_msg("%s: told\n%s\nexpected\n%s", forms[i].path, got, forms[i].told);
		assert_string_equal(got + strlen(got) - strlen(EVENTS), EVENTS);
		world_free(w);
	}
}

static void the_head_says_whose_it_is(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true, .progress = SOON(AUTO) });
	ask(w, 0, "POST", "/v1/messages", JSON_TYPE "X-Request-Id: mine\r\n", STREAM_BODY);
	wait_for(w, w->clients[0].body.len);
	assert_int_equal(w->clients[0].status, 200);
	static const char *const lines[] = { "content-type: text/event-stream\n", "x-request-id: mine\n",
		"request-id: mine\n", "x-corral-pool: p\n", "cache-control: no-cache\n",
		"x-accel-buffering: no\n", "transfer-encoding: chunked\n" };
	for (size_t i = 0; i < ARRAY_LEN(lines); i++)
		if (!has_header(&w->clients[0], lines[i]))
			fail_msg("no %s in %s", lines[i], buf_str(&w->clients[0].head));
	leave(w, 0);
	world_free(w);
}

/* How far a start is: by what the last one took, or as its node tells. */
static void a_start_tells_how_far_it_is(void **state)
{
	(void)state;
	static const struct {
		int pct;
		int64_t spent_ms, left_ms;
		const char *text;
	} cases[] = { { -1, 0, 0, ": starting p\n" }, { 41, 0, 0, ": starting p 41 %\n" },
		{ -1, 300000, 300000, ": starting p 50 %\n" }, { -1, 300000, -1000, ": starting p 99 %\n" } };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct world *w =
			world_new(&(struct world_opts){ .no_replica = true, .progress = SOON(COMMENT) });
		struct pool_start s = { .doing = "starting", .pct = cases[i].pct };
		if (cases[i].spent_ms) {
			s.since = mono_add_ms(mono_now(), -cases[i].spent_ms);
			s.ready_by = mono_add_ms(mono_now(), cases[i].left_ms);
		}
		pool_set_start(w->pool, &s);
		ask(w, 0, "POST", CHAT, NULL, STREAM_BODY);
		wait_for(w, times(body(w, 0), "\n") >= 1);
		assert_memory_equal(body(w, 0), cases[i].text, strlen(cases[i].text));
		leave(w, 0);
		world_free(w);
	}
}

/* The engine reads a long prompt: without its head ours goes out, with it its own. */
static void a_prompt_is_read(void **state)
{
	(void)state;
	for (int with_head = 0; with_head < 2; with_head++) {
		struct world *w = world_new(&(struct world_opts){ .progress = SOON(COMMENT) });
		struct step s = { .reply = "HTTP/1.1 200 OK\r\nX-Engine: it\r\nContent-Type: "
					   "text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
			.close = false };
		world_script(w, (struct step[]){ with_head ? s : (struct step){ 0 } }, 1);
		ask(w, 0, "POST", CHAT, NULL, STREAM_BODY);
		wait_for(w, times(body(w, 0), ": p reads the prompt\n") >= 2);
		assert_int_equal(has_header(&w->clients[0], "x-engine: it"), with_head);
		assert_int_equal(world_stats(w).leases, 1);
		leave(w, 0);
		wait_for(w, world_stats(w).leases == 0);
		world_free(w);
	}
}

/* ---- when nothing is told ------------------------------------------------------------------------------ */

static void an_early_failure_is_a_status(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){
		.progress = { .mode = POOL_PROGRESS_AUTO, .after_ms = 3600000, .every_ms = 5 } });
	world_script(w, (struct step[]){ { .reply = ANSWER("400 No", "8", "{\"no\":1}") } }, 1);
	ask(w, 0, "POST", CHAT, NULL, STREAM_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 400);
	assert_string_equal(body(w, 0), "{\"no\":1}");
	world_free(w);
}

/* The head of a failure has come, its body is on the way when the time is over. */
static void a_failure_that_is_arriving_is_a_status(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .slots = 2, .progress = SOON(COMMENT) });
	world_script(w,
		(struct step[]){ { .reply = "HTTP/1.1 400 No\r\nContent-Type: application/json\r\n"
					    "Content-Length: 8\r\n\r\n" },
			{ 0 } },
		2);
	ask(w, 0, "POST", CHAT, NULL, STREAM_BODY);
	wait_for(w, w->requests == 1);
	ask(w, 1, "POST", CHAT, NULL, STREAM_BODY);
	wait_for(w, times(body(w, 1), "\n") >= 3); /* the other one is told; the timer came by */
	assert_int_equal(w->clients[0].status, 0);
	leave(w, 0);
	leave(w, 1);
	world_free(w);
}

static void without_stream_nothing_is_told(void **state)
{
	(void)state;
	struct world *w = world_new(
		&(struct world_opts){ .no_replica = true, .max_wait_ms = 40, .progress = SOON(COMMENT) });
	struct pool_start s = { .doing = "starting", .pct = 41, .since = mono_add_ms(mono_now(), -41000) };
	pool_set_start(w->pool, &s);
	pool_set_status(w->pool, "its engine is starting");
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 503);
	assert_non_null(strstr(body(w, 0), "its engine is starting: starting p 41 % (about 60 s to go)"));
	assert_true(has_header(&w->clients[0], "x-should-retry: true"));
	assert_true(has_header(&w->clients[0], "retry-after: 60\n"));
	assert_true(has_header(&w->clients[0], "retry-after-ms: 59"));
	world_free(w);
}

/* ---- after something was told ----------------------------------------------------------------------------
 */

static void engines_that_die_are_not_noticed(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true, .progress = SOON(COMMENT) });
	world_script(w, (struct step[]){ { .close = true }, { .reply = SSE_ANSWER } }, 2);
	ask(w, 0, "POST", CHAT, NULL, STREAM_BODY);
	wait_for(w, w->clients[0].body.len);
	world_put(w, 1, 1, NULL);
	wait_for(w, w->requests == 1 && world_stats(w).waiting[POOL_INTERACTIVE] == 1);
	pool_replica_up(world_replica(w), mono_now());
	wait_for(w, answered(w, 0));
	assert_true(w->clients[0].ended);
	assert_int_equal(w->requests, 2);
	size_t at = w->clients[0].body.len - strlen(EVENTS);
	assert_string_equal(body(w, 0) + at, EVENTS);
	assert_int_equal(world_stats(w).leases, 0);
	world_free(w);
}

static const struct {
	const char *path, *reply;
	const char *event, *words;
} failures[] = {
	{ CHAT, ANSWER("400 No", "33", "{\"error\":{\"message\":\"No grammar.\"}}"),
		"data: {\"error\":{\"message\":", "No grammar." },
	{ CHAT, ANSWER("422 No", "19", "{\"error\":\"No text.\"}"), "data: {\"error\":{", "No text." },
	{ CHAT, ANSWER("500 Oops", "16", "{\"detail\":\"Oops\"}"), "data: {\"error\":{",
		"\"type\":\"server_error\"" },
	{ CHAT, "HTTP/1.1 500 Oops\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\noops",
		"data: {\"error\":{", "The engine answered with status 500." },
	{ CHAT, ANSWER("200 OK", "8", "{\"ok\":1}"), "data: {\"error\":{", "something else than the stream" },
	{ "/v1/messages", ANSWER("400 No", "33", "{\"error\":{\"message\":\"No grammar.\"}}"),
		"event: error\ndata: {\"type\":\"error\",", "No grammar." },
	{ "/v1/responses", ANSWER("400 No", "33", "{\"error\":{\"message\":\"No grammar.\"}}"),
		"event: response.failed\ndata: {\"type\":\"response.failed\",", "No grammar." },
	{ CHAT,
		ANSWER("400 No", "97",
			"{\"error\":{\"message\":\"x\",\"type\":\"exceed_context_size_error\",\"n_prompt_"
			"tokens\":33100,"
			"\"n_ctx\":32768}}"),
		"data: {\"error\":{",
		"This model's maximum context length is 32768 tokens; the request has 33100 (exceeds the "
		"available context size)." },
};

static void failures_are_events(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(failures); i++) {
		struct world *w =
			world_new(&(struct world_opts){ .no_replica = true, .progress = SOON(COMMENT) });
		AUTO(buf_done) struct buf reply = BUF(4 * KIB);
		const char *end = strstr(failures[i].reply, "\r\n\r\n") + 4, *cl;
		cl = strstr(failures[i].reply, "Content-Length: ") + 16; /* counted here, not by hand */
		(void)buf_addf(&reply, "%.*s%zu\r\n\r\n%s", (int)(cl - failures[i].reply), failures[i].reply,
			strlen(end), end);
		world_script(w, (struct step[]){ { .reply = buf_str(&reply) } }, 1);
		ask(w, 0, "POST", failures[i].path, NULL, STREAM_BODY);
		wait_for(w, w->clients[0].body.len);
		world_put(w, 1, 1, NULL);
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, 200);
		assert_true(w->clients[0].failed); /* no end: it is not complete */
		if (!strstr(body(w, 0), failures[i].event) || !strstr(body(w, 0), failures[i].words))
			fail_msg("%zu: %s", i, body(w, 0));
		assert_null(strstr(body(w, 0), "[DONE]"));
		assert_int_equal(world_stats(w).leases, 0);
		world_free(w);
	}
}

static void time_that_runs_out_is_an_event(void **state)
{
	(void)state;
	struct world *w = world_new(
		&(struct world_opts){ .no_replica = true, .max_wait_ms = 60, .progress = SOON(AUTO) });
	ask(w, 0, "POST", CHAT, NULL, STREAM_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_true(w->clients[0].failed);
	assert_non_null(strstr(body(w, 0), "\"code\":\"POOL_UNREADY\",\"retriable\":true"));
	world_free(w);
}

/* The record of the request says what its client saw. */
static void the_record_says_200(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true, .progress = SOON(AUTO) });
	ask(w, 0, "POST", CHAT, JSON_TYPE "X-Request-Id: r\r\n", STREAM_BODY);
	wait_for(w, w->clients[0].body.len);
	assert_int_equal(proxy_cancel(w->proxy, VIEW("r"), "a test"), 1);
	wait_for(w, answered(w, 0));
	assert_non_null(strstr(body(w, 0), "cancelled by a test"));
	assert_true(w->clients[0].failed);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_form),
		cmocka_unit_test(the_head_says_whose_it_is),
		cmocka_unit_test(a_start_tells_how_far_it_is),
		cmocka_unit_test(a_prompt_is_read),
		cmocka_unit_test(an_early_failure_is_a_status),
		cmocka_unit_test(a_failure_that_is_arriving_is_a_status),
		cmocka_unit_test(without_stream_nothing_is_told),
		cmocka_unit_test(engines_that_die_are_not_noticed),
		cmocka_unit_test(failures_are_events),
		cmocka_unit_test(time_that_runs_out_is_an_event),
		cmocka_unit_test(the_record_says_200),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
