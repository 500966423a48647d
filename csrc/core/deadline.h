/* SPDX-License-Identifier: MIT */
/*
 * How long a client waits, by a field of its request: a decimal number of seconds, or
 * of milliseconds.
 */
#ifndef FB_CORE_DEADLINE_H
#define FB_CORE_DEADLINE_H

#include "core/request.h"

typedef struct fb_deadline {
    const char *name; /* of the field, in lower case; kept; "" for none */
    size_t name_len;  /* bytes */
    uint64_t unit_ns; /* of its number */
} fb_deadline;

/* Keeps name, a string in lower case. The number is in milliseconds if it ends with
 * "-ms". */
void fb_deadline_init(fb_deadline *deadline, const char *name);

/* Returns nanoseconds; UINT64_MAX when there is no such field, or none that is a
 * number. Of several the shortest counts. Borrows message, the first byte of req's
 * message. */
uint64_t fb_deadline_read(const fb_deadline *deadline, const char *message,
                          const fb_request *req);

#endif
