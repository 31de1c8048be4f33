/* SPDX-License-Identifier: Apache-2.0 */
#include "report.h"

#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/utf8.h"

enum { PROGRESS_EVERY_MS = 100 };

static uint64_t meter_rate(struct meter *m, uint64_t bytes)
{
	mono_t now = mono_now();
	unsigned last = (m->next + METER_SAMPLES - 1) % METER_SAMPLES;
	if (!m->n || mono_ms_between(m->samples[last].at, now) >= METER_STEP_MS) {
		m->samples[m->next].at = now;
		m->samples[m->next].bytes = bytes;
		m->next = (m->next + 1) % METER_SAMPLES;
		m->n = MIN(m->n + 1, (unsigned)METER_SAMPLES);
	}
	unsigned first = (m->next + METER_SAMPLES - m->n) % METER_SAMPLES;
	int64_t ms = mono_ms_between(m->samples[first].at, now);
	uint64_t moved = bytes - MIN(bytes, m->samples[first].bytes);
	return ms > 0 ? moved * 1000 / (uint64_t)ms : 0;
}

bool report_is_due(const struct report *r)
{
	return mono_ms_between(r->said, mono_now()) >= PROGRESS_EVERY_MS;
}

/* A line is one write: nobody sees half of one. */
static void say(struct buf *b)
{
	if (buf_addc(b, '\n') || fd_write_all(STDOUT_FILENO, b->data, b->len))
		_exit(1); /* nobody hears us any more */
}

void report_progress(struct report *r, const struct progress *p)
{
	static const char *const phases[] = { "waiting", "fetching", "verifying", "unpacking" };
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	r->said = mono_now();
	uint64_t rate = meter_rate(&r->meter, r->moved), left = p->total - MIN(p->total, p->bytes);
	int64_t eta = p->total && rate ? (int64_t)MIN(left / rate, (uint64_t)INT64_MAX / 2000) * 1000 : -1;
	int e = buf_addf(&b,
		"{\"progress\":{\"phase\":\"%s\",\"bytes\":%llu,\"total\":%llu,\"rate\":%llu,\"eta_ms\":%lld,"
		"\"text\":",
		phases[p->phase], (unsigned long long)p->bytes, (unsigned long long)p->total,
		(unsigned long long)rate, (long long)eta);
	if (!e && !buf_add_json(&b, view_str(p->text)) && !buf_adds(&b, "}}"))
		say(&b);
}

void result_done(struct result *r)
{
	free(r->files);
	strv_done(&r->headers);
	buf_done(&r->text);
	free(r->url);
	*r = (struct result){ 0 };
}

static int add_found(struct buf *b, const struct found *f)
{
	return buf_adds(b, "{\"path\":") || buf_add_json(b, view_str(f->path)) ||
	       buf_adds(b, ",\"sha256\":") || buf_add_json(b, view_str(f->sha256)) ||
	       buf_addf(b, ",\"size\":%llu,\"bytes_fetched\":%llu,\"was_there\":%s}",
		       (unsigned long long)f->size, (unsigned long long)f->bytes_fetched,
		       f->was_there ? "true" : "false");
}

static int add_list(struct buf *b, const struct result *r)
{
	int e = buf_adds(b, ",\"files\":[");
	for (size_t i = 0; i < r->nfiles && !e; i++)
		e = (i ? buf_addc(b, ',') : 0) || add_found(b, &r->files[i]);
	e = e || buf_adds(b, "],\"headers\":[");
	for (size_t i = 0; i < r->headers.len && !e; i++)
		e = (i ? buf_addc(b, ',') : 0) || buf_add_json(b, view_str(r->headers.items[i]));
	return e || buf_addc(b, ']');
}

void report_result(const struct result *r, const struct fail *f)
{
	AUTO(buf_done) struct buf b = BUF(64 * MIB);
	int e = buf_addf(&b, "{\"result\":{\"why\":\"%s\",\"status\":%d,\"unpacked\":%llu",
		why_name(f ? f->why : WHY_OK), r->status, (unsigned long long)r->unpacked);
	if (f)
		e = e || buf_adds(&b, ",\"error\":") || buf_add_json(&b, view_str(f->msg));
	if (r->url)
		e = e || buf_adds(&b, ",\"url\":") || buf_add_json(&b, view_str(r->url));
	bool is_text = r->has_text && !memchr(buf_str(&r->text), '\0', r->text.len) &&
		       utf8_valid(buf_view(&r->text));
	if (is_text)
		e = e || buf_adds(&b, ",\"text\":") || buf_add_json(&b, buf_view(&r->text));
	if (!(e || add_list(&b, r) || buf_adds(&b, "}}")))
		say(&b);
}
