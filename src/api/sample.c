/* SPDX-License-Identifier: Apache-2.0
 *
 * One short greedy answer of a pool, asked as anybody asks: over the daemon's own socket, so that it waits
 * its turn, is seen in /v1/requests and takes no slot that somebody was promised. And two of them compared.
 */
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "api/engines_int.h"
#include "base/mem.h"
#include "base/num.h"

enum { TOKENS = 32, ANSWER_MS = 10 * 60 * 1000 };

void sample_done(struct sample *s)
{
	free(s->text);
	*s = (struct sample){ 0 };
}

struct http_fetch *sample_ask(struct http_target *self, const char *pool, http_fetch_fn *fn, void *arg)
{
	AUTO(buf_done) struct buf body = BUF(8 * KIB);
	(void)buf_adds(&body, "{\"model\":");
	(void)buf_add_json(&body, view_str(pool));
	(void)buf_addf(&body,
		",\"messages\":[{\"role\":\"user\",\"content\":\"Count from one to fifty, in words.\"}],"
		"\"temperature\":0,\"seed\":1,\"cache_prompt\":false,\"max_tokens\":%d}",
		(int)TOKENS);
	struct http_fetch_req q = { .method = "POST",
		.path = "/v1/chat/completions",
		.content_type = "application/json",
		.body = buf_view(&body),
		.timeout_ms = ANSWER_MS };
	return http_fetch(self, &q, fn, arg);
}

void sample_read(int status, struct view body, struct sample *s)
{
	yyjson_doc *doc = status == 200 && body.n ? yyjson_read(body.p, body.n, 0) : NULL;
	yyjson_val *root = yyjson_doc_get_root(doc);
	yyjson_val *first = yyjson_arr_get_first(yyjson_obj_get(root, "choices"));
	yyjson_val *message = yyjson_obj_get(first, "message"), *timings = yyjson_obj_get(root, "timings");
	const char *text = yyjson_get_str(yyjson_obj_get(message, "content"));
	const char *reasoning = yyjson_get_str(yyjson_obj_get(message, "reasoning_content"));
	sample_done(s);
	s->asked = true;
	s->answered = message != NULL;
	s->text = mem_fmt("%s%s", reasoning ? reasoning : "", text ? text : "");
	s->per_s = yyjson_get_num(yyjson_obj_get(timings, "predicted_per_second"));
	yyjson_doc_free(doc);
}

static void say_sizes(const uint64_t bytes[2], struct buf *b)
{
	char before[32], after[32];
	num_format_bytes(bytes[0], before, sizeof before);
	num_format_bytes(bytes[1], after, sizeof after);
	if (bytes[0] && bytes[1])
		(void)buf_addf(b, "%s on disk before, %s now; ", before, after);
	else if (bytes[1])
		(void)buf_addf(b, "%s on disk; ", after);
}

static size_t say_words(const struct sample *was, const struct sample *now, struct buf *b)
{
	size_t same = 0;
	while (was->text[same] && was->text[same] == now->text[same])
		same++;
	if (strcmp(was->text, now->text) == 0)
		(void)buf_addf(b, "the same %zu bytes for the first %d greedy tokens", same, (int)TOKENS);
	else
		(void)buf_addf(b, "the first %d greedy tokens differ from byte %zu on", (int)TOKENS, same);
	return same;
}

static void add_number(struct buf *b, const char *key, double v)
{
	(void)(v > 0 ? buf_addf(b, ",\"%s\":%.1f", key, v) : buf_addf(b, ",\"%s\":null", key));
}

void sample_compare(const char *pool, const struct sample *was, const struct sample *now,
	const uint64_t bytes[2], struct buf *ret)
{
	AUTO(buf_done) struct buf text = BUF(8 * KIB);
	bool both = was->answered && now->answered;
	if (both && was->per_s > 0 && now->per_s > 0)
		(void)buf_addf(&text, "%.1f tokens/s before, %.1f now (%+.0f %%); ", was->per_s, now->per_s,
			(now->per_s / was->per_s - 1) * 100);
	say_sizes(bytes, &text);
	if (both)
		(void)say_words(was, now, &text);
	else
		(void)buf_adds(&text,
			!was->asked ? "no engine ran before: there is nothing to compare with; the new "
				      "one answers"
				    : "it answered no chat before: there is nothing to compare with");
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
