/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain package: what is here, else what can be had, and what would be.
 */
#include "provision/engine/engine_int.h"

bool package_possible(void)
{
	AUTO(mem_freep) char *apt = tool_find("apt-get");
	AUTO(mem_freep) char *dpkg = tool_find("dpkg");
	return apt && dpkg;
}

static bool provisioned(struct engine_job *j)
{
	struct package_names n;
	struct err e;
	if (package_names_init(&n, &j->def, ENGINE_CPU, j->prefix_dir, j->cache_dir, &e) < 0)
		return false;
	bool there = j->allow_cpu && package_provisioned(&n, j->note, &j->build);
	package_names_done(&n);
	return there;
}

void package_take(struct engine_job *j)
{
	if (provisioned(j))
		job_succeed(j);
	else if (!j->allow_cpu)
		job_fail(j, -ENODEV,
			"a GPU is required, but the package that can be had computes on the CPU; install a "
			"llama-server that uses the GPU and set engine.path, or set gpu: optional");
	else if (j->offline)
		job_fail(j, -ENETDOWN,
			"no llama-server is here and nothing may be fetched (offline); install "
			"llama-server, or set engine.mode: binary and engine.path");
	else if (package_possible())
		package_start(j, ENGINE_CPU);
	else
		package_system(j, "there is no apt-get and dpkg to get Debian's package with");
}

char *package_describe(
	const struct engine_def *d, enum engine_backend backend, const struct engine_ensure_opts *o)
{
	struct package_names n;
	struct engine_build b = { 0 };
	struct err e = { 0 };
	if (package_names_init(
		    &n, d, backend, o->prefix_dir, o->cache_dir ? o->cache_dir : o->prefix_dir, &e) < 0)
		return mem_fmt("cannot be had: %s", e.msg);
	char *text;
	if (package_provisioned(&n, NULL, &b))
		text = mem_strdup(b.why);
	else if (o->offline)
		text = mem_strdup(
			"cannot be had: no llama-server is here and nothing may be fetched (offline)");
	else
		text = mem_fmt("package: Debian's llama.cpp from %s %s, unpacked into %s (%s)",
			n.archive ? "the configured archive," : "the archive apt uses,", n.suite, n.dir,
			engine_backend_name(backend));
	engine_build_done(&b);
	package_names_done(&n);
	return text;
}
