/* SPDX-License-Identifier: Apache-2.0
 *
 * The doctor's checks, each against a machine that is made for it: a folder for /, a list of GPUs, a
 * configuration. And the devices' table.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "cli/doctor.h"
#include "gpu/gpu_int.h"
#include "net/listen.h"

struct world {
	char dir[64];
	struct doctor d;
	struct gpu_list l;
};

static int set_up(void **state)
{
	struct world *w = NEW(struct world);
	memcpy(w->dir, "/tmp/corral-doc-XXXXXX", 23);
	assert_non_null(mkdtemp(w->dir));
	w->d.root = w->dir;
	w->d.sysfs = "/nowhere";
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	AUTO(mem_freep) char *rm = mem_fmt("rm -rf %s", w->dir);
	doctor_done(&w->d);
	assert_int_equal(system(rm), 0);
	free(w);
	return 0;
}

static void put(struct world *w, const char *path, const char *text)
{
	AUTO(mem_freep) char *at = doctor_path(&w->d, path);
	AUTO(mem_freep) char *dir = mem_strdup(at);
	*strrchr(dir, '/') = '\0';
	assert_int_equal(dir_make(dir, 0700), 0);
	assert_int_equal(file_write_atomic(at, view_str(text), 0600, false), 0);
}

static void load(struct world *w, const char *text, struct config **ret)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(mem_freep)
	char *all = mem_fmt(
		"state_dir: %s/state\nruntime_dir: %s/run\nmodels_dir: %s\n%s", w->dir, w->dir, w->dir, text);
	struct config_source src = { .path = "corral.yaml", .text = view_str(all) };
	assert_int_equal(config_load(&src, ret, &errs), 0);
	w->d.cfg = *ret;
}

/* The finding of that check whose message has these words. */
static const struct finding *find(const struct doctor *d, const char *check, const char *words)
{
	for (size_t i = 0; i < d->len; i++)
		if (strcmp(d->items[i].check, check) == 0 && strstr(d->items[i].message, words))
			return &d->items[i];
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	doctor_text(d, false, &b);
	fail_msg("no finding of %s says \"%s\":\n%s", check, words, buf_str(&b));
	return NULL;
}

static void check(
	const struct doctor *d, enum doctor_state s, const char *name, const char *words, const char *fix)
{
	const struct finding *f = find(d, name, words);
	assert_int_equal(f->state, s);
	if (s == DOCTOR_OK)
		assert_null(f->fix);
	else
		assert_non_null(strstr(f->fix, fix));
}

static struct gpu_device *gpu(struct world *w, enum gpu_kind kind, enum gpu_state s, const char *reason)
{
	struct gpu_device *g = gpu_list_add(&w->l, kind);
	snprintf(g->name, sizeof g->name, "Card");
	snprintf(g->reason, sizeof g->reason, "%s", reason);
	g->state = s;
	return g;
}

static void gpus_and_their_drivers(void **state)
{
	struct world *w = *state;
	AUTO(config_unrefp) struct config *cfg = NULL;
	load(w, "gpu: required\n", &cfg);
	check_gpus(&w->d, &w->l, true, NULL);
	check(&w->d, DOCTOR_FAIL, "gpu", "shows none", "gpu: auto");
	doctor_done(&w->d);
	w->d.cfg = NULL;
	check_gpus(&w->d, &w->l, true, "the NVIDIA driver does not answer, and its probe was killed 1 times");
	check(&w->d, DOCTOR_WARN, "gpu", "shows none: the NVIDIA driver does not answer", "hung driver");
	assert_int_equal(w->d.len, 1); /* not said to be without a GPU */
	w->d.cfg = cfg;
	struct gpu_device *a = gpu(w, GPU_CUDA, GPU_OK, "");
	snprintf(a->driver, sizeof a->driver, "550.54");
	snprintf(a->last_error, sizeof a->last_error, "Xid 79: gone");
	a->memory_total = 24 * GIB;
	a->ecc_uncorrected = 2;
	gpu(w, GPU_CUDA, GPU_UNUSABLE, "NVML: Driver/library version mismatch (18)");
	gpu(w, GPU_CUDA, GPU_UNUSABLE, "the kernel driver that holds it is nouveau");
	gpu(w, GPU_CUDA, GPU_LOST, "NVML: GPU is lost (15)");
	gpu(w, GPU_AMD, GPU_UNUSABLE, "no kernel driver holds it; amdgpu is needed");
	gpu(w, GPU_CUDA, GPU_UNUSABLE, "it is given to virtual machines (vfio-pci)")->given_away = true;
	put(w, "/sys/module/nvidia/version", "550.99\n");
	check_gpus(&w->d, &w->l, true, NULL);
	check(&w->d, DOCTOR_OK, "gpu", "GPU 0: Card, 24.0 GiB, driver 550.54", NULL);
	check(&w->d, DOCTOR_WARN, "gpu", "Xid 79", "dmesg");
	check(&w->d, DOCTOR_WARN, "gpu", "2 memory errors", "replace");
	check(&w->d, DOCTOR_FAIL, "gpu", "version mismatch", "restart the machine");
	check(&w->d, DOCTOR_FAIL, "gpu", "nouveau", "blacklists");
	check(&w->d, DOCTOR_FAIL, "gpu", "is lost", "Xid");
	check(&w->d, DOCTOR_FAIL, "gpu", "amdgpu is needed", "driver");
	check(&w->d, DOCTOR_OK, "gpu", "vfio-pci", NULL);
	check(&w->d, DOCTOR_FAIL, "driver", "550.99", "restart");
	put(w, "/sys/module/nvidia/version", "550.54\n");
	check_gpus(&w->d, &w->l, false, NULL);
	check(&w->d, DOCTOR_OK, "driver", "are 550.54", NULL);
	check(&w->d, DOCTOR_WARN, "gpu", "in time", "dmesg");
}

