/* SPDX-License-Identifier: Apache-2.0
 *
 * The monitor with its real child (this program under another argument) and the stub library. What a test
 * waits for is a state, with a deadline; nothing sleeps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gpu/monitor.h"

enum { DEADLINE_MS = 60000 };

struct world {
	struct loop *l;
	struct gpu_monitor *m;
	struct loop_timer watchdog;
	char dir[64], *control, *sysfs;
	bool late;
	int64_t bus_ms;
	unsigned told_set, told_figures;
	bool (*until)(struct world *w);
};

static void on_late(void *arg)
{
	struct world *w = arg;
	w->late = true;
	loop_stop(w->l);
}

static void on_change(void *arg, unsigned what)
{
	struct world *w = arg;
	w->told_set += (what & GPU_CHANGED_SET) != 0;
	w->told_figures += (what & GPU_CHANGED_FIGURES) != 0;
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

static void say(struct world *w, const char *text)
{
	assert_int_equal(file_write_atomic(w->control, view_str(text), 0600, false), 0);
}

#define CARD0 "device|GPU-aaaa|NVIDIA Stub 24|00000000:01:00.0|24576|1024|10|50|8.9|0\n"
#define CARD1 "device|GPU-bbbb|NVIDIA Stub 12|00000000:02:00.0|12288|0|0|40|8.6|0\n"

static int set_up(void **state)
{
	struct world *w = NEW(struct world);
	memcpy(w->dir, "/tmp/corral-gpu-XXXXXX", 23);
	assert_non_null(mkdtemp(w->dir));
	w->control = path_join(w->dir, "control");
	w->sysfs = path_join(w->dir, "sys");
	assert_int_equal(setenv("CORRAL_NVML_STUB", w->control, 1), 0);
	assert_int_equal(setenv("CORRAL_NVML", NVML_STUB, 1), 0);
	w->l = loop_new("test");
	*state = w;
	return 0;
}

static void begin(struct world *w, bool always_ask)
{
	struct gpu_monitor_opts o = { .sysfs = w->sysfs,
		.always_ask = always_ask,
		.busy_ms = 20,
		.idle_ms = 20,
		.bus_ms = w->bus_ms ? w->bus_ms : 100,
		.silence_ms = 1000,
		.first_ms = 20000, /* a sanitized child on a busy machine needs seconds to start */
		.on_change = on_change,
		.arg = w };
	w->m = gpu_monitor_new(w->l, &o);
}

static int tear_down(void **state)
{
	struct world *w = *state;
	gpu_monitor_free(w->m);
	loop_free(w->l);
	AUTO(mem_freep) char *rm = mem_fmt("rm -rf %s", w->dir);
	assert_int_equal(system(rm), 0);
	free(w->control);
	free(w->sysfs);
	free(w);
	return 0;
}

static const struct gpu_device *at(struct world *w, size_t i)
{
	const struct gpu_list *l = gpu_monitor_list(w->m);
	return i < l->len ? &l->items[i] : NULL;
}

static bool is_known(struct world *w)
{
	return gpu_monitor_known(w->m);
}

static bool both_ok(struct world *w)
{
	const struct gpu_device *a = at(w, 0), *b = at(w, 1);
	return a && b && a->kind == GPU_CUDA && b->kind == GPU_CUDA && a->state == GPU_OK &&
	       b->state == GPU_OK;
}

static bool both_lost(struct world *w)
{
	const struct gpu_device *a = at(w, 0), *b = at(w, 1);
	return a && b && a->state == GPU_LOST && b->state == GPU_LOST;
}

static bool second_lost(struct world *w)
{
	const struct gpu_device *a = at(w, 0), *b = at(w, 1);
	return a && b && a->state == GPU_OK && b->state == GPU_LOST;
}

static bool first_is_full(struct world *w)
{
	return at(w, 0) && at(w, 0)->memory_used == 20480 * MIB;
}

