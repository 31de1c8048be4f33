/* SPDX-License-Identifier: Apache-2.0
 *
 * From a process to Ready: the health endpoint's answer, then the model's. Afterwards whether it goes
 * on answering, and whether the engine keeps what was promised.
 */
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "log/log.h"
#include "node/models_int.h"

enum {
	ASK_TIMEOUT_MS = 5000,
	CANARY_WAIT_MS = 60000, /* a request that should be the canary has so long to say it was */
	CANARY_AGAIN_MS = 50,   /* 503: it is loading after all */
	CANARY_TIMEOUT_MS = 300000,
	CANARY_SILENT_MAX = 3,
};

static void on_probe_answer(void *arg, int status, struct view body, const struct err *e)
{
	(void)body;
	struct replica *r = arg;
	r->probing = NULL;
	free(r->probe_text);
	r->probe_text = status ? mem_fmt("%s answers %d", r->launch.health_path, status)
			       : mem_strdup(e ? e->msg : "no answer");
	if (r->external && status != 200 && !r->last_error.message)
		replica_error(r, CAUSE_HEALTH_LOST, "start that server or correct `engine.url` of the pool",
			"%s: %s", r->launch.address, r->probe_text);
	probe_answered(&r->probe, status >= 200 && status < 300 ? PROBE_OK
				  : status == 503               ? PROBE_BUSY
								: PROBE_SILENT);
}

static void on_ask(void *arg)
{
	struct replica *r = arg;
	struct http_fetch_req q = {
		.method = "GET", .path = r->launch.health_path, .timeout_ms = r->node->opts.probe_every_ms
	};
	r->probing = http_fetch(r->target, &q, on_probe_answer, r);
}

static void prove_by_request(struct replica *r)
{
	replica_prove(r, true);
}

static void on_probe_ready(void *arg)
{
	struct replica *r = arg;
	if (r->external) {
		external_discover(r);
		return;
	}
	if (r->state != REPLICA_STARTING)
		return;
	r->load_ms = MAX(probe_loading_ms(&r->probe), (int64_t)1); /* 0 would say: never healthy */
	enum node_canary c = r->pool ? r->pool->conf.canary : NODE_CANARY_NEVER;
	bool by_request = c == NODE_CANARY_AUTO && r->want.pulled_in;
	if (c != NODE_CANARY_NEVER && !by_request)
		replica_prove(
			r, false); /* our own question would take a slot: what was saved comes after it */
	else if (!kv_restore(r, by_request ? prove_by_request : replica_ready))
		by_request ? prove_by_request(r) : replica_ready(r);
}

static void on_probe_lost(void *arg)
{
	struct replica *r = arg;
	if (r->external) {
		replica_error(r, CAUSE_HEALTH_LOST, "it is asked again every 5 s",
			"%s does not answer any more: %s", r->launch.address,
			r->probe_text ? r->probe_text : "no answer");
		replica_set(r, REPLICA_STARTING);
		return;
	}
	replica_condemn(r, CAUSE_HEALTH_LOST, "`corral logs` shows its last words",
		"the engine has not answered %s three times: %s", r->launch.health_path,
		r->probe_text ? r->probe_text : "no answer");
}

static void on_probe_timeout(void *arg)
{
	struct replica *r = arg;
	replica_condemn(r, CAUSE_START_TIMEOUT, "raise start_timeout of the pool, or see `corral logs`",
		"the engine was not ready after %lld s: %s", (long long)replica_start_timeout_ms(r) / 1000,
		r->probe_text ? r->probe_text : "it never answered");
}

static const struct probe_ops probe_ops = { on_ask, on_probe_ready, on_probe_lost, on_probe_timeout };

void replica_watch(struct replica *r)
{
	int64_t every = r->node->opts.probe_every_ms;
	struct probe_opts o = { .timeout_ms = r->external ? 0 : replica_start_timeout_ms(r),
		.live_every_ms = every };
	if (r->proven) {
		/* It was Ready when the last of us died, and has not been away since: nobody who talks to it
		 * may notice. Three silences take it out as ever. */
		probe_start_live(&r->probe, r->node->loop, &o, &probe_ops, r);
		replica_ready(r);
		return;
	}
	if (r->external)
		o.load_every_ms = every;
	probe_start(&r->probe, r->node->loop, &o, &probe_ops, r);
}

/* ---- the canary ---------------------------------------------------------------------------------------- */

static void on_canary_timer(void *arg)
{
	struct replica *r = arg;
	r->canary_waits = false;
	replica_canary_own(r);
}

void replica_prove(struct replica *r, bool by_request)
{
	replica_set(r, REPLICA_PROVING);
	replica_progress(r, "engine_start", -1,
		by_request ? "The first request proves the model" : "The model is asked for a first token");
	r->canary_waits = by_request;
	r->canary_silent = 0;
	report_touch(r->node);
	if (!by_request) {
		replica_canary_own(r);
		return;
	}
	gate_leave(r); /* it has loaded, and waits for somebody else */
	loop_timer_start(r->node->loop, &r->canary_timer, CANARY_WAIT_MS, on_canary_timer, r);
}

static bool has_arg(const struct replica *r, const char *a, const char *b)
{
	/* An engine that was taken over has no command line here. */
	const struct strv *argv = &r->launch.argv, *args = &r->pool->conf.engine.args;
	return strv_has(argv, a) || strv_has(argv, b) || strv_has(args, a) || strv_has(args, b);
}

