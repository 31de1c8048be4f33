/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine's command line put in order, by a table of its options (args_llama.c, table.c). What is not in
 * the table passes through as it stands, its values behind it.
 */
#include <stdlib.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/table.h"

enum { ARGS_MAX = 1024 };

struct entry {
	const struct engine_option *option; /* NULL: not in the table */
	char *name;                         /* as it is written */
	struct strv values;
	bool dropped, from_us;
};
struct line {
	const struct engine_options *table;
	struct entry *items;
	size_t n;
};

static void line_done(struct line *l)
{
	for (size_t i = 0; i < l->n; i++) {
		free(l->items[i].name);
		strv_done(&l->items[i].values);
	}
	free(l->items);
}

/* What its parser would take a beginning for ("--por" for "--port"), as far as that is ours to set. */
static const struct engine_option *abbreviated(const struct engine_options *t, const char *name)
{
	size_t n = strlen(name);
	if (!t->abbreviates || n < 4 || strncmp(name, "--", 2) != 0)
		return NULL;
	for (size_t i = 0; i < t->n; i++)
		for (size_t k = 0; k < ARRAY_LEN(t->items[i].names) && t->items[i].names[k]; k++)
			if (t->items[i].ours && strncmp(t->items[i].names[k], name, n) == 0)
				return &t->items[i];
	return NULL;
}

static const struct engine_option *option_find(const struct engine_options *t, const char *name)
{
	for (size_t i = 0; i < t->n; i++)
		for (size_t k = 0; k < ARRAY_LEN(t->items[i].names) && t->items[i].names[k]; k++)
			if (strcmp(t->items[i].names[k], name) == 0)
				return &t->items[i];
	return abbreviated(t, name);
}

static const char *family_of(const struct entry *e)
{
	return !e->option ? NULL : e->option->family ? e->option->family : e->option->names[0];
}

/* "-1" and "-.5" are values. */
static bool is_option(const char *word)
{
	return word[0] == '-' && word[1] != '\0' && !strchr("0123456789.", word[1]);
}

/* The name part of a word ("--ctx_size=4" → "--ctx-size"); *ret_value is what follows the = or NULL.
 * The = is split off only where the option is known: llama-server itself does not take it. */
static char *name_of(const struct engine_options *t, const char *word, const char **ret_value)
{
	size_t n = strncmp(word, "--", 2) == 0 ? view_find(view_str(word), '=') : strlen(word);
	char *name = mem_viewdup(view_of(word, n));
	for (char *c = name; strncmp(name, "--", 2) == 0 && *c; c++)
		if (*c == '_')
			*c = '-';
	*ret_value = NULL;
	if (word[n] != '=')
		return name;
	const struct engine_option *o = option_find(t, name);
	if (o && o->arity != ARG_FLAG) {
		*ret_value = word + n + 1;
		return name;
	}
	free(name);
	return mem_strdup(word);
}

static int take_values(
	const struct strv *words, size_t *i, struct entry *e, const char *inline_value, struct err *reterr)
{
	if (inline_value) {
		strv_add(&e->values, inline_value);
		return 0;
	}
	bool more = *i + 1 < words->len;
	if (!e->option) {
		while (*i + 1 < words->len && !is_option(words->items[*i + 1]))
			strv_add(&e->values, words->items[++*i]);
	} else if (e->option->arity == ARG_VALUE) {
		if (!more)
			return err_set(reterr, -EINVAL,
				"engine.args ends with %s, which needs a value behind it", words->items[*i]);
		strv_add(&e->values, words->items[++*i]);
	} else if (e->option->arity == ARG_MAYBE && more && !is_option(words->items[*i + 1])) {
		strv_add(&e->values, words->items[++*i]);
	}
	return 0;
}

static void entry_text(const struct entry *e, struct buf *b)
{
	(void)buf_adds(b, e->name);
	for (size_t i = 0; i < e->values.len; i++)
		(void)buf_addf(b, " %s", e->values.items[i]);
}

/* Settles e, which stands at the end, with what is there already. */
static int settle(struct line *l, struct entry *e, struct err *reterr)
{
	const char *family = family_of(e);
	bool same = false, passed = false;
	for (size_t i = 0; family && i < l->n; i++) {
		struct entry *old = &l->items[i];
		if (old == e || old->dropped || !family_of(old) || strcmp(family_of(old), family) != 0)
			continue;
		if (old->from_us && old->option->ours) {
			passed = true;
			same |= strcmp(old->name, e->name) == 0 && strv_eq(&old->values, &e->values);
			continue;
		}
		if (!e->option->repeats)
			old->dropped = true;
	}
	if (e->from_us || !e->option || !e->option->ours || (e->option->if_set && !passed))
		return 0;
	if (same) {
		e->dropped = true;
		return 0;
	}
	AUTO(buf_done) struct buf text = BUF(256);
	entry_text(e, &text);
	return err_set(reterr, -EINVAL, "engine.args has \"%s\": %s", buf_str(&text), e->option->ours);
}

