/* SPDX-License-Identifier: Apache-2.0
 *
 * The driver of corral-fetch: what it asks, what it hears, cancelling, a child that is killed or says
 * nothing. What is fetched comes from file: URLs; the network is tests/e2e/fetch.test.mjs.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "provision/fetch/fetch_int.h"

#define HELLO_SHA "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

struct world {
	char dir[64];
	struct loop *loop;
	struct fetch_job *job;
	unsigned done, progress;
	bool cancel_in_progress;
	enum fetch_why why;
	struct err err;
	int status;
	char *text, *sha256;
	bool was_there;
	uint64_t size, fetched, unpacked;
};

static int setup(void **state)
{
	struct world *w = NEW(struct world);
	snprintf(w->dir, sizeof w->dir, "/tmp/crl-fetch-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->loop = loop_new("test");
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	char line[128];
	loop_free(w->loop);
	snprintf(line, sizeof line, "rm -rf '%s'", w->dir);
	assert_int_equal(system(line), 0);
	free(w->text);
	free(w->sha256);
	free(w);
	return 0;
}

static void on_progress(void *arg, const struct fetch_progress *p)
{
	struct world *w = arg;
	w->progress++;
	assert_non_null(p->text);
	if (w->cancel_in_progress) {
		fetch_cancel(&w->job);
		loop_stop(w->loop);
	}
}

static void on_done(void *arg, const struct fetch_result *r, enum fetch_why why, const struct err *e)
{
	struct world *w = arg;
	w->done++;
	w->job = NULL;
	w->why = why;
	w->err = e ? *e : (struct err){ 0 };
	assert_true((why == FETCH_OK) == (e == NULL));
	w->status = r->status;
	mem_setstr(&w->text, r->text);
	mem_setstr(&w->sha256, r->nfiles ? r->files[0].sha256 : NULL);
	w->was_there = r->nfiles && r->files[0].was_there;
	w->size = r->nfiles ? r->files[0].size : 0;
	w->fetched = r->nfiles ? r->files[0].bytes_fetched : 0;
	w->unpacked = r->unpacked;
	loop_stop(w->loop);
}

static const struct fetch_ops ops = { on_progress, on_done };

static void begin(struct world *w, const char *program, const struct fetch_request *q)
{
	struct err e = { 0 };
	w->done = 0;
	if (fetch_start(w->loop, program, q, &ops, w, &w->job, &e))
		fail_msg("%s", e.msg);
}

static void run(struct world *w, const struct fetch_request *q)
{
	begin(w, CORRAL_FETCH, q);
	loop_run(w->loop);
	assert_int_equal(w->done, 1);
}

static char *put(struct world *w, const char *name, const char *text)
{
	char *path = path_join(w->dir, name);
	assert_int_equal(file_write_atomic(path, view_str(text), 0644, false), 0);
	return path;
}

static struct fetch_file file_of(struct world *w, const char *from, const char *to)
{
	struct fetch_file f = { .to = to ? path_join(w->dir, to) : NULL };
	strv_addf(&f.urls, "file://%s/%s", w->dir, from);
	return f;
}

static void fetches_a_file_and_finds_it_there(void **state)
{
	struct world *w = *state;
	free(put(w, "from", "hello"));
	struct fetch_file f = file_of(w, "from", "sub/to");
	f.sha256 = mem_strdup(HELLO_SHA);
	struct fetch_request q = { .op = FETCH_FILES, .files = &f, .nfiles = 1 };
	run(w, &q);
	assert_string_equal(w->err.msg, "");
	assert_string_equal(w->sha256, HELLO_SHA);
	assert_int_equal(w->size, 5);
	assert_false(w->was_there);
	run(w, &q);
	assert_true(w->was_there);
	q.op = FETCH_HASH;
	run(w, &q);
	assert_int_equal(w->why, FETCH_OK);
	f.sha256[0] = 'f';
	run(w, &q);
	assert_int_equal(w->why, FETCH_DIGEST);
	assert_string_equal(w->sha256, HELLO_SHA);
	assert_non_null(strstr(w->err.msg, "SHA-256"));
	fetch_file_done(&f);
}

/* The first bytes stay a part, and the next process goes on behind them. */
static void fetches_a_head_and_then_the_rest(void **state)
{
	struct world *w = *state;
	struct stat st;
	AUTO(mem_freep) char *text = mem_alloc(9 * MIB + 1);
	memset(text, 'x', 9 * MIB);
	free(put(w, "from", text));
	AUTO(mem_freep) char *part = path_join(w->dir, "to.part");
	struct fetch_file f = file_of(w, "from", "to");
	struct fetch_request q = { .op = FETCH_FILES, .files = &f, .nfiles = 1 };
	f.sha256 = mem_strdup("47a10d91750e6c27cef2d266a8234c21dae0144235a636c228821572d02584b7");
	f.size = 9 * MIB;
	f.head = 4 * MIB;
	run(w, &q);
	assert_string_equal(w->err.msg, "");
	assert_int_equal(w->size, 9 * MIB);
	assert_int_equal(w->fetched, 4 * MIB);
	assert_null(w->sha256);
	assert_false(file_exists(f.to));
	assert_int_equal(stat(part, &st), 0);
	assert_int_equal(st.st_size, 4 * MIB);
	run(w, &q);
	assert_int_equal(w->fetched, 0);
	f.head = 0;
	run(w, &q);
	assert_string_equal(w->err.msg, "");
	assert_int_equal(w->fetched, 5 * MIB);
	assert_string_equal(w->sha256, f.sha256);
	f.head = 1; /* it is here */
	run(w, &q);
	assert_true(w->was_there);
	assert_int_equal(w->size, 9 * MIB);
	fetch_file_done(&f);
}

