/* SPDX-License-Identifier: Apache-2.0
 *
 * Other engines in place of those that run: ordered by an operator (another model file), or because the
 * configuration says something else. bluegreen.c decides the steps; here they are carried out and told.
 *
 * Whether a fresh engine fits beside those that run is the planner's to say; of a file that no node has told
 * of, its size and a fifth more is taken to be what it needs.
 */
#include "control/control_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "control/bluegreen.h"
#include "log/log.h"

enum {
	START_BASE_MS =
		300000, /* as the node counts; it says so first, and this is for a node that does not */
	START_MS_PER_GIB = 20000,
	START_SLACK_MS = 15000,
	LOOK_AGAIN_MS = 500, /* at memory that is to come back */
	TOLD_MS = 5000,      /* for its node to read the configuration, too */
};

struct reload {
	struct bluegreen bg;
	struct control_variant from, to;
	bool ordered; /* by an operator: its model is kept when it works */
	char *by;     /* NULL: the configuration */
	mono_t since, fresh_since;
	control_reload_fn *fn;
	void *arg;
	char *message, *hint; /* why it failed */
	enum wire_cause cause;
};

static void reload_free(struct reload *l)
{
	variant_done(&l->from);
	variant_done(&l->to);
	free(l->by);
	free(l->message);
	free(l->hint);
	free(l);
}

static struct control_slot *fresh_of(const struct control_pool *p)
{
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i]->role == SLOT_FRESH)
			return p->slots[i];
	return NULL;
}

/* ---- does it fit -----------------------------------------------------------------------------------------
 */

static uint64_t one_file(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && st.st_size > 0 ? (uint64_t)st.st_size : 0;
}

/* Of all its parts, where the path is the first of them: NAME-00001-of-00003.gguf. */
static uint64_t file_bytes(const char *path)
{
	enum { TAIL = 20 }; /* "-00001-of-00003.gguf" */
	size_t n = strlen(path);
	const char *tail = n > TAIL ? path + n - TAIL : "";
	uint64_t parts, sum = 0;
	if (strncmp(tail, "-00001-of-", 10) != 0 || num_u64(view_of(tail + 10, 5), &parts))
		return one_file(path);
	for (uint64_t i = 1; i <= parts; i++) {
		AUTO(mem_freep)
		char *part = mem_fmt("%.*s-%05llu%s", (int)(n - TAIL), path, (unsigned long long)i, tail + 6);
		sum += one_file(part);
	}
	return sum;
}

/* Of the file, or of the weights as the node read them, whichever is more. Right after a configuration was
 * taken the node's figure may still be that of the model before. */
static uint64_t model_bytes(
	const struct control_pool *p, const struct control_variant *v, const struct registry_pool *rp)
{
	const struct wire_model *told = rp ? rp->model : NULL;
	if (v->model)
		return file_bytes(v->model);
	uint64_t size = told ? told->size_bytes : 0;
	if (!p->cfg->model)
		return size;
	AUTO(mem_freep) char *path = path_join(p->config->models_dir, p->cfg->model);
	uint64_t there = file_bytes(path);
	if (told && told->path && strcmp(told->path, path) == 0)
		return MAX(size, there);
	return there ? there : size;
}

static const struct control_variant *wanted_now(const struct reload *l)
{
	return l->bg.turned ? &l->from : &l->to;
}

static enum room_beside ask_planner(struct control_pool *p, mono_t now)
{
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(p->control->o.registry);
	return room_beside(p, wanted_now(p->reload), s, now);
}

static bool fits(const struct control_pool *p, const struct registry_pool *rp, enum room_beside planner)
{
	if (planner == BESIDE_FITS || planner == BESIDE_FITS_NOT)
		return planner == BESIDE_FITS;
	uint64_t need = model_bytes(p, wanted_now(p->reload), rp);
	uint64_t free_bytes = pool_memory_free(p);
	need += need / 5;
	return !need || !free_bytes || need <= free_bytes;
}

/* ---- the steps -------------------------------------------------------------------------------------------
 */

static void tell(const struct control_pool *p, enum log_level level, const char *step, const char *replica,
	const char *text)
{
	log_event(level, "reload", p->cfg->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_STR("replica_id", replica),
			LOG_STR("step", step), LOG_STR("by", p->reload->by), LOG_END },
		"%s", text);
}

