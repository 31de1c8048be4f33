/* SPDX-License-Identifier: Apache-2.0
 *
 * The reconciler: `corral reload`, alone and beside what else happens.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "base/mem.h"
#include "log/log.h"
#include "machine.h"

static const char *override_of(struct world *w)
{
	static char text[64];
	AUTO(registry_snapshot_unrefp)
	const struct registry_snapshot *s = registry_snapshot_ref(w->registry);
	const struct registry_pool *rp = registry_snapshot_pool(s, VIEW("a"));
	snprintf(text, sizeof text, "%s", rp && rp->override.model ? rp->override.model : "-");
	return text;
}

/* a-0 serves, and a-1 is wanted for another model in its place. */
static void world_reloads(struct world *w)
{
	world_start(w, ONE);
	say(w);
	starts_ready(w, "a-0");
	reload(w, "/m/two.gguf");
	assert_true(wait_for(w, is_wanted, "a-1"));
}

static void test_reload(void **state)
{
	(void)state;
	struct world w;
	struct err e = { 0 };
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	assert_int_equal(control_reload(w.control, pool_a(&w), NULL, "bob", NULL, NULL, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "ann"));
	assert_true(wait_for(&w, is_wanted, "a-1"));
	assert_string_equal(want(&w, "a-1")->model, "/m/two.gguf");
	assert_null(want(&w, "a-0")->model);
	assert_string_equal(override_of(&w), "-");
	becomes(&w, "a-1", REPLICA_PROVING, NULL);
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_done, NULL));
	assert_true(w.done.ok && !w.done.swapped);
	assert_string_equal(override_of(&w), "/m/two.gguf");
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	vanishes(&w, "a-0");
	set_config(&w, ONE_CTX); /* other values, the same model: what was chosen stays */
	assert_true(wait_for(&w, is_wanted, "a-0"));
	assert_string_equal(want(&w, "a-0")->model, "/m/two.gguf");
	becomes(&w, "a-0", REPLICA_READY, NULL);
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	vanishes(&w, "a-1");
	set_config(&w, OTHER_MODEL); /* another model: it goes */
	assert_string_equal(override_of(&w), "-");
	assert_true(wait_for(&w, is_wanted, "a-1"));
	assert_null(want(&w, "a-1")->model);
	world_end(&w);
}

static void test_reload_fails(void **state)
{
	(void)state;
	struct world w;
	world_reloads(&w);
	becomes(&w, "a-1", REPLICA_BACKOFF, "it crashed");
	assert_true(wait_for(&w, is_done, NULL));
	assert_false(w.done.ok);
	assert_string_equal(w.message, "it crashed");
	assert_string_equal(override_of(&w), "-");
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	assert_non_null(want(&w, "a-0"));
	world_end(&w);
}

static void test_reload_meets_configuration(void **state)
{
	(void)state;
	struct world w;
	world_reloads(&w);
	set_config(&w, ONE_CTX);
	assert_true(wait_for(&w, is_wanted, "a-2")); /* the order stands, with the newest values */
	assert_string_equal(want(&w, "a-2")->model, "/m/two.gguf");
	assert_int_equal(w.ndone, 0);
	set_config(&w, OTHER_MODEL);
	assert_int_equal(w.ndone, 1);
	assert_false(w.done.ok);
	assert_non_null(strstr(w.message, "another model"));
	world_end(&w);
}

static void test_stop_and_remove_during_reload(void **state)
{
	(void)state;
	struct world w;
	world_reloads(&w);
	control_disable(w.control, pool_a(&w), 1000, "bob");
	assert_int_equal(w.ndone, 1);
	assert_false(w.done.ok);
	assert_true(wait_for(&w, is_unwanted, "a-1"));
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	char why[256];
	assert_true(control_refuses(w.control, pool_a(&w), why, sizeof why));
	assert_non_null(strstr(why, "disabled by bob at "));
	struct err e = { 0 };
	assert_int_equal(control_reload(w.control, pool_a(&w), NULL, "ann", NULL, NULL, &e), -EBUSY);
	control_start(w.control, pool_a(&w), "ann"); /* stays down */
	vanishes(&w, "a-0");
	rounds(&w);
	assert_int_equal(w.wants.nwants, 0);
	control_enable(w.control, pool_a(&w), "bob");
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	set_config(&w, POOL("b", "model: /m/b.gguf"));
	assert_int_equal(w.ndone, 1);
	assert_false(w.done.ok);
	world_end(&w);
}

