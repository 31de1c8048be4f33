/* SPDX-License-Identifier: Apache-2.0
 *
 * The source mode without git and compilers: what is asked for, which back end, which commit, what a build's
 * output says, what lies on the disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/builds.h"
#include "provision/engine/source.h"
#include "provision/fetch/fetch.h"

/* ---- what is asked for --------------------------------------------------------------------------- */

static void spec_of(struct source_spec *s, const char *repo, const char *ref, const char *const *flags)
{
	struct engine_def d = { .mode = ENGINE_MODE_SOURCE };
	struct err e = { 0 };
	d.source_repo = mem_strdup(repo);
	d.source_ref = mem_strdup(ref);
	for (; flags && *flags; flags++)
		strv_add(&d.source_flags, *flags);
	if (source_spec_init(s, &d, &e) < 0)
		fail_msg("%s", e.msg);
	engine_def_done(&d);
}

static void expect_refused(const char *repo, const char *ref, const char *flag, const char *why)
{
	struct engine_def d = { .mode = ENGINE_MODE_SOURCE };
	struct source_spec s;
	struct err e = { 0 };
	d.source_repo = mem_strdup(repo);
	d.source_ref = mem_strdup(ref);
	if (flag)
		strv_add(&d.source_flags, flag);
	assert_true(source_spec_init(&s, &d, &e) < 0);
	if (!strstr(e.msg, why))
		fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
	assert_null(strstr(e.msg, "S3CRET"));
	engine_def_done(&d);
}

static void repositories_and_refs_are_checked(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
		{ NULL, SOURCE_REPO_DEFAULT },
		{ "/srv/llama.cpp", "file:///srv/llama.cpp" },
		{ "file:/srv/llama.cpp", "file:///srv/llama.cpp" },
		{ "file:///srv/llama.cpp", "file:///srv/llama.cpp" },
		{ "git://h/l", "git://h/l" },
		{ "git@h:me/l", "git@h:me/l" },
		{ "ssh://git@h/l", "ssh://git@h/l" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct source_spec s;
		spec_of(&s, cases[i][0], NULL, NULL);
		assert_string_equal(s.repo, cases[i][1]);
		assert_int_equal(s.local, strncmp(cases[i][1], "file:", 5) == 0);
		source_spec_done(&s);
	}
	expect_refused(
		"ext::sh -c id", NULL, NULL, "engine.source.repo is \"ext::sh -c id\"; accepted: https://");
	expect_refused("--upload-pack=id", NULL, NULL, "engine.source.repo");
	expect_refused("-@x:y", NULL, NULL, "engine.source.repo");
	expect_refused("https://h/a b", NULL, NULL, "engine.source.repo");
	expect_refused("file:relative", NULL, NULL, "engine.source.repo");
	expect_refused("ftp://h/x", NULL, NULL, "engine.source.repo");
	expect_refused(
		"https://bob:S3CRET@h/x", NULL, NULL, "leave it out, and let git have it from ~/.netrc");
	expect_refused("http://T0KEN@h/x", NULL, NULL, "leave it out");
	expect_refused("ssh://me:S3CRET@h/x", NULL, NULL, "leave it out");
	expect_refused(NULL, "--help", NULL, "engine.source.ref is \"--help\"; accepted: a tag (b6123)");
	expect_refused(NULL, "a..b", NULL, "engine.source.ref");
	expect_refused(NULL, "x*", NULL, "engine.source.ref");
	expect_refused(NULL, NULL, "GGML_CUDA", "accepted: CMake's NAME=value");
	expect_refused(NULL, NULL, "-G=Ninja", "accepted: CMake's NAME=value");
	expect_refused(NULL, NULL, "A=b\nc", "control character");
}

