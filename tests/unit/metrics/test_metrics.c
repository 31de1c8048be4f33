/* SPDX-License-Identifier: Apache-2.0
 *
 * The page as a scraper sees it, and counting from several threads.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "metrics/metrics.h"
#include "metrics/metrics_int.h"

static int setup(void **state)
{
	*state = metrics_new();
	return 0;
}

static int teardown(void **state)
{
	metrics_free(*state);
	return 0;
}

static void page(struct metrics *m, struct buf *b)
{
	buf_reset(b);
	assert_int_equal(metrics_expose(m, b), 0);
}

#define HAS(b, s) assert_non_null(strstr(buf_str(b), s))
#define HAS_NOT(b, s) assert_null(strstr(buf_str(b), s))

static void counters_and_gauges(void **state)
{
	struct metrics *m = *state;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	struct metric_series *c =
		metrics_series(m, "corral_requests_total", "chat", "/v1/models", "200", NULL);
	metric_inc(c);
	metric_add(c, 41);
	assert_int_equal(metric_value(c), 42);
	assert_ptr_equal(c, metrics_series(m, "corral_requests_total", "chat", "/v1/models", "200", NULL));
	metric_set(metrics_series(m, "corral_leases", "b", NULL), 0.1);
	metric_set(metrics_series(m, "corral_leases", "a", NULL), 3);
	metric_set(metrics_series(m, "corral_registry_revision", NULL), 12345678);
	page(m, &b);
	HAS(&b, "# HELP corral_requests_total ");
	HAS(&b, "# TYPE corral_requests_total counter\n");
	HAS(&b, "\ncorral_requests_total{pool=\"chat\",route=\"/v1/models\",code=\"200\"} 42\n");
	HAS(&b, "# TYPE corral_leases gauge\ncorral_leases{pool=\"a\"} 3\ncorral_leases{pool=\"b\"} 0.1\n");
	HAS(&b, "\ncorral_registry_revision 12345678\n");
	HAS(&b, "corral_build_info{version=\"" CORRAL_VERSION "\"} 1\n");
	HAS_NOT(&b, "corral_breaker_state"); /* no series, no head */
	assert_int_equal(buf_str(&b)[b.len - 1], '\n');
}

static void labels_are_escaped(void **state)
{
	struct metrics *m = *state;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	metric_set(metrics_series(m, "corral_leases",
			   "a\"b\\c\nd\xff"
			   "é",
			   NULL),
		1);
	char longer[400];
	memset(longer, 'x', sizeof longer);
	longer[255] = (char)0xc3; /* the bound must not cut this character in two */
	longer[256] = (char)0xa9;
	longer[399] = '\0';
	metric_set(metrics_series(m, "corral_leases", longer, NULL), 2);
	page(m, &b);
	HAS(&b, "corral_leases{pool=\"a\\\"b\\\\c\\nd\xef\xbf\xbd"
		"é\"} 1\n");
	HAS(&b, "xxx\"} 2\n");
}

static void histogram_is_cumulative(void **state)
{
	struct metrics *m = *state;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	struct metric_series *h = metrics_series(m, "corral_queue_wait_seconds", "chat", NULL);
	metric_observe_ns(h, -5);
	metric_observe_ns(h, 1000000); /* le is inclusive */
	metric_observe_ns(h, 1000001);
	metric_observe_ns(h, 600000000000);
	metric_observe_ns(h, 600000000001);
	page(m, &b);
	HAS(&b, "corral_queue_wait_seconds_bucket{pool=\"chat\",le=\"0.001\"} 2\n");
	HAS(&b, "corral_queue_wait_seconds_bucket{pool=\"chat\",le=\"0.0025\"} 3\n");
	HAS(&b, "corral_queue_wait_seconds_bucket{pool=\"chat\",le=\"300\"} 3\n");
	HAS(&b, "corral_queue_wait_seconds_bucket{pool=\"chat\",le=\"600\"} 4\n");
	HAS(&b, "corral_queue_wait_seconds_bucket{pool=\"chat\",le=\"+Inf\"} 5\n");
	HAS(&b, "corral_queue_wait_seconds_sum{pool=\"chat\"} 1200.002");
	HAS(&b, "corral_queue_wait_seconds_count{pool=\"chat\"} 5\n");
}

static void families_are_bounded(void **state)
{
	struct metrics *m = *state;
	AUTO(buf_done) struct buf b = BUF(16 * MIB);
	char v[32];
	for (int i = 0; i < METRIC_SERIES_MAX + 5; i++) {
		snprintf(v, sizeof v, "%d", i);
		metric_inc(metrics_series(m, "corral_requests_total", "p", "r", v, NULL));
	}
	struct metric_series *other = metrics_series(m, "corral_requests_total", "p", "r", "more", NULL);
	assert_int_equal(metric_value(other), 5);
	for (int i = 0; i < 3000; i++) { /* the first label runs away as well */
		snprintf(v, sizeof v, "p%d", i);
		metric_inc(metrics_series(m, "corral_requests_total", v, "r", "x", NULL));
	}
	page(m, &b);
	HAS(&b, "{pool=\"p\",route=\"r\",code=\"other\"} 5\n");
	HAS(&b, "{pool=\"other\",route=\"other\",code=\"other\"} ");
	AUTO(buf_done) struct buf small = BUF(100);
	assert_int_equal(metrics_expose(m, &small), -ENOBUFS);
}

