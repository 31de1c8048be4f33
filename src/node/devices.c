/* SPDX-License-Identifier: Apache-2.0
 *
 * The node's devices: which of them an engine may use, who holds what of them, and what is told of them.
 * Engines that run are left alone whatever becomes of their device: their own health decides. What is to be
 * started waits for the first answer of the driver, and fails when there is nothing it may use; when a device
 * comes back, it is tried again by itself.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/mask.h"
#include "base/mem.h"
#include "base/num.h"
#include "gpu/monitor.h"
#include "log/log.h"
#include "node/node_int.h"

/* For CALM_MS after an engine has ended every change of memory is told at once: somebody may wait for it. */
enum { FIGURES_MS = 3000, PARENTS_MAX = 16, CALM_MS = 10000 };

/* ---- which an engine may use --------------------------------------------------------------------------- */

static const char *mask_of(const struct replica *r)
{
	const char *own = r->pool->conf.devices;
	return r->want.devices ? r->want.devices : own ? own : "auto";
}

/* A build that is known to compute on the CPU alone. */
static bool cpu_build(const struct pool *p)
{
	return p->have_build && p->build.kind == ENGINE_LLAMACPP && p->build.cpu_only;
}

size_t node_build_devices(const struct gpu_list *l, struct engine_device *out, size_t max)
{
	static const enum engine_backend backends[GPU_KIND_COUNT] = {
		[GPU_CUDA] = ENGINE_CUDA, [GPU_AMD] = ENGINE_HIP, [GPU_INTEL] = ENGINE_VULKAN
	};
	size_t len = 0;
	for (size_t i = 0; i < l->len && len < max; i++) {
		const struct gpu_device *d = &l->items[i];
		if (d->kind == GPU_CPU || d->integrated || d->given_away || d->state == GPU_UNUSABLE)
			continue;
		struct engine_device *e = &out[len++];
		*e = (struct engine_device){ .backend = backends[d->kind] };
		snprintf(e->name, sizeof e->name, "%s", d->name);
		snprintf(e->driver, sizeof e->driver, "%s", d->driver);
		snprintf(e->arch, sizeof e->arch, "%s", d->compute_capability);
	}
	return len;
}

static const char *cpu_build_name(const struct pool *p)
{
	return p->build.mode == ENGINE_MODE_PACKAGE  ? "the distribution's package"
	       : p->build.mode == ENGINE_MODE_BINARY ? "the installed llama-server"
						     : "built for the CPU alone";
}

static int keep_to_cpu(const struct pool *p, struct gpu_choice *c, struct err *e)
{
	if (c->asked)
		return err_set(e, -EINVAL,
			"devices names a GPU, and the engine that could be had (%s) computes on the CPU "
			"alone; "
			"install a llama-server that uses the GPU and set engine.path",
			cpu_build_name(p));
	snprintf(c->note, sizeof c->note,
		"the CPU, because the engine that could be had (%s) cannot use GPU %u (%.60s)",
		cpu_build_name(p), c->gpus[0].index, c->gpus[0].name);
	c->cpu = true;
	c->len = 0;
	return 0;
}

static int check_wish(const struct node *n, const char *key, const char *text, struct mask *m, struct err *e)
{
	int err = text ? mask_parse(view_str(text), m, e) : 0;
	return err || !text ? err : gpu_check_list(m, key, gpu_monitor_list(n->gpus), e);
}

