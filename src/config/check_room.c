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

/* A list of devices, or nothing. Whether they exist is for the machine that runs the pool to say. */
static bool read_wish(struct loader *ld, size_t index, const char *name, const char *text, struct mask *ret)
{
	const struct config_pool *p = &ld->cfg->pools[index];
	const struct config_origin *at = &p->from[field_find(SCOPE_POOL, view_str(name))];
	char key[64];
	struct err e = { 0 };
	*ret = (struct mask){ 0 };
	if (!text)
		return false;
	snprintf(key, sizeof key, "pools[%zu].%s", index, name);
	bool ok = mask_parse(view_str(text), ret, &e) == 0 && ret->kind == MASK_LIST;
	if (!ok && e.code)
		load_fail(ld, at, key, "%s", e.msg);
	else if (!ok)
		load_fail(ld, at, key,
			"found \"%.80s\"; accepted: indices as in 0,1 (in PCI order), or UUIDs and their "
			"beginnings as in GPU-3f2a1b00; leave the key out for no wish",
			text);
	return ok;
}

static void check_wishes(struct loader *ld, size_t index)
{
	const struct config_pool *p = &ld->cfg->pools[index];
	const struct config_origin *at = &p->from[field_find(SCOPE_POOL, VIEW("avoid"))];
	struct mask prefer, avoid;
	char key[64];
	bool both = read_wish(ld, index, "prefer", p->prefer, &prefer);
	both &= read_wish(ld, index, "avoid", p->avoid, &avoid);
	snprintf(key, sizeof key, "pools[%zu].avoid", index);
	for (size_t i = 0; both && i < avoid.len; i++)
		for (size_t k = 0; k < prefer.len; k++)
			if (mask_same_id(&avoid.ids[i], &prefer.ids[k]))
				load_fail(ld, at, key, "%.*s is preferred, too; keep one of them",
					VIEW_ARG(avoid.ids[i].text));
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
	for (size_t i = 0; i < ld->cfg->npools; i++) {
		check_never_with(ld, i);
		check_wishes(ld, i);
	}
}
