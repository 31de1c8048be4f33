/* SPDX-License-Identifier: Apache-2.0
 *
 * AMD's GPUs: both libraries through their real loaders (the stubs), sysfs where neither is there, and the
 * monitor with a child for each maker. What a test waits for is a state, with a deadline; nothing sleeps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gpu/gpu_int.h"
#include "gpu/monitor.h"

enum { DEADLINE_MS = 60000 };

struct world {
	char dir[64], *control, *nvidia, *sysfs;
	struct gpu_sample *s;
	struct loop *l;
	struct gpu_monitor *m;
	struct loop_timer watchdog;
	bool late;
	bool (*until)(struct world *w);
};

static void put(struct world *w, const char *folder, const char *name, const char *text)
{
	AUTO(mem_freep) char *dir = mem_fmt("%s/%s", w->sysfs, folder);
	AUTO(mem_freep) char *path = mem_fmt("%s/%s", dir, name);
	assert_int_equal(dir_make(dir, 0700), 0);
	assert_int_equal(file_write_atomic(path, view_str(text), 0600, false), 0);
}

static void put_card(struct world *w, const char *pci, const char *vendor, const char *driver)
{
	AUTO(mem_freep) char *dir = mem_fmt("bus/pci/devices/%s", pci);
	AUTO(mem_freep) char *link = mem_fmt("%s/%s/driver", w->sysfs, dir);
	AUTO(mem_freep) char *to = mem_fmt("/nowhere/%s", driver);
	put(w, dir, "class", "0x038000\n");
	put(w, dir, "vendor", vendor);
	put(w, dir, "device", "0x744c\n");
	assert_int_equal(symlink(to, link), 0);
}

static void say(struct world *w, const char *text)
{
	assert_int_equal(file_write_atomic(w->control, view_str(text), 0600, false), 0);
}

static int set_up(void **state)
{
	struct world *w = NEW(struct world);
	memcpy(w->dir, "/tmp/corral-amd-XXXXXX", 23);
	assert_non_null(mkdtemp(w->dir));
	w->control = path_join(w->dir, "control");
	w->nvidia = path_join(w->dir, "nvidia");
	w->sysfs = path_join(w->dir, "sys");
	w->s = NEW(struct gpu_sample);
	assert_int_equal(setenv("CORRAL_AMD_STUB", w->control, 1), 0);
	assert_int_equal(setenv("CORRAL_NVML_STUB", w->nvidia, 1), 0);
	assert_int_equal(setenv("CORRAL_AMD_SMI", AMD_SMI_STUB, 1), 0);
	assert_int_equal(setenv("CORRAL_ROCM_SMI", ROCM_SMI_STUB, 1), 0);
	assert_int_equal(setenv("CORRAL_NVML", NVML_STUB, 1), 0);
	put_card(w, "0000:03:00.0", "0x1002\n", "amdgpu");
	put_card(w, "0000:83:00.0", "0x1002\n", "amdgpu");
	*state = w;
	return 0;
}

static int tear_down(void **state)
{
	struct world *w = *state;
	gpu_monitor_free(w->m);
	if (w->l)
		loop_free(w->l);
	AUTO(mem_freep) char *rm = mem_fmt("rm -rf %s", w->dir);
	assert_int_equal(system(rm), 0);
	free(w->control);
	free(w->nvidia);
	free(w->sysfs);
	free(w->s);
	free(w);
	return 0;
}

#define CARD0 "device|00aa11bb22cc33dd|Radeon Stub 24|0000:03:00.0|24576|1024|37|55|180|0\n"
#define CARD1 "device|99aa11bb22cc33dd|Radeon Stub 16|0000:83:00.0|16384|0|||\n"

/* What the child would say; through its line. */
static bool sample(struct world *w)
{
	struct amd *a = amd_open(w->sysfs);
	AUTO(buf_done) struct buf b = BUF(GPU_LINE_MAX);
	struct err e = { 0 };
	bool again = amd_read(a, w->s);
	amd_close(a);
	assert_int_equal(gpu_sample_encode(w->s, &b), 0);
	assert_int_equal(gpu_sample_decode(buf_view(&b), w->s, &e), 0);
	return again;
}

