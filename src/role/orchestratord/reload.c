/* SPDX-License-Identifier: Apache-2.0
 *
 * The configuration, read again while everything serves. One reload at a time, on the control loop:
 * LOADING (a thread reads and checks the file) → WAITING (for a node) → ASKING (the node reads its own, and
 * says no when it cannot) → applied. Until the last step nothing is touched, and a reload that fails has
 * changed nothing. Bound: RELOADS_MAX wait; signals that come meanwhile are one more reload.
 */
#include <stdlib.h>
#include <string.h>
#include <yyjson.h>

#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

enum {
	RELOADS_MAX = 32,
	NODE_WAIT_MS = 10000,
	NODE_ASK_MS = 10000,
	NODE_AGAIN_MS = 100,
	LINE_MAX_BYTES = 8192
};
enum reload_state { RELOAD_IDLE, RELOAD_LOADING, RELOAD_WAITING, RELOAD_ASKING };

struct ask {
	struct list node;
	bool dry_run;
	char *by;
	api_reload_fn *fn; /* NULL: a signal, or the file was seen to change */
	void *arg;
};

/* What the thread works on; it outlives the reload when the daemon ends meanwhile. */
struct job {
	struct reload *r; /* NULL: nobody waits any more */
	const struct orchestratord_opts *opts;
	struct config *base;    /* what holds now; a reference */
	struct config *running; /* the same with the pools of models that were found; a reference */
	struct config *next;    /* NULL: errors has mistakes */
	struct config *over;    /* what would hold */
	struct config_errors errors, warnings;
	struct config_diff diff;
	struct auth_list keys;    /* of keys_file */
	size_t other_keys;        /* how many come from elsewhere */
	struct auth_rules *rules; /* what holds; a reference */
	struct tls_server *tls;   /* NULL: no address speaks it */
	struct tls_cert *cert;    /* NULL: none, or the one before stays */
};

struct reload {
	struct orch *o;
	enum reload_state state;
	struct list asks; /* the first is under way unless IDLE */
	size_t nasks;
	struct job *job;
	struct http_target *node;
	struct http_fetch *fetch;
	struct loop_timer patience, again;
	bool ending;
};

struct reload *reload_new(struct orch *o)
{
	struct reload *r = NEW(struct reload);
	r->o = o;
	list_init(&r->asks);
	return r;
}

static void set_state(struct reload *r, enum reload_state s)
{
	r->state = s;
}

static struct ask *first(const struct reload *r)
{
	return LIST_ENTRY(list_first(&r->asks), struct ask, node);
}

/* ---- the thread ------------------------------------------------------------------------------------ */

/* Where neither names pools, what was found on the disk is no change; where the file names some now, it goes.
 */
static void diff(struct job *j)
{
	if (j->base->npools || j->next->npools) {
		config_diff(j->running, j->next, &j->diff);
		return;
	}
	config_diff(j->base, j->next, &j->diff);
}

static void mistake(const struct config *c, const char *key, const char *message, struct config_errors *to)
{
	config_errors_add(to, config_origin_of(c, NULL, key), key, message);
}

/* The keys_file, and whether anybody would be let in. */
static int read_keys(struct job *j)
{
	const struct config *c = j->over;
	AUTO(mem_freep) char *warning = NULL;
	struct err e = { 0 };
	if (c->keys_file && auth_file_read(c->keys_file, &j->keys, &warning, &e)) {
		mistake(c, "keys_file", e.msg, &j->errors);
		return -EINVAL;
	}
	if (warning)
		mistake(c, "keys_file", warning, &j->warnings);
	if (auth_exposed_check(
		    &c->listen, &c->auth_trusted, j->keys.n + j->other_keys, j->opts->source->path, &e)) {
		mistake(c, "auth.trusted", e.msg, &j->errors);
		return -EINVAL;
	}
	return 0;
}

static void keys_change(struct job *j)
{
	config_diff_add(&j->diff, CONFIG_TOP_LIVE, NULL, mem_strdup("keys_file"),
		mem_fmt("The keys of keys_file (%zu now) hold at once; requests that run go on.", j->keys.n));
}

