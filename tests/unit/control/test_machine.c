/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler: configurations that change, what runs when it starts, and what a machine has.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mask.h"
#include "base/mem.h"
#include "log/log.h"
#include "machine.h"

/* ---- configurations --------------------------------------------------------------------------------------
 */

static void test_same_config_touches_nothing(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	unsigned pushes = w.pushes;
	set_config(&w, ONE);
	set_config(&w, POOL("a", "model: /m/one.gguf, replicas: 1, aliases: [b], queue: {capacity: 3}"));
	rounds(&w);
	assert_int_equal(w.pushes, pushes);
	struct pool_opts o;
	pool_options(control_pool_traffic(pool_a(&w)), &o);
	assert_int_equal(o.queue_capacity, 3);
	assert_ptr_equal(control_pool_find(w.control, VIEW("b")), pool_a(&w));
	assert_int_equal(w.published, 3);
	world_end(&w);
}

static void test_changed_spec(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	struct lease l = lease(&w);
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	assert_string_not_equal(want(&w, "a-1")->spec, want(&w, "a-0")->spec);
	assert_false(want(&w, "a-1")->pulled_in);
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, no_reload, NULL));
	rounds(&w);
	assert_non_null(want(&w, "a-0")); /* its request is not over */
	struct lease l2 = lease(&w);
	assert_string_equal(l2.replica->id, "a-1");
	assert_int_equal(lease_release(&l), 0);
	assert_int_equal(lease_release(&l2), 0);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	vanishes(&w, "a-0");
	assert_non_null(want(&w, "a-1"));
	world_end(&w);
}

static void test_changed_spec_fails(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_FAILED, "it is broken");
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	assert_non_null(want(&w, "a-0"));
	assert_string_equal(control_pool_reload_error(pool_a(&w))->message, "it is broken");
	assert_int_equal(control_pool_state(w.control, pool_a(&w)), POOL_STATE_READY);
	struct lease l = lease(&w); /* it serves on */
	assert_int_equal(lease_release(&l), 0);
	vanishes(&w, "a-1");
	set_config(&w, ONE_CTX); /* a reload of the configuration tries again */
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_null(control_pool_reload_error(pool_a(&w)));
	world_end(&w);
}

/* Nothing serves that could be lost: what failed is started with the new values. */
static void test_changed_spec_of_a_failed_pool(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	assert_true(wait_for(&w, is_wanted, "a-0"));
	becomes(&w, "a-0", REPLICA_FAILED, "bad values");
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	starts_ready(&w, "a-1");
	assert_true(wait_for(&w, no_reload, NULL));
	world_end(&w);
}

static void test_newest_wins(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_STARTING, NULL);
	set_config(&w, ONE_CTX2);
	assert_true(wait_for(&w, is_wanted, "a-2"));
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	set_config(&w, ONE); /* and back */
	assert_true(wait_for(&w, is_unwanted, "a-2"));
	assert_non_null(want(&w, "a-0"));
	assert_true(wait_for(&w, no_reload, NULL));
	set_config(&w, ONE_CTX);
	set_config(&w, ONE);
	set_config(&w, ONE_CTX2);
	assert_true(wait_for(&w, is_wanted, "a-2"));
	becomes(&w, "a-2", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	world_end(&w);
}

static bool pool_is_gone(struct world *w)
{
	return !map_gets(&w->control->all, w->id);
}

static void never_granted(void *arg, struct lease l)
{
	(void)arg;
	(void)l;
	fail_msg("granted");
}

static void note_refusal(void *arg, const struct pool_refusal *why, enum waiter_end end)
{
	assert_int_equal(end, WAITER_CLOSED);
	*(int *)arg = why->code;
}

