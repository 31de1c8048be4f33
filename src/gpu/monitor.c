/* SPDX-License-Identifier: Apache-2.0
 *
 * The child's life, and when what is looked at.
 */
#include "gpu/monitor.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gpu/gpu_int.h"

enum {
	BUSY_MS = 1000,
	IDLE_MS = 10000,
	BUS_MS = 60000,
	SILENCE_MS = 2000,
	FIRST_MS = 10000,
	STRIKES_MAX = 3, /* rounds without an answer until the devices are lost */
	AGAIN_MS = 5000, /* between tries once they are */
	DRAIN_PER_ROUND = 16,
};

struct gpu_monitor {
	struct loop *loop;
	struct gpu_monitor_opts o;
	char *program, *sysfs;
	bool known, busy, lost, driver_failed;
	struct gpu_list now, bus, bus_before;
	struct gpu_device cpu;
	struct gpu_sample *sample, *reading; /* the last answer; sample_good: it holds */
	bool sample_good;
	char words[256]; /* of the driver, or ours about it; empty: nothing is wrong */
	unsigned pci_seen, strikes;
	unsigned quick; /* children in a row that did not live for AGAIN_MS */
	mono_t started;
	unsigned changed; /* not told yet */
	struct loop_work tell;
	struct loop_timer tick, bus_timer, patience, again;

	struct loop_proc *proc;
	int fd; /* one socket: asks go out, lines come back; -1: no child */
	struct loop_watch *watch;
	bool asked, killed; /* killed: its end is awaited */
	struct buf line;
};

static void child_start(struct gpu_monitor *m);
static void on_tick(void *arg);

/* ---- what is told ------------------------------------------------------------------------------------ */

static void on_tell(void *arg)
{
	struct gpu_monitor *m = arg;
	unsigned what = m->changed;
	m->changed = 0;
	if (what && m->o.on_change)
		m->o.on_change(m->o.arg, what);
}

static void changed(struct gpu_monitor *m, unsigned what)
{
	m->changed |= what;
	if (m->changed)
		loop_defer(m->loop, &m->tell, on_tell, m);
}

static void merge(struct gpu_monitor *m)
{
	struct gpu_list *next = NEW(struct gpu_list);
	struct gpu_news w = { .bus = &m->bus,
		.bus_before = &m->bus_before,
		.sample = m->sample_good ? m->sample : NULL,
		.words = m->words[0] ? m->words : "the NVIDIA driver does not show it",
		.cpu = &m->cpu };
	gpu_merge(&w, &m->now, next);
	unsigned what = 0;
	if (!gpu_same_set(&m->now, next))
		what = GPU_CHANGED_SET | GPU_CHANGED_FIGURES;
	else if (!gpu_same_figures(&m->now, next))
		what = GPU_CHANGED_FIGURES;
	m->now = *next;
	m->bus_before = m->bus;
	free(next);
	changed(m, what);
}

static void now_known(struct gpu_monitor *m)
{
	if (m->known)
		return;
	m->known = true;
	changed(m, GPU_CHANGED_SET);
}

/* ---- the child --------------------------------------------------------------------------------------- */

static bool wants_child(const struct gpu_monitor *m)
{
	if (m->o.always_ask)
		return true;
	for (size_t i = 0; i < m->bus.len; i++)
		if (m->bus.items[i].kind == GPU_CUDA && !m->bus.items[i].given_away)
			return true;
	return false;
}

static void child_forget(struct gpu_monitor *m)
{
	loop_timer_stop(&m->patience);
	loop_watch_stop(&m->watch);
	fd_close(fd_take(&m->fd));
	buf_reset(&m->line);
	m->asked = false;
}

/* A round without an answer. */
static void strike(struct gpu_monitor *m, const char *why)
{
	m->strikes++;
	if (m->strikes < STRIKES_MAX)
		return;
	m->lost = true;
	m->sample_good = false;
	gpu_set_text(m->words, sizeof m->words, view_str(why));
	merge(m);
	now_known(m);
}

static void on_again(void *arg)
{
	child_start(arg);
}

/* At once, but not again and again: one that answers and dies each time is no better than one that is lost.
 */
static void start_again(struct gpu_monitor *m)
{
	bool lived = mono_ms_between(m->started, mono_now()) >= AGAIN_MS;
	m->quick = lived ? 0 : m->quick + 1;
	bool wait = m->lost || m->quick >= STRIKES_MAX;
	loop_timer_start(m->loop, &m->again, wait ? AGAIN_MS : 0, on_again, m);
}

