/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the package mode keeps its things, the record that says what is provisioned (a start reads
 * this one file and looks at one program, no more), and the newest Release date seen.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/num.h"
#include "provision/engine/engine_int.h"

#define RECORD_LAYOUT "corral-package 1"
#define DEFAULT_SUITE "forky"

static const char *const keyrings[] = {
	"/usr/share/keyrings/debian-archive-keyring.gpg",
	"/usr/share/keyrings/debian-archive-keyring.pgp",
};

static const char *keyring_default(void)
{
	for (size_t i = 0; i < ARRAY_LEN(keyrings); i++)
		if (access(keyrings[i], R_OK) == 0)
			return keyrings[i];
	return keyrings[0];
}

static int check_word(const char *what, const char *value, const char *accepted, struct err *reterr)
{
	if (!value || apt_word_ok(value))
		return 0;
	return err_set(reterr, -EINVAL,
		"engine.package.%s is \"%s\": %s is accepted, without spaces, quotes or brackets", what,
		value, accepted);
}

const char *package_backend_word(enum engine_backend b)
{
	return b == ENGINE_VULKAN ? "vulkan" : b == ENGINE_HIP ? "hip" : "";
}

int package_names_init(struct package_names *n, const struct engine_def *def, enum engine_backend backend,
	const char *prefix_dir, const char *cache_dir, struct err *reterr)
{
	const char *env = getenv("CORRAL_PACKAGE_ARCHIVE");
	const char *archive = def->package_archive ? def->package_archive : env && *env ? env : NULL;
	const char *suite = def->package_suite ? def->package_suite : DEFAULT_SUITE;
	*n = (struct package_names){ .backend = backend };
	int r = check_word(
		"archive", archive, "the address of a Debian archive (or CORRAL_PACKAGE_ARCHIVE)", reterr);
	if (!r)
		r = check_word("suite", suite, "a release name such as " DEFAULT_SUITE, reterr);
	if (!r)
		r = check_word("keyring", def->package_keyring, "the full path of a keyring", reterr);
	if (!r && strchr(suite, '/'))
		r = err_set(reterr, -EINVAL,
			"engine.package.suite is \"%s\": a release name without a slash is accepted", suite);
	if (r)
		return r;
	/* Without settings of its own a pool shares the one default build; with some, it gets a key. */
	char key[20] = "";
	if (archive || def->package_suite || def->package_keyring) {
		AUTO(mem_freep)
		char *all = mem_fmt("%s %s %s", archive ? archive : "", suite,
			def->package_keyring ? def->package_keyring : "");
		snprintf(key, sizeof key, "-%08x", (unsigned)(text_hash(view_str(all)) & 0xffffffff));
	}
	char ring[20] = "";
	if (def->package_keyring)
		snprintf(ring, sizeof ring, "-%08x",
			(unsigned)(text_hash(view_str(def->package_keyring)) & 0xffffffff));
	n->dir = path_join(prefix_dir, "llamacpp");
	const char *word = package_backend_word(backend);
	n->record = mem_fmt("%s/package%s%s%s.build", n->dir, *word ? "-" : "", word, key);
	n->last = mem_fmt("%.*s.last", (int)(strlen(n->record) - strlen(".build")), n->record);
	n->lock = mem_fmt("%s/package.lock", n->dir);
	n->apt_dir = mem_fmt("%s/apt%s", cache_dir, key);
	n->release_file = mem_fmt("%s/release-%s%s", n->dir, suite, ring);
	n->archive = mem_strdup(archive);
	n->suite = mem_strdup(suite);
	n->keyring = mem_strdup(def->package_keyring ? def->package_keyring : keyring_default());
	return 0;
}

void package_names_done(struct package_names *n)
{
	free(n->dir);
	free(n->record);
	free(n->last);
	free(n->lock);
	free(n->apt_dir);
	free(n->release_file);
	free(n->archive);
	free(n->suite);
	free(n->keyring);
	*n = (struct package_names){ 0 };
}

/* ---- the record: one "name value" a line after the layout's name ----------------------------- */

