/* SPDX-License-Identifier: Apache-2.0
 *
 * llama-server's arguments, as far as memory depends on them. An argument that is not ours is passed over; so
 * is its value, for no value of one looks like one of ours.
 */
#include <stdio.h>

#include "base/mem.h"
#include "base/num.h"
#include "gguf/estimate_int.h"
#include "gguf/gguf_int.h"

enum arg_id {
	A_CTX,
	A_SLOTS,
	A_BATCH,
	A_UBATCH,
	A_FLASH,
	A_TYPE_K,
	A_TYPE_V,
	A_LAYERS,
	A_SPLIT,
	A_OVERRIDE,
	A_CPU_MOE,
	A_ALL_CPU_MOE,
	A_SWA_FULL,
	A_UNIFIED,
	A_NOT_UNIFIED,
	A_MMAP,
	A_NO_MMAP,
	A_LOAD_MODE,
	A_KV_DEVICE,
	A_KV_HOST,
	A_CACHE_RAM,
	A_MMPROJ,
	A_DRAFT,
	A_DRAFT_CTX,
	A_LORA,
	A_IMAGE_MAX,
	A_DEVICE,
};
enum { NO_VALUE, A_VALUE, MAYBE_VALUE };

static const struct arg {
	const char *names[4];
	enum arg_id id;
	int value;
} table[] = {
	{ { "-c", "--ctx-size" }, A_CTX, A_VALUE },
	{ { "-np", "--parallel" }, A_SLOTS, A_VALUE },
	{ { "-b", "--batch-size" }, A_BATCH, A_VALUE },
	{ { "-ub", "--ubatch-size" }, A_UBATCH, A_VALUE },
	{ { "-fa", "--flash-attn" }, A_FLASH, MAYBE_VALUE },
	{ { "-ctk", "--cache-type-k" }, A_TYPE_K, A_VALUE },
	{ { "-ctv", "--cache-type-v" }, A_TYPE_V, A_VALUE },
	{ { "-ngl", "--gpu-layers", "--n-gpu-layers" }, A_LAYERS, A_VALUE },
	{ { "-ts", "--tensor-split" }, A_SPLIT, A_VALUE },
	{ { "-ot", "--override-tensor" }, A_OVERRIDE, A_VALUE },
	{ { "-ncmoe", "--n-cpu-moe" }, A_CPU_MOE, A_VALUE },
	{ { "-cmoe", "--cpu-moe" }, A_ALL_CPU_MOE, NO_VALUE },
	{ { "--swa-full" }, A_SWA_FULL, NO_VALUE },
	{ { "-kvu", "--kv-unified" }, A_UNIFIED, NO_VALUE },
	{ { "-no-kvu", "--no-kv-unified" }, A_NOT_UNIFIED, NO_VALUE },
	{ { "--mmap" }, A_MMAP, NO_VALUE },
	{ { "--no-mmap" }, A_NO_MMAP, NO_VALUE },
	{ { "-lm", "--load-mode" }, A_LOAD_MODE, A_VALUE },
	{ { "-kvo", "--kv-offload" }, A_KV_DEVICE, NO_VALUE },
	{ { "-nkvo", "--no-kv-offload" }, A_KV_HOST, NO_VALUE },
	{ { "-cram", "--cache-ram" }, A_CACHE_RAM, A_VALUE },
	{ { "-mm", "--mmproj" }, A_MMPROJ, A_VALUE },
	{ { "-md", "--model-draft", "--spec-draft-model" }, A_DRAFT, A_VALUE },
	{ { "-cd", "--ctx-size-draft", "--spec-draft-ctx-size" }, A_DRAFT_CTX, A_VALUE },
	{ { "--lora", "--lora-scaled" }, A_LORA, A_VALUE },
	{ { "--image-max-tokens" }, A_IMAGE_MAX, A_VALUE },
	{ { "-dev", "--device" }, A_DEVICE, A_VALUE },
};

void estimate_args_init(struct estimate_args *a)
{
	const uint32_t f16 = 1;
	*a = (struct estimate_args){ .slots = 1,
		.type_k = f16,
		.type_v = f16,
		.n_batch = 2048,
		.n_ubatch = 512,
		.mapped = true,
		.n_gpu_layers = ESTIMATE_ALL };
}

void estimate_args_done(struct estimate_args *a)
{
	strv_done(&a->overrides);
	strv_done(&a->lora);
	free(a->mmproj);
	free(a->draft);
	a->mmproj = a->draft = NULL;
}

