/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.mode auto: which way is taken on which machine, why the others were not, and what is not tried
 * twice. The machine is a folder: its programs are scripts, its drivers' files lie under
 * CORRAL_PREFLIGHT_ROOT.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "getting.h"
#include "provision/engine/auto.h"

#define IMAGE "ghcr.io/ggml-org/llama.cpp"
#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void ensure(struct world *w, enum engine_mode mode)
{
	struct engine_def d = world_def(w, mode);
	world_ensure(w, &d);
	engine_def_done(&d);
}

static void expect(const struct world *w, enum engine_mode mode, bool cpu_only, const char *why)
{
	if (w->err.code)
		fail_msg("%s", w->err.msg);
	if (!strstr(w->build.why, why))
		fail_msg("\"%s\" does not say \"%s\"", w->build.why, why);
	assert_int_equal(w->build.mode, mode);
	assert_int_equal(w->build.cpu_only, cpu_only);
}

static void put(const struct world *w, const char *name, const char *text)
{
	AUTO(mem_freep) char *p = path_join(w->dir, name);
	AUTO(mem_freep) char *folder = mem_strdup(p);
	*strrchr(folder, '/') = '\0';
	assert_int_equal(dir_make(folder, 0755), 0);
	assert_int_equal(file_write_atomic(p, view_str(text), 0755, false), 0);
}

static void put_server(const struct world *w, const char *list)
{
	put(w, "list", list);
	put(w, "bin/llama-server",
		"#!/bin/sh\nD=$(dirname \"$0\")/..\n"
		"if [ \"$1\" = --list-devices ]; then echo list >> \"$D/calls\"; exec cat \"$D/list\"; fi\n"
		"echo 'version: 5835 (abc)'\n");
}

/* podman that knows an image once it was pulled; "no-pull": the registry is not there. */
static void put_podman(const struct world *w)
{
	put(w, "bin/podman",
		"#!/bin/sh\nD=$(dirname \"$0\")/..\necho \"podman $*\" >> \"$D/calls\"\n"
		"[ -e \"$D/not-up\" ] && { echo 'cannot connect' >&2; exit 125; }\n"
		"case \"$1 $2\" in\n"
		"'image inspect') [ -e \"$D/pulled\" ] || { echo 'no such image' >&2; exit 125; }\n"
		"  echo '[\"" IMAGE "@sha256:" DIGEST "\"]';;\n"
		"pull*) [ -e \"$D/no-pull\" ] && { echo 'no route to registry' >&2; exit 125; }\n"
		"  : > \"$D/pulled\";;\n"
		"esac\nexit 0\n");
	put(w, "root/etc/cdi/nvidia.yaml", "cdiVersion: 0.6.0\n");
}

/* git, compilers and nvcc, all of which fail when they are run. */
static void put_toolkit(const struct world *w)
{
	static const char *const tools[] = { "git", "cmake", "ninja", "cc", "c++" };
	for (size_t i = 0; i < ARRAY_LEN(tools); i++) {
		AUTO(mem_freep) char *name = path_join("bin", tools[i]);
		put(w, name, "#!/bin/sh\necho \"tool $*\" >> \"$(dirname \"$0\")/../calls\"\nexit 1\n");
	}
	put(w, "root/usr/local/cuda/bin/nvcc", "#!/bin/sh\nexit 1\n");
}

static void expect_said(const struct world *w, enum engine_mode mode, const char *begins)
{
	struct engine_def d = world_def(w, mode);
	AUTO(mem_freep) char *said = engine_describe(&d, &w->opts);
	if (!view_starts(view_str(said), view_str(begins)))
		fail_msg("\"%s\" does not begin with \"%s\"", said, begins);
	engine_def_done(&d);
}

static int setup(void **state)
{
	struct world *w = NEW(struct world);
	world_init(w, "auto");
	unsetenv("CUDA_HOME");
	unsetenv("CUDA_PATH");
	fake_apt_set(w->dir, "package-list", "Available devices:\n");
	AUTO(mem_freep) char *root = path_join(w->dir, "root");
	setenv("CORRAL_PREFLIGHT_ROOT", root, 1);
	w->opts.ndevices = 1;
	w->devices[0] = (struct engine_device){ .backend = ENGINE_CUDA, .name = "RTX 4090", .arch = "8.9" };
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	world_done(*state);
	free(*state);
	return 0;
}

