/* SPDX-License-Identifier: Apache-2.0
 *
 * Who may pass, on a data loop: the key, its scope, its models, its limits. What is refused is counted, and
 * told once a second: who tries keys must not be able to fill the log.
 */
#include <stdio.h>

#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

static const int64_t TELL_NS = 1000LL * 1000 * 1000;

/* ---- failures ---------------------------------------------------------------------------------------- */

struct failure {
	const char *reason;
	const struct auth_key *key;
	struct view secret; /* what was sent; p NULL: nothing */
};

static void note(struct data_loop *d, struct http_exchange *x, const char *id, const struct failure *f)
{
	struct gate_failures *all = &d->orch->failures;
	metric_inc(metrics_series(d->orch->metrics, "corral_auth_failures_total", f->reason, NULL));
	atomic_fetch_add_explicit(&all->untold, 1, memory_order_relaxed);
	int64_t now = mono_now().ns, last = atomic_load_explicit(&all->told_ns, memory_order_relaxed);
	if ((last && now - last < TELL_NS) || !atomic_compare_exchange_strong_explicit(&all->told_ns, &last,
						      now, memory_order_relaxed, memory_order_relaxed))
		return;
	unsigned n = atomic_exchange_explicit(&all->untold, 0, memory_order_relaxed);
	AUTO(mem_freep) char *path = mem_viewdup(view_cut(http_path(x), 200));
	char token[LOG_TOKEN_LEN + 1];
	if (f->secret.n)
		log_redact_token(f->secret, token);
	log_event(LOG_INFO, "auth_failure", path,
		(struct log_field[]){ LOG_STR("correlation_id", id), LOG_STR("client", http_peer(x)->text),
			LOG_STR("reason", f->reason), LOG_STR("key_name", f->key ? f->key->name : NULL),
			LOG_STR("token", f->secret.n ? token : NULL), LOG_UINT("failures", n), LOG_END },
		"A request from %s is refused: %s (%u since the last such line).", http_peer(x)->text,
		f->reason, n);
}

/* block: header lines to go with it; may be NULL. */
static void refuse(struct http_exchange *x, const char *id, const struct api_error *e, const char *block)
{
	struct api_error copy = *e;
	copy.request_id = view_str(id);
	if (block)
		(void)buf_adds(http_extra(x), block);
	proxy_reply_error(x, dialect_of_path(http_path(x)), &copy);
}

/* ---- the key ------------------------------------------------------------------------------------------ */

static const struct unknown {
	const char *reason, *message, *hint, *block;
} unknown[] = {
	[AUTH_NO_KEY] = { "no_key", "This server needs an API key, and the request has none.",
		"Send it as \"Authorization: Bearer KEY\" or as x-api-key; `corral key create NAME` on the "
		"server "
		"makes one.",
		"WWW-Authenticate: Bearer realm=\"corral\"\r\n" },
	[AUTH_BAD_KEY] = { "bad_key", "Incorrect API key provided: there is no such key here.",
		"Check it for missing characters; `corral key ls` on the server lists those there are.",
		"WWW-Authenticate: Bearer realm=\"corral\", error=\"invalid_token\"\r\n" },
	[AUTH_EXPIRED_KEY] = { "expired", "Incorrect API key provided: it has expired.",
		"`corral key create NAME` on the server makes a new one.",
		"WWW-Authenticate: Bearer realm=\"corral\", error=\"invalid_token\"\r\n" },
};

static void refuse_unknown(struct data_loop *d, struct http_exchange *x, const char *id,
	enum auth_verdict verdict, struct view secret)
{
	const struct unknown *u = &unknown[verdict];
	struct api_error e = { .code = CODE_UNAUTHENTICATED,
		.retriable = 0,
		.message = view_str(u->message),
		.hint = view_str(u->hint) };
	note(d, x, id, &(struct failure){ .reason = u->reason, .secret = secret });
	refuse(x, id, &e, u->block);
}

