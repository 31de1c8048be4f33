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
#include "gguf/gguf.h"

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

/* A mistake at the key, or where the pool begins when the key was not written. */
static void pool_fail(const struct config *cfg, const struct config_pool *p, const char *key,
	struct config_errors *errs, const char *fmt, ...) PRINTF(5, 6);
static void pool_fail(const struct config *cfg, const struct config_pool *p, const char *key,
	struct config_errors *errs, const char *fmt, ...)
{
	const struct config_origin *o = config_origin_of(cfg, p, key);
	va_list ap;
	va_start(ap, fmt);
	AUTO(mem_freep) char *message = mem_vfmt(fmt, ap);
	va_end(ap);
	AUTO(mem_freep) char *where = mem_fmt("pools.%s.%s", p->id, key);
	config_errors_add(errs, o && o->line ? o : &p->at, where, message);
}

/* Whether the pool's arguments stretch the context beyond what the model was trained for. */
static bool scales_rope(const struct config_pool *p)
{
	for (size_t i = 0; i < p->engine.args.len; i++)
		if (view_starts(view_str(p->engine.args.items[i]), VIEW("--rope-")) ||
			view_starts(view_str(p->engine.args.items[i]), VIEW("--yarn-")))
			return true;
	return false;
}

static void model_check(const struct config *cfg, const struct config_pool *p, struct config_errors *errs)
{
	AUTO(mem_freep) char *path = path_join(cfg->models_dir, p->model);
	AUTO(gguf_freep) struct gguf *g = NULL;
	struct gguf_facts facts;
	struct err e = { 0 };
	if (gguf_open(path, &g, &e)) {
		pool_fail(cfg, p, "model", errs, "%s%s%s", e.msg,
			p->model[0] == '/' ? "" : "; a relative path stands in models_dir, which is ",
			p->model[0] == '/' ? "" : cfg->models_dir);
		return;
	}
	gguf_facts(g, &facts);
	if (facts.is_projector)
		pool_fail(cfg, p, "model", errs,
			"%s is a projector (mmproj), no model by itself; name the model", path);
	else if (facts.n_ctx_train && p->ctx > facts.n_ctx_train && !scales_rope(p))
		pool_fail(cfg, p, "ctx", errs,
			"found %u; the model was trained for %llu tokens: lower ctx, or scale it with "
			"--rope-scaling in "
			"engine.args",
			p->ctx, (unsigned long long)facts.n_ctx_train);
}

int models_check(const struct config *cfg, struct config_errors *errs)
{
	for (size_t i = 0; i < cfg->npools; i++) {
		const struct config_pool *p = &cfg->pools[i];
		if (p->engine.kind == CONFIG_ENGINE_LLAMACPP && p->engine.mode != CONFIG_MODE_EXTERNAL &&
			p->model && !config_model_is_remote(cfg, p->model))
			model_check(cfg, p, errs);
	}
	return errs->len ? -EINVAL : 0;
}

/* A value that cannot be meant, as against a file that is not there now. */
static bool contradicts(const struct config_errors *errs)
{
	for (size_t i = 0; i < errs->len; i++)
		if (view_ends(view_str(errs->items[i].key), VIEW(".ctx")))
			return true;
	return false;
}

bool models_contradict(const struct config *cfg, struct config_errors *errs)
{
	return models_check(cfg, errs) && contradicts(errs);
}

struct serve_args {
	struct strv overrides;
	struct buf listen;
	bool keep_engines;
	int ready_fd;
};
enum { OPT_LISTEN = 1, OPT_KEEP, OPT_READY, OPT_SET, OPT_WATCH };

static int on_option(void *arg, int opt, const char *value)
{
	struct serve_args *a = arg;
	uint64_t fd;
	if (opt == OPT_LISTEN) {
		(void)buf_addf(&a->listen, "%s%s", a->listen.len ? "," : "listen=", value);
	} else if (opt == OPT_SET) {
		strv_add(&a->overrides, value);
	} else if (opt == OPT_WATCH) {
		strv_add(&a->overrides, "watch=true");
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
	struct config_source src = { .path = c->config_path,
		.overrides = (const char *const *)a->overrides.items,
		.noverrides = a->overrides.len };
	int r = config_load_or_say(&src, &cfg);
	if (r)
		return r;
	if (models_check(cfg, &missing)) {
		(void)config_errors_print(&missing, color_for(2), &b);
		fprintf(stderr, "%s", buf_str(&b));
		/* A file that is not there yet (a mount that comes later) must not keep the other pools down.
		 */
		if (contradicts(&missing))
			return CLI_USAGE;
	}
	if (a->ready_fd >= 0)
		(void)fcntl(a->ready_fd, F_SETFD, FD_CLOEXEC);
	struct cli_serve_opts o = { .config = cfg,
		.source = &src,
		.check_models = models_contradict,
		.keep_engines = a->keep_engines,
		.ready_fd = a->ready_fd };
	return c->roles->serve(&o);
}

int cmd_serve(struct cli *c, const struct command *cmd, int argc, char **argv)
{
	static const struct option longs[] = { { "listen", required_argument, NULL, OPT_LISTEN },
		{ "keep-engines", no_argument, NULL, OPT_KEEP },
		{ "ready-fd", required_argument, NULL, OPT_READY },
		{ "set", required_argument, NULL, OPT_SET }, { "watch", no_argument, NULL, OPT_WATCH },
		{ 0 } };
	struct serve_args a = { .listen = BUF(64 * KIB), .ready_fd = -1 };
	struct options o = { .longs = longs, .fn = on_option, .arg = &a };
	int first, status;
	if (options_read(c, cmd, &o, argc, argv, &first, &status) == 0)
		status = serve(c, &a);
	strv_done(&a.overrides);
	buf_done(&a.listen);
	return status;
}
