/* SPDX-License-Identifier: Apache-2.0
 *
 * The keys that hold, on the control loop: read at the start, changed by /v1/keys and by a reload, given to
 * every data loop. A change is written on a thread, one after the other (KEY_ASKS_MAX wait), the store is
 * read again, and the answer goes when the last loop has the new rules: a key that was revoked is refused by
 * then.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/call.h"
#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "role/orchestratord/orch_int.h"

enum { KEY_ASKS_MAX = 32, ANSWER_MAX = 32 * 1024 * 1024 };

enum key_change { KEY_CREATE, KEY_REVOKE, KEY_REREAD };
struct key_ask {
	struct list node;
	struct keys *keys;  /* NULL: the daemon ends; only freed any more */
	struct api_call *c; /* NULL: the client left, or nobody asked */
	enum key_change what;
	struct auth_key *key; /* the new one, or the one that was revoked */
	char secret[AUTH_SECRET_LEN + 1];
	char *path, *id, *by;
	int r;
	struct err err;
	struct auth_list store; /* as it is after it, … */
	bool loaded;            /* … if it could be read */
};

struct keys {
	struct orch *o;
	struct auth_sources from;
	struct auth_rules *rules;
	struct list asks; /* the first is under way */
	size_t nasks;
	char *path;
};

/* ---- what holds ---------------------------------------------------------------------------------------- */

static struct auth_rules *make_rules(const struct keys *k, const struct config *c)
{
	const struct auth_list *lists[] = { &k->from.store, &k->from.file, &k->from.env };
	return auth_rules_new(lists, ARRAY_LEN(lists), &c->auth_trusted, k->rules);
}

struct keys *keys_new(const struct config *c, const char *config_file, struct err *e)
{
	struct keys *k = NEW(struct keys);
	list_init(&k->asks);
	k->path = path_join(c->state_dir, AUTH_STORE_NAME);
	int r = auth_sources_load(c->state_dir, c->keys_file, getenv("CORRAL_API_KEYS"), &k->from, e);
	if (!r)
		r = auth_exposed_check(
			&c->listen, &c->auth_trusted, auth_sources_count(&k->from), config_file, e);
	if (r == -EACCES && k->from.problem)
		err_set(e, -EIO, "%s", k->from.problem);
	if (r) {
		keys_free(k);
		return NULL;
	}
	k->rules = make_rules(k, c);
	return k;
}

void keys_start(struct keys *k, struct orch *o)
{
	k->o = o;
	if (k->from.warning)
		log_warn("keys", "corral", "%s.", k->from.warning);
	if (k->from.problem)
		log_error("keys", k->path, "%s; the keys in it do not hold.", k->from.problem);
	if (k->rules->by_order.n)
		log_info("keys", "corral", "%zu key%s may be used.", k->rules->by_order.n,
			k->rules->by_order.n == 1 ? "" : "s");
}

struct auth_rules *keys_rules(const struct keys *k)
{
	return k->rules;
}

size_t keys_besides_file(const struct keys *k)
{
	return k->from.store.n + k->from.env.n;
}

static void renew(struct keys *k, loop_fn *fn, void *arg)
{
	struct auth_rules *was = k->rules;
	k->rules = make_rules(k, k->o->config);
	auth_rules_unref(was);
	data_loops_rules(k->o, fn, arg);
}

/* ---- changes, one after the other ------------------------------------------------------------------------
 */

static void ask_free(struct key_ask *a)
{
	explicit_bzero(a->secret, sizeof a->secret);
	auth_key_unref(a->key);
	auth_list_done(&a->store);
	free(a->path);
	free(a->id);
	free(a->by);
	free(a);
}

static void work(void *arg)
{
	struct key_ask *a = arg;
	if (a->what == KEY_CREATE)
		a->r = auth_store_add(a->path, a->key, &a->err);
	else if (a->what == KEY_REVOKE)
		a->r = auth_store_revoke(a->path, view_str(a->id), &a->key, &a->err);
	/* After a failure, too: another process may have changed it. */
	struct err e = { 0 };
	int r = auth_store_load(a->path, &a->store, &e);
	a->loaded = r == 0;
	if (a->what == KEY_REREAD) {
		a->r = r;
		a->err = e;
	}
}

