/* SPDX-License-Identifier: Apache-2.0
 *
 * One value: from text into a member, and back.
 */
#include <stdio.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "config/config_int.h"

static void *member(const struct field *f, void *base)
{
	return (char *)base + f->offset;
}

static const void *cmember(const struct field *f, const void *base)
{
	return (const char *)base + f->offset;
}

bool field_is_list(const struct field *f)
{
	return f->type == FIELD_LIST || f->type == FIELD_WORDS || f->type == FIELD_ENV;
}

static bool field_is_text(const struct field *f)
{
	return f->type == FIELD_STRING || f->type == FIELD_PATH || f->type == FIELD_PROGRAM;
}

const struct strv *value_list(const struct field *f, const void *base)
{
	return cmember(f, base);
}

static bool find_word(const struct field *f, struct view text, int64_t *ret)
{
	for (const struct field_word *w = f->words; w && w->word; w++) {
		if (view_eqs(text, w->word)) {
			*ret = w->value;
			return true;
		}
	}
	return false;
}

static void store_number(const struct field *f, void *base, int64_t v)
{
	void *m = member(f, base);
	if (f->type == FIELD_ENUM) {
		int e = (int)v;
		static_assert(sizeof(enum config_gpu) == sizeof e, "an enum member is as wide as an int");
		memcpy(m, &e, sizeof e);
	} else if (f->type == FIELD_UINT) {
		*(uint32_t *)m = (uint32_t)v;
	} else if (f->type == FIELD_SIZE) {
		*(uint64_t *)m = (uint64_t)v;
	} else {
		*(int64_t *)m = v;
	}
}

static int set_number(const struct field *f, void *base, struct view text)
{
	int64_t word;
	if (find_word(f, text, &word)) {
		store_number(f, base, word);
		return 0;
	}
	uint64_t v = 0;
	int64_t ms = 0;
	int r;
	if (f->type == FIELD_DURATION) {
		r = num_duration_ms(text, &ms);
		v = (uint64_t)ms;
	} else {
		r = f->type == FIELD_SIZE ? num_size(text, &v) : num_u64(text, &v);
	}
	if (r || v < f->min || v > f->max)
		return -EINVAL;
	store_number(f, base, (int64_t)v);
	return 0;
}

static int set_path(
	const struct field *f, void *base, struct view text, const struct value_ctx *ctx, struct buf *why)
{
	AUTO(mem_freep) char *t = mem_viewdup(text);
	char *full;
	if (f->type == FIELD_PROGRAM && !strchr(t, '/')) {
		full = mem_strdup(t);
	} else if (t[0] == '~' && (t[1] == '/' || t[1] == '\0')) {
		if (!ctx->home) {
			buf_adds(why, "~ stands for HOME, which is not set");
			return -EINVAL;
		}
		full = t[1] ? path_join(ctx->home, t + 2) : mem_strdup(ctx->home);
	} else {
		full = path_join(ctx->folder ? ctx->folder : "", t);
	}
	size_t n = strlen(full);
	while (n > 1 && full[n - 1] == '/')
		full[--n] = '\0';
	char **m = member(f, base);
	free(*m);
	*m = full;
	return 0;
}

static bool env_name_ok(struct view v)
{
	for (size_t i = 0; i < v.n; i++) {
		char c = v.p[i];
		bool alpha = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
		if (!alpha && !(i && c >= '0' && c <= '9'))
			return false;
	}
	return v.n > 0;
}

int value_add(const struct field *f, void *base, struct view text, struct buf *why)
{
	struct strv *list = member(f, base);
	if (list->len == CONFIG_LIST_MAX) {
		buf_addf(why, "the list is longer than %d", CONFIG_LIST_MAX);
		return -EINVAL;
	}
	if (f->type == FIELD_ENV) {
		struct view rest, name = view_split(text, '=', &rest);
		if (!rest.p || !env_name_ok(name)) {
			buf_adds(why, "a name is letters, digits and _, and does not begin with a digit");
			return -EINVAL;
		}
		for (size_t i = 0; i < list->len; i++) {
			if (view_starts(view_str(list->items[i]), view_cut(text, name.n + 1))) {
				buf_addf(why, "%.*s is set twice", VIEW_ARG(name));
				return -EINVAL;
			}
		}
	} else if (f->type == FIELD_LIST && text.n == 0) {
		buf_adds(why, "an entry is empty");
		return -EINVAL;
	}
	strv_addv(list, text);
	return 0;
}

void value_clear(const struct field *f, void *base)
{
	strv_done(member(f, base));
}

static int set_words(const struct field *f, void *base, struct view text, struct buf *why)
{
	AUTO(strv_done) struct strv words = { 0 };
	struct err e = { 0 };
	if (strv_shell_words(&words, text, &e)) {
		buf_adds(why, e.msg);
		return -EINVAL;
	}
	for (size_t i = 0; i < words.len; i++)
		if (value_add(f, base, view_str(words.items[i]), why))
			return -EINVAL;
	return 0;
}

static int set_replicas(void *m, struct view text, const struct field *f)
{
	uint64_t n;
	if (num_u64(text, &n) || n < f->min || n > f->max)
		return -EINVAL;
	uint32_t *pair = m; /* replicas_min, replicas_max */
	pair[0] = pair[1] = (uint32_t)n;
	return 0;
}

