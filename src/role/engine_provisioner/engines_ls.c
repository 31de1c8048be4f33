/* SPDX-License-Identifier: Apache-2.0
 *
 * corral engines ls|rm|rollback: what lies here, which pools take it, and the way back.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "role/engine_provisioner/engines_int.h"
#include "role/engine_provisioner/pools.h"

enum { OUT_MAX = 1024 * 1024, POOLS_MAX = 16 * 1024 };

void uses_read(const struct engines *e, struct uses *u)
{
	const struct config *c = e->o->config;
	*u = (struct uses){ .names = mem_alloc((c->npools + 1) * sizeof *u->names), .len = c->npools };
	for (size_t i = 0; i < c->npools; i++) {
		struct engine_outlook l;
		engines_outlook(e, &c->pools[i], &l);
		u->names[i] = MEM_TAKE(l.name);
		engine_outlook_done(&l);
	}
}

void uses_done(struct uses *u)
{
	for (size_t i = 0; i < u->len; i++)
		free(u->names[i]);
	free(u->names);
}

static bool used_by(const struct uses *u, size_t pool, const struct engine_kept *k)
{
	return !k->last && u->names[pool] && strcmp(u->names[pool], k->name) == 0;
}

static void pools_text(
	const struct engines *e, const struct uses *u, const struct engine_kept *k, struct buf *b)
{
	for (size_t i = 0; i < u->len; i++)
		if (used_by(u, i, k))
			(void)buf_addf(b, "%s%s", b->len ? ", " : "", e->o->config->pools[i].id);
	if (!b->len)
		(void)buf_adds(b, "-");
}

/* ---- ls ------------------------------------------------------------------------------------------ */

static void json_text(struct buf *b, const char *key, const char *text)
{
	(void)buf_addf(b, ",\"%s\":", key);
	if (text)
		(void)buf_add_json(b, view_str(text));
	else
		(void)buf_adds(b, "null");
}

static void ls_json(
	const struct engines *e, const struct uses *u, const struct engine_kepts *all, struct buf *b)
{
	(void)buf_adds(b, "{\"engines\":[");
	for (size_t i = 0; i < all->len; i++) {
		const struct engine_kept *k = &all->items[i];
		bool image = k->mode == ENGINE_MODE_CONTAINER, first = true;
		(void)buf_addf(b, "%s{\"mode\":\"%s\"", i ? "," : "", engine_mode_name(k->mode));
		json_text(b, "folder", image ? NULL : k->name);
		json_text(b, "image", image ? k->name : NULL);
		json_text(b, "version", k->version);
		json_text(b, "commit", k->commit);
		json_text(b, "ref", k->ref);
		json_text(b, "repo", k->repo);
		json_text(b, "backend", k->backend);
		json_text(b, "flags", k->flags);
		json_text(b, "compiler", k->compiler);
		json_text(b, "created", k->created);
		(void)buf_adds(b, ",\"bytes\":");
		(void)(image ? buf_adds(b, "null") : buf_addf(b, "%llu", (unsigned long long)k->bytes));
		(void)buf_addf(b, ",\"current\":%s,\"last\":%s,\"pools\":[", k->current ? "true" : "false",
			k->last ? "true" : "false");
		for (size_t p = 0; p < u->len; p++) {
			if (!used_by(u, p, k))
				continue;
			(void)buf_adds(b, first ? "" : ",");
			(void)buf_add_json(b, view_str(e->o->config->pools[p].id));
			first = false;
		}
		(void)buf_adds(b, "]}");
	}
	(void)buf_adds(b, "]}\n");
}

static void ls_text(
	const struct engines *e, const struct uses *u, const struct engine_kepts *all, struct buf *b)
{
	if (!all->len) {
		(void)buf_adds(b, "No engine was built or fetched here.\n");
		return;
	}
	(void)buf_addf(b, "%-10s %-24s %-12s %-7s %10s  %-8s %-20s  %s\n", "MODE", "BUILD", "VERSION", "FOR",
		"SIZE", "STATE", "CREATED", "POOLS");
	for (size_t i = 0; i < all->len; i++) {
		const struct engine_kept *k = &all->items[i];
		char size[32] = "-";
		AUTO(buf_done) struct buf pools = BUF(POOLS_MAX);
		pools_text(e, u, k, &pools);
		if (k->mode != ENGINE_MODE_CONTAINER)
			num_format_bytes(k->bytes, size, sizeof size);
		(void)buf_addf(b, "%-10s %-24s %-12.12s %-7s %10s  %-8s %-20s  %s\n",
			engine_mode_name(k->mode), k->name, k->version ? k->version : "-",
			k->backend ? k->backend : "-", size,
			k->last      ? "before"
			: k->current ? "current"
				     : "-",
			k->created ? k->created : "-", buf_str(&pools));
	}
}

int engines_list(struct engines *e)
{
	AUTO(buf_done) struct buf b = BUF(OUT_MAX);
	struct engine_kepts all;
	struct uses u;
	engine_kepts_read(e->prefix, &all);
	uses_read(e, &u);
	if (e->o->json)
		ls_json(e, &u, &all, &b);
	else
		ls_text(e, &u, &all, &b);
	(void)fwrite(buf_str(&b), 1, b.len, stdout);
	uses_done(&u);
	engine_kepts_done(&all);
	return 0;
}

/* ---- rm ------------------------------------------------------------------------------------------ */

int engines_remove(struct engines *e)
{
	struct err err = { 0 };
	struct engine_kepts all;
	struct uses u;
	size_t at = 0;
	engine_kepts_read(e->prefix, &all);
	uses_read(e, &u);
	int r = engine_kepts_find(&all, e->o->name, &at, &err);
	if (!r && !e->o->force) {
		AUTO(buf_done) struct buf pools = BUF(POOLS_MAX);
		const struct engine_kept *k = &all.items[at];
		pools_text(e, &u, k, &pools);
		bool used = strcmp(buf_str(&pools), "-") != 0;
		if (used || k->current)
			r = err_set(&err, -EBUSY,
				"%s is the current build of %s%s: --force removes it all the same, and the "
				"next start gets it anew",
				k->name, used ? "pool " : "a pool", used ? buf_str(&pools) : "");
	}
	if (!r)
		r = engine_kept_remove(e->prefix, &all.items[at], &err);
	if (r)
		(void)engines_complain("rm", err.msg);
	else if (all.items[at].mode == ENGINE_MODE_CONTAINER)
		printf("%s is not pinned any more; its runtime still has the image: podman (or docker) rmi "
		       "%s.\n",
			all.items[at].name, all.items[at].name);
	else
		printf("%s was removed.\n", all.items[at].name);
	uses_done(&u);
	engine_kepts_done(&all);
	return r ? 1 : 0;
}

/* ---- rollback ------------------------------------------------------------------------------------ */

int engines_back(struct engines *e)
{
	const struct config_pool *p = config_pool_find(e->o->config, view_str(e->o->name));
	struct engine_def def = { 0 };
	struct engine_ensure_opts o;
	struct err err = { 0 };
	AUTO(mem_freep) char *now = NULL;
	agent_engine_def(&p->engine, &def);
	engines_ensure_opts(e, p, &o);
	int r = engine_rollback(&def, &o, &now, &err);
	engine_def_done(&def);
	if (r)
		return engines_complain("rollback", err.msg);
	printf("%s: %s is current again.\n", p->id, now);
	return 0;
}
