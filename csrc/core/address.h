/* SPDX-License-Identifier: MIT */
/*
 * The address of a peer: IPv4 or IPv6 with a port, or none.
 */
#ifndef FB_CORE_ADDRESS_H
#define FB_CORE_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <sys/socket.h>

typedef enum fb_family {
    FB_FAMILY_NONE, /* a unix socket's: the rest is zero */
    FB_FAMILY_V4,
    FB_FAMILY_V6,
} fb_family;

/* There is no padding in it: two are the same when their bytes are. */
typedef struct fb_address {
    uint8_t bytes[16]; /* in network order; of IPv4 the first four, the rest zero */
    uint16_t port;     /* 0: not known */
    uint16_t family;   /* an fb_family */
} fb_address;

/* Bytes: the longest text of an address, its end included. */
#define FB_ADDRESS_TEXT_BYTES 46

static inline bool
fb_address_equals(const fb_address *a, const fb_address *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}

/* Returns the address in from. Borrows from. */
fb_address fb_address_of(const struct sockaddr *from);

/* Make an address of family from bytes in network order: 4 or 16. Borrows bytes. */
fb_address fb_address_make(fb_family family, const void *bytes, uint16_t port);

/* Read an address without a port: four decimal numbers, or RFC 4291 2.2, no zone.
 * Borrows text. Returns whether it is one. */
bool fb_address_parse(fb_address *to, const char *text, size_t len);

/* Read a port, 0 to 65535 without leading zeros. Borrows text. Returns whether it is
 * one. */
bool fb_port_parse(uint16_t *to, const char *text, size_t len);

/* Write the address without its port, a string; of no family an empty one. */
void fb_address_write(const fb_address *address, char text[FB_ADDRESS_TEXT_BYTES]);

#endif