static void flags_have_one_form(void **state)
{
	(void)state;
	static const char *const flags[] = { "-DZED=1", "LLAMA_CUBLAS=ON", "-D GGML_NATIVE:BOOL=OFF", "ZED=2",
		"LLAMA_CLBLAST=ON", "LLAMA_OPENBLAS=ON", "EMPTY=", NULL };
	static const char *const want[] = { "EMPTY=", "GGML_BLAS=ON", "GGML_BLAS_VENDOR=OpenBLAS",
		"GGML_CUDA=ON", "GGML_NATIVE=OFF", "ZED=2" };
	struct source_spec s;
	spec_of(&s, NULL, NULL, flags);
	assert_int_equal(s.flags.len, ARRAY_LEN(want));
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		assert_string_equal(s.flags.items[i], want[i]);
	assert_int_equal(s.notes.len, 3);
	assert_string_equal(s.notes.items[0], "engine.source.flags: LLAMA_CUBLAS is called GGML_CUDA now");
	assert_non_null(strstr(s.notes.items[1], "LLAMA_CLBLAST does not exist any more"));
	source_spec_done(&s);
}

static void expect_policy(const struct fetch_policy *p, const char *url, const char *why)
{
	struct err e = { 0 };
	int r = source_policy_check(url, p, &e);
	if (why ? r != -EPERM || !strstr(e.msg, why) : r != 0)
		fail_msg("%s: \"%s\" is not \"%s\"", url, e.msg, why ? why : "");
}

static void the_policy_holds_for_git_too(void **state)
{
	(void)state;
	struct fetch_policy p = { 0 };
	expect_policy(&p, "https://h.example/x", NULL);
	expect_policy(&p, "git://127.0.0.1:9418/x", NULL);
	expect_policy(&p, "git://h.example/x", "network.plain_http");
	expect_policy(&p, "http://h.example/x", "network.plain_http");
	p.plain_http = true;
	expect_policy(&p, "git://h.example/x", NULL);
	strv_add(&p.deny, "*.bad.example");
	strv_add(&p.deny, "h.example:444");
	expect_policy(&p, "https://u:p@git.Bad.example/x", "refused by network.deny: *.bad.example");
	expect_policy(&p, "me@git.bad.example:x/y", "refused by network.deny");
	expect_policy(&p, "https://bad.example/x", NULL);
	expect_policy(&p, "https://h.example:444/x", "refused by network.deny: h.example:444");
	expect_policy(&p, "https://h.example/x", NULL);
	strv_add(&p.allow_hosts, "h.example");
	expect_policy(&p, "https://other.example/x", "network.allow_hosts does not name it");
	expect_policy(&p, "https://h.example@other.example/x", "network.allow_hosts does not name it");
	expect_policy(&p, "file:///x", NULL);
	expect_policy(&p, "/srv/x", NULL);
	expect_policy(&p, "http://127.bad.other/x", "does not name it");
	strv_done(&p.deny);
	strv_done(&p.allow_hosts);
}

static void what_git_might_read_otherwise_is_refused(void **state)
{
	(void)state;
	static const char *const odd[] = { "https::https://h.example/x", "git+ssh://h.example/x",
		"HTTPS://h.example/x", "https://h.example#@good.example/x",
		"https://h.example?@good.example/x", "https://h.example\\@good.example/x",
		"ssh://%65vil.example/x", "https://2130706433/x", "https://0x7f.1/x", "https://127.1/x",
		"../beside", "beside", "", "https:///x", "ext::sh -c id", "[h.example]:x" };
	struct fetch_policy p = { 0 };
	for (size_t i = 0; i < ARRAY_LEN(odd); i++)
		expect_policy(&p, odd[i], "cannot be told");
	strv_add(&p.deny, "bad.example");
	expect_policy(&p, "https://bad.example./x", "refused by network.deny: bad.example");
	expect_policy(&p, "https://127.0.0.1/x", NULL);
	expect_policy(&p, "https://[::1]:8/x", NULL);
	strv_done(&p.deny);
	p.offline = true;
	expect_policy(&p, "https://h.example/x", "refused by network.offline");
	expect_policy(&p, "file:///x", NULL);
}

