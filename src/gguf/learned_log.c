/* SPDX-License-Identifier: Apache-2.0
 *
 * llama-server's words about its buffers:
 *
 *   load_tensors:   CPU_Mapped model buffer size =   409.20 MiB
 *   llama_context: constructing llama_context
 *   llama_kv_cache:      CUDA0 KV buffer size =    96.00 MiB
 *   sched_reserve:      CUDA0 compute buffer size =   298.52 MiB
 *
 * with a time before it, or none. Buffers add up, but for a context's compute buffers: they are told again
 * each time they are laid out anew, and the last one holds.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/num.h"
#include "gguf/learned.h"

#define BYTES_MAX (1ull << 50)

uint64_t learned_sum(const struct learned_bytes *b)
{
	return b->weights + b->kv + b->recurrent + b->compute + b->output;
}

void learned_log_init(struct learned_log *l)
{
	*l = (struct learned_log){ 0 };
}

/* "409.20": bytes of so many MiB. */
static bool read_mib(struct view v, uint64_t *ret)
{
	struct view rest, whole = view_split(v, '.', &rest);
	uint64_t a, b;
	if (rest.n != 2 || num_u64(whole, &a) || num_u64(rest, &b) || a >= BYTES_MAX / MIB)
		return false;
	*ret = a * MIB + b * MIB / 100;
	return true;
}

static struct view last_word(struct view *v)
{
	while (v->n && v->p[v->n - 1] == ' ')
		v->n--;
	size_t n = v->n;
	while (n && v->p[n - 1] != ' ')
		n--;
	struct view word = view_from(*v, n);
	*v = view_cut(*v, n);
	return word;
}

static bool is_host(struct view name)
{
	return view_starts(name, VIEW("CPU")) || view_starts(name, VIEW("AMX")) ||
	       view_ends(name, VIEW("_Host")) || view_eqs(name, "Host") || view_eqs(name, "BLAS");
}

/* "CUDA0": the number. All devices have the same word before it. */
static bool read_device(struct learned_log *l, struct view name, uint32_t *ret)
{
	size_t n = name.n;
	uint64_t i;
	while (n && name.p[n - 1] >= '0' && name.p[n - 1] <= '9')
		n--;
	struct view word = view_cut(name, n);
	if (!n || n >= sizeof l->prefix || num_u64(view_from(name, n), &i) || i >= LEARNED_DEVICES_MAX)
		return false;
	if (!l->prefix[0])
		memcpy(l->prefix, word.p, word.n);
	*ret = (uint32_t)i;
	return view_eqs(word, l->prefix);
}

static void add(uint64_t *to, uint64_t bytes)
{
	*to = MIN(*to + bytes, (uint64_t)BYTES_MAX);
}

static void take(struct learned_log *l, struct view name, struct view what, uint64_t bytes)
{
	uint32_t i = 0;
	bool host = is_host(name);
	if (!host && !read_device(l, name, &i)) {
		l->unclear = true;
		return;
	}
	if (!host)
		l->sum.n_devices = MAX(l->sum.n_devices, i + 1);
	struct learned_bytes *b = host ? &l->sum.host : &l->sum.device[i];
	if (view_eqs(what, "model") || view_eqs(what, "LoRA")) {
		l->any_weights = true;
		add(&b->weights, bytes);
		if (view_ends(name, VIEW("_Mapped")))
			add(&b->mapped, bytes);
	} else if (view_eqs(what, "KV")) {
		add(&b->kv, bytes);
	} else if (view_eqs(what, "RS")) {
		add(&b->recurrent, bytes);
	} else if (view_eqs(what, "output")) {
		add(&b->output, bytes);
	} else if (view_eqs(what, "compute")) {
		*(host ? &l->host_compute : &l->compute[i]) = bytes;
		l->context_told = true;
	} else {
		l->unclear = true; /* a buffer nobody here knows */
	}
}

static void end_context(struct learned_log *l)
{
	l->answered += l->context_told;
	l->context_told = false;
	add(&l->sum.host.compute, l->host_compute);
	l->host_compute = 0;
	for (size_t i = 0; i < LEARNED_DEVICES_MAX; i++) {
		add(&l->sum.device[i].compute, l->compute[i]);
		l->compute[i] = 0;
	}
}

static bool has(struct view v, const char *words)
{
	return view_search(v, view_str(words)) >= 0;
}

/* "0.00.129.537 I ": a key of the model's file may hold any words, but they stand behind others. */
static bool is_time(struct view v)
{
	static const char may[] = "0123456789. DIW";
	for (size_t i = 0; i < v.n; i++)
		if (!memchr(may, v.p[i], sizeof may - 1))
			return false;
	return true;
}

/* "FUNCTION:  NAME WHAT buffer size = NUMBER MiB" */
static void read_buffer(struct learned_log *l, struct view line, size_t at)
{
	static const char middle[] = " buffer size = ";
	struct view before = view_cut(line, at), after = view_trim(view_from(line, at + sizeof middle - 1));
	uint64_t bytes;
	struct view unit, number = view_split(after, ' ', &unit);
	struct view what = last_word(&before), name = last_word(&before), function = last_word(&before);
	if (!view_ends(function, VIEW(":")) || !is_time(before) || !view_eqs(unit, "MiB"))
		return;
	if (read_mib(number, &bytes))
		take(l, name, what, bytes);
	else
		l->unclear = true;
}

static void read_line(struct learned_log *l, struct view line)
{
	ptrdiff_t at = view_search(line, VIEW(" buffer size = "));
	if (at >= 0) {
		read_buffer(l, line, (size_t)at);
	} else if (has(line, "constructing llama_context")) {
		end_context(l);
		l->unclear = l->unclear || ++l->contexts > LEARNED_CONTEXTS_MAX;
	} else if (has(line, "chat template") || has(line, "model loaded") || has(line, "listening on")) {
		l->over = true;
	}
}

void learned_log_feed(struct learned_log *l, struct view bytes)
{
	while (bytes.n && !l->over) {
		size_t n = view_find(bytes, '\n');
		bool ends = n < bytes.n;
		if (l->n + n > sizeof l->line) {
			l->too_long = true;
		} else {
			memcpy(l->line + l->n, bytes.p, n);
			l->n += n;
		}
		bytes = view_from(bytes, n + ends);
		if (!ends)
			return;
		if (!l->too_long)
			read_line(l, view_of(l->line, l->n));
		l->n = 0;
		l->too_long = false;
	}
}

bool learned_log_end(struct learned_log *l, struct learned *ret)
{
	end_context(l);
	*ret = l->sum;
	ret->told = true;
	return l->over && !l->unclear && l->any_weights && l->answered && l->answered >= l->contexts;
}
