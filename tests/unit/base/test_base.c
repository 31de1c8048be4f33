/* SPDX-License-Identifier: Apache-2.0
 *
 * Containers, files, clocks and errors.
 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/fd.h"
#include "base/list.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/rnd.h"

static void buf_keeps_its_bound(void **state)
{
	AUTO(buf_done) struct buf b = BUF(10);
	assert_string_equal(buf_str(&b), "");
	assert_int_equal(buf_add(&b, NULL, 0), 0);
	assert_int_equal(buf_adds(&b, "12345"), 0);
	assert_int_equal(buf_adds(&b, "678901"), -ENOBUFS);
	assert_string_equal(buf_str(&b), "12345");
	assert_int_equal(buf_addf(&b, "%d", 123456), -ENOBUFS);
	assert_int_equal(buf_addf(&b, "%d", 67890), 0);
	assert_string_equal(buf_str(&b), "1234567890");
	assert_int_equal(buf_addc(&b, 'x'), -ENOBUFS);
	assert_int_equal(buf_add(&b, "", 0), 0);
	assert_null(buf_room(&b, 1));
	assert_null(buf_room(&b, SIZE_MAX));
	buf_consume(&b, 4);
	assert_string_equal(buf_str(&b), "567890");
	buf_consume(&b, 0);
	buf_consume(&b, 6);
	assert_int_equal(b.len, 0);
	AUTO(buf_done) struct buf none = BUF(0);
	assert_int_equal(buf_addc(&none, 'x'), -ENOBUFS);
}

static void buf_formats_and_moves(void **state)
{
	struct buf b = BUF(1 * MIB);
	char longer[1000];
	memset(longer, 'y', sizeof longer);
	longer[999] = '\0';
	assert_int_equal(buf_addf(&b, "<%s>", longer), 0); /* longer than the small buffer inside */
	assert_int_equal(b.len, 1001);
	assert_int_equal(b.data[1000], '>');
	AUTO(mem_freep) char *s = buf_take(&b);
	assert_int_equal(strlen(s), 1001);
	assert_int_equal(b.len, 0);
	AUTO(mem_freep) char *empty = buf_take(&b);
	assert_string_equal(empty, "");
	char *to = buf_room(&b, 3);
	memcpy(to, "abc", 3);
	buf_grew(&b, 2);
	assert_string_equal(buf_str(&b), "ab");
	buf_reset(&b);
	assert_string_equal(buf_str(&b), "");
	buf_done(&b);
	buf_done(&b);
}

struct item {
	int n;
	struct list node;
};

static void list_moves_and_survives_removal(void **state)
{
	struct item items[6];
	struct list a, b;
	list_init(&a);
	list_init(&b);
	assert_null(list_first(&a));
	assert_null(list_pop(&a));
	for (int i = 0; i < 6; i++) {
		items[i].n = i;
		list_append(i < 4 ? &a : &b, &items[i].node);
	}
	LIST_FOREACH(it, &a, struct item, node)
	if (it->n % 2)
		list_remove(&it->node);
	list_remove(&items[1].node); /* again: no harm */
	list_prepend(&a, &items[1].node);
	list_splice(&a, &b);
	list_splice(&a, &b); /* empty */
	assert_true(list_empty(&b));
	static const int want[] = { 1, 0, 2, 4, 5 };
	size_t k = 0;
	LIST_FOREACH(it, &a, struct item, node)
	assert_int_equal(it->n, want[k++]);
	assert_int_equal(k, 5);
	assert_ptr_equal(LIST_ENTRY(list_pop(&a), struct item, node), &items[1]);
}

/* A model of the map: keys in order of insertion. */
enum { KEYS = 60 };
struct model {
	int order[KEYS];
	size_t len;
	intptr_t values[KEYS]; /* 0 = absent */
};

static void model_put(struct model *m, int k, intptr_t v)
{
	if (!m->values[k])
		m->order[m->len++] = k;
	m->values[k] = v;
}

static void model_del(struct model *m, int k)
{
	size_t w = 0;
	for (size_t i = 0; i < m->len; i++)
		if (m->order[i] != k)
			m->order[w++] = m->order[i];
	m->len = w;
	m->values[k] = 0;
}