static void every_submodule_that_git_names_is_looked_at(void **state)
{
	(void)state;
	static const char listing[] = "submodule.a b.url\0submodule.x https://h.example/ y.url\n"
				      "https://o.example/x\0submodule.c.url\nfile:///c";
	struct fetch_policy p = { 0 };
	struct err e = { 0 };
	struct view all = view_of(listing, sizeof listing - 1), rest;
	assert_int_equal(source_policy_modules(view_of("", 0), &p, &e), 0);
	assert_int_equal(source_policy_modules(all, &p, &e), -EPERM); /* the first has no address */
	(void)view_split(all, '\0', &rest);
	assert_int_equal(source_policy_modules(rest, &p, &e), 0);
	strv_add(&p.allow_hosts, "h.example");
	assert_int_equal(source_policy_modules(rest, &p, &e), -EPERM);
	assert_non_null(strstr(e.msg, "o.example was not asked"));
	strv_done(&p.allow_hosts);
}

static void expect_archive(const struct fetch_policy *p, const char *url, const char *why)
{
	struct err e = { 0 };
	int r = source_policy_archive(url, p, &e);
	if (why ? r != -EPERM || !strstr(e.msg, why) : r != 0)
		fail_msg("%s: \"%s\" is not \"%s\"", url, e.msg, why ? why : "");
}

static void the_policy_holds_for_apt_too(void **state)
{
	(void)state;
	struct fetch_policy p = { 0 };
	expect_archive(&p, "http://deb.example/debian", NULL); /* it is signed */
	expect_archive(&p, "mirror+http://deb.example/list", NULL);
	assert_false(source_policy_bounds(&p));
	strv_add(&p.allow_hosts, "deb.example");
	assert_true(source_policy_bounds(&p));
	expect_archive(&p, "http://deb.example/debian", NULL);
	expect_archive(&p, "http://127.0.0.1:18461/debian", "network.allow_hosts does not name it");
	expect_archive(&p, "mirror+http://deb.example/list", "cannot be told");
	expect_archive(&p, "http://u:secret@deb.example%2f/", "cannot be told");
	expect_archive(&p, "file:/srv/debian", NULL);
	expect_archive(&p, "cdrom:[Debian]/", NULL);
	strv_add(&p.deny, "deb.example");
	expect_archive(&p, "https://deb.example/debian", "network.deny: deb.example");
	strv_done(&p.allow_hosts);
	strv_done(&p.deny);
}

/* ---- which commit -------------------------------------------------------------------------------- */

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccccccccccc"

static void a_ref_becomes_a_commit(void **state)
{
	(void)state;
	static const char said[] =
		A "\tHEAD\n" A "\trefs/heads/master\n" B "\trefs/tags/b99\n" A "\trefs/tags/b100\n" C
		  "\trefs/tags/b100^{}\n" B "\trefs/tags/b9\n" B "\trefs/tags/beta\nnonsense\n" B
		  "\trefs/heads/both\n" C "\trefs/tags/both\n";
	static const struct {
		const char *ref, *id, *name;
		uint64_t number;
	} cases[] = {
		{ NULL, C, "b100", 100 },
		{ "b99", B, "b99", 99 },
		{ "b100", C, "b100", 100 },
		{ "master", A, "master", 0 },
		{ "both", C, "both", 0 },
		{ "refs/heads/both", B, "both", 0 },
	};
	struct source_commit c;
	struct source_spec s;
	struct err e = { 0 };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		spec_of(&s, NULL, cases[i].ref, NULL);
		assert_int_equal(source_ref_resolve(&s, view_str(said), &c, &e), 0);
		if (strcmp(c.id, cases[i].id) != 0 || strcmp(c.name, cases[i].name) != 0 ||
			c.number != cases[i].number)
			fail_msg("%s: %s %s", cases[i].ref ? cases[i].ref : "none", c.id, c.name);
		source_commit_done(&c);
		source_spec_done(&s);
	}
	spec_of(&s, NULL, "b9999", NULL);
	assert_int_equal(source_ref_resolve(&s, view_str(said), &c, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "b9999 is neither a tag nor a branch of"));
	source_spec_done(&s);
	spec_of(&s, NULL, NULL, NULL);
	assert_int_equal(source_ref_resolve(&s, VIEW(A "\tHEAD\n"), &c, &e), 0);
	assert_string_equal(c.id, A);
	source_commit_done(&c);
	assert_int_equal(source_ref_resolve(&s, VIEW("\t\n\tx\n"), &c, &e), -ENOENT);
	source_spec_done(&s);
	assert_true(source_is_commit(A));
	assert_false(source_is_commit("b100"));
	assert_false(source_is_commit(NULL));
}

