/* SPDX-License-Identifier: Apache-2.0
 *
 * What each route has to be allowed, and the body of a new key.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/api.h"
#include "base/mem.h"

static void every_route_says_what_it_needs(void **state)
{
	(void)state;
	struct api_route_info r;
	size_t n = 0;
	for (; api_route_at(n, &r); n++) {
		AUTO(buf_done) struct buf path = BUF(1024);
		print_message("%s %s: %s\n", r.method, r.path, auth_scope_name(r.scope));
		assert_int_not_equal(r.scope, AUTH_UNSET);
		for (const char *p = r.path; *p; p++)
			(void)buf_adds(&path, *p == '*' ? "chat" : (char[]){ *p, '\0' });
		/* /props is an engine's, and asked of it first */
		assert_int_equal(api_scope(view_str(r.method), buf_view(&path)), r.scope);
		if (strcmp(r.method, "GET") != 0)
			assert_true(r.scope >= AUTH_CONTROL); /* whatever changes something */
		if (strstr(r.path, "keys"))
			assert_int_equal(r.scope, AUTH_ADMIN);
	}
	assert_true(n > 25);
}

static void routes_and_their_scopes(void **state)
{
	(void)state;
	static const struct {
		const char *method, *path;
		enum auth_scope scope;
	} rows[] = {
		{ "GET", "/healthz", AUTH_OPEN },
		{ "GET", "/readyz", AUTH_OPEN },
		{ "HEAD", "/metrics", AUTH_OPEN },
		{ "GET", "/v1/models", AUTH_INFERENCE },
		{ "GET", "/v1/models/org/name", AUTH_INFERENCE },
		{ "POST", "/v1/chat/completions", AUTH_INFERENCE },
		{ "POST", "/v1/messages", AUTH_INFERENCE },
		{ "POST", "/tokenize", AUTH_INFERENCE },
		{ "GET", "/props", AUTH_INFERENCE },
		{ "GET", "/slots", AUTH_CONTROL },
		{ "POST", "/slots/0", AUTH_CONTROL },
		{ "GET", "/upstream/chat/", AUTH_CONTROL },
		{ "POST", "/upstream/chat/v1/chat/completions", AUTH_CONTROL },
		{ "PUT", "/upstream/chat/healthz", AUTH_CONTROL },
		{ "GET", "/v1/pools", AUTH_CONTROL },
		{ "POST", "/v1/pools/chat/stop", AUTH_CONTROL },
		{ "GET", "/v1/pools/chat/logs", AUTH_CONTROL },
		{ "POST", "/v1/config/reload", AUTH_CONTROL },
		{ "DELETE", "/v1/requests/1", AUTH_CONTROL },
		{ "GET", "/v1/keys", AUTH_ADMIN },
		{ "POST", "/v1/keys", AUTH_ADMIN },
		{ "DELETE", "/v1/keys/ci", AUTH_ADMIN },
		{ "PUT", "/healthz", AUTH_UNSET },
		{ "POST", "/props", AUTH_UNSET },
		{ "GET", "/v1/chat/completions", AUTH_UNSET },
		{ "GET", "/v1/pools/a/b/health", AUTH_UNSET },
		{ "GET", "/healthz/", AUTH_UNSET },
		{ "GET", "/v1/metrics", AUTH_UNSET },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		print_message("%s %s\n", rows[i].method, rows[i].path);
		assert_int_equal(api_scope(view_str(rows[i].method), view_str(rows[i].path)), rows[i].scope);
	}
}

static void a_new_key(void **state)
{
	(void)state;
	AUTO(auth_key_unrefp) struct auth_key *k = NULL, *least = NULL;
	struct err e = { 0 };
	assert_int_equal(
		api_key_parse(VIEW("{\"name\":\"ci\",\"scope\":\"control\",\"models\":[\"chat\",\"a,b\"],"
				   "\"limits\":{\"requests_per_minute\":60,\"tokens_per_minute\":null,"
				   "\"concurrent\":2},\"expires_at\":\"2027-01-31T12:00:00Z\"}"),
			1000, &k, &e),
		0);
	assert_string_equal(k->name, "ci");
	assert_int_equal(k->scope, AUTH_CONTROL);
	assert_int_equal(k->models.len, 2);
	assert_int_equal(k->limits.requests, 60);
	assert_int_equal(k->limits.tokens, 0);
	assert_int_equal(k->limits.concurrent, 2);
	assert_int_equal(k->expires_ms, 1801396800000);
	assert_int_equal(k->created_ms, 1000);
	assert_int_equal(api_key_parse(VIEW("{\"name\":\"a\"}"), 1000, &least, &e), 0);
	assert_int_equal(least->scope, AUTH_INFERENCE);
}

static void what_no_key_is_made_of(void **state)
{
	(void)state;
	static const struct {
		const char *body, *says;
	} rows[] = {
		{ "", "JSON object" },
		{ "[]", "JSON object" },
		{ "{}", "needs a \"name\"" },
		{ "{\"name\":\"a b\"}", "\"name\" is" },
		{ "{\"name\":7}", "\"name\" is" },
		{ "{\"name\":\"a\",\"scope\":\"all\"}", "\"scope\" is" },
		{ "{\"name\":\"a\",\"scope\":1}", "\"scope\" is" },
		{ "{\"name\":\"a\",\"scopes\":\"control\"}", "no member \"scopes\"" },
		{ "{\"name\":\"a\",\"models\":\"chat\"}", "\"models\" is a list" },
		{ "{\"name\":\"a\",\"models\":[7]}", "no id or alias" },
		{ "{\"name\":\"a\",\"limits\":{\"requests\":7}}", "limits.requests" },
		{ "{\"name\":\"a\",\"limits\":{\"concurrent\":0}}", "limits.concurrent" },
		{ "{\"name\":\"a\",\"limits\":{\"tokens_per_minute\":\"7\"}}", "limits.tokens_per_minute" },
		{ "{\"name\":\"a\",\"limits\":7}", "\"limits\" is an object" },
		{ "{\"name\":\"a\",\"expires_at\":\"1970-01-01\"}", "to come" },
		{ "{\"name\":\"a\",\"expires_at\":\"soon\"}", "to come" },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(auth_key_unrefp) struct auth_key *k = NULL;
		struct err e = { 0 };
		print_message("%s\n", rows[i].body);
		assert_int_equal(api_key_parse(view_str(rows[i].body), 1000, &k, &e), -EINVAL);
		assert_null(k);
		assert_non_null(strstr(e.msg, rows[i].says));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_route_says_what_it_needs),
		cmocka_unit_test(routes_and_their_scopes),
		cmocka_unit_test(a_new_key),
		cmocka_unit_test(what_no_key_is_made_of),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
