/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mask.h"

#include "base/num.h"

#define ACCEPTED                                                                                             \
	"accepted: auto, cpu, none, indices as in 0,1 (in PCI order), or UUIDs and their beginnings as in "  \
	"GPU-3f2a1b00 or MIG-9c1d"

static bool is_uuid(struct view v)
{
	bool known = view_starts(v, VIEW("GPU-")) || view_starts(v, VIEW("MIG-"));
	if (!known || v.n < 5 || v.n > MASK_UUID_MAX)
		return false;
	for (size_t i = 4; i < v.n; i++) {
		char c = v.p[i];
		bool hex = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
		if (!hex && c != '-')
			return false;
	}
	return true;
}

static int id_parse(struct view v, struct mask_id *ret, struct err *reterr)
{
	uint64_t index;
	*ret = (struct mask_id){ .text = v };
	if (num_u64(v, &index) == 0) {
		if (index > MASK_INDEX_MAX)
			return err_set(reterr, -EINVAL, "found the index %.*s; the largest accepted is %d",
				VIEW_ARG(view_cut(v, 40)), MASK_INDEX_MAX);
		ret->is_index = true;
		ret->index = (unsigned)index;
		return 0;
	}
	if (is_uuid(v))
		return 0;
	return err_set(reterr, -EINVAL, "found \"%.*s\"; " ACCEPTED, VIEW_ARG(view_cut(v, 80)));
}

bool mask_same_id(const struct mask_id *a, const struct mask_id *b)
{
	if (a->is_index != b->is_index)
		return false;
	return a->is_index ? a->index == b->index : view_eq_ci(a->text, b->text);
}

static int list_parse(struct view text, struct mask *ret, struct err *reterr)
{
	struct view rest = text;
	ret->kind = MASK_LIST;
	do {
		struct mask_id *id = &ret->ids[ret->len];
		if (ret->len == MASK_IDS_MAX)
			return err_set(reterr, -EINVAL, "found more than %d devices", MASK_IDS_MAX);
		int r = id_parse(view_trim(view_split(rest, ',', &rest)), id, reterr);
		if (r)
			return r;
		for (size_t i = 0; i < ret->len; i++)
			if (mask_same_id(&ret->ids[i], id))
				return err_set(reterr, -EINVAL, "%.*s is named twice; keep one of them",
					VIEW_ARG(id->text));
		ret->len++;
	} while (rest.p);
	return 0;
}

bool mask_means_cpu(struct view text)
{
	return view_eqs(text, "cpu") || view_eqs(text, "none");
}

int mask_parse(struct view text, struct mask *ret, struct err *reterr)
{
	text = view_trim(text);
	*ret = (struct mask){ .kind = MASK_AUTO };
	if (view_eqs(text, "auto"))
		return 0;
	if (mask_means_cpu(text)) {
		ret->kind = MASK_CPU;
		return 0;
	}
	return list_parse(text, ret, reterr);
}

bool mask_has_index(const struct mask *m, unsigned index)
{
	for (size_t i = 0; i < m->len; i++)
		if (m->ids[i].is_index && m->ids[i].index == index)
			return true;
	return false;
}
