/* SPDX-License-Identifier: Apache-2.0
 *
 * corral engines plan: the steps for each pool's engine and what is missing for them; nothing is begun.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/url.h"
#include "role/engine_provisioner/engines_int.h"
#include "role/engine_provisioner/pools.h"

enum { OUT_MAX = 4 * 1024 * 1024, MODEL_PLAN_MS = 10 * 1000 };

struct plan {
	const struct config_pool *pool;
	struct engine_def def;
	struct steps steps;
	struct steps_record done[STEPS_MAX]; /* how far each has come */
	bool here;                           /* the engine */
	char *why;                           /* what it is, in a sentence */
	struct preflight_report missing;
	struct strv notes;
};

static void plan_done(struct plan *p)
{
	engine_def_done(&p->def);
	for (size_t i = 0; i < p->steps.len; i++)
		steps_record_done(&p->done[i]);
	steps_done(&p->steps);
	preflight_report_done(&p->missing);
	strv_done(&p->notes);
	free(p->why);
}

/* ---- what is here -------------------------------------------------------------------------------- */

struct look {
	struct loop *loop;
	struct preflight_facts facts;
	struct preflight *p;
};

static void on_facts(void *arg, struct preflight_facts *f)
{
	struct look *k = arg;
	k->facts = *f;
	loop_stop(k->loop);
}

static void look(struct engines *e, struct look *k)
{
	const char *root = getenv("CORRAL_PREFLIGHT_ROOT");
	*k = (struct look){ .loop = e->loop };
	preflight_collect(e->loop, root ? root : "", e->prefix, on_facts, k, &k->p);
	(void)!loop_run(e->loop);
}

/* ---- one pool ------------------------------------------------------------------------------------ */

static void source_steps(struct engines *e, struct plan *p, const struct preflight_facts *f)
{
	struct source_spec spec;
	struct source_choice choice;
	struct source_names names;
	struct engine_build there = { 0 };
	struct err err = { 0 };
	if (source_spec_init(&spec, &p->def, &err) < 0) {
		p->why = mem_fmt("cannot be had: %s", err.msg);
		return;
	}
	size_t n = engines_devices(e, p->pool);
	source_choose(&spec, f, e->devices, n, engines_cpu_instead(e), &choice);
	struct preflight_wish w = { .backend = choice.backend,
		.devices = e->devices,
		.ndevices = n,
		.disk = source_disk(choice.backend) };
	preflight_check(f, &w, &p->missing);
	AUTO(strv_done) struct strv defines = { 0 };
	source_defines(&spec, &choice, f, &p->missing, &defines);
	source_plan(&spec, &choice, f, &defines, NULL, &p->steps);
	strv_copy(&p->notes, &spec.notes);
	strv_copy(&p->notes, &p->missing.notes);
	source_names_init(&names, &spec, e->prefix);
	if (source_provisioned(&names, e->devices, n, engines_cpu_instead(e), &there))
		p->why = mem_fmt("%s; it is here: nothing has to be done", there.why);
	else
		p->why = mem_fmt("source: built with %s", choice.why);
	p->here = there.program != NULL;
	engine_build_done(&there);
	source_names_done(&names);
	source_choice_done(&choice);
	source_spec_done(&spec);
}

static void other_steps(struct engines *e, struct plan *p, const struct engine_outlook *l)
{
	struct engine_ensure_opts o;
	engines_ensure_opts(e, p->pool, &o);
	p->why = engine_describe(&p->def, &o);
	p->here = l->here;
	engine_plan(&p->def, l->mode, l->what, &p->steps);
}

/* ---- how far it has come ------------------------------------------------------------------------- */

/* The records of an engine's steps stand under the hash of these alone, which pools share. */
static void look_records(struct engines *e, struct plan *p)
{
	AUTO(steps_done) struct steps own = { 0 };
	char hash[STEPS_HASH_LEN + 1];
	bool all = true;
	for (size_t i = 0; i < p->steps.len; i++)
		steps_add(&own, p->steps.items[i].kind, p->steps.items[i].key, "-");
	steps_hash(&own, hash);
	for (size_t i = 0; i < own.len; i++) {
		if (e->catalog)
			(void)!e->records.read(e->records.arg, hash, i, &p->done[i]);
		all &= p->done[i].state == STEPS_DONE;
	}
	for (size_t i = 0; i < own.len; i++) {
		if (p->here)
			p->done[i].state = STEPS_DONE;
		else if (all) /* it was removed since */
			p->done[i].state = STEPS_TODO;
	}
}

/* What fetching a model would be: its store is asked for the files' names and sizes, nothing is fetched. */
struct asking {
	struct engines *e;
	struct model_job *job;
	struct loop_timer deadline;
	char *text;
};

static void on_model_plan(void *arg, const struct model_plan *plan, enum fetch_why why, const struct err *err)
{
	struct asking *a = arg;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	char size[32];
	a->job = NULL;
	if (!plan) {
		a->text = mem_fmt("It cannot be had now: %s.", err ? err->msg : fetch_why_name(why));
	} else {
		num_format_bytes(plan->bytes_to_fetch, size, sizeof size);
		for (size_t i = 0; i < plan->steps.len; i++)
			(void)buf_addf(&b, "%s; ", plan->steps.items[i]);
		a->text = mem_fmt("%s%s in all.", buf_str(&b), size);
	}
	loop_stop(a->e->loop);
}

