/* SPDX-License-Identifier: Apache-2.0
 *
 * Every maximum of the wire, in one place. Both ends include it; openapi.yaml repeats the numbers
 * and a test holds the two together.
 */
#ifndef LB_PROTO_LIMITS_H
#define LB_PROTO_LIMITS_H

#define LB_LIMIT_HEADER_BYTES (32u << 10)        /* request line and headers: MHD's pool */
#define LB_LIMIT_JSON_BODY (4u << 20)            /* JSON bodies of scoring routes */
#define LB_LIMIT_JSON_SMALL (256u << 10)         /* JSON bodies of control routes */
#define LB_LIMIT_FRAME_BODY (16u << 20)          /* binary scoring frames */
#define LB_LIMIT_FILE_BODY (64u << 20)           /* uploaded data sets */
#define LB_LIMIT_GRADIENT_BODY (1u << 30)        /* gradient frames */
#define LB_LIMIT_SEQUENCES 4096u                 /* sequences of one scoring request */
#define LB_LIMIT_TOP_K 1024u                     /* prompt_logprobs, k */
#define LB_LIMIT_ID 64u                          /* ids: ^[A-Za-z0-9_.-]{1,64}$ */
#define LB_LIMIT_NAME 128u                       /* adapter and worker names */
#define LB_LIMIT_METADATA 16u                    /* pairs of a job's metadata */
#define LB_LIMIT_PAGE 100u                       /* rows of one page of a listing */
#define LB_LIMIT_WAIT_MS 30000u                  /* longest long poll */

#endif
