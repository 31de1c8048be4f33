/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "log/log.h"
#include "registry/registry.h"

static int deadline_ms(void)
{
	return 30000;
}

static mono_t at(int64_t ms)
{
	return mono_add_ms(MONO_ZERO, ms);
}

static struct registry *fresh(void)
{
	return registry_new(&(struct registry_opts){ 0 });
}

/* A message of a node from its JSON; registers with "register", else heartbeats. */
static int say(struct registry *r, bool reg, int64_t ms, struct registry_heard *h, const char *json)
{
	struct wire_node n = { 0 };
	struct err e = { 0 };
	struct registry_heard own = { 0 };
	if (wire_node_decode(view_str(json), &n, &e))
		fail_msg("%s: %s", e.msg, json);
	h = h ? h : &own;
	int rc = reg ? registry_register(r, &n, at(ms), h, &e) : registry_heartbeat(r, &n, at(ms), h, &e);
	wire_node_done(&n);
	registry_heard_done(&own);
	return rc;
}
#define REGISTER(ms, json) assert_int_equal(say(r, true, ms, NULL, json), 0)
#define HEARTBEAT(ms, json) assert_int_equal(say(r, false, ms, NULL, json), 0)
#define REPLICA(id, rest) "{\"replica_id\":\"" id "\",\"pool_id\":\"a\"" rest "}"
#define NODE(rest, list) "{\"node_id\":\"n\",\"boot_id\":\"b\",\"pid\":7" rest ",\"replicas\":[" list "]}"

#define SNAP(s) AUTO(registry_snapshot_unrefp) const struct registry_snapshot *s = registry_snapshot_ref(r)

static const struct registry_replica *get(const struct registry_snapshot *s, const char *id)
{
	const struct registry_replica *x = registry_snapshot_replica(s, VIEW("a"), view_str(id));
	if (!x)
		fail_msg("no replica %s", id);
	return x;
}

static void test_register_is_idempotent(void **state)
{
	struct registry *r = fresh();
	REGISTER(0, NODE("", REPLICA("a-0", ",\"state\":\"ready\",\"slots_total\":2")));
	SNAP(one);
	REGISTER(1, NODE("", REPLICA("a-0", ",\"state\":\"ready\",\"slots_total\":2")));
	SNAP(two);
	assert_int_equal(one->revision, two->revision);
	assert_true(get(two, "a-0")->accepting);
	assert_true(registry_deregister(r, VIEW("n")));
	assert_false(registry_deregister(r, VIEW("n")));
	SNAP(three);
	assert_int_equal(three->npools + three->nnodes + three->nreplicas, 0);
	assert_int_equal(one->nreplicas, 1); /* immutable */
	registry_free(r);
	assert_string_equal(one->replicas[0]->facts.replica_id, "a-0"); /* outlives it */
}

static void test_unknown_node_is_told_to_register(void **state)
{
	struct registry *r = fresh();
	assert_int_equal(say(r, false, 0, NULL, NODE("", "")), -ENOENT);
	REGISTER(0, NODE("", ""));
	HEARTBEAT(1, NODE("", ""));
	/* Another process of the same node. */
	assert_int_equal(say(r, false, 0, NULL, "{\"node_id\":\"n\",\"boot_id\":\"b\",\"pid\":8}"), -ENOENT);
	registry_free(r);
}

static void test_new_process_replaces(void **state)
{
	struct registry *r = fresh();
	REGISTER(0,
		NODE(",\"seq\":90",
			REPLICA("a-0", ",\"state\":\"ready\",\"generation\":3,\"slots_total\":2") "," REPLICA(
				"a-1", ",\"state\":\"ready\"")));
	assert_int_equal(registry_lease_acquire(r, VIEW("a-0")), 0);
	REGISTER(1, "{\"node_id\":\"n\",\"boot_id\":\"b\",\"pid\":8,\"seq\":1,\"replicas\":[" REPLICA(
			    "a-0", ",\"state\":\"ready\",\"generation\":3,\"slots_total\":2") "]}");
	SNAP(s);
	assert_int_equal(s->nreplicas, 1);
	assert_int_equal(get(s, "a-0")->facts.leases, 1); /* the engine is the same one */
	registry_free(r);
}

