/* SPDX-License-Identifier: Apache-2.0
 *
 * Models that are here: where they are found, how they are kept, whose they may be; and what the
 * environment says.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "want_dir.h"

#include "provision/model/want_job_int.h"

/* ---- what is here -------------------------------------------------------------------------------------- */

static void opts_for(struct model_ensure_opts *o, struct stores_roots *roots, const char *models)
{
	AUTO(mem_freep) char *hub = at("hub");
	AUTO(mem_freep) char *llama = at("llama");
	AUTO(mem_freep) char *ollama = at("ollama");
	AUTO(mem_freep) char *lm = at("lm");
	strv_add(&roots->hub, hub);
	strv_add(&roots->llamacpp, llama);
	strv_add(&roots->ollama, ollama);
	strv_add(&roots->lmstudio, lm);
	*o = (struct model_ensure_opts){ .roots = roots, .models_dir = models };
}

static int present(
	const char *ref, const char *mmproj, enum model_want want, struct model_got *g, struct err *e)
{
	AUTO(stores_roots_done) struct stores_roots roots = { 0 };
	AUTO(mem_freep) char *models = at("models");
	struct model_ensure_opts o;
	opts_for(&o, &roots, models);
	o.want = want;
	struct model_set s = { .ref = (char *)(uintptr_t)ref, .mmproj = (char *)(uintptr_t)mmproj };
	return model_present(&s, &o, g, e);
}

static void is_here(const char *ref, const char *path, const char *mmproj)
{
	struct model_got g = { 0 };
	struct err e = { 0 };
	AUTO(mem_freep) char *want = at(path);
	AUTO(mem_freep) char *proj = mmproj ? at(mmproj) : NULL;
	if (present(ref, NULL, MODEL_GGUF, &g, &e))
		fail_msg("%s: %s", ref, e.msg);
	assert_string_equal(g.weights.path, want);
	if (!str_same(g.mmproj, proj))
		fail_msg("%s: projector %s instead of %s", ref, g.mmproj, proj);
	assert_true(g.nfiles >= 1);
	assert_int_equal(g.fetched_bytes, 0);
	model_got_done(&g);
}

static void is_missing(const char *ref, enum model_want want)
{
	struct model_got g = { 0 };
	struct err e = { 0 };
	if (present(ref, NULL, want, &g, &e) != -ENOENT)
		fail_msg("%s: %s", ref, e.msg);
}

#define REPO "hub/models--org--repo/"

static void finds_what_lies_in_the_hubs_cache(void **state)
{
	(void)state;
	put(REPO "blobs/" HEX_A, "GGUFaaaa");
	put(REPO "blobs/" HEX_B, "GGUFb");
	put(REPO "refs/main", "c2");
	put_link(REPO "snapshots/c1/m-Q8_0.gguf", "../../blobs/" HEX_B);
	put_link(REPO "snapshots/c2/m-Q4_K_M.gguf", "../../blobs/" HEX_A);
	put_link(REPO "snapshots/c2/mmproj-F16.gguf", "../../blobs/" HEX_B);
	put_link(REPO "snapshots/c2/s-Q2_K-00001-of-00002.gguf", "../../blobs/" HEX_B);
	put_link(REPO "snapshots/c2/s-Q2_K-00002-of-00002.gguf", "../../blobs/gone");
	is_here("org/repo", REPO "snapshots/c2/m-Q4_K_M.gguf", REPO "snapshots/c2/mmproj-F16.gguf");
	is_here("hf:org/repo/m-Q4_K_M.gguf", REPO "snapshots/c2/m-Q4_K_M.gguf",
		REPO "snapshots/c2/mmproj-F16.gguf");
	is_here("org/repo:q8_0", REPO "snapshots/c1/m-Q8_0.gguf", NULL);
	is_missing("org/repo@c1:Q8_0", MODEL_GGUF); /* no ref of that name, and no commit's either */
	is_missing("org/repo:Q2_K", MODEL_GGUF);    /* half of it */
	is_missing("org/repo:Q5_K_M", MODEL_GGUF);
	is_missing("org/other", MODEL_GGUF);
	struct model_got g = { 0 };
	assert_int_equal(present("org/repo", "none", MODEL_GGUF, &g, NULL), 0);
	assert_null(g.mmproj);
	assert_string_equal(g.files[0].sha256, HEX_A);
	assert_string_equal(g.revision, "c2");
	assert_string_equal(g.reference, "hf:org/repo");
	AUTO(model_got_done) struct model_got copy = { 0 };
	model_got_copy(&copy, &g);
	model_got_done(&g);
	assert_string_equal(copy.source, "Hugging Face");
	assert_int_equal(copy.nfiles, 1);
}

