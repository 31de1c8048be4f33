/* SPDX-License-Identifier: Apache-2.0
 *
 * What is missing for a build: from facts that are made up, and from a folder that plays a machine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/preflight.h"

static void has(struct preflight_facts *f, enum preflight_tool t, const char *version)
{
	f->tools[t].path = mem_fmt("/usr/bin/%s", preflight_tool_name(t));
	f->tools[t].version = mem_strdup(version);
}

static void whole(struct preflight_facts *f)
{
	*f = (struct preflight_facts){ .distro = DISTRO_DEBIAN, .cpus = 8, .memory_available = 64 * GIB };
	has(f, TOOL_GIT, "2.39.5");
	has(f, TOOL_CMAKE, "3.25.1");
	has(f, TOOL_NINJA, "1.11.1");
	has(f, TOOL_CC, "12.2.0");
	has(f, TOOL_CXX, "12.2.0");
	f->disk_at = mem_strdup("/var/lib/corral");
	f->disk_free = 100 * GIB;
}

static void with_cuda(struct preflight_facts *f)
{
	whole(f);
	has(f, TOOL_NVCC, "13.0");
	f->cuda_root = mem_strdup("/usr/local/cuda-13.0");
	f->cuda_headers = true;
	f->nvcc_gcc_max = 15;
	f->nvcc_clang_max = 20;
	f->nvcc_archs = mem_strdup(" 75 80 86 89 90 100 120 ");
}

static const struct engine_device rtx = {
	.backend = ENGINE_CUDA, .name = "RTX 4090", .arch = "8.9", .driver = "580.65.06"
};

/* The report of f for that back end, as one text; f and r are done with afterwards. */
static char *said(struct preflight_facts *f, enum engine_backend b, const struct engine_device *d)
{
	AUTO(buf_done) struct buf text = BUF(64 * KIB);
	struct preflight_wish w = { .backend = b, .devices = d, .ndevices = d ? 1 : 0, .disk = 2 * GIB };
	struct preflight_report r;
	preflight_check(f, &w, &r);
	preflight_text(&r, &text);
	preflight_report_done(&r);
	preflight_facts_done(f);
	return buf_take(&text);
}

static void expect(
	struct preflight_facts *f, enum engine_backend b, const struct engine_device *d, const char *want)
{
	AUTO(mem_freep) char *text = said(f, b, d);
	if (want ? !strstr(text, want) : *text != '\0')
		fail_msg("\"%s\" is not \"%s\"", text, want ? want : "");
}

static void a_whole_machine_lacks_nothing(void **state)
{
	(void)state;
	struct preflight_facts f;
	whole(&f);
	expect(&f, ENGINE_CPU, NULL, NULL);
	with_cuda(&f);
	expect(&f, ENGINE_CUDA, &rtx, NULL);
}

static void everything_missing_is_told_at_once(void **state)
{
	(void)state;
	static const struct {
		enum preflight_distro d;
		const char *command;
	} want[] = {
		{ DISTRO_DEBIAN, "sudo apt-get install -y --no-install-recommends git cmake ninja-build gcc "
				 "libc6-dev g++ glslc libvulkan-dev spirv-headers" },
		{ DISTRO_UBUNTU, "sudo apt-get install -y --no-install-recommends git cmake ninja-build gcc "
				 "libc6-dev g++ glslc libvulkan-dev spirv-headers" },
		{ DISTRO_FEDORA, "sudo dnf install -y git cmake ninja-build gcc glibc-devel gcc-c++ glslc "
				 "vulkan-headers vulkan-loader-devel spirv-headers-devel" },
		{ DISTRO_ARCH,
			"sudo pacman -S --needed --noconfirm git cmake ninja gcc shaderc vulkan-headers "
			"vulkan-icd-loader spirv-headers" },
	};
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		struct preflight_facts f = { .distro = want[i].d };
		AUTO(mem_freep) char *text = said(&f, ENGINE_VULKAN, NULL);
		static const char *const names[] = { "git,", "cmake,", "neither ninja nor make", "cc,",
			"c++,", "glslc,", "vulkan.h", "spirv.hpp" };
		for (size_t k = 0; k < ARRAY_LEN(names); k++)
			if (!strstr(text, names[k]))
				fail_msg("\"%s\" does not name %s", text, names[k]);
		if (!strstr(text, want[i].command))
			fail_msg("\"%s\" is not \"%s\"", text, want[i].command);
	}
	struct preflight_facts other = { .distro = DISTRO_OTHER };
	AUTO(mem_freep) char *text = said(&other, ENGINE_CPU, NULL);
	assert_non_null(strstr(text, "git,"));
	assert_null(strstr(text, "to install"));
}

