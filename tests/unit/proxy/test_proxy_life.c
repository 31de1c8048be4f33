/* SPDX-License-Identifier: Apache-2.0
 *
 * What a request asks for in a form, and what is known of it while it lives and after.
 */
#include "world.h"

#define SPEECH_TO_TEXT "/v1/audio/transcriptions"
#define FORM_TYPE "Content-Type: multipart/form-data; boundary=XyZ\r\n"
#define FIELD(name, value) "--XyZ\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" value "\r\n"
#define FILE_PART                                                                                            \
	"--XyZ\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRI\r\n--Xy\r\n"

static const char *request_body(struct world *w)
{
	return strstr(buf_str(&w->request), "\r\n\r\n") + 4;
}

/* ---- forms --------------------------------------------------------------------------------------------- */

static void a_form_crosses_unchanged(void **state)
{
	(void)state;
	static const char form[] = FILE_PART FIELD("model", "p") "--XyZ--\r\n";
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = OK_JSON } }, 1);
	ask(w, 0, "POST", SPEECH_TO_TEXT, FORM_TYPE, VIEW(form));
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_string_equal(request_body(w), form);
	assert_non_null(strstr(buf_str(&w->request), "\r\n" FORM_TYPE));
	world_free(w);
}

static void a_forms_model_is_rewritten(void **state)
{
	(void)state;
	static const struct {
		const char *form, *want;
	} rows[] = {
		{ FIELD("model", "p") FILE_PART "--XyZ--", FIELD("model", "org/\"w\"") FILE_PART "--XyZ--" },
		{ FILE_PART FIELD("x", "p") FIELD("model", "p") "--XyZ--",
			FILE_PART FIELD("x", "p") FIELD("model", "org/\"w\"") "--XyZ--" },
		{ FILE_PART "--XyZ--", FILE_PART "--XyZ--" },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct world *w = world_new(&(struct world_opts){ .remote_model = "org/\"w\"" });
		world_script(w, (struct step[]){ { .reply = OK_JSON } }, 1);
		ask(w, 0, "POST", SPEECH_TO_TEXT, FORM_TYPE, view_str(rows[i].form));
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, 200);
		assert_string_equal(request_body(w), rows[i].want);
		world_free(w);
	}
}

static void a_form_that_is_none_is_400(void **state)
{
	(void)state;
	static const struct {
		const char *path, *head, *body, *why;
	} rows[] = {
		{ SPEECH_TO_TEXT, FORM_TYPE, FIELD("model", "p") FIELD("model", "p") "--XyZ--",
			"a second time" },
		{ SPEECH_TO_TEXT, FORM_TYPE, FIELD("model", "p"), "before its last boundary" },
		{ SPEECH_TO_TEXT, FORM_TYPE, "", "before its last boundary" },
		{ SPEECH_TO_TEXT, "Content-Type: multipart/form-data\r\n", FIELD("model", "p") "--XyZ--",
			"exactly one boundary" },
		{ SPEECH_TO_TEXT, FORM_TYPE "Content-Type: multipart/form-data; boundary=a\r\n",
			FIELD("model", "p") "--XyZ--", "one Content-Type" },
		{ SPEECH_TO_TEXT, JSON_TYPE, FIELD("model", "p") "--XyZ--", "not accepted at byte 0" },
		{ CHAT, FORM_TYPE, FIELD("model", "p") "--XyZ--", "not accepted at byte 0" },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct world *w = world_new(&(struct world_opts){ 0 });
		ask(w, 0, "POST", rows[i].path, rows[i].head, view_str(rows[i].body));
		wait_for(w, answered(w, 0));
		assert_int_equal(w->clients[0].status, 400);
		if (!strstr(buf_str(&w->clients[0].body), rows[i].why))
			fail_msg("%s: %s", rows[i].body, buf_str(&w->clients[0].body));
		assert_int_equal(w->requests, 0);
		world_free(w);
	}
}

