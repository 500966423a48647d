/* SPDX-License-Identifier: MIT */
/*
 * X-Forwarded-For and X-Forwarded-Proto, of a peer that is to be believed.
 *
 * X-Forwarded-For is one list over all its fields, to which every proxy appends whom it
 * heard. Read from the right, the first that is not trusted is the client: what stands
 * left of it the client may have made up. When all are trusted, it is the leftmost.
 * Elements are addresses with an optional port; empty ones do not count, RFC 9110
 * 5.6.1.2; any other that is reached is an error.
 *
 * X-Forwarded-Proto is one field, "http" or "https". In a list nobody could say which
 * of them is the client's.
 */
#ifndef FB_CORE_FORWARDED_H
#define FB_CORE_FORWARDED_H

#include "core/request.h"
#include "core/trust.h"

typedef struct fb_forwarded {
    bool has_client;
    bool has_scheme;
    bool is_https;     /* if it has_scheme */
    fb_address client; /* if it has_client */
} fb_forwarded;

/* Read the fields of req, whose message begins at message. Borrows all. Returns false
 * when they are malformed: 400. */
bool fb_forwarded_read(const fb_trust *trust, const char *message,
                       const fb_request *req, fb_forwarded *forwarded);

#endif
