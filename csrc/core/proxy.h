/* SPDX-License-Identifier: MIT */
/*
 * The header of the PROXY protocol, versions 1 and 2, that a proxy sends before the
 * first byte of its client: who that client is.
 *
 * The specification is HAProxy's doc/proxy-protocol.txt; section numbers are its.
 */
#ifndef FB_CORE_PROXY_H
#define FB_CORE_PROXY_H

#include "core/address.h"

typedef enum fb_proxy_verdict {
    FB_PROXY_MORE, /* a header may still become of it */
    FB_PROXY_DONE,
    FB_PROXY_BAD, /* whatever follows: it is none */
} fb_proxy_verdict;

typedef enum fb_proxy_origin {
    FB_PROXY_LOCAL,   /* the proxy speaks for itself */
    FB_PROXY_UNKNOWN, /* for somebody of whom it says nothing */
    FB_PROXY_CLIENT,  /* for client */
} fb_proxy_origin;

typedef struct fb_proxy {
    size_t len; /* bytes of the header */
    fb_proxy_origin origin;
    fb_address client; /* of no family: it came by a unix socket */
    bool is_https;     /* the client speaks TLS to the proxy; version 2 can tell */
} fb_proxy;

/* Judge the len bytes that a connection began with. Whatever the split, the verdict is
 * the same. Borrows bytes. Returns it, and with FB_PROXY_DONE what the header says. */
fb_proxy_verdict fb_proxy_parse(const char *bytes, size_t len, fb_proxy *proxy);

#endif
