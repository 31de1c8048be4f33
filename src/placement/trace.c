/* SPDX-License-Identifier: Apache-2.0 */
#include "placement/trace.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "base/rnd.h"

/* What a line may say; of a key that is not written its default stays. */
struct line {
	uint64_t bytes, foreign, host, slots, key, turns, seed;
	int64_t load, ret, keep_alive, at, back, service, tool, every, until, max_wait, hold;
	double cost;
	bool pinned, tools;
	enum swap_hold hold_after;
};
struct reader {
	struct trace *t;
	unsigned number; /* of the line */
	struct err *err;
};

enum what { SIZE, TIME, NUMBER, COST, FLAG, HOLD };
static const struct field {
	const char *name;
	enum what what;
	size_t at;
} fields[] = {
	{ "bytes", SIZE, offsetof(struct line, bytes) },
	{ "foreign", SIZE, offsetof(struct line, foreign) },
	{ "host", SIZE, offsetof(struct line, host) },
	{ "slots", NUMBER, offsetof(struct line, slots) },
	{ "key", NUMBER, offsetof(struct line, key) },
	{ "turns", NUMBER, offsetof(struct line, turns) },
	{ "seed", NUMBER, offsetof(struct line, seed) },
	{ "load", TIME, offsetof(struct line, load) },
	{ "return", TIME, offsetof(struct line, ret) },
	{ "keep_alive", TIME, offsetof(struct line, keep_alive) },
	{ "at", TIME, offsetof(struct line, at) },
	{ "back", TIME, offsetof(struct line, back) },
	{ "for", TIME, offsetof(struct line, service) },
	{ "tool", TIME, offsetof(struct line, tool) },
	{ "every", TIME, offsetof(struct line, every) },
	{ "until", TIME, offsetof(struct line, until) },
	{ "max_wait", TIME, offsetof(struct line, max_wait) },
	{ "hold", TIME, offsetof(struct line, hold) },
	{ "cost", COST, offsetof(struct line, cost) },
	{ "pinned", FLAG, offsetof(struct line, pinned) },
	{ "tools", FLAG, offsetof(struct line, tools) },
	{ "hold_after", HOLD, offsetof(struct line, hold_after) },
};

static int set(const struct field *f, struct view value, struct line *l)
{
	void *p = (char *)l + f->at;
	uint64_t n = 0;
	switch (f->what) {
	case SIZE: return num_size(value, p);
	case TIME: return num_duration_ms(value, p) || *(int64_t *)p < 0 ? -EINVAL : 0;
	case NUMBER: return num_u64(value, p);
	case FLAG: *(bool *)p = true; return value.n ? -EINVAL : 0;
	case COST:
		if (num_u64(value, &n))
			return -EINVAL;
		*(double *)p = (double)n;
		return 0;
	case HOLD: {
		static const char *const names[] = { "tool_calls", "always", "never" };
		for (size_t i = 0; i < ARRAY_LEN(names); i++) {
			if (view_eqs(value, names[i])) {
				*(enum swap_hold *)p = (enum swap_hold)i;
				return 0;
			}
		}
		return -EINVAL;
	}
	}
	return -EINVAL;
}

static const char *accepted(enum what w)
{
	static const char *const texts[] = { "a size as 20GiB", "a time as 4s or 500ms", "a number",
		"a number", "no value", "tool_calls, always or never" };
	return texts[w];
}

static int read_fields(struct reader *r, struct view rest, struct line *l)
{
	while (rest.n) {
		struct view value, word = view_trim(view_split(rest, ' ', &rest));
		if (!word.n)
			continue;
		struct view name = view_split(word, '=', &value);
		const struct field *f = NULL;
		for (size_t i = 0; i < ARRAY_LEN(fields) && !f; i++)
			f = view_eqs(name, fields[i].name) ? &fields[i] : NULL;
		if (!f)
			return err_set(r->err, -EINVAL, "line %u: there is no key \"%.*s\"", r->number,
				VIEW_ARG(name));
		if (set(f, value, l))
			return err_set(r->err, -EINVAL, "line %u: %s takes %s, found \"%.*s\"", r->number,
				f->name, accepted(f->what), VIEW_ARG(value));
	}
	return 0;
}

static int full(struct reader *r, const char *what, size_t most)
{
	return err_set(r->err, -E2BIG, "line %u: more than %zu %s", r->number, most, what);
}

