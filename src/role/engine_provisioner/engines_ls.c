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

void engines_takers(const struct engines *e, struct engine_takers *ret)
{
	const struct config *c = e->o->config;
	*ret = (struct engine_takers){ 0 };
	for (size_t i = 0; i < c->npools; i++) {
		struct engine_taker *t = engine_takers_add(ret, c->pools[i].id);
		agent_engine_def(&c->pools[i].engine, &t->def);
		engines_ensure_opts(e, &c->pools[i], &t->opts);
	}
	engine_takers_look(ret);
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

static void ls_json(const struct engine_takers *t, const struct engine_kepts *all, struct buf *b)
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
		for (size_t p = 0; p < t->len; p++) {
			if (!engine_kept_taken(k, &t->items[p]))
				continue;
			(void)buf_adds(b, first ? "" : ",");
			(void)buf_add_json(b, view_str(t->items[p].id));
			first = false;
		}
		(void)buf_adds(b, "]}");
	}
	(void)buf_adds(b, "]}\n");
}

static void ls_text(const struct engine_takers *t, const struct engine_kepts *all, struct buf *b)
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
		engine_kept_pools(k, t, &pools);
		if (k->mode != ENGINE_MODE_CONTAINER)
			num_format_bytes(k->bytes, size, sizeof size);
		(void)buf_addf(b, "%-10s %-24s %-12.12s %-7s %10s  %-8s %-20s  %s\n",
			engine_mode_name(k->mode), k->name, k->version ? k->version : "-",
			k->backend ? k->backend : "-", size,
			k->last      ? "before"
			: k->current ? "current"
				     : "-",
			k->created ? k->created : "-", pools.len ? buf_str(&pools) : "-");
	}
}

int engines_list(struct engines *e)
{
	AUTO(buf_done) struct buf b = BUF(OUT_MAX);
	struct engine_kepts all;
	struct engine_takers t;
	engine_kepts_read(e->prefix, &all);
	engines_takers(e, &t);
	if (e->o->json)
		ls_json(&t, &all, &b);
	else
		ls_text(&t, &all, &b);
	(void)fwrite(buf_str(&b), 1, b.len, stdout);
	engine_takers_done(&t);
	engine_kepts_done(&all);
	return 0;
}

/* ---- rm ------------------------------------------------------------------------------------------ */

int engines_remove(struct engines *e)
{
	struct err err = { 0 };
	struct engine_kepts all;
	struct engine_takers t;
	size_t at = 0;
	engine_kepts_read(e->prefix, &all);
	engines_takers(e, &t);
	int r = engine_kepts_find(&all, e->o->name, &at, &err);
	if (!r && !e->o->force && (r = engine_kept_free(&all.items[at], &t, &err))) {
		AUTO(mem_freep) char *why = mem_strdup(err.msg);
		err_set(&err, r, "%s: --force removes it all the same, and the next start gets it anew", why);
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
	engine_takers_done(&t);
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
