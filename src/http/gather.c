/* SPDX-License-Identifier: Apache-2.0 */
#include "http/gather.h"

#include <stdlib.h>

#include "base/mem.h"

enum { KEEP_BYTES = 8 * 1024, FIRST_HEADERS = 16, KEEP_HEADERS = 32 };

void gather_init(struct head_gather *g)
{
	*g = (struct head_gather){ .bytes = BUF(HTTP_HEAD_MAX) };
}

static void free_items(struct head_gather *g)
{
	free(g->items);
	g->items = NULL;
	g->cap = 0;
}

void gather_free(struct head_gather *g)
{
	buf_done(&g->bytes);
	free_items(g);
}

void gather_reset(struct head_gather *g)
{
	buf_reset(&g->bytes);
	if (g->bytes.cap > KEEP_BYTES)
		buf_done(&g->bytes);
	if (g->cap > KEEP_HEADERS)
		free_items(g);
	g->n = 0;
	g->from = g->end = NULL;
	g->begun = g->in_value = g->done = false;
}

void gather_chunk(struct head_gather *g, const char *data)
{
	g->from = g->end = g->begun && !g->done ? data : NULL;
}

int gather_chunk_end(struct head_gather *g, const char *data_end)
{
	if (!g->from || g->done)
		return 0;
	int r = buf_add(&g->bytes, g->from, (size_t)(data_end - g->from));
	g->from = g->end = NULL;
	return r;
}

size_t gather_len(const struct head_gather *g)
{
	return g->bytes.len + (g->from ? (size_t)(g->end - g->from) : 0);
}

int gather_raw(struct head_gather *g, const char *at, size_t n)
{
	if (!g->from)
		g->from = at;
	g->begun = true;
	g->end = at + n;
	return gather_len(g) > HTTP_HEAD_MAX ? -ENOBUFS : 0;
}

/* Where `at`, a place in the chunk at hand, will be in bytes; a pointer only so that it fits in a view. */
static const char *offset_of(const struct head_gather *g, const char *at)
{
	return (const char *)(uintptr_t)(g->bytes.len + (size_t)(at - g->from));
}

static int new_header(struct head_gather *g)
{
	if (g->n == HTTP_HEADERS_MAX)
		return -E2BIG;
	if (g->n == g->cap) {
		g->cap = (uint16_t)(g->cap ? g->cap * 2 : FIRST_HEADERS);
		g->items = mem_realloc(g->items, g->cap * sizeof *g->items);
	}
	g->items[g->n++] = (struct http_header){ .known = HTTP_H_OTHER };
	g->in_value = false;
	return 0;
}

int gather_name(struct head_gather *g, const char *at, size_t n)
{
	if (g->done)
		return 0;
	int r = gather_raw(g, at, n);
	bool first = g->n == 0 || g->in_value;
	if (!r && first)
		r = new_header(g);
	if (r)
		return r;
	struct http_header *h = &g->items[g->n - 1];
	if (first)
		h->name.p = offset_of(g, at);
	h->name.n += n;
	return 0;
}

static void begin_value(struct head_gather *g, const char *at)
{
	g->in_value = true;
	g->items[g->n - 1].value.p = offset_of(g, at);
}

void gather_value_end(struct head_gather *g)
{
	if (!g->done && !g->in_value && g->n)
		begin_value(g, g->end);
}

int gather_value(struct head_gather *g, const char *at, size_t n)
{
	if (g->done || g->n == 0)
		return 0;
	int r = gather_raw(g, at, n);
	if (r)
		return r;
	if (!g->in_value)
		begin_value(g, at);
	g->items[g->n - 1].value.n += n;
	return 0;
}

int gather_headers(struct head_gather *g, struct http_headers *ret)
{
	int r = g->from ? gather_chunk_end(g, g->end) : 0;
	const char *base = buf_str(&g->bytes);
	g->done = true;
	ret->items = g->items;
	ret->len = r ? 0 : g->n;
	for (size_t i = 0; i < ret->len; i++) {
		struct http_header *h = &g->items[i];
		h->name.p = base + (uintptr_t)h->name.p;
		h->value.p = base + (uintptr_t)h->value.p;
		h->value = view_trim(h->value);
		h->known = http_known_of(h->name);
	}
	return r;
}