static const char *model_of(const struct control_pool *p, const struct control_variant *v)
{
	return v->model ? v->model : p->cfg->model ? p->cfg->model : "its engine's own model";
}

static void start_fresh(struct control_pool *p, const struct registry_pool *rp, mono_t now)
{
	struct reload *l = p->reload;
	const struct control_variant *v = l->bg.turned ? &l->from : &l->to;
	p->epochs++; /* a breaker that is open under this id was another engine's */
	struct control_slot *s = slot_add(p, slot_free_n(p, rp), v, SLOT_FRESH);
	s->plan.wanted = true;
	s->plan.busy_at = now;
	l->fresh_since = now;
	uint32_t beside = slots_count(p, SLOT_MAIN, true) + slots_count(p, SLOT_ACCEPTED, true);
	AUTO(mem_freep)
	char *text = mem_fmt("Replica %s is started with %s%s; it takes requests once it has proved itself.",
		s->id, model_of(p, v),
		!beside         ? ""
		: l->bg.swapped ? " in the place of one that stopped for it"
				: " beside what serves");
	tell(p, LOG_INFO, "start", s->id, text);
}

/* The one with the fewest requests. */
static void let_one_go(struct control_pool *p, mono_t now)
{
	struct control_slot *go = NULL;
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *s = p->slots[i];
		if (s->role == SLOT_MAIN && s->plan.wanted &&
			(!go || s->plan.leases + s->plan.cooling < go->plan.leases + go->plan.cooling))
			go = s;
	}
	if (!go)
		return;
	slot_leave(go, mono_add_ms(now, LEAVE_MS));
	AUTO(mem_freep)
	char *text = mem_fmt(
		"Replica %s takes nothing new%s; its requests (%u) may last %d s, then it stops.", go->id,
		p->reload->bg.phase == BG_ROOM ? ", because the new engine does not fit beside it" : "",
		go->plan.leases + go->plan.cooling, LEAVE_MS / 1000);
	tell(p, LOG_INFO, "drain", go->id, text);
}

static void accept_fresh(struct control_pool *p)
{
	struct control_slot *s = fresh_of(p);
	s->role = SLOT_ACCEPTED;
	AUTO(mem_freep) char *text = mem_fmt("Replica %s is ready and takes requests.", s->id);
	tell(p, LOG_INFO, "ready", s->id, text);
}

static void drop_fresh(struct control_pool *p, mono_t now)
{
	struct control_slot *s = fresh_of(p);
	if (s)
		slot_leave(s, now);
}

static void roles_exchange(struct control_pool *p, enum slot_role a, enum slot_role b)
{
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *s = p->slots[i];
		s->role = s->role == a ? b : s->role == b ? a : s->role;
	}
}

static void accepted_are_main(struct control_pool *p)
{
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i]->role == SLOT_ACCEPTED)
			p->slots[i]->role = SLOT_MAIN;
}

static void turn_back(struct control_pool *p, mono_t now)
{
	AUTO(mem_freep)
	char *text = mem_fmt("Pool %s goes back to the engines it had: %s", p->cfg->id, p->reload->message);
	tell(p, LOG_WARN, "back", NULL, text);
	drop_fresh(p, now);
	roles_exchange(p, SLOT_MAIN, SLOT_ACCEPTED);
}

/* ---- the fresh one ---------------------------------------------------------------------------------------
 */

static void note_failure(struct reload *l, enum wire_cause cause, const char *message, const char *hint)
{
	if (l->message)
		return; /* the first one is the reason */
	l->message = mem_strdup(message);
	l->hint = mem_strdup(hint);
	l->cause = cause;
}

static int64_t start_timeout_ms(const struct control_pool *p, const struct registry_pool *rp)
{
	const struct reload *l = p->reload;
	if (p->cfg->start_timeout_ms)
		return p->cfg->start_timeout_ms + START_SLACK_MS;
	uint64_t gib = MIN(model_bytes(p, l->bg.turned ? &l->from : &l->to, rp) / GIB + 1, (uint64_t)65536);
	return START_BASE_MS + (int64_t)gib * START_MS_PER_GIB + START_SLACK_MS;
}

