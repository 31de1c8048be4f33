/* SPDX-License-Identifier: Apache-2.0
 *
 * Asking llama-fit-params, which lays a model out with the engine's own allocator and loads nothing. It is
 * looked for as CORRAL_LLAMA_FIT_PARAMS names it, else on PATH. What it prints is read as hostile.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "cli/cli_int.h"
#include "gguf/estimate.h"

enum { ORACLE_MS = 60000, OUTPUT_MAX = 64 * 1024 };

extern char **environ;

static void add_number(struct strv *v, const char *name, uint64_t x)
{
	strv_add(v, name);
	strv_addf(v, "%llu", (unsigned long long)x);
}

static void add_type(struct strv *v, const char *name, uint32_t type)
{
	static const char *const names[] = { "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0",
		"q5_1" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		uint32_t t;
		if (!estimate_kv_type(view_str(names[i]), &t) || t != type)
			continue;
		strv_add(v, name);
		strv_add(v, names[i]);
	}
}

static void add_places(struct strv *v, const struct estimate_args *a)
{
	if (a->n_devices == 0) {
		strv_add(v, "--device");
		strv_add(v, "none");
		return;
	}
	add_number(v, "-ngl", a->n_gpu_layers == ESTIMATE_ALL ? 9999 : a->n_gpu_layers);
	if (a->n_cpu_moe == ESTIMATE_ALL)
		strv_add(v, "--cpu-moe");
	else if (a->n_cpu_moe)
		add_number(v, "--n-cpu-moe", a->n_cpu_moe);
	AUTO(buf_done) struct buf split = BUF(8 * KIB);
	double sum = 0;
	for (uint32_t i = 0; i < a->n_devices; i++) {
		sum += a->split[i];
		(void)buf_addf(&split, "%s%.6g", i ? "," : "", a->split[i]);
	}
	if (sum > 0) {
		strv_add(v, "-ts");
		strv_add(v, buf_str(&split));
	}
	for (size_t i = 0; i < a->overrides.len; i++) {
		strv_add(v, "-ot");
		strv_add(v, a->overrides.items[i]);
	}
}

static void arguments(struct strv *v, const char *program, const char *path, const struct estimate_args *a)
{
	static const char *const flash[] = { "auto", "on", "off" };
	strv_add(v, program);
	strv_add(v, "-m");
	strv_add(v, path);
	add_number(v, "-c", a->ctx * MAX(a->slots, 1u));
	add_number(v, "-np", MAX(a->slots, 1u));
	add_type(v, "-ctk", a->type_k);
	add_type(v, "-ctv", a->type_v);
	add_number(v, "-b", a->n_batch);
	add_number(v, "-ub", a->n_ubatch);
	strv_add(v, "-fa");
	strv_add(v, flash[a->flash <= ESTIMATE_FLASH_OFF ? a->flash : 0]);
	if (a->swa_full)
		strv_add(v, "--swa-full");
	if (a->unified)
		strv_add(v, "--kv-unified");
	if (a->kv_on_host)
		strv_add(v, "--no-kv-offload");
	add_places(v, a);
	strv_add(v, "-fitp");
	strv_add(v, "on");
	strv_add(v, "--no-repack");
}

static int start(struct strv *argv, int out, pid_t *ret)
{
	posix_spawn_file_actions_t actions;
	if (posix_spawn_file_actions_init(&actions))
		return -ENOMEM;
	posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, out, 1);
	posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
	int r = posix_spawnp(ret, argv->items[0], &actions, NULL, argv->items, environ);
	posix_spawn_file_actions_destroy(&actions);
	return -r;
}

/* Until it closes its output, or for too long. */
static void gather(int fd, struct buf *out)
{
	char part[4096];
	mono_t end = mono_add_ms(mono_now(), ORACLE_MS);
	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		int64_t left = mono_ms_between(mono_now(), end);
		if (left <= 0 || poll(&p, 1, (int)left) <= 0)
			return;
		ssize_t n = read(fd, part, sizeof part);
		if (n <= 0 || buf_add(out, part, (size_t)n) < 0)
			return;
	}
}

static int run(struct strv *argv, struct buf *out)
{
	int pipe_fd[2], status = 0;
	pid_t pid;
	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return -errno;
	int r = start(argv, pipe_fd[1], &pid);
	close(pipe_fd[1]);
	if (r == 0) {
		gather(pipe_fd[0], out);
		(void)kill(pid, SIGKILL); /* it has said all, or it will not */
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	}
	close(pipe_fd[0]);
	return r;
}

/* "NAME model context compute", in MiB. */
static bool row(struct view line, struct view *ret_name, uint64_t n[3])
{
	struct view rest = view_trim(line);
	*ret_name = view_split(rest, ' ', &rest);
	for (int i = 0; i < 3; i++) {
		struct view word = view_split(view_trim(rest), ' ', &rest);
		if (num_u64(word, &n[i]) < 0 || n[i] > 1ull << 30)
			return false;
	}
	return ret_name->n > 0 && view_trim(rest).n == 0;
}

static void take(struct estimate_bytes *b, const uint64_t n[3])
{
	uint64_t context = n[1] * MIB;
	b->weights = n[0] * MIB;
	b->recurrent = MIN(b->recurrent, context);
	b->kv = context - b->recurrent;
	b->compute = n[2] * MIB;
	b->total = b->weights + b->kv + b->recurrent + b->compute + b->output + b->overhead;
}

static void sum_up(struct estimate *e)
{
	struct estimate_bytes s = e->host;
	for (size_t i = 0; i < e->n_devices; i++) {
		s.weights += e->device[i].weights;
		s.kv += e->device[i].kv;
		s.recurrent += e->device[i].recurrent;
		s.compute += e->device[i].compute;
		s.output += e->device[i].output;
		s.overhead += e->device[i].overhead;
		s.total += e->device[i].total;
	}
	e->sum = s;
}

/* false: not what was asked, as on a machine with other devices. */
static bool read_rows(struct view text, struct estimate *e)
{
	struct estimate told = *e;
	size_t devices = 0;
	bool host = false;
	while (text.n) {
		struct view name, line = view_split(text, '\n', &text);
		uint64_t n[3];
		if (!row(line, &name, n))
			continue;
		if (view_eqs(name, "Host")) {
			take(&told.host, n);
			host = true;
		} else if (devices == told.n_devices) {
			return false;
		} else {
			take(&told.device[devices++], n);
		}
	}
	if (!host || devices != told.n_devices)
		return false;
	told.host_mapped = e->host_mapped ? told.host.weights : 0;
	sum_up(&told);
	*e = told;
	return true;
}

bool estimate_oracle(const char *path, const struct estimate_args *a, struct estimate *e)
{
	AUTO(strv_done) struct strv argv = { 0 };
	AUTO(buf_done) struct buf out = BUF(OUTPUT_MAX);
	struct estimate_args asked = *a;
	const char *program = getenv("CORRAL_LLAMA_FIT_PARAMS");
	asked.ctx = e->ctx;
	arguments(&argv, program && *program ? program : "llama-fit-params", path, &asked);
	return run(&argv, &out) == 0 && read_rows(buf_view(&out), e);
}
