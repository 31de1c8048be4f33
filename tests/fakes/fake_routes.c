/* SPDX-License-Identifier: Apache-2.0
 *
 * The routes of fake-engine but the generating ones, its slots, and the record of what came in.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "fake_engine.h"

#define JSON "application/json; charset=utf-8"

struct call {
	struct conn *c;
	const struct request *q;
	const struct behave *b;
	struct buf o; /* the answer, sent with 200 as JSON when the handler returns true */
};

bool fake_is_ready(const struct behave *b)
{
	return now_us() - fake.opt.started_us >= 1000 * b->ready_after_ms;
}

/* ---- slots ---- */

static int slot_try(void)
{
	for (int i = 0; i < fake.opt.n_slots; i++) {
		if (!fake.slots[i]) {
			fake.slots[i] = true;
			__atomic_store_n(&fake.slot_tokens[i], 0, __ATOMIC_RELAXED);
			return i;
		}
	}
	return -1;
}

int slot_take(struct conn *c)
{
	for (;;) {
		struct timespec t;
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 5000000; /* then look whether the client is still there */
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		pthread_mutex_lock(&fake.lock);
		int slot = slot_try();
		if (slot < 0)
			pthread_cond_timedwait(&fake.changed, &fake.lock, &t);
		pthread_mutex_unlock(&fake.lock);
		if (slot >= 0 || conn_wait(c, now_us()) < 0)
			return slot;
	}
}

void slot_give(int slot, const struct behave *b, bool cancelled)
{
	struct timespec t;
	int64_t until_us = now_us() + 1000 * b->slot_linger_ms;
	pthread_mutex_lock(&fake.lock);
	fake.completed += !cancelled;
	fake.cancelled += cancelled;
	pthread_cond_broadcast(&fake.changed);
	while (cancelled && now_us() < until_us) {
		clock_gettime(CLOCK_REALTIME, &t);
		int64_t ns = t.tv_nsec + 1000 * (until_us - now_us());
		t.tv_sec += ns / 1000000000;
		t.tv_nsec = ns % 1000000000;
		pthread_cond_timedwait(&fake.changed, &fake.lock, &t);
	}
	fake.slots[slot] = false;
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
}

/* ---- the record ---- */

void record_request(const struct request *q)
{
	char sha[65];
	struct buf o = BUF(1024 * 1024);
	if (view_starts(q->path, VIEW("/fake/")) && !view_eqs(q->path, "/fake/echo"))
		return;
	sha256_hex(q->body, sha);
	buf_adds(&o, "{\"method\":");
	buf_add_json(&o, q->method);
	buf_adds(&o, ",\"path\":");
	buf_add_json(&o, q->path);
	buf_adds(&o, ",\"query\":");
	buf_add_json(&o, q->query);
	buf_adds(&o, ",\"head\":");
	buf_add_json(&o, q->head);
	buf_addf(&o, ",\"body_length\":%zu,\"body_sha256\":\"%s\",\"body\":", q->body.n, sha);
	buf_add_json(&o, view_cut(q->body, 65536));
	buf_adds(&o, "}\n");
	pthread_mutex_lock(&fake.lock);
	fake.requests++;
	if (fake.record_fd >= 0 && fd_write_all(fake.record_fd, o.data, o.len) < 0)
		fprintf(stderr, "fake-engine: the record cannot be written\n");
	char **at = &fake.recorded[fake.recorded_count++ % ARRAY_LEN(fake.recorded)];
	free(*at);
	*at = buf_take(&o);
	pthread_cond_broadcast(&fake.changed);
	pthread_mutex_unlock(&fake.lock);
	buf_done(&o);
}

static bool fake_requests(struct call *k)
{
	pthread_mutex_lock(&fake.lock);
	size_t n = fake.recorded_count,
	       first = n > ARRAY_LEN(fake.recorded) ? n - ARRAY_LEN(fake.recorded) : 0;
	buf_addc(&k->o, '[');
	for (size_t i = first; i < n; i++)
		buf_addf(&k->o, "%s%s", i > first ? "," : "", fake.recorded[i % ARRAY_LEN(fake.recorded)]);
	buf_addc(&k->o, ']');
	pthread_mutex_unlock(&fake.lock);
	return true;
}

static void state_add(struct buf *o)
{
	buf_addf(o,
		"{\"pid\":%d,\"accepted\":%lld,\"open\":%lld,\"requests\":%lld,\"completed\":%lld,"
		"\"cancelled\":%lld,\"tokens\":%lld}\n",
		(int)getpid(), (long long)fake.accepted, (long long)fake.open, (long long)fake.requests,
		(long long)fake.completed, (long long)fake.cancelled, (long long)fake.tokens);
}