static void two_gpus_and_moving_memory(void **state)
{
	struct world *w = *state;
	say(w, CARD1 CARD0 "process|GPU-aaaa|4711|900\nprocess|GPU-aaaa|4712|800\n");
	begin(w, true);
	assert_false(gpu_monitor_known(w->m));
	wait_for(w, both_ok);
	assert_true(is_known(w));
	assert_string_equal(at(w, 0)->uuid, "GPU-aaaa"); /* PCI order, not the library's */
	assert_string_equal(at(w, 0)->name, "NVIDIA Stub 24");
	assert_string_equal(at(w, 0)->compute_capability, "8.9");
	assert_string_equal(at(w, 0)->driver, "550.00");
	assert_true(at(w, 0)->memory_total == 24 * GIB && at(w, 0)->memory_used == GIB);
	assert_int_equal(at(w, 0)->processes[0].pid, 4711);
	assert_true(at(w, 0)->processes[0].bytes == 900 * MIB);
	assert_int_equal(at(w, 0)->nprocesses, 2);
	assert_int_equal(at(w, 0)->processes[1].pid, 4712);
	assert_int_equal(at(w, 1)->index, 1);
	assert_int_equal(at(w, 2)->kind, GPU_CPU);
	unsigned sets = w->told_set;
	say(w, "device|GPU-aaaa|NVIDIA Stub 24|00000000:01:00.0|24576|20480|99|70|8.9|0\n" CARD1);
	wait_for(w, first_is_full);
	assert_int_equal(w->told_set, sets); /* figures alone */
}

static bool knows_the_rest(struct world *w)
{
	return at(w, 2) && at(w, 2)->part == 1 && at(w, 1)->split;
}

static bool reports_an_error(struct world *w)
{
	return at(w, 0) && at(w, 0)->last_error[0];
}

static void power_errors_instances_and_links(void **state)
{
	struct world *w = *state;
	say(w, CARD0 CARD1 "power|GPU-aaaa|212000|450000\necc|GPU-aaaa|3|1\n"
			   "mig|MIG-cccc|Stub MIG 1g.6gb|00000000:02:00.0|6144|100|||8.6|0|GPU-bbbb\n"
			   "process|MIG-cccc|77|100\n"
			   "path|GPU-aaaa|GPU-bbbb|20\nnvlink|GPU-aaaa|00000000:02:00.0|2\n"
			   "nvlink|GPU-bbbb|00000000:ff:00.0|3\np2p|GPU-aaaa|GPU-bbbb\n");
	begin(w, true);
	wait_for(w, knows_the_rest);
	const struct gpu_device *a = at(w, 0), *b = at(w, 1), *part = at(w, 2);
	assert_true(a->power_mw == 212000 && a->power_limit_mw == 450000 && b->power_mw == -1);
	assert_true(a->ecc_corrected == 3 && a->ecc_uncorrected == 1 && b->ecc_corrected == -1);
	assert_int_equal(a->nlinks, 1);
	assert_string_equal(a->links[0].pci, b->pci);
	assert_int_equal(a->links[0].path, GPU_PATH_SWITCHES);
	assert_int_equal(a->links[0].fabric, 2);
	assert_int_equal(b->links[0].fabric, 3); /* through a switch */
	assert_string_equal(part->uuid, "MIG-cccc");
	assert_string_equal(part->parent, "0000:02:00.0");
	assert_true(part->memory_total == 6 * GIB && part->processes[0].pid == 77);
	assert_int_equal(at(w, 3)->kind, GPU_CPU);
	unsigned sets = w->told_set;
	assert_false(reports_an_error(w));
	say(w, CARD0 CARD1 "xid|GPU-aaaa|79|1\n");
	wait_for(w, reports_an_error);
	assert_string_equal(at(w, 0)->last_error, "Xid 79: the GPU has fallen off the bus");
	assert_true(at(w, 0)->last_error_at_ms > 0 && at(w, 0)->state == GPU_OK && w->told_set > sets);
}

static bool engine_holds(struct world *w)
{
	return at(w, 1) && at(w, 0)->memory_used == (1024 + 2000) * MIB && at(w, 1)->nprocesses == 1;
}

