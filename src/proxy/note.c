/* SPDX-License-Identifier: Apache-2.0
 *
 * The one line each request leaves in the log. The data loop copies what it tells; the log's thread makes the
 * line, and since that is done for every request, the JSON form is written out here and not field by field.
 */
#include <string.h>

#include "base/mem.h"
#include "log/log.h"
#include "proxy/proxy_int.h"

enum { TEXT_MAX = PROXY_REQUEST_ID_MAX + 2 * POOL_ID_MAX + AUTH_NAME_MAX + 4 };

struct note {
	const char *route, *outcome, *code; /* constants; code may be NULL */
	int64_t wall_ms, duration_ms, queue_ms, first_byte_ms;
	uint64_t bytes_in, bytes_out;
	int status, attempts;
	uint8_t id, pool, replica,
		key; /* lengths with the NUL, one after the other in text; 0: there is none */
	char text[TEXT_MAX];
};
static_assert(sizeof(struct note) <= LOG_LATER_MAX, "a note fits into the log's queue");

static struct view text_of(const struct note *n, size_t from, size_t with_nul)
{
	return with_nul ? view_of(n->text + from, with_nul - 1) : (struct view){ NULL, 0 };
}

static struct view id_of(const struct note *n)
{
	return text_of(n, 0, n->id);
}

static struct view pool_of(const struct note *n)
{
	return text_of(n, n->id, n->pool);
}

static struct view replica_of(const struct note *n)
{
	return text_of(n, (size_t)n->id + n->pool, n->replica);
}

static struct view key_of(const struct note *n)
{
	return text_of(n, (size_t)n->id + n->pool + n->replica, n->key);
}

/* Bytes of text that are used. */
static size_t text_len(const struct note *n)
{
	return (size_t)n->id + n->pool + n->replica + n->key;
}

static void general_line(const struct note *n, const struct log_how *how, struct buf *line)
{
	AUTO(mem_freep) char *human = mem_fmt("A request on %s ends: %s.", n->route, n->outcome);
	const char *const about[2] = { "request", n->route };
	log_line(line, how, LOG_INFO, n->wall_ms, about, view_str(human),
		(struct log_field[]){ LOG_VIEW("correlation_id", id_of(n)), LOG_VIEW("pool_id", pool_of(n)),
			LOG_VIEW("replica_id", replica_of(n)), LOG_VIEW("key_name", key_of(n)),
			LOG_INT("status", n->status), LOG_STR("outcome", n->outcome),
			LOG_STR("error_code", n->code), LOG_INT("duration_ms", n->duration_ms),
			LOG_INT("queue_ms", n->queue_ms), LOG_INT("first_byte_ms", n->first_byte_ms),
			LOG_UINT("bytes_in", n->bytes_in), LOG_UINT("bytes_out", n->bytes_out),
			LOG_INT("attempts", n->attempts), LOG_END });
}