static int choose(const struct replica *r, struct gpu_choice *ret, struct err *e)
{
	const struct node *n = r->node;
	AUTO(buf_done) struct buf looked = BUF(2 * KIB);
	struct mask *m = NEW(struct mask);
	int err = mask_parse(view_str(mask_of(r)), m, e);
	gpu_monitor_looked(n->gpus, &looked);
	if (!err)
		err = gpu_choose(m, n->opts.gpu, gpu_monitor_list(n->gpus), buf_str(&looked), ret, e);
	if (!err)
		err = check_wish(n, "prefer", r->pool->conf.prefer, m, e);
	if (!err)
		err = check_wish(n, "avoid", r->pool->conf.avoid, m, e);
	free(m);
	/* what the planner chose is not what the operator asked for: it gives way where the engine cannot use
	 * it */
	const char *own = r->pool->conf.devices;
	if (!err && r->want.devices && (!own || strcmp(own, "auto") == 0))
		ret->asked = strcmp(r->want.devices, "cpu") == 0;
	if (!err && ret->len && cpu_build(r->pool))
		err = keep_to_cpu(r->pool, ret, e);
	return err;
}

static void take_choice(struct replica *r, const struct gpu_choice *c)
{
	AUTO(buf_done) struct buf mask = BUF(4 * KIB), words = BUF(16 * KIB);
	gpu_choice_mask(c, &mask);
	gpu_choice_words(c, &words);
	r->gpu_kind = c->len ? gpu_kind_name(c->gpus[0].kind) : NULL;
	r->device_memory = 0;
	for (size_t i = 0; i < c->len; i++)
		if (c->gpus[i].memory_total &&
			(!r->device_memory || c->gpus[i].memory_total < r->device_memory))
			r->device_memory = c->gpus[i].memory_total;
	mem_setstr(&r->devices, buf_str(&mask));
	mem_setstr(&r->device_words, buf_str(&words));
	r->cpu_only = c->cpu && c->asked;
	r->on_cpu = c->cpu;
	strv_done(&r->device_env);
	gpu_choice_env(c, &r->device_env);
	bool news = c->note[0] && (!r->device_note || strcmp(r->device_note, c->note) != 0);
	mem_setstr(&r->device_note, c->note[0] ? c->note : NULL);
	if (news)
		log_warn("devices", r->id, "Replica %s uses %s%s.", r->id,
			c->cpu ? "" : "what is left: ", c->note);
}

static void refuse(struct replica *r, const struct err *e)
{
	if (e->code == -ENODEV)
		replica_error(r, CAUSE_NO_DEVICE,
			"`corral devices` shows what there is; mend the driver (it starts by itself then), "
			"or "
			"set `devices: cpu` for the pool or `gpu: optional`",
			"%s", e->msg);
	else
		replica_error(r, CAUSE_BAD_ARGS,
			"correct `devices`, `prefer` or `avoid` of the pool; `corral devices` shows what "
			"there is",
			"%s", e->msg);
	replica_fail(r);
}

/* Without a monitor (nobody asked for devices) a mask is only passed on. */
static int take_unseen(struct replica *r)
{
	bool cpu = mask_means_cpu(view_str(mask_of(r)));
	mem_setstr(&r->devices, cpu ? "cpu" : mask_of(r));
	mem_setstr(&r->device_words, r->devices);
	r->cpu_only = r->on_cpu = cpu;
	return 0;
}

int devices_take(struct replica *r)
{
	struct node *n = r->node;
	r->waits_devices = false;
	if (r->pool->conf.engine.mode == ENGINE_MODE_EXTERNAL)
		return 0;
	if (!n->gpus)
		return take_unseen(r);
	if (!gpu_monitor_known(n->gpus)) {
		r->waits_devices = true;
		replica_progress(r, "devices", -1, "Waiting for the GPUs' driver to answer");
		return -EAGAIN;
	}
	struct gpu_choice *c = NEW(struct gpu_choice);
	struct err e = { 0 };
	int err = choose(r, c, &e);
	if (err)
		refuse(r, &e);
	else
		take_choice(r, c);
	free(c);
	return err;
}

/* ---- when they change ------------------------------------------------------------------------------------
 */

static bool could_start_now(const struct replica *r)
{
	struct gpu_choice *c = NEW(struct gpu_choice);
	int err = r->pool ? choose(r, c, NULL) : -EINVAL;
	free(c);
	return err == 0;
}

