/* SPDX-License-Identifier: Apache-2.0
 *
 * What keys about memory and room name: pools that exist, devices and sizes.
 */
#include <stdio.h>
#include <string.h>

#include "base/mask.h"
#include "base/num.h"
#include "config/config_int.h"

int config_budget_read(const char *item, struct view *ret_device, uint64_t *ret_bytes, struct err *reterr)
{
	struct view size, device = view_trim(view_split(view_str(item), '=', &size));
	struct mask m;
	if (!size.p || num_size(view_trim(size), ret_bytes) || !*ret_bytes)
		return err_set(reterr, -EINVAL,
			"found \"%.80s\"; accepted: DEVICE=SIZE, as in 0=20GiB or *=10GiB", item);
	if (!view_eqs(device, "*") && (mask_parse(device, &m, NULL) || m.kind != MASK_LIST || m.len != 1))
		return err_set(reterr, -EINVAL,
			"found \"%.80s\"; accepted before the =: a device's index, its UUID or its "
			"beginning, "
			"or *",
			item);
	*ret_device = device;
	return 0;
}

static bool is_pool(const struct loader *ld, const char *id)
{
	for (size_t i = 0; i < ld->cfg->npools; i++)
		if (ld->cfg->pools[i].id && strcmp(ld->cfg->pools[i].id, id) == 0)
			return true;
	return false;
}

static void check_never_with(struct loader *ld, size_t index)
{
	const struct config_pool *p = &ld->cfg->pools[index];
	const struct config_origin *at = &p->from[field_find(SCOPE_POOL, VIEW("never_with"))];
	char key[64];
	snprintf(key, sizeof key, "pools[%zu].never_with", index);
	for (size_t i = 0; i < p->never_with.len; i++) {
		const char *other = p->never_with.items[i];
		if (p->id && strcmp(p->id, other) == 0)
			load_fail(ld, at, key, "found \"%.80s\", which is this pool itself; name others",
				other);
		else if (!is_pool(ld, other))
			load_fail(ld, at, key, "found \"%.80s\"; accepted: ids of pools of this file", other);
	}
}

void check_room(struct loader *ld)
{
	const struct strv *b = &ld->cfg->budget.device_bytes;
	const struct config_origin *at = &ld->cfg->from[field_find(SCOPE_TOP, VIEW("budget.device_bytes"))];
	for (size_t i = 0; i < b->len; i++) {
		struct view device;
		uint64_t bytes;
		struct err e = { 0 };
		if (config_budget_read(b->items[i], &device, &bytes, &e))
			load_fail(ld, at, "budget.device_bytes", "%s", e.msg);
	}
	for (size_t i = 0; i < ld->cfg->npools; i++)
		check_never_with(ld, i);
}