bool estimate_kv_type(struct view name, uint32_t *ret_type)
{
	static const struct {
		const char *name;
		uint32_t type;
	} types[] = { { "f32", 0 }, { "f16", 1 }, { "bf16", 30 }, { "q8_0", 8 }, { "q4_0", 2 }, { "q4_1", 3 },
		{ "iq4_nl", 20 }, { "q5_0", 6 }, { "q5_1", 7 } };
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		if (view_eq_ci(name, view_str(types[i].name))) {
			*ret_type = types[i].type;
			return true;
		}
	}
	return false;
}

static int bad(const char *name, struct view value, const char *accepted, struct err *reterr)
{
	char text[64];
	return err_set(reterr, -EINVAL, "%s: found \"%s\"; accepted is %s", name, gguf_printable(value, text),
		accepted);
}

static int read_count(const char *name, struct view v, uint64_t max, uint64_t *ret, struct err *reterr)
{
	uint64_t x;
	if (num_u64(v, &x) < 0 || x > max)
		return bad(name, v, "a whole number", reterr);
	*ret = x;
	return 0;
}

static int read_u32(const char *name, struct view v, uint32_t *ret, struct err *reterr)
{
	uint64_t x = 0;
	int r = read_count(name, v, UINT32_MAX - 1, &x, reterr);
	if (r == 0)
		*ret = (uint32_t)x;
	return r;
}

static int read_layers(const char *name, struct view v, uint32_t *ret, struct err *reterr)
{
	if (view_eqs(v, "all") || view_eqs(v, "auto") || view_starts(v, VIEW("-"))) {
		*ret = ESTIMATE_ALL;
		return 0;
	}
	return read_u32(name, v, ret, reterr);
}

static int read_flash(const char *name, struct view v, enum estimate_flash *ret, struct err *reterr)
{
	if (!v.n || view_eqs(v, "on") || view_eqs(v, "1") || view_eqs(v, "true") || view_eqs(v, "enabled"))
		*ret = ESTIMATE_FLASH_ON;
	else if (view_eqs(v, "off") || view_eqs(v, "0") || view_eqs(v, "false") || view_eqs(v, "disabled"))
		*ret = ESTIMATE_FLASH_OFF;
	else if (view_eqs(v, "auto") || view_eqs(v, "-1"))
		*ret = ESTIMATE_FLASH_AUTO;
	else
		return bad(name, v, "on, off or auto", reterr);
	return 0;
}

/* "3,1" or "3/1". */
static int read_split(struct estimate_args *a, const char *name, struct view v, struct err *reterr)
{
	char text[512], *at = text, *end;
	size_t n = 0;
	if (!v.n || v.n >= sizeof text)
		return bad(name, v, "shares with commas, as 3,1", reterr);
	memcpy(text, v.p, v.n);
	text[v.n] = '\0';
	memset(a->split, 0, sizeof a->split);
	for (;;) {
		double x = strtod(at, &end);
		if (end == at || !(x >= 0 && x < 1e9) || n == ESTIMATE_DEVICES_MAX)
			return bad(name, v, "shares with commas, as 3,1", reterr);
		a->split[n++] = x;
		if (*end == '\0')
			return 0;
		if (*end != ',' && *end != '/')
			return bad(name, v, "shares with commas, as 3,1", reterr);
		at = end + 1;
	}
}

static void read_list(struct strv *to, struct view v)
{
	while (v.n) {
		struct view rest, one = view_split(v, ',', &rest);
		if (one.n)
			strv_addv(to, one);
		v = rest;
	}
}

static int read_cache_ram(struct estimate_args *a, const char *name, struct view v, struct err *reterr)
{
	uint64_t mib = 0;
	int r = view_starts(v, VIEW("-")) ? 0 : read_count(name, v, 1ull << 40, &mib, reterr);
	if (r == 0)
		a->host_cache = mib * MIB;
	return r;
}

static int read_type(const char *name, struct view v, uint32_t *ret, struct err *reterr)
{
	if (estimate_kv_type(v, ret))
		return 0;
	return bad(name, v, "f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0 or q5_1", reterr);
}

static void set_flag(struct estimate_args *a, enum arg_id id)
{
	if (id == A_ALL_CPU_MOE)
		a->n_cpu_moe = ESTIMATE_ALL;
	else if (id == A_SWA_FULL)
		a->swa_full = true;
	else if (id == A_UNIFIED || id == A_NOT_UNIFIED)
		a->unified = id == A_UNIFIED;
	else if (id == A_MMAP || id == A_NO_MMAP)
		a->mapped = id == A_MMAP;
	else
		a->kv_on_host = id == A_KV_HOST;
}