static const struct {
	const char *name;
	size_t offset;
	bool path; /* relative, inside the folder */
} fields[] = {
	{ "folder", offsetof(struct package_record, folder), true },
	{ "version", offsetof(struct package_record, version), false },
	{ "package", offsetof(struct package_record, package), false },
	{ "suite", offsetof(struct package_record, suite), false },
	{ "loader", offsetof(struct package_record, loader), true },
	{ "library_path", offsetof(struct package_record, library_path), true },
	{ "program", offsetof(struct package_record, program), true },
	{ "backends", offsetof(struct package_record, backends), true },
};

static char **field(struct package_record *r, size_t i)
{
	return (char **)(void *)((char *)r + fields[i].offset);
}

void package_record_done(struct package_record *r)
{
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		free(*field(r, i));
	*r = (struct package_record){ 0 };
}

static bool stays_inside(struct view v)
{
	struct view rest = v;
	while (rest.p) {
		struct view one = view_split(rest, ':', &rest);
		if (one.n == 0 || one.p[0] == '/')
			return false;
		while (one.p)
			if (view_eqs(view_split(one, '/', &one), ".."))
				return false;
	}
	return true;
}

static int record_parse(struct view text, struct package_record *r)
{
	struct view rest = text;
	if (!view_eqs(view_split(rest, '\n', &rest), RECORD_LAYOUT))
		return -ENOENT;
	while (rest.p) {
		struct view value, line = view_split(rest, '\n', &rest);
		struct view name = view_split(line, ' ', &value);
		for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
			if (!view_eqs(name, fields[i].name))
				continue;
			if (fields[i].path && !stays_inside(value))
				return -ENOENT;
			free(*field(r, i));
			*field(r, i) = mem_viewdup(value);
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		if (!*field(r, i))
			return -ENOENT;
	return strchr(r->folder, '/') || strchr(r->folder, ':') ? -ENOENT : 0;
}

int package_record_read(const char *file, struct package_record *ret)
{
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	if (file_read(file, &b) < 0)
		return -ENOENT;
	*ret = (struct package_record){ 0 };
	int r = record_parse(buf_view(&b), ret);
	if (r < 0)
		package_record_done(ret);
	return r;
}

int package_record_write(const char *file, const struct package_record *r)
{
	AUTO(buf_done) struct buf b = BUF(16 * KIB);
	int e = buf_addf(&b, RECORD_LAYOUT "\n");
	for (size_t i = 0; i < ARRAY_LEN(fields) && !e; i++)
		e = buf_addf(&b, "%s %s\n", fields[i].name, *field((struct package_record *)(uintptr_t)r, i));
	return e ? e : file_write_atomic(file, buf_view(&b), 0644, true);
}

int package_make_current(const struct package_names *n, const struct package_record *r)
{
	struct package_record was;
	int e = 0;
	if (package_record_read(n->record, &was) == 0) {
		e = strcmp(was.folder, r->folder) == 0 ? 0 : package_record_write(n->last, &was);
		package_record_done(&was);
	}
	return e ? e : package_record_write(n->record, r);
}

static void add_library_path(struct strv *args, const char *root, const char *relative)
{
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	struct view rest = view_str(relative);
	while (rest.p) {
		struct view one = view_split(rest, ':', &rest);
		(void)buf_addf(&b, "%s%s/%.*s", b.len ? ":" : "", root, VIEW_ARG(one));
	}
	strv_add(args, buf_str(&b));
}

bool package_build_of(const struct package_names *n, const struct package_record *r, const char *note,
	struct engine_build *ret)
{
	AUTO(mem_freep) char *root = path_join(n->dir, r->folder);
	AUTO(mem_freep) char *loader = path_join(root, r->loader);
	if (access(loader, X_OK) < 0)
		return false;
	*ret = (struct engine_build){ .kind = ENGINE_LLAMACPP, .mode = ENGINE_MODE_PACKAGE };
	ret->program = MEM_TAKE(loader);
	strv_add(&ret->prefix_args, "--inhibit-cache");
	strv_add(&ret->prefix_args, "--argv0");
	strv_add(&ret->prefix_args, "llama-server");
	strv_add(&ret->prefix_args, "--library-path");
	add_library_path(&ret->prefix_args, root, r->library_path);
	strv_addf(&ret->prefix_args, "%s/%s", root, r->program);
	ret->cwd = path_join(root, r->backends);
	ret->version = mem_strdup(r->version);
	ret->cpu_only = n->backend == ENGINE_CPU;
	ret->features = mem_strdup(engine_backend_name(n->backend));
	ret->why = mem_fmt("package: Debian's llama.cpp %s from %s (%s)%s%s", r->version, r->suite,
		engine_backend_name(n->backend), note ? ": " : "", note ? note : "");
	return true;
}

bool package_provisioned(const struct package_names *n, const char *note, struct engine_build *ret)
{
	struct package_record r;
	if (package_record_read(n->record, &r) < 0)
		return false;
	bool there = package_build_of(n, &r, note, ret);
	package_record_done(&r);
	return there;
}

/* ---- the Release date ------------------------------------------------------------------------ */

static const char months[][4] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov",
	"Dec" };

