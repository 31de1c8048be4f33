/* SPDX-License-Identifier: Apache-2.0
 *
 * What the environment says about the places models come from, in the words of those places' own clients.
 */
#include <ctype.h>
#include <stdlib.h>

#include "base/fd.h"
#include "provision/model/want_int.h"

enum { TOKEN_MAX = 4096 };

const char *want_env(const char *name)
{
	const char *v = getenv(name);
	return v && *v ? v : NULL;
}

static char *without_slash(const char *s)
{
	size_t n = strlen(s);
	while (n && s[n - 1] == '/')
		n--;
	return mem_viewdup(view_of(s, n));
}

char *want_hub_endpoint(const struct model_ensure_opts *o)
{
	const char *at = o->hub_endpoint ? o->hub_endpoint : want_env("HF_ENDPOINT");
	return without_slash(at ? at : "https://" WANT_HUB_HOST);
}

/* What may stand in a header. */
static char *clean_token(struct view v)
{
	while (v.n && isspace((unsigned char)v.p[0]))
		v = view_from(v, 1);
	while (v.n && isspace((unsigned char)v.p[v.n - 1]))
		v.n--;
	for (size_t i = 0; i < v.n; i++)
		if (v.p[i] <= ' ' || v.p[i] > '~')
			return NULL;
	return v.n ? mem_viewdup(v) : NULL;
}

static char *token_in(const char *path)
{
	AUTO(buf_done) struct buf b = BUF(TOKEN_MAX);
	return file_read_regular(path, &b) == 0 ? clean_token(buf_view(&b)) : NULL;
}

char *want_hub_token(const struct model_ensure_opts *o)
{
	const char *said = o->hub_token           ? o->hub_token
			   : want_env("HF_TOKEN") ? want_env("HF_TOKEN")
						  : want_env("HUGGING_FACE_HUB_TOKEN");
	if (said)
		return clean_token(view_str(said));
	if (want_env("HF_TOKEN_PATH"))
		return token_in(want_env("HF_TOKEN_PATH"));
	const char *home = want_env("HF_HOME"), *xdg = want_env("XDG_CACHE_HOME"), *user = want_env("HOME");
	AUTO(mem_freep)
	char *path = home   ? path_join(home, "token")
		     : xdg  ? path_join(xdg, "huggingface/token")
		     : user ? path_join(user, ".cache/huggingface/token")
			    : NULL;
	return path ? token_in(path) : NULL;
}

bool want_hub_offline(void)
{
	static const char *const yes[] = { "1", "on", "yes", "true" };
	const char *v = want_env("HF_HUB_OFFLINE");
	for (size_t i = 0; v && i < ARRAY_LEN(yes); i++)
		if (strcasecmp(v, yes[i]) == 0)
			return true;
	return false;
}

char *want_url_host(const char *url)
{
	struct view v = view_str(url);
	ptrdiff_t at = view_search(v, VIEW("://"));
	v = at < 0 ? v : view_from(v, (size_t)at + 3);
	size_t n = 0;
	while (n < v.n && !memchr("/?#", v.p[n], 3))
		n++;
	v = view_cut(v, n);
	while (memchr(v.p, '@', v.n))
		v = view_from(v, view_find(v, '@') + 1);
	return mem_viewdup(v);
}

char *want_escaped(struct view v, bool keep_slash)
{
	static const char hex[] = "0123456789ABCDEF";
	char *out = mem_alloc(3 * v.n + 1);
	size_t n = 0;
	for (size_t i = 0; i < v.n; i++) {
		unsigned char c = (unsigned char)v.p[i];
		if ((c < 0x80 && isalnum(c)) || memchr("-._~", c, 4) || (keep_slash && c == '/')) {
			out[n++] = (char)c;
			continue;
		}
		out[n++] = '%';
		out[n++] = hex[c >> 4];
		out[n++] = hex[c & 15];
	}
	out[n] = '\0';
	return out;
}

/* Plain HTTP to this machine itself is what a registry there speaks; the fetch process refuses the rest. */
static bool is_loopback(const char *host)
{
	return strncmp(host, "127.", 4) == 0 || strncmp(host, "[::1]", 5) == 0 ||
	       strncmp(host, "localhost", 9) == 0;
}

char *want_registry_base(const struct model_ref *r, const struct model_ensure_opts *o)
{
	if (r->kind == MODEL_REF_OLLAMA && !r->host)
		return without_slash(o->ollama_endpoint ? o->ollama_endpoint : "https://" WANT_OLLAMA_HOST);
	const char *host = strcmp(r->host, "docker.io") == 0 ? "registry-1.docker.io" : r->host;
	return mem_fmt("%s://%s", is_loopback(host) ? "http" : "https", host);
}
