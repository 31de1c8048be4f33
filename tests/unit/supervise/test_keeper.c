/* SPDX-License-Identifier: Apache-2.0
 *
 * Keepers driven for real. The test program plays the engines itself: started with a role as its
 * first argument it behaves badly on demand. After every test no process of it may be left.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "supervise/keeper.h"

enum { DEADLINE_MS = 60000 };

/* ---- the engines ------------------------------------------------------------------------------------ */

static void wait_for_ever(void)
{
	for (;;)
		pause();
}

static void role_tree(void)
{
	signal(SIGTERM, SIG_IGN);
	int p[2];
	if (pipe(p) < 0)
		exit(3);
	if (fork() == 0) {
		setsid();
		if (fork() == 0) {
			setsid();
			printf("grandchild %d\n", (int)getpid());
			fflush(stdout);
			close(p[1]);
			wait_for_ever();
		}
		exit(0);
	}
	close(p[1]);
	char c;
	if (read(p[0], &c, 1) < 0)
		exit(3);
	exit(0);
}

static int role_check(void)
{
	struct rlimit l;
	char cwd[4096];
	mode_t mask = umask(0);
	if (getrlimit(RLIMIT_NOFILE, &l) < 0 || !getcwd(cwd, sizeof cwd))
		return 3;
	printf("nofile %llu cwd %s umask %o env %s sid %d\n", (unsigned long long)l.rlim_cur, cwd, mask,
		getenv("GREETING") ? getenv("GREETING") : "-", getsid(0) == getpid());
	for (int fd = 3; fd < 64; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf("descriptor %d is open\n", fd);
	return getenv("HOME") ? 4 : 0;
}

static int engine(const char *role, const char *arg)
{
	struct rlimit none = { 0, 0 };
	setrlimit(RLIMIT_CORE, &none);
	if (!strcmp(role, "exit")) {
		uint64_t code = 0;
		return num_u64(view_str(arg), &code) ? 3 : (int)code;
	}
	if (!strcmp(role, "segv"))
		signal(SIGSEGV, SIG_DFL), raise(SIGSEGV);
	if (!strcmp(role, "stubborn"))
		signal(SIGTERM, SIG_IGN);
	if (!strcmp(role, "stay") && fork() == 0) {
		setsid();
		signal(SIGTERM, SIG_IGN);
		printf("grandchild %d\n", (int)getpid());
		fflush(stdout);
	}
	if (!strcmp(role, "tree"))
		role_tree();
	if (!strcmp(role, "check"))
		return role_check();
	if (!strcmp(role, "flood")) {
		for (int i = 0; i < 60000; i++)
			printf("line %d of a very talkative engine that fills its log\n", i);
		return 0;
	}
	wait_for_ever();
	return 0;
}

/* ---- the bench -------------------------------------------------------------------------------------- */

struct bench {
	struct loop *loop;
	char dir[64];
	char *log, *socket;
	char keeper[4096], self[4096];
	struct keeper *k;
	struct strv argv, env;
	struct keeper_spec spec;
	int running, ended;
	struct keeper_end end;
	char message[512];
	bool timed_out, stop_on_running;
	int looked, grandchild;
	struct loop_timer look;
	struct loop_timer deadline;
};

static void on_running(void *arg)
{
	struct bench *b = arg;
	b->running++;
	loop_stop(b->loop);
}

static void on_end(void *arg, const struct keeper_end *e)
{
	struct bench *b = arg;
	b->ended++;
	b->end = *e;
	snprintf(b->message, sizeof b->message, "%s", e->message ? e->message : "");
	loop_stop(b->loop);
}

static const struct keeper_ops ops = { on_running, on_end };

static void on_deadline(void *arg)
{
	struct bench *b = arg;
	b->timed_out = true;
	loop_stop(b->loop);
}

/* A loop that was stopped stays so: each wait gets a new one only where no keeper lives in it. The
 * counters tell what has come meanwhile. */
static void run_until(struct bench *b, const int *counter, int value)
{
	loop_timer_start(b->loop, &b->deadline, DEADLINE_MS, on_deadline, b);
	while (*counter < value && !b->timed_out)
		loop_run(b->loop);
	loop_timer_stop(&b->deadline);
	assert_false(b->timed_out);
}

static int setup(void **state)
{
	struct bench *b = NEW(struct bench);
	snprintf(b->dir, sizeof b->dir, "/tmp/test-keeper-XXXXXX");
	if (!mkdtemp(b->dir))
		return -1;
	b->loop = loop_new("test");
	ssize_t n = readlink("/proc/self/exe", b->self, sizeof b->self - 1);
	if (n < 0)
		return -1;
	AUTO(mem_freep) char *dir = mem_strdup(b->self);
	for (int up = 0; up < 3; up++)
		*strrchr(dir, '/') = '\0';
	snprintf(b->keeper, sizeof b->keeper, "%.4000s/keeper/corral-keeper", dir);
	b->log = mem_fmt("%s/chat-0.log", b->dir);
	b->socket = mem_fmt("%s/chat-0.1.sock", b->dir);
	strv_addf(&b->env, "BENCH=%s", b->dir);
	b->spec = (struct keeper_spec){
		.program = b->keeper,
		.engines_dir = b->dir,
		.replica_id = "chat-0",
		.generation = 1,
		.log_path = b->log,
		.socket_path = b->socket,
		.argv = &b->argv,
		.env = &b->env,
		.grace_ms = 20000,
	};
	*state = b;
	return 0;
}

/* How many engines of this test there are still; their environment names its folder, and zombies have none.
 * Another run of the same program, beside this one, has a folder of its own. */
static int left_over(const struct bench *b)
{
	int found = 0;
	AUTO(mem_freep) char *mark = mem_fmt("BENCH=%s", b->dir);
	DIR *d = opendir("/proc");
	for (struct dirent *e; d && (e = readdir(d));) {
		AUTO(mem_freep) char *path = mem_fmt("/proc/%s/environ", e->d_name);
		AUTO(buf_done) struct buf env = BUF(2 * MIB);
		uint64_t pid;
		if (num_u64(view_str(e->d_name), &pid) || (pid_t)pid == getpid() || file_read(path, &env))
			continue;
		found += view_search(buf_view(&env), view_str(mark)) >= 0;
	}
	if (d)
		closedir(d);
	return found;
}

static int teardown(void **state)
{
	struct bench *b = *state;
	keeper_free(&b->k);
	loop_free(b->loop);
	int left = left_over(b);
	keeper_clean(b->dir, "chat-0");
	AUTO(mem_freep) char *old = mem_fmt("%s.1", b->log);
	unlink(old);
	unlink(b->log);
	unlink(b->socket);
	int r = rmdir(b->dir); /* fails when a file is left that should not be */
	strv_done(&b->argv);
	strv_done(&b->env);
	free(b->log);
	free(b->socket);
	free(b);
	if (left)
		fprintf(stderr, "%d processes are left\n", left);
	return left || r ? -1 : 0;
}

static void start(struct bench *b, const char *role, const char *arg)
{
	strv_add(&b->argv, b->self);
	strv_add(&b->argv, role);
	strv_add(&b->argv, arg);
	struct err e = { 0 };
	assert_int_equal(keeper_start(b->loop, &b->spec, &ops, b, &b->k, &e), 0);
}

static void start_running(struct bench *b, const char *role)
{
	start(b, role, "");
	run_until(b, &b->running, 1);
	assert_int_equal(keeper_state(b->k), KEEPER_RUNNING);
	assert_non_null(keeper_record(b->k));
	assert_true(proc_is(keeper_record(b->k)->engine_pid, keeper_record(b->k)->engine_start,
		keeper_record(b->k)->boot_id));
}

static char *log_text(struct bench *b)
{
	struct buf t = BUF(16 * MIB);
	assert_int_equal(file_read(b->log, &t), 0);
	char *s = buf_take(&t);
	return s;
}

/* Waits for the end of a process that is not ours. */
static void wait_gone(int pid)
{
	AUTO(fd_closep) int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
}

/* ---- the tests -------------------------------------------------------------------------------------- */

static void exit_code_is_known(void **state)
{
	struct bench *b = *state;
	start(b, "exit", "7");
	run_until(b, &b->ended, 1);
	assert_true(b->end.started && b->end.known);
	assert_int_equal(b->end.record.exit_code, 7);
	assert_int_equal(b->end.record.signo, 0);
	assert_int_equal(b->end.record.state, RECORD_GONE);
	assert_false(b->end.record.stop_asked);
	struct keeper_record last;
	assert_int_equal(keeper_last(b->dir, "chat-0", &last, NULL), 0);
	assert_int_equal(last.exit_code, 7);
}

static void signal_is_known(void **state)
{
	struct bench *b = *state;
	start(b, "segv", "");
	run_until(b, &b->ended, 1);
	assert_true(b->end.started && b->end.known);
	assert_int_equal(b->end.record.signo, SIGSEGV);
	assert_int_equal(b->end.record.exit_code, -1);
}

static void stop_is_a_stop(void **state)
{
	struct bench *b = *state;
	start_running(b, "wait");
	assert_int_equal(file_write_atomic(b->socket, VIEW("x"), 0600, false), 0);
	keeper_stop(b->k);
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
	assert_true(b->end.known && b->end.record.stop_asked && !b->end.record.killed);
	assert_int_equal(b->end.record.signo, SIGTERM);
	assert_false(file_exists(b->socket)); /* a stale one would make the next start fail */
}

static void a_stop_before_it_runs_is_kept(void **state)
{
	struct bench *b = *state;
	start(b, "wait", "");
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
	assert_true(b->end.known && b->end.record.stop_asked);
	assert_int_equal(b->running, 0);
}

static void ignoring_sigterm_ends_after_the_grace(void **state)
{
	struct bench *b = *state;
	b->spec.grace_ms = 50;
	start_running(b, "stubborn");
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
	assert_true(b->end.record.stop_asked);
	/* SIGTERM may have come before it was ignored */
	assert_true(
		b->end.record.signo == SIGTERM || (b->end.record.signo == SIGKILL && b->end.record.killed));
}

static void kill_does_not_wait_for_the_grace(void **state)
{
	struct bench *b = *state;
	start_running(b, "stubborn");
	keeper_kill(b->k);
	run_until(b, &b->ended, 1);
	assert_int_equal(b->end.record.signo, SIGKILL);
	assert_true(b->end.record.killed && !b->end.record.oom);
}

static void a_keeper_that_was_stopped_hears_its_end(void **state)
{
	struct bench *b = *state;
	start_running(b, "stay");
	assert_int_equal(kill(keeper_record(b->k)->keeper_pid, SIGSTOP), 0);
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
	assert_true(b->end.known && b->end.record.stop_asked);
	assert_int_equal(b->end.record.signo, SIGTERM);
}

static void a_stop_command_replaces_sigterm(void **state)
{
	struct bench *b = *state;
	AUTO(strv_done) struct strv stop = { 0 };
	strv_add(&stop, "/bin/sh");
	strv_add(&stop, "-c");
	strv_add(&stop, "kill -USR2 $ENGINE_PID");
	b->spec.stop_argv = &stop;
	start_running(b, "wait");
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
	assert_int_equal(b->end.record.signo, SIGUSR2);
	assert_true(b->end.record.stop_asked);
}

static void a_stop_command_that_fails_is_followed_by_sigterm(void **state)
{
	struct bench *b = *state;
	AUTO(strv_done) struct strv stop = { 0 };
	strv_add(&stop, "/nonexistent/stop");
	b->spec.stop_argv = &stop;
	start_running(b, "wait");
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
	assert_int_equal(b->end.record.signo, SIGTERM);
}

static void a_grandchild_in_its_own_session_is_killed(void **state)
{
	struct bench *b = *state;
	start(b, "tree", "");
	run_until(b, &b->ended, 1);
	assert_int_equal(b->end.record.exit_code, 0);
	AUTO(mem_freep) char *text = log_text(b);
	assert_non_null(strstr(text, "grandchild ")); /* the teardown finds it if it lives */
}

static void a_flood_stays_in_its_bounds(void **state)
{
	struct bench *b = *state;
	b->spec.log_max = 256 * KIB;
	start(b, "flood", "");
	run_until(b, &b->ended, 1);
	assert_int_equal(b->end.record.exit_code, 0);
	assert_int_equal(b->end.record.log_dropped_bytes, 0);
	AUTO(mem_freep) char *old = mem_fmt("%s.1", b->log);
	struct stat st;
	assert_int_equal(stat(b->log, &st), 0);
	assert_true((uint64_t)st.st_size <= 256 * KIB);
	assert_int_equal(stat(old, &st), 0);
	assert_true((uint64_t)st.st_size <= 256 * KIB);
	AUTO(mem_freep) char *text = log_text(b);
	assert_non_null(strstr(text, "line 59999 of"));
}

static void a_full_disk_drops_with_a_counter(void **state)
{
	struct bench *b = *state;
	struct rlimit before, small = { 32 * KIB, RLIM_INFINITY };
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small.rlim_max = before.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	start(b, "flood", "");
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	run_until(b, &b->ended, 1);
	assert_int_equal(b->end.record.exit_code, 0); /* the engine was never blocked */
	assert_true(b->end.record.log_dropped_bytes > 1 * MIB);
}

static void a_second_start_is_refused(void **state)
{
	struct bench *b = *state;
	start_running(b, "wait");
	struct bench other = { .loop = b->loop };
	struct keeper *k2;
	b->spec.generation = 2;
	assert_int_equal(keeper_start(b->loop, &b->spec, &ops, &other, &k2, NULL), 0);
	run_until(b, &other.ended, 1);
	assert_true(other.end.busy && !other.end.started);
	assert_non_null(strstr(other.message, "runs already"));
	keeper_free(&k2);
	assert_int_equal(keeper_state(b->k), KEEPER_RUNNING);
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
}

static void a_killed_keeper_takes_its_engine_along(void **state)
{
	struct bench *b = *state;
	start_running(b, "stubborn");
	int engine_pid = keeper_record(b->k)->engine_pid;
	AUTO(fd_closep) int fd = (int)syscall(SYS_pidfd_open, engine_pid, 0);
	assert_true(fd >= 0);
	assert_int_equal(kill(keeper_record(b->k)->keeper_pid, SIGKILL), 0);
	run_until(b, &b->ended, 1);
	assert_true(b->end.started && !b->end.known);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
	wait_gone(engine_pid);
}

/* The process the "tree" engine put into a session of its own, as its log names it. */
static int grandchild_of(struct bench *b)
{
	AUTO(mem_freep) char *text = log_text(b);
	const char *at = strstr(text, "grandchild ");
	uint64_t pid = 0;
	struct view rest;
	if (!at || num_u64(view_split(view_str(at + 11), '\n', &rest), &pid))
		return 0;
	return (int)pid;
}

static void on_look(void *arg)
{
	struct bench *b = arg;
	b->grandchild = grandchild_of(b);
	b->looked = b->grandchild != 0;
	if (!b->looked)
		loop_timer_start(b->loop, &b->look, 10, on_look, b);
	else
		loop_stop(b->loop);
}

static void start_with_grandchild(struct bench *b)
{
	start_running(b, "stay");
	loop_timer_start(b->loop, &b->look, 0, on_look, b);
	run_until(b, &b->looked, 1);
}

static void what_a_killed_keeper_leaves_is_swept(void **state)
{
	struct bench *b = *state;
	start_with_grandchild(b);
	assert_int_equal(kill(b->grandchild, 0), 0);
	assert_int_equal(left_over(b), 2);
	int engine = keeper_record(b->k)->engine_pid;
	assert_int_equal(kill(keeper_record(b->k)->keeper_pid, SIGKILL), 0);
	run_until(b, &b->ended, 1);
	assert_false(b->end.known);
	wait_gone(b->grandchild);
	wait_gone(engine);
}

static void what_a_keeper_left_before_us_is_swept(void **state)
{
	struct bench *b = *state;
	start_with_grandchild(b);
	int keeper = keeper_record(b->k)->keeper_pid, engine = keeper_record(b->k)->engine_pid;
	struct keeper_end e;
	assert_int_equal(keeper_bury(b->dir, "chat-0", &e, NULL), -EBUSY);
	keeper_free(&b->k); /* nobody watches it any more */
	AUTO(fd_closep) int fd = (int)syscall(SYS_pidfd_open, keeper, 0);
	assert_int_equal(kill(keeper, SIGKILL), 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	assert_int_equal(poll(&p, 1, DEADLINE_MS), 1);
	assert_int_equal(kill(b->grandchild, 0), 0); /* it would live for ever */
	struct keeper *none = NULL;
	assert_int_equal(keeper_adopt(b->loop, b->dir, "chat-0", &ops, b, &none, NULL), -ENOENT);
	assert_int_equal(keeper_bury(b->dir, "chat-0", &e, NULL), 0);
	assert_true(e.started && !e.known);
	assert_int_equal(e.record.keeper_pid, keeper);
	wait_gone(b->grandchild);
	wait_gone(engine);
}

static void a_foreign_process_in_a_record_is_never_signalled(void **state)
{
	struct bench *b = *state;
	int p[2];
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	int pid = fork();
	if (pid == 0) {
		char c;
		close(p[1]);
		_exit(read(p[0], &c, 1) == 0 ? 9 : 1); /* ends when this test closes the pipe */
	}
	close(p[0]);
	AUTO(mem_freep) char *path = mem_fmt("%s/chat-0.record", b->dir);
	char boot[BOOT_ID_LEN + 1];
	boot_id_read(boot);
	for (int same_boot = 0; same_boot < 2; same_boot++) {
		AUTO(mem_freep)
		char *text = mem_fmt(
			"{\"schema\":1,\"replica_id\":\"chat-0\",\"generation\":3,\"state\":\"running\","
			"\"boot_id\":\"%s\",\"keeper_pid\":%d,\"keeper_start\":1,\"engine_pid\":%d,"
			"\"engine_start\":1,\"exit_code\":-1,\"signal\":0,\"exec_errno\":0,"
			"\"stop_asked\":false,\"killed\":false,\"oom\":false,\"started_at_ms\":1,"
			"\"ended_at_ms\":0,\"log_dropped_bytes\":0,\"socket\":\"\"}",
			same_boot ? boot : "another boot", pid, pid);
		assert_int_equal(file_write_atomic(path, view_str(text), 0600, false), 0);
		struct keeper_end e;
		assert_int_equal(keeper_adopt(b->loop, b->dir, "chat-0", &ops, b, &b->k, NULL), -ENOENT);
		assert_int_equal(keeper_bury(b->dir, "chat-0", &e, NULL), 0);
		assert_false(e.known);
	}
	close(p[1]);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 9);
}

static void a_keeper_is_found_again(void **state)
{
	struct bench *b = *state;
	start_running(b, "wait");
	int pid = keeper_record(b->k)->keeper_pid;
	keeper_free(&b->k); /* as if this process had ended */
	assert_int_equal(keeper_adopt(b->loop, b->dir, "chat-0", &ops, b, &b->k, NULL), 0);
	assert_int_equal(keeper_state(b->k), KEEPER_RUNNING);
	assert_int_equal(keeper_record(b->k)->keeper_pid, pid);
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
	assert_true(b->end.known && b->end.record.stop_asked);
	struct keeper *none = NULL;
	assert_int_equal(keeper_adopt(b->loop, b->dir, "chat-0", &ops, b, &none, NULL), -ENOENT);
}

static void a_reused_pid_is_not_believed(void **state)
{
	struct bench *b = *state;
	start(b, "exit", "0");
	run_until(b, &b->ended, 1);
	/* The record as a crashed keeper would have left it, naming this process, which is not it. */
	AUTO(mem_freep)
	char *text = mem_fmt(
		"{\"schema\":1,\"replica_id\":\"chat-0\",\"generation\":1,\"state\":\"running\",\"boot_id\":"
		"\"%s\","
		"\"keeper_pid\":%d,\"keeper_start\":1,\"engine_pid\":%d,\"engine_start\":1,\"exit_code\":0,"
		"\"signal\":0,\"exec_errno\":0,\"stop_asked\":false,\"killed\":false,\"oom\":false,"
		"\"started_at_ms\":1,\"ended_at_ms\":0,\"log_dropped_bytes\":0,\"socket\":\"\"}",
		b->end.record.boot_id, (int)getpid(), (int)getpid());
	AUTO(mem_freep) char *path = mem_fmt("%s/chat-0.record", b->dir);
	assert_int_equal(file_write_atomic(path, view_str(text), 0600, false), 0);
	struct keeper *k = NULL;
	assert_int_equal(keeper_adopt(b->loop, b->dir, "chat-0", &ops, b, &k, NULL), -ENOENT);
	AUTO(mem_freep) char *lock = mem_fmt("%s/chat-0.lock", b->dir);
	AUTO(fd_closep) int fd = open(lock, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	assert_int_equal(keeper_adopt(b->loop, b->dir, "chat-0", &ops, b, &k, NULL), -EAGAIN);
}

static void what_cannot_be_executed_is_said(void **state)
{
	struct bench *b = *state;
	strv_add(&b->argv, "/nonexistent/engine");
	assert_int_equal(keeper_start(b->loop, &b->spec, &ops, b, &b->k, NULL), 0);
	run_until(b, &b->ended, 1);
	assert_false(b->end.started);
	assert_non_null(strstr(b->message, "/nonexistent/engine cannot be executed: No such file"));
}

static void a_keeper_that_is_not_there_is_an_error(void **state)
{
	struct bench *b = *state;
	strv_add(&b->argv, b->self);
	b->spec.program = "/nonexistent/corral-keeper";
	struct err e = { 0 };
	assert_true(keeper_start(b->loop, &b->spec, &ops, b, &b->k, &e) < 0);
	assert_non_null(strstr(e.msg, "/nonexistent/corral-keeper"));
}

static void the_engine_gets_what_was_said(void **state)
{
	struct bench *b = *state;
	strv_add(&b->env, "GREETING=good morning");
	b->spec.nofile = 256;
	b->spec.cwd = b->dir;
	start(b, "check", "");
	run_until(b, &b->ended, 1);
	assert_int_equal(b->end.record.exit_code, 0);
	AUTO(mem_freep) char *text = log_text(b);
	AUTO(mem_freep) char *want = mem_fmt("nofile 256 cwd %s umask 77 env good morning sid 1\n", b->dir);
	assert_non_null(strstr(text, want));
	if (strstr(text, "descriptor"))
		print_message("%s", text);
	assert_null(strstr(text, "descriptor"));
}

static void a_keeper_is_small(void **state)
{
	struct bench *b = *state;
	start_running(b, "wait");
	AUTO(mem_freep) char *path = mem_fmt("/proc/%d/status", keeper_record(b->k)->keeper_pid);
	AUTO(buf_done) struct buf t = BUF(64 * KIB);
	assert_int_equal(file_read(path, &t), 0);
	const char *rss = strstr(buf_str(&t), "VmRSS:");
	uint64_t kib = 0;
	if (rss) { /* not every kernel tells */
		struct view rest, v = view_trim(view_str(rss + strlen("VmRSS:")));
		assert_int_equal(num_u64(view_split(v, ' ', &rest), &kib), 0);
		assert_true(kib < 1024);
	}
	print_message("a keeper is resident with %llu KiB\n", (unsigned long long)kib);
	keeper_stop(b->k);
	run_until(b, &b->ended, 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	if (argc > 2)
		return engine(argv[1], argv[2]);
	const struct CMUnitTest tests[] = {
		T(exit_code_is_known),
		T(signal_is_known),
		T(stop_is_a_stop),
		T(a_stop_before_it_runs_is_kept),
		T(ignoring_sigterm_ends_after_the_grace),
		T(kill_does_not_wait_for_the_grace),
		T(a_keeper_that_was_stopped_hears_its_end),
		T(a_stop_command_replaces_sigterm),
		T(a_stop_command_that_fails_is_followed_by_sigterm),
		T(a_grandchild_in_its_own_session_is_killed),
		T(a_flood_stays_in_its_bounds),
		T(a_full_disk_drops_with_a_counter),
		T(a_second_start_is_refused),
		T(a_killed_keeper_takes_its_engine_along),
		T(what_a_killed_keeper_leaves_is_swept),
		T(what_a_keeper_left_before_us_is_swept),
		T(a_foreign_process_in_a_record_is_never_signalled),
		T(a_keeper_is_found_again),
		T(a_reused_pid_is_not_believed),
		T(what_cannot_be_executed_is_said),
		T(a_keeper_that_is_not_there_is_an_error),
		T(the_engine_gets_what_was_said),
		T(a_keeper_is_small),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
