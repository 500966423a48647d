/* SPDX-License-Identifier: MIT */
/*
 * Reading PROXY headers. Each call begins anew: the header is short, and mostly comes
 * in one piece.
 */
#include "core/proxy.h"

#include "core/limits.h"

/* Returns whether the bytes are those of word, as far as there are any. */
static bool
begins_as(const char *bytes, size_t len, const char *word, size_t word_len)
{
    return memcmp(bytes, word, len < word_len ? len : word_len) == 0;
}

/* ---- version 1, section 2.1: a line ---------------------------------------------- */

typedef struct line {
    const char *at;
    const char *end;
    bool is_over; /* the last word was taken */
} line;

/* Take the next word, which may be empty: words are parted by one space each. */
static bool
next_word(line *rest, const char **word, size_t *len)
{
    if (rest->is_over) {
        return false;
    }
    size_t left = (size_t)(rest->end - rest->at);
    const char *space = memchr(rest->at, ' ', left);
    *word = rest->at;
    *len = space != NULL ? (size_t)(space - rest->at) : left;
    rest->is_over = space == NULL;
    rest->at += *len + (space != NULL ? 1 : 0);
    return true;
}

static bool
next_address(line *rest, fb_family family, fb_address *address)
{
    const char *word;
    size_t len;
    return next_word(rest, &word, &len) && fb_address_parse(address, word, len) &&
           address->family == family;
}

static bool
next_port(line *rest, uint16_t *port)
{
    const char *word;
    size_t len;
    return next_word(rest, &word, &len) && fb_port_parse(port, word, len);
}

/* Two addresses and two ports, of which the first are the client's. */
static bool
parse_ends(line *rest, fb_family family, fb_address *client)
{
    fb_address server;
    uint16_t client_port;
    uint16_t server_port;
    if (!next_address(rest, family, client) || !next_address(rest, family, &server) ||
        !next_port(rest, &client_port) || !next_port(rest, &server_port)) {
        return false;
    }
    client->port = client_port;
    return rest->is_over;
}

/* What follows "PROXY ". Behind UNKNOWN anything may stand, to be ignored. */
static bool
parse_line(line *rest, fb_proxy *proxy)
{
    const char *word;
    size_t len;
    if (!next_word(rest, &word, &len)) {
        return false;
    }
    if (len == 7 && memcmp(word, "UNKNOWN", 7) == 0) {
        proxy->origin = FB_PROXY_UNKNOWN;
        return true;
    }
    proxy->origin = FB_PROXY_CLIENT;
    if (len == 4 && memcmp(word, "TCP4", 4) == 0) {
        return parse_ends(rest, FB_FAMILY_V4, &proxy->client);
    }
    if (len == 4 && memcmp(word, "TCP6", 4) == 0) {
        return parse_ends(rest, FB_FAMILY_V6, &proxy->client);
    }
    return false;
}

/* Returns how many printable characters of ASCII the bytes begin with. */
static size_t
skip_printable(const char *bytes, size_t len)
{
    size_t i = 0;
    while (i < len && bytes[i] >= ' ' && bytes[i] < 0x7f) {
        i++;
    }
    return i;
}

static fb_proxy_verdict
parse_v1(const char *bytes, size_t len, fb_proxy *proxy)
{
    size_t most = len < FB_PROXY_LINE_BYTES ? len : FB_PROXY_LINE_BYTES;
    size_t end = skip_printable(bytes, most);
    if (!begins_as(bytes + end, most - end, "\r\n", 2)) {
        return FB_PROXY_BAD;
    }
    if (most - end < 2) {
        return len < FB_PROXY_LINE_BYTES ? FB_PROXY_MORE : FB_PROXY_BAD;
    }
    line rest = {.at = bytes + strlen("PROXY "), .end = bytes + end};
    proxy->len = end + 2;
    return parse_line(&rest, proxy) ? FB_PROXY_DONE : FB_PROXY_BAD;
}

/* ---- version 2, section 2.2: bytes ----------------------------------------------- */

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define SIGNATURE_BYTES 12
#define FIXED_BYTES 16 /* signature, version and command, family, length */

enum {
    COMMAND_LOCAL = 0x20, /* with the version */
    COMMAND_PROXY = 0x21,
    FAMILY_UNSPEC = 0, /* the upper half of its byte */
    FAMILY_INET = 1,
    FAMILY_INET6 = 2,
    FAMILY_UNIX = 3,
    TRANSPORT_UNSPEC = 0, /* the lower half */
    TRANSPORT_DGRAM = 2,
    TYPE_SSL = 0x20,   /* section 2.2.6 */
    SSL_BYTES = 5,     /* of its value, vectors of its own not counted */
    CLIENT_SSL = 0x01, /* in the first of them */
};