static void work(void *arg)
{
	struct job *j = arg;
	struct config_source src = *j->opts->source;
	src.not_empty = true;
	if (config_load(&src, &j->next, &j->errors))
		return;
	j->over = config_over(j->base, j->next);
	if (j->opts->check_models && j->opts->check_models(j->over, &j->warnings)) {
		j->errors = j->warnings;
		j->warnings = (struct config_errors){ 0 };
		j->next = config_unref(j->next);
		return;
	}
	if (read_keys(j)) {
		j->next = config_unref(j->next);
		return;
	}
	diff(j);
	if (auth_file_changed(j->rules, &j->keys))
		keys_change(j);
	j->cert = door_read(j->over, j->tls, &j->warnings, &j->diff);
}

static void job_free(struct job *j)
{
	if (!j)
		return;
	config_unref(j->base);
	config_unref(j->running);
	config_unref(j->next);
	config_unref(j->over);
	config_errors_done(&j->errors);
	config_errors_done(&j->warnings);
	config_diff_done(&j->diff);
	tls_cert_free(j->cert);
	auth_list_done(&j->keys);
	auth_rules_unref(j->rules);
	free(j);
}

/* ---- how it ended ---------------------------------------------------------------------------------- */

/* "corral.yaml:3:7: ctx: found …; corral.yaml:5:1: …" */
static void errors_line(const struct config_errors *e, struct buf *b)
{
	for (size_t i = 0; i < e->len; i++) {
		const struct config_error *x = &e->items[i];
		AUTO(mem_freep)
		char *at = x->file ? mem_fmt("%s:%u:%u: ", x->file, x->line, x->column) : mem_strdup("");
		if (buf_addf(b, "%s%s%s%s%s", i ? "; " : "", at, x->key, *x->key ? ": " : "", x->message))
			break;
	}
	if (e->dropped)
		(void)buf_addf(b, "; and %zu more", e->dropped);
}

static void say_refused(const struct ask *a, const struct api_reload *how)
{
	AUTO(buf_done) struct buf b = BUF(LINE_MAX_BYTES);
	if (a->dry_run)
		return;
	if (how->errors)
		errors_line(how->errors, &b);
	else
		(void)buf_adds(&b, how->problem);
	log_event(LOG_ERROR, "reload", "corral",
		(struct log_field[]){ LOG_STR("by", a->by),
			LOG_UINT("mistakes", how->errors ? how->errors->len + how->errors->dropped : 0),
			LOG_END },
		"The configuration is not taken, everything stays as it is: %s", buf_str(&b));
}

static void say_applied(const struct ask *a, const struct config_diff *d)
{
	size_t later = 0;
	for (size_t i = 0; i < d->len; i++) {
		const struct config_change *x = &d->items[i];
		later += x->kind == CONFIG_TOP_NEXT_START;
		log_event(x->kind == CONFIG_TOP_NEXT_START ? LOG_WARN : LOG_INFO, "reload",
			x->pool ? x->pool : "corral",
			(struct log_field[]){ LOG_STR("pool_id", x->pool),
				LOG_STR("change", config_change_kind_name(x->kind)), LOG_STR("keys", x->keys),
				LOG_END },
			"%s", x->human);
	}
	struct log_field fields[] = { LOG_STR("by", a->by), LOG_UINT("changes", d->len - later),
		LOG_UINT("next_start", later), LOG_END };
	if (d->len)
		log_event(LOG_INFO, "reload", "corral", fields,
			"The configuration is reloaded: %zu change%s.", d->len - later,
			d->len - later == 1 ? "" : "s");
	else
		log_event(LOG_INFO, "reload", "corral", fields,
			"The configuration is reloaded: nothing changed.");
}

static void begin(struct reload *r);

static void ask_free(struct ask *a)
{
	free(a->by);
	free(a);
}

