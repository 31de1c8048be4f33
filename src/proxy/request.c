/* SPDX-License-Identifier: Apache-2.0
 *
 * From the head of a request to its lease: body, pool, queue; and its end in every way.
 */
#include "proxy/proxy_int.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "base/mem.h"
#include "base/num.h"
#include "base/rnd.h"
#include "log/log.h"

enum {
	SPARE_MIN = 128,     /* requests of a loop that are kept though fewer ran at once … */
	SPARE_BYTES = 2048,  /* … and bytes of each of their buffers */
	PEAK_REQUESTS = 8192 /* so many requests later a peak is forgotten */
};

static void keep_small(struct buf *b)
{
	if (b->cap > SPARE_BYTES)
		buf_done(b);
	buf_reset(b);
}

static void request_end_spare(struct request *q)
{
	buf_done(&q->path);
	buf_done(&q->head);
	buf_done(&q->hold);
	spool_done(&q->spool);
	free(q);
}

struct proxy *proxy_new(const struct proxy_opts *o)
{
	struct proxy *px = NEW(struct proxy);
	px->o = *o;
	px->next_id = rnd_os_u64();
	list_init(&px->requests);
	list_init(&px->spare);
	list_init(&px->quiet);
	buf_init(&px->head, HTTP_HEAD_MAX);
	map_init(&px->figures);
	return px;
}

void proxy_free(struct proxy *px)
{
	if (!px)
		return;
	assert(list_empty(&px->requests));
	loop_timer_stop(&px->progress);
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&px->figures, &i));)
		free(e->value);
	map_done(&px->figures);
	for (struct list *n; (n = list_pop(&px->spare));)
		request_end_spare(LIST_ENTRY(n, struct request, node));
	buf_done(&px->head);
	free(px);
}

size_t proxy_running(const struct proxy *px)
{
	return px->running;
}

void proxy_set_body_max(struct proxy *px, uint64_t bytes)
{
	px->o.body_max = bytes;
}

/* ---- the end -------------------------------------------------------------------------------------- */

static struct pool_figures *figures_made(struct proxy *px, const char *pool, const char *route)
{
	char key[POOL_ID_MAX + 64];
	int n = snprintf(key, sizeof key, "%s %s", pool, route);
	struct view k = view_of(key, MIN((size_t)n, sizeof key - 1));
	struct pool_figures *f = map_get(&px->figures, k);
	if (f)
		return f;
	f = NEW(struct pool_figures);
	snprintf(f->pool, sizeof f->pool, "%s", pool);
	f->route = route;
	if (*pool) {
		struct metrics *m = px->o.metrics;
		f->duration = metrics_series(m, "corral_request_duration_seconds", pool, route, NULL);
		f->first_byte = metrics_series(m, "corral_time_to_first_byte_seconds", pool, route, NULL);
		f->queue_wait = metrics_series(m, "corral_queue_wait_seconds", pool, NULL);
	}
	map_put(&px->figures, k, f);
	return f;
}

/* The last one of each of some places is found without putting its key together. */
static struct pool_figures *figures_of(struct proxy *px, const char *pool, const char *route)
{
	size_t place = ((uintptr_t)pool / 64 ^ (uintptr_t)route / 8) % ARRAY_LEN(px->recent);
	struct pool_figures *f = px->recent[place];
	if (!f || f->route != route || strcmp(f->pool, pool) != 0)
		f = px->recent[place] = figures_made(px, pool, route);
	return f;
}

static struct metric_series *requests_series(struct proxy *px, struct pool_figures *f, int status)
{
	for (size_t i = 0; i < f->ncodes; i++)
		if (f->codes[i].status == status)
			return f->codes[i].requests;
	char code[12];
	snprintf(code, sizeof code, "%d", status);
	struct metric_series *s =
		metrics_series(px->o.metrics, "corral_requests_total", f->pool, f->route, code, NULL);
	if (f->ncodes < ARRAY_LEN(f->codes)) {
		f->codes[f->ncodes].status = status;
		f->codes[f->ncodes++].requests = s;
	}
	return s;
}

static void count(struct request *q, int status, mono_t now)
{
	struct pool_figures *f = figures_of(q->px, q->pool ? pool_id(q->pool) : "", q->route.name);
	metric_inc(requests_series(q->px, f, status));
	if (!q->pool)
		return;
	metric_observe_ns(f->duration, now.ns - q->arrived.ns);
	if (q->first_byte.ns)
		metric_observe_ns(f->first_byte, q->first_byte.ns - q->arrived.ns);
	if (q->waited && q->granted.ns)
		metric_observe_ns(f->queue_wait, q->granted.ns - q->queued.ns);
}

