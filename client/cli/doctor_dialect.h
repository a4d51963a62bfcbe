/* SPDX-License-Identifier: Apache-2.0
 *
 * The spellings in which a teacher is asked for the logprobs of a prompt, as a table of rows.
 */
#ifndef LB_CLIENT_CLI_DOCTOR_DIALECT_H
#define LB_CLIENT_CLI_DOCTOR_DIALECT_H

#include "client/cli/doctor.h"

typedef struct lb_dialect_row {
    const char *name, *path;
    bool temperature;          /* a request has one */
    void (*write)(lb_jsonw *w, const lb_peer *peer, const lb_probe *probe);
    /* Fills out[probe->count], made for the prompts, with their values at NaN. LB_EDATA. */
    lb_status (*read)(const lb_json *reply, const lb_probe *probe, lb_scores *out, lb_err *err);
} lb_dialect_row;

const lb_dialect_row *lb_dialect_get(lb_dialect dialect);

#endif
