/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of POST /v1/keys. A member that is not known is refused: a misspelt limit must not be no limit.
 */
#include <stdio.h>
#include <yyjson.h>

#include "api/api.h"
#include "base/mem.h"

static const char accepted[] =
	"name, scope, models, expires_at, limits {requests_per_minute, tokens_per_minute, concurrent}";

static int read_models(yyjson_val *v, struct auth_key *k, struct err *e)
{
	size_t i, n;
	yyjson_val *m;
	if (!yyjson_is_arr(v) || yyjson_arr_size(v) > AUTH_MODELS_MAX)
		return err_set(
			e, -EINVAL, "\"models\" is a list of at most %d ids or aliases.", AUTH_MODELS_MAX);
	yyjson_arr_foreach(v, i, n, m)
	{
		struct view name = view_of(yyjson_get_str(m), yyjson_get_len(m));
		if (!yyjson_is_str(m) || !auth_model_ok(name))
			return err_set(e, -EINVAL, "\"models\" holds something that is no id or alias.");
		strv_addv(&k->models, name);
	}
	return 0;
}

static int read_limits(yyjson_val *v, struct auth_limits *l, struct err *e)
{
	static const char *const names[] = { "requests_per_minute", "requests", "tokens_per_minute", "tokens",
		"concurrent", "concurrent" };
	size_t i, n;
	yyjson_val *key, *value;
	if (!yyjson_is_obj(v))
		return err_set(e, -EINVAL, "\"limits\" is an object; accepted: %s.", accepted);
	yyjson_obj_foreach(v, i, n, key, value)
	{
		const char *word = NULL;
		for (size_t k = 0; k < ARRAY_LEN(names); k += 2)
			if (yyjson_equals_str(key, names[k]))
				word = names[k + 1];
		if (yyjson_is_null(value) && word)
			continue;
		char text[64];
		int len = snprintf(text, sizeof text, "%s=%llu", word ? word : "",
			(unsigned long long)(yyjson_is_uint(value) ? yyjson_get_uint(value) : 0));
		if (!word || auth_limit_parse(view_of(text, (size_t)len), l, NULL))
			return err_set(e, -EINVAL,
				"limits.%.60s is no limit of ours, or no whole number above 0; accepted: %s.",
				yyjson_get_str(key), accepted);
	}
	return 0;
}

static int read_member(yyjson_val *key, yyjson_val *v, int64_t wall, struct auth_key *k, struct err *e)
{
	struct view text = view_of(yyjson_get_str(v), yyjson_get_len(v));
	if (yyjson_equals_str(key, "name")) {
		if (!auth_name_ok(text))
			return err_set(e, -EINVAL,
				"\"name\" is 1 to %d letters, digits, '.', '_', '-' and '@'.", AUTH_NAME_MAX);
		snprintf(k->name, sizeof k->name, "%.*s", VIEW_ARG(text));
		return 0;
	}
	if (yyjson_is_null(v))
		return 0;
	if (yyjson_equals_str(key, "scope"))
		return auth_scope_parse(text, &k->scope)
			       ? 0
			       : err_set(e, -EINVAL, "\"scope\" is inference, control or admin.");
	if (yyjson_equals_str(key, "models"))
		return read_models(v, k, e);
	if (yyjson_equals_str(key, "limits"))
		return read_limits(v, &k->limits, e);
	if (!yyjson_equals_str(key, "expires_at"))
		return err_set(e, -EINVAL, "There is no member \"%.60s\"; accepted: %s.", yyjson_get_str(key),
			accepted);
	if (wall_parse(text, &k->expires_ms) || k->expires_ms <= wall)
		return err_set(e, -EINVAL,
			"\"expires_at\" is a day or time to come, as in \"2027-01-31T12:00:00Z\".");
	return 0;
}

int api_key_parse(struct view body, int64_t wall, struct auth_key **ret, struct err *e)
{
	AUTO(auth_key_unrefp) struct auth_key *k = auth_key_new();
	yyjson_doc *d = yyjson_read(body.n ? body.p : "", body.n, 0);
	yyjson_val *root = yyjson_doc_get_root(d), *key, *v;
	size_t i, n;
	int r = yyjson_is_obj(root) ? 0 : err_set(e, -EINVAL, "The body is a JSON object with %s.", accepted);
	if (!r)
		yyjson_obj_foreach(root, i, n, key, v)
		{
			r = read_member(key, v, wall, k, e);
			if (r)
				break;
		}
	if (!r && !k->name[0])
		r = err_set(e, -EINVAL, "A key needs a \"name\".");
	yyjson_doc_free(d);
	k->created_ms = wall;
	if (!r)
		*ret = MEM_TAKE(k);
	return r;
}
