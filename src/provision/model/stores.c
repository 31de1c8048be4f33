/* SPDX-License-Identifier: Apache-2.0 */
#include "provision/model/stores.h"

#include <stdlib.h>

#include "base/fd.h"
#include "provision/model/stores_int.h"

enum { SUMMARY_MAX = 64 * 1024 };

const char *store_name(enum store s)
{
	static const char *const names[STORE_COUNT] = { "Hugging Face cache", "llama.cpp cache", "Ollama",
		"LM Studio", "models_dir" };
	return names[s];
}

/* ---- looking ------------------------------------------------------------------------------------------- */

static void lmstudio_file(struct scan *s, const char *dir, const char *name, void *arg)
{
	const char *root = arg;
	struct candidate *c = scan_candidate(s, STORE_LMSTUDIO, dir, name);
	if (!c)
		return;
	struct view rest = view_from(view_str(dir), strlen(root));
	rest = view_from(rest, rest.n && rest.p[0] == '/' ? 1 : 0);
	struct view owner = view_split(rest, '/', &rest), repo = view_split(rest, '/', &rest);
	if (owner.n && repo.n) {
		c->owner = mem_viewdup(owner);
		c->repo = mem_viewdup(repo);
	}
	c->mixed = !repo.n;
}

static void loose_file(struct scan *s, const char *dir, const char *name, void *arg)
{
	(void)arg;
	struct candidate *c = scan_candidate(s, STORE_LOOSE, dir, name);
	if (c)
		c->mixed = true;
}

static void look(struct scan *s, enum store store, const char *root)
{
	strv_add(&s->ret->looked, root);
	switch (store) {
	case STORE_HUB: scan_hub(s, store, root); break;
	case STORE_LLAMACPP: scan_llamacpp(s, root); break;
	case STORE_OLLAMA: scan_ollama(s, root); break;
	case STORE_LMSTUDIO:
		scan_walk(s, root, STORES_DEPTH_MAX, lmstudio_file, (void *)(uintptr_t)root);
		break;
	case STORE_LOOSE: scan_walk(s, root, STORES_DEPTH_MAX, loose_file, NULL); break;
	case STORE_COUNT: break;
	}
}

void stores_find(const struct stores_roots *r, const atomic_bool *cancel, struct stores_found *ret)
{
	const struct strv *const all[STORE_COUNT] = { &r->hub, &r->llamacpp, &r->ollama, &r->lmstudio,
		&r->loose };
	*ret = (struct stores_found){ 0 };
	struct scan s = { .ret = ret,
		.cancel = cancel,
		.id_max = r->id_max,
		.until = mono_add_ms(mono_now(), STORES_MS_MAX) };
	map_init(&s.dirs);
	for (size_t k = 0; k < STORE_COUNT; k++)
		for (size_t i = 0; i < all[k]->len; i++)
			look(&s, (enum store)k, all[k]->items[i]);
	scan_read(&s);
	map_done(&s.dirs);
	for (size_t i = 0; i < s.nfound; i++)
		candidate_done(&s.found[i]);
	free(s.found);
}

void stores_found_done(struct stores_found *f)
{
	for (size_t i = 0; i < f->nmodels; i++) {
		struct store_model *m = &f->models[i];
		free(m->id);
		free(m->path);
		free(m->mmproj);
		free(m->reference);
		free(m->architecture);
		free(m->name);
		free(m->quant);
	}
	free(f->models);
	strv_done(&f->looked);
	strv_done(&f->skipped);
	strv_done(&f->problems);
	*f = (struct stores_found){ 0 };
}

/* ---- telling ------------------------------------------------------------------------------------------- */

static void tell_none(const struct stores_found *f, struct buf *b)
{
	(void)buf_adds(b, "no models were found; looked in ");
	for (size_t i = 0; i < f->looked.len; i++)
		(void)buf_addf(b, "%s%s",
			!i                       ? ""
			: i + 1 == f->looked.len ? " and "
						 : ", ",
			f->looked.items[i]);
}

char *stores_summary(const struct stores_found *f)
{
	AUTO(buf_done) struct buf b = BUF(SUMMARY_MAX);
	size_t count[STORE_COUNT] = { 0 }, places = 0, told = 0;
	for (size_t i = 0; i < f->nmodels; i++)
		for (size_t k = 0; k < STORE_COUNT; k++)
			if (strcmp(f->models[i].source, store_name((enum store)k)) == 0)
				places += !count[k]++;
	if (!f->nmodels)
		tell_none(f, &b);
	else
		(void)buf_addf(&b, "%zu model%s found in %zu place%s: ", f->nmodels,
			f->nmodels == 1 ? "" : "s", places, places == 1 ? "" : "s");
	for (size_t k = 0; k < STORE_COUNT; k++)
		if (count[k])
			(void)buf_addf(
				&b, "%s%s (%zu)", told++ ? ", " : "", store_name((enum store)k), count[k]);
	if (f->nskipped)
		(void)buf_addf(
			&b, "; %zu file%s left out", f->nskipped, f->nskipped == 1 ? " was" : "s were");
	return buf_take(&b);
}