static void finds_whole_snapshots(void **state)
{
	(void)state;
	put(REPO "refs/main", "c1");
	put(REPO "snapshots/c1/model-00001-of-00002.safetensors", "x");
	put(REPO "snapshots/c1/model.safetensors.index.json",
		"{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"b\":\"model-00002-of-00002."
		"safetensors\"}}");
	is_missing("org/repo", MODEL_ANY); /* no config.json */
	put(REPO "snapshots/c1/config.json", "{}");
	is_missing("org/repo", MODEL_ANY); /* a shard is not there */
	put(REPO "snapshots/c1/model-00002-of-00002.safetensors", "y");
	struct model_got g = { 0 };
	assert_int_equal(present("org/repo", NULL, MODEL_ANY, &g, NULL), 0);
	AUTO(mem_freep) char *path = at(REPO "snapshots/c1");
	assert_string_equal(g.weights.path, path);
	assert_int_equal(g.weights.parts.len, 4);
	model_got_done(&g);
}

static void finds_what_lies_elsewhere(void **state)
{
	(void)state;
	put("llama/org_repo_m-Q4_K_M.gguf", "GGUF");
	put("llama/org_repo_mmproj-F16.gguf", "GGUF");
	is_here("org/repo", "llama/org_repo_m-Q4_K_M.gguf", "llama/org_repo_mmproj-F16.gguf");
	put("lm/pub/rep/x-Q8_0.gguf", "GGUF");
	is_here("pub/rep:Q8_0", "lm/pub/rep/x-Q8_0.gguf", NULL);
	put("ollama/manifests/registry.ollama.ai/library/m/1b",
		"{\"layers\":[" LAYER("application/vnd.ollama.image.model", HEX_A, "") "]}");
	is_missing("ollama:m:1b", MODEL_GGUF);
	put("ollama/blobs/sha256-" HEX_A, "GGUF");
	is_here("ollama:m:1b", "ollama/blobs/sha256-" HEX_A, NULL);
	put("models/oci/h+5000/me/m/v1/manifest.json",
		"{\"layers\":[" LAYER("application/x", HEX_A, TITLE("t.gguf")) "]}");
	is_missing("oci://h:5000/me/m:v1", MODEL_GGUF);
	put("models/oci/h+5000/me/m/v1/t.gguf", "GGUF");
	is_here("oci://h:5000/me/m:v1", "models/oci/h+5000/me/m/v1/t.gguf", NULL);
	put("models/https/h/x/m.gguf", "GGUF");
	is_here("https://h/x/m.gguf", "models/https/h/x/m.gguf", NULL);
	is_missing("https://h/x/m.gguf?v=2", MODEL_GGUF);
	is_missing("http://h/x/m.gguf", MODEL_GGUF); /* anybody on the way may have written that one */
	put("models/s3/bucket/m-00001-of-00002.gguf", "GGUF");
	is_missing("s3://bucket/m-00001-of-00002.gguf", MODEL_GGUF);
	put("models/s3/bucket/m-00002-of-00002.gguf", "GGUF");
	is_here("s3://bucket/m-00001-of-00002.gguf", "models/s3/bucket/m-00001-of-00002.gguf", NULL);
	put("models/loose.gguf", "GGUF");
	is_here("loose", "models/loose.gguf", NULL);
	is_missing("file:/nowhere/x.gguf", MODEL_GGUF);
	struct model_got g;
	struct err e = { 0 };
	assert_int_equal(present("file:/dev/null", NULL, MODEL_ANY, &g, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "device"));
}

