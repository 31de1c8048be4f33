/* SPDX-License-Identifier: Apache-2.0
 *
 * Where nothing is there yet that fetches models: what there is to answer. Left out of the build as soon as
 * want_job.c is there.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "provision/model/want.h"

struct model_job {
	struct loop *loop;
	struct loop_work work;
	const struct model_ops *ops;
	void *arg;
};

void model_set_done(struct model_set *s)
{
	free(s->ref);
	free(s->mmproj);
	free(s->draft);
	strv_done(&s->lora);
	*s = (struct model_set){ 0 };
}

void model_ref_done(struct model_ref *r)
{
	free(r->text);
	*r = (struct model_ref){ 0 };
}

void model_got_done(struct model_got *g)
{
	*g = (struct model_got){ 0 };
}

int model_ref_parse(const char *text, const char *base_dir, struct model_ref *ret, struct err *reterr)
{
	(void)base_dir;
	*ret = (struct model_ref){ 0 };
	return err_set(reterr, -EINVAL, "%.200s is not understood yet", text);
}

int model_present(const struct model_set *s, const struct model_ensure_opts *o, struct model_got *ret,
	struct err *reterr)
{
	(void)o;
	*ret = (struct model_got){ 0 };
	return err_set(reterr, -ENOENT, "%.200s is not looked for yet", s->ref);
}

static void give_up(void *arg)
{
	struct model_job *j = arg;
	struct err e = { 0 };
	(void)err_set(&e, -ENOSYS, "models are not fetched yet");
	j->ops->on_done(j->arg, NULL, FETCH_INPUT, &e);
	free(j);
}

struct model_job *model_ensure(struct loop *l, const struct model_set *s, const struct model_ensure_opts *o,
	const struct model_ops *ops, void *arg)
{
	(void)s;
	(void)o;
	struct model_job *j = NEW(struct model_job);
	j->ops = ops;
	j->arg = arg;
	loop_defer(l, &j->work, give_up, j);
	return j;
}

void model_job_cancel(struct model_job **j)
{
	if (*j)
		loop_defer_cancel(&(*j)->work);
	free(*j);
	*j = NULL;
}
