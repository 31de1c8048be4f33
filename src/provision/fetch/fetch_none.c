/* SPDX-License-Identifier: Apache-2.0
 *
 * Where nothing is there yet that fetches: what there is to answer. Left out of the build as soon as fetch.c
 * is there.
 */
#include <stdlib.h>

#include "provision/fetch/fetch.h"

void fetch_file_done(struct fetch_file *f)
{
	strv_done(&f->urls);
	strv_done(&f->headers);
	free(f->to);
	free(f->sha256);
	*f = (struct fetch_file){ 0 };
}

const char *fetch_why_name(enum fetch_why w)
{
	return w == FETCH_OK ? "ok" : "failed";
}

int fetch_start(struct loop *l, const char *program, const struct fetch_request *q, const struct fetch_ops *ops,
	void *arg, struct fetch_job **ret, struct err *reterr)
{
	(void)l;
	(void)program;
	(void)q;
	(void)ops;
	(void)arg;
	*ret = NULL;
	return err_set(reterr, -ENOSYS, "nothing is fetched yet");
}

void fetch_cancel(struct fetch_job **j)
{
	*j = NULL;
}