#define MANIFEST "{\"layers\":[" LAYER("application/x", HEX_A, TITLE("t.gguf")) "]}"

/* A manifest under a name that says "this digest". */
static void put_oci(const char *folder, const char *file, const char *text)
{
	AUTO(mem_freep) char *manifest = mem_fmt("models/oci/h+5000/me/m/%s/%s", folder, file);
	AUTO(mem_freep) char *weights = mem_fmt("models/oci/h+5000/me/m/%s/t.gguf", folder);
	put(manifest, text);
	put(weights, "GGUF");
}

static void a_digest_is_met_by_that_manifest_alone(void **state)
{
	(void)state;
	AUTO(mem_freep) char *hex = want_sha256_hex(VIEW(MANIFEST));
	AUTO(mem_freep) char *ref = mem_fmt("oci://h:5000/me/m@sha256:%s", hex);
	AUTO(mem_freep) char *own = mem_fmt("sha256+%s", hex);
	AUTO(mem_freep) char *tag = mem_fmt("sha256_%s", hex);
	AUTO(mem_freep) char *path = mem_fmt("models/oci/h+5000/me/m/%s/t.gguf", own);
	put_oci(tag, "manifest.json", MANIFEST);
	is_missing(ref, MODEL_GGUF); /* a tag may be called as it likes */
	put_oci(own, "manifest.json", MANIFEST " ");
	is_missing(ref, MODEL_GGUF);
	put_oci(own, "manifest.json", MANIFEST);
	is_here(ref, path, NULL);
}

static void a_digest_of_an_index_leads_to_its_manifest(void **state)
{
	(void)state;
	AUTO(mem_freep) char *hex = want_sha256_hex(VIEW(MANIFEST));
	AUTO(mem_freep) char *index = mem_fmt("{\"manifests\":[{\"digest\":\"sha256:%s\"}]}", hex);
	AUTO(mem_freep) char *other = mem_fmt("{\"manifests\":[{\"digest\":\"sha256:%s\"}]} ", hex);
	AUTO(mem_freep) char *pin = want_sha256_hex(view_str(index));
	AUTO(mem_freep) char *ref = mem_fmt("oci://h:5000/me/m@sha256:%s", pin);
	AUTO(mem_freep) char *folder = mem_fmt("sha256+%s", pin);
	AUTO(mem_freep) char *name = mem_fmt("index-%s.json", pin);
	AUTO(mem_freep) char *path = mem_fmt("models/oci/h+5000/me/m/%s/t.gguf", folder);
	put_oci(folder, "manifest.json", MANIFEST);
	is_missing(ref, MODEL_GGUF);
	put_oci(folder, name, other);
	is_missing(ref, MODEL_GGUF);
	put_oci(folder, name, index);
	is_here(ref, path, NULL);
	put_oci(folder, "manifest.json", MANIFEST " ");
	is_missing(ref, MODEL_GGUF);
}

