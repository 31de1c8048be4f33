/* SPDX-License-Identifier: Apache-2.0
 *
 * GET /v1/devices: what each node's devices are, and which replica holds what of them.
 */
#include <stdlib.h>
#include <string.h>

#include "api/json_int.h"
#include "base/mask.h"

static void add_known(doc *d, val *o, const char *key, bool known, uint64_t n)
{
	if (known)
		yyjson_mut_obj_add_uint(d, o, key, n);
	else
		yyjson_mut_obj_add_null(d, o, key);
}

static bool is_cpu(const struct wire_device *w)
{
	return w->kind && strcmp(w->kind, "cpu") == 0;
}

static bool runs(const struct registry_replica *r)
{
	enum replica_state s = r->facts.state;
	return r->online &&
	       (s == REPLICA_STARTING || s == REPLICA_PROVING || s == REPLICA_READY || s == REPLICA_DRAINING);
}

static bool covers(const char *text, const struct wire_device *w)
{
	struct mask m;
	if (!text || mask_parse(view_str(text), &m, NULL) < 0)
		return false;
	return is_cpu(w) ? m.kind == MASK_CPU : mask_has_index(&m, w->index);
}

/* Bytes the driver counts for the replica; false: it told nothing of it. */
static bool bytes_of(const struct wire_device *w, const char *replica_id, uint64_t *ret)
{
	bool any = false;
	*ret = 0;
	for (size_t i = 0; i < w->nuses; i++)
		if (w->uses[i].replica_id && strcmp(w->uses[i].replica_id, replica_id) == 0) {
			*ret += MIN(w->uses[i].bytes, UINT64_MAX - *ret);
			any = true;
		}
	return any;
}

static val *replicas_json(
	doc *d, const struct registry_snapshot *s, const char *node_id, const struct wire_device *w)
{
	val *list = yyjson_mut_arr(d);
	for (size_t i = 0; i < s->nreplicas; i++) {
		const struct registry_replica *r = s->replicas[i];
		uint64_t bytes;
		bool told = bytes_of(w, r->facts.replica_id, &bytes);
		if (strcmp(r->node_id, node_id) != 0 || !runs(r) ||
			!(told || covers(r->facts.device_mask, w)))
			continue;
		val *o = yyjson_mut_obj(d);
		json_add_str(d, o, "id", r->facts.replica_id);
		json_add_str(d, o, "pool", r->facts.pool_id);
		add_known(d, o, "memory_bytes", told, bytes);
		yyjson_mut_arr_append(list, o);
	}
	return list;
}

static val *processes_json(doc *d, const struct wire_device *w)
{
	val *list = yyjson_mut_arr(d);
	for (size_t i = 0; i < w->nuses; i++) {
		val *o = yyjson_mut_obj(d);
		yyjson_mut_obj_add_int(d, o, "pid", w->uses[i].pid);
		json_add_str(d, o, "replica", w->uses[i].replica_id);
		yyjson_mut_obj_add_uint(d, o, "memory_bytes", w->uses[i].bytes);
		yyjson_mut_arr_append(list, o);
	}
	return list;
}

static val *links_json(doc *d, const struct wire_device *w)
{
	val *list = yyjson_mut_arr(d);
	for (size_t i = 0; i < w->nlinks; i++) {
		val *o = yyjson_mut_obj(d);
		json_add_str(d, o, "device", w->links[i].device_id);
		json_add_str(d, o, "path", w->links[i].path);
		yyjson_mut_obj_add_uint(d, o, "fabric_links", w->links[i].fabric);
		yyjson_mut_arr_append(list, o);
	}
	return list;
}

static void add_watts(doc *d, val *o, const char *key, bool known, uint64_t mw)
{
	if (known)
		yyjson_mut_obj_add_real(d, o, key, (double)mw / 1000);
	else
		yyjson_mut_obj_add_null(d, o, key);
}

/* Power, memory errors, the driver's last event. */
static void add_health(doc *d, val *o, const struct wire_device *w)
{
	add_watts(d, o, "power_w", w->have & WD_POWER, w->power_mw);
	add_watts(d, o, "power_limit_w", w->power_limit_mw > 0, w->power_limit_mw);
	add_known(d, o, "ecc_corrected", w->have & WD_ECC, w->ecc_corrected);
	add_known(d, o, "ecc_uncorrected", w->have & WD_ECC, w->ecc_uncorrected);
	if (!w->last_error) {
		yyjson_mut_obj_add_null(d, o, "last_error");
		return;
	}
	char at[WALL_STR_LEN + 1];
	val *e = yyjson_mut_obj_add_obj(d, o, "last_error");
	wall_format(w->last_error_at_ms, at);
	json_add_str(d, e, "message", w->last_error);
	json_add_str(d, e, "at", at);
}

static val *device_json(
	doc *d, const struct registry_snapshot *s, const struct registry_node *n, const struct wire_device *w)
{
	val *o = yyjson_mut_obj(d);
	bool memory = w->memory_total_bytes > 0;
	json_add_str(d, o, "node", n->node_id);
	add_known(d, o, "index", !is_cpu(w), w->index);
	json_add_str(d, o, "name", w->name);
	json_add_str(d, o, "uuid", w->uuid);
	json_add_str(d, o, "pci", w->pci);
	json_add_str(d, o, "kind", w->kind);
	json_add_str(d, o, "state", n->online ? w->state : "lost");
	json_add_str(d, o, "reason", n->online ? w->reason : "nothing is heard of its node");
	add_known(d, o, "memory_total_bytes", memory, w->memory_total_bytes);
	add_known(d, o, "memory_free_bytes", memory, w->memory_free_bytes);
	add_known(d, o, "memory_used_bytes", memory, w->memory_used_bytes);
	if (w->have & WD_UTILIZATION)
		yyjson_mut_obj_add_real(d, o, "utilization", (double)w->utilization_pct / 100);
	else
		yyjson_mut_obj_add_null(d, o, "utilization");
	if (w->have & WD_TEMPERATURE)
		yyjson_mut_obj_add_int(d, o, "temperature_c", w->temperature_c);
	else
		yyjson_mut_obj_add_null(d, o, "temperature_c");
	add_health(d, o, w);
	json_add_str(d, o, "compute_capability", w->compute_capability);
	json_add_str(d, o, "driver", w->driver);
	yyjson_mut_obj_add_bool(d, o, "integrated", w->integrated);
	yyjson_mut_obj_add_bool(d, o, "split", w->split);
	json_add_str(d, o, "parent", w->parent);
	yyjson_mut_obj_add_val(d, o, "links", links_json(d, w));
	yyjson_mut_obj_add_val(d, o, "replicas", replicas_json(d, s, n->node_id, w));
	yyjson_mut_obj_add_val(d, o, "processes", processes_json(d, w));
	return o;
}

void route_devices(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(a->o.registry);
	doc *d = yyjson_mut_doc_new(NULL);
	val *root = yyjson_mut_obj(d), *list = yyjson_mut_arr(d);
	yyjson_mut_doc_set_root(d, root);
	for (size_t i = 0; i < s->nnodes; i++)
		for (size_t k = 0; k < s->nodes[i]->ndevices; k++)
			yyjson_mut_arr_append(list, device_json(d, s, s->nodes[i], &s->nodes[i]->devices[k]));
	yyjson_mut_obj_add_val(d, root, "devices", list);
	json_reply(c, d);
}
