/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows as plain data: copies and ends.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "base/url.h"
#include "provision/catalog/catalog_int.h"

const char *catalog_life_name(enum catalog_life l)
{
	return l == CATALOG_RETIRED ? "Retired" : "Active";
}

int catalog_life_parse(struct view v, enum catalog_life *ret)
{
	if (!view_eqs(v, "Active") && !view_eqs(v, "Retired"))
		return -EINVAL;
	*ret = view_eqs(v, "Retired") ? CATALOG_RETIRED : CATALOG_ACTIVE;
	return 0;
}

const char *catalog_step_state_name(enum catalog_step_state s)
{
	static const char *const names[] = { "waiting", "running", "done", "failed" };
	return names[s];
}

static void file_done(struct catalog_file *f)
{
	free(f->role);
	free(f->path);
	free(f->url);
	free(f->sha256);
}

void catalog_model_done(struct catalog_model *m)
{
	for (size_t i = 0; i < m->nfiles; i++)
		file_done(&m->files[i]);
	free(m->files);
	free(m->id);
	free(m->reference);
	strv_done(&m->references);
	free(m->revision);
	free(m->source);
	free(m->architecture);
	free(m->name);
	free(m->quant);
	free(m->life_by);
	free(m->verify_problem);
	*m = (struct catalog_model){ 0 };
}

void catalog_model_add_file(struct catalog_model *m, const struct catalog_file *f)
{
	if (m->nfiles == CATALOG_FILES_MAX)
		return;
	m->files = mem_realloc(m->files, (m->nfiles + 1) * sizeof *m->files);
	m->files[m->nfiles++] = (struct catalog_file){ mem_strdup(f->role ? f->role : "other"),
		mem_strdup(f->path), mem_strdup(f->url), mem_strdup(f->sha256), f->size };
}

void catalog_model_copy(struct catalog_model *to, const struct catalog_model *from)
{
	struct catalog_model m = *from;
	m.id = mem_strdup(from->id);
	m.reference = mem_strdup(from->reference);
	m.references = (struct strv){ 0 };
	strv_copy(&m.references, &from->references);
	m.revision = mem_strdup(from->revision);
	m.source = mem_strdup(from->source);
	m.architecture = mem_strdup(from->architecture);
	m.name = mem_strdup(from->name);
	m.quant = mem_strdup(from->quant);
	m.life_by = mem_strdup(from->life_by);
	m.verify_problem = mem_strdup(from->verify_problem);
	m.files = NULL;
	m.nfiles = 0;
	for (size_t i = 0; i < from->nfiles; i++)
		catalog_model_add_file(&m, &from->files[i]);
	catalog_model_done(to);
	*to = m;
}

static void put(char **s, char *shown)
{
	free(*s);
	*s = shown;
}

void catalog_model_hide(struct catalog_model *m)
{
	put(&m->reference, ref_shown(m->reference));
	for (size_t i = 0; i < m->references.len; i++)
		put(&m->references.items[i], ref_shown(m->references.items[i]));
	for (size_t i = 0; i < m->nfiles; i++)
		if (m->files[i].url)
			put(&m->files[i].url, url_redact(view_str(m->files[i].url)));
}

void catalog_engine_done(struct catalog_engine *e)
{
	free(e->id);
	free(e->engine);
	free(e->version);
	free(e->source);
	free(e->commit);
	free(e->digest);
	free(e->flags);
	free(e->features);
	free(e->folder);
	free(e->state);
	*e = (struct catalog_engine){ 0 };
}

void catalog_engine_copy(struct catalog_engine *to, const struct catalog_engine *from)
{
	struct catalog_engine e = *from;
	e.id = mem_strdup(from->id);
	e.engine = mem_strdup(from->engine);
	e.version = mem_strdup(from->version);
	e.source = mem_strdup(from->source);
	e.commit = mem_strdup(from->commit);
	e.digest = mem_strdup(from->digest);
	e.flags = mem_strdup(from->flags);
	e.features = mem_strdup(from->features);
	e.folder = mem_strdup(from->folder);
	e.state = mem_strdup(from->state);
	catalog_engine_done(to);
	*to = e;
}

void catalog_step_done(struct catalog_step *s)
{
	free(s->job);
	free(s->name);
	free(s->detail);
	free(s->log);
	*s = (struct catalog_step){ 0 };
}

void catalog_step_copy(struct catalog_step *to, const struct catalog_step *from)
{
	struct catalog_step s = *from;
	s.job = mem_strdup(from->job);
	s.name = mem_strdup(from->name);
	s.detail = mem_strdup(from->detail);
	s.log = mem_strdup(from->log);
	catalog_step_done(to);
	*to = s;
}

void catalog_models_done(struct catalog_models *m)
{
	for (size_t i = 0; i < m->len; i++)
		catalog_model_done(&m->items[i]);
	free(m->items);
	*m = (struct catalog_models){ 0 };
}

void catalog_engines_done(struct catalog_engines *e)
{
	for (size_t i = 0; i < e->len; i++)
		catalog_engine_done(&e->items[i]);
	free(e->items);
	*e = (struct catalog_engines){ 0 };
}

void catalog_steps_done(struct catalog_steps *s)
{
	for (size_t i = 0; i < s->len; i++)
		catalog_step_done(&s->items[i]);
	free(s->items);
	*s = (struct catalog_steps){ 0 };
}
