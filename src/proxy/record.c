/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/record.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

struct req_records {
	pthread_mutex_t lock;
	/* under lock */
	uint64_t n; /* ever added; number k is at place k % REQ_RECORDS_KEPT */
	struct req_record at[REQ_RECORDS_KEPT];
};
static_assert(sizeof(struct req_record) <= 1200, "a record's size is what record.h states");

static const char *const state_names[] = { "reading", "queued", "sent", "streaming", "finished" };
static_assert(ARRAY_LEN(state_names) == REQ_RECORD_STATES, "one name a state");

const char *req_record_state_name(enum req_record_state s)
{
	return state_names[s];
}

bool req_record_state_of(struct view name, enum req_record_state *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(state_names); i++) {
		if (!view_eqs(name, state_names[i]))
			continue;
		*ret = (enum req_record_state)i;
		return true;
	}
	return false;
}

struct req_records *req_records_new(void)
{
	struct req_records *rs = NEW(struct req_records);
	pthread_mutex_init(&rs->lock, NULL);
	return rs;
}

void req_records_free(struct req_records *rs)
{
	if (!rs)
		return;
	pthread_mutex_destroy(&rs->lock);
	free(rs);
}

struct req_record *req_records_begin(struct req_records *rs)
{
	pthread_mutex_lock(&rs->lock);
	return &rs->at[rs->n++ % REQ_RECORDS_KEPT];
}

void req_records_end(struct req_records *rs)
{
	pthread_mutex_unlock(&rs->lock);
}

void req_records_add(struct req_records *rs, const struct req_record *r)
{
	*req_records_begin(rs) = *r;
	req_records_end(rs);
}

/* A few at a time, so that no data loop waits for a thousand copies. Going back from the newest, those that
 * are overwritten meanwhile are the ones at the end. */
size_t req_records_copy(struct req_records *rs, struct req_record *out)
{
	enum { AT_ONCE = 32 };
	size_t n = 0;
	uint64_t next = 0;
	for (bool more = true, first = true; more; first = false) {
		pthread_mutex_lock(&rs->lock);
		next = first ? rs->n : next;
		uint64_t oldest = rs->n > REQ_RECORDS_KEPT ? rs->n - REQ_RECORDS_KEPT : 0;
		for (int i = 0; i < AT_ONCE && next > oldest; i++)
			out[n++] = rs->at[--next % REQ_RECORDS_KEPT];
		more = next > oldest;
		pthread_mutex_unlock(&rs->lock);
	}
	return n;
}

/* ---- the pool's usual ---------------------------------------------------------------------------------- */

double req_record_duration_ms(const struct req_record *r)
{
	return (double)(r->ended.ns - r->arrived.ns) / 1e6;
}

struct req_record_usual req_record_usual(const struct req_record *all, size_t n, const char *pool)
{
	struct req_record_usual u = { .duration_ms = -1, .tokens_per_s = -1 };
	double ms = 0, speed = 0;
	for (size_t i = 0; i < n; i++) {
		const struct req_record *r = &all[i];
		if (r->state != REQ_RECORD_FINISHED || r->status < 200 || r->status > 299 || r->code ||
			!*r->pool || strcmp(r->pool, pool) != 0)
			continue;
		u.n++;
		ms += req_record_duration_ms(r);
		u.n_speed += r->tokens_per_s >= 0;
		speed += MAX(r->tokens_per_s, 0.0);
	}
	if (u.n)
		u.duration_ms = ms / (double)u.n;
	if (u.n_speed)
		u.tokens_per_s = speed / (double)u.n_speed;
	return u;
}

bool req_record_is_slow(const struct req_record *r, const struct req_record_usual *u)
{
	if (u->duration_ms >= 0 && req_record_duration_ms(r) > 2 * u->duration_ms)
		return true;
	return u->tokens_per_s >= 0 && r->tokens_per_s >= 0 && r->tokens_per_s < u->tokens_per_s / 2;
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

static void add_text(struct buf *b, const char *key, const char *text)
{
	(void)buf_addf(b, ",\"%s\":", key);
	if (text && *text)
		(void)buf_add_json(b, view_str(text));
	else
		(void)buf_adds(b, "null");
}

static void add_real(struct buf *b, const char *key, double v)
{
	if (v >= 0)
		(void)buf_addf(b, ",\"%s\":%.1f", key, v);
	else
		(void)buf_addf(b, ",\"%s\":null", key);
}

static void add_count(struct buf *b, const char *key, int64_t v)
{
	if (v >= 0)
		(void)buf_addf(b, ",\"%s\":%lld", key, (long long)v);
	else
		(void)buf_addf(b, ",\"%s\":null", key);
}

void req_record_json(const struct req_record *r, const struct req_record_usual *u, mono_t now, struct buf *b)
{
	char at[WALL_STR_LEN + 1];
	wall_format(r->received_ms, at);
	(void)buf_addf(b, "{\"id\":\"%s\"", r->id);
	add_text(b, "correlation_id", r->correlation_id);
	add_text(b, "route", r->route);
	add_text(b, "model", r->model);
	add_text(b, "pool", r->pool);
	add_text(b, "replica", r->replica);
	add_text(b, "device", r->device);
	add_text(b, "state", req_record_state_name(r->state));
	add_text(b, "client", r->client);
	add_text(b, "key", r->key);
	add_text(b, "received_at", at);
	add_count(b, "age_ms", MAX(mono_ms_between(r->arrived, now), (int64_t)0));
	add_real(b, "duration_ms", req_record_duration_ms(r));
	add_real(b, "queue_ms", r->queue_ms);
	add_real(b, "load_ms", r->load_ms);
	add_text(b, "waited_for", r->waited_for);
	add_real(b, "engine_ms", r->engine_ms);
	add_real(b, "prefill_ms", r->prefill_ms);
	add_real(b, "first_token_ms", r->first_token_ms);
	add_count(b, "prompt_tokens", r->prompt_tokens);
	add_count(b, "cached_tokens", r->cached_tokens);
	add_count(b, "output_tokens", r->output_tokens);
	add_text(b, "tokens_from", r->output_tokens < 0 ? NULL : r->counted ? "events" : "usage");
	add_real(b, "tokens_per_s", r->tokens_per_s);
	add_real(b, "usual_tokens_per_s", u->tokens_per_s);
	add_real(b, "usual_duration_ms", u->duration_ms);
	add_count(b, "retries", r->retries);
	add_count(b, "status", r->status ? r->status : -1);
	add_text(b, "outcome", r->outcome);
	add_text(b, "error_code", r->code ? corral_code_name(r->code) : NULL);
	(void)buf_addc(b, '}');
}