static void set_path(struct estimate_args *a, enum arg_id id, struct view v)
{
	if (id == A_LORA) {
		strv_addv(&a->lora, v);
		return;
	}
	char **to = id == A_MMPROJ ? &a->mmproj : &a->draft;
	free(*to);
	*to = mem_viewdup(v);
}

static int set_value(
	struct estimate_args *a, const struct arg *arg, struct view v, uint64_t *ctx, struct err *reterr)
{
	const char *name = arg->names[0];
	switch (arg->id) {
	case A_CTX: return read_count(name, v, 1ull << 40, ctx, reterr);
	case A_SLOTS: return read_u32(name, v, &a->slots, reterr);
	case A_BATCH: return read_u32(name, v, &a->n_batch, reterr);
	case A_UBATCH: return read_u32(name, v, &a->n_ubatch, reterr);
	case A_FLASH: return read_flash(name, v, &a->flash, reterr);
	case A_TYPE_K: return read_type(name, v, &a->type_k, reterr);
	case A_TYPE_V: return read_type(name, v, &a->type_v, reterr);
	case A_LAYERS: return read_layers(name, v, &a->n_gpu_layers, reterr);
	case A_SPLIT: return read_split(a, name, v, reterr);
	case A_CPU_MOE: return read_u32(name, v, &a->n_cpu_moe, reterr);
	case A_CACHE_RAM: return read_cache_ram(a, name, v, reterr);
	case A_DRAFT_CTX: return read_count(name, v, 1ull << 40, &a->draft_ctx, reterr);
	case A_IMAGE_MAX: return read_u32(name, v, &a->image_max_tokens, reterr);
	case A_OVERRIDE: read_list(&a->overrides, v); return 0;
	case A_LOAD_MODE: a->mapped = view_search(v, VIEW("mmap")) >= 0 || view_eqs(v, "auto"); return 0;
	case A_DEVICE: a->n_gpu_layers = view_eqs(v, "none") ? 0 : a->n_gpu_layers; return 0;
	case A_MMPROJ:
	case A_DRAFT:
	case A_LORA: set_path(a, arg->id, v); return 0;
	default: set_flag(a, arg->id); return 0;
	}
}

/* "--ctx_size=4096": the engine takes _ for - in long names. */
static const struct arg *find(struct view word, struct view *ret_value)
{
	char name[64];
	*ret_value = (struct view){ 0 };
	struct view stem = view_starts(word, VIEW("--")) ? view_split(word, '=', ret_value) : word;
	if (stem.n >= sizeof name)
		return NULL;
	for (size_t i = 0; i < stem.n; i++)
		name[i] = stem.p[i] == '_' && view_starts(word, VIEW("--")) ? '-' : stem.p[i];
	for (size_t i = 0; i < ARRAY_LEN(table); i++)
		for (size_t k = 0; k < ARRAY_LEN(table[i].names) && table[i].names[k]; k++)
			if (view_eqs(view_of(name, stem.n), table[i].names[k]))
				return &table[i];
	return NULL;
}

bool estimate_arg_is_known(const char *word, bool *ret_takes_next)
{
	struct view value;
	const struct arg *arg = find(view_str(word), &value);
	*ret_takes_next = arg && !value.p && arg->value != NO_VALUE;
	return arg != NULL;
}

static bool is_word(struct view next)
{
	return view_starts(next, VIEW("-")) && !view_eqs(next, "-1");
}

int estimate_args_read(struct estimate_args *a, const char *const *argv, size_t n, struct err *reterr)
{
	uint64_t ctx = 0;
	for (size_t i = 0; i < n; i++) {
		struct view value;
		const struct arg *arg = find(view_str(argv[i]), &value);
		if (!arg)
			continue;
		bool has = value.p || arg->value == NO_VALUE;
		if (!has && i + 1 < n && (arg->value == A_VALUE || !is_word(view_str(argv[i + 1])))) {
			value = view_str(argv[++i]);
			has = true;
		}
		if (!has && arg->value == A_VALUE)
			return err_set(reterr, -EINVAL, "%s: its value is missing", arg->names[0]);
		int r = set_value(a, arg, value, &ctx, reterr);
		if (r < 0)
			return r;
	}
	a->slots = MAX(a->slots, 1u);
	if (ctx)
		a->ctx = (ctx + a->slots - 1) / a->slots;
	return 0;
}
