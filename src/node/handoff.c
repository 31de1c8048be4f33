/* SPDX-License-Identifier: Apache-2.0
 *
 * Two files about an engine, the same inside. run/engines/<replica>.json is for others on this machine:
 * written only when Ready, removed when it is not any more. run/engines/<replica>.start is for the next run
 * of this process: how an engine that is not ready yet was started, and from what.
 */
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "node/node_int.h"

enum { HANDOFF_MAX = 1024 * 1024 };

static char *path_of(const struct node *n, const char *id, const char *suffix)
{
	return mem_fmt("%s/%s.%s", n->engines_dir, id, suffix);
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
		{ "engine_version", r->engine_version },
		{ "engine_why", r->engine_why },
		{ "provisioning_mode", p && p->have_build ? engine_mode_name(p->build.mode) : NULL },
		{ "url", r->launch.address },
		{ "health", r->launch.health_path },
		{ "device_mask", r->devices },
		{ "spec", r->spec },
		{ "stand_in", r->model },
		{ "kv_key", kv_key(r) },
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
	e = e ? e : add_model(b, replica_model(r)->path);
	e = e ? e : add_argv(b, &r->launch.argv);
	return e ? e : buf_adds(b, "}\n");
}

static void write_as(struct replica *r, const char *suffix)
{
	AUTO(mem_freep) char *path = path_of(r->node, r->id, suffix);
	AUTO(buf_done) struct buf b = BUF(HANDOFF_MAX);
	int e = encode(r, &b);
	if (!e)
		e = file_write_atomic(path, buf_view(&b), 0600, false);
	if (e)
		log_warn("handoff", r->id, "%s cannot be written: %s. The engine serves nevertheless.", path,
			strerror(-e));
}

void handoff_begin(struct replica *r)
{
	write_as(r, "start");
}

void handoff_write(struct replica *r)
{
	if (!r->proven) /* else it is there, with the command line that we do not know */
		write_as(r, "json");
}

void handoff_remove(struct replica *r)
{
	AUTO(mem_freep) char *path = path_of(r->node, r->id, "json");
	unlink(path);
	r->proven = false;
}

void handoff_forget(struct node *n, const char *replica_id)
{
	AUTO(mem_freep) char *ready = path_of(n, replica_id, "json");
	AUTO(mem_freep) char *start = path_of(n, replica_id, "start");
	unlink(ready);
	unlink(start);
}

void handoff_done(struct handoff *h)
{
	free(h->url);
	free(h->health);
	free(h->spec);
	free(h->model);
	free(h->engine_version);
	free(h->engine_why);
	free(h->devices);
	free(h->kv_key);
	*h = (struct handoff){ 0 };
}

static void doc_free(yyjson_doc **d)
{
	yyjson_doc_free(*d);
}

static char *take(yyjson_val *o, const char *key)
{
	return mem_strdup(yyjson_get_str(yyjson_obj_get(o, key)));
}

static int read_as(const struct node *n, const char *id, const char *suffix, struct handoff *ret)
{
	AUTO(mem_freep) char *path = path_of(n, id, suffix);
	AUTO(buf_done) struct buf b = BUF(HANDOFF_MAX);
	int r = file_read_regular(path, &b);
	if (r)
		return r;
	AUTO(doc_free) yyjson_doc *d = b.len ? yyjson_read(b.data, b.len, 0) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d);
	uint64_t slots = yyjson_get_uint(yyjson_obj_get(o, "slots")),
		 ctx = yyjson_get_uint(yyjson_obj_get(o, "ctx"));
	if (!yyjson_is_str(yyjson_obj_get(o, "url")) || slots > 65536 || ctx > UINT32_MAX)
		return -EINVAL;
	*ret = (struct handoff){
		.generation = yyjson_get_uint(yyjson_obj_get(o, "generation")),
		.slots = (uint32_t)slots,
		.ctx = (uint32_t)ctx,
		.url = take(o, "url"),
		.health = take(o, "health"),
		.spec = take(o, "spec"),
		.model = take(o, "stand_in"),
		.engine_version = take(o, "engine_version"),
		.engine_why = take(o, "engine_why"),
		.devices = take(o, "device_mask"),
		.kv_key = take(o, "kv_key"),
	};
	return 0;
}

int handoff_read(const struct node *n, const char *replica_id, uint64_t generation, struct handoff *ret)
{
	static const char *const suffixes[] = { "json", "start" };
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
		if (read_as(n, replica_id, suffixes[i], ret))
			continue;
		ret->ready = i == 0;
		if (ret->generation == generation)
			return 0;
		handoff_done(ret);
	}
	return -ENOENT;
}
