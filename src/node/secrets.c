/* SPDX-License-Identifier: Apache-2.0
 *
 * What an engine must be told and nobody may see on its command line: a key of its own for each start, and
 * the files its launch names. All lie in engines_dir as <replica>.<generation>.<suffix>, readable for this
 * user alone, from before the start to after the end, so that an engine that is taken over still has its key.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "node/node_int.h"

enum { KEY_WORDS = 4 };
static const char *const suffixes[] = { "key", "yaml", "env" };

char *secrets_prefix(const struct replica *r)
{
	return mem_fmt("%s/%s.%llu", r->node->engines_dir, r->id, (unsigned long long)r->generation);
}

static int write_one(const char *path, const char *text, struct err *reterr)
{
	int r = file_write_atomic(path, view_str(text), 0600, false);
	return r ? err_set(reterr, r, "%s cannot be written: %s", path, strerror(-r)) : 0;
}

int secrets_write(struct replica *r, struct err *reterr)
{
	for (size_t i = 0; i < r->launch.nfiles; i++) {
		int e = write_one(r->launch.files[i].path, r->launch.files[i].text, reterr);
		if (e)
			return e;
	}
	free(MEM_TAKE(r->key_file));
	if (!r->launch.uses_key)
		return 0;
	AUTO(mem_freep) char *prefix = secrets_prefix(r);
	r->key_file = mem_fmt("%s.key", prefix);
	return write_one(r->key_file, r->key, reterr);
}

char *secrets_new_key(void)
{
	uint64_t w[KEY_WORDS];
	for (size_t i = 0; i < KEY_WORDS; i++)
		w[i] = rnd_os_u64();
	return mem_fmt("%016llx%016llx%016llx%016llx", (unsigned long long)w[0], (unsigned long long)w[1],
		(unsigned long long)w[2], (unsigned long long)w[3]);
}

void secrets_adopt(struct replica *r)
{
	AUTO(mem_freep) char *prefix = secrets_prefix(r);
	AUTO(mem_freep) char *path = mem_fmt("%s.key", prefix);
	AUTO(buf_done) struct buf b = BUF(256);
	free(MEM_TAKE(r->key));
	free(MEM_TAKE(r->key_file));
	if (file_read_regular(path, &b) < 0)
		return;
	r->key = mem_strdup(buf_str(&b));
	r->key_file = MEM_TAKE(path);
}

void secrets_remove(const struct replica *r)
{
	AUTO(mem_freep) char *prefix = secrets_prefix(r);
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
		AUTO(mem_freep) char *path = mem_fmt("%s.%s", prefix, suffixes[i]);
		unlink(path);
	}
}

char *secrets_owner(const char *name)
{
	struct view v = view_str(name);
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
		AUTO(mem_freep) char *end = mem_fmt(".%s", suffixes[i]);
		if (!view_ends(v, view_str(end)))
			continue;
		v = view_cut(v, v.n - strlen(end));
		size_t n = v.n;
		while (n && v.p[n - 1] >= '0' && v.p[n - 1] <= '9')
			n--;
		return n > 1 && n < v.n && v.p[n - 1] == '.' ? mem_viewdup(view_cut(v, n - 1)) : NULL;
	}
	return NULL;
}
