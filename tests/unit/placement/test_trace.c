/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/rnd.h"
#include "placement/trace.h"

static struct trace *t;
static struct err e;

#define CASE(name) static void name(UNUSED void **state)
static int done(UNUSED void **state)
{
	trace_freep(&t);
	return 0;
}
static void read_it(const char *text)
{
	t = trace_read(view_str(text), &e);
	if (!t)
		fail_msg("%s", e.msg);
}
static void refuses(const char *text, const char *why)
{
	t = trace_read(view_str(text), &e);
	assert_null(t);
	assert_string_equal(e.msg, why);
}

CASE(a_trace_is_read)
{
	read_it("# two models on one card\r\n\n"
		"device 24GiB foreign=2GiB\n  host 64GiB # of the box\n"
		"model chat bytes=20GiB host=2GiB slots=3 load=6s return=100ms keep_alive=10m cost=2\n"
		"model coder bytes=18GiB pinned\n"
		"swap max_wait=30s hold=5s hold_after=always\n"
		"request chat at=1s for=500ms key=7 tools\n"
		"agent coder turns=3 for=2s tool=1s key=8 at=2s\n"
		"fail chat at=9s\n");
	const struct sim_setup *s = &t->setup;
	assert_int_equal(s->ndevices, 2);
	assert_true(s->devices[0].capacity == 24 * GIB && s->devices[0].foreign == 2 * GIB);
	assert_int_equal(s->devices[1].kind, FIT_KIND_CPU);
	assert_string_equal(s->models[0].id, "chat");
	assert_true(s->models[0].bytes == 20 * GIB && s->models[0].host_bytes == 2 * GIB);
	assert_true(s->models[0].slots == 3 && s->models[0].load_ms == 6000 &&
		    s->models[0].keep_alive_ms == 600000);
	assert_true(s->models[1].pinned && !s->models[0].pinned);
	assert_true(s->policy.max_wait_ms == 30000 && s->policy.hold_after == SWAP_HOLD_ALWAYS);
	assert_int_equal(s->nrequests, 4);
	assert_true(s->requests[0].at_ms == 1000 && s->requests[0].key == 7 && s->requests[0].tool_calls);
	assert_true(s->requests[1].after == SIM_NONE && s->requests[1].at_ms == 2000);
	assert_true(s->requests[3].after == 2 && s->requests[3].at_ms == 1000 && !s->requests[3].tool_calls);
	assert_int_equal(s->nfailures, 1);
}

CASE(devices_stand_on_nodes_and_both_may_go)
{
	read_it("device 24GiB\nhost 8GiB\nnode b\ndevice 12GiB\nhost 4GiB\nmodel a bytes=1GiB\nrequest a\n"
		"lost 0 at=1s back=4s\ngone b at=2s\n");
	const struct sim_setup *s = &t->setup;
	assert_int_equal(s->ndevices, 4);
	assert_string_equal(s->devices[1].node_id, "trace");
	assert_string_equal(s->devices[3].node_id, "b");
	assert_int_equal(s->nfailures, 2);
	assert_true(s->failures[0].what == SIM_LOST && s->failures[0].index == 0 &&
		    s->failures[0].back_ms == 4000);
	assert_true(s->failures[1].what == SIM_GONE && s->failures[1].index == 2 && !s->failures[1].back_ms);
}

CASE(poisson_arrivals_are_those_of_their_seed)
{
	const char *text = "device 24GiB\nmodel a bytes=1GiB\npoisson a every=1s until=1000s seed=3\n";
	read_it(text);
	size_t n = t->setup.nrequests;
	int64_t last = t->setup.requests[n - 1].at_ms;
	assert_in_range(n, 850, 1150);
	assert_true(last < 1000000);
	trace_freep(&t);
	read_it(text);
	assert_int_equal(t->setup.nrequests, n);
	assert_int_equal(t->setup.requests[n - 1].at_ms, last);
}

CASE(what_is_wrong_is_told_with_its_line)
{
	refuses("device 24GiB\nmodle a bytes=1GiB\n", "line 2: a line begins with node, device, host, model, "
						      "swap, request, agent, poisson, fail, lost or "
						      "gone, found \"modle\"");
	refuses("device many\n", "line 1: device takes a size as 24GiB, found \"many\"");
	refuses("device 24GiB\n\nmodel a size=1GiB\n", "line 3: there is no key \"size\"");
	refuses("model a bytes=lots\n", "line 1: bytes takes a size as 20GiB, found \"lots\"");
	refuses("model a load=-4s\n", "line 1: load takes a time as 4s or 500ms, found \"-4s\"");
	refuses("model a pinned=yes\n", "line 1: pinned takes no value, found \"yes\"");
	refuses("swap hold_after=lunch\n",
		"line 1: hold_after takes tool_calls, always or never, found \"lunch\"");
	refuses("device 1GiB\nrequest a\n", "line 2: there is no model \"a\" before it");
	refuses("host 1GiB\ndevice 1GiB\n", "line 2: the host comes after the devices, once");
	refuses("model a bytes=1GiB slots=0\n", "line 1: slots are 1 to 1024, return is below 5s");
	refuses("model\n", "line 1: a name is missing");
	refuses("node a\nnode a\n", "line 2: node \"a\" was there before");
	refuses("device 1GiB\nlost 1 at=1s\n", "line 2: there is no device \"1\" before it");
	refuses("device 1GiB\ngone b at=1s\n", "line 2: there is no node \"b\" before it");
	refuses("device 1GiB\nlost 0 at=2s back=1s\n", "line 2: back is not before at");
	refuses("device 1GiB\nmodel a\npoisson a\n", "line 3: poisson needs every= and until=");
	refuses("", "a trace needs a device, a model and a request at least");
}

CASE(there_are_bounds)
{
	refuses("device 24GiB\nmodel a bytes=1GiB\npoisson a every=1ms until=1h\n",
		"line 3: more than 20000 requests");
	refuses("device 24GiB\nmodel a bytes=1GiB\nagent a turns=99999999999\n",
		"line 3: more than 20000 requests");
}

/* Bytes of all sorts, and lines whose pieces are exchanged, are read or refused. */
CASE(no_text_does_harm)
{
	static const char *const pieces[] = { "device", " ", "24GiB", "\n", "model", "a", "bytes=", "=",
		"1GiB", "#", "request", "agent", "poisson", "every=", "1s", "until=", "9s", "turns=3", "fail",
		"swap", "at=", "\r", "\t", "-", "99999999999999999999", "pinned", "node", "lost", "gone",
		"back=2s", "host", "0" };
	struct rnd rnd;
	char text[512];
	rnd_seed(&rnd, 11);
	for (int i = 0; i < 20000; i++) {
		size_t n = 0, most = rnd_below(&rnd, 40);
		for (size_t k = 0; k < most && n + 24 < sizeof text; k++) {
			const char *p = pieces[rnd_below(&rnd, ARRAY_LEN(pieces))];
			memcpy(text + n, p, strlen(p));
			n += strlen(p);
		}
		if (n)
			text[rnd_below(&rnd, n)] = (char)rnd_below(&rnd, 256);
		t = trace_read(view_of(text, n), &e);
		trace_freep(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_trace_is_read, done),
		cmocka_unit_test_teardown(devices_stand_on_nodes_and_both_may_go, done),
		cmocka_unit_test_teardown(poisson_arrivals_are_those_of_their_seed, done),
		cmocka_unit_test_teardown(what_is_wrong_is_told_with_its_line, done),
		cmocka_unit_test_teardown(there_are_bounds, done),
		cmocka_unit_test_teardown(no_text_does_harm, done),
	};
	return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
