/* SPDX-License-Identifier: Apache-2.0
 *
 * One model_ensure under way: what the files that ask one kind of place share with want_job.c.
 */
#ifndef PROVISION_MODEL_WANT_JOB_INT_H
#define PROVISION_MODEL_WANT_JOB_INT_H

#include "provision/model/want_int.h"

struct model_job;
struct want_head;
typedef void want_answer_fn(struct model_job *j, const struct fetch_result *res);

enum want_stage { WANT_ASKING, WANT_HASHING, WANT_LOCKING, WANT_HEADS, WANT_FETCHING, WANT_ENDED };

struct model_job {
	struct loop *loop;
	struct model_set set;
	struct model_ensure_opts o; /* its strings and lists are the job's own */
	struct stores_roots roots;
	struct model_ops ops;
	model_plan_fn *on_plan; /* what would be done is told, and nothing done */
	void *arg;
	enum want_stage stage; /* set by stage_set alone */
	struct want_item *items;
	size_t n, at; /* at: the item that is asked for */
	struct fetch_job *fetch;
	struct loop_timer timer;
	/* one question */
	char *url;
	struct strv headers;
	want_answer_fn *answer;
	unsigned tries;
	/* a registry */
	char *auth; /* "Authorization: …" for this item's registry; NULL: none */
	unsigned hops;
	bool asked_auth;
	/* files */
	int *locks;
	size_t nlocks;
	struct want_file **want; /* of the request under way, in order */
	size_t nwant;
	uint64_t fetched, seen_bytes, first_bytes; /* seen: of the last progress; first: of the first */
	unsigned renewals;
	struct want_head *heads; /* want_head.c: of the files whose headers are asked for */
	size_t nheads;
	bool headed;     /* they were, */
	bool head_fresh; /* and of none of the files anything had come before */
	char *warning;
	uint64_t coming, room; /* that it was let in with; room: of the quota, 0: there is none */
	bool coming_open;
	bool told_coming; /* on_fetch was called */
};

/* Tells how far it is. */
void want_tell(struct model_job *j, enum fetch_phase phase, const char *text);
/* want_ask.c */
/* Asks for one document; busy servers are asked again. Any other status is an answer. */
void want_ask(struct model_job *j, const char *url, const struct strv *headers, want_answer_fn *fn);
/* The value of a header of an answer; an empty view: none. */
struct view want_header(const struct fetch_result *res, const char *name);

/* The item at j->at is known: on with the next. */
void want_resolved(struct model_job *j);
void want_fail(struct model_job *j, enum fetch_why why, const struct err *e);

/* Each fills the item at j->at and ends in want_resolved or want_fail. */
void want_hub_resolve(struct model_job *j);
void want_registry_resolve(struct model_job *j);
void want_https_resolve(struct model_job *j);
void want_s3_resolve(struct model_job *j);
/* want_trust.c: whether what is to come fits the quota beside what is here and what comes for others; from
 * now on it counts there. Where nobody told a size the fetcher holds the bound. -EAGAIN: what comes for
 * others may take all that is left, and is not known yet. */
int want_quota(struct model_job *j, struct err *reterr) MUST_CHECK;
/* A sentence of what to do about a repository that refuses. */
int want_hub_denied(const struct model_job *j, const struct model_ref *r, struct err *e);

/* want_head.c: false: there is nothing to be learned from headers. Else want_rest follows, or model_job_go is
 * waited for. */
bool want_head(struct model_job *j) MUST_CHECK;
void want_head_done(struct model_job *j);
void want_head_drop(struct model_job *j); /* there is no room for the rest */
/* Of the fetch of files. */
void want_rest(struct model_job *j);
void want_files_failed(struct model_job *j, enum fetch_why why, const struct err *err);
void want_files_progress(void *job, const struct fetch_progress *p);

/* want_finish.c: what came is checked, linked and noted. */
int want_settle(struct model_job *j, struct err *reterr) MUST_CHECK;
char *want_sha256_hex(struct view v) MUST_CHECK;

#endif
