/* SPDX-License-Identifier: Apache-2.0
 *
 * engine_ensure: every way it can go, with a fake apt; and the parsers behind the package mode.
 * With CORRAL_TEST_PACKAGE_DIR set the real package mode is run into that folder instead.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/rnd.h"
#include "getting.h"

static void expect_err(struct world *w, const char *why)
{
	if (!w->err.code || !strstr(w->err.msg, why))
		fail_msg("\"%s\" does not say \"%s\" (%s)", w->err.msg, why,
			w->build.why ? w->build.why : "no build");
}

static int setup(void **state)
{
	struct world *w = NEW(struct world);
	world_init(w, "ensure");
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	world_done(*state);
	free(*state);
	return 0;
}

static struct engine_def package_def(const struct world *w)
{
	return world_def(w, ENGINE_MODE_PACKAGE);
}

static void assert_package(struct world *w)
{
	if (w->err.code)
		fail_msg("%s", w->err.msg);
	assert_int_equal(w->build.mode, ENGINE_MODE_PACKAGE);
	assert_string_equal(w->build.version, "0.7.0");
	AUTO(mem_freep) char *root = path_join(w->opts.prefix_dir, "llamacpp/package-0.7.0+dfsg-2");
	AUTO(mem_freep)
	char *program = path_join(root, "usr/lib/x86_64-linux-gnu/ggml/backends0/llama-server");
	assert_string_equal(w->build.program, program);
	AUTO(mem_freep)
	char *lib = mem_fmt("%s/usr/lib/x86_64-linux-gnu:%s/usr/lib/x86_64-linux-gnu/llama", root, root);
	AUTO(mem_freep) char *server = path_join(root, "usr/bin/llama-server");
	const char *want[] = { "--inhibit-cache", "--argv0", "llama-server", "--library-path", lib, server };
	assert_int_equal(w->build.prefix_args.len, ARRAY_LEN(want));
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		assert_string_equal(w->build.prefix_args.items[i], want[i]);
	assert_non_null(strstr(w->build.why, "(CPU)"));
}

static void gets_the_package_and_then_only_reads(void **state)
{
	struct world *w = *state;
	struct engine_def d = package_def(w);
	world_ensure(w, &d);
	assert_package(w);
	assert_int_equal(w->top_pct, 100);
	assert_int_equal(fake_apt_calls(w->dir, "fetch"), 2);
	unsigned calls = fake_apt_calls(w->dir, "");
	world_ensure(w, &d);
	assert_package(w);
	assert_int_equal(fake_apt_calls(w->dir, ""), calls);
	w->opts.offline = true; /* what is there is enough */
	world_ensure(w, &d);
	assert_package(w);
	AUTO(mem_freep)
	char *said = engine_describe(&d, &(struct engine_ensure_opts){ .prefix_dir = w->opts.prefix_dir });
	assert_non_null(strstr(said, "0.7.0"));
	engine_def_done(&d);
}

static void goes_on_after_a_kill(void **state)
{
#ifdef __SANITIZE_THREAD__
	skip(); /* ThreadSanitizer does not follow a forked process that starts threads */
#endif
	struct world *w = *state;
	struct engine_def d = package_def(w);
	AUTO(mem_freep) char *go = path_join(w->dir, "go");
	assert_int_equal(mkfifo(go, 0600), 0);
	fake_apt_set(w->dir, "hang", "1");
	/* A process of its own begins and is killed while apt works; apt lives on and holds the lock. */
	int pid = fork();
	if (pid == 0) {
		struct loop *l = loop_new("killed");
		w->loop = l;
		world_start(w, &d);
		loop_run(l);
		_exit(0);
	}
	world_run_until_file(w, "hanging");
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(fake_apt_calls(w->dir, "fetch"), 1);
	fake_apt_set(w->dir, "hang", NULL);
	AUTO(mem_freep)
	char *half = path_join(
		w->opts.prefix_dir, "llamacpp/.new-0123/usr/bin"); /* as a kill while unpacking leaves it */
	assert_int_equal(dir_make(half, 0700), 0);
	world_start(w, &d);
	/* It waits for that apt; let it end. */
	int fd = open(go, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, "x\n", 2), 0);
	world_run(w);
	fd_close(fd);
	assert_package(w);
	assert_false(file_exists(half));
	assert_int_equal(fake_apt_calls(w->dir, "fetch"), 2); /* nothing twice */
	engine_def_done(&d);
}

