/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_kv_pool - pages of one KV cache that sequences take, share and give back. A page has as many
 * owners as tables it stands in, and is free again when the last one drops it.
 */
#ifndef LB_COMMON_MODEL_KV_POOL_H
#define LB_COMMON_MODEL_KV_POOL_H

#include "common/model/model_impl.h"

typedef struct lb_kv_pool {
    lb_kv_cache cache;
    uint32_t *owners;          /* [pages] */
    uint32_t *free_pages;      /* [free_count] */
    size_t pages, free_count;
} lb_kv_pool;

/* Bytes that one page takes in all layers. */
size_t lb_kv_page_bytes(const lb_model *model);
/* The cache lies in the model's arena; the rest is owned (lb_kv_pool_free). */
LB_NODISCARD lb_status lb_kv_pool_create(lb_model *model, size_t pages, lb_kv_pool *out,
                                         lb_err *err);
void lb_kv_pool_free(lb_kv_pool *pool);
/* A page with one owner; there must be a free one. */
uint32_t lb_kv_pool_take(lb_kv_pool *pool);
void lb_kv_pool_share(lb_kv_pool *pool, uint32_t page);
void lb_kv_pool_drop(lb_kv_pool *pool, uint32_t page);
/* Copies what page `from` holds in every layer to page `to`. */
void lb_kv_pool_copy(lb_kv_pool *pool, lb_model *model, uint32_t to, uint32_t from);

#endif
