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

/* At most 20 digits. */
static inline char *
fb_pen_number(char *at, uint64_t number)
{
    char digits[20];
    size_t i = sizeof(digits);
    do {
        digits[--i] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    return fb_pen_bytes(at, digits + i, sizeof(digits) - i);
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

#endif