static void cancel_ends_apt_and_leaves_nothing(void **state)
{
	struct world *w = *state;
	struct engine_def d = package_def(w);
	AUTO(mem_freep) char *go = path_join(w->dir, "go");
	assert_int_equal(mkfifo(go, 0600), 0);
	fake_apt_set(w->dir, "hang", "1");
	world_start(w, &d);
	world_run_until_file(w, "hanging");
	engine_job_cancel(&w->job);
	assert_null(w->job);
	fake_apt_set(w->dir, "hang", NULL);
	world_ensure(w, &d); /* the lock is free as soon as the cancelled apt has gone */
	assert_package(w);
	engine_def_done(&d);
}

static void two_jobs_share_one_fetch(void **state)
{
	struct world *w = *state;
	struct engine_def d = package_def(w);
	struct world other = { .loop = w->loop, .opts = w->opts };
	world_start(&other, &d);
	world_start(w, &d);
	while (!w->done || !other.done)
		world_run(w);
	assert_package(w);
	assert_string_equal(other.build.program, w->build.program);
	assert_int_equal(fake_apt_calls(w->dir, "fetch"), 2);
	engine_build_done(&other.build);
	strv_done(&other.progress);
	engine_def_done(&d);
}

static void refuses_an_older_release(void **state)
{
	struct world *w = *state;
	struct engine_def d = package_def(w);
	world_ensure(w, &d);
	assert_package(w);
	AUTO(mem_freep) char *suite = mem_strdup("forky");
	d.package_suite = mem_strdup(suite);
	d.package_archive = mem_strdup("http://user:secret@other.test/debian");
	fake_apt_set(w->dir, "date", "Thu, 29 Oct 2026 08:08:01 UTC");
	world_ensure(w, &d);
	expect_err(w, "2026-10-29, but 2026-10-30 was seen");
	fake_apt_set(w->dir, "date", "Sat, 31 Oct 2026 08:08:01 UTC");
	world_ensure(w, &d);
	assert_int_equal(w->err.code, 0);
	engine_def_done(&d);
}

static void explains_failures(void **state)
{
	struct world *w = *state;
	struct engine_def d = package_def(w);
	w->opts.offline = true;
	world_ensure(w, &d);
	expect_err(w, "offline");
	w->opts.offline = false;
	d.package_archive = mem_strdup("http://user:secret@m.test/debian");
	fake_apt_set(w->dir, "fail",
		"E: Failed to fetch http://user:secret@m.test/x  Temporary failure resolving 'm.test'\n");
	world_ensure(w, &d);
	expect_err(w, "the archive http://m.test/debian cannot be reached");
	fake_apt_set(w->dir, "fail", "W: GPG error: NO_PUBKEY 1234\nE: not signed\n");
	world_ensure(w, &d);
	expect_err(w, "not in the keyring");
	fake_apt_set(w->dir, "fail", "E: Something at http://user:secret@m.test/x\n");
	world_ensure(w, &d);
	expect_err(w, "apt says \"Something at http://m.test/x\"");
	fake_apt_set(w->dir, "fail", NULL);
	fake_apt_set(w->dir, "spoil", "1");
	world_ensure(w, &d);
	expect_err(w, "signed digest");
	fake_apt_set(w->dir, "spoil", NULL);
	world_ensure(w, &d); /* the spoilt file was removed: fetched again */
	assert_int_equal(w->err.code, 0);
	mem_setstr(&d.package_keyring, "/nowhere/keyring.gpg");
	world_ensure(w, &d);
	expect_err(w, "keyring /nowhere/keyring.gpg");
	mem_setstr(&d.package_suite, "a b");
	world_ensure(w, &d);
	expect_err(w, "engine.package.suite");
	engine_def_done(&d);
}

