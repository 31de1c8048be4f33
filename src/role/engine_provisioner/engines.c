/* SPDX-License-Identifier: Apache-2.0
 *
 * corral engines: the node's side of it, without a daemon.
 */
#include "role/engine_provisioner/engines.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "gpu/monitor.h"
#include "provision/fetch/fetch.h"
#include "role/engine_provisioner/engines_int.h"
#include "role/engine_provisioner/pools.h"

enum { OUT_MAX = 1024 * 1024 };

/* ---- devices ------------------------------------------------------------------------------------- */

static void look_at_gpus(struct engines *e)
{
	const char *sysfs = getenv("CORRAL_SYSFS");
	sysfs = sysfs && *sysfs ? sysfs : NULL;
	if (e->o->config->gpu == CONFIG_GPU_NONE)
		return;
	struct gpu_monitor *m = gpu_monitor_heard(e->loop, sysfs);
	e->ndevices = node_build_devices(gpu_monitor_list(m), e->devices, GPU_DEVICES_MAX);
	gpu_monitor_free(m);
}

size_t engines_devices(const struct engines *e, const struct config_pool *p)
{
	bool cpu = p->devices && (strcmp(p->devices, "cpu") == 0 || strcmp(p->devices, "none") == 0);
	return cpu ? 0 : e->ndevices;
}

bool engines_cpu_instead(const struct engines *e)
{
	return e->o->config->gpu == CONFIG_GPU_OPTIONAL;
}

bool engines_meant(const struct engines *e, const struct config_pool *p)
{
	return !e->o->name || config_pool_find(e->o->config, view_str(e->o->name)) == p;
}

static int complain(const char *what, const char *text)
{
	fprintf(stderr, "corral: engines %s: %s\n", what, text);
	return 1;
}

/* ---- provision ----------------------------------------------------------------------------------- */

struct work {
	struct engines *e;
	const struct config_pool *pool;
	struct engine_job *job;
	bool upgrade;
	bool look;    /* only which commit it would be */
	char *newest; /* of look: its 40 digits and its name */
	char *newest_name;
	bool bar; /* a terminal: one line that is written over */
	bool shown;
	char told_phase[24]; /* without a terminal: a line a sentence, and one for each tenth */
	int told_tenth;
	int status;
};

static void bar_clear(struct work *w)
{
	if (w->shown)
		fputs("\r\033[K", stderr);
	w->shown = false;
}

static void bar_show(struct work *w, const struct engine_progress *p)
{
	enum { WIDTH = 20 };
	char bar[WIDTH + 1];
	int full = p->pct < 0 ? 0 : p->pct * WIDTH / 100;
	for (int i = 0; i < WIDTH; i++)
		bar[i] = i < full ? '#' : '.';
	bar[WIDTH] = '\0';
	char left[32];
	num_format_duration(p->eta_ms / 1000 * 1000, left, sizeof left);
	fprintf(stderr, "\r\033[K%s [%s] %.80s%s%s%s", w->pool->id, bar, p->text, p->eta_ms < 1000 ? "" : " ",
		p->eta_ms < 1000 ? "" : left, p->eta_ms < 1000 ? "" : " left");
	fflush(stderr);
	w->shown = true;
}

static void json_line(const char *pool, const char *key, const char *text, const struct engine_progress *p,
	const char *program)
{
	AUTO(buf_done) struct buf b = BUF(OUT_MAX);
	(void)buf_adds(&b, "{\"pool\":");
	(void)buf_add_json(&b, view_str(pool));
	if (p) {
		(void)buf_addf(&b, ",\"phase\":\"%s\",\"percent\":", p->phase);
		(void)(p->pct < 0 ? buf_adds(&b, "null") : buf_addf(&b, "%d", p->pct));
		(void)buf_adds(&b, ",\"eta_ms\":");
		(void)(p->eta_ms < 0 ? buf_adds(&b, "null") : buf_addf(&b, "%lld", (long long)p->eta_ms));
	}
	(void)buf_addf(&b, ",\"%s\":", key);
	(void)buf_add_json(&b, view_str(text));
	if (program) {
		(void)buf_adds(&b, ",\"program\":");
		(void)buf_add_json(&b, view_str(program));
	}
	(void)buf_adds(&b, "}\n");
	(void)fwrite(buf_str(&b), 1, b.len, stdout);
	fflush(stdout);
}