/* Neither looking at slots nor saving one starts an engine or takes a slot; erasing one needs no body. */
static void slots_take_no_lease(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = NULL }, { .reply = OK_JSON } }, 2);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY); /* holds the only slot */
	wait_for(w, w->requests == 1);
	ask(w, 1, "GET", "/slots?model=p", "", (struct view){ 0 });
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	ask(w, 1, "POST", "/slots/0?action=erase&model=p", "", (struct view){ 0 });
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	ask(w, 1, "POST", "/slots/0?action=save&model=p", NULL, VIEW("{\"filename\":\"a\"}"));
	wait_for(w, answered(w, 1));
	assert_int_equal(w->clients[1].status, 200);
	assert_string_equal(request_body(w), "{\"filename\":\"a\"}");
	assert_int_equal(world_stats(w).leases, 1);
	leave(w, 0);
	world_free(w);

	w = world_new(&(struct world_opts){ .no_replica = true });
	ask(w, 0, "GET", "/slots", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	ask(w, 0, "POST", "/slots/0?action=erase", "", (struct view){ 0 });
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 503); /* what was not done is not told to be */
	assert_true(has_header(&w->clients[0], "x-corral-pool: p\n"));
	assert_int_equal(w->unloaded, 2);
	assert_int_equal(w->demands, 0);
	world_free(w);
}

/* ---- records ------------------------------------------------------------------------------------------- */

static struct req_record kept[REQ_RECORDS_KEPT];

/* The one that ended last. */
static const struct req_record *last(struct world *w)
{
	assert_true(req_records_copy(w->records, kept) > 0);
	assert_int_equal(kept[0].state, REQ_RECORD_FINISHED);
	return &kept[0];
}

/* The only one in flight. */
static struct req_record live(struct world *w)
{
	struct req_record r[2];
	assert_int_equal(proxy_records(w->proxy, r, 2), 1);
	return r[0];
}

static void a_whole_answer_is_told(void **state)
{
	(void)state;
	static const char reply[] =
		"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 71\r\n\r\n"
		"{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":12}      }";
	struct world *w = world_new(&(struct world_opts){ 0 });
	for (size_t split = sizeof reply - 72; split < sizeof reply;
		split++) { /* in two pieces, everywhere */
		world_script(w, (struct step[]){ { .reply = reply, .split = split } }, 1);
		ask(w, 0, "POST", CHAT, JSON_TYPE "X-Request-Id: mine\r\n", CHAT_BODY);
		wait_for(w, answered(w, 0));
		const struct req_record *r = last(w);
		assert_int_equal(strlen(r->id), REQ_RECORD_ID_LEN);
		assert_string_equal(r->correlation_id, "mine");
		assert_string_equal(r->route, CHAT);
		assert_string_equal(r->model, "p");
		assert_string_equal(r->pool, "p");
		assert_string_equal(r->replica, "p-0");
		assert_memory_equal(r->client, "127.0.0.1:", 10);
		assert_string_equal(r->outcome, "complete");
		assert_int_equal(r->status, 200);
		assert_int_equal(r->code, CODE_NONE);
		assert_int_equal(r->prompt_tokens, 7);
		assert_int_equal(r->output_tokens, 12);
		assert_false(r->counted);
		assert_true(r->tokens_per_s > 0 && r->engine_ms >= 0);
		assert_true(r->first_token_ms < 0 && r->queue_ms == 0 && r->load_ms == 0);
	}
	assert_true(has_header(&w->clients[0], "server-timing: queue;dur=0.0, load;dur=0.0, engine;dur="));
	world_free(w);
}

#define X100                                                                                                 \
	"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" \
	"xx"
#define X1100 X100 X100 X100 X100 X100 X100 X100 X100 X100 X100 X100