/* Who sees "unloaded" may start another engine: it is said when the order is carried out, no sooner. */
static void test_stop_state(void **state)
{
	(void)state;
	static const enum replica_state states[] = { REPLICA_STARTING, REPLICA_READY };
	for (size_t i = 0; i < ARRAY_LEN(states); i++) {
		struct world w;
		world_start(&w, ONE);
		say(&w);
		control_start(w.control, pool_a(&w), "ann");
		assert_true(wait_for(&w, is_wanted, "a-0"));
		becomes(&w, "a-0", states[i], NULL);
		control_stop(w.control, pool_a(&w), 1000, "ann", NULL, NULL);
		assert_int_equal(control_pool_state(w.control, pool_a(&w)), POOL_STATE_DRAINING);
		assert_true(wait_for(&w, is_unwanted, "a-0"));
		vanishes(&w, "a-0");
		struct err e = { 0 };
		assert_int_equal(control_pool_state(w.control, pool_a(&w)), POOL_STATE_DRAINING);
		assert_int_equal(control_reload(w.control, pool_a(&w), NULL, "ann", NULL, NULL, &e), -EBUSY);
		rounds(&w);
		assert_int_equal(control_pool_state(w.control, pool_a(&w)), POOL_STATE_UNLOADED);
		assert_int_equal(control_reload(w.control, pool_a(&w), NULL, "ann", NULL, NULL, &e), 0);
		world_end(&w);
	}
}

static void test_reload_forgets(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, ONE);
	say(&w);
	starts_ready(&w, "a-0");
	reload(&w, "/m/two.gguf");
	control_forget(w.control, pool_a(&w), &w);
	assert_true(wait_for(&w, is_wanted, "a-1"));
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, no_reload, NULL)); /* it goes on */
	assert_int_equal(w.ndone, 0);
	assert_string_equal(override_of(&w), "/m/two.gguf");
	world_end(&w);
}

/* What no memory holds beside another: the old one ends first; when the new one fails, the old kind is back.
 */
static void swap(bool works)
{
	struct world w;
	world_start(&w, ONE);
	w.size_bytes = (uint64_t)1 << 60;
	say(&w);
	starts_ready(&w, "a-0");
	struct lease l = lease(&w);
	reload(&w, NULL);
	rounds(&w);
	assert_null(want(&w, "a-1"));
	assert_non_null(want(&w, "a-0"));
	assert_int_equal(lease_release(&l), 0);
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	assert_null(want(&w, "a-1"));
	vanishes(&w, "a-0");
	assert_true(wait_for(&w, is_wanted, "a-0"));
	assert_int_equal(w.ndone, 0);
	becomes(&w, "a-0", works ? REPLICA_READY : REPLICA_FAILED, works ? NULL : "too large");
	if (!works) {
		assert_true(wait_for(&w, is_unwanted, "a-0"));
		vanishes(&w, "a-0");
		assert_true(wait_for(&w, is_wanted, "a-0"));
		assert_int_equal(w.ndone, 0); /* told once it serves again */
		becomes(&w, "a-0", REPLICA_READY, NULL);
	}
	assert_true(wait_for(&w, is_done, NULL));
	assert_true(w.done.ok == works && w.done.swapped);
	assert_string_equal(w.message, works ? "" : "too large");
	assert_non_null(want(&w, "a-0"));
	world_end(&w);
}

static void test_swap(void **state)
{
	(void)state;
	swap(true);
	swap(false);
}

/* Another configuration comes when the old engine has given way already: the pool does not stay down. */
static void test_swap_meets_configuration(void **state)
{
	(void)state;
	struct world w;
	world_start(&w, POOL("a", "model: /m/one.gguf"));
	w.size_bytes = (uint64_t)1 << 60;
	say(&w);
	control_start(w.control, pool_a(&w), "ann");
	starts_ready(&w, "a-0");
	set_config(&w, POOL("a", "model: /m/one.gguf, ctx: 4096"));
	assert_true(wait_for(&w, is_unwanted, "a-0"));
	set_config(&w, POOL("a", "model: /m/one.gguf, ctx: 2048"));
	assert_true(wait_for(&w, is_wanted, "a-1"));
	AUTO(mem_freep) char *spec = mem_strdup(want(&w, "a-1")->spec);
	vanishes(&w, "a-0");
	becomes(&w, "a-1", REPLICA_READY, NULL);
	assert_true(wait_for(&w, in_pool, "a-1"));
	set_config(&w, POOL("a", "model: /m/one.gguf, ctx: 2048"));
	rounds(&w);
	assert_string_equal(want(&w, "a-1")->spec, spec); /* it was of the newest */
	assert_int_equal(w.wants.nwants, 1);
	world_end(&w);
}

int main(void)
{
	log_set_level((enum log_level)(LOG_ERROR + 1));
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reload),
		cmocka_unit_test(test_reload_fails),
		cmocka_unit_test(test_reload_meets_configuration),
		cmocka_unit_test(test_stop_and_remove_during_reload),
		cmocka_unit_test(test_stop_state),
		cmocka_unit_test(test_reload_forgets),
		cmocka_unit_test(test_swap),
		cmocka_unit_test(test_swap_meets_configuration),
	};
	return cmocka_run_group_tests_name("machine_reload", tests, NULL, NULL);
}
