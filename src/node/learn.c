/* SPDX-License-Identifier: Apache-2.0
 *
 * What an engine takes is learned from the engine: llama-server says at its start how large its buffers are,
 * and the driver what its processes hold. It says so only when asked to say more than usual, so the first
 * start of a combination that was never seen (gguf/learned.h says of what) asks, and later ones do not.
 * Whatever fails is logged and costs a better estimate, nothing else.
 *
 * Bounds: LOG_MAX of an engine's log is read, once a start; the driver's figures are looked at LOOKS_MAX
 * times.
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "gguf/learned.h"
#include "log/log.h"
#include "node/node_int.h"

enum { LOG_MAX = 1024 * 1024, LOOKS_MAX = 64, GREW_BY = 64 /* a 64th */, NOISE = 2 * 1024 * 1024 };

struct replica_learn {
	struct learned_key key;
	struct learned row;
	bool known; /* it was in the ledger when the engine was started */
	bool said;  /* that the formula was wrong */
	unsigned looks;
	uint64_t formula, formula_weights, formula_devices;
	unsigned error_permille; /* of the formula */
	uint32_t index[LEARNED_DEVICES_MAX];
	uint32_t n_devices;
};

void learn_done(struct replica *r)
{
	free(r->learn);
	r->learn = NULL;
}

static char *ledger(const struct replica *r)
{
	return path_join(r->node->opts.state_dir, LEARNED_NAME);
}

/* ---- an engine is about to be started --------------------------------------------------------------------
 */

/* "0,2" of r->devices. False: more than are learned of. */
static bool read_devices(const struct replica *r, struct replica_learn *l)
{
	struct view v = r->on_cpu || !r->devices ? (struct view){ 0 } : view_str(r->devices);
	while (v.p) {
		uint64_t i;
		if (num_u64(view_split(v, ',', &v), &i) || i > UINT32_MAX ||
			l->n_devices == LEARNED_DEVICES_MAX)
			return false;
		l->index[l->n_devices++] = (uint32_t)i;
	}
	return true;
}

static bool says_layers(const struct strv *args)
{
	static const char *const names[] = { "-ngl", "--gpu-layers", "--n-gpu-layers" };
	for (size_t i = 0; i < args->len; i++) {
		struct view word = view_str(args->items[i]);
		for (size_t k = 0; k < ARRAY_LEN(names); k++)
			if (view_eqs(view_cut(word, view_find(word, '=')), names[k]))
				return true;
	}
	return false;
}

/* What the planner says, then the pool's own arguments, which win. */
static int read_args(const struct replica *r, const struct replica_learn *l, struct estimate_args *a)
{
	AUTO(strv_done) struct strv words = { 0 };
	estimate_args_init(a);
	if (l->n_devices && r->want.gpu_layers) {
		strv_add(&words, "-ngl");
		strv_addf(&words, "%u", r->want.gpu_layers);
		if (r->want.cpu_experts) {
			strv_add(&words, "--n-cpu-moe");
			strv_addf(&words, "%u", r->want.cpu_experts);
		}
		if (r->want.split) {
			strv_add(&words, "-ts");
			strv_add(&words, r->want.split);
		}
	}
	strv_copy(&words, &r->pool->conf.engine.args);
	int e = estimate_args_read(a, (const char *const *)words.items, words.len, NULL);
	a->ctx = r->ctx;
	a->slots = r->slots;
	a->host_cache = r->pool->conf.cache_ram_mib * MIB;
	a->n_devices = l->n_devices;
	/* a projector's weights are not told, an adapter's only once it is used */
	return e ? e : a->mmproj || a->lora.len ? -ENOTSUP : 0;
}

static void take_formula(const struct estimate *e, struct replica_learn *l)
{
	l->formula = e->sum.total - MIN(e->sum.total, e->sum.overhead);
	l->formula_weights = e->sum.weights;
	l->error_permille = e->error_permille;
	for (size_t i = 0; i < e->n_devices; i++)
		l->formula_devices += e->device[i].total;
}

static int make_key(const struct replica *r, struct replica_learn *l)
{
	struct gguf_set set = { 0 };
	struct estimate_args a;
	struct estimate e = { 0 };
	AUTO(gguf_freep) struct gguf *draft = NULL;
	int err = read_args(r, l, &a);
	err = err ? err : gguf_set_open(replica_model(r)->path, &set, NULL);
	struct estimate_files f = { .parts = set.items, .n_parts = set.len };
	if (!err && a.draft)
		err = gguf_open(a.draft, &draft, NULL);
	f.draft = draft;
	err = err ? err : estimate(&f, &a, &e, NULL);
	if (!err) {
		take_formula(&e, l);
		learned_key_make(&f, &a, &e, &r->pool->conf.engine.args, &r->pool->conf.engine.env, &l->key);
	}
	estimate_done(&e);
	gguf_set_done(&set);
	estimate_args_done(&a);
	return err;
}

/* Where its layers go is known: on the CPU, or because somebody said so. */
static bool place_is_known(const struct replica *r, const struct replica_learn *l)
{
	return !l->n_devices || (r->want.planned && r->want.gpu_layers) ||
	       says_layers(&r->pool->conf.engine.args);
}

