/* SPDX-License-Identifier: Apache-2.0
 *
 * What the proxy looks at in every body and every event, by itself: ns of CPU per call, the least of many
 * rounds. micro [NAME [CALLS]]: one row, or so many calls of it (for callgrind). Run by hand.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <yyjson.h>

#include "base/num.h"
#include "dialect/dialect.h"
#include "dialect/usage.h"

enum { ROUNDS = 200, BATCH = 1000, EVENTS = 16 };

static struct buf prose = BUF(64 * KIB);
static struct buf chat = BUF(64 * KIB), chinese = BUF(64 * KIB), agent = BUF(64 * KIB);
static struct buf event = BUF(4 * KIB), events = BUF(64 * KIB), lines = BUF(4 * KIB), last = BUF(4 * KIB);
static volatile uint64_t sink;

static int64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- what is looked at --------------------------------------------------------------------------------- */

static void fill(struct buf *b, const char *text, size_t until, const char *end)
{
	while (b->len < until)
		(void)buf_adds(b, text);
	(void)buf_adds(b, end);
}

static void make_inputs(void)
{
	(void)buf_adds(&prose, "{\"model\": \"chat\", \"messages\": [{\"role\": \"user\", \"content\": \"");
	fill(&prose,
		"The second paragraph says little and then goes on about the weather of the coast, the "
		"ships, "
		"and the long evenings of those who wait for them, until nobody listens. It ends as it "
		"began, with a question that was not asked, and an answer to another one.\\n\\n",
		1900, "\"}], \"stream\": true, \"max_tokens\": 256}");
	(void)buf_adds(&chat,
		"{\"model\":\"chat\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a "
		"helpful assistant. Answer briefly.\"},{\"role\":\"user\",\"content\":\"");
	fill(&chat,
		"The second paragraph says \\\"hold the line\\\" and then goes on about the weather of "
		"the coast, the ships, and the long evenings of those who wait for them.\\n\\n",
		1800,
		"\"}],\"temperature\":0.7,\"max_tokens\":256,\"stream\":true,\"user\":\"somebody\","
		"\"stream_options\":{\"include_usage\":true}}");
	(void)buf_adds(&chinese,
		"{\"model\":\"chat\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"");
	fill(&chinese, "海边的夜晚很长，等船的人说了很多话。\\n", 1950, "\"}]}");
	(void)buf_adds(&agent, "{\"model\":\"chat\",\"stream\":true,\"tools\":[{}");
	fill(&agent,
		",{\"type\":\"function\",\"function\":{\"name\":\"read_file\",\"description\":\"Reads a file "
		"of the project.\",\"parameters\":{\"type\":\"object\",\"properties\":{\"path\":{\"type\":"
		"\"string\"},\"from\":{\"type\":\"integer\"}},\"required\":[\"path\"]}}}",
		1900, "],\"messages\":[{\"role\":\"user\",\"content\":\"go on\"}]}");
	(void)buf_adds(&event,
		"data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\" "
		"word\"}}],\"created\":1764000000,\"id\":\"chatcmpl-abcdefghijklmnopqrstuvwxyz012345\","
		"\"model\":\"chat\",\"system_fingerprint\":\"b6700-abcdef01\",\"object\":"
		"\"chat.completion.chunk\"}\n\n");
	for (int i = 0; i < EVENTS; i++)
		(void)buf_addv(&events, buf_view(&event));
	(void)buf_adds(&lines,
		"{\"model\":\"chat\",\"created_at\":\"2026-01-01T00:00:00.000000Z\",\"message\":{"
		"\"role\":\"assistant\",\"content\":\" word\"},\"done\":false}\n");
	(void)buf_adds(&last,
		"data: {\"choices\":[],\"created\":1764000000,\"id\":\"chatcmpl-abcdefghijklmnopqrstuv"
		"wxyz012345\",\"model\":\"chat\",\"system_fingerprint\":\"b6700-abcdef01\",\"object\":"
		"\"chat.completion.chunk\",\"usage\":{\"completion_tokens\":12,\"prompt_tokens\":7,"
		"\"total_tokens\":19,\"prompt_tokens_details\":{\"cached_tokens\":3}},\"timings\":{"
		"\"cache_n\":3,\"prompt_n\":4,\"prompt_ms\":15.25,\"prompt_per_token_ms\":3.8,"
		"\"prompt_per_second\":262.1,\"predicted_n\":12,\"predicted_ms\":30.5,"
		"\"predicted_per_token_ms\":2.54,\"predicted_per_second\":393.75}}\n\n");
}

/* ---- the rows ------------------------------------------------------------------------------------------ */

static void scan(struct view v, size_t piece)
{
	struct body_scan s;
	body_scan_init(&s);
	for (size_t i = 0; i < v.n; i += piece)
		(void)body_scan_feed(&s, view_cut(view_from(v, i), piece));
	if (body_scan_end(&s))
		abort();
	sink += s.model_len;
}
static void scan_chat(void)
{
	scan(buf_view(&chat), SIZE_MAX / 2);
}
static void scan_prose(void)
{
	scan(buf_view(&prose), SIZE_MAX / 2);
}
static void scan_chat_cut(void)
{
	scan(buf_view(&chat), 700);
}
static void scan_chinese(void)
{
	scan(buf_view(&chinese), SIZE_MAX / 2);
}
static void scan_agent(void)
{
	scan(buf_view(&agent), SIZE_MAX / 2);
}
static void parse(struct view v)
{
	yyjson_doc *d = yyjson_read(v.p, v.n, 0);
	sink += yyjson_get_len(yyjson_obj_get(yyjson_doc_get_root(d), "model"));
	yyjson_doc_free(d);
}
static void parse_prose(void)
{
	parse(buf_view(&prose));
}
static void parse_chat(void)
{
	parse(buf_view(&chat));
}
static void parse_chinese(void)
{
	parse(buf_view(&chinese));
}
static void parse_agent(void)
{
	parse(buf_view(&agent));
}

static struct event_split split, split_lines;
static void split_one(void)
{
	sink += event_split_feed(&split, buf_view(&event));
}
static void split_many(void)
{
	sink += event_split_feed(&split, buf_view(&events));
}
static void split_line(void)
{
	sink += event_split_feed(&split_lines, buf_view(&lines));
}

static struct usage usage;
static void usage_event(void)
{
	(void)usage_read(&usage, buf_view(&event));
}
static struct usage_pieces pieces;
static void usage_same(void)
{
	usage_piece(&usage, &pieces, buf_view(&event), true);
}
static void usage_differs(void)
{
	pieces.end[0] = '\0';
	usage_piece(&usage, &pieces, buf_view(&event), true);
}
static void usage_last(void)
{
	(void)usage_read(&usage, buf_view(&last));
	if (usage_output(&usage) != 12)
		abort();
}

static const struct row {
	const char *name, *what;
	void (*run)(void);
	struct buf *of;
} rows[] = {
	{ "scan-prose", "body scanner, a long question", scan_prose, &prose },
	{ "scan-chat", "body scanner, chat, many escapes", scan_chat, &chat },
	{ "scan-chat-cut", "body scanner, chat, in pieces of 700", scan_chat_cut, &chat },
	{ "scan-chinese", "body scanner, not ASCII", scan_chinese, &chinese },
	{ "scan-agent", "body scanner, tools", scan_agent, &agent },
	{ "yyjson-prose", "yyjson, a long question", parse_prose, &prose },
	{ "yyjson-chat", "yyjson, chat", parse_chat, &chat },
	{ "yyjson-chinese", "yyjson, not ASCII", parse_chinese, &chinese },
	{ "yyjson-agent", "yyjson, tools", parse_agent, &agent },
	{ "split", "splitter, one event", split_one, &event },
	{ "split-16", "splitter, 16 events at once", split_many, &events },
	{ "split-line", "splitter, one NDJSON line", split_line, &lines },
	{ "usage-event", "usage read in an event without", usage_event, &event },
	{ "usage-same", "an event that ends as the one before", usage_same, &event },
	{ "usage-differs", "an event that ends otherwise", usage_differs, &event },
	{ "usage-last", "usage read in a last event", usage_last, &last },
};

static void measure(const struct row *r)
{
	int64_t least = INT64_MAX;
	for (int round = 0; round < ROUNDS; round++) {
		int64_t began = cpu_ns();
		for (int i = 0; i < BATCH; i++)
			r->run();
		int64_t ns = cpu_ns() - began;
		least = MIN(least, ns);
	}
	printf("%-16s %-40s %5zu bytes %8.1f ns\n", r->name, r->what, r->of->len, (double)least / BATCH);
}

int main(int argc, char **argv)
{
	uint64_t calls = 0;
	make_inputs();
	event_split_init(&split, EVENTS_SSE);
	event_split_init(&split_lines, EVENTS_NDJSON);
	usage_init(&usage);
	if (argc > 2 && num_u64(view_str(argv[2]), &calls))
		return 2;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (argc > 1 && strcmp(argv[1], rows[i].name) != 0)
			continue;
		for (uint64_t n = 0; n < calls; n++)
			rows[i].run();
		if (!calls)
			measure(&rows[i]);
	}
	return 0;
}
