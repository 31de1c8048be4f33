/* SPDX-License-Identifier: Apache-2.0
 *
 * Token counts and times that engines write into their answers, read out of a piece of it (its beginning or
 * its end) without parsing the whole: OpenAI's and Anthropic's `usage`, llama-server's `timings`.
 * Pure; nothing is kept but the numbers.
 */
#ifndef DIALECT_USAGE_H
#define DIALECT_USAGE_H

#include "base/view.h"

enum {
	USAGE_TAIL = 1024, /* of a piece so much is read; llama-server's last event has about 700 */
	USAGE_CARRY = 64,  /* more than the longest key and its number */
	USAGE_SAME = 16,
};
struct usage {               /* -1: not seen */
	int64_t prompt;      /* prompt_tokens, input_tokens, tokens_evaluated, prompt_eval_count */
	int64_t output;      /* completion_tokens, output_tokens, tokens_predicted, eval_count */
	int64_t cached;      /* cached_tokens: a part of prompt */
	int64_t cache_read;  /* cache_read_input_tokens: beside prompt (Anthropic) */
	int64_t prompt_n;    /* timings: what was prefilled, without what was cached */
	int64_t cache_n;     /* timings */
	int64_t predicted_n; /* timings */
	double prompt_ms, per_second;
	bool calls_tools; /* the answer ends with calls of tools: its client will be back */
};
void usage_init(struct usage *u);
/* Takes every number it knows from v; a later one replaces an earlier. What a model says cannot be mistaken
 * for one: inside a JSON string its quotes are escaped. */
bool usage_read(struct usage *u, struct view v); /* one was there */

/* An answer's pieces as they go by; all zero before the first. Nothing else is kept of them. */
struct usage_pieces {
	uint8_t carry;         /* so much of end belongs before the next piece */
	char end[USAGE_CARRY]; /* what the last piece ended with */
};
/* Takes the numbers at the end of the next piece, in place, and those that the cut before it went through.
 * whole: it ends where an event ends. Such a one is passed over when it ends with the USAGE_SAME bytes of the
 * one before and no number stood in that: so it is with nearly every event. */
void usage_piece(struct usage *u, struct usage_pieces *p, struct view v, bool whole);

int64_t usage_prompt(const struct usage *u); /* all of the prompt, cached tokens included */
int64_t usage_cached(const struct usage *u);
int64_t usage_output(const struct usage *u);

#endif
