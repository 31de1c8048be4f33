/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "provision/engine/engine_int.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static bool is_program(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

char *tool_find(const char *name)
{
	if (strchr(name, '/'))
		return is_program(name) ? realpath(name, NULL) : NULL;
	const char *path = getenv("PATH");
	struct view rest = view_str(path && *path ? path : DEFAULT_PATH);
	while (rest.p) {
		struct view dir = view_split(rest, ':', &rest);
		if (dir.n == 0 ||
			dir.p[0] != '/') /* a relative part of PATH names whatever folder we are in */
			continue;
		char *full = mem_fmt("%.*s/%s", VIEW_ARG(dir), name);
		if (is_program(full))
			return full;
		free(full);
	}
	return NULL;
}

static const char *const env_passed[] = {
	"HOME",
	"http_proxy",
	"https_proxy",
	"ftp_proxy",
	"all_proxy",
	"no_proxy",
	"HTTP_PROXY",
	"HTTPS_PROXY",
	"FTP_PROXY",
	"ALL_PROXY",
	"NO_PROXY",
};

void env_clean(struct strv *env)
{
	const char *path = getenv("PATH"), *lang = getenv("LANG");
	strv_addf(env, "PATH=%s", path && *path ? path : DEFAULT_PATH);
	strv_addf(env, "LANG=%s", lang && *lang ? lang : "C.UTF-8");
	for (size_t i = 0; i < ARRAY_LEN(env_passed); i++) {
		const char *v = getenv(env_passed[i]);
		if (v)
			strv_addf(env, "%s=%s", env_passed[i], v);
	}
	for (char **e = environ; e && *e; e++)
		if (strncmp(*e, "HF_", 3) == 0)
			strv_add(env, *e);
}

void env_set(struct strv *env, const char *assignment)
{
	size_t name = view_find(view_str(assignment), '=');
	for (size_t i = 0; i < env->len; i++) {
		if (strncmp(env->items[i], assignment, name) == 0 && env->items[i][name] == '=') {
			mem_setstr(&env->items[i], assignment);
			return;
		}
	}
	strv_add(env, assignment);
}

bool apt_word_ok(const char *s)
{
	if (!*s)
		return false;
	for (; *s; s++)
		if ((unsigned char)*s <= ' ' || (unsigned char)*s == 0x7f || strchr("\"\\[];{}#", *s))
			return false;
	return true;
}
