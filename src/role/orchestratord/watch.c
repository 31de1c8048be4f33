/* SPDX-License-Identifier: Apache-2.0
 *
 * `watch: true`: the folders of the configuration's files, the certificate and the keys are watched, because
 * editors replace a file by renaming another over it. An event is only a reason to look: once nothing has
 * happened for QUIET_MS (at the latest after PATIENCE_MS) the files' stamps are compared, and if they differ
 * and a file is there, the configuration is read again. A file that is gone is waited for; what holds, holds
 * on. Bounds: PLACES_MAX folders, DROP_INS_MAX files of a folder of drop-ins.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

enum { QUIET_MS = 200, PATIENCE_MS = 2000, PLACES_MAX = 16, DROP_INS_MAX = 256, STAMPS_MAX = 256 * 1024 };
enum {
	EVENTS = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_DELETE_SELF |
		 IN_MOVE_SELF | IN_ONLYDIR
};

struct place {
	int wd;
	char *name; /* the one entry that counts; NULL: every .yaml and .yml */
};

struct config_watch {
	struct orch *o;
	int fd; /* -1: not watching */
	struct loop_watch *events;
	struct config_places where;
	struct place places[PLACES_MAX];
	size_t nplaces;
	struct loop_timer quiet;
	mono_t since; /* of the first event that was not looked at yet */
	char *stamps; /* of the files when they were looked at last */
	char *beside; /* files_beside of the configuration they were watched for */
};

struct config_watch *config_watch_new(struct orch *o)
{
	struct config_watch *w = NEW(struct config_watch);
	w->o = o;
	w->fd = -1;
	if (o->o.source)
		config_places(o->o.source, &w->where);
	return w;
}

/* The certificate, its key and the keys_file, a line each, empty where there is none. */
static char *files_beside(const struct config *c)
{
	return mem_fmt("%s\n%s\n%s", c->tls_cert ? c->tls_cert : "", c->tls_cert ? c->tls_key : "",
		c->keys_file ? c->keys_file : "");
}

/* ---- what the files are ---------------------------------------------------------------------------- */

static void add_stamp(const char *path, struct buf *b)
{
	struct stat st;
	if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
		(void)buf_addf(b, "%s %llu %llu %lld %lld.%09ld\n", path, (unsigned long long)st.st_dev,
			(unsigned long long)st.st_ino, (long long)st.st_size, (long long)st.st_mtim.tv_sec,
			st.st_mtim.tv_nsec);
}

static bool is_yaml(struct view name)
{
	return name.n && name.p[0] != '.' &&
	       (view_ends(name, VIEW(".yaml")) || view_ends(name, VIEW(".yml")));
}

static int yaml_entry(const struct dirent *e)
{
	return is_yaml(view_str(e->d_name));
}

static void add_folder(const char *dir, struct buf *b)
{
	struct dirent **names = NULL;
	int n = scandir(dir, &names, yaml_entry, alphasort);
	for (int i = 0; i < n; i++) {
		AUTO(mem_freep) char *path = path_join(dir, names[i]->d_name);
		if (i < DROP_INS_MAX)
			add_stamp(path, b);
		free(names[i]);
	}
	free(names);
}

/* A line for each file that is there; empty: there is none now. */
static char *stamps_now(const struct config_watch *w)
{
	AUTO(buf_done) struct buf b = BUF(STAMPS_MAX);
	for (size_t i = 0; i < w->where.files.len; i++)
		add_stamp(w->where.files.items[i], &b);
	for (size_t i = 0; i < w->where.folders.len; i++)
		add_folder(w->where.folders.items[i], &b);
	if (b.len && w->o->config->tls_cert) {
		add_stamp(w->o->config->tls_cert, &b);
		add_stamp(w->o->config->tls_key, &b);
	}
	if (b.len && w->o->config->keys_file)
		add_stamp(w->o->config->keys_file, &b);
	return mem_strdup(buf_str(&b));
}

/* ---- the folders ----------------------------------------------------------------------------------- */

static void disarm(struct config_watch *w)
{
	loop_watch_stop(&w->events);
	fd_closep(&w->fd);
	w->fd = -1;
	for (size_t i = 0; i < w->nplaces; i++)
		free(w->places[i].name);
	w->nplaces = 0;
}

/* Watches for path (its entries: for those of the folder path). A folder that is not there yet is waited for
 * in the deepest one that is. */
