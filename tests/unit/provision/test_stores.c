/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/fd.h"
#include "base/mem.h"
#include "gguf/gguf.h"
#include "provision/engine/engine_int.h"
#include "provision/model/stores.h"

/* ---- a machine's disk ---------------------------------------------------------------------------------- */

static char home[32];

static char *at(const char *name)
{
	return path_join(home, name);
}

static void folder_for(const char *path)
{
	AUTO(mem_freep) char *dir = mem_strdup(path);
	*strrchr(dir, '/') = '\0';
	assert_int_equal(dir_make(dir, 0700), 0);
}

static void put(const char *name, struct view bytes)
{
	AUTO(mem_freep) char *path = at(name);
	folder_for(path);
	assert_int_equal(file_write_atomic(path, bytes, 0600, false), 0);
}

static void put_text(const char *name, const char *text)
{
	put(name, view_str(text));
}

static void put_link(const char *name, const char *to)
{
	AUTO(mem_freep) char *path = at(name);
	folder_for(path);
	assert_int_equal(symlink(to, path), 0);
}

static void number(struct buf *b, uint64_t x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		(void)buf_addc(b, (char)(x >> (8 * i)));
}

static void text(struct buf *b, const char *s)
{
	number(b, strlen(s), 8);
	(void)buf_adds(b, s);
}

struct made { /* a GGUF file to be */
	const char *arch, *name, *type;
	uint32_t ctx, embd, pooling, seed; /* pooling 0: no such key */
	uint32_t projects;                 /* > 0: a projector of that width */
	bool no_tokenizer, no_tensors;
};

static void key_text(struct buf *b, uint64_t *n, const char *key, const char *value)
{
	text(b, key);
	number(b, GGUF_STRING, 4);
	text(b, value);
	(*n)++;
}

static void key_number(struct buf *b, uint64_t *n, const char *arch, const char *key, uint32_t value)
{
	AUTO(mem_freep) char *full = mem_fmt("%s%s", arch, key);
	text(b, full);
	number(b, GGUF_U32, 4);
	number(b, value, 4);
	(*n)++;
}

static void put_model(const char *file, struct made m)
{
	AUTO(buf_done) struct buf keys = BUF(64 * KIB);
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	const char *arch = m.arch ? m.arch : m.projects ? "clip" : "llama";
	uint64_t n = 0;
	key_text(&keys, &n, "general.architecture", arch);
	key_text(&keys, &n, "general.name", m.name ? m.name : "A model");
	if (m.type)
		key_text(&keys, &n, "general.type", m.type);
	if (!m.no_tokenizer && !m.projects)
		key_text(&keys, &n, "tokenizer.ggml.model", "llama");
	if (m.projects)
		key_number(&keys, &n, "clip", ".vision.projection_dim", m.projects);
	key_number(&keys, &n, arch, ".context_length", m.ctx ? m.ctx : 4096);
	key_number(&keys, &n, arch, ".embedding_length", m.embd ? m.embd : 64);
	if (m.pooling)
		key_number(&keys, &n, arch, ".pooling_type", m.pooling);
	key_number(&keys, &n, "test", ".seed", m.seed); /* other bytes */
	key_number(&keys, &n, "general", ".file_type", 15);
	(void)buf_adds(&b, "GGUF");
	number(&b, 3, 4);
	number(&b, m.no_tensors ? 0 : 1, 8);
	number(&b, n, 8);
	(void)buf_addv(&b, buf_view(&keys));
	if (!m.no_tensors) {
		text(&b, "token_embd.weight");
		number(&b, 1, 4);
		number(&b, 32, 8);
		number(&b, 0, 4);
		number(&b, 0, 8);
	}
	while (b.len % 32)
		(void)buf_addc(&b, 0);
	for (int i = 0; i < 128; i++)
		(void)buf_addc(&b, 1);
	put(file, buf_view(&b));
}

static int make(void **state)
{
	(void)state;
	snprintf(home, sizeof home, "/tmp/corral-stores-XXXXXX");
	assert_non_null(mkdtemp(home));
	return 0;
}

static int unmake(void **state)
{
	(void)state;
	tree_remove(home);
	return 0;
}

static struct stores_found look(void)
{
	AUTO(stores_roots_done) struct stores_roots r = { 0 };
	AUTO(mem_freep) char *h = mem_fmt("HOME=%s", home);
	AUTO(mem_freep) char *o = mem_fmt("OLLAMA_MODELS=%s/.ollama/models", home);
	AUTO(mem_freep) char *models = at("models");
	const char *const env[] = { h, o, NULL };
	struct stores_found f;
	stores_roots_default(&r, env, models);
	stores_find(&r, NULL, &f);
	return f;
}

