/* SPDX-License-Identifier: Apache-2.0
 *
 * What came is checked once more, gets its names, and is noted. In an order in which a kill in between leaves
 * something that is not taken for whole: digests, the ref or the manifest, then the links, weights last.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "provision/model/want_job_int.h"

static int settle_file(const struct want_file *f, struct err *e)
{
	int r = 0;
	if (f->here)
		want_fetched(f->to);
	if (f->git_oid && !f->here)
		r = want_git_check(f->to, f->git_oid, e);
	if (!r && f->note && f->sha256)
		r = want_note(f->to, f->sha256);
	if (r && !(e && e->code))
		return err_set(e, r, "the digest of %s cannot be written beside it: %s", f->to, strerror(-r));
	if (r == -EBADMSG)
		(void)remove(f->to); /* it is ours, of this moment, and it is wrong */
	return r;
}

static int write_ref(const struct want_item *it, struct err *e)
{
	if (!it->ref_file)
		return 0;
	const char *slash = strrchr(it->ref_file, '/');
	AUTO(mem_freep) char *dir = mem_viewdup(view_of(it->ref_file, (size_t)(slash - it->ref_file)));
	int r = dir_make(dir, 0755);
	r = r ? r : want_keep_indices(it, dir);
	r = r ? r : want_write(it->ref_file, view_str(it->ref_text), 0644, true);
	return r ? err_set(e, r, "%s cannot be written: %s", it->ref_file, strerror(-r)) : 0;
}

static int settle_item(const struct want_item *it, struct err *e)
{
	int r = 0;
	for (size_t i = 0; !r && i < it->nfetch; i++)
		r = settle_file(&it->fetch[i], e);
	r = r ? r : write_ref(it, e);
	for (size_t i = 0; !r && i < it->nfetch; i++)
		if (it->fetch[i].link)
			r = want_link(it->fetch[i].to, it->fetch[i].link, e);
	return r;
}

/* A page of HTML under a model's name: what came for an address alone is not kept when it is no model. */
static void forget(const struct want_item *it)
{
	for (size_t i = 0; i < it->nfetch; i++) {
		if (!it->fetch[i].note)
			continue;
		want_note_drop(it->fetch[i].to);
		(void)remove(it->fetch[i].to);
	}
}

int want_settle(struct model_job *j, struct err *reterr)
{
	int r = 0;
	for (size_t i = 0; !r && i < j->n; i++) {
		struct want_item *it = &j->items[i];
		if (it->present)
			continue;
		r = settle_item(it, reterr);
		if (r)
			break;
		/* found as it will be found from now on */
		AUTO(mem_freep) char *revision = MEM_TAKE(it->revision);
		r = want_present(it, &j->o, reterr);
		if (!it->revision)
			it->revision = MEM_TAKE(revision);
		if (r == -ENOENT)
			err_prefix(reterr, "fetched, and still");
		if (r == -EBADMSG)
			forget(it);
	}
	return r;
}