/* What was changed holds, whether or not the store could be read again. */
static void take_over(struct keys *k, struct key_ask *a)
{
	if (a->loaded) {
		auth_list_done(&k->from.store);
		k->from.store = a->store;
		a->store = (struct auth_list){ 0 };
	} else if (!a->r && a->what == KEY_CREATE) {
		auth_list_add(&k->from.store, auth_key_ref(a->key));
	} else if (!a->r) {
		auth_list_remove(&k->from.store, view_str(a->key->id));
	}
}

static void begin(struct keys *k);

static void reply(struct key_ask *a)
{
	AUTO(buf_done) struct buf b = BUF(128 * KIB);
	struct api_call *c = a->c;
	if (a->what == KEY_CREATE) {
		auth_key_json(a->key, wall_ms(), &b);
		b.len--; /* goes on before the brace */
		(void)buf_addf(&b, ",\"key\":\"%s\"}", a->secret);
	} else {
		(void)buf_adds(&b, "{\"revoked\":");
		auth_key_json(a->key, wall_ms(), &b);
		(void)buf_addc(&b, '}');
	}
	api_reply_json(c, a->what == KEY_CREATE ? 201 : 200, buf_view(&b));
	explicit_bzero(b.data, b.len);
}

static void reply_failure(struct key_ask *a)
{
	int status = a->r == -ENOENT ? 404 : a->r == -EEXIST || a->r == -E2BIG ? 409 : 500;
	enum corral_code code = status == 404   ? CODE_INVALID_PARAMS
				: status == 409 ? CODE_CONFLICT
						: CODE_INTERNAL;
	api_failf(a->c, code, status, "", "%c%s.", a->err.msg[0] >= 'a' ? a->err.msg[0] - 32 : a->err.msg[0],
		a->err.msg + 1);
}

static void ended(void *arg)
{
	struct key_ask *a = arg;
	struct keys *k = a->keys;
	if (!k) {
		ask_free(a);
		return;
	}
	if (a->c && a->r)
		reply_failure(a);
	else if (a->c)
		reply(a);
	list_remove(&a->node);
	k->nasks--;
	ask_free(a);
	if (!list_empty(&k->asks))
		begin(k);
}

static void say(const struct key_ask *a)
{
	const struct auth_key *k = a->key;
	if (a->what == KEY_REREAD)
		return;
	log_event(LOG_INFO, "key", k->name,
		(struct log_field[]){ LOG_STR("by", a->by), LOG_STR("key_id", k->id),
			LOG_STR("scope", auth_scope_name(k->scope)), LOG_END },
		a->what == KEY_CREATE ? "Key %s is made by %s." : "Key %s is revoked by %s.", k->name, a->by);
}

static void worked(void *arg)
{
	struct key_ask *a = arg;
	struct keys *k = a->keys;
	if (!k) {
		ask_free(a);
		return;
	}
	if (a->r && a->what == KEY_REREAD)
		log_error("keys", k->path, "%s; the keys that were read before hold on.", a->err.msg);
	if (a->r && !a->loaded) {
		ended(a);
		return;
	}
	take_over(k, a);
	if (!a->r)
		say(a);
	renew(k, ended, a);
}

static void begin(struct keys *k)
{
	struct key_ask *a = LIST_ENTRY(list_first(&k->asks), struct key_ask, node);
	loop_offload(k->o->loop, work, worked, a);
}

static void on_gone(void *arg)
{
	((struct key_ask *)arg)->c = NULL;
}

static struct key_ask *ask_new(struct keys *k, struct api_call *c, enum key_change what)
{
	struct key_ask *a = NEW(struct key_ask);
	a->keys = k;
	a->c = c;
	a->what = what;
	a->path = mem_strdup(k->path);
	a->by = mem_strdup(c ? c->by : "a reload");
	if (c) {
		c->on_gone = on_gone;
		c->arg = a;
	}
	list_append(&k->asks, &a->node);
	k->nasks++;
	return a;
}

