/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/cpu/amx.h"
#include "common/tensor/cpu/numa.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define ALIGNMENT 64u
#define HUGE_PAGE ((size_t)2 << 20)
#define SPREAD_LEAST ((size_t)1 << 20)   /* what is smaller stays in a cache */
#define HUGE_LEAST ((size_t)8 << 20)     /* where rounding up to a page costs little */

typedef struct isa_row {
    const char *name;
    const lb_backend_table *table;
    bool amx;
} isa_row;

void *lb_cpu_room(size_t bytes)
{
    size_t alignment = bytes >= HUGE_LEAST ? HUGE_PAGE : ALIGNMENT;
    if (bytes > SIZE_MAX - alignment)
        return NULL;
    void *room = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    /* Fewer misses of the TLB while panels are streamed; a kernel without huge pages refuses. */
    if (room && alignment == HUGE_PAGE)
        madvise(room, (bytes + alignment - 1) / alignment * alignment, MADV_HUGEPAGE);
    return room;
}

void *lb_cpu_shared_room(size_t bytes)
{
    void *room = lb_cpu_room(bytes);
    if (room && bytes >= SPREAD_LEAST)
        lb_numa_spread(room, bytes, 2);
    return room;
}

lb_status lb_cpu_scratch(lb_cpu *cpu, size_t bytes)
{
    if (bytes <= cpu->scratch_bytes)
        return LB_OK;
    for (uint32_t i = 0; i < lb_pool_threads(cpu->pool); i++) {
        free(cpu->scratch[i]);
        cpu->scratch[i] = lb_cpu_room(bytes);
        if (!cpu->scratch[i]) {
            cpu->scratch_bytes = 0;
            return LB_ENOMEM;
        }
    }
    cpu->scratch_bytes = bytes;
    return LB_OK;
}

static lb_status grow(void **buffer, size_t *have, size_t bytes)
{
    if (bytes <= *have)
        return LB_OK;
    free(*buffer);
    *buffer = lb_cpu_shared_room(bytes);
    *have = *buffer ? bytes : 0;
    return *buffer ? LB_OK : LB_ENOMEM;
}

lb_status lb_cpu_shared(lb_cpu *cpu, size_t bytes)
{
    return grow(&cpu->shared, &cpu->shared_bytes, bytes);
}

lb_status lb_cpu_rows(lb_cpu *cpu, size_t bytes)
{
    return grow(&cpu->rows, &cpu->rows_bytes, bytes);
}

void lb_cpu_weight_drop(void *self, lb_weight *w)
{
    (void)self;
    free(w->forward);
    free(w->backward);
    free(w->scales);
    free(w->sums);
    free(w->backward_scales);
}

lb_status lb_cpu_alloc(void *self, size_t bytes, void **out)
{
    (void)self;
    void *memory = bytes <= SIZE_MAX - ALIGNMENT ? lb_cpu_shared_room(bytes ? bytes : ALIGNMENT)
                                                 : NULL;
    if (!memory)
        return LB_ENOMEM;
    *out = memory;
    return LB_OK;
}

void lb_cpu_release(void *self, void *memory)
{
    (void)self;
    free(memory);
}

void lb_cpu_clear(void *self, void *memory, size_t bytes)
{
    (void)self;
    memset(memory, 0, bytes);
}

lb_status lb_cpu_copy_in(void *self, lb_tensor to, const void *host)
{
    (void)self;
    size_t size = lb_dtype_size(to.dtype);
    for (size_t r = 0; r < to.rows; r++)
        memcpy((char *)to.data + r * to.stride * size, (const char *)host + r * to.cols * size,
               to.cols * size);
    return LB_OK;
}

lb_status lb_cpu_copy_out(void *self, lb_tensor from, void *host)
{
    (void)self;
    size_t size = lb_dtype_size(from.dtype);
    for (size_t r = 0; r < from.rows; r++)
        memcpy((char *)host + r * from.cols * size, (char *)from.data + r * from.stride * size,
               from.cols * size);
    return LB_OK;
}

