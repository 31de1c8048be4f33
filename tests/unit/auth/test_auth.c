/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys: their secrets, files, limits, and who is let in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "auth/auth.h"
#include "auth/store.h"
#include "base/mem.h"

static char folder[] = "/tmp/corral-auth-XXXXXX";

static int make_folder(void **state)
{
	(void)state;
	return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
	(void)state;
	return rmdir(folder);
}

static struct auth_key *key_of(const char *name, const char *secret)
{
	struct auth_key *k = auth_key_new();
	snprintf(k->name, sizeof k->name, "%s", name);
	auth_key_set_secret(k, view_str(secret));
	return k;
}

static mono_t at_ms(int64_t ms)
{
	return (mono_t){ 1000000000000 + ms * 1000000 };
}

/* ---- secrets ---------------------------------------------------------------------------------------- */

static void a_secret_has_its_prefix_and_is_never_the_same(void **state)
{
	(void)state;
	char a[AUTH_SECRET_LEN + 1], b[AUTH_SECRET_LEN + 1];
	bool seen[128] = { false };
	for (int i = 0; i < 200; i++) {
		auth_secret_new(a);
		assert_int_equal(strlen(a), AUTH_SECRET_LEN);
		assert_memory_equal(a, "sk-corral-", 10);
		for (const char *p = a + 10; *p; p++) {
			assert_true((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') ||
				    (*p >= 'A' && *p <= 'Z'));
			seen[(unsigned char)*p] = true;
		}
	}
	auth_secret_new(b);
	assert_string_not_equal(a, b);
	size_t kinds = 0;
	for (size_t i = 0; i < sizeof seen; i++)
		kinds += seen[i];
	assert_int_equal(kinds, 62);
}

static void a_key_is_known_by_its_sha256(void **state)
{
	(void)state;
	/* FIPS 180-4's own example */
	static const unsigned char abc[4] = { 0xba, 0x78, 0x16, 0xbf };
	unsigned char digest[AUTH_DIGEST_LEN];
	auth_digest(VIEW("abc"), digest);
	assert_memory_equal(digest, abc, sizeof abc);
	AUTO(auth_key_unrefp) struct auth_key *k = key_of("a", "abc");
	assert_string_equal(k->id, "ba7816bf8f01");
}

static void no_answer_shows_a_secret(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(4096);
	AUTO(auth_key_unrefp) struct auth_key *k = key_of("ci", "sk-corral-abcdefghijklmnop");
	strv_add(&k->models, "chat \"x\"");
	k->limits.requests = 60;
	k->created_ms = 1000;
	auth_key_json(k, 2000, &b);
	assert_null(strstr(buf_str(&b), "abcdefgh"));
	assert_non_null(strstr(buf_str(&b), "\"models\":[\"chat \\\"x\\\"\"]"));
	assert_non_null(strstr(buf_str(&b), "\"requests_per_minute\":60,\"tokens_per_minute\":null"));
	assert_non_null(
		strstr(buf_str(&b), "\"created_at\":\"1970-01-01T00:00:01.000Z\",\"expires_at\":null"));
}

/* A key may be named as another one's id is. */
static void an_id_goes_before_a_name(void **state)
{
	(void)state;
	AUTO(auth_list_done) struct auth_list l = { 0 };
	struct auth_key *a = key_of("a", "sk-corral-000000000000000000000000000000000a"),
			*b = key_of("b", "sk-corral-000000000000000000000000000000000b");
	snprintf(a->id, sizeof a->id, "k1");
	snprintf(b->id, sizeof b->id, "k2");
	snprintf(a->name, sizeof a->name, "k2");
	auth_list_add(&l, a);
	auth_list_add(&l, b);
	assert_ptr_equal(auth_list_find(&l, VIEW("k2")), b);
	auth_list_remove(&l, VIEW("k2"));
	assert_ptr_equal(auth_list_find(&l, VIEW("k2")), a); /* by its name now */
	auth_list_remove(&l, VIEW("k2"));                    /* no id */
	assert_int_equal(l.n, 1);
	auth_list_remove(&l, VIEW("k1"));
	assert_int_equal(l.n, 0);
}

/* ---- who is let in ---------------------------------------------------------------------------------- */

#define OURS "sk-corral-000000000000000000000000000000000"

static void the_peer_and_the_key_decide(void **state)
{
	(void)state;
	AUTO(auth_list_done) struct auth_list l = { 0 };
	AUTO(strv_done) struct strv trusted = { 0 };
	struct auth_key *infer = key_of("infer", OURS "a"), *old = key_of("old", OURS "b"),
			*plain = key_of("plain", "a-key-of-my-own-that-is-long");
	plain->scope = AUTH_CONTROL;
	old->expires_ms = 5000;
	auth_list_add(&l, infer);
	auth_list_add(&l, old);
	auth_list_add(&l, plain);
	strv_add(&trusted, "10.1.0.0/16");
	strv_add(&trusted, "fd00::/8");
	const struct auth_list *lists[] = { NULL, &l };
	struct auth_rules *r = auth_rules_new(lists, 2, &trusted, NULL);
	unsigned char here[16], here6[16] = { [15] = 1 }, near[16], far[16], near6[16] = { 0xfd, 1 };
	ip_from_v4((const unsigned char[]){ 127, 1, 2, 3 }, here);
	ip_from_v4((const unsigned char[]){ 10, 1, 255, 255 }, near);
	ip_from_v4((const unsigned char[]){ 10, 2, 0, 0 }, far);
	static const unsigned char none[16] = { 0 };
	const struct {
		struct auth_asks asks;
		enum auth_verdict verdict;
		enum auth_scope scope;
		const struct auth_key *key;
	} rows[] = {
		{ { .ip = far }, AUTH_NO_KEY, AUTH_UNSET, NULL },
		{ { .ip = none }, AUTH_NO_KEY, AUTH_UNSET, NULL },
		{ { .ip = none, .local = true }, AUTH_GRANTED, AUTH_ADMIN, NULL },
		{ { .ip = here }, AUTH_GRANTED, AUTH_ADMIN, NULL },
		{ { .ip = here6 }, AUTH_GRANTED, AUTH_ADMIN, NULL },
		{ { .ip = near }, AUTH_GRANTED, AUTH_INFERENCE, NULL },
		{ { .ip = near6 }, AUTH_GRANTED, AUTH_INFERENCE, NULL },
		{ { .ip = far, .bearer = VIEW(OURS "a") }, AUTH_GRANTED, AUTH_INFERENCE, infer },
		{ { .ip = far, .api_key = VIEW(OURS "a") }, AUTH_GRANTED, AUTH_INFERENCE, infer },
		{ { .ip = far, .bearer = VIEW("x"), .api_key = VIEW(OURS "a") }, AUTH_GRANTED, AUTH_INFERENCE,
			infer },
		/* a key decides also where none is needed */
		{ { .ip = here, .bearer = VIEW(OURS "a") }, AUTH_GRANTED, AUTH_INFERENCE, infer },
		{ { .ip = near, .bearer = VIEW("a-key-of-my-own-that-is-long") }, AUTH_GRANTED, AUTH_CONTROL,
			plain },
		{ { .ip = far, .bearer = VIEW(OURS "c") }, AUTH_BAD_KEY, AUTH_UNSET, NULL },
		{ { .ip = here, .bearer = VIEW(OURS "c") }, AUTH_BAD_KEY, AUTH_UNSET, NULL },
		{ { .local = true, .ip = none, .api_key = VIEW(OURS "c") }, AUTH_BAD_KEY, AUTH_UNSET, NULL },
		{ { .ip = far, .bearer = VIEW(OURS "b") }, AUTH_EXPIRED_KEY, AUTH_UNSET, NULL },
		{ { .ip = here, .bearer = VIEW(OURS "b") }, AUTH_EXPIRED_KEY, AUTH_UNSET, NULL },
		/* what clients send because they must send something */
		{ { .ip = here, .bearer = VIEW("sk-none") }, AUTH_GRANTED, AUTH_ADMIN, NULL },
		{ { .ip = near, .api_key = VIEW("ollama") }, AUTH_GRANTED, AUTH_INFERENCE, NULL },
		{ { .ip = far, .bearer = VIEW("EMPTY") }, AUTH_BAD_KEY, AUTH_UNSET, NULL },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct auth_who who;
		print_message("row %zu\n", i);
		assert_int_equal(auth_check(r, &rows[i].asks, 6000, &who), rows[i].verdict);
		assert_int_equal(who.scope, rows[i].scope);
		assert_ptr_equal(who.key, rows[i].key);
	}
	struct auth_who who;
	struct auth_asks asks = { .ip = far, .bearer = VIEW(OURS "b") };
	assert_int_equal(auth_check(r, &asks, 4999, &who), AUTH_GRANTED);
	assert_true(auth_rules_open(r));
	auth_rules_unref(r);
}

static void a_bearer_has_its_scheme(void **state)
{
	(void)state;
	static const struct {
		struct view in, out;
	} rows[] = { { VIEW("Bearer abc"), VIEW("abc") }, { VIEW("bearer  abc "), VIEW("abc") },
		{ VIEW("Basic abc"), { NULL, 0 } }, { VIEW("Bearer"), { NULL, 0 } },
		{ { NULL, 0 }, { NULL, 0 } }, { VIEW("Bearerabc"), { NULL, 0 } } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_true(view_eq(auth_bearer(rows[i].in), rows[i].out));
}

static void many_keys_are_found_and_the_first_of_doubles_holds(void **state)
{
	(void)state;
	AUTO(auth_list_done) struct auth_list a = { 0 }, b = { 0 };
	enum { N = 1000 };
	char secret[64];
	for (int i = 0; i < N; i++) {
		snprintf(secret, sizeof secret, OURS "%d", i);
		auth_list_add(&a, key_of("a", secret));
		struct auth_key *k = key_of("b", secret);
		k->source = AUTH_FROM_ENV;
		auth_list_add(&b, k);
	}
	const struct auth_list *lists[] = { &a, &b };
	struct auth_rules *r = auth_rules_new(lists, 2, NULL, NULL);
	static const unsigned char none[16];
	assert_int_equal(r->keys.n, N);
	for (int i = 0; i < N; i++) {
		struct auth_who who;
		snprintf(secret, sizeof secret, OURS "%d", i);
		struct auth_asks asks = { .ip = none, .bearer = view_str(secret) };
		assert_int_equal(auth_check(r, &asks, 1, &who), AUTH_GRANTED);
		assert_string_equal(who.key->name, "a");
	}
	auth_rules_unref(r);
}

static void what_was_used_outlives_a_change_elsewhere(void **state)
{
	(void)state;
	AUTO(auth_list_done) struct auth_list a = { 0 }, b = { 0 }, c = { 0 };
	struct auth_key *k = key_of("a", OURS);
	k->limits.concurrent = 1;
	auth_list_add(&a, k);
	k = key_of("a", OURS);
	k->limits.concurrent = 1;
	auth_list_add(&b, k);
	auth_list_add(&b, key_of("other", OURS "x"));
	auth_list_add(&c, key_of("a", OURS)); /* another limit: another key */
	const struct auth_list *lists[] = { &a, &b, &c };
	struct auth_rules *r1 = auth_rules_new(lists, 1, NULL, NULL);
	struct auth_rules *r2 = auth_rules_new(lists + 1, 1, NULL, r1);
	struct auth_rules *r3 = auth_rules_new(lists + 2, 1, NULL, r2);
	assert_ptr_equal(r2->by_order.items[0], r1->by_order.items[0]);
	assert_ptr_not_equal(r3->by_order.items[0], r2->by_order.items[0]);
	struct auth_list file = { 0 };
	assert_false(auth_file_changed(r1, &file)); /* none of these come from a file */
	auth_list_add(&file, key_of("f", OURS "f"));
	file.items[0]->source = AUTH_FROM_FILE;
	assert_true(auth_file_changed(r1, &file));
	const struct auth_list *with_file[] = { &a, &file };
	struct auth_rules *r4 = auth_rules_new(with_file, 2, NULL, r1);
	assert_false(auth_file_changed(r4, &file));
	AUTO(auth_list_done) struct auth_list empty = { 0 };
	assert_true(auth_file_changed(r4, &empty));
	auth_rules_unref(r4);
	auth_list_done(&file);
	auth_rules_unref(r1);
	auth_rules_unref(r2);
	auth_rules_unref(r3);
}

static void addresses_that_others_reach(void **state)
{
	(void)state;
	static const struct {
		const char *listen;
		bool exposed;
	} rows[] = { { "127.0.0.1:8080", false }, { "8080", false }, { "[::1]:8080", false },
		{ "localhost:1", false }, { "/run/x.sock", false }, { "unix:/run/x.sock", false },
		{ "127.8.9.1:1", false }, { "0.0.0.0:8080", true }, { "[::]:8080", true }, { ":8080", true },
		{ "192.168.1.4:80", true }, { "box.lan:80", true }, { "[fd00::1]:80", true },
		{ "[::ffff:127.0.0.1]:80", false }, { "https://127.0.0.1:1", false },
		{ "http://[::1]:1", false }, { "https://10.0.0.1:1", true },
		{ "unix:/run/x.sock?mode=0660", false } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(strv_done) struct strv v = { 0 };
		strv_add(&v, "127.0.0.1:1");
		strv_add(&v, rows[i].listen);
		const char *found = auth_exposed(&v);
		print_message("%s\n", rows[i].listen);
		assert_int_equal(found != NULL, rows[i].exposed);
	}
}

/* ---- limits ------------------------------------------------------------------------------------------ */

static void requests_a_minute(void **state)
{
	(void)state;
	AUTO(auth_key_unrefp) struct auth_key *k = key_of("a", OURS);
	AUTO(buf_done) struct buf head = BUF(4096);
	int64_t after = 0;
	k->limits.requests = 3;
	for (int i = 0; i < 3; i++)
		assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_NONE);
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_REQUESTS);
	assert_int_equal(after, 20000);
	auth_limit_headers(k, at_ms(0), &head);
	assert_string_equal(buf_str(&head),
		"x-ratelimit-limit-requests: 3\r\nx-ratelimit-remaining-requests: 0\r\n"
		"x-ratelimit-reset-requests: 1m0s\r\n");
	assert_int_equal(auth_key_begin(k, at_ms(19999), &after), AUTH_LIMIT_REQUESTS);
	assert_int_equal(after, 1);
	assert_int_equal(auth_key_begin(k, at_ms(20000), &after), AUTH_LIMIT_NONE);
	buf_reset(&head);
	auth_limit_headers(k, at_ms(65000), &head);
	assert_string_equal(buf_str(&head),
		"x-ratelimit-limit-requests: 3\r\nx-ratelimit-remaining-requests: 2\r\n"
		"x-ratelimit-reset-requests: 15s\r\n");
	for (int i = 0; i < 3; i++) /* a minute's worth is all it holds, however long it waited */
		assert_int_equal(auth_key_begin(k, at_ms(600000), &after), AUTH_LIMIT_NONE);
	assert_int_equal(auth_key_begin(k, at_ms(600000), &after), AUTH_LIMIT_REQUESTS);
}

