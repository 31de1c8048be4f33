/* SPDX-License-Identifier: Apache-2.0 */
#include "job.h"

#include <stdarg.h>
#include <stdio.h>
#include <yyjson.h>

#include "base/mem.h"

static const char *const why_names[] = { "ok", "network", "refused", "denied", "missing", "busy", "digest",
	"disk", "archive", "input" };

const char *why_name(enum why w)
{
	return why_names[w];
}

int fail_set(struct fail *f, enum why why, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	f->why = why;
	vsnprintf(f->msg, sizeof f->msg, fmt, ap);
	va_end(ap);
	return -1;
}

static void file_done(struct job_file *f)
{
	strv_done(&f->urls);
	strv_done(&f->headers);
	free(f->to);
	free(f->sha256);
}

void job_done(struct job *j)
{
	for (size_t i = 0; i < j->nfiles; i++)
		file_done(&j->files[i]);
	free(j->files);
	free(j->into);
	free(j->method);
	strv_done(&j->policy.allow_hosts);
	strv_done(&j->policy.deny);
	*j = (struct job){ 0 };
}

static int strings_of(yyjson_val *v, const char *what, size_t max, struct strv *ret, struct fail *f)
{
	size_t i, n;
	yyjson_val *item;
	if (!v || yyjson_is_null(v))
		return 0;
	if (!yyjson_is_arr(v) || yyjson_arr_size(v) > max)
		return fail_set(f, WHY_INPUT, "%s must be a list of at most %zu strings", what, max);
	yyjson_arr_foreach(v, i, n, item)
	{
		if (!yyjson_is_str(item) || strlen(yyjson_get_str(item)) != yyjson_get_len(item) ||
			yyjson_get_len(item) > JOB_NAME_MAX || strpbrk(yyjson_get_str(item), "\r\n"))
			return fail_set(f, WHY_INPUT,
				"%s %zu must be a string of at most %d bytes without line ends", what, i + 1,
				JOB_NAME_MAX);
		strv_add(ret, yyjson_get_str(item));
	}
	return 0;
}

static char *string_of(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	return mem_strdup(yyjson_is_str(v) && yyjson_get_len(v) ? yyjson_get_str(v) : NULL);
}

static uint64_t number_of(yyjson_val *o, const char *key)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	return yyjson_is_uint(v) ? yyjson_get_uint(v) : 0;
}

static bool flag_of(yyjson_val *o, const char *key)
{
	return yyjson_is_true(yyjson_obj_get(o, key));
}

static bool is_digest(const char *s)
{
	return strlen(s) == 64 && strspn(s, "0123456789abcdef") == 64;
}

static int parse_file(yyjson_val *o, enum op op, struct job_file *ret, struct fail *f)
{
	if (strings_of(yyjson_obj_get(o, "urls"), "urls", JOB_URLS_MAX, &ret->urls, f) ||
		strings_of(yyjson_obj_get(o, "headers"), "headers", 64, &ret->headers, f))
		return -1;
	ret->to = string_of(o, "to");
	ret->sha256 = string_of(o, "sha256");
	ret->size = number_of(o, "size");
	ret->head = number_of(o, "head");
	ret->mode = (unsigned)number_of(o, "mode") & 0777;
	if (op != OP_TEXT && (!ret->to || ret->to[0] != '/' || strlen(ret->to) > JOB_NAME_MAX))
		return fail_set(f, WHY_INPUT,
			"\"to\" must be an absolute path of at most %d bytes, not \"%.200s\"", JOB_NAME_MAX,
			ret->to ? ret->to : "");
	if (ret->sha256 && !is_digest(ret->sha256))
		return fail_set(
			f, WHY_INPUT, "a SHA-256 has 64 digits of 0-9a-f; \"%.100s\" is none", ret->sha256);
	if ((op == OP_FILES || op == OP_TEXT) && !ret->urls.len)
		return fail_set(
			f, WHY_INPUT, "there is no URL for %.300s", ret->to ? ret->to : "the document");
	return 0;
}

static int parse_op(yyjson_val *o, struct job *j, struct fail *f)
{
	static const char *const names[] = { "files", "text", "hash", "unpack" };
	AUTO(mem_freep) char *name = string_of(o, "op");
	for (size_t i = 0; name && i < ARRAY_LEN(names); i++) {
		if (strcmp(name, names[i]) != 0)
			continue;
		j->op = (enum op)i;
		return 0;
	}
	return fail_set(
		f, WHY_INPUT, "\"op\" is one of files, text, hash, unpack, not \"%.100s\"", name ? name : "");
}

static int parse_files(yyjson_val *o, struct job *j, struct fail *f)
{
	yyjson_val *files = yyjson_obj_get(o, "files"), *item;
	size_t i, n;
	if (!yyjson_is_arr(files) || !yyjson_arr_size(files) || yyjson_arr_size(files) > JOB_FILES_MAX)
		return fail_set(f, WHY_INPUT, "\"files\" must be a list of 1 to %d files", JOB_FILES_MAX);
	j->nfiles = yyjson_arr_size(files);
	j->files = mem_alloc(j->nfiles * sizeof *j->files);
	yyjson_arr_foreach(files, i, n, item)
	{
		if (parse_file(item, j->op, &j->files[i], f))
			return -1;
	}
	return 0;
}

static int parse_rest(yyjson_val *o, struct job *j, struct fail *f)
{
	yyjson_val *policy = yyjson_obj_get(o, "policy");
	j->into = string_of(o, "into");
	j->method = string_of(o, "method");
	j->unpack_max = number_of(o, "unpack_max");
	j->rate = number_of(o, "rate");
	j->headroom = number_of(o, "headroom");
	j->room = number_of(o, "room");
	j->strip = (unsigned)MIN(number_of(o, "strip"), (uint64_t)64);
	j->parallel = (unsigned)MIN(number_of(o, "parallel"), (uint64_t)JOB_PARALLEL_MAX);
	j->tries = (unsigned)MIN(number_of(o, "tries"), (uint64_t)1000);
	j->stall_ms = (int64_t)MIN(number_of(o, "stall_ms"), (uint64_t)3600 * 1000);
	j->policy.offline = flag_of(policy, "offline");
	j->policy.plain_http = flag_of(policy, "plain_http");
	if (!j->unpack_max)
		j->unpack_max = 64 * GIB;
	if (!j->parallel)
		j->parallel = 4;
	if (!j->tries)
		j->tries = 5;
	if (!j->stall_ms)
		j->stall_ms = 30000;
	if (j->op == OP_UNPACK && (!j->into || j->into[0] != '/' || strlen(j->into) > JOB_NAME_MAX))
		return fail_set(f, WHY_INPUT, "\"into\" must be an absolute path");
	if (strings_of(yyjson_obj_get(policy, "allow_hosts"), "policy.allow_hosts", 1024,
		    &j->policy.allow_hosts, f))
		return -1;
	return strings_of(yyjson_obj_get(policy, "deny"), "policy.deny", 1024, &j->policy.deny, f);
}

int job_parse(struct view json, struct job *ret, struct fail *f)
{
	struct job j = { 0 };
	yyjson_doc *doc = yyjson_read(json.p, json.n, 0);
	yyjson_val *root = yyjson_doc_get_root(doc);
	int r = -1;
	if (!yyjson_is_obj(root))
		fail_set(f, WHY_INPUT, "standard input must be one JSON object (see fetch/job.h)");
	else if (!parse_op(root, &j, f) && !parse_files(root, &j, f) && !parse_rest(root, &j, f))
		r = 0;
	yyjson_doc_free(doc);
	if (r)
		job_done(&j);
	else
		*ret = j;
	return r;
}
