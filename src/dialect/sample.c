/* SPDX-License-Identifier: Apache-2.0 */
#include "dialect/sample.h"

#include <stdlib.h>
#include <yyjson.h>

#include "base/mem.h"
#include "base/num.h"

void sample_done(struct sample *s)
{
	free(s->text);
	*s = (struct sample){ 0 };
}

void sample_request(const char *pool, struct buf *ret)
{
	(void)buf_adds(ret, "{\"model\":");
	(void)buf_add_json(ret, view_str(pool));
	(void)buf_addf(ret,
		",\"messages\":[{\"role\":\"user\",\"content\":\"Count from one to fifty, in words.\"}],"
		"\"temperature\":0,\"seed\":1,\"cache_prompt\":false,\"max_tokens\":%d}",
		(int)SAMPLE_TOKENS);
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
	s->status = status;
	s->answered = message != NULL;
	s->text = mem_fmt("%s%s", reasoning ? reasoning : "", text ? text : "");
	s->per_s = yyjson_get_num(yyjson_obj_get(timings, "predicted_per_second"));
	yyjson_doc_free(doc);
}

bool sample_busy(const struct sample *s)
{
	return s->status == 429 || s->status == 503;
}

bool sample_declined(const struct sample *s)
{
	return s->status == 501 || (s->status >= 400 && s->status < 500 && s->status != 429);
}

static const char *why_not_compared(const struct sample *was, const struct sample *now)
{
	if (sample_busy(now))
		return "the pool is too busy to be asked: nothing is compared";
	if (was->asked)
		return "it answered no chat before: there is nothing to compare with";
	return now->answered ? "no engine ran before: there is nothing to compare with; the new one answers"
			     : "it takes no chat: there is nothing to compare with";
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

static void say_words(const struct sample *was, const struct sample *now, struct buf *b)
{
	size_t same = 0;
	while (was->text[same] && was->text[same] == now->text[same])
		same++;
	if (strcmp(was->text, now->text) == 0)
		(void)buf_addf(
			b, "the same %zu bytes for the first %d greedy tokens", same, (int)SAMPLE_TOKENS);
	else
		(void)buf_addf(
			b, "the first %d greedy tokens differ from byte %zu on", (int)SAMPLE_TOKENS, same);
}

void sample_compare(
	const struct sample *was, const struct sample *now, const uint64_t bytes[2], struct buf *ret)
{
	bool both = was->answered && now->answered;
	if (both && was->per_s > 0 && now->per_s > 0)
		(void)buf_addf(ret, "%.1f tokens/s before, %.1f now (%+.0f %%); ", was->per_s, now->per_s,
			(now->per_s / was->per_s - 1) * 100);
	say_sizes(bytes, ret);
	if (both)
		say_words(was, now, ret);
	else
		(void)buf_adds(ret, why_not_compared(was, now));
}
