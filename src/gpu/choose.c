/* SPDX-License-Identifier: Apache-2.0
 *
 * From a mask and a policy to devices, or to the sentence that says why not. No clock, no I/O.
 */
#include <stdio.h>

#include "gpu/gpu_int.h"

/* ---- for people ------------------------------------------------------------------------------------ */

static const char *id_of(const struct gpu_device *d)
{
	return d->uuid[0] ? d->uuid : d->pci;
}

void gpu_list_describe(const struct gpu_list *list, struct buf *out)
{
	bool any = false;
	for (size_t i = 0; i < list->len; i++) {
		const struct gpu_device *d = &list->items[i];
		if (d->kind == GPU_CPU)
			continue;
		(void)buf_addf(out, "%s%u: %s (%s%s%s)", any ? ", " : "", d->index, d->name, id_of(d),
			d->state == GPU_OK ? "" : ", ", d->state == GPU_OK ? "" : gpu_state_name(d->state));
		any = true;
	}
	if (!any)
		(void)buf_adds(out, "no GPU");
}

static int refuse_key(
	const struct gpu_list *list, const char *key, struct view id, const char *why, struct err *reterr)
{
	AUTO(buf_done) struct buf there = BUF(300); /* cut there: the sentence has its own bound */
	gpu_list_describe(list, &there);
	return err_set(
		reterr, -EINVAL, "%s names %.*s, %s; there is %s", key, VIEW_ARG(id), why, buf_str(&there));
}

static int refuse(const struct gpu_list *list, struct view id, const char *why, struct err *reterr)
{
	return refuse_key(list, "devices", id, why, reterr);
}

/* ---- a list ------------------------------------------------------------------------------------------ */

static bool names(const struct mask_id *id, const struct gpu_device *d)
{
	if (d->kind == GPU_CPU)
		return false;
	if (id->is_index)
		return d->index == id->index;
	struct view uuid = view_str(d->uuid);
	return uuid.n >= id->text.n && view_eq_ci(view_cut(uuid, id->text.n), id->text);
}

static int find(const struct mask_id *id, const char *key, const struct gpu_list *list,
	const struct gpu_device **ret, struct err *reterr)
{
	*ret = NULL;
	for (size_t i = 0; i < list->len; i++) {
		const struct gpu_device *d = &list->items[i];
		if (!names(id, d))
			continue;
		if (!id->is_index && *ret && strlen(d->uuid) != id->text.n)
			return refuse_key(
				list, key, id->text, "which is the beginning of more than one UUID", reterr);
		*ret = d;
	}
	if (!*ret)
		return refuse_key(list, key, id->text, "which is not on this machine", reterr);
	return 0;
}

int gpu_check_list(const struct mask *m, const char *key, const struct gpu_list *list, struct err *reterr)
{
	unsigned seen[MASK_IDS_MAX];
	for (size_t i = 0; m->kind == MASK_LIST && i < m->len; i++) {
		const struct gpu_device *d;
		int r = find(&m->ids[i], key, list, &d, reterr);
		if (r)
			return r;
		seen[i] = d->index;
		for (size_t k = 0; k < i; k++)
			if (seen[k] == d->index)
				return refuse_key(
					list, key, m->ids[i].text, "a device that is already named", reterr);
	}
	return 0;
}

static int choose_list(
	const struct mask *m, const struct gpu_list *list, struct gpu_choice *ret, struct err *reterr)
{
	ret->asked = ret->named = true;
	for (size_t i = 0; i < m->len; i++) {
		const struct gpu_device *d;
		int r = find(&m->ids[i], "devices", list, &d, reterr);
		if (r)
			return r;
		for (size_t k = 0; k < ret->len; k++)
			if (ret->gpus[k].index == d->index)
				return refuse(list, m->ids[i].text, "a device that is already named", reterr);
		if (ret->len && ret->gpus[0].kind != d->kind)
			return refuse(list, m->ids[i].text,
				"which is of another maker than the device before it: an engine takes one "
				"maker's",
				reterr);
		if (d->split)
			return refuse(list, m->ids[i].text,
				"which is divided into MIG instances: name one of those by its UUID", reterr);
		if (ret->len && (d->part || ret->gpus[0].part))
			return refuse(list, m->ids[i].text,
				"but an engine takes one MIG instance, or whole GPUs", reterr);
		ret->gpus[ret->len++] = *d;
	}
	for (size_t i = 0; i < ret->len; i++)
		if (ret->gpus[i].state != GPU_OK)
			return err_set(reterr, -ENODEV, "GPU %u (%s) is %s: %s", ret->gpus[i].index,
				ret->gpus[i].name, gpu_state_name(ret->gpus[i].state), ret->gpus[i].reason);
	return 0;
}

/* ---- auto ---------------------------------------------------------------------------------------------- */

/* A GPU that should be there for engines: not the one that is part of the processor, nor a guest's. */
static bool counts(const struct gpu_device *d)
{
	return d->kind != GPU_CPU && !d->integrated && !d->given_away && !d->split;
}

static const struct gpu_device *first_hidden(const struct gpu_list *list)
{
	for (size_t i = 0; i < list->len; i++)
		if (counts(&list->items[i]) && list->items[i].state != GPU_OK)
			return &list->items[i];
	return NULL;
}

