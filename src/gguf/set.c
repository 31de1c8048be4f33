/* SPDX-License-Identifier: Apache-2.0
 *
 * A model in parts: NAME-00001-of-00003.gguf. The first is named, the others lie beside it.
 */
#include <stdio.h>

#include "base/mem.h"
#include "gguf/estimate.h"

void gguf_set_done(struct gguf_set *s)
{
	for (size_t i = 0; i < s->len; i++)
		gguf_free((struct gguf *)s->items[i]);
	free(s->items);
	*s = (struct gguf_set){ 0 };
}

static int add(struct gguf_set *s, const char *path, struct err *reterr)
{
	struct gguf *g = NULL;
	int r = gguf_open(path, &g, reterr);
	if (r < 0)
		return r;
	s->items = mem_realloc(s->items, (s->len + 1) * sizeof *s->items);
	s->items[s->len++] = g;
	return 0;
}

static int add_others(struct gguf_set *s, const char *path, struct err *reterr)
{
	struct gguf_facts f;
	char end[64];
	gguf_facts(s->items[0], &f);
	if (f.split_count <= 1)
		return 0;
	if (f.split_count > ESTIMATE_PARTS_MAX)
		return err_set(reterr, -EINVAL, "%s says it has %llu parts; at most %d are accepted", path,
			(unsigned long long)f.split_count, ESTIMATE_PARTS_MAX);
	int n = snprintf(end, sizeof end, "-00001-of-%05u.gguf", (unsigned)f.split_count);
	struct view whole = view_str(path);
	if (n < 0 || !view_ends(whole, view_str(end)))
		return err_set(reterr, -EINVAL,
			"%s is a part of a model of %u; name the first, which ends in %s", path,
			(unsigned)f.split_count, end);
	for (unsigned i = 2; i <= f.split_count; i++) {
		AUTO(mem_freep)
		char *part = mem_fmt("%.*s-%05u-of-%05u.gguf", (int)(whole.n - (size_t)n), path, i,
			(unsigned)f.split_count);
		int r = add(s, part, reterr);
		if (r < 0)
			return r;
	}
	return 0;
}

int gguf_set_open(const char *path, struct gguf_set *ret, struct err *reterr)
{
	struct gguf_set s = { 0 };
	int r = add(&s, path, reterr);
	if (r == 0)
		r = add_others(&s, path, reterr);
	if (r < 0)
		gguf_set_done(&s);
	else
		*ret = s;
	return r;
}