static void test_older_is_dropped(void **state)
{
	struct registry *r = fresh();
	REGISTER(0, NODE(",\"seq\":1", REPLICA("a-0", ",\"state\":\"proving\",\"generation\":5")));
	struct registry_heard h = { 0 };
	HEARTBEAT(1, NODE(",\"seq\":3", REPLICA("a-0", ",\"state\":\"ready\"")));
	assert_int_equal(
		say(r, false, 2, &h, NODE(",\"seq\":2", REPLICA("a-0", ",\"state\":\"failed\""))), 0);
	assert_true(h.dropped);
	HEARTBEAT(3, NODE(",\"seq\":4", REPLICA("a-0", ",\"state\":\"failed\",\"generation\":4")));
	SNAP(s);
	assert_int_equal(get(s, "a-0")->facts.state, REPLICA_READY);
	registry_free(r);
}

static void test_ready_never_before_a_probe(void **state)
{
	struct registry *r = fresh();
	struct registry_heard h = { 0 };
	REGISTER(0, NODE("", REPLICA("a-0", ",\"state\":\"starting\",\"generation\":1,\"slots_total\":1")));
	assert_int_equal(
		say(r, false, 1, &h, NODE("", REPLICA("a-0", ",\"state\":\"ready\",\"generation\":1"))), 0);
	assert_string_equal(h.unproven.items[0], "a-0");
	registry_heard_done(&h);
	SNAP(one);
	assert_false(get(one, "a-0")->ready || get(one, "a-0")->live);
	assert_int_equal(get(one, "a-0")->facts.state, REPLICA_PROVING);
	assert_int_equal(registry_lease_acquire(r, VIEW("a-0")), -EHOSTDOWN);
	HEARTBEAT(2, NODE("", REPLICA("a-0", ",\"state\":\"proving\"")));
	SNAP(two);
	assert_true(get(two, "a-0")->live && !get(two, "a-0")->ready);
	HEARTBEAT(3, NODE("", REPLICA("a-0", ",\"state\":\"ready\"")));
	SNAP(three);
	assert_true(get(three, "a-0")->ready);
	/* The next generation starts over; the time to its first healthy answer is a proof as well. */
	HEARTBEAT(4, NODE("", REPLICA("a-0", ",\"generation\":2")));
	SNAP(four);
	assert_false(get(four, "a-0")->ready);
	HEARTBEAT(5,
		NODE("", REPLICA("a-0", ",\"generation\":2,\"state\":\"ready\",\"pid\":4,\"load_ms\":40")));
	SNAP(five);
	assert_true(get(five, "a-0")->ready);
	registry_free(r);
}

static void test_partial_and_complete(void **state)
{
	struct registry *r = fresh();
	REGISTER(0,
		NODE("", REPLICA("a-0", ",\"slots_total\":4,\"slots_free\":3,\"engine\":\"x\"") "," REPLICA(
				 "a-1", "")));
	HEARTBEAT(1, NODE("", REPLICA("a-0", ",\"ctx\":512")));
	SNAP(one);
	assert_int_equal(one->nreplicas, 2);
	assert_int_equal(get(one, "a-0")->facts.slots_free, 3);
	assert_string_equal(get(one, "a-0")->facts.engine, "x");
	HEARTBEAT(2, NODE("", REPLICA("a-0", ",\"slots_free\":99")));
	SNAP(two);
	assert_int_equal(get(two, "a-0")->facts.slots_free, 4);
	HEARTBEAT(3, NODE(",\"complete\":true", REPLICA("a-0", "")));
	SNAP(three);
	assert_int_equal(three->nreplicas, 1);
	registry_free(r);
}

