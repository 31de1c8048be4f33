/* SPDX-License-Identifier: Apache-2.0
 *
 * A file's URLs in turn, and the tries of each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"
#include "files_int.h"

enum {
	PAUSE_MOVED_MS = 20,
	PAUSE_FIRST_MS = 200,
	PAUSE_MAX_MS = 30 * 1000,
	PAUSE_ASKED_MAX_MS = 10 * 60 * 1000
};

const char *file_url(const struct file *f)
{
	return f->job->urls.items[f->mirror];
}

bool mirror_is_file(const struct file *f)
{
	return strncasecmp(file_url(f), "file:", 5) == 0;
}

void mirror_forget(struct file *f)
{
	free(f->resolved);
	f->resolved = NULL;
}

/* One sentence of all mirrors; the kind is theirs where they agree. */
static void remember(struct file *f, const struct fail *why)
{
	struct fail before = f->why;
	if (!f->nfailed++) {
		f->why = *why;
		return;
	}
	fail_set(&f->why, before.why == why->why ? why->why : WHY_NETWORK, "%.230s; then %.230s", before.msg,
		why->msg);
}

void file_next_mirror(struct file *f, const struct fail *why)
{
	remember(f, why);
	for (size_t i = 0; i < f->nsegs; i++)
		xfer_cancel(&f->segs[i]->x);
	mirror_forget(f);
	fd_close(fd_take(&f->local_fd));
	f->probed = f->plain = false;
	f->tries = 0;
	f->width = f->all->job->parallel;
	f->resume_at = MONO_ZERO;
	if (++f->mirror >= f->job->urls.len) {
		f->mirror--;
		if (f->job->urls.len > 1)
			files_fail(f->all, f->why.why, "none of %zu places has it: %.450s", f->job->urls.len,
				f->why.msg);
		else
			files_fail(f->all, f->why.why, "%s", f->why.msg);
		return;
	}
	/* another server's file is only known to be the same one where there is a digest */
	if (!f->sha_known || f->facts.size == SIZE_UNKNOWN)
		file_restart(f);
	else if (f->nsegs == 1) { /* of a server without ranges, to the end */
		f->segs[0]->to = MIN(f->segs[0]->to, MAX(f->segs[0]->from + f->chunk, f->segs[0]->at));
		f->next = f->segs[0]->to;
	}
}

void file_try_failed(struct file *f, const struct fail *why, bool moved, int64_t pause_ms)
{
	mono_t now = mono_now();
	char text[32];
	if (moved)
		f->tries = 0;
	if (mono_before(now, f->resume_at))
		return; /* of the same trouble */
	bool last = f->mirror + 1 >= f->job->urls.len;
	if (++f->tries >= f->all->job->tries || pause_ms > PAUSE_ASKED_MAX_MS ||
		(pause_ms > 60000 && !last)) {
		file_next_mirror(f, why);
		return;
	}
	if (pause_ms < 0 && moved)
		pause_ms = PAUSE_MOVED_MS;
	else if (pause_ms < 0)
		pause_ms = f->tries > 8 ? PAUSE_MAX_MS : MIN(PAUSE_FIRST_MS << (f->tries - 1), PAUSE_MAX_MS);
	f->resume_at = mono_add_ms(now, pause_ms);
	num_format_duration(pause_ms, text, sizeof text);
	snprintf(f->pause_text, sizeof f->pause_text, "Trying again in %s: %.160s", text, why->msg);
}
