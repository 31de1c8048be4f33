/* SPDX-License-Identifier: Apache-2.0
 *
 * The trust policy for images: from whose registry, and by digest. What may be reached at all is another
 * matter (container.c), and so is what a tag was pinned to.
 */
#include <stdlib.h>

#include "base/buf.h"
#include "provision/engine/engine_int.h"
#include "provision/model/want.h"

char *container_registry(const char *image)
{
	struct view rest, first = view_split(view_str(image), '/', &rest);
	bool host = rest.p && (view_find(first, '.') < first.n || view_find(first, ':') < first.n ||
				      view_eqs(first, "localhost"));
	return host ? mem_viewdup(first) : mem_strdup("docker.io");
}

static int refuse_registry(
	const char *image, const char *host, const struct strv *registries, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(160);
	for (size_t i = 0; i < registries->len; i++)
		(void)buf_addf(&b, "%s%s", i ? ", " : "", registries->items[i]);
	return err_set(reterr, -EACCES,
		"the image %s is refused by trust.mode: strict: %s is not among trust.registries: [%s]; add "
		"it there, or take an image from one of them",
		image, host, buf_str(&b));
}

int container_trusted(const char *image, const struct engine_trust *t, struct err *reterr)
{
	AUTO(mem_freep) char *host = container_registry(image);
	bool some = t->registries && t->registries->len;
	if (t->strict && some && !model_host_trusted(t->registries, host))
		return refuse_registry(image, host, t->registries, reterr);
	if (strchr(image, '@') || (!t->strict && !t->require_digest))
		return 0;
	return err_set(reterr, -EACCES,
		"the image %s is refused by %s: a tag may be another image tomorrow; name it by its digest, "
		"as "
		"in NAME@sha256:… (its registry shows it)",
		image, t->strict ? "trust.mode: strict" : "trust.require_digest: true");
}
