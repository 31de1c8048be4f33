/* SPDX-License-Identifier: Apache-2.0
 *
 * The store by itself: a file that is damaged while it is open loses nothing that was known.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "registry/store.h"

enum { ROWS = 1000, VALUE = 8000, FLUSH_MS = 60000 };

static char dir[64];

static int make_dir(void **state)
{
	(void)state;
	snprintf(dir, sizeof dir, "/tmp/store-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	(void)state;
	static const char *const names[] = { "registry.db", "registry.db-wal", "registry.db-shm",
		"registry.db.corrupt-1", "registry.db.corrupt-1-wal", "registry.db.corrupt-1-shm" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		AUTO(mem_freep) char *p = path_join(dir, names[i]);
		unlink(p);
	}
	return rmdir(dir);
}

struct seen {
	size_t n, marks;
	bool late;
};

static void on_row(void *arg, struct view kind, struct view key, struct view value)
{
	struct seen *s = arg;
	s->n += !view_eqs(kind, "store"); /* its own */
	s->marks += view_eqs(kind, "pool") && view_eqs(key, "chat") && view_eqs(value, "{}");
	s->late |= view_eqs(kind, "pool") && view_eqs(key, "late");
}

/* Every page, in place: what a failing disk or another program does. */
static void damage(const char *path)
{
	struct stat st;
	AUTO(fd_closep) int fd = open(path, O_RDWR | O_CLOEXEC);
	char junk[4096];
	memset(junk, 'x', sizeof junk);
	assert_true(fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0);
	for (off_t at = 0; at < st.st_size; at += (off_t)sizeof junk)
		assert_int_equal(pwrite(fd, junk, sizeof junk, at), (ssize_t)sizeof junk);
}

static void fill(struct store *s)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	for (int i = 0; i < VALUE; i++)
		buf_addc(&b, 'v');
	/* More than SQLite keeps in memory, or it would never look at the file again. */
	for (int i = 0; i < ROWS; i++) {
		AUTO(mem_freep) char *key = mem_fmt("replica-%d", i * 7919 % ROWS);
		store_put(s, "error", view_str(key), buf_str(&b), false);
	}
	store_put(s, "pool", VIEW("chat"), "{}", true);
	store_put(s, "pool", VIEW("gone"), "{}", true);
	assert_int_equal(store_flush(s, FLUSH_MS), 0);
	store_put(s, "pool", VIEW("gone"), NULL, true);
	assert_int_equal(store_flush(s, FLUSH_MS), 0);
}

static void test_damaged_while_open(void **state)
{
	(void)state;
	AUTO(mem_freep) char *path = path_join(dir, "registry.db"), *aside = mem_fmt("%s.corrupt-1", path);
	AUTO(mem_freep) char *wal = mem_fmt("%s-wal", path);
	struct seen first = { 0 }, after = { 0 };
	struct store *s = store_open(path, on_row, &first);
	fill(s);
	store_close(s);
	s = store_open(path, on_row, &first); /* known because it was read, not because it was written */
	assert_int_equal(first.n, ROWS + 1);
	store_put(s, "pool", VIEW("brief"), "{}", false);
	assert_int_equal(store_flush(s, FLUSH_MS), 0);
	damage(path);
	damage(wal);
	for (int i = 0; i < 64 && !file_exists(aside); i++) {
		AUTO(mem_freep) char *key = mem_fmt("replica-%d", i * 15);
		store_put(s, "error", view_str(key), "another", false);
		while (store_flush(s, FLUSH_MS) == -EIO) /* the attempt that finds it out */
			;
	}
	assert_true(file_exists(aside));
	store_put(s, "pool", VIEW("late"), "{}", false);
	assert_int_equal(store_flush(s, FLUSH_MS), 0);
	struct store_status st;
	store_status(s, &st);
	assert_false(st.failing);
	store_close(s);
	s = store_open(path, on_row, &after);
	assert_int_equal(after.n, ROWS + 3);
	assert_int_equal(after.marks, 1);
	assert_true(after.late);
	store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_damaged_while_open, make_dir, remove_dir),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
