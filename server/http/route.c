/* SPDX-License-Identifier: Apache-2.0 */
#include "server/http/http_impl.h"

#include <stdio.h>
#include <string.h>

/* Length of the segment at text, up to '/' or the end. */
static size_t segment(const char *text)
{
    return strcspn(text, "/");
}

static bool printable(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)text[i] <= 0x20 || (unsigned char)text[i] >= 0x7F)
            return false;
    }
    return true;
}

/* Whether path fits the row's pattern; parameters go to params. */
static bool matches(const char *pattern, const char *path,
                    char params[LB_HTTP_PARAMS_MAX][LB_HTTP_PARAM_BYTES])
{
    size_t param = 0;
    while (*pattern == '/' && *path == '/') {
        pattern++;
        path++;
        size_t want = segment(pattern), have = segment(path);
        if (*pattern == '{') {
            if (have == 0 || have >= LB_HTTP_PARAM_BYTES || param == LB_HTTP_PARAMS_MAX ||
                !printable(path, have))
                return false;
            memcpy(params[param], path, have);
            params[param++][have] = '\0';
        } else if (want != have || memcmp(pattern, path, have) != 0) {
            return false;
        }
        pattern += want;
        path += have;
    }
    return *pattern == '\0' && (*path == '\0' || strcmp(path, "/") == 0);
}

lb_status lb_route_find(lb_http *http, const char *method, const char *path, lb_request *request,
                        char allow[64])
{
    size_t used = 0;
    allow[0] = '\0';
    for (size_t i = 0; i < http->config.route_count; i++) {
        const lb_route *route = &http->config.routes[i];
        if (!matches(route->path, path, request->params))
            continue;
        if (strcmp(route->method, method) == 0) {
            request->route = route;
            return LB_OK;
        }
        int n = snprintf(allow + used, 64 - used, "%s%s", used ? ", " : "", route->method);
        used += n > 0 && (size_t)n < 64 - used ? (size_t)n : 0;
    }
    return used ? LB_EMETHOD : LB_ENOTFOUND;
}
