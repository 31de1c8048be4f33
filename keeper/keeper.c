/* SPDX-License-Identifier: Apache-2.0
 *
 * corral-keeper stays with one engine for its whole life, so that everybody else may come and go. It
 * holds a lock (a held lock: never start a second engine), writes a record before the engine is
 * executed, reads the engine's output into a log bounded in size, and knows afterwards how it ended.
 *
 *   fd 3  the specification: pairs of NUL-terminated strings, key then value (spec_take lists them)
 *   fd 4  one line for the starter: "ok" once the engine was executed, else "error: sentence"; optional
 *
 *   SIGTERM, SIGINT  the stop command or SIGTERM for the engine, after the grace SIGKILL for its tree
 *   SIGUSR1          SIGKILL for its tree at once
 *   SIGKILL          the kernel kills the engine too (PR_SET_PDEATHSIG)
 *
 * When the engine has ended, whatever is left of its tree is killed (orphans of it become children of
 * this process, which is their subreaper), its socket file is removed, and the record says how it was.
 * Record states: running → stopping → ended (the tree is being swept) → gone.
 *
 * One thread, no library, memory from static arrays that stay untouched unless needed. Nothing here is
 * synced to the disk, and nothing waits longer than an event or a grace.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {                   /* exit codes of the keeper itself */
	EXIT_SPEC = 64,  /* the specification makes no sense */
	EXIT_OS = 71,    /* the system refused something */
	EXIT_FILES = 73, /* lock or record cannot be written */
	EXIT_BUSY = 75,  /* somebody holds the lock: an engine runs already */
	EXIT_EXEC = 126, /* the engine cannot be executed */
};
enum {
	SPEC_MAX = 512 * 1024,
	WORDS_MAX = 4096,
	RECORD_LEN = 4096, /* the file always has this length, so that it can be rewritten on a full disk */
	LOG_CHUNK = 64 * 1024,
	LOG_EARLY = 64 * 1024, /* a full disk rotates early, but not for less than this */
	SPEC_FD = 3,
	REPORT_FD = 4,
	SWEEP_MS = 20,         /* between two walks over what is left of the tree */
	OOM_REFRESH_MS = 1000, /* how close around a death the kernel's counter is read */
};

struct words {
	char *items[WORDS_MAX + 1];
	size_t len;
};
struct spec {
	const char *replica, *lock, *record, *log, *socket, *cwd;
	uint64_t generation, log_max, grace_ms, nofile;
};
struct keeper {
	struct spec spec;
	pid_t engine, stopper;
	uint64_t self_start, engine_start;
	int64_t started_wall, ended_wall;
	int sig_fd, out_fd, log_fd, report_fd;
	bool ended, stop_asked, killed, oom, oom_ours, have_exec_errno;
	int exit_code, signo, exec_errno;
	int64_t kill_at; /* monotonic ms; 0 = no grace is running */
	uint64_t log_size, dropped, dropped_said;
	uint64_t oom_base;
	int64_t oom_read_at;
	char boot_id[40];
	char log_old[4200];
};

static struct keeper k;
static char spec_bytes[SPEC_MAX];
static struct words engine_argv, engine_env, stop_argv;
static char chunk[LOG_CHUNK];

static int64_t clock_ms(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- telling the starter -------------------------------------------------------------------------- */

__attribute__((format(printf, 1, 2))) static void report(const char *fmt, ...)
{
	if (k.report_fd < 0)
		return;
	char line[512];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line, sizeof line - 1, fmt, ap);
	va_end(ap);
	size_t len = n < 0 ? 0 : (size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2;
	line[len++] = '\n';
	ssize_t w = write(k.report_fd, line, len);
	(void)w; /* nobody may be listening any more */
	close(k.report_fd);
	k.report_fd = -1;
}

/* ---- the specification ---------------------------------------------------------------------------- */

static bool parse_u64(const char *s, uint64_t *ret)
{
	uint64_t v = 0;
	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || v > (UINT64_MAX - 9) / 10)
			return false;
		v = v * 10 + (uint64_t)(*s - '0');
	}
	*ret = v;
	return true;
}

