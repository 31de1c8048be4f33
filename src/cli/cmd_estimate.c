/* SPDX-License-Identifier: Apache-2.0
 *
 * corral estimate: what a model file needs in memory, from its header.
 */
#include <stdio.h>
#include <yyjson.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "cli/cli_int.h"
#include "config/config.h"
#include "gguf/estimate.h"
#include "gguf/learned.h"
#include "gpu/gpu.h"

enum { OPT_CTX = 1, OPT_SLOTS, OPT_KV, OPT_UBATCH, OPT_FLASH, OPT_LAYERS, OPT_DEVICES, OPT_SOURCE };
enum source { SOURCE_AUTO, SOURCE_FORMULA, SOURCE_ORACLE, SOURCE_LEARNED };
static const char *const source_names[] = { "auto", "formula", "oracle", "learned" };

struct ask {
	struct estimate_args args;
	enum source source;
	uint64_t ctx;
	struct strv words; /* the engine's arguments, as they are written */
};

/* What the engine's own option of that meaning would say of it. */
static int as_engine(struct ask *a, const char *name, const char *value)
{
	const char *const argv[] = { name, value };
	struct err e = { 0 };
	if (estimate_args_read(&a->args, argv, 2, &e) == 0)
		return 0;
	complain("estimate: %s", e.msg);
	return CLI_USAGE;
}

static uint32_t gpus_here(void)
{
	struct gpu_list *list = NEW(struct gpu_list);
	unsigned seen;
	uint32_t n = 0;
	gpu_bus_scan("/sys", list, &seen);
	for (size_t i = 0; i < list->len; i++)
		n += !list->items[i].integrated && !list->items[i].given_away;
	free(list);
	return n;
}

static int set_devices(struct ask *a, const char *value)
{
	uint64_t n = 0;
	if (strcmp(value, "auto") == 0)
		n = gpus_here();
	else if (strcmp(value, "cpu") != 0 && (num_u64(view_str(value), &n) || n > ESTIMATE_DEVICES_MAX)) {
		complain(
			"estimate: --devices takes auto, cpu, or how many GPUs (at most %d), found \"%.40s\"",
			ESTIMATE_DEVICES_MAX, value);
		return CLI_USAGE;
	}
	a->args.n_devices = (uint32_t)n;
	return 0;
}

static int set_source(struct ask *a, const char *value)
{
	for (size_t i = 0; i < ARRAY_LEN(source_names); i++) {
		if (strcmp(value, source_names[i]) == 0) {
			a->source = (enum source)i;
			return 0;
		}
	}
	complain("estimate: --source takes auto, learned, oracle or formula, found \"%.40s\"", value);
	return CLI_USAGE;
}

static int on_option(void *arg, int opt, const char *value)
{
	struct ask *a = arg;
	switch (opt) {
	case OPT_CTX:
		if (num_u64(view_str(value), &a->ctx) == 0 && a->ctx && a->ctx <= 1ull << 32)
			return 0;
		complain("estimate: --ctx takes the tokens of one slot, as 8192, found \"%.40s\"", value);
		return CLI_USAGE;
	case OPT_SLOTS: return as_engine(a, "-np", value);
	case OPT_KV: return as_engine(a, "-ctk", value) || as_engine(a, "-ctv", value) ? CLI_USAGE : 0;
	case OPT_UBATCH: return as_engine(a, "-ub", value);
	case OPT_FLASH: return as_engine(a, "-fa", value);
	case OPT_LAYERS: return as_engine(a, "-ngl", value);
	case OPT_DEVICES: return set_devices(a, value);
	default: return set_source(a, value);
	}
}

/* ---- the companions ------------------------------------------------------------------------------- */

struct opened {
	struct gguf_set model;
	struct gguf *mmproj, *draft, *lora[ESTIMATE_LORA_MAX];
	struct estimate_files files;
};

static void opened_done(struct opened *o)
{
	gguf_set_done(&o->model);
	gguf_free(o->mmproj);
	gguf_free(o->draft);
	for (size_t i = 0; i < ESTIMATE_LORA_MAX; i++)
		gguf_free(o->lora[i]);
}

