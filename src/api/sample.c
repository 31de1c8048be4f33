/* SPDX-License-Identifier: Apache-2.0
 *
 * A pool's sample, over the daemon's own socket: it waits its turn, is seen in /v1/requests and takes no slot
 * that somebody was promised.
 */
#include <string.h>

#include "api/engines_int.h"

struct http_fetch *round_sample(struct http_target *self, const char *pool, http_fetch_fn *fn, void *arg)
{
	AUTO(buf_done) struct buf body = BUF(8 * KIB);
	sample_request(pool, &body);
	struct http_fetch_req q = { .method = "POST",
		.path = "/v1/chat/completions",
		.content_type = "application/json",
		.body = buf_view(&body),
		.timeout_ms = SAMPLE_MS };
	return http_fetch(self, &q, fn, arg);
}

static void add_number(struct buf *b, const char *key, double v)
{
	(void)(v > 0 ? buf_addf(b, ",\"%s\":%.1f", key, v) : buf_addf(b, ",\"%s\":null", key));
}

void round_compare(const char *pool, const struct sample *was, const struct sample *now,
	const uint64_t bytes[2], struct buf *ret)
{
	AUTO(buf_done) struct buf text = BUF(8 * KIB);
	bool both = was->answered && now->answered;
	sample_compare(was, now, bytes, &text);
	(void)buf_adds(ret, "{\"pool\":");
	(void)buf_add_json(ret, view_str(pool));
	(void)buf_addf(ret, ",\"same\":%s",
		!both                               ? "null"
		: strcmp(was->text, now->text) == 0 ? "true"
						    : "false");
	add_number(ret, "tokens_per_s_before", was->per_s);
	add_number(ret, "tokens_per_s_now", now->per_s);
	(void)buf_addf(ret,
		",\"bytes_before\":%llu,\"bytes_now\":%llu,\"text\":", (unsigned long long)bytes[0],
		(unsigned long long)bytes[1]);
	(void)buf_add_json(ret, buf_view(&text));
	(void)buf_addc(ret, '}');
}
