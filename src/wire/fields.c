/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>

#include "base/mem.h"
#include "wire/wire_int.h"

static void *at(const struct wf *f, void *o)
{
	return (char *)o + f->off;
}

static const void *at_const(const struct wf *f, const void *o)
{
	return (const char *)o + f->off;
}

/* The peer chose the length: NULL when memory is short. */
static char *dup_try(struct view v)
{
	char *s = mem_try_alloc(v.n + 1);
	if (s && v.n)
		memcpy(s, v.p, v.n);
	return s;
}

static void strs_free(char ***pp)
{
	for (char **s = *pp; s && *s; s++)
		free(*s);
	free(*pp);
	*pp = NULL;
}

static char **strs_dup(char *const *from)
{
	size_t n = 0;
	while (from[n])
		n++;
	char **to = mem_alloc((n + 1) * sizeof *to);
	for (size_t i = 0; i < n; i++)
		to[i] = mem_strdup(from[i]);
	return to;
}

/* Encoding */

static bool is_zero(const struct wf *f, const void *p)
{
	switch (f->type) {
	case WF_ID:
	case WF_STR: return !*(char *const *)p;
	case WF_BOOL: return !*(const bool *)p;
	case WF_INT: return !*(const int *)p;
	case WF_U32: return !*(const uint32_t *)p;
	case WF_U64: return !*(const uint64_t *)p;
	case WF_I64: return !*(const int64_t *)p;
	case WF_STATE: return *(const enum replica_state *)p == REPLICA_ABSENT;
	case WF_CAUSE: return *(const enum wire_cause *)p == CAUSE_NONE;
	case WF_ERROR: return !((const struct wire_error *)p)->message;
	case WF_STRS: return !*(char **const *)p;
	}
	return true;
}

static int encode_error(const struct wire_error *e, struct buf *b)
{
	if (!e->message)
		return buf_adds(b, "null");
	bool first = true;
	int r = buf_addc(b, '{');
	if (!r)
		r = wf_encode(&wf_error, e, 0, b, &first);
	return r ? r : buf_addc(b, '}');
}

static int encode_strs(char *const *s, struct buf *b)
{
	if (!s)
		return buf_adds(b, "null");
	int r = buf_addc(b, '[');
	for (size_t i = 0; !r && s[i]; i++) {
		if (i)
			r = buf_addc(b, ',');
		if (!r)
			r = buf_add_json(b, view_str(s[i]));
	}
	return r ? r : buf_addc(b, ']');
}

static int encode_value(const struct wf *f, const void *p, struct buf *b)
{
	switch (f->type) {
	case WF_ID:
	case WF_STR: {
		const char *s = *(char *const *)p;
		return s ? buf_add_json(b, view_str(s)) : buf_adds(b, "null");
	}
	case WF_BOOL: return buf_adds(b, *(const bool *)p ? "true" : "false");
	case WF_INT: return buf_addf(b, "%d", *(const int *)p);
	case WF_U32: return buf_addf(b, "%" PRIu32, *(const uint32_t *)p);
	case WF_U64: return buf_addf(b, "%" PRIu64, *(const uint64_t *)p);
	case WF_I64: return buf_addf(b, "%" PRId64, *(const int64_t *)p);
	case WF_STATE: return buf_addf(b, "\"%s\"", replica_state_name(*(const enum replica_state *)p));
	case WF_CAUSE: return buf_addf(b, "\"%s\"", wire_cause_name(*(const enum wire_cause *)p));
	case WF_ERROR: return encode_error(p, b);
	case WF_STRS: return encode_strs(*(char **const *)p, b);
	}
	return -EINVAL;
}

int wf_encode(const struct wf_table *t, const void *o, unsigned have, struct buf *b, bool *first)
{
	for (size_t i = 0; i < t->len; i++) {
		const struct wf *f = &t->fields[i];
		const void *p = at_const(f, o);
		if (f->have ? !(have & f->have) : is_zero(f, p))
			continue;
		int r = buf_addf(b, "%s\"%s\":", *first ? "" : ",", f->key);
		if (!r)
			r = encode_value(f, p, b);
		if (r)
			return r;
		*first = false;
	}
	return 0;
}

/* Decoding */

static int wrong(const struct wf *f, yyjson_val *v, const char *accepted, struct err *reterr)
{
	return err_set(
		reterr, -EINVAL, "\"%s\" is a %s; accepted is %s", f->key, yyjson_get_type_desc(v), accepted);
}