static void take_usable(const struct gpu_list *list, struct gpu_choice *ret)
{
	for (size_t i = 0; i < list->len; i++) {
		const struct gpu_device *d = &list->items[i];
		/* A process can use one MIG instance, and none beside whole GPUs. */
		bool beside = !ret->len || (ret->gpus[0].kind == d->kind && !d->part && !ret->gpus[0].part);
		if (counts(d) && d->state == GPU_OK && beside)
			ret->gpus[ret->len++] = *d;
	}
}

static int choose_auto(enum gpu_policy policy, const struct gpu_list *list, const char *looked,
	struct gpu_choice *ret, struct err *reterr)
{
	take_usable(list, ret);
	const struct gpu_device *hidden = first_hidden(list);
	if (ret->len) {
		if (hidden)
			snprintf(ret->note, sizeof ret->note, "GPU %u (%.60s) is %s and not used: %.120s",
				hidden->index, hidden->name, gpu_state_name(hidden->state), hidden->reason);
		return 0;
	}
	if (policy == GPU_POLICY_REQUIRED && !hidden)
		return err_set(reterr, -ENODEV, "a GPU is required (gpu: required) and none was found: %s",
			looked ? looked : "nothing was looked at");
	if (hidden && policy != GPU_POLICY_OPTIONAL)
		return err_set(reterr, -ENODEV, "GPU %u (%s, %s) is %s: %s", hidden->index, hidden->name,
			id_of(hidden), gpu_state_name(hidden->state), hidden->reason);
	ret->cpu = true;
	ret->asked = hidden;
	if (hidden)
		snprintf(ret->note, sizeof ret->note, "the CPU, because GPU %u (%.60s) is %s: %.120s",
			hidden->index, hidden->name, gpu_state_name(hidden->state), hidden->reason);
	else if (policy == GPU_POLICY_OPTIONAL)
		snprintf(ret->note, sizeof ret->note, "the CPU, because this machine has no GPU");
	return 0;
}

int gpu_choose(const struct mask *m, enum gpu_policy policy, const struct gpu_list *list, const char *looked,
	struct gpu_choice *ret, struct err *reterr)
{
	ret->cpu = ret->asked = ret->named = false;
	ret->len = 0;
	ret->note[0] = '\0';
	if (m->kind == MASK_LIST && policy == GPU_POLICY_NONE)
		return err_set(reterr, -EINVAL,
			"devices names %.*s, but gpu: none keeps every engine on the CPU",
			VIEW_ARG(m->ids[0].text));
	if (m->kind == MASK_LIST)
		return choose_list(m, list, ret, reterr);
	if (m->kind == MASK_AUTO && policy != GPU_POLICY_NONE)
		return choose_auto(policy, list, looked, ret, reterr);
	ret->cpu = ret->asked = true;
	return 0;
}

/* ---- what the engine is told ----------------------------------------------------------------------------
 */

void gpu_choice_mask(const struct gpu_choice *c, struct buf *out)
{
	if (c->cpu)
		(void)buf_adds(out, "cpu");
	for (size_t i = 0; i < c->len && !c->cpu; i++)
		(void)buf_addf(out, "%s%u", i ? "," : "", c->gpus[i].index);
}

static bool all_have_uuids(const struct gpu_choice *c)
{
	for (size_t i = 0; i < c->len; i++)
		if (!c->gpus[i].uuid[0])
			return false;
	return c->len > 0;
}

static void add_uuids(const struct gpu_choice *c, struct buf *out)
{
	for (size_t i = 0; i < c->len; i++)
		(void)buf_addf(out, "%s%s", i ? "," : "", c->gpus[i].uuid);
}

void gpu_choice_words(const struct gpu_choice *c, struct buf *out)
{
	if (!c->cpu && c->gpus[0].kind == GPU_CUDA && all_have_uuids(c))
		add_uuids(c, out);
	else
		gpu_choice_mask(c, out);
}

static void env_add(struct strv *out, const char *name, const struct gpu_choice *c, bool fits)
{
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	if (fits && c->gpus[0].kind == GPU_CUDA && all_have_uuids(c) && name[0] == 'C')
		add_uuids(c, &b);
	else if (fits)
		gpu_choice_mask(c, &b);
	strv_addf(out, "%s=%s", name, buf_str(&b));
}

/* HIP counts AMD's devices alone; Vulkan counts all, in an order that is the loader's own. */
static void env_hip(struct strv *out, const struct gpu_choice *c)
{
	AUTO(buf_done) struct buf b = BUF(4 * KIB);
	for (size_t i = 0; i < c->len && c->gpus[0].kind == GPU_AMD; i++)
		(void)buf_addf(&b, "%s%u", i ? "," : "", c->gpus[i].vendor_index);
	strv_addf(out, "HIP_VISIBLE_DEVICES=%s", buf_str(&b));
}

void gpu_choice_env(const struct gpu_choice *c, struct strv *out)
{
	bool cuda = !c->cpu && c->len && c->gpus[0].kind == GPU_CUDA;
	if (c->cpu && !c->asked)
		return; /* there is no GPU to keep away from */
	if (cuda)
		strv_add(out, "CUDA_DEVICE_ORDER=PCI_BUS_ID");
	if (c->asked || c->named || cuda)
		env_add(out, "CUDA_VISIBLE_DEVICES", c, cuda);
	if (!c->asked && !c->named)
		return;
	env_hip(out, c);
	if (!c->cpu) /* an empty list means all of them to Vulkan; --device none keeps llama.cpp away */
		env_add(out, "GGML_VK_VISIBLE_DEVICES", c, true);
}