void request_record(struct request *q, int status, const char *outcome)
{
	mono_t now = mono_now();
	life_over(q, status, outcome, now);
	count(q, status, now);
	note_request(q, status, outcome, now);
}

/* Kept for the next one where there is room: a request costs no allocation of its own then. */
static void request_free(void *arg)
{
	struct request *q = arg;
	struct proxy *px = q->px;
	free(q->form);
	keep_small(&q->path);
	keep_small(&q->head);
	keep_small(&q->hold);
	spool_reset(&q->spool, SPARE_BYTES);
	pool_replica_unref(q->replica);
	pool_unref(q->pool);
	if (px->nspare + px->running >= MAX(px->peak, (size_t)SPARE_MIN)) {
		request_end_spare(q);
		return;
	}
	list_prepend(&px->spare, &q->node);
	px->nspare++;
}

static struct request *request_new(struct proxy *px)
{
	struct list *n = list_pop(&px->spare);
	struct request *q = n ? LIST_ENTRY(n, struct request, node) : NEW(struct request);
	if (n) {
		px->nspare--;
		struct buf path = q->path, head = q->head, hold = q->hold, memory = q->spool.memory;
		memset(q, 0, offsetof(struct request, id));
		q->id[0] = '\0';
		body_scan_init(&q->scan);
		q->path = path;
		q->head = head;
		q->hold = hold;
		q->spool.memory = memory;
	}
	q->px = px;
	return q;
}

void request_drop_lease(struct request *q, bool cool)
{
	silence_stop(q);
	if (!q->lease.replica)
		return;
	if (q->life.usage.calls_tools) {
		struct pool_replica *r = q->lease.replica;
		atomic_store_explicit(&r->tools_owner, q->waiter.talk.owner, memory_order_relaxed);
		atomic_store_explicit(&r->tools_at, mono_now().ns, memory_order_release);
	}
	if (cool ? lease_cool(&q->lease) : lease_release(&q->lease))
		log_warn("lease", pool_id(q->pool),
			"A lease is released twice; the second release is not applied.");
}

/* Every request ends here, once. */
void request_over(struct request *q)
{
	if (q->state == REQ_OVER)
		return;
	q->state = REQ_OVER;
	progress_end(q);
	loop_timer_stop(&q->patience);
	bool working = q->call != NULL; /* given up while the engine has it, as when the client leaves */
	if (q->call) {
		http_call_cancel(q->call);
		q->call = NULL;
	}
	request_drop_lease(q, working);
	list_remove(&q->node);
	q->px->running--;
	if (q->key) {
		if (auth_limited(&q->key->limits))
			auth_key_done(q->key, life_tokens(q), mono_now());
		auth_key_unref(q->key);
		q->key = NULL;
	}
	if (q->waiting && !pool_cancel(q->pool, &q->waiter)) {
		q->orphaned = true; /* freed when the grant arrives */
		return;
	}
	loop_defer(q->px->o.loop, &q->freeing, request_free, q);
}

/* ---- failing ----------------------------------------------------------------------------------------- */

void request_fail(struct request *q, const struct api_error *e)
{
	struct api_error copy = *e;
	copy.request_id = view_str(q->id);
	if (q->pool)
		copy.pool_id = view_str(pool_id(q->pool));
	q->code = copy.code;
	int status = api_error_status(q->route.dialect, &copy);
	struct http_exchange *x = q->x;
	q->x = NULL;
	if (x && (q->told || q->state == REQ_RELAY)) {
		AUTO(buf_done) struct buf b = BUF(64 * KIB);
		if (q->told || q->events) {
			copy.sequence = q->split.events;
			copy.model = view_of(q->scan.model, q->scan.model_len);
			copy.created_s = q->life.received_ms / 1000;
			(void)api_error_event(&q->route, &copy, &b);
			http_body(x, buf_view(&b));
		}
		http_abort(x);
		status = q->state == REQ_RELAY ? q->status : 200;
	} else if (x) {
		headers_reply_error(q, x, &copy);
	}
	request_record(q, status, corral_code_name(copy.code));
	request_over(q);
}

void request_failf(struct request *q, enum corral_code code, const char *hint, const char *fmt, ...)
{
	char text[768];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	struct api_error e = { .code = code,
		.retriable = -1,
		.hint = view_str(hint),
		.message = view_of(text, n < 0 ? 0 : MIN((size_t)n, sizeof text - 1)) };
	request_fail(q, &e);
}

