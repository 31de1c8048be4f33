/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model's reference means, what of a list is picked, and how places are asked.
 */
#include <sys/stat.h>

#include "want_dir.h"

/* ---- references ---------------------------------------------------------------------------------------- */

static void what_references_mean(void **state)
{
	(void)state;
	static const struct {
		const char *text, *norm;
		enum model_ref_kind kind;
		const char *host, *repo, *tag, *file, *revision;
	} t[] = {
		{ "hf:org/repo", "hf:org/repo", MODEL_REF_HUB, NULL, "org/repo", NULL, NULL, NULL },
		{ "org/repo", "hf:org/repo", MODEL_REF_HUB, NULL, "org/repo", NULL, NULL, NULL },
		{ "org/repo:q4_k_m", "hf:org/repo:Q4_K_M", MODEL_REF_HUB, NULL, "org/repo", "Q4_K_M", NULL,
			NULL },
		{ "hf:org/repo:latest", "hf:org/repo", MODEL_REF_HUB, NULL, "org/repo", NULL, NULL, NULL },
		{ "hf://org/repo:UD-Q4_K_XL", "hf:org/repo:UD-Q4_K_XL", MODEL_REF_HUB, NULL, "org/repo",
			"UD-Q4_K_XL", NULL, NULL },
		{ "hf:org/repo@v1.0:Q8_0", "hf:org/repo@v1.0:Q8_0", MODEL_REF_HUB, NULL, "org/repo", "Q8_0",
			NULL, "v1.0" },
		{ "org/repo@0123abc", "hf:org/repo@0123abc", MODEL_REF_HUB, NULL, "org/repo", NULL, NULL,
			"0123abc" },
		{ "hf:org/repo/sub/a b.gguf", "hf:org/repo/sub/a b.gguf", MODEL_REF_HUB, NULL, "org/repo",
			NULL, "sub/a b.gguf", NULL },
		{ "https://huggingface.co/org/repo", "hf:org/repo", MODEL_REF_HUB, NULL, "org/repo", NULL,
			NULL, NULL },
		{ "https://huggingface.co/org/repo/blob/main/a.gguf", "hf:org/repo/a.gguf", MODEL_REF_HUB,
			NULL, "org/repo", NULL, "a.gguf", NULL },
		{ "https://huggingface.co/org/repo/resolve/v2/x/a.gguf?download=true",
			"hf:org/repo@v2/x/a.gguf", MODEL_REF_HUB, NULL, "org/repo", NULL, "x/a.gguf", "v2" },
		{ "https://huggingface.co/api/x/y/z", "https://huggingface.co/api/x/y/z", MODEL_REF_HTTPS,
			"huggingface.co", NULL, NULL, "api/x/y/z", NULL },
		{ "https://a.example:8443/x/m%20y.gguf?v=1#top",
			"https://a.example:8443/x/m%20y.gguf#68535f194e3b3737", MODEL_REF_HTTPS,
			"a.example:8443", NULL, "v=1", "x/m y.gguf", NULL },
		{ "http://[::1]:80/m.gguf", "http://[::1]:80/m.gguf", MODEL_REF_HTTPS, "[::1]:80", NULL, NULL,
			"m.gguf", NULL },
		{ "ollama:llama3.2:3b", "ollama:llama3.2:3b", MODEL_REF_OLLAMA, NULL, "library/llama3.2",
			"3b", NULL, NULL },
		{ "ollama:llama3.2", "ollama:llama3.2:latest", MODEL_REF_OLLAMA, NULL, "library/llama3.2",
			"latest", NULL, NULL },
		{ "ollama:me/m:1", "ollama:me/m:1", MODEL_REF_OLLAMA, NULL, "me/m", "1", NULL, NULL },
		{ "ollama:registry.ollama.ai/library/m:1", "ollama:m:1", MODEL_REF_OLLAMA, NULL, "library/m",
			"1", NULL, NULL },
		{ "ollama:localhost:5000/me/m:1", "ollama:localhost:5000/me/m:1", MODEL_REF_OLLAMA,
			"localhost:5000", "me/m", "1", NULL, NULL },
		{ "s3://bucket/a/b.gguf", "s3://bucket/a/b.gguf", MODEL_REF_S3, NULL, "bucket", NULL,
			"a/b.gguf", NULL },
		{ "oci://ghcr.io/me/m:v1", "oci://ghcr.io/me/m:v1", MODEL_REF_OCI, "ghcr.io", "me/m", "v1",
			NULL, NULL },
		{ "oci://docker.io/ai/smollm2", "oci://docker.io/ai/smollm2:latest", MODEL_REF_OCI,
			"docker.io", "ai/smollm2", "latest", NULL, NULL },
		{ "file:/a/b.gguf", "file:/a/b.gguf", MODEL_REF_FILE, NULL, NULL, NULL, "/a/b.gguf", NULL },
		{ "file:///a/b.gguf", "file:/a/b.gguf", MODEL_REF_FILE, NULL, NULL, NULL, "/a/b.gguf", NULL },
		{ "/a/b.gguf", "file:/a/b.gguf", MODEL_REF_FILE, NULL, NULL, NULL, "/a/b.gguf", NULL },
		{ "a.gguf", "file:a.gguf", MODEL_REF_FILE, NULL, NULL, NULL, "a.gguf", NULL },
		{ "a/b.gguf", "file:a/b.gguf", MODEL_REF_FILE, NULL, NULL, NULL, "a/b.gguf", NULL },
		{ "a/b/c", "file:a/b/c", MODEL_REF_FILE, NULL, NULL, NULL, "a/b/c", NULL },
		{ "./org/repo", "file:./org/repo", MODEL_REF_FILE, NULL, NULL, NULL, "./org/repo", NULL },
	};
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		AUTO(model_ref_done) struct model_ref r = { 0 };
		struct err e = { 0 };
		if (model_ref_parse(t[i].text, NULL, &r, &e))
			fail_msg("%s: %s", t[i].text, e.msg);
		if (strcmp(r.text, t[i].norm) != 0 || r.kind != t[i].kind || !str_same(r.host, t[i].host) ||
			!str_same(r.repo, t[i].repo) || !str_same(r.tag, t[i].tag) ||
			!str_same(r.file, t[i].file) || !str_same(r.revision, t[i].revision))
			fail_msg("%s: kind %d text %s host %s repo %s tag %s file %s revision %s", t[i].text,
				r.kind, r.text, r.host, r.repo, r.tag, r.file, r.revision);
		if (strcmp(t[i].norm, "file:a.gguf") == 0 ||
			view_starts(view_str(t[i].norm), VIEW("file:a")) ||
			view_starts(view_str(t[i].norm), VIEW("file:.")))
			continue;
		/* its normal form means the same */
		AUTO(model_ref_done) struct model_ref again = { 0 };
		if (strchr(r.text, '#')) { /* without its query it means nothing */
			assert_int_equal(model_ref_parse(r.text, NULL, &again, &e), -EINVAL);
			assert_non_null(strstr(e.msg, "stand for a query"));
			continue;
		}
		assert_int_equal(model_ref_parse(r.text, NULL, &again, NULL), 0);
		assert_string_equal(again.text, r.text);
	}
}

