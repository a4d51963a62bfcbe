/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_safetensors - the safetensors container: u64 LE header length, JSON header, tensor bytes.
 * Source: the format text and the checks of the reference reader (safetensors, tensor.rs).
 *
 * The reader borrows the bytes (a mapping or a body) and refuses: a file under 8 bytes; a header
 * over the limit or past the end, or with more objects and arrays than tensors need; text that is
 * not an object; duplicate keys; an unknown dtype;
 * tensors that do not lie end to end from 0 to the end of the file (holes, overlaps); shape times
 * element size that overflows or differs from the range; more than LB_SAFETENSORS_MAX tensors;
 * names that are empty, over 256 bytes, or hold control characters. The field in an error is the
 * tensor's name. Zero-sized and 0-dimensional tensors are legal.
 */
#ifndef LB_COMMON_IO_SAFETENSORS_H
#define LB_COMMON_IO_SAFETENSORS_H

#include "common/base/buf.h"
#include "common/base/status.h"

#include <stddef.h>
#include <stdint.h>

#define LB_SAFETENSORS_MAX 65536
#define LB_SAFETENSORS_HEADER_MAX 100000000u
#define LB_SAFETENSORS_RANK_MAX 8

typedef enum lb_st_dtype {
    LB_ST_BOOL, LB_ST_U8, LB_ST_I8, LB_ST_F8_E5M2, LB_ST_F8_E4M3, LB_ST_I16, LB_ST_U16, LB_ST_F16,
    LB_ST_BF16, LB_ST_I32, LB_ST_U32, LB_ST_F32, LB_ST_F64, LB_ST_I64, LB_ST_U64
} lb_st_dtype;

const char *lb_st_dtype_name(lb_st_dtype dtype);
size_t lb_st_dtype_size(lb_st_dtype dtype);

typedef struct lb_st_tensor {
    const char *name;          /* owned by the reader */
    lb_st_dtype dtype;
    uint32_t rank;
    uint64_t shape[LB_SAFETENSORS_RANK_MAX];
    const uint8_t *data;       /* into the borrowed bytes; not aligned */
    size_t bytes;
} lb_st_tensor;

typedef struct lb_safetensors lb_safetensors;

/* Parses data[length] (borrowed: must outlive the reader). header_max: limit of the header in
 * bytes, at most LB_SAFETENSORS_HEADER_MAX. */
LB_NODISCARD lb_status lb_safetensors_open(const uint8_t *data, size_t length, size_t header_max,
                                           lb_safetensors **out, lb_err *err);
void lb_safetensors_close(lb_safetensors *file);
size_t lb_safetensors_count(const lb_safetensors *file);
const lb_st_tensor *lb_safetensors_at(const lb_safetensors *file, size_t index); /* by offset */
const lb_st_tensor *lb_safetensors_find(const lb_safetensors *file, const char *name);
const char *lb_safetensors_metadata(const lb_safetensors *file, const char *key); /* NULL: none */

/* Writes a file image: tensors ordered by alignment (descending) then name, header padded with
 * spaces to 8 bytes, "__metadata__" with "format":"pt" and the given pairs. The same tensors give
 * the same bytes. out is appended to. */
typedef struct lb_st_source {
    const char *name;
    lb_st_dtype dtype;
    uint32_t rank;
    uint64_t shape[LB_SAFETENSORS_RANK_MAX];
    const void *data;          /* borrowed, little-endian, row-major */
} lb_st_source;
LB_NODISCARD lb_status lb_safetensors_write(const lb_st_source *tensors, size_t count,
                                            const char *const *metadata_pairs, size_t pair_count,
                                            lb_buf *out, lb_err *err);

#endif
