/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_log - logfmt events on stderr: ts=... level=info event=score_done job=j7 tokens=8192.
 *
 * Only mains, routes and workers log; libraries return errors. Event names are lower case with
 * underscores, units stand in the keys, prompts and keys never appear. A line is written with one
 * write(2), so lines of several threads do not mix.
 */
#ifndef LB_COMMON_BASE_LOG_H
#define LB_COMMON_BASE_LOG_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum lb_log_level { LB_LOG_DEBUG, LB_LOG_INFO, LB_LOG_WARN, LB_LOG_ERROR } lb_log_level;

/* program is borrowed for the life of the process; role=PROGRAM is on each line. */
void lb_log_init(const char *program, lb_log_level least);
/* "debug", "info", "warn", "error"; false for another word. */
bool lb_log_level_parse(const char *word, lb_log_level *out);
/* format makes the rest of the line ("job=%s step=%u"); NULL for none. Values with spaces are to
 * be passed through lb_log_quote. */
void lb_log(lb_log_level level, const char *event, const char *format, ...) LB_PRINTF(3, 4);
/* Quotes a value for logfmt into out (cut to size, newlines and quotes escaped); returns out. */
const char *lb_log_quote(char *out, size_t size, const char *value);
/* level=warn|error event=EVENT error=NAME field=F message="..." of an lb_err. */
void lb_log_err(lb_log_level level, const char *event, const lb_err *err);

#endif