static void refuses_hostile_references(void **state)
{
	(void)state;
	static const struct {
		const char *text, *why;
	} t[] = {
		{ "", "empty" },
		{ "hf:", "organisation" },
		{ "hf:repo", "organisation" },
		{ "hf:org/", "letters" },
		{ "hf:../repo", "letters" },
		{ "hf:org/..", "letters" },
		{ "hf:or--g/repo", "\"--\"" },
		{ "hf:org/re--po", "\"--\"" },
		{ "hf:org/.repo", "letters" },
		{ "hf:org/repo/", "empty" },
		{ "hf:org/repo/../../x", "are no names" },
		{ "hf:org/repo/a/./b", "are no names" },
		{ "hf:org/repo//etc/passwd", "begins with" },
		{ "hf:org/repo/a//b", "part of it is empty" },
		{ "hf:org/repo/a\\b", "backslash" },
		{ "hf:org/repo:", "quantization" },
		{ "hf:org/repo:a b", "quantization" },
		{ "hf:org/repo:../x", "quantization" },
		{ "hf:org/repo@..", "branch" },
		{ "hf:org/repo@a..b", "branch" },
		{ "hf:org/repo@", "branch" },
		{ "hf:org/repo\n", "control" },
		{ "hf:org/repo\x7f", "control" },
		{ "hf:org/r\xff", "UTF-8" },
		{ "ollama:", "ollama" },
		{ "ollama:a/b/c/d", "ollama" },
		{ "ollama:../x", "ollama" },
		{ "ollama:m:", "tag" },
		{ "ollama:m:a/../../b", "ollama" },
		{ "ollama:host:99999/a/b", "ollama" },
		{ "s3://b", "bucket" },
		{ "s3://bucket", "empty" },
		{ "s3://bucket/", "empty" },
		{ "s3://bucket/../x", "are no names" },
		{ "s3://buc..ket/x", "bucket" },
		{ "oci://host", "oci" },
		{ "oci://host/", "oci" },
		{ "oci://host/a/../b", "oci" },
		{ "oci://ho st/a", "oci" },
		{ "oci://host/a@sha256:00", "oci" },
		{ "https://", "host" },
		{ "https://host", "empty" },
		{ "https://host/", "empty" },
		{ "https://user:secret@host/x", "password" },
		{ "https://host/a/%2e%2e/b", "are no names" },
		{ "https://host/a%2f..%2fb", "are no names" },
		{ "https://host/a%00", "digits" },
		{ "https://host/a%0ab", "control" },
		{ "https://host/a%zz", "digits" },
		{ "https://host:0/a", "host" },
		{ "https://[::1/a", "host" },
		{ "https://host/a b", "blank" },
		{ "file:a.gguf", "full path" },
		{ "file:", "full path" },
		{ "file:/a/../b", "\"..\"" },
		{ "../a.gguf", "\"..\"" },
		{ "a/../../b.gguf", "\"..\"" },
		{ "ftp://host/x", "accepted are" },
	};
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		AUTO(model_ref_done) struct model_ref r = { 0 };
		struct err e = { 0 };
		if (model_ref_parse(t[i].text, NULL, &r, &e) != -EINVAL)
			fail_msg("%s was taken as %s", t[i].text, r.text);
		if (!strstr(e.msg, t[i].why))
			fail_msg("%s: \"%s\" does not say \"%s\"", t[i].text, e.msg, t[i].why);
		assert_null(strstr(e.msg, "secret"));
	}
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	while (b.len < 5000)
		(void)buf_adds(&b, "hf:");
	struct model_ref r;
	assert_int_equal(model_ref_parse(buf_str(&b), NULL, &r, NULL), -EINVAL);
}

