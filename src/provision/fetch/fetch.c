/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of one corral-fetch: its job in a memfd as standard input (nothing of it is in argv or on a disk),
 * its words through a pipe. on_done comes when it has ended and all of it was read.
 */
#include "provision/fetch/fetch_int.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

enum { READ_BYTES = 64 * 1024 };

struct fetch_job {
	struct loop *loop;
	const struct fetch_ops *ops; /* NULL: cancelled */
	void *arg;
	struct loop_proc *proc;
	struct loop_watch *watch;
	int fd; /* our end of its standard output */
	struct buf heard;
	size_t searched; /* of heard, for a line's end */
	struct fetch_line result;
	bool garbled; /* it said what we do not understand */
};

void fetch_file_done(struct fetch_file *f)
{
	strv_done(&f->urls);
	strv_done(&f->headers);
	free(f->to);
	free(f->sha256);
	*f = (struct fetch_file){ 0 };
}

static void job_free(struct fetch_job *j)
{
	loop_watch_stop(&j->watch);
	loop_proc_forget(&j->proc);
	fd_close(fd_take(&j->fd));
	buf_done(&j->heard);
	fetch_line_done(&j->result);
	loop_defer_free(j->loop, j); /* a callback further up may look whether it was cancelled */
}

/* ---- what it says ----------------------------------------------------------------------------------------
 */

static void take_line(struct fetch_job *j, struct view v)
{
	struct fetch_line l;
	if (fetch_read(v, &l)) {
		j->garbled = true;
		return;
	}
	if (l.is_result) {
		fetch_line_done(&j->result);
		j->result = l;
		return;
	}
	if (j->ops && j->ops->on_progress)
		j->ops->on_progress(j->arg, &l.progress);
	fetch_line_done(&l);
}

static void take_lines(struct fetch_job *j)
{
	while (j->ops) {
		struct view rest = view_from(buf_view(&j->heard), j->searched);
		size_t n = rest.n ? view_find(rest, '\n') : 0;
		if (n == rest.n) {
			j->searched += n;
			return;
		}
		size_t line = j->searched + n;
		AUTO(mem_freep) char *copy = mem_viewdup(view_cut(buf_view(&j->heard), line));
		buf_consume(&j->heard, line + 1);
		j->searched = 0;
		take_line(j, view_of(copy, line));
	}
}

/* Everything that is there. 0: more may come; 1: that was all. */
static int hear(struct fetch_job *j)
{
	while (j->ops) {
		char *to = buf_room(&j->heard, READ_BYTES);
		if (!to) {
			j->garbled = true;
			return 1;
		}
		ssize_t n = read(j->fd, to, READ_BYTES);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == 0 || errno != EAGAIN;
		buf_grew(&j->heard, (size_t)n);
		take_lines(j);
	}
	return 1;
}

static void on_readable(void *arg, int events)
{
	struct fetch_job *j = arg;
	(void)events;
	if (hear(j))
		loop_watch_stop(&j->watch); /* its exit is still to come */
}

/* ---- its end ---------------------------------------------------------------------------------------------
 */

static void on_exit_of(void *arg, int exit_code, int signo)
{
	struct fetch_job *j = arg;
	struct err e = { 0 };
	j->proc = NULL;
	if (!j->garbled)
		(void)hear(j);
	if (!j->ops) /* cancelled by what it last said */
		return;
	bool said = j->result.is_result;
	enum fetch_why why = said ? j->result.why : FETCH_CRASHED;
	if (said && why != FETCH_OK)
		err_set(&e, -EIO, "%s", j->result.error ? j->result.error : "it could not be fetched");
	else if (!said && signo)
		err_set(&e, -EIO,
			"corral-fetch was ended by signal %d (%s); what it fetched is kept, the next try "
			"goes on there",
			signo, strsignal(signo));
	else if (!said)
		err_set(&e, -EIO, "corral-fetch ended with code %d %s; what it fetched is kept", exit_code,
			j->garbled ? "and said what is not understood: it is of another version"
				   : "and said nothing");
	const struct fetch_ops *ops = j->ops;
	j->ops = NULL;
	ops->on_done(j->arg, &j->result.result, why, why == FETCH_OK ? NULL : &e);
	job_free(j);
}

void fetch_cancel(struct fetch_job **pj)
{
	struct fetch_job *j = *pj;
	*pj = NULL;
	if (!j || !j->ops)
		return;
	j->ops = NULL;
	if (j->proc)
		(void)loop_proc_kill(j->proc, SIGKILL);
	job_free(j);
}

/* ---- its start -------------------------------------------------------------------------------------------
 */

static char *beside_us(void)
{
	char path[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
	if (n <= 0)
		return mem_strdup("corral-fetch");
	path[n] = '\0';
	return path_join(dirname(path), "corral-fetch");
}

static int document_fd(const struct buf *b)
{
	AUTO(fd_closep) int fd = memfd_create("corral-fetch", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	int r = fd_write_all(fd, b->data, b->len);
	if (r)
		return r;
	return lseek(fd, 0, SEEK_SET) < 0 ? -errno : fd_take(&fd);
}

static int spawn(struct fetch_job *j, const char *program, int document, struct err *e)
{
	int ends[2];
	char parent[16];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_set(e, -errno, "corral-fetch cannot be heard: %s", strerror(errno));
	j->fd = ends[0];
	AUTO(fd_closep) int theirs = ends[1];
	snprintf(parent, sizeof parent, "%d", (int)getpid());
	char *argv[] = { (char *)(uintptr_t)program, parent, NULL };
	struct loop_spawn s = {
		.file = program, .argv = argv, .fds = { document, theirs, STDERR_FILENO }, .nfds = 3
	};
	int r = fd_nonblock(j->fd);
	if (!r)
		r = loop_watch_start(j->loop, &j->watch, j->fd, LOOP_READ, on_readable, j);
	if (r)
		return err_set(e, r, "corral-fetch cannot be heard: %s", strerror(-r));
	r = loop_spawn(j->loop, &s, on_exit_of, j, &j->proc, e);
	return r == -ENOENT
		       ? err_set(e, r, "%s is not there; it belongs beside corral: install it again", program)
		       : r;
}

int fetch_start(struct loop *l, const char *program, const struct fetch_request *q,
	const struct fetch_ops *ops, void *arg, struct fetch_job **ret, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(FETCH_DOCUMENT_MAX);
	AUTO(mem_freep) char *beside = program ? NULL : beside_us();
	int r = fetch_ask(q, &b, reterr);
	if (r)
		return r;
	AUTO(fd_closep) int document = document_fd(&b);
	if (document < 0)
		return err_set(reterr, document, "corral-fetch cannot be asked: %s", strerror(-document));
	struct fetch_job *j = NEW(struct fetch_job);
	*j = (struct fetch_job){ .loop = l, .ops = ops, .arg = arg, .fd = -1, .heard = BUF(FETCH_LINE_MAX) };
	r = spawn(j, program ? program : beside, document, reterr);
	if (r)
		job_free(j);
	else
		*ret = j;
	return r;
}
