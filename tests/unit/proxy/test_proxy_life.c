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
	assert_int_equal(w->unloaded, 2);
	assert_int_equal(w->demands, 0);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_form_crosses_unchanged),
		cmocka_unit_test(a_forms_model_is_rewritten),
		cmocka_unit_test(a_form_that_is_none_is_400),
		cmocka_unit_test(slots_take_no_lease),
	};
	return cmocka_run_group_tests_name("proxy_life", tests, NULL, NULL);
}
