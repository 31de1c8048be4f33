/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration, the addresses it listens on, the engines its pools start.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "cli/doctor.h"
#include "net/listen.h"

/* ---- configuration ------------------------------------------------------------------------------------- */

static void add_errors(struct doctor *d, const struct config_errors *errs, const char *fix)
{
	for (size_t i = 0; i < errs->len; i++) {
		const struct config_error *e = &errs->items[i];
		const char *of = e->key && e->key[0] ? e->key : e->file; /* a mistake of the whole file */
		if (e->file && e->line)
			doctor_fail(d, "config", fix, "%s:%u: %s: %s", e->file, e->line, e->key ? e->key : "",
				e->message);
		else
			doctor_fail(d, "config", fix, "%s%s%s", of ? of : "", of ? ": " : "", e->message);
	}
	if (errs->dropped)
		doctor_fail(d, "config", fix, "and %zu more mistakes", errs->dropped);
}

void check_config(struct doctor *d, const struct config_errors *errs, const struct config_errors *models)
{
	add_errors(d, errs, "correct it; `corral config check` shows the line");
	if (!d->cfg)
		return;
	add_errors(d, models, "put the file there, or correct the pool");
	const struct config *c = d->cfg;
	if (!c->files.len)
		doctor_ok(d, "config", "no file: defaults hold, and models found on the disk are served");
	else if (!errs->len && !models->len)
		doctor_ok(d, "config", "%s: %zu pools", c->files.items[0], c->npools);
}

/* ---- ports ----------------------------------------------------------------------------------------------
 */

static void check_port(struct doctor *d, const char *text)
{
	struct net_addr a;
	struct err e = { 0 };
	int fd = -1;
	if (net_addr_parse(view_str(text), &a, &e) < 0) {
		doctor_fail(d, "ports", "correct `listen`", "%s: %s", text, e.msg);
		return;
	}
	if (a.kind == NET_UNIX) /* binding would replace it; its folder is runtime_dir's kind of check */
		doctor_ok(d, "ports", "%s is a socket file", text);
	else if (d->daemon)
		doctor_ok(d, "ports", "%s: a daemon runs", text);
	else if ((a.kind == NET_NAME && net_addr_lookup(&a, &e) < 0) || net_listen(&a, 0600, &fd, &e) < 0)
		doctor_fail(d, "ports", "end the program that has it, or set `listen` (0 takes a free port)",
			"%s cannot be listened on: %s", text, e.msg);
	else
		doctor_ok(d, "ports", "%s is free", text);
	fd_close(fd);
}

void check_ports(struct doctor *d)
{
	for (size_t i = 0; i < d->cfg->listen.len; i++)
		check_port(d, d->cfg->listen.items[i]);
}

/* ---- engines --------------------------------------------------------------------------------------------
 */

/* The program in PATH; NULL: none. */
static char *in_path(const char *name)
{
	const char *path = getenv("PATH");
	struct view rest = view_str(path ? path : "/usr/local/bin:/usr/bin:/bin");
	while (rest.p) {
		struct view dir = view_split(rest, ':', &rest);
		if (!dir.n || dir.p[0] != '/')
			continue;
		char *at = mem_fmt("%.*s/%s", VIEW_ARG(dir), name);
		if (access(at, X_OK) == 0)
			return at;
		free(at);
	}
	return NULL;
}

/* How many builds were fetched into state_dir/engines. */
static size_t fetched(const struct doctor *d)
{
	AUTO(mem_freep) char *dir = path_join(d->cfg->state_dir, "engines");
	AUTO(strv_done) struct strv all = { 0 };
	dir_names(dir, false, &all);
	return all.len;
}

static void check_binary(struct doctor *d, const struct config_pool *p)
{
	AUTO(mem_freep)
	char *at = strchr(p->engine.path, '/') ? mem_strdup(p->engine.path) : in_path(p->engine.path);
	AUTO(mem_freep) char *fix = mem_fmt("install it, or set engine.path of pool %s", p->id);
	if (!at)
		doctor_fail(d, "engines", fix, "pool %s: there is no %s in PATH", p->id, p->engine.path);
	else if (access(at, X_OK) < 0)
		doctor_fail(d, "engines", fix, "pool %s: %s is not there or no program", p->id, at);
	else
		doctor_ok(d, "engines", "pool %s: %s", p->id, at);
}

void check_engines(struct doctor *d)
{
	AUTO(mem_freep) char *own = in_path("llama-server");
	size_t builds = fetched(d), wants = 0;
	for (size_t i = 0; i < d->cfg->npools; i++) {
		const struct config_pool *p = &d->cfg->pools[i];
		if (p->engine.path && p->engine.mode != CONFIG_MODE_EXTERNAL)
			check_binary(d, p);
		else if (p->engine.kind == CONFIG_ENGINE_LLAMACPP &&
			 (p->engine.mode == CONFIG_MODE_AUTO || p->engine.mode == CONFIG_MODE_PACKAGE))
			wants++;
	}
	if (own)
		doctor_ok(d, "engines", "llama-server: %s", own);
	if (builds)
		doctor_ok(d, "engines", "%zu builds in %s/engines", builds, d->cfg->state_dir);
	if (!own && !builds && (wants || !d->cfg->npools))
		doctor_warn(d, "engines",
			"install llama.cpp (llama-server in PATH), or set engine.path; on Debian a pool's "
			"start "
			"fetches the package",
			"no llama-server was found");
}
