/* SPDX-License-Identifier: Apache-2.0 */
#include "sink.h"

#include <unistd.h>

#include "base/num.h"

void start(int fd, enum log_format format, size_t queue)
{
	struct err e = { 0 };
	struct log_opts o = {
		.level = LOG_INFO, .format = format, .actor = "tester", .fd = fd, .queue_bytes = queue
	};
	assert_int_equal(log_start(&o, &e), 0);
}

/* Reads until the other end is closed. */
void read_all(int fd, struct buf *b)
{
	for (;;) {
		char *to = buf_room(b, 4096);
		assert_non_null(to);
		ssize_t k = read(fd, to, 4096);
		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return;
		buf_grew(b, (size_t)k);
	}
}

size_t count(const struct buf *b, const char *what)
{
	size_t n = 0;
	for (struct view v = buf_view(b);;) {
		ptrdiff_t at = view_search(v, view_str(what));
		if (at < 0)
			return n;
		n++;
		v = view_from(v, (size_t)at + 1);
	}
}

/* The numbers before what. */
static uint64_t sum_before(const struct buf *b, const char *what)
{
	uint64_t sum = 0, n;
	struct view v = buf_view(b);
	for (ptrdiff_t at; (at = view_search(v, view_str(what))) >= 0;) {
		size_t from = (size_t)at;
		while (from > 0 && v.p[from - 1] >= '0' && v.p[from - 1] <= '9')
			from--;
		if (num_u64(view_of(v.p + from, (size_t)at - from), &n) == 0)
			sum += n;
		v = view_from(v, (size_t)at + 1);
	}
	return sum;
}

uint64_t told_dropped(const struct buf *b)
{
	return sum_before(b, " lines were dropped") + sum_before(b, " line was dropped");
}

void *reader_main(void *arg)
{
	struct reader *r = arg;
	read_all(r->fd, &r->b);
	return NULL;
}
