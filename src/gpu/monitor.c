/* SPDX-License-Identifier: Apache-2.0
 *
 * When what is looked at, and one list of it.
 */
#include "gpu/monitor.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gpu/gpu_int.h"
#include "gpu/prober.h"

enum {
	BUSY_MS = 1000,
	IDLE_MS = 10000,
	BUS_MS = 60000,
	SILENCE_MS = 2000,
	FIRST_MS = 10000,
	MAKERS = 2, /* whose libraries have a child */
};

struct gpu_monitor {
	struct loop *loop;
	struct gpu_monitor_opts o;
	char *program, *sysfs;
	bool known, busy;
	struct gpu_list now, bus, bus_before;
	struct gpu_device cpu;
	struct prober *probers[MAKERS];
	unsigned pci_seen;
	unsigned changed; /* not told yet */
	struct loop_work tell;
	struct loop_timer tick, bus_timer;
};

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

static struct gpu_said said(const struct gpu_monitor *m, size_t maker, const char *without_words)
{
	const struct prober *p = m->probers[maker];
	const char *words = prober_words(p);
	return (struct gpu_said){ prober_sample(p), words[0] ? words : without_words, prober_lost(p) };
}

static void merge(struct gpu_monitor *m)
{
	struct gpu_list *next = NEW(struct gpu_list);
	struct gpu_news w = { .bus = &m->bus,
		.bus_before = &m->bus_before,
		.nvidia = said(m, 0, "the NVIDIA driver does not show it"),
		.amd = said(m, 1, ""),
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

/* ---- the children --------------------------------------------------------------------------------- */

static const struct maker {
	enum gpu_kind kind;
	const char *vendor, *name;
} makers[MAKERS] = { { GPU_CUDA, "nvidia", "NVIDIA" }, { GPU_AMD, "amd", "AMD" } };

/* NVIDIA's driver is asked about what the bus shows; AMD's about what its kernel driver holds. */
static bool wants_child(const struct gpu_monitor *m, size_t maker)
{
	enum gpu_kind kind = makers[maker].kind;
	if (m->o.always_ask && kind == GPU_CUDA)
		return true;
	for (size_t i = 0; i < m->bus.len; i++) {
		const struct gpu_device *d = &m->bus.items[i];
		if (d->kind == kind && !d->given_away && (kind == GPU_CUDA || d->state == GPU_OK))
			return true;
	}
	return false;
}

/* Nothing is decided before each driver that is asked was heard. */
static bool all_heard(const struct gpu_monitor *m)
{
	for (size_t i = 0; i < MAKERS; i++)
		if (wants_child(m, i) && !prober_heard(m->probers[i]))
			return false;
	return true;
}

static void on_news(void *arg)
{
	struct gpu_monitor *m = arg;
	gpu_cpu_read(&m->cpu);
	merge(m);
	if (all_heard(m))
		now_known(m);
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
	bool asked = false;
	read_here(m);
	for (size_t i = 0; i < MAKERS; i++)
		asked |= prober_ask(m->probers[i]);
	if (!asked) /* else merged with the answers */
		merge(m);
	schedule(m);
}

static void look_at_bus(void *arg)
{
	struct gpu_monitor *m = arg;
	m->bus.len = 0;
	gpu_bus_scan(m->sysfs, &m->bus, &m->pci_seen);
	for (size_t i = 0; i < MAKERS; i++)
		if (wants_child(m, i))
			prober_start(m->probers[i]);
		else
			prober_stop(m->probers[i]);
	if (m->known || all_heard(m))
		merge(m);
	if (all_heard(m))
		now_known(m);
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

void gpu_monitor_look(struct gpu_monitor *m)
{
	loop_timer_start(m->loop, &m->tick, 0, on_tick, m);
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
	int pid = 0;
	for (size_t i = 0; i < MAKERS && !pid; i++)
		pid = prober_pid(m->probers[i]);
	return pid;
}

void gpu_monitor_looked(const struct gpu_monitor *m, struct buf *out)
{
	(void)buf_addf(out,
		"%u devices on the PCI bus (%s/bus/pci/devices), %zu of them a GPU of NVIDIA, AMD or Intel",
		m->pci_seen, m->sysfs, m->bus.len);
	for (size_t i = 0; i < MAKERS; i++) {
		const struct gpu_sample *s = prober_sample(m->probers[i]);
		const char *words = prober_words(m->probers[i]);
		if (!wants_child(m, i))
			(void)buf_addf(
				out, "; the %s driver was not asked, for no GPU is its", makers[i].name);
		else
			(void)buf_addf(out, "; the %s driver says: %s", makers[i].name,
				words[0]           ? words
				: s && s->list.len ? "it shows GPUs"
						   : "it shows no GPU");
	}
}

const char *gpu_monitor_wrong(const struct gpu_monitor *m)
{
	for (size_t i = 0; i < MAKERS; i++) {
		const char *words = prober_words(m->probers[i]);
		if (wants_child(m, i) && words[0])
			return words;
	}
	return NULL;
}

bool gpu_driver_without_bus(const char *sysfs)
{
	const char *library = getenv("CORRAL_NVML");
	if (library && *library)
		return true;
	return !sysfs && (file_exists("/dev/nvidiactl") || file_exists("/dev/dxg"));
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
	for (size_t i = 0; i < MAKERS; i++) {
		struct prober_opts p = { .loop = l,
			.vendor = makers[i].vendor,
			.maker = makers[i].name,
			.program = m->program,
			.sysfs = m->sysfs,
			.silence_ms = m->o.silence_ms,
			.first_ms = m->o.first_ms,
			.on_news = on_news,
			.arg = m };
		m->probers[i] = prober_new(&p);
	}
	gpu_cpu_read(&m->cpu);
	look_at_bus(m);
	schedule(m);
	return m;
}

void gpu_monitor_free(struct gpu_monitor *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < MAKERS; i++)
		prober_free(m->probers[i]);
	loop_timer_stop(&m->tick);
	loop_timer_stop(&m->bus_timer);
	loop_defer_cancel(&m->tell);
	free(m->program);
	free(m->sysfs);
	free(m);
}

/* ---- a command's one look ------------------------------------------------------------------------------ */

struct look {
	struct loop *loop;
	struct gpu_monitor *monitor;
};

static void on_heard(void *arg, unsigned what)
{
	struct look *k = arg;
	(void)what;
	if (k->monitor && gpu_monitor_known(k->monitor))
		loop_stop(k->loop);
}

static void on_late(void *arg)
{
	loop_stop(((struct look *)arg)->loop);
}

struct gpu_monitor *gpu_monitor_heard(struct loop *l, const char *sysfs)
{
	struct look k = { .loop = l };
	struct loop_timer timer = { 0 };
	struct gpu_monitor_opts o = {
		.sysfs = sysfs, .always_ask = gpu_driver_without_bus(sysfs), .on_change = on_heard, .arg = &k
	};
	k.monitor = gpu_monitor_new(l, &o);
	loop_timer_start(l, &timer, GPU_MONITOR_HEARD_MS, on_late, &k);
	if (!gpu_monitor_known(k.monitor))
		(void)!loop_run(l);
	loop_timer_stop(&timer);
	return k.monitor;
}