static bool fake_state(struct call *k)
{
	pthread_mutex_lock(&fake.lock);
	state_add(&k->o);
	pthread_mutex_unlock(&fake.lock);
	return true;
}

static int64_t query_int(const struct request *q, const char *key, int64_t other)
{
	struct view rest = q->query, value;
	while (rest.n) {
		struct view name = view_split(view_split(rest, '&', &rest), '=', &value);
		if (view_eqs(name, key))
			return text_int(value, other);
	}
	return other;
}

static bool fake_wait(struct call *k)
{
	const struct {
		const char *name;
		const int64_t *at;
	} counters[] = {
		{ "requests", &fake.requests },
		{ "completed", &fake.completed },
		{ "cancelled", &fake.cancelled },
		{ "accepted", &fake.accepted },
	};
	int64_t end = now_us() + 1000 * query_int(k->q, "timeout_ms", 10000);
	bool there = false;
	while (!there && now_us() < end && conn_wait(k->c, now_us()) == 0) {
		struct timespec t;
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 10000000; /* then look whether the client is still there */
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		pthread_mutex_lock(&fake.lock);
		there = true;
		for (size_t i = 0; i < ARRAY_LEN(counters); i++)
			there &= *counters[i].at >= query_int(k->q, counters[i].name, 0);
		if (!there)
			pthread_cond_timedwait(&fake.changed, &fake.lock, &t);
		pthread_mutex_unlock(&fake.lock);
	}
	fake_state(k);
	if (!there)
		respond(k->c, k->b, 408, JSON, buf_view(&k->o));
	return there;
}

static bool fake_behave(struct call *k)
{
	struct view unknown = { 0 };
	pthread_mutex_lock(&fake.lock);
	if (json_int(json_get(k->q->body, "reset"), 0))
		fake.base = fake.start;
	behave_set_json(&fake.base, k->q->body, &unknown);
	fake.base_left = json_int(json_get(k->q->body, "for_requests"), -1);
	pthread_mutex_unlock(&fake.lock);
	if (unknown.p) {
		char text[256];
		snprintf(text, sizeof text, "\"%.*s\" is no behaviour; fake-engine --help lists them",
			(int)MIN(unknown.n, 100), unknown.p);
		respond_error(k->c, k->b, 400, "invalid_request_error", text);
		return false;
	}
	buf_adds(&k->o, "{\"ok\":true}");
	return true;
}

static bool fake_bytes(struct call *k)
{
	struct resp r;
	char block[26 * 512];
	for (size_t i = 0; i < sizeof block; i++)
		block[i] = (char)('a' + i % 26);
	int64_t n = query_int(k->q, "n", 1024);
	resp_init(&r, k->c, k->b, 200, "application/octet-stream", true);
	while (n > 0 && resp_body(&r, view_of(block, (size_t)MIN(n, (int64_t)sizeof block))) == 0 &&
		(r.hold || resp_flush(&r) == 0))
		n -= (int64_t)sizeof block;
	resp_end(&r);
	resp_done(&r);
	return false;
}

static bool fake_echo(struct call *k)
{
	respond(k->c, k->b, 200, "application/octet-stream", k->q->body);
	return false;
}

/* ---- llama-server's ---- */

static bool loading(struct call *k)
{
	respond_error(k->c, k->b, 503, "unavailable_error", "Loading model");
	return false;
}

static bool health(struct call *k)
{
	if (k->b->health_hang) {
		conn_wait(k->c, -1);
		return false;
	}
	if (k->b->health_status) {
		respond(k->c, k->b, (int)k->b->health_status, JSON, VIEW("{\"status\":\"as asked\"}"));
		return false;
	}
	if (!fake_is_ready(k->b) && !k->b->health_lies)
		return loading(k);
	buf_adds(&k->o, "{\"status\":\"ok\"}");
	return true;
}

static int64_t slot_ctx(const struct behave *b)
{
	int64_t n = fake.opt.n_ctx ? fake.opt.n_ctx / fake.opt.n_slots : 8192;
	return b->props_ctx ? b->props_ctx : n;
}

static bool models(struct call *k)
{
	buf_adds(&k->o, "{\"object\":\"list\",\"data\":[{\"id\":");
	buf_add_json(&k->o, view_str(fake.opt.alias));
	buf_addf(&k->o,
		",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"llamacpp\",\"meta\":{\"vocab_"
		"type\":1,"
		"\"n_vocab\":256,\"n_ctx\":%lld,\"n_ctx_train\":8192,\"n_embd\":8,\"n_params\":1000,\"size\":"
		"4000}}]}",
		(long long)slot_ctx(k->b));
	return true;
}

