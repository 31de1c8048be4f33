/* SPDX-License-Identifier: Apache-2.0 */
#include "provision/fetch/fetch_int.h"

#include "base/mem.h"

static int check_strings(const struct strv *v, const char *what, size_t max, struct err *e)
{
	if (v->len > max)
		return err_set(e, -EINVAL, "at most %zu %s are accepted, here are %zu", max, what, v->len);
	for (size_t i = 0; i < v->len; i++) {
		if (strlen(v->items[i]) > FETCH_NAME_MAX || strpbrk(v->items[i], "\r\n"))
			return err_set(e, -EINVAL, "%s are at most %d bytes, without line ends", what,
				FETCH_NAME_MAX);
	}
	return 0;
}

static int check_file(const struct fetch_file *f, enum fetch_op op, struct err *e)
{
	int r = check_strings(&f->urls, "URLs", FETCH_URLS_MAX, e);
	if (!r)
		r = check_strings(&f->headers, "headers", 64, e);
	if (r)
		return r;
	if ((op == FETCH_FILES || op == FETCH_TEXT) && !f->urls.len)
		return err_set(e, -EINVAL, "there is no URL to fetch %.200s from", f->to ? f->to : "it");
	if (op != FETCH_TEXT && (!f->to || f->to[0] != '/' || strlen(f->to) > FETCH_NAME_MAX))
		return err_set(e, -EINVAL, "a place on the disk is an absolute path, not \"%.200s\"",
			f->to ? f->to : "");
	if (f->sha256 && (strlen(f->sha256) != 64 || strspn(f->sha256, "0123456789abcdef") != 64))
		return err_set(
			e, -EINVAL, "a SHA-256 has 64 digits of 0-9a-f; \"%.100s\" is none", f->sha256);
	return 0;
}

static int check(const struct fetch_request *q, struct err *e)
{
	if (!q->nfiles || q->nfiles > FETCH_FILES_MAX)
		return err_set(
			e, -EINVAL, "1 to %d files are accepted, here are %zu", FETCH_FILES_MAX, q->nfiles);
	if (q->op == FETCH_UNPACK && (!q->into || q->into[0] != '/'))
		return err_set(e, -EINVAL, "the folder to unpack into is an absolute path");
	for (size_t i = 0; i < q->nfiles; i++) {
		int r = check_file(&q->files[i], q->op, e);
		if (r)
			return r;
	}
	return 0;
}

static int add_string(struct buf *b, const char *key, const char *s)
{
	if (!s)
		return 0;
	int r = buf_addf(b, ",\"%s\":", key);
	return r ? r : buf_add_json(b, view_str(s));
}

static int add_number(struct buf *b, const char *key, uint64_t n)
{
	return n ? buf_addf(b, ",\"%s\":%llu", key, (unsigned long long)n) : 0;
}

static int add_strings(struct buf *b, const char *key, const struct strv *v)
{
	int r = buf_addf(b, ",\"%s\":[", key);
	for (size_t i = 0; i < v->len && !r; i++) {
		r = i ? buf_addc(b, ',') : 0;
		r = r ? r : buf_add_json(b, view_str(v->items[i]));
	}
	return r ? r : buf_addc(b, ']');
}

static bool add_file(struct buf *b, const struct fetch_file *f, bool first)
{
	return buf_addf(b, "%s{\"mode\":%u", first ? "" : ",", f->mode) || add_strings(b, "urls", &f->urls) ||
	       add_strings(b, "headers", &f->headers) || add_string(b, "to", f->to) ||
	       add_string(b, "sha256", f->sha256) || add_number(b, "size", f->size) ||
	       add_number(b, "head", f->head) || buf_addc(b, '}');
}

static bool add_policy(struct buf *b, const struct fetch_policy *p)
{
	return buf_addf(b, ",\"policy\":{\"offline\":%s,\"plain_http\":%s", p->offline ? "true" : "false",
		       p->plain_http ? "true" : "false") ||
	       add_strings(b, "allow_hosts", &p->allow_hosts) || add_strings(b, "deny", &p->deny) ||
	       buf_addc(b, '}');
}

int fetch_ask(const struct fetch_request *q, struct buf *ret, struct err *reterr)
{
	static const char *const ops[] = { [FETCH_FILES] = "files",
		[FETCH_TEXT] = "text",
		[FETCH_HASH] = "hash",
		[FETCH_UNPACK] = "unpack" };
	int r = check(q, reterr);
	if (r)
		return r;
	bool bad = buf_addf(ret, "{\"op\":\"%s\",\"files\":[", ops[q->op]) != 0;
	for (size_t i = 0; i < q->nfiles && !bad; i++)
		bad = add_file(ret, &q->files[i], i == 0);
	bad = bad || buf_addc(ret, ']') || add_string(ret, "into", q->into) ||
	      add_string(ret, "method", q->method) || add_number(ret, "unpack_max", q->unpack_max) ||
	      add_number(ret, "strip", q->strip) || add_number(ret, "parallel", q->parallel) ||
	      add_number(ret, "rate", q->rate) || add_number(ret, "headroom", q->headroom) ||
	      add_number(ret, "room", q->room) ||
	      add_number(ret, "stall_ms", q->stall_ms > 0 ? (uint64_t)q->stall_ms : 0) ||
	      add_number(ret, "tries", q->tries) || add_policy(ret, &q->policy) || buf_addc(ret, '}');
	return bad ? err_set(reterr, -EINVAL, "the names of all files together are longer than %d MiB",
			     FETCH_DOCUMENT_MAX >> 20)
		   : 0;
}