static const struct store_model *model(const struct stores_found *f, const char *id)
{
	for (size_t i = 0; i < f->nmodels; i++)
		if (strcmp(f->models[i].id, id) == 0)
			return &f->models[i];
	AUTO(buf_done) struct buf b = BUF(64 * KIB);
	for (size_t i = 0; i < f->nmodels; i++)
		(void)buf_addf(&b, " %s", f->models[i].id);
	for (size_t i = 0; i < f->skipped.len; i++)
		(void)buf_addf(&b, "\n%s", f->skipped.items[i]);
	fail_msg("there is no model %s, but%s", id, buf_str(&b));
	return NULL;
}

static bool tells(const struct strv *v, const char *what)
{
	for (size_t i = 0; i < v->len; i++)
		if (strstr(v->items[i], what))
			return true;
	return false;
}

/* ---- the layouts --------------------------------------------------------------------------------------- */

#define HUB ".cache/huggingface/hub/"
#define BLOB_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define BLOB_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static void hub_models(void **state)
{
	(void)state;
	put_model(HUB "models--ggml-org--Tiny-GGUF/blobs/" BLOB_A, (struct made){ .ctx = 2048 });
	put_link(HUB "models--ggml-org--Tiny-GGUF/snapshots/rev1/Tiny-Q4_K_M.gguf", "../../blobs/" BLOB_A);
	put_text(HUB "models--ggml-org--Tiny-GGUF/refs/main", "rev1\n");
	put_text(HUB "models--ggml-org--Tiny-GGUF/blobs/" BLOB_B ".incomplete", "GGUF");
	put_link(HUB "models--ggml-org--Tiny-GGUF/snapshots/rev1/Tiny-Q8_0.gguf", "../../blobs/" BLOB_B);
	put_text(HUB "models--org--NotGGUF/snapshots/r/config.json", "{}");
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 1);
	const struct store_model *m = model(&f, "tiny-q4_k_m");
	assert_string_equal(m->reference, "hf:ggml-org/Tiny-GGUF:Q4_K_M");
	assert_string_equal(m->source, "Hugging Face cache");
	assert_string_equal(m->quant, "Q4_K_M");
	assert_string_equal(m->architecture, "llama");
	assert_int_equal(m->n_ctx_train, 2048);
	assert_int_equal(m->n_params, 32);
	assert_int_equal(m->use, STORE_TEXT);
	assert_true(view_ends(view_str(m->path), VIEW("/snapshots/rev1/Tiny-Q4_K_M.gguf")));
	assert_true(tells(&f.skipped, "Tiny-Q8_0.gguf: it is a link to a file that is not there"));
}

static void the_ref_says_which_snapshot(void **state)
{
	(void)state;
	put_model(HUB "models--o--R-GGUF/snapshots/new/R-Q4_0.gguf", (struct made){ .ctx = 1, .seed = 1 });
	put_model(HUB "models--o--R-GGUF/snapshots/old/R-Q4_0.gguf", (struct made){ .ctx = 2, .seed = 2 });
	put_model(HUB "models--o--R-GGUF/snapshots/old/R-Q2_K.gguf", (struct made){ .ctx = 3, .seed = 3 });
	put_text(HUB "models--o--R-GGUF/refs/main", "old");
	{
		AUTO(stores_found_done) struct stores_found f = look();
		assert_int_equal(f.nmodels, 2);
		assert_int_equal(model(&f, "r-q4_0")->n_ctx_train, 2);
	}
	put_text(HUB "models--o--R-GGUF/refs/main", "new");
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(model(&f, "r-q4_0")->n_ctx_train, 1);
	assert_int_equal(model(&f, "r-q2_k")->n_ctx_train, 3); /* only an older snapshot has it */
}

