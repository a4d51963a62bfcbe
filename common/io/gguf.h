/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_gguf - the GGUF container: metadata, tensor table, tensor bytes; and its block formats.
 * Source: ggml's docs/gguf.md and ggml-common.h (block layouts).
 *
 * The reader maps a file, or borrows the bytes of one, and takes versions 2 and 3, little-endian.
 * Refused, with the key or tensor as the error's field: counts over the limits below or beyond the
 * file; strings and arrays past the end; arrays of arrays; duplicate keys and names; an alignment
 * that is no power of two from 8 to 65536; a tensor type outside lb_gguf_type; rows that are no
 * whole blocks; sizes that overflow; tensors that are misaligned, overlap or end past the file.
 */
#ifndef LB_COMMON_IO_GGUF_H
#define LB_COMMON_IO_GGUF_H

#include "common/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_GGUF_KEYS_MAX 4096u
#define LB_GGUF_TENSORS_MAX 65536u
#define LB_GGUF_NAME_MAX 256u      /* bytes of a key or a tensor's name */
#define LB_GGUF_RANK_MAX 4u
#define LB_GGUF_BLOCK_MAX 256u     /* values of the largest block */

/* Tensor types that can be read; the numbers of the file. */
typedef enum lb_gguf_type {
    LB_GGUF_F32 = 0, LB_GGUF_F16 = 1, LB_GGUF_Q4_0 = 2, LB_GGUF_Q4_1 = 3, LB_GGUF_Q8_0 = 8,
    LB_GGUF_Q4_K = 12, LB_GGUF_Q5_K = 13, LB_GGUF_Q6_K = 14, LB_GGUF_BF16 = 30
} lb_gguf_type;

const char *lb_gguf_type_name(lb_gguf_type type);       /* "Q4_K"; "unknown" */
/* Values and bytes of a block; false for a type that cannot be read. */
bool lb_gguf_block(lb_gguf_type type, size_t *values, size_t *bytes);
/* Expands whole blocks: out[count] in f32 from data (any alignment). count is a multiple of the
 * block's values. The arithmetic is ggml's reference: one f32 product and one sum a value. */
void lb_gguf_expand(lb_gguf_type type, const uint8_t *data, size_t count, float *out);

typedef struct lb_gguf_tensor {
    const char *name;              /* owned by the reader, NUL-terminated */
    lb_gguf_type type;
    uint32_t rank;
    uint64_t shape[LB_GGUF_RANK_MAX];  /* as the file has it: shape[0] is the innermost */
    const uint8_t *data;           /* into the file's bytes */
    size_t bytes;
} lb_gguf_tensor;

/* Whether a model's path names a GGUF file: it ends in ".gguf". */
bool lb_path_is_gguf(const char *path);

typedef struct lb_gguf lb_gguf;

LB_NODISCARD lb_status lb_gguf_open(const uint8_t *data, size_t length, lb_gguf **out,
                                    lb_err *err);
/* The same of the file at path, whose mapping lives until lb_gguf_close. Messages name the path. */
LB_NODISCARD lb_status lb_gguf_load(const char *path, lb_gguf **out, lb_err *err);
void lb_gguf_close(lb_gguf *file);                      /* NULL allowed */
size_t lb_gguf_count(const lb_gguf *file);              /* tensors */
const lb_gguf_tensor *lb_gguf_at(const lb_gguf *file, size_t index);   /* by name */
const lb_gguf_tensor *lb_gguf_find(const lb_gguf *file, const char *name);

/* ---- metadata ---- */

bool lb_gguf_has(const lb_gguf *file, const char *key);
/* Typed getters. An absent key leaves *out alone and is LB_OK with need false, LB_EDATA with need
 * true; a value of another type or outside the range is LB_EDATA. Any integer type will do. */
LB_NODISCARD lb_status lb_gguf_u32(const lb_gguf *file, const char *key, bool need, uint32_t max,
                                   uint32_t *out, lb_err *err);
LB_NODISCARD lb_status lb_gguf_f64(const lb_gguf *file, const char *key, bool need, double *out,
                                   lb_err *err);
LB_NODISCARD lb_status lb_gguf_bool(const lb_gguf *file, const char *key, bool need, bool *out,
                                    lb_err *err);
/* Borrowed bytes, not NUL-terminated, of any content. */
LB_NODISCARD lb_status lb_gguf_string(const lb_gguf *file, const char *key, bool need,
                                      const char **out, size_t *length, lb_err *err);

/* An array of strings or of integers, read in order. */
typedef struct lb_gguf_array {
    const uint8_t *data;           /* what is left */
    size_t bytes;
    uint64_t count;                /* items left */
    uint32_t item;                 /* type of the items; private */
} lb_gguf_array;

LB_NODISCARD lb_status lb_gguf_strings(const lb_gguf *file, const char *key, bool need,
                                       lb_gguf_array *out, lb_err *err);
LB_NODISCARD lb_status lb_gguf_integers(const lb_gguf *file, const char *key, bool need,
                                        lb_gguf_array *out, lb_err *err);
/* The next item; false at the end. An array from the getters above cannot be short. */
bool lb_gguf_next_string(lb_gguf_array *array, const char **out, size_t *length);
bool lb_gguf_next_integer(lb_gguf_array *array, int64_t *out);

#endif
