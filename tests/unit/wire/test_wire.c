/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdarg.h>
#include <cmocka.h>

#include "base/mem.h"
#include "base/rnd.h"
#include "wire/wire.h"

static char *random_text(struct rnd *rnd)
{
	static const char *const texts[] = { NULL, "", "unix:/run/x.sock", "a \"quoted\" \\ text\n\ttab",
		"caf\xc3\xa9 \xf0\x9f\x90\x8e", "GPU-1234", "\x01\x1f" };
	return mem_strdup(texts[rnd_below(rnd, ARRAY_LEN(texts))]);
}

static void random_replica(struct rnd *rnd, struct wire_replica *r, size_t n)
{
	*r = (struct wire_replica){
		.replica_id = mem_fmt("chat-%zu", n),
		.pool_id = mem_strdup("chat"),
		.have = (unsigned)rnd_below(rnd, WR_ALL + 1),
		.state = (enum replica_state)rnd_below(rnd, REPLICA_STATE_COUNT),
		.generation = rnd_u64(rnd),
		.address = random_text(rnd),
		.slots_total = (uint32_t)rnd_below(rnd, 100),
		.slots_free = (uint32_t)rnd_below(rnd, 100),
		.leases = (uint32_t)rnd_u64(rnd),
		.ctx = (uint32_t)rnd_u64(rnd),
		.engine = random_text(rnd),
		.engine_version = random_text(rnd),
		.engine_why = random_text(rnd),
		.spec = random_text(rnd),
		.model = random_text(rnd),
		.device_mask = random_text(rnd),
		.last_error = { .cause = (enum wire_cause)rnd_below(rnd, CAUSE_COUNT),
			.message = random_text(rnd),
			.hint = random_text(rnd),
			.at_ms = 1,
			.exit_code = -7,
			.signo = 11 },
		.phase = random_text(rnd),
		.progress_text = random_text(rnd),
		.progress_pct = (int)rnd_below(rnd, 102) - 1,
		.restarts = (uint32_t)rnd_u64(rnd),
		.retry_in_ms = (int64_t)rnd_below(rnd, 100) - 1,
		.pid = 17,
		.started_at_ms = 1700000000000,
		.load_ms = 12,
		.kv_restored_tokens = rnd_u64(rnd),
		.conn_idle_ms = 4000,
		.conn_requests = 100,
		.has_slots = rnd_below(rnd, 2),
	};
	if (rnd_below(rnd, 2)) {
		r->remote_models = mem_alloc(3 * sizeof(char *));
		r->remote_models[0] = mem_strdup("m-one");
		r->remote_models[1] = mem_strdup("m/two");
		r->key_file = mem_strdup("/run/x/chat-0.7.key");
	}
}

/* Encoding, decoding and encoding again gives the same bytes. */
static void test_replica_round_trip(void **state)
{
	struct rnd rnd;
	rnd_seed(&rnd, 42);
	for (int i = 0; i < 3000; i++) {
		struct wire_replica r, back = { 0 }, copy = { 0 };
		AUTO(buf_done) struct buf a = BUF(1 * MIB), b = BUF(1 * MIB), c = BUF(1 * MIB);
		struct err e = { 0 };
		random_replica(&rnd, &r, (size_t)i);
		assert_int_equal(wire_replica_encode(&r, &a), 0);
		if (wire_replica_decode(buf_view(&a), &back, &e))
			fail_msg("%s: %s", e.msg, buf_str(&a));
		assert_int_equal(back.have, r.have);
		assert_int_equal(wire_replica_encode(&back, &b), 0);
		assert_string_equal(buf_str(&a), buf_str(&b));
		wire_replica_copy(&copy, &back);
		wire_replica_copy(&copy, &back); /* frees what it had */
		assert_int_equal(wire_replica_encode(&copy, &c), 0);
		assert_string_equal(buf_str(&a), buf_str(&c));
		wire_replica_done(&r);
		wire_replica_done(&back);
		wire_replica_done(&copy);
	}
}

