/* SPDX-License-Identifier: Apache-2.0
 *
 * Sets of models and what came of them.
 */
#include <stdlib.h>

#include "provision/model/want_int.h"

void model_set_done(struct model_set *s)
{
	free(s->ref);
	free(s->mmproj);
	free(s->draft);
	strv_done(&s->lora);
	*s = (struct model_set){ 0 };
}

void model_got_done(struct model_got *g)
{
	model_files_done(&g->weights);
	free(g->mmproj);
	free(g->draft);
	strv_done(&g->lora);
	free(g->reference);
	free(g->revision);
	free(g->source);
	for (size_t i = 0; i < g->nfiles; i++) {
		free(g->files[i].role);
		free(g->files[i].path);
		free(g->files[i].sha256);
		free(g->files[i].url);
	}
	free(g->files);
	free(g->warning);
	*g = (struct model_got){ 0 };
}

void model_got_copy(struct model_got *to, const struct model_got *from)
{
	*to = (struct model_got){ .weights = { .path = mem_strdup(from->weights.path),
					  .size_bytes = from->weights.size_bytes },
		.mmproj = mem_strdup(from->mmproj),
		.draft = mem_strdup(from->draft),
		.reference = mem_strdup(from->reference),
		.revision = mem_strdup(from->revision),
		.source = mem_strdup(from->source),
		.nfiles = from->nfiles,
		.fetched_bytes = from->fetched_bytes,
		.warning = mem_strdup(from->warning) };
	strv_copy(&to->weights.parts, &from->weights.parts);
	strv_copy(&to->lora, &from->lora);
	to->files = from->nfiles ? mem_alloc(from->nfiles * sizeof *to->files) : NULL;
	for (size_t i = 0; i < from->nfiles; i++)
		to->files[i] = (struct model_got_file){ .role = mem_strdup(from->files[i].role),
			.path = mem_strdup(from->files[i].path),
			.sha256 = mem_strdup(from->files[i].sha256),
			.url = mem_strdup(from->files[i].url),
			.size = from->files[i].size };
}

void model_plan_done(struct model_plan *p)
{
	strv_done(&p->steps);
	*p = (struct model_plan){ 0 };
}

/* ---- items --------------------------------------------------------------------------------------------- */

const char *want_role_name(enum want_role r)
{
	static const char *const names[] = { "weights", "mmproj", "draft", "lora", "other" };
	return names[r];
}

const char *want_source(const struct model_ref *r)
{
	switch (r->kind) {
	case MODEL_REF_HUB: return "Hugging Face";
	case MODEL_REF_HTTPS: return "https";
	case MODEL_REF_OLLAMA: return "Ollama";
	case MODEL_REF_S3: return "s3";
	case MODEL_REF_OCI: return "oci";
	case MODEL_REF_FILE: break;
	}
	return "file";
}

static void file_done(struct want_file *f)
{
	free(f->to);
	free(f->link);
	free(f->lock);
	free(f->url);
	free(f->said);
	strv_done(&f->headers);
	free(f->sha256);
	free(f->git_oid);
}

void want_item_done(struct want_item *it)
{
	model_ref_done(&it->ref);
	model_files_done(&it->files);
	free(it->mmproj);
	strv_done(&it->lora);
	free(it->revision);
	strv_done(&it->digests);
	strv_done(&it->indices);
	free(it->mmproj_digest);
	for (size_t i = 0; i < it->nfetch; i++)
		file_done(&it->fetch[i]);
	free(it->fetch);
	free(it->ref_file);
	free(it->ref_text);
	*it = (struct want_item){ 0 };
}

void want_items_done(struct want_item *items, size_t n)
{
	for (size_t i = 0; i < n; i++)
		want_item_done(&items[i]);
	free(items);
}

struct want_file *want_item_add(struct want_item *it, enum want_role role, const char *to, const char *url)
{
	if ((it->nfetch & (it->nfetch - 1)) == 0)
		it->fetch = mem_realloc(it->fetch, (it->nfetch ? 2 * it->nfetch : 1) * sizeof *it->fetch);
	struct want_file *f = &it->fetch[it->nfetch++];
	*f = (struct want_file){ .role = role, .to = mem_strdup(to), .url = mem_strdup(url) };
	return f;
}

static int add_item(struct want_item *items, size_t *n, enum want_role role, const char *text,
	const struct model_ensure_opts *o, struct err *e)
{
	if (*n == WANT_ITEMS_MAX)
		return err_set(e, -E2BIG, "a model is a set of at most %d references", WANT_ITEMS_MAX);
	items[*n].role = role;
	int r = model_ref_parse(text, o->models_dir, &items[*n].ref, e);
	if (r && role != WANT_WEIGHTS)
		err_prefix(e, "%s", want_role_name(role));
	*n += r ? 0 : 1;
	return r;
}

int want_items(const struct model_set *s, const struct model_ensure_opts *o, struct want_item **ret,
	size_t *ret_n, struct err *reterr)
{
	struct want_item *items = mem_alloc(WANT_ITEMS_MAX * sizeof *items);
	size_t n = 0;
	int r = add_item(items, &n, WANT_WEIGHTS, s->ref ? s->ref : "", o, reterr);
	if (!r && s->mmproj && strcmp(s->mmproj, "none") != 0)
		r = add_item(items, &n, WANT_MMPROJ, s->mmproj, o, reterr);
	if (!r && s->draft)
		r = add_item(items, &n, WANT_DRAFT, s->draft, o, reterr);
	for (size_t i = 0; !r && i < s->lora.len; i++)
		r = add_item(items, &n, WANT_LORA, s->lora.items[i], o, reterr);
	if (r) {
		want_items_done(items, n);
		return r;
	}
	*ret = items;
	*ret_n = n;
	return 0;
}
