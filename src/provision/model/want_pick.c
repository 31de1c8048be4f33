/* SPDX-License-Identifier: Apache-2.0
 *
 * Which files of a repository a reference means. The same rule for what the hub lists and for what lies on
 * the disk, so that what was fetched is found again.
 */
#include <stdlib.h>

#include "base/num.h"
#include "provision/model/stores_int.h"
#include "provision/model/want_int.h"

enum { SHOWN = 8 };

void want_names_done(struct want_names *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->items[i].name);
		free(l->items[i].sha256);
		free(l->items[i].git_oid);
	}
	free(l->items);
	*l = (struct want_names){ 0 };
}

struct want_name *want_names_add(struct want_names *l, const char *name, uint64_t size)
{
	if ((l->n & (l->n - 1)) == 0)
		l->items = mem_realloc(l->items, (l->n ? 2 * l->n : 1) * sizeof *l->items);
	struct want_name *n = &l->items[l->n++];
	*n = (struct want_name){ .name = mem_strdup(name), .size = size };
	return n;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct want_name *)a)->name, ((const struct want_name *)b)->name);
}

void want_names_sort(struct want_names *l)
{
	if (l->n)
		qsort(l->items, l->n, sizeof *l->items, by_name);
}

void want_picked_done(struct want_picked *p)
{
	free(p->items);
	*p = (struct want_picked){ .mmproj = -1 };
}

/* ---- names --------------------------------------------------------------------------------------------- */

static const char *base_of(const char *name)
{
	const char *slash = strrchr(name, '/');
	return slash ? slash + 1 : name;
}

static bool has_word(const char *name, const char *word)
{
	size_t n = strlen(word);
	for (const char *p = name; *p; p++)
		if (strncasecmp(p, word, n) == 0)
			return true;
	return false;
}

static bool is_gguf(const char *name)
{
	struct view v = view_str(name);
	return v.n > 5 && view_eq_ci(view_from(v, v.n - 5), VIEW(".gguf"));
}

static bool is_projector(const char *name)
{
	return is_gguf(name) && has_word(base_of(name), "mmproj");
}

/* Not a model by its name: projectors, importance matrices, and later parts of a split file. */
static bool is_weights(const char *name)
{
	size_t at;
	unsigned part, parts;
	if (!is_gguf(name) || is_projector(name))
		return false;
	AUTO(mem_freep) char *stem = name_stem(base_of(name));
	struct view v = view_str(stem);
	if (v.n >= 7 && view_eq_ci(view_from(v, v.n - 7), VIEW("imatrix")))
		return false;
	return !model_split_name(name, &at, &part, &parts) || part == 1;
}

/* How well a file fits a quantization: 0 not, 1 its folder is called so, 2 its name ends in it behind a
 * variant's ("UD-", "i1-"), 3 it is its quantization. */
static int fits(const char *name, const char *quant)
{
	AUTO(mem_freep) char *stem = name_stem(base_of(name));
	struct view v = view_str(stem), q = view_str(quant);
	if (view_eq_ci(v, q))
		return 3;
	if (v.n > q.n && view_eq_ci(view_from(v, v.n - q.n), q) && strchr("-._", v.p[v.n - q.n - 1])) {
		struct view before = view_cut(v, v.n - q.n - 1);
		bool variant =
			before.n >= 3 && (view_eq_ci(view_from(before, before.n - 3), VIEW("-UD")) ||
						 view_eq_ci(view_from(before, before.n - 3), VIEW(".i1")) ||
						 view_eq_ci(view_from(before, before.n - 3), VIEW("-i1")));
		return variant ? 2 : 3;
	}
	const char *slash = strrchr(name, '/');
	if (!slash)
		return 0;
	struct view dir = view_of(name, (size_t)(slash - name));
	while (memchr(dir.p, '/', dir.n))
		dir = view_from(dir, view_find(dir, '/') + 1);
	return view_eq_ci(dir, q) ? 1 : 0;
}

/* The quantization as one writes it behind ':', with its variant; NULL: its name has none. */
static char *quant_of(const char *name)
{
	AUTO(mem_freep) char *stem = name_stem(base_of(name));
	char *q = name_quant(stem);
	if (!q)
		return NULL;
	struct view v = view_str(stem), before = view_cut(v, v.n - strlen(q));
	bool ud = before.n >= 3 && view_eq_ci(view_from(before, before.n - 3), VIEW("UD-"));
	char *out = ud ? mem_fmt("UD-%s", q) : mem_strdup(q);
	free(q);
	return out;
}

