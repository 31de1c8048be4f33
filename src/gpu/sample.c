/* SPDX-License-Identifier: Apache-2.0
 *
 * One sample as a line of JSON. The child that prints it has a vendor's library in its address space: what
 * it says is cut, cleaned and bounded.
 */
#include <stdio.h>
#include <yyjson.h>

#include "gpu/gpu_int.h"

static void add_text(struct buf *b, const char *key, const char *s)
{
	if (!s[0])
		return;
	(void)buf_addf(b, ",\"%s\":", key);
	(void)buf_add_json(b, view_str(s));
}

static void add_device(struct buf *b, const struct gpu_device *d)
{
	(void)buf_addf(b, "{\"total\":%llu,\"free\":%llu,\"used\":%llu", (unsigned long long)d->memory_total,
		(unsigned long long)d->memory_free, (unsigned long long)d->memory_used);
	add_text(b, "uuid", d->uuid);
	add_text(b, "name", d->name);
	add_text(b, "pci", d->pci);
	add_text(b, "compute_capability", d->compute_capability);
	if (d->state != GPU_OK)
		add_text(b, "error", d->reason);
	if (d->utilization >= 0)
		(void)buf_addf(b, ",\"busy_percent\":%d", (int)(d->utilization * 100 + 0.5));
	if (d->temperature_c != GPU_TEMPERATURE_UNKNOWN)
		(void)buf_addf(b, ",\"temperature_c\":%d", d->temperature_c);
	(void)buf_adds(b, ",\"processes\":[");
	for (size_t i = 0; i < d->nprocesses; i++)
		(void)buf_addf(b, "%s[%d,%llu]", i ? "," : "", d->processes[i].pid,
			(unsigned long long)d->processes[i].bytes);
	(void)buf_adds(b, "]}");
}

int gpu_sample_encode(const struct gpu_sample *s, struct buf *b)
{
	(void)buf_adds(b, "{\"gpu_probe\":1");
	add_text(b, "driver", s->driver);
	if (s->has_error)
		add_text(b, "error", s->error[0] ? s->error : "no reason was given");
	add_text(b, "note", s->note);
	(void)buf_adds(b, ",\"devices\":[");
	for (size_t i = 0; i < s->list.len; i++) {
		(void)buf_adds(b, i ? "," : "");
		add_device(b, &s->list.items[i]);
	}
	return buf_adds(b, "]}");
}

/* ---- reading ------------------------------------------------------------------------------------ */

static void take_text(yyjson_val *o, const char *key, char *out, size_t cap)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	if (yyjson_is_str(v))
		gpu_set_text(out, cap, view_of(yyjson_get_str(v), yyjson_get_len(v)));
}

static uint64_t take_bytes(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	return yyjson_is_uint(v) ? MIN(yyjson_get_uint(v), (uint64_t)1 << 50) : 0;
}

static void take_processes(yyjson_val *list, struct gpu_device *d)
{
	size_t i, n;
	yyjson_val *p;
	yyjson_arr_foreach(list, i, n, p)
	{
		yyjson_val *pid = yyjson_arr_get(p, 0), *bytes = yyjson_arr_get(p, 1);
		if (d->nprocesses == GPU_PROCESSES_MAX)
			return;
		if (yyjson_is_uint(pid) && yyjson_get_uint(pid) <= INT32_MAX && yyjson_is_uint(bytes))
			d->processes[d->nprocesses++] = (struct gpu_process){ (int)yyjson_get_uint(pid),
				MIN(yyjson_get_uint(bytes), (uint64_t)1 << 50) };
	}
}

static void take_device(yyjson_val *o, struct gpu_device *d)
{
	char pci[32] = "";
	yyjson_val *busy = yyjson_obj_get(o, "busy_percent"), *temp = yyjson_obj_get(o, "temperature_c");
	take_text(o, "uuid", d->uuid, sizeof d->uuid);
	take_text(o, "name", d->name, sizeof d->name);
	take_text(o, "pci", pci, sizeof pci);
	if (!gpu_pci_normal(view_str(pci), d->pci))
		d->pci[0] = '\0';
	take_text(o, "compute_capability", d->compute_capability, sizeof d->compute_capability);
	take_text(o, "error", d->reason, sizeof d->reason);
	d->state = d->reason[0] ? GPU_LOST : GPU_OK;
	d->memory_total = take_bytes(o, "total");
	d->memory_free = MIN(take_bytes(o, "free"), d->memory_total);
	d->memory_used = MIN(take_bytes(o, "used"), d->memory_total);
	if (yyjson_is_uint(busy) && yyjson_get_uint(busy) <= 100)
		d->utilization = (double)yyjson_get_uint(busy) / 100;
	if (yyjson_is_int(temp) && yyjson_get_int(temp) >= -273 && yyjson_get_int(temp) <= 1000)
		d->temperature_c = yyjson_get_int(temp);
	take_processes(yyjson_obj_get(o, "processes"), d);
}

static bool seen_before(const struct gpu_list *l, const struct gpu_device *d)
{
	for (size_t i = 0; i < l->len; i++)
		if (&l->items[i] != d && d->uuid[0] && strcmp(l->items[i].uuid, d->uuid) == 0)
			return true;
	return false;
}

int gpu_sample_decode(struct view line, struct gpu_sample *ret, struct err *reterr)
{
	*ret = (struct gpu_sample){ 0 };
	yyjson_doc *doc = line.n ? yyjson_read(line.p, line.n, 0) : NULL;
	yyjson_val *root = yyjson_doc_get_root(doc), *list = yyjson_obj_get(root, "devices"), *o;
	if (!yyjson_is_obj(root) || !yyjson_obj_get(root, "gpu_probe") || !yyjson_is_arr(list)) {
		yyjson_doc_free(doc);
		return err_set(reterr, -EINVAL, "what the probe says is no sample: \"%.*s\"",
			VIEW_ARG(view_cut(line, 80)));
	}
	take_text(root, "driver", ret->driver, sizeof ret->driver);
	take_text(root, "error", ret->error, sizeof ret->error);
	take_text(root, "note", ret->note, sizeof ret->note);
	ret->has_error = ret->error[0];
	size_t i, n;
	yyjson_arr_foreach(list, i, n, o)
	{
		struct gpu_device *d = gpu_list_add(&ret->list, GPU_CUDA);
		if (!d)
			break;
		take_device(o, d);
		memcpy(d->driver, ret->driver, sizeof d->driver);
		if (seen_before(&ret->list, d) || (!d->uuid[0] && !d->pci[0]))
			ret->list.len--; /* cannot be told from another one */
	}
	yyjson_doc_free(doc);
	return 0;
}
