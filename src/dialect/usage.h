/* SPDX-License-Identifier: Apache-2.0
 *
 * Token counts and times that engines write into their answers, read out of a piece of it (its beginning or
 * its end) without parsing the whole: OpenAI's and Anthropic's `usage`, llama-server's `timings`.
 * Pure; nothing is kept but the numbers.
 */
#ifndef DIALECT_USAGE_H
#define DIALECT_USAGE_H

#include "base/view.h"

struct usage {               /* -1: not seen */
	int64_t prompt;      /* prompt_tokens, input_tokens, tokens_evaluated */
	int64_t output;      /* completion_tokens, output_tokens, tokens_predicted */
	int64_t cached;      /* cached_tokens: a part of prompt */
	int64_t cache_read;  /* cache_read_input_tokens: beside prompt (Anthropic) */
	int64_t prompt_n;    /* timings: what was prefilled, without what was cached */
	int64_t cache_n;     /* timings */
	int64_t predicted_n; /* timings */
	double prompt_ms, per_second;
};
void usage_init(struct usage *u);
/* Takes every number it knows from v; a later one replaces an earlier. What a model says cannot be mistaken
 * for one: inside a JSON string its quotes are escaped. */
void usage_read(struct usage *u, struct view v);

int64_t usage_prompt(const struct usage *u); /* all of the prompt, cached tokens included */
int64_t usage_cached(const struct usage *u);
int64_t usage_output(const struct usage *u);

#endif