static void check_cards(const struct gpu_sample *s)
{
	const struct gpu_device *a = &s->list.items[0], *b = &s->list.items[1];
	assert_int_equal(s->list.len, 2);
	assert_int_equal(a->kind, GPU_AMD);
	assert_string_equal(a->name, "Radeon Stub 24");
	assert_true(a->memory_total == 24 * GIB && a->memory_used == GIB && a->memory_free == 23 * GIB);
	assert_true(a->utilization > 0.36 && a->utilization < 0.38 && b->utilization < 0);
	assert_int_equal(a->temperature_c, 55);
	assert_int_equal(b->temperature_c, GPU_TEMPERATURE_UNKNOWN);
	assert_true(a->power_mw == 180000 && b->power_mw == -1);
	assert_int_equal(a->nprocesses, 2);
	assert_int_equal(a->processes[0].pid, 4711);
	assert_true(a->processes[0].bytes == 700 * MIB && a->processes[1].bytes == 300 * MIB);
	assert_int_equal(b->nprocesses, 1);
	assert_int_equal(a->links[0].fabric, 1);
	assert_string_equal(a->links[0].pci, "0000:83:00.0");
}

#define REST                                                                                                 \
	"process|0000:03:00.0|4711|700\nprocess|0000:03:00.0|4712|300\nprocess|0000:83:00.0|4711|9\n"        \
	"xgmi|0000:83:00.0|0000:03:00.0\n"

static void amd_smi_says(void **state)
{
	struct world *w = *state;
	say(w, CARD1 CARD0 REST "ecc|0000:03:00.0|4|1\n");
	assert_false(sample(w));
	check_cards(w->s);
	assert_true(w->s->list.items[0].ecc_corrected == 4 && w->s->list.items[0].ecc_uncorrected == 1);
	assert_true(w->s->list.items[1].ecc_corrected == -1);
	assert_string_equal(w->s->note, "");
	assert_true(memcmp(w->s->list.items[0].uuid, "GPU-00aa11bb22cc33dd", 20) == 0);
	say(w, "old\n" CARD1 CARD0 REST);
	assert_false(sample(w));
	check_cards(w->s);
	/* The kernel's form is what ROCm's own variables take. */
	put(w, "bus/pci/devices/0000:03:00.0", "unique_id", "aa11bb22cc33dd\n");
	assert_false(sample(w));
	assert_string_equal(w->s->list.items[0].uuid, "GPU-aa11bb22cc33dd");
}

static void rocm_smi_says(void **state)
{
	struct world *w = *state;
	assert_int_equal(setenv("CORRAL_AMD_SMI", "/nowhere/libamd_smi.so", 1), 0);
	say(w, CARD1 CARD0 REST);
	assert_false(sample(w));
	check_cards(w->s);
	assert_string_equal(w->s->list.items[0].uuid, "GPU-00aa11bb22cc33dd");
}

static void sysfs_says(void **state)
{
	struct world *w = *state;
	assert_int_equal(setenv("CORRAL_AMD_SMI", "/nowhere/libamd_smi.so", 1), 0);
	assert_int_equal(setenv("CORRAL_ROCM_SMI", NVML_STUB, 1), 0); /* a library, and not that one */
	put(w, "bus/pci/devices/0000:03:00.0", "mem_info_vram_total", "17163091968\n");
	put(w, "bus/pci/devices/0000:03:00.0", "mem_info_vram_used", "1000000000\n");
	put(w, "bus/pci/devices/0000:03:00.0", "gpu_busy_percent", "42\n");
	put(w, "bus/pci/devices/0000:03:00.0/hwmon/hwmon2", "power1_input", "33000000\n");
	put(w, "class/kfd/kfd/topology/nodes/0", "gpu_id", "0\n"); /* the processor */
	put(w, "class/kfd/kfd/topology/nodes/1", "gpu_id", "51234\n");
	put(w, "class/kfd/kfd/topology/nodes/1", "properties",
		"cpu_cores_count 0\nlocation_id 768\ndomain 0\nunique_id 1\n");
	put(w, "class/kfd/kfd/proc/4711", "vram_51234", "900000000\n");
	put(w, "class/kfd/kfd/proc/4712", "vram_51234", "0\n");
	put(w, "class/kfd/kfd/proc/4713", "vram_999", "5\n");
	assert_false(sample(w));
	const struct gpu_device *d = &w->s->list.items[0];
	assert_true(d->memory_total == 17163091968u && d->power_mw == 33000 && d->utilization > 0.41);
	assert_int_equal(d->nprocesses, 1);
	assert_int_equal(d->processes[0].pid, 4711);
	assert_non_null(strstr(w->s->note, "/nowhere/libamd_smi.so"));
	assert_non_null(strstr(w->s->note, "lacks rsmi_init"));
}