static void digests_are_kept_beside(void **state)
{
	(void)state;
	AUTO(stores_roots_done) struct stores_roots roots = { 0 };
	AUTO(mem_freep) char *models = at("models");
	AUTO(mem_freep) char *file = at("models/https/h/m.gguf");
	struct model_ensure_opts o;
	struct model_got g = { 0 };
	struct err e = { 0 };
	opts_for(&o, &roots, models);
	struct model_set s = { .ref = (char *)(uintptr_t) "https://h/m.gguf" };
	put("models/https/h/m.gguf", "GGUF");
	o.sha256 = HEX_A;
	assert_int_equal(model_present(&s, &o, &g, &e), -ENOENT);
	assert_int_equal(want_note(file, HEX_A), 0);
	AUTO(mem_freep) char *noted = want_noted(file);
	assert_string_equal(noted, HEX_A);
	assert_int_equal(model_present(&s, &o, &g, &e), 0);
	assert_string_equal(g.files[0].sha256, HEX_A);
	model_got_done(&g);
	o.sha256 = HEX_B;
	assert_int_equal(model_present(&s, &o, &g, &e), -EBADMSG);
	put("models/https/h/m.gguf.sha256", HEX_B "  m.gguf\n"); /* of nobody knows which file */
	assert_null(want_noted(file));
	assert_int_equal(model_present(&s, &o, &g, &e), -ENOENT);
	model_note_drop(file); /* nor is it ours to remove */
	AUTO(mem_freep) char *beside = at("models/https/h/m.gguf.sha256");
	assert_true(file_exists(beside));
}

static void set_mtime(const char *path, struct timespec to)
{
	const struct timespec both[2] = { { .tv_nsec = UTIME_OMIT }, to };
	assert_int_equal(utimensat(AT_FDCWD, path, both, 0), 0);
}

/* A digest is of a file that was looked at, not of a name. */
static void a_noted_digest_is_of_one_file(void **state)
{
	(void)state;
	AUTO(mem_freep) char *file = at("models/https/h/m.gguf");
	AUTO(mem_freep) char *beside = at("models/https/h/m.gguf.sha256");
	struct stat st;
	put("models/https/h/m.gguf", "GGUF");
	assert_int_equal(want_note(file, HEX_A), 0);
	assert_int_equal(stat(file, &st), 0);
	set_mtime(file, (struct timespec){ 1000, 1 }); /* touched */
	assert_null(want_noted(file));
	AUTO(mem_freep) char *changed = want_changed(file, HEX_B);
	assert_non_null(strstr(changed, "its SHA-256 was " HEX_A " and is " HEX_B));
	assert_null(want_changed(file, HEX_A));
	set_mtime(file, st.st_mtim);
	AUTO(mem_freep) char *again = want_noted(file);
	assert_string_equal(again, HEX_A);
	assert_int_equal(truncate(file, 3), 0); /* another size */
	set_mtime(file, st.st_mtim);
	assert_null(want_noted(file));
	put("models/https/h/m.gguf", "GGUF"); /* another file of the same name, size and time */
	set_mtime(file, st.st_mtim);
	assert_null(want_noted(file));
	model_note_drop(file);
	assert_false(file_exists(beside));
	assert_int_equal(want_note("/nowhere/m.gguf", HEX_A), -ENOENT);
}

static void digests_of_others_files_are_kept_in_state_dir(void **state)
{
	(void)state;
	AUTO(stores_roots_done) struct stores_roots roots = { 0 };
	AUTO(mem_freep) char *models = at("models");
	AUTO(mem_freep) char *own = at("state");
	AUTO(mem_freep) char *file = at("models/m.gguf");
	struct model_ensure_opts o;
	struct model_got g = { 0 };
	struct err e = { 0 };
	opts_for(&o, &roots, models);
	o.state_dir = own;
	struct model_set s = { .ref = (char *)(uintptr_t) "m.gguf" };
	put("models/m.gguf", "GGUF");
	o.sha256 = HEX_A;
	assert_int_equal(model_present(&s, &o, &g, &e), -ENOENT);
	assert_int_equal(want_verify(own, file, HEX_A), 0);
	assert_int_equal(model_present(&s, &o, &g, &e), 0);
	model_got_done(&g);
	o.sha256 = HEX_B;
	assert_int_equal(model_present(&s, &o, &g, &e), -EBADMSG);
	o.sha256 = HEX_A;
	put("models/m.gguf", "GGUF of another kind");
	assert_int_equal(model_present(&s, &o, &g, &e), -ENOENT);
}