/* ---- what is installed --------------------------------------------------------------------------- */

static void one_that_lists_the_gpu_is_taken_and_asked_once(void **state)
{
	struct world *w = *state;
	put_server(w, "Available devices:\n  CUDA0: RTX 4090 (24081 MiB, 23000 MiB free)\n");
	put_podman(w);
	for (int i = 0; i < 2; i++) {
		ensure(w, ENGINE_MODE_AUTO);
		expect(w, ENGINE_MODE_BINARY, false, "found in PATH");
	}
	assert_int_equal(fake_apt_calls(w->dir, "list"), 1);
	w->opts.ndevices = 2; /* one more is there now */
	w->devices[1] = w->devices[0];
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_BINARY, false, "it lists 1 of 2 GPUs");
	assert_int_equal(fake_apt_calls(w->dir, "list"), 2);
	assert_int_equal(fake_apt_calls(w->dir, "podman"), 0);
}

static void without_a_gpu_nobody_asks(void **state)
{
	struct world *w = *state;
	w->opts.ndevices = 0;
	put_server(w, "Available devices:\n");
	put_podman(w);
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_BINARY, false, "found in PATH");
	assert_int_equal(fake_apt_calls(w->dir, "list"), 0);
}

static void one_that_lists_none_is_the_last_resort(void **state)
{
	struct world *w = *state;
	put_server(w, "Available devices:\n");
	expect_said(w, ENGINE_MODE_AUTO, "llama-server at ");
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_BINARY, true,
		"lists no GPU; no CUDA toolkit to build it with; "
		"neither podman nor docker in PATH; no Vulkan driver");
	AUTO(mem_freep)
	char *said = mem_fmt("llama-server at %s/bin/llama-server (CPU: it lists no GPU)", w->dir);
	expect_said(w, ENGINE_MODE_AUTO, said);
	w->opts.allow_cpu = false;
	ensure(w, ENGINE_MODE_AUTO);
	assert_int_equal(w->err.code, -ENODEV);
	assert_non_null(strstr(w->err.msg, "lists no GPU"));
	assert_non_null(strstr(w->err.msg, "a GPU is required"));
}

/* ---- containers and packages that can use it ------------------------------------------------------ */

static void a_container_can_use_what_the_installed_one_cannot(void **state)
{
	struct world *w = *state;
	put_server(w, "Available devices:\n  BLAS: OpenBLAS (0 MiB, 0 MiB free)\n");
	put_podman(w);
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_CONTAINER, false, "lists no GPU");
	assert_string_equal(w->build.image, IMAGE "@sha256:" DIGEST);
	assert_int_equal(fake_apt_calls(w->dir, "podman pull " IMAGE ":server-cuda"), 1);
	put(w, "root/usr/share/vulkan/icd.d/nvidia_icd.json", "{}");
	ensure(w, ENGINE_MODE_AUTO); /* what is there already comes first */
	expect(w, ENGINE_MODE_CONTAINER, false, IMAGE);
	put_toolkit(w); /* also before a build */
	expect_said(w, ENGINE_MODE_AUTO, "container: ");
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_CONTAINER, false, IMAGE);
	assert_int_equal(fake_apt_calls(w->dir, "podman pull"), 1);
}

static void a_way_that_fails_is_told_and_not_tried_for_an_hour(void **state)
{
	struct world *w = *state;
	put_podman(w);
	put(w, "no-pull", "");
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_PACKAGE, true, "no route to registry");
	assert_int_equal(fake_apt_calls(w->dir, "podman pull"), 1);
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_PACKAGE, true, "container failed 0 min ago");
	assert_int_equal(fake_apt_calls(w->dir, "podman pull"), 1);
	AUTO(mem_freep) char *no = path_join(w->dir, "no-pull");
	unlink(no);
	w->opts.again = true; /* somebody asked for it */
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_CONTAINER, false, IMAGE);
}

