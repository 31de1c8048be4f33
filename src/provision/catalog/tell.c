/* SPDX-License-Identifier: Apache-2.0 */
#include "provision/catalog/tell.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/url.h"
#include "gguf/gguf.h"

/* ---- words --------------------------------------------------------------------------------------------- */

void tell_words(const struct fetch_progress *p, char out[TELL_WORDS_MAX])
{
	char have[32], all[32], rate[32], left[32] = "";
	num_format_bytes(p->bytes, have, sizeof have);
	num_format_bytes(p->total, all, sizeof all);
	num_format_bytes(p->rate, rate, sizeof rate);
	if (p->eta_ms > 0)
		num_format_duration((p->eta_ms + 999) / 1000 * 1000, left, sizeof left);
	if (p->phase == FETCH_VERIFYING)
		snprintf(out, TELL_WORDS_MAX, "verifying %s of %s", have, all);
	else if (!p->total)
		snprintf(out, TELL_WORDS_MAX, "%s", p->text ? p->text : "looking it up");
	else
		snprintf(out, TELL_WORDS_MAX, "%s of %s, %s/s%s%s%s", have, all, rate, *left ? ", " : "",
			left, *left ? " left" : "");
}

const char *tell_hint(enum fetch_why why)
{
	switch (why) {
	case FETCH_NETWORK:
		return "check the network; the next request tries again and goes on where it stopped";
	case FETCH_REFUSED: return "change `network` or `trust` in the configuration, or put the file there";
	case FETCH_DENIED:
		return "accept the model's terms on its page and give a token (HF_TOKEN, or `hf auth "
		       "login`), then "
		       "`corral restart` the pool";
	case FETCH_MISSING: return "correct `model` of the pool";
	case FETCH_BUSY: return "the place is busy; the next request tries again";
	case FETCH_DIGEST: return "what came is not what was promised; `corral restart` the pool tries again";
	case FETCH_DISK: return "make room (`corral models gc --dry-run` says what could go)";
	case FETCH_CRASHED: return "the next request tries again; the log says what happened";
	default: return "correct `model` of the pool";
	}
}

/* Of a pull, which has no pool. */
static const char *pull_hint(enum fetch_why why)
{
	switch (why) {
	case FETCH_NETWORK: return "check the network; the next pull goes on where this one stopped";
	case FETCH_DENIED:
		return "check the name; accept the model's terms on its page and give a token (HF_TOKEN, or "
		       "`hf auth login`)";
	case FETCH_BUSY: return "the place is busy; try again later";
	case FETCH_DIGEST: return "what came is not what was promised; pull it again";
	case FETCH_CRASHED: return "pull it again; the log says what happened";
	case FETCH_REFUSED:
	case FETCH_DISK: return tell_hint(why);
	default: return "correct the reference (`corral pull --help` shows what is accepted)";
	}
}

static const char *phase_name(enum fetch_phase p)
{
	static const char *const names[] = { "waiting", "fetching", "verifying", "unpacking" };
	return names[p];
}

static void add_text(struct buf *b, const char *key, const char *text)
{
	(void)buf_addf(b, "%s\"%s\":", b->len > 1 && b->data[b->len - 1] != '{' ? "," : "", key);
	(void)buf_add_json(b, view_cut(view_str(text ? text : ""), 4096));
}

void tell_progress(const struct fetch_progress *p, struct buf *b)
{
	char words[TELL_WORDS_MAX];
	tell_words(p, words);
	(void)buf_addf(b, "{\"phase\":\"%s\",\"bytes\":%llu,\"total\":%llu,\"rate\":%llu,\"eta_ms\":%lld",
		phase_name(p->phase), (unsigned long long)p->bytes, (unsigned long long)p->total,
		(unsigned long long)p->rate, (long long)p->eta_ms);
	add_text(b, "text", words);
	(void)buf_addc(b, '}');
}

void tell_error(enum fetch_why why, const char *message, struct buf *b)
{
	(void)buf_adds(b, "{\"error\":{");
	add_text(b, "cause", fetch_why_name(why));
	add_text(b, "message", message);
	add_text(b, "hint", pull_hint(why));
	(void)buf_adds(b, "}}");
}

void tell_got(struct catalog *c, const struct model_got *got, struct buf *b)
{
	struct catalog_model m = { 0 };
	bool known = c && got->reference && catalog_model_find(c, got->reference, &m) == 0;
	(void)buf_addc(b, '{');
	add_text(b, "id", known ? m.id : "");
	add_text(b, "reference", got->reference);
	add_text(b, "path", got->weights.path);
	(void)buf_addf(b, ",\"size_bytes\":%llu,\"fetched_bytes\":%llu",
		(unsigned long long)got->weights.size_bytes, (unsigned long long)got->fetched_bytes);
	if (got->warning)
		add_text(b, "warning", got->warning);
	(void)buf_addc(b, '}');
	catalog_model_done(&m);
}

enum { COMING_MAX = 1024 }; /* files of one fetch that are noted before it */

/* ---- what is kept of it -------------------------------------------------------------------------------- */

static void describe(struct catalog_model *m, const char *path)
{
	AUTO(gguf_freep) struct gguf *g = NULL;
	struct gguf_facts facts;
	if (!path || !view_ends(view_str(path), VIEW(".gguf")) || gguf_open(path, &g, NULL) < 0)
		return;
	gguf_facts(g, &facts);
	m->architecture = mem_viewdup(facts.architecture);
	m->name = mem_viewdup(facts.name);
	m->n_params = facts.n_params;
	m->n_ctx_train = facts.n_ctx_train;
}

void catalog_coming(struct catalog *c, const struct model_coming *files, size_t n)
{
	for (size_t i = 0; i < MIN(n, (size_t)COMING_MAX); i++)
		catalog_coming_put(c, files[i].path, files[i].url);
}

void catalog_not_coming(struct catalog *c, const struct model_coming *files, size_t n)
{
	for (size_t i = 0; i < n; i++)
		catalog_coming_remove(c, files[i].path);
}

/* Whether it came in this run, or in one before that did not live to note it. */
static bool add_file(struct catalog *c, struct catalog_model *m, const struct model_got_file *f)
{
	AUTO(mem_freep) char *url = NULL;
	bool came = catalog_coming_find(c, f->path, &url);
	struct catalog_file file = { f->role, f->path, f->url ? f->url : url, f->sha256, f->size };
	catalog_model_add_file(m, &file);
	m->size_bytes += f->size;
	return came;
}

void catalog_note(struct catalog *c, const struct model_set *set, const struct model_got *got)
{
	struct catalog_model m = { .reference =
					   got->reference ? mem_strdup(got->reference) : ref_shown(set->ref),
		.revision = mem_strdup(got->revision),
		.source = mem_strdup(got->source),
		.fetched = got->fetched_bytes > 0,
		.used_ms = wall_ms() };
	bool all = got->nfiles > 0;
	AUTO(mem_freep) char *asked = ref_shown(set->ref);
	if (strcmp(m.reference, asked) != 0)
		strv_add(&m.references, asked);
	for (size_t i = 0; i < got->nfiles; i++) {
		m.fetched |= add_file(c, &m, &got->files[i]);
		all &= got->files[i].sha256 != NULL;
	}
	if (m.fetched && all)
		m.verified_ms = wall_ms();
	describe(&m, got->weights.path);
	free(catalog_model_put(c, &m));
	for (size_t i = 0; i < got->nfiles; i++) /* after it: a crash in between loses nothing */
		catalog_coming_remove(c, got->files[i].path);
	catalog_model_done(&m);
}
