/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void test_rows_are_complete_and_distinct(void **state)
{
    (void)state;
    for (int s = 0; s < LB_STATUS_COUNT; s++) {
        const char *name = lb_status_name((lb_status)s);
        assert_true(strlen(name) > 0);
        assert_int_equal(name[strspn(name, "abcdefghijklmnopqrstuvwxyz_")], '\0');
        assert_true(strlen(lb_status_text((lb_status)s)) > 0);
        assert_in_range(lb_status_http((lb_status)s), 200, 599);
        for (int other = 0; other < s; other++)
            assert_string_not_equal(name, lb_status_name((lb_status)other));
    }
    assert_string_equal(lb_status_name((lb_status)LB_STATUS_COUNT), "internal");
    assert_string_equal(lb_status_name((lb_status)-1), "internal");
}

static void test_from_http(void **state)
{
    static const struct {
        int code;
        lb_status status;
    } cases[] = {
        {200, LB_OK}, {202, LB_OK}, {299, LB_OK}, {400, LB_EINVAL}, {401, LB_EAUTH},
        {403, LB_EAUTH},
        {408, LB_ETIMEOUT},
        {404, LB_ENOTFOUND}, {405, LB_EMETHOD}, {409, LB_ECONFLICT}, {410, LB_EGONE},
        {413, LB_ETOOBIG}, {418, LB_EINVAL}, {429, LB_EBUSY}, {499, LB_ECANCELLED},
        {500, LB_EINTERNAL}, {502, LB_ENET}, {503, LB_EUNAVAILABLE}, {504, LB_ETIMEOUT},
        {507, LB_ENOSPACE}, {599, LB_EINTERNAL}, {301, LB_EINVAL}, {0, LB_EINVAL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(lb_status_from_http(cases[i].code), cases[i].status);
}

static void test_fail_fills_and_cuts(void **state)
{
    (void)state;
    lb_err err = {0};
    char longer[2 * LB_ERR_MESSAGE_MAX];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_int_equal(lb_fail(NULL, LB_EDATA, "field", "no %s", "detail"), LB_EDATA);
    assert_int_equal(lb_fail(&err, LB_EINVAL, "prompt", "token %d is below %u", -3, 7u),
                     LB_EINVAL);
    assert_int_equal(err.status, LB_EINVAL);
    assert_string_equal(err.field, "prompt");
    assert_string_equal(err.message, "token -3 is below 7");
    assert_int_equal(lb_fail(&err, LB_EIO, NULL, "plain"), LB_EIO);
    assert_string_equal(err.field, "");
    assert_int_equal(lb_fail(&err, LB_EIO, longer, "%s", longer), LB_EIO);
    assert_int_equal(strlen(err.field), LB_ERR_FIELD_MAX - 1);
    assert_int_equal(strlen(err.message), LB_ERR_MESSAGE_MAX - 1);
}

static void test_wrap_prefixes(void **state)
{
    (void)state;
    lb_err err = {0};
    char longer[2 * LB_ERR_MESSAGE_MAX];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    lb_fail(&err, LB_ENOTFOUND, "model", "it is gone");
    assert_int_equal(lb_err_wrap(&err, "row %d", 4), LB_ENOTFOUND);
    assert_string_equal(err.message, "row 4: it is gone");
    assert_string_equal(err.field, "model");
    assert_int_equal(lb_err_wrap(&err, "%s", longer), LB_ENOTFOUND);
    assert_int_equal(strlen(err.message), LB_ERR_MESSAGE_MAX - 1);
    assert_int_equal(lb_err_wrap(NULL, "row"), LB_EINTERNAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_complete_and_distinct),
        cmocka_unit_test(test_from_http),
        cmocka_unit_test(test_fail_fills_and_cuts),
        cmocka_unit_test(test_wrap_prefixes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