/* ---- the back end -------------------------------------------------------------------------------- */

static const struct engine_device cards[] = {
	{ .backend = ENGINE_CUDA, .name = "RTX 4090", .arch = "8.9" },
	{ .backend = ENGINE_CUDA, .name = "RTX 3060", .arch = "8.6" },
	{ .backend = ENGINE_CUDA, .name = "RTX 4080", .arch = "8.9" },
};
static const struct engine_device radeon = { .backend = ENGINE_HIP, .name = "RX 7900" };

struct choice {
	const char *flag;
	const struct engine_device *d;
	size_t n;
	bool cpu_instead;
	enum engine_backend want;
	const char *archs, *why;
};
static void expect_choice(struct preflight_facts *f, struct choice x)
{
	struct source_spec s;
	struct source_choice c;
	spec_of(&s, NULL, NULL, x.flag ? (const char *const[]){ x.flag, NULL } : NULL);
	source_choose(&s, f, x.d, x.n, x.cpu_instead, &c);
	if (c.backend != x.want || !str_same(c.archs, x.archs) || !strstr(c.why, x.why))
		fail_msg("%s, %s: \"%s\" is not \"%s\"", engine_backend_name(c.backend),
			c.archs ? c.archs : "no archs", c.why, x.why);
	source_choice_done(&c);
	source_spec_done(&s);
}

static void the_back_end_fits_what_is_here(void **state)
{
	(void)state;
	struct preflight_facts none = { 0 }, nvcc = { 0 }, hip = { 0 }, vulkan = { 0 };
	nvcc.tools[TOOL_NVCC].path = mem_strdup("/usr/local/cuda/bin/nvcc");
	nvcc.tools[TOOL_NVCC].version = mem_strdup("13.0");
	hip.tools[TOOL_HIPCC].path = mem_strdup("/opt/rocm/bin/hipcc");
	hip.gfx = mem_strdup("gfx1100");
	vulkan.tools[TOOL_GLSLC].path = mem_strdup("/usr/bin/glslc");
	vulkan.vulkan_headers = vulkan.spirv_headers = true;
	expect_choice(&none, (struct choice){ NULL, NULL, 0, false, ENGINE_CPU, NULL,
				     "the CPU, because this machine shows no GPU" });
	expect_choice(&nvcc,
		(struct choice){ NULL, NULL, 0, false, ENGINE_CPU, NULL, "(the CUDA toolkit 13.0 at" });
	expect_choice(&nvcc, (struct choice){ NULL, cards, 3, false, ENGINE_CUDA, "86;89",
				     "CUDA 13.0 for RTX 4090 (8.9)" });
	expect_choice(&none, (struct choice){ NULL, cards, 3, false, ENGINE_CUDA, "86;89",
				     "CUDA for RTX 4090" }); /* preflight says it */
	expect_choice(&none, (struct choice){ NULL, cards, 3, true, ENGINE_CPU, NULL,
				     "the CPU, because nvcc is not here: RTX 4090 is not used" });
	expect_choice(&vulkan, (struct choice){ NULL, cards, 1, false, ENGINE_VULKAN, NULL,
				       "Vulkan for RTX 4090, because nvcc is not here" });
	expect_choice(
		&hip, (struct choice){ NULL, &radeon, 1, false, ENGINE_HIP, "gfx1100", "HIP for RX 7900" });
	expect_choice(&nvcc, (struct choice){ NULL, &radeon, 1, false, ENGINE_HIP, NULL, "HIP for RX 7900" });
	expect_choice(&nvcc, (struct choice){ "GGML_CUDA=OFF", cards, 1, false, ENGINE_CPU, NULL,
				     "as engine.source.flags says" });
	expect_choice(&none, (struct choice){ "LLAMA_CUBLAS=1", NULL, 0, false, ENGINE_CUDA, NULL,
				     "CUDA, as engine.source.flags says" });
	expect_choice(&vulkan, (struct choice){ "GGML_VULKAN=ON", cards, 1, false, ENGINE_VULKAN, NULL,
				       "as engine.source.flags" });
	preflight_facts_done(&nvcc);
	preflight_facts_done(&hip);
	preflight_facts_done(&vulkan);
}

