/* SPDX-License-Identifier: Apache-2.0
 *
 * The files: their names, their number, and how much disk they take.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "provision/kv/kv.h"

enum { TOKENS_MAX = 16 * 1024 * 1024 };

/* ---- names ----------------------------------------------------------------------------------------------
 */

static void name_make(struct kv_file *f)
{
	snprintf(f->name, sizeof f->name, "%lld-%llu-%llu-%016llx-%016llx.kv", (long long)f->saved_ms,
		(unsigned long long)f->tokens, (unsigned long long)f->bytes, (unsigned long long)f->of.owner,
		(unsigned long long)f->of.talk);
}

static bool take_number(struct view *v, char end, uint64_t max, uint64_t *ret)
{
	size_t n = view_find(*v, end);
	if (n == v->n || num_u64(view_cut(*v, n), ret) || *ret > max)
		return false;
	*v = view_from(*v, n + 1);
	return true;
}

static bool take_hash(struct view *v, char end, uint64_t *ret)
{
	static const char digits[] = "0123456789abcdef";
	*ret = 0;
	for (size_t i = 0; i < 16; i++) {
		const char *at = i < v->n && v->p[i] ? strchr(digits, v->p[i]) : NULL;
		if (!at)
			return false;
		*ret = *ret << 4 | (uint64_t)(at - digits);
	}
	if (v->n == 16 || v->p[16] != end)
		return false;
	*v = view_from(*v, 17);
	return true;
}

bool kv_name_parse(struct view name, struct kv_file *ret)
{
	struct kv_file f = { 0 };
	uint64_t at = 0;
	struct view v = name;
	if (name.n >= sizeof f.name || !take_number(&v, '-', INT64_MAX, &at) ||
		!take_number(&v, '-', UINT32_MAX, &f.tokens) || !take_number(&v, '-', INT64_MAX, &f.bytes) ||
		!take_hash(&v, '-', &f.of.owner) || !take_hash(&v, '.', &f.of.talk) || !view_eqs(v, "kv") ||
		!f.tokens || !f.bytes)
		return false;
	f.saved_ms = (int64_t)at;
	name_make(&f);
	if (!view_eqs(name, f.name)) /* one way to write it */
		return false;
	*ret = f;
	return true;
}

static bool key_valid(const char *key)
{
	return strlen(key) == KV_KEY_LEN && strspn(key, "0123456789abcdef") == KV_KEY_LEN;
}

static char *path_of(const char *pool_dir, const char *key, const char *name)
{
	return mem_fmt("%s/%s/%s", pool_dir, key, name);
}

/* ---- lists ------------------------------------------------------------------------------------------------
 */

typedef void entry_fn(void *arg, const char *dir, const char *name);

static void each_entry(const char *dir, entry_fn *fn, void *arg)
{
	DIR *d = opendir(dir);
	for (struct dirent *e; d && (e = readdir(d));)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fn(arg, dir, e->d_name);
	if (d)
		closedir(d);
}

void kv_list_done(struct kv_list *l)
{
	free(l->items);
	*l = (struct kv_list){ 0 };
}

static int newest_first(const void *pa, const void *pb)
{
	const struct kv_file *a = pa, *b = pb;
	if (a->saved_ms != b->saved_ms)
		return a->saved_ms < b->saved_ms ? 1 : -1;
	return strcmp(a->name, b->name);
}

