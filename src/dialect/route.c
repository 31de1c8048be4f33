/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of engine routes.
 */
#include "dialect/dialect.h"

struct row {
	const char *path;
	enum route_kind kind;
	enum dialect dialect;
	bool get, takes_lease, starts_engine, form;
};

static const struct row rows[] = {
	{ "/v1/chat/completions", ROUTE_CHAT, DIALECT_OPENAI, false, true, true },
	{ "/v1/completions", ROUTE_COMPLETIONS, DIALECT_OPENAI, false, true, true },
	{ "/v1/responses", ROUTE_RESPONSES, DIALECT_OPENAI, false, true, true },
	{ "/v1/embeddings", ROUTE_EMBEDDINGS, DIALECT_OPENAI, false, true, true },
	{ "/v1/rerank", ROUTE_RERANK, DIALECT_OPENAI, false, true, true },
	{ "/v1/audio/transcriptions", ROUTE_TRANSCRIPTIONS, DIALECT_OPENAI, false, true, true, true },
	{ "/v1/audio/speech", ROUTE_SPEECH, DIALECT_OPENAI, false, true, true },
	{ "/v1/images/generations", ROUTE_IMAGES, DIALECT_OPENAI, false, true, true },
	{ "/v1/images/edits", ROUTE_IMAGE_EDITS, DIALECT_OPENAI, false, true, true, true },
	{ "/v1/messages", ROUTE_MESSAGES, DIALECT_ANTHROPIC, false, true, true },
	{ "/v1/messages/count_tokens", ROUTE_COUNT_TOKENS, DIALECT_ANTHROPIC, false, false, true },
	{ "/completion", ROUTE_COMPLETION, DIALECT_NATIVE, false, true, true },
	{ "/infill", ROUTE_INFILL, DIALECT_NATIVE, false, true, true },
	{ "/embedding", ROUTE_EMBEDDING, DIALECT_NATIVE, false, true, true },
	{ "/rerank", ROUTE_RERANK, DIALECT_NATIVE, false, true, true },
	{ "/tokenize", ROUTE_TOKENIZE, DIALECT_NATIVE, false, false, true },
	{ "/detokenize", ROUTE_DETOKENIZE, DIALECT_NATIVE, false, false, true },
	{ "/apply-template", ROUTE_APPLY_TEMPLATE, DIALECT_NATIVE, false, false, true },
	{ "/props", ROUTE_PROPS, DIALECT_NATIVE, true, false, false },
	{ "/slots", ROUTE_SLOTS, DIALECT_NATIVE, true, false, false },
};

/* One slot of an engine: the number is the engine's own. */
static enum route_answer slot(struct view method, struct view path, struct route *ret, const char **ret_allow)
{
	struct view id = view_from(path, sizeof "/slots/" - 1);
	if (!id.n || view_find(id, '/') != id.n)
		return ROUTE_UNKNOWN;
	if (!view_eqs(method, "POST")) {
		*ret_allow = "POST";
		return ROUTE_WRONG_METHOD;
	}
	*ret = (struct route){ .kind = ROUTE_SLOT, .dialect = DIALECT_NATIVE, .name = "/slots/{id}" };
	return ROUTE_FOUND;
}

static enum route_answer upstream(struct view method, struct view path, struct route *ret)
{
	struct view tail = view_from(path, sizeof "/upstream/" - 1);
	size_t n = view_find(tail, '/');
	if (n == 0)
		return ROUTE_UNKNOWN;
	bool post = view_eqs(method, "POST");
	*ret = (struct route){
		.kind = ROUTE_UPSTREAM,
		.dialect = DIALECT_NATIVE,
		.name = "/upstream",
		.takes_lease = post,
		.starts_engine = post,
		.get = view_eqs(method, "GET") || view_eqs(method, "HEAD"),
		.pool = view_cut(tail, n),
		.rest = n < tail.n ? view_from(tail, n) : VIEW("/"),
	};
	return ROUTE_FOUND;
}

enum route_answer dialect_route(
	struct view method, struct view path, struct route *ret, const char **ret_allow)
{
	if (view_starts(path, VIEW("/upstream/")))
		return upstream(method, path, ret);
	if (view_starts(path, VIEW("/slots/")))
		return slot(method, path, ret, ret_allow);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		const struct row *r = &rows[i];
		if (!view_eqs(path, r->path))
			continue;
		const char *allow = r->get ? "GET" : "POST";
		if (!view_eqs(method, allow)) {
			*ret_allow = allow;
			return ROUTE_WRONG_METHOD;
		}
		*ret = (struct route){
			.kind = r->kind,
			.dialect = r->dialect,
			.name = r->path,
			.takes_lease = r->takes_lease,
			.starts_engine = r->starts_engine,
			.get = r->get,
			.form = r->form,
		};
		return ROUTE_FOUND;
	}
	return ROUTE_UNKNOWN;
}

/* True for prefix itself and for what lies below it. */
static bool below(struct view path, struct view prefix)
{
	return view_starts(path, prefix) && (path.n == prefix.n || path.p[prefix.n] == '/');
}

enum dialect dialect_of_path(struct view path)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (view_eqs(path, rows[i].path))
			return rows[i].dialect;
	if (below(path, VIEW("/v1/messages")))
		return DIALECT_ANTHROPIC;
	if (below(path, VIEW("/api")))
		return DIALECT_OLLAMA;
	return below(path, VIEW("/v1")) ? DIALECT_OPENAI : DIALECT_NATIVE;
}