static void what_passes_by_itself_is_tried_at_every_start(void **state)
{
	struct world *w = *state;
	put_podman(w);
	put(w, "not-up", "");
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_PACKAGE, true, "does not work for this user");
	AUTO(mem_freep) char *not_up = path_join(w->dir, "not-up");
	unlink(not_up);
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_CONTAINER, false, IMAGE);
	put(w, "not-up", ""); /* nor is an image that is here left alone */
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_PACKAGE, true, "does not work for this user");
	unlink(not_up);
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_CONTAINER, false, IMAGE);
}

static void a_build_that_fails_is_not_the_end(void **state)
{
	struct world *w = *state;
	put_toolkit(w);
	expect_said(w, ENGINE_MODE_AUTO, "source: ");
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_PACKAGE, true, "llama.cpp cannot be built here");
	unsigned calls = fake_apt_calls(w->dir, "tool");
	assert_true(calls > 0);
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_PACKAGE, true, "source failed 0 min ago");
	assert_int_equal(fake_apt_calls(w->dir, "tool"), calls);
	ensure(w, ENGINE_MODE_SOURCE); /* asked for by name: it is the answer */
	assert_int_not_equal(w->err.code, 0);
	assert_true(fake_apt_calls(w->dir, "tool") > calls);
}

static void a_package_with_the_back_end_is_fetched_for_its_driver(void **state)
{
	struct world *w = *state;
	put(w, "root/usr/share/vulkan/icd.d/radeon_icd.x86_64.json", "{}");
	put(w, "package-list", "Available devices:\n  Vulkan0: RX 7900 (24560 MiB, 24000 MiB free)\n");
	w->devices[0].backend = ENGINE_HIP;
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_PACKAGE, false, "(Vulkan): no llama-server in PATH; no HIP toolkit");
	assert_non_null(strstr(w->build.program, "package-0.7.0+dfsg-2-vulkan/"));
	unsigned calls = fake_apt_calls(w->dir, "");
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_PACKAGE, false, "(Vulkan)");
	ensure(w, ENGINE_MODE_PACKAGE);
	expect(w, ENGINE_MODE_PACKAGE, false, "(Vulkan)");
	assert_int_equal(fake_apt_calls(w->dir, ""), calls);
}

static void a_back_end_that_finds_nothing_is_passed_over(void **state)
{
	struct world *w = *state;
	put(w, "root/etc/vulkan/icd.d/nvidia_icd.json", "{}");
	put(w, "package-list",
		"Available devices:\n  Vulkan0: llvmpipe (LLVM 15, 256 bits) (9 MiB, 9 MiB free)\n");
	ensure(w, ENGINE_MODE_PACKAGE);
	expect(w, ENGINE_MODE_PACKAGE, true,
		"(CPU): the distribution's package with a GPU back end lists no GPU");
	expect_said(w, ENGINE_MODE_PACKAGE, "package: Debian's llama.cpp 0.7.0 from forky (CPU)");
	w->opts.offline = true;
	ensure(w, ENGINE_MODE_AUTO); /* what is there is enough */
	expect(w, ENGINE_MODE_PACKAGE, true, "(CPU)");
}

static void nothing_can_be_had_and_all_of_it_is_told(void **state)
{
	struct world *w = *state;
	w->opts.offline = true;
	put_podman(w);
	ensure(w, ENGINE_MODE_AUTO);
	assert_int_equal(w->err.code, -ENETDOWN);
	assert_non_null(strstr(w->err.msg, "no llama-server in PATH"));
	assert_non_null(strstr(w->err.msg, "no image may be fetched"));
	assert_non_null(strstr(w->err.msg, "offline"));
}

/* ---- the system's package managers ---------------------------------------------------------------- */

