/* SPDX-License-Identifier: MIT */
/*
 * A pen: bytes into room that is already there. Each returns the place behind what it
 * has written.
 */
#ifndef FB_CORE_PEN_H
#define FB_CORE_PEN_H

#include <stdint.h>
#include <string.h>

static inline char *
fb_pen_bytes(char *at, const char *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}

static inline char *
fb_pen_text(char *at, const char *text)
{
    return fb_pen_bytes(at, text, strlen(text));
}

/* The last n digits, leading zeros included. */
static inline char *
fb_pen_digits(char *at, uint64_t number, size_t n)
{
    for (size_t i = n; i > 0; i--) {
        at[i - 1] = (char)('0' + number % 10);
        number /= 10;
    }
    return at + n;
}

/* At most 20 digits. */
static inline char *
fb_pen_number(char *at, uint64_t number)
{
    size_t n = 1;
    for (uint64_t left = number; left >= 10; left /= 10) {
        n++;
    }
    return fb_pen_digits(at, number, n);
}

#endif