static void llamacpp_models(void **state)
{
	(void)state;
	put_model(
		".cache/llama.cpp/ggml-org_Smol-GGUF_Smol-Q8_0.gguf", (struct made){ .embd = 96, .seed = 1 });
	put_model(
		".cache/llama.cpp/ggml-org_Smol-GGUF_mmproj-Smol-F16.gguf", (struct made){ .projects = 96 });
	put_text(".cache/llama.cpp/manifest=ggml-org=Smol-GGUF=latest.json",
		"{\"ggufFile\":{\"rfilename\":\"Smol-Q8_0.gguf\"},\"mmprojFile\":{\"rfilename\":\"mmproj-"
		"Smol-F16.gguf\"}}");
	put_text(".cache/llama.cpp/manifest=broken.json", "{");
	put_model(".cache/llama.cpp/org_Other-GGUF_Other-Q4_0.gguf", (struct made){ .seed = 2 });
	put_model(".cache/llama.cpp/org_Half-GGUF_Half-Q4_0.gguf", (struct made){ .seed = 3 });
	put_text(".cache/llama.cpp/org_Half-GGUF_Half-Q4_0.gguf.downloadInProgress", "");
	put_model(
		".cache/llama.cpp/models--o--New-GGUF/snapshots/r/New-Q4_0.gguf", (struct made){ .seed = 4 });
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 3);
	const struct store_model *m = model(&f, "smol-q8_0");
	assert_string_equal(m->reference, "hf:ggml-org/Smol-GGUF:latest");
	assert_non_null(m->mmproj);
	assert_true(view_ends(view_str(m->mmproj), VIEW("mmproj-Smol-F16.gguf")));
	assert_null(model(&f, "other-q4_0")->mmproj);
	assert_string_equal(model(&f, "new-q4_0")->source, "llama.cpp cache");
	assert_true(tells(&f.skipped, "still being downloaded"));
}

#define MANIFESTS ".ollama/models/manifests/registry.ollama.ai/"
#define LAYER(type, digest)                                                                                  \
	"{\"mediaType\":\"application/vnd.ollama.image." type "\",\"digest\":\"" digest "\"}"

static void ollama_models(void **state)
{
	(void)state;
	put_model(".ollama/models/blobs/sha256-" BLOB_A, (struct made){ .embd = 128, .name = "Llama" });
	put_model(".ollama/models/blobs/sha256-" BLOB_B, (struct made){ .projects = 999 });
	put_text(MANIFESTS "library/llama3.2/3b",
		"{\"layers\":[" LAYER("template", "sha256:" BLOB_B) "," LAYER(
			"model", "sha256:" BLOB_A) "," LAYER("projector", "sha256:" BLOB_B) "]}");
	put_text(MANIFESTS "library/llama3.2/latest", "{\"layers\":[" LAYER("model", "sha256:" BLOB_A) "]}");
	put_text(MANIFESTS "library/tensors/latest", "{\"layers\":[" LAYER("tensor", "sha256:" BLOB_A) "]}");
	put_text(MANIFESTS "library/evil/latest",
		"{\"layers\":[" LAYER("model", "sha256:../../../../etc/passwd") "]}");
	put_text(MANIFESTS "library/broken/latest", "[");
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 1);
	const struct store_model *m = model(&f, "llama3.2-3b");
	assert_string_equal(m->reference, "ollama:llama3.2:3b");
	assert_string_equal(m->source, "Ollama");
	assert_string_equal(m->quant, "Q4_K_M"); /* of the header, for the name has none */
	assert_non_null(m->mmproj);              /* the manifest says so, whatever the header says */
	assert_true(tells(&f.skipped, "tensors/latest: it names no GGUF file"));
	assert_true(tells(&f.skipped, "evil/latest: the blob it names is not there"));
	assert_true(tells(&f.skipped, "broken/latest: the manifest is no JSON object"));
}

static void lmstudio_and_loose_models(void **state)
{
	(void)state;
	put_model(".lmstudio/models/lmstudio-community/Q-GGUF/Q-Q4_K_M.gguf",
		(struct made){ .embd = 96, .seed = 1 });
	put_model(".lmstudio/models/lmstudio-community/Q-GGUF/mmproj-model-f16.gguf",
		(struct made){ .projects = 96 });
	put_model(".lmstudio/models/other/Q-GGUF/Q-Q4_K_M.gguf", (struct made){ .embd = 96, .seed = 2 });
	put_model(".cache/lm-studio/models/a/Old-GGUF/ggml-model-Q4_0.gguf", (struct made){ .seed = 3 });
	put_model("models/deep/er/My Model (v2).gguf", (struct made){ .seed = 4 });
	put_model("models/vision-7b-Q4_K_M.gguf", (struct made){ .embd = 32, .seed = 5 });
	put_model("models/text-7b-Q4_K_M.gguf", (struct made){ .embd = 32, .seed = 6 });
	put_model("models/mmproj-vision-7b-f16.gguf", (struct made){ .projects = 32, .seed = 7 });
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 6);
	assert_string_equal(model(&f, "q-q4_k_m")->source, "LM Studio");
	assert_non_null(model(&f, "q-q4_k_m")->mmproj);
	assert_null(model(&f, "q-q4_k_m-other")->mmproj);
	model(&f, "old-q4_0"); /* "ggml-model" says nothing: the repository does */
	assert_string_equal(model(&f, "my-model-v2")->source, "models_dir");
	assert_true(view_starts(view_str(model(&f, "my-model-v2")->reference), VIEW("file:/")));
	assert_non_null(model(&f, "vision-7b-q4_k_m")->mmproj);
	assert_null(model(&f, "text-7b-q4_k_m")->mmproj);
	AUTO(mem_freep) char *s = stores_summary(&f);
	assert_string_equal(s, "6 models found in 2 places: LM Studio (3), models_dir (3)");
}

