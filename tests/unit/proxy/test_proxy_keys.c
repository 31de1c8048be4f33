/* SPDX-License-Identifier: Apache-2.0
 *
 * A request with a key: its place is given back and its tokens are charged, however it ends.
 */
#include "world.h"

#define USAGE_BODY "{\"usage\":{\"prompt_tokens\":30,\"completion_tokens\":12,\"total_tokens\":42}}"
#define WITH_USAGE                                                                                           \
	"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 71\r\n\r\n" USAGE_BODY
static_assert(sizeof USAGE_BODY - 1 == 71, "the length that is told");

static struct world *limited_world(void)
{
	struct world *w = world_new(&(struct world_opts){ 0 });
	w->key = auth_key_new();
	snprintf(w->key->name, sizeof w->key->name, "ci");
	auth_key_set_secret(w->key, VIEW("sk-corral-0"));
	w->key->limits = (struct auth_limits){ .tokens = 6000, .concurrent = 2 };
	return w;
}

/* As the gate does before it passes a request on. */
static void let_in(struct world *w)
{
	int64_t after;
	assert_int_equal(auth_key_begin(w->key, mono_now(), &after), AUTH_LIMIT_NONE);
}

/* Nothing runs, nobody else has a reference; tokens: how many were charged. */
static void settled(struct world *w, int64_t tokens)
{
	assert_int_equal(atomic_load(&w->key->running), 0);
	assert_int_equal(atomic_load(&w->key->refs), 1);
	int64_t full = atomic_load(&w->key->tokens_full);
	int64_t owed_ms = full ? (full - mono_now().ns) / 1000000 : 0;
	assert_true(owed_ms <= tokens * 10 && (!tokens || owed_ms > tokens * 10 - 9000));
	assert_int_equal(full != 0, tokens != 0);
	auth_key_unref(w->key);
	w->key = NULL;
	world_free(w);
}

static void an_answer_is_charged_and_tells_what_is_left(void **state)
{
	(void)state;
	struct world *w = limited_world();
	world_script(w, (struct step[]){ { .reply = WITH_USAGE } }, 1);
	let_in(w);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 200);
	assert_true(has_header(&w->clients[0], "x-ratelimit-limit-tokens: 6000\n"));
	assert_true(has_header(&w->clients[0], "x-ratelimit-remaining-tokens: 6000\n"));
	assert_false(has_header(&w->clients[0], "x-ratelimit-limit-requests"));
	settled(w, 42);
}

static void an_error_of_ours_costs_nothing(void **state)
{
	(void)state;
	struct world *w = limited_world();
	let_in(w);
	ask(w, 0, "POST", CHAT, NULL, VIEW("{\"model\":\"nobody\"}"));
	wait_for(w, answered(w, 0));
	assert_int_equal(w->clients[0].status, 404);
	assert_true(has_header(&w->clients[0], "x-ratelimit-remaining-tokens: 6000\n"));
	settled(w, 0);
}

static void a_client_that_leaves_gives_its_place_back(void **state)
{
	(void)state;
	struct world *w = limited_world();
	world_script(w, (struct step[]){ { .reply = NULL } }, 1);
	let_in(w);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 1);
	let_in(w);
	ask(w, 1, "POST", CHAT, NULL, CHAT_BODY); /* waits for the slot */
	wait_for(w, w->demands == 1);
	assert_int_equal(atomic_load(&w->key->running), 2);
	leave(w, 1);
	w->key->limits.concurrent = 3;
	let_in(w);
	ask(w, 2, "POST", CHAT, NULL, VIEW("{\"model\":\"nobody\"}")); /* who left was noticed before it is */
	wait_for(w, answered(w, 2));
	assert_int_equal(atomic_load(&w->key->running), 1);
	leave(w, 0);
	wait_for(w, world_stats(w).cooling == 1);
	pool_cooled(world_replica(w), 1);
	settled(w, 0);
}

static void a_request_lives_on_without_its_key(void **state)
{
	(void)state;
	struct world *w = limited_world();
	world_script(w, (struct step[]){ { .reply = NULL }, { .reply = WITH_USAGE } }, 2);
	let_in(w);
	ask(w, 0, "POST", CHAT, NULL, CHAT_BODY);
	wait_for(w, w->requests == 1);
	auth_key_unref(w->key); /* revoked: the request has the last reference */
	w->key = NULL;
	leave(w, 0);
	wait_for(w, world_stats(w).cooling == 1);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_answer_is_charged_and_tells_what_is_left),
		cmocka_unit_test(an_error_of_ours_costs_nothing),
		cmocka_unit_test(a_client_that_leaves_gives_its_place_back),
		cmocka_unit_test(a_request_lives_on_without_its_key),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
