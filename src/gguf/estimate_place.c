/* SPDX-License-Identifier: Apache-2.0
 *
 * Which layer, and which tensor of it, lies where: the last layers go to the devices, by their shares; a
 * tensor that an override names goes where it says, experts of the first layers stay on the host.
 */
#include <regex.h>

#include "base/mem.h"
#include "base/num.h"
#include "gguf/estimate_int.h"

enum { HOST = -1, TENSOR_ALIGN = 32, NAME_MAX_BYTES = 128 };

struct rule {
	regex_t re;
	bool compiled;
	int device; /* HOST or its number */
};

struct place {
	const struct est_model *m;
	const struct est_ctx *c;
	struct estimate *ret;
	double ends[ESTIMATE_DEVICES_MAX]; /* shares summed up, the last is 1 */
	size_t n_devices, first, active;   /* the first layer on a device; how many, the output counted */
	struct rule rules[ESTIMATE_OVERRIDES_MAX];
	size_t n_rules;
};

static void rules_done(struct place *p)
{
	for (size_t i = 0; i < p->n_rules; i++)
		if (p->rules[i].compiled)
			regfree(&p->rules[i].re);
}

/* "CPU" and "…_Host" are the host, "CUDA1" the second device. */
static int device_of(const struct place *p, struct view buffer)
{
	size_t n = buffer.n;
	uint64_t number = 0;
	while (n > 0 && buffer.p[n - 1] >= '0' && buffer.p[n - 1] <= '9')
		n--;
	if (view_starts(buffer, VIEW("CPU")) || view_ends(buffer, VIEW("_Host")) || p->n_devices == 0)
		return HOST;
	if (n < buffer.n && num_u64(view_from(buffer, n), &number) < 0)
		return HOST;
	return (int)MIN(number, (uint64_t)p->n_devices - 1);
}

static int rules_read(struct place *p, struct err *reterr)
{
	const struct strv *all = &p->c->args->overrides;
	if (all->len > ESTIMATE_OVERRIDES_MAX)
		return err_set(reterr, -EINVAL, "found %zu tensor overrides; at most %d are accepted",
			all->len, ESTIMATE_OVERRIDES_MAX);
	for (size_t i = 0; i < all->len; i++) {
		struct rule *r = &p->rules[p->n_rules];
		struct view buffer, pattern = view_split(view_str(all->items[i]), '=', &buffer);
		AUTO(mem_freep) char *text = mem_viewdup(pattern);
		if (!buffer.n)
			return err_set(reterr, -EINVAL,
				"override \"%.80s\" names no buffer; write REGEX=BUFFER, as exps=CPU",
				all->items[i]);
		if (regcomp(&r->re, text, REG_EXTENDED | REG_NOSUB))
			return err_set(reterr, -EINVAL, "override \"%.80s\" is no regular expression", text);
		r->compiled = true;
		r->device = device_of(p, buffer);
		p->n_rules++;
	}
	return 0;
}

static void shares_read(struct place *p)
{
	const struct estimate_args *a = p->c->args;
	double sum = 0;
	p->n_devices = MIN(a->n_devices, (uint32_t)ESTIMATE_DEVICES_MAX);
	for (size_t i = 0; i < p->n_devices; i++)
		sum += a->split[i] > 0 ? a->split[i] : 0;
	double at = 0;
	for (size_t i = 0; i < p->n_devices; i++) {
		double share =
			sum > 0 ? (a->split[i] > 0 ? a->split[i] / sum : 0) : 1.0 / (double)p->n_devices;
		at += share;
		p->ends[i] = at;
	}
	size_t all = p->m->n_layers + 1;
	p->active = p->n_devices ? (size_t)MIN((uint64_t)a->n_gpu_layers, (uint64_t)all) : 0;
	p->first = all - p->active;
}

static int layer_device(const struct place *p, size_t il)
{
	if (p->active == 0 || il < p->first)
		return HOST;
	double at = (double)(il - p->first) / (double)p->active;
	for (size_t i = 0; i < p->n_devices; i++)
		if (at < p->ends[i])
			return (int)i;
	return (int)p->n_devices - 1;
}

static struct estimate_bytes *bytes_at(struct place *p, int device)
{
	return device == HOST ? &p->ret->host : &p->ret->device[device];
}

static int tensor_device(const struct place *p, const struct gguf_tensor *t, int otherwise, size_t layer)
{
	char name[NAME_MAX_BYTES];
	if (p->n_devices == 0)
		return HOST;
	if (p->n_rules && t->name.n < sizeof name) {
		memcpy(name, t->name.p, t->name.n);
		name[t->name.n] = '\0';
		for (size_t i = 0; i < p->n_rules; i++)
			if (regexec(&p->rules[i].re, name, 0, NULL, 0) == 0)
				return p->rules[i].device;
	}
	return est_tensor_is_expert(t->name) && layer < p->c->args->n_cpu_moe ? HOST : otherwise;
}

static void place_tensor(struct place *p, const struct gguf_tensor *t)
{
	struct view rest;
	size_t il = SIZE_MAX;
	int device = HOST;
	if (est_tensor_layer(t->name, &il, &rest) && il < p->m->n_layers) {
		if (p->m->layers[il].skipped)
			return;
		device = layer_device(p, il);
	} else if (!est_tensor_is_input(t->name)) {
		device = layer_device(p, p->m->n_layers);
	}
	struct estimate_bytes *b = bytes_at(p, tensor_device(p, t, device, il));
	b->weights = est_add(b->weights, est_pad(t->bytes, TENSOR_ALIGN));
}

static void place_layer(struct place *p, size_t il)
{
	const struct est_shape *l = &p->m->layers[il];
	struct estimate_layer *row = &p->ret->layers[il];
	row->device = layer_device(p, il);
	if (l->skipped)
		return;
	row->weights = l->weights;
	row->experts = l->experts;
	row->kv = est_kv_bytes(p->c, p->m, l);
	row->recurrent = est_state_bytes(p->c, l);
	struct estimate_bytes *b = bytes_at(p, p->c->args->kv_on_host ? HOST : row->device);
	b->kv = est_add(b->kv, row->kv);
	b->recurrent = est_add(b->recurrent, row->recurrent);
}

static void place_all(struct place *p)
{
	const struct estimate_files *f = p->m->files;
	for (size_t i = 0; i < f->n_parts; i++)
		for (size_t k = 0; k < gguf_tensor_count(f->parts[i]); k++)
			place_tensor(p, gguf_tensor(f->parts[i], k));
	p->ret->layers = mem_alloc(MAX(p->m->n_layers, (size_t)1) * sizeof *p->ret->layers);
	p->ret->n_layers = p->m->n_layers;
	for (size_t il = 0; il < p->m->n_layers; il++)
		place_layer(p, il);
	int last = layer_device(p, p->m->n_layers);
	uint64_t copy = p->m->tied ? p->m->token_embd_bytes : 0;
	p->ret->embedding_bytes = p->m->embedding_bytes;
	p->ret->output_bytes = est_add(p->m->output_bytes, copy);
	if (last != HOST)
		bytes_at(p, last)->weights = est_add(bytes_at(p, last)->weights, copy);
}

int est_place(const struct est_model *m, const struct est_ctx *c, struct estimate *ret, struct err *reterr)
{
	struct place p = { .m = m, .c = c, .ret = ret };
	shares_read(&p);
	int r = rules_read(&p, reterr);
	if (r == 0)
		place_all(&p);
	rules_done(&p);
	return r;
}