static char *what_there_is(const struct want_names *l)
{
	AUTO(strv_done) struct strv quants = { 0 };
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	for (size_t i = 0; i < l->n; i++) {
		if (!is_weights(l->items[i].name))
			continue;
		AUTO(mem_freep) char *q = quant_of(l->items[i].name);
		const char *say = q ? q : l->items[i].name;
		if (!strv_has(&quants, say))
			strv_add(&quants, say);
	}
	if (!quants.len)
		return mem_strdup("it holds no .gguf file");
	(void)buf_addf(&b, "there %s ", quants.len == 1 ? "is" : "are");
	for (size_t i = 0; i < MIN(quants.len, (size_t)2 * SHOWN); i++)
		(void)buf_addf(&b, "%s%.60s", i ? ", " : "", quants.items[i]);
	if (quants.len > 2 * SHOWN)
		(void)buf_addf(&b, " and %zu more", quants.len - 2 * SHOWN);
	return buf_take(&b);
}

/* ---- projectors ---------------------------------------------------------------------------------------- */

static int projector_rank(const char *name)
{
	static const char *const order[] = { "F16", "BF16", "Q8_0", "F32" };
	for (size_t i = 0; i < ARRAY_LEN(order); i++) {
		AUTO(mem_freep) char *stem = name_stem(base_of(name));
		/* "mmproj-model-f16", and "mmproj-F16-Qwen2-VL" as some call it */
		AUTO(mem_freep) char *q = name_quant(stem);
		AUTO(mem_freep) char *first = mem_fmt("mmproj-%s", order[i]);
		if ((q && strcmp(q, order[i]) == 0) || strncasecmp(stem, first, strlen(first)) == 0)
			return (int)i;
	}
	return (int)ARRAY_LEN(order);
}

/* In the model's own folder or one above it: the closest; then F16, which runs everywhere. */
static ptrdiff_t projector_for(const struct want_names *l, const char *model)
{
	ptrdiff_t best = -1;
	size_t best_depth = 0;
	for (size_t i = 0; i < l->n; i++) {
		const char *name = l->items[i].name;
		size_t dir = (size_t)(base_of(name) - name);
		if (!is_projector(name) || strncmp(name, model, dir) != 0)
			continue;
		if (best >= 0 && (dir < best_depth ||
					 (dir == best_depth && projector_rank(name) >=
								       projector_rank(l->items[best].name))))
			continue;
		best = (ptrdiff_t)i;
		best_depth = dir;
	}
	return best;
}

/* ---- weights ------------------------------------------------------------------------------------------- */

static void take(struct want_picked *p, size_t i)
{
	p->items = mem_realloc(p->items, (p->n + 1) * sizeof *p->items);
	p->items[p->n++] = i;
}

static ptrdiff_t find(const struct want_names *l, const char *name)
{
	struct want_name key = { .name = (char *)(uintptr_t)name };
	struct want_name *at = l->n ? bsearch(&key, l->items, l->n, sizeof *l->items, by_name) : NULL;
	return at ? at - l->items : -1;
}

/* The file, or all its parts. */
static int take_whole(const struct want_names *l, const struct model_ref *r, const char *name,
	struct want_picked *p, struct err *e)
{
	size_t at;
	unsigned part, parts;
	if (!model_split_name(name, &at, &part, &parts)) {
		at = 0;
		parts = 1;
	}
	for (unsigned i = 1; i <= parts; i++) {
		AUTO(mem_freep)
		char *one = parts == 1 && !at ? mem_strdup(name)
					      : mem_fmt("%.*s%05u-of-%05u.gguf", (int)at, name, i, parts);
		ptrdiff_t k = find(l, one);
		if (k < 0)
			return err_set(e, -ENOENT, "%s is not whole: %s of its %u files is missing in %s",
				r->text, one, parts, r->repo);
		take(p, (size_t)k);
	}
	return 0;
}

/* The best one for a quantization: -1 none, -2 several (told in e). */
static ptrdiff_t best_for(
	const struct want_names *l, const struct model_ref *r, const char *quant, struct err *e)
{
	AUTO(buf_done) struct buf same = BUF(300);
	ptrdiff_t best = -1;
	int best_fit = 0;
	size_t n = 0;
	for (size_t i = 0; i < l->n; i++) {
		int fit = is_weights(l->items[i].name) ? fits(l->items[i].name, quant) : 0;
		if (!fit || fit < best_fit)
			continue;
		if (fit > best_fit) {
			n = 0;
			buf_reset(&same);
			best = (ptrdiff_t)i;
			best_fit = fit;
		}
		(void)buf_addf(&same, "%s%s", n++ ? ", " : "", l->items[i].name);
	}
	if (n < 2)
		return best;
	err_set(e, -EEXIST, "%s: %zu files are %s: %s; name one: hf:%s/%s", r->text, n, quant, buf_str(&same),
		r->repo, l->items[best].name);
	return -2;
}

