/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/backend_impl.h"

#include <stdlib.h>
#include <string.h>

lb_status lb_backend_open(const char *name, uint32_t threads, const char *isa, lb_backend **out,
                          lb_err *err)
{
    if (strcmp(name, "cpu") != 0)
        return lb_fail(err, LB_EUNSUPPORTED, "backend", "there is no backend '%.40s'", name);
    lb_backend *backend = calloc(1, sizeof *backend);
    if (!backend)
        return lb_fail(err, LB_ENOMEM, NULL, "no memory for a backend");
    lb_status status = lb_cpu_open(threads, isa, backend, err);
    if (status != LB_OK) {
        free(backend);
        return status;
    }
    *out = backend;
    return LB_OK;
}

void lb_backend_close(lb_backend *backend)
{
    if (!backend)
        return;
    backend->table->close(backend->self);
    free(backend);
}

uint32_t lb_backend_threads(const lb_backend *backend)
{
    return backend->table->threads(backend->self);
}

lb_status lb_backend_limits(lb_backend *backend, lb_limits *out, lb_err *err)
{
    lb_status status = backend->table->limits(backend->self, out);
    return status == LB_OK ? LB_OK
                           : lb_fail(err, status, NULL, "no memory to measure the machine with");
}

const char *lb_backend_describe(const lb_backend *backend)
{
    return backend->description;
}
