/* SPDX-License-Identifier: MIT */
/*
 * The one table of status codes.
 */
#ifndef FB_CORE_STATUS_H
#define FB_CORE_STATUS_H

#include <stdbool.h>

#define FB_STATUS_MIN 200 /* the lowest that a handler may give: 1xx are the server's */
#define FB_STATUS_MAX 599

/* Returns the reason phrase of a status, RFC 9110 15 and the IANA registry, or "" for
 * one that has none. Static. */
const char *fb_status_reason(int status);

/* Returns whether a reply of that status may have a body, RFC 9110 6.4.1. */
bool fb_status_has_body(int status);

#endif