static void an_existing_file_wins(void **state)
{
	(void)state;
	put("org/repo", "x");
	put("org/other.gguf", "x");
	AUTO(model_ref_done) struct model_ref r = { 0 }, s = { 0 }, t = { 0 };
	assert_int_equal(model_ref_parse("org/repo", dir, &r, NULL), 0);
	assert_int_equal(r.kind, MODEL_REF_FILE);
	assert_int_equal(model_ref_parse("org/other", dir, &s, NULL), 0);
	assert_int_equal(s.kind, MODEL_REF_FILE);
	assert_int_equal(model_ref_parse("org/third", dir, &t, NULL), 0);
	assert_int_equal(t.kind, MODEL_REF_HUB);
}

/* ---- picking ------------------------------------------------------------------------------------------- */

/* The names that are picked, with the projector behind '+'; or "!" and the error. */
static char *picked(const char *names, const char *ref, enum want_role role, enum model_want want)
{
	struct want_names l = { 0 };
	struct want_picked p = { .mmproj = -1 };
	AUTO(model_ref_done) struct model_ref r = { 0 };
	AUTO(buf_done) struct buf b = BUF(8 * KIB);
	struct err e = { 0 };
	for (struct view rest = view_str(names); rest.p && rest.n;) {
		AUTO(mem_freep) char *one = mem_viewdup(view_split(rest, ' ', &rest));
		want_names_add(&l, one, 1);
	}
	want_names_sort(&l);
	assert_int_equal(model_ref_parse(ref, NULL, &r, NULL), 0);
	if (want_pick(&l, &r, role, want, &p, &e))
		(void)buf_addf(&b, "!%s", e.msg);
	for (size_t i = 0; i < p.n; i++)
		(void)buf_addf(&b, "%s%s", i ? " " : "", l.items[p.items[i]].name);
	if (p.mmproj >= 0)
		(void)buf_addf(&b, " +%s", l.items[p.mmproj].name);
	want_picked_done(&p);
	want_names_done(&l);
	return buf_take(&b);
}