static void set_pool(void *arg, struct metrics *m)
{
	metrics_clear_family(m, "corral_pool_ready");
	metric_set(metrics_series(m, "corral_pool_ready", *(const char **)arg, NULL), 1);
}

static void collectors_set_gauges_anew(void **state)
{
	struct metrics *m = *state;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	const char *pool = "one";
	metrics_on_collect(m, set_pool, &pool);
	page(m, &b);
	HAS(&b, "corral_pool_ready{pool=\"one\"} 1\n");
	pool = "two";
	page(m, &b);
	HAS(&b, "corral_pool_ready{pool=\"two\"} 1\n");
	HAS_NOT(&b, "corral_pool_ready{pool=\"one\"}");
}

static double value_of(const struct buf *b, const char *name)
{
	AUTO(mem_freep) char *head = mem_fmt("\n%s ", name);
	const char *at = strstr(buf_str(b), head);
	assert_non_null(at);
	return strtod(at + strlen(head), NULL);
}

static void process_figures(void **state)
{
	struct metrics *m = *state;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	page(m, &b);
	assert_true(value_of(&b, "process_cpu_seconds_total") > 0);
	assert_true(value_of(&b, "process_resident_memory_bytes") > 100000);
	assert_true(value_of(&b, "process_virtual_memory_bytes") >=
		    value_of(&b, "process_resident_memory_bytes"));
	assert_true(value_of(&b, "process_open_fds") >= 3);
	assert_true(value_of(&b, "process_max_fds") >= value_of(&b, "process_open_fds"));
	assert_true(value_of(&b, "process_threads") >= 1);
	assert_true(value_of(&b, "process_start_time_seconds") > 1.6e9);
	double fds = value_of(&b, "process_open_fds");
	int p[2];
	assert_int_equal(pipe(p), 0);
	page(m, &b);
	assert_true(value_of(&b, "process_open_fds") == fds + 2);
	close(p[0]);
	close(p[1]);
}

enum { ROUNDS = 100000 };
static void *count_many(void *arg)
{
	struct metrics *m = arg;
	struct metric_series *c = metrics_series(m, "corral_log_dropped_total", NULL);
	struct metric_series *h = metrics_series(m, "corral_drain_seconds", "x", NULL);
	for (int i = 0; i < ROUNDS; i++) {
		metric_inc(c);
		metric_observe_ns(h, i * 1000);
		if (i % 5000 == 0)
			metric_set(metrics_series(m, "corral_leases", "x", NULL), i);
	}
	return NULL;
}

static void four_threads_count(void **state)
{
	struct metrics *m = *state;
	pthread_t t[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, count_many, m);
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	for (int i = 0; i < 20; i++)
		page(m, &b);
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	page(m, &b);
	HAS(&b, "\ncorral_log_dropped_total 400000\n");
	HAS(&b, "\ncorral_drain_seconds_count{pool=\"x\"} 400000\n");
}

/* Every family with a series, so that the linter sees the whole table. */
static void fill(struct metrics *m)
{
	for (size_t i = 0; i < metric_family_count; i++) {
		const struct metric_family *f = &metric_families[i];
		size_t n = 0;
		while (f->labels[n])
			n++;
		const char *v[METRIC_LABELS_MAX] = { "a", "b", "c" };
		struct metric_series *s = n == 0   ? metrics_series(m, f->name, NULL)
					  : n == 1 ? metrics_series(m, f->name, v[0], NULL)
					  : n == 2 ? metrics_series(m, f->name, v[0], v[1], NULL)
						   : metrics_series(m, f->name, v[0], v[1], v[2], NULL);
		if (f->type == METRIC_HISTOGRAM)
			metric_observe_ns(s, 12345678);
	}
}

static void promtool_accepts_the_page(void **state)
{
	if (access("/usr/bin/promtool", X_OK) != 0)
		skip();
	struct metrics *m = *state;
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	fill(m);
	page(m, &b);
	FILE *p = popen("/usr/bin/promtool check metrics 1>&2", "w");
	assert_non_null(p);
	assert_int_equal(fwrite(b.data, 1, b.len, p), b.len);
	int st = pclose(p);
	assert_true(WIFEXITED(st));
	assert_int_equal(WEXITSTATUS(st), 0);
}

static void reference_names_every_family(void **state)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	assert_int_equal(metrics_reference(&b), 0);
	for (size_t i = 0; i < metric_family_count; i++) {
		HAS(&b, metric_families[i].name);
		assert_true(strlen(metric_families[i].help) > 5);
	}
	HAS(&b, "| `corral_requests_total` | counter | `pool`, `route`, `code` | ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(counters_and_gauges, setup, teardown),
		cmocka_unit_test_setup_teardown(labels_are_escaped, setup, teardown),
		cmocka_unit_test_setup_teardown(histogram_is_cumulative, setup, teardown),
		cmocka_unit_test_setup_teardown(families_are_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(collectors_set_gauges_anew, setup, teardown),
		cmocka_unit_test_setup_teardown(process_figures, setup, teardown),
		cmocka_unit_test_setup_teardown(four_threads_count, setup, teardown),
		cmocka_unit_test_setup_teardown(promtool_accepts_the_page, setup, teardown),
		cmocka_unit_test(reference_names_every_family),
	};
	return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
