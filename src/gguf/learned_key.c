/* SPDX-License-Identifier: Apache-2.0
 *
 * What two engines must have in common to take the same memory. An argument that is not known to change
 * nothing counts, whatever it is.
 */
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "gguf/estimate_int.h"
#include "gguf/gguf_int.h"
#include "gguf/learned.h"

/* Of no influence on what is allocated. Those with a value, */
static const char *const values[] = { "-t", "--threads", "-tb", "--threads-batch", "--threads-http",
	"--alias", "-a", "--host", "--port", "-m", "--model", "--slot-save-path", "--timeout", "-to", "-lv",
	"--verbosity", "--log-verbosity", "--log-file", "--log-colors", "--cors-origins", "--chat-template",
	"--chat-template-file", "--chat-template-kwargs", "--reasoning-format", "--reasoning-budget",
	"--seed", "-s", "--temp", "--temperature", "--top-k", "--top-p", "--min-p", "-n", "--predict",
	"--n-predict", "--keep", "--numa", "--slot-prompt-similarity", "-sps", "--cache-reuse" };
/* and without. */
static const char *const flags[] = { "--slots", "--metrics", "--no-cors-credentials", "--jinja", "--no-jinja",
	"-v", "--verbose", "--log-verbose", "--log-prefix", "--log-timestamps", "--no-log-prefix",
	"--no-log-timestamps", "--offline", "--context-shift", "--no-context-shift", "--cache-prompt",
	"--no-cache-prompt", "-cb", "--cont-batching", "-nocb", "--no-cont-batching" };

static bool is_one(struct view name, const char *const *of, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (view_eqs(name, of[i]))
			return true;
	return false;
}

/* ---- sums ------------------------------------------------------------------------------------------- */

struct sum {
	EVP_MD_CTX *ctx;
};

static void sum_begin(struct sum *s)
{
	s->ctx = EVP_MD_CTX_new();
	if (s->ctx)
		(void)EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL);
}

static void sum_bytes(struct sum *s, const void *p, size_t n)
{
	uint64_t len = n; /* so that "ab","c" is not "a","bc" */
	if (!s->ctx)
		return;
	(void)EVP_DigestUpdate(s->ctx, &len, sizeof len);
	if (n)
		(void)EVP_DigestUpdate(s->ctx, p, n);
}

/* The first bytes, in hex. Without a sum: no two are the same, so nothing is found. */
static void sum_end(struct sum *s, char *out, size_t cap)
{
	unsigned char md[EVP_MAX_MD_SIZE] = { 0 };
	if (s->ctx)
		(void)EVP_DigestFinal_ex(s->ctx, md, NULL);
	EVP_MD_CTX_free(s->ctx);
	for (size_t i = 0; 2 * i + 2 < cap; i++)
		snprintf(out + 2 * i, 3, "%02x", md[i]);
}

static void sum_header(struct sum *s, const struct gguf *g)
{
	uint64_t size = g ? g->file_size : 0;
	sum_bytes(s, &size, sizeof size);
	if (g)
		sum_bytes(s, g->data, (size_t)MIN((uint64_t)g->n, g->header_bytes));
}

/* ---- the parts of a key ------------------------------------------------------------------------------- */

static void key_model(const struct estimate_files *f, struct learned_key *k)
{
	struct sum s;
	sum_begin(&s);
	for (size_t i = 0; i < f->n_parts; i++)
		sum_header(&s, f->parts[i]);
	sum_header(&s, f->mmproj);
	sum_header(&s, f->draft);
	for (size_t i = 0; i < f->n_lora; i++)
		sum_header(&s, f->lora[i]);
	sum_end(&s, k->model, sizeof k->model);
}

/* What the estimate does not read, in its order. */
static void sum_words(struct sum *s, const struct strv *words)
{
	for (size_t i = 0; words && i < words->len; i++) {
		const char *word = words->items[i];
		struct view name = view_cut(view_str(word), view_find(view_str(word), '='));
		bool takes;
		if (estimate_arg_is_known(word, &takes))
			i += takes && i + 1 < words->len &&
			     (words->items[i + 1][0] != '-' || strcmp(words->items[i + 1], "-1") == 0);
		else if (is_one(name, values, ARRAY_LEN(values)))
			i += !word[name.n];
		else if (!is_one(name, flags, ARRAY_LEN(flags)))
			sum_bytes(s, word, strlen(word));
	}
}

static bool env_counts(const char *assignment)
{
	struct view v = view_str(assignment);
	return (view_starts(v, VIEW("LLAMA_ARG_")) && !view_starts(v, VIEW("LLAMA_ARG_LOG_"))) ||
	       view_starts(v, VIEW("GGML_"));
}

