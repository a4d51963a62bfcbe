/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_teacher - the daemon: one frozen model that scores tokens over HTTP for many students.
 *
 * HTTP threads parse and validate, the scheduler's thread owns the model, and the scheduler's
 * answer thread writes the replies. What a client sees of a sequence has the same bits whatever
 * else the teacher is asked at the time.
 */
#ifndef LB_SERVER_TEACHER_TEACHER_H
#define LB_SERVER_TEACHER_TEACHER_H

#include "common/base/status.h"
#include "common/tensor/tensor.h"
#include "server/http/http.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_TEACHER_BATCH_TOKENS 4096u
#define LB_TEACHER_QUEUE_TOKENS 65536u
#define LB_TEACHER_MAX_LOGPROBS 1024u

typedef struct lb_teacher lb_teacher;

typedef struct lb_teacher_config {
    const char *model_dir;       /* a Hugging Face folder; its tokenizer.json is optional */
    const char *name;            /* what /v1/models calls it; NULL: the folder's last part */
    const char *listen;
    const char *key_file;        /* NULL: no keys */
    bool insecure;
    lb_dtype dtype;
    bool skip_error;             /* integer dtypes: do not measure how far they are from f32 */
    uint32_t threads;            /* of the backend; 0: all */
    uint32_t max_batch_tokens;
    uint32_t queue_tokens;       /* raised to the longest sequence the model takes */
    uint32_t max_logprobs;       /* largest k and prompt_logprobs */
} lb_teacher_config;

/* Loads the model, then listens. Errors name the option, file or key. */
LB_NODISCARD lb_status lb_teacher_start(const lb_teacher_config *config, lb_teacher **out,
                                        lb_err *err);
const char *lb_teacher_url(const lb_teacher *teacher);
const char *lb_teacher_describe(const lb_teacher *teacher);  /* of the backend */
/* /readyz says 503 from now on; what was accepted is finished within timeout_ms, the rest is
 * answered 503; everything is freed. NULL allowed. */
void lb_teacher_stop(lb_teacher *teacher, int64_t timeout_ms);

/* The route table, which a test holds against proto/openapi.yaml. */
const lb_route *lb_teacher_routes(size_t *count);

#endif
