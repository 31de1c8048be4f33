/* SPDX-License-Identifier: Apache-2.0
 *
 * What holds of every plan, over random scenes (the seed is printed; CORRAL_TEST_SEED sets it).
 */
#include "fit_scene.h"

#include "base/mem.h"
#include "base/num.h"
#include "base/rnd.h"

static struct rnd rnd;
static char ids[SCENE_REPLICAS][24];

static uint64_t below(uint64_t n)
{
	return rnd_below(&rnd, n);
}

static uint64_t seed_from_outside(void)
{
	const char *given = getenv("CORRAL_TEST_SEED");
	uint64_t seed = rnd_os_u64();
	if (given)
		assert_int_equal(num_u64(view_str(given), &seed), 0);
	print_message("seed %llu\n", (unsigned long long)seed);
	rnd_seed(&rnd, seed);
	return seed;
}

static void random_devices(size_t nodes)
{
	static const char *const names[] = { "n3", "n1", "n2", "n8", "n5", "n4", "n9", "n6", "n7", "n0" };
	for (size_t n = 0; n < nodes; n++) {
		size_t count = 1 + below(4);
		for (size_t i = 0; i < count; i++)
			DEVICE(names[n], (uint8_t)(below(8) ? CUDA : ROCM), 4 + below(28),
				.speed = (uint32_t)below(3) * 50, .usable = below(20) > 0,
				.cordoned = below(20) == 0, .integrated = below(20) == 0,
				.foreign = below(4) ? 0 : below(6) * GIB,
				.limit = below(8) ? 0 : (4 + below(20)) * GIB);
		if (below(4))
			DEVICE(names[n], FIT_KIND_CPU, 8 + below(64));
	}
}

/* One that is somewhere with room for it. */
static void random_replica(size_t i)
{
	(void)snprintf(ids[i], sizeof ids[i], "r%zu", i);
	size_t at = below(s.ndevices);
	uint64_t used = s.devices[at].reserved + s.devices[at].foreign;
	if (s.devices[at].kind == FIT_KIND_CPU || used + GIB >= s.devices[at].capacity)
		return;
	uint64_t bytes = 1 + below(s.devices[at].capacity - used);
	scene_run((struct fit_replica){ .replica_id = ids[i],
			  .pool_id = ids[i],
			  .busy = below(4) == 0,
			  .pinned = below(8) == 0,
			  .idle_only = below(8) == 0,
			  .expired = below(4) == 0,
			  .loss = (double)below(5) },
		at, bytes);
	if (at + 1 < s.ndevices && strcmp(s.devices[at + 1].node_id, s.devices[at].node_id) == 0 &&
		s.devices[at + 1].capacity > s.devices[at + 1].reserved + s.devices[at + 1].foreign + GIB &&
		below(2))
		scene_also(at + 1, GIB);
}

static void random_want(void)
{
	size_t n = 1 + below(60);
	if (below(3) == 0)
		WANT(1 + below(40));
	else
		MODEL(n, 0.25 * (double)(1 + below(6)));
	if (s.need.nlayers && below(2))
		for (size_t i = 0; i < n; i++)
			s.layers[i].experts = s.layers[i].weights;
	s.need.compute = below(3) * GIB / 2;
	s.need.output = s.need.nlayers ? below(2) * GIB : 0;
	s.need.host = below(4) * GIB;
	s.need.host_compute = below(2) * GIB;
	s.want.may_evict = below(8) > 0;
	s.want.offload = below(2) ? FIT_OFFLOAD_AUTO : FIT_OFFLOAD_NEVER;
	s.want.cpu = below(3) == 0;
	s.want.gpus = below(4) ? 0 : (uint32_t)(1 + below(3));
	s.want.share = below(8) ? 0 : (1 + below(16)) * GIB;
	s.want.headroom = below(4) ? 0 : GIB;
	if (below(4) == 0)
		BITS(mask, below(1 << 12));
	if (below(4) == 0)
		BITS(avoid, below(1 << 12));
	if (below(4) == 0)
		BITS(prefer, below(1 << 12));
	for (size_t i = 0; i < s.nreplicas; i++) {
		if (below(12) == 0)
			WITH(protect, i);
		if (below(24) == 0)
			WITH(never_with, i);
		if (below(12) == 0)
			WITH(siblings, i);
	}
	s.replicas_max = below(6) ? 0 : (uint32_t)(1 + below(6));
}