static void a_stream_is_told(void **state)
{
	(void)state;
	static const struct {
		const char *events;
		int64_t prompt, output;
		bool counted;
	} rows[] = {
		{ ": hello\n\ndata: {\"a\":1}\n\ndata: "
		  "{\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":12}}\n\n"
		  "data: [DONE]\n\n",
			7, 12, false },
		{ "data: {\"a\":1}\n\ndata: {\"a\":2}\n\ndata: [DONE]\n\n", -1, 2, true },
		{ "event: message_start\ndata: {\"usage\":{\"input_tokens\":9}}\n\n", 9, 1, true },
		{ "event: message_start\ndata: {\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}\n\n"
		  "event: ping\ndata: {}\n\nevent: content_block_delta\ndata: {\"a\":1}\n\n",
			9, 3, true },
		/* what the first event counts of the answer is not all of it */
		{ "data: {\"tokens_predicted\":1,\"tokens_evaluated\":9}\n\n"
		  "data: {\"tokens_predicted\":12,\"x\":\"" X1100 "\",\"timings\":{\"predicted_n\":12}}\n\n",
			9, 12, false },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(buf_done) struct buf b = BUF(4 * KIB);
		(void)buf_addf(&b, SSE_HEAD "%zx\r\n%s\r\n0\r\n\r\n", strlen(rows[i].events), rows[i].events);
		struct world *w = world_new(&(struct world_opts){ 0 });
		world_script(w, (struct step[]){ { .reply = buf_str(&b) } }, 1);
		ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		const struct req_record *r = last(w);
		assert_int_equal(r->prompt_tokens, rows[i].prompt);
		assert_int_equal(r->output_tokens, rows[i].output);
		assert_int_equal(r->counted, rows[i].counted);
		assert_true(r->first_token_ms >= 0 && r->prefill_ms >= 0);
		world_free(w);
	}
}

/* A long answer's end is what is kept of it, whatever the pieces. */
static void the_end_of_a_long_answer_is_told(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf body = BUF(MIB);
	(void)buf_adds(&body, "{\"usage\":{\"completion_tokens\":1},\"content\":\"");
	for (int i = 0; i < 300 * 1024; i++)
		(void)buf_addc(&body, 'x');
	(void)buf_adds(&body, "\",\"usage\":{\"prompt_tokens\":70,\"completion_tokens\":12}}");
	AUTO(buf_done) struct buf b = BUF(MIB);
	(void)buf_addf(&b, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", body.len);
	(void)buf_addv(&b, buf_view(&body));
	struct world *w = world_new(&(struct world_opts){ 0 });
	for (size_t back = 1; back < 60; back += 7) {
		world_script(w, (struct step[]){ { .reply = b.data, .split = b.len - back } }, 1);
		ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
		wait_for(w, answered(w, 0));
		assert_int_equal(last(w)->prompt_tokens, 70);
		assert_int_equal(last(w)->output_tokens, 12);
	}
	world_free(w);
}

static void states_are_told(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true });
	world_script(w, (struct step[]){ { .reply = SSE_HEAD "7\r\ndata: a\r\n", .split = 0 } }, 1);
	pool_set_status(w->pool, "starting, 41 %");
	struct http_call_req half = {
		.method = VIEW("POST"), .path = VIEW(CHAT), .block = NULL, .body_len = (int64_t)CHAT_BODY.n
	};
	static const struct http_call_ops none = { 0 };
	struct http_call *c = http_call_start(w->front, &half, &none, NULL);
	(void)http_call_write(c, view_cut(CHAT_BODY, 5));
	struct req_record r;
	ask(w, 0, "GET", "/slots", "", (struct view){ 0 }); /* its answer comes after the half body did */
	wait_for(w, answered(w, 0) && proxy_running(w->proxy) == 1);
	r = live(w);
	assert_int_equal(r.state, REQ_RECORD_READING);
	assert_string_equal(r.pool, "");
	http_call_cancel(c);
	wait_for(w,
		proxy_running(w->proxy) == 0 || (ask(w, 0, "GET", "/slots", "", (struct view){ 0 }), false));

	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->demands == 1);
	r = live(w);
	assert_int_equal(r.state, REQ_RECORD_QUEUED);
	assert_string_equal(r.waited_for, "starting, 41 %");
	assert_string_equal(r.replica, "");
	assert_true(r.load_ms > 0 && r.queue_ms == 0 && r.engine_ms < 0);
	world_put(w, 1, 1, NULL);
	wait_for(w, w->requests == 1);
	r = live(w);
	assert_int_equal(r.state, REQ_RECORD_SENT);
	assert_string_equal(r.waited_for, "p-0");
	assert_true(r.load_ms > 0);
	leave(w, 0);
	world_free(w);
}