static void put_program(struct world *w, const char *name, const char *text)
{
	AUTO(mem_freep) char *p = path_join(w->dir, name);
	assert_int_equal(file_write_atomic(p, view_str(text), 0755, false), 0);
	chmod(p, 0755);
}

static void auto_prefers_what_is_installed(void **state)
{
	struct world *w = *state;
	struct engine_def d = { .mode = ENGINE_MODE_AUTO };
	put_program(w, "bin/llama-server",
		"#!/bin/sh\necho x >> \"$(dirname \"$0\")/../calls\"\necho 'version: 5835 (abc)' >&2\n");
	world_ensure(w, &d);
	assert_int_equal(w->build.mode, ENGINE_MODE_BINARY);
	assert_string_equal(w->build.version, "b5835");
	assert_non_null(strstr(w->build.why, "found in PATH"));
	world_ensure(w, &d);
	assert_string_equal(w->build.version, "b5835");
	assert_int_equal(fake_apt_calls(w->dir, "x"), 1); /* asked once */
	put_program(w, "bin/other", "#!/bin/sh\necho none\n");
	AUTO(mem_freep) char *other = path_join(w->dir, "bin/other");
	setenv("CORRAL_LLAMA_SERVER", other, 1);
	world_ensure(w, &d);
	assert_string_equal(w->build.program, other);
	assert_null(w->build.version);
	setenv("CORRAL_LLAMA_SERVER", "/nowhere", 1);
	world_ensure(w, &d);
	expect_err(w, "CORRAL_LLAMA_SERVER names /nowhere");
}

static void auto_passes_over_a_broken_one(void **state)
{
	struct world *w = *state;
	struct engine_def d = package_def(w);
	d.mode = ENGINE_MODE_AUTO;
	put_program(w, "bin/llama-server",
		"#!/bin/sh\necho 'x: error while loading shared libraries: libz.so' >&2\nexit 127\n");
	world_ensure(w, &d);
	assert_package(w);
	assert_non_null(strstr(w->build.why, "does not run here"));
	assert_non_null(strstr(w->build.why, "libz.so"));
	d.mode = ENGINE_MODE_BINARY;
	d.path = path_join(w->dir, "bin/llama-server");
	world_ensure(w, &d);
	expect_err(w, "exit code 127");
	mem_setstr(&d.path, "/nowhere");
	world_ensure(w, &d);
	expect_err(w, "does not exist");
	mem_setstr(&d.path, "/etc/passwd");
	world_ensure(w, &d);
	expect_err(w, "not an executable");
	engine_def_done(&d);
}

static void checks_external_and_command(void **state)
{
	struct world *w = *state;
	struct engine_def d = { .kind = ENGINE_OPENAI, .mode = ENGINE_MODE_EXTERNAL };
	world_ensure(w, &d);
	expect_err(w, "no address");
	static const char *const good[] = { "http://127.0.0.1:8000", "https://host:1", "http://host:1/v1",
		"unix:/run/x.sock" };
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		strv_add(&d.urls, good[i]);
	world_ensure(w, &d);
	assert_int_equal(w->err.code, 0);
	assert_true(w->build.external);
	static const char *const bad[] = { "https://:1", "ftp://x", "127.0.0.1:80", "http://:1",
		"http://h:99999" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		strv_done(&d.urls);
		strv_add(&d.urls, bad[i]);
		world_ensure(w, &d);
		if (!w->err.code)
			fail_msg("%s was taken", bad[i]);
		expect_err(w, bad[i]);
	}
	engine_def_done(&d);
	struct engine_def c = { .kind = ENGINE_COMMAND };
	world_ensure(w, &c);
	expect_err(w, "engine.command is empty");
	strv_add(&c.command, "sh");
	world_ensure(w, &c);
	assert_non_null(w->build.program);
	assert_int_equal(w->build.program[0], '/');
	strv_done(&c.command);
	strv_add(&c.command, "no-such-program");
	world_ensure(w, &c);
	expect_err(w, "not in PATH");
	engine_def_done(&c);
}

