/* SPDX-License-Identifier: Apache-2.0
 *
 * The private apt: its folder and configuration, what it takes over from the system's, and what its
 * words mean. The system's own apt is only asked (`apt-config dump`, `indextargets`), never changed.
 */
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/num.h"
#include "provision/engine/engine_int.h"

/* ---- what the system's configuration says ---------------------------------------------------- */

/* How to reach archives, and nothing else: no sources, hooks, pins or sandbox of the system's apt. */
static const char *const carried_prefixes[] = {
	"Acquire::http::",
	"Acquire::https::",
	"Acquire::ftp::",
	"Acquire::socks::",
	"Acquire::tor::",
};
static const char *const carried_keys[] = {
	"Acquire::Retries",
	"Acquire::ForceIPv4",
	"Acquire::ForceIPv6",
	"Dir::Bin::methods",
	"Dir::Etc::netrc",
	"Dir::Etc::netrcparts",
	"Dir::Etc",
};

static bool is_carried(struct view key)
{
	for (size_t i = 0; i < ARRAY_LEN(carried_prefixes); i++) {
		struct view p = view_str(carried_prefixes[i]);
		if (key.n > p.n && view_eq_ci(view_cut(key, p.n), p))
			return true;
	}
	for (size_t i = 0; i < ARRAY_LEN(carried_keys); i++)
		if (view_eq_ci(key, view_str(carried_keys[i])))
			return true;
	return false;
}

static bool plain(struct view v, const char *forbidden)
{
	for (size_t i = 0; i < v.n; i++)
		if ((unsigned char)v.p[i] < ' ' || strchr(forbidden, v.p[i]))
			return false;
	return true;
}

int apt_config_carry(struct view dump, struct buf *b, char **ret_arch)
{
	struct view rest = dump;
	AUTO(mem_freep) char *arch = NULL;
	int r = 0;
	while (rest.p && !r) {
		struct view value, line = view_split(rest, '\n', &rest);
		struct view key = view_split(line, ' ', &value);
		if (value.n < 3 || value.p[0] != '"' || !view_ends(value, VIEW("\";")))
			continue;
		value = view_of(value.p + 1, value.n - 3);
		if (!value.n || !plain(value, "\"\\") || !plain(key, "\"\\;{}# "))
			continue;
		if (view_eq_ci(key, VIEW("APT::Architecture")) && !arch)
			arch = mem_viewdup(value);
		else if (is_carried(key))
			r = buf_addf(b, "%.*s \"%.*s\";\n", VIEW_ARG(key), VIEW_ARG(value));
	}
	if (r)
		return r;
	if (!arch || !apt_word_ok(arch))
		return -ENOENT;
	*ret_arch = MEM_TAKE(arch);
	return 0;
}

char *apt_archive_of_targets(struct view out)
{
	struct view rest = out;
	while (rest.p) {
		struct view line = view_split(rest, '\n', &rest), more;
		struct view uri = view_split(line, '|', &more);
		struct view origin = view_split(more, '|', &more);
		struct view codename = view_split(more, '|', &more);
		struct view component = view_split(more, '|', &more);
		if (!view_eqs(origin, "Debian") || !view_eqs(component, "main") ||
			view_find(codename, '-') < codename.n || view_starts(uri, VIEW("cdrom:")) ||
			view_starts(uri, VIEW("file:")))
			continue;
		AUTO(mem_freep) char *s = mem_viewdup(uri);
		if (apt_word_ok(s))
			return MEM_TAKE(s);
	}
	return NULL;
}

char *apt_archive_of_uris(struct view out, const char *codename)
{
	AUTO(mem_freep) char *tail = mem_fmt("/dists/%s/", codename);
	struct view rest = out;
	while (rest.p) {
		struct view line = view_split(rest, '\n', &rest);
		if (line.n < 2 || line.p[0] != '\'' || view_starts(line, VIEW("'cdrom:")) ||
			view_starts(line, VIEW("'file:")))
			continue;
		struct view uri = view_from(line, 1);
		uri = view_cut(uri, view_find(uri, '\''));
		ptrdiff_t at = view_search(uri, view_str(tail));
		if (at <= 0)
			continue;
		AUTO(mem_freep) char *s = mem_viewdup(view_cut(uri, (size_t)at + 1));
		if (apt_word_ok(s))
			return MEM_TAKE(s);
	}
	return NULL;
}

/* ---- its folder ------------------------------------------------------------------------------ */

/* wget and debconf are named as dependencies by packages we only unpack: with stubs that are "installed"
 * apt fetches 14 MB instead of 27. */
static const char status_text[] =
	"Package: wget\nStatus: install ok installed\nMaintainer: none\nArchitecture: %s\nVersion: 99\n"
	"Description: stub\n\n"
	"Package: debconf\nStatus: install ok installed\nMaintainer: none\nArchitecture: all\nVersion: 99\n"
	"Description: stub\n\n";

