/* SPDX-License-Identifier: Apache-2.0 */
#include "provision/fetch/fetch_int.h"

#include <yyjson.h>

#include "base/mem.h"

static const char *const why_names[] = { [FETCH_OK] = "ok",
	[FETCH_NETWORK] = "network",
	[FETCH_REFUSED] = "refused",
	[FETCH_DENIED] = "denied",
	[FETCH_MISSING] = "missing",
	[FETCH_BUSY] = "busy",
	[FETCH_DIGEST] = "digest",
	[FETCH_DISK] = "disk",
	[FETCH_ARCHIVE] = "archive",
	[FETCH_INPUT] = "input",
	[FETCH_CRASHED] = "crashed" };

const char *fetch_why_name(enum fetch_why w)
{
	return why_names[w];
}

static const char *text_of(yyjson_val *o, const char *key)
{
	return yyjson_get_str(yyjson_obj_get(o, key));
}

static uint64_t number_of(yyjson_val *o, const char *key)
{
	return yyjson_get_uint(yyjson_obj_get(o, key));
}

static int read_progress(yyjson_val *o, struct fetch_progress *ret)
{
	static const char *const phases[] = { [FETCH_WAITING] = "waiting",
		[FETCH_FETCHING] = "fetching",
		[FETCH_VERIFYING] = "verifying",
		[FETCH_UNPACKING] = "unpacking" };
	const char *phase = text_of(o, "phase");
	ret->bytes = number_of(o, "bytes");
	ret->total = number_of(o, "total");
	ret->rate = number_of(o, "rate");
	ret->eta_ms = yyjson_get_sint(yyjson_obj_get(o, "eta_ms"));
	ret->text = text_of(o, "text");
	if (!ret->text)
		ret->text = "";
	for (size_t i = 0; phase && i < ARRAY_LEN(phases); i++) {
		if (strcmp(phase, phases[i]) != 0)
			continue;
		ret->phase = (enum fetch_phase)i;
		return 0;
	}
	return -EINVAL;
}

static int read_files(yyjson_val *files, struct fetch_result *ret)
{
	size_t i, n;
	yyjson_val *o;
	if (yyjson_arr_size(files) > FETCH_FILES_MAX)
		return -EINVAL;
	ret->files = mem_alloc(MAX(yyjson_arr_size(files), (size_t)1) * sizeof *ret->files);
	yyjson_arr_foreach(files, i, n, o)
	{
		struct fetch_found *f = &ret->files[ret->nfiles++];
		const char *sha256 = text_of(o, "sha256");
		f->path = mem_strdup(text_of(o, "path"));
		f->sha256 = mem_strdup(sha256 && sha256[0] ? sha256 : NULL);
		f->size = number_of(o, "size");
		f->bytes_fetched = number_of(o, "bytes_fetched");
		f->was_there = yyjson_is_true(yyjson_obj_get(o, "was_there"));
	}
	return 0;
}

static int read_result(yyjson_val *o, struct fetch_line *ret)
{
	const char *why = text_of(o, "why");
	size_t i, n;
	yyjson_val *header;
	bool known = false;
	for (size_t k = 0; why && k < ARRAY_LEN(why_names); k++) {
		if (strcmp(why, why_names[k]) != 0)
			continue;
		known = true;
		ret->why = (enum fetch_why)k;
	}
	ret->error = mem_strdup(text_of(o, "error"));
	ret->result.status = (int)yyjson_get_int(yyjson_obj_get(o, "status"));
	ret->result.unpacked = number_of(o, "unpacked");
	ret->result.text = mem_strdup(text_of(o, "text"));
	ret->result.url = mem_strdup(text_of(o, "url"));
	yyjson_val *headers = yyjson_obj_get(o, "headers");
	yyjson_arr_foreach(headers, i, n, header)
	{
		if (yyjson_is_str(header))
			strv_add(&ret->result.headers, yyjson_get_str(header));
	}
	return known ? read_files(yyjson_obj_get(o, "files"), &ret->result) : -EINVAL;
}

int fetch_read(struct view line, struct fetch_line *ret)
{
	*ret = (struct fetch_line){ 0 };
	ret->doc = yyjson_read(line.p, line.n, 0);
	yyjson_val *root = yyjson_doc_get_root(ret->doc);
	yyjson_val *progress = yyjson_obj_get(root, "progress"), *result = yyjson_obj_get(root, "result");
	int r = -EINVAL;
	if (yyjson_is_obj(progress)) {
		ret->is_progress = true;
		r = read_progress(progress, &ret->progress);
	} else if (yyjson_is_obj(result)) {
		ret->is_result = true;
		r = read_result(result, ret);
	}
	if (r)
		fetch_line_done(ret);
	return r;
}

void fetch_line_done(struct fetch_line *l)
{
	for (size_t i = 0; i < l->result.nfiles; i++) {
		free(l->result.files[i].path);
		free(l->result.files[i].sha256);
	}
	free(l->result.files);
	strv_done(&l->result.headers);
	free(l->result.text);
	free(l->result.url);
	free(l->error);
	yyjson_doc_free(l->doc);
	*l = (struct fetch_line){ 0 };
}