static void go(struct keys *k)
{
	if (k->nasks == 1)
		begin(k);
}

void keys_take(struct keys *k, struct auth_list *file)
{
	auth_list_done(&k->from.file);
	k->from.file = *file;
	*file = (struct auth_list){ 0 };
	renew(k, NULL, NULL);
	if (k->nasks < KEY_ASKS_MAX) { /* somebody may have written the store while we did not answer */
		(void)ask_new(k, NULL, KEY_REREAD);
		go(k);
	}
}

/* ---- the routes -------------------------------------------------------------------------------------------
 */

static void list_keys(struct keys *k, struct api_call *c)
{
	AUTO(buf_done) struct buf b = BUF(ANSWER_MAX);
	int64_t wall = wall_ms();
	(void)buf_adds(&b, "{\"keys\":[");
	for (size_t i = 0; i < k->rules->by_order.n; i++) {
		(void)buf_adds(&b, i ? "," : "");
		auth_key_json(k->rules->by_order.items[i], wall, &b);
	}
	(void)buf_adds(&b, "]}");
	api_reply_json(c, 200, buf_view(&b));
}

static void create(struct keys *k, struct api_call *c)
{
	AUTO(auth_key_unrefp) struct auth_key *key = NULL;
	struct err e = { 0 };
	if (api_key_parse(buf_view(&c->body), wall_ms(), &key, &e)) {
		api_failf(c, CODE_INVALID_PARAMS, 400, "", "%s", e.msg);
		return;
	}
	const struct auth_key *other = auth_list_find(&k->rules->by_order, view_str(key->name));
	if (other) {
		api_failf(c, CODE_CONFLICT, 0, "Choose another name, or revoke that one first.",
			"There is a key \"%s\" already (%s).", other->name, auth_source_name(other->source));
		return;
	}
	struct key_ask *a = ask_new(k, c, KEY_CREATE);
	auth_secret_new(a->secret);
	auth_key_set_secret(key, view_str(a->secret));
	a->key = MEM_TAKE(key);
	go(k);
}

static void remove_key(struct keys *k, struct api_call *c, struct view id)
{
	const struct auth_key *key = auth_list_find(&k->rules->by_order, id);
	if (key && key->source != AUTH_FROM_STORE) {
		api_failf(c, CODE_CONFLICT, 0,
			key->source == AUTH_FROM_FILE ? "Remove its line there, then `corral config reload`."
						      : "Remove it there and start Corral again.",
			"The key %s comes from %s, which is not ours to change.", key->name,
			auth_source_name(key->source));
		return;
	}
	ask_new(k, c, KEY_REVOKE)->id = mem_viewdup(id);
	go(k);
}

void keys_call(void *arg, struct api_call *c, struct view id)
{
	struct orch *o = arg;
	struct keys *k = o->keys;
	if (c->method == HTTP_M_GET || c->method == HTTP_M_HEAD)
		list_keys(k, c);
	else if (o->draining) /* the loops are told nothing any more */
		api_failf(c, CODE_POOL_UNAVAILABLE, 0, "", "The server is going down.");
	else if (k->nasks >= KEY_ASKS_MAX)
		api_failf(c, CODE_CONFLICT, 0, "Send it again.", "Too many changes of keys wait already.");
	else if (c->method == HTTP_M_POST)
		create(k, c);
	else
		remove_key(k, c, id);
}

void keys_free(struct keys *k)
{
	if (!k)
		return;
	bool first = true;
	LIST_FOREACH(a, &k->asks, struct key_ask, node)
	{
		list_remove(&a->node);
		a->keys = NULL;
		if (!first)
			ask_free(a); /* the first is the thread's or a loop's; worked frees it */
		first = false;
	}
	auth_rules_unref(k->rules);
	auth_sources_done(&k->from);
	free(k->path);
	free(k);
}
