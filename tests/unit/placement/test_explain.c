/* SPDX-License-Identifier: Apache-2.0 */
#include "fit_scene.h"

#include "placement/explain.h"

static struct buf out;

static const char *say(int (*what)(const struct explain *e, struct buf *b), const char *would_fit)
{
	struct fit_facts f;
	scene_facts(&f);
	s.want.pool_id = "chat";
	PLAN();
	const struct explain e = { &f, &s.want, &s.plan, s.reasons, would_fit };
	buf_done(&out);
	out = BUF(64 * KIB);
	assert_int_equal(what(&e, &out), 0);
	return buf_str(&out);
}

CASE(says_where_it_goes)
{
	GPU(24), HOST(64);
	WANT(10);
	NEEDS(host, 2);
	assert_string_equal(say(explain_sentence, NULL),
		"chat goes on one device: 10.0 GiB on 0, 2.0 GiB of host memory");
}

CASE(says_what_is_missing)
{
	GPU(24, FOREIGN(8));
	RUNS("other-0", 0, 12, PINNED);
	WANT(10);
	assert_string_equal(say(explain_sentence, "a context of 8192"),
		"chat needs 10.0 GiB on one device: 0 has 4.0 GiB free (of 24.0 GiB; ours hold 12.0 GiB, "
		"strangers 8.0 GiB); 6.0 GiB are missing even if all that may leave did; a context of 8192 "
		"would fit");
}

CASE(says_that_it_would_do_later)
{
	GPU(24);
	RUNS("other-0", 0, 20, BUSY);
	WANT(10);
	assert_string_equal(say(explain_sentence, NULL),
		"chat needs 10.0 GiB on one device: 0 has 4.0 GiB free (of 24.0 GiB; ours hold 20.0 GiB); "
		"6.0 GiB are "
		"missing "
		"even if all that may leave did; it would do once those that are busy or idle now have left");
}

CASE(says_what_is_missing_over_several)
{
	GPU(24), GPU(12);
	MODEL(40, 1);
	assert_string_equal(say(explain_sentence, NULL), "chat needs 40.0 GiB over 2 devices: 0 has 24.0 GiB "
							 "free (of 24.0 GiB), the most of them; 4.0 GiB "
							 "are missing "
							 "together");
}

CASE(says_that_the_host_is_short)
{
	GPU(24), HOST(4);
	WANT(10);
	NEEDS(host, 5);
	assert_string_equal(say(explain_sentence, NULL),
		"chat needs more host memory: the host has 4.0 GiB free (of 4.0 GiB); 1.0 GiB are missing");
}

CASE(says_that_there_is_no_device)
{
	WANT(10);
	assert_string_equal(say(explain_sentence, NULL), "chat finds no device that it may use");
}

CASE(says_what_is_offloaded)
{
	GPU(24), HOST(64);
	MIXTURE(30, 0.5, 1.5, OFFLOAD);
	assert_string_equal(say(explain_sentence, NULL), "chat goes with experts in host memory: 24.0 GiB on "
							 "0, 36.0 GiB of host memory; 31 of 31 layers "
							 "on devices, "
							 "experts of the first 24 in host memory");
}

CASE(names_the_nodes_where_there_are_several)
{
	ON("a", 8), ON("b", 24);
	WANT(10);
	assert_string_equal(say(explain_sentence, NULL), "chat goes on one device: 10.0 GiB on b/0");
}

CASE(tells_of_every_device_and_who_leaves)
{
	GPU(24), GPU(8), HOST(64);
	RUNS("old-0", 0, 12, LOSS(2.5)), RUNS("older-0", 0, 8, EXPIRED);
	WANT(20);
	assert_string_equal(say(explain_text, NULL),
		"chat goes on one device: 20.0 GiB on 0; these leave for it: older-0, old-0.\n"
		"  0: needs 20.0 GiB, free 4.0 GiB, ours 20.0 GiB, foreign 0 B: taken\n"
		"  1: needs 20.0 GiB, free 8.0 GiB, ours 0 B, foreign 0 B: it is too small, even empty\n"
		"  the host: needs 0 B, free 64.0 GiB, ours 0 B, foreign 0 B: it is of another kind\n"
		"  older-0 would leave (8.0 GiB): it is idle and its keep_alive is over\n"
		"  old-0 would leave (12.0 GiB): it is idle, and its leaving costs the least of what makes "
		"room (2.5 s "
		"expected)\n");
}