static int open_all(const char *path, const struct estimate_args *a, struct opened *o, struct err *e)
{
	int r = gguf_set_open(path, &o->model, e);
	if (r == 0 && a->mmproj)
		r = gguf_open(a->mmproj, &o->mmproj, e);
	if (r == 0 && a->draft)
		r = gguf_open(a->draft, &o->draft, e);
	size_t n = MIN(a->lora.len, (size_t)ESTIMATE_LORA_MAX);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = gguf_open(a->lora.items[i], &o->lora[i], e);
	o->files = (struct estimate_files){ .parts = o->model.items,
		.n_parts = o->model.len,
		.mmproj = o->mmproj,
		.draft = o->draft,
		.n_lora = n };
	for (size_t i = 0; i < n; i++)
		o->files.lora[i] = o->lora[i];
	return r;
}

/* ---- output --------------------------------------------------------------------------------------- */

static const char *confidence(const struct estimate *e)
{
	return e->model_class == ESTIMATE_UNKNOWN ? "low" : e->error_permille > 30 ? "medium" : "high";
}

static void json_bytes(yyjson_mut_doc *d, yyjson_mut_val *o, const struct estimate_bytes *b)
{
	yyjson_mut_obj_add_uint(d, o, "weights_bytes", b->weights);
	yyjson_mut_obj_add_uint(d, o, "kv_bytes", b->kv);
	yyjson_mut_obj_add_uint(d, o, "recurrent_bytes", b->recurrent);
	yyjson_mut_obj_add_uint(d, o, "compute_bytes", b->compute);
	yyjson_mut_obj_add_uint(d, o, "output_bytes", b->output);
	yyjson_mut_obj_add_uint(d, o, "overhead_bytes", b->overhead);
	yyjson_mut_obj_add_uint(d, o, "total_bytes", b->total);
}

static void json_places(yyjson_mut_doc *d, yyjson_mut_val *root, const struct estimate *e)
{
	yyjson_mut_val *list = yyjson_mut_obj_add_arr(d, root, "per_device");
	for (size_t i = 0; i < e->n_devices; i++) {
		yyjson_mut_val *o = yyjson_mut_arr_add_obj(d, list);
		yyjson_mut_obj_add_uint(d, o, "device", i);
		json_bytes(d, o, &e->device[i]);
	}
	yyjson_mut_val *host = yyjson_mut_obj_add_obj(d, root, "host");
	json_bytes(d, host, &e->host);
	yyjson_mut_obj_add_uint(d, host, "mapped_bytes", e->host_mapped);
	yyjson_mut_obj_add_uint(d, root, "projector_bytes", e->projector);
	yyjson_mut_obj_add_uint(d, root, "draft_bytes", e->draft);
	yyjson_mut_obj_add_uint(d, root, "adapters_bytes", e->adapters);
}

static int print_json(const struct estimate *e, enum source by, const struct learned *l, struct buf *out)
{
	yyjson_mut_doc *d = yyjson_mut_doc_new(NULL);
	yyjson_mut_val *root = yyjson_mut_obj(d);
	yyjson_mut_doc_set_root(d, root);
	json_bytes(d, root, &e->sum);
	json_places(d, root, e);
	yyjson_mut_obj_add_uint(d, root, "ctx", e->ctx);
	yyjson_mut_obj_add_uint(d, root, "slots", e->slots);
	yyjson_mut_obj_add_str(d, root, "class", estimate_class_name(e->model_class));
	yyjson_mut_obj_add_str(d, root, "source", source_names[by]);
	yyjson_mut_obj_add_str(d, root, "confidence", by == SOURCE_FORMULA ? confidence(e) : "high");
	yyjson_mut_obj_add_real(d, root, "error_bound", e->error_permille / 1000.0);
	if (by == SOURCE_LEARNED) {
		yyjson_mut_obj_add_str(d, root, "engine_version", l->build);
		yyjson_mut_obj_add_sint(d, root, "learned_at_ms", l->learned_ms);
	}
	if (e->note[0])
		yyjson_mut_obj_add_str(d, root, "note", e->note);
	size_t n;
	char *text = yyjson_mut_write(d, YYJSON_WRITE_PRETTY_TWO_SPACES, &n);
	int r = text ? buf_add(out, text, n) : -ENOMEM;
	(void)buf_addc(out, '\n');
	free(text);
	yyjson_mut_doc_free(d);
	return r;
}