static void names_follow_from_what_goes_in(void **state)
{
	(void)state;
	struct preflight_facts f = { 0 };
	struct preflight_report r = { .cuda_host = mem_strdup("/usr/bin/g++-13") };
	struct source_spec s;
	struct source_choice c;
	AUTO(strv_done) struct strv defines = { 0 };
	char a[17], b[17];
	f.tools[TOOL_NVCC].path = mem_strdup("/opt/cuda/bin/nvcc");
	f.tools[TOOL_CC].version = mem_strdup("12.2.0");
	f.tools[TOOL_CXX].version = mem_strdup("12.2.0");
	static const char *const flags[] = { "BUILD_SHARED_LIBS=ON", "MINE=x y", NULL };
	spec_of(&s, NULL, NULL, flags);
	source_choose(&s, &f, cards, 3, false, &c);
	source_defines(&s, &c, &f, &r, &defines);
	static const char *const want[] = { "-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=86;89",
		"-DCMAKE_CUDA_COMPILER=/opt/cuda/bin/nvcc", "-DCMAKE_CUDA_HOST_COMPILER=/usr/bin/g++-13",
		"-DLLAMA_BUILD_SERVER=ON", "-DBUILD_SHARED_LIBS=ON", "-DMINE=x y" };
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		if (!strv_has(&defines, want[i]))
			fail_msg("%s is missing", want[i]);
	assert_false(strv_has(&defines, "-DBUILD_SHARED_LIBS=OFF")); /* theirs wins */
	source_build_hash(&s, &c, &f, &defines, A, a);
	source_build_hash(&s, &c, &f, &defines, A, b);
	assert_string_equal(a, b);
	source_build_hash(&s, &c, &f, &defines, B, b);
	assert_string_not_equal(a, b);
	mem_setstr(&f.tools[TOOL_CXX].version, "13.1.0"); /* another compiler is another build */
	source_build_hash(&s, &c, &f, &defines, A, b);
	assert_string_not_equal(a, b);
	source_choice_done(&c);
	source_spec_done(&s);
	preflight_report_done(&r);
	preflight_facts_done(&f);
}

/* ---- what is printed ----------------------------------------------------------------------------- */

static void expect_output(const char *text, const char *error, int pct)
{
	struct source_output o = { .pct = -1 };
	for (struct view rest = view_str(text); rest.p;)
		(void)source_output_line(&o, view_split(rest, '\n', &rest));
	const char *said = source_output_error(&o);
	if (!str_same(said, error) || o.pct != pct)
		fail_msg("\"%s\" (%d) is not \"%s\" (%d)", said ? said : "", o.pct, error ? error : "", pct);
	source_output_done(&o);
}

