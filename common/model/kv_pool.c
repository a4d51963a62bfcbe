/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/kv_pool.h"

#include <assert.h>
#include <stdlib.h>

size_t lb_kv_page_bytes(const lb_model *model)
{
    lb_attention_shape s = lb_model_attention(model);
    return (lb_kv_key_page(&s) + lb_kv_value_page(&s)) * model->config.layers * sizeof(float);
}

lb_status lb_kv_pool_create(lb_model *model, size_t pages, lb_kv_pool *out, lb_err *err)
{
    lb_kv_pool pool = {.owners = calloc(pages, sizeof *pool.owners),
                       .free_pages = calloc(pages, sizeof *pool.free_pages), .pages = pages};
    lb_status status = pool.owners && pool.free_pages
                           ? lb_kv_cache_create(model, pages, &pool.cache, err)
                           : lb_fail(err, LB_ENOMEM, NULL, "no memory for %zu pages", pages);
    if (status != LB_OK) {
        lb_kv_pool_free(&pool);
        return status;
    }
    while (pool.free_count < pages) {
        pool.free_pages[pool.free_count] = (uint32_t)(pages - 1 - pool.free_count);
        pool.free_count++;
    }
    *out = pool;
    return LB_OK;
}

void lb_kv_pool_free(lb_kv_pool *pool)
{
    lb_kv_cache_free(&pool->cache);
    free(pool->owners);
    free(pool->free_pages);
    *pool = (lb_kv_pool){0};
}

uint32_t lb_kv_pool_take(lb_kv_pool *pool)
{
    assert(pool->free_count > 0);
    uint32_t page = pool->free_pages[--pool->free_count];
    pool->owners[page] = 1;
    return page;
}

void lb_kv_pool_share(lb_kv_pool *pool, uint32_t page)
{
    pool->owners[page]++;
}

void lb_kv_pool_drop(lb_kv_pool *pool, uint32_t page)
{
    assert(pool->owners[page] > 0);
    if (--pool->owners[page] == 0)
        pool->free_pages[pool->free_count++] = page;
}

void lb_kv_pool_copy(lb_kv_pool *pool, lb_model *model, uint32_t to, uint32_t from)
{
    for (size_t i = 0; i < model->config.layers; i++) {
        lb_tensor keys = pool->cache.keys[i], values = pool->cache.values[i];
        lb_copy(model->ops, lb_tensor_rows(keys, to, 1), lb_tensor_rows(keys, from, 1));
        lb_copy(model->ops, lb_tensor_rows(values, to, 1), lb_tensor_rows(values, from, 1));
    }
}