static bool is_whole(const char *pool_dir, const struct kv_file *f)
{
	AUTO(mem_freep) char *path = path_of(pool_dir, f->key, f->name);
	struct stat st;
	return lstat(path, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == f->bytes;
}

/* A name of ours with another size: its disk was full, or somebody cut it. */
static void remove_if_broken(void *arg, const char *dir, const char *name)
{
	const char *pool_dir = arg;
	struct kv_file f;
	if (!kv_name_parse(view_str(name), &f))
		return;
	snprintf(f.key, sizeof f.key, "%s", strrchr(dir, '/') + 1);
	if (is_whole(pool_dir, &f))
		return;
	AUTO(mem_freep) char *path = path_join(dir, name);
	unlink(path);
}

void kv_remove_broken(const char *pool_dir, const char *key)
{
	AUTO(mem_freep) char *dir = path_join(pool_dir, key);
	each_entry(dir, remove_if_broken, (void *)(uintptr_t)pool_dir);
}

static void add_variant(const char *pool_dir, const char *key, struct kv_list *ret)
{
	AUTO(strv_done) struct strv names = { 0 };
	AUTO(mem_freep) char *dir = path_join(pool_dir, key);
	dir_names(dir, true, &names);
	for (size_t i = 0; i < names.len; i++) {
		struct kv_file f;
		if (!kv_name_parse(view_str(names.items[i]), &f))
			continue;
		memcpy(f.key, key, sizeof f.key);
		if (!is_whole(pool_dir, &f))
			continue;
		ret->items = mem_realloc(ret->items, (ret->len + 1) * sizeof *ret->items);
		ret->items[ret->len++] = f;
	}
}

void kv_list(const char *pool_dir, const char *key, struct kv_list *ret)
{
	AUTO(strv_done) struct strv keys = { 0 };
	*ret = (struct kv_list){ 0 };
	if (key)
		strv_add(&keys, key);
	else
		dir_names(pool_dir, true, &keys);
	for (size_t i = 0; i < keys.len; i++)
		if (key_valid(keys.items[i]))
			add_variant(pool_dir, keys.items[i], ret);
	if (ret->len)
		qsort(ret->items, ret->len, sizeof *ret->items, newest_first);
}

/* ---- one file
 * ----------------------------------------------------------------------------------------------- */

void kv_remove(const char *pool_dir, const struct kv_file *f)
{
	AUTO(mem_freep) char *path = path_of(pool_dir, f->key, f->name);
	unlink(path);
}

/* Never in place of another one: of the same moment the later is a little later. */
static int rename_new(const char *pool_dir, const char *from, struct kv_file *f)
{
	for (;; f->saved_ms++) {
		name_make(f);
		AUTO(mem_freep) char *to = path_of(pool_dir, f->key, f->name);
		if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
			return 0;
		if (errno != EEXIST)
			return -errno;
	}
}

static bool continues(const char *path, const uint32_t *tokens, size_t n)
{
	uint32_t *old;
	size_t m = kv_tokens_read(path, &old, n);
	bool yes = m && m <= n && memcmp(old, tokens, m * sizeof *old) == 0;
	free(old);
	return yes;
}

static void drop_continued(const char *pool_dir, const struct kv_file *f)
{
	AUTO(mem_freep) char *path = path_of(pool_dir, f->key, f->name);
	AUTO(kv_list_done) struct kv_list l;
	uint32_t *tokens;
	size_t n = kv_tokens_read(path, &tokens, TOKENS_MAX);
	kv_list(pool_dir, f->key, &l);
	for (size_t i = 0; n && n <= TOKENS_MAX && i < l.len; i++) {
		AUTO(mem_freep) char *other = path_of(pool_dir, f->key, l.items[i].name);
		if (strcmp(l.items[i].name, f->name) != 0 && l.items[i].of.owner == f->of.owner &&
			continues(other, tokens, n))
			unlink(other);
	}
	free(tokens);
}

int kv_keep(const char *pool_dir, const char *key, const char *tmp, int64_t now_ms, struct kv_file *f)
{
	AUTO(mem_freep) char *from = path_of(pool_dir, key, tmp);
	struct stat st;
	f->saved_ms = MAX(now_ms, (int64_t)0);
	if (!key_valid(key) || !f->tokens || f->tokens > UINT32_MAX)
		return -EINVAL;
	if (lstat(from, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != f->bytes)
		return -EINVAL;
	memcpy(f->key, key, sizeof f->key);
	if (chmod(from, 0600) < 0)
		return -errno;
	int r = rename_new(pool_dir, from, f);
	if (!r)
		drop_continued(pool_dir, f);
	return r;
}

int kv_touch(const char *pool_dir, struct kv_file *f, int64_t now_ms)
{
	AUTO(mem_freep) char *from = path_of(pool_dir, f->key, f->name);
	struct kv_file to = *f;
	to.saved_ms = MAX(now_ms, (int64_t)0);
	int r = rename_new(pool_dir, from, &to);
	if (!r)
		*f = to;
	return r;
}

struct unfinished {
	const char *prefix;
};

static void remove_if_unfinished(void *arg, const char *dir, const char *name)
{
	const struct unfinished *u = arg;
	struct kv_file f;
	if (!view_starts(view_str(name), view_str(u->prefix)) || kv_name_parse(view_str(name), &f))
		return;
	AUTO(mem_freep) char *path = path_join(dir, name);
	unlink(path);
}

void kv_remove_unfinished(const char *pool_dir, const char *key, const char *prefix)
{
	AUTO(mem_freep) char *dir = path_join(pool_dir, key);
	each_entry(dir, remove_if_unfinished, &(struct unfinished){ prefix });
}

/* ---- how much
 * ------------------------------------------------------------------------------------------------ */

int kv_disk_read(const char *dir, struct kv_disk *ret)
{
	struct statvfs s;
	if (statvfs(dir, &s) < 0)
		return -errno;
	*ret = (struct kv_disk){ .free = (uint64_t)s.f_bavail * s.f_frsize,
		.total = (uint64_t)s.f_blocks * s.f_frsize };
	return 0;
}

uint64_t kv_reserve(const struct kv_disk *d)
{
	return MIN((uint64_t)GIB, d->total / 20);
}

uint64_t kv_budget(const struct kv_disk *d, uint64_t used, uint64_t max_bytes)
{
	uint64_t all = d->free > UINT64_MAX - used ? UINT64_MAX : d->free + used;
	return max_bytes ? max_bytes : MIN(8 * (uint64_t)GIB, all / 10);
}

static uint64_t bytes_of(const struct kv_list *l)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < l->len; i++)
		sum = sum > UINT64_MAX - l->items[i].bytes ? UINT64_MAX : sum + l->items[i].bytes;
	return sum;
}