static void look_again(struct node *n)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		struct replica *r = e->value;
		if (!r->wanted || n->stopping || !replica_idle(r))
			continue;
		if (r->waits_devices && r->state == REPLICA_PROVISIONING)
			replica_provide(r);
		else if (r->state == REPLICA_FAILED && r->last_error.cause == CAUSE_NO_DEVICE &&
			 could_start_now(r)) {
			log_info("devices", r->id, "A device for replica %s is there again.", r->id);
			restart_reset(&r->restart);
			r->retry_at = MONO_ZERO;
			replica_begin(r);
		}
	}
}

static void narrate(struct node *n)
{
	const struct gpu_list *l = gpu_monitor_list(n->gpus);
	const struct gpu_device *cpu = &l->items[l->len - 1];
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	const struct gpu_device *bad = NULL;
	for (size_t i = 0; i < l->len && !bad; i++)
		if (l->items[i].state != GPU_OK && !l->items[i].given_away)
			bad = &l->items[i];
	gpu_list_describe(l, &b);
	if (bad)
		log_warn("devices", n->opts.node_id, "GPU %u (%s) is %s: %s. Devices: %s.", bad->index,
			bad->name, gpu_state_name(bad->state), bad->reason, buf_str(&b));
	else if (l->len > 1)
		log_info("devices", n->opts.node_id, "Devices: %s.", buf_str(&b));
	else
		log_info("devices", n->opts.node_id,
			"This machine shows no GPU; engines compute on the CPU (%s).", cpu->name);
}

/* What a driver reported since this was called last: an event is told, whatever became of the device. */
static void narrate_errors(struct node *n)
{
	const struct gpu_list *l = gpu_monitor_list(n->gpus);
	int64_t newest = n->device_error_told_ms;
	for (size_t i = 0; i < l->len; i++) {
		const struct gpu_device *d = &l->items[i];
		if (d->last_error_at_ms <= n->device_error_told_ms)
			continue;
		newest = MAX(newest, d->last_error_at_ms);
		log_warn("devices", n->opts.node_id, "GPU %u (%s) reports: %s.", d->index, d->name,
			d->last_error);
	}
	n->device_error_told_ms = newest;
}

static bool runs_something(struct node *n)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		enum replica_state s = ((struct replica *)e->value)->state;
		if (s == REPLICA_STARTING || s == REPLICA_PROVING || s == REPLICA_READY ||
			s == REPLICA_DRAINING)
			return true;
	}
	return false;
}

static void on_figures_due(void *arg)
{
	report_touch(arg);
}

static void on_change(void *arg, unsigned what)
{
	struct node *n = arg;
	if (!gpu_monitor_known(n->gpus))
		return;
	n->figures_gen++;
	learn_figures(n);
	if (what & GPU_CHANGED_SET) {
		n->devices_gen++;
		narrate(n);
		narrate_errors(n);
		look_again(n);
		report_touch(n);
	} else if (loop_timer_active(&n->calm)) {
		report_touch(n);
	} else if (runs_something(n) && !loop_timer_active(&n->figures)) { /* else: with a heartbeat */
		int64_t since = mono_ms_between(n->devices_told, mono_now());
		loop_timer_start(
			n->loop, &n->figures, MAX(FIGURES_MS - since, (int64_t)0), on_figures_due, n);
	}
}

void devices_busy(struct node *n)
{
	if (n->gpus)
		gpu_monitor_busy(n->gpus, runs_something(n) || loop_timer_active(&n->calm));
}

static void on_calm(void *arg)
{
	devices_busy(arg);
}

void devices_ended(struct node *n)
{
	if (!n->gpus || !gpu_monitor_known(n->gpus))
		return;
	loop_timer_start(n->loop, &n->calm, CALM_MS, on_calm, n);
	gpu_monitor_look(n->gpus);
}

