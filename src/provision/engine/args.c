/* SPDX-License-Identifier: Apache-2.0
 *
 * llama-server's command line put in order. The table names the options whose other spellings or
 * opposites matter, those that are ours to set, and those that would turn the server into something
 * that is no pool. What is not in the table passes through as it stands, its values behind it.
 */
#include <stdlib.h>

#include "provision/engine/engine_int.h"

enum arity { FLAG, VALUE, MAYBE }; /* MAYBE: takes the next word if that is no option */

struct option {
	const char *names[6]; /* the first is what we write */
	enum arity arity;
	bool repeats;       /* may stand several times */
	const char *family; /* of an option and its opposite: the last of the family wins; NULL = names[0] */
	const char *ours;   /* why it is not the pool's to set: follows "engine.args has X: " */
	const char *env;    /* the variable that would set it too, for those that are ours */
};

#define SET_BY_US "corral listens for the engine itself; remove it"
#define ONE_MODEL "the pool's `model` says which model is served; remove it"
#define NO_START "it prints something and ends, or is no server that waits for requests; remove it"

static const struct option options[] = {
	{ { "--model", "-m" }, VALUE, .ours = ONE_MODEL, .env = "LLAMA_ARG_MODEL" },
	{ { "--model-url", "-mu" }, VALUE, .ours = ONE_MODEL, .env = "LLAMA_ARG_MODEL_URL" },
	{ { "--docker-repo", "-dr" }, VALUE, .ours = ONE_MODEL, .env = "LLAMA_ARG_DOCKER_REPO" },
	{ { "--hf-repo", "-hf", "-hfr" }, VALUE, .ours = ONE_MODEL, .env = "LLAMA_ARG_HF_REPO" },
	{ { "--hf-file", "-hff" }, VALUE, .ours = ONE_MODEL, .env = "LLAMA_ARG_HF_FILE" },
	{ { "--models-dir" }, VALUE, .ours = ONE_MODEL, .env = "LLAMA_ARG_MODELS_DIR" },
	{ { "--models-preset" }, VALUE, .ours = ONE_MODEL, .env = "LLAMA_ARG_MODELS_PRESET" },
	{ { "--embd-gemma-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--fim-qwen-1.5b-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--fim-qwen-3b-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--fim-qwen-7b-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--fim-qwen-7b-spec" }, FLAG, .ours = ONE_MODEL },
	{ { "--fim-qwen-14b-spec" }, FLAG, .ours = ONE_MODEL },
	{ { "--fim-qwen-30b-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--gpt-oss-20b-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--gpt-oss-120b-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--vision-gemma-4b-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--vision-gemma-12b-default" }, FLAG, .ours = ONE_MODEL },
	{ { "--host" }, VALUE, .ours = SET_BY_US, .env = "LLAMA_ARG_HOST" },
	{ { "--port" }, VALUE, .ours = SET_BY_US, .env = "LLAMA_ARG_PORT" },
	{ { "--reuse-port" }, FLAG, .ours = SET_BY_US, .env = "LLAMA_ARG_REUSE_PORT" },
	{ { "--api-prefix" }, VALUE, .ours = SET_BY_US, .env = "LLAMA_ARG_API_PREFIX" },
	{ { "--ssl-key-file" }, VALUE, .ours = SET_BY_US, .env = "LLAMA_ARG_SSL_KEY_FILE" },
	{ { "--ssl-cert-file" }, VALUE, .ours = SET_BY_US, .env = "LLAMA_ARG_SSL_CERT_FILE" },
	{ { "--api-key" }, VALUE,
		.ours = "nobody but corral reaches the engine, and corral has no key for it; remove it",
		.env = "LLAMA_API_KEY" },
	{ { "--api-key-file" }, VALUE,
		.ours = "nobody but corral reaches the engine, and corral has no key for it; remove it",
		.env = "LLAMA_ARG_API_KEY_FILE" },
	{ { "--alias", "-a" }, VALUE,
		.ours = "the engine answers under the pool's id; use the pool's `aliases` for other names",
		.env = "LLAMA_ARG_ALIAS" },
	{ { "--ctx-size", "-c" }, VALUE,
		.ours = "the pool's `ctx` (tokens per request) sets it; the engine gets ctx × slots",
		.env = "LLAMA_ARG_CTX_SIZE" },
	{ { "--parallel", "-np" }, VALUE, .ours = "the pool's `slots` sets it",
		.env = "LLAMA_ARG_N_PARALLEL" },
	{ { "--kv-unified-per-slot" }, VALUE, .ours = "the pool's `ctx` sets what a slot gets; remove it",
		.env = "LLAMA_ARG_KV_UNIFIED_PER_SLOT" },
	{ { "--slots" }, FLAG, .family = "--slots", .ours = "corral reads which slots are busy",
		.env = "LLAMA_ARG_ENDPOINT_SLOTS" },
	{ { "--no-slots" }, FLAG, .family = "--slots",
		.ours = "corral reads which slots are busy; remove it" },
	{ { "--metrics" }, FLAG, .ours = "corral reads the engine's metrics" },
	{ { "--cors-origins" }, VALUE, .ours = "browsers reach the engine only through corral; remove it",
		.env = "LLAMA_ARG_CORS_ORIGINS" },
	{ { "--cors-credentials" }, FLAG, .family = "--cors-credentials",
		.ours = "browsers reach the engine only through corral; remove it",
		.env = "LLAMA_ARG_CORS_CREDENTIALS" },
	{ { "--no-cors-credentials" }, FLAG, .family = "--cors-credentials",
		.ours = "browsers reach the engine only through corral; remove it" },
	{ { "--help", "-h", "--usage" }, FLAG, .ours = NO_START },
	{ { "--version" }, FLAG, .ours = NO_START },
	{ { "--cache-list", "-cl" }, FLAG, .ours = NO_START },
	{ { "--completion-bash" }, FLAG, .ours = NO_START },
	{ { "--list-devices" }, FLAG, .ours = NO_START },

	{ { "--cache-ram", "-cram" }, VALUE }, /* ours yields to the pool's */
	{ { "--device", "-dev" }, VALUE },
	{ { "--gpu-layers", "-ngl", "--n-gpu-layers" }, VALUE },
	{ { "--flash-attn", "-fa" }, MAYBE },
	{ { "--threads", "-t" }, VALUE },
	{ { "--threads-batch", "-tb" }, VALUE },
	{ { "--threads-http" }, VALUE },
	{ { "--batch-size", "-b" }, VALUE },
	{ { "--ubatch-size", "-ub" }, VALUE },
	{ { "--predict", "-n", "--n-predict" }, VALUE },
	{ { "--keep" }, VALUE },
	{ { "--cache-type-k", "-ctk" }, VALUE },
	{ { "--cache-type-v", "-ctv" }, VALUE },
	{ { "--split-mode", "-sm" }, VALUE },
	{ { "--tensor-split", "-ts" }, VALUE },
	{ { "--main-gpu", "-mg" }, VALUE },
	{ { "--fit", "-fit" }, VALUE },
	{ { "--fit-target", "-fitt" }, VALUE },
	{ { "--fit-ctx", "-fitc" }, VALUE },
	{ { "--numa" }, VALUE },
	{ { "--load-mode", "-lm" }, VALUE },
	{ { "--seed", "-s" }, VALUE },
	{ { "--temp", "--temperature" }, VALUE },
	{ { "--top-k" }, VALUE },
	{ { "--top-p" }, VALUE },
	{ { "--min-p" }, VALUE },
	{ { "--rope-scaling" }, VALUE },
	{ { "--rope-scale" }, VALUE },
	{ { "--rope-freq-base" }, VALUE },
	{ { "--rope-freq-scale" }, VALUE },
	{ { "--yarn-orig-ctx" }, VALUE },
	{ { "--mmproj", "-mm" }, VALUE },
	{ { "--model-draft", "-md", "--spec-draft-model" }, VALUE },
	{ { "--gpu-layers-draft", "-ngld", "--n-gpu-layers-draft", "--spec-draft-ngl" }, VALUE },
	{ { "--device-draft", "-devd", "--spec-draft-device" }, VALUE },
	{ { "--n-cpu-moe", "-ncmoe" }, VALUE },
	{ { "--cpu-moe", "-cmoe" }, FLAG },
	{ { "--chat-template" }, VALUE },
	{ { "--chat-template-file" }, VALUE },
	{ { "--chat-template-kwargs" }, VALUE },
	{ { "--reasoning-format" }, VALUE },
	{ { "--reasoning-budget" }, VALUE },
	{ { "--slot-save-path" }, VALUE },
	{ { "--pooling" }, VALUE },
	{ { "--embeddings", "--embedding" }, FLAG },
	{ { "--rerank", "--reranking" }, FLAG },
	{ { "--timeout", "-to" }, VALUE },
	{ { "--verbosity", "-lv", "--log-verbosity" }, VALUE },
	{ { "--verbose", "-v", "--log-verbose" }, FLAG },
	{ { "--swa-full" }, FLAG },
	{ { "--mlock" }, FLAG },
	{ { "--mmap" }, FLAG, .family = "--mmap" },
	{ { "--no-mmap" }, FLAG, .family = "--mmap" },
	{ { "--kv-offload", "-kvo" }, FLAG, .family = "--kv-offload" },
	{ { "--no-kv-offload", "-nkvo" }, FLAG, .family = "--kv-offload" },
	{ { "--kv-unified", "-kvu" }, FLAG, .family = "--kv-unified" },
	{ { "--no-kv-unified", "-no-kvu" }, FLAG, .family = "--kv-unified" },
	{ { "--cont-batching", "-cb" }, FLAG, .family = "--cont-batching" },
	{ { "--no-cont-batching", "-nocb" }, FLAG, .family = "--cont-batching" },
	{ { "--repack" }, FLAG, .family = "--repack" },
	{ { "--no-repack", "-nr" }, FLAG, .family = "--repack" },
	{ { "--jinja" }, FLAG, .family = "--jinja" },
	{ { "--no-jinja" }, FLAG, .family = "--jinja" },
	{ { "--warmup" }, FLAG, .family = "--warmup" },
	{ { "--no-warmup" }, FLAG, .family = "--warmup" },
	{ { "--context-shift" }, FLAG, .family = "--context-shift" },
	{ { "--no-context-shift" }, FLAG, .family = "--context-shift" },
	{ { "--cache-prompt" }, FLAG, .family = "--cache-prompt" },
	{ { "--no-cache-prompt" }, FLAG, .family = "--cache-prompt" },
	{ { "--lora" }, VALUE, .repeats = true },
	{ { "--lora-scaled" }, VALUE, .repeats = true },
	{ { "--control-vector" }, VALUE, .repeats = true },
	{ { "--control-vector-scaled" }, VALUE, .repeats = true },
	{ { "--override-kv" }, VALUE, .repeats = true },
	{ { "--override-tensor", "-ot" }, VALUE, .repeats = true },
	{ { "--logit-bias", "-l" }, VALUE, .repeats = true },
};

