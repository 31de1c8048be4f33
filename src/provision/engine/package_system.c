/* SPDX-License-Identifier: Apache-2.0
 *
 * The package mode where no private apt can work: the distribution's own package manager installs its
 * llama.cpp into the system, if build.allow_package_installs lets it and this user may.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "provision/engine/auto.h"
#include "provision/engine/source.h"

enum { SILENCE_MS = 10 * 60 * 1000, SAID_MAX = 300 };

static const struct {
	const char *program;
	const char *words[4]; /* behind the program */
} managers[] = {
	{ "apt-get", { "-y", "--no-install-recommends", "install", "llama.cpp" } },
	{ "dnf", { "-y", "install", "llama-cpp" } },
	{ "pacman", { "-S", "--noconfirm", "--needed", "llama.cpp" } },
};

static const char *text_of(size_t m, char *out, size_t max)
{
	struct buf b;
	buf_init(&b, max);
	(void)buf_adds(&b, managers[m].program);
	for (size_t i = 0; i < ARRAY_LEN(managers[m].words) && managers[m].words[i]; i++)
		(void)buf_addf(&b, " %s", managers[m].words[i]);
	snprintf(out, max, "%s", buf_str(&b));
	buf_done(&b);
	return out;
}

static void on_line(void *arg, struct view line, bool ended)
{
	struct engine_job *j = arg;
	if (ended && view_trim(line).n)
		job_progress(j, "install", -1, "%.*s", VIEW_ARG(view_cut(view_trim(line), SAID_MAX)));
}

static void on_installed(void *arg, const struct run_result *r)
{
	struct engine_job *j = arg;
	j->run = NULL;
	AUTO(mem_freep) char *program = tool_find("llama-server");
	struct view said = view_trim(r->tail.n ? r->tail : r->out);
	said = view_from(said, said.n > SAID_MAX ? said.n - SAID_MAX : 0);
	if (r->exit_code || r->signo || r->silent)
		job_fail(j, -EIO, "llama.cpp cannot be installed with `%s`: %.*s%s", j->doing, VIEW_ARG(said),
			r->silent ? " (it said nothing for 10 minutes)" : "");
	else if (!program)
		job_fail(j, -ENOENT,
			"`%s` ended well, and there is still no llama-server in PATH; install or build "
			"llama.cpp and set engine.path",
			j->doing);
	else
		job_take_program(j, program, "installed by the system's package manager");
}

static void install(struct engine_job *j, size_t m, const char *sudo)
{
	AUTO(strv_done) struct strv argv = { 0 }, env = { 0 };
	char text[128];
	if (sudo) {
		strv_add(&argv, sudo);
		strv_add(&argv, "-n");
	}
	strv_add(&argv, managers[m].program);
	for (size_t i = 0; i < ARRAY_LEN(managers[m].words) && managers[m].words[i]; i++)
		strv_add(&argv, managers[m].words[i]);
	env_clean(&env);
	env_set(&env, "LANG=C.UTF-8");
	env_set(&env, "LC_ALL=C.UTF-8");
	env_set(&env, "DEBIAN_FRONTEND=noninteractive");
	mem_setstr(&j->doing, text_of(m, text, sizeof text));
	job_plan_mode(j, ENGINE_MODE_PACKAGE, NULL);
	job_progress(j, "install", -1, "Installing llama.cpp: %s.", j->doing);
	struct run_opts o = { .argv = &argv,
		.env = &env,
		.cwd = "/",
		.keep_fd = -1,
		.silence_ms = SILENCE_MS,
		.on_output = on_line,
		.on_done = on_installed,
		.arg = j };
	struct err e = { 0 };
	if (run_start(j->loop, &o, &j->run, &e) < 0)
		job_fail(j, e.code, "%s", e.msg);
}

void package_system(struct engine_job *j, const char *why)
{
	char text[128];
	size_t m = 0;
	for (; m < ARRAY_LEN(managers); m++) {
		AUTO(mem_freep) char *program = tool_find(managers[m].program);
		if (program)
			break;
	}
	AUTO(mem_freep) char *sudo = geteuid() == 0 ? NULL : tool_find("sudo");
	if (m == ARRAY_LEN(managers))
		job_fail(j, -ENOSYS,
			"%s, and no package manager that is known (apt-get, dnf, pacman); install or build "
			"llama.cpp and set engine.path (or CORRAL_LLAMA_SERVER)",
			why);
	else if (!j->allow_package_installs || (geteuid() != 0 && !sudo))
		job_fail(j, -EPERM,
			"%s; `%s%s` may install one where the distribution has it%s, or install or build "
			"llama.cpp and set engine.path (or CORRAL_LLAMA_SERVER)",
			why, geteuid() == 0 ? "" : "sudo ", text_of(m, text, sizeof text),
			j->allow_package_installs ? "" : " (build.allow_package_installs: true does it)");
	else if (source_policy_bounds(&j->policy))
		job_fail(j, -EPERM,
			"%s; `%s` was not run: it asks mirrors of its own, which network.allow_hosts and "
			"network.deny cannot bound; run it yourself, or set engine.path",
			why, text_of(m, text, sizeof text));
	else
		install(j, m, sudo);
}
