/* SPDX-License-Identifier: Apache-2.0
 *
 * corral start | stop | restart | drain | undrain | disable | enable POOL
 */
#include <stdio.h>
#include <yyjson.h>

#include "base/num.h"
#include "cli/cli_int.h"

enum { OPT_DEADLINE = 1, DEADLINE_MS = 30000, DEADLINE_MAX_MS = 24 * 3600 * 1000, ANSWER_SLACK_MS = 60000 };

static int on_option(void *arg, int opt, const char *value)
{
	int64_t *ms = arg;
	(void)opt;
	if (num_duration_ms(view_str(value), ms) == 0 && *ms <= DEADLINE_MAX_MS)
		return 0;
	complain("--deadline: found \"%.40s\"; accepted: a duration up to 24h, as in 30s or 5m", value);
	return CLI_USAGE;
}

static bool takes_deadline(const char *verb)
{
	return strcmp(verb, "stop") == 0 || strcmp(verb, "drain") == 0 || strcmp(verb, "disable") == 0;
}

static void sentence(const char *verb, const char *pool, struct view answer, struct buf *out)
{
	static const struct {
		const char *verb, *says;
	} words[] = { { "start", "is being started" },
		{ "stop", "is being stopped; the next request starts it again" },
		{ "restart", "is being restarted" }, { "drain", "is drained" },
		{ "undrain", "takes requests again" },
		{ "disable", "is disabled until `corral enable`, also over a restart" },
		{ "enable", "is enabled: the next request starts it" } };
	const char *says = "done";
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (strcmp(words[i].verb, verb) == 0)
			says = words[i].says;
	buf_addf(out, "%s %s", pool, says);
	yyjson_doc *doc = yyjson_read(answer.n ? answer.p : "", answer.n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc), *ms = yyjson_obj_get(root, "duration_ms");
	if (yyjson_is_int(ms)) {
		char took[32];
		num_format_duration(yyjson_get_sint(ms), took, sizeof took);
		buf_addf(out, " after %s", took);
		if (yyjson_get_bool(yyjson_obj_get(root, "force_stopped")))
			buf_addf(out, ", with %lld requests cut off",
				(long long)yyjson_get_sint(yyjson_obj_get(root, "final_lease_count")));
	}
	yyjson_val *kept = yyjson_obj_get(root, "kept");
	if (kept && !yyjson_get_bool(kept))
		buf_adds(out, ", until corral ends: its state_dir cannot be written now");
	yyjson_doc_free(doc);
	buf_adds(out, ".\n");
}

static int call(struct cli *c, const char *verb, const char *pool, int64_t deadline_ms)
{
	struct api a;
	AUTO(buf_done) struct buf path = BUF(8 * KIB);
	AUTO(buf_done) struct buf body = BUF(256);
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf out = BUF(64 * KIB);
	bool waits = takes_deadline(verb);
	int http, r = api_open(c, &a);
	if (r)
		return r;
	buf_adds(&path, "/v1/pools/");
	path_add(&path, pool);
	buf_addf(&path, "/%s", verb);
	if (waits)
		buf_addf(&body, "{\"deadline_ms\":%lld}", (long long)deadline_ms);
	else
		buf_adds(&body, "{}");
	struct api_req req = { .method = "POST",
		.path = buf_str(&path),
		.body = &body,
		.timeout_ms = waits ? deadline_ms + ANSWER_SLACK_MS : 0 };
	r = api_call(&a, &req, &answer, &http);
	api_close(&a);
	if (r)
		return r;
	if (c->json)
		buf_addf(&out, "%s\n", answer.len ? buf_str(&answer) : "{}");
	else
		sentence(verb, pool, buf_view(&answer), &out);
	return say(&out);
}

int cmd_control(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "deadline", required_argument, NULL, OPT_DEADLINE }, { 0 } };
	bool waits = takes_deadline(cmd->name);
	int64_t deadline_ms = DEADLINE_MS;
	struct options o = {
		.longs = waits ? longs : NULL, .fn = on_option, .arg = &deadline_ms, .min = 1, .max = 1
	};
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	return call(c, cmd->name, argv[first], deadline_ms);
}
