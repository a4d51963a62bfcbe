/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_rng - counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel Random Numbers:
 * As Easy as 1, 2, 3", SC 2011). A draw depends on its key and counter alone, never on who asks
 * or in which order, which is what makes a unit of work the same on every worker.
 */
#ifndef LB_COMMON_BASE_RNG_H
#define LB_COMMON_BASE_RNG_H

#include <stdint.h>

/* Streams: the first word of the counter, so that two purposes never share a draw. */
typedef enum lb_rng_stream {
    LB_RNG_SAMPLE = 1,   /* rollout tokens: counter = (stream, step, row, position) */
    LB_RNG_SHUFFLE = 2,  /* order of the prompts: (stream, epoch, index, 0) */
    LB_RNG_INIT = 3,     /* LoRA A matrices: (stream, tensor, element / 4, 0) */
    LB_RNG_JITTER = 4,   /* retry back-off; never in a result */
} lb_rng_stream;

/* out[4] = Philox4x32-10(key = seed, counter = c[4]). */
void lb_rng_block(uint64_t seed, const uint32_t counter[4], uint32_t out[4]);

/* Uniform in [0, 1) with 24 bits, exact in f32: word >> 8, times 2^-24. */
float lb_rng_uniform(uint32_t word);

#endif