static void device_files(void **state)
{
	struct world *w = *state;
	check_gpu_files(&w->d, &w->l);
	assert_int_equal(w->d.len, 0); /* of no GPU none is needed */
	gpu(w, GPU_CUDA, GPU_OK, "");
	gpu(w, GPU_AMD, GPU_OK, "");
	put(w, "/dev/nvidiactl", "");
	put(w, "/dev/nvidia0", "");
	put(w, "/dev/nvidia-caps/x", "");
	put(w, "/dev/dri/renderD128", "");
	check_gpu_files(&w->d, &w->l);
	check(&w->d, DOCTOR_OK, "files", "/dev/nvidiactl", NULL);
	check(&w->d, DOCTOR_OK, "files", "/dev/nvidia0", NULL);
	check(&w->d, DOCTOR_FAIL, "files", "/dev/nvidia-uvm is not there", "nvidia-modprobe");
	check(&w->d, DOCTOR_FAIL, "files", "/dev/kfd is not there", "amdgpu");
	check(&w->d, DOCTOR_OK, "files", "/dev/dri/renderD128", NULL);
	assert_int_equal(w->d.len, 5);
	put(w, "/opt/rocm/.info/version", "6.4.1-83\n");
	check_toolkits(&w->d);
	check(&w->d, DOCTOR_OK, "toolkit", "ROCm 6.4.1-83", NULL);
}

static void ports(void **state)
{
	struct world *w = *state;
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(mem_freep) char *text = NULL;
	struct net_addr a;
	struct err e = { 0 };
	int fd = -1;
	assert_int_equal(net_addr_parse(VIEW("127.0.0.1:0"), &a, &e), 0);
	assert_int_equal(net_listen(&a, 0600, &fd, &e), 0);
	assert_int_equal(net_addr_of_socket(fd, &a), 0);
	text = mem_fmt("listen: [127.0.0.1:%u, 127.0.0.1:0, %s/a.sock]\n", a.port, w->dir);
	load(w, text, &cfg);
	check_ports(&w->d);
	check(&w->d, DOCTOR_FAIL, "ports", "in use", "end the program");
	check(&w->d, DOCTOR_OK, "ports", "127.0.0.1:0 is free", NULL);
	check(&w->d, DOCTOR_OK, "ports", "socket file", NULL);
	size_t failed = doctor_count(&w->d, DOCTOR_FAIL);
	w->d.daemon = true; /* it is ours */
	check_ports(&w->d);
	assert_int_equal(doctor_count(&w->d, DOCTOR_FAIL), failed);
	fd_close(fd);
}

static void engines(void **state)
{
	struct world *w = *state;
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(mem_freep) char *path = mem_strdup(getenv("PATH"));
	AUTO(mem_freep)
	char *text = mem_fmt("pools:\n- {id: a, model: a.gguf, engine: {path: %s/bin/llama-server}}\n"
			     "- {id: b, model: a.gguf, engine: {path: no-such-program}}\n"
			     "- {id: c, model: a.gguf, engine: {path: /nowhere/llama-server}}\n"
			     "- {id: d, model: a.gguf}\n",
		w->dir);
	AUTO(mem_freep) char *bin = mem_fmt("%s/bin", w->dir);
	AUTO(mem_freep) char *at = mem_fmt("%s/llama-server", bin);
	put(w, "/bin/llama-server", "#!/bin/sh\n");
	assert_int_equal(chmod(at, 0700), 0);
	load(w, text, &cfg);
	assert_int_equal(setenv("PATH", "/nowhere", 1), 0);
	check_engines(&w->d);
	check(&w->d, DOCTOR_OK, "engines", "pool a: ", NULL);
	check(&w->d, DOCTOR_FAIL, "engines", "no no-such-program in PATH", "pool b");
	check(&w->d, DOCTOR_FAIL, "engines", "/nowhere/llama-server", "pool c");
	check(&w->d, DOCTOR_WARN, "engines", "no llama-server was found", "install llama.cpp");
	assert_int_equal(setenv("PATH", bin, 1), 0);
	put(w, "/state/engines/b11669/record", "");
	check_engines(&w->d);
	check(&w->d, DOCTOR_OK, "engines", "llama-server: ", NULL);
	check(&w->d, DOCTOR_OK, "engines", "1 builds in ", NULL);
	assert_int_equal(setenv("PATH", path, 1), 0);
}