static bool engine_is_gone(struct world *w)
{
	return at(w, 0)->memory_used == 1024 * MIB && at(w, 0)->nprocesses == 0;
}

/* What end-to-end tests count on: the stub accounts memory to the engines that run, where they run. */
static void a_process_holds_memory_until_it_is_killed(void **state)
{
	struct world *w = *state;
	int in[2];
	char name[64];
	snprintf(name, sizeof name, "stub-engine-%d", (int)getpid());
	assert_int_equal(pipe(in), 0);
	pid_t pid = fork();
	if (!pid) {
		dup2(in[0], 0);
		close(in[1]);
		setenv("CUDA_VISIBLE_DEVICES", "GPU-aaaa,GPU-bbbb", 1);
		execl("/bin/sh", "sh", "-c", "read x", name, NULL);
		_exit(127);
	}
	AUTO(mem_freep) char *control = mem_fmt(CARD0 CARD1 "account\nengine|%s|4000\n", name);
	say(w, control);
	begin(w, true);
	wait_for(w, engine_holds);
	assert_int_equal(at(w, 0)->processes[0].pid, pid);
	assert_true(at(w, 1)->processes[0].bytes == 2000 * MIB);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	wait_for(w, engine_is_gone);
	close(in[0]);
	close(in[1]);
}

static void a_library_that_talks_is_heard_through(void **state)
{
	struct world *w = *state;
	say(w, "chatter\n" CARD0 CARD1);
	begin(w, true);
	wait_for(w, both_ok);
}

static void a_hang_is_killed_lost_and_comes_back(void **state)
{
	struct world *w = *state;
	say(w, CARD0 CARD1);
	begin(w, true);
	wait_for(w, both_ok);
	int child = gpu_monitor_child(w->m);
	assert_true(child > 0);
	say(w, "hang|memory\n" CARD0 CARD1);
	wait_for(w, both_lost);
	assert_non_null(strstr(at(w, 0)->reason, "does not answer"));
	assert_string_equal(at(w, 0)->uuid, "GPU-aaaa"); /* what was known of it stays */
	assert_int_not_equal(gpu_monitor_child(w->m), child);
	say(w, CARD0 CARD1);
	wait_for(w, both_ok);
}

static void a_crashing_library_is_lost_too(void **state)
{
	struct world *w = *state;
	say(w, CARD0 CARD1);
	begin(w, true);
	wait_for(w, both_ok);
	say(w, "crash|count\n" CARD0 CARD1);
	wait_for(w, both_lost);
	assert_non_null(strstr(at(w, 0)->reason, "crashed"));
}

/* Looked at every 20 ms; a child that is started again at once is there at each of them, or at the next. */
enum { PAUSE_LOOKS = 25 };

struct pause {
	struct world *w;
	struct loop_timer timer;
	unsigned looks;
};

static void on_look(void *arg)
{
	struct pause *p = arg;
	p->looks = gpu_monitor_child(p->w->m) ? 0 : p->looks + 1;
	if (p->looks == PAUSE_LOOKS)
		loop_stop(p->w->l);
	else
		loop_timer_start(p->w->l, &p->timer, 20, on_look, p);
}

static bool nothing(struct world *w)
{
	(void)w;
	return false;
}

static void one_that_answers_and_dies_is_not_started_without_end(void **state)
{
	struct world *w = *state;
	struct pause p = { .w = w };
	say(w, "crash|second\n" CARD0 CARD1);
	begin(w, true);
	on_look(&p);
	wait_for(w, nothing); /* until no child is there for a while */
	assert_true(both_ok(w));
	loop_timer_stop(&p.timer);
}

