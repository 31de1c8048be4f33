/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
	if (!e)
		return code;
	va_list ap;
	va_start(ap, fmt);
	char tmp[ERR_MSG_MAX]; /* fmt's arguments may point into e->msg */
	vsnprintf(tmp, sizeof tmp, fmt, ap);
	va_end(ap);
	memcpy(e->msg, tmp, sizeof tmp);
	e->code = code;
	return code;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
	if (!e)
		return 0;
	char head[ERR_MSG_MAX];
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(head, sizeof head, fmt, ap);
	va_end(ap);
	if (n < 0)
		return e->code;
	size_t hn = MIN((size_t)n, sizeof head - 1);
	size_t mn = strlen(e->msg);
	size_t room = sizeof e->msg - 1;
	hn = MIN(hn, room - MIN(room, (size_t)2));
	mn = MIN(mn, room - hn - 2);
	memmove(e->msg + hn + 2, e->msg, mn);
	memcpy(e->msg, head, hn);
	memcpy(e->msg + hn, ": ", 2);
	e->msg[hn + 2 + mn] = '\0';
	return e->code;
}
