/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_source - where a model's tensors come from: a folder's safetensors (one file or shards) or a
 * GGUF file. Tensors are asked for by their Hugging Face names and read by rows in f32; a GGUF
 * file's own names, its quantised blocks and the order of Llama's q and k rows stay in here.
 */
#ifndef LB_COMMON_MODEL_SOURCE_H
#define LB_COMMON_MODEL_SOURCE_H

#include "common/base/status.h"
#include "common/io/config.h"
#include "common/io/gguf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_SOURCE_NAME_MAX 128

typedef struct lb_source lb_source;

typedef struct lb_source_tensor {
    const char *dtype;         /* as the file calls it: "BF16", "Q4_K" */
    lb_gguf_type type;
    size_t rows, cols;         /* a vector is one row */
    const uint8_t *data;       /* into the mapping */
    size_t bytes, row_bytes;
    uint32_t head_dim;         /* rows stand interleaved within heads of this size; 0: in order */
} lb_source_tensor;

/* Maps the files at path. config says which order the rows have. Errors name the file, the key or
 * the tensor. */
LB_NODISCARD lb_status lb_source_open(const char *path, const lb_model_config *config,
                                      lb_source **out, lb_err *err);
void lb_source_close(lb_source *source);            /* NULL allowed; unmaps */

bool lb_source_has(const lb_source *source, const char *name);
/* A tensor of the given shape (cols 0: a vector of `rows`). LB_EDATA: it is missing or of another
 * shape; LB_EUNSUPPORTED: of a dtype that cannot be read. */
LB_NODISCARD lb_status lb_source_find(const lb_source *source, const char *name, size_t rows,
                                      size_t cols, lb_source_tensor *out, lb_err *err);
/* lb_row_source.read: rows [first, first + count) of the lb_source_tensor `tensor`, in f32. */
void lb_source_read(const void *tensor, size_t first, size_t count, float *out);

/* Calls visit with every tensor's name (of a GGUF file: the Hugging Face name, or its own if it has
 * none) until one returns a failure. Names that stand in two shards are refused. */
typedef lb_status (*lb_source_visit)(void *arg, const char *name);
LB_NODISCARD lb_status lb_source_each(const lb_source *source, lb_source_visit visit, void *arg,
                                      lb_err *err);

#endif