static int pick_gguf(
	const struct want_names *l, const struct model_ref *r, struct want_picked *p, struct err *e)
{
	ptrdiff_t at = -1;
	if (r->file) {
		if (find(l, r->file) < 0) {
			AUTO(mem_freep) char *there = what_there_is(l);
			return err_set(
				e, -ENOENT, "%s: %s has no file of that name; %s", r->text, r->repo, there);
		}
		return take_whole(l, r, r->file, p, e);
	}
	at = best_for(l, r, r->tag ? r->tag : "Q4_K_M", e);
	for (size_t i = 0; !r->tag && at == -1 && i < l->n; i++)
		if (is_weights(l->items[i].name))
			at = (ptrdiff_t)i;
	if (at == -2)
		return -EEXIST;
	if (at >= 0)
		return take_whole(l, r, l->items[at].name, p, e);
	AUTO(mem_freep) char *there = what_there_is(l);
	if (r->tag)
		return err_set(e, -ENOENT, "%s has no %s; %s", r->repo, r->tag, there);
	return err_set(e, -ENOENT,
		"%s is no repository of GGUF files: %s; look for one whose name ends in -GGUF", r->repo,
		there);
}

/* ---- whole snapshots ----------------------------------------------------------------------------------- */

static bool ends_ci(const char *name, const char *tail)
{
	size_t n = strlen(name), t = strlen(tail);
	return n > t && strcasecmp(name + n - t, tail) == 0;
}

/* The same weights once more, in a format that is not read when there are safetensors. */
static bool is_double(const char *name)
{
	static const char *const tails[] = { ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".onnx_data",
		".ot", ".gguf" };
	if (strncmp(name, "original/", 9) == 0 || strncmp(name, "onnx/", 5) == 0)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(tails); i++)
		if (ends_ci(name, tails[i]))
			return true;
	return false;
}

static int pick_snapshot(
	const struct want_names *l, const struct model_ref *r, struct want_picked *p, struct err *e)
{
	bool safe = false;
	for (size_t i = 0; i < l->n && !safe; i++)
		safe = ends_ci(l->items[i].name, ".safetensors");
	for (size_t i = 0; i < l->n; i++)
		if (!safe || !is_double(l->items[i].name))
			take(p, i);
	return p->n ? 0 : err_set(e, -ENOENT, "%s holds no files", r->repo);
}

/* mmproj: hf:org/repo, with or without a quantization. */
static int pick_projector(
	const struct want_names *l, const struct model_ref *r, struct want_picked *p, struct err *e)
{
	ptrdiff_t best = -1;
	for (size_t i = 0; i < l->n; i++) {
		const char *name = l->items[i].name;
		if (is_projector(name) && (!r->tag || fits(name, r->tag)) &&
			(best < 0 || projector_rank(name) < projector_rank(l->items[best].name)))
			best = (ptrdiff_t)i;
	}
	if (best < 0)
		return err_set(e, -ENOENT, "%s holds no projector%s%s (a .gguf file with mmproj in its name)",
			r->repo, r->tag ? " of " : "", r->tag ? r->tag : "");
	take(p, (size_t)best);
	return 0;
}

int want_pick(const struct want_names *l, const struct model_ref *r, enum want_role role,
	enum model_want want, struct want_picked *ret, struct err *reterr)
{
	struct want_picked p = { .mmproj = -1 };
	bool projector = role == WANT_MMPROJ && !r->file;
	bool whole = want == MODEL_ANY && !projector && !r->file && !r->tag;
	int e = projector ? pick_projector(l, r, &p, reterr)
		: whole   ? pick_snapshot(l, r, &p, reterr)
			  : pick_gguf(l, r, &p, reterr);
	if (!e && role == WANT_WEIGHTS && !whole && !is_projector(l->items[p.items[0]].name))
		p.mmproj = projector_for(l, l->items[p.items[0]].name);
	if (e)
		want_picked_done(&p);
	*ret = p;
	return e;
}
