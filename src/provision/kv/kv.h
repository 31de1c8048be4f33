/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversations on disk: what llama-server's slots held when it was stopped, for the next engine of the same
 * variant. One folder a pool, in it one a variant (kv_fingerprint), in it one file a conversation. A file's
 * name says when it was saved, how many tokens and bytes it has, and whose it is: a file is whole when it has
 * such a name and that size, so there is nothing beside it that could disagree with it. Anything else in such
 * a folder is what a save left unfinished.
 *
 * What lies there is read as hostile: a name that is not exactly what we write, a size that differs, a link
 * or anything that is no regular file is no conversation. Blocks on the disk. Bound: KV_FILES_MAX files a
 * pool.
 */
#ifndef PROVISION_KV_KV_H
#define PROVISION_KV_KV_H

#include "base/err.h"
#include "base/strv.h"

enum {
	KV_KEY_LEN = 16,
	KV_NAME_MAX = 96,
	KV_FILES_MAX = 1024, /* of a pool; the oldest go first */
};

/* ---- which engines may share ---------------------------------------------------------------------- */

/* The same for engines that compute the same from the same tokens: build, model files by path, size and
 * time, every argument and LLAMA_ARG_ variable but those that say where things lie and how many threads work.
 * argv: as llama-server is started. */
void kv_fingerprint(
	const struct strv *argv, const struct strv *env, const char *version, char out[KV_KEY_LEN + 1]);

/* What a slot of the engine costs, and what its file must have for it to be worth anything. */
struct kv_shape {
	uint64_t slot_bytes; /* about, of one slot that is full, without checkpoints; 0: not known */
	/* Recurrent layers, or such that forget what is behind a window (without --swa-full): the engine goes
	 * back in them to a checkpoint alone, so that a file without checkpoints is read in vain. */
	bool checkpoints;
};
/* Reads the model's header. Fails where it cannot be read. */
int kv_shape_read(const char *model_path, const struct strv *argv, uint64_t ctx, uint32_t slots,
	struct kv_shape *ret, struct err *reterr) MUST_CHECK;

/* ---- files ------------------------------------------------------------------------------------------ */

/* As hashes. owner: the API key's, 0: none was needed. talk: the conversation's, 0: not known. */
struct kv_whose {
	uint64_t owner, talk;
};
struct kv_file {
	char name[KV_NAME_MAX];
	char key[KV_KEY_LEN + 1]; /* the variant's folder */
	int64_t saved_ms;
	uint64_t tokens, bytes;
	struct kv_whose of;
};
struct kv_list {
	struct kv_file *items; /* the newest first */
	size_t len;
};
void kv_list_done(struct kv_list *l);
/* "1732791000123-2023-8318728-<owner>-<talk>.kv", the last two 16 hexadecimal digits each; false: not a name
 * of ours. */
bool kv_name_parse(struct view name, struct kv_file *ret);
/* Whole conversations in pool_dir, of one variant or (key NULL) of all. Nothing there: an empty list. */
void kv_list(const char *pool_dir, const char *key, struct kv_list *ret);
/* tmp, a name in the variant's folder, becomes the conversation *f, whose tokens, bytes and of are set. What
 * it continues is removed: a file of the variant and the owner whose tokens are the beginning of its tokens.
 * -EINVAL: it has not f->bytes bytes. */
int kv_keep(
	const char *pool_dir, const char *key, const char *tmp, int64_t now_ms, struct kv_file *f) MUST_CHECK;
/* It was in a slot until now and nothing was added: as if saved now. */
int kv_touch(const char *pool_dir, struct kv_file *f, int64_t now_ms) MUST_CHECK;
void kv_remove(const char *pool_dir, const struct kv_file *f);
/* Removes what a save of this name prefix left unfinished in the variant's folder. */
void kv_remove_unfinished(const char *pool_dir, const char *key, const char *prefix);
/* Removes those of the variant that have not the size their name says. */
void kv_remove_broken(const char *pool_dir, const char *key);

/* ---- how much there may be ---------------------------------------------------------------------------- */

struct kv_disk {
	uint64_t free, total;
};
int kv_disk_read(const char *dir, struct kv_disk *ret) MUST_CHECK;
/* The bytes a pool may have on disk: max_bytes, or (0) a tenth of what would be free without them, at most
 * 8 GiB. Of a disk that has less than 1 GiB or a twentieth of it free, whatever is less, nothing more is
 * taken. */
uint64_t kv_budget(const struct kv_disk *d, uint64_t used, uint64_t max_bytes);
uint64_t kv_reserve(const struct kv_disk *d);
/* Removes the oldest until `need` bytes more fit in. False, and nothing was removed: they never would. */
bool kv_make_room(const char *pool_dir, uint64_t need, uint64_t max_bytes);
/* At a start: folders of pools that are not among ids, what is unfinished, and what is older than max_age_ms
 * go. root: the folder of the pools' folders; one that is not there is nothing. */
void kv_tidy(const char *root, const struct strv *ids, int64_t now_ms, int64_t max_age_ms);

/* ---- the engine's words ---------------------------------------------------------------------------------
 */

/* The tokens at the beginning of a saved file, as far as it is one of llama.cpp's; at most max of them.
 * Returns how many the file has; 0: not to be read. */
size_t kv_tokens_read(const char *path, uint32_t **ret, size_t max);
/* Whether the build that wrote it puts checkpoints there: by the version of its form, since when is known of
 * one build alone. */
bool kv_has_checkpoints(const char *path);

#endif