/* Ends the first: tells whoever asked, then begins the next. */
static void finish(struct reload *r, const struct api_reload *how)
{
	struct ask *a = first(r);
	struct job *j = r->job;
	loop_timer_stop(&r->patience);
	loop_timer_stop(&r->again);
	list_remove(&a->node);
	r->nasks--;
	r->job = NULL;
	if (how->errors || how->problem)
		say_refused(a, how);
	else if (how->applied)
		say_applied(a, how->diff);
	for (size_t i = 0; how->warnings && i < how->warnings->len && how->applied; i++)
		log_warn("reload", "corral", "%s: %s", how->warnings->items[i].key,
			how->warnings->items[i].message);
	if (a->fn)
		a->fn(a->arg, how);
	ask_free(a);
	job_free(j);
	set_state(r, RELOAD_IDLE);
	if (!list_empty(&r->asks))
		begin(r);
}

static void fail(struct reload *r, const char *problem, const char *hint)
{
	struct api_reload how = { .problem = problem, .hint = hint };
	finish(r, &how);
}

/* ---- taking it ------------------------------------------------------------------------------------- */

/* Everybody who keeps something of the configuration gets the new one; c's reference is taken. */
static void use(struct orch *o, struct config *c)
{
	struct config *was = o->config;
	AUTO(config_unrefp) struct config *pools = found_over(o, c);
	o->config = c;
	control_set_config(o->control, pools);
	log_set_level((enum log_level)c->log_level);
	atomic_store_explicit(&o->spool.total_max, c->body_spool_total, memory_order_relaxed);
	data_loops_config(o);
	config_watch_follow(o);
	config_unref(was);
}

static void take(struct reload *r)
{
	struct job *j = r->job;
	use(r->o, MEM_TAKE(j->over));
	door_take(r->o, MEM_TAKE(j->cert));
	keys_take(r->o->keys, &j->keys);
	struct api_reload how = { .diff = &j->diff, .warnings = &j->warnings, .applied = true };
	finish(r, &how);
}

/* ---- the node -------------------------------------------------------------------------------------- */

static void ask_node(struct reload *r);

static void again(void *arg)
{
	struct reload *r = arg;
	if (r->state == RELOAD_WAITING)
		ask_node(r);
}

/* The message of {"error": {"message": …}}, or the body. */
static char *message_of(struct view body)
{
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *m = yyjson_obj_get(yyjson_obj_get(yyjson_doc_get_root(d), "error"), "message");
	char *s = yyjson_is_str(m) ? mem_strdup(yyjson_get_str(m)) : mem_viewdup(view_cut(body, 512));
	yyjson_doc_free(d);
	return s;
}

static void on_node_answer(void *arg, int status, struct view body, const struct err *e)
{
	struct reload *r = arg;
	struct ask *a = first(r);
	r->fetch = NULL;
	http_target_free(r->node);
	r->node = NULL;
	if (status == 200 && a->dry_run) {
		struct api_reload how = { .diff = &r->job->diff, .warnings = &r->job->warnings };
		finish(r, &how);
		return;
	}
	if (status == 200) {
		take(r);
		return;
	}
	if (status == 0 && loop_timer_active(&r->patience)) { /* it ended just now, another one is coming */
		set_state(r, RELOAD_WAITING);
		loop_timer_start(r->o->loop, &r->again, NODE_AGAIN_MS, again, r);
		return;
	}
	AUTO(mem_freep) char *said = status ? message_of(body) : mem_strdup(e->msg);
	AUTO(mem_freep)
	char *why = mem_fmt(status ? "engine-provisioner does not take the file: %s"
				   : "engine-provisioner does not answer: %s",
		said);
	fail(r, why, "Nothing was changed. Its log says more; try again with `corral config reload`.");
}

static void ask_node(struct reload *r)
{
	const struct ask *a = first(r);
	const char *address = control_node_address(r->o->control);
	if (!address)
		return; /* reload_node_seen comes, or patience ends */
	struct http_fetch_req q = { .method = "POST",
		.path = "/v1/node/config/reload",
		.content_type = "application/json",
		.body = a->dry_run ? VIEW("{\"dry_run\":true}") : VIEW("{\"dry_run\":false}"),
		.timeout_ms = NODE_ASK_MS };
	set_state(r, RELOAD_ASKING);
	r->node = http_target_new(r->o->loop, address, NULL, NULL);
	r->fetch = http_fetch(r->node, &q, on_node_answer, r);
}