/* The client is gone: whatever the request waits for is given up at once. */
static void on_gone(void *arg)
{
	struct request *q = arg;
	int refused_with = http_refused(q->x);
	q->x = NULL;
	bool working = q->call && !q->answer_ended;
	if (q->call) {
		http_call_cancel(q->call);
		q->call = NULL;
	}
	request_drop_lease(q, working);
	if (refused_with)
		q->code = CODE_INVALID_PARAMS;
	request_record(q, refused_with ? refused_with : 499,
		refused_with ? "the request was malformed or came too slowly" : "the client left");
	request_over(q);
}

/* ---- leases ------------------------------------------------------------------------------------------ */

static void refused(struct request *q, const struct pool_refusal *why)
{
	struct api_error e = { .code = (enum corral_code)why->code,
		.retriable = why->retriable,
		.retry_after_ms = why->retry_after_ms,
		.message = view_str(why->message),
		.hint = view_str(why->hint) };
	request_fail(q, &e);
}

static void dropped(struct request *q)
{
	struct api_error e = { .code = CODE_QUEUE_FULL_DROP_LRU,
		.retriable = -1,
		.retry_after_ms = 1000,
		.message = VIEW("The queue was full and this request, the oldest waiting, was dropped for a "
				"newer one."),
		.hint = VIEW("Send it again, or raise queue.capacity or slots of the pool.") };
	request_fail(q, &e);
}

static void on_refused(void *arg, const struct pool_refusal *why, enum waiter_end end)
{
	struct request *q = arg;
	if (q->orphaned) {
		request_free(q);
		return;
	}
	q->waiting = false;
	struct pool_refusal copy = *why;
	switch (end) {
	case WAITER_CLOSED: refused(q, &copy); return;
	case WAITER_DROPPED: dropped(q); return;
	case WAITER_CRASHED: retry_crashed_twice(q); return;
	case WAITER_SPENT: retry_spent(q); return;
	case WAITER_FAILED: retry_failed_often(q); return;
	}
}

static void have_patience(struct request *q, bool waits);

static void granted(struct request *q, struct lease l)
{
	q->lease = l;
	life_granted(q);
	pool_replica_unref(q->replica);
	q->replica = pool_replica_ref(l.replica);
	q->granted = mono_now();
	have_patience(q, false);
	/* The queue was only asked so that an engine gets started; a suspect keeps others away all the same,
	 * and so does the one that tries a replica whose circuit is half open. */
	if (!q->route.takes_lease && !q->waiter.crashes && !q->waiter.trial)
		request_drop_lease(q, false);
	request_send(q);
}

static void on_grant(void *arg, struct lease l)
{
	struct request *q = arg;
	/* Meanwhile the client left: the slot is passed on; or the replica did: this loop has ended its
	 * connections to it already, and would begin one that nobody ends. */
	bool gone = atomic_load_explicit(&l.replica->gone, memory_order_acquire);
	if ((q->orphaned || gone) && lease_release(&l))
		log_warn("lease", pool_id(q->pool),
			"A lease is released twice; the second release is not applied.");
	if (q->orphaned) {
		request_free(q);
		return;
	}
	q->waiting = false;
	if (!gone) {
		granted(q, l);
		return;
	}
	life_granted(q);
	request_acquire(q, true);
}

static void queue_full(struct request *q)
{
	struct pool_stats s;
	pool_get_stats(q->pool, &s);
	struct pool_opts o;
	pool_options(q->pool, &o);
	char text[256];
	int n = snprintf(text, sizeof text,
		"Pool %s is busy: %u of %u slots are in use and its queue of %u is full (policy %s).",
		pool_id(q->pool), s.leases + s.cooling, s.slots_total, o.queue_capacity,
		o.policy == POOL_REJECT ? "reject" : "drop-lru");
	metric_inc(metrics_series(
		q->px->o.metrics, "corral_admission_rejected_total", pool_id(q->pool), "queue_full", NULL));
	struct api_error e = { .code = CODE_ADMISSION_REJECT,
		.retriable = 1,
		.retry_after_ms = 1000,
		.message = view_of(text, (size_t)n),
		.hint = VIEW("Wait and send it again, or raise queue.capacity or slots.") };
	request_fail(q, &e);
}

enum { ETA_MAX_MS = 600000 };

