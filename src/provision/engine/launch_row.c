/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line of an engine by its row of the table: on loopback, at a port that was found by binding,
 * with a key of its own that stands in its environment or in a file, never on the command line.
 */
#include <stdlib.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/table.h"

static void option(struct strv *ours, const char *name, const char *value)
{
	if (!name || !value)
		return;
	strv_add(ours, name);
	strv_add(ours, value);
}

static void option_number(struct strv *ours, const char *name, unsigned value)
{
	if (!name || !value)
		return;
	strv_add(ours, name);
	strv_addf(ours, "%u", value);
}

static void words(struct strv *out, const char *line)
{
	for (struct view rest = view_str(line ? line : ""); rest.p;) {
		struct view w = view_split(rest, ' ', &rest);
		if (w.n)
			strv_addv(out, w);
	}
}

const char *launch_host(const struct engine_build *b)
{
	return b->image ? "0.0.0.0" : "127.0.0.1";
}

void launch_file(struct engine_launch *l, char *path, char *text)
{
	assert(l->nfiles < ENGINE_FILES_MAX);
	l->files[l->nfiles++] = (struct engine_file){ path, text };
}

static void add_key(const struct engine_row *row, const struct engine_params *p, struct engine_launch *l,
	struct strv *ours)
{
	if (!p->key || (!row->key_env && !row->key_config))
		return;
	l->uses_key = true;
	if (row->key_env) {
		AUTO(mem_freep) char *assignment = mem_fmt("%s=%s", row->key_env, p->key);
		env_set(&l->env, assignment);
		return;
	}
	char *path = mem_fmt("%s.yaml", p->files);
	option(ours, row->key_config, path);
	launch_file(l, path, mem_fmt("api-key: %s\n", p->key));
}

static void add_share(const struct engine_row *row, const struct engine_params *p, struct strv *ours)
{
	unsigned share = MIN(p->share_permille, 1000u) * row->share_permille / 1000;
	if (!row->share || !share)
		return;
	strv_add(ours, row->share);
	strv_addf(ours, "%u.%03u", share / 1000, share % 1000);
}

int launch_row(const struct engine_build *b, const struct engine_def *def, const struct engine_params *p,
	struct engine_launch *l, struct err *reterr)
{
	const struct engine_row *row = engine_row(def->kind);
	if (!p->model_path)
		return err_set(reterr, -EINVAL,
			"a pool of kind %s needs a model; set the pool's `model` to a folder",
			engine_kind_name(def->kind));
	AUTO(strv_done) struct strv ours = { 0 };
	const char *model = b->image ? row->image_model : row->model;
	words(&l->argv, b->image ? row->image_before : row->before);
	if (model)
		option(&ours, model, p->model_path);
	else
		strv_add(&l->argv, p->model_path);
	option(&ours, row->host, launch_host(b));
	option_number(&ours, row->port, p->port);
	option(&ours, row->name, p->pool_id);
	option_number(&ours, row->ctx, p->ctx);
	option_number(&ours, row->slots, p->slots);
	option_number(&ours, row->gpus, p->gpus);
	add_share(row, p, &ours);
	words(&ours, row->always);
	add_key(row, p, l, &ours);
	l->address = mem_fmt("http://127.0.0.1:%u", (unsigned)p->port);
	l->uses_port = true;
	l->serves = row->name ? mem_strdup(p->pool_id) : NULL;
	return engine_args_merge(row->options, &ours, &def->args, &def->env, &l->argv, reterr);
}