static void one_gpu_is_lost_the_other_not(void **state)
{
	struct world *w = *state;
	say(w, CARD0 CARD1);
	begin(w, true);
	wait_for(w, both_ok);
	say(w, CARD0 "device|GPU-bbbb|NVIDIA Stub 12|00000000:02:00.0|12288|0|0|40|8.6|15\n");
	wait_for(w, second_lost);
	assert_non_null(strstr(at(w, 1)->reason, "GPU is lost"));
	assert_string_equal(at(w, 1)->name, "NVIDIA Stub 12");
	say(w, CARD0 CARD1);
	wait_for(w, both_ok);
	say(w, CARD0 "device|GPU-bbbb|NVIDIA Stub 12|00000000:02:00.0|12288|0|0|40|8.6|16\n");
	wait_for(w, second_lost); /* not even a handle of it is left */
	assert_non_null(strstr(at(w, 1)->reason, "GPU is lost"));
	say(w, CARD0 CARD1);
	wait_for(w, both_ok);
	say(w, CARD0); /* it vanishes */
	wait_for(w, second_lost);
}

static void put(struct world *w, const char *pci, const char *name, const char *text)
{
	AUTO(mem_freep) char *dir = mem_fmt("%s/bus/pci/devices/%s", w->sysfs, pci);
	AUTO(mem_freep) char *path = mem_fmt("%s/%s", dir, name);
	assert_int_equal(dir_make(dir, 0700), 0);
	assert_int_equal(file_write_atomic(path, view_str(text), 0600, false), 0);
}

static void put_card(struct world *w, const char *pci)
{
	put(w, pci, "class", "0x030000\n");
	put(w, pci, "vendor", "0x10de\n");
	put(w, pci, "device", "0x2684\n");
}

static void without_a_gpu_no_child(void **state)
{
	struct world *w = *state;
	put(w, "0000:00:01.0", "class", "0x020000\n");
	begin(w, false);
	assert_int_equal(gpu_monitor_child(w->m), 0);
	assert_true(is_known(w));
	assert_int_equal(at(w, 0)->kind, GPU_CPU);
	AUTO(buf_done) struct buf b = BUF(4096);
	gpu_monitor_looked(w->m, &b);
	assert_non_null(strstr(buf_str(&b), "1 devices on the PCI bus"));
}

static bool is_hidden(struct world *w)
{
	return is_known(w) && at(w, 0)->state == GPU_UNUSABLE;
}

static bool no_child(struct world *w)
{
	return gpu_monitor_child(w->m) == 0;
}

static void the_drivers_own_words(void **state)
{
	struct world *w = *state;
	put_card(w, "0000:01:00.0");
	say(w, "init|18\n" CARD0);
	w->bus_ms = 2000;
	begin(w, false);
	wait_for(w, is_hidden);
	assert_non_null(strstr(at(w, 0)->reason, "Driver/library version mismatch"));
	assert_true(no_child(w)); /* none is kept for a driver that cannot be asked */
	say(w, CARD0 CARD1);
	wait_for(w, both_ok); /* with the next look at the bus */
}

static void no_library_and_an_old_one(void **state)
{
	struct world *w = *state;
	put_card(w, "0000:01:00.0");
	assert_int_equal(setenv("CORRAL_NVML", "/nowhere/libnvidia-ml.so.1", 1), 0);
	begin(w, false);
	wait_for(w, is_hidden);
	assert_non_null(strstr(at(w, 0)->reason, "/nowhere/libnvidia-ml.so.1"));
	gpu_monitor_free(w->m);
	assert_int_equal(setenv("CORRAL_NVML", NVML_STUB_OLD, 1), 0);
	begin(w, false);
	wait_for(w, is_hidden);
	assert_non_null(strstr(at(w, 0)->reason, "nvmlDeviceGetCount_v2"));
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "gpu-probe") == 0)
		return gpu_probe_main(argc - 1, argv + 1);
#define T(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)
	const struct CMUnitTest tests[] = { T(two_gpus_and_moving_memory),
		T(power_errors_instances_and_links), T(a_process_holds_memory_until_it_is_killed),
		T(a_library_that_talks_is_heard_through), T(a_hang_is_killed_lost_and_comes_back),
		T(a_crashing_library_is_lost_too), T(one_that_answers_and_dies_is_not_started_without_end),
		T(one_gpu_is_lost_the_other_not), T(without_a_gpu_no_child), T(the_drivers_own_words),
		T(no_library_and_an_old_one) };
	return cmocka_run_group_tests_name("gpu_monitor", tests, NULL, NULL);
}
