/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/plan and GET /v1/explain: where things would go, and why.
 */
#include <string.h>
#include <yyjson.h>

#include "api/api_int.h"

enum { PLAN_BODY_MAX = 8 * 1024 * 1024 };

static void reply(struct api_call *c, int r, const struct buf *b)
{
	if (r)
		api_failf(c, CODE_INTERNAL, 0, "Ask for one pool.", "The answer is too large.");
	else
		api_reply_json(c, 200, buf_view(b));
}

/* {"pools": [ids]}; absent: all of them. */
static int read_pools(struct api_call *c, yyjson_doc **ret)
{
	*ret = NULL;
	struct view body = buf_view(&c->body);
	if (!body.n)
		return 0;
	*ret = yyjson_read(body.p, body.n, 0);
	yyjson_val *root = yyjson_doc_get_root(*ret), *list = yyjson_obj_get(root, "pools");
	if (yyjson_is_obj(root) && (!list || yyjson_is_arr(list)))
		return 0;
	yyjson_doc_free(*ret);
	*ret = NULL;
	api_failf(c, CODE_INVALID_PARAMS, 0, "Send {\"pools\": [\"chat\"]}, or nothing for all of them.",
		"The body is no object with a list of pools.");
	return -EINVAL;
}

static bool is_asked(yyjson_doc *d, const char *id)
{
	yyjson_val *list = yyjson_obj_get(yyjson_doc_get_root(d), "pools"), *v;
	size_t i, n;
	if (!list)
		return true;
	yyjson_arr_foreach(list, i, n, v)
	{
		if (yyjson_equals_str(v, id))
			return true;
	}
	return false;
}

void route_plan(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	AUTO(buf_done) struct buf b = BUF(PLAN_BODY_MAX);
	yyjson_doc *asked;
	struct control_pool *p;
	if (read_pools(c, &asked))
		return;
	int r = buf_adds(&b, "{\"pools\":[");
	bool first = true;
	for (size_t i = 0; !r && (p = control_pool_at(a->o.control, i)); i++) {
		if (!is_asked(asked, control_pool_config(p)->id) || !api_may_use(a, c, p))
			continue;
		r = first ? 0 : buf_addc(&b, ',');
		first = false;
		if (!r)
			r = control_explain(a->o.control, p, &b);
	}
	yyjson_doc_free(asked);
	reply(c, r ? r : buf_adds(&b, "]}"), &b);
}

void route_explain(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	AUTO(buf_done) struct buf b = BUF(PLAN_BODY_MAX);
	char id[512];
	if (!c->query || !http_query_get(view_str(c->query), "pool", id, sizeof id)) {
		api_failf(c, CODE_INVALID_PARAMS, 0,
			"GET /v1/explain?pool=chat; GET /v1/requests/{id} tells of one "
			"request.",
			"The query names no pool.");
		return;
	}
	struct control_pool *p = find_pool_or_fail(a, c, view_str(id));
	if (p)
		reply(c, control_explain(a->o.control, p, &b), &b);
}
