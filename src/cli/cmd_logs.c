/* SPDX-License-Identifier: Apache-2.0
 *
 * corral logs POOL [-f] [-n N]
 */
#include <stdio.h>
#include <unistd.h>

#include "base/num.h"
#include "cli/cli_int.h"

enum { LINES_DEFAULT = 100, LINES_MAX = 1000000 };

struct logs_args {
	bool follow;
	uint64_t lines;
};

static int on_option(void *arg, int opt, const char *value)
{
	struct logs_args *a = arg;
	if (opt == 'f') {
		a->follow = true;
		return 0;
	}
	if (num_u64(view_str(value), &a->lines) == 0 && a->lines <= LINES_MAX)
		return 0;
	complain("logs: -n takes a number of lines up to %d, found \"%.40s\"", LINES_MAX, value);
	return CLI_USAGE;
}

/* Raw into a pipe or a file; on a terminal without what would drive it. */
static void on_data(void *arg, struct view bytes)
{
	const bool *terminal = arg;
	if (!*terminal) {
		(void)fwrite(bytes.p, 1, bytes.n, stdout);
	} else {
		AUTO(buf_done) struct buf b = BUF(bytes.n * 4 + 16);
		clean_add(&b, bytes, true);
		(void)say(&b);
	}
	(void)fflush(stdout);
}

int cmd_logs(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "follow", no_argument, NULL, 'f' },
		{ "lines", required_argument, NULL, 'n' }, { 0 } };
	struct logs_args args = { .lines = LINES_DEFAULT };
	struct options o = {
		.shorts = "fn:", .longs = longs, .fn = on_option, .arg = &args, .min = 1, .max = 1
	};
	AUTO(buf_done) struct buf path = BUF(8 * KIB);
	AUTO(buf_done) struct buf answer = BUF(1 * KIB);
	struct api a;
	int first, status, http;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	if ((status = api_open(c, &a)))
		return status;
	bool terminal = isatty(STDOUT_FILENO);
	buf_adds(&path, "/v1/pools/");
	path_add(&path, argv[first]);
	buf_addf(&path, "/logs?tail=%llu%s", (unsigned long long)args.lines, args.follow ? "&follow=1" : "");
	struct api_req req = { .method = "GET",
		.path = buf_str(&path),
		.timeout_ms = args.follow ? -1 : 0,
		.on_data = on_data,
		.arg = &terminal,
		.interruptible = args.follow };
	status = api_call(&a, &req, &answer, &http);
	api_close(&a);
	return status;
}