/* ---- what is no model, or not whole -------------------------------------------------------------------- */

static void split_files_are_one_model(void **state)
{
	(void)state;
	put_model("models/big-Q4_K_M-00001-of-00002.gguf", (struct made){ .seed = 1 });
	put_model("models/big-Q4_K_M-00002-of-00002.gguf", (struct made){ .seed = 2 });
	put_model("models/cut-00001-of-00003.gguf", (struct made){ .seed = 3 });
	put_model("models/cut-00002-of-00003.gguf", (struct made){ .seed = 4 });
	put_model("models/tail-00002-of-00002.gguf", (struct made){ .seed = 5 });
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 1);
	const struct store_model *m = model(&f, "big-q4_k_m");
	assert_int_equal(m->n_params, 64);
	assert_true(view_ends(view_str(m->path), VIEW("-00001-of-00002.gguf")));
	assert_true(tells(&f.skipped, "split into 3 files, of which 1 is missing"));
	assert_true(tells(&f.skipped, "its first part is not there"));
}

static void what_is_no_model_has_a_reason(void **state)
{
	(void)state;
	put_model("models/lora.gguf", (struct made){ .type = "adapter", .seed = 1 });
	put_model("models/vocab.gguf", (struct made){ .no_tensors = true, .seed = 2 });
	put_model("models/picture.gguf", (struct made){ .arch = "flux", .no_tokenizer = true, .seed = 3 });
	put_text("models/page.gguf", "<html>");
	put_text("models/cut.gguf", "GGUF");
	put_text("models/notes.txt", "GGUF");
	put_model("models/whole.gguf", (struct made){ .seed = 4 });
	put_text("models/whole.gguf.aria2", "");
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 0);
	assert_int_equal(f.nskipped, 6);
	assert_true(tells(&f.skipped, "lora.gguf: it is an adapter"));
	assert_true(tells(&f.skipped, "vocab.gguf: it holds a vocabulary"));
	assert_true(tells(&f.skipped, "picture.gguf: it has no tokenizer"));
	assert_true(tells(&f.skipped, "is not a GGUF file"));
	assert_true(tells(&f.skipped, "whole.gguf: it is still being downloaded"));
	AUTO(mem_freep) char *s = stores_summary(&f);
	assert_non_null(strstr(s, "no models were found; looked in /tmp/"));
	assert_non_null(strstr(s, "/.cache/huggingface/hub, "));
	assert_non_null(strstr(s, "6 files were left out"));
}

static void embedding_and_rerank_models_are_told_apart(void **state)
{
	(void)state;
	put_model("models/bge.gguf", (struct made){ .arch = "bert", .pooling = 2, .seed = 1 });
	put_model("models/plain.gguf", (struct made){ .arch = "nomic-bert", .seed = 2 });
	put_model("models/qwen-embed.gguf", (struct made){ .arch = "qwen3", .pooling = 3, .seed = 3 });
	put_model("models/qwen-rerank.gguf", (struct made){ .arch = "qwen3", .pooling = 4, .seed = 4 });
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 4);
	assert_int_equal(model(&f, "bge")->use, STORE_EMBEDDING);
	assert_int_equal(model(&f, "bge")->pooling, 2);
	assert_int_equal(model(&f, "plain")->pooling, 1);
	assert_int_equal(model(&f, "qwen-embed")->pooling, 3);
	assert_int_equal(model(&f, "qwen-rerank")->use, STORE_RERANK);
}

