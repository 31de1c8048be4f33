/* SPDX-License-Identifier: Apache-2.0 */
#include "provision/model/model.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"
#include "base/num.h"

enum { NAMES_SHOWN = 5, DIR_ENTRIES_MAX = 4096 };

void model_files_done(struct model_files *f)
{
	free(f->path);
	strv_done(&f->parts);
	*f = (struct model_files){ 0 };
}

static bool climbs(const char *path)
{
	struct view rest = view_str(path);
	while (rest.p)
		if (view_eqs(view_split(rest, '/', &rest), ".."))
			return true;
	return false;
}

static bool is_gguf_name(const char *name)
{
	return view_ends(view_str(name), VIEW(".gguf"));
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "; in DIR there are a.gguf, b.gguf and 3 more": what the person may have meant. */
static char *names_in(const char *dir)
{
	AUTO(strv_done) struct strv names = { 0 };
	DIR *d = dir ? opendir(dir) : NULL;
	for (struct dirent *e; d && names.len < DIR_ENTRIES_MAX && (e = readdir(d));)
		if (is_gguf_name(e->d_name))
			strv_add(&names, e->d_name);
	if (d)
		closedir(d);
	if (!names.len)
		return mem_fmt("; there are no .gguf files in %s", dir ? dir : "models_dir");
	qsort(names.items, names.len, sizeof *names.items, by_name);
	AUTO(buf_done) struct buf b = BUF(8 * KIB);
	(void)buf_addf(&b, "; in %s there %s ", dir, names.len == 1 ? "is" : "are");
	for (size_t i = 0; i < MIN(names.len, (size_t)NAMES_SHOWN); i++)
		(void)buf_addf(&b, "%s%s", i ? ", " : "", names.items[i]);
	if (names.len > NAMES_SHOWN)
		(void)buf_addf(&b, " and %zu more", names.len - NAMES_SHOWN);
	return buf_take(&b);
}

/* The folder a path lies in. */
static char *dir_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash && slash != path ? mem_viewdup(view_of(path, (size_t)(slash - path))) : mem_strdup("/");
}

static bool is_reference(const char *ref)
{
	static const char *const schemes[] = { "hf:", "https://", "http://", "s3://", "oci://", "ollama:" };
	for (size_t i = 0; i < ARRAY_LEN(schemes); i++)
		if (strncmp(ref, schemes[i], strlen(schemes[i])) == 0)
			return true;
	return false;
}

/* An absolute path, or a refusal. *ret_dir: models_dir where it mattered. */
static char *full_path(const char *ref, const char *models_dir, struct err *reterr)
{
	if (strncmp(ref, "file:", 5) == 0) {
		ref += 5;
		if (strncmp(ref, "//", 2) == 0)
			ref += 2;
		if (ref[0] != '/') {
			err_set(reterr, -EINVAL,
				"model \"file:%s\" is not absolute; file:/full/path is accepted", ref);
			return NULL;
		}
	}
	if (!*ref) {
		err_set(reterr, -EINVAL, "model is empty; give the path of a .gguf file");
		return NULL;
	}
	if (is_reference(ref)) {
		err_set(reterr, -EPROTONOSUPPORT,
			"model %s would have to be fetched, which is not possible yet; download it and give "
			"its path (relative "
			"to models_dir, or absolute)",
			ref);
		return NULL;
	}
	if (ref[0] == '/')
		return mem_strdup(ref);
	if (climbs(ref)) {
		err_set(reterr, -EACCES,
			"model %s leaves models_dir by \"..\"; give a path inside it, or an absolute one",
			ref);
		return NULL;
	}
	if (!models_dir) {
		err_set(reterr, -EINVAL,
			"model %s is a relative path, but models_dir is not set; set it, or give an absolute "
			"path",
			ref);
		return NULL;
	}
	return path_join(models_dir, ref);
}

bool model_split_name(const char *path, size_t *ret_at, unsigned *ret_part, unsigned *ret_parts)
{
	static const size_t tail = sizeof("-00001-of-00002.gguf") - 1;
	size_t n = strlen(path);
	uint64_t part, parts;
	if (n <= tail)
		return false;
	const char *t = path + n - tail;
	if (t[0] != '-' || strncmp(t + 6, "-of-", 4) != 0 || strcmp(t + 15, ".gguf") != 0 ||
		num_u64(view_of(t + 1, 5), &part) < 0 || num_u64(view_of(t + 10, 5), &parts) < 0)
		return false;
	*ret_at = n - tail + 1;
	*ret_part = (unsigned)part;
	*ret_parts = (unsigned)parts;
	return part >= 1 && part <= parts && parts <= MODEL_PARTS_MAX;
}

static int add_part(struct model_files *f, const char *path, struct stat *st)
{
	if (stat(path, st) < 0)
		return -errno;
	strv_add(&f->parts, path);
	f->size_bytes += (uint64_t)st->st_size;
	return 0;
}