bool kv_make_room(const char *pool_dir, uint64_t need, uint64_t max_bytes)
{
	AUTO(kv_list_done) struct kv_list l;
	struct kv_disk d = { 0 };
	kv_list(pool_dir, NULL, &l);
	uint64_t used = bytes_of(&l);
	if (kv_disk_read(pool_dir, &d))
		return false;
	uint64_t budget = kv_budget(&d, used, max_bytes),
		 spare = d.free > kv_reserve(&d) ? d.free - kv_reserve(&d) : 0;
	if (need > budget || need > spare + MIN(used, UINT64_MAX - spare))
		return false;
	while (l.len && (used > budget - need || spare < need || l.len >= KV_FILES_MAX)) {
		const struct kv_file *oldest = &l.items[--l.len];
		kv_remove(pool_dir, oldest);
		used -= oldest->bytes;
		spare += oldest->bytes;
	}
	return true;
}

/* ---- at a start
 * ----------------------------------------------------------------------------------------------- */

struct tidy {
	const struct strv *ids;
	int64_t before_ms;
};

static void tidy_file(void *arg, const char *dir, const char *name)
{
	const struct tidy *t = arg;
	struct kv_file f;
	if (t->before_ms != INT64_MAX && kv_name_parse(view_str(name), &f) && f.saved_ms >= t->before_ms)
		return;
	AUTO(mem_freep) char *path = path_join(dir, name);
	unlink(path);
}

static void tidy_variant(void *arg, const char *dir, const char *name)
{
	AUTO(mem_freep) char *path = path_join(dir, name);
	struct stat st;
	if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return; /* not ours */
	each_entry(path, tidy_file, arg);
	rmdir(path); /* if it is empty now */
}

static void tidy_pool(void *arg, const char *dir, const char *name)
{
	struct tidy t = *(const struct tidy *)arg;
	AUTO(mem_freep) char *path = path_join(dir, name);
	struct stat st;
	if (lstat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return;
	if (!strv_has(t.ids, name))
		t.before_ms = INT64_MAX;
	each_entry(path, tidy_variant, &t);
	rmdir(path);
}

void kv_tidy(const char *root, const struct strv *ids, int64_t now_ms, int64_t max_age_ms)
{
	struct tidy t = { ids, now_ms - max_age_ms };
	each_entry(root, tidy_pool, &t);
}
