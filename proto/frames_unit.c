/* SPDX-License-Identifier: Apache-2.0 */
#include "proto/frames.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1u
#define METRICS_MAX 256u

typedef enum fold { FOLD_SUM, FOLD_MAX, FOLD_MIN } fold;

typedef struct metric_row {
    const char *name;
    fold rule;
} metric_row;

static const metric_row metrics[LB_UNIT_METRIC_COUNT] = {
#define X(id, text, how) [id] = {.name = (text), .rule = FOLD_##how},
    LB_UNIT_METRICS(X)
#undef X
};

const char *lb_unit_metric_name(lb_unit_metric metric)
{
    return metric < LB_UNIT_METRIC_COUNT ? metrics[metric].name : "unknown";
}

void lb_unit_metrics_init(double values[LB_UNIT_METRIC_COUNT])
{
    for (int m = 0; m < LB_UNIT_METRIC_COUNT; m++)
        values[m] = metrics[m].rule == FOLD_MAX ? -INFINITY
                  : metrics[m].rule == FOLD_MIN ? INFINITY : 0.0;
}

void lb_unit_metrics_fold(double to[LB_UNIT_METRIC_COUNT], const double from[LB_UNIT_METRIC_COUNT])
{
    for (int m = 0; m < LB_UNIT_METRIC_COUNT; m++) {
        switch (metrics[m].rule) {
        case FOLD_SUM:
            to[m] += from[m];
            break;
        case FOLD_MAX:
            to[m] = from[m] > to[m] ? from[m] : to[m];
            break;
        case FOLD_MIN:
            to[m] = from[m] < to[m] ? from[m] : to[m];
            break;
        }
    }
}

void lb_unit_result_encode(const lb_unit_result *result, lb_buf *out)
{
    lb_buf_append(out, "LBUG", 4);
    lb_buf_u16(out, VERSION);
    lb_buf_u16(out, 0);
    lb_buf_u32(out, result->step);
    lb_buf_u32(out, result->unit);
    lb_buf_u64(out, result->elements);
    lb_buf_u64(out, result->tokens);
    lb_buf_u32(out, LB_UNIT_METRIC_COUNT);
    for (int m = 0; m < LB_UNIT_METRIC_COUNT; m++)
        lb_buf_f64(out, result->metrics[m]);
    for (uint64_t i = 0; i < result->elements; i++)
        lb_buf_f32(out, result->gradient[i]);
}

/* Metrics beyond those we know come from a newer worker and are passed over. */
static lb_status read_metrics(lb_reader *r, lb_unit_result *out, lb_err *err)
{
    uint32_t count = lb_read_u32(r);
    if (r->failed || count < LB_UNIT_METRIC_COUNT || count > METRICS_MAX)
        return lb_fail(err, LB_EDATA, "metrics", "%u metrics are not %d .. %u", count,
                       LB_UNIT_METRIC_COUNT, METRICS_MAX);
    for (uint32_t m = 0; m < count; m++) {
        double value = lb_read_f64(r);
        if (m >= LB_UNIT_METRIC_COUNT)
            continue;
        /* A unit without trained tokens has the neutral elements, which may be infinite. */
        if (isnan(value))
            return lb_fail(err, LB_ENUMERIC, "metrics", "%s is not a number", metrics[m].name);
        out->metrics[m] = value;
    }
    return LB_OK;
}

static lb_status read_gradient(lb_reader *r, lb_unit_result *out, lb_err *err)
{
    if (lb_reader_left(r) / sizeof(float) != out->elements ||
        lb_reader_left(r) % sizeof(float) != 0)
        return lb_fail(err, LB_EDATA, "gradient", "the frame holds %zu bytes for %llu elements",
                       lb_reader_left(r), (unsigned long long)out->elements);
    float *values = malloc(out->elements ? out->elements * sizeof *values : 1);
    if (!values)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a gradient");
    out->storage = values;
    out->gradient = values;
    for (uint64_t i = 0; i < out->elements; i++) {
        values[i] = lb_read_f32(r);
        if (!isfinite(values[i]))
            return lb_fail(err, LB_ENUMERIC, "gradient", "element %llu is not finite",
                           (unsigned long long)i);
    }
    return LB_OK;
}

lb_status lb_unit_result_decode(const uint8_t *bytes, size_t length, uint64_t expected_elements,
                                lb_unit_result *out, lb_err *err)
{
    lb_reader r = {.data = bytes, .length = length};
    lb_unit_result result = {0};
    const uint8_t *magic = lb_read_bytes(&r, 4);
    uint16_t version = lb_read_u16(&r), flags = lb_read_u16(&r);
    if (r.failed || memcmp(magic, "LBUG", 4) != 0)
        return lb_fail(err, LB_EDATA, "magic", "the frame does not begin with \"LBUG\"");
    if (version != VERSION || flags != 0)
        return lb_fail(err, LB_EUNSUPPORTED, "version", "version %u with flags %u is not known",
                       version, flags);
    result.step = lb_read_u32(&r);
    result.unit = lb_read_u32(&r);
    result.elements = lb_read_u64(&r);
    result.tokens = lb_read_u64(&r);
    if (r.failed)
        return lb_fail(err, LB_EDATA, "header", "the frame ends within its header");
    if (result.elements != expected_elements)
        return lb_fail(err, LB_EDATA, "elements", "the gradient has %llu elements, not %llu",
                       (unsigned long long)result.elements,
                       (unsigned long long)expected_elements);
    lb_status status = read_metrics(&r, &result, err);
    if (status == LB_OK)
        status = read_gradient(&r, &result, err);
    if (status == LB_OK)
        *out = result;
    else
        lb_unit_result_free(&result);
    return status;
}

void lb_unit_result_free(lb_unit_result *result)
{
    if (!result)
        return;
    free(result->storage);
    *result = (lb_unit_result){0};
}
