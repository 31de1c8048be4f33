/* SPDX-License-Identifier: Apache-2.0
 *
 * libFuzzer: the first line as a model reference, the rest as a registry's manifest. What is taken leads out
 * of no folder, means the same in its normal form, and puts files below their folder alone.
 */
#include <stdlib.h>

#include "provision/model/want_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_path(const char *path)
{
	for (const char *p = path; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			abort();
	for (struct view rest = view_str(path); rest.p;)
		if (view_eqs(view_split(rest, '/', &rest), ".."))
			abort();
}

static void reference(const char *text, struct model_ref *r)
{
	AUTO(model_ref_done) struct model_ref again = { 0 };
	struct err e = { 0 };
	if (model_ref_parse(text, NULL, r, &e)) {
		if (!*e.msg || r->text)
			abort();
		return;
	}
	check_path(r->file ? r->file : "");
	check_path(r->repo ? r->repo : "");
	if (r->kind == MODEL_REF_FILE)
		return;
	/* The text is for people: of an address with a query only the address itself says the same. */
	if (model_ref_parse(r->url ? r->url : r->text, NULL, &again, &e) || again.kind != r->kind ||
		strcmp(again.text, r->text) != 0 || (r->url && strchr(r->text, '?')))
		abort();
	if (r->kind == MODEL_REF_HUB) {
		AUTO(mem_freep) char *dir = want_cache_repo("/c", r->repo);
		check_path(dir);
		return;
	}
	AUTO(mem_freep) char *place = want_place(r, "/m");
	if (strncmp(place, "/m/", 3) != 0)
		abort();
	check_path(place);
}

static void manifest(struct view text)
{
	struct model_ref r = { .text = (char *)(uintptr_t) "oci://h/m:t", .kind = MODEL_REF_OCI };
	AUTO(want_item_done) struct want_item it = { 0 };
	if (want_manifest(text, &r, "/m", &it, NULL))
		return;
	for (size_t i = 0; i < it.nfetch; i++) {
		check_path(it.fetch[i].to);
		if (strncmp(it.fetch[i].to, "/m/", 3) != 0 || strchr(it.fetch[i].to + 3, '/') ||
			!it.fetch[i].sha256)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct view rest, line = view_split(view_of(size ? (const char *)data : "", size), '\n', &rest);
	AUTO(mem_freep) char *text = mem_viewdup(line);
	AUTO(model_ref_done) struct model_ref r = { 0 };
	reference(text, &r);
	if (rest.p)
		manifest(rest);
	return 0;
}