static void random_scene(void)
{
	size_t n = below(14);
	random_devices(1 + below(3));
	for (size_t i = 0; i < n; i++)
		random_replica(i);
	random_want();
}

static uint64_t freed_on(size_t device, size_t but)
{
	uint64_t sum = 0;
	for (size_t v = 0; v < s.plan.nvictims; v++) {
		const struct fit_replica *r = &s.replicas[s.plan.victims[v]];
		for (size_t u = r->first_use; v != but && u < r->first_use + r->nuses; u++)
			sum += s.uses[u].device == device ? s.uses[u].bytes : 0;
	}
	return sum;
}

static void check_room(size_t device, uint64_t bytes)
{
	const struct fit_device *d = &s.devices[device];
	uint64_t held = d->reserved - freed_on(device, SIZE_MAX);
	if (!bytes)
		return; /* it may be overfull already */
	assert_true(bytes + held + d->foreign <= d->capacity);
	assert_true(!d->limit || bytes + held <= d->limit);
}

static void check_device(const struct fit_part *part)
{
	const struct fit_device *d = &s.devices[part->device];
	assert_true(d->usable && !d->cordoned && d->kind != FIT_KIND_CPU);
	assert_true(s.want.mask ? s.mask >> part->device & 1 : !d->integrated);
	assert_string_equal(d->node_id, s.devices[s.plan.parts[0].device].node_id);
	assert_int_equal(d->kind, s.devices[s.plan.parts[0].device].kind);
	check_room(part->device, part->bytes);
}

/* Layers and bytes of the parts are those of the need. */
static void check_division(void)
{
	const struct fit_plan *p = &s.plan;
	uint64_t bytes = 0, layers = 0, whole = fit_need_whole(&s.need);
	for (size_t i = 0; i < p->nparts; i++) {
		check_device(&p->parts[i]);
		bytes += p->parts[i].bytes;
		layers += p->parts[i].layers;
	}
	if (p->how == FIT_SHARE || p->how == FIT_NO)
		return;
	if (s.need.nlayers && p->how != FIT_HOST)
		assert_int_equal(layers, p->gpu_layers);
	if (p->how == FIT_ONE)
		assert_true(bytes == whole);
	if (p->how == FIT_SPLIT && s.need.nlayers)
		assert_true(bytes == whole + (p->nparts - 1) * (s.need.compute + s.need.overhead));
	if (p->how == FIT_EXPERTS || p->how == FIT_PARTIAL) {
		uint64_t all = whole + s.need.host + s.need.host_compute +
			       (p->nparts - 1) * (s.need.compute + s.need.overhead);
		bool shared = false;
		for (size_t i = 0; i < p->nparts; i++)
			shared |= s.devices[p->parts[i].device].integrated;
		assert_true(shared || bytes + p->host_bytes == all);
	}
}

static void check_victims(void)
{
	for (size_t i = 0; i < s.plan.nvictims; i++) {
		const struct fit_replica *r = &s.replicas[s.plan.victims[i]];
		assert_true(s.want.may_evict);
		assert_false(r->busy || r->pinned || (r->idle_only && !r->expired));
		assert_false(s.want.protect && s.protect[0] >> s.plan.victims[i] & 1);
		for (size_t k = 0; k < i; k++)
			assert_int_not_equal(s.plan.victims[k], s.plan.victims[i]);
	}
}

/* Whether it fits on what the plan took when one of its victims stayed: the same devices, no other leaves. */
static bool does_without(size_t victim)
{
	const struct fit_plan p = s.plan;
	struct scene before = s;
	uint64_t mask = 0;
	size_t staying = p.victims[victim];
	if (s.want.never_with && s.never_with[0] >> staying & 1)
		return false;
	for (size_t i = 0; i < p.nparts; i++)
		mask |= (uint64_t)1 << p.parts[i].device;
	if (p.how == FIT_HOST)
		mask = (uint64_t)1 << p.host;
	for (size_t d = 0; d < s.ndevices; d++)
		s.devices[d].reserved -= freed_on(d, victim);
	for (size_t i = 0; i < p.nvictims; i++)
		if (i != victim)
			s.replicas[p.victims[i]].nuses = 0;
	BITS(mask, mask);
	s.want.may_evict = false;
	s.want.never_with = NULL;
	s.replicas_max = 0;
	s.want.gpus = s.want.gpus ? s.want.gpus : (uint32_t)p.nparts;
	s.want.cpu = p.how == FIT_HOST;
	PLAN();
	bool does = s.plan.how == p.how;
	struct buf text = s.text;
	s = before;
	s.text = text;
	s.want.mask = before.want.mask;
	return does;
}

