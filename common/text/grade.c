/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text/dataset.h"

#include <string.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool lb_grade_exact_numeric(const char *text, size_t length, const char *answer)
{
    if (answer == NULL)
        return false;
    size_t end = length;
    while (end > 0 && !is_digit(text[end - 1]))
        end--;
    size_t start = end;
    while (start > 0 && is_digit(text[start - 1]))
        start--;
    while (start < end && text[start] == '0')
        start++;
    while (*answer == '0')
        answer++;
    size_t wanted = strlen(answer);
    return wanted > 0 && wanted == end - start && memcmp(text + start, answer, wanted) == 0;
}
