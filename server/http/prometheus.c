/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/http.h"

#include <math.h>

void lb_prometheus_header(lb_buf *out, const char *name, const char *type, const char *help)
{
    lb_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void lb_prometheus_sample(lb_buf *out, const char *name, const char *labels, double value)
{
    lb_buf_printf(out, "%s%s%s%s ", name, labels ? "{" : "", labels ? labels : "",
                  labels ? "}" : "");
    if (isnan(value))
        lb_buf_puts(out, "NaN\n");
    else if (isinf(value))
        lb_buf_puts(out, value > 0 ? "+Inf\n" : "-Inf\n");
    else
        lb_buf_printf(out, "%.17g\n", value);
}