static bool words_add(struct words *w, char *s)
{
	if (w->len == WORDS_MAX)
		return false;
	w->items[w->len++] = s;
	return true;
}

/* One pair. False: the value makes no sense. Unknown keys are for later versions. */
static bool spec_take(const char *key, char *value)
{
	const struct {
		const char *key;
		const char **text;
		uint64_t *number;
		struct words *words;
	} table[] = {
		{ "replica", &k.spec.replica, NULL, NULL },
		{ "lock", &k.spec.lock, NULL, NULL },
		{ "record", &k.spec.record, NULL, NULL },
		{ "log", &k.spec.log, NULL, NULL },
		{ "socket", &k.spec.socket, NULL, NULL },
		{ "cwd", &k.spec.cwd, NULL, NULL },
		{ "generation", NULL, &k.spec.generation, NULL },
		{ "log_max", NULL, &k.spec.log_max, NULL },
		{ "grace_ms", NULL, &k.spec.grace_ms, NULL },
		{ "nofile", NULL, &k.spec.nofile, NULL },
		{ "arg", NULL, NULL, &engine_argv },
		{ "env", NULL, NULL, &engine_env },
		{ "stop", NULL, NULL, &stop_argv },
	};
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		if (strcmp(table[i].key, key) != 0)
			continue;
		if (table[i].text)
			*table[i].text = value;
		else if (table[i].number)
			return parse_u64(value, table[i].number);
		else
			return words_add(table[i].words, value);
		return true;
	}
	return true;
}

