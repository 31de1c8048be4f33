/* SPDX-License-Identifier: Apache-2.0 */
#include "base/url.h"

#include "base/buf.h"
#include "base/mem.h"

/* Where the host and path of a URL end, behind its "://". */
static size_t address_end(struct view v)
{
	size_t n = 0;
	while (n < v.n && !memchr(" '\"\t\r\n<>", v.p[n], 8))
		n++;
	return n;
}

/* Of "user:secret@host/path" what follows the user. */
static struct view without_user(struct view address)
{
	struct view host = view_cut(address, MIN(view_find(address, '/'), view_find(address, '?')));
	for (size_t i = host.n; i-- > 0;)
		if (host.p[i] == '@')
			return view_from(address, i + 1);
	return address;
}

/* What ends the sentence a URL stands in is no part of it. */
static struct view tail_of(struct view query)
{
	size_t n = query.n;
	while (n && memchr(".,:;)", query.p[n - 1], 5))
		n--;
	return view_from(query, n);
}

char *url_redact(struct view text)
{
	AUTO(buf_done) struct buf b = BUF(text.n * 2 + 64);
	while (text.n) {
		ptrdiff_t at = view_search(text, VIEW("://"));
		if (at < 0 || buf_add(&b, text.p, (size_t)at + 3))
			break;
		text = view_from(text, (size_t)at + 3);
		size_t end = address_end(text);
		struct view address = without_user(view_cut(text, end));
		size_t query = view_find(address, '?');
		(void)buf_addv(&b, view_cut(address, query));
		if (query < address.n) {
			(void)buf_adds(&b, "?…");
			(void)buf_addv(&b, tail_of(view_from(address, query + 1)));
		}
		text = view_from(text, end);
	}
	(void)buf_addv(&b, text);
	return buf_take(&b);
}

char *ref_shown(const char *ref)
{
	struct view v = view_str(ref), scheme = VIEW("https://"), plain = VIEW("http://"), query;
	if (!ref)
		return NULL;
	if (!view_starts(v, scheme) && !view_starts(v, plain))
		return mem_strdup(ref);
	scheme = view_starts(v, scheme) ? scheme : plain;
	v = view_from(v, scheme.n);
	size_t hash = view_find(v, '#');
	struct view bare = without_user(view_split(view_cut(v, hash), '?', &query));
	if (!query.n)
		return mem_fmt(
			"%.*s%.*s%.*s", VIEW_ARG(scheme), VIEW_ARG(bare), VIEW_ARG(view_from(v, hash)));
	return mem_fmt(
		"%.*s%.*s#%016llx", VIEW_ARG(scheme), VIEW_ARG(bare), (unsigned long long)text_hash(query));
}

uint64_t text_hash(struct view v)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (size_t i = 0; i < v.n; i++)
		h = (h ^ (unsigned char)v.p[i]) * 0x100000001b3u;
	return h;
}
