/* SPDX-License-Identifier: Apache-2.0
 *
 * process_*: what the kernel says about this process.
 */
#include <dirent.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/num.h"
#include "metrics/metrics_int.h"

/* Field n (counted from 1, as proc(5) does) of /proc/self/stat; 0 when it cannot be read. */
static uint64_t stat_field(unsigned n)
{
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	if (file_read("/proc/self/stat", &b))
		return 0;
	/* The name, in parentheses, may hold anything. */
	struct view v = buf_view(&b), rest = { 0 };
	if (!v.p)
		return 0;
	const char *close = memrchr(v.p, ')', v.n);
	if (!close)
		return 0;
	v = view_from(v, (size_t)(close - v.p) + 2);
	for (unsigned i = 3; i < n; i++, v = rest)
		(void)view_split(v, ' ', &rest);
	uint64_t x = 0;
	return num_u64(view_split(v, ' ', &rest), &x) ? 0 : x;
}

double metrics_process_start(void)
{
	struct timespec boot;
	if (clock_gettime(CLOCK_BOOTTIME, &boot) < 0)
		return 0;
	double up = (double)boot.tv_sec + (double)boot.tv_nsec / 1e9;
	double started = (double)stat_field(22) / (double)sysconf(_SC_CLK_TCK);
	return (double)wall_ms() / 1e3 - up + started;
}

static size_t open_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	if (!d)
		return 0;
	size_t n = 0;
	for (const struct dirent *e; (e = readdir(d));)
		n += e->d_name[0] != '.';
	closedir(d);
	return n ? n - 1 : 0; /* one of them was the folder itself */
}

static void set(struct metrics *m, const char *family, double v)
{
	metric_set_double(metrics_series(m, family, NULL), v);
}

void metrics_collect_process(struct metrics *m)
{
	struct timespec cpu = { 0 };
	struct rlimit fds = { 0 };
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	getrlimit(RLIMIT_NOFILE, &fds);
	set(m, "process_cpu_seconds_total", (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
	set(m, "process_virtual_memory_bytes", (double)stat_field(23));
	set(m, "process_resident_memory_bytes", (double)stat_field(24) * (double)sysconf(_SC_PAGESIZE));
	set(m, "process_open_fds", (double)open_fds());
	set(m, "process_max_fds", (double)fds.rlim_cur);
	set(m, "process_start_time_seconds", m->start_time);
	set(m, "process_threads", (double)stat_field(20));
}