CASE(tells_of_so_many_devices)
{
	for (int i = 0; i < 60; i++)
		GPU(24);
	WANT(10);
	const char *text = say(explain_text, NULL);
	assert_null(strstr(text, "more"));
	assert_non_null(strstr(text, "  59: "));
}

CASE(has_it_as_data)
{
	GPU(24), HOST(64);
	RUNS("old-0", 0, 20, LOSS(2.5));
	WANT(10);
	assert_string_equal(say(explain_json, NULL), "{\"pool\":\"chat\",\"how\":\"one\",\"text\":\"chat "
						     "goes on one device: 10.0 GiB on 0; it leaves for it: "
						     "old-0\",\"needed_bytes\":10737418240,\"host_bytes\":0,"
						     "\"gpu_layers\":0,\"cpu_experts\":0,\"devices\":[{"
						     "\"node\":\"home\",\"device\":\"0\",\"index\":0,"
						     "\"capacity_bytes\":25769803776,\"needed_bytes\":"
						     "10737418240,\"free_bytes\":4294967296,\"reserved_"
						     "bytes\":21474836480,\"foreign_bytes\":0,"
						     "\"taken\":true,\"why\":\"taken\"},{\"node\":\"home\","
						     "\"device\":\"host\",\"index\":1,\"capacity_bytes\":"
						     "68719476736,\"needed_bytes\":0,\"free_bytes\":"
						     "68719476736,\"reserved_bytes\":0,\"foreign_bytes\":0,"
						     "\"taken\":false,\"why\":\"it is of another "
						     "kind\"}],\"evict\":[{\"replica\":\"old-0\",\"pool\":"
						     "\"old-0\",\"bytes\":21474836480,\"expired\":false,"
						     "\"loss_seconds\":2.500,\"why\":\"it is idle, and its "
						     "leaving costs the least of what makes room\"}]}");
}

CASE(has_what_is_missing_as_data)
{
	GPU(8);
	WANT(10);
	const char *text = say(explain_json, "q8_0 for the KV cache");
	assert_non_null(strstr(text, "\"how\":\"no\""));
	assert_non_null(
		strstr(text, "\"missing_bytes\":2147483648,\"later\":false,\"closest\":{\"node\":\"home\","
			     "\"device\":\"0\",\"together\":1},\"would_fit\":\"q8_0 for the KV cache\""));
}

CASE(says_when_the_buffer_is_full)
{
	struct fit_facts f;
	GPU(24);
	WANT(10);
	scene_facts(&f);
	PLAN();
	const struct explain e = { &f, &s.want, &s.plan, s.reasons, NULL };
	AUTO(buf_done) struct buf b = BUF(20);
	assert_int_equal(explain_text(&e, &b), -ENOBUFS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(says_where_it_goes),
		UNIT(says_what_is_missing),
		UNIT(says_that_it_would_do_later),
		UNIT(says_what_is_missing_over_several),
		UNIT(says_that_the_host_is_short),
		UNIT(says_that_there_is_no_device),
		UNIT(says_what_is_offloaded),
		UNIT(names_the_nodes_where_there_are_several),
		UNIT(tells_of_every_device_and_who_leaves),
		UNIT(tells_of_so_many_devices),
		UNIT(has_it_as_data),
		UNIT(has_what_is_missing_as_data),
		UNIT(says_when_the_buffer_is_full),
	};
	int failed = cmocka_run_group_tests_name("explain", tests, NULL, NULL);
	buf_done(&out);
	return failed;
}
