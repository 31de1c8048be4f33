/* SPDX-License-Identifier: Apache-2.0
 *
 * The steps of a job as they are remembered and logged. What is told as progress says which step a job is at,
 * so that no mode has to say it twice: a phase begins its step, the next phase ends it, the answer ends all.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "provision/engine/engine_int.h"

/* Phases that are no step's name, and the step they belong to where the plan has it. */
static const struct {
	const char *phase;
	enum step_kind kind, or_else;
} others[] = { { "resolve", STEP_FETCH, STEP_INSTALL }, { "probe", STEP_INSTALL, STEP_VERIFY } };

static size_t find_kind(const struct steps *s, enum step_kind k)
{
	size_t i = 0;
	while (i < s->len && s->items[i].kind != k)
		i++;
	return i;
}

static size_t step_of(const struct steps *s, const char *phase)
{
	for (size_t i = 0; i < s->len; i++)
		if (strcmp(step_name(s->items[i].kind), phase) == 0)
			return i;
	for (size_t i = 0; i < ARRAY_LEN(others); i++) {
		if (strcmp(others[i].phase, phase) != 0)
			continue;
		size_t at = find_kind(s, others[i].kind);
		return at < s->len ? at : find_kind(s, others[i].or_else);
	}
	return s->len;
}

void job_steps_done(struct job_steps *s)
{
	fd_close(s->log_fd);
	free(s->dir);
	free(s->name);
	free(s->log);
	free(s->next_log);
	free(s->said);
	steps_done(&s->plan);
	*s = (struct job_steps){ .log_fd = -1 };
}

static void put(struct job_steps *s, size_t i, enum steps_state state, const char *detail)
{
	char hash[STEPS_HASH_LEN + 1];
	if (!s->store.write || i >= s->plan.len)
		return;
	bool ran = i == s->at;
	struct steps_record r = { .state = state,
		.started_ms = ran ? s->began_ms : wall_ms(),
		.ended_ms = state == STEPS_RUNNING ? 0 : wall_ms(),
		.detail = (char *)(uintptr_t)detail,
		.log = ran ? s->log : NULL };
	steps_hash(&s->plan, hash);
	(void)!s->store.write(s->store.arg, hash, i, s->plan.items[i].kind, &r);
}

void job_plan(struct engine_job *j, const struct steps *plan, const char *name)
{
	struct job_steps *s = &j->steps;
	struct steps_store store = s->store;
	put(s, s->at, STEPS_DONE, NULL); /* nothing where none has begun */
	job_steps_done(s);
	s->store = store;
	for (size_t i = 0; i < plan->len; i++)
		if (plan->items[i].kind != STEP_CANARY && plan->items[i].kind != STEP_MODEL_FETCH)
			steps_add(
				&s->plan, plan->items[i].kind, plan->items[i].key, "%s", plan->items[i].text);
	s->at = s->plan.len;
	s->dir = mem_fmt("%s/%s/log", j->prefix_dir, engine_kind_name(j->def.kind));
	s->name = mem_strdup(name);
}

static bool known_done(const struct job_steps *s, size_t i)
{
	return s->store.read && steps_is_done(&s->plan, &s->store, i);
}

static void log_open(struct job_steps *s)
{
	if (!s->name) { /* the mode writes its own */
		free(s->log);
		s->log = MEM_TAKE(s->next_log);
		return;
	}
	fd_close(s->log_fd);
	free(s->log);
	s->log = mem_fmt("%s/%s-%s.log", s->dir, s->name, step_name(s->plan.items[s->at].kind));
	s->log_fd = dir_make(s->dir, 0755) < 0
			    ? -1
			    : open(s->log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (s->log_fd < 0)
		free(MEM_TAKE(s->log));
}

/* Those before it that were never told were done by an earlier run. */
static void begin(struct job_steps *s, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (k == s->at || !known_done(s, k))
			put(s, k, STEPS_DONE, NULL);
	s->at = i;
	s->began_ms = wall_ms();
	log_open(s);
	put(s, i, STEPS_RUNNING, NULL);
}

void job_step_phase(struct engine_job *j, const char *phase, const char *text)
{
	struct job_steps *s = &j->steps;
	size_t i = step_of(&s->plan, phase);
	if (i == s->plan.len)
		return;
	bool first = s->at == s->plan.len;
	/* What is only looked for may turn out to be here. */
	if (first && strcmp(phase, "resolve") == 0 && known_done(s, i))
		return;
	if (i != s->at)
		begin(s, i);
	else if (s->next_log)
		log_open(s);
	if (text && strcmp(text, s->said ? s->said : "") != 0)
		job_log(j, view_str(text));
	mem_setstr(&s->said, text);
}

void job_step_log(struct engine_job *j, const char *file)
{
	mem_setstr(&j->steps.next_log, file);
}

void job_log(struct engine_job *j, struct view line)
{
	struct job_steps *s = &j->steps;
	if (s->log_fd < 0)
		return;
	AUTO(mem_freep) char *safe = view_search(line, VIEW("://")) >= 0 ? url_redact(line) : NULL;
	AUTO(buf_done) struct buf b = BUF(RUN_LINE_MAX + 2);
	(void)buf_addv(&b, view_cut(safe ? view_str(safe) : line, RUN_LINE_MAX));
	(void)buf_addc(&b, '\n');
	(void)!fd_write_all(s->log_fd, buf_str(&b), b.len); /* a full disk is told by the tool */
}

void job_steps_end(struct engine_job *j, const char *failed)
{
	struct job_steps *s = &j->steps;
	if (!s->plan.len)
		return;
	size_t last = !failed ? s->plan.len : s->at == s->plan.len ? 0 : s->at;
	for (size_t i = 0; i < last; i++)
		if (i == s->at || !known_done(s, i))
			put(s, i, STEPS_DONE, NULL);
	if (failed) {
		job_log(j, view_str(failed));
		put(s, last, STEPS_FAILED, failed);
	}
	struct steps_store store = s->store;
	job_steps_done(s);
	s->store = store;
}