static void test_removed_and_back(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE POOL("b", "model: /m/b.gguf"));
	say(&w);
	starts_ready(&w, "a-0");
	struct lease l = lease(&w), l2 = lease(&w);
	int code = 0;
	struct waiter waits = {
		.loop = w.loop, .on_grant = never_granted, .on_refused = note_refusal, .arg = &code
	};
	struct pool *traffic = pool_ref(control_pool_traffic(pool_a(&w)));
	struct lease none;
	struct pool_refusal why;
	assert_int_equal(pool_acquire(traffic, &waits, false, mono_now(), &none, &why), POOL_QUEUED);
	set_config(&w, POOL("b", "model: /m/b.gguf"));
	assert_null(control_pool_find(w.control, VIEW("a")));
	rounds(&w);
	assert_non_null(want(&w, "a-0"));                  /* two requests run */
	set_config(&w, ONE POOL("b", "model: /m/b.gguf")); /* it comes back, and serves on */
	assert_ptr_equal(control_pool_traffic(pool_a(&w)), traffic);
	rounds(&w);
	assert_int_equal(lease_release(&l2), 0);
	l2 = lease(&w);
	set_config(&w, POOL("b", "model: /m/b.gguf"));
	assert_int_equal(lease_release(&l), 0);
	assert_int_equal(lease_release(&l2), 0);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_int_equal(code, REFUSE_MODEL_NOT_FOUND);
	vanishes(&w, "a-0");
	assert_true(wait_for(&w, pool_is_gone, "a"));
	/* A request that knew the pool still is told, and nobody is called that is gone. */
	assert_int_equal(pool_acquire(traffic, &waits, false, mono_now(), &none, &why), POOL_CLOSED);
	pool_unref(traffic);
	assert_non_null(control_pool_find(w.control, VIEW("b")));
	world_end(&w);
}

static void test_fewer_replicas(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf, replicas: 2"));
	say(&w);
	starts_ready(&w, "a-0");
	starts_ready(&w, "a-1");
	set_config(&w, ONE);
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	vanishes(&w, "a-1");
	set_config(&w, POOL("a", "model: /m/one.gguf, replicas: 3"));
	assert_true(wait_for(&w, is_wanted, "a-2"));
	assert_non_null(want(&w, "a-1"));
	world_end(&w);
}

/* ---- what runs when we start ------------------------------------------------------------------------------
 */