int value_set(
	const struct field *f, void *base, struct view text, const struct value_ctx *ctx, struct buf *why)
{
	static_assert(offsetof(struct config_pool, replicas_max) ==
			      offsetof(struct config_pool, replicas_min) + sizeof(uint32_t),
		"a pair");
	switch (f->type) {
	case FIELD_STRING:
		if (text.n == 0)
			return -EINVAL;
		free(*(char **)member(f, base));
		*(char **)member(f, base) = mem_viewdup(text);
		return 0;
	case FIELD_PATH:
	case FIELD_PROGRAM: return text.n ? set_path(f, base, text, ctx, why) : -EINVAL;
	case FIELD_BOOL:
		if (!view_eqs(text, "true") && !view_eqs(text, "false"))
			return -EINVAL;
		*(bool *)member(f, base) = view_eqs(text, "true");
		return 0;
	case FIELD_UINT:
	case FIELD_SIZE:
	case FIELD_DURATION: return set_number(f, base, text);
	case FIELD_ENUM: {
		int64_t v;
		if (!find_word(f, text, &v))
			return -EINVAL;
		store_number(f, base, v);
		return 0;
	}
	case FIELD_REPLICAS: return set_replicas(member(f, base), text, f);
	case FIELD_LIST: value_clear(f, base); return value_add(f, base, text, why);
	case FIELD_WORDS: value_clear(f, base); return set_words(f, base, text, why);
	case FIELD_ENV: value_clear(f, base); return set_words(f, base, text, why);
	case FIELD_POOLS:
	case FIELD_DEFAULTS: break;
	}
	return -EINVAL;
}

static int64_t load_number(const struct field *f, const void *base)
{
	const void *m = cmember(f, base);
	if (f->type == FIELD_ENUM) {
		int e;
		memcpy(&e, m, sizeof e);
		return e;
	}
	if (f->type == FIELD_UINT)
		return *(const uint32_t *)m;
	return *(const int64_t *)m; /* a size is below 2^63 */
}

/* Names are there once, so that equal lengths and one inclusion are enough. */
static bool same_env(const struct strv *a, const struct strv *b)
{
	bool same = a->len == b->len;
	for (size_t i = 0; i < a->len && same; i++)
		same = strv_has(b, a->items[i]);
	return same;
}

bool value_eq(const struct field *f, const void *a, const void *b)
{
	if (f->type == FIELD_ENV)
		return same_env(cmember(f, a), cmember(f, b));
	if (field_is_list(f))
		return strv_eq(cmember(f, a), cmember(f, b));
	if (field_is_text(f)) {
		const char *x = *(char *const *)cmember(f, a), *y = *(char *const *)cmember(f, b);
		return x && y ? strcmp(x, y) == 0 : x == y;
	}
	if (f->type == FIELD_BOOL)
		return *(const bool *)cmember(f, a) == *(const bool *)cmember(f, b);
	return load_number(f, a) == load_number(f, b);
}

void value_copy(const struct field *f, void *to, const void *from)
{
	static const size_t sizes[] = {
		[FIELD_BOOL] = sizeof(bool),
		[FIELD_UINT] = sizeof(uint32_t),
		[FIELD_SIZE] = sizeof(uint64_t),
		[FIELD_DURATION] = sizeof(int64_t),
		[FIELD_ENUM] = sizeof(int),
	};
	if (f->flags & FIELD_ALIAS || f->type == FIELD_POOLS || f->type == FIELD_DEFAULTS)
		return;
	if (field_is_list(f)) {
		value_clear(f, to);
		strv_copy(member(f, to), cmember(f, from));
	} else if (field_is_text(f)) {
		mem_setstr(member(f, to), *(char *const *)cmember(f, from));
	} else {
		memcpy(member(f, to), cmember(f, from), sizes[f->type]);
	}
}

void value_done(const struct field *f, void *base)
{
	if (f->flags & FIELD_ALIAS)
		return;
	if (field_is_list(f)) {
		value_clear(f, base);
	} else if (field_is_text(f)) {
		free(*(char **)member(f, base));
		*(char **)member(f, base) = NULL;
	}
}

/* The largest unit that divides it, so that reading it back gives the same number. */
static void add_exact(int64_t v, const struct field_word *units, struct buf *out)
{
	for (; units->word; units++) {
		if (v % units->value == 0) {
			buf_addf(out, "%lld%s", (long long)(v / units->value), units->word);
			return;
		}
	}
}

void value_text(const struct field *f, const void *base, struct buf *out)
{
	static const struct field_word sizes[] = { { "GiB", (int64_t)GIB }, { "MiB", (int64_t)MIB },
		{ "KiB", (int64_t)KIB }, { "", 1 }, { NULL, 0 } };
	static const struct field_word times[] = { { "d", 86400000 }, { "h", 3600000 }, { "m", 60000 },
		{ "s", 1000 }, { "ms", 1 }, { NULL, 0 } };
	if (field_is_text(f)) {
		const char *s = *(char *const *)cmember(f, base);
		buf_adds(out, s ? s : "");
		return;
	}
	if (f->type == FIELD_BOOL) {
		buf_adds(out, *(const bool *)cmember(f, base) ? "true" : "false");
		return;
	}
	int64_t v = load_number(f, base);
	for (const struct field_word *w = f->words; w && w->word; w++) {
		if (w->value == v) {
			buf_adds(out, w->word);
			return;
		}
	}
	if (v == 0 || f->type == FIELD_UINT)
		buf_addf(out, "%lld", (long long)v);
	else
		add_exact(v, f->type == FIELD_SIZE ? sizes : times, out);
}
