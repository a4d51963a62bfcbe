/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests share beside cmocka: a comparison of reals (Debian's cmocka has one for f32 only).
 */
#ifndef LB_TESTS_CHECK_H
#define LB_TESTS_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* |got - want| <= tolerance; a NaN on either side fails, and both values are printed. */
#define assert_close(got, want, tolerance)                                                      \
    do {                                                                                        \
        double got_ = (double)(got), want_ = (double)(want), tolerance_ = (double)(tolerance);  \
        if (!(fabs(got_ - want_) <= tolerance_))                                                \
            fail_msg("%s is %.9g, not %.9g within %.3g", #got, got_, want_, tolerance_);        \
    } while (0)

#endif
