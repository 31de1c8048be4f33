/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

mono_t mono_now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (mono_t){ (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec };
}

int64_t wall_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void wall_format(int64_t ms, char out[WALL_STR_LEN + 1])
{
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	gmtime_r(&s, &tm);
	char tmp[64];
	snprintf(tmp, sizeof tmp, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1,
		tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(ms % 1000));
	memcpy(out, tmp, WALL_STR_LEN);
	out[WALL_STR_LEN] = '\0';
}

/* "YYYY-MM-DD" and "hh:mm:ss": every character counts. */
static bool digits_at(struct view v, const char *shape)
{
	for (size_t i = 0; shape[i]; i++) {
		if (i >= v.n)
			return false;
		bool digit = v.p[i] >= '0' && v.p[i] <= '9';
		if (shape[i] == '0' ? !digit : v.p[i] != shape[i])
			return false;
	}
	return true;
}

static int two(struct view v, size_t at)
{
	return (v.p[at] - '0') * 10 + (v.p[at + 1] - '0');
}

static int read_offset(struct view v, int64_t *ret_ms)
{
	*ret_ms = 0;
	if (view_eqs(v, "Z") || view_eqs(v, "z"))
		return 0;
	if (v.n != 6 || (v.p[0] != '+' && v.p[0] != '-') || !digits_at(view_from(v, 1), "00:00"))
		return -EINVAL;
	*ret_ms = (int64_t)(two(v, 1) * 60 + two(v, 4)) * 60000 * (v.p[0] == '-' ? -1 : 1);
	return 0;
}

int wall_parse(struct view v, int64_t *ret_ms)
{
	int64_t offset = 0, part = 0;
	if (!digits_at(v, "0000-00-00"))
		return -EINVAL;
	struct tm tm = {
		.tm_year = two(v, 0) * 100 + two(v, 2) - 1900, .tm_mon = two(v, 5) - 1, .tm_mday = two(v, 8)
	};
	if (v.n > 10) {
		if ((v.p[10] != 'T' && v.p[10] != 't' && v.p[10] != ' ') ||
			!digits_at(view_from(v, 11), "00:00:00"))
			return -EINVAL;
		tm.tm_hour = two(v, 11);
		tm.tm_min = two(v, 14);
		tm.tm_sec = two(v, 17);
		size_t i = 19;
		if (i < v.n && v.p[i] == '.')
			for (int64_t unit = 100; ++i < v.n && v.p[i] >= '0' && v.p[i] <= '9'; unit /= 10)
				part += (v.p[i] - '0') * unit;
		if (read_offset(view_from(v, i), &offset))
			return -EINVAL;
	}
	struct tm was = tm;
	time_t t = timegm(&tm); /* puts what does not exist (a 31st of June) elsewhere */
	if (tm.tm_mday != was.tm_mday || tm.tm_mon != was.tm_mon || tm.tm_hour != was.tm_hour ||
		tm.tm_min != was.tm_min || tm.tm_sec != was.tm_sec)
		return -EINVAL;
	*ret_ms = (int64_t)t * 1000 + part - offset;
	return 0;
}
