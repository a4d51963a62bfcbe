/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_pattern - the regular expressions that PEFT matches against module names.
 *
 * The syntax is that of Python's re as far as it is regular: literals, . classes \d \w \s \b,
 * groups, | and * + ? {m,n}, greedy or lazy, ^ and $. Look-around, back references, flags and
 * anything outside ASCII are refused. Sets of positions are moved through the pattern, nothing
 * backtracks, and a budget of steps bounds what a hostile pattern can cost.
 */
#ifndef LB_COMMON_MODEL_LORA_PATTERN_H
#define LB_COMMON_MODEL_LORA_PATTERN_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stdint.h>

#define LB_PATTERN_TEXT_MAX 63u   /* bytes of a text: its positions are the bits of a word */

typedef enum lb_pattern_mode {
    LB_PATTERN_WHOLE,   /* re.fullmatch(pattern, text) */
    LB_PATTERN_TAIL,    /* re.match("(.*\.)?(pattern)$", text): the text, or what follows a dot */
} lb_pattern_mode;

/* text: ASCII without line ends, at most LB_PATTERN_TEXT_MAX bytes. *budget is counted down by the
 * work done. LB_EUNSUPPORTED: a construct is not implemented or
 * malformed; LB_ETOOBIG: the budget is used up. Both name `field`. */
LB_NODISCARD lb_status lb_pattern_match(const char *pattern, lb_pattern_mode mode,
                                        const char *text, const char *field, uint64_t *budget,
                                        bool *out, lb_err *err);

#endif
