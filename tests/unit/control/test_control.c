/* SPDX-License-Identifier: Apache-2.0
 *
 * The plan of replicas, case by case, and the numbering of refusals.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <signal.h>

#include "base/mem.h"
#include "control/control_int.h"
#include "control/fate.h"
#include "control/room_int.h"
#include "dialect/dialect.h"

/* A slot in letters: w wanted, b busy (a lease), c cooling, f failed, r ready; "-" none of it. */
static void parse(const char *text, struct plan_slot *s, mono_t busy_at)
{
	*s = (struct plan_slot){ .busy_at = busy_at };
	for (; *text; text++) {
		s->wanted |= *text == 'w';
		s->leases += *text == 'b';
		s->cooling += *text == 'c';
		s->failed |= *text == 'f';
		s->ready |= *text == 'r';
	}
}

struct plan_case {
	const char *name;
	const char *before[4];
	struct plan_facts f;
	const char *after; /* "10": the first is wanted, the second is not */
	int64_t idle_ms;   /* since busy_at */
	int64_t next_ms;   /* from now; -1: never */
};

#define FACTS(...)                                                                                           \
	{                                                                                                    \
		.max = 2, .slots = 2, .keep_alive_ms = 1000, __VA_ARGS__                                     \
	}

static const struct plan_case cases[] = {
	{ "nobody asks: nothing", { "-", "-" }, FACTS(), "00", 0, -1 },
	{ "one waits: one replica", { "-", "-" }, FACTS(.waiting = 1), "10", 0, -1 },
	{ "as many wait as one takes", { "-", "-" }, FACTS(.waiting = 2), "10", 0, -1 },
	{ "more wait than one takes", { "-", "-" }, FACTS(.waiting = 3), "11", 0, -1 },
	{ "never above max", { "-", "-" }, FACTS(.waiting = 99), "11", 0, -1 },
	{ "max below the slots there are", { "-", "-", "-" }, FACTS(.waiting = 99), "110", 0, -1 },
	{ "what runs counts", { "wrbb", "-" }, FACTS(.waiting = 1), "11", 0, -1 },
	{ "what cools counts", { "wrbc", "-" }, FACTS(.waiting = 1), "11", 0, -1 },
	{ "a free slot is enough", { "wrb", "-" }, FACTS(.waiting = 1), "10", 0, -1 },
	{ "a failed one serves nobody", { "wf", "-" }, FACTS(.waiting = 1), "11", 0, -1 },
	{ "one that failed alone is kept, not doubled", { "wf" }, FACTS(.waiting = 1), "1", 0, -1 },
	{ "min without demand", { "-", "-" }, FACTS(.min = 1), "10", 0, -1 },
	{ "min of all", { "-", "-" }, FACTS(.min = 2), "11", 0, -1 },
	{ "min is not unloaded", { "wr", "wr" }, FACTS(.min = 2), "11", 5000, -1 },
	{ "start without demand", { "-", "-" }, FACTS(.start = true), "10", 0, 1000 },
	{ "start of what runs is nothing new", { "wr", "-" }, FACTS(.start = true), "10", 0, 1000 },
	{ "idle, not long enough", { "wr", "-" }, FACTS(), "10", 400, 600 },
	{ "idle for keep_alive", { "wr", "-" }, FACTS(), "00", 1000, -1 },
	{ "idle, the last goes first, min stays", { "wr", "wr" }, FACTS(.min = 1), "10", 1000, -1 },
	{ "a busy one is never unloaded", { "wrb", "-" }, FACTS(), "10", 9000, -1 },
	{ "a cooling one is never unloaded", { "wrc", "-" }, FACTS(), "10", 9000, -1 },
	{ "idle beside a busy one", { "wrb", "wr" }, FACTS(), "10", 1000, -1 },
	{ "nothing is unloaded while somebody waits", { "wr", "wr" }, FACTS(.waiting = 1), "11", 9000, -1 },
	{ "a model that is still being loaded is not idle", { "w", "-" }, FACTS(), "10", 9000, 1000 },
	{ "keep_alive for ever", { "wr", "-" }, { .max = 2, .slots = 2, .keep_alive_ms = -1 }, "10", 99000,
		-1 },
	{ "keep_alive 0 ends with the lease", { "wr", "-" }, { .max = 2, .slots = 2 }, "00", 0, -1 },
	{ "held: nothing is wanted", { "wrb", "wr" },
		FACTS(.held = true, .waiting = 5, .min = 2, .start = true), "00", 0, -1 },
	{ "an external engine is always wanted", { "-", "-", "-" }, FACTS(.always = true), "111", 9000, -1 },
	{ "an external engine can be held", { "w", "w" }, FACTS(.always = true, .held = true), "00", 0, -1 },
	{ "a smaller max: the last goes", { "wr", "wr", "wr" }, FACTS(), "110", 0, 1000 },
	{ "a smaller max: an idle one goes first", { "wrb", "wr", "wrb" }, FACTS(), "101", 0, -1 },
	{ "a smaller max: busy ones go in the end", { "wrb", "wrb", "wrb" }, FACTS(), "110", 0, -1 },
	{ "min above max counts", { "-", "-", "-" }, FACTS(.min = 3), "111", 0, -1 },
	{ "no slot at all", { NULL }, { .waiting = 1, .slots = 2 }, "", 0, -1 },
};