static void folders_limits_memory_clock(void **state)
{
	struct world *w = *state;
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(mem_freep) char *run = mem_fmt("%s/run", w->dir);
	load(w, "", &cfg);
	assert_int_equal(mkdir(run, 0700), 0);
	assert_int_equal(chmod(run, 0777), 0);
	put(w, "/sys/fs/cgroup/memory.max", "1073741824\n");
	check_folders(&w->d);
	check(&w->d, DOCTOR_OK, "folders", "will be made in", NULL);
	check(&w->d, DOCTOR_WARN, "folders", "others may write", "chmod 700");
	(void)find(&w->d, "disk", "of room");
	check_memory(&w->d);
	check(&w->d, DOCTOR_WARN, "memory", "1.0 GiB", "MemoryMax");
	check_clock(&w->d);
	(void)find(&w->d, "clock", "it shows 20");
	check_limits(&w->d);
	(void)find(&w->d, "limits", "files");
}

static void mistakes_and_how_it_is_told(void **state)
{
	struct world *w = *state;
	AUTO(config_errors_done) struct config_errors errs = { 0 }, none = { 0 };
	AUTO(buf_done) struct buf text = BUF(64 * KIB), json = BUF(64 * KIB);
	struct config *cfg = NULL;
	struct config_source src = { .path = "corral.yaml", .text = VIEW("pools:\n- {id: a, contxt: 4}\n") };
	assert_int_equal(config_load(&src, &cfg, &errs), -EINVAL);
	check_config(&w->d, &errs, &none);
	check(&w->d, DOCTOR_FAIL, "config", "corral.yaml:2", "config check");
	doctor_ok(&w->d, "x", "a \"quote\"\n\033[31m");
	doctor_text(&w->d, false, &text);
	assert_non_null(strstr(buf_str(&text), "fail  config"));
	assert_non_null(strstr(buf_str(&text), "fix: correct it"));
	assert_null(strchr(buf_str(&text), '\033'));
	doctor_json(&w->d, &json);
	assert_non_null(
		strstr(buf_str(&json), "{\"check\":\"x\",\"state\":\"ok\",\"message\":\"a \\\"quote\\\""));
	assert_non_null(strstr(buf_str(&json), "\"ok\":1,\"warn\":0,"));
	for (int i = 0; i < 2 * FINDINGS_MAX; i++)
		doctor_ok(&w->d, "x", "%d", i);
	assert_int_equal(w->d.len, FINDINGS_MAX);
	assert_true(w->d.dropped > FINDINGS_MAX);
}

/* ---- corral devices ------------------------------------------------------------------------------------ */

static void devices_are_told_with_their_trouble(void **state)
{
	(void)state;
	static const char body[] =
		"{\"devices\":[{\"index\":0,\"name\":\"A\",\"kind\":\"cuda\",\"state\":\"ok\",\"uuid\":\"GPU-"
		"a\","
		"\"power_w\":212.4,\"ecc_uncorrected\":2,\"last_error\":{\"message\":\"Xid 79: "
		"gone\",\"at\":\"2026\"},"
		"\"split\":true,\"links\":[{\"device\":\"GPU-b\",\"path\":\"switch\",\"fabric_links\":4}]},"
		"{\"index\":1,\"name\":\"B\",\"kind\":\"cuda\",\"state\":\"lost\",\"uuid\":\"GPU-b\","
		"\"reason\":\"gone\","
		"\"links\":[{\"device\":\"GPU-a\",\"path\":\"switch\",\"fabric_links\":4}]}]}";
	static const char *const words[] = { " 212W ", "A reported Xid 79: gone (2026).",
		"A had 2 memory errors", "A is divided", "B is lost: gone",
		"Between the GPUs:\n0 and 1: one PCI Express switch, 4 direct links\n" };
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	assert_int_equal(devices_table(view_str(body), false, &b), 0);
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (!strstr(buf_str(&b), words[i]))
			fail_msg("\"%s\" is missing in:\n%s", words[i], buf_str(&b));
	assert_null(strstr(buf_str(&b), "1 and 0")); /* each pair once */
	assert_int_equal(devices_table(VIEW("{}"), false, &b), -EINVAL);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = { T(gpus_and_their_drivers), T(device_files), T(ports), T(engines),
		T(folders_limits_memory_clock), T(mistakes_and_how_it_is_told),
		cmocka_unit_test(devices_are_told_with_their_trouble) };
	return cmocka_run_group_tests_name("doctor", tests, NULL, NULL);
}
