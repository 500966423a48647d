/* SPDX-License-Identifier: MIT */
/*
 * Routes: which requests go to a queue of their own, by method and path. Everything
 * else is of queue 0.
 */
#ifndef FB_CORE_ROUTE_H
#define FB_CORE_ROUTE_H

#include "core/request.h"

#define FB_ANY_METHOD (-1)

typedef struct fb_route {
    const char *path; /* percent-decoded; kept */
    size_t path_len;  /* bytes, 1..FB_ROUTE_PATH_BYTES */
    int method;       /* an llhttp_method_t, or FB_ANY_METHOD */
    uint32_t queue;
} fb_route;

/* Returns whether name, a string, is that of a method that a request can have, or "*";
 * then *method is what a route has. */
bool fb_route_read_method(const char *name, int *method);

/* Returns the queue of the route with the very method and path of req, or of one with
 * any method, or 0. Borrows message, the first byte of req's message. */
uint32_t fb_route_find(const fb_route *routes, size_t n, const char *message,
                       const fb_request *req);

#endif
