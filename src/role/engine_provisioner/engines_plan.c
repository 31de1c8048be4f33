/* SPDX-License-Identifier: Apache-2.0
 *
 * corral engines plan: the steps for each pool's engine and what is missing for them; nothing is begun.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "role/engine_provisioner/engines_int.h"
#include "role/engine_provisioner/pools.h"

enum { OUT_MAX = 4 * 1024 * 1024 };

struct plan {
	const struct config_pool *pool;
	struct engine_def def;
	struct steps steps;
	char *why; /* what it is, in a sentence */
	struct preflight_report missing;
	struct strv notes;
};

static void plan_done(struct plan *p)
{
	engine_def_done(&p->def);
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
	engine_build_done(&there);
	source_names_done(&names);
	source_choice_done(&choice);
	source_spec_done(&spec);
}

static void other_steps(struct engines *e, struct plan *p)
{
	struct engine_ensure_opts o = { .prefix_dir = e->prefix, .allow_cpu = true };
	const char *key = p->def.path ? p->def.path : engine_mode_name(p->def.mode);
	p->why = engine_describe(&p->def, &o);
	if (p->def.mode == ENGINE_MODE_EXTERNAL)
		return;
	if (strncmp(p->why, "package: Debian's llama.cpp from", 32) == 0) {
		steps_add(&p->steps, STEP_FETCH, key, "Fetch the distribution's packages by a private apt.");
		steps_add(&p->steps, STEP_VERIFY, key, "Check their signed digests.");
		steps_add(&p->steps, STEP_UNPACK, key, "Unpack them into a folder of ours.");
		steps_add(&p->steps, STEP_INSTALL, key, "Run its --version, put it in its place.");
	} else {
		steps_add(&p->steps, STEP_VERIFY, key, "Ask the program for its version.");
	}
	steps_add(&p->steps, STEP_CANARY, "one token",
		"Answer one token with the pool's own model on its own devices, when the pool starts it.");
}

/* auto, where no llama-server is installed and one built here is the next choice. */
static bool becomes_source(struct engines *e, struct plan *p)
{
	struct engine_ensure_opts o = { .prefix_dir = e->prefix,
		.offline = e->o->config->network.offline,
		.devices = e->devices,
		.ndevices = engines_devices(e, p->pool),
		.cpu_instead = engines_cpu_instead(e) };
	if (p->def.mode != ENGINE_MODE_AUTO)
		return false;
	AUTO(mem_freep) char *said = engine_describe(&p->def, &o);
	return strncmp(said, "source: ", 8) == 0;
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
	for (size_t i = 0; i < p->steps.len; i++)
		(void)buf_addf(b, "  %zu. %-11s %s\n", i + 1, step_name(p->steps.items[i].kind),
			p->steps.items[i].text);
	for (size_t i = 0; i < p->notes.len; i++)
		(void)buf_addf(b, "  note: %s\n", p->notes.items[i]);
	for (size_t i = 0; i < p->missing.len; i++) {
		(void)buf_addf(b, "  missing: %s\n", p->missing.items[i].text);
		if (p->missing.items[i].command)
			(void)buf_addf(b, "      %s\n", p->missing.items[i].command);
	}
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
		if (p.def.mode == ENGINE_MODE_SOURCE || becomes_source(e, &p))
			source_steps(e, &p, &k.facts);
		else
			other_steps(e, &p);
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