static void add_cell(struct table *t, uint64_t bytes)
{
	char text[32];
	if (bytes == 0) {
		table_add(t, "-");
		return;
	}
	num_format_bytes(bytes, text, sizeof text);
	table_add(t, "%s", text);
}

static void add_row(struct table *t, const struct estimate_bytes *b)
{
	add_cell(t, b->weights);
	add_cell(t, b->kv);
	add_cell(t, b->recurrent);
	add_cell(t, b->compute);
	add_cell(t, b->output);
	add_cell(t, b->overhead);
	add_cell(t, b->total);
}

static void add_source(const struct estimate *e, enum source by, const struct learned *l, struct buf *out)
{
	char at[WALL_STR_LEN + 1];
	if (by == SOURCE_ORACLE) {
		(void)buf_adds(out, "as llama-fit-params says\n");
	} else if (by == SOURCE_LEARNED) {
		wall_format(l->learned_ms, at);
		(void)buf_adds(out, "learned from engine ");
		clean_add(out, view_str(l->build), false);
		(void)buf_addf(out, " at %s, within %u.%u %% (confidence high)\n", at, e->error_permille / 10,
			e->error_permille % 10);
	} else {
		(void)buf_addf(out, "by formula, within %u.%u %% (confidence %s)\n", e->error_permille / 10,
			e->error_permille % 10, confidence(e));
	}
}

static void print_text(const struct estimate *e, enum source by, const struct learned *l, struct buf *out)
{
	static const char *const heads[] = { "WHERE", "WEIGHTS", "KV", "STATE", "COMPUTE", "OUTPUT",
		"OVERHEAD", "TOTAL" };
	AUTO(table_done) struct table t = { .columns = ARRAY_LEN(heads) };
	char mapped[32];
	for (size_t i = 0; i < ARRAY_LEN(heads); i++)
		table_add(&t, "%s", heads[i]);
	for (size_t i = 0; i < e->n_devices; i++) {
		table_add(&t, "device %zu", i);
		add_row(&t, &e->device[i]);
	}
	table_add(&t, "host");
	add_row(&t, &e->host);
	table_add(&t, "all");
	add_row(&t, &e->sum);
	table_print(&t, color_for(1), out);
	num_format_bytes(e->host_mapped, mapped, sizeof mapped);
	(void)buf_addf(out, "\n%llu slot%s of %llu tokens; a %s model; ", (unsigned long long)e->slots,
		e->slots == 1 ? "" : "s", (unsigned long long)e->ctx, estimate_class_name(e->model_class));
	add_source(e, by, l, out);
	if (e->host_mapped)
		(void)buf_addf(
			out, "%s of the host's are pages of the file, which the kernel may drop\n", mapped);
	if (e->note[0])
		clean_add(out, view_str(e->note), false), (void)buf_addc(out, '\n');
}

/* What a pool's engine was seen to take. False, with the reason in reterr: nothing is known of the same. */
static bool by_learned(const struct cli *c, const struct ask *a, const struct opened *o,
	const struct estimate *e, struct learned *ret, struct err *reterr)
{
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config_source src = { .path = c->config_path };
	struct learned_key k;
	if (config_load(&src, &cfg, &errs)) {
		err_set(reterr, -EINVAL,
			"the configuration, which says where it is kept, has errors: run "
			"`corral config check`");
		return false;
	}
	AUTO(mem_freep) char *path = path_join(cfg->state_dir, LEARNED_NAME);
	const struct strv no_env = { 0 };
	learned_key_make(&o->files, &a->args, e, &a->words, &no_env, &k);
	int r = learned_find(path, &k, ret, reterr);
	if (r == -ENOENT)
		err_set(reterr, r,
			"nothing was learned yet of this model with %llu slot%s of %llu tokens, these "
			"arguments and "
			"%s; it is once a pool of it was ready (ledger %.200s); --source formula needs none",
			(unsigned long long)e->slots, e->slots == 1 ? "" : "s", (unsigned long long)e->ctx,
			strcmp(k.place, "cpu") == 0 ? "the CPU alone" : "so many GPUs", path);
	return r == 0;
}

