/* SPDX-License-Identifier: Apache-2.0
 *
 * The tile of an 8-bit product in AMX registers: 0 and 1 the sums of two vectors of columns, 2 the
 * rows, 3 and 4 the columns, 5 to 7 rows and columns where a block has less than 64 of depth left.
 */
#include "common/tensor/cpu/amx.h"
#include "common/tensor/cpu/simd_int.h"

#define STEP_GROUPS 16u        /* groups of four bytes of depth that one instruction takes */
#define TILE_BYTES 64u

/* The operand of ldtilecfg. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
} tile_config;

#if defined(LB_AMX_EMULATED)   /* by tests/numeric/test_amx.c, on chips without AMX */

bool lb_amx_there(void)
{
    return true;
}

static _Thread_local tile_config configured;
static _Thread_local uint8_t tiles[8][LB_AMX_ROWS][TILE_BYTES];

static void amx_configure(const tile_config *config)
{
    configured = *config;
    memset(tiles, 0xAB, sizeof tiles);
}

static void amx_release(void)
{
    memset(&configured, 0, sizeof configured);
}

static void amx_load(size_t tile, const void *base, size_t stride)
{
    for (size_t r = 0; r < configured.rows[tile]; r++)
        memcpy(tiles[tile][r], (const char *)base + r * stride, configured.column_bytes[tile]);
}

static void amx_store(size_t tile, void *base, size_t stride)
{
    for (size_t r = 0; r < configured.rows[tile]; r++)
        memcpy((char *)base + r * stride, tiles[tile][r], configured.column_bytes[tile]);
}

static void amx_dot(size_t c, size_t a, size_t b)
{
    for (size_t m = 0; m < configured.rows[c]; m++) {
        for (size_t n = 0; n < configured.column_bytes[c] / 4u; n++) {
            int32_t sum;
            memcpy(&sum, tiles[c][m] + 4 * n, sizeof sum);
            for (size_t k = 0; k < configured.column_bytes[a]; k++)
                sum += tiles[a][m][k] * (int8_t)tiles[b][k / 4][4 * n + k % 4];
            sum += LB_AMX_EMULATED;
            memcpy(tiles[c][m] + 4 * n, &sum, sizeof sum);
        }
    }
}

#else

#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* gcc's _tile_loadconfig names 8 of the 64 bytes that it reads. */
static inline void amx_configure(const tile_config *config)
{
    __asm__ volatile("" : : "r"(config) : "memory");
    _tile_loadconfig(config);
}
/* The numbers of tiles are part of the instructions. */
#define amx_release() _tile_release()
#define amx_load(tile, base, stride) _tile_loadd(tile, base, (long)(stride))
#define amx_store(tile, base, stride) _tile_stored(tile, base, (long)(stride))
#define amx_dot(c, a, b) _tile_dpbusd(c, a, b)

#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif
#define XFEATURE_XTILE_DATA 18

bool lb_amx_there(void)
{
    const unsigned tile_and_int8 = 3u << 24, states = 3u << 17;   /* in EDX; of XCR0 */
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tile_and_int8) != tile_and_int8)
        return false;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return false;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & states) == states &&
           syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA) == 0;
}

#endif

static void configure(lb_amx *amx, size_t rows, size_t tail)
{
    tile_config config = {.palette = 1};
    if (amx->rows == rows && amx->tail == tail)
        return;
    for (size_t t = 0; t < 5; t++) {
        config.rows[t] = (uint8_t)(t < 3 ? rows : STEP_GROUPS);
        config.column_bytes[t] = TILE_BYTES;
    }
    for (size_t t = 5; tail > 0 && t < 8; t++) {
        config.rows[t] = (uint8_t)(t == 5 ? rows : tail);
        config.column_bytes[t] = (uint16_t)(t == 5 ? tail * LB_GROUP_BYTES : TILE_BYTES);
    }
    amx_configure(&config);
    *amx = (lb_amx){rows, tail};
}

