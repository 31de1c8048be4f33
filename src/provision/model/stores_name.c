/* SPDX-License-Identifier: Apache-2.0
 *
 * What files are called, and what we call their models.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "provision/model/model.h"
#include "provision/model/stores_int.h"

enum { ID_MAX = 64 };

char *name_stem(const char *file)
{
	size_t at;
	unsigned part, parts;
	if (model_split_name(file, &at, &part, &parts))
		return mem_viewdup(view_of(file, at - 1));
	struct view v = view_str(file);
	return mem_viewdup(view_ends(v, VIEW(".gguf")) ? view_cut(v, v.n - 5) : v);
}

static bool all_of(struct view v, const char *chars)
{
	for (size_t i = 0; i < v.n; i++)
		if (!strchr(chars, toupper((unsigned char)v.p[i])))
			return false;
	return v.n > 0;
}

/* Q4_K_M, IQ2_XXS, TQ1_0, F16, BF16, MXFP4_MOE, NVFP4 */
static bool is_quant(struct view v)
{
	static const char *const floats[] = { "F16", "F32", "BF16", "FP16", "FP8", "FP32" };
	for (size_t i = 0; i < ARRAY_LEN(floats); i++)
		if (view_eq_ci(v, view_str(floats[i])))
			return true;
	if (v.n >= 5 &&
		(view_eq_ci(view_cut(v, 5), VIEW("MXFP4")) || view_eq_ci(view_cut(v, 5), VIEW("NVFP4"))))
		return true;
	size_t q = v.n > 1 && strchr("IiTt", v.p[0]) ? 1 : 0;
	return v.n >= q + 2 && (v.p[q] == 'Q' || v.p[q] == 'q') && isdigit((unsigned char)v.p[q + 1]) &&
	       all_of(view_from(v, q + 1), "0123456789_KMSLXNPT");
}

/* Where the last word of the stem begins (after '-' or '.'), or 0. */
static size_t last_word(struct view v)
{
	size_t i = v.n;
	while (i && v.p[i - 1] != '-' && v.p[i - 1] != '.')
		i--;
	return i;
}

char *name_quant(const char *stem)
{
	struct view v = view_str(stem), word = view_from(v, last_word(v));
	if (!is_quant(word))
		return NULL;
	char *q = mem_viewdup(word);
	for (char *p = q; *p; p++)
		*p = (char)toupper((unsigned char)*p);
	return q;
}

char *name_type_quant(const char *type)
{
	static const struct {
		const char *tail, *to;
	} tails[] = { { " - Small", "_S" }, { " - Medium", "_M" }, { " - Large", "_L" } };
	if (!type)
		return NULL;
	struct view v = view_str(type);
	if (view_starts(v, VIEW("all ")))
		return mem_viewdup(view_from(v, 4));
	for (size_t i = 0; i < ARRAY_LEN(tails); i++)
		if (view_ends(v, view_str(tails[i].tail)))
			return mem_fmt("%.*s%s", (int)(v.n - strlen(tails[i].tail)), v.p, tails[i].to);
	return mem_strdup(type);
}

/* Lower case, without "mmproj", "gguf", a quantization at the end and what separates words. */
static char *bare(const char *stem)
{
	struct view v = view_str(stem);
	AUTO(mem_freep) char *quant = name_quant(stem);
	if (quant)
		v = view_cut(v, last_word(v));
	char *out = mem_alloc(v.n + 1);
	size_t n = 0;
	for (size_t i = 0; i < v.n; i++) {
		struct view here = view_from(v, i);
		if (view_eq_ci(view_cut(here, 6), VIEW("mmproj")))
			i += 5;
		else if (view_eq_ci(view_cut(here, 5), VIEW("model")) && here.n == 5)
			break;
		else if (isalnum((unsigned char)v.p[i]))
			out[n++] = (char)tolower((unsigned char)v.p[i]);
	}
	out[n] = '\0';
	return out;
}