static void the_same_bytes_are_listed_once(void **state)
{
	(void)state;
	put_model(HUB "models--o--A-GGUF/blobs/" BLOB_A, (struct made){ .seed = 1 });
	put_link(HUB "models--o--A-GGUF/snapshots/r/A-Q4_0.gguf", "../../blobs/" BLOB_A);
	put_model(".ollama/models/blobs/sha256-" BLOB_A,
		(struct made){ .seed = 1 }); /* a copy: the digest tells */
	put_text(MANIFESTS "library/a/latest", "{\"layers\":[" LAYER("model", "sha256:" BLOB_A) "]}");
	AUTO(mem_freep) char *blob = at(HUB "models--o--A-GGUF/blobs/" BLOB_A);
	put_link("models/linked.gguf", blob);
	AUTO(mem_freep) char *hard = at("models/hard.gguf");
	assert_int_equal(link(blob, hard), 0);
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 1);
	assert_string_equal(model(&f, "a-q4_0")->source, "Hugging Face cache");
}

/* ---- what must not hurt -------------------------------------------------------------------------------- */

static void loops_and_unreadable_folders_end(void **state)
{
	(void)state;
	put_model("models/a/b/m.gguf", (struct made){ .seed = 1 });
	put_link("models/a/b/loop", "../..");
	put_link("models/self", "self");
	put_link("models/gone.gguf", "nowhere");
	put_text("models/shut/x.gguf", "GGUF");
	AUTO(mem_freep) char *shut = at("models/shut");
	assert_int_equal(chmod(shut, 0), 0);
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(chmod(shut, 0700), 0);
	assert_int_equal(f.nmodels, 1);
	model(&f, "m");
	if (geteuid() != 0) {
		assert_int_equal(f.nproblems, 1);
		assert_true(tells(&f.problems, "shut cannot be read: Permission denied"));
	}
	assert_true(tells(&f.skipped, "gone.gguf: it is a link to a file that is not there"));
}

/* Opening a pipe for reading waits for a writer, and nobody registers before the disk was looked through. */
static void pipes_in_the_place_of_files_are_not_waited_for(void **state)
{
	(void)state;
	static const char *const pipes[] = { "models/a.gguf", ".cache/llama.cpp/manifest=org=repo=tag.json",
		".cache/llama.cpp/b.gguf", ".cache/huggingface/hub/models--o--r/refs/main",
		".cache/huggingface/hub/models--o--r/snapshots/1/c.gguf",
		".ollama/models/manifests/registry.ollama.ai/library/m/latest" };
	for (size_t i = 0; i < ARRAY_LEN(pipes); i++) {
		AUTO(mem_freep) char *path = at(pipes[i]);
		folder_for(path);
		assert_int_equal(mkfifo(path, 0600), 0);
	}
	put_link(".ollama/models/manifests/registry.ollama.ai/library/m/other", "latest");
	put_model(".cache/huggingface/hub/models--o--r/snapshots/1/m.gguf", (struct made){ .seed = 1 });
	alarm(60);
	AUTO(stores_found_done) struct stores_found f = look();
	alarm(0);
	assert_int_equal(f.nmodels, 1);
}

static void depth_and_notes_are_bounded(void **state)
{
	(void)state;
	put_model("models/1/2/3/4/5/6/7/in.gguf", (struct made){ .seed = 1 });
	put_model("models/1/2/3/4/5/6/7/8/out.gguf", (struct made){ .seed = 2 });
	for (int i = 0; i < STORES_NOTES_MAX + 8; i++) {
		AUTO(mem_freep) char *name = mem_fmt("models/bad-%d.gguf", i);
		put_text(name, "?");
	}
	AUTO(stores_found_done) struct stores_found f = look();
	assert_int_equal(f.nmodels, 1);
	model(&f, "in");
	assert_int_equal(f.skipped.len, STORES_NOTES_MAX);
	assert_int_equal(f.nskipped, STORES_NOTES_MAX + 8);
}

static void cancel_ends_it(void **state)
{
	(void)state;
	put_model("models/m.gguf", (struct made){ .seed = 1 });
	AUTO(stores_roots_done) struct stores_roots r = { 0 };
	AUTO(mem_freep) char *models = at("models");
	strv_add(&r.loose, models);
	atomic_bool cancel = true;
	AUTO(stores_found_done) struct stores_found f = { 0 };
	stores_find(&r, &cancel, &f);
	assert_int_equal(f.nmodels, 0);
}

