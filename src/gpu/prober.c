/* SPDX-License-Identifier: Apache-2.0
 *
 * The child's life.
 */
#include "gpu/prober.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

enum {
	STRIKES_MAX = 3, /* rounds without an answer until the devices are lost */
	AGAIN_MS = 5000, /* between tries once they are */
	DRAIN_PER_ROUND = 16,
};

struct prober {
	struct prober_opts o;
	bool heard, lost, driver_failed;
	struct gpu_sample *sample, *reading; /* the last answer; sample_good: it holds */
	bool sample_good;
	char words[256]; /* of the driver, or ours about it; empty: nothing is wrong */
	unsigned strikes;
	unsigned quick; /* children in a row that did not live for AGAIN_MS */
	mono_t started;
	struct loop_timer patience, again;

	struct loop_proc *proc;
	int fd; /* one socket: asks go out, lines come back; -1: no child */
	struct loop_watch *watch;
	bool asked, killed; /* killed: its end is awaited */
	struct buf line;
};

static void child_start(struct prober *p);

static void news(struct prober *p)
{
	p->heard = true;
	p->o.on_news(p->o.arg);
}

static void child_forget(struct prober *p)
{
	loop_timer_stop(&p->patience);
	loop_watch_stop(&p->watch);
	fd_close(fd_take(&p->fd));
	buf_reset(&p->line);
	p->asked = false;
}

/* A round without an answer. */
static void strike(struct prober *p, const char *why)
{
	p->strikes++;
	if (p->strikes < STRIKES_MAX)
		return;
	p->lost = true;
	p->sample_good = false;
	gpu_set_text(p->words, sizeof p->words, view_str(why));
	news(p);
}

static void on_again(void *arg)
{
	child_start(arg);
}

/* At once, but not again and again: one that answers and dies each time is no better than one that is lost.
 */
static void start_again(struct prober *p)
{
	bool lived = mono_ms_between(p->started, mono_now()) >= AGAIN_MS;
	p->quick = lived ? 0 : p->quick + 1;
	bool wait = p->lost || p->quick >= STRIKES_MAX;
	loop_timer_start(p->o.loop, &p->again, wait ? AGAIN_MS : 0, on_again, p);
}

static void on_silence(void *arg)
{
	struct prober *p = arg;
	char why[128];
	snprintf(why, sizeof why, "the %s driver does not answer, and its probe was killed %u times",
		p->o.maker, p->strikes + 1);
	if (!p->killed) {
		p->killed = true;
		child_forget(p);
		if (p->proc)
			(void)loop_proc_kill(p->proc, SIGKILL);
	}
	/* A child that sleeps inside the kernel does not even die: another one would only join it. */
	loop_timer_start(p->o.loop, &p->patience, p->o.silence_ms, on_silence, p);
	strike(p, why);
}

static void on_child_end(void *arg, int exit_code, int signo)
{
	struct prober *p = arg;
	bool killed = p->killed;
	p->proc = NULL;
	p->killed = false;
	child_forget(p);
	if (!killed) {
		char why[128];
		if (signo)
			snprintf(why, sizeof why, "the %s library crashed its process (signal %d)",
				p->o.maker, signo);
		else
			snprintf(why, sizeof why, "the probe of the %s driver ended by itself (%d)",
				p->o.maker, exit_code);
		strike(p, why);
	}
	if (!p->driver_failed)
		start_again(p);
}

static void child_end(struct prober *p)
{
	child_forget(p);
	if (p->proc) {
		(void)loop_proc_kill(p->proc, SIGKILL);
		loop_proc_forget(&p->proc);
	}
	p->killed = false;
}

/* Loading a driver that no other program keeps awake takes seconds, on a machine with many GPUs more. */
static int64_t patience_ms(const struct prober *p)
{
	if (p->lost)
		return 3 * p->o.first_ms;
	return p->heard || p->strikes ? p->o.silence_ms : p->o.first_ms;
}