static void refuse_scope(struct data_loop *d, struct http_exchange *x, const char *id,
	const struct auth_who *who, enum auth_scope needed)
{
	char text[256];
	int n = who->key
			? snprintf(text, sizeof text, "The key %s has the scope %s, and this route needs %s.",
				  who->key->name, auth_scope_name(who->scope), auth_scope_name(needed))
			: snprintf(text, sizeof text,
				  "From a trusted network models may be asked without a key; this route "
				  "needs a "
				  "key of the scope %s.",
				  auth_scope_name(needed));
	struct api_error e = { .code = CODE_FORBIDDEN,
		.retriable = 0,
		.message = view_of(text, MIN((size_t)n, sizeof text - 1)),
		.hint = VIEW(
			"`corral key create NAME --scope control` (or admin) on the server makes one.") };
	note(d, x, id, &(struct failure){ .reason = "scope", .key = who->key });
	refuse(x, id, &e, NULL);
}

bool gate_refuses(struct data_loop *d, struct http_exchange *x, const char *id, enum auth_scope needed,
	struct auth_who *ret)
{
	const struct http_headers *h = http_headers(x);
	struct auth_asks asks = { .local = http_peer(x)->is_unix,
		.ip = http_peer(x)->ip,
		.bearer = auth_bearer(http_header_known(h, HTTP_H_AUTHORIZATION)),
		.api_key = http_header_known(h, HTTP_H_API_KEY) };
	*ret = (struct auth_who){ 0 };
	if (needed == AUTH_OPEN)
		return false;
	if (needed == AUTH_UNSET) /* that there is no such route is told to whoever may ask anything */
		needed = AUTH_INFERENCE;
	int64_t wall = asks.bearer.n || asks.api_key.n ? wall_ms() : 0;
	enum auth_verdict verdict = auth_check(d->rules, &asks, wall, ret);
	if (verdict != AUTH_GRANTED) {
		refuse_unknown(d, x, id, verdict, asks.bearer.n ? asks.bearer : asks.api_key);
		return true;
	}
	if (ret->scope >= needed)
		return false;
	refuse_scope(d, x, id, ret, needed);
	return true;
}

/* ---- limits -------------------------------------------------------------------------------------------- */

static const char *limit_text(const struct auth_key *k, enum auth_limit which, char *out, size_t cap)
{
	const struct auth_limits *l = &k->limits;
	if (which == AUTH_LIMIT_REQUESTS)
		snprintf(out, cap, "Rate limit reached for key %s: %u requests a minute.", k->name,
			l->requests);
	else if (which == AUTH_LIMIT_TOKENS)
		snprintf(out, cap,
			"Rate limit reached for key %s: %llu tokens a minute, of prompts and answers.",
			k->name, (unsigned long long)l->tokens);
	else
		snprintf(out, cap, "Rate limit reached for key %s: %u requests at the same time.", k->name,
			l->concurrent);
	return out;
}

bool gate_limits(struct data_loop *d, struct http_exchange *x, const char *id, struct auth_key *k)
{
	static const char *const reasons[] = { "", "key_requests", "key_tokens", "key_concurrent" };
	int64_t after = 0;
	char text[256];
	if (!k || !auth_limited(&k->limits))
		return false;
	mono_t now = mono_now();
	enum auth_limit which = auth_key_begin(k, now, &after);
	if (which == AUTH_LIMIT_NONE)
		return false;
	AUTO(buf_done) struct buf block = BUF(2 * KIB);
	auth_limit_headers(k, now, &block);
	metric_inc(metrics_series(
		d->orch->metrics, "corral_admission_rejected_total", "", reasons[which], NULL));
	struct api_error e = { .code = CODE_QUOTA_EXCEEDED,
		.retriable = 1,
		.retry_after_ms = after,
		.message = view_str(limit_text(k, which, text, sizeof text)),
		.hint = VIEW("Wait as long as Retry-After says; whoever runs the server sets the limit.") };
	refuse(x, id, &e, buf_str(&block));
	return true;
}

/* ---- models ---------------------------------------------------------------------------------------------
 */

bool gate_may_use(const struct models *m, const struct auth_key *k, const struct pool *p)
{
	for (size_t i = 0; k && i < k->models.len; i++)
		if (map_gets(&m->by_name, k->models.items[i]) == p)
			return true;
	return !k || !k->models.len;
}

void gate_note_model(struct data_loop *d)
{
	metric_inc(metrics_series(d->orch->metrics, "corral_auth_failures_total", "model", NULL));
}