static void test_last_error_until_success(void **state)
{
	struct registry *r = fresh();
	REGISTER(0, NODE("", REPLICA("a-0", ",\"generation\":1,\"state\":\"backoff\",\"last_error\":{"
					    "\"cause\":\"oom_vram\","
					    "\"message\":\"no room\",\"hint\":\"less ctx\",\"at_ms\":5}")));
	HEARTBEAT(1, NODE("", REPLICA("a-0", ",\"generation\":2,\"state\":\"proving\",\"last_error\":null")));
	SNAP(one);
	assert_string_equal(get(one, "a-0")->facts.last_error.message, "no room");
	assert_string_equal(get(one, "a-0")->facts.last_error.hint, "less ctx");
	/* Also when the replica is gone and comes back. */
	HEARTBEAT(2, NODE(",\"complete\":true", ""));
	HEARTBEAT(3, NODE("", REPLICA("a-0", ",\"generation\":3,\"state\":\"proving\"")));
	SNAP(two);
	assert_string_equal(get(two, "a-0")->facts.last_error.message, "no room");
	HEARTBEAT(4, NODE("", REPLICA("a-0", ",\"state\":\"ready\"")));
	SNAP(three);
	assert_null(get(three, "a-0")->facts.last_error.message);
	registry_free(r);
}

static void test_offline_and_back(void **state)
{
	struct registry *r = fresh();
	REGISTER(0, NODE("", REPLICA("a-0", ",\"state\":\"ready\",\"slots_total\":1")));
	assert_int_equal(registry_tick(r, at(29999)).ns, at(30000).ns);
	SNAP(one);
	assert_true(one->nodes[0]->online && get(one, "a-0")->accepting);
	registry_tick(r, at(30000));
	SNAP(two);
	assert_false(two->nodes[0]->online || get(two, "a-0")->live || get(two, "a-0")->accepting);
	assert_int_equal(registry_lease_acquire(r, VIEW("a-0")), -EHOSTDOWN);
	HEARTBEAT(40000, NODE("", ""));
	SNAP(three);
	assert_true(three->nodes[0]->online && get(three, "a-0")->accepting);
	registry_free(r);
}

static void test_leases_and_draining(void **state)
{
	struct registry *r = fresh();
	struct registry_status st;
	REGISTER(0, NODE("", REPLICA("a-0", ",\"state\":\"ready\",\"slots_total\":2,\"generation\":4")));
	assert_int_equal(registry_lease_acquire(r, VIEW("a-0")), 0);
	assert_int_equal(registry_lease_acquire(r, VIEW("a-0")), 0);
	assert_int_equal(registry_lease_acquire(r, VIEW("a-0")), -EAGAIN);
	assert_int_equal(registry_lease_acquire(r, VIEW("b-0")), -ENOENT);
	assert_true(registry_pool_mark(r, VIEW("a"), MARK_DRAINING, true, "ann", 5));
	assert_false(registry_pool_mark(r, VIEW("a"), MARK_DRAINING, true, "bob", 6));
	assert_int_equal(registry_lease_release(r, VIEW("a-0")), 0);
	assert_int_equal(registry_lease_acquire(r, VIEW("a-0")), -ESHUTDOWN);
	assert_int_equal(registry_lease_release(r, VIEW("a-0")), 0);
	assert_int_equal(registry_lease_release(r, VIEW("a-0")), -EALREADY);
	registry_status(r, &st);
	assert_int_equal(st.double_releases, 1);
	SNAP(s);
	assert_string_equal(registry_snapshot_pool(s, VIEW("a"))->marks[MARK_DRAINING].by, "ann");
	assert_true(registry_snapshot_pool(s, VIEW("a"))->held && get(s, "a-0")->ready &&
		    !get(s, "a-0")->accepting);
	assert_true(registry_pool_mark(r, VIEW("a"), MARK_DRAINING, false, NULL, 0));
	assert_int_equal(registry_drain_replica(r, VIEW("a-0"), true), 0);
	assert_int_equal(registry_lease_acquire(r, VIEW("a-0")), -ESHUTDOWN);
	struct registry_leases l[] = { { "a-0", 3, 1 }, { "none", 1, 1 }, { "a-0", 4, 77 } };
	registry_report_leases(r, l, 3);
	SNAP(t);
	assert_int_equal(get(t, "a-0")->facts.leases, 2);
	assert_int_equal(get(t, "a-0")->facts.slots_free, 0);
	registry_free(r);
}