static void test_partial_keeps_the_rest(void **state)
{
	struct wire_replica to = { 0 }, from = { 0 };
	struct err e = { 0 };
	assert_int_equal(
		wire_replica_decode(VIEW("{\"replica_id\":\"a-0\",\"pool_id\":\"a\",\"state\":\"ready\","
					 "\"slots_total\":4,\"slots_free\":3,\"engine\":\"llamacpp\",\"last_"
					 "error\":{\"message\":\"m\",\"cause\":\"oom_vram\"}}"),
			&to, &e),
		0);
	assert_int_equal(to.have, WR_STATE | WR_SLOTS | WR_SLOTS_FREE | WR_ENGINE | WR_ERROR);
	assert_int_equal(
		wire_replica_decode(VIEW("{\"replica_id\":\"a-0\",\"pool_id\":\"a\",\"slots_free\":9,"
					 "\"future\":[1,{}]}"),
			&from, &e),
		0);
	assert_int_equal(from.have, WR_SLOTS_FREE);
	wire_replica_merge(&to, &from);
	assert_int_equal(to.slots_free, 4); /* clamped */
	assert_int_equal(to.state, REPLICA_READY);
	assert_string_equal(to.engine, "llamacpp");
	assert_int_equal(to.last_error.cause, CAUSE_OOM_VRAM);
	wire_replica_done(&from);
	assert_int_equal(
		wire_replica_decode(
			VIEW("{\"replica_id\":\"a-0\",\"pool_id\":\"a\",\"last_error\":null}"), &from, &e),
		0);
	assert_int_equal(from.have, WR_ERROR);
	wire_replica_merge(&to, &from);
	assert_null(to.last_error.message);
	wire_replica_done(&from);
	wire_replica_done(&to);
}

static void fill_device(struct wire_device *d)
{
	*d = (struct wire_device){ .device_id = mem_strdup("GPU-a"),
		.have = WD_UTILIZATION | WD_TEMPERATURE,
		.name = mem_strdup("A \"card\""),
		.state = mem_strdup("ok"),
		.memory_total_bytes = 24 * GIB,
		.memory_free_bytes = 20 * GIB,
		.temperature_c = -3,
		.nuses = 2 };
	d->uses = mem_alloc(2 * sizeof *d->uses);
	d->uses[0] = (struct wire_device_use){ 7, mem_strdup("chat-0"), GIB };
	d->uses[1] = (struct wire_device_use){ 8, NULL, 1 };
	d->have |= WD_POWER | WD_ECC;
	d->power_mw = 212000;
	d->ecc_uncorrected = 1;
	d->last_error = mem_strdup("Xid 79: gone");
	d->last_error_at_ms = 99;
	d->split = true;
	d->links = mem_alloc(sizeof *d->links);
	d->links[0] = (struct wire_device_link){ mem_strdup("GPU-b"), mem_strdup("switch"), 4 };
	d->nlinks = 1;
}

