/* SPDX-License-Identifier: Apache-2.0 */
#include "control/plan.h"

static uint32_t count_wanted(const struct plan_slot *s, uint32_t n, bool usable_only)
{
	uint32_t k = 0;
	for (uint32_t i = 0; i < n; i++)
		k += s[i].wanted && (!usable_only || !s[i].failed);
	return k;
}

static void want(struct plan_slot *s, mono_t now)
{
	s->wanted = true;
	s->busy_at = now;
}

/* The first that is not wanted yet. */
static void want_one_more(struct plan_slot *slots, uint32_t n, mono_t now)
{
	for (uint32_t i = 0; i < n; i++) {
		if (!slots[i].wanted) {
			want(&slots[i], now);
			return;
		}
	}
}

static void grow(const struct plan_facts *f, struct plan_slot *slots, uint32_t n)
{
	uint32_t limit = f->max < n ? f->max : n;
	uint32_t floor = f->min > (f->start ? 1u : 0u) ? f->min : (f->start ? 1u : 0u);
	if (f->always)
		floor = limit = n;
	while (count_wanted(slots, n, false) < floor && count_wanted(slots, n, false) < n)
		want_one_more(slots, n, f->now);
	if (!f->waiting)
		return;
	uint64_t need = f->waiting;
	for (uint32_t i = 0; i < n; i++)
		need += slots[i].leases + slots[i].cooling;
	if (count_wanted(slots, n, false) == 0 && limit > 0)
		want_one_more(slots, n, f->now);
	while ((uint64_t)count_wanted(slots, n, true) * f->slots < need &&
		count_wanted(slots, n, false) < limit)
		want_one_more(slots, n, f->now);
}

/* A smaller maximum than before: the last that is idle, else the last, until it holds. */
static void cap(const struct plan_facts *f, struct plan_slot *slots, uint32_t n)
{
	uint32_t max = f->max > f->min ? f->max : f->min;
	while (!f->always && count_wanted(slots, n, false) > max) {
		struct plan_slot *last = NULL;
		for (uint32_t i = 0; i < n; i++) {
			struct plan_slot *s = &slots[i];
			bool idle = !(s->leases + s->cooling);
			if (s->wanted && (!last || idle || last->leases + last->cooling))
				last = s;
		}
		last->wanted = false;
	}
}

/* From the last on: idle for keep_alive and above the minimum. Returns the next moment one runs out. */
static mono_t shrink(const struct plan_facts *f, struct plan_slot *slots, uint32_t n)
{
	mono_t next = MONO_NEVER;
	if (f->keep_alive_ms < 0 || f->always)
		return next;
	for (uint32_t i = n; i-- > 0;) {
		struct plan_slot *s = &slots[i];
		if (!s->wanted || s->leases + s->cooling || f->waiting)
			continue;
		if (count_wanted(slots, n, false) <= f->min)
			break;
		mono_t due = mono_add_ms(s->busy_at, f->keep_alive_ms);
		if (!mono_before(f->now, due))
			s->wanted = false;
		else if (mono_before(due, next))
			next = due;
	}
	return next;
}

mono_t plan_replicas(const struct plan_facts *f, struct plan_slot *slots, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		/* keep_alive counts from the last use, and never while a model is still being loaded */
		bool loading = slots[i].wanted && !slots[i].ready && !slots[i].failed;
		if (slots[i].leases || slots[i].cooling || loading)
			slots[i].busy_at = f->now;
		if (f->held)
			slots[i].wanted = false;
	}
	if (f->held)
		return MONO_NEVER;
	grow(f, slots, n);
	cap(f, slots, n);
	return shrink(f, slots, n);
}