static void test_two_nodes_one_replica(void **state)
{
	struct registry *r = fresh();
	struct registry_heard h = { 0 };
	REGISTER(0, NODE("", REPLICA("a-0", ",\"state\":\"ready\"")));
	const char *other = "{\"node_id\":\"m\",\"complete\":true,\"replicas\":[" REPLICA(
		"a-0", ",\"state\":\"ready\"") "]}";
	assert_int_equal(say(r, true, 1, &h, other), 0);
	assert_string_equal(h.refused.items[0], "a-0");
	registry_heard_done(&h);
	registry_tick(r, at(30000)); /* n is Offline, m is not yet */
	assert_int_equal(say(r, false, 30000, NULL, other), 0);
	SNAP(s);
	assert_string_equal(get(s, "a-0")->node_id, "m");
	assert_int_equal(s->nreplicas, 1);
	registry_free(r);
}

/* Routes */

static int ask(struct registry *r, const char *method, const char *path, const char *query, const char *body,
	struct registry_reply *ret)
{
	return registry_handle(
		r, view_str(method), view_str(path), view_str(query), view_str(body), at(0), ret);
}

static void expect(struct registry *r, const char *method, const char *path, const char *query,
	const char *body, int status, const char *words)
{
	struct registry_reply rep;
	ask(r, method, path, query, body, &rep);
	if (rep.status != status || !strstr(buf_str(&rep.body), words))
		fail_msg("%s %s?%s: %d %s", method, path, query, rep.status, buf_str(&rep.body));
	registry_reply_done(&rep);
}

static void test_routes(void **state)
{
	struct registry *r = fresh();
	expect(r, "POST", "/v1/registry/nodes", "",
		"{\"node_id\":\"n 1\",\"models\":[{\"pool_id\":\"z\",\"ctx\":9}]}", 200,
		"\"heartbeat_ms\":10000");
	expect(r, "POST", "/v1/registry/nodes/n%201/heartbeat", "",
		"{\"node_id\":\"n 1\",\"replicas\":[" REPLICA("a-0", "") "]}", 200, "\"dropped\":false");
	expect(r, "POST", "/v1/registry/nodes/n/heartbeat", "", "{\"node_id\":\"n 1\"}", 400,
		"the path of n");
	expect(r, "POST", "/v1/registry/nodes/x/heartbeat", "", "{\"node_id\":\"x\"}", 404, "register again");
	expect(r, "GET", "/v1/registry/snapshot", "", "", 200,
		"\"pool_id\":\"z\",\"held\":false,\"model\":{\"pool_id\":\"z\"");
	struct registry_reply rep;
	ask(r, "GET", "/v1/registry/snapshot", "", "", &rep);
	AUTO(mem_freep) char *query = mem_fmt("x=1&revision=%.*s", (int)strlen(rep.etag) - 2, rep.etag + 1);
	registry_reply_done(&rep);
	ask(r, "GET", "/v1/registry/watch", query, "", &rep);
	assert_true(rep.wait && rep.status == 204);
	registry_reply_done(&rep);
	expect(r, "POST", "/v1/registry/nodes/n%201/heartbeat", "", "{\"node_id\":\"n 1\",\"complete\":true}",
		200, "revision");
	expect(r, "GET", "/v1/registry/watch", query, "", 200,
		"\"complete\":false,\"removed\":[{\"replica_id\":\"a-0\"},"
		"{\"pool_id\":\"a\"}],\"nodes\":[],\"pools\":[]");
	expect(r, "GET", "/v1/registry/watch", "revision=999", "", 200, "\"complete\":true");
	expect(r, "GET", "/v1/registry/watch", "revision=-1", "", 400, "whole number");
	expect(r, "DELETE", "/v1/registry/nodes/n%201", "", "", 204, "");
	expect(r, "DELETE", "/v1/registry/nodes/n%201", "", "", 204, "");
	expect(r, "PATCH", "/v1/registry/nodes", "", "", 405, "not accepted");
	expect(r, "GET", "/v1/registry/nodes/%zz", "", "", 400, "escaped");
	expect(r, "GET", "/v1/registry/nodes/%0", "", "", 400, "escaped");
	expect(r, "GET", "/v1/registry/nodes/%00", "", "", 400, "escaped");
	expect(r, "GET", "/v1/registry/nodes/", "", "", 400, "escaped");
	expect(r, "GET", "/v1/registry/nodes/a/b", "", "", 404, "no such route");
	expect(r, "GET", "/v1/registry", "", "", 404, "no such route");
	expect(r, "POST", "/v1/registry/nodes", "", "{\"node_id\":3}", 400, "accepted is a string");
	expect(r, "POST", "/v1/registry/nodes", "", "[", 400, "not JSON");
	registry_free(r);
}