static bool is_news(struct work *w, const struct engine_progress *p)
{
	int tenth = p->pct / 10;
	bool same = strncmp(w->told_phase, p->phase, sizeof w->told_phase - 1) == 0;
	if (p->pct > 0 && same && tenth <= w->told_tenth)
		return false;
	snprintf(w->told_phase, sizeof w->told_phase, "%s", p->phase);
	w->told_tenth = p->pct > 0 ? tenth : 0;
	return true;
}

static void on_progress(void *arg, const struct engine_progress *p)
{
	struct work *w = arg;
	if (w->look)
		return;
	if (w->e->o->json)
		json_line(w->pool->id, "text", p->text, p, NULL);
	else if (w->bar)
		bar_show(w, p);
	else if (is_news(w, p))
		fprintf(stderr, "%s: %s\n", w->pool->id, p->text);
}

static void on_done(void *arg, const struct engine_build *build, const struct err *err)
{
	struct work *w = arg;
	w->job = NULL;
	bar_clear(w);
	if (err) {
		w->status = 1;
		if (w->e->o->json)
			json_line(w->pool->id, "error", err->msg, NULL, NULL);
		else
			fprintf(stderr, "corral: engines %s %s: %s\n", w->e->o->verb, w->pool->id, err->msg);
	} else if (w->look) {
		w->newest = mem_strdup(build->why);
		w->newest_name = mem_strdup(build->version);
	} else if (w->e->o->json) {
		json_line(w->pool->id, "done", build->why, NULL, build->program);
	} else {
		printf("%s: %s\n", w->pool->id, build->why);
	}
	loop_stop(w->e->loop);
}

static void on_signal(void *arg, int signo)
{
	struct work *w = arg;
	bar_clear(w);
	engine_job_cancel(&w->job); /* what is done stays done */
	w->status = 128 + signo;
	loop_stop(w->e->loop);
}

static void provision_one(struct engines *e, struct work *w)
{
	const struct config *c = e->o->config;
	struct engine_def def = { 0 };
	struct loop_signal *signals[2] = { NULL, NULL };
	struct fetch_policy policy = { .offline = c->network.offline, .plain_http = c->network.plain_http };
	strv_copy(&policy.allow_hosts, &c->network.allow_hosts);
	strv_copy(&policy.deny, &c->network.deny);
	struct engine_ensure_opts o = { .prefix_dir = e->prefix,
		.policy = &policy,
		.allow_cpu = c->gpu != CONFIG_GPU_REQUIRED || !engines_devices(e, w->pool),
		.offline = c->network.offline,
		.devices = e->devices,
		.ndevices = engines_devices(e, w->pool),
		.cpu_instead = engines_cpu_instead(e),
		.build_jobs = c->build.jobs,
		.allow_package_installs = c->build.allow_package_installs,
		.upgrade = w->upgrade,
		.upgrade_to = w->upgrade ? e->o->to : NULL,
		.again = true,
		.look = w->look };
	agent_engine_def(&w->pool->engine, &def);
	(void)!loop_signal_start(e->loop, &signals[0], SIGINT, on_signal, w);
	(void)!loop_signal_start(e->loop, &signals[1], SIGTERM, on_signal, w);
	w->job = engine_ensure(e->loop, &def, &o, on_progress, on_done, w);
	strv_done(&policy.allow_hosts);
	strv_done(&policy.deny);
	(void)!loop_run(e->loop);
	loop_signal_stop(&signals[0]);
	loop_signal_stop(&signals[1]);
	engine_def_done(&def);
}

static int provision(struct engines *e)
{
	const struct config *c = e->o->config;
	int status = 0;
	for (size_t i = 0; i < c->npools && status <= 1; i++) {
		struct work w = { .e = e, .pool = &c->pools[i], .bar = isatty(STDERR_FILENO) && !e->o->json };
		if (!engines_meant(e, w.pool))
			continue;
		provision_one(e, &w);
		status = MAX(status, w.status);
	}
	return status;
}

/* ---- newer ones ---------------------------------------------------------------------------------- */