static int add_device(struct reader *r, const struct line *l, uint64_t capacity, bool host)
{
	struct sim_setup *s = &r->t->setup;
	const struct fit_device *last = s->ndevices ? &r->t->devices[s->ndevices - 1] : NULL;
	const char *node = r->t->nnodes ? r->t->nodes[r->t->nnodes - 1] : "trace";
	if (s->ndevices == TRACE_DEVICES_MAX)
		return full(r, "devices", TRACE_DEVICES_MAX);
	if (last && last->kind == FIT_KIND_CPU && strcmp(last->node_id, node) == 0)
		return err_set(r->err, -EINVAL, "line %u: the host comes after the devices, once", r->number);
	r->t->devices[s->ndevices] = (struct fit_device){ .node_id = node,
		.device_id = host ? "host" : "gpu",
		.index = (uint32_t)s->ndevices,
		.kind = host ? FIT_KIND_CPU : 1,
		.usable = true,
		.capacity = capacity,
		.foreign = l->foreign };
	s->ndevices++;
	return 0;
}

static int add_model(struct reader *r, const struct line *l, struct view name)
{
	struct sim_setup *s = &r->t->setup;
	if (s->nmodels == TRACE_MODELS_MAX)
		return full(r, "models", TRACE_MODELS_MAX);
	if (!l->slots || l->slots > 1024 || l->ret >= 5000)
		return err_set(
			r->err, -EINVAL, "line %u: slots are 1 to 1024, return is below 5s", r->number);
	r->t->models[s->nmodels++] = (struct sim_model){ .id = mem_viewdup(name),
		.bytes = l->bytes,
		.host_bytes = l->host,
		.slots = (uint32_t)l->slots,
		.load_ms = l->load,
		.return_ms = l->ret,
		.keep_alive_ms = l->keep_alive,
		.pinned = l->pinned,
		.evict_cost = l->cost };
	return 0;
}

static int add_request(struct reader *r, struct sim_request q)
{
	struct sim_setup *s = &r->t->setup;
	if (s->nrequests == TRACE_REQUESTS_MAX)
		return full(r, "requests", TRACE_REQUESTS_MAX);
	r->t->requests[s->nrequests++] = q;
	return 0;
}

static int add_agent(struct reader *r, const struct line *l, size_t model)
{
	for (uint64_t i = 0; i < l->turns; i++) {
		size_t after = i ? r->t->setup.nrequests - 1 : SIM_NONE;
		if (add_request(r, (struct sim_request){ i ? l->tool : l->at, after, model, l->service,
					   l->key, i + 1 < l->turns }))
			return -E2BIG;
	}
	return 0;
}

static int add_poisson(struct reader *r, const struct line *l, size_t model)
{
	struct rnd rnd;
	double at = (double)l->at;
	if (!l->every || !l->until)
		return err_set(r->err, -EINVAL, "line %u: poisson needs every= and until=", r->number);
	rnd_seed(&rnd, l->seed);
	for (;;) {
		at += -log(1 - rnd_unit(&rnd)) * (double)l->every;
		if (at >= (double)l->until)
			return 0;
		if (add_request(r, (struct sim_request){
					   (int64_t)at, SIM_NONE, model, l->service, l->key, l->tools }))
			return -E2BIG;
	}
}

static int add_node(struct reader *r, struct view name)
{
	for (size_t i = 0; i < r->t->nnodes; i++)
		if (view_eqs(name, r->t->nodes[i]))
			return err_set(r->err, -EEXIST, "line %u: node \"%.*s\" was there before", r->number,
				VIEW_ARG(name));
	if (!name.n || r->t->nnodes == TRACE_DEVICES_MAX)
		return err_set(r->err, -EINVAL, "line %u: a node has a name, and there are %d at most",
			r->number, TRACE_DEVICES_MAX);
	r->t->nodes[r->t->nnodes++] = mem_viewdup(name);
	return 0;
}

static int add_failure(struct reader *r, struct sim_failure f)
{
	struct sim_setup *s = &r->t->setup;
	if (s->nfailures == TRACE_FAILURES_MAX)
		return full(r, "failures", TRACE_FAILURES_MAX);
	if (f.back_ms && f.back_ms < f.at_ms)
		return err_set(r->err, -EINVAL, "line %u: back is not before at", r->number);
	r->t->failures[s->nfailures++] = f;
	return 0;
}

/* A device by its place in the trace, or a node by its name. */
static int lose(struct reader *r, struct view word, struct view name, const struct line *l)
{
	struct sim_setup *s = &r->t->setup;
	bool gone = view_eqs(word, "gone");
	uint64_t device = s->ndevices;
	if (!gone && num_u64(name, &device))
		device = s->ndevices;
	for (size_t d = 0; gone && d < s->ndevices && device == s->ndevices; d++)
		device = view_eqs(name, r->t->devices[d].node_id) ? d : device;
	if (device >= s->ndevices)
		return err_set(r->err, -ENOENT, "line %u: there is no %s \"%.*s\" before it", r->number,
			gone ? "node" : "device", VIEW_ARG(name));
	return add_failure(
		r, (struct sim_failure){ l->at, (size_t)device, gone ? SIM_GONE : SIM_LOST, l->back });
}