int release_date_parse(struct view text, int64_t *ret)
{
	char s[64], month[4];
	int day, year, h, m, sec, end = 0;
	text = view_trim(text);
	if (text.n == 0 || text.n >= sizeof s)
		return -EINVAL;
	memcpy(s, text.p, text.n);
	s[text.n] = '\0';
	/* "Fri, 30 Oct 2026 08:08:01 UTC"; apt writes UTC, others +0000 or GMT */
	if (sscanf(s, "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d %n", &day, month, &year, &h, &m, &sec,
		    &end) != 6 ||
		!end)
		return -EINVAL;
	const char *zone = s + end;
	if (strcmp(zone, "UTC") != 0 && strcmp(zone, "+0000") != 0 && strcmp(zone, "GMT") != 0)
		return -EINVAL;
	struct tm tm = {
		.tm_mday = day, .tm_mon = -1, .tm_year = year - 1900, .tm_hour = h, .tm_min = m, .tm_sec = sec
	};
	for (int i = 0; i < 12; i++)
		if (strcmp(months[i], month) == 0)
			tm.tm_mon = i;
	if (tm.tm_mon < 0 || day < 1 || day > 31 || year < 1993 || h < 0 || h > 23 || m < 0 || m > 59 ||
		sec < 0 || sec > 60)
		return -EINVAL;
	*ret = (int64_t)timegm(&tm);
	return 0;
}

int release_date_read(const char *file, int64_t *ret)
{
	AUTO(buf_done) struct buf b = BUF(16 * MIB);
	int r = file_read(file, &b);
	if (r < 0)
		return r;
	struct view rest = buf_view(&b);
	while (rest.p) {
		struct view line = view_split(rest, '\n', &rest);
		if (view_starts(line, VIEW("Date:")))
			return release_date_parse(view_from(line, 5), ret);
	}
	return -EINVAL;
}

static void date_text(int64_t seconds, char out[WALL_STR_LEN + 1])
{
	wall_format(seconds * 1000, out);
	out[10] = '\0'; /* the day is enough for a person */
}

int release_date_admit(const struct package_names *n, int64_t date, struct err *reterr)
{
	AUTO(buf_done) struct buf b = BUF(64);
	uint64_t seen = 0;
	int r = file_read(n->release_file, &b);
	if (r == 0)
		r = num_u64(view_trim(view_cut(buf_view(&b), view_find(buf_view(&b), '\n'))), &seen);
	if (r < 0 && r != -ENOENT)
		return err_set(reterr, r,
			"the file %s with the newest release date seen cannot be read: %s; remove it to "
			"begin anew",
			n->release_file, strerror(-r));
	if (date < 0)
		return err_set(reterr, -EINVAL, "the archive's %s says it is from before 1970", n->suite);
	if (r == 0 && (uint64_t)date < seen) {
		char has[WALL_STR_LEN + 1], had[WALL_STR_LEN + 1];
		date_text(date, has);
		date_text((int64_t)seen, had);
		return err_set(reterr, -ESTALE,
			"the archive offers %s of %s, but %s was seen here before: an older release is "
			"refused (a mirror "
			"behind the others, or somebody hides security fixes); use another archive or later, "
			"or remove %s "
			"to accept it",
			n->suite, has, had, n->release_file);
	}
	if (r == 0 && (uint64_t)date == seen)
		return 0;
	char text[32];
	int len = snprintf(text, sizeof text, "%lld\n", (long long)date);
	r = file_write_atomic(n->release_file, view_of(text, (size_t)len), 0644, true);
	return r < 0 ? err_set(reterr, r, "%s cannot be written: %s", n->release_file, strerror(-r)) : 0;
}