static void impatient(void *arg)
{
	struct request *q = arg;
	char status[POOL_STATUS_MAX], doing[POOL_ID_MAX + 192], text[1024], eta[96] = "";
	int64_t eta_ms;
	pool_get_status(q->pool, status);
	if (!mono_before(mono_now(), q->deadline)) {
		int k = snprintf(text, sizeof text,
			"Pool %s did not answer within the request's deadline; %s.", pool_id(q->pool),
			status);
		struct api_error e = { .code = CODE_DEADLINE_UNMET,
			.status = 504, /* it was admitted: 400 is for what is refused before the queue */
			.retriable = -1,
			.message = view_of(text, MIN((size_t)k, sizeof text - 1)),
			.hint = VIEW("Give a longer X-Corral-Deadline-Ms, or leave it out.") };
		request_fail(q, &e);
		return;
	}
	progress_text(q, doing, sizeof doing, &eta_ms);
	eta_ms = MIN(eta_ms, (int64_t)ETA_MAX_MS);
	if (eta_ms)
		snprintf(eta, sizeof eta, " (about %lld s to go)", (long long)(eta_ms + 999) / 1000);
	int n = snprintf(text, sizeof text,
		"Pool %s did not get to this request within queue.max_wait; %s: %s%s.", pool_id(q->pool),
		status, doing, eta);
	struct api_error e = { .code = CODE_POOL_UNREADY,
		.retriable = 1,
		.retry_after_ms = eta_ms ? eta_ms : 5000,
		.message = view_of(text, MIN((size_t)n, sizeof text - 1)),
		.hint = VIEW("Send it again later; `corral ps` shows what the pool is doing.") };
	request_fail(q, &e);
}

/* max_wait bounds each time in the queue alone: a long answer that comes in one piece is no failure, and a
 * request that is sent again has waited for its engine before, not for a slot. */
static void have_patience(struct request *q, bool waits)
{
	mono_t until = q->deadline;
	if (waits) {
		struct pool_opts o;
		pool_options(q->pool, &o);
		mono_t max = mono_add_ms(mono_now(), o.max_wait_ms);
		until = mono_before(max, until) ? max : until;
	}
	loop_timer_stop(&q->patience);
	if (until.ns != MONO_NEVER.ns)
		loop_timer_start(
			q->px->o.loop, &q->patience, mono_ms_between(mono_now(), until) + 1, impatient, q);
}

void request_acquire(struct request *q, bool again)
{
	struct pool_refusal why; /* set where it is read, and large */
	struct lease l = { 0 };
	if (!again)
		q->queued = mono_now();
	if (!q->route.takes_lease && !again) {
		struct pool_replica *r = pool_any_replica(q->pool);
		if (r) {
			pool_replica_unref(q->replica);
			q->replica = r;
			q->granted = mono_now();
			have_patience(q, false);
			request_send(q);
			return;
		}
	}
	q->state = REQ_WAIT;
	switch (pool_acquire(q->pool, &q->waiter, again, mono_now(), &l, &why)) {
	case POOL_GRANTED: granted(q, l); return;
	case POOL_FULL: queue_full(q); return;
	case POOL_CLOSED: refused(q, &why); return;
	case POOL_QUEUED: break;
	}
	q->waiting = true;
	have_patience(q, true);
	struct pool_stats s;
	pool_get_stats(q->pool, &s);
	q->granted_before = s.granted;
	q->waited = true;
	life_waits(q, s.slots_total == 0);
}

/* ---- the body ---------------------------------------------------------------------------------------- */

static void body_too_large(struct request *q)
{
	char limit[32];
	num_format_bytes(q->spool.max, limit, sizeof limit);
	request_failf(q, CODE_PAYLOAD_TOO_LARGE, "Send less, or raise body.max in the configuration.",
		"The request's body is larger than %s.", limit);
}

static void spool_failed(struct request *q, int error)
{
	if (error == -EFBIG) {
		body_too_large(q);
		return;
	}
	struct api_error e = { .code = CODE_POOL_UNREADY,
		.retriable = 1,
		.retry_after_ms = 2000,
		.message = VIEW("There is no room to keep the request's body."),
		.hint = VIEW("Free disk space under state_dir, or raise body.spool_total.") };
	request_fail(q, &e);
}

static void on_body(void *arg, struct view v)
{
	struct request *q = arg;
	int r = spool_add(&q->spool, v);
	if (r) {
		spool_failed(q, r);
		return;
	}
	request_scan(q, v);
}

static bool find_pool(struct request *q)
{
	struct api_error e = { .retriable = -1 };
	struct view model = view_of(q->scan.model, q->scan.has_model ? q->scan.model_len : 0);
	char from_query[SCAN_STRING_MAX];
	if (q->route.kind == ROUTE_UPSTREAM)
		model = q->route.pool;
	else if (!model.n && http_query_get(http_query(q->x), "model", from_query, sizeof from_query))
		model = view_str(from_query);
	model = view_cut(model, SCAN_STRING_MAX);
	if (model.n && model.p != q->scan.model) {
		memcpy(q->scan.model, model.p, model.n); /* its one place, wherever it came from */
		q->scan.model_len = (uint32_t)model.n;
	}
	q->pool = q->px->o.find_pool(q->px->o.arg, model, q->key, &e);
	if (!q->pool)
		request_fail(q, &e);
	return q->pool != NULL;
}

