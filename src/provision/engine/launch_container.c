/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine in a container of podman or docker: the client runs in the foreground under the keeper, so that
 * its output is the log and its end is the engine's; the container has a name for each start and labels by
 * which one that outlived its client is found. Its port is let in on loopback alone, the model is mounted for
 * reading at the path it has here, the environment comes from a file.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "provision/engine/engine_int.h"
#include "provision/engine/table.h"

enum { STOP_SECONDS = 4 }; /* before the keeper's own grace is over */

/* Leftovers of this replica go first; then the client takes this shell's place. */
static const char script[] = "program=$1 mine=$2 of=$3; shift 3\n"
			     "old=$(\"$program\" ps -aq --filter label=\"$mine\" --filter label=\"$of\")\n"
			     "[ -z \"$old\" ] || \"$program\" rm -f $old\n"
			     "exec \"$program\" \"$@\"\n";

char *container_label(const char *engines_dir)
{
	return mem_fmt("corral.engines=%016llx", (unsigned long long)text_hash(view_str(engines_dir)));
}

/* A comma ends a value of --mount, for both programs, and there is no way around it. */
static int mount(struct strv *argv, const char *path, struct err *reterr)
{
	if (strchr(path, ','))
		return err_set(reterr, -EINVAL,
			"%s has a comma, and what it names cannot be mounted into a container; rename it",
			path);
	strv_add(argv, "--mount");
	strv_addf(argv, "type=bind,source=%s,target=%s,readonly", path, path);
	return 0;
}

static char *folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash && slash != path ? mem_viewdup(view_of(path, (size_t)(slash - path))) : NULL;
}

/* A hub's snapshot is full of links to its repository's blobs: the repository is what must be there. */
static char *repository_of(const char *path)
{
	ptrdiff_t at = view_search(view_str(path), VIEW("/snapshots/"));
	return at > 0 ? mem_viewdup(view_of(path, (size_t)at)) : NULL;
}

/* The folder of a file, since a model may lie in several beside each other, and that of what it points to. */
static int mount_model(const struct engine_params *p, struct strv *argv, struct err *reterr)
{
	struct stat st;
	if (!p->model_path)
		return 0;
	AUTO(mem_freep) char *hub = repository_of(p->model_path);
	if (hub)
		return mount(argv, hub, reterr);
	bool folder = stat(p->model_path, &st) == 0 && S_ISDIR(st.st_mode);
	AUTO(mem_freep) char *here = folder ? mem_strdup(p->model_path) : folder_of(p->model_path);
	AUTO(mem_freep) char *real = realpath(p->model_path, NULL);
	AUTO(mem_freep) char *there = !real ? NULL : folder ? mem_strdup(real) : folder_of(real);
	int r = here ? mount(argv, here, reterr) : 0;
	if (!r && there && here && strcmp(there, here) != 0)
		r = mount(argv, there, reterr);
	return r;
}

static void add_group_of(struct strv *argv, const char *device)
{
	struct stat st;
	if (stat(device, &st) < 0 || st.st_gid == 0)
		return;
	strv_add(argv, "--group-add");
	strv_addf(argv, "%u", (unsigned)st.st_gid);
}

static void add_devices(const struct engine_build *b, const struct engine_params *p, struct strv *argv)
{
	struct view rest = view_str(p->devices ? p->devices : "");
	if (!p->gpu_kind)
		return;
	if (strcmp(p->gpu_kind, "cuda") != 0) { /* which of them: the environment says */
		bool amd = strcmp(p->gpu_kind, "amd") == 0;
		if (amd)
			strv_add(argv, "--device=/dev/kfd");
		strv_add(argv, "--device=/dev/dri");
		if (!b->docker)
			strv_add(argv, "--group-add=keep-groups");
		else
			add_group_of(argv, "/dev/kfd"), add_group_of(argv, "/dev/dri/renderD128");
		return;
	}
	bool all = !rest.n || view_eqs(rest, "auto");
	if (b->docker) {
		strv_add(argv, "--gpus");
		if (all)
			strv_add(argv, "all");
		else
			strv_addf(argv, "\"device=%.*s\"", VIEW_ARG(rest)); /* its value is read as CSV */
		return;
	}
	while (!all && rest.p) {
		struct view one = view_split(rest, ',', &rest);
		strv_add(argv, "--device");
		strv_addf(argv, "nvidia.com/gpu=%.*s", VIEW_ARG(one));
	}
	if (all)
		strv_add(argv, "--device=nvidia.com/gpu=all");
}

