/* SPDX-License-Identifier: MIT */
/*
 * One request, as spans of the bytes that it came in: data, no behaviour.
 *
 * Offsets count from the first byte of the message, so that a request stays good when
 * the bytes move as a whole.
 */
#ifndef FB_CORE_REQUEST_H
#define FB_CORE_REQUEST_H

#include "core/limits.h"

#include <stdbool.h>
#include <string.h>

typedef struct fb_span {
    uint32_t off; /* bytes from the message's first byte */
    uint32_t len; /* bytes */
} fb_span;

typedef struct fb_header {
    fb_span name;  /* as sent */
    fb_span value; /* without the white space around it */
} fb_header;

typedef struct fb_request {
    size_t start;       /* offset of the message's first byte in the input buffer */
    fb_span target;     /* the request-target, RFC 9112 3.2 */
    fb_span path;       /* its path, still percent-encoded, never empty; or "*" */
    fb_span query;      /* what follows its first "?"; may be empty */
    fb_span body;       /* decoded of any chunking, in one piece */
    uint64_t n_spooled; /* bytes of it put elsewhere; in a slot all or none are */
    uint8_t method;     /* an llhttp_method_t */
    uint8_t minor;      /* HTTP/1.minor: 0 or 1 */
    bool is_head;       /* HEAD: the reply has no body */
    bool keep_alive;    /* the connection may go on after the reply */
    bool is_https;      /* its client speaks HTTPS to a proxy that is trusted */
    uint16_t n_headers; /* of headers, in use */
    uint16_t n_dropped; /* fields left out: their names hold an underscore */
    fb_header headers
        [FB_HEADERS_BOUND]; /* last, so that a copy can leave off what is unused */
} fb_request;

/* Copy what is in use of one request to another. */
static inline void
fb_request_copy(fb_request *to, const fb_request *from)
{
    memcpy(to, from,
           offsetof(fb_request, headers) + from->n_headers * sizeof(fb_header));
}

#endif
