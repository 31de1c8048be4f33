/* SPDX-License-Identifier: Apache-2.0
 *
 * One model, fetched by a command where no daemon runs.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/file.h>

#include "base/fd.h"
#include "base/mem.h"
#include "provision/catalog/tell.h"
#include "role/engine_provisioner/engine_provisioner.h"
#include "role/engine_provisioner/pools.h"

enum { FLUSH_MS = 10000 };

struct pulling {
	const struct agent_pull *p;
	struct loop *loop;
	struct model_job *job;
	struct catalog *catalog; /* NULL: it cannot be opened */
	char *problem;           /* with the catalog; NULL: none */
	bool got;
};

static void tell(struct pulling *u, const struct buf *b)
{
	u->p->on_event(u->p->arg, buf_view(b));
}

static void on_progress(void *arg, const struct fetch_progress *p)
{
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	tell_progress(p, &b);
	tell(arg, &b);
}

static void fail(struct pulling *u, enum fetch_why why, const char *message)
{
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	tell_error(why, message, &b);
	tell(u, &b);
}

/* The model is here either way. */
static void say_not_kept(struct pulling *u, const char *why)
{
	free(u->problem);
	u->problem = mem_fmt("%s; it is not kept that the model is here", why);
}

static void note(struct pulling *u, const struct model_got *got)
{
	if (!u->catalog)
		return;
	catalog_note(u->catalog, &u->p->set, got);
	if (catalog_flush(u->catalog, FLUSH_MS) == 0)
		return;
	AUTO(mem_freep) char *why = catalog_problem(u->catalog);
	say_not_kept(u, why ? why : "the catalog cannot be written in time");
}

static void on_fetch(void *arg, const struct model_coming *files, size_t n)
{
	struct pulling *u = arg;
	if (!u->catalog)
		return;
	catalog_coming(u->catalog, files, n);
	(void)!catalog_flush(u->catalog, FLUSH_MS); /* what is wrong with it is told at the end */
}

static void on_unfetched(void *arg, const struct model_coming *files, size_t n)
{
	struct pulling *u = arg;
	if (u->catalog)
		catalog_not_coming(u->catalog, files, n);
}

static void on_done(void *arg, const struct model_got *got, enum fetch_why why, const struct err *err)
{
	struct pulling *u = arg;
	AUTO(buf_done) struct buf b = BUF(TELL_JSON_MAX);
	u->job = NULL;
	u->got = got != NULL;
	if (got) {
		note(u, got);
		AUTO(mem_freep)
		char *both = mem_fmt("%s%s%s", got->warning ? got->warning : "",
			got->warning && u->problem ? "; " : "", u->problem ? u->problem : "");
		struct model_got told = *got;
		told.warning = *both ? both : NULL;
		tell_got(u->catalog, &told, &b);
		tell(u, &b);
	} else {
		fail(u, why, err ? err->msg : fetch_why_name(why));
	}
	loop_stop(u->loop);
}

static void on_signal(void *arg, int signo)
{
	(void)signo;
	struct pulling *u = arg;
	model_job_cancel(&u->job);
	fail(u, FETCH_CRASHED, "interrupted; what is there stays, and the next pull goes on from it");
	loop_stop(u->loop);
}

/* Where models_quota bounds them, one command fetches at a time: the next one counts what it got. The lock is
 * the process's until it ends; where none can be had, the folder keeps no catalog either. */
static void take_turn(const struct config *c, struct pulling *u, int *ret_fd)
{
	struct fetch_progress wait = {
		.phase = FETCH_WAITING,
		.eta_ms = -1,
		.text = "another command fetches a model, and models_quota has to hold both; waiting for it"
	};
	AUTO(mem_freep) char *path = path_join(c->state_dir, "pull.lock");
	*ret_fd = -1;
	if (!c->models_quota || dir_ensure_writable(c->state_dir, "state_dir", NULL))
		return;
	*ret_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (*ret_fd < 0 || flock(*ret_fd, LOCK_EX | LOCK_NB) == 0)
		return;
	on_progress(u, &wait);
	while (flock(*ret_fd, LOCK_EX) < 0 && errno == EINTR)
		;
}

static void open_catalog(const struct config *c, struct pulling *u)
{
	AUTO(mem_freep) char *path = path_join(c->state_dir, CATALOG_NAME);
	struct err e = { 0 };
	if (dir_ensure_writable(c->state_dir, "state_dir", &e) == 0 &&
		catalog_open(path, &u->catalog, &u->problem, &e) == 0)
		return;
	u->catalog = NULL;
	say_not_kept(u, e.msg);
}

int engine_provisioner_pull(const struct config *c, const struct agent_pull *p)
{
	static const struct model_ops ops = { .on_progress = on_progress,
		.on_fetch = on_fetch,
		.on_unfetched = on_unfetched,
		.on_done = on_done };
	AUTO(agent_fetch_done) struct agent_fetch fetch = { 0 };
	struct pulling u = { .p = p, .loop = loop_new("pull") };
	struct loop_signal *sig = NULL;
	signal(SIGPIPE, SIG_IGN);
	agent_fetch_make(c, &fetch);
	fetch.opts.want = p->snapshot ? MODEL_ANY : MODEL_GGUF;
	fetch.opts.sha256 = p->sha256;
	AUTO(fd_closep) int turn = -1;
	take_turn(c, &u, &turn);
	open_catalog(c, &u);
	fetch.opts.quota = c->models_quota;
	fetch.opts.quota_used = u.catalog ? catalog_models_fetched(u.catalog) : 0;
	if (loop_signal_start(u.loop, &sig, SIGINT, on_signal, &u))
		sig = NULL;
	u.job = model_ensure(u.loop, &p->set, &fetch.opts, &ops, &u);
	(void)!loop_run(u.loop);
	model_job_cancel(&u.job);
	loop_signal_stop(&sig);
	catalog_close(u.catalog);
	free(u.problem);
	loop_free(u.loop);
	return u.got ? 0 : 1;
}