static void check_minimal(void)
{
	if (s.replicas_max)
		return;
	for (size_t i = 0; i < s.plan.nvictims; i++)
		assert_false(does_without(i));
}

/* The same facts listed otherwise: nodes turned about, replicas and their uses shuffled. */
static void shuffle(void)
{
	struct scene old = s;
	size_t to[SCENE_DEVICES], at = 0;
	for (size_t end = old.ndevices; end > 0;) {
		size_t from = end;
		while (from > 0 && strcmp(old.devices[from - 1].node_id, old.devices[end - 1].node_id) == 0)
			from--;
		for (size_t i = from; i < end; i++) {
			to[i] = at;
			s.devices[at++] = old.devices[i];
		}
		end = from;
	}
	size_t order[SCENE_REPLICAS];
	for (size_t i = 0; i < old.nreplicas; i++) {
		size_t k = below(i + 1);
		order[i] = i;
		order[i] = order[k];
		order[k] = i;
	}
	memset(s.protect, 0, 6 * sizeof s.protect[0]);
	s.mask = s.prefer = s.avoid = 0;
	for (size_t i = 0; i < old.ndevices; i++) {
		s.mask |= (old.mask >> i & 1) << to[i];
		s.prefer |= (old.prefer >> i & 1) << to[i];
		s.avoid |= (old.avoid >> i & 1) << to[i];
	}
	s.nuses = 0;
	for (size_t i = 0; i < old.nreplicas; i++) {
		const struct fit_replica *r = &old.replicas[order[i]];
		s.replicas[i] = *r;
		s.replicas[i].first_use = s.nuses;
		for (size_t u = r->nuses; u-- > 0;)
			s.uses[s.nuses++] = (struct fit_use){ to[old.uses[r->first_use + u].device],
				old.uses[r->first_use + u].bytes };
		s.protect[0] |= (old.protect[0] >> order[i] & 1) << i;
		s.never_with[0] |= (old.never_with[0] >> order[i] & 1) << i;
		s.siblings[0] |= (old.siblings[0] >> order[i] & 1) << i;
	}
}

CASE(every_plan_keeps_what_it_promises)
{
	enum { ROUNDS = 40000 };
	uint64_t seed = seed_from_outside(), counts[FIT_SHARE + 1] = { 0 }, evictions = 0;
	for (int i = 0; i < ROUNDS; i++) {
		struct buf text = s.text;
		memset(&s, 0, sizeof s);
		s.text = text;
		random_scene();
		PLAN();
		counts[s.plan.how]++;
		evictions += s.plan.nvictims > 0;
		check_division();
		if (s.plan.host != FIT_NONE && s.plan.host_bytes)
			check_room(s.plan.host, s.plan.host_bytes);
		check_victims();
		check_minimal();
		PLAN();
		AUTO(mem_freep) char *first = mem_strdup(scene_text());
		shuffle();
		PLAN();
		if (strcmp(first, scene_text()) != 0)
			fail_msg("seed %llu, round %d: \"%s\", and listed otherwise \"%s\"",
				(unsigned long long)seed, i, first, scene_text());
	}
	for (size_t i = 0; i < ARRAY_LEN(counts); i++)
		assert_true(counts[i] > ROUNDS / 1000); /* all of them were seen */
	assert_true(evictions > ROUNDS / 50);
}

