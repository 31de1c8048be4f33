/* SPDX-License-Identifier: Apache-2.0 */
#include "supervise/record.h"

#include <stdio.h>
#include <unistd.h>
#include <yyjson.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/num.h"

static const char *const state_names[] = {
	[RECORD_RUNNING] = "running",
	[RECORD_STOPPING] = "stopping",
	[RECORD_ENDED] = "ended",
	[RECORD_GONE] = "gone",
};
static_assert(ARRAY_LEN(state_names) == RECORD_STATE_COUNT, "one name per state");

const char *record_state_name(enum record_state s)
{
	return state_names[s];
}

static int take_str(yyjson_val *o, const char *key, char *out, size_t cap)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	const char *s = yyjson_get_str(v);
	size_t n = yyjson_get_len(v);
	if (!s || n >= cap || strlen(s) != n)
		return -EINVAL;
	memcpy(out, s, n + 1);
	return 0;
}

static int take_int(yyjson_val *o, const char *key, int64_t min, int64_t max, int64_t *ret)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	if (!yyjson_is_int(v) || (yyjson_is_uint(v) && yyjson_get_uint(v) > INT64_MAX))
		return -EINVAL;
	int64_t n = yyjson_get_sint(v);
	if (n < min || n > max)
		return -ERANGE;
	*ret = n;
	return 0;
}

static int take_int32(yyjson_val *o, const char *key, int min, int max, int *ret)
{
	int64_t n;
	int r = take_int(o, key, min, max, &n);
	if (!r)
		*ret = (int)n;
	return r;
}

static int take_uint(yyjson_val *o, const char *key, uint64_t *ret)
{
	int64_t n;
	int r = take_int(o, key, 0, INT64_MAX, &n);
	if (!r)
		*ret = (uint64_t)n;
	return r;
}

static int take_bool(yyjson_val *o, const char *key, bool *ret)
{
	yyjson_val *v = yyjson_obj_get(o, key);
	if (!yyjson_is_bool(v))
		return -EINVAL;
	*ret = yyjson_get_bool(v);
	return 0;
}

static int take_state(yyjson_val *o, enum record_state *ret)
{
	const char *s = yyjson_get_str(yyjson_obj_get(o, "state"));
	for (unsigned i = 0; s && i < RECORD_STATE_COUNT; i++) {
		if (strcmp(s, state_names[i]) == 0) {
			*ret = (enum record_state)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int take_ids(yyjson_val *o, struct keeper_record *r)
{
	int e = 0;
	e = e ? e : take_str(o, "replica_id", r->replica_id, sizeof r->replica_id);
	e = e ? e : take_str(o, "boot_id", r->boot_id, sizeof r->boot_id);
	e = e ? e : take_str(o, "socket", r->socket, sizeof r->socket);
	e = e ? e : take_uint(o, "generation", &r->generation);
	e = e ? e : take_state(o, &r->state);
	if (!e && !r->replica_id[0])
		e = -EINVAL;
	return e;
}

static int take_process(yyjson_val *o, struct keeper_record *r)
{
	int e = 0;
	e = e ? e : take_int32(o, "keeper_pid", 1, INT32_MAX, &r->keeper_pid);
	e = e ? e : take_int32(o, "engine_pid", 1, INT32_MAX, &r->engine_pid);
	e = e ? e : take_uint(o, "keeper_start", &r->keeper_start);
	e = e ? e : take_uint(o, "engine_start", &r->engine_start);
	e = e ? e : take_int32(o, "exit_code", -1, 255, &r->exit_code);
	e = e ? e : take_int32(o, "signal", 0, 127, &r->signo);
	e = e ? e : take_int32(o, "exec_errno", 0, 4095, &r->exec_errno);
	e = e ? e : take_bool(o, "stop_asked", &r->stop_asked);
	e = e ? e : take_bool(o, "killed", &r->killed);
	e = e ? e : take_bool(o, "oom", &r->oom);
	if (yyjson_obj_get(o, "oom_sure")) /* a keeper of an earlier version does not say it */
		e = e ? e : take_bool(o, "oom_sure", &r->oom_sure);
	e = e ? e : take_int(o, "started_at_ms", 0, INT64_MAX, &r->started_at_ms);
	e = e ? e : take_int(o, "ended_at_ms", 0, INT64_MAX, &r->ended_at_ms);
	e = e ? e : take_uint(o, "log_dropped_bytes", &r->log_dropped_bytes);
	return e;
}

static void doc_free(yyjson_doc **d)
{
	yyjson_doc_free(*d);
}

int record_decode(struct view json, struct keeper_record *ret, struct err *reterr)
{
	if (json.n > RECORD_FILE_MAX)
		return err_set(reterr, -EFBIG, "a keeper's record has %zu bytes; at most %d are accepted",
			json.n, (int)RECORD_FILE_MAX);
	AUTO(doc_free) yyjson_doc *d = json.n ? yyjson_read(json.p, json.n, YYJSON_READ_NOFLAG) : NULL;
	yyjson_val *o = yyjson_doc_get_root(d);
	if (!yyjson_is_obj(o))
		return err_set(reterr, -EINVAL, "a keeper's record is not a JSON object");
	int64_t schema;
	if (take_int(o, "schema", 1, 1, &schema))
		return err_set(reterr, -EPROTO, "a keeper's record is not of schema 1");
	struct keeper_record r = { 0 };
	if (take_ids(o, &r) || take_process(o, &r))
		return err_set(reterr, -EINVAL, "a keeper's record lacks a field or has one out of range");
	*ret = r;
	return 0;
}

int record_read(const char *path, struct keeper_record *ret, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(RECORD_FILE_MAX);
	int r = file_read_regular(path, &b);
	if (r == -ENOENT)
		return r;
	if (r)
		return err_set(reterr, r, "%s cannot be read: %s", path, strerror(-r));
	r = record_decode(buf_view(&b), ret, reterr);
	if (r)
		err_prefix(reterr, "%s", path);
	return r;
}

int proc_start_time(int pid, uint64_t *ret)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/stat", pid);
	AUTO(buf_done) struct buf b = BUF(4096);
	if (file_read(path, &b))
		return -ESRCH;
	/* comm may hold blanks and parentheses: the fields are counted from the last one. Start is the
	 * 22nd, the state after the parenthesis the third. */
	const char *p = memrchr(b.data, ')', b.len);
	if (!p)
		return -ESRCH;
	struct view rest = view_trim(view_from(buf_view(&b), (size_t)(p - b.data) + 1));
	for (int field = 3; field < 22; field++)
		view_split(rest, ' ', &rest);
	struct view after;
	return num_u64(view_split(rest, ' ', &after), ret) ? -ESRCH : 0;
}

void boot_id_read(char out[BOOT_ID_LEN + 1])
{
	AUTO(buf_done) struct buf b = BUF(64);
	out[0] = '\0';
	if (file_read("/proc/sys/kernel/random/boot_id", &b))
		return;
	size_t n = MIN(view_find(buf_view(&b), '\n'), (size_t)BOOT_ID_LEN);
	memcpy(out, b.data ? b.data : "", n);
	out[n] = '\0';
}

bool proc_is(int pid, uint64_t start, const char *boot_id)
{
	char here[BOOT_ID_LEN + 1];
	uint64_t now;
	boot_id_read(here);
	return pid > 0 && strcmp(here, boot_id) == 0 && proc_start_time(pid, &now) == 0 && now == start;
}