static void map_equals_model(const struct map *map, const struct model *m)
{
	assert_int_equal(map_len(map), m->len);
	struct map_entry *e;
	size_t i = 0, k = 0;
	for (; (e = map_next(map, &i)); k++) {
		char key[16];
		snprintf(key, sizeof key, "k%d", m->order[k]);
		assert_string_equal(e->key, key);
		assert_true((intptr_t)e->value == m->values[m->order[k]]);
	}
	assert_int_equal(k, m->len);
}

static void map_against_a_model(void **state)
{
	struct rnd r;
	rnd_seed(&r, 42);
	struct map map;
	struct model m = { 0 };
	map_init(&map);
	for (int i = 0; i < 50000; i++) {
		int k = (int)rnd_below(&r, KEYS);
		char key[16];
		int n = snprintf(key, sizeof key, "k%d", k);
		struct view kv = view_of(key, (size_t)n);
		intptr_t v = (intptr_t)(1 + rnd_below(&r, 1000));
		assert_true((intptr_t)map_get(&map, kv) == m.values[k]);
		if (rnd_below(&r, 5) < 2) {
			assert_true((intptr_t)map_del(&map, kv) == m.values[k]);
			model_del(&m, k);
		} else {
			assert_true((intptr_t)map_put(&map, kv, (void *)v) == m.values[k]);
			model_put(&m, k, v);
		}
		if (i % 97 == 0)
			map_equals_model(&map, &m);
	}
	struct map_entry *e;
	for (size_t i = 0; (e = map_next(&map, &i));)
		map_del(&map, view_str(e->key));
	assert_int_equal(map_len(&map), 0);
	assert_null(map_gets(&map, "k1"));
	map_done(&map);
	map_done(&map);
}

static void map_keys_may_hold_anything(void **state)
{
	struct map map;
	map_init(&map);
	int a, b, c;
	assert_null(map_put(&map, view_of("a\0b", 3), &a));
	assert_ptr_equal(map_put(&map, view_of("a\0b", 3), &b), &a);
	assert_null(map_put(&map, VIEW("a"), &c));
	assert_null(map_put(&map, VIEW(""), &a));
	assert_int_equal(map_len(&map), 3);
	assert_ptr_equal(map_get(&map, view_of("a\0b", 3)), &b);
	assert_ptr_equal(map_get(&map, (struct view){ NULL, 0 }), &a);
	assert_ptr_equal(map_del(&map, view_of("a\0b", 3)), &b);
	assert_ptr_equal(map_gets(&map, "a"), &c);
	map_done(&map);
}

static void errors_are_cut_never_overrun(void **state)
{
	struct err e = { 0 };
	assert_int_equal(err_set(&e, -ENOENT, "open %s: gone", "x"), -ENOENT);
	assert_int_equal(err_prefix(&e, "pool %s", "chat"), -ENOENT);
	assert_string_equal(e.msg, "pool chat: open x: gone");
	err_set(&e, -EIO, "%s again", e.msg); /* its own message as an argument */
	assert_string_equal(e.msg, "pool chat: open x: gone again");
	char longer[2 * ERR_MSG_MAX];
	memset(longer, 'z', sizeof longer);
	longer[sizeof longer - 1] = '\0';
	err_prefix(&e, "%s", longer);
	assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
	err_set(&e, -EIO, "%s", longer);
	assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
	err_prefix(&e, "short");
	assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
	assert_true(strncmp(e.msg, "short: zzz", 10) == 0);
	assert_int_equal(err_set(NULL, -EIO, "x"), -EIO);
	assert_int_equal(err_prefix(NULL, "x"), 0);
}

static int make_dir(void **state)
{
	char *dir = mem_strdup("/tmp/corral-base-XXXXXX");
	*state = mkdtemp(dir);
	return *state ? 0 : -1;
}

static int remove_dir(void **state)
{
	AUTO(mem_freep) char *cmd = mem_fmt("rm -rf '%s'", (char *)*state);
	int r = system(cmd);
	free(*state);
	return r;
}

