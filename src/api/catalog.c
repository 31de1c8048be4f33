/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/catalog/… and /v1/engines: asked of the node that keeps them and passed through; what lasts there
 * (fetching, verifying) lasts here as the same events.
 */
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "api/api_int.h"
#include "base/mem.h"

char *api_node_path(const char *prefix, struct view id, const char *verb)
{
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	(void)buf_adds(&b, prefix);
	for (size_t i = 0; i < id.n; i++) {
		unsigned char ch = (unsigned char)id.p[i];
		bool plain = (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'z') ||
			     (ch >= 'A' && ch <= 'Z') || ch == '.' || ch == '_' || ch == '-';
		(void)buf_addf(&b, plain ? "%c" : "%%%02X", ch);
	}
	(void)buf_adds(&b, verb);
	return buf_take(&b);
}

/* "/v1/node/catalog/models/<id><verb>" */
static char *model_path(struct view id, const char *verb)
{
	return api_node_path("/v1/node/catalog/models/", id, verb);
}

void route_catalog(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	api_relay(a, c, "GET", "/v1/node/catalog/models", VIEW(""));
}

void route_catalog_gc(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	api_relay(a, c, "GET", "/v1/node/catalog/gc", VIEW(""));
}

void route_engines(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	api_relay(a, c, "GET", "/v1/node/engines", VIEW(""));
}

void route_catalog_model(struct api *a, struct api_call *c, const struct route_args *args)
{
	AUTO(mem_freep) char *path = model_path(args->id, "");
	api_relay(a, c, c->method == HTTP_M_DELETE ? "DELETE" : "GET", path, VIEW(""));
}

void route_catalog_verify(struct api *a, struct api_call *c, const struct route_args *args)
{
	if (refuse_when_draining(a, c))
		return;
	AUTO(mem_freep) char *path = model_path(args->id, "/verify");
	api_relay(a, c, "POST", path, VIEW("{}"));
}

void route_engines_provision(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	if (!refuse_when_draining(a, c))
		api_relay(a, c, "POST", "/v1/node/engines/provision",
			c->body.len ? buf_view(&c->body) : VIEW("{}"));
}

void route_catalog_pull(struct api *a, struct api_call *c, const struct route_args *args)
{
	(void)args;
	if (!refuse_when_draining(a, c))
		api_relay(
			a, c, "POST", "/v1/node/catalog/pull", c->body.len ? buf_view(&c->body) : VIEW("{}"));
}

/* With who asks. */
void route_catalog_state(struct api *a, struct api_call *c, const struct route_args *args)
{
	yyjson_doc *d = c->body.len ? yyjson_read(c->body.data, c->body.len, 0) : NULL;
	const char *state = yyjson_get_str(yyjson_obj_get(yyjson_doc_get_root(d), "state"));
	AUTO(mem_freep) char *path = model_path(args->id, "/state");
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	(void)buf_adds(&b, "{\"state\":");
	(void)buf_add_json(&b, view_cut(view_str(state ? state : ""), 64));
	(void)buf_adds(&b, ",\"by\":");
	(void)buf_add_json(&b, view_str(c->by));
	(void)buf_addc(&b, '}');
	yyjson_doc_free(d);
	api_relay(a, c, "POST", path, buf_view(&b));
}
