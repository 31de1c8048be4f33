/* SPDX-License-Identifier: Apache-2.0
 *
 * The page and the reference.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "metrics/metrics_int.h"

static const char *const type_names[] = { "counter", "gauge", "histogram" };

/* The shortest of the usual forms that reads back as the same number. */
static int add_double(struct buf *b, double v)
{
	char s[40];
	if (isnan(v))
		return buf_adds(b, "NaN");
	if (isinf(v))
		return buf_adds(b, v > 0 ? "+Inf" : "-Inf");
	for (int digits = 6; digits <= 17; digits++) {
		snprintf(s, sizeof s, "%.*g", digits, v);
		if (strtod(s, NULL) == v)
			break;
	}
	return buf_adds(b, s);
}

/* name{labels} or name, and a space. */
static int add_name(struct buf *b, const char *name, const char *suffix, const char *labels)
{
	if (!labels[0])
		return buf_addf(b, "%s%s ", name, suffix);
	return buf_addf(b, "%s%s{%s} ", name, suffix, labels);
}

static int add_histogram(struct buf *b, const struct metric_series *s)
{
	const char *name = s->family->name, *comma = s->labels[0] ? "," : "";
	uint64_t sum = 0;
	int r = 0;
	for (size_t i = 0; !r && i <= METRIC_BUCKETS; i++) {
		sum += atomic_load_explicit(&s->buckets[i], memory_order_relaxed);
		r = buf_addf(b, "%s_bucket{%s%sle=\"", name, s->labels, comma);
		if (!r)
			r = add_double(b, i < METRIC_BUCKETS ? (double)metric_bucket_ns[i] / 1e9 : INFINITY);
		if (!r)
			r = buf_addf(b, "\"} %llu\n", (unsigned long long)sum);
	}
	if (!r)
		r = add_name(b, name, "_sum", s->labels);
	if (!r)
		r = add_double(b, (double)atomic_load_explicit(&s->sum_ns, memory_order_relaxed) / 1e9);
	if (!r)
		r = buf_addc(b, '\n');
	if (!r)
		r = add_name(b, name, "_count", s->labels);
	return r ? r : buf_addf(b, "%llu\n", (unsigned long long)sum);
}

static int add_series(struct buf *b, const struct metric_series *s)
{
	if (s->family->type == METRIC_HISTOGRAM)
		return add_histogram(b, s);
	int r = add_name(b, s->family->name, "", s->labels);
	if (r)
		return r;
	if (s->family->type == METRIC_COUNTER && !s->family->fractional)
		return buf_addf(b, "%llu\n", (unsigned long long)metric_value(s));
	r = add_double(b, metric_get_double(s));
	return r ? r : buf_addc(b, '\n');
}

static int by_labels(const void *a, const void *b)
{
	const struct metric_series *const *x = a, *const *y = b;
	return strcmp((*x)->labels, (*y)->labels);
}

static int add_family(struct buf *b, const struct metric_family *f, struct metric_group *g)
{
	AUTO(mem_freep)
	const struct metric_series **shown = mem_alloc((map_len(&g->series) + 1) * sizeof *shown);
	size_t n = 0;
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&g->series, &i));) {
		const struct metric_series *s = e->value;
		if (s->shown)
			shown[n++] = s;
	}
	if (!n)
		return 0;
	qsort(shown, n, sizeof *shown, by_labels);
	int r = buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n", f->name, f->help, f->name, type_names[f->type]);
	for (size_t i = 0; !r && i < n; i++)
		r = add_series(b, shown[i]);
	return r;
}

static void collect(struct metrics *m)
{
	metrics_collect_process(m);
	for (size_t i = 0;; i++) {
		pthread_mutex_lock(&m->lock);
		bool more = i < m->ncollectors;
		struct metric_collector c = more ? m->collectors[i] : (struct metric_collector){ 0 };
		pthread_mutex_unlock(&m->lock);
		if (!more)
			return;
		c.fn(c.arg, m); /* makes series: the lock must be free */
	}
}

int metrics_expose(struct metrics *m, struct buf *b)
{
	pthread_mutex_lock(&m->expose_lock);
	collect(m);
	pthread_mutex_lock(&m->lock);
	int r = 0;
	for (size_t i = 0; !r && i < metric_family_count; i++)
		r = add_family(b, &metric_families[i], &m->groups[i]);
	pthread_mutex_unlock(&m->lock);
	pthread_mutex_unlock(&m->expose_lock);
	return r;
}

int metrics_reference(struct buf *b)
{
	int r = buf_adds(b, "| metric | type | labels | meaning |\n|---|---|---|---|\n");
	for (size_t i = 0; !r && i < metric_family_count; i++) {
		const struct metric_family *f = &metric_families[i];
		r = buf_addf(b, "| `%s` | %s | ", f->name, type_names[f->type]);
		for (size_t l = 0; !r && f->labels[l]; l++)
			r = buf_addf(b, "%s`%s`", l ? ", " : "", f->labels[l]);
		if (!r)
			r = buf_addf(b, " | %s |\n", f->help);
	}
	return r;
}