void learn_launch(struct replica *r)
{
	learn_done(r);
	/* a build that does not say which it is might be another one tomorrow */
	if (r->pool->conf.engine.kind != ENGINE_LLAMACPP || !replica_model(r)->path || !r->engine_version)
		return;
	struct replica_learn *l = r->learn = NEW(struct replica_learn);
	if (!read_devices(r, l) || !place_is_known(r, l) || make_key(r, l)) {
		learn_done(r);
		return;
	}
	snprintf(l->key.build, sizeof l->key.build, "%s", r->engine_version);
	if (l->n_devices)
		snprintf(l->key.kind, sizeof l->key.kind, "%s", devices_kind(r->node, l->index[0]));
	AUTO(mem_freep) char *path = ledger(r);
	struct err e = { 0 };
	int err = learned_find(path, &l->key, &l->row, &e);
	l->known = l->said = err == 0;
	if (l->known) {
		learned_used(path, &l->key, wall_ms());
		return;
	}
	if (err != -ENOENT && err != -EBADMSG) /* that one is told when it is moved aside */
		log_warn("learned", r->id, "%s.", e.msg);
	/* Builds that do not know this variable tell their buffers anyway, or never. */
	if (!learned_says_verbosity(&r->launch.argv, &r->launch.env))
		strv_add(&r->launch.env, "LLAMA_ARG_LOG_VERBOSITY=4");
}

/* ---- it is ready
 * ---------------------------------------------------------------------------------------------- */

static bool differ(uint64_t is, uint64_t formula, unsigned permille)
{
	uint64_t by = is > formula ? is - formula : formula - is;
	return by > NOISE && by > formula / 1000 * permille;
}

static void compare(const struct replica *r, struct replica_learn *l)
{
	uint64_t is = learned_sum(&l->row.host), formula = l->formula, measured = 0;
	char a[32], b[32];
	for (uint32_t i = 0; i < l->row.n_devices; i++) {
		is += learned_sum(&l->row.device[i]);
		measured += l->row.measured[i];
	}
	if (measured && (!l->row.told || differ(measured, l->formula_devices, l->error_permille))) {
		is = measured;
		formula = l->formula_devices;
	}
	if (l->said || !differ(is, formula, l->error_permille))
		return;
	l->said = true;
	num_format_bytes(is, a, sizeof a);
	num_format_bytes(formula, b, sizeof b);
	log_event(LOG_INFO, "learned", r->id,
		(struct log_field[]){ LOG_STR("pool_id", r->pool_id), LOG_UINT("learned_bytes", is),
			LOG_UINT("formula_bytes", formula), LOG_END },
		"The engine of %s takes %s of memory where the formula said %s (within %u.%u %%); the next "
		"start "
		"counts on what it took.",
		r->pool_id, a, b, l->error_permille / 10, l->error_permille % 10);
}

static void keep(struct replica *r, struct replica_learn *l)
{
	struct node *n = r->node;
	AUTO(mem_freep) char *path = ledger(r), *aside = NULL;
	struct err e = { 0 };
	l->row.learned_ms = wall_ms();
	l->row.n_devices = l->n_devices;
	int err = learned_put(path, &l->key, &l->row, &aside, &e);
	if (aside)
		log_error("learned", path,
			"%s was damaged or no ledger of ours; it is moved to %s and a new one is started. "
			"What "
			"was learned of engines' memory is learned again.",
			path, aside);
	if (err)
		log_warn("learned", r->id, "What the engine of %s takes is not kept: %s.", r->pool_id, e.msg);
	if (err)
		return;
	compare(r, l);
	struct pool *p = node_pool_find(n, r->pool_id);
	if (!p || p != r->pool || r->model)
		return;
	node_read_model(n, &p->conf, p->conf.model_path, &p->model);
	report_again(n);
}

/* What the engine said of itself. False: not all, or nothing one could believe. */
static bool read_log(const struct replica *r, struct replica_learn *l)
{
	AUTO(buf_done) struct buf b = BUF(LOG_MAX);
	struct learned_log *log = NEW(struct learned_log);
	struct learned got;
	uint64_t weights;
	learned_log_init(log);
	replica_log_tail(r->node, r->id, r->generation, &b);
	learned_log_feed(log, buf_view(&b));
	bool all = learned_log_end(log, &got);
	free(log);
	/* devices that were to be used and were not, or others */
	if (!all || (got.n_devices == 0) != (l->n_devices == 0) || got.n_devices > l->n_devices)
		return false;
	weights = got.host.weights;
	for (uint32_t i = 0; i < got.n_devices; i++)
		weights += got.device[i].weights;
	if (weights < l->formula_weights / 2)
		return false;
	memcpy(got.measured, l->row.measured, sizeof got.measured);
	l->row = got;
	return true;
}

/* True: there is news worth keeping. */
static bool measure(const struct replica *r, struct replica_learn *l)
{
	bool news = false;
	for (uint32_t i = 0; i < l->n_devices; i++) {
		uint64_t is = devices_used(r, l->index[i]), was = l->row.measured[i];
		if (is > was + was / GREW_BY) {
			l->row.measured[i] = is;
			news = true;
		}
	}
	return news;
}

void learn_ready(struct replica *r)
{
	struct replica_learn *l = r->learn;
	if (!l)
		return;
	bool news = !l->known && read_log(r, l);
	if (!l->known && !news)
		log_debug("learned", r->id,
			"The engine of %s did not say what it takes, or something that cannot be.",
			r->pool_id);
	if (measure(r, l) || news)
		keep(r, l);
}

void learn_figures(struct node *n)
{
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&n->replicas, &i));) {
		struct replica *r = e->value;
		struct replica_learn *l = r->learn;
		if (!l || !l->n_devices || r->state != REPLICA_READY || l->looks++ >= LOOKS_MAX)
			continue;
		if (measure(r, l))
			keep(r, l);
	}
}
