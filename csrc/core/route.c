/* SPDX-License-Identifier: MIT */
/*
 * Finding the queue of a request. Servers have few routes: they are looked at in turn.
 */
#include "core/route.h"

#include "core/target.h"

#include <llhttp.h>

bool
fb_route_read_method(const char *name, int *method)
{
    if (strcmp(name, "*") == 0) {
        *method = FB_ANY_METHOD;
        return true;
    }
    for (int i = HTTP_DELETE; i <= HTTP_QUERY; i++) {
        if (strcmp(llhttp_method_name((llhttp_method_t)i), name) == 0) {
            *method = i;
            return true;
        }
    }
    return false;
}

static uint32_t
find(const fb_route *routes, size_t n, int method, const char *path, size_t len)
{
    uint32_t queue = 0;
    for (size_t i = 0; i < n; i++) {
        const fb_route *route = &routes[i];
        if (route->path_len != len || memcmp(route->path, path, len) != 0) {
            continue;
        }
        if (route->method == method) {
            return route->queue;
        }
        if (route->method == FB_ANY_METHOD) {
            queue = route->queue;
        }
    }
    return queue;
}

uint32_t
fb_route_find(const fb_route *routes, size_t n, const char *message,
              const fb_request *req)
{
    const char *path = message + req->path.off;
    size_t len = req->path.len;
    if (n == 0 || memchr(path, '%', len) == NULL) {
        return find(routes, n, req->method, path, len);
    }
    char decoded[3 * FB_ROUTE_PATH_BYTES]; /* an escape is three times what it writes */
    if (len > sizeof(decoded)) {
        return 0;
    }
    len = fb_percent_decode(decoded, path, len);
    return find(routes, n, req->method, decoded, len);
}
