/* SPDX-License-Identifier: Apache-2.0
 *
 * The tiles of integer products in AMX registers: 0 to 2 sums, 3 and 4 rows, 5 and 6 columns.
 */
#include "common/tensor/cpu/amx.h"
#include "common/tensor/cpu/quantise.h"

#define STEP 64u               /* bytes of depth that one instruction takes: a register's line */
#define STEP_GROUPS (STEP / LB_GROUP_BYTES)
#define LINE (LB_PANEL * LB_GROUP_BYTES)     /* bytes between the groups of a panel */

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
static _Thread_local uint8_t tiles[8][LB_AMX_ROWS][STEP];

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

static void amx_zero(size_t tile)
{
    memset(tiles[tile], 0, sizeof tiles[tile]);
}

static void amx_add(size_t c, size_t a, size_t b, bool with_sign)
{
    for (size_t m = 0; m < configured.rows[c]; m++) {
        for (size_t n = 0; n < configured.column_bytes[c] / 4u; n++) {
            int32_t sum;
            memcpy(&sum, tiles[c][m] + 4 * n, sizeof sum);
            for (size_t k = 0; k < configured.column_bytes[a]; k++) {
                int x = with_sign ? (int8_t)tiles[a][m][k] : tiles[a][m][k];
                sum += x * (int8_t)tiles[b][k / 4][4 * n + k % 4];
            }
            sum += LB_AMX_EMULATED;
            memcpy(tiles[c][m] + 4 * n, &sum, sizeof sum);
        }
    }
}
#define amx_dot(c, a, b) amx_add(c, a, b, false)
#define amx_dot_signed(c, a, b) amx_add(c, a, b, true)

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
#define amx_zero(tile) _tile_zero(tile)
/* c += a b, a of unsigned or of signed bytes. */
#define amx_dot(c, a, b) _tile_dpbusd(c, a, b)
#define amx_dot_signed(c, a, b) _tile_dpbssd(c, a, b)

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

static void configure(lb_amx *amx, size_t rows)
{
    tile_config config = {.palette = 1};
    if (amx->rows == rows)
        return;
    for (size_t t = 0; t < 7; t++) {
        config.rows[t] = (uint8_t)(t < 5 ? rows : STEP_GROUPS);
        config.column_bytes[t] = STEP;
    }
    amx_configure(&config);
    amx->rows = rows;
}

/* What one step reads: rows of STEP bytes, and STEP_GROUPS lines of a panel. In planes the low
 * bytes are `low` after a row's high ones and a line after a panel's. */
typedef struct operands {
    const char *rows, *panel;
    size_t stride, low;        /* of the rows */
    size_t line;               /* between the panel's groups */
} operands;

/* The last bytes of a block's depth, less than STEP, with zeros after them. */
typedef struct padded {
    char rows[2][LB_AMX_ROWS][STEP], panel[STEP_GROUPS][2 * LINE];
} padded;

static operands pad(const operands *o, size_t rows, size_t depth, bool planes, padded *room)
{
    memset(room, 0, sizeof *room);
    for (size_t p = 0; p <= planes; p++) {
        for (size_t r = 0; r < rows; r++)
            memcpy(room->rows[p][r], o->rows + r * o->stride + p * o->low, depth);
    }
    for (size_t g = 0; g < depth / LB_GROUP_BYTES; g++)
        memcpy(room->panel[g], o->panel + g * o->line, planes ? 2 * LINE : LINE);
    return (operands){room->rows[0][0], room->panel[0], STEP, sizeof room->rows[0], 2 * LINE};
}

static operands moved(operands o)
{
    o.rows += STEP;
    o.panel += STEP_GROUPS * o.line;
    return o;
}

static void step_bytes(const operands *o)
{
    amx_load(3, o->rows, o->stride);
    amx_load(5, o->panel, o->line);
    amx_load(6, o->panel + STEP, o->line);
    amx_dot(0, 3, 5);
    amx_dot(1, 3, 6);
}

/* A block of 8 bits, whose sums begin with those of its columns. */
static void block_bytes(operands o, size_t rows, size_t depth, const int32_t *begin,
                        int32_t sums[LB_AMX_ROWS][LB_AMX_COLUMNS])
{
    padded room;
    amx_load(0, begin, 0);
    amx_load(1, begin + LB_LANES, 0);
    for (; depth >= STEP; depth -= STEP, o = moved(o))
        step_bytes(&o);
    if (depth > 0) {
        o = pad(&o, rows, depth, false, &room);
        step_bytes(&o);
    }
    amx_store(0, sums[0], sizeof *sums);
    amx_store(1, sums[0] + LB_LANES, sizeof *sums);
}