static void a_wait_behind_others_is_no_loading(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = NULL }, { .reply = OK_JSON } }, 2);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 1);
	ask(w, 1, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->demands == 1);
	mono_t since = mono_now();
	while (mono_now().ns - since.ns < 100000) /* so long that Server-Timing's tenth shows it */
		;
	leave(w, 0);
	wait_for(w, world_stats(w).cooling == 1);
	assert_int_equal(last(w)->status, 499);
	assert_string_equal(last(w)->outcome, "the client left");
	pool_cooled(world_replica(w), 1);
	wait_for(w, answered(w, 1));
	assert_true(last(w)->queue_ms > 0 && last(w)->load_ms == 0);
	assert_string_equal(last(w)->waited_for, "");
	assert_non_null(strstr(buf_str(&w->clients[1].head), "server-timing: queue;dur="));
	world_free(w);
}

static void errors_of_ours_tell_their_way(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true, .max_wait_ms = 1 });
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 503);
	assert_true(has_header(&w->clients[0], "x-corral-pool: p\n"));
	assert_true(has_header(&w->clients[0], "server-timing: queue;dur=0.0, load;dur="));
	assert_int_equal(last(w)->code, CODE_POOL_UNREADY);
	assert_int_equal(last(w)->status, 503);
	assert_true(last(w)->load_ms > 0);
	ask(w, 0, "POST", CHAT, NULL, VIEW("{\"model\":\"x\"}")); /* no pool: nothing to tell */
	wait_for(w, answered(w, 0));
	assert_false(has_header(&w->clients[0], "server-timing"));
	assert_string_equal(last(w)->model, "x");
	assert_string_equal(last(w)->pool, "");
	world_free(w);
}

static void the_last_thousand_are_kept(void **state)
{
	(void)state;
	struct req_records *rs = req_records_new();
	struct req_record r = { .state = REQ_RECORD_FINISHED };
	assert_int_equal(req_records_copy(rs, kept), 0);
	for (int i = 0; i < REQ_RECORDS_KEPT + 7; i++) {
		r.retries = i;
		req_records_add(rs, &r);
		if (i == 40)
			assert_int_equal(req_records_copy(rs, kept), 41);
	}
	assert_int_equal(req_records_copy(rs, kept), REQ_RECORDS_KEPT);
	for (int i = 0; i < REQ_RECORDS_KEPT; i++)
		assert_int_equal(kept[i].retries, REQ_RECORDS_KEPT + 6 - i);
	req_records_free(rs);
}

static void slow_is_against_the_pools_usual(void **state)
{
	(void)state;
	struct req_record r[4] = { 0 };
	for (int i = 0; i < 4; i++) {
		snprintf(r[i].pool, sizeof r[i].pool, "%s", i < 3 ? "p" : "other");
		r[i].state = REQ_RECORD_FINISHED;
		r[i].status = 200;
		r[i].ended.ns = (i + 1) * 1000000;
		r[i].tokens_per_s = i == 1 ? -1 : 100;
	}
	r[2].code = CODE_WORKER_RESET; /* what went wrong is no measure */
	struct req_record_usual u = req_record_usual(r, 4, "p");
	assert_true(u.duration_ms == 1.5 && u.tokens_per_s == 100);
	struct req_record late = { .ended.ns = 3000001, .tokens_per_s = -1 };
	assert_true(req_record_is_slow(&late, &u));
	late.ended.ns = 3000000;
	assert_false(req_record_is_slow(&late, &u));
	late.tokens_per_s = 49;
	assert_true(req_record_is_slow(&late, &u));
	u = req_record_usual(r, 4, "none");
	assert_false(req_record_is_slow(&late, &u));
}

