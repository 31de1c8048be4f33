/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_apt.h"

#include <stdlib.h>
#include <unistd.h>

#include "provision/engine/engine_int.h"

static const char apt_config[] =
	"#!/bin/sh\necho \"apt-config $*\" >> \"$FAKE/calls\"\n"
	"printf 'APT::Architecture \"amd64\";\\nAcquire::http::Proxy \"http://proxy.test:3128\";\\n'\n"
	"printf 'Acquire::IndexTargets::deb::X \"1\";\\nDPkg::Post-Invoke:: \"rm -rf x\";\\n'\n";

static const char apt_get[] =
	"#!/bin/sh\n"
	"FAKE=$(cat \"$(dirname \"$0\")/../self\")\n"
	"echo \"apt-get $*\" >> \"$FAKE/calls\"\n"
	"D=$(dirname \"$APT_CONFIG\")\n"
	"V=0.7.0+dfsg-2; [ -e \"$FAKE/version\" ] && V=$(cat \"$FAKE/version\")\n"
	"if [ -e \"$FAKE/fail\" ]; then cat \"$FAKE/fail\" >&2; exit 100; fi\n"
	"case \"$*\" in\n"
	"*indextargets*) echo 'http://mirror.test/debian/|Debian|bookworm|main';;\n"
	"*--print-uris*install*)\n"
	"  for n in llama.cpp-tools_1%3a${V}_amd64.deb libggml0_1_amd64.deb; do\n"
	"    echo \"'http://mirror.test/$n' $n 5 SHA256:$(printf '%s' \"$n\" | sha256sum | cut -d' ' -f1)\"; "
	"done;;\n"
	"*update*)\n"
	"  echo 'dlstatus:1:50.0000:Retrieving file 1 of 1' >&3\n"
	"  { echo 'Origin: Debian'; echo \"Date: $(cat \"$FAKE/date\")\"; } > "
	"\"$D/state/lists/mirror_forky_InRelease\";;\n"
	"*-d*install*)\n"
	"  cd \"$D/cache/archives\" || exit 1\n"
	"  n=libggml0_1_amd64.deb; [ -e $n ] || { printf '%s' $n > $n; echo \"fetch $n\" >> \"$FAKE/calls\"; "
	"}\n"
	"  echo 'dlstatus:1:50.0000:Retrieving file 2 of 2' >&3\n"
	"  if [ -e \"$FAKE/hang\" ]; then : > \"$FAKE/hanging\"; read x < \"$FAKE/go\"; fi\n"
	"  n=llama.cpp-tools_1%3a${V}_amd64.deb; [ -e $n ] || { printf '%s' $n > $n; echo \"fetch "
	"$n\" >> \"$FAKE/calls\"; }\n"
	"  [ -e \"$FAKE/spoil\" ] && echo other > libggml0_1_amd64.deb\n"
	"  echo 'dlstatus:2:100.0000:Retrieving file 2 of 2' >&3;;\n"
	"esac\nexit 0\n";

/* dpkg -x FILE DIR: what both packages have in them; the loader is a script that runs the program. */
static const char dpkg[] =
	"#!/bin/sh\n"
	"FAKE=$(cat \"$(dirname \"$0\")/../self\")\n"
	"echo \"dpkg $1 $(basename \"$2\")\" >> \"$FAKE/calls\"\n"
	"L=\"$3/usr/lib/x86_64-linux-gnu\"; mkdir -p \"$3/usr/bin\" \"$L/ggml/backends0\" \"$L/llama\"\n"
	"printf '#!/bin/sh\\n[ \"$1\" = --list-devices ] && exec cat \"%s/package-list\"\\n"
	"echo \"version: 0.7.0 (build 11669, commit X)\"\\n' \"$FAKE\" > \"$3/usr/bin/llama-server\"\n"
	"printf '#!/bin/sh\\nshift 5\\nexec \"$@\"\\n' > \"$L/ld-linux-x86-64.so.2\"\n"
	"chmod +x \"$3/usr/bin/llama-server\" \"$L/ld-linux-x86-64.so.2\"\n";

static void script(const char *dir, const char *name, const char *text)
{
	AUTO(mem_freep) char *p = mem_fmt("%s/bin/%s", dir, name);
	if (file_write_atomic(p, view_str(text), 0755, false) < 0)
		abort();
}

void fake_apt_set(const char *dir, const char *name, const char *text)
{
	AUTO(mem_freep) char *p = path_join(dir, name);
	if (!text)
		unlink(p);
	else if (file_write_atomic(p, view_str(text), 0600, false) < 0)
		abort();
}

void fake_apt_make(const char *dir)
{
	AUTO(mem_freep) char *bin = path_join(dir, "bin");
	if (dir_make(bin, 0700) < 0)
		abort();
	AUTO(mem_freep)
	char *find_self = mem_fmt("#!/bin/sh\nFAKE='%s'\n%s", dir, apt_config + sizeof("#!/bin/sh\n") - 1);
	script(dir, "apt-config", find_self);
	script(dir, "apt-get", apt_get);
	script(dir, "dpkg", dpkg);
	fake_apt_set(dir, "self", dir);
	fake_apt_set(dir, "keyring.gpg", "x");
	fake_apt_set(dir, "date", "Fri, 30 Oct 2026 08:08:01 UTC");
	AUTO(mem_freep) char *path = mem_fmt("%s:/usr/bin:/bin", bin);
	setenv("PATH", path, 1);
}

unsigned fake_apt_calls(const char *dir, const char *prefix)
{
	AUTO(mem_freep) char *p = path_join(dir, "calls");
	AUTO(buf_done) struct buf b = BUF(1 * MIB);
	if (file_read(p, &b) < 0)
		return 0;
	unsigned n = 0;
	struct view rest = buf_view(&b);
	while (rest.p)
		n += view_starts(view_split(rest, '\n', &rest), view_str(prefix));
	return n;
}
