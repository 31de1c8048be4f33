/* SPDX-License-Identifier: Apache-2.0
 *
 * corral serve: loads and checks the configuration, then the role runs.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "cli/cli_int.h"

int config_load_or_say(const struct config_source *src, struct config **ret)
{
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	if (config_load(src, ret, &errs) == 0)
		return 0;
	(void)config_errors_print(&errs, color_for(2), &b);
	fprintf(stderr, "%s", buf_str(&b));
	return CLI_USAGE;
}

static void model_fail(const struct config *cfg, const struct config_pool *p, struct config_errors *errs, char *message)
{
	const struct config_origin *o = config_origin_of(cfg, p, "model");
	if (errs->len == CONFIG_ERRORS_MAX) {
		errs->dropped++;
		free(message);
		return;
	}
	errs->items[errs->len++] = (struct config_error){ .file = o->line ? mem_strdup(o->name) : NULL, .line = o->line,
		.column = o->column, .key = mem_fmt("pools.%s.model", p->id), .message = message };
}

static void model_check(const struct config *cfg, const struct config_pool *p, struct config_errors *errs)
{
	AUTO(mem_freep) char *path = path_join(cfg->models_dir, p->model);
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	char magic[4] = { 0 };
	if (fd < 0)
		model_fail(cfg, p, errs, mem_fmt("%s cannot be read: %s; a relative path stands in models_dir, which is %s", path,
			strerror(errno), cfg->models_dir));
	else if (read(fd, magic, sizeof magic) != (ssize_t)sizeof magic || memcmp(magic, "GGUF", sizeof magic) != 0)
		model_fail(cfg, p, errs, mem_fmt("%s is not a GGUF file; accepted: a .gguf model", path));
}

int models_check(const struct config *cfg, struct config_errors *errs)
{
	for (size_t i = 0; i < cfg->npools; i++) {
		const struct config_pool *p = &cfg->pools[i];
		if (p->engine.kind == CONFIG_ENGINE_LLAMACPP && p->engine.mode != CONFIG_MODE_EXTERNAL && p->model)
			model_check(cfg, p, errs);
	}
	return errs->len ? -EINVAL : 0;
}

struct serve_args {
	struct strv overrides;
	struct buf listen;
	bool keep_engines;
	int ready_fd;
};
enum { OPT_LISTEN = 1, OPT_KEEP, OPT_READY, OPT_SET };

static int on_option(void *arg, int opt, const char *value)
{
	struct serve_args *a = arg;
	uint64_t fd;
	if (opt == OPT_LISTEN) {
		(void)buf_addf(&a->listen, "%s%s", a->listen.len ? "," : "listen=", value);
	} else if (opt == OPT_SET) {
		strv_add(&a->overrides, value);
	} else if (opt == OPT_KEEP) {
		a->keep_engines = true;
	} else if (num_u64(view_str(value), &fd) || fd > 1 << 20 || fcntl((int)fd, F_GETFD) < 0) {
		complain("serve: --ready-fd takes the number of an open descriptor, found \"%.40s\"", value);
		return CLI_USAGE;
	} else {
		a->ready_fd = (int)fd;
	}
	return 0;
}

static int serve(struct cli *c, struct serve_args *a)
{
	AUTO(config_unrefp) struct config *cfg = NULL;
	AUTO(config_errors_done) struct config_errors missing = { 0 };
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	if (a->listen.len)
		strv_add(&a->overrides, buf_str(&a->listen));
	struct config_source src = { .path = c->config_path, .overrides = (const char *const *)a->overrides.items,
		.noverrides = a->overrides.len };
	int r = config_load_or_say(&src, &cfg);
	if (r)
		return r;
	if (models_check(cfg, &missing)) {
		(void)config_errors_print(&missing, color_for(2), &b);
		fprintf(stderr, "%s", buf_str(&b));
		return CLI_USAGE;
	}
	if (a->ready_fd >= 0)
		(void)fcntl(a->ready_fd, F_SETFD, FD_CLOEXEC);
	struct cli_serve_opts o = { .config = cfg, .source = &src, .keep_engines = a->keep_engines, .ready_fd = a->ready_fd };
	return c->roles->serve(&o);
}

int cmd_serve(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "listen", required_argument, NULL, OPT_LISTEN },
		{ "keep-engines", no_argument, NULL, OPT_KEEP }, { "ready-fd", required_argument, NULL, OPT_READY },
		{ "set", required_argument, NULL, OPT_SET }, { 0 } };
	struct serve_args a = { .listen = BUF(64 * KIB), .ready_fd = -1 };
	struct options o = { .longs = longs, .fn = on_option, .arg = &a };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status) == 0)
		status = serve(c, &a);
	strv_done(&a.overrides);
	buf_done(&a.listen);
	return status;
}
