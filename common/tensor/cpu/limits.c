/* SPDX-License-Identifier: Apache-2.0
 *
 * What the machine can do: multiply-adds in registers, and reading memory. Each thread runs twelve
 * independent chains of instructions, which hides the latency of every chip that is known.
 */
#include "common/tensor/cpu/amx.h"
#include "common/tensor/cpu/simd_int.h"

#include "common/base/clock.h"

#include <stdlib.h>

#if defined(LB_ISA_AVX2) || defined(LB_ISA_NEON)
#define CHAINS 6               /* of two registers each, of sixteen, or of four, of 32 */
#else
#define CHAINS 12
#endif
#define STEPS 500000u
#define AMX_STEPS 50000u
#define AMX_DOT (2.0 * LB_AMX_ROWS * LB_LANES * 64.0)   /* operations of one instruction */
#define TASKS_PER_THREAD 8u
#define TASKS_MAX 2048u        /* of 256 threads */
#define READ_BYTES ((size_t)256 << 20)
#define READ_TASKS 64u

typedef struct limits_job {
    float *memory;             /* [READ_BYTES / 4] */
    float *sink;               /* [tasks] so that the work is done */
    int kind;                  /* 0 f32, 1 int16, 2 int8, 3 int8 by AMX */
} limits_job;

/* Lanes that differ, and in no way that a compiler can see: of a register's parts that are equal
 * it would compute one. */
static vf lanes_from(float first)
{
    float lane[LB_LANES];
    for (size_t i = 0; i < LB_LANES; i++)
        lane[i] = first + (float)i;
    return vf_load(lane);
}

static vi whole_lanes_from(float first)
{
    int32_t lane[LB_LANES];
    for (size_t i = 0; i < LB_LANES; i++)
        lane[i] = (int32_t)first + (int32_t)i;
    return vi_load(lane);
}

static void f32_task(void *arg, size_t index, size_t thread)
{
    const limits_job *job = arg;
    vf sum[CHAINS], x = lanes_from(job->sink[index]);
    (void)thread;
    LB_UNROLL
    for (int i = 0; i < CHAINS; i++)
        sum[i] = lanes_from(job->sink[index] + (float)i);
    for (size_t s = 0; s < STEPS; s++) {
        LB_UNROLL
        for (int i = 0; i < CHAINS; i++)
            sum[i] = vf_fma(sum[i], x, x);
    }
    for (int i = 1; i < CHAINS; i++)
        sum[0] = vf_add(sum[0], sum[i]);
    job->sink[index] = vf_sum(sum[0]);
}

static inline __attribute__((always_inline)) void int_chains(const limits_job *job, size_t index,
                                                             const bool eight)
{
    vi sum[CHAINS], x = whole_lanes_from(job->sink[index]);
    LB_UNROLL
    for (int i = 0; i < CHAINS; i++)
        sum[i] = whole_lanes_from(job->sink[index] + (float)i);
    for (size_t s = 0; s < STEPS; s++) {
        LB_UNROLL
        for (int i = 0; i < CHAINS; i++)
            /* Its own sum as a factor: equal products would be computed once. As the first, since
             * what is done to the second is done once for the rows of a tile. */
            sum[i] = eight ? vi_dot_bytes(sum[i], sum[i], x) : vi_dot_i16(sum[i], sum[i], x);
    }
    vf all = vi_to_vf(sum[0]);
    for (int i = 1; i < CHAINS; i++)
        all = vf_add(all, vi_to_vf(sum[i]));
    job->sink[index] = vf_sum(all);
}

static void int_task(void *arg, size_t index, size_t thread)
{
    const limits_job *job = arg;
    (void)thread;
#if defined(LB_ISA_AVX512) && defined(LB_ISA_VNNI)
    if (job->kind == 3) {
        lb_amx_chains(AMX_STEPS);
        return;
    }
#endif
    if (job->kind == 2)
        int_chains(job, index, true);
    else
        int_chains(job, index, false);
}

static void read_task(void *arg, size_t index, size_t thread)
{
    const limits_job *job = arg;
    size_t floats = READ_BYTES / sizeof(float) / READ_TASKS;
    const float *from = job->memory + index * floats;
    vf sum[4] = {vf_set(0.0f), vf_set(0.0f), vf_set(0.0f), vf_set(0.0f)};
    (void)thread;
    for (size_t i = 0; i < floats; i += 4 * LB_LANES) {
        for (size_t j = 0; j < 4; j++)
            sum[j] = vf_add(sum[j], vf_load(from + i + j * LB_LANES));
    }
    job->sink[index] = vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
}

static double seconds_of(lb_cpu *cpu, size_t tasks, void (*task)(void *, size_t, size_t),
                         limits_job *job)
{
    for (size_t i = 0; i < TASKS_MAX; i++)
        job->sink[i] = 0.0f;
    double start = lb_clock_seconds();
    lb_pool_run(cpu->pool, tasks, task, job);
    return lb_clock_seconds() - start;
}

lb_status LB_K(lb_cpu_limits)(void *self, lb_limits *out)
{
    lb_cpu *cpu = self;
    float sink[TASKS_MAX];
    limits_job job = {.memory = lb_cpu_room(READ_BYTES), .sink = sink};
    size_t tasks = TASKS_PER_THREAD * lb_pool_threads(cpu->pool);
    if (!job.memory)
        return LB_ENOMEM;
    tasks = tasks > TASKS_MAX ? TASKS_MAX : tasks;
    seconds_of(cpu, tasks, f32_task, &job);     /* wakes the threads */
    double steps = (double)tasks * CHAINS * STEPS * LB_LANES / 1e9;
    out->f32_gflops = 2.0 * steps / seconds_of(cpu, tasks, f32_task, &job);
    job.kind = 1;
    out->int16_gops = 4.0 * steps / seconds_of(cpu, tasks, int_task, &job);
    job.kind = cpu->amx ? 3 : 2;
    double bytes = cpu->amx ? (double)tasks * AMX_STEPS * LB_AMX_CHAINS * AMX_DOT / 1e9
                            : 8.0 * steps;
    out->int8_gops = bytes / seconds_of(cpu, tasks, int_task, &job);
    if (cpu->amx)
        out->int16_gops = out->int8_gops / LB_AMX_INT16_DOTS;
    memset(job.memory, 0, READ_BYTES);
    out->read_gb_per_s = (double)READ_BYTES / 1e9 / seconds_of(cpu, READ_TASKS, read_task, &job);
    free(job.memory);
    return LB_OK;
}