enum { ARGS_MAX = 1024 };

struct entry {
	const struct option *option; /* NULL: not in the table */
	char *name;                  /* as it is written */
	struct strv values;
	bool dropped, from_us;
};
struct line {
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

static const struct option *option_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		for (size_t k = 0; k < ARRAY_LEN(options[i].names) && options[i].names[k]; k++)
			if (strcmp(options[i].names[k], name) == 0)
				return &options[i];
	return NULL;
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
static char *name_of(const char *word, const char **ret_value)
{
	size_t n = strncmp(word, "--", 2) == 0 ? view_find(view_str(word), '=') : strlen(word);
	char *name = mem_viewdup(view_of(word, n));
	for (char *c = name; strncmp(name, "--", 2) == 0 && *c; c++)
		if (*c == '_')
			*c = '-';
	*ret_value = NULL;
	if (word[n] != '=')
		return name;
	const struct option *o = option_find(name);
	if (o && o->arity != FLAG) {
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
	} else if (e->option->arity == VALUE) {
		if (!more)
			return err_set(reterr, -EINVAL,
				"engine.args ends with %s, which needs a value behind it", words->items[*i]);
		strv_add(&e->values, words->items[++*i]);
	} else if (e->option->arity == MAYBE && more && !is_option(words->items[*i + 1])) {
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
	bool same = false;
	for (size_t i = 0; family && i < l->n; i++) {
		struct entry *old = &l->items[i];
		if (old == e || old->dropped || !family_of(old) || strcmp(family_of(old), family) != 0)
			continue;
		if (old->from_us && old->option->ours) {
			same |= strcmp(old->name, e->name) == 0 && strv_eq(&old->values, &e->values);
			continue;
		}
		if (!e->option->repeats)
			old->dropped = true;
	}
	if (e->from_us || !e->option || !e->option->ours)
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
		*e = (struct entry){ .name = name_of(word, &value), .from_us = from_us };
		e->option = option_find(e->name);
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

static int check_env(const struct strv *env, struct err *reterr)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		if (options[i].env && env_find(env, options[i].env))
			return err_set(reterr, -EINVAL, "engine.env has %s, which is %s: %s", options[i].env,
				options[i].names[0], options[i].ours);
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

int llama_args_merge(const struct strv *ours, const struct strv *args, const struct strv *env,
	struct strv *ret, struct err *reterr)
{
	AUTO(line_done) struct line l = { 0 };
	int r = line_add(&l, ours, true, reterr);
	if (!r)
		r = line_add(&l, args, false, reterr);
	if (!r)
		r = check_env(env, reterr);
	if (!r)
		r = check_pooling(&l, env, reterr);
	for (size_t i = 0; i < l.n && !r; i++) {
		if (l.items[i].dropped)
			continue;
		strv_add(ret, l.items[i].name);
		strv_copy(ret, &l.items[i].values);
	}
	return r;
}
