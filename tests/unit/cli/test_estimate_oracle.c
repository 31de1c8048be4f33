/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "cli/cli_int.h"
#include "gguf/estimate.h"

static char folder[64], program[96], words[96];

/* A program that prints that text and writes down its arguments. */
static void speaks(const char *text)
{
	FILE *f = fopen(program, "w");
	assert_non_null(f);
	fprintf(f, "#!/bin/sh\necho \"$*\" >%s\ncat <<'END'\n%s\nEND\n", words, text);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(program, 0700), 0);
}

static struct estimate of_devices(size_t n)
{
	struct estimate e = { .n_devices = n, .ctx = 1024, .slots = 2, .host_mapped = 1 };
	e.host.recurrent = 3 * MIB;
	e.host.overhead = MIB;
	return e;
}

static bool ask(struct estimate *e)
{
	struct estimate_args a;
	estimate_args_init(&a);
	a.n_devices = (uint32_t)e->n_devices;
	a.slots = 2;
	bool r = estimate_oracle("m.gguf", &a, e);
	estimate_args_done(&a);
	return r;
}

static void test_the_host(void **state)
{
	(void)state;
	char said[512] = "";
	struct estimate e = of_devices(0);
	speaks("Host 100 20 7 ");
	assert_true(ask(&e));
	assert_int_equal(e.host.weights, 100 * MIB);
	assert_int_equal(e.host.kv, 17 * MIB);
	assert_int_equal(e.host.recurrent, 3 * MIB);
	assert_int_equal(e.host.compute, 7 * MIB);
	assert_int_equal(e.sum.total, 128 * MIB);
	assert_int_equal(e.host_mapped, 100 * MIB);
	FILE *f = fopen(words, "r");
	assert_non_null(f);
	assert_non_null(fgets(said, sizeof said, f));
	fclose(f);
	assert_non_null(strstr(said, "-m m.gguf -c 2048 -np 2 -ctk f16 -ctv f16"));
	assert_non_null(strstr(said, "--device none -fitp on --no-repack"));
}

static void test_devices(void **state)
{
	(void)state;
	struct estimate e = of_devices(2);
	speaks("CUDA0 10 2 1\nCUDA1 20 4 1\nHost 5 0 1");
	assert_true(ask(&e));
	assert_int_equal(e.device[1].weights, 20 * MIB);
	assert_int_equal(e.sum.weights, 35 * MIB);
}

static void test_what_is_no_answer(void **state)
{
	(void)state;
	static const char *const answers[] = { "", "Host", "Host 1 2", "Host a b c", "Host 1 2 3 4",
		"CUDA0 1 2 3\nHost 1 2 3", "Host 99999999999999999999 1 1", "CUDA0 1 2 3" };
	for (size_t i = 0; i < ARRAY_LEN(answers); i++) {
		struct estimate e = of_devices(0), before = e;
		speaks(answers[i]);
		assert_false(ask(&e));
		assert_memory_equal(&e, &before, sizeof e);
	}
	struct estimate e = of_devices(1);
	speaks("Host 1 2 3");
	assert_false(ask(&e));
	assert_int_equal(unlink(program), 0);
	assert_false(ask(&e));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_the_host), cmocka_unit_test(test_devices),
		cmocka_unit_test(test_what_is_no_answer) };
	(void)snprintf(folder, sizeof folder, "/tmp/oracle-XXXXXX");
	if (!mkdtemp(folder))
		return 1;
	(void)snprintf(program, sizeof program, "%s/fit", folder);
	(void)snprintf(words, sizeof words, "%s/words", folder);
	(void)setenv("CORRAL_LLAMA_FIT_PARAMS", program, 1);
	int r = cmocka_run_group_tests(tests, NULL, NULL);
	(void)unlink(program);
	(void)unlink(words);
	(void)rmdir(folder);
	return r;
}