static void test_found_engines_of_another_configuration(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf"));
	struct engine *e = engine(&w, "a-4");
	e->state = REPLICA_READY;
	snprintf(e->spec, sizeof e->spec, "0123456789abcdef");
	say(&w);
	assert_true(wait_for(&w, is_wanted, "a-0"));
	assert_string_equal(want(&w, "a-4")->spec, "0123456789abcdef"); /* it serves meanwhile */
	becomes(&w, "a-0", REPLICA_FAILED, "no");
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_non_null(want(&w, "a-4"));
	vanishes(&w, "a-0");
	reload(&w, NULL);
	assert_true(wait_for(&w, is_wanted, "a-0"));
	becomes(&w, "a-0", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-4"));
	assert_true(w.done.ok);
	world_end(&w);
}

static void test_found_in_the_middle_of_a_replacement(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf"));
	char spec[CONFIG_SPEC_LEN + 1];
	config_pool_spec(control_pool_config(pool_a(&w)), spec);
	struct engine *old = engine(&w, "a-0"), *fresh = engine(&w, "a-1");
	old->state = REPLICA_READY;
	snprintf(old->spec, sizeof old->spec, "0123456789abcdef");
	fresh->state = REPLICA_STARTING;
	snprintf(fresh->spec, sizeof fresh->spec, "%s", spec);
	say(&w);
	assert_true(wait_for(&w, is_wanted, "a-0"));
	assert_non_null(want(&w, "a-1"));
	assert_int_equal(w.wants.nwants, 2); /* the one that is being started is the fresh one */
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_non_null(want(&w, "a-1"));
	world_end(&w);
}

/* The place was taken before the node said what runs there: what runs counts, not what was meant to. */
static void test_preloaded_place_runs_another_configuration(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf, preload: true"));
	rounds(&w);
	assert_non_null(slot_find(pool_a(&w), VIEW("a-0")));
	struct engine *e = engine(&w, "a-0");
	e->state = REPLICA_READY;
	snprintf(e->spec, sizeof e->spec, "0123456789abcdef");
	say(&w);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	assert_string_equal(want(&w, "a-0")->spec, "0123456789abcdef"); /* it serves meanwhile */
	assert_string_not_equal(want(&w, "a-1")->spec, "0123456789abcdef");
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	world_end(&w);
}

/* A node finds an engine that nobody wants after it was told what is wanted: it is told again. */
static unsigned pushes_before;
static bool was_pushed(struct world *w)
{
	return w->pushes > pushes_before;
}

static void test_strays(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	pushes_before = w.pushes;
	engine(&w, "zombie-0")->state = REPLICA_READY;
	say(&w);
	assert_true(wait_for(&w, was_pushed, NULL));
	assert_null(want(&w, "zombie-0"));
	world_end(&w);
}

static void test_mem_available(void **state)
{
	(void)state;
	assert_int_equal(
		mem_available(VIEW("MemTotal: 9 kB\nMemAvailable:    123 kB\nX: 1 kB\n")), 123 * 1024);
	assert_int_equal(mem_available(VIEW("MemTotal: 9 kB\n")), 0);
	assert_int_equal(mem_available(VIEW("MemAvailable: x kB\n")), 0);
	assert_int_equal(mem_available(VIEW("MemAvailable:")), 0);
}

static void test_devices_free(void **state)
{
	(void)state;
	static char cuda[] = "cuda", intel[] = "intel", cpu[] = "cpu", ok[] = "ok", lost[] = "lost",
		    uuid[] = "GPU-3f2a00";
	const struct wire_device d[] = {
		{ .index = 0, .kind = cuda, .state = ok, .memory_total_bytes = 10, .memory_free_bytes = 3 },
		{ .index = 1,
			.kind = cuda,
			.state = ok,
			.uuid = uuid,
			.memory_total_bytes = 10,
			.memory_free_bytes = 4 },
		{ .index = 2,
			.kind = cuda,
			.state = lost,
			.memory_total_bytes = 10,
			.memory_free_bytes = 10 },
		{ .index = 3,
			.kind = intel,
			.state = ok,
			.memory_total_bytes = 9,
			.memory_free_bytes = 9,
			.integrated = true },
		{ .index = 4, .kind = cuda, .state = ok },
		{ .kind = cpu, .state = ok, .memory_total_bytes = 99, .memory_free_bytes = 99 },
	};
	static const struct {
		const char *mask;
		size_t n;
		bool gpu;
		uint64_t free;
	} rows[] = { { "auto", 4, true, 7 }, { "auto", 5, true, 0 }, { "0", 6, true, 3 },
		{ "GPU-3f2a", 6, true, 4 }, { "0,1", 6, true, 7 }, { "2", 6, false, 0 }, { "3", 6, true, 9 },
		{ "cpu", 6, false, 0 }, { "auto", 0, false, 0 } };
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct mask m;
		uint64_t got;
		assert_int_equal(mask_parse(view_str(rows[i].mask), &m, NULL), 0);
		bool gpu = gpus_free(d, rows[i].n, &m, &got);
		if (gpu != rows[i].gpu || (gpu && got != rows[i].free))
			fail_msg(
				"%s of %zu: %d, %llu", rows[i].mask, rows[i].n, gpu, (unsigned long long)got);
	}
}

int main(void)
{
	log_set_level((enum log_level)(LOG_ERROR + 1));
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_config_touches_nothing),
		cmocka_unit_test(test_changed_spec),
		cmocka_unit_test(test_changed_spec_fails),
		cmocka_unit_test(test_changed_spec_of_a_failed_pool),
		cmocka_unit_test(test_newest_wins),
		cmocka_unit_test(test_removed_and_back),
		cmocka_unit_test(test_fewer_replicas),
		cmocka_unit_test(test_found_engines_of_another_configuration),
		cmocka_unit_test(test_found_in_the_middle_of_a_replacement),
		cmocka_unit_test(test_preloaded_place_runs_another_configuration),
		cmocka_unit_test(test_strays),
		cmocka_unit_test(test_mem_available),
		cmocka_unit_test(test_devices_free),
	};
	return cmocka_run_group_tests_name("machine", tests, NULL, NULL);
}
