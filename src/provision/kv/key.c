/* SPDX-License-Identifier: Apache-2.0
 *
 * Which engines may take up each other's conversations, and which have a cache that can be taken up.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/mem.h"
#include "gguf/estimate.h"
#include "provision/kv/kv.h"

/* Where the work is done, by how many threads, where the engine listens and what it tells: none of it is in
 * the cache. With a value unless it stands among flags. The context and the slots are not here: how much a
 * slot has decides on the rotation of some models. */
static const char *const values[] = { "--host", "--port", "--slot-save-path", "--cache-ram", "-cram",
	"--alias", "-a", "--cors-origins", "--threads", "-t", "--threads-batch", "-tb", "--threads-http",
	"--device", "-dev", "--gpu-layers", "-ngl", "--n-gpu-layers", "--split-mode", "-sm", "--tensor-split",
	"-ts", "--main-gpu", "-mg", "--fit", "-fit", "--fit-target", "-fitt", "--fit-ctx", "-fitc",
	"--n-cpu-moe", "-ncmoe", "--override-tensor", "-ot", "--numa", "--load-mode", "-lm", "--timeout",
	"-to", "--verbosity", "-lv", "--log-verbosity", "--predict", "-n", "--n-predict" };
static const char *const flags[] = { "--slots", "--metrics", "--no-cors-credentials", "--mlock", "--mmap",
	"--no-mmap", "--cpu-moe", "-cmoe", "--warmup", "--no-warmup", "--verbose", "-v", "--log-verbose" };

static bool is_one(struct view name, const char *const *of, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (view_eqs(name, of[i]))
			return true;
	return false;
}

static void add_bytes(uint64_t *h, const void *p, size_t n)
{
	const unsigned char *c = p;
	for (size_t i = 0; i < n; i++)
		*h = (*h ^ c[i]) * 1099511628211ull;
}

/* With its end, so that "ab","c" is not "a","bc". A file is also what it was when it was looked at. */
static void add_word(uint64_t *h, const char *word)
{
	struct stat st;
	add_bytes(h, word, strlen(word) + 1);
	if (word[0] != '/' || stat(word, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	int64_t is[] = { (int64_t)st.st_size, (int64_t)st.st_mtim.tv_sec, (int64_t)st.st_mtim.tv_nsec };
	add_bytes(h, is, sizeof is);
}

void kv_fingerprint(
	const struct strv *argv, const struct strv *env, const char *version, char out[KV_KEY_LEN + 1])
{
	uint64_t h = 14695981039346656037ull;
	add_word(&h, version ? version : "");
	for (size_t i = 0; i < argv->len; i++) {
		const char *word = argv->items[i];
		struct view name = view_cut(view_str(word), view_find(view_str(word), '='));
		bool assigned = word[name.n] == '=';
		if (is_one(name, flags, ARRAY_LEN(flags)))
			continue;
		if (is_one(name, values, ARRAY_LEN(values)))
			i += !assigned;
		else
			add_word(&h, word);
	}
	for (size_t i = 0; i < env->len; i++)
		if (view_starts(view_str(env->items[i]), VIEW("LLAMA_ARG_")))
			add_word(&h, env->items[i]);
	snprintf(out, KV_KEY_LEN + 1, "%016llx", (unsigned long long)h);
}

/* ---- the model ---------------------------------------------------------------------------------------- */

/* Architectures whose files have the key of a window that llama.cpp does not use. */
static const char *const no_window[] = { "llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "starcoder2" };
static const char *const recurrent_keys[] = { "ssm.state_size", "ssm.conv_kernel", "wkv.head_size",
	"shortconv.l_cache" };

static void read_kind(const struct gguf *g, bool swa_full, struct kv_shape *ret)
{
	struct view arch = { 0 };
	uint64_t x = 0;
	gguf_str(g, "general.architecture", &arch);
	ret->checkpoints = gguf_arch_u64(g, "attention.sliding_window", &x) && x > 0 && !swa_full &&
			   !is_one(arch, no_window, ARRAY_LEN(no_window));
	for (size_t i = 0; i < ARRAY_LEN(recurrent_keys); i++)
		ret->checkpoints = ret->checkpoints || gguf_arch_u64(g, recurrent_keys[i], &x);
}

static int read_size(
	const struct gguf_set *set, const struct estimate_args *a, struct kv_shape *ret, struct err *e)
{
	struct estimate_files f = { .parts = set->items, .n_parts = set->len };
	struct estimate sum = { 0 };
	int r = estimate(&f, a, &sum, e);
	if (r)
		return r;
	ret->checkpoints = ret->checkpoints || sum.model_class == ESTIMATE_HYBRID;
	ret->slot_bytes = (sum.sum.kv + sum.sum.recurrent) / MAX(a->slots, 1u);
	estimate_done(&sum);
	return 0;
}

int kv_shape_read(const char *model_path, const struct strv *argv, uint64_t ctx, uint32_t slots,
	struct kv_shape *ret, struct err *reterr)
{
	struct gguf_set set = { 0 };
	struct estimate_args a;
	*ret = (struct kv_shape){ 0 };
	estimate_args_init(&a);
	int r = gguf_set_open(model_path, &set, reterr);
	r = r ? r : estimate_args_read(&a, (const char *const *)argv->items, argv->len, reterr);
	if (!r) {
		a.ctx = ctx;
		a.slots = slots;
		read_kind(set.items[0], a.swa_full, ret);
		r = read_size(&set, &a, ret, reterr);
	}
	gguf_set_done(&set);
	estimate_args_done(&a);
	return r;
}
