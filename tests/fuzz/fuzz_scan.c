/* SPDX-License-Identifier: Apache-2.0
 *
 * The body scanner against yyjson, and the event splitter against itself: the first byte says how the
 * rest is cut into pieces; however it is cut, both must say the same. What the scanner takes must be a
 * JSON object for yyjson as well, with the same model and stream. Built with -Dfuzz=true (clang).
 */
#include <stdlib.h>
#include <string.h>

#include <yyjson.h>

#include "base/num.h"
#include "dialect/dialect.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok)
{
	if (!ok)
		abort();
}

static int scan(struct body_scan *s, struct view v, size_t step)
{
	int r = 0;
	body_scan_init(s);
	for (size_t i = 0; i < v.n && !r; i += step)
		r = body_scan_feed(s, view_cut(view_from(v, i), step));
	int e = body_scan_end(s);
	return r ? r : e;
}

/* Of `user` and the keys of max_tokens the last ones count. */
static void compare_last(const struct body_scan *s, yyjson_val *root)
{
	static const char *const names[] = { "max_tokens", "max_completion_tokens", "max_output_tokens",
		"n_predict" };
	yyjson_val *k, *user = NULL;
	uint64_t limits[4] = { 0 }, most = 0;
	bool has[4] = { false }, any = false;
	yyjson_obj_iter it;
	yyjson_obj_iter_init(root, &it);
	while ((k = yyjson_obj_iter_next(&it))) {
		yyjson_val *v = yyjson_obj_iter_get_val(k);
		if (yyjson_equals_str(k, "user"))
			user = yyjson_is_str(v) && yyjson_get_len(v) <= SCAN_USER_MAX ? v : NULL;
		for (int i = 0; i < 4; i++)
			if (yyjson_equals_str(k, names[i]))
				has[i] = yyjson_is_raw(v) &&
					 num_u64(view_str(yyjson_get_raw(v)), &limits[i]) == 0;
	}
	for (int i = 0; i < 4; i++) {
		any |= has[i];
		most = has[i] ? MAX(most, limits[i]) : most;
	}
	must(s->has_max_tokens == any && s->max_tokens == most);
	must(s->has_user == (user != NULL));
	must(!user ||
		view_eq(view_of(s->user, s->user_len), view_of(yyjson_get_str(user), yyjson_get_len(user))));
}

static void compare(const struct body_scan *s, yyjson_val *root)
{
	must(yyjson_is_obj(root));
	yyjson_val *model = yyjson_obj_get(root, "model"), *stream = yyjson_obj_get(root, "stream");
	must(s->has_model == yyjson_is_str(model));
	must(!s->has_model || view_eq(view_of(s->model, s->model_len),
				      view_of(yyjson_get_str(model), yyjson_get_len(model))));
	must(s->has_stream == yyjson_is_bool(stream));
	must(!s->has_stream || s->stream == yyjson_get_bool(stream));
	compare_last(s, root);
	yyjson_val *k;
	yyjson_obj_iter it;
	yyjson_obj_iter_init(root, &it);
	while ((k = yyjson_obj_iter_next(&it))) { /* no other case of these gets past */
		struct view name = view_of(yyjson_get_str(k), yyjson_get_len(k));
		must(!view_eq_ci(name, VIEW("model")) || view_eqs(name, "model"));
		must(!view_eq_ci(name, VIEW("stream")) || view_eqs(name, "stream"));
	}
}

static void fuzz_scan(struct view v, size_t step)
{
	struct body_scan whole, cut;
	int a = scan(&whole, v, v.n ? v.n : 1), b = scan(&cut, v, step);
	must(a == b && whole.bytes == cut.bytes && whole.failed == cut.failed);
	must(whole.has_user == cut.has_user && whole.has_max_tokens == cut.has_max_tokens &&
		whole.max_tokens == cut.max_tokens && whole.model_begin == cut.model_begin &&
		whole.model_end == cut.model_end);
	yyjson_doc *d = yyjson_read(v.p, v.n, YYJSON_READ_NUMBER_AS_RAW);
	if (!a) {
		must(d != NULL);
		compare(&whole, yyjson_doc_get_root(d));
	}
	yyjson_doc_free(d);
}

static void fuzz_events(struct view v, size_t step, enum event_format f)
{
	struct event_split whole, cut;
	event_split_init(&whole, f);
	event_split_init(&cut, f);
	size_t a = event_split_feed(&whole, v), b = 0;
	for (size_t i = 0; i < v.n; i += step) {
		struct view piece = view_cut(view_from(v, i), step);
		size_t k = event_split_feed(&cut, piece);
		must(k <= piece.n);
		if (k)
			b = i + k;
	}
	must(a == b && whole.events == cut.events && whole.terminal == cut.terminal &&
		whole.started == cut.started);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n == 0)
		return 0;
	size_t step = 1 + data[0] % 17;
	struct view v = view_of(data + 1, n - 1);
	fuzz_scan(v, step);
	fuzz_events(v, step, EVENTS_SSE);
	fuzz_events(v, step, EVENTS_NDJSON);
	return 0;
}