static void picks_as_one_means(void **state)
{
	(void)state;
	static const struct {
		const char *names, *ref, *get;
	} t[] = {
		{ "README.md m-Q8_0.gguf m-Q4_K_M.gguf", "o/r", "m-Q4_K_M.gguf" },
		{ "README.md m-Q8_0.gguf m-IQ2_XXS.gguf", "o/r", "m-IQ2_XXS.gguf" },
		{ "m-q4_k_m.gguf m-q8_0.gguf", "o/r:Q8_0", "m-q8_0.gguf" },
		{ "m.Q4_K_M.gguf m.i1-Q4_K_M.gguf", "o/r:q4_k_m", "m.Q4_K_M.gguf" },
		{ "m-UD-Q4_K_M.gguf m-Q8_0.gguf", "o/r", "m-UD-Q4_K_M.gguf" },
		{ "m-UD-Q4_K_XL.gguf m-Q4_K_M.gguf", "o/r:UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf" },
		{ "m-UD-Q4_K_XL.gguf m-Q4_K_M.gguf", "o/r:Q4_K_XL", "m-UD-Q4_K_XL.gguf" },
		{ "m-UD-Q2_K.gguf m-Q2_K.gguf m-Q2_K_L.gguf", "o/r:Q2_K", "m-Q2_K.gguf" },
		{ "m-IQ4_NL.gguf m-Q4_0.gguf", "o/r:IQ4_NL", "m-IQ4_NL.gguf" },
		{ "m-IQ4_XS.gguf", "o/r:Q4_XS", "!o/r has no Q4_XS; there is IQ4_XS" },
		{ "m-Q8_0.gguf m-Q4_0.gguf", "o/r:Q5_K_M", "!o/r has no Q5_K_M; there are Q4_0, Q8_0" },
		{ "Q8_0.gguf Q4_K_M.gguf", "o/r:q8_0", "Q8_0.gguf" },
		{ "m-BF16.gguf m-F16.gguf", "o/r:f16", "m-F16.gguf" },
		{ "Q6_K/m-00001-of-00002.gguf Q6_K/m-00002-of-00002.gguf", "o/r:Q6_K",
			"Q6_K/m-00001-of-00002.gguf Q6_K/m-00002-of-00002.gguf" },
		{ "m-Q4_K_M-00001-of-00003.gguf m-Q4_K_M-00002-of-00003.gguf m-Q4_K_M-00003-of-00003.gguf",
			"o/r",
			"m-Q4_K_M-00001-of-00003.gguf m-Q4_K_M-00002-of-00003.gguf "
			"m-Q4_K_M-00003-of-00003.gguf" },
		{ "m-Q4_K_M-00001-of-00002.gguf", "o/r",
			"!hf:o/r is not whole: m-Q4_K_M-00002-of-00002.gguf of its 2 files is missing in "
			"o/r" },
		{ "a-Q4_K_M.gguf b-Q4_K_M.gguf", "o/r:Q4_K_M",
			"!hf:o/r:Q4_K_M: 2 files are Q4_K_M: a-Q4_K_M.gguf, b-Q4_K_M.gguf; name one: "
			"hf:o/r/a-Q4_K_M.gguf" },
		{ "a-Q4_K_M.gguf b-Q4_K_M.gguf", "hf:o/r/b-Q4_K_M.gguf", "b-Q4_K_M.gguf" },
		{ "m-00001-of-00002.gguf m-00002-of-00002.gguf", "hf:o/r/m-00002-of-00002.gguf",
			"m-00001-of-00002.gguf m-00002-of-00002.gguf" },
		{ "m-Q4_K_M.gguf", "hf:o/r/n.gguf",
			"!hf:o/r/n.gguf: o/r has no file of that name; there is Q4_K_M" },
		{ "model.safetensors config.json", "o/r",
			"!o/r is no repository of GGUF files: it holds no .gguf file; look for one whose "
			"name ends in "
			"-GGUF" },
		{ "m-Q4_K_M.gguf m.imatrix.gguf", "o/r:Q8_0", "!o/r has no Q8_0; there is Q4_K_M" },
		/* projectors */
		{ "m-Q4_K_M.gguf mmproj-F32.gguf mmproj-BF16.gguf mmproj-F16.gguf", "o/r",
			"m-Q4_K_M.gguf +mmproj-F16.gguf" },
		{ "m-Q4_K_M.gguf mmproj-model-bf16.gguf mmproj-model-q8_0.gguf", "o/r",
			"m-Q4_K_M.gguf +mmproj-model-bf16.gguf" },
		{ "a/m-Q4_K_M.gguf b/mmproj-F16.gguf", "o/r", "a/m-Q4_K_M.gguf" },
		{ "a/m-Q4_K_M.gguf a/mmproj-F32.gguf mmproj-F16.gguf", "o/r",
			"a/m-Q4_K_M.gguf +a/mmproj-F32.gguf" },
		{ "a/m-Q4_K_M.gguf mmproj-F16.gguf", "o/r", "a/m-Q4_K_M.gguf +mmproj-F16.gguf" },
		{ "mmproj-Q4_K_M.gguf m-Q8_0.gguf", "o/r", "m-Q8_0.gguf +mmproj-Q4_K_M.gguf" },
	};
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		AUTO(mem_freep) char *got = picked(t[i].names, t[i].ref, WANT_WEIGHTS, MODEL_GGUF);
		if (strcmp(got, t[i].get) != 0)
			fail_msg("%s of %s:\n  %s\ninstead of\n  %s", t[i].ref, t[i].names, got, t[i].get);
	}
	AUTO(mem_freep) char *p = picked("m-Q4_K_M.gguf mmproj-F16.gguf", "o/r", WANT_MMPROJ, MODEL_GGUF);
	assert_string_equal(p, "mmproj-F16.gguf");
	AUTO(mem_freep) char *l = picked("m-Q4_K_M.gguf mmproj-F16.gguf", "o/r", WANT_DRAFT, MODEL_GGUF);
	assert_string_equal(l, "m-Q4_K_M.gguf");
}

