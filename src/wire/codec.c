/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"
#include "base/mem.h"
#include "wire/wire.h"
#include "wire/wire_int.h"

/* Encoding */

static int rolled_back(struct buf *b, size_t from, int r)
{
	if (r) {
		b->len = from;
		if (b->data)
			b->data[from] = '\0';
	}
	return r;
}

static int encode_one(const struct wf_table *t, const void *o, unsigned have, struct buf *b)
{
	bool first = true;
	int r = buf_addc(b, '{');
	if (!r)
		r = wf_encode(t, o, have, b, &first);
	return r ? r : buf_addc(b, '}');
}

int wire_replica_encode(const struct wire_replica *r, struct buf *b)
{
	size_t from = b->len;
	return rolled_back(b, from, encode_one(&wf_replica, r, r->have, b));
}

int wire_model_encode(const struct wire_model *m, struct buf *b)
{
	size_t from = b->len;
	return rolled_back(b, from, encode_one(&wf_model, m, 0, b));
}

static int encode_device(const struct wire_device *d, struct buf *b)
{
	bool first = true;
	int r = buf_addc(b, '{');
	if (!r)
		r = wf_encode(&wf_device, d, d->have, b, &first);
	if (!r)
		r = buf_adds(b, ",\"uses\":[");
	for (size_t i = 0; !r && i < d->nuses; i++) {
		r = i ? buf_addc(b, ',') : 0;
		if (!r)
			r = encode_one(&wf_device_use, &d->uses[i], 0, b);
	}
	if (!r && d->nlinks)
		r = buf_adds(b, "],\"links\":[");
	for (size_t i = 0; !r && i < d->nlinks; i++) {
		r = i ? buf_addc(b, ',') : 0;
		if (!r)
			r = encode_one(&wf_device_link, &d->links[i], 0, b);
	}
	return r ? r : buf_adds(b, "]}");
}

int wire_device_encode(const struct wire_device *d, struct buf *b)
{
	size_t from = b->len;
	return rolled_back(b, from, encode_device(d, b));
}

static int encode_devices(const struct wire_node *n, struct buf *b)
{
	int r = n->ndevices ? buf_adds(b, ",\"devices\":[") : 0;
	for (size_t i = 0; !r && i < n->ndevices; i++) {
		r = i ? buf_addc(b, ',') : 0;
		if (!r)
			r = encode_device(&n->devices[i], b);
	}
	return r ? r : n->ndevices ? buf_addc(b, ']') : 0;
}

static int encode_node(const struct wire_node *n, struct buf *b)
{
	bool first = false;
	int r = buf_addf(b, "{\"wire_version\":%d", WIRE_VERSION);
	if (!r)
		r = wf_encode(&wf_node, n, 0, b, &first);
	if (!r && n->nmodels)
		r = buf_adds(b, ",\"models\":[");
	for (size_t i = 0; !r && i < n->nmodels; i++) {
		r = i ? buf_addc(b, ',') : 0;
		if (!r)
			r = encode_one(&wf_model, &n->models[i], 0, b);
	}
	if (!r)
		r = n->nmodels ? buf_addc(b, ']') : 0;
	if (!r)
		r = encode_devices(n, b);
	if (!r)
		r = buf_adds(b, ",\"replicas\":[");
	for (size_t i = 0; !r && i < n->nreplicas; i++) {
		r = i ? buf_addc(b, ',') : 0;
		if (!r)
			r = encode_one(&wf_replica, &n->replicas[i], n->replicas[i].have, b);
	}
	return r ? r : buf_adds(b, "]}");
}

int wire_node_encode(const struct wire_node *n, struct buf *b)
{
	size_t from = b->len;
	return rolled_back(b, from, encode_node(n, b));
}

static int encode_desired(const struct wire_desired *d, struct buf *b)
{
	bool first = false;
	int r = buf_addf(b, "{\"wire_version\":%d", WIRE_VERSION);
	if (!r)
		r = wf_encode(&wf_desired, d, 0, b, &first);
	if (!r)
		r = buf_adds(b, ",\"wants\":[");
	for (size_t i = 0; !r && i < d->nwants; i++) {
		r = i ? buf_addc(b, ',') : 0;
		if (!r)
			r = encode_one(&wf_want, &d->wants[i], 0, b);
	}
	return r ? r : buf_adds(b, "]}");
}

int wire_desired_encode(const struct wire_desired *d, struct buf *b)
{
	size_t from = b->len;
	return rolled_back(b, from, encode_desired(d, b));
}

/* Decoding */

static void doc_freep(yyjson_doc **d)
{
	yyjson_doc_free(*d);
}