static enum bg_fresh look_at_fresh(struct control_pool *p, const struct registry_pool *rp, mono_t now)
{
	struct reload *l = p->reload;
	struct control_slot *s = fresh_of(p);
	if (!s)
		return BG_FRESH_NONE;
	const struct registry_replica *r = slot_replica(rp, s);
	enum replica_state st = r ? r->facts.state : REPLICA_ABSENT;
	if (st == REPLICA_FAILED || st == REPLICA_BACKOFF) {
		const struct wire_error *e = &r->facts.last_error;
		note_failure(l, e->cause, e->message ? e->message : "the new engine failed", e->hint);
		return BG_FRESH_FAILED;
	}
	bool ours = st == REPLICA_READY && (!r->facts.spec || strcmp(r->facts.spec, s->variant.spec) == 0);
	if (ours && r->ready && s->in_pool)
		return BG_FRESH_READY;
	if (st == REPLICA_PROVISIONING)
		l->fresh_since = now; /* what is built or installed takes as long as it takes */
	if (mono_ms_between(l->fresh_since, now) < start_timeout_ms(p, rp))
		return BG_FRESH_COMING;
	note_failure(l, CAUSE_START_TIMEOUT, "the new engine was not ready in time",
		"set `start_timeout` of the pool");
	return BG_FRESH_FAILED;
}

/* ---- the end ---------------------------------------------------------------------------------------------
 */

static void keep_override(struct control_pool *p, const struct reload *l)
{
	if (!l->ordered)
		return;
	mem_setstr(&p->override, l->to.model);
	const struct registry_override o = {
		.model = l->to.model, .configured = p->cfg->model, .by = l->by, .at_ms = wall_ms()
	};
	registry_pool_override(p->control->o.registry, view_str(p->cfg->id), &o);
}

static void keep_error(struct control_pool *p, enum wire_cause cause, const char *message, const char *hint)
{
	p->reload_error.cause = cause;
	mem_setstr(&p->reload_error.message, message);
	mem_setstr(&p->reload_error.hint, hint);
	p->reload_error.at_ms = wall_ms();
}

/* What engines are started from after a failure: of what serves, else of what was there before. */
static void settle(struct control_pool *p, const struct reload *l)
{
	const struct control_variant *v = &l->from;
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i]->role == SLOT_MAIN && p->slots[i]->plan.wanted && !p->slots[i]->plan.failed)
			v = &p->slots[i]->variant;
	variant_copy(&p->variant, v);
}

static void finish(struct control_pool *p, const char *outcome, bool ok)
{
	struct reload *l = MEM_TAKE(p->reload);
	struct control_reload_done d = { .ok = ok,
		.swapped = l->bg.swapped,
		.duration_ms = mono_ms_between(l->since, mono_now()),
		.message = l->message,
		.hint = l->hint };
	metric_inc(metrics_series(p->control->o.metrics, "corral_reloads_total", p->cfg->id, outcome, NULL));
	log_event(ok ? LOG_INFO : LOG_WARN, ok ? "reloaded" : "reload_failed", p->cfg->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_INT("duration_ms", d.duration_ms),
			LOG_BOOL("swapped", d.swapped), LOG_STR("by", l->by), LOG_STR("hint", l->hint),
			LOG_END },
		ok ? "Pool %s runs %s now.%s" : "Pool %s goes on with %s: %s", p->cfg->id,
		ok ? model_of(p, &p->variant) : "what it had before", ok ? "" : l->message);
	if (l->fn)
		l->fn(l->arg, &d);
	reload_free(l);
	control_wake(p->control);
}

static void succeed(struct control_pool *p)
{
	struct reload *l = p->reload;
	accepted_are_main(p);
	variant_copy(&p->variant, &l->to);
	keep_error(p, CAUSE_NONE, NULL, NULL);
	keep_override(p, l);
	finish(p, "ok", true);
}

static void fail(struct control_pool *p, mono_t now)
{
	struct reload *l = p->reload;
	drop_fresh(p, now);
	accepted_are_main(p);
	settle(p, l);
	if (l->bg.swapped && !slots_count(p, SLOT_MAIN, true))
		p->started = true; /* something ran before: it is tried as after any failure */
	keep_error(p, l->cause, l->message, l->hint);
	finish(p, "failed", false);
}

void reload_cancel(struct control_pool *p, const char *why)
{
	struct reload *l = p->reload;
	if (!l)
		return;
	drop_fresh(p, mono_now());
	accepted_are_main(p);
	settle(p, l);
	note_failure(l, CAUSE_NONE, why ? why : "another configuration came meanwhile", NULL);
	finish(p, "cancelled", false);
}

