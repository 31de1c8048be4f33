/* SPDX-License-Identifier: Apache-2.0
 *
 * A folder with shell scripts named apt-get, apt-config, dpkg that behave as the real ones do where the
 * package mode looks; alone in PATH before the system's. Knobs are files in the folder.
 */
#ifndef FAKE_APT_H
#define FAKE_APT_H

/* Makes dir/bin with the scripts and dir/keyring.gpg; puts dir/bin first in PATH and dir into FAKE. */
void fake_apt_make(const char *dir);
/* Creates dir/name with text, or removes it (NULL): "hang" (install waits for dir/go and says so by
 * making dir/hanging), "date" (the Release date), "fail" (what apt-get says on stderr before exit 100),
 * "spoil" (a fetched file has other contents), "package-list" (what the package's llama-server --list-devices
 * prints). */
void fake_apt_set(const char *dir, const char *name, const char *text);
/* Lines of dir/calls that start with prefix. */
unsigned fake_apt_calls(const char *dir, const char *prefix);

#endif