/* ---- the cache's layout -------------------------------------------------------------------------------- */

static void links_are_relative(void **state)
{
	(void)state;
	put(REPO "blobs/x", "x");
	AUTO(mem_freep) char *blob = at(REPO "blobs/x");
	AUTO(mem_freep) char *a = at(REPO "snapshots/c/a.gguf");
	AUTO(mem_freep) char *b = at(REPO "snapshots/c/sub/dir/b.gguf");
	char to[256] = { 0 };
	for (int i = 0; i < 2; i++) {
		assert_int_equal(want_link(blob, a, NULL), 0);
		assert_int_equal(want_link(blob, b, NULL), 0);
	}
	assert_true(readlink(a, to, sizeof to - 1) > 0);
	assert_string_equal(to, "../../blobs/x");
	memset(to, 0, sizeof to);
	assert_true(readlink(b, to, sizeof to - 1) > 0);
	assert_string_equal(to, "../../../../blobs/x");
	assert_true(file_exists(b));
	assert_int_equal(unlink(a), 0);
	assert_int_equal(symlink("/etc/passwd", a), 0);
	assert_int_equal(want_link(blob, a, NULL), 0);
	memset(to, 0, sizeof to);
	assert_true(readlink(a, to, sizeof to - 1) > 0);
	assert_string_equal(to, "../../blobs/x");
}

static void one_holds_a_lock(void **state)
{
	(void)state;
	AUTO(mem_freep) char *path = at("hub/.locks/models--o--r/x.lock");
	AUTO(fd_closep) int a = -1;
	AUTO(fd_closep) int b = -1;
	assert_int_equal(want_lock(path, &a, NULL), 0);
	assert_int_equal(want_lock(path, &b, NULL), -EAGAIN);
	fd_close(a);
	a = -1;
	assert_int_equal(want_lock(path, &b, NULL), 0);
}

static void knows_gits_digest(void **state)
{
	(void)state;
	put("x", "hello\n");
	AUTO(mem_freep) char *path = at("x");
	struct err e = { 0 };
	assert_int_equal(want_git_check(path, "ce013625030ba8dba906f756967f9e9ca394464a", &e), 0);
	assert_int_equal(want_git_check(path, "ce013625030ba8dba906f756967f9e9ca394464b", &e), -EBADMSG);
}

/* ---- policy -------------------------------------------------------------------------------------------- */

static void trust_names_its_line(void **state)
{
	(void)state;
	struct model_ensure_opts o = { .trust = MODEL_TRUST_STRICT,
		.hub_endpoint = "https://hub.example.org" };
	strv_add(&o.registries, "*.example.org");
	strv_add(&o.registries, "s3://mine");
	static const struct {
		const char *ref;
		bool ok;
	} t[] = { { "org/repo", true }, { "https://a.example.org:8443/x", true },
		{ "https://example.org/x", false }, { "https://evil.org/x", false },
		{ "https://xexample.org/x", false }, { "s3://mine/x", true }, { "s3://other/x", false },
		{ "ollama:m", false }, { "oci://ghcr.io/m", false }, { "/a.gguf", true } };
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		AUTO(model_ref_done) struct model_ref r = { 0 };
		struct err e = { 0 };
		assert_int_equal(model_ref_parse(t[i].ref, NULL, &r, NULL), 0);
		if ((want_trust_ref(&r, &o, &e) == 0) != t[i].ok)
			fail_msg("%s: %s", t[i].ref, e.msg);
		if (!t[i].ok && (!strstr(e.msg, "trust.mode: strict") || !strstr(e.msg, "trust.registries")))
			fail_msg("%s: %s", t[i].ref, e.msg);
	}
	AUTO(want_item_done) struct want_item it = { .ref = { .text = mem_strdup("https://h/x") } };
	struct want_file *f = want_item_add(&it, WANT_WEIGHTS, "/x", "https://h/x");
	struct err e = { 0 };
	assert_int_equal(want_trust_files(&it, &o, &e), -EACCES);
	o.trust = MODEL_TRUST_PERMISSIVE;
	assert_int_equal(want_trust_files(&it, &o, &e), 0);
	o.require_digest = true;
	assert_int_equal(want_trust_files(&it, &o, &e), -EACCES);
	assert_non_null(strstr(e.msg, "trust.require_digest: true"));
	f->sha256 = mem_strdup(HEX_A);
	assert_int_equal(want_trust_files(&it, &o, &e), 0);
	strv_done(&o.registries);
}