static bool props(struct call *k)
{
	buf_addf(&k->o,
		"{\"default_generation_settings\":{\"n_ctx\":%lld,\"params\":{}},\"total_slots\":%lld,"
		"\"model_alias\":",
		(long long)slot_ctx(k->b),
		(long long)(k->b->props_slots ? k->b->props_slots : fake.opt.n_slots));
	buf_add_json(&k->o, view_str(fake.opt.alias));
	buf_adds(&k->o, ",\"model_path\":");
	buf_add_json(&k->o, view_str(fake.opt.model));
	buf_adds(&k->o, ",\"modalities\":{\"vision\":false,\"audio\":false},\"chat_template\":\"\",\"bos_"
			"token\":\"<s>\","
			"\"eos_token\":\"</s>\",\"build_info\":\"b11669-fake\",\"is_sleeping\":false}");
	return true;
}

static bool slots(struct call *k)
{
	if (fake.opt.no_slots) {
		respond_error(k->c, k->b, 501, "not_supported_error",
			"This server does not support slots endpoint.");
		return false;
	}
	pthread_mutex_lock(&fake.lock);
	buf_addc(&k->o, '[');
	for (int i = 0; i < fake.opt.n_slots; i++)
		buf_addf(&k->o,
			"%s{\"id\":%d,\"n_ctx\":%lld,\"speculative\":false,\"is_processing\":%s,"
			"\"n_prompt_tokens_processed\":0,\"next_token\":[{\"n_decoded\":%lld}]}",
			i ? "," : "", i, (long long)slot_ctx(k->b), fake.slots[i] ? "true" : "false",
			(long long)__atomic_load_n(&fake.slot_tokens[i], __ATOMIC_RELAXED));
	buf_addc(&k->o, ']');
	pthread_mutex_unlock(&fake.lock);
	return true;
}

static bool slot_action(struct call *k)
{
	buf_addf(&k->o, "{\"id_slot\":%lld,\"filename\":", (long long)text_int(view_from(k->q->path, 7), 0));
	struct view name = json_get(k->q->body, "filename");
	buf_addf(&k->o, "%.*s,\"n_saved\":0,\"n_written\":40}", VIEW_ARG(name.p ? name : VIEW("null")));
	return true;
}

static bool metrics(struct call *k)
{
	if (!fake.opt.metrics) {
		respond_error(k->c, k->b, 501, "not_supported_error",
			"This server does not support metrics endpoint.");
		return false;
	}
	pthread_mutex_lock(&fake.lock);
	int busy = 0;
	for (int i = 0; i < fake.opt.n_slots; i++)
		busy += fake.slots[i];
	buf_addf(&k->o,
		"# HELP llamacpp:tokens_predicted_total Number of generation tokens processed\n"
		"# TYPE llamacpp:tokens_predicted_total counter\nllamacpp:tokens_predicted_total %lld\n"
		"# HELP llamacpp:requests_processing Number of requests processing\n"
		"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing %d\n"
		"# HELP llamacpp:requests_deferred Number of requests deferred\n"
		"# TYPE llamacpp:requests_deferred gauge\nllamacpp:requests_deferred 0\n",
		(long long)fake.tokens, busy);
	pthread_mutex_unlock(&fake.lock);
	respond(k->c, k->b, 200, "text/plain; version=0.0.4", buf_view(&k->o));
	return false;
}

static bool unsupported(struct call *k, const char *what)
{
	char text[128];
	snprintf(text, sizeof text, "This server does not support %s. Start it with `--%s`", what, what);
	respond_error(k->c, k->b, 501, "not_supported_error", text);
	return false;
}

/* One vector for a string, one each for a list; the first number is the input's length. */
static bool embeddings(struct call *k)
{
	struct view input = json_get(k->q->body, "input"), key, one = input;
	size_t at = 0, n = 0;
	if (!fake.opt.embeddings)
		return unsupported(k, "embeddings");
	buf_adds(&k->o, "{\"object\":\"list\",\"model\":");
	buf_add_json(&k->o, view_str(fake.opt.alias));
	buf_addf(&k->o, ",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu},\"data\":[", input.n,
		input.n);
	bool list = input.n && input.p[0] == '[';
	while (list ? json_item(input, &at, &key, &one) : n == 0) {
		buf_addf(&k->o,
			"%s{\"embedding\":[%zu.0,0.5,-0.5,0.25,-0.25,0.125,-0.125,1.0],\"index\":%zu,"
			"\"object\":\"embedding\"}",
			n ? "," : "", one.n, n);
		n++;
	}
	buf_adds(&k->o, "]}");
	return true;
}

