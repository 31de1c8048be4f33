/* SPDX-License-Identifier: Apache-2.0 */
#include "http/gather.h"

enum { KEEP_BYTES = 8 * 1024 };

void gather_init(struct head_gather *g)
{
	buf_init(&g->bytes, HTTP_HEAD_MAX);
	g->n = 0;
	g->in_value = g->done = false;
}

void gather_free(struct head_gather *g)
{
	buf_done(&g->bytes);
}

void gather_reset(struct head_gather *g)
{
	buf_reset(&g->bytes);
	if (g->bytes.cap > KEEP_BYTES)
		buf_done(&g->bytes);
	g->n = 0;
	g->in_value = g->done = false;
}

int gather_raw(struct head_gather *g, const char *at, size_t n)
{
	return buf_add(&g->bytes, at, n);
}

int gather_name(struct head_gather *g, const char *at, size_t n)
{
	if (g->done)
		return 0;
	if (g->n == 0 || g->in_value) {
		if (g->n == HTTP_HEADERS_MAX)
			return -E2BIG;
		g->spans[g->n].name = (uint32_t)g->bytes.len;
		g->spans[g->n].name_len = g->spans[g->n].value_len = 0;
		g->n++;
		g->in_value = false;
	}
	g->spans[g->n - 1].name_len += (uint32_t)n;
	return gather_raw(g, at, n);
}

void gather_value_end(struct head_gather *g)
{
	if (g->done || g->in_value || g->n == 0)
		return;
	g->spans[g->n - 1].value = (uint32_t)g->bytes.len;
	g->in_value = true;
}

int gather_value(struct head_gather *g, const char *at, size_t n)
{
	if (g->done || g->n == 0)
		return 0;
	gather_value_end(g);
	g->spans[g->n - 1].value_len += (uint32_t)n;
	return gather_raw(g, at, n);
}

void gather_headers(struct head_gather *g, struct http_headers *ret)
{
	const char *base = buf_str(&g->bytes);
	g->done = true;
	ret->len = g->n;
	for (size_t i = 0; i < g->n; i++) {
		ret->items[i].name = view_of(base + g->spans[i].name, g->spans[i].name_len);
		ret->items[i].value = view_trim(view_of(base + g->spans[i].value, g->spans[i].value_len));
	}
}