/* Ids are made of names that anybody may have chosen. */
static void ids_are_clean_unique_and_stable(void **state)
{
	(void)state;
	AUTO(buf_done) struct buf longer = BUF(KIB);
	for (int i = 0; i < 10; i++)
		(void)buf_adds(&longer, "0123456789");
	for (int i = 0; i < 3; i++) {
		AUTO(mem_freep) char *name = mem_fmt("models/%d/%s.gguf", i, buf_str(&longer));
		put_model(name, (struct made){ .seed = (uint32_t)i });
	}
	put_model("models/\xff\xfe\x01.gguf", (struct made){ .seed = 4 }); /* no UTF-8: left out */
	put_model("models/\x01\xc3\xa9.gguf", (struct made){ .seed = 6 });
	put_model("models/--.gguf", (struct made){ .seed = 5 });
	AUTO(stores_found_done) struct stores_found f = look();
	AUTO(stores_found_done) struct stores_found again = look();
	assert_int_equal(f.nmodels, 5);
	assert_int_equal(f.nskipped, 1);
	for (size_t i = 0; i < f.nmodels; i++) {
		const char *id = f.models[i].id;
		assert_string_equal(id, again.models[i].id);
		assert_string_equal(f.models[i].path, again.models[i].path);
		assert_true(strlen(id) <= 64 &&
			    strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789._-") == strlen(id));
		assert_true(!i || strcmp(f.models[i - 1].id, id) < 0);
	}
}

static void ids_keep_to_their_bound(void **state)
{
	(void)state;
	AUTO(stores_roots_done) struct stores_roots r = { .id_max = 20 };
	for (int i = 0; i < 3; i++) {
		AUTO(mem_freep) char *name = mem_fmt("models/%d/a-model-with-a-long-name-Q4_K_M.gguf", i);
		put_model(name, (struct made){ .seed = (uint32_t)i });
	}
	AUTO(mem_freep) char *models = at("models");
	strv_add(&r.loose, models);
	AUTO(stores_found_done) struct stores_found f = { 0 };
	stores_find(&r, NULL, &f);
	assert_int_equal(f.nmodels, 3);
	for (size_t i = 0; i < 3; i++)
		assert_true(strlen(f.models[i].id) <= 20 &&
			    (!i || strcmp(f.models[i - 1].id, f.models[i].id) < 0));
	model(&f, "a-model-with-a-long");
}

static void roots_follow_the_environment(void **state)
{
	(void)state;
	struct stores_roots r;
	const char *const plain[] = { "HOME=/h", NULL };
	stores_roots_default(&r, plain, "/m");
	assert_string_equal(r.hub.items[0], "/h/.cache/huggingface/hub");
	assert_string_equal(r.llamacpp.items[0], "/h/.cache/llama.cpp");
	assert_string_equal(r.ollama.items[0], "/h/.ollama/models");
	assert_true(strv_has(&r.ollama, "/usr/share/ollama/.ollama/models"));
	assert_true(strv_has(&r.lmstudio, "/h/.lmstudio/models"));
	assert_true(strv_has(&r.loose, "/m"));
	stores_roots_done(&r);
	const char *const set[] = { "HOME=/h", "XDG_CACHE_HOME=/x", "HF_HOME=/f/", "LLAMA_CACHE=/l/",
		"OLLAMA_MODELS=/o", NULL };
	stores_roots_default(&r, set, NULL);
	assert_string_equal(r.hub.items[0], "/f/hub");
	assert_string_equal(r.llamacpp.items[0], "/l");
	assert_int_equal(r.ollama.len, 1);
	assert_int_equal(r.loose.len, 0);
	stores_roots_done(&r);
	const char *const bare[] = { "XDG_CACHE_HOME=/x", "HF_HUB_CACHE=/c", NULL };
	stores_roots_default(&r, bare, NULL);
	assert_string_equal(r.hub.items[0], "/c");
	assert_string_equal(r.llamacpp.items[0], "/x/llama.cpp");
	assert_int_equal(r.lmstudio.len, 0);
	stores_roots_done(&r);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, make, unmake)

int main(void)
{
	const struct CMUnitTest tests[] = { CASE(hub_models), CASE(the_ref_says_which_snapshot),
		CASE(llamacpp_models), CASE(ollama_models), CASE(lmstudio_and_loose_models),
		CASE(split_files_are_one_model), CASE(what_is_no_model_has_a_reason),
		CASE(embedding_and_rerank_models_are_told_apart), CASE(the_same_bytes_are_listed_once),
		CASE(loops_and_unreadable_folders_end), CASE(pipes_in_the_place_of_files_are_not_waited_for),
		CASE(depth_and_notes_are_bounded), CASE(cancel_ends_it),
		CASE(ids_are_clean_unique_and_stable), CASE(ids_keep_to_their_bound),
		CASE(roots_follow_the_environment) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
