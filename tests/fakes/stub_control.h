/* SPDX-License-Identifier: Apache-2.0
 *
 * What the stubs of the makers' libraries share: the control file, lines of fields separated by |, read again
 * with every question. STUB_FILE is the variable that names it; a file that is not there says nothing.
 */
#ifndef FAKES_STUB_CONTROL_H
#define FAKES_STUB_CONTROL_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
enum { FILE_MAX = 65536, DEVICES_MAX = 64 };

static char text[FILE_MAX];

static void reread(void)
{
	const char *path = getenv(STUB_FILE);
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
	if (fd >= 0)
		close(fd);
	text[n > 0 ? n : 0] = '\0';
}

/* Field k of the line at p; "" when it has none. */
static const char *field(const char *p, int k, char *out, size_t cap)
{
	while (k && *p && *p != '\n')
		if (*p++ == '|')
			k--;
	size_t n = k ? 0 : strcspn(p, "|\n");
	n = n < cap - 1 ? n : cap - 1;
	memcpy(out, p, n);
	out[n] = '\0';
	return out;
}

static unsigned long long number(const char *p, int k, unsigned long long none)
{
	char s[32];
	unsigned long long v;
	return sscanf(field(p, k, s, sizeof s), "%llu", &v) == 1 ? v : none;
}

/* The next line with that first field, at or behind p; NULL: none. */
static char *next_line(char *p, const char *word)
{
	size_t n = strlen(word);
	for (; p && *p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (strncmp(p, word, n) == 0 && (p[n] == '|' || p[n] == '\n' || !p[n]))
			return p;
	return NULL;
}

static char *behind(char *line)
{
	char *end = strchr(line, '\n');
	return end ? end + 1 : NULL;
}

static int says(const char *word, const char *value)
{
	char s[32];
	for (char *p = next_line(text, word); p; p = next_line(behind(p), word))
		if (strcmp(field(p, 1, s, sizeof s), value) == 0)
			return 1;
	return 0;
}

static void maybe_hang(const char *where)
{
	while (says("hang", where))
		pause();
}

static int code_of(const char *word)
{
	char *p = next_line(text, word);
	return p ? (int)number(p, 1, 0) : 0;
}

#endif