static void versions_must_do(void **state)
{
	(void)state;
	struct preflight_facts f;
	whole(&f);
	mem_setstr(&f.tools[TOOL_CMAKE].version, "3.9.6");
	expect(&f, ENGINE_CPU, NULL, "cmake 3.9.6 is too old: a CPU build needs 3.14 or newer");
	with_cuda(&f);
	mem_setstr(&f.tools[TOOL_CMAKE].version, "3.16");
	expect(&f, ENGINE_CUDA, &rtx, "a CUDA build needs 3.18");
	whole(&f);
	f.tools[TOOL_CC].broken = true;
	expect(&f, ENGINE_CPU, NULL, "cc, the C compiler, does not run: `/usr/bin/cc --version` fails");
	whole(&f);
	free(MEM_TAKE(f.tools[TOOL_NINJA].path));
	has(&f, TOOL_MAKE, "4.3");
	expect(&f, ENGINE_CPU, NULL, NULL);
	assert_true(preflight_version_cmp("3.9", "3.14") < 0);
	assert_int_equal(preflight_version_cmp("3.14", "3.14"), 0);
	assert_true(preflight_version_cmp("3.14.1", "3.14") > 0);
	assert_true(preflight_version_cmp("4", "3.14") > 0);
}

static void cuda_fits_together_or_it_is_said(void **state)
{
	(void)state;
	struct preflight_facts f;
	whole(&f);
	expect(&f, ENGINE_CUDA, &rtx,
		"nvcc, CUDA's compiler, is neither in PATH nor under /usr/local/cuda* or /opt/cuda; to "
		"install "
		"what "
		"is missing: sudo apt-get install -y --no-install-recommends nvidia-cuda-toolkit");
	with_cuda(&f);
	struct engine_device old = rtx;
	snprintf(old.driver, sizeof old.driver, "550.54.14");
	expect(&f, ENGINE_CUDA, &old,
		"the driver 550.54.14 of RTX 4090 is too old for the CUDA toolkit 13.0");
	with_cuda(&f);
	struct engine_device pascal = rtx;
	snprintf(pascal.arch, sizeof pascal.arch, "6.1");
	expect(&f, ENGINE_CUDA, &pascal, "does not compile for RTX 4090 (compute capability 6.1)");
	with_cuda(&f);
	f.cuda_headers = false;
	expect(&f, ENGINE_CUDA, &rtx, "cuda_runtime.h is not under /usr/local/cuda-13.0/include");
}

static void a_host_compiler_too_new_gives_way_to_an_older_one(void **state)
{
	(void)state;
	struct preflight_facts f;
	struct preflight_report r;
	struct preflight_wish w = { .backend = ENGINE_CUDA, .devices = &rtx, .ndevices = 1 };
	with_cuda(&f);
	mem_setstr(&f.tools[TOOL_CXX].version, "16.1.0");
	f.hosts[f.nhosts++] = (struct preflight_host){ .path = mem_strdup("/usr/bin/g++-13"), .major = 13 };
	f.hosts[f.nhosts++] = (struct preflight_host){
		.path = mem_strdup("/usr/bin/clang++-18"), .major = 18, .clang = true
	};
	f.hosts[f.nhosts++] = (struct preflight_host){ .path = mem_strdup("/usr/bin/g++-16"), .major = 16 };
	f.hosts[f.nhosts++] = (struct preflight_host){ .path = mem_strdup("/usr/bin/g++-14"), .major = 14 };
	preflight_check(&f, &w, &r);
	assert_int_equal(r.len, 0);
	assert_string_equal(r.cuda_host, "/usr/bin/g++-14");
	assert_non_null(strstr(r.notes.items[0], "gcc 16 is newer than CUDA 13.0 takes (15 at most)"));
	preflight_report_done(&r);
	for (size_t i = 0; i < f.nhosts; i++)
		free(f.hosts[i].path);
	f.nhosts = 0;
	preflight_check(&f, &w, &r);
	assert_int_equal(r.len, 1);
	assert_non_null(strstr(r.items[0].text, "no older one is here"));
	assert_string_equal(r.items[0].command, "sudo apt-get install -y g++-15");
	preflight_report_done(&r);
	preflight_facts_done(&f);
}

