/* SPDX-License-Identifier: Apache-2.0 */
#include "base/num.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>

int num_u64(struct view v, uint64_t *ret)
{
	if (v.n == 0)
		return -EINVAL;
	uint64_t x = 0;
	for (size_t i = 0; i < v.n; i++) {
		unsigned d = (unsigned char)v.p[i] - '0';
		if (d > 9)
			return -EINVAL;
		if (__builtin_mul_overflow(x, 10u, &x) || __builtin_add_overflow(x, d, &x))
			return -ERANGE;
	}
	*ret = x;
	return 0;
}

/* Reads digits with an optional fraction; returns the bytes used, 0 when there is no number. */
static size_t read_decimal(struct view v, double *ret)
{
	double x = 0, scale = 1;
	size_t i = 0, digits = 0;
	for (; i < v.n && isdigit((unsigned char)v.p[i]); i++, digits++)
		x = x * 10 + (v.p[i] - '0');
	if (i < v.n && v.p[i] == '.') {
		for (i++; i < v.n && isdigit((unsigned char)v.p[i]); i++, digits++) {
			scale /= 10;
			x += (v.p[i] - '0') * scale;
		}
	}
	*ret = x;
	return digits ? i : 0;
}

int num_size(struct view v, uint64_t *ret_bytes)
{
	static const struct {
		const char *name;
		double mult;
	} units[] = {
		{ "", 1 },
		{ "B", 1 },
		{ "KiB", 0x1p10 },
		{ "MiB", 0x1p20 },
		{ "GiB", 0x1p30 },
		{ "TiB", 0x1p40 },
		{ "K", 0x1p10 },
		{ "M", 0x1p20 },
		{ "G", 0x1p30 },
		{ "T", 0x1p40 },
		{ "KB", 1e3 },
		{ "MB", 1e6 },
		{ "GB", 1e9 },
		{ "TB", 1e12 },
	};
	double x;
	size_t i = read_decimal(v, &x);
	if (!i)
		return -EINVAL;
	struct view unit = view_trim(view_from(v, i));
	for (size_t u = 0; u < ARRAY_LEN(units); u++) {
		if (!view_eq_ci(unit, view_str(units[u].name)))
			continue;
		x *= units[u].mult;
		if (x >= 0x1p63)
			return -ERANGE;
		*ret_bytes = (uint64_t)llround(x);
		return 0;
	}
	return -EINVAL;
}

int num_duration_ms(struct view v, int64_t *ret_ms)
{
	static const struct {
		const char *name;
		double ms;
	} units[] = { { "ms", 1 }, { "s", 1e3 }, { "m", 6e4 }, { "min", 6e4 }, { "h", 3.6e6 },
		{ "d", 8.64e7 } };
	double total = 0;
	if (v.n == 0)
		return -EINVAL;
	while (v.n) {
		double x;
		size_t i = read_decimal(v, &x);
		if (!i)
			return -EINVAL;
		size_t j = i;
		while (j < v.n && isalpha((unsigned char)v.p[j]))
			j++;
		struct view unit = { v.p + i, j - i };
		double ms = 0;
		if (unit.n == 0 && j == v.n)
			ms = 1e3;
		for (size_t u = 0; u < ARRAY_LEN(units); u++)
			if (view_eqs(unit, units[u].name))
				ms = units[u].ms;
		if (ms == 0)
			return -EINVAL;
		total += x * ms;
		v = view_from(v, j);
	}
	if (total > 0x1p62)
		return -ERANGE;
	*ret_ms = (int64_t)llround(total);
	return 0;
}

void num_format_bytes(uint64_t bytes, char *out, size_t cap)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double x = (double)bytes;
	size_t u = 0;
	while (x >= 1024 && u + 1 < ARRAY_LEN(units)) {
		x /= 1024;
		u++;
	}
	snprintf(out, cap, u == 0 || x >= 100 ? "%.0f %s" : "%.1f %s", x, units[u]);
}

void num_format_duration(int64_t ms, char *out, size_t cap)
{
	if (ms < 1000) {
		snprintf(out, cap, "%lldms", (long long)ms);
		return;
	}
	int64_t s = ms / 1000, h = s / 3600, m = s / 60 % 60;
	s %= 60;
	if (h)
		snprintf(out, cap, m ? "%lldh%lldm" : "%lldh", (long long)h, (long long)m);
	else if (m)
		snprintf(out, cap, s ? "%lldm%llds" : "%lldm", (long long)m, (long long)s);
	else
		snprintf(out, cap, "%llds", (long long)s);
}