static void on_model_late(void *arg)
{
	struct asking *a = arg;
	model_job_cancel(&a->job);
	a->text = mem_strdup("Its store has not answered for 10 s.");
	loop_stop(a->e->loop);
}

static char *ask_model(struct engines *e, const struct model_set *set, const struct model_ensure_opts *o)
{
	struct asking a = { .e = e };
	a.job = model_plan(e->loop, set, o, on_model_plan, &a);
	loop_timer_start(e->loop, &a.deadline, MODEL_PLAN_MS, on_model_late, &a);
	(void)!loop_run(e->loop);
	loop_timer_stop(&a.deadline);
	model_job_cancel(&a.job);
	return a.text;
}

/* ret_text: what is missing of it, when it is. */
static bool model_here(struct engines *e, const struct config_pool *c, char **ret_text)
{
	AUTO(agent_fetch_done) struct agent_fetch fetch = { 0 };
	struct model_got got = { 0 };
	struct model_set set = { .ref = c->model,
		.mmproj = c->model_set.mmproj,
		.draft = c->model_set.draft,
		.lora = c->model_set.lora };
	agent_fetch_make(e->o->config, &fetch);
	fetch.opts.want = c->engine.kind == CONFIG_ENGINE_LLAMACPP ? MODEL_GGUF : MODEL_ANY;
	bool there = model_present(&set, &fetch.opts, &got, NULL) == 0;
	*ret_text = there ? NULL : ask_model(e, &set, &fetch.opts);
	model_got_done(&got);
	return there;
}

/* What the pool adds: its model, and that the engine answers. */
static void pool_steps(struct engines *e, struct plan *p, const struct engine_outlook *l)
{
	const struct config_pool *c = p->pool;
	bool remote = c->model && p->def.mode != ENGINE_MODE_EXTERNAL &&
		      config_model_is_remote(e->o->config, c->model);
	if (p->steps.len && p->steps.items[p->steps.len - 1].kind == STEP_CANARY) { /* source_plan's own */
		struct step *last = &p->steps.items[--p->steps.len];
		free(last->key);
		free(last->text);
	}
	look_records(e, p);
	if (p->def.mode == ENGINE_MODE_EXTERNAL)
		return;
	size_t at = p->steps.len;
	AUTO(mem_freep) char *shown = remote ? ref_shown(c->model) : NULL;
	engine_plan_pool(shown, NULL, &p->steps);
	if (remote) {
		if (e->catalog)
			(void)!steps_noted(&e->records, STEP_MODEL_FETCH, shown, &p->done[at]);
		AUTO(mem_freep) char *what = NULL;
		bool here = model_here(e, c, &what);
		if (what) {
			AUTO(mem_freep) char *text = MEM_TAKE(p->steps.items[at].text);
			p->steps.items[at].text = mem_fmt("%s %s", text, what);
		}
		if (here || p->done[at].state == STEPS_DONE)
			p->done[at].state = here ? STEPS_DONE : STEPS_TODO;
		at++;
	}
	const char *build = l->name ? l->name : l->what;
	if (e->catalog && build && p->here) {
		AUTO(mem_freep) char *key = mem_fmt("%s %s", c->id, build);
		(void)!steps_noted(&e->records, STEP_CANARY, key, &p->done[at]);
	}
}

/* ---- output -------------------------------------------------------------------------------------- */

static void json_missing(const struct preflight_report *r, struct buf *b)
{
	(void)buf_adds(b, ",\"missing\":[");
	for (size_t i = 0; i < r->len; i++) {
		const struct preflight_item *it = &r->items[i];
		(void)buf_addf(b, "%s{\"what\":", i ? "," : "");
		(void)buf_add_json(b, view_str(it->what));
		(void)buf_adds(b, ",\"text\":");
		(void)buf_add_json(b, view_str(it->text));
		(void)buf_adds(b, ",\"command\":");
		if (it->command)
			(void)buf_add_json(b, view_str(it->command));
		else
			(void)buf_adds(b, "null");
		(void)buf_adds(b, ",\"packages\":{");
		for (size_t d = 0; it->packages[0] && d < DISTRO_COUNT; d++)
			(void)buf_addf(b, "%s\"%s\":\"%s\"", d ? "," : "",
				preflight_distro_name((enum preflight_distro)d), it->packages[d]);
		(void)buf_adds(b, "}}");
	}
	(void)buf_adds(b, "]");
}

static void json_time(const char *key, int64_t ms, struct buf *b)
{
	char text[WALL_STR_LEN + 1];
	if (ms)
		wall_format(ms, text);
	(void)buf_addf(b, ms ? ",\"%s\":\"%s\"" : ",\"%s\":null", key, text);
}

