/* SPDX-License-Identifier: MIT */
/*
 * The alphabet of methods and field names.
 */
#ifndef FB_CORE_TOKEN_H
#define FB_CORE_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Returns whether c is a tchar, RFC 9110 5.6.2: letters, digits and !#$%&'*+-.^_`|~ */
static inline bool
fb_token_has(char c)
{
    /* A bit for each of the 128 characters of ASCII. */
    const uint64_t low = 0x3ff6cfa00000000;
    const uint64_t high = 0x57ffffffc7fffffe;
    unsigned char code = (unsigned char)c;
    return code < 128 && ((code < 64 ? low : high) >> (code % 64) & 1) != 0;
}

/* Returns whether the bytes are the word lower, which is in lower case, in any case. */
static inline bool
fb_token_is(const char *bytes, size_t len, const char *lower, size_t lower_len)
{
    if (len != lower_len) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        char c = bytes[i];
        if (c >= 'A' && c <= 'Z') {
            c = (char)(c + ('a' - 'A'));
        }
        if (c != lower[i]) {
            return false;
        }
    }
    return true;
}

#endif