static void reads_a_document(void **state)
{
	struct world *w = *state;
	free(put(w, "from", "{\"a\":\"\xc3\xa4\"}\n"));
	struct fetch_file f = file_of(w, "from", NULL);
	struct fetch_request q = { .op = FETCH_TEXT, .files = &f, .nfiles = 1 };
	run(w, &q);
	assert_int_equal(w->status, 200);
	assert_string_equal(w->text, "{\"a\":\"\xc3\xa4\"}\n");
	fetch_file_done(&f);
	f = file_of(w, "nothing", NULL);
	run(w, &q);
	assert_int_equal(w->why, FETCH_MISSING);
	fetch_file_done(&f);
}

static void says_what_is_wrong_with_a_request(void **state)
{
	struct world *w = *state;
	struct fetch_file f = { 0 };
	struct fetch_request q = { .op = FETCH_FILES, .files = &f, .nfiles = 1 };
	struct err e = { 0 };
	assert_int_equal(fetch_start(w->loop, CORRAL_FETCH, &q, &ops, w, &w->job, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "no URL"));
	strv_add(&f.urls, "file:///a");
	f.to = mem_strdup("relative");
	assert_int_equal(fetch_start(w->loop, CORRAL_FETCH, &q, &ops, w, &w->job, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "absolute path"));
	mem_setstr(&f.to, "/a");
	f.sha256 = mem_strdup("abc");
	assert_int_equal(fetch_start(w->loop, CORRAL_FETCH, &q, &ops, w, &w->job, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "64 digits"));
	mem_setstr(&f.sha256, NULL);
	q.nfiles = 0;
	assert_int_equal(fetch_start(w->loop, CORRAL_FETCH, &q, &ops, w, &w->job, &e), -EINVAL);
	q.nfiles = 1;
	assert_int_equal(fetch_start(w->loop, "/nonexistent/fetch", &q, &ops, w, &w->job, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "/nonexistent/fetch"));
	fetch_file_done(&f);
}

/* A program that is not corral-fetch, but whose words are. */
static char *script(struct world *w, const char *text)
{
	AUTO(mem_freep) char *whole = mem_fmt("#!/bin/sh\n%s\n", text);
	char *path = put(w, "script", whole);
	assert_int_equal(chmod(path, 0755), 0);
	return path;
}

#define PROGRESS                                                                                             \
	"echo '{\"progress\":{\"phase\":\"fetching\",\"bytes\":1,\"total\":2,\"rate\":3,\"eta_ms\":-1,"      \
	"\"text\":\"x\"}}'\n"