bool prober_ask(struct prober *p)
{
	if (p->fd < 0)
		return false;
	if (p->asked)
		return true;
	p->asked = true;
	loop_timer_start(p->o.loop, &p->patience, patience_ms(p), on_silence, p);
	/* A child that has just died is told of by its end. */
	(void)!send(p->fd, "\n", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	return true;
}

/* The driver cannot be asked at all (no library, no module, versions that do not fit): its words stay, and
 * no child is kept until the next look at the bus. */
static void driver_failed(struct prober *p)
{
	p->driver_failed = true;
	p->sample_good = false;
	memcpy(p->words, p->sample->error, sizeof p->words);
	child_end(p);
}

static void take_line(struct prober *p, struct view line)
{
	struct err e;
	if (gpu_sample_decode(line, p->reading, &e) < 0 || !p->asked)
		return; /* an answer nobody asked for is none */
	struct gpu_sample *s = p->sample;
	p->sample = p->reading;
	p->reading = s;
	p->asked = false;
	loop_timer_stop(&p->patience);
	p->strikes = 0;
	p->lost = p->driver_failed = false;
	memcpy(p->words, p->sample->note, sizeof p->words);
	p->sample_good = true;
	if (p->sample->has_error)
		driver_failed(p);
	news(p);
}

static void on_child_out(void *arg, int events)
{
	struct prober *p = arg;
	(void)events;
	for (int i = 0; i < DRAIN_PER_ROUND && p->fd >= 0; i++) {
		char *to = buf_room(&p->line, 8192);
		ssize_t n = to ? recv(p->fd, to, 8192, MSG_DONTWAIT) : -1;
		if (!to) {
			buf_reset(
				&p->line); /* over the bound: what it says is thrown away, silence follows */
			continue;
		}
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			(void)loop_watch_change(p->watch, 0); /* its end tells */
			return;
		}
		buf_grew(&p->line, (size_t)n);
		for (size_t end; (end = view_find(buf_view(&p->line), '\n')) < p->line.len && p->fd >= 0;) {
			take_line(p, view_cut(buf_view(&p->line), end));
			if (p->fd >= 0)
				buf_consume(&p->line, end + 1);
		}
	}
}

static int child_spawn(struct prober *p, struct err *e)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_set(e, -errno, "no socket for the GPU probe: %s", strerror(errno));
	AUTO(mem_freep) char *vendor = mem_fmt("--vendor=%s", p->o.vendor);
	AUTO(mem_freep) char *sysfs = mem_fmt("--sysfs=%s", p->o.sysfs);
	char *const argv[] = { (char[]){ "corral" }, (char[]){ "gpu-probe" }, (char[]){ "--ask" }, vendor,
		sysfs, NULL };
	struct loop_spawn s = {
		.file = p->o.program, .argv = argv, .fds = { pair[1], pair[1], -1 }, .nfds = 3
	};
	int r = loop_spawn(p->o.loop, &s, on_child_end, p, &p->proc, e);
	fd_close(pair[1]);
	if (r == 0)
		r = loop_watch_start(p->o.loop, &p->watch, pair[0], LOOP_READ, on_child_out, p);
	p->fd = pair[0];
	if (r)
		child_end(p);
	return r;
}

static void child_start(struct prober *p)
{
	struct err e = { 0 };
	if (p->proc)
		return;
	p->driver_failed = false;
	p->started = mono_now();
	if (child_spawn(p, &e) == 0) {
		(void)prober_ask(p);
		return;
	}
	strike(p, e.msg[0] ? e.msg : "the probe of the driver cannot be started");
	loop_timer_start(p->o.loop, &p->again, AGAIN_MS, on_again, p);
}

void prober_start(struct prober *p)
{
	if (!loop_timer_active(&p->again))
		child_start(p);
}

void prober_stop(struct prober *p)
{
	child_end(p);
	loop_timer_stop(&p->again);
	p->sample_good = p->lost = p->driver_failed = p->heard = false;
	p->strikes = p->quick = 0;
	p->words[0] = '\0';
}

bool prober_heard(const struct prober *p)
{
	return p->heard;
}

bool prober_lost(const struct prober *p)
{
	return p->lost;
}

const struct gpu_sample *prober_sample(const struct prober *p)
{
	return p->sample_good ? p->sample : NULL;
}

const char *prober_words(const struct prober *p)
{
	return p->words;
}

int prober_pid(const struct prober *p)
{
	return p->proc ? loop_proc_pid(p->proc) : 0;
}

struct prober *prober_new(const struct prober_opts *o)
{
	struct prober *p = NEW(struct prober);
	p->o = *o;
	p->sample = NEW(struct gpu_sample);
	p->reading = NEW(struct gpu_sample);
	p->fd = -1;
	buf_init(&p->line, GPU_LINE_MAX);
	return p;
}

void prober_free(struct prober *p)
{
	if (!p)
		return;
	child_end(p);
	loop_timer_stop(&p->again);
	buf_done(&p->line);
	free(p->sample);
	free(p->reading);
	free(p);
}