static void a_gpu_that_is_gone(void **state)
{
	struct world *w = *state;
	say(w, CARD0 "device|99aa|Radeon Stub 16|0000:83:00.0|16384|0||||31\n");
	assert_true(sample(w)); /* asked anew next time */
	assert_int_equal(w->s->list.items[0].state, GPU_OK);
	assert_int_equal(w->s->list.items[1].state, GPU_LOST);
	assert_non_null(strstr(w->s->list.items[1].reason, "the device was not found (31)"));
	put(w, "bus/pci/devices/0000:83:00.0", "mem_info_vram_total", "17163091968\n");
	(void)sample(w); /* the kernel knows better */
	assert_int_equal(w->s->list.items[1].state, GPU_OK);
	assert_true(w->s->list.items[1].memory_total == 17163091968u);
	say(w, "count|31\n" CARD0);
	assert_true(sample(w));
	assert_non_null(strstr(w->s->note, "AMD SMI"));
	say(w, "init|18\n" CARD0);
	(void)sample(w); /* neither library comes up */
	assert_non_null(strstr(w->s->note, "ROCm SMI"));
}

/* ---- the monitor --------------------------------------------------------------------------------------- */

static void on_late(void *arg)
{
	struct world *w = arg;
	w->late = true;
	loop_stop(w->l);
}

static void on_change(void *arg, unsigned what)
{
	struct world *w = arg;
	(void)what;
	if (w->until && w->until(w))
		loop_stop(w->l);
}

static void wait_for(struct world *w, bool (*until)(struct world *w))
{
	w->until = until;
	if (until(w))
		return;
	loop_timer_start(w->l, &w->watchdog, DEADLINE_MS, on_late, w);
	assert_int_equal(loop_run(w->l), 0);
	loop_timer_stop(&w->watchdog);
	if (w->late)
		fail_msg("the state waited for never came");
}

static enum gpu_state state_of(struct world *w, enum gpu_kind kind)
{
	const struct gpu_list *l = gpu_monitor_list(w->m);
	for (size_t i = 0; i < l->len; i++)
		if (l->items[i].kind == kind)
			return l->items[i].state;
	return GPU_UNUSABLE;
}

static bool both_makers(struct world *w)
{
	const struct gpu_list *l = gpu_monitor_list(w->m);
	return gpu_monitor_known(w->m) && l->len == 4 && state_of(w, GPU_CUDA) == GPU_OK &&
	       l->items[1].memory_total == 24 * GIB && l->items[1].state == GPU_OK;
}

static bool amd_lost(struct world *w)
{
	return gpu_monitor_known(w->m) && state_of(w, GPU_AMD) == GPU_LOST;
}

static bool nvidia_lost(struct world *w)
{
	return gpu_monitor_known(w->m) && state_of(w, GPU_CUDA) == GPU_LOST;
}

static void one_makers_trouble_is_not_the_others(void **state)
{
	struct world *w = *state;
	struct gpu_monitor_opts o = { .sysfs = w->sysfs,
		.busy_ms = 20,
		.idle_ms = 20,
		.bus_ms = 100,
		.silence_ms = 1000,
		.first_ms = 20000,
		.on_change = on_change,
		.arg = w };
	const char *nvidia = "device|GPU-aaaa|NVIDIA Stub|00000000:01:00.0|24576|1024|10|50|8.9|0\n";
	put_card(w, "0000:01:00.0", "0x10de\n", "nvidia");
	say(w, CARD0 CARD1 REST);
	assert_int_equal(file_write_atomic(w->nvidia, view_str(nvidia), 0600, false), 0);
	w->l = loop_new("test");
	w->m = gpu_monitor_new(w->l, &o);
	wait_for(w, both_makers);
	const struct gpu_device *d = &gpu_monitor_list(w->m)->items[1];
	assert_string_equal(d->driver, "amdgpu");
	assert_true(d->nprocesses == 2 && d->nlinks == 1 && d->index == 1 && d->vendor_index == 0);
	say(w, "hang|memory\n" CARD0 CARD1);
	wait_for(w, amd_lost);
	assert_int_equal(state_of(w, GPU_CUDA), GPU_OK);
	assert_non_null(strstr(gpu_monitor_list(w->m)->items[1].reason, "AMD driver does not answer"));
	say(w, CARD0 CARD1);
	wait_for(w, both_makers);
	AUTO(mem_freep) char *crash = mem_fmt("crash|count\n%s", nvidia);
	assert_int_equal(file_write_atomic(w->nvidia, view_str(crash), 0600, false), 0);
	wait_for(w, nvidia_lost);
	assert_int_equal(state_of(w, GPU_AMD), GPU_OK);
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "gpu-probe") == 0)
		return gpu_probe_main(argc - 1, argv + 1);
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = { T(amd_smi_says), T(rocm_smi_says), T(sysfs_says),
		T(a_gpu_that_is_gone), T(one_makers_trouble_is_not_the_others) };
	return cmocka_run_group_tests_name("gpu_amd", tests, NULL, NULL);
}