static void tells_of_a_child_that_says_nothing(void **state)
{
	struct world *w = *state;
	struct fetch_file f = file_of(w, "from", "to");
	struct fetch_request q = { .op = FETCH_FILES, .files = &f, .nfiles = 1 };
	static const struct {
		const char *text, *want;
	} cases[] = { { "exit 3", "code 3" }, { "kill -9 $$", "signal 9" },
		{ "echo nonsense", "another version" }, { PROGRESS "exit 0", "said nothing" } };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		AUTO(mem_freep) char *path = script(w, cases[i].text);
		begin(w, path, &q);
		loop_run(w->loop);
		assert_int_equal(w->done, 1);
		assert_int_equal(w->why, FETCH_CRASHED);
		if (!strstr(w->err.msg, cases[i].want))
			fail_msg("%s", w->err.msg);
	}
	assert_int_equal(w->progress, 1);
	fetch_file_done(&f);
}

static void is_cancelled_before_and_in_a_callback(void **state)
{
	struct world *w = *state;
	struct fetch_file f = file_of(w, "from", "to");
	struct fetch_request q = { .op = FETCH_FILES, .files = &f, .nfiles = 1 };
	AUTO(mem_freep) char *path = script(w, PROGRESS PROGRESS "exec cat /dev/zero >/dev/null");
	begin(w, path, &q);
	fetch_cancel(&w->job);
	assert_null(w->job);
	fetch_cancel(&w->job);
	w->cancel_in_progress = true;
	begin(w, path, &q);
	loop_run(w->loop);
	assert_int_equal(w->progress, 1);
	assert_int_equal(w->done, 0);
	assert_null(w->job);
	fetch_file_done(&f);
}

static void unpacks_an_archive(void **state)
{
	struct world *w = *state;
	char line[256];
	free(put(w, "a", "hello"));
	snprintf(line, sizeof line, "cd '%s' && tar czf x.tar.gz a", w->dir);
	assert_int_equal(system(line), 0);
	AUTO(mem_freep) char *into = path_join(w->dir, "into");
	struct fetch_file f = { .to = path_join(w->dir, "x.tar.gz") };
	struct fetch_request q = { .op = FETCH_UNPACK, .files = &f, .nfiles = 1, .into = into };
	run(w, &q);
	assert_string_equal(w->err.msg, "");
	assert_int_equal(w->unpacked, 5);
	AUTO(mem_freep) char *there = path_join(into, "a");
	assert_true(file_exists(there));
	run(w, &q);
	assert_int_equal(w->why, FETCH_INPUT);
	fetch_file_done(&f);
}

static void names_every_kind(void **state)
{
	(void)state;
	for (int w = FETCH_OK; w <= FETCH_CRASHED; w++)
		assert_true(fetch_why_name((enum fetch_why)w)[0] != '\0');
}

static void asks_with_everything(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	struct fetch_file f = { .to = mem_strdup("/t"), .size = 7, .head = 5 };
	struct fetch_request q = {
		.op = FETCH_FILES, .files = &f, .nfiles = 1, .rate = 9, .tries = 2, .parallel = 3
	};
	strv_add(&f.urls, "https://h/\"x");
	strv_add(&f.headers, "A: b");
	strv_add(&q.policy.deny, "*.org");
	q.policy.offline = true;
	assert_int_equal(fetch_ask(&q, &b, NULL), 0);
	assert_string_equal(buf_str(&b),
		"{\"op\":\"files\",\"files\":[{\"mode\":0,\"urls\":[\"https://h/\\\"x\"],\"headers\":[\"A: "
		"b\"],"
		"\"to\":\"/"
		"t\",\"size\":7,\"head\":5}],\"parallel\":3,\"rate\":9,\"tries\":2,\"policy\":{\"offline\":"
		"true,"
		"\"plain_http\":false,\"allow_hosts\":[],\"deny\":[\"*.org\"]}}");
	strv_done(&q.policy.deny);
	fetch_file_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(fetches_a_file_and_finds_it_there, setup, teardown),
		cmocka_unit_test_setup_teardown(fetches_a_head_and_then_the_rest, setup, teardown),
		cmocka_unit_test_setup_teardown(reads_a_document, setup, teardown),
		cmocka_unit_test_setup_teardown(says_what_is_wrong_with_a_request, setup, teardown),
		cmocka_unit_test_setup_teardown(tells_of_a_child_that_says_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(is_cancelled_before_and_in_a_callback, setup, teardown),
		cmocka_unit_test_setup_teardown(unpacks_an_archive, setup, teardown),
		cmocka_unit_test(names_every_kind),
		cmocka_unit_test(asks_with_everything),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