/* ---- parsers --------------------------------------------------------------------------------- */

static void reads_release_dates(void **state)
{
	(void)state;
	int64_t t;
	assert_int_equal(release_date_parse(VIEW(" Fri, 30 Oct 2026 08:08:01 UTC"), &t), 0);
	assert_int_equal(t, 1793347681);
	assert_int_equal(release_date_parse(VIEW("Sat,  1 Feb 2025  9:00:00 +0000"), &t), 0);
	static const char *const bad[] = { "", "Fri, 30 Oct 2026", "Fri, 30 Okt 2026 08:08:01 UTC",
		"Fri, 30 Oct 2026 08:08:01 +0200", "Fri, 99 Oct 2026 08:08:01 UTC", "2026-10-30" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(release_date_parse(view_str(bad[i]), &t), -EINVAL);
}

static void reads_versions(void **state)
{
	(void)state;
	static const struct {
		const char *text, *version;
	} cases[] = {
		{ "version: 0.7.0 (build 11669, commit Debian)\nbuilt with GNU\n", "0.7.0" },
		{ "ggml_cuda_init: found 1\nversion: 5835 (abc)\n", "b5835" },
		{ "vllm 0.9.1\n", "0.9.1" },
		{ "hello\n", NULL },
		{ "", NULL },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		AUTO(mem_freep) char *v = version_parse(view_str(cases[i].text));
		if (!cases[i].version)
			assert_null(v);
		else
			assert_string_equal(v, cases[i].version);
	}
}

static void carries_over_only_how_to_reach_archives(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	AUTO(mem_freep) char *arch = NULL;
	const char *dump =
		"APT::Architecture \"arm64\";\nAcquire::http::Proxy \"http://p:1\";\nAcquire::https::CaInfo "
		"\"/ca\";\n"
		"Acquire::http::Proxy::h.test \"DIRECT\";\nAcquire::https::X \"a\"b\";\nAcquire::http \"\";\n"
		"APT::Update::Post-Invoke:: \"rm\";\nDir::Etc::sourcelist \"x\";\nAcquire::Retries "
		"\"3\";\nbroken\n";
	assert_int_equal(apt_config_carry(view_str(dump), &b, &arch), 0);
	assert_string_equal(arch, "arm64");
	assert_string_equal(buf_str(&b),
		"Acquire::http::Proxy \"http://p:1\";\nAcquire::https::CaInfo \"/ca\";\n"
		"Acquire::http::Proxy::h.test \"DIRECT\";\nAcquire::Retries \"3\";\n");
}

static void finds_the_archive_apt_uses(void **state)
{
	(void)state;
	const char *targets = "cdrom:[x]/|Debian|bookworm|main\nhttps://x.test/apt|Other|y|main\nhttp://"
			      "m.test/debian-security/|Debian|bookworm-"
			      "security|main\nhttp://m.test/debian/|Debian|bookworm|main\n";
	AUTO(mem_freep) char *a = apt_archive_of_targets(view_str(targets));
	assert_string_equal(a, "http://m.test/debian/");
	assert_null(apt_archive_of_targets(VIEW("http://m.test/ubuntu/|Ubuntu|noble|main\n")));
	const char *uris = "'http://m.test/debian-security/dists/bookworm-security/InRelease' x 0 "
			   "\n'http://m.test/debian/dists/bookworm/InRelease' y 0 \n";
	AUTO(mem_freep) char *u = apt_archive_of_uris(view_str(uris), "bookworm");
	assert_string_equal(u, "http://m.test/debian/");
	assert_null(apt_archive_of_uris(view_str(uris), "noble"));
}

static void refuses_hostile_package_lists_and_records(void **state)
{
	struct world *w = *state;
	static const char *const bad[] = {
		"'u' ../x.deb 1 SHA256:0000000000000000000000000000000000000000000000000000000000000000\n",
		"'u' a_1_all.deb 1 MD5Sum:00\n",
		"'u' a_1_all.deb x SHA256:00\n",
		"'u\n",
		"",
		"'u' a_1_all.deb 1 SHA256:zz\n",
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct package_files f;
		assert_int_not_equal(package_files_parse(view_str(bad[i]), &f, NULL), 0);
	}
	AUTO(mem_freep) char *file = path_join(w->dir, "record");
	struct package_record r = { .folder = mem_strdup("package-1"),
		.version = mem_strdup("1"),
		.package = mem_strdup("1-1"),
		.suite = mem_strdup("forky"),
		.loader = mem_strdup("a/b"),
		.library_path = mem_strdup("a:b"),
		.program = mem_strdup("c"),
		.backends = mem_strdup("d") },
			      back;
	assert_int_equal(package_record_write(file, &r), 0);
	assert_int_equal(package_record_read(file, &back), 0);
	assert_string_equal(back.library_path, "a:b");
	package_record_done(&back);
	static const char *const escapes[] = { "../x", "/etc", "a/../../b", "a:/b", "" };
	for (size_t i = 0; i < ARRAY_LEN(escapes); i++) {
		mem_setstr(&r.library_path, escapes[i]);
		assert_int_equal(package_record_write(file, &r), 0);
		assert_int_equal(package_record_read(file, &back), -ENOENT);
	}
	package_record_done(&r);
	assert_int_equal(apt_status_pct(VIEW("dlstatus:3:14.5107:Retrieving file 3 of 3")), 14);
	assert_int_equal(apt_status_pct(VIEW("dlstatus:3:400:x")), -1);
	assert_int_equal(apt_status_pct(VIEW("x")), -1);
}

/* ---- the real thing, on demand --------------------------------------------------------------- */

static int real_package(const char *dir)
{
	struct world w = { .loop = loop_new("real"),
		.deadline_ms = 600000,
		.loud = true,
		.opts = { .prefix_dir = mem_strdup(dir), .allow_cpu = true } };
	struct engine_def d = { .mode = ENGINE_MODE_PACKAGE };
	mono_t a = mono_now();
	world_start(&w, &d);
	world_run(&w);
	mono_t b = mono_now();
	fprintf(stderr, "first: %lld ms: %s\n", (long long)mono_ms_between(a, b),
		w.err.code ? w.err.msg : w.build.why);
	if (w.err.code)
		return 1;
	a = mono_now();
	world_start(&w, &d);
	world_run(&w);
	b = mono_now();
	fprintf(stderr, "again: %lld us: %s\n", (long long)((b.ns - a.ns) / 1000), w.build.why);
	printf("%s", w.build.program);
	for (size_t i = 0; i < w.build.prefix_args.len; i++)
		printf(" %s", w.build.prefix_args.items[i]);
	printf("\n");
	world_done(&w);
	return 0;
}

int main(void)
{
	const char *real = getenv("CORRAL_TEST_PACKAGE_DIR");
	if (real)
		return real_package(real);
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(gets_the_package_and_then_only_reads),
		CASE(goes_on_after_a_kill),
		CASE(cancel_ends_apt_and_leaves_nothing),
		CASE(two_jobs_share_one_fetch),
		CASE(refuses_an_older_release),
		CASE(explains_failures),
		CASE(auto_prefers_what_is_installed),
		CASE(auto_passes_over_a_broken_one),
		CASE(checks_external_and_command),
		CASE(reads_release_dates),
		CASE(reads_versions),
		CASE(carries_over_only_how_to_reach_archives),
		CASE(finds_the_archive_apt_uses),
		CASE(refuses_hostile_package_lists_and_records),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