void devices_init(struct node *n, const struct gpu_monitor_opts *o)
{
	if (!o)
		return;
	struct gpu_monitor_opts mine = *o;
	mine.on_change = on_change;
	mine.arg = n;
	n->gpus = gpu_monitor_new(n->loop, &mine);
}

void devices_done(struct node *n)
{
	loop_timer_stop(&n->figures);
	loop_timer_stop(&n->calm);
	gpu_monitor_free(n->gpus);
	n->gpus = NULL;
}

/* ---- what is told of them
 * ---------------------------------------------------------------------------------- */

static int parent_of(int pid)
{
	AUTO(mem_freep) char *path = mem_fmt("/proc/%d/stat", pid);
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	uint64_t ppid;
	if (file_read(path, &b) < 0)
		return 0;
	struct view v = buf_view(&b);
	size_t end = v.n;
	while (end && v.p[end - 1] != ')') /* a program's name may hold anything */
		end--;
	v = view_trim(view_from(v, end));
	(void)view_split(v, ' ', &v); /* its state */
	v = view_split(v, ' ', &(struct view){ 0 });
	return num_u64(v, &ppid) == 0 && ppid <= INT32_MAX ? (int)ppid : 0;
}

static const char *replica_with_pid(const struct node *n, int pid)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		const struct replica *r = e->value;
		if (r->pid == pid && r->keeper)
			return r->id;
	}
	return NULL;
}

/* The engine's own process, or one it started. */
static const char *replica_of(const struct node *n, int pid)
{
	for (int i = 0; pid > 1 && i < PARENTS_MAX; i++, pid = parent_of(pid)) {
		const char *id = replica_with_pid(n, pid);
		if (id)
			return id;
	}
	return NULL;
}

static const struct gpu_device *device_at(const struct node *n, uint32_t index)
{
	const struct gpu_list *l = n->gpus && gpu_monitor_known(n->gpus) ? gpu_monitor_list(n->gpus) : NULL;
	for (size_t i = 0; l && i < l->len; i++)
		if (l->items[i].kind != GPU_CPU && l->items[i].index == index)
			return &l->items[i];
	return NULL;
}

uint64_t devices_used(const struct replica *r, uint32_t index)
{
	const struct gpu_device *d = device_at(r->node, index);
	uint64_t sum = 0;
	for (size_t i = 0; d && i < d->nprocesses; i++)
		if (str_same(replica_of(r->node, d->processes[i].pid), r->id))
			sum += d->processes[i].bytes;
	return sum;
}

const char *devices_kind(const struct node *n, uint32_t index)
{
	const struct gpu_device *d = device_at(n, index);
	return d ? gpu_kind_name(d->kind) : "unknown";
}

static char *text_or_null(const char *s)
{
	return s[0] ? mem_strdup(s) : NULL;
}

static const char *id_of(const struct gpu_device *d)
{
	return d->uuid[0] ? d->uuid : d->pci;
}

/* The id of the GPU at that address; NULL: none that is told of. */
static const char *id_at(const struct gpu_list *l, const char *pci)
{
	for (size_t i = 0; pci[0] && i < l->len; i++)
		if (strcmp(l->items[i].pci, pci) == 0)
			return id_of(&l->items[i]);
	return NULL;
}

static void fill_links(const struct gpu_list *l, const struct gpu_device *d, struct wire_device *w)
{
	if (d->nlinks)
		w->links = mem_alloc(d->nlinks * sizeof *w->links);
	for (size_t i = 0; i < d->nlinks; i++) {
		const char *id = id_at(l, d->links[i].pci);
		if (id)
			w->links[w->nlinks++] = (struct wire_device_link){ mem_strdup(id),
				mem_strdup(gpu_path_name(d->links[i].path)), d->links[i].fabric };
	}
}