static void json_record(const struct steps_record *r, struct buf *b)
{
	(void)buf_addf(b, ",\"state\":\"%s\"", steps_state_name(r->state));
	json_time("started_at", r->started_ms, b);
	json_time("ended_at", r->ended_ms, b);
	(void)buf_adds(b, ",\"detail\":");
	(void)(r->detail ? buf_add_json(b, view_str(r->detail)) : buf_adds(b, "null"));
	(void)buf_adds(b, ",\"log\":");
	(void)(r->log ? buf_add_json(b, view_str(r->log)) : buf_adds(b, "null"));
}

static void json_plan(const struct plan *p, struct buf *b)
{
	char hash[STEPS_HASH_LEN + 1];
	steps_hash(&p->steps, hash);
	(void)buf_adds(b, "{\"pool\":");
	(void)buf_add_json(b, view_str(p->pool->id));
	(void)buf_addf(b, ",\"mode\":\"%s\",\"plan\":\"%s\",\"why\":", engine_mode_name(p->def.mode), hash);
	(void)buf_add_json(b, view_str(p->why));
	(void)buf_adds(b, ",\"steps\":[");
	for (size_t i = 0; i < p->steps.len; i++) {
		(void)buf_addf(
			b, "%s{\"step\":\"%s\",\"text\":", i ? "," : "", step_name(p->steps.items[i].kind));
		(void)buf_add_json(b, view_str(p->steps.items[i].text));
		json_record(&p->done[i], b);
		(void)buf_adds(b, "}");
	}
	(void)buf_adds(b, "]");
	json_missing(&p->missing, b);
	(void)buf_adds(b, ",\"notes\":[");
	for (size_t i = 0; i < p->notes.len; i++) {
		(void)buf_adds(b, i ? "," : "");
		(void)buf_add_json(b, view_str(p->notes.items[i]));
	}
	(void)buf_adds(b, "]}");
}

static void text_plan(const struct plan *p, struct buf *b)
{
	char hash[STEPS_HASH_LEN + 1];
	steps_hash(&p->steps, hash);
	(void)buf_addf(b, "Pool %s (plan %s): %s\n", p->pool->id, hash, p->why);
	for (size_t i = 0; i < p->steps.len; i++) {
		const struct steps_record *r = &p->done[i];
		(void)buf_addf(b, "  %zu. %-11s %-7s %s\n", i + 1, step_name(p->steps.items[i].kind),
			steps_state_name(r->state), p->steps.items[i].text);
		if (r->state == STEPS_FAILED && r->detail)
			(void)buf_addf(b, "       %s\n", r->detail);
		if (r->state == STEPS_FAILED && r->log && !(r->detail && strstr(r->detail, r->log)))
			(void)buf_addf(b, "       its output is in %s\n", r->log);
	}
	for (size_t i = 0; i < p->notes.len; i++)
		(void)buf_addf(b, "  note: %s\n", p->notes.items[i]);
	for (size_t i = 0; i < p->missing.len; i++) {
		(void)buf_addf(b, "  missing: %s\n", p->missing.items[i].text);
		if (p->missing.items[i].command)
			(void)buf_addf(b, "      %s\n", p->missing.items[i].command);
	}
}

/* What is here is taken for "latest" too, since a start asks no repository: said, with what does. */
static void note_latest(struct plan *p, const struct engine_outlook *l)
{
	if (!l->here || !str_same(p->pool->engine.version, "latest"))
		return;
	strv_addf(&p->notes,
		"engine.version is latest, and %s is here: it stays until `corral engines upgrade %s` gets "
		"a newer one; `corral engines outdated %s` asks whether there is one",
		l->version ? l->version : "a build", p->pool->id, p->pool->id);
}

int engines_plan(struct engines *e)
{
	const struct config *c = e->o->config;
	AUTO(buf_done) struct buf b = BUF(OUT_MAX);
	struct look k;
	bool lacks = false, first = true;
	look(e, &k);
	if (e->o->json)
		(void)buf_adds(&b, "{\"pools\":[");
	for (size_t i = 0; i < c->npools; i++) {
		struct plan p = { .pool = &c->pools[i] };
		if (!engines_meant(e, p.pool))
			continue;
		agent_engine_def(&p.pool->engine, &p.def);
		struct engine_outlook l;
		struct engine_ensure_opts o;
		engines_ensure_opts(e, p.pool, &o);
		engine_outlook_read(&p.def, &o, &l);
		if (l.mode == ENGINE_MODE_SOURCE)
			source_steps(e, &p, &k.facts);
		else
			other_steps(e, &p, &l);
		pool_steps(e, &p, &l);
		note_latest(&p, &l);
		engine_outlook_done(&l);
		if (!first)
			(void)buf_adds(&b, e->o->json ? "," : "\n");
		first = false;
		if (e->o->json)
			json_plan(&p, &b);
		else
			text_plan(&p, &b);
		lacks |= p.missing.len > 0;
		plan_done(&p);
	}
	if (e->o->json)
		(void)buf_adds(&b, "]}\n");
	else if (first)
		(void)buf_adds(&b, "No pool is configured.\n");
	(void)fwrite(buf_str(&b), 1, b.len, stdout);
	preflight_facts_done(&k.facts);
	return lacks ? 1 : 0;
}