void reload_forget(struct control_pool *p, void *arg)
{
	if (p->reload && p->reload->arg == arg)
		p->reload->fn = NULL;
}

/* ---- one look
 * ---------------------------------------------------------------------------------------------- */

static bool carry_out(struct control_pool *p, enum bg_act act, const struct registry_pool *rp, mono_t now)
{
	switch (act) {
	case BG_START: start_fresh(p, rp, now); return true;
	case BG_LET_GO: let_one_go(p, now); return true;
	case BG_ACCEPT: accept_fresh(p); return true;
	case BG_TURN_BACK: turn_back(p, now); return true;
	case BG_DONE:
		if (p->reload->bg.turned)
			fail(p, now);
		else
			succeed(p);
		return false;
	case BG_FAILED: fail(p, now); return false;
	case BG_WAIT: break;
	}
	return false;
}

mono_t reload_step(struct control_pool *p, const struct registry_pool *rp, mono_t now)
{
	struct reload *l = p->reload;
	bool moved = false, more = l != NULL;
	struct bg_facts f = { 0 };
	while (more) {
		f = (struct bg_facts){ .old = slots_count(p, SLOT_MAIN, true),
			.accepted = slots_count(p, SLOT_ACCEPTED, true),
			.leaving = slots_count(p, SLOT_LEAVING, false),
			.fresh = look_at_fresh(p, rp, now) };
		enum room_beside planner = f.fresh == BG_FRESH_NONE ? ask_planner(p, now) : BESIDE_UNKNOWN;
		if (planner == BESIDE_UNTOLD && !l->bg.turned && mono_ms_between(l->since, now) < TOLD_MS)
			break; /* what the new ones need is on its way */
		f.fits = f.fresh == BG_FRESH_NONE && fits(p, rp, planner);
		enum bg_act act = bluegreen_step(&l->bg, &f);
		more = carry_out(p, act, rp, now);
		moved |= act != BG_WAIT;
	}
	if (moved)
		control_wake(p->control);
	if (!p->reload)
		return MONO_NEVER;
	if (f.fresh == BG_FRESH_NONE)
		return mono_add_ms(now, LOOK_AGAIN_MS);
	mono_t late = mono_add_ms(l->fresh_since, start_timeout_ms(p, rp));
	return mono_before(late, now) ? now : late;
}

/* ---- the beginning
 * ----------------------------------------------------------------------------------------- */

/* Of what serves; after a start of the daemon that may be another than the configured one. */
static const struct control_variant *serving(const struct control_pool *p)
{
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i]->role == SLOT_MAIN && p->slots[i]->plan.wanted)
			return &p->slots[i]->variant;
	return &p->variant;
}

static struct reload *begin(struct control_pool *p, const struct control_variant *to, const char *by)
{
	struct reload *l = p->reload = NEW(struct reload);
	variant_copy(&l->from, serving(p));
	variant_copy(&l->to, to);
	l->by = mem_strdup(by);
	l->since = l->fresh_since = mono_now();
	for (size_t i = 0; i < p->nslots; i++) /* those that stop already */
		if (p->slots[i]->role == SLOT_MAIN && !p->slots[i]->plan.wanted)
			slot_leave(p->slots[i], mono_add_ms(l->since, LEAVE_MS));
	control_wake(p->control);
	return l;
}

/* Engines of the wanted kind that run already count as such. */
static void count_those_there(struct control_pool *p, const struct registry_pool *rp)
{
	const struct control_variant *to = &p->reload->to;
	for (size_t i = 0; i < p->nslots; i++) {
		struct control_slot *s = p->slots[i];
		if (s->role != SLOT_MAIN || !s->plan.wanted || !variant_eq(&s->variant, to))
			continue;
		const struct registry_replica *r = slot_replica(rp, s);
		if (r && r->ready)
			s->role = SLOT_ACCEPTED;
		else if (!fresh_of(p))
			s->role = SLOT_FRESH;
	}
}

