/* SPDX-License-Identifier: Apache-2.0
 *
 * Series: made under a lock, counted without one.
 */
#include "metrics/metrics.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "metrics/metrics_int.h"

/* Above METRIC_SERIES_MAX only series called "other" are made, and of those no more than this. */
enum { OTHER_MAX = 1000 };

struct metrics *metrics_new(void)
{
	struct metrics *m = NEW(struct metrics);
	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->expose_lock, NULL);
	m->groups = mem_alloc(metric_family_count * sizeof *m->groups);
	for (size_t i = 0; i < metric_family_count; i++)
		map_init(&m->groups[i].series);
	m->start_time = metrics_process_start();
	metric_set(metrics_series(m, "corral_build_info", CORRAL_VERSION, NULL), 1);
	return m;
}

void metrics_free(struct metrics *m)
{
	if (!m)
		return;
	for (size_t i = 0; i < metric_family_count; i++) {
		struct map_entry *e;
		for (size_t j = 0; (e = map_next(&m->groups[i].series, &j));) {
			struct metric_series *s = e->value;
			free(s->labels);
			free(s);
		}
		map_done(&m->groups[i].series);
	}
	free(m->groups);
	free(m->collectors);
	pthread_mutex_destroy(&m->lock);
	pthread_mutex_destroy(&m->expose_lock);
	free(m);
}

static size_t family_index(const char *name)
{
	size_t i = 0;
	while (i < metric_family_count && strcmp(metric_families[i].name, name) != 0)
		i++;
	assert(i < metric_family_count && "a metric must stand in metrics_table.c");
	return i;
}

/* Appends a label value: UTF-8, escaped, cut at its bound. */
static void add_label_value(struct buf *b, struct view v)
{
	for (size_t i = 0; i < v.n;) {
		size_t n = utf8_len(view_from(v, i));
		if (i + MAX(n, (size_t)1) > METRIC_LABEL_VALUE_MAX)
			break;
		char c = v.p[i];
		if (c == '\\' || c == '"')
			(void)buf_addf(b, "\\%c", c);
		else if (c == '\n')
			(void)buf_adds(b, "\\n");
		else if (n)
			(void)buf_add(b, v.p + i, n);
		else
			(void)buf_adds(b, "\xef\xbf\xbd");
		i += n ? n : 1;
	}
}

static void add_labels(struct buf *b, const struct metric_family *f, const char *const *values, size_t n)
{
	buf_reset(b);
	for (size_t i = 0; i < n; i++) {
		(void)buf_addf(b, "%s%s=\"", i ? "," : "", f->labels[i]);
		add_label_value(b, view_str(values[i]));
		(void)buf_addc(b, '"');
	}
}

static struct metric_series *series_new(const struct metric_family *f, const char *labels)
{
	size_t buckets = f->type == METRIC_HISTOGRAM ? METRIC_BUCKETS + 1 : 0;
	struct metric_series *s = mem_alloc(sizeof *s + buckets * sizeof s->buckets[0]);
	s->family = f;
	s->labels = mem_strdup(labels);
	return s;
}

/* The series with these label values. The lock is held. */
static struct metric_series *find_or_make(
	struct metric_group *g, const struct metric_family *f, const char *const *given, size_t n)
{
	AUTO(buf_done) struct buf b = BUF(8 * KIB);
	const char *values[METRIC_LABELS_MAX];
	memcpy(values, given, sizeof values);
	add_labels(&b, f, values, n);
	struct metric_series *s = map_get(&g->series, buf_view(&b));
	if (!s && n && map_len(&g->series) >= METRIC_SERIES_MAX) {
		values[n - 1] = "other";
		for (size_t i = 0; map_len(&g->series) >= METRIC_SERIES_MAX + OTHER_MAX && i < n; i++)
			values[i] = "other";
		add_labels(&b, f, values, n);
		s = map_get(&g->series, buf_view(&b));
	}
	if (!s) {
		s = series_new(f, buf_str(&b));
		map_put(&g->series, buf_view(&b), s);
	}
	s->shown = true;
	return s;
}

struct metric_series *metrics_series(struct metrics *m, const char *family, ...)
{
	size_t fi = family_index(family), n = 0;
	const struct metric_family *f = &metric_families[fi];
	const char *values[METRIC_LABELS_MAX] = { NULL };
	va_list ap;
	va_start(ap, family);
	for (const char *v; (v = va_arg(ap, const char *)); n++) {
		assert(n < METRIC_LABELS_MAX && f->labels[n] &&
			"more label values than the family has labels");
		values[n] = v;
	}
	va_end(ap);
	assert(!f->labels[n] && "fewer label values than the family has labels");
	pthread_mutex_lock(&m->lock);
	struct metric_series *s = find_or_make(&m->groups[fi], f, values, n);
	pthread_mutex_unlock(&m->lock);
	return s;
}

void metric_add(struct metric_series *s, uint64_t n)
{
	assert(s->family->type == METRIC_COUNTER && !s->family->fractional);
	atomic_fetch_add_explicit(&s->value, n, memory_order_relaxed);
}

uint64_t metric_value(const struct metric_series *s)
{
	return atomic_load_explicit(&s->value, memory_order_relaxed);
}

void metric_set_double(struct metric_series *s, double v)
{
	uint64_t bits;
	memcpy(&bits, &v, sizeof bits);
	atomic_store_explicit(&s->value, bits, memory_order_relaxed);
}

double metric_get_double(const struct metric_series *s)
{
	uint64_t bits = atomic_load_explicit(&s->value, memory_order_relaxed);
	double v;
	memcpy(&v, &bits, sizeof v);
	return v;
}

void metric_set(struct metric_series *s, double v)
{
	assert(s->family->type == METRIC_GAUGE);
	metric_set_double(s, v);
}

void metric_observe_ns(struct metric_series *s, int64_t ns)
{
	assert(s->family->type == METRIC_HISTOGRAM);
	ns = MAX(ns, (int64_t)0);
	size_t i = 0;
	while (i < METRIC_BUCKETS && ns > metric_bucket_ns[i])
		i++;
	atomic_fetch_add_explicit(&s->buckets[i], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&s->sum_ns, ns, memory_order_relaxed);
}

void metrics_on_collect(struct metrics *m, metrics_collect_fn *fn, void *arg)
{
	pthread_mutex_lock(&m->lock);
	m->collectors = mem_realloc(m->collectors, (m->ncollectors + 1) * sizeof *m->collectors);
	m->collectors[m->ncollectors++] = (struct metric_collector){ fn, arg };
	pthread_mutex_unlock(&m->lock);
}

void metrics_clear_family(struct metrics *m, const char *family)
{
	size_t fi = family_index(family);
	assert(metric_families[fi].type == METRIC_GAUGE);
	pthread_mutex_lock(&m->lock);
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&m->groups[fi].series, &i));)
		((struct metric_series *)e->value)->shown = false;
	pthread_mutex_unlock(&m->lock);
}