void container_client_env(struct strv *env)
{
	static const char *const passed[] = { "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
		"DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY",
		"CONTAINER_HOST", "CONTAINERS_CONF", "DBUS_SESSION_BUS_ADDRESS", "TMPDIR" };
	env_clean(env);
	for (size_t i = 0; i < ARRAY_LEN(passed); i++) {
		const char *v = getenv(passed[i]);
		if (v)
			strv_addf(env, "%s=%s", passed[i], v);
	}
}

/* What is the client's own: how to find its server and its storage. */
static bool is_clients(const char *assignment)
{
	static const char *const names[] = { "PATH", "HOME", "LANG" };
	size_t n = view_find(view_str(assignment), '=');
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (view_eqs(view_of(assignment, n), names[i]))
			return true;
	return false;
}

/* The environment moves into a file; what is left is the client's. */
static int move_env(
	const struct engine_params *p, struct strv *argv, struct engine_launch *l, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(256 * KIB);
	int r = 0;
	for (size_t i = 0; i < l->env.len && !r; i++) {
		const char *one = l->env.items[i];
		if (is_clients(one))
			continue;
		if (strchr(one, '\n'))
			r = err_set(reterr, -EINVAL,
				"engine.env's %.*s has a line break, which a container's environment cannot "
				"hold",
				(int)view_find(view_str(one), '='), one);
		else
			r = buf_addf(&b, "%s\n", one);
	}
	strv_done(&l->env);
	container_client_env(&l->env);
	if (r)
		return r;
	char *path = mem_fmt("%s.env", p->files);
	strv_add(argv, "--env-file");
	strv_add(argv, path);
	launch_file(l, path, buf_take(&b));
	return 0;
}

static char *container_name(const struct engine_params *p, const char *label)
{
	const char *dot = strrchr(p->files, '.');
	return mem_fmt("corral-%s-%s-%s", strchr(label, '=') + 1, p->replica_id, dot ? dot + 1 : "0");
}

static void begin(const struct engine_build *b, const struct engine_params *p, const char *label,
	const char *name, struct strv *argv)
{
	strv_add(argv, "/bin/sh");
	strv_add(argv, "-c");
	strv_add(argv, script);
	strv_add(argv, "sh");
	strv_add(argv, b->program);
	strv_add(argv, label);
	strv_addf(argv, "corral.replica=%s", p->replica_id);
	static const char *const words[] = { "run", "--rm", "--pull=never", "--log-driver=none", "--name" };
	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		strv_add(argv, words[i]);
	strv_add(argv, name);
	strv_addf(argv, "--label=%s", label);
	strv_addf(argv, "--label=corral.replica=%s", p->replica_id);
	strv_addf(argv, "--publish=127.0.0.1:%u:%u", (unsigned)p->port, (unsigned)p->port);
	if (!b->docker)
		strv_add(argv,
			"--security-opt=label=disable"); /* or SELinux keeps it from model and devices */
}

static void add_key_env(const struct engine_row *row, const struct engine_params *p, struct engine_launch *l)
{
	if (l->uses_key || !row || row->kind != ENGINE_LLAMACPP || !p->key)
		return;
	AUTO(mem_freep) char *assignment = mem_fmt("%s=%s", row->key_env, p->key);
	env_set(&l->env, assignment);
	l->uses_key = true;
}

int launch_container(const struct engine_build *b, const struct engine_def *def,
	const struct engine_params *p, struct engine_launch *l, struct err *reterr)
{
	const struct engine_row *row = engine_row(def->kind);
	const char *slash = strrchr(p->files, '/');
	AUTO(mem_freep) char *dir = mem_viewdup(view_of(p->files, slash ? (size_t)(slash - p->files) : 0));
	AUTO(mem_freep) char *label = container_label(dir);
	AUTO(mem_freep) char *name = container_name(p, label);
	AUTO(strv_done) struct strv inner = l->argv;
	l->argv = (struct strv){ 0 };
	add_key_env(row, p, l);
	begin(b, p, label, name, &l->argv);
	if (row && row->shm)
		strv_addf(&l->argv, "--shm-size=%s", row->shm);
	add_devices(b, p, &l->argv);
	int r = mount_model(p, &l->argv, reterr);
	for (size_t i = 0; i < l->nfiles && !r; i++)
		r = mount(&l->argv, l->files[i].path, reterr);
	if (!r)
		r = move_env(p, &l->argv, l, reterr);
	strv_add(&l->argv, b->image);
	strv_copy(&l->argv, &inner);
	strv_done(&l->stop_argv);
	strv_add(&l->stop_argv, b->program);
	strv_add(&l->stop_argv, "stop");
	strv_add(&l->stop_argv, "-t");
	strv_addf(&l->stop_argv, "%d", STOP_SECONDS);
	strv_add(&l->stop_argv, name);
	return r;
}