static void room_is_looked_at_first(void **state)
{
	(void)state;
	struct preflight_facts f;
	whole(&f);
	f.disk_free = 300 * MIB;
	expect(&f, ENGINE_CPU, NULL, "/var/lib/corral has 300 MiB free, and a CPU build takes about 2.0 GiB");
	whole(&f);
	assert_int_equal(preflight_jobs(&f, ENGINE_CPU, 0), 8);
	assert_int_equal(preflight_jobs(&f, ENGINE_CPU, 3), 3);
	f.memory_available = 7 * GIB;
	assert_int_equal(preflight_jobs(&f, ENGINE_CPU, 0), 4);
	assert_int_equal(preflight_jobs(&f, ENGINE_CUDA, 0), 2);
	f.memory_available = 100 * MIB;
	assert_int_equal(preflight_jobs(&f, ENGINE_CUDA, 16), 1);
	preflight_facts_done(&f);
}

static void tools_are_understood(void **state)
{
	(void)state;
	static const struct {
		enum preflight_tool t;
		const char *text, *version;
		bool clang;
	} cases[] = {
		{ TOOL_GIT, "git version 2.39.5\n", "2.39.5", false },
		{ TOOL_CMAKE, "cmake version 3.31.0-rc2\n\nCMake suite\n", "3.31.0", false },
		{ TOOL_NINJA, "1.11.1\n", "1.11.1", false },
		{ TOOL_MAKE, "GNU Make 4.3\nBuilt for\n", "4.3", false },
		{ TOOL_CC, "cc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022\n", "12.2.0", false },
		{ TOOL_CC, "gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)\n", "14.2.1", false },
		{ TOOL_CXX, "Debian clang version 14.0.6\nTarget: x86_64\n", "14.0.6", true },
		{ TOOL_CXX, "Ubuntu clang version 18.1.3 (1ubuntu1)\n", "18.1.3", true },
		{ TOOL_NVCC,
			"nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, "
			"V13.0.88\n",
			"13.0", false },
		{ TOOL_HIPCC, "HIP version: 6.3.42131-fa1d09cbd\nAMD clang version 18.0.0git\n", "6.3.42131",
			true },
		{ TOOL_GLSLC, "shaderc v2023.8 unknown hash\n", "2023.8", false },
		{ TOOL_CC, "nothing here\n", NULL, false },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		bool clang;
		AUTO(mem_freep)
		char *v = preflight_version_of(cases[i].t, view_str(cases[i].text), &clang);
		if (!str_same(v, cases[i].version) || clang != cases[i].clang)
			fail_msg("%s: %s", cases[i].text, v ? v : "none");
	}
	char gfx[16];
	preflight_gfx_of(110000, gfx);
	assert_string_equal(gfx, "gfx1100");
	preflight_gfx_of(90402, gfx);
	assert_string_equal(gfx, "gfx942");
	preflight_gfx_of(90010, gfx);
	assert_string_equal(gfx, "gfx90a");
	preflight_gfx_of(0, gfx);
	assert_string_equal(gfx, "");
	unsigned gcc, clang;
	preflight_hosts_of(VIEW("#if __GNUC__ > 15\n#if (__clang_major__ >= 21) || x\n"), &gcc, &clang);
	assert_int_equal(gcc, 15);
	assert_int_equal(clang, 20);
	assert_int_equal(preflight_distro_of(VIEW("NAME=x\nID=debian\n")), DISTRO_DEBIAN);
	assert_int_equal(preflight_distro_of(VIEW("ID=pika\nID_LIKE=\"ubuntu debian\"\n")), DISTRO_UBUNTU);
	assert_int_equal(preflight_distro_of(VIEW("ID=\"rocky\"\nID_LIKE=\"rhel fedora\"")), DISTRO_FEDORA);
	assert_int_equal(preflight_distro_of(VIEW("ID=arch")), DISTRO_ARCH);
	assert_int_equal(preflight_distro_of(VIEW("ID=nixos")), DISTRO_OTHER);
}

/* ---- a folder that plays a machine ---------------------------------------------------------------- */

struct world {
	struct loop *loop;
	struct preflight *p;
	struct preflight_facts facts;
	bool done;
};

static void on_facts(void *arg, struct preflight_facts *f)
{
	struct world *w = arg;
	w->facts = *f;
	w->done = true;
	loop_stop(w->loop);
}