/* The pool's current build; false: none. */
static bool current(const struct engines *e, const struct config_pool *p, struct source_record *ret)
{
	struct engine_def def = { 0 };
	struct source_spec spec;
	struct source_names names;
	agent_engine_def(&p->engine, &def);
	bool there = source_spec_init(&spec, &def, NULL) == 0;
	if (there) {
		source_names_init(&names, &spec, e->prefix);
		there = source_record_read(names.pointer, ret) == 0;
		source_names_done(&names);
		source_spec_done(&spec);
	}
	engine_def_done(&def);
	return there;
}

static void outdated_row(
	const struct engines *e, struct work *w, const struct source_record *now, struct buf *b)
{
	const char *have = now->version ? now->version : now->commit ? now->commit : "none";
	bool newer = !now->commit || strcmp(now->commit, w->newest) != 0;
	if (e->o->json) {
		(void)buf_addf(b, "%s{\"pool\":", b->len > sizeof "{\"engines\":[" - 1 ? "," : "");
		(void)buf_add_json(b, view_str(w->pool->id));
		(void)buf_addf(b,
			",\"commit\":%s%s%s,\"newest\":\"%s\",\"newest_name\":", now->commit ? "\"" : "",
			now->commit ? now->commit : "null", now->commit ? "\"" : "", w->newest);
		if (w->newest_name)
			(void)buf_add_json(b, view_str(w->newest_name));
		else
			(void)buf_adds(b, "null");
		(void)buf_addf(b, ",\"outdated\":%s}", newer ? "true" : "false");
		return;
	}
	(void)buf_addf(b, "%-24s %-16.16s %s (%.12s)%s\n", w->pool->id, have,
		w->newest_name ? w->newest_name : "that commit", w->newest, newer ? "  newer" : "");
}

static int outdated(struct engines *e)
{
	const struct config *c = e->o->config;
	AUTO(buf_done) struct buf b = BUF(OUT_MAX);
	int status = 0;
	if (e->o->json)
		(void)buf_adds(&b, "{\"engines\":[");
	else
		(void)buf_addf(&b, "%-24s %-16s %s\n", "POOL", "HERE", "NEWEST");
	for (size_t i = 0; i < c->npools && status <= 1; i++) {
		struct work w = { .e = e, .pool = &c->pools[i], .look = true };
		struct source_record now = { 0 };
		if (!engines_meant(e, w.pool) || w.pool->engine.mode != CONFIG_MODE_SOURCE)
			continue;
		(void)!current(e, w.pool, &now);
		provision_one(e, &w);
		if (w.newest)
			outdated_row(e, &w, &now, &b);
		status = MAX(status, w.status);
		source_record_done(&now);
		free(w.newest);
		free(w.newest_name);
	}
	(void)buf_adds(&b, e->o->json ? "]}\n" : "");
	(void)fwrite(buf_str(&b), 1, b.len, stdout);
	return status;
}

static int upgrade(struct engines *e)
{
	struct work w = { .e = e,
		.pool = config_pool_find(e->o->config, view_str(e->o->name)),
		.upgrade = true,
		.bar = isatty(STDERR_FILENO) && !e->o->json };
	struct source_record was = { 0 }, now = { 0 };
	if (w.pool->engine.mode != CONFIG_MODE_SOURCE)
		return complain("upgrade", "that pool does not build its engine (engine.mode: source)");
	(void)!current(e, w.pool, &was);
	provision_one(e, &w);
	if (w.status == 0 && current(e, w.pool, &now) && e->o->ret_changed)
		*e->o->ret_changed = !str_same(was.folder, now.folder);
	source_record_done(&was);
	source_record_done(&now);
	return w.status;
}

/* ---- what lies here ------------------------------------------------------------------------------ */

static void ls_json(const struct source_builds *all, struct buf *b)
{
	(void)buf_adds(b, "{\"engines\":[");
	for (size_t i = 0; i < all->len; i++) {
		const struct source_record *r = &all->items[i].record;
		const char *const texts[][2] = { { "folder", r->folder }, { "version", r->version },
			{ "commit", r->commit }, { "ref", r->ref }, { "repo", r->repo },
			{ "backend", r->backend }, { "flags", r->flags }, { "compiler", r->compiler },
			{ "created", r->created } };
		(void)buf_adds(b, i ? ",{\"mode\":\"source\"" : "{\"mode\":\"source\"");
		for (size_t k = 0; k < ARRAY_LEN(texts); k++) {
			(void)buf_addf(b, ",\"%s\":", texts[k][0]);
			if (texts[k][1])
				(void)buf_add_json(b, view_str(texts[k][1]));
			else
				(void)buf_adds(b, "null");
		}
		(void)buf_addf(b, ",\"bytes\":%llu,\"current\":%s,\"last\":%s}",
			(unsigned long long)all->items[i].bytes, all->items[i].current ? "true" : "false",
			all->items[i].last ? "true" : "false");
	}
	(void)buf_adds(b, "]}\n");
}

