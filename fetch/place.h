/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a URL leads, whether the policy lets us go there, and how it is shown to people: without user,
 * password, query and fragment, which may hold secrets.
 */
#ifndef FETCH_PLACE_H
#define FETCH_PLACE_H

#include "job.h"

struct place {
	char *scheme, *host; /* lower case */
	char *path;          /* of file: alone, decoded */
	unsigned port;
	bool is_file, is_loopback;
};
void place_done(struct place *p);
int place_parse(const char *url, struct place *ret, struct fail *f) MUST_CHECK;
bool place_same(const struct place *a, const struct place *b);
/* WHY_REFUSED with the line of the policy, or 0. */
int place_check(
	const struct place *p, const struct policy *policy, const char *url, struct fail *f) MUST_CHECK;

/* "https://host/path?…"; the caller frees it. */
char *url_shown(const char *url) MUST_CHECK;
char *url_without_user(const char *url) MUST_CHECK;
/* location as seen from url, without url's user where it leads to another host; NULL: no URL. */
char *url_redirected(const char *url, const char *location) MUST_CHECK;

#endif