/* ---- the environment ----------------------------------------------------------------------------------- */

static void clean_env(void)
{
	static const char *const names[] = { "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HOME",
		"XDG_CACHE_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE" };
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unsetenv(names[i]);
	setenv("HOME", dir, 1);
}

static void token_is(const struct model_ensure_opts *o, const char *want)
{
	AUTO(mem_freep) char *t = want_hub_token(o);
	if (!str_same(t, want))
		fail_msg("token %s instead of %s", t, want);
}

static void tokens_come_from_where_the_hub_puts_them(void **state)
{
	(void)state;
	struct model_ensure_opts o = { 0 };
	AUTO(mem_freep) char *other = at("other");
	AUTO(mem_freep) char *home = at("home");
	clean_env();
	token_is(&o, NULL);
	put(".cache/huggingface/token", "hf_file\n");
	token_is(&o, "hf_file");
	put("home/token", " hf_home\n");
	setenv("HF_HOME", home, 1);
	token_is(&o, "hf_home");
	put("other", "hf_other");
	setenv("HF_TOKEN_PATH", other, 1);
	token_is(&o, "hf_other");
	setenv("HF_TOKEN", "hf_env", 1);
	token_is(&o, "hf_env");
	o.hub_token = "hf_given";
	token_is(&o, "hf_given");
	o.hub_token = "a\r\nX-Evil: 1";
	token_is(&o, NULL);
	AUTO(mem_freep) char *usual = want_hub_endpoint(&o);
	assert_string_equal(usual, "https://huggingface.co");
	setenv("HF_ENDPOINT", "https://mirror.example/", 1);
	AUTO(mem_freep) char *mirror = want_hub_endpoint(&o);
	assert_string_equal(mirror, "https://mirror.example");
	assert_false(want_hub_offline());
	setenv("HF_HUB_OFFLINE", "1", 1);
	assert_true(want_hub_offline());
	setenv("HF_HUB_OFFLINE", "0", 1);
	assert_false(want_hub_offline());
	clean_env();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(finds_what_lies_in_the_hubs_cache, make, unmake),
		cmocka_unit_test_setup_teardown(finds_whole_snapshots, make, unmake),
		cmocka_unit_test_setup_teardown(finds_what_lies_elsewhere, make, unmake),
		cmocka_unit_test_setup_teardown(a_digest_is_met_by_that_manifest_alone, make, unmake),
		cmocka_unit_test_setup_teardown(a_digest_of_an_index_leads_to_its_manifest, make, unmake),
		cmocka_unit_test_setup_teardown(digests_are_kept_beside, make, unmake),
		cmocka_unit_test_setup_teardown(a_noted_digest_is_of_one_file, make, unmake),
		cmocka_unit_test_setup_teardown(digests_of_others_files_are_kept_in_state_dir, make, unmake),
		cmocka_unit_test_setup_teardown(links_are_relative, make, unmake),
		cmocka_unit_test_setup_teardown(one_holds_a_lock, make, unmake),
		cmocka_unit_test_setup_teardown(knows_gits_digest, make, unmake),
		cmocka_unit_test(trust_names_its_line),
		cmocka_unit_test_setup_teardown(tokens_come_from_where_the_hub_puts_them, make, unmake),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