static size_t
number_at(const uint8_t *at)
{
    return (size_t)at[0] << 8 | at[1];
}

/* Type, length of two bytes, value; the last ends where the header does. */
static bool
read_vectors(const uint8_t *at, size_t len, bool *is_https)
{
    while (len >= 3 && number_at(at + 1) <= len - 3) {
        size_t value_len = number_at(at + 1);
        if (at[0] == TYPE_SSL) {
            if (value_len < SSL_BYTES) {
                return false;
            }
            *is_https = (at[3] & CLIENT_SSL) != 0;
        }
        at += 3 + value_len;
        len -= 3 + value_len;
    }
    return len == 0;
}

/* The block behind the fixed bytes, of a client of which something may be known. */
static bool
parse_block(uint8_t family, const uint8_t *block, size_t len, fb_proxy *proxy)
{
    size_t ends_len = 0; /* of both addresses and ports */
    switch (family >> 4) {
    case FAMILY_INET:
        ends_len = 12;
        break;
    case FAMILY_INET6:
        ends_len = 36;
        break;
    case FAMILY_UNIX:
        ends_len = 216;
        break;
    default:
        break;
    }
    if (len < ends_len ||
        !read_vectors(block + ends_len, len - ends_len, &proxy->is_https)) {
        return false;
    }
    proxy->origin = FB_PROXY_CLIENT;
    if (family >> 4 == FAMILY_INET) {
        uint16_t port = (uint16_t)number_at(block + 8);
        proxy->client = fb_address_make(FB_FAMILY_V4, block, port);
    } else if (family >> 4 == FAMILY_INET6) {
        uint16_t port = (uint16_t)number_at(block + 32);
        proxy->client = fb_address_make(FB_FAMILY_V6, block, port);
    } else {
        proxy->client = (fb_address){.family = FB_FAMILY_NONE};
    }
    return true;
}

static bool
is_family_listed(uint8_t family)
{
    return family >> 4 <= FAMILY_UNIX && (family & 0xf) <= TRANSPORT_DGRAM;
}

/* The fixed bytes, as far as they are here; that a datagram's client speaks is for
 * proxies of HTTP/3 to say. */
static bool
are_fixed_bytes(const uint8_t *header, size_t len)
{
    if (len > 12 && header[12] != COMMAND_LOCAL && header[12] != COMMAND_PROXY) {
        return false;
    }
    if (len > 13 && header[12] == COMMAND_PROXY && !is_family_listed(header[13])) {
        return false;
    }
    return len < FIXED_BYTES ||
           FIXED_BYTES + number_at(header + 14) <= FB_PROXY_HEADER_BYTES;
}

static fb_proxy_verdict
parse_v2(const uint8_t *header, size_t len, fb_proxy *proxy)
{
    if (!are_fixed_bytes(header, len)) {
        return FB_PROXY_BAD;
    }
    if (len < FIXED_BYTES || len < FIXED_BYTES + number_at(header + 14)) {
        return FB_PROXY_MORE;
    }
    uint8_t family = header[13];
    size_t block_len = number_at(header + 14);
    proxy->len = FIXED_BYTES + block_len;
    if (header[12] == COMMAND_LOCAL) {
        proxy->origin = FB_PROXY_LOCAL; /* the rest is to be discarded unread */
        return FB_PROXY_DONE;
    }
    if (family >> 4 == FAMILY_UNSPEC || (family & 0xf) == TRANSPORT_UNSPEC) {
        proxy->origin = FB_PROXY_UNKNOWN;
        return FB_PROXY_DONE;
    }
    bool ok = parse_block(family, header + FIXED_BYTES, block_len, proxy);
    return ok ? FB_PROXY_DONE : FB_PROXY_BAD;
}

fb_proxy_verdict
fb_proxy_parse(const char *bytes, size_t len, fb_proxy *proxy)
{
    if (len == 0) {
        return FB_PROXY_MORE;
    }
    proxy->is_https = false;
    if (begins_as(bytes, len, "PROXY ", 6)) {
        return len < 6 ? FB_PROXY_MORE : parse_v1(bytes, len, proxy);
    }
    if (begins_as(bytes, len, SIGNATURE, SIGNATURE_BYTES)) {
        return parse_v2((const uint8_t *)bytes, len, proxy);
    }
    return FB_PROXY_BAD;
}