static void test_node_round_trip(void **state)
{
	struct rnd rnd;
	rnd_seed(&rnd, 7);
	struct wire_node n = { .node_id = mem_strdup("home"),
		.boot_id = mem_strdup("b"),
		.version = mem_strdup("0.1.0"),
		.address = mem_strdup("unix:/x"),
		.pid = 3,
		.complete = true,
		.seq = UINT64_MAX,
		.nmodels = 2,
		.nreplicas = 5 };
	n.models = mem_alloc(2 * sizeof *n.models);
	n.models[0] = (struct wire_model){ .pool_id = mem_strdup("chat"),
		.path = mem_strdup("/m.gguf"),
		.size_bytes = 5,
		.ctx = 4096,
		.vision = true,
		.rerank = true,
		.quant = mem_strdup("Q4_K_M"),
		.source = mem_strdup("Ollama"),
		.reference = mem_strdup("ollama:chat:latest") };
	n.models[0].larger = mem_alloc(3 * sizeof *n.models[0].larger);
	n.models[0].larger[0] = mem_strdup("ctx=9");
	n.models[0].larger[1] = mem_strdup("ctx=8");
	wire_model_copy(&n.models[1], &n.models[0]);
	mem_setstr(&n.models[1].pool_id, "embed");
	n.ndevices = 2;
	n.devices = mem_alloc(2 * sizeof *n.devices);
	fill_device(&n.devices[0]);
	wire_device_copy(&n.devices[1], &n.devices[0]);
	mem_setstr(&n.devices[1].device_id, "cpu");
	n.devices[1].have = 0;
	n.replicas = mem_alloc(5 * sizeof *n.replicas);
	for (size_t i = 0; i < 5; i++)
		random_replica(&rnd, &n.replicas[i], i);
	AUTO(buf_done) struct buf a = BUF(1 * MIB), b = BUF(1 * MIB);
	struct wire_node back = { 0 };
	struct err e = { 0 };
	assert_int_equal(wire_node_encode(&n, &a), 0);
	if (wire_node_decode(buf_view(&a), &back, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(wire_node_encode(&back, &b), 0);
	assert_string_equal(buf_str(&a), buf_str(&b));
	assert_true(back.complete && back.seq == UINT64_MAX && back.models[1].vision);
	assert_true(back.models[1].rerank && !back.models[1].embedding);
	assert_string_equal(back.models[1].source, "Ollama");
	assert_int_equal(back.devices[1].nlinks, 1);
	assert_string_equal(back.devices[1].links[0].path, "switch");
	assert_int_equal(back.devices[1].links[0].fabric, 4);
	assert_true(back.devices[0].split && back.devices[0].ecc_uncorrected == 1);
	assert_string_equal(back.devices[0].last_error, "Xid 79: gone");
	assert_int_equal(back.devices[0].have,
		WD_UTILIZATION | WD_TEMPERATURE | WD_POWER | WD_ECC); /* 0 is a figure too */
	assert_int_equal(back.devices[0].temperature_c, -3);
	assert_string_equal(back.devices[1].uses[0].replica_id, "chat-0");
	assert_null(back.devices[1].uses[1].replica_id);
	assert_int_equal(back.devices[1].have, 0);
	assert_string_equal(back.models[1].reference, "ollama:chat:latest");
	assert_string_equal(back.models[1].quant, "Q4_K_M");
	assert_string_equal(back.models[1].larger[1], "ctx=8");
	assert_null(back.models[1].larger[2]);
	/* A buffer that is too small is left as it was, at every size. */
	for (size_t max = 0; max < a.len; max += 7) {
		AUTO(buf_done) struct buf small = BUF(max);
		assert_int_equal(wire_node_encode(&n, &small), -ENOBUFS);
		assert_int_equal(small.len, 0);
	}
	wire_node_done(&back);
	wire_node_done(&n);
}

static void test_desired_round_trip(void **state)
{
	struct wire_desired d = { .fence = 3, .revision = 9 };
	for (int i = 0; i < 9; i++) {
		struct wire_want *w = wire_desired_add(&d);
		w->replica_id = mem_fmt("p-%d", i);
		w->pool_id = mem_strdup("p");
		w->keep_alive_ms = i - 1;
		w->pulled_in = i & 1;
		w->devices = i == 4 ? mem_strdup("0,1") : NULL;
	}
	AUTO(buf_done) struct buf a = BUF(1 * MIB), b = BUF(1 * MIB);
	struct wire_desired back = { 0 };
	struct err e = { 0 };
	assert_int_equal(wire_desired_encode(&d, &a), 0);
	if (wire_desired_decode(buf_view(&a), &back, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(back.nwants, 9);
	assert_int_equal(back.wants[0].keep_alive_ms, -1);
	assert_int_equal(wire_desired_encode(&back, &b), 0);
	assert_string_equal(buf_str(&a), buf_str(&b));
	wire_desired_done(&back);
	wire_desired_done(&d);
}

static void refused(int (*fn)(struct view), const char *json, const char *words);
static struct err last;
static int replica_json(struct view v)
{
	struct wire_replica r = { 0 };
	return wire_replica_decode(v, &r, &last);
}
static int node_json(struct view v)
{
	struct wire_node n = { 0 };
	return wire_node_decode(v, &n, &last);
}
static int desired_json(struct view v)
{
	struct wire_desired d = { 0 };
	return wire_desired_decode(v, &d, &last);
}
static void refused(int (*fn)(struct view), const char *json, const char *words)
{
	last = (struct err){ 0 };
	/* In memory of exactly its size, so that a read past its end is seen. */
	size_t n = strlen(json);
	char *copy = malloc(n ? n : 1);
	memcpy(copy, json, n);
	int r = fn(view_of(copy, n));
	free(copy);
	if (!r || last.code != r || !strstr(last.msg, words))
		fail_msg("%s: %d \"%s\" lacks \"%s\"", json, r, last.msg, words);
}

#define IDS "\"replica_id\":\"a-0\",\"pool_id\":\"a\""

static void test_hostile(void **state)
{
	refused(replica_json, "", "empty");
	refused(replica_json, "{", "not JSON");
	refused(replica_json, "{}{}", "not JSON");
	refused(replica_json, "[]", "accepted is an object");
	refused(replica_json, "null", "accepted is an object");
	refused(replica_json, "{\"replica_id\":\"a\"}", "lacks \"pool_id\"");
	refused(replica_json, "{\"replica_id\":7,\"pool_id\":\"a\"}", "accepted is a string");
	refused(replica_json, "{\"replica_id\":\"\",\"pool_id\":\"a\"}", "empty");
	refused(replica_json, "{\"replica_id\":\"a\\u0000b\",\"pool_id\":\"a\"}", "control character");
	refused(replica_json, "{\"replica_id\":\"a\\nb\",\"pool_id\":\"a\"}", "control character");
	refused(replica_json, "{" IDS ",\"address\":\"x\\u0000\"}", "control character");
	refused(replica_json, "{" IDS ",\"state\":\"Ready\"}", "accepted are absent");
	refused(replica_json, "{" IDS ",\"state\":null}", "name of a state");
	refused(replica_json, "{" IDS ",\"slots_total\":-1}", "from 0 to 65536");
	refused(replica_json, "{" IDS ",\"slots_total\":65537}", "from 0 to 65536");
	refused(replica_json, "{" IDS ",\"slots_total\":1.0}", "whole number");
	refused(replica_json, "{" IDS ",\"slots_total\":\"1\"}", "whole number");
	refused(replica_json, "{" IDS ",\"leases\":4294967296}", "from 0 to 4294967295");
	refused(replica_json, "{" IDS ",\"generation\":-1}", "from 0");
	refused(replica_json, "{" IDS ",\"load_ms\":18446744073709551615}", "above");
	refused(replica_json, "{" IDS ",\"progress_pct\":101}", "from -1 to 100");
	refused(replica_json, "{" IDS ",\"last_error\":\"x\"}", "the error is a string");
	refused(replica_json, "{" IDS ",\"last_error\":{}}", "lacks \"message\"");
	refused(replica_json, "{" IDS ",\"remote_models\":[1]}", "accepted is a string");
	refused(replica_json, "{" IDS ",\"remote_models\":{}}", "list of strings");
	refused(replica_json, "{" IDS ",\"has_slots\":1}", "true or false");
	refused(replica_json, "{" IDS ",\"ctx\":\xff}", "not JSON");
	refused(node_json, "{}", "lacks \"node_id\"");
	refused(node_json, "{\"node_id\":\"n\",\"replicas\":{}}", "accepted is a list");
	refused(node_json, "{\"node_id\":\"n\",\"replicas\":[{" IDS "},{" IDS "}]}", "second time");
	refused(node_json, "{\"node_id\":\"n\",\"replicas\":[{" IDS "},3]}", "replicas[1]");
	refused(node_json, "{\"node_id\":\"n\",\"models\":[{\"pool_id\":\"a\"},{\"pool_id\":\"a\"}]}",
		"second time");
	refused(desired_json, "{}", "lacks \"wants\"");
	refused(desired_json, "{\"wants\":[{" IDS "},{" IDS "}]}", "second time");
	refused(desired_json, "{\"fence\":-1,\"wants\":[]}", "from 0");
}

static void test_bounds(void **state)
{
	AUTO(buf_done) struct buf b = BUF(16 * MIB);
	buf_adds(&b, "{" IDS ",\"address\":\"");
	for (int i = 0; i <= WIRE_STRING_MAX; i++)
		buf_addc(&b, 'x');
	buf_adds(&b, "\"}");
	assert_int_equal(replica_json(buf_view(&b)), -EINVAL);
	assert_non_null(strstr(last.msg, "at most 65536"));
	buf_reset(&b);
	buf_adds(&b, "{\"node_id\":\"n\",\"replicas\":[0");
	for (int i = 0; i < WIRE_REPLICAS_MAX; i++)
		buf_adds(&b, ",0");
	buf_adds(&b, "]}");
	assert_int_equal(node_json(buf_view(&b)), -EINVAL);
	assert_non_null(strstr(last.msg, "at most 16384"));
	buf_reset(&b);
	for (int i = 0; i < 4000000; i++)
		buf_addc(&b, '[');
	assert_int_equal(node_json(buf_view(&b)), -EINVAL); /* deep nesting costs no stack */
	while (b.len <= WIRE_BODY_MAX)
		buf_adds(&b, "        ");
	assert_int_equal(node_json(buf_view(&b)), -EFBIG);
}

/* Every cut and many changed bytes of a good message: refused or taken, never a fault. */
static void test_mutations(void **state)
{
	static const char good[] =
		"{\"node_id\":\"n\",\"complete\":true,\"seq\":4,\"models\":[{\"pool_id\":\"a\",\"ctx\":8}],"
		"\"replicas\":[{" IDS
		",\"state\":\"proving\",\"generation\":2,\"last_error\":{\"message\":\"m\","
		"\"cause\":\"exit\"},\"remote_models\":[\"x\",\"y\"]}]}";
	struct rnd rnd;
	rnd_seed(&rnd, 1);
	for (size_t round = 0; round < 20000; round++) {
		size_t n = round < sizeof good ? round : sizeof good - 1;
		char *m = malloc(n + 1);
		memcpy(m, good, n);
		for (size_t i = 0; n && round >= sizeof good && i < 1 + rnd_below(&rnd, 3); i++)
			m[rnd_below(&rnd, n)] = "{}[]\",:019-aeE.\\u\x00\xff "[rnd_below(&rnd, 21)];
		struct wire_node node = { 0 };
		struct err e = { 0 };
		int r = wire_node_decode(view_of(m, n), &node, &e);
		assert_int_equal(!!r, !!e.msg[0]);
		wire_node_done(&node);
		free(m);
	}
}

static void test_names(void **state)
{
	for (int i = 0; i < REPLICA_STATE_COUNT; i++) {
		enum replica_state s;
		assert_int_equal(
			replica_state_parse(view_str(replica_state_name((enum replica_state)i)), &s), 0);
		assert_int_equal(s, i);
	}
	for (int i = 0; i < CAUSE_COUNT; i++) {
		enum wire_cause c;
		assert_int_equal(wire_cause_parse(view_str(wire_cause_name((enum wire_cause)i)), &c), 0);
		assert_int_equal(c, i);
	}
	enum replica_state s;
	assert_int_equal(replica_state_parse(VIEW("reader"), &s), -EINVAL);
	assert_string_equal(replica_state_name(REPLICA_STATE_COUNT), "unknown");
}

static void test_devices_are_bounded(void **state)
{
	static const struct {
		const char *json, *words;
	} bad[] = {
		{ "{}", "devices\" is a" },
		{ "[{}]", "devices[0]: the device lacks \"device_id\"" },
		{ "[{\"device_id\":\"a\"},{\"device_id\":\"a\"}]", "a second time" },
		{ "[{\"device_id\":\"a\",\"utilization_pct\":101}]", "utilization_pct" },
		{ "[{\"device_id\":\"a\",\"memory_total_bytes\":-1}]", "memory_total_bytes" },
		{ "[{\"device_id\":\"a\",\"links\":[{\"path\":\"switch\"}]}]", "links[0]" },
		{ "[{\"device_id\":\"a\",\"power_mw\":-1}]", "power_mw" },
		{ "[{\"device_id\":\"a\",\"uses\":[{\"pid\":-1}]}]", "uses[0]" },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		AUTO(mem_freep) char *json = mem_fmt("{\"node_id\":\"n\",\"devices\":%s}", bad[i].json);
		struct wire_node n = { 0 };
		struct err e = { 0 };
		assert_int_equal(wire_node_decode(view_str(json), &n, &e), -EINVAL);
		if (!strstr(e.msg, bad[i].words))
			fail_msg("\"%s\" is not in: %s", bad[i].words, e.msg);
	}
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	buf_adds(&b, "{\"node_id\":\"n\",\"devices\":[");
	for (int i = 0; i <= WIRE_DEVICES_MAX; i++)
		buf_addf(&b, "%s{\"device_id\":\"%d\"}", i ? "," : "", i);
	buf_adds(&b, "]}");
	struct wire_node n = { 0 };
	assert_int_equal(wire_node_decode(buf_view(&b), &n, NULL), -EINVAL);
	assert_int_equal(wire_node_decode(VIEW("{\"node_id\":\"n\",\"devices\":[{\"device_id\":\"a\","
					       "\"memory_total_bytes\":5,\"memory_free_bytes\":9}]}"),
				 &n, NULL),
		0);
	assert_int_equal(n.devices[0].memory_free_bytes, 5); /* clamped */
	wire_node_done(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replica_round_trip),
		cmocka_unit_test(test_partial_keeps_the_rest),
		cmocka_unit_test(test_node_round_trip),
		cmocka_unit_test(test_desired_round_trip),
		cmocka_unit_test(test_devices_are_bounded),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_bounds),
		cmocka_unit_test(test_mutations),
		cmocka_unit_test(test_names),
	};
	return cmocka_run_group_tests_name("wire", tests, NULL, NULL);
}
