/* SPDX-License-Identifier: MIT */
/*
 * Taking a request-target apart, RFC 9112 3.2 and RFC 3986. Nothing is decoded here.
 */
#include "core/target.h"

#include <arpa/inet.h>

#define PORT_MOST 65535 /* of TCP */

static bool
is_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool
is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* unreserved and sub-delims, RFC 3986 2.3 and 2.2. */
static bool
is_name_char(char c)
{
    return is_alpha(c) || is_digit(c) || c == '.' || c == '-' ||
           (c != '\0' && strchr("_~!$&'()*+,;=", c) != NULL);
}

/* A reg-name, RFC 3986 3.2.2; returns its length. */
static size_t
skip_reg_name(const char *bytes, size_t len)
{
    size_t i = 0;
    while (i < len && (is_name_char(bytes[i]) || bytes[i] == '%')) {
        if (bytes[i] == '%' &&
            (len - i < 3 || !is_hex(bytes[i + 1]) || !is_hex(bytes[i + 2]))) {
            break;
        }
        i++;
    }
    return i;
}

/* "v" 1*HEXDIG "." 1*( unreserved / sub-delims / ":" ), RFC 3986 3.2.2. */
static bool
is_ip_future(const char *bytes, size_t len)
{
    size_t i = 1;
    while (i < len && is_hex(bytes[i])) {
        i++;
    }
    if ((bytes[0] | 0x20) != 'v' || i == 1 || len - i < 2 || bytes[i] != '.') {
        return false;
    }
    for (i++; i < len; i++) {
        if (!is_name_char(bytes[i]) && bytes[i] != ':') {
            return false;
        }
    }
    return true;
}

/* An address without a zone, which has a meaning on the client's machine alone. */
static bool
is_ipv6(const char *bytes, size_t len)
{
    char text[INET6_ADDRSTRLEN];
    struct in6_addr address;
    if (len >= sizeof(text) || memchr(bytes, '\0', len) != NULL) {
        return false;
    }
    memcpy(text, bytes, len);
    text[len] = '\0';
    return inet_pton(AF_INET6, text, &address) == 1;
}

/* "[" address "]"; returns its length, or 0 when it is not closed or no address. */
static size_t
skip_ip_literal(const char *bytes, size_t len)
{
    const char *end = memchr(bytes, ']', len);
    size_t inner = end != NULL ? (size_t)(end - bytes) - 1 : 0;
    if (inner == 0 || (!is_ipv6(bytes + 1, inner) && !is_ip_future(bytes + 1, inner))) {
        return 0;
    }
    return inner + 2;
}

/* Digits, maybe none; a number that no port has would be an exception in the handler
 * that looks at it. */
static bool
is_port(const char *bytes, size_t len)
{
    uint32_t port = 0;
    for (size_t i = 0; i < len; i++) {
        if (!is_digit(bytes[i])) {
            return false;
        }
        port = port * 10 + (uint32_t)(bytes[i] - '0');
        if (port > PORT_MOST) {
            return false;
        }
    }
    return true;
}

bool
fb_host_is_valid(const char *bytes, size_t len)
{
    if (len == 0) {
        return true;
    }
    size_t i =
        bytes[0] == '[' ? skip_ip_literal(bytes, len) : skip_reg_name(bytes, len);
    if (i == 0) {
        return false; /* a port without a host, RFC 9110 4.2.1, or no host at all */
    }
    return i == len || (bytes[i] == ':' && is_port(bytes + i + 1, len - i - 1));
}

/* Cut at the first "?"; returns false at a byte that no target may hold. Only what is
 * printable ASCII passes; a fragment is never sent, RFC 9112 3.2. */
static bool
split_path(const char *message, fb_request *req, fb_span rest)
{
    req->path = rest;
    req->query = (fb_span){rest.off + rest.len, 0};
    const char *bytes = message + rest.off;
    bool in_query = false;
    for (uint32_t i = 0; i < rest.len; i++) {
        if (bytes[i] <= ' ' || bytes[i] >= 0x7f || bytes[i] == '#') {
            return false;
        }
        if (bytes[i] == '?' && !in_query) {
            in_query = true;
            req->path.len = i;
            req->query = (fb_span){rest.off + i + 1, rest.len - i - 1};
        }
    }
    return true;
}

/* ALPHA *( ALPHA / DIGIT / "+" / "-" / "." ), RFC 3986 3.1. */
static uint32_t
skip_scheme(const char *bytes, uint32_t len)
{
    uint32_t i = 0;
    while (i < len &&
           (is_alpha(bytes[i]) || (i > 0 && (is_digit(bytes[i]) || bytes[i] == '+' ||
                                             bytes[i] == '-' || bytes[i] == '.')))) {
        i++;
    }
    return i;
}

/* What we serve are http URIs, and https ones for a gateway that has ended TLS. */
static bool
is_http_scheme(const char *scheme, uint32_t len)
{
    static const char https[] = "https";
    if (len != 4 && len != 5) {
        return false;
    }
    for (uint32_t i = 0; i < len; i++) {
        if ((scheme[i] | 0x20) != https[i]) {
            return false;
        }
    }
    return true;
}

/* scheme "://" authority path-abempty [ "?" query ]; no user information, which RFC
 * 9110 4.2.4 has us treat as an error. */
static fb_target_form
parse_absolute(const char *message, fb_request *req, fb_span *authority)
{
    const char *bytes = message + req->target.off;
    uint32_t len = req->target.len;
    uint32_t i = skip_scheme(bytes, len);
    if (i == 0 || len - i < 3 || memcmp(bytes + i, "://", 3) != 0) {
        return FB_TARGET_BAD;
    }
    uint32_t begin = i + 3;
    uint32_t end = begin;
    while (end < len && bytes[end] != '/' && bytes[end] != '?') {
        end++;
    }
    if (end == begin || !fb_host_is_valid(bytes + begin, end - begin)) {
        return FB_TARGET_BAD;
    }
    *authority = (fb_span){req->target.off + begin, end - begin};
    fb_span rest = {req->target.off + end, len - end};
    if (!split_path(message, req, rest)) {
        return FB_TARGET_BAD;
    }
    if (req->path.len == 0) {
        /* An empty path is "/", RFC 9110 4.2.3: point to the one before the authority.
         * */
        req->path = (fb_span){authority->off - 1, 1};
    }
    return is_http_scheme(bytes, i) ? FB_TARGET_ABSOLUTE : FB_TARGET_FOREIGN;
}

fb_target_form
fb_target_parse(const char *message, fb_request *req, bool is_options,
                fb_span *authority)
{
    const char *bytes = message + req->target.off;
    if (req->target.len == 0) {
        return FB_TARGET_BAD;
    }
    if (bytes[0] == '/') {
        return split_path(message, req, req->target) ? FB_TARGET_ORIGIN : FB_TARGET_BAD;
    }
    if (bytes[0] == '*') {
        req->path = req->target;
        req->query = (fb_span){req->target.off + 1, 0};
        return req->target.len == 1 && is_options ? FB_TARGET_ASTERISK : FB_TARGET_BAD;
    }
    return parse_absolute(message, req, authority);
}

/* ---- percent-encoding ------------------------------------------------------------ */

/* Returns the value of a hexadecimal digit, or -1. */
static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t
fb_percent_decode(char *to, const char *from, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (from[i] == '%' && i + 2 < len) {
            int high = hex_digit(from[i + 1]);
            int low = hex_digit(from[i + 2]);
            if (high >= 0 && low >= 0) {
                to[n++] = (char)(high * 16 + low);
                i += 2;
                continue;
            }
        }
        to[n++] = from[i];
    }
    return n;
}