/* Returns what is wrong, or NULL. */
static const char *spec_read(int fd)
{
	size_t n = 0;
	for (;;) {
		ssize_t r = read(fd, spec_bytes + n, sizeof spec_bytes - n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return "the specification cannot be read from descriptor 3";
		if (r == 0)
			break;
		n += (size_t)r;
		if (n == sizeof spec_bytes)
			return "the specification is longer than 512 KiB";
	}
	if (!n || spec_bytes[n - 1] != '\0')
		return "the specification is cut";
	for (char *p = spec_bytes, *end = spec_bytes + n; p < end;) {
		char *key = p;
		p += strlen(p) + 1;
		if (p >= end)
			return "the specification has a key without a value";
		if (!spec_take(key, p))
			return "the specification has a value that makes no sense";
		p += strlen(p) + 1;
	}
	if (!k.spec.replica || !k.spec.lock || !k.spec.record || !k.spec.log || !engine_argv.len)
		return "the specification lacks replica, lock, record, log or arg";
	if (strlen(k.spec.log) > sizeof k.log_old - 3 || strlen(k.spec.record) > 4000)
		return "a path in the specification is too long";
	return NULL;
}

/* ---- /proc ------------------------------------------------------------------------------------------ */

static ssize_t read_small(const char *path, char *out, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = read(fd, out, cap - 1);
	close(fd);
	if (n >= 0)
		out[n] = '\0';
	return n;
}

/* Parent and start time of a process; false when it is gone. comm may hold anything, so the fields
 * are counted from the last parenthesis. */
static bool stat_read(pid_t pid, pid_t *ret_ppid, uint64_t *ret_start)
{
	char path[64], text[1024];
	snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
	if (read_small(path, text, sizeof text) <= 0)
		return false;
	char *p = strrchr(text, ')');
	if (!p)
		return false;
	uint64_t field[20] = { 0 }; /* field[i] is number i + 3 in proc(5); state comes out as 0 */
	p++;
	for (int i = 0; i < 20 && *p == ' '; i++)
		for (p++; *p && *p != ' '; p++)
			if (*p >= '0' && *p <= '9')
				field[i] = field[i] * 10 + (uint64_t)(*p - '0');
	*ret_ppid = (pid_t)field[1];
	*ret_start = field[19];
	return true;
}

/* The file that counts kills for want of memory in the control group we are in, together with our engine:
 * version 2 as a line "0::/path", version 1 as "N:memory:/path". False: there is none, or it is the whole
 * machine. */
static bool oom_file(char *out, size_t cap)
{
	char text[4096];
	if (read_small("/proc/self/cgroup", text, sizeof text) <= 0)
		return false;
	for (char *line = text, *next; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		char *v1 = strstr(line, ":memory:/");
		if (strncmp(line, "0::/", 4) == 0 && line[4])
			snprintf(out, cap, "/sys/fs/cgroup%s/memory.events", line + 3);
		else if (v1 && v1[9])
			snprintf(out, cap, "/sys/fs/cgroup/memory%s/memory.oom_control", v1 + 8);
		else
			continue;
		if (access(out, R_OK) == 0)
			return true;
	}
	return false;
}

/* How often the kernel killed for want of memory: in our control group, else on this machine. */
static uint64_t oom_count(void)
{
	char path[4096 + 64];
	k.oom_ours = oom_file(path, sizeof path);
	int fd = open(k.oom_ours ? path : "/proc/vmstat", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	static char page[16 * 1024];
	ssize_t n, len = 0;
	while (len < (ssize_t)sizeof page - 1 &&
		(n = read(fd, page + len, sizeof page - 1 - (size_t)len)) > 0)
		len += n;
	close(fd);
	page[len] = '\0';
	uint64_t v = 0;
	char *at = strstr(page, "\noom_kill ");
	for (char *p = at ? at + strlen("\noom_kill ") : NULL; p && *p >= '0' && *p <= '9'; p++)
		v = v * 10 + (uint64_t)(*p - '0');
	return v;
}

/* ---- the record -------------------------------------------------------------------------------------- */

/* Appends s as a JSON string; bytes outside ASCII go as they are, a path is what the system says it is. */
static size_t put_json(char *out, size_t cap, const char *s)
{
	size_t n = 0;
	for (out[n++] = '"'; *s && n + 8 < cap; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\') {
			out[n++] = '\\';
			out[n++] = (char)c;
		} else if (c < 0x20) {
			n += (size_t)snprintf(out + n, cap - n, "\\u%04x", c);
		} else {
			out[n++] = (char)c;
		}
	}
	out[n++] = '"';
	return n;
}

static void record_format(char out[RECORD_LEN], const char *state)
{
	char replica[1024], socket[1024];
	replica[put_json(replica, sizeof replica - 1, k.spec.replica)] = '\0';
	socket[put_json(socket, sizeof socket - 1, k.spec.socket ? k.spec.socket : "")] = '\0';
	memset(out, ' ', RECORD_LEN);
	int n = snprintf(out, RECORD_LEN,
		"{\"schema\":1,\"replica_id\":%s,\"generation\":%llu,\"state\":\"%s\",\"boot_id\":\"%s\","
		"\"keeper_pid\":%d,\"keeper_start\":%llu,\"engine_pid\":%d,\"engine_start\":%llu,"
		"\"exit_code\":%d,\"signal\":%d,\"exec_errno\":%d,\"stop_asked\":%s,\"killed\":%s,\"oom\":%s,"
		"\"oom_sure\":%s,"
		"\"started_at_ms\":%lld,\"ended_at_ms\":%lld,\"log_dropped_bytes\":%llu,\"socket\":%s}",
		replica, (unsigned long long)k.spec.generation, state, k.boot_id, (int)getpid(),
		(unsigned long long)k.self_start, (int)k.engine, (unsigned long long)k.engine_start,
		k.exit_code, k.signo, k.exec_errno, k.stop_asked ? "true" : "false",
		k.killed ? "true" : "false", k.oom ? "true" : "false", k.oom && k.oom_ours ? "true" : "false",
		(long long)k.started_wall, (long long)k.ended_wall, (unsigned long long)k.dropped, socket);
	out[n] = ' '; /* snprintf's NUL */
	out[RECORD_LEN - 1] = '\n';
}

static bool write_file(const char *path, int flags, const char *data, size_t n)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
	if (fd < 0)
		return false;
	size_t done = 0;
	while (done < n) {
		ssize_t w = write(fd, data + done, n - done);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			break;
		done += (size_t)w;
	}
	int saved = errno;
	close(fd);
	errno = saved;
	return done == n;
}