static void tokens_are_charged_at_the_end_and_may_be_a_debt(void **state)
{
	(void)state;
	AUTO(auth_key_unrefp) struct auth_key *k = key_of("a", OURS);
	AUTO(buf_done) struct buf head = BUF(4096);
	int64_t after = 0;
	k->limits.tokens = 600; /* ten a second */
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_NONE);
	auth_key_done(k, 590, at_ms(0));
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_NONE);
	auth_limit_headers(k, at_ms(0), &head);
	assert_string_equal(buf_str(&head),
		"x-ratelimit-limit-tokens: 600\r\nx-ratelimit-remaining-tokens: 10\r\n"
		"x-ratelimit-reset-tokens: 59s\r\n");
	auth_key_done(k, 1000, at_ms(0));
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_TOKENS);
	assert_int_equal(after, 99100); /* 990 owed, and one to be there */
	assert_int_equal(auth_key_begin(k, at_ms(99099), &after), AUTH_LIMIT_TOKENS);
	assert_int_equal(auth_key_begin(k, at_ms(99100), &after), AUTH_LIMIT_NONE);
	auth_key_done(k, UINT64_MAX, at_ms(99100)); /* at most a day */
	assert_int_equal(auth_key_begin(k, at_ms(99100 + 25 * 3600 * 1000), &after), AUTH_LIMIT_NONE);
}