static char *canary_request(const struct replica *r, const char **ret_path)
{
	if (has_arg(r, "--rerank", "--reranking")) {
		*ret_path = "/v1/rerank";
		return mem_fmt("{\"model\":\"%s\",\"query\":\"a\",\"documents\":[\"a\"]}", r->pool_id);
	}
	if (has_arg(r, "--embeddings", "--embedding")) {
		*ret_path = "/v1/embeddings";
		return mem_fmt("{\"model\":\"%s\",\"input\":\"a\"}", r->pool_id);
	}
	if (r->pool->conf.engine.kind == ENGINE_LLAMACPP) {
		*ret_path = "/completion";
		return mem_strdup("{\"prompt\":\"a\",\"n_predict\":1,\"cache_prompt\":false}");
	}
	*ret_path = "/v1/chat/completions";
	return mem_fmt(
		"{\"model\":\"%s\",\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
		r->pool_id);
}

static void on_canary(void *arg, int status, struct view body, const struct err *e)
{
	struct replica *r = arg;
	r->asking = NULL;
	r->ask = ASK_NOTHING;
	/* No answer at all: most likely it has died, and the keeper tells in a moment of what. */
	if (status == 503 || (status == 0 && r->canary_silent++ < CANARY_SILENT_MAX)) {
		loop_timer_start(r->node->loop, &r->canary_timer, CANARY_AGAIN_MS, on_canary_timer, r);
		return;
	}
	if (status >= 200 && status < 500) {
		if (status >= 400) /* the engine works, it only does not take this unit */
			log_info("canary", r->id,
				"The engine of %s answers %d to one unit of work and is taken as working.",
				r->id, status);
		if (!kv_restore(r, replica_ready))
			replica_ready(r);
		return;
	}
	engines_note_canary(
		r, status ? "the model's first answer was an error" : "the model gave no first answer");
	if (status) {
		replica_condemn(r, CAUSE_CANARY, "`corral logs` shows why",
			"the model's first answer was %d: %.*s", status, (int)MIN(body.n, (size_t)200),
			body.n ? body.p : "");
	} else {
		replica_condemn(r, CAUSE_CANARY, "`corral logs` shows why",
			"the model gave no first answer: %s", e ? e->msg : "no reason");
		r->failure.unanswered = true;
	}
}

void replica_canary_own(struct replica *r)
{
	if (r->state != REPLICA_PROVING || r->ask == ASK_CANARY || kv_busy(r))
		return;
	loop_timer_stop(&r->canary_timer);
	r->canary_waits = false;
	const char *path;
	AUTO(mem_freep) char *body = canary_request(r, &path);
	struct http_fetch_req q = {
		.method = "POST",
		.path = path,
		.content_type = "application/json",
		.body = view_str(body),
		.max_body = 4 * MIB,
		.timeout_ms = MAX(replica_start_timeout_ms(r), (int64_t)CANARY_TIMEOUT_MS),
	};
	http_fetch_cancel(&r->asking);
	r->ask = ASK_CANARY;
	r->asking = http_fetch(r->target, &q, on_canary, r);
}

/* ---- Ready ----------------------------------------------------------------------------------------------
 */

static void doc_free(yyjson_doc **d)
{
	yyjson_doc_free(*d);
}

static void on_props(void *arg, int status, struct view body, const struct err *e)
{
	(void)e;
	struct replica *r = arg;
	r->asking = NULL;
	r->ask = ASK_NOTHING;
	AUTO(doc_free) yyjson_doc *d = status == 200 ? yyjson_read(body.p, body.n, 0) : NULL;
	yyjson_val *root = yyjson_doc_get_root(d);
	yyjson_val *v = yyjson_obj_get(yyjson_obj_get(root, "default_generation_settings"), "n_ctx");
	uint64_t n_ctx = yyjson_get_uint(v);
	if (!n_ctx || n_ctx >= r->ctx || !r->ctx_promised)
		return;
	replica_condemn(r, CAUSE_BAD_ARGS, "lower `ctx` of the pool or use a model with a longer context",
		"%u tokens of context a request were promised, the engine has %llu", r->ctx,
		(unsigned long long)n_ctx);
}

static void check_props(struct replica *r)
{
	if (!r->launch.has_slots || r->external || !r->ctx_promised)
		return;
	struct http_fetch_req q = { .method = "GET", .path = "/props", .timeout_ms = ASK_TIMEOUT_MS };
	r->ask = ASK_PROPS;
	r->asking = http_fetch(r->target, &q, on_props, r);
}

void replica_ready(struct replica *r)
{
	http_fetch_cancel(&r->asking);
	r->ask = ASK_NOTHING;
	loop_timer_stop(&r->canary_timer);
	r->canary_waits = false;
	restart_ready(&r->restart, mono_now());
	free(r->last_error.message);
	free(r->last_error.hint);
	r->last_error = (struct wire_error){ 0 };
	replica_set(r, REPLICA_READY);
	if (!r->external)
		handoff_write(r);
	if (r->pool && r->pool->conf.canary != NODE_CANARY_NEVER)
		engines_note_canary(r, NULL);
	log_event(LOG_INFO, "ready", r->id,
		(struct log_field[]){ LOG_STR("pool_id", r->pool_id), LOG_STR("replica_id", r->id),
			LOG_INT("duration_ms", r->load_ms), LOG_END },
		"Replica %s is ready after %lld ms.", r->id, (long long)r->load_ms);
	learn_ready(r);
	load_ready(r);
	check_props(r);
}