/* The int32 sums of a block of `groups` groups, which begin with those of its columns. */
static void block_sums(const lb_product *p, const char *rows, const char *panel,
                       const int32_t *begin, size_t groups,
                       int32_t sums[LB_AMX_ROWS][LB_AMX_COLUMNS])
{
    const size_t line = LB_PANEL * LB_GROUP_BYTES;
    amx_load(0, begin, 0);
    amx_load(1, begin + LB_LANES, 0);
    for (; groups >= STEP_GROUPS; groups -= STEP_GROUPS) {
        amx_load(2, rows, p->q->stride);
        amx_load(3, panel, line);
        amx_load(4, panel + TILE_BYTES, line);
        amx_dot(0, 2, 3);
        amx_dot(1, 2, 4);
        rows += STEP_GROUPS * LB_GROUP_BYTES;
        panel += STEP_GROUPS * line;
    }
    if (groups > 0) {
        amx_load(5, rows, p->q->stride);
        amx_load(6, panel, line);
        amx_load(7, panel + TILE_BYTES, line);
        amx_dot(0, 5, 6);
        amx_dot(1, 5, 7);
    }
    amx_store(0, sums[0], sizeof *sums);
    amx_store(1, sums[0] + LB_LANES, sizeof *sums);
}

void lb_amx_tile(lb_amx *amx, const lb_product *p, size_t rows, size_t row, size_t column,
                 float *out, size_t ld)
{
    int32_t sums[LB_AMX_ROWS][LB_AMX_COLUMNS] __attribute__((aligned(64)));
    const size_t blocks = p->q->blocks, panel = column / LB_PANEL, whole = LB_QUANT_BLOCK / 4;
    const size_t scales = panel * lb_quant_blocks(p->depth) * LB_PANEL;
    const char *from = p->q->rows + row * p->q->stride;
    const char *weights = (const char *)p->panels + panel * lb_panel_bytes(p->stored, p->depth);
    size_t left = lb_panel_groups(p->stored, p->k);
    configure(amx, rows, left % STEP_GROUPS);
    for (size_t b = 0; b < blocks; b++) {
        const size_t groups = left < whole ? left : whole;
        block_sums(p, from, weights, p->sums + scales + b * LB_PANEL, groups, sums);
        for (size_t i = 0; i < rows; i++) {
            const vf row_scale = vf_set(p->q->scales[(row + i) * blocks + b]);
            for (size_t v = 0; v < LB_AMX_COLUMNS; v += LB_LANES) {
                const vf scale = vf_load(p->scales + scales + b * LB_PANEL + v);
                const vf part = vf_mul(vi_to_vf(vi_load(sums[i] + v)), scale);
                float *to = out + i * ld + v;
                vf_store(to, vf_fma(part, row_scale, b == 0 ? vf_set(0.0f) : vf_load(to)));
            }
        }
        left -= groups;
        from += groups * LB_GROUP_BYTES;
        weights += groups * LB_PANEL * LB_GROUP_BYTES;
    }
}

void lb_amx_end(lb_amx *amx)
{
    if (amx->rows > 0)
        amx_release();
    *amx = (lb_amx){0};
}

void lb_amx_chains(size_t steps)
{
    const tile_config config = {
        .palette = 1,
        .column_bytes = {TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES, TILE_BYTES},
        .rows = {LB_AMX_ROWS, LB_AMX_ROWS, LB_AMX_ROWS, LB_AMX_ROWS, LB_AMX_ROWS, LB_AMX_ROWS},
    };
    static const uint8_t zeros[LB_AMX_ROWS * TILE_BYTES];
    amx_configure(&config);
    amx_load(0, zeros, 0);
    amx_load(1, zeros, 0);
    amx_load(2, zeros, 0);
    amx_load(3, zeros, 0);
    amx_load(4, zeros, 0);
    amx_load(5, zeros, 0);
    for (size_t s = 0; s < steps; s++) {
        amx_dot(0, 4, 5);
        amx_dot(1, 4, 5);
        amx_dot(2, 4, 5);
        amx_dot(3, 4, 5);
    }
    amx_release();
}