static void files_are_written_whole_or_not(void **state)
{
	const char *dir = *state;
	AUTO(mem_freep) char *path = path_join(dir, "f");
	AUTO(buf_done) struct buf b = BUF(100);
	assert_int_equal(file_read(path, &b), -ENOENT);
	assert_int_equal(file_write_atomic(path, VIEW("one"), 0600, false), 0);
	assert_int_equal(file_write_atomic(path, VIEW("second"), 0600, true), 0);
	assert_int_equal(file_read(path, &b), 0);
	assert_string_equal(buf_str(&b), "second");
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	AUTO(buf_done) struct buf small = BUF(5);
	assert_int_equal(file_read(path, &small), -EFBIG);
	AUTO(buf_done) struct buf exact = BUF(6);
	assert_int_equal(file_read(path, &exact), 0);
	AUTO(mem_freep) char *nowhere = path_join(dir, "no/f");
	assert_int_equal(file_write_atomic(nowhere, VIEW("x"), 0600, false), -ENOENT);
	assert_int_equal(file_swap(nowhere, path), -ENOENT);
	/* the target is a folder: the rename fails, nothing is left beside it */
	AUTO(mem_freep) char *sub = path_join(dir, "sub");
	assert_int_equal(dir_make(sub, 0700), 0);
	assert_true(file_write_atomic(sub, VIEW("x"), 0600, false) < 0);
	AUTO(mem_freep) char *left = mem_fmt("%s.%d.tmp", sub, (int)getpid());
	assert_false(file_exists(left));
}

static void names_in_a_folder(void **state)
{
	AUTO(mem_freep) char *dir = path_join(*state, "names");
	AUTO(mem_freep) char *file = path_join(dir, "a");
	AUTO(mem_freep) char *hidden = path_join(dir, ".b");
	AUTO(strv_done) struct strv few = { 0 }, all = { 0 };
	dir_names(dir, true, &all);
	assert_int_equal(all.len, 0);
	assert_int_equal(dir_make(dir, 0700), 0);
	assert_int_equal(file_write_atomic(file, VIEW("x"), 0600, false), 0);
	assert_int_equal(file_write_atomic(hidden, VIEW("x"), 0600, false), 0);
	dir_names(dir, false, &few);
	dir_names(dir, true, &all);
	assert_int_equal(few.len, 1);
	assert_string_equal(few.items[0], "a");
	assert_true(all.len == 2 && strv_has(&all, "a") && strv_has(&all, ".b"));
}

static bool holds(const char *path, const char *text)
{
	AUTO(buf_done) struct buf b = BUF(100);
	return file_read(path, &b) == 0 && strcmp(buf_str(&b), text) == 0;
}

static void two_files_take_each_others_names(void **state)
{
	AUTO(mem_freep) char *a = path_join(*state, "swap-a");
	AUTO(mem_freep) char *b = path_join(*state, "swap-b");
	assert_int_equal(file_swap(a, b), -ENOENT);
	assert_int_equal(file_write_atomic(b, VIEW("one"), 0600, false), 0);
	assert_int_equal(file_swap(a, b), 0); /* the one there is */
	assert_true(holds(a, "one") && !file_exists(b));
	assert_int_equal(file_swap(a, b), -ENOENT);
	assert_true(holds(a, "one"));
	assert_int_equal(file_write_atomic(b, VIEW("two"), 0600, false), 0);
	assert_int_equal(file_swap(a, b), 0);
	assert_true(holds(a, "two") && holds(b, "one"));
}