static void run_case(const struct plan_case *c)
{
	struct plan_slot slots[4];
	uint32_t n = 0;
	mono_t now = { 50000000000000 };
	struct plan_facts f = c->f;
	f.now = now;
	for (; n < 4 && c->before[n]; n++)
		parse(c->before[n], &slots[n], mono_add_ms(now, -c->idle_ms));
	mono_t next = plan_replicas(&f, slots, n);
	char got[5] = "";
	for (uint32_t i = 0; i < n; i++)
		got[i] = slots[i].wanted ? '1' : '0';
	int64_t ms = next.ns == INT64_MAX ? -1 : mono_ms_between(now, next);
	if (strcmp(got, c->after) != 0 || ms != c->next_ms)
		fail_msg("%s: wanted %s, next in %lld ms; expected %s, %lld", c->name, got, (long long)ms,
			c->after, (long long)c->next_ms);
}

static void test_plan(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		run_case(&cases[i]);
}

/* target: an engine has to leave · before: two idle ones with a conversation each · after: who goes */
static void test_loss(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		struct scene_loss a, b; /* a goes */
	} rows[] = {
		{ "alike but for one conversation, which would be lost", { 1, 5, 0, false, 1 },
			{ 1, 5, 9, false, 1 } },
		{ "alike, one's conversation is kept", { 1, 5, 9, true, 1 }, { 1, 5, 9, false, 1 } },
		{ "kept, yet to be read from the disk", { 1, 5, 1, true, 1 }, { 1, 5, 90, true, 1 } },
		{ "a large model with a kept one, a small one with a long one", { 1, 20, 40, true, 1 },
			{ 1, 5, 40, false, 1 } },
		{ "a long one that nobody comes back to", { 3600, 5, 90, false, 1 }, { 1, 5, 0, true, 1 } },
		{ "the operator's word counts", { 1, 5, 20, false, 1 }, { 1, 5, 20, true, 5 } },
		{ "cost 0 goes first", { 1, 5, 90, false, 0 }, { 1, 5, 0, true, 1 } },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (!(scene_loss(&rows[i].a) < scene_loss(&rows[i].b)))
			fail_msg("%s", rows[i].name);
}

