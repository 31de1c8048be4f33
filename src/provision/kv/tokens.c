/* SPDX-License-Identifier: Apache-2.0
 *
 * The beginning of a file that llama-server saves of a slot, little endian:
 *
 *     u32 magic "ggsq" read backwards, u32 version, u32 n, u32 words[n], the cache
 *
 * In older builds the words are the tokens. Newer ones put a list of their own there: -1, 1, count, the count
 * tokens, then what else belongs to them.
 */
#include <endian.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "provision/kv/kv.h"

enum { HEAD_WORDS = 3, LIST_WORDS = 3 };
#define MAGIC 0x67677371u /* 'ggsq' */
enum { VERSION_CHECKPOINTS = 4 };

static bool read_words(int fd, uint32_t *ret, size_t n, uint64_t at)
{
	size_t len = n * sizeof *ret, got = 0;
	while (got < len) {
		ssize_t r = pread(fd, (char *)ret + got, len - got, (off_t)(at + got));
		if (r <= 0)
			return false;
		got += (size_t)r;
	}
	for (size_t i = 0; i < n; i++)
		ret[i] = le32toh(ret[i]);
	return true;
}

/* -1 unless it is a file that llama.cpp may have written. */
static int open_file(const char *path, uint64_t *ret_bytes)
{
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
		st.st_size < (off_t)(sizeof(uint32_t) * (HEAD_WORDS + LIST_WORDS)))
		return -1;
	*ret_bytes = (uint64_t)st.st_size;
	return fd_take(&fd);
}

static bool read_head(int fd, uint32_t head[HEAD_WORDS + LIST_WORDS])
{
	return read_words(fd, head, HEAD_WORDS + LIST_WORDS, 0) && head[0] == MAGIC;
}

bool kv_has_checkpoints(const char *path)
{
	uint64_t bytes;
	uint32_t head[HEAD_WORDS + LIST_WORDS];
	AUTO(fd_closep) int fd = open_file(path, &bytes);
	return fd >= 0 && read_head(fd, head) && head[1] >= VERSION_CHECKPOINTS;
}

/* Where the tokens are and how many; false: nowhere. */
static bool find_tokens(int fd, uint64_t file_bytes, uint64_t *ret_at, uint32_t *ret_n)
{
	uint32_t head[HEAD_WORDS + LIST_WORDS];
	if (!read_head(fd, head))
		return false;
	bool listed = head[2] >= LIST_WORDS && head[3] == UINT32_MAX;
	uint32_t n = listed ? head[5] : head[2];
	*ret_at = sizeof(uint32_t) * (listed ? HEAD_WORDS + LIST_WORDS : HEAD_WORDS);
	*ret_n = n;
	return (!listed || n <= head[2] - LIST_WORDS) && n <= (file_bytes - *ret_at) / sizeof(uint32_t);
}

size_t kv_tokens_read(const char *path, uint32_t **ret, size_t max)
{
	uint64_t at, bytes;
	uint32_t n;
	AUTO(fd_closep) int fd = open_file(path, &bytes);
	*ret = NULL;
	if (fd < 0 || !find_tokens(fd, bytes, &at, &n) || n == 0)
		return 0;
	size_t want = MIN((size_t)n, max);
	uint32_t *tokens = mem_try_alloc(MAX(want, (size_t)1) * sizeof *tokens);
	if (!tokens || !read_words(fd, tokens, want, at)) {
		free(tokens);
		return 0;
	}
	*ret = tokens;
	return n;
}