static void so_many_at_the_same_time(void **state)
{
	(void)state;
	AUTO(auth_key_unrefp) struct auth_key *k = key_of("a", OURS);
	int64_t after = 0;
	k->limits.concurrent = 2;
	k->limits.requests = 3;
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_NONE);
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_NONE);
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_CONCURRENT);
	assert_int_equal(after, 1000);
	auth_key_done(k, 0, at_ms(0));
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_NONE); /* no request was taken */
	auth_key_done(k, 0, at_ms(0));
	assert_int_equal(auth_key_begin(k, at_ms(0), &after), AUTH_LIMIT_REQUESTS);
	auth_key_done(k, 0, at_ms(0));
	assert_int_equal(atomic_load(&k->running), 0); /* the refused one gave its place back */
}

/* ---- what people write ------------------------------------------------------------------------------ */

static void the_words_of_limits(void **state)
{
	(void)state;
	struct auth_limits l = { 0 };
	struct err e;
	assert_int_equal(auth_limit_parse(VIEW("requests=60/min"), &l, &e), 0);
	assert_int_equal(auth_limit_parse(VIEW("tokens=2/s"), &l, &e), 0);
	assert_int_equal(auth_limit_parse(VIEW("concurrent=4"), &l, &e), 0);
	assert_int_equal(l.requests, 60);
	assert_int_equal(l.tokens, 120);
	assert_int_equal(l.concurrent, 4);
	static const char *const bad[] = { "", "requests", "requests=", "requests=0", "requests=-1",
		"requests=60/h", "tokens=x/min", "concurrent=4/min", "concurrent=0", "speed=1",
		"requests=99999999999999999999", "requests=1000000000/s" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(auth_limit_parse(view_str(bad[i]), &l, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "requests=60/min"));
}

static void the_words_of_expiry(void **state)
{
	(void)state;
	struct err e;
	int64_t ms = 0;
	assert_int_equal(auth_expiry_parse(VIEW("30d"), 1000, &ms, &e), 0);
	assert_int_equal(ms, 1000 + (int64_t)30 * 24 * 3600 * 1000);
	static const struct {
		const char *text;
		int64_t ms;
	} rows[] = { { "1970-01-02", 86400000 }, { "1970-01-01T00:00:01Z", 1000 },
		{ "1970-01-01T01:00:01.250+01:00", 1250 }, { "2026-11-24T16:07:08.123Z", 1795536428123 } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(auth_expiry_parse(view_str(rows[i].text), 1000, &ms, &e), 0);
		assert_int_equal(ms, rows[i].ms);
	}
	static const char *const bad[] = { "", "0", "tomorrow", "2027-02-30", "2027-13-01",
		"2027-01-01T25:00:00Z", "2027-01-01T00:00:00", "2027-01-01T00:00:00+1", "-1d" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(auth_expiry_parse(view_str(bad[i]), 1000, &ms, &e), -EINVAL);
}

static void a_keys_file(void **state)
{
	(void)state;
	static const char text[] =
		"# who may use the box\n"
		"---\n"
		"\n"
		"alice: sk-corral-000000000000000000000000000000001\r\n"
		"ci:\tsha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad "
		"scope=control models=chat,coder requests=60/min tokens=1000/min concurrent=2 "
		"expires=2027-01-31 # till then\n"
		"quoted: \"sk-corral-000000000000000000000000000000002\"";
	AUTO(auth_list_done) struct auth_list l = { 0 };
	bool plain = false;
	struct err e = { 0 };
	assert_int_equal(auth_file_parse(VIEW(text), "keys", &l, &plain, &e), 0);
	assert_true(plain);
	assert_int_equal(l.n, 3);
	assert_string_equal(l.items[0]->name, "alice");
	assert_int_equal(l.items[0]->scope, AUTH_INFERENCE);
	const struct auth_key *ci = l.items[1];
	assert_string_equal(ci->id, "ba7816bf8f01");
	assert_int_equal(ci->scope, AUTH_CONTROL);
	assert_int_equal(ci->source, AUTH_FROM_FILE);
	assert_true(auth_key_lists(ci, VIEW("coder")));
	assert_false(auth_key_lists(ci, VIEW("code")));
	assert_int_equal(ci->limits.tokens, 1000);
	assert_true(auth_key_expired(ci, 1801353600000)); /* 2027-01-31T00:00Z */
	assert_false(auth_key_expired(ci, 1801353599999));
}

static void mistakes_in_a_keys_file_name_the_line_and_no_secret(void **state)
{
	(void)state;
	static const struct {
		const char *line, *says;
	} rows[] = {
		{ "sk-corral-Secret00000000000000000000", "NAME: KEY" },
		{ "sk-corral-Secret0000: sk-corral-00000000000000000000", "NAME: KEY" },
		{ "a b: sk-corral-Secret00000000000000000000", "NAME: KEY" },
		{ "a:", "0 characters" },
		{ "a: Secret", "can be guessed" },
		{ "a: sha256:Secret", "64 hexadecimal digits" },
		{ "a: sk-corral-Secret00000000000000000000 Secret", "no option" },
		{ "a: sk-corral-Secret00000000000000000000 rate=1", "there is no option \"rate\"" },
		{ "a: sk-corral-Secret00000000000000000000 scope=all", "found scope \"all\"" },
		{ "a: sk-corral-Secret00000000000000000000 models=", "found model" },
		{ "a: sk-corral-Secret00000000000000000000 expires=30d", "found expires \"30d\"" },
		{ "first: sk-corral-Secret00000000000000000000", "its name" },
		{ "a: sk-corral-First000000000000000000000", "its key" },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(auth_list_done) struct auth_list l = { 0 };
		AUTO(mem_freep)
		char *text = mem_fmt("first: sk-corral-First000000000000000000000\n%s\n", rows[i].line);
		bool plain = false;
		struct err e = { 0 };
		assert_true(auth_file_parse(view_str(text), "/etc/keys", &l, &plain, &e) < 0);
		print_message("%s\n", e.msg);
		assert_non_null(strstr(e.msg, "/etc/keys:2: "));
		assert_non_null(strstr(e.msg, rows[i].says));
		assert_null(strstr(e.msg, "Secret"));
	}
}

static void who_may_touch_a_keys_file(void **state)
{
	(void)state;
	static const struct {
		mode_t mode;
		int r;
		bool warns;
	} rows[] = { { 0600, 0, false }, { 0400, 0, false }, { 0640, 0, true }, { 0644, 0, true },
		{ 0660, -EPERM, false }, { 0602, -EPERM, false } };
	AUTO(mem_freep) char *path = mem_fmt("%s/keys", folder);
	FILE *f = fopen(path, "w");
	fputs("a: sk-corral-00000000000000000000000000000000\n", f);
	fclose(f);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		AUTO(auth_list_done) struct auth_list l = { 0 };
		AUTO(mem_freep) char *warning = NULL;
		struct err e = { 0 };
		assert_int_equal(chmod(path, rows[i].mode), 0);
		assert_int_equal(auth_file_read(path, &l, &warning, &e), rows[i].r);
		assert_int_equal(warning != NULL, rows[i].warns);
		if (rows[i].r || rows[i].warns)
			assert_non_null(strstr(rows[i].r ? e.msg : warning, "chmod 600"));
	}
	unlink(path);
	AUTO(auth_list_done) struct auth_list l = { 0 };
	AUTO(mem_freep) char *warning = NULL;
	struct err e = { 0 };
	assert_int_equal(auth_file_read(path, &l, &warning, &e), -ENOENT);
	assert_int_equal(auth_file_read(folder, &l, &warning, &e), -EINVAL);
}

static void keys_of_the_environment(void **state)
{
	(void)state;
	AUTO(auth_list_done) struct auth_list l = { 0 };
	struct err e = { 0 };
	assert_int_equal(auth_env_parse(NULL, &l, &e), 0);
	assert_int_equal(auth_env_parse("", &l, &e), 0);
	assert_int_equal(l.n, 0);
	assert_int_equal(auth_env_parse("0123456789abcdef, bob=0123456789abcdeg ,ops:admin=0123456789abcdeh,"
					"QUJDREVGR0hJSktMTU5PUA==,",
				 &l, &e),
		0);
	assert_int_equal(l.n, 4);
	assert_string_equal(l.items[0]->name, "env-1");
	assert_int_equal(l.items[0]->scope, AUTH_INFERENCE);
	assert_string_equal(l.items[1]->name, "bob");
	assert_int_equal(l.items[2]->scope, AUTH_ADMIN);
	assert_string_equal(l.items[3]->name, "env-4");
	AUTO(auth_key_unrefp) struct auth_key *base64 = key_of("x", "QUJDREVGR0hJSktMTU5PUA==");
	assert_string_equal(l.items[3]->id, base64->id);
	AUTO(auth_list_done) struct auth_list m = { 0 };
	assert_int_equal(auth_env_parse("0123456789abcdef,short", &m, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "CORRAL_API_KEYS, key 2"));
	assert_null(strstr(e.msg, "short"));
}

/* ---- the store ---------------------------------------------------------------------------------------- */

static void the_store_keeps_no_secret_and_gives_back_what_it_got(void **state)
{
	(void)state;
	AUTO(mem_freep) char *path = mem_fmt("%s/%s", folder, AUTH_STORE_NAME);
	AUTO(auth_list_done) struct auth_list none = { 0 }, l = { 0 }, left = { 0 };
	struct err e = { 0 };
	struct stat st;
	assert_int_equal(auth_store_load(path, &none, &e), 0);
	assert_int_equal(none.n, 0);
	assert_int_not_equal(stat(path, &st), 0); /* asking makes nothing */
	AUTO(auth_key_unrefp) struct auth_key *gone = NULL;
	assert_int_equal(auth_store_revoke(path, VIEW("a"), &gone, &e), -ENOENT);
	AUTO(auth_key_unrefp)
	struct auth_key *a = key_of("a", "sk-corral-SecretSecretSecret"), *b = key_of("b", OURS);
	a->scope = AUTH_ADMIN;
	a->created_ms = 2000;
	a->expires_ms = 3000;
	a->limits = (struct auth_limits){ .requests = 60, .tokens = 1ull << 35, .concurrent = 3 };
	strv_add(&a->models, "chat");
	strv_add(&a->models, "org/coder,x");
	b->created_ms = 1000;
	assert_int_equal(auth_store_add(path, a, &e), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(auth_store_add(path, b, &e), 0);
	AUTO(auth_key_unrefp) struct auth_key *same = key_of("a", OURS "z");
	assert_int_equal(auth_store_add(path, same, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "corral key revoke a"));
	assert_int_equal(auth_store_load(path, &l, &e), 0);
	assert_int_equal(l.n, 2);
	assert_string_equal(l.items[0]->name, "b");
	assert_int_equal(l.items[0]->models.len, 0);
	const struct auth_key *k = l.items[1];
	assert_memory_equal(k->digest, a->digest, AUTH_DIGEST_LEN);
	assert_int_equal(k->scope, AUTH_ADMIN);
	assert_true(strv_eq(&k->models, &a->models));
	assert_memory_equal(&k->limits, &a->limits, sizeof a->limits);
	assert_int_equal(k->created_ms, 2000);
	assert_int_equal(k->expires_ms, 3000);
	assert_int_equal(auth_store_revoke(path, view_str(a->id), &gone, &e), 0);
	assert_string_equal(gone->name, "a");
	assert_int_equal(auth_store_load(path, &left, &e), 0);
	assert_int_equal(left.n, 1);
	FILE *f = fopen(path, "r");
	static char bytes[256 * 1024];
	size_t n = fread(bytes, 1, sizeof bytes, f);
	fclose(f);
	assert_null(memmem(bytes, n, "SecretSecret", 12));
	unlink(path);
}

/* Leaves a journal behind: what it wrote of the file has to be taken back by whoever opens it next. */
static void die_while_writing(const char *path)
{
	pid_t pid = fork();
	if (pid == 0) {
		sqlite3 *db = NULL;
		if (sqlite3_open(path, &db) ||
			sqlite3_exec(
				db, "BEGIN IMMEDIATE; UPDATE keys SET name = 'torn'", NULL, NULL, NULL) ||
			sqlite3_db_cacheflush(db))
			_exit(1);
		_exit(0);
	}
	int status = -1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void a_writer_that_died_takes_no_key_along(void **state)
{
	(void)state;
	AUTO(mem_freep) char *path = mem_fmt("%s/%s", folder, AUTH_STORE_NAME);
	AUTO(mem_freep) char *journal = mem_fmt("%s-journal", path);
	AUTO(auth_list_done) struct auth_list l = { 0 };
	AUTO(auth_key_unrefp) struct auth_key *a = key_of("a", OURS);
	struct err e = { 0 };
	assert_int_equal(auth_store_add(path, a, &e), 0);
	die_while_writing(path);
	assert_int_equal(access(journal, F_OK), 0);
	assert_int_equal(auth_store_load(path, &l, &e), 0);
	assert_int_equal(l.n, 1);
	assert_string_equal(l.items[0]->name, "a");
	unlink(path);
}

static void a_store_that_is_none_is_told(void **state)
{
	(void)state;
	AUTO(mem_freep) char *path = mem_fmt("%s/%s", folder, AUTH_STORE_NAME);
	AUTO(auth_list_done) struct auth_list l = { 0 };
	struct err e = { 0 };
	FILE *f = fopen(path, "w");
	for (int i = 0; i < 1000; i++)
		fputs("this is no database", f);
	fclose(f);
	assert_true(auth_store_load(path, &l, &e) < 0);
	assert_non_null(strstr(e.msg, path));
	AUTO(auth_key_unrefp) struct auth_key *a = key_of("a", OURS);
	assert_true(auth_store_add(path, a, &e) < 0);
	f = fopen(path, "w"); /* made by open(2), and the writer died */
	fclose(f);
	assert_int_equal(auth_store_load(path, &l, &e), 0);
	assert_int_equal(auth_store_add(path, a, &e), 0);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_secret_has_its_prefix_and_is_never_the_same),
		cmocka_unit_test(a_key_is_known_by_its_sha256),
		cmocka_unit_test(no_answer_shows_a_secret),
		cmocka_unit_test(an_id_goes_before_a_name),
		cmocka_unit_test(the_peer_and_the_key_decide),
		cmocka_unit_test(a_bearer_has_its_scheme),
		cmocka_unit_test(many_keys_are_found_and_the_first_of_doubles_holds),
		cmocka_unit_test(what_was_used_outlives_a_change_elsewhere),
		cmocka_unit_test(addresses_that_others_reach),
		cmocka_unit_test(requests_a_minute),
		cmocka_unit_test(tokens_are_charged_at_the_end_and_may_be_a_debt),
		cmocka_unit_test(so_many_at_the_same_time),
		cmocka_unit_test(the_words_of_limits),
		cmocka_unit_test(the_words_of_expiry),
		cmocka_unit_test(a_keys_file),
		cmocka_unit_test(mistakes_in_a_keys_file_name_the_line_and_no_secret),
		cmocka_unit_test(who_may_touch_a_keys_file),
		cmocka_unit_test(keys_of_the_environment),
		cmocka_unit_test(the_store_keeps_no_secret_and_gives_back_what_it_got),
		cmocka_unit_test(a_writer_that_died_takes_no_key_along),
		cmocka_unit_test(a_store_that_is_none_is_told),
	};
	return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