static void another_package_manager_installs_it_where_it_may(void **state)
{
	struct world *w = *state;
	AUTO(mem_freep) char *only = path_join(w->dir, "only");
	w->opts.ndevices = 0;
	put(w, "server",
		"#!/bin/sh\n[ \"$1\" = --list-devices ] && echo 'Available devices:' && exit\n"
		"echo 'version: 6000 (abc)'\n");
	put(w, "only/dnf",
		"#!/bin/sh\necho \"dnf $*\" >> \"${0%/only/*}/calls\"\n"
		"[ -e \"${0%/only/*}/no-such\" ] && { echo 'No match for argument: llama-cpp' >&2; exit 1; "
		"}\n"
		"/bin/cp \"${0%/only/*}/server\" \"${0%/*}/llama-server\"\n");
	put(w, "only/sudo", "#!/bin/sh\nshift\nexec \"$@\"\n");
	setenv("PATH", only, 1);
	ensure(w, ENGINE_MODE_AUTO);
	assert_int_equal(w->err.code, -EPERM);
	assert_non_null(strstr(w->err.msg, "dnf -y install llama-cpp"));
	assert_non_null(strstr(w->err.msg, "allow_package_installs"));
	assert_int_equal(fake_apt_calls(w->dir, "dnf"), 0);
	w->opts.allow_package_installs = true;
	w->opts.look = true; /* a question installs nothing */
	ensure(w, ENGINE_MODE_PACKAGE);
	assert_int_equal(w->err.code, -ENOENT);
	assert_int_equal(fake_apt_calls(w->dir, "dnf"), 0);
	w->opts.look = false;
	put(w, "no-such", "");
	ensure(w, ENGINE_MODE_PACKAGE);
	assert_int_equal(w->err.code, -EIO);
	assert_non_null(strstr(w->err.msg, "No match for argument"));
	AUTO(mem_freep) char *no = path_join(w->dir, "no-such");
	unlink(no);
	ensure(w, ENGINE_MODE_PACKAGE);
	expect(w, ENGINE_MODE_BINARY, false, "installed by the system's package manager");
	assert_string_equal(w->build.version, "b6000");
	assert_int_equal(fake_apt_calls(w->dir, "dnf -y install llama-cpp"), 2);
	unlink(no);
	AUTO(mem_freep) char *server = path_join(w->dir, "only/llama-server");
	unlink(server);
	w->opts.ndevices = 1; /* what it installs is asked, too */
	ensure(w, ENGINE_MODE_AUTO);
	expect(w, ENGINE_MODE_BINARY, true, "installed by the system's package manager");
}

/* ---- small things ---------------------------------------------------------------------------------- */

static void lists_are_read(void **state)
{
	(void)state;
	assert_int_equal(auto_devices_parse(VIEW("")), 0);
	assert_int_equal(auto_devices_parse(VIEW("  CUDA0: before the list (1 MiB, 1 MiB free)\n")), 0);
	assert_int_equal(auto_devices_parse(VIEW("ggml_cuda_init: found 2\nAvailable devices:\n"
						 "  CUDA0: RTX 3080 Ti (11909 MiB, 11650 MiB free)\n"
						 "  CUDA1: RTX PRO 4000 (24026 MiB, 23795 MiB free)\n"
						 "  RPC0: 10.0.0.1:50052 (1 MiB, 1 MiB free)\n"
						 "load_backend: loaded CUDA\n")),
		2);
	assert_int_equal(auto_devices_parse(VIEW("Available devices:\n  (none)\n")), 0);
}

static void one_back_end_for_all(void **state)
{
	(void)state;
	struct engine_device d[2] = { { .backend = ENGINE_CUDA }, { .backend = ENGINE_HIP } };
	assert_int_equal(auto_backend(d, 0), ENGINE_CPU);
	assert_int_equal(auto_backend(d, 1), ENGINE_CUDA);
	assert_int_equal(auto_backend(d, 2), ENGINE_VULKAN);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(one_that_lists_the_gpu_is_taken_and_asked_once),
		CASE(without_a_gpu_nobody_asks),
		CASE(one_that_lists_none_is_the_last_resort),
		CASE(a_container_can_use_what_the_installed_one_cannot),
		CASE(a_way_that_fails_is_told_and_not_tried_for_an_hour),
		CASE(what_passes_by_itself_is_tried_at_every_start),
		CASE(a_build_that_fails_is_not_the_end),
		CASE(a_package_with_the_back_end_is_fetched_for_its_driver),
		CASE(a_back_end_that_finds_nothing_is_passed_over),
		CASE(nothing_can_be_had_and_all_of_it_is_told),
		CASE(another_package_manager_installs_it_where_it_may),
		cmocka_unit_test(lists_are_read),
		cmocka_unit_test(one_back_end_for_all),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
