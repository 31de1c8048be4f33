/* SPDX-License-Identifier: Apache-2.0
 *
 * What an engine's last words mean. A table, searched from its top: the first pattern that occurs
 * anywhere in the tail wins, so the specific stand above the general (an out-of-memory also ends with
 * "failed to load model").
 */
#include <stdlib.h>

#include "provision/engine/engine_int.h"

enum { TAIL_MAX = 64 * 1024, SHOWN_MAX = 160 };

#define HINT_VRAM "lower `ctx` or `slots`, use a smaller quantisation, or free the GPU"
#define HINT_HOST "lower `ctx` or `slots`, use a smaller quantisation, or free memory"
#define HINT_FILE "fetch the file again and compare its size and SHA-256 with the source's"
#define HINT_ARGS                                                                                            \
	"correct engine.args; `llama-server --help` lists what this build takes (an older build lacks "      \
	"newer options)"
#define HINT_BUILD "upgrade the engine, or name another build with engine.path"

static const struct {
	const char *both[2]; /* on one line, whatever case; the second may be NULL */
	enum engine_cause cause;
	const char *says;
	const char *hint;
} patterns[] = {
	{ { "cudamalloc failed", NULL }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough", HINT_VRAM },
	{ { "hipmalloc failed", NULL }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough", HINT_VRAM },
	{ { "cuda", "out of memory" }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough", HINT_VRAM },
	{ { "rocm", "out of memory" }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough", HINT_VRAM },
	{ { "hip error", "out of memory" }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough",
		HINT_VRAM },
	{ { "erroroutofdevicememory", NULL }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough",
		HINT_VRAM },
	{ { "vk_error_out_of_device_memory", NULL }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough",
		HINT_VRAM },
	{ { "device memory allocation", "failed" }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough",
		HINT_VRAM },
	{ { "cublas_status_alloc_failed", NULL }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough",
		HINT_VRAM },
	{ { "torch.outofmemoryerror", NULL }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough",
		HINT_VRAM },
	{ { "no available memory for the cache blocks", NULL }, ENGINE_CAUSE_OOM_VRAM,
		"The GPU's memory is not enough", HINT_VRAM },
	{ { "allocate", "cuda" }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough", HINT_VRAM },
	{ { "allocate", "rocm" }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough", HINT_VRAM },
	{ { "allocate", "vulkan" }, ENGINE_CAUSE_OOM_VRAM, "The GPU's memory is not enough", HINT_VRAM },

	{ { "bad_alloc", NULL }, ENGINE_CAUSE_OOM_HOST, "The machine's memory is not enough", HINT_HOST },
	{ { "insufficient memory", NULL }, ENGINE_CAUSE_OOM_HOST, "The machine's memory is not enough",
		HINT_HOST },
	{ { "cannot allocate memory", NULL }, ENGINE_CAUSE_OOM_HOST, "The machine's memory is not enough",
		HINT_HOST },
	{ { "erroroutofhostmemory", NULL }, ENGINE_CAUSE_OOM_HOST, "The machine's memory is not enough",
		HINT_HOST },
	{ { "failed to allocate", NULL }, ENGINE_CAUSE_OOM_HOST, "The machine's memory is not enough",
		HINT_HOST },
	{ { "unable to allocate", NULL }, ENGINE_CAUSE_OOM_HOST, "The machine's memory is not enough",
		HINT_HOST },
	{ { "out of memory", NULL }, ENGINE_CAUSE_OOM_HOST, "The machine's memory is not enough", HINT_HOST },

	{ { "no backends are loaded", NULL }, ENGINE_CAUSE_NO_ENGINE,
		"This build found no back end to compute with",
		"start it where its libggml-*.so files lie, or use another build" },
	{ { "error while loading shared libraries", NULL }, ENGINE_CAUSE_NO_ENGINE,
		"The engine program lacks a library", "install what is missing, or use another build" },
	{ { "version `glibc", "not found" }, ENGINE_CAUSE_NO_ENGINE,
		"The engine program was built for a newer system",
		"use a build for this release, or engine.mode: package" },

	{ { "error: invalid argument", NULL }, ENGINE_CAUSE_BAD_ARGS, "The engine does not take an argument",
		HINT_ARGS },
	{ { "error while handling argument", NULL }, ENGINE_CAUSE_BAD_ARGS,
		"The engine does not take an argument", HINT_ARGS },
	{ { "unknown argument", NULL }, ENGINE_CAUSE_BAD_ARGS, "The engine does not take an argument",
		HINT_ARGS },
	{ { "unrecognized argument", NULL }, ENGINE_CAUSE_BAD_ARGS, "The engine does not take an argument",
		HINT_ARGS },
	{ { "unrecognized option", NULL }, ENGINE_CAUSE_BAD_ARGS, "The engine does not take an argument",
		HINT_ARGS },

	{ { "unknown model architecture", NULL }, ENGINE_CAUSE_BAD_MODEL,
		"This build does not know the model's architecture", HINT_BUILD },
	{ { "unknown pre-tokenizer", NULL }, ENGINE_CAUSE_BAD_MODEL,
		"This build does not know the model's tokenizer", HINT_BUILD },
	{ { "failed to open gguf file", NULL }, ENGINE_CAUSE_BAD_MODEL, "The model's file cannot be opened",
		"see whether it is there and readable for the engine's user" },
	{ { "invalid magic", NULL }, ENGINE_CAUSE_BAD_MODEL, "The model's file is not a GGUF file",
		HINT_FILE },
	{ { "not within the file bounds", NULL }, ENGINE_CAUSE_BAD_MODEL, "The model's file is cut short",
		HINT_FILE },
	{ { "corrupted or incomplete", NULL }, ENGINE_CAUSE_BAD_MODEL,
		"The model's file is damaged or cut short", HINT_FILE },
	{ { "illegal split file", NULL }, ENGINE_CAUSE_BAD_MODEL, "The model is one part of a split file",
		"name the part -00001-of-…" },
	{ { "missing tensor", NULL }, ENGINE_CAUSE_BAD_MODEL, "The model's file lacks a tensor", HINT_FILE },
	{ { "error loading model", NULL }, ENGINE_CAUSE_BAD_MODEL, "The engine cannot load the model",
		HINT_FILE },
	{ { "failed to load model", NULL }, ENGINE_CAUSE_BAD_MODEL, "The engine cannot load the model",
		HINT_FILE },

	{ { "couldn't bind", NULL }, ENGINE_CAUSE_EXIT, "The engine cannot listen where it was told to",
		"see that nothing else listens there and that its folder is writable" },
	{ { "address already in use", NULL }, ENGINE_CAUSE_EXIT,
		"Something else listens where the engine was told to", "stop the other program" },
};

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

/* needle is in lower case. */
static bool has_ci(struct view hay, const char *needle)
{
	size_t n = strlen(needle);
	for (size_t i = 0; i + n <= hay.n; i++) {
		size_t k = 0;
		while (k < n && lower(hay.p[i + k]) == needle[k])
			k++;
		if (k == n)
			return true;
	}
	return false;
}

static struct view line_with(struct view text, const char *const both[2])
{
	struct view rest = text;
	while (rest.p) {
		struct view line = view_split(rest, '\n', &rest);
		if (has_ci(line, both[0]) && (!both[1] || has_ci(line, both[1])))
			return line;
	}
	return (struct view){ 0 };
}

/* The line without the time and level llama-server puts before it, printable and short. */
static void line_show(struct view line, char *out)
{
	size_t n = 0;
	line = view_trim(line);
	size_t digits = 0;
	while (digits < line.n && strchr("0123456789.", line.p[digits]))
		digits++;
	if (digits >= 8 && digits + 2 < line.n && line.p[digits] == ' ' && line.p[digits + 2] == ' ')
		line = view_trim(view_from(line, digits + 3));
	for (size_t i = 0; i < line.n && n < SHOWN_MAX; i++)
		out[n++] = (unsigned char)line.p[i] >= ' ' && line.p[i] != 0x7f && line.p[i] > 0 ? line.p[i]
												 : '?';
	out[n] = '\0';
}

int engine_log_cause(struct view tail, char **ret_sentence, char **ret_hint)
{
	if (tail.n > TAIL_MAX)
		tail = view_from(tail, tail.n - TAIL_MAX);
	for (size_t i = 0; i < ARRAY_LEN(patterns); i++) {
		struct view line = line_with(tail, patterns[i].both);
		if (!line.p)
			continue;
		char shown[SHOWN_MAX + 1];
		line_show(line, shown);
		*ret_sentence = mem_fmt("%s: \"%s\".", patterns[i].says, shown);
		*ret_hint = mem_strdup(patterns[i].hint);
		return (int)patterns[i].cause;
	}
	return ENGINE_CAUSE_NONE;
}
