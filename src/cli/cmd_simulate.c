/* SPDX-License-Identifier: Apache-2.0
 *
 * corral simulate: what a trace of requests would cost on these devices, by the policy it names and by first
 * come, first served. Virtual time; nothing is started.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "cli/cli_int.h"
#include "placement/trace.h"

enum { OPT_LOG = 1, TRACE_BYTES_MAX = 16 * 1024 * 1024 };

static int on_option(void *arg, int opt, const char *value)
{
	(void)opt;
	(void)value;
	*(bool *)arg = true;
	return 0;
}

static void add_time(struct table *t, int64_t ms)
{
	char text[32];
	num_format_duration(ms, text, sizeof text);
	table_add(t, "%s", text);
}

static void add_row(struct table *t, const char *name, const struct sim_result *r)
{
	table_add(t, "%s", name);
	table_add(t, "%zu", r->answered);
	table_add(t, "%zu", r->failed);
	table_add(t, "%zu", r->loads);
	table_add(t, "%zu", r->swaps);
	for (size_t i = 0; i < ARRAY_LEN(r->wait_ms); i++)
		add_time(t, r->wait_ms[i]);
	table_add(t, "%.2f/s", r->goodput);
	add_time(t, r->end_ms);
	table_add(t, "%zu", r->decisions);
}

static void add_json(struct buf *b, const char *name, const struct sim_result *r)
{
	(void)buf_addf(b,
		"{\"policy\":\"%s\",\"answered\":%zu,\"failed\":%zu,\"loads\":%zu,\"swaps\":%zu,"
		"\"evictions\":%zu,\"refusals\":%zu,"
		"\"crashes\":%zu,\"wait_ms\":{\"mean\":%" PRId64 ",\"p50\":%" PRId64 ",\"p99\":%" PRId64
		",\"max\":%" PRId64 "},\"goodput_per_second\":%.3f,\"end_ms\":%" PRId64 ",\"decisions\":%zu}",
		name, r->answered, r->failed, r->loads, r->swaps, r->evictions, r->refusals, r->crashes,
		r->wait_ms[0], r->wait_ms[1], r->wait_ms[2], r->wait_ms[3], r->goodput, r->end_ms,
		r->decisions);
}

/* Both policies; 0, or a status after saying why not. */
static int run(const struct trace *t, struct sim_result ret[2], struct buf *log)
{
	AUTO(mem_freep) struct sim_outcome *out = mem_alloc(t->setup.nrequests * sizeof *out);
	for (int i = 0; i < 2; i++) {
		struct sim_setup s = t->setup;
		if (i)
			s.policy = (struct swap_policy){ 0, 0, SWAP_HOLD_NEVER };
		if (simulate(&s, out, &ret[i], i ? NULL : log)) {
			complain("simulate: the trace makes no sense to the simulator");
			return CLI_FAILED;
		}
		if (ret[i].broken) {
			complain(
				"simulate: an invariant is broken: %s (%zu); please report it with the trace",
				ret[i].broken, ret[i].broken_index);
			return CLI_FAILED;
		}
	}
	return CLI_OK;
}

static int show(struct cli *c, const char *path, bool with_log)
{
	static const char *const heads[] = { "POLICY", "ANSWERED", "FAILED", "LOADS", "SWAPS", "WAIT MEAN",
		"P50", "P99", "MAX", "GOODPUT", "END", "DECISIONS" };
	AUTO(buf_done) struct buf text = BUF(TRACE_BYTES_MAX), out = BUF(64 * MIB), log = BUF(32 * MIB);
	AUTO(trace_freep) struct trace *t = NULL;
	struct sim_result r[2];
	struct err e = { 0 };
	int rc = file_read(path, &text);
	if (rc < 0) {
		complain("simulate: %s: %s", path, strerror(-rc));
		return CLI_FAILED;
	}
	t = trace_read(buf_view(&text), &e);
	if (!t) {
		complain("simulate: %s: %s", path, e.msg);
		return CLI_FAILED;
	}
	int status = run(t, r, with_log ? &log : NULL);
	if (status)
		return status;
	if (c->json) {
		(void)buf_adds(&out, "[");
		add_json(&out, "collate", &r[0]);
		(void)buf_adds(&out, ",");
		add_json(&out, "first_come", &r[1]);
		(void)buf_adds(&out, "]\n");
		return say(&out);
	}
	AUTO(table_done) struct table table = { .columns = ARRAY_LEN(heads) };
	for (size_t i = 0; i < ARRAY_LEN(heads); i++)
		table_add(&table, "%s", heads[i]);
	add_row(&table, "collate", &r[0]);
	add_row(&table, "first come", &r[1]);
	if (with_log)
		clean_add(&out, buf_view(&log), true);
	table_print(&table, color_for(1), &out);
	return say(&out);
}

int cmd_simulate(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "log", no_argument, NULL, OPT_LOG }, { 0 } };
	bool with_log = false;
	struct options o = { .longs = longs, .fn = on_option, .arg = &with_log, .min = 1, .max = 1 };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status))
		return status;
	return show(c, argv[first], with_log);
}