static int of_model(struct reader *r, struct view word, struct view name, const struct line *l)
{
	struct sim_setup *s = &r->t->setup;
	size_t model = 0;
	while (model < s->nmodels && !view_eqs(name, r->t->models[model].id))
		model++;
	if (model == s->nmodels)
		return err_set(r->err, -ENOENT, "line %u: there is no model \"%.*s\" before it", r->number,
			VIEW_ARG(name));
	if (view_eqs(word, "request"))
		return add_request(
			r, (struct sim_request){ l->at, SIM_NONE, model, l->service, l->key, l->tools });
	if (view_eqs(word, "agent"))
		return add_agent(r, l, model);
	if (view_eqs(word, "poisson"))
		return add_poisson(r, l, model);
	return add_failure(r, (struct sim_failure){ l->at, model, SIM_CRASH, 0 });
}

static int read_line(struct reader *r, struct view text)
{
	struct view rest, name, word = view_split(text, ' ', &rest);
	struct line l = { .slots = 1,
		.load = 4000,
		.ret = 200,
		.cost = 1,
		.service = 2000,
		.tool = 2000,
		.turns = 10,
		.seed = 1,
		.max_wait = SWAP_MAX_WAIT_MS,
		.hold = SWAP_HOLD_MS };
	uint64_t capacity;
	bool swap = view_eqs(word, "swap");
	rest = view_trim(rest);
	name = swap ? VIEW("") : view_split(rest, ' ', &rest);
	if (read_fields(r, rest, &l))
		return -EINVAL;
	if (swap) {
		r->t->setup.policy = (struct swap_policy){ l.max_wait, l.hold, l.hold_after };
		return 0;
	}
	if (view_eqs(word, "device") || view_eqs(word, "host")) {
		if (num_size(name, &capacity) || !capacity)
			return err_set(r->err, -EINVAL, "line %u: %.*s takes a size as 24GiB, found \"%.*s\"",
				r->number, VIEW_ARG(word), VIEW_ARG(name));
		return add_device(r, &l, capacity, view_eqs(word, "host"));
	}
	if (!name.n)
		return err_set(r->err, -EINVAL, "line %u: a name is missing", r->number);
	if (view_eqs(word, "node"))
		return add_node(r, name);
	if (view_eqs(word, "lost") || view_eqs(word, "gone"))
		return lose(r, word, name, &l);
	if (view_eqs(word, "model"))
		return add_model(r, &l, name);
	if (view_eqs(word, "request") || view_eqs(word, "agent") || view_eqs(word, "poisson") ||
		view_eqs(word, "fail"))
		return of_model(r, word, name, &l);
	return err_set(r->err, -EINVAL,
		"line %u: a line begins with node, device, host, model, swap, request, agent, poisson, fail, "
		"lost "
		"or gone, found \"%.*s\"",
		r->number, VIEW_ARG(word));
}

struct trace *trace_read(struct view text, struct err *reterr)
{
	struct trace *t = NEW(struct trace);
	struct reader r = { t, 0, reterr };
	t->setup = (struct sim_setup){ .devices = t->devices,
		.models = t->models,
		.requests = t->requests,
		.failures = t->failures,
		.policy = { SWAP_MAX_WAIT_MS, SWAP_HOLD_MS, SWAP_HOLD_TOOL_CALLS } };
	while (text.n) {
		struct view remark, line = view_split(text, '\n', &text);
		line = view_split(line, '#', &remark);
		if (line.n && line.p[line.n - 1] == '\r')
			line.n--;
		line = view_trim(line);
		r.number++;
		if (line.n && read_line(&r, line)) {
			trace_freep(&t);
			return NULL;
		}
	}
	if (!t->setup.ndevices || !t->setup.nrequests) {
		(void)err_set(reterr, -EINVAL, "a trace needs a device, a model and a request at least");
		trace_freep(&t);
	}
	return t;
}

void trace_freep(struct trace **t)
{
	for (size_t i = 0; *t && i < (*t)->setup.nmodels; i++)
		free((char *)(uintptr_t)(*t)->models[i].id);
	for (size_t i = 0; *t && i < (*t)->nnodes; i++)
		free((*t)->nodes[i]);
	free(*t);
	*t = NULL;
}