static int parse(struct view json, yyjson_doc **ret, struct err *reterr)
{
	if (json.n > WIRE_BODY_MAX)
		return err_set(reterr, -EFBIG, "the message has %zu bytes; at most %d are accepted", json.n,
			WIRE_BODY_MAX);
	if (!json.n)
		return err_set(reterr, -EINVAL, "the message is empty; accepted is a JSON object");
	yyjson_read_err e;
	/* Without YYJSON_READ_INSITU the text is only read; the parameter is not const for that flag alone.
	 */
	*ret = yyjson_read_opts((char *)(uintptr_t)json.p, json.n, YYJSON_READ_NOFLAG, NULL, &e);
	if (*ret)
		return 0;
	if (e.code == YYJSON_READ_ERROR_MEMORY_ALLOCATION)
		return err_set(reterr, -ENOMEM, "no memory to read a message of %zu bytes", json.n);
	return err_set(reterr, -EINVAL, "the message is not JSON: %s at byte %zu", e.msg, e.pos);
}

static void replica_defaults(struct wire_replica *r)
{
	r->progress_pct = -1;
	r->retry_in_ms = -1;
}

static int decode_replica(yyjson_val *v, struct wire_replica *r, struct err *reterr)
{
	replica_defaults(r);
	return wf_decode(&wf_replica, v, r, &r->have, reterr);
}

static void replica_donep(struct wire_replica *r)
{
	wire_replica_done(r);
}

int wire_replica_decode(struct view json, struct wire_replica *ret, struct err *reterr)
{
	AUTO(doc_freep) yyjson_doc *doc = NULL;
	int r = parse(json, &doc, reterr);
	if (r)
		return r;
	AUTO(replica_donep) struct wire_replica tmp = { 0 };
	r = decode_replica(yyjson_doc_get_root(doc), &tmp, reterr);
	if (r)
		return r;
	*ret = tmp;
	tmp = (struct wire_replica){ 0 };
	return 0;
}

/* The list under key, or NULL when there is none. */
static int list_of(
	yyjson_val *obj, const char *key, size_t max, yyjson_val **ret, size_t *ret_n, struct err *reterr)
{
	*ret = yyjson_obj_get(obj, key);
	*ret_n = 0;
	if (!*ret)
		return 0;
	if (!yyjson_is_arr(*ret))
		return err_set(reterr, -EINVAL, "\"%s\" is a %s; accepted is a list", key,
			yyjson_get_type_desc(*ret));
	*ret_n = yyjson_arr_size(*ret);
	if (*ret_n > max)
		return err_set(
			reterr, -EINVAL, "\"%s\" has %zu items; at most %zu are accepted", key, *ret_n, max);
	return 0;
}

/* Refuses a name that was seen before in this message. */
static int once(struct map *seen, char *name, const char *key, size_t i, struct err *reterr)
{
	if (!map_put(seen, view_str(name), name))
		return 0;
	return err_set(reterr, -EINVAL, "%s[%zu] names \"%.100s\" a second time", key, i, name);
}

static int decode_models(yyjson_val *root, struct wire_node *n, struct err *reterr)
{
	yyjson_val *list, *it;
	size_t len, i, max;
	int r = list_of(root, "models", WIRE_POOLS_MAX, &list, &len, reterr);
	if (r || !len)
		return r;
	n->models = mem_try_alloc(len * sizeof *n->models);
	if (!n->models)
		return err_set(reterr, -ENOMEM, "no memory for %zu models", len);
	AUTO(map_done) struct map seen = { 0 };
	map_init(&seen);
	yyjson_arr_foreach(list, i, max, it)
	{
		unsigned have = 0;
		n->nmodels = i + 1;
		r = wf_decode(&wf_model, it, &n->models[i], &have, reterr);
		if (r) {
			err_prefix(reterr, "models[%zu]", i);
			return r;
		}
		r = once(&seen, n->models[i].pool_id, "models", i, reterr);
		if (r)
			return r;
	}
	return 0;
}

static int decode_uses(yyjson_val *o, struct wire_device *d, struct err *reterr)
{
	yyjson_val *list, *it;
	size_t len, i, max;
	int r = list_of(o, "uses", WIRE_DEVICE_USES_MAX, &list, &len, reterr);
	if (r || !len)
		return r;
	d->uses = mem_try_alloc(len * sizeof *d->uses);
	if (!d->uses)
		return err_set(reterr, -ENOMEM, "no memory for %zu processes", len);
	yyjson_arr_foreach(list, i, max, it)
	{
		unsigned have = 0;
		d->nuses = i + 1;
		r = wf_decode(&wf_device_use, it, &d->uses[i], &have, reterr);
		if (r) {
			err_prefix(reterr, "uses[%zu]", i);
			return r;
		}
	}
	return 0;
}

static int decode_links(yyjson_val *o, struct wire_device *d, struct err *reterr)
{
	yyjson_val *list, *it;
	size_t len, i, max;
	int r = list_of(o, "links", WIRE_DEVICE_LINKS_MAX, &list, &len, reterr);
	if (r || !len)
		return r;
	d->links = mem_try_alloc(len * sizeof *d->links);
	if (!d->links)
		return err_set(reterr, -ENOMEM, "no memory for %zu links", len);
	yyjson_arr_foreach(list, i, max, it)
	{
		unsigned have = 0;
		d->nlinks = i + 1;
		r = wf_decode(&wf_device_link, it, &d->links[i], &have, reterr);
		if (r) {
			err_prefix(reterr, "links[%zu]", i);
			return r;
		}
	}
	return 0;
}