static void on_silence(void *arg)
{
	struct gpu_monitor *m = arg;
	char why[128];
	snprintf(why, sizeof why, "the NVIDIA driver does not answer, and its probe was killed %u times",
		m->strikes + 1);
	if (!m->killed) {
		m->killed = true;
		child_forget(m);
		if (m->proc)
			(void)loop_proc_kill(m->proc, SIGKILL);
	}
	/* A child that sleeps inside the kernel does not even die: another one would only join it. */
	loop_timer_start(m->loop, &m->patience, m->o.silence_ms, on_silence, m);
	strike(m, why);
}

static void on_child_end(void *arg, int exit_code, int signo)
{
	struct gpu_monitor *m = arg;
	bool killed = m->killed;
	m->proc = NULL;
	m->killed = false;
	child_forget(m);
	if (!killed) {
		char why[128];
		if (signo)
			snprintf(
				why, sizeof why, "the NVIDIA library crashed its process (signal %d)", signo);
		else
			snprintf(why, sizeof why, "the probe of the NVIDIA driver ended by itself (%d)",
				exit_code);
		strike(m, why);
	}
	if (!m->driver_failed)
		start_again(m);
}

static void child_end(struct gpu_monitor *m)
{
	child_forget(m);
	if (m->proc) {
		(void)loop_proc_kill(m->proc, SIGKILL);
		loop_proc_forget(&m->proc);
	}
	m->killed = false;
}

/* Loading a driver that no other program keeps awake takes seconds, on a machine with many GPUs more. */
static int64_t patience_ms(const struct gpu_monitor *m)
{
	if (m->lost)
		return 3 * m->o.first_ms;
	return m->known || m->strikes ? m->o.silence_ms : m->o.first_ms;
}

static void ask(struct gpu_monitor *m)
{
	if (m->fd < 0 || m->asked)
		return;
	m->asked = true;
	loop_timer_start(m->loop, &m->patience, patience_ms(m), on_silence, m);
	/* A child that has just died is told of by its end. */
	(void)!send(m->fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* The driver cannot be asked at all (no library, no module, versions that do not fit): its words stay, and
 * no child is kept until the next look at the bus. */
static void driver_failed(struct gpu_monitor *m)
{
	m->driver_failed = true;
	m->sample_good = false;
	memcpy(m->words, m->sample->error, sizeof m->words);
	child_end(m);
}

static void take_line(struct gpu_monitor *m, struct view line)
{
	struct err e;
	if (gpu_sample_decode(line, m->reading, &e) < 0 || !m->asked)
		return; /* an answer nobody asked for is none */
	struct gpu_sample *s = m->sample;
	m->sample = m->reading;
	m->reading = s;
	m->asked = false;
	loop_timer_stop(&m->patience);
	m->strikes = 0;
	m->lost = m->driver_failed = false;
	memcpy(m->words, m->sample->note, sizeof m->words);
	m->sample_good = true;
	if (m->sample->has_error)
		driver_failed(m);
	gpu_cpu_read(&m->cpu);
	merge(m);
	now_known(m);
}

static void on_child_out(void *arg, int events)
{
	struct gpu_monitor *m = arg;
	(void)events;
	for (int i = 0; i < DRAIN_PER_ROUND && m->fd >= 0; i++) {
		char *to = buf_room(&m->line, 8192);
		ssize_t n = to ? recv(m->fd, to, 8192, MSG_DONTWAIT) : -1;
		if (!to) {
			buf_reset(
				&m->line); /* over the bound: what it says is thrown away, silence follows */
			continue;
		}
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			(void)loop_watch_change(m->watch, 0); /* its end tells */
			return;
		}
		buf_grew(&m->line, (size_t)n);
		for (size_t end; (end = view_find(buf_view(&m->line), '\n')) < m->line.len && m->fd >= 0;) {
			take_line(m, view_cut(buf_view(&m->line), end));
			if (m->fd >= 0)
				buf_consume(&m->line, end + 1);
		}
	}
}

static int child_spawn(struct gpu_monitor *m, struct err *e)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(e, -errno, "no socket for the GPU probe: %s", strerror(errno));
	char *const argv[] = { (char[]){ "corral" }, (char[]){ "gpu-probe" }, (char[]){ "--ask" }, NULL };
	struct loop_spawn s = {
		.file = m->program, .argv = argv, .fds = { pair[1], pair[1], -1 }, .nfds = 3
	};
	int r = loop_spawn(m->loop, &s, on_child_end, m, &m->proc, e);
	fd_close(pair[1]);
	if (r == 0)
		r = loop_watch_start(m->loop, &m->watch, pair[0], LOOP_READ, on_child_out, m);
	m->fd = pair[0];
	if (r)
		child_end(m);
	return r;
}