/* The store */

static char dir[64];
static char *db_path(void)
{
	return path_join(dir, "registry.db");
}

static int make_dir(void **state)
{
	snprintf(dir, sizeof dir, "registry-test-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
	static const char *const names[] = { "registry.db", "registry.db-wal", "registry.db-shm",
		"registry.db.corrupt-1", "registry.db.corrupt-1-wal", "registry.db.corrupt-1-shm" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		AUTO(mem_freep) char *p = path_join(dir, names[i]);
		unlink(p);
	}
	return rmdir(dir);
}

static void fill(struct registry *r)
{
	REGISTER(0, NODE("", REPLICA("a-0", ",\"state\":\"backoff\",\"last_error\":{\"message\":\"boom\","
					    "\"cause\":\"exit\"}")));
	registry_pool_mark(r, VIEW("a"), MARK_DISABLED, true, "ann", 77);
	assert_int_equal(registry_flush(r, deadline_ms()), 0);
}

static void test_persists(void **state)
{
	AUTO(mem_freep) char *path = db_path();
	struct registry_opts o = { .db_path = path };
	struct registry *r = registry_new(&o);
	fill(r);
	SNAP(before);
	registry_free(r);
	r = registry_new(&o);
	SNAP(s);
	assert_true(s->revision > before->revision);
	assert_int_equal(s->nnodes, 1);
	assert_false(s->nodes[0]->online || s->nodes[0]->registered);
	assert_int_equal(s->nreplicas, 0);
	const struct registry_pool *p = registry_snapshot_pool(s, VIEW("a"));
	assert_string_equal(p->marks[MARK_DISABLED].by, "ann");
	assert_int_equal(p->marks[MARK_DISABLED].at_ms, 77);
	assert_int_equal(say(r, false, 0, NULL, NODE("", "")), -ENOENT);
	REGISTER(1, NODE("", REPLICA("a-0", ",\"state\":\"proving\"")));
	SNAP(t);
	assert_string_equal(get(t, "a-0")->facts.last_error.message, "boom");
	HEARTBEAT(2, NODE("", REPLICA("a-0", ",\"state\":\"ready\"")));
	registry_pool_mark(r, VIEW("a"), MARK_DISABLED, false, NULL, 0);
	registry_deregister(r, VIEW("n"));
	registry_free(r);
	r = registry_new(&o);
	SNAP(u);
	assert_int_equal(u->nnodes + u->npools, 0);
	REGISTER(1, NODE("", REPLICA("a-0", ",\"state\":\"proving\"")));
	SNAP(v);
	assert_null(get(v, "a-0")->facts.last_error.message);
	registry_free(r);
}

static void test_override_persists(void **state)
{
	AUTO(mem_freep) char *path = db_path();
	struct registry_opts o = { .db_path = path };
	struct registry *r = registry_new(&o);
	const struct registry_override mine = { "/m/\"b\".gguf", "a.gguf", "ann", 5 };
	assert_true(registry_pool_override(r, VIEW("a"), &mine));
	assert_false(registry_pool_override(r, VIEW("a"), &mine));
	registry_free(r);
	r = registry_new(&o);
	SNAP(s);
	const struct registry_pool *p = registry_snapshot_pool(s, VIEW("a"));
	assert_string_equal(p->override.model, mine.model);
	assert_string_equal(p->override.configured, "a.gguf");
	assert_string_equal(p->override.by, "ann");
	assert_int_equal(p->override.at_ms, 5);
	assert_false(p->held); /* it keeps nobody out */
	assert_true(registry_pool_override(r, VIEW("a"), NULL));
	assert_false(registry_pool_override(r, VIEW("a"), NULL));
	assert_string_equal(p->override.model, mine.model); /* of that snapshot */
	registry_free(r);
	r = registry_new(&o);
	SNAP(t);
	assert_int_equal(t->npools, 0);
	registry_free(r);
}

struct written {
	atomic_int n, r;
};

static void on_written(void *arg, int r)
{
	struct written *w = arg;
	atomic_store(&w->r, r);
	atomic_fetch_add(&w->n, 1);
}

static void test_when_written(void **state)
{
	AUTO(mem_freep) char *path = db_path();
	struct registry_opts o = { .db_path = path };
	struct written first = { 0 }, second = { 0 }, failed = { 0 };
	struct registry *r = registry_new(&o);
	registry_pool_mark(r, VIEW("a"), MARK_DISABLED, true, "ann", 77);
	registry_when_written(r, on_written, &first);
	assert_int_equal(registry_flush(r, deadline_ms()), 0);
	registry_when_written(r, on_written, &second); /* nothing waits: at once */
	assert_int_equal(atomic_load(&second.n), 1);
	assert_int_equal(atomic_load(&second.r), 0);
	struct rlimit old, tiny;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tiny = old;
	tiny.rlim_cur = 16;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tiny), 0);
	registry_pool_mark(r, VIEW("b"), MARK_DISABLED, true, "ann", 77);
	registry_when_written(r, on_written, &failed);
	assert_int_equal(registry_flush(r, deadline_ms()), -EIO);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	registry_free(r);
	assert_int_equal(atomic_load(&first.n), 1);
	assert_int_equal(atomic_load(&first.r), 0);
	assert_int_equal(atomic_load(&failed.n), 1);
	assert_int_equal(atomic_load(&failed.r), -EIO);
	r = registry_new(&(struct registry_opts){ 0 });
	registry_when_written(r, on_written, &second); /* no store at all */
	assert_int_equal(atomic_load(&second.r), -EIO);
	registry_free(r);
}

