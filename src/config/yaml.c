/* SPDX-License-Identifier: Apache-2.0
 *
 * A YAML tree with the position of every node, built from the parser's events. The library's own
 * document builder is not used: it loses the positions of mappings and lists and expands aliases. Here
 * an alias is a second pointer to the node it means, and an anchor exists once its node is complete, so
 * there are no cycles and nothing multiplies.
 */
#include <libfyaml.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "config/config_int.h"

struct builder {
	struct loader *ld;
	struct ydoc *d;
	struct map anchors;
	struct ynode *stack[CONFIG_DEPTH_MAX];
	char *stack_anchor[CONFIG_DEPTH_MAX];
	size_t depth;
	unsigned ndocs;
};

static void node_free(struct ynode *n)
{
	free(n->text);
	free(n->items);
	free(n);
}

void ydoc_done(struct ydoc *d)
{
	for (size_t i = 0; i < d->nall; i++)
		node_free(d->all[i]);
	free(d->all);
	free(d->name);
	free(d->folder);
	buf_done(&d->text);
	*d = (struct ydoc){ 0 };
}

static int fail_at(struct builder *b, const struct fy_mark *m, const char *msg)
{
	struct ynode at = {
		.line = m ? (unsigned)m->line + 1 : 1, .column = m ? (unsigned)m->column + 1 : 1, .width = 1
	};
	struct config_origin o = load_origin(b->ld, b->d, &at);
	load_fail(b->ld, &o, "", "%s", msg);
	return -EINVAL;
}

static struct ynode *node_new(struct builder *b, enum ykind kind, struct fy_token *t)
{
	struct ydoc *d = b->d;
	const struct fy_mark *m = t ? fy_token_start_mark(t) : NULL;
	if (d->nall == CONFIG_NODES_MAX) {
		fail_at(b, m, "the file has more than 200000 values; write less in one file");
		return NULL;
	}
	if (d->nall == d->call) {
		d->call = d->call ? d->call * 2 : 64;
		d->all = mem_realloc(d->all, d->call * sizeof *d->all);
	}
	struct ynode *n = NEW(struct ynode);
	d->all[d->nall++] = n;
	n->kind = kind;
	n->line = m ? (unsigned)m->line + 1 : 0;
	n->column = m ? (unsigned)m->column + 1 : 0;
	n->width = 1;
	return n;
}

static void node_push(struct ynode *to, struct ynode *n)
{
	if (to->n == to->cap) {
		to->cap = to->cap ? to->cap * 2 : 8;
		to->items = mem_realloc(to->items, to->cap * sizeof *to->items);
	}
	to->items[to->n++] = n;
}

/* Puts a node where the events are. */
static void place(struct builder *b, struct ynode *n)
{
	const struct ynode *in = b->depth ? b->stack[b->depth - 1] : NULL;
	if (!n->line && in) { /* nothing is written there: what stands before it is the place */
		const struct ynode *near = in->n ? in->items[in->n - 1] : in;
		n->line = near->line;
		n->column = near->column;
		n->width = near->width;
	}
	if (b->depth)
		node_push(b->stack[b->depth - 1], n);
	else if (!b->d->root)
		b->d->root = n;
}

static char *token_name(struct fy_token *t)
{
	size_t len = 0;
	const char *s = t ? fy_token_get_text(t, &len) : NULL;
	return s ? mem_viewdup(view_of(s, len)) : NULL;
}

static void anchor_set(struct builder *b, const char *name, struct ynode *n)
{
	if (name && *name)
		map_put(&b->anchors, view_str(name), n);
}

static int on_scalar(struct builder *b, const struct fy_event *e)
{
	struct fy_token *t = e->scalar.value;
	struct ynode *n = node_new(b, Y_SCALAR, t);
	if (!n)
		return -EINVAL;
	size_t len = 0;
	const char *s = t ? fy_token_get_text(t, &len) : NULL;
	if (s && memchr(s, 0, len))
		return fail_at(b, fy_token_start_mark(t), "the text holds a NUL character; remove it");
	if (len > CONFIG_STRING_MAX)
		return fail_at(b, fy_token_start_mark(t), "a text of more than 16 KiB; write a shorter one");
	n->text = mem_viewdup(view_of(s ? s : "", s ? len : 0));
	n->plain = !t || fy_token_scalar_style(t) == FYSS_PLAIN;
	if (t) {
		const struct fy_mark *from = fy_token_start_mark(t), *to = fy_token_end_mark(t);
		if (from && to && to->line == from->line && to->column > from->column)
			n->width = (unsigned)(to->column - from->column);
		if (!n->plain && n->column > 1 && fy_token_scalar_style(t) <= FYSS_DOUBLE_QUOTED) {
			n->column--; /* the mark stands behind the opening quote */
			n->width += 2;
		}
	}
	AUTO(mem_freep) char *anchor = token_name(e->scalar.anchor);
	place(b, n);
	anchor_set(b, anchor, n);
	return 0;
}

static int on_alias(struct builder *b, const struct fy_event *e)
{
	AUTO(mem_freep) char *name = token_name(e->alias.anchor);
	struct ynode *n = name ? map_gets(&b->anchors, name) : NULL;
	if (!n) {
		AUTO(mem_freep)
		char *msg = mem_fmt("the alias *%.64s names no anchor that is complete before it; write "
				    "&%.64s at the value it means",
			name ? name : "", name ? name : "");
		return fail_at(b, fy_token_start_mark(e->alias.anchor), msg);
	}
	place(b, n);
	return 0;
}

