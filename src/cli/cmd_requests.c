/* SPDX-License-Identifier: Apache-2.0
 *
 * corral requests [-f] [--slow] [--pool P] [-n N] · corral requests cancel ID
 *
 * -f asks again each second, by a timer: the daemon tells of states, not of requests, on /v1/events, and a
 * poll costs it one copy of what it has in memory.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/map.h"
#include "base/num.h"
#include "cli/cli_int.h"

enum { POLL_MS = 1000, ENDED_DEFAULT = 20, ENDED_MAX = 1000 };

struct requests_args {
	bool follow, slow;
	const char *pool;
	uint64_t ended;
};

static int on_option(void *arg, int opt, const char *value)
{
	struct requests_args *a = arg;
	switch (opt) {
	case 'f': a->follow = true; return 0;
	case 's': a->slow = true; return 0;
	case 'p': a->pool = value; return 0;
	default: break;
	}
	if (num_u64(view_str(value), &a->ended) == 0 && a->ended <= ENDED_MAX)
		return 0;
	complain("requests: -n takes a number up to %d, found \"%.40s\"", ENDED_MAX, value);
	return CLI_USAGE;
}

/* ---- rows -------------------------------------------------------------------------------------------------
 */

enum { COLUMNS = 10, CELL_MAX = 128 };
static const char *const heading[COLUMNS] = { "AGE", "ID", "POOL", "REPLICA", "STATE", "QUEUE", "FIRST TOKEN",
	"TOKENS/S", "STATUS", "OUTCOME" };
static const int widths[COLUMNS] = { 8, 12, 12, 14, 9, 9, 11, 8, 6, 0 }; /* where rows come one by one */

static const char *str_of(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	return yyjson_is_str(v) ? yyjson_get_str(v) : "";
}

/* -1 for null. */
static double num_of(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	return yyjson_is_num(v) ? yyjson_get_num(v) : -1;
}

static void time_cell(char out[CELL_MAX], double ms)
{
	out[0] = '\0';
	if (ms >= 0 && ms < 1e15)
		num_format_duration((int64_t)ms, out, CELL_MAX);
}

static void number_cell(char out[CELL_MAX], double n)
{
	out[0] = '\0';
	if (n >= 0)
		snprintf(out, CELL_MAX, n < 100 ? "%.1f" : "%.0f", n);
}

static void row_cells(yyjson_val *r, char out[COLUMNS][CELL_MAX])
{
	double queue = num_of(r, "queue_ms"), load = num_of(r, "load_ms");
	const char *outcome = str_of(r, "outcome"), *waited_for = str_of(r, "waited_for");
	time_cell(out[0], num_of(r, "age_ms"));
	snprintf(out[1], CELL_MAX, "%s", str_of(r, "id"));
	snprintf(out[2], CELL_MAX, "%s", str_of(r, "pool"));
	snprintf(out[3], CELL_MAX, "%s", str_of(r, "replica"));
	snprintf(out[4], CELL_MAX, "%s", str_of(r, "state"));
	time_cell(out[5], queue < 0 ? -1 : queue + (load > 0 ? load : 0));
	time_cell(out[6], num_of(r, "first_token_ms"));
	number_cell(out[7], num_of(r, "tokens_per_s"));
	number_cell(out[8], -1);
	if (num_of(r, "status") >= 0)
		snprintf(out[8], CELL_MAX, "%.0f", num_of(r, "status"));
	snprintf(out[9], CELL_MAX, "%s%s", *outcome || !*waited_for ? "" : "waits: ",
		*outcome                       ? outcome
		: str_of(r, "state")[0] == 'q' ? waited_for
					       : "");
}

static yyjson_val *requests_of(yyjson_doc *d)
{
	yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(d), "requests");
	return yyjson_is_arr(list) ? list : NULL;
}

int requests_table(struct view body, bool color, struct buf *out)
{
	AUTO(table_done) struct table t = { .columns = COLUMNS };
	char cells[COLUMNS][CELL_MAX];
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *list = requests_of(d);
	for (size_t i = 0; i < COLUMNS; i++)
		table_add(&t, "%s", heading[i]);
	for (size_t i = yyjson_arr_size(list); i-- > 0;) { /* the newest last */
		row_cells(yyjson_arr_get(list, i), cells);
		for (size_t k = 0; k < COLUMNS; k++)
			table_add(&t, "%s", cells[k]);
	}
	if (list)
		table_print(&t, color, out);
	yyjson_doc_free(d);
	return list ? 0 : -EINVAL;
}

/* ---- following --------------------------------------------------------------------------------------------
 */

static void line_add(struct buf *out, const char *const cells[COLUMNS])
{
	for (size_t i = 0; i < COLUMNS; i++) {
		AUTO(buf_done) struct buf b = BUF(4 * KIB);
		clean_add(&b, view_str(*cells[i] ? cells[i] : "-"), false);
		(void)buf_addf(out, "%-*s%s", widths[i], buf_str(&b), i + 1 < COLUMNS ? "  " : "\n");
	}
}

