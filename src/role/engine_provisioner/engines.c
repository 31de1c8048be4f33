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
#include "base/mask.h"
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
	return mask_means_cpu(view_str(p->devices)) ? 0 : e->ndevices;
}

bool engines_cpu_instead(const struct engines *e)
{
	return e->o->config->gpu == CONFIG_GPU_OPTIONAL;
}

void engines_ensure_opts(const struct engines *e, const struct config_pool *p, struct engine_ensure_opts *ret)
{
	const struct config *c = e->o->config;
	*ret = (struct engine_ensure_opts){ .prefix_dir = e->prefix,
		.policy = &e->policy,
		.trust = { .strict = c->trust.mode == CONFIG_TRUST_STRICT,
			.require_digest = c->trust.require_digest,
			.registries = &c->trust.registries },
		.allow_cpu = c->gpu != CONFIG_GPU_REQUIRED || !engines_devices(e, p),
		.offline = c->network.offline,
		.devices = e->devices,
		.ndevices = engines_devices(e, p),
		.cpu_instead = engines_cpu_instead(e),
		.build_jobs = c->build.jobs,
		.allow_package_installs = c->build.allow_package_installs,
		.records = e->catalog ? &e->records : NULL };
}

bool engines_meant(const struct engines *e, const struct config_pool *p)
{
	return !e->o->name || config_pool_find(e->o->config, view_str(e->o->name)) == p;
}

int engines_complain(const char *what, const char *text)
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
		if (p->total)
			(void)buf_addf(&b, ",\"bytes\":%llu,\"total\":%llu", (unsigned long long)p->bytes,
				(unsigned long long)p->total);
		if (p->steps)
			(void)buf_addf(&b, ",\"step\":%u,\"steps\":%u", p->step, p->steps);
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
	struct engine_def def = { 0 };
	struct loop_signal *signals[2] = { NULL, NULL };
	struct engine_ensure_opts o;
	engines_ensure_opts(e, w->pool, &o);
	o.upgrade = w->upgrade;
	o.upgrade_to = w->upgrade ? e->o->to : NULL;
	o.look = w->look;
	o.again = true;
	agent_engine_def(&w->pool->engine, &def);
	(void)!loop_signal_start(e->loop, &signals[0], SIGINT, on_signal, w);
	(void)!loop_signal_start(e->loop, &signals[1], SIGTERM, on_signal, w);
	w->job = engine_ensure(e->loop, &def, &o, on_progress, on_done, w);
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

void engines_outlook(const struct engines *e, const struct config_pool *p, struct engine_outlook *ret)
{
	struct engine_def def = { 0 };
	struct engine_ensure_opts o;
	agent_engine_def(&p->engine, &def);
	engines_ensure_opts(e, p, &o);
	engine_outlook_read(&def, &o, ret);
	engine_def_done(&def);
}

/* A source build is newer by its commit, a package by its version. */
static void outdated_row(
	const struct engines *e, struct work *w, const struct engine_outlook *now, struct buf *b)
{
	bool source = now->mode == ENGINE_MODE_SOURCE;
	const char *have = source ? now->digest : now->version;
	const char *newest = source ? w->newest : w->newest_name;
	bool newer = !have || !newest || strcmp(have, newest) != 0;
	if (e->o->json) {
		(void)buf_addf(b, "%s{\"pool\":", b->len > sizeof "{\"engines\":[" - 1 ? "," : "");
		(void)buf_add_json(b, view_str(w->pool->id));
		(void)buf_addf(b, ",\"mode\":\"%s\",\"version\":", engine_mode_name(now->mode));
		(void)(now->version ? buf_add_json(b, view_str(now->version)) : buf_adds(b, "null"));
		(void)buf_adds(b, ",\"commit\":");
		(void)(source && have ? buf_add_json(b, view_str(have)) : buf_adds(b, "null"));
		(void)buf_addf(b, ",\"newest\":");
		(void)(newest ? buf_add_json(b, view_str(newest)) : buf_adds(b, "null"));
		(void)buf_adds(b, ",\"newest_name\":");
		(void)(w->newest_name ? buf_add_json(b, view_str(w->newest_name)) : buf_adds(b, "null"));
		(void)buf_addf(b, ",\"outdated\":%s}", newer ? "true" : "false");
		return;
	}
	(void)buf_addf(b, "%-24s %-16.16s %s", w->pool->id,
		now->version ? now->version
		: have       ? have
			     : "none",
		w->newest_name ? w->newest_name : "that commit");
	if (source)
		(void)buf_addf(b, " (%.12s)", w->newest);
	if (newer && str_same(w->pool->engine.version, "latest"))
		(void)buf_addf(
			b, "  newer, and latest is asked for: corral engines upgrade %s\n", w->pool->id);
	else
		(void)buf_adds(b, newer ? "  newer\n" : "\n");
}

