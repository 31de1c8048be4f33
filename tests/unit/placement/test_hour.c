/* SPDX-License-Identifier: Apache-2.0
 *
 * An hour of ten models on a 24 GB and a 12 GB card (hour.trace), in virtual time: as the swap rules have it,
 * and first come, first served. What is told of the decisions is checked against what became of the requests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "placement/trace.h"

#define CASE(name) static void name(UNUSED void **state)

struct hour {
	struct trace *t;
	struct sim_outcome *out;
	struct sim_result result;
	struct buf log;
};

static void run(struct hour *h, bool first_come)
{
	struct buf text = BUF(1 * MIB);
	struct err e = { 0 };
	assert_int_equal(file_read(TRACES "/hour.trace", &text), 0);
	h->t = trace_read(buf_view(&text), &e);
	buf_done(&text);
	if (!h->t)
		fail_msg("%s", e.msg);
	if (first_come)
		h->t->setup.policy = (struct swap_policy){ 0, 0, SWAP_HOLD_NEVER };
	h->out = mem_alloc(h->t->setup.nrequests * sizeof *h->out);
	h->log = BUF(4 * MIB);
	assert_int_equal(simulate(&h->t->setup, h->out, &h->result, &h->log), 0);
	if (h->result.broken)
		fail_msg("%s: %zu", h->result.broken, h->result.broken_index);
}

static void done(struct hour *h)
{
	trace_freep(&h->t);
	free(h->out);
	buf_done(&h->log);
}

static size_t model_of(const struct hour *h, struct view name)
{
	for (size_t i = 0; i < h->t->setup.nmodels; i++)
		if (view_eqs(name, h->t->setup.models[i].id))
			return i;
	fail_msg("\"%.*s\" is no model", VIEW_ARG(name));
	return 0;
}

/* Nobody was being answered by it at that time. */
static void idle_at(const struct hour *h, size_t model, int64_t ms)
{
	for (size_t i = 0; i < h->t->setup.nrequests; i++)
		if (h->t->setup.requests[i].model == model && h->out[i].started_ms < ms &&
			ms < h->out[i].ended_ms)
			fail_msg("request %zu ran when its model was evicted at %lld ms", i, (long long)ms);
}

/* Every line gives a reason; every load, eviction and refusal that was counted has a line. */
static void check_log(const struct hour *h)
{
	struct view text = buf_view(&h->log);
	size_t loads = 0, evictions = 0, refusals = 0;
	while (text.n) {
		struct view reason, rest, line = view_split(text, '\n', &text);
		struct view told = view_split(line, ':', &reason), time = view_split(told, ' ', &rest);
		uint64_t ms;
		assert_true(view_trim(reason).n > 0);
		assert_int_equal(num_u64(time, &ms), 0);
		struct view verb = view_split(rest, ' ', &rest);
		loads += view_eqs(verb, "load");
		refusals += view_eqs(verb, "no");
		if (!view_eqs(verb, "evict"))
			continue;
		evictions++;
		idle_at(h, model_of(h, view_split(rest, ' ', &rest)), (int64_t)ms);
	}
	assert_int_equal(loads, h->result.loads);
	assert_int_equal(evictions, h->result.evictions);
	assert_int_equal(refusals, h->result.refusals);
}

/* Each once, in its time; what ran at one time are at most the slots. */
static void check_requests(const struct hour *h)
{
	const struct sim_setup *s = &h->t->setup;
	for (size_t i = 0; i < s->nrequests; i++) {
		const struct sim_outcome *o = &h->out[i];
		const struct sim_request *r = &s->requests[i];
		size_t beside = 0;
		assert_int_equal(o->answers, 1);
		assert_false(o->failed);
		assert_true(o->arrived_ms <= o->started_ms && o->started_ms + r->service_ms <= o->ended_ms);
		for (size_t k = 0; k < s->nrequests; k++)
			beside += s->requests[k].model == r->model && h->out[k].started_ms <= o->started_ms &&
				  o->started_ms < h->out[k].ended_ms;
		assert_true(beside <= s->models[r->model].slots);
	}
	assert_int_equal(h->result.answered, s->nrequests);
}

static void tell(const char *policy, const struct hour *h)
{
	const struct sim_result *r = &h->result;
	print_message(
		"%s: %zu answered, %zu loads, %zu swaps; waits: mean %lld ms, p50 %lld, p99 %lld, most %lld; "
		"%.3f/s\n",
		policy, r->answered, r->loads, r->swaps, (long long)r->wait_ms[0], (long long)r->wait_ms[1],
		(long long)r->wait_ms[2], (long long)r->wait_ms[3], r->goodput);
}

CASE(an_hour_of_ten_models_on_two_cards)
{
	struct hour ours, theirs;
	run(&ours, false);
	run(&theirs, true);
	tell("collate", &ours);
	tell("first come", &theirs);
	check_requests(&ours);
	check_requests(&theirs);
	check_log(&ours);
	check_log(&theirs);
	assert_int_equal(ours.t->setup.nmodels, 10);
	assert_true(ours.result.end_ms > 59 * 60000);
	assert_true(ours.result.crashes >= 3);
	/* Fewer swaps, less waiting in sum; the longest wait is the price. */
	assert_true(3 * ours.result.swaps < 2 * theirs.result.swaps);
	assert_true(ours.result.wait_ms[0] < theirs.result.wait_ms[0]);
	assert_true(ours.result.wait_ms[3] <= SWAP_MAX_WAIT_MS + 30000);
	done(&ours);
	done(&theirs);
}

CASE(the_same_hour_again_is_the_same)
{
	struct hour a, b;
	run(&a, false);
	run(&b, false);
	assert_string_equal(buf_str(&a.log), buf_str(&b.log));
	done(&a);
	done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_hour_of_ten_models_on_two_cards),
		cmocka_unit_test(the_same_hour_again_is_the_same),
	};
	return cmocka_run_group_tests_name("hour", tests, NULL, NULL);
}