/* The best source there is, or the one that is asked for, becomes *e; which it was. SOURCE_AUTO: none. */
static enum source choose(const struct cli *c, const struct ask *a, const char *path, const struct opened *o,
	struct estimate *e, struct learned *l)
{
	struct err err = { 0 };
	/* The program knows nothing of a projector, a draft model or adapters. */
	bool alone = !o->mmproj && !o->draft && o->files.n_lora == 0;
	if ((a->source == SOURCE_AUTO || a->source == SOURCE_LEARNED) && by_learned(c, a, o, e, l, &err)) {
		learned_apply(l, e);
		return SOURCE_LEARNED;
	}
	if (a->source == SOURCE_LEARNED) {
		complain("estimate: %s", err.msg);
		return SOURCE_AUTO;
	}
	if (a->source != SOURCE_FORMULA && alone && estimate_oracle(path, &a->args, e))
		return SOURCE_ORACLE;
	if (a->source != SOURCE_ORACLE)
		return SOURCE_FORMULA;
	complain("estimate: llama-fit-params was not found on PATH, or did not answer for these devices; "
		 "--source formula needs no program");
	return SOURCE_AUTO;
}

static int show(struct cli *c, struct ask *a, const char *path)
{
	AUTO(buf_done) struct buf out = BUF(1 * MIB);
	AUTO(opened_done) struct opened o = { 0 };
	struct estimate e = { 0 };
	struct learned l = { 0 };
	struct err err = { 0 };
	if (a->ctx)
		a->args.ctx = a->ctx;
	int r = open_all(path, &a->args, &o, &err);
	if (r == 0)
		r = estimate(&o.files, &a->args, &e, &err);
	if (r < 0) {
		complain("estimate: %s", err.msg);
		return CLI_FAILED;
	}
	enum source by = choose(c, a, path, &o, &e, &l);
	if (by != SOURCE_AUTO && c->json)
		(void)print_json(&e, by, &l, &out);
	else if (by != SOURCE_AUTO)
		print_text(&e, by, &l, &out);
	estimate_done(&e);
	return by == SOURCE_AUTO ? CLI_FAILED : say(&out);
}

int cmd_estimate(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "ctx", required_argument, NULL, OPT_CTX },
		{ "slots", required_argument, NULL, OPT_SLOTS },
		{ "kv-type", required_argument, NULL, OPT_KV },
		{ "ubatch", required_argument, NULL, OPT_UBATCH },
		{ "flash-attn", required_argument, NULL, OPT_FLASH },
		{ "gpu-layers", required_argument, NULL, OPT_LAYERS },
		{ "devices", required_argument, NULL, OPT_DEVICES },
		{ "source", required_argument, NULL, OPT_SOURCE }, { 0 } };
	struct ask a = { 0 };
	struct options o = { .longs = longs, .fn = on_option, .arg = &a, .min = 1, .max = -1 };
	int first, status;
	estimate_args_init(&a.args);
	(void)set_devices(&a, "auto");
	if (options_read(c, cmd, &o, argc, argv, &first, &status) == 0) {
		struct err e = { 0 };
		for (int i = first + 1; i < argc; i++)
			strv_add(&a.words, argv[i]);
		if (estimate_args_read(&a.args, (const char *const *)a.words.items, a.words.len, &e) == 0)
			status = show(c, &a, argv[first]);
		else
			complain("estimate: %s", e.msg), status = CLI_USAGE;
	}
	estimate_args_done(&a.args);
	strv_done(&a.words);
	return status;
}
