/* SPDX-License-Identifier: Apache-2.0 */
#include "supervise/keeper.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "supervise/sweep.h"

enum { REPORT_MAX = 1024, SPEC_BYTES_MAX = 500 * 1024, EXIT_BUSY = 75 };

struct keeper {
	struct loop *loop;
	const struct keeper_ops *ops;
	void *arg;
	enum keeper_state state;
	char *engines_dir, *replica_id;
	uint64_t generation;
	struct loop_proc *proc; /* our child */
	struct loop_pid *pid;   /* or one we found */
	struct loop_watch *report_watch;
	int report_fd;
	struct buf report;
	struct keeper_record record;
	bool have_record, stop_wanted, kill_wanted;
	struct sweep *sweep; /* before a start, or after the keeper's end */
	int spec_fd;         /* of a start that waits for the sweep */
	char *program;
	int exit_code; /* the keeper's own, told after the sweep */
};

#define TO(s) (1u << KEEPER_##s)
static const struct {
	const char *name;
	unsigned next;
} states[] = {
	[KEEPER_LAUNCHING] = { "launching", TO(RUNNING) | TO(STOPPING) | TO(ENDED) },
	[KEEPER_RUNNING] = { "running", TO(STOPPING) | TO(ENDED) },
	[KEEPER_STOPPING] = { "stopping", TO(ENDED) },
	[KEEPER_ENDED] = { "ended", 0 },
};
static_assert(ARRAY_LEN(states) == KEEPER_STATE_COUNT, "one row per state");

const char *keeper_state_name(enum keeper_state s)
{
	return states[s].name;
}

/* The only writer of k->state. */
static void keeper_set(struct keeper *k, enum keeper_state to)
{
	assert(states[k->state].next & (1u << to));
	k->state = to;
}

enum keeper_state keeper_state(const struct keeper *k)
{
	return k->state;
}

const struct keeper_record *keeper_record(const struct keeper *k)
{
	return k->have_record ? &k->record : NULL;
}

static char *file_of(const char *dir, const char *replica_id, const char *suffix)
{
	return mem_fmt("%s/%s.%s", dir, replica_id, suffix);
}

/* The record of this very start, or false. */
static bool load_record(struct keeper *k)
{
	AUTO(mem_freep) char *path = file_of(k->engines_dir, k->replica_id, "record");
	struct keeper_record r;
	if (record_read(path, &r, NULL) || r.generation != k->generation ||
		strcmp(r.replica_id, k->replica_id) != 0)
		return false;
	k->record = r;
	k->have_record = true;
	return true;
}

static void close_report(struct keeper *k)
{
	loop_watch_stop(&k->report_watch);
	if (k->report_fd >= 0)
		fd_close(fd_take(&k->report_fd));
}

/* ---- what a killed keeper leaves ---------------------------------------------------------------------- */

/* Only a name that a start of this replica gives is removed: the record may say anything. */
static void remove_socket(const char *dir, const char *replica_id, const char *socket)
{
	AUTO(mem_freep) char *start = mem_fmt("%s/%s.", dir, replica_id);
	struct view name = view_str(socket), suffix = VIEW(".sock");
	uint64_t generation;
	if (!view_starts(name, view_str(start)) || !view_ends(name, suffix))
		return;
	struct view middle = view_from(name, strlen(start));
	if (middle.n > suffix.n && !num_u64(view_cut(middle, middle.n - suffix.n), &generation))
		unlink(socket);
}

static char *mark_of(const char *dir, const char *replica_id)
{
	AUTO(mem_freep) char *lock = file_of(dir, replica_id, "lock");
	return sweep_mark(lock);
}