static void output_is_understood(void **state)
{
	(void)state;
	expect_output("[1/4] CC a.o\n[2/4] CC b.o\n", NULL, 50);
	expect_output("[ 12%] Building\n[100%] Linking\n", NULL, 100);
	expect_output("Receiving objects:  45% (9/20)\n", NULL, 45);
	expect_output("[x] nothing\n[5/0] nor this\n[999%] nor this\n", NULL, -1);
	expect_output(
		"[1/2] CC a.o\nFAILED: a.o \n/usr/bin/cc -c a.c\na.c:3:5: error: no\na.c:9:1: error: later\n"
		"ninja: build stopped\n",
		"a.c:3:5: error: no", 50);
	expect_output("/usr/bin/ld: x.o: undefined reference to `f'\ncollect2: error: ld returned 1\n",
		"/usr/bin/ld: x.o: undefined reference to `f'", -1);
	expect_output("make[2]: *** [x.make:7: a.o] Error 1\n", "make[2]: *** [x.make:7: a.o] Error 1", -1);
	expect_output("CMake Error at C.cmake:67 (message):\n  The C compiler\n\n    \"/bin/cc\"\n\n  is not "
		      "able.\n\n"
		      "Call Stack (most recent call first):\n  x.cmake\n-- Configuring incomplete\n",
		"CMake Error at C.cmake:67 (message): The C compiler \"/bin/cc\" is not able.", -1);
	expect_output("fatal: unable to access 'https://h/': refused\n",
		"fatal: unable to access 'https://h/': refused", -1);
	struct source_output o = { .pct = -1 };
	(void)source_output_line(&o, VIEW("error: x: No space left on device"));
	(void)source_output_line(&o, VIEW("g++: fatal error: Killed signal terminated program cc1plus"));
	assert_true(o.no_space && o.killed && !o.read_only);
	source_output_done(&o);
}

/* ---- what lies on the disk ----------------------------------------------------------------------- */

static void put_build(const char *prefix, const char *folder, const char *version, const char *commit)
{
	AUTO(mem_freep) char *dir = mem_fmt("%s/llamacpp/%s", prefix, folder);
	AUTO(mem_freep) char *bin = path_join(dir, "bin");
	AUTO(mem_freep) char *program = path_join(bin, "llama-server");
	AUTO(mem_freep) char *file = path_join(dir, "source.build");
	struct source_record r = { .folder = mem_strdup(folder),
		.version = mem_strdup(version),
		.commit = mem_strdup(commit),
		.repo = mem_strdup("file:///x"),
		.backend = mem_strdup("CUDA"),
		.archs = mem_strdup("86;89"),
		.program = mem_strdup("bin/llama-server"),
		.created = mem_strdup(version) };
	assert_int_equal(dir_make(bin, 0755), 0);
	assert_int_equal(file_write_atomic(program, VIEW("x"), 0755, false), 0);
	assert_int_equal(chmod(program, 0755), 0);
	assert_int_equal(source_record_write(file, &r), 0);
	source_record_done(&r);
}

static void make_current(const struct source_names *n, const char *folder)
{
	AUTO(mem_freep) char *file = mem_fmt("%s/%s/source.build", n->dir, folder);
	struct source_record r;
	assert_int_equal(source_record_read(file, &r), 0);
	assert_int_equal(source_make_current(n, &r), 0);
	source_record_done(&r);
}

static bool current_is(
	const struct source_names *n, const char *folder, const struct engine_device *d, size_t k)
{
	struct engine_build b = { 0 };
	bool there = source_provisioned(n, d, k, false, &b);
	there = there && strstr(b.program, folder) && !b.cpu_only;
	engine_build_done(&b);
	return there;
}