static void child_start(struct gpu_monitor *m)
{
	struct err e = { 0 };
	if (m->proc || !wants_child(m))
		return;
	m->driver_failed = false;
	m->started = mono_now();
	if (child_spawn(m, &e) == 0) {
		ask(m);
		return;
	}
	strike(m, e.msg[0] ? e.msg : "the probe of the NVIDIA driver cannot be started");
	loop_timer_start(m->loop, &m->again, AGAIN_MS, on_again, m);
}

/* ---- when what is looked at ---------------------------------------------------------------------------- */

static void read_here(struct gpu_monitor *m)
{
	gpu_cpu_read(&m->cpu);
	for (size_t i = 0; i < m->bus.len; i++)
		gpu_bus_refresh(m->sysfs, &m->bus.items[i]);
}

static void schedule(struct gpu_monitor *m)
{
	loop_timer_start(m->loop, &m->tick, m->busy ? m->o.busy_ms : m->o.idle_ms, on_tick, m);
}

static void on_tick(void *arg)
{
	struct gpu_monitor *m = arg;
	read_here(m);
	if (m->fd >= 0)
		ask(m); /* merged with the answer */
	else
		merge(m);
	schedule(m);
}

static void look_at_bus(void *arg)
{
	struct gpu_monitor *m = arg;
	m->bus.len = 0;
	gpu_bus_scan(m->sysfs, &m->bus, &m->pci_seen);
	if (!wants_child(m)) {
		child_end(m);
		loop_timer_stop(&m->again);
		m->sample_good = m->lost = m->driver_failed = false;
	}
	if (m->known || !wants_child(m))
		merge(m);
	if (!wants_child(m))
		now_known(m);
	else if (!m->proc && !loop_timer_active(&m->again))
		child_start(m);
	loop_timer_start(m->loop, &m->bus_timer, m->o.bus_ms, look_at_bus, m);
}

void gpu_monitor_busy(struct gpu_monitor *m, bool busy)
{
	if (m->busy == busy)
		return;
	m->busy = busy;
	if (busy)
		loop_timer_start(m->loop, &m->tick, 0, on_tick, m);
	else
		schedule(m);
}

bool gpu_monitor_known(const struct gpu_monitor *m)
{
	return m->known;
}

const struct gpu_list *gpu_monitor_list(const struct gpu_monitor *m)
{
	return &m->now;
}

int gpu_monitor_child(const struct gpu_monitor *m)
{
	return m->proc ? loop_proc_pid(m->proc) : 0;
}

void gpu_monitor_looked(const struct gpu_monitor *m, struct buf *out)
{
	(void)buf_addf(out,
		"%u devices on the PCI bus (%s/bus/pci/devices), %zu of them a GPU of NVIDIA, AMD or Intel",
		m->pci_seen, m->sysfs, m->bus.len);
	if (!wants_child(m))
		(void)buf_adds(out, "; the NVIDIA driver was not asked, for no GPU is its");
	else
		(void)buf_addf(out, "; the NVIDIA driver says: %s",
			m->words[0]                             ? m->words
			: m->sample_good && m->sample->list.len ? "it shows GPUs"
								: "it shows no GPU");
}

static int64_t or_default(int64_t ms, int64_t dflt)
{
	return ms ? ms : dflt;
}

struct gpu_monitor *gpu_monitor_new(struct loop *l, const struct gpu_monitor_opts *o)
{
	struct gpu_monitor *m = NEW(struct gpu_monitor);
	m->loop = l;
	m->o = *o;
	m->o.busy_ms = or_default(o->busy_ms, BUSY_MS);
	m->o.idle_ms = or_default(o->idle_ms, IDLE_MS);
	m->o.bus_ms = or_default(o->bus_ms, BUS_MS);
	m->o.silence_ms = or_default(o->silence_ms, SILENCE_MS);
	m->o.first_ms = or_default(o->first_ms, FIRST_MS);
	m->program = mem_strdup(o->program ? o->program : "/proc/self/exe");
	m->sysfs = mem_strdup(o->sysfs ? o->sysfs : "/sys");
	m->sample = NEW(struct gpu_sample);
	m->reading = NEW(struct gpu_sample);
	m->fd = -1;
	buf_init(&m->line, GPU_LINE_MAX);
	gpu_cpu_read(&m->cpu);
	look_at_bus(m);
	schedule(m);
	return m;
}

void gpu_monitor_free(struct gpu_monitor *m)
{
	if (!m)
		return;
	child_end(m);
	loop_timer_stop(&m->tick);
	loop_timer_stop(&m->bus_timer);
	loop_timer_stop(&m->again);
	loop_defer_cancel(&m->tell);
	buf_done(&m->line);
	free(m->program);
	free(m->sysfs);
	free(m->sample);
	free(m->reading);
	free(m);
}
