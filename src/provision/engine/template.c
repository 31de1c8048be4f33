/* SPDX-License-Identifier: Apache-2.0
 *
 * The names in a command's words. Only the names we know are replaced: braces of JSON and of shells
 * stay as they are.
 */
#include <stdio.h>
#include <stdlib.h>

#include "provision/engine/engine_int.h"

enum { WORD_MAX = 64 * 1024 };

static const char *const names[] = { "port", "socket", "model", "ctx", "slots", "devices", "id" };
enum { T_PORT, T_SOCKET, T_MODEL, T_CTX, T_SLOTS, T_DEVICES, T_ID };

/* The name at the start of v ("{port}", "${PORT}") and how many bytes it takes; -1: none. */
static int name_at(struct view v, size_t *ret_len)
{
	if (view_starts(v, VIEW("${PORT}"))) {
		*ret_len = 7;
		return T_PORT;
	}
	if (!v.n || v.p[0] != '{')
		return -1;
	struct view inner = view_from(v, 1);
	size_t end = view_find(inner, '}');
	for (size_t i = 0; end < inner.n && i < ARRAY_LEN(names); i++) {
		if (view_eqs(view_cut(inner, end), names[i])) {
			*ret_len = end + 2;
			return (int)i;
		}
	}
	return -1;
}

static int value_add(int name, const struct engine_params *p, struct buf *b)
{
	switch (name) {
	case T_PORT: return p->port ? buf_addf(b, "%u", (unsigned)p->port) : -ENOENT;
	case T_SOCKET: return p->socket_path ? buf_adds(b, p->socket_path) : -ENOENT;
	case T_MODEL: return p->model_path ? buf_adds(b, p->model_path) : -ENOENT;
	case T_CTX: return buf_addf(b, "%u", p->ctx);
	case T_SLOTS: return buf_addf(b, "%u", p->slots);
	case T_DEVICES: return buf_adds(b, p->devices ? p->devices : "auto");
	default: return buf_adds(b, p->replica_id ? p->replica_id : "");
	}
}

int template_word(const char *word, const struct engine_params *p, struct strv *out, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(WORD_MAX);
	struct view rest = view_str(word);
	int r = 0;
	while (rest.n && !r) {
		size_t len = 1;
		int name = name_at(rest, &len);
		r = name < 0 ? buf_addc(&b, rest.p[0]) : value_add(name, p, &b);
		if (r == -ENOENT)
			return err_set(reterr, r,
				"the command's word \"%s\" names {%s}, but this pool has none%s", word,
				names[name], name == T_MODEL ? "; set the pool's `model`" : "");
		rest = view_from(rest, len);
	}
	if (r)
		return err_set(reterr, r, "a word of the command is longer than %d bytes", WORD_MAX);
	strv_add(out, buf_str(&b));
	return 0;
}

bool template_names(const struct strv *words, const char *name)
{
	for (size_t i = 0; i < words->len; i++) {
		for (struct view rest = view_str(words->items[i]); rest.n; rest = view_from(rest, 1)) {
			size_t len;
			int found = name_at(rest, &len);
			if (found >= 0 && strcmp(names[found], name) == 0)
				return true;
		}
	}
	return false;
}
