/* SPDX-License-Identifier: Apache-2.0
 *
 * model_ensure and model_plan as a program, for tests that play the other side of the network:
 *
 *   get-model '{"set":{"ref":"org/repo"},"hub":"/cache","models_dir":"/models","hub_endpoint":"http://…"}'
 *
 * Prints JSON Lines: {"progress":…} for each progress (with "progress":true), and at last {"why":"ok",…}.
 * Exit status 0 when it is there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "loop/loop.h"
#include "provision/model/want.h"

struct get {
	struct loop *loop;
	struct model_job *job;
	bool progress, ok;
};

static const char *text(yyjson_val *v, const char *key)
{
	return yyjson_get_str(yyjson_obj_get(v, key));
}

static void list(yyjson_val *v, const char *key, struct strv *ret)
{
	yyjson_val *s;
	size_t i, n;
	yyjson_arr_foreach(yyjson_obj_get(v, key), i, n, s) strv_add(ret, yyjson_get_str(s));
}

static void add(struct buf *b, const char *key, const char *value)
{
	(void)buf_addf(b, ",\"%s\":", key);
	if (value)
		(void)buf_add_json(b, view_str(value));
	else
		(void)buf_adds(b, "null");
}

static void add_list(struct buf *b, const char *key, const struct strv *v)
{
	(void)buf_addf(b, ",\"%s\":[", key);
	for (size_t i = 0; i < v->len; i++) {
		if (i)
			(void)buf_addc(b, ',');
		(void)buf_add_json(b, view_str(v->items[i]));
	}
	(void)buf_addc(b, ']');
}

static void print(struct buf *b)
{
	(void)buf_adds(b, "}\n");
	fputs(buf_str(b), stdout);
	fflush(stdout);
}

static void on_progress(void *arg, const struct fetch_progress *p)
{
	const struct get *g = arg;
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	if (!g->progress)
		return;
	(void)buf_addf(&b, "{\"progress\":%d,\"bytes\":%llu,\"total\":%llu", (int)p->phase,
		(unsigned long long)p->bytes, (unsigned long long)p->total);
	add(&b, "text", p->text);
	print(&b);
}

static void begin(struct buf *b, struct get *g, enum fetch_why why, const struct err *err)
{
	g->ok = why == FETCH_OK;
	(void)buf_adds(b, "{\"why\":");
	(void)buf_add_json(b, view_str(fetch_why_name(why)));
	add(b, "message", err ? err->msg : NULL);
}

static void on_done(void *arg, const struct model_got *got, enum fetch_why why, const struct err *err)
{
	struct get *g = arg;
	AUTO(buf_done) struct buf b = BUF(4 * MIB);
	begin(&b, g, why, err);
	if (got) {
		add(&b, "path", got->weights.path);
		add_list(&b, "parts", &got->weights.parts);
		add(&b, "mmproj", got->mmproj);
		add(&b, "draft", got->draft);
		add_list(&b, "lora", &got->lora);
		add(&b, "reference", got->reference);
		add(&b, "revision", got->revision);
		add(&b, "source", got->source);
		add(&b, "warning", got->warning);
		(void)buf_addf(&b, ",\"size\":%llu,\"fetched\":%llu,\"files\":[",
			(unsigned long long)got->weights.size_bytes, (unsigned long long)got->fetched_bytes);
		for (size_t i = 0; i < got->nfiles; i++) {
			(void)buf_addf(
				&b, "%s{\"size\":%llu", i ? "," : "", (unsigned long long)got->files[i].size);
			add(&b, "role", got->files[i].role);
			add(&b, "path", got->files[i].path);
			add(&b, "sha256", got->files[i].sha256);
			add(&b, "url", got->files[i].url);
			(void)buf_addc(&b, '}');
		}
		(void)buf_addc(&b, ']');
	}
	print(&b);
	g->job = NULL;
	loop_stop(g->loop);
}

static void on_plan(void *arg, const struct model_plan *plan, enum fetch_why why, const struct err *err)
{
	struct get *g = arg;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	begin(&b, g, why, err);
	if (plan) {
		add_list(&b, "steps", &plan->steps);
		(void)buf_addf(&b, ",\"bytes\":%llu", (unsigned long long)plan->bytes_to_fetch);
	}
	print(&b);
	g->job = NULL;
	loop_stop(g->loop);
}

static void read_set(yyjson_val *v, struct model_set *s)
{
	s->ref = mem_strdup(text(v, "ref"));
	s->mmproj = mem_strdup(text(v, "mmproj"));
	s->draft = mem_strdup(text(v, "draft"));
	list(v, "lora", &s->lora);
}

static void read_opts(yyjson_val *v, struct model_ensure_opts *o, struct stores_roots *roots)
{
	const char *hub = text(v, "hub"), *ollama = text(v, "ollama"), *trust = text(v, "trust");
	if (hub)
		strv_add(&roots->hub, hub);
	if (ollama)
		strv_add(&roots->ollama, ollama);
	*o = (struct model_ensure_opts){ .models_dir = text(v, "models_dir"),
		.state_dir = text(v, "state_dir"),
		.roots = roots,
		.fetch_program = text(v, "fetch_program"),
		.hub_endpoint = text(v, "hub_endpoint"),
		.hub_token = text(v, "hub_token"),
		.ollama_endpoint = text(v, "ollama_endpoint"),
		.s3_endpoint = text(v, "s3_endpoint"),
		.sha256 = text(v, "sha256"),
		.parallel = (unsigned)yyjson_get_uint(yyjson_obj_get(v, "parallel")),
		.rate = yyjson_get_uint(yyjson_obj_get(v, "rate")),
		.headroom = yyjson_get_uint(yyjson_obj_get(v, "headroom")),
		.require_digest = yyjson_get_bool(yyjson_obj_get(v, "require_digest")),
		.want = yyjson_get_bool(yyjson_obj_get(v, "any")) ? MODEL_ANY : MODEL_GGUF,
		.trust =
			trust && strcmp(trust, "strict") == 0 ? MODEL_TRUST_STRICT : MODEL_TRUST_PERMISSIVE };
	o->policy.offline = yyjson_get_bool(yyjson_obj_get(v, "offline"));
	list(v, "allow_hosts", &o->policy.allow_hosts);
	list(v, "deny", &o->policy.deny);
	list(v, "registries", &o->registries);
}

int main(int argc, char **argv)
{
	static const struct model_ops ops = { .on_progress = on_progress, .on_done = on_done };
	yyjson_doc *d = argc == 2 ? yyjson_read(argv[1], strlen(argv[1]), 0) : NULL;
	yyjson_val *v = yyjson_doc_get_root(d);
	struct get g = { .progress = yyjson_get_bool(yyjson_obj_get(v, "progress")) };
	AUTO(stores_roots_done) struct stores_roots roots = { 0 };
	AUTO(model_set_done) struct model_set s = { 0 };
	struct model_ensure_opts o;
	if (!yyjson_is_obj(v)) {
		fputs("get-model wants one JSON object\n", stderr);
		return 2;
	}
	read_set(yyjson_obj_get(v, "set"), &s);
	read_opts(v, &o, &roots);
	g.loop = loop_new("get-model");
	g.job = yyjson_get_bool(yyjson_obj_get(v, "plan")) ? model_plan(g.loop, &s, &o, on_plan, &g)
							   : model_ensure(g.loop, &s, &o, &ops, &g);
	loop_run(g.loop);
	model_job_cancel(&g.job);
	loop_free(g.loop);
	strv_done(&o.policy.allow_hosts);
	strv_done(&o.policy.deny);
	strv_done(&o.registries);
	yyjson_doc_free(d);
	return g.ok ? 0 : 1;
}
