/* SPDX-License-Identifier: MIT */
/*
 * Addresses as text and as the system has them.
 */
#include "core/address.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>

static_assert(sizeof(fb_address) == 20, "addresses are compared as bytes");
static_assert(FB_ADDRESS_TEXT_BYTES >= INET6_ADDRSTRLEN, "the longest text has room");

fb_address
fb_address_make(fb_family family, const void *bytes, uint16_t port)
{
    fb_address address = {.port = port, .family = (uint16_t)family};
    memcpy(address.bytes, bytes, family == FB_FAMILY_V4 ? 4 : 16);
    return address;
}

fb_address
fb_address_of(const struct sockaddr *from)
{
    if (from->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, from, sizeof(v4));
        return fb_address_make(FB_FAMILY_V4, &v4.sin_addr, ntohs(v4.sin_port));
    }
    if (from->sa_family == AF_INET6) {
        struct sockaddr_in6 v6;
        memcpy(&v6, from, sizeof(v6));
        return fb_address_make(FB_FAMILY_V6, &v6.sin6_addr, ntohs(v6.sin6_port));
    }
    return (fb_address){.family = FB_FAMILY_NONE};
}

bool
fb_address_parse(fb_address *to, const char *text, size_t len)
{
    char string[FB_ADDRESS_TEXT_BYTES];
    uint8_t bytes[16];
    if (len == 0 || len >= sizeof(string) || memchr(text, '\0', len) != NULL) {
        return false;
    }
    memcpy(string, text, len);
    string[len] = '\0';
    if (inet_pton(AF_INET, string, bytes) == 1) {
        *to = fb_address_make(FB_FAMILY_V4, bytes, 0);
        return true;
    }
    if (inet_pton(AF_INET6, string, bytes) == 1) {
        *to = fb_address_make(FB_FAMILY_V6, bytes, 0);
        return true;
    }
    return false;
}

bool
fb_port_parse(uint16_t *to, const char *text, size_t len)
{
    uint32_t port = 0;
    if (len == 0 || len > 5 || (len > 1 && text[0] == '0')) {
        return false;
    }
    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return false;
        }
        port = port * 10 + (uint32_t)(text[i] - '0');
    }
    *to = (uint16_t)port;
    return port <= UINT16_MAX;
}

void
fb_address_write(const fb_address *address, char text[FB_ADDRESS_TEXT_BYTES])
{
    int family = address->family == FB_FAMILY_V4 ? AF_INET : AF_INET6;
    text[0] = '\0';
    if (address->family != FB_FAMILY_NONE) {
        (void)inet_ntop(family, address->bytes, text, FB_ADDRESS_TEXT_BYTES);
    }
}