static void ls_text(const struct source_builds *all, struct buf *b)
{
	static const char format[] = "%-24s %-10s %-12.12s %-7s %10s  %-8s %s\n";
	if (!all->len) {
		(void)buf_adds(b, "No engine was built here.\n");
		return;
	}
	(void)buf_addf(b, "%-24s %-10s %-12s %-7s %10s  %-8s %s\n", "BUILD", "VERSION", "COMMIT", "FOR",
		"SIZE", "STATE", "CREATED");
	for (size_t i = 0; i < all->len; i++) {
		const struct source_build *x = &all->items[i];
		char size[32];
		num_format_bytes(x->bytes, size, sizeof size);
		(void)buf_addf(b, format, x->record.folder, x->record.version ? x->record.version : "-",
			x->record.commit, x->record.backend, size,
			x->current ? "current"
			: x->last  ? "before"
				   : "-",
			x->record.created ? x->record.created : "-");
	}
}

static int ls(struct engines *e)
{
	AUTO(buf_done) struct buf b = BUF(OUT_MAX);
	struct source_builds all;
	source_builds_read(e->prefix, &all);
	if (e->o->json)
		ls_json(&all, &b);
	else
		ls_text(&all, &b);
	(void)fwrite(buf_str(&b), 1, b.len, stdout);
	source_builds_done(&all);
	return 0;
}

static int rm(struct engines *e)
{
	struct err err = { 0 };
	AUTO(mem_freep) char *folder = NULL;
	if (source_build_remove(e->prefix, e->o->name, e->o->force, &folder, &err) < 0)
		return complain("rm", err.msg);
	printf("%s was removed.\n", folder);
	return 0;
}

static int rollback(struct engines *e)
{
	const struct config_pool *p = config_pool_find(e->o->config, view_str(e->o->name));
	struct engine_def def = { 0 };
	struct source_spec spec;
	struct source_names names;
	struct source_record now;
	struct err err = { 0 };
	agent_engine_def(&p->engine, &def);
	int r = def.mode == ENGINE_MODE_SOURCE
			? source_spec_init(&spec, &def, &err)
			: err_set(&err, -EINVAL, "pool %s does not build its engine (engine.mode: source)",
				  p->id);
	engine_def_done(&def);
	if (r)
		return complain("rollback", err.msg);
	source_names_init(&names, &spec, e->prefix);
	r = source_rollback(&names, &now, &err);
	if (!r) {
		printf("%s: %s %s (%.12s) is current again.\n", p->id, now.folder,
			now.version ? now.version : "", now.commit);
		source_record_done(&now);
	}
	source_names_done(&names);
	source_spec_done(&spec);
	return r ? complain("rollback", err.msg) : 0;
}

int engines_run(const struct engines_opts *o)
{
	static const struct {
		const char *verb;
		int (*run)(struct engines *e);
		bool devices;
	} verbs[] = { { "plan", engines_plan, true }, { "provision", provision, true }, { "ls", ls, false },
		{ "rm", rm, false }, { "rollback", rollback, false }, { "outdated", outdated, false },
		{ "upgrade", upgrade, true } };
	struct engines *e = NEW(struct engines);
	int status = 2;
	e->o = o;
	e->loop = loop_new("engines");
	e->prefix = path_join(o->config->state_dir, "engines");
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		if (strcmp(o->verb, verbs[i].verb) != 0)
			continue;
		if (verbs[i].devices)
			look_at_gpus(e);
		status = verbs[i].run(e);
	}
	if (status == 2)
		(void)complain(o->verb, "there is no such thing to do");
	loop_free(e->loop);
	free(e->prefix);
	free(e);
	return status;
}
