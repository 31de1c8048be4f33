/* SPDX-License-Identifier: Apache-2.0
 *
 * run/engines/<replica>.json: what others on this machine may know of a ready engine. Written only when
 * Ready, removed when it ends; after a restart of this process it tells what was promised.
 */
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "node/node_int.h"

enum { HANDOFF_MAX = 1024 * 1024 };

static char *path_of(const struct node *n, const char *id)
{
	return mem_fmt("%s/%s.json", n->engines_dir, id);
}

static int add_field(struct buf *b, const char *key, const char *value)
{
	int r = buf_addf(b, "\"%s\":", key);
	return r ? r : value ? buf_add_json(b, view_str(value)) : buf_adds(b, "null");
}

static int add_argv(struct buf *b, const struct strv *argv)
{
	AUTO(strv_done) struct strv safe = { 0 };
	engine_argv_redact(argv, &safe);
	int r = buf_adds(b, "\"argv\":[");
	for (size_t i = 0; i < safe.len && !r; i++) {
		r = i ? buf_addc(b, ',') : 0;
		r = r ? r : buf_add_json(b, view_str(safe.items[i]));
	}
	return r ? r : buf_addc(b, ']');
}

static int add_model(struct buf *b, const char *path)
{
	int r = buf_adds(b, "\"model\":{");
	r = r ? r : add_field(b, "ref", path);
	r = r ? r : buf_addc(b, ',');
	r = r ? r : add_field(b, "path", path);
	return r ? r : buf_adds(b, ",\"sha256\":null},");
}

static int encode(const struct replica *r, struct buf *b)
{
	const struct pool *p = r->pool;
	const struct {
		const char *key, *value;
	} fields[] = {
		{ "pool_id", r->pool_id },
		{ "replica_id", r->id },
		{ "engine", p ? engine_kind_name(p->conf.engine.kind) : NULL },
		{ "engine_version", p && p->have_build ? p->build.version : NULL },
		{ "provisioning_mode", p && p->have_build ? engine_mode_name(p->build.mode) : NULL },
		{ "url", r->launch.address },
		{ "device_mask", r->devices },
	};
	int e = buf_adds(b, "{\"schema\":1,");
	for (size_t i = 0; i < ARRAY_LEN(fields) && !e; i++) {
		e = add_field(b, fields[i].key, fields[i].value);
		e = e ? e : buf_addc(b, ',');
	}
	e = e ? e
	      : buf_addf(b, "\"generation\":%llu,\"pid\":%d,\"start_time\":%llu,\"slots\":%u,\"ctx\":%u,",
			(unsigned long long)r->generation, r->pid, (unsigned long long)r->pid_start, r->slots,
			r->ctx);
	e = e ? e : add_model(b, p ? p->conf.model_path : NULL);
	e = e ? e : add_argv(b, &r->launch.argv);
	return e ? e : buf_adds(b, "}\n");
}

void handoff_write(struct replica *r)
{
	if (r->proven)
		return; /* it is there, with the command line that we do not know */
	AUTO(mem_freep) char *path = path_of(r->node, r->id);
	AUTO(buf_done) struct buf b = BUF(HANDOFF_MAX);
	int e = encode(r, &b);
	if (!e)
		e = file_write_atomic(path, buf_view(&b), 0600, false);
	if (e)
		log_warn("handoff", r->id, "%s cannot be written: %s. The engine serves nevertheless.", path,
			strerror(-e));
}

void handoff_remove(struct replica *r)
{
	AUTO(mem_freep) char *path = path_of(r->node, r->id);
	unlink(path);
	r->proven = false;
}

static void doc_free(yyjson_doc **d)
{
	yyjson_doc_free(*d);
}

int handoff_read(const struct node *n, const char *replica_id, struct handoff *ret)
{
	AUTO(mem_freep) char *path = path_of(n, replica_id);
	AUTO(buf_done) struct buf b = BUF(HANDOFF_MAX);
	int r = file_read(path, &b);
	if (r)
		return r;
	AUTO(doc_free) yyjson_doc *d = b.len ? yyjson_read(b.data, b.len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d);
	const char *url = yyjson_get_str(yyjson_obj_get(o, "url"));
	uint64_t slots = yyjson_get_uint(yyjson_obj_get(o, "slots")),
		 ctx = yyjson_get_uint(yyjson_obj_get(o, "ctx"));
	if (!url || slots > 65536 || ctx > UINT32_MAX)
		return -EINVAL;
	*ret = (struct handoff){
		.url = mem_strdup(url),
		.generation = yyjson_get_uint(yyjson_obj_get(o, "generation")),
		.slots = (uint32_t)slots,
		.ctx = (uint32_t)ctx,
	};
	return 0;
}