/* A model of 10 layers of 4 GiB, and what a machine has; never: it is not worth fetching. */
static void test_never(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		unsigned first, second, host; /* GiB */
		enum fit_offload offload;
		bool cpu, gone, mapped, never;
	} rows[] = {
		{ "one that holds it", 48, 8, 8, FIT_OFFLOAD_NEVER, .never = false },
		{ "both together", 24, 24, 8, FIT_OFFLOAD_NEVER, .never = false },
		{ "with the host's help", 24, 8, 64, FIT_OFFLOAD_AUTO, .never = false },
		{ "the host may not help", 24, 8, 64, FIT_OFFLOAD_NEVER, .never = true },
		{ "not with all there is", 24, 8, 4, FIT_OFFLOAD_AUTO, .never = true },
		{ "one device does not answer", 24, 8, 4, FIT_OFFLOAD_AUTO, .gone = true, .never = false },
		{ "the host alone, from its file", 1, 1, 8, FIT_OFFLOAD_AUTO, .cpu = true, .mapped = true },
		{ "the host alone, not mapped", 1, 1, 8, FIT_OFFLOAD_AUTO, .cpu = true, .never = true },
	};
	struct fit_layer layers[10];
	for (size_t i = 0; i < ARRAY_LEN(layers); i++)
		layers[i] = (struct fit_layer){ .weights = 4 * GIB };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct fit_device d[3] = { { "n", "a", 0, 1, .capacity = rows[i].first * GIB },
			{ "n", "b", 1, 1, .capacity = rows[i].second * GIB },
			{ "n", "cpu", 0, FIT_KIND_CPU, .capacity = rows[i].host * GIB } };
		for (size_t k = 0; k < 3; k++) {
			d[k].usable = k || !rows[i].gone;
			d[k].reserved = d[k].capacity; /* what others hold does not count */
		}
		uint64_t mask = rows[i].cpu ? 4 : 7;
		struct scene sc = { .devices = d, .facts = { .devices = d, .ndevices = 3 } };
		struct room_want w = { .mask = &mask,
			.need = { layers, ARRAY_LEN(layers), .whole = 40 * GIB },
			.wire = { .host_mapped = rows[i].mapped ? 40 * GIB : 0 } };
		w.fit = (struct fit_want){
			.need = &w.need, .mask = &mask, .offload = rows[i].offload, .cpu = rows[i].cpu
		};
		sc.scratch = mem_alloc(fit_scratch_bytes(&sc.facts) + 1);
		bool never = room_never(&sc, &w);
		free(sc.scratch);
		if (never != rows[i].never)
			fail_msg("%s: %s", rows[i].name, never ? "never" : "perhaps");
	}
}

/* The same facts give the same answer, and one that was given is not taken back at once. */
static void test_plan_is_stable(void **state)
{
	(void)state;
	struct plan_facts f = FACTS(.waiting = 3, .now = { 1000 });
	struct plan_slot s[2] = { 0 };
	plan_replicas(&f, s, 2);
	assert_true(s[0].wanted && s[1].wanted);
	s[0].ready = s[1].ready = true;
	f.waiting = 0;
	f.now = mono_add_ms(f.now, 999);
	plan_replicas(&f, s, 2);
	assert_true(s[0].wanted && s[1].wanted);
	f.now = mono_add_ms(f.now, 1);
	plan_replicas(&f, s, 2);
	assert_false(s[0].wanted || s[1].wanted);
}

struct fate_case {
	const char *name;
	struct wire_replica f;
	enum pool_fate fate; /* of generation 5 */
};

#define ERROR(c, ...)                                                                                        \
	{                                                                                                    \
		.cause = CAUSE_##c, .message = (char *)(uintptr_t) "m", __VA_ARGS__                          \
	}
#define DEAD(...) .generation = 5, .state = REPLICA_BACKOFF, .last_error = ERROR(__VA_ARGS__)

static const struct fate_case fates[] = {
	{ "it runs", { .generation = 5, .state = REPLICA_READY }, POOL_FATE_UNKNOWN },
	{ "it proves itself", { .generation = 5, .state = REPLICA_PROVING }, POOL_FATE_UNKNOWN },
	{ "it runs, with an old error",
		{ .generation = 5, .state = REPLICA_STARTING, .last_error = ERROR(EXIT, .exit_code = 1) },
		POOL_FATE_UNKNOWN },
	{ "an older report",
		{ .generation = 4, .state = REPLICA_FAILED, .last_error = ERROR(EXIT, .exit_code = 1) },
		POOL_FATE_UNKNOWN },
	{ "exit 1", { DEAD(EXIT, .exit_code = 1) }, POOL_FATE_CRASHED },
	{ "exit 0", { DEAD(EXIT, .exit_code = 0) }, POOL_FATE_ENDED },
	{ "SIGSEGV", { DEAD(SIGNAL, .exit_code = -1, .signo = SIGSEGV) }, POOL_FATE_CRASHED },
	{ "SIGABRT", { DEAD(SIGNAL, .exit_code = -1, .signo = SIGABRT) }, POOL_FATE_CRASHED },
	{ "SIGBUS", { DEAD(SIGNAL, .exit_code = -1, .signo = SIGBUS) }, POOL_FATE_CRASHED },
	{ "SIGILL", { DEAD(SIGNAL, .exit_code = -1, .signo = SIGILL) }, POOL_FATE_CRASHED },
	{ "SIGFPE", { DEAD(SIGNAL, .exit_code = -1, .signo = SIGFPE) }, POOL_FATE_CRASHED },
	{ "SIGKILL", { DEAD(SIGNAL, .exit_code = -1, .signo = SIGKILL) }, POOL_FATE_ENDED },
	{ "SIGTERM", { DEAD(SIGNAL, .exit_code = -1, .signo = SIGTERM) }, POOL_FATE_ENDED },
	{ "the keeper was killed", { DEAD(SIGNAL, .exit_code = 0) }, POOL_FATE_ENDED },
	{ "SIGKILL for want of host memory", { DEAD(OOM_HOST, .exit_code = -1, .signo = SIGKILL) },
		POOL_FATE_CRASHED },
	{ "out of device memory, for good",
		{ .generation = 5, .state = REPLICA_FAILED, .last_error = ERROR(OOM_VRAM, .exit_code = 1) },
		POOL_FATE_CRASHED },
	{ "hung", { DEAD(HUNG) }, POOL_FATE_ENDED },
	{ "health lost", { DEAD(HEALTH_LOST) }, POOL_FATE_ENDED },
	{ "a wrong canary", { DEAD(CANARY) }, POOL_FATE_ENDED },
	{ "stopped, with an old error",
		{ .generation = 5, .state = REPLICA_STOPPED, .last_error = ERROR(EXIT, .exit_code = 1) },
		POOL_FATE_ENDED },
	{ "being stopped", { .generation = 5, .state = REPLICA_DRAINING }, POOL_FATE_ENDED },
	{ "the next one starts, the cause is kept",
		{ .generation = 6,
			.state = REPLICA_STARTING,
			.last_error = ERROR(SIGNAL, .exit_code = -1, .signo = SIGABRT) },
		POOL_FATE_CRASHED },
	{ "the next one runs", { .generation = 6, .state = REPLICA_READY }, POOL_FATE_ENDED },
};