static void add_change(yyjson_val *r, bool json, struct buf *out)
{
	char cells[COLUMNS][CELL_MAX];
	const char *at[COLUMNS];
	if (json) {
		char *text = yyjson_val_write(r, 0, NULL);
		(void)buf_addf(out, "%s\n", text ? text : "{}");
		free(text);
		return;
	}
	row_cells(r, cells);
	for (size_t i = 0; i < COLUMNS; i++)
		at[i] = cells[i];
	line_add(out, at);
}

/* The states there are, so that what is remembered of a request needs no copy. */
static const char *known_state(const char *s)
{
	static const char *const names[] = { "reading", "queued", "sent", "streaming", "finished" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (strcmp(names[i], s) == 0)
			return names[i];
	return "?";
}

/* Adds what is new or changed since the last answer, the oldest first; *seen is then this answer. */
int requests_changes(struct view body, struct map *seen, bool json, struct buf *out)
{
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *list = requests_of(d);
	struct map now;
	map_init(&now);
	for (size_t i = yyjson_arr_size(list); i-- > 0;) {
		yyjson_val *r = yyjson_arr_get(list, i);
		const char *id = str_of(r, "id"), *state = known_state(str_of(r, "state"));
		if (map_gets(seen, id) != state)
			add_change(r, json, out);
		(void)map_put(&now, view_str(id), (void *)(uintptr_t)state);
	}
	map_done(seen);
	*seen = now;
	yyjson_doc_free(d);
	return list ? 0 : -EINVAL;
}

struct pause {
	struct loop *loop;
	bool interrupted;
};

static void pause_over(void *arg)
{
	loop_stop(((struct pause *)arg)->loop);
}

static void on_sigint(void *arg, int signo)
{
	struct pause *p = arg;
	(void)signo;
	p->interrupted = true;
	loop_stop(p->loop);
}

/* False: Ctrl-C. */
static bool until_next(struct api *a)
{
	struct pause p = { .loop = a->loop };
	struct loop_timer t = { 0 };
	struct loop_signal *sig = NULL;
	if (loop_signal_start(a->loop, &sig, SIGINT, on_sigint, &p))
		sig = NULL;
	loop_timer_start(a->loop, &t, POLL_MS, pause_over, &p);
	(void)loop_run(a->loop);
	loop_timer_stop(&t);
	loop_signal_stop(&sig);
	return !p.interrupted;
}

static int follow(struct cli *c, struct api *a, const char *path)
{
	AUTO(map_done) struct map seen;
	AUTO(buf_done) struct buf answer = BUF(API_BODY_MAX);
	AUTO(buf_done) struct buf out = BUF(4 * API_BODY_MAX);
	struct api_req req = { .method = "GET", .path = path, .interruptible = true };
	int http, r;
	map_init(&seen);
	if (!c->json)
		line_add(&out, heading);
	for (;;) {
		buf_reset(&answer);
		if ((r = api_call(a, &req, &answer, &http)) || !http)
			return r;
		if (requests_changes(buf_view(&answer), &seen, c->json, &out))
			return api_foreign();
		if ((r = say(&out)))
			return r;
		buf_reset(&out);
		if (!until_next(a))
			return CLI_OK;
	}
}

/* ---- the command ------------------------------------------------------------------------------------------
 */

static int cancel(struct cli *c, struct api *a, const char *id)
{
	AUTO(buf_done) struct buf path = BUF(8 * KIB);
	AUTO(buf_done) struct buf body = BUF(16);
	AUTO(buf_done) struct buf answer = BUF(64 * KIB);
	(void)buf_adds(&path, "/v1/requests/");
	path_add(&path, id);
	(void)buf_adds(&body, "{}");
	struct api_req req = { .method = "DELETE", .path = buf_str(&path), .body = &body };
	int http, r = api_call(a, &req, &answer, &http);
	if (r)
		return r;
	if (c->json) {
		(void)buf_addc(&answer, '\n');
		return say(&answer);
	}
	printf("Cancelled.\n");
	return CLI_OK;
}

int cmd_requests(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "follow", no_argument, NULL, 'f' },
		{ "slow", no_argument, NULL, 's' }, { "pool", required_argument, NULL, 'p' },
		{ "lines", required_argument, NULL, 'n' }, { 0 } };
	struct requests_args args = { .ended = ENDED_DEFAULT };
	struct options o = { .shorts = "fn:", .longs = longs, .fn = on_option, .arg = &args, .max = 2 };
	AUTO(buf_done) struct buf path = BUF(8 * KIB);
	struct api a;
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	int left = argc - first;
	if (left && (left != 2 || strcmp(argv[first], "cancel") != 0)) {
		complain("requests: \"%.40s\" is not understood; there is: corral requests cancel ID",
			argv[first]);
		hint("corral requests --help");
		return CLI_USAGE;
	}
	if ((status = api_open(c, &a)))
		return status;
	(void)buf_addf(&path, "/v1/requests?limit=%llu%s", (unsigned long long)args.ended,
		args.slow ? "&slow=1" : "");
	if (args.pool) {
		(void)buf_adds(&path, "&pool=");
		path_add(&path, args.pool);
	}
	if (left)
		status = cancel(c, &a, argv[first + 1]);
	else
		status = args.follow
				 ? follow(c, &a, buf_str(&path))
				 : api_show(c, &a, buf_str(&path), requests_table, 4 * (size_t)API_BODY_MAX);
	api_close(&a);
	return status;
}