uint32_t lb_cpu_threads(void *self)
{
    return lb_pool_threads(((lb_cpu *)self)->pool);
}

void lb_cpu_close(void *self)
{
    lb_cpu *cpu = self;
    if (!cpu)
        return;
    for (uint32_t i = 0; cpu->scratch && i < lb_pool_threads(cpu->pool); i++)
        free(cpu->scratch[i]);
    free(cpu->scratch);
    free(cpu->shared);
    free(cpu->rows);
    lb_pool_free(cpu->pool);
    free(cpu);
}

#define ISAS_MAX 6

#if defined(__x86_64__)
/* AVX-VNNI, which not every compiler's __builtin_cpu_supports knows. */
static bool has_avx_vnni(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

/* The rows this chip can run, best first. */
static size_t supported(isa_row rows[ISAS_MAX])
{
    size_t count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    bool avx512vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    if (avx512vnni && lb_amx_there())
        rows[count++] = (isa_row){"avx512amx", &lb_cpu_table_avx512vnni, true};
    if (avx512vnni)
        rows[count++] = (isa_row){.name = "avx512vnni", .table = &lb_cpu_table_avx512vnni};
    if (avx512)
        rows[count++] = (isa_row){.name = "avx512", .table = &lb_cpu_table_avx512};
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && has_avx_vnni())
        rows[count++] = (isa_row){.name = "avx2vnni", .table = &lb_cpu_table_avx2vnni};
    if (avx2)
        rows[count++] = (isa_row){.name = "avx2", .table = &lb_cpu_table_avx2};
#endif
#if defined(__aarch64__)
    if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP)
        rows[count++] = (isa_row){.name = "neondot", .table = &lb_cpu_table_neondot};
    rows[count++] = (isa_row){.name = "neon", .table = &lb_cpu_table_neon};
#endif
    rows[count++] = (isa_row){.name = "portable", .table = &lb_cpu_table_portable};
    return count;
}

const char *lb_backend_isa(size_t index)
{
    isa_row rows[ISAS_MAX];
    return index < supported(rows) ? rows[index].name : NULL;
}

static lb_status choose(const char *isa, isa_row *out, lb_err *err)
{
    isa_row rows[ISAS_MAX];
    size_t count = supported(rows);
    for (size_t i = 0; i < count; i++) {
        if (!isa || strcmp(isa, rows[i].name) == 0) {
            *out = rows[i];
            return LB_OK;
        }
    }
    return lb_fail(err, LB_EUNSUPPORTED, "isa", "this machine does not have '%.20s'", isa);
}

lb_status lb_cpu_open(uint32_t threads, const char *isa, lb_backend *out, lb_err *err)
{
    isa_row row = {0};
    lb_cpu *cpu = NULL;
    lb_status status = choose(isa, &row, err);
    if (status != LB_OK)
        return status;
    cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the CPU backend");
    status = lb_pool_create(threads, &cpu->pool, err);
    if (status != LB_OK) {
        free(cpu);
        return status;
    }
    uint32_t count = lb_pool_threads(cpu->pool);
    cpu->scratch = calloc(count, sizeof *cpu->scratch);
    if (!cpu->scratch) {
        lb_cpu_close(cpu);
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for the CPU backend");
    }
    cpu->amx = row.amx;
    out->table = row.table;
    out->self = cpu;
    int written = snprintf(out->description, sizeof out->description, "cpu %s, %u thread%s",
                           row.name, count, count == 1 ? "" : "s");
    unsigned nodes = lb_numa_nodes();
    if (nodes > 1 && written > 0 && (size_t)written < sizeof out->description)
        snprintf(out->description + written, sizeof out->description - (size_t)written,
                 ", memory spread over %u nodes", nodes);
    return LB_OK;
}
