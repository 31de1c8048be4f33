/* SPDX-License-Identifier: Apache-2.0
 *
 * The registry's facts as rows of the store and back. A row that cannot be read is left out with a
 * warning: the file may have been written by another program.
 */
#include <inttypes.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/num.h"
#include "log/log.h"
#include "registry/registry_int.h"

void error_free(struct wire_error *e)
{
	if (!e)
		return;
	free(e->message);
	free(e->hint);
	free(e);
}

void persist_floor(struct registry *r)
{
	r->floor = r->revision > UINT64_MAX - REVISION_STEP ? UINT64_MAX : r->revision + REVISION_STEP;
	if (!r->store)
		return;
	AUTO(mem_freep) char *text = mem_fmt("%" PRIu64, r->floor);
	store_put(r->store, "revision", VIEW("floor"), text, true);
}

void persist_node(struct registry *r, const struct node_ent *n)
{
	if (!r->store)
		return;
	const struct wire_node w = { .node_id = n->node_id,
		.boot_id = n->boot_id,
		.version = n->version,
		.address = n->address,
		.pid = n->pid };
	AUTO(buf_done) struct buf b = BUF(RECORD_MAX);
	if (!wire_node_encode(&w, &b))
		store_put(r->store, "node", view_str(n->node_id), buf_str(&b), false);
}

void persist_node_gone(struct registry *r, const char *node_id)
{
	if (r->store)
		store_put(r->store, "node", view_str(node_id), NULL, false);
}

void persist_pool(struct registry *r, const struct pool_ent *p)
{
	if (!r->store)
		return;
	AUTO(buf_done) struct buf b = BUF(RECORD_MAX);
	buf_addc(&b, '{');
	bool any = false;
	for (size_t m = 0; m < MARK_COUNT; m++) {
		if (!p->marks[m].by)
			continue;
		buf_addf(&b, "%s\"%s\":{\"by\":", any ? "," : "", registry_mark_name((enum registry_mark)m));
		buf_add_json(&b, view_str(p->marks[m].by));
		buf_addf(&b, ",\"at_ms\":%" PRId64 "}", p->marks[m].at_ms);
		any = true;
	}
	const struct registry_override *o = &p->override;
	if (o->model) {
		buf_addf(&b, "%s\"override\":{\"model\":", any ? "," : "");
		buf_add_json(&b, view_str(o->model));
		if (o->configured) {
			buf_adds(&b, ",\"configured\":");
			buf_add_json(&b, view_str(o->configured));
		}
		buf_adds(&b, ",\"by\":");
		buf_add_json(&b, view_str(o->by ? o->by : "unknown"));
		buf_addf(&b, ",\"at_ms\":%" PRId64 "}", o->at_ms);
		any = true;
	}
	buf_addc(&b, '}');
	store_put(r->store, "pool", view_str(p->pool_id), any ? buf_str(&b) : NULL, true);
}

void persist_error(struct registry *r, const struct wire_replica *facts)
{
	if (!r->store)
		return;
	struct wire_replica only = *facts; /* borrowed */
	only.have = WR_ERROR;
	AUTO(buf_done) struct buf b = BUF(RECORD_MAX);
	bool some = facts->last_error.message && !wire_replica_encode(&only, &b);
	store_put(r->store, "error", view_str(facts->replica_id), some ? buf_str(&b) : NULL, false);
}

static int load_node(struct registry *r, struct view key, struct view value)
{
	AUTO(wire_node_done) struct wire_node w = { 0 };
	struct err e;
	if (wire_node_decode(value, &w, &e) || !view_eqs(key, w.node_id) || r->nnodes >= REGISTRY_NODES_MAX)
		return -EINVAL;
	struct node_ent *n = node_add(r, key);
	n->boot_id = MEM_TAKE(w.boot_id);
	n->version = MEM_TAKE(w.version);
	n->address = MEM_TAKE(w.address);
	n->pid = w.pid;
	return 0;
}

static void load_override(struct registry *r, struct view key, yyjson_val *v)
{
	const struct registry_override o = { .model = yyjson_get_str(yyjson_obj_get(v, "model")),
		.configured = yyjson_get_str(yyjson_obj_get(v, "configured")),
		.by = yyjson_get_str(yyjson_obj_get(v, "by")),
		.at_ms = yyjson_get_sint(yyjson_obj_get(v, "at_ms")) };
	if (o.model && o.model[0] == '/')
		override_copy(&pool_add(r, key)->override, &o);
}

static int load_pool(struct registry *r, struct view key, struct view value)
{
	if (!key.n || key.n > 255 || r->npools >= WIRE_POOLS_MAX)
		return -EINVAL;
	yyjson_doc *doc = yyjson_read(value.p, value.n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	int rc = yyjson_is_obj(root) ? 0 : -EINVAL;
	for (size_t m = 0; !rc && m < MARK_COUNT; m++) {
		yyjson_val *v = yyjson_obj_get(root, registry_mark_name((enum registry_mark)m));
		if (!v)
			continue;
		const char *by = yyjson_get_str(yyjson_obj_get(v, "by"));
		struct pool_ent *p = pool_add(r, key);
		mem_setstr((char **)(uintptr_t)&p->marks[m].by, by ? by : "unknown");
		p->marks[m].at_ms = yyjson_get_sint(yyjson_obj_get(v, "at_ms"));
	}
	if (!rc)
		load_override(r, key, yyjson_obj_get(root, "override"));
	yyjson_doc_free(doc);
	return rc;
}

static int load_error(struct registry *r, struct view key, struct view value)
{
	struct wire_replica w = { 0 };
	struct err e;
	if (map_len(&r->errors) >= ERRORS_MAX || wire_replica_decode(value, &w, &e))
		return -EINVAL;
	if (view_eqs(key, w.replica_id) && w.last_error.message) {
		struct wire_error *kept = NEW(struct wire_error);
		*kept = w.last_error;
		w.last_error = (struct wire_error){ 0 };
		error_free(map_put(&r->errors, key, kept));
	}
	wire_replica_done(&w);
	return 0;
}

void persist_load(void *arg, struct view kind, struct view key, struct view value)
{
	struct registry *r = arg;
	int rc = 0;
	uint64_t floor = 0;
	if (view_eqs(kind, "revision")) {
		rc = num_u64(value, &floor);
		r->revision = MAX(r->revision, floor);
	} else if (view_eqs(kind, "node")) {
		rc = load_node(r, key, value);
	} else if (view_eqs(kind, "pool")) {
		rc = load_pool(r, key, value);
	} else if (view_eqs(kind, "error")) {
		rc = load_error(r, key, value);
	}
	if (rc)
		log_warn("store_row", NULL,
			"A row of the registry's database is not understood and left out (%.*s %.*s).",
			VIEW_ARG(kind), VIEW_ARG(key));
}