static void picks_whole_snapshots(void **state)
{
	(void)state;
	AUTO(mem_freep)
	char *a =
		picked("config.json a.safetensors pytorch_model.bin original/x.pth m.gguf onnx/m.onnx t.json",
			"o/r", WANT_WEIGHTS, MODEL_ANY);
	assert_string_equal(a, "a.safetensors config.json t.json");
	AUTO(mem_freep) char *b = picked("config.json pytorch_model.bin", "o/r", WANT_WEIGHTS, MODEL_ANY);
	assert_string_equal(b, "config.json pytorch_model.bin");
	AUTO(mem_freep)
	char *c = picked("config.json m-Q8_0.gguf m-Q4_0.gguf", "o/r:Q8_0", WANT_WEIGHTS, MODEL_ANY);
	assert_string_equal(c, "m-Q8_0.gguf");
}

/* ---- signatures ---------------------------------------------------------------------------------------- */

static void signs_as_published(void **state)
{
	(void)state;
	/* the documentation's own example of a presigned GET */
	struct want_sign q = { .key = "AKIAIOSFODNN7EXAMPLE",
		.secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
		.region = "us-east-1",
		.method = "GET",
		.host = "examplebucket.s3.amazonaws.com",
		.path = "/test.txt",
		.unix_time = 1369353600 };
	AUTO(mem_freep) char *s = want_sign_query(&q, 86400);
	assert_string_equal(s,
		"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-"
		"1%2Fs3%2F"
		"aws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&"
		"X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
	q.session = "a/b+c==";
	AUTO(mem_freep) char *t = want_sign_query(&q, 60);
	assert_non_null(strstr(t, "&X-Amz-Security-Token=a%2Fb%2Bc%3D%3D&X-Amz-SignedHeaders=host&"));
}

/* ---- manifests ----------------------------------------------------------------------------------------- */

static void reads_manifests(void **state)
{
	(void)state;
	static const struct {
		const char *layers, *get; /* paths below /d and roles, or why not */
	} t[] = {
		{ LAYER("application/vnd.ollama.image.model", HEX_A, "") "," LAYER(
			  "application/vnd.ollama.image.template", HEX_B, ""),
			"model.gguf weights" },
		{ LAYER("application/vnd.ollama.image.model", HEX_A, "") "," LAYER(
			  "application/vnd.ollama.image.projector", HEX_B, ""),
			"mmproj.gguf mmproj model.gguf weights" },
		{ LAYER("application/vnd.ollama.image.model", HEX_A, "") "," LAYER(
			  "application/vnd.ollama.image.adapter", HEX_B, ""),
			"adapter.gguf lora model.gguf weights" },
		{ LAYER("application/vnd.docker.ai.gguf.v3", HEX_A, ""), "model.gguf weights" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("dir/Tiny-Q4_K_M.gguf")),
			"Tiny-Q4_K_M.gguf weights" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("a-00002-of-00002.gguf")) "," LAYER(
			  "application/octet-stream", HEX_B, TITLE("a-00001-of-00002.gguf")),
			"a-00001-of-00002.gguf weights a-00002-of-00002.gguf weights" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("a-00002-of-00002.gguf")), "not the parts" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("a.gguf")) "," LAYER(
			  "application/octet-stream", HEX_B, TITLE("b.gguf")),
			"not the parts" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("../a.gguf")), "are no names" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("/etc/a.gguf")), "begins with" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("a\\u0000.gguf")), "no GGUF" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("a\\n.gguf")), "control byte" },
		{ LAYER("application/octet-stream", HEX_A, TITLE("a.gguf")) "," LAYER(
			  "application/octet-stream", HEX_B, TITLE("x/a.gguf")),
			"two layers" },
		{ LAYER("application/vnd.ollama.image.model", "../../etc/passwd", ""), "no SHA-256" },
		{ LAYER("text/plain", HEX_A, ""), "no GGUF" },
	};
	AUTO(model_ref_done) struct model_ref r = { 0 };
	assert_int_equal(model_ref_parse("oci://h/m:1", NULL, &r, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		AUTO(mem_freep) char *text = mem_fmt("{\"schemaVersion\":2,\"layers\":[%s]}", t[i].layers);
		AUTO(want_item_done) struct want_item it = { 0 };
		AUTO(buf_done) struct buf b = BUF(4 * KIB);
		struct err e = { 0 };
		if (want_manifest(view_str(text), &r, "/d", &it, &e))
			(void)buf_adds(&b, e.msg);
		else
			for (size_t k = 0; k < it.nfetch; k++)
				(void)buf_addf(&b, "%s%s %s", k ? " " : "", it.fetch[k].to + 3,
					want_role_name(it.fetch[k].role));
		if (!strstr(buf_str(&b), t[i].get))
			fail_msg("%s:\n  %s\ninstead of\n  %s", text, buf_str(&b), t[i].get);
	}
	AUTO(want_item_done) struct want_item it = { 0 };
	assert_true(want_manifest(VIEW("{}"), &r, "/d", &it, NULL) < 0);
	assert_true(want_manifest(VIEW(""), &r, "/d", &it, NULL) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_references_mean),
		cmocka_unit_test(refuses_hostile_references),
		cmocka_unit_test_setup_teardown(an_existing_file_wins, make, unmake),
		cmocka_unit_test(picks_as_one_means),
		cmocka_unit_test(picks_whole_snapshots),
		cmocka_unit_test(signs_as_published),
		cmocka_unit_test(reads_manifests),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