static void put(const char *dir, const char *file, const char *text, mode_t mode)
{
	AUTO(mem_freep) char *full = path_join(dir, file);
	AUTO(mem_freep) char *folder = mem_strdup(full);
	*strrchr(folder, '/') = '\0';
	assert_int_equal(dir_make(folder, 0755), 0);
	assert_int_equal(file_write_atomic(full, view_str(text), mode, false), 0);
	assert_int_equal(chmod(full, mode), 0);
}

static void a_machine_is_looked_over(void **state)
{
	(void)state;
	char dir[] = "/tmp/corral-preflight-XXXXXX";
	assert_non_null(mkdtemp(dir));
	put(dir, "bin/git", "#!/bin/sh\necho git version 2.1.4\n", 0755);
	put(dir, "bin/cc", "#!/bin/sh\nexit 1\n", 0755);
	put(dir, "bin/g++-11", "", 0755);
	put(dir, "bin/g++-x", "", 0755);
	put(dir, "etc/os-release", "ID=fedora\n", 0644);
	static const char nvcc[] =
		"#!/bin/sh\n[ $1 = --list-gpu-arch ] && echo compute_86 && echo compute_90 && "
		"exit 0\necho Cuda compilation tools, release 12.4, V12.4.1\n";
	put(dir, "usr/local/cuda-12.4/bin/nvcc", nvcc, 0755);
	put(dir, "usr/local/cuda-9.2/bin/nvcc", nvcc, 0755);
	put(dir, "usr/local/cuda-12.4/include/cuda_runtime.h", "", 0644);
	put(dir, "usr/local/cuda-12.4/include/crt/host_config.h", "#if __GNUC__ > 13\n", 0644);
	put(dir, "usr/include/vulkan/vulkan.h", "", 0644);
	put(dir, "sys/class/kfd/kfd/topology/nodes/0/properties", "gfx_target_version 0\n", 0644);
	put(dir, "sys/class/kfd/kfd/topology/nodes/1/properties", "x 1\ngfx_target_version 110000\n", 0644);
	AUTO(mem_freep) char *path = mem_strdup(getenv("PATH"));
	AUTO(mem_freep) char *only = path_join(dir, "bin");
	setenv("PATH", only, 1);
	unsetenv("CUDA_HOME");
	unsetenv("CUDA_PATH");
	struct world w = { .loop = loop_new("test") };
	AUTO(mem_freep) char *deep = path_join(dir, "not/there/yet");
	preflight_collect(w.loop, dir, deep, on_facts, &w, &w.p);
	assert_false(w.done);
	loop_run(w.loop);
	setenv("PATH", path, 1);
	assert_true(w.done);
	assert_null(w.p);
	const struct preflight_facts *f = &w.facts;
	assert_string_equal(f->tools[TOOL_GIT].version, "2.1.4");
	assert_null(f->tools[TOOL_CMAKE].path);
	assert_true(f->tools[TOOL_CC].broken);
	assert_string_equal(f->tools[TOOL_NVCC].version, "12.4");
	assert_non_null(strstr(f->cuda_root, "/usr/local/cuda-12.4"));
	assert_true(f->cuda_headers && f->vulkan_headers && !f->spirv_headers);
	assert_int_equal(f->nvcc_gcc_max, 13);
	assert_string_equal(f->nvcc_archs, " 86 90 ");
	assert_int_equal(f->distro, DISTRO_FEDORA);
	assert_string_equal(f->gfx, "gfx1100");
	assert_int_equal(f->nhosts, 1);
	assert_int_equal(f->hosts[0].major, 11);
	assert_true(f->cpus > 0 && f->memory_available > 0 && f->disk_free > 0);
	assert_string_equal(f->disk_at, dir);
	preflight_facts_done(&w.facts);
	preflight_collect(w.loop, dir, dir, on_facts, &w, &w.p);
	preflight_cancel(&w.p);
	loop_free(w.loop);
	tree_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_whole_machine_lacks_nothing),
		cmocka_unit_test(everything_missing_is_told_at_once),
		cmocka_unit_test(versions_must_do),
		cmocka_unit_test(cuda_fits_together_or_it_is_said),
		cmocka_unit_test(a_host_compiler_too_new_gives_way_to_an_older_one),
		cmocka_unit_test(room_is_looked_at_first),
		cmocka_unit_test(tools_are_understood),
		cmocka_unit_test(a_machine_is_looked_over),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
