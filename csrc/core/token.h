/* SPDX-License-Identifier: MIT */
/*
 * The alphabet of methods and field names.
 */
#ifndef FB_CORE_TOKEN_H
#define FB_CORE_TOKEN_H

#include <stdbool.h>
#include <string.h>

/* Returns whether c is a tchar, RFC 9110 5.6.2. */
static inline bool
fb_token_has(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

#endif
