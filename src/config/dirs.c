/* SPDX-License-Identifier: Apache-2.0
 *
 * Where things lie when nobody says: systemd's folders for a service, /var/lib and /run for root, XDG
 * for everybody else.
 */
#include <stdio.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "config/config_int.h"

const char *source_env(const struct config_source *src, const char *name)
{
	const char *const *env = src && src->env ? src->env : (const char *const *)environ;
	size_t n = strlen(name);
	for (; env && *env; env++)
		if (strncmp(*env, name, n) == 0 && (*env)[n] == '=')
			return (*env)[n + 1] ? *env + n + 1 : NULL;
	return NULL;
}

/* systemd gives a colon-separated list; the first is ours. */
static char *from_systemd(const struct config_source *src, const char *var)
{
	struct view rest, v = view_str(source_env(src, var));
	return v.n ? mem_viewdup(view_split(v, ':', &rest)) : NULL;
}

/* XDG says that a relative value must be ignored. */
static char *from_xdg(const struct config_source *src, const char *var, const char *under_home)
{
	const char *x = source_env(src, var), *home = source_env(src, "HOME");
	if (x && x[0] == '/')
		return path_join(x, "corral");
	if (!under_home || !home || home[0] != '/')
		return NULL;
	AUTO(mem_freep) char *base = path_join(home, under_home);
	return path_join(base, "corral");
}

static bool is_root(const struct config_source *src)
{
	return geteuid() == 0 && !source_env(src, "XDG_RUNTIME_DIR") && !source_env(src, "XDG_STATE_HOME");
}

char *default_dir(const struct config_source *src, enum config_dir which)
{
	char *d = NULL;
	if (which == CONFIG_DIR_STATE) {
		if (!(d = from_systemd(src, "STATE_DIRECTORY")) && !is_root(src))
			d = from_xdg(src, "XDG_STATE_HOME", ".local/state");
		return d ? d : mem_strdup("/var/lib/corral");
	}
	if (which == CONFIG_DIR_RUNTIME) {
		if ((d = from_systemd(src, "RUNTIME_DIRECTORY")))
			return d;
		if (is_root(src))
			return mem_strdup("/run/corral");
		if ((d = from_xdg(src, "XDG_RUNTIME_DIR", NULL)))
			return d;
		/* No folder that others can write to: the sockets in it are trusted. */
		AUTO(mem_freep) char *state = default_dir(src, CONFIG_DIR_STATE);
		return path_join(state, "run");
	}
	if (!source_env(src, "STATE_DIRECTORY") && !is_root(src) &&
		(d = from_xdg(src, "XDG_DATA_HOME", ".local/share"))) {
		char *m = path_join(d, "models");
		free(d);
		return m;
	}
	AUTO(mem_freep) char *state = default_dir(src, CONFIG_DIR_STATE);
	return path_join(state, "models");
}

char *config_default_runtime_dir(const char *const *env)
{
	struct config_source src = { .env = env };
	const char *set = source_env(&src, "CORRAL_RUNTIME_DIR");
	return set ? mem_strdup(set) : default_dir(&src, CONFIG_DIR_RUNTIME);
}