static void folders(void **state)
{
	const char *dir = *state;
	AUTO(mem_freep) char *deep = path_join(dir, "a/b//c/");
	assert_int_equal(dir_make(deep, 0700), 0);
	assert_int_equal(dir_make(deep, 0700), 0);
	assert_int_equal(dir_make("", 0700), -ENOENT);
	assert_int_equal(dir_make("/", 0700), 0);
	AUTO(mem_freep) char *file = path_join(dir, "file");
	assert_int_equal(file_write_atomic(file, VIEW(""), 0600, false), 0);
	assert_true(dir_make(file, 0700) < 0);
	AUTO(mem_freep) char *under = path_join(file, "x");
	assert_int_equal(dir_make(under, 0700), -ENOTDIR);
	struct err e = { 0 };
	assert_int_equal(dir_ensure_writable(deep, "state_dir", &e), 0);
	assert_int_equal(dir_ensure_writable(under, "state_dir", &e), -ENOTDIR);
	assert_non_null(strstr(e.msg, "state_dir"));
	assert_non_null(strstr(e.msg, under));
	assert_true(dir_ensure_writable("/proc", "state_dir", &e) < 0);
	AUTO(mem_freep) char *j1 = path_join("a", "/b"), *j2 = path_join("a/", "b"), *j3 = path_join("", "b");
	assert_string_equal(j1, "/b");
	assert_string_equal(j2, "a/b");
	assert_string_equal(j3, "b");
}

static void descriptors(void **state)
{
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(fd_nonblock(p[0]), 0);
	char c;
	assert_int_equal(read(p[0], &c, 1), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(fd_write_all(p[1], "xyz", 3), 0);
	int moved = fd_take(&p[1]);
	assert_int_equal(p[1], -1);
	fd_closep(&moved);
	assert_int_equal(moved, -1);
	fd_close(-1);
	fd_closep(&p[0]);
	assert_int_equal(fd_nonblock(-1), -EBADF);
	assert_int_equal(fd_write_all(-1, "x", 1), -EBADF);
}

static void clocks(void **state)
{
	char out[WALL_STR_LEN + 1];
	wall_format(0, out);
	assert_string_equal(out, "1970-01-01T00:00:00.000Z");
	wall_format(1795622828123, out);
	assert_string_equal(out, "2026-11-25T16:07:08.123Z");
	mono_t a = mono_now(), b = mono_now();
	assert_false(mono_before(b, a));
	assert_int_equal(mono_ms_between(a, mono_add_ms(a, 5)), 5);
	assert_int_equal(mono_ms_between(a, mono_add_ms(a, -5)), -5);
	assert_true(mono_add_ms(a, INT64_MAX).ns == INT64_MAX);
	assert_true(mono_add_ms(MONO_NEVER, -1).ns == INT64_MAX);
}

static void random_numbers(void **state)
{
	struct rnd r, again;
	rnd_seed(&r, 0);
	rnd_seed(&again, 0);
	assert_true(rnd_u64(&r) == 0xe220a8397b1dcdafull); /* the published first value for seed 0 */
	(void)rnd_u64(&again);
	bool seen[7] = { false };
	for (int i = 0; i < 1000; i++) {
		uint64_t x = rnd_below(&r, 7);
		assert_true(x < 7 && x == rnd_below(&again, 7));
		seen[x] = true;
		double u = rnd_unit(&r);
		assert_true(u >= 0 && u < 1 && u == rnd_unit(&again));
	}
	for (int i = 0; i < 7; i++)
		assert_true(seen[i]);
	char one[UUID_LEN + 1], two[UUID_LEN + 1];
	rnd_uuid(one);
	rnd_uuid(two);
	assert_int_equal(strlen(one), UUID_LEN);
	assert_string_not_equal(one, two);
	assert_int_equal(one[14], '4');
	assert_non_null(strchr("89ab", one[19]));
	assert_true(one[8] == '-' && one[13] == '-' && one[18] == '-' && one[23] == '-');
}

/* More than one buffer of them for each thread. */
enum { UUID_THREADS = 4, UUIDS = 1000 };
typedef char uuid[UUID_LEN + 1];

static void *make_uuids(void *arg)
{
	uuid *ids = arg;
	for (int i = 0; i < UUIDS; i++)
		rnd_uuid(ids[i]);
	return NULL;
}

static int compare_uuids(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void assert_all_differ(uuid *ids, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(strlen(ids[i]), UUID_LEN);
		assert_int_equal(ids[i][14], '4');
		assert_non_null(strchr("89ab", ids[i][19]));
	}
	qsort(ids, n, sizeof *ids, compare_uuids);
	for (size_t i = 1; i < n; i++)
		assert_string_not_equal(ids[i - 1], ids[i]);
}

static void uuids_of_threads_differ(void **state)
{
	static uuid ids[UUID_THREADS * UUIDS];
	pthread_t t[UUID_THREADS];
	for (size_t i = 0; i < UUID_THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, make_uuids, ids + i * UUIDS), 0);
	for (size_t i = 0; i < UUID_THREADS; i++)
		pthread_join(t[i], NULL);
	assert_all_differ(ids, UUID_THREADS * UUIDS);
}