static bool rerank(struct call *k)
{
	struct view documents = json_get(k->q->body, "documents"), key, one;
	size_t at = 0, n = 0;
	if (!fake.opt.rerank)
		return unsupported(k, "rerank");
	buf_adds(&k->o, "{\"model\":");
	buf_add_json(&k->o, view_str(fake.opt.alias));
	buf_addf(&k->o,
		",\"object\":\"list\",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu},\"results\":[",
		documents.n, documents.n);
	while (json_item(documents, &at, &key, &one)) {
		buf_addf(&k->o, "%s{\"index\":%zu,\"relevance_score\":%zu.5}", n ? "," : "", n, one.n);
		n++;
	}
	buf_adds(&k->o, "]}");
	return true;
}

/* Says how long the body was and what it was, so that a test sees whether it crossed untouched. */
static bool transcribe(struct call *k)
{
	char sha[65];
	sha256_hex(k->q->body, sha);
	buf_addf(&k->o,
		"{\"text\":\"%zu bytes, sha256 %s\",\"usage\":{\"type\":\"tokens\",\"input_tokens\":%zu,"
		"\"output_tokens\":4,\"total_tokens\":%zu}}",
		k->q->body.n, sha, k->q->body.n, k->q->body.n + 4);
	return true;
}

static bool images(struct call *k)
{
	char sha[65];
	sha256_hex(k->q->body, sha);
	buf_addf(&k->o, "{\"created\":1700000000,\"data\":[{\"b64_json\":\"%s\"}]}", sha);
	return true;
}

static bool speech(struct call *k)
{
	respond(k->c, k->b, 200, "audio/mpeg", json_text(json_get(k->q->body, "input")));
	return false;
}

static bool tokenize(struct call *k)
{
	struct view text = json_text(json_get(k->q->body, "content"));
	buf_adds(&k->o, "{\"tokens\":[");
	for (size_t i = 0; i < text.n; i++)
		buf_addf(&k->o, "%s%d", i ? "," : "", (unsigned char)text.p[i]);
	buf_adds(&k->o, "]}");
	return true;
}

static bool detokenize(struct call *k)
{
	struct view tokens = json_get(k->q->body, "tokens"), key, one;
	struct buf text = BUF(1 << 20);
	for (size_t at = 0; json_item(tokens, &at, &key, &one);)
		buf_addc(&text, (char)json_int(one, '?'));
	buf_adds(&k->o, "{\"content\":");
	buf_add_json(&k->o, buf_view(&text));
	buf_adds(&k->o, "}");
	buf_done(&text);
	return true;
}

static bool apply_template(struct call *k)
{
	buf_adds(&k->o, "{\"prompt\":");
	buf_add_json(&k->o, json_get(k->q->body, "messages"));
	buf_adds(&k->o, "}");
	return true;
}

static bool count_tokens(struct call *k)
{
	buf_addf(&k->o, "{\"input_tokens\":%lld}", (long long)prompt_tokens(k->q, k->b));
	return true;
}

#define GENERATES(name, dialect)                                                                             \
	static bool name(struct call *k)                                                                     \
	{                                                                                                    \
		generate(k->c, k->q, k->b, dialect);                                                         \
		return false;                                                                                \
	}
GENERATES(chat, CHAT)
GENERATES(completions, COMPLETIONS)
GENERATES(native, NATIVE)
GENERATES(messages, MESSAGES)
GENERATES(responses, RESPONSES)

/* also before it is ready · "fake", status and faults apply · does the faults and the wait by itself */
enum { ALWAYS = 1, WORK = 2, GENERATING = 4 };