static void a_build_can_be_gone_back_to(void **state)
{
	(void)state;
	char prefix[] = "/tmp/corral-source-XXXXXX";
	assert_non_null(mkdtemp(prefix));
	struct source_spec s;
	struct source_names n;
	struct source_record r;
	struct err e = { 0 };
	spec_of(&s, "/x", NULL, NULL);
	source_names_init(&n, &s, prefix);
	put_build(prefix, "source-1111111111111111", "b1", A);
	put_build(prefix, "source-2222222222222222", "b2", B);
	assert_int_equal(source_rollback(&n, &r, &e), -ENOENT);
	make_current(&n, "source-1111111111111111");
	assert_true(current_is(&n, "source-1111", cards, 3));
	assert_true(current_is(&n, "source-1111", NULL, 0));
	struct engine_device newer = { .backend = ENGINE_CUDA, .name = "RTX 5090", .arch = "12.0" };
	assert_false(current_is(&n, "source-1111", &newer, 1)); /* it was not built for that one */
	make_current(&n, "source-2222222222222222");
	make_current(&n, "source-2222222222222222"); /* again: what was before stays */
	assert_true(current_is(&n, "source-2222", cards, 3));
	for (int i = 0; i < 3; i++) {
		assert_int_equal(source_rollback(&n, &r, &e), 0);
		assert_true(current_is(&n, i % 2 ? "source-2222" : "source-1111", cards, 3));
		source_record_done(&r);
	}
	struct engine_kepts kept;
	size_t at = 9;
	engine_kepts_read(prefix, &kept);
	assert_int_equal(kept.len, 2);
	assert_int_equal(engine_kepts_find(&kept, "b7", &at, &e), -ENOENT);
	assert_int_equal(engine_kepts_find(&kept, "source-", &at, &e), -EEXIST);
	assert_int_equal(engine_kepts_find(&kept, "1111", &at, &e), 0);
	assert_true(kept.items[at].current);
	assert_int_equal(engine_kepts_find(&kept, "b2", &at, &e), 0);
	assert_string_equal(kept.items[at].name, "source-2222222222222222");
	assert_true(kept.items[at].last && !kept.items[at].current);
	assert_int_equal(engine_kept_remove(prefix, &kept.items[at], &e), 0);
	engine_kepts_done(&kept);
	assert_int_equal(source_rollback(&n, &r, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "is not there any more"));
	struct source_builds all;
	source_builds_read(prefix, &all);
	assert_int_equal(all.len, 1);
	assert_true(all.items[0].current && all.items[0].bytes > 0);
	source_builds_done(&all);
	source_names_done(&n);
	source_spec_done(&s);
	tree_remove(prefix);
}

static void a_damaged_record_is_none(void **state)
{
	(void)state;
	char file[] = "/tmp/corral-record-XXXXXX";
	int fd = mkstemp(file);
	static const char *const bad[] = { "", "corral-source 2\n", "corral-source 1\nfolder source-1\n",
		"corral-source 1\nfolder ../x\ncommit a\nrepo r\nbackend CPU\nprogram bin/x\n",
		"corral-source 1\nfolder source-1/../x\ncommit a\nrepo r\nbackend CPU\nprogram bin/x\n",
		"corral-source 1\nfolder source-1\ncommit a\nrepo r\nbackend CPU\nprogram /bin/sh\n",
		"corral-source 1\nfolder source-1\ncommit a\nrepo r\nbackend CPU\nprogram ../../sh\n" };
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct source_record r;
		assert_int_equal(file_write_atomic(file, view_str(bad[i]), 0600, false), 0);
		assert_int_equal(source_record_read(file, &r), -ENOENT);
		assert_null(r.folder);
	}
	close(fd);
	unlink(file);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(repositories_and_refs_are_checked),
		cmocka_unit_test(flags_have_one_form),
		cmocka_unit_test(the_policy_holds_for_git_too),
		cmocka_unit_test(what_git_might_read_otherwise_is_refused),
		cmocka_unit_test(every_submodule_that_git_names_is_looked_at),
		cmocka_unit_test(the_policy_holds_for_apt_too),
		cmocka_unit_test(a_ref_becomes_a_commit),
		cmocka_unit_test(the_back_end_fits_what_is_here),
		cmocka_unit_test(names_follow_from_what_goes_in),
		cmocka_unit_test(output_is_understood),
		cmocka_unit_test(a_build_can_be_gone_back_to),
		cmocka_unit_test(a_damaged_record_is_none),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