static int on_open(struct builder *b, enum ykind kind, struct fy_token *start, struct fy_token *anchor)
{
	if (b->depth == CONFIG_DEPTH_MAX)
		return fail_at(b, start ? fy_token_start_mark(start) : NULL,
			"lists and mappings inside each other more than 32 deep; no key needs that");
	struct ynode *n = node_new(b, kind, start);
	if (!n)
		return -EINVAL;
	place(b, n);
	b->stack_anchor[b->depth] = token_name(anchor);
	b->stack[b->depth++] = n;
	return 0;
}

static int on_close(struct builder *b)
{
	if (!b->depth)
		return 0;
	b->depth--;
	struct ynode *n = b->stack[b->depth];
	anchor_set(b, b->stack_anchor[b->depth], n);
	free(MEM_TAKE(b->stack_anchor[b->depth]));
	/* A block collection's own token lies at the indicator of its first entry or nowhere. */
	if (n->n && (!n->line || n->line == n->items[0]->line)) {
		n->line = n->items[0]->line;
		n->column = n->column && n->column < n->items[0]->column ? n->column : n->items[0]->column;
	}
	return 0;
}

static int on_event(struct builder *b, const struct fy_event *e)
{
	switch (e->type) {
	case FYET_DOCUMENT_START:
		if (b->ndocs++)
			return fail_at(b,
				e->document_start.document_start
					? fy_token_start_mark(e->document_start.document_start)
					: NULL,
				"a second document begins here (---); a configuration is one document");
		return 0;
	case FYET_SCALAR: return on_scalar(b, e);
	case FYET_ALIAS: return on_alias(b, e);
	case FYET_SEQUENCE_START:
		return on_open(b, Y_LIST, e->sequence_start.sequence_start, e->sequence_start.anchor);
	case FYET_MAPPING_START:
		return on_open(b, Y_MAP, e->mapping_start.mapping_start, e->mapping_start.anchor);
	case FYET_SEQUENCE_END:
	case FYET_MAPPING_END: return on_close(b);
	default: return 0;
	}
}

/* The parser's own complaint: the first says where, later ones follow from it. */
static int report_syntax(struct builder *b, struct fy_diag *diag)
{
	void *iter = NULL;
	struct fy_diag_error *e;
	while (diag && (e = fy_diag_errors_iterate(diag, &iter))) {
		if (e->type != FYET_ERROR)
			continue;
		struct fy_mark m = { .line = e->line > 0 ? e->line - 1 : 0,
			.column = e->column > 0 ? e->column - 1 : 0 };
		AUTO(mem_freep)
		char *msg = mem_fmt("this is not YAML: %.200s", e->msg ? e->msg : "syntax error");
		return fail_at(b, &m, msg);
	}
	return fail_at(b, NULL, "this is not YAML");
}

/* What the parser need not see: it loops for ever on a directive with a byte that is not UTF-8. */
static int check_bytes(struct builder *b)
{
	struct view v = buf_view(&b->d->text);
	struct fy_mark m = { 0 };
	while (v.n) {
		size_t n = utf8_len(v);
		if (!n)
			return fail_at(b, &m, "a byte that is not UTF-8; save the file as UTF-8");
		if (v.p[0] == '\0')
			return fail_at(b, &m, "a NUL byte: this is no text file; save it as UTF-8");
		if (v.p[0] == '%' && m.column == 0)
			return fail_at(b, &m,
				"a line that begins with % is a YAML directive; a configuration needs none, "
				"remove it");
		m.column++;
		if (v.p[0] == '\n') {
			m.line++;
			m.column = 0;
		}
		v = view_from(v, n);
	}
	return 0;
}

static int run_parser(struct builder *b, struct fy_parser *p, struct fy_diag *diag)
{
	struct fy_event *e;
	while ((e = fy_parser_parse(p))) {
		bool end = e->type == FYET_STREAM_END;
		int r = on_event(b, e);
		fy_parser_event_free(p, e);
		if (r)
			return r;
		if (end)
			return 0;
	}
	return report_syntax(b, diag);
}

int ydoc_parse(struct loader *ld, struct ydoc *d)
{
	struct builder b = { .ld = ld, .d = d };
	if (check_bytes(&b))
		return -EINVAL;
	struct fy_diag_cfg dcfg;
	fy_diag_cfg_default(&dcfg);
	dcfg.fp = NULL;
	struct fy_diag *diag = fy_diag_create(&dcfg);
	if (diag)
		fy_diag_set_collect_errors(diag, true);
	struct fy_parse_cfg cfg = {
		.search_path = "", .flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_JSON_NONE, .diag = diag
	};
	struct fy_parser *p = fy_parser_create(&cfg);
	map_init(&b.anchors);
	int r = -EINVAL;
	if (!p || fy_parser_set_string(p, buf_str(&d->text), d->text.len))
		fail_at(&b, NULL, "the YAML parser could not be started");
	else
		r = run_parser(&b, p, diag);
	while (b.depth)
		free(b.stack_anchor[--b.depth]);
	map_done(&b.anchors);
	if (p)
		fy_parser_destroy(p);
	if (diag)
		fy_diag_destroy(diag);
	return r;
}
