/* SPDX-License-Identifier: Apache-2.0
 *
 * Counters, gauges and histograms in Prometheus' text format (version 0.0.4). A series is looked up
 * once and then counted with one relaxed atomic addition, from any thread. Families come from one
 * table (metrics_table.c), which is also the reference in docs/: a metric that is not in the table
 * cannot be counted.
 */
#ifndef METRICS_METRICS_H
#define METRICS_METRICS_H

#include <stdatomic.h>

#include "base/buf.h"

enum metric_type { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };

struct metrics;
struct metric_series; /* lives as long as its struct metrics */

struct metrics *metrics_new(void) MUST_CHECK;
void metrics_free(struct metrics *m);

/* The series of a family with these label values (in the family's order; NULL-terminated list as
 * varargs), made when new. Takes a lock: keep the pointer. An unknown family or a wrong number of
 * labels is a bug (assert). A family holds at most 10,000 series; above it the last label value becomes
 * "other". */
struct metric_series *metrics_series(struct metrics *m, const char *family, ...) __attribute__((sentinel));

/* Counter. A total that somebody else keeps is followed by a collector:
 * metric_add(s, total() - metric_value(s)). */
void metric_add(struct metric_series *s, uint64_t n);
static inline void metric_inc(struct metric_series *s)
{
	metric_add(s, 1);
}
void metric_set(struct metric_series *s, double v);          /* gauge */
void metric_observe_ns(struct metric_series *s, int64_t ns); /* histogram in seconds */
uint64_t metric_value(const struct metric_series *s);        /* counter */

/* Called before each exposition, to set gauges from live state. Any number of them. */
typedef void metrics_collect_fn(void *arg, struct metrics *m);
void metrics_on_collect(struct metrics *m, metrics_collect_fn *fn, void *arg);
/* Hides all series of a gauge family until metrics_series names them again, for collectors that set it anew.
 */
void metrics_clear_family(struct metrics *m, const char *family);

/* Appends the whole page, families in the table's order, series sorted; process_* included. */
int metrics_expose(struct metrics *m, struct buf *b) MUST_CHECK;
/* The reference page in Markdown, from the table. */
int metrics_reference(struct buf *b) MUST_CHECK;

#endif