static int decode_str(const struct wf *f, yyjson_val *v, char **ret, struct err *reterr)
{
	if (f->type == WF_STR && yyjson_is_null(v))
		return 0;
	if (!yyjson_is_str(v))
		return wrong(f, v, "a string", reterr);
	struct view s = view_of(yyjson_get_str(v), yyjson_get_len(v));
	size_t max = f->type == WF_ID ? (size_t)WIRE_ID_MAX : (size_t)WIRE_STRING_MAX;
	if (s.n > max)
		return err_set(
			reterr, -EINVAL, "\"%s\" has %zu bytes; at most %zu are accepted", f->key, s.n, max);
	if (f->type == WF_ID && !s.n)
		return err_set(reterr, -EINVAL, "\"%s\" is empty; a name is needed", f->key);
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = (unsigned char)s.p[i];
		if (!c || (f->type == WF_ID && (c < 0x20 || c == 0x7f)))
			return err_set(reterr, -EINVAL,
				"\"%s\" contains the control character 0x%02x, which is not "
				"accepted",
				f->key, c);
	}
	*ret = dup_try(s);
	return *ret ? 0 : err_set(reterr, -ENOMEM, "no memory for \"%s\"", f->key);
}

static int decode_u64(const struct wf *f, yyjson_val *v, uint64_t *ret, struct err *reterr)
{
	if (!yyjson_is_uint(v))
		return wrong(f, v, "a whole number from 0 on", reterr);
	*ret = yyjson_get_uint(v);
	return 0;
}

static int decode_i64(const struct wf *f, yyjson_val *v, int64_t *ret, struct err *reterr)
{
	if (!yyjson_is_int(v))
		return err_set(reterr, -EINVAL,
			"\"%s\" is a %s; accepted is a whole number from %" PRId64 " to %" PRId64, f->key,
			yyjson_get_type_desc(v), f->min, f->max);
	bool big = yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX;
	int64_t n = big ? INT64_MAX : yyjson_get_sint(v);
	if (big || n < f->min || n > f->max)
		return err_set(reterr, -EINVAL,
			"\"%s\" is %s%" PRId64 "; accepted is a whole number from %" PRId64 " to %" PRId64,
			f->key, big ? "above " : "", n, f->min, f->max);
	*ret = n;
	return 0;
}

static int decode_state(const struct wf *f, yyjson_val *v, enum replica_state *ret, struct err *reterr)
{
	if (!yyjson_is_str(v))
		return wrong(f, v, "the name of a state, such as \"ready\"", reterr);
	if (replica_state_parse(view_of(yyjson_get_str(v), yyjson_get_len(v)), ret))
		return err_set(reterr, -EINVAL,
			"\"%s\" is \"%.40s\"; accepted are absent, provisioning, starting, "
			"proving, ready, draining, stopped, backoff and failed",
			f->key, yyjson_get_str(v));
	return 0;
}

/* A cause that a newer peer knows and we do not is still an error with a message. */
static int decode_cause(const struct wf *f, yyjson_val *v, enum wire_cause *ret, struct err *reterr)
{
	if (!yyjson_is_str(v))
		return wrong(f, v, "the name of a cause, such as \"exit\"", reterr);
	if (wire_cause_parse(view_of(yyjson_get_str(v), yyjson_get_len(v)), ret))
		*ret = CAUSE_NONE;
	return 0;
}

static int decode_error(const struct wf *f, yyjson_val *v, struct wire_error *ret, struct err *reterr)
{
	if (yyjson_is_null(v))
		return 0;
	unsigned have = 0;
	int r = wf_decode(&wf_error, v, ret, &have, reterr);
	if (r)
		err_prefix(reterr, "\"%s\"", f->key);
	return r;
}

static int decode_strs(const struct wf *f, yyjson_val *v, char ***ret, struct err *reterr)
{
	if (yyjson_is_null(v))
		return 0;
	size_t n = yyjson_arr_size(v);
	if (!yyjson_is_arr(v))
		return wrong(f, v, "a list of strings", reterr);
	if (n > WIRE_STRINGS_MAX)
		return err_set(reterr, -EINVAL, "\"%s\" has %zu items; at most %d are accepted", f->key, n,
			WIRE_STRINGS_MAX);
	*ret = mem_try_alloc((n + 1) * sizeof **ret);
	if (!*ret)
		return err_set(reterr, -ENOMEM, "no memory for \"%s\"", f->key);
	const struct wf item = { .key = f->key, .type = WF_ID };
	size_t i, max;
	yyjson_val *it;
	yyjson_arr_foreach(v, i, max, it)
	{
		int r = decode_str(&item, it, &(*ret)[i], reterr);
		if (r)
			return r;
	}
	return 0;
}