static void test_corrupt_file_is_moved(void **state)
{
	AUTO(mem_freep) char *path = db_path(), *aside = mem_fmt("%s.corrupt-1", path);
	struct registry_opts o = { .db_path = path };
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	for (int i = 0; i < 5000; i++)
		buf_adds(&b, "not a database ");
	assert_int_equal(file_write_atomic(path, buf_view(&b), 0600, false), 0);
	struct registry *r = registry_new(&o);
	struct registry_status st;
	registry_status(r, &st);
	assert_false(st.memory_only);
	assert_true(file_exists(aside));
	fill(r);
	registry_free(r);
	r = registry_new(&o);
	SNAP(s);
	assert_int_equal(s->nnodes, 1);
	registry_free(r);
}

static void test_full_disk_and_back(void **state)
{
	AUTO(mem_freep) char *path = db_path();
	struct registry_opts o = { .db_path = path };
	struct registry *r = registry_new(&o);
	struct registry_status st;
	struct rlimit old, tiny;
	fill(r);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tiny = old;
	tiny.rlim_cur = 16;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tiny), 0);
	registry_pool_mark(r, VIEW("b"), MARK_STOPPED, true, "ann", 1);
	int rc = registry_flush(r, deadline_ms());
	registry_status(r, &st);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(rc, -EIO);
	assert_true(st.memory_only && st.waiting == 1 && strstr(st.problem, "cannot be written"));
	SNAP(s);
	assert_true(registry_snapshot_pool(s, VIEW("b"))->held); /* works on in memory */
	assert_int_equal(registry_flush(r, deadline_ms()), 0);
	registry_status(r, &st);
	assert_true(!st.memory_only && !st.problem[0]);
	registry_free(r);
	r = registry_new(&o);
	SNAP(t);
	assert_true(registry_snapshot_pool(t, VIEW("b"))->held);
	registry_free(r);
}

static void test_no_folder(void **state)
{
	struct registry *r =
		registry_new(&(struct registry_opts){ .db_path = "registry-test-missing/x/registry.db" });
	struct registry_status st;
	registry_status(r, &st);
	assert_true(st.memory_only && st.persistent && st.problem[0]);
	REGISTER(0, NODE("", REPLICA("a-0", "")));
	assert_int_equal(registry_flush(r, deadline_ms()), -EIO);
	registry_free(r);
}

/* Two threads read while one changes. */

struct reader {
	struct registry *r;
	atomic_bool *stop;
	uint64_t rounds;
};