static bool record_write(const char *state)
{
	static char text[RECORD_LEN], tmp[4096 + 16];
	record_format(text, state);
	snprintf(tmp, sizeof tmp, "%s.tmp", k.spec.record);
	if (write_file(tmp, O_CREAT | O_TRUNC, text, RECORD_LEN) && rename(tmp, k.spec.record) == 0)
		return true;
	int saved = errno;
	unlink(tmp);
	errno = saved;
	/* A full disk: the old record has the same length and is ours once the engine runs. */
	return k.engine_start && write_file(k.spec.record, 0, text, RECORD_LEN);
}

/* ---- the log ----------------------------------------------------------------------------------------- */

static void log_open(void)
{
	k.log_fd =
		open(k.spec.log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	struct stat st;
	k.log_size = k.log_fd >= 0 && fstat(k.log_fd, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void log_rotate(void)
{
	if (k.log_fd >= 0)
		close(k.log_fd);
	rename(k.spec.log, k.log_old);
	log_open();
}

static size_t log_put(const char *p, size_t n)
{
	ssize_t w = k.log_fd < 0 ? -1 : write(k.log_fd, p, n);
	size_t done = w < 0 ? 0 : (size_t)w;
	k.log_size += done;
	return done;
}

static void log_write(const char *p, size_t n)
{
	if (k.log_fd < 0)
		log_open();
	if (k.log_size && k.log_size + n > k.spec.log_max)
		log_rotate();
	if (k.dropped != k.dropped_said) {
		char line[160];
		int len = snprintf(line, sizeof line,
			"\n--- corral: %llu bytes of output were dropped here ---\n",
			(unsigned long long)(k.dropped - k.dropped_said));
		if (log_put(line, (size_t)len) == (size_t)len)
			k.dropped_said = k.dropped;
	}
	size_t done = log_put(p, n);
	if (done < n && k.log_size >= LOG_EARLY) {
		log_rotate();
		done += log_put(p + done, n - done);
	}
	k.dropped += n - done;
}

/* Reads once; false when there is nothing more for now or ever. */
static bool log_pump(void)
{
	if (k.out_fd < 0)
		return false;
	ssize_t n = read(k.out_fd, chunk, sizeof chunk);
	if (n > 0) {
		log_write(chunk, (size_t)n);
		return true;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	close(k.out_fd); /* the last writer is gone */
	k.out_fd = -1;
	return false;
}

/* ---- the tree ---------------------------------------------------------------------------------------- */

static bool is_descendant(pid_t pid)
{
	for (int depth = 0; depth < 128 && pid > 1; depth++) {
		pid_t ppid;
		uint64_t start;
		if (!stat_read(pid, &ppid, &start))
			return false;
		if (ppid == getpid())
			return true;
		pid = ppid;
	}
	return false;
}

static void kill_descendant(pid_t pid)
{
	/* The descriptor first: the process that is judged is then the one that is killed. */
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0 && errno != ENOSYS)
		return;
	if (is_descendant(pid)) {
		if (fd >= 0)
			syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		else
			kill(pid, SIGKILL);
	}
	if (fd >= 0)
		close(fd);
}

static void kill_tree(void)
{
	DIR *d = opendir("/proc");
	if (!d)
		return;
	for (struct dirent *e; (e = readdir(d));) {
		uint64_t pid;
		if (parse_u64(e->d_name, &pid) && pid > 1 && pid < INT32_MAX && (pid_t)pid != getpid())
			kill_descendant((pid_t)pid);
	}
	closedir(d);
}

/* ---- starting ---------------------------------------------------------------------------------------- */

static void child_signals(void)
{
	for (int s = 1; s < NSIG; s++)
		if (s != SIGKILL && s != SIGSTOP)
			signal(s, SIG_DFL);
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void child_limits(void)
{
	struct rlimit l;
	if (!k.spec.nofile || getrlimit(RLIMIT_NOFILE, &l) < 0)
		return;
	l.rlim_cur = k.spec.nofile < l.rlim_max ? (rlim_t)k.spec.nofile : l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
}

struct start_pipes {
	int out[2], go[2], failed[2];
};

/* In the child: waits for the record, then becomes argv. */
__attribute__((noreturn)) static void child_run(const struct start_pipes *p, struct words *argv, pid_t keeper)
{
	char go;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != keeper)
		_exit(EXIT_OS); /* it died before the line above */
	setsid();
	if (p->go[0] >= 0) {
		close(p->go[1]);
		if (read(p->go[0], &go, 1) != 1)
			_exit(EXIT_OS);
	}
	int null = open("/dev/null", O_RDONLY);
	dup2(null, 0);
	if (null > 0)
		close(null);
	dup2(p->out[1], 1);
	dup2(p->out[1], 2);
	child_limits();
	child_signals();
	if (!k.spec.cwd || chdir(k.spec.cwd) == 0)
		execvpe(argv->items[0], argv->items, engine_env.items);
	int e = errno;
	ssize_t w = write(p->failed[1], &e, sizeof e);
	(void)w;
	_exit(EXIT_EXEC);
}

static bool pipes_open(struct start_pipes *p)
{
	if (pipe2(p->out, O_CLOEXEC) < 0 || pipe2(p->go, O_CLOEXEC) < 0 || pipe2(p->failed, O_CLOEXEC) < 0)
		return false;
	fcntl(p->out[1], F_SETPIPE_SZ, 256 * 1024);
	fcntl(p->out[0], F_SETFL, O_NONBLOCK);
	return true;
}

/* Forks, writes the record, lets the engine go. Returns 0 or an exit code of ours. */
static int engine_start(void)
{
	struct start_pipes p;
	pid_t self = getpid(), ppid;
	if (!pipes_open(&p)) {
		report("error: no pipe for the engine: %s", strerror(errno));
		return EXIT_OS;
	}
	k.engine = fork();
	if (k.engine == 0)
		child_run(&p, &engine_argv, self);
	if (k.engine < 0) {
		report("error: no process for the engine: %s", strerror(errno));
		return EXIT_OS;
	}
	k.out_fd = p.out[0];
	close(p.out[1]);
	close(p.go[0]);
	close(p.failed[1]);
	stat_read(k.engine, &ppid, &k.engine_start);
	if (!record_write("running")) {
		report("error: the record %s cannot be written: %s", k.spec.record, strerror(errno));
		close(p.go[1]); /* the child ends without having been anything */
		return EXIT_FILES;
	}
	ssize_t w = write(p.go[1], "g", 1);
	(void)w;
	close(p.go[1]);
	ssize_t n;
	while ((n = read(p.failed[0], &k.exec_errno, sizeof k.exec_errno)) < 0 && errno == EINTR)
		;
	close(p.failed[0]);
	if (n != sizeof k.exec_errno)
		report("ok");
	else
		report("error: %s cannot be executed%s%s: %s", engine_argv.items[0], k.spec.cwd ? " in " : "",
			k.spec.cwd ? k.spec.cwd : "", strerror(k.exec_errno));
	return 0;
}

/* ---- stopping ---------------------------------------------------------------------------------------- */

static void stop_by_command(void)
{
	struct start_pipes p = { .go = { -1, -1 } };
	char pid_env[32];
	pid_t self = getpid();
	snprintf(pid_env, sizeof pid_env, "ENGINE_PID=%d", (int)k.engine);
	words_add(&engine_env, pid_env);
	if (pipe2(p.failed, O_CLOEXEC) < 0)
		return;
	p.out[1] = open("/dev/null", O_WRONLY | O_CLOEXEC);
	k.stopper = fork();
	if (k.stopper == 0)
		child_run(&p, &stop_argv, self);
	engine_env.items[--engine_env.len] = NULL;
	close(p.out[1]);
	close(p.failed[0]);
	close(p.failed[1]);
}

static void stop_begin(void)
{
	if (k.stop_asked)
		return; /* a second SIGTERM would make some engines drop everything */
	k.stop_asked = true;
	if (k.ended)
		return;
	record_write("stopping");
	k.kill_at = clock_ms(CLOCK_MONOTONIC) + (int64_t)k.spec.grace_ms;
	if (stop_argv.len)
		stop_by_command();
	if (k.stopper <= 0)
		kill(k.engine, SIGTERM);
	kill(k.engine, SIGCONT); /* a process that was stopped (SIGSTOP) would not even see the other one */
}

static void stop_hard(void)
{
	k.kill_at = 0;
	k.stop_asked = true;
	if (k.ended)
		return;
	k.killed = true;
	kill(k.engine, SIGKILL); /* not reaped yet, so the number is still its own */
	kill_tree();
}

static void engine_ended(int status)
{
	k.ended = true;
	k.kill_at = 0;
	k.ended_wall = clock_ms(CLOCK_REALTIME);
	k.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	k.signo = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
	k.oom = k.signo == SIGKILL && !k.killed && oom_count() > k.oom_base;
	record_write("ended");
	if (k.spec.socket)
		unlink(k.spec.socket);
}

/* True when no child is left. */
static bool reap(void)
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		if (pid < 0 && errno == EINTR)
			continue;
		if (pid <= 0)
			return pid < 0;
		if (pid == k.engine)
			engine_ended(status);
		if (pid == k.stopper) {
			k.stopper = 0;
			if (!k.ended && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
				kill(k.engine, SIGTERM); /* the command could not do it */
		}
	}
}

/* ---- living ------------------------------------------------------------------------------------------- */

static void take_signals(void)
{
	struct signalfd_siginfo s;
	while (read(k.sig_fd, &s, sizeof s) == sizeof s) {
		if (s.ssi_signo == SIGTERM || s.ssi_signo == SIGINT)
			stop_begin();
		else if (s.ssi_signo == SIGUSR1)
			stop_hard();
	}
}

/* A kill for want of memory is told from any other SIGKILL by the kernel's counter alone: what it counts
 * between two readings shortly before and after the death may be this one. In a control group of our own it
 * is; on the whole machine it most likely is. Not while a child waits to be reaped: that reading would be too
 * late. */
static void oom_refresh(void)
{
	int64_t now = clock_ms(CLOCK_MONOTONIC);
	siginfo_t dead = { 0 };
	if (k.ended || now - k.oom_read_at < OOM_REFRESH_MS)
		return;
	uint64_t count = oom_count();
	if (waitid(P_PID, (id_t)k.engine, &dead, WEXITED | WNOHANG | WNOWAIT) == 0 && dead.si_pid)
		return;
	k.oom_base = count;
	k.oom_read_at = now;
}

static int wait_ms(void)
{
	if (k.ended)
		return SWEEP_MS;
	if (!k.kill_at)
		return OOM_REFRESH_MS;
	int64_t left = k.kill_at - clock_ms(CLOCK_MONOTONIC);
	return left < 0 ? 0 : left > OOM_REFRESH_MS ? OOM_REFRESH_MS : (int)left;
}

static void live(void)
{
	for (;;) {
		struct pollfd p[2] = { { .fd = k.sig_fd, .events = POLLIN },
			{ .fd = k.out_fd, .events = POLLIN } };
		if (poll(p, 2, wait_ms()) < 0 && errno != EINTR)
			return;
		oom_refresh();
		if (p[1].revents)
			log_pump();
		take_signals();
		if (k.kill_at && clock_ms(CLOCK_MONOTONIC) >= k.kill_at)
			stop_hard();
		if (reap())
			return;
		if (k.ended)
			kill_tree();
	}
}

static bool signals_take(void)
{
	signal(SIGCHLD, SIG_DFL);
	sigset_t s;
	sigfillset(&s);
	const int synchronous[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT };
	for (size_t i = 0; i < sizeof synchronous / sizeof *synchronous; i++)
		sigdelset(&s, synchronous[i]);
	sigprocmask(SIG_SETMASK, &s, NULL);
	sigemptyset(&s);
	sigaddset(&s, SIGTERM);
	sigaddset(&s, SIGINT);
	sigaddset(&s, SIGUSR1);
	sigaddset(&s, SIGCHLD);
	k.sig_fd = signalfd(-1, &s, SFD_CLOEXEC | SFD_NONBLOCK);
	return k.sig_fd >= 0;
}

/* The descriptor is kept for life and never handed on. Returns 0 or an exit code of ours. */
static int lock_take(void)
{
	for (int tries = 0; tries < 16; tries++) {
		int fd = open(k.spec.lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0) {
			report("error: the lock %s cannot be opened: %s", k.spec.lock, strerror(errno));
			return EXIT_FILES;
		}
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			bool held = errno == EWOULDBLOCK;
			report(held ? "error: busy: an engine of %s runs already (%s is locked)"
				    : "error: %s: %s cannot be locked",
				k.spec.replica, k.spec.lock);
			return held ? EXIT_BUSY : EXIT_FILES;
		}
		struct stat mine, there;
		if (fstat(fd, &mine) == 0 && stat(k.spec.lock, &there) == 0 && mine.st_ino == there.st_ino &&
			mine.st_dev == there.st_dev)
			return 0;
		close(fd); /* somebody removed the file in between: ours is nobody's */
	}
	report("error: the lock %s keeps vanishing", k.spec.lock);
	return EXIT_FILES;
}

static void keeper_setup(void)
{
	pid_t ppid;
	umask(077);
	setsid();
	if (chdir("/") < 0)
		return;
	if (!k.spec.log_max)
		k.spec.log_max = 8 * 1024 * 1024;
	snprintf(k.log_old, sizeof k.log_old, "%s.1", k.spec.log);
	if (read_small("/proc/sys/kernel/random/boot_id", k.boot_id, sizeof k.boot_id) > 0)
		k.boot_id[strcspn(k.boot_id, "\n")] = '\0';
	for (char *p = k.boot_id; *p; p++)
		if (*p == '"' || *p == '\\' || *p < 0x20)
			*p = '?';
	stat_read(getpid(), &ppid, &k.self_start);
	k.started_wall = clock_ms(CLOCK_REALTIME);
	k.oom_base = oom_count();
	k.oom_read_at = clock_ms(CLOCK_MONOTONIC);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
}

/* Whoever started the starter may have left descriptors open; the engine must not inherit them. */
static void close_others(void)
{
	if (syscall(SYS_close_range, REPORT_FD + 1, ~0u, 0) == 0)
		return;
	for (int fd = REPORT_FD + 1; fd < 1024; fd++)
		close(fd);
}

int main(void)
{
	close_others();
	k.log_fd = k.out_fd = -1;
	k.report_fd = fcntl(REPORT_FD, F_SETFD, FD_CLOEXEC) == 0 ? REPORT_FD : -1;
	k.spec.grace_ms = 5000;
	const char *wrong = spec_read(SPEC_FD);
	close(SPEC_FD);
	if (wrong) {
		report("error: %s", wrong);
		return EXIT_SPEC;
	}
	if (!signals_take()) {
		report("error: no signal descriptor: %s", strerror(errno));
		return EXIT_OS;
	}
	int r = lock_take();
	if (r)
		return r;
	keeper_setup();
	log_open();
	char line[1200];
	int n = snprintf(line, sizeof line, "--- corral: %.1000s, generation %llu ---\n", k.spec.replica,
		(unsigned long long)k.spec.generation);
	log_write(line, (size_t)n);
	r = engine_start();
	if (r)
		return r;
	live();
	for (int i = 0; i < 64 && log_pump(); i++)
		;
	record_write("gone");
	return k.exec_errno ? EXIT_EXEC : 0;
}
