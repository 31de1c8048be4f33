/* SPDX-License-Identifier: Apache-2.0
 *
 * The child that has the vendor's library: prints samples, and nothing else. It may hang or crash at any
 * moment; whoever started it kills it then. It ends when its input ends and when its parent dies.
 */
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "gpu/gpu_int.h"

struct probe {
	bool amd_asked; /* else NVIDIA's */
	const char *sysfs;
	struct nvml *nvml;
	struct amd *amd;
	char error[256];
};

static void take_amd(struct probe *p, struct gpu_sample *s)
{
	if (!p->amd)
		p->amd = amd_open(p->sysfs);
	if (amd_read(p->amd, s)) {
		amd_close(p->amd);
		p->amd = NULL;
	}
}

static void take_nvidia(struct probe *p, struct gpu_sample *s)
{
	const char *path = getenv("CORRAL_NVML");
	*s = (struct gpu_sample){ 0 };
	if (!p->nvml)
		p->nvml = nvml_open(path && *path ? path : "libnvidia-ml.so.1", p->error, sizeof p->error);
	if (!p->nvml) {
		s->has_error = true;
		gpu_set_text(s->error, sizeof s->error, view_str(p->error));
		return;
	}
	if (nvml_read(p->nvml, s)) { /* a device that came back is seen by a library that was opened anew */
		nvml_close(p->nvml);
		p->nvml = NULL;
	}
}

static void take_sample(struct probe *p, struct gpu_sample *s)
{
	if (p->amd_asked)
		take_amd(p, s);
	else
		take_nvidia(p, s);
}

/* 0, 1: nobody reads any more. */
static int print_sample(struct probe *p)
{
	struct gpu_sample *s = NEW(struct gpu_sample);
	AUTO(buf_done) struct buf b = BUF(GPU_LINE_MAX);
	take_sample(p, s);
	int r = gpu_sample_encode(s, &b);
	free(s);
	r = r ? r : buf_addc(&b, '\n');
	return r || fd_write_all(STDOUT_FILENO, b.data, b.len) < 0;
}

/* One sample for each byte read. */
static int serve_asks(struct probe *p)
{
	char asks[64];
	for (;;) {
		ssize_t n = read(STDIN_FILENO, asks, sizeof asks);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || print_sample(p))
			return 0;
	}
}

/* Until the reader of our output is gone. */
static int serve_interval(struct probe *p, int64_t ms)
{
	for (mono_t due = mono_now();; due = mono_add_ms(due, ms)) {
		struct pollfd out = { .fd = STDOUT_FILENO };
		int64_t left = mono_ms_between(mono_now(), due);
		while (left > 0 && poll(&out, 1, (int)MIN(left, (int64_t)3600000)) == 0)
			left = mono_ms_between(mono_now(), due);
		if (out.revents || print_sample(p))
			return 0;
	}
}

static int usage(void)
{
	fprintf(stderr,
		"usage: corral gpu-probe [--vendor nvidia|amd] [--interval MS | --ask] [--sysfs DIR]\n"
		"Prints what that maker's driver says of its GPUs, one JSON object a line.\n");
	return 2;
}

int gpu_probe_main(int argc, char **argv)
{
	static const struct option longs[] = { { "interval", required_argument, NULL, 'i' },
		{ "ask", no_argument, NULL, 'a' }, { "vendor", required_argument, NULL, 'v' },
		{ "sysfs", required_argument, NULL, 's' }, { "help", no_argument, NULL, 'h' }, { 0 } };
	struct probe p = { .sysfs = "/sys" };
	uint64_t ms = 0;
	bool ask = false;
	int opt;
	optind = 1;
	while ((opt = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (opt == 'a')
			ask = true;
		else if (opt == 's')
			p.sysfs = optarg;
		else if (opt == 'v' && (strcmp(optarg, "amd") == 0 || strcmp(optarg, "nvidia") == 0))
			p.amd_asked = optarg[0] == 'a';
		else if (opt != 'i' || num_u64(view_str(optarg), &ms) < 0 || ms < 10 || ms > 3600000)
			return usage();
	}
	if (optind < argc)
		return usage();
	prctl(PR_SET_NAME, "gpu-probe");
	signal(SIGPIPE, SIG_IGN);
	if (ask)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = ask ? serve_asks(&p) : ms ? serve_interval(&p, (int64_t)ms) : print_sample(&p);
	nvml_close(p.nvml);
	amd_close(p.amd);
	return r;
}