static void watch_path(struct config_watch *w, const char *path, bool entries)
{
	AUTO(mem_freep) char *dir = mem_strdup(path);
	AUTO(mem_freep) char *name = NULL;
	while (w->nplaces < PLACES_MAX) {
		if (!entries) {
			char *slash = strrchr(dir, '/');
			mem_setstr(&name, slash ? slash + 1 : dir);
			if (!slash)
				mem_setstr(&dir, ".");
			else
				slash[slash == dir] = '\0';
		}
		int wd = inotify_add_watch(w->fd, dir, EVENTS);
		if (wd >= 0) {
			w->places[w->nplaces++] = (struct place){ wd, MEM_TAKE(name) };
			return;
		}
		if (!entries && (strcmp(dir, ".") == 0 || strcmp(dir, "/") == 0))
			return;
		entries = false;
	}
}

static void on_events(void *arg, int events);

/* Also what a link leads to. */
static void watch_file(struct config_watch *w, const char *path)
{
	char *real = realpath(path, NULL);
	watch_path(w, path, false);
	if (real)
		watch_path(w, real, false);
	free(real);
}

/* Watches anew whatever there is now. */
static void arm(struct config_watch *w)
{
	disarm(w);
	w->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	int r = w->fd < 0 ? -errno : loop_watch_start(w->o->loop, &w->events, w->fd, LOOP_READ, on_events, w);
	if (r) {
		fd_closep(&w->fd);
		w->fd = -1;
		log_warn("watch", "corral",
			"The configuration's file cannot be watched (%s); `corral config reload` reads it "
			"again.",
			strerror(-r));
		return;
	}
	for (size_t i = 0; i < w->where.files.len; i++)
		watch_file(w, w->where.files.items[i]);
	for (size_t i = 0; i < w->where.folders.len; i++)
		watch_path(w, w->where.folders.items[i], true);
	free(w->beside);
	w->beside = files_beside(w->o->config);
	if (w->o->config->tls_cert) {
		watch_file(w, w->o->config->tls_cert);
		watch_file(w, w->o->config->tls_key);
	}
	if (w->o->config->keys_file)
		watch_file(w, w->o->config->keys_file);
}

static void look(void *arg)
{
	struct config_watch *w = arg;
	arm(w); /* before the files are looked at: what happens from now on is an event */
	AUTO(mem_freep) char *now = stamps_now(w);
	if (!*now || strcmp(now, w->stamps) == 0)
		return;
	free(w->stamps);
	w->stamps = MEM_TAKE(now);
	reload_ask(w->o->reload, false, "watch", NULL, NULL);
}

static bool counts(const struct config_watch *w, const struct inotify_event *e)
{
	struct view name = view_str(e->len ? e->name : "");
	if (e->mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT))
		return true;
	for (size_t i = 0; i < w->nplaces; i++) {
		const struct place *p = &w->places[i];
		if (p->wd != e->wd)
			continue;
		/* "..data": a mounted volume whose files are links through one link that is replaced. */
		if (p->name ? view_eqs(name, p->name) : is_yaml(name))
			return true;
		if (view_starts(name, VIEW("..")))
			return true;
	}
	return false;
}

static void on_events(void *arg, int events)
{
	struct config_watch *w = arg;
	char buf[16 * 1024] __attribute__((aligned(__alignof__(struct inotify_event))));
	bool any = false;
	(void)events;
	for (ssize_t n; (n = read(w->fd, buf, sizeof buf)) > 0;) {
		for (size_t at = 0; at < (size_t)n;) {
			const struct inotify_event *e =
				(const struct inotify_event *)(const void *)(buf + at);
			any = counts(w, e) || any;
			at += sizeof *e + e->len;
		}
	}
	if (!any)
		return;
	if (!loop_timer_active(&w->quiet))
		w->since = loop_now(w->o->loop);
	int64_t left = PATIENCE_MS - mono_ms_between(w->since, loop_now(w->o->loop));
	loop_timer_start(w->o->loop, &w->quiet, MIN(left, (int64_t)QUIET_MS), look, w);
}

/* ---- on and off ------------------------------------------------------------------------------------ */

void config_watch_follow(struct orch *o)
{
	struct config_watch *w = o->watch;
	if (o->config->watch && w->fd >= 0) {
		/* Arming anew forgets what happened meanwhile, so it is followed by a look. */
		AUTO(mem_freep) char *beside = files_beside(o->config);
		if (!w->beside || strcmp(w->beside, beside) != 0)
			look(w);
		return;
	}
	if (!o->config->watch && w->fd < 0)
		return;
	loop_timer_stop(&w->quiet);
	disarm(w);
	if (!o->config->watch)
		return;
	arm(w);
	free(w->stamps);
	w->stamps = stamps_now(w);
}

void config_watch_free(struct config_watch *w)
{
	if (!w)
		return;
	loop_timer_stop(&w->quiet);
	disarm(w);
	config_places_done(&w->where);
	free(w->stamps);
	free(w->beside);
	free(w);
}