static void test_fate(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fates); i++)
		if (control_fate(&fates[i].f, 5) != fates[i].fate)
			fail_msg("%s", fates[i].name);
	assert_int_equal(control_fate(NULL, 5), POOL_FATE_ENDED); /* its node is gone, or does not know it */
}

static uint64_t counters_of(const char *slots, int busy)
{
	uint64_t c;
	assert_int_equal(slots_read(view_str(slots), &c), busy);
	return c;
}

#define SLOT(busy, task, read, made)                                                                         \
	"[{\"id\":0,\"is_processing\":" busy ",\"id_task\":" task ",\"n_prompt_tokens_processed\":" read     \
	",\"next_token\":[{\"n_decoded\":" made "}]},{\"id\":1,\"is_processing\":false}]"

static void test_slots_that_move(void **state)
{
	(void)state;
	uint64_t before = counters_of(SLOT("true", "3", "22", "17"), 1);
	assert_int_equal(counters_of(SLOT("true", "3", "22", "17"), 1), before);
	assert_int_not_equal(counters_of(SLOT("true", "3", "22", "18"), 1), before);
	assert_int_not_equal(counters_of(SLOT("true", "3", "23", "17"), 1), before);
	assert_int_not_equal(counters_of(SLOT("true", "4", "22", "17"), 1), before);
	assert_int_not_equal(counters_of(SLOT("false", "3", "22", "17"), 0), before);
	counters_of("[]", 0);
	counters_of("{\"error\":1}", -1);
	counters_of("", -1);
	counters_of("[{\"is_processing\":true,\"next_token\":7,\"id_task\":\"x\"},null]", 1);
}

/* control refuses with the dialect's numbers without including it. */
static void test_refusals(void **state)
{
	(void)state;
	assert_int_equal((int)REFUSE_MODEL_NOT_FOUND, (int)CODE_MODEL_NOT_FOUND);
	assert_int_equal((int)REFUSE_POOL_UNREADY, (int)CODE_POOL_UNREADY);
	assert_int_equal((int)REFUSE_POOL_UNAVAILABLE, (int)CODE_POOL_UNAVAILABLE);
	assert_int_equal((int)REFUSE_NO_CAPACITY, (int)CODE_NO_CAPACITY);
	assert_int_equal((int)REFUSE_MODEL_RETIRED, (int)CODE_MODEL_RETIRED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plan),
		cmocka_unit_test(test_never),
		cmocka_unit_test(test_loss),
		cmocka_unit_test(test_plan_is_stable),
		cmocka_unit_test(test_fate),
		cmocka_unit_test(test_slots_that_move),
		cmocka_unit_test(test_refusals),
	};
	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