int control_reload(struct control *c, struct control_pool *p, const char *model, const char *by,
	control_reload_fn *fn, void *arg, struct err *reterr)
{
	char why[512];
	if (p->external || (model && !p->cfg->model))
		return err_set(reterr, -EOPNOTSUPP, "pool %s %s", p->cfg->id,
			p->external ? "is served by a server that is not ours; reload it there"
				    : "has an engine that brings its own model");
	if (control_refuses(c, p, why, sizeof why))
		return err_set(reterr, -EBUSY, "%s", why);
	if (c->quiet || p->removed)
		return err_set(reterr, -EBUSY, "pool %s is going down", p->cfg->id);
	if (p->reload)
		return err_set(reterr, -EBUSY,
			"the engines of pool %s are being replaced already, by order of %s", p->cfg->id,
			p->reload->by ? p->reload->by : "the configuration");
	if (p->op != OP_NONE || pool_is_held(p))
		return err_set(reterr, -EBUSY, "pool %s is being drained, stopped or restarted", p->cfg->id);
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(c->o.registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, view_str(p->cfg->id));
	bool configured =
		model && (strcmp(model, p->cfg->model) == 0 ||
				 (rp && rp->model && rp->model->path && strcmp(model, rp->model->path) == 0));
	struct control_variant to = variant_wanted(p);
	if (model)
		mem_setstr(&to.model, configured ? NULL : model);
	struct reload *l = begin(p, &to, by);
	l->ordered = true;
	l->fn = fn;
	l->arg = arg;
	variant_done(&to);
	log_event(LOG_INFO, "reload", p->cfg->id,
		(struct log_field[]){ LOG_STR("pool_id", p->cfg->id), LOG_STR("by", by), LOG_END },
		"%s asks for new engines of pool %s with %s.", by, p->cfg->id, model_of(p, &l->to));
	return 0;
}

/* An order that was given stands, with the newest configuration; what came so far is replaced again. */
static void retarget(struct control_pool *p, const char *spec)
{
	struct reload *l = p->reload;
	drop_fresh(p, mono_now());
	accepted_are_main(p);
	l->bg = (struct bluegreen){ .swapped = l->bg.swapped };
	snprintf(l->to.spec, sizeof l->to.spec, "%s", spec);
	log_info("reload", p->cfg->id, "The configuration of pool %s changed: its new engines follow it.",
		p->cfg->id);
	control_wake(p->control);
}

static bool some_serve(const struct control_pool *p, const struct registry_pool *rp)
{
	for (size_t i = 0; i < p->nslots; i++) {
		const struct registry_replica *r = slot_replica(rp, p->slots[i]);
		if (p->slots[i]->role == SLOT_MAIN && p->slots[i]->plan.wanted &&
			!(r && r->facts.state == REPLICA_FAILED))
			return true;
	}
	return false;
}

static bool all_are(const struct control_pool *p, const struct control_variant *v)
{
	for (size_t i = 0; i < p->nslots; i++)
		if (p->slots[i]->role == SLOT_MAIN && p->slots[i]->plan.wanted &&
			!variant_eq(&p->slots[i]->variant, v))
			return false;
	return true;
}

void reload_for_config(struct control_pool *p, const struct registry_pool *rp, bool model_changed)
{
	struct control_variant v = variant_wanted(p);
	if (p->reload && p->reload->ordered && !model_changed && !p->reload->bg.turned) {
		if (strcmp(p->reload->to.spec, v.spec) != 0)
			retarget(p, v.spec);
		variant_done(&v);
		return;
	}
	if (p->reload && !p->reload->bg.turned && variant_eq(&p->reload->to, &v)) {
		variant_done(&v);
		return;
	}
	bool swapped = p->reload && p->reload->bg.swapped;
	reload_cancel(p, model_changed ? "The configuration names another model now." : NULL);
	bool wanted = slots_count(p, SLOT_MAIN, true) > 0, gave_way = swapped && !wanted;
	bool stopping = (rp && rp->held) || (p->op != OP_NONE && p->op != OP_RESTART);
	if (all_are(p, &v) || stopping || p->external || !some_serve(p, rp)) {
		/* Nothing serves that could be lost. What failed was wanted, and what gave way for the engine
		 * that is not to come now: it is tried with the new values. */
		p->started = p->started || (!stopping && (gave_way || (wanted && !all_are(p, &v))));
		variant_switch(p, &v, mono_add_ms(mono_now(), LEAVE_MS));
	} else {
		if (p->op == OP_RESTART)
			op_end(p); /* new engines are a restart, too */
		begin(p, &v, NULL);
		count_those_there(p, rp);
		log_info("reload", p->cfg->id,
			"The configuration of pool %s changed: its engines are replaced one after the other.",
			p->cfg->id);
	}
	variant_done(&v);
}
