/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_completion - one POST /v1/completions: what route_completions.c parses and
 * completions_reply.c writes. The shape is vLLM's, so that its clients work unchanged.
 */
#ifndef LB_SERVER_TEACHER_COMPLETIONS_H
#define LB_SERVER_TEACHER_COMPLETIONS_H

#include "server/teacher/teacher_impl.h"

#define LB_COMPLETION_TOKENS_MAX 4096u  /* max_tokens: a completion holds the model while it runs */
#define LB_COMPLETION_TOKENS 16u        /* max_tokens when the request has none, as OpenAI's */

typedef struct lb_completion {
    lb_call base;                  /* first */
    uint32_t count;                /* prompts */
    lb_sequence *prompts;          /* owned, [count]; their tokens are in slots of base.tokens */
    lb_rollout *rollouts;          /* owned, [count]; empty when max_tokens is 0 */
    uint32_t max_tokens;
    bool echo, return_ids, tokens_as_ids;
    bool has_logprobs, has_prompt_logprobs;
    uint32_t logprobs, prompt_logprobs;
} lb_completion;

/* Replies with the finished completion and counts it. */
void lb_completion_reply(lb_completion *completion);

#endif