static bool can_look(enum engine_mode m)
{
	return m == ENGINE_MODE_SOURCE || m == ENGINE_MODE_PACKAGE;
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
		struct engine_outlook now;
		if (!engines_meant(e, w.pool))
			continue;
		engines_outlook(e, w.pool, &now);
		if (can_look(now.mode))
			provision_one(e, &w);
		else if (now.mode == ENGINE_MODE_CONTAINER && now.name && !e->o->json)
			(void)buf_addf(&b, "%-24s %-16.16s %s\n", w.pool->id, strstr(now.name, "sha256:"),
				"what its tag is now is known once `upgrade` has fetched it");
		if (w.newest)
			outdated_row(e, &w, &now, &b);
		status = MAX(status, w.status);
		engine_outlook_done(&now);
		free(w.newest);
		free(w.newest_name);
	}
	(void)buf_adds(&b, e->o->json ? "]}\n" : "");
	(void)fwrite(buf_str(&b), 1, b.len, stdout);
	return status;
}

/* Pools that ask for the same share what it is now. */
static void tell_changed(struct engines *e, const struct engine_takers *was)
{
	struct engine_takers now;
	engines_takers(e, &now);
	for (size_t i = 0; e->o->ret_changed && i < now.len; i++)
		e->o->ret_changed[i] = !str_same(was->items[i].now.name, now.items[i].now.name);
	engine_takers_done(&now);
}

static int upgrade(struct engines *e)
{
	struct work w = { .e = e,
		.pool = config_pool_find(e->o->config, view_str(e->o->name)),
		.upgrade = true,
		.bar = isatty(STDERR_FILENO) && !e->o->json };
	struct engine_outlook was;
	struct engine_takers all;
	struct err err = { 0 };
	engines_outlook(e, w.pool, &was);
	if (engine_upgrade_check(&was, &err)) {
		bool skips = e->o->ret_skipped != NULL;
		if (skips)
			*e->o->ret_skipped = true;
		engine_outlook_done(&was);
		return skips ? 0 : engines_complain("upgrade", err.msg);
	}
	engines_takers(e, &all);
	provision_one(e, &w);
	if (w.status == 0)
		tell_changed(e, &all);
	engine_takers_done(&all);
	engine_outlook_done(&was);
	return w.status;
}

static void open_catalog(struct engines *e, bool make)
{
	AUTO(mem_freep) char *path = path_join(e->o->config->state_dir, CATALOG_NAME);
	AUTO(mem_freep) char *note = NULL;
	if (!make && !file_exists(path))
		return;
	struct err err = { 0 };
	if ((make && dir_ensure_writable(e->o->config->state_dir, "state_dir", &err)) ||
		catalog_open(path, &e->catalog, &note, &err)) {
		e->catalog = NULL;
		(void)engines_complain(e->o->verb, err.msg);
	} else {
		e->records = steps_store_catalog(e->catalog);
	}
	if (note)
		(void)engines_complain(e->o->verb, note);
}

int engines_run(const struct engines_opts *o)
{
	static const struct {
		const char *verb;
		int (*run)(struct engines *e);
		bool devices, writes;
	} verbs[] = { { "plan", engines_plan, true, false }, { "provision", provision, true, true },
		{ "ls", engines_list, true, false }, { "rm", engines_remove, true, false },
		{ "rollback", engines_back, true, false }, { "outdated", outdated, true, false },
		{ "upgrade", upgrade, true, true } };
	struct engines *e = NEW(struct engines);
	int status = 2;
	e->o = o;
	e->loop = loop_new("engines");
	e->prefix = path_join(o->config->state_dir, "engines");
	e->policy.offline = o->config->network.offline;
	e->policy.plain_http = o->config->network.plain_http;
	strv_copy(&e->policy.allow_hosts, &o->config->network.allow_hosts);
	strv_copy(&e->policy.deny, &o->config->network.deny);
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
		if (strcmp(o->verb, verbs[i].verb) != 0)
			continue;
		if (verbs[i].devices)
			look_at_gpus(e);
		open_catalog(e, verbs[i].writes);
		status = verbs[i].run(e);
	}
	if (status == 2)
		(void)engines_complain(o->verb, "there is no such thing to do");
	catalog_close(e->catalog);
	loop_free(e->loop);
	strv_done(&e->policy.allow_hosts);
	strv_done(&e->policy.deny);
	free(e->prefix);
	free(e);
	return status;
}
