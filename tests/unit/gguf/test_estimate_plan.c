/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "gguf/estimate_graph.h"

enum { UNIT = 32 }; /* bytes of eight numbers, one place of the planner */

static gnode made(struct graph *g, enum graph_kind kind, uint64_t units, gnode a, gnode b)
{
	return graph_add(g, kind, graph_f32(units * 8, 1, 1), a, b, 0);
}

static uint64_t units(struct graph *g)
{
	uint64_t n = graph_plan(g);
	graph_done(g);
	assert_int_equal(n % UNIT, 0);
	return n / UNIT;
}

static void test_a_chain_needs_two_places(void **state)
{
	(void)state;
	struct graph g;
	graph_init(&g, UNIT);
	gnode x = made(&g, GRAPH_INPUT, 1, 0, 0);
	for (int i = 0; i < 10; i++)
		x = made(&g, GRAPH_NEW, 1, x, 0);
	assert_int_equal(units(&g), 2);
}

static void test_in_place_takes_what_nobody_else_uses(void **state)
{
	(void)state;
	struct graph g;
	graph_init(&g, UNIT);
	gnode x = made(&g, GRAPH_INPUT, 1, 0, 0);
	for (int i = 0; i < 10; i++)
		x = made(&g, GRAPH_INPLACE, 1, x, 0);
	assert_int_equal(units(&g), 1);
	/* The first is used again at the end: it keeps its place. */
	graph_init(&g, UNIT);
	gnode first = made(&g, GRAPH_INPUT, 1, 0, 0);
	gnode y = made(&g, GRAPH_INPLACE, 1, first, 0);
	(void)made(&g, GRAPH_INPLACE, 1, y, first);
	assert_int_equal(units(&g), 2);
}

static void test_another_shape_is_not_in_place(void **state)
{
	(void)state;
	struct graph g;
	graph_init(&g, UNIT);
	gnode x = graph_add(&g, GRAPH_INPUT, graph_f32(8, 2, 1), 0, 0, 0);
	(void)graph_add(&g, GRAPH_INPLACE, graph_f32(16, 1, 1), x, 0, 0);
	assert_int_equal(units(&g), 4);
	/* A view of it in that shape gives the place away. */
	graph_init(&g, UNIT);
	x = graph_add(&g, GRAPH_INPUT, graph_f32(8, 2, 1), 0, 0, 0);
	gnode v = graph_view(&g, x, graph_f32(16, 1, 1), false);
	(void)graph_add(&g, GRAPH_INPLACE, graph_f32(16, 1, 1), v, 0, 0);
	assert_int_equal(units(&g), 2);
}

static void test_a_view_keeps_what_it_shows(void **state)
{
	(void)state;
	struct graph g;
	graph_init(&g, UNIT);
	gnode x = made(&g, GRAPH_INPUT, 1, 0, 0);
	gnode v = graph_view(&g, x, graph_f32(8, 1, 1), false);
	gnode y = made(&g, GRAPH_NEW, 1, 0, 0);
	y = made(&g, GRAPH_NEW, 1, y, 0);
	(void)made(&g, GRAPH_NEW, 1, y, v);
	assert_int_equal(units(&g), 3);
	/* Used up at once, it gives what it shows away. */
	graph_init(&g, UNIT);
	x = made(&g, GRAPH_INPUT, 1, 0, 0);
	v = graph_view(&g, x, graph_f32(8, 1, 1), false);
	y = made(&g, GRAPH_NEW, 1, v, 0);
	y = made(&g, GRAPH_NEW, 1, y, 0);
	(void)made(&g, GRAPH_NEW, 1, y, 0);
	assert_int_equal(units(&g), 2);
}

static void test_outputs_stay(void **state)
{
	(void)state;
	struct graph g;
	graph_init(&g, UNIT);
	gnode x = made(&g, GRAPH_NEW, 1, 0, 0);
	g.nodes[x].keep = true;
	x = made(&g, GRAPH_INPLACE, 1, x, 0);
	x = made(&g, GRAPH_NEW, 1, x, 0);
	(void)made(&g, GRAPH_NEW, 1, x, 0);
	assert_int_equal(units(&g), 3);
}

static void test_the_best_hole_is_taken(void **state)
{
	(void)state;
	struct graph g;
	graph_init(&g, UNIT);
	gnode wide = made(&g, GRAPH_INPUT, 4, 0, 0), wall = made(&g, GRAPH_INPUT, 1, 0, 0);
	gnode narrow = made(&g, GRAPH_INPUT, 2, 0, 0), end = made(&g, GRAPH_INPUT, 1, 0, 0);
	(void)graph_view(&g, wide, graph_f32(1, 1, 1), true); /* never used up: nobody looks at it */
	gnode a = made(&g, GRAPH_NEW, 1, narrow, wall);       /* at the end, then two holes */
	gnode b = made(&g, GRAPH_NEW, 2, a, 0);               /* fits the hole of narrow, with that of wall */
	(void)made(&g, GRAPH_NEW, 1, b, end);
	assert_int_equal(units(&g), 9);
}

static void test_weights_take_nothing(void **state)
{
	(void)state;
	struct graph g;
	graph_init(&g, UNIT);
	gnode w = made(&g, GRAPH_WEIGHT, 1000, 0, 0);
	(void)made(&g, GRAPH_INPLACE, 1, w, 0);
	assert_int_equal(units(&g), 1);
}

static void test_numbers_beyond_measure(void **state)
{
	(void)state;
	struct graph g;
	struct graph_shape huge = { .ne = { UINT64_MAX, UINT64_MAX, 2, 1 }, .size = 4 };
	graph_init(&g, UNIT);
	gnode x = 0;
	for (int i = 0; i < 100; i++)
		x = graph_add(&g, GRAPH_NEW, huge, x, 0, 0);
	assert_true(graph_plan(&g) >= 1ull << 60);
	graph_done(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_chain_needs_two_places),
		cmocka_unit_test(test_in_place_takes_what_nobody_else_uses),
		cmocka_unit_test(test_another_shape_is_not_in_place),
		cmocka_unit_test(test_a_view_keeps_what_it_shows),
		cmocka_unit_test(test_outputs_stay),
		cmocka_unit_test(test_the_best_hole_is_taken),
		cmocka_unit_test(test_weights_take_nothing),
		cmocka_unit_test(test_numbers_beyond_measure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