bool keeper_runs(const char *dir, const char *replica_id)
{
	AUTO(mem_freep) char *path = file_of(dir, replica_id, "lock");
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

/* The last keeper of this replica did not end by itself: its engine's tree may have survived it. */
static bool cut_short(const char *dir, const char *replica_id)
{
	struct keeper_record rec;
	if (keeper_last(dir, replica_id, &rec, NULL) || rec.state == RECORD_GONE)
		return false;
	remove_socket(dir, replica_id, rec.socket);
	return true;
}

static void tell_end(struct keeper *k, int keeper_exit)
{
	struct view said = buf_view(&k->report);
	struct view error = VIEW("error: ");
	bool failed = view_starts(said, error);
	AUTO(mem_freep) char *message = failed ? mem_viewdup(view_from(said, error.n)) : NULL;
	struct keeper_end e = { .started = !failed && k->have_record, .busy = keeper_exit == EXIT_BUSY };
	if (e.busy)
		k->have_record = false; /* the record there is the other one's */
	else if (load_record(k) && (k->record.state == RECORD_GONE || k->record.state == RECORD_ENDED))
		e.known = true;
	e.started = !failed && k->have_record && !k->record.exec_errno;
	e.record = k->record;
	e.message = message     ? message
		    : e.started ? NULL
				: "the keeper ended before it could start the engine";
	keeper_set(k, KEEPER_ENDED);
	k->ops->on_end(k->arg, &e);
}

static void on_swept_after(void *arg)
{
	struct keeper *k = arg;
	tell_end(k, k->exit_code);
}

/* The keeper has ended; the engine's end is told when the whole tree is gone. */
static void keeper_gone(struct keeper *k, int exit_code)
{
	bool busy = exit_code == EXIT_BUSY;
	if (!busy && k->have_record && cut_short(k->engines_dir, k->replica_id)) {
		AUTO(mem_freep) char *mark = mark_of(k->engines_dir, k->replica_id);
		k->exit_code = exit_code;
		sweep_start(k->loop, mark, on_swept_after, k, &k->sweep);
	} else {
		tell_end(k, exit_code);
	}
}

static void drain_report(struct keeper *k)
{
	char part[256];
	ssize_t n;
	while (k->report_fd >= 0 && (n = read(k->report_fd, part, sizeof part)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return;
		if (buf_add(&k->report, part, (size_t)n))
			break;
	}
	while (k->report.len && k->report.data[k->report.len - 1] == '\n')
		k->report.data[--k->report.len] = '\0';
	close_report(k);
}

static void send_signals(struct keeper *k)
{
	if (!k->stop_wanted)
		return;
	/* A keeper that was stopped (SIGSTOP) would take neither, and its replica would end never. */
	const int signals[] = { k->kill_wanted ? SIGUSR1 : SIGTERM, SIGCONT };
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		if (k->proc)
			loop_proc_kill(k->proc, signals[i]);
		else if (k->pid)
			loop_pid_kill(k->pid, signals[i]);
	}
}

static void on_report(void *arg, int events)
{
	(void)events;
	struct keeper *k = arg;
	drain_report(k);
	if (k->report_fd >= 0 || !view_eqs(buf_view(&k->report), "ok"))
		return; /* more to come; or an error, which the keeper's end tells */
	load_record(k);
	/* A stop asked for before this would have met a keeper that had nothing to stop yet. */
	send_signals(k);
	if (k->state != KEEPER_LAUNCHING)
		return;
	keeper_set(k, KEEPER_RUNNING);
	k->ops->on_running(k->arg);
}

static void on_child_end(void *arg, int exit_code, int signo)
{
	(void)signo;
	struct keeper *k = arg;
	k->proc = NULL;
	drain_report(k);
	close_report(k);
	if (!k->have_record)
		load_record(k);
	keeper_gone(k, exit_code);
}

static void on_found_end(void *arg)
{
	struct keeper *k = arg;
	loop_pid_stop(&k->pid);
	keeper_gone(k, 0);
}

/* ---- starting -------------------------------------------------------------------------------------- */

static int add_pair(struct buf *b, const char *key, const char *value)
{
	if (!value)
		return 0;
	int r = buf_add(b, key, strlen(key) + 1);
	return r ? r : buf_add(b, value, strlen(value) + 1);
}

static int add_number(struct buf *b, const char *key, uint64_t v)
{
	AUTO(mem_freep) char *s = mem_fmt("%llu", (unsigned long long)v);
	return v ? add_pair(b, key, s) : 0;
}

static int add_list(struct buf *b, const char *key, const struct strv *v)
{
	int r = 0;
	for (size_t i = 0; v && i < v->len && !r; i++)
		r = add_pair(b, key, v->items[i]);
	return r;
}

static int spec_encode(const struct keeper_spec *s, struct buf *b)
{
	AUTO(mem_freep) char *lock = file_of(s->engines_dir, s->replica_id, "lock");
	AUTO(mem_freep) char *record = file_of(s->engines_dir, s->replica_id, "record");
	AUTO(mem_freep) char *mark = sweep_mark(lock);
	int r = add_pair(b, "replica", s->replica_id);
	r = r ? r : add_pair(b, "lock", lock);
	r = r ? r : add_pair(b, "record", record);
	r = r ? r : add_pair(b, "log", s->log_path);
	r = r ? r : add_pair(b, "socket", s->socket_path);
	r = r ? r : add_pair(b, "cwd", s->cwd);
	r = r ? r : add_number(b, "generation", s->generation);
	r = r ? r : add_number(b, "log_max", s->log_max);
	r = r ? r : add_number(b, "grace_ms", s->grace_ms > 0 ? (uint64_t)s->grace_ms : 1);
	r = r ? r : add_number(b, "nofile", s->nofile);
	r = r ? r : add_list(b, "arg", s->argv);
	r = r ? r : add_list(b, "env", s->env);
	r = r ? r : add_pair(b, "env", mark);
	r = r ? r : add_list(b, "stop", s->stop_argv);
	return r;
}

/* A descriptor from which the specification can be read: memory, never a file. */
static int spec_fd(const struct keeper_spec *s, int *ret, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(SPEC_BYTES_MAX);
	if (spec_encode(s, &b))
		return err_set(reterr, -E2BIG,
			"the command line and environment of %s have more than 500 KiB; shorten args or env",
			s->replica_id);
	AUTO(fd_closep) int fd = memfd_create("corral-keeper", MFD_CLOEXEC);
	if (fd < 0)
		return err_set(reterr, -errno, "no memory for the specification of %s: %s", s->replica_id,
			strerror(errno));
	int r = fd_write_all(fd, b.data, b.len);
	if (!r && lseek(fd, 0, SEEK_SET) < 0)
		r = -errno;
	if (r)
		return err_set(reterr, r, "the specification of %s cannot be handed over: %s", s->replica_id,
			strerror(-r));
	*ret = fd_take(&fd);
	return 0;
}

static struct keeper *keeper_make(
	struct loop *l, const char *dir, const char *id, const struct keeper_ops *ops, void *arg)
{
	struct keeper *k = NEW(struct keeper);
	k->loop = l;
	k->ops = ops;
	k->arg = arg;
	k->engines_dir = mem_strdup(dir);
	k->replica_id = mem_strdup(id);
	k->report_fd = k->spec_fd = -1;
	buf_init(&k->report, REPORT_MAX);
	return k;
}

static int spawn(struct keeper *k, struct err *reterr)
{
	AUTO(fd_closep) int spec = fd_take(&k->spec_fd);
	int p[2];
	if (pipe2(p, O_CLOEXEC) < 0)
		return err_set(
			reterr, -errno, "no pipe for the keeper of %s: %s", k->replica_id, strerror(errno));
	k->report_fd = p[0];
	AUTO(fd_closep) int theirs = p[1];
	int r = fd_nonblock(k->report_fd);
	if (!r)
		r = loop_watch_start(k->loop, &k->report_watch, k->report_fd, LOOP_READ, on_report, k);
	if (r)
		return err_set(
			reterr, r, "the keeper of %s cannot be watched: %s", k->replica_id, strerror(-r));
	char *argv[] = { k->program, k->replica_id, NULL };
	char *env[] = { NULL };
	struct loop_spawn sp = {
		.file = k->program,
		.argv = argv, /* the id is there for people who list processes */
		.env = env,
		.fds = { -1, -1, -1, spec, theirs },
		.nfds = 5,
		.new_session = true,
	};
	return loop_spawn(k->loop, &sp, on_child_end, k, &k->proc, reterr);
}

static void on_swept_before(void *arg)
{
	struct keeper *k = arg;
	struct err e = { 0 };
	struct keeper_end end = { .message = "it was stopped before it could start the engine" };
	if (!k->stop_wanted && spawn(k, &e) == 0)
		return;
	if (!k->stop_wanted)
		end.message = e.msg;
	close_report(k);
	keeper_set(k, KEEPER_ENDED);
	k->ops->on_end(k->arg, &end);
}

int keeper_start(struct loop *l, const struct keeper_spec *s, const struct keeper_ops *ops, void *arg,
	struct keeper **ret, struct err *reterr)
{
	struct keeper *k = keeper_make(l, s->engines_dir, s->replica_id, ops, arg);
	k->generation = s->generation;
	k->program = mem_strdup(s->program);
	int r = spec_fd(s, &k->spec_fd, reterr);
	if (!r && !keeper_runs(s->engines_dir, s->replica_id) && cut_short(s->engines_dir, s->replica_id)) {
		AUTO(mem_freep) char *mark = mark_of(s->engines_dir, s->replica_id);
		sweep_start(l, mark, on_swept_before, k, &k->sweep);
	} else {
		r = r ? r : spawn(k, reterr);
	}
	if (r) {
		keeper_free(&k);
		return r;
	}
	*ret = k;
	return 0;
}

/* ---- finding --------------------------------------------------------------------------------------- */

int keeper_adopt(struct loop *l, const char *engines_dir, const char *replica_id,
	const struct keeper_ops *ops, void *arg, struct keeper **ret, struct err *reterr)
{
	if (!keeper_runs(engines_dir, replica_id)) {
		if (cut_short(engines_dir, replica_id)) {
			AUTO(mem_freep) char *mark = mark_of(engines_dir, replica_id);
			(void)sweep_once(mark); /* a start waits for their end, here nobody does */
		}
		return -ENOENT;
	}
	struct keeper_record rec;
	int r = keeper_last(engines_dir, replica_id, &rec, reterr);
	if (r || rec.state == RECORD_GONE || strcmp(rec.replica_id, replica_id) != 0)
		return -EAGAIN;
	struct keeper *k = keeper_make(l, engines_dir, replica_id, ops, arg);
	k->generation = rec.generation;
	k->record = rec;
	k->have_record = true;
	r = loop_pid_watch(l, &k->pid, rec.keeper_pid, on_found_end, k);
	/* The descriptor is open: if the start time agrees now, it is the one that is watched. */
	if (!r && !proc_is(rec.keeper_pid, rec.keeper_start, rec.boot_id))
		r = -ESRCH;
	if (r) {
		keeper_free(&k);
		return -EAGAIN; /* its end, or a successor whose record is not there yet */
	}
	keeper_set(k, KEEPER_RUNNING);
	*ret = k;
	return 0;
}

static int scan_dir(DIR *d, keeper_found_fn *fn, void *arg)
{
	struct view suffix = VIEW(".record");
	for (struct dirent *e; (e = readdir(d));) {
		struct view name = view_str(e->d_name);
		if (name.n <= suffix.n || !view_ends(name, suffix) || name.p[0] == '.')
			continue;
		AUTO(mem_freep) char *id = mem_viewdup(view_cut(name, name.n - suffix.n));
		fn(arg, id);
	}
	return 0;
}

int keeper_scan(const char *engines_dir, keeper_found_fn *fn, void *arg)
{
	DIR *d = opendir(engines_dir);
	if (!d)
		return errno == ENOENT ? 0 : -errno;
	int r = scan_dir(d, fn, arg);
	closedir(d);
	return r;
}

int keeper_last(
	const char *engines_dir, const char *replica_id, struct keeper_record *ret, struct err *reterr)
{
	AUTO(mem_freep) char *path = file_of(engines_dir, replica_id, "record");
	return record_read(path, ret, reterr);
}

int keeper_bury(const char *engines_dir, const char *replica_id, struct keeper_end *ret, struct err *reterr)
{
	struct keeper_record rec;
	if (keeper_runs(engines_dir, replica_id))
		return -EBUSY;
	int r = keeper_last(engines_dir, replica_id, &rec, reterr);
	if (r)
		return r;
	*ret = (struct keeper_end){ .started = !rec.exec_errno, .record = rec };
	ret->known = rec.state == RECORD_GONE || rec.state == RECORD_ENDED;
	return 0;
}

void keeper_clean(const char *engines_dir, const char *replica_id)
{
	AUTO(mem_freep) char *lock = file_of(engines_dir, replica_id, "lock");
	AUTO(mem_freep) char *record = file_of(engines_dir, replica_id, "record");
	AUTO(fd_closep) int fd = open(lock, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
		return;
	/* Under the lock: whoever opened the file before looks again after locking it. */
	unlink(record);
	unlink(lock);
}

/* ---- stopping -------------------------------------------------------------------------------------- */

void keeper_stop(struct keeper *k)
{
	if (k->stop_wanted || k->state == KEEPER_ENDED)
		return;
	k->stop_wanted = true;
	bool early = k->state == KEEPER_LAUNCHING;
	keeper_set(k, KEEPER_STOPPING);
	if (!early)
		send_signals(k);
}

void keeper_kill(struct keeper *k)
{
	if (k->state == KEEPER_ENDED)
		return;
	bool early = k->state == KEEPER_LAUNCHING || (k->proc && k->report_fd >= 0);
	k->kill_wanted = k->stop_wanted = true;
	if (k->state != KEEPER_STOPPING)
		keeper_set(k, KEEPER_STOPPING);
	if (!early)
		send_signals(k);
}

void keeper_free(struct keeper **pk)
{
	struct keeper *k = *pk;
	*pk = NULL;
	if (!k)
		return;
	close_report(k);
	sweep_cancel(&k->sweep);
	fd_close(k->spec_fd);
	loop_proc_forget(&k->proc);
	loop_pid_stop(&k->pid);
	buf_done(&k->report);
	free(k->program);
	free(k->engines_dir);
	free(k->replica_id);
	loop_defer_free(k->loop, k);
}