static const char *const no_file[] = {
	"Dir::Etc::sourceparts",
	"Dir::Etc::main",
	"Dir::Etc::parts",
	"Dir::Etc::preferences",
	"Dir::Etc::preferencesparts",
	"Dir::Etc::trusted",
	"Dir::Etc::trustedparts",
};

static int write_conf(const char *dir, struct view carried, const char *arch)
{
	AUTO(buf_done) struct buf b = BUF(256 * KIB);
	int r = buf_addv(&b, carried);
	r |= buf_addf(&b, "Dir::State \"%s/state\";\nDir::State::lists \"%s/state/lists\";\n", dir, dir);
	r |= buf_addf(&b, "Dir::State::status \"%s/status\";\n", dir);
	r |= buf_addf(
		&b, "Dir::Cache \"%s/cache\";\nDir::Cache::archives \"%s/cache/archives\";\n", dir, dir);
	r |= buf_adds(&b, "Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n");
	r |= buf_addf(&b, "Dir::Log \"%s/log\";\nDir::Etc::sourcelist \"%s/sources.list\";\n", dir, dir);
	for (size_t i = 0; i < ARRAY_LEN(no_file); i++)
		r |= buf_addf(&b, "%s \"/dev/null\";\n", no_file[i]);
	r |= buf_addf(&b,
		"APT::Architecture \"%s\";\n#clear APT::Architectures;\nAPT::Architectures { \"%s\"; };\n",
		arch, arch);
	r |= buf_adds(&b,
		"APT::Install-Recommends \"false\";\nAPT::Sandbox::User \"\";\nAPT::Color \"false\";\n"
		"APT::Update::Error-Mode \"any\";\nAPT::Get::AllowUnauthenticated \"false\";\n"
		"Acquire::AllowInsecureRepositories "
		"\"false\";\nAcquire::AllowDowngradeToInsecureRepositories \"false\";\n"
		"Acquire::AllowWeakRepositories \"false\";\n"
		/* A mirror's Release may be weeks old; what protects from an old one is the date we store. */
		"Acquire::Check-Valid-Until \"false\";\n"
		"Acquire::Languages { \"none\"; };\nAcquire::GzipIndexes \"true\";\nAcquire::PDiffs "
		"\"false\";\n"
		"Acquire::ForceHash \"sha256\";\n");
	if (r)
		return -ENOBUFS;
	AUTO(mem_freep) char *file = path_join(dir, "apt.conf");
	return file_write_atomic(file, buf_view(&b), 0600, false); /* a proxy's password may be in it */
}

static int write_text(const char *dir, const char *name, const char *text)
{
	AUTO(mem_freep) char *file = path_join(dir, name);
	return file_write_atomic(file, view_str(text), 0600, false);
}

int apt_dir_make(const struct package_names *n, const char *archive, struct view carried, const char *arch,
	struct err *reterr)
{
	static const char *const folders[] = { "state/lists/partial", "cache/archives/partial",
		"none/partial", "log" };
	if (access(n->keyring, R_OK) < 0)
		return err_set(reterr, -ENOENT,
			"the keyring %s that the archive's signature is checked with cannot be read: %s; "
			"install "
			"debian-archive-keyring or set engine.package.keyring",
			n->keyring, strerror(errno));
	if (!apt_word_ok(n->apt_dir))
		return err_set(reterr, -EINVAL,
			"the folder %s has a character in its name that apt cannot take; use a state_dir "
			"without spaces, "
			"quotes or brackets",
			n->apt_dir);
	int r = 0;
	for (size_t i = 0; i < ARRAY_LEN(folders) && !r; i++) {
		AUTO(mem_freep) char *f = path_join(n->apt_dir, folders[i]);
		r = dir_make(f, 0700);
	}
	AUTO(mem_freep)
	char *source =
		mem_fmt("deb [signed-by=%s arch=%s] %s %s main\n", n->keyring, arch, archive, n->suite);
	AUTO(mem_freep) char *status = mem_fmt(status_text, arch);
	if (!r)
		r = write_conf(n->apt_dir, carried, arch);
	if (!r)
		r = write_text(n->apt_dir, "sources.list", source);
	if (!r)
		r = write_text(n->apt_dir, "status", status);
	return r ? err_set(reterr, r, "%s cannot be written: %s", n->apt_dir, strerror(-r)) : 0;
}

char *release_file_find(const char *apt_dir)
{
	AUTO(mem_freep) char *lists = path_join(apt_dir, "state/lists");
	DIR *d = opendir(lists);
	char *found = NULL;
	for (struct dirent *e; d && (e = readdir(d));) {
		struct view name = view_str(e->d_name);
		bool inline_signed = view_ends(name, VIEW("_InRelease"));
		if (!inline_signed && (found || !view_ends(name, VIEW("_Release"))))
			continue;
		free(found);
		found = path_join(lists, e->d_name);
	}
	if (d)
		closedir(d);
	return found;
}