static int line_add(struct line *l, const struct strv *words, bool from_us, struct err *reterr)
{
	for (size_t i = 0; i < words->len; i++) {
		const char *word = words->items[i], *value;
		if (!is_option(word))
			return err_set(reterr, -EINVAL,
				"engine.args has \"%s\" where an option is expected; options begin with -",
				word);
		if (l->n == ARGS_MAX)
			return err_set(reterr, -E2BIG, "engine.args has more than %d options", ARGS_MAX);
		l->items = mem_realloc(l->items, (l->n + 1) * sizeof *l->items);
		struct entry *e = &l->items[l->n++];
		*e = (struct entry){ .name = name_of(l->table, word, &value), .from_us = from_us };
		e->option = option_find(l->table, e->name);
		if (e->option)
			mem_setstr(&e->name, e->option->names[0]);
		int r = take_values(words, &i, e, value, reterr);
		if (!r)
			r = settle(l, e, reterr);
		if (r)
			return r;
	}
	return 0;
}

static const struct entry *line_find(const struct line *l, const char *name)
{
	for (size_t i = 0; i < l->n; i++)
		if (!l->items[i].dropped && strcmp(l->items[i].name, name) == 0)
			return &l->items[i];
	return NULL;
}

static const char *env_find(const struct strv *env, const char *name)
{
	size_t n = strlen(name);
	const char *found = NULL;
	for (size_t i = 0; i < env->len; i++)
		if (strncmp(env->items[i], name, n) == 0 && env->items[i][n] == '=')
			found = env->items[i] + n + 1;
	return found;
}

static bool env_on(const struct strv *env, const char *name)
{
	const char *v = env_find(env, name);
	return v && *v && strcmp(v, "0") != 0 && strcmp(v, "off") != 0 && strcmp(v, "false") != 0 &&
	       strcmp(v, "disabled") != 0;
}

static int check_env(const struct engine_options *t, const struct strv *env, struct err *reterr)
{
	for (size_t i = 0; i < t->n; i++)
		if (t->items[i].env && env_find(env, t->items[i].env))
			return err_set(reterr, -EINVAL, "engine.env has %s, which is %s: %s", t->items[i].env,
				t->items[i].names[0], t->items[i].ours);
	return 0;
}

/* With --embeddings and no pooling llama-server starts, and the first completion kills it (SIGSEGV). */
static int check_pooling(const struct line *l, const struct strv *env, struct err *reterr)
{
	if (!line_find(l, "--embeddings") && !env_on(env, "LLAMA_ARG_EMBEDDINGS"))
		return 0;
	if (line_find(l, "--rerank") || env_on(env, "LLAMA_ARG_RERANKING"))
		return 0; /* implies pooling by rank */
	const struct entry *p = line_find(l, "--pooling");
	const char *how = p ? p->values.items[0] : env_find(env, "LLAMA_ARG_POOLING");
	if (how && strcmp(how, "none") != 0)
		return 0;
	return err_set(reterr, -EINVAL,
		"engine.args has --embeddings %s: llama-server would start and be killed by the first "
		"completion "
		"(SIGSEGV); add --pooling mean (or cls, last, as the model wants it)",
		how ? "with --pooling none" : "without --pooling");
}

static int line_make(struct line *l, const struct strv *ours, const struct strv *args, const struct strv *env,
	struct err *reterr)
{
	int r = line_add(l, ours, true, reterr);
	if (!r)
		r = line_add(l, args, false, reterr);
	return r ? r : check_env(l->table, env, reterr);
}

static void line_write(const struct line *l, struct strv *ret)
{
	for (size_t i = 0; i < l->n; i++) {
		if (l->items[i].dropped)
			continue;
		strv_add(ret, l->items[i].name);
		strv_copy(ret, &l->items[i].values);
	}
}

int engine_args_merge(const struct engine_options *t, const struct strv *ours, const struct strv *args,
	const struct strv *env, struct strv *ret, struct err *reterr)
{
	AUTO(line_done) struct line l = { .table = t };
	int r = line_make(&l, ours, args, env, reterr);
	if (!r && t == &llama_options)
		r = check_pooling(&l, env, reterr);
	if (!r)
		line_write(&l, ret);
	return r;
}
