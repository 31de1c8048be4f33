/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the metrics, for the files of this folder alone.
 */
#ifndef METRICS_METRICS_INT_H
#define METRICS_METRICS_INT_H

#include <pthread.h>

#include "base/map.h"
#include "metrics/metrics.h"

enum {
	METRIC_LABELS_MAX = 3,
	METRIC_LABEL_VALUE_MAX = 256, /* bytes of one label value; the rest is cut */
	METRIC_SERIES_MAX = 10000,    /* of one family */
	METRIC_BUCKETS = 18,
};

/* One row of the table. */
struct metric_family {
	const char *name, *help;
	enum metric_type type;
	const char *labels[METRIC_LABELS_MAX + 1]; /* NULL-terminated */
	bool fractional;                           /* a counter that is no whole number: set, not added to */
};
extern const struct metric_family metric_families[];
extern const size_t metric_family_count;
/* Upper bounds of the buckets, in nanoseconds, rising; the one to infinity follows them. */
extern const int64_t metric_bucket_ns[METRIC_BUCKETS];

struct metric_series {
	const struct metric_family *family;
	char *labels;               /* as exposed: pool="chat",route="/v1/models"; "" without labels */
	bool shown;                 /* false after metrics_clear_family; under the lock of struct metrics */
	atomic_uint_fast64_t value; /* counter; or the bits of a double */
	/* histograms alone: */
	atomic_int_fast64_t sum_ns;
	atomic_uint_fast64_t buckets[]; /* METRIC_BUCKETS + 1, each its own count */
};

struct metric_group {
	struct map series; /* labels -> struct metric_series */
};
struct metric_collector {
	metrics_collect_fn *fn;
	void *arg;
};
struct metrics {
	pthread_mutex_t lock;        /* groups, collectors, and what is shown */
	pthread_mutex_t expose_lock; /* one exposition at a time, collectors included */
	struct metric_group *groups; /* one a family */
	struct metric_collector *collectors;
	size_t ncollectors;
	double start_time;
};

/* Seconds since 1970 at which this process started. */
double metrics_process_start(void);
void metrics_collect_process(struct metrics *m);
void metric_set_double(struct metric_series *s, double v);
double metric_get_double(const struct metric_series *s);

#endif