/* A child, its child, and their parent, with some left in the buffer: each goes its own way. */
static void uuids_of_a_fork_differ(void **state)
{
	static uuid ids[3 * UUIDS];
	int p[2];
	rnd_uuid(ids[0]);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid_t child = fork();
	if (!child) {
		pid_t grandchild = fork();
		make_uuids(ids);
		if (grandchild > 0)
			waitpid(grandchild, NULL, 0);
		_exit(write(p[1], ids, sizeof ids[0] * 20) == sizeof ids[0] * 20 ? 0 : 1);
	}
	assert_true(child > 0);
	fd_close(p[1]);
	make_uuids(ids);
	size_t want = sizeof ids[0] * 40, got = 0; /* both write at once what a pipe takes whole */
	for (ssize_t k = 1; k > 0 && got < want; got += (size_t)k)
		k = read(p[0], (char *)(ids + UUIDS) + got, want - got);
	int status = -1;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(got, want);
	fd_close(p[0]);
	assert_all_differ(ids, UUIDS + 40);
}

/* What was made room for and never came. */
static void buf_is_always_a_string(void **state)
{
	for (int i = 0; i < 8; i++) { /* memory that was used before */
		struct buf dirt = BUF(1000);
		for (int k = 0; k < 63; k++)
			assert_int_equal(buf_addc(&dirt, 'x'), 0);
		buf_done(&dirt);
		AUTO(buf_done) struct buf b = BUF(1000);
		assert_non_null(buf_room(&b, 63));
		assert_string_equal(buf_str(&b), "");
		assert_int_equal(buf_adds(&b, "ab"), 0);
		assert_non_null(buf_room(&b, 500));
		assert_string_equal(buf_str(&b), "ab");
	}
}

static void memory(void **state)
{
	AUTO(mem_freep) char *s = mem_strdup("x");
	assert_null(mem_strdup(NULL));
	mem_setstr(&s, "new");
	assert_string_equal(s, "new");
	char *t = MEM_TAKE(s);
	assert_null(s);
	mem_setstr(&t, NULL);
	assert_null(t);
	AUTO(mem_freep) char *z = mem_alloc(16);
	for (int i = 0; i < 16; i++)
		assert_int_equal(z[i], 0);
	AUTO(mem_freep) char *f = mem_fmt("%s-%d", "a", 1);
	assert_string_equal(f, "a-1");
}

static void test_path_lies_in(void **state)
{
	(void)state;
	assert_true(path_lies_in("/a/b", "/a/b"));
	assert_true(path_lies_in("/a/b/c", "/a/b"));
	assert_true(path_lies_in("/a", "/"));
	assert_false(path_lies_in("/a/bc", "/a/b"));
	assert_false(path_lies_in("/a", "/a/b"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_path_lies_in),
		cmocka_unit_test(buf_keeps_its_bound),
		cmocka_unit_test(buf_formats_and_moves),
		cmocka_unit_test(buf_is_always_a_string),
		cmocka_unit_test(list_moves_and_survives_removal),
		cmocka_unit_test(map_against_a_model),
		cmocka_unit_test(map_keys_may_hold_anything),
		cmocka_unit_test(errors_are_cut_never_overrun),
		cmocka_unit_test_setup_teardown(files_are_written_whole_or_not, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(two_files_take_each_others_names, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(names_in_a_folder, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(folders, make_dir, remove_dir),
		cmocka_unit_test(descriptors),
		cmocka_unit_test(clocks),
		cmocka_unit_test(random_numbers),
		cmocka_unit_test(uuids_of_threads_differ),
		cmocka_unit_test(uuids_of_a_fork_differ),
		cmocka_unit_test(memory),
	};
	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
