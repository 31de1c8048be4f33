/* SPDX-License-Identifier: Apache-2.0
 *
 * What a killed keeper leaves: found by the mark in its environment, killed, waited for. Children of this
 * program are the left-overs; one without the mark must live on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "supervise/sweep.h"

enum { DEADLINE_MS = 60000 };

/* A process with this environment, executed for sure when this returns: /proc/PID/environ is of exec. */
static pid_t start_with(const char *assignment)
{
	int p[2];
	char *argv[] = { (char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
		(char *)(uintptr_t) "trap '' TERM; echo; exec sleep 600 >&- 2>&-", NULL };
	char *env[] = { (char *)(uintptr_t) "PATH=/usr/bin:/bin", (char *)(uintptr_t)assignment, NULL };
	assert_int_equal(pipe(p), 0);
	pid_t pid = fork();
	if (pid == 0) {
		setsid();
		dup2(p[1], 1);
		close(p[0]);
		close(p[1]);
		execve("/bin/sh", argv, env);
		_exit(1);
	}
	char c;
	close(p[1]);
	assert_int_equal(read(p[0], &c, 1), 1);
	close(p[0]);
	return pid;
}

static int end_of(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : -1;
}

struct bench {
	struct loop *loop;
	struct loop_timer deadline;
	struct sweep *sweep;
	int done;
	bool late;
};

static void on_done(void *arg)
{
	struct bench *b = arg;
	b->done++;
	loop_stop(b->loop);
}

static void on_deadline(void *arg)
{
	struct bench *b = arg;
	b->late = true;
	loop_stop(b->loop);
}

static void run(struct bench *b)
{
	loop_timer_start(b->loop, &b->deadline, DEADLINE_MS, on_deadline, b);
	loop_run(b->loop);
	loop_timer_stop(&b->deadline);
}

static void test_marked_alone(void **state)
{
	(void)state;
	AUTO(mem_freep) char *mark = mem_fmt("CORRAL_ENGINE_OF=0:0:/nowhere/%d/a-0.lock", (int)getpid());
	AUTO(mem_freep) char *longer = mem_fmt("%s.old", mark);
	AUTO(mem_freep) char *within = mem_fmt("X%s", mark);
	pid_t marked = start_with(mark), other = start_with(longer), another = start_with(within);
	struct bench b = { .loop = loop_new("sweep") };
	sweep_start(b.loop, mark, on_done, &b, &b.sweep);
	assert_int_equal(b.done, 0); /* never inside the call */
	run(&b);
	assert_false(b.late);
	assert_int_equal(b.done, 1);
	assert_null(b.sweep);
	assert_int_equal(end_of(marked), SIGKILL);
	assert_int_equal(kill(other, 0), 0);
	assert_int_equal(kill(another, 0), 0);
	assert_int_equal(sweep_once(mark), 0);
	assert_int_equal(sweep_once(longer), 1);
	assert_int_equal(end_of(other), SIGKILL);
	kill(another, SIGKILL);
	assert_int_equal(end_of(another), SIGKILL);
	loop_free(b.loop);
}

/* As in a container beside us, whose folder has the same name. */
static void test_of_another_folder_of_that_name(void **state)
{
	(void)state;
	char dir[] = "/tmp/corral-sweep-XXXXXX";
	assert_non_null(mkdtemp(dir));
	AUTO(mem_freep) char *away = mem_fmt("%s.away", dir);
	AUTO(mem_freep) char *lock = mem_fmt("%s/a-0.lock", dir);
	AUTO(mem_freep) char *theirs = sweep_mark(lock);
	assert_int_equal(rename(dir, away), 0);
	assert_int_equal(mkdir(dir, 0700), 0);
	AUTO(mem_freep) char *ours = sweep_mark(lock);
	AUTO(mem_freep) char *again = sweep_mark(lock);
	assert_string_equal(ours, again);
	pid_t pid = start_with(theirs);
	assert_int_equal(sweep_once(ours), 0);
	assert_int_equal(sweep_once(theirs), 1);
	assert_int_equal(end_of(pid), SIGKILL);
	assert_int_equal(rmdir(dir), 0);
	assert_int_equal(rmdir(away), 0);
}

static void test_nothing_there(void **state)
{
	(void)state;
	struct bench b = { .loop = loop_new("sweep") };
	sweep_start(b.loop, "CORRAL_ENGINE_OF=0:0:/nowhere/at/all.lock", on_done, &b, &b.sweep);
	run(&b);
	assert_int_equal(b.done, 1);
	loop_free(b.loop);
}

static void test_cancelled(void **state)
{
	(void)state;
	struct bench b = { .loop = loop_new("sweep") };
	sweep_start(b.loop, "CORRAL_ENGINE_OF=0:0:/nowhere/at/all.lock", on_done, &b, &b.sweep);
	sweep_cancel(&b.sweep);
	assert_null(b.sweep);
	sweep_cancel(&b.sweep);
	loop_stop(b.loop);
	loop_run(b.loop);
	assert_int_equal(b.done, 0);
	loop_free(b.loop);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_marked_alone),
		cmocka_unit_test(test_of_another_folder_of_that_name), cmocka_unit_test(test_nothing_there),
		cmocka_unit_test(test_cancelled) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
