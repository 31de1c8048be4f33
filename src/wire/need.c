/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model needs, as one line: "NAME=NUMBER" for each sum, then "layers=COUNTxWEIGHTS/EXPERTS/CACHE,…".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "wire/wire.h"

#define SUM(m)                                                                                               \
	{                                                                                                    \
#m, offsetof(struct wire_need, m)                                                            \
	}
static const struct {
	const char *name;
	size_t offset;
} sums[] = { SUM(whole), SUM(output), SUM(extra), SUM(compute), SUM(overhead), SUM(host), SUM(host_mapped),
	SUM(host_compute) };

static uint64_t *sum_at(struct wire_need *n, size_t i)
{
	return (uint64_t *)(void *)((char *)n + sums[i].offset);
}

void wire_need_done(struct wire_need *n)
{
	free(n->layers);
	*n = (struct wire_need){ 0 };
}

static int encode_layers(const struct wire_need *n, struct buf *b)
{
	int r = n->nlayers ? buf_adds(b, " layers=") : 0;
	for (uint32_t i = 0, same; !r && i < n->nlayers; i += same) {
		const struct wire_need_layer *l = &n->layers[i];
		for (same = 1; i + same < n->nlayers && memcmp(l, l + same, sizeof *l) == 0;)
			same++;
		r = buf_addf(b, "%s%ux%llu/%llu/%llu", i ? "," : "", same, (unsigned long long)l->weights,
			(unsigned long long)l->experts, (unsigned long long)l->cache);
	}
	return r;
}

int wire_need_encode(const struct wire_need *n, struct buf *b)
{
	struct wire_need copy = *n;
	int r = buf_addf(b, "source=%s kind=%s error=%u", n->source[0] ? n->source : "unknown",
		n->kind[0] ? n->kind : "unknown", n->error_permille);
	if (!r && n->ctx)
		r = buf_addf(b, " ctx=%u", n->ctx);
	for (size_t i = 0; !r && i < ARRAY_LEN(sums); i++)
		if (*sum_at(&copy, i))
			r = buf_addf(b, " %s=%llu", sums[i].name, (unsigned long long)*sum_at(&copy, i));
	return r ? r : encode_layers(n, b);
}

static int decode_layers(struct view v, struct wire_need *n, struct err *e)
{
	while (v.p) {
		struct view rest, one = view_split(v, ',', &v);
		uint64_t count, w, x, c;
		struct view times = view_split(one, 'x', &rest);
		struct view weights = view_split(rest, '/', &rest), experts = view_split(rest, '/', &rest);
		if (num_u64(times, &count) || num_u64(weights, &w) || num_u64(experts, &x) ||
			num_u64(rest, &c))
			return err_set(e, -EINVAL,
				"what a model needs has a layer \"%.*s\"; "
				"COUNTxWEIGHTS/EXPERTS/CACHE is accepted",
				(int)MIN(one.n, (size_t)60), one.p);
		if (!count || count > WIRE_NEED_LAYERS_MAX - n->nlayers)
			return err_set(e, -EINVAL,
				"what a model needs has more than %d layers, or none in a row",
				WIRE_NEED_LAYERS_MAX);
		n->layers = mem_realloc(n->layers, (n->nlayers + count) * sizeof *n->layers);
		while (count--)
			n->layers[n->nlayers++] = (struct wire_need_layer){ w, x, c };
	}
	return 0;
}

static void take_word(char *to, size_t cap, struct view v)
{
	snprintf(to, cap, "%.*s", (int)MIN(v.n, cap - 1), v.p);
}

static int decode_word(struct view name, struct view value, struct wire_need *n, struct err *e)
{
	uint64_t x;
	if (view_eqs(name, "layers"))
		return decode_layers(value, n, e);
	if (view_eqs(name, "source") || view_eqs(name, "kind")) {
		take_word(view_eqs(name, "kind") ? n->kind : n->source, sizeof n->kind, value);
		return 0;
	}
	if (num_u64(value, &x))
		return err_set(e, -EINVAL, "what a model needs has \"%.*s\" that is no number",
			(int)MIN(name.n, (size_t)60), name.p);
	if (view_eqs(name, "ctx"))
		n->ctx = (uint32_t)MIN(x, (uint64_t)UINT32_MAX);
	if (view_eqs(name, "error"))
		n->error_permille = (uint32_t)MIN(x, (uint64_t)UINT32_MAX);
	for (size_t i = 0; i < ARRAY_LEN(sums); i++)
		if (view_eqs(name, sums[i].name))
			*sum_at(n, i) = x;
	return 0; /* a name that is not known is a newer side's */
}

int wire_need_decode(struct view text, struct wire_need *ret, struct err *reterr)
{
	struct wire_need n = { 0 };
	int r = 0;
	while (!r && text.p) {
		struct view value, word = view_split(text, ' ', &text);
		struct view name = view_split(word, '=', &value);
		if (word.n)
			r = value.p ? decode_word(name, value, &n, reterr)
				    : err_set(reterr, -EINVAL,
					      "what a model needs has \"%.*s\"; NAME=NUMBER is "
					      "accepted",
					      (int)MIN(word.n, (size_t)60), word.p);
	}
	if (r)
		wire_need_done(&n);
	else
		*ret = n;
	return r;
}