/* ---- what it says ---------------------------------------------------------------------------- */

int apt_status_pct(struct view line)
{
	struct view rest;
	struct view kind = view_split(line, ':', &rest);
	if (!view_eqs(kind, "dlstatus") && !view_eqs(kind, "pmstatus"))
		return -1;
	(void)view_split(rest, ':', &rest);
	struct view number = view_split(rest, ':', &rest);
	uint64_t whole;
	number = view_cut(number, view_find(number, '.'));
	return num_u64(number, &whole) == 0 && whole <= 100 ? (int)whole : -1;
}

#define MOVED                                                                                                \
	"sends to another address, and where network.allow_hosts or network.deny is set none is followed; "  \
	"name that one in engine.package.archive"
static const struct {
	const char *words;
	int code;
	const char *means; /* follows the archive's address */
} apt_words[] = {
	{ "  301  ", -EPERM, MOVED }, /* only where we told apt not to go there (package.c) */
	{ "  302  ", -EPERM, MOVED },
	{ "  307  ", -EPERM, MOVED },
	{ "  308  ", -EPERM, MOVED },
	{ "NO_PUBKEY", -EKEYREJECTED,
		"is signed by a key that is not in the keyring; set engine.package.keyring to the archive's "
		"own" },
	{ "is not signed", -EKEYREJECTED, "is not signed, so it is refused; use a signed archive" },
	{ "signatures couldn't be verified", -EKEYREJECTED,
		"has a signature that cannot be verified; set engine.package.keyring to the archive's own" },
	{ "BADSIG", -EKEYREJECTED, "has a wrong signature, so it is refused; use another archive" },
	{ "Hash Sum mismatch", -EBADMSG,
		"is just being changed or a proxy spoils it (hash sum mismatch); try again later" },
	{ "No space left on device", -ENOSPC, "cannot be fetched from: the disk is full" },
	{ "enough free space", -ENOSPC, "cannot be fetched from: the disk is full" },
	{ "Temporary failure resolving", -ENETUNREACH, "cannot be reached: its name does not resolve" },
	{ "Could not resolve", -ENETUNREACH, "cannot be reached: its name does not resolve" },
	{ "Network is unreachable", -ENETUNREACH, "cannot be reached: there is no network" },
	{ "Connection refused", -ENETUNREACH, "cannot be reached: the connection is refused" },
	{ "Could not connect", -ENETUNREACH, "cannot be reached: no connection" },
	{ "connection timed out", -ENETUNREACH, "cannot be reached: the connection timed out" },
	{ "Connection failed", -ENETUNREACH, "cannot be reached: the connection failed" },
	{ "does not have a Release file", -ENOENT,
		"has no such suite; set engine.package.suite or another archive" },
	{ "Unable to locate package", -ENOENT,
		"has no llama.cpp-tools in this suite for this machine; set engine.package.suite" },
	{ "has no installation candidate", -ENOENT,
		"has no llama.cpp-tools in this suite for this machine; set engine.package.suite" },
};

static struct view first_line_with(struct view text, struct view start)
{
	struct view rest = text;
	while (rest.p) {
		struct view line = view_split(rest, '\n', &rest);
		if (view_starts(line, start))
			return view_trim(view_from(line, start.n));
	}
	return (struct view){ 0 };
}

void apt_explain(const char *doing, const char *archive, const struct run_result *r, struct err *reterr)
{
	AUTO(mem_freep) char *where = url_redact(view_str(archive));
	static const char way_out[] =
		"connect this machine, or install llama-server, or set engine.mode: binary and engine.path";
	if (r->silent) {
		err_set(reterr, -ETIMEDOUT, "%s: the archive %s said nothing for 5 minutes; %s", doing, where,
			way_out);
		return;
	}
	for (size_t i = 0; i < ARRAY_LEN(apt_words); i++) {
		struct view w = view_str(apt_words[i].words);
		if (view_search(r->tail, w) < 0 && view_search(r->out, w) < 0)
			continue;
		bool net = apt_words[i].code == -ENETUNREACH;
		err_set(reterr, apt_words[i].code, "%s: the archive %s %s%s%s", doing, where,
			apt_words[i].means, net ? "; " : "", net ? way_out : "");
		return;
	}
	struct view said = first_line_with(r->tail, VIEW("E: "));
	if (!said.n)
		said = first_line_with(r->tail, VIEW("W: "));
	AUTO(mem_freep) char *words = url_redact(view_cut(said, 300));
	if (said.n)
		err_set(reterr, -EIO, "%s: apt says \"%s\"; the archive is %s", doing, words, where);
	else
		err_set(reterr, -EIO, "%s: apt ended with %s %d and no word about it; the archive is %s",
			doing, r->signo ? "signal" : "exit code", r->signo ? r->signo : r->exit_code, where);
}