static void no_patience(void *arg)
{
	struct reload *r = arg;
	if (r->state == RELOAD_WAITING) /* while ASKING the question has a deadline of its own */
		fail(r, "No engine-provisioner is there that could take the configuration.",
			"Nothing was changed. Look for its reason in the log, then try again.");
}

void reload_node_seen(struct reload *r)
{
	if (r && r->state == RELOAD_WAITING && !loop_timer_active(&r->again))
		loop_timer_start(
			r->o->loop, &r->again, 0, again, r); /* not from within the registry's watch */
}

/* ---- asking for one -------------------------------------------------------------------------------- */

static void loaded(void *arg)
{
	struct job *j = arg;
	struct reload *r = j->r;
	if (!r) {
		job_free(j);
		return;
	}
	if (j->errors.len) {
		struct api_reload how = { .errors = &j->errors };
		finish(r, &how);
		return;
	}
	set_state(r, RELOAD_WAITING);
	loop_timer_start(r->o->loop, &r->patience, NODE_WAIT_MS, no_patience, r);
	ask_node(r);
}

static struct config *with_found(struct orch *o)
{
	AUTO(registry_snapshot_unrefp) const struct registry_snapshot *s = registry_snapshot_ref(o->registry);
	return found_pending(o, s) ? config_ref(o->config) : found_over(o, o->config);
}

static void begin(struct reload *r)
{
	struct job *j = NEW(struct job);
	j->r = r;
	j->opts = &r->o->o;
	j->tls = r->o->tls;
	j->other_keys = keys_besides_file(r->o->keys);
	j->rules = auth_rules_ref(keys_rules(r->o->keys));
	j->base = config_ref(r->o->config);
	j->running = with_found(r->o);
	r->job = j;
	set_state(r, RELOAD_LOADING);
	loop_offload(r->o->loop, work, loaded, j);
}

static bool signal_waits(const struct reload *r)
{
	size_t i = 0;
	LIST_FOREACH(a, &r->asks, struct ask, node)
	if (i++ && !a->fn)
		return true;
	return false;
}

void reload_ask(struct reload *r, bool dry_run, const char *by, api_reload_fn *fn, void *arg)
{
	const char *problem = r->ending                 ? "The server is going down."
			      : r->nasks == RELOADS_MAX ? "Too many reloads wait already."
							: NULL;
	if (problem) {
		struct api_reload how = { .problem = problem, .hint = "Nothing was changed." };
		if (fn)
			fn(arg, &how);
		return;
	}
	if (!fn && signal_waits(r))
		return; /* it reads the file later than now */
	struct ask *a = NEW(struct ask);
	a->dry_run = dry_run;
	a->by = mem_strdup(by);
	a->fn = fn;
	a->arg = arg;
	list_append(&r->asks, &a->node);
	r->nasks++;
	if (r->state == RELOAD_IDLE)
		begin(r);
}

void reload_end(struct reload *r)
{
	struct api_reload how = { .problem = "The server is going down.", .hint = "Nothing was changed." };
	r->ending = true;
	loop_timer_stop(&r->patience);
	loop_timer_stop(&r->again);
	http_fetch_cancel(&r->fetch);
	http_target_free(r->node);
	r->node = NULL;
	if (r->state == RELOAD_LOADING)
		r->job->r = NULL; /* the thread's; loaded frees it */
	else
		job_free(r->job);
	r->job = NULL;
	set_state(r, RELOAD_IDLE);
	while (!list_empty(&r->asks)) {
		struct ask *a = first(r);
		list_remove(&a->node);
		if (a->fn)
			a->fn(a->arg, &how);
		ask_free(a);
	}
	r->nasks = 0;
}

void reload_free(struct reload *r)
{
	if (!r)
		return;
	reload_end(r);
	free(r);
}
