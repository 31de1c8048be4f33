/* SPDX-License-Identifier: Apache-2.0
 *
 * corral-fetch: one job on standard input (job.h), what it does about it on standard output (report.h). Not
 * for people: corral starts it. It ends with its parent and on SIGTERM, at any point; the next one goes on.
 *
 * Usage: corral-fetch [PARENT_PID]
 */
#include <locale.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/num.h"
#include "files.h"

static int read_job(struct job *ret, struct fail *f)
{
	AUTO(buf_done) struct buf b = BUF(JOB_DOCUMENT_MAX);
	for (;;) {
		char *to = buf_room(&b, 64 * KIB);
		ssize_t n = to ? read(STDIN_FILENO, to, 64 * KIB) : -1;
		if (n < 0)
			return fail_set(f, WHY_INPUT,
				"standard input has more than %d MiB, or cannot be read",
				JOB_DOCUMENT_MAX >> 20);
		if (n == 0)
			return job_parse(buf_view(&b), ret, f);
		buf_grew(&b, (size_t)n);
	}
}

/* A parent that is gone already can send no signal. */
static bool follow_parent(int argc, char **argv)
{
	uint64_t parent = 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return argc < 2 || num_u64(view_str(argv[1]), &parent) || parent == (uint64_t)getppid();
}

int main(int argc, char **argv)
{
	static int (*const operations[])(const struct job *, struct result *, struct fail *) = {
		[OP_FILES] = op_files, [OP_TEXT] = op_text, [OP_HASH] = op_hash, [OP_UNPACK] = op_unpack
	};
	struct job job = { 0 };
	struct result result = { 0 };
	struct fail fail;
	if (!follow_parent(argc, argv))
		return 1;
	setlocale(LC_CTYPE, "C.UTF-8"); /* names in archives */
	umask(022);
	int r = read_job(&job, &fail);
	if (!r)
		r = operations[job.op](&job, &result, &fail);
	report_result(&result, r ? &fail : NULL);
	result_done(&result);
	job_done(&job);
	return r ? 1 : 0;
}