/* 0: high x high, 1: high x low and low x high, 2: low x low. */
static void step_planes(const operands *o, size_t first)
{
    amx_load(3, o->rows, o->stride);
    amx_load(5, o->panel + first, o->line);
    amx_dot_signed(0, 3, 5);
    amx_load(6, o->panel + LINE + first, o->line);
    amx_dot_signed(1, 3, 6);
    amx_load(4, o->rows + o->low, o->stride);
    amx_dot_signed(1, 4, 5);
    amx_dot_signed(2, 4, 6);
}

/* A block of int16 in planes: sixteen columns after the other. */
static void block_planes(operands o, size_t rows, size_t depth,
                         int32_t sums[LB_AMX_ROWS][LB_AMX_COLUMNS])
{
    padded room;
    int32_t parts[3][LB_AMX_ROWS][LB_LANES] __attribute__((aligned(64)));
    operands rest = o;
    for (size_t d = depth; d >= STEP; d -= STEP)
        rest = moved(rest);
    if (depth % STEP > 0)
        rest = pad(&rest, rows, depth % STEP, true, &room);
    for (size_t v = 0; v < LB_AMX_COLUMNS; v += LB_LANES) {
        operands at = o;
        amx_zero(0);
        amx_zero(1);
        amx_zero(2);
        for (size_t d = depth; d >= STEP; d -= STEP, at = moved(at))
            step_planes(&at, v * LB_GROUP_BYTES);
        if (depth % STEP > 0)
            step_planes(&rest, v * LB_GROUP_BYTES);
        amx_store(0, parts[0], sizeof *parts[0]);
        amx_store(1, parts[1], sizeof *parts[1]);
        amx_store(2, parts[2], sizeof *parts[2]);
        for (size_t r = 0; r < rows; r++) {
            for (size_t i = 0; i < LB_LANES; i++)
                sums[r][v + i] = (parts[0][r][i] * PLANE_LOW + parts[1][r][i]) * PLANE_LOW +
                                 parts[2][r][i];
        }
    }
}

void lb_amx_tile(lb_amx *amx, const lb_product *p, size_t rows, size_t row, size_t column,
                 float *out, size_t ld)
{
    int32_t sums[LB_AMX_ROWS][LB_AMX_COLUMNS] __attribute__((aligned(64)));
    const bool planes = p->stored == LB_INT16;
    const size_t blocks = p->q->blocks, panel = column / LB_PANEL;
    const size_t scales = panel * lb_quant_blocks(p->depth) * LB_PANEL;
    operands o = {
        .rows = p->q->rows + row * p->q->stride, .stride = p->q->stride,
        .low = lb_quantise_low(p->q->stride),
        .panel = (const char *)p->panels + panel * lb_panel_bytes(p->stored, p->depth),
        .line = planes ? 2 * LINE : LINE,
    };
    size_t left = (p->k + LB_LANES - 1) / LB_LANES * LB_LANES;
    configure(amx, rows);
    for (size_t b = 0; b < blocks; b++) {
        const size_t depth = left < LB_QUANT_BLOCK ? left : LB_QUANT_BLOCK;
        if (planes)
            block_planes(o, rows, depth, sums);
        else
            block_bytes(o, rows, depth, p->sums + scales + b * LB_PANEL, sums);
        for (size_t i = 0; i < rows; i++) {
            const vf row_scale = vf_set(p->q->scales[(row + i) * blocks + b]);
            for (size_t v = 0; v < LB_AMX_COLUMNS; v += LB_LANES) {
                const vf scale = vf_load(p->scales + scales + b * LB_PANEL + v);
                const vf part = vf_mul(vi_to_vf(vi_load(sums[i] + v)), scale);
                float *to = out + i * ld + v;
                vf_store(to, vf_fma(part, row_scale, b == 0 ? vf_set(0.0f) : vf_load(to)));
            }
        }
        left -= depth;
        o.rows += depth;
        o.panel += depth / LB_GROUP_BYTES * o.line;
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
    lb_amx amx = {0};
    configure(&amx, LB_AMX_ROWS);
    amx_zero(0);
    amx_zero(1);
    amx_zero(2);
    amx_zero(3);
    amx_zero(4);
    amx_zero(5);
    for (size_t s = 0; s < steps; s++) {
        amx_dot(0, 4, 5);
        amx_dot(1, 4, 5);
        amx_dot(2, 4, 5);
        amx_dot(3, 4, 5);
    }
    lb_amx_end(&amx);
}
