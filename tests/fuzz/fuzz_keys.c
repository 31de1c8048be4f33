/* SPDX-License-Identifier: Apache-2.0
 *
 * libFuzzer: any bytes as a keys_file, as CORRAL_API_KEYS, and each line as an Authorization header, a
 * network, a limit and an expiry. What is taken has a name and a digest of its own, and can be shown.
 */
#include <stdlib.h>

#include "auth/auth.h"
#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look(const struct auth_list *l)
{
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	static const unsigned char ip[IP_LEN];
	struct auth_rules *r = auth_rules_new(&l, 1, NULL, NULL);
	for (size_t i = 0; i < l->n; i++) {
		buf_reset(&b);
		auth_key_json(l->items[i], 1, &b);
		if (!auth_name_ok(view_str(l->items[i]->name)) || l->items[i]->scope < AUTH_INFERENCE)
			abort();
	}
	struct auth_who who;
	struct auth_asks asks = { .ip = ip, .bearer = VIEW("sk-corral-nobody") };
	if (r->keys.n != l->n || auth_check(r, &asks, 1, &who) == AUTH_GRANTED)
		abort();
	auth_rules_unref(r);
}

static void line(struct view v)
{
	struct cidr c;
	struct err e;
	struct auth_limits limits = { 0 };
	int64_t ms = 0;
	AUTO(strv_done) struct strv models = { 0 };
	struct view token = auth_bearer(v);
	if (token.n > v.n)
		abort();
	if (cidr_parse(v, &c, &e) == 0 && !cidr_has(&c, c.ip))
		abort();
	if (auth_limit_parse(v, &limits, &e) == 0 && !auth_limited(&limits))
		abort();
	if (auth_expiry_parse(v, 1, &ms, &e) == 0 && ms <= 0)
		abort();
	(void)!auth_models_parse(v, &models, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO(auth_list_done) struct auth_list file = { 0 }, env = { 0 };
	struct view text = view_of(size ? (const char *)data : "", size);
	struct err e = { 0 };
	bool plain = false;
	if (auth_file_parse(text, "keys", &file, &plain, &e) == 0)
		look(&file);
	AUTO(mem_freep) char *string = mem_viewdup(text);
	if (auth_env_parse(string, &env, &e) == 0)
		look(&env);
	for (struct view rest = text; rest.p;)
		line(view_split(rest, '\n', &rest));
	return 0;
}