static void *read_main(void *arg)
{
	struct reader *x = arg;
	uint64_t last = 0;
	while (!atomic_load(x->stop) || !x->rounds) {
		const struct registry_snapshot *s = registry_snapshot_ref(x->r);
		if (s->revision < last)
			abort();
		last = s->revision;
		for (size_t i = 0; i < s->nreplicas; i++)
			if (s->replicas[i]->facts.leases > s->replicas[i]->facts.slots_total ||
				!s->replicas[i]->node_id[0])
				abort();
		registry_snapshot_unref(s);
		x->rounds++;
	}
	return NULL;
}

static void count_changes(void *arg, const struct registry_snapshot *s)
{
	uint64_t *last = arg;
	assert_true(s->revision > *last);
	*last = s->revision;
}

#define CARD(used)                                                                                           \
	",\"devices\":[{\"device_id\":\"GPU-a\",\"state\":\"ok\",\"memory_total_bytes\":100,"                \
	"\"memory_used_bytes\":" used "},{\"device_id\":\"cpu\"}]"

static void test_devices_stay_until_told_anew(void **state)
{
	struct registry *r = fresh();
	REGISTER(0, NODE(",\"seq\":1" CARD("10"), ""));
	SNAP(one);
	assert_int_equal(one->nodes[0]->ndevices, 2);
	assert_int_equal(one->nodes[0]->devices[0].memory_used_bytes, 10);
	HEARTBEAT(1, NODE(",\"seq\":2", "")); /* says nothing of them */
	SNAP(two);
	assert_int_equal(two->revision, one->revision);
	HEARTBEAT(2, NODE(",\"seq\":3" CARD("10"), "")); /* the same again is no change */
	SNAP(three);
	assert_int_equal(three->revision, one->revision);
	HEARTBEAT(3, NODE(",\"seq\":4" CARD("60"), ""));
	SNAP(four);
	assert_true(four->revision > one->revision);
	assert_int_equal(four->nodes[0]->devices[0].memory_used_bytes, 60);
	assert_int_equal(one->nodes[0]->devices[0].memory_used_bytes, 10); /* a snapshot never changes */
	registry_free(r);
}

static void test_readers_under_change(void **state)
{
	struct registry *r = fresh();
	atomic_bool stop = false;
	pthread_t t[2];
	struct reader x[2] = { { r, &stop, 0 }, { r, &stop, 0 } };
	uint64_t last = 0;
	registry_watch(r, count_changes, &last);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, read_main, &x[i]), 0);
	for (int64_t i = 0; i < 500; i++) {
		REGISTER(i, NODE("", REPLICA("a-0", ",\"state\":\"ready\",\"slots_total\":3") "," REPLICA(
					     "a-1", "")));
		for (int k = 0; k < 5; k++) {
			(void)!registry_lease_acquire(r, VIEW("a-0"));
			if (k & 1)
				registry_lease_release(r, VIEW("a-0"));
		}
		registry_deregister(r, VIEW("n"));
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	SNAP(s);
	assert_int_equal(s->revision, last);
	registry_unwatch(r, count_changes, &last);
	registry_free(r);
}

int main(void)
{
	log_set_level((enum log_level)(LOG_ERROR + 1));
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_register_is_idempotent),
		cmocka_unit_test(test_unknown_node_is_told_to_register),
		cmocka_unit_test(test_new_process_replaces),
		cmocka_unit_test(test_older_is_dropped),
		cmocka_unit_test(test_ready_never_before_a_probe),
		cmocka_unit_test(test_partial_and_complete),
		cmocka_unit_test(test_last_error_until_success),
		cmocka_unit_test(test_offline_and_back),
		cmocka_unit_test(test_leases_and_draining),
		cmocka_unit_test(test_two_nodes_one_replica),
		cmocka_unit_test(test_routes),
		cmocka_unit_test_setup_teardown(test_persists, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_override_persists, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_when_written, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_corrupt_file_is_moved, make_dir, remove_dir),
		cmocka_unit_test_setup_teardown(test_full_disk_and_back, make_dir, remove_dir),
		cmocka_unit_test(test_devices_stay_until_told_anew),
		cmocka_unit_test(test_no_folder),
		cmocka_unit_test(test_readers_under_change),
	};
	return cmocka_run_group_tests_name("registry", tests, NULL, NULL);
}