/* The client's own deadline counts from the request's arrival. False: the request is over. */
static bool read_deadline(struct request *q)
{
	uint64_t ms;
	struct view v = http_header_get(http_headers(q->x), "x-corral-deadline-ms");
	q->deadline = MONO_NEVER;
	if (!v.p)
		return true;
	if (num_u64(v, &ms)) {
		request_failf(q, CODE_INVALID_PARAMS, "Give a whole number of milliseconds, or leave it out.",
			"X-Corral-Deadline-Ms is \"%.*s\".", VIEW_ARG(view_cut(v, 64)));
		return false;
	}
	q->deadline = mono_add_ms(q->arrived, (int64_t)MIN(ms, (uint64_t)INT64_MAX));
	if (mono_before(mono_now(), q->deadline))
		return true;
	request_failf(q, CODE_DEADLINE_UNMET, "Give a longer X-Corral-Deadline-Ms, or leave it out.",
		"The request's deadline of %llu ms was over before its body was here.",
		(unsigned long long)ms);
	return false;
}

bool request_pool_idle(const struct request *q)
{
	struct pool_replica *r = pool_any_replica(q->pool);
	bool idle = r == NULL;
	pool_replica_unref(r);
	return idle;
}

static void unloaded(struct request *q)
{
	if (!q->px->o.answer_unloaded(q->px->o.arg, q->x, &q->route, q->pool, q->id)) {
		struct api_error e = { .code = CODE_POOL_UNREADY,
			.retriable = 0,
			.hint = VIEW("`corral start` starts it, or any completion does.") };
		char text[256];
		int n = snprintf(text, sizeof text, "Pool %s runs no engine, and this request starts none.",
			pool_id(q->pool));
		e.message = view_of(text, MIN((size_t)n, sizeof text - 1));
		request_fail(q, &e);
		return;
	}
	q->x = NULL;
	request_record(q, 200, "answered from what is known of the model");
	request_over(q);
}

static void on_body_end(void *arg)
{
	struct request *q = arg;
	if (!request_scan_end(q) || !find_pool(q))
		return;
	if (!q->route.starts_engine && request_pool_idle(q)) {
		unloaded(q);
		return;
	}
	if (view_eq_ci(http_header_get(http_headers(q->x), "x-corral-priority"), VIEW("batch")))
		q->waiter.priority = POOL_BATCH;
	if (!read_deadline(q))
		return;
	talk_read(q);
	progress_begin(q);
	request_acquire(q, false);
}

static void on_drained(void *arg)
{
	relay_drained(arg);
}

static const struct http_handler request_handler = {
	.on_body = on_body,
	.on_body_end = on_body_end,
	.on_drained = on_drained,
	.on_gone = on_gone,
};

static void set_path(struct request *q)
{
	struct view path = q->route.kind == ROUTE_UPSTREAM ? q->route.rest : http_path(q->x);
	q->path.max = HTTP_TARGET_MAX + 16;
	(void)buf_addv(&q->path, path.n ? path : VIEW("/"));
	if (http_query(q->x).p) {
		(void)buf_addc(&q->path, '?');
		(void)buf_addv(&q->path, http_query(q->x));
	}
}

void proxy_start(struct proxy *px, struct http_exchange *x, const struct route *route, const char *id,
	struct auth_key *key)
{
	struct request *q = request_new(px);
	q->x = x;
	q->route = *route;
	q->key = auth_key_ref(key);
	q->arrived = mono_now();
	q->waiter = (struct waiter){
		.loop = px->o.loop, .on_grant = on_grant, .on_refused = on_refused, .arg = q
	};
	list_init(&q->waiter.node);
	list_init(&q->quiet);
	q->head.max = HTTP_HEAD_MAX;
	q->hold.max = EVENT_HOLD_MAX + 128 * KIB;
	spool_init(&q->spool, px->o.spool, px->o.body_max);
	memcpy(q->id, id, strlen(id) + 1);
	q->method = http_method_name(x);
	set_path(q);
	list_append(&px->requests, &q->node);
	px->running++;
	if (++px->begun == PEAK_REQUESTS)
		px->begun = 0, px->peak = 0;
	px->peak = MAX(px->peak, px->running);
	request_scan_begin(q);
	life_begin(q);
	http_handle(x, &request_handler, q);
	if (http_content_length(x) > 0 && (uint64_t)http_content_length(x) > px->o.body_max)
		body_too_large(q);
}