static const struct {
	const char *method, *path;
	bool (*handle)(struct call *k);
	int flags;
} routes[] = {
	{ "GET", "/health", health, ALWAYS },
	{ "GET", "/v1/health", health, ALWAYS },
	{ "GET", "/v1/models", models, ALWAYS },
	{ "GET", "/models", models, ALWAYS },
	{ "GET", "/props", props, 0 },
	{ "GET", "/slots", slots, 0 },
	{ "GET", "/metrics", metrics, 0 },
	{ "POST", "/v1/chat/completions", chat, WORK | GENERATING },
	{ "POST", "/chat/completions", chat, WORK | GENERATING },
	{ "POST", "/v1/completions", completions, WORK | GENERATING },
	{ "POST", "/completion", native, WORK | GENERATING },
	{ "POST", "/completions", native, WORK | GENERATING },
	{ "POST", "/infill", native, WORK | GENERATING },
	{ "POST", "/v1/messages", messages, WORK | GENERATING },
	{ "POST", "/v1/messages/count_tokens", count_tokens, WORK },
	{ "POST", "/v1/responses", responses, WORK | GENERATING },
	{ "POST", "/v1/embeddings", embeddings, WORK },
	{ "POST", "/embeddings", embeddings, WORK },
	{ "POST", "/v1/rerank", rerank, WORK },
	{ "POST", "/rerank", rerank, WORK },
	{ "POST", "/v1/audio/transcriptions", transcribe, WORK },
	{ "POST", "/v1/audio/speech", speech, WORK },
	{ "POST", "/v1/images/generations", images, WORK },
	{ "POST", "/v1/images/edits", images, WORK },
	{ "POST", "/tokenize", tokenize, WORK },
	{ "POST", "/detokenize", detokenize, WORK },
	{ "POST", "/apply-template", apply_template, WORK },
	{ "POST", "/fake/behave", fake_behave, ALWAYS },
	{ "GET", "/fake/requests", fake_requests, ALWAYS },
	{ "GET", "/fake/state", fake_state, ALWAYS },
	{ "GET", "/fake/wait", fake_wait, ALWAYS },
	{ "GET", "/fake/bytes", fake_bytes, ALWAYS },
	{ NULL, "/fake/echo", fake_echo, ALWAYS },
};

/* The behaviour for this request: what holds now, then what the request itself asks for. */
static void behave_now(const struct request *q, struct behave *b, bool work)
{
	struct view unknown, own = work ? json_get(q->body, "fake") : (struct view){ 0 };
	pthread_mutex_lock(&fake.lock);
	if (work && fake.base_left == 0) {
		fake.base = fake.start;
		fake.base_left = -1;
	}
	if (work && fake.base_left > 0)
		fake.base_left--;
	*b = fake.base;
	pthread_mutex_unlock(&fake.lock);
	if (own.p)
		behave_set_json(b, own, &unknown);
	if (unknown.p && own.p)
		fprintf(stderr, "fake-engine: \"fake\" has the unknown member %.*s\n", VIEW_ARG(unknown));
}

/* Before the answer: death on a marker, "not ready yet", a status in its place. */
static bool work_refused(struct call *k)
{
	const struct behave *b = k->b;
	if (b->abort_on[0] && view_search(k->q->body, view_str(b->abort_on)) >= 0)
		die_by_signal(6);
	if (b->status && b->error_body[0])
		return respond(k->c, b, (int)b->status, JSON, view_str(b->error_body)), true;
	if (b->status)
		return respond_error(k->c, b, (int)b->status, "server_error", "as asked"), true;
	return false;
}

/* For the short routes: what generate() does by itself. -1: the connection is over. */
static int work_wait(struct call *k)
{
	struct resp r;
	resp_init(&r, k->c, k->b, 200, JSON, false);
	int e = resp_fault(&r, AT_REQUEST) < 0 || conn_wait(k->c, now_us() + 1000 * k->b->prefill_ms) < 0 ? -1
													  : 0;
	resp_done(&r);
	return e;
}

static void route_known(struct call *k, int flags, bool (*handle)(struct call *k))
{
	if ((flags & WORK) && work_refused(k))
		return;
	if ((flags & WORK) && !(flags & GENERATING) && work_wait(k) < 0)
		return;
	if (handle(k))
		respond(k->c, k->b, 200, JSON, buf_view(&k->o));
}

void route(struct conn *c, struct request *q)
{
	struct behave b;
	struct call k = { .c = c, .q = q, .b = &b, .o = BUF(256 * 1024 * 1024) };
	size_t i = 0;
	while (i < ARRAY_LEN(routes) && (!view_eqs(q->path, routes[i].path) ||
						(routes[i].method && !view_eqs(q->method, routes[i].method))))
		i++;
	bool known = i < ARRAY_LEN(routes);
	behave_now(q, &b, known && (routes[i].flags & WORK));
	if (view_starts(q->path, VIEW("/fake/")) && !view_eqs(q->path, "/fake/bytes") &&
		!view_eqs(q->path, "/fake/echo"))
		b.framing[0] = b.head[0] = '\0';
	if ((!known || !(routes[i].flags & ALWAYS)) && !fake_is_ready(&b)) {
		loading(&k);
	} else if (!known && view_eqs(q->method, "POST") && view_starts(q->path, VIEW("/slots/"))) {
		if (slot_action(&k))
			respond(c, &b, 200, JSON, buf_view(&k.o));
	} else if (!known) {
		respond_error(c, &b, 404, "not_found_error", "File Not Found");
	} else {
		route_known(&k, routes[i].flags, routes[i].handle);
	}
	buf_done(&k.o);
}
