/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tensor/backend_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static lb_status open_isa(uint32_t threads, const char *isa, lb_backend **out, lb_err *err)
{
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

/* The fastest instruction set that agrees with the last, which is portable C. */
static lb_status open_best(uint32_t threads, lb_backend **out, lb_err *err)
{
    char wrong[64] = "";
    lb_backend *reference = NULL;
    size_t last = 0;
    while (lb_backend_isa(last + 1))
        last++;
    lb_status status = open_isa(1, lb_backend_isa(last), &reference, err);
    for (size_t i = 0; status == LB_OK && i <= last; i++) {
        lb_backend *backend = NULL;
        status = open_isa(threads, lb_backend_isa(i), &backend, err);
        if (status == LB_OK && (i == last || lb_backend_agrees(backend, reference))) {
            size_t length = strlen(backend->description);
            snprintf(backend->description + length, sizeof backend->description - length, "%s",
                     wrong);
            *out = backend;
            break;
        }
        size_t length = strlen(wrong);
        snprintf(wrong + length, sizeof wrong - length, "; %s is wrong here", lb_backend_isa(i));
        lb_backend_close(backend);
    }
    lb_backend_close(reference);
    return status;
}

lb_status lb_backend_open(const char *name, uint32_t threads, const char *isa, lb_backend **out,
                          lb_err *err)
{
    if (strcmp(name, "cpu") != 0)
        return lb_fail(err, LB_EUNSUPPORTED, "backend", "there is no backend '%.40s'", name);
    return isa ? open_isa(threads, isa, out, err) : open_best(threads, out, err);
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