bool name_fits_projector(const char *model_stem, const char *projector_stem)
{
	AUTO(mem_freep) char *m = bare(model_stem);
	AUTO(mem_freep) char *p = bare(projector_stem);
	return *m && *p && (strncmp(m, p, strlen(p)) == 0 || strncmp(p, m, strlen(m)) == 0);
}

/* ---- ids ----------------------------------------------------------------------------------------------- */

/* a-z, 0-9, '.', '_', '-': what is none of them becomes '-', never two in a row, none at the ends. */
static void clean_id(const char *text, size_t max, char out[ID_MAX + 1])
{
	size_t n = 0;
	for (const char *p = text; *p && n < max; p++) {
		int c = tolower((unsigned char)*p);
		bool ok = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_';
		if (ok && (n || isalnum(c)))
			out[n++] = (char)c;
		else if (!ok && n && out[n - 1] != '-')
			out[n++] = '-';
	}
	while (n && !isalnum((unsigned char)out[n - 1]))
		n--;
	out[n] = '\0';
	if (!n)
		snprintf(out, ID_MAX + 1, "model");
}

/* A file's name that says nothing of the model: "model-q4_k_m", "ggml-model-f16", "Q8_0". */
static bool says_nothing(const char *base)
{
	struct view v = view_str(base);
	if (is_quant(v))
		return true;
	AUTO(mem_freep) char *quant = name_quant(base);
	if (quant)
		v = view_cut(v, last_word(v));
	while (v.n && (v.p[v.n - 1] == '-' || v.p[v.n - 1] == '.'))
		v.n--;
	return view_eq_ci(v, VIEW("model")) || view_eq_ci(v, VIEW("ggml-model")) ||
	       view_eq_ci(v, VIEW("unsloth"));
}

static void first_id(const struct candidate *c, size_t max, char out[ID_MAX + 1])
{
	if (!c->repo || !says_nothing(c->base)) {
		clean_id(c->base, max, out);
		return;
	}
	struct view repo = view_str(c->repo);
	if (repo.n > 5 && view_eq_ci(view_from(repo, repo.n - 5), VIEW("-gguf")))
		repo.n -= 5;
	AUTO(mem_freep) char *quant = name_quant(c->base);
	AUTO(mem_freep)
	char *text = mem_fmt("%.*s%s%s", VIEW_ARG(repo), quant ? "-" : "", quant ? quant : "");
	clean_id(text, max, out);
}

/* FNV-1a, 32 bits: only to tell two files of one name apart, the same in every run. */
static uint32_t hash_of(const char *s)
{
	uint32_t h = 2166136261u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 16777619u;
	return h;
}

/* id with "-tail" behind it, cut so that it fits. */
static void with_tail(const char *id, const char *tail, size_t max, char out[ID_MAX + 1])
{
	char end[ID_MAX + 1];
	clean_id(tail, max / 2 - 1, end);
	AUTO(mem_freep) char *whole = mem_fmt("%.*s-%s", (int)(max - 1 - strlen(end)), id, end);
	snprintf(out, ID_MAX + 1, "%.64s", whole);
}

void name_models(struct store_model *models, const struct candidate *const *c, size_t n, size_t max)
{
	max = max ? MIN(MAX(max, (size_t)STORES_ID_MIN), (size_t)ID_MAX) : ID_MAX;
	struct map taken;
	map_init(&taken);
	for (size_t i = 0; i < n; i++) {
		char id[ID_MAX + 1], other[ID_MAX + 1];
		first_id(c[i], max, id);
		memcpy(other, id, sizeof other);
		if (map_gets(&taken, other) && c[i]->owner)
			with_tail(id, c[i]->owner, max, other);
		for (uint32_t h = hash_of(models[i].path); map_gets(&taken, other); h++) {
			char hex[16];
			snprintf(hex, sizeof hex, "%08x", h);
			with_tail(id, hex, max, other);
		}
		map_put(&taken, view_str(other), &models[i]);
		models[i].id = mem_strdup(other);
	}
	map_done(&taken);
}