static int decode_devices(yyjson_val *root, struct wire_node *n, struct err *reterr)
{
	yyjson_val *list, *it;
	size_t len, i, max;
	int r = list_of(root, "devices", WIRE_DEVICES_MAX, &list, &len, reterr);
	if (r || !len)
		return r;
	n->devices = mem_try_alloc(len * sizeof *n->devices);
	if (!n->devices)
		return err_set(reterr, -ENOMEM, "no memory for %zu devices", len);
	AUTO(map_done) struct map seen = { 0 };
	map_init(&seen);
	yyjson_arr_foreach(list, i, max, it)
	{
		struct wire_device *d = &n->devices[i];
		n->ndevices = i + 1;
		r = wf_decode(&wf_device, it, d, &d->have, reterr);
		if (!r)
			r = decode_uses(it, d, reterr);
		if (!r)
			r = decode_links(it, d, reterr);
		if (r) {
			err_prefix(reterr, "devices[%zu]", i);
			return r;
		}
		r = once(&seen, d->device_id, "devices", i, reterr);
		if (r)
			return r;
		d->memory_free_bytes = MIN(d->memory_free_bytes, d->memory_total_bytes);
		d->memory_used_bytes = MIN(d->memory_used_bytes, d->memory_total_bytes);
	}
	return 0;
}

static int decode_replicas(yyjson_val *root, struct wire_node *n, struct err *reterr)
{
	yyjson_val *list, *it;
	size_t len, i, max;
	int r = list_of(root, "replicas", WIRE_REPLICAS_MAX, &list, &len, reterr);
	if (r || !len)
		return r;
	n->replicas = mem_try_alloc(len * sizeof *n->replicas);
	if (!n->replicas)
		return err_set(reterr, -ENOMEM, "no memory for %zu replicas", len);
	AUTO(map_done) struct map seen = { 0 };
	map_init(&seen);
	yyjson_arr_foreach(list, i, max, it)
	{
		n->nreplicas = i + 1;
		r = decode_replica(it, &n->replicas[i], reterr);
		if (r) {
			err_prefix(reterr, "replicas[%zu]", i);
			return r;
		}
		r = once(&seen, n->replicas[i].replica_id, "replicas", i, reterr);
		if (r)
			return r;
	}
	return 0;
}

int wire_node_decode(struct view json, struct wire_node *ret, struct err *reterr)
{
	AUTO(doc_freep) yyjson_doc *doc = NULL;
	int r = parse(json, &doc, reterr);
	if (r)
		return r;
	AUTO(wire_node_done) struct wire_node tmp = { 0 };
	yyjson_val *root = yyjson_doc_get_root(doc);
	unsigned have = 0;
	r = wf_decode(&wf_node, root, &tmp, &have, reterr);
	if (!r)
		r = decode_models(root, &tmp, reterr);
	if (!r)
		r = decode_devices(root, &tmp, reterr);
	if (!r)
		r = decode_replicas(root, &tmp, reterr);
	if (r)
		return r;
	*ret = tmp;
	tmp = (struct wire_node){ 0 };
	return 0;
}

int wire_desired_decode(struct view json, struct wire_desired *ret, struct err *reterr)
{
	AUTO(doc_freep) yyjson_doc *doc = NULL;
	int r = parse(json, &doc, reterr);
	if (r)
		return r;
	AUTO(wire_desired_done) struct wire_desired tmp = { 0 };
	yyjson_val *root = yyjson_doc_get_root(doc), *list = NULL, *it;
	unsigned have = 0;
	size_t len = 0, i, max;
	r = wf_decode(&wf_desired, root, &tmp, &have, reterr);
	if (!r)
		r = list_of(root, "wants", WIRE_REPLICAS_MAX, &list, &len, reterr);
	if (r)
		return r;
	/* Without the list nothing would be wanted, and everything would be stopped: that has to be said. */
	if (!list)
		return err_set(reterr, -EINVAL,
			"the desired state lacks \"wants\" (an empty list stops every replica)");
	AUTO(map_done) struct map seen = { 0 };
	map_init(&seen);
	yyjson_arr_foreach(list, i, max, it)
	{
		struct wire_want *w = wire_desired_add(&tmp);
		r = wf_decode(&wf_want, it, w, &have, reterr);
		if (r) {
			err_prefix(reterr, "wants[%zu]", i);
			return r;
		}
		r = once(&seen, w->replica_id, "wants", i, reterr);
		if (r)
			return r;
	}
	*ret = tmp;
	tmp = (struct wire_desired){ 0 };
	return 0;
}
