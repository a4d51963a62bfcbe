/* SPDX-License-Identifier: Apache-2.0
 *
 * What the system tells of this process.
 */
#ifndef LB_COMMON_BASE_PROCESS_H
#define LB_COMMON_BASE_PROCESS_H

/* Resident bytes, 0 when /proc does not tell. */
double lb_resident_bytes(void);

#endif
