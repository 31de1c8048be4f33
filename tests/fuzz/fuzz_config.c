/* SPDX-License-Identifier: Apache-2.0
 *
 * libFuzzer: any bytes as a configuration. What loads must be shown, and what was shown loads again.
 * Run it with -detect_leaks=0: the YAML library itself leaks on some broken inputs.
 */
#include <stdlib.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const env[] = { "HOME=/home/u", "XDG_RUNTIME_DIR=/run/user/7", NULL };

static struct config *load(struct view text, struct buf *out)
{
	struct config_source src = { .path = "fuzz.yaml", .text = text, .env = env };
	AUTO(config_errors_done) struct config_errors errs = { 0 };
	struct config *c = NULL;
	if (config_load(&src, &c, &errs)) {
		if (!errs.len)
			abort();
		(void)config_errors_print(&errs, true, out);
	}
	return c;
}

static bool masked(const struct buf *b)
{
	return view_search(buf_view(b), VIEW("***")) >= 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	AUTO(buf_done) struct buf out = BUF(16 * MIB);
	AUTO(buf_done) struct buf json = BUF(16 * MIB);
	if (size > CONFIG_FILE_MAX)
		return 0;
	AUTO(config_unrefp) struct config *c = load(view_of(size ? (const char *)data : "", size), &out);
	if (!c)
		return 0;
	(void)config_show(c, CONFIG_SHOW_JSON | CONFIG_SHOW_EFFECTIVE, &json);
	buf_reset(&out);
	if (config_show(c, CONFIG_SHOW_EFFECTIVE, &out) || masked(&out) || out.len > CONFIG_FILE_MAX)
		return 0;
	AUTO(config_unrefp) struct config *again = load(buf_view(&out), &json);
	if (!again || again->npools != c->npools)
		abort();
	return 0;
}