static int decode_value(const struct wf *f, yyjson_val *v, void *p, struct err *reterr)
{
	int64_t n = 0;
	int r;
	switch (f->type) {
	case WF_ID:
	case WF_STR: return decode_str(f, v, p, reterr);
	case WF_BOOL:
		if (!yyjson_is_bool(v))
			return wrong(f, v, "true or false", reterr);
		*(bool *)p = yyjson_get_bool(v);
		return 0;
	case WF_INT:
		r = decode_i64(f, v, &n, reterr);
		if (!r)
			*(int *)p = (int)n;
		return r;
	case WF_U32:
		r = decode_i64(f, v, &n, reterr);
		if (!r)
			*(uint32_t *)p = (uint32_t)n;
		return r;
	case WF_U64: return decode_u64(f, v, p, reterr);
	case WF_I64: return decode_i64(f, v, p, reterr);
	case WF_STATE: return decode_state(f, v, p, reterr);
	case WF_CAUSE: return decode_cause(f, v, p, reterr);
	case WF_ERROR: return decode_error(f, v, p, reterr);
	case WF_STRS: return decode_strs(f, v, p, reterr);
	}
	return -EINVAL;
}

int wf_decode(const struct wf_table *t, yyjson_val *v, void *o, unsigned *have, struct err *reterr)
{
	if (!yyjson_is_obj(v))
		return err_set(reterr, -EINVAL, "%s is a %s; accepted is an object", t->what,
			yyjson_get_type_desc(v));
	for (size_t i = 0; i < t->len; i++) {
		const struct wf *f = &t->fields[i];
		yyjson_val *it = yyjson_obj_get(v, f->key);
		if (!it && f->required)
			return err_set(reterr, -EINVAL, "%s lacks \"%s\"", t->what, f->key);
		if (!it)
			continue;
		int r = decode_value(f, it, at(f, o), reterr);
		if (r)
			return r;
		*have |= f->have;
	}
	return 0;
}

/* Copying and freeing */

static void free_value(const struct wf *f, void *p)
{
	switch (f->type) {
	case WF_ID:
	case WF_STR:
		free(*(char **)p);
		*(char **)p = NULL;
		break;
	case WF_STRS: strs_free(p); break;
	case WF_ERROR: wf_done(&wf_error, p); break;
	case WF_BOOL: *(bool *)p = false; break;
	case WF_INT: *(int *)p = 0; break;
	case WF_U32: *(uint32_t *)p = 0; break;
	case WF_U64: *(uint64_t *)p = 0; break;
	case WF_I64: *(int64_t *)p = 0; break;
	case WF_STATE: *(enum replica_state *)p = REPLICA_ABSENT; break;
	case WF_CAUSE: *(enum wire_cause *)p = CAUSE_NONE; break;
	}
}

static void copy_value(const struct wf *f, void *to, const void *from)
{
	free_value(f, to);
	switch (f->type) {
	case WF_ID:
	case WF_STR: *(char **)to = mem_strdup(*(char *const *)from); break;
	case WF_STRS: *(char ***)to = *(char **const *)from ? strs_dup(*(char **const *)from) : NULL; break;
	case WF_ERROR: wf_copy(&wf_error, to, from, 0); break;
	case WF_BOOL: *(bool *)to = *(const bool *)from; break;
	case WF_INT: *(int *)to = *(const int *)from; break;
	case WF_U32: *(uint32_t *)to = *(const uint32_t *)from; break;
	case WF_U64: *(uint64_t *)to = *(const uint64_t *)from; break;
	case WF_I64: *(int64_t *)to = *(const int64_t *)from; break;
	case WF_STATE: *(enum replica_state *)to = *(const enum replica_state *)from; break;
	case WF_CAUSE: *(enum wire_cause *)to = *(const enum wire_cause *)from; break;
	}
}

void wf_copy(const struct wf_table *t, void *to, const void *from, unsigned mask)
{
	for (size_t i = 0; i < t->len; i++) {
		const struct wf *f = &t->fields[i];
		if (!f->have || (mask & f->have))
			copy_value(f, at(f, to), at_const(f, from));
	}
}

void wf_done(const struct wf_table *t, void *o)
{
	for (size_t i = 0; i < t->len; i++)
		free_value(&t->fields[i], at(&t->fields[i], o));
}