/* ---- cancelling ---------------------------------------------------------------------------------------- */

static void cancelled_in_the_queue(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ .no_replica = true });
	ask(w, 0, "POST", "/v1/messages", NULL, CHAT_BODY);
	wait_for(w, w->demands == 1);
	struct req_record r = live(w);
	assert_int_equal(proxy_cancel(w->proxy, VIEW("000000000000"), "me"), 0);
	assert_int_equal(proxy_cancel(w->proxy, view_str(r.id), "uid 0"), 1);
	assert_int_equal(proxy_cancel(w->proxy, view_str(r.id), "uid 0"), 0);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 499);
	assert_non_null(strstr(buf_str(&w->clients[0].body), "{\"type\":\"error\""));
	assert_non_null(strstr(buf_str(&w->clients[0].body), "cancelled by uid 0"));
	assert_int_equal(world_stats(w).waiting[POOL_INTERACTIVE], 0);
	assert_string_equal(last(w)->id, r.id);
	assert_int_equal(last(w)->code, CODE_CANCELLED);
	assert_int_equal(last(w)->status, 499);
	world_free(w);
}

static void cancelled_in_prefill(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(w, (struct step[]){ { .reply = NULL } }, 1);
	ask(w, 0, "POST", CHAT, JSON_TYPE "X-Request-Id: mine\r\n", CHAT_BODY);
	wait_for(w, w->requests == 1);
	assert_int_equal(proxy_cancel(w->proxy, VIEW("mine"), "me"), 1); /* its correlation id does as well */
	wait_for(w, answered(w, 0) && w->closed == 1);
	assert_int_equal(w->clients[0].status, 499);
	assert_int_equal(world_stats(w).leases, 0);
	assert_int_equal(world_stats(w).cooling, 1);
	world_free(w);
}

static void cancelled_in_the_stream(void **state)
{
	(void)state;
	struct world *w = world_new(&(struct world_opts){ 0 });
	world_script(
		w, (struct step[]){ { .reply = SSE_HEAD "f\r\ndata: {\"a\":1}\n\n\r\n5\r\ndata:\r\n" } }, 1);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->clients[0].body.len > 0);
	struct req_record r = live(w);
	assert_int_equal(r.state, REQ_RECORD_STREAMING);
	assert_int_equal(r.status, 200);
	assert_int_equal(proxy_cancel(w->proxy, view_str(r.id), "me"), 1);
	wait_for(w, answered(w, 0) && w->closed == 1);
	assert_true(w->clients[0].failed); /* no final chunk */
	const char *body = buf_str(&w->clients[0].body);
	assert_memory_equal(body, "data: {\"a\":1}\n\ndata: {\"error\":", 30);
	assert_non_null(strstr(body, "\"CANCELLED\""));
	assert_null(strstr(body, "[DONE]"));
	assert_int_equal(last(w)->status, 499);
	assert_int_equal(world_stats(w).cooling, 1);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_answer_is_told),
		cmocka_unit_test(a_stream_is_told),
		cmocka_unit_test(the_end_of_a_long_answer_is_told),
		cmocka_unit_test(states_are_told),
		cmocka_unit_test(a_wait_behind_others_is_no_loading),
		cmocka_unit_test(errors_of_ours_tell_their_way),
		cmocka_unit_test(the_last_thousand_are_kept),
		cmocka_unit_test(slow_is_against_the_pools_usual),
		cmocka_unit_test(cancelled_in_the_queue),
		cmocka_unit_test(cancelled_in_prefill),
		cmocka_unit_test(cancelled_in_the_stream),
		cmocka_unit_test(a_form_crosses_unchanged),
		cmocka_unit_test(a_forms_model_is_rewritten),
		cmocka_unit_test(a_form_that_is_none_is_400),
		cmocka_unit_test(slots_take_no_lease),
	};
	return cmocka_run_group_tests_name("proxy_life", tests, NULL, NULL);
}