/* Changes of what there is, told to a table; ties are frequent, and so are nodes without room. */
static void random_change(struct fit_table *t, size_t fresh)
{
	struct fit_facts f;
	if (below(2) && s.nreplicas) {
		size_t i = below(s.nreplicas);
		struct fit_replica *p = &s.replicas[i];
		*p = (struct fit_replica){ p->replica_id, p->pool_id, p->first_use, p->nuses, below(4) == 0,
			below(8) == 0, below(8) == 0, below(4) == 0, (double)below(5) };
		uint64_t bytes = below(4) * GIB;
		if (p->nuses && below(2)) {
			s.devices[s.uses[p->first_use].device].reserved += bytes;
			s.uses[p->first_use].bytes += bytes;
		} else if (below(8) == 0) {
			p->nuses = 0; /* it is not known where it is */
		}
		scene_facts(&f);
		fit_table_replica(t, &f, i);
	} else if (below(2) && s.nreplicas) { /* one goes, the last takes its place */
		size_t i = below(s.nreplicas), last = s.nreplicas - 1;
		struct fit_replica gone = s.replicas[i];
		for (size_t u = gone.first_use; u < gone.first_use + gone.nuses; u++) {
			s.devices[s.uses[u].device].reserved -= s.uses[u].bytes;
			s.devices[s.uses[u].device].replicas--;
		}
		s.replicas[i] = s.replicas[last];
		s.nreplicas--;
		scene_facts(&f);
		fit_table_replica(t, &f, i);
		fit_table_replica(t, &f, last);
	} else if (s.nreplicas < 40) {
		size_t had = s.nreplicas;
		random_replica(fresh);
		scene_facts(&f);
		if (s.nreplicas > had)
			fit_table_replica(t, &f, had);
	}
	size_t d = below(s.ndevices);
	s.devices[d].usable = below(10) > 0;
	s.devices[d].cordoned = below(10) == 0;
	s.devices[d].foreign = below(3) * GIB;
	s.devices[d].speed = (uint32_t)below(3) * 50;
	scene_facts(&f);
	fit_table_device(t, &f, d);
}

CASE(a_table_gives_the_same_plan_as_a_look_at_everything)
{
	enum { ROUNDS = 4000, CHANGES = 12 };
	seed_from_outside();
	for (int i = 0; i < ROUNDS; i++) {
		struct buf text = s.text;
		struct fit_facts f;
		memset(&s, 0, sizeof s);
		s.text = text;
		random_devices(1 + below(10));
		for (size_t k = 0, n = below(40); k < n; k++)
			random_replica(k);
		if (below(3) == 0) /* some card, some model: many nodes are alike */
			for (size_t d = 0; d < s.ndevices; d++)
				s.devices[d].capacity = MAX((uint64_t)24 * GIB, s.devices[d].reserved);
		scene_facts(&f);
		AUTO(fit_table_freep) struct fit_table *t = fit_table_new(&f);
		for (int k = 0; k < CHANGES; k++) {
			random_change(t, 40 + (size_t)k);
			memset(s.protect, 0, sizeof s.protect);
			memset(s.never_with, 0, sizeof s.never_with);
			memset(s.siblings, 0, sizeof s.siblings);
			random_want();
			PLAN();
			scene_plan_with(t);
		}
	}
}

/* On one device, where every set can be tried: nobody finds a cheaper one. */
CASE(no_set_of_victims_costs_less)
{
	enum { ROUNDS = 4000, MOST = 9 };
	seed_from_outside();
	for (int i = 0; i < ROUNDS; i++) {
		struct buf text = s.text;
		memset(&s, 0, sizeof s);
		s.text = text;
		GPU(40);
		for (size_t k = 0; k < MOST; k++) {
			(void)snprintf(ids[k], sizeof ids[k], "r%zu", k);
			RUNS(ids[k], 0, 1 + below(4), LOSS((double)below(6)), .expired = below(5) == 0);
		}
		WANT(10 + below(20));
		PLAN();
		double least = s.plan.loss + 1;
		for (unsigned set = 0; set < 1U << MOST; set++) {
			uint64_t freed = 0;
			double loss = 0;
			for (size_t k = 0; k < MOST; k++) {
				freed += set >> k & 1 ? s.uses[k].bytes : 0;
				loss += set >> k & 1 && !s.replicas[k].expired ? s.replicas[k].loss : 0;
			}
			if (40 * GIB - s.devices[0].reserved + freed >= s.need.whole)
				least = MIN(least, loss);
		}
		assert_int_equal(s.plan.how, FIT_ONE);
		assert_true(s.plan.loss <= least);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(every_plan_keeps_what_it_promises),
		UNIT(a_table_gives_the_same_plan_as_a_look_at_everything),
		UNIT(no_set_of_victims_costs_less),
	};
	return cmocka_run_group_tests_name("fit_all", tests, NULL, NULL);
}