static void key_args(const struct estimate_args *a, const struct estimate *e, const struct strv *words,
	const struct strv *env, struct learned_key *k)
{
	struct sum s;
	char rest[17];
	sum_begin(&s);
	for (size_t i = 0; i < a->overrides.len; i++)
		sum_bytes(&s, a->overrides.items[i], strlen(a->overrides.items[i]));
	sum_words(&s, words);
	for (size_t i = 0; env && i < env->len; i++)
		if (env_counts(env->items[i]))
			sum_bytes(&s, env->items[i], strlen(env->items[i]));
	sum_end(&s, rest, sizeof rest);
	snprintf(k->args, sizeof k->args,
		"ctx=%llu slots=%llu unified=%d k=%u v=%u batch=%u ubatch=%u flash=%d swa_full=%d mapped=%d "
		"kv_on_host=%d draft_ctx=%llu image=%u rest=%s",
		(unsigned long long)e->ctx, (unsigned long long)e->slots, a->unified, a->type_k, a->type_v,
		a->n_batch, a->n_ubatch, (int)a->flash, a->swa_full, a->mapped, a->kv_on_host,
		(unsigned long long)a->draft_ctx, a->image_max_tokens, rest);
}

static void add_count(struct buf *b, const char *name, uint64_t n, uint64_t all)
{
	if (n >= all)
		(void)buf_addf(b, " %s=all", name);
	else
		(void)buf_addf(b, " %s=%llu", name, (unsigned long long)n);
}

static void key_place(const struct estimate_args *a, const struct estimate *e, struct learned_key *k)
{
	AUTO(buf_done) struct buf b = BUF(8 * KIB);
	if (!a->n_devices || !a->n_gpu_layers) {
		snprintf(k->place, sizeof k->place, "cpu");
		return;
	}
	(void)buf_addf(&b, "devices=%u", a->n_devices);
	add_count(&b, "layers", a->n_gpu_layers, e->n_layers + 1); /* the output counts as one */
	if (a->n_cpu_moe)
		add_count(&b, "cpu_experts", a->n_cpu_moe, e->n_layers);
	for (uint32_t i = 0; a->n_devices > 1 && i < a->n_devices; i++)
		(void)buf_addf(&b, "%s%.6g", i ? "," : " split=", a->split[i]);
	snprintf(k->place, sizeof k->place, "%s", buf_str(&b));
}

void learned_key_make(const struct estimate_files *f, const struct estimate_args *a, const struct estimate *e,
	const struct strv *words, const struct strv *env, struct learned_key *ret)
{
	*ret = (struct learned_key){ 0 };
	key_model(f, ret);
	key_args(a, e, words, env, ret);
	key_place(a, e, ret);
}

bool learned_says_verbosity(const struct strv *words, const struct strv *env)
{
	static const char *const names[] = { "-lv", "--verbosity", "--log-verbosity", "-v", "--verbose",
		"--log-verbose", "--log-disable" };
	for (size_t i = 0; i < words->len; i++) {
		struct view word = view_str(words->items[i]);
		if (is_one(view_cut(word, view_find(word, '=')), names, ARRAY_LEN(names)))
			return true;
	}
	for (size_t i = 0; i < env->len; i++)
		if (view_starts(view_str(env->items[i]), VIEW("LLAMA_ARG_LOG_VERBOSITY=")))
			return true;
	return false;
}

/* ---- from what was learned to an estimate -----------------------------------------------------------------
 */

static void apply_bytes(const struct learned_bytes *l, bool told, uint64_t measured, struct estimate_bytes *b)
{
	if (told) {
		b->weights = l->weights;
		b->kv = l->kv;
		b->recurrent = l->recurrent;
		b->compute = l->compute;
		b->output = l->output;
	}
	uint64_t sum = b->weights + b->kv + b->recurrent + b->compute + b->output;
	if (measured)
		b->overhead = measured > sum ? measured - sum : 0;
	b->total = measured ? measured : sum + b->overhead;
}

void learned_apply(const struct learned *l, struct estimate *e)
{
	apply_bytes(&l->host, l->told, 0, &e->host);
	e->sum = e->host;
	for (size_t i = 0; i < e->n_devices; i++) {
		const struct learned_bytes none = { 0 };
		bool known = i < LEARNED_DEVICES_MAX;
		struct estimate_bytes *d = &e->device[i];
		apply_bytes(known ? &l->device[i] : &none, l->told && known, known ? l->measured[i] : 0, d);
		e->sum.weights += d->weights;
		e->sum.kv += d->kv;
		e->sum.recurrent += d->recurrent;
		e->sum.compute += d->compute;
		e->sum.output += d->output;
		e->sum.overhead += d->overhead;
		e->sum.total += d->total;
	}
	if (l->told)
		e->host_mapped = l->host.mapped;
	e->error_permille = LEARNED_ERROR_PERMILLE;
}
