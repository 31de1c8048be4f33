/* SPDX-License-Identifier: Apache-2.0
 *
 * Gives a fuzz target every file of a folder (its corpus), once each, with any compiler, one TAP line a file:
 * replay FOLDER.
 */
#include <dirent.h>
#include <stdio.h>

#include "base/fd.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int replay(const char *folder, const char *name)
{
	AUTO(mem_freep) char *path = path_join(folder, name);
	AUTO(buf_done) struct buf b = BUF(64 * MIB);
	int e = file_read(path, &b);
	if (e < 0) {
		fprintf(stderr, "replay: %s: %s\n", path, strerror(-e));
		return 1;
	}
	/* A copy of just that size, so that the sanitizer sees a read past its end. */
	AUTO(mem_freep) uint8_t *copy = mem_try_alloc(b.len + !b.len);
	if (!copy)
		return 1;
	if (b.len)
		memcpy(copy, b.data, b.len);
	return LLVMFuzzerTestOneInput(copy, b.len);
}

int main(int argc, char **argv)
{
	int failed = 0, files = 0;
	DIR *d = argc == 2 ? opendir(argv[1]) : NULL;
	if (!d) {
		fprintf(stderr, "usage: replay FOLDER (an existing one)\n");
		return 2;
	}
	for (struct dirent *e; (e = readdir(d));) {
		if (e->d_name[0] == '.')
			continue;
		int bad = replay(argv[1], e->d_name);
		files++;
		printf("%sok %d - %s\n", bad ? "not " : "", files, e->d_name);
		fflush(stdout); /* a crash must not take the names of those before along */
		failed |= bad;
	}
	closedir(d);
	printf("1..%d\n", files);
	if (files == 0)
		fprintf(stderr, "replay: %s holds no file\n", argv[1]);
	return failed || files == 0;
}