static void add_number(struct buf *b, struct view key, int64_t v)
{
	(void)buf_addv(b, key);
	if (v < 0)
		(void)buf_addc(b, '-');
	(void)buf_add_u64(b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

/* Ids of ours, names of keys and constants have nothing to escape. */
static void add_plain(struct buf *b, struct view key, struct view v)
{
	if (!v.p)
		return;
	(void)buf_addv(b, key);
	(void)buf_addv(b, v);
	(void)buf_addc(b, '"');
}

/* A client's id has nothing to escape either (proxy_request_id), but may hold a secret. */
static void add_id(struct buf *b, struct view id)
{
	(void)buf_addv(b, VIEW("\",\"correlation_id\":\""));
	bool plain = true;
	for (size_t i = 0; plain && i < id.n; i++)
		plain = id.p[i] == '-' || (id.p[i] >= '0' && id.p[i] <= '9') ||
			(id.p[i] >= 'a' && id.p[i] <= 'f');
	if (plain)
		(void)buf_addv(b, id);
	else
		(void)log_redact(b, id);
	(void)buf_addc(b, '"');
}

static struct view now_text(int64_t wall_ms)
{
	static _Thread_local char text[WALL_STR_LEN + 1]; /* of that second; only its milliseconds change */
	static _Thread_local int64_t second = -1;
	if (wall_ms / 1000 != second) {
		wall_format(wall_ms, text);
		second = wall_ms / 1000;
	}
	int ms = (int)(wall_ms % 1000);
	text[20] = (char)('0' + ms / 100);
	text[21] = (char)('0' + ms / 10 % 10);
	text[22] = (char)('0' + ms % 10);
	return view_of(text, WALL_STR_LEN);
}

static void json_line(const struct note *n, const struct log_how *how, struct buf *b)
{
	struct view route = view_str(n->route), outcome = view_str(n->outcome);
	(void)buf_addv(b, VIEW("{\"ts\":\""));
	(void)buf_addv(b, now_text(n->wall_ms));
	(void)buf_addv(b, VIEW("\",\"level\":\"info\",\"actor\":\""));
	(void)buf_adds(b, how->actor);
	(void)buf_addv(b, VIEW("\",\"action\":\"request\",\"target\":\""));
	(void)buf_addv(b, route);
	(void)buf_addv(b, VIEW("\",\"human\":\"A request on "));
	(void)buf_addv(b, route);
	(void)buf_addv(b, VIEW(" ends: "));
	(void)buf_addv(b, outcome);
	(void)buf_addc(b, '.');
	add_id(b, id_of(n));
	add_plain(b, VIEW(",\"pool_id\":\""), pool_of(n));
	add_plain(b, VIEW(",\"replica_id\":\""), replica_of(n));
	add_plain(b, VIEW(",\"key_name\":\""), key_of(n));
	add_number(b, VIEW(",\"status\":"), n->status);
	add_plain(b, VIEW(",\"outcome\":\""), outcome);
	add_plain(b, VIEW(",\"error_code\":\""), n->code ? view_str(n->code) : (struct view){ NULL, 0 });
	add_number(b, VIEW(",\"duration_ms\":"), n->duration_ms);
	add_number(b, VIEW(",\"queue_ms\":"), n->queue_ms);
	add_number(b, VIEW(",\"first_byte_ms\":"), n->first_byte_ms);
	add_number(b, VIEW(",\"bytes_in\":"), (int64_t)n->bytes_in);
	add_number(b, VIEW(",\"bytes_out\":"), (int64_t)n->bytes_out);
	add_number(b, VIEW(",\"attempts\":"), n->attempts);
	(void)buf_addv(b, VIEW("}\n"));
}

static void make_line(const void *data, const struct log_how *how, struct buf *line)
{
	struct note n; /* data may be shorter than one: its text is cut off behind what is used */
	memcpy(&n, data, offsetof(struct note, text));
	memcpy(n.text, (const char *)data + offsetof(struct note, text), text_len(&n));
	if (how->console)
		general_line(&n, how, line);
	else
		json_line(&n, how, line);
}

static uint8_t add_text(struct note *n, size_t from, const char *s)
{
	if (!s)
		return 0;
	size_t len = strlen(s) + 1;
	memcpy(n->text + from, s, len);
	return (uint8_t)len;
}

void note_request(const struct request *q, int status, const char *outcome, mono_t now)
{
	if (!log_enabled(LOG_INFO))
		return;
	struct note n;
	memset(&n, 0, offsetof(struct note, text));
	n.route = q->route.name;
	n.outcome = outcome;
	n.code = q->code ? corral_code_name(q->code) : NULL;
	n.duration_ms = mono_ms_between(q->arrived, now);
	n.wall_ms = q->life.received_ms + n.duration_ms;
	n.queue_ms = q->waited && q->granted.ns ? mono_ms_between(q->queued, q->granted) : 0;
	n.first_byte_ms = q->first_byte.ns ? mono_ms_between(q->arrived, q->first_byte) : -1;
	n.bytes_in = spool_size(&q->spool);
	n.bytes_out = q->bytes_out;
	n.status = status;
	n.attempts = q->attempts;
	n.id = add_text(&n, 0, q->id);
	n.pool = add_text(&n, n.id, q->pool ? pool_id(q->pool) : NULL);
	n.replica = add_text(&n, (size_t)n.id + n.pool, q->replica ? q->replica->id : NULL);
	n.key = add_text(&n, text_len(&n), q->key ? q->key->name : NULL);
	log_later(LOG_INFO, make_line, &n, offsetof(struct note, text) + text_len(&n));
}