static int add_parts(struct model_files *f, const char *path, size_t at, unsigned parts, struct err *reterr)
{
	AUTO(buf_done) struct buf missing = BUF(512);
	unsigned gone = 0;
	for (unsigned i = 1; i <= parts; i++) {
		AUTO(mem_freep) char *one = mem_fmt("%.*s%05u-of-%05u.gguf", (int)at, path, i, parts);
		struct stat st;
		if (add_part(f, one, &st) == 0)
			continue;
		if (gone++ < 3)
			(void)buf_addf(&missing, "%s%05u", gone > 1 ? ", " : "", i);
	}
	if (!gone)
		return 0;
	AUTO(mem_freep) char *dir = dir_of(path);
	const char *base = strrchr(path, '/');
	return err_set(reterr, -ENOENT,
		"model %s is split into %u files, of which %u %s missing in %s (number %s%s); fetch the rest "
		"into the same folder",
		base ? base + 1 : path, parts, gone, gone == 1 ? "is" : "are", dir, buf_str(&missing),
		gone > 3 ? " and more" : "");
}

/* Whether any part lies there: else the whole model is missing, which is another sentence. */
static bool some_part(const char *path, size_t at, unsigned parts)
{
	for (unsigned i = 1; i <= parts; i++) {
		AUTO(mem_freep) char *one = mem_fmt("%.*s%05u-of-%05u.gguf", (int)at, path, i, parts);
		if (file_exists(one))
			return true;
	}
	return false;
}

static int check_gguf(const char *path, const struct stat *st, struct err *reterr)
{
	if (!S_ISREG(st->st_mode))
		return err_set(reterr, -EINVAL, "model %s is not a file", path);
	AUTO(fd_closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return err_set(reterr, -errno, "model %s cannot be read: %s; see its owner and mode", path,
			strerror(errno));
	char magic[4] = { 0 };
	ssize_t n = read(fd, magic, sizeof magic);
	if (n == (ssize_t)sizeof magic && memcmp(magic, "GGUF", 4) == 0)
		return 0;
	if (n == 0)
		return err_set(reterr, -EBADMSG, "model %s is an empty file; fetch it again", path);
	if (n > 0 && memcmp(magic, "vers", 4) == 0)
		return err_set(reterr, -EBADMSG,
			"model %s is a git-lfs pointer, not the file itself; run `git lfs pull`", path);
	return err_set(reterr, -EBADMSG,
		"model %s is not a GGUF file (it begins with %02x %02x %02x %02x); give a .gguf file", path,
		(unsigned char)magic[0], (unsigned char)magic[1], (unsigned char)magic[2],
		(unsigned char)magic[3]);
}

static int refuse_missing(const char *ref, const char *path, int code, struct err *reterr)
{
	AUTO(mem_freep) char *dir = dir_of(path);
	AUTO(mem_freep) char *there = names_in(dir);
	if (code != -ENOENT && code != -ENOTDIR)
		return err_set(
			reterr, code, "model %s: %s cannot be looked at: %s", ref, path, strerror(-code));
	return err_set(reterr, code, "model %s is not there: looked at %s%s%s", ref, path,
		is_gguf_name(ref) ? "" : " and with .gguf behind it", there);
}

static int resolve_gguf(const char *ref, const char *path, struct model_files *f, struct err *reterr)
{
	struct stat st;
	AUTO(mem_freep) char *named = mem_strdup(path);
	int r = stat(named, &st) < 0 ? -errno : 0;
	if (r == -ENOENT && !is_gguf_name(path)) {
		free(named);
		named = mem_fmt("%s.gguf", path);
		r = stat(named, &st) < 0 ? -errno : 0;
	}
	size_t at;
	unsigned part, parts;
	bool split = model_split_name(named, &at, &part, &parts);
	if (r < 0 && !(split && r == -ENOENT && some_part(named, at, parts)))
		return refuse_missing(ref, path, r, reterr);
	if (r == 0 && S_ISDIR(st.st_mode)) {
		AUTO(mem_freep) char *there = names_in(named);
		return err_set(
			reterr, -EISDIR, "model %s is a folder; give the .gguf file in it%s", ref, there);
	}
	r = split ? add_parts(f, named, at, parts, reterr) : add_part(f, named, &st);
	if (r)
		return split ? r : refuse_missing(ref, path, r, reterr);
	for (size_t i = 0; i < f->parts.len && !r; i++)
		r = stat(f->parts.items[i], &st) < 0 ? -errno : check_gguf(f->parts.items[i], &st, reterr);
	f->path = mem_strdup(f->parts.items[0]);
	return r;
}

int model_resolve(const char *ref, const char *models_dir, enum model_want want, struct model_files *ret,
	struct err *reterr)
{
	AUTO(mem_freep) char *path = full_path(ref, models_dir, reterr);
	if (!path)
		return -EINVAL;
	struct model_files f = { 0 };
	struct stat st;
	int r;
	if (want == MODEL_GGUF) {
		r = resolve_gguf(ref, path, &f, reterr);
	} else {
		r = add_part(&f, path, &st);
		if (r)
			refuse_missing(ref, path, r, reterr);
		f.path = mem_strdup(path);
	}
	if (r) {
		model_files_done(&f);
		return r;
	}
	*ret = f;
	return 0;
}
