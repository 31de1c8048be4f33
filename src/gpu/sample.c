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

static void add_known(struct buf *b, const char *key, int64_t n)
{
	if (n >= 0)
		(void)buf_addf(b, ",\"%s\":%lld", key, (long long)n);
}

static void add_links(struct buf *b, const struct gpu_device *d)
{
	if (!d->nlinks)
		return;
	(void)buf_adds(b, ",\"links\":[");
	for (size_t i = 0; i < d->nlinks; i++)
		(void)buf_addf(b, "%s[\"%s\",%d,%u]", i ? "," : "", d->links[i].pci, (int)d->links[i].path,
			d->links[i].fabric);
	(void)buf_addc(b, ']');
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
	add_known(b, "power_mw", d->power_mw);
	add_known(b, "power_limit_mw", d->power_limit_mw);
	add_known(b, "ecc_corrected", d->ecc_corrected);
	add_known(b, "ecc_uncorrected", d->ecc_uncorrected);
	add_text(b, "last_error", d->last_error);
	if (d->last_error[0])
		add_known(b, "last_error_at_ms", d->last_error_at_ms);
	if (d->split)
		(void)buf_adds(b, ",\"split\":true");
	if (d->part)
		(void)buf_addf(b, ",\"part\":%u", d->part);
	add_text(b, "parent", d->parent);
	add_links(b, d);
	(void)buf_adds(b, ",\"processes\":[");
	for (size_t i = 0; i < d->nprocesses; i++)
		(void)buf_addf(b, "%s[%d,%llu]", i ? "," : "", d->processes[i].pid,
			(unsigned long long)d->processes[i].bytes);
	(void)buf_adds(b, "]}");
}

int gpu_sample_encode(const struct gpu_sample *s, struct buf *b)
{
	(void)buf_adds(b, "{\"gpu_probe\":1");
	if (s->list.len)
		add_text(b, "kind", gpu_kind_name(s->list.items[0].kind));
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

/* A number of at least 0, else -1. */
static int64_t take_known(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	return yyjson_is_uint(v) ? (int64_t)MIN(yyjson_get_uint(v), (uint64_t)1 << 50) : -1;
}

static bool take_pci(yyjson_val *v, char out[16])
{
	bool ok = yyjson_is_str(v) && gpu_pci_normal(view_of(yyjson_get_str(v), yyjson_get_len(v)), out);
	if (!ok)
		out[0] = '\0';
	return ok;
}

static void take_links(yyjson_val *list, struct gpu_device *d)
{
	size_t i, n;
	yyjson_val *l;
	yyjson_arr_foreach(list, i, n, l)
	{
		struct gpu_link *to = &d->links[d->nlinks];
		yyjson_val *path = yyjson_arr_get(l, 1), *fabric = yyjson_arr_get(l, 2);
		if (d->nlinks == GPU_LINKS_MAX)
			return;
		if (!take_pci(yyjson_arr_get(l, 0), to->pci) || !yyjson_is_uint(path) ||
			yyjson_get_uint(path) >= GPU_PATH_COUNT || !yyjson_is_uint(fabric) ||
			yyjson_get_uint(fabric) > 255)
			continue;
		to->path = (enum gpu_path)yyjson_get_uint(path);
		to->fabric = (unsigned)yyjson_get_uint(fabric);
		d->nlinks++;
	}
}

static void take_part(yyjson_val *o, struct gpu_device *d)
{
	yyjson_val *part = yyjson_obj_get(o, "part");
	d->split = yyjson_is_true(yyjson_obj_get(o, "split"));
	if (yyjson_is_uint(part) && yyjson_get_uint(part) <= GPU_DEVICES_MAX &&
		take_pci(yyjson_obj_get(o, "parent"), d->parent))
		d->part = (unsigned)yyjson_get_uint(part);
}

static void take_health(yyjson_val *o, struct gpu_device *d)
{
	d->power_mw = take_known(o, "power_mw");
	d->power_limit_mw = take_known(o, "power_limit_mw");
	d->ecc_corrected = take_known(o, "ecc_corrected");
	d->ecc_uncorrected = take_known(o, "ecc_uncorrected");
	take_text(o, "last_error", d->last_error, sizeof d->last_error);
	if (d->last_error[0])
		d->last_error_at_ms = MAX(take_known(o, "last_error_at_ms"), (int64_t)1);
}

static void take_device(yyjson_val *o, struct gpu_device *d)
{
	yyjson_val *busy = yyjson_obj_get(o, "busy_percent"), *temp = yyjson_obj_get(o, "temperature_c");
	take_text(o, "uuid", d->uuid, sizeof d->uuid);
	take_text(o, "name", d->name, sizeof d->name);
	(void)take_pci(yyjson_obj_get(o, "pci"), d->pci);
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
	take_health(o, d);
	take_part(o, d);
	take_links(yyjson_obj_get(o, "links"), d);
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
	enum gpu_kind kind = yyjson_equals_str(yyjson_obj_get(root, "kind"), "amd") ? GPU_AMD : GPU_CUDA;
	take_text(root, "driver", ret->driver, sizeof ret->driver);
	take_text(root, "error", ret->error, sizeof ret->error);
	take_text(root, "note", ret->note, sizeof ret->note);
	ret->has_error = ret->error[0];
	size_t i, n;
	yyjson_arr_foreach(list, i, n, o)
	{
		struct gpu_device *d = gpu_list_add(&ret->list, kind);
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