static unsigned known_of(const struct gpu_device *d)
{
	return (d->utilization >= 0 ? WD_UTILIZATION : 0u) |
	       (d->temperature_c != GPU_TEMPERATURE_UNKNOWN ? WD_TEMPERATURE : 0u) |
	       (d->power_mw >= 0 ? WD_POWER : 0u) |
	       (d->ecc_corrected >= 0 && d->ecc_uncorrected >= 0 ? WD_ECC : 0u);
}

static void fill(const struct node *n, const struct gpu_device *d, struct wire_device *w)
{
	*w = (struct wire_device){
		.device_id = mem_strdup(id_of(d)),
		.have = known_of(d),
		.index = d->index,
		.name = text_or_null(d->name),
		.uuid = text_or_null(d->uuid),
		.pci = text_or_null(d->pci),
		.kind = mem_strdup(gpu_kind_name(d->kind)),
		.state = mem_strdup(gpu_state_name(d->state)),
		.reason = text_or_null(d->reason),
		.compute_capability = text_or_null(d->compute_capability),
		.driver = text_or_null(d->driver),
		.memory_total_bytes = d->memory_total,
		.memory_free_bytes = d->memory_free,
		.memory_used_bytes = d->memory_used,
		.utilization_pct = (int)(d->utilization * 100 + 0.5),
		.temperature_c = d->temperature_c,
		.power_mw = (uint64_t)MAX(d->power_mw, (int64_t)0),
		.power_limit_mw = (uint64_t)MAX(d->power_limit_mw, (int64_t)0),
		.ecc_corrected = (uint64_t)MAX(d->ecc_corrected, (int64_t)0),
		.ecc_uncorrected = (uint64_t)MAX(d->ecc_uncorrected, (int64_t)0),
		.last_error = text_or_null(d->last_error),
		.last_error_at_ms = d->last_error_at_ms,
		.integrated = d->integrated,
		.split = d->split,
		.parent = mem_strdup(d->part ? id_at(gpu_monitor_list(n->gpus), d->parent) : NULL),
	};
	fill_links(gpu_monitor_list(n->gpus), d, w);
	if (!d->nprocesses)
		return;
	w->uses = mem_alloc(d->nprocesses * sizeof *w->uses);
	for (size_t i = 0; i < d->nprocesses; i++)
		w->uses[w->nuses++] = (struct wire_device_use){ d->processes[i].pid,
			mem_strdup(replica_of(n, d->processes[i].pid)), d->processes[i].bytes };
}

void devices_facts(struct node *n, bool all, struct wire_node *f)
{
	if (!n->gpus || !gpu_monitor_known(n->gpus))
		return;
	bool set = n->devices_gen != n->devices_sent;
	bool figures =
		n->figures_gen != n->figures_sent &&
		(loop_timer_active(&n->calm) || mono_ms_between(n->devices_told, mono_now()) >= FIGURES_MS);
	if (!all && !set && !figures)
		return;
	const struct gpu_list *l = gpu_monitor_list(n->gpus);
	f->devices = mem_alloc(l->len * sizeof *f->devices);
	for (size_t i = 0; i < l->len; i++)
		if (l->items[i].uuid[0] || l->items[i].pci[0])
			fill(n, &l->items[i], &f->devices[f->ndevices++]);
}

uint64_t devices_memory(const struct node *n)
{
	const struct gpu_list *l = n->gpus && gpu_monitor_known(n->gpus) ? gpu_monitor_list(n->gpus) : NULL;
	uint64_t sum = 0;
	bool gpu = false, unknown = !l;
	for (size_t i = 0; l && i < l->len; i++) {
		const struct gpu_device *d = &l->items[i];
		gpu |= d->kind != GPU_CPU;
		unknown |= !d->memory_total;
		sum += d->memory_total;
	}
	return gpu && !unknown ? sum : 0;
}

void devices_were_told(struct node *n, uint64_t devices_gen, uint64_t figures_gen)
{
	n->devices_sent = devices_gen;
	n->figures_sent = figures_gen;
	n->devices_told = mono_now();
}
